//! The partitions that a group member has: which records are under way, what is fetched again, what may be committed.
//!
//! Knows offsets and bytes. Does not know Kafka's client, nor what a record holds.
//! Path: `consumer` -> **here** <- the tickets of records.
//! L1: a record is handed out once at a time, and never again once it is finished. L2: what is committed is the first
//! offset that is not finished. L3: a record that was seen and not taken makes the partition go back to it.
//! Cost: an entry of 24 bytes for each record between the first that is not finished and the last that was taken, at
//! most 65,536 of a partition.

use super::{Place, Settle};
use parking_lot::{Condvar, Mutex};
use quorate_model::Clock;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One partition takes at most this part of the room.
const LANE_PART: usize = 4;
/// Records between the first that is not finished and the last that was taken, at most.
const MAX_ENTRIES: usize = 65_536;
/// Times that a record is looked for before it counts as deleted.
const MAX_LOOKS: u32 = 3;

/// Name and number of a partition.
pub(super) type Name = (Arc<str>, i32);

/// A record that was polled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) offset: i64,
    pub(super) timestamp_ms: Option<i64>,
    pub(super) bytes: usize,
}

/// What to do with a polled record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Hand it out.
    Take(Place),
    /// Drop it; it is known, or will be fetched again.
    Drop,
}

/// What to tell the consumer about a partition.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Fetch nothing of it.
    Pause,
    /// Fetch it, from this offset if one is given.
    Go(Option<i64>),
}

/// How far a partition is behind.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) name: Name,
    /// First offset that is not finished.
    pub(super) next: Option<i64>,
    /// Time of the oldest record that is not finished; of the last finished one if none is under way.
    pub(super) time_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Taken,
    Begun,
    Done,
    /// To be fetched again.
    Wanted,
}

#[derive(Debug)]
struct Entry {
    offset: i64,
    timestamp_ms: i64,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing is fetched until then.
    Waiting(Instant),
    /// The record that had to wait is tried, and nothing beside it.
    Trying,
}

#[derive(Debug)]
struct Lane {
    assignment: u64,
    /// The offset behind the last record that was taken; `None` until one was seen.
    next: Option<i64>,
    /// In the order of offsets; the first one is not done.
    entries: VecDeque<Entry>,
    /// Entries to be fetched again.
    wanted: usize,
    bytes: usize,
    phase: Phase,
    is_full: bool,
    is_paused: bool,
    /// A record was seen and not taken.
    must_seek: bool,
    is_leaving: bool,
    looks: u32,
    committed: Option<i64>,
    finished_ms: Option<i64>,
}

#[derive(Debug, Default)]
struct State {
    lanes: HashMap<Name, Lane>,
    assignments: u64,
    used: usize,
    is_full: bool,
    /// Whether something is to be told to the consumer before it polls again.
    has_orders: bool,
    /// Records that were deleted before they could be taken again.
    lost: u64,
}

/// See the module header.
pub(super) struct Lanes {
    state: Mutex<State>,
    settled: Condvar,
    max_bytes: usize,
    clock: Arc<dyn Clock>,
}

impl Lane {
    fn new(assignment: u64) -> Self {
        Self {
            assignment,
            next: None,
            entries: VecDeque::new(),
            wanted: 0,
            bytes: 0,
            phase: Phase::Open,
            is_full: false,
            is_paused: false,
            must_seek: false,
            is_leaving: false,
            looks: 0,
            committed: None,
            finished_ms: None,
        }
    }

    fn wanted(&self) -> Option<i64> {
        if self.wanted == 0 {
            return None;
        }
        self.entries.iter().find(|entry| entry.stage == Stage::Wanted).map(|entry| entry.offset)
    }

    /// Where fetching goes on.
    fn position(&self) -> Option<i64> {
        self.wanted().or(self.next)
    }

    fn first_unfinished(&self) -> Option<i64> {
        self.entries.front().map(|entry| entry.offset).or(self.next)
    }

    fn stage(&self, offset: i64) -> Option<Stage> {
        let at = self.entries.binary_search_by_key(&offset, |entry| entry.offset).ok()?;
        Some(self.entries[at].stage)
    }

    fn set(&mut self, offset: i64, stage: Stage) {
        if let Ok(at) = self.entries.binary_search_by_key(&offset, |entry| entry.offset) {
            let before = std::mem::replace(&mut self.entries[at].stage, stage);
            self.wanted += usize::from(stage == Stage::Wanted);
            self.wanted -= usize::from(before == Stage::Wanted);
        }
    }

    fn is_held(&self, now: Instant, is_all_full: bool) -> bool {
        let is_waiting = match self.phase {
            Phase::Open => false,
            Phase::Waiting(until) => now < until,
            Phase::Trying => self.entries.iter().any(|e| matches!(e.stage, Stage::Taken | Stage::Begun)),
        };
        let is_long = self.entries.len() >= MAX_ENTRIES && self.wanted().is_none();
        is_waiting || self.is_leaving || self.is_full || is_all_full || is_long
    }

