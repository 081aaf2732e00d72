//! Medication plans: which drug a patient is to take, how much and how often, from when to when, and what was
//! changed about it.
//!
//! A plan with times of the day gets reminder slots ahead ([`slots`](super::slots)). What it was from when on
//! is kept: a pause, a stay in hospital, another dose.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{patients, slots};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    calendar::midnight,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List},
    scope::{check_day, check_time},
};

words! {
    /// Whether a plan is followed.
    pub enum PlanStatus {
        /// It is followed.
        Active = "active",
        /// It is not followed for a while.
        Paused = "paused",
        /// The patient is in hospital, where others see to it.
        Hospital = "hospital",
        /// It is not followed any more.
        Stopped = "stopped",
    }
}

words! {
    /// What was changed about a plan.
    pub enum ChangeKind {
        /// It began.
        Started = "started",
        /// Another dose, other times.
        Changed = "changed",
        /// It is not followed for a while.
        Paused = "paused",
        /// The patient went to hospital.
        Hospital = "hospital",
        /// It is followed again.
        Resumed = "resumed",
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
    /// How much of it each time, with `dose_unit`.
    pub dose_amount: Option<f64>,
    /// In what, such as `mg` or `片`.
    #[schema(max_length = 20)]
    pub dose_unit: Option<String>,
    /// When, in Asia/Shanghai, as `hh:mm`, as many as doses a day: reminders are made only with them.
    pub clock_times: Option<Vec<String>>,
}

impl NewMedicationPlan {
    /// One without an end, a dose and reminders.
    #[must_use]
    pub fn new(
        patient_id: i64,
        drug_code: impl Into<String>,
        drug_class: impl Into<String>,
        doses_per_day: i64,
        starts_on: NaiveDate,
    ) -> Self {
        Self {
            plan_id: None,
            patient_id,
            drug_code: drug_code.into(),
            drug_class: drug_class.into(),
            doses_per_day,
            starts_on,
            ends_on: None,
            dose_amount: None,
            dose_unit: None,
            clock_times: None,
        }
    }
}

/// A change of a plan.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPlanChange {
    /// What is changed; a plan is not started twice.
    pub kind: ChangeKind,
    /// From when on, in microseconds since 1970 (UTC); now when left out. Not in the future, and not before
    /// the change before it.
    pub effective_at: Option<i64>,
    /// With kind `changed`: how often a day.
    #[schema(minimum = 1, maximum = 24)]
    pub doses_per_day: Option<i64>,
    /// With kind `changed`: how much each time.
    pub dose_amount: Option<f64>,
    /// With kind `changed`: in what.
    #[schema(max_length = 20)]
    pub dose_unit: Option<String>,
    /// With kind `changed`: when.
    pub clock_times: Option<Vec<String>>,
    /// Why.
    #[schema(min_length = 1, max_length = 500)]
    pub reason: String,
    /// The version of the plan that was read.
    pub version: i64,
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
        /// How much each time.
        pub dose_amount: Option<f64>,
        /// In what.
        pub dose_unit: Option<String>,
        /// When, in Asia/Shanghai, as `hh:mm` with commas between.
        pub clock_times: Option<String>,
        /// Up to when it has slots, in microseconds since 1970 (UTC).
        pub slots_to: Option<Micros>,
        /// Grows with each change.
        pub version: i64,
    }
}

record! {
    /// What a plan was from when on.
    pub struct PlanChange in "medication_plan_change" {
        /// Its id.
        pub change_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The plan.
        pub plan_id: i64,
        /// The patient.
        pub patient_id: i64,
        /// What was changed.
        pub kind: ChangeKind,
        /// From when on, in microseconds since 1970 (UTC).
        pub effective_at: Micros,
        /// Whether it is followed from then on.
        pub status: PlanStatus,
        /// How often a day.
        pub doses_per_day: i64,
        /// How much each time.
        pub dose_amount: Option<f64>,
        /// In what.
        pub dose_unit: Option<String>,
        /// When.
        pub clock_times: Option<String>,
        /// Why.
        pub reason: String,
        /// Who changed it.
        pub actor: String,
        /// Microseconds since 1970 (UTC).
        pub recorded_at: Micros,
    }
}

