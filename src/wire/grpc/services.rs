//! The answering side of calls: headers are checked, then the desk is asked.
//!
//! Knows bounds of messages. Does not know handlers.

use super::status::declined;
use super::{Inbox, MAX_FRAME, MAX_MESSAGE, MAX_META};
use crate::desk::Declined;
use crate::meta::meta_server::{Meta, MetaServer};
use crate::store::store_server::{Store, StoreServer};
use crate::write::write_server::{Write, WriteServer};
use crate::{meta, store, write};
use std::pin::Pin;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

pub(super) fn meta_service(inbox: Inbox) -> MetaServer<impl Meta> {
    MetaServer::new(Answering(inbox)).max_decoding_message_size(MAX_META).max_encoding_message_size(MAX_META)
}

pub(super) fn write_service(inbox: Inbox) -> WriteServer<impl Write> {
    let service = WriteServer::new(Answering(inbox));
    service.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
}

pub(super) fn store_service(inbox: Inbox) -> StoreServer<impl Store> {
    let service = StoreServer::new(Answering(inbox));
    service.max_decoding_message_size(MAX_FRAME).max_encoding_message_size(MAX_FRAME)
}

struct Answering(Inbox);

impl Answering {
    /// The message of a call that is meant for this node.
    fn checked<Q>(&self, request: Request<Q>) -> Result<Q, Status> {
        self.0.check(&request)?;
        Ok(request.into_inner())
    }
}

fn answer<A>(answered: Result<A, Declined>) -> Result<Response<A>, Status> {
    answered.map(Response::new).map_err(declined)
}

fn stream(answered: Result<mpsc::Receiver<store::Frame>, Declined>) -> Result<Response<Frames>, Status> {
    answer(answered.map(|frames| Box::pin(ReceiverStream::new(frames).map(Ok)) as Frames))
}

type Frames = Pin<Box<dyn Stream<Item = Result<store::Frame, Status>> + Send>>;

#[tonic::async_trait]
impl Meta for Answering {
    async fn hello(
        &self,
        request: Request<meta::HelloRequest>,
    ) -> Result<Response<meta::HelloAnswer>, Status> {
        self.0.check_from(&request, &request.get_ref().name)?;
        answer(self.0.desk().hello(request.into_inner()).await)
    }

    async fn join(&self, request: Request<meta::JoinRequest>) -> Result<Response<meta::JoinAnswer>, Status> {
        self.0.check_from(&request, &request.get_ref().name)?;
        answer(self.0.desk().join(request.into_inner()).await)
    }

    async fn propose(
        &self,
        request: Request<meta::Proposal>,
    ) -> Result<Response<meta::ProposalAnswer>, Status> {
        answer(self.0.desk().propose(self.checked(request)?).await)
    }

    async fn consult(&self, request: Request<meta::Question>) -> Result<Response<meta::Answer>, Status> {
        answer(self.0.desk().consult(self.checked(request)?).await)
    }
}

#[tonic::async_trait]
impl Write for Answering {
    async fn append(
        &self,
        request: Request<write::AppendRequest>,
    ) -> Result<Response<write::AppendAnswer>, Status> {
        answer(self.0.desk().append(self.checked(request)?).await)
    }
}

#[tonic::async_trait]
impl Store for Answering {
    type SelectStream = Frames;
    type ListStream = Frames;

    async fn read_index(
        &self,
        request: Request<store::ReadIndexRequest>,
    ) -> Result<Response<store::ReadIndexAnswer>, Status> {
        answer(self.0.desk().read_index(self.checked(request)?).await)
    }

    async fn select(&self, request: Request<store::SelectRequest>) -> Result<Response<Frames>, Status> {
        stream(self.0.desk().select(self.checked(request)?).await)
    }

    async fn list(&self, request: Request<store::ListRequest>) -> Result<Response<Frames>, Status> {
        stream(self.0.desk().list(self.checked(request)?).await)
    }
}
