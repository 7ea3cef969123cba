//! Appends to the log of a partition that any node may lead, this one too.
//!
//! Knows who leads, as told by a watch and by nodes that do not. Does not know how that is found out.
//! It is the one layer of the write path that tries again (TR26): only after outcomes that certainly had no effect,
//! and until a deadline. Cost: one look at a watch and one at a map for each record; its bytes are not copied for
//! another try.

use super::{Appended, Appender, LocalReplicas, PendingVerdict, convert};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_commitlog::LogError;
use quorate_model::{NodeId, PartitionId, Position, SessionId};
use quorate_wire::write::{AppendAnswer, AppendRequest, Committed, append_answer::Outcome};
use quorate_wire::{Calls, TransportError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// Longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_millis(320);

/// Times of the way to a leader. Their sum stays below the distributor's `write_timeout`, so that a request learns
/// what became of its record.
#[derive(Debug, Clone)]
pub struct RouteConfig {
    /// How long a record looks for a leader that takes it.
    pub route_timeout: Duration,
    /// How long a leader may take to commit it; after this the outcome is unknown.
    pub commit_timeout: Duration,
    /// How long a leader may still answer once another one is known. One that was cut off would hold up its caller, and
    /// all that the partition has under way, until its connection is given up.
    pub deposed_wait: Duration,
    /// How long the leader waits for the verdict before it answers without.
    pub verdict_wait: Duration,
    /// The first pause between two tries; each further one is twice as long, up to 320 ms.
    pub pause: Duration,
}

impl Default for RouteConfig {
    fn default() -> Self {
        Self {
            route_timeout: Duration::from_secs(10),
            commit_timeout: Duration::from_secs(10),
            deposed_wait: Duration::from_millis(500),
            verdict_wait: Duration::from_secs(5),
            pause: Duration::from_millis(20),
        }
    }
}

/// Appends where the partition is led: here, or by one call to another node.
pub struct RoutedAppender {
    partition: PartitionId,
    node: NodeId,
    incarnation: u32,
    replicas: Arc<LocalReplicas>,
    leader: watch::Receiver<Option<NodeId>>,
    calls: Arc<dyn Calls>,
    config: RouteConfig,
    learned: Mutex<Option<Learned>>,
}

/// A leader that the watch does not tell, but a node did and it was right. Holds until the watch tells something new.
#[derive(Debug, Clone, Copy)]
struct Learned {
    leader: NodeId,
    watched: Option<NodeId>,
}

/// What came of one try.
enum Tried {
    Ended(Result<Appended, LogError>),
    /// It had no effect; the hint is the leader that the node knows of.
    Again {
        hint: Option<NodeId>,
        why: String,
    },
}

impl std::fmt::Debug for RoutedAppender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RoutedAppender")
            .field("partition", &self.partition)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl RoutedAppender {
    /// Appends to `partition` for a gateway on `node`. `incarnation` is that of the log, the same on all nodes.
    ///
    /// `leader` tells who leads. It should tell nobody when a leader has lost its majority: what is appended to such
    /// a one ends as unknown, while a record without a leader is refused.
    pub fn new(
        partition: PartitionId,
        node: NodeId,
        incarnation: u32,
        leader: watch::Receiver<Option<NodeId>>,
        replicas: Arc<LocalReplicas>,
        calls: Arc<dyn Calls>,
        config: RouteConfig,
    ) -> Self {
        let learned = Mutex::default();
        Self { partition, node, incarnation, replicas, leader, calls, config, learned }
    }

    /// One try at `leader`, which is unknown when another one leads meanwhile.
    async fn attempt(&self, leader: NodeId, session: SessionId, sequence: u64, record: &Bytes) -> Tried {
        let append = async {
            if leader == self.node {
                self.append_here(session, sequence, record.clone()).await
            } else {
                self.append_there(leader, session, sequence, record.clone()).await
            }
        };
        tokio::select! {
            biased;
            tried = append => tried,
            next = self.deposed(leader) => {
                let reason = format!("node {next} leads now, and node {leader} does not answer");
                Tried::Ended(Err(LogError::Indeterminate { reason }))
            }
        }
    }

    /// Waits until the watch has told another leader than `leader` for [`RouteConfig::deposed_wait`]. What it tells
    /// already does not count: whoever is tried against it was named by a node that knows better.
    async fn deposed(&self, leader: NodeId) -> NodeId {
        let mut told = self.leader.clone();
        told.mark_unchanged();
        loop {
            if told.changed().await.is_err() {
                return std::future::pending().await;
            }
            let Some(next) = told.borrow_and_update().filter(|next| *next != leader) else { continue };
            let back = told.wait_for(|told| *told == Some(leader));
            if timeout(self.config.deposed_wait, back).await.is_err() {
                return next;
            }
        }
    }

    async fn append_here(&self, session: SessionId, sequence: u64, record: Bytes) -> Tried {
        let Some(replica) = self.replicas.get(self.partition) else {
            return Tried::Again { hint: None, why: "the replica of this node is not open".to_owned() };
        };
        let append = replica.appender.append(session, sequence, record);
        match timeout(self.config.commit_timeout, append).await {
            Ok(Err(LogError::NotLeader { leader: hint })) => not_leader(self.node, hint),
            Ok(ended) => Tried::Ended(ended),
            Err(_) => {
                let reason = format!("not committed within {:?}", self.config.commit_timeout);
                Tried::Ended(Err(LogError::Indeterminate { reason }))
            }
        }
    }

    async fn append_there(&self, to: NodeId, session: SessionId, sequence: u64, record: Bytes) -> Tried {
        let verdict_wait = self.config.verdict_wait;
        let request = AppendRequest {
            partition: self.partition.0,
            gateway: session.node,
            incarnation: session.incarnation,
            sequence,
            record,
            verdict_wait_ms: u32::try_from(verdict_wait.as_millis()).unwrap_or(u32::MAX),
        };
        match self.calls.append(to, request, self.config.commit_timeout + verdict_wait).await {
            Ok(answer) => read_answer(to, answer),
            Err(error @ (TransportError::Unreachable { .. } | TransportError::Refused { .. })) => {
                Tried::Again { hint: None, why: error.to_string() }
            }
            Err(error @ TransportError::NoAnswer { .. }) => {
                Tried::Ended(Err(LogError::Indeterminate { reason: error.to_string() }))
            }
        }
    }

    /// Whom to ask first when the watch tells `watched`.
    fn first(&self, watched: Option<NodeId>) -> Option<NodeId> {
        let learned = (*self.learned.lock()).filter(|learned| learned.watched == watched);
        learned.map(|learned| learned.leader).or(watched)
    }

    /// Keeps what a try has shown about `leader`.
    fn learn(&self, leader: NodeId, watched: Option<NodeId>, is_right: bool) {
        let mut learned = self.learned.lock();
        if is_right && watched != Some(leader) {
            *learned = Some(Learned { leader, watched });
        } else if learned.is_some_and(|known| known.leader == leader || known.watched != watched) {
            *learned = None;
        }
    }
}

#[async_trait]
impl Appender for RoutedAppender {
    async fn append(&self, session: SessionId, sequence: u64, record: Bytes) -> Result<Appended, LogError> {
        let mut search = Search::new(self.leader.clone(), &self.config);
        let mut next = self.first(search.watched);
        let mut last = "no leader is known".to_owned();
        loop {
            let leader = match next {
                Some(leader) => leader,
                None => match search.wait().await {
                    Some(leader) => leader,
                    None => return Err(self.given_up(&last)),
                },
            };
            match self.attempt(leader, session, sequence, &record).await {
                Tried::Ended(ended) => {
                    self.learn(leader, search.watched, ended.is_ok());
                    return ended;
                }
                Tried::Again { hint, why } => {
                    self.learn(leader, search.watched, false);
                    last = why;
                    if !search.pause(leader, hint).await {
                        return Err(self.given_up(&last));
                    }
                    next = search.next(leader, hint);
                }
            }
        }
    }

    fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// Only a leader's: a replica that has stopped elsewhere stops no write.
    fn why_stopped(&self) -> Option<String> {
        if *self.leader.borrow() != Some(self.node) {
            return None;
        }
        self.replicas.get(self.partition).and_then(|replica| replica.appender.why_stopped())
    }
}

impl RoutedAppender {
    fn given_up(&self, last: &str) -> LogError {
        let reason = format!("no leader took the record within {:?}; {last}", self.config.route_timeout);
        LogError::Unavailable { reason }
    }
}

/// The search for a leader, for one record.
struct Search {
    leader: watch::Receiver<Option<NodeId>>,
    /// What the watch told last.
    watched: Option<NodeId>,
    deadline: Instant,
    pause: Duration,
    /// Whether the last node was asked because of a hint: two nodes that name each other are not asked without pause.
    is_hinted: bool,
}

impl Search {
    fn new(mut leader: watch::Receiver<Option<NodeId>>, config: &RouteConfig) -> Self {
        let watched = *leader.borrow_and_update();
        let deadline = Instant::now() + config.route_timeout;
        Self { leader, watched, deadline, pause: config.pause, is_hinted: false }
    }

    /// Whether `hint` may be followed at once after `failed`.
    fn may_follow(&self, failed: NodeId, hint: Option<NodeId>) -> bool {
        !self.is_hinted && hint.is_some_and(|hint| hint != failed)
    }

    /// Waits before the next try, unless there is a hint to follow; less if the watch tells something new. Whether
    /// there is time for another try.
    async fn pause(&mut self, failed: NodeId, hint: Option<NodeId>) -> bool {
        let now = Instant::now();
        if now < self.deadline && !self.may_follow(failed, hint) {
            let until = (now + self.pause).min(self.deadline);
            self.pause = (self.pause * 2).min(MAX_PAUSE);
            // With an error nothing new will come, so the pause is all there is to wait for.
            if timeout_at(until, self.leader.changed()).await.is_ok_and(|changed| changed.is_err()) {
                sleep_until(until).await;
            }
        }
        Instant::now() < self.deadline
    }

    /// Whom to ask next; `None` when nobody is known.
    fn next(&mut self, failed: NodeId, hint: Option<NodeId>) -> Option<NodeId> {
        if self.may_follow(failed, hint) {
            self.is_hinted = true;
            return hint;
        }
        self.is_hinted = false;
        let before = self.watched;
        self.watched = *self.leader.borrow_and_update();
        let hint = hint.filter(|hint| *hint != failed && self.watched == before);
        hint.or(self.watched)
    }

    /// Waits until the watch tells a leader; `None` when the time is over.
    async fn wait(&mut self) -> Option<NodeId> {
        let told = timeout_at(self.deadline, self.leader.wait_for(Option::is_some)).await;
        self.watched = told.ok().and_then(|told| told.ok().and_then(|leader| *leader));
        self.watched
    }
}

fn not_leader(node: NodeId, hint: Option<NodeId>) -> Tried {
    Tried::Again { hint, why: format!("node {node} does not lead it") }
}

/// What the answer of node `from` means.
fn read_answer(from: NodeId, answer: AppendAnswer) -> Tried {
    let reason = |text: &str| format!("node {from}: {text}");
    match answer.outcome {
        Some(Outcome::Committed(committed)) => Tried::Ended(Ok(read_committed(&committed))),
        Some(Outcome::NotLeader(answer)) => {
            not_leader(from, (answer.leader != 0).then_some(NodeId(answer.leader)))
        }
        Some(Outcome::NotTaken(why)) => Tried::Ended(Err(LogError::Unavailable { reason: reason(&why) })),
        Some(Outcome::Unknown(why)) => Tried::Ended(Err(LogError::Indeterminate { reason: reason(&why) })),
        None => Tried::Ended(Err(LogError::Indeterminate { reason: reason("an empty answer") })),
    }
}

fn read_committed(committed: &Committed) -> Appended {
    let verdict = match committed.has_verdicts {
        true => PendingVerdict::Known(convert::from_wire(&committed.verdicts)),
        false => PendingVerdict::Late,
    };
    Appended { position: Position(committed.position), verdict }
}
