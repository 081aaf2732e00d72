//! A history put into the databases: the services' own functions at past times, a day or a piece of
//! it in one transaction of each database, and the three beside each other.
//!
//! Each database notes with each piece that it has it. A history that was cut short is drawn again
//! from its beginning, which takes a second, and each database leaves out what it has.
//!
//! The traffic of today goes on beside it with those of whom the history has nothing but orders
//! ([`Stage`]), so that it comes out the same with traffic and without.

mod care;
mod distribution;
mod mall;

use std::{fmt, sync::Arc, time::Duration};

use anyhow::Context;
use medlake_operational::{
    Database, OperationalError, Scope, Services, WriteTransaction,
    identity::persons::{self, NewPerson},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    DAY_MICROS,
    behaviour::{Act, Model, Step},
    catalogue, day_of,
    history::{Chunk, History},
    midnight,
    people::Person,
};

/// What the progress of a history is noted under.
const NAME: &str = "simulated history";
/// Ids of a history's orders are above this one, so that they follow from the history itself.
const ORDER_IDS: i64 = 20_000_000_000;
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// So many acts are one transaction, half a second's: who orders meanwhile waits for no more.
const ACTS_AT_ONCE: usize = 2_000;
/// People who become known in one transaction.
const PEOPLE_AT_ONCE: usize = 400;

/// How far a history is, to those who go on with its people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Nothing may be relied on.
    Begun,
    /// Pharmacies, products and coupons are there.
    Goods,
    /// All of it is there.
    Whole,
}

/// Which history to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackfillConfig {
    /// Same seed, same history.
    pub(crate) seed: u64,
    /// How many people there are, at least 100.
    pub(crate) people: usize,
    /// How many days back it begins.
    pub(crate) days: u32,
}

/// What a database has of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    seed: u64,
    people: usize,
    days: u32,
    from: i64,
    until: i64,
    /// All before this time is there.
    done: i64,
}

/// What was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BackfillReport {
    /// Days of the history.
    pub(crate) days: i64,
    /// People in it.
    pub(crate) people: usize,
    /// Acts that were carried out now.
    pub(crate) acts: u64,
    /// Orders among them.
    pub(crate) orders: u64,
    /// Acts that a service refused.
    pub(crate) refused: u64,
    /// Whether all of it was there already.
    pub(crate) there: bool,
    /// How long it took.
    pub(crate) elapsed: Duration,
}

impl fmt::Display for BackfillReport {
    #[expect(clippy::cast_precision_loss, reason = "a rate for a person to read")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { days, people, acts, orders, refused, there, elapsed } = self;
        if *there {
            return write!(f, "{days} days of {people} people are there already");
        }
        let seconds = elapsed.as_secs_f64();
        write!(
            f,
            "{days} days of {people} people in {seconds:.1} s: {orders} orders, {acts} acts"
        )?;
        write!(f, " ({:.0}/s), {refused} refused", *acts as f64 / seconds.max(0.001))
    }
}

