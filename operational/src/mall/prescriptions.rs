//! Prescriptions: issued with a doctor's signature, reviewed by a pharmacist, used by orders up to the
//! prescribed quantity.
//!
//! Rules for selling medicines online (药品网络销售监督管理办法): no medicine on prescription without one that
//! was reviewed, of the buyer's own and still valid; what was used is marked.

use std::collections::BTreeMap;

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    limits::{check_note, check_text},
    orders::QUANTITY_MAX,
    products::{self, ProductKind},
};
use crate::{
    Limit, OperationalError, Scope, Services, WriteTransaction,
    calendar::DAY_MICROS,
    database::{Connection, Micros, insert, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
    scope::check_time,
};

/// The most medicines of a prescription.
const ITEMS_MAX: usize = 20;
/// A prescription is valid for 90 days at most: the longest supply a chronic patient is prescribed.
const VALID_MICROS_MAX: i64 = 90 * DAY_MICROS;

words! {
    /// How far a prescription is.
    pub enum PrescriptionStatus {
        /// Signed by a doctor, not yet reviewed.
        Issued = "issued",
        /// A pharmacist found it right.
        Approved = "approved",
        /// A pharmacist found it wrong.
        Rejected = "rejected",
        /// All of it was ordered.
        Used = "used",
    }
}

record! {
    /// A prescription.
    pub struct Prescription in "prescription" {
        /// Its id.
        pub prescription_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// For whom.
        pub person_id: i64,
        /// Who prescribed.
        pub doctor_reference: String,
        /// The doctor's electronic signature, as the signing service names it.
        pub signature_reference: String,
        /// How far it is.
        pub status: PrescriptionStatus,
        /// Microseconds since 1970 (UTC).
        pub issued_at: Micros,
        /// Until when it may be ordered by, exclusive.
        pub valid_until: Micros,
        /// The pharmacist.
        pub reviewed_by: Option<String>,
        /// Microseconds since 1970 (UTC).
        pub reviewed_at: Option<Micros>,
        /// What the pharmacist noted.
        pub review_note: Option<String>,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
    }
}

record! {
    /// A medicine of a prescription.
    pub struct PrescriptionItem in "prescription_item" {
        /// Its id.
        pub prescription_item_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The prescription.
        pub prescription_id: i64,
        /// The medicine.
        pub product_id: i64,
        /// How many units may be ordered.
        pub quantity: i64,
        /// How many were.
        pub used_quantity: i64,
        /// How it is to be taken.
        pub directions: Option<String>,
    }
}

/// A prescription with its medicines.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PrescriptionDetail {
    /// The prescription.
    #[serde(flatten)]
    pub prescription: Prescription,
    /// Its medicines.
    pub items: Vec<PrescriptionItem>,
}

/// A prescription to be added.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPrescription {
    /// For whom.
    #[schema(minimum = 1)]
    pub person_id: i64,
    /// Who prescribed.
    #[schema(min_length = 1, max_length = 255)]
    pub doctor_reference: String,
    /// The doctor's electronic signature, as the signing service names it: one prescription each.
    #[schema(min_length = 1, max_length = 255)]
    pub signature_reference: String,
    /// Until when it may be ordered by, in microseconds since 1970 (UTC): at most 90 days from now.
    #[schema(minimum = 0, maximum = 253_402_300_799_999_999_i64)]
    pub valid_until: i64,
    /// Its medicines, each named once.
    #[schema(min_items = 1, max_items = 20)]
    pub items: Vec<NewPrescriptionItem>,
}

/// A medicine of a prescription to be added.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPrescriptionItem {
    /// The medicine.
    #[schema(minimum = 1)]
    pub product_id: i64,
    /// How many units may be ordered.
    #[schema(minimum = 1, maximum = 100_000)]
    pub quantity: i64,
    /// How it is to be taken.
    #[schema(max_length = 2_000)]
    pub directions: Option<String>,
}

/// Adds a prescription, which is then to be reviewed.
///
/// # Errors
/// `Invalid` when a field is outside its range or a product is no medicine on prescription; `NotFound`
/// for an unknown product; `Conflict` when the signature is another prescription's.
pub async fn issue(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewPrescription,
) -> Result<PrescriptionDetail, OperationalError> {
    write(tx, scope, new, None).await
}

/// Adds a prescription that a pharmacist approved already, elsewhere.
///
/// # Errors
/// As [`issue`], and `Invalid` without the pharmacist.
pub async fn issue_approved(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewPrescription,
    reviewed_by: &str,
) -> Result<PrescriptionDetail, OperationalError> {
    check_text("reviewed_by", reviewed_by)?;
    write(tx, scope, new, Some(reviewed_by)).await
}

