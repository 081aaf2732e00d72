//! Rights of patients over what identifies them: who saw it and why, and erasure.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use chrono::{Months, NaiveDate};
use serde::Deserialize;
use utoipa::IntoParams;

use super::patients::{self, Patient, PatientStatus};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    calendar::business_day,
    database::{Connection, Micros, insert_one, record, sql},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Nothing, Page, Params},
    identifiers::{self, Identifiers},
};

/// How long the record of an outpatient must be kept: 15 years.
const RETENTION: Months = Months::new(15 * 12);

record! {
    /// That somebody saw identifiers in the clear.
    pub struct Access in "_identifier_access" {
        /// Its id.
        pub access_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The patient.
        pub patient_id: i64,
        /// Who.
        pub actor: String,
        /// What for, as they said.
        pub purpose: String,
        /// Microseconds since 1970 (UTC).
        pub accessed_at: Micros,
    }
}

/// What identifiers are wanted for.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Kept with the time: 1 to 200 characters.
    #[param(min_length = 1, max_length = 200)]
    purpose: String,
}

/// Shows the identifiers of a patient in the clear, and keeps that it did. Those of a restricted patient
/// are shown too: the law wants the record kept, and who reads it is kept with it.
async fn reveal(
    tx: &mut WriteTransaction,
    scope: Scope,
    patient_id: i64,
    purpose: &str,
) -> Result<Identifiers, OperationalError> {
    let purpose = purpose.trim();
    if purpose.is_empty() || purpose.chars().count() > 200 {
        return Err(OperationalError::invalid("purpose must have 1 to 200 characters"));
    }
    let patient = patients::find(tx, scope, patient_id).await?;
    let keys = tx.master_keys()?;
    let access = Access {
        access_id: tx.id::<Access>(None).await?,
        tenant_id: scope.tenant_id,
        patient_id,
        actor: scope.actor.to_string(),
        purpose: purpose.to_owned(),
        accessed_at: Micros(scope.now),
    };
    insert_one(tx, &access).await?;
    identifiers::reveal(tx, &keys, scope.tenant_id, patient.person_id).await
}

/// The last day on which something was recorded of a patient that the law wants kept.
async fn last_record(
    on: &mut Connection,
    patient_id: i64,
) -> Result<Option<NaiveDate>, OperationalError> {
    let mut last = None;
    for (table, column) in [("follow_up", "performed_at"), ("medication_plan", "updated_at")] {
        let newest: Option<Micros> =
            sql(format!("select max({column}) from {table} where patient_id = ?1"))
                .bind(patient_id)
                .value(on)
                .await?;
        last = last.max(newest.map(|at| business_day(at.0)).transpose()?);
    }
    Ok(last)
}

/// Erases a patient: at once when no medical record has to be kept, otherwise on the day it has no longer
/// to be. Until then the record is kept and not used, and nobody finds the patient by phone or ID card.
///
/// # Errors
/// `NotFound`; `Conflict` when the patient is erased, or is to be.
pub async fn erase(
    tx: &mut WriteTransaction,
    scope: Scope,
    patient_id: i64,
) -> Result<Patient, OperationalError> {
    let patient = patients::lock(tx, scope, patient_id).await?;
    if patient.status == PatientStatus::Erased || patient.erase_on.is_some() {
        return Err(OperationalError::conflict(format!(
            "patient {patient_id} is erased, or will be on the day that erase_on says"
        )));
    }
    let kept_to =
        last_record(tx, patient_id).await?.and_then(|day| day.checked_add_months(RETENTION));
    match kept_to.filter(|&day| Ok(day) > business_day(scope.now).map_err(drop)) {
        Some(day) => {
            identifiers::drop_tokens(tx, scope.tenant_id, patient.person_id).await?;
            let restricted = PatientStatus::Restricted;
            let reason = "erasure asked for; the record is kept as long as the law wants";
            let patient = match patient.status == restricted {
                true => patient,
                false => patients::change_status(tx, scope, &patient, restricted, reason).await?,
            };
            sql("update patient set erase_on = ?2 where patient_id = ?1")
                .bind(patient_id)
                .bind(day)
                .execute(tx)
                .await?;
            Ok(Patient { erase_on: Some(day), ..patient })
        }
        None => destroy(tx, scope, &patient, "erasure asked for").await,
    }
}

