//! Ten thousand small commits over three tables, with maintenance going on: what planning a query
//! takes, how many files there are and how large the metadata is, by tenths. Limit: nothing grows with
//! the number of commits.
//!
//! The commits come as fast as they can, so how many are made in the two minutes that snapshots are
//! kept says something about the machine: the newest twenty are kept, and no others. Files are not
//! flushed to the disk, whose time is not ours either.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{array::AsArray, datatypes::Int64Type};
use datafusion::prelude::SessionContext;
use medlake_contract::{ChangeSet, TableSchema};
use medlake_lake::{Durability, Follower, Lake, LakeConfig};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;

use crate::{
    lines::{changes, lines},
    stage::{self, median, percentile},
};

const COMMITS: usize = 10_000;
const MARKS: usize = 10;
const TABLES: [&str; 3] = ["mall.line", "mall.refund", "care.visit"];
/// Times files are counted, each tenth.
const LOOKS: usize = 10;
/// Rows each table has before.
const ROWS: usize = 10_000;
/// Plans, and openings, for one median.
const PLANS: usize = 21;
/// How much more the last quarter may have of anything than the second one.
const FLAT: f64 = 1.3;

/// What a tenth of the commits was like.
struct Mark {
    commits: usize,
    /// A query, by the process that writes.
    plan: Duration,
    /// All tables, by another process.
    open: Duration,
    files: Files,
    /// Commits.
    p50: Duration,
    p99: Duration,
}

/// Counts, or means of them.
#[derive(Clone, Copy, Default)]
struct Files {
    data: f64,
    deletes: f64,
    manifests: f64,
    /// Of the current metadata files and the manifests they name.
    metadata_bytes: f64,
    /// Of all files in the warehouse.
    on_disk: f64,
}

pub(crate) fn run(commits: Option<usize>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(measure(commits.unwrap_or(COMMITS)));
}

async fn measure(commits: usize) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = stage::config(folder.path());
    config.keep_snapshots_micros = 0;
    config.durability = Durability::Process;
    let lake = Arc::new(Lake::open(config.clone()).await.unwrap());
    let tables = TABLES.map(lines);
    lake.create_tables(&tables).await.unwrap();
    let mut rng = StdRng::seed_from_u64(3);
    let mut next = [0; TABLES.len()];
    for (table, next) in tables.iter().zip(&mut next) {
        lake.stage(&changes(table, &mut rng, next, ROWS)).unwrap();
    }
    lake.publish();
    lake.flush().await.unwrap();

    println!("commits: {commits} of a few changes, over {} tables, with maintenance", TABLES.len());
    println!(
        "  after    plan ms  open ms  data files  deletes  manifests  metadata KB  on disk  commit p50 ms  p99"
    );
    let started = Instant::now();
    let mut upkeep = JoinSet::new();
    let mut marks = Vec::new();
    let (mut times, mut looks) = (Vec::new(), Vec::new());
    let tenth = (commits / MARKS).max(LOOKS);
    for commit in 1..=commits {
        lake.stage(&some(&tables, &mut rng, &mut next)).unwrap();
        lake.publish();
        let flushing = Instant::now();
        assert!(lake.flush().await.unwrap().tables > 0);
        times.push(flushing.elapsed());
        while let Some(done) = upkeep.try_join_next() {
            done.unwrap();
        }
        if upkeep.is_empty() {
            upkeep.spawn(maintain(Arc::clone(&lake)));
        }
        if commit % (tenth / LOOKS) == 0 {
            looks.push(count(&lake, &config).await);
        }
        if commit % tenth == 0 {
            while let Some(done) = upkeep.join_next().await {
                done.unwrap();
            }
            times.sort();
            let (plan, open) = (plan(&lake).await, open(&config).await);
            let (p50, p99) = (percentile(&times, 50), percentile(&times, 99));
            let mark = Mark { commits: commit, plan, open, files: Files::mean(&looks), p50, p99 };
            mark.print();
            marks.push(mark);
            times.clear();
            looks.clear();
        }
    }
    println!("  in {:.0?}", started.elapsed());
    judge(&marks);
}

/// Inserts and updates of two of the tables, two to six in each.
fn some(tables: &[Arc<TableSchema>], rng: &mut StdRng, next: &mut [i64]) -> ChangeSet {
    let spared = rng.random_range(0..tables.len());
    let mut set = ChangeSet::default();
    for (at, (table, next)) in tables.iter().zip(next).enumerate() {
        if at != spared {
            let count = rng.random_range(1..=3) * 2;
            set.batches.extend(changes(table, rng, next, count).batches);
        }
    }
    set
}

async fn maintain(lake: Arc<Lake>) {
    while !lake.maintain().await.unwrap().is_idle() {}
}

async fn plan(lake: &Lake) -> Duration {
    let context = SessionContext::new();
    context.register_catalog("lake", lake.read_view().catalog());
    let mut plans = Vec::new();
    for n in 0..PLANS {
        let sql = format!(
            "select l.category, sum(l.amount_fen) from lake.mall.line l
             join lake.mall.refund r on r.line_id = l.line_id where l.line_id > {n}
             group by l.category"
        );
        let planning = Instant::now();
        context.sql(&sql).await.unwrap().create_physical_plan().await.unwrap();
        plans.push(planning.elapsed());
    }
    median(plans)
}

