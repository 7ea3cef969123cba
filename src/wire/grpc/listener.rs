//! The gRPC listener: the services of peers, and the standard health service.
//!
//! Knows which services there are. A call that watches never ends by itself, and a connection may say nothing for
//! ever: both end with the drain time at the latest. Serving means what `/-/ready` means: every partition has replayed
//! its log.

use super::server::raft_service;
use super::services::{meta_service, store_service, write_service};
use super::socket::accepted;
use super::tls::Tls;
use super::{CONNECTION_WINDOW, Inbox, STREAM_WINDOW};
use std::io;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;

/// How often a silent connection is asked whether it lives, and how long it may think about it.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Calls of one connection that are handled at the same time; further ones wait with the peer.
const STREAMS: u32 = 1_024;

/// Answers until `stop` with what is in `inbox`, over TLS if there is any, then lets open calls end for `drain` at most and empties it.
///
/// # Errors
/// The reason, if the listener fails.
pub async fn serve(
    listener: TcpListener,
    inbox: Inbox,
    tls: Option<Tls>,
    mut ready: watch::Receiver<bool>,
    drain: Duration,
    stop: CancellationToken,
) -> io::Result<()> {
    let (reporter, service) = health_reporter();
    let report = async move {
        loop {
            let status =
                if *ready.borrow_and_update() { ServingStatus::Serving } else { ServingStatus::NotServing };
            reporter.set_service_status("", status).await;
            if ready.changed().await.is_err() {
                // The node is gone, and this task with it.
                std::future::pending::<()>().await;
            }
        }
    };
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_service(service)
        .add_service(raft_service(inbox.clone(), stop.clone()))
        .add_service(meta_service(inbox.clone()))
        .add_service(write_service(inbox.clone()))
        .add_service(store_service(inbox.clone()))
        .serve_with_incoming_shutdown(accepted(listener, tls), stop.clone().cancelled_owned());
    let overdue = async move {
        stop.cancelled().await;
        tokio::time::sleep(drain).await;
    };
    let ended = tokio::select! {
        served = server => served.map_err(io::Error::other),
        () = report => Ok(()),
        () = overdue => {
            tracing::warn!("gRPC connections were still open after the drain time; they are dropped");
            Ok(())
        }
    };
    inbox.close();
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn a_connection_that_says_nothing_does_not_hold_up_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_ready, readiness) = watch::channel(true);
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(
            listener,
            Inbox::default(),
            None,
            readiness,
            Duration::from_millis(50),
            stop.clone(),
        ));
        let silent = TcpStream::connect(address).await.unwrap();
        stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(20), served).await;
        ended.expect("it ends within its drain time").unwrap().unwrap();
        drop(silent);
    }
}
