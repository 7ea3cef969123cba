//! Rates, numbers of series, sizes and memory: what is over a bound is refused, and nothing of it is kept.

use super::*;
use quorate_model::SystemClock;
use std::sync::atomic::AtomicU64;

/// A clock of which the monotonic time is set by hand as well.
struct HandClock {
    start: Instant,
    elapsed_ms: AtomicU64,
}

impl HandClock {
    fn new() -> Arc<Self> {
        Arc::new(Self { start: SystemClock.instant(), elapsed_ms: AtomicU64::new(0) })
    }

    fn advance(&self, ms: u64) {
        self.elapsed_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn now_ms(&self) -> i64 {
        NOW + self.elapsed_ms.load(Ordering::Relaxed) as i64
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_millis(self.elapsed_ms.load(Ordering::Relaxed))
    }

    fn since_boot(&self) -> Duration {
        SystemClock.since_boot()
    }
}

#[tokio::test]
async fn the_rate_is_limited_with_a_time_to_come_back() {
    let limits = Limits { ingestion_rate: 1.0, ingestion_burst_size: 2, ..Limits::default() };
    let rig = Setup { limits, ..Setup::default() }.start();
    let two = [up(&[], &[(NOW, 1.0), (NOW - 1, 1.0)])];
    assert_eq!(rig.write_series(&two).await.unwrap().samples, 2);
    let error = rig.write_series(&two).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::RateLimited);
    assert!(error.to_string().contains("err-mimir-tenant-max-ingestion-rate"), "{error}");
    assert!(error.retry_after().is_some_and(|wait| wait > Duration::ZERO && wait <= Duration::from_secs(2)));
    rig.stop().await;
}

#[tokio::test]
async fn who_is_patient_gets_more_than_the_burst_once_all_of_it_is_there() {
    let limits = Limits { ingestion_rate: 1.0, ingestion_burst_size: 2, ..Limits::default() };
    let rig = Setup { limits, ..Setup::default() }.start();
    let three = [up(&[], &[(NOW, 1.0), (NOW - 1, 1.0), (NOW - 2, 1.0)])];
    assert_eq!(rig.write_series(&three).await.unwrap_err().code(), ErrorCode::RateLimited);
    let request = request(RW1, &encoder::rw1(&three));
    let outcome = rig.distributor.write_patiently(request.clone(), Held::unbounded()).await.unwrap();
    assert_eq!(outcome.samples, 3);
    let error = rig.distributor.write_patiently(request, Held::unbounded()).await.unwrap_err();
    assert!(error.retry_after().is_some_and(|wait| wait > Duration::from_secs(2)), "{error:?}");
    rig.stop().await;
}

#[tokio::test]
async fn a_rate_without_a_burst_may_be_used_up_at_once() {
    let limits = Limits { ingestion_rate: 1.5, ..Limits::default() };
    let rig = Setup { limits, ..Setup::default() }.start();
    let two = [up(&[], &[(NOW, 1.0), (NOW - 1, 1.0)])];
    assert_eq!(rig.write_series(&two).await.unwrap().samples, 2);
    let error = rig.write_series(&two).await.unwrap_err().to_string();
    assert!(error.contains("1.5 items/s") && error.contains("burst of 2"), "{error}");
    rig.stop().await;
}

#[tokio::test]
async fn the_series_limit_holds_under_concurrent_requests() {
    let limits = Limits { max_global_series_per_user: 10, ..Limits::default() };
    let rig = Arc::new(Setup { limits, ..Setup::default() }.start());
    let writes: Vec<_> = (0..40)
        .map(|at| {
            let rig = Arc::clone(&rig);
            tokio::spawn(
                async move { rig.write_series(&[up(&[("i", &at.to_string())], &[(NOW, 1.0)])]).await },
            )
        })
        .collect();
    let mut refused = 0;
    for write in writes {
        refused += write.await.unwrap().unwrap().refused();
    }
    assert_eq!((rig.stored().len(), refused), (10, 30));
}

