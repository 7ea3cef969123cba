//! Laws of histogram arithmetic.

use super::bounds::exponential_bound;
use super::{Buckets, FloatHistogram, quantile};
use crate::ast::Span;
use crate::eval::notes::Notes;
use proptest::prelude::*;
use quorate_model::histogram::CUSTOM_BUCKETS_SCHEMA;
use quorate_model::{BucketCounts, CounterResetHint, Histogram};

fn buckets() -> impl Strategy<Value = Buckets> {
    let counts = prop::collection::btree_map(-20..20i32, 1..50u32, 0..8);
    counts.prop_map(|b| b.into_iter().map(|(i, count)| (i, f64::from(count))).collect())
}

fn histogram() -> impl Strategy<Value = FloatHistogram> {
    let zero = prop_oneof![Just(0.0), Just(0.001), Just(0.25), Just(1.0), Just(3.0)];
    (-2..4i8, zero, 0..20u32, buckets(), buckets()).prop_map(
        |(schema, zero_threshold, zero, positive, negative)| {
            let mut h = FloatHistogram {
                hint: CounterResetHint::Unknown,
                schema,
                zero_threshold: 0.0,
                zero_count: f64::from(zero),
                count: 0.0,
                sum: 0.0,
                positive,
                negative,
                custom: [].into(),
            };
            h.widen_zero(zero_threshold);
            h.count = h.buckets_as_stored().map(|b| b.count).sum();
            h.sum = h.count * 1.5;
            h
        },
    )
}

fn total(h: &FloatHistogram) -> f64 {
    h.buckets_as_stored().map(|b| b.count).sum()
}

proptest! {
    #[test]
    fn samples_round_trip(h in histogram()) {
        prop_assert!(FloatHistogram::from_model(&h.to_model()).equals(&h));
    }

    #[test]
    fn sums_keep_every_observation_and_do_not_depend_on_order(a in histogram(), b in histogram()) {
        let (sum, _) = a.plus(&b).unwrap();
        prop_assert_eq!(total(&sum), total(&a) + total(&b));
        prop_assert_eq!(sum.count, a.count + b.count);
        prop_assert!(sum.equals(&b.plus(&a).unwrap().0));
        prop_assert!(!sum.detect_reset(&a), "a sum holds all that its part does");
        let (difference, _) = sum.minus(&b).unwrap();
        prop_assert_eq!(total(&difference), total(&a));
    }

    #[test]
    fn losing_an_observation_is_a_reset(a in histogram(), at in any::<prop::sample::Index>()) {
        prop_assume!(!a.positive.is_empty());
        let mut fewer = a.clone();
        fewer.positive[at.index(a.positive.len())].1 -= 1.0;
        fewer.positive.retain(|(_, count)| *count != 0.0);
        prop_assert!(fewer.detect_reset(&a));
        prop_assert!(!a.detect_reset(&fewer));
    }

    #[test]
    fn trimming_splits_a_histogram(h in histogram(), at in -50.0..50.0f64) {
        let parts = total(&h.trimmed(at, true)) + total(&h.trimmed(at, false));
        prop_assert!((parts - total(&h)).abs() <= 1e-9 * total(&h).max(1.0), "{parts} of {}", total(&h));
    }

    #[test]
    fn quantiles_grow_and_fractions_undo_them(h in histogram(), p in 0.0..1.0f64, q in 0.0..1.0f64) {
        prop_assume!(h.count > 0.0);
        let (notes, span) = (&mut Notes::default(), Span::default());
        let mut value = |q| quantile::quantile(q, &h, "", span, notes);
        let (low, high) = (value(p.min(q)), value(p.max(q)));
        prop_assert!(low <= high + 1e-9 * high.abs(), "{low} above {high}");
        let below = quantile::fraction(f64::NEG_INFINITY, high, &h, "", span, &mut Notes::default());
        let populated = h.buckets().any(|b| b.lower < high && high < b.upper);
        prop_assert!(!populated || (below - p.max(q)).abs() < 1e-6, "{below} against {}", p.max(q));
    }
}

#[test]
fn integer_counts_are_differences() {
    let h = Histogram {
        reset_hint: CounterResetHint::Gauge,
        schema: CUSTOM_BUCKETS_SCHEMA,
        zero_threshold: 0.0,
        sum: 7.0,
        positive_spans: vec![
            quorate_model::Span { offset: 1, length: 2 },
            quorate_model::Span { offset: 1, length: 1 },
        ],
        negative_spans: vec![],
        custom_values: vec![1.0, 2.0, 3.0, 4.0],
        counts: BucketCounts::Integer { count: 8, zero_count: 0, positive: vec![3, -1, 1], negative: vec![] },
    };
    let h = FloatHistogram::from_model(&h);
    assert_eq!(h.positive, [(1, 3.0), (2, 2.0), (4, 3.0)]);
    assert_eq!(h.to_string(), "{count:8, sum:7, (1,2]:3, (2,3]:2, (4,+Inf]:3}");
}

#[test]
fn bounds_meet_across_schemas() {
    for index in -40..40 {
        assert_eq!(exponential_bound(index * 8, 3), exponential_bound(index, 0));
        assert_eq!(exponential_bound(index * 2, 0), exponential_bound(index, -1));
    }
    assert_eq!(exponential_bound(1024, 0), f64::MAX);
    assert_eq!(exponential_bound(1025, 0), f64::INFINITY);
    assert_eq!(exponential_bound(-1074, 0), f64::from_bits(1));
}
