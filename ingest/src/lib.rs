//! Turns what changed in a source into ordered, resumable Arrow change batches.
//!
//! A source is read in commit order and cut only between transactions: [`Ingest::next`] answers a
//! [`ChangeSet`](medlake_contract::ChangeSet) of whole transactions together with the position the
//! source then stands at. Whoever stores the set stores that position with it, opens [`Ingest`] from
//! it after a restart, and tells [`Ingest::acknowledge`] once it is durable; only then is the source
//! allowed to forget.
//!
//! One source kind is here: an embedded SQLite database whose triggers fill a change table
//! ([`EmbeddedSource`]). The tables `cdc_change`, `cdc_transaction` and `cdc_trimmed` and the form
//! of a row image are described there.
//!
//! This crate does not know what a table means, where changes go, or that Iceberg exists.
//!
//! ```no_run
//! use std::time::Duration;
//! use medlake_contract::Positions;
//! use medlake_ingest::{CutLimits, EmbeddedSource, Ingest, IngestError, Wake};
//!
//! # async fn example() -> Result<(), IngestError> {
//! let mall = EmbeddedSource::open("mall", "operational/mall.db").await?;
//! let wake = Wake::Polled(Duration::from_millis(20));
//! let mut ingest = Ingest::open(vec![mall], &Positions::new(), wake).await?;
//! let cut = ingest.next(CutLimits::default()).await?;
//! println!("{} changes up to {:?}", cut.row_count(), cut.positions);
//! ingest.acknowledge(&cut.positions).await?;
//! # Ok(())
//! # }
//! ```

mod embedded;
mod error;
mod merge;
mod wake;

pub use embedded::EmbeddedSource;
pub use error::IngestError;
pub use merge::{Acknowledger, CutLimits, Ingest};
pub use wake::Wake;
