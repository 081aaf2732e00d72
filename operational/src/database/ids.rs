//! Ids of new rows: small numbers that grow, from a table `_sequence` of each database.
//!
//! Not the database's own numbering: an order and its lines are numbered before they are written, in
//! one statement each, and the ids that a recording brings along take no part in it.

use std::{collections::HashMap, ops::Range};

use tokio::sync::Mutex;

use super::{Connection, Database, sql};
use crate::OperationalError;

/// From here on ids are those that were recorded elsewhere. The next free id stays below, so a row
/// made while a recording is replayed never takes the id of one that is still to come.
pub const RECORDED_IDS: i64 = 10_000_000_000;

/// How many ids a process takes from a server at once. Those that it does not use are never used:
/// numbers have gaps, and no two writers wait for each other.
const BLOCK: i64 = 1_000;

/// What is left of the ids taken from a server, by table.
#[derive(Debug, Default)]
pub(super) struct Ids(Mutex<HashMap<&'static str, Range<i64>>>);

impl Ids {
    pub(super) async fn number(
        &self,
        on: &mut Connection,
        database: &Database,
        table: &'static str,
        given: &[Option<i64>],
    ) -> Result<Vec<i64>, OperationalError> {
        // What is given and not recorded is to be left out of the numbering.
        let above = given.iter().flatten().filter(|&&id| id < RECORDED_IDS).max().map(|id| id + 1);
        let count = given.iter().filter(|id| id.is_none()).count();
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let mut free = match on {
            Connection::Sqlite(_) => take(on, table, count, above).await?,
            Connection::MySql(_) => self.of_block(database, table, count, above).await?,
        };
        let next = given.iter().map(|id| id.or_else(|| free.next()));
        Ok(next.map(|id| id.expect("as many were taken as are missing")).collect())
    }

    async fn of_block(
        &self,
        database: &Database,
        table: &'static str,
        count: i64,
        above: Option<i64>,
    ) -> Result<Range<i64>, OperationalError> {
        let mut blocks = self.0.lock().await;
        let block = blocks.entry(table).or_insert(0..0);
        if let Some(above) = above {
            block.start = block.start.max(above);
        }
        if block.end - block.start < count || above.is_some_and(|above| above > block.end) {
            // Beside the caller's transaction, which would keep the row to itself to its end.
            let mut beside = database.begin_internal().await?;
            *block = take(&mut beside, table, count + BLOCK, above).await?;
            beside.commit().await?;
        }
        let taken = block.start..block.start + count;
        block.start = taken.end;
        Ok(taken)
    }
}

/// Takes ids that nobody has, above all that were given.
async fn take(
    on: &mut Connection,
    table: &'static str,
    count: i64,
    above: Option<i64>,
) -> Result<Range<i64>, OperationalError> {
    if count == 0 && above.is_none() {
        return Ok(0..0);
    }
    let first = match on {
        Connection::Sqlite(_) => {
            let next: i64 = sql("insert into _sequence (name, next_id) values (?1, ?3 + ?2)
                 on conflict (name) do update set next_id = max(next_id, ?3) + ?2
                 returning next_id")
            .bind(table)
            .bind(count)
            .bind(above.unwrap_or(1))
            .value(on)
            .await?;
            next - count
        }
        Connection::MySql(_) => {
            sql("insert into _sequence (name, next_id) values (?1, 1)
                 on conflict (name) do nothing")
            .bind(table)
            .execute(on)
            .await?;
            let next: i64 = sql("select next_id from _sequence where name = ?1 for update")
                .bind(table)
                .value(on)
                .await?;
            let first = next.max(above.unwrap_or(1));
            sql("update _sequence set next_id = ?2 where name = ?1")
                .bind(table)
                .bind(first + count)
                .execute(on)
                .await?;
            first
        }
    };
    Ok(first..first + count)
}
