//! What rules of templates know of a patient: age, what was measured at home lately, what was taken.

use chrono::{Datelike, NaiveDate};

use super::{
    patients::Patient,
    templates::rule::{Fact, Facts},
};
use crate::{
    OperationalError,
    calendar::{DAY_MICROS, business_day},
    database::{Connection, Micros, sql},
};

/// What was measured at home.
#[derive(Debug, sqlx::FromRow)]
struct Measured {
    systolic_mmhg: Option<i64>,
    diastolic_mmhg: Option<i64>,
    glucose_umol_per_l: Option<i64>,
    meal: Option<String>,
}

/// Whole years on `day`, for someone whose birthday is known.
pub(crate) fn age_on(patient: &Patient, day: NaiveDate) -> Option<i64> {
    let born = patient.birth_date?;
    let had_birthday = (day.month(), day.day()) >= (born.month(), born.day());
    Some(i64::from(day.year() - born.year() - i32::from(!had_birthday)))
}

/// What is known of a patient at a time: good readings at home of the 7 days before, doses of the 30 days.
///
/// # Errors
/// When the database fails.
pub(crate) async fn of_patient(
    on: &mut Connection,
    patient: &Patient,
    at: i64,
) -> Result<Facts, OperationalError> {
    let mut facts = Facts::new();
    let mut know = |name: &str, value: Option<f64>| {
        facts.extend(value.map(|value| (name.to_owned(), Fact::Number(value))));
    };
    know("age", age_on(patient, business_day(at)?).map(number));
    let readings: Vec<Measured> =
        sql("select systolic_mmhg, diastolic_mmhg, glucose_umol_per_l, meal from reading
             where patient_id = ?1 and quality = 'ok' and setting = 'home'
                 and measured_at > ?2 and measured_at <= ?3 order by measured_at desc limit 5000")
        .bind(patient.patient_id)
        .bind(Micros(at - 7 * DAY_MICROS))
        .bind(Micros(at))
        .all(on)
        .await?;
    let systolic: Vec<i64> = readings.iter().filter_map(|row| row.systolic_mmhg).collect();
    let diastolic: Vec<i64> = readings.iter().filter_map(|row| row.diastolic_mmhg).collect();
    let glucose = readings.iter().filter_map(|row| row.glucose_umol_per_l).count();
    let fasting: Vec<i64> = readings
        .iter()
        .filter(|row| row.meal.as_deref() == Some("fasting"))
        .filter_map(|row| row.glucose_umol_per_l)
        .collect();
    know("home.readings_7d", Some(number(i64::try_from(systolic.len()).unwrap_or(0))));
    know("home.systolic_mean_7d", mean(&systolic));
    know("home.diastolic_mean_7d", mean(&diastolic));
    know("glucose.readings_7d", Some(number(i64::try_from(glucose).unwrap_or(0))));
    know("glucose.fasting_mean_7d", mean(&fasting).map(|mean| mean / 1000.0));
    let (due, taken): (i64, i64) = sql("select count(*), count(taken_at) from dose_event
         where patient_id = ?1 and scheduled_at > ?2 and scheduled_at <= ?3")
    .bind(patient.patient_id)
    .bind(Micros(at - 30 * DAY_MICROS))
    .bind(Micros(at))
    .one(on)
    .await?;
    know("doses.due_30d", Some(number(due)));
    know("doses.taken_30d", Some(number(taken)));
    Ok(facts)
}

fn mean(values: &[i64]) -> Option<f64> {
    let count = i64::try_from(values.len()).ok().filter(|&count| count > 0)?;
    Some(number(values.iter().sum()) / number(count))
}

/// A count or a value of a device: far from where a double is not exact.
#[expect(clippy::cast_precision_loss, reason = "counts and vitals are small")]
pub(crate) fn number(value: i64) -> f64 {
    value as f64
}
