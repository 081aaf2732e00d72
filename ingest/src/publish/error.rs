use rdkafka::error::KafkaError;
use thiserror::Error;

use crate::IngestError;

/// Why changes of a service are not published.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A setting of the client library that is not to be set by hand.
    #[error("setting \"{setting}\" is not to be set by hand")]
    Setting {
        /// Its name.
        setting: String,
    },
    /// What the client library said.
    #[error("could not {doing}")]
    Kafka {
        /// What was attempted.
        doing: &'static str,
        /// What it said.
        #[source]
        source: KafkaError,
    },
    /// The service's database could not be read or written.
    #[error("could not {doing}")]
    Database {
        /// What was attempted.
        doing: &'static str,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// The tables cannot be understood.
    #[error("could not read the tables")]
    Tables(#[source] Box<IngestError>),
    /// A change that has no form as a message.
    #[error(
        "could not write change {change_id} of table \"{table}\" as a message: {problem}; nothing \
         after it is published until the row of cdc_change is corrected"
    )]
    Change {
        /// The table.
        table: String,
        /// The row of the change table; 0 for a row that is copied.
        change_id: i64,
        /// What is wrong with it, without its values.
        problem: String,
    },
    /// The topics have the changes of another database.
    #[error(
        "prefix \"{prefix}\" has the changes of another database of this name: choose another \
         prefix, or delete the topics of the service and the consumer group \"{group}\""
    )]
    OtherDatabase {
        /// The prefix.
        prefix: String,
        /// The group that knows how far they are published.
        group: String,
    },
    /// Changes are gone that were not published.
    #[error(
        "changes up to {trimmed_to} are gone, and only those up to {published_to} are published"
    )]
    Gone {
        /// The last that is published.
        published_to: i64,
        /// The last that is gone.
        trimmed_to: i64,
    },
    /// The database is older than what is published of it.
    #[error(
        "changes up to {published_to} are published, and the newest is {newest}: the database was \
         put back to an earlier state; choose another prefix"
    )]
    Ahead {
        /// The last that is published.
        published_to: i64,
        /// The newest there is.
        newest: i64,
    },
    /// Work that was under way ended without an answer.
    #[error("a call of the client ended without an answer")]
    Ended,
}
