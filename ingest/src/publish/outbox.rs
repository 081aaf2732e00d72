//! The change table, transaction by transaction, as messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use futures::TryStreamExt;
use medlake_contract::SourceId;
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions,
};

use super::{cursor::Cursor, producer::Producer};
use crate::{
    PublishError,
    debezium::{Cell, ChangeOp, Outgoing, Place, Problem, Route, RowChange, TableWriter, boundary},
    embedded::{
        BUSY_TIMEOUT, ROW_BUFFER, bounds,
        decode::RawChange,
        frames::{self, Frames},
        log::{DATA, number},
        schema::{self, CapturedTable, Mark},
    },
};

/// A transaction of Kafka has about this many changes; one of the service is never cut.
const BATCH_ROWS: u64 = 10_000;

/// What was published together.
#[derive(Debug, Clone, Default)]
pub(super) struct Batch {
    /// The last change of it.
    pub(super) change_id: i64,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) transactions: u64,
    /// When the last transaction was committed, in microseconds since 1970.
    pub(super) committed_at: i64,
}

/// How a table is written, as long as its columns are what they are.
struct Table {
    captured: CapturedTable,
    topic: String,
    writer: TableWriter,
}

pub(super) struct Outbox {
    service: SourceId,
    prefix: String,
    connection: SqliteConnection,
    /// As they are at the cursor.
    tables: BTreeMap<String, Table>,
    /// `pragma data_version` when the change table was last read to its end.
    read_version: Option<i64>,
    measured_version: Option<i64>,
}

/// The transaction that is being written.
struct Open {
    tx_id: i64,
    committed_at: i64,
    counts: BTreeMap<String, u64>,
    total: u64,
}

