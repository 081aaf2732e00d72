//! Patients: persons who are enrolled for a condition.

use std::collections::HashSet;

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    follow_ups::{self, FollowUp},
    medication_plans::{self, MedicationPlan},
};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_missing, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id},
    scope::check_day,
};

words! {
    /// What a patient is enrolled for.
    pub enum Condition {
        /// High blood pressure.
        Hypertension = "hypertension",
        /// Diabetes.
        Diabetes = "diabetes",
        /// Anything else.
        Other = "other",
    }
}

words! {
    /// Sex, as recorded.
    pub enum Sex {
        /// Female.
        Female = "female",
        /// Male.
        Male = "male",
        /// Not recorded.
        Unknown = "unknown",
    }
}

words! {
    /// Whether a patient is in the programme.
    pub enum PatientStatus {
        /// In the programme.
        Active = "active",
        /// No longer in it.
        Left = "left",
    }
}

/// A patient to be enrolled.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPatient {
    /// Their id, where one is recorded; otherwise the next free one.
    #[serde(skip_deserializing)]
    #[schema(ignore)]
    pub patient_id: Option<i64>,
    /// The person, the same as in the mall.
    pub person_id: i64,
    /// Their name.
    pub name: String,
    /// Their sex.
    pub sex: Sex,
    /// When they were born.
    pub birth_date: Option<NaiveDate>,
    /// What they are enrolled for.
    pub condition: Condition,
}

record! {
    /// A patient.
    pub struct Patient in "patient" {
        /// Their id.
        pub patient_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The person.
        pub person_id: i64,
        /// Their name.
        pub name: String,
        /// Their sex.
        pub sex: Sex,
        /// When they were born.
        pub birth_date: Option<NaiveDate>,
        /// What they are enrolled for.
        pub condition: Condition,
        /// Microseconds since 1970 (UTC).
        pub enrolled_at: Micros,
        /// Whether they are in the programme.
        pub status: PatientStatus,
    }
}

/// A patient with plans and follow-ups.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PatientDetail {
    /// The patient.
    #[serde(flatten)]
    pub patient: Patient,
    /// Their medication plans.
    pub medication_plans: Vec<MedicationPlan>,
    /// Their follow-ups, the newest first.
    pub follow_ups: Vec<FollowUp>,
}

/// Enrols patients in one statement and returns those that were added: one whose id or person is
/// enrolled already is left as it is.
///
/// # Errors
/// `Invalid` when a name is empty or a person id is not positive.
pub async fn create_many(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &[NewPatient],
) -> Result<Vec<Patient>, OperationalError> {
    if new.iter().any(|p| p.name.trim().is_empty() || p.person_id <= 0) {
        return Err(OperationalError::invalid("a patient needs a person_id and a name"));
    }
    for patient in new {
        check_day("birth_date", patient.birth_date)?;
    }
    let enrolled: Vec<(i64,)> =
        sql("select person_id from patient where tenant_id = ?1 and person_id in {list}")
            .bind(scope.tenant_id)
            .list(new.iter().map(|p| p.person_id))
            .all(tx)
            .await?;
    let mut enrolled: HashSet<i64> = enrolled.into_iter().map(|(person_id,)| person_id).collect();
    let new: Vec<&NewPatient> = new.iter().filter(|p| enrolled.insert(p.person_id)).collect();
    let ids = tx.ids::<Patient>(new.iter().map(|p| p.patient_id)).await?;
    let rows = ids.into_iter().zip(new).map(|(patient_id, new)| Patient {
        patient_id,
        tenant_id: scope.tenant_id,
        person_id: new.person_id,
        name: new.name.clone(),
        sex: new.sex,
        birth_date: new.birth_date,
        condition: new.condition,
        enrolled_at: Micros(scope.now),
        status: PatientStatus::Active,
    });
    insert_missing(tx, rows.collect()).await
}

/// Enrols one patient.
///
/// # Errors
/// `Invalid` when the name is empty, `Conflict` when the person is enrolled already.
pub async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewPatient,
) -> Result<Patient, OperationalError> {
    let person_id = new.person_id;
    create_many(tx, scope, &[new]).await?.pop().ok_or_else(|| {
        OperationalError::conflict(format!("person {person_id} is enrolled already"))
    })
}

/// One patient.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    connection: &mut Connection,
    tenant_id: i64,
    patient_id: i64,
) -> Result<Patient, OperationalError> {
    sql("select * from patient where patient_id = ?1 and tenant_id = ?2")
        .bind(patient_id)
        .bind(tenant_id)
        .first(connection)
        .await?
        .ok_or(OperationalError::not_found("patient", patient_id))
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/chronic-care/patients", routing::post(post))
        .route("/chronic-care/patients/{id}", routing::get(get_one))
}

/// Enrol a patient.
#[utoipa::path(post, path = "/chronic-care/patients", tag = "chronic-care",
    request_body = NewPatient, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Patient), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewPatient>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.chronic_care(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(create(tx, scope, new.clone())),
        )
        .await
}

/// A patient with plans and follow-ups.
#[utoipa::path(get, path = "/chronic-care/patients/{id}", tag = "chronic-care",
    params(("id" = i64, Path)),
    responses((status = 200, body = PatientDetail), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(patient_id): Id,
) -> Result<Json<PatientDetail>, Failure> {
    let mut tx = services.chronic_care().read().await?;
    let patient = find(&mut tx, scope.tenant_id, patient_id).await?;
    let medication_plans = medication_plans::of_patient(&mut tx, patient_id).await?;
    let follow_ups = follow_ups::of_patient(&mut tx, patient_id).await?;
    Ok(Json(PatientDetail { patient, medication_plans, follow_ups }))
}
