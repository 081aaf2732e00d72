//! What a scan does not read: files by their partition, row groups by Bloom filters and counts of
//! missing values, anything at all where statistics are the answer. How much it read is what the plan
//! itself counted.

use std::{collections::BTreeSet, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray, new_null_array},
    record_batch::RecordBatch,
    util::display::array_value_to_string,
};
use datafusion::{
    physical_plan::{collect, displayable},
    prelude::{SessionConfig, SessionContext},
};
use medlake_contract::{ChangeBatch, ChangeSet, Column, ColumnType, Op, TableSchema};
use medlake_lake::{Lake, PartitionField, TableOptions, Transform};

use crate::fixtures::{self, counted};

const DAY: i64 = 86_400_000_000;

fn events() -> Arc<TableSchema> {
    let columns = vec![
        Column::required("id", ColumnType::Int64),
        Column::nullable("at", ColumnType::TimestampMicros),
        Column::nullable("code", ColumnType::Utf8),
        Column::nullable("note", ColumnType::Utf8),
    ];
    Arc::new(TableSchema::new("mall.events".parse().unwrap(), columns, &["id"]).unwrap())
}

/// Rows whose codes are anywhere in the order of codes, with a note from the id `noted` on.
fn rows(ids: std::ops::Range<i64>, noted: i64) -> ChangeSet {
    let at = ids.clone().map(|id| id % 8 * DAY + id);
    let notes = ids.clone().map(|id| (id >= noted).then_some("noted"));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids.clone())),
        Arc::new(TimestampMicrosecondArray::from_iter_values(at).with_timezone("UTC")),
        Arc::new(ids.map(|id| Some(code(id))).collect::<StringArray>()),
        Arc::new(notes.collect::<StringArray>()),
    ];
    let rows = RecordBatch::try_new(Arc::clone(events().arrow()), columns).unwrap();
    let batches = vec![ChangeBatch::inserts(events(), &rows).unwrap()];
    ChangeSet { batches, ..ChangeSet::default() }
}

async fn write(lake: &Lake, ids: std::ops::Range<i64>, noted: i64) {
    fixtures::write(lake, &rows(ids, noted)).await;
}

