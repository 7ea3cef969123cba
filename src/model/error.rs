//! What an error means to the caller. The server maps codes to HTTP and gRPC statuses in one place.

/// One code per thing a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The input is wrong and will stay wrong (400).
    BadInput,
    /// No usable tenant or credentials (401).
    Unauthenticated,
    /// The identity may not do this (403).
    Forbidden,
    /// No such thing (404).
    NotFound,
    /// Larger than a size limit (413).
    TooLarge,
    /// Type, encoding or protocol version unknown (415).
    UnsupportedMedia,
    /// A query is over one of its budgets or cannot be executed (422).
    Unprocessable,
    /// A rate or concurrency limit (429).
    RateLimited,
    /// Refused by a limit with no effect for certain (400).
    Refused,
    /// The caller went away (499).
    Cancelled,
    /// A bug (500).
    Internal,
    /// Not now: no quorum, overload, draining, disk full (503).
    Unavailable,
    /// The deadline of a query passed (503).
    TimedOut,
    /// Nobody knows yet whether it took effect; repeating is safe (504).
    Indeterminate,
    /// Stored bytes are damaged: never a short answer (500).
    Corrupt,
}
