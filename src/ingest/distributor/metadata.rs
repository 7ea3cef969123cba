//! Metadata of a request, checked.

use crate::protocol::ParsedMetadata;
use crate::refusal;
use quorate_cluster::limits::Limits;
use quorate_model::{MetadataEntry, MetricType};

/// One piece of metadata, or id and text of its refusal. A help text that is too long is cut.
pub(super) fn read(
    body: &[u8],
    parsed: &ParsedMetadata,
    limits: &Limits,
) -> Result<MetadataEntry, (&'static str, String)> {
    let text = |range: &std::ops::Range<usize>| {
        std::str::from_utf8(&body[range.clone()]).map_err(|_| {
            (
                refusal::LABEL_INVALID,
                format!("received metadata that is not UTF-8 ({})", refusal::LABEL_INVALID),
            )
        })
    };
    let name = text(&parsed.family)?;
    let family = if parsed.is_metric_name { family_of(name, parsed.metric_type) } else { name };
    let (help, unit) = (text(&parsed.help)?, text(&parsed.unit)?);
    let limit = limits.max_metadata_length;
    if family.is_empty() {
        let id = refusal::METADATA_NO_NAME;
        return Err((id, format!("received a metric metadata with no metric name ({id})")));
    }
    for (what, value, id) in [
        ("metric name", family, refusal::METADATA_NAME_TOO_LONG),
        ("unit", unit, refusal::METADATA_UNIT_TOO_LONG),
    ] {
        if limit > 0 && value.len() > limit {
            let shown = refusal::cut(family);
            return Err((
                id,
                format!(
                    "received a metric metadata whose {what} length of {} exceeds the limit of {limit}, \
                     metric name: '{shown}' ({id}). To adjust the related per-tenant limit, configure \
                     max_metadata_length.",
                    value.len()
                ),
            ));
        }
    }
    let help = if limit > 0 { &help[..help.floor_char_boundary(limit)] } else { help };
    Ok(MetadataEntry {
        family: family.to_owned(),
        metric_type: parsed.metric_type,
        help: help.to_owned(),
        unit: unit.to_owned(),
    })
}

/// The family of a metric: the name without the suffix that its type gives to parts of a family.
fn family_of(name: &str, metric_type: MetricType) -> &str {
    let suffixes: &[&str] = match metric_type {
        MetricType::Histogram => &["_bucket", "_count", "_sum"],
        MetricType::GaugeHistogram => &["_bucket", "_gcount", "_gsum"],
        MetricType::Summary => &["_count", "_sum"],
        _ => &[],
    };
    let stem = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
    stem.filter(|stem| !stem.is_empty()).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_a_metric_without_the_suffix_of_its_type() {
        for (name, metric_type, family) in [
            ("h_bucket", MetricType::Histogram, "h"),
            ("h_sum", MetricType::Histogram, "h"),
            ("s_count", MetricType::Summary, "s"),
            ("s_bucket", MetricType::Summary, "s_bucket"),
            ("g_gsum", MetricType::GaugeHistogram, "g"),
            ("a_total", MetricType::Counter, "a_total"),
            ("_sum", MetricType::Histogram, "_sum"),
        ] {
            assert_eq!(family_of(name, metric_type), family, "{name}");
        }
    }
}