/// Checks how much is taken, in what and when; gives the times as they are kept.
fn check_dose(
    doses_per_day: i64,
    amount: Option<f64>,
    unit: Option<&String>,
    times: Option<&Vec<String>>,
) -> Result<Option<String>, OperationalError> {
    if !(1..=24).contains(&doses_per_day) {
        return Err(OperationalError::invalid("doses_per_day must be between 1 and 24"));
    }
    if amount.is_some_and(|amount| !(1e-6..=1e6).contains(&amount)) {
        return Err(OperationalError::invalid("dose_amount must be between 0.000001 and 1000000"));
    }
    if amount.is_some() != unit.is_some() {
        return Err(OperationalError::invalid("dose_amount and dose_unit go together"));
    }
    if unit.is_some_and(|unit| !(1..=20).contains(&unit.chars().count())) {
        return Err(OperationalError::invalid("dose_unit must have 1 to 20 characters"));
    }
    times.map(|times| slots::check_times(times, doses_per_day)).transpose()
}

/// Makes a plan; one with times gets its slots of the next days.
///
/// # Errors
/// `NotFound` for an unknown patient, `Invalid` when a field is outside its range.
pub async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewMedicationPlan,
) -> Result<MedicationPlan, OperationalError> {
    if new.drug_code.is_empty() || new.drug_class.is_empty() {
        return Err(OperationalError::invalid("a plan needs a drug_code and a drug_class"));
    }
    if new.drug_code.chars().count() > 200 || new.drug_class.chars().count() > 200 {
        return Err(OperationalError::invalid(
            "drug_code and drug_class have at most 200 characters",
        ));
    }
    if new.ends_on.is_some_and(|end| end < new.starts_on) {
        return Err(OperationalError::invalid("ends_on must not be before starts_on"));
    }
    let clock_times = check_dose(
        new.doses_per_day,
        new.dose_amount,
        new.dose_unit.as_ref(),
        new.clock_times.as_ref(),
    )?;
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
        dose_amount: new.dose_amount,
        dose_unit: new.dose_unit,
        clock_times,
        slots_to: None,
        version: 1,
    };
    insert_one(tx, &plan)
        .await
        .map_err(|error| error.or_taken(|| "the medication plan exists already".to_owned()))?;
    let at = midnight(plan.starts_on).min(scope.now);
    keep_change(tx, scope, &plan, (ChangeKind::Started, at), "").await?;
    slots::generate(tx, scope, &plan).await?;
    find(tx, scope.tenant_id, plan.plan_id).await
}

async fn keep_change(
    tx: &mut WriteTransaction,
    scope: Scope,
    plan: &MedicationPlan,
    (kind, effective_at): (ChangeKind, i64),
    reason: &str,
) -> Result<(), OperationalError> {
    let change = PlanChange {
        change_id: tx.id::<PlanChange>(None).await?,
        tenant_id: scope.tenant_id,
        plan_id: plan.plan_id,
        patient_id: plan.patient_id,
        kind,
        effective_at: Micros(effective_at),
        status: plan.status,
        doses_per_day: plan.doses_per_day,
        dose_amount: plan.dose_amount,
        dose_unit: plan.dose_unit.clone(),
        clock_times: plan.clock_times.clone(),
        reason: reason.to_owned(),
        actor: scope.actor.to_string(),
        recorded_at: Micros(scope.now),
    };
    insert_one(tx, &change).await
}

