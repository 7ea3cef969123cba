//! How fresh a read is to be, by its headers, and what an answer tells of that.
//!
//! Knows the headers and the text forms. Does not know partitions: `query::freshness` gives the words their meaning.
//! Path: client -> **here** -> `extract::Reader`; `reply`, `write` -> **here** -> client.

use super::reply::ApiError;
use super::time::{parse_duration_ns, quoted};
use crate::config::Consistency;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use quorate_model::{PartitionId, Position};
use quorate_query::{PositionToken, ReadConsistency, Seen, TokenKey};
use std::time::Duration;

/// Says how fresh a read is to be.
const CONSISTENCY: HeaderName = HeaderName::from_static("x-read-consistency");
/// The position token: of an answer, what it stored or reflects; of a read, what it has to see.
pub const OFFSETS: HeaderName = HeaderName::from_static("x-read-consistency-offsets");
/// How far an eventual read may lie behind.
const MAX_DELAY: HeaderName = HeaderName::from_static("x-read-consistency-max-delay");
/// Of an answer that may be old by any time.
pub const STALE: HeaderName = HeaderName::from_static("x-read-consistency-stale");

/// What the words of the header stand for.
#[derive(Debug, Clone, Copy)]
enum Level {
    Strong,
    Session,
    Eventual,
}

/// How fresh the read with these headers is to be. `key` is asked for only if there is a token to be read.
///
/// A token counts for a session, and where nothing is said it makes one of an `eventual` default; a strong read sees
/// more than any token stands for.
///
/// # Errors
/// 400 for what cannot be meant; what `key` gives.
pub fn asked(
    headers: &HeaderMap,
    default: Consistency,
    key: impl FnOnce() -> Result<TokenKey, ApiError>,
) -> Result<ReadConsistency, ApiError> {
    let max_delay = max_delay(headers)?;
    let level = match (headers.get(CONSISTENCY).map(HeaderValue::to_str), default) {
        (Some(Ok("strong")), _) | (None, Consistency::Strong | Consistency::Auto) => Level::Strong,
        (Some(Ok("session")), _) => Level::Session,
        (None, Consistency::Eventual) if headers.contains_key(OFFSETS) => Level::Session,
        (Some(Ok("eventual")), _) | (None, Consistency::Eventual) => Level::Eventual,
        (Some(other), _) => {
            let given = other.unwrap_or("what is no text");
            return Err(ApiError::bad(format!(
                "the header X-Read-Consistency must be strong, session or eventual, it is {given:?}"
            )));
        }
    };
    match (level, max_delay) {
        // It is never behind.
        (Level::Strong, _) => Ok(ReadConsistency::Strong),
        (Level::Session, None) => Ok(ReadConsistency::Session(token(headers, key)?)),
        (Level::Session, Some(_)) => Err(ApiError::bad(
            "the header X-Read-Consistency-Max-Delay is for eventual reads, not for a session",
        )),
        (Level::Eventual, None) => Ok(ReadConsistency::Eventual),
        (Level::Eventual, Some(delay)) => Ok(ReadConsistency::Bounded(delay)),
    }
}

fn max_delay(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = headers.get(MAX_DELAY) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let ns = parse_duration_ns(text).ok().and_then(|ns| u64::try_from(ns).ok());
    let ns = ns.ok_or_else(|| {
        let given = quoted(text);
        ApiError::bad(format!("the header X-Read-Consistency-Max-Delay must be a duration, it is {given}"))
    })?;
    Ok(Some(Duration::from_nanos(ns)))
}

/// What all tokens of the request stand for together: it may have several headers, and each several tokens.
fn token(
    headers: &HeaderMap,
    key: impl FnOnce() -> Result<TokenKey, ApiError>,
) -> Result<PositionToken, ApiError> {
    let values = headers.get_all(OFFSETS).iter().map(|value| value.to_str().unwrap_or("?"));
    let texts: Vec<&str> =
        values.flat_map(|value| value.split(',')).map(str::trim).filter(|t| !t.is_empty()).collect();
    if texts.is_empty() {
        return Err(ApiError::bad(
            "a session read needs the header X-Read-Consistency-Offsets with what an answer had there",
        ));
    }
    let (key, mut all) = (key()?, PositionToken::default());
    for text in texts {
        let token = PositionToken::decode(text, &key);
        let token = token
            .map_err(|error| ApiError::bad(format!("the header X-Read-Consistency-Offsets holds {error}")))?;
        all.merge(&token);
    }
    Ok(all)
}

