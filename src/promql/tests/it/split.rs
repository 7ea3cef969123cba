//! Series dealt out to partitions: what can run in each of them does, and answers stay what they are.

use crate::run::Sources;
use proptest::prelude::*;
use quorate_model::Labels;
use quorate_promql::engine::{self, EngineOptions, NoGuard, QueryError, QueryGuard, SampleValue, Value};
use quorate_promql::fragment::{Fragment, FragmentAnswer, FragmentPlan};
use quorate_promql::source::{
    FragmentSource, MemSource, SelectRequest, Selection, SeriesSource, SourceError,
};
use quorate_promql::{Features, parse};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Partitions, and all of their series as one source for what is not run in parts.
pub(crate) struct Split {
    pub(crate) whole: MemSource,
    pub(crate) parts: Vec<MemSource>,
    /// Fragments that were answered, and selections.
    answered: AtomicUsize,
    selected: AtomicUsize,
}

impl Split {
    pub(crate) fn new(parts: usize) -> Self {
        let (answered, selected) = <(AtomicUsize, AtomicUsize)>::default();
        Self { whole: MemSource::new(), parts: vec![MemSource::new(); parts], answered, selected }
    }

    /// The partition of a series: neighbours are in different ones.
    pub(crate) fn part(&mut self, labels: &Labels) -> &mut MemSource {
        let sum: usize = labels.as_packed().iter().map(|byte| usize::from(*byte)).sum();
        let count = self.parts.len();
        &mut self.parts[sum % count]
    }

    fn counts(&self) -> (usize, usize) {
        (self.answered.load(Ordering::Relaxed), self.selected.load(Ordering::Relaxed))
    }
}

impl SeriesSource for Split {
    fn select(
        &self,
        request: &SelectRequest<'_>,
        guard: &dyn QueryGuard,
    ) -> Result<Box<dyn Selection>, SourceError> {
        self.selected.fetch_add(1, Ordering::Relaxed);
        self.whole.select(request, guard)
    }

    fn fragments(&self) -> Option<&dyn FragmentSource> {
        Some(self)
    }
}

impl FragmentSource for Split {
    fn run(
        &self,
        fragment: &Fragment,
        guard: &dyn QueryGuard,
    ) -> Result<Option<Vec<FragmentAnswer>>, SourceError> {
        let plan = FragmentPlan::new(fragment).expect("what is marked can be named");
        let mut answers = Vec::new();
        for part in &self.parts {
            let mut answer = FragmentAnswer::default();
            let end = plan.run(part, guard, &mut |series| {
                answer.series.push(series);
                Ok(())
            });
            answer.end = match end {
                Ok(end) => end,
                Err(QueryError::Execution(_) | QueryError::BadData(_)) => return Ok(None),
                Err(error) => return Err(SourceError::Stopped(Box::new(error))),
            };
            answers.push(answer);
        }
        self.answered.fetch_add(1, Ordering::Relaxed);
        Ok(Some(answers))
    }

    fn saw_repeats(&self, series: usize) {
        panic!("{series} series are in two partitions");
    }

    fn forget(&self, _selection: usize) {}
}

/// The answer from `source`, with all that is counted and noted.
fn answer(source: &dyn SeriesSource, query: &str, range: bool) -> Result<engine::QueryOutput, String> {
    let features = Features { delayed_name_removal: false, ..Features::all() };
    let options = EngineOptions { features, query_text: query.into(), ..EngineOptions::default() };
    let expr = parse(query, &features).map_err(|error| error.to_string())?;
    let found = match range {
        true => engine::range(source, &expr, 60_000, 300_000, 20_000, &options, &NoGuard),
        false => engine::instant(source, &expr, 120_000, &options, &NoGuard),
    };
    found.map_err(|error| error.to_string())
}

/// Numbers within 1e-12 of each other, of their own size or of 1, or both NaN. What is left when values cancel, as the
/// deviation of values that differ in their last bits, is noise: these are up to 1000 / 7, and 3e-14 is one bit of that.
fn close(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-12 * a.abs().max(b.abs()).max(1.0)
}

#[track_caller]
fn check_same(parts: &Value, whole: &Value, query: &str) {
    let same = match (parts, whole) {
        (Value::Vector(a), Value::Vector(b)) => {
            a.len() == b.len()
                && a.iter().zip(b).all(|(a, b)| {
                    a.labels == b.labels
                        && match (&a.value, &b.value) {
                            (SampleValue::Float(a), SampleValue::Float(b)) => close(*a, *b),
                            (a, b) => a == b,
                        }
                })
        }
        (Value::Matrix(a), Value::Matrix(b)) => {
            a.len() == b.len()
                && a.iter().zip(b).all(|(a, b)| {
                    let floats = a.floats.iter().zip(&b.floats);
                    a.labels == b.labels
                        && a.histograms == b.histograms
                        && a.floats.len() == b.floats.len()
                        && { floats }.all(|(a, b)| a.0 == b.0 && close(a.1, b.1))
                })
        }
        (Value::Scalar { value: a, .. }, Value::Scalar { value: b, .. }) => close(*a, *b),
        (a, b) => a == b,
    };
    assert!(same, "{query}\nin parts: {parts:?}\nas a whole: {whole:?}");
}

