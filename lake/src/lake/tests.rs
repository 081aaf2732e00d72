use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::atomic::{AtomicI64, Ordering},
};

use arrow::{array::ArrayRef, record_batch::RecordBatch, util::display::array_value_to_string};
use datafusion::{
    common::stats::Precision,
    physical_plan::statistics::{StatisticsArgs, StatisticsContext},
    prelude::{SessionConfig, SessionContext},
    scalar::ScalarValue,
};
use medlake_contract::{ChangeBatch, Column, ColumnType, Op, Position, SourceId};
use tempfile::TempDir;

use super::*;
use crate::{Follower, config::Durability, fault::Fault};

mod columns;
mod compaction;
mod complete;
mod differences;
mod equality_deletes;
mod feed;
mod history;
mod identity;
mod indexes;
mod layout;
mod past;
mod rewrites;
mod upkeep;

type Row = Vec<ScalarValue>;

fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cells: Vec<String> = batch
                .columns()
                .iter()
                .map(|c| {
                    if c.is_null(row) {
                        "null".into()
                    } else {
                        array_value_to_string(c, row).unwrap()
                    }
                })
                .collect();
            lines.push(cells.join(","));
        }
    }
    lines.sort();
    lines
}

/// Rows as an image of a change: all null where there is none.
fn image(schema: &TableSchema, rows: Vec<Option<Row>>) -> RecordBatch {
    let columns: Vec<ArrayRef> = schema
        .columns()
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let null = ScalarValue::try_from(&column.ty.arrow()).unwrap();
            let values: Vec<ScalarValue> = rows
                .iter()
                .map(|r| r.as_ref().and_then(|r| r.get(at)).unwrap_or(&null).clone())
                .collect();
            if values.is_empty() {
                arrow::array::new_empty_array(&column.ty.arrow())
            } else {
                ScalarValue::iter_to_array(values).unwrap()
            }
        })
        .collect();
    RecordBatch::try_new(Arc::clone(schema.arrow_nullable()), columns).unwrap()
}

type Change = (Op, Option<Row>, Option<Row>);

fn batch(schema: &Arc<TableSchema>, changes: Vec<Change>) -> ChangeBatch {
    let ops = changes.iter().map(|c| c.0).collect();
    let (before, after) = changes.into_iter().map(|(_, b, a)| (b, a)).unzip();
    ChangeBatch::new(Arc::clone(schema), ops, image(schema, before), image(schema, after)).unwrap()
}

fn set(batches: Vec<ChangeBatch>) -> ChangeSet {
    ChangeSet { batches, ..ChangeSet::default() }
}

fn at(positions: &[(&str, u64)]) -> Positions {
    positions.iter().map(|(s, p)| (SourceId::new(*s), Position::ChangeId(*p))).collect()
}

fn table(name: &str, columns: Vec<Column>, key: &[&str]) -> Arc<TableSchema> {
    Arc::new(TableSchema::new(name.parse().unwrap(), columns, key).unwrap())
}

fn numbers() -> Arc<TableSchema> {
    table(
        "mall.numbers",
        vec![Column::required("id", ColumnType::Int64), Column::nullable("v", ColumnType::Int64)],
        &["id"],
    )
}

fn number(id: i64, v: i64) -> Row {
    vec![ScalarValue::Int64(Some(id)), ScalarValue::Int64(Some(v))]
}

fn insert(id: i64, v: i64) -> Change {
    (Op::Insert, None, Some(number(id, v)))
}

fn update(id: i64, from: i64, to: i64) -> Change {
    (Op::Update, Some(number(id, from)), Some(number(id, to)))
}

fn delete(id: i64, v: i64) -> Change {
    (Op::Delete, Some(number(id, v)), None)
}

/// A lake of small limits in a temporary folder, with a clock that ticks.
struct Bench {
    folder: TempDir,
    clock: Arc<AtomicI64>,
    tick_micros: i64,
}

