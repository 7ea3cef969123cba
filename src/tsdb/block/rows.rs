//! The series table: labels of 256 neighbouring series as shapes and value ids.
//!
//! A shape is the list of a series' label names; a value id is the rank of the value among those of its name.
//! Form: for each series `shape * 2 + same` varint, same if the shape is that of the series before. If so, a
//! mask of the labels that changed (the first 63, varint) and the signed difference of each id that changed;
//! labels behind the 63rd always. If not, every id.

use quorate_chunk::varint;

/// Series of one record.
pub(super) const ROWS: u32 = 256;
const MASKED: usize = 63;

/// Collects the rows of one record.
#[derive(Debug, Default)]
pub(super) struct RowsBuilder {
    out: Vec<u8>,
    shape: Option<u32>,
    last: Vec<u32>,
}

impl RowsBuilder {
    pub(super) fn push(&mut self, shape: u32, ids: &[u32]) {
        let same = self.shape == Some(shape);
        varint::put(&mut self.out, u64::from(shape) << 1 | u64::from(same));
        if same {
            let changed = |at: &usize| self.last[*at] != ids[*at];
            let mask = (0..ids.len().min(MASKED)).filter(changed).fold(0u64, |mask, at| mask | 1 << at);
            varint::put(&mut self.out, mask);
            for (at, id) in ids.iter().enumerate() {
                if at >= MASKED || mask & (1 << at) != 0 {
                    varint::put_signed(&mut self.out, i64::from(*id) - i64::from(self.last[at]));
                }
            }
        } else {
            ids.iter().for_each(|id| varint::put(&mut self.out, u64::from(*id)));
        }
        self.shape = Some(shape);
        self.last.clear();
        self.last.extend_from_slice(ids);
    }

    /// The record, and a fresh builder left behind.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(self).out
    }
}

/// A record taken apart.
#[derive(Debug)]
pub(super) struct Rows {
    shapes: Vec<u32>,
    /// Ids of row `i` are `first[i]..first[i + 1]`.
    first: Vec<u32>,
    ids: Vec<u32>,
}

impl Rows {
    /// Takes a record apart; `width` tells how many labels a shape has. `None` if it is not one.
    pub(super) fn parse(mut record: &[u8], width: impl Fn(u32) -> Option<usize>) -> Option<Self> {
        let rest = &mut record;
        let mut rows = Self { shapes: Vec::new(), first: vec![0], ids: Vec::new() };
        while !rest.is_empty() {
            let head = varint::take(rest)?;
            let shape = u32::try_from(head >> 1).ok()?;
            let width = width(shape)?;
            if head & 1 == 0 {
                for _ in 0..width {
                    rows.ids.push(u32::try_from(varint::take(rest)?).ok()?);
                }
            } else {
                rows.take_same(rest, shape, width)?;
            }
            rows.shapes.push(shape);
            rows.first.push(rows.ids.len() as u32);
        }
        Some(rows)
    }

    fn take_same(&mut self, rest: &mut &[u8], shape: u32, width: usize) -> Option<()> {
        if self.shapes.last() != Some(&shape) {
            return None;
        }
        let last = self.ids.len() - width;
        let mask = varint::take(rest)?;
        for at in 0..width {
            let before = self.ids[last + at];
            let changed = at >= MASKED || mask & (1 << at) != 0;
            let difference = if changed { varint::take_signed(rest)? } else { 0 };
            self.ids.push(u32::try_from(i64::from(before).checked_add(difference)?).ok()?);
        }
        Some(())
    }

    /// Number of series.
    pub(super) fn len(&self) -> u32 {
        self.shapes.len() as u32
    }

    /// Shape and value ids of a series of the record.
    pub(super) fn row(&self, at: u32) -> Option<(u32, &[u32])> {
        let shape = *self.shapes.get(at as usize)?;
        let from = self.first[at as usize] as usize;
        let to = self.first[at as usize + 1] as usize;
        Some((shape, &self.ids[from..to]))
    }

    /// Memory it takes.
    pub(super) fn weight(&self) -> u64 {
        (self.shapes.len() * 8 + self.ids.len() * 4 + 100) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_round_trip(
            widths in prop::collection::vec(0usize..70, 1..4),
            picks in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>(), 0u32..3), 0..40),
        ) {
            let mut builder = RowsBuilder::default();
            let mut given = Vec::new();
            for (shape, seed, step) in picks {
                let shape = shape.index(widths.len());
                let ids: Vec<u32> = (0..widths[shape] as u32).map(|i| seed.wrapping_mul(i % 2 * step)).collect();
                builder.push(shape as u32, &ids);
                given.push((shape as u32, ids));
            }
            let record = builder.finish();
            let rows = Rows::parse(&record, |shape| widths.get(shape as usize).copied()).unwrap();
            prop_assert_eq!(rows.len() as usize, given.len());
            for (at, (shape, ids)) in given.iter().enumerate() {
                prop_assert_eq!(rows.row(at as u32), Some((*shape, ids.as_slice())));
            }
            prop_assert!(rows.row(given.len() as u32).is_none());
        }

        #[test]
        fn any_bytes_parse_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Rows::parse(&bytes, |shape| [3, 0, 66].get(shape as usize).copied());
        }
    }
}
