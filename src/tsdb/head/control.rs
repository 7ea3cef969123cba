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
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

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
                let is_next = |mark: &&FlushMark| {
                    let state = writer.windows.get(&mark.window_start_ms);
                    state.is_some_and(|window| window.next_generation == mark.generation)
                };
                let windows = marks.iter().filter(is_next).map(|mark| mark.window_start_ms).collect();
                self.seal(writer, windows).map_err(|e| corrupt(position, &e))?;
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
        let touched: BTreeSet<i64> = touched.collect();
        self.seal(writer, touched.clone())?;
        let next = |w: i64| writer.windows.get(&w).map_or(0, |state| state.next_generation);
        Ok(touched.into_iter().map(|w| (w, next(w))).filter(|(_, next)| *next > 0).collect())
    }

    /// Cuts the next generation of those of the windows that have unflushed data.
    fn seal(&self, writer: &mut Writer, mut windows: BTreeSet<i64>) -> Result<(), ChunkError> {
        windows.retain(|start| writer.windows.get(start).is_some_and(|window| window.has_data));
        let view = self.views.pin();
        let mut generations = Vec::with_capacity(windows.len());
        for window_start in &windows {
            let state = writer.windows.entry(*window_start).or_default();
            let sealed = Arc::new(SealedGeneration::new(*window_start, state.next_generation));
            if !view.lists(*window_start, state.next_generation) {
                self.views.seal(&sealed);
            }
            state.next_generation += 1;
            state.has_data = false;
            generations.push(sealed);
        }
        if generations.is_empty() {
            return Ok(());
        }
        let windows: Vec<i64> = windows.into_iter().collect();
        for (number, stripe) in self.stripes().iter().enumerate() {
            let mut stripe = stripe.write();
            let before = stripe.late_bytes();
            let parts = stripe.seal(&windows)?;
            self.late_bytes.fetch_sub(before - stripe.late_bytes(), Ordering::Relaxed);
            generations.iter().zip(parts).for_each(|(sealed, part)| sealed.fill(number, part));
        }
        Ok(())
    }
}