impl Bench {
    fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the metadata library reads the clock too")]
        let now = std::time::SystemTime::now();
        let start = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
        let start = i64::try_from(start).unwrap();
        Self {
            folder: TempDir::new().unwrap(),
            clock: Arc::new(AtomicI64::new(start)),
            tick_micros: 1_000_000,
        }
    }

    fn config(&self) -> LakeConfig {
        let clock = Arc::clone(&self.clock);
        let tick_micros = self.tick_micros;
        let tick = Arc::new(move || clock.fetch_add(tick_micros, Ordering::SeqCst));
        LakeConfig {
            durability: Durability::Process,
            small_file_count: 4,
            delete_file_count: 3,
            keep_snapshots: 3,
            keep_snapshots_micros: 0,
            ..LakeConfig::new(self.folder.path(), tick)
        }
    }

    /// Another writer comes, one that does not see the folder's lock.
    async fn take_over(&self) {
        let config = self.config();
        let catalog = catalog::open(&config, &config.root, Access::Write).await.unwrap();
        catalog.take_over(0).await.unwrap();
    }

    async fn open(&self) -> Lake {
        let lake = Lake::open(self.config()).await.unwrap();
        lake.load_indexes().await.unwrap();
        lake
    }
}

fn session(view: &ReadView) -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(2);
    let context = SessionContext::new_with_config(config);
    context.register_catalog("medlake", view.catalog());
    context
}

async fn query(view: &ReadView, sql: &str) -> Vec<String> {
    let batches = session(view).sql(sql).await.unwrap().collect().await.unwrap();
    lines(&batches)
}

async fn rows(view: &ReadView, table: &str) -> Vec<String> {
    query(view, &format!("select * from medlake.{table}")).await
}

#[tokio::test]
async fn a_staged_set_is_seen_only_when_published() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = numbers();
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    let before = lake.read_view();
    lake.stage(&set(vec![batch(&t, vec![insert(1, 10), insert(2, 20)])])).unwrap();
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await, Vec::<String>::new());
    assert_eq!(rows(&lake.staged_view(), "mall.numbers").await, ["1,10", "2,20"]);
    let mut watch = lake.watch();
    watch.mark_unchanged();
    let view = lake.publish();
    assert!(watch.has_changed().unwrap());
    assert_eq!(view.version(), before.version() + 1);
    assert_eq!(rows(&view, "mall.numbers").await, ["1,10", "2,20"]);
    assert_eq!(rows(&before, "mall.numbers").await, Vec::<String>::new());
}

#[tokio::test]
async fn changes_of_one_key_collapse_in_order() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = numbers();
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    let moved = (Op::Update, Some(number(1, 12)), Some(number(9, 12)));
    let changes = vec![
        insert(1, 10),
        update(1, 10, 11),
        insert(1, 12), // insert of a key that is there replaces it
        moved,
        insert(1, 99),
        delete(1, 99),
        delete(5, 0),     // not there: nothing
        update(6, 0, 60), // not there: inserted
    ];
    lake.stage(&set(vec![batch(&t, changes)])).unwrap();
    let view = lake.publish();
    assert_eq!(rows(&view, "mall.numbers").await, ["6,60", "9,12"]);
    let report = lake.flush().await.unwrap();
    assert_eq!((report.rows, report.deletes), (2, 0), "rows dead before the flush are not written");
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await, ["6,60", "9,12"]);
}

#[tokio::test]
async fn a_wrong_batch_changes_nothing_at_all() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let (t, other) =
        (numbers(), table("mall.names", vec![Column::required("n", ColumnType::Utf8)], &["n"]));
    lake.create_tables(&[Arc::clone(&t), Arc::clone(&other)]).await.unwrap();
    let unknown = table("mall.none", vec![Column::required("n", ColumnType::Utf8)], &["n"]);
    let null_key = batch(&other, vec![(Op::Insert, None, Some(vec![ScalarValue::Utf8(None)]))]);
    let null_before = batch(&other, vec![(Op::Delete, None, None)]);
    for wrong in [null_key, null_before, batch(&unknown, vec![])] {
        let good = batch(&t, vec![insert(1, 1)]);
        let changes = ChangeSet { positions: at(&[("mall", 5)]), ..set(vec![good, wrong]) };
        lake.stage(&changes).unwrap_err();
        assert!(lake.staged_positions().is_empty());
        assert_eq!(lake.publish().version(), 0);
    }
}

