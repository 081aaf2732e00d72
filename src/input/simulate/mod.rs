//! A hospital's people, simulated: what they did for months, and what they do now. `docs/simulator.md`
//! has every parameter with its unit and its law.
//!
//! `people` and `behaviour` are one model, drawn from a seed, that knows neither service nor database.
//! `history` draws months of it in order of time, and `backfill` puts them into the databases by the
//! services' own functions; `live` draws arrivals at a rate and lets them act through the HTTP API.
//!
//! What the traffic needs is set up on the first run and found again on later ones. A service that is
//! away is waited for, with back-off; a request is repeated under one idempotency key, so that nothing
//! happens twice.

pub(crate) mod backfill;
mod behaviour;
mod catalogue;
mod client;
mod history;
mod home;
mod law;
pub(crate) mod live;
mod people;
mod promotions;

use chrono::NaiveDate;
use medlake_operational::calendar::{self, DAY_MICROS, SHANGHAI_MICROS};

const HOUR_MICROS: i64 = 3600 * 1_000_000;

/// The day of a time in Asia/Shanghai, counted from 1970-01-01.
const fn day_of(at: i64) -> i64 {
    (at + SHANGHAI_MICROS).div_euclid(DAY_MICROS)
}

/// When a day begins in Asia/Shanghai.
const fn midnight(day: i64) -> i64 {
    day * DAY_MICROS - SHANGHAI_MICROS
}

/// The weekday of a day, from Monday: 1970-01-01 was a Thursday.
const fn weekday(day: i64) -> i64 {
    (day + 3).rem_euclid(7)
}

/// The calendar's day of a time.
fn date(at: i64) -> NaiveDate {
    calendar::business_day(at).unwrap_or_default()
}
