//! How the pipeline is doing, for `/healthz` and `/metrics`.

mod intake;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use medlake_contract::TableName;
use medlake_ingest::{Budget, Monitor};
use medlake_lake::Lake;
use medlake_query_server::{IngestStatus, MemoryStatus, Status};
use serde_json::json;

use crate::{clock::Clock, publishing::Publishing};
use intake::Intake;

/// Upper ends of the buckets that cuts are counted in, by their rows.
const CUT_ROWS: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];

/// Counts of this process since it started. The numbers are independent of each other, so each is
/// an atomic of its own, read and written relaxed.
pub(crate) struct Pulse {
    lake: Arc<Lake>,
    intake: Intake,
    /// What is on its way to files may take this much memory.
    memory_limit_bytes: u64,
    /// Cuts by rows: one count for each of [`CUT_ROWS`], and one for larger ones.
    sizes: [AtomicU64; CUT_ROWS.len() + 1],
    cuts: AtomicU64,
    changes: AtomicU64,
    transactions: AtomicU64,
    commits: AtomicU64,
    last_cut_micros: AtomicU64,
    /// The marts that are not up to date, and why.
    failing: Mutex<BTreeMap<TableName, String>>,
    /// Why the last commit to the lake was not made, if it was not.
    uncommitted: Mutex<Option<String>>,
    publishing: OnceLock<Publishing>,
}

impl Pulse {
    pub(crate) fn new(
        lake: Arc<Lake>,
        monitor: Monitor,
        budget: Budget,
        memory_limit_bytes: u64,
        clock: Clock,
    ) -> Self {
        Self {
            lake,
            intake: Intake::new(monitor, budget, clock),
            memory_limit_bytes,
            sizes: Default::default(),
            cuts: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            last_cut_micros: AtomicU64::new(0),
            failing: Mutex::default(),
            uncommitted: Mutex::default(),
            publishing: OnceLock::new(),
        }
    }

    /// The services of this process publish their changes, too.
    pub(crate) fn publishes(&self, publishing: Publishing) {
        // There is one start of the services in a process.
        let _ = self.publishing.set(publishing);
    }

