//! Which experimental parts of PromQL are on, by Prometheus' names of `--enable-feature`.

/// Switches of the language and the engine. The default is what Prometheus 3.14 has without any flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Features {
    /// `promql-experimental-functions`: experimental functions, `limitk` and `limit_ratio`.
    pub experimental_functions: bool,
    /// `promql-duration-expr`: arithmetic in durations. On by default since Prometheus 3.14.
    pub duration_expressions: bool,
    /// `promql-extended-range-selectors`: `anchored` and `smoothed`.
    pub extended_range_selectors: bool,
    /// `promql-binop-fill-modifiers`: `fill`, `fill_left` and `fill_right`.
    pub fill_modifiers: bool,
    /// `promql-delayed-name-removal`: metric names are dropped at the end of the evaluation only.
    pub delayed_name_removal: bool,
    /// `use-start-timestamps`: rate and its relatives use stored start timestamps. `st-storage` alone is
    /// accepted too, since start timestamps are always stored.
    pub start_timestamps: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            experimental_functions: false,
            duration_expressions: true,
            extended_range_selectors: false,
            fill_modifiers: false,
            delayed_name_removal: false,
            start_timestamps: false,
        }
    }
}

impl Features {
    /// Everything on.
    pub fn all() -> Self {
        Self {
            experimental_functions: true,
            duration_expressions: true,
            extended_range_selectors: true,
            fill_modifiers: true,
            delayed_name_removal: true,
            start_timestamps: true,
        }
    }

    /// Reads a list such as `promql-experimental-functions,promql-duration-expr`, or `all`. Spaces around
    /// names and empty names are skipped.
    ///
    /// # Errors
    /// [`UnknownFeature`] with the first name that is not known.
    pub fn parse(list: &str) -> Result<Self, UnknownFeature> {
        let mut features = Self::default();
        for name in list.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            match name {
                "all" => features = Self::all(),
                "promql-experimental-functions" => features.experimental_functions = true,
                "promql-duration-expr" => features.duration_expressions = true,
                "promql-extended-range-selectors" => features.extended_range_selectors = true,
                "promql-binop-fill-modifiers" => features.fill_modifiers = true,
                "promql-delayed-name-removal" => features.delayed_name_removal = true,
                "use-start-timestamps" => features.start_timestamps = true,
                "st-storage" => {}
                _ => return Err(UnknownFeature(name.to_owned())),
            }
        }
        Ok(features)
    }
}

/// A name that is no feature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown feature {0:?}")]
pub struct UnknownFeature(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_names_switch_features_on() {
        let features =
            Features::parse("promql-binop-fill-modifiers, use-start-timestamps,st-storage,").unwrap();
        let expected = Features { fill_modifiers: true, start_timestamps: true, ..Features::default() };
        assert_eq!(features, expected);
        assert_eq!(Features::parse("all"), Ok(Features::all()));
        assert_eq!(Features::parse(""), Ok(Features::default()));
        assert_eq!(Features::parse("all,nope"), Err(UnknownFeature("nope".to_owned())));
    }
}