/// The token of records at `positions`.
pub fn token_of(positions: &[(PartitionId, Position)], key: &TokenKey) -> HeaderValue {
    let mut token = PositionToken::default();
    positions.iter().for_each(|(partition, position)| token.note(*partition, *position));
    header_of(&token, key)
}

/// The headers that tell what an answer reflects.
pub fn told(seen: &Seen, key: &TokenKey) -> Vec<(HeaderName, HeaderValue)> {
    let token = seen.positions.as_ref().map(|positions| (OFFSETS, header_of(positions, key)));
    let stale = (!seen.stale.is_empty()).then_some((STALE, HeaderValue::from_static("true")));
    token.into_iter().chain(stale).collect()
}

/// Leaves the token out of answers to reads that say nothing of consistency: it grows with the number of partitions, and
/// who does not know of it should not need a proxy with room for it.
pub async fn tokens_where_asked(request: Request, next: Next) -> Response {
    let asks = [CONSISTENCY, OFFSETS].iter().any(|header| request.headers().contains_key(header));
    let mut response = next.run(request).await;
    if !asks {
        response.headers_mut().remove(OFFSETS);
    }
    response
}

fn header_of(token: &PositionToken, key: &TokenKey) -> HeaderValue {
    HeaderValue::try_from(token.encode(key)).expect("hexadecimal digits may stand in a header")
}

/// The warnings that tell the same to people.
pub fn warnings(seen: &Seen) -> Vec<String> {
    let mut warnings = Vec::new();
    if !seen.gaps.is_empty() {
        let partitions = listed(seen.gaps.iter().map(|gap| gap.partition));
        warnings.push(format!("the answer is partial: it lacks {partitions}"));
    }
    if !seen.stale.is_empty() {
        let partitions = listed(seen.stale.iter().copied());
        warnings.push(format!(
            "the answer may be stale: this node does not hear how far the log of {partitions} goes"
        ));
    }
    warnings
}

/// Partitions that a sentence names; of more their number.
const MOST_NAMED: usize = 10;