    /// A cut was published, `took` after it was handed out by the sources.
    pub(crate) fn published(&self, changes: usize, transactions: u64, took: Duration) {
        self.cuts.fetch_add(1, Relaxed);
        let size = CUT_ROWS.iter().position(|end| changes <= *end).unwrap_or(CUT_ROWS.len());
        if let Some(count) = self.sizes.get(size) {
            count.fetch_add(1, Relaxed);
        }
        self.changes.fetch_add(u64::try_from(changes).unwrap_or(u64::MAX), Relaxed);
        self.transactions.fetch_add(transactions, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.last_cut_micros.store(micros, Relaxed);
    }

    pub(crate) fn committed(&self) {
        self.commits.fetch_add(1, Relaxed);
    }

    /// Remembers why a mart is not up to date, or that it is; answers whether that is news.
    pub(crate) fn mart(&self, mart: &TableName, reason: Option<&str>) -> bool {
        let mut failing = self.failing();
        match reason {
            Some(reason) => {
                failing.insert(mart.clone(), reason.to_owned()).as_deref() != Some(reason)
            }
            None => failing.remove(mart).is_some(),
        }
    }

    /// Remembers why what is in memory could not be committed, or that it was.
    pub(crate) fn uncommitted(&self, reason: Option<String>) {
        *self.uncommitted.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Lines for Prometheus.
    fn cut_sizes(&self, text: &mut String) {
        let _ = writeln!(text, "# HELP medlake_cut_rows Row changes of a cut.");
        let _ = writeln!(text, "# TYPE medlake_cut_rows histogram");
        let mut cuts = 0;
        let ends = CUT_ROWS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        for (end, count) in ends.zip(&self.sizes) {
            cuts += count.load(Relaxed);
            let _ = writeln!(text, "medlake_cut_rows_bucket{{le=\"{end}\"}} {cuts}");
        }
        let rows = self.changes.load(Relaxed);
        let _ = writeln!(text, "medlake_cut_rows_sum {rows}\nmedlake_cut_rows_count {cuts}");
    }

    fn why_uncommitted(&self) -> Option<String> {
        self.uncommitted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn failing(&self) -> std::sync::MutexGuard<'_, BTreeMap<TableName, String>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Status for Pulse {
    fn parts(&self) -> serde_json::Value {
        let failing: BTreeMap<String, String> =
            self.failing().iter().map(|(mart, why)| (mart.to_string(), why.clone())).collect();
        json!({
            "pipeline": {
                "cuts": self.cuts.load(Relaxed),
                "changes": self.changes.load(Relaxed),
                "last_cut_ms": self.last_cut_micros.load(Relaxed) / 1_000,
                "rows_in_memory": self.lake.hot_rows(),
                "stalled": self.intake.failing(),
                "uncommitted": self.why_uncommitted(),
            },
            "marts_not_up_to_date": failing,
            "publishing": self.publishing.get().map(Publishing::parts),
        })
    }

    fn ingest(&self) -> Option<IngestStatus> {
        Some(IngestStatus {
            sources: self.intake.sources(),
            memory: MemoryStatus {
                limit_bytes: self.memory_limit_bytes,
                read_ahead_bytes: self.intake.read_ahead_bytes(),
                staged_bytes: self.lake.hot_bytes(),
                staged_rows: self.lake.hot_rows(),
            },
            cuts: self.cuts.load(Relaxed),
            last_cut_ms: self.last_cut_micros.load(Relaxed) / 1_000,
            uncommitted: self.why_uncommitted(),
        })
    }

    fn prometheus(&self) -> String {
        let indexes = self.lake.index_sizes();
        let failing = self.failing().len();
        let mut text = String::new();
        let mut line = |name: &str, kind: &str, help: &str, value: &dyn std::fmt::Display| {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "# HELP medlake_{name} {help}\n# TYPE medlake_{name} {kind}\nmedlake_{name} {value}"
            );
        };
        let count = |n: &AtomicU64| n.load(Relaxed);
        line("cuts_total", "counter", "Cuts published.", &count(&self.cuts));
        line("changes_total", "counter", "Row changes taken in.", &count(&self.changes));
        let help = "Source transactions taken in.";
        line("transactions_total", "counter", help, &count(&self.transactions));
        line("commits_total", "counter", "Commits to the catalog.", &count(&self.commits));
        let micros = Duration::from_micros(count(&self.last_cut_micros));
        let help = "From a cut handed out by the sources to its publication, the last one.";
        line("cut_seconds", "gauge", help, &micros.as_secs_f64());
        let help = "Rows that are not in files yet.";
        line("hot_rows", "gauge", help, &self.lake.hot_rows());
        line("hot_bytes", "gauge", "Memory of these rows.", &self.lake.hot_bytes());
        let help = "Memory of what the sources have read ahead.";
        line("read_ahead_bytes", "gauge", help, &self.intake.read_ahead_bytes());
        let help = "What is read ahead and what is not in files may take together.";
        line("ingest_memory_limit_bytes", "gauge", help, &self.memory_limit_bytes);
        let rows = indexes.values().map(|i| i.rows).sum::<usize>();
        let bytes = indexes.values().map(|i| i.bytes).sum::<usize>();
        line("index_rows", "gauge", "Rows in the key indexes.", &rows);
        line("index_bytes", "gauge", "Memory of the key indexes.", &bytes);
        line("marts_failing", "gauge", "Marts that are not up to date.", &failing);
        for (name, help) in [
            ("table_index_rows", "Rows in the key index of a table."),
            ("table_index_bytes", "Memory of the key index of a table."),
        ] {
            let _ = writeln!(text, "# HELP medlake_{name} {help}\n# TYPE medlake_{name} gauge");
            for (table, index) in &indexes {
                let value = if name == "table_index_rows" { index.rows } else { index.bytes };
                let _ = writeln!(text, "medlake_{name}{{table=\"{table}\"}} {value}");
            }
        }
        self.cut_sizes(&mut text);
        self.intake.prometheus(&mut text);
        if let Some(publishing) = self.publishing.get() {
            publishing.prometheus(&mut text);
        }
        text
    }
}
