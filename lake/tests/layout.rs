//! Other engines make the same of a table's layout: partitions, order, properties.

use std::collections::BTreeSet;

use medlake_lake::{FormatVersion, PartitionField, SortField, TableOptions, Transform};

use crate::{fixtures, parts};

#[tokio::test]
async fn engines_read_a_partitioned_table_whose_layout_changed() {
    let folder = tempfile::tempdir().unwrap();
    let lake = fixtures::lake(folder.path()).await;
    let by = |column: &str, transform| PartitionField { column: column.to_owned(), transform };
    let first = TableOptions {
        partition: vec![by("channel", Transform::Identity), by("order_id", Transform::Bucket(2))],
        sort: vec![SortField { descending: true, ..SortField::ascending("amount_fen") }],
        bloom_filters: BTreeSet::from(["order_id".to_owned()]),
        ..TableOptions::default()
    };
    lake.create_tables_with(&[(fixtures::orders(), first.clone())]).await.unwrap();
    fixtures::write(&lake, &fixtures::upserts((0..3_000).map(|k| (k, k)), 1)).await;
    let second =
        TableOptions { partition: vec![by("order_id", Transform::Truncate(1_000))], ..first };
    lake.create_tables_with(&[(fixtures::orders(), second)]).await.unwrap();
    // Rows go from partitions of the old specification to those of the new one.
    fixtures::write(&lake, &fixtures::upserts((2_500..4_000).map(|k| (k, 10 * k)), 2)).await;
    let amounts = |from: i64| {
        (from..2_500).sum::<i64>() + (from.max(2_500)..4_000).map(|k| 10 * k).sum::<i64>()
    };

    let folder = folder.path().to_str().unwrap();
    let arguments = [folder, "mall.orders", "amount_fen", "order_id >= 3000"];
    let read = parts::python("read_layout.py", &arguments);
    let read: serde_json::Value = serde_json::from_str(&read).unwrap();
    let specs = [
        ["channel:identity", "order_id_bucket:bucket[2]"].as_slice(),
        &["order_id_trunc:truncate[1000]"],
    ];
    assert_eq!(read["specs"], serde_json::json!(specs), "{read}");
    assert_eq!(read["sort_order"], serde_json::json!(["identity DESC"]), "{read}");
    assert_eq!(read["file_sort_orders"], serde_json::json!([1]), "{read}");
    assert_eq!(
        read["files"],
        serde_json::json!([
            "Record[2000] spec 1",
            "Record[3000] spec 1",
            "Record[None, 0] spec 0",
            "Record[None, 1] spec 0",
            "Record[应用, 0] spec 0",
            "Record[应用, 1] spec 0",
        ]),
        "{read}"
    );
    assert_eq!(read["files_left"], 1, "one partition has order 3000 and later: {read}");
    assert_eq!(read["delete_files"], 4, "one in each partition that lost rows: {read}");
    for engine in ["pyiceberg", "duckdb"] {
        assert_eq!(read[format!("{engine}_all")], serde_json::json!([4_000, amounts(0)]), "{read}");
        let some = (3_000..4_000).map(|k| 10 * k).sum::<i64>();
        assert_eq!(read[format!("{engine}_some")], serde_json::json!([1_000, some]), "{read}");
    }
}

#[tokio::test]
async fn engines_read_deletion_vectors() {
    let folder = tempfile::tempdir().unwrap();
    let lake = fixtures::lake(folder.path()).await;
    let partition = PartitionField { column: "channel".to_owned(), transform: Transform::Identity };
    let options = |format_version| TableOptions {
        format_version,
        partition: vec![partition.clone()],
        ..TableOptions::default()
    };
    let declare = async |version| {
        lake.create_tables_with(&[(fixtures::orders(), options(version))]).await.unwrap();
    };
    // Position deletes first, then vectors beside them, then vectors in their place.
    declare(FormatVersion::V2).await;
    fixtures::write(&lake, &fixtures::upserts((0..3_000).map(|k| (k, k)), 1)).await;
    fixtures::write(&lake, &fixtures::upserts((0..300).map(|k| (k, 2 * k)), 2)).await;
    declare(FormatVersion::V3).await;
    fixtures::write(&lake, &fixtures::upserts((250..251).map(|k| (k, 3 * k)), 3)).await;
    let amounts = |changed: i64| {
        (0..300).map(|k| 2 * k).sum::<i64>() + 250 + (300..3_000).sum::<i64>() + changed
    };
    let check = |vectors: i64, rows: i64, amount: i64| {
        let folder = folder.path().to_str().unwrap();
        let arguments = [folder, "mall.orders", "amount_fen", "order_id < 1000"];
        let read = parts::python("read_layout.py", &arguments);
        let read: serde_json::Value = serde_json::from_str(&read).unwrap();
        assert_eq!(read["format_version"], 3, "{read}");
        assert_eq!(read["delete_files"], vectors, "{read}");
        for engine in ["pyiceberg", "duckdb"] {
            assert_eq!(
                read[format!("{engine}_all")],
                serde_json::json!([rows, amount]),
                "{engine}: {read}"
            );
        }
    };
    // Order 250 is of one channel: the other keeps its position deletes.
    check(2, 3_000, amounts(0));
    fixtures::write(&lake, &fixtures::upserts((1_000..2_000).map(|k| (k, k + 1)), 4)).await;
    fixtures::write(&lake, &fixtures::upserts((1_500..3_500).map(|k| (k, k + 2)), 5)).await;
    let changed = 500 + 2 * 2_000 + (3_000..3_500).sum::<i64>();
    check(2, 3_500, amounts(changed));
}
