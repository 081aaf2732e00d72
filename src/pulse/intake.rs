use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use medlake_contract::SourceId;
use medlake_ingest::{Budget, Monitor, Phase, SourceHealth};
use medlake_query_server::SourceStatus;
use tokio::time::Instant;

use crate::clock::Clock;

/// What a rate is the mean of, at least.
const RATED_OVER: Duration = Duration::from_secs(2);

/// How the sources are doing, as others see it.
pub(super) struct Intake {
    monitor: Monitor,
    budget: Budget,
    clock: Clock,
    rates: Mutex<Rates>,
}

struct Rates {
    since: Instant,
    counted: BTreeMap<SourceId, (u64, u64)>,
    /// Rows and bytes a second.
    rates: BTreeMap<SourceId, (f64, f64)>,
}

impl Intake {
    pub(super) fn new(monitor: Monitor, budget: Budget, clock: Clock) -> Self {
        let rates =
            Rates { since: Instant::now(), counted: BTreeMap::new(), rates: BTreeMap::new() };
        Self { monitor, budget, clock, rates: Mutex::new(rates) }
    }

    pub(super) fn read_ahead_bytes(&self) -> u64 {
        self.budget.held_bytes()
    }

    /// The sources that cannot be read, and why.
    pub(super) fn failing(&self) -> BTreeMap<String, String> {
        let sources = self.monitor.sources().into_iter();
        sources.filter_map(|(id, health)| Some((id.to_string(), health.failing?))).collect()
    }

    pub(super) fn sources(&self) -> Vec<SourceStatus> {
        let sources = self.monitor.sources();
        let rates = self.rates(&sources);
        let now = (self.clock)();
        let status = |(id, health): (SourceId, SourceHealth)| {
            let (rows_per_second, bytes_per_second) = rates.get(&id).copied().unwrap_or_default();
            let behind = health.committed_at_micros.map(|at| now.saturating_sub(at));
            let behind = behind.map(|micros| u64::try_from(micros).unwrap_or(0));
            SourceStatus {
                name: id.to_string(),
                kind: health.kind.to_owned(),
                lag_seconds: match health.caught_up && health.failing.is_none() {
                    true => Some(0.0),
                    false => behind.map(|micros| Duration::from_micros(micros).as_secs_f64()),
                },
                failing: health.failing,
                caught_up: health.caught_up,
                rows: health.rows,
                bytes: health.bytes,
                transactions: health.transactions,
                rows_per_second,
                bytes_per_second,
                lag_rows: health.lag_rows,
                lag_bytes: health.lag_bytes,
            }
        };
        sources.into_iter().map(status).collect()
    }

    /// Rows and bytes a second: the mean since somebody asked some seconds ago.
    fn rates(&self, sources: &BTreeMap<SourceId, SourceHealth>) -> BTreeMap<SourceId, (f64, f64)> {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = rates.since.elapsed();
        if elapsed >= RATED_OVER {
            let seconds = elapsed.as_secs_f64();
            let rate = |id: &SourceId, health: &SourceHealth| {
                let (rows, bytes) = rates.counted.get(id).copied().unwrap_or_default();
                let a_second = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
                (a_second(health.rows, rows), a_second(health.bytes, bytes))
            };
            let next = sources.iter().map(|(id, health)| (id.clone(), rate(id, health))).collect();
            let counted = sources.iter().map(|(id, h)| (id.clone(), (h.rows, h.bytes))).collect();
            *rates = Rates { since: Instant::now(), counted, rates: next };
        }
        rates.rates.clone()
    }

    /// Lines for Prometheus.
    pub(super) fn prometheus(&self, text: &mut String) {
        type Value = fn(&SourceStatus) -> Option<f64>;
        let measures: [(&str, &str, &str, Value); 7] = [
            ("rows_total", "counter", "Row changes and copied rows taken in.", |s| {
                Some(s.rows as f64)
            }),
            ("bytes_total", "counter", "Bytes taken in, as the source sent them.", |s| {
                Some(s.bytes as f64)
            }),
            ("transactions_total", "counter", "Transactions taken in.", |s| {
                Some(s.transactions as f64)
            }),
            ("lag_rows", "gauge", "Changes or messages not taken in yet.", |s| {
                s.lag_rows.map(|rows| rows as f64)
            }),
            ("lag_bytes", "gauge", "Bytes of the log not taken in yet.", |s| {
                s.lag_bytes.map(|bytes| bytes as f64)
            }),
            (
                "lag_seconds",
                "gauge",
                "Age of the newest transaction taken in, 0 at the end.",
                |s| s.lag_seconds,
            ),
            ("up", "gauge", "1 when the source can be read.", |s| {
                Some(f64::from(u8::from(s.failing.is_none())))
            }),
        ];
        let sources = self.sources();
        // Writing to a string cannot fail.
        for (name, kind, help, value) in measures {
            let _ = writeln!(text, "# HELP medlake_source_{name} {help}");
            let _ = writeln!(text, "# TYPE medlake_source_{name} {kind}");
            for (source, value) in sources.iter().filter_map(|s| Some((&s.name, value(s)?))) {
                let _ = writeln!(text, "medlake_source_{name}{{source=\"{source}\"}} {value}");
            }
        }
        let tables = self.monitor.tables();
        let help = "1 for the state a table is in.";
        let _ =
            writeln!(text, "# HELP medlake_table_state {help}\n# TYPE medlake_table_state gauge");
        for table in &tables {
            for phase in [Phase::Snapshotting, Phase::Streaming, Phase::Stopped] {
                let (name, state) = (&table.table, phase.as_str());
                let value = u8::from(table.phase == phase);
                let labels = format!("table=\"{name}\",state=\"{state}\"");
                let _ = writeln!(text, "medlake_table_state{{{labels}}} {value}");
            }
        }
        let _ = writeln!(
            text,
            "# HELP medlake_table_quarantined Changes in quarantine.\n\
             # TYPE medlake_table_quarantined gauge"
        );
        for table in &tables {
            let (name, count) = (&table.table, table.quarantined);
            let _ = writeln!(text, "medlake_table_quarantined{{table=\"{name}\"}} {count}");
        }
    }
}
