//! Servers of others on 127.0.0.1, on free ports, in folders of their own; each ends with the test.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::ports::free_port;

/// How long a server may take to answer for the first time.
const READY: Duration = Duration::from_secs(90);

/// A process that ends with the value.
pub(crate) struct Server {
    name: &'static str,
    child: Child,
    log: std::path::PathBuf,
}

impl Server {
    /// Starts it; what it says goes to a file in `folder`, which is shown when it does not come up.
    pub(crate) fn start(name: &'static str, folder: &Path, mut command: Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let output = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let child = command.spawn().unwrap_or_else(|e| panic!("{name} did not start: {e}"));
        Self { name, child, log }
    }

    /// Asks again and again whether it is ready.
    pub(crate) async fn until<F: Future<Output = bool>>(&mut self, ready: impl Fn() -> F) {
        let end = Instant::now() + READY;
        while !ready().await {
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || Instant::now() > end {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                panic!("{} is not ready ({ended:?}):\n{log}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends it as if the machine had lost its power.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether it is gone.
    #[allow(dead_code, reason = "not every test asks")]
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // An orderly end, so that a server of many processes takes its children along.
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-INT", &pid]).status();
        let end = Instant::now() + Duration::from_secs(10);
        let (_silent, tick) = std::sync::mpsc::channel::<()>();
        while asked.is_ok() && matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            let _ = tick.recv_timeout(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(folder: &Path, mut command: Command) {
    command.current_dir(folder);
    let output = command.output().unwrap_or_else(|e| {
        panic!("{command:?}: {e}; run `make parts`");
    });
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}");
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout.trim_ascii() == b"0"
}

/// A database server with one empty database, `lake`.
pub(crate) struct DatabaseServer {
    pub(crate) server: Server,
    pub(crate) kind: Kind,
    pub(crate) port: u16,
    /// What it is told besides, from its next start on.
    pub(crate) more: Vec<String>,
    folder: TempDir,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    MariaDb,
}

impl DatabaseServer {
    pub(crate) async fn start(kind: Kind) -> Self {
        Self::start_with(kind, &[]).await
    }

    /// As [`Self::start`], with further arguments.
    pub(crate) async fn start_with(kind: Kind, more: &[&str]) -> Self {
        let more: Vec<String> = more.iter().map(|&argument| argument.to_owned()).collect();
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        match kind {
            Kind::Postgres => make_postgres(folder.path()),
            Kind::MariaDb => make_mariadb(folder.path()),
        }
        let mut command = command(kind, folder.path(), port);
        command.args(&more);
        let server = Server::start("database", folder.path(), command);
        let mut server = Self { server, kind, port, more, folder };
        server.ready().await;
        if kind == Kind::MariaDb {
            server.execute("create database lake").await;
        }
        server
    }

    /// After a [`Server::kill`].
    pub(crate) async fn restart(&mut self) {
        let mut command = command(self.kind, self.folder.path(), self.port);
        command.args(&self.more);
        self.server = Server::start("database", self.folder.path(), command);
        self.ready().await;
    }

    /// For one that is never dropped: a shell ends it, and clears up, when this process is gone and
    /// nobody holds the other end of the shell's input any more.
    #[allow(dead_code, reason = "most tests have servers of their own")]
    pub(crate) fn end_with_the_process(&self) {
        let mut shell = Command::new("sh");
        shell.args(["-c", "cat; kill -9 $0; while kill -0 $0; do sleep 0.1; done; rm -rf $1"]);
        shell.arg(self.server.child.id().to_string()).arg(self.folder.path());
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        std::mem::forget(shell.spawn().unwrap());
    }

    async fn ready(&mut self) {
        let (kind, port) = (self.kind, self.port);
        self.server
            .until(|| async move {
                let database = if kind == Kind::Postgres { "lake" } else { "mysql" };
                let url = url(kind, port, database);
                match kind {
                    Kind::Postgres => sqlx::PgPool::connect(&url).await.is_ok(),
                    Kind::MariaDb => sqlx::MySqlPool::connect(&url).await.is_ok(),
                }
            })
            .await;
    }

    /// The address of the database, at this port or a proxy's.
    pub(crate) fn url(&self, port: u16) -> String {
        self.url_of(port, "lake")
    }

    /// The address of any of its databases.
    #[allow(dead_code, reason = "not every test has several")]
    pub(crate) fn url_of(&self, port: u16, database: &str) -> String {
        url(self.kind, port, database)
    }

    /// Runs statements of the test's own.
    pub(crate) async fn execute(&self, sql: &str) {
        let database = if sql.starts_with("create database") { "mysql" } else { "lake" };
        let url = url(self.kind, self.port, database);
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        match self.kind {
            Kind::Postgres => {
                let pool = sqlx::PgPool::connect(&url).await.unwrap();
                sqlx::raw_sql(sql).execute(&pool).await.unwrap();
            }
            Kind::MariaDb => {
                let pool = sqlx::MySqlPool::connect(&url).await.unwrap();
                sqlx::raw_sql(sql).execute(&pool).await.unwrap();
            }
        }
    }
}

fn url(kind: Kind, port: u16, database: &str) -> String {
    let scheme = match kind {
        Kind::Postgres => "postgres",
        Kind::MariaDb => "mysql",
    };
    format!("{scheme}://medlake:geheim@127.0.0.1:{port}/{database}")
}

const POSTGRES_BIN: &str = "/usr/lib/postgresql/15/bin";

/// PostgreSQL refuses to run as root: there it runs as its own user.
fn as_postgres(program: &str) -> Command {
    let program = format!("{POSTGRES_BIN}/{program}");
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", &program]);
    command
}

fn make_postgres(folder: &Path) {
    std::fs::write(folder.join("password"), "geheim").unwrap();
    if is_root() {
        let mut chown = Command::new("chown");
        chown.args(["-R", "postgres:postgres"]).arg(folder);
        run(folder, chown);
    }
    let mut initdb = as_postgres("initdb");
    initdb.args(["--username=medlake", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]);
    initdb.arg("--no-sync").arg("--pwfile").arg(folder.join("password"));
    initdb.arg("-D").arg(folder.join("data"));
    run(folder, initdb);
    let mut create = as_postgres("postgres");
    create.args(["--single", "-D"]).arg(folder.join("data")).arg("postgres");
    let mut child = create
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"create database lake\n").unwrap();
    assert!(child.wait().unwrap().success(), "could not create a database");
}

fn make_mariadb(folder: &Path) {
    let mut install = Command::new("mariadb-install-db");
    install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
    if is_root() {
        install.arg("--user=root");
    }
    install.arg(format!("--datadir={}", folder.join("data").display()));
    // A server that starts removes what others left in the folder of temporary files.
    install.arg(format!("--tmpdir={}", folder.display()));
    run(folder, install);
    let users = "create user medlake@'127.0.0.1' identified by 'geheim';\n\
                 grant all on *.* to medlake@'127.0.0.1';\n";
    std::fs::write(folder.join("init.sql"), users).unwrap();
}

fn command(kind: Kind, folder: &Path, port: u16) -> Command {
    match kind {
        Kind::Postgres => {
            let mut command = as_postgres("postgres");
            command.arg("-D").arg(folder.join("data")).arg("-k").arg(folder);
            command.args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
            command.args(["-c", "deadlock_timeout=100ms"]);
            command
        }
        Kind::MariaDb => {
            let mut command = Command::new("mariadbd");
            command.arg("--no-defaults");
            if is_root() {
                command.arg("--user=root");
            }
            command.arg(format!("--datadir={}", folder.join("data").display()));
            command.arg(format!("--tmpdir={}", folder.display()));
            command.arg(format!("--socket={}", folder.join("my.sock").display()));
            command.arg(format!("--pid-file={}", folder.join("my.pid").display()));
            if !folder.join("started").exists() {
                std::fs::write(folder.join("started"), "").unwrap();
                command.arg(format!("--init-file={}", folder.join("init.sql").display()));
            }
            command.args(["--bind-address=127.0.0.1", "--skip-name-resolve"]);
            command.args([&format!("--port={port}"), "--character-set-server=utf8mb4"]);
            command
        }
    }
}

/// What a [`Proxy`] does with the next `commit` it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cut {
    /// It passes, and so does its answer.
    Nothing = 0,
    /// It arrives; the answer does not.
    Answer = 1,
    /// It does not arrive.
    Commit = 2,
    /// It does not arrive, and nobody hears of it: the line stays open.
    Silence = 3,
}

/// Stands between the lake and a server, and cuts the line at a chosen moment, once.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    armed: Arc<AtomicU8>,
}

impl Proxy {
    /// `word` is what a request that commits contains.
    pub(crate) fn start(to: u16, word: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let armed = Arc::new(AtomicU8::new(Cut::Nothing as u8));
        let cut = Arc::clone(&armed);
        // Ends with the test's process; it holds nothing but sockets.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let cut = Arc::clone(&cut);
                thread::spawn(move || carry(&client, &server, word, &cut));
            }
        });
        Self { port, armed }
    }

    pub(crate) fn arm(&self, cut: Cut) {
        self.armed.store(cut as u8, Ordering::SeqCst);
    }

    /// Whether the cut was made.
    pub(crate) fn has_cut(&self) -> bool {
        self.armed.load(Ordering::SeqCst) == Cut::Nothing as u8
    }
}

