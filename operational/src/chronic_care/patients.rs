//! Patients: persons who are enrolled for a condition.
//!
//! A row says nothing of who the person is but their number, sex and birthday; names and the like are
//! [identifiers](crate::identifiers), encrypted and not captured.

use std::collections::HashSet;

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    conditions::{self, PatientCondition},
    follow_ups::{self, FollowUp},
    medication_plans::{self, MedicationPlan},
};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert, insert_missing, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
    identifiers::{self, Field, Identifiers},
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
    /// Whether a patient is cared for.
    pub enum PatientStatus {
        /// Cared for.
        Active = "active",
        /// Lost to follow-up; the next follow-up makes them active again.
        Lost = "lost",
        /// No longer in it, by their own wish or because they moved or died.
        Left = "left",
        /// Their information is kept and protected, and used for nothing (PIPL article 47).
        Restricted = "restricted",
        /// Their identifiers are destroyed.
        Erased = "erased",
    }
}

impl PatientStatus {
    /// Whether the patient's information may be used.
    #[must_use]
    pub const fn in_use(self) -> bool {
        matches!(self, Self::Active | Self::Lost | Self::Left)
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
    #[schema(minimum = 1)]
    pub person_id: i64,
    /// Their name.
    #[schema(max_length = 200)]
    pub name: String,
    /// Their phone number.
    pub phone: Option<String>,
    /// The number of their resident identity card.
    pub id_card: Option<String>,
    /// Their address.
    pub address: Option<String>,
    /// Their sex.
    pub sex: Sex,
    /// When they were born.
    pub birth_date: Option<NaiveDate>,
    /// What they are enrolled for.
    pub condition: Condition,
}

impl NewPatient {
    /// One of whom no more is known.
    #[must_use]
    pub fn new(person_id: i64, name: impl Into<String>, sex: Sex, condition: Condition) -> Self {
        Self {
            patient_id: None,
            person_id,
            name: name.into(),
            phone: None,
            id_card: None,
            address: None,
            sex,
            birth_date: None,
            condition,
        }
    }

    fn identifiers(&self) -> Identifiers {
        Identifiers {
            name: Some(self.name.clone()),
            phone: self.phone.clone(),
            id_card: self.id_card.clone(),
            address: self.address.clone(),
        }
    }
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
        /// Their sex.
        pub sex: Sex,
        /// When they were born.
        pub birth_date: Option<NaiveDate>,
        /// What they are enrolled for.
        pub condition: Condition,
        /// Microseconds since 1970 (UTC).
        pub enrolled_at: Micros,
        /// Whether they are cared for.
        pub status: PatientStatus,
        /// The day the identifiers will be destroyed, for a patient who asked for it while the law still
        /// wants the record kept.
        pub erase_on: Option<NaiveDate>,
        /// Grows with each change; a change that names another one is refused.
        pub version: i64,
    }
}

record! {
    /// A change of a patient's status.
    pub struct PatientStatusChange in "patient_status_change" {
        /// Its id.
        pub change_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The patient.
        pub patient_id: i64,
        /// What it was.
        pub from_status: PatientStatus,
        /// What it became.
        pub to_status: PatientStatus,
        /// Why.
        pub reason: String,
        /// Who changed it: `system`, `staff:7`, `customer:7`.
        pub actor: String,
        /// Microseconds since 1970 (UTC).
        pub changed_at: Micros,
    }
}

/// A patient with conditions, plans and follow-ups.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PatientDetail {
    /// The patient.
    #[serde(flatten)]
    pub patient: Patient,
    /// Who they are, masked.
    pub identifiers: Identifiers,
    /// Their conditions.
    pub conditions: Vec<PatientCondition>,
    /// Their medication plans.
    pub medication_plans: Vec<MedicationPlan>,
    /// Their follow-ups, the newest first.
    pub follow_ups: Vec<FollowUp>,
}

