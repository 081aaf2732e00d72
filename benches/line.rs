//! The whole line, measured on the real binary: `make bench`. Each figure is a median of several
//! rounds, beside a limit taken in the same run.
//!
//! - **freshness**: an order's payment is committed until an event of the executive screen counts
//!   it, at 200 orders a second; beside it the bare round trip of an HTTP request.
//! - **screen**: all tiles of the executive screen answered, while that load runs.
//! - **replay**: order lines a second from the recorded file to the marts, and peak memory; beside
//!   it the services alone, without anyone reading their changes;
//! - **history**: 180 days of 10,000 simulated people, on the services alone.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a measurement")]

#[path = "../tests/platform.rs"]
#[expect(dead_code, reason = "a measurement needs less of it than the tests")]
mod platform;
#[path = "../lake/tests/ports.rs"]
mod ports;
#[path = "../tests/sources.rs"]
#[expect(dead_code, reason = "a measurement needs less of it than the tests")]
mod sources;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use platform::{Platform, Ports, binary, shared_data};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const ORDERS_PER_SECOND: u32 = 200;
const ROUND: Duration = Duration::from_secs(20);
const ROUNDS: usize = 3;

#[tokio::main]
async fn main() {
    println!("medlake bench, {} cores", std::thread::available_parallelism().unwrap());
    let (mut p50, mut p99, mut trip, mut screen) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let round = freshness().await;
        p50.push(round.fresh[round.fresh.len() / 2]);
        p99.push(round.fresh[round.fresh.len() * 99 / 100]);
        trip.push(round.trips[round.trips.len() / 2]);
        screen.push(round.screens[round.screens.len() * 95 / 100]);
    }
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    println!(
        "paid order to screen event at {ORDERS_PER_SECOND} orders/s, medians of {ROUNDS} rounds"
    );
    println!("  p50 {:.1} ms, p99 {:.1} ms", ms(median(&mut p50)), ms(median(&mut p99)));
    println!("  a bare HTTP round trip meanwhile: p50 {:.1} ms", ms(median(&mut trip)));
    println!("  all tiles of the screen: p95 {:.1} ms", ms(median(&mut screen)));
    replay().await;
    history();
}

/// Months of a whole hospital, by the services' own functions; what it prints has the rates.
fn history() {
    let dir = tempfile::tempdir().unwrap();
    let mut simulate = binary();
    simulate.args(["simulate", "--backfill", "180d", "--people", "10000", "--seed", "7"]);
    simulate.args(["--only-backfill", "--log", "warn", "--data"]).arg(dir.path());
    let output = simulate.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("simulated history, SQLite: {}", String::from_utf8_lossy(&output.stdout).trim());
}

fn median(values: &mut [Duration]) -> Duration {
    values.sort();
    values[values.len() / 2]
}

struct Round {
    fresh: Vec<Duration>,
    trips: Vec<Duration>,
    screens: Vec<Duration>,
}

