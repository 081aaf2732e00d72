//! MySQL 8 and MariaDB: the binlog as a log of changes, and selects beside it.
//!
//! [`stream::MysqlLog`] reads the binlog as a replica does, in row format with full metadata
//! (`binlog_row_metadata=FULL`), so that each event says what its columns are called and are.
//! [`rows::MysqlRows`] reads tables by selects on a connection of its own, in the same columns with the
//! same values. docs/sources.md has what a server needs and how its types come out.

mod assemble;
mod buffer;
mod bytes;
mod catalog;
mod charset;
mod column;
mod config;
mod connect;
mod ddl;
mod error;
mod event;
mod filter;
mod json;
mod layout;
mod number;
mod page;
mod place;
mod reader;
pub(crate) mod rows;
pub(crate) mod stream;
mod table_map;
#[cfg(test)]
mod tests;
mod value;

pub use config::{MysqlConfig, MysqlTls, Password};
pub use error::MysqlError;
