use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mysql_async::{Conn, Opts, prelude::Queryable as _};
use tempfile::TempDir;

use super::ports::free_port;
use crate::mysql::MysqlConfig;

/// How long a server may take to answer for the first time.
const READY: Duration = Duration::from_secs(60);

/// Many servers at a time take no more of the disk than they need.
const SMALL: &str = "--innodb-log-file-size=8M";

/// A MariaDB server with one empty database, `shop`, which ends with the value.
pub(super) struct Server {
    child: Child,
    folder: TempDir,
    port: u16,
    options: Vec<String>,
}

fn run(mut command: Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; run `make parts`"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().unwrap().stdout.trim_ascii() == b"0"
}

impl Server {
    pub(super) async fn start(options: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), options).await
    }

    /// In a folder that may have files for its options.
    pub(super) async fn start_in(folder: TempDir, options: &[&str]) -> Self {
        let mut install = Command::new("mariadb-install-db");
        install.args([
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ]);
        if is_root() {
            install.arg("--user=root");
        }
        install.arg(format!("--datadir={}", folder.path().join("data").display()));
        // Servers of other tests have temporary tables of the same names.
        install.arg(format!("--tmpdir={}", folder.path().display()));
        install.arg(SMALL);
        run(install);
        let init = "create database shop character set utf8mb4;\n\
                    create user cdc@'127.0.0.1' identified by 'geheim';\n\
                    grant all on *.* to cdc@'127.0.0.1';\n";
        std::fs::write(folder.path().join("init.sql"), init).unwrap();
        let port = free_port();
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        let child = spawn(&folder, port, &options, true);
        let mut server = Self { child, folder, port, options };
        server.ready().await;
        server
    }

    async fn ready(&mut self) {
        let end = Instant::now() + READY;
        while Conn::new(self.opts()).await.is_err() {
            if self.child.try_wait().unwrap().is_some() || Instant::now() > end {
                let log =
                    std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                panic!("the server is not ready:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    fn opts(&self) -> Opts {
        Opts::from_url(&self.url()).unwrap()
    }

    fn url(&self) -> String {
        format!("mysql://cdc:geheim@127.0.0.1:{}/shop?prefer_socket=false", self.port)
    }

    pub(super) fn config(&self) -> MysqlConfig {
        MysqlConfig::from_url(&self.url()).unwrap()
    }

    pub(super) async fn conn(&self) -> Conn {
        Conn::new(self.opts()).await.unwrap()
    }

    /// Runs statements, each for itself.
    pub(super) async fn run(&self, statements: &[&str]) {
        let mut conn = self.conn().await;
        for sql in statements {
            conn.query_drop(*sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
        conn.disconnect().await.unwrap();
    }

    /// Ends it as if the machine had lost its power, and starts it again.
    pub(super) async fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.folder, self.port, &self.options, false);
        self.ready().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &TempDir, port: u16, options: &[String], first: bool) -> Child {
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut command = Command::new("mariadbd");
    command.arg("--no-defaults");
    if is_root() {
        command.arg("--user=root");
    }
    if first {
        command.arg(format!("--init-file={}", path("init.sql")));
    }
    command.arg(format!("--datadir={}", path("data")));
    command.arg(format!("--tmpdir={}", folder.path().display()));
    command.arg(format!("--socket={}", path("my.sock")));
    command.arg(format!("--pid-file={}", path("my.pid")));
    command.arg(format!("--port={port}"));
    command.args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--server-id=1001"]);
    command.args(["--log-bin=mysql-bin", "--binlog-format=ROW", "--binlog-row-image=FULL"]);
    command.args(["--binlog-row-metadata=FULL", "--gtid-strict-mode=ON"]);
    command.args(["--character-set-server=utf8mb4", "--innodb-flush-log-at-trx-commit=2"]);
    command.arg(SMALL);
    command.args(options);
    let log =
        std::fs::File::options().create(true).append(true).open(folder.path().join("log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}; run `make parts`"))
}
