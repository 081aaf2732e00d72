//! What changed between two cuts of a large table: how long it takes when little was rewritten, and
//! when all of it was, beside reading all rows of both cuts once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use datafusion::prelude::{SessionConfig, SessionContext};
use futures::{StreamExt, TryStreamExt};
use medlake_contract::{ChangeBatch, ChangeSet};
use medlake_lake::ReadView;
use rand::{SeedableRng, rngs::StdRng};

use crate::{
    lines::{changes, lines, rows},
    stage::{lake, median, peak_resident},
};

const ROWS: usize = 1_000_000;
const BATCH_ROWS: usize = 100_000;
/// Half of them inserts, half updates.
const CHANGES: usize = 20_000;
const ROUNDS: usize = 3;

pub(crate) fn run(rows: Option<usize>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure(rows.unwrap_or(ROWS)));
}

async fn measure(count: usize) {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(folder.path()).await;
    let schema = lines("mall.line");
    lake.create_tables(&[Arc::clone(&schema)]).await.unwrap();
    let keys: Vec<i64> = (0..).take(count).collect();
    for keys in keys.chunks(BATCH_ROWS) {
        let batch = ChangeBatch::inserts(Arc::clone(&schema), &rows(&schema, keys, 0)).unwrap();
        lake.stage(&ChangeSet { batches: vec![batch], ..ChangeSet::default() }).unwrap();
        lake.publish();
        lake.flush().await.unwrap();
    }
    let before = lake.read_view();
    let mut next = i64::try_from(count).unwrap();
    let set = changes(&schema, &mut StdRng::seed_from_u64(5), &mut next, CHANGES);
    lake.stage(&set).unwrap();
    let hot = lake.publish();
    lake.flush().await.unwrap();
    let flushed = lake.read_view();
    lake.compact(&[], &mut |_, _| {}).await.unwrap();
    let merged = lake.read_view();

    println!(
        "feed: {count} rows, {CHANGES} changes; rows found, ms, times as long as reading both cuts"
    );
    let both = scan(&before).await + scan(&merged).await;
    let cases = [("in memory", &hot), ("flushed", &flushed), ("all files rewritten", &merged)];
    for (name, after) in cases {
        let (mut found, mut times) = (0, Vec::new());
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let changes = after.changes_since(&before, schema.name()).unwrap();
            let counts: Vec<usize> = changes.map_ok(|b| b.ops().len()).try_collect().await.unwrap();
            found = counts.iter().sum();
            times.push(started.elapsed());
        }
        let time = median(times);
        let ratio = time.as_secs_f64() / both.as_secs_f64();
        println!("  {name:<20}{found:>8}{:>10.0}{ratio:>8.2}", time.as_secs_f64() * 1e3);
    }
    println!("  most memory ever in use: {} MB", peak_resident() >> 20);
}

/// How long it takes to read all columns of all rows.
async fn scan(view: &ReadView) -> Duration {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let context =
            SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        context.register_catalog("lake", view.catalog());
        let all = context.sql("select * from lake.mall.line").await.unwrap();
        let mut batches = all.execute_stream().await.unwrap();
        while let Some(batch) = batches.next().await {
            batch.unwrap();
        }
        times.push(started.elapsed());
    }
    median(times)
}