fn carry(client: &TcpStream, server: &TcpStream, word: &[u8], armed: &AtomicU8) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let swallow = Arc::new(AtomicU8::new(0));
    thread::scope(|scope| {
        let answers = Arc::clone(&swallow);
        scope.spawn(move || {
            let mut bytes = vec![0; 1 << 16];
            let (mut from, mut to) = (server, client);
            while let Ok(1..) = from.read(&mut bytes).map(|n| {
                let lost = answers.load(Ordering::SeqCst) == 1;
                if n > 0 && !lost && to.write_all(&bytes[..n]).is_ok() { n } else { 0 }
            }) {}
            let _ = (server.shutdown(Shutdown::Both), client.shutdown(Shutdown::Both));
        });
        let mut bytes = vec![0; 1 << 16];
        let (mut from, mut to) = (client, server);
        let mut silent = false;
        while let Ok(n @ 1..) = from.read(&mut bytes) {
            let commits = bytes[..n].windows(word.len()).any(|w| w.eq_ignore_ascii_case(word));
            let cut = if commits { armed.swap(Cut::Nothing as u8, Ordering::SeqCst) } else { 0 };
            match cut {
                1 => swallow.store(1, Ordering::SeqCst),
                2 => break,
                3 => silent = true,
                _ => {}
            }
            if !silent && to.write_all(&bytes[..n]).is_err() {
                break;
            }
        }
        let _ = (server.shutdown(Shutdown::Both), client.shutdown(Shutdown::Both));
    });
}
