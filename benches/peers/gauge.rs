//! What the kernel tells about a process: CPU time and memory; and the size of a folder.

use quorate_cluster_tests::harness::pause;
use quorate_cluster_tests::harness::process::Process;
use std::path::Path;
use std::time::Duration;

/// Length of the kernel's clock ticks in /proc, fixed at 100 a second on Linux.
const TICK: Duration = Duration::from_millis(10);
/// A process that uses less than this share of a core has settled.
const QUIET_TICKS: u64 = 2;
const LOOK: Duration = Duration::from_millis(500);
const QUIET_LOOKS: usize = 4;
/// Background work that never ends is cut off here.
const MOST_LOOKS: usize = 240;

/// CPU time of all threads of a process since its start.
pub(crate) fn cpu(process: &Process) -> Result<Duration, String> {
    let ticks = cpu_ticks(process)?;
    Ok(TICK * u32::try_from(ticks).map_err(|e| e.to_string())?)
}

fn cpu_ticks(process: &Process) -> Result<u64, String> {
    let stat = read(process, "stat")?;
    // The command's name stands in brackets and may hold spaces; utime and stime are fields 14 and 15.
    let rest = stat.rsplit_once(')').map(|(_, rest)| rest).ok_or("no command in stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).ok_or("stat is too short");
    Ok(field(11)? + field(12)?)
}

/// Resident memory in bytes.
pub(crate) fn resident(process: &Process) -> Result<u64, String> {
    let status = read(process, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in status")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().map_err(|_| "VmRSS is no number")?;
    Ok(kilobytes << 10)
}

/// Waits until the process is quiet after a burst of writes: four quiet looks in a row, or two minutes. What it
/// does later, when data gets old, is not waited for: see `settled.rs`.
pub(crate) fn settle(process: &Process) -> Result<(), String> {
    let mut quiet = 0;
    let mut last = cpu_ticks(process)?;
    for _ in 0..MOST_LOOKS {
        pause(LOOK);
        let now = cpu_ticks(process)?;
        quiet = if now - last <= QUIET_TICKS { quiet + 1 } else { 0 };
        if quiet == QUIET_LOOKS {
            break;
        }
        last = now;
    }
    Ok(())
}

/// Bytes of all files below `folder` as the disk holds them (holes do not count; hard links count once).
pub(crate) fn folder_size(folder: &Path) -> Result<u64, String> {
    use std::os::unix::fs::MetadataExt;
    let mut size = 0;
    let mut seen = std::collections::HashSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))? {
            let entry = entry.map_err(|e| e.to_string())?;
            let meta = entry.metadata().map_err(|e| e.to_string())?;
            if meta.is_dir() {
                folders.push(entry.path());
            } else if seen.insert(meta.ino()) {
                size += meta.len().min(meta.blocks() * 512);
            }
        }
    }
    Ok(size)
}

fn read(process: &Process, file: &str) -> Result<String, String> {
    let path = format!("/proc/{}/{file}", process.pid());
    std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))
}
