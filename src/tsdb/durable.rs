//! Syncs of files and directories. A failed one ends the process (I11): the kernel may have dropped the dirty pages,
//! so a second try on the same file would succeed without the data.

use crate::error::StoreError;
use std::fs::File;
use std::path::Path;

/// Makes a file's content durable.
pub(crate) fn sync_file(file: &File, path: &Path) {
    if let Err(error) = file.sync_all() {
        tracing::error!(path = %path.display(), %error, "fsync failed; the process ends");
        std::process::abort();
    }
}

/// Makes new and removed names in a directory durable: a sync of the file itself does not cover its name.
///
/// # Errors
/// [`StoreError::File`] if the directory cannot be opened.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    let opened = File::open(dir).map_err(|e| StoreError::file(dir, e))?;
    sync_file(&opened, dir);
    Ok(())
}

/// Removes a file; one that is not there is no error.
///
/// # Errors
/// [`StoreError::File`].
pub(crate) fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::file(path, error)),
        _ => Ok(()),
    }
}
