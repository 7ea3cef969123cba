//! The gateway's share of a write, per sample of known series, one sample per series (the worst case):
//! `snappy` alone, `walk` (read the message, hash every series), `rehearse` (all before the log: snappy, walk,
//! series cache, checks, columns, record), `write` (the same through queues, a log in memory and back).

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use quorate_benches::bodies::{Body, Plan, build};
use quorate_benches::universe::Universe;
use quorate_cluster::limits::LimitsProvider;
use quorate_cluster::slots::{SlotTable, TargetLabels};
use quorate_cluster_tests::remote_write;
use quorate_commitlog::PartitionLog;
use quorate_commitlog::mem_log::MemLog;
use quorate_ingest::protocol::{BodyBuffer, Hashing, ParsedRequest, parse};
use quorate_ingest::{
    Applier, ApplyTarget, Distributor, DistributorConfig, Held, Holdings, LocalAppender, PartitionInput,
    Protocol, WriteRequest, placement,
};
use quorate_model::{Labels, LogRecord, ManualClock, PartitionId, Position, RecordBody, SessionId, TenantId};
use quorate_tsdb::{ApplyOutcome, SubBatchVerdict};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Runtime;

const SERIES: usize = 50_000;
const SAMPLES_PER_REQUEST: usize = 2_000;
const PARTITIONS: u32 = 4;
const LIMIT: usize = 32 << 20;
const NOW_MS: i64 = 1_763_000_000_000;

/// A partition that keeps nothing.
#[derive(Default)]
struct Sink(AtomicU64);

impl ApplyTarget for Sink {
    fn applied(&self) -> Position {
        Position(self.0.load(Ordering::Relaxed))
    }

    fn apply(&self, position: Position, record: &LogRecord) -> Result<ApplyOutcome, String> {
        self.0.store(position.0, Ordering::Relaxed);
        let count = match &record.body {
            RecordBody::Data(batches) => batches.len(),
            _ => 0,
        };
        Ok(ApplyOutcome { sub_batches: vec![SubBatchVerdict::default(); count], ..ApplyOutcome::default() })
    }

    fn note_entry(&self, _: Position, _: u32) {}

    fn last_entry(&self) -> Option<(Position, u32)> {
        None
    }

    fn pass(&self, _: Position) -> Result<(), String> {
        Err("nobody else writes into this log".to_owned())
    }
}

impl Holdings for Sink {
    fn floor_ms(&self, _tenant: TenantId) -> i64 {
        i64::MIN
    }

    fn active_series(&self, _tenant: TenantId) -> u64 {
        0
    }

    fn has_series(&self, _tenant: TenantId, _labels: &Labels) -> Option<bool> {
        Some(false)
    }

    fn metadata_families(&self, _tenant: TenantId) -> usize {
        0
    }

    fn has_family(&self, _tenant: TenantId, _family: &str) -> bool {
        false
    }

    fn is_full(&self) -> bool {
        false
    }
}

struct Gateway {
    runtime: Runtime,
    distributor: Distributor,
    logs: Vec<MemLog>,
    _appliers: Vec<Applier>,
}

