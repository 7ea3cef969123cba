//! A record becomes the remote write bodies of its tenants.
//!
//! Knows formats and codecs. Does not know limits, partitions or what becomes of a body.
//! Path: [`super::lane`] -> **here** -> `protocol` -> the gateway.
//! DE1: the same record becomes the same bodies whenever it is read: samples without a time get that of the record.
//! A remote write body in a snappy block passes as it is.

use super::codec::{Codec, CodecError};
use super::tenant::TenantRule;
use crate::in_flight::Held;
use crate::protocol::otlp::{self, OtlpSettings};
use crate::protocol::{
    InfluxSettings, Protocol, Rw2Body, TextFormat, TextSettings, translate_influx, translate_text,
};
use bytes::Bytes;
use quorate_commitlog::kafka::source::Record;

/// Header that names the codec of a value.
const CONTENT_ENCODING: &str = "content-encoding";
/// Headers that tell the version of remote write.
const CONTENT_TYPE: &str = "content-type";
const WRITE_VERSION: &str = "x-prometheus-remote-write-version";
/// What a translator takes beside its text or message, at most as many times its bytes.
const TRANSLATOR: usize = 2;

/// What the values of a source hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Remote write 1.0 or 2.0.
    RemoteWrite,
    /// The text format of Prometheus, or OpenMetrics.
    Text(TextFormat),
    /// Influx line protocol.
    Influx,
    /// OTLP metrics.
    Otlp(otlp::Encoding),
}

/// How the values of a source are read.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// What they hold.
    pub format: Format,
    /// Whose they are.
    pub tenant: TenantRule,
    /// How OTLP becomes series.
    pub otlp: OtlpSettings,
    /// How Influx lines become series.
    pub influx: InfluxSettings,
    /// How texts are read.
    pub text: TextSettings,
    /// Most bytes of a decoded value, and of what it is translated to.
    pub max_bytes: usize,
}

/// What one tenant gets of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) tenant: String,
    /// `None` if nothing tells the version of remote write.
    pub(super) protocol: Option<Protocol>,
    /// A snappy block.
    pub(super) body: Bytes,
}

/// What a record says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) parts: Vec<Part>,
    /// Samples, lines or data points that are in no part.
    pub(super) dropped: u64,
    /// Why the first of them is not.
    pub(super) reason: Option<String>,
}

impl Decoder {
    /// Reads a record; `now_ms` is for records that have no time.
    pub(super) fn decode(
        &self,
        record: &Record,
        now_ms: i64,
        held: &mut Held,
    ) -> Result<Decoded, CodecError> {
        let Some(value) = record.value.as_ref().filter(|value| !value.is_empty()) else {
            return Ok(Decoded::default());
        };
        let codec = match record.header(CONTENT_ENCODING) {
            Some(name) => Codec::named(name, value)?,
            None => Codec::of_magic(value),
        };
        if self.format == Format::RemoteWrite {
            return self.remote_write(record, codec, value, held);
        }
        let value = codec.open(value, self.max_bytes, held)?;
        held.grow(value.len().saturating_mul(TRANSLATOR)).map_err(CodecError::NoRoom)?;
        let time_ms = record.timestamp_ms.filter(|time| *time >= 0).unwrap_or(now_ms);
        match self.format {
            Format::RemoteWrite | Format::Otlp(otlp::Encoding::Proto) => {
                self.otlp(record, otlp::Encoding::Proto, &value)
            }
            Format::Otlp(encoding) => self.otlp(record, encoding, &value),
            Format::Influx => {
                let mut body = Rw2Body::new(self.max_bytes);
                let read = translate_influx(&value, None, &self.influx, time_ms, &mut body).map_err(bad)?;
                let parts = self.translated(record, body)?;
                let lost = read.bad_lines;
                Ok(Decoded { parts, dropped: lost.count, reason: (lost.count > 0).then(|| lost.to_string()) })
            }
            Format::Text(format) => {
                let mut body = Rw2Body::new(self.max_bytes);
                translate_text(&value, format, &self.text, time_ms, &mut body).map_err(bad)?;
                Ok(Decoded { parts: self.translated(record, body)?, ..Decoded::default() })
            }
        }
    }

