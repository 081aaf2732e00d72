//! A service's database: a SQLite file of its own, or a database of a MySQL or MariaDB server.
//!
//! Services are written once. [`sql`] gives a statement to either, [`words!`](words) and [`Micros`] are
//! values that both store, [`WriteTransaction`] is how they change rows. What a service has to know of
//! the difference is this: in SQLite all writers queue, so whatever a transaction read is still so when
//! it writes; on a server it holds only the rows it read `for update`, and is told by
//! [`OperationalError::Contended`] to begin again when it meets another.

mod connection;
mod ids;
mod progress;
mod record;
mod statement;
mod value;

use std::{
    path::{Path, PathBuf},
    str::FromStr as _,
    sync::{Arc, OnceLock, atomic::AtomicI64},
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, Connection as _, MySqlPool, SqlitePool,
    mysql::{MySqlConnectOptions, MySqlPoolOptions},
    pool::PoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use tokio::sync::watch;

pub use connection::{Connection, ReadTransaction, WriteTransaction};
pub use ids::RECORDED_IDS;
pub(crate) use record::{Record, insert, insert_missing, insert_one, record};
pub(crate) use statement::{Row, sql};
pub use value::Micros;
pub(crate) use value::{Value, words};

use crate::{MasterKeys, Migrations, OperationalError, capture, migrate, names::is_name};

/// Called after each commit, on the task that committed: it must return at once.
pub type OnCommit = Arc<dyn Fn() + Send + Sync>;

/// Where the services' databases are.
#[derive(Clone, PartialEq, Eq)]
pub enum Storage {
    /// Files `<service>.db` in a folder.
    Folder {
        /// The folder; it is made when it is missing.
        folder: PathBuf,
        /// What a commit survives.
        durability: Durability,
    },
    /// Databases of a MySQL or MariaDB server, each named as its service behind a prefix. They are
    /// made when they are missing and the user may make them.
    Server {
        /// `mysql://user:password@host:port`.
        url: String,
        /// What their names begin with, such as `medlake_`.
        prefix: String,
    },
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder { folder, durability } => f
                .debug_struct("Folder")
                .field("folder", folder)
                .field("durability", durability)
                .finish(),
            // The address has a password.
            Self::Server { prefix, .. } => {
                f.debug_struct("Server").field("prefix", prefix).finish_non_exhaustive()
            }
        }
    }
}

impl Storage {
    /// Files in a folder, which survive a kill of the process.
    #[must_use]
    pub fn files(folder: &Path) -> Self {
        Self::Folder { folder: folder.to_path_buf(), durability: Durability::default() }
    }

    /// Whether the names of databases on a server may begin so: lower-case letters, digits and
    /// underscores, no more than 40.
    #[must_use]
    pub fn is_prefix(text: &str) -> bool {
        text.is_empty() || is_name(text, 40)
    }
}

/// What a commit in a file survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// A kill of the process at any instant (WAL, `synchronous = normal`). A power cut may undo the
    /// last commits, never part of one. About 700 times as many commits a second.
    #[default]
    ProcessKill,
    /// A power cut too (`synchronous = full`): one disk flush a commit.
    PowerCut,
}

/// How long a statement waits for another writer before it is refused as busy.
const BUSY_TIMEOUT: Duration = Duration::from_secs(20);
const READERS: u32 = 4;
/// How often a transaction that meets another on a server is begun.
pub(crate) const ATTEMPTS: usize = 10;
/// Connections to a server, readers and writers together.
const CONNECTIONS: u32 = 16;

/// One service's database. Cheap to clone; all clones are the same database.
///
/// **Invariant:** all writes of this process to a file go through the one writing connection, so they
/// queue in the order they asked and never find the database locked by each other.
#[derive(Clone)]
pub struct Database {
    name: &'static str,
    store: Store,
    ids: Arc<ids::Ids>,
    /// When old idempotency keys were last removed, in microseconds since 1970.
    forgot_at: Arc<AtomicI64>,
    capture: Capture,
    master_keys: Arc<OnceLock<MasterKeys>>,
    on_commit: OnCommit,
    /// Changes with each commit that left messages in the outbox.
    outbox_filled: Arc<watch::Sender<()>>,
}

/// Whether each row change of a database is captured for the lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// In a file by triggers, on a server by its binlog.
    On,
    /// Nothing of it leaves the database.
    Off,
}

