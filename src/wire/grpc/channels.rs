//! Connections: how one is made, and which ones calls use.
//!
//! Knows addresses and bounds of connections. Does not know calls.
//! K1: a connection is one TCP connection. It never connects again by itself: that is decided in [`super::line`].
//! K2: answers that may be large have a connection of their own to each peer, so that they delay nothing else.

use super::line::{Lines, Open};
use super::socket::{Socket, prepare};
use super::status::source_text;
use super::tls::{NoTls, PeerCertificate, Tls};
use super::{Peers, Timing};
use hyper_util::rt::TokioIo;
use quorate_model::NodeId;
use std::fmt;
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

/// Who is to be reached, and where.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// `host:port`.
    pub(super) address: String,
    /// Name of the node that must be there; `None` if it is not known yet.
    pub(super) name: Option<String>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name} at {}", self.address),
            None => f.write_str(&self.address),
        }
    }
}

/// An open connection, until it is over.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) channel: Channel,
    /// What the other side has shown; `None` without TLS.
    pub(super) certificate: Option<PeerCertificate>,
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

/// Connects to `target`, with TLS if there is any. The caller bounds the time.
pub(super) async fn connect(
    target: &Target,
    timing: &Timing,
    windows: Windows,
    tls: Option<&Tls>,
) -> Result<Connection, String> {
    let stream = tcp(&target.address).await?;
    let socket = match tls {
        Some(tls) => {
            let told = |reason: &String| tls.tell(&target.to_string(), reason);
            secured(stream, target, tls).await.inspect_err(told)?
        }
        None => Socket::Plain(stream),
    };
    let certificate = socket.certificate();
    let mut socket = Some(socket);
    let once = tower::service_fn(move |_uri: Uri| {
        let socket = socket.take().ok_or_else(|| io::Error::other("the connection broke"));
        std::future::ready(socket.map(TokioIo::new))
    });
    let endpoint = Endpoint::from_shared(format!("http://{}", target.address)).map_err(|e| e.to_string())?;
    let channel = endpoint
        .http2_keep_alive_interval(timing.keepalive)
        .keep_alive_timeout(timing.keepalive_timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(windows.stream)
        .initial_connection_window_size(windows.connection)
        .connect_with_connector(once)
        .await
        .map_err(|error| source_text(&error))?;
    Ok(Connection { channel, certificate, over: Arc::default() })
}

async fn tcp(address: &str) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    prepare(&stream).map_err(|e| e.to_string())?;
    Ok(stream)
}

/// A connection with TLS to the node that `target` names.
async fn secured(stream: TcpStream, target: &Target, tls: &Tls) -> Result<Socket, String> {
    let socket = match tls.dial(stream).await {
        Ok(socket) => socket,
        Err(NoTls::Failed(reason)) => return Err(reason),
        Err(NoTls::Plain(reason)) if tls.is_required() => return Err(reason),
        Err(NoTls::Plain(_)) => return Ok(Socket::Plain(tcp(&target.address).await?)),
    };
    let is_other = |name: &String| socket.certificate().is_some_and(|shown| !shown.is_for(name));
    match target.name.as_ref().filter(|name| is_other(name)) {
        Some(name) => Err(format!("who answers there has no certificate of node {name}")),
        None => Ok(socket),
    }
}

/// The connections of a node to its peers.
pub(super) struct Channels {
    peers: Peers,
    pub(super) timing: Timing,
    pub(super) tls: Option<Tls>,
    lines: Lines<(NodeId, Lane), Connection>,
}

impl Channels {
    pub(super) fn new(peers: Peers, timing: Timing) -> Self {
        Self { peers, timing, tls: None, lines: Lines::default() }
    }

    /// The open connection to `to`, opened if there is none.
    pub(super) async fn get(&self, to: NodeId, lane: Lane) -> Result<Connection, String> {
        let target = self.peers.target(to).ok_or("its address is not known")?;
        let (there, timing, tls) = (target.clone(), self.timing.clone(), self.tls.clone());
        let open = || async move { connect(&there, &timing, lane.windows(), tls.as_ref()).await };
        self.lines.get((to, lane), target.to_string(), &self.timing, open).await
    }
}
