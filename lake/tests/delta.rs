//! The deltalake package reads what was published, and what it reads is one commit.

use std::path::Path;

use medlake_contract::TableName;
use medlake_lake::{DeltaDeletes, Lake};
use serde_json::Value;

use crate::{fixtures, parts};

fn name() -> TableName {
    "mall.orders".parse().unwrap()
}

/// The rows the package reads, by key and amount.
fn read(folder: &Path, how: &str) -> Vec<(i64, i64)> {
    let table = folder.join("warehouse/mall/orders");
    let read = parts::python("read_delta.py", &[table.as_path(), Path::new(how)]);
    let read: Value = serde_json::from_str(&read).unwrap();
    assert_eq!(read["columns"], serde_json::json!(["order_id", "channel", "amount_fen"]));
    let number = |cell: &Value| cell.as_str().unwrap().parse().unwrap();
    let mut rows: Vec<(i64, i64)> = read["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (number(&row[0]), number(&row[2])))
        .collect();
    rows.sort_unstable();
    rows
}

/// Three commits: rows, some of them replaced, others added.
async fn fill(lake: &Lake) -> Vec<(i64, i64)> {
    lake.create_tables(&[fixtures::orders()]).await.unwrap();
    fixtures::write(lake, &fixtures::upserts((0..400).map(|k| (k, k)), 1)).await;
    fixtures::write(lake, &fixtures::upserts((1_000..1_200).map(|k| (k, 0)), 2)).await;
    fixtures::write(lake, &fixtures::upserts((100..150).map(|k| (k, -k)), 3)).await;
    let amount = |k: i64| if (100..150).contains(&k) { -k } else { k };
    let old = (0..400).map(|k| (k, amount(k)));
    old.chain((1_000..1_200).map(|k| (k, 0))).collect()
}

#[tokio::test]
async fn every_reader_of_delta_reads_copies() {
    let folder = tempfile::tempdir().unwrap();
    let lake = fixtures::lake(folder.path()).await;
    let rows = fill(&lake).await;

    let report = lake.publish_delta(&name(), DeltaDeletes::Copies).await.unwrap();
    assert_eq!((report.files, report.added, report.copied_rows), (3, 3, 350), "{report:?}");
    assert_eq!(read(folder.path(), "arrow"), rows);
    assert_eq!(read(folder.path(), "sql"), rows);
    // Nothing was committed since: nothing to do.
    let again = lake.publish_delta(&name(), DeltaDeletes::Copies).await.unwrap();
    assert_eq!((again.version, again.added), (report.version, 0));

    // Rows in memory and in later commits are not in it until it is published again.
    lake.stage(&fixtures::upserts([(7, 70)], 4)).unwrap();
    lake.publish();
    lake.flush().await.unwrap();
    assert_eq!(read(folder.path(), "arrow"), rows);
    let report = lake.publish_delta(&name(), DeltaDeletes::Copies).await.unwrap();
    // One file with one more dead row is copied anew; the one with the new row is shared.
    assert_eq!((report.added, report.removed, report.copied_rows), (2, 1, 349), "{report:?}");
    let rows: Vec<_> = rows.into_iter().map(|(k, a)| (k, if k == 7 { 70 } else { a })).collect();
    assert_eq!(read(folder.path(), "arrow"), rows);

    // Another process goes on with the same log.
    drop(lake);
    let lake = fixtures::lake(folder.path()).await;
    let again = lake.publish_delta(&name(), DeltaDeletes::Copies).await.unwrap();
    assert_eq!((again.version, again.added), (report.version, 0));
}

#[tokio::test]
async fn deletion_vectors_share_every_file() {
    let folder = tempfile::tempdir().unwrap();
    let lake = fixtures::lake(folder.path()).await;
    let rows = fill(&lake).await;
    let report = lake.publish_delta(&name(), DeltaDeletes::Vectors).await.unwrap();
    assert_eq!((report.files, report.copied_rows), (3, 0), "{report:?}");
    assert_eq!(read(folder.path(), "sql"), rows);

    fixtures::write(&lake, &fixtures::upserts((0..300).map(|k| (k, 1)), 4)).await;
    lake.publish_delta(&name(), DeltaDeletes::Vectors).await.unwrap();
    let rows: Vec<_> = rows.into_iter().map(|(k, a)| (k, if k < 300 { 1 } else { a })).collect();
    assert_eq!(read(folder.path(), "sql"), rows);
}

#[tokio::test]
async fn files_a_delta_table_names_outlive_their_snapshots() {
    let folder = tempfile::tempdir().unwrap();
    let config = || medlake_lake::LakeConfig {
        keep_snapshots: 1,
        keep_snapshots_micros: 0,
        orphan_micros: 0,
        ..medlake_lake::LakeConfig::new(folder.path(), fixtures::clock())
    };
    let lake = Lake::open(config()).await.unwrap();
    let rows = fill(&lake).await;
    lake.publish_delta(&name(), DeltaDeletes::Copies).await.unwrap();
    // Every row is replaced, so the files go from the table.
    for change in 4..8 {
        let all = rows.iter().map(|(k, _)| (*k, i64::try_from(change).unwrap()));
        fixtures::write(&lake, &fixtures::upserts(all.collect::<Vec<_>>(), change)).await;
    }
    assert_eq!(read(folder.path(), "arrow"), rows, "as published");
    // Neither does looking for files nobody needs.
    lake.remove_orphans(&[]).await.unwrap();
    drop(lake);
    let lake = Lake::open(config()).await.unwrap();
    lake.load_indexes().await.unwrap();
    lake.remove_orphans(&[]).await.unwrap();
    fixtures::write(&lake, &fixtures::upserts([(1, 7)], 8)).await;
    assert_eq!(read(folder.path(), "arrow"), rows, "as published by the process before");
    let report = lake.publish_delta(&name(), DeltaDeletes::Copies).await.unwrap();
    assert!(report.added > 0 && report.removed > 0, "{report:?}");
    assert!(read(folder.path(), "arrow").iter().all(|(_, amount)| *amount == 7));
}

#[tokio::test]
async fn deletion_vectors_are_not_put_into_a_table_begun_without() {
    let folder = tempfile::tempdir().unwrap();
    let lake = fixtures::lake(folder.path()).await;
    fill(&lake).await;
    lake.publish_delta(&name(), DeltaDeletes::Copies).await.unwrap();
    fixtures::write(&lake, &fixtures::upserts([(1, 2)], 9)).await;
    let error = lake.publish_delta(&name(), DeltaDeletes::Vectors).await.unwrap_err();
    assert!(error.to_string().contains("_delta_log"), "{error}");
    let unknown = lake.publish_delta(&"mall.none".parse().unwrap(), DeltaDeletes::Copies).await;
    assert!(unknown.unwrap_err().to_string().contains("mall.none"));
}
