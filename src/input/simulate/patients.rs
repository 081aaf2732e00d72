//! Who the patients are: their plans, their vitals, how well they keep to it all.

use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use chrono::{DateTime, NaiveDate};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use rand_distr::{Distribution, StandardNormal};
use serde_json::{Value, json};

use super::{
    Client, DAY_MICROS, SHANGHAI_MICROS, catalogue,
    doses::Reminders,
    history::{self, Habit, History},
    world::{BUYER_IDS, integer},
};

pub(super) const PATIENTS: i64 = 300;

const METHODS: [(&str, u32); 3] = [("visit", 40), ("phone", 35), ("online", 25)];

pub(super) struct Patient {
    pub(super) patient_id: i64,
    pub(super) person_id: i64,
    pub(super) condition: Condition,
    /// The plan they take doses of.
    pub(super) plan: Option<Plan>,
    systolic_mmhg: f64,
    diastolic_mmhg: f64,
    glucose_umol_per_l: f64,
    /// How well they keep to their plan: the chance of a dose on time.
    pub(super) diligence: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    Hypertension,
    Diabetes,
    Other,
}

pub(super) struct Plan {
    pub(super) plan_id: i64,
    pub(super) drug_code: String,
    pub(super) drug_class: String,
    reminders: Mutex<Reminders>,
}

impl Condition {
    const ALL: [Self; 3] = [Self::Hypertension, Self::Diabetes, Self::Other];

    const fn name(self) -> &'static str {
        match self {
            Self::Hypertension => "hypertension",
            Self::Diabetes => "diabetes",
            Self::Other => "other",
        }
    }
}

impl Plan {
    fn of(made: &Value, patient_id: i64, now: i64) -> anyhow::Result<Self> {
        let text = |field: &str| made[field].as_str().unwrap_or_default().to_owned();
        let reminders = Reminders::new(patient_id, integer(made, "doses_per_day")?, now);
        Ok(Self {
            plan_id: integer(made, "plan_id")?,
            drug_code: text("drug_code"),
            drug_class: text("drug_class"),
            reminders: Mutex::new(reminders),
        })
    }

    /// The time of a reminder that is to be reported now, if one is left.
    pub(super) fn take_reminder(&self, now: i64) -> Option<i64> {
        self.reminders.lock().unwrap_or_else(PoisonError::into_inner).take(now)
    }

    pub(super) fn open_backlog(&self) {
        self.reminders.lock().unwrap_or_else(PoisonError::into_inner).open_backlog();
    }
}

impl Patient {
    /// The pressures at a time: their mean, a slow wave of weeks, and scatter.
    pub(super) fn pressure(&self, at: i64, random: &mut StdRng) -> (i64, i64) {
        let days = at.div_euclid(DAY_MICROS).rem_euclid(42);
        let phase = f64::from(i32::try_from(days + self.patient_id % 42).unwrap_or(0)) / 42.0;
        let drift = 4.0 * (phase * std::f64::consts::TAU).sin();
        let systolic = around(self.systolic_mmhg + drift, 7.0, random).clamp(80, 240);
        let diastolic = around(self.diastolic_mmhg + drift / 2.0, 5.0, random).clamp(40, 150);
        (systolic.max(diastolic + 10), diastolic)
    }

    pub(super) fn glucose(&self, random: &mut StdRng) -> i64 {
        around(self.glucose_umol_per_l, 700.0, random).clamp(1_000, 33_000)
    }