/// Enrols patients in a few statements and returns those that were added: one whose id or person is
/// enrolled already is left as it is.
///
/// # Errors
/// `Invalid` when a name is empty, an identifier is none or a person id is not positive.
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
        patient.identifiers().checked()?;
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
    let rows = ids.into_iter().zip(&new).map(|(patient_id, new)| Patient {
        patient_id,
        tenant_id: scope.tenant_id,
        person_id: new.person_id,
        sex: new.sex,
        birth_date: new.birth_date,
        condition: new.condition,
        enrolled_at: Micros(scope.now),
        status: PatientStatus::Active,
        erase_on: None,
        version: 1,
    });
    let added = insert_missing(tx, rows.collect()).await?;
    let persons: HashSet<i64> = added.iter().map(|patient| patient.person_id).collect();
    let known: Vec<(i64, Identifiers)> = new
        .iter()
        .filter(|new| persons.contains(&new.person_id))
        .map(|new| (new.person_id, new.identifiers()))
        .collect();
    let known: Vec<(i64, &Identifiers)> = known.iter().map(|(id, of)| (*id, of)).collect();
    identifiers::keep(tx, scope, &known).await?;
    let ids = tx.ids::<PatientCondition>(added.iter().map(|_| None)).await?;
    let conditions =
        ids.into_iter().zip(&added).map(|(patient_condition_id, patient)| PatientCondition {
            patient_condition_id,
            tenant_id: scope.tenant_id,
            patient_id: patient.patient_id,
            condition: patient.condition,
            icd10: None,
            diagnosed_on: None,
            resolved_on: None,
            recorded_at: Micros(scope.now),
        });
    insert(tx, &conditions.collect::<Vec<_>>()).await?;
    Ok(added)
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

/// The patient that a person is, if they are enrolled.
///
/// # Errors
/// When the database fails.
pub async fn of_person(
    connection: &mut Connection,
    tenant_id: i64,
    person_id: i64,
) -> Result<Option<Patient>, OperationalError> {
    sql("select * from patient where tenant_id = ?1 and person_id = ?2")
        .bind(tenant_id)
        .bind(person_id)
        .first(connection)
        .await
}

/// One patient.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    connection: &mut Connection,
    scope: Scope,
    patient_id: i64,
) -> Result<Patient, OperationalError> {
    let found = sql("select * from patient where patient_id = ?1 and tenant_id = ?2")
        .bind(patient_id)
        .bind(scope.tenant_id)
        .first(connection)
        .await?;
    seen(scope, patient_id, found)
}

/// A patient who was found, unless a customer asks for another person.
fn seen(
    scope: Scope,
    patient_id: i64,
    found: Option<Patient>,
) -> Result<Patient, OperationalError> {
    let patient = found.ok_or(OperationalError::not_found("patient", patient_id))?;
    scope.check_owner(patient.person_id, "patient", patient_id)?;
    Ok(patient)
}

/// One patient, whom no other transaction changes until this one ends.
pub(crate) async fn lock(
    connection: &mut Connection,
    scope: Scope,
    patient_id: i64,
) -> Result<Patient, OperationalError> {
    let found = sql("select * from patient where patient_id = ?1 and tenant_id = ?2 for update")
        .bind(patient_id)
        .bind(scope.tenant_id)
        .first(connection)
        .await?;
    seen(scope, patient_id, found)
}

/// One patient about whom something is to be recorded.
///
/// # Errors
/// `NotFound`; `Conflict` when their information may not be used.
pub(crate) async fn find_in_use(
    connection: &mut Connection,
    scope: Scope,
    patient_id: i64,
) -> Result<Patient, OperationalError> {
    in_use(find(connection, scope, patient_id).await?)
}

/// As [`find_in_use`], and no other transaction changes them until this one ends.
pub(crate) async fn lock_in_use(
    connection: &mut Connection,
    scope: Scope,
    patient_id: i64,
) -> Result<Patient, OperationalError> {
    in_use(lock(connection, scope, patient_id).await?)
}

fn in_use(patient: Patient) -> Result<Patient, OperationalError> {
    if patient.status.in_use() {
        return Ok(patient);
    }
    Err(OperationalError::conflict(format!(
        "patient {} is {}: their information is not used",
        patient.patient_id, patient.status
    )))
}

