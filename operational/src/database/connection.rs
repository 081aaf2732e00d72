//! An open connection: a transaction, so that all it reads is of one moment.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, atomic::Ordering},
};

use sqlx::{MySql, Sqlite, SqliteConnection};

use super::{Database, OnCommit, Record, ids::Numbering};
use crate::OperationalError;

/// A connection to either database, within a transaction.
pub enum Connection {
    /// To a file.
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    /// To a server.
    MySql(sqlx::Transaction<'static, MySql>),
}

impl Connection {
    /// The connection itself, to a file.
    #[must_use]
    pub fn sqlite(&mut self) -> Option<&mut SqliteConnection> {
        match self {
            Self::Sqlite(file) => Some(file),
            Self::MySql(_) => None,
        }
    }

    async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(inner) => inner.commit().await,
            Self::MySql(inner) => inner.commit().await,
        }
    }

    async fn rollback(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(inner) => inner.rollback().await,
            Self::MySql(inner) => inner.rollback().await,
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sqlite(_) => "Sqlite",
            Self::MySql(_) => "MySql",
        })
    }
}

/// A transaction that only reads.
#[derive(Debug)]
pub struct ReadTransaction(pub(super) Connection);

impl Deref for ReadTransaction {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl DerefMut for ReadTransaction {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.0
    }
}

/// An open writing transaction. Dropped without [`commit`](Self::commit), it leaves nothing behind.
pub struct WriteTransaction {
    pub(super) connection: Connection,
    pub(super) database: Database,
    pub(super) on_commit: Option<OnCommit>,
    /// The present, in microseconds since 1970 (UTC); also in a replay.
    pub(super) began_at: i64,
    /// Whether it leaves messages in the outbox.
    pub(super) fills_outbox: bool,
    /// The trace it belongs to.
    pub(super) traceparent: Option<String>,
    /// The ids it took of a file.
    pub(super) numbering: Numbering,
}

impl std::fmt::Debug for WriteTransaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("WriteTransaction").field(&self.connection).finish()
    }
}

impl WriteTransaction {
    /// Makes the changes durable and visible, then tells whoever waits for commits.
    ///
    /// # Errors
    /// When the commit fails; nothing is changed then, as far as the database answers.
    pub async fn commit(mut self) -> Result<(), OperationalError> {
        self.numbering.write(&mut self.connection).await?;
        self.connection.commit().await?;
        if let Some(told) = self.on_commit {
            told();
        }
        if self.fills_outbox {
            self.database.outbox_filled.send_replace(());
        }
        Ok(())
    }

    /// Undoes everything, at once rather than when the connection is next used.
    ///
    /// # Errors
    /// When the database fails to.
    pub async fn rollback(self) -> Result<(), OperationalError> {
        Ok(self.connection.rollback().await?)
    }

    /// Commits when what was done in it went well, and undoes it otherwise.
    ///
    /// # Errors
    /// What was done ended with; those of [`commit`](Self::commit) and [`rollback`](Self::rollback).
    pub(crate) async fn end<T>(
        self,
        done: Result<T, OperationalError>,
    ) -> Result<T, OperationalError> {
        match done {
            Ok(value) => self.commit().await.map(|()| value),
            Err(error) => {
                self.rollback().await?;
                Err(error)
            }
        }
    }

    /// The present, in microseconds since 1970 (UTC); also in a replay.
    pub(crate) const fn began_at(&self) -> i64 {
        self.began_at
    }

    /// The trace it belongs to (W3C Trace Context), if it is of a request.
    pub(crate) fn traceparent(&self) -> Option<String> {
        self.traceparent.clone()
    }

    /// What it does belongs to this trace.
    pub(crate) fn set_traceparent(&mut self, traceparent: String) {
        self.traceparent = Some(traceparent);
    }

    /// Whoever delivers the outbox is told when this commits.
    pub(crate) const fn fill_outbox(&mut self) {
        self.fills_outbox = true;
    }

    /// Whether old idempotency keys are due to be removed: at times, so that requests on a server do not
    /// stand in each other's way with it.
    pub(crate) fn is_time_to_forget(&self, now: i64) -> bool {
        const EVERY_MICROS: i64 = 3600 * 1_000_000;
        let last = &self.database.forgot_at;
        let at = last.load(Ordering::Relaxed);
        now.saturating_sub(at) >= EVERY_MICROS
            && last.compare_exchange(at, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// What the services of this database encrypt with.
    ///
    /// # Errors
    /// `NoKeys` when none were given.
    pub(crate) fn master_keys(&self) -> Result<crate::MasterKeys, OperationalError> {
        self.database.master_keys()
    }

    /// Ids for new rows of a table: those that are given stay, the others get the next free ones.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn ids<R: Record>(
        &mut self,
        given: impl IntoIterator<Item = Option<i64>>,
    ) -> Result<Vec<i64>, OperationalError> {
        let given: Vec<Option<i64>> = given.into_iter().collect();
        let ids = Arc::clone(&self.database.ids);
        ids.number::<R>(&mut self.connection, &mut self.numbering, &self.database, &given).await
    }

    /// The id of one new row: the one that is given, or the next free one.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn id<R: Record>(
        &mut self,
        given: Option<i64>,
    ) -> Result<i64, OperationalError> {
        Ok(self.ids::<R>([given]).await?[0])
    }
}

impl Deref for WriteTransaction {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for WriteTransaction {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}
