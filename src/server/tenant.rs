//! Which tenant a request belongs to: the rules of `X-Scope-OrgID`.
//!
//! Knows header values and names. Does not know tenant numbers: names become numbers in the metadata group.
//! T1: a name that leaves this file is 1 to 150 bytes of `A-Za-z0-9!-_.*'()` and is never `.`, `..` or
//! reserved, so it is safe in a log line and a metric label; it is never used as a path.

use crate::config::Multitenancy;
use axum::http::HeaderMap;
use quorate_model::ErrorCode;
use std::sync::Arc;

/// The tenant of requests that name none.
pub const ANONYMOUS: &str = "anonymous";
/// The header that names the tenant.
pub const HEADER: &str = "x-scope-orgid";
/// Longest tenant name in bytes.
pub const MAX_NAME: usize = 150;
/// Names with this start are kept for Quorate itself.
const RESERVED_PREFIX: &str = "__";

/// Why a request has no tenant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TenantError {
    /// The header is needed and absent.
    #[error("no org id: the header X-Scope-OrgID is required")]
    Missing,
    /// More than one header.
    #[error("the header X-Scope-OrgID is given {0} times")]
    Repeated(usize),
    /// Several tenants in one request.
    #[error("requests over several tenants are not enabled")]
    Federated,
    /// A name that is kept for Quorate itself.
    #[error("tenant names that start with {RESERVED_PREFIX} are reserved")]
    Reserved,
    /// Too long.
    #[error("tenant name of {0} bytes is over the limit of {MAX_NAME}")]
    TooLong(usize),
    /// Empty, `.`, `..`, or a byte that names may not have.
    #[error("tenant name {0:?} is not allowed: use A-Z a-z 0-9 ! - _ . * ' ( )")]
    Invalid(String),
}

impl TenantError {
    /// What the caller can do about it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Missing => ErrorCode::Unauthenticated,
            Self::Federated | Self::Reserved => ErrorCode::Forbidden,
            Self::Repeated(_) | Self::TooLong(_) | Self::Invalid(_) => ErrorCode::BadInput,
        }
    }
}

/// The tenant that `headers` name under `policy`.
///
/// # Errors
/// [`TenantError`]; the name of another tenant is never part of it.
pub fn resolve(headers: &HeaderMap, policy: Multitenancy) -> Result<Arc<str>, TenantError> {
    if policy == Multitenancy::Off {
        return Ok(Arc::from(ANONYMOUS));
    }
    let mut values = headers.get_all(HEADER).iter();
    let first = values.next();
    let further = values.count();
    if further > 0 {
        return Err(TenantError::Repeated(further + 1));
    }
    let name = match first.map(|value| value.as_bytes()) {
        None | Some(b"") if policy == Multitenancy::Optional => return Ok(Arc::from(ANONYMOUS)),
        None | Some(b"") => return Err(TenantError::Missing),
        Some(bytes) => std::str::from_utf8(bytes)
            .map_err(|_| TenantError::Invalid(String::from_utf8_lossy(bytes).into_owned()))?,
    };
    check_name(name)?;
    Ok(Arc::from(name))
}

/// Whether `name` may name a tenant.
///
/// # Errors
/// [`TenantError`] with the reason.
pub fn check_name(name: &str) -> Result<(), TenantError> {
    if name.len() > MAX_NAME {
        return Err(TenantError::TooLong(name.len()));
    }
    if name.contains('|') {
        return Err(TenantError::Federated);
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!-_.*'()".contains(&byte);
    if name.is_empty() || name == "." || name == ".." || !name.bytes().all(allowed) {
        return Err(TenantError::Invalid(name.to_owned()));
    }
    if name.starts_with(RESERVED_PREFIX) {
        return Err(TenantError::Reserved);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[track_caller]
    fn check(policy: Multitenancy, values: &[&str], expected: Result<&str, ErrorCode>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let got = resolve(&headers, policy).map_err(|e| e.code());
        assert_eq!(got.as_deref().map_err(|e| *e), expected, "{policy:?} {values:?}");
    }

    #[test]
    fn the_policy_decides_about_requests_without_a_name() {
        check(Multitenancy::Required, &[], Err(ErrorCode::Unauthenticated));
        check(Multitenancy::Required, &[""], Err(ErrorCode::Unauthenticated));
        check(Multitenancy::Optional, &[], Ok(ANONYMOUS));
        check(Multitenancy::Optional, &["team-a"], Ok("team-a"));
        check(Multitenancy::Off, &["team-a"], Ok(ANONYMOUS));
    }

    #[test]
    fn names_follow_mimirs_rules() {
        check(Multitenancy::Required, &["A.z_0!-*'()"], Ok("A.z_0!-*'()"));
        for bad in [".", "..", "a/b", "%2e%2e", "%252e", "a b", "a\tb", "ä", "a\\b", "a:b"] {
            check(Multitenancy::Required, &[bad], Err(ErrorCode::BadInput));
        }
        check(Multitenancy::Required, &["a", "b"], Err(ErrorCode::BadInput));
        check(Multitenancy::Required, &["a", "a"], Err(ErrorCode::BadInput));
        check(Multitenancy::Required, &["a|b"], Err(ErrorCode::Forbidden));
        check(Multitenancy::Required, &["__internal"], Err(ErrorCode::Forbidden));
        check(Multitenancy::Required, &["__mimir_cluster"], Err(ErrorCode::Forbidden));
        check(Multitenancy::Required, &[&"x".repeat(MAX_NAME)], Ok(&"x".repeat(MAX_NAME)));
        check(Multitenancy::Required, &[&"x".repeat(MAX_NAME + 1)], Err(ErrorCode::BadInput));
    }
}
