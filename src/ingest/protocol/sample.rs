//! A float sample of both protocols.

use super::BodyError;
use super::request::ParsedRequest;
use super::wire::{Cursor, FIXED64, VARINT, expect};

/// What a sample takes in the columns: time, value and start.
const COLUMNS: usize = 24;

/// Reads the sample message that begins with its length; with `HAS_START`, field 3 is the start timestamp (2.0).
#[inline]
pub(super) fn read<const HAS_START: bool>(
    cursor: &mut Cursor<'_>,
    out: &mut ParsedRequest,
) -> Result<(), BodyError> {
    let range = cursor.range()?;
    if let Some((ts_ms, value)) = cursor.plain_sample(range) {
        // Not charged: its 13 bytes or more in the body are, and it takes less than twice as many here.
        out.push_sample(ts_ms, value, 0);
        return Ok(());
    }
    out.memory.charge(COLUMNS)?;
    let mut inner = cursor.within(range);
    let (mut value, mut ts_ms, mut start_ms) = (0f64, 0i64, 0i64);
    while !inner.is_at_end() {
        match inner.tag()? {
            (1, wire) => {
                expect(wire, FIXED64)?;
                value = inner.double()?;
            }
            (2, wire) => {
                expect(wire, VARINT)?;
                ts_ms = inner.varint()? as i64;
            }
            (3, wire) if HAS_START => {
                expect(wire, VARINT)?;
                start_ms = inner.varint()? as i64;
            }
            (field, wire) => inner.skip(field, wire)?,
        }
    }
    out.push_sample(ts_ms, value, start_ms);
    Ok(())
}
