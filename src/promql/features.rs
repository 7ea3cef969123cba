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
                "st-storage" => {}
                _ => features.switch_on(name)?,
            }
        }
        Ok(features)
    }

    /// Names of all that are on.
    pub fn names(mut self) -> Vec<&'static str> {
        NAMES.iter().filter(|(_, switch)| *switch(&mut self)).map(|(name, _)| *name).collect()
    }

    /// These on, and all others off: what [`Features::names`] gave.
    ///
    /// # Errors
    /// [`UnknownFeature`] with the first name that is not known.
    pub fn only<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<Self, UnknownFeature> {
        let mut features = Self::default();
        NAMES.iter().for_each(|(_, switch)| *switch(&mut features) = false);
        names.into_iter().try_for_each(|name| features.switch_on(name))?;
        Ok(features)
    }

    fn switch_on(&mut self, name: &str) -> Result<(), UnknownFeature> {
        let known = NAMES.iter().find(|(known, _)| *known == name);
        let (_, switch) = known.ok_or_else(|| UnknownFeature(name.to_owned()))?;
        *switch(self) = true;
        Ok(())
    }
}

/// Where a feature is.
type Switch = fn(&mut Features) -> &mut bool;

/// Names of features and where they are, in the order of the fields.
const NAMES: [(&str, Switch); 6] = [
    ("promql-experimental-functions", |f| &mut f.experimental_functions),
    ("promql-duration-expr", |f| &mut f.duration_expressions),
    ("promql-extended-range-selectors", |f| &mut f.extended_range_selectors),
    ("promql-binop-fill-modifiers", |f| &mut f.fill_modifiers),
    ("promql-delayed-name-removal", |f| &mut f.delayed_name_removal),
    ("use-start-timestamps", |f| &mut f.start_timestamps),
];

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
        for features in [Features::all(), Features::default(), expected] {
            assert_eq!(Features::only(features.names()), Ok(features));
        }
        assert_eq!(Features::only([]).unwrap().names(), [""; 0]);
        assert_eq!(Features::only(["all"]), Err(UnknownFeature("all".to_owned())));
        assert_eq!(Features::parse("all,nope"), Err(UnknownFeature("nope".to_owned())));
    }
}
