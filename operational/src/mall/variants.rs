//! Variants of products: what is sold as one unit, at which price, and how long a unit lasts.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    limits::{check_note, check_optional_text, check_positive},
    products,
};
use crate::{
    OperationalError, Page, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert, insert_one, record, sql},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
};

/// The highest price of a unit: ten million yuan. Keeps every sum of an order inside 64 bits.
pub const UNIT_PRICE_FEN_MAX: i64 = 1_000_000_000;
/// The most variants of a product.
pub(super) const VARIANTS_MAX: usize = 100;

/// A variant to be added to a product.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewVariant {
    /// Its number in the warehouse, unique; one is made up when it is left out.
    #[schema(min_length = 1, max_length = 255)]
    pub sku: Option<String>,
    /// What it is, such as `80mg×28`.
    #[serde(default)]
    #[schema(max_length = 2_000)]
    pub spec: String,
    /// The price of one unit.
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    pub unit_price_fen: i64,
    /// How many days one unit lasts.
    #[schema(minimum = 1, maximum = 3_660)]
    pub days_supply_per_unit: Option<i64>,
    /// Whether its stock is counted; otherwise it is never out.
    #[serde(default = "products::tracked")]
    pub tracks_stock: bool,
}

record! {
    /// A variant of a product.
    pub struct Variant in "product_variant" {
        /// Its id.
        pub variant_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The product.
        pub product_id: i64,
        /// Its place among the product's, from 1: that is the default.
        pub variant_number: i64,
        /// Its number in the warehouse.
        pub sku: String,
        /// What it is.
        pub spec: String,
        /// The price of one unit.
        pub unit_price_fen: i64,
        /// How many days one unit lasts.
        pub days_supply_per_unit: Option<i64>,
        /// Whether its stock is counted.
        pub tracks_stock: bool,
        /// Whether it can be bought.
        pub active: bool,
        /// Grows with each change; a change names the one it is of.
        pub version: i64,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub updated_at: Micros,
    }
}

record! {
    /// A change of a variant's price.
    pub struct VariantPriceChange in "variant_price_change" {
        /// Its id.
        pub variant_price_change_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The variant.
        pub variant_id: i64,
        /// The version of the variant that it made.
        pub version: i64,
        /// What a unit cost before.
        pub old_unit_price_fen: i64,
        /// What it costs from then on.
        pub new_unit_price_fen: i64,
        /// Who did it.
        pub changed_by: String,
        /// Microseconds since 1970 (UTC).
        pub changed_at: Micros,
    }
}

impl NewVariant {
    pub(super) fn check(&self) -> Result<(), OperationalError> {
        check_optional_text("sku", self.sku.as_deref())?;
        check_note("spec", &self.spec)?;
        check_terms(self.unit_price_fen, self.days_supply_per_unit)
    }
}

fn check_terms(unit_price_fen: i64, days_supply: Option<i64>) -> Result<(), OperationalError> {
    if !(0..=UNIT_PRICE_FEN_MAX).contains(&unit_price_fen) {
        return Err(OperationalError::invalid("unit_price_fen must be between 0 and 1000000000"));
    }
    if days_supply.is_some_and(|days| !(1..=3660).contains(&days)) {
        return Err(OperationalError::invalid("days_supply_per_unit must be between 1 and 3660"));
    }
    Ok(())
}

/// Inserts variants: each with its product and its number there.
pub(super) async fn insert_all(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: Vec<(i64, i64, NewVariant)>,
) -> Result<Vec<Variant>, OperationalError> {
    let ids = tx.ids::<Variant>(new.iter().map(|_| None)).await?;
    let rows: Vec<Variant> = ids
        .into_iter()
        .zip(new)
        .map(|(variant_id, (product_id, variant_number, new))| Variant {
            variant_id,
            tenant_id: scope.tenant_id,
            product_id,
            variant_number,
            sku: new.sku.unwrap_or_else(|| format!("P{product_id}-{variant_number}")),
            spec: new.spec,
            unit_price_fen: new.unit_price_fen,
            days_supply_per_unit: new.days_supply_per_unit,
            tracks_stock: new.tracks_stock,
            active: true,
            version: 1,
            created_at: Micros(scope.now),
            updated_at: Micros(scope.now),
        })
        .collect();
    insert(tx, &rows)
        .await
        .map_err(|error| error.or_taken(|| "the sku belongs to another variant".to_owned()))?;
    Ok(rows)
}

/// Adds a variant to a product.
///
/// # Errors
/// `NotFound` for an unknown product; `Conflict` when the sku is another's, or there are 100 variants;
/// `Invalid` when it breaks a rule of its fields.
pub async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    product_id: i64,
    new: NewVariant,
) -> Result<Variant, OperationalError> {
    new.check()?;
    sql("select product_id from product where product_id = ?1 and tenant_id = ?2 for update")
        .bind(product_id)
        .bind(scope.tenant_id)
        .first::<(i64,)>(tx)
        .await?
        .ok_or(OperationalError::not_found("product", product_id))?;
    let number: i64 = sql(
        "select coalesce(max(variant_number), 0) + 1 from product_variant where product_id = ?1",
    )
    .bind(product_id)
    .value(tx)
    .await?;
    if usize::try_from(number).is_ok_and(|number| number > VARIANTS_MAX) {
        return Err(OperationalError::conflict("a product has at most 100 variants"));
    }
    let mut made = insert_all(tx, scope, vec![(product_id, number, new)]).await?;
    Ok(made.remove(0))
}

/// The variants of a product, the default first.
///
/// # Errors
/// When the database fails.
pub async fn of_product(
    connection: &mut Connection,
    product_id: i64,
) -> Result<Vec<Variant>, OperationalError> {
    sql("select * from product_variant where product_id = ?1 order by variant_number")
        .bind(product_id)
        .all(connection)
        .await
}