#[derive(Clone)]
enum Store {
    Sqlite {
        path: PathBuf,
        writer: SqlitePool,
        readers: SqlitePool,
    },
    MySql {
        pool: MySqlPool,
        /// For blocks of ids alone: taken beside a transaction, they would otherwise wait for a
        /// connection that only such transactions hold.
        numbers: MySqlPool,
    },
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens or creates the database of a service, applies the migrations it lacks and, in a file that is
    /// captured, makes its capture triggers fit its tables.
    ///
    /// `on_commit` is called after each commit of captured rows.
    ///
    /// # Errors
    /// When it cannot be opened, or an applied migration differs from the one given.
    pub async fn open(
        storage: &Storage,
        name: &'static str,
        migrations: Migrations,
        capture: Capture,
        on_commit: OnCommit,
    ) -> Result<Self, OperationalError> {
        let store = match storage {
            Storage::Folder { folder, durability } => {
                Store::file(folder, name, migrations, capture, *durability).await?
            }
            Storage::Server { url, prefix } => Store::server(url, prefix, name, migrations).await?,
        };
        Ok(Self {
            name,
            store,
            ids: Arc::default(),
            forgot_at: Arc::default(),
            master_keys: Arc::default(),
            capture,
            on_commit,
            outbox_filled: Arc::new(watch::Sender::new(())),
        })
    }

    /// The name of the service, which is the id of the source that is read from it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The file, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.store {
            Store::Sqlite { path, .. } => Some(path),
            Store::MySql { .. } => None,
        }
    }

    /// What its services encrypt with, from now on; the first ones that are given stay.
    pub(crate) fn use_master_keys(&self, keys: MasterKeys) {
        // Given twice, the second ones are of the same file.
        let _ = self.master_keys.set(keys);
    }

    /// What its services encrypt with.
    ///
    /// # Errors
    /// `NoKeys` when none were given.
    pub fn master_keys(&self) -> Result<MasterKeys, OperationalError> {
        self.master_keys.get().cloned().ok_or(OperationalError::NoKeys)
    }

    /// A transaction whose row changes are captured together. In a file it waits for the writer
    /// before it.
    ///
    /// `committed_at` is what readers of the changes see as the time of the commit, in microseconds
    /// since 1970 (UTC): the present, also for a replay.
    ///
    /// # Errors
    /// `Busy` when another process writes for too long.
    pub async fn begin(&self, committed_at: i64) -> Result<WriteTransaction, OperationalError> {
        let mut connection = self.begin_connection().await?;
        if let (Connection::Sqlite(_), Capture::On) = (&connection, self.capture) {
            sql("insert into cdc_transaction (committed_at) values (?1)")
                .bind(Micros(committed_at))
                .execute(&mut connection)
                .await?;
        }
        let on_commit = (self.capture == Capture::On).then(|| Arc::clone(&self.on_commit));
        Ok(self.transaction(connection, on_commit, committed_at))
    }

    fn transaction(
        &self,
        connection: Connection,
        on_commit: Option<OnCommit>,
        began_at: i64,
    ) -> WriteTransaction {
        WriteTransaction {
            connection,
            database: self.clone(),
            on_commit,
            began_at,
            fills_outbox: false,
            traceparent: None,
            numbering: ids::Numbering::default(),
        }
    }

    /// A transaction over tables that are not captured. Nobody is told of its commit.
    pub(crate) async fn begin_internal(&self) -> Result<WriteTransaction, OperationalError> {
        let connection = self.begin_connection().await?;
        Ok(self.transaction(connection, None, 0))
    }

    /// As [`begin_internal`](Self::begin_internal), beside the caller's own transaction and for a moment.
    async fn begin_beside(&self) -> Result<WriteTransaction, OperationalError> {
        let connection = match &self.store {
            Store::MySql { numbers, .. } => Connection::MySql(numbers.begin().await?),
            Store::Sqlite { .. } => self.begin_connection().await?,
        };
        Ok(self.transaction(connection, None, 0))
    }

    async fn begin_connection(&self) -> Result<Connection, OperationalError> {
        Ok(match &self.store {
            Store::Sqlite { writer, .. } => {
                Connection::Sqlite(writer.begin_with("begin immediate").await?)
            }
            Store::MySql { pool, .. } => Connection::MySql(pool.begin().await?),
        })
    }

    /// A transaction that cannot write.
    ///
    /// # Errors
    /// `Busy` when all connections stay in use for too long.
    pub async fn read(&self) -> Result<ReadTransaction, OperationalError> {
        Ok(ReadTransaction(match &self.store {
            Store::Sqlite { readers, .. } => Connection::Sqlite(readers.begin().await?),
            Store::MySql { pool, .. } => Connection::MySql(
                pool.begin_with("start transaction with consistent snapshot, read only").await?,
            ),
        }))
    }

    /// How many connections are open, and how many of them are idle.
    pub(crate) fn connections(&self) -> (usize, usize) {
        match &self.store {
            Store::Sqlite { writer, readers, .. } => (
                writer.size() as usize + readers.size() as usize,
                writer.num_idle() + readers.num_idle(),
            ),
            Store::MySql { pool, .. } => (pool.size() as usize, pool.num_idle()),
        }
    }

    /// Tells of commits that left messages in the outbox.
    pub(crate) fn outbox_filled(&self) -> watch::Receiver<()> {
        self.outbox_filled.subscribe()
    }

    /// Closes all connections, after which every call fails.
    pub async fn close(&self) {
        match &self.store {
            Store::Sqlite { writer, readers, .. } => {
                readers.close().await;
                writer.close().await;
            }
            Store::MySql { pool, numbers } => {
                pool.close().await;
                numbers.close().await;
            }
        }
    }
}