impl Outbox {
    pub(super) async fn open(
        path: &Path,
        service: &str,
        prefix: &str,
    ) -> Result<Self, PublishError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .read_only(true)
            .busy_timeout(BUSY_TIMEOUT)
            .row_buffer_size(ROW_BUFFER)
            .disable_statement_logging();
        let connection = options.connect().await.map_err(failed("open the database"))?;
        Ok(Self {
            service: SourceId::new(service),
            prefix: prefix.to_owned(),
            connection,
            tables: BTreeMap::new(),
            read_version: None,
            measured_version: None,
        })
    }

    /// Reads what the tables were at `published_to`, and whether the change table has what comes after.
    pub(super) async fn look(&mut self, published_to: i64) -> Result<(), PublishError> {
        let fail = failed("read the change table");
        let mut read = self.connection.begin().await.map_err(&fail)?;
        let bounds = bounds(&mut read).await.map_err(&fail)?;
        let [trimmed_to, newest] =
            [bounds.trimmed_to, bounds.newest].map(|id| i64::try_from(id).unwrap_or(i64::MAX));
        if published_to < trimmed_to {
            return Err(PublishError::Gone { published_to, trimmed_to });
        }
        if published_to > newest {
            return Err(PublishError::Ahead { published_to, newest });
        }
        let captured = schema::tables_at(&self.service, &mut read, published_to).await;
        read.commit().await.map_err(&fail)?;
        self.tables.clear();
        for captured in captured.map_err(|error| PublishError::Tables(Box::new(error)))? {
            self.add(captured)?;
        }
        Ok(())
    }

    fn add(&mut self, captured: CapturedTable) -> Result<(), PublishError> {
        let table = Table::new(&self.prefix, self.service.as_str(), captured)?;
        self.tables.insert(table.captured.name.clone(), table);
        Ok(())
    }

    /// The topics there have to be.
    pub(super) fn topics(&self) -> BTreeSet<String> {
        let transactions = format!("{}.transaction", self.prefix);
        self.tables.values().map(|t| t.topic.clone()).chain([transactions]).collect()
    }

    /// The newest change, unless nothing was committed since it was asked for.
    pub(super) async fn newest(&mut self) -> Result<Option<i64>, PublishError> {
        let fail = failed("read the change table");
        let version = number(&mut self.connection, DATA).await.map_err(&fail)?;
        if self.measured_version == Some(version) && self.read_version == Some(version) {
            return Ok(None);
        }
        let newest = bounds(&mut self.connection).await.map_err(&fail)?.newest;
        self.measured_version = Some(version);
        Ok(Some(i64::try_from(newest).unwrap_or(i64::MAX)))
    }

    /// Publishes the rows of these tables as they are now, all as of one moment, and that everything up
    /// to `change_id` is published then. Answers how many.
    pub(super) async fn copy(
        &mut self,
        producer: &Producer,
        cursor: &Cursor,
        change_id: i64,
        tables: &BTreeSet<String>,
        now: i64,
    ) -> Result<u64, PublishError> {
        let fail = failed("copy the rows");
        let mut read = self.connection.begin().await.map_err(&fail)?;
        let present = schema::tables_at(&self.service, &mut read, i64::MAX).await;
        let present = present.map_err(|error| PublishError::Tables(Box::new(error)))?;
        let (mut count, mut open) = (0, 0);
        producer.begin()?;
        for captured in present.into_iter().filter(|t| tables.contains(&t.name)) {
            let table = &Table::new(&self.prefix, self.service.as_str(), captured)?;
            let (image, name) = (table.captured.image_sql(), schema::quoted(&table.captured.name));
            let sql = format!("select {image} from {name}");
            let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut *read);
            while let Some(row) = rows.try_next().await.map_err(&fail)? {
                let image: Vec<u8> = row.try_get_unchecked(0).map_err(&fail)?;
                let row = table.row(&image).map_err(|problem| table.wrong(0, &problem))?;
                let change = RowChange {
                    op: ChangeOp::Read,
                    before: None,
                    after: Some(&row),
                    change_id,
                    committed_at: now,
                    place: None,
                    now_millis: now.div_euclid(1000),
                };
                table.send(producer, &change).await?;
                (count, open) = (count + 1, open + 1);
                if open == BATCH_ROWS {
                    producer.commit_part().await?;
                    producer.begin()?;
                    open = 0;
                }
            }
        }
        read.commit().await.map_err(&fail)?;
        producer.commit(change_id, cursor.of()).await?;
        Ok(count)
    }

    /// What the tables are called.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.tables.keys().cloned().collect()
    }

    /// Takes in what became of tables. Rows that changed without a change are published as they are
    /// now: what became of them since is still to come, and makes of them what they are.
    async fn moved(
        &mut self,
        marks: Vec<(i64, Mark)>,
        producer: &mut Producer,
        cursor: &Cursor,
        now: i64,
    ) -> Result<Batch, PublishError> {
        let (mut last, mut reread) = (cursor.published_to(), BTreeSet::new());
        for (change_id, mark) in marks {
            self.tables.remove(&mark.table);
            if let Some(after) = mark.after {
                self.add(after)?;
            }
            if mark.reread {
                reread.insert(mark.table);
            }
            last = change_id;
        }
        producer.make(self.topics()).await?;
        let rows = self.copy(producer, cursor, last, &reread, now).await?;
        Ok(Batch { change_id: last, rows, ..Batch::default() })
    }

    /// Publishes transactions after the cursor, if there are any.
    pub(super) async fn publish(
        &mut self,
        producer: &mut Producer,
        cursor: &Cursor,
        now: i64,
    ) -> Result<Option<Batch>, PublishError> {
        let fail = failed("read the changes");
        let version = number(&mut self.connection, DATA).await.map_err(&fail)?;
        if self.read_version == Some(version) {
            return Ok(None);
        }
        let mut batch = Batch { change_id: cursor.published_to(), ..Batch::default() };
        match self.send(producer, &mut batch, now).await {
            Ok(Sent::Moved(marks)) => self.moved(marks, producer, cursor, now).await.map(Some),
            Ok(sent) => {
                if batch.rows > 0 {
                    producer.commit(batch.change_id, cursor.of()).await?;
                }
                self.read_version = matches!(sent, Sent::All).then_some(version);
                Ok((batch.rows > 0).then_some(batch))
            }
            Err(error) => {
                if batch.rows > 0 {
                    // The error is what counts; a transaction that stays open ends with the producer.
                    let _ = producer.abort().await;
                }
                Err(error)
            }
        }
    }

    /// Sends whole transactions.
    async fn send(
        &mut self,
        producer: &Producer,
        batch: &mut Batch,
        now: i64,
    ) -> Result<Sent, PublishError> {
        let fail = failed("read the changes");
        let service = self.service.as_str().to_owned();
        let transactions = format!("{}.transaction", self.prefix);
        let mut read = self.connection.begin().await.map_err(&fail)?;
        let mut open: Option<Open> = None;
        let mut chunk_rows = frames::CHUNK_ROWS;
        let mut from = batch.change_id;
        let sent = 'chunks: loop {
            let chunk = frames::chunk(&mut read, from, &mut chunk_rows).await.map_err(&fail)?;
            let Some(chunk) = chunk else { break Sent::All };
            let changes = Frames::new(&chunk).collect::<Result<Vec<_>, _>>();
            let changes = changes.map_err(|problem| PublishError::Change {
                table: "cdc_change".to_owned(),
                change_id: from,
                problem: problem.to_owned(),
            })?;
            let is_mark = |change: &RawChange<'_>| change.table == Mark::TABLE;
            if batch.rows == 0 && changes.first().is_some_and(is_mark) {
                let marks = changes.iter().take_while(|change| is_mark(change)).map(|change| {
                    let image = change.after.unwrap_or_default();
                    let mark = Mark::read(&self.service, change.change_id, image)?;
                    Ok((change.change_id, mark))
                });
                let marks = marks.collect::<Result<_, _>>();
                let marks = marks.map_err(|error| PublishError::Tables(Box::new(error)))?;
                break Sent::Moved(marks);
            }
            let times: BTreeMap<i64, i64> = {
                let ids = [changes.first(), changes.last()].map(|c| c.map_or(0, |c| c.tx_id));
                let sql =
                    "select tx_id, committed_at from cdc_transaction where tx_id between ? and ?";
                let found = sqlx::query_as(sql).bind(ids[0]).bind(ids[1]).fetch_all(&mut *read);
                found.await.map_err(&fail)?.into_iter().collect()
            };
            for change in &changes {
                if open.as_ref().is_none_or(|open| open.tx_id != change.tx_id) {
                    if let Some(open) = open.take() {
                        batch.end(&open, from);
                        producer.send(&transactions, &open.end(&service)).await?;
                    }
                    if batch.rows >= BATCH_ROWS || is_mark(change) {
                        break 'chunks Sent::Some;
                    }
                    if batch.rows == 0 {
                        producer.begin()?;
                    }
                    let committed_at = times.get(&change.tx_id).copied().unwrap_or(0);
                    let next = Open::new(change.tx_id, committed_at);
                    let begin = boundary(&service, next.tx_id, next.committed_at, None);
                    producer.send(&transactions, &begin).await?;
                    open = Some(next);
                }
                let Some(open) = &mut open else { continue };
                batch.rows += 1;
                let table = self.tables.get(change.table);
                let Some(table) = table else {
                    return Err(PublishError::Change {
                        table: change.table.to_owned(),
                        change_id: change.change_id,
                        problem: "there is no such table".to_owned(),
                    });
                };
                batch.bytes += table.publish(producer, change, open, now).await?;
                from = change.change_id;
            }
        };
        if let Some(open) = open.take() {
            batch.end(&open, from);
            producer.send(&transactions, &open.end(&service)).await?;
        }
        read.commit().await.map_err(&fail)?;
        Ok(sent)
    }
}

