//! `compaction`: a thousand small files are merged while changes stream in. `rewrite`: another program
//! writes all rows of a table anew, which is taken in while changes stream in. Limit of both: nothing
//! holds up the stream for more than 200 ms.

use std::{
    path::Path,
    process::Command,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use medlake_contract::TableSchema;
use medlake_lake::{Durability, Lake, LakeConfig};
use rand::{SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;

use crate::{
    lines::{changes, lines},
    peer,
    stage::{lake, unmerged},
    stream::beside,
};

const FILES: usize = 1_000;
/// Changes flushed into each of them.
const FILE_CHANGES: usize = 2_000;
const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// Changes of the table that is written anew, half of them inserts.
const REWRITTEN: usize = 4_000_000;

pub(crate) fn run(files: Option<usize>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(measure(files.unwrap_or(FILES)));
}

async fn measure(files: usize) {
    println!("compaction: {files} files of {} inserts and as many updates", FILE_CHANGES / 2);
    let folder = tempfile::tempdir().unwrap();
    let schema = lines("mall.line");
    let mut rng = StdRng::seed_from_u64(4);
    let mut next = 0;
    let lake = filled(folder.path(), &schema, (&mut rng, &mut next), files, FILE_CHANGES).await;
    // Ends with this function.
    let mut flusher = JoinSet::<()>::new();
    let flushed = Arc::clone(&lake);
    flusher.spawn(async move {
        loop {
            tokio::time::sleep(FLUSH_EVERY).await;
            flushed.flush().await.unwrap();
        }
    });
    let (report, took) = beside(&lake, &schema, (&mut rng, &mut next), |lake, on| async move {
        let started = Instant::now();
        on.store(true, Ordering::Relaxed);
        let report = lake.compact(&[], &mut |_, _| {}).await.unwrap();
        on.store(false, Ordering::Relaxed);
        (report, started.elapsed())
    })
    .await;
    println!(
        "  merged {} files and {} delete files into {} in {:.1} s",
        report.merged_files,
        report.merged_delete_files,
        report.written_files,
        took.as_secs_f64()
    );
}

pub(crate) fn rewrite(count: Option<usize>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(take_in(count.unwrap_or(REWRITTEN)));
}

async fn take_in(count: usize) {
    let folder = tempfile::tempdir().unwrap();
    let schema = lines("mall.orders");
    let mut rng = StdRng::seed_from_u64(5);
    let mut next = 0;
    let lake = filled(folder.path(), &schema, (&mut rng, &mut next), 8, count / 8).await;
    let rows = lake.read_view().tables()[0].row_count;
    println!("rewrite: another program writes {rows} rows anew");
    let catalog = format!("sqlite:///{}", folder.path().join("catalog.db").display());
    let took = beside(&lake, &schema, (&mut rng, &mut next), |lake, on| async move {
        // Nothing is flushed meanwhile: the other program would have to begin again.
        let other = tokio::task::spawn_blocking(move || {
            let script =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/readers/write_sql_catalog.py");
            let mut python = Command::new(peer::python());
            python
                .args(["-W", "ignore"])
                .arg(script)
                .args([catalog.as_str(), "rewrite"])
                .status()
                .unwrap()
        });
        assert!(other.await.unwrap().success());
        let started = Instant::now();
        on.store(true, Ordering::Relaxed);
        lake.flush().await.unwrap();
        on.store(false, Ordering::Relaxed);
        started.elapsed()
    })
    .await;
    println!("  taken in, and committed on top of it, in {:.1} s", took.as_secs_f64());
}

/// A lake with a table of so many files, and its key index.
async fn filled(
    folder: &Path,
    schema: &Arc<TableSchema>,
    (rng, next): (&mut StdRng, &mut i64),
    files: usize,
    file_changes: usize,
) -> Arc<Lake> {
    // Nobody waits for the disk here.
    let config = LakeConfig { durability: Durability::Process, ..unmerged(folder) };
    let quick = Lake::open(config).await.unwrap();
    quick.create_tables(&[Arc::clone(schema)]).await.unwrap();
    for _ in 0..files {
        quick.stage(&changes(schema, rng, next, file_changes)).unwrap();
        quick.publish();
        quick.flush().await.unwrap();
    }
    drop(quick);
    let lake = lake(folder).await;
    lake.load_indexes().await.unwrap();
    Arc::new(lake)
}
