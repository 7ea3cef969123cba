//! Sessions: series are defined until that is committed, and anew in the next session.

use super::*;

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
