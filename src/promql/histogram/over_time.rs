//! `sum_over_time` and `avg_over_time` of histograms.

use super::FloatHistogram;
use super::total::Total;
use crate::eval::notes::Notes;
use crate::kernels::average::SumKind;
use crate::kernels::window::CallSite;
use std::sync::Arc;

/// The sum or mean of the histograms of a window.
pub(crate) fn total(
    kind: SumKind,
    window: &[Arc<FloatHistogram>],
    site: CallSite<'_>,
    notes: &mut Notes,
) -> Option<Arc<FloatHistogram>> {
    let (first, rest) = window.split_first()?;
    let mut total = Total::new(kind == SumKind::Avg, first);
    rest.iter().for_each(|h| total.add(h, site.metric, site.arg, notes));
    total.finish(site.arg, notes)
}
