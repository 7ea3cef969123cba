//! The small part of an image: windows, counters, metadata, deletes, epochs, state hash.
//!
//! Knows the writer's state but for sessions, whose refs are in the series log. Format: `docs/formats/image.md`.

use crate::head::{Counters, Head, Hidden, Metadata, Tombstone, WindowState, Writer};
use quorate_chunk::varint;
use quorate_model::{MatchOp, Matcher, MetadataEntry, MetricType, Position, TenantId, TimeRange};
use std::collections::BTreeMap;

/// See the module header.
#[derive(Debug, Default)]
pub(crate) struct ImageMeta {
    position: Position,
    pub(crate) window_ms: i64,
    pub(crate) next_row: u32,
    log_incarnation: u32,
    builder_epoch: u32,
    state_hash: u64,
    newest: BTreeMap<u32, u32>,
    windows: BTreeMap<i64, WindowState>,
    counters: BTreeMap<TenantId, Counters>,
    metadata: Metadata,
    hidden: Hidden,
}

impl ImageMeta {
    /// The state of a head, whose writer the caller holds.
    pub(crate) fn of(head: &Head, writer: &Writer, next_row: u32) -> Self {
        Self {
            position: writer.position,
            window_ms: head.length().ms(),
            next_row,
            log_incarnation: writer.log_incarnation,
            builder_epoch: writer.builder_epoch,
            state_hash: writer.state_hash.0,
            newest: writer.sessions.newest().clone(),
            windows: writer.windows.clone(),
            counters: writer.counters.clone(),
            metadata: head.metadata().read().clone(),
            hidden: (*head.hidden()).clone(),
        }
    }

    /// Sets the state of a head and its writer.
    pub(crate) fn restore(self, head: &Head, writer: &mut Writer) {
        writer.position = self.position;
        writer.log_incarnation = self.log_incarnation;
        writer.builder_epoch = self.builder_epoch;
        writer.state_hash.0 = self.state_hash;
        writer.sessions.restore_newest(self.newest);
        writer.windows = self.windows;
        writer.counters = self.counters;
        *head.metadata().write() = self.metadata;
        head.set_hidden(self.hidden);
    }

    /// The stored form.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let out = &mut Vec::new();
        put(out, &[self.position.0, u64::from(self.next_row), u64::from(self.log_incarnation)]);
        put(out, &[u64::from(self.builder_epoch), self.state_hash]);
        varint::put_signed(out, self.window_ms);
        varint::put(out, self.newest.len() as u64);
        self.newest.iter().for_each(|(node, i)| put(out, &[u64::from(*node), u64::from(*i)]));
        varint::put(out, self.windows.len() as u64);
        for (start, state) in &self.windows {
            varint::put_signed(out, *start);
            put(out, &[u64::from(state.next_generation), u64::from(state.has_data)]);
        }
        varint::put(out, self.counters.len() as u64);
        for (tenant, c) in &self.counters {
            put(out, &[u64::from(tenant.0), c.stored, c.duplicates, c.conflicts, c.late]);
        }
        self.put_metadata(out);
        self.put_hidden(out);
        std::mem::take(out)
    }

    /// Reads the stored form.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let rest = &mut bytes;
        let mut meta = Self { position: Position(varint::take(rest)?), ..Self::default() };
        meta.next_row = small(rest)?;
        meta.log_incarnation = small(rest)?;
        meta.builder_epoch = small(rest)?;
        meta.state_hash = varint::take(rest)?;
        meta.window_ms = varint::take_signed(rest)?;
        for _ in 0..varint::take(rest)? {
            meta.newest.insert(small(rest)?, small(rest)?);
        }
        for _ in 0..varint::take(rest)? {
            let start = varint::take_signed(rest)?;
            let state = WindowState { next_generation: small(rest)?, has_data: varint::take(rest)? != 0 };
            meta.windows.insert(start, state);
        }
        for _ in 0..varint::take(rest)? {
            let tenant = TenantId(small(rest)?);
            let [stored, duplicates, conflicts, late] =
                [varint::take(rest)?, varint::take(rest)?, varint::take(rest)?, varint::take(rest)?];
            meta.counters.insert(tenant, Counters { stored, duplicates, conflicts, late, lost: 0 });
        }
        meta.take_metadata(rest)?;
        meta.take_hidden(rest)?;
        rest.is_empty().then_some(meta)
    }

    fn put_metadata(&self, out: &mut Vec<u8>) {
        varint::put(out, self.metadata.len() as u64);
        for (tenant, families) in &self.metadata {
            put(out, &[u64::from(tenant.0), families.len() as u64]);
            for entry in families.values() {
                out.push(entry.metric_type as u8);
                [&entry.family, &entry.help, &entry.unit].iter().for_each(|text| put_text(out, text));
            }
        }
    }

    fn take_metadata(&mut self, rest: &mut &[u8]) -> Option<()> {
        for _ in 0..varint::take(rest)? {
            let families = self.metadata.entry(TenantId(small(rest)?)).or_default();
            for _ in 0..varint::take(rest)? {
                let metric_type = MetricType::from_number(u64::from(varint::take_bytes(rest, 1)?[0]));
                let (family, help, unit) = (text(rest)?, text(rest)?, text(rest)?);
                let entry = MetadataEntry { family: family.clone(), metric_type, help, unit };
                families.insert(family, entry);
            }
        }
        Some(())
    }

    fn put_hidden(&self, out: &mut Vec<u8>) {
        varint::put(out, self.hidden.floors.len() as u64);
        for (tenant, floor_ms) in &self.hidden.floors {
            put(out, &[u64::from(tenant.0)]);
            varint::put_signed(out, *floor_ms);
        }
        varint::put(out, self.hidden.tombstones.len() as u64);
        for tombstone in &self.hidden.tombstones {
            put(out, &[tombstone.position.0, u64::from(tombstone.tenant.0)]);
            varint::put_signed(out, tombstone.range.start_ms);
            varint::put_signed(out, tombstone.range.end_ms);
            varint::put(out, tombstone.matchers.len() as u64);
            for matcher in &tombstone.matchers {
                out.push(op_number(matcher.op()));
                put_text(out, matcher.name());
                put_text(out, matcher.value());
            }
            varint::put(out, tombstone.windows.len() as u64);
            for (start, generation) in &tombstone.windows {
                varint::put_signed(out, *start);
                put(out, &[u64::from(*generation)]);
            }
        }
    }

    fn take_hidden(&mut self, rest: &mut &[u8]) -> Option<()> {
        for _ in 0..varint::take(rest)? {
            self.hidden.floors.insert(TenantId(small(rest)?), varint::take_signed(rest)?);
        }
        for _ in 0..varint::take(rest)? {
            let (position, tenant) = (Position(varint::take(rest)?), TenantId(small(rest)?));
            let range = TimeRange::new(varint::take_signed(rest)?, varint::take_signed(rest)?);
            let (mut matchers, mut windows) = (Vec::new(), Vec::new());
            for _ in 0..varint::take(rest)? {
                let op = op_of(varint::take_bytes(rest, 1)?[0])?;
                matchers.push(Matcher::new(text(rest)?, op, text(rest)?).ok()?);
            }
            for _ in 0..varint::take(rest)? {
                windows.push((varint::take_signed(rest)?, small(rest)?));
            }
            self.hidden.tombstones.push(Tombstone { position, tenant, matchers, range, windows });
        }
        Some(())
    }
}

