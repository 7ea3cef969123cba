//! Windows by kernel equal a naive scan of each window, for sliding and scanning windows alike.

use super::average::{SumKind, run_sum, run_variance};
use super::counting::{PairKind, run_count, run_pairs};
use super::extreme::{self, ExtremeKind};
use super::output::Output;
use super::rate::{self, RateKind};
use super::window::{CallSite, Samples, Windows};
use super::{instant_delta, picking, quantile, regression};
use crate::ast::{RangeMode, Span};
use crate::engine::{NoGuard, QueryError};
use crate::eval::charge::Charge;
use crate::eval::notes::Notes;
use crate::eval::points::Points;
use crate::eval::poll::Poll;
use proptest::prelude::*;

const SITE: CallSite<'_> = CallSite { metric: "m", arg: Span { start: 0, end: 0 } };

/// What a kernel gives without a guard.
fn results(
    windows: &Windows,
    kernel: impl Fn(&Poll<'_>, &mut Notes, &mut Output<'_, '_>) -> Result<(), QueryError>,
) -> Points {
    let (mut points, mut memory) = (Points::new(windows.steps), Charge::empty(&NoGuard));
    kernel(&Poll::new(&NoGuard), &mut Notes::default(), &mut Output::new(&mut points, &mut memory)).unwrap();
    points
}

/// Runs a kernel and compares it with `naive` on the samples of each window.
fn check(
    samples: &Samples,
    windows: &Windows,
    kernel: impl Fn(&Poll<'_>, &mut Notes, &mut Output<'_, '_>) -> Result<(), QueryError>,
    naive: impl Fn(&[(i64, f64)]) -> Option<f64>,
) -> Result<(), TestCaseError> {
    let out = results(windows, kernel);
    for step in 0..windows.steps {
        let inside = |ts: i64| ts > windows.start(step) && ts <= windows.end(step);
        let all = samples.ts.iter().copied().zip(samples.values.iter().copied());
        let window: Vec<(i64, f64)> = all.filter(|(ts, _)| inside(*ts)).collect();
        let expected = if window.is_empty() { None } else { naive(&window) };
        let got = out.float(step);
        prop_assert!(
            same(expected, got),
            "step {step}: expected {expected:?}, got {got:?}, window {window:?}"
        );
    }
    Ok(())
}

fn same(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => {
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-7 * (1.0 + a.abs().max(b.abs()))
        }
        (a, b) => a == b,
    }
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => -100.0..100.0f64,
        4 => (0..20i32).prop_map(f64::from),
        1 => Just(f64::NAN),
        1 => prop_oneof![Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(-0.0)],
    ]
}

fn series(values: impl Strategy<Value = f64>) -> impl Strategy<Value = Samples> {
    prop::collection::vec((1..40_000i64, values), 0..120).prop_map(|gaps| {
        let mut ts = 0;
        let mut samples = Samples::default();
        for (gap, value) in gaps {
            ts += gap;
            samples.ts.push(ts);
            samples.values.push(value);
        }
        samples
    })
}

fn windows() -> impl Strategy<Value = Windows> {
    let at = prop_oneof![9 => Just(None), 1 => (0..2_000_000i64).prop_map(Some)];
    (0..500_000i64, 1..60_000i64, 1..60usize, -50_000..50_000i64, at, 1..600_000i64).prop_map(
        |(eval_start, step, steps, offset, at, range)| Windows {
            eval_start,
            step,
            steps,
            offset,
            at,
            range,
            mode: RangeMode::Plain,
            lookback: 300_000,
        },
    )
}

fn mean(window: &[(i64, f64)]) -> f64 {
    window.iter().map(|(_, v)| v / window.len() as f64).sum()
}

fn increase(window: &[(i64, f64)]) -> f64 {
    let lost: f64 = window.windows(2).filter(|w| w[1].1 < w[0].1).map(|w| w[0].1).sum();
    window[window.len() - 1].1 - window[0].1 + lost
}

/// `increase` with its extrapolation, in the words of Prometheus' documentation.
fn extrapolated(window: &[(i64, f64)], start: i64, end: i64) -> Option<f64> {
    let [first, .., last] = window else { return None };
    let seconds = |ms: i64| ms as f64 / 1000.0;
    let (sampled, result) = (seconds(last.0 - first.0), increase(window));
    let between = sampled / (window.len() - 1) as f64;
    let reach = |gap: f64| if gap >= between * 1.1 { between / 2.0 } else { gap };
    let mut before = reach(seconds(first.0 - start));
    if result > 0.0 && first.1 >= 0.0 {
        before = before.min(sampled * (first.1 / result));
    }
    Some(result * ((sampled + before + reach(seconds(end - last.0))) / sampled))
}