/// Makes what is missing of a history, up to now or, if it was begun before, up to when it was begun,
/// and says in `stage` how far it is; one that is cancelled does not become whole.
///
/// # Errors
/// When the databases have another history, or fail.
pub(crate) async fn run(
    services: &Services,
    config: BackfillConfig,
    stage: &watch::Sender<Stage>,
    cancel: &CancellationToken,
) -> anyhow::Result<BackfillReport> {
    let started = Instant::now();
    let noted = begin(services, config).await?;
    let model = Arc::new(Model::new(config.seed, config.people));
    let mut report = BackfillReport {
        days: (noted.until - noted.from).div_euclid(DAY_MICROS),
        people: model.population.people.len(),
        there: true,
        ..BackfillReport::default()
    };
    let mut mall = mall::Mall::open(services, &model, noted.from).await?;
    let mut distribution =
        distribution::Distribution::open(services, &model, &mall.products, noted).await?;
    let mut care = care::Care::open(&model);
    stage.send_replace(Stage::Goods);
    introduce(services, config, noted.from).await?;
    let done = [
        position(services.mall(), noted).await?,
        position(services.distribution(), noted).await?,
        position(services.chronic_care(), noted).await?,
    ];
    let mut reported = started;
    let history = History::new(Arc::clone(&model), noted.from, noted.until);
    for chunk in history.flat_map(|chunk| chunk.pieces(ACTS_AT_ONCE)) {
        if done.iter().all(|done| chunk.until <= *done) {
            continue;
        }
        if cancel.is_cancelled() {
            report.elapsed = started.elapsed();
            return Ok(report);
        }
        report.there = false;
        let note = serde_json::to_string(&Noted { done: chunk.until, ..noted })?;
        let missing = |database: usize| (chunk.until > done[database]).then_some(done[database]);
        let now = services.now();
        // What the days before mean to the others comes before this day, which may build on it.
        if done.iter().all(|done| chunk.until > *done) {
            services.deliver_outbox().await?;
        }
        let (of_mall, of_distribution, of_care) = tokio::try_join!(
            Box::pin(carry_out(services.mall(), &mut mall, &chunk, &note, missing(0), now)),
            Box::pin(carry_out(
                services.distribution(),
                &mut distribution,
                &chunk,
                &note,
                missing(1),
                now
            )),
            Box::pin(carry_out(services.chronic_care(), &mut care, &chunk, &note, missing(2), now)),
        )?;
        // The mall last: whoever hears of an order finds the distributor and the patient there.
        for carried_out in [of_distribution, of_care, of_mall].into_iter().flatten() {
            let (tx, tally) = carried_out;
            tx.commit().await?;
            report.acts += tally.acts;
            report.refused += tally.refused;
            report.orders += tally.orders;
        }
        if reported.elapsed() > REPORT_EVERY {
            reported = Instant::now();
            let days = (chunk.until - noted.from).div_euclid(DAY_MICROS);
            tracing::info!(days, of = report.days, acts = report.acts, "making a history");
        }
    }
    services.deliver_outbox().await?;
    stage.send_replace(Stage::Whole);
    report.elapsed = started.elapsed();
    Ok(report)
}

/// The history the databases have or are to have: the mall's note is made before anything else.
async fn begin(services: &Services, config: BackfillConfig) -> anyhow::Result<Noted> {
    let BackfillConfig { seed, people, days } = config;
    if let Some(noted) = noted(services.mall()).await? {
        anyhow::ensure!(
            (noted.seed, noted.people, noted.days) == (seed, people, days),
            "there is a simulated history of {} days, {} people and seed {} already: ask for the \
             same to go on with it, or use another data folder",
            noted.days,
            noted.people,
            noted.seed
        );
        return Ok(noted);
    }
    let until = services.now();
    let from = midnight(day_of(until) - i64::from(days));
    let noted = Noted { seed, people, days, from, until, done: from };
    let mut tx = services.mall().begin(services.now()).await?;
    tx.set_progress(NAME, &serde_json::to_string(&noted)?).await?;
    tx.commit().await?;
    Ok(noted)
}

/// Makes the simulated people known to identity by their own ids, as of a time (microseconds since 1970, UTC),
/// unless they are known.
///
/// # Errors
/// When the database fails, or somebody has one of their phone numbers.
pub(crate) async fn introduce(
    services: &Services,
    of: BackfillConfig,
    at: i64,
) -> anyhow::Result<()> {
    let BackfillConfig { seed, people, .. } = of;
    let introduced = format!("{people} people of seed {seed}");
    if services.identity().read().await?.progress(NAME).await?.as_ref() == Some(&introduced) {
        return Ok(());
    }
    let new = |person: &Person| NewPerson {
        person_id: Some(person.person_id),
        name: Some(catalogue::patient_name(person.number())),
        phone: person.patient.as_ref().map(|_| catalogue::phone(person.number())),
    };
    for people in Model::new(seed, people).population.people.chunks(PEOPLE_AT_ONCE) {
        let mut tx = services.identity().begin(services.now()).await?;
        let people: Vec<NewPerson> = people.iter().map(new).collect();
        persons::create_many(&mut tx, Scope::at(at), &people).await?;
        tx.commit().await?;
    }
    let mut tx = services.identity().begin(services.now()).await?;
    tx.set_progress(NAME, &introduced).await?;
    tx.commit().await?;
    Ok(())
}

