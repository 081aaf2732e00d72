//! The people at work now, through the services' HTTP API.

mod people;
mod session;

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Exp};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    backfill::Stage,
    behaviour::{self, Model},
    client::{Client, Refused},
};
use crate::{
    clock::{self, Clock},
    config::ClientCredentials,
};
use people::World;
use session::Session;

/// Visits to the mall, dose events, readings and follow-ups for each order.
const VISITS_PER_ORDER: f64 = 1.0 / behaviour::ORDERS;
const DOSE_EVENTS_PER_ORDER: f64 = 1.5;
const READINGS_PER_ORDER: f64 = 1.0;
const FOLLOW_UPS_PER_ORDER: f64 = 0.1;

/// People who are in the middle of something; more arrivals wait.
const SESSIONS_MAX: usize = 10_000;
/// Arrivals that are later than this are given up, so that a long stop is not made up for.
const BEHIND_MAX: Duration = Duration::from_secs(1);
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked whether a campaign begins today.
const PROMOTE_EVERY: Duration = Duration::from_secs(600);

/// The payment channels that may tell of the payments of the traffic.
pub(crate) fn payment_channels() -> impl Iterator<Item = &'static str> {
    behaviour::PAYMENT_METHODS.iter().map(|(method, _)| *method)
}

/// What traffic to make.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LiveConfig {
    /// Where the services listen, such as `http://127.0.0.1:8081`.
    pub(crate) services: String,
    /// Mean orders a second, above 0.
    pub(crate) orders_per_second: f64,
    /// Same seed, same people, baskets and choices; the times between are the machine's own.
    pub(crate) seed: u64,
    /// How many people there are, at least 100.
    pub(crate) people: usize,
    /// Which client of the services it is, when they want tokens.
    pub(crate) access: Option<ClientCredentials>,
    /// Secrets of the payment channels that tell of payments, by their names, which are those of
    /// methods; payments of other methods are entered.
    pub(crate) channels: BTreeMap<String, String>,
}

/// What was done so far.
#[derive(Debug, Default)]
struct Tally {
    visits: AtomicU64,
    orders: AtomicU64,
    paid: AtomicU64,
    refunds: AtomicU64,
    health_events: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    Visit,
    Dose,
    Reading,
    FollowUp,
}

const ARRIVALS: [(Arrival, f64); 4] = [
    (Arrival::Visit, VISITS_PER_ORDER),
    (Arrival::Dose, DOSE_EVENTS_PER_ORDER),
    (Arrival::Reading, READINGS_PER_ORDER),
    (Arrival::FollowUp, FOLLOW_UPS_PER_ORDER),
];

/// Makes traffic until `cancel` is cancelled: as far as the `past` is, until that is whole, with those
/// of its people alone who are nothing but buyers. What the past has still to make is not made here.
///
/// # Errors
/// When the configuration cannot be used, or the services refuse what the traffic needs.
pub(crate) async fn run(
    config: LiveConfig,
    past: watch::Receiver<Stage>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Ok(()),
        ended = traffic(config, past, clock::machine()) => ended,
    }
}

async fn traffic(
    config: LiveConfig,
    mut past: watch::Receiver<Stage>,
    clock: Clock,
) -> anyhow::Result<()> {
    let LiveConfig { services, orders_per_second, seed, people, access, channels } = config;
    let channels = Arc::new(channels);
    anyhow::ensure!(
        orders_per_second.is_finite() && orders_per_second > 0.0,
        "orders_per_second must be a positive number, not {orders_per_second}"
    );
    let client = Arc::new(Client::new(&services, access.clone())?);
    // Keys must not be those of an earlier run, whose answers the services still remember.
    let run = clock();
    let model = Arc::new(Model::new(seed, people));
    reached(&mut past, Stage::Goods).await;
    let is_whole = *past.borrow() == Stage::Whole;
    let shops = people::Shops::set_up(&client, Arc::clone(&model))
        .await
        .context("could not set up the pharmacies and products of the simulation")?;
    // Not in the queue of the traffic.
    let setting_up = Client::new(&services, access)?;
    let mut whole = pin!(async {
        reached(&mut past, Stage::Whole).await;
        let world = World::set_up(&setting_up, shops.clone(), clock()).await;
        world.map(Arc::new).context("could not set up the people of the simulation")
    });
    let mut all_are_there = is_whole;
    let mut world = match is_whole {
        true => whole.as_mut().await?,
        false => Arc::new(World::of_passers_by(shops.clone())),
    };
    tracing::info!(orders_per_second, seed, people, "traffic begins");
    let tally = Arc::new(Tally::default());
    let mut random = StdRng::seed_from_u64(seed);
    let per_order: f64 = ARRIVALS.iter().map(|(_, rate)| rate).sum();
    let gaps = Exp::new(orders_per_second * per_order).map_err(anyhow::Error::msg)?;
    // Sessions end with this set, when the traffic is dropped.
    let mut sessions = JoinSet::new();
    let mut due = Instant::now();
    let mut report = tokio::time::interval(REPORT_EVERY);
    report.tick().await;
    let mut promote = tokio::time::interval(PROMOTE_EVERY);
    for number in 0_u64.. {
        due = (due + Duration::from_secs_f64(gaps.sample(&mut random)))
            .max(Instant::now().checked_sub(BEHIND_MAX).unwrap_or(due));
        let arrival = draw(&mut random, per_order);
        let seed = random.random();
        loop {
            tokio::select! {
                biased;
                Some(ended) = sessions.join_next() => ended.context("a session stopped")?,
                made = &mut whole, if !all_are_there => {
                    (world, all_are_there) = (made?, true);
                }
                _ = promote.tick(), if all_are_there => {
                    let (client, world, now) = (Arc::clone(&client), Arc::clone(&world), clock());
                    sessions.spawn(async move { world.shops.promote(&client, now).await });
                }
                _ = report.tick() => tally.report(sessions.len()),
                () = tokio::time::sleep_until(due), if sessions.len() < SESSIONS_MAX => break,
            }
        }
        let session = Session {
            client: Arc::clone(&client),
            world: Arc::clone(&world),
            tally: Arc::clone(&tally),
            channels: Arc::clone(&channels),
            clock: Arc::clone(&clock),
            random: StdRng::seed_from_u64(seed),
            key: format!("{run:x}-{number}"),
        };
        sessions.spawn(session.run(arrival));
    }
    Ok(())
}

/// Waits until the past is so far; for good if it stops before.
async fn reached(past: &mut watch::Receiver<Stage>, stage: Stage) {
    if past.wait_for(|at| *at >= stage).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Merged Poisson processes: each arrival is of one kind, in proportion to the rates.
fn draw(random: &mut StdRng, per_order: f64) -> Arrival {
    let mut at = random.random_range(0.0..per_order);
    for (arrival, rate) in ARRIVALS {
        if at < rate {
            return arrival;
        }
        at -= rate;
    }
    Arrival::Visit
}

impl Tally {
    fn report(&self, sessions: usize) {
        // Relaxed: counts for a person to read, each true on its own.
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        tracing::info!(
            visits = count(&self.visits),
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

#[cfg(test)]
mod tests;
