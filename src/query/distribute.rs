//! Parts of a query that run where the series are: one request to each node, one answer for each partition.
//!
//! Knows which partitions are here and which elsewhere. Does not know what the numbers of an answer stand for.
//! Path: `promql::engine` -> **here** -> `fanout` for other nodes, [`FragmentPlan`] over each partition of this one ->
//! back to the engine, which puts the answers together.
//!
//! - DI1: each partition has an answer of its own, here as elsewhere, so that the result depends neither on where
//!   replicas are nor on which of them answered.
//! - DI2: what a node does not know, or cannot have in parts, is evaluated from series: never from a mix of both.

use crate::fanout::{CallError, Collect, Request, gather};
use crate::frames::partials::{Partials, fits, read_report};
use crate::frames::{FrameError, Kind, head};
use crate::guard::stopped;
use crate::messages::fragment_to_message;
use crate::source::{ClusterSource, OnePartition, tell_of_repeats};
use bytes::Bytes;
use futures::poll;
use quorate_model::{PartitionId, TenantId};
use quorate_promql::engine::{QueryError, QueryGuard};
use quorate_promql::fragment::{Fragment, FragmentAnswer, FragmentPlan};
use quorate_promql::source::{FragmentSource, SourceError};
use quorate_wire::store;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

impl FragmentSource for ClusterSource {
    fn run(
        &self,
        fragment: &Fragment,
        guard: &dyn QueryGuard,
    ) -> Result<Option<Vec<FragmentAnswer>>, SourceError> {
        let Some((tenant, _)) = self.of else { return Ok(None) };
        let counts = self.begin_fragment(fragment.selection);
        let outcome = FragmentPlan::new(fragment).map_err(source_error).and_then(|plan| {
            let (steps, declined_there) = (plan.steps(), AtomicBool::new(false));
            if !fits(steps) {
                return Err(declined(TOO_MANY_STEPS));
            }
            let selection = fragment.selection;
            let asking = Asking { source: self, guard, steps, selection, counts, declined: declined_there };
            let answers = asking.everywhere(tenant, &plan, fragment);
            let is_declined = asking.declined.load(Ordering::Relaxed);
            answers.map_err(|error| if is_declined { declined("a node declines it") } else { error })
        });
        let (kind, found) = match outcome {
            Ok(answers) => ("pushed", Ok(Some(answers))),
            Err(SourceError::Stopped(error)) if is_declined(&error) => {
                self.forget_fragment(fragment.selection);
                ("declined", Ok(None))
            }
            Err(error) => ("failed", Err(error)),
        };
        metrics::counter!("quorate_query_fragments_total", "kind" => kind).increment(1);
        found
    }

    fn saw_repeats(&self, series: usize) {
        tell_of_repeats(series);
    }

    fn forget(&self, selection: usize) {
        self.forget_fragment(selection);
    }
}

/// Why a fragment is declined whose answer may not fit into a frame.
pub(crate) const TOO_MANY_STEPS: &str = "it has too many steps";

/// Whether an error says that a fragment is to be evaluated from series.
pub(crate) fn is_declined(error: &QueryError) -> bool {
    matches!(error, QueryError::Execution(_) | QueryError::BadData(_))
}

fn declined(why: &str) -> SourceError {
    stopped(QueryError::Execution(why.to_owned()))
}

fn source_error(error: QueryError) -> SourceError {
    match error {
        QueryError::Source(error) => error,
        other => stopped(other),
    }
}

/// One fragment that is asked for.
struct Asking<'a> {
    source: &'a ClusterSource,
    guard: &'a dyn QueryGuard,
    steps: usize,
    /// The series that it works on.
    selection: usize,
    /// Whether they count.
    counts: bool,
    /// Whether another node declines the fragment.
    declined: AtomicBool,
}

