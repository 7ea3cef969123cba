//! `sum_over_time` and `avg_over_time` of histograms.

use super::FloatHistogram;
use super::total::Total;
use crate::engine::QueryError;
use crate::eval::notes::Notes;
use crate::kernels::average::SumKind;
use crate::kernels::window::{CallSite, Window};
use std::sync::Arc;

/// The sum or mean of the histograms of a window.
pub(crate) fn total(
    kind: SumKind,
    window: &Window<'_>,
    site: CallSite<'_>,
    notes: &mut Notes,
) -> Result<Option<Arc<FloatHistogram>>, QueryError> {
    let Some((first, rest)) = window.histograms().split_first() else { return Ok(None) };
    let mut total = Total::new(kind == SumKind::Avg, first);
    for h in rest {
        window.poll.touched(h.weight() as usize)?;
        total.add(h, site.metric, site.arg, notes);
    }
    Ok(total.finish(site.arg, notes))
}