async fn write(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewPrescription,
    reviewed_by: Option<&str>,
) -> Result<PrescriptionDetail, OperationalError> {
    check_text("doctor_reference", &new.doctor_reference)?;
    check_text("signature_reference", &new.signature_reference)?;
    check_time("valid_until", Some(new.valid_until))?;
    if new.person_id <= 0 {
        return Err(OperationalError::invalid("person_id must be positive"));
    }
    if !(1..=VALID_MICROS_MAX).contains(&new.valid_until.saturating_sub(scope.now)) {
        return Err(OperationalError::invalid("valid_until must be within 90 days from now"));
    }
    if !(1..=ITEMS_MAX).contains(&new.items.len())
        || new.items.iter().any(|item| !(1..=QUANTITY_MAX).contains(&item.quantity))
    {
        return Err(OperationalError::invalid(
            "a prescription has 1 to 20 items, each of a quantity between 1 and 100000",
        ));
    }
    for item in &new.items {
        check_note("directions", item.directions.as_deref().unwrap_or_default())?;
        let product = products::find(tx, scope.tenant_id, item.product_id).await?;
        if product.kind != ProductKind::Rx {
            return Err(OperationalError::invalid(format!(
                "product {} is no medicine on prescription",
                item.product_id
            )));
        }
    }
    let prescription = Prescription {
        prescription_id: tx.id::<Prescription>(None).await?,
        tenant_id: scope.tenant_id,
        person_id: new.person_id,
        doctor_reference: new.doctor_reference.clone(),
        signature_reference: new.signature_reference.clone(),
        status: match reviewed_by {
            Some(_) => PrescriptionStatus::Approved,
            None => PrescriptionStatus::Issued,
        },
        issued_at: Micros(scope.now),
        valid_until: Micros(new.valid_until),
        reviewed_by: reviewed_by.map(str::to_owned),
        reviewed_at: reviewed_by.map(|_| Micros(scope.now)),
        review_note: None,
        created_at: Micros(scope.now),
    };
    insert_one(tx, &prescription).await.map_err(|error| {
        error.or_taken(|| "the signature_reference belongs to another prescription".to_owned())
    })?;
    let ids = tx.ids::<PrescriptionItem>(new.items.iter().map(|_| None)).await?;
    let items: Vec<PrescriptionItem> = ids
        .into_iter()
        .zip(&new.items)
        .map(|(prescription_item_id, item)| PrescriptionItem {
            prescription_item_id,
            tenant_id: scope.tenant_id,
            prescription_id: prescription.prescription_id,
            product_id: item.product_id,
            quantity: item.quantity,
            used_quantity: 0,
            directions: item.directions.clone(),
        })
        .collect();
    insert(tx, &items)
        .await
        .map_err(|error| error.or_taken(|| "a product is prescribed twice".to_owned()))?;
    Ok(PrescriptionDetail { prescription, items })
}

/// What a pharmacist says of a prescription.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Review {
    /// The pharmacist.
    #[schema(min_length = 1, max_length = 255)]
    pub reviewed_by: String,
    /// Whether it is right.
    pub approve: bool,
    /// In words.
    #[schema(max_length = 2_000)]
    pub note: Option<String>,
}

