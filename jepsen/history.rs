//! A history: what clients asked for and what they were told, one event a line, as JSON.
//!
//! Knows operations and their times. Does not know what is right; checkers do.
//! Path: `worker`, `nemesis` -> **here** -> a file, and as [`Operation`]s -> `checkers`.
//! HI1: an invocation is noted before its request is sent, a completion after its answer was read, so the span of an
//! operation holds the moment of its effect. HI2: a process has at most one operation open; after one of unknown fate
//! its client goes on as another process.

use quorate_model::{Clock, SystemClock};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Processes of one client differ by multiples of this.
pub const CLIENTS: u64 = 1_000;
/// The process that is no client but sets faults.
pub const NEMESIS: u64 = CLIENTS - 1;

/// What is asked for; with the answer in it once there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "kebab-case")]
pub enum Op {
    /// Adds an element to the set `key`.
    Add {
        /// Which set.
        key: u64,
        /// An element of this set and no other.
        element: u64,
    },
    /// Reads the set `key`.
    ReadSet {
        /// Which set.
        key: u64,
        /// The elements found, as often as they are there.
        elements: Vec<u64>,
    },
    /// Adds to the counter.
    Increment {
        /// Which increment.
        element: u64,
        /// How much.
        by: u64,
    },
    /// Reads the counter.
    ReadSum {
        /// Number of increments found.
        count: u64,
        /// Their sum.
        sum: u64,
    },
    /// Writes one of several values under one identity of the page `key`.
    Put {
        /// Which page.
        key: u64,
        /// Which identity.
        identity: u64,
        /// A value that no other write has.
        value: u64,
    },
    /// Reads a page of identities.
    ReadPage {
        /// Which page.
        key: u64,
        /// Identities and their values, as often as they are there.
        pairs: Vec<(u64, u64)>,
    },
    /// Writes the next value of a register that only this client writes.
    Advance {
        /// Which register.
        register: u64,
        /// Higher than all before.
        value: u64,
    },
    /// Reads a register: with the client's position token of it, or to get one.
    See {
        /// Which register.
        register: u64,
        /// How fresh the read was asked to be.
        level: Freshness,
        /// The newest value; 0 if there is none.
        value: u64,
    },
    /// Counts series that are spread over all partitions.
    Count {
        /// How many there are.
        expected: u64,
        /// How many were found.
        found: u64,
    },
    /// Swaps the value of `register`, if it is what it is taken for.
    Swap {
        /// Which register.
        register: u64,
        /// What it must be; `None` takes any value.
        from: Option<u64>,
        /// What it becomes.
        to: u64,
    },
    /// Reads the value of `register`.
    Load {
        /// Which register.
        register: u64,
        /// Its value; `None` if it has none.
        value: Option<u64>,
    },
    /// A fault is set or taken back.
    Fault {
        /// Which one, and where.
        what: String,
    },
}

impl Op {
    /// Whether it has no effect.
    pub fn is_read(&self) -> bool {
        match self {
            Self::ReadSet { .. } | Self::ReadSum { .. } | Self::ReadPage { .. } => true,
            Self::See { .. } | Self::Count { .. } | Self::Load { .. } => true,
            Self::Add { .. } | Self::Increment { .. } | Self::Put { .. } => false,
            Self::Advance { .. } | Self::Swap { .. } | Self::Fault { .. } => false,
        }
    }
}

/// How fresh the read of a register was asked to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freshness {
    /// As what was acknowledged before; for a client without a token.
    Strong,
    /// As the client's token.
    Session,
}

/// Which moment of an operation an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It begins.
    Invoke,
    /// It was done.
    Ok,
    /// It was not done, and never will be.
    Fail,
    /// Nobody knows, now or later.
    Info,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Since the start of the run, microseconds.
    pub time_us: u64,
    /// Who.
    pub process: u64,
    /// Which moment.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The node that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<usize>,
    /// What.
    #[serde(flatten)]
    pub op: Op,
    /// What the node said, if it was no success.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Writes a history as it happens. Events are in the order of their times.
#[derive(Debug)]
pub struct Recorder {
    start: Instant,
    state: Mutex<Recorded>,
}

#[derive(Debug)]
struct Recorded {
    file: BufWriter<File>,
    events: Vec<Event>,
    failed: Option<io::Error>,
}

impl Recorder {
    /// A history in a new file at `path`.
    ///
    /// # Errors
    /// If it cannot be made, or is there already.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = BufWriter::new(File::create_new(path)?);
        let state = Recorded { file, events: Vec::new(), failed: None };
        Ok(Self { start: SystemClock.instant(), state: Mutex::new(state) })
    }

    /// Since the start of the run, microseconds.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Notes an event of now.
    pub fn note(&self, process: u64, kind: Kind, node: Option<usize>, op: Op, note: String) {
        let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that the events are in the order of their times.
        let time_us = self.now_us();
        let event = Event { time_us, process, kind, node, op, note };
        let written = serde_json::to_writer(&mut state.file, &event).map_err(io::Error::from);
        let written = written.and_then(|()| state.file.write_all(b"\n"));
        if let Err(error) = written {
            state.failed.get_or_insert(error);
        }
        state.events.push(event);
    }

    /// All events so far, on disk too.
    ///
    /// # Errors
    /// If one could not be written.
    pub fn events(&self) -> io::Result<Vec<Event>> {
        let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        state.file.flush()?;
        Ok(state.events.clone())
    }
}

