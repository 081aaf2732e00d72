//! What patients did in the year before they were enrolled: their refills and follow-ups, imported
//! beside the traffic.
//!
//! The law of the refills: the first is 365 to 394 days before the enrolment, each is a supply of 30
//! days, and the next one comes when it has run out, give or take the habit of the patient:
//!
//! | of 100 | habit  | the next refill comes                                            |
//! |--------|--------|------------------------------------------------------------------|
//! | 58     | steady | about on time (normal, deviation 2 days, at most 5)              |
//! | 10     | early  | 3 to 8 days early                                                |
//! | 12     | late   | 8 to 16 days late                                                |
//! | 10     | gaps   | as steady, but three in ten are 20 to 60 days late               |
//! | 10     | stops  | as steady, and no more from a day 60 to 300 days after the first |
//!
//! Steady and early patients cover more than 80 % of their days, late ones less, and so do most of
//! the others: about 70 of 100 measured patients are adherent.
//!
//! Follow-ups are about 185 and 95 days before the enrolment and on its day. The last one is noted
//! as such and imported last, so that a later run sees who has a history. One that was cut short is
//! imported again under the same keys, which follow, as all of it does, from the seed, the patient
//! and the time of the enrolment.

use std::{collections::BTreeSet, sync::Arc};

use chrono::{Days, NaiveDate};
use futures::{StreamExt, stream};
use rand::{RngExt, rngs::StdRng};
use rand_distr::{Distribution, StandardNormal};
use serde_json::{Value, json};

use super::{
    Client, DAY_MICROS, HOUR_MICROS, Refused,
    patients::{Patient, Plan},
    world::World,
};

/// Patients whose histories are imported at once; requests of the traffic come in between.
const IMPORTS_MAX: usize = 8;
const SUPPLY_DAYS: i64 = 30;
const YEAR_DAYS: u64 = 365;
/// What the follow-up on the day of the enrolment is known by.
const ENROLMENT_NOTE: &str = "enrolment";

/// How a patient refills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    Steady,
    Early,
    Late,
    Gaps,
    Stops,
}

impl Habit {
    pub(super) fn draw(random: &mut StdRng) -> Self {
        match random.random_range(0..100) {
            0..58 => Self::Steady,
            58..68 => Self::Early,
            68..80 => Self::Late,
            80..90 => Self::Gaps,
            _ => Self::Stops,
        }
    }

    /// From the end of a supply to the next refill, in days; negative when it comes early.
    fn delay_days(self, random: &mut StdRng) -> i64 {
        match self {
            Self::Early => random.random_range(-8..=-3),
            Self::Late => random.random_range(8..=16),
            Self::Gaps if random.random_bool(0.3) => random.random_range(20..=60),
            Self::Steady | Self::Gaps | Self::Stops => about_on_time(random),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "clamped to a few days")]
fn about_on_time(random: &mut StdRng) -> i64 {
    let scatter: f64 = StandardNormal.sample(random);
    (2.0 * scatter).round().clamp(-5.0, 5.0) as i64
}

/// The days of the refills up to and on the day of the enrolment, in order; never empty.
pub(super) fn refills(habit: Habit, enrolled_on: NaiveDate, random: &mut StdRng) -> Vec<NaiveDate> {
    let mut day = enrolled_on - Days::new(YEAR_DAYS + random.random_range(0..30));
    let stops_after = random.random_range(60..=300);
    let last = match habit {
        Habit::Stops => day + Days::new(stops_after),
        _ => enrolled_on,
    };
    let mut refills = BTreeSet::new();
    while day <= last {
        refills.insert(day);
        day += chrono::Duration::days(SUPPLY_DAYS + habit.delay_days(random));
    }
    refills.into_iter().collect()
}

/// What is to be imported of one patient.
pub(super) struct History {
    /// The place of the patient in the world.
    pub(super) place: usize,
    /// Their number among the simulated patients.
    pub(super) number: i64,
    pub(super) enrolled_at: i64,
    pub(super) refills: Vec<NaiveDate>,
    pub(super) random: StdRng,
}

/// Whether an earlier run imported the history of a patient, from what the service says of them.
pub(super) fn is_imported(patient: &Value) -> bool {
    let follow_ups = patient["follow_ups"].as_array();
    follow_ups.is_some_and(|f| f.iter().any(|f| f["note"] == ENROLMENT_NOTE))
}

/// Imports the histories, some at once; what is refused is logged.
pub(super) async fn import(client: Arc<Client>, world: Arc<World>, histories: Vec<History>) {
    if histories.is_empty() {
        return;
    }
    let patients = histories.len();
    stream::iter(histories)
        .for_each_concurrent(IMPORTS_MAX, |history| {
            let (client, world) = (Arc::clone(&client), Arc::clone(&world));
            async move {
                let patient = &world.patients[history.place];
                let Some(plan) = &patient.plan else { return };
                let number = history.number;
                match history.import(&client, patient, plan).await {
                    Ok(()) => plan.open_backlog(),
                    Err(error) => {
                        tracing::warn!(number, %error, "a patient's history was refused");
                    }
                }
            }
        })
        .await;
    tracing::info!(patients, "the past year's refills and follow-ups are imported");
}

impl History {
    async fn import(
        mut self,
        client: &Client,
        patient: &Patient,
        plan: &Plan,
    ) -> Result<(), Refused> {
        // The newest first: measures go up to the newest day there is, which is then seen at once.
        for day in self.refills.iter().rev() {
            let body = json!({
                "patient_id": patient.patient_id,
                "drug_code": plan.drug_code,
                "drug_class": plan.drug_class,
                "dispensed_on": day.to_string(),
                "days_supply": SUPPLY_DAYS,
                "source": "import",
            });
            self.post(client, "/chronic-care/dispensings", &day.to_string(), &body).await?;
        }
        for (step, days, note) in
            [("1", 180, Value::Null), ("2", 90, Value::Null), ("3", 0, ENROLMENT_NOTE.into())]
        {
            let scatter = if days > 0 { self.random.random_range(0..240) } else { 0 };
            let at = self.enrolled_at - days * DAY_MICROS - scatter * HOUR_MICROS;
            let mut body = patient.follow_up(at, &mut self.random);
            body["performed_at"] = json!(at);
            body["note"] = note;
            self.post(client, "/chronic-care/follow-ups", step, &body).await?;
        }
        Ok(())
    }

