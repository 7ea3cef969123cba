//! When a contender has done what it owes: closed data stands in blocks or parts, and nothing waits for a merge.
//!
//! Knows each contender's own figures under `/metrics`. Does not know what was written.

use crate::contender::{Kind, QUORATE_DELAY, Running};
use quorate_benches::gauge;
use quorate_cluster_tests::harness::{now_ms, pause};
use quorate_model::{Clock, SystemClock};
use std::time::Duration;

/// Figures that stay the same for so long are final: Quorate looks for merges each minute, and Prometheus for
/// work on its head.
const STEADY: Duration = Duration::from_secs(70);
const LOOK: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(1_800);

const WINDOW_MS: i64 = 3_600_000;
/// Prometheus writes out its head when it spans more than one and a half blocks of two hours.
const PROMETHEUS_HEAD_MS: f64 = 1.5 * 7_200_000.0;

/// Waits until nothing is left to do. Returns the CPU time that the process had used when that began, so that
/// the waiting does not count.
pub(crate) fn wait(running: &Running) -> Result<Duration, String> {
    if running.kind() == Kind::VictoriaMetrics {
        running.client.get("/internal/force_flush", &[]).map_err(|e| e.0)?;
    }
    let start = SystemClock.instant();
    let mut steady: Option<(String, Duration, Duration)> = None;
    loop {
        let figures = Figures::of(running)?;
        let progress = progress(running.kind(), &figures);
        steady = match (progress, steady) {
            (Some(now), Some((before, since, cpu))) if now == before => Some((before, since, cpu)),
            (Some(now), _) => Some((now, start.elapsed(), gauge::cpu(running.process.pid())?)),
            (None, _) => None,
        };
        match &steady {
            Some((_, since, cpu)) if start.elapsed() - *since >= STEADY => return Ok(*cpu),
            _ if start.elapsed() > PATIENCE => return Err("the background work does not end".to_owned()),
            _ => pause(LOOK),
        }
    }
}

/// What changes while there is work, or `None` while work is known to be left.
fn progress(kind: Kind, figures: &Figures) -> Option<String> {
    let (is_done, counts): (bool, &[&str]) = match kind {
        Kind::Prometheus => {
            let end = |which| figures.sum(&format!("prometheus_tsdb_head_{which}_time"));
            let counts = &["prometheus_tsdb_compactions_total", "prometheus_tsdb_blocks_loaded"];
            (end("max") - end("min") <= PROMETHEUS_HEAD_MS, counts)
        }
        Kind::VictoriaMetrics => (figures.sum("vm_active_merges") == 0.0, &["vm_parts", "vm_rows"]),
        Kind::Quorate => {
            let waiting = figures.sum("quorate_sealed_generations") + figures.sum("quorate_late_bytes");
            let open_ms = (now_ms() - QUORATE_DELAY.as_millis() as i64).div_euclid(WINDOW_MS) * WINDOW_MS;
            let is_closed = figures.all("prometheus_tsdb_head_min_time").all(|first| first >= open_ms as f64);
            // With an image at the end of what is applied, the log before it is not needed any more.
            let applied = figures.all("quorate_applied_position");
            let is_imaged = applied.eq(figures.all("quorate_durable_position"));
            (waiting == 0.0 && is_closed && is_imaged, &["quorate_blocks", "quorate_block_samples"])
        }
    };
    is_done.then(|| counts.iter().map(|name| format!("{} ", figures.sum(name))).collect())
}

/// Bytes of what is written out, index included, for each sample in it.
pub(crate) fn block_bytes_per_sample(running: &Running) -> Result<f64, String> {
    let figures = Figures::of(running)?;
    let blocks = figures.sum("prometheus_tsdb_storage_blocks_bytes");
    Ok(match running.kind() {
        Kind::Prometheus => blocks / prometheus_block_samples(running)?,
        Kind::VictoriaMetrics => {
            let indexed = figures.sum_where("vm_rows", |labels| labels.contains("indexdb"));
            figures.sum("vm_data_size_bytes") / (figures.sum("vm_rows") - indexed)
        }
        Kind::Quorate => blocks / figures.sum("quorate_block_samples"),
    })
}

/// Prometheus has no figure for the samples in its blocks; each block's description has.
fn prometheus_block_samples(running: &Running) -> Result<f64, String> {
    let mut samples = 0.0;
    for entry in std::fs::read_dir(running.data()).map_err(|e| e.to_string())? {
        let path = entry.map_err(|e| e.to_string())?.path().join("meta.json");
        let Ok(text) = std::fs::read(&path) else { continue };
        let meta: serde_json::Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
        samples += meta["stats"]["numSamples"].as_f64().ok_or("a block without numSamples")?;
    }
    Ok(samples)
}

/// A page of metrics in the text format.
struct Figures(String);

impl Figures {
    fn of(running: &Running) -> Result<Self, String> {
        Ok(Self(running.client.get("/metrics", &[]).map_err(|e| e.0)?.text()))
    }

    /// Labels and value of each sample of `name`.
    fn samples(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
            let (labels, value) = rest.rsplit_once(' ')?;
            Some((labels, value.parse().ok()?))
        })
    }

    fn all(&self, name: &str) -> impl Iterator<Item = f64> {
        self.samples(name).map(|(_, value)| value)
    }

    fn sum(&self, name: &str) -> f64 {
        self.sum_where(name, |_| true)
    }

    fn sum_where(&self, name: &str, keep: impl Fn(&str) -> bool) -> f64 {
        self.samples(name).filter(|(labels, _)| keep(labels)).map(|(_, value)| value).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_summed_by_their_whole_name() {
        let page = "# HELP a A.\na 1\na_total 5\nb{type=\"indexdb\"} 2\nb{type=\"storage/small\"} 4\n";
        let figures = Figures(page.to_owned());
        assert_eq!((figures.sum("a"), figures.sum("b"), figures.sum("c")), (1.0, 6.0, 0.0));
        assert_eq!(figures.sum_where("b", |labels| labels.contains("indexdb")), 2.0);
    }

    #[test]
    fn quorate_is_done_when_nothing_waits_and_the_image_is_at_the_end() {
        let page = |late: u32, durable: u32| {
            let head = "quorate_sealed_generations{partition=\"0\"} 0\nquorate_blocks{partition=\"0\"} 3\n";
            let positions = format!(
                "quorate_applied_position{{partition=\"0\"}} 7\nquorate_durable_position{{partition=\"0\"}} {durable}\n"
            );
            Figures(format!("{head}{positions}quorate_late_bytes{{partition=\"0\"}} {late}\n"))
        };
        assert!(progress(Kind::Quorate, &page(0, 7)).is_some());
        assert!(progress(Kind::Quorate, &page(1, 7)).is_none());
        assert!(progress(Kind::Quorate, &page(0, 6)).is_none());
    }
}
