//! Bodies of control records: flush marks, deletes, retention marks, sessions.

use super::bytes::{Reader, put_text, put_varint};
use super::{RecordError, malformed};
use quorate_model::{FlushMark, MatchOp, RecordBody, SessionId, TenantId, TimeRange};

const MARK_BYTES: usize = 12;

pub(super) fn put_session(session: SessionId, out: &mut Vec<u8>) {
    out.extend_from_slice(&session.node.to_le_bytes());
    out.extend_from_slice(&session.incarnation.to_le_bytes());
}

pub(super) fn take_session(reader: &mut Reader<'_>) -> Result<SessionId, RecordError> {
    Ok(SessionId { node: reader.u32()?, incarnation: reader.u32()? })
}

pub(super) fn put_marks(marks: &[FlushMark], out: &mut Vec<u8>) {
    put_varint(out, marks.len() as u64);
    for mark in marks {
        out.extend_from_slice(&mark.window_start_ms.to_le_bytes());
        out.extend_from_slice(&mark.generation.to_le_bytes());
    }
}

pub(super) fn take_marks(reader: &mut Reader<'_>) -> Result<Vec<FlushMark>, RecordError> {
    let count = reader.count(MARK_BYTES, "more flush marks than bytes")?;
    (0..count).map(|_| Ok(FlushMark { window_start_ms: reader.i64()?, generation: reader.u32()? })).collect()
}

pub(super) fn put_delete(
    tenant: TenantId,
    matchers: &[(String, MatchOp, String)],
    range: TimeRange,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(&tenant.0.to_le_bytes());
    out.extend_from_slice(&range.start_ms.to_le_bytes());
    out.extend_from_slice(&range.end_ms.to_le_bytes());
    put_varint(out, matchers.len() as u64);
    for (name, op, value) in matchers {
        put_text(out, name);
        out.push(match op {
            MatchOp::Equal => 0,
            MatchOp::NotEqual => 1,
            MatchOp::Regex => 2,
            MatchOp::NotRegex => 3,
        });
        put_text(out, value);
    }
}

pub(super) fn take_delete(reader: &mut Reader<'_>) -> Result<RecordBody, RecordError> {
    let tenant = TenantId(reader.u32()?);
    let range = TimeRange::new(reader.i64()?, reader.i64()?);
    let count = reader.count(3, "more matchers than bytes")?;
    let mut matchers = Vec::with_capacity(count);
    for _ in 0..count {
        let name = reader.text()?.to_owned();
        let op = match reader.u8()? {
            0 => MatchOp::Equal,
            1 => MatchOp::NotEqual,
            2 => MatchOp::Regex,
            3 => MatchOp::NotRegex,
            _ => return Err(malformed("a matcher has no known operator")),
        };
        matchers.push((name, op, reader.text()?.to_owned()));
    }
    Ok(RecordBody::Delete { tenant, matchers, range })
}

pub(super) fn take_retention(reader: &mut Reader<'_>) -> Result<RecordBody, RecordError> {
    Ok(RecordBody::RetentionMark { tenant: TenantId(reader.u32()?), floor_ms: reader.i64()? })
}
