//! Custom bucket bounds: comparing and reconciling them.

use super::Buckets;
use crate::kernels::kahan::Kahan;
use std::sync::Arc;

/// Whether the bounds are the same.
pub(super) fn same_bounds(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x == y)
}

/// The bounds that both have.
pub(super) fn common_bounds(a: &[f64], b: &[f64]) -> Arc<[f64]> {
    a.iter().copied().filter(|bound| b.binary_search_by(|other| other.total_cmp(bound)).is_ok()).collect()
}

/// Adds buckets with the bounds `from` to the counts of the buckets with the bounds `to`, which are some of `from`.
/// `counts` has one entry more than `to`, for what lies above.
pub(super) fn pour(buckets: &Buckets, from: &[f64], to: &[f64], sign: f64, counts: &mut [Kahan]) {
    for (index, count) in buckets {
        let upper = usize::try_from(*index).ok().and_then(|at| from.get(at));
        let target = upper.map_or(to.len(), |upper| to.partition_point(|bound| bound < upper));
        counts[target].add(sign * count);
    }
}
