//! Turns what changed in sources into ordered, resumable Arrow change batches.
//!
//! A source is read in commit order and cut only between transactions: [`Ingest::next`] answers a
//! [`ChangeSet`](medlake_contract::ChangeSet) of whole transactions together with the position the
//! source then stands at. Whoever stores the set stores that position with it, opens [`Ingest`] from
//! it after a restart, and tells [`Ingest::acknowledge`] once it is durable; only then is the source
//! allowed to forget. How each table is taken in, and changes that could not be read, travel as rows
//! of two tables of ingest's own in the same sets ([`states_table`], [`quarantine_table`]).
//!
//! Among the sources are an embedded SQLite database whose triggers fill a change table
//! ([`EmbeddedSource`], which describes the tables `cdc_change`, `cdc_transaction` and `cdc_trimmed`
//! and the form of a row image), and topics of Kafka that connectors of Debezium write
//! ([`KafkaSource`]). `docs/sources.md` says what becomes of each type.
//!
//! This crate does not know what a table means, where changes go, or that Iceberg exists.
//!
//! ```no_run
//! use std::time::Duration;
//! use medlake_ingest::{CutLimits, EmbeddedSource, Ingest, IngestError, Resume, Wake};
//!
//! # async fn example() -> Result<(), IngestError> {
//! let wake = Wake::Polled(Duration::from_millis(20));
//! let mall = EmbeddedSource::open("mall", "operational/mall.db", wake).await?;
//! let mut ingest = Ingest::open(vec![mall.into()], &Resume::default()).await?;
//! let cut = ingest.next(CutLimits::default()).await?;
//! println!("{} changes up to {:?}", cut.row_count(), cut.positions);
//! ingest.acknowledge(&cut.positions).await?;
//! # Ok(())
//! # }
//! ```

mod budget;
mod calendar;
mod debezium;
mod embedded;
mod error;
mod hex;
mod kafka;
mod log;
mod merge;
mod monitor;
mod mysql;
mod pattern;
mod publish;
mod quarantine;
mod snapshot;
mod source;
mod system;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod wake;

pub use budget::Budget;
pub use debezium::{
    BinaryHandling, DebeziumConfig, DecimalHandling, DeclaredTable, Modes, Naming, TimePrecision,
};
pub use embedded::EmbeddedSource;
pub use error::IngestError;
pub use kafka::{ClientSettings, KafkaConfig, KafkaSource, KafkaSourceError, Topics, Transactions};
pub use merge::{Acknowledger, AnySource, CutLimits, Ingest};
pub use monitor::Monitor;
pub use mysql::{Datetimes, MysqlConfig, MysqlError, MysqlTls, Password};
pub use publish::{PublishConfig, PublishError, PublishProgress, Publisher};
pub use snapshot::{Clock, DatabaseSettings};
pub use source::{Phase, QuarantinedRow, Resume, SourceHealth, TableState};
pub use system::{quarantine_table, quarantined_in, states_in, states_table};
pub use wake::Wake;
