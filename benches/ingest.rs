//! A database's changes on their way into the lake, measured on the real binary and a real MariaDB:
//! `make bench`. Each figure is a median of several rounds.
//!
//! - **backlog**: row changes a second from a binlog to rows that are seen, half of them updates, and
//!   peak memory; beside it Debezium's embedded engine, which only makes JSON of the same binlog.
//! - **slow storage**: the same into a bucket that takes a megabyte a second.
//! - **snapshot**: existing rows a second.
//! - **recovery**: `kill -9` until a row is seen that was committed later.
//! - **freshness**: a commit until a poller of the SQL door sees it. The poller asks for one small
//!   table over HTTP again and again, so its round trip is part of the figure; it is shown beside.
//! - **messages**: Debezium's, from a real Kafka broker to rows that are seen, with schemas and without.
//!
//! `mysql` or `kafka` after `--` measures one of them alone, `backlog` or `snapshot` one part of the
//! former, without Debezium beside it. `MEDLAKE_BENCH_CHANGES` and `MEDLAKE_BENCH_ROWS` set the size,
//! `MEDLAKE_BENCH_ROUNDS` how many rounds there are.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a measurement")]

#[path = "../ingest/tests/kafka/broker.rs"]
#[expect(dead_code, reason = "a measurement needs less of it than the tests")]
mod broker;
mod kafka;
#[path = "../tests/crash/line.rs"]
#[expect(dead_code, reason = "a measurement needs less of it than the tests")]
mod line;
#[path = "../tests/platform.rs"]
#[expect(dead_code, reason = "a measurement needs less of it than the tests")]
mod platform;
#[path = "../lake/tests/ports.rs"]
mod ports;
#[path = "../lake/tests/s3_server.rs"]
mod s3_server;
#[path = "../lake/tests/servers.rs"]
#[expect(dead_code, reason = "a measurement needs less of it than the tests")]
mod servers;
mod slow;
#[path = "../tests/sources.rs"]
#[expect(dead_code, reason = "a measurement needs less of it than the tests")]
mod sources;

use std::{
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use platform::{Platform, Ports};
use serde_json::Value;
use servers::{DatabaseServer, Kind};
use slow::Slow;
use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection};
use tokio::task::JoinSet;

const ROUNDS: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(1_800);

const BINLOG: [&str; 10] = [
    "--server-id=1001",
    "--log-bin=mysql-bin",
    "--binlog-format=ROW",
    "--binlog-row-image=FULL",
    "--binlog-row-metadata=FULL",
    "--gtid-strict-mode=ON",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-buffer-pool-size=1G",
    "--innodb-log-file-size=512M",
    "--max-connections=200",
];

/// Debezium's MySQL connector knows this version of MariaDB.
const FOR_DEBEZIUM: &str = "--version=5.7.19-MariaDB-log";

const EVENT: &str = "create table event (
    id bigint primary key, person_id int not null, order_no varchar(24) not null, status varchar(12),
    amount decimal(12,2), quantity smallint, price_fen bigint, region varchar(20), channel varchar(12),
    note varchar(60), flag tinyint, ratio double, born date, placed_at datetime(6), changed_at timestamp(6) null)";

/// Rows of one transaction of the backlog.
const STEP: u64 = 1_000;

#[tokio::main]
async fn main() {
    let changes = setting("MEDLAKE_BENCH_CHANGES", 2_000_000);
    let rows = setting("MEDLAKE_BENCH_ROWS", 5_000_000);
    println!("medlake ingest bench, {} cores", std::thread::available_parallelism().unwrap());
    if is_wanted(&["mysql", "backlog"]) {
        backlog(changes, is_wanted(&["mysql"])).await;
    }
    if is_wanted(&["mysql", "snapshot"]) {
        snapshot(rows).await;
    }
    if is_wanted(&["kafka"]) {
        kafka::backlog(changes).await;
    }
}

/// Whether one of these is named on the command line, or none is.
fn is_wanted(names: &[&str]) -> bool {
    let mut named = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    named.peek().is_none() || named.any(|word| names.contains(&word.as_str()))
}

