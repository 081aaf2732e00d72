use std::{
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use sqlx::{
    Sqlite, SqliteConnection, SqlitePool,
    pool::PoolConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{OperationalError, capture, migrate};

/// Called after each commit, on the task that committed: it must return at once.
pub type OnCommit = Arc<dyn Fn() + Send + Sync>;

/// What a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// A kill of the process at any instant (WAL, `synchronous = normal`). A power cut may undo the
    /// last commits, never part of one. About 700 times as many commits a second.
    #[default]
    ProcessKill,
    /// A power cut too (`synchronous = full`): one disk flush a commit.
    PowerCut,
}

/// How long a statement waits for a writer of another process before it is refused as busy.
const BUSY_TIMEOUT: Duration = Duration::from_secs(20);
const READERS: u32 = 4;

/// One service's database: one connection that writes, a few that read.
///
/// **Invariant:** all writes of this process go through the one writing connection, so they queue in
/// the order they asked and never find the database locked by each other.
#[derive(Clone)]
pub struct Database {
    name: &'static str,
    path: PathBuf,
    writer: SqlitePool,
    readers: SqlitePool,
    on_commit: OnCommit,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("name", &self.name).field("path", &self.path).finish()
    }
}

impl Database {
    /// Opens or creates `<folder>/<name>.db`, applies the migrations it lacks and makes its capture
    /// triggers fit its tables.
    ///
    /// # Errors
    /// When the file cannot be opened, or an applied migration differs from the one given.
    pub async fn open(
        folder: &Path,
        name: &'static str,
        migrations: &'static [migrate::Migration],
        durability: Durability,
        on_commit: OnCommit,
    ) -> Result<Self, OperationalError> {
        let path = folder.join(format!("{name}.db"));
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .foreign_keys(true)
            // Otherwise a row removed by `insert or replace` would leave no delete in the change table.
            .pragma("recursive_triggers", "on")
            .pragma("temp_store", "memory")
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(match durability {
                Durability::ProcessKill => SqliteSynchronous::Normal,
                Durability::PowerCut => SqliteSynchronous::Full,
            })
            .busy_timeout(BUSY_TIMEOUT);
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
                .acquire_timeout(BUSY_TIMEOUT)
        };
        let writer = pool(1).connect_with(options.clone()).await?;
        let mut tx = writer.begin_with("begin immediate").await?;
        capture::remember(&mut tx).await?;
        let missing = migrate::missing(&mut tx, name, migrations).await?;
        if !missing.is_empty() {
            capture::remove(&mut tx).await?;
        }
        let written = migrate::apply(&mut tx, missing).await?;
        capture::install(&mut tx, written).await?;
        tx.commit().await?;
        let readers = pool(READERS).connect_with(options.pragma("query_only", "on")).await?;
        Ok(Self { name, path, writer, readers, on_commit })
    }

    /// The name of the service, which is the id of the source that is read from it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A transaction whose row changes are captured together. Waits for the writer before it.
    ///
    /// `committed_at` is what readers of the changes see as the time of the commit, in microseconds
    /// since 1970 (UTC): the present, also for a replay.
    ///
    /// # Errors
    /// `Busy` when another process writes for too long.
    pub async fn begin(&self, committed_at: i64) -> Result<WriteTransaction, OperationalError> {
        let mut inner = self.writer.begin_with("begin immediate").await?;
        sqlx::query("insert into cdc_transaction (committed_at) values (?1)")
            .bind(committed_at)
            .execute(&mut *inner)
            .await?;
        Ok(WriteTransaction { inner, on_commit: Some(Arc::clone(&self.on_commit)) })
    }

    /// A transaction over tables that are not captured. Nobody is told of its commit.
    pub(crate) async fn begin_internal(&self) -> Result<WriteTransaction, OperationalError> {
        let inner = self.writer.begin_with("begin immediate").await?;
        Ok(WriteTransaction { inner, on_commit: None })
    }

    /// A connection that cannot write.
    ///
    /// # Errors
    /// `Busy` when all of them stay in use for too long.
    pub async fn read(&self) -> Result<PoolConnection<Sqlite>, OperationalError> {
        Ok(self.readers.acquire().await?)
    }

    /// Closes all connections, after which every call fails.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// An open writing transaction. Dropped without [`commit`](Self::commit), it leaves nothing behind.
pub struct WriteTransaction {
    inner: sqlx::Transaction<'static, Sqlite>,
    on_commit: Option<OnCommit>,
}

impl std::fmt::Debug for WriteTransaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteTransaction").finish_non_exhaustive()
    }
}

impl WriteTransaction {
    /// Makes the changes durable and visible, then tells whoever waits for commits.
    ///
    /// # Errors
    /// When the commit fails; nothing is changed then.
    pub async fn commit(self) -> Result<(), OperationalError> {
        self.inner.commit().await?;
        if let Some(told) = self.on_commit {
            told();
        }
        Ok(())
    }

    /// Undoes everything, at once rather than when the connection is next used.
    ///
    /// # Errors
    /// When the database fails to.
    pub async fn rollback(self) -> Result<(), OperationalError> {
        Ok(self.inner.rollback().await?)
    }
}

impl Deref for WriteTransaction {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.inner
    }
}

impl DerefMut for WriteTransaction {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.inner
    }
}

/// Rows as the JSON array that `json_each` takes apart again: many rows, one statement.
pub(crate) fn rows_json<T: Serialize>(rows: &[T]) -> Result<String, OperationalError> {
    serde_json::to_string(rows).map_err(|source| OperationalError::Stored { what: "rows", source })
}
