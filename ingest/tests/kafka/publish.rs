//! [`Publisher`] and what [`KafkaSource`] makes of it, against what [`EmbeddedSource`] reads from the
//! same database.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arrow::{array::RecordBatch, util::display::array_value_to_string};
use medlake_contract::{ChangeSet, Op, TableSchema};
use medlake_ingest::{
    Budget, CutLimits, EmbeddedSource, Ingest, KafkaConfig, KafkaSource, PublishConfig,
    PublishProgress, Publisher, Resume, Wake,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, ConnectOptions, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
};
use tokio::task::JoinSet;

use super::{LIMIT, broker::Broker, next};

const TABLES: &str = "
    create table cdc_transaction (
        tx_id integer primary key autoincrement, committed_at TIMESTAMP not null);
    create table cdc_change (
        change_id integer primary key autoincrement, tx_id integer not null,
        table_name text not null, op text not null, before text, after text);
    create table cdc_trimmed (
        only_row integer primary key check (only_row = 1), trimmed_to integer not null);
    create table cdc_schema (
        schema_id integer primary key autoincrement, change_id integer not null,
        table_name text not null, before text, after text, reread integer not null);
    create table item (
        item_id INTEGER primary key, n INTEGER not null, label TEXT, rate REAL, active BOOLEAN,
        day DATE, at TIMESTAMP, payload BLOB);
    create table pair (
        left_id INTEGER not null, right_id TEXT not null, n INTEGER not null,
        primary key (right_id, left_id));";

/// A service's database and the connection it writes with.
struct Shop {
    _folder: tempfile::TempDir,
    path: PathBuf,
    connection: SqliteConnection,
}

impl Shop {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        let connection = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(Duration::from_secs(30))
            .connect()
            .await
            .unwrap();
        let mut shop = Self { _folder: folder, path, connection };
        shop.sql(TABLES).await;
        shop.capture("").await;
        shop
    }

    /// Makes the triggers; `more` is a column that `item` has by now.
    async fn capture(&mut self, more: &str) {
        let item = "X.item_id, X.n, X.label, iif(X.rate is null, null, format('%!.17g', X.rate)),
            X.active, X.day, X.at, iif(X.payload is null, null, hex(X.payload))";
        let item = format!("{item}{more}");
        for (table, columns) in [("item", item.as_str()), ("pair", "X.left_id, X.right_id, X.n")] {
            let image = |row| format!("json_array({})", columns.replace('X', row));
            for (event, op, before, after) in [
                ("insert", "c", "null".to_owned(), image("new")),
                ("update", "u", image("old"), image("new")),
                ("delete", "d", image("old"), "null".to_owned()),
            ] {
                let into = "insert into cdc_change (tx_id, table_name, op, before, after)";
                self.sql(&format!(
                    "drop trigger if exists cdc_{table}_{event};
                     create trigger cdc_{table}_{event} after {event} on {table} begin
                     {into} values ((select max(tx_id) from cdc_transaction), '{table}', '{op}',
                        {before}, {after}); end"
                ))
                .await;
            }
        }
    }

    /// A migration adds a column to `item` and writes rows that no trigger sees. Answers where it stands.
    async fn migrate(&mut self) -> i64 {
        let columns = [
            ("item_id", "INTEGER", false, 1),
            ("n", "INTEGER", true, 0),
            ("label", "TEXT", false, 0),
            ("rate", "REAL", false, 0),
            ("active", "BOOLEAN", false, 0),
            ("day", "DATE", false, 0),
            ("at", "TIMESTAMP", false, 0),
            ("payload", "BLOB", false, 0),
            ("extra", "TEXT", false, 0),
        ];
        let [before, after] =
            [&columns[..8], &columns[..]].map(|shape| serde_json::to_string(shape).unwrap());
        let triggers =
            ["insert", "update", "delete"].map(|on| format!("drop trigger cdc_item_{on};"));
        self.sql("begin immediate").await;
        self.sql(&triggers.concat()).await;
        self.sql(&format!(
            "alter table item add column extra TEXT;
             update item set extra = 'by hand ' || item_id, label = null where item_id % 3 = 0;
             insert into cdc_transaction (committed_at) values (0);
             insert into cdc_change (tx_id, table_name, op, after)
                 values ((select max(tx_id) from cdc_transaction), 'cdc_schema', 'c',
                     json_array('item', json('{before}'), json('{after}'), 1));
             insert into cdc_schema (change_id, table_name, before, after, reread)
                 values ((select max(change_id) from cdc_change), 'item', '{before}', '{after}', 1)"
        ))
        .await;
        self.capture(", X.extra").await;
        self.sql("commit").await;
        self.number("select max(change_id) from cdc_change").await
    }

    async fn sql(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection).await.unwrap();
    }

    async fn write(&mut self, sql: &str) {
        self.sql(&format!(
            "begin immediate; insert into cdc_transaction (committed_at) values (1795000000000000);
             {sql}; commit;"
        ))
        .await;
    }

    async fn exists(&mut self, table: &str) -> bool {
        let found =
            sqlx::query_scalar("select exists (select 1 from sqlite_schema where name = ?)");
        found.bind(table).fetch_one(&mut self.connection).await.unwrap()
    }

    async fn number(&mut self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut self.connection).await.unwrap()
    }

    /// Moves some of `n` from one row of `item` to one of `pair`, with whatever else may happen.
    async fn random_transaction(&mut self, rng: &mut StdRng) {
        let [a, b] = [rng.random_range(0..40), rng.random_range(0..40)];
        let n = rng.random_range(-9..=9_i64);
        let mut sql = format!(
            "insert into item (item_id, n) values ({a}, {n})
                 on conflict do update set n = n + {n}, rate = n / 7.0, at = n * 3600000001,
                     active = n > 3, day = date('2024-02-29', n || ' days'),
                     payload = iif(n > 5, null, randomblob(3)), label = '药' || n || '\"\\';
             insert into pair values ({b}, '右', {}) on conflict do update set n = n - {n};",
            -n
        );
        match rng.random_range(0..6) {
            // What goes, another row gets; keys change to free ones.
            0 => sql.push_str(&format!(
                "update pair set n = n + coalesce((select n from item where item_id = {a}), 0)
                     where left_id = {b} and right_id = '右';
                 delete from item where item_id = {a};"
            )),
            1 => sql.push_str(&format!(
                "update or ignore item set item_id = item_id + 1 where item_id = {a};"
            )),
            2 => sql.push_str(&format!(
                "update or ignore pair set left_id = left_id + 1, right_id = right_id || 'x'
                     where left_id = {b} and length(right_id) < 3;"
            )),
            _ => {}
        }
        self.write(&sql).await;
    }
}

