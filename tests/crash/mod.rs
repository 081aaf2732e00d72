//! Crash and compare: random transactions by several writers, `kill -9` at random instants, servers,
//! lines, files and catalog that fail; afterwards every value of every table is what the source
//! says, every mart what a recomputation says, and every file is named once.
//!
//! `MEDLAKE_CRASH_SEEDS` seeds, from `MEDLAKE_CRASH_SEED` on; `make crash SEEDS=200` sets them. What a
//! seed decides: the tables, each writer's transactions, what is killed and hurt, and how long after
//! what. A seed that fails is named and keeps its folder.

mod compare;
mod embedded;
mod faults;
mod kafka;
mod line;
mod load;
mod mariadb;
mod model;
mod night;
mod source;
mod sql;

use std::{collections::VecDeque, fmt::Write as _, path::PathBuf, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::platform;
use night::{Outcome, Servers};

/// As many as CI has the minutes for, and always the same: a run that fails there fails anywhere.
const SEEDS: u64 = 20;
const FIRST_SEED: u64 = 1;

/// A night takes less than a minute on a quiet machine; one that takes longer than this hangs.
const LONGEST: Duration = Duration::from_mins(15);

/// Seeds at a time. They share servers, but none that one of them may hurt.
const LANES: u64 = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_any_crash_every_value_is_right() {
    let _alone = platform::alone().await;
    let seeds = setting("MEDLAKE_CRASH_SEEDS").unwrap_or(SEEDS);
    let first = setting("MEDLAKE_CRASH_SEED").unwrap_or(FIRST_SEED);
    let lanes = setting("MEDLAKE_CRASH_LANES").unwrap_or(LANES);
    println!("{seeds} seeds from {first}");
    let servers = Arc::new(Servers::start().await);
    let mut waiting: VecDeque<u64> = (first..first + seeds).collect();
    let mut under_way = JoinSet::new();
    let mut failed = Vec::new();
    let mut outcomes = Vec::new();
    loop {
        while u64::try_from(under_way.len()).unwrap() < lanes
            && let Some(seed) = waiting.pop_front()
        {
            under_way.spawn(one(seed, Arc::clone(&servers)));
        }
        let Some(ended) = under_way.join_next().await else { break };
        match ended.unwrap() {
            Ok(outcome) => {
                println!("{}", line(&outcome));
                outcomes.push(outcome);
            }
            Err((seed, folder, reason)) => {
                println!("seed {seed} FAILED, see {}: {reason}", folder.display());
                failed.push(seed);
            }
        }
    }
    outcomes.sort_by_key(|outcome| outcome.seed);
    println!("{}", table(&outcomes));
    assert!(failed.is_empty(), "MEDLAKE_CRASH_SEED={} fails, of {failed:?}", failed[0]);
}

/// One seed in a folder of its own, which stays when it fails, together with the reason.
async fn one(seed: u64, servers: Arc<Servers>) -> Result<Outcome, (u64, PathBuf, String)> {
    let folder =
        tempfile::Builder::new().prefix(&format!("medlake-crash-{seed}-")).tempdir().unwrap();
    let mut night = JoinSet::new();
    let path = folder.path().to_owned();
    night.spawn(async move { night::run(seed, &path, &servers).await });
    match tokio::time::timeout(LONGEST, night.join_next()).await {
        Ok(Some(Ok(Ok(outcome)))) => Ok(outcome),
        Ok(Some(Ok(Err(reason)))) => Err((seed, folder.keep(), reason)),
        Err(_) => Err((seed, folder.keep(), format!("it is not over after {LONGEST:?}"))),
        Ok(_) => Err((seed, folder.keep(), "it panicked; see above".to_owned())),
    }
}

#[expect(clippy::disallowed_methods, reason = "a test is told how long to run by its environment")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn line(outcome: &Outcome) -> String {
    let mut recoveries = outcome.recoveries.clone();
    recoveries.sort();
    let ms = |d: Option<&Duration>| d.map_or(0, Duration::as_millis);
    format!(
        "| {} | {} | {} s | {} | {} | {} | {} | {} | {} ms | {} ms |",
        outcome.seed,
        outcome.ground,
        outcome.took.as_secs(),
        outcome.kills,
        outcome.faults,
        outcome.transactions,
        outcome.alterations,
        outcome.values,
        ms(recoveries.get(recoveries.len() / 2)),
        ms(recoveries.last()),
    )
}

/// One line a seed, and one for all.
fn table(outcomes: &[Outcome]) -> String {
    let mut table =
        "| seed | lake on | took | kills | other faults | transactions | alterations | values compared | \
         recovery p50 | recovery max |\n|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    let mut total = Outcome::default();
    for outcome in outcomes {
        let _ = writeln!(table, "{}", line(outcome));
        total.took += outcome.took;
        total.kills += outcome.kills;
        total.faults += outcome.faults;
        total.transactions += outcome.transactions;
        total.alterations += outcome.alterations;
        total.values += outcome.values;
        total.recoveries.extend(&outcome.recoveries);
    }
    let all = line(&total).replacen("| 0 |", &format!("| {} seeds |", outcomes.len()), 1);
    table + &all
}
