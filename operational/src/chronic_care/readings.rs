//! Readings of devices at home: blood pressure and glucose, with a flag for what cannot be right.

use axum::{Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use utoipa::ToSchema;

use super::patients;
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    http::{Answer, Begun, Command, ErrorBody, Failure, begin},
    scope::check_time,
};

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum ReadingKind {
    /// Systolic and diastolic, perhaps with the pulse.
    BloodPressure,
    /// Glucose in blood.
    Glucose,
}

/// Whether a reading can be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum Quality {
    /// It can.
    Ok,
    /// It is kept, and looks like a fault of the device or of its use.
    Suspect,
}

/// A reading to be recorded.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReading {
    /// The patient.
    pub patient_id: i64,
    /// What was measured.
    pub kind: ReadingKind,
    /// With kind `blood_pressure`.
    pub systolic_mmhg: Option<i64>,
    /// With kind `blood_pressure`.
    pub diastolic_mmhg: Option<i64>,
    /// Heart beats a minute, perhaps with kind `blood_pressure`.
    pub pulse_per_min: Option<i64>,
    /// With kind `glucose`: micromol per litre, a thousandth of a mmol/L.
    pub glucose_umol_per_l: Option<i64>,
    /// When, in microseconds since 1970 (UTC); now when left out.
    pub measured_at: Option<i64>,
}

/// A reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Reading {
    /// Its id.
    pub reading_id: i64,
    /// The tenant.
    pub tenant_id: i64,
    /// The patient.
    pub patient_id: i64,
    /// What was measured.
    pub kind: ReadingKind,
    /// Upper pressure.
    pub systolic_mmhg: Option<i64>,
    /// Lower pressure.
    pub diastolic_mmhg: Option<i64>,
    /// Heart beats a minute.
    pub pulse_per_min: Option<i64>,
    /// Micromol per litre.
    pub glucose_umol_per_l: Option<i64>,
    /// Whether it can be right.
    pub quality: Quality,
    /// Microseconds since 1970 (UTC).
    pub measured_at: i64,
    /// Microseconds since 1970 (UTC).
    pub recorded_at: i64,
}

impl NewReading {
    fn check(&self) -> Result<(), OperationalError> {
        let pressure = self.systolic_mmhg.is_some() && self.diastolic_mmhg.is_some();
        let any_pressure = self.systolic_mmhg.is_some()
            || self.diastolic_mmhg.is_some()
            || self.pulse_per_min.is_some();
        let fits = match self.kind {
            ReadingKind::BloodPressure => pressure && self.glucose_umol_per_l.is_none(),
            ReadingKind::Glucose => self.glucose_umol_per_l.is_some() && !any_pressure,
        };
        if !fits {
            return Err(OperationalError::invalid(
                "blood_pressure goes with systolic_mmhg and diastolic_mmhg, glucose with \
                 glucose_umol_per_l, and with nothing else",
            ));
        }
        let outside =
            |value: Option<i64>, most: i64| value.is_some_and(|v| !(1..=most).contains(&v));
        if outside(self.systolic_mmhg, 400)
            || outside(self.diastolic_mmhg, 400)
            || outside(self.pulse_per_min, 400)
            || outside(self.glucose_umol_per_l, 100_000)
        {
            return Err(OperationalError::invalid("no device shows such a value"));
        }
        Ok(())
    }

    /// A value outside what is seen in living people, or pressures the wrong way round, is suspect.
    fn quality(&self) -> Quality {
        let within = |value: Option<i64>, low: i64, high: i64| {
            value.is_none_or(|v| (low..=high).contains(&v))
        };
        let ordered = match (self.systolic_mmhg, self.diastolic_mmhg) {
            (Some(systolic), Some(diastolic)) => systolic > diastolic,
            _ => true,
        };
        if ordered
            && within(self.systolic_mmhg, 60, 260)
            && within(self.diastolic_mmhg, 30, 160)
            && within(self.pulse_per_min, 25, 240)
            && within(self.glucose_umol_per_l, 1_000, 33_300)
        {
            Quality::Ok
        } else {
            Quality::Suspect
        }
    }
}

/// Records a reading; its quality follows from its values.
///
/// # Errors
/// `NotFound` for an unknown patient, `Invalid` for values that do not go with the kind.
pub async fn record(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewReading,
) -> Result<Reading, OperationalError> {
    new.check()?;
    check_time("measured_at", new.measured_at)?;
    patients::find(tx, scope.tenant_id, new.patient_id).await?;
    Ok(sqlx::query_as(
        "insert into reading (tenant_id, patient_id, kind, systolic_mmhg, diastolic_mmhg,
             pulse_per_min, glucose_umol_per_l, quality, measured_at, recorded_at)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) returning *",
    )
    .bind(scope.tenant_id)
    .bind(new.patient_id)
    .bind(new.kind)
    .bind(new.systolic_mmhg)
    .bind(new.diastolic_mmhg)
    .bind(new.pulse_per_min)
    .bind(new.glucose_umol_per_l)
    .bind(new.quality())
    .bind(new.measured_at.unwrap_or(scope.now))
    .bind(scope.now)
    .fetch_one(&mut **tx)
    .await?)
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/chronic-care/readings", routing::post(post))
}

/// Record a reading.
#[utoipa::path(post, path = "/chronic-care/readings", tag = "chronic-care",
    request_body = NewReading, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Reading), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewReading>,
) -> Result<Answer, Failure> {
    match begin(services.chronic_care(), services.now(), command).await? {
        (Begun::Before(answer), _) => Ok(answer),
        (Begun::New(mut pending), new) => {
            let reading = record(&mut pending.tx, pending.scope, new).await?;
            Ok(pending.finish(StatusCode::CREATED, &reading).await?)
        }
    }
}