/// Publishers come and go; there is one at a time.
struct Publishing {
    config: PublishConfig,
    path: PathBuf,
    tasks: JoinSet<()>,
}

impl Publishing {
    fn start(&mut self) -> PublishProgress {
        let clock = Arc::new(|| 1_795_000_001_000_000);
        let publisher = Publisher::new("shop", &self.path, self.config.clone(), clock).unwrap();
        let progress = publisher.progress();
        self.tasks.spawn(publisher.run(std::future::pending()));
        progress
    }

    /// Ends it in the middle of whatever it does.
    async fn kill(&mut self) {
        self.tasks.shutdown().await;
    }
}

async fn until_all_is_published(progress: &PublishProgress, shop: &mut Shop) {
    let newest = "select max(change_id) from (select change_id from cdc_change
                      union all select trimmed_to from cdc_trimmed)";
    let newest = shop.number(newest).await;
    let told = "select coalesce(max(published_to), -1) from cdc_published";
    let wait = async {
        while progress.read().failing.is_some()
            || !shop.exists("cdc_published").await
            || shop.number(told).await < newest
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let done = tokio::time::timeout(LIMIT, wait).await;
    assert!(done.is_ok(), "not published to {newest}: {:?}", progress.read());
}

/// Tables as whoever takes in the cuts has them: rows by key, as text.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tables(BTreeMap<String, BTreeMap<Vec<String>, Vec<String>>>);

impl Tables {
    fn keep(&mut self, cut: &ChangeSet) {
        for batch in &cut.batches {
            let table = batch.table();
            if table.name().namespace() == "system" {
                assert_eq!(table.name().table(), "ingest", "{batch:?}");
                continue;
            }
            let rows = self.0.entry(table.name().table().to_owned()).or_default();
            for (row, op) in batch.ops().iter().enumerate() {
                if matches!(op, Op::Update | Op::Delete) {
                    rows.remove(&key(table, batch.before(), row));
                }
                if matches!(op, Op::Update | Op::Insert) {
                    rows.insert(key(table, batch.after(), row), texts(batch.after(), row));
                }
            }
        }
        for copy in &cut.copies {
            let rows = self.0.entry(copy.table.name().table().to_owned()).or_default();
            for row in 0..copy.rows.num_rows() {
                rows.insert(key(&copy.table, &copy.rows, row), texts(&copy.rows, row));
            }
        }
    }

