//! Matchers as messages between nodes, and back.

use quorate_model::{MatchOp, Matcher, MatcherError};
use quorate_wire::store;
use quorate_wire::store::matcher::Op;

/// Why matchers of a peer are refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MatchersError {
    #[error("an unknown test {op}")]
    Unknown { op: i32 },
    #[error(transparent)]
    Matcher(#[from] MatcherError),
}

pub(crate) fn to_messages(matchers: &[Matcher]) -> Vec<store::Matcher> {
    let message = |matcher: &Matcher| {
        let op = match matcher.op() {
            MatchOp::Equal => Op::Equal,
            MatchOp::NotEqual => Op::NotEqual,
            MatchOp::Regex => Op::Matches,
            MatchOp::NotRegex => Op::NotMatches,
        };
        store::Matcher { op: op.into(), name: matcher.name().to_owned(), value: matcher.value().to_owned() }
    };
    matchers.iter().map(message).collect()
}

/// Compiles regular expressions: not for a thread of the runtime.
pub(crate) fn from_messages(messages: Vec<store::Matcher>) -> Result<Vec<Matcher>, MatchersError> {
    let matcher = |message: store::Matcher| {
        let op = Op::try_from(message.op).map_err(|_| MatchersError::Unknown { op: message.op })?;
        let op = match op {
            Op::Equal => MatchOp::Equal,
            Op::NotEqual => MatchOp::NotEqual,
            Op::Matches => MatchOp::Regex,
            Op::NotMatches => MatchOp::NotRegex,
        };
        Ok(Matcher::new(message.name, op, message.value)?)
    };
    messages.into_iter().map(matcher).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matchers_round_trip() {
        let of = |op| Matcher::new("job", op, "a|b").unwrap();
        let matchers = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex].map(of);
        assert_eq!(from_messages(to_messages(&matchers)).unwrap(), matchers);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let message = |op, value: &str| store::Matcher { op, name: "job".into(), value: value.into() };
        assert!(matches!(from_messages(vec![message(9, "")]), Err(MatchersError::Unknown { op: 9 })));
        assert!(matches!(from_messages(vec![message(2, "(")]), Err(MatchersError::Matcher(_))));
    }
}
