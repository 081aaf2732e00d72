//! Partitions, sort orders, file sizes.

use arrow::array::AsArray;
use iceberg::spec::Literal;

use super::*;
use crate::{
    Compression, FormatVersion, PartitionField, SortField, TableOptions, Transform,
    commit::{manifest::Entry, table::CommittedTable},
};

fn events() -> Arc<TableSchema> {
    let columns = vec![
        Column::required("id", ColumnType::Int64),
        Column::nullable("kind", ColumnType::Utf8),
        Column::nullable("v", ColumnType::Int64),
    ];
    table("mall.events", columns, &["id"])
}

fn event(id: i64, kind: Option<&str>, v: i64) -> Row {
    vec![
        ScalarValue::Int64(Some(id)),
        ScalarValue::Utf8(kind.map(str::to_owned)),
        ScalarValue::Int64(Some(v)),
    ]
}

fn by(column: &str, transform: Transform) -> PartitionField {
    PartitionField { column: column.to_owned(), transform }
}

async fn write(lake: &Lake, table: &Arc<TableSchema>, changes: Vec<Change>) {
    lake.stage(&set(vec![batch(table, changes)])).unwrap();
    lake.publish();
    lake.flush().await.unwrap();
}

/// The table as the catalog has it.
async fn committed(lake: &Lake, table: &TableSchema) -> CommittedTable {
    lake.committer.lock().await.tables[table.name()].clone()
}

fn kinds(entries: impl Iterator<Item = Arc<Entry>>) -> Vec<String> {
    let mut kinds: Vec<String> = entries
        .map(|entry| match entry.file.partition().fields().first() {
            Some(Some(Literal::Primitive(kind))) => {
                format!("{kind:?} x {}", entry.file.record_count())
            }
            Some(_) => format!("null x {}", entry.file.record_count()),
            None => format!("all x {}", entry.file.record_count()),
        })
        .collect();
    kinds.sort();
    kinds
}

/// Manifests have the names of partitions, and not every name can stand there.
#[tokio::test]
async fn partitions_by_columns_of_any_name_are_read_back() {
    let bench = Bench::new();
    let columns = vec![
        Column::required("id", ColumnType::Int64),
        Column::nullable("渠道 1", ColumnType::Utf8),
        Column::nullable("2nd", ColumnType::Int64),
    ];
    let schema = table("mall.events", columns, &["id"]);
    {
        let lake = bench.open().await;
        let partition = vec![by("渠道 1", Transform::Identity), by("2nd", Transform::Truncate(10))];
        let options = TableOptions { partition, ..TableOptions::default() };
        lake.create_tables_with(&[(Arc::clone(&schema), options)]).await.unwrap();
        write(&lake, &schema, vec![(Op::Insert, None, Some(event(1, Some("应用"), 17)))]).await;
    }
    let lake = bench.open().await;
    assert_eq!(rows(&lake.read_view(), "mall.events").await, ["1,应用,17"]);
    let entry = committed(&lake, &schema).await.data_files().next().cloned().unwrap();
    let partition = [Some(Literal::string("应用")), Some(Literal::long(10))];
    assert_eq!(entry.file.partition().fields(), partition);
}

#[tokio::test]
async fn rows_of_different_partitions_never_share_a_file() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = events();
    let options = TableOptions {
        partition: vec![by("kind", Transform::Identity)],
        ..TableOptions::default()
    };
    lake.create_tables_with(&[(Arc::clone(&t), options)]).await.unwrap();
    let kind = |id: i64| [Some("app"), Some("web"), None][usize::try_from(id % 3).unwrap()];
    let insert = |id| (Op::Insert, None, Some(event(id, kind(id), id)));
    write(&lake, &t, (0..9).map(insert).collect()).await;
    let table = committed(&lake, &t).await;
    let files = kinds(table.data_files().cloned());
    assert_eq!(files, ["String(\"app\") x 3", "String(\"web\") x 3", "null x 3"]);

    // A row that moves to another partition is deleted where it was, and nowhere else.
    let moved = (Op::Update, Some(event(0, Some("app"), 0)), Some(event(0, Some("web"), 100)));
    let gone = (Op::Delete, Some(event(2, None, 2)), None);
    write(&lake, &t, vec![moved, gone]).await;
    let table = committed(&lake, &t).await;
    let files = kinds(table.delete_files().cloned());
    assert_eq!(files, ["String(\"app\") x 1", "null x 1"]);
    let expected = [
        "0,web,100",
        "1,web,1",
        "3,app,3",
        "4,web,4",
        "5,null,5",
        "6,app,6",
        "7,web,7",
        "8,null,8",
    ];
    assert_eq!(rows(&lake.read_view(), "mall.events").await, expected);
    drop(lake);
    let lake = bench.open().await;
    assert_eq!(rows(&lake.read_view(), "mall.events").await, expected);
    // The index was rebuilt over files of three partitions.
    write(&lake, &t, vec![(Op::Delete, Some(event(0, Some("web"), 100)), None)]).await;
    assert_eq!(rows(&lake.read_view(), "mall.events").await, expected[1..]);
}