/// Reviews a prescription.
///
/// # Errors
/// `NotFound`; `Conflict` when it was reviewed before; `Invalid` without the pharmacist.
pub async fn review(
    tx: &mut WriteTransaction,
    scope: Scope,
    prescription_id: i64,
    review: &Review,
) -> Result<PrescriptionDetail, OperationalError> {
    check_text("reviewed_by", &review.reviewed_by)?;
    check_note("note", review.note.as_deref().unwrap_or_default())?;
    let status = match review.approve {
        true => PrescriptionStatus::Approved,
        false => PrescriptionStatus::Rejected,
    };
    let reviewed = sql("update prescription set status = ?3, reviewed_by = ?4, reviewed_at = ?5,
             review_note = ?6
         where prescription_id = ?1 and tenant_id = ?2 and status = 'issued'")
    .bind(prescription_id)
    .bind(scope.tenant_id)
    .bind(status)
    .bind(&review.reviewed_by)
    .bind(Micros(scope.now))
    .bind(&review.note)
    .execute(tx)
    .await?;
    let detail = find(tx, scope.tenant_id, prescription_id).await?;
    if reviewed == 0 {
        return Err(OperationalError::conflict(format!(
            "prescription {prescription_id} is {} already",
            detail.prescription.status
        )));
    }
    Ok(detail)
}

/// A prescription with its medicines.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    connection: &mut Connection,
    tenant_id: i64,
    prescription_id: i64,
) -> Result<PrescriptionDetail, OperationalError> {
    let prescription: Prescription =
        sql("select * from prescription where prescription_id = ?1 and tenant_id = ?2")
            .bind(prescription_id)
            .bind(tenant_id)
            .first(connection)
            .await?
            .ok_or(OperationalError::not_found("prescription", prescription_id))?;
    let items = sql("select * from prescription_item where prescription_id = ?1
         order by prescription_item_id")
    .bind(prescription_id)
    .all(connection)
    .await?;
    Ok(PrescriptionDetail { prescription, items })
}

/// Marks units of a prescription as used: `wanted` are products with their quantities.
///
/// # Errors
/// `NotFound`; `Conflict` when it is another person's, not approved, no longer valid, or has fewer units.
pub(super) async fn take(
    tx: &mut WriteTransaction,
    scope: Scope,
    prescription_id: i64,
    person_id: i64,
    wanted: &BTreeMap<i64, i64>,
) -> Result<(), OperationalError> {
    let found: Prescription =
        sql("select * from prescription where prescription_id = ?1 and tenant_id = ?2 for update")
            .bind(prescription_id)
            .bind(scope.tenant_id)
            .first(tx)
            .await?
            .ok_or(OperationalError::not_found("prescription", prescription_id))?;
    let problem = if found.person_id != person_id {
        "is another person's".to_owned()
    } else if found.status != PrescriptionStatus::Approved {
        format!("is {}, not approved", found.status)
    } else if found.valid_until <= Micros(scope.now) {
        "is no longer valid".to_owned()
    } else {
        String::new()
    };
    if !problem.is_empty() {
        return Err(OperationalError::conflict(format!(
            "prescription {prescription_id} {problem}"
        )));
    }
    for (product_id, quantity) in wanted {
        let taken = sql("update prescription_item set used_quantity = used_quantity + ?3
             where prescription_id = ?1 and product_id = ?2 and used_quantity + ?3 <= quantity")
        .bind(prescription_id)
        .bind(*product_id)
        .bind(*quantity)
        .execute(tx)
        .await?;
        if taken == 0 {
            return Err(OperationalError::conflict(format!(
                "prescription {prescription_id} is not for {quantity} more units of product {product_id}"
            )));
        }
    }
    mark(tx, prescription_id).await
}

/// Takes the marks back of units that were ordered and will not be shipped.
pub(super) async fn give_back(
    tx: &mut WriteTransaction,
    prescription_id: i64,
    units: &BTreeMap<i64, i64>,
) -> Result<(), OperationalError> {
    for (product_id, quantity) in units {
        sql("update prescription_item set used_quantity = used_quantity - ?3
             where prescription_id = ?1 and product_id = ?2")
        .bind(prescription_id)
        .bind(*product_id)
        .bind(*quantity)
        .execute(tx)
        .await?;
    }
    mark(tx, prescription_id).await
}

/// Whether all of it is used.
async fn mark(tx: &mut WriteTransaction, prescription_id: i64) -> Result<(), OperationalError> {
    sql("update prescription set status = case
             when exists (select 1 from prescription_item i
                 where i.prescription_id = ?1 and i.used_quantity < i.quantity) then 'approved'
             else 'used' end
         where prescription_id = ?1")
    .bind(prescription_id)
    .execute(tx)
    .await?;
    Ok(())
}

/// Which prescriptions.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct PrescriptionFilter {
    /// Of this person only.
    person_id: Option<i64>,
    /// Only those so far.
    status: Option<PrescriptionStatus>,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/mall/prescriptions", routing::post(post).get(get_all))
        .route("/mall/prescriptions/{id}", routing::get(get_one))
        .route("/mall/prescriptions/{id}/review", routing::post(post_review))
}

/// Add a prescription.
#[utoipa::path(post, path = "/mall/prescriptions", tag = "mall", request_body = NewPrescription,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = PrescriptionDetail), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewPrescription>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::CREATED, |tx, scope, new| {
            Box::pin(issue(tx, scope, new))
        })
        .await
}

/// List prescriptions.
#[utoipa::path(get, path = "/mall/prescriptions", tag = "mall", params(PrescriptionFilter),
    responses((status = 200, body = List<Prescription>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(filter): Params<PrescriptionFilter>,
) -> Result<Json<List<Prescription>>, Failure> {
    let items = sql("select * from prescription where tenant_id = ?1
             and (?2 is null or person_id = ?2) and (?3 is null or status = ?3)
             and prescription_id > ?4 order by prescription_id limit ?5")
    .bind(scope.tenant_id)
    .bind(scope.only_person().or(filter.person_id))
    .bind(filter.status)
    .bind(filter.after_id)
    .bind(filter.limit.rows())
    .all(&mut *services.mall().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// A prescription with its medicines.
#[utoipa::path(get, path = "/mall/prescriptions/{id}", tag = "mall", params(("id" = i64, Path)),
    responses((status = 200, body = PrescriptionDetail), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(prescription_id): Id,
) -> Result<Json<PrescriptionDetail>, Failure> {
    let mut tx = services.mall().read().await?;
    let detail = find(&mut tx, scope.tenant_id, prescription_id).await?;
    scope.check_owner(detail.prescription.person_id, "prescription", prescription_id)?;
    Ok(Json(detail))
}

/// Review a prescription, as a pharmacist.
#[utoipa::path(post, path = "/mall/prescriptions/{id}/review", tag = "mall", request_body = Review,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = PrescriptionDetail), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_review(
    State(services): State<Services>,
    Id(prescription_id): Id,
    command: Command<Review>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::OK, |tx, scope, request| {
            Box::pin(review(tx, scope, prescription_id, request))
        })
        .await
}
