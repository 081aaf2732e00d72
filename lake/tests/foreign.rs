//! Tables that another program makes and changes in our catalog, read here.

use std::path::Path;

use arrow::{
    array::AsArray, datatypes::Int64Type, record_batch::RecordBatch,
    util::display::array_value_to_string,
};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use medlake_contract::{ChangeBatch, Op};
use medlake_lake::{Follower, Lake, LakeConfig, LakeError, ReadView};
use serde_json::Value;

use crate::{fixtures, parts};

async fn lines(view: &ReadView, sql: &str) -> Vec<String> {
    let context = SessionContext::new();
    context.register_catalog("medlake", view.catalog());
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let mut lines = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let cell = |c: &arrow::array::ArrayRef| array_value_to_string(c, row).unwrap();
            lines.push(batch.columns().iter().map(cell).collect::<Vec<_>>().join("|"));
        }
    }
    lines
}

fn change(folder: &Path, step: &str) -> Value {
    let rows = parts::python("write_tables.py", &[folder, Path::new(step)]);
    serde_json::from_str(&rows).unwrap()
}

/// What PyIceberg says, in the words of [`SALES`].
fn expected(rows: &Value, amount: &str) -> Vec<String> {
    let mut rows: Vec<&Value> = rows["other.sales"].as_array().unwrap().iter().collect();
    rows.sort_by_key(|row| row["id"].as_i64());
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    rows.into_iter()
        .map(|row| {
            let tags = row["tags"].as_array().map_or(0, Vec::len);
            let cells = [
                text(&row["id"]),
                text(&row["shop"]),
                text(&row[amount]),
                text(&row["price"]),
                tags.to_string(),
                text(&row["place"]["east"]),
                text(&row["place"]["north"]),
                text(&row["note"]),
            ];
            cells.join("|")
        })
        .collect()
}

/// Of each change whether it is an insert, and the id of its row.
fn sales_changed(batch: &ChangeBatch) -> Vec<(bool, i64)> {
    let ids = |image: &RecordBatch| image["id"].as_primitive::<Int64Type>().clone();
    let (before, after) = (ids(batch.before()), ids(batch.after()));
    let change = |(row, op): (usize, &Op)| match op {
        Op::Insert => (true, after.value(row)),
        Op::Delete => (false, before.value(row)),
        other => panic!("{other:?} in a table without a key"),
    };
    batch.ops().iter().enumerate().map(change).collect()
}

#[tokio::test]
async fn tables_made_by_pyiceberg_are_read_as_it_reads_them_and_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let lake = fixtures::lake(folder.path()).await;
    lake.create_tables(&[fixtures::orders()]).await.unwrap();
    fixtures::write(&lake, &fixtures::upserts((0..10).map(|k| (k, k)), 1)).await;

    let rows = change(folder.path(), "first");
    assert_eq!(lake.refresh_foreign().await.unwrap(), 3);
    assert_eq!(lake.refresh_foreign().await.unwrap(), 0);
    let sales = |amount: &str, north: &str, note: &str| {
        format!(
            "select id, shop, {amount}, price, coalesce(array_length(tags), 0), place['east'], \
             {north} as north, {note} as note from medlake.other.sales order by id"
        )
    };
    let before = sales("amount", "null", "null");
    assert_eq!(lines(&lake.read_view(), &before).await, expected(&rows, "amount"));
    let bare = "select n from medlake.other.bare order by n";
    assert_eq!(lines(&lake.read_view(), bare).await, ["1", "2", "3"]);
    let unreadable = lake.read_view().left_out();
    assert_eq!(unreadable.len(), 1, "{unreadable:?}");
    assert_eq!(unreadable[0].0.to_string(), "other.broken");
    let ours = "select count(*) from medlake.mall.orders";
    assert_eq!(lines(&lake.read_view(), ours).await, ["10"]);

    // A view keeps its rows; the next one has what changed.
    let old = lake.read_view();
    let rows = change(folder.path(), "second");
    lake.maintain().await.unwrap();
    let after = sales("amount_fen", "place['north']", "note");
    assert_eq!(lines(&lake.read_view(), &after).await, expected(&rows, "amount_fen"));
    assert_eq!(lines(&old, "select count(*) from medlake.other.sales").await, ["19"]);
    // It rewrote files to take two rows away; only these went.
    let changes = lake.read_view().changes_since(&old, &"other.sales".parse().unwrap()).unwrap();
    let changes: Vec<ChangeBatch> = changes.try_collect().await.unwrap();
    let mut said: Vec<(bool, i64)> = changes.iter().flat_map(sales_changed).collect();
    said.sort_unstable();
    let inserted = (20..30).map(|id| (true, id));
    assert_eq!(said, [(false, 4), (false, 5)].into_iter().chain(inserted).collect::<Vec<_>>());
    let pruned = "select count(*), sum(amount_fen) from medlake.other.sales \
                  where shop = '店1' and amount_fen >= 100 and note is null";
    let ids: Vec<i64> = (10..20).filter(|i| i % 3 == 1 && i % 7 != 0).collect();
    let wanted = format!("{}|{}", ids.len(), ids.iter().sum::<i64>() * 10);
    assert_eq!(lines(&lake.read_view(), pruned).await, [wanted]);

    let schema = lake.read_view().tables().into_iter().find(|t| t.schema.name().table() == "bare");
    let error = lake.create_tables(&[schema.unwrap().schema]).await.unwrap_err();
    assert!(error.to_string().contains("never written here"), "{error}");
}

/// A table whose metadata is lost or damaged stops no other table from being read, unless it is ours.
#[tokio::test]
async fn lost_metadata_of_another_program_does_not_stop_the_lake() {
    let folder = tempfile::tempdir().unwrap();
    let config = || LakeConfig::new(folder.path(), fixtures::clock());
    {
        let lake = fixtures::lake(folder.path()).await;
        lake.create_tables(&[fixtures::orders()]).await.unwrap();
        fixtures::write(&lake, &fixtures::upserts((0..10).map(|k| (k, k)), 1)).await;
        change(folder.path(), "first");
    }
    let metadata = folder.path().join("warehouse/other/bare/metadata");
    for file in std::fs::read_dir(metadata).unwrap().map(|file| file.unwrap().path()) {
        if file.to_str().unwrap().ends_with(".metadata.json") {
            std::fs::write(file, "{ torn").unwrap();
        }
    }
    let lake = Lake::open(config()).await.unwrap();
    let follower = Follower::open(&config()).await.unwrap();
    for view in [lake.read_view(), follower.watch().borrow().clone()] {
        let left_out: Vec<String> =
            view.left_out().iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(left_out, ["other.bare", "other.broken"]);
        assert_eq!(lines(&view, "select count(*) from medlake.mall.orders").await, ["10"]);
        assert_eq!(lines(&view, "select count(*) from medlake.other.sales").await, ["19"]);
    }
    drop(lake);

    // Ours: an older metadata file says so.
    let current = crate::engines::metadata_location(folder.path(), "mall.orders").await;
    std::fs::remove_file(current.trim_start_matches("file://")).unwrap();
    let error = Lake::open(config()).await.err().unwrap();
    assert!(matches!(error, LakeError::File { .. }), "{error:?}");
}