/// Changes the status of a patient and keeps why.
pub(crate) async fn change_status(
    tx: &mut WriteTransaction,
    scope: Scope,
    patient: &Patient,
    to: PatientStatus,
    reason: &str,
) -> Result<Patient, OperationalError> {
    let changed = Patient { status: to, version: patient.version + 1, ..patient.clone() };
    sql("update patient set status = ?2, version = ?3 where patient_id = ?1")
        .bind(patient.patient_id)
        .bind(to)
        .bind(changed.version)
        .execute(tx)
        .await?;
    let change = PatientStatusChange {
        change_id: tx.id::<PatientStatusChange>(None).await?,
        tenant_id: scope.tenant_id,
        patient_id: patient.patient_id,
        from_status: patient.status,
        to_status: to,
        reason: reason.to_owned(),
        actor: scope.actor.to_string(),
        changed_at: Micros(scope.now),
    };
    insert_one(tx, &change).await?;
    Ok(changed)
}

/// Another status for a patient.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewStatus {
    /// `active`, `left` or `restricted`.
    status: PatientStatus,
    /// Why.
    #[schema(max_length = 500)]
    reason: String,
    /// The version that was read; another one means that somebody else changed the patient meanwhile.
    version: i64,
}

async fn set_status(
    tx: &mut WriteTransaction,
    scope: Scope,
    patient_id: i64,
    new: &NewStatus,
) -> Result<Patient, OperationalError> {
    if new.reason.trim().is_empty() || new.reason.chars().count() > 500 {
        return Err(OperationalError::invalid("reason must have 1 to 500 characters"));
    }
    let patient = lock(tx, scope, patient_id).await?;
    check_version(&patient, new.version)?;
    match (patient.status, new.status) {
        (_, PatientStatus::Lost | PatientStatus::Erased) => Err(OperationalError::invalid(
            "status must be active, left or restricted; a patient is erased by an erasure",
        )),
        (PatientStatus::Erased, _) => {
            Err(OperationalError::conflict(format!("patient {patient_id} is erased")))
        }
        (PatientStatus::Restricted, _) if patient.erase_on.is_some() => {
            Err(OperationalError::conflict(format!("patient {patient_id} asked to be erased")))
        }
        (from, to) if from == to => {
            Err(OperationalError::conflict(format!("patient {patient_id} is {to} already")))
        }
        (_, to) => change_status(tx, scope, &patient, to, new.reason.trim()).await,
    }
}

fn check_version(patient: &Patient, version: i64) -> Result<(), OperationalError> {
    if patient.version == version {
        return Ok(());
    }
    Err(OperationalError::conflict(format!(
        "patient {} is of version {}, not {version}: read it again",
        patient.patient_id, patient.version
    )))
}

/// Identifiers to be kept instead of those that are there.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewIdentifiers {
    /// Those that are given; the others stay.
    identifiers: Identifiers,
    /// The version that was read.
    version: i64,
}

async fn set_identifiers(
    tx: &mut WriteTransaction,
    scope: Scope,
    patient_id: i64,
    new: &NewIdentifiers,
) -> Result<Patient, OperationalError> {
    let mut patient = lock_in_use(tx, scope, patient_id).await?;
    check_version(&patient, new.version)?;
    identifiers::keep(tx, scope, &[(patient.person_id, &new.identifiers)]).await?;
    patient.version += 1;
    sql("update patient set version = ?2 where patient_id = ?1")
        .bind(patient_id)
        .bind(patient.version)
        .execute(tx)
        .await?;
    Ok(patient)
}

/// What patients are looked up by: one of the two.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lookup {
    /// A phone number.
    phone: Option<String>,
    /// The number of a resident identity card.
    id_card: Option<String>,
}

