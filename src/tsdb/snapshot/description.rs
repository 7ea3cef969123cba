//! What a snapshot consists of, as it travels ahead of the bytes.
//!
//! Knows kinds, lengths and checksums of parts. Does not know how they are read or stored. Format:
//! `docs/formats/snapshot.md`. D1: the image is the first part, the series log the second, blocks follow by
//! increasing id; nothing is allocated for a number that the bytes do not bear out.

use super::InstallError;
use quorate_model::{PartitionId, Position};

const MAGIC: [u8; 4] = *b"QSNP";
const VERSION: u32 = 1;
const HEAD: usize = 24;
const PART: usize = 25;
const CHECKSUM: usize = 4;

/// What a part is. The numbers are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PartKind {
    /// The image file.
    Image = 1,
    /// The valid bytes of the series log.
    SeriesLog = 2,
    /// A block, with its entry of `cat`.
    Block = 3,
}

/// One part of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub kind: PartKind,
    /// The block's id; of a file its number at the giver, which means nothing elsewhere.
    pub id: u64,
    /// Bytes, at least one.
    pub length: u64,
    /// The block's content checksum as in `cat`; of a file the CRC32C of its bytes.
    pub checksum: u64,
}

/// A partition's state at one position, part by part. Parts are named by their place in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    partition: PartitionId,
    position: Position,
    parts: Vec<Part>,
}

impl Description {
    pub(super) fn new(partition: PartitionId, position: Position, parts: Vec<Part>) -> Self {
        Self { partition, position, parts }
    }

    /// The partition.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The state's place in the log: records behind it are to be applied.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The parts, in the order of D1.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.length).sum()
    }

    /// The form in which it travels.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.parts.len() * PART + CHECKSUM);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.partition.0.to_le_bytes());
        out.extend_from_slice(&self.position.0.to_le_bytes());
        out.extend_from_slice(&(self.parts.len() as u32).to_le_bytes());
        for part in &self.parts {
            out.push(part.kind as u8);
            for number in [part.id, part.length, part.checksum] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        let checksum = crc32c::crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads that form.
    ///
    /// # Errors
    /// [`InstallError::Description`] if it is damaged, of an unknown version, or breaks D1.
    pub fn decode(bytes: &[u8]) -> Result<Self, InstallError> {
        let (body, checksum) = bytes
            .split_last_chunk::<CHECKSUM>()
            .filter(|(body, _)| body.len() >= HEAD)
            .ok_or_else(|| InstallError::description("is too short"))?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            return Err(InstallError::description("has a wrong checksum"));
        }
        if body[..4] != MAGIC || body[4..8] != VERSION.to_le_bytes() {
            return Err(InstallError::description(format!("is none of version {VERSION}")));
        }
        let (head, table) = body.split_at(HEAD);
        let count = u32::from_le_bytes([head[20], head[21], head[22], head[23]]) as usize;
        if Some(table.len()) != count.checked_mul(PART) {
            return Err(InstallError::description("has another number of parts than it says"));
        }
        let parts: Option<Vec<Part>> = table.chunks_exact(PART).map(take_part).collect();
        let parts = parts.ok_or_else(|| InstallError::description("has a part of unknown kind"))?;
        check(&parts)?;
        let partition = PartitionId(u32::from_le_bytes([head[8], head[9], head[10], head[11]]));
        Ok(Self { partition, position: Position(long(&head[12..])), parts })
    }
}

fn take_part(entry: &[u8]) -> Option<Part> {
    let kind = match entry[0] {
        1 => PartKind::Image,
        2 => PartKind::SeriesLog,
        3 => PartKind::Block,
        _ => return None,
    };
    Some(Part { kind, id: long(&entry[1..]), length: long(&entry[9..]), checksum: long(&entry[17..]) })
}

/// The first eight bytes; the caller has counted them.
fn long(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Checks D1.
fn check(parts: &[Part]) -> Result<(), InstallError> {
    let [image, series, blocks @ ..] = parts else {
        return Err(InstallError::description("lacks the image or the series log"));
    };
    let kinds_fit = image.kind == PartKind::Image
        && series.kind == PartKind::SeriesLog
        && blocks.iter().all(|part| part.kind == PartKind::Block);
    if !kinds_fit || !blocks.is_sorted_by(|a, b| a.id < b.id) {
        return Err(InstallError::description("has parts in another order than image, series log, blocks"));
    }
    let total = parts.iter().try_fold(0u64, |sum, part| sum.checked_add(part.length));
    if total.is_none() || parts.iter().any(|part| part.length == 0) {
        return Err(InstallError::description("has parts of impossible length"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(kind: PartKind, id: u64, length: u64) -> Part {
        Part { kind, id, length, checksum: 0x0102_0304 }
    }

    fn parts() -> Vec<Part> {
        let block = Part { checksum: u64::MAX, ..part(PartKind::Block, 1 << 48 | 7, 500) };
        vec![part(PartKind::Image, 3, 100), part(PartKind::SeriesLog, 2, 8), block]
    }

    fn description(parts: Vec<Part>) -> Description {
        Description::new(PartitionId(5), Position(77), parts)
    }

    #[test]
    fn descriptions_round_trip_and_damage_is_found() {
        let good = description(parts()).encode();
        let read = Description::decode(&good).unwrap();
        assert_eq!((read.clone(), read.bytes()), (description(parts()), 608));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(Description::decode(&bad).is_err(), "flip at {at}");
            assert!(Description::decode(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn impossible_lists_of_parts_are_refused() {
        let block = |id, length| part(PartKind::Block, id, length);
        let with = |blocks: &[Part]| [&parts()[..2], blocks].concat();
        let lists = [
            (with(&[block(1, 5), block(2, 5)]), true),
            (with(&[block(2, 5), block(1, 5)]), false),
            (with(&[block(1, 5), block(1, 5)]), false),
            (with(&[block(1, 0)]), false),
            (with(&[block(1, u64::MAX), block(2, 1)]), false),
            (with(&[part(PartKind::Image, 4, 5)]), false),
            (parts()[..1].to_vec(), false),
            (parts()[1..].to_vec(), false),
            (Vec::new(), false),
        ];
        for (list, is_sound) in lists {
            let read = Description::decode(&description(list.clone()).encode());
            assert_eq!(read.is_ok(), is_sound, "{list:?}");
        }
    }

    #[test]
    fn a_count_that_the_bytes_do_not_bear_out_allocates_nothing() {
        let mut bytes = description(parts()).encode();
        bytes.truncate(HEAD);
        bytes[20..].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        assert!(matches!(Description::decode(&bytes), Err(InstallError::Description { .. })));
    }

    #[test]
    fn the_form_does_not_change() {
        let hex: String = description(parts()).encode().iter().map(|b| format!("{b:02x}")).collect();
        let head = "51534e5001000000050000004d0000000000000003000000";
        let image = "01030000000000000064000000000000000403020100000000";
        let series = "02020000000000000008000000000000000403020100000000";
        let block = "030700000000000100f401000000000000ffffffffffffffff";
        let checksum = "87f33b3f";
        assert_eq!(hex, [head, image, series, block, checksum].concat());
    }
}
