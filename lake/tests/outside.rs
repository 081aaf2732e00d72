//! Tables that every source transaction keeps equal, seen from outside while they change.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

use medlake_lake::LakeConfig;
use tokio::sync::mpsc;

use crate::{
    fixtures::{self, clock, orders},
    parts,
    rest::{both, returns},
};

/// Rounds the readers make.
const ROUNDS: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_outside_never_see_a_part_of_a_transaction() {
    let folder = tempfile::tempdir().unwrap();
    let config = LakeConfig {
        small_file_count: 4,
        // The clock of tests runs fast.
        keep_snapshots_micros: 86_400_000_000,
        ..LakeConfig::new(folder.path(), clock())
    };
    let lake = medlake_lake::Lake::open(config).await.unwrap();
    lake.create_tables(&[orders(), returns()]).await.unwrap();
    fixtures::write(&lake, &both(0..500, 1, 1)).await;

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/readers/watch_sums.py");
    let mut reader = parts::readers("python")
        .arg(script)
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    let (send, mut seen) = mpsc::unbounded_channel();
    // Ends with the reader.
    let listener = std::thread::spawn(move || {
        lines.map_while(Result::ok).for_each(|line| drop(send.send(line)));
    });

    // Rows come, change and are merged, while nobody waits for the readers.
    let (mut rounds, mut merged) = (Vec::new(), 0);
    let mut step = 1;
    while rounds.len() < ROUNDS {
        step += 1;
        let first = i64::try_from(step * 37 % 700).unwrap();
        lake.stage(&both(first..first + 50, i64::try_from(step).unwrap(), step)).unwrap();
        lake.publish();
        lake.flush().await.unwrap();
        if step % 4 == 0 {
            merged += lake.maintain().await.unwrap().compaction.merged_files;
        }
        loop {
            match seen.try_recv() {
                Ok(line) => rounds.push(line),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(gone) => panic!("the reader ended ({gone}): {:?}", reader.try_wait()),
            }
        }
    }
    drop(reader.stdin.take());
    assert!(reader.wait().unwrap().success());
    listener.join().unwrap();

    assert!(merged > 0);
    for name in ["pyiceberg", "duckdb"] {
        let rounds = rounds.iter().filter_map(|round| round.strip_prefix(name));
        let states: BTreeSet<&str> = rounds.collect();
        assert!(states.len() > 5, "{name} saw nothing change: {states:?}");
        for state in states {
            let numbers: Vec<&str> = state.split_whitespace().collect();
            assert_eq!(numbers[..2], numbers[2..], "{name}");
        }
    }
}
