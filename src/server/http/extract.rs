//! What handlers take from a request: its tenant, its parameters, its body.
//!
//! Knows headers and bodies. B1: a body is read up to its bound and one byte more, then refused; it is
//! never cut and used. B2: a body that takes too long is refused. B3: the bytes of a body, and the parameters
//! that are read from it, are taken of the node's memory for requests before they are kept, and given back when
//! the request ends.

use super::App;
use super::consistency;
use super::params::Params;
use super::reply::ApiError;
use crate::tenant;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use quorate_ingest::{Held, NoRoom};
use quorate_model::{ErrorCode, TenantId};
use quorate_query::ReadConsistency;
use std::sync::Arc;
use std::time::Duration;

/// Name of the request's tenant.
#[derive(Debug, Clone)]
pub struct Tenant(pub Arc<str>);

impl FromRequestParts<Arc<App>> for Tenant {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        Ok(Self(tenant::resolve(&parts.headers, app.multitenancy())?))
    }
}

/// Who reads, and how fresh.
#[derive(Debug, Clone)]
pub struct Reader {
    /// Name of the request's tenant.
    pub tenant: Arc<str>,
    /// What it has to see.
    pub consistency: ReadConsistency,
}

impl FromRequestParts<Arc<App>> for Reader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let Tenant(tenant) = Tenant::from_request_parts(parts, app).await?;
        let default = app.config().read_consistency();
        let key = || Ok(app.services()?.token_key.clone());
        let consistency = consistency::asked(&parts.headers, default, key)?;
        Ok(Self { tenant, consistency })
    }
}

impl Reader {
    /// Number of the tenant; `None` if it never wrote. A strong read knows tenants that wrote at another node too.
    ///
    /// # Errors
    /// 503 while the node starts, or when a strong read cannot be sure.
    pub async fn tenant_id(&self, app: &App) -> Result<Option<TenantId>, ApiError> {
        let services = app.services()?;
        let known = services.meta.tenant(&self.tenant);
        if known.is_some() || !services.is_shared || self.consistency == ReadConsistency::Eventual {
            return Ok(known);
        }
        let fresh = services.meta.fresh().await;
        fresh.map_err(|error| ApiError::new(ErrorCode::Unavailable, error.to_string()))?;
        Ok(services.meta.tenant(&self.tenant))
    }
}

/// The decoded parameters of a GET or of a POST form.
#[derive(Debug)]
pub struct Form(pub Params);

impl FromRequest<Arc<App>> for Form {
    type Rejection = Response;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let config = app.config();
        let max = config.http.max_form_body.as_usize();
        let query = parts.uri.query().unwrap_or_default();
        if !is_form(&parts) {
            return Params::decode(&[], query).map(Self).map_err(IntoResponse::into_response);
        }
        let mut held = app.in_flight().enter();
        let reading = read_body(&parts.headers, body, max, config.http.body_timeout.into(), &mut held);
        let body = reading.await.map_err(BodyError::into_response)?;
        let decoded = Params::decoded_bytes(&body, query);
        held.grow(decoded).map_err(|full| BodyError::NoRoom(full).into_response())?;
        let params = Params::decode(&body, query).map_err(IntoResponse::into_response)?;
        held.shrink_to(decoded);
        Ok(Self(params.holding(held)))
    }
}

fn is_form(parts: &Parts) -> bool {
    let kind =
        parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    parts.method == Method::POST && kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// Why there is no body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyError {
    /// Longer than its bound.
    TooLarge(usize),
    /// It took too long to arrive.
    TooSlow,
    /// The connection or its framing broke.
    Broken(String),
    /// Other requests take the memory that it needs.
    NoRoom(NoRoom),
}

