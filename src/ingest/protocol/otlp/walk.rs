//! The walk through a message: tenants, resources, scopes, metrics and their data points.
//!
//! Knows where the messages stand in each other, and what is refused as a whole. Does not know how a data point is
//! written.
//! Path: `otlp::translate` -> **here** -> `otlp::points` and `otlp::histograms`.
//! A field that others need may stand behind them, so each message is read once for those and once for its parts.

use super::super::{BodyError, malformed};
use super::fields::Fields;
use super::label_set::{LabelSet, Shared};
use super::names::{self, NamedKind};
use super::output::{Family, Output};
use super::points::{Kind, Point};
use super::reasons::{Dropped, Reason, Stop};
use super::resource::SeenTargetInfo;
use super::settings::{Delta, OtlpSettings};
use super::values::{self, Attribute};
use super::{OtlpError, TenantBody, Translated};
use quorate_model::MetricType;
use std::collections::HashMap;

const CUMULATIVE: u64 = 2;
const DELTA: u64 = 1;

/// Walks a protobuf message.
pub(super) fn walk(
    body: &[u8],
    settings: &OtlpSettings,
    tenant_attribute: Option<&str>,
    max_bytes: usize,
) -> Result<Translated, OtlpError> {
    let mut translated = Translated::default();
    let mut left = max_bytes;
    for (tenant, resources) in by_tenant(body, tenant_attribute, max_bytes)? {
        let mut translator = Translator::new(settings, left, std::mem::take(&mut translated.dropped));
        for resource in resources {
            translator.resource(resource).map_err(|error| match error {
                OtlpError::Expands { .. } => OtlpError::Expands { limit: max_bytes },
                other => other,
            })?;
        }
        let samples = translator.out.body.samples();
        left = left.saturating_sub(translator.out.body.bytes());
        let body = translator.out.body.finish();
        translated.points += translator.points;
        translated.dropped = translator.dropped;
        if !body.is_empty() {
            translated.bodies.push(TenantBody { tenant, body, samples });
        }
    }
    Ok(translated)
}

type Group<'a> = (Option<String>, Vec<&'a [u8]>);

/// The resources of each tenant, in the order of the message.
fn by_tenant<'a>(
    body: &'a [u8],
    attribute: Option<&str>,
    max_bytes: usize,
) -> Result<Vec<Group<'a>>, OtlpError> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut places: HashMap<Option<String>, usize> = HashMap::new();
    let mut taken = 0;
    let mut fields = Fields::new(body);
    while let Some((field, value)) = fields.next()? {
        if field != 1 {
            continue;
        }
        let resource = value.bytes()?;
        let tenant = attribute.map_or(Ok(None), |attribute| tenant_of(resource, attribute))?;
        taken += size_of::<&[u8]>();
        let place = match places.get(&tenant) {
            Some(place) => *place,
            None => {
                taken += size_of::<Group<'_>>() + 2 * tenant.as_ref().map_or(0, String::len) + 64;
                groups.push((tenant.clone(), Vec::new()));
                places.insert(tenant, groups.len() - 1);
                groups.len() - 1
            }
        };
        if taken > max_bytes {
            return Err(OtlpError::Expands { limit: max_bytes });
        }
        groups[place].1.push(resource);
    }
    Ok(groups)
}

/// The value of the resource attribute that names the tenant; an empty one names none.
fn tenant_of(resource: &[u8], attribute: &str) -> Result<Option<String>, BodyError> {
    let mut attributes = Vec::new();
    values::read_attributes(last(resource, 1)?, 1, &mut attributes)?;
    let Some(found) = attributes.iter().find(|a| a.key == attribute) else { return Ok(None) };
    let mut tenant = String::new();
    found.put(&mut tenant)?;
    Ok((!tenant.is_empty()).then_some(tenant))
}

/// The last field `number` of a message that is a message itself; empty without one.
pub(super) fn last(message: &[u8], number: u32) -> Result<&[u8], BodyError> {
    let mut found: &[u8] = &[];
    let mut fields = Fields::new(message);
    while let Some((field, value)) = fields.next()? {
        if field == number {
            found = value.bytes()?;
        }
    }
    Ok(found)
}

