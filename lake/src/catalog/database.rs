//! One way to speak to SQLite, PostgreSQL and MySQL or MariaDB: statements are written once, with
//! `?` for values; what the three do differently is here.

use std::{
    path::Path,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, ColumnIndex, Connection as _, Decode, Encode, Executor, IntoArguments, MySql,
    MySqlPool, PgPool, Postgres, Row, SqlStr, Sqlite, SqlitePool, Type,
    mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlPoolOptions},
    pool::PoolOptions,
    postgres::{PgConnectOptions, PgPoolOptions},
    query::Query,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

/// How long a connection or a lock is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one statement may take before the connection is given up: a server that is gone without
/// a word would be waited for for ever.
const STATEMENT_PATIENCE: Duration = Duration::from_secs(30);
/// Connections to a server. One commits; the others ask meanwhile.
const CONNECTIONS: u32 = 4;

/// What a database is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Only to read: it must be there.
    Read,
    /// Also to write; a SQLite file is made when it is missing.
    Write,
}

#[derive(Debug)]
pub(crate) enum Database {
    /// With the number of connections there were.
    Sqlite(SqlitePool, Arc<AtomicI64>),
    Postgres(PgPool),
    MySql(MySqlPool),
}

/// A transaction that was begun. Dropped, it is rolled back.
pub(crate) enum Transaction {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
    MySql(sqlx::Transaction<'static, MySql>),
}

/// A value of a statement.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Number(i64),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl Database {
    /// A SQLite file.
    pub(crate) async fn file(path: &Path, access: Access) -> Result<Self, sqlx::Error> {
        Self::sqlite(SqliteConnectOptions::new().filename(path), access).await
    }

    async fn sqlite(options: SqliteConnectOptions, access: Access) -> Result<Self, sqlx::Error> {
        let options = match access {
            Access::Write => options.create_if_missing(true).journal_mode(SqliteJournalMode::Wal),
            Access::Read => options.read_only(true),
        };
        let connections = Arc::new(AtomicI64::new(0));
        let count = Arc::clone(&connections);
        // One connection for as long as the pool lives: `data_version` compares only within one.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .after_connect(move |_, _| {
                count.fetch_add(1, Ordering::Release);
                Box::pin(async { Ok(()) })
            })
            // SQLite ends a transaction by itself when the disk fails it. The connection then waits
            // for an end that cannot come, and is of no use.
            .before_acquire(|connection, _| {
                let ended = !connection.is_in_transaction();
                Box::pin(async move { Ok(ended) })
            });
        let options = options.synchronous(SqliteSynchronous::Full).busy_timeout(PATIENCE);
        Ok(Self::Sqlite(pool.connect_with(options).await?, connections))
    }

    /// The database of an address: `postgres:`, `mysql:`, `mariadb:` or `sqlite:`.
    pub(crate) async fn connect(url: &str, access: Access) -> Result<Self, sqlx::Error> {
        fn pool<DB: sqlx::Database>(options: PoolOptions<DB>) -> PoolOptions<DB> {
            options.max_connections(CONNECTIONS).acquire_timeout(PATIENCE)
        }
        if url.starts_with("postgres") {
            let options = PgConnectOptions::from_str(url)?;
            pool(PgPoolOptions::new()).connect_with(options).await.map(Self::Postgres)
        } else if url.starts_with("mysql:") || url.starts_with("mariadb:") {
            let options = MySqlConnectOptions::from_str(url)?;
            pool(MySqlPoolOptions::new()).connect_with(options).await.map(Self::MySql)
        } else {
            Self::sqlite(SqliteConnectOptions::from_str(url)?, access).await
        }
    }

    /// A transaction that writes: it sees what was committed before it reads, and waits for rows
    /// that others hold.
    pub(crate) async fn begin(&self) -> Result<Transaction, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(pool, _) => Transaction::Sqlite(pool.begin_with("begin immediate").await?),
            Self::Postgres(pool) => Transaction::Postgres(pool.begin().await?),
            Self::MySql(pool) => Transaction::MySql(pool.begin().await?),
        })
    }

    /// A transaction of a reader: one picture, no locks.
    pub(crate) async fn begin_to_read(&self) -> Result<Transaction, sqlx::Error> {
        match self {
            Self::Sqlite(pool, _) => Ok(Transaction::Sqlite(pool.begin().await?)),
            Self::Postgres(_) | Self::MySql(_) => self.begin().await,
        }
    }

    /// What follows a `select` that must hold the rows it reads.
    pub(crate) fn for_update(&self) -> &'static str {
        match self {
            // The whole database is held from the beginning of the transaction.
            Self::Sqlite(..) => "",
            Self::Postgres(_) | Self::MySql(_) => " for update",
        }
    }

    /// What follows the columns of a new table: names differ by case, and a location is compared
    /// byte by byte.
    pub(crate) fn table_suffix(&self) -> &'static str {
        match self {
            Self::Sqlite(..) | Self::Postgres(_) => "",
            Self::MySql(_) => " character set utf8mb4 collate utf8mb4_bin",
        }
    }

    /// A number that changes with every commit of another connection, where there is one.
    pub(crate) async fn version(&self) -> Result<Option<i64>, sqlx::Error> {
        match self {
            Self::Sqlite(pool, connections) => {
                let mut connection = pool.acquire().await?;
                let version: i64 =
                    sqlx::query_scalar("pragma data_version").fetch_one(&mut *connection).await?;
                // It is of 32 bits, and says nothing beside that of another connection.
                Ok(Some(connections.load(Ordering::Acquire) << 32 | version & 0xffff_ffff))
            }
            Self::Postgres(_) | Self::MySql(_) => Ok(None),
        }
    }
}

