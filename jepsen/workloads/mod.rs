//! What clients do, and how what came of it is judged.
//!
//! Knows series, queries and the promise that each workload holds. Does not know faults.
//! Path: `run` -> **here** -> `worker`; histories go to `checkers`.

mod conflict;
mod counter;
mod fan_out;
mod register;
mod session;
mod sets;

use crate::checkers::{self, Judgement};
use crate::history::Operation;
use crate::worker::{Told, Worker};
use quorate_cluster_tests::harness::now_ms;
use std::fmt;
use std::str::FromStr;

/// Series that a workload spreads its samples over, so that every partition has some.
const SERIES: u64 = 16;
const HOUR_MS: i64 = 3_600_000;

/// The promise that a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// Sets that grow.
    SetAppend,
    /// A counter whose increments are sent again until acknowledged.
    CounterSum,
    /// Two values for one identity.
    Conflict,
    /// Reads with position tokens.
    Session,
    /// Queries over all partitions.
    FanOut,
    /// The same series of two tenants.
    TwoTenants,
    /// What operators change, as a register.
    RegisterMeta,
}

impl Name {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::SetAppend,
        Self::CounterSum,
        Self::Conflict,
        Self::Session,
        Self::FanOut,
        Self::TwoTenants,
        Self::RegisterMeta,
    ];

    fn text(self) -> &'static str {
        match self {
            Self::SetAppend => "set-append",
            Self::CounterSum => "counter-sum",
            Self::Conflict => "conflict",
            Self::Session => "session",
            Self::FanOut => "fan-out",
            Self::TwoTenants => "two-tenants",
            Self::RegisterMeta => "register-meta",
        }
    }

    /// A workload of this name, from now on.
    pub fn begin(self) -> Box<dyn Workload> {
        let base_ms = base_ms();
        match self {
            Self::SetAppend => Box::new(sets::Sets::of_one_tenant(base_ms)),
            Self::TwoTenants => Box::new(sets::Sets::of_two_tenants(base_ms)),
            Self::CounterSum => Box::new(counter::Counter::new(base_ms)),
            Self::Conflict => Box::new(conflict::Conflict::new(base_ms)),
            Self::Session => Box::new(session::Session::new(base_ms)),
            Self::FanOut => Box::new(fan_out::FanOut::new(base_ms)),
            Self::RegisterMeta => Box::new(register::Registers::new(base_ms)),
        }
    }

    /// Judges a history of this workload.
    pub fn check(self, history: &[Operation]) -> Judgement {
        match self {
            Self::SetAppend | Self::TwoTenants => checkers::set_full::check(history),
            Self::CounterSum => checkers::counter::check(history),
            Self::Conflict => checkers::conflict::check(history),
            Self::Session => checkers::session::check(history),
            Self::FanOut => checkers::fan_out::check(history),
            Self::RegisterMeta => checkers::register::check(history).join(checkers::set_full::check(history)),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|name| name.text() == text);
        found.ok_or_else(|| format!("no workload is named {text:?}"))
    }
}

/// What clients do. Shared by all of them.
pub trait Workload: Send + Sync {
    /// Done by one client before all others begin.
    ///
    /// # Errors
    /// Why the workload cannot begin.
    fn prepare(&self, _worker: &mut Worker) -> Result<(), String> {
        Ok(())
    }

    /// One operation, or a few that belong together.
    fn step(&self, worker: &mut Worker);

    /// Reads all there is from one node, by one client, after all others have ended. Gives the first read that failed.
    fn read_all(&self, worker: &mut Worker, node: usize) -> Told;
}

/// The time of the first sample: a minute ago, or a little earlier, so that no hour ends where the samples are.
fn base_ms() -> i64 {
    let base_ms = now_ms() - 60_000;
    let left_ms = HOUR_MS - base_ms.rem_euclid(HOUR_MS);
    // Samples of a run cover less than ten minutes.
    if left_ms < HOUR_MS / 6 { base_ms - HOUR_MS / 6 } else { base_ms }
}
