//! The catalog in a database, in the tables of Iceberg's JDBC catalog, so that other engines open it
//! as it is. One table is ours: `medlake_writer` holds the epoch of the writer that owns the lake.
//!
//! Every change begins by holding the writer's row: changes of one lake come one after the other,
//! an older writer is refused, and whoever holds the row after a lost answer knows that the change
//! has ended. Pointers are moved in the order of their names, so that two never wait for each other.

use std::time::Duration;

use async_trait::async_trait;
use medlake_contract::TableName;

use crate::{
    catalog::{
        Catalog, CatalogKind, CatalogTable, Cause, Change, CommitError, NewTable,
        database::{Database, Transaction, passes},
    },
    error::LakeError,
};

const TABLES: &str = "
create table if not exists iceberg_tables (
    catalog_name varchar(255) not null,
    table_namespace varchar(255) not null,
    table_name varchar(255) not null,
    metadata_location varchar(1000),
    previous_metadata_location varchar(1000),
    iceberg_type varchar(5),
    primary key (catalog_name, table_namespace, table_name)
)";
const NAMESPACES: &str = "
create table if not exists iceberg_namespace_properties (
    catalog_name varchar(255) not null,
    namespace varchar(255) not null,
    property_key varchar(255) not null,
    property_value varchar(1000),
    primary key (catalog_name, namespace, property_key)
)";
const WRITERS: &str = "
create table if not exists medlake_writer (
    catalog_name varchar(255) not null primary key,
    epoch bigint not null
)";

/// How often a transaction is tried that failed for a reason that passes.
const TRIES: u32 = 8;
/// The wait before the second try; doubled with each.
const FIRST_WAIT: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct SqlCatalog {
    database: Database,
    name: String,
}