/// Reads a history from its file.
///
/// # Errors
/// If it cannot be read, or a line is no event.
pub fn read(path: &Path) -> io::Result<Vec<Event>> {
    let lines = BufReader::new(File::open(path)?).lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was not done, and never will be.
    Refused,
    /// It was done or not, now or later.
    Unknown,
}

/// An operation from its invocation to its end.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Who.
    pub process: u64,
    /// The node that was asked.
    pub node: Option<usize>,
    /// When it was invoked, microseconds.
    pub invoked_us: u64,
    /// When it ended; one of unknown fate never does.
    pub ended_us: u64,
    /// How.
    pub outcome: Outcome,
    /// What was asked for, with the answer if it was done.
    pub op: Op,
}

impl Operation {
    /// The client, whatever process it was at that time.
    pub fn client(&self) -> u64 {
        self.process % CLIENTS
    }
}

/// The operations of clients, in the order of their invocations. One without an end is of unknown fate.
///
/// # Errors
/// If an end has no beginning, or a process begins a second operation within one: the harness is broken.
pub fn operations(events: &[Event]) -> Result<Vec<Operation>, String> {
    let mut all: Vec<Operation> = Vec::new();
    let mut open: HashMap<u64, usize> = HashMap::new();
    for event in events.iter().filter(|event| event.process % CLIENTS != NEMESIS) {
        let Event { time_us, process, kind, node, op, .. } = event;
        if *kind == Kind::Invoke {
            if open.insert(*process, all.len()).is_some() {
                return Err(format!("process {process} begins a second operation at {time_us}"));
            }
            let (process, node, op) = (*process, *node, op.clone());
            let (invoked_us, ended_us, outcome) = (*time_us, u64::MAX, Outcome::Unknown);
            all.push(Operation { process, node, invoked_us, ended_us, outcome, op });
            continue;
        }
        let at =
            open.remove(process).ok_or_else(|| format!("process {process} ends nothing at {time_us}"))?;
        let ended = &mut all[at];
        match kind {
            Kind::Ok => (ended.outcome, ended.ended_us, ended.op) = (Outcome::Done, *time_us, op.clone()),
            Kind::Fail => (ended.outcome, ended.ended_us) = (Outcome::Refused, *time_us),
            Kind::Invoke | Kind::Info => {}
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(element: u64) -> Op {
        Op::Add { key: 1, element }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let recorder = Recorder::create(&path).unwrap();
        recorder.note(3, Kind::Invoke, Some(0), add(5), String::new());
        recorder.note(3, Kind::Info, Some(0), add(5), "503".to_owned());
        recorder.note(NEMESIS, Kind::Info, None, Op::Fault { what: "kill n1".to_owned() }, String::new());
        recorder.note(4, Kind::Ok, Some(1), Op::ReadPage { key: 0, pairs: vec![(1, 2)] }, String::new());
        let events = recorder.events().unwrap();
        assert_eq!(read(&path).unwrap(), events);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.lines().next().unwrap().contains(r#""type":"invoke","node":0,"f":"add","key":1"#),
            "{text}"
        );
    }

    #[test]
    fn a_history_never_takes_the_place_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let first = Recorder::create(&path).unwrap();
        first.note(3, Kind::Invoke, Some(0), add(5), String::new());
        assert_eq!(Recorder::create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let events = first.events().unwrap();
        assert_eq!(read(&path).unwrap(), events);
    }

    #[track_caller]
    fn check_operations(events: &[(u64, Kind, Op)], expected: &[(u64, u64, Outcome)]) {
        let numbered = events.iter().enumerate();
        let events: Vec<Event> = numbered
            .map(|(at, (process, kind, op))| Event {
                time_us: at as u64,
                process: *process,
                kind: *kind,
                node: None,
                op: op.clone(),
                note: String::new(),
            })
            .collect();
        let found = operations(&events).unwrap();
        let found: Vec<_> = found.iter().map(|o| (o.invoked_us, o.ended_us, o.outcome)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn events_become_operations() {
        use Kind::{Fail, Info, Invoke, Ok};
        let events = [
            (1, Invoke, add(1)),
            (2, Invoke, add(2)),
            (1, Ok, add(1)),
            (2, Info, add(2)),
            (1_002, Invoke, add(3)),
            (1_002, Fail, add(3)),
            (1, Invoke, add(4)),
        ];
        let never = u64::MAX;
        let expected = [
            (0, 2, Outcome::Done),
            (1, never, Outcome::Unknown),
            (4, 5, Outcome::Refused),
            (6, never, Outcome::Unknown),
        ];
        check_operations(&events, &expected);
    }

    #[test]
    fn a_broken_history_is_an_error() {
        let event =
            |kind| Event { time_us: 0, process: 1, kind, node: None, op: add(1), note: String::new() };
        assert!(operations(&[event(Kind::Ok)]).is_err());
        assert!(operations(&[event(Kind::Invoke), event(Kind::Invoke)]).is_err());
    }
}