#[tokio::test]
async fn a_repeated_set_is_dropped_by_its_position_also_after_reopening() {
    let bench = Bench::new();
    let t = numbers();
    let marts = table("marts.m", vec![Column::required("n", ColumnType::Int64)], &["n"]);
    let first = ChangeSet {
        positions: at(&[("mall", 5)]),
        committed_at_micros: Some(77),
        ..set(vec![batch(&t, vec![insert(1, 1)])])
    };
    {
        let lake = bench.open().await;
        lake.create_tables(&[Arc::clone(&t), Arc::clone(&marts)]).await.unwrap();
        lake.stage(&first).unwrap();
        lake.publish();
        assert!(lake.committed_positions().is_empty());
        assert_eq!(lake.flush().await.unwrap().positions, at(&[("mall", 5)]));
        assert_eq!(lake.committed_positions(), at(&[("mall", 5)]));
        // Rows of no net effect still move the position.
        let none = batch(&t, vec![insert(7, 7), delete(7, 7)]);
        lake.stage(&ChangeSet { positions: at(&[("mall", 8)]), ..set(vec![none]) }).unwrap();
        lake.publish();
        lake.flush().await.unwrap();
        // And so do positions alone.
        lake.stage(&ChangeSet { positions: at(&[("mall", 9)]), ..set(vec![]) }).unwrap();
        lake.publish();
        assert_eq!(lake.flush().await.unwrap().tables, 1);
        assert_eq!(lake.flush().await.unwrap().tables, 0);
    }
    let lake = bench.open().await;
    assert_eq!(lake.committed_positions(), at(&[("mall", 9)]));
    assert_eq!(lake.read_view().committed_at_micros(), Some(77));
    lake.stage(&first).unwrap();
    let mart = batch(&marts, vec![(Op::Insert, None, Some(vec![ScalarValue::Int64(Some(4))]))]);
    let mixed = batch(&t, vec![insert(3, 3)]);
    lake.stage(&ChangeSet { positions: at(&[("mall", 9)]), ..set(vec![mixed, mart]) }).unwrap();
    let view = lake.publish();
    assert_eq!(rows(&view, "mall.numbers").await, ["1,1"]);
    assert_eq!(rows(&view, "marts.m").await, ["4"], "a table of no source is not dropped");
}

#[tokio::test]
async fn only_one_writer() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = numbers();
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    assert!(matches!(Lake::open(bench.config()).await, Err(LakeError::Locked { .. })));
    // Another machine would not see the lock, but takes the epoch.
    bench.take_over().await;
    lake.stage(&set(vec![batch(&t, vec![insert(1, 1)])])).unwrap();
    lake.publish();
    let error = lake.flush().await.unwrap_err();
    assert!(matches!(error, LakeError::Fenced { own: 1, current: 2 }), "{error}");
    assert_eq!(files(bench.folder.path(), "mall/numbers/data").len(), 0, "taken back");
}

#[tokio::test]
async fn a_table_that_others_dropped_is_a_conflict() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = numbers();
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    let pool = sqlx::SqlitePool::connect(&format!(
        "sqlite://{}",
        bench.folder.path().join("catalog.db").display()
    ))
    .await
    .unwrap();
    sqlx::query("delete from iceberg_tables").execute(&pool).await.unwrap();
    lake.stage(&set(vec![batch(&t, vec![insert(1, 1)])])).unwrap();
    lake.publish();
    assert!(matches!(lake.flush().await, Err(LakeError::CommitConflict { .. })));
}

