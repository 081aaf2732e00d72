//! MySQL 8 and MariaDB: the binlog as a log of changes, and selects beside it.
//!
//! [`stream::MysqlLog`] reads the binlog as a replica does, in row format with full metadata
//! (`binlog_row_metadata=FULL`), so that each event says what its columns are called and are.
//! [`rows::MysqlRows`] reads tables by selects on a connection of its own, in the same columns with the
//! same values. docs/sources.md has what a server needs and how its types come out.

mod address;
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
#[cfg(test)]
mod noise;
mod number;
mod page;
mod place;
mod reader;
pub(crate) mod rows;
#[cfg(any(test, feature = "testing"))]
mod samples;
pub(crate) mod stream;
mod table_map;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod targets;
#[cfg(test)]
mod tests;
mod value;

use medlake_contract::SourceId;

use crate::{
    AnySource,
    snapshot::{Database, DatabaseSettings},
};
pub use config::{Datetimes, MysqlConfig, MysqlTls, Password};
pub use error::MysqlError;

impl AnySource {
    /// A MySQL or MariaDB database: its binlog from where reading ended, and its existing rows beside
    /// that, read by so many connections at a time.
    pub fn mysql(
        id: impl Into<String>,
        config: &MysqlConfig,
        connections: usize,
        settings: DatabaseSettings,
    ) -> Self {
        let id = SourceId::new(id);
        let log = stream::MysqlLog::new(id.clone(), config.clone(), settings.budget.clone());
        let rows =
            (0..connections.max(1)).map(|_| rows::MysqlRows::new(id.clone(), config.clone()));
        Self(Box::new(Database::new(log, rows.collect(), settings)))
    }
}
