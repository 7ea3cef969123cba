//! Evaluation times.

use crate::ast::AtModifier;

/// Equally spaced evaluation times, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeGrid {
    /// The first one.
    pub(crate) start: i64,
    /// Distance between two, above 0; 1 for a single one.
    pub(crate) step: i64,
    /// How many.
    pub(crate) steps: usize,
}

/// Most steps of a grid; a range query of an API is limited to far fewer before it gets here.
const MAX_STEPS: i64 = 1 << 31;

/// No evaluation time is farther from the epoch than this, 73 million years, so that adding and taking away offsets,
/// ranges and lookbacks cannot overflow: a duration is at most 2^63 nanoseconds.
const MAX_TIME: i64 = 1 << 61;

/// Refuses a time that is too far from the epoch.
pub(crate) fn check_time(time: i64) -> Result<(), String> {
    if (-MAX_TIME..=MAX_TIME).contains(&time) {
        Ok(())
    } else {
        Err(format!("the time {time} ms is out of range"))
    }
}

impl TimeGrid {
    /// A single time.
    pub(crate) fn instant(time: i64) -> Result<Self, String> {
        check_time(time)?;
        Ok(Self { start: time, step: 1, steps: 1 })
    }

    /// `start`, `start + step`, and so on up to `end`.
    pub(crate) fn range(start: i64, end: i64, step: i64) -> Result<Self, String> {
        if step <= 0 {
            return Err(
                "zero or negative query resolution step widths are not accepted. Try a positive integer"
                    .into(),
            );
        }
        if end < start {
            return Err("end timestamp must not be before start time".into());
        }
        check_time(start)?;
        check_time(end)?;
        match end.checked_sub(start).map(|length| length / step) {
            Some(intervals) if intervals < MAX_STEPS => {
                Ok(Self { start, step, steps: intervals as usize + 1 })
            }
            _ => Err("the query has too many steps".into()),
        }
    }

    /// The time of a step.
    #[inline]
    pub(crate) fn at(&self, step: usize) -> i64 {
        self.start + step as i64 * self.step
    }

    /// The last time.
    pub(crate) fn end(&self) -> i64 {
        self.at(self.steps - 1)
    }

    /// The first time alone.
    pub(crate) fn first(&self) -> Self {
        Self { steps: 1, ..*self }
    }

    /// The times at which a subquery is evaluated so that windows of `range` milliseconds ending at these times
    /// less `offset` are filled; `None` if there is none.
    pub(crate) fn subquery(&self, at: Option<i64>, offset: i64, range: i64, step: i64) -> Option<Self> {
        let (first, last) = at.map_or((self.start, self.end()), |at| (at, at));
        let after = first - offset - range;
        let end = last - offset;
        let start = (after.div_euclid(step) + 1) * step;
        (start <= end).then(|| Self { start, step, steps: ((end - start) / step) as usize + 1 })
    }
}

/// Start, end and step of the query as they were asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueryTimes {
    /// Start of the query.
    pub(crate) start: i64,
    /// End of the query.
    pub(crate) end: i64,
    /// Step of the query, 0 for instant queries.
    pub(crate) step: i64,
}

impl QueryTimes {
    /// The time of an `@` modifier.
    pub(crate) fn resolve(&self, at: Option<AtModifier>) -> Option<i64> {
        at.map(|at| match at {
            AtModifier::Timestamp(ts) => ts.clamp(-MAX_TIME, MAX_TIME),
            AtModifier::Start => self.start,
            AtModifier::End => self.end,
        })
    }
}
