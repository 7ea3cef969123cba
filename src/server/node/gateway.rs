//! The way in of a write, whether a request or a record brings it: its tenant's number, then the distributor.
//!
//! Knows tenants by name. Does not know HTTP or Kafka.
//! Path: `http::write`, [`super::sources`] -> **here** -> `ingest::Distributor`.
//! G1: a tenant gets its number for something to store, and not for what is refused.

use super::services::Services;
use quorate_cluster::MetaError;
use quorate_ingest::{Held, WriteError, WriteOutcome, WriteRequest};
use quorate_model::{ErrorCode, TenantId};
use std::sync::Arc;

/// A tenant that has no number yet; numbers begin with 1.
pub const UNNUMBERED: TenantId = TenantId(0);

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// A client, which can send less at once.
    Request,
    /// A record, which is as large as it is: see `Distributor::write_patiently`.
    Record,
}

/// Why a write has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The distributor's reason.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The tenant gets no number.
    #[error(transparent)]
    Tenant(#[from] MetaError),
}

impl GatewayError {
    /// What the caller can do.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Write(error) => error.code(),
            Self::Tenant(error) => error.code(),
        }
    }
}

impl Services {
    /// Writes a request whose tenant is known by its name; its number in the request is not looked at.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn write(
        self: &Arc<Self>,
        mut request: WriteRequest,
        mut held: Held,
        max_tenants: usize,
        writer: Writer,
    ) -> Result<WriteOutcome, GatewayError> {
        request.tenant = self.meta.tenant(&request.tenant_name).unwrap_or(UNNUMBERED);
        if request.tenant == UNNUMBERED {
            let preview = self.distributor.preview(request.clone(), held).await;
            let (answer, rest) = preview.map_err(|error| self.failed(error))?;
            if let Some(outcome) = answer {
                return Ok(outcome);
            }
            request.tenant = self.meta.intern_tenant(&request.tenant_name, max_tenants).await?;
            held = rest;
        }
        let written = match writer {
            Writer::Request => self.distributor.write(request, held).await,
            Writer::Record => self.distributor.write_patiently(request, held).await,
        };
        written.map_err(|error| self.failed(error))
    }

    fn failed(self: &Arc<Self>, error: WriteError) -> GatewayError {
        match &error {
            WriteError::SessionUsedUp => self.renew_session(),
            WriteError::Internal { .. } => tracing::error!(%error, "a write failed"),
            _ => {}
        }
        error.into()
    }
}