    /// The sum of `n` over both tables, which every transaction leaves as it is.
    fn sum(&self) -> i64 {
        let n = |(table, at): (&str, usize)| -> i64 {
            let rows = self.0.get(table).into_iter().flat_map(BTreeMap::values);
            rows.map(|row| row[at].parse::<i64>().unwrap()).sum()
        };
        [("item", 1), ("pair", 2)].into_iter().map(n).sum()
    }
}

fn texts(rows: &RecordBatch, row: usize) -> Vec<String> {
    let text = |column: &arrow::array::ArrayRef| match column.is_null(row) {
        true => "null".to_owned(),
        false => array_value_to_string(column, row).unwrap(),
    };
    let mut texts: Vec<String> = rows.columns().iter().map(text).collect();
    // Rows from before a column came do not have it.
    while texts.last().is_some_and(|text| text == "null") {
        texts.pop();
    }
    texts
}

fn key(table: &TableSchema, rows: &RecordBatch, row: usize) -> Vec<String> {
    let row = texts(rows, row);
    table.key_indices().iter().map(|&at| row[at].clone()).collect()
}

async fn embedded(path: &Path) -> Ingest {
    let wake = Wake::Polled(Duration::from_millis(1));
    let source = EmbeddedSource::open("shop", path, wake).await.unwrap();
    Ingest::open(vec![source.into()], &Resume::default()).await.unwrap()
}

async fn read_embedded(path: &Path, rows: usize) -> (Tables, BTreeMap<String, Vec<String>>) {
    let mut ingest = embedded(path).await;
    let mut tables = Tables::default();
    let count = |tables: &Tables| tables.0.values().map(BTreeMap::len).sum::<usize>();
    while count(&tables) < rows {
        tables.keep(&next(&mut ingest, CutLimits::default()).await);
    }
    while let Some(cut) = ingest.try_next(CutLimits::default()).await.unwrap() {
        tables.keep(&cut);
    }
    (tables, columns(&ingest))
}

fn columns(ingest: &Ingest) -> BTreeMap<String, Vec<String>> {
    let tables = ingest.tables();
    let tables = tables.iter().filter(|t| t.name().namespace() == "shop");
    let columns = |table: &Arc<TableSchema>| {
        let each = table.columns().iter().map(|c| format!("{} {:?}", c.name, c.ty));
        (table.name().to_string(), each.collect())
    };
    tables.map(columns).collect()
}

