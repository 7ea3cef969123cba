//! Keys of blocks, and the checksum around every stored value (B3).
//!
//! Key: block id u64, tenant u32, kind u8, rest; all big endian, so that a tenant's records lie together.
//! Pages have no kind: block id, tenant, first ordinal u32. Value: CRC32C over key and body, little endian,
//! then the body.

use super::BlockId;
use crate::StoreError;
use quorate_kv::{Cf, Kv};
use quorate_model::TenantId;

/// Stands in place of a tenant for the record of the whole block, behind every tenant's.
pub(super) const WHOLE_BLOCK: TenantId = TenantId(u32::MAX);

/// Kinds of index records, in key order. The letters are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Kind {
    /// Label names, shapes, page directory and counts of a tenant.
    Tenant = b'd',
    /// Values of one label name and where their postings are.
    Name = b'f',
    /// Postings of one label name, part by part.
    Postings = b'p',
    /// Labels of 256 series.
    Rows = b's',
}

pub(super) fn page_key(id: BlockId, tenant: TenantId, first: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(16);
    key.extend_from_slice(&id.0.to_be_bytes());
    key.extend_from_slice(&tenant.0.to_be_bytes());
    key.extend_from_slice(&first.to_be_bytes());
    key
}

pub(super) fn idx_key(id: BlockId, tenant: TenantId, kind: Kind, numbers: &[u32]) -> Vec<u8> {
    let mut key = Vec::with_capacity(13 + 4 * numbers.len());
    key.extend_from_slice(&id.0.to_be_bytes());
    key.extend_from_slice(&tenant.0.to_be_bytes());
    key.push(kind as u8);
    numbers.iter().for_each(|number| key.extend_from_slice(&number.to_be_bytes()));
    key
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), body)
}

/// Whether a stored value is what was sealed under `key`.
pub(crate) fn is_sound(key: &[u8], stored: &[u8]) -> bool {
    let parts = stored.split_first_chunk::<BODY>();
    parts.is_some_and(|(sum, body)| checksum(key, body) == u32::from_le_bytes(*sum))
}

/// The stored value of the body of a sound one under another key, in `out`.
pub(crate) fn reseal<'a>(key: &[u8], stored: &[u8], out: &'a mut Vec<u8>) -> &'a [u8] {
    seal(key, &stored[BODY..], out)
}

/// The stored value of `body` under `key`, in `out`.
pub(super) fn seal<'a>(key: &[u8], body: &[u8], out: &'a mut Vec<u8>) -> &'a [u8] {
    out.clear();
    out.extend_from_slice(&checksum(key, body).to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// Reads a value that must be there and sound; the body begins at byte [`BODY`].
pub(super) fn fetch(kv: &dyn Kv, cf: Cf, key: &[u8]) -> Result<Vec<u8>, StoreError> {
    let stored = kv.get(cf, key)?.ok_or_else(|| damaged(cf, key, "missing"))?;
    if !is_sound(key, &stored) {
        return Err(damaged(cf, key, "too short, or a wrong checksum"));
    }
    Ok(stored)
}

/// Where the body of a stored value begins.
pub(super) const BODY: usize = 4;

/// The error for a record that cannot be what was written.
pub(crate) fn damaged(cf: Cf, key: &[u8], detail: &str) -> StoreError {
    let id = key.first_chunk::<8>().map(|id| BlockId(u64::from_be_bytes(*id)));
    let block = id.map_or_else(|| "no block".to_owned(), |id| format!("block {id}"));
    StoreError::Damaged { place: format!("{block}, {cf} key {}", hex(key)), detail: detail.to_owned() }
}

fn hex(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}
