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

use std::{fmt::Write as _, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;

use crate::platform;
use faults::Buckets;
use night::{Outcome, Servers};

/// As many as CI has the minutes for, and always the same: a run that fails there fails anywhere.
const SEEDS: u64 = 6;
const FIRST_SEED: u64 = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_any_crash_every_value_is_right() {
    let _alone = platform::alone().await;
    let seeds = setting("MEDLAKE_CRASH_SEEDS").unwrap_or(SEEDS);
    let first = setting("MEDLAKE_CRASH_SEED").unwrap_or(FIRST_SEED);
    println!("{seeds} seeds from {first}");
    let mariadb = Arc::new(mariadb::Server::start().await);
    let kafka = kafka::READ.then(|| Arc::new(kafka::Server::start()));
    let mut servers = Servers { mariadb, kafka, buckets: Buckets::default() };
    let mut failed = Vec::new();
    let mut outcomes = Vec::new();
    for seed in first..first + seeds {
        let folder =
            tempfile::Builder::new().prefix(&format!("medlake-crash-{seed}-")).tempdir().unwrap();
        let night = night::run(seed, folder.path(), &mut servers);
        match AssertUnwindSafe(night).catch_unwind().await {
            Ok(Ok(outcome)) => {
                println!("{}", line(&outcome));
                outcomes.push(outcome);
            }
            failure => {
                let reason = match failure {
                    Ok(Err(reason)) => reason,
                    _ => "it panicked; see above".to_owned(),
                };
                let folder = folder.keep();
                println!("seed {seed} FAILED, see {}: {reason}", folder.display());
                failed.push(seed);
            }
        }
    }
    println!("{}", table(&outcomes));
    assert!(failed.is_empty(), "MEDLAKE_CRASH_SEED={} fails, of {failed:?}", failed[0]);
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
        "| {} | {} | {} | {} | {} | {} | {} | {} ms | {} ms |",
        outcome.seed,
        outcome.ground,
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
        "| seed | lake on | kills | other faults | transactions | alterations | values compared | \
                     recovery p50 | recovery max |\n|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    let mut total = Outcome::default();
    for outcome in outcomes {
        let _ = writeln!(table, "{}", line(outcome));
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
