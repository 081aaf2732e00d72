//! Words the rooms of Medlake share, and nothing else.
//!
//! A source's change travels as a [`ChangeBatch`]: one table, many rows, each with an operation and
//! the row before and after it. Whole source transactions travel together as a [`ChangeSet`], which
//! also says how far each source has been read ([`Positions`]). A [`TableSchema`] names a table, its
//! typed columns and its key. Every room's error answers a [`Kind`], from which retry, HTTP status
//! and SQLSTATE follow.
//!
//! This crate does no I/O, starts no task and reads no clock. It does not know SQLite, Iceberg,
//! HTTP or SQL.
//!
//! ```
//! use medlake_contract::{Column, ColumnType, TableName, TableSchema};
//!
//! let orders = TableSchema::new(
//!     "mall.orders".parse::<TableName>()?,
//!     vec![
//!         Column::required("order_id", ColumnType::Int64),
//!         Column::required("goods_amount_fen", ColumnType::Int64),
//!         Column::nullable("paid_at", ColumnType::TimestampMicros),
//!     ],
//!     &["order_id"],
//! )?;
//! assert_eq!(orders.key_indices(), &[0]);
//! # Ok::<(), medlake_contract::ContractError>(())
//! ```

mod change;
mod error;
mod position;
mod table;

pub use change::{ChangeBatch, ChangeSet, CopyScope, Op, RowCopy, SchemaChange, Unsent};
pub use error::{ContractError, Kind, with_causes};
pub use position::{Position, Positions, SourceId};
pub use table::{Column, ColumnType, Identity, TableName, TableSchema};