/// What is kept while the resources of one tenant are walked.
#[derive(Debug)]
pub(super) struct Translator<'a> {
    pub(super) settings: &'a OtlpSettings,
    pub(super) out: Output,
    pub(super) labels: LabelSet,
    pub(super) point: Point<'a>,
    /// A number as a text, used again.
    pub(super) text: String,
    pub(super) resource_labels: Vec<Shared>,
    pub(super) scope_labels: Vec<Shared>,
    /// Earliest and latest time of the data points of the resource at hand, nanoseconds.
    pub(super) times_ns: Option<(u64, u64)>,
    pub(super) seen_target_info: SeenTargetInfo,
    pub(super) points: u64,
    pub(super) dropped: Dropped,
}

impl<'a> Translator<'a> {
    fn new(settings: &'a OtlpSettings, max_bytes: usize, dropped: Dropped) -> Self {
        Self {
            settings,
            out: Output::new(max_bytes),
            labels: LabelSet::default(),
            point: Point::default(),
            text: String::new(),
            resource_labels: Vec::new(),
            scope_labels: Vec::new(),
            times_ns: None,
            seen_target_info: SeenTargetInfo::default(),
            points: 0,
            dropped,
        }
    }

    fn resource(&mut self, message: &'a [u8]) -> Result<(), OtlpError> {
        let mut attributes: Vec<Attribute<'a>> = Vec::new();
        values::read_attributes(last(message, 1)?, 1, &mut attributes)?;
        let refusal = self.set_resource(&attributes)?;
        self.times_ns = None;
        let mut fields = Fields::new(message);
        while let Some((field, value)) = fields.next()? {
            if field == 2 {
                self.scope(value.bytes()?, refusal)?;
            }
        }
        match (refusal, self.times_ns) {
            (None, Some((earliest_ns, latest_ns))) => {
                self.target_info(&mut attributes, earliest_ns, latest_ns)
            }
            _ => Ok(()),
        }
    }

