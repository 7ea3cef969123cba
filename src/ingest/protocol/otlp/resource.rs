//! What resources and scopes add to series, and `target_info`.
//!
//! Knows the identifying attributes, promotion and scope labels. Does not know metrics or data points.
//! Path: `otlp::walk` -> **here** -> `otlp::label_set` and `otlp::output`.
//! Source: OpenTelemetry, "Prometheus and OpenMetrics Compatibility", "Resource Attributes", "Instrumentation Scope".

use super::OtlpError;
use super::fields::Fields;
use super::label_set::{LabelsError, Layer, Shared};
use super::names::{self, Unnamed};
use super::output::Family;
use super::reasons::{Reason, Stop};
use super::settings::OtlpSettings;
use super::values::{self, Attribute};
use super::walk::Translator;
use quorate_model::MetricType;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

const NAMESPACE: &str = "service.namespace";
const NAME: &str = "service.name";
const INSTANCE: &str = "service.instance.id";
const TARGET_INFO: &str = "target_info";
const NS_PER_MS: u64 = 1_000_000;
/// Half of the default lookback delta: `target_info` is found at any time between the data points.
const INTERVAL_NS: u64 = 150_000 * NS_PER_MS;
/// Most samples of `target_info` before the last one: twelve hours. A resource that tells a longer time gets the last
/// twelve.
const MAX_INTERVALS: u64 = 288;

/// Labels, hashed, and times of the samples of `target_info` that were written: resources may come twice.
#[derive(Debug, Default)]
pub(super) struct SeenTargetInfo {
    hasher: RandomState,
    seen: HashSet<(u64, i64)>,
}

fn is_identifying(attribute: &str) -> bool {
    matches!(attribute, NAMESPACE | NAME | INSTANCE)
}

