//! Frames of an answer on their way from a connection to whoever asked.
//!
//! R1: frames come in order, and the last one has an end or is an error: an answer never ends in silence.
//! R2: at most [`QUEUED_FRAMES`] wait for the reader, and the connection waits with them.
//! R3: a reader that is gone ends the stream at once, and so does the deadline.

use crate::store::Frame;
use crate::store::frame::Content;
use crate::{Frames, QUEUED_FRAMES, TransportError};
use futures::{Stream, StreamExt};
use quorate_model::NodeId;
use std::pin::pin;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The frames that `from` sends in `stream` until `deadline`. Dropping them drops the stream.
pub(crate) fn relay(
    from: NodeId,
    stream: impl Stream<Item = Result<Frame, TransportError>> + Send + 'static,
    deadline: Instant,
) -> Frames {
    let (out, frames) = mpsc::channel(QUEUED_FRAMES);
    tokio::spawn(async move {
        let ended = tokio::select! {
            () = out.closed() => return,
            ended = forward(from, stream, &out) => ended,
            () = tokio::time::sleep_until(deadline) => Err(no_answer(from, "the time of the answer is over")),
        };
        // The stream is gone by now, so that the peer does not work while the reader gets to this error.
        if let Err(error) = ended {
            out.send(Err(error)).await.ok();
        }
    });
    frames
}

/// Hands frames on until the one that has an end, or until nobody reads them.
async fn forward(
    from: NodeId,
    stream: impl Stream<Item = Result<Frame, TransportError>>,
    out: &mpsc::Sender<Result<Frame, TransportError>>,
) -> Result<(), TransportError> {
    let mut stream = pin!(stream);
    while let Some(frame) = stream.next().await {
        let frame = frame?;
        let is_last = matches!(frame.content, Some(Content::End(_)));
        if out.send(Ok(frame)).await.is_err() || is_last {
            return Ok(());
        }
    }
    Err(no_answer(from, "the answer broke off"))
}

fn no_answer(to: NodeId, reason: &str) -> TransportError {
    TransportError::NoAnswer { to, reason: reason.to_owned() }
}
