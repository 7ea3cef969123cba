//! A block as bytes that stand for themselves: its entry of `cat` and everything stored under its id.
//!
//! Knows keys and values of the bulk families. Does not know what they mean, nor files and offers. Format:
//! `docs/formats/snapshot.md`.
//! Path: `offer` -> [`BlockBytes`]; [`BlockFile`] -> `install`.
//! S1: the length follows from the entry of `cat`, so that nothing is read to tell it: what stands before a value is as
//! long as the block id that its key leaves out. Cost: one [`read`](BlockBytes::read) holds what it returns; a
//! read that goes on where another ended seeks, any other one walks from the last place that is known.

use super::{InstallError, Part};
use crate::block::{self, BlockId, BlockMeta, FAMILIES, damaged, is_sound, reseal};
use crate::error::StoreError;
use crate::store_block::StoreBlock;
use parking_lot::Mutex;
use quorate_kv::{Cf, Ingest, KeyRange, Kv};
use quorate_model::PartitionId;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Bytes of a block id, and of what stands before a value: u32 its length, u8 family, u8 length of the key behind the
/// id, u16 zero.
const ENTRY: usize = 8;
/// Distance of the places that a reader remembers.
const MARK_EVERY: u64 = 256 << 10;

/// Bytes of the form of a block.
pub(super) fn length_of(meta: &BlockMeta) -> u64 {
    (head_of(meta).len() as u64).saturating_add(meta.page_bytes).saturating_add(meta.idx_bytes)
}

/// The entry of `cat` behind its length.
fn head_of(meta: &BlockMeta) -> Vec<u8> {
    let entry = meta.encode();
    [(entry.len() as u32).to_le_bytes().as_slice(), &entry].concat()
}

/// Where an entry begins: byte, family, key.
#[derive(Debug, Clone)]
struct Mark {
    at: u64,
    family: usize,
    key: Vec<u8>,
}

/// The bytes of a block that is kept as long as this.
#[derive(Debug)]
pub(super) struct BlockBytes {
    block: Arc<StoreBlock>,
    head: Vec<u8>,
    length: u64,
    /// Places that are known, by increasing byte.
    marks: Mutex<Vec<Mark>>,
}

