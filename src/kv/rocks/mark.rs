//! The synced mark: how far the log was acknowledged as durable, kept apart from the log.
//!
//! After a power loss the log may end in a torn record, and RocksDB cannot tell it from damage to one that
//! was acknowledged. So the log is read up to the first bad record, and the mark refuses one that ends
//! before what was synced: a torn tail is lost, as it may be; an acknowledged write is never lost unnoticed.
//! Form: two slots at 0 and 4096, each the sequence number and its complement, u64 little endian. A raise
//! writes the older slot, so a torn one leaves the other.

use crate::KvError;
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const NAME: &str = "SYNCED";
const SLOT_BYTES: u64 = 4096;

/// See the module header.
#[derive(Debug)]
pub(super) struct SyncedMark {
    path: PathBuf,
    file: File,
    newest: Mutex<Newest>,
    /// The file was not there.
    is_new: bool,
}

#[derive(Debug)]
struct Newest {
    sequence: u64,
    slot: u64,
}

impl SyncedMark {
    /// Opens the mark of a store, creating it if it is not there. Called with the store's lock held.
    pub(super) fn open(dir: &Path) -> Result<Self, KvError> {
        let path = dir.join(NAME);
        let failed = |error: std::io::Error| super::file_error(&path, &error);
        let is_new = !path.try_exists().map_err(failed)?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(failed)?;
        if is_new {
            (0..2).try_for_each(|slot| write(&file, slot, 0)).map_err(failed)?;
            file.sync_all().map_err(failed)?;
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
        }
        let slots = [read(&file, 0), read(&file, 1)];
        let newest = (0..2u64).filter_map(|slot| Some(Newest { sequence: slots[slot as usize]?, slot }));
        let newest = newest.max_by_key(|newest| newest.sequence).ok_or_else(|| KvError::Corrupt {
            place: path.display().to_string(),
            detail: "no slot of the synced mark is whole".to_owned(),
        })?;
        Ok(Self { path, file, newest: Mutex::new(newest), is_new })
    }

    /// Compares with the sequence number that the store has after reading its log.
    pub(super) fn check(&self, sequence: u64) -> Result<(), KvError> {
        let synced = self.newest.lock().sequence;
        let detail = match (self.is_new, sequence) {
            (true, 1..) => "the synced mark of a store that was written to is missing".to_owned(),
            _ if sequence < synced => {
                format!("the log ends at {sequence}, but {synced} was acknowledged as durable")
            }
            _ => return Ok(()),
        };
        Err(KvError::Corrupt { place: self.path.display().to_string(), detail })
    }

    /// Everything up to `sequence` is durable now. Failing ends the process: the write that is to be
    /// acknowledged has its effect already, and a second sync would succeed without the data.
    pub(super) fn raise(&self, sequence: u64) {
        let mut newest = self.newest.lock();
        if sequence <= newest.sequence {
            return;
        }
        let slot = 1 - newest.slot;
        let written = write(&self.file, slot, sequence).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            tracing::error!(path = %self.path.display(), %error, "cannot raise the synced mark; the process ends");
            std::process::abort();
        }
        *newest = Newest { sequence, slot };
    }
}

fn write(file: &File, slot: u64, sequence: u64) -> std::io::Result<()> {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sequence.to_le_bytes());
    bytes[8..].copy_from_slice(&(!sequence).to_le_bytes());
    file.write_all_at(&bytes, slot * SLOT_BYTES)
}

/// The sequence number of a slot, or `None` if the slot is torn or was never written.
fn read(file: &File, slot: u64) -> Option<u64> {
    let mut bytes = [0; 16];
    file.read_exact_at(&mut bytes, slot * SLOT_BYTES).ok()?;
    let (sequence, complement) = bytes.split_first_chunk::<8>()?;
    let sequence = u64::from_le_bytes(*sequence);
    (complement == (!sequence).to_le_bytes()).then_some(sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_slot_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let mark = SyncedMark::open(dir.path()).unwrap();
        mark.raise(5);
        mark.raise(9);
        let newest = mark.newest.lock().slot;
        mark.file.write_all_at(&[0xff], newest * SLOT_BYTES).unwrap();
        let again = SyncedMark::open(dir.path()).unwrap();
        assert_eq!(again.newest.lock().sequence, 5);
        again.check(5).unwrap();
        assert!(matches!(again.check(4), Err(KvError::Corrupt { .. })));
        again.file.write_all_at(&[0xff], (1 - newest) * SLOT_BYTES).unwrap();
        assert!(matches!(SyncedMark::open(dir.path()), Err(KvError::Corrupt { .. })));
    }

    #[test]
    fn the_file_has_the_bytes_of_its_format() {
        let dir = tempfile::tempdir().unwrap();
        let mark = SyncedMark::open(dir.path()).unwrap();
        mark.raise(0x0102);
        let bytes = std::fs::read(dir.path().join(NAME)).unwrap();
        assert_eq!(bytes.len(), 4096 + 16);
        assert_eq!(bytes[..16], [2, 1, 0, 0, 0, 0, 0, 0, 0xfd, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(bytes[4096..], [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn a_missing_mark_is_only_right_for_a_new_store() {
        let dir = tempfile::tempdir().unwrap();
        let mark = SyncedMark::open(dir.path()).unwrap();
        mark.check(0).unwrap();
        assert!(matches!(mark.check(1), Err(KvError::Corrupt { .. })));
        SyncedMark::open(dir.path()).unwrap().check(1).unwrap();
    }
}
