//! `kill -9` at random instants under load; afterwards nothing is lost and nothing is doubled.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};

use crate::{
    platform::{self, Platform, Ports},
    recompute,
};

const KILLS: u32 = 20;

#[tokio::test]
async fn after_twenty_kills_every_value_is_right() {
    let _alone = platform::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    for kill in 0..KILLS {
        let rate = ["--rate", "150"];
        let platform = Platform::start(dir.path(), ports, &rate).await;
        // From the first instants of a start to well past a flush.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..2_500))).await;
        println!("kill {kill}");
        platform.kill();
    }
    let platform = Platform::start(dir.path(), ports, &["--no-simulate"]).await;
    platform.caught_up(Duration::from_secs(60)).await;
    let rows = recompute::tables_equal_their_sources(&platform).await;
    assert!(rows > 1_000, "the load produced only {rows} rows (seed {seed})");
    recompute::marts_equal_a_recomputation(&platform).await;

    // What is in memory and what is in files must agree: the same again, read from files alone.
    assert!(platform.stop().success());
    let platform = Platform::start(dir.path(), ports, &["--no-simulate"]).await;
    assert_eq!(recompute::tables_equal_their_sources(&platform).await, rows);
    recompute::marts_equal_a_recomputation(&platform).await;
}
