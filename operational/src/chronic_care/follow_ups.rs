//! Follow-ups: what a doctor or nurse found when they saw or called a patient.

use axum::{Router, extract::State, http::StatusCode, routing};
use chrono::{Datelike, NaiveDate};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    dispensings::business_day,
    patients::{self, Condition, Patient},
};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure},
    scope::check_time,
};

words! {
    /// How a patient was met.
    pub enum Method {
        /// Face to face.
        Visit = "visit",
        /// By phone.
        Phone = "phone",
        /// Online.
        Online = "online",
    }
}

/// A follow-up to be recorded.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewFollowUp {
    /// The patient.
    pub patient_id: i64,
    /// When, in microseconds since 1970 (UTC); now when left out.
    pub performed_at: Option<i64>,
    /// How.
    pub method: Method,
    /// Upper pressure; with `diastolic_mmhg`.
    pub systolic_mmhg: Option<i64>,
    /// Lower pressure; with `systolic_mmhg`.
    pub diastolic_mmhg: Option<i64>,
    /// Fasting glucose, micromol per litre.
    pub fasting_glucose_umol_per_l: Option<i64>,
    /// Whether the patient is at target; worked out from the values when left out.
    pub on_target: Option<bool>,
    /// Anything else.
    pub note: Option<String>,
}

record! {
    /// A follow-up.
    pub struct FollowUp in "follow_up" {
        /// Its id.
        pub follow_up_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The patient.
        pub patient_id: i64,
        /// When, in microseconds since 1970 (UTC).
        pub performed_at: Micros,
        /// How.
        pub method: Method,
        /// Upper pressure.
        pub systolic_mmhg: Option<i64>,
        /// Lower pressure.
        pub diastolic_mmhg: Option<i64>,
        /// Fasting glucose, micromol per litre.
        pub fasting_glucose_umol_per_l: Option<i64>,
        /// Whether the patient is at target; null when the values do not say.
        pub on_target: Option<bool>,
        /// Anything else.
        pub note: Option<String>,
    }
}

/// Whether values are at the national target: below 140/90 (150/90 from 65 years on), fasting
/// glucose below 7.0 mmol/L. `None` when the value the condition asks for is missing.
#[must_use]
pub fn on_target(
    condition: Condition,
    age_years: Option<i32>,
    pressure: Option<(i64, i64)>,
    fasting_glucose_umol_per_l: Option<i64>,
) -> Option<bool> {
    match condition {
        Condition::Hypertension => pressure.map(|(systolic, diastolic)| {
            let most = if age_years.is_some_and(|age| age >= 65) { 150 } else { 140 };
            systolic < most && diastolic < 90
        }),
        Condition::Diabetes => fasting_glucose_umol_per_l.map(|glucose| glucose < 7_000),
        Condition::Other => None,
    }
}

/// Whole years on `day`, for someone whose birthday is known.
fn age_on(patient: &Patient, day: NaiveDate) -> Option<i32> {
    let born = patient.birth_date?;
    let had_birthday = (day.month(), day.day()) >= (born.month(), born.day());
    Some(day.year() - born.year() - i32::from(!had_birthday))
}

/// Records a follow-up.
///
/// # Errors
/// `NotFound` for an unknown patient, `Invalid` for values no device shows or half a pressure.
pub async fn record(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewFollowUp,
) -> Result<FollowUp, OperationalError> {
    if new.systolic_mmhg.is_some() != new.diastolic_mmhg.is_some() {
        return Err(OperationalError::invalid("systolic_mmhg and diastolic_mmhg go together"));
    }
    let outside = |value: Option<i64>, most: i64| value.is_some_and(|v| !(1..=most).contains(&v));
    if outside(new.systolic_mmhg, 400)
        || outside(new.diastolic_mmhg, 400)
        || outside(new.fasting_glucose_umol_per_l, 100_000)
    {
        return Err(OperationalError::invalid("no device shows such a value"));
    }
    check_time("performed_at", new.performed_at)?;
    let patient = patients::find_in_use(tx, scope, new.patient_id).await?;
    let performed_at = new.performed_at.unwrap_or(scope.now);
    let age = age_on(&patient, business_day(performed_at)?);
    let on_target = new.on_target.or_else(|| {
        let pressure = new.systolic_mmhg.zip(new.diastolic_mmhg);
        on_target(patient.condition, age, pressure, new.fasting_glucose_umol_per_l)
    });
    let follow_up = FollowUp {
        follow_up_id: tx.id::<FollowUp>(None).await?,
        tenant_id: scope.tenant_id,
        patient_id: new.patient_id,
        performed_at: Micros(performed_at),
        method: new.method,
        systolic_mmhg: new.systolic_mmhg,
        diastolic_mmhg: new.diastolic_mmhg,
        fasting_glucose_umol_per_l: new.fasting_glucose_umol_per_l,
        on_target,
        note: new.note,
    };
    insert_one(tx, &follow_up).await?;
    Ok(follow_up)
}

/// The follow-ups of a patient, the newest first.
///
/// # Errors
/// When the database fails.
pub async fn of_patient(
    connection: &mut Connection,
    patient_id: i64,
) -> Result<Vec<FollowUp>, OperationalError> {
    sql(
        "select * from follow_up where patient_id = ?1 order by performed_at desc, follow_up_id desc",
    )
    .bind(patient_id)
    .all(connection)
    .await
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/chronic-care/follow-ups", routing::post(post))
}

/// Record a follow-up.
#[utoipa::path(post, path = "/chronic-care/follow-ups", tag = "chronic-care",
    request_body = NewFollowUp, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = FollowUp), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewFollowUp>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.chronic_care(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(record(tx, scope, new.clone())),
        )
        .await
}
