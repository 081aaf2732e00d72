//! Copies of rows become the changes that are missing, against a map.

use medlake_contract::{CopyScope, Identity, RowCopy};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::Tally;

type Key = (i64, String);

fn pairs() -> Arc<TableSchema> {
    let columns = vec![
        Column::required("b", ColumnType::Utf8),
        Column::nullable("v", ColumnType::Int64),
        Column::required("a", ColumnType::Int64),
    ];
    table("mall.pairs", columns, &["a", "b"])
}

fn row((a, b): &Key, v: i64) -> Row {
    let v = (v != 0).then_some(v);
    vec![ScalarValue::from(b.as_str()), ScalarValue::Int64(v), ScalarValue::Int64(Some(*a))]
}

/// Keys in the order of the key columns.
fn keys(table: &TableSchema, keys: &[&Key]) -> RecordBatch {
    let rows = keys.iter().map(|key| Some(row(key, 1))).collect();
    let rows = image(table, rows);
    rows.project(table.key_indices()).unwrap()
}

fn text(rows: &BTreeMap<Key, i64>) -> Vec<String> {
    let value = |v: &i64| if *v == 0 { "null".to_owned() } else { v.to_string() };
    let mut lines: Vec<_> =
        rows.iter().map(|((a, b), v)| format!("{b},{},{a}", value(v))).collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn a_copy_changes_what_differs_and_nothing_else() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let table = pairs();
    lake.create_tables(&[Arc::clone(&table)]).await.unwrap();
    let mut random = StdRng::seed_from_u64(3);
    let mut held: BTreeMap<Key, i64> = BTreeMap::new();
    let mut truth = held.clone();
    let words = ["", "a", "Z", "é", "药", "\u{1f48a}", "aa"];
    let mut deletes = 0;
    for step in 0..150 {
        for _ in 0..random.random_range(0..12) {
            let b = words[random.random_range(0..words.len())].to_owned();
            let key = (random.random_range(-6..6), b);
            match random.random_range(0..3) {
                0 => drop(truth.remove(&key)),
                _ => drop(truth.insert(key, random.random_range(0..9))),
            }
        }
        let any = |random: &mut StdRng| -> Key {
            let b = words[random.random_range(0..words.len())].to_owned();
            (random.random_range(-6..6), b)
        };
        let (mut some, mut other) = (any(&mut random), any(&mut random));
        if some > other {
            std::mem::swap(&mut some, &mut other);
        }
        let asked: Vec<Key> = (0..5).map(|_| any(&mut random)).collect();
        let (after, to) =
            (random.random_bool(0.7).then_some(&some), random.random_bool(0.7).then_some(&other));
        let in_range = |key: &Key| after.is_none_or(|a| key > a) && to.is_none_or(|t| key <= t);
        let kind = random.random_range(0..3);
        let spoken = |key: &Key| match kind {
            0 => false,
            1 => in_range(key) && !asked.contains(key),
            _ => asked.contains(key),
        };
        let copied: BTreeMap<Key, i64> = match kind {
            0 => truth
                .iter()
                .filter(|_| random.random_bool(0.4))
                .map(|(k, v)| (k.clone(), *v))
                .collect(),
            _ => truth.iter().filter(|(k, _)| spoken(k)).map(|(k, v)| (k.clone(), *v)).collect(),
        };
        let mut unique = asked.clone();
        unique.sort();
        unique.dedup();
        let scope = match kind {
            0 => CopyScope::Rows,
            1 => CopyScope::Range {
                after: after.map(|k| keys(&table, &[k])),
                to: to.map(|k| keys(&table, &[k])),
                except: Some(keys(&table, &unique.iter().collect::<Vec<_>>())),
            },
            _ => CopyScope::Keys(keys(&table, &unique.iter().collect::<Vec<_>>())),
        };
        let rows_of = copied.iter().map(|(k, v)| Some(row(k, *v))).collect();
        let copy = RowCopy { table: Arc::clone(&table), scope, rows: image(&table, rows_of) };
        let before = held.clone();
        held.retain(|key, _| !spoken(key) || truth.contains_key(key));
        held.extend(copied);
        let differing = before.iter().filter(|(k, v)| held.get(*k) != Some(*v)).count()
            + held.keys().filter(|k| !before.contains_key(*k)).count();
        let changes = lake.differences(&copy).await.unwrap();
        let count = changes.as_ref().map_or(0, |c| c.ops().len());
        assert_eq!(count, differing, "step {step}: a change for each row that differs");
        if let Some(changes) = changes {
            deletes += changes.ops().iter().filter(|op| **op == Op::Delete).count();
            for (at, op) in changes.ops().iter().enumerate().filter(|(_, op)| **op != Op::Insert) {
                let b = arrow::util::display::array_value_to_string(changes.before().column(0), at);
                let a = arrow::util::display::array_value_to_string(changes.before().column(2), at);
                let key = (a.unwrap().parse().unwrap(), b.unwrap());
                let v = arrow::util::display::array_value_to_string(changes.before().column(1), at);
                let v = v.unwrap().parse().unwrap_or(0);
                assert_eq!(before.get(&key), Some(&v), "step {step}: {op:?} of the row as it was");
            }
            lake.stage(&set(vec![changes])).unwrap();
        }
        assert_eq!(lake.differences(&copy).await.unwrap().map(|c| c.ops().len()), None);
        if random.random_bool(0.5) {
            lake.publish();
        }
        if random.random_bool(0.2) {
            lake.publish();
            lake.flush().await.unwrap();
        }
        assert_eq!(rows(&lake.staged_view(), "mall.pairs").await, text(&held), "step {step}");
    }
    assert!(deletes > 10, "rows that are gone from the source go");
}

