//! The selections of a plan. Selectors with the same matchers share one where the ranges they need overlap, so that
//! `a / a` looks its series up once.

use quorate_model::{Matcher, TimeRange};

/// What to ask the source for.
#[derive(Debug, Clone)]
pub(crate) struct SelectSpec {
    /// Matchers, sorted, each once.
    pub(crate) matchers: Vec<Matcher>,
    /// Samples that are looked at.
    pub(crate) range: TimeRange,
    /// Distance between evaluation times.
    pub(crate) step: i64,
}

/// Adds a selection or widens one that fits, and gives its position.
pub(crate) fn add(selects: &mut Vec<SelectSpec>, matchers: &[Matcher], range: TimeRange, step: i64) -> usize {
    let mut matchers = matchers.to_vec();
    matchers.sort_by(|a, b| (a.name(), a.op(), a.value()).cmp(&(b.name(), b.op(), b.value())));
    matchers.dedup();
    let fits = |s: &SelectSpec| s.matchers == matchers && (s.range.overlaps(&range) || s.range == range);
    if let Some(at) = selects.iter().position(fits) {
        let wide = &mut selects[at];
        wide.range.start_ms = wide.range.start_ms.min(range.start_ms);
        wide.range.end_ms = wide.range.end_ms.max(range.end_ms);
        wide.step = wide.step.min(step);
        return at;
    }
    selects.push(SelectSpec { matchers, range, step });
    selects.len() - 1
}
