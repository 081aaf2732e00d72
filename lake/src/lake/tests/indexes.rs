//! Key indexes that come after the rows, and their copies.

use std::{collections::BTreeSet, path::PathBuf};

use arrow::array::{Int64Array, StringArray};
use medlake_contract::Identity;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::{indexes::index_source, table::load::BuiltIndex};

/// As many as are worth a copy, and some more.
const MANY: i64 = 52_000;

fn tables() -> [Arc<TableSchema>; 3] {
    let columns = || {
        vec![
            Column::required("id", ColumnType::Int64),
            Column::required("name", ColumnType::Utf8),
            Column::nullable("v", ColumnType::Int64),
        ]
    };
    let rows = TableSchema::keyless("mall.rows".parse().unwrap(), columns(), Identity::FullRow);
    [
        table("mall.numbers", columns(), &["id"]),
        table("mall.names", columns(), &["name", "id"]),
        Arc::new(rows.unwrap()),
    ]
}

/// Rows of all three tables with these ids.
fn inserts(ids: impl Iterator<Item = i64>, v: i64) -> ChangeSet {
    let ids: Vec<i64> = ids.collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.clone())),
        Arc::new(StringArray::from_iter_values(ids.iter().map(|n| format!("name {n}")))),
        Arc::new(Int64Array::from(vec![v; ids.len()])),
    ];
    let batch = |t: &Arc<TableSchema>| {
        let rows = RecordBatch::try_new(Arc::clone(t.arrow()), columns.clone()).unwrap();
        ChangeBatch::inserts(Arc::clone(t), &rows).unwrap()
    };
    set(tables().iter().map(batch).collect())
}

fn deletes(ids: impl Iterator<Item = i64>, v: i64) -> ChangeSet {
    let row = |n: i64| -> Row {
        let name = ScalarValue::Utf8(Some(format!("name {n}")));
        vec![ScalarValue::Int64(Some(n)), name, ScalarValue::Int64(Some(v))]
    };
    let changes: Vec<Change> = ids.map(|n| (Op::Delete, Some(row(n)), None)).collect();
    set(tables().iter().map(|t| batch(t, changes.clone())).collect())
}

async fn write(lake: &Lake, changes: &ChangeSet) {
    lake.stage(changes).unwrap();
    lake.publish();
    lake.flush().await.unwrap();
}

/// Builds a table's index as after opening, with the copy there is, or without one.
async fn build(lake: &Lake, table: &TableSchema, copy: bool) -> BuiltIndex {
    let id = lake.committer().await.tables[table.name()].metadata.uuid();
    let source = index_source(&lake.state().tables[table.name()], id);
    let path = lake.copy_path(id);
    source.build(if copy { &path } else { Path::new("/nowhere") }).await.unwrap()
}

fn contents(index: &BuiltIndex) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for slice in 0..index.index.slices() {
        index.index.each(slice, &mut |key, at| {
            assert!(found.insert(format!("{key:?} {at:?}")));
        });
    }
    found
}

/// Opens the lake again without its indexes, and checks that those from copies are those from the
/// key columns. Gives the rows copied and read, for each table.
async fn reopened(bench: &Bench, lake: Lake) -> (Lake, Vec<(usize, usize)>) {
    drop(lake);
    let lake = Lake::open(bench.config()).await.unwrap();
    let mut how = Vec::new();
    for table in &tables() {
        let built = build(&lake, table, true).await;
        let scanned = build(&lake, table, false).await;
        assert_eq!(scanned.copied, 0);
        assert_eq!(contents(&built), contents(&scanned), "{}", table.name());
        how.push((built.copied, built.read));
    }
    (lake, how)
}

#[tokio::test]
async fn rows_are_there_before_their_index() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = numbers();
    let log = TableSchema::keyless(
        "mall.log".parse().unwrap(),
        vec![Column::nullable("n", ColumnType::Int64)],
        Identity::Append,
    );
    let log = Arc::new(log.unwrap());
    lake.create_tables(&[Arc::clone(&t), Arc::clone(&log)]).await.unwrap();
    let line = batch(&log, vec![(Op::Insert, None, Some(vec![ScalarValue::Int64(Some(1))]))]);
    write(&lake, &set(vec![batch(&t, vec![insert(1, 1)]), line.clone()])).await;
    drop(lake);

    let lake = Lake::open(bench.config()).await.unwrap();
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await, ["1,1"]);
    let changes = set(vec![line.clone(), batch(&t, vec![update(1, 1, 2)])]);
    let error = lake.stage(&changes).unwrap_err();
    assert!(matches!(&error, LakeError::IndexNotLoaded { table } if table == t.name()), "{error}");
    assert!(error.kind().retryable());
    // A table that needs none goes on, and so do flushes.
    write(&lake, &set(vec![line])).await;
    assert_eq!(rows(&lake.read_view(), "mall.log").await.len(), 2);

    lake.load_indexes().await.unwrap();
    lake.load_indexes().await.unwrap();
    write(&lake, &changes).await;
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await, ["1,2"]);
    assert_eq!(rows(&lake.read_view(), "mall.log").await.len(), 3);
}

