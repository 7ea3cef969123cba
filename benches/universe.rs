//! All series of a run with their state. The same seed gives the same labels and the same values.

use crate::templates::{Kind, Template, machine, pod};
use quorate_cluster_tests::random::Random;
use quorate_model::Labels;

/// A target restarts about once in this many scrapes; its counters begin again at zero.
const RESTART_EVERY: u64 = 2_000;
/// Share of a histogram's observations in each bucket, in thousandths.
const SHARES: [u64; 12] = [60, 120, 200, 220, 160, 110, 60, 40, 20, 7, 2, 1];

/// The series of all targets, and the values of the scrape that was made last.
#[derive(Debug)]
pub struct Universe {
    series: Vec<Series>,
    values: Vec<f64>,
    targets: usize,
    random: Random,
}

#[derive(Debug)]
struct Series {
    labels: Labels,
    target: usize,
    kind: Kind,
    /// What the kind counts in: its own unit, or the bits of a float.
    state: f64,
}

impl Universe {
    /// `count` series, spread over as many targets as they need.
    pub fn new(count: usize, seed: u64) -> Self {
        let kinds = [machine(), pod(), pod(), pod()];
        let mut random = Random(seed);
        let mut series = Vec::with_capacity(count);
        let mut target = 0;
        while series.len() < count {
            let templates = &kinds[target % kinds.len()];
            let own = target_labels(target, templates.len() > 90);
            let room = count - series.len();
            series.extend(templates.iter().take(room).map(|t| Series::new(t, &own, target, &mut random)));
            target += 1;
        }
        Self { values: vec![0.0; series.len()], series, targets: target, random }
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Labels of series `at`.
    pub fn labels(&self, at: usize) -> &Labels {
        &self.series[at].labels
    }

    /// The target that series `at` belongs to: series of one target are scraped at one time.
    pub fn target(&self, at: usize) -> usize {
        self.series[at].target
    }

    /// The value of series `at` in the scrape that was made last.
    pub fn value(&self, at: usize) -> f64 {
        self.values[at]
    }

    /// Moves every series on by one scrape and returns the values, one for each series.
    pub fn scrape(&mut self) -> &[f64] {
        let mut restarts = vec![false; self.targets];
        for restart in &mut restarts {
            *restart = self.random.below(RESTART_EVERY) == 0;
        }
        let mut observed = 0;
        for (series, value) in self.series.iter_mut().zip(&mut self.values) {
            if restarts[series.target] && series.kind.is_counter() {
                series.state = 0.0;
            }
            *value = series.advance(&mut self.random, &mut observed);
        }
        &self.values
    }
}

impl Series {
    fn new(template: &Template, own: &[(&str, String)], target: usize, random: &mut Random) -> Self {
        let pairs = own.iter().chain(&template.labels).map(|(n, v)| (*n, v.as_str()));
        let labels = Labels::from_pairs(pairs.chain([("__name__", template.name)]));
        let state = match template.kind {
            Kind::Constant(value) => f64::from(value),
            Kind::Bytes(middle) | Kind::Gauge2(middle) | Kind::Gauge3(middle) => f64::from(middle),
            Kind::Percent | Kind::Ratio => random.below(1_000) as f64,
            Kind::Walk => 0.5,
            // Counters of a fleet have long lives behind them.
            _ => random.below(1_000_000) as f64,
        };
        Self { labels, target, kind: template.kind, state }
    }