    /// Ends a wait that is over.
    fn wake(&mut self, now: Instant) {
        if let Phase::Waiting(until) = self.phase
            && now >= until
        {
            self.phase = Phase::Trying;
        }
    }

    fn drop_finished(&mut self) {
        while let Some(entry) = self.entries.front().filter(|entry| entry.stage == Stage::Done) {
            self.finished_ms = (entry.timestamp_ms >= 0).then_some(entry.timestamp_ms).or(self.finished_ms);
            self.entries.pop_front();
        }
    }

    /// Whether a record that came is to be taken now; the records that it proves to be gone are counted.
    fn admit(&mut self, seen: Seen, lost: &mut u64) -> bool {
        if let Some(wanted) = self.wanted().filter(|wanted| *wanted < seen.offset) {
            self.looks += 1;
            if self.looks < MAX_LOOKS {
                self.must_seek = true;
                return false;
            }
            // Looked for several times, and the brokers begin behind it: deleted before it could be taken again.
            tracing::error!(
                offset = wanted,
                found = seen.offset,
                "records of a source were deleted before they were stored"
            );
            for entry in
                self.entries.iter_mut().filter(|e| e.stage == Stage::Wanted && e.offset < seen.offset)
            {
                entry.stage = Stage::Done;
                self.wanted -= 1;
                *lost += 1;
            }
            self.drop_finished();
        }
        self.looks = 0;
        if let Some(stage) = self.stage(seen.offset) {
            let is_wanted = stage == Stage::Wanted;
            if is_wanted {
                self.set(seen.offset, Stage::Taken);
            }
            return is_wanted;
        }
        if self.next.is_some_and(|next| seen.offset < next) {
            return false;
        }
        let timestamp_ms = seen.timestamp_ms.unwrap_or(-1);
        self.entries.push_back(Entry { offset: seen.offset, timestamp_ms, stage: Stage::Taken });
        self.next = Some(seen.offset + 1);
        true
    }
}

impl Lanes {
    pub(super) fn new(max_bytes: usize, clock: Arc<dyn Clock>) -> Self {
        Self { state: Mutex::default(), settled: Condvar::new(), max_bytes, clock }
    }

    /// Adds partitions that the group gave to this member.
    pub(super) fn assign(&self, names: Vec<Name>) {
        let mut state = self.state.lock();
        for name in names {
            state.assignments += 1;
            let lane = Lane::new(state.assignments);
            state.lanes.insert(name, lane);
        }
    }

    /// Whether a polled record is handed out.
    pub(super) fn take(&self, name: &Name, seen: Seen) -> Verdict {
        let now = self.clock.instant();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(lane) = state.lanes.get_mut(name) else { return Verdict::Drop };
        lane.wake(now);
        if lane.is_paused || lane.must_seek || lane.is_held(now, state.is_full) {
            lane.next.get_or_insert(seen.offset);
            lane.must_seek = true;
            state.has_orders = true;
            return Verdict::Drop;
        }
        if !lane.admit(seen, &mut state.lost) {
            state.has_orders |= lane.must_seek;
            return Verdict::Drop;
        }
        lane.bytes += seen.bytes;
        lane.is_full = lane.bytes >= self.max_bytes / LANE_PART;
        state.used += seen.bytes;
        state.is_full = state.used >= self.max_bytes;
        state.has_orders |= state.is_full || lane.is_held(now, false);
        let (topic, partition) = name.clone();
        Verdict::Take(Place { topic, partition, offset: seen.offset, assignment: lane.assignment })
    }

    /// What the consumer has to be told now. Each order counts as carried out unless [`Lanes::not_moved`] says no.
    pub(super) fn orders(&self) -> Vec<(Name, Order)> {
        let now = self.clock.instant();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut orders = Vec::new();
        state.has_orders = false;
        for (name, lane) in &mut state.lanes {
            lane.wake(now);
            let is_held = lane.is_held(now, state.is_full);
            if is_held && !lane.is_paused {
                lane.is_paused = true;
                orders.push((name.clone(), Order::Pause));
            } else if !is_held && (lane.is_paused || lane.must_seek) {
                (lane.is_paused, lane.must_seek) = (false, false);
                orders.push((name.clone(), Order::Go(lane.position())));
            }
        }
        orders
    }

    /// Whether there are orders that should not wait for the next turn.
    pub(super) fn has_orders(&self) -> bool {
        self.state.lock().has_orders
    }

    /// The consumer could not go on with a partition: it is tried again.
    pub(super) fn not_moved(&self, name: &Name) {
        if let Some(lane) = self.state.lock().lanes.get_mut(name) {
            lane.must_seek = true;
        }
    }

