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

const HOUR_MICROS: i64 = 3600 * 1_000_000;
const DAY_MICROS: i64 = 24 * HOUR_MICROS;
/// Midnight in Asia/Shanghai is this much before midnight UTC.
const SHANGHAI_MICROS: i64 = 8 * HOUR_MICROS;