/// All that is committed in a topic: key, value, and header of each message.
fn messages(broker: &Broker, topic: &str) -> Vec<(String, Option<Value>)> {
    let consumer: BaseConsumer = broker
        .client()
        .set("group.id", "looks")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    let mut found = Vec::new();
    loop {
        match consumer.poll(LIMIT).unwrap() {
            Ok(message) => {
                let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
                let value = message.payload().map(|v| serde_json::from_slice(v).unwrap());
                found.push((key, value));
            }
            Err(rdkafka::error::KafkaError::PartitionEOF(_)) => return found,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_is_read_back_as_it_was_written() {
    let seed = rand::random::<u64>();
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut broker = Broker::start();
    let mut shop = Shop::new().await;
    // Rows that no change tells of any more.
    for row in 0..30 {
        shop.write(&format!(
            "insert into item (item_id, n) values ({row}, 0); insert into pair values ({row}, '右', 0)"
        ))
        .await;
    }
    let mut ingest = embedded(&shop.path).await;
    let cut = next(&mut ingest, CutLimits::default()).await;
    ingest.acknowledge(&cut.positions).await.unwrap();
    assert_eq!(shop.number("select count(*) from cdc_change").await, 0);

    let config = PublishConfig::new(&broker.address, "med");
    let mut publishing = Publishing { config, path: shop.path.clone(), tasks: JoinSet::new() };
    let progress = publishing.start();
    until_all_is_published(&progress, &mut shop).await;

    let kafka = KafkaConfig {
        discovery_s: 1,
        transaction_patience_s: 600,
        ..KafkaConfig::new(&broker.address, "med.*")
    };
    let source = KafkaSource::new("shop", kafka, Budget::new(64 << 20), 1_000).unwrap();
    let mut back = Ingest::open(vec![source.into()], &Resume::default()).await.unwrap();
    let mut tables = Tables::default();
    while tables.0.values().map(BTreeMap::len).sum::<usize>() < 60 {
        tables.keep(&next(&mut back, CutLimits::default()).await);
    }

    let mut migrated = 0;
    // It is killed at any moment, and so is the broker; each transaction is there once, and whole.
    for round in 0..12 {
        for _ in 0..rng.random_range(1..40) {
            shop.random_transaction(&mut rng).await;
        }
        let longer = Duration::from_millis(rng.random_range(0..60));
        tokio::time::sleep(longer).await;
        publishing.kill().await;
        if round == 5 {
            broker.kill_and_restart();
        }
        let progress = publishing.start();
        if round == 8 {
            until_all_is_published(&progress, &mut shop).await;
            migrated = shop.migrate().await;
            until_all_is_published(&progress, &mut shop).await;
        }
        while let Some(cut) = back.try_next(CutLimits::default()).await.unwrap() {
            tables.keep(&cut);
            assert_eq!(tables.sum(), 0, "seed {seed}: part of a transaction");
        }
    }
    // Nothing is lost while the broker is away, and nothing is trimmed.
    broker.kill();
    for _ in 0..20 {
        shop.random_transaction(&mut rng).await;
    }
    let newest = shop.number("select max(change_id) from cdc_change").await;
    let mut again = embedded(&shop.path).await;
    let mut cut = next(&mut again, CutLimits::default()).await;
    while let Some(more) = again.try_next(CutLimits::default()).await.unwrap() {
        cut = more;
    }
    again.acknowledge(&cut.positions).await.unwrap();
    drop(again);
    assert!(shop.number("select count(*) from cdc_change").await >= 20, "unpublished");
    publishing.kill().await;
    broker.restart();
    let progress = publishing.start();
    until_all_is_published(&progress, &mut shop).await;
    assert_eq!(shop.number("select max(change_id) from cdc_change").await, newest);
    publishing.kill().await;

    let rows =
        shop.number("select (select count(*) from item) + (select count(*) from pair)").await;
    let (expected, expected_columns) =
        read_embedded(&shop.path, usize::try_from(rows).unwrap()).await;
    let all = async {
        while tables != expected {
            tables.keep(&next(&mut back, CutLimits::default()).await);
            assert_eq!(tables.sum(), 0, "seed {seed}: part of a transaction");
        }
    };
    let done = tokio::time::timeout(LIMIT, all).await;
    assert!(done.is_ok(), "seed {seed}: {tables:?}\n{expected:?}");
    assert_eq!(columns(&back), expected_columns);
    each_change_is_there_once(&broker, newest, migrated);
}

/// In the topics themselves: every change once, in order, and as many as the transactions say; and copied
/// rows before all changes and where a migration wrote them.
fn each_change_is_there_once(broker: &Broker, newest: i64, migrated: i64) {
    let mut counted: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut changes = BTreeSet::new();
    for table in ["item", "pair"] {
        let mut last = None;
        let mut deleted: Option<String> = None;
        for (key, value) in messages(broker, &format!("med.shop.{table}")) {
            let Some(value) = value else {
                assert_eq!(deleted.take(), Some(key), "a tombstone without a delete");
                continue;
            };
            assert_eq!(deleted, None, "a delete without its tombstone");
            let payload = &value["payload"];
            let change = payload["source"]["change_id"].as_i64().unwrap();
            if payload["op"] == "d" {
                deleted = Some(key);
            }
            if payload["op"] == "r" {
                assert!(last.is_none() || change == migrated, "a copied row after {last:?}");
                assert_eq!(payload["source"]["snapshot"], "true");
                assert!(payload["transaction"].is_null());
                continue;
            }
            // The two halves of a new key have one number.
            let order = payload["transaction"]["total_order"].as_i64().unwrap();
            assert!(last < Some((change, order)), "{last:?} before {change}");
            last = Some((change, order));
            changes.insert(change);
            let id = payload["transaction"]["id"].as_str().unwrap().to_owned();
            *counted.entry((id, format!("shop.{table}"))).or_default() += 1;
        }
    }
    let first = *changes.first().unwrap();
    let all = (first..=newest).filter(|change| *change != migrated);
    assert!(changes.into_iter().eq(all), "every change is there");
    let mut said = BTreeMap::new();
    let mut begun = None;
    for (_, value) in messages(broker, "med.transaction") {
        let payload = &value.as_ref().unwrap()["payload"];
        let id = payload["id"].as_str().unwrap().to_owned();
        if payload["status"] == "BEGIN" {
            assert_eq!(begun.replace(id), None);
            continue;
        }
        assert_eq!(begun.take(), Some(id.clone()));
        let mut sum = 0;
        for count in payload["data_collections"].as_array().unwrap() {
            let table = count["data_collection"].as_str().unwrap().to_owned();
            let events = count["event_count"].as_u64().unwrap();
            sum += events;
            assert_eq!(said.insert((id.clone(), table), events), None, "{id} ended twice");
        }
        assert_eq!(payload["event_count"], sum);
    }
    assert_eq!(said, counted);
}