#[tokio::test]
async fn limits_of_what_is_stored_hold_in_a_session_that_knows_nothing_yet() {
    let limits =
        Limits { max_global_series_per_user: 2, max_global_metadata_per_user: 1, ..Limits::default() };
    let rig = Setup { limits, ..Setup::default() }.start();
    let series = |id: &'static str, ts_ms| up(&[("id", id)], &[(ts_ms, 1.0)]);
    let family = |name: &str, help: &str| encoder::rw1_metadata(1, name, help, "");
    rig.write_series(&[series("a", NOW), series("b", NOW)]).await.unwrap();
    rig.write(RW1, &family("a", "")).await.unwrap();
    rig.distributor.renew(SessionId { node: 1, incarnation: 2 }).await;
    let outcome = rig.write_series(&[series("c", NOW), series("a", NOW + 1)]).await.unwrap();
    assert_eq!((outcome.samples, outcome.refused(), outcome.refusals[0].id), (1, 1, refusal::SERIES_LIMIT));
    assert_eq!(rig.write_series(&[series("b", NOW + 1)]).await.unwrap().samples, 1);
    let outcome = rig.write(RW1, &[family("b", ""), family("a", "other")].concat()).await.unwrap();
    assert_eq!((outcome.refused(), outcome.refusals[0].id), (1, refusal::METADATA_LIMIT));
    assert_eq!(rig.targets[0].state().metadata.len(), 2);
    rig.stop().await;
}

#[tokio::test]
async fn series_of_which_nothing_is_stored_take_no_place_among_the_others() {
    let limits =
        Limits { max_global_series_per_user: 1, max_native_histogram_buckets: 1, ..Limits::default() };
    let rig = Setup { limits, ..Setup::default() }.start();
    let many_buckets = TestSeries {
        histograms: vec![integer_histogram(NOW, 3, 0, &[Span { offset: 0, length: 2 }], &[1, 1])],
        ..up(&[("h", "1")], &[])
    };
    let sent =
        [up(&[("old", "1")], &[(NOW - 16 * DAY, 1.0)]), up(&[("empty", "1")], &[]), many_buckets, good()];
    let outcome = rig.write_series(&sent).await.unwrap();
    let ids: Vec<_> = outcome.refusals.iter().map(|refusal| refusal.id).collect();
    assert_eq!((outcome.samples, ids), (1, vec![refusal::TOO_OLD, refusal::TOO_MANY_BUCKETS]));
    assert_eq!((rig.definitions(), rig.distributor.session().active_series(TenantId(1))), (1, 1));
    rig.stop().await;
}

