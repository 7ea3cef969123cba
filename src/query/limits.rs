//! What one query of a tenant may read.

use quorate_tsdb::SelectLimits;

/// Limits of one query; 0 means no limit. Texts and ids follow Mimir's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueryLimits {
    /// `max_fetched_series_per_query`.
    pub max_series: u64,
    /// `max_total_query_length`, milliseconds.
    pub max_length_ms: i64,
    /// `max_samples_per_query`.
    pub max_samples: u64,
}

impl QueryLimits {
    /// Refuses more than the allowed number of series.
    ///
    /// # Errors
    /// The text for the client.
    pub fn check_series(&self, series: u64) -> Result<(), String> {
        if self.max_series == 0 || series <= self.max_series {
            return Ok(());
        }
        Err(self.series_refusal())
    }

    /// Samples that the query may hold at once, given the node's limit.
    pub(crate) fn max_samples_or(&self, node: u64) -> u64 {
        if self.max_samples == 0 { node } else { self.max_samples.min(node) }
    }

    /// What one selector may select in a partition: as much as the whole query.
    pub(crate) fn of_selection(&self) -> SelectLimits {
        SelectLimits { max_series: self.max_series }
    }

    /// The text for a client whose query selects too many series.
    pub(crate) fn series_refusal(&self) -> String {
        format!(
            "the query exceeded the maximum number of series (limit: {} series) \
             (err-mimir-max-series-per-query). Consider reducing the time range and/or number of series \
             selected by the query. One way to reduce the number of selected series is to add more label \
             matchers to the query. Otherwise, to adjust the related per-tenant limit, configure \
             max_fetched_series_per_query",
            self.max_series
        )
    }

    /// Refuses a query over more time than allowed.
    ///
    /// # Errors
    /// The text for the client.
    pub fn check_length(&self, start_ms: i64, end_ms: i64) -> Result<(), String> {
        let length = end_ms.saturating_sub(start_ms);
        if self.max_length_ms == 0 || length <= self.max_length_ms {
            return Ok(());
        }
        Err(format!(
            "the total query time range exceeds the limit (query length: {length}ms, limit: {}ms) \
             (err-mimir-max-total-query-length). To adjust the related per-tenant limit, configure \
             max_total_query_length",
            self.max_length_ms
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_means_no_limit_and_the_limit_itself_is_allowed() {
        let off = QueryLimits::default();
        assert!(off.check_series(u64::MAX).is_ok() && off.check_length(i64::MIN, i64::MAX).is_ok());
        let on = QueryLimits { max_series: 10, max_length_ms: 1000, max_samples: 0 };
        assert!(on.check_series(10).is_ok() && on.check_length(0, 1000).is_ok());
        assert!(on.check_series(11).unwrap_err().contains("err-mimir-max-series-per-query"));
        assert!(on.check_length(0, 1001).unwrap_err().contains("limit: 1000ms"));
    }
}
