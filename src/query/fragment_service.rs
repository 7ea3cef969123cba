//! Answers other nodes: committed positions of what is led here, and reads of the replicas on this node.
//!
//! Knows this node's replicas. Asks no other node, so that nodes which read from each other cannot wait in a circle.
//! Path: `wire` -> **here** -> `service` (admission, memory, threads) -> `tsdb::PartitionStore` -> frames -> `wire`.
//!
//! - FS1: a replica answers once it has applied the position that it was asked for, or says that it cannot.
//! - FS2: an answer without [`Complete`] is not one. Each partition is read in one piece, in the order of the request.
//! - FS3: work stops soon after the receiver is gone: it is a query whose client has left.

use crate::distribute::{TOO_MANY_STEPS, is_declined};
use crate::frames::lists::{self, CardinalityList, List, MetadataList, SeriesList, TextList, Wanted};
use crate::frames::partials::{PartialWriter, fits, write_report};
use crate::frames::series::SeriesWriter;
use crate::freshness::reached;
use crate::guard::{GuardMeter, LocalGuard, stopped};
use crate::index_here::tell;
use crate::limits::QueryLimits;
use crate::messages::{MatchersError, fragment_from_message, from_messages};
use crate::replicas::{Cluster, LocalReplica};
use crate::service::{QueryFailure, QueryService};
use crate::source::{OnePartition, source_error};
use async_trait::async_trait;
use futures::future::try_join_all;
use quorate_model::{
    BucketCounts, ErrorCode, Histogram, PartitionId, Position, SeriesBuffer, TenantId, TimeRange,
};
use quorate_promql::engine::{QueryError, QueryGuard};
use quorate_promql::features::UnknownFeature;
use quorate_promql::fragment::FragmentPlan;
use quorate_promql::source::SourceError;
use quorate_tsdb::{PartitionSelection, PartitionStore};
use quorate_wire::store::frame::{Complete, Content, End, end};
use quorate_wire::store::list_request::What;
use quorate_wire::store::read_index_answer::Index;
use quorate_wire::{QUEUED_FRAMES, StoreHandler, store};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, timeout_at};

/// How often the peer is told that the work goes on, by an empty part.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// How long a replica here may take to have what is asked for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a leader may take to confirm its position.
const INDEX_TIMEOUT: Duration = Duration::from_secs(3);

/// See the module header.
#[derive(Clone)]
pub struct FragmentService {
    queries: Arc<QueryService>,
}

impl FragmentService {
    /// A service over the replicas of `queries`' cluster, within its memory budget.
    pub fn new(queries: Arc<QueryService>) -> Self {
        Self { queries }
    }

    fn cluster(&self) -> &Cluster {
        self.queries.cluster()
    }

    /// The replicas that are asked for, each once and all here, and the position that each must have.
    fn replicas(&self, asked: &[store::Replica]) -> Result<Vec<(LocalReplica, Position)>, String> {
        if !asked.windows(2).all(|two| two[0].partition < two[1].partition) {
            return Err("partitions out of order".to_owned());
        }
        let view = self.cluster().view();
        let find = |replica: &store::Replica| {
            let local =
                view.get(PartitionId(replica.partition)).and_then(|partition| partition.local.clone());
            let local = local.ok_or_else(|| format!("no replica of partition {} here", replica.partition))?;
            Ok((local, Position(replica.position)))
        };
        asked.iter().map(find).collect()
    }

