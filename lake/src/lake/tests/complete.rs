//! What sources did not send is what the lake has.

use medlake_contract::Unsent;

use super::*;

fn documents() -> Arc<TableSchema> {
    let columns = vec![
        Column::required("id", ColumnType::Int64),
        Column::nullable("small", ColumnType::Int64),
        Column::nullable("big", ColumnType::Utf8),
    ];
    table("mall.documents", columns, &["id"])
}

fn row(id: i64, small: Option<i64>, big: Option<&str>) -> Option<Row> {
    Some(vec![ScalarValue::Int64(Some(id)), ScalarValue::Int64(small), ScalarValue::from(big)])
}

/// A change of a row whose large value was not sent, with the key alone before.
fn unsent(id: i64, small: i64) -> Change {
    (Op::Update, row(id, None, None), row(id, Some(small), None))
}

#[tokio::test]
async fn values_that_were_not_sent_are_kept() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let table = documents();
    lake.create_tables(&[Arc::clone(&table)]).await.unwrap();
    let stage = |changes: Vec<Change>, cells: Vec<usize>| {
        let (lake, table) = (&lake, &table);
        async move {
            let cells = cells.into_iter().map(|row| Unsent { row, column: 2 }).collect();
            let whole = batch(table, changes).with_unsent(cells).unwrap();
            let mut set = ChangeSet { batches: vec![whole], ..ChangeSet::default() };
            let failed = lake.complete(&mut set).await;
            lake.stage(&set).unwrap();
            (failed, set)
        }
    };
    let insert = |id, big| (Op::Insert, None, row(id, Some(0), Some(big)));
    stage((1..).zip(["a", "b", "c", "d"]).map(|(id, big)| insert(id, big)).collect(), vec![]).await;
    lake.publish();
    lake.flush().await.unwrap();
    // From a file, from rows in memory, from an earlier change of the set, from the row's old key.
    stage(vec![(Op::Update, row(2, None, None), row(2, Some(1), Some("bb")))], vec![]).await;
    let (failed, set) = stage(
        vec![
            unsent(1, 10),
            unsent(2, 20),
            unsent(2, 21),
            (Op::Update, row(3, None, None), row(3, Some(30), Some("cc"))),
            unsent(3, 31),
            (Op::Delete, row(4, None, None), None),
            (Op::Insert, row(4, None, None), row(5, Some(50), None)),
        ],
        vec![0, 1, 2, 4, 6],
    )
    .await;
    assert!(failed.is_empty(), "{failed:?}");
    let before = lines(&[set.batches[0].before().slice(5, 1)]);
    assert_eq!(before, ["4,0,d"], "a key alone becomes the row");
    let view = lake.publish();
    let expected = ["1,10,a", "2,21,bb", "3,31,cc", "5,50,d"];
    assert_eq!(rows(&view, "mall.documents").await, expected);
    // Nobody has this one: it must not become null in silence.
    let (failed, set) = stage(vec![unsent(9, 1)], vec![0]).await;
    assert_eq!(failed[0].0, *table.name());
    assert!(failed[0].1.to_string().contains("does not have the row"), "{}", failed[0].1);
    assert!(set.batches.is_empty());
}
