//! Functions that change the labels of series: `label_replace`, `label_join`; and the labels of `absent`.

use quorate_model::matcher::compile;
use quorate_model::{Labels, LabelsBuilder, METRIC_NAME, MatchOp, Matcher, MatcherError};
use regex::Regex;

/// `label_replace` with its arguments checked.
#[derive(Debug, Clone)]
pub(crate) struct LabelReplace {
    target: String,
    replacement: String,
    source: String,
    regex: Regex,
}

impl LabelReplace {
    /// From the string arguments in the order of the query.
    ///
    /// # Errors
    /// Prometheus' text if the expression does not compile or the target is no label name.
    pub(crate) fn new(target: &str, replacement: &str, source: &str, regex: &str) -> Result<Self, String> {
        let compiled = compile(regex).map_err(|error| match error {
            MatcherError::TooLong { .. } => {
                format!("invalid regular expression in label_replace(): {error}")
            }
            MatcherError::Syntax(_) => format!("invalid regular expression in label_replace(): {regex}"),
        })?;
        if target.is_empty() {
            return Err(format!("invalid destination label name in label_replace(): {target}"));
        }
        let (target, replacement) = (target.to_owned(), replacement.to_owned());
        Ok(Self { target, replacement, source: source.to_owned(), regex: compiled })
    }

    /// Whether it sets the metric name, which is not dropped then.
    pub(crate) fn sets_name(&self) -> bool {
        self.target == METRIC_NAME
    }

    /// The changed labels, or `None` if the expression does not match.
    pub(crate) fn apply(&self, labels: &Labels) -> Option<Labels> {
        let captures = self.regex.captures(labels.get(&self.source).unwrap_or_default())?;
        let mut value = String::new();
        captures.expand(&self.replacement, &mut value);
        Some(LabelsBuilder::new(labels).set(&self.target, &value).build())
    }
}

/// `label_join` with its arguments checked.
#[derive(Debug, Clone)]
pub(crate) struct LabelJoin {
    target: String,
    separator: String,
    sources: Vec<String>,
}

impl LabelJoin {
    /// From the string arguments in the order of the query.
    ///
    /// # Errors
    /// Prometheus' text if a name is no label name.
    pub(crate) fn new(target: &str, separator: &str, sources: &[&str]) -> Result<Self, String> {
        if sources.contains(&"") {
            return Err("invalid source label name in label_join(): ".to_owned());
        }
        if target.is_empty() {
            return Err("invalid destination label name in label_join(): ".to_owned());
        }
        let sources = sources.iter().map(|&s| s.to_owned()).collect();
        Ok(Self { target: target.to_owned(), separator: separator.to_owned(), sources })
    }

    /// Whether it sets the metric name, which is not dropped then.
    pub(crate) fn sets_name(&self) -> bool {
        self.target == METRIC_NAME
    }

    /// The changed labels.
    pub(crate) fn apply(&self, labels: &Labels) -> Labels {
        let values: Vec<_> = self.sources.iter().map(|name| labels.get(name).unwrap_or_default()).collect();
        LabelsBuilder::new(labels).set(&self.target, &values.join(&self.separator)).build()
    }
}

/// The labels of what is absent: those that a selector fixes with a single `=`. The metric name is left out.
pub(crate) fn of_absent(matchers: &[Matcher]) -> Labels {
    let mut labels = LabelsBuilder::new(&Labels::empty());
    let mut seen: Vec<&str> = Vec::new();
    for matcher in matchers.iter().filter(|m| m.name() != METRIC_NAME) {
        if matcher.op() == MatchOp::Equal && !seen.contains(&matcher.name()) {
            labels.set(matcher.name(), matcher.value());
            seen.push(matcher.name());
        } else {
            labels.remove(matcher.name());
        }
    }
    labels.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacements_take_groups_and_remove_empty_results() {
        let labels = Labels::from_pairs([("__name__", "m"), ("src", "value-10")]);
        let apply = |target, replacement, source, regex| {
            LabelReplace::new(target, replacement, source, regex).unwrap().apply(&labels)
        };
        let with = |name, value| Some(LabelsBuilder::new(&labels).set(name, value).build());
        assert_eq!(apply("dst", "to-$1", "src", "value-(.*)"), with("dst", "to-10"));
        assert_eq!(apply("dst", "${n}$$x", "src", ".*-(?P<n>\\d).*"), with("dst", "1$x"));
        assert_eq!(apply("dst", "$1x", "src", "(.*)"), with("dst", ""));
        assert_eq!(apply("src", "", "src", "value-10"), with("src", ""));
        assert_eq!(apply("dst", "x", "src", "value"), None);
        assert_eq!(apply("dst", "x", "none", ""), with("dst", "x"));
        let error = LabelReplace::new("a", "", "", "(").unwrap_err();
        assert_eq!(error, "invalid regular expression in label_replace(): (");
        let error = LabelReplace::new("a", "", "", &"a".repeat(5_000)).unwrap_err();
        assert_eq!(
            error,
            "invalid regular expression in label_replace(): regular expression of 5000 bytes is over the limit of 4096"
        );
        assert!(LabelReplace::new("a", "", "", "(?x)a").is_err());
    }

    #[test]
    fn joins_keep_the_places_of_absent_labels() {
        let labels = Labels::from_pairs([("a", "1"), ("c", "3")]);
        let join = LabelJoin::new("t", "-", &["a", "b", "c"]).unwrap();
        assert_eq!(join.apply(&labels).get("t"), Some("1--3"));
        assert!(!join.sets_name());
        assert!(LabelJoin::new("t", "-", &["a", ""]).is_err());
    }

    #[test]
    fn absent_keeps_labels_that_one_equal_matcher_fixes() {
        let matcher = |name, op, value| Matcher::new(name, op, value).unwrap();
        let matchers = [
            matcher("a", MatchOp::Equal, "1"),
            matcher("b", MatchOp::Regex, "2"),
            matcher("c", MatchOp::Equal, "3"),
            matcher("c", MatchOp::Equal, "4"),
            matcher("__name__", MatchOp::Equal, "m"),
        ];
        assert_eq!(of_absent(&matchers), Labels::from_pairs([("a", "1")]));
    }
}