proptest! {
    #[test]
    fn sums_and_means(samples in series(-1e6..1e6f64), windows in windows()) {
        check(&samples, &windows, |poll, notes, out| run_sum(SumKind::Sum, &samples, &windows, poll, SITE, notes, out),
            |w| Some(w.iter().map(|(_, v)| v).sum()))?;
        check(&samples, &windows, |poll, notes, out| run_sum(SumKind::Avg, &samples, &windows, poll, SITE, notes, out),
            |w| Some(mean(w)))?;
        check(&samples, &windows, |poll, notes, out| run_variance(false, &samples, &windows, poll, SITE, notes, out),
            |w| Some(w.iter().map(|(_, v)| (v - mean(w)).powi(2)).sum::<f64>() / w.len() as f64))?;
    }

    #[test]
    fn sums_of_infinities_and_nan(samples in series(value()), windows in windows()) {
        check(&samples, &windows, |poll, notes, out| run_sum(SumKind::Sum, &samples, &windows, poll, SITE, notes, out),
            |w| Some(w.iter().map(|(_, v)| v).sum()))?;
    }

    #[test]
    fn extremes(samples in series(value()), windows in windows(), max: bool) {
        let best = |w: &[(i64, f64)], a: f64, b: f64| { let _ = w; if max { a > b } else { a < b } };
        check(&samples, &windows,
            |poll, notes, out| extreme::run(ExtremeKind { max, time: false }, &samples, &windows, poll, SITE, notes, out),
            |w| Some(w.iter().fold(f64::NAN, |best_so_far, (_, v)| {
                if best_so_far.is_nan() || best(w, *v, best_so_far) { *v } else { best_so_far }
            })))?;
        check(&samples, &windows,
            |poll, notes, out| extreme::run(ExtremeKind { max, time: true }, &samples, &windows, poll, SITE, notes, out),
            |w| {
                let newest = w.iter().fold(w[0], |b, s| {
                    if b.1.is_nan() || s.1 == b.1 || best(w, s.1, b.1) { *s } else { b }
                });
                Some(newest.0 as f64 / 1000.0)
            })?;
    }

    #[test]
    fn counts(samples in series(value()), windows in windows()) {
        check(&samples, &windows, |poll, _, out| run_count(&samples, &windows, poll, out), |w| Some(w.len() as f64))?;
        check(&samples, &windows, |poll, _, out| run_pairs(PairKind::Resets, &samples, &windows, poll, out),
            |w| Some(w.windows(2).filter(|p| p[1].1 < p[0].1).count() as f64))?;
        let changed = |a: f64, b: f64| a != b && !(a.is_nan() && b.is_nan());
        check(&samples, &windows, |poll, _, out| run_pairs(PairKind::Changes, &samples, &windows, poll, out),
            |w| Some(w.windows(2).filter(|p| changed(p[0].1, p[1].1)).count() as f64))?;
        check(&samples, &windows, |poll, _, out| picking::run_value(true, &samples, &windows, poll, out),
            |w| w.last().map(|s| s.1))?;
        check(&samples, &windows, |poll, _, out| picking::run_time(false, &samples, &windows, poll, out),
            |w| w.first().map(|s| s.0 as f64 / 1000.0))?;
    }

    #[test]
    fn quantiles(samples in series(value()), windows in windows(), q in -0.2..1.2f64) {
        let all = vec![q; windows.steps];
        check(&samples, &windows, |poll, notes, out| quantile::run(&all, &samples, &windows, poll, SITE, notes, out), |w| {
            let mut values: Vec<f64> = w.iter().map(|(_, v)| *v).collect();
            values.sort_by(quantile::nan_first);
            Some(quantile::quantile_sorted(q, &values))
        })?;
    }

    #[test]
    fn increases(samples in series(0.0..1e3f64), windows in windows()) {
        prop_assume!(windows.at.is_none());
        let kind = RateKind { is_counter: true, is_rate: false };
        let out =
            results(&windows, |poll, notes, out| rate::run(kind, &samples, &windows, poll, SITE, notes, out));
        for step in 0..windows.steps {
            let (start, end) = (windows.start(step), windows.end(step));
            let all = samples.ts.iter().copied().zip(samples.values.iter().copied());
            let window: Vec<_> = all.filter(|(ts, _)| *ts > start && *ts <= end).collect();
            let expected = extrapolated(&window, start, end);
            prop_assert!(same(expected, out.float(step)), "step {step}: {expected:?}, {:?}", out.float(step));
        }
    }

    #[test]
    fn differences(samples in series(value()), windows in windows()) {
        check(&samples, &windows, |poll, notes, out| instant_delta::run(false, &samples, &windows, poll, SITE, notes, out),
            |w| (w.len() > 1).then(|| w[w.len() - 1].1 - w[w.len() - 2].1))?;
    }

    #[test]
    fn slopes(samples in series(-1e3..1e3f64), windows in windows()) {
        check(&samples, &windows, |poll, notes, out| regression::run(None, &samples, &windows, poll, SITE, notes, out), |w| {
            if w.len() < 2 {
                return None;
            }
            let n = w.len() as f64;
            let x = |s: &(i64, f64)| (s.0 - w[0].0) as f64 / 1000.0;
            let (mx, my) = (w.iter().map(x).sum::<f64>() / n, mean(w));
            let xy: f64 = w.iter().map(|s| (x(s) - mx) * (s.1 - my)).sum();
            let xx: f64 = w.iter().map(|s| (x(s) - mx).powi(2)).sum();
            Some(xy / xx)
        })?;
    }
}
