//! Connections: how one is made, and which ones calls use.
//!
//! Knows addresses and bounds of connections. Does not know calls.
//! K1: a connection is one TCP connection. It never connects again by itself: that is decided in [`super::line`].
//! K2: answers that may be large have a connection of their own to each peer, so that they delay nothing else.

use super::line::{Lines, Open};
use super::status::source_text;
use super::{Peers, Timing};
use hyper_util::rt::TokioIo;
use quorate_model::NodeId;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// Bytes that may be on their way in one stream, and over the whole connection.
#[derive(Clone, Copy)]
pub(super) struct Windows {
    pub(super) stream: u32,
    pub(super) connection: u32,
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Calls whose answers are small: writes, metadata, positions.
    Small,
    /// Calls whose answers may be large: series and samples.
    Large,
}

impl Lane {
    pub(super) fn windows(self) -> Windows {
        match self {
            Self::Small => Windows { stream: 1 << 20, connection: 16 << 20 },
            // Streams that nobody reads for a while hold their part of the connection's window: room for 32 of them.
            Self::Large => Windows { stream: 1 << 20, connection: 32 << 20 },
        }
    }
}

/// An open connection, until it is over.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) channel: Channel,
    over: Arc<AtomicBool>,
}

impl Connection {
    /// The connection has ended.
    pub(super) fn set_over(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl Open for Connection {
    fn is_open(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }
}

/// Connects to `address`, `host:port`. The caller bounds the time.
pub(super) async fn connect(address: &str, timing: &Timing, windows: Windows) -> Result<Connection, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())?;
    let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let mut stream = Some(stream);
    let once = tower::service_fn(move |_uri: Uri| {
        let stream = stream.take().ok_or_else(|| io::Error::other("the connection broke"));
        std::future::ready(stream.map(TokioIo::new))
    });
    let channel = endpoint
        .http2_keep_alive_interval(timing.keepalive)
        .keep_alive_timeout(timing.keepalive_timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .connect_with_connector(once)
        .await
        .map_err(|error| source_text(&error))?;
    Ok(Connection { channel, over: Arc::default() })
}

/// The connections of a node to its peers.
pub(super) struct Channels {
    peers: Peers,
    pub(super) timing: Timing,
    lines: Lines<(NodeId, Lane), Connection>,
}

impl Channels {
    pub(super) fn new(peers: Peers, timing: Timing) -> Self {
        Self { peers, timing, lines: Lines::default() }
    }

    /// The open connection to `to`, opened if there is none.
    pub(super) async fn get(&self, to: NodeId, lane: Lane) -> Result<Connection, String> {
        let address = self.peers.get(to).ok_or("its address is not known")?;
        let (there, timing) = (address.clone(), self.timing.clone());
        let open = || async move { connect(&there, &timing, lane.windows()).await };
        self.lines.get((to, lane), address, &self.timing, open).await
    }
}
