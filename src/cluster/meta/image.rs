//! The metadata state at one position, in a file. The page is `docs/formats/meta.md`.
//!
//! Written under another name, synced, renamed over the old one, and the directory synced: a crash leaves the
//! old image or the new one, never half of one.

use super::{MetaError, MetaState};
use quorate_model::Position;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"QRT-META";
const VERSION: u32 = 1;
const HEADER: usize = 8 + 4 + 8 + 4;

/// Magic, version u32, position u64, CRC-32C u32 of what follows: cluster id u128, nodes (count u32, each
/// name and incarnation u32), tenants (count u32, each name). Names are a length u32 and UTF-8.
pub(super) fn encode(position: Position, state: &MetaState) -> Vec<u8> {
    let mut body = state.cluster_id.to_le_bytes().to_vec();
    body.extend((state.nodes.len() as u32).to_le_bytes());
    for (name, incarnation) in &state.nodes {
        put_name(&mut body, name);
        body.extend(incarnation.to_le_bytes());
    }
    body.extend((state.tenants.len() as u32).to_le_bytes());
    for name in &state.tenants {
        put_name(&mut body, name);
    }
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend(position.0.to_le_bytes());
    out.extend(crc32c::crc32c_append(crc32c::crc32c(&position.0.to_le_bytes()), &body).to_le_bytes());
    out.extend(body);
    out
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    out.extend((name.len() as u32).to_le_bytes());
    out.extend(name.as_bytes());
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Position, MetaState), String> {
    let mut reader = Reader(bytes);
    if reader.take(8)? != MAGIC {
        return Err("it does not begin with its magic number".to_owned());
    }
    let version = reader.u32()?;
    if version != VERSION {
        return Err(format!("its version is {version}, this build reads {VERSION}"));
    }
    let position = u64::from_le_bytes(reader.array()?);
    let checksum = reader.u32()?;
    if crc32c::crc32c_append(crc32c::crc32c(&position.to_le_bytes()), reader.0) != checksum {
        return Err("its checksum does not match".to_owned());
    }
    let cluster_id = u128::from_le_bytes(reader.array()?);
    let mut nodes = BTreeMap::new();
    for _ in 0..reader.u32()? {
        nodes.insert(reader.name()?, reader.u32()?);
    }
    let mut tenants: Vec<Arc<str>> = Vec::new();
    for _ in 0..reader.u32()? {
        tenants.push(reader.name()?.into());
    }
    if !reader.0.is_empty() {
        return Err(format!("{} bytes are left over", reader.0.len()));
    }
    Ok((Position(position), MetaState::restore(cluster_id, nodes, tenants)))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("it ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "it ends too early".to_owned())
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn name(&mut self) -> Result<String, String> {
        let length = self.u32()? as usize;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| "a name is not UTF-8".to_owned())
    }
}

/// The stored state, or the empty one before every position if none was stored.
pub(super) fn load(path: &Path) -> Result<(Position, MetaState), MetaError> {
    match fs::read(path) {
        Ok(bytes) => {
            decode(&bytes).map_err(|detail| MetaError::Damaged { place: path.display().to_string(), detail })
        }
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(Default::default()),
        Err(cause) => Err(MetaError::File { path: path.to_owned(), cause }),
    }
}

/// Replaces the stored image.
pub(super) fn store(path: &Path, bytes: &[u8]) -> Result<(), MetaError> {
    let new = path.with_extension("image.new");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    };
    write().map_err(|cause| MetaError::File { path: path.to_owned(), cause })
}
