//! Alerts: what somebody must look at, raised once for each cause, acknowledged and resolved by a person.

use std::collections::BTreeMap;

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    patients::{self, Patient},
    templates::Severity,
};
use crate::{
    AlertRaised, OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
    outbox,
};

words! {
    /// What an alert is about.
    pub enum AlertKind {
        /// A reading that a rule of a template finds alarming.
        Reading = "reading",
        /// A follow-up that is overdue.
        Overdue = "overdue",
        /// A patient who is lost to follow-up.
        Lost = "lost",
        /// A step of a programme that asks for attention.
        Step = "step",
        /// Doses missed one after the other.
        Doses = "doses",
        /// A device that may be used no longer, or whose clock is wrong.
        Device = "device",
    }
}

words! {
    /// What became of an alert.
    pub enum AlertStatus {
        /// Nobody has seen it.
        Open = "open",
        /// Somebody takes care of it.
        Acknowledged = "acknowledged",
        /// It is taken care of.
        Resolved = "resolved",
    }
}

record! {
    /// An alert.
    pub struct Alert in "alert" {
        /// Its id.
        pub alert_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The patient, if it is about one.
        pub patient_id: Option<i64>,
        /// What it is about.
        pub kind: AlertKind,
        /// How much it matters.
        pub severity: Severity,
        /// What raised it, such as the rule of a template.
        pub rule: String,
        /// What exactly: no second alert is raised for the same.
        pub cause: String,
        /// For a person.
        pub title: String,
        /// How often its rule found something while it was not resolved.
        pub occurrences: i64,
        /// Microseconds since 1970 (UTC).
        pub raised_at: Micros,
        /// When its rule last found something.
        pub last_at: Micros,
        /// What became of it.
        pub status: AlertStatus,
        /// Microseconds since 1970 (UTC).
        pub acknowledged_at: Option<Micros>,
        /// Who.
        pub acknowledged_by: Option<String>,
        /// Microseconds since 1970 (UTC).
        pub resolved_at: Option<Micros>,
        /// Who.
        pub resolved_by: Option<String>,
        /// What was done.
        pub resolution: Option<String>,
    }
}

/// What is to be raised.
#[derive(Debug)]
pub(crate) struct Raise<'a> {
    pub(crate) kind: AlertKind,
    pub(crate) severity: Severity,
    /// What raises it: while one of the same rule about the same patient is open, that one counts up.
    pub(crate) rule: String,
    /// What exactly it is raised for, in the whole tenant.
    pub(crate) cause: String,
    pub(crate) title: &'a str,
}

/// Raises an alert, unless it was raised for this cause before. While one of its rule is not resolved, a new
/// cause is noted on that one. The patient's row is held by the caller's transaction.
///
/// # Errors
/// When the database fails.
pub(crate) async fn raise(
    tx: &mut WriteTransaction,
    scope: Scope,
    patient: Option<&Patient>,
    raise: Raise<'_>,
) -> Result<(), OperationalError> {
    let known: bool =
        sql("select exists (select 1 from alert where tenant_id = ?1 and cause = ?2)")
            .bind(scope.tenant_id)
            .bind(&raise.cause)
            .value(tx)
            .await?;
    if known {
        return Ok(());
    }
    let patient_id = patient.map(|patient| patient.patient_id);
    let noted = sql("update alert set occurrences = occurrences + 1, last_at = ?4
         where tenant_id = ?1 and rule = ?2 and patient_id = ?3 and status <> 'resolved'
             and last_at < ?4")
    .bind(scope.tenant_id)
    .bind(&raise.rule)
    .bind(patient_id)
    .bind(Micros(scope.now))
    .execute(tx)
    .await?;
    let open: bool = noted > 0
        || sql("select exists (select 1 from alert where tenant_id = ?1 and rule = ?2
                 and patient_id = ?3 and status <> 'resolved')")
        .bind(scope.tenant_id)
        .bind(&raise.rule)
        .bind(patient_id)
        .value(tx)
        .await?;
    if open {
        return Ok(());
    }
    let alert = Alert {
        alert_id: tx.id::<Alert>(None).await?,
        tenant_id: scope.tenant_id,
        patient_id,
        kind: raise.kind,
        severity: raise.severity,
        rule: raise.rule,
        cause: raise.cause,
        title: raise.title.to_owned(),
        occurrences: 1,
        raised_at: Micros(scope.now),
        last_at: Micros(scope.now),
        status: AlertStatus::Open,
        acknowledged_at: None,
        acknowledged_by: None,
        resolved_at: None,
        resolved_by: None,
        resolution: None,
    };
    insert_one(tx, &alert).await?;
    let told = AlertRaised {
        tenant_id: scope.tenant_id,
        alert_key: format!("care:{}", alert.alert_id),
        kind: format!("care_{}", alert.kind),
        subject: patient_id.map_or_else(|| alert.cause.clone(), |id| format!("patient:{id}")),
        // Patients are told by their programme; a value without its context only frightens.
        person_id: None,
        raised_at: scope.now,
        parameters: BTreeMap::from([
            ("title".to_owned(), alert.title),
            ("severity".to_owned(), alert.severity.to_string()),
            ("alert_id".to_owned(), alert.alert_id.to_string()),
        ]),
    };
    outbox::put(tx, &told).await
}

/// What was done about an alert.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlertResolution {
    /// For those who read it later.
    #[schema(min_length = 1, max_length = 500)]
    resolution: String,
}

