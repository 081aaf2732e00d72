//! The real binary on a data folder of its own, and the few ways a test talks to it.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::ports::free_port;

/// One running `medlake`, killed when dropped.
pub(crate) struct Platform {
    pub(crate) child: Child,
    /// The other processes, when the parts run apart.
    beside: Vec<Child>,
    pub(crate) data: PathBuf,
    pub(crate) services: String,
    pub(crate) http: String,
    pub(crate) postgres_port: u16,
    client: reqwest::Client,
}

/// Held by a test while it runs a platform: several at once on two cores would measure each other.
pub(crate) async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ALONE.lock().await
}

/// The ports of one platform; kept over restarts, so that clients find it again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    services: u16,
    http: u16,
    postgres: u16,
}

impl Ports {
    pub(crate) fn free() -> Self {
        Self { services: free_port(), http: free_port(), postgres: free_port() }
    }
}

pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_medlake"));
    command.stdin(Stdio::null());
    command
}

/// What `medlake <arguments>` says of this data folder, and whether it ended well.
pub(crate) fn said(data: &Path, arguments: &[&str]) -> (bool, String) {
    let output =
        binary().args(["--log", "error"]).args(arguments).arg("--data").arg(data).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// Settings as environment variables.
pub(crate) type Settings = [(String, String)];

/// Settings of services on a server, whose file of master keys is in a folder.
pub(crate) fn on_server(url: String, keys: &Path) -> [(String, String); 2] {
    let file = keys.join("master.keys").display().to_string();
    [
        ("MEDLAKE__OPERATIONAL__URL".to_owned(), url),
        ("MEDLAKE__OPERATIONAL__KEY_FILE".to_owned(), file),
    ]
}

/// A process of the platform on this data folder; what it says goes to `up.log` there.
fn spawn(data: &Path, ports: Ports, arguments: &[&str], settings: &Settings) -> Child {
    std::fs::create_dir_all(data).unwrap();
    let log = File::options().create(true).append(true).open(data.join("up.log")).unwrap();
    binary()
        .args(arguments)
        .arg("--data")
        .arg(data)
        .env("MEDLAKE__OPERATIONAL__LISTEN", format!("127.0.0.1:{}", ports.services))
        .env("MEDLAKE__QUERY__HTTP", format!("127.0.0.1:{}", ports.http))
        .env("MEDLAKE__QUERY__POSTGRES", format!("127.0.0.1:{}", ports.postgres))
        .envs(settings.iter().cloned())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("the medlake binary starts")
}

/// Waits until there is something at this path.
async fn wait_for(path: &Path) {
    let end = Instant::now() + Duration::from_secs(30);
    while !path.exists() {
        assert!(Instant::now() < end, "{} does not appear", path.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Platform {
    /// Starts `medlake up` on `data` without traffic and waits until it answers.
    pub(crate) async fn quiet(data: &Path) -> Self {
        Self::start(data, Ports::free(), &["--no-simulate"]).await
    }

    /// Starts `medlake up` with these further arguments and waits until it answers.
    pub(crate) async fn start(data: &Path, ports: Ports, arguments: &[&str]) -> Self {
        let mut platform = Self::launch(data, ports, arguments, &[]);
        platform.wait_until_healthy().await;
        platform
    }

    /// Starts `medlake up` with these further arguments and settings, and waits for nothing.
    pub(crate) fn launch(data: &Path, ports: Ports, arguments: &[&str], more: &Settings) -> Self {
        let child = spawn(data, ports, &[&["up"], arguments].concat(), more);
        Self::around(child, Vec::new(), data, ports)
    }

    /// Starts services, pipeline and doors as three processes and waits until the doors answer.
    pub(crate) async fn apart(data: &Path, ports: Ports) -> Self {
        let services = spawn(data, ports, &["operational"], &[]);
        wait_for(&data.join("operational/chronic_care.db")).await;
        let pipeline = spawn(data, ports, &["pipeline"], &[]);
        let doors = spawn(data, ports, &["serve"], &[]);
        let mut platform = Self::around(doors, vec![pipeline, services], data, ports);
        platform.wait_until_healthy().await;
        platform
    }

    /// Starts the doors alone, over what is committed, and waits until they answer.
    pub(crate) async fn doors(data: &Path, ports: Ports) -> Self {
        let mut platform = Self::around(spawn(data, ports, &["serve"], &[]), vec![], data, ports);
        platform.wait_until_healthy().await;
        platform
    }

    /// Starts the services alone and waits until they answer.
    pub(crate) async fn services(data: &Path, ports: Ports) -> Self {
        let services = spawn(data, ports, &["operational"], &[]);
        let mut platform = Self::around(services, vec![], data, ports);
        platform.http = platform.services.clone();
        platform.wait_until_healthy().await;
        platform
    }

    fn around(child: Child, beside: Vec<Child>, data: &Path, ports: Ports) -> Self {
        Self {
            child,
            beside,
            data: data.to_owned(),
            services: format!("http://127.0.0.1:{}", ports.services),
            http: format!("http://127.0.0.1:{}", ports.http),
            postgres_port: ports.postgres,
            client: reqwest::Client::new(),
        }
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// The first cell of a statement's answer; none while nobody answers.
    pub(crate) async fn ask(&self, sql: &str) -> Option<Value> {
        let url = format!("{}/api/v1/sql", self.http);
        let answer = self.client.post(url).json(&json!({ "sql": sql })).send().await.ok()?;
        let answer: Value = answer.json().await.ok()?;
        answer["rows"].get(0)?.get(0).cloned()
    }

    /// Waits until it answers.
    pub(crate) async fn wait_until_healthy(&mut self) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok(answer) = self.client.get(format!("{}/healthz", self.http)).send().await
                && answer.status().is_success()
            {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("medlake ended with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < end, "medlake does not answer:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the process wrote so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.data.join("up.log")).unwrap_or_default()
    }

    /// `kill -9`: the process gets no chance to do anything.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the status it ends with.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap()
    }

    /// What the kernel says of the process.
    fn status(&self, of: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(of)).unwrap_or_default();
        line.split_whitespace().next().unwrap_or_default().to_owned()
    }

    /// Peak resident memory of the process so far, in bytes.
    pub(crate) fn peak_memory_bytes(&self) -> u64 {
        self.status("VmHWM:").parse::<u64>().unwrap() * 1024
    }

    /// Whether a SIGTERM is no longer the end of it right away.
    pub(crate) fn catches_sigterm(&self) -> bool {
        const SIGTERM: u32 = 15;
        let caught = u64::from_str_radix(&self.status("SigCgt:"), 16).unwrap_or(0);
        caught & (1 << (SIGTERM - 1)) != 0
    }

    /// Sends JSON to the services or the query server; the status and the JSON answered.
    pub(crate) async fn post(&self, url: &str, body: &Value) -> (u16, Value) {
        let answer = self.client.post(url).json(body).send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        let json = serde_json::from_str(&text)
            .unwrap_or_else(|_| panic!("{url} answered {status} without JSON: {text}"));
        (status, json)
    }

    /// What the services answer to a GET; nothing when they refuse.
    pub(crate) async fn get(&self, path: &str) -> String {
        let answer = self.client.get(format!("{}{path}", self.services)).send().await.unwrap();
        if answer.status().is_success() { answer.text().await.unwrap() } else { String::new() }
    }

    /// A call to the services that must succeed.
    pub(crate) async fn call(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.post(&format!("{}{path}", self.services), &body).await;
        assert!((200..300).contains(&status), "{path} answered {status}: {answer}");
        answer
    }

    /// The whole answer of a statement that must succeed.
    pub(crate) async fn query(&self, sql: &str) -> Value {
        let url = format!("{}/api/v1/sql", self.http);
        let (status, answer) = self.post(&url, &json!({ "sql": sql })).await;
        assert_eq!(status, 200, "{sql}: {answer}\n{}", self.log());
        answer
    }

    /// The rows of a statement that must succeed.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<Vec<Value>> {
        serde_json::from_value(self.query(sql).await["rows"].clone()).unwrap()
    }

    /// The rows of a statement as psql prints them, cells separated by `|`.
    pub(crate) fn psql(&self, sql: &str) -> Vec<String> {
        let output = self.psql_output(sql);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// What psql makes of a statement; its errors with their SQLSTATE.
    pub(crate) fn psql_output(&self, sql: &str) -> std::process::Output {
        self.psql_with(&[sql], &[])
    }

    /// As [`Self::psql_output`] of several commands, told further things.
    pub(crate) fn psql_with(&self, commands: &[&str], more: &[&str]) -> std::process::Output {
        Command::new("psql")
            .args(more)
            .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"])
            .args(["-h", "127.0.0.1"])
            .args(["-p", &self.postgres_port.to_string(), "-U", "analyst"])
            .args(commands.iter().flat_map(|command| ["-c", command]))
            .arg("medlake")
            .output()
            .expect("psql is installed (make parts)")
    }

    /// The position of each source in the newest published view.
    pub(crate) async fn positions(&self) -> BTreeMap<String, String> {
        let answer = self.query("select 1 as one").await;
        serde_json::from_value(answer["view"]["positions"].clone()).unwrap()
    }

    /// Waits until everything the services have committed is visible to queries.
    pub(crate) async fn caught_up(&self, patience: Duration) {
        let end = Instant::now() + patience;
        loop {
            let wanted = crate::sources::last_changes(&self.data).await;
            let visible = self.positions().await;
            let behind: Vec<_> =
                wanted.iter().filter(|(source, at)| visible.get(*source) != Some(at)).collect();
            if behind.is_empty() {
                return;
            }
            assert!(
                Instant::now() < end,
                "still behind: {behind:?}, visible: {visible:?}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // Already ended is fine: a test that stopped it has waited for it.
        for child in std::iter::once(&mut self.child).chain(&mut self.beside) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Data published by others, kept beside the checkout. In CI it must be there.
#[expect(clippy::disallowed_methods, reason = "a test finds its data where the environment says")]
pub(crate) fn shared_data() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let data = std::env::var_os("MEDLAKE_SHARED").map_or(beside, PathBuf::from).join("data");
    if data.is_dir() {
        return Some(data.canonicalize().unwrap());
    }
    assert!(std::env::var_os("CI").is_none(), "no shared data at {}", data.display());
    eprintln!("skipped: no shared data");
    None
}

/// The folder that `scripts/install-test-parts.sh` fills.
#[expect(clippy::disallowed_methods, reason = "a test finds its parts where the environment says")]
pub(crate) fn parts() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set"));
    std::env::var_os("MEDLAKE_CACHE").map_or_else(|| home().join(".cache/medlake"), PathBuf::from)
}

/// Sets up a pharmacy, two products and a coupon, and buys: an order of two lines, paid. Answers
/// the paid order.
pub(crate) async fn shop(platform: &Platform) -> Value {
    let pharmacy =
        platform.call("/mall/pharmacies", json!({"name": "药房 001", "region": "浙江"})).await;
    let mut lines = Vec::new();
    for (name, price) in [("氨氯地平片 5mg", 2_000), ("血压计", 15_000)] {
        let product = platform
            .call(
                "/mall/products",
                json!({"name": name, "kind": "otc", "category": "心血管", "unit_price_fen": price,
                       "return_policy": "quality_only", "tracks_stock": false}),
            )
            .await;
        lines.push(json!({"product_id": product["product_id"], "quantity": 2}));
    }
    let order = json!({"person_id": 1, "pharmacy_id": pharmacy["pharmacy_id"], "channel": "app",
                       "shipping_fen": 800, "lines": lines});
    let order = platform.call("/mall/orders", order).await;
    let path = format!("/mall/orders/{}", order["order_id"]);
    platform.call(&format!("{path}/pay"), json!({"method": "wechat"})).await;
    let answer = reqwest::get(format!("{}{path}", platform.services)).await.unwrap();
    answer.json().await.unwrap()
}