/// Queries, and whether they need no series.
const QUERIES: &[(&str, bool)] = &[
    ("m_total", true),
    ("-m_total", true),
    ("m_total offset 30s > 10", true),
    ("m_total @ 100", true),
    ("rate(m_total[1m])", true),
    ("sum by (job) (rate(m_total[1m]))", true),
    ("sum without (pod) (rate(m_total[1m] offset 10s))", true),
    ("sum(rate(m_total[1m] @ end()))", true),
    ("sum(rate(m_total[1m])) / count(m_total)", true),
    ("avg by (job) (m_total)", true),
    ("min(m_total) - max by () (m_total)", true),
    ("group by (pod) (m_total > 20)", true),
    ("stddev(m_total)", true),
    ("stdvar by (job) (abs(m_total - 50))", true),
    ("topk(2, m_total)", true),
    ("bottomk by (job) (1, rate(m_total[1m]))", true),
    ("quantile(0.3, m_total)", true),
    ("count_values(\"v\", m_total)", true),
    ("limitk(2, m_total)", true),
    ("sort_desc(sum by (pod) (m_total))", true),
    ("absent(m_total{job=\"nope\"})", true),
    ("max_over_time(sum by (job) (rate(m_total[1m]))[2m:30s])", true),
    ("sum(max_over_time(rate(m_total[30s])[2m:15s]))", true),
    ("clamp(m_total, 5, time())", true),
    ("sum by (job) (round(m_total / 3, 0.5)) * 2", true),
    ("scalar(sum(m_total)) + m_total", true),
    ("label_replace(m_total, \"x\", \"$1\", \"pod\", \"(.).*\")", true),
    ("m_total + on (job, pod) m_total", true),
    ("sum(last_over_time({__name__=~\"m.*\"}[1m]))", true),
    ("count by (__name__) ({job=\"a\"})", true),
    ("timestamp(m_total)", true),
    ("sum(changes(m_total[1m]) + resets(m_total[1m]))", true),
    ("sum by (job) (rate(m_total[1m] anchored))", true),
    ("sum(increase(m_total[1m] smoothed))", true),
    ("quantile_over_time(0.5, m_total[1m])", true),
    ("sum(quantile_over_time(0.5, m_total[1m]))", true),
    // A name that goes may make series of different partitions the same.
    ("rate({job=\"a\"}[1m])", false),
    ("sum(abs({__name__=~\"m.*|n\"}))", true),
    ("timestamp({job=\"a\"})", false),
    ("quantile_over_time(scalar(sum(m_total)) / 1e9, m_total[1m])", false),
    ("absent_over_time(m_total[1m])", false),
    ("m_total[1m]", false),
];

/// Name, job and pod of a series, and the numbers of its scrapes with their values.
type Scraped = ((String, String, String), Vec<(i64, f64)>);