    /// What a follow-up at a time finds.
    pub(super) fn follow_up(&self, at: i64, random: &mut StdRng) -> Value {
        let (systolic, diastolic) = self.pressure(at, random);
        let glucose = (self.condition == Condition::Diabetes).then(|| self.glucose(random));
        // No value says it of other conditions; the doctor does.
        let judged = (self.condition == Condition::Other).then(|| random.random_bool(0.65));
        json!({
            "patient_id": self.patient_id,
            "method": choose(&METHODS, random),
            "systolic_mmhg": systolic,
            "diastolic_mmhg": diastolic,
            "fasting_glucose_umol_per_l": glucose,
            "on_target": judged,
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "vitals are small numbers")]
pub(super) fn around(mean: f64, deviation: f64, random: &mut impl Rng) -> i64 {
    let scatter: f64 = StandardNormal.sample(random);
    (mean + deviation * scatter).round() as i64
}

pub(super) fn choose(weighted: &[(&'static str, u32)], random: &mut StdRng) -> &'static str {
    weighted.choose_weighted(random, |(_, weight)| *weight).map_or("", |(choice, _)| choice)
}

/// Finds or makes the patients and their plans; with them, the histories that no earlier run
/// imported.
pub(super) async fn set_up(
    client: &Client,
    seed: u64,
    now: i64,
) -> anyhow::Result<(Vec<Patient>, Vec<History>)> {
    for number in 1..=PATIENTS {
        let drawn = Drawn::new(seed, number)?;
        let body = json!({
            "person_id": BUYER_IDS + number,
            "name": format!("顾客 {number:05}"),
            "sex": drawn.sex,
            "birth_date": drawn.birth_date,
            "condition": drawn.condition.name(),
        });
        match client.post("/chronic-care/patients", &format!("setup/patient/{number}"), &body).await
        {
            // Enrolled by an earlier run.
            Err(refused) if refused.is_conflict() => {}
            answered => drop(answered?),
        }
    }
    let (mut patients, mut histories) = (Vec::new(), Vec::new());
    // The service gives ids from 1 on.
    for patient_id in 1.. {
        let found = match client.get(&format!("/chronic-care/patients/{patient_id}")).await {
            Ok(found) => found,
            Err(refused) if refused.is_not_found() => break,
            Err(refused) => return Err(refused.into()),
        };
        let number = integer(&found, "person_id")? - BUYER_IDS;
        if !(1..=PATIENTS).contains(&number) {
            continue;
        }
        let mut drawn = Drawn::new(seed, number)?;
        let enrolled_at = integer(&found, "enrolled_at")?;
        let refills = history::refills(drawn.habit, day(enrolled_at)?, &mut drawn.random);
        let plan = match &found["medication_plans"][0] {
            Value::Null => &make_plan(client, number, patient_id, &drawn, &refills).await?,
            plan => plan,
        };
        let plan = Plan::of(plan, patient_id, now)?;
        if !history::is_imported(&found) {
            let (place, random) = (patients.len(), drawn.random);
            histories.push(History { place, number, enrolled_at, refills, random });
        }
        // Another seed may have made them.
        let condition = Condition::ALL.into_iter().find(|c| found["condition"] == c.name());
        patients.push(Patient {
            patient_id,
            person_id: BUYER_IDS + number,
            condition: condition.unwrap_or(drawn.condition),
            plan: Some(plan),
            systolic_mmhg: drawn.systolic_mmhg,
            diastolic_mmhg: drawn.diastolic_mmhg,
            glucose_umol_per_l: drawn.glucose_umol_per_l,
            diligence: drawn.diligence,
        });
    }
    Ok((patients, histories))
}

/// A plan that began with the first refill.
async fn make_plan(
    client: &Client,
    number: i64,
    patient_id: i64,
    drawn: &Drawn,
    refills: &[NaiveDate],
) -> anyhow::Result<Value> {
    let (drug_code, drug_class) = drawn.drug;
    let body = json!({
        "patient_id": patient_id,
        "drug_code": drug_code,
        "drug_class": drug_class,
        "doses_per_day": if number % 3 == 0 { 2 } else { 1 },
        "starts_on": refills.first().context("a history without a refill")?.to_string(),
    });
    let key = format!("setup/plan/{number}");
    Ok(client.post("/chronic-care/medication-plans", &key, &body).await?)
}

/// The day of a time, in Asia/Shanghai.
fn day(at: i64) -> anyhow::Result<NaiveDate> {
    let shanghai = DateTime::from_timestamp_micros(at + SHANGHAI_MICROS);
    Ok(shanghai.context("a time outside the calendar")?.date_naive())
}

/// What the seed says of a patient.
struct Drawn {
    sex: &'static str,
    birth_date: String,
    condition: Condition,
    drug: (&'static str, &'static str),
    habit: Habit,
    systolic_mmhg: f64,
    diastolic_mmhg: f64,
    glucose_umol_per_l: f64,
    diligence: f64,
    /// For what else is drawn of them.
    random: StdRng,
}

impl Drawn {
    /// The same on each run, whoever else there is.
    fn new(seed: u64, number: i64) -> anyhow::Result<Self> {
        let mut random =
            StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.unsigned_abs());
        let condition = match random.random_range(0..10) {
            0..6 => Condition::Hypertension,
            6..9 => Condition::Diabetes,
            _ => Condition::Other,
        };
        let class = if condition == Condition::Diabetes { "A10B" } else { "C0" };
        let drugs: Vec<(&str, &str)> = catalogue::PRODUCTS
            .iter()
            .filter_map(|p| p.drug)
            .filter(|(code, ..)| code.starts_with(class))
            .map(|(code, class, _)| (code, class))
            .collect();
        let habit = Habit::draw(&mut random);
        let diligence = match habit {
            Habit::Steady | Habit::Early => 0.75..0.98,
            Habit::Late | Habit::Gaps | Habit::Stops => 0.45..0.75,
        };
        let mut normal = |mean: f64, deviation: f64| {
            let scatter: f64 = StandardNormal.sample(&mut random);
            mean + deviation * scatter
        };
        let systolic_mmhg = normal(136.0, 9.0);
        let diastolic_mmhg = normal(84.0, 6.0);
        let glucose_umol_per_l = normal(6_800.0, 900.0);
        Ok(Self {
            sex: if random.random_bool(0.5) { "female" } else { "male" },
            birth_date: format!(
                "{}-{:02}-{:02}",
                random.random_range(1940..1985),
                random.random_range(1..=12),
                random.random_range(1..=28)
            ),
            condition,
            drug: *drugs.choose(&mut random).context("no medicine for the condition")?,
            habit,
            systolic_mmhg,
            diastolic_mmhg,
            glucose_umol_per_l,
            diligence: random.random_range(diligence),
            random,
        })
    }
}
