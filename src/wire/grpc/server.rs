//! The answering side of Raft's streams.

use super::{Inbox, MAX_MESSAGE};
use crate::Handler;
use crate::raft::raft_server::{Raft, RaftServer};
use crate::raft::{Answer, Refusal, Request, answer};
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status, Streaming};

/// Requests of one stream that are handled at the same time; further ones wait in the connection.
const AT_ONCE: usize = 512;

/// The service of the node of `inbox`. Its streams end after `stop`: peers would hold them for ever.
pub(super) fn raft_service(inbox: Inbox, stop: CancellationToken) -> RaftServer<impl Raft> {
    RaftServer::new(Service { inbox, stop })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

struct Service {
    inbox: Inbox,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl Raft for Service {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

    async fn exchange(
        &self,
        request: tonic::Request<Streaming<Request>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        self.inbox.check(&request)?;
        let handler = self.inbox.raft()?;
        let (answers, outgoing) = mpsc::channel(AT_ONCE);
        let (requests, stop) = (request.into_inner(), self.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = read(requests, handler, answers) => {}
                // Requests that are being handled still get their answers.
                () = stop.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing).map(Ok))))
    }
}

/// Reads requests until the stream ends and answers each when it is done.
async fn read(mut requests: Streaming<Request>, handler: Arc<dyn Handler>, answers: mpsc::Sender<Answer>) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let request = tokio::select! {
            request = requests.message() => request,
            () = answers.closed() => return,
        };
        let Request { id, group, message } = match request {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(%status, "a peer's stream ended");
                return;
            }
        };
        let (handler, answers) = (handler.clone(), answers.clone());
        tokio::spawn(async move {
            let handled = match message {
                Some(message) => handler.handle(group, message).await,
                None => Err("a request without a message, or of a newer version".to_owned()),
            };
            let message = handled.unwrap_or_else(|reason| answer::Message::Refusal(Refusal { reason }));
            // A peer that is gone does not wait for its answer.
            answers.send(Answer { id, message: Some(message) }).await.ok();
            drop(permit);
        });
    }
}