#[tokio::test]
async fn a_copy_of_any_age_saves_reading() {
    let bench = Bench::new();
    let lake = bench.open().await;
    lake.create_tables(&tables()).await.unwrap();
    let many = usize::try_from(MANY).unwrap();
    write(&lake, &inserts(0..MANY, 1)).await;
    lake.save_indexes().await.unwrap();
    let (lake, how) = reopened(&bench, lake).await;
    assert_eq!(how, [(many, 0); 3], "nothing is read when the copy is of now");

    // Rows that died since, from files the copy has; and new ones, in a file it does not have.
    lake.load_indexes().await.unwrap();
    write(&lake, &deletes((0..100).map(|n| n * 7), 1)).await;
    write(&lake, &inserts(MANY..MANY + 10, 2)).await;
    let (lake, how) = reopened(&bench, lake).await;
    assert_eq!(how, [(many - 100, 10); 3], "only the new file is read");

    // A key that is inserted again leaves its row in the old file; the full rows are new ones.
    lake.load_indexes().await.unwrap();
    write(&lake, &inserts(1..6, 3)).await;
    let (lake, how) = reopened(&bench, lake).await;
    assert_eq!(how, [(many - 105, 15), (many - 105, 15), (many - 100, 15)]);

    // A copy made while rows are dead in memory only: that of a process that is killed then.
    lake.load_indexes().await.unwrap();
    lake.stage(&deletes(1_000..1_001, 1)).unwrap();
    lake.save_indexes().await.unwrap();
    let (_lake, how) = reopened(&bench, lake).await;
    assert!(how.iter().all(|(_, read)| *read >= many), "the file is read: {how:?}");
}

#[tokio::test]
async fn a_damaged_copy_is_never_believed() {
    let bench = Bench::new();
    let lake = bench.open().await;
    lake.create_tables(&tables()).await.unwrap();
    write(&lake, &inserts(0..MANY, 1)).await;
    lake.save_indexes().await.unwrap();
    let id = lake.committer().await.tables[tables()[0].name()].metadata.uuid();
    let path: PathBuf = lake.copy_path(id);
    let whole = fs::read(&path).unwrap();
    let expected = contents(&build(&lake, &tables()[0], false).await);
    let mut rng = StdRng::seed_from_u64(5);
    for round in 0..24 {
        let mut bytes = whole.clone();
        let at = rng.random_range(0..bytes.len());
        match round % 3 {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << rng.random_range(0..8),
            _ => bytes[at..].fill(0),
        }
        fs::write(&path, bytes).unwrap();
        let built = build(&lake, &tables()[0], true).await;
        assert_eq!(contents(&built), expected, "round {round}, byte {at}");
    }
    // The process goes on with a copy that is not one at all.
    fs::write(&path, "not a copy").unwrap();
    let (lake, how) = reopened(&bench, lake).await;
    assert_eq!(how[0].0, 0);
    lake.load_indexes().await.unwrap();
    lake.save_indexes().await.unwrap();
    assert_eq!(fs::read(&path).unwrap().len(), whole.len(), "and makes a new one");
}

#[tokio::test]
async fn a_copy_made_under_way_is_right_or_read_again() {
    let bench = Bench::new();
    let mut lake = bench.open().await;
    lake.create_tables(&tables()).await.unwrap();
    write(&lake, &inserts(0..MANY, 0)).await;
    let mut rng = StdRng::seed_from_u64(11);
    for round in 0..6 {
        let busy = async {
            for step in 0..8 {
                tokio::task::yield_now().await;
                let from = rng.random_range(0..MANY);
                // Enough that pieces of the index are split while it is copied.
                lake.stage(&inserts(from..from + 4_000, round * 10 + step)).unwrap();
                lake.publish();
                if step % 3 == 0 {
                    lake.flush().await.unwrap();
                }
            }
        };
        let (saved, ()) = tokio::join!(lake.save_indexes(), busy);
        saved.unwrap();
        if round % 2 == 0 {
            lake.flush().await.unwrap();
        }
        lake = reopened(&bench, lake).await.0;
        lake.load_indexes().await.unwrap();
    }
}
