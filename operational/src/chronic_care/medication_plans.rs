//! Medication plans: which drug a patient is to take, how often, from when to when.

use axum::{Router, extract::State, http::StatusCode, routing};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, SqliteConnection};
use utoipa::ToSchema;

use super::patients;
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    http::{Answer, Begun, Command, ErrorBody, Failure, begin},
    scope::check_day,
};

/// Whether a plan is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum PlanStatus {
    /// It is followed.
    Active,
    /// It is not followed any more.
    Stopped,
}

/// A plan to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMedicationPlan {
    /// Its id, where one is recorded; otherwise the next free one.
    #[serde(skip_deserializing)]
    #[schema(ignore)]
    pub plan_id: Option<i64>,
    /// The patient.
    pub patient_id: i64,
    /// The drug.
    pub drug_code: String,
    /// Its class.
    pub drug_class: String,
    /// How often a day.
    #[schema(minimum = 1, maximum = 24)]
    pub doses_per_day: i64,
    /// The first day.
    pub starts_on: NaiveDate,
    /// The last day.
    pub ends_on: Option<NaiveDate>,
}

/// A plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct MedicationPlan {
    /// Its id.
    pub plan_id: i64,
    /// The tenant.
    pub tenant_id: i64,
    /// The patient.
    pub patient_id: i64,
    /// The drug.
    pub drug_code: String,
    /// Its class.
    pub drug_class: String,
    /// How often a day.
    pub doses_per_day: i64,
    /// The first day, `yyyy-mm-dd`.
    pub starts_on: String,
    /// The last day, `yyyy-mm-dd`.
    pub ends_on: Option<String>,
    /// Whether it is followed.
    pub status: PlanStatus,
    /// Microseconds since 1970 (UTC).
    pub created_at: i64,
    /// Microseconds since 1970 (UTC).
    pub updated_at: i64,
}

/// Makes a plan.
///
/// # Errors
/// `NotFound` for an unknown patient, `Invalid` when a field is outside its range.
pub async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewMedicationPlan,
) -> Result<MedicationPlan, OperationalError> {
    let problem = if new.drug_code.is_empty() || new.drug_class.is_empty() {
        Some("a plan needs a drug_code and a drug_class")
    } else if !(1..=24).contains(&new.doses_per_day) {
        Some("doses_per_day must be between 1 and 24")
    } else if new.ends_on.is_some_and(|end| end < new.starts_on) {
        Some("ends_on must not be before starts_on")
    } else {
        None
    };
    if let Some(problem) = problem {
        return Err(OperationalError::invalid(problem));
    }
    check_day("starts_on", Some(new.starts_on))?;
    check_day("ends_on", new.ends_on)?;
    patients::find(tx, scope.tenant_id, new.patient_id).await?;
    sqlx::query_as(
        "insert into medication_plan (plan_id, tenant_id, patient_id, drug_code, drug_class,
             doses_per_day, starts_on, ends_on, status, created_at, updated_at)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'active', ?9, ?9)
         on conflict (plan_id) do nothing returning *",
    )
    .bind(new.plan_id)
    .bind(scope.tenant_id)
    .bind(new.patient_id)
    .bind(&new.drug_code)
    .bind(&new.drug_class)
    .bind(new.doses_per_day)
    .bind(new.starts_on.to_string())
    .bind(new.ends_on.map(|day| day.to_string()))
    .bind(scope.now)
    .fetch_optional(&mut **tx)
    .await?
    .ok_or_else(|| OperationalError::conflict("the medication plan exists already"))
}

/// One plan.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    connection: &mut SqliteConnection,
    tenant_id: i64,
    plan_id: i64,
) -> Result<MedicationPlan, OperationalError> {
    sqlx::query_as("select * from medication_plan where plan_id = ?1 and tenant_id = ?2")
        .bind(plan_id)
        .bind(tenant_id)
        .fetch_optional(connection)
        .await?
        .ok_or(OperationalError::not_found("medication_plan", plan_id))
}

/// The plans of a patient, in order.
///
/// # Errors
/// When the database fails.
pub async fn of_patient(
    connection: &mut SqliteConnection,
    patient_id: i64,
) -> Result<Vec<MedicationPlan>, OperationalError> {
    Ok(sqlx::query_as("select * from medication_plan where patient_id = ?1 order by plan_id")
        .bind(patient_id)
        .fetch_all(connection)
        .await?)
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/chronic-care/medication-plans", routing::post(post))
}

/// Make a medication plan.
#[utoipa::path(post, path = "/chronic-care/medication-plans", tag = "chronic-care",
    request_body = NewMedicationPlan, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = MedicationPlan), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewMedicationPlan>,
) -> Result<Answer, Failure> {
    match begin(services.chronic_care(), services.now(), command).await? {
        (Begun::Before(answer), _) => Ok(answer),
        (Begun::New(mut pending), new) => {
            let plan = create(&mut pending.tx, pending.scope, new).await?;
            Ok(pending.finish(StatusCode::CREATED, &plan).await?)
        }
    }
}
