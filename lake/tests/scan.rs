//! The lake's scan against DataFusion's own tables in memory, which hold the same rows: random
//! queries, with rows in several row groups and files, dead ones among them, and rows in memory.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Date32Array, Float64Array, Int32Array, Int64Array, StringArray},
    compute::{concat_batches, filter_record_batch},
    datatypes::DataType,
    record_batch::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::{
    datasource::MemTable,
    physical_plan::{ExecutionPlan, collect, execute_stream, execute_stream_partitioned},
    prelude::{SessionConfig, SessionContext},
};
use futures::StreamExt;
use medlake_contract::{ChangeBatch, ChangeSet, Column, ColumnType, Op, TableSchema};
use medlake_lake::Lake;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::fixtures::{self, counted};

/// More than two row groups to a file.
const FILE_ROWS: usize = 300_000;

fn lines() -> Arc<TableSchema> {
    let columns = vec![
        Column::required("id", ColumnType::Int64),
        Column::nullable("shop", ColumnType::Int32),
        Column::nullable("fen", ColumnType::Int64),
        Column::nullable("day", ColumnType::Date),
        Column::nullable("kind", ColumnType::Utf8),
        Column::nullable("ratio", ColumnType::Float64),
    ];
    Arc::new(TableSchema::new("mall.lines".parse().unwrap(), columns, &["id"]).unwrap())
}

fn rows(ids: std::ops::Range<i64>, random: &mut StdRng) -> RecordBatch {
    let count = usize::try_from(ids.end - ids.start).unwrap();
    let mut some = |share: f64| (0..count).map(|_| random.random_bool(share)).collect::<Vec<_>>();
    let (shops, kinds) = (some(0.9), some(0.95));
    let fen: Vec<i64> = (0..count).map(|_| random.random_range(-500..100_000)).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids.clone())),
        Arc::new(
            shops
                .iter()
                .zip(&fen)
                .map(|(some, fen)| some.then_some(i32::try_from(fen.rem_euclid(97)).unwrap()))
                .collect::<Int32Array>(),
        ),
        Arc::new(Int64Array::from(fen.clone())),
        // Days rise with the ids, so that row groups and pages can be ruled out by them.
        Arc::new(Date32Array::from_iter_values(
            ids.clone().map(|id| i32::try_from(19_000 + id / 2_000).unwrap()),
        )),
        Arc::new(
            kinds
                .iter()
                .zip(&fen)
                .map(|(some, fen)| some.then(|| format!("类别 {}", fen.rem_euclid(31))))
                .collect::<StringArray>(),
        ),
        // Some are not numbers: their bounds must not rule them out.
        Arc::new(
            fen.iter()
                .map(|fen| if fen % 5_003 == 0 { f64::NAN } else { *fen as f64 / 8.0 })
                .collect::<Float64Array>(),
        ),
    ];
    RecordBatch::try_new(Arc::clone(lines().arrow()), columns).unwrap()
}

/// Adds rows, and makes some of the earlier ones go. Gives the rows there are afterwards.
fn change(lake: &Lake, living: &RecordBatch, more: &RecordBatch, gone: &[bool]) -> RecordBatch {
    let table = lines();
    let gone = arrow::array::BooleanArray::from(gone.to_vec());
    let stay = arrow::compute::not(&gone).unwrap();
    let dead = filter_record_batch(living, &gone).unwrap();
    let nullable = table.arrow_nullable();
    let none = nullable
        .fields()
        .iter()
        .map(|f| arrow::array::new_null_array(f.data_type(), dead.num_rows()));
    let none = RecordBatch::try_new(Arc::clone(nullable), none.collect()).unwrap();
    let before = RecordBatch::try_new(Arc::clone(nullable), dead.columns().to_vec()).unwrap();
    let ops = vec![Op::Delete; dead.num_rows()];
    let batches = vec![
        ChangeBatch::new(Arc::clone(&table), ops, before, none).unwrap(),
        ChangeBatch::inserts(Arc::clone(&table), more).unwrap(),
    ];
    lake.stage(&ChangeSet { batches, ..ChangeSet::default() }).unwrap();
    lake.publish();
    let living = filter_record_batch(living, &stay).unwrap();
    concat_batches(table.arrow(), [&living, more]).unwrap()
}

struct Both {
    /// `mall.lines` is the lake's, `twin` has the same rows in memory.
    context: SessionContext,
    _folder: tempfile::TempDir,
    _lake: Lake,
}

