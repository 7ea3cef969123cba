//! The gRPC listener: the standard health service and nothing else.
//!
//! Knows `grpc.health.v1`. Serving means what `/-/ready` means: every partition has replayed its log.

use std::future::Future;
use std::io;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;

/// Answers until `stop` resolves, then lets open calls end.
///
/// # Errors
/// The reason, if the listener fails.
pub async fn serve(
    listener: TcpListener,
    mut ready: watch::Receiver<bool>,
    stop: impl Future<Output = ()>,
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
        .add_service(service)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop);
    tokio::select! {
        served = server => served.map_err(io::Error::other),
        () = report => Ok(()),
    }
}
