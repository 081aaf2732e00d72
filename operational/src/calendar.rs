//! Days: those of Asia/Shanghai, eight hours ahead of UTC all the year.

use chrono::{DateTime, FixedOffset, NaiveDate};

use crate::OperationalError;

pub(crate) const DAY_MICROS: i64 = 86_400 * 1_000_000;
/// A day begins in Shanghai this much before it does in UTC.
pub(crate) const SHANGHAI_MICROS: i64 = 8 * 3600 * 1_000_000;

pub(crate) fn shanghai() -> FixedOffset {
    FixedOffset::east_opt(8 * 3600).expect("eight hours is a valid offset")
}

/// The business day of a time in microseconds since 1970 (UTC).
///
/// # Errors
/// `Invalid` for a time outside the calendar.
pub(crate) fn business_day(at_micros: i64) -> Result<NaiveDate, OperationalError> {
    DateTime::from_timestamp_micros(at_micros)
        .map(|at| at.with_timezone(&shanghai()).date_naive())
        .ok_or_else(|| OperationalError::invalid("the time is outside the calendar"))
}