fn listed(partitions: impl ExactSizeIterator<Item = PartitionId>) -> String {
    let count = partitions.len();
    if count > MOST_NAMED {
        return format!("{count} partitions");
    }
    let numbers: Vec<String> = partitions.map(|partition| partition.to_string()).collect();
    format!("partition{} {}", if count == 1 { "" } else { "s" }, numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::ErrorCode;
    use quorate_query::Gap;

    fn key() -> TokenKey {
        TokenKey::new(&[1; 32], 9)
    }

    fn positions(token: &[(u32, u64)]) -> PositionToken {
        let mut positions = PositionToken::default();
        token.iter().for_each(|(id, at)| positions.note(PartitionId(*id), Position(*at)));
        positions
    }

    fn text(token: &[(u32, u64)]) -> String {
        positions(token).encode(&key())
    }

    fn ask(default: Consistency, lines: &[(&str, &str)]) -> Result<ReadConsistency, ApiError> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::try_from(format!("x-read-consistency{name}")).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        asked(&headers, default, || Ok(key()))
    }

    #[track_caller]
    fn check(default: Consistency, lines: &[(&str, &str)], expected: ReadConsistency) {
        assert_eq!(ask(default, lines), Ok(expected), "{default:?} {lines:?}");
    }

    #[tokio::test]
    async fn a_read_that_does_not_speak_of_consistency_gets_no_token() {
        use axum::{Router, body::Body, middleware::from_fn, routing::get};
        use tower::ServiceExt;
        let router =
            Router::new().route("/", get(async || [(OFFSETS, "01")])).layer(from_fn(tokens_where_asked));
        for (header, has_token) in [("accept", false), (CONSISTENCY.as_str(), true), (OFFSETS.as_str(), true)]
        {
            let request = Request::builder().uri("/").header(header, "x").body(Body::empty()).unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.headers().contains_key(OFFSETS), has_token, "{header}");
        }
    }

    #[test]
    fn headers_decide_before_the_default() {
        use Consistency::{Eventual, Strong};
        for default in [Strong, Eventual] {
            check(default, &[("", "strong")], ReadConsistency::Strong);
            check(default, &[("", "eventual")], ReadConsistency::Eventual);
            check(default, &[("", "strong"), ("-max-delay", "5s")], ReadConsistency::Strong);
            let five = ReadConsistency::Bounded(Duration::from_secs(5));
            check(default, &[("", "eventual"), ("-max-delay", "5s")], five);
        }
        check(Strong, &[], ReadConsistency::Strong);
        check(Eventual, &[], ReadConsistency::Eventual);
        check(Eventual, &[("-max-delay", "0.5")], ReadConsistency::Bounded(Duration::from_millis(500)));
        check(Eventual, &[("-max-delay", "0s")], ReadConsistency::Bounded(Duration::ZERO));
    }

    #[test]
    fn tokens_are_for_sessions() {
        use Consistency::{Eventual, Strong};
        let (one, two) = (text(&[(0, 5), (1, 7)]), text(&[(1, 9)]));
        let session = |token: &[(u32, u64)]| ReadConsistency::Session(positions(token));
        check(Strong, &[("", "session"), ("-offsets", &one)], session(&[(0, 5), (1, 7)]));
        let both = format!("{one}, {two}");
        check(Strong, &[("", "session"), ("-offsets", &both)], session(&[(0, 5), (1, 9)]));
        let twice = [("", "session"), ("-offsets", &one), ("-offsets", &two)];
        check(Strong, &twice, session(&[(0, 5), (1, 9)]));
        check(Eventual, &[("-offsets", &two)], session(&[(1, 9)]));
        check(Strong, &[("-offsets", "forged")], ReadConsistency::Strong);
        check(Strong, &[("", "eventual"), ("-offsets", "forged")], ReadConsistency::Eventual);
    }

    #[track_caller]
    fn check_refused(lines: &[(&str, &str)], expected: &str) {
        let error = ask(Consistency::Strong, lines).unwrap_err();
        assert_eq!(error.code, ErrorCode::BadInput);
        assert!(error.message.contains(expected), "{}", error.message);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let good = text(&[(0, 5)]);
        check_refused(&[("", "foo")], "must be strong, session or eventual, it is \"foo\"");
        check_refused(&[("", "session")], "needs the header X-Read-Consistency-Offsets");
        check_refused(&[("", "session"), ("-offsets", " , ")], "needs the header");
        check_refused(&[("", "session"), ("-offsets", "zz")], "holds not a position token");
        let other = positions(&[(0, 5)]).encode(&TokenKey::new(&[1; 32], 8));
        for forged in [other, good.replacen("05", "06", 1)] {
            check_refused(&[("", "session"), ("-offsets", &forged)], "another cluster, or a changed one");
            let beside = format!("{good},{forged}");
            check_refused(&[("", "session"), ("-offsets", &beside)], "another cluster, or a changed one");
        }
        check_refused(&[("", "session"), ("-offsets", &good), ("-max-delay", "1s")], "for eventual reads");
        for delay in ["", "soon", "-1s", "NaN", "1e300"] {
            check_refused(&[("", "eventual"), ("-max-delay", delay)], "must be a duration");
        }
    }

    #[test]
    fn an_answer_tells_what_it_reflects() {
        let eventual = Seen::default();
        assert!(told(&eventual, &key()).is_empty() && warnings(&eventual).is_empty());
        let seen = Seen { positions: Some(positions(&[(2, 8)])), ..Seen::default() };
        assert_eq!(told(&seen, &key()), [(OFFSETS, HeaderValue::try_from(text(&[(2, 8)])).unwrap())]);
        assert_eq!(token_of(&[(PartitionId(2), Position(8))], &key()), *text(&[(2, 8)]));
        let gap = |id| Gap { partition: PartitionId(id), reason: "gone".to_owned() };
        let stale = (0..11).map(PartitionId).collect();
        let seen = Seen { positions: None, gaps: vec![gap(3), gap(5)], stale };
        assert_eq!(told(&seen, &key()), [(STALE, HeaderValue::from_static("true"))]);
        let warnings = warnings(&seen);
        let [partial, stale] = &warnings[..] else { panic!("{warnings:?}") };
        assert!(partial.ends_with("it lacks partitions 3, 5"), "{partial}");
        assert!(stale.ends_with("the log of 11 partitions goes"), "{stale}");
    }
}
