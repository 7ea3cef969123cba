//! VictoriaMetrics on one core, and how fast it takes what a node that was away has missed.

use crate::Sizes;
use crate::setup::{pinned, series, wait_ready};
use quorate_benches::results::note;
use quorate_benches::sender::{Destination, Report, send};
use quorate_cluster_tests::harness::http::Client;
use quorate_cluster_tests::harness::process::Process;
use quorate_cluster_tests::harness::{find_tool, free_port};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Scrapes whose bodies are in memory at once.
const AT_ONCE: usize = 20;

/// Its executable, or that there is none.
pub(crate) fn program() -> Result<PathBuf, String> {
    find_tool("victoria-metrics").ok_or_else(|| "victoria-metrics is not installed".to_owned())
}

/// Samples per second of known series that it takes on one core.
pub(crate) fn rate(sizes: &Sizes) -> Result<f64, String> {
    let folder = tempfile::Builder::new().prefix("quorate-victoria-").tempdir().map_err(|e| e.to_string())?;
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new(program()?);
    command.arg(format!("-storageDataPath={}", folder.path().join("data").display()));
    command.arg(format!("-httpListenAddr={address}"));
    let mut process = Process::start("victoria-metrics", &pinned(&command), &folder.path().join("log"));
    let base = format!("http://{address}");
    wait_ready(&mut process, &Client::new(&base, Duration::from_secs(60)), "/health");
    let to = [Destination::new(&base)];
    let mut series = series(sizes, 1 + sizes.missed_scrapes);
    send(&to, &series.next(1), 0)?;
    let mut report = Report::default();
    for begun in (0..sizes.missed_scrapes).step_by(AT_ONCE) {
        let bodies = series.next(AT_ONCE.min(sizes.missed_scrapes - begun));
        report.append(send(&to, &bodies, 0)?);
    }
    note(&format!("  VictoriaMetrics: {report}"));
    Ok(report.rate())
}
