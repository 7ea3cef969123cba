//! The gRPC listener: the standard health service and nothing else.
//!
//! Knows `grpc.health.v1`. A call that watches never ends by itself, and a connection may say nothing for ever:
//! both end with the drain time at the latest. Serving means what `/-/ready` means: every partition has replayed its log.

use std::io;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;

/// How often a silent connection is asked whether it lives, and how long it may think about it.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Answers until `stop`, then lets open calls end for `drain` at most.
///
/// # Errors
/// The reason, if the listener fails.
pub async fn serve(
    listener: TcpListener,
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
        .add_service(service)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.clone().cancelled_owned());
    let overdue = async move {
        stop.cancelled().await;
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        served = server => served.map_err(io::Error::other),
        () = report => Ok(()),
        () = overdue => {
            tracing::warn!("gRPC connections were still open after the drain time; they are dropped");
            Ok(())
        }
    }
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
        let served = tokio::spawn(serve(listener, readiness, Duration::from_millis(50), stop.clone()));
        let silent = TcpStream::connect(address).await.unwrap();
        stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(20), served).await;
        ended.expect("it ends within its drain time").unwrap().unwrap();
        drop(silent);
    }
}