impl Store {
    async fn file(
        folder: &Path,
        name: &'static str,
        migrations: Migrations,
        capture: Capture,
        durability: Durability,
    ) -> Result<Self, OperationalError> {
        std::fs::create_dir_all(folder)
            .map_err(|source| OperationalError::Folder { folder: folder.to_path_buf(), source })?;
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
        let pool = |connections| for_good(SqlitePoolOptions::new()).max_connections(connections);
        let writer = pool(1)
            // SQLite ends a transaction by itself when the disk fails it. The connection then waits for an
            // end that cannot come, and is of no use.
            .before_acquire(|connection, _| {
                let ended = !connection.is_in_transaction();
                Box::pin(async move { Ok(ended) })
            })
            .connect_with(options.clone())
            .await?;
        let mut tx = writer.begin_with("begin immediate").await?;
        sqlx::query(ids::SEQUENCE).execute(&mut *tx).await?;
        sqlx::query(progress::PROGRESS).execute(&mut *tx).await?;
        let captured = capture == Capture::On;
        if captured {
            capture::remember(&mut tx).await?;
        }
        let missing = migrate::missing(&mut tx, name, migrations.sqlite).await?;
        if captured && !missing.is_empty() {
            capture::remove(&mut tx).await?;
        }
        let written = migrate::apply(&mut tx, missing).await?;
        if captured {
            capture::install(&mut tx, written).await?;
        }
        tx.commit().await?;
        let readers = pool(READERS).connect_with(options.pragma("query_only", "on")).await?;
        Ok(Self::Sqlite { path, writer, readers })
    }

    async fn server(
        url: &str,
        prefix: &str,
        name: &'static str,
        migrations: Migrations,
    ) -> Result<Self, OperationalError> {
        if !Storage::is_prefix(prefix) {
            return Err(OperationalError::invalid(format!(
                "the prefix \"{prefix}\" is not of lower-case letters, digits and underscores, at most 40"
            )));
        }
        let database = format!("{prefix}{name}");
        let options = MySqlConnectOptions::from_str(url)?;
        let server = MySqlPoolOptions::new().max_connections(1).connect_lazy_with(options.clone());
        let make = format!(
            "create database if not exists {database} character set utf8mb4 collate utf8mb4_bin"
        );
        // Refused to a user who may only use it: then it is there, or opening it says so.
        let _ =
            sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut server.acquire().await?.detach()).await;
        server.close().await;
        let options = options.database(&database);
        let pool = |connections| {
            for_good(MySqlPoolOptions::new())
                .max_connections(connections)
                .test_before_acquire(true)
                .after_connect(|connection, _| {
                    Box::pin(async move {
                        // A transaction sees what others have committed, and holds no gaps between rows.
                        sqlx::raw_sql(
                            "set session transaction isolation level read committed;
                         set session innodb_lock_wait_timeout = 10",
                        )
                        .execute(connection)
                        .await
                        .map(drop)
                    })
                })
        };
        let numbers = pool(1).connect_lazy_with(options.clone());
        let pool = pool(CONNECTIONS).connect_with(options).await?;
        let mut connection = pool.acquire().await?;
        sqlx::query(ids::SEQUENCE).execute(&mut *connection).await?;
        sqlx::query(progress::PROGRESS).execute(&mut *connection).await?;
        migrate::apply_to_server(&mut connection, name, migrations.mysql).await?;
        drop(connection);
        Ok(Self::MySql { pool, numbers })
    }
}

fn for_good<DB: sqlx::Database>(options: PoolOptions<DB>) -> PoolOptions<DB> {
    options
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .acquire_timeout(BUSY_TIMEOUT)
}
