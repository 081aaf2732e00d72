//! Days: those of Asia/Shanghai, eight hours ahead of UTC all the year.

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime};

use crate::OperationalError;

/// Microseconds in a day.
pub const DAY_MICROS: i64 = 86_400 * 1_000_000;
/// A day begins in Shanghai this much before it does in UTC.
pub const SHANGHAI_MICROS: i64 = 8 * 3600 * 1_000_000;

pub(crate) fn shanghai() -> FixedOffset {
    FixedOffset::east_opt(8 * 3600).expect("eight hours is a valid offset")
}

/// When clocks in Shanghai show this, in microseconds since 1970 (UTC).
#[must_use]
pub const fn instant(wall_clock: NaiveDateTime) -> i64 {
    wall_clock.and_utc().timestamp_micros() - SHANGHAI_MICROS
}

/// The beginning of a business day, in microseconds since 1970 (UTC).
#[must_use]
pub const fn midnight(day: NaiveDate) -> i64 {
    instant(day.and_time(NaiveTime::MIN))
}

/// The business day of a time in microseconds since 1970 (UTC).
///
/// # Errors
/// `Invalid` for a time outside the calendar.
pub fn business_day(at_micros: i64) -> Result<NaiveDate, OperationalError> {
    DateTime::from_timestamp_micros(at_micros)
        .map(|at| at.with_timezone(&shanghai()).date_naive())
        .ok_or_else(|| OperationalError::invalid("the time is outside the calendar"))
}