    /// The next value. `observed` carries a histogram's new observations from bucket to bucket.
    fn advance(&mut self, random: &mut Random, observed: &mut u64) -> f64 {
        match self.kind {
            Kind::Constant(_) => self.state,
            Kind::Counter(most) => self.count_up(random.below(u64::from(most) + 1)),
            Kind::CentiCounter(most) => self.count_up(random.below(u64::from(most) + 1)) / 100.0,
            Kind::MicroCounter(most) => self.count_up(random.below(u64::from(most) + 1)) / 1e6,
            Kind::SparseCounter => self.count_up(u64::from(random.below(100) == 0)),
            Kind::Bytes(middle) => self.move_around(middle, random) * 4096.0,
            Kind::Gauge2(middle) => self.move_around(middle, random) / 100.0,
            Kind::Gauge3(middle) => self.move_around(middle, random) / 1000.0,
            Kind::Percent => {
                self.state = (self.state + random.below(41) as f64 - 20.0).clamp(0.0, 1000.0);
                self.state / 10.0
            }
            Kind::Ratio => (self.state + random.below(200) as f64) / 1_307.0,
            Kind::Walk => {
                self.state += random.share() - 0.5;
                self.state
            }
            Kind::Bucket(at) => {
                if at == 0 {
                    *observed = 0;
                }
                *observed += random.below(SHARES[at]) / 4;
                self.count_up(*observed)
            }
            Kind::BucketSum => self.count_up(*observed * 37 + random.below(97)) / 1_000.0,
            Kind::BucketCount => self.count_up(*observed),
        }
    }

    fn count_up(&mut self, by: u64) -> f64 {
        self.state += by as f64;
        self.state
    }

    fn move_around(&mut self, middle: u32, random: &mut Random) -> f64 {
        let middle = f64::from(middle);
        let swing = (middle / 50.0).max(4.0);
        let pull = (middle - self.state) / 16.0;
        self.state = (self.state + pull + (random.below(2_001) as f64 - 1_000.0) / 1_000.0 * swing).round();
        self.state
    }
}

/// Ten labels of a target, so that series have 11 to 13.
fn target_labels(target: usize, is_machine: bool) -> Vec<(&'static str, String)> {
    let machine = format!("ip-10-{}-{}.eu-central-1.compute.internal", target / 256 % 256, target % 256);
    let zone = format!("eu-central-1{}", ["a", "b", "c"][target % 3]);
    let app = ["checkout", "catalogue", "payments", "search", "gateway"][target % 5];
    let pod = format!("{app}-{:08x}-{:05x}", (target as u32 / 40).wrapping_mul(2_654_435_761), target);
    let (job, port) = if is_machine { ("node-exporter".to_owned(), 9100) } else { (app.to_owned(), 8080) };
    vec![
        ("cluster", format!("production-{}", target % 2)),
        ("environment", "production".to_owned()),
        ("instance", format!("10.{}.{}.{}:{port}", target / 65_536 % 256, target / 256 % 256, target % 256)),
        ("job", job),
        ("namespace", if is_machine { "monitoring".to_owned() } else { format!("team-{app}") }),
        ("node", machine),
        ("pod", if is_machine { format!("node-exporter-{target:05x}") } else { pod }),
        ("region", "eu-central-1".to_owned()),
        ("team", format!("{app}-owners")),
        ("zone", zone),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn series_are_distinct_and_have_11_to_13_labels() {
        let universe = Universe::new(5_000, 1);
        let distinct: HashSet<&Labels> = (0..universe.len()).map(|at| universe.labels(at)).collect();
        assert_eq!(distinct.len(), 5_000);
        assert!((0..universe.len()).all(|at| (11..=13).contains(&universe.labels(at).len())));
    }

    #[test]
    fn a_seed_gives_the_same_values_again() {
        let (mut a, mut b, mut other) = (Universe::new(900, 7), Universe::new(900, 7), Universe::new(900, 8));
        for _ in 0..5 {
            let values = a.scrape().to_vec();
            assert_eq!(values, b.scrape());
            assert_ne!(values, other.scrape());
        }
    }

    #[test]
    fn buckets_are_cumulative_and_counters_fall_only_at_restarts() {
        let mut universe = Universe::new(2_000, 3);
        let mut last = universe.scrape().to_vec();
        let mut falls = 0;
        for _ in 0..200 {
            let values = universe.scrape().to_vec();
            for (at, series) in universe.series.iter().enumerate() {
                falls += usize::from(series.kind.is_counter() && values[at] < last[at]);
            }
            last = values;
        }
        let counters = universe.series.iter().filter(|s| s.kind.is_counter()).count();
        assert!(falls > 0 && falls < counters, "{falls} falls of {counters} counters in 200 scrapes");
    }
}
