//! Statuses of calls, from reason to status on the answering side and back on the asking side.
//!
//! S1: a status says that a call had no effect only with a mark that this code sets; any other status may be of a
//! call that was handled, whatever its code.

use crate::TransportError;
use crate::desk::Declined;
use quorate_model::NodeId;
use std::error::Error;
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::{Code, Status};

/// The mark of a node that a call does not belong to, or that does not answer such calls yet.
const NOT_HERE: &str = "not-here";
/// The mark of a handler that did nothing.
const REFUSED: &str = "refused";

/// Characters of a reason that are sent: it is in a header, and headers have their bound.
const LONGEST_REASON: usize = 1_000;

/// The call is for another node.
pub(super) fn not_here(reason: &str) -> Status {
    marked(Code::FailedPrecondition, NOT_HERE, reason)
}

/// The node does not answer such calls yet.
pub(super) fn starting() -> Status {
    marked(Code::Unavailable, NOT_HERE, "this node is starting")
}

pub(super) fn declined(declined: Declined) -> Status {
    match declined {
        Declined::Starting => starting(),
        Declined::Refused(reason) => marked(Code::Aborted, REFUSED, &reason),
        Declined::Broken(reason) => Status::internal(reason),
    }
}

fn marked(code: Code, mark: &'static str, reason: &str) -> Status {
    let mut status = Status::new(code, reason.chars().take(LONGEST_REASON).collect::<String>());
    status.metadata_mut().insert(no_effect(), MetadataValue::from_static(mark));
    status
}

fn no_effect() -> MetadataKey<Ascii> {
    MetadataKey::from_static("quorate-no-effect")
}

/// What a status means to who asked `to`.
pub(super) fn error(to: NodeId, status: &Status) -> TransportError {
    let reason = reason(status);
    match status.metadata().get(no_effect()).map(MetadataValue::as_bytes) {
        Some(mark) if mark == NOT_HERE.as_bytes() => TransportError::Unreachable { to, reason },
        Some(mark) if mark == REFUSED.as_bytes() => TransportError::Refused { to, reason },
        _ if is_not_sent(status) => TransportError::Unreachable { to, reason },
        _ => TransportError::NoAnswer { to, reason },
    }
}

/// Why, in the words of who made the status.
pub(super) fn reason(status: &Status) -> String {
    match status.source() {
        Some(error) => source_text(error),
        None if status.message().is_empty() => status.code().description().to_owned(),
        None => status.message().to_owned(),
    }
}

/// Whether the call did not leave this node: its connection had ended before.
pub(super) fn is_not_sent(status: &Status) -> bool {
    let is_cause = |error: &(dyn Error + 'static)| {
        // A request is cancelled, in hyper's words, while it waits for its turn; later it breaks.
        error.is::<tonic::ConnectError>() || error.downcast_ref().is_some_and(hyper::Error::is_canceled)
    };
    std::iter::successors(status.source(), |error| (**error).source()).any(is_cause)
}

/// The innermost reason: the outer ones only say that something failed.
pub(super) fn source_text(error: &(dyn Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| (**error).source()).last().unwrap_or(error).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: NodeId = NodeId(2);

    #[track_caller]
    fn check_error(status: &Status, expected: &str) {
        let error = error(TWO, status);
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn only_marked_statuses_are_without_effect() {
        check_error(&not_here("this is node 3"), "node 2 cannot be reached: this is node 3");
        check_error(&starting(), "node 2 cannot be reached: this node is starting");
        check_error(&declined(Declined::Refused("no".to_owned())), "node 2 refused: no");
        check_error(&declined(Declined::Broken("half".to_owned())), "no answer from node 2: half");
        check_error(&Status::unavailable("gone"), "no answer from node 2: gone");
        check_error(&Status::failed_precondition("why"), "no answer from node 2: why");
        check_error(&Status::new(Code::Aborted, ""), "no answer from node 2: The operation was aborted");
    }

    #[test]
    fn long_reasons_are_cut() {
        let status = declined(Declined::Refused("ü".repeat(100_000)));
        assert_eq!(status.message(), "ü".repeat(LONGEST_REASON));
    }
}
