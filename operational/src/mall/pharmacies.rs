//! Pharmacies: who sells.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::limits::{check_positive, check_text};
use crate::{
    OperationalError, Page, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_missing, record, sql},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
};

/// The most that is charged for shipping.
pub(super) const SHIPPING_FEN_MAX: i64 = 10_000_000;

/// A pharmacy to be added.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPharmacy {
    /// Its id, where one is recorded; otherwise the next free one.
    #[serde(skip_deserializing)]
    #[schema(ignore)]
    pub pharmacy_id: Option<i64>,
    /// Its name.
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// The province, such as 浙江.
    #[schema(min_length = 1, max_length = 255)]
    pub region: String,
    /// What it charges for shipping an order.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 10_000_000)]
    pub shipping_fen: i64,
    /// From which goods amount on, after all discounts, shipping is free.
    #[schema(minimum = 0)]
    pub free_shipping_from_fen: Option<i64>,
}

impl NewPharmacy {
    /// A pharmacy that charges nothing for shipping.
    #[must_use]
    pub fn new(name: impl Into<String>, region: impl Into<String>) -> Self {
        Self {
            pharmacy_id: None,
            name: name.into(),
            region: region.into(),
            shipping_fen: 0,
            free_shipping_from_fen: None,
        }
    }
}

record! {
    /// A pharmacy.
    pub struct Pharmacy in "pharmacy" {
        /// Its id.
        pub pharmacy_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// Its name.
        pub name: String,
        /// The province.
        pub region: String,
        /// What it charges for shipping an order.
        pub shipping_fen: i64,
        /// From which goods amount on shipping is free.
        pub free_shipping_from_fen: Option<i64>,
        /// Whether it takes orders.
        pub active: bool,
        /// Grows with each change; a change names the one it is of.
        pub version: i64,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub updated_at: Micros,
    }
}

impl Pharmacy {
    /// What shipping costs for goods that come to this after all discounts.
    #[must_use]
    pub fn shipping_for(&self, goods_fen: i64) -> i64 {
        match self.free_shipping_from_fen {
            Some(from) if goods_fen >= from => 0,
            _ => self.shipping_fen,
        }
    }
}

fn check_shipping(shipping_fen: i64, free_from_fen: Option<i64>) -> Result<(), OperationalError> {
    if !(0..=SHIPPING_FEN_MAX).contains(&shipping_fen) || free_from_fen.is_some_and(|from| from < 0)
    {
        return Err(OperationalError::invalid(
            "shipping_fen must be between 0 and 10000000, free_shipping_from_fen at least 0",
        ));
    }
    Ok(())
}

/// Adds pharmacies in one statement and returns those that were added: one whose id exists already
/// is left as it is.
///
/// # Errors
/// `Invalid` when a field is outside its range.
pub async fn create_many(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &[NewPharmacy],
) -> Result<Vec<Pharmacy>, OperationalError> {
    for pharmacy in new {
        check_text("name", &pharmacy.name)?;
        check_text("region", &pharmacy.region)?;
        check_shipping(pharmacy.shipping_fen, pharmacy.free_shipping_from_fen)?;
    }
    let ids = tx.ids::<Pharmacy>(new.iter().map(|p| p.pharmacy_id)).await?;
    let rows = ids.into_iter().zip(new).map(|(pharmacy_id, new)| Pharmacy {
        pharmacy_id,
        tenant_id: scope.tenant_id,
        name: new.name.clone(),
        region: new.region.clone(),
        shipping_fen: new.shipping_fen,
        free_shipping_from_fen: new.free_shipping_from_fen,
        active: true,
        version: 1,
        created_at: Micros(scope.now),
        updated_at: Micros(scope.now),
    });
    insert_missing(tx, rows.collect()).await
}

/// Adds one pharmacy.
///
/// # Errors
/// `Invalid` when a field is outside its range, `Conflict` when its id exists.
pub async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewPharmacy,
) -> Result<Pharmacy, OperationalError> {
    create_many(tx, scope, &[new])
        .await?
        .pop()
        .ok_or_else(|| OperationalError::conflict("the pharmacy exists already"))
}

/// What a pharmacy is from now on.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PharmacyChange {
    /// The version the change is of.
    #[schema(minimum = 1)]
    pub version: i64,
    /// Its name.
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// The province, such as 浙江.
    #[schema(min_length = 1, max_length = 255)]
    pub region: String,
    /// What it charges for shipping an order.
    #[schema(minimum = 0, maximum = 10_000_000)]
    pub shipping_fen: i64,
    /// From which goods amount on, after all discounts, shipping is free.
    #[schema(minimum = 0)]
    pub free_shipping_from_fen: Option<i64>,
    /// Whether it takes orders.
    pub active: bool,
}

