//! The only clock of the process; rooms are given it as a function.

use std::sync::Arc;

/// The time now, in microseconds since 1970-01-01T00:00:00Z.
pub(crate) type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The machine's clock.
pub(crate) fn machine() -> Clock {
    Arc::new(now_micros)
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
fn now_micros() -> i64 {
    chrono::Utc::now().timestamp_micros()
}