#[tokio::test]
async fn files_are_sorted_and_rows_die_where_they_went() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = events();
    let sort = vec![
        SortField { column: "v".to_owned(), descending: true, nulls_last: true },
        SortField::ascending("id"),
    ];
    let options = TableOptions { sort, ..TableOptions::default() };
    lake.create_tables_with(&[(Arc::clone(&t), options)]).await.unwrap();
    let insert = |id| (Op::Insert, None, Some(event(id, None, id % 5)));
    lake.stage(&set(vec![batch(&t, (0..10).map(insert).collect())])).unwrap();
    lake.publish();
    // A row that dies while it is written is dead in the file too.
    let late = async {
        tokio::task::yield_now().await;
        lake.stage(&set(vec![batch(&t, vec![(Op::Delete, Some(event(7, None, 2)), None)])]))
            .unwrap();
        lake.publish();
    };
    let (flushed, ()) = tokio::join!(lake.flush(), late);
    flushed.unwrap();
    let order = |view: Arc<ReadView>| async move {
        let all = session(&view).sql("select id from medlake.mall.events").await.unwrap();
        let batches = all.collect().await.unwrap();
        let ids = batches.iter().flat_map(|b| {
            let ids = b.column(0).as_primitive::<arrow::datatypes::Int64Type>();
            ids.values().to_vec()
        });
        ids.collect::<Vec<_>>()
    };
    assert_eq!(order(lake.read_view()).await, [4, 9, 3, 8, 2, 1, 6, 0, 5]);
    let table = committed(&lake, &t).await;
    assert_eq!(table.data_files().next().unwrap().file.sort_order_id(), Some(1));

    write(&lake, &t, vec![(Op::Update, Some(event(3, None, 3)), Some(event(3, None, 9)))]).await;
    let expected =
        ["0,null,0", "1,null,1", "2,null,2", "3,null,9", "4,null,4", "5,null,0", "6,null,1"];
    assert_eq!(rows(&lake.read_view(), "mall.events").await[..7], expected);
    drop(lake);
    let lake = bench.open().await;
    assert_eq!(order(lake.read_view()).await, [4, 9, 8, 2, 1, 6, 0, 5, 3]);
}

#[tokio::test]
async fn a_table_is_laid_out_anew_and_keeps_its_files() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = events();
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    let insert = |id: i64| (Op::Insert, None, Some(event(id, Some("app"), id)));
    write(&lake, &t, (0..4).map(insert).collect()).await;
    let options = TableOptions {
        partition: vec![by("id", Transform::Truncate(10)), by("kind", Transform::Bucket(4))],
        sort: vec![SortField::ascending("v")],
        bloom_filters: ["kind".to_owned()].into(),
        compression: Compression::Snappy,
        target_file_bytes: 1 << 20,
        ..TableOptions::default()
    };
    let declared = [(Arc::clone(&t), options.clone())];
    lake.create_tables_with(&declared).await.unwrap();
    let before = committed(&lake, &t).await;
    assert_eq!(TableOptions::of(&before.metadata), options);
    lake.create_tables_with(&declared).await.unwrap();
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    assert_eq!(committed(&lake, &t).await.location, before.location, "declared again: nothing");
    write(&lake, &t, (4..30).map(insert).collect()).await;
    let delete = |id: i64| (Op::Delete, Some(event(id, Some("app"), id)), None);
    write(&lake, &t, vec![delete(1), delete(11), delete(21)]).await;
    let after = committed(&lake, &t).await;
    let specs = |entries: &mut dyn Iterator<Item = &Arc<Entry>>| {
        let mut specs: Vec<i32> = entries.map(|e| e.spec_id).collect();
        specs.sort_unstable();
        specs
    };
    assert_eq!(specs(&mut after.data_files()), [0, 1, 1, 1]);
    assert_eq!(specs(&mut after.delete_files()), [0, 1, 1]);
    // Back to no partitions, without the properties.
    lake.create_tables_with(&[(Arc::clone(&t), TableOptions::default())]).await.unwrap();
    let back = committed(&lake, &t).await;
    assert_eq!(TableOptions::of(&back.metadata), TableOptions::default());
    write(&lake, &t, vec![insert(99)]).await;
    drop(lake);
    let lake = bench.open().await;
    let count = query(&lake.read_view(), "select count(*), sum(v) from medlake.mall.events").await;
    assert_eq!(count, [format!("28,{}", (0..30).sum::<i64>() - 33 + 99)]);
}

