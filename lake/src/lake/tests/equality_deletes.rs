//! Equality deletes of other writers: about earlier commits alone.

use std::collections::HashMap;

use iceberg::spec::{
    DataContentType, DataFileBuilder, DataFileFormat, PartitionSpec, Schema, Struct,
};

use super::*;
use crate::{
    commit::{
        manifest::NewEntry,
        table::{CommittedTable, Retention, TableChange},
    },
    format::{
        data_file::{DataFileWriter, FileKind, writer_properties},
        progress::Progress,
        schema::Shape,
    },
    open::open_files,
    options::TableOptions,
    storage::WriteScope,
};

fn file(scope: &WriteScope, shape: &Shape, name: &str, rows: &[i64]) -> NewEntry {
    let table = scope.storage().table_location(shape.schema().name());
    let location = format!("{table}/data/{name}.parquet");
    let spec = Arc::new(PartitionSpec::unpartition_spec());
    let kind = FileKind { spec, partition: Struct::empty(), sort_order_id: None };
    let properties = writer_properties(&TableOptions::default());
    let mut writer = DataFileWriter::create(scope, location, shape, kind, properties).unwrap();
    let columns: Vec<ArrayRef> = shape
        .fields()
        .iter()
        .map(|_| Arc::new(arrow::array::Int64Array::from(rows.to_vec())) as ArrayRef)
        .collect();
    writer
        .write(&RecordBatch::try_new(Arc::clone(shape.schema().arrow()), columns).unwrap())
        .unwrap();
    writer.finish().unwrap().1
}

/// The entry of a delete file instead of a data file, comparing the columns of these ids.
fn deleting(entry: NewEntry, ids: Vec<i32>) -> NewEntry {
    let file = DataFileBuilder::default()
        .content(DataContentType::EqualityDeletes)
        .file_path(entry.file.file_path().to_owned())
        .file_format(DataFileFormat::Parquet)
        .record_count(entry.file.record_count())
        .file_size_in_bytes(entry.file.file_size_in_bytes())
        .equality_ids(Some(ids))
        .build()
        .unwrap();
    NewEntry { spec_id: entry.spec_id, file }
}

async fn committed(
    table: &CommittedTable,
    scope: &WriteScope,
    change: TableChange,
) -> CommittedTable {
    let progress = Progress {
        positions: Positions::new(),
        epoch: 1,
        commit_id: "test".to_owned(),
        view_version: 1,
        committed_at_micros: None,
        tables: Vec::new(),
    };
    let retention = Retention { snapshots: 10, micros: 0 };
    let next = table.next(scope, change, &progress, 0, &retention, &HashMap::new()).await;
    scope.persist().await.unwrap();
    next.unwrap().0
}

#[tokio::test]
async fn an_equality_delete_takes_rows_of_earlier_commits_and_no_others() {
    let bench = Bench::new();
    let lake = bench.open().await;
    lake.create_tables(&[numbers()]).await.unwrap();
    let first = lake.committer.lock().await.tables.values().next().unwrap().clone();
    let shape = first.shape().unwrap();
    let only = |place: usize| {
        let field = Arc::clone(&first.metadata.current_schema().as_struct().fields()[place]);
        Schema::builder().with_fields([field]).build().unwrap()
    };
    let id = Shape::at(&first.name, &first.metadata, &only(0)).unwrap();
    let scope = lake.storage.begin();
    let added = vec![file(&scope, &shape, "a", &[1, 2, 3, 2])];
    let change = TableChange { added, ..TableChange::default() };
    let second = committed(&first, &scope, change).await;
    // The row that takes the place of a deleted one comes in the same commit as the delete.
    let scope = lake.storage.begin();
    let added = vec![file(&scope, &shape, "b", &[2, 4])];
    let deletes = file(&scope, &id, "gone", &[2, 9]);
    let added_deletes = vec![deleting(deletes, vec![shape.fields()[0].id])];
    let change = TableChange { added, added_deletes, ..TableChange::default() };
    let third = committed(&second, &scope, change).await;
    // A later delete is about all before it.
    let scope = lake.storage.begin();
    let deletes = file(&scope, &id, "later", &[4, 1]);
    let added_deletes = vec![deleting(deletes, vec![shape.fields()[0].id])];
    let change = TableChange { added_deletes, ..TableChange::default() };
    let fourth = committed(&third, &scope, change).await;

    for (table, expected) in [
        (&second, vec![("a", vec![])]),
        (&third, vec![("a", vec![1, 3]), ("b", vec![])]),
        (&fourth, vec![("a", vec![0, 1, 3]), ("b", vec![1])]),
    ] {
        let mut dead: Vec<(String, Vec<u32>)> = open_files(&lake.storage, table)
            .await
            .unwrap()
            .into_iter()
            .map(|(file, dead)| {
                let name = file.location.rsplit(['/', '.']).nth(1).unwrap().to_owned();
                (name, dead.into_iter().collect())
            })
            .collect();
        dead.sort();
        let expected: Vec<(String, Vec<u32>)> =
            expected.into_iter().map(|(name, dead)| (name.to_owned(), dead)).collect();
        assert_eq!(dead, expected);
    }
    // Columns that the table never had cannot be compared.
    let by_unknown =
        deleting(file(&lake.storage.begin(), &id, "unknown", &[1]), vec![shape.fields()[0].id, 99]);
    let scope = lake.storage.begin();
    let change = TableChange { added_deletes: vec![by_unknown], ..TableChange::default() };
    let unknown = committed(&fourth, &scope, change).await;
    let error = open_files(&lake.storage, &unknown).await.unwrap_err();
    assert!(matches!(error, LakeError::Unsupported { .. }), "{error}");
}
