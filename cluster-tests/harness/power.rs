//! A disk that can lose its power: an ext4 file system over a block device whose write cache is volatile.
//!
//! ext4 -> loop device -> nbdfuse -> nbdkit's cache filter, which keeps every write in memory until a flush
//! reaches it, as a drive's cache does. Frozen at any moment, the file beneath holds what a power loss at
//! that moment would leave: all that was flushed, nothing that was not. `kill -9` alone proves much less,
//! for the page cache of a living kernel keeps what was never synced.

use super::process::Process;
use super::{find_tool, wait_for};
use rustix::process::Signal;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const TOOLS: [&str; 8] =
    ["nbdkit", "nbdfuse", "fusermount3", "losetup", "mkfs.ext4", "mount", "umount", "cp"];
const LIMIT: Duration = Duration::from_secs(30);

/// Why no such disk can be made here, or `None`.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("loop devices and mounts need root".into());
    }
    if let Some(tool) = TOOLS.into_iter().find(|tool| find_tool(tool).is_none()) {
        return Some(format!("{tool} is not installed"));
    }
    let devices = ["/dev/fuse", "/dev/loop-control"];
    devices.into_iter().find(|d| !Path::new(d).exists()).map(|d| format!("{d} is missing"))
}

/// The disk, mounted. Fields are dropped in this order: each layer before the one that carries it.
#[derive(Debug)]
pub struct PowerDisk {
    mount: Mount,
    _fuse: Fuse,
    _nbdfuse: Process,
    nbdkit: Process,
    scratch: TempDir,
}

impl PowerDisk {
    /// Makes an empty file system of `megabytes` and mounts it.
    ///
    /// # Panics
    /// When a tool fails; ask [`missing`] first.
    #[track_caller]
    pub fn create(megabytes: u64) -> Self {
        let scratch = tempfile::Builder::new().prefix("quorate-power-").tempdir();
        let scratch = scratch.expect("a temporary folder can be made");
        let path = scratch.path().join("disk.img");
        let image = File::create(&path).expect("an image file can be made");
        image.set_len(megabytes << 20).expect("an image file can be sparse");
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), path.as_ref()]);
        Self::serve(scratch)
    }

    /// Mounts what a power loss has left, as [`PowerDisk::copy_image`] copied it; `image` is moved.
    ///
    /// # Panics
    /// As [`PowerDisk::create`].
    #[track_caller]
    pub fn after_power_loss(image: &Path) -> Self {
        let scratch = tempfile::Builder::new().prefix("quorate-power-").tempdir();
        let scratch = scratch.expect("a temporary folder can be made");
        std::fs::rename(image, scratch.path().join("disk.img")).expect("an image lies beside its successor");
        Self::serve(scratch)
    }

    /// Mounts the image in `scratch`.
    #[track_caller]
    fn serve(scratch: TempDir) -> Self {
        let at = |name: &str| scratch.path().join(name);
        for folder in ["fuse", "mounted"] {
            std::fs::create_dir(at(folder)).expect("a folder can be made");
        }
        let mut serve = Command::new("nbdkit");
        serve.args(["-f", "--filter=cache", "-U"]).arg(at("socket"));
        serve.arg("file").arg(at("disk.img")).arg("cache=writeback");
        let nbdkit = Process::start("nbdkit", &serve, &at("nbdkit.log"));
        wait_for("the socket of nbdkit", LIMIT, || at("socket").exists().then_some(()));
        let device = at("fuse").join("nbd");
        let mut fuse = Command::new("nbdfuse");
        fuse.arg(&device).arg("--unix").arg(at("socket"));
        let nbdfuse = Process::start("nbdfuse", &fuse, &at("nbdfuse.log"));
        let fuse = Fuse(at("fuse"));
        wait_for("the file of nbdfuse", LIMIT, || device.exists().then_some(()));
        let mount = Mount::of(&device, &at("mounted"));
        Self { mount, _fuse: fuse, _nbdfuse: nbdfuse, nbdkit, scratch }
    }

    /// The folder it is mounted at.
    pub fn path(&self) -> &Path {
        &self.mount.folder
    }

    /// Stops the drive until the guard is dropped: nothing more reaches the image, and every sync hangs.
    #[must_use]
    pub fn freeze(&self) -> Frozen<'_> {
        self.nbdkit.signal(Signal::STOP);
        Frozen(self)
    }

    /// Copies what a power loss now would leave into `image`.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[track_caller]
    pub fn copy_image(&self, image: &Path) {
        self.try_copy_image(image).unwrap_or_else(|error| panic!("{error}"));
    }

    /// The same, for a caller that has to tidy up before it panics.
    ///
    /// # Errors
    /// Why it cannot be copied.
    pub fn try_copy_image(&self, image: &Path) -> Result<(), String> {
        let own = self.scratch.path().join("disk.img");
        try_run("cp", &["--sparse=always".as_ref(), own.as_ref(), image.as_ref()]).map(|_nothing_said| ())
    }
}

/// What nbdfuse has mounted here; unmounted when dropped, also if the disk over it never came to be.
#[derive(Debug)]
struct Fuse(PathBuf);

impl Drop for Fuse {
    fn drop(&mut self) {
        tell(try_run("fusermount3", &["-u".as_ref(), self.0.as_ref()]));
    }
}

/// The drive stands still. A panic thaws it too, or the killed server could never be collected.
#[derive(Debug)]
pub struct Frozen<'a>(&'a PowerDisk);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.nbdkit.signal(Signal::CONT);
    }
}

/// A crash image, mounted: the journal is replayed as after a real power loss.
#[derive(Debug)]
pub struct Mount {
    folder: PathBuf,
    /// Set until the loop device ends by itself with the mount.
    device: Option<String>,
}

impl Mount {
    /// Mounts the ext4 file system in `image` at `folder`, made if it is missing.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[track_caller]
    pub fn of(image: &Path, folder: &Path) -> Self {
        std::fs::create_dir_all(folder).expect("a folder can be made");
        let device = run("losetup", &["--find".as_ref(), "--show".as_ref(), image.as_ref()]);
        let device = device.trim().to_owned();
        let mut mount = Self { folder: folder.to_owned(), device: Some(device.clone()) };
        run("mount", &[device.as_ref(), folder.as_ref()]);
        // Let go while it is mounted, the kernel ends the device with its last mount: also if this process is killed and
        // its table of mounts goes with it.
        run("losetup", &["-d".as_ref(), device.as_ref()]);
        mount.device = None;
        mount
    }

    /// The folder it is mounted at.
    pub fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        tell(try_run("umount", &[self.folder.as_ref()]));
        if let Some(device) = self.device.take() {
            tell(try_run("losetup", &["-d".as_ref(), device.as_ref()]));
        }
    }
}

/// Something left behind is told; the test that leaves it has its own verdict.
fn tell(result: Result<String, String>) {
    if let Err(error) = result {
        let _nobody_listens = writeln!(std::io::stderr(), "left behind: {error}");
    }
}

#[track_caller]
fn run(tool: &str, args: &[&std::ffi::OsStr]) -> String {
    try_run(tool, args).unwrap_or_else(|error| panic!("{error}"))
}

fn try_run(tool: &str, args: &[&std::ffi::OsStr]) -> Result<String, String> {
    let path = find_tool(tool).ok_or_else(|| format!("{tool} is not installed"))?;
    let output = Command::new(path).args(args).output().map_err(|e| format!("{tool}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{tool} {args:?}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