const OPS: [MatchOp; 4] = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex];

fn op_number(op: MatchOp) -> u8 {
    match op {
        MatchOp::Equal => 0,
        MatchOp::NotEqual => 1,
        MatchOp::Regex => 2,
        MatchOp::NotRegex => 3,
    }
}

fn op_of(number: u8) -> Option<MatchOp> {
    OPS.get(usize::from(number)).copied()
}

fn put(out: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|n| varint::put(out, *n));
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    varint::put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let limit = rest.len();
    let len = varint::take_len(rest, limit)?;
    String::from_utf8(varint::take_bytes(rest, len)?.to_vec()).ok()
}

fn small(rest: &mut &[u8]) -> Option<u32> {
    u32::try_from(varint::take(rest)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> ImageMeta {
        let tenant = TenantId(3);
        let entry = MetadataEntry {
            family: "up".into(),
            metric_type: MetricType::Gauge,
            help: "h\u{e4}".into(),
            unit: String::new(),
        };
        let tombstone = Tombstone {
            position: Position(5),
            tenant,
            matchers: OPS.iter().map(|op| Matcher::new("a", *op, "b.*").unwrap()).collect(),
            range: TimeRange::new(-5, 7),
            windows: vec![(-3_600_000, 2)],
        };
        ImageMeta {
            position: Position(77),
            window_ms: 3_600_000,
            next_row: 9,
            log_incarnation: 1,
            builder_epoch: 2,
            state_hash: u64::MAX,
            newest: [(1, 2)].into(),
            windows: [(-3_600_000, WindowState { next_generation: 2, has_data: true })].into(),
            counters: [(tenant, Counters { stored: 1, duplicates: 2, conflicts: 3, late: 4, lost: 0 })]
                .into(),
            metadata: [(tenant, [("up".to_owned(), entry)].into())].into(),
            hidden: Hidden { tombstones: vec![tombstone], floors: [(tenant, -9)].into() },
        }
    }

    #[test]
    fn the_state_comes_back_and_cut_bytes_do_not_decode() {
        let bytes = meta().encode();
        let back = ImageMeta::decode(&bytes).unwrap();
        assert_eq!(format!("{back:?}"), format!("{:?}", meta()));
        assert_eq!(back.encode(), bytes);
        (0..bytes.len()).for_each(|cut| assert!(ImageMeta::decode(&bytes[..cut]).is_none(), "cut at {cut}"));
    }
}