fn code(id: i64) -> String {
    format!("{:016x}", id.unsigned_abs().wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// What a query that gives one number gave, and what its plan counted.
struct Read {
    rows: i64,
    files_opened: usize,
    files_pruned: usize,
    groups_read: usize,
    groups_pruned: usize,
}

async fn count(lake: &Lake, condition: &str) -> Read {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
    context.register_catalog("lake", lake.read_view().catalog());
    // A sum, because a mere count may be known without reading.
    let sql = format!("select count(*), sum(id) from lake.mall.events where {condition}");
    let plan = context.sql(&sql).await.unwrap().create_physical_plan().await.unwrap();
    let answer = collect(Arc::clone(&plan), context.task_ctx()).await.unwrap();
    let rows: &Int64Array = answer[0].column(0).as_any().downcast_ref().unwrap();
    Read {
        rows: rows.value(0),
        files_opened: counted(&plan, "files_opened"),
        files_pruned: counted(&plan, "files_pruned"),
        groups_read: counted(&plan, "row_groups_read"),
        groups_pruned: counted(&plan, "row_groups_pruned"),
    }
}

async fn lake_with(options: TableOptions) -> (tempfile::TempDir, Lake) {
    let folder = tempfile::tempdir().unwrap();
    let lake = fixtures::lake(folder.path()).await;
    lake.create_tables_with(&[(events(), options)]).await.unwrap();
    (folder, lake)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_files_of_wanted_partitions_are_opened() {
    let by = |column: &str, transform| PartitionField { column: column.to_owned(), transform };
    let partition = vec![by("at", Transform::Day), by("id", Transform::Bucket(4))];
    let (_folder, lake) = lake_with(TableOptions { partition, ..TableOptions::default() }).await;
    write(&lake, 0..4_000, 0).await;
    let all = count(&lake, "true").await;
    assert_eq!((all.rows, all.files_opened, all.files_pruned), (4_000, 32, 0));

    let day = count(&lake, "at >= timestamp '1970-01-03' and at < timestamp '1970-01-04'").await;
    assert_eq!((day.rows, day.files_opened, day.files_pruned), (500, 4, 28));
    // The ids of each file reach from the least to the greatest: only their bucket rules files out.
    let one = count(&lake, "id = 1234").await;
    assert_eq!((one.rows, one.files_opened, one.files_pruned), (1, 8, 24));
    let both = count(&lake, "id = 1234 and at < timestamp '1970-01-04'").await;
    assert_eq!((both.rows, both.files_opened, both.files_pruned), (1, 3, 29));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bloom_filters_rule_out_row_groups() {
    let (rows, groups) = (300_000, 3);
    for bloom_filters in [BTreeSet::new(), BTreeSet::from(["code".to_owned()])] {
        let filtered = !bloom_filters.is_empty();
        let (_folder, lake) =
            lake_with(TableOptions { bloom_filters, ..TableOptions::default() }).await;
        write(&lake, 0..rows, 0).await;
        let mut read = 0;
        for id in (1..rows).step_by(10_000) {
            let found = count(&lake, &format!("code = '{}'", code(id))).await;
            assert_eq!((found.rows, found.groups_read + found.groups_pruned), (1, groups));
            read += found.groups_read;
        }
        // One code in a hundred is taken for one of another group.
        if filtered {
            assert!((30..=33).contains(&read), "{read} row groups read");
        } else {
            assert_eq!(read, 30 * groups);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_of_missing_values_rule_out_files_and_row_groups() {
    let (_folder, lake) = lake_with(TableOptions::default()).await;
    write(&lake, 0..10, 10).await;
    write(&lake, 10..20, 10).await;
    // Two row groups, the first without notes.
    write(&lake, 1_000_000..1_200_000, 1_131_072).await;
    let with = count(&lake, "note is not null").await;
    assert_eq!((with.rows, with.files_opened, with.files_pruned), (10 + 68_928, 2, 1));
    assert_eq!((with.groups_read, with.groups_pruned), (2, 1));
    let without = count(&lake, "note is null").await;
    assert_eq!((without.rows, without.files_opened, without.files_pruned), (10 + 131_072, 2, 1));
    assert_eq!((without.groups_read, without.groups_pruned), (2, 1));
}

fn delete(ids: &[i64]) -> ChangeSet {
    let nullable = Arc::clone(events().arrow_nullable());
    let none = |field: &arrow::datatypes::FieldRef| new_null_array(field.data_type(), ids.len());
    let mut columns: Vec<ArrayRef> = nullable.fields().iter().map(none).collect();
    let after = RecordBatch::try_new(Arc::clone(&nullable), columns.clone()).unwrap();
    columns[0] = Arc::new(Int64Array::from(ids.to_vec()));
    let before = RecordBatch::try_new(nullable, columns).unwrap();
    let gone = ChangeBatch::new(events(), vec![Op::Delete; ids.len()], before, after).unwrap();
    ChangeSet { batches: vec![gone], ..ChangeSet::default() }
}

/// What the query answers, and whether it read the table for it.
async fn answer(lake: &Lake, of: &str) -> (String, bool) {
    let context = SessionContext::new();
    context.register_catalog("lake", lake.read_view().catalog());
    let plan = context.sql(&format!("select {of} from lake.mall.events")).await.unwrap();
    let plan = plan.create_physical_plan().await.unwrap();
    let reads = displayable(plan.as_ref()).indent(false).to_string().contains("DataSourceExec");
    let rows = collect(plan, context.task_ctx()).await.unwrap();
    let cells: Vec<String> =
        rows[0].columns().iter().map(|c| array_value_to_string(c, 0).unwrap()).collect();
    (cells.join(" "), reads)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_answer_where_they_are_exact_and_nowhere_else() {
    let (_folder, lake) = lake_with(TableOptions::default()).await;
    let (count, bounds) = ("count(*)", "min(id), max(id), count(note), count(at)");
    assert_eq!(answer(&lake, count).await, ("0".into(), false));
    write(&lake, 0..100, 40).await;
    write(&lake, 100..200, 150).await;
    assert_eq!(answer(&lake, count).await, ("200".into(), false));
    assert_eq!(answer(&lake, bounds).await, ("0 199 110 200".into(), false));
    assert_eq!(answer(&lake, "max(at)").await, ("1970-01-08T00:00:00.000199Z".into(), false));
    // A manifest may shorten the bounds of a text.
    let codes = (0..200).map(code);
    assert_eq!(answer(&lake, "max(code)").await, (codes.max().unwrap(), true));
    // What a filter leaves is estimated.
    let filtered = "min(id) filter (where id = 7), count(*) filter (where id > 1000)";
    assert_eq!(answer(&lake, filtered).await, ("7 0".into(), true));

    // The first and the last row go, and others come, in memory: counts stay exact, bounds do not.
    lake.stage(&delete(&[0, 199])).unwrap();
    lake.publish();
    assert_eq!(answer(&lake, count).await, ("198".into(), false));
    assert_eq!(answer(&lake, bounds).await, ("1 198 109 198".into(), true));
    lake.flush().await.unwrap();
    assert_eq!(answer(&lake, count).await, ("198".into(), false));
    assert_eq!(answer(&lake, bounds).await, ("1 198 109 198".into(), true));
    lake.stage(&rows(-5..-2, 0)).unwrap();
    lake.publish();
    assert_eq!(answer(&lake, count).await, ("201".into(), false));
    assert_eq!(answer(&lake, bounds).await, ("-5 198 109 201".into(), true));
    // A whole file dead: what is left is known exactly again.
    lake.stage(&delete(&(100..200).collect::<Vec<_>>())).unwrap();
    lake.stage(&delete(&(-5..100).collect::<Vec<_>>())).unwrap();
    lake.publish();
    assert_eq!(answer(&lake, count).await, ("0".into(), false));
    assert_eq!(answer(&lake, "min(id), count(note)").await.0, " 0");
    write(&lake, 300..310, 305).await;
    assert_eq!(answer(&lake, bounds).await, ("300 309 5 10".into(), false));
}
