//! The transport over gRPC: one stream from each node to each peer for the requests of all groups.
//!
//! Knows addresses, connections and time limits. Does not know groups or what messages mean.
//! G1: nothing waits for ever: connecting, each call and a silent connection have their bounds.
//! G2: a peer that is down costs one attempt each [`Timing::pause`], however many calls there are.

mod client;
mod listener;
mod server;

pub use client::{Grpc, Peers, Timing};
pub use listener::serve;
pub use server::service;

use tonic::metadata::{Ascii, MetadataKey};

/// Bytes of a message: more than the largest entry of a log.
const MAX_MESSAGE: usize = 80 << 20;
/// Bytes that may be on their way in one stream, and over one connection.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

fn cluster_header() -> MetadataKey<Ascii> {
    MetadataKey::from_static("quorate-cluster")
}

fn to_header() -> MetadataKey<Ascii> {
    MetadataKey::from_static("quorate-to")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{Place, check_transport};
    use crate::{Handler, Transport, TransportError, raft};
    use async_trait::async_trait;
    use quorate_model::NodeId;
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::net::TcpListener;
    use tokio::runtime::Runtime;
    use tokio::sync::oneshot;
    use tokio_stream::wrappers::TcpListenerStream;

    const CLUSTER: u128 = 7;

    /// Each node has a runtime of its own, so that its connections end with it as they do with a process.
    #[derive(Default)]
    struct Sockets {
        peers: Peers,
        addresses: BTreeMap<NodeId, SocketAddr>,
        running: BTreeMap<NodeId, Runtime>,
    }

    impl Drop for Sockets {
        fn drop(&mut self) {
            std::mem::take(&mut self.running).into_values().for_each(Runtime::shutdown_background);
        }
    }

    #[async_trait]
    impl Place for Sockets {
        async fn start(&mut self, node: NodeId, handler: Arc<dyn Handler>) {
            let wanted = self.addresses.get(&node).copied().unwrap_or(([127, 0, 0, 1], 0).into());
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let (bound, address) = oneshot::channel();
            runtime.spawn(async move {
                let listener = TcpListener::bind(wanted).await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                let server = tonic::transport::Server::builder().add_service(service(node, CLUSTER, handler));
                server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
            });
            let address = address.await.unwrap();
            self.addresses.insert(node, address);
            self.peers.set(node, address.to_string());
            self.running.insert(node, runtime);
        }

        async fn stop(&mut self, node: NodeId) {
            self.running.remove(&node).unwrap().shutdown_background();
        }

        fn transport(&self) -> Arc<dyn Transport> {
            Arc::new(Grpc::new(CLUSTER, self.peers.clone(), timing()))
        }
    }

    fn timing() -> Timing {
        Timing { pause: Duration::from_millis(20), ..Timing::default() }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_keeps_the_contract() {
        check_transport(Sockets::default).await;
    }

    struct Never;

    #[async_trait]
    impl Handler for Never {
        async fn handle(
            &self,
            _group: u64,
            _request: raft::request::Message,
        ) -> Result<raft::answer::Message, String> {
            panic!("a request of another cluster was handled")
        }
    }

    #[tokio::test]
    async fn another_cluster_and_another_node_are_refused_before_any_request() {
        let mut place = Sockets::default();
        place.start(NodeId(2), Arc::new(Never)).await;
        let address = place.addresses[&NodeId(2)].to_string();
        place.peers.set(NodeId(3), address);
        let ask = async |cluster, to| {
            let transport = Grpc::new(cluster, place.peers.clone(), timing());
            let ballot = raft::request::Message::Vote(raft::Ballot::default());
            transport.call(NodeId(to), 1, ballot, Duration::from_secs(20)).await
        };
        for (cluster, to, expected) in [(8, 2, "cluster"), (CLUSTER, 3, "node 2")] {
            let refused = ask(cluster, to).await;
            let Err(TransportError::Unreachable { reason, .. }) = refused else { panic!("{refused:?}") };
            assert!(reason.contains(expected), "{reason}");
        }
    }
}