/// The value of the attribute `key`, if there is one.
fn text_of(attributes: &[Attribute<'_>], key: &str) -> Result<Option<String>, OtlpError> {
    let Some(attribute) = attributes.iter().find(|attribute| attribute.key == key) else { return Ok(None) };
    let mut text = String::new();
    attribute.put(&mut text)?;
    Ok(Some(text))
}

/// The label of an attribute that is called `name`; `None` if no label can be.
fn shared(
    settings: &OtlpSettings,
    layer: Layer,
    name: &str,
    attribute: &Attribute<'_>,
) -> Result<Option<Shared>, OtlpError> {
    let mut label = Shared { layer, name: String::new(), value: String::new() };
    if names::label(settings, name, &mut label.name) == Err(Unnamed) {
        return Ok(None);
    }
    attribute.put(&mut label.value)?;
    Ok(Some(label))
}

impl<'a> Translator<'a> {
    /// Sets the labels that the series of a resource share, or tells why there cannot be any.
    pub(super) fn set_resource(
        &mut self,
        attributes: &[Attribute<'a>],
    ) -> Result<Option<Reason<'a>>, OtlpError> {
        self.resource_labels.clear();
        let mut add = |layer, name: &str, value| {
            self.resource_labels.push(Shared { layer, name: name.to_owned(), value });
        };
        if let Some(name) = text_of(attributes, NAME)? {
            let namespace = text_of(attributes, NAMESPACE)?;
            let job = namespace.map_or(name.clone(), |namespace| format!("{namespace}/{name}"));
            add(Layer::Target, "job", job);
        }
        if let Some(instance) = text_of(attributes, INSTANCE)? {
            add(Layer::Target, "instance", instance);
        }
        // An empty one does not take the place of an attribute.
        self.resource_labels.retain(|label| !label.value.is_empty());
        for attribute in attributes.iter().filter(|attribute| self.settings.promotes(attribute.key)) {
            match shared(self.settings, Layer::Promoted, attribute.key, attribute)? {
                Some(label) => self.resource_labels.push(label),
                None => return Ok(Some(Reason::ResourceAttribute(attribute.key))),
            }
        }
        Ok(None)
    }

    /// Sets the labels that the series of a scope share, or tells why there cannot be any.
    pub(super) fn set_scope(
        &mut self,
        scope: &'a [u8],
        schema_url: &'a str,
    ) -> Result<Option<Reason<'a>>, OtlpError> {
        self.scope_labels.clear();
        let (mut scope_name, mut version) = ("", "");
        let mut fields = Fields::new(scope);
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => scope_name = value.text()?,
                2 => version = value.text()?,
                _ => {}
            }
        }
        if !self.settings.promote_scope_metadata || scope_name.is_empty() {
            return Ok(None);
        }
        let mut attributes: Vec<Attribute<'a>> = Vec::new();
        values::read_attributes(scope, 3, &mut attributes)?;
        for attribute in attributes {
            let name = format!("otel_scope_{}", attribute.key);
            match shared(self.settings, Layer::ScopeAttribute, &name, &attribute)? {
                Some(label) => self.scope_labels.push(label),
                None => return Ok(Some(Reason::ScopeAttribute(attribute.key))),
            }
        }
        let told = [
            ("otel_scope_name", scope_name),
            ("otel_scope_version", version),
            ("otel_scope_schema_url", schema_url),
        ];
        self.scope_labels.extend(told.map(|(name, value)| Shared {
            layer: Layer::Scope,
            name: name.to_owned(),
            value: value.to_owned(),
        }));
        Ok(None)
    }

    /// Makes the labels of the point at hand.
    pub(super) fn set_labels(&mut self, family: &Family<'_>) -> Result<(), Stop<'a>> {
        self.labels.begin(self.settings, &mut self.point.attributes)?;
        let shared = self.resource_labels.iter().chain(&self.scope_labels);
        self.labels.add(shared.map(Shared::as_label));
        if self.settings.type_and_unit_labels {
            let is_typed = family.metric_type != MetricType::Unknown;
            let told = [
                ("__type__", family.metric_type.name(), is_typed),
                ("__unit__", family.unit.as_str(), !family.unit.is_empty()),
            ];
            let told = told.iter().filter(|(.., is_told)| *is_told);
            self.labels.add(told.map(|(name, value, _)| (Layer::Metric, *name, *value)));
        }
        self.labels.arrange();
        Ok(())
    }

    /// Writes `target_info` from the earliest to the latest data point of the resource at hand, so that it is found
    /// at any time between. Needs an identity and something to tell beside it.
    pub(super) fn target_info(
        &mut self,
        attributes: &mut Vec<Attribute<'a>>,
        earliest_ns: u64,
        latest_ns: u64,
    ) -> Result<(), OtlpError> {
        if attributes.iter().all(|attribute| is_identifying(attribute.key)) {
            return Ok(());
        }
        if !self.settings.keep_identifying_resource_attributes {
            attributes.retain(|attribute| !is_identifying(attribute.key));
        }
        match self.labels.begin(self.settings, attributes) {
            Ok(()) => {}
            Err(LabelsError::Body(error)) => return Err(error.into()),
            Err(LabelsError::Unnamed(attribute)) => {
                self.dropped.warn(Reason::TargetInfo(attribute));
                return Ok(());
            }
        }
        let target = self.resource_labels.iter().filter(|label| label.layer == Layer::Target);
        self.labels.add(target.map(Shared::as_label));
        self.labels.arrange();
        if !self.labels.iter().any(|(name, _)| matches!(name, "job" | "instance")) {
            return Ok(());
        }
        self.put_target_info(earliest_ns, latest_ns)
    }

    fn put_target_info(&mut self, earliest_ns: u64, latest_ns: u64) -> Result<(), OtlpError> {
        let family = Family::new(TARGET_INFO.to_owned(), MetricType::Gauge);
        let family = Family { help: "Target metadata", ..family };
        let SeenTargetInfo { hasher, seen } = &mut self.seen_target_info;
        let mut hash = hasher.build_hasher();
        self.labels.iter().for_each(|label| label.hash(&mut hash));
        let hash = hash.finish();
        let mut series = self.out.series(&family.name, &self.labels, None, &family)?;
        let mut time_ns = earliest_ns.max(latest_ns.saturating_sub(MAX_INTERVALS * INTERVAL_NS));
        loop {
            let ts_ms = (time_ns.min(latest_ns) / NS_PER_MS) as i64;
            if seen.insert((hash, ts_ms)) {
                series.sample(ts_ms, 1.0, 0)?;
            }
            if time_ns >= latest_ns {
                return Ok(());
            }
            time_ns = time_ns.saturating_add(INTERVAL_NS);
        }
    }
}

impl Shared {
    fn as_label(&self) -> (Layer, &str, &str) {
        (self.layer, &self.name, &self.value)
    }
}