    fn remote_write(
        &self,
        record: &Record,
        codec: Codec,
        value: &Bytes,
        held: &mut Held,
    ) -> Result<Decoded, CodecError> {
        let tenant = self.tenant.find(record, None).map_err(CodecError::Bad)?.into_owned();
        let announced = announced(record);
        let body = match codec {
            Codec::SnappyBlock => value.clone(),
            Codec::Plain if shape(value).is_none() => value.clone(),
            codec => {
                let open = codec.open(value, self.max_bytes, held)?;
                match shape(&open) {
                    // Compressed twice: a snappy block inside of another codec.
                    None => open,
                    Some(found) => {
                        let protocol = announced.or(found);
                        let part = Part { tenant, protocol, body: pack(&open)? };
                        return Ok(Decoded { parts: vec![part], ..Decoded::default() });
                    }
                }
            }
        };
        Ok(Decoded { parts: vec![Part { tenant, protocol: announced, body }], ..Decoded::default() })
    }

    fn translated(&self, record: &Record, mut body: Rw2Body) -> Result<Vec<Part>, CodecError> {
        if body.is_empty() {
            return Ok(Vec::new());
        }
        let tenant = self.tenant.find(record, None).map_err(CodecError::Bad)?.into_owned();
        let body = pack(&body.finish())?;
        Ok(vec![Part { tenant, protocol: Some(Protocol::RemoteWrite2), body }])
    }

    fn otlp(&self, record: &Record, encoding: otlp::Encoding, value: &[u8]) -> Result<Decoded, CodecError> {
        let limits = otlp::Limits { body_bytes: self.max_bytes, translated_bytes: self.max_bytes };
        let translated = otlp::translate(encoding, value, &self.otlp, self.tenant.attribute(), limits);
        let translated = translated.map_err(bad)?;
        let lost = translated.dropped;
        let reason = lost.first.filter(|_| lost.points > 0);
        let mut decoded = Decoded { parts: Vec::new(), dropped: lost.points, reason };
        for body in translated.bodies.iter().filter(|body| body.samples > 0) {
            match self.tenant.find(record, body.tenant.as_deref()) {
                Ok(tenant) => {
                    let (tenant, protocol) = (tenant.into_owned(), Some(Protocol::RemoteWrite2));
                    decoded.parts.push(Part { tenant, protocol, body: pack(&body.body)? });
                }
                Err(reason) => {
                    decoded.dropped += body.samples;
                    decoded.reason.get_or_insert(reason);
                }
            }
        }
        Ok(decoded)
    }
}

fn bad(error: impl std::fmt::Display) -> CodecError {
    CodecError::Bad(error.to_string())
}

fn pack(body: &[u8]) -> Result<Bytes, CodecError> {
    snap::raw::Encoder::new().compress_vec(body).map(Bytes::from).map_err(bad)
}

/// The version that headers tell.
fn announced(record: &Record) -> Option<Protocol> {
    let text = |name| record.header(name).map(String::from_utf8_lossy);
    if let Some(kind) = text(CONTENT_TYPE) {
        if kind.contains("io.prometheus.write.v2.Request") {
            return Some(Protocol::RemoteWrite2);
        }
        if kind.contains("prometheus.WriteRequest") {
            return Some(Protocol::RemoteWrite1);
        }
    }
    let version = text(WRITE_VERSION)?;
    match version.as_ref() {
        version if version.starts_with("2.") => Some(Protocol::RemoteWrite2),
        version if version.starts_with("0.1") || version.starts_with("1.") => Some(Protocol::RemoteWrite1),
        _ => None,
    }
}

/// Whether bytes are a remote write message as it is, by their outermost fields; then which version, if they tell it.
/// A snappy block of a message is none: its first byte is a length and not a field.
fn shape(bytes: &[u8]) -> Option<Option<Protocol>> {
    let (mut rest, mut found) = (bytes, None);
    while let [tag, after @ ..] = rest {
        let protocol = match tag {
            // Series and metadata of 1.0.
            0x0a | 0x1a => Protocol::RemoteWrite1,
            // Symbols and series of 2.0.
            0x22 | 0x2a => Protocol::RemoteWrite2,
            _ => return None,
        };
        if *found.get_or_insert(protocol) != protocol {
            return None;
        }
        let (len, after) = varint(after)?;
        rest = after.get(usize::try_from(len).ok()?..)?;
    }
    Some(found)
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(9) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}
