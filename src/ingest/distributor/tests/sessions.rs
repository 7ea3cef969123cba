//! Sessions: series are defined until that is committed, and anew in the next session.

use super::*;
use quorate_model::SystemClock;

#[tokio::test]
async fn definitions_are_repeated_until_one_is_committed() {
    let rig = Setup::default().start();
    for fault in [Fault::Unavailable, Fault::LostEntry] {
        rig.logs[0].fail_next(fault);
        let code = rig.write_series(&[good()]).await.unwrap_err().code();
        let expected =
            if fault == Fault::Unavailable { ErrorCode::Unavailable } else { ErrorCode::Indeterminate };
        assert_eq!(code, expected);
    }
    assert_eq!(rig.write_series(&[good()]).await.unwrap().samples, 1);
    assert_eq!(rig.write_series(&[good()]).await.unwrap().samples, 1);
    assert_eq!(rig.definitions(), 1, "one came through, then it was known");
    rig.stop().await;
}

#[tokio::test]
async fn another_session_defines_everything_again() {
    let rig = Setup::default().start();
    rig.write_series(&[good()]).await.unwrap();
    rig.distributor.renew(SessionId { node: 1, incarnation: 2 }).await;
    assert_eq!(rig.write_series(&[good()]).await.unwrap().samples, 1);
    assert_eq!(rig.definitions(), 2);
    rig.stop().await;
}

#[tokio::test]
async fn a_write_of_a_session_that_is_over_is_no_success() {
    let rig = Setup::default().start();
    rig.logs[0].append(crate::testing::next_session().into()).await.unwrap();
    let error = rig.write_series(&[good()]).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Indeterminate, "{error}");
    assert!(rig.stored().is_empty());
    rig.distributor.renew(SessionId { node: 1, incarnation: 3 }).await;
    assert_eq!(rig.write_series(&[good()]).await.unwrap().samples, 1);
    rig.stop().await;
}