async fn freshness() -> Round {
    let dir = tempfile::tempdir().unwrap();
    let platform = Arc::new(Platform::start(dir.path(), Ports::free(), &["--no-simulate"]).await);
    platform::shop(&platform).await;

    // (when, how many orders the screen counted)
    let seen: Arc<Mutex<Vec<(Instant, u64)>>> = Arc::default();
    let events = format!("{}/api/v1/dashboards/executive/events", platform.http);
    let mut counting = JoinSet::new();
    counting.spawn(count_events(events, Arc::clone(&seen)));

    let mut looking = JoinSet::new();
    looking.spawn(look(platform.http.clone()));
    let paid: Arc<Mutex<Vec<Instant>>> = Arc::new(Mutex::new(vec![Instant::now()]));
    let mut buyers = JoinSet::new();
    let start = tokio::time::Instant::now();
    let total = ORDERS_PER_SECOND * u32::try_from(ROUND.as_secs()).unwrap();
    for i in 0..total {
        // An open loop: a slow answer does not slow the next buyer down.
        tokio::time::sleep_until(start + Duration::from_secs(1) * i / ORDERS_PER_SECOND).await;
        let (platform, paid) = (Arc::clone(&platform), Arc::clone(&paid));
        buyers.spawn(async move {
            let order = json!({"person_id": i + 1, "pharmacy_id": 1, "channel": "app",
                               "lines": [{"product_id": 1, "quantity": 1}]});
            let order = platform.call("/mall/orders", order).await;
            let pay = format!("/mall/orders/{}/pay", order["order_id"]);
            platform.call(&pay, json!({"method": "wechat"})).await;
            paid.lock().unwrap().push(Instant::now());
        });
    }
    let (trips, screens) = looking.join_next().await.unwrap().unwrap();
    while buyers.join_next().await.is_some() {}
    let mut paid = std::mem::take(&mut *paid.lock().unwrap());
    paid.sort();
    let count = u64::try_from(paid.len()).unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while seen.lock().unwrap().last().is_none_or(|(_, n)| *n < count) {
        assert!(Instant::now() < end, "the screen never counted all {count} orders");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    counting.abort_all();
    let seen = seen.lock().unwrap();
    let fresh = paid.iter().zip(1..).filter_map(|(at, n)| {
        let shown = seen.iter().find(|(_, counted)| *counted >= n)?;
        Some(shown.0.saturating_duration_since(*at))
    });
    let mut round = Round { fresh: fresh.collect(), trips, screens };
    for values in [&mut round.fresh, &mut round.trips, &mut round.screens] {
        values.sort();
    }
    round
}

/// Five times a second while the load runs: a bare round trip, and all tiles of the screen.
async fn look(http: String) -> (Vec<Duration>, Vec<Duration>) {
    let client = reqwest::Client::new();
    let timed = async |path: &str| {
        let sent = Instant::now();
        client.get(format!("{http}{path}")).send().await.unwrap().bytes().await.unwrap();
        sent.elapsed()
    };
    let (mut trips, mut screens) = (vec![], vec![]);
    let start = Instant::now();
    while start.elapsed() < ROUND {
        trips.push(timed("/healthz").await);
        screens.push(timed("/api/v1/dashboards/executive/data").await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    (trips, screens)
}

/// Notes each event's arrival and the orders it counts, until aborted.
async fn count_events(url: String, seen: Arc<Mutex<Vec<(Instant, u64)>>>) {
    let mut stream = reqwest::get(url).await.unwrap().bytes_stream();
    let mut text = String::new();
    while let Some(Ok(bytes)) = stream.next().await {
        text.push_str(&String::from_utf8_lossy(&bytes));
        while let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            let data = event.lines().find_map(|l| l.strip_prefix("data:"));
            let Some(Ok(data)) = data.map(serde_json::from_str::<Value>) else { continue };
            if let Some(n) = data["tiles"]["orders_today"]["rows"][0][0].as_u64() {
                seen.lock().unwrap().push((Instant::now(), n));
            }
        }
    }
}

async fn replay() {
    let Some(shared) = shared_data() else { return };
    let from = shared.join("completejourney");
    let lines = 1_469_307_f64;
    let run = |data: &std::path::Path| {
        let status = binary()
            .args(["replay", "completejourney", "--log", "warn", "--from"])
            .arg(&from)
            .arg("--data")
            .arg(data)
            .status()
            .unwrap();
        assert!(status.success());
    };

    let alone = tempfile::tempdir().unwrap();
    let started = Instant::now();
    run(alone.path());
    let services = started.elapsed();
    drop(alone);

    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path(), Ports::free(), &["--no-simulate"]).await;
    let started = Instant::now();
    run(dir.path());
    platform.caught_up(Duration::from_secs(900)).await;
    let line = started.elapsed();
    println!("the complete journey, {lines} order lines, recorded file to marts");
    println!("  the whole line {:.0} lines/s ({line:.1?})", lines / line.as_secs_f64());
    println!("  the services alone {:.0} lines/s ({services:.1?})", lines / services.as_secs_f64());
    println!("  peak memory of the platform {} MiB", platform.peak_memory_bytes() >> 20);
    let sent = Instant::now();
    platform.rows("select sum(gmv_paid_fen) from marts.gmv_daily").await;
    println!("  gmv over all days {:.1} ms", sent.elapsed().as_secs_f64() * 1e3);
    let sent = Instant::now();
    let sql = "select count(*), sum(line_amount_fen) from mall.order_line";
    platform.rows(sql).await;
    println!("  sum over all order lines {:.1} ms", sent.elapsed().as_secs_f64() * 1e3);
}
