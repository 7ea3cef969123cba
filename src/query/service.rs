//! The query side of a node: admission, execution on its own threads, cancellation.
//!
//! Path: `server::http` -> **here** -> `freshness`, then `promql::engine` over [`ClusterSource`]. What other nodes ask of
//! this one runs here too, in places of its own: nodes that ask each other never wait for each other's places.
//! Q1: a dropped future stops its query at the next check. Q2: at most `max_concurrent` queries run, and as many reads
//! for other nodes; others wait until their deadline. Q3: when a query ends, in whatever way, its memory is given back.

use crate::budget::{MemoryBudget, QueryAccount};
use crate::durations::Durations;
use crate::freshness::{NotFresh, ReadConsistency, Reading};
use crate::guard::{CancelFlag, CancelOnDrop, LocalGuard};
use crate::limits::QueryLimits;
use crate::replicas::Cluster;
use crate::seen::Seen;
use crate::source::ClusterSource;
use crate::token::PositionToken;
use quorate_model::{Clock, ErrorCode, TenantId};
use quorate_promql::engine::{self, EngineOptions, QueryError, QueryOutput};
use quorate_promql::{Features, ParseError};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A query that may have gaps waits for the freshness of its partitions one part in this many of what others wait.
const PARTIAL_PARTS: u32 = 4;

/// Settings of the query side.
#[derive(Debug, Clone)]
pub struct QueryConfig {
    /// Queries that run at the same time.
    pub max_concurrent: usize,
    /// Longest time of a query, queueing included.
    pub timeout: Duration,
    /// Longest time until it is known how fresh the partitions must be, and the replicas here are.
    pub fresh_within: Duration,
    /// Samples that one query may hold in memory at once.
    pub max_samples: u64,
    /// How far back an instant selector looks, milliseconds.
    pub lookback_delta_ms: i64,
    /// Memory for heads and queries together, bytes; a query gets at most a quarter.
    pub memory_budget: u64,
    /// Experimental parts of PromQL that are on.
    pub features: Features,
}

/// One query as a client asks it.
#[derive(Debug, Clone)]
pub struct QueryParams {
    /// Number of the tenant, `None` if it never wrote.
    pub tenant: Option<TenantId>,
    /// The query's text.
    pub query: String,
    /// At which times.
    pub times: EvalTimes,
    /// Shorter than the configured time-out, if the client asks for it.
    pub timeout: Option<Duration>,
    /// Instead of the configured lookback delta, milliseconds.
    pub lookback_delta_ms: Option<i64>,
    /// What the tenant may read.
    pub limits: QueryLimits,
    /// What the query must see.
    pub consistency: ReadConsistency,
    /// Whether it goes on without partitions that cannot be read, and says so.
    pub allow_partial: bool,
}

/// Evaluation times, milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvalTimes {
    /// One time.
    Instant(i64),
    /// Every `step_ms` from `start_ms` to `end_ms`, both included.
    Range {
        /// First time.
        start_ms: i64,
        /// No time is later.
        end_ms: i64,
        /// Distance, above 0.
        step_ms: i64,
    },
}

/// How long a query waited and ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// Waiting for a free place.
    pub queued: Duration,
    /// Running.
    pub executed: Duration,
}

