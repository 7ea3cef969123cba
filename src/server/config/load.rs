//! Reading the configuration: flag before environment before file before default.
//!
//! Knows YAML trees and where a value came from. Does not know what a key means: each setting is put into
//! the tree and read as the whole [`Config`], so a key is described once, in its type.

use super::Config;
use super::keys::{self, Kind};
use serde_yaml_ng::{Mapping, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where the configuration is read from. Kept by a running node, to read it again.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The YAML file, if one was named.
    pub file: Option<PathBuf>,
    /// Settings from the environment, then from flags: later ones win.
    pub settings: Vec<Setting>,
}

/// One value from outside the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Path of the key, as in `query.timeout`.
    pub key: String,
    /// The value as it was written.
    pub value: String,
    /// The flag or variable it came from.
    pub origin: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {}: {cause}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The reason.
        #[source]
        cause: std::io::Error,
    },
    /// The file has a wrong key or value, or is not YAML.
    #[error("{}{}: {message}", file.display(), Line(*line))]
    File {
        /// The file.
        file: PathBuf,
        /// Line of the mistake, from 1; 0 if it is not known.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A flag or variable has a wrong value.
    #[error("{origin}: {message}")]
    Setting {
        /// The flag or variable.
        origin: String,
        /// What is wrong.
        message: String,
    },
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] quorate_wire::grpc::TlsError),
    /// The values are well formed, but do not make sense.
    #[error("{}", .0.join("\n"))]
    Problems(Vec<String>),
}

struct Line(usize);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { Ok(()) } else { write!(f, ", line {}", self.0) }
    }
}

impl Source {
    /// Reads the configuration and checks it.
    ///
    /// # Errors
    /// [`LoadError`]; a file with several mistakes names the first, values that make no sense are all named.
    pub fn load(&self) -> Result<Config, LoadError> {
        let text = match &self.file {
            Some(file) => std::fs::read_to_string(file)
                .map_err(|cause| LoadError::Read { file: file.clone(), cause })?,
            None => String::new(),
        };
        self.load_text(&text)
    }

    /// As [`Source::load`], with `text` in place of the file's content.
    ///
    /// # Errors
    /// As [`Source::load`].
    pub fn load_text(&self, text: &str) -> Result<Config, LoadError> {
        let file = self.file.clone().unwrap_or_else(|| PathBuf::from("configuration"));
        let config = self.merge(&file, text)?;
        let problems = config.check();
        if problems.is_empty() { Ok(config) } else { Err(LoadError::Problems(problems)) }
    }

    fn merge(&self, file: &Path, text: &str) -> Result<Config, LoadError> {
        let in_file = |error: serde_yaml_ng::Error| file_error(file, &error);
        let mut written: Value = serde_yaml_ng::from_str(text).map_err(in_file)?;
        if !written.is_null() {
            // Read as text once for its own sake: only then do errors have lines.
            serde_yaml_ng::from_str::<Config>(text).map_err(in_file)?;
            name_tenants(&mut written, text).map_err(in_file)?;
        }
        let mut tree = serde_yaml_ng::to_value(Config::default()).map_err(in_file)?;
        overlay(&mut tree, &written);
        for setting in &self.settings {
            apply_setting(&mut tree, setting)?;
        }
        complete_overrides(&mut tree, &written);
        serde_yaml_ng::from_value(tree).map_err(in_file)
    }
}

/// Tenants may be named by numbers, as `10` or `0x10`. A tree has numbers as keys then; only the text says how they
/// were written.
fn name_tenants(written: &mut Value, text: &str) -> Result<(), serde_yaml_ng::Error> {
    #[derive(serde::Deserialize)]
    struct Named {
        #[serde(default)]
        overrides: Option<BTreeMap<String, Value>>,
    }
    let named: Named = serde_yaml_ng::from_str(text)?;
    if let (Some(overrides), Some(old)) = (named.overrides, written.get_mut("overrides")) {
        *old = Value::Mapping(overrides.into_iter().map(|(name, over)| (name.into(), over)).collect());
    }
    Ok(())
}

/// A tenant's limits are those of all with what the file says about it put over them.
fn complete_overrides(tree: &mut Value, written: &Value) {
    let Some(limits) = tree.get("limits").cloned() else { return };
    let mut complete = Mapping::new();
    for (tenant, over) in written.get("overrides").and_then(Value::as_mapping).into_iter().flatten() {
        let mut all = limits.clone();
        overlay(&mut all, over);
        complete.insert(tenant.clone(), all);
    }
    if let Some(root) = tree.as_mapping_mut() {
        root.insert("overrides".into(), Value::Mapping(complete));
    }
}

