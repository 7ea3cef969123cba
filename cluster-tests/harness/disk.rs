//! Disks that are slow, hang, fail or are full, one for each node of a cluster.
//!
//! Each process runs with a library loaded before all others (`bad_disk.c`, built here with the C compiler) that
//! stands between it and the C library's writes and syncs. What it does to them is in a small file for each process,
//! which both have open: a fault begins and ends while the process runs, and hits only files whose path holds a given
//! text. What a process writes by system calls of its own is not seen.

use super::cluster::Setup;
use super::find_tool;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;
use tempfile::TempDir;

const SOURCE: &str = include_str!("bad_disk.c");
const LIBRARY: &str = "bad_disk.so";
/// The variable with the path of a process' control file.
const CONTROL: &str = "QUORATE_TEST_DISK";
/// Of the control file: numbers of four bytes, the count of hits last, and the text.
const HITS_AT: u64 = 20;
const FILES_AT: u64 = 24;
const LENGTH: u64 = 256;
/// Linux' numbers.
const EIO: u32 = 5;
const ENOSPC: u32 = 28;

/// Whether such disks can be made here; else why not. Builds the library to find out, once in each process.
///
/// # Errors
/// With the reason that a skip notice is to give.
pub fn available() -> Result<(), String> {
    static PROBE: LazyLock<Result<(), String>> = LazyLock::new(|| {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        build(folder.path())
    });
    PROBE.clone()
}

