//! The image file: sections with checksums, written whole and synced before `cat` points to it (C1).
//!
//! Knows sections and bytes. Does not know what they hold: see `image`. Format: `docs/formats/image.md`.

use crate::durable::{remove_if_there, sync_file};
use crate::error::StoreError;
use quorate_model::failpoint;
use quorate_model::{PartitionId, Position};
use std::fs::File;
use std::io::Write;
use std::path::Path;

const MAGIC: [u8; 4] = *b"QIMG";
const VERSION: u32 = 1;
const FIXED: usize = 24;
const TABLE_ENTRY: usize = 24;
/// Sections with this bit may be skipped by a reader that does not know them.
pub(crate) const OPTIONAL: u32 = 1 << 31;

/// A section: its number and its bytes, not compressed.
pub(crate) type Section = (u32, Vec<u8>);

/// Writes an image and syncs the file. The caller syncs the directory.
pub(crate) fn write(
    path: &Path,
    partition: PartitionId,
    position: Position,
    sections: &[Section],
) -> Result<(), StoreError> {
    let (header, bodies) = encode(partition, position, sections);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(&header)?;
        bodies.iter().try_for_each(|body| file.write_all(body))?;
        failpoint::hit("image.after_write");
        sync_file(&file, path);
        failpoint::hit("image.after_sync");
        Ok(())
    };
    write().map_err(|e| StoreError::file(path, e))
}

/// Removes what an image that failed has left. If that fails too it stays until the next image or start.
pub(crate) fn remove_rest(path: &Path) {
    if let Err(error) = remove_if_there(path) {
        tracing::warn!(path = %path.display(), %error, "the rest of an image that failed stays");
    }
}

fn encode(partition: PartitionId, position: Position, sections: &[Section]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let bodies: Vec<Vec<u8>> = sections.iter().map(|(_, raw)| lz4_flex::block::compress(raw)).collect();
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&partition.0.to_le_bytes());
    header.extend_from_slice(&position.0.to_le_bytes());
    header.extend_from_slice(&(sections.len() as u32).to_le_bytes());
    for ((id, raw), body) in sections.iter().zip(&bodies) {
        header.extend_from_slice(&id.to_le_bytes());
        header.extend_from_slice(&(raw.len() as u64).to_le_bytes());
        header.extend_from_slice(&(body.len() as u64).to_le_bytes());
        header.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    }
    header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
    (header, bodies)
}

/// Reads an image and checks every byte of it.
///
/// # Errors
/// [`StoreError::Damaged`] if it is damaged, of another version, or of another partition or position.
pub(crate) fn read(
    path: &Path,
    partition: PartitionId,
    position: Position,
) -> Result<Vec<Section>, StoreError> {
    let bytes = std::fs::read(path).map_err(|e| StoreError::file(path, e))?;
    decode(&bytes, partition, position).map_err(|detail| StoreError::Damaged {
        place: path.display().to_string(),
        detail: detail.to_owned(),
    })
}

fn decode(bytes: &[u8], partition: PartitionId, position: Position) -> Result<Vec<Section>, &'static str> {
    let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().expect("four")));
    let long = |at: usize| bytes.get(at..at + 8).map(|b| u64::from_le_bytes(b.try_into().expect("eight")));
    let short = "is too short";
    if bytes.get(..4) != Some(&MAGIC) || word(4) != Some(VERSION) {
        return Err("is no image of version 1");
    }
    if word(8) != Some(partition.0) || long(12) != Some(position.0) {
        return Err("is of another partition or position than cat says");
    }
    let count = word(20).ok_or(short)? as usize;
    let table_end = count.checked_mul(TABLE_ENTRY).and_then(|len| len.checked_add(FIXED)).ok_or(short)?;
    let header = bytes.get(..table_end).ok_or(short)?;
    if word(table_end) != Some(crc32c::crc32c(header)) {
        return Err("has a damaged header");
    }
    let mut at = table_end + 4;
    let mut sections = Vec::with_capacity(count);
    for entry in (0..count).map(|n| FIXED + n * TABLE_ENTRY) {
        let (id, raw_len) = (word(entry).ok_or(short)?, long(entry + 4).ok_or(short)?);
        let (len, crc) = (long(entry + 12).ok_or(short)?, word(entry + 20).ok_or(short)?);
        let end = usize::try_from(len).ok().and_then(|len| at.checked_add(len)).ok_or(short)?;
        let body = bytes.get(at..end).ok_or(short)?;
        if crc32c::crc32c(body) != crc {
            return Err("has a damaged section");
        }
        // A file may come from another node; lz4 makes at most 255 bytes of one.
        let raw_len = usize::try_from(raw_len).ok().filter(|raw_len| raw_len / 255 <= body.len());
        let raw_len = raw_len.ok_or("has a section of impossible length")?;
        let raw =
            lz4_flex::block::decompress(body, raw_len).map_err(|_| "has a section that does not unpack")?;
        sections.push((id, raw));
        at = end;
    }
    if at == bytes.len() { Ok(sections) } else { Err("has bytes behind its sections") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let sections = vec![(1, b"meta".to_vec()), (0x100, vec![7; 300]), (OPTIONAL | 5, Vec::new())];
        let (header, bodies) = encode(PartitionId(3), Position(9), &sections);
        let good = [header, bodies.concat()].concat();
        let decode = |bytes: &[u8]| decode(bytes, PartitionId(3), Position(9));
        assert_eq!(decode(&good).unwrap(), sections);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x04;
            assert!(decode(&bad).is_err(), "flip at {at}");
            assert!(decode(&good[..at]).is_err(), "cut at {at}");
        }
        assert!(super::decode(&good, PartitionId(4), Position(9)).is_err());
        assert!(super::decode(&good, PartitionId(3), Position(8)).is_err());
    }

    #[test]
    fn the_stored_form_does_not_change() {
        let (header, bodies) = encode(PartitionId(3), Position(9), &[(1, b"ab".to_vec())]);
        let hex: String = [header, bodies.concat()].concat().iter().map(|b| format!("{b:02x}")).collect();
        let fixed = "51494d470100000003000000090000000000000001000000";
        let table = "01000000020000000000000003000000000000008a06e392";
        let crc_and_body = "49d02af5206162";
        assert_eq!(hex, [fixed, table, crc_and_body].concat());
    }
}