    /// Reads `replicas` by `work` in the background.
    fn answer<W>(&self, replicas: &[store::Replica], timeout_ms: u64, work: W) -> Result<Answering, String>
    where
        W: FnOnce(&[Arc<PartitionStore>], &mut Sending<'_>) -> Result<(), SourceError> + Send + 'static,
    {
        let replicas = self.replicas(replicas)?;
        let deadline = self.queries.deadline(Some(Duration::from_millis(timeout_ms))).into();
        let (frames, answering) = mpsc::channel(QUEUED_FRAMES);
        let service = self.clone();
        tokio::spawn(async move {
            let read = service.read(replicas, deadline, frames.clone(), work);
            let Some(read) = attended(read, &frames).await else { return };
            let complete = |applied| end::Outcome::Complete(Complete { applied });
            let outcome = read.map_or_else(|outcome| outcome, complete);
            let end = store::Frame { content: Some(Content::End(End { outcome: Some(outcome) })) };
            if timeout_at(deadline, frames.send(end)).await.is_err() {
                tracing::debug!("a peer did not take the end of its answer in time");
            }
        });
        Ok(answering)
    }

    async fn read<W>(
        &self,
        replicas: Vec<(LocalReplica, Position)>,
        deadline: Instant,
        frames: mpsc::Sender<store::Frame>,
        work: W,
    ) -> Result<Vec<store::Replica>, end::Outcome>
    where
        W: FnOnce(&[Arc<PartitionStore>], &mut Sending<'_>) -> Result<(), SourceError> + Send + 'static,
    {
        let waits = replicas.iter().map(|(replica, position)| async move {
            let id = replica.store.partition();
            // Another replica may have it at once, and whoever asks can go there.
            let patience = deadline.min(Instant::now() + PATIENCE);
            reached(replica, *position, patience).await.map_err(|why| format!("partition {id}: {why}"))
        });
        try_join_all(waits).await.map_err(end::Outcome::Unavailable)?;
        let stores: Vec<Arc<PartitionStore>> =
            replicas.into_iter().map(|(replica, _)| replica.store).collect();
        let runtime = Handle::current();
        let done = self.queries.run_fragment(deadline.into(), move |guard| {
            let waiting = Largest { guard, count: QUEUED_FRAMES as u64 + 1, bytes: 0 };
            let mut sending = Sending { frames, runtime, deadline, guard, waiting };
            work(&stores, &mut sending).map_err(QueryError::from)?;
            Ok(stores.iter().map(applied).collect())
        });
        done.await.map(|answer| answer.output).map_err(outcome_of)
    }
}

type Answering = mpsc::Receiver<store::Frame>;

/// The result of `work`, while the peer is told that it goes on; `None` if the peer has gone.
async fn attended<T>(work: impl Future<Output = T>, frames: &mpsc::Sender<store::Frame>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let mut signs = interval_at(Instant::now() + SIGN_OF_LIFE, SIGN_OF_LIFE);
    loop {
        tokio::select! {
            done = &mut work => return Some(done),
            () = frames.closed() => return None,
            _ = signs.tick() => {
                // A full queue is a sign of life too.
                let sign = store::Frame { content: Some(Content::Part(bytes::Bytes::new())) };
                let _queue_is_full = frames.try_send(sign).is_err();
            }
        }
    }
}

/// What a failure means to the node that asks.
fn outcome_of(failure: QueryFailure) -> end::Outcome {
    let text = match &failure {
        QueryFailure::Engine(QueryError::Source(source)) => source.to_string(),
        other => other.to_string(),
    };
    match failure.code() {
        _ if matches!(&failure, QueryFailure::Engine(error) if is_declined(error)) => {
            end::Outcome::Declined(text)
        }
        ErrorCode::Unprocessable => end::Outcome::Limit(text),
        ErrorCode::Unavailable | ErrorCode::TimedOut | ErrorCode::Cancelled => {
            end::Outcome::Unavailable(text)
        }
        _ => end::Outcome::Failed(text),
    }
}

/// How far a replica has come, which is at least as far as what was read of it before.
fn applied(store: &Arc<PartitionStore>) -> store::Replica {
    store::Replica { partition: store.partition().0, position: store.applied().0 }
}

/// Sends frames from a query thread, as fast as the peer takes them.
struct Sending<'g> {
    frames: mpsc::Sender<store::Frame>,
    runtime: Handle,
    deadline: Instant,
    guard: &'g LocalGuard,
    /// The frames that wait for the peer, and the one that is made.
    waiting: Largest<'g>,
}

impl Sending<'_> {
    fn send(&mut self, frame: Vec<u8>) -> Result<(), SourceError> {
        self.guard.check().map_err(stopped)?;
        self.waiting.charge(frame.len() as u64)?;
        let frame = store::Frame { content: Some(Content::Part(frame.into())) };
        let sent = self.runtime.block_on(timeout_at(self.deadline, self.frames.send(frame)));
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_gone)) => Err(stopped(QueryError::Cancelled)),
            Err(_late) => Err(stopped(QueryError::TimedOut)),
        }
    }
}