/// Builds the library in `folder`.
fn build(folder: &Path) -> Result<(), String> {
    let compiler = find_tool("cc").ok_or("cc is not installed")?;
    let source = folder.join("bad_disk.c");
    std::fs::write(&source, SOURCE).map_err(|e| e.to_string())?;
    let mut command = Command::new(compiler);
    command.args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"]);
    command.arg(folder.join(LIBRARY)).arg(&source).arg("-ldl");
    let output = command.output().map_err(|e| format!("cc: {e}"))?;
    if !output.status.success() {
        return Err(format!("cc: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(())
}

/// What a disk does to the writes and syncs of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Each sync takes so much longer, in whole milliseconds.
    SlowSync(Duration),
    /// Writes and syncs do not come back, until the fault ends.
    Hang,
    /// Syncs fail with an input/output error, without having been tried.
    FailedSync,
    /// Writes fail, because there is no room.
    Full,
    /// The first half of a write is written, then it fails with an input/output error.
    TornWrite,
}

/// The disks of a cluster's nodes, all sound at first.
#[derive(Debug)]
pub struct Disks {
    /// The library, and a control file for each node.
    folder: TempDir,
    controls: Vec<File>,
}

impl Disks {
    /// Disks for nodes with the names `n1` and up.
    ///
    /// # Panics
    /// When they cannot be made; ask [`available`] first.
    #[track_caller]
    pub fn create(nodes: usize) -> Self {
        let folder = tempfile::Builder::new().prefix("quorate-disks-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        build(folder.path()).unwrap_or_else(|reason| panic!("no disks: {reason}"));
        let control = |node: usize| {
            let path = folder.path().join(format!("n{}", node + 1));
            let file = File::options().create_new(true).read(true).write(true).open(path);
            let file = file.expect("a control file can be made");
            file.set_len(LENGTH).expect("a control file can have a length");
            file
        };
        let controls = (0..nodes).map(control).collect();
        Self { folder, controls }
    }

    /// `setup`, with these disks.
    pub fn under(&self, mut setup: Setup) -> Setup {
        setup.env.extend(self.variables("{name}").map(|(name, value)| (name.to_owned(), value)));
        setup
    }

    fn variables(&self, node: &str) -> [(&'static str, String); 2] {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        [("LD_PRELOAD", path(LIBRARY)), (CONTROL, path(node))]
    }

    /// From now on the disk of `node` does this to files whose path holds `files`, in place of what it did before.
    ///
    /// # Panics
    /// When the text is longer than 231 bytes.
    #[track_caller]
    pub fn set(&self, node: usize, files: &str, fault: Fault) {
        self.heal(node);
        assert!(files.len() as u64 + FILES_AT < LENGTH, "{files} is too long");
        self.write(node, FILES_AT, files.as_bytes());
        let (place, value) = match fault {
            Fault::SlowSync(by) => (0, by.as_millis() as u32),
            Fault::Hang => (1, 1),
            Fault::FailedSync => (2, EIO),
            Fault::Full => (3, ENOSPC),
            Fault::TornWrite => (4, 1),
        };
        self.write(node, place * 4, &value.to_ne_bytes());
    }

    /// The disk of `node` is sound from now on.
    #[track_caller]
    pub fn heal(&self, node: usize) {
        self.write(node, 0, &[0; HITS_AT as usize]);
        self.write(node, FILES_AT, &[0; (LENGTH - FILES_AT) as usize]);
    }

    /// How many writes and syncs at the disk of `node` have met a fault so far.
    ///
    /// # Panics
    /// When the control file cannot be read.
    #[track_caller]
    pub fn hits(&self, node: usize) -> u32 {
        let mut hits = [0; 4];
        self.controls[node].read_exact_at(&mut hits, HITS_AT).expect("a control file can be read");
        u32::from_ne_bytes(hits)
    }

    #[track_caller]
    fn write(&self, node: usize, at: u64, bytes: &[u8]) {
        self.controls[node].write_all_at(bytes, at).expect("a control file can be written");
    }
}

/// What hangs goes on, so that it can end.
impl Drop for Disks {
    fn drop(&mut self) {
        (0..self.controls.len()).for_each(|node| self.heal(node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::process::Process;
    use crate::harness::{skip, wait_for};
    use quorate_model::{Clock, SystemClock};

    const LIMIT: Duration = Duration::from_secs(30);
    const BYTES: u64 = 4096;

    struct Try {
        disks: Disks,
        folder: TempDir,
    }

    impl Try {
        fn new(test: &str) -> Option<Self> {
            if let Err(reason) = available() {
                skip(test, &reason);
                return None;
            }
            Some(Self { disks: Disks::create(1), folder: tempfile::tempdir().unwrap() })
        }

        /// Starts a program that writes one block to a file and syncs it.
        fn start(&self, file: &str) -> Process {
            let mut dd = Command::new("dd");
            dd.args(["if=/dev/zero", "count=1", "conv=fdatasync"]).arg(format!("bs={BYTES}"));
            dd.arg(format!("of={}", self.folder.path().join(file).display()));
            dd.envs(self.disks.variables("n1"));
            Process::start("dd", &dd, &self.folder.path().join("log"))
        }

        /// Whether it succeeds, what it says, and how much of the file is there.
        fn run(&self, file: &str) -> (bool, String, u64) {
            let mut dd = self.start(file);
            let is_success = dd.wait(LIMIT).success();
            let length = std::fs::metadata(self.folder.path().join(file)).unwrap().len();
            (is_success, dd.output(), length)
        }
    }

    #[test]
    fn a_fault_hits_its_files_and_no_others() {
        let Some(this) = Try::new("a_fault_hits_its_files_and_no_others") else { return };
        let faults = [
            (Fault::FailedSync, "Input/output error", BYTES),
            (Fault::Full, "No space left on device", 0),
            (Fault::TornWrite, "Input/output error", BYTES / 2),
        ];
        for (fault, said, length) in faults {
            this.disks.set(0, "/bad", fault);
            let hits = this.disks.hits(0);
            let (is_success, output, written) = this.run("bad");
            assert!(!is_success && output.contains(said), "{fault:?}: {output}");
            assert_eq!(written, length, "{fault:?}");
            assert!(this.disks.hits(0) > hits, "{fault:?}");
            assert!(this.run("good").0, "{fault:?}");
            this.disks.heal(0);
            let (is_success, output, written) = this.run("bad");
            assert!(is_success && written == BYTES, "after {fault:?}: {output}");
        }
    }

    #[test]
    fn a_slow_sync_takes_as_long_as_it_says() {
        let Some(this) = Try::new("a_slow_sync_takes_as_long_as_it_says") else { return };
        let slow = Duration::from_millis(700);
        this.disks.set(0, "/bad", Fault::SlowSync(slow));
        let start = SystemClock.instant();
        assert!(this.run("bad").0);
        assert!(start.elapsed() >= slow);
    }

    #[test]
    fn what_hangs_goes_on_when_the_fault_ends() {
        let Some(this) = Try::new("what_hangs_goes_on_when_the_fault_ends") else { return };
        this.disks.set(0, "/bad", Fault::Hang);
        let mut dd = this.start("bad");
        wait_for("a write that hangs", LIMIT, || (this.disks.hits(0) > 0).then_some(()));
        assert_eq!(dd.exit(), None);
        this.disks.heal(0);
        assert!(dd.wait(LIMIT).success());
    }
}
