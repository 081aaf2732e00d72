//! Other engines open what we wrote, unpatched, and agree with us.

use crate::{fixtures, parts};

#[tokio::test]
async fn pyiceberg_and_duckdb_read_rows_replaced_by_position() {
    let folder = tempfile::tempdir().unwrap();
    let lake = fixtures::lake(folder.path()).await;
    lake.create_tables(&[fixtures::orders()]).await.unwrap();
    fixtures::write(&lake, &fixtures::upserts((0..1_000).map(|k| (k, k)), 1)).await;
    fixtures::write(&lake, &fixtures::upserts((500..1_500).map(|k| (k, 10 * k)), 2)).await;
    let amounts: i64 = (0..500).sum::<i64>() + (500..1_500).map(|k| 10 * k).sum::<i64>();

    let read = parts::python("read_lake.py", &[folder.path()]);
    let read: serde_json::Value = serde_json::from_str(&read).unwrap();
    let table = &read["mall.orders"];
    assert_eq!(table["delete_files"], 1, "{table}");
    for engine in ["pyiceberg", "duckdb"] {
        assert_eq!(table[engine][0], 1_500, "{engine}: {table}");
        assert_eq!(table[engine][3], amounts, "{engine}: {table}");
    }
}