/// An answer, what it reflects, and the memory that it stays charged with.
#[derive(Debug)]
pub struct Answer<T> {
    /// The answer.
    pub output: T,
    /// What it reflects.
    pub seen: Seen,
    /// To be kept as long as the answer: dropping it gives the memory back to other queries.
    pub held: QueryAccount,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryFailure {
    /// The text is not PromQL, or uses what is not on.
    #[error("invalid parameter \"query\": {0}")]
    Parse(#[from] ParseError),
    /// The engine or its source gave up.
    #[error(transparent)]
    Engine(#[from] QueryError),
    /// A partition cannot be read as fresh as was asked for; asking again may help.
    #[error(transparent)]
    NotFresh(#[from] NotFresh),
    /// Over a limit before anything was read.
    #[error("{0}")]
    Limit(String),
    /// No place became free before the deadline.
    #[error("query timed out in query queue")]
    QueueTimeout,
    /// The evaluation panicked: a bug.
    #[error("the query failed unexpectedly; see the log of the node")]
    Panicked,
}

impl QueryFailure {
    /// What the caller can do about it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Parse(_) => ErrorCode::BadInput,
            Self::Engine(e) => e.code(),
            Self::NotFresh(_) => ErrorCode::Unavailable,
            Self::Limit(_) => ErrorCode::Unprocessable,
            Self::QueueTimeout => ErrorCode::TimedOut,
            Self::Panicked => ErrorCode::Internal,
        }
    }
}

/// Runs the queries of a node.
pub struct QueryService {
    cluster: Arc<Cluster>,
    config: QueryConfig,
    places: Arc<Semaphore>,
    /// Places of reads for other nodes.
    fragment_places: Arc<Semaphore>,
    memory: Arc<MemoryBudget>,
    times: Arc<QueryTimes>,
    clock: Arc<dyn Clock>,
}

/// How long the queries of a node waited and ran.
#[derive(Debug)]
pub struct QueryTimes {
    /// Waiting for a free place.
    pub queued: Durations,
    /// Parsing and evaluation.
    pub executed: Durations,
}

impl QueryService {
    /// A service over the partitions of `cluster`.
    pub fn new(cluster: Arc<Cluster>, config: QueryConfig, clock: Arc<dyn Clock>) -> Self {
        Self {
            cluster,
            places: Arc::new(Semaphore::new(config.max_concurrent)),
            fragment_places: Arc::new(Semaphore::new(config.max_concurrent)),
            memory: MemoryBudget::new(config.memory_budget),
            times: Arc::new(QueryTimes {
                queued: Durations::new(clock.instant()),
                executed: Durations::new(clock.instant()),
            }),
            config,
            clock,
        }
    }

    /// The settings.
    pub fn config(&self) -> &QueryConfig {
        &self.config
    }

    /// The node's query memory.
    pub fn memory(&self) -> &Arc<MemoryBudget> {
        &self.memory
    }

    /// How long queries waited and ran. Those that failed are left out.
    pub fn times(&self) -> &QueryTimes {
        &self.times
    }

    /// Number of queries that run now.
    pub fn running(&self) -> usize {
        self.config.max_concurrent - self.places.available_permits()
    }

    /// The partitions that queries read.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Evaluates a query at one time or over a range, and turns the result into an answer under the same guard:
    /// `render` may take long and much memory too.
    ///
    /// # Errors
    /// [`QueryFailure`]; its code says whether asking again can help.
    pub async fn query<T: Send + 'static>(
        &self,
        params: QueryParams,
        render: impl FnOnce(QueryOutput, Timings, &LocalGuard) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<Answer<T>, QueryFailure> {
        if let EvalTimes::Range { start_ms, end_ms, .. } = params.times {
            params.limits.check_length(start_ms, end_ms).map_err(QueryFailure::Limit)?;
        }
        let options = EngineOptions {
            lookback_delta_ms: params.lookback_delta_ms.unwrap_or(self.config.lookback_delta_ms),
            max_samples: params.limits.max_samples_or(self.config.max_samples),
            features: self.config.features,
            query_text: params.query.as_str().into(),
            ..EngineOptions::default()
        };
        let (clock, times) = (self.clock.clone(), self.times.clone());
        let arrived = clock.instant();
        let deadline = self.deadline(params.timeout);
        let terms = (&params.consistency, params.allow_partial);
        let (of, sight) = self.reading(params.tenant, terms, deadline).await?;
        let source = ClusterSource::new(of, params.limits, deadline.into(), Handle::current());
        let run = self.run(deadline, move |guard| {
            let started = clock.instant();
            // Parsing compiles regexes, so it waits for its place like the rest.
            let expr = quorate_promql::parse(&params.query, &options.features)?;
            let output = match params.times {
                EvalTimes::Instant(time_ms) => engine::instant(&source, &expr, time_ms, &options, guard),
                EvalTimes::Range { start_ms, end_ms, step_ms } => {
                    engine::range(&source, &expr, start_ms, end_ms, step_ms, &options, guard)
                }
            }?;
            let timings = Timings { queued: started - arrived, executed: clock.instant() - started };
            times.queued.record(started, timings.queued);
            times.executed.record(started + timings.executed, timings.executed);
            Ok(render(output, timings, guard)?)
        });
        Ok(sight.of(run.await?))
    }

    /// When a query that comes now must have ended.
    pub(crate) fn deadline(&self, timeout: Option<Duration>) -> Instant {
        self.clock.instant() + timeout.map_or(self.config.timeout, |t| t.min(self.config.timeout))
    }

    /// Finds out how fresh every partition must be read for `tenant`, on these terms: the consistency, and whether
    /// there may be gaps.
    pub(crate) async fn reading(
        &self,
        tenant: Option<TenantId>,
        (consistency, allow_partial): (&ReadConsistency, bool),
        deadline: Instant,
    ) -> Result<(Option<(TenantId, Reading)>, Sight), NotFresh> {
        let positions = match (tenant, consistency) {
            // What it has may be known elsewhere only, so this too may be stale.
            (Some(_), _) | (None, ReadConsistency::Eventual) => None,
            (None, ReadConsistency::Session(token)) => Some(token.clone()),
            (None, ReadConsistency::Strong | ReadConsistency::Bounded(_)) => Some(PositionToken::default()),
        };
        if let Some(positions) = positions {
            return Ok((None, Sight::Nothing(positions)));
        }
        let begun = self.clock.instant();
        let mut within = self.config.fresh_within.min(deadline.saturating_duration_since(begun));
        if allow_partial {
            // The rest is for reading what there is.
            within = (self.config.fresh_within / PARTIAL_PARTS).min(within / 2);
        }
        let begin = Reading::begin(&self.cluster, consistency, allow_partial, (begun + within).into()).await;
        let name = consistency.name();
        metrics::histogram!("quorate_read_consistency_wait_seconds", "consistency" => name)
            .record((self.clock.instant() - begun).as_secs_f64());
        if begin.is_err() {
            metrics::counter!("quorate_read_consistency_failures_total", "consistency" => name).increment(1);
        }
        let reading = begin?;
        Ok((tenant.map(|tenant| (tenant, reading.clone())), Sight::Reading(reading)))
    }

    /// Runs `work` on a query thread once a place is free, under a guard of its own.
    ///
    /// # Errors
    /// [`QueryFailure::QueueTimeout`] when no place became free; else what `work` gives.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce(&LocalGuard) -> Result<T, QueryFailure> + Send + 'static,
    ) -> Result<Answer<T>, QueryFailure> {
        self.run_in(&self.places, deadline, work).await
    }

    /// The same for what another node asks.
    pub(crate) async fn run_fragment<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce(&LocalGuard) -> Result<T, QueryFailure> + Send + 'static,
    ) -> Result<Answer<T>, QueryFailure> {
        self.run_in(&self.fragment_places, deadline, work).await
    }