impl BlockBytes {
    pub(super) fn new(block: Arc<StoreBlock>) -> Self {
        let (head, length) = (head_of(block.meta()), length_of(block.meta()));
        Self { block, head, length, marks: Mutex::default() }
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// At most `max_len` bytes from `offset` on; fewer only at the end.
    pub(super) fn read(&self, kv: &dyn Kv, offset: u64, max_len: usize) -> Result<Vec<u8>, StoreError> {
        let end = offset.saturating_add(max_len as u64).min(self.length);
        let out = Vec::with_capacity(end.saturating_sub(offset) as usize);
        let mut window = Window { from: offset, end, out };
        window.add(0, &[&self.head]);
        let mut place = self.place_before(offset);
        for family in place.family..FAMILIES.len() {
            if place.at < end {
                self.walk(kv, family, &mut place, &mut window)?;
            }
        }
        if window.out.len() as u64 != end.saturating_sub(offset) {
            let key = self.block.meta().id().0.to_be_bytes();
            return Err(damaged(Cf::Cat, &key, "the block has fewer bytes than its entry says"));
        }
        Ok(window.out)
    }

    /// The last known place at or before `offset`.
    fn place_before(&self, offset: u64) -> Mark {
        let marks = self.marks.lock();
        let known = marks.partition_point(|mark| mark.at <= offset);
        let first = || Mark { at: self.head.len() as u64, family: 0, key: Vec::new() };
        known.checked_sub(1).map_or_else(first, |at| marks[at].clone())
    }

    /// Adds the entries of one family from `place` on and moves it behind the last one.
    fn walk(
        &self,
        kv: &dyn Kv,
        family: usize,
        place: &mut Mark,
        window: &mut Window,
    ) -> Result<(), StoreError> {
        let cf = FAMILIES[family];
        let whole = KeyRange::prefix(&self.block.meta().id().0.to_be_bytes());
        let start = if family == place.family { place.key.as_slice() } else { &[] };
        let start = whole.start().max(start);
        let range = match whole.end() {
            Some(end) => KeyRange::new(start, end),
            None => KeyRange::from(start),
        };
        let mut at = place.at;
        let mut broken = None;
        kv.scan(cf, &range, &mut |key, value| {
            self.remember(at, family, key);
            if at >= window.end {
                return ControlFlow::Break(());
            }
            let next = at + (key.len() + value.len()) as u64;
            if next > window.from {
                if !is_sound(key, value) {
                    broken = Some(damaged(cf, key, "too short, or a wrong checksum"));
                    return ControlFlow::Break(());
                }
                let [low, mid, high, top] = (value.len() as u32).to_le_bytes();
                let before = [low, mid, high, top, family as u8, (key.len() - ENTRY) as u8, 0, 0];
                window.add(at, &[&before, &key[ENTRY..], value]);
            }
            at = next;
            ControlFlow::Continue(())
        })?;
        *place = Mark { at, family: family + 1, key: Vec::new() };
        broken.map_or(Ok(()), Err)
    }

    fn remember(&self, at: u64, family: usize, key: &[u8]) {
        let mut marks = self.marks.lock();
        if marks.last().map_or(at, |last| at.saturating_sub(last.at)) >= MARK_EVERY {
            marks.push(Mark { at, family, key: key.to_vec() });
        }
    }
}

/// The bytes from `from` to `end` of something longer that passes by.
struct Window {
    from: u64,
    end: u64,
    out: Vec<u8>,
}

impl Window {
    /// Keeps of `pieces`, which follow each other from byte `at` on, what lies in the window.
    fn add(&mut self, mut at: u64, pieces: &[&[u8]]) {
        for piece in pieces {
            let len = piece.len() as u64;
            let within = |byte: u64| byte.saturating_sub(at).min(len) as usize;
            let (from, end) = (within(self.from), within(self.end));
            if from < end {
                self.out.extend_from_slice(&piece[from..end]);
            }
            at += len;
        }
    }
}

/// A block in a file, being read: part `number` of a snapshot of `partition`.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockFile<'a> {
    pub(super) path: &'a Path,
    pub(super) number: usize,
    pub(super) part: &'a Part,
    pub(super) partition: PartitionId,
}

/// What is called with the family, key and value of each entry.
type Visit<'a> = dyn FnMut(Cf, &[u8], &[u8]) -> Result<(), StoreError> + 'a;

impl BlockFile<'_> {
    /// Reads the file and checks it: its entry of `cat` against the part, every value against its checksum, keys
    /// against their order. Gives the entry.
    ///
    /// # Errors
    /// [`InstallError::WrongBytes`], [`InstallError::Store`].
    pub(super) fn check(&self) -> Result<BlockMeta, InstallError> {
        self.read(&mut |_, _, _| Ok(()))
    }

    /// Takes the block into the store under `id`, which has no keys there: durable, but listed nowhere yet. Gives its
    /// entry of `cat`. After an error nothing is left of it, as far as possible.
    ///
    /// # Errors
    /// As [`BlockFile::check`].
    pub(super) fn ingest(&self, kv: &dyn Kv, id: BlockId) -> Result<BlockMeta, InstallError> {
        let mut runs = Runs { kv, id, open: None, resealed: Vec::new() };
        let read = self.read(&mut |cf, key, value| runs.put(cf, key, value));
        let ingested = read.and_then(|meta| runs.finish().map(|()| meta).map_err(InstallError::from));
        if ingested.is_err() {
            remove_rest(kv, id);
        }
        let mut meta = ingested?;
        meta.spec.id = id;
        Ok(meta)
    }

    fn read(&self, visit: &mut Visit<'_>) -> Result<BlockMeta, InstallError> {
        let file = File::open(self.path).map_err(|e| StoreError::file(self.path, e))?;
        let mut source = Source { file: BufReader::new(file), of: *self, left: self.part.length };
        let mut value = Vec::new();
        let entry_len = u32::from_le_bytes(source.array()?);
        source.append(entry_len, &mut value)?;
        let meta = BlockMeta::decode(&value).map_err(|error| source.wrong(&error.to_string()))?;
        if !self.describes(&meta) {
            return Err(source.wrong("its entry is not the one that was described"));
        }
        let mut last: (Option<u8>, Vec<u8>) = (None, Vec::new());
        let mut key = Vec::new();
        while source.left > 0 {
            let [a, b, c, d, family, key_len, zero @ ..] = source.array::<ENTRY>()?;
            key.clear();
            key.extend_from_slice(&meta.id().0.to_be_bytes());
            source.append(u32::from(key_len), &mut key)?;
            value.clear();
            source.append(u32::from_le_bytes([a, b, c, d]), &mut value)?;
            let follows = (last.0, &last.1) < (Some(family), &key) && zero == [0; 2];
            let cf = FAMILIES.get(usize::from(family)).copied().filter(|_| follows);
            let cf = cf.ok_or_else(|| source.wrong("an entry out of order, or of no family"))?;
            if !is_sound(&key, &value) {
                return Err(source.wrong(&damaged(cf, &key, "wrong checksum").to_string()));
            }
            visit(cf, &key, &value)?;
            last.0 = Some(family);
            std::mem::swap(&mut last.1, &mut key);
        }
        Ok(meta)
    }

    fn describes(&self, meta: &BlockMeta) -> bool {
        meta.id() == BlockId(self.part.id)
            && meta.content_checksum == self.part.checksum
            && meta.spec.partition == self.partition
            && length_of(meta) == self.part.length
    }
}

