//! Data points of every kind, read; numbers and summaries, written.
//!
//! Knows the five data point messages. Does not know resources, scopes or names.
//! Path: `otlp::walk` -> **here** -> `otlp::output`.
//! Source: opentelemetry-proto, `metrics/v1/metrics.proto`.

use super::super::BodyError;
use super::fields::{Fields, Value, push};
use super::output::{Family, put_exemplar};
use super::reasons::{Reason, Stop};
use super::values::{self, Attribute};
use super::walk::Translator;
use quorate_model::stale_nan;

/// The flag of a data point that tells that there is no value.
const NO_RECORDED_VALUE: u64 = 1;
const NS_PER_MS: u64 = 1_000_000;

/// The kind of a metric, which tells how its data points are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    Sum { is_monotonic: bool },
    Histogram,
    Exponential,
    Summary,
}

/// One exemplar that can be stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exemplar<'a> {
    pub(super) value: f64,
    pub(super) ts_ms: i64,
    pub(super) trace_id: &'a [u8],
    pub(super) span_id: &'a [u8],
    /// The message, for its attributes.
    pub(super) message: &'a [u8],
}

impl<'a> Exemplar<'a> {
    /// `None` without a value, or if an id has a wrong length.
    fn read(message: &'a [u8]) -> Result<Option<Self>, BodyError> {
        let mut number = None;
        let mut exemplar = Self { value: 0.0, ts_ms: 0, trace_id: &[], span_id: &[], message };
        let mut fields = Fields::new(message);
        while let Some((field, value)) = fields.next()? {
            match field {
                2 => exemplar.ts_ms = to_ms(value.fixed64()?),
                3 => number = Some(value.double()?),
                4 => exemplar.span_id = value.bytes()?,
                5 => exemplar.trace_id = value.bytes()?,
                6 => number = Some(value.fixed64()? as i64 as f64),
                _ => {}
            }
        }
        if !matches!(exemplar.trace_id.len(), 0 | 16) || !matches!(exemplar.span_id.len(), 0 | 8) {
            return Ok(None);
        }
        for id in [&mut exemplar.trace_id, &mut exemplar.span_id] {
            if id.iter().all(|byte| *byte == 0) {
                *id = &[];
            }
        }
        Ok(number.map(|value| Self { value, ..exemplar }))
    }
}

/// Buckets of an exponential histogram, dense.
#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) offset: i32,
    pub(super) counts: Vec<u64>,
}

impl Side {
    fn read(&mut self, message: &[u8]) -> Result<(), BodyError> {
        let mut fields = Fields::new(message);
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => self.offset = value.zigzag()?,
                2 => value.put_varints(&mut self.counts)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.offset = 0;
        self.counts.clear();
    }
}

/// One data point of any kind; its lists are used again.
#[derive(Debug, Default)]
pub(super) struct Point<'a> {
    pub(super) attributes: Vec<Attribute<'a>>,
    pub(super) exemplars: Vec<Exemplar<'a>>,
    pub(super) bad_exemplars: u64,
    pub(super) time_ns: u64,
    pub(super) start_ns: u64,
    flags: u64,
    value: Option<f64>,
    pub(super) count: u64,
    pub(super) sum: Option<f64>,
    pub(super) counts: Vec<u64>,
    pub(super) bounds: Vec<f64>,
    quantiles: Vec<(f64, f64)>,
    pub(super) scale: i32,
    pub(super) zero_count: u64,
    pub(super) zero_threshold: f64,
    pub(super) positive: Side,
    pub(super) negative: Side,
}

