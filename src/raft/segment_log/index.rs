//! What one group's log holds and where: the index in memory, and the writer's own view of the stream.
//!
//! Pure state without files or threads. [`GroupIndex`] runs ahead of the disk: it has what was queued.
//! [`Tail`] is what the stream says up to the last batch, so it is what recovery would find.
//! I1: a group's entries are contiguous. I2: an entry without a place has its payload in memory.

use std::collections::VecDeque;

use bytes::Bytes;

use super::format::{Entry, EntryKind, LogId, Purge, Record, Snapshot, Vote};

/// Where an entry's payload lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Segment number.
    pub(super) segment: u64,
    /// Offset of the payload in the file.
    pub(super) offset: u64,
}

/// One entry as the index knows it.
#[derive(Debug, Clone)]
pub(super) struct EntryMeta {
    pub(super) id: LogId,
    pub(super) kind: EntryKind,
    pub(super) len: u32,
    /// Checksum of the payload; known once it was written or recovered.
    pub(super) crc: u32,
    pub(super) place: Option<Place>,
    pub(super) payload: Option<Bytes>,
}

impl EntryMeta {
    pub(super) fn queued(entry: &Entry) -> Self {
        Self {
            id: entry.id,
            kind: entry.kind,
            len: entry.payload.len() as u32,
            crc: 0,
            place: None,
            payload: Some(entry.payload.clone()),
        }
    }
}

/// The state of one group, as last queued.
#[derive(Debug, Default)]
pub(super) struct GroupIndex {
    pub(super) incarnation: Option<u32>,
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<Purge>,
    pub(super) committed: Option<LogId>,
    pub(super) snapshot: Option<Snapshot>,
    /// The last entry that was here when the group was forgotten.
    pub(super) floor: Option<LogId>,
    entries: VecDeque<EntryMeta>,
}

impl GroupIndex {
    /// The group exists with this incarnation. Another one than before begins it anew: only what votes go by stays.
    pub(super) fn begin(&mut self, incarnation: u32) {
        if self.incarnation.is_some_and(|known| known != incarnation) {
            *self = Self { vote: self.vote, floor: self.floor, ..Self::default() };
        }
        self.incarnation = Some(incarnation);
    }

    /// Adds an entry; it replaces everything from its index on. What was before a hole is dropped: only recovery
    /// may see one, and a purge that follows in the stream must cover it.
    pub(super) fn append(&mut self, meta: EntryMeta) {
        if self.entries.back().is_some_and(|back| back.id.index >= meta.id.index) {
            self.truncate_after(meta.id.index.checked_sub(1));
        }
        if self.last().is_some_and(|last| last.index + 1 != meta.id.index) {
            self.entries.clear();
        }
        self.entries.push_back(meta);
    }

    /// Whether an entry at `index` continues the log or replaces its end.
    pub(super) fn takes(&self, index: u64) -> bool {
        let above_purged = self.purged.is_none_or(|purged| index > purged.up_to.index);
        above_purged && self.last().is_none_or(|last| index <= last.index + 1)
    }

    pub(super) fn truncate_after(&mut self, after: Option<u64>) {
        while self.entries.back().is_some_and(|back| after.is_none_or(|after| back.id.index > after)) {
            self.entries.pop_back();
        }
    }

    /// What a purge up to `up_to` has to say: proposals that were never here may have been anywhere below it.
    pub(super) fn purge_of(&self, up_to: LogId) -> Purge {
        let is_known = self.last().is_some_and(|last| last.index >= up_to.index);
        let proposal = if is_known { self.last_proposal(up_to.index) } else { up_to.index };
        Purge { up_to, proposal }
    }

    pub(super) fn purge(&mut self, purge: Purge) {
        while self.entries.front().is_some_and(|front| front.id.index <= purge.up_to.index) {
            self.entries.pop_front();
        }
        self.purged = self.purged.max(Some(purge));
    }

    /// Index of the last proposal at or before `up_to`, purged ones included; 0 if there was none.
    pub(super) fn last_proposal(&self, up_to: u64) -> u64 {
        let mut entries = self.range(0, up_to.saturating_add(1)).rev();
        let found = entries.find(|meta| meta.kind == EntryKind::Normal).map(|meta| meta.id.index);
        found.or(self.purged.map(|purged| purged.proposal)).unwrap_or(0)
    }

    /// The last entry before the first proposal after `after`, at most `limit`: what nobody needs who needs
    /// nothing up to `after`.
    pub(super) fn last_before_proposal(&self, after: u64, limit: u64) -> u64 {
        let mut entries = self.range(after.saturating_add(1), limit.saturating_add(1));
        entries.find(|meta| meta.kind == EntryKind::Normal).map_or(limit, |meta| meta.id.index - 1)
    }

