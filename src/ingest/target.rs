//! The partition store as apply and maintenance see it.

use crate::applier::ApplyTarget;
use crate::maintenance::Maintained;
use quorate_model::{FlushMark, LogRecord, Position, TenantId};
use quorate_tsdb::{ApplyOutcome, PartitionStore};

impl ApplyTarget for PartitionStore {
    fn applied(&self) -> Position {
        Self::applied(self)
    }

    fn apply(&self, position: Position, record: &LogRecord) -> Result<ApplyOutcome, String> {
        Self::apply(self, position, record).map_err(|error| error.to_string())
    }

    fn pass(&self, position: Position) -> Result<(), String> {
        Self::pass(self, position).map_err(|error| error.to_string())
    }

    fn note_entry(&self, position: Position, crc: u32) {
        Self::note_entry(self, position, crc);
    }

    fn last_entry(&self) -> Option<(Position, u32)> {
        Self::last_entry(self)
    }
}

impl Maintained for PartitionStore {
    fn marks_due(&self, now_ms: i64) -> Vec<FlushMark> {
        Self::marks_due(self, now_ms)
    }

    fn retention_due(&self, now_ms: i64, retention_ms: &dyn Fn(TenantId) -> i64) -> Vec<(TenantId, i64)> {
        Self::retention_due(self, now_ms, retention_ms)
    }

    fn flush(&self) -> Result<u64, String> {
        Self::flush(self).map(|report| report.blocks).map_err(|error| error.to_string())
    }

    fn cut_image(&self) -> Result<Position, String> {
        Self::cut_image(self).map_err(|error| error.to_string())
    }

    fn merge(&self, now_ms: i64) -> Result<u64, String> {
        Self::merge(self, now_ms).map_err(|error| error.to_string())
    }

    fn retain(&self, before_ms: i64) -> Result<u64, String> {
        let dropped = Self::retain(self).map_err(|error| error.to_string())?;
        self.free_idle(before_ms);
        Ok(dropped)
    }

    fn stop(&self) {
        self.stop_background();
    }
}
