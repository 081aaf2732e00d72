//! Drives the services through their HTTP API like people would: buyers, distributors, patients.
//!
//! What is drawn, all from one seed:
//! - arrivals: a Poisson process; for each order, one and a half dose events, one reading and a
//!   tenth of a follow-up on average;
//! - who: buyers by Zipf's law (exponent 0.9 over 5,000 people); one order in five is a patient's;
//! - an order: 1 + geometric(0.45) lines, at most 20; quantity 1 + geometric(0.75); products by
//!   popularity (Zipf, 0.8), a patient's first line often the medicine of their plan; a coupon on
//!   one in three; shipping of 6 yuan on one in two;
//! - what comes of it: 88 of 100 are paid after a delay (exponential, mean 2 s), 7 are closed, 5 are
//!   left; 6 of 100 paid ones get some units of one line refunded (mean 8 s later);
//! - distributors: a tree grown by preferential attachment, so a few have most of the others; 40 of
//!   100 buyers are bound to one, before their first order, again by Zipf's law;
//! - vitals: each patient has a mean of their own (normal), readings scatter around it (normal) and
//!   drift over the weeks; 1 of 100 is a fault of the device;
//! - the past: a year of refills and three follow-ups for each patient, by the law in `history`;
//! - doses: each reminder at most once and when its time has come, by the law in `doses`; a dose that
//!   finds none left is nothing, so a long run reports fewer doses than the rate says.
//!
//! What the traffic needs is set up on the first run and found again on later ones; the past is
//! imported beside the traffic. A service that is away is waited for, with back-off; a request is
//! repeated under one idempotency key, so that nothing happens twice.

mod catalogue;
mod client;
mod doses;
mod history;
mod patients;
mod session;
mod world;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Exp};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::clock::{self, Clock};
use client::{Client, Refused};
use session::Session;

/// Dose events, readings and follow-ups for each order.
const DOSE_EVENTS_PER_ORDER: f64 = 1.5;
const READINGS_PER_ORDER: f64 = 1.0;
const FOLLOW_UPS_PER_ORDER: f64 = 0.1;

/// People who are in the middle of something; more arrivals wait.
const SESSIONS_MAX: usize = 10_000;
/// Arrivals that are later than this are given up, so that a long stop is not made up for.
const BEHIND_MAX: Duration = Duration::from_secs(1);
const REPORT_EVERY: Duration = Duration::from_secs(60);

const HOUR_MICROS: i64 = 3600 * 1_000_000;
const DAY_MICROS: i64 = 24 * HOUR_MICROS;
/// Midnight in Asia/Shanghai is this much before midnight UTC.
const SHANGHAI_MICROS: i64 = 8 * HOUR_MICROS;

/// What traffic to make.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SimulateConfig {
    /// Where the services listen, such as `http://127.0.0.1:8081`.
    pub(crate) services: String,
    /// Mean orders a second, above 0.
    pub(crate) orders_per_second: f64,
    /// Same seed, same people, baskets and choices; the times between are the machine's own.
    pub(crate) seed: u64,
}

/// What was done so far.
#[derive(Debug, Default)]
struct Tally {
    orders: AtomicU64,
    paid: AtomicU64,
    refunds: AtomicU64,
    health_events: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    Order,
    Dose,
    Reading,
    FollowUp,
}

/// Makes traffic until `cancel` is cancelled.
///
/// # Errors
/// When the configuration cannot be used, or the services refuse what the traffic needs.
pub(crate) async fn run(config: SimulateConfig, cancel: CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Ok(()),
        ended = traffic(config, clock::machine()) => ended,
    }
}

async fn traffic(config: SimulateConfig, clock: Clock) -> anyhow::Result<()> {
    let SimulateConfig { services, orders_per_second, seed } = config;
    anyhow::ensure!(
        orders_per_second.is_finite() && orders_per_second > 0.0,
        "orders_per_second must be a positive number, not {orders_per_second}"
    );
    let client = Arc::new(Client::new(&services)?);
    // Keys must not be those of an earlier run, whose answers the services still remember.
    let run = clock();
    let mut world = world::set_up(&client, seed, run)
        .await
        .context("could not set up the pharmacies, products and people of the simulation")?;
    let histories = std::mem::take(&mut world.histories);
    let world = Arc::new(world);
    tracing::info!(
        orders_per_second,
        seed,
        pharmacies = world.pharmacies.len(),
        products = world.products.len(),
        distributors = world.distributors.len(),
        patients = world.patients.len(),
        "traffic begins"
    );
    let tally = Arc::new(Tally::default());
    let mut random = StdRng::seed_from_u64(seed);
    let per_order = 1.0 + DOSE_EVENTS_PER_ORDER + READINGS_PER_ORDER + FOLLOW_UPS_PER_ORDER;
    let gaps = Exp::new(orders_per_second * per_order).map_err(anyhow::Error::msg)?;
    // Sessions end with this set, when the traffic is dropped.
    let mut sessions = JoinSet::new();
    sessions.spawn(history::import(Arc::clone(&client), Arc::clone(&world), histories));
    let mut due = Instant::now();
    let mut report = tokio::time::interval(REPORT_EVERY);
    report.tick().await;
    for number in 0_u64.. {
        due = (due + Duration::from_secs_f64(gaps.sample(&mut random)))
            .max(Instant::now().checked_sub(BEHIND_MAX).unwrap_or(due));
        let arrival = draw(&mut random, per_order);
        let session = Session {
            client: Arc::clone(&client),
            world: Arc::clone(&world),
            tally: Arc::clone(&tally),
            clock: Arc::clone(&clock),
            random: StdRng::seed_from_u64(random.random()),
            key: format!("{run:x}-{number}"),
        };
        loop {
            tokio::select! {
                biased;
                Some(ended) = sessions.join_next() => ended.context("a session stopped")?,
                _ = report.tick() => tally.report(sessions.len()),
                () = tokio::time::sleep_until(due), if sessions.len() < SESSIONS_MAX => break,
            }
        }
        sessions.spawn(session.run(arrival));
    }
    Ok(())
}

/// Merged Poisson processes: each arrival is of one kind, in proportion to the rates.
fn draw(random: &mut StdRng, per_order: f64) -> Arrival {
    let mut at = random.random_range(0.0..per_order);
    for (arrival, rate) in [
        (Arrival::Order, 1.0),
        (Arrival::Dose, DOSE_EVENTS_PER_ORDER),
        (Arrival::Reading, READINGS_PER_ORDER),
    ] {
        if at < rate {
            return arrival;
        }
        at -= rate;
    }
    Arrival::FollowUp
}

impl Tally {
    fn report(&self, sessions: usize) {
        // Relaxed: counts for a person to read, each true on its own.
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        tracing::info!(
            orders = count(&self.orders),
            paid = count(&self.paid),
            refunds = count(&self.refunds),
            health_events = count(&self.health_events),
            refused = count(&self.refused),
            sessions,
            "traffic so far"
        );
    }

    fn add(counter: &AtomicU64) {
        // Relaxed: nothing else depends on a count.
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
