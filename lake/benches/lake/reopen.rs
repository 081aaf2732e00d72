//! A large table is opened again: how long until it answers, and until it takes a change; with the copy
//! of its key index and without. Beside it, the memory the index takes.
//!
//! The limits are for ten million rows, the default: two seconds to the first answer, five to the
//! first change, forty bytes a row.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{ArrayRef, Int64Array, StringArray},
    record_batch::RecordBatch,
};
use datafusion::prelude::SessionContext;
use medlake_contract::{ChangeBatch, ChangeSet, Column, ColumnType, TableSchema};
use medlake_lake::Lake;

use crate::stage;

const ROWS: usize = 10_000_000;
/// Rows written with one flush.
const FLUSH: usize = 1_000_000;
const ROUNDS: usize = 3;

fn table() -> Arc<TableSchema> {
    let mut columns = vec![
        Column::required("id", ColumnType::Int64),
        Column::nullable("channel", ColumnType::Utf8),
    ];
    columns.extend((0..8).map(|n| Column::nullable(format!("n{n}"), ColumnType::Int64)));
    Arc::new(TableSchema::new("bench.lines".parse().unwrap(), columns, &["id"]).unwrap())
}

fn inserts(ids: impl Iterator<Item = usize>) -> ChangeSet {
    // Scattered over all 64 bits, so that nothing is easy for a hash.
    let ids: Vec<i64> =
        ids.map(|n| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).cast_signed()).collect();
    let channels = ids.iter().map(|n| ["app", "h5", "shop"][usize::from(n.to_le_bytes()[3] % 3)]);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.clone())),
        Arc::new(StringArray::from_iter_values(channels)),
    ];
    for n in 0..8 {
        columns.push(Arc::new(Int64Array::from_iter_values(ids.iter().map(|id| id % (n + 1000)))));
    }
    let rows = RecordBatch::try_new(Arc::clone(table().arrow()), columns).unwrap();
    let batches = vec![ChangeBatch::inserts(table(), &rows).unwrap()];
    ChangeSet { batches, ..ChangeSet::default() }
}

#[derive(Default)]
struct Times {
    answer: Vec<Duration>,
    change: Vec<Duration>,
}

async fn reopen(folder: &std::path::Path, rows: usize, times: &mut Times) -> Lake {
    let start = Instant::now();
    let lake = stage::lake(folder).await;
    let context = SessionContext::new();
    context.register_catalog("lake", lake.read_view().catalog());
    let sql = "select channel, count(*), sum(n3) from lake.bench.lines group by channel";
    let answer = context.sql(sql).await.unwrap().collect().await.unwrap();
    assert_eq!(answer.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    times.answer.push(start.elapsed());
    drop(answer);
    // From a second opening, so that the two do not share the time.
    drop(context);
    drop(lake);
    let start = Instant::now();
    let lake = stage::lake(folder).await;
    lake.load_indexes().await.unwrap();
    lake.stage(&inserts(0..1)).unwrap();
    times.change.push(start.elapsed());
    assert_eq!(lake.staged_view().tables()[0].row_count, rows as u64);
    lake
}

pub(crate) fn run(rows: Option<usize>) {
    let rows = rows.unwrap_or(ROWS);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let lake = stage::lake(folder.path()).await;
        lake.create_tables(&[table()]).await.unwrap();
        let mut staging = Duration::ZERO;
        for first in (0..rows).step_by(FLUSH) {
            for first in (first..rows.min(first + FLUSH)).step_by(10_000) {
                let changes = inserts(first..rows.min(first + 10_000));
                let start = Instant::now();
                lake.stage(&changes).unwrap();
                staging += start.elapsed();
            }
            lake.publish();
            lake.flush().await.unwrap();
        }
        let index = lake.index_sizes()[table().name()];
        let each = |bytes: usize| bytes as f64 / rows as f64;
        println!("{rows} rows of 10 columns, an integer key");
        println!("  staged at {:.0} rows/s", rows as f64 / staging.as_secs_f64());
        println!("  index as it grew      {:5.1} bytes a row", each(index.bytes));
        let saving = Instant::now();
        lake.save_indexes().await.unwrap();
        println!("  copy of it written in {:5.2} s", saving.elapsed().as_secs_f64());
        drop(lake);
        let copies = folder.path().join("indexes");
        let (mut copied, mut scanned) = (Times::default(), Times::default());
        let mut bytes = 0;
        for _ in 0..ROUNDS {
            let lake = reopen(folder.path(), rows, &mut copied).await;
            bytes = lake.index_sizes()[table().name()].bytes;
            drop(lake);
            let aside = folder.path().join("aside");
            std::fs::rename(&copies, &aside).unwrap();
            drop(reopen(folder.path(), rows, &mut scanned).await);
            std::fs::rename(&aside, &copies).unwrap();
        }
        println!("  index as loaded       {:5.1} bytes a row, limit 40", each(bytes));
        for (name, times) in [("with the copy", copied), ("without the copy", scanned)] {
            println!(
                "  {name:17} first answer {:5.2} s, limit 2; first change {:5.2} s, limit 5",
                stage::median(times.answer).as_secs_f64(),
                stage::median(times.change).as_secs_f64()
            );
        }
    });
}