async fn look_up(
    services: &Services,
    scope: Scope,
    lookup: &Lookup,
) -> Result<Vec<Patient>, OperationalError> {
    let (field, value) = match (&lookup.phone, &lookup.id_card) {
        (Some(phone), None) => (Field::Phone, phone),
        (None, Some(id_card)) => (Field::IdCard, id_card),
        _ => return Err(OperationalError::invalid("give either phone or id_card")),
    };
    if let Some(own) = scope.only_person() {
        return Err(OperationalError::denied(format!("person {own} may not look up others")));
    }
    let keys = services.chronic_care().master_keys()?;
    let mut tx = services.chronic_care().read().await?;
    let persons = identifiers::find(&mut tx, &keys, scope.tenant_id, field, value).await?;
    sql("select * from patient where tenant_id = ?1 and person_id in {list}
             and status in ('active', 'lost', 'left') order by patient_id")
    .bind(scope.tenant_id)
    .list(persons)
    .all(&mut tx)
    .await
}

/// Which patients are listed.
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
    status: Option<PatientStatus>,
    /// Only those with this condition.
    condition: Option<Condition>,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/chronic-care/patients", routing::post(post).get(get_all))
        .route("/chronic-care/patients/lookup", routing::post(post_lookup))
        .route("/chronic-care/patients/{id}", routing::get(get_one))
        .route("/chronic-care/patients/{id}/status", routing::post(post_status))
        .route("/chronic-care/patients/{id}/identifiers", routing::put(put_identifiers))
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

/// List patients, without who they are.
#[utoipa::path(get, path = "/chronic-care/patients", tag = "chronic-care", params(Filter),
    responses((status = 200, body = List<Patient>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(filter): Params<Filter>,
) -> Result<Json<List<Patient>>, Failure> {
    let items = sql("select * from patient where tenant_id = ?1 and patient_id > ?2
             and (?3 is null or status = ?3) and (?4 is null or `condition` = ?4)
             and (?6 is null or person_id = ?6)
         order by patient_id limit ?5")
    .bind(scope.tenant_id)
    .bind(filter.after_id)
    .bind(filter.status)
    .bind(filter.condition)
    .bind(filter.limit.rows())
    .bind(scope.only_person())
    .all(&mut *services.chronic_care().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// Find patients by phone number or ID card. Nothing is changed; it is a POST so that the number stands in
/// no address.
#[utoipa::path(post, path = "/chronic-care/patients/lookup", tag = "chronic-care",
    request_body = Lookup,
    responses((status = 200, body = List<Patient>), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_lookup(
    State(services): State<Services>,
    scope: Scope,
    command: Command<Lookup>,
) -> Result<Json<List<Patient>>, Failure> {
    Ok(Json(List { items: look_up(&services, scope, &command.body).await? }))
}

/// A patient with conditions, plans and follow-ups; who they are is masked.
#[utoipa::path(get, path = "/chronic-care/patients/{id}", tag = "chronic-care",
    params(("id" = i64, Path)),
    responses((status = 200, body = PatientDetail), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(patient_id): Id,
) -> Result<Json<PatientDetail>, Failure> {
    let keys = services.chronic_care().master_keys()?;
    let mut tx = services.chronic_care().read().await?;
    let patient = find(&mut tx, scope, patient_id).await?;
    let identifiers = match patient.status.in_use() {
        true => {
            let known =
                identifiers::reveal(&mut tx, &keys, patient.tenant_id, patient.person_id).await?;
            known.masked()
        }
        false => Identifiers::default(),
    };
    Ok(Json(PatientDetail {
        identifiers,
        conditions: conditions::of_patient(&mut tx, patient_id).await?,
        medication_plans: medication_plans::of_patient(&mut tx, patient_id).await?,
        follow_ups: follow_ups::of_patient(&mut tx, patient_id).await?,
        patient,
    }))
}

/// Change the status of a patient.
#[utoipa::path(post, path = "/chronic-care/patients/{id}/status", tag = "chronic-care",
    request_body = NewStatus,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Patient), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_status(
    State(services): State<Services>,
    Id(patient_id): Id,
    command: Command<NewStatus>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.chronic_care(), services.now(), StatusCode::OK, |tx, scope, new| {
            Box::pin(set_status(tx, scope, patient_id, new))
        })
        .await
}

/// Change identifiers of a patient.
#[utoipa::path(put, path = "/chronic-care/patients/{id}/identifiers", tag = "chronic-care",
    request_body = NewIdentifiers,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Patient), (status = "default", body = ErrorBody)))]
pub(crate) async fn put_identifiers(
    State(services): State<Services>,
    Id(patient_id): Id,
    command: Command<NewIdentifiers>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.chronic_care(), services.now(), StatusCode::OK, |tx, scope, new| {
            Box::pin(set_identifiers(tx, scope, patient_id, new))
        })
        .await
}