/// What was sent.
enum Sent {
    /// Transactions, and there are more.
    Some,
    /// All that there were.
    All,
    /// Nothing: this is what became of tables first.
    Moved(Vec<(i64, Mark)>),
}

impl Batch {
    /// A transaction is whole.
    fn end(&mut self, open: &Open, change_id: i64) {
        self.change_id = change_id;
        self.transactions += 1;
        self.committed_at = open.committed_at;
    }
}

impl Open {
    fn new(tx_id: i64, committed_at: i64) -> Self {
        Self { tx_id, committed_at, counts: BTreeMap::new(), total: 0 }
    }

    /// The place of the next event of a table, when there are so many.
    fn place(&mut self, table: &str, events: u64) -> Place {
        let of_table = match self.counts.get_mut(table) {
            Some(count) => count,
            None => self.counts.entry(table.to_owned()).or_default(),
        };
        let place = Place { tx_id: self.tx_id, total_order: self.total + 1, order: *of_table + 1 };
        *of_table += events;
        self.total += events;
        place
    }

    fn end(&self, service: &str) -> Outgoing {
        let counts: Vec<(String, u64)> =
            self.counts.iter().map(|(table, count)| (table.clone(), *count)).collect();
        boundary(service, self.tx_id, self.committed_at, Some(&counts))
    }
}

