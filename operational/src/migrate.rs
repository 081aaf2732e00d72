use sqlx::{MySqlConnection, SqliteConnection};

use crate::OperationalError;

/// One released step of a database's schema. Steps only go forward and never change once released.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Its number: 1, 2, 3 and so on.
    pub version: i64,
    /// Its statements.
    pub sql: &'static str,
}

/// The steps of a service, for a file and for a server.
#[derive(Debug, Clone, Copy)]
pub struct Migrations {
    /// In SQL of SQLite.
    pub sqlite: &'static [Migration],
    /// In SQL of MySQL and MariaDB. A step may be applied again from its beginning: a server ends the
    /// transaction at each change of a table, so one that was stopped in the middle is in part there.
    pub mysql: &'static [Migration],
}

const JOURNAL: &str = "create table if not exists _migration (
    version integer primary key,
    sql text not null,
    applied_at text not null default current_timestamp
)";

/// What the database lacks.
///
/// The whole text of each applied step is kept and compared: a checksum that can also be read.
pub(crate) async fn missing(
    connection: &mut SqliteConnection,
    database: &'static str,
    migrations: &'static [Migration],
) -> Result<&'static [Migration], OperationalError> {
    sqlx::query(JOURNAL).execute(&mut *connection).await?;
    let applied: Vec<(i64, String)> =
        sqlx::query_as("select version, sql from _migration order by version")
            .fetch_all(connection)
            .await?;
    after(&applied, database, migrations)
}

/// The steps after those that were applied, which must be the first of ours.
fn after(
    applied: &[(i64, String)],
    database: &'static str,
    migrations: &'static [Migration],
) -> Result<&'static [Migration], OperationalError> {
    for (at, (version, sql)) in applied.iter().enumerate() {
        let problem = match migrations.get(at) {
            Some(known) if known.version == *version && known.sql == sql => continue,
            Some(_) => "a released migration was edited; restore its file and add a new one",
            None => "the database was written by a newer program; start that one",
        };
        return Err(OperationalError::Migration { database, version: *version, problem });
    }
    Ok(&migrations[applied.len()..])
}

/// Applies these steps. Answers whether they wrote any rows.
pub(crate) async fn apply(
    connection: &mut SqliteConnection,
    migrations: &'static [Migration],
) -> Result<bool, OperationalError> {
    let mut written = false;
    for migration in migrations {
        let before = rows_written(connection).await?;
        sqlx::raw_sql(migration.sql).execute(&mut *connection).await?;
        written |= rows_written(connection).await? > before;
        sqlx::query("insert into _migration (version, sql) values (?1, ?2)")
            .bind(migration.version)
            .bind(migration.sql)
            .execute(&mut *connection)
            .await?;
    }
    Ok(written)
}

/// How many rows this connection has written. What a change of columns does to rows does not count.
async fn rows_written(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select total_changes()").fetch_one(connection).await
}

/// Applies what a server's database lacks, one process after another.
pub(crate) async fn apply_to_server(
    connection: &mut MySqlConnection,
    database: &'static str,
    migrations: &'static [Migration],
) -> Result<(), OperationalError> {
    let lock = format!("medlake_migrations_{database}");
    let alone: Option<bool> = sqlx::query_scalar("select get_lock(?, 60)")
        .bind(&lock)
        .fetch_one(&mut *connection)
        .await?;
    if alone != Some(true) {
        return Err(sqlx::Error::PoolTimedOut.into());
    }
    let done = apply_alone(connection, database, migrations).await;
    sqlx::query("do release_lock(?)").bind(&lock).execute(connection).await?;
    done
}

async fn apply_alone(
    connection: &mut MySqlConnection,
    database: &'static str,
    migrations: &'static [Migration],
) -> Result<(), OperationalError> {
    sqlx::raw_sql(
        "create table if not exists _migration (
            version bigint primary key, `sql` longtext not null,
            applied_at datetime(6) not null default (utc_timestamp(6)))",
    )
    .execute(&mut *connection)
    .await?;
    let applied: Vec<(i64, String)> =
        sqlx::query_as("select version, `sql` from _migration order by version")
            .fetch_all(&mut *connection)
            .await?;
    for migration in after(&applied, database, migrations)? {
        sqlx::raw_sql(migration.sql).execute(&mut *connection).await?;
        sqlx::query("insert into _migration (version, `sql`) values (?, ?)")
            .bind(migration.version)
            .bind(migration.sql)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
