//! Patients: persons who are enrolled for a condition.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use sqlx::{Connection, FromRow, SqliteConnection};
use utoipa::ToSchema;

use super::{
    follow_ups::{self, FollowUp},
    medication_plans::{self, MedicationPlan},
};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::rows_json,
    http::{Answer, Begun, Command, ErrorBody, Failure, Id, begin},
    scope::check_day,
};

/// What a patient is enrolled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum Condition {
    /// High blood pressure.
    Hypertension,
    /// Diabetes.
    Diabetes,
    /// Anything else.
    Other,
}

/// Sex, as recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum Sex {
    /// Female.
    Female,
    /// Male.
    Male,
    /// Not recorded.
    Unknown,
}

/// Whether a patient is in the programme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum PatientStatus {
    /// In the programme.
    Active,
    /// No longer in it.
    Left,
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

/// A patient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Patient {
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
    /// When they were born, `yyyy-mm-dd`.
    pub birth_date: Option<String>,
    /// What they are enrolled for.
    pub condition: Condition,
    /// Microseconds since 1970 (UTC).
    pub enrolled_at: i64,
    /// Whether they are in the programme.
    pub status: PatientStatus,
}

/// A patient with plans and follow-ups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
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
    Ok(sqlx::query_as(
        "insert into patient (patient_id, tenant_id, person_id, name, sex, birth_date, condition,
             enrolled_at, status)
         select value ->> 'patient_id', ?2, value ->> 'person_id', value ->> 'name',
             value ->> 'sex', value ->> 'birth_date', value ->> 'condition', ?3, 'active'
         from json_each(?1) where true order by key
         on conflict do nothing
         returning *",
    )
    .bind(rows_json(new)?)
    .bind(scope.tenant_id)
    .bind(scope.now)
    .fetch_all(&mut **tx)
    .await?)
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
    connection: &mut SqliteConnection,
    tenant_id: i64,
    patient_id: i64,
) -> Result<Patient, OperationalError> {
    sqlx::query_as("select * from patient where patient_id = ?1 and tenant_id = ?2")
        .bind(patient_id)
        .bind(tenant_id)
        .fetch_optional(connection)
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
    match begin(services.chronic_care(), services.now(), command).await? {
        (Begun::Before(answer), _) => Ok(answer),
        (Begun::New(mut pending), new) => {
            let patient = create(&mut pending.tx, pending.scope, new).await?;
            Ok(pending.finish(StatusCode::CREATED, &patient).await?)
        }
    }
}

/// A patient with plans and follow-ups.
#[utoipa::path(get, path = "/chronic-care/patients/{id}", tag = "chronic-care",
    params(("id" = i64, Path)),
    responses((status = 200, body = PatientDetail), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    Id(patient_id): Id,
) -> Result<Json<PatientDetail>, Failure> {
    let mut connection = services.chronic_care().read().await?;
    // One transaction, so that the parts are of the same instant.
    let mut tx = connection.begin().await.map_err(OperationalError::from)?;
    let patient = find(&mut tx, Scope::DEFAULT_TENANT, patient_id).await?;
    let medication_plans = medication_plans::of_patient(&mut tx, patient_id).await?;
    let follow_ups = follow_ups::of_patient(&mut tx, patient_id).await?;
    Ok(Json(PatientDetail { patient, medication_plans, follow_ups }))
}
