//! Directories that are there after a power loss.
//!
//! Knows paths. Does not know what lies in them. Path: whoever keeps files -> **here**.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Makes `dir` and every level above it that is missing, and the names of the new levels durable: a synced file in
/// a directory whose own name was never synced is lost with it. A directory that is there is left alone.
///
/// # Errors
/// What the system says; a part of the levels may be there then. After a failed sync the caller must not use the
/// directory.
pub fn create_dir_durable(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_dir_durable(parent)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        made => made?,
    }
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_level_is_made_and_a_file_in_the_way_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b/c");
        create_dir_durable(&deep).unwrap();
        create_dir_durable(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(root.path().join("file"), b"").unwrap();
        for path in ["file", "file/below"] {
            assert!(create_dir_durable(&root.path().join(path)).is_err(), "{path}");
        }
    }
}
