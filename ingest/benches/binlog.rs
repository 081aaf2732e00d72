//! How fast the binlog of a server on this machine becomes change batches: a backlog of transactions
//! over 15 columns, half of its changes updates, read on one core beside the server.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use medlake_ingest::{
    AnySource, Budget, CutLimits, DatabaseSettings, Ingest, MysqlConfig, Resume, states_in,
    states_table,
};
use mysql_async::{Conn, Opts, prelude::Queryable as _};

const ROWS: usize = 300_000;
/// Rows that one statement changes.
const STATEMENT: usize = 100;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn server(folder: &std::path::Path) -> anyhow::Result<(Server, String)> {
    let data = format!("--datadir={}", folder.join("data").display());
    let temporary = format!("--tmpdir={}", folder.display());
    let install = Command::new("mariadb-install-db")
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .args(["--user=root", &data, &temporary])
        .output()?;
    anyhow::ensure!(install.status.success(), "no server: {install:?}");
    let init = folder.join("init.sql");
    std::fs::write(
        &init,
        "create database shop;\ncreate user cdc@'127.0.0.1' identified by 'geheim';\n\
         grant all on *.* to cdc@'127.0.0.1';\n",
    )?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let child = Command::new("mariadbd")
        .args(["--no-defaults", "--user=root", &data, &temporary])
        .arg(format!("--socket={}", folder.join("s").display()))
        .arg(format!("--pid-file={}", folder.join("p").display()))
        .arg(format!("--init-file={}", init.display()))
        .args([&format!("--port={port}"), "--bind-address=127.0.0.1", "--server-id=1001"])
        .args(["--log-bin=mysql-bin", "--binlog-format=ROW", "--binlog-row-metadata=FULL"])
        .args(["--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let server = Server(child);
    let url = format!("mysql://cdc:geheim@127.0.0.1:{port}/shop");
    let end = Instant::now() + Duration::from_secs(60);
    while Conn::new(Opts::from_url(&format!("{url}?prefer_socket=false"))?).await.is_err() {
        anyhow::ensure!(Instant::now() < end, "the server is not ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok((server, url))
}

fn source(url: &str) -> anyhow::Result<AnySource> {
    let settings =
        DatabaseSettings::new(Budget::new(256 << 20), std::env::temp_dir(), Arc::new(|| 0));
    Ok(AnySource::mysql("erp", &MysqlConfig::from_url(url)?, 1, settings))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (_server, url) = server(folder.path()).await?;
    let mut conn = Conn::new(Opts::from_url(&format!("{url}?prefer_socket=false"))?).await?;
    conn.query_drop(
        "create table visit (id bigint primary key, patient int unsigned, doctor int, \
         department smallint, kind tinyint, fee decimal(12,2), paid decimal(12,2), rate double, \
         begun_at datetime(3), ended_at timestamp(6) null, day date, name varchar(40), \
         note varchar(100), state enum('open','done'), flag bit(1))",
    )
    .await?;
    // First contact, with an empty table.
    let mut resume = Resume::default();
    let mut ingest = Ingest::open(vec![source(&url)?], &resume).await?;
    while resume.positions.is_empty()
        || resume.states.iter().all(|s| s.phase.as_str() != "streaming")
    {
        let set = ingest.next(CutLimits::default()).await?;
        resume.positions.extend(set.positions);
        let states = set.batches.iter().filter(|b| b.table().name() == states_table().name());
        for batch in states {
            resume.states = states_in(batch.after());
        }
        resume.tables = ingest.tables();
    }
    drop(ingest);
    for start in (0..ROWS).step_by(STATEMENT) {
        let end = start + STATEMENT - 1;
        conn.query_drop(format!(
            "insert into visit select seq, seq % 90000, seq % 700, seq % 40, seq % 5, seq / 100, \
             seq / 200, seq / 7, '2024-03-01 10:00:00.123', '2024-03-01 11:00:00.123456', \
             '2024-03-01', concat('patient ', seq), repeat('note ', seq % 12), 'open', b'1' \
             from seq_{start}_to_{end}"
        ))
        .await?;
        conn.query_drop(format!(
            "update visit set paid = fee, state = 'done', note = 'paid' \
             where id between {start} and {end}"
        ))
        .await?;
    }
    let mut ingest = Ingest::open(vec![source(&url)?], &resume).await?;
    let begun = Instant::now();
    let mut rows = 0;
    let mut bytes = 0;
    while rows < 2 * ROWS {
        let next = tokio::time::timeout(Duration::from_secs(60), ingest.next(CutLimits::default()));
        let set = next.await.context("the backlog ends early")??;
        let changes = set.batches.iter().filter(|b| b.table().name().table() == "visit");
        for batch in changes {
            rows += batch.ops().len();
            bytes += batch.memory_bytes();
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let per_second = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds;
    eprintln!(
        "binlog to change batches: {rows} changes of 15 columns in {seconds:.2} s, {:.0} changes/s, \
         {:.0} MB/s of columns",
        per_second(rows),
        per_second(bytes) / 1e6
    );
    Ok(())
}