impl Asking<'_> {
    /// Asks the other nodes, and evaluates here while they work. In the order of partitions.
    fn everywhere(
        &self,
        tenant: TenantId,
        plan: &FragmentPlan,
        fragment: &Fragment,
    ) -> Result<Vec<FragmentAnswer>, SourceError> {
        let Some((_, reading)) = &self.source.of else { return Ok(Vec::new()) };
        let message = Request::Select(store::SelectRequest {
            tenant: tenant.0,
            max_series: self.source.limits.max_series,
            // Nothing, for a node that does not know fragments.
            start_ms: 0,
            end_ms: -1,
            fragment: Some(fragment_to_message(fragment)),
            ..store::SelectRequest::default()
        });
        let mut found = Kept { guard: self.guard, answers: Vec::new() };
        self.source.runtime.block_on(async {
            let mut elsewhere = pin!(gather(reading, &message, self, self.guard, self.source.deadline));
            let is_early = match poll!(elsewhere.as_mut()) {
                Poll::Ready(parts) => {
                    found.take(parts?);
                    true
                }
                Poll::Pending => false,
            };
            for (id, store) in reading.local() {
                let limits = self.source.limits;
                let partition = OnePartition { tenant, store: store.as_ref(), limits };
                self.run_here(plan, &partition, found.begin(id))?;
            }
            if !is_early {
                found.take(elsewhere.await?);
            }
            Ok::<_, SourceError>(())
        })?;
        found.answers.sort_by_key(|(id, _)| *id);
        Ok(std::mem::take(&mut found.answers).into_iter().map(|(_, answer)| answer).collect())
    }

    fn run_here(
        &self,
        plan: &FragmentPlan,
        partition: &OnePartition<'_>,
        answer: &mut FragmentAnswer,
    ) -> Result<(), SourceError> {
        let end = plan.run(partition, self.guard, &mut |series| {
            self.guard.charge(series.bytes())?;
            answer.charged += series.bytes();
            answer.series.push(series);
            Ok(())
        });
        answer.end = end.map_err(source_error)?;
        self.count(answer.end.stats.series)
    }

    fn count(&self, series: u64) -> Result<(), SourceError> {
        if self.counts { self.source.count_fragment(self.selection, series) } else { Ok(()) }
    }

    fn decline(&self, why: &str) -> SourceError {
        self.declined.store(true, Ordering::Relaxed);
        declined(why)
    }
}

fn answer(part: Partials) -> FragmentAnswer {
    FragmentAnswer { series: part.series, end: part.end.unwrap_or_default(), charged: part.charged }
}

/// Answers, whose memory is given back unless they are handed on.
struct Kept<'g> {
    guard: &'g dyn QueryGuard,
    answers: Vec<(PartitionId, FragmentAnswer)>,
}

impl Kept<'_> {
    fn begin(&mut self, id: PartitionId) -> &mut FragmentAnswer {
        self.answers.push((id, FragmentAnswer::default()));
        let last = self.answers.len() - 1;
        &mut self.answers[last].1
    }

    /// Takes over what other nodes gave, with what it is charged for.
    fn take(&mut self, parts: Vec<(PartitionId, Partials)>) {
        self.answers.extend(parts.into_iter().map(|(id, part)| (id, answer(part))));
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.guard.release(self.answers.iter().map(|(_, answer)| answer.charged).sum());
    }
}

impl Collect for Asking<'_> {
    type Part = Partials;

    const KIND: &'static str = "fragment";

    fn partition(frame: &[u8]) -> Result<PartitionId, FrameError> {
        head(frame).map(|(_, partition)| partition)
    }

    fn empty() -> Partials {
        Partials::default()
    }

    fn add(
        &self,
        part: &mut Partials,
        frame: Bytes,
        keep: &mut dyn FnMut(u64) -> Result<(), CallError>,
    ) -> Result<(), CallError> {
        let (kind, _) = head(&frame)?;
        if kind == Kind::Samples as u8 {
            return Err(CallError::Final(self.decline("a node knows series only")));
        }
        if part.end.is_some() {
            return Err(FrameError::Damaged("it comes after the report").into());
        }
        if kind == Kind::Report as u8 {
            keep(frame.len() as u64)?;
            part.charged += frame.len() as u64;
            part.end = Some(read_report(&frame, self.steps)?);
            return Ok(());
        }
        part.take(&frame, self.steps, keep)
    }

    fn accept(&self, part: &Partials) -> Result<(), SourceError> {
        match &part.end {
            Some(end) => self.count(end.stats.series),
            None => Err(self.decline("a node reports nothing")),
        }
    }

    fn declined(&self, why: String) -> SourceError {
        self.decline(&why)
    }
}
