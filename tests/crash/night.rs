//! One seed: the platform, its sources and all that happens to them.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use tokio::{sync::Mutex, task::JoinSet};

use super::{
    compare::{self, Engines},
    embedded::Embedded,
    faults::{Buckets, Ground},
    kafka::{self, Kafka},
    load::{LAST, Load},
    mariadb::{self, MariaDb},
    model::{Key, Table},
    source::Source,
};
use crate::{
    platform::{Platform, Ports, Settings, binary},
    recompute,
};

/// How many things happen to a seed.
const EVENTS: u32 = 4;

/// Every so many seeds other engines read the lake too.
const ENGINES: u64 = 5;

/// How long a new row may take to be seen after a kill while writers write: on a machine that has much
/// else to do they may be faster than what follows them. Then they are held.
const UNDER_LOAD: Duration = Duration::from_secs(5);
/// How long it may take when nobody writes.
const RECOVERY: Duration = Duration::from_secs(300);

/// What became of one seed, or of several.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    /// Where the lake is.
    pub(crate) ground: &'static str,
    pub(crate) took: Duration,
    pub(crate) kills: u32,
    pub(crate) faults: u32,
    pub(crate) transactions: u64,
    pub(crate) alterations: u64,
    pub(crate) values: usize,
    /// From a kill to the first row that was committed later and is seen.
    pub(crate) recoveries: Vec<Duration>,
}

/// The servers of all seeds. Those that may be killed have one seed at a time.
pub(crate) struct Servers {
    mariadb: Mutex<Arc<mariadb::Server>>,
    kafka: Mutex<Arc<kafka::Server>>,
    buckets: Mutex<Buckets>,
    engines: Mutex<Option<Engines>>,
}

impl Servers {
    pub(crate) async fn start() -> Self {
        let kafka = tokio::task::spawn_blocking(kafka::Server::start);
        let mariadb = Arc::new(mariadb::Server::start().await);
        Self {
            mariadb: Mutex::new(mariadb),
            kafka: Mutex::new(Arc::new(kafka.await.unwrap())),
            buckets: Mutex::default(),
            engines: Mutex::default(),
        }
    }
}

/// # Errors
/// What is not as it should be.
pub(crate) async fn run(seed: u64, folder: &Path, servers: &Servers) -> Result<Outcome, String> {
    // Each seed has a database or a broker beside the embedded one, every fifth both: with all three
    // the machine would have more to write than to compare.
    let both = seed.is_multiple_of(5);
    let mariadb = match both || seed.is_multiple_of(2) {
        true => Some(servers.mariadb.lock().await),
        false => None,
    };
    let kafka = match both || !seed.is_multiple_of(2) {
        true => Some(servers.kafka.lock().await),
        false => None,
    };
    let began = Instant::now();
    let mut random = StdRng::seed_from_u64(seed);
    let data = folder.join("data");
    let ground = match random.random_range(0..4) {
        0 => Ground::small(&data),
        1 => {
            let mut buckets = servers.buckets.lock().await;
            Ground::bucket(&data, &format!("{seed}"), &mut buckets).await
        }
        _ => Ground::plain(&data),
    };
    let ports = Ports::free();
    let keyed = [Key::Int, Key::Text, Key::Composite];
    let mut loads = vec![Load::prepare(Box::new(Embedded::new(&data)), &keyed, seed).await];
    if let Some(server) = &mariadb {
        let all = [Key::Int, Key::Text, Key::Composite, Key::Uuid, Key::None];
        let source = MariaDb::create(Arc::clone(server), &format!("crash_{seed}")).await;
        loads.push(Load::prepare(Box::new(source), &all, seed).await);
    }
    if let Some(server) = &kafka {
        let source = Kafka::create(Arc::clone(server), seed).await;
        loads.push(Load::prepare(Box::new(source), &keyed, seed).await);
    }
    // The services make their tables, and the triggers of all.
    let ground_settings = ground.settings();
    let mut platform = Platform::launch(&data, ports, &["--no-simulate"], &ground_settings);
    platform.wait_until_healthy().await;
    platform.kill();
    for load in &loads {
        load.fill(seed).await;
    }
    let mut settings: Vec<(String, String)> =
        loads.iter().flat_map(|load| load.source.settings()).chain(ground.settings()).collect();
    let mut set = |key: &str, value: &str| settings.push((key.to_owned(), value.to_owned()));
    set("MEDLAKE__LAKE__FLUSH_INTERVAL_MS", "300");
    set("MEDLAKE__INGEST__CUT_ROWS", "500");
    set("MEDLAKE__SIMULATE__ORDERS_PER_SECOND", "5");
    set("MEDLAKE__SIMULATE__SEED", &seed.to_string());
    // What is due of a past would be done by the clock while rows are compared.
    set("MEDLAKE__SIMULATE__HISTORY_DAYS", "0");

    let mut tasks = JoinSet::new();
    for load in &loads {
        load.start(seed, &mut tasks);
    }
    let platform = Platform::launch(&data, ports, &[], &settings);
    let outcome = Outcome { seed, ground: ground.name(), ..Outcome::default() };
    let mut night = Night {
        platform: Some(platform),
        data: &data,
        ports,
        settings,
        ground,
        loads,
        outcome,
        is_new: true,
    };
    for _ in 0..EVENTS {
        night.something_happens(&mut random).await?;
    }
    let mut outcome = night.morning(tasks, servers).await?;
    outcome.took = began.elapsed();
    Ok(outcome)
}