/// Files with rows dead all over, with a stretch of dead ones, without any, and rows in memory.
async fn both(seed: u64, partitions: usize) -> Both {
    let random = &mut StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let lake = fixtures::lake(folder.path()).await;
    lake.create_tables(&[lines()]).await.unwrap();
    let size = i64::try_from(FILE_ROWS).unwrap();
    let first = rows(0..size, random);
    let mut living = change(&lake, &first.slice(0, 0), &first, &[]);
    lake.flush().await.unwrap();
    let gone: Vec<bool> = (0..living.num_rows()).map(|_| random.random_bool(0.1)).collect();
    living = change(&lake, &living, &rows(size..2 * size, random), &gone);
    lake.flush().await.unwrap();
    let stretch = living.num_rows() - 200_000;
    let gone: Vec<bool> =
        (0..living.num_rows()).map(|row| row >= stretch && row < stretch + 140_000).collect();
    living = change(&lake, &living, &rows(2 * size..2 * size + 20_000, random), &gone);
    lake.flush().await.unwrap();
    let gone: Vec<bool> = (0..living.num_rows()).map(|_| random.random_bool(0.01)).collect();
    living = change(&lake, &living, &rows(2 * size + 20_000..2 * size + 25_000, random), &gone);
    let gone: Vec<bool> = (0..living.num_rows()).map(|row| row % 1_000 == 7).collect();
    living = change(&lake, &living, &rows(2 * size + 25_000..2 * size + 25_100, random), &gone);

    let config = SessionConfig::new().with_target_partitions(partitions);
    let context = SessionContext::new_with_config(config);
    let schema = lake.read_view().catalog().schema("mall").unwrap();
    context.catalog("datafusion").unwrap().register_schema("mall", schema).unwrap();
    let twin = MemTable::try_new(living.schema(), vec![vec![living]]).unwrap();
    context.register_table("twin", Arc::new(twin)).unwrap();
    Both { context, _folder: folder, _lake: lake }
}

fn text(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("∅");
    batches
        .iter()
        .flat_map(|batch| {
            let columns: Vec<ArrayFormatter<'_>> = batch
                .columns()
                .iter()
                .map(|c| ArrayFormatter::try_new(c, &options).unwrap())
                .collect();
            (0..batch.num_rows())
                .map(move |row| columns.iter().map(|c| format!("{}|", c.value(row))).collect())
                .collect::<Vec<String>>()
        })
        .collect()
}

impl Both {
    async fn answers(&self, sql: &str) -> Vec<String> {
        text(&self.context.sql(sql).await.unwrap().collect().await.unwrap())
    }

    /// `{t}` is the table; both must answer the same.
    async fn agree(&self, sql: &str) {
        let ours = self.answers(&sql.replace("{t}", "mall.lines")).await;
        let theirs = self.answers(&sql.replace("{t}", "twin")).await;
        assert_eq!(ours.len(), theirs.len(), "{sql}");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "{sql}");
        }
    }

    async fn plan(&self, sql: &str) -> Arc<dyn ExecutionPlan> {
        self.context.sql(sql).await.unwrap().create_physical_plan().await.unwrap()
    }
}

