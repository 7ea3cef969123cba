//! How OTLP metrics become series: the `otlp` section, named as Prometheus names it.
//!
//! Knows keys and their defaults. Does not know messages or series.
//! Path: configuration -> **here** -> `otlp::translate`.

use serde::{Deserialize, Serialize};

/// How names are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TranslationStrategy {
    /// Characters that are not allowed become `_`, units and types become suffixes.
    #[default]
    UnderscoreEscapingWithSuffixes,
    /// Names stay as they are, units and types become suffixes.
    NoUTF8EscapingWithSuffixes,
    /// Characters that are not allowed become `_`, nothing is appended.
    UnderscoreEscapingWithoutSuffixes,
    /// Names stay as they are, nothing is appended.
    NoTranslation,
}

impl TranslationStrategy {
    /// Whether characters outside of the classic set become `_`.
    pub fn escapes(self) -> bool {
        matches!(self, Self::UnderscoreEscapingWithSuffixes | Self::UnderscoreEscapingWithoutSuffixes)
    }

    /// Whether units and types become suffixes of metric names.
    pub fn adds_suffixes(self) -> bool {
        matches!(self, Self::UnderscoreEscapingWithSuffixes | Self::NoUTF8EscapingWithSuffixes)
    }
}

/// What becomes of data points whose temporality is delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delta {
    /// They are dropped and counted.
    #[default]
    Refuse,
    /// They are stored as they come: of unknown type, histograms as gauges.
    Store,
}

/// How OTLP metrics are translated to series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OtlpSettings {
    /// Resource attributes that every series of the resource carries as labels.
    pub promote_resource_attributes: Vec<String>,
    /// Makes every resource attribute a label; not together with `promote_resource_attributes`.
    pub promote_all_resource_attributes: bool,
    /// Resource attributes that `promote_all_resource_attributes` leaves out.
    pub ignore_resource_attributes: Vec<String>,
    /// How metric and label names are written.
    pub translation_strategy: TranslationStrategy,
    /// Keeps `service.name`, `service.namespace` and `service.instance.id` in `target_info`, beside `job` and
    /// `instance`.
    pub keep_identifying_resource_attributes: bool,
    /// Stores histograms with explicit bounds as native histograms with custom buckets.
    pub convert_histograms_to_nhcb: bool,
    /// Makes name, version, schema URL and attributes of the scope labels that begin with `otel_scope_`.
    pub promote_scope_metadata: bool,
    /// Prepends `key` to escaped label names that begin with one `_`.
    pub label_name_underscore_sanitization: bool,
    /// Keeps several `_` in a row in escaped label names, instead of one in their place.
    pub label_name_preserve_multiple_underscores: bool,
    /// Adds the labels `__type__` and `__unit__`.
    pub type_and_unit_labels: bool,
    /// What becomes of data points whose temporality is delta: `refuse` or `store`.
    pub delta: Delta,
}

impl Default for OtlpSettings {
    fn default() -> Self {
        Self {
            promote_resource_attributes: Vec::new(),
            promote_all_resource_attributes: false,
            ignore_resource_attributes: Vec::new(),
            translation_strategy: TranslationStrategy::default(),
            keep_identifying_resource_attributes: false,
            convert_histograms_to_nhcb: false,
            promote_scope_metadata: false,
            label_name_underscore_sanitization: true,
            label_name_preserve_multiple_underscores: true,
            type_and_unit_labels: false,
            delta: Delta::default(),
        }
    }
}

impl OtlpSettings {
    /// Adds every problem found, each naming its key behind `prefix`. Changes nothing.
    pub fn check(&self, problems: &mut Vec<String>, prefix: &str) {
        let all = self.promote_all_resource_attributes;
        if all && !self.promote_resource_attributes.is_empty() {
            problems.push(format!(
                "{prefix}promote_resource_attributes must be empty if {prefix}promote_all_resource_attributes is true"
            ));
        }
        if !all && !self.ignore_resource_attributes.is_empty() {
            problems.push(format!(
                "{prefix}ignore_resource_attributes needs {prefix}promote_all_resource_attributes to be true"
            ));
        }
        let lists = [
            ("promote_resource_attributes", &self.promote_resource_attributes),
            ("ignore_resource_attributes", &self.ignore_resource_attributes),
        ];
        for (key, list) in lists {
            for (at, name) in list.iter().enumerate() {
                if name.trim().is_empty() || name.trim() != name {
                    problems.push(format!("{prefix}{key} holds {name:?}, which is no attribute name"));
                } else if list[..at].contains(name) {
                    problems.push(format!("{prefix}{key} names {name:?} twice"));
                }
            }
        }
    }

    /// Whether a resource attribute becomes a label of every series.
    pub(super) fn promotes(&self, attribute: &str) -> bool {
        let holds = |list: &[String]| list.iter().any(|name| name == attribute);
        if self.promote_all_resource_attributes {
            !holds(&self.ignore_resource_attributes)
        } else {
            holds(&self.promote_resource_attributes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_by_the_names_of_prometheus_and_nothing_else() {
        let text = r#"{"translation_strategy": "NoUTF8EscapingWithSuffixes", "delta": "store",
            "promote_resource_attributes": ["a.b"]}"#;
        let settings: OtlpSettings = serde_json::from_str(text).unwrap();
        let expected = OtlpSettings {
            translation_strategy: TranslationStrategy::NoUTF8EscapingWithSuffixes,
            delta: Delta::Store,
            promote_resource_attributes: vec!["a.b".to_owned()],
            ..OtlpSettings::default()
        };
        assert_eq!(settings, expected);
        assert!(serde_json::from_str::<OtlpSettings>(r#"{"promote": true}"#).is_err());
        assert_eq!(serde_json::from_str::<OtlpSettings>("{}").unwrap(), OtlpSettings::default());
    }

    #[test]
    fn every_problem_names_its_key() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let check = |settings: OtlpSettings| {
            let mut problems = Vec::new();
            settings.check(&mut problems, "otlp.");
            problems
        };
        assert!(check(OtlpSettings::default()).is_empty());
        let problems = check(OtlpSettings {
            promote_all_resource_attributes: true,
            promote_resource_attributes: names(&["a"]),
            ignore_resource_attributes: names(&["b", " ", "b"]),
            ..OtlpSettings::default()
        });
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].starts_with("otlp.promote_resource_attributes must be empty"));
        assert_eq!(problems[1], "otlp.ignore_resource_attributes holds \" \", which is no attribute name");
        assert_eq!(problems[2], "otlp.ignore_resource_attributes names \"b\" twice");
        let ignored = OtlpSettings { ignore_resource_attributes: names(&["b"]), ..OtlpSettings::default() };
        assert_eq!(check(ignored).len(), 1);
    }
}