/// Destroys the data key of a patient, and what else tells who they are.
async fn destroy(
    tx: &mut WriteTransaction,
    scope: Scope,
    patient: &Patient,
    reason: &str,
) -> Result<Patient, OperationalError> {
    identifiers::shred(tx, scope, patient.person_id).await?;
    sql("update patient set birth_date = null, sex = 'unknown', erase_on = null where patient_id = ?1")
        .bind(patient.patient_id)
        .execute(tx)
        .await?;
    patients::change_status(tx, scope, patient, PatientStatus::Erased, reason).await?;
    patients::find(tx, scope, patient.patient_id).await
}

/// Destroys the keys of those patients whose records have no longer to be kept; gives how many.
///
/// # Errors
/// When the database fails.
pub(crate) async fn sweep(tx: &mut WriteTransaction, now: i64) -> Result<u64, OperationalError> {
    let due: Vec<(i64, i64)> = sql("select tenant_id, patient_id from patient
         where erase_on <= ?1 order by patient_id limit 500")
    .bind(business_day(now)?)
    .all(tx)
    .await?;
    let count = due.len() as u64;
    for (tenant_id, patient_id) in due {
        let scope = Scope::of(tenant_id, now);
        let patient = patients::lock(tx, scope, patient_id).await?;
        destroy(tx, scope, &patient, "the record has no longer to be kept").await?;
    }
    Ok(count)
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/chronic-care/patients/{id}/identifiers", routing::get(get_identifiers))
        .route("/chronic-care/patients/{id}/accesses", routing::get(get_accesses))
        .route("/chronic-care/patients/{id}/erasure", routing::post(post_erasure))
}

/// Who a patient is, in the clear. That it was asked for is kept.
#[utoipa::path(get, path = "/chronic-care/patients/{id}/identifiers", tag = "chronic-care",
    params(("id" = i64, Path), Wanted),
    responses((status = 200, body = Identifiers), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_identifiers(
    State(services): State<Services>,
    scope: Scope,
    Id(patient_id): Id,
    Params(wanted): Params<Wanted>,
) -> Result<Json<Identifiers>, Failure> {
    let mut tx = services.chronic_care().begin(scope.now).await?;
    let identifiers = reveal(&mut tx, scope, patient_id, &wanted.purpose).await?;
    tx.commit().await?;
    Ok(Json(identifiers))
}

/// Who asked for the identifiers of a patient, and what for.
#[utoipa::path(get, path = "/chronic-care/patients/{id}/accesses", tag = "chronic-care",
    params(("id" = i64, Path), Page),
    responses((status = 200, body = List<Access>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_accesses(
    State(services): State<Services>,
    scope: Scope,
    Id(patient_id): Id,
    Params(page): Params<Page>,
) -> Result<Json<List<Access>>, Failure> {
    let mut tx = services.chronic_care().read().await?;
    patients::find(&mut tx, scope, patient_id).await?;
    let items = sql("select * from _identifier_access where patient_id = ?1 and access_id > ?2
         order by access_id limit ?3")
    .bind(patient_id)
    .bind(page.after_id)
    .bind(page.limit.rows())
    .all(&mut tx)
    .await?;
    Ok(Json(List { items }))
}

/// Erase a patient: at once, or as soon as the law allows.
#[utoipa::path(post, path = "/chronic-care/patients/{id}/erasure", tag = "chronic-care",
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Patient), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_erasure(
    State(services): State<Services>,
    Id(patient_id): Id,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.chronic_care(), services.now(), StatusCode::OK, |tx, scope, _| {
            Box::pin(erase(tx, scope, patient_id))
        })
        .await
}