fn filter(random: &mut StdRng) -> String {
    let day = random.random_range(18_990..19_320);
    let fen = random.random_range(-1_000..101_000);
    match random.random_range(0..12) {
        0 => format!("fen > {fen}"),
        1 => format!("fen between {fen} and {}", fen + random.random_range(0..2_000)),
        2 => format!("day = arrow_cast({day}, 'Date32')"),
        3 => format!(
            "day >= arrow_cast({day}, 'Date32') and day < arrow_cast({}, 'Date32')",
            day + 3
        ),
        4 => format!("id in ({}, {}, {})", fen * 5, fen * 3, fen),
        5 => format!("kind = '类别 {}'", random.random_range(0..35)),
        6 => "kind is null".to_owned(),
        7 => format!("shop = {} or fen < -490", random.random_range(0..100)),
        8 => format!("ratio > {}", f64::from(fen) / 8.0),
        9 => format!("not (shop <> {})", random.random_range(0..97)),
        10 => format!("id = {}", random.random_range(-10..650_000)),
        _ => "true".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_queries_agree_with_a_table_in_memory() {
    for (seed, partitions) in [(1, 1), (2, 3)] {
        let both = both(seed, partitions).await;
        let random = &mut StdRng::seed_from_u64(seed);
        for _ in 0..40 {
            let (one, two) = (filter(random), filter(random));
            let (n, skip) = (random.random_range(0..300), random.random_range(0..3));
            let sql = match random.random_range(0..7) {
                0 => format!("select * from {{t}} where {one} and {two} order by id limit {n}"),
                1 => format!("select kind, shop from {{t}} where {one} order by id desc limit {n}"),
                2 => format!(
                    "select shop, count(*), sum(fen), min(kind), count(ratio) from {{t}}
                     where {one} or {two} group by shop order by shop"
                ),
                3 => format!(
                    "select count(*), count(kind), min(day), max(id) from {{t}} where {one}"
                ),
                4 => format!(
                    "select fen, id, kind from {{t}} where {two} order by fen desc, id limit {n} offset {skip}"
                ),
                5 => format!(
                    "select a.kind, count(*), sum(b.fen) from {{t}} a join {{t}} b on a.id = b.fen
                     where a.fen > {n}00 and b.shop <> {skip} group by a.kind order by a.kind"
                ),
                _ => format!(
                    "select count(*) from (select id from {{t}} where {one} limit {})",
                    n * 1_000
                ),
            };
            both.agree(&sql).await;
        }
        both.agree("select count(*), min(id), max(id), min(day), max(fen), count(shop) from {t}")
            .await;
        both.agree(
            "select count(*) from {t} where id not in (select fen from {t} where fen is not null)",
        )
        .await;
        both.agree("select count(*) from {t} where fen > (select avg(fen) from {t})").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_may_be_read_in_any_order_dropped_and_run_again() {
    let both = both(3, 3).await;
    let every = "select id, kind from mall.lines where fen >= 0";
    let plan = both.plan(every).await;
    let context = both.context.task_ctx();
    let mut wanted = both.answers(&every.replace("mall.lines", "twin")).await;
    wanted.sort();

    // One after the other, the last first; and the same plan a second time.
    for _ in 0..2 {
        let streams = execute_stream_partitioned(Arc::clone(&plan), Arc::clone(&context)).unwrap();
        assert_eq!(streams.len(), 3);
        let mut rows = Vec::new();
        for mut stream in streams.into_iter().rev() {
            while let Some(batch) = stream.next().await {
                rows.extend(text(&[batch.unwrap()]));
            }
        }
        rows.sort();
        assert_eq!(rows, wanted);
    }
    // A partition that is polled once and then left alone keeps nobody waiting; what it has taken
    // is its own, so the others read the rest.
    let mut streams = execute_stream_partitioned(Arc::clone(&plan), Arc::clone(&context)).unwrap();
    let mut left = streams.remove(0);
    let first = left.next().await.unwrap().unwrap();
    let mut rows = text(&[first]);
    for mut stream in streams {
        while let Some(batch) = stream.next().await {
            rows.extend(text(&[batch.unwrap()]));
        }
    }
    while let Some(batch) = left.next().await {
        rows.extend(text(&[batch.unwrap()]));
    }
    rows.sort();
    assert_eq!(rows, wanted);

    // Dropped in the middle, then asked again.
    let mut stream = execute_stream(Arc::clone(&plan), Arc::clone(&context)).unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    let again = collect(both.plan(every).await, context).await.unwrap();
    let mut again = text(&again);
    again.sort();
    assert_eq!(again, wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_a_query_needs_is_read() {
    let both = both(4, 2).await;
    let run = async |sql: &str| {
        let plan = both.plan(sql).await;
        let rows = collect(Arc::clone(&plan), both.context.task_ctx()).await.unwrap();
        (plan, rows.iter().map(RecordBatch::num_rows).sum::<usize>())
    };
    let (all, _) = run("select kind, fen from mall.lines").await;
    let (day, rows) =
        run("select kind, fen from mall.lines where day = arrow_cast(19003, 'Date32')").await;
    assert!(rows > 1_000 && rows <= 2_000, "{rows}");
    assert_eq!(counted(&day, "row_groups_read"), 1);
    let (bytes, of) = (counted(&day, "bytes_scanned"), counted(&all, "bytes_scanned"));
    assert!(bytes * 8 < of, "only some pages of one row group: {bytes} of {of}");

    let (none, rows) = run("select id from mall.lines where fen > 1000000").await;
    assert_eq!((counted(&none, "row_groups_read"), rows), (0, 0));
    let (limited, rows) = run("select id from mall.lines limit 5").await;
    assert_eq!(rows, 5);
    assert!(counted(&limited, "row_groups_read") <= 2);
    // The greatest days are in the newest file: the others need not be read to the end.
    let (top, _) = run("select id, day, kind from mall.lines order by id desc limit 10").await;
    assert!(counted(&top, "row_groups_read") < counted(&all, "row_groups_read"));
    // Few rows meet the filter, so the other columns wait for it.
    let (late, _) = run("select * from mall.lines where fen = 77").await;
    assert!(counted(&late, "row_groups_late") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_comes_as_views_from_files_and_from_memory() {
    let both = both(6, 2).await;
    for sql in ["select kind from mall.lines", "select kind, id from mall.lines where fen = 77"] {
        let plan = both.plan(sql).await;
        assert_eq!(*plan.schema().field(0).data_type(), DataType::Utf8View);
        for batch in collect(plan, both.context.task_ctx()).await.unwrap() {
            assert_eq!(*batch.column(0).data_type(), DataType::Utf8View, "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_row_cannot_fail_a_query() {
    let random = &mut StdRng::seed_from_u64(5);
    let folder = tempfile::tempdir().unwrap();
    let lake = fixtures::lake(folder.path()).await;
    lake.create_tables(&[lines()]).await.unwrap();
    let first = rows(0..5_000, random);
    let all = change(&lake, &first.slice(0, 0), &first, &[]);
    lake.flush().await.unwrap();
    // The row goes that the division fails on.
    let gone: Vec<bool> = (0..all.num_rows()).map(|id| id == 4).collect();
    let more = rows(5_000..5_010, random);
    let living = change(&lake, &all, &more, &gone);

    let context = SessionContext::new();
    let schema = lake.read_view().catalog().schema("mall").unwrap();
    context.catalog("datafusion").unwrap().register_schema("mall", schema).unwrap();
    let sql = "select id from mall.lines where 1000000 / (id - 4) >= -1000000 and id >= 0";
    let found = context.sql(sql).await.unwrap().collect().await.unwrap();
    assert_eq!(text(&found).len(), living.num_rows());
}
