//! The lake: Iceberg tables that hold the current state of every source table, a few milliseconds
//! old, at one cut across all of them.
//!
//! Changes come in as whole source transactions ([`Lake::stage`]), are resolved at once through a
//! primary-key index, become visible together ([`Lake::publish`]) as an immutable [`ReadView`], and
//! are written to Parquet files and committed to the catalog, all tables in one transaction, by
//! [`Lake::flush`]. Any engine that reads Iceberg v2 reads the tables; inside this process
//! DataFusion reads them through [`ReadView::catalog`].
//!
//! This crate does not know where changes come from, what the tables mean, or who asks.
//!
//! ```
//! use std::sync::Arc;
//!
//! use arrow::{array::Int64Array, record_batch::RecordBatch};
//! use medlake_contract::{ChangeBatch, ChangeSet, Column, ColumnType, TableSchema};
//! use medlake_lake::{Lake, LakeConfig};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! # let folder = tempfile::tempdir()?;
//! let lake = Lake::open(LakeConfig::new(folder.path(), Arc::new(|| 0))).await?;
//! let orders = Arc::new(TableSchema::new(
//!     "mall.orders".parse()?,
//!     vec![Column::required("order_id", ColumnType::Int64)],
//!     &["order_id"],
//! )?);
//! lake.create_tables(&[Arc::clone(&orders)]).await?;
//!
//! let rows = RecordBatch::try_new(
//!     Arc::clone(orders.arrow()),
//!     vec![Arc::new(Int64Array::from(vec![1, 2, 2]))],
//! )?;
//! let batches = vec![ChangeBatch::inserts(orders, &rows)?];
//! lake.stage(&ChangeSet { batches, ..ChangeSet::default() })?;
//! let view = lake.publish();
//! assert_eq!(view.tables()[0].row_count, 2);
//! lake.flush().await?;
//! # Ok(())
//! # })
//! # }
//! ```

mod alteration;
mod catalog;
mod commit;
mod config;
mod delta;
mod error;
mod fault;
mod follow;
mod format;
mod indexes;
mod lake;
mod maintain;
mod open;
mod options;
mod read;
mod spill;
mod state;
mod storage;
mod table;
mod warehouse;

pub use alteration::{Alteration, ColumnPath, Place};
pub use commit::flush::FlushReport;
pub use config::{CatalogConfig, Clock, Durability, LakeConfig, RestAuth, RestConfig, Secret};
pub use delta::{DeltaDeletes, DeltaReport};
pub use error::LakeError;
pub use follow::Follower;
pub use indexes::IndexSize;
pub use lake::Lake;
pub use maintain::{
    MaintenanceReport,
    check::{CheckReport, Finding, Inspector, Outlook, Severity},
    compact::CompactReport,
    manifests::ManifestReport,
};
pub use options::{Compression, FormatVersion, PartitionField, SortField, TableOptions, Transform};
pub use read::{
    as_of::AsOf,
    feed::ChangeStream,
    tally::Tally,
    view::{ReadView, TableInfo},
};
pub use warehouse::{S3Config, S3Credentials, Warehouse};