fn files(root: &Path, folder: &str) -> Vec<String> {
    let folder = root.join("warehouse").join(folder);
    fs::read_dir(folder)
        .map(|d| d.map(|e| e.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default()
}

#[tokio::test]
async fn a_crash_leaves_all_tables_at_the_last_flush() {
    let bench = Bench::new();
    let (t, u) = (
        numbers(),
        table(
            "mall.twins",
            vec![
                Column::required("id", ColumnType::Int64),
                Column::nullable("v", ColumnType::Int64),
            ],
            &["id"],
        ),
    );
    let both = |changes: Vec<Change>| set(vec![batch(&t, changes.clone()), batch(&u, changes)]);
    {
        let lake = bench.open().await;
        lake.create_tables(&[Arc::clone(&t), Arc::clone(&u)]).await.unwrap();
        lake.stage(&both(vec![insert(1, 1), insert(2, 2)])).unwrap();
        lake.publish();
        lake.flush().await.unwrap();
        lake.stage(&both(vec![update(1, 1, 9), insert(3, 3)])).unwrap();
        lake.publish();
        lake.storage.faults().arm(Fault::BeforeSwap);
        let error = lake.flush().await.unwrap_err();
        assert_eq!(error.kind(), medlake_contract::Kind::Unavailable);
        assert_eq!(rows(&lake.read_view(), "mall.twins").await, ["1,9", "2,2", "3,3"]);
    }
    let lake = bench.open().await;
    for table in ["mall.numbers", "mall.twins"] {
        assert_eq!(rows(&lake.read_view(), table).await, ["1,1", "2,2"]);
    }
    lake.stage(&both(vec![update(1, 1, 9), insert(3, 3)])).unwrap();
    lake.publish();
    let report = lake.flush().await.unwrap();
    assert_eq!((report.tables, report.rows, report.deletes), (2, 4, 2));
}

#[tokio::test]
async fn a_lost_answer_is_resolved_by_reading_again() {
    let bench = Bench::new();
    let t = numbers();
    {
        let lake = bench.open().await;
        lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
        lake.stage(&set(vec![batch(&t, vec![insert(1, 1)])])).unwrap();
        lake.publish();
        lake.storage.faults().arm(Fault::AnswerLost);
        assert_eq!(lake.flush().await.unwrap().rows, 1, "found out that it was committed");

        lake.stage(&set(vec![batch(&t, vec![insert(2, 2), update(1, 1, 5)])])).unwrap();
        lake.publish();
        lake.storage.faults().arm(Fault::AnswerLost);
        lake.storage.faults().arm(Fault::RereadFails);
        let error = lake.flush().await.unwrap_err();
        assert!(matches!(error, LakeError::CommitUnknown { .. }), "{error}");
        lake.stage(&set(vec![batch(&t, vec![update(2, 2, 6)])])).unwrap();
        let view = lake.publish();
        assert_eq!(rows(&view, "mall.numbers").await, ["1,5", "2,6"]);
        let report = lake.flush().await.unwrap();
        assert_eq!((report.rows, report.deletes), (1, 1), "only what came after the lost commit");
        assert_eq!(rows(&lake.read_view(), "mall.numbers").await, ["1,5", "2,6"]);
    }
    assert_eq!(rows(&bench.open().await.read_view(), "mall.numbers").await, ["1,5", "2,6"]);
}

#[tokio::test]
async fn files_are_pruned_and_counts_are_exact() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = numbers();
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    for part in 0..4 {
        let rows = (0..100).map(|i| insert(part * 100 + i, i)).collect();
        lake.stage(&set(vec![batch(&t, rows)])).unwrap();
        lake.publish();
        lake.flush().await.unwrap();
    }
    lake.stage(&set(vec![batch(&t, (0..100).map(|i| delete(i, 0)).collect())])).unwrap();
    lake.stage(&set(vec![batch(&t, vec![delete(150, 0), insert(1000, 1)])])).unwrap();
    let view = lake.publish();
    let plan = |sql: &'static str| {
        let context = session(&view);
        async move { context.sql(sql).await.unwrap().create_physical_plan().await.unwrap() }
    };
    let files = |plan: Arc<dyn datafusion::physical_plan::ExecutionPlan>| {
        let text = datafusion::physical_plan::displayable(plan.as_ref()).indent(true).to_string();
        let count =
            text.split("files=").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok());
        count.unwrap_or(0)
    };
    let all = plan("select id from medlake.mall.numbers").await;
    let known = StatisticsContext::new().compute(all.as_ref(), &StatisticsArgs::new()).unwrap();
    assert_eq!(known.num_rows, Precision::Exact(300));
    assert_eq!(files(all), 3, "a file without living rows is not read");
    assert_eq!(files(plan("select id from medlake.mall.numbers where id = 250").await), 1);
    assert_eq!(files(plan("select id from medlake.mall.numbers where id > 5000").await), 0);
    assert_eq!(files(plan("select id from medlake.mall.numbers where v is null").await), 0);
    let filtered =
        "select count(*), sum(id) from medlake.mall.numbers where id between 140 and 160";
    assert_eq!(query(&view, filtered).await, ["20,3000"]);
    let limited = query(&view, "select id from medlake.mall.numbers limit 7").await;
    assert_eq!(limited.len(), 7);
}