impl Gateway {
    fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let guard = runtime.enter();
        let logs: Vec<MemLog> = (0..PARTITIONS).map(|_| MemLog::default()).collect();
        let (mut appliers, mut inputs) = (Vec::new(), Vec::new());
        for (id, log) in (0..PARTITIONS).map(PartitionId).zip(&logs) {
            let log: Arc<dyn PartitionLog> = Arc::new(log.clone());
            let sink = Arc::new(Sink::default());
            let applier = Applier::start(id, sink.clone(), Arc::clone(&log), None, runtime.handle().clone())
                .expect("a thread");
            let appender = Arc::new(LocalAppender::new(log, applier.verdicts()));
            inputs.push(PartitionInput { id, appender, holdings: sink });
            appliers.push(applier);
        }
        let target = TargetLabels::new(vec!["instance".to_owned(), "job".to_owned()]);
        let distributor = Distributor::start(
            DistributorConfig::default(),
            inputs,
            placement(Arc::new(SlotTable::build(PARTITIONS)), Arc::new(target)),
            SessionId { node: 1, incarnation: 1 },
            Arc::new(LimitsProvider::new(Default::default(), Default::default())),
            Arc::new(ManualClock::new(NOW_MS)),
        );
        drop(guard);
        Self { runtime, distributor, logs, _appliers: appliers }
    }

    fn write(&self, request: &WriteRequest) {
        let outcome = self
            .runtime
            .block_on(self.distributor.write(request.clone(), Held::unbounded()))
            .expect("the write is taken");
        assert_eq!(outcome.refused(), 0, "{:?}", outcome.refusals);
    }

    /// Frees what the log in memory holds.
    fn trim(&self) {
        for log in &self.logs {
            let trimmed = self.runtime.block_on(async { log.trim(log.committed().await?).await });
            trimmed.expect("a log in memory can be trimmed");
        }
    }
}

fn requests(version: remote_write::Protocol, protocol: Protocol) -> Vec<WriteRequest> {
    let plan = Plan {
        protocol: version,
        connections: 1,
        scrapes: 1,
        samples_per_request: SAMPLES_PER_REQUEST,
        start_ms: NOW_MS - 60_000,
        step_ms: 15_000,
    };
    let bodies = build(&mut Universe::new(SERIES, 1), &plan).into_iter().flatten();
    bodies
        .filter(|body: &Body| body.samples == SAMPLES_PER_REQUEST)
        .map(|body| WriteRequest {
            tenant: TenantId(1),
            tenant_name: "bench".into(),
            protocol,
            body: body.bytes.into(),
        })
        .collect()
}

fn decode<'a>(buffer: &'a mut BodyBuffer, block: &[u8]) -> &'a [u8] {
    buffer.decode(block, LIMIT, &mut Held::unbounded()).expect("a snappy block")
}

fn run(group: &mut BenchmarkGroup<'_, WallTime>, requests: &[WriteRequest], protocol: Protocol) {
    group.throughput(Throughput::Elements(SAMPLES_PER_REQUEST as u64));
    let mut turn = requests.iter().cycle();
    let mut next = || turn.next().expect("there are requests");
    let mut buffer = BodyBuffer::default();
    group.bench_function("snappy", |bencher| {
        bencher.iter(|| black_box(decode(&mut buffer, &next().body).len()));
    });
    let hashing = Hashing::new(7);
    let mut parsed = ParsedRequest::default();
    let decoded: Vec<Vec<u8>> = requests.iter().map(|r| decode(&mut buffer, &r.body).to_vec()).collect();
    let mut bodies = decoded.iter().cycle();
    group.bench_function("walk", |bencher| {
        bencher.iter(|| {
            let body = bodies.next().expect("there are bodies");
            parse(protocol, body, &hashing, 4 * LIMIT, Held::unbounded(), &mut parsed).expect("a message");
            black_box(parsed.series.len())
        });
    });
    let gateway = Gateway::start();
    requests.iter().for_each(|request| gateway.write(request));
    group.bench_function("rehearse", |bencher| {
        bencher.iter(|| black_box(gateway.distributor.rehearse(next()).expect("the request is good")));
    });
    let mut written = 0u64;
    group.bench_function("write", |bencher| {
        bencher.iter(|| {
            gateway.write(next());
            written += 1;
            if written.is_multiple_of(256) {
                gateway.trim();
            }
        });
    });
}

fn ingest(criterion: &mut Criterion) {
    for (name, version, protocol) in [
        ("ingest/rw1", remote_write::Protocol::V1, Protocol::RemoteWrite1),
        ("ingest/rw2", remote_write::Protocol::V2, Protocol::RemoteWrite2),
    ] {
        let requests = requests(version, protocol);
        let mut group = criterion.benchmark_group(name);
        run(&mut group, &requests, protocol);
        group.finish();
    }
}

criterion_group!(benches, ingest);
criterion_main!(benches);