fn any_series() -> impl Strategy<Value = Vec<Scraped>> {
    let value = prop_oneof![
        8 => (0u32..1_000).prop_map(|v| f64::from(v) / 7.0),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
    ];
    let samples = prop::collection::btree_map(0i64..60, value, 1..40);
    prop::collection::btree_map(("m_total|n", "[ab]", "p[0-9]"), samples, 1..24)
        .prop_map(|series| series.into_iter().map(|(k, v)| (k, v.into_iter().collect())).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn partitions_give_what_all_series_together_give(series in any_series()) {
        let (mut split, mut one) = (Split::new(3), Split::new(1));
        for ((name, job, pod), samples) in series {
            let labels = Labels::from_pairs([("__name__", &*name), ("job", &*job), ("pod", &*pod)]);
            for (nth, value) in samples {
                for sources in [&mut split, &mut one] {
                    sources.whole.push_float(&labels, nth * 7_000, value, 0);
                    sources.part(&labels).push_float(&labels, nth * 7_000, value, 0);
                }
            }
        }
        for ((query, _), range) in QUERIES.iter().flat_map(|query| [(query, false), (query, true)]) {
            let whole = answer(&split.whole, query, range);
            for sources in [&split, &one] {
                let (parts, again) = (answer(sources, query, range), answer(sources, query, range));
                prop_assert_eq!(format!("{parts:?}"), format!("{again:?}"), "twice the same");
                match (parts, &whole) {
                    (Ok(parts), Ok(whole)) => {
                        check_same(&parts.value, &whole.value, query);
                        prop_assert_eq!(parts.warnings, whole.warnings.clone(), "{}", query);
                        prop_assert_eq!(parts.infos, whole.infos.clone(), "{}", query);
                        let (a, b) = (&parts.stats, &whole.stats);
                        prop_assert_eq!((a.total_samples, a.series), (b.total_samples, b.series), "{}", query);
                        prop_assert_eq!(&a.total_samples_per_step, &b.total_samples_per_step);
                    }
                    (parts, whole) => prop_assert_eq!(parts.err(), whole.as_ref().err().cloned()),
                }
            }
        }
    }
}

#[test]
fn what_can_run_in_partitions_selects_no_series() {
    let mut sources = Sources::new();
    for pod in ["p1", "p2", "p3", "p4"] {
        let labels = Labels::from_pairs([("__name__", "m_total"), ("job", "a"), ("pod", pod)]);
        for ts_ms in (0..300_000).step_by(7_000) {
            sources.push_float(&labels, ts_ms, ts_ms as f64, 0);
        }
    }
    for (query, runs) in QUERIES {
        let (answered, selected) = sources.split.counts();
        answer(&sources.split, query, true).ok();
        answer(&sources.split, query, false).unwrap();
        let counts = sources.split.counts();
        assert_eq!(counts.1 == selected, *runs, "{query}");
        assert!(!runs || counts.0 > answered, "{query}");
    }
}

#[test]
fn sums_that_overflow_are_made_of_series() {
    let mut split = Split::new(2);
    for (pod, value) in [("a", f64::MAX), ("b", -f64::MAX), ("c", f64::MAX), ("d", 1.0)] {
        let labels = Labels::from_pairs([("__name__", "m"), ("pod", pod)]);
        split.whole.push_float(&labels, 120_000, value, 0);
        split.part(&labels).push_float(&labels, 120_000, value, 0);
    }
    for query in ["sum(m)", "avg(m)", "stddev(m)", "max(m)"] {
        let (parts, whole) = (answer(&split, query, false), answer(&split.whole, query, false));
        assert_eq!(format!("{:?}", parts.unwrap().value), format!("{:?}", whole.unwrap().value), "{query}");
    }
}

#[test]
fn deep_and_wide_queries_are_marked_within_bounds() {
    let mut split = Split::new(2);
    let labels = Labels::from_pairs([("__name__", "m")]);
    split.whole.push_float(&labels, 120_000, 1.0, 0);
    split.part(&labels).push_float(&labels, 120_000, 1.0, 0);
    let nested = |open: &str, close: &str, n: usize| format!("{}m{}", open.repeat(n), close.repeat(n));
    let queries = [
        nested("abs(", ")", 498),
        nested("sum(", ")", 498),
        nested("-(", ")", 249),
        nested("max_over_time(", "[1m:1m])", 249),
        nested("(1 + ", ")", 249),
        format!("m{}", " + m".repeat(498)),
    ];
    let run = move || {
        for query in &queries {
            let (before, _) = split.counts();
            answer(&split, query, true).unwrap();
            answer(&split, query, false).unwrap();
            assert!(split.counts().0 - before <= 2 * 32, "{}", &query[..20]);
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}

#[test]
fn what_another_node_may_send_is_refused_unless_it_is_a_fragment() {
    let whole = Fragment {
        options: EngineOptions {
            query_text: "sum(topk(1, m)) + absent(m)".into(),
            ..EngineOptions::default()
        },
        span: quorate_promql::ast::Span::new(4, 14),
        selection: 0,
        query: Default::default(),
        start_ms: 0,
        step_ms: 1,
        steps: 1,
    };
    let span = quorate_promql::ast::Span::new(12, 13);
    FragmentPlan::new(&Fragment { span, ..whole.clone() }).unwrap();
    let long = EngineOptions { query_text: "m".repeat(1 << 17).into(), ..EngineOptions::default() };
    let odd = EngineOptions { lookback_delta_ms: 0, ..whole.options.clone() };
    for refused in [
        whole.clone(),
        Fragment { span: quorate_promql::ast::Span::new(0, 15), ..whole.clone() },
        Fragment { span: quorate_promql::ast::Span::new(18, 27), ..whole.clone() },
        Fragment { span: quorate_promql::ast::Span::new(3, 900), ..whole.clone() },
        Fragment { span, steps: 0, ..whole.clone() },
        Fragment { span, steps: usize::MAX, ..whole.clone() },
        Fragment { span, start_ms: i64::MAX, ..whole.clone() },
        Fragment { span, step_ms: 0, ..whole.clone() },
        Fragment { span, options: long, ..whole.clone() },
        Fragment { span, options: odd, ..whole.clone() },
    ] {
        let refusal = FragmentPlan::new(&refused).unwrap_err();
        assert!(matches!(refusal, QueryError::BadData(_)), "{refusal}");
    }
}
