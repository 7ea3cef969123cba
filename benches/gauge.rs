//! What the kernel tells about processes: CPU time and memory; about their connections; and the size of a folder.
//!
//! Reads /proc and, for connections, `ss` of iproute2. Knows nothing of who is measured.

use quorate_cluster_tests::harness::{find_tool, pause};
use quorate_model::{Clock, SystemClock};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Length of the kernel's clock ticks in /proc, fixed at 100 a second on Linux.
const TICK: Duration = Duration::from_millis(10);
/// A process that uses less than this share of a core has settled.
const QUIET_TICKS: u64 = 2;
const LOOK: Duration = Duration::from_millis(500);
const QUIET_LOOKS: usize = 4;

/// CPU time of all threads of a process since its start.
///
/// # Errors
/// When there is no such process.
pub fn cpu(pid: u32) -> Result<Duration, String> {
    let ticks = cpu_ticks(pid)?;
    Ok(TICK * u32::try_from(ticks).map_err(|e| e.to_string())?)
}

/// CPU time of several processes together.
///
/// # Errors
/// When one of them is gone.
pub fn cpu_of_all(pids: &[u32]) -> Result<Duration, String> {
    pids.iter().map(|pid| cpu(*pid)).sum()
}

/// CPU time of the threads that a process has now, those together whose names differ in numbers only, the largest
/// first. What ended with its thread is in [`cpu`] alone.
///
/// # Errors
/// When there is no such process.
pub fn cpu_by_thread(pid: u32) -> Result<Vec<(String, Duration)>, String> {
    let folder = format!("/proc/{pid}/task");
    let mut sums = BTreeMap::new();
    for thread in std::fs::read_dir(&folder).map_err(|e| format!("{folder}: {e}"))? {
        let path = thread.map_err(|e| format!("{folder}: {e}"))?.path().join("stat");
        // A thread may end meanwhile.
        let Ok(stat) = std::fs::read_to_string(path) else { continue };
        let name =
            stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).map_or("", |(name, _)| name);
        let name: String = name.chars().filter(|c| !c.is_ascii_digit()).collect();
        *sums.entry(name).or_insert(0) += ticks(&stat)?;
    }
    let mut sorted: Vec<(String, u64)> = sums.into_iter().collect();
    sorted.sort_by_key(|(_, ticks)| std::cmp::Reverse(*ticks));
    Ok(sorted.into_iter().map(|(name, ticks)| (name, TICK * ticks as u32)).collect())
}

fn cpu_ticks(pid: u32) -> Result<u64, String> {
    ticks(&read(pid, "stat")?)
}

fn ticks(stat: &str) -> Result<u64, String> {
    // The command's name stands in brackets and may hold spaces; utime and stime are fields 14 and 15.
    let rest = stat.rsplit_once(')').map(|(_, rest)| rest).ok_or("no command in stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).ok_or("stat is too short");
    Ok(field(11)? + field(12)?)
}

/// Resident memory in bytes.
///
/// # Errors
/// When there is no such process.
pub fn resident(pid: u32) -> Result<u64, String> {
    let status = read(pid, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in status")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().map_err(|_| "VmRSS is no number")?;
    Ok(kilobytes << 10)
}

/// Waits until each process is quiet after a burst of work: four quiet looks in a row, or `limit`, which cuts off
/// background work that never ends.
///
/// # Errors
/// When one of them is gone.
pub fn settle(pids: &[u32], limit: Duration) -> Result<(), String> {
    let all_ticks = || pids.iter().map(|pid| cpu_ticks(*pid)).collect::<Result<Vec<_>, _>>();
    let start = SystemClock.instant();
    let mut quiet = 0;
    let mut last = all_ticks()?;
    while quiet < QUIET_LOOKS && start.elapsed() < limit {
        pause(LOOK);
        let now = all_ticks()?;
        let is_quiet = now.iter().zip(&last).all(|(now, last)| now - last <= QUIET_TICKS);
        quiet = if is_quiet { quiet + 1 } else { 0 };
        last = now;
    }
    Ok(())
}

/// Bytes that the connections open now have sent between the given ports of this machine, since each was opened:
/// all that TCP carried, acknowledged or not, without its own headers. What a connection sent that is closed
/// meanwhile is lost, so take differences over times in which none closes.
///
/// # Errors
/// When `ss` is missing or says what cannot be understood.
pub fn sent_bytes(ports: &[u16]) -> Result<u64, String> {
    let tool = find_tool("ss").ok_or("ss is not installed")?;
    let output = Command::new(tool).args(["-tinOH", "state", "established"]).output();
    let output = output.map_err(|e| format!("ss: {e}"))?;
    if !output.status.success() {
        return Err(format!("ss: {}", String::from_utf8_lossy(&output.stderr)));
    }
    sum_sent(&String::from_utf8_lossy(&output.stdout), ports)
}

/// Each line of `ss` has both addresses and then the figures of one end of a connection. One that has sent nothing
/// has no `bytes_sent`.
fn sum_sent(lines: &str, ports: &[u16]) -> Result<u64, String> {
    let port = |address: &str| address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let mut sum = 0;
    for line in lines.lines() {
        let mut ends = line.split_whitespace().skip(2).map(port);
        let (Some(here), Some(there)) = (ends.next().flatten(), ends.next().flatten()) else { continue };
        if !ports.contains(&here) && !ports.contains(&there) {
            continue;
        }
        let sent = line.split_whitespace().find_map(|word| word.strip_prefix("bytes_sent:"));
        sum += sent.map_or(Ok(0), str::parse::<u64>).map_err(|e| format!("{line}: {e}"))?;
    }
    Ok(sum)
}

/// The machine in one line.
pub fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| info.lines().find(|l| l.starts_with(name)).and_then(|l| l.split_once(": "));
    let model = field("model name").map_or("unknown processor", |(_, model)| model);
    let cores = info.lines().filter(|line| line.starts_with("processor")).count();
    format!("{cores} cores of {model}")
}

/// Bytes of all files below `folder` as the disk holds them (holes do not count; hard links count once).
///
/// # Errors
/// When a folder cannot be listed.
pub fn folder_size(folder: &Path) -> Result<u64, String> {
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

fn read(pid: u32, file: &str) -> Result<String, String> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_a_connection_count_and_no_other() {
        let lines = "0 0 127.0.0.1:9095 127.0.0.1:4000 cubic bytes_sent:100 bytes_acked:100 segs_out:3\n\
            0 0 127.0.0.1:4000 127.0.0.1:9095 cubic bytes_sent:20 segs_out:3\n\
            0 0 127.0.0.1:4001 127.0.0.1:9095 cubic segs_out:3\n\
            0 0 [::1]:22 [::1]:4002 cubic bytes_sent:7000\n";
        assert_eq!(sum_sent(lines, &[9095]), Ok(120));
        assert_eq!(sum_sent(lines, &[22, 9095]), Ok(7_120));
        assert_eq!(sum_sent(lines, &[80]), Ok(0));
    }

    #[test]
    fn this_process_uses_time_and_memory() {
        let this = std::process::id();
        assert!(resident(this).is_ok_and(|bytes| bytes > 0));
        assert_eq!(cpu_of_all(&[this, this]).is_ok(), cpu(this).is_ok());
        assert!(cpu_by_thread(this).is_ok_and(|threads| !threads.is_empty()));
    }
}