#[tokio::test]
async fn another_session_waits_for_a_write_that_is_being_read() {
    let rig = Setup::default().start();
    let sent: Vec<TestSeries> = (0..9_000).map(|at| up(&[("i", &noise(at))], &[(NOW, 1.0)])).collect();
    let request = request(RW1, &encoder::rw1(&sent));
    assert!(request.body.len() > INLINE_BODY);
    // Whoever reads a request takes a work area first: here it waits for one.
    let inner = Arc::clone(&rig.distributor.inner);
    let (locked, is_locked) = oneshot::channel();
    let (release, released) = std::sync::mpsc::channel();
    let holder = std::thread::spawn(move || {
        let areas = inner.spare.lock();
        locked.send(()).unwrap();
        released.recv().unwrap();
        drop(areas);
    });
    is_locked.await.unwrap();
    let written = {
        let write = rig.distributor.write(request, Held::unbounded());
        tokio::pin!(write);
        assert!(futures::poll!(write.as_mut()).is_pending());
        let renewed = rig.distributor.renew(SessionId { node: 1, incarnation: 2 });
        tokio::pin!(renewed);
        for _ in 0..100 {
            assert!(
                futures::poll!(renewed.as_mut()).is_pending(),
                "a write is on its way to the old session"
            );
            tokio::task::yield_now().await;
        }
        release.send(()).unwrap();
        tokio::join!(write, renewed).0
    };
    assert_eq!(written.unwrap().samples, 9_000);
    holder.join().unwrap();
    assert_eq!(rig.write_series(&[good()]).await.unwrap().samples, 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_session_that_is_opened_at_the_end_does_not_open_the_door_again() {
    let rig = Setup::default().start();
    tokio::join!(rig.distributor.renew(SessionId { node: 1, incarnation: 2 }), rig.distributor.close());
    assert!(matches!(rig.write_series(&[good()]).await, Err(WriteError::Draining)));
    rig.distributor.renew(SessionId { node: 1, incarnation: 3 }).await;
    assert!(matches!(rig.write_series(&[good()]).await, Err(WriteError::Draining)));
    rig.stop().await;
}

/// Wall time that is set, with monotonic time that follows it or, as in a suspended machine, does not.
struct WallClock {
    wall: ManualClock,
    start: Instant,
    is_suspended: bool,
}

impl Clock for WallClock {
    fn now_ms(&self) -> i64 {
        self.wall.now_ms()
    }

    fn instant(&self) -> Instant {
        let passed = if self.is_suspended { 0 } else { self.wall.now_ms() - NOW };
        self.start + Duration::from_millis(passed as u64)
    }

    fn since_boot(&self) -> Duration {
        Duration::from_millis((self.wall.now_ms() - NOW) as u64)
    }
}

/// A replica may have forgotten a session from which nothing came for a day, so a gateway that wakes after half of one
/// does not go on with its own.
#[tokio::test]
async fn a_session_ends_when_its_gateway_was_silent_for_half_a_day() {
    let hour_ms = 3_600_000;
    for is_suspended in [true, false] {
        let clock =
            Arc::new(WallClock { wall: ManualClock::new(NOW), start: SystemClock.instant(), is_suspended });
        let rig = Setup { clock: clock.clone(), ..Setup::default() }.start();
        let at = |hours: i64, partition: &str| [up(&[("p", partition)], &[(NOW + hours * hour_ms, 1.0)])];
        clock.wall.set(NOW + hour_ms);
        rig.write_series(&at(0, "0")).await.unwrap();
        clock.wall.set(NOW + 12 * hour_ms);
        rig.write_series(&at(1, "0")).await.unwrap();
        let session = rig.distributor.session();
        assert!(!session.is_worn());
        let idle_after = |hours: u64| session.is_idle(Duration::from_secs(hours * 3_600));
        assert_eq!([17, 18, 19].map(idle_after), [false, false, true], "6 hours after the last write");
        // Nothing of it ever came to the other partition, which knows nothing that it could forget.
        clock.wall.set(NOW + 25 * hour_ms);
        rig.write_series(&at(2, "1")).await.unwrap();
        let refused = rig.write_series(&at(2, "0")).await.unwrap_err();
        assert_eq!((&refused, refused.code()), (&WriteError::SessionUsedUp, ErrorCode::Unavailable));
        assert!(rig.distributor.session().is_worn(), "another one is to be opened");
        rig.distributor.renew(SessionId { node: 1, incarnation: 2 }).await;
        rig.write_series(&at(2, "0")).await.unwrap();
        assert_eq!(rig.stored().len(), 4);
        rig.stop().await;
    }
}

/// A topic may have deleted what a session defined before any replica had it; then its gateway was refused for longer than
/// this.
#[tokio::test]
async fn a_session_ends_earlier_where_the_log_keeps_its_definitions_for_less() {
    let wall = ManualClock::new(NOW);
    let clock = Arc::new(WallClock { wall, start: SystemClock.instant(), is_suspended: false });
    let usual = Setup::default();
    let config = DistributorConfig { longest_silence: Duration::from_secs(1_800), ..usual.config.clone() };
    let rig = Setup { config, clock: clock.clone(), ..usual }.start();
    let at = |minute: i64| [up(&[("p", "0")], &[(NOW + minute * 60_000, 1.0)])];
    for minute in [1, 31] {
        clock.wall.set(NOW + minute * 60_000);
        rig.write_series(&at(minute)).await.unwrap();
    }
    clock.wall.set(NOW + 62 * 60_000);
    assert_eq!(rig.write_series(&at(32)).await.unwrap_err(), WriteError::SessionUsedUp);
    rig.stop().await;
}

/// Records are read by every node of the cluster, whatever version it has.
#[tokio::test]
async fn values_are_packed_once_every_node_reads_that() {
    let rig = Setup::default().start();
    let mut lengths = Vec::new();
    for turn in 0..2i64 {
        for sample in 0..2i64 {
            let series = up(&[("p", "0")], &[(NOW - 2_000 + 1_000 * (2 * turn + sample), 7.0)]);
            rig.write_series(&[series]).await.unwrap();
        }
        lengths.push(rig.logs[0].entries().last().map(|entry| entry.payload.len()));
        rig.distributor.pack_values();
    }
    let [Some(raw), Some(packed)] = lengths[..] else { panic!("{lengths:?}") };
    assert_eq!(raw - packed, 8 - 2, "a code and a byte instead of eight");
    rig.stop().await;
}

/// A gateway that wakes after eight hours, which is once around its cache's coarse clock, writes the series that it
/// knew: each sample is under its own labels, whether its cache has forgotten it or not.
#[tokio::test]
async fn suspend_8h_then_write() {
    let series_of = |ids: std::ops::Range<i64>, ts_ms: i64| -> Vec<TestSeries> {
        ids.map(|id| {
            up(&[("id", &id.to_string()), ("p", ["0", "1"][id as usize % 2])], &[(ts_ms, id as f64)])
        })
        .collect()
    };
    for is_suspended in [true, false] {
        for hours in [1, 7, 8, 9] {
            for forgets in [false, true] {
                let clock = Arc::new(WallClock {
                    wall: ManualClock::new(NOW),
                    start: SystemClock.instant(),
                    is_suspended,
                });
                let rig = Setup { clock: clock.clone(), ..Setup::default() }.start();
                assert_eq!(rig.write_series(&series_of(0..100, NOW)).await.unwrap().samples, 100);
                let later = NOW + hours * 3_600_000;
                clock.wall.set(later);
                if forgets {
                    rig.distributor.forget_idle();
                }
                // New series come first: they must not get what the known ones have.
                assert_eq!(rig.write_series(&series_of(100..200, later)).await.unwrap().samples, 100);
                assert_eq!(rig.write_series(&series_of(0..100, later)).await.unwrap().samples, 100);
                rig.distributor.forget_idle();
                assert_eq!(rig.write_series(&series_of(0..200, later + 1)).await.unwrap().samples, 200);
                let stored = rig.stored();
                assert_eq!(stored.len(), 500);
                for ((_, labels, _), bits) in stored {
                    assert_eq!(labels.get("id"), Some(f64::from_bits(bits).to_string().as_str()));
                }
                rig.stop().await;
            }
        }
    }
}
