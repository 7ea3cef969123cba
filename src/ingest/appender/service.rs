//! The answering side: appends what gateways of other nodes send to the partitions that this node leads.
//!
//! Knows this node's replicas and how many bytes of peers are on their way. Does not know gateways.
//! Path: `RoutedAppender` of another node -> `wire` -> **here** -> [`LocalAppender`].
//!
//! - WS1: once its record has a place among those on their way, a caller that goes away loses only the answer (TR24).
//! - WS2: records of peers that are taken are on their way until they are applied or given up, and their bytes are
//!   bounded. Whoever is over the bound waits a little, then is refused: that is how this node pushes back. What waits is
//!   bounded by the calls that `wire` lets in.
//! - WS3: nothing is appended that the replicas could not read.

use super::{Appended, Appender, LocalAppender, LocalReplicas, PendingVerdict, convert};
use async_trait::async_trait;
use quorate_commitlog::{LogError, record};
use quorate_model::{ErrorCode, NodeId, PartitionId, Position, SessionId};
use quorate_wire::WriteHandler;
use quorate_wire::write::append_answer::{NotLeader, Outcome};
use quorate_wire::write::{AppendAnswer, AppendRequest, Committed};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

/// Bytes of peers' records that are on their way at once in a node.
pub const PEER_BYTES: usize = 64 << 20;
/// What a record counts for beside its bytes, so that very many small ones are bounded too.
const RECORD_COST: usize = 4 << 10;
/// How long a record waits for a place among them.
const ROOM_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the log may take to commit; a leader that lost its majority would wait forever. With the wait for a place
/// this is shorter than callers wait (`RouteConfig::commit_timeout`), so that they hear it from here.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a verdict, whatever the caller asks for.
const MAX_VERDICT_WAIT: Duration = Duration::from_secs(10);

/// Answers the calls of peers to write.
#[derive(Debug)]
pub struct WriteService {
    replicas: Arc<LocalReplicas>,
    room: Arc<Semaphore>,
    max_bytes: u32,
}

impl WriteService {
    /// Appends to `replicas`, as they come and go, with at most `max_bytes` of peers on their way.
    pub fn new(replicas: Arc<LocalReplicas>, max_bytes: usize) -> Self {
        let max_bytes = u32::try_from(max_bytes).unwrap_or(u32::MAX).max(1);
        Self { replicas, room: Arc::new(Semaphore::new(max_bytes as usize)), max_bytes }
    }

    /// A place for `bytes`. A record larger than the bound may pass alone: it could never pass otherwise.
    async fn room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let share = u32::try_from(bytes.saturating_add(RECORD_COST)).unwrap_or(u32::MAX).min(self.max_bytes);
        let permit = timeout(ROOM_TIMEOUT, Arc::clone(&self.room).acquire_many_owned(share)).await;
        permit.ok().and_then(Result::ok)
    }
}

#[async_trait]
impl WriteHandler for WriteService {
    async fn append(&self, request: AppendRequest) -> Result<AppendAnswer, String> {
        // Without a replica somebody else leads, or this node is starting or stopping: the caller looks on.
        let partition = PartitionId(request.partition);
        let Some(replica) = self.replicas.get(partition) else { return Ok(not_leader(None)) };
        if replica.holdings.is_full() {
            return Ok(not_taken(format!("partition {partition} holds too many late samples")));
        }
        check(&request, replica.appender.incarnation())?;
        let Some(room) = self.room(request.record.len()).await else {
            return Ok(not_taken(format!("over {} bytes of other nodes are on their way", self.max_bytes)));
        };
        let (answer, answered) = oneshot::channel();
        tokio::spawn(take(replica.appender, request, answer, room));
        Ok(answered.await.unwrap_or_else(|_| unknown("the append was given up".to_owned())))
    }
}

/// What is committed is applied by every replica, so it is looked at before: a record that is damaged, of a version that
/// this node cannot read, or of another log would stop all of them.
fn check(request: &AppendRequest, log_incarnation: u32) -> Result<(), String> {
    let header = record::data_header(&request.record).map_err(|error| error.to_string())?;
    let session = SessionId { node: request.gateway, incarnation: request.incarnation };
    if (header.session, header.sequence) != (session, request.sequence) {
        return Err(format!(
            "record {} of session {} came as {} of {session}",
            header.sequence, header.session, request.sequence
        ));
    }
    if header.log_incarnation != log_incarnation {
        return Err(format!(
            "the log has incarnation {log_incarnation}, the record {}",
            header.log_incarnation
        ));
    }
    Ok(())
}

/// Appends a record and answers, whether or not the caller still waits. Holds its room until it is applied.
async fn take(
    appender: Arc<LocalAppender>,
    request: AppendRequest,
    answer: oneshot::Sender<AppendAnswer>,
    _room: OwnedSemaphorePermit,
) {
    let session = SessionId { node: request.gateway, incarnation: request.incarnation };
    let append = appender.append(session, request.sequence, request.record);
    let error = match timeout(COMMIT_TIMEOUT, append).await {
        Ok(Ok(appended)) => return settle(appended, request.verdict_wait_ms, answer).await,
        Ok(Err(error)) => refusal(&error),
        Err(_) => unknown(format!("not committed within {COMMIT_TIMEOUT:?}")),
    };
    let _ = answer.send(error);
}

/// Answers for a record that is committed, and waits until it is applied.
async fn settle(appended: Appended, wait_ms: u32, answer: oneshot::Sender<AppendAnswer>) {
    let Appended { position, verdict } = appended;
    let verdict = PendingVerdict::wait(verdict);
    tokio::pin!(verdict);
    let wait = Duration::from_millis(wait_ms.into()).min(MAX_VERDICT_WAIT);
    let Ok(known) = timeout(wait, &mut verdict).await else {
        let _ = answer.send(committed(position, None));
        // Whatever it is, the caller has its answer.
        let _ = verdict.await;
        return;
    };
    let _ = answer.send(match known {
        Ok(verdicts) => committed(position, verdicts.as_deref().map(convert::to_wire)),
        Err(none) => unknown(none.reason),
    });
}

/// The answer to a record that is not known to be committed.
fn refusal(error: &LogError) -> AppendAnswer {
    match (error, error.code()) {
        (LogError::NotLeader { leader }, _) => not_leader(*leader),
        (_, ErrorCode::Indeterminate) => unknown(error.to_string()),
        _ => not_taken(error.to_string()),
    }
}

fn committed(position: Position, verdicts: Option<Vec<quorate_wire::write::Verdict>>) -> AppendAnswer {
    let has_verdicts = verdicts.is_some();
    let verdicts = verdicts.unwrap_or_default();
    answer(Outcome::Committed(Committed { position: position.0, has_verdicts, verdicts }))
}

fn not_leader(leader: Option<NodeId>) -> AppendAnswer {
    answer(Outcome::NotLeader(NotLeader { leader: leader.map_or(0, |leader| leader.0) }))
}

fn not_taken(why: String) -> AppendAnswer {
    answer(Outcome::NotTaken(why))
}

fn unknown(why: String) -> AppendAnswer {
    answer(Outcome::Unknown(why))
}

fn answer(outcome: Outcome) -> AppendAnswer {
    AppendAnswer { outcome: Some(outcome) }
}
