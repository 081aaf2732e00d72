use std::{path::PathBuf, sync::Arc, time::Duration};

/// Microseconds since 1970 (UTC), asked for anew each time. A replay and a test choose it.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What the query server may use, and how long it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryServerConfig {
    /// The name of the catalog, which is the database name on the Postgres door.
    pub catalog: String,
    /// The schema that table names without one are looked up in.
    pub default_schema: String,
    /// Bytes of memory all statements together may use before they spill.
    pub memory_limit_bytes: usize,
    /// Where statements spill to; the system's folder for temporary files when absent.
    pub spill_folder: Option<PathBuf>,
    /// Bytes of spill files all statements together may write.
    pub spill_limit_bytes: u64,
    /// Statements that run at once.
    pub permits: usize,
    /// How long a statement waits for a permit.
    pub queue_timeout: Duration,
    /// How long a statement may run from its first byte to its last row, unless its connection
    /// says otherwise.
    pub statement_timeout: Duration,
    /// The most rows of one JSON answer. Other formats and the Postgres door stream.
    pub json_row_limit: u64,
    /// Partitions a plan is split into.
    pub target_partitions: usize,
    /// The least time between two computations of one live dashboard.
    pub dashboard_interval: Duration,
    /// How long a live dashboard may be silent before it sends a comment.
    pub heartbeat: Duration,
    /// Connections the Postgres door holds at once.
    pub postgres_connections: usize,
}

impl Default for QueryServerConfig {
    fn default() -> Self {
        Self {
            catalog: "medlake".into(),
            default_schema: "marts".into(),
            memory_limit_bytes: 512 << 20,
            spill_folder: None,
            spill_limit_bytes: 8 << 30,
            permits: 16,
            queue_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(60),
            json_row_limit: 100_000,
            target_partitions: 2,
            dashboard_interval: Duration::from_millis(100),
            heartbeat: Duration::from_secs(15),
            postgres_connections: 200,
        }
    }
}

impl QueryServerConfig {
    /// Everything that is wrong with the values, each in one line; empty when nothing is.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |right: bool, problem: &str| {
            if !right {
                problems.push(problem.to_owned());
            }
        };
        check(!self.catalog.is_empty(), "catalog is empty");
        check(!self.default_schema.is_empty(), "default_schema is empty");
        check(self.memory_limit_bytes >= 16 << 20, "memory_limit_bytes is under 16 MiB");
        check(self.permits > 0, "permits is 0");
        check(!self.statement_timeout.is_zero(), "statement_timeout is 0");
        check(self.json_row_limit > 0, "json_row_limit is 0");
        check(self.target_partitions > 0, "target_partitions is 0");
        check(!self.heartbeat.is_zero(), "heartbeat is 0");
        check(self.postgres_connections > 0, "postgres_connections is 0");
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_told_at_once() {
        assert!(QueryServerConfig::default().problems().is_empty());
        let wrong = QueryServerConfig {
            permits: 0,
            catalog: String::new(),
            ..QueryServerConfig::default()
        };
        assert_eq!(wrong.problems(), ["catalog is empty", "permits is 0"]);
    }
}
