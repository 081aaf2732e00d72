use medlake_contract::Kind;
use rdkafka::{error::KafkaError, types::RDKafkaErrorCode};
use thiserror::Error;

/// Why a Kafka source could not be read.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum KafkaSourceError {
    /// A setting that cannot be.
    #[error("setting \"{setting}\" {problem}")]
    Setting {
        /// Its name.
        setting: String,
        /// What is wrong with it.
        problem: String,
    },
    /// What the client library said.
    #[error("could not {doing}")]
    Client {
        /// What was attempted.
        doing: &'static str,
        /// What it said.
        #[source]
        source: KafkaError,
    },
    /// They do not let the client in: it could not say who it is, or they could not.
    #[error("the brokers could not be connected to: {reason}")]
    Refused {
        /// What the client library said.
        reason: String,
    },
    /// The message to go on with is no longer there, or not there yet.
    #[error(
        "topic \"{topic}\" does not have the next message of partition {partition} any more, at \
         offset {offset}: it was deleted before it was read, or the topic was made anew; drop the \
         topic's tables from the lake and trigger a snapshot in Debezium, or restore the topic, and \
         remove the topic's offsets by giving the source another name"
    )]
    OffsetGone {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset that was to be read.
        offset: i64,
    },
    /// A position that is not one of a Kafka source.
    #[error("\"{text}\" is not a place in Kafka's topics")]
    Place {
        /// The position's text.
        text: String,
    },
    /// Rows that were read do not make a batch: a defect of ours.
    #[error("rows that were read do not go together ({problem}); please report it")]
    Batch {
        /// What is wrong with them.
        problem: String,
    },
    /// The task that reads has ended; it is started again.
    #[error("the reading task ended")]
    Ended,
    /// Rows cannot be asked of Kafka.
    #[error(
        "table \"{table}\" cannot be copied again from Kafka, which has changes and no rows; trigger \
         an incremental snapshot of it in Debezium (a signal of type execute-snapshot), whose rows \
         come by themselves"
    )]
    NoRows {
        /// The table.
        table: String,
    },
}

impl KafkaSourceError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Setting { .. } | Self::Place { .. } => Kind::Invalid,
            Self::Client { source, .. } => client_kind(source),
            Self::Refused { .. } => Kind::Denied,
            Self::OffsetGone { .. } => Kind::Conflict,
            Self::Batch { .. } => Kind::Internal,
            Self::Ended => Kind::Unavailable,
            Self::NoRows { .. } => Kind::Unsupported,
        }
    }
}

fn client_kind(error: &KafkaError) -> Kind {
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::Authentication,
        ) => Kind::Denied,
        Some(RDKafkaErrorCode::InvalidArgument | RDKafkaErrorCode::UnknownTopic) => Kind::Invalid,
        None => Kind::Invalid,
        Some(_) => Kind::Unavailable,
    }
}
