//! Verdicts between nodes: `proto/write.proto` and back.

use crate::applier::{NoVerdict, RecordVerdict};
use bytes::Bytes;
use quorate_model::{Labels, TenantId};
use quorate_tsdb::{ConflictExample, Counters, SubBatchVerdict};
use quorate_wire::write;

/// The messages of a record's verdicts.
pub(super) fn to_wire(verdicts: &[SubBatchVerdict]) -> Vec<write::Verdict> {
    let conflict = |example: &ConflictExample| write::Conflict {
        series: Bytes::copy_from_slice(example.labels.as_packed()),
        ts_ms: example.ts_ms,
        value: example.value,
    };
    let message = |verdict: &SubBatchVerdict| write::Verdict {
        tenant: verdict.tenant.0,
        stored: verdict.counters.stored,
        duplicates: verdict.counters.duplicates,
        conflicts: verdict.counters.conflicts,
        late: verdict.counters.late,
        examples: verdict.examples.iter().map(conflict).collect(),
    };
    verdicts.iter().map(message).collect()
}

/// The verdicts of a record's messages.
pub(super) fn from_wire(messages: &[write::Verdict]) -> RecordVerdict {
    messages.iter().map(verdict).collect()
}

fn verdict(message: &write::Verdict) -> Result<SubBatchVerdict, NoVerdict> {
    let counters = Counters {
        stored: message.stored,
        duplicates: message.duplicates,
        conflicts: message.conflicts,
        late: message.late,
        // A record with lost samples has no verdict.
        lost: 0,
    };
    let examples = message.examples.iter().map(example).collect::<Result<_, _>>()?;
    Ok(SubBatchVerdict { tenant: TenantId(message.tenant), counters, examples })
}

fn example(message: &write::Conflict) -> Result<ConflictExample, NoVerdict> {
    let malformed =
        || NoVerdict { reason: "the leader's verdict names a series that is malformed".to_owned() };
    let labels = Labels::from_packed(&message.series).ok_or_else(malformed)?;
    Ok(ConflictExample { labels, ts_ms: message.ts_ms, value: message.value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_example() -> impl Strategy<Value = ConflictExample> {
        let labels = prop::collection::btree_map("[a-zä]{1,9}", "[^\0]{1,9}", 0..4);
        (labels, any::<i64>(), any::<u64>()).prop_map(|(labels, ts_ms, bits)| ConflictExample {
            labels: Labels::from_pairs(labels),
            ts_ms,
            value: f64::from_bits(bits),
        })
    }

    fn any_verdict() -> impl Strategy<Value = SubBatchVerdict> {
        let examples = prop::collection::vec(any_example(), 0..4);
        (any::<u32>(), any::<[u64; 4]>(), examples).prop_map(|(tenant, counts, examples)| {
            let [stored, duplicates, conflicts, late] = counts;
            let counters = Counters { stored, duplicates, conflicts, late, lost: 0 };
            SubBatchVerdict { tenant: TenantId(tenant), counters, examples }
        })
    }

    /// With values as bits, since NaN differs from itself.
    fn shown(verdicts: &[SubBatchVerdict]) -> Vec<String> {
        let bits = |verdict: &SubBatchVerdict| {
            verdict.examples.iter().map(|example| example.value.to_bits()).collect::<Vec<_>>()
        };
        verdicts.iter().map(|verdict| format!("{verdict:?} {:?}", bits(verdict))).collect()
    }

    proptest! {
        #[test]
        fn verdicts_come_back_bit_for_bit(verdicts in prop::collection::vec(any_verdict(), 0..4)) {
            let back = from_wire(&to_wire(&verdicts)).unwrap();
            prop_assert_eq!(shown(&back), shown(&verdicts));
        }
    }

    #[test]
    fn a_malformed_series_is_an_error() {
        let conflict =
            write::Conflict { series: Bytes::from_static(&[9, b'a']), ..write::Conflict::default() };
        let message = write::Verdict { conflicts: 1, examples: vec![conflict], ..write::Verdict::default() };
        assert!(from_wire(&[message]).is_err());
    }
}
