//! Wall clocks of nodes that can be set apart: a library of our own, preloaded, adds to each what a file says.
//!
//! Knows files and a C compiler. Does not know nodes but by their names.

use quorate_cluster_tests::harness::find_tool;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("clock_shim.c");
const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// Why no clocks can be set here, or `None`.
pub fn missing() -> Option<String> {
    find_tool("cc").is_none().then(|| "cc is not installed".to_owned())
}

/// The clocks of some nodes.
#[derive(Debug)]
pub struct Clocks {
    folder: PathBuf,
}

impl Clocks {
    /// Clocks of the nodes `names`, all right, with what they need in `folder`.
    ///
    /// # Errors
    /// If the library cannot be built or a file cannot be written.
    pub fn create(folder: &Path, names: impl IntoIterator<Item = String>) -> io::Result<Self> {
        let source = folder.join("clock_shim.c");
        fs::write(&source, SOURCE)?;
        let clocks = Self { folder: folder.to_owned() };
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(clocks.library()).arg(&source);
        let output = compiler.output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        names.into_iter().try_for_each(|name| fs::write(clocks.file(&name), 0i64.to_ne_bytes()))?;
        Ok(clocks)
    }

    /// The environment of a node; `{name}` stands for its name.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        vec![
            ("LD_PRELOAD".to_owned(), text(self.library())),
            ("JEPSEN_CLOCK_FILE".to_owned(), text(self.file("{name}"))),
        ]
    }

    /// Sets the clock of a node so many seconds apart from the right time.
    ///
    /// # Errors
    /// If its file cannot be written.
    pub fn set(&self, name: &str, seconds: i64) -> io::Result<()> {
        // In place: a shorter file would kill its reader.
        let file = File::options().write(true).open(self.file(name))?;
        file.write_all_at(&(seconds * NANOS_PER_SECOND).to_ne_bytes(), 0)
    }

    fn library(&self) -> PathBuf {
        self.folder.join("clock_shim.so")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("clock-{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_cluster_tests::harness::{now_ms, skip};

    #[test]
    fn a_process_reads_the_time_that_it_is_given() {
        if let Some(reason) = missing() {
            return skip("a_process_reads_the_time_that_it_is_given", &reason);
        }
        let folder = tempfile::tempdir().unwrap();
        let clocks = Clocks::create(folder.path(), ["n1".to_owned()]).unwrap();
        for hours in [0, 5, -5] {
            clocks.set("n1", hours * 3_600).unwrap();
            let mut date = Command::new("date");
            let environment = clocks.environment();
            date.arg("+%s").envs(environment.into_iter().map(|(n, v)| (n, v.replace("{name}", "n1"))));
            let told = String::from_utf8(date.output().unwrap().stdout).unwrap();
            let off_s = told.trim().parse::<i64>().unwrap() - now_ms() / 1_000;
            assert!((off_s - hours * 3_600).abs() < 60, "{off_s} s apart, not {hours} h");
        }
    }
}
