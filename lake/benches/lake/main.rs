//! What the lake costs, each figure beside a peer or a limit taken in the same run:
//! `cargo bench -p medlake-lake --profile dev --bench lake -- SUBJECT [ROWS]`.
//!
//! Figures are medians of interleaved rounds; on a busy machine only their ratios say anything.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a measurement")]

mod changes;
mod commits;
mod compaction;
mod feed;
mod lines;
mod peer;
mod planning;
mod reopen;
mod scan;
mod stage;
mod stream;

/// What can be measured; gets the number of rows asked for.
type Subject = fn(Option<usize>);

const SUBJECTS: &[(&str, Subject)] = &[
    ("changes", changes::throughput),
    ("latency", changes::latency),
    ("commits", commits::run),
    ("compaction", compaction::run),
    ("feed", feed::run),
    ("planning", planning::run),
    ("rewrite", compaction::rewrite),
    ("reopen", reopen::run),
    ("scan", scan::run),
];

fn main() {
    // Cargo passes `--bench` of its own.
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let wanted = words.next();
    let rows = words.next().map(|rows| rows.parse().unwrap());
    let cores = std::thread::available_parallelism().unwrap();
    println!("lake bench, {cores} cores, {}", stage::optimisation());
    for (name, subject) in SUBJECTS {
        if wanted.as_deref().is_none_or(|wanted| wanted == *name) {
            subject(rows);
        }
    }
}
