//! Counters and one histogram, in Prometheus' text form.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::error::QueryError;

/// Where a statement came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Door {
    Sql,
    Metrics,
    Dashboard,
    Postgres,
}

impl Door {
    const fn name(self) -> &'static str {
        match self {
            Self::Sql => "sql",
            Self::Metrics => "metrics",
            Self::Dashboard => "dashboard",
            Self::Postgres => "postgres",
        }
    }
}

/// Upper bounds of the buckets, in seconds.
const BUCKETS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

#[derive(Debug, Default)]
struct Numbers {
    queries: BTreeMap<(Door, &'static str), u64>,
    latency: BTreeMap<Door, Histogram>,
}

/// What the doors count. One short lock a statement.
#[derive(Debug, Default)]
pub(crate) struct Telemetry {
    numbers: Mutex<Numbers>,
}

impl Telemetry {
    /// Counts a statement that is over.
    pub(crate) fn count(&self, door: Door, error: Option<&QueryError>, took: Duration) {
        let outcome = error.map_or("ok", |error| error.kind().code());
        let seconds = took.as_secs_f64();
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        *numbers.queries.entry((door, outcome)).or_default() += 1;
        let latency = numbers.latency.entry(door).or_default();
        latency.count += 1;
        latency.sum += seconds;
        for (bucket, bound) in latency.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(seconds <= bound);
        }
    }

    /// All numbers as text.
    pub(crate) fn text(&self) -> String {
        let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        let mut line = |args: std::fmt::Arguments<'_>| {
            let _ = text.write_fmt(args);
            text.push('\n');
        };
        line(format_args!("# HELP medlake_queries_total Statements by door and outcome."));
        line(format_args!("# TYPE medlake_queries_total counter"));
        for ((door, outcome), count) in &numbers.queries {
            let door = door.name();
            line(format_args!(
                "medlake_queries_total{{door=\"{door}\",outcome=\"{outcome}\"}} {count}"
            ));
        }
        line(format_args!("# HELP medlake_query_seconds Time from a statement to its last row."));
        line(format_args!("# TYPE medlake_query_seconds histogram"));
        for (door, latency) in &numbers.latency {
            let door = door.name();
            for (bound, count) in BUCKETS.iter().zip(latency.buckets) {
                line(format_args!(
                    "medlake_query_seconds_bucket{{door=\"{door}\",le=\"{bound}\"}} {count}"
                ));
            }
            let (count, sum) = (latency.count, latency.sum);
            line(format_args!(
                "medlake_query_seconds_bucket{{door=\"{door}\",le=\"+Inf\"}} {count}"
            ));
            line(format_args!("medlake_query_seconds_sum{{door=\"{door}\"}} {sum}"));
            line(format_args!("medlake_query_seconds_count{{door=\"{door}\"}} {count}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_counted_by_door_and_outcome() {
        let telemetry = Telemetry::default();
        telemetry.count(Door::Sql, None, Duration::from_millis(3));
        telemetry.count(Door::Sql, Some(&QueryError::Cancelled), Duration::from_secs(20));
        let text = telemetry.text();
        for line in [
            "medlake_queries_total{door=\"sql\",outcome=\"ok\"} 1",
            "medlake_queries_total{door=\"sql\",outcome=\"cancelled\"} 1",
            "medlake_query_seconds_bucket{door=\"sql\",le=\"0.0025\"} 0",
            "medlake_query_seconds_bucket{door=\"sql\",le=\"0.005\"} 1",
            "medlake_query_seconds_bucket{door=\"sql\",le=\"+Inf\"} 2",
            "medlake_query_seconds_count{door=\"sql\"} 2",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