/// Changes a plan from a time on. Slots of that time that nobody answered are cancelled, and doses in them
/// that counted as missed count no more.
///
/// # Errors
/// `NotFound`; `Invalid` for what does not go with the kind; `Conflict` when the plan cannot be changed so,
/// or somebody else changed it.
pub async fn change(
    tx: &mut WriteTransaction,
    scope: Scope,
    plan_id: i64,
    new: &NewPlanChange,
) -> Result<MedicationPlan, OperationalError> {
    if new.reason.trim().is_empty() || new.reason.chars().count() > 500 {
        return Err(OperationalError::invalid("reason must have 1 to 500 characters"));
    }
    check_time("effective_at", new.effective_at)?;
    let of = find(tx, scope.tenant_id, plan_id).await?.patient_id;
    patients::lock_in_use(tx, scope, of).await?;
    let mut plan: MedicationPlan =
        sql("select * from medication_plan where plan_id = ?1 for update")
            .bind(plan_id)
            .one(tx)
            .await?;
    if plan.version != new.version {
        return Err(OperationalError::conflict(format!(
            "medication_plan {plan_id} is of version {}, not {}: read it again",
            plan.version, new.version
        )));
    }
    let at = new.effective_at.unwrap_or(scope.now);
    let last: Option<Micros> =
        sql("select max(effective_at) from medication_plan_change where plan_id = ?1")
            .bind(plan_id)
            .value(tx)
            .await?;
    if at > scope.now || last.is_some_and(|last| at < last.0) {
        return Err(OperationalError::invalid(
            "effective_at must not be in the future, and not before the change before it",
        ));
    }
    let doses = new.doses_per_day.is_some()
        || new.dose_amount.is_some()
        || new.dose_unit.is_some()
        || new.clock_times.is_some();
    if doses != (new.kind == ChangeKind::Changed) {
        return Err(OperationalError::invalid(
            "doses and times go with kind changed, and it with them",
        ));
    }
    plan.status = match (plan.status, new.kind) {
        (PlanStatus::Active, ChangeKind::Changed) => PlanStatus::Active,
        (PlanStatus::Active | PlanStatus::Hospital, ChangeKind::Paused) => PlanStatus::Paused,
        (PlanStatus::Active | PlanStatus::Paused, ChangeKind::Hospital) => PlanStatus::Hospital,
        (PlanStatus::Paused | PlanStatus::Hospital, ChangeKind::Resumed) => PlanStatus::Active,
        (from, ChangeKind::Stopped) if from != PlanStatus::Stopped => PlanStatus::Stopped,
        (from, kind) => {
            return Err(OperationalError::conflict(format!(
                "medication_plan {plan_id} is {from}: it cannot be {kind}"
            )));
        }
    };
    if new.kind == ChangeKind::Changed {
        plan.doses_per_day = new.doses_per_day.unwrap_or(plan.doses_per_day);
        if new.dose_amount.is_some() || new.dose_unit.is_some() {
            (plan.dose_amount, plan.dose_unit) = (new.dose_amount, new.dose_unit.clone());
        }
        let kept: Option<Vec<String>> = match (&new.clock_times, &plan.clock_times) {
            (Some(times), _) => Some(times.clone()),
            (None, Some(times)) => Some(times.split(',').map(str::to_owned).collect()),
            (None, None) => None,
        };
        plan.clock_times = check_dose(
            plan.doses_per_day,
            plan.dose_amount,
            plan.dose_unit.as_ref(),
            kept.as_ref(),
        )?;
    }
    plan.version += 1;
    plan.updated_at = Micros(scope.now);
    sql("update medication_plan set status = ?2, doses_per_day = ?3, dose_amount = ?4, dose_unit = ?5,
             clock_times = ?6, updated_at = ?7, version = ?8, slots_to = null
         where plan_id = ?1")
    .bind(plan_id)
    .bind(plan.status)
    .bind(plan.doses_per_day)
    .bind(plan.dose_amount)
    .bind(&plan.dose_unit)
    .bind(&plan.clock_times)
    .bind(plan.updated_at)
    .bind(plan.version)
    .execute(tx)
    .await?;
    plan.slots_to = None;
    keep_change(tx, scope, &plan, (new.kind, at), new.reason.trim()).await?;
    // A changed dose says nothing of those that were due before now.
    let from = if new.kind == ChangeKind::Changed { scope.now } else { at };
    slots::cancel(tx, scope, &plan, new.kind, from).await?;
    slots::generate(tx, scope, &plan).await?;
    find(tx, scope.tenant_id, plan_id).await
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
    Router::new().route("/chronic-care/medication-plans", routing::post(post)).route(
        "/chronic-care/medication-plans/{id}/changes",
        routing::post(post_change).get(get_changes),
    )
}

/// Change a plan: its doses, a pause, a stay in hospital, its end.
#[utoipa::path(post, path = "/chronic-care/medication-plans/{id}/changes", tag = "chronic-care",
    request_body = NewPlanChange,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = MedicationPlan), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_change(
    State(services): State<Services>,
    Id(plan_id): Id,
    command: Command<NewPlanChange>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.chronic_care(), services.now(), StatusCode::OK, |tx, scope, new| {
            Box::pin(change(tx, scope, plan_id, new))
        })
        .await
}

/// What a plan was from when on, the oldest first.
#[utoipa::path(get, path = "/chronic-care/medication-plans/{id}/changes", tag = "chronic-care",
    params(("id" = i64, Path)),
    responses((status = 200, body = List<PlanChange>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_changes(
    State(services): State<Services>,
    scope: Scope,
    Id(plan_id): Id,
) -> Result<Json<List<PlanChange>>, Failure> {
    let mut tx = services.chronic_care().read().await?;
    let plan = find(&mut tx, scope.tenant_id, plan_id).await?;
    patients::find(&mut tx, scope, plan.patient_id)
        .await
        .map_err(|error| error.of("medication_plan", plan_id))?;
    let items = sql("select * from medication_plan_change where plan_id = ?1
         order by effective_at, change_id limit 1000")
    .bind(plan_id)
    .all(&mut tx)
    .await?;
    Ok(Json(List { items }))
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