#[tokio::test]
async fn a_layout_that_cannot_be_is_refused() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = events();
    let defaults = TableOptions::default;
    let partitioned = |partition| TableOptions { partition, ..defaults() };
    for (options, problem) in [
        (partitioned(vec![by("no", Transform::Identity)]), "\"no\" is missing"),
        (partitioned(vec![by("kind", Transform::Day)]), "has no day"),
        (partitioned(vec![by("id", Transform::Bucket(0))]), "has no bucket[0]"),
        (partitioned(vec![by("id", Transform::Identity); 2]), "twice"),
        (TableOptions { sort: vec![SortField::ascending("no")], ..defaults() }, "sort column"),
        (TableOptions { bloom_filters: ["no".to_owned()].into(), ..defaults() }, "Bloom filter"),
        (TableOptions { target_file_bytes: 0, ..defaults() }, "zero"),
        (TableOptions { compression: Compression::Zstd(30), ..defaults() }, "levels"),
    ] {
        let error = lake.create_tables_with(&[(Arc::clone(&t), options)]).await.unwrap_err();
        assert!(matches!(error, LakeError::Options { .. }), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
    }
    assert!(lake.read_view().tables().is_empty());
}

fn v3() -> TableOptions {
    TableOptions { format_version: FormatVersion::V3, ..TableOptions::default() }
}

type Counted<T> = Vec<(T, u64)>;

/// The vectors of a table, as data file and count, and the ids of first rows with the counts.
fn lines_of_v3(table: &CommittedTable) -> (Counted<String>, Counted<i64>) {
    let mut vectors: Counted<String> = table
        .delete_files()
        .map(|e| (e.file.referenced_data_file().unwrap(), e.file.record_count()))
        .collect();
    vectors.sort();
    let mut ids: Counted<i64> =
        table.data_files().map(|e| (e.first_row_id.unwrap(), e.file.record_count())).collect();
    ids.sort_unstable();
    (vectors, ids)
}

#[tokio::test]
async fn a_vector_says_all_that_is_dead_in_its_file_and_replaces_the_one_before() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = numbers();
    lake.create_tables_with(&[(Arc::clone(&t), v3())]).await.unwrap();
    for part in 0..3 {
        write(&lake, &t, (0..10).map(|n| insert(part * 10 + n, n)).collect()).await;
    }
    write(&lake, &t, vec![delete(0, 0), delete(1, 1), delete(10, 0)]).await;
    write(&lake, &t, vec![delete(2, 2), update(20, 0, 7)]).await;
    let table = committed(&lake, &t).await;
    let (vectors, ids) = lines_of_v3(&table);
    assert_eq!(
        vectors.iter().map(|v| v.1).collect::<std::collections::BTreeSet<_>>(),
        [1, 3].into()
    );
    assert_eq!(vectors.len(), 3, "one a data file: {vectors:?}");
    assert_eq!(ids, [(0, 10), (10, 10), (20, 10), (30, 1)]);
    assert_eq!(table.metadata.next_row_id(), 31);
    let expected = rows(&lake.read_view(), "mall.numbers").await;
    assert_eq!(expected.len(), 26);
    let puffins = || {
        let all = files(bench.folder.path(), "mall/numbers/data");
        all.into_iter().filter(|f| f.ends_with(".puffin")).count()
    };
    drop(lake);
    let lake = bench.open().await;
    let table = committed(&lake, &t).await;
    assert_eq!(lines_of_v3(&table), (vectors, ids), "read as it was written");
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await, expected);
    // Snapshots that name the older vectors expire; the files go when none of their vectors is left.
    for step in 0..6 {
        write(&lake, &t, vec![update(21, step, step + 1)]).await;
    }
    let named: std::collections::BTreeSet<String> =
        committed(&lake, &t).await.delete_files().map(|e| e.file.file_path().to_owned()).collect();
    assert!(puffins() >= named.len(), "{named:?}");
    assert!(puffins() <= named.len() + 5, "old vectors are removed");
}

