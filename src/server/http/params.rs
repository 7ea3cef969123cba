//! Parameters of a request: the query string and, for POST, a form body.
//!
//! Knows percent-encoding and repeated names. As with Go's `FormValue`, the body comes before the query
//! string. B1: a body and a query string are bounded before they are decoded, and so is their number.

use super::reply::ApiError;
use super::time::{parse_duration_ns, parse_time, quoted};
use quorate_ingest::Held;
use std::time::Duration;

/// Most parameters of one request.
const MAX_PARAMETERS: usize = 10_000;
/// Most `match[]` parameters of one request.
const MAX_MATCHERS: usize = 1_000;

/// What a parameter takes beside its text.
const PARAMETER_BYTES: usize = size_of::<(String, String)>();

/// The decoded parameters in order.
#[derive(Debug, Default)]
pub struct Params {
    pairs: Vec<(String, String)>,
    /// The memory that they are charged with, given back with them.
    _held: Option<Held>,
}

impl Params {
    /// Decodes a form body, then the query string.
    ///
    /// # Errors
    /// 400 for a wrong escape, bytes that are not UTF-8, or too many parameters.
    pub fn decode(body: &[u8], query: &str) -> Result<Self, ApiError> {
        let mut pairs = Vec::new();
        for part in body.split(|b| *b == b'&').chain(query.as_bytes().split(|b| *b == b'&')) {
            if part.is_empty() {
                continue;
            }
            if pairs.len() == MAX_PARAMETERS {
                return Err(ApiError::bad(format!("more than {MAX_PARAMETERS} parameters")));
            }
            let mut halves = part.splitn(2, |b| *b == b'=');
            let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
            pairs.push((decode_component(name)?, decode_component(value)?));
        }
        Ok(Self { pairs, _held: None })
    }

    /// Bytes that decoding takes, at most: no escape is shorter than what it stands for.
    pub fn decoded_bytes(body: &[u8], query: &str) -> usize {
        let separators = body.iter().chain(query.as_bytes()).filter(|b| **b == b'&').count();
        body.len() + query.len() + (separators + 2).min(MAX_PARAMETERS) * PARAMETER_BYTES
    }

    /// Keeps `held` for as long as the parameters are kept.
    #[must_use]
    pub fn holding(self, held: Held) -> Self {
        Self { _held: Some(held), ..self }
    }

    /// The first value of `name`, empty ones included.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The first value of `name` unless it is empty, which Prometheus takes for absent.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// The selectors of `match[]`.
    ///
    /// # Errors
    /// 400 if there are too many.
    pub fn matchers(&self) -> Result<Vec<&str>, ApiError> {
        let found: Vec<&str> =
            self.pairs.iter().filter(|(n, _)| n == "match[]").map(|(_, value)| value.as_str()).collect();
        if found.len() > MAX_MATCHERS {
            return Err(ApiError::bad(format!("more than {MAX_MATCHERS} match[] parameters")));
        }
        Ok(found)
    }

    /// A time in milliseconds, or `default` if it is absent.
    ///
    /// # Errors
    /// 400 as Prometheus words it.
    pub fn time(&self, name: &str, default: i64) -> Result<i64, ApiError> {
        match self.given(name) {
            None => Ok(default),
            Some(text) => parse_time(text).map_err(|error| ApiError::parameter(name, &error)),
        }
    }

    /// A time that must be given.
    ///
    /// # Errors
    /// 400 as Prometheus words it.
    pub fn required_time(&self, name: &str) -> Result<i64, ApiError> {
        parse_time(self.get(name).unwrap_or_default()).map_err(|error| ApiError::parameter(name, &error))
    }

    /// The step of a range in milliseconds, at least 1.
    ///
    /// # Errors
    /// 400 as Prometheus words it; also for a step below one millisecond, which its times cannot show.
    pub fn step_ms(&self) -> Result<i64, ApiError> {
        let text = self.get("step").unwrap_or_default();
        let ns = parse_duration_ns(text).map_err(|error| ApiError::parameter("step", &error))?;
        if ns < 1_000_000 {
            return Err(ApiError::parameter(
                "step",
                "zero or negative query resolution step widths are not accepted. Try a positive integer",
            ));
        }
        Ok(ns / 1_000_000)
    }

    /// The time that the client allows for the query.
    ///
    /// # Errors
    /// 400 as Prometheus words it.
    pub fn timeout(&self) -> Result<Option<Duration>, ApiError> {
        let Some(text) = self.given("timeout") else { return Ok(None) };
        let ns = match text.strip_suffix("ns").map(str::parse::<i64>) {
            Some(Ok(ns)) => ns,
            _ => parse_duration_ns(text).map_err(|error| ApiError::parameter("timeout", &error))?,
        };
        Ok(Some(Duration::from_nanos(u64::try_from(ns).unwrap_or(0))))
    }