impl<'a> Point<'a> {
    /// Reads the data point of a metric of `kind`.
    pub(super) fn read(&mut self, kind: Kind, message: &'a [u8]) -> Result<(), BodyError> {
        self.clear();
        let mut fields = Fields::new(message);
        while let Some((field, value)) = fields.next()? {
            match (kind, field) {
                (_, 2) => self.start_ns = value.fixed64()?,
                (_, 3) => self.time_ns = value.fixed64()?,
                (Kind::Gauge | Kind::Sum { .. }, _) => self.read_number(field, value)?,
                (Kind::Histogram, _) => self.read_histogram(field, value)?,
                (Kind::Exponential, _) => self.read_exponential(field, value)?,
                (Kind::Summary, _) => self.read_summary(field, value)?,
            }
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.attributes.clear();
        self.exemplars.clear();
        self.counts.clear();
        self.bounds.clear();
        self.quantiles.clear();
        self.positive.clear();
        self.negative.clear();
        (self.time_ns, self.start_ns, self.flags, self.count, self.bad_exemplars) = (0, 0, 0, 0, 0);
        (self.value, self.sum) = (None, None);
        (self.scale, self.zero_count, self.zero_threshold) = (0, 0, 0.0);
    }

    fn read_number(&mut self, field: u32, value: Value<'a>) -> Result<(), BodyError> {
        match field {
            4 => self.value = Some(value.double()?),
            5 => self.exemplar(value)?,
            6 => self.value = Some(value.fixed64()? as i64 as f64),
            7 => self.attribute(value)?,
            8 => self.flags = value.varint()?,
            _ => {}
        }
        Ok(())
    }

    fn read_histogram(&mut self, field: u32, value: Value<'a>) -> Result<(), BodyError> {
        match field {
            4 => self.count = value.fixed64()?,
            5 => self.sum = Some(value.double()?),
            6 => value.put_fixed64(&mut self.counts, |count| count)?,
            7 => value.put_fixed64(&mut self.bounds, f64::from_bits)?,
            8 => self.exemplar(value)?,
            9 => self.attribute(value)?,
            10 => self.flags = value.varint()?,
            _ => {}
        }
        Ok(())
    }

    fn read_exponential(&mut self, field: u32, value: Value<'a>) -> Result<(), BodyError> {
        match field {
            1 => self.attribute(value)?,
            4 => self.count = value.fixed64()?,
            5 => self.sum = Some(value.double()?),
            6 => self.scale = value.zigzag()?,
            7 => self.zero_count = value.fixed64()?,
            8 => self.positive.read(value.bytes()?)?,
            9 => self.negative.read(value.bytes()?)?,
            10 => self.flags = value.varint()?,
            11 => self.exemplar(value)?,
            14 => self.zero_threshold = value.double()?,
            _ => {}
        }
        Ok(())
    }

    fn read_summary(&mut self, field: u32, value: Value<'a>) -> Result<(), BodyError> {
        match field {
            4 => self.count = value.fixed64()?,
            5 => self.sum = Some(value.double()?),
            6 => push(&mut self.quantiles, quantile(value.bytes()?)?)?,
            7 => self.attribute(value)?,
            8 => self.flags = value.varint()?,
            _ => {}
        }
        Ok(())
    }

    fn attribute(&mut self, value: Value<'a>) -> Result<(), BodyError> {
        push(&mut self.attributes, Attribute::read(value.bytes()?)?)
    }

    fn exemplar(&mut self, value: Value<'a>) -> Result<(), BodyError> {
        match Exemplar::read(value.bytes()?)? {
            Some(exemplar) => push(&mut self.exemplars, exemplar),
            None => {
                self.bad_exemplars += 1;
                Ok(())
            }
        }
    }

    pub(super) fn ts_ms(&self) -> i64 {
        to_ms(self.time_ns)
    }

    pub(super) fn start_ms(&self) -> i64 {
        to_ms(self.start_ns)
    }

    pub(super) fn is_stale(&self) -> bool {
        self.flags & NO_RECORDED_VALUE != 0
    }

    /// `value`, or the stale marker.
    pub(super) fn or_stale(&self, value: f64) -> f64 {
        if self.is_stale() { stale_nan() } else { value }
    }
}

/// Quantile and value.
fn quantile(message: &[u8]) -> Result<(f64, f64), BodyError> {
    let mut read = (0.0, 0.0);
    let mut fields = Fields::new(message);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => read.0 = value.double()?,
            2 => read.1 = value.double()?,
            _ => {}
        }
    }
    Ok(read)
}

fn to_ms(time_ns: u64) -> i64 {
    (time_ns / NS_PER_MS) as i64
}

impl<'a> Translator<'a> {
    /// Writes the point at hand of a gauge or a sum. Exemplars belong to sums alone.
    pub(super) fn number(&mut self, has_exemplars: bool, family: &Family<'_>) -> Result<(), Stop<'a>> {
        let point = &self.point;
        let value = match point.value {
            Some(value) => point.or_stale(value),
            None if point.is_stale() => stale_nan(),
            None => return Err(Stop::Drop(Reason::NoValue)),
        };
        let mut series = self.out.series(&family.name, &self.labels, None, family)?;
        series.sample(point.ts_ms(), value, point.start_ms())?;
        for exemplar in point.exemplars.iter().filter(|_| has_exemplars) {
            put_exemplar(&mut series, exemplar).map_err(Stop::Error)?;
        }
        Ok(())
    }

    /// Writes the point at hand of a summary: sum, count and quantiles.
    pub(super) fn summary(&mut self, family: &Family<'_>) -> Result<(), Stop<'a>> {
        let point = &self.point;
        let (ts_ms, start_ms) = (point.ts_ms(), point.start_ms());
        for (name, value) in
            [(&family.sum, point.sum.unwrap_or_default()), (&family.count, point.count as f64)]
        {
            let mut series = self.out.series(name, &self.labels, None, family)?;
            series.sample(ts_ms, point.or_stale(value), start_ms)?;
        }
        for (quantile, value) in &point.quantiles {
            self.text.clear();
            values::plain_double(*quantile, &mut self.text);
            let extra = Some(("quantile", self.text.as_str()));
            let mut series = self.out.series(&family.name, &self.labels, extra, family)?;
            series.sample(ts_ms, point.or_stale(*value), start_ms)?;
        }
        Ok(())
    }
}