async fn open(config: &LakeConfig) -> Duration {
    let mut opened = Vec::new();
    for _ in 0..PLANS {
        let opening = Instant::now();
        drop(Follower::open(config).await.unwrap());
        opened.push(opening.elapsed());
    }
    median(opened)
}

async fn count(lake: &Lake, config: &LakeConfig) -> Files {
    let context = SessionContext::new();
    context.register_catalog("lake", lake.read_view().catalog());
    let mut found = Files::default();
    let mut on_disk = Vec::new();
    files(&config.root.join("warehouse"), &mut on_disk);
    found.on_disk = number(on_disk.len());
    for table in TABLES {
        let (namespace, name) = table.split_once('.').unwrap();
        let of = |what: &str| format!("lake.{namespace}.\"{name}${what}\"");
        let is_data = "count(*) filter (where content = 0)";
        let sql = format!("select {is_data}, count(*) - {is_data} from {}", of("files"));
        let [data, deletes] = numbers(&context, &sql).await;
        let sql = format!("select count(*), sum(length) from {}", of("manifests"));
        let [manifests, bytes] = numbers(&context, &sql).await;
        found.data += data;
        found.deletes += deletes;
        found.manifests += manifests;
        found.metadata_bytes += bytes;
        let folder = format!("{namespace}/{name}/metadata/");
        let metadata = on_disk
            .iter()
            .filter(|(path, _)| path.contains(&folder) && path.ends_with(".metadata.json"));
        found.metadata_bytes += number(metadata.max().map_or(0, |(_, bytes)| *bytes));
    }
    found
}

/// The one row of a query that gives whole numbers.
#[expect(clippy::cast_precision_loss, reason = "figures to read")]
async fn numbers<const N: usize>(context: &SessionContext, sql: &str) -> [f64; N] {
    let rows = context.sql(sql).await.unwrap().collect().await.unwrap();
    std::array::from_fn(|at| rows[0].column(at).as_primitive::<Int64Type>().value(0) as f64)
}

#[expect(clippy::cast_precision_loss, reason = "a figure to read")]
fn number(count: usize) -> f64 {
    count as f64
}

/// All files of a folder, with their sizes.
fn files(folder: &Path, found: &mut Vec<(String, usize)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if let Ok(about) = path.metadata() {
            found.push((path.display().to_string(), usize::try_from(about.len()).unwrap()));
        }
    }
}

impl Files {
    fn mean(of: &[Self]) -> Self {
        let mean = |part: fn(&Self) -> f64| of.iter().map(part).sum::<f64>() / number(of.len());
        Self {
            data: mean(|f| f.data),
            deletes: mean(|f| f.deletes),
            manifests: mean(|f| f.manifests),
            metadata_bytes: mean(|f| f.metadata_bytes),
            on_disk: mean(|f| f.on_disk),
        }
    }
}

impl Mark {
    fn print(&self) {
        println!(
            "  {:>6}  {:>7.2}  {:>7.2}  {:>10.1}  {:>7.1}  {:>9.1}  {:>11.0}  {:>7.0}  {:>13.2}  {:>5.2}",
            self.commits,
            self.plan.as_secs_f64() * 1e3,
            self.open.as_secs_f64() * 1e3,
            self.files.data,
            self.files.deletes,
            self.files.manifests,
            self.files.metadata_bytes / 1_024.0,
            self.files.on_disk,
            self.p50.as_secs_f64() * 1e3,
            self.p99.as_secs_f64() * 1e3,
        );
    }
}

/// Whether the last quarter has no more of anything than the second.
fn judge(marks: &[Mark]) {
    type Figure = (&'static str, fn(&Mark) -> f64);
    let figures: [Figure; 7] = [
        ("planning", |m| m.plan.as_secs_f64()),
        ("opening", |m| m.open.as_secs_f64()),
        ("files", |m| m.files.data + m.files.deletes),
        ("manifests", |m| m.files.manifests),
        ("metadata", |m| m.files.metadata_bytes),
        ("on disk", |m| m.files.on_disk),
        ("commit", |m| m.p50.as_secs_f64()),
    ];
    let mut steep = Vec::new();
    print!("  last quarter by second:");
    for (name, figure) in figures {
        let mean = |marks: &[Mark]| marks.iter().map(figure).sum::<f64>() / number(marks.len());
        let of = |quarter: usize| {
            mean(&marks[marks.len() * quarter / 4..(marks.len() * (quarter + 1)).div_ceil(4)])
        };
        let ratio = of(3) / of(1);
        print!(" {name} {ratio:.2}");
        if ratio > FLAT {
            steep.push(name);
        }
    }
    println!();
    if steep.is_empty() {
        println!("  flat: nothing over {FLAT}");
    } else {
        println!("  NOT FLAT: {}", steep.join(", "));
    }
}
