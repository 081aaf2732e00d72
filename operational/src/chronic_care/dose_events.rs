//! Dose events: what became of each reminder of a plan.

use axum::{Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    medication_plans::{self, MedicationPlan, PlanStatus},
    patients, slots,
};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure},
    scope::check_time,
};

const MINUTE_MICROS: u64 = 60 * 1_000_000;
/// Within an hour of the reminder, a dose is on time.
const ON_TIME_MICROS: u64 = 60 * MINUTE_MICROS;
/// Within four hours, it is late; after that it was missed.
const LATE_MICROS: u64 = 4 * 60 * MINUTE_MICROS;

words! {
    /// What became of a dose.
    pub enum DoseStatus {
        /// Taken within an hour of its time.
        Taken = "taken",
        /// Taken within four hours of its time.
        Late = "late",
        /// Not taken, or too far from its time to count.
        Missed = "missed",
    }
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

record! {
    /// A dose event.
    pub struct DoseEvent in "dose_event" {
        /// Its id.
        pub dose_event_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The plan.
        pub plan_id: i64,
        /// The patient.
        pub patient_id: i64,
        /// The time of the reminder, in microseconds since 1970 (UTC).
        pub scheduled_at: Micros,
        /// What became of it.
        pub status: DoseStatus,
        /// When it was taken.
        pub taken_at: Option<Micros>,
        /// Microseconds since 1970 (UTC).
        pub recorded_at: Micros,
    }
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

/// Records a dose; its status follows from its times. One that counted as missed and turns out to have been
/// taken counts as that.
///
/// # Errors
/// `NotFound` for an unknown plan; `Conflict` when the plan is not followed or the dose was recorded.
pub async fn record(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewDoseEvent,
) -> Result<DoseEvent, OperationalError> {
    check_time("scheduled_at", Some(new.scheduled_at))?;
    check_time("taken_at", new.taken_at)?;
    let patient_id = medication_plans::find(tx, scope.tenant_id, new.plan_id).await?.patient_id;
    patients::lock_in_use(tx, scope, patient_id).await?;
    // As it is now that nobody else can change it.
    let plan = medication_plans::find(tx, scope.tenant_id, new.plan_id).await?;
    if plan.status != PlanStatus::Active {
        return Err(OperationalError::conflict(format!(
            "medication_plan {} is {}",
            new.plan_id, plan.status
        )));
    }
    let found = of_slot(tx, new.plan_id, new.scheduled_at).await?;
    let mended = |found: &DoseEvent| {
        found.status == DoseStatus::Missed
            && status_of(new.scheduled_at, new.taken_at) != DoseStatus::Missed
    };
    if found.is_some_and(|found| !mended(&found)) {
        return Err(OperationalError::conflict(format!(
            "the dose of plan {} at {} is recorded already",
            new.plan_id, new.scheduled_at
        )));
    }
    settle(tx, scope, &plan, new.scheduled_at, new.taken_at).await
}

async fn of_slot(
    tx: &mut WriteTransaction,
    plan_id: i64,
    scheduled_at: i64,
) -> Result<Option<DoseEvent>, OperationalError> {
    sql("select * from dose_event where plan_id = ?1 and scheduled_at = ?2 for update")
        .bind(plan_id)
        .bind(Micros(scheduled_at))
        .first(tx)
        .await
}

/// Keeps what became of the dose of a slot: what was taken stays so, what was missed may turn out to have
/// been taken. The patient's row is held by the caller.
pub(super) async fn settle(
    tx: &mut WriteTransaction,
    scope: Scope,
    plan: &MedicationPlan,
    scheduled_at: i64,
    taken_at: Option<i64>,
) -> Result<DoseEvent, OperationalError> {
    let status = status_of(scheduled_at, taken_at);
    let dose = match of_slot(tx, plan.plan_id, scheduled_at).await? {
        Some(found) if found.status != DoseStatus::Missed || status == DoseStatus::Missed => found,
        Some(found) => {
            let taken_at = taken_at.map(Micros);
            sql("update dose_event set status = ?2, taken_at = ?3, recorded_at = ?4
                 where dose_event_id = ?1")
            .bind(found.dose_event_id)
            .bind(status)
            .bind(taken_at)
            .bind(Micros(scope.now))
            .execute(tx)
            .await?;
            DoseEvent { status, taken_at, recorded_at: Micros(scope.now), ..found }
        }
        None => {
            let dose = DoseEvent {
                dose_event_id: tx.id::<DoseEvent>(None).await?,
                tenant_id: scope.tenant_id,
                plan_id: plan.plan_id,
                patient_id: plan.patient_id,
                scheduled_at: Micros(scheduled_at),
                status,
                taken_at: taken_at.map(Micros),
                recorded_at: Micros(scope.now),
            };
            insert_one(tx, &dose).await?;
            dose
        }
    };
    // Without times of the day a plan has no slots.
    if plan.clock_times.is_some() {
        slots::settle(tx, plan.plan_id, scheduled_at, dose.status, scope.now).await?;
    }
    Ok(dose)
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
    command
        .carry_out(
            services.chronic_care(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(record(tx, scope, *new)),
        )
        .await
}
