//! Medication plans: which drug a patient is to take, how often, from when to when.

use axum::{Router, extract::State, http::StatusCode, routing};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::patients;
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure},
    scope::check_day,
};

words! {
    /// Whether a plan is followed.
    pub enum PlanStatus {
        /// It is followed.
        Active = "active",
        /// It is not followed any more.
        Stopped = "stopped",
    }
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

record! {
    /// A plan.
    pub struct MedicationPlan in "medication_plan" {
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
        /// The first day.
        pub starts_on: NaiveDate,
        /// The last day.
        pub ends_on: Option<NaiveDate>,
        /// Whether it is followed.
        pub status: PlanStatus,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub updated_at: Micros,
    }
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
    patients::find_in_use(tx, scope, new.patient_id).await?;
    let plan = MedicationPlan {
        plan_id: tx.id::<MedicationPlan>(new.plan_id).await?,
        tenant_id: scope.tenant_id,
        patient_id: new.patient_id,
        drug_code: new.drug_code,
        drug_class: new.drug_class,
        doses_per_day: new.doses_per_day,
        starts_on: new.starts_on,
        ends_on: new.ends_on,
        status: PlanStatus::Active,
        created_at: Micros(scope.now),
        updated_at: Micros(scope.now),
    };
    insert_one(tx, &plan)
        .await
        .map_err(|error| error.or_taken(|| "the medication plan exists already".to_owned()))?;
    Ok(plan)
}

/// One plan.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    connection: &mut Connection,
    tenant_id: i64,
    plan_id: i64,
) -> Result<MedicationPlan, OperationalError> {
    sql("select * from medication_plan where plan_id = ?1 and tenant_id = ?2")
        .bind(plan_id)
        .bind(tenant_id)
        .first(connection)
        .await?
        .ok_or(OperationalError::not_found("medication_plan", plan_id))
}

/// The plans of a patient, in order.
///
/// # Errors
/// When the database fails.
pub async fn of_patient(
    connection: &mut Connection,
    patient_id: i64,
) -> Result<Vec<MedicationPlan>, OperationalError> {
    sql("select * from medication_plan where patient_id = ?1 order by plan_id")
        .bind(patient_id)
        .all(connection)
        .await
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
    command
        .carry_out(
            services.chronic_care(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(create(tx, scope, new.clone())),
        )
        .await
}