#[tokio::test]
async fn a_part_that_no_record_holds_is_refused_before_anything_is_queued() {
    let mut setup = Setup::default();
    setup.config.max_record_bytes = 1_000;
    let rig = setup.start();
    let long = "v".repeat(1_000);
    let sent = [up(&[("p", "0")], &[(NOW, 1.0)]), up(&[("p", "1"), ("long", &long)], &[(NOW, 1.0)])];
    let error = rig.write_series(&sent).await.unwrap_err();
    assert_eq!((error.code(), error.retry_after()), (ErrorCode::TooLarge, None));
    assert!(error.to_string().contains("partition 1") && error.to_string().contains("1000"), "{error}");
    assert!(rig.logs.iter().all(|log| log.entries().is_empty()));
    assert_eq!(rig.write_series(&sent[..1]).await.unwrap().samples, 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_partition_with_too_many_late_samples_takes_no_more_until_they_are_written_out() {
    let rig = Setup::default().start();
    rig.targets[1].state().is_full = true;
    let sent = [up(&[("p", "0")], &[(NOW, 1.0)]), up(&[("p", "1")], &[(NOW, 1.0)])];
    let error = rig.write_series(&sent).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable);
    assert!(error.to_string().contains("partition 1") && rig.stored().is_empty(), "{error}");
    assert_eq!(rig.write_series(&sent[..1]).await.unwrap().samples, 1, "others go on");
    rig.targets[1].state().is_full = false;
    assert_eq!(rig.write_series(&sent).await.unwrap().samples, 2);
    rig.stop().await;
}

#[tokio::test]
async fn memory_of_a_large_request_is_not_kept() {
    let rig = Setup::default().start();
    let small = || {
        let spare = rig.distributor.inner.spare.lock();
        spare.iter().all(|work| work.rest.request.histograms.capacity() < 1_000)
    };
    let many = (0..100_000).fold(Message::default(), |message, _| message.bytes(4, b""));
    let body = Message::default().bytes(1, &many.0).0;
    assert!(rig.write(RW1, &body).await.unwrap().refused() > 0);
    assert!(small(), "what 100,000 empty histograms took was kept");
    assert_eq!(rig.write_series(&[good()]).await.unwrap().samples, 1);
    rig.stop().await;
}

#[tokio::test]
async fn requests_share_the_memory_of_the_node() {
    let rig = Setup::default().start();
    let node = InFlight::new(200_000);
    let mut other = node.enter();
    other.grow(199_999).unwrap();
    let body = encoder::rw1(&[good()]);
    let error = rig.distributor.write(request(RW1, &body), node.enter()).await.unwrap_err();
    assert_eq!((error.code(), error.retry_after()), (ErrorCode::Unavailable, Some(Duration::from_secs(1))));
    assert!(error.to_string().contains("200000 bytes"), "{error}");
    drop(other);
    assert_eq!(rig.distributor.write(request(RW1, &body), node.enter()).await.unwrap().samples, 1);
    assert_eq!(node.used(), 0, "given back");
    rig.stop().await;
}

#[tokio::test]
async fn labels_of_new_series_are_bounded_over_the_request() {
    let mut setup = Setup::default();
    setup.config.max_decoded_bytes = 4_000;
    let rig = setup.start();
    // A table of symbols lets a small body name large labels again and again.
    let long = "v".repeat(1_000);
    let sent: Vec<TestSeries> =
        (0..9).map(|at| up(&[("long", &long), ("i", &at.to_string())], &[(NOW, 1.0)])).collect();
    let error = rig.write(RW2, &encoder::rw2(&sent)).await.unwrap_err();
    assert_eq!((error.code(), error.clone()), (ErrorCode::TooLarge, WriteError::LabelBytes { limit: 4_000 }));
    assert!(rig.logs.iter().all(|log| log.entries().is_empty()));
    assert_eq!(rig.write(RW2, &encoder::rw2(&sent[..3])).await.unwrap().samples, 3);
    rig.stop().await;
}

#[tokio::test]
async fn of_a_rate_that_is_shared_only_a_part_is_granted_here() {
    let limits = Limits { ingestion_rate: 100.0, ingestion_burst_size: 100, ..Limits::default() };
    let clock = HandClock::new();
    let rig = Setup { limits, clock: clock.clone(), ..Setup::default() }.start();
    let ten = up(&[], &(0..10).map(|ago| (NOW - ago, 1.0)).collect::<Vec<_>>());
    // Offers 200 a second for ten seconds; returns what was taken.
    let offer = async || {
        let mut taken = 0;
        for turn in 1..=200 {
            clock.advance(50);
            match rig.write_series(std::slice::from_ref(&ten)).await {
                Ok(outcome) => taken += outcome.samples,
                Err(error) => {
                    assert!(error.to_string().contains("100 items/s"), "the whole limit is told: {error}");
                    assert!(error.retry_after().unwrap() <= Duration::from_secs(1), "{error}");
                }
            }
            if turn % 20 == 0 {
                rig.distributor.measure_offered(TenantId(1));
            }
        }
        taken
    };
    assert_eq!(rig.distributor.measure_offered(TenantId(1)), None, "it was never here");
    assert_eq!(offer().await, 1_090, "alone: all of it, and the burst");
    assert_eq!(rig.distributor.measure_offered(TenantId(1)), Some(0.0), "alone nothing is measured");
    rig.distributor.share_limits(4);
    assert!((240..=260).contains(&offer().await), "before anything is heard: a quarter");
    let own = rig.distributor.measure_offered(TenantId(1)).unwrap();
    assert!((190.0..=200.0).contains(&own), "{own}: what is refused is offered as well");
    let totals = |offered| ClusterTotals { offered, series: 0, nodes: 4 };
    rig.distributor.hear_totals(TenantId(1), totals(2.0 * own));
    assert!((490..=510).contains(&offer().await), "as much as the others");
    rig.distributor.hear_totals(TenantId(1), totals(own));
    assert!(offer().await >= 950, "nobody else is used");
    rig.distributor.hear_totals(TenantId(2), totals(own));
    rig.stop().await;
}

#[tokio::test]
async fn series_that_the_cluster_has_elsewhere_count() {
    let limits = Limits { max_global_series_per_user: 10, ..Limits::default() };
    let clock = HandClock::new();
    let rig = Setup { limits, clock: clock.clone(), ..Setup::default() }.start();
    let series = |id: &'static str| [up(&[("id", id)], &[(NOW, 1.0)])];
    assert_eq!(rig.write_series(&series("a")).await.unwrap().samples, 1);
    let totals = ClusterTotals { offered: 0.0, series: 10, nodes: 3 };
    rig.distributor.hear_totals(TenantId(1), totals);
    let outcome = rig.write_series(&series("b")).await.unwrap();
    assert_eq!((outcome.samples, outcome.refusals[0].id), (0, refusal::SERIES_LIMIT));
    assert_eq!(rig.write_series(&series("a")).await.unwrap().refused(), 0, "it is known");
    clock.advance(10_000);
    assert_eq!(rig.write_series(&series("b")).await.unwrap().samples, 1, "what was told is too old");
    rig.stop().await;
}
