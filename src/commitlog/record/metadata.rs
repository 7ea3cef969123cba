//! The metadata section: one row for each metric family.

use super::RecordError;
use super::bytes::{Reader, put_text, put_varint};
use quorate_model::{MetadataEntry, MetricType};

pub(super) fn put(entries: &[MetadataEntry], out: &mut Vec<u8>) {
    put_varint(out, entries.len() as u64);
    for entry in entries {
        out.push(entry.metric_type as u8);
        put_text(out, &entry.family);
        put_text(out, &entry.help);
        put_text(out, &entry.unit);
    }
}

pub(super) fn take(reader: &mut Reader<'_>, out: &mut Vec<MetadataEntry>) -> Result<(), RecordError> {
    let count = reader.count(4, "more metadata than bytes")?;
    out.reserve(count);
    for _ in 0..count {
        out.push(MetadataEntry {
            metric_type: MetricType::from_number(u64::from(reader.u8()?)),
            family: reader.text()?.to_owned(),
            help: reader.text()?.to_owned(),
            unit: reader.text()?.to_owned(),
        });
    }
    Ok(())
}
