//! What operators do to labels: dropping the metric name and its kin, grouping and matching.

use quorate_model::{Labels, LabelsBuilder, METRIC_NAME};

/// Labels that describe the metric as a whole and go where its name goes.
const METADATA: [&str; 3] = [METRIC_NAME, "__type__", "__unit__"];

/// Whether a label goes where the metric name goes.
pub(crate) fn is_metadata(name: &str) -> bool {
    METADATA.contains(&name)
}

/// The labels without the metric name and its kin.
pub(crate) fn without_metadata(labels: &Labels) -> Labels {
    if labels.iter().any(|(name, _)| is_metadata(name)) {
        labels.without(is_metadata)
    } else {
        labels.clone()
    }
}

/// The metric name, empty if there is none.
pub(crate) fn metric_name(labels: &Labels) -> &str {
    labels.metric_name().unwrap_or("")
}

/// Whether a label belongs to the group of its series. `names` is sorted.
pub(crate) fn in_group(label: &str, names: &[String], without: bool) -> bool {
    let listed = names.binary_search_by(|n| n.as_str().cmp(label)).is_ok();
    if without { !listed && label != METRIC_NAME } else { listed }
}

/// The labels of the group of a series. `names` is sorted.
pub(crate) fn group(labels: &Labels, names: &[String], without: bool) -> Labels {
    labels.without(|name| !in_group(name, names, without))
}

/// The labels by which series of two sides match. `names` is sorted.
pub(crate) fn signature(labels: &Labels, names: &[String], on: bool) -> Labels {
    let listed = |name: &str| names.binary_search_by(|n| n.as_str().cmp(name)).is_ok();
    if on {
        labels.without(|name| !listed(name))
    } else {
        labels.without(|name| name == METRIC_NAME || listed(name))
    }
}

/// The labels of `from` with one of them set.
pub(crate) fn with(from: &Labels, name: &str, value: &str) -> Labels {
    let mut builder = LabelsBuilder::new(from);
    builder.set(name, value);
    builder.build()
}

/// As Prometheus writes a label set in messages: `{__name__="up", job="a"}`.
pub(crate) fn text(labels: &Labels) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| {
            let name = if is_plain(name) { name.to_owned() } else { crate::go_fmt::quote(name) };
            format!("{name}={}", crate::go_fmt::quote(value))
        })
        .collect();
    format!("{{{}}}", pairs.join(", "))
}

fn is_plain(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_or_leave_out_labels() {
        let labels = Labels::from_pairs([("__name__", "up"), ("a", "1"), ("b", "2")]);
        let names = ["a".to_owned(), "c".to_owned()];
        assert_eq!(text(&group(&labels, &names, false)), r#"{a="1"}"#);
        assert_eq!(text(&group(&labels, &names, true)), r#"{b="2"}"#);
        assert_eq!(group(&labels, &[], false), Labels::empty());
        assert_eq!(text(&without_metadata(&labels)), r#"{a="1", b="2"}"#);
    }
}
