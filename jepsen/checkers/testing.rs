//! Histories of a few operations, as tests spell them out.

use crate::history::{Op, Operation, Outcome};

/// An operation of process 1 that was done between two times.
pub(super) fn done(span: (u64, u64), op: Op) -> Operation {
    of(1, span, op)
}

/// One of another process.
pub(super) fn of(process: u64, (invoked_us, ended_us): (u64, u64), op: Op) -> Operation {
    Operation { process, node: None, invoked_us, ended_us, outcome: Outcome::Done, op }
}

/// One that was refused.
pub(super) fn refused((invoked_us, ended_us): (u64, u64), op: Op) -> Operation {
    Operation { process: 1, node: None, invoked_us, ended_us, outcome: Outcome::Refused, op }
}

/// One of unknown fate.
pub(super) fn unknown(invoked_us: u64, op: Op) -> Operation {
    Operation { process: 1, node: None, invoked_us, ended_us: u64::MAX, outcome: Outcome::Unknown, op }
}
