//! The metadata state at one position, in a file or on its way to another node. The page is `docs/formats/meta.md`.
//!
//! In the newest version that every node of the cluster reads, which holds all that its state may have by then.
//! Written under another name, synced, renamed over the old one, and the directory synced: a crash leaves the
//! old image or the new one, never half of one.

use super::bytes::{Reader, Writer};
use super::command::{NodeState, put_nodes, read_nodes};
use super::gates::{MetaVersion, Reads};
use super::log::{put_log, read_log};
use super::state::{NodeEntry, PartitionEntry};
use super::{MetaError, MetaState};
use quorate_model::{NodeId, Position};
use quorate_raft::disk::{Disk, Open, read_all};
use std::io;
use std::path::Path;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"QRT-META";
/// The newest version; those that are written stand in the table of `gates`.
const NEWEST: u32 = 5;
const HEADER: usize = 8 + 4 + 8 + 4;

/// Magic, version u32, position u64, CRC-32C u32 of position and body, body.
pub(super) fn encode(position: Position, state: &MetaState) -> Vec<u8> {
    let version = state.version.image();
    let mut body = Writer::default();
    body.u128(state.cluster_id);
    body.u64(state.next_node);
    body.count(state.nodes.len());
    for (node, entry) in &state.nodes {
        body.u64(node.0);
        [&entry.name, &entry.address, &entry.zone].into_iter().for_each(|text| body.text(text));
        body.u32(entry.incarnation);
        body.u8(entry.state.number());
    }
    body.u8(state.replication);
    body.u32(state.epoch);
    body.count(state.partitions.len());
    for entry in &state.partitions {
        put_nodes(&mut body, &entry.first);
        put_nodes(&mut body, &entry.replicas);
    }
    body.count(state.tenants.len());
    state.tenants.iter().for_each(|name| body.text(name));
    if version > 2 {
        body.u8(u8::from(state.secret.is_some()));
        state.secret.iter().for_each(|secret| body.secret(secret));
    }
    if version > 3 {
        put_gates(&mut body, state);
    }
    if version > 4 {
        put_log(&mut body, state.log.as_ref());
    }
    let body = body.0;
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend(MAGIC);
    out.extend(version.to_le_bytes());
    out.extend(position.0.to_le_bytes());
    out.extend(crc32c::crc32c_append(crc32c::crc32c(&position.0.to_le_bytes()), &body).to_le_bytes());
    out.extend(body);
    out
}

/// Active version u32, and of each node its revision u32 and, behind a 1, what it reads.
fn put_gates(body: &mut Writer, state: &MetaState) {
    body.u32(state.version.0);
    for entry in state.nodes.values() {
        body.u32(entry.revision);
        body.u8(u8::from(entry.reads.is_some()));
        entry.reads.iter().for_each(|reads| reads.put(body));
    }
}

fn read_gates(reader: &mut Reader<'_>, state: &mut MetaState) -> Result<(), String> {
    state.version = MetaVersion(reader.u32()?);
    for entry in state.nodes.values_mut() {
        entry.revision = reader.u32()?;
        entry.reads = match reader.u8()? {
            0 => None,
            1 => Some(Reads::read(reader)?),
            other => return Err(format!("{other} instead of whether a node told what it reads")),
        };
    }
    Ok(())
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Position, MetaState), String> {
    let mut reader = Reader(bytes);
    if reader.take(8)? != MAGIC {
        return Err("it does not begin with its magic number".to_owned());
    }
    let version = reader.u32()?;
    if !(1..=NEWEST).contains(&version) {
        return Err(format!("its version is {version}, this build reads 1 to {NEWEST}"));
    }
    let position = reader.u64()?;
    let checksum = reader.u32()?;
    if crc32c::crc32c_append(crc32c::crc32c(&position.to_le_bytes()), reader.0) != checksum {
        return Err("its checksum does not match".to_owned());
    }
    let mut state = MetaState { cluster_id: reader.u128()?, ..MetaState::default() };
    match version {
        1 => read_nodes_alone(&mut reader, &mut state)?,
        _ => read_cluster(&mut reader, &mut state)?,
    }
    let tenants = (0..reader.count(4)?).map(|_| Ok(Arc::from(reader.text()?)));
    state.set_tenants(tenants.collect::<Result<_, String>>()?);
    if version > 2 {
        state.version = MetaVersion::SECRET;
        state.secret = match reader.u8()? {
            0 => None,
            1 => Some(reader.secret()?),
            other => return Err(format!("{other} instead of whether there is a secret")),
        };
    }
    if version > 3 {
        read_gates(&mut reader, &mut state)?;
    }
    if version > 4 {
        state.log = read_log(&mut reader)?;
    }
    reader.end()?;
    Ok((Position(position), state))
}

/// Version 1: a node that was always alone, called by its number.
fn read_nodes_alone(reader: &mut Reader<'_>, state: &mut MetaState) -> Result<(), String> {
    for _ in 0..reader.count(8)? {
        let name = reader.text()?;
        let node = NodeId(name.parse().map_err(|_| format!("{name} is not the number of a node"))?);
        let incarnation = reader.u32()?;
        let entry = NodeEntry { name, incarnation, ..NodeEntry::new(NodeState::Member) };
        state.next_node = state.next_node.max(node.0 + 1);
        state.nodes.insert(node, entry);
    }
    Ok(())
}

fn read_cluster(reader: &mut Reader<'_>, state: &mut MetaState) -> Result<(), String> {
    state.next_node = reader.u64()?;
    for _ in 0..reader.count(25)? {
        let node = NodeId(reader.u64()?);
        let entry = NodeEntry {
            name: reader.text()?,
            address: reader.text()?,
            zone: reader.text()?,
            incarnation: reader.u32()?,
            ..NodeEntry::new(NodeState::from_number(reader.u8()?)?)
        };
        state.nodes.insert(node, entry);
    }
    state.replication = reader.u8()?;
    state.epoch = reader.u32()?;
    for _ in 0..reader.count(8)? {
        let entry = PartitionEntry { first: read_nodes(reader)?, replicas: read_nodes(reader)? };
        state.partitions.push(entry);
    }
    Ok(())
}

/// The stored state, or the empty one before every position if none was stored.
pub(super) fn load(disk: &dyn Disk, path: &Path) -> Result<(Position, MetaState), MetaError> {
    let read = || -> io::Result<Vec<u8>> {
        let bytes = read_all(&*disk.open(path, Open::Existing)?)?;
        // Its name may be there that a process did not get to make durable before it ended.
        disk.sync_dir(dir_of(path))?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => {
            decode(&bytes).map_err(|detail| MetaError::Damaged { place: path.display().to_string(), detail })
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(Default::default()),
        Err(cause) => Err(MetaError::File { path: path.to_owned(), cause }),
    }
}

fn dir_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Replaces the stored image.
pub(super) fn store(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), MetaError> {
    let new = path.with_extension("image.new");
    let write = || -> io::Result<()> {
        let file = disk.open(&new, Open::Empty)?;
        file.write_all_at(bytes, 0)?;
        file.sync()?;
        disk.rename(&new, path)?;
        disk.sync_dir(dir_of(path))
    };
    write().map_err(|cause| MetaError::File { path: path.to_owned(), cause })
}
