//! Ids of new rows: small numbers that grow, from a table `_sequence` of each database.
//!
//! Not the database's own numbering: an order and its lines are numbered before they are written, in
//! one statement each, and the ids that a recording brings along take no part in it.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
};

use tokio::sync::Mutex;

use super::{Connection, Database, Record, sql};
use crate::OperationalError;

/// From here on ids are those that were recorded elsewhere. The next free id stays below, so a row
/// made while a recording is replayed never takes the id of one that is still to come.
pub const RECORDED_IDS: i64 = 10_000_000_000;

/// The next id of each table, in either database.
pub(super) const SEQUENCE: &str = "create table if not exists _sequence (
    name varchar(64) primary key, next_id bigint not null)";

/// How many ids a process takes from a server at once. Those that it does not use are never used:
/// numbers have gaps, and no two writers wait for each other.
const BLOCK: i64 = 1_000;

/// What is left of the ids taken from a server, by table.
#[derive(Debug, Default)]
pub(super) struct Ids(Mutex<HashMap<&'static str, Range<i64>>>);

/// The next ids of a file's tables as a transaction has them. They are read at once and written at once,
/// with its commit: nobody else writes meanwhile.
#[derive(Debug, Default)]
pub(super) struct Numbering {
    next: Option<HashMap<String, i64>>,
    changed: BTreeSet<&'static str>,
}

impl Numbering {
    async fn take<R: Record>(
        &mut self,
        on: &mut Connection,
        count: i64,
        above: Option<i64>,
    ) -> Result<Range<i64>, OperationalError> {
        if count == 0 && above.is_none() {
            return Ok(0..0);
        }
        if self.next.is_none() {
            let next: Vec<(String, i64)> =
                sql("select name, next_id from _sequence").all(on).await?;
            self.next = Some(next.into_iter().collect());
        }
        let all = self.next.get_or_insert_default();
        let next = match all.get(R::TABLE) {
            Some(next) => *next,
            None => highest::<R>(on).await? + 1,
        };
        let first = next.max(above.unwrap_or(1));
        all.insert(R::TABLE.to_owned(), first + count);
        self.changed.insert(R::TABLE);
        Ok(first..first + count)
    }

    /// Writes what was taken.
    pub(super) async fn write(&mut self, on: &mut Connection) -> Result<(), OperationalError> {
        let Some(next) = &self.next else { return Ok(()) };
        let rows = self.changed.iter().map(|name| vec![(*name).into(), next[*name].into()]);
        if rows.len() > 0 {
            sql("insert into _sequence (name, next_id) values {rows}
                 on conflict (name) do update set next_id = excluded.next_id")
            .rows(rows)
            .execute(on)
            .await?;
        }
        Ok(())
    }
}

impl Ids {
    pub(super) async fn number<R: Record>(
        &self,
        on: &mut Connection,
        numbering: &mut Numbering,
        database: &Database,
        given: &[Option<i64>],
    ) -> Result<Vec<i64>, OperationalError> {
        // What is given and not recorded is to be left out of the numbering.
        let above = given.iter().flatten().filter(|&&id| id < RECORDED_IDS).max().map(|id| id + 1);
        let count = given.iter().filter(|id| id.is_none()).count();
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let mut free = match on {
            Connection::Sqlite(_) => numbering.take::<R>(on, count, above).await?,
            Connection::MySql(_) => self.of_block::<R>(database, count, above).await?,
        };
        let next = given.iter().map(|id| id.or_else(|| free.next()));
        Ok(next.map(|id| id.expect("as many were taken as are missing")).collect())
    }

    async fn of_block<R: Record>(
        &self,
        database: &Database,
        count: i64,
        above: Option<i64>,
    ) -> Result<Range<i64>, OperationalError> {
        let mut blocks = self.0.lock().await;
        let block = blocks.entry(R::TABLE).or_insert(0..0);
        if let Some(above) = above {
            block.start = block.start.max(above);
        }
        if block.end - block.start < count {
            // Beside the caller's transaction, which would keep the row to itself to its end.
            let mut beside = database.begin_beside().await?;
            *block = take::<R>(&mut beside, count + BLOCK, above).await?;
            beside.commit().await?;
        }
        let taken = block.start..block.start + count;
        block.start = taken.end;
        Ok(taken)
    }
}

/// Takes ids of a server that nobody has, above all that were given and, at first, all that are there.
async fn take<R: Record>(
    on: &mut Connection,
    count: i64,
    above: Option<i64>,
) -> Result<Range<i64>, OperationalError> {
    if count == 0 && above.is_none() {
        return Ok(0..0);
    }
    let next = match next_id(on, R::TABLE).await? {
        Some(next) => next,
        None => {
            let highest = highest::<R>(on).await?;
            sql("insert into _sequence (name, next_id) values (?1, ?2)
                 on conflict (name) do nothing")
            .bind(R::TABLE)
            .bind(highest + 1)
            .execute(on)
            .await?;
            next_id(on, R::TABLE).await?.unwrap_or(1)
        }
    };
    let first = next.max(above.unwrap_or(1));
    sql("update _sequence set next_id = ?2 where name = ?1")
        .bind(R::TABLE)
        .bind(first + count)
        .execute(on)
        .await?;
    Ok(first..first + count)
}

/// The highest id there is that was not recorded elsewhere.
async fn highest<R: Record>(on: &mut Connection) -> Result<i64, OperationalError> {
    let key = R::COLUMNS[0];
    let there = format!("select max({key}) from {} where {key} < ?1", R::TABLE);
    let highest: Option<i64> = sql(there).bind(RECORDED_IDS).value(on).await?;
    Ok(highest.unwrap_or(0))
}

async fn next_id(on: &mut Connection, table: &str) -> Result<Option<i64>, OperationalError> {
    let next: Option<(i64,)> = sql("select next_id from _sequence where name = ?1 for update")
        .bind(table)
        .first(on)
        .await?;
    Ok(next.map(|(next,)| next))
}
