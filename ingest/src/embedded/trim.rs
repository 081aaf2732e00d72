use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use medlake_contract::{Position, SourceId};
use sqlx::{
    ConnectOptions, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteSynchronous},
};
use tokio::sync::Mutex;

use super::{fail, stored};
use crate::{IngestError, publish::published_to, source::Acknowledge};

/// Changes deleted in one write transaction: a service that wants to write waits this long at most.
const CHUNK: i64 = 5_000;

/// Deletes changes that are no longer needed. Clones share one connection.
#[derive(Debug, Clone)]
pub(super) struct Trimmer {
    at: SourceId,
    connection: Arc<Mutex<SqliteConnection>>,
}

impl Trimmer {
    pub(super) async fn open(
        at: SourceId,
        options: SqliteConnectOptions,
    ) -> Result<Self, IngestError> {
        // A trim that a power cut undoes is only done again.
        let connection = options
            .synchronous(SqliteSynchronous::Normal)
            .connect()
            .await
            .map_err(fail(&at, "open the database"))?;
        Ok(Self { at, connection: Arc::new(Mutex::new(connection)) })
    }

    /// Deletes the changes up to and with `change_id`, oldest first, as far as they are published
    /// where they are to be, and records how far it is
    /// with each chunk; then the transactions that have no changes left, but the newest.
    async fn trim(&self, change_id: u64) -> Result<u64, IngestError> {
        let fail = fail(&self.at, "trim the changes");
        let mut connection = self.connection.lock().await;
        let published = published_to(&mut connection).await.map_err(&fail)?;
        let end = stored(change_id).min(published.unwrap_or(i64::MAX));
        let mut trimmed = 0;
        loop {
            // Read outside the write transaction: nobody else deletes, and when there is nothing
            // to do the services' writers are left alone.
            let first: Option<i64> = sqlx::query_scalar("select min(change_id) from cdc_change")
                .fetch_one(&mut *connection)
                .await
                .map_err(&fail)?;
            let Some(first) = first.filter(|first| *first <= end) else { break };
            let mut write = connection.begin_with("begin immediate").await.map_err(&fail)?;
            let to = end.min(first.saturating_add(CHUNK - 1));
            trimmed += sqlx::query("delete from cdc_change where change_id <= ?")
                .bind(to)
                .execute(&mut *write)
                .await
                .map_err(&fail)?
                .rows_affected();
            sqlx::query(
                "insert into cdc_trimmed (only_row, trimmed_to) values (1, ?)
                 on conflict (only_row) do update set
                     trimmed_to = max(trimmed_to, excluded.trimmed_to)",
            )
            .bind(to)
            .execute(&mut *write)
            .await
            .map_err(&fail)?;
            sqlx::query(
                "delete from cdc_transaction where tx_id in (
                     select tx_id from cdc_transaction
                     where tx_id < coalesce(
                         (select tx_id from cdc_change order by change_id limit 1),
                         (select max(tx_id) from cdc_transaction)
                     )
                     order by tx_id
                     limit ?
                 )",
            )
            .bind(2 * CHUNK)
            .execute(&mut *write)
            .await
            .map_err(&fail)?;
            write.commit().await.map_err(&fail)?;
        }
        Ok(trimmed)
    }
}

impl Acknowledge for Trimmer {
    /// In chunks, each a transaction of its own that a service waits for at most some milliseconds.
    fn acknowledge<'a>(
        &'a self,
        position: &'a Position,
    ) -> BoxFuture<'a, Result<u64, IngestError>> {
        async move {
            match *position {
                Position::ChangeId(change_id) => self.trim(change_id).await,
                _ => Err(IngestError::ForeignPosition {
                    at: self.at.clone(),
                    position: position.clone(),
                }),
            }
        }
        .boxed()
    }
}