    /// How far instant selectors look back, in milliseconds, if the request says; 0 or less says nothing, as in
    /// Prometheus.
    ///
    /// # Errors
    /// 400 as Prometheus words it.
    pub fn lookback_delta_ms(&self) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.given("lookback_delta") else { return Ok(None) };
        let ns = parse_duration_ns(text)
            .map_err(|error| ApiError::bad(format!("error parsing lookback delta duration: {error}")))?;
        Ok((ns > 0).then_some(ns / 1_000_000))
    }

    /// Whether a switch is on.
    ///
    /// # Errors
    /// 400 if it is neither on nor off.
    pub fn switch(&self, name: &str) -> Result<bool, ApiError> {
        match self.given(name) {
            Some("1" | "true") => Ok(true),
            None | Some("0" | "false") => Ok(false),
            Some(other) => Err(ApiError::parameter(name, &format!("{} is neither 1 nor 0", quoted(other)))),
        }
    }

    /// Most entries of the answer; `None` without a bound, which is also what 0 means.
    ///
    /// # Errors
    /// 400 as Prometheus words it.
    pub fn limit(&self, name: &str) -> Result<Option<usize>, ApiError> {
        let Some(text) = self.given(name) else { return Ok(None) };
        let limit: i64 = text
            .parse()
            .map_err(|_| ApiError::parameter(name, &format!("cannot parse {} to a number", quoted(text))))?;
        if limit < 0 {
            return Err(ApiError::parameter(name, "limit must be non-negative"));
        }
        Ok(usize::try_from(limit).ok().filter(|limit| *limit > 0))
    }
}

fn decode_component(text: &[u8]) -> Result<String, ApiError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
                let (Some(high), Some(low)) = (digit(text.get(at)), digit(text.get(at + 1))) else {
                    let escape = String::from_utf8_lossy(&text[at - 1..text.len().min(at + 2)]);
                    return Err(ApiError::bad(format!("invalid URL escape {escape:?}")));
                };
                bytes.push((high * 16 + low) as u8);
                at += 2;
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| ApiError::bad("a parameter is not valid UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_model::ErrorCode;

    fn params(query: &str) -> Params {
        Params::decode(b"", query).unwrap()
    }

    #[test]
    fn the_body_comes_before_the_query_string() {
        let params = Params::decode(b"query=a%2Bb+c&match[]=x", "query=other&match%5B%5D=y&flag").unwrap();
        assert_eq!(params.get("query"), Some("a+b c"));
        assert_eq!(params.matchers().unwrap(), ["x", "y"]);
        assert_eq!(params.get("flag"), Some(""));
        assert_eq!(params.given("flag"), None);
    }

    #[test]
    fn damaged_encodings_are_refused() {
        for bad in ["a=%", "a=%2", "a=%zz", "a=%ff", "%c3=1"] {
            assert_eq!(Params::decode(b"", bad).unwrap_err().code, ErrorCode::BadInput, "{bad}");
        }
        let many = "match[]=a&".repeat(MAX_MATCHERS + 1);
        assert!(params(&many).matchers().is_err());
        assert!(Params::decode(b"", &"a&".repeat(MAX_PARAMETERS + 1)).is_err());
    }

    #[track_caller]
    fn check_error<T: std::fmt::Debug>(got: Result<T, ApiError>, expected: &str) {
        assert_eq!(got.unwrap_err().message, expected);
    }

    #[test]
    fn errors_are_worded_as_prometheus_words_them() {
        check_error(
            params("time=foo").time("time", 0),
            "invalid parameter \"time\": cannot parse \"foo\" to a valid timestamp",
        );
        check_error(
            params("step=0").step_ms(),
            "invalid parameter \"step\": zero or negative query resolution step widths are not accepted. \
             Try a positive integer",
        );
        check_error(
            params("").required_time("start"),
            "invalid parameter \"start\": cannot parse \"\" to a valid timestamp",
        );
        check_error(
            params("limit=-1").limit("limit"),
            "invalid parameter \"limit\": limit must be non-negative",
        );
    }

    #[test]
    fn a_switch_is_on_or_off() {
        for (query, expected) in [("", false), ("p=", false), ("p=0", false), ("p=1", true), ("p=true", true)]
        {
            assert_eq!(params(query).switch("p"), Ok(expected), "{query}");
        }
        check_error(params("p=yes").switch("p"), "invalid parameter \"p\": \"yes\" is neither 1 nor 0");
    }

    #[test]
    fn absent_values_have_defaults() {
        assert_eq!(params("time=").time("time", 7).unwrap(), 7);
        assert_eq!(params("limit=0").limit("limit").unwrap(), None);
        assert_eq!(params("limit=3").limit("limit").unwrap(), Some(3));
        assert_eq!(params("timeout=1ns").timeout().unwrap(), Some(Duration::from_nanos(1)));
        assert_eq!(params("timeout=2m").timeout().unwrap(), Some(Duration::from_secs(120)));
        assert_eq!(params("step=15s").step_ms().unwrap(), 15_000);
        assert_eq!(params("step=0.5").step_ms().unwrap(), 500);
        assert_eq!(params("").lookback_delta_ms().unwrap(), None);
        assert_eq!(params("lookback_delta=30s").lookback_delta_ms().unwrap(), Some(30_000));
        for default in ["0", "0s", "-1"] {
            assert_eq!(params(&format!("lookback_delta={default}")).lookback_delta_ms().unwrap(), None);
        }
    }
}