/// A long run of small flushes: nothing grows without bound, and old views still read.
#[tokio::test]
async fn a_long_run_stays_bounded() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = numbers();
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    let mut largest = (0, 0, 0);
    let mut old = None;
    for step in 0..120_i64 {
        let changes = vec![insert(step, step), insert(step % 7, -step), delete(step / 2, 0)];
        lake.stage(&set(vec![batch(&t, changes)])).unwrap();
        let view = lake.publish();
        if step == 50 {
            let content = rows(&view, "mall.numbers").await;
            old = Some((view, content));
        }
        lake.flush().await.unwrap();
        lake.maintain().await.unwrap();
        let committer = lake.committer.lock().await;
        let metadata = &committer.tables[t.name()].metadata;
        assert!(metadata.snapshots().len() <= 3);
        let data = files(bench.folder.path(), "mall/numbers/data").len();
        let meta = files(bench.folder.path(), "mall/numbers/metadata").len();
        let json = serde_json::to_vec(metadata).unwrap().len();
        if step > 20 && !(50..60).contains(&step) {
            largest = (largest.0.max(data), largest.1.max(meta), largest.2.max(json));
        }
    }
    assert!(largest.0 <= 40, "{} data files", largest.0);
    assert!(largest.1 <= 60, "{} metadata files", largest.1);
    assert!(largest.2 <= 16_000, "{} bytes of metadata", largest.2);
    let (view, content) = old.take().unwrap();
    assert_eq!(rows(&view, "mall.numbers").await, content, "an old view reads files long merged");
    let before = files(bench.folder.path(), "mall/numbers/data").len();
    drop(view);
    lake.flush().await.unwrap();
    let after = files(bench.folder.path(), "mall/numbers/data").len();
    assert!(after < before, "its files go when it is dropped: {before} to {after}");
    let content = rows(&lake.read_view(), "mall.numbers").await;
    drop(lake);
    assert_eq!(rows(&bench.open().await.read_view(), "mall.numbers").await, content);
}

#[tokio::test]
async fn orphans_are_removed_when_old() {
    let bench = Bench::new();
    let t = numbers();
    {
        let lake = bench.open().await;
        lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
        lake.stage(&set(vec![batch(&t, vec![insert(1, 1)])])).unwrap();
        lake.publish();
        lake.flush().await.unwrap();
    }
    let data = bench.folder.path().join("warehouse/mall/numbers/data");
    fs::write(data.join("stray.parquet"), "x").unwrap();
    bench.open().await.maintain().await.unwrap();
    assert_eq!(files(bench.folder.path(), "mall/numbers/data").len(), 2, "too young to remove");
    let later = LakeConfig { orphan_micros: -3_600_000_000, ..bench.config() };
    let lake = Lake::open(later).await.unwrap();
    assert_eq!(lake.maintain().await.unwrap().orphans, 1);
    assert_eq!(files(bench.folder.path(), "mall/numbers/data").len(), 1);
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await, ["1,1"]);
}

