//! The catalog database: which metadata file is a table's current one.
//!
//! Its tables are those of Iceberg's JDBC catalog, so that other engines open it as it is. One
//! table is ours: `medlake_writer` holds the epoch of the writer that owns the lake.

use std::{path::Path, time::Duration};

use medlake_contract::TableName;
use sqlx::{
    Row, Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::error::LakeError;

const CREATE_TABLES: &str = "
create table if not exists iceberg_tables (
    catalog_name varchar(255) not null,
    table_namespace varchar(255) not null,
    table_name varchar(255) not null,
    metadata_location varchar(1000),
    previous_metadata_location varchar(1000),
    iceberg_type varchar(5),
    primary key (catalog_name, table_namespace, table_name)
);
create table if not exists iceberg_namespace_properties (
    catalog_name varchar(255) not null,
    namespace varchar(255) not null,
    property_key varchar(255) not null,
    property_value varchar(1000),
    primary key (catalog_name, namespace, property_key)
);
create table if not exists medlake_writer (
    catalog_name varchar(255) not null primary key,
    epoch integer not null
);
";

/// A table's pointer, before and after.
#[derive(Debug, Clone)]
pub(crate) struct Swap {
    pub(crate) table: TableName,
    pub(crate) from: String,
    pub(crate) to: String,
}

/// Why a swap did not happen, or may not have.
pub(crate) enum SwapError {
    /// Nothing was changed.
    Refused(LakeError),
    /// The answer to the commit was lost.
    Unknown(sqlx::Error),
}

#[derive(Debug)]
pub(crate) struct Catalog {
    pool: SqlitePool,
    name: String,
    epoch: i64,
}

/// One connection for as long as the pool lives: `data_version` compares only within a connection.
fn one_connection() -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None)
}

fn failed(doing: &'static str) -> impl FnOnce(sqlx::Error) -> LakeError {
    move |source| LakeError::Catalog { doing, source }
}

/// The tables a catalog names, with their metadata locations, as of one commit.
async fn list_tables(pool: &SqlitePool, name: &str) -> Result<Vec<(TableName, String)>, LakeError> {
    let rows = sqlx::query(
        "select table_namespace, table_name, metadata_location from iceberg_tables
         where catalog_name = ? and (iceberg_type is null or iceberg_type = 'TABLE')
         order by table_namespace, table_name",
    )
    .bind(name)
    .fetch_all(pool)
    .await
    .map_err(failed("list tables"))?;
    let mut tables = Vec::with_capacity(rows.len());
    for row in rows {
        let read = || -> Result<(String, String, Option<String>), sqlx::Error> {
            Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
        };
        let (namespace, table, location) = read().map_err(failed("list tables"))?;
        if let (Ok(name), Some(location)) = (format!("{namespace}.{table}").parse(), location) {
            tables.push((name, location));
        }
    }
    Ok(tables)
}

/// A catalog that is only read: its writer is another process.
#[derive(Debug)]
pub(crate) struct CatalogReader {
    pool: SqlitePool,
    name: String,
}

impl CatalogReader {
    pub(crate) async fn open(path: &Path, name: &str) -> Result<Self, LakeError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .busy_timeout(Duration::from_secs(10));
        let pool =
            one_connection().connect_with(options).await.map_err(failed("open the database"))?;
        Ok(Self { pool, name: name.to_owned() })
    }

    /// A number that changes with every commit of another connection.
    pub(crate) async fn data_version(&self) -> Result<i64, LakeError> {
        sqlx::query_scalar("pragma data_version")
            .fetch_one(&self.pool)
            .await
            .map_err(failed("look for commits"))
    }

    /// As [`Catalog::tables`].
    pub(crate) async fn tables(&self) -> Result<Vec<(TableName, String)>, LakeError> {
        list_tables(&self.pool, &self.name).await
    }
}

