//! Changes that stream in at a steady pace while something else is done to their table: how long the
//! stream is held up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use medlake_contract::TableSchema;
use medlake_lake::Lake;
use rand::rngs::StdRng;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{lines::changes, stage::percentile};

/// Transactions a second, and changes in each.
const TRANSACTIONS: u32 = 200;
const SMALL: usize = 100;
/// How long the stream goes on alone, before and after.
const ALONE: Duration = Duration::from_secs(5);
/// The longest that anything of it may take.
const LIMIT: Duration = Duration::from_millis(200);

/// How long one transaction took.
#[derive(Clone, Copy)]
struct Seen {
    /// From its time until it was published.
    behind: Duration,
    stage: Duration,
    publish: Duration,
    /// From the call that staged it until a reader's view had it.
    visible: Duration,
    /// Whether the work went on.
    beside: bool,
}

/// Streams changes for a while, then beside `work`, then for a while again. `work` is given the lake
/// and sets the flag while what is measured goes on. Prints what it saw; gives what the work gives.
pub(crate) async fn beside<T: Send + 'static, W: Future<Output = T> + Send + 'static>(
    lake: &Arc<Lake>,
    schema: &Arc<TableSchema>,
    (rng, next): (&mut StdRng, &mut i64),
    work: impl FnOnce(Arc<Lake>, Arc<AtomicBool>) -> W,
) -> T {
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
    let flag = Arc::new(AtomicBool::new(false));
    let mut work = Some(work);
    let mut working = JoinSet::new();
    let (mut result, mut ended) = (None, None);
    let start = tokio::time::Instant::now();
    let mut turn = 0;
    let took = loop {
        let set = changes(schema, rng, next, SMALL);
        let due = start + Duration::from_secs(1) * turn / TRANSACTIONS;
        tokio::time::sleep_until(due).await;
        let staging = Instant::now();
        lake.stage(&set).unwrap();
        let publishing = Instant::now();
        let version = lake.publish().version();
        let seen = Seen {
            behind: due.elapsed(),
            stage: publishing - staging,
            publish: publishing.elapsed(),
            visible: Duration::ZERO,
            beside: flag.load(Ordering::Relaxed),
        };
        told.send((version, staging, seen)).unwrap();
        turn += 1;
        if start.elapsed() >= ALONE
            && let Some(work) = work.take()
        {
            working.spawn(work(Arc::clone(lake), Arc::clone(&flag)));
        }
        if let Some(done) = working.try_join_next() {
            result = Some(done.unwrap());
            ended = Some(Instant::now());
        }
        if ended.is_some_and(|at| at.elapsed() >= ALONE) {
            break start.elapsed();
        }
    };
    drop(told);
    report(turn, took, &reader.join_next().await.unwrap().unwrap());
    result.unwrap()
}

fn report(transactions: u32, took: Duration, all: &[Seen]) {
    println!(
        "  {TRANSACTIONS} transactions of {SMALL} changes a second: {:.0} changes/s kept of {}",
        f64::from(transactions) * SMALL as f64 / took.as_secs_f64(),
        TRANSACTIONS as usize * SMALL
    );
    let mut longest = Duration::ZERO;
    for (name, beside) in [("alone", false), ("beside", true)] {
        print!("  {name:6} p99/longest ms:");
        type Figure = (&'static str, fn(&Seen) -> Duration);
        let figures: [Figure; 4] = [
            ("stage", |s| s.stage),
            ("publish", |s| s.publish),
            ("visible", |s| s.visible),
            ("behind its time", |s| s.behind),
        ];
        for (what, of) in figures {
            let mut times: Vec<Duration> =
                all.iter().filter(|s| s.beside == beside).map(of).collect();
            times.sort();
            let Some(most) = times.last().copied() else { continue };
            if beside {
                longest = longest.max(most);
            }
            let ms = |d: Duration| d.as_secs_f64() * 1e3;
            print!(" {what} {:.1}/{:.1}", ms(percentile(&times, 99)), ms(most));
        }
        println!();
    }
    let verdict = if longest <= LIMIT { "within" } else { "OVER" };
    println!("  longest stall {longest:.1?}: {verdict} the limit of {LIMIT:.0?}");
}