/// The charge of buffers that are used again and again, as many times the largest as there are.
struct Largest<'g> {
    guard: &'g LocalGuard,
    count: u64,
    bytes: u64,
}

impl Largest<'_> {
    fn charge(&mut self, bytes: u64) -> Result<(), SourceError> {
        if bytes > self.bytes {
            self.guard.charge((bytes - self.bytes) * self.count).map_err(stopped)?;
            self.bytes = bytes;
        }
        Ok(())
    }
}

/// Time, value and start of a sample.
const SAMPLE_BYTES: u64 = 24;

fn bytes_of(samples: &SeriesBuffer) -> u64 {
    samples.len() as u64 * SAMPLE_BYTES + samples.histograms.iter().map(|h| histogram_bytes(h)).sum::<u64>()
}

fn histogram_bytes(histogram: &Histogram) -> u64 {
    let buckets = match &histogram.counts {
        BucketCounts::Integer { positive, negative, .. } => positive.len() + negative.len(),
        BucketCounts::Float { positive, negative, .. } => positive.len() + negative.len(),
    };
    let spans = histogram.positive_spans.len() + histogram.negative_spans.len();
    (size_of::<Histogram>() + 8 * (buckets + spans + histogram.custom_values.len())) as u64
}

#[async_trait]
impl StoreHandler for FragmentService {
    async fn read_index(&self, request: store::ReadIndexRequest) -> Result<store::ReadIndexAnswer, String> {
        let asked = request.partitions.len();
        if asked > self.cluster().view().partitions().len() {
            return Err(format!("{asked} partitions are more than there are"));
        }
        let ids: Vec<PartitionId> = request.partitions.into_iter().map(PartitionId).collect();
        let told = tell(&self.cluster().view(), &ids, INDEX_TIMEOUT).await.into_iter();
        Ok(store::ReadIndexAnswer { indexes: told.map(|outcome| Index { outcome: Some(outcome) }).collect() })
    }

    async fn select(&self, request: store::SelectRequest) -> Result<Answering, String> {
        let store::SelectRequest {
            tenant,
            replicas,
            matchers,
            start_ms,
            end_ms,
            max_series,
            timeout_ms,
            fragment,
        } = request;
        if let Some(fragment) = fragment {
            return self.answer_fragment(TenantId(tenant), &replicas, timeout_ms, max_series, fragment);
        }
        let range = TimeRange::new(start_ms, end_ms);
        let limits = QueryLimits { max_series, ..QueryLimits::default() };
        self.answer(&replicas, timeout_ms, move |stores, sending| {
            let matchers = from_messages(matchers).map_err(refused)?;
            for store in stores {
                let meter = GuardMeter::new(sending.guard);
                let selection = store
                    .select(TenantId(tenant), &matchers, range, limits.of_selection(), &meter)
                    .map_err(|error| source_error(&error, &meter, &limits))?;
                send_selection(store.partition(), &selection, sending)?;
            }
            Ok(())
        })
    }

