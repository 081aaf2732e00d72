//! Conditions: what a patient is or was ill with, by ICD-10.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::patients::{self, Condition};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    calendar::business_day,
    database::{Connection, Micros, insert_one, record, sql},
    http::{Answer, Command, ErrorBody, Failure, Id, List},
    scope::check_day,
};

/// A condition to be recorded.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCondition {
    /// Its code in ICD-10, such as `I10` or `E11.9`.
    #[schema(example = "E11.9")]
    pub icd10: String,
    /// The day of the diagnosis.
    pub diagnosed_on: Option<NaiveDate>,
}

/// The end of a condition.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConditionEnd {
    /// The day it was gone.
    pub resolved_on: NaiveDate,
}

record! {
    /// A condition of a patient.
    pub struct PatientCondition in "patient_condition" {
        /// Its id.
        pub patient_condition_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The patient.
        pub patient_id: i64,
        /// The group it is managed in.
        pub condition: Condition,
        /// Its code in ICD-10; null for what a patient was enrolled for without one.
        pub icd10: Option<String>,
        /// The day of the diagnosis.
        pub diagnosed_on: Option<NaiveDate>,
        /// The day it was gone; null while it lasts.
        pub resolved_on: Option<NaiveDate>,
        /// Microseconds since 1970 (UTC).
        pub recorded_at: Micros,
    }
}

/// Whether a text is a code of ICD-10: a letter, two digits and perhaps a point with up to four more.
fn is_icd10(code: &str) -> bool {
    let (category, rest) = code.split_once('.').map_or((code, None), |(c, r)| (c, Some(r)));
    let digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
    category.len() == 3
        && category.starts_with(|c: char| c.is_ascii_uppercase())
        && digits(&category[1..])
        && rest.is_none_or(|rest| {
            (1..=4).contains(&rest.len()) && rest.bytes().all(|c| c.is_ascii_alphanumeric())
        })
}

/// The group a code is managed in: I10 to I15 are hypertensive diseases, E10 to E14 diabetes.
#[must_use]
pub fn group(icd10: &str) -> Condition {
    match icd10.get(..3) {
        Some(code) if ("I10"..="I15").contains(&code) => Condition::Hypertension,
        Some(code) if ("E10"..="E14").contains(&code) => Condition::Diabetes,
        _ => Condition::Other,
    }
}

/// Records a condition.
///
/// # Errors
/// `NotFound` for an unknown patient; `Invalid` for what is no code; `Conflict` when the patient has it
/// already.
pub async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    patient_id: i64,
    new: &NewCondition,
) -> Result<PatientCondition, OperationalError> {
    if !is_icd10(&new.icd10) {
        return Err(OperationalError::invalid(
            "icd10 must be a letter and two digits, perhaps with a point and up to four more",
        ));
    }
    check_day("diagnosed_on", new.diagnosed_on)?;
    if new.diagnosed_on > Some(business_day(scope.now)?) {
        return Err(OperationalError::invalid("diagnosed_on must not be in the future"));
    }
    patients::lock_in_use(tx, scope, patient_id).await?;
    let has: bool = sql("select exists (select 1 from patient_condition
         where patient_id = ?1 and icd10 = ?2 and resolved_on is null)")
    .bind(patient_id)
    .bind(&new.icd10)
    .value(tx)
    .await?;
    if has {
        return Err(OperationalError::conflict(format!(
            "patient {patient_id} has {} already",
            new.icd10
        )));
    }
    let condition = PatientCondition {
        patient_condition_id: tx.id::<PatientCondition>(None).await?,
        tenant_id: scope.tenant_id,
        patient_id,
        condition: group(&new.icd10),
        icd10: Some(new.icd10.clone()),
        diagnosed_on: new.diagnosed_on,
        resolved_on: None,
        recorded_at: Micros(scope.now),
    };
    insert_one(tx, &condition).await?;
    Ok(condition)
}

/// Ends a condition.
///
/// # Errors
/// `NotFound`; `Conflict` when it has ended before; `Invalid` before its diagnosis.
pub async fn resolve(
    tx: &mut WriteTransaction,
    scope: Scope,
    id: i64,
    resolution: ConditionEnd,
) -> Result<PatientCondition, OperationalError> {
    check_day("resolved_on", Some(resolution.resolved_on))?;
    let mut condition: PatientCondition = sql("select * from patient_condition
         where patient_condition_id = ?1 and tenant_id = ?2 for update")
    .bind(id)
    .bind(scope.tenant_id)
    .first(tx)
    .await?
    .ok_or(OperationalError::not_found("patient_condition", id))?;
    patients::lock_in_use(tx, scope, condition.patient_id).await?;
    if condition.resolved_on.is_some() {
        return Err(OperationalError::conflict(format!(
            "patient_condition {id} has ended already"
        )));
    }
    if condition.diagnosed_on.is_some_and(|day| day > resolution.resolved_on) {
        return Err(OperationalError::invalid("resolved_on must not be before diagnosed_on"));
    }
    condition.resolved_on = Some(resolution.resolved_on);
    sql("update patient_condition set resolved_on = ?2 where patient_condition_id = ?1")
        .bind(id)
        .bind(resolution.resolved_on)
        .execute(tx)
        .await?;
    Ok(condition)
}

/// The conditions of a patient, in the order they were recorded.
///
/// # Errors
/// When the database fails.
pub async fn of_patient(
    connection: &mut Connection,
    patient_id: i64,
) -> Result<Vec<PatientCondition>, OperationalError> {
    sql("select * from patient_condition where patient_id = ?1
         order by patient_condition_id limit 1000")
    .bind(patient_id)
    .all(connection)
    .await
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/chronic-care/patients/{id}/conditions", routing::post(post).get(get_all))
        .route("/chronic-care/conditions/{id}/resolution", routing::post(post_resolution))
}

/// Record a condition.
#[utoipa::path(post, path = "/chronic-care/patients/{id}/conditions", tag = "chronic-care",
    request_body = NewCondition,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = PatientCondition), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    Id(patient_id): Id,
    command: Command<NewCondition>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.chronic_care(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(create(tx, scope, patient_id, new)),
        )
        .await
}

/// End a condition.
#[utoipa::path(post, path = "/chronic-care/conditions/{id}/resolution", tag = "chronic-care",
    request_body = ConditionEnd,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = PatientCondition), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_resolution(
    State(services): State<Services>,
    Id(id): Id,
    command: Command<ConditionEnd>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.chronic_care(), services.now(), StatusCode::OK, |tx, scope, body| {
            Box::pin(resolve(tx, scope, id, *body))
        })
        .await
}

/// All conditions of a patient.
#[utoipa::path(get, path = "/chronic-care/patients/{id}/conditions", tag = "chronic-care",
    params(("id" = i64, Path)),
    responses((status = 200, body = List<PatientCondition>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Id(patient_id): Id,
) -> Result<Json<List<PatientCondition>>, Failure> {
    let mut tx = services.chronic_care().read().await?;
    patients::find(&mut tx, scope, patient_id).await?;
    Ok(Json(List { items: of_patient(&mut tx, patient_id).await? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_icd10() {
        for (code, known) in [
            ("I10", true),
            ("E11.9", true),
            ("E11.900x", true),
            ("i10", false),
            ("I1", false),
            ("I10.", false),
            ("I10.12345", false),
            ("高10", false),
        ] {
            assert_eq!(is_icd10(code), known, "{code}");
        }
        assert_eq!(group("I15.2"), Condition::Hypertension);
        assert_eq!(group("E11.9"), Condition::Diabetes);
        assert_eq!(group("I20"), Condition::Other);
    }
}