    /// Offsets that may be committed and were not yet. Each counts as committed unless [`Lanes::not_committed`] says no.
    pub(super) fn to_commit(&self) -> Vec<(Name, i64)> {
        let mut state = self.state.lock();
        let mut offsets = Vec::new();
        for (name, lane) in &mut state.lanes {
            if let Some(next) = lane.first_unfinished().filter(|next| lane.committed != Some(*next)) {
                lane.committed = Some(next);
                offsets.push((name.clone(), next));
            }
        }
        offsets
    }

    /// A commit failed: all offsets are committed again.
    pub(super) fn not_committed(&self) {
        self.state.lock().lanes.values_mut().for_each(|lane| lane.committed = None);
    }

    /// Gives partitions up: begins no further record of them, waits up to `wait` for those under way, and returns the
    /// offsets to commit.
    pub(super) fn leave(&self, names: &[Name], wait: Duration) -> Vec<(Name, i64)> {
        let deadline = self.clock.instant() + wait;
        let mut state = self.state.lock();
        for name in names {
            if let Some(lane) = state.lanes.get_mut(name) {
                lane.is_leaving = true;
            }
        }
        let is_busy = |state: &State| {
            let lanes = names.iter().filter_map(|name| state.lanes.get(name));
            lanes.flat_map(|lane| &lane.entries).any(|entry| entry.stage == Stage::Begun)
        };
        while is_busy(&state) && !self.settled.wait_until(&mut state, deadline).timed_out() {}
        let left = |name: &Name| Some((name.clone(), state.lanes.remove(name)?.first_unfinished()?));
        names.iter().filter_map(left).collect()
    }

    /// All partitions.
    pub(super) fn names(&self) -> Vec<Name> {
        self.state.lock().lanes.keys().cloned().collect()
    }

    /// How far each partition is.
    pub(super) fn standings(&self) -> Vec<Standing> {
        let state = self.state.lock();
        let standing = |(name, lane): (&Name, &Lane)| {
            let oldest = lane.entries.front().map(|entry| entry.timestamp_ms).filter(|time| *time >= 0);
            Standing {
                name: name.clone(),
                next: lane.first_unfinished(),
                time_ms: oldest.or(lane.finished_ms),
            }
        };
        state.lanes.iter().map(standing).collect()
    }

    /// Records that were deleted before they could be taken again, since this was asked last.
    pub(super) fn take_lost(&self) -> u64 {
        std::mem::take(&mut self.state.lock().lost)
    }

    /// Bytes that are handed out.
    pub(super) fn used(&self) -> usize {
        self.state.lock().used
    }
}

impl State {
    fn lane(&mut self, place: &Place) -> Option<&mut Lane> {
        // A name is not looked up by parts; the clone is of a counted pointer.
        let lane = self.lanes.get_mut(&(Arc::clone(&place.topic), place.partition))?;
        (lane.assignment == place.assignment).then_some(lane)
    }
}

impl Settle for Lanes {
    fn begin(&self, place: &Place) -> bool {
        let mut state = self.state.lock();
        let Some(lane) = state.lane(place) else { return false };
        let may = !lane.is_leaving && !matches!(lane.phase, Phase::Waiting(_));
        if lane.stage(place.offset) != Some(Stage::Taken) {
            return false;
        }
        lane.set(place.offset, if may { Stage::Begun } else { Stage::Wanted });
        lane.must_seek |= !may;
        may
    }

    fn finish(&self, place: &Place) {
        let mut state = self.state.lock();
        let Some(lane) = state.lane(place) else { return };
        lane.set(place.offset, Stage::Done);
        if lane.phase == Phase::Trying {
            lane.phase = Phase::Open;
        }
        lane.drop_finished();
        drop(state);
        self.settled.notify_all();
    }

    fn again(&self, place: &Place, after: Duration) {
        let until = self.clock.instant() + after;
        let mut state = self.state.lock();
        let Some(lane) = state.lane(place) else { return };
        if lane.stage(place.offset).is_none_or(|stage| stage == Stage::Done) {
            return;
        }
        lane.set(place.offset, Stage::Wanted);
        lane.must_seek = true;
        lane.phase = match lane.phase {
            Phase::Waiting(other) => Phase::Waiting(until.max(other)),
            Phase::Open | Phase::Trying => Phase::Waiting(until),
        };
        drop(state);
        self.settled.notify_all();
    }

    fn release(&self, place: &Place, bytes: usize) {
        let mut state = self.state.lock();
        state.used = state.used.saturating_sub(bytes);
        if state.used <= self.max_bytes / 2 {
            state.is_full = false;
        }
        let room = self.max_bytes / LANE_PART;
        if let Some(lane) = state.lane(place) {
            lane.bytes = lane.bytes.saturating_sub(bytes);
            if lane.bytes <= room / 2 {
                lane.is_full = false;
            }
        }
    }
}
