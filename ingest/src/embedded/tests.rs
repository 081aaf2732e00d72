//! Against real SQLite files whose triggers are made here, in the form the change table promises.

mod migrations;
mod quarantine;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use arrow::{
    array::{Array, AsArray},
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type},
};
use medlake_contract::{ChangeSet, CopyScope, Kind, Op, Position, Positions};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sqlx::sqlite::SqliteJournalMode;

use sqlx::AssertSqlSafe;

use super::*;
use crate::{Ingest, Phase, states_in};

const CHANGE_TABLES: &str = "
    create table cdc_transaction (
        tx_id integer primary key autoincrement, committed_at TIMESTAMP not null);
    create table cdc_change (
        change_id integer primary key autoincrement, tx_id integer not null,
        table_name text not null, op text not null, before text, after text);
    create table cdc_trimmed (
        only_row integer primary key check (only_row = 1), trimmed_to integer not null);
    create table cdc_schema (
        schema_id integer primary key autoincrement, change_id integer not null,
        table_name text not null, before text, after text, reread integer not null);";

const TABLES: &str = "
    create table item (
        item_id INTEGER primary key, label TEXT not null, price_fen INTEGER, rate REAL,
        active BOOLEAN, starts_on DATE, updated_at TIMESTAMP, payload BLOB);
    create table pair (left_id INTEGER not null, right_id TEXT not null, n INTEGER,
        primary key (right_id, left_id));
    create table outbox (outbox_id INTEGER primary key, body TEXT);";

fn resume(positions: Positions) -> Resume {
    Resume { positions, ..Resume::default() }
}

/// A database file and the connection its service writes with.
struct Service {
    _folder: Option<tempfile::TempDir>,
    path: PathBuf,
    connection: SqliteConnection,
    now: i64,
}

impl Service {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        let mut service = Self::connect(&path, Some(folder)).await;
        service.sql(CHANGE_TABLES).await;
        service.sql(TABLES).await;
        service.capture().await;
        service
    }

    async fn connect(path: &Path, folder: Option<tempfile::TempDir>) -> Self {
        let connection = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(BUSY_TIMEOUT)
            .connect()
            .await
            .unwrap();
        Self { _folder: folder, path: path.to_owned(), connection, now: 1_000 }
    }

    async fn sql(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection).await.unwrap();
    }

    /// Makes the triggers of every table anew.
    async fn capture(&mut self) {
        let tables = schema::tables(&SourceId::new("shop"), &mut self.connection).await.unwrap();
        for table in tables {
            let name = &table.name;
            let image = |row: &str| {
                let mut sql = table.image_sql();
                for column in table.schema.columns() {
                    let quoted = schema::quoted(&column.name);
                    sql = sql.replace(&quoted, &format!("{row}.{quoted}"));
                }
                sql
            };
            for (event, op, before, after) in [
                ("insert", "c", "null".to_owned(), image("new")),
                ("update", "u", image("old"), image("new")),
                ("delete", "d", image("old"), "null".to_owned()),
            ] {
                self.sql(&format!(
                    "drop trigger if exists cdc_{name}_{event};
                     create trigger cdc_{name}_{event} after {event} on {name} begin
                     insert into cdc_change (tx_id, table_name, op, before, after) values (
                        (select max(tx_id) from cdc_transaction), '{name}', '{op}', {before}, {after});
                     end;"
                ))
                .await;
            }
        }
    }

    /// One transaction.
    async fn write(&mut self, sql: &str) {
        self.now += 1;
        let now = self.now;
        self.sql(&format!(
            "begin immediate; insert into cdc_transaction (committed_at) values ({now}); {sql};
             commit;"
        ))
        .await;
    }

    async fn source(&self) -> EmbeddedSource {
        let wake = Wake::Polled(Duration::from_millis(1));
        EmbeddedSource::open("shop", &self.path, wake).await.unwrap()
    }

    async fn ingest(&self, positions: &Positions) -> Ingest {
        Ingest::open(vec![self.source().await.into()], &resume(positions.clone())).await.unwrap()
    }

    async fn count(&mut self, what: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {what}")))
            .fetch_one(&mut self.connection)
            .await
            .unwrap()
    }
}