/// One variant.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    connection: &mut Connection,
    tenant_id: i64,
    variant_id: i64,
) -> Result<Variant, OperationalError> {
    sql("select * from product_variant where variant_id = ?1 and tenant_id = ?2")
        .bind(variant_id)
        .bind(tenant_id)
        .first(connection)
        .await?
        .ok_or(OperationalError::not_found("variant", variant_id))
}

/// What is to be changed of a variant; what is left out stays.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VariantChange {
    /// The version the change is of.
    #[schema(minimum = 1)]
    pub version: i64,
    /// The price of one unit.
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    pub unit_price_fen: Option<i64>,
    /// Whether it can be bought.
    pub active: Option<bool>,
    /// Whether its stock is counted. What is reserved stays reserved.
    pub tracks_stock: Option<bool>,
}

/// Changes a variant. Orders that were placed keep their prices.
///
/// # Errors
/// `NotFound`; `Conflict` when it was changed since that version; `Invalid` for a wrong price.
pub async fn change(
    tx: &mut WriteTransaction,
    scope: Scope,
    variant_id: i64,
    change: &VariantChange,
) -> Result<Variant, OperationalError> {
    check_positive([("version", Some(change.version))])?;
    let old = find(tx, scope.tenant_id, variant_id).await?;
    let old_price_fen = old.unit_price_fen;
    let variant = Variant {
        unit_price_fen: change.unit_price_fen.unwrap_or(old.unit_price_fen),
        active: change.active.unwrap_or(old.active),
        tracks_stock: change.tracks_stock.unwrap_or(old.tracks_stock),
        version: change.version.saturating_add(1),
        updated_at: Micros(scope.now),
        ..old
    };
    check_terms(variant.unit_price_fen, variant.days_supply_per_unit)?;
    let changed = sql("update product_variant set unit_price_fen = ?3, active = ?4,
             tracks_stock = ?5, version = ?6, updated_at = ?7
         where variant_id = ?1 and version = ?2")
    .bind(variant_id)
    .bind(change.version)
    .bind(variant.unit_price_fen)
    .bind(variant.active)
    .bind(variant.tracks_stock)
    .bind(variant.version)
    .bind(variant.updated_at)
    .execute(tx)
    .await?;
    if changed == 0 {
        return Err(OperationalError::changed_meanwhile("variant", variant_id, change.version));
    }
    if variant.unit_price_fen != old_price_fen {
        let noted = VariantPriceChange {
            variant_price_change_id: tx.id::<VariantPriceChange>(None).await?,
            tenant_id: scope.tenant_id,
            variant_id,
            version: variant.version,
            old_unit_price_fen: old_price_fen,
            new_unit_price_fen: variant.unit_price_fen,
            changed_by: scope.actor.to_string(),
            changed_at: Micros(scope.now),
        };
        insert_one(tx, &noted).await?;
    }
    if variant.variant_number == 1 {
        sql("update product set unit_price_fen = ?2, updated_at = ?3 where product_id = ?1")
            .bind(variant.product_id)
            .bind(variant.unit_price_fen)
            .bind(variant.updated_at)
            .execute(tx)
            .await?;
    }
    Ok(variant)
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/mall/products/{id}/variants", routing::post(post))
        .route("/mall/variants/{id}", routing::get(get_one))
        .route("/mall/variants/{id}/change", routing::post(post_change))
        .route("/mall/variants/{id}/price-changes", routing::get(get_price_changes))
}

/// Add a variant to a product.
#[utoipa::path(post, path = "/mall/products/{id}/variants", tag = "mall", request_body = NewVariant,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Variant), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    Id(product_id): Id,
    command: Command<NewVariant>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::CREATED, |tx, scope, new| {
            Box::pin(create(tx, scope, product_id, new.clone()))
        })
        .await
}

/// A variant.
#[utoipa::path(get, path = "/mall/variants/{id}", tag = "mall", params(("id" = i64, Path)),
    responses((status = 200, body = Variant), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(variant_id): Id,
) -> Result<Json<Variant>, Failure> {
    let mut tx = services.mall().read().await?;
    Ok(Json(find(&mut tx, scope.tenant_id, variant_id).await?))
}

/// Change a variant's price, or whether it can be bought.
#[utoipa::path(post, path = "/mall/variants/{id}/change", tag = "mall", request_body = VariantChange,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Variant), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_change(
    State(services): State<Services>,
    Id(variant_id): Id,
    command: Command<VariantChange>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::OK, |tx, scope, new| {
            Box::pin(change(tx, scope, variant_id, new))
        })
        .await
}

/// What a variant cost, and since when it costs what it does.
#[utoipa::path(get, path = "/mall/variants/{id}/price-changes", tag = "mall",
    params(("id" = i64, Path), Page),
    responses((status = 200, body = List<VariantPriceChange>),
        (status = "default", body = ErrorBody)))]
pub(crate) async fn get_price_changes(
    State(services): State<Services>,
    scope: Scope,
    Id(variant_id): Id,
    Params(page): Params<Page>,
) -> Result<Json<List<VariantPriceChange>>, Failure> {
    let mut tx = services.mall().read().await?;
    find(&mut tx, scope.tenant_id, variant_id).await?;
    let items = sql("select * from variant_price_change
         where variant_id = ?1 and variant_price_change_id > ?2
         order by variant_price_change_id limit ?3")
    .bind(variant_id)
    .bind(page.after_id)
    .bind(page.limit.rows())
    .all(&mut tx)
    .await?;
    Ok(Json(List { items }))
}
