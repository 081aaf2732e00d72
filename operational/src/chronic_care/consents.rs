//! Consents: what a patient has agreed to, by which text, since when and until when.
//!
//! Health data is sensitive personal information (PIPL articles 28 to 30): it needs a specific purpose and
//! a consent of its own, given to a text that tells of the necessity and of the influence on the person. A
//! consent is never changed: one that is withdrawn keeps when it was, and a new one is a new row.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::patients::{self, PatientStatus};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Nothing},
    scope::check_time,
};

words! {
    /// What personal information may be used for.
    pub enum Purpose {
        /// Care itself: programmes, reminders, readings.
        Care = "care",
        /// Statistics and improvement of the service.
        Analytics = "analytics",
        /// Offers.
        Marketing = "marketing",
        /// Passing it on to others.
        Sharing = "sharing",
    }
}

/// A consent to be recorded.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewConsent {
    /// For what.
    pub purpose: Purpose,
    /// Whether it is the separate consent to the use of sensitive information.
    pub sensitive_data: bool,
    /// The version of the text that was shown, such as `care-2026-03`.
    #[schema(max_length = 64)]
    pub text_version: String,
    /// When, in microseconds since 1970 (UTC); now when left out.
    pub given_at: Option<i64>,
}

record! {
    /// A consent.
    pub struct Consent in "consent" {
        /// Its id.
        pub consent_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The patient.
        pub patient_id: i64,
        /// For what.
        pub purpose: Purpose,
        /// Whether it is the separate consent to the use of sensitive information.
        pub sensitive_data: bool,
        /// The version of the text that was shown.
        pub text_version: String,
        /// Microseconds since 1970 (UTC).
        pub given_at: Micros,
        /// Microseconds since 1970 (UTC); null while it holds.
        pub withdrawn_at: Option<Micros>,
        /// Microseconds since 1970 (UTC).
        pub recorded_at: Micros,
    }
}

/// Records a consent. One to care lifts a restriction that its withdrawal brought.
///
/// # Errors
/// `NotFound` for an unknown patient; `Conflict` for one who was erased or is about to be, and when the
/// same consent holds already.
pub async fn give(
    tx: &mut WriteTransaction,
    scope: Scope,
    patient_id: i64,
    new: &NewConsent,
) -> Result<Consent, OperationalError> {
    let version = new.text_version.trim();
    if version.is_empty() || version.len() > 64 {
        return Err(OperationalError::invalid("text_version must have 1 to 64 bytes"));
    }
    check_time("given_at", new.given_at)?;
    if new.given_at.is_some_and(|at| at > scope.now) {
        return Err(OperationalError::invalid("given_at must not be in the future"));
    }
    let patient = patients::lock(tx, scope, patient_id).await?;
    if patient.status == PatientStatus::Erased || patient.erase_on.is_some() {
        return Err(OperationalError::conflict(format!("patient {patient_id} asked to be erased")));
    }
    if holds(tx, patient_id, new.purpose, new.sensitive_data).await? {
        return Err(OperationalError::conflict(format!(
            "patient {patient_id} has consented to {} already",
            new.purpose
        )));
    }
    let consent = Consent {
        consent_id: tx.id::<Consent>(None).await?,
        tenant_id: scope.tenant_id,
        patient_id,
        purpose: new.purpose,
        sensitive_data: new.sensitive_data,
        text_version: version.to_owned(),
        given_at: Micros(new.given_at.unwrap_or(scope.now)),
        withdrawn_at: None,
        recorded_at: Micros(scope.now),
    };
    insert_one(tx, &consent).await?;
    if patient.status == PatientStatus::Restricted && new.purpose == Purpose::Care {
        patients::change_status(tx, scope, &patient, PatientStatus::Active, "consent given")
            .await?;
    }
    Ok(consent)
}

/// Withdraws a consent. Without that to care the patient's information is kept and used no more (PIPL
/// article 47).
///
/// # Errors
/// `NotFound`; `Conflict` when it was withdrawn before.
pub async fn withdraw(
    tx: &mut WriteTransaction,
    scope: Scope,
    consent_id: i64,
) -> Result<Consent, OperationalError> {
    let mut consent: Consent =
        sql("select * from consent where consent_id = ?1 and tenant_id = ?2 for update")
            .bind(consent_id)
            .bind(scope.tenant_id)
            .first(tx)
            .await?
            .ok_or(OperationalError::not_found("consent", consent_id))?;
    let patient = patients::lock(tx, scope, consent.patient_id)
        .await
        .map_err(|error| error.of("consent", consent_id))?;
    if consent.withdrawn_at.is_some() {
        return Err(OperationalError::conflict(format!(
            "consent {consent_id} is withdrawn already"
        )));
    }
    consent.withdrawn_at = Some(Micros(scope.now));
    sql("update consent set withdrawn_at = ?2 where consent_id = ?1")
        .bind(consent_id)
        .bind(Micros(scope.now))
        .execute(tx)
        .await?;
    if consent.purpose == Purpose::Care && patient.status.in_use() {
        patients::change_status(
            tx,
            scope,
            &patient,
            PatientStatus::Restricted,
            "consent withdrawn",
        )
        .await?;
    }
    Ok(consent)
}

async fn holds(
    on: &mut Connection,
    patient_id: i64,
    purpose: Purpose,
    sensitive: bool,
) -> Result<bool, OperationalError> {
    sql("select exists (select 1 from consent where patient_id = ?1 and purpose = ?2
             and sensitive_data = ?3 and withdrawn_at is null)")
    .bind(patient_id)
    .bind(purpose)
    .bind(sensitive)
    .value(on)
    .await
}

/// Refuses unless the patient has separately consented to the use of sensitive information for care.
///
/// # Errors
/// `Conflict`.
pub(crate) async fn require_care(
    on: &mut Connection,
    patient_id: i64,
) -> Result<(), OperationalError> {
    if holds(on, patient_id, Purpose::Care, true).await? {
        return Ok(());
    }
    Err(OperationalError::conflict(format!(
        "patient {patient_id} has not consented to the use of sensitive information for care; record \
         the consent first"
    )))
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/chronic-care/patients/{id}/consents", routing::post(post).get(get_all))
        .route("/chronic-care/consents/{id}/withdrawal", routing::post(post_withdrawal))
}

/// Record a consent.
#[utoipa::path(post, path = "/chronic-care/patients/{id}/consents", tag = "chronic-care",
    request_body = NewConsent,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Consent), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    Id(patient_id): Id,
    command: Command<NewConsent>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.chronic_care(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(give(tx, scope, patient_id, new)),
        )
        .await
}

/// Withdraw a consent.
#[utoipa::path(post, path = "/chronic-care/consents/{id}/withdrawal", tag = "chronic-care",
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Consent), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_withdrawal(
    State(services): State<Services>,
    Id(consent_id): Id,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.chronic_care(), services.now(), StatusCode::OK, |tx, scope, _| {
            Box::pin(withdraw(tx, scope, consent_id))
        })
        .await
}

/// All consents of a patient, the oldest first.
#[utoipa::path(get, path = "/chronic-care/patients/{id}/consents", tag = "chronic-care",
    params(("id" = i64, Path)),
    responses((status = 200, body = List<Consent>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Id(patient_id): Id,
) -> Result<Json<List<Consent>>, Failure> {
    let mut tx = services.chronic_care().read().await?;
    patients::find(&mut tx, scope, patient_id).await?;
    let items = sql("select * from consent where patient_id = ?1 order by consent_id limit 1000")
        .bind(patient_id)
        .all(&mut tx)
        .await?;
    Ok(Json(List { items }))
}
