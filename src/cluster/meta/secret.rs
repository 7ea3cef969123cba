//! The cluster's secret: random bytes that every node knows and no client, made once.
//!
//! Knows bytes. Does not know what is made from them. It stands in the log and in images of the metadata, and travels
//! between nodes with them: whoever reads a data dir or the nodes' connections knows it.

use super::command::{Command, Response};
use super::{MetaError, MetaHandle, stopped, unexpected};
use std::fmt;

/// Bytes of the secret.
pub const SECRET_BYTES: usize = 32;

/// The secret. It is not shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub(super) [u8; SECRET_BYTES]);

impl Secret {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl MetaHandle {
    /// The cluster's secret, made now if there is none.
    ///
    /// # Errors
    /// [`MetaError`] if one has to be made and is not.
    pub async fn secret(&self) -> Result<Secret, MetaError> {
        let known = || self.read(|state| state.secret());
        if let Some(secret) = known() {
            return Ok(secret);
        }
        // Another node may have been first; its secret is the cluster's then.
        match self.propose(Command::GiveSecret { secret: Secret(rand::random()) }).await? {
            Response::Done => known().ok_or_else(|| stopped("it has no secret after it took one")),
            other => Err(unexpected(other)),
        }
    }
}
