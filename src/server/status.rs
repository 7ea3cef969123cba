//! Error codes become HTTP statuses here and nowhere else.
//!
//! Knows `model::ErrorCode`, the code table of the HTTP API and Prometheus' error types.

use axum::http::StatusCode;
use quorate_model::ErrorCode;

/// Status of a client that went away before its answer; only ever seen in logs and metrics.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// The HTTP status of an error.
pub fn http_status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadInput | ErrorCode::Refused => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::UnsupportedMedia => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorCode::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Cancelled => {
            StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::BAD_REQUEST)
        }
        ErrorCode::Internal | ErrorCode::Corrupt => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::Unavailable | ErrorCode::TimedOut => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Indeterminate => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// Prometheus' `errorType` of an error.
pub fn error_type(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BadInput
        | ErrorCode::Refused
        | ErrorCode::Unauthenticated
        | ErrorCode::Forbidden
        | ErrorCode::TooLarge
        | ErrorCode::UnsupportedMedia => "bad_data",
        ErrorCode::NotFound => "not_found",
        ErrorCode::Unprocessable => "execution",
        ErrorCode::RateLimited => "too_many_requests",
        ErrorCode::Cancelled => "canceled",
        ErrorCode::TimedOut => "timeout",
        ErrorCode::Unavailable | ErrorCode::Indeterminate => "unavailable",
        ErrorCode::Internal | ErrorCode::Corrupt => "internal",
    }
}

/// Seconds after which a refused request may be sent again, for the codes where that can help. `any` is any number.
pub fn retry_after_seconds(code: ErrorCode, attempt: u32, any: u64) -> Option<u64> {
    match code {
        ErrorCode::RateLimited | ErrorCode::Unavailable | ErrorCode::TimedOut => {
            Some(spread(1 << attempt.min(5), any))
        }
        _ => None,
    }
}

/// At least `seconds`, and up to half as many more by `any` number, rounded up: what was refused at once does not
/// come back at once.
pub fn spread(seconds: u64, any: u64) -> u64 {
    let seconds = seconds.max(1);
    seconds + any % (seconds.div_ceil(2) + 1)
}

/// Another number at each call.
pub fn any_number() -> u64 {
    rand::random()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_have_the_statuses_of_the_code_table() {
        let table = [
            (ErrorCode::BadInput, 400, "bad_data"),
            (ErrorCode::Unauthenticated, 401, "bad_data"),
            (ErrorCode::Forbidden, 403, "bad_data"),
            (ErrorCode::NotFound, 404, "not_found"),
            (ErrorCode::TooLarge, 413, "bad_data"),
            (ErrorCode::UnsupportedMedia, 415, "bad_data"),
            (ErrorCode::Unprocessable, 422, "execution"),
            (ErrorCode::RateLimited, 429, "too_many_requests"),
            (ErrorCode::Refused, 400, "bad_data"),
            (ErrorCode::Cancelled, 499, "canceled"),
            (ErrorCode::Internal, 500, "internal"),
            (ErrorCode::Unavailable, 503, "unavailable"),
            (ErrorCode::TimedOut, 503, "timeout"),
            (ErrorCode::Indeterminate, 504, "unavailable"),
            (ErrorCode::Corrupt, 500, "internal"),
        ];
        for (code, status, kind) in table {
            assert_eq!((http_status(code).as_u16(), error_type(code)), (status, kind), "{code:?}");
        }
    }

    #[test]
    fn only_refusals_that_pass_ask_to_come_back() {
        assert_eq!(retry_after_seconds(ErrorCode::RateLimited, 0, 0), Some(1));
        assert_eq!(retry_after_seconds(ErrorCode::Unavailable, 3, 0), Some(8));
        assert_eq!(retry_after_seconds(ErrorCode::Unavailable, u32::MAX, 0), Some(32));
        assert_eq!(retry_after_seconds(ErrorCode::BadInput, 0, 0), None);
    }

    #[test]
    fn waits_are_spread_over_half_as_much_again() {
        let spreads = |seconds| (0..1_000).map(|any| spread(seconds, any)).collect::<BTreeSet<_>>();
        assert_eq!(spreads(0), BTreeSet::from([1, 2]));
        assert_eq!(spreads(1), BTreeSet::from([1, 2]));
        assert_eq!(spreads(8), (8..=12).collect());
        assert_eq!(spreads(100), (100..=150).collect());
    }
}
