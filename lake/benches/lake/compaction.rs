//! A thousand small files are merged while 20,000 changes a second stream in: how long the stream is
//! ever held up. Limit: 200 ms.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use medlake_lake::{CompactReport, Durability, Lake, LakeConfig};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    lines::{changes, lines},
    stage::{self, percentile},
};

const FILES: usize = 1_000;
/// Changes flushed into each of them.
const FILE_CHANGES: usize = 2_000;
/// Transactions a second, and changes in each.
const TRANSACTIONS: u32 = 200;
const SMALL: usize = 100;
const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// How long the stream goes on alone, before and after.
const ALONE: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_millis(200);

/// How long one transaction took.
#[derive(Clone, Copy)]
struct Seen {
    /// From its time until it was published.
    taken: Duration,
    stage: Duration,
    publish: Duration,
    /// From the call that staged it until a reader's view had it.
    visible: Duration,
    merging: bool,
}

pub(crate) fn run(files: Option<usize>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(measure(files.unwrap_or(FILES)));
}

async fn measure(files: usize) {
    let folder = tempfile::tempdir().unwrap();
    let schema = lines("mall.line");
    let mut rng = StdRng::seed_from_u64(4);
    let mut next = 0;
    // Nobody waits for the disk here.
    let config = LakeConfig { durability: Durability::Process, ..stage::unmerged(folder.path()) };
    let lake = Lake::open(config).await.unwrap();
    lake.create_tables(&[Arc::clone(&schema)]).await.unwrap();
    for _ in 0..files {
        lake.stage(&changes(&schema, &mut rng, &mut next, FILE_CHANGES)).unwrap();
        lake.publish();
        lake.flush().await.unwrap();
    }
    drop(lake);
    let lake = Arc::new(stage::lake(folder.path()).await);
    lake.load_indexes().await.unwrap();

    let mut views = lake.watch();
    let (told, mut heard) = mpsc::unbounded_channel::<(u64, Instant, Seen)>();
    let mut reader = JoinSet::new();
    reader.spawn(async move {
        let mut all = Vec::new();
        while let Some((version, staged, seen)) = heard.recv().await {
            views.wait_for(|view| view.version() >= version).await.unwrap();
            all.push(Seen { visible: staged.elapsed(), ..seen });
        }
        all
    });
    // Ends with this function.
    let mut flusher = JoinSet::<()>::new();
    let flushed = Arc::clone(&lake);
    flusher.spawn(async move {
        loop {
            tokio::time::sleep(FLUSH_EVERY).await;
            flushed.flush().await.unwrap();
        }
    });
    let merging = Arc::new(AtomicBool::new(false));
    let mut merger = JoinSet::new();
    let (mut report, mut took, mut ended) = (CompactReport::default(), Duration::ZERO, None);
    let start = tokio::time::Instant::now();
    let mut version = lake.read_view().version();
    let (mut turn, mut begun) = (0, false);
    let done = loop {
        let set = changes(&schema, &mut rng, &mut next, SMALL);
        let due = start + Duration::from_secs(1) * turn / TRANSACTIONS;
        tokio::time::sleep_until(due).await;
        let staging = Instant::now();
        lake.stage(&set).unwrap();
        let publishing = Instant::now();
        version += 1;
        assert_eq!(lake.publish().version(), version);
        let seen = Seen {
            taken: due.elapsed(),
            stage: publishing - staging,
            publish: publishing.elapsed(),
            visible: Duration::ZERO,
            merging: merging.load(Ordering::Relaxed),
        };
        told.send((version, staging, seen)).unwrap();
        turn += 1;
        if !begun && start.elapsed() >= ALONE {
            begun = true;
            merging.store(true, Ordering::Relaxed);
            let (lake, merging) = (Arc::clone(&lake), Arc::clone(&merging));
            merger.spawn(async move {
                let started = Instant::now();
                let report = compact(&lake).await;
                merging.store(false, Ordering::Relaxed);
                (report, started.elapsed())
            });
        }
        if let Some(merged) = merger.try_join_next() {
            (report, took) = merged.unwrap();
            ended = Some(Instant::now());
        }
        if ended.is_some_and(|at| at.elapsed() >= ALONE) {
            break start.elapsed();
        }
    };
    drop(told);
    let all = reader.join_next().await.unwrap().unwrap();

    println!("compaction: {files} files, {TRANSACTIONS} transactions of {SMALL} changes a second");
    println!(
        "  merged {} files and {} delete files into {} in {:.1} s",
        report.merged_files,
        report.merged_delete_files,
        report.written_files,
        took.as_secs_f64()
    );
    println!(
        "  throughput kept: {:.0} of {} changes/s",
        f64::from(turn) * SMALL as f64 / done.as_secs_f64(),
        TRANSACTIONS as usize * SMALL
    );
    let mut longest = Duration::ZERO;
    for (name, merging) in [("alone", false), ("merging", true)] {
        print!("  {name:8} p99/longest ms:");
        type Figure = (&'static str, fn(&Seen) -> Duration);
        let figures: [Figure; 4] = [
            ("stage", |s| s.stage),
            ("publish", |s| s.publish),
            ("visible", |s| s.visible),
            ("behind its time", |s| s.taken),
        ];
        for (what, of) in figures {
            let mut times: Vec<Duration> =
                all.iter().filter(|s| s.merging == merging).map(of).collect();
            times.sort();
            let ms = |d: Duration| d.as_secs_f64() * 1e3;
            let most = times.last().copied().unwrap_or_default();
            if merging {
                longest = longest.max(most);
            }
            print!(" {what} {:.1}/{:.1}", ms(percentile(&times, 99)), ms(most));
        }
        println!();
    }
    let verdict = if longest <= LIMIT { "within" } else { "OVER" };
    println!("  longest stall {:.1?}: {verdict} the limit of {LIMIT:.0?}", longest);
}

async fn compact(lake: &Lake) -> CompactReport {
    lake.compact(&[], &mut |_, _| {}).await.unwrap()
}