fn at(change_id: u64) -> Positions {
    Positions::from([(SourceId::new("shop"), Position::ChangeId(change_id))])
}

fn limits(max_rows: usize) -> CutLimits {
    CutLimits { max_rows, max_bytes: usize::MAX }
}

/// What a reader holds who applies every cut: table, key, row; each value as text.
#[derive(Default, Debug, PartialEq)]
struct Replica(BTreeMap<(String, Vec<String>), Vec<Option<String>>>);

impl Replica {
    fn apply(&mut self, cut: &ChangeSet) {
        for batch in &cut.batches {
            let table = batch.table();
            if table.name().namespace() == "system" {
                continue;
            }
            let text = |columns: &[Arc<dyn Array>], row: usize| -> Vec<Option<String>> {
                columns.iter().map(|c| c.is_valid(row).then(|| exact(c.as_ref(), row))).collect()
            };
            for (row, op) in batch.ops().iter().enumerate() {
                let before = text(batch.before().columns(), row);
                let after = text(batch.after().columns(), row);
                let key = |image: &[Option<String>]| {
                    let key = table.key_indices().iter();
                    (table.name().to_string(), key.map(|i| image[*i].clone().unwrap()).collect())
                };
                if *op != Op::Insert {
                    assert_eq!(self.0.remove(&key(&before)), Some(before), "the image before");
                }
                if *op != Op::Delete {
                    assert_eq!(self.0.insert(key(&after), after), None, "the key is new");
                }
            }
        }
        for copy in &cut.copies {
            assert_eq!(copy.scope, CopyScope::Rows, "of a table that was not there");
            for row in 0..copy.rows.num_rows() {
                let columns = copy.rows.columns();
                let row: Vec<Option<String>> = columns
                    .iter()
                    .map(|c| c.is_valid(row).then(|| exact(c.as_ref(), row)))
                    .collect();
                let key = copy.table.key_indices().iter().map(|i| row[*i].clone().unwrap());
                let key = (copy.table.name().to_string(), key.collect());
                self.0.insert(key, row);
            }
        }
    }

    fn count(&self, table: &str) -> usize {
        self.0.keys().filter(|(t, _)| t == table).count()
    }
}

fn exact(column: &dyn Array, row: usize) -> String {
    match column.data_type() {
        DataType::Float64 => {
            format!("{:016x}", column.as_primitive::<Float64Type>().value(row).to_bits())
        }
        DataType::Binary => format!("{:02X?}", column.as_binary::<i32>().value(row)),
        DataType::Timestamp(..) => {
            let column = cast(column, &DataType::Int64).unwrap();
            column.as_primitive::<Int64Type>().value(row).to_string()
        }
        _ => cast(column, &DataType::Utf8).unwrap().as_string::<i32>().value(row).to_owned(),
    }
}

/// Changes and copied rows, without what ingest says of itself.
fn row_count(cut: &ChangeSet) -> usize {
    let own = cut.batches.iter().filter(|b| b.table().name().namespace() == "system");
    cut.row_count() - own.map(|b| b.ops().len()).sum::<usize>()
}

/// Cuts until all tables are copied and all changes are there.
async fn settle(ingest: &mut Ingest, limits: CutLimits) -> Vec<ChangeSet> {
    let mut cuts = drain(ingest, limits).await;
    let copying =
        |ingest: &Ingest| ingest.monitor().tables().iter().any(|t| t.phase == Phase::Snapshotting);
    while copying(ingest) {
        cuts.push(ingest.next(limits).await.unwrap());
    }
    cuts.extend(drain(ingest, limits).await);
    cuts
}

async fn drain(ingest: &mut Ingest, limits: CutLimits) -> Vec<ChangeSet> {
    let mut cuts = Vec::new();
    while let Some(cut) = ingest.try_next(limits).await.unwrap() {
        cuts.push(cut);
    }
    cuts
}