    async fn post(
        &self,
        client: &Client,
        path: &str,
        step: &str,
        body: &Value,
    ) -> Result<(), Refused> {
        let key = format!("setup{path}/{}/{step}", self.number);
        match client.post(path, &key, body).await {
            // Imported by an earlier run, which drew it differently.
            Err(refused) if refused.is_conflict() => Ok(()),
            answered => answered.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::Datelike;
    use medlake_transforms::pdc::{Carry, Fill, Window, measure};
    use rand::SeedableRng;

    use super::*;

    /// Measured and adherent of 300 patients, in all the years that the lake measures.
    fn measured(seed: u64, as_of: NaiveDate) -> (usize, usize) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut adherent = Vec::new();
        let days = |day: NaiveDate| i64::from(day.num_days_from_ce());
        for _ in 0..300 {
            let habit = Habit::draw(&mut random);
            let refills = refills(habit, as_of, &mut random);
            let fills: Vec<Fill<'_>> = refills
                .iter()
                .map(|day| Fill { drug: "C08CA01", on: days(*day), days: SUPPLY_DAYS })
                .collect();
            for year in [as_of.year() - 1, as_of.year()] {
                let from = NaiveDate::from_ymd_opt(year, 1, 1).unwrap();
                let to = NaiveDate::from_ymd_opt(year, 12, 31).unwrap().min(as_of);
                let period = Window { start: days(from), end: days(to) + 1 };
                let measured = measure(&fills, Carry::SameDrug, period);
                adherent.extend(measured.and_then(|m| m.adherent()));
            }
        }
        (adherent.len(), adherent.iter().filter(|a| **a).count())
    }

    #[test]
    fn on_any_day_of_the_year_most_are_measured_and_the_rate_is_plausible() {
        for (month, day) in [(1, 1), (2, 28), (4, 5), (6, 30), (9, 15), (11, 21), (12, 31)] {
            let as_of = NaiveDate::from_ymd_opt(2026, month, day).unwrap();
            for seed in [1, 5, 42] {
                let (measured, adherent) = measured(seed, as_of);
                assert!(measured >= 200, "{as_of} seed {seed}: {measured} measured");
                let percent = adherent * 100 / measured;
                assert!((55..=85).contains(&percent), "{as_of} seed {seed}: {percent} %");
            }
        }
    }

    #[test]
    fn refills_are_of_the_past_year_and_follow_from_the_seed() {
        let as_of = NaiveDate::from_ymd_opt(2026, 11, 21).unwrap();
        let draw = |seed| {
            let mut random = StdRng::seed_from_u64(seed);
            let habit = Habit::draw(&mut random);
            (habit, refills(habit, as_of, &mut random))
        };
        for seed in 0..500 {
            let (habit, refills) = draw(seed);
            assert_eq!((habit, refills.clone()), draw(seed));
            let first = (as_of - refills[0]).num_days();
            assert!((365..395).contains(&first), "{first} days back");
            assert!(refills.is_sorted() && refills.last().is_some_and(|last| *last <= as_of));
            assert!(refills.len() <= 18, "{habit:?}: {}", refills.len());
            let silent = (as_of - *refills.last().unwrap()).num_days();
            let stopped = habit == Habit::Stops;
            assert!(if stopped { silent >= 65 } else { silent <= 90 }, "{habit:?}: {silent}");
        }
    }
}