#[tokio::test]
async fn a_table_is_raised_to_v3_where_it_stands() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = numbers();
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    write(&lake, &t, (0..10).map(|n| insert(n, n)).collect()).await;
    write(&lake, &t, (10..20).map(|n| insert(n, n)).collect()).await;
    write(&lake, &t, vec![delete(0, 0), delete(10, 10)]).await;
    lake.create_tables_with(&[(Arc::clone(&t), v3())]).await.unwrap();
    // Nothing died since: the position deletes hold good.
    write(&lake, &t, vec![insert(20, 20)]).await;
    let table = committed(&lake, &t).await;
    assert_eq!(table.delete_files().filter(|e| e.file.content_offset().is_none()).count(), 1);
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await.len(), 19);
    drop(lake);
    let lake = bench.open().await;
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await.len(), 19);
    // A row dies in one file: vectors take the place of the deletes of both.
    write(&lake, &t, vec![delete(1, 1)]).await;
    let table = committed(&lake, &t).await;
    let (vectors, ids) = lines_of_v3(&table);
    assert_eq!(vectors.iter().map(|v| v.1).sum::<u64>(), 3, "{vectors:?}");
    assert_eq!(vectors.len(), 2, "{vectors:?}");
    // Rows from before have ids too, none twice.
    for pair in ids.windows(2) {
        assert!(pair[0].0 + i64::try_from(pair[0].1).unwrap() <= pair[1].0, "{ids:?}");
    }
    let lower = lake.create_tables_with(&[(Arc::clone(&t), TableOptions::default())]).await;
    let error = lower.unwrap_err();
    assert!(error.to_string().contains("cannot be lowered"), "{error}");
    drop(lake);
    let lake = bench.open().await;
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await.len(), 18);
    write(&lake, &t, vec![delete(2, 2), delete(12, 12)]).await;
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await.len(), 16);
}

#[tokio::test]
async fn a_partition_column_is_widened_but_not_dropped() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let of = |ty| {
        let columns = vec![Column::required("id", ColumnType::Int64), Column::nullable("n", ty)];
        table("mall.numbers", columns, &["id"])
    };
    let (narrow, wide) = (of(ColumnType::Int32), of(ColumnType::Int64));
    let row = |id, n| vec![ScalarValue::Int64(Some(id)), ScalarValue::Int32(Some(n))];
    let partition = vec![by("n", Transform::Identity)];
    let options = TableOptions { partition, ..TableOptions::default() };
    lake.create_tables_with(&[(Arc::clone(&narrow), options)]).await.unwrap();
    let rows_before = [row(1, 5), row(2, 6), row(3, 5), row(4, 7)];
    let inserts = rows_before.map(|row| (Op::Insert, None, Some(row)));
    write(&lake, &narrow, inserts.into()).await;
    lake.create_tables(&[Arc::clone(&wide)]).await.unwrap();
    // A delete file of an old partition, a new file of the same, and a file that goes, which rewrites
    // the manifest it is in.
    write(&lake, &wide, vec![delete(1, 5), insert(5, 5), delete(2, 6)]).await;
    write(&lake, &wide, vec![delete(4, 7)]).await;
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await, ["3,5", "5,5"]);
    drop(lake);
    let lake = bench.open().await;
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await, ["3,5", "5,5"]);
    let table_now = committed(&lake, &wide).await;
    let partitions: Vec<_> = table_now.data_files().map(|e| e.file.partition().clone()).collect();
    assert_eq!(partitions.len(), 2);
    assert_eq!(partitions[0], partitions[1], "one partition, whatever its column was");

    let without = vec![Column::required("id", ColumnType::Int64)];
    let without = table("mall.numbers", without, &["id"]);
    let error = lake.create_tables(&[without]).await.unwrap_err();
    assert!(error.to_string().contains("\"n\" is part of its partitions"), "{error}");
}

#[tokio::test]
async fn files_end_at_the_target_size_and_have_filters() {
    for sort in [vec![], vec![SortField::ascending("v")]] {
        let bench = Bench::new();
        let lake = bench.open().await;
        let t = numbers();
        let target = 200_000;
        let options = TableOptions {
            sort,
            target_file_bytes: target,
            bloom_filters: ["id".to_owned()].into(),
            ..TableOptions::default()
        };
        lake.create_tables_with(&[(Arc::clone(&t), options)]).await.unwrap();
        // Numbers that do not compress.
        let v = |id: i64| id.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed());
        write(&lake, &t, (0..100_000).map(|id| insert(id, v(id))).collect()).await;
        let table = committed(&lake, &t).await;
        let mut sizes: Vec<u64> = table.data_files().map(|e| e.file.file_size_in_bytes()).collect();
        sizes.sort_unstable();
        assert!(sizes.len() > 2, "{sizes:?}");
        assert!(sizes.iter().all(|bytes| *bytes < target * 2), "{sizes:?}");
        assert!(sizes[1..].iter().all(|bytes| *bytes > target / 2), "{sizes:?}");
        let view = lake.read_view();
        let segment = &view.tables[t.name()].segments[0];
        let footer = segment.file().unwrap().file.footer().await.unwrap();
        let columns = footer.row_group(0).columns();
        assert!(columns[0].bloom_filter_offset().is_some());
        assert!(columns[1].bloom_filter_offset().is_none());
        let sum = query(&view, "select count(*), min(id), max(id) from medlake.mall.numbers").await;
        assert_eq!(sum, ["100000,0,99999"]);
    }
}
