//! The catalog: which metadata is a table's current one, and who may change it.

pub(crate) mod database;
mod sql;

use std::{error::Error, fmt::Debug, path::Path};

use async_trait::async_trait;
use medlake_contract::TableName;

use crate::{
    catalog::{
        database::{Access, Database},
        sql::SqlCatalog,
    },
    config::{CatalogConfig, LakeConfig},
    error::LakeError,
};

/// The reason a catalog gives: of a database or of a server.
pub(crate) type Cause = Box<dyn Error + Send + Sync>;

/// A table's pointer, before and after.
#[derive(Debug, Clone)]
pub(crate) struct Swap {
    pub(crate) table: TableName,
    pub(crate) from: String,
    pub(crate) to: String,
}

/// Why a change did not happen, or may not have.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// Nothing was changed.
    Refused(LakeError),
    /// The answer was lost: it may have been made, or may still be under way.
    Unknown(Cause),
}

/// Where the metadata of tables is looked up and swapped.
///
/// A writer has an *epoch*, which [`Self::take_over`] gives out; from then on every change of an
/// earlier epoch is refused with [`LakeError::Fenced`]. A change is made whole or not at all, and is
/// durable when its answer is `Ok`. An implementation tries again by itself what failed for a reason
/// that passes at once (a deadlock, a serialization failure); it never does so when the change may
/// have been made. Calls may run at the same time, from several processes.
#[async_trait]
pub(crate) trait Catalog: Debug + Send + Sync {
    /// All tables with their metadata locations. Names this lake could not have made are left out.
    async fn tables(&self) -> Result<Vec<(TableName, String)>, LakeError>;

    /// A number that is another one after every commit of another process, where there is one that
    /// is cheaper to ask for than [`Self::tables`].
    async fn version(&self) -> Result<Option<i64>, LakeError>;

    /// As [`Self::tables`], but only once every change this writer ever handed in has ended, so
    /// that one which is not there will never come.
    async fn settled(&self, epoch: i64) -> Result<Vec<(TableName, String)>, LakeError>;

    /// Makes the caller the writer; its epoch is above every earlier one and above `above`.
    async fn take_over(&self, above: i64) -> Result<i64, LakeError>;

    /// Fails when another writer took the lake over.
    async fn check_epoch(&self, epoch: i64) -> Result<(), LakeError>;

    /// Enters new tables, all or none.
    async fn create(&self, epoch: i64, tables: &[(TableName, String)]) -> Result<(), CommitError>;

    /// Moves all pointers, all or none, each only from where it is expected to be:
    /// [`LakeError::CommitConflict`] when one is not there.
    async fn commit(&self, epoch: i64, swaps: &[Swap]) -> Result<(), CommitError>;
}

/// Opens the catalog of a lake. To write, what is missing is made; to read, nothing is changed.
/// `root` is the lake's folder.
pub(crate) async fn open(
    config: &LakeConfig,
    root: &Path,
    access: Access,
) -> Result<Box<dyn Catalog>, LakeError> {
    let database = match &config.catalog {
        CatalogConfig::Embedded => Database::file(&root.join("catalog.db"), access).await,
        CatalogConfig::Sql { url } => Database::connect(url.reveal(), access).await,
    };
    let database = database.map_err(sql::failed("open the database"))?;
    let catalog = SqlCatalog::new(database, &config.catalog_name);
    if access == Access::Write {
        catalog.create_schema().await?;
    }
    Ok(Box::new(catalog))
}
