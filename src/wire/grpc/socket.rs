//! Connections as the listener takes them and as a node opens them: with TLS or without.
//!
//! Knows sockets and bounds of handshakes. Does not know what is said over them.
//! S1: a connection that does not come to its end of the handshake costs a bounded time and place.
//! S2: a peer that does not take what is sent is given up by the kernel: no connection hangs half open for ever.

use super::tls::{PeerCertificate, Tls};
use futures::{Stream, StreamExt};
use rustix::net::sockopt::set_tcp_user_timeout;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsStream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::server::Connected;

/// Handshakes at the same time; further connections wait for their turn.
const HANDSHAKES: usize = 128;
/// Longest time for one, from the connection on.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a connection that could not be accepted, as when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes that were sent and are not acknowledged for so long end a connection, milliseconds.
const UNACKNOWLEDGED_MS: u32 = 10_000;

/// An open connection.
pub(super) enum Socket {
    /// Without TLS.
    Plain(TcpStream),
    /// With it, and with both certificates checked.
    Secured(Box<TlsStream<TcpStream>>),
}

/// What the listener knows of who is calling.
#[derive(Clone)]
pub(super) struct Caller {
    /// What it has shown; `None` without TLS.
    pub(super) certificate: Option<PeerCertificate>,
}

impl Socket {
    /// What the other side has shown; `None` without TLS.
    pub(super) fn certificate(&self) -> Option<PeerCertificate> {
        match self {
            Self::Plain(_) => None,
            Self::Secured(stream) => {
                let shown = stream.get_ref().1.peer_certificates()?.first()?;
                Some(PeerCertificate(shown.clone().into_owned()))
            }
        }
    }
}

impl Connected for Socket {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        Caller { certificate: self.certificate() }
    }
}

/// Sets what every connection between nodes has.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    Ok(set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS)?)
}

/// The connections of a listener, after their handshakes. One that fails is told in the log and left out.
pub(super) fn accepted(
    listener: TcpListener,
    tls: Option<Tls>,
) -> impl Stream<Item = io::Result<Socket>> + Send {
    let settled = TcpListenerStream::new(listener).map(move |accepted| settle(accepted, tls.clone()));
    settled.buffer_unordered(HANDSHAKES).filter_map(|settled| std::future::ready(settled.map(Ok)))
}

async fn settle(accepted: io::Result<TcpStream>, tls: Option<Tls>) -> Option<Socket> {
    let stream = match accepted {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "a connection was not accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            return None;
        }
    };
    if let Err(error) = prepare(&stream) {
        tracing::debug!(%error, "a connection was over before it began");
        return None;
    }
    let Some(tls) = tls else { return Some(Socket::Plain(stream)) };
    let place = stream.peer_addr().map_or_else(|e| e.to_string(), |address| address.ip().to_string());
    let answered = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.answer(stream)).await;
    match answered.unwrap_or_else(|_late| Err("its handshake took too long".to_owned())) {
        Ok(socket) => Some(socket),
        Err(reason) => {
            tls.tell(&place, &reason);
            None
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Secured(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Secured(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, parts),
            Self::Secured(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Secured(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Secured(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Secured(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
