//! Counter resets that start timestamps tell of.
//!
//! Source: Prometheus 3.14, feature `use-start-timestamps`.

/// Whether the start timestamp of a sample says that the counter began anew after the previous sample.
/// 0 means unknown; a start at or after its own sample is unknown too.
pub(crate) fn is_reset(previous_start: i64, previous_ts: i64, start: i64, ts: i64) -> bool {
    if start == 0 || start >= ts || start < previous_ts {
        return false;
    }
    if start > previous_ts {
        return true;
    }
    // The start is the previous sample: a delta series if that one's own start is known and lies before it.
    previous_start != 0 && previous_start < previous_ts
}

/// Whether a sample claims to have started before the previous sample, but not where that one did.
pub(crate) fn overlaps(previous_start: i64, previous_ts: i64, start: i64) -> bool {
    start != 0 && start < previous_ts && start != previous_start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_and_later_start_is_a_reset() {
        assert!(is_reset(1, 10, 12, 20));
        assert!(!is_reset(1, 10, 1, 20), "cumulative");
        assert!(!is_reset(1, 10, 20, 20), "unknown as in OpenTelemetry");
        assert!(!is_reset(1, 10, 25, 20), "invalid");
        assert!(!is_reset(1, 10, 0, 20), "unknown");
        assert!(is_reset(1, 10, 10, 20), "delta");
        assert!(!is_reset(10, 10, 10, 20), "the previous start is unknown");
        assert!(!is_reset(15, 10, 10, 20), "the previous start is invalid");
    }

    #[test]
    fn overlap_needs_another_start_before_the_previous_sample() {
        assert!(overlaps(1, 10, 5));
        assert!(!overlaps(5, 10, 5));
        assert!(!overlaps(1, 10, 10));
        assert!(!overlaps(1, 10, 0));
    }
}
