//! The catalog: which metadata is a table's current one, and who may change it.

pub(crate) mod database;
mod rest;
mod sql;

use std::{error::Error, fmt::Debug, path::Path};

use async_trait::async_trait;
use iceberg::{TableRequirement, TableUpdate, spec::TableMetadata};
use medlake_contract::TableName;

use crate::{
    catalog::{
        database::{Access, Database},
        rest::RestCatalog,
        sql::SqlCatalog,
    },
    config::{CatalogConfig, LakeConfig},
    error::LakeError,
};

/// The reason a catalog gives: of a database or of a server.
pub(crate) type Cause = Box<dyn Error + Send + Sync>;

/// A table as the catalog has it.
#[derive(Debug)]
pub(crate) struct CatalogTable {
    pub(crate) name: TableName,
    /// Of its metadata file.
    pub(crate) location: String,
    /// What is in that file, where the catalog says it too.
    pub(crate) metadata: Option<TableMetadata>,
}

/// A table to make.
#[derive(Debug)]
pub(crate) struct NewTable<'a> {
    pub(crate) name: &'a TableName,
    /// Of its first metadata file, if that is not the catalog's to write.
    pub(crate) location: &'a str,
    pub(crate) metadata: &'a TableMetadata,
}

/// A change of one table's metadata.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) table: TableName,
    /// The location of the metadata it was made from.
    pub(crate) from: String,
    /// The location of the metadata after it, if that is not the catalog's to write.
    pub(crate) to: String,
    /// What must be true of the table for the change to be right.
    pub(crate) requirements: Vec<TableRequirement>,
    /// The change, step by step.
    pub(crate) updates: Vec<TableUpdate>,
}

/// What kind of catalog it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CatalogKind {
    /// Pointers to metadata files that the writer writes. It knows the writer's epoch, and when it
    /// answers what is there, no earlier change of this writer is under way any more.
    Pointers,
    /// A service that writes metadata files itself. It knows no writers: the epoch is in the snapshots
    /// they make. A change whose answer was lost may be made at any later time.
    Service,
}

/// Why a change did not happen, or may not have.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// Nothing was changed.
    Refused(LakeError),
    /// The answer was lost: it may have been made, or may still be under way.
    Unknown(Cause),
}

impl CommitError {
    pub(crate) fn into_error(self) -> LakeError {
        match self {
            Self::Refused(error) => error,
            Self::Unknown(source) => LakeError::CommitUnknown { source },
        }
    }
}

/// Where the metadata of tables is looked up and swapped.
///
/// A writer has an *epoch*, which [`Self::take_over`] gives out. Every change of an earlier epoch is
/// refused with [`LakeError::Fenced`] from then on, or, by a service, from when the later writer made
/// a snapshot in each table. A commit is made whole or not at all, and is durable when its answer is
/// `Ok`. An implementation tries again by itself what failed for a reason that passes at once (a
/// deadlock, a serialization failure); it never does so when the change may have been made. Calls may
/// run at the same time, from several processes.
#[async_trait]
pub(crate) trait Catalog: Debug + Send + Sync {
    fn kind(&self) -> CatalogKind;

    /// Whether others see the changes of one commit at the same moment. Where they do not, a writer
    /// that dies in the middle of one leaves it in part, for the next writer to take back.
    fn commits_together(&self) -> bool {
        true
    }

    /// All tables. Names this lake could not have made are left out.
    async fn tables(&self) -> Result<Vec<CatalogTable>, LakeError>;

    /// A number that is another one after every commit of another process, where there is one that
    /// is cheaper to ask for than [`Self::tables`].
    async fn version(&self) -> Result<Option<i64>, LakeError>;

    /// As [`Self::tables`], of at least the tables named; from pointers only once every change this
    /// writer ever handed in has ended, so that one which is not there will never come.
    async fn settled(
        &self,
        epoch: i64,
        names: &[TableName],
    ) -> Result<Vec<CatalogTable>, LakeError>;

    /// Makes the caller the writer; its epoch is above `above` and every one that was given out.
    async fn take_over(&self, above: i64) -> Result<i64, LakeError>;

    /// Fails when another writer took the lake over, as far as this table tells.
    async fn check_epoch(&self, epoch: i64, table: &TableName) -> Result<(), LakeError>;

    /// Enters new tables. A service makes one after the other, and takes one that is there as made
    /// when it is as wanted and nobody has written to it. Gives what a service made.
    async fn create(
        &self,
        epoch: i64,
        tables: &[NewTable<'_>],
    ) -> Result<Vec<CatalogTable>, CommitError>;

    /// Makes all changes, or none: [`LakeError::CommitConflict`] when a table is not as required.
    /// Gives the tables after it where a service wrote their metadata.
    async fn commit(
        &self,
        epoch: i64,
        changes: &[Change],
    ) -> Result<Vec<CatalogTable>, CommitError>;
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
        CatalogConfig::Rest(rest) => return Ok(Box::new(RestCatalog::open(rest, access).await?)),
    };
    let database = database.map_err(sql::failed("open the database"))?;
    let catalog = SqlCatalog::new(database, &config.catalog_name);
    if access == Access::Write {
        catalog.create_schema().await?;
    }
    Ok(Box::new(catalog))
}