/// The bytes of a file that are left.
struct Source<'a> {
    file: BufReader<File>,
    of: BlockFile<'a>,
    left: u64,
}

impl Source<'_> {
    fn wrong(&self, detail: &str) -> InstallError {
        InstallError::wrong(self.of.number, format!("{detail}, {} bytes before its end", self.left))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], InstallError> {
        let mut bytes = [0; N];
        self.take(&mut bytes)?;
        Ok(bytes)
    }

    /// Appends the next bytes to `out`. Their number is believed only as far as the part is long.
    fn append(&mut self, len: u32, out: &mut Vec<u8>) -> Result<(), InstallError> {
        if u64::from(len) > self.left {
            return Err(self.wrong("an entry is longer than what is left"));
        }
        let from = out.len();
        out.resize(from + len as usize, 0);
        self.take(&mut out[from..])
    }

    fn take(&mut self, out: &mut [u8]) -> Result<(), InstallError> {
        let left = self.left.checked_sub(out.len() as u64);
        self.left = left.ok_or_else(|| self.wrong("an entry is longer than what is left"))?;
        self.file.read_exact(out).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => self.wrong("the file is shorter than described"),
            _ => StoreError::file(self.of.path, error).into(),
        })
    }
}

/// Sorted runs of a block, one family after the other.
struct Runs<'kv> {
    kv: &'kv dyn Kv,
    id: BlockId,
    open: Option<(Cf, Box<dyn Ingest + 'kv>)>,
    resealed: Vec<u8>,
}

impl Runs<'_> {
    /// Adds an entry. Under another id than its own it gets the checksum of its new key.
    fn put(&mut self, cf: Cf, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != cf) {
            self.finish()?;
            self.open = Some((cf, self.kv.ingest(cf)?));
        }
        let Some((_, run)) = &mut self.open else { return Ok(()) };
        let id = self.id.0.to_be_bytes();
        if key.starts_with(&id) {
            return Ok(run.put(key, value)?);
        }
        let key = [&id, &key[ENTRY..]].concat();
        Ok(run.put(&key, reseal(&key, value, &mut self.resealed))?)
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        match self.open.take() {
            Some((_, run)) => Ok(run.finish()?),
            None => Ok(()),
        }
    }
}

/// Removes what is left of a block that `cat` does not list. What cannot be removed goes at the next start.
pub(super) fn remove_rest(kv: &dyn Kv, id: BlockId) {
    if let Err(error) = block::remove(kv, id) {
        tracing::warn!(block = %id, %error, "a block of no partition stays until the next start");
    }
}