async fn noted(database: &Database) -> anyhow::Result<Option<Noted>> {
    let Some(text) = database.read().await?.progress(NAME).await? else { return Ok(None) };
    let noted = serde_json::from_str(&text);
    Ok(Some(noted.with_context(|| format!("could not read the progress \"{text}\""))?))
}

async fn position(database: &Database, of: Noted) -> anyhow::Result<i64> {
    Ok(noted(database).await?.map_or(of.from, |noted| noted.done))
}

/// The history that was begun in these databases, if one was.
///
/// # Errors
/// When the database fails.
pub(crate) async fn of(services: &Services) -> anyhow::Result<Option<BackfillConfig>> {
    let noted = noted(services.mall()).await?;
    Ok(noted.map(|Noted { seed, people, days, .. }| BackfillConfig { seed, people, days }))
}

#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    acts: u64,
    orders: u64,
    refused: u64,
}

/// One database's part of a history.
trait Part {
    /// Does what of a step is this database's to do; whether there was something.
    async fn act(
        &mut self,
        tx: &mut WriteTransaction,
        scope: Scope,
        step: &Step,
    ) -> Result<bool, OperationalError>;

    /// Writes what it has kept back of the steps until now.
    async fn end_of_piece(
        &mut self,
        _: &mut WriteTransaction,
        _: Scope,
    ) -> Result<(), OperationalError> {
        Ok(())
    }

    /// What the service does by itself at the end of a day.
    async fn end_of_day(
        &mut self,
        _: &mut WriteTransaction,
        _: Scope,
    ) -> Result<(), OperationalError> {
        Ok(())
    }
}

/// Does a database's part of a chunk that it does not have since `missing`, if there is one; it is
/// there from the commit on.
async fn carry_out(
    database: &Database,
    part: &mut impl Part,
    chunk: &Chunk,
    note: &str,
    missing: Option<i64>,
    now: i64,
) -> anyhow::Result<Option<(WriteTransaction, Tally)>> {
    let Some(done) = missing else { return Ok(None) };
    let mut tally = Tally::default();
    let mut tx = database.begin(now).await?;
    for step in chunk.steps.iter().filter(|step| step.at >= done) {
        // What is refused in the middle of it leaves nothing behind.
        let marked = matches!(step.act, Act::Place(_));
        if marked {
            tx.mark().await?;
        }
        match part.act(&mut tx, Scope::at(step.at), step).await {
            Ok(true) => {
                tally.acts += 1;
                tally.orders += u64::from(marked);
            }
            Ok(false) => {}
            // Somebody was faster, or what it builds on was refused before.
            Err(
                error @ (OperationalError::Conflict { .. } | OperationalError::NotFound { .. }),
            ) => {
                tracing::debug!(?step, %error, "refused");
                tally.refused += 1;
                if marked {
                    tx.undo().await?;
                }
                continue;
            }
            Err(error) => {
                return Err(error).with_context(|| format!("could not carry out {:?}", step.act));
            }
        }
        if marked {
            tx.keep().await?;
        }
    }
    part.end_of_piece(&mut tx, Scope::at(chunk.until)).await?;
    if chunk.ends_day {
        part.end_of_day(&mut tx, Scope::at(chunk.until)).await?;
    }
    tx.set_progress(NAME, note).await?;
    Ok(Some((tx, tally)))
}

#[cfg(test)]
mod tests;