/// How one try of a transaction ended.
enum Failed {
    /// Nothing was changed.
    Statement { doing: &'static str, source: sqlx::Error },
    /// Nothing was changed, for a reason that is no fault of the database.
    Refused(LakeError),
    /// The answer to the commit did not come.
    Commit(sqlx::Error),
}

fn at(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Failed {
    move |source| Failed::Statement { doing, source }
}

pub(crate) fn failed(doing: &'static str) -> impl FnOnce(sqlx::Error) -> LakeError {
    move |source| LakeError::Catalog { doing, source: Cause::from(source) }
}

/// Tries until it goes through, or fails for a reason that does not pass.
async fn repeat<T, F>(mut attempt: impl FnMut() -> F + Send) -> Result<T, Failed>
where
    F: Future<Output = Result<T, Failed>> + Send,
{
    let mut wait = FIRST_WAIT;
    for _ in 1..TRIES {
        match attempt().await {
            // A commit that was refused for such a reason is known not to have been made.
            Err(Failed::Statement { source, .. } | Failed::Commit(source)) if passes(&source) => {
                tracing::debug!(error = %source, "the catalog's transaction is tried again");
            }
            ended => return ended,
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    attempt().await
}

/// For what changes no pointer: made twice, it does no harm.
fn plain(failed: Failed) -> LakeError {
    match failed {
        Failed::Statement { doing, source } => self::failed(doing)(source),
        Failed::Refused(error) => error,
        Failed::Commit(source) => self::failed("end a transaction")(source),
    }
}

fn of_commit(failed: Failed) -> CommitError {
    match failed {
        Failed::Commit(source) => CommitError::Unknown(Cause::from(source)),
        other => CommitError::Refused(plain(other)),
    }
}

impl SqlCatalog {
    pub(crate) fn new(database: Database, name: &str) -> Self {
        Self { database, name: name.to_owned() }
    }

    /// Makes the tables that are missing, and gives those of an older JDBC catalog the column that
    /// tells tables from views.
    pub(crate) async fn create_schema(&self) -> Result<(), LakeError> {
        let create = || async {
            let mut transaction = self.database.begin().await.map_err(at("begin a transaction"))?;
            for table in [TABLES, NAMESPACES, WRITERS] {
                let statement = format!("{table}{}", self.database.table_suffix());
                transaction.execute(&statement, &[]).await.map_err(at("create tables"))?;
            }
            transaction.commit().await.map_err(Failed::Commit)
        };
        repeat(create).await.map_err(plain)?;
        let mut transaction = self.begin().await.map_err(plain)?;
        let probe = "select iceberg_type from iceberg_tables where 1 = 0";
        if transaction.texts(probe, &[]).await.is_ok() {
            return Ok(());
        }
        drop(transaction);
        let mut transaction = self.begin().await.map_err(plain)?;
        let add = "alter table iceberg_tables add column iceberg_type varchar(5)";
        transaction.execute(add, &[]).await.map_err(failed("add a column to the tables"))?;
        transaction.commit().await.map_err(failed("add a column to the tables"))
    }

    async fn begin(&self) -> Result<Transaction, Failed> {
        self.database.begin().await.map_err(at("begin a transaction"))
    }

    /// A transaction that holds the writer's row and found this epoch in it.
    async fn begin_as(&self, own: i64) -> Result<Transaction, Failed> {
        let mut transaction = self.begin().await?;
        match self.hold_epoch(&mut transaction).await? {
            Some(current) if current == own => Ok(transaction),
            current => {
                let current = current.unwrap_or_default();
                Err(Failed::Refused(LakeError::Fenced { own, current }))
            }
        }
    }

    async fn hold_epoch(&self, transaction: &mut Transaction) -> Result<Option<i64>, Failed> {
        let statement = format!(
            "select epoch from medlake_writer where catalog_name = ?{}",
            self.database.for_update()
        );
        let epoch = transaction.number(&statement, &[self.name.as_str().into()]).await;
        epoch.map_err(at("read the writer's epoch"))
    }

    async fn list(&self, transaction: &mut Transaction) -> Result<Vec<CatalogTable>, Failed> {
        let rows = transaction
            .texts(
                "select table_namespace, table_name, metadata_location from iceberg_tables
                 where catalog_name = ? and (iceberg_type is null or iceberg_type = 'TABLE')
                 order by table_namespace, table_name",
                &[self.name.as_str().into()],
            )
            .await
            .map_err(at("list tables"))?;
        let named = |row: Vec<Option<String>>| {
            let [Some(namespace), Some(table), Some(location)] = <[_; 3]>::try_from(row).ok()?
            else {
                return None;
            };
            let name = format!("{namespace}.{table}").parse().ok()?;
            Some(CatalogTable { name, location, metadata: None })
        };
        Ok(rows.into_iter().filter_map(named).collect())
    }

    async fn try_take_over(&self, above: i64) -> Result<i64, Failed> {
        let mut transaction = self.begin().await?;
        let before = self.hold_epoch(&mut transaction).await?;
        let epoch = before.unwrap_or(0).max(above).saturating_add(1);
        let statement = match before {
            Some(_) => "update medlake_writer set epoch = ? where catalog_name = ?",
            None => "insert into medlake_writer (epoch, catalog_name) values (?, ?)",
        };
        transaction
            .execute(statement, &[epoch.into(), self.name.as_str().into()])
            .await
            .map_err(at("take the writer's epoch"))?;
        transaction.commit().await.map_err(Failed::Commit)?;
        Ok(epoch)
    }

    async fn try_create(
        &self,
        epoch: i64,
        tables: &[NewTable<'_>],
    ) -> Result<Vec<CatalogTable>, Failed> {
        let mut transaction = self.begin_as(epoch).await?;
        let name = self.name.as_str();
        for NewTable { name: table, location, .. } in tables {
            let table: &TableName = table;
            let known = transaction
                .number(
                    "select count(*) from iceberg_namespace_properties
                     where catalog_name = ? and namespace = ? and property_key = 'exists'",
                    &[name.into(), table.namespace().into()],
                )
                .await
                .map_err(at("look for a namespace"))?;
            if known.unwrap_or_default() == 0 {
                transaction
                    .execute(
                        "insert into iceberg_namespace_properties
                             (catalog_name, namespace, property_key, property_value)
                         values (?, ?, 'exists', 'true')",
                        &[name.into(), table.namespace().into()],
                    )
                    .await
                    .map_err(at("enter a namespace"))?;
            }
            let there = transaction
                .number(
                    "select count(*) from iceberg_tables
                     where catalog_name = ? and table_namespace = ? and table_name = ?",
                    &[name.into(), table.namespace().into(), table.table().into()],
                )
                .await
                .map_err(at("look for a table"))?;
            if there.unwrap_or_default() > 0 {
                return Err(Failed::Refused(LakeError::CommitConflict { table: table.clone() }));
            }
            transaction
                .execute(
                    "insert into iceberg_tables
                         (catalog_name, table_namespace, table_name, metadata_location, iceberg_type)
                     values (?, ?, ?, ?, 'TABLE')",
                    &[
                        name.into(),
                        table.namespace().into(),
                        table.table().into(),
                        (*location).into(),
                    ],
                )
                .await
                .map_err(at("enter a table"))?;
        }
        transaction.commit().await.map_err(Failed::Commit)?;
        Ok(Vec::new())
    }

    async fn try_commit(
        &self,
        epoch: i64,
        changes: &[&Change],
    ) -> Result<Vec<CatalogTable>, Failed> {
        let mut transaction = self.begin_as(epoch).await?;
        for change in changes {
            let moved = transaction
                .execute(
                    "update iceberg_tables
                     set metadata_location = ?, previous_metadata_location = ?
                     where catalog_name = ? and table_namespace = ? and table_name = ?
                         and metadata_location = ?",
                    &[
                        change.to.as_str().into(),
                        change.from.as_str().into(),
                        self.name.as_str().into(),
                        change.table.namespace().into(),
                        change.table.table().into(),
                        change.from.as_str().into(),
                    ],
                )
                .await
                .map_err(at("move a table's pointer"))?;
            if moved != 1 {
                let table = change.table.clone();
                return Err(Failed::Refused(LakeError::CommitConflict { table }));
            }
        }
        transaction.commit().await.map_err(Failed::Commit)?;
        Ok(Vec::new())
    }
}

#[async_trait]
impl Catalog for SqlCatalog {
    fn kind(&self) -> CatalogKind {
        CatalogKind::Pointers
    }

    async fn tables(&self) -> Result<Vec<CatalogTable>, LakeError> {
        let list = || async {
            let begun = self.database.begin_to_read().await;
            self.list(&mut begun.map_err(at("begin a transaction"))?).await
        };
        repeat(list).await.map_err(plain)
    }

    async fn version(&self) -> Result<Option<i64>, LakeError> {
        self.database.version().await.map_err(failed("look for commits"))
    }

    async fn settled(&self, epoch: i64, _: &[TableName]) -> Result<Vec<CatalogTable>, LakeError> {
        let list = || async { self.list(&mut self.begin_as(epoch).await?).await };
        repeat(list).await.map_err(plain)
    }

    async fn take_over(&self, above: i64) -> Result<i64, LakeError> {
        repeat(|| self.try_take_over(above)).await.map_err(plain)
    }

    async fn check_epoch(&self, epoch: i64, _: &TableName) -> Result<(), LakeError> {
        repeat(|| self.begin_as(epoch)).await.map(drop).map_err(plain)
    }

    async fn create(
        &self,
        epoch: i64,
        tables: &[NewTable<'_>],
    ) -> Result<Vec<CatalogTable>, CommitError> {
        repeat(|| self.try_create(epoch, tables)).await.map_err(of_commit)
    }

    async fn commit(
        &self,
        epoch: i64,
        changes: &[Change],
    ) -> Result<Vec<CatalogTable>, CommitError> {
        let mut changes: Vec<&Change> = changes.iter().collect();
        changes.sort_by(|a, b| a.table.cmp(&b.table));
        repeat(|| self.try_commit(epoch, &changes)).await.map_err(of_commit)
    }
}