struct Night<'a> {
    /// Always there, but while it is killed.
    platform: Option<Platform>,
    data: &'a Path,
    ports: Ports,
    settings: Vec<(String, String)>,
    ground: Ground,
    loads: Vec<Arc<Load>>,
    outcome: Outcome,
    /// It may never have answered yet.
    is_new: bool,
}

impl Night<'_> {
    fn platform(&self) -> &Platform {
        self.platform.as_ref().unwrap()
    }

    fn restart(&mut self, arguments: &[&str]) {
        let settings: &Settings = &self.settings;
        self.platform = Some(Platform::launch(self.data, self.ports, arguments, settings));
    }

    fn kill(&mut self) {
        if let Some(platform) = self.platform.take() {
            platform.kill();
            self.outcome.kills += 1;
        }
    }

    async fn something_happens(&mut self, random: &mut StdRng) -> Result<(), String> {
        let pause = |random: &mut StdRng, to: u64| {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..to)))
        };
        // From the first instants of a start to well past a commit.
        pause(random, 800).await;
        let load = Arc::clone(&self.loads[random.random_range(0..self.loads.len())]);
        let harms = load.source.harms();
        let mut killed = true;
        match random.random_range(0..4) {
            0 | 1 => {}
            2 if !harms.is_empty() => {
                self.outcome.faults += 1;
                killed = random.random_range(0..2) == 0;
                load.source.harm(harms[random.random_range(0..harms.len())]).await;
                pause(random, 800).await;
            }
            _ => {
                self.outcome.faults += 1;
                killed = random.random_range(0..2) == 0;
                let faults = self.ground.faults();
                self.ground.begin(faults[random.random_range(0..faults.len())]).await;
                pause(random, 1_200).await;
            }
        }
        if let Some(status) = self.platform.as_mut().and_then(Platform::ended) {
            // One that has not even started may: whoever looks after it starts it again.
            if !self.is_new {
                return Err(format!("medlake ended by itself with {status}"));
            }
            killed = true;
        }
        self.is_new = false;
        if !killed {
            self.heal().await;
            return self.recovered(false).await;
        }
        self.kill();
        let well = random.random_range(0..2) == 0;
        if well {
            self.heal().await;
        }
        // As a service does it that starts in another version; its triggers are those of before until
        // it has started.
        let service = Arc::clone(&self.loads[0]);
        let migrated = match random.random_range(0..3) {
            0 => Some(service.migrate(random).await),
            _ => None,
        };
        self.restart(&[]);
        while random.random_range(0..3) == 0 {
            // Once more while it starts, or takes up what the last one left.
            pause(random, 600).await;
            self.kill();
            self.restart(&[]);
        }
        self.heal().await;
        let recovered = self.recovered(!well).await;
        drop(migrated);
        recovered
    }

    async fn heal(&mut self) {
        self.ground.end().await;
        for load in &self.loads {
            load.source.heal().await;
        }
    }

    /// Waits until rows are seen that were committed after now, which is right after a kill, or
    /// when all else is well again.
    async fn recovered(&mut self, mut may_have_ended: bool) -> Result<(), String> {
        let killed = Instant::now();
        let mut behind: Vec<(Arc<Load>, i64)> =
            self.loads.iter().map(|load| (Arc::clone(load), load.beaten())).collect();
        while !behind.is_empty() {
            if let Some(status) = self.platform.as_mut().and_then(Platform::ended) {
                // It was started while its ground was missing: whoever looks after it starts it again.
                if !may_have_ended {
                    return Err(format!("medlake ended by itself with {status}"));
                }
                may_have_ended = false;
                self.restart(&[]);
            }
            let mut still = Vec::new();
            for (load, beat) in behind {
                if self.seen(&load).await.is_some_and(|seen| seen > beat) {
                    self.outcome.recoveries.push(killed.elapsed());
                } else {
                    still.push((load, beat));
                }
            }
            behind = still;
            for (load, _) in &behind {
                load.hold(killed.elapsed() > UNDER_LOAD);
            }
            if killed.elapsed() > UNDER_LOAD + RECOVERY {
                let names: Vec<&str> = behind.iter().map(|(load, _)| load.source.name()).collect();
                return Err(format!("no new rows of {names:?} are seen"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.loads.iter().for_each(|load| load.hold(false));
        Ok(())
    }

    /// The newest beat that is seen.
    async fn seen(&self, load: &Load) -> Option<i64> {
        let sql = format!(
            "select max(slot) from {}.{} where slot < 1000000000",
            load.source.name(),
            load.beat.name
        );
        self.platform().ask(&sql).await?.as_i64()
    }

    /// Waits until all that was committed is seen.
    async fn all_seen(&self) -> Result<(), String> {
        let until = Instant::now() + RECOVERY;
        for load in &self.loads {
            let slot = load.last().await;
            for table in load.tables().await.iter().chain([&load.beat]) {
                let name = format!("{}.{}", load.source.name(), table.name);
                let sql = format!("select count(*) from {name} where slot >= {slot}");
                while self.platform().ask(&sql).await != Some(Value::from(LAST)) {
                    if Instant::now() > until {
                        return Err(format!("\"{name}\" is not caught up with"));
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
        let copying = "select count(*) from system.ingest where state <> 'streaming'";
        while self.platform().ask(copying).await != Some(Value::from(0)) {
            if Instant::now() > until {
                let states = self.platform().query("select * from system.ingest").await;
                return Err(format!("tables are not streaming: {states}"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.platform().caught_up(RECOVERY).await;
        Ok(())
    }

    /// Everything comes to rest and is looked at.
    async fn morning(
        mut self,
        mut tasks: JoinSet<()>,
        servers: &Servers,
    ) -> Result<Outcome, String> {
        self.kill();
        for load in &self.loads {
            load.stop();
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|_| "a writer panicked; see above")?;
        }
        self.restart(&["--no-simulate"]);
        self.recovered_quietly().await?;
        self.all_seen().await?;
        self.outcome.values = self.compare().await?;
        let rows = recompute::tables_equal_their_sources(self.platform()).await;
        recompute::marts_equal_a_recomputation(self.platform()).await;
        if let Some(platform) = self.platform.take() {
            let status = platform.stop();
            if !status.success() {
                return Err(format!("it did not stop in order: {status}"));
            }
        }

        // What crashes left behind goes, however new it is, and nothing else.
        let files = if self.ground.has_files() { files(self.data)? } else { vec![] };
        for entry in files {
            let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
            let file = std::fs::File::options().append(true).open(&entry);
            file.and_then(|file| file.set_modified(long_ago)).map_err(|e| e.to_string())?;
        }
        self.lake(&["orphans"])?;
        let left = self.lake(&["orphans", "--dry-run"])?;
        if !left.contains("0 files that nothing names") {
            return Err(left);
        }
        let checked = self.lake(&["check"])?;
        if !checked.contains(": 0 findings") {
            return Err(checked);
        }
        // What was in memory and what is in files must agree: the same again, from files alone.
        self.restart(&["--no-simulate"]);
        self.recovered_quietly().await?;
        self.all_seen().await?;
        let again = self.compare().await?;
        let rows_again = recompute::tables_equal_their_sources(self.platform()).await;
        if rows_again < rows {
            return Err(format!("{rows} rows of the services became {rows_again}"));
        }
        self.outcome.values += again;
        if let Some(platform) = self.platform.take() {
            platform.stop();
        }
        if self.ground.has_files() && self.outcome.seed.is_multiple_of(ENGINES) {
            let mut engines = servers.engines.lock().await;
            let engines = engines.get_or_insert_with(Engines::start);
            let tables = self.tables().await;
            self.outcome.values += engines.compare(&self.data.join("lake"), &tables).await?;
        }
        for load in &self.loads {
            self.outcome.transactions += load.transactions.load(Ordering::Relaxed);
            self.outcome.alterations += load.alterations.load(Ordering::Relaxed);
        }
        self.ground.clear();
        Ok(self.outcome)
    }

    /// Waits until it answers.
    async fn recovered_quietly(&mut self) -> Result<(), String> {
        let until = Instant::now() + RECOVERY;
        while self.platform().ask("select 1").await.is_none() {
            if let Some(status) = self.platform.as_mut().and_then(Platform::ended) {
                return Err(format!("medlake ended by itself with {status}"));
            }
            if Instant::now() > until {
                return Err("medlake does not answer".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn tables(&self) -> Vec<(&dyn Source, Table)> {
        let mut all = Vec::new();
        for load in &self.loads {
            let tables = load.tables().await.into_iter().chain([load.beat.clone()]);
            all.extend(tables.map(|table| (load.source.as_ref(), table)));
        }
        all
    }

    async fn compare(&self) -> Result<usize, String> {
        compare::tables(self.platform(), &self.tables().await).await
    }

    /// `medlake lake ...`; what it says.
    fn lake(&self, arguments: &[&str]) -> Result<String, String> {
        let output = binary()
            .arg("lake")
            .args(arguments)
            .arg("--data")
            .arg(self.data)
            .envs(self.settings.iter().cloned())
            .output()
            .map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(said);
        }
        Err(format!("lake {arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// All files of the lake's tables.
fn files(data: &Path) -> Result<Vec<std::path::PathBuf>, String> {
    let mut folders = vec![data.join("lake/warehouse")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))? {
            let path = entry.map_err(|e| e.to_string())?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    Ok(files)
}
