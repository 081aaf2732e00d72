//! Dose events: what became of each reminder of a plan.

use axum::{Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use utoipa::ToSchema;

use super::medication_plans::{self, PlanStatus};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    http::{Answer, Begun, Command, ErrorBody, Failure, begin},
    scope::check_time,
};

const MINUTE_MICROS: u64 = 60 * 1_000_000;
/// Within an hour of the reminder, a dose is on time.
const ON_TIME_MICROS: u64 = 60 * MINUTE_MICROS;
/// Within four hours, it is late; after that it was missed.
const LATE_MICROS: u64 = 4 * 60 * MINUTE_MICROS;

/// What became of a dose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum DoseStatus {
    /// Taken within an hour of its time.
    Taken,
    /// Taken within four hours of its time.
    Late,
    /// Not taken, or too far from its time to count.
    Missed,
}

/// What became of a dose, to be recorded.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDoseEvent {
    /// The plan.
    pub plan_id: i64,
    /// The time of the reminder, in microseconds since 1970 (UTC).
    pub scheduled_at: i64,
    /// When it was taken; left out when it was not.
    pub taken_at: Option<i64>,
}

/// A dose event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct DoseEvent {
    /// Its id.
    pub dose_event_id: i64,
    /// The tenant.
    pub tenant_id: i64,
    /// The plan.
    pub plan_id: i64,
    /// The patient.
    pub patient_id: i64,
    /// The time of the reminder, in microseconds since 1970 (UTC).
    pub scheduled_at: i64,
    /// What became of it.
    pub status: DoseStatus,
    /// When it was taken.
    pub taken_at: Option<i64>,
    /// Microseconds since 1970 (UTC).
    pub recorded_at: i64,
}

/// What a dose taken then counts as.
#[must_use]
pub fn status_of(scheduled_at: i64, taken_at: Option<i64>) -> DoseStatus {
    match taken_at.map(|taken| taken.abs_diff(scheduled_at)) {
        Some(off) if off <= ON_TIME_MICROS => DoseStatus::Taken,
        Some(off) if off <= LATE_MICROS => DoseStatus::Late,
        _ => DoseStatus::Missed,
    }
}

/// Records a dose; its status follows from its times.
///
/// # Errors
/// `NotFound` for an unknown plan; `Conflict` when the plan is stopped or the dose was recorded.
pub async fn record(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewDoseEvent,
) -> Result<DoseEvent, OperationalError> {
    check_time("scheduled_at", Some(new.scheduled_at))?;
    check_time("taken_at", new.taken_at)?;
    let plan = medication_plans::find(tx, scope.tenant_id, new.plan_id).await?;
    if plan.status != PlanStatus::Active {
        return Err(OperationalError::conflict(format!(
            "medication_plan {} is stopped",
            new.plan_id
        )));
    }
    sqlx::query_as(
        "insert into dose_event
             (tenant_id, plan_id, patient_id, scheduled_at, status, taken_at, recorded_at)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         on conflict (plan_id, scheduled_at) do nothing returning *",
    )
    .bind(scope.tenant_id)
    .bind(new.plan_id)
    .bind(plan.patient_id)
    .bind(new.scheduled_at)
    .bind(status_of(new.scheduled_at, new.taken_at))
    .bind(new.taken_at)
    .bind(scope.now)
    .fetch_optional(&mut **tx)
    .await?
    .ok_or_else(|| {
        OperationalError::conflict(format!(
            "the dose of plan {} at {} is recorded already",
            new.plan_id, new.scheduled_at
        ))
    })
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/chronic-care/dose-events", routing::post(post))
}

/// Record what became of a dose.
#[utoipa::path(post, path = "/chronic-care/dose-events", tag = "chronic-care",
    request_body = NewDoseEvent, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = DoseEvent), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewDoseEvent>,
) -> Result<Answer, Failure> {
    match begin(services.chronic_care(), services.now(), command).await? {
        (Begun::Before(answer), _) => Ok(answer),
        (Begun::New(mut pending), new) => {
            let event = record(&mut pending.tx, pending.scope, new).await?;
            Ok(pending.finish(StatusCode::CREATED, &event).await?)
        }
    }
}