    async fn list(&self, request: store::ListRequest) -> Result<Answering, String> {
        let what = request.what.clone().ok_or("a list of an unknown kind")?;
        match what {
            What::Series(_) => self.answer_list(SeriesList, request),
            What::LabelNames(_) => self.answer_list(TextList::Names, request),
            What::LabelValues(name) => self.answer_list(TextList::Values(name), request),
            What::Metadata(family) => {
                let only = Some(family.only).filter(|only| !only.is_empty());
                self.answer_list(MetadataList(only), request)
            }
            What::Cardinality(_) => self.answer_list(CardinalityList, request),
        }
    }
}

impl FragmentService {
    /// Evaluates a part of a query over each of the replicas by itself.
    fn answer_fragment(
        &self,
        tenant: TenantId,
        replicas: &[store::Replica],
        timeout_ms: u64,
        max_series: u64,
        fragment: store::Fragment,
    ) -> Result<Answering, String> {
        let max_samples = fragment.max_samples.min(self.queries.config().max_samples);
        let limits = QueryLimits { max_series, ..QueryLimits::default() };
        self.answer(replicas, timeout_ms, move |stores, sending| {
            let unknown = |error: UnknownFeature| stopped(QueryError::BadData(error.to_string()));
            let mut fragment = fragment_from_message(fragment).map_err(unknown)?;
            fragment.options.max_samples = max_samples;
            let plan = FragmentPlan::new(&fragment).map_err(stopped)?;
            if !fits(plan.steps()) {
                return Err(stopped(QueryError::BadData(TOO_MANY_STEPS.to_owned())));
            }
            for store in stores {
                let partition = OnePartition { tenant, store, limits };
                send_partials(store.partition(), &plan, &partition, sending)?;
            }
            Ok(())
        })
    }

    fn answer_list<L: List>(&self, list: L, request: store::ListRequest) -> Result<Answering, String> {
        let range = TimeRange::new(request.start_ms, request.end_ms);
        let (tenant, max, sets) = (TenantId(request.tenant), request.max_entries, request.matcher_sets);
        self.answer(&request.replicas, request.timeout_ms, move |stores, sending| {
            let compiled = sets.into_iter().map(|set| from_messages(set.matchers)).collect();
            let matcher_sets: Vec<_> = Result::<_, MatchersError>::map_err(compiled, refused)?;
            let limits = QueryLimits { max_series: max, ..QueryLimits::default() };
            let wanted = Wanted { tenant, matcher_sets, range, limits };
            for store in stores {
                let mut entries = list.read(store, &wanted, &GuardMeter::new(sending.guard))?;
                if max > 0 {
                    entries.truncate(usize::try_from(max).unwrap_or(usize::MAX));
                }
                lists::write::<L, _>(store.partition(), &entries, |frame| sending.send(frame))?;
            }
            Ok(())
        })
    }
}

fn refused(error: MatchersError) -> SourceError {
    SourceError::Failed(error.to_string())
}

fn send_selection(
    partition: PartitionId,
    selection: &PartitionSelection,
    sending: &mut Sending<'_>,
) -> Result<(), SourceError> {
    let guard = sending.guard;
    let mut samples = SeriesBuffer::default();
    let mut buffer = Largest { guard, count: 1, bytes: 0 };
    let mut writer = SeriesWriter::new(partition, |frame| sending.send(frame));
    for index in 0..selection.len() {
        guard.check().map_err(stopped)?;
        let read = selection.read(index, &mut samples);
        read.map_err(|error| SourceError::Failed(error.to_string()))?;
        buffer.charge(bytes_of(&samples))?;
        writer.push(selection.labels(index), &samples)?;
    }
    writer.finish()
}

fn send_partials(
    partition: PartitionId,
    plan: &FragmentPlan,
    source: &OnePartition<'_>,
    sending: &mut Sending<'_>,
) -> Result<(), SourceError> {
    let guard = sending.guard;
    let mut writer = PartialWriter::new(partition, plan.steps(), |frame| sending.send(frame));
    let end = plan.run(source, guard, &mut |series| Ok(writer.push(&series)?)).map_err(stopped)?;
    writer.finish()?;
    sending.send(write_report(partition, &end))
}
