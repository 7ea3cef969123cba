//! Matchers and parts of queries as messages between nodes, and back.

use quorate_model::{MatchOp, Matcher, MatcherError};
use quorate_promql::Features;
use quorate_promql::ast::Span;
use quorate_promql::engine::EngineOptions;
use quorate_promql::features::UnknownFeature;
use quorate_promql::fragment::{Fragment, FragmentTimes};
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

pub(crate) fn fragment_to_message(fragment: &Fragment) -> store::Fragment {
    let Fragment { options, span, query, start_ms, step_ms, steps, selection: _ } = fragment;
    store::Fragment {
        query: options.query_text.as_ref().to_owned(),
        span_start: span.start as u64,
        span_end: span.end as u64,
        query_start_ms: query.start_ms,
        query_end_ms: query.end_ms,
        query_step_ms: query.step_ms,
        start_ms: *start_ms,
        step_ms: *step_ms,
        steps: *steps as u64,
        lookback_delta_ms: options.lookback_delta_ms,
        subquery_step_ms: options.subquery_step_ms,
        max_samples: options.max_samples,
        features: options.features.names().into_iter().map(str::to_owned).collect(),
    }
}

/// Checks nothing but that it can be meant: [`quorate_promql::fragment::FragmentPlan`] does.
pub(crate) fn fragment_from_message(message: store::Fragment) -> Result<Fragment, UnknownFeature> {
    // What is too large is nowhere, and too many.
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Ok(Fragment {
        options: EngineOptions {
            lookback_delta_ms: message.lookback_delta_ms,
            max_samples: message.max_samples,
            subquery_step_ms: message.subquery_step_ms,
            features: Features::only(message.features.iter().map(String::as_str))?,
            query_text: message.query.into(),
        },
        span: Span { start: size(message.span_start), end: size(message.span_end) },
        selection: 0,
        query: FragmentTimes {
            start_ms: message.query_start_ms,
            end_ms: message.query_end_ms,
            step_ms: message.query_step_ms,
        },
        start_ms: message.start_ms,
        step_ms: message.step_ms,
        steps: size(message.steps),
    })
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
    fn fragments_round_trip() {
        let fragment = Fragment {
            options: EngineOptions {
                lookback_delta_ms: 1,
                max_samples: 2,
                subquery_step_ms: 3,
                features: Features::all(),
                query_text: "up".into(),
            },
            span: Span::new(4, 5),
            selection: 0,
            query: FragmentTimes { start_ms: -6, end_ms: 7, step_ms: 8 },
            start_ms: -9,
            step_ms: 10,
            steps: 11,
        };
        let message = fragment_to_message(&fragment);
        assert_eq!(fragment_from_message(message.clone()).unwrap(), fragment);
        let newer = store::Fragment { features: vec!["promql-next".into()], ..message };
        assert!(fragment_from_message(newer).is_err());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let message = |op, value: &str| store::Matcher { op, name: "job".into(), value: value.into() };
        assert!(matches!(from_messages(vec![message(9, "")]), Err(MatchersError::Unknown { op: 9 })));
        assert!(matches!(from_messages(vec![message(2, "(")]), Err(MatchersError::Matcher(_))));
    }
}
