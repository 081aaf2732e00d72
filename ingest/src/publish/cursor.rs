//! What the database itself knows of its being published: what must not be trimmed yet.

use std::path::Path;

use sqlx::{
    ConnectOptions, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteSynchronous},
};

use super::producer::Stored;
use crate::{
    PublishConfig, PublishError,
    embedded::{BUSY_TIMEOUT, bounds, is_complete},
};

/// `database` names this file, so that no other is taken for it; `beginning` counts how often
/// publishing began with the rows there are. `published_to` is null while nothing is published.
const TABLE: &str = "create table if not exists cdc_published (
    only_row integer primary key check (only_row = 1),
    database text not null,
    beginning integer not null,
    prefix text not null,
    published_to integer,
    copied integer not null check (copied in (0, 1))
)";

/// Up to where a database is published, for whoever trims it; none when it is not published.
pub(crate) async fn published_to(
    connection: &mut SqliteConnection,
) -> Result<Option<i64>, sqlx::Error> {
    let exists = "select exists (select 1 from sqlite_schema where name = 'cdc_published')";
    if !sqlx::query_scalar::<_, bool>(exists).fetch_one(&mut *connection).await? {
        return Ok(None);
    }
    let found = sqlx::query_scalar("select published_to from cdc_published");
    Ok(found.fetch_optional(connection).await?.flatten())
}

/// How far a database is published.
#[derive(Debug)]
pub(super) struct Cursor {
    connection: SqliteConnection,
    /// What this beginning is known by.
    of: String,
    published_to: i64,
    /// What the database knows.
    told: i64,
    /// Whether the rows are published that no change tells of.
    copied: bool,
}

fn failed(source: sqlx::Error) -> PublishError {
    PublishError::Database { doing: "note how far it is published", source }
}

async fn connect(path: &Path) -> Result<SqliteConnection, PublishError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(BUSY_TIMEOUT)
        // What a power cut undoes, Kafka knows.
        .synchronous(SqliteSynchronous::Normal);
    options.connect().await.map_err(failed)
}

impl Cursor {
    /// Begins where it is not begun yet: from here on nothing is trimmed that is not published. A
    /// prefix that is new is a new beginning.
    pub(super) async fn open(path: &Path, config: &PublishConfig) -> Result<Self, PublishError> {
        let mut connection = connect(path).await?;
        let mut write = connection.begin_with("begin immediate").await.map_err(failed)?;
        sqlx::query(TABLE).execute(&mut *write).await.map_err(failed)?;
        let known: Option<(String, i64, String, Option<i64>, bool)> = sqlx::query_as(
            "select database, beginning, prefix, published_to, copied from cdc_published",
        )
        .fetch_optional(&mut *write)
        .await
        .map_err(failed)?;
        let (of, published_to, copied) = match known {
            Some((database, beginning, prefix, Some(published_to), copied))
                if prefix == config.prefix =>
            {
                (format!("{database}:{beginning}"), published_to, copied)
            }
            _ => {
                let from = bounds(&mut write).await.map_err(failed)?;
                let copied = is_complete(&mut write).await.map_err(failed)?;
                // Changes after this come after the rows, even if these have them already.
                let at = if copied { 0 } else { i64::try_from(from.newest).unwrap_or(i64::MAX) };
                let (database, beginning): (String, i64) = sqlx::query_as(
                    "insert into cdc_published
                         (only_row, database, beginning, prefix, published_to, copied)
                     values (1, lower(hex(randomblob(8))), 1, ?1, ?2, ?3)
                     on conflict (only_row) do update set
                         beginning = beginning + 1, prefix = excluded.prefix,
                         published_to = excluded.published_to, copied = excluded.copied
                     returning database, beginning",
                )
                .bind(&config.prefix)
                .bind(at)
                .bind(copied)
                .fetch_one(&mut *write)
                .await
                .map_err(failed)?;
                (format!("{database}:{beginning}"), at, copied)
            }
        };
        write.commit().await.map_err(failed)?;
        Ok(Self { connection, of, published_to, told: published_to, copied })
    }

    pub(super) async fn forget(path: &Path) -> Result<(), PublishError> {
        let mut connection = connect(path).await?;
        if published_to(&mut connection).await.map_err(failed)?.is_some() {
            let sql = "update cdc_published set published_to = null";
            sqlx::query(sql).execute(&mut connection).await.map_err(failed)?;
            tracing::info!(path = %path.display(), "its changes are not published any more");
        }
        connection.close().await.map_err(failed)
    }

    /// Goes to where Kafka says it ended, which is never behind what the database knows.
    pub(super) fn settle(
        &mut self,
        stored: Option<Stored>,
        config: &PublishConfig,
        service: &str,
    ) -> Result<(), PublishError> {
        let Some(Stored { change_id, of }) = stored else { return Ok(()) };
        let database = |of: &str| of.split(':').next().map(str::to_owned);
        if database(&of) != database(&self.of) {
            let (prefix, group) = (config.prefix.clone(), config.id(service));
            return Err(PublishError::OtherDatabase { prefix, group });
        }
        if of == self.of {
            self.published_to = self.published_to.max(change_id);
            self.copied = true;
        }
        Ok(())
    }

    pub(super) fn of(&self) -> &str {
        &self.of
    }

    pub(super) fn published_to(&self) -> i64 {
        self.published_to
    }

    pub(super) fn has_rows(&self) -> bool {
        self.copied
    }

    /// The rows are published.
    pub(super) async fn copied(&mut self) -> Result<(), PublishError> {
        self.copied = true;
        self.tell().await
    }

    pub(super) fn advance(&mut self, change_id: i64) {
        self.published_to = change_id;
    }

    /// Whether the database does not know yet how far it is.
    pub(super) fn is_ahead(&self) -> bool {
        self.published_to > self.told
    }

    pub(super) async fn tell(&mut self) -> Result<(), PublishError> {
        sqlx::query("update cdc_published set published_to = ?1, copied = ?2")
            .bind(self.published_to)
            .bind(self.copied)
            .execute(&mut self.connection)
            .await
            .map_err(failed)?;
        self.told = self.published_to;
        Ok(())
    }
}