#[tokio::test]
async fn of_a_table_without_a_key_rows_are_counted() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let columns = vec![Column::nullable("v", ColumnType::Int64)];
    let table = TableSchema::keyless("mall.bag".parse().unwrap(), columns, Identity::FullRow);
    let table = Arc::new(table.unwrap());
    lake.create_tables(&[Arc::clone(&table)]).await.unwrap();
    let bag = |values: &[Option<i64>]| {
        let rows = values.iter().map(|v| Some(vec![ScalarValue::Int64(*v)])).collect();
        image(&table, rows)
    };
    let held = bag(&[Some(1), Some(1), None, Some(2)]);
    lake.stage(&set(vec![ChangeBatch::inserts(Arc::clone(&table), &held).unwrap()])).unwrap();
    let copy = RowCopy {
        table: Arc::clone(&table),
        scope: CopyScope::Range { after: None, to: None, except: None },
        rows: bag(&[Some(1), None, None, Some(3)]),
    };
    let changes = lake.differences(&copy).await.unwrap().unwrap();
    assert_eq!(changes.ops().len(), 4, "one of two, one of two new, one gone, one came");
    lake.stage(&set(vec![changes])).unwrap();
    assert_eq!(rows(&lake.staged_view(), "mall.bag").await, ["1", "3", "null", "null"]);
    assert!(lake.differences(&copy).await.unwrap().is_none());

    let mut tally = Tally::new(&table).unwrap();
    tally.add(&bag(&[None, Some(3)])).unwrap();
    assert_eq!(lake.against(&tally).await.unwrap(), (0, 2), "a null and a 1 too much");
    tally.add(&bag(&[Some(1), None])).unwrap();
    assert_eq!((tally.rows(), lake.against(&tally).await.unwrap()), (4, (0, 0)));
    lake.publish();
    lake.flush().await.unwrap();
    assert_eq!(lake.against(&tally).await.unwrap(), (0, 0), "from files too");
    tally.add(&bag(&[Some(3), Some(5)])).unwrap();
    assert_eq!(lake.against(&tally).await.unwrap(), (2, 0));
    let copy = RowCopy { scope: CopyScope::Part { first: true }, ..copy };
    assert!(lake.differences(&copy).await.is_err(), "it is not all of the table");
}

#[tokio::test]
async fn rows_that_cannot_be_read_for_a_moment_are_a_reason_that_passes() {
    let bench = Bench::new();
    let lake = bench.open().await;
    lake.create_tables(&[pairs()]).await.unwrap();
    let held = Some(row(&(1, "a".to_owned()), 1));
    lake.stage(&set(vec![batch(&pairs(), vec![(Op::Insert, None, held)])])).unwrap();
    lake.publish();
    lake.flush().await.unwrap();
    let scope = CopyScope::Range { after: None, to: None, except: None };
    let copy = RowCopy { table: pairs(), scope, rows: image(&pairs(), vec![]) };
    let (here, away) = (bench.folder.path().join("warehouse"), bench.folder.path().join("away"));
    fs::rename(&here, &away).unwrap();
    let error = lake.differences(&copy).await.unwrap_err();
    assert!(error.kind().retryable(), "{:?}: {error:?}", error.kind());
    fs::rename(&away, &here).unwrap();
    assert!(lake.differences(&copy).await.unwrap().is_some());
}