#[tokio::test]
async fn a_writer_that_was_replaced_removes_nothing() {
    let bench = Bench::new();
    let t = numbers();
    bench.open().await.create_tables(&[Arc::clone(&t)]).await.unwrap();
    let later = LakeConfig { orphan_micros: -3_600_000_000, ..bench.config() };
    let lake = Lake::open(later).await.unwrap();
    let data = bench.folder.path().join("warehouse/mall/numbers/data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("of-the-next-writer.parquet"), "x").unwrap();
    bench.take_over().await;
    let fenced = lake.maintain().await.unwrap_err();
    assert!(matches!(fenced, LakeError::Fenced { .. }), "{fenced}");
    assert_eq!(files(bench.folder.path(), "mall/numbers/data").len(), 1);
}

#[tokio::test]
async fn a_snapshot_that_was_current_a_moment_ago_still_reads() {
    let bench = Bench::new();
    let config = LakeConfig { keep_snapshots_micros: 60_000_000, ..bench.config() };
    let lake = Lake::open(config).await.unwrap();
    let t = numbers();
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    let commit = async |change| {
        lake.stage(&set(vec![batch(&t, vec![change])])).unwrap();
        lake.publish();
        lake.flush().await.unwrap();
    };
    commit(insert(1, 1)).await;
    bench.clock.fetch_add(3_600_000_000, Ordering::SeqCst);
    let follower = Follower::open(&bench.config()).await.unwrap();
    let view = Arc::clone(&follower.watch().borrow());
    // Its only file goes, and the commits that follow are many but quick.
    commit(delete(1, 1)).await;
    for id in 2..8 {
        commit(insert(id, id)).await;
    }
    assert_eq!(rows(&view, "mall.numbers").await, ["1,1"]);
    bench.clock.fetch_add(60_000_000, Ordering::SeqCst);
    commit(insert(9, 9)).await;
    assert_eq!(lake.committer.lock().await.tables[t.name()].metadata.snapshots().len(), 3);
}

/// Metadata holds absolute addresses: a copy would write into the lake it was copied from.
#[tokio::test]
async fn a_copy_of_a_lake_does_not_touch_the_original() {
    let bench = Bench::new();
    {
        let lake = bench.open().await;
        lake.create_tables(&[numbers()]).await.unwrap();
    }
    let copy = Bench::new();
    for file in ["catalog.db", "catalog.db-wal"] {
        let from = bench.folder.path().join(file);
        if from.exists() {
            fs::copy(from, copy.folder.path().join(file)).unwrap();
        }
    }
    let error = Lake::open(copy.config()).await.err().unwrap();
    assert!(matches!(error, LakeError::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("another folder"), "{error}");
}

/// Two tables that every change set keeps equal are equal in every view, while flushes run on
/// another thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_never_shows_a_part_of_a_set() {
    let bench = Bench::new();
    let lake = Arc::new(bench.open().await);
    let (t, u) = (
        numbers(),
        table(
            "mall.twins",
            vec![
                Column::required("id", ColumnType::Int64),
                Column::nullable("v", ColumnType::Int64),
            ],
            &["id"],
        ),
    );
    lake.create_tables(&[Arc::clone(&t), Arc::clone(&u)]).await.unwrap();
    let mut flusher = tokio::task::JoinSet::new();
    let flushing = Arc::clone(&lake);
    flusher.spawn(async move {
        let mut view = flushing.watch();
        while view.changed().await.is_ok() {
            flushing.flush().await.unwrap();
            if flushing.committed_positions() == at(&[("mall", 150)]) {
                break;
            }
        }
    });
    let sums = "select count(*), sum(id), sum(v) from medlake.mall";
    for step in 1..=150_i64 {
        let mut changes: Vec<Change> =
            (0..20).map(|i| insert((step * 13 + i) % 97, step)).collect();
        changes.push(delete(step % 97, 0));
        let set = set(vec![batch(&t, changes.clone()), batch(&u, changes)]);
        let position = u64::try_from(step).unwrap();
        lake.stage(&ChangeSet { positions: at(&[("mall", position)]), ..set }).unwrap();
        lake.publish();
        tokio::task::yield_now().await;
        let view = lake.read_view();
        let both = [
            query(&view, &format!("{sums}.numbers")).await,
            query(&view, &format!("{sums}.twins")).await,
        ];
        assert_eq!(both[0], both[1], "step {step}");
    }
    while let Some(ended) = flusher.join_next().await {
        ended.unwrap();
    }
    let content = rows(&lake.read_view(), "mall.numbers").await;
    drop(lake);
    let lake = bench.open().await;
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await, content);
    assert_eq!(rows(&lake.read_view(), "mall.twins").await, content);
}
