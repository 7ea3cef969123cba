//! The HTTP listener: accepts connections, bounds what they may send, and drains at the end.
//!
//! Knows hyper. Does not know routes. A client that closes its connection drops the handler's future, which
//! is how its query is stopped.

use crate::config::HttpConfig;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use metrics::gauge;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Number of headers that hyper parses without an allocation.
const DEFAULT_HEADER_COUNT: usize = 100;
/// Requests that one HTTP/2 connection may have open.
const MAX_STREAMS: u32 = 256;
/// How often a silent HTTP/2 connection is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// What an HTTP/2 connection begins with; anything else is HTTP/1. Source: RFC 9113, section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
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
    let shared = Arc::new(Shared {
        builder: builder(config),
        router,
        patience: config.header_timeout.into(),
        ending: CancellationToken::new(),
    });
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
                Ok((stream, slot)) => {
                    tokio::spawn(connection(shared.clone(), graceful.watcher(), stream, slot));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    shared.ending.cancel();
    let drained = tokio::time::timeout(config.drain_timeout.into(), graceful.shutdown()).await;
    if drained.is_err() {
        tracing::warn!("requests were still open after the drain time; they are dropped");
    }
    Ok(())
}

/// What every connection needs.
struct Shared {
    builder: Builder<TokioExecutor>,
    router: Router,
    /// Time for the first bytes.
    patience: Duration,
    /// The listener ends.
    ending: CancellationToken,
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
async fn connection(
    shared: Arc<Shared>,
    watcher: Watcher,
    mut stream: TcpStream,
    _slot: OwnedSemaphorePermit,
) {
    drop(stream.set_nodelay(true));
    gauge!("quorate_http_connections").increment(1.0);
    let mut first = [0; PREFACE.len()];
    let begun = tokio::select! {
        begun = tokio::time::timeout(shared.patience, first_bytes(&mut stream, &mut first)) => begun.unwrap_or(0),
        () = shared.ending.cancelled() => 0,
    };
    if begun > 0 {
        let (reader, writer) = stream.into_split();
        let stream = tokio::io::join(io::Cursor::new(first).take(begun as u64).chain(reader), writer);
        let service = TowerToHyperService::new(shared.router.clone());
        let connection = shared.builder.serve_connection(TokioIo::new(stream), service).into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "a connection ended early");
        }
    }
    gauge!("quorate_http_connections").decrement(1.0);
}

/// Reads until it is known which version of HTTP a connection speaks, and returns how many bytes that took; 0 if
/// it ended before. hyper would wait for them without a bound.
async fn first_bytes(stream: &mut TcpStream, first: &mut [u8; PREFACE.len()]) -> usize {
    let mut read = 0;
    while read < first.len() && PREFACE.starts_with(&first[..read]) {
        match stream.read(&mut first[read..]).await {
            Ok(bytes) if bytes > 0 => read += bytes,
            _ => return 0,
        }
    }
    read
}
