//! How far an import is, kept in the database it writes to: what is committed with the rows can say
//! neither more nor less than they do.

use super::{Connection, WriteTransaction, sql};
use crate::OperationalError;

/// A text for each import, in either database.
pub(super) const PROGRESS: &str = "create table if not exists _progress (
    name varchar(64) primary key, position varchar(1000) not null)";

impl Connection {
    /// What an import noted last; nothing when it has not begun.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn progress(&mut self, import: &str) -> Result<Option<String>, OperationalError> {
        let found: Option<(String,)> =
            sql("select position from _progress where name = ?1").bind(import).first(self).await?;
        Ok(found.map(|(position,)| position))
    }

    /// A statement that a server does not prepare.
    async fn raw(&mut self, statement: &'static str) -> Result<(), OperationalError> {
        match self {
            Self::Sqlite(on) => sqlx::raw_sql(statement).execute(&mut **on).await.map(drop)?,
            Self::MySql(on) => sqlx::raw_sql(statement).execute(&mut **on).await.map(drop)?,
        }
        Ok(())
    }
}

impl WriteTransaction {
    /// Notes how far an import is, in at most 1,000 characters; true from the commit on.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_progress(
        &mut self,
        import: &str,
        position: &str,
    ) -> Result<(), OperationalError> {
        sql("insert into _progress (name, position) values (?1, '') on conflict (name) do nothing")
            .bind(import)
            .execute(self)
            .await?;
        sql("update _progress set position = ?2 where name = ?1")
            .bind(import)
            .bind(position)
            .execute(self)
            .await?;
        Ok(())
    }

    /// Marks a place to which [`undo`](Self::undo) goes back. There is one at a time.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn mark(&mut self) -> Result<(), OperationalError> {
        self.connection.raw("savepoint attempt").await
    }

    /// Keeps what was done since the mark.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keep(&mut self) -> Result<(), OperationalError> {
        self.connection.raw("release savepoint attempt").await
    }

    /// Undoes what was done since the mark, and goes on with the rest.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn undo(&mut self) -> Result<(), OperationalError> {
        self.connection.raw("rollback to savepoint attempt").await?;
        self.keep().await
    }
}