impl BodyError {
    /// The status and what the client reads.
    pub fn describe(&self) -> (StatusCode, String) {
        match self {
            Self::TooLarge(max) => {
                (StatusCode::PAYLOAD_TOO_LARGE, format!("the body is over the limit of {max} bytes"))
            }
            Self::NoRoom(NoRoom { used, limit }) => {
                let message =
                    format!("requests that are read take {used} of the node's {limit} bytes for them");
                (StatusCode::SERVICE_UNAVAILABLE, message)
            }
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive".to_owned()),
            Self::Broken(reason) => {
                (StatusCode::BAD_REQUEST, format!("the body could not be read: {reason}"))
            }
        }
    }
}

impl IntoResponse for BodyError {
    fn into_response(self) -> Response {
        let (status, message) = self.describe();
        let code = match self {
            Self::TooLarge(_) => ErrorCode::TooLarge,
            Self::NoRoom(_) => ErrorCode::Unavailable,
            Self::TooSlow | Self::Broken(_) => ErrorCode::BadInput,
        };
        let mut response = ApiError::new(code, message).into_response();
        *response.status_mut() = status;
        response
    }
}

/// Reads a whole body of at most `max` bytes within `timeout`, with `held` taking the bytes of the node's memory
/// before they are kept.
///
/// A declared length over the bound, or for which there is no room, is refused before anything is read, but it is
/// only taken as it arrives: a client that declares much and sends nothing holds nothing.
///
/// # Errors
/// [`BodyError`].
pub async fn read_body(
    headers: &HeaderMap,
    body: Body,
    max: usize,
    timeout: Duration,
    held: &mut Held,
) -> Result<Bytes, BodyError> {
    if let Some(length) = declared_length(headers, max)? {
        held.try_room(length).map_err(BodyError::NoRoom)?;
    }
    let reading = async {
        let mut body = Limited::new(body, max);
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| match error.is::<LengthLimitError>() {
                true => BodyError::TooLarge(max),
                false => BodyError::Broken(error.to_string()),
            })?;
            if let Ok(data) = frame.into_data() {
                held.grow(data.len()).map_err(BodyError::NoRoom)?;
                bytes.extend_from_slice(&data);
            }
        }
        Ok(bytes.freeze())
    };
    tokio::time::timeout(timeout, reading).await.unwrap_or(Err(BodyError::TooSlow))
}

/// The length that a request declares; one over `max` is refused.
fn declared_length(headers: &HeaderMap, max: usize) -> Result<Option<usize>, BodyError> {
    let declared =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match declared {
        Some(length) if length > max as u64 => Err(BodyError::TooLarge(max)),
        length => Ok(length.map(|length| length as usize)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use quorate_ingest::InFlight;

    #[tokio::test]
    async fn a_body_takes_room_as_it_arrives() {
        let node = InFlight::new(1_000);
        let mut other = node.enter();
        other.grow(600).unwrap();
        let read = async |declared: Option<u64>, length: usize| {
            let mut headers = HeaderMap::new();
            if let Some(declared) = declared {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(declared));
            }
            let mut held = node.enter();
            let body = Body::from(vec![b'x'; length]);
            let read = read_body(&headers, body, 2_000, Duration::from_secs(60), &mut held).await;
            (read.map(|bytes| bytes.len()), held.bytes())
        };
        let full = |used| Err(BodyError::NoRoom(NoRoom { used, limit: 1_000 }));
        assert_eq!(read(Some(401), 401).await, (full(600), 0));
        assert_eq!(read(None, 401).await, (full(600), 0));
        assert_eq!(read(Some(400), 400).await, (Ok(400), 400));
        assert_eq!(read(Some(400), 7).await, (Ok(7), 7), "what is declared and not sent takes nothing");
        assert_eq!(read(Some(2_001), 0).await, (Err(BodyError::TooLarge(2_000)), 0));
        assert_eq!(read(None, 2_001).await.0, Err(BodyError::TooLarge(2_000)));
        drop(other);
        assert_eq!(read(None, 1_500).await, (Ok(1_500), 1_500), "alone, it may pass the bound");
        assert_eq!(node.used(), 0);
    }
}