/// Changes a pharmacy. Orders that were placed keep what they were charged.
///
/// # Errors
/// `NotFound`; `Conflict` when it was changed since that version; `Invalid` when a field is outside its
/// range.
pub async fn change(
    tx: &mut WriteTransaction,
    scope: Scope,
    pharmacy_id: i64,
    change: &PharmacyChange,
) -> Result<Pharmacy, OperationalError> {
    check_positive([("version", Some(change.version))])?;
    check_text("name", &change.name)?;
    check_text("region", &change.region)?;
    check_shipping(change.shipping_fen, change.free_shipping_from_fen)?;
    find(tx, scope.tenant_id, pharmacy_id).await?;
    let changed = sql("update pharmacy set name = ?3, region = ?4, shipping_fen = ?5,
             free_shipping_from_fen = ?6, active = ?7, version = version + 1, updated_at = ?8
         where pharmacy_id = ?1 and version = ?2")
    .bind(pharmacy_id)
    .bind(change.version)
    .bind(&change.name)
    .bind(&change.region)
    .bind(change.shipping_fen)
    .bind(change.free_shipping_from_fen)
    .bind(change.active)
    .bind(Micros(scope.now))
    .execute(tx)
    .await?;
    if changed == 0 {
        return Err(OperationalError::changed_meanwhile("pharmacy", pharmacy_id, change.version));
    }
    find(tx, scope.tenant_id, pharmacy_id).await
}

/// One pharmacy.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    connection: &mut Connection,
    tenant_id: i64,
    pharmacy_id: i64,
) -> Result<Pharmacy, OperationalError> {
    sql("select * from pharmacy where pharmacy_id = ?1 and tenant_id = ?2")
        .bind(pharmacy_id)
        .bind(tenant_id)
        .first(connection)
        .await?
        .ok_or(OperationalError::not_found("pharmacy", pharmacy_id))
}

/// Pharmacies by id.
///
/// # Errors
/// When the database fails.
pub async fn list(
    connection: &mut Connection,
    tenant_id: i64,
    page: Page,
) -> Result<Vec<Pharmacy>, OperationalError> {
    sql(
        "select * from pharmacy where tenant_id = ?1 and pharmacy_id > ?2 order by pharmacy_id limit ?3",
    )
    .bind(tenant_id)
    .bind(page.after_id)
    .bind(page.limit.rows())
    .all(connection)
    .await
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/mall/pharmacies", routing::post(post).get(get_all))
        .route("/mall/pharmacies/{id}", routing::get(get_one).put(put))
}

/// Add a pharmacy.
#[utoipa::path(post, path = "/mall/pharmacies", tag = "mall", request_body = NewPharmacy,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Pharmacy), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewPharmacy>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::CREATED, |tx, scope, new| {
            Box::pin(create(tx, scope, new.clone()))
        })
        .await
}

/// List pharmacies.
#[utoipa::path(get, path = "/mall/pharmacies", tag = "mall", params(Page),
    responses((status = 200, body = List<Pharmacy>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(page): Params<Page>,
) -> Result<Json<List<Pharmacy>>, Failure> {
    let items = list(&mut *services.mall().read().await?, scope.tenant_id, page).await?;
    Ok(Json(List { items }))
}

/// A pharmacy.
#[utoipa::path(get, path = "/mall/pharmacies/{id}", tag = "mall", params(("id" = i64, Path)),
    responses((status = 200, body = Pharmacy), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(pharmacy_id): Id,
) -> Result<Json<Pharmacy>, Failure> {
    let mut tx = services.mall().read().await?;
    Ok(Json(find(&mut tx, scope.tenant_id, pharmacy_id).await?))
}

/// Change a pharmacy, or whether it takes orders.
#[utoipa::path(put, path = "/mall/pharmacies/{id}", tag = "mall", request_body = PharmacyChange,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Pharmacy), (status = "default", body = ErrorBody)))]
pub(crate) async fn put(
    State(services): State<Services>,
    Id(pharmacy_id): Id,
    command: Command<PharmacyChange>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::OK, |tx, scope, new| {
            Box::pin(change(tx, scope, pharmacy_id, new))
        })
        .await
}
