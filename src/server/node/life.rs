//! What nodes tell each other about the life of the cluster: each reports to the leader of the metadata about once a
//! second, and anybody may ask that one what it heard, or the leader of a partition who its members are.
//!
//! Knows reports and who to ask. Does not know what is done about a node that is silent: that is [`super::keeper`]'s.
//! Path: every node -> `Calls::consult` -> **here** of another -> `quorate_cluster::Board`.

use super::replicas::Replicas;
use super::tenants::Tenants;
use async_trait::async_trait;
use parking_lot::Mutex;
use quorate_cluster::formation::Consultant;
use quorate_cluster::meta::Reads;
use quorate_cluster::{Board, MetaHandle};
use quorate_kv::RocksKv;
use quorate_model::{Clock, NodeId, PartitionId, SystemClock};
use quorate_raft::{Group, Members};
use quorate_wire::Calls;
use quorate_wire::meta::answer::{Answer as Told, Heard, Image, NotLeading, Stands};
use quorate_wire::meta::question::{Membership, Overview, Question as Asked, Standing};
use quorate_wire::meta::report::Replica;
use quorate_wire::meta::{self, Answer, Question, Report, Seen};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// Between two reports, and the longest wait for what becomes of one.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How often the heads are measured. It walks their rows.
const MEASURE_INTERVAL: Duration = Duration::from_secs(15);
/// Longest wait for an answer that somebody waits for.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// The same for whether a node stays: one that takes longer is no good leader either.
const STAY_TIMEOUT: Duration = Duration::from_secs(1);

/// See the module header.
pub struct Life {
    node: NodeId,
    meta: MetaHandle,
    replicas: Arc<Replicas>,
    kv: Arc<RocksKv>,
    /// The way to the other nodes, if there may be any.
    calls: Option<Arc<dyn Calls>>,
    board: Board,
    measured: Mutex<Measured>,
    /// Set once this node takes writes.
    tenants: OnceLock<Tenants>,
    /// Partitions that were found to differ between replicas while this node led the metadata.
    divergences: AtomicU64,
    /// Whether this node is about to stop: nothing is handed over to it any more.
    is_leaving: AtomicBool,
}

/// Figures that cost too much to be read for each report.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    series: u64,
    samples: u64,
    disk_bytes: u64,
}

impl Life {
    /// The life of `node`, which reaches the others by `calls`.
    pub fn new(
        node: NodeId,
        meta: MetaHandle,
        replicas: Arc<Replicas>,
        kv: Arc<RocksKv>,
        calls: Option<Arc<dyn Calls>>,
    ) -> Arc<Self> {
        let (board, measured) = (Board::default(), Mutex::default());
        let (tenants, divergences, is_leaving) = (OnceLock::new(), AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { node, meta, replicas, kv, calls, board, measured, tenants, divergences, is_leaving })
    }

    /// From now on reports tell of tenants, too. Once.
    pub fn set_tenants(&self, tenants: Tenants) {
        if self.tenants.set(tenants).is_err() {
            tracing::error!("a node began to take writes twice");
        }
    }

    /// Starts its loops. They end when the handles are aborted.
    pub fn start(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        vec![tokio::spawn(self.clone().keep_reporting()), tokio::spawn(self.clone().keep_measuring())]
    }

    /// What nodes reported; it is kept only while this node leads the metadata.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Partitions that were found to differ between replicas.
    pub fn divergences(&self) -> u64 {
        self.divergences.load(Ordering::Relaxed)
    }

    async fn keep_reporting(self: Arc<Self>) {
        let mut turns = tokio::time::interval(REPORT_INTERVAL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let leader = self.meta.group().leader();
            match leader == Some(self.node) {
                true => self.board.lead(SystemClock.instant()),
                false => self.board.rest(),
            }
            if let Some(leader) = leader {
                let report = Question { question: Some(Asked::Report(self.report())) };
                match self.ask(leader, report, REPORT_INTERVAL).await {
                    Ok(Told::Heard(heard)) => self.take(&heard),
                    Ok(_) => (),
                    Err(reason) => tracing::debug!(%leader, reason, "the report did not arrive"),
                }
            }
        }
    }