impl Transaction {
    /// Runs a statement; gives the number of rows it changed, or found to change.
    pub(crate) async fn execute(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> Result<u64, sqlx::Error> {
        bounded(async {
            Ok(match self {
                Self::Sqlite(t) => {
                    query::<Sqlite>(sql, values).execute(&mut **t).await?.rows_affected()
                }
                Self::Postgres(t) => query::<Postgres>(&numbered(sql), values)
                    .execute(&mut **t)
                    .await?
                    .rows_affected(),
                Self::MySql(t) => {
                    query::<MySql>(sql, values).execute(&mut **t).await?.rows_affected()
                }
            })
        })
        .await
    }

    /// The rows of a query whose columns are texts.
    pub(crate) async fn texts(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> Result<Vec<Vec<Option<String>>>, sqlx::Error> {
        bounded(async {
            match self {
                Self::Sqlite(t) => rows::<Sqlite, _, Option<String>>(&mut **t, sql, values).await,
                Self::Postgres(t) => {
                    rows::<Postgres, _, Option<String>>(&mut **t, &numbered(sql), values).await
                }
                Self::MySql(t) => rows::<MySql, _, Option<String>>(&mut **t, sql, values).await,
            }
        })
        .await
    }

    /// The number a query gives, if it gives a row.
    pub(crate) async fn number(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> Result<Option<i64>, sqlx::Error> {
        let rows = bounded(async {
            match self {
                Self::Sqlite(t) => rows::<Sqlite, _, i64>(&mut **t, sql, values).await,
                Self::Postgres(t) => {
                    rows::<Postgres, _, i64>(&mut **t, &numbered(sql), values).await
                }
                Self::MySql(t) => rows::<MySql, _, i64>(&mut **t, sql, values).await,
            }
        });
        Ok(rows.await?.into_iter().flatten().next())
    }

    pub(crate) async fn commit(self) -> Result<(), sqlx::Error> {
        bounded(async {
            match self {
                Self::Sqlite(t) => t.commit().await,
                Self::Postgres(t) => t.commit().await,
                Self::MySql(t) => t.commit().await,
            }
        })
        .await
    }
}

/// A server that does not answer in time is as good as gone. The future dropped takes its
/// transaction along: the connection is closed or rolled back before it is used again.
async fn bounded<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(STATEMENT_PATIENCE, work).await {
        Ok(done) => done,
        Err(late) => Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, late))),
    }
}