impl Catalog {
    /// Opens the catalog and becomes its writer: every earlier one is refused from now on.
    pub(crate) async fn open(path: &Path, name: &str) -> Result<Self, LakeError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let pool =
            one_connection().connect_with(options).await.map_err(failed("open the database"))?;
        sqlx::raw_sql(CREATE_TABLES).execute(&pool).await.map_err(failed("create tables"))?;
        let epoch = sqlx::query(
            "insert into medlake_writer (catalog_name, epoch) values (?, 1)
             on conflict (catalog_name) do update set epoch = epoch + 1
             returning epoch",
        )
        .bind(name)
        .fetch_one(&pool)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(failed("take the writer's epoch"))?;
        Ok(Self { pool, name: name.to_owned(), epoch })
    }

    pub(crate) fn epoch(&self) -> i64 {
        self.epoch
    }

    /// All tables with their metadata locations. Names this lake could not have made are left out.
    pub(crate) async fn tables(&self) -> Result<Vec<(TableName, String)>, LakeError> {
        list_tables(&self.pool, &self.name).await
    }

    /// Enters new tables, all or none.
    pub(crate) async fn create(&self, tables: &[(TableName, String)]) -> Result<(), SwapError> {
        let mut transaction = self.begin().await.map_err(SwapError::Refused)?;
        for (table, location) in tables {
            self.enter(&mut transaction, table, location)
                .await
                .map_err(|e| SwapError::Refused(failed("enter a table")(e)))?;
        }
        transaction.commit().await.map_err(SwapError::Unknown)
    }

    async fn enter(
        &self,
        transaction: &mut Transaction<'_, Sqlite>,
        table: &TableName,
        location: &str,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "insert into iceberg_namespace_properties
                 (catalog_name, namespace, property_key, property_value)
             values (?, ?, 'exists', 'true') on conflict do nothing",
        )
        .bind(&self.name)
        .bind(table.namespace())
        .execute(&mut **transaction)
        .await?;
        sqlx::query(
            "insert into iceberg_tables
                 (catalog_name, table_namespace, table_name, metadata_location, iceberg_type)
             values (?, ?, ?, ?, 'TABLE')",
        )
        .bind(&self.name)
        .bind(table.namespace())
        .bind(table.table())
        .bind(location)
        .execute(&mut **transaction)
        .await?;
        Ok(())
    }

    /// Moves all pointers in one transaction, each only from where it is expected to be, and only
    /// while this writer's epoch is the current one.
    pub(crate) async fn swap(&self, swaps: &[Swap]) -> Result<(), SwapError> {
        let mut transaction = self.begin().await.map_err(SwapError::Refused)?;
        for swap in swaps {
            let done = sqlx::query(
                "update iceberg_tables
                 set metadata_location = ?, previous_metadata_location = ?
                 where catalog_name = ? and table_namespace = ? and table_name = ?
                     and metadata_location = ?",
            )
            .bind(&swap.to)
            .bind(&swap.from)
            .bind(&self.name)
            .bind(swap.table.namespace())
            .bind(swap.table.table())
            .bind(&swap.from)
            .execute(&mut *transaction)
            .await
            .map_err(|e| SwapError::Refused(failed("move a table's pointer")(e)))?;
            if done.rows_affected() != 1 {
                let table = swap.table.clone();
                return Err(SwapError::Refused(LakeError::CommitConflict { table }));
            }
        }
        transaction.commit().await.map_err(SwapError::Unknown)
    }

    /// Fails when another writer took the lake over.
    pub(crate) async fn check_epoch(&self) -> Result<(), LakeError> {
        self.begin().await?.rollback().await.map_err(failed("end a transaction"))
    }

    /// A write transaction in which the epoch was found to be ours.
    async fn begin(&self) -> Result<Transaction<'_, Sqlite>, LakeError> {
        let mut transaction =
            self.pool.begin_with("begin immediate").await.map_err(failed("begin a transaction"))?;
        let current: i64 = sqlx::query("select epoch from medlake_writer where catalog_name = ?")
            .bind(&self.name)
            .fetch_one(&mut *transaction)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(failed("read the writer's epoch"))?;
        if current == self.epoch {
            Ok(transaction)
        } else {
            Err(LakeError::Fenced { own: self.epoch, current })
        }
    }
}