    fn scope(&mut self, message: &'a [u8], refusal: Option<Reason<'a>>) -> Result<(), OtlpError> {
        let (mut scope, mut schema_url): (&[u8], _) = (&[], "");
        let mut fields = Fields::new(message);
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => scope = value.bytes()?,
                3 => schema_url = value.text()?,
                _ => {}
            }
        }
        let refusal = refusal.or(self.set_scope(scope, schema_url)?);
        let mut fields = Fields::new(message);
        while let Some((field, value)) = fields.next()? {
            if field == 2 {
                self.metric(value.bytes()?, refusal)?;
            }
        }
        Ok(())
    }

    fn metric(&mut self, message: &'a [u8], refusal: Option<Reason<'a>>) -> Result<(), OtlpError> {
        let Some(metric) = Metric::read(message)? else { return Ok(()) };
        let refusal = refusal.or(metric.temporality_refusal(self.settings.delta));
        let family = match (refusal, metric.family(self.settings)) {
            (Some(reason), _) => Err(reason),
            (None, family) => family.ok_or(Reason::MetricName),
        };
        let mut fields = Fields::new(metric.data);
        while let Some((field, value)) = fields.next()? {
            if field != 1 {
                continue;
            }
            self.point.read(metric.kind, value.bytes()?)?;
            match self.data_point(metric.kind, family.as_ref().map_err(|reason| *reason)) {
                Ok(()) => self.points += 1,
                Err(Stop::Drop(reason)) => self.dropped.point(metric.name, reason),
                Err(Stop::Error(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes the point at hand.
    fn data_point(&mut self, kind: Kind, family: Result<&Family<'a>, Reason<'a>>) -> Result<(), Stop<'a>> {
        let time_ns = self.point.time_ns;
        if time_ns == 0 {
            return Err(Stop::Drop(Reason::NoTime));
        }
        let (earliest, latest) = self.times_ns.unwrap_or((time_ns, time_ns));
        self.times_ns = Some((earliest.min(time_ns), latest.max(time_ns)));
        let family = family.map_err(Stop::Drop)?;
        self.set_labels(family)?;
        match kind {
            Kind::Gauge => self.number(false, family),
            Kind::Sum { .. } => self.number(true, family),
            Kind::Histogram if self.settings.convert_histograms_to_nhcb => self.custom(family),
            Kind::Histogram => self.classic(family),
            Kind::Exponential => self.exponential(family),
            Kind::Summary => self.summary(family),
        }?;
        self.dropped.exemplars += self.point.bad_exemplars;
        Ok(())
    }
}

/// What is told of a metric beside its data points.
struct Metric<'a> {
    name: &'a str,
    help: &'a str,
    unit: &'a str,
    kind: Kind,
    temporality: u64,
    /// The message with the data points.
    data: &'a [u8],
}

impl<'a> Metric<'a> {
    /// `None` if it holds no data of a known kind.
    fn read(message: &'a [u8]) -> Result<Option<Self>, BodyError> {
        let mut metric = Self { name: "", help: "", unit: "", kind: Kind::Gauge, temporality: 0, data: &[] };
        let mut number = 0;
        let mut fields = Fields::new(message);
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => metric.name = value.text()?,
                2 => metric.help = value.text()?,
                3 => metric.unit = value.text()?,
                5 | 7 | 9..=11 => (number, metric.data) = (field, value.bytes()?),
                _ => {}
            }
        }
        let mut is_monotonic = false;
        let mut fields = Fields::new(metric.data);
        while let Some((field, value)) = fields.next()? {
            match (number, field) {
                (7 | 9 | 10, 2) => metric.temporality = value.varint()?,
                (7, 3) => is_monotonic = value.varint()? != 0,
                _ => {}
            }
        }
        metric.kind = match number {
            0 => return Ok(None),
            5 => Kind::Gauge,
            7 => Kind::Sum { is_monotonic },
            9 => Kind::Histogram,
            10 => Kind::Exponential,
            11 => Kind::Summary,
            _ => return Err(malformed("a metric has data of an unknown kind")),
        };
        Ok(Some(metric))
    }

    fn is_delta(&self) -> bool {
        self.has_temporality() && self.temporality == DELTA
    }

    fn has_temporality(&self) -> bool {
        matches!(self.kind, Kind::Sum { .. } | Kind::Histogram | Kind::Exponential)
    }

    fn temporality_refusal(&self, delta: Delta) -> Option<Reason<'a>> {
        match self.temporality {
            _ if !self.has_temporality() => None,
            CUMULATIVE => None,
            DELTA if delta == Delta::Store => None,
            DELTA => Some(Reason::Delta),
            _ => Some(Reason::NoTemporality),
        }
    }

    /// Names and metadata of its series; `None` if no name can be made.
    fn family(&self, settings: &OtlpSettings) -> Option<Family<'a>> {
        let named = match self.kind {
            Kind::Gauge => NamedKind::Gauge,
            Kind::Sum { is_monotonic: true } => NamedKind::Counter,
            _ => NamedKind::Other,
        };
        let metric_type = match self.kind {
            _ if self.is_delta() => MetricType::Unknown,
            Kind::Sum { is_monotonic: true } => MetricType::Counter,
            Kind::Gauge | Kind::Sum { .. } => MetricType::Gauge,
            Kind::Histogram | Kind::Exponential => MetricType::Histogram,
            Kind::Summary => MetricType::Summary,
        };
        let mut name = String::new();
        names::metric(settings, self.name, self.unit, named, &mut name).ok()?;
        let family = Family::new(name, metric_type);
        let has_parts = matches!(self.kind, Kind::Histogram | Kind::Summary);
        let family = if has_parts { family.with_parts() } else { family };
        Some(Family { help: self.help, unit: names::unit(self.unit), is_delta: self.is_delta(), ..family })
    }
}
