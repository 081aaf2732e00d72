//! Readings of devices at home: blood pressure and glucose, with a flag for what cannot be right.

use axum::{Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::patients;
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Micros, insert_one, record, words},
    http::{Answer, Command, ErrorBody, Failure},
    scope::check_time,
};

words! {
    /// What was measured.
    pub enum ReadingKind {
        /// Systolic and diastolic, perhaps with the pulse.
        BloodPressure = "blood_pressure",
        /// Glucose in blood.
        Glucose = "glucose",
    }
}

words! {
    /// Whether a reading can be right.
    pub enum Quality {
        /// It can.
        Ok = "ok",
        /// It is kept, and looks like a fault of the device or of its use.
        Suspect = "suspect",
    }
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

record! {
    /// A reading.
    pub struct Reading in "reading" {
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
        pub measured_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub recorded_at: Micros,
    }
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
    patients::find_in_use(tx, scope, new.patient_id).await?;
    let quality = new.quality();
    let reading = Reading {
        reading_id: tx.id::<Reading>(None).await?,
        tenant_id: scope.tenant_id,
        patient_id: new.patient_id,
        kind: new.kind,
        systolic_mmhg: new.systolic_mmhg,
        diastolic_mmhg: new.diastolic_mmhg,
        pulse_per_min: new.pulse_per_min,
        glucose_umol_per_l: new.glucose_umol_per_l,
        quality,
        measured_at: Micros(new.measured_at.unwrap_or(scope.now)),
        recorded_at: Micros(scope.now),
    };
    insert_one(tx, &reading).await?;
    Ok(reading)
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
    command
        .carry_out(
            services.chronic_care(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(record(tx, scope, *new)),
        )
        .await
}