fn query<'q, DB>(sql: &str, values: &[Value<'_>]) -> Query<'q, DB, DB::Arguments>
where
    DB: sqlx::Database,
    String: Encode<'q, DB> + Type<DB>,
    i64: Encode<'q, DB> + Type<DB>,
{
    // Statements are constants of this crate; values are only ever bound.
    let sql: SqlStr = sqlx::SqlSafeStr::into_sql_str(AssertSqlSafe(sql.to_owned()));
    let query = sqlx::query::<DB>(sql);
    values.iter().fold(query, |query, value| match value {
        Value::Text(text) => query.bind((*text).to_owned()),
        Value::Number(number) => query.bind(*number),
    })
}

async fn rows<'e, DB, E, T>(
    executor: E,
    sql: &str,
    values: &[Value<'_>],
) -> Result<Vec<Vec<T>>, sqlx::Error>
where
    DB: sqlx::Database,
    DB::Arguments: IntoArguments<DB>,
    E: Executor<'e, Database = DB>,
    String: for<'q> Encode<'q, DB> + Type<DB>,
    i64: for<'q> Encode<'q, DB> + Type<DB>,
    T: for<'r> Decode<'r, DB> + Type<DB>,
    usize: ColumnIndex<DB::Row>,
{
    let rows = query::<DB>(sql, values).fetch_all(executor).await?;
    rows.iter().map(|row| (0..row.len()).map(|column| row.try_get(column)).collect()).collect()
}

/// A statement with `$1`, `$2`, ... in the place of `?`.
fn numbered(sql: &str) -> String {
    let mut pieces = sql.split('?');
    let mut numbered = pieces.next().unwrap_or_default().to_owned();
    for (at, piece) in (1..).zip(pieces) {
        numbered.push_str(&format!("${at}{piece}"));
    }
    numbered
}

/// Whether a transaction that failed with this left nothing behind and may go through when it is
/// tried again: a deadlock, a serialization failure, a lock waited for in vain, two that made the
/// same row or table at once.
pub(crate) fn passes(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(database) = error else { return false };
    if let Some(error) = database.try_downcast_ref::<MySqlDatabaseError>() {
        // Lock wait timeout, deadlock, duplicate entry, record changed since last read.
        return matches!(error.number(), 1205 | 1213 | 1062 | 1020);
    }
    // PostgreSQL: serialization_failure, deadlock_detected, lock_not_available, unique_violation,
    // duplicate_table, and unique_violation of the system tables when two make one table. SQLite:
    // busy, locked, busy recovery, busy snapshot, primary key twice.
    matches!(
        database.code().as_deref(),
        Some("40001" | "40P01" | "55P03" | "23505" | "42P07" | "5" | "6" | "261" | "517" | "1555")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_transaction_that_the_database_ended_itself_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        let database = Database::file(&path, Access::Write).await.unwrap();
        let before = database.version().await.unwrap();
        assert_eq!(database.version().await.unwrap(), before);
        let mut transaction = database.begin().await.unwrap();
        // As when the disk is full.
        transaction.execute("rollback", &[]).await.unwrap();
        drop(transaction);
        let mut transaction = database.begin().await.unwrap();
        transaction.execute("create table t (n integer)", &[]).await.unwrap();
        transaction.commit().await.unwrap();
        assert_ne!(database.version().await.unwrap(), before, "it is another connection's");
    }

    #[test]
    fn placeholders_are_numbered_in_order() {
        assert_eq!(numbered("select 1"), "select 1");
        assert_eq!(numbered("a = ? and b in (?, ?)"), "a = $1 and b in ($2, $3)");
    }
}
