//! Control records: FlushMark, Delete, RetentionMark, SessionForget (C2, C6, C13).
//!
//! Knows windows, generations and epochs. Does not know who proposes marks or why.
//! M1: a mark whose generation is not the window's next, whose window has nothing unflushed, or whose epoch is
//! below the highest seen in this log changes nothing. M2: what `cat` lists already is dropped, not kept.

use super::apply::{Writer, corrupt};
use super::deletes::Tombstone;
use super::verdict::ApplyOutcome;
use super::{Head, SealedGeneration};
use crate::error::ApplyError;
use quorate_chunk::ChunkError;
use quorate_model::{FlushMark, Position, RecordBody, RecordHeader, TenantId, TimeRange};
use std::sync::Arc;

impl Head {
    pub(super) fn apply_control(
        &self,
        writer: &mut Writer,
        position: Position,
        header: &RecordHeader,
        body: &RecordBody,
    ) -> Result<ApplyOutcome, ApplyError> {
        let done = Ok(ApplyOutcome::default());
        if header.epoch < writer.builder_epoch {
            return done;
        }
        writer.builder_epoch = header.epoch;
        match body {
            RecordBody::FlushMark(marks) => {
                for FlushMark { window_start_ms, generation } in marks {
                    let next = writer.windows.get(window_start_ms).map(|w| w.next_generation);
                    if next == Some(*generation) {
                        self.seal(writer, *window_start_ms).map_err(|e| corrupt(position, &e))?;
                    }
                }
            }
            RecordBody::Delete { tenant, matchers, range } => {
                let matchers = Tombstone::matchers(matchers).map_err(|e| corrupt(position, &e))?;
                let windows = self.cut_touched(writer, *range).map_err(|e| corrupt(position, &e))?;
                let mut hidden = (*self.hidden()).clone();
                let (tenant, range) = (*tenant, *range);
                hidden.tombstones.push(Tombstone { position, tenant, matchers, range, windows });
                self.set_hidden(hidden);
            }
            RecordBody::RetentionMark { tenant, floor_ms } => self.raise_floor(*tenant, *floor_ms),
            RecordBody::SessionForget(session) => {
                if writer.sessions.forget(*session) {
                    writer.pending.forget_session(*session);
                }
            }
            RecordBody::Data(_) => return Err(corrupt(position, &"data among control records")),
        }
        done
    }

    fn raise_floor(&self, tenant: TenantId, floor_ms: i64) {
        let mut hidden = (*self.hidden()).clone();
        let floor = hidden.floors.entry(tenant).or_insert(floor_ms);
        *floor = floor_ms.max(*floor);
        let floor = *floor;
        hidden.tombstones.retain(|t| t.tenant != tenant || t.range.end_ms >= floor);
        self.set_hidden(hidden);
    }

    /// Cuts every touched window that has unflushed data; gives the first generation that stays visible of each
    /// touched window that has hidden ones.
    fn cut_touched(&self, writer: &mut Writer, range: TimeRange) -> Result<Vec<(i64, u32)>, ChunkError> {
        let length = self.length();
        let touched = writer.windows.keys().copied().filter(|w| length.range_of(*w).overlaps(&range));
        let touched: Vec<i64> = touched.collect();
        for window_start in &touched {
            self.seal(writer, *window_start)?;
        }
        let next = |w: i64| writer.windows.get(&w).map_or(0, |state| state.next_generation);
        Ok(touched.into_iter().map(|w| (w, next(w))).filter(|(_, next)| *next > 0).collect())
    }

    /// Cuts the next generation of a window, if it has unflushed data.
    fn seal(&self, writer: &mut Writer, window_start: i64) -> Result<(), ChunkError> {
        let Some(state) = writer.windows.get_mut(&window_start).filter(|w| w.has_data) else {
            return Ok(());
        };
        let generation = state.next_generation;
        state.next_generation += 1;
        state.has_data = false;
        let is_listed = self.views.pin().lists(window_start, generation);
        let sealed = Arc::new(SealedGeneration::new(window_start, generation));
        if !is_listed {
            self.views.seal(&sealed);
        }
        for (number, stripe) in self.stripes().iter().enumerate() {
            let mut stripe = stripe.write();
            let part = stripe.seal(window_start)?;
            sealed.fill(number, part);
        }
        Ok(())
    }
}