    /// What the leader answered to a report.
    fn take(&self, heard: &Heard) {
        if let Some(tenants) = self.tenants.get() {
            tenants.hear(heard);
        }
        if let Some(kafka) = self.replicas.kafka() {
            for Image { partition, age_ms } in &heard.images {
                kafka.kafka().hear_image(PartitionId(*partition), Duration::from_millis(*age_ms));
            }
        }
    }

    async fn keep_measuring(self: Arc<Self>) {
        let mut turns = tokio::time::interval(MEASURE_INTERVAL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let life = self.clone();
            if tokio::task::spawn_blocking(move || life.measure()).await.is_err() {
                tracing::error!("measuring the heads panicked");
            }
        }
    }

    fn measure(&self) {
        let mut measured = Measured::default();
        for partition in self.replicas.list() {
            let stats = partition.store.stats();
            measured.series += stats.head_series;
            measured.samples += stats.counters.values().map(|c| c.stored + c.late).sum::<u64>();
        }
        let known = self.measured.lock().disk_bytes;
        measured.disk_bytes = self.kv.usage().map_or(known, |usage| usage.disk_bytes);
        *self.measured.lock() = measured;
    }

    fn report(&self) -> Report {
        let Measured { series, samples, disk_bytes } = *self.measured.lock();
        let replica = |partition: super::partition::Partition| {
            let (applied, hash) = partition.store.fingerprint();
            let group = partition.group();
            let members = (group.leader() == Some(self.node))
                .then(|| told(group, group.members(), partition.known_index().0));
            let image_age_ms =
                partition.image_age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
            Replica { partition: partition.id.0, applied: applied.0, hash, members, image_age_ms }
        };
        Report {
            node: self.node.0,
            disk_bytes,
            series,
            samples,
            replicas: self.replicas.list().into_iter().map(replica).collect(),
            transfers: self.replicas.traffic().arriving(),
            tenants: self.tenants.get().map_or_else(Vec::new, Tenants::report),
            reads: self.meta.reads().version.0,
            build: self.meta.reads().build.clone(),
        }
    }

    /// What the leader of the metadata has heard; `None` if nobody can tell now.
    pub async fn seen(&self) -> Option<Seen> {
        let leader = self.meta.group().leader()?;
        let question = Question { question: Some(Asked::Overview(Overview {})) };
        match self.ask(leader, question, ASK_TIMEOUT).await {
            Ok(Told::Seen(seen)) => Some(seen),
            Ok(_) => None,
            Err(reason) => {
                tracing::debug!(%leader, reason, "the leader of the metadata does not tell what it heard");
                None
            }
        }
    }

    /// The members of a partition's group, as its leader has confirmed them since this was called, if one of `nodes` leads
    /// it and answers.
    pub async fn members_of(&self, id: PartitionId, nodes: &[NodeId]) -> Option<meta::Members> {
        for node in nodes {
            let question = Question { question: Some(Asked::Membership(Membership { partition: id.0 })) };
            if let Ok(Told::Members(members)) = self.ask(*node, question, ASK_TIMEOUT).await {
                return Some(members);
            }
        }
        None
    }

    /// Whether the replica of `id` on `node` has caught up with its log. One that does not answer has not.
    pub async fn has_caught_up(&self, node: NodeId, id: PartitionId) -> bool {
        let question = Question { question: Some(Asked::Standing(Standing { partition: id.0 })) };
        matches!(
            self.ask(node, question, ASK_TIMEOUT).await,
            Ok(Told::Stands(Stands { caught_up: true, .. }))
        )
    }