/// Puts the keys of `over` into `tree`; anything but a mapping replaces what was there.
fn overlay(tree: &mut Value, over: &Value) {
    match (tree, over) {
        (_, Value::Null) => {}
        (Value::Mapping(tree), Value::Mapping(over)) => {
            for (key, value) in over {
                match tree.get_mut(key) {
                    Some(old) => overlay(old, value),
                    None => {
                        tree.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (tree, over) => *tree = over.clone(),
    }
}

fn apply_setting(tree: &mut Value, setting: &Setting) -> Result<(), LoadError> {
    let wrong = |message: String| LoadError::Setting { origin: setting.origin.clone(), message };
    let kind = keys::find(&setting.key).ok_or_else(|| wrong("is not a setting".to_owned()))?.kind;
    let value = setting.value.trim();
    let parsed = match kind {
        Kind::Text => Value::String(value.to_owned()),
        Kind::List => value.split(',').map(str::trim).filter(|n| !n.is_empty()).map(Value::from).collect(),
        Kind::Plain => serde_yaml_ng::from_str(value).map_err(|e| wrong(e.to_string()))?,
    };
    let mut at = &mut *tree;
    for name in setting.key.split('.') {
        at = at.get_mut(name).ok_or_else(|| wrong(format!("{} is not a setting", setting.key)))?;
    }
    *at = parsed;
    serde_yaml_ng::from_value::<Config>(tree.clone())
        .map(drop)
        .map_err(|e| wrong(format!("{value:?} is refused: {e}")))
}

fn file_error(file: &Path, error: &serde_yaml_ng::Error) -> LoadError {
    let line = error.location().map_or(0, |location| location.line());
    let text = error.to_string();
    let message = text.rfind(" at line ").map_or(text.as_str(), |at| &text[..at]).to_owned();
    LoadError::File { file: file.to_owned(), line, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HumanDuration;

    fn source(settings: &[(&str, &str)]) -> Source {
        let settings = settings
            .iter()
            .map(|(key, value)| Setting {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
                origin: format!("--{key}"),
            })
            .collect();
        Source { file: Some("quorate.yaml".into()), settings }
    }

    #[track_caller]
    fn check_error(text: &str, settings: &[(&str, &str)], start: &str, part: &str) {
        let error = source(settings).load_text(text).unwrap_err().to_string();
        assert!(error.starts_with(start) && error.contains(part), "{error:?}");
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        check_error("retention: 1d\n\nretentoin: 2d\n", &[], "quorate.yaml, line 3: ", "retentoin");
        check_error("query:\n  timeout: 1m\n  time_out: 1m\n", &[], "quorate.yaml, line 3: ", "time_out");
        check_error("limits:\n  ingestion_rates: 5\n", &[], "quorate.yaml, line 2: ", "ingestion_rates");
        check_error("overrides:\n  a:\n    nope: 5\n", &[], "quorate.yaml, line 3: ", "nope");
    }

    #[test]
    fn a_wrong_value_names_its_line_or_its_flag() {
        check_error("a: [\n", &[], "quorate.yaml, line ", "");
        check_error("query:\n  timeout: soon\n", &[], "quorate.yaml, line 2: ", "soon");
        check_error("", &[("query.timeout", "soon")], "--query.timeout: ", "soon");
        check_error("", &[("partitions", "many")], "--partitions: ", "many");
        check_error("", &[("partitions", "2000")], "partitions must be", "");
    }

    #[test]
    fn later_settings_win_over_earlier_ones_and_over_the_file() {
        let text = "retention: 1d\nquery:\n  timeout: 30s\n";
        let settings = [("retention", "2d"), ("retention", "0"), ("enable_feature", "all")];
        let config = source(&settings).load_text(text).unwrap();
        assert_eq!(config.retention, HumanDuration::from_ms(0));
        assert_eq!(config.query.timeout, HumanDuration::from_secs(30));
        assert_eq!(config.query.max_concurrency, 20, "not named: the default");
        assert_eq!(config.enable_feature, ["all"]);
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(source(&[]).load_text("# nothing\n").unwrap(), Config::default());
    }

    #[test]
    fn tenants_may_be_named_by_numbers() {
        let text = "overrides:\n  10:\n    max_label_name_length: 9\n  0x10:\n    max_label_name_length: 8\n  \
                    007: {}\n  1.50: {}\n  true: {}\n";
        let config = source(&[("query.timeout", "1m")]).load_text(text).unwrap();
        let names: Vec<&str> = config.overrides.keys().map(String::as_str).collect();
        assert_eq!(names, ["007", "0x10", "1.50", "10", "true"]);
        assert_eq!(config.overrides["10"].max_label_name_length, 9);
        assert_eq!(config.overrides["0x10"].max_label_name_length, 8);
    }

    #[test]
    fn overrides_start_from_the_limits_of_all() {
        let text =
            "limits:\n  max_label_names_per_series: 7\noverrides:\n  a:\n    max_label_name_length: 9\n";
        let config = source(&[]).load_text(text).unwrap();
        assert_eq!(config.overrides["a"].max_label_names_per_series, 7);
        assert_eq!(config.overrides["a"].max_label_name_length, 9);
        assert_ne!(config.limits.max_label_name_length, 9);
    }
}
