//! What the kernel says about this process, under the names that Prometheus' client libraries use.
//!
//! Source: proc(5): /proc/self/stat, /proc/self/fd, /proc/self/limits, /proc/stat.

use std::fs;

/// Figures of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ProcessFigures {
    /// CPU time of all threads, seconds.
    pub cpu_seconds: f64,
    /// Memory in RAM, bytes.
    pub resident_bytes: f64,
    /// Address space, bytes.
    pub virtual_bytes: f64,
    /// Threads.
    pub threads: f64,
    /// When the process started, seconds since the Unix epoch.
    pub start_seconds: f64,
    /// Open file descriptors.
    pub open_fds: f64,
    /// Most file descriptors it may open.
    pub max_fds: f64,
}

/// Reads the figures of now; `None` where /proc cannot be read.
pub fn read() -> Option<ProcessFigures> {
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    let page_size = rustix::param::page_size() as f64;
    let mut figures = parse_stat(&fs::read_to_string("/proc/self/stat").ok()?, ticks_per_second, page_size)?;
    figures.start_seconds += boot_seconds(&fs::read_to_string("/proc/stat").ok()?)?;
    figures.open_fds = fs::read_dir("/proc/self/fd").map_or(0.0, |entries| entries.count() as f64);
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    figures.max_fds = max_open_files(&limits).unwrap_or(0.0);
    Some(figures)
}

/// Fields of stat(5); `start_seconds` counts from the boot. The name in brackets may hold spaces.
fn parse_stat(stat: &str, ticks_per_second: f64, page_size: f64) -> Option<ProcessFigures> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    // The first field here is the third of the manual page.
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(ProcessFigures {
        cpu_seconds: (field(14)? + field(15)?) / ticks_per_second,
        threads: field(20)?,
        start_seconds: field(22)? / ticks_per_second,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page_size,
        ..ProcessFigures::default()
    })
}

fn boot_seconds(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn max_open_files(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_a_name_with_spaces_and_brackets() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 9 0 0 0 250 150 0 0 20 0 8 0 1000 4096000 25 1844 1 1";
        let figures = parse_stat(stat, 100.0, 4096.0).unwrap();
        assert_eq!(figures.cpu_seconds, 4.0);
        assert_eq!(figures.threads, 8.0);
        assert_eq!(figures.start_seconds, 10.0);
        assert_eq!(figures.virtual_bytes, 4_096_000.0);
        assert_eq!(figures.resident_bytes, 102_400.0);
        assert_eq!(parse_stat("42 (a) S 1", 100.0, 4096.0), None);
    }

    #[test]
    fn this_process_has_figures() {
        let figures = read().unwrap();
        assert!(figures.resident_bytes > 0.0 && figures.threads >= 1.0 && figures.open_fds >= 3.0);
        assert!(figures.start_seconds > 1.6e9, "{figures:?}");
    }
}
