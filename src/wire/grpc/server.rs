//! The answering side of a stream.

use super::{MAX_MESSAGE, cluster_header, to_header};
use crate::Handler;
use crate::raft::raft_server::{Raft, RaftServer};
use crate::raft::{Answer, Refusal, Request, answer};
use quorate_model::NodeId;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Response, Status, Streaming};

/// Requests of one stream that are handled at the same time; further ones wait in the connection.
const AT_ONCE: usize = 512;

/// The service of `node`, which belongs to `cluster`.
pub fn service(node: NodeId, cluster: u128, handler: Arc<dyn Handler>) -> RaftServer<impl Raft> {
    RaftServer::new(Service { node, cluster: format!("{cluster:032x}"), handler })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
}

struct Service {
    node: NodeId,
    cluster: String,
    handler: Arc<dyn Handler>,
}

impl Service {
    /// Whether the stream is meant for this node of this cluster.
    fn check(&self, request: &tonic::Request<Streaming<Request>>) -> Result<(), Status> {
        let header =
            |key| request.metadata().get(key).and_then(|value| value.to_str().ok()).unwrap_or("none");
        let cluster = header(cluster_header());
        if cluster != self.cluster {
            let text = format!("this node is of cluster {}, not of {cluster}", self.cluster);
            return Err(Status::failed_precondition(text));
        }
        let to = header(to_header());
        if to != self.node.0.to_string() {
            return Err(Status::failed_precondition(format!("this is node {}, not {to}", self.node)));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Raft for Service {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

    async fn exchange(
        &self,
        request: tonic::Request<Streaming<Request>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        self.check(&request)?;
        let (answers, outgoing) = mpsc::channel(AT_ONCE);
        tokio::spawn(read(request.into_inner(), self.handler.clone(), answers));
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