    /// The last entry before the newest ones that take up to `bytes`; 0 if all do.
    pub(super) fn before_newest(&self, bytes: u64) -> u64 {
        let mut left = bytes;
        for meta in self.entries.iter().rev() {
            match left.checked_sub(u64::from(meta.len)) {
                Some(rest) => left = rest,
                None => return meta.id.index,
            }
        }
        0
    }

    /// The last entry, or what was purged when there is none.
    pub(super) fn last(&self) -> Option<LogId> {
        self.entries.back().map(|back| back.id).or(self.purged.map(|purged| purged.up_to))
    }

    /// Where the log ends, at least `after`, if no entry after `after` changes the members.
    pub(super) fn same_members_after(&self, after: u64) -> Option<u64> {
        let mut newer = self.range(after.saturating_add(1), u64::MAX);
        let is_same = newer.all(|meta| meta.kind != EntryKind::Membership);
        is_same.then(|| self.last().map_or(after, |last| last.index.max(after)))
    }

    /// Whether the log does not hold yet what it held when the group was forgotten, or what stands for it.
    pub(super) fn is_below_floor(&self) -> bool {
        self.last() < self.floor
    }

    pub(super) fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|front| front.id.index)
    }

    pub(super) fn get_mut(&mut self, index: u64) -> Option<&mut EntryMeta> {
        let first = self.first_index()?;
        self.entries.get_mut(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    /// The entries with `from <= index < to`.
    pub(super) fn range(&self, from: u64, to: u64) -> impl DoubleEndedIterator<Item = &EntryMeta> {
        let first = self.first_index().unwrap_or(0);
        let end = first + self.entries.len() as u64;
        let (from, to) = (from.clamp(first, end), to.clamp(first, end));
        self.entries.range((from - first) as usize..(to.max(from) - first) as usize)
    }
}

/// Entries of one group in one segment: the last of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    segment: u64,
    last: u64,
}

/// The state of one group as of the end of the stream, without its entries.
#[derive(Debug, Default)]
pub(super) struct Tail {
    incarnation: Option<u32>,
    vote: Option<Vote>,
    purged: Option<Purge>,
    snapshot: Option<Snapshot>,
    committed: Option<LogId>,
    floor: Option<LogId>,
    /// Index of the last entry, or of what was purged.
    last: Option<u64>,
    spans: VecDeque<Span>,
}

impl Tail {
    /// Follows one record that stands in `segment`.
    pub(super) fn observe(&mut self, record: &Record, segment: u64) {
        match record {
            Record::Group { incarnation } => {
                if self.incarnation.is_some_and(|known| known != *incarnation) {
                    *self = Self { vote: self.vote, floor: self.floor, ..Self::default() };
                }
                self.incarnation = Some(*incarnation);
            }
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Entry(entry) => {
                self.truncate(entry.id.index.checked_sub(1));
                match self.spans.back_mut() {
                    Some(span) if span.segment == segment => span.last = entry.id.index,
                    _ => self.spans.push_back(Span { segment, last: entry.id.index }),
                }
                self.last = Some(entry.id.index);
            }
            Record::TruncateAfter(after) => self.truncate(*after),
            Record::Purge(purge) => {
                while self.spans.front().is_some_and(|span| span.last <= purge.up_to.index) {
                    self.spans.pop_front();
                }
                self.purged = self.purged.max(Some(*purge));
                self.last = self.last.max(Some(purge.up_to.index));
            }
            Record::Snapshot(snapshot) => self.snapshot = Some(snapshot.clone()),
            Record::Committed(id) => self.committed = self.committed.max(Some(*id)),
            Record::Floor(id) => self.floor = self.floor.max(Some(*id)),
        }
    }

    fn truncate(&mut self, after: Option<u64>) {
        self.last = self.last.min(after).max(self.purged.map(|purged| purged.up_to.index));
        let Some(after) = after else {
            self.spans.clear();
            return;
        };
        for span in self.spans.iter_mut().rev().take_while(|span| span.last > after) {
            span.last = after;
        }
    }

    /// The oldest segment that holds a live entry.
    pub(super) fn oldest_segment(&self) -> Option<u64> {
        self.spans.front().map(|span| span.segment)
    }

    /// Whether the stream may say that `id` is committed: it has the entry and did not say so yet.
    pub(super) fn lacks_commit_of(&self, id: LogId) -> bool {
        self.last >= Some(id.index) && self.committed < Some(id)
    }

    /// The records that rebuild this state without earlier segments; a new segment begins with them.
    pub(super) fn checkpoint(&self) -> Vec<Record> {
        let mut records = Vec::with_capacity(6);
        records.extend(self.incarnation.map(|incarnation| Record::Group { incarnation }));
        records.extend(self.vote.map(Record::Vote));
        records.extend(self.floor.map(Record::Floor));
        records.extend(self.snapshot.clone().map(Record::Snapshot));
        records.extend(self.purged.map(Record::Purge));
        records.extend(self.committed.map(Record::Committed));
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u64) -> LogId {
        LogId { term: 1, node: 1, index }
    }