fn rounds() -> usize {
    usize::try_from(setting("MEDLAKE_BENCH_ROUNDS", ROUNDS)).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a measurement is told its size by its environment")]
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

async fn execute(server: &DatabaseServer, sql: &[String]) {
    let url = server.url_of(server.port, "lake");
    let mut connection = MySqlConnection::connect(&url).await.unwrap();
    for sql in sql {
        let sql = AssertSqlSafe(sql.clone());
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    }
}

fn tables() -> Vec<String> {
    let pulse = "create table pulse (writer int primary key, n bigint not null)";
    vec![EVENT.to_owned(), pulse.to_owned()]
}

fn inserts(from: u64, to: u64) -> impl Iterator<Item = String> {
    (from..to).step_by(usize::try_from(STEP).unwrap()).map(move |first| {
        let last = (first + STEP - 1).min(to - 1);
        format!(
            "insert into event select seq, seq % 100000, concat('NO', lpad(seq, 14, '0')), \
             elt(seq % 4 + 1, 'new', 'paid', 'sent', 'refunded'), seq % 100000 / 7, seq % 50, seq * 3, \
             elt(seq % 3 + 1, '浙江', '江苏', '上海'), elt(seq % 2 + 1, 'app', 'store'), \
             concat('note of order ', seq), seq % 2, seq / 3, \
             date('1950-01-01') + interval (seq % 20000) day, \
             timestamp('2024-01-01') + interval (seq * 37) second, \
             timestamp('2024-01-01') + interval (seq * 31) second from seq_{first}_to_{last}"
        )
    })
}

fn updates(from: u64, to: u64) -> impl Iterator<Item = String> {
    (from..to).step_by(usize::try_from(STEP).unwrap()).map(move |first| {
        let last = (first + STEP - 1).min(to - 1);
        format!(
            "update event set status = 'done', amount = amount + 1, changed_at = '2024-06-01' \
             where id between {first} and {last}"
        )
    })
}

fn source(server: &DatabaseServer) -> Vec<(String, String)> {
    let set = |key: &str, value: String| (format!("MEDLAKE__SOURCES__ERP__{key}"), value);
    vec![set("KIND", "mysql".to_owned()), set("URL", server.url_of(server.port, "lake"))]
}

async fn until(platform: &mut Platform, sql: &str, wanted: &Value) {
    let end = Instant::now() + PATIENCE;
    while platform.ask(sql).await.as_ref() != Some(wanted) {
        if let Some(status) = platform.ended() {
            panic!("medlake ended with {status}:\n{}", platform.log());
        }
        assert!(Instant::now() < end, "{sql}: {:?}, not {wanted}", platform.ask(sql).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const NOT_STREAMING: &str =
    "select count(*) from system.ingest where source = 'erp' and state <> 'streaming'";
const STREAMING: &str =
    "select count(*) from system.ingest where source = 'erp' and state = 'streaming'";

/// A running platform that has copied all tables.
async fn copied(data: &Path, settings: &[(String, String)]) -> Platform {
    let mut platform = Platform::launch(data, Ports::free(), &["--no-simulate"], settings);
    until(&mut platform, STREAMING, &Value::from(2)).await;
    until(&mut platform, NOT_STREAMING, &Value::from(0)).await;
    platform
}

fn copy_folder(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// Events a second that Debezium reads, until there were `count`; without its start.
fn debezium(server: &DatabaseServer, folder: &Path, count: u64) -> Option<f64> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/debezium.py");
    let output = Command::new(platform::parts().join("debezium/bin/python"))
        .arg(script)
        .args([&server.port.to_string(), "lake"])
        .arg(folder)
        .arg(count.to_string())
        .current_dir(folder)
        .output()
        .expect("Debezium is installed (scripts/install-bench-parts.sh)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let read = said.lines().find_map(|line| line.strip_prefix("read "))?;
    let (events, seconds) = read.split_once(' ')?;
    Some(events.parse::<f64>().ok()? / seconds.parse::<f64>().ok()?)
}

async fn backlog(changes: u64, beside_debezium: bool) {
    let mut server = DatabaseServer::start_with(Kind::MariaDb, &BINLOG).await;
    execute(&server, &tables()).await;
    let folder = tempfile::tempdir().unwrap();
    let (before, offsets) = (folder.path().join("before"), folder.path().join("debezium"));
    std::fs::create_dir_all(&offsets).unwrap();

    // Both readers remember where the binlog ends. A row makes Debezium write its place down.
    server.more.push(FOR_DEBEZIUM.to_owned());
    server.server.kill();
    server.restart().await;
    let port = server.port;
    let mut writing = JoinSet::new();
    let url = server.url_of(port, "lake");
    writing.spawn(async move {
        let mut connection = MySqlConnection::connect(&url).await.unwrap();
        for n in 0.. {
            let sql = format!("replace into pulse values (0, {n})");
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let place = offsets.clone();
    let server = tokio::task::spawn_blocking(move || {
        if beside_debezium {
            debezium(&server, &place, 0);
        }
        server
    });
    let mut server = server.await.unwrap();
    writing.shutdown().await;
    server.more.pop();
    server.server.kill();
    server.restart().await;
    let settings = source(&server);
    // A lake knows its folder by name: it is moved away, and copied back for each round.
    let data = folder.path().join("data");
    assert!(copied(&data, &settings).await.stop().success());
    std::fs::rename(&data, &before).unwrap();
    let slow = Slow::start(&settings).await;
    let far = folder.path().join("far");
    assert!(copied(&far, &slow.settings).await.stop().success());

    let half = changes / 2;
    let started = Instant::now();
    let (inserts, updates) = (inserts(0, half).collect::<Vec<_>>(), updates(0, half));
    execute(&server, &inserts).await;
    execute(&server, &updates.collect::<Vec<_>>()).await;
    execute(&server, &["replace into pulse values (1, 1)".to_owned()]).await;
    println!("backlog of {changes} row changes of 15 columns, made in {:.1?}", started.elapsed());

    let last = "select max(n) from erp.pulse where writer = 1";
    let (mut ours, mut peak) = (Vec::new(), 0);
    for _ in 0..rounds() {
        copy_folder(&before, &data);
        let mut platform = Platform::launch(&data, Ports::free(), &["--no-simulate"], &settings);
        until(&mut platform, "select 1", &Value::from(1)).await;
        let started = Instant::now();
        until(&mut platform, last, &Value::from(1)).await;
        ours.push(changes as f64 / started.elapsed().as_secs_f64());
        peak = peak.max(platform.peak_memory_bytes());
        let count = "select count(*) from erp.event where status = 'done'";
        assert_eq!(platform.ask(count).await, Some(Value::from(half)));
        drop(platform);
        std::fs::remove_dir_all(&data).unwrap();
    }
    let ours = median(&mut ours);
    println!("  medlake, binlog to seen rows {ours:.0} changes/s, peak memory {} MiB", peak >> 20);
    slow.measure(&far, changes, last).await;
    if !beside_debezium {
        return;
    }

    server.more.push(FOR_DEBEZIUM.to_owned());
    server.server.kill();
    server.restart().await;
    let mut theirs = Vec::new();
    for round in 0..rounds() {
        let place = folder.path().join(format!("debezium{round}"));
        copy_folder(&offsets, &place);
        theirs.push(debezium(&server, &place, changes).unwrap());
    }
    let theirs = median(&mut theirs);
    println!("  Debezium's engine, binlog to JSON {theirs:.0} changes/s");
    println!("  ratio {:.1}", ours / theirs);
}

async fn snapshot(rows: u64) {
    let server = DatabaseServer::start_with(Kind::MariaDb, &BINLOG).await;
    execute(&server, &tables()).await;
    execute(&server, &inserts(0, rows).collect::<Vec<_>>()).await;
    execute(&server, &["insert into pulse values (0, 0)".to_owned()]).await;
    let settings = source(&server);
    let folder = tempfile::tempdir().unwrap();
    let mut rates = Vec::new();
    for round in 0..rounds() {
        let data = folder.path().join(format!("round{round}"));
        let started = Instant::now();
        let platform = copied(&data, &settings).await;
        rates.push(rows as f64 / started.elapsed().as_secs_f64());
        let count = platform.ask("select count(*) from erp.event").await;
        assert_eq!(count, Some(Value::from(rows)));
        if round == 0 {
            println!("snapshot of {rows} rows of 15 columns");
            println!("  peak memory {} MiB", platform.peak_memory_bytes() >> 20);
        }
        drop(platform);
        if round + 1 < rounds() {
            std::fs::remove_dir_all(&data).unwrap();
        }
    }
    println!("  {:.0} rows/s, start of the process included", median(&mut rates));
    let data = folder.path().join(format!("round{}", rounds() - 1));
    recovery(&server, &data, &settings).await;
    freshness(&server, &data, &settings).await;
}

/// A writer's rows of `pulse` when they were committed: (n, when).
type Commits = Arc<Mutex<Vec<(i64, Instant)>>>;

/// Commits a row of `event` and its number in `pulse`, so often a second, until aborted.
async fn write(url: String, writer: u64, every: Duration, commits: Commits) {
    let mut connection = MySqlConnection::connect(&url).await.unwrap();
    let start = tokio::time::Instant::now();
    let first = 1_000_000_000 * (writer + 1);
    let insert = format!("insert into pulse values ({writer}, 0) on duplicate key update n = 0");
    sqlx::raw_sql(AssertSqlSafe(insert)).execute(&mut connection).await.unwrap();
    for n in 1..u32::MAX {
        // An open loop: a slow commit does not slow the next one down.
        tokio::time::sleep_until(start + every * n).await;
        let sql = format!(
            "begin; insert into event (id, person_id, order_no, status, amount) \
             values ({}, 1, 'NO', 'new', 1.5) on duplicate key update status = 'again'; \
             update pulse set n = {n} where writer = {writer}; commit",
            first + u64::from(n)
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        commits.lock().unwrap().push((i64::from(n), Instant::now()));
    }
}

async fn recovery(server: &DatabaseServer, data: &Path, settings: &[(String, String)]) {
    let commits: Commits = Arc::default();
    let mut writers = JoinSet::new();
    let url = server.url_of(server.port, "lake");
    writers.spawn(write(url, 1, Duration::from_millis(5), Arc::clone(&commits)));
    let ports = Ports::free();
    let seen = "select max(n) from erp.pulse where writer = 1";
    let mut times = Vec::new();
    let mut platform = Platform::launch(data, ports, &["--no-simulate"], settings);
    for _ in 0..=rounds() {
        let after = commits.lock().unwrap().last().map_or(0, |(n, _)| *n);
        let started = Instant::now();
        while platform.ask(seen).await.and_then(|n| n.as_i64()).is_none_or(|n| n <= after) {
            assert!(started.elapsed() < PATIENCE, "{}", platform.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        times.push(started.elapsed().as_secs_f64());
        // Long enough for a commit of the lake and for more than that to be in memory.
        tokio::time::sleep(Duration::from_secs(8)).await;
        platform.kill();
        platform = Platform::launch(data, ports, &["--no-simulate"], settings);
    }
    // The first start was none after a kill.
    times.remove(0);
    println!("  kill -9 to the first new row seen {:.2} s", median(&mut times));
}

const WRITERS: u64 = 8;
const TRANSACTIONS_PER_SECOND: u32 = 2_000;

async fn freshness(server: &DatabaseServer, data: &Path, settings: &[(String, String)]) {
    let mut platform = Platform::launch(data, Ports::free(), &["--no-simulate"], settings);
    until(&mut platform, NOT_STREAMING, &Value::from(0)).await;
    let every = Duration::from_secs(WRITERS) / TRANSACTIONS_PER_SECOND;
    let mut writers = JoinSet::new();
    let all: Vec<Commits> = (0..WRITERS).map(|_| Commits::default()).collect();
    for (writer, commits) in (10..).zip(&all) {
        let url = server.url_of(server.port, "lake");
        writers.spawn(write(url, writer, every, Arc::clone(commits)));
    }
    // (when, the newest number of each writer)
    let mut polls: Vec<(Instant, Vec<i64>)> = Vec::new();
    let mut trips = Vec::new();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(30) {
        let sent = Instant::now();
        let rows =
            platform.rows("select n from erp.pulse where writer >= 10 order by writer").await;
        trips.push(sent.elapsed().as_secs_f64() * 1e3);
        let numbers = rows.iter().map(|row| row[0].as_i64().unwrap()).collect();
        polls.push((Instant::now(), numbers));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    writers.shutdown().await;
    let mut fresh = Vec::new();
    for (writer, commits) in all.iter().enumerate() {
        let commits = commits.lock().unwrap();
        let mut poll = 0;
        for (n, at) in commits.iter().filter(|(_, at)| *at > started) {
            while poll < polls.len() && polls[poll].1.get(writer).is_none_or(|seen| seen < n) {
                poll += 1;
            }
            if let Some((seen, _)) = polls.get(poll) {
                fresh.push(seen.saturating_duration_since(*at).as_secs_f64() * 1e3);
            }
        }
    }
    fresh.sort_by(f64::total_cmp);
    println!(
        "commit to seen by a poller of the HTTP door, {} commits in 30 s\n  p50 {:.1} ms, p99 {:.1} ms\n  \
         the poller's own round trip: p50 {:.1} ms",
        fresh.len(),
        fresh[fresh.len() / 2],
        fresh[fresh.len() * 99 / 100],
        median(&mut trips)
    );
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