#[tokio::test]
async fn every_type_arrives_exactly() {
    let mut service = Service::new().await;
    service
        .write(
            "insert into item values
             (-9223372036854775808, '普药 \"好\" \\ \u{1f48a}' || char(10) || char(0) || char(27),
              9223372036854775807, 0.1, 1, '2024-02-29', -1, x'00ff5c22'),
             (9223372036854775807, '', null, 5e-324, 0, '1969-12-31', 0, x''),
             (0, 'nulls', null, null, null, null, null, null),
             (1, 'reals', -1, 1.7976931348623157e308, null, null, null, null),
             (2, 'infinite', 0, 9e999, null, null, null, null),
             (3, 'minus infinite', 0, -9e999, null, null, null, null),
             (4, 'whole', 0, 3, null, null, null, null)",
        )
        .await;
    let cut = service.ingest(&Positions::new()).await.next(CutLimits::default()).await.unwrap();
    assert_eq!(cut.positions, at(7));
    assert_eq!((cut.transaction_count, cut.committed_at_micros), (1, Some(1_001)));
    let mut replica = Replica::default();
    replica.apply(&cut);
    let row = |key: i64| {
        let row = &replica.0[&("shop.item".to_owned(), vec![key.to_string()])];
        row.iter().map(|v| v.as_deref().unwrap_or("null")).collect::<Vec<_>>().join("|")
    };
    let bits = |x: f64| format!("{:016x}", x.to_bits());
    assert_eq!(
        row(i64::MIN),
        format!(
            "{}|普药 \"好\" \\ \u{1f48a}\n\0\u{1b}|{}|{}|true|2024-02-29|-1|[00, FF, 5C, 22]",
            i64::MIN,
            i64::MAX,
            bits(0.1)
        )
    );
    assert_eq!(row(i64::MAX), format!("{}||null|{}|false|1969-12-31|0|[]", i64::MAX, bits(5e-324)));
    assert_eq!(row(0), "0|nulls|null|null|null|null|null|null");
    assert!(row(1).contains(&bits(f64::MAX)));
    assert!(row(2).contains(&bits(f64::INFINITY)));
    assert!(row(3).contains(&bits(f64::NEG_INFINITY)));
    assert!(row(4).contains(&bits(3.0)));
}

#[tokio::test]
async fn reals_keep_every_bit() {
    let mut service = Service::new().await;
    let mut random = StdRng::seed_from_u64(7);
    let mut sent = Vec::new();
    service.sql("begin; insert into cdc_transaction (committed_at) values (1)").await;
    for id in 0..20_000_i64 {
        // SQLite's own conversion to text is exact from about 1e-80 to 1e115 (measured); further out
        // one value in thirty is off by the last bit.
        let exponent = random.random_range(1023 - 250..1023 + 250_u64) << 52;
        let value = f64::from_bits((random.random::<u64>() & 0x800f_ffff_ffff_ffff) | exponent);
        sqlx::query("insert into item (item_id, label, rate) values (?, '', ?)")
            .bind(id)
            .bind(value)
            .execute(&mut service.connection)
            .await
            .unwrap();
        sent.push(value);
    }
    service.sql("commit").await;
    let cut = service.ingest(&Positions::new()).await.next(CutLimits::default()).await.unwrap();
    let read = cut.batches[0].after().column_by_name("rate").unwrap();
    let read = read.as_primitive::<Float64Type>();
    let wrong: Vec<_> =
        sent.iter().zip(read.values()).filter(|(a, b)| a.to_bits() != b.to_bits()).collect();
    assert!(wrong.is_empty(), "{:?}", &wrong[..1]);
}

#[tokio::test]
async fn schemas_come_from_the_declarations() {
    let service = Service::new().await;
    let tables = service.source().await.tables();
    let names: Vec<String> = tables.iter().map(|t| t.name().to_string()).collect();
    assert_eq!(names, ["shop.item", "shop.pair"]);
    let required: Vec<bool> = tables[0].columns().iter().map(|c| !c.nullable).collect();
    assert_eq!(required, [true, true, false, false, false, false, false, false]);
    assert_eq!(tables[1].key_indices(), [1, 0], "in the key's own order");
}

