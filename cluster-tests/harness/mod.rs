//! What scenarios stand on: processes and their logs, ports, HTTP, waiting for conditions, skip notices.

pub mod cluster;
pub mod disk;
pub mod http;
pub mod kafka;
pub mod net;
pub mod otel;
pub mod ports;
pub mod power;
pub mod process;
pub mod prometheus;
pub mod server;
pub mod switch;

pub use ports::free_port;

use quorate_model::{Clock, SystemClock};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Waits until `condition` gives a value, asking every few milliseconds.
///
/// # Panics
/// When `limit` passes first; the message names `what`.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = SystemClock.instant();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for {what}");
        pause(Duration::from_millis(5));
    }
}

/// Gives the processor away between two looks at a condition. Never a substitute for the condition.
pub fn pause(length: Duration) {
    std::thread::park_timeout(length);
}

/// Wall time, milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    SystemClock.now_ms()
}

/// The path of an executable on the PATH, or `None`.
pub fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Tells that scenario `name` did not run, and why: on stderr, and in the file that the totals count.
/// A skipped scenario is never counted as passed.
pub fn skip(name: &str, reason: &str) {
    let line = format!("{name}: {reason}");
    let told = writeln!(std::io::stderr(), "skipped {line}");
    let Some(log) = std::env::var_os("QUORATE_SKIP_LOG") else { return };
    let noted = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .and_then(|mut file| writeln!(file, "{line}"));
    told.and(noted).expect("a skip notice must not get lost");
}

/// Whether the long forms are asked for (`make campaign`).
pub fn is_campaign() -> bool {
    std::env::var_os("QUORATE_CAMPAIGN").is_some()
}