async fn lock(
    tx: &mut WriteTransaction,
    scope: Scope,
    alert_id: i64,
) -> Result<Alert, OperationalError> {
    if let Some(own) = scope.only_person() {
        return Err(OperationalError::denied(format!("person {own} may not change alerts")));
    }
    sql("select * from alert where alert_id = ?1 and tenant_id = ?2 for update")
        .bind(alert_id)
        .bind(scope.tenant_id)
        .first(tx)
        .await?
        .ok_or(OperationalError::not_found("alert", alert_id))
}

/// Notes that somebody takes care of an alert.
async fn acknowledge(
    tx: &mut WriteTransaction,
    scope: Scope,
    alert_id: i64,
) -> Result<Alert, OperationalError> {
    let mut alert = lock(tx, scope, alert_id).await?;
    if alert.status != AlertStatus::Open {
        return Err(OperationalError::conflict(format!("alert {alert_id} is {}", alert.status)));
    }
    alert.status = AlertStatus::Acknowledged;
    alert.acknowledged_at = Some(Micros(scope.now));
    alert.acknowledged_by = Some(scope.actor.to_string());
    sql("update alert set status = ?2, acknowledged_at = ?3, acknowledged_by = ?4 where alert_id = ?1")
        .bind(alert_id)
        .bind(alert.status)
        .bind(alert.acknowledged_at)
        .bind(&alert.acknowledged_by)
        .execute(tx)
        .await?;
    Ok(alert)
}

/// Ends an alert.
async fn resolve(
    tx: &mut WriteTransaction,
    scope: Scope,
    alert_id: i64,
    done: &str,
) -> Result<Alert, OperationalError> {
    if done.trim().is_empty() || done.chars().count() > 500 {
        return Err(OperationalError::invalid("resolution must have 1 to 500 characters"));
    }
    let mut alert = lock(tx, scope, alert_id).await?;
    if alert.status == AlertStatus::Resolved {
        return Err(OperationalError::conflict(format!("alert {alert_id} is resolved already")));
    }
    alert.status = AlertStatus::Resolved;
    alert.resolved_at = Some(Micros(scope.now));
    alert.resolved_by = Some(scope.actor.to_string());
    alert.resolution = Some(done.trim().to_owned());
    sql("update alert set status = ?2, resolved_at = ?3, resolved_by = ?4, resolution = ?5
         where alert_id = ?1")
    .bind(alert_id)
    .bind(alert.status)
    .bind(alert.resolved_at)
    .bind(&alert.resolved_by)
    .bind(&alert.resolution)
    .execute(tx)
    .await?;
    Ok(alert)
}

/// Ends what was raised for a cause, when the cause itself is gone.
pub(crate) async fn settle(
    tx: &mut Connection,
    scope: Scope,
    cause: &str,
) -> Result<(), OperationalError> {
    sql("update alert set status = 'resolved', resolved_at = ?3, resolved_by = ?4,
             resolution = 'the cause is gone'
         where tenant_id = ?1 and cause = ?2 and status <> 'resolved'")
    .bind(scope.tenant_id)
    .bind(cause)
    .bind(Micros(scope.now))
    .bind(scope.actor.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

/// Which alerts are listed.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: crate::Limit,
    /// Only those of this status.
    status: Option<AlertStatus>,
    /// Only those about this patient.
    patient_id: Option<i64>,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/chronic-care/alerts", routing::get(get_all))
        .route("/chronic-care/alerts/{id}/acknowledgement", routing::post(post_acknowledgement))
        .route("/chronic-care/alerts/{id}/resolution", routing::post(post_resolution))
}

/// List alerts.
#[utoipa::path(get, path = "/chronic-care/alerts", tag = "chronic-care", params(Filter),
    responses((status = 200, body = List<Alert>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(filter): Params<Filter>,
) -> Result<Json<List<Alert>>, Failure> {
    let mut tx = services.chronic_care().read().await?;
    if let Some(patient_id) = filter.patient_id {
        patients::find(&mut tx, scope, patient_id).await?;
    }
    let items = sql("select a.* from alert a where a.tenant_id = ?1 and a.alert_id > ?2
             and (?3 is null or a.status = ?3) and (?4 is null or a.patient_id = ?4)
             and (?6 is null or exists (select 1 from patient p
                 where p.patient_id = a.patient_id and p.person_id = ?6))
         order by a.alert_id limit ?5")
    .bind(scope.tenant_id)
    .bind(filter.after_id)
    .bind(filter.status)
    .bind(filter.patient_id)
    .bind(filter.limit.rows())
    .bind(scope.only_person())
    .all(&mut tx)
    .await?;
    Ok(Json(List { items }))
}

/// Take care of an alert.
#[utoipa::path(post, path = "/chronic-care/alerts/{id}/acknowledgement", tag = "chronic-care",
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Alert), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_acknowledgement(
    State(services): State<Services>,
    Id(alert_id): Id,
    command: Command<crate::http::Nothing>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.chronic_care(), services.now(), StatusCode::OK, |tx, scope, _| {
            Box::pin(acknowledge(tx, scope, alert_id))
        })
        .await
}

/// End an alert.
#[utoipa::path(post, path = "/chronic-care/alerts/{id}/resolution", tag = "chronic-care",
    request_body = AlertResolution,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Alert), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_resolution(
    State(services): State<Services>,
    Id(alert_id): Id,
    command: Command<AlertResolution>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.chronic_care(), services.now(), StatusCode::OK, |tx, scope, body| {
            Box::pin(resolve(tx, scope, alert_id, &body.resolution))
        })
        .await
}
