//! Products: what is sold, at which price, and for a medicine how long a unit lasts.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    OperationalError, Page, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_missing, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, List, Params},
};

/// The highest price of a unit: ten million yuan. Keeps every sum of an order inside 64 bits.
pub const UNIT_PRICE_FEN_MAX: i64 = 1_000_000_000;

words! {
    /// What a product is before the law.
    pub enum ProductKind {
        /// A medicine sold without prescription.
        Otc = "otc",
        /// A medicine sold on prescription.
        Rx = "rx",
        /// A medical device.
        Device = "device",
        /// A gene test.
        GeneTest = "gene_test",
        /// Anything else.
        Other = "other",
    }
}

words! {
    /// When a buyer may give it back.
    pub enum ReturnPolicy {
        /// Within seven days, without a reason.
        SevenDay = "seven_day",
        /// Only when its quality is at fault, as for medicines.
        QualityOnly = "quality_only",
    }
}

/// A product to be added.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProduct {
    /// Its id, where one is recorded; otherwise the next free one.
    #[serde(skip_deserializing)]
    #[schema(ignore)]
    pub product_id: Option<i64>,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: ProductKind,
    /// Its category, to which a coupon may be limited.
    pub category: String,
    /// Its brand.
    pub brand: Option<String>,
    /// The drug in it; with `drug_class`.
    pub drug_code: Option<String>,
    /// The class of the drug; with `drug_code`.
    pub drug_class: Option<String>,
    /// How many days one unit lasts.
    #[schema(minimum = 1)]
    pub days_supply_per_unit: Option<i64>,
    /// The price of one unit.
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    pub unit_price_fen: i64,
    /// When it may be given back.
    pub return_policy: ReturnPolicy,
}

record! {
    /// A product.
    pub struct Product in "product" {
        /// Its id.
        pub product_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// Its name.
        pub name: String,
        /// What it is.
        pub kind: ProductKind,
        /// Its category.
        pub category: String,
        /// Its brand.
        pub brand: Option<String>,
        /// The drug in it.
        pub drug_code: Option<String>,
        /// The class of the drug.
        pub drug_class: Option<String>,
        /// How many days one unit lasts.
        pub days_supply_per_unit: Option<i64>,
        /// The price of one unit.
        pub unit_price_fen: i64,
        /// When it may be given back.
        pub return_policy: ReturnPolicy,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub updated_at: Micros,
    }
}

impl NewProduct {
    fn check(&self) -> Result<(), OperationalError> {
        let problem = if self.name.trim().is_empty() || self.category.trim().is_empty() {
            "a product needs a name and a category"
        } else if !(0..=UNIT_PRICE_FEN_MAX).contains(&self.unit_price_fen) {
            "unit_price_fen must be between 0 and 1000000000"
        } else if self.drug_code.is_some() != self.drug_class.is_some() {
            "drug_code and drug_class go together"
        } else if self.days_supply_per_unit.is_some_and(|days| !(1..=3660).contains(&days)) {
            "days_supply_per_unit must be between 1 and 3660"
        } else {
            return Ok(());
        };
        Err(OperationalError::invalid(problem))
    }
}

/// Adds products in one statement and returns those that were added: one whose id exists already
/// is left as it is.
///
/// # Errors
/// `Invalid` when one of them breaks a rule of its fields.
pub async fn create_many(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &[NewProduct],
) -> Result<Vec<Product>, OperationalError> {
    new.iter().try_for_each(NewProduct::check)?;
    let ids = tx.ids::<Product>(new.iter().map(|p| p.product_id)).await?;
    let rows = ids.into_iter().zip(new).map(|(product_id, new)| Product {
        product_id,
        tenant_id: scope.tenant_id,
        name: new.name.clone(),
        kind: new.kind,
        category: new.category.clone(),
        brand: new.brand.clone(),
        drug_code: new.drug_code.clone(),
        drug_class: new.drug_class.clone(),
        days_supply_per_unit: new.days_supply_per_unit,
        unit_price_fen: new.unit_price_fen,
        return_policy: new.return_policy,
        created_at: Micros(scope.now),
        updated_at: Micros(scope.now),
    });
    insert_missing(tx, rows.collect()).await
}

/// Adds one product.
///
/// # Errors
/// `Invalid` when it breaks a rule of its fields, `Conflict` when its id exists.
pub async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewProduct,
) -> Result<Product, OperationalError> {
    create_many(tx, scope, &[new])
        .await?
        .pop()
        .ok_or_else(|| OperationalError::conflict("the product exists already"))
}

/// Products by id.
///
/// # Errors
/// When the database fails.
pub async fn list(
    connection: &mut Connection,
    tenant_id: i64,
    page: Page,
) -> Result<Vec<Product>, OperationalError> {
    sql(
        "select * from product where tenant_id = ?1 and product_id > ?2 order by product_id limit ?3",
    )
    .bind(tenant_id)
    .bind(page.after_id)
    .bind(page.rows())
    .all(connection)
    .await
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/mall/products", routing::post(post).get(get_all))
}

/// Add a product.
#[utoipa::path(post, path = "/mall/products", tag = "mall", request_body = NewProduct,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Product), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewProduct>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::CREATED, |tx, scope, new| {
            Box::pin(create(tx, scope, new.clone()))
        })
        .await
}

/// List products.
#[utoipa::path(get, path = "/mall/products", tag = "mall", params(Page),
    responses((status = 200, body = List<Product>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(page): Params<Page>,
) -> Result<Json<List<Product>>, Failure> {
    let items = list(&mut *services.mall().read().await?, scope.tenant_id, page).await?;
    Ok(Json(List { items }))
}