impl Table {
    fn new(prefix: &str, service: &str, captured: CapturedTable) -> Result<Self, PublishError> {
        let route = Route { prefix, db: service, table: &captured.name };
        let columns = captured.schema.columns();
        let cells = columns.iter().map(|c| Cell::new(&c.name, &c.ty, c.nullable)).collect();
        let key = captured.schema.key_indices().to_vec();
        let writer =
            TableWriter::new(route, cells, key).map_err(|problem| PublishError::Change {
                table: captured.name.clone(),
                change_id: 0,
                problem: problem.to_string(),
            })?;
        Ok(Self { topic: route.topic(), writer, captured })
    }

    fn row(&self, image: &[u8]) -> Result<Vec<Value>, Problem> {
        serde_json::from_slice(image).map_err(|_| Problem::Envelope("its image is no JSON array"))
    }

    fn wrong(&self, change_id: i64, problem: &Problem) -> PublishError {
        let table = self.captured.name.clone();
        PublishError::Change { table, change_id, problem: problem.to_string() }
    }

    async fn publish(
        &self,
        producer: &Producer,
        change: &RawChange<'_>,
        open: &mut Open,
        now: i64,
    ) -> Result<u64, PublishError> {
        let wrong = |problem: Problem| self.wrong(change.change_id, &problem);
        let op = match (change.op, change.before, change.after) {
            ("c", None, Some(_)) => ChangeOp::Create,
            ("u", Some(_), Some(_)) => ChangeOp::Update,
            ("d", Some(_), None) => ChangeOp::Delete,
            _ => return Err(wrong(Problem::Envelope("it has not the images its operation has"))),
        };
        let image = |image: Option<&[u8]>| image.map(|image| self.row(image)).transpose();
        let (before, after) =
            (image(change.before).map_err(wrong)?, image(change.after).map_err(wrong)?);
        let mut change = RowChange {
            op,
            before: before.as_deref(),
            after: after.as_deref(),
            change_id: change.change_id,
            committed_at: open.committed_at,
            place: None,
            now_millis: now.div_euclid(1000),
        };
        let events = 1 + u64::from(self.writer.is_rekeyed(&change));
        change.place = Some(open.place(&self.captured.name, events));
        self.send(producer, &change).await
    }

    async fn send(&self, producer: &Producer, change: &RowChange<'_>) -> Result<u64, PublishError> {
        let messages = self.writer.messages(change);
        let mut bytes = 0;
        for message in messages.map_err(|problem| self.wrong(change.change_id, &problem))? {
            producer.send(&self.topic, &message).await?;
            bytes += message.key.len() + message.value.map_or(0, |value| value.len());
        }
        Ok(bytes as u64)
    }
}

fn failed(doing: &'static str) -> impl Fn(sqlx::Error) -> PublishError {
    move |source| PublishError::Database { doing, source }
}
