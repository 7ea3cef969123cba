//! The sources of this node: a member of a group for each, and the way of its records to the store.
//!
//! Knows configuration and the order of start and end. Does not know records.
//! Path: node start -> **here** -> `commitlog::kafka::source`, `ingest::sources`; records come back to [`super::gateway`].

use super::StartError;
use super::gateway::{GatewayError, UNNUMBERED, Writer};
use super::services::Services;
use crate::config::Config;
use async_trait::async_trait;
use bytes::Bytes;
use quorate_commitlog::kafka::dead_letters::DeadLetters;
use quorate_commitlog::kafka::source::{KafkaFeed, Member};
use quorate_ingest::sources::{self, Failure, Gateway};
use quorate_ingest::{Held, Protocol, WriteOutcome, WriteRequest};
use quorate_model::{Clock, ErrorCode};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long the brokers may take when a source ends, beside the wait for its records.
const BROKERS_LIMIT: Duration = Duration::from_secs(10);

/// All sources of a node. Dropped, they end without waiting.
#[derive(Default)]
pub struct Sources {
    running: Vec<Running>,
}

struct Running {
    member: Member,
    /// Longest wait for it to end.
    limit: Duration,
    storing: JoinHandle<()>,
}

/// The node's way in, for as long as the node is there.
struct NodeGateway {
    services: Weak<Services>,
    max_tenants: usize,
}

impl Sources {
    /// Joins the groups. The brokers need not be there yet.
    ///
    /// # Errors
    /// [`StartError::Source`] if a client cannot be made of the settings.
    pub fn start(
        config: &Config,
        services: &Arc<Services>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let gateway: Arc<dyn Gateway> =
            Arc::new(NodeGateway { services: Arc::downgrade(services), max_tenants: config.max_tenants });
        let mut running = Vec::with_capacity(config.sources.len());
        for source in &config.sources {
            let failed = |reason: String| StartError::Source { name: source.name.clone(), reason };
            let (settings, storing) = (source.settings(&config.kafka), source.storing().map_err(failed)?);
            let letters = DeadLetters::open(&settings.client).map_err(|error| failed(error.to_string()))?;
            let opened = KafkaFeed::open(settings, clock.clone());
            let (feed, member) = opened.map_err(|error| failed(error.to_string()))?;
            tracing::info!(source = source.name, topics = source.topics.join(","), "a source was started");
            let storing = sources::run(feed, storing, gateway.clone(), Arc::new(letters), clock.clone());
            let limit = Duration::from(source.revoke_wait) + BROKERS_LIMIT;
            running.push(Running { member, limit, storing: tokio::spawn(storing) });
        }
        Ok(Self { running })
    }

    /// Takes no further records, waits a bounded time for those under way, commits and leaves the groups.
    pub async fn stop(self) {
        let ending = self.running.into_iter().map(|Running { member, limit, storing }| async move {
            let stopping = tokio::task::spawn_blocking(move || member.stop());
            match tokio::time::timeout(limit, stopping).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => tracing::error!("leaving the group of a source panicked"),
                // Nothing is lost by that: its offsets stay where they were committed last.
                Err(_) => {
                    tracing::warn!("a source does not end because no broker answers; it is left as it is")
                }
            }
            // What is still under way is taken again by whoever has its partition next.
            storing.abort();
            drop(storing.await);
        });
        futures::future::join_all(ending).await;
    }
}

#[async_trait]
impl Gateway for NodeGateway {
    fn check_tenant(&self, name: &str) -> Result<(), String> {
        crate::tenant::check_name(name).map_err(|error| error.to_string())
    }

    async fn write(
        &self,
        tenant: &Arc<str>,
        protocol: Protocol,
        body: Bytes,
        held: Held,
    ) -> Result<WriteOutcome, Failure> {
        let Some(services) = self.services.upgrade() else {
            let message = "the node is stopping".to_owned();
            return Err(failure(ErrorCode::Unavailable, message));
        };
        let request = WriteRequest { tenant: UNNUMBERED, tenant_name: tenant.clone(), protocol, body };
        match services.write(request, held, self.max_tenants, Writer::Record).await {
            Ok(outcome) => Ok(outcome),
            Err(GatewayError::Write(error)) => Err(error.into()),
            Err(GatewayError::Tenant(error)) => Err(failure(error.code(), error.to_string())),
        }
    }
}

fn failure(code: ErrorCode, message: String) -> Failure {
    Failure { code, message, retry_after: None, is_other_protocol: false }
}
