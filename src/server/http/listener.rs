//! The HTTP listener: accepts connections, bounds what they may send, and drains at the end.
//!
//! Knows hyper. Does not know routes. A client that closes its connection drops the handler's future, which
//! is how its query is stopped.

use crate::config::HttpConfig;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use metrics::gauge;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Number of headers that hyper parses without an allocation.
const DEFAULT_HEADER_COUNT: usize = 100;
/// Requests that one HTTP/2 connection may have open.
const MAX_STREAMS: u32 = 256;
/// How often a silent HTTP/2 connection is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Pause after the system refused a connection, as it does when it has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `router` until `stop` resolves, then waits for open requests within the drain time.
///
/// # Errors
/// None so far: a connection that cannot be accepted is logged and the listener goes on.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    config: &HttpConfig,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let builder = Arc::new(builder(config));
    let slots = Arc::new(Semaphore::new(config.max_connections));
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|(stream, _)| (stream, slot))
        };
        tokio::select! {
            () = &mut stop => break,
            accepted = accepted => match accepted {
                Ok((stream, slot)) => connection(&builder, &graceful, stream, router.clone(), slot),
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(config.drain_timeout.into(), graceful.shutdown()).await;
    if drained.is_err() {
        tracing::warn!("requests were still open after the drain time; they are dropped");
    }
    Ok(())
}

fn builder(config: &HttpConfig) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    let max_header = config.max_header.as_usize();
    let mut http1 = builder.http1();
    http1
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from(config.header_timeout))
        .max_buf_size(max_header);
    if config.max_header_count != DEFAULT_HEADER_COUNT {
        http1.max_headers(config.max_header_count);
    }
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(max_header).unwrap_or(u32::MAX))
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEP_ALIVE);
    builder
}

/// Serves one connection on a task of its own; the slot is free again when it ends.
fn connection(
    builder: &Arc<Builder<TokioExecutor>>,
    graceful: &GracefulShutdown,
    stream: TcpStream,
    router: Router,
    slot: OwnedSemaphorePermit,
) {
    drop(stream.set_nodelay(true));
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        gauge!("quorate_http_connections").increment(1.0);
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended early");
        }
        gauge!("quorate_http_connections").decrement(1.0);
        drop(slot);
    });
}
