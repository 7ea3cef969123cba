//! Why Kafka cannot be used, or not now.

use rdkafka::error::KafkaError as Cause;

/// An error of the Kafka clients, outside of single appends and reads.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// A setting cannot be used.
    #[error("kafka.{key}: {reason}")]
    Setting {
        /// The key of the setting.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// No broker answered, or not in time; asking again may help.
    #[error("kafka: {doing}: {reason}")]
    Unavailable {
        /// What was tried.
        doing: &'static str,
        /// What happened.
        reason: String,
    },
    /// The topic is not there, and is not to be created.
    #[error("the topic {topic:?} does not exist and kafka.create_topic is off: create it, or switch that on")]
    NoTopic {
        /// Its name.
        topic: String,
    },
    /// The topic cannot hold a log, whatever is allowed.
    #[error("the topic {topic:?} cannot be used: {reason}")]
    Unfit {
        /// Its name.
        topic: String,
        /// Why, and what to do.
        reason: String,
    },
    /// Settings of the topic or its brokers let acknowledged records be lost.
    #[error(
        "the topic {topic:?} may lose what was acknowledged: {}; change that, or accept it with \
         --kafka-allow-unsafe-topic",
        reasons.join("; ")
    )]
    Unsafe {
        /// Its name.
        topic: String,
        /// Each reason with the setting that would be safe.
        reasons: Vec<String>,
    },
    /// The brokers refuse this client for good.
    #[error("kafka: {doing}: {reason}")]
    Refused {
        /// What was tried.
        doing: &'static str,
        /// What they said.
        reason: String,
    },
}

impl KafkaError {
    /// What `cause` means to somebody who was `doing` this.
    pub(crate) fn of(doing: &'static str, cause: &Cause) -> Self {
        use rdkafka::error::RDKafkaErrorCode as Code;
        let reason = cause.to_string();
        match cause.rdkafka_error_code() {
            Some(
                Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::SaslAuthenticationFailed
                | Code::Authentication
                | Code::UnsupportedSASLMechanism
                | Code::PolicyViolation
                | Code::InvalidReplicationFactor
                | Code::InvalidConfig,
            ) => Self::Refused { doing, reason },
            _ => Self::Unavailable { doing, reason },
        }
    }

    /// Whether trying again may help.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