#[tokio::test]
async fn a_table_that_cannot_be_captured_is_named() {
    for (sql, expected) in [
        ("create table odd (odd_id INTEGER primary key, price DECIMAL)", "\"price\" has type"),
        ("create table odd (label TEXT)", "no key"),
    ] {
        let mut service = Service::new().await;
        service.sql(sql).await;
        let wake = Wake::Polled(Duration::ZERO);
        let error = EmbeddedSource::open("shop", &service.path, wake).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains("table \"odd\""), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let wake = Wake::Polled(Duration::ZERO);
    let missing = EmbeddedSource::open("shop", "/nowhere/at/all.db", wake).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_transaction_is_never_split() {
    let mut service = Service::new().await;
    service.write("insert into item (item_id, label) values (1, 'a'), (2, 'b'), (3, 'c')").await;
    service.write("insert into pair values (1, 'x', 0); delete from item where item_id = 2").await;
    service
        .write(
            "insert into item (item_id, label)
             with recursive n(i) as (select 10 union all select i + 1 from n where i < 150009)
             select i, 'row ' || i from n",
        )
        .await;
    service.write("update item set label = 'last' where item_id = 1").await;
    let mut ingest = service.ingest(&Positions::new()).await;
    let cuts = drain(&mut ingest, limits(1)).await;
    let shape: Vec<_> = cuts.iter().map(|c| (row_count(c), c.positions.clone())).collect();
    let ends = [3, 5, 150_005, 150_006];
    assert_eq!(
        shape,
        [(3, at(ends[0])), (2, at(ends[1])), (150_000, at(ends[2])), (1, at(ends[3]))]
    );
    assert!(cuts[2].batches.len() > 1, "a long run of rows is several batches");
    let mut ingest = service.ingest(&Positions::new()).await;
    let cuts = drain(&mut ingest, limits(4)).await;
    assert_eq!(cuts.iter().map(|c| c.transaction_count).collect::<Vec<_>>(), [2, 1, 1]);
    let bytes = CutLimits { max_rows: usize::MAX, max_bytes: 1 };
    let mut ingest = service.ingest(&at(5)).await;
    assert_eq!(drain(&mut ingest, bytes).await.len(), 2);
}

#[tokio::test]
async fn a_row_that_cannot_be_decoded_is_named() {
    let good = "[1,\"a\",null,null,null,null,null,null]";
    for (op, before, after, expected, detail) in [
        (
            "c",
            None,
            Some("[1,\"a\",\"x\"]"),
            "\"price_fen\" of the image after of change 2",
            "64-bit",
        ),
        ("c", None, Some("[1,\"a\",1.5]"), "\"price_fen\"", "64-bit"),
        ("c", None, Some("[1,\"a\",18446744073709551615]"), "\"price_fen\"", "64-bit"),
        ("c", None, Some("[1,2]"), "\"label\"", "text"),
        ("c", None, Some("[1,\"a\",1,\"0.1x\"]"), "\"rate\"", "a number"),
        ("c", None, Some("[1,\"a\",1,null,2]"), "\"active\"", "0, 1"),
        ("c", None, Some("[1,\"a\",1,null,1,\"2026-02-30\"]"), "\"starts_on\"", "a date"),
        ("c", None, Some("[1,\"a\",1,null,1,null,0,\"abc\"]"), "\"payload\"", "hexadecimal"),
        ("d", Some("[1,\"a\""), None, "\"price_fen\" of the image before", "EOF"),
        ("d", Some("nothing"), None, "\"item_id\" of the image before", "expected"),
        ("d", Some("[] []"), None, "(end of row)", "trailing"),
        ("x", None, Some(good), "unknown operation", ""),
        ("u", None, Some(good), "has not the images", ""),
        ("c", Some(good), Some(good), "has not the images", ""),
    ] {
        let mut service = Service::new().await;
        service.write("insert into item (item_id, label) values (7, 'fine')").await;
        sqlx::query("insert into cdc_change (tx_id, table_name, op, before, after) values (2, 'item', ?, ?, ?)")
            .bind(op)
            .bind(before)
            .bind(after)
            .execute(&mut service.connection)
            .await
            .unwrap();
        let mut source = service.source().await;
        source.resume(&Resume::default()).await.unwrap();
        let position = |page: Option<Page>| page.unwrap().position.unwrap();
        let page = source.read(limits(1)).await.unwrap();
        assert_eq!(position(page), Position::ChangeId(1), "what is good comes");
        let page = source.read(limits(1)).await.unwrap().unwrap();
        let [bad] = page.quarantined.as_slice() else { panic!("{op} {after:?}") };
        assert!(page.batches.is_empty());
        assert_eq!((bad.id.as_str(), bad.op.as_str()), ("2", op));
        assert!(bad.reason.contains(expected), "{}", bad.reason);
        assert!(bad.reason.contains(detail), "{}", bad.reason);
        assert!(!bad.reason.contains("18446744073709551615"), "no value of a cell");
        let images = [before, after].map(|image| image.unwrap_or_default().as_bytes());
        assert_eq!(bad.raw, images.join(&b'\n'));
        if after == Some(good) {
            assert_eq!(bad.key.as_deref(), Some("[\"1\"]"));
        }
        assert_eq!(position(Some(page)), Position::ChangeId(2), "and reading goes on");
        service.write("insert into pair values (1, 'x', 0)").await;
        let page = source.read(limits(1)).await.unwrap().unwrap();
        assert_eq!((page.row_count, page.quarantined.len()), (1, 0));
    }
}

#[tokio::test]
async fn a_source_that_cannot_be_read_holds_up_no_other() {
    let (mut good, mut bad) = (Service::new().await, Service::new().await);
    bad.write("insert into pair values (1, 'x', 0)").await;
    good.write("insert into pair values (1, 'x', 0)").await;
    let wake = Wake::Polled(Duration::from_millis(1));
    let sources = vec![
        EmbeddedSource::open("bad", &bad.path, wake.clone()).await.unwrap().into(),
        EmbeddedSource::open("good", &good.path, wake).await.unwrap().into(),
    ];
    let mut ingest = Ingest::open(sources, &Resume::default()).await.unwrap();
    bad.sql("alter table cdc_change rename to cdc_away").await;
    let cut = ingest.next(limits(10)).await.unwrap();
    assert_eq!(cut.positions.keys().map(SourceId::as_str).collect::<Vec<_>>(), ["good"]);
    let failing = |ingest: &Ingest| {
        ingest.monitor().sources().into_values().map(|s| s.failing.is_some()).collect::<Vec<_>>()
    };
    assert_eq!(failing(&ingest), [true, false]);
    // It is tried again by itself, and goes on once it is repaired.
    bad.sql("alter table cdc_away rename to cdc_change").await;
    let cut = ingest.next(limits(10)).await.unwrap();
    assert_eq!(cut.positions.keys().map(SourceId::as_str).collect::<Vec<_>>(), ["bad"]);
    assert_eq!(failing(&ingest), [false, false]);
}

#[tokio::test]
async fn only_what_was_handed_out_is_trimmed() {
    let mut service = Service::new().await;
    for i in 0..12_000 {
        if i % 100 == 0 {
            service.write(&format!("insert into pair values ({i}, 'x', 0)")).await;
        }
    }
    service
        .write(
            "insert into item (item_id, label)
             with recursive n(i) as (select 1 union all select i + 1 from n where i < 12000)
             select i, '' from n",
        )
        .await;
    let mut ingest = service.ingest(&Positions::new()).await;
    let error = ingest.acknowledge(&at(1)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    let first = ingest.next(limits(50)).await.unwrap();
    assert_eq!(first.positions, at(50));
    assert!(ingest.acknowledge(&at(51)).await.is_err());
    assert_eq!(ingest.acknowledge(&at(50)).await.unwrap(), 50);
    assert_eq!(ingest.acknowledge(&at(50)).await.unwrap(), 0, "again is right");
    assert_eq!(service.count("cdc_change").await, 120 + 12_000 - 50);
    assert_eq!(service.count("cdc_transaction").await, 121 - 50);
    assert_eq!(service.count("cdc_trimmed where trimmed_to = 50").await, 1);
    let rest = drain(&mut ingest, limits(1_000)).await;
    let end = rest.last().unwrap().positions.clone();
    assert_eq!(end, at(12_120));
    assert_eq!(ingest.acknowledge(&end).await.unwrap(), 12_070);
    assert_eq!(service.count("cdc_change").await, 0);
    assert_eq!(service.count("cdc_transaction").await, 1, "the newest stays: triggers name it");
    service.write("delete from pair where left_id = 0").await;
    assert_eq!(ingest.next(limits(1)).await.unwrap().positions, at(12_121), "ids go on");
}

#[tokio::test]
async fn a_position_that_does_not_fit_is_refused_with_its_remedy() {
    let mut service = Service::new().await;
    for i in 0..5 {
        service.write(&format!("insert into pair values ({i}, 'x', 0)")).await;
    }
    let mut ingest = service.ingest(&Positions::new()).await;
    let cut = ingest.next(limits(3)).await.unwrap();
    ingest.acknowledge(&cut.positions).await.unwrap();
    let open =
        async |p: Positions| Ingest::open(vec![service.source().await.into()], &resume(p)).await;
    assert!(open(at(3)).await.is_ok());
    assert!(open(at(5)).await.is_ok());
    // The database was put back: the lake would take what comes for what it has.
    let ahead = open(at(6)).await.unwrap_err();
    assert_eq!(ahead.kind(), Kind::Conflict);
    assert!(ahead.to_string().contains("newest change is change:5"), "{ahead}");
    let mut other = at(5);
    other.insert(SourceId::new("elsewhere"), Position::ChangeId(1));
    assert_eq!(open(other).await.unwrap_err().kind(), Kind::Invalid);
    let twice = vec![service.source().await.into(), service.source().await.into()];
    assert!(Ingest::open(twice, &Resume::default()).await.is_err());
}

#[tokio::test]
async fn first_contact_copies_rows_whose_changes_are_gone() {
    let mut service = Service::new().await;
    service
        .write(
            "insert into item values (1, 'a', 5, 0.1, 1, '2026-11-21', 9, x'0a'),
             (2, 'b', null, null, null, null, null, null), (3, 'c', 1, 1.0, 0, null, 1, null)",
        )
        .await;
    service.write("insert into pair values (1, 'x', 0), (2, 'y', 1)").await;
    service.write("delete from item where item_id = 3").await;
    service.write("update pair set n = 7 where left_id = 2").await;
    let mut whole = Replica::default();
    let mut ingest = service.ingest(&Positions::new()).await;
    for cut in drain(&mut ingest, limits(1)).await {
        whole.apply(&cut);
    }
    ingest.acknowledge(&at(5)).await.unwrap();

    let mut copied = Replica::default();
    let mut ingest = service.ingest(&Positions::new()).await;
    let cuts = settle(&mut ingest, limits(1)).await;
    assert_eq!(cuts[0].positions.clone(), at(7), "changes are read from here on");
    assert!(cuts.iter().skip(1).all(|c| c.positions.is_empty()));
    assert_eq!(cuts.iter().map(row_count).sum::<usize>(), 4);
    assert!(cuts.iter().flat_map(|c| &c.copies).all(|c| c.scope == CopyScope::Rows));
    cuts.iter().for_each(|cut| copied.apply(cut));
    assert_eq!(copied, whole);
    assert!(ingest.try_next(limits(1)).await.unwrap().is_none(), "nothing comes twice");
    service.write("update pair set n = 8 where left_id = 2").await;
    copied.apply(&ingest.next(limits(1)).await.unwrap());

    // Rows that were there before the triggers were.
    service.sql("create table late (late_id INTEGER primary key)").await;
    service.sql("insert into late values (4)").await;
    service.sql("update cdc_trimmed set trimmed_to = 0").await;
    service.capture().await;
    let cuts = settle(&mut service.ingest(&Positions::new()).await, limits(1)).await;
    assert_eq!(cuts.iter().map(row_count).sum::<usize>(), 5);
}

#[tokio::test]
async fn several_sources_are_read_into_one_sequence() {
    let (mut a, mut b) = (Service::new().await, Service::new().await);
    for i in 0..30 {
        a.write(&format!("insert into pair values ({i}, 'x', 0)")).await;
    }
    b.write("insert into pair values (1, 'y', 0)").await;
    let wake = Arc::new(tokio::sync::Notify::new());
    let notified = Wake::Notified(Arc::clone(&wake));
    let sources = vec![
        EmbeddedSource::open("first", &a.path, notified.clone()).await.unwrap().into(),
        EmbeddedSource::open("second", &b.path, notified).await.unwrap().into(),
    ];
    let mut ingest = Ingest::open(sources, &Resume::default()).await.unwrap();
    assert_eq!(ingest.tables().len(), 6, "two of each, and two of its own");
    let cuts = drain(&mut ingest, limits(10)).await;
    assert_eq!(cuts.iter().map(row_count).sum::<usize>(), 31);
    assert_eq!(cuts[0].positions.len(), 2, "the one far behind does not hold up the other");
    let newest = cuts.iter().filter_map(|c| c.committed_at_micros).max();
    assert_eq!(newest, Some(1_030));
    // The reader waits; a commit wakes it.
    let waiting = async { ingest.next(limits(10)).await.unwrap() };
    let writing = async {
        b.write("insert into pair values (2, 'y', 0)").await;
        wake.notify_one();
    };
    let (cut, ()) = tokio::join!(waiting, writing);
    let moved = Positions::from([(SourceId::new("second"), Position::ChangeId(2))]);
    assert_eq!(cut.positions, moved, "a source that did not move is left out");
}

/// A writer, a reader that is cancelled and restarted at random and keeps what it stored with the
/// position, and acknowledgements of stored positions: in the end the replica is the database, and
/// every cut on the way is a state the database was in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_restarted_at_random_ends_with_the_database() {
    for seed in 0..4 {
        let mut service = Service::new().await;
        let mut writer = Service::connect(&service.path, None).await;
        let mut writing = tokio::task::JoinSet::new();
        writing.spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            for _ in 0..400 {
                // `item` and `pair` gain and lose rows together, so a split would show.
                let id = random.random_range(0..60_i64);
                let rate: f64 = random.random_range(-1e3..1e3);
                let (with, without) = (id + 1_000, id + 2_000);
                let sql = match random.random_range(0..5) {
                    0 | 1 => format!(
                        "insert into item (item_id, label, rate) values ({id}, 'n', {rate})
                             on conflict do nothing;
                         insert into pair values ({id}, 'p', 0) on conflict do nothing"
                    ),
                    2 => format!(
                        "delete from item where item_id = {id}; delete from pair where left_id = {id}"
                    ),
                    3 => format!(
                        "update item set rate = {rate}, payload = randomblob(9) where item_id = {id};
                         update pair set n = n + 1 where left_id = {id}"
                    ),
                    _ => format!(
                        "insert into item (item_id, label) values ({with}, '') on conflict do nothing;
                         update item set item_id = {without} where item_id = {with}
                             and not exists (select 1 from item where item_id = {without});
                         delete from item where item_id in ({with}, {without})"
                    ),
                };
                writer.write(&sql).await;
            }
        });
        let mut random = StdRng::seed_from_u64(seed + 100);
        let mut replica = Replica::default();
        let mut stored = Positions::new();
        let mut done = false;
        while !done {
            // The last look comes after the writer's end.
            done = writing.try_join_next().is_some();
            let mut ingest = service.ingest(&stored).await;
            for _ in 0..random.random_range(1..12) {
                let next = ingest.next(limits(random.random_range(1..40)));
                // Short enough that some calls are cancelled in the middle of a read.
                let patience = Duration::from_micros(random.random_range(50..4_000));
                let Ok(cut) = tokio::time::timeout(patience, next).await else { continue };
                let cut = cut.unwrap();
                replica.apply(&cut);
                stored.extend(cut.positions);
                assert_eq!(replica.count("shop.item"), replica.count("shop.pair"));
                if random.random_bool(0.3) {
                    ingest.acknowledge(&stored).await.unwrap();
                }
            }
            if done {
                for cut in drain(&mut ingest, limits(1_000)).await {
                    replica.apply(&cut);
                }
            }
        }
        let mut copied = Replica::default();
        let fresh = Positions::new();
        service.sql("insert into cdc_trimmed values (1, 0) on conflict do nothing").await;
        service.sql("update cdc_trimmed set trimmed_to = max(trimmed_to, 1)").await;
        let mut ingest = service.ingest(&fresh).await;
        settle(&mut ingest, limits(1)).await.iter().for_each(|cut| copied.apply(cut));
        assert_eq!(replica, copied, "seed {seed}");
        let count = usize::try_from(service.count("item").await).unwrap();
        assert_eq!(count, replica.count("shop.item"), "seed {seed}");
    }
}
