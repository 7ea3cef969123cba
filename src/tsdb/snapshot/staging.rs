//! The folder in which an install gathers parts, beside the partition's files.
//!
//! Knows files and which bytes of each part are there. Does not know the store or `cat`. Path: `install` -> **here**.
//! G1: a part counts as whole only after it was checked from its file. What a crash leaves is worth what its bytes
//! prove: whole parts are taken up again, everything else goes.

use super::block_bytes::BlockFile;
use super::offer::checksum_of;
use super::{Description, InstallError, PartKind};
use crate::block::BlockMeta;
use crate::cat::ImagePointer;
use crate::durable::{remove_if_there, sync_dir, sync_file};
use crate::error::StoreError;
use quorate_model::{create_dir_durable, failpoint};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The folder's name in the folder of the partition.
const FOLDER: &str = "install";
/// File with the description of the newest install.
const DESCRIPTION: &str = "description";

/// See the module header.
#[derive(Debug)]
pub(super) struct Staging {
    dir: PathBuf,
    description: Description,
    /// Bytes of each part that are there; all of them only if they were checked.
    received: Vec<u64>,
}

impl Staging {
    /// Begins, or goes on with what is in the folder.
    pub(super) fn open(partition_dir: &Path, description: Description) -> Result<Self, InstallError> {
        let dir = partition_dir.join(FOLDER);
        create_dir_durable(&dir).map_err(|e| StoreError::file(&dir, e))?;
        let mut staging = Self { dir, received: vec![0; description.parts().len()], description };
        staging.keep_whole_parts()?;
        staging.write_description()?;
        Ok(staging)
    }

    pub(super) fn description(&self) -> &Description {
        &self.description
    }

    /// Bytes of a part that are there, or `None` if it is whole.
    pub(super) fn received(&self, number: usize) -> Option<u64> {
        let received = self.received[number];
        (received < self.description.parts()[number].length).then_some(received)
    }

    pub(super) fn path(&self, number: usize) -> PathBuf {
        let part = &self.description.parts()[number];
        self.dir.join(match part.kind {
            PartKind::Image => "image".to_owned(),
            PartKind::SeriesLog => "series".to_owned(),
            PartKind::Block => format!("block-{:016x}", part.id),
        })
    }

    /// Adds bytes to a part; see [`super::Install::put`].
    pub(super) fn put(&mut self, number: usize, offset: u64, bytes: &[u8]) -> Result<bool, InstallError> {
        let part = self.description.parts().get(number);
        let part = *part.ok_or_else(|| InstallError::wrong(number, "there is no such part"))?;
        let expected = self.received[number];
        if offset != expected {
            return Err(InstallError::OutOfPlace { part: number, offset, expected });
        }
        if bytes.len() as u64 > part.length - offset {
            return Err(InstallError::wrong(number, "more bytes than described"));
        }
        if bytes.is_empty() {
            return Ok(offset == part.length);
        }
        self.write(number, offset, bytes)?;
        self.received[number] += bytes.len() as u64;
        if self.received[number] < part.length {
            return Ok(false);
        }
        if let Err(error) = self.check(number) {
            self.forget(number);
            return Err(error);
        }
        Ok(true)
    }

    /// Throws a part away.
    pub(super) fn forget(&mut self, number: usize) {
        self.received[number] = 0;
        let path = self.path(number);
        if let Err(error) = remove_if_there(&path) {
            // The next bytes of the part cut it off.
            tracing::warn!(path = %path.display(), %error, "a wrong part of a snapshot stays for now");
        }
    }

    /// A block that is whole.
    pub(super) fn block<'a>(&'a self, number: usize, path: &'a Path) -> BlockFile<'a> {
        let partition = self.description.partition();
        BlockFile { path, number, part: &self.description.parts()[number], partition }
    }

    /// Removes the folder. What cannot be removed goes at the next start.
    pub(super) fn remove(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::warn!(path = %self.dir.display(), %error, "the rest of a finished install stays for now");
        }
    }

    fn write(&self, number: usize, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(number);
        let mut options = OpenOptions::new();
        let opened = options.write(true).create(true).truncate(offset == 0).open(&path);
        let written = opened.and_then(|file| file.write_all_at(bytes, offset));
        written.map_err(|e| StoreError::file(&path, e))
    }

    /// Checks all bytes of a part. Files that will be named by `cat` are synced; a block is stored anew from here.
    fn check(&self, number: usize) -> Result<(), InstallError> {
        let path = self.path(number);
        let part = &self.description.parts()[number];
        let failed = |e| StoreError::file(&path, e);
        let file = File::open(&path).map_err(failed)?;
        // Before anything is allocated by what the description says.
        if file.metadata().map_err(failed)?.len() != part.length {
            return Err(InstallError::wrong(number, "has another length than described"));
        }
        if part.kind == PartKind::Block {
            return self.block(number, &path).check().map(|_: BlockMeta| ());
        }
        if u64::from(checksum_of(&file, &path, part.length)?) != part.checksum {
            return Err(InstallError::wrong(number, "has another checksum than described"));
        }
        sync_file(&file, &path);
        failpoint::hit("install.after_sync");
        Ok(())
    }

    fn keep_whole_parts(&mut self) -> Result<(), InstallError> {
        let parts = 0..self.description.parts().len();
        let by_path: BTreeMap<PathBuf, usize> = parts.map(|number| (self.path(number), number)).collect();
        let failed = |e| StoreError::file(&self.dir, e);
        let entries = std::fs::read_dir(&self.dir).map_err(failed)?;
        let found: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|e| e.path())).collect();
        for path in found.map_err(failed)? {
            let number = by_path.get(&path).copied();
            match number.map(|number| self.check(number)) {
                Some(Err(InstallError::Store(error))) => return Err(error.into()),
                Some(Ok(())) => {
                    number.into_iter().for_each(|n| self.received[n] = self.description.parts()[n].length);
                }
                _ => remove_if_there(&path)?,
            }
        }
        Ok(())
    }

    /// Tells a start whether the folder is still of use.
    fn write_description(&self) -> Result<(), StoreError> {
        let path = self.dir.join(DESCRIPTION);
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&path)?;
            file.write_all(&self.description.encode())?;
            sync_file(&file, &path);
            Ok(())
        };
        write().map_err(|e| StoreError::file(&path, e))?;
        sync_dir(&self.dir)
    }
}

/// Removes the folder of an install that was finished, or whose state is no newer than the durable `image`, or that
/// nobody can tell.
///
/// # Errors
/// [`StoreError::File`].
pub(crate) fn remove_if_obsolete(
    partition_dir: &Path,
    image: Option<&ImagePointer>,
) -> Result<(), StoreError> {
    let dir = partition_dir.join(FOLDER);
    if !dir.exists() {
        return Ok(());
    }
    let stored = std::fs::read(dir.join(DESCRIPTION)).ok();
    let description = stored.and_then(|bytes| Description::decode(&bytes).ok());
    if description.is_some_and(|it| image.is_none_or(|image| it.position() > image.position)) {
        return Ok(());
    }
    tracing::info!(path = %dir.display(), "removing the rest of an install");
    std::fs::remove_dir_all(&dir).map_err(|e| StoreError::file(&dir, e))
}