    fn purge(index: u64) -> Purge {
        Purge { up_to: id(index), proposal: index }
    }

    fn entry(index: u64) -> Entry {
        Entry { id: id(index), kind: EntryKind::Normal, payload: Bytes::new() }
    }

    fn index_of(entries: impl IntoIterator<Item = u64>) -> GroupIndex {
        let mut index = GroupIndex::default();
        for at in entries {
            index.append(EntryMeta::queued(&entry(at)));
        }
        index
    }

    fn indexes(index: &GroupIndex, from: u64, to: u64) -> Vec<u64> {
        index.range(from, to).map(|meta| meta.id.index).collect()
    }

    #[test]
    fn ranges_are_cut_to_what_exists() {
        let mut index = index_of(3..8);
        assert_eq!(indexes(&index, 0, 5), [3, 4]);
        assert_eq!(indexes(&index, 6, 100), [6, 7]);
        assert_eq!(indexes(&index, 9, 100), [0u64; 0]);
        assert_eq!(indexes(&index, 7, 3), [0u64; 0]);
        index.purge(index.purge_of(id(5)));
        assert_eq!((indexes(&index, 0, 100), index.last()), (vec![6, 7], Some(id(7))));
        index.purge(index.purge_of(id(20)));
        assert_eq!((index.first_index(), index.last()), (None, Some(id(20))));
    }

    #[test]
    fn the_newest_entries_are_counted_by_their_bytes() {
        let mut index = GroupIndex::default();
        for at in 1..=4 {
            let entry = Entry { id: id(at), kind: EntryKind::Normal, payload: Bytes::from(vec![0; 10]) };
            index.append(EntryMeta::queued(&entry));
        }
        let before = [0, 9, 10, 25, 40, 99].map(|bytes| index.before_newest(bytes));
        assert_eq!(before, [4, 4, 3, 2, 0, 0]);
    }

    #[test]
    fn a_change_of_the_members_is_found_behind_what_is_known() {
        let mut index = index_of(3..6);
        assert_eq!([0, 4, 5, 9].map(|known| index.same_members_after(known)), [5, 5, 5, 9].map(Some));
        index.append(EntryMeta { kind: EntryKind::Membership, ..EntryMeta::queued(&entry(6)) });
        index.append(EntryMeta::queued(&entry(7)));
        assert_eq!([0, 5, 6, 7].map(|known| index.same_members_after(known)), [None, None, Some(7), Some(7)]);
        assert_eq!(GroupIndex::default().same_members_after(4), Some(4));
    }

    #[test]
    fn a_purge_tells_the_last_proposal_from_a_leaders_own_entries() {
        let mut index = index_of(0..3);
        for at in 3..6 {
            index.append(EntryMeta { kind: EntryKind::Blank, ..EntryMeta::queued(&entry(at)) });
        }
        assert_eq!((index.last_proposal(9), index.last_proposal(1)), (2, 1));
        assert_eq!((index.last_before_proposal(2, 5), index.last_before_proposal(0, 5)), (5, 0));
        index.purge(index.purge_of(id(4)));
        assert_eq!((index.last_proposal(9), index.purged.unwrap().proposal), (2, 2));
        index.purge(index.purge_of(id(9)));
        assert_eq!(index.last_proposal(99), 9);
    }

    #[test]
    fn an_older_purge_changes_nothing() {
        let mut index = index_of(1..8);
        index.purge(index.purge_of(id(5)));
        index.purge(index.purge_of(id(3)));
        assert_eq!((index.first_index(), index.purged), (Some(6), Some(purge(5))));
    }

    #[test]
    fn an_entry_replaces_what_stands_at_and_after_its_place() {
        let mut index = index_of(0..6);
        index.append(EntryMeta::queued(&entry(2)));
        assert_eq!(indexes(&index, 0, 9), [0, 1, 2]);
        index.append(EntryMeta::queued(&entry(0)));
        assert_eq!(indexes(&index, 0, 9), [0]);
    }

    #[test]
    fn a_hole_drops_what_was_before_it() {
        let mut index = index_of(0..3);
        index.append(EntryMeta::queued(&entry(9)));
        assert_eq!(indexes(&index, 0, 99), [9]);
    }

    #[test]
    fn a_segment_is_pinned_until_its_last_live_entry_is_purged() {
        let mut tail = Tail::default();
        for (segment, last) in [(1, 10), (2, 20), (4, 30)] {
            tail.observe(&Record::Entry(entry(last)), segment);
        }
        tail.observe(&Record::Purge(purge(9)), 4);
        assert_eq!(tail.oldest_segment(), Some(1));
        tail.observe(&Record::Purge(purge(10)), 4);
        assert_eq!(tail.oldest_segment(), Some(2));
        tail.observe(&Record::TruncateAfter(Some(15)), 4);
        tail.observe(&Record::Purge(purge(15)), 4);
        assert_eq!(tail.oldest_segment(), None);
    }
}
