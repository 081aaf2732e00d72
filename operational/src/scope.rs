use chrono::{Datelike, NaiveDate};

use crate::OperationalError;

/// Whose rows a call touches and the time it happens at. A service passes the present; a replay
/// passes the recorded time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// The tenant that owns the rows.
    pub tenant_id: i64,
    /// Microseconds since 1970 (UTC).
    pub now: i64,
}

impl Scope {
    /// The tenant that requests without a tenant belong to.
    pub const DEFAULT_TENANT: i64 = 1;

    /// The default tenant, at `now` (microseconds since 1970, UTC).
    #[must_use]
    pub const fn at(now: i64) -> Self {
        Self { tenant_id: Self::DEFAULT_TENANT, now }
    }
}

/// The last microsecond of the year 9999: later times and days are written in forms that readers of
/// the change table do not know.
const LAST_MICROS: i64 = 253_402_300_799_999_999;

/// Refuses a time from a client that is before 1970 or after the year 9999.
pub(crate) fn check_time(field: &str, at_micros: Option<i64>) -> Result<(), OperationalError> {
    match at_micros {
        Some(at) if !(0..=LAST_MICROS).contains(&at) => Err(OperationalError::invalid(format!(
            "{field} must be microseconds between the years 1970 and 9999"
        ))),
        _ => Ok(()),
    }
}

/// Refuses a day from a client that is not in the years 1 to 9999.
pub(crate) fn check_day(field: &str, day: Option<NaiveDate>) -> Result<(), OperationalError> {
    match day {
        Some(day) if !(1..=9999).contains(&day.year()) => {
            Err(OperationalError::invalid(format!("{field} must be in the years 1 to 9999")))
        }
        _ => Ok(()),
    }
}