    /// This node is about to stop: from now on it says so to those who would have it lead a partition.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    /// Whether `node`, which may be asked to lead this partition, or the metadata if none is named, answers and is not about
    /// to stop.
    pub async fn stays(&self, node: NodeId, id: Option<PartitionId>) -> bool {
        let asked = match id {
            Some(id) => Asked::Membership(Membership { partition: id.0 }),
            None => Asked::Overview(Overview {}),
        };
        self.ask(node, Question { question: Some(asked) }, STAY_TIMEOUT).await.is_ok()
    }

    async fn ask(&self, node: NodeId, question: Question, timeout: Duration) -> Result<Told, String> {
        let answer = match &self.calls {
            _ if node == self.node => self.consult(question).await?,
            Some(calls) => calls.consult(node, question, timeout).await.map_err(|error| error.to_string())?,
            None => return Err("there is no way to other nodes".to_owned()),
        };
        answer.answer.ok_or_else(|| "an answer of a newer version".to_owned())
    }

    fn hear(&self, report: Report) {
        for found in self.board.hear(report, SystemClock.instant()) {
            self.divergences.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                partition = %found.partition,
                position = found.position,
                one = %found.one,
                other = %found.other,
                "two replicas differ at the same position; keep both data dirs and report this"
            );
        }
    }
}

#[async_trait]
impl Consultant for Life {
    async fn consult(&self, question: Question) -> Result<Answer, String> {
        let leader = self.meta.group().leader();
        let not_leading = |leader: Option<NodeId>| {
            Told::NotLeading(NotLeading { leader: leader.map_or(0, |leader| leader.0) })
        };
        let is_leaving = self.is_leaving.load(Ordering::Relaxed);
        let answer = match question.question.ok_or("a question of a newer version")? {
            // Who leads the metadata answers on as long as it does.
            Asked::Overview(_) if is_leaving && leader != Some(self.node) => return Err(leaving()),
            Asked::Membership(_) if is_leaving => return Err(leaving()),
            Asked::Report(_) | Asked::Overview(_) if leader != Some(self.node) => not_leading(leader),
            Asked::Report(mut report) => {
                let node = NodeId(report.node);
                let (is_known, partitions) =
                    self.meta.read(|state| (state.nodes().contains_key(&node), state.partitions().len()));
                if !is_known {
                    return Err(format!("there is no node {node} in the cluster"));
                }
                self.meta.admits(&Reads::told(report.reads, &report.build))?;
                // A node that is alone has no placement, and hears only itself.
                report
                    .replicas
                    .retain(|replica| partitions == 0 || (replica.partition as usize) < partitions);
                self.hear(report);
                Told::Heard(self.board.totals(node, SystemClock.instant()))
            }
            Asked::Overview(_) => Told::Seen(self.board.seen(SystemClock.instant())),
            Asked::Standing(Standing { partition }) => {
                let here = self.replicas.get(PartitionId(partition)).ok_or("there is no replica here")?;
                let applied = here.store.applied().0;
                Told::Stands(Stands { caught_up: here.has_caught_up(), applied })
            }
            Asked::Membership(Membership { partition }) => {
                let here = self.replicas.get(PartitionId(partition));
                let here = here.map(|here| (here.group().clone(), here.known_index()));
                let (group, committed) = here.ok_or("there is no replica here")?;
                match group.confirmed_members().await {
                    Ok(members) => Told::Members(told(&group, members, committed.0)),
                    Err(_) => not_leading(group.leader().filter(|leader| *leader != self.node)),
                }
            }
        };
        Ok(Answer { answer: Some(answer) })
    }
}

fn leaving() -> String {
    "this node is about to stop".to_owned()
}

fn told(group: &Group, members: Members, committed: u64) -> meta::Members {
    let numbers = |nodes: std::collections::BTreeSet<NodeId>| nodes.into_iter().map(|node| node.0).collect();
    let (voters, learners) = (numbers(members.voters), numbers(members.learners));
    meta::Members { voters, learners, committed, term: group.term() }
}