    async fn run_in<T: Send + 'static>(
        &self,
        places: &Arc<Semaphore>,
        deadline: Instant,
        work: impl FnOnce(&LocalGuard) -> Result<T, QueryFailure> + Send + 'static,
    ) -> Result<Answer<T>, QueryFailure> {
        let cancel = CancelFlag::default();
        let _cancel_when_client_leaves = CancelOnDrop(cancel.clone());
        let place = place(places, deadline).await?;
        let guard = LocalGuard::new(cancel, deadline, self.clock.clone(), self.memory.account());
        let done = tokio::task::spawn_blocking(move || {
            let output = work(&guard);
            drop(place);
            output.map(|output| Answer { output, seen: Seen::default(), held: guard.into_account() })
        });
        done.await.map_err(|panicked| {
            tracing::error!(%panicked, "query evaluation panicked");
            QueryFailure::Panicked
        })?
    }
}

/// Tells of an answer what it reflects, once it is there.
pub(crate) enum Sight {
    /// What was found out while it was read.
    Reading(Reading),
    /// The tenant never wrote, so nothing was read; a session keeps what it had.
    Nothing(PositionToken),
}

impl Sight {
    pub(crate) fn of<T>(self, answer: Answer<T>) -> Answer<T> {
        let seen = match self {
            Self::Reading(reading) => reading.seen(),
            Self::Nothing(positions) => Seen { positions: Some(positions), ..Seen::default() },
        };
        if !seen.gaps.is_empty() {
            metrics::counter!("quorate_query_partial_answers_total").increment(1);
        }
        if !seen.stale.is_empty() {
            metrics::counter!("quorate_query_stale_answers_total").increment(1);
        }
        Answer { seen, ..answer }
    }
}

async fn place(places: &Arc<Semaphore>, deadline: Instant) -> Result<OwnedSemaphorePermit, QueryFailure> {
    tokio::time::timeout_at(deadline.into(), places.clone().acquire_owned())
        .await
        .map_err(|_elapsed| QueryFailure::QueueTimeout)?
        .map_err(|_closed| QueryFailure::QueueTimeout)
}
