//! Starting, moving, stopping, going on; and refusing a bad configuration.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    platform::{self, Platform, Ports, binary},
    recompute, sources,
};

#[tokio::test]
async fn a_fresh_platform_moves_within_30_seconds_and_goes_on_after_a_stop() {
    let _alone = platform::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let ports = Ports::free();
    // Traffic alone: what is due of months that have passed would be done at the restart.
    let settings = [("MEDLAKE__SIMULATE__HISTORY_DAYS".to_owned(), "0".to_owned())];
    let mut platform = Platform::launch(dir.path(), ports, &["--rate", "20"], &settings);
    platform.wait_until_healthy().await;
    let paid = async |platform: &Platform| -> i64 {
        let rows = platform.rows("select coalesce(sum(orders_paid), 0) from marts.gmv_daily").await;
        rows[0][0].as_i64().unwrap()
    };
    let mut seen = vec![paid(&platform).await];
    while seen.len() < 3 {
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "no movement within 30 s: {seen:?}\n{}",
            platform.log()
        );
        let now = paid(&platform).await;
        if Some(&now) != seen.last() {
            seen.push(now);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = paid(&platform).await;
    let log = platform.log();
    assert!(log.contains("http://127.0.0.1:"), "it says where to look: {log}");
    assert!(platform.stop().success(), "SIGTERM is a clean stop");

    let platform = Platform::start(dir.path(), ports, &["--no-simulate"]).await;
    nothing_is_due(dir.path()).await;
    platform.caught_up(Duration::from_secs(30)).await;
    assert!(paid(&platform).await >= before, "nothing was lost over the restart");
    assert!(recompute::tables_equal_their_sources(&platform).await > 0);
    recompute::marts_equal_a_recomputation(&platform).await;
}

/// Waits until the mall has done what the clock asks for: rows that change meanwhile cannot be compared.
async fn nothing_is_due(data: &std::path::Path) {
    let end = Instant::now() + Duration::from_secs(30);
    let due = "select count(*) from orders where due_at <= unixepoch() * 1000000";
    let mut mall = sources::open(data, "mall").await;
    while sources::rows(&mut mall, due).await != [[json!(0)]] {
        assert!(Instant::now() < end, "orders stay due");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_order_paid_over_http_is_in_every_door_at_once() {
    let _alone = platform::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::quiet(dir.path()).await;
    let order = platform::shop(&platform).await;
    platform.caught_up(Duration::from_secs(10)).await;
    let payable = order["payable_fen"].as_i64().unwrap();
    let sql =
        "select sum(orders_paid), sum(cash_paid_fen + shipping_paid_fen) from marts.gmv_daily";
    assert_eq!(platform.rows(sql).await, vec![vec![json!(1), json!(payable)]]);
    assert_eq!(platform.psql(sql), [format!("1|{payable}")]);
    // It has come since, and was not there before.
    let changes = "select _change_type, payable_fen from changes('mall.orders', '2000-01-01')";
    assert_eq!(platform.psql(changes), [format!("INSERT|{payable}")]);
    let before = "select count(*) from mall.orders for system_time as of '2000-01-01'";
    assert_eq!(platform.psql(before), ["0"]);
    let metrics = json!({"metrics": ["orders_paid", "aov"], "dimensions": ["channel"]});
    let (status, answer) =
        platform.post(&format!("{}/api/v1/metrics/query", platform.http), &metrics).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["rows"].as_array().unwrap().len(), 1, "{answer}");
    assert!(answer["sql"].as_str().unwrap().contains("gmv_daily"), "{answer}");
}

#[tokio::test]
async fn the_parts_run_apart_as_well_as_together() {
    let _alone = platform::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::apart(dir.path(), Ports::free()).await;
    platform::shop(&platform).await;
    // The doors are a process of their own: they see what the pipeline has committed.
    platform.caught_up(Duration::from_secs(30)).await;
    assert_eq!(platform.psql("select sum(orders_paid) from marts.gmv_daily"), ["1"]);
    assert!(recompute::tables_equal_their_sources(&platform).await > 0);
    recompute::marts_equal_a_recomputation(&platform).await;
}

#[tokio::test]
async fn a_stop_while_it_starts_is_no_failure() {
    let _alone = platform::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    for moment in [0, 100, 300, 700, 1_500] {
        let mut platform = Platform::launch(dir.path(), ports, &["--no-simulate"], &[]);
        // Only before its first instruction of ours a signal finds nobody.
        while !platform.catches_sigterm() {
            assert_eq!(platform.ended(), None, "{}", platform.log());
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(moment)).await;
        let status = platform.stop();
        assert!(status.success(), "stopped after {moment} ms: {status}");
    }
    // Whatever was begun, it starts.
    Platform::start(dir.path(), ports, &["--no-simulate"]).await;
}

#[test]
fn a_bad_configuration_names_every_problem_and_ends_with_2() {
    let output = binary()
        .args(["up", "--data", "/dev/null/nowhere"])
        .env("MEDLAKE__QUERY__HTTP", "here")
        .env("MEDLAKE__SIMULATE__ORDERS_PER_SECOND", "-3")
        .env("MEDLAKE__LAKE__FLUSH_INTERVALL_MS", "10")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    for part in ["query.http", "simulate.orders_per_second", "lake.flush_intervall_ms"] {
        assert!(said.contains(part), "{part} in: {said}");
    }
    let unknown = binary().args(["up", "--no-such-flag"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
}
