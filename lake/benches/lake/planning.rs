//! How long it takes to plan queries over a table of many files: what a query costs before it reads.

use std::{sync::Arc, time::Instant};

use arrow::{
    array::{ArrayRef, Int64Array, StringArray},
    record_batch::RecordBatch,
};
use datafusion::prelude::SessionContext;
use medlake_contract::{ChangeBatch, ChangeSet, Column, ColumnType, TableSchema};
use medlake_lake::{Lake, PartitionField, TableOptions, Transform};

use crate::stage::{lake, median};

const FILES: usize = 10_000;
const ROUNDS: usize = 11;

const QUERIES: &[(&str, &str)] = &[
    ("one key", "select * from lake.mall.lines where id = 77"),
    ("one partition", "select sum(fen) from lake.mall.lines where part = 77"),
    ("one text", "select sum(fen) from lake.mall.lines where kind = '类别 0000077'"),
    ("group", "select shop, sum(fen) from lake.mall.lines group by shop"),
    (
        "join",
        "select count(*) from lake.mall.lines a join lake.mall.lines b on a.id = b.fen
         where a.part = 77",
    ),
];

pub(crate) fn run(files: Option<usize>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure(files.unwrap_or(FILES)));
}

async fn measure(files: usize) {
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); QUERIES.len()];
    for files in [1, files] {
        let folder = tempfile::tempdir().unwrap();
        let lake = lake(folder.path()).await;
        fill(&lake, files).await;
        let context = SessionContext::new();
        context.register_catalog("lake", lake.read_view().catalog());
        for ((_, sql), times) in QUERIES.iter().zip(&mut times) {
            let mut rounds = Vec::new();
            for _ in 0..ROUNDS {
                let started = Instant::now();
                context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
                rounds.push(started.elapsed());
            }
            times.push(median(rounds).as_secs_f64() * 1e3);
        }
    }
    println!("planning: ms over one file, over {files} files, and what a thousand files add");
    for ((name, _), times) in QUERIES.iter().zip(&times) {
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        let more = (times[1] - times[0]) / (files as f64 / 1e3);
        println!("  {name:<15}{:>8.1}{:>8.1}{more:>8.2}", times[0], times[1]);
    }
}

/// One row and one file to a partition.
async fn fill(lake: &Lake, files: usize) {
    let texts = ["kind", "note", "channel"];
    let numbers = ["id", "part", "shop", "fen", "pieces", "discount", "tax"];
    let columns = numbers
        .iter()
        .map(|name| Column::required(*name, ColumnType::Int64))
        .chain(texts.iter().map(|name| Column::nullable(*name, ColumnType::Utf8)));
    let name = "mall.lines".parse().unwrap();
    let table = Arc::new(TableSchema::new(name, columns.collect(), &["id"]).unwrap());
    let partition = vec![PartitionField { column: "part".into(), transform: Transform::Identity }];
    let options = TableOptions { partition, ..TableOptions::default() };
    lake.create_tables_with(&[(Arc::clone(&table), options)]).await.unwrap();
    let ids = 0..i64::try_from(files).unwrap();
    let number = || Arc::new(Int64Array::from_iter_values(ids.clone())) as ArrayRef;
    let text = || {
        let texts = ids.clone().map(|id| format!("类别 {id:07}"));
        Arc::new(StringArray::from_iter_values(texts)) as ArrayRef
    };
    let arrays = numbers.iter().map(|_| number()).chain(texts.iter().map(|_| text()));
    let rows = RecordBatch::try_new(Arc::clone(table.arrow()), arrays.collect()).unwrap();
    let batches = vec![ChangeBatch::inserts(table, &rows).unwrap()];
    lake.stage(&ChangeSet { batches, ..ChangeSet::default() }).unwrap();
    lake.publish();
    lake.flush().await.unwrap();
}
