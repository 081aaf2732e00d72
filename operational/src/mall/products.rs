//! Products: what is sold, what it is before the law, and its variants.

use std::collections::HashMap;

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    limits::{check_optional_text, check_positive, check_text},
    variants::{self, NewVariant, VARIANTS_MAX, Variant},
};
use crate::{
    Limit, OperationalError, Page, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_missing, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
};

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
        /// A food supplement.
        Supplement = "supplement",
        /// Anything else.
        Other = "other",
    }
}

words! {
    /// How freely a medicine without prescription may be sold.
    pub enum OtcClass {
        /// In pharmacies only; never given away.
        A = "a",
        /// In other licensed shops too.
        B = "b",
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

impl ReturnPolicy {
    /// For how many days after its receipt something may be given back without a reason
    /// (消费者权益保护法 Art. 25: seven, and none for medicines).
    #[must_use]
    pub const fn window_days(self) -> i64 {
        match self {
            Self::SevenDay => 7,
            Self::QualityOnly => 0,
        }
    }
}

/// Whether something may be given away with a purchase: no medicine on prescription, and of the
/// others only what is known to be of class B (药品网络销售监督管理办法).
#[must_use]
pub fn may_be_given_away(kind: ProductKind, otc_class: Option<OtcClass>) -> bool {
    match kind {
        ProductKind::Rx => false,
        ProductKind::Otc => otc_class == Some(OtcClass::B),
        _ => true,
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
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// What it is.
    pub kind: ProductKind,
    /// Its category, to which a coupon may be limited.
    #[schema(min_length = 1, max_length = 255)]
    pub category: String,
    /// Its brand.
    #[schema(min_length = 1, max_length = 255)]
    pub brand: Option<String>,
    /// For `kind` `otc`: its class.
    pub otc_class: Option<OtcClass>,
    /// Its code in the WHO's classification, such as `C09CA03`; gives the drug where that is left out.
    #[schema(pattern = "^[A-Z]([0-9]{2}([A-Z]([A-Z]([0-9]{2})?)?)?)?$")]
    pub atc_code: Option<String>,
    /// The drug in it; with `drug_class`.
    #[schema(min_length = 1, max_length = 255)]
    pub drug_code: Option<String>,
    /// The class of the drug; with `drug_code`.
    #[schema(min_length = 1, max_length = 255)]
    pub drug_class: Option<String>,
    /// How many days one unit lasts.
    #[schema(minimum = 1, maximum = 3_660)]
    pub days_supply_per_unit: Option<i64>,
    /// The price of one unit.
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    pub unit_price_fen: i64,
    /// When it may be given back.
    pub return_policy: ReturnPolicy,
    /// The first variant's number in the warehouse; one is made up when it is left out.
    #[schema(min_length = 1, max_length = 255)]
    pub sku: Option<String>,
    /// What the first variant is, such as `80mg×28`.
    #[serde(default)]
    #[schema(max_length = 2_000)]
    pub spec: String,
    /// Whether its stock is counted; otherwise it is never out.
    #[serde(default = "tracked")]
    pub tracks_stock: bool,
    /// Further variants.
    #[serde(default)]
    #[schema(max_items = 99)]
    pub variants: Vec<NewVariant>,
}

pub(super) const fn tracked() -> bool {
    true
}

impl NewProduct {
    /// A product of one variant whose stock is not counted, and nothing else known of it.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        kind: ProductKind,
        category: impl Into<String>,
        unit_price_fen: i64,
        return_policy: ReturnPolicy,
    ) -> Self {
        Self {
            product_id: None,
            name: name.into(),
            kind,
            category: category.into(),
            brand: None,
            otc_class: None,
            atc_code: None,
            drug_code: None,
            drug_class: None,
            days_supply_per_unit: None,
            unit_price_fen,
            return_policy,
            sku: None,
            spec: String::new(),
            tracks_stock: false,
            variants: Vec::new(),
        }
    }
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
        /// The class of a medicine without prescription.
        pub otc_class: Option<OtcClass>,
        /// Its category.
        pub category: String,
        /// Its brand.
        pub brand: Option<String>,
        /// Its code in the WHO's classification.
        pub atc_code: Option<String>,
        /// The drug in it.
        pub drug_code: Option<String>,
        /// The class of the drug.
        pub drug_class: Option<String>,
        /// How many days one unit of the first variant lasts.
        pub days_supply_per_unit: Option<i64>,
        /// The price of one unit of the first variant.
        pub unit_price_fen: i64,
        /// When it may be given back.
        pub return_policy: ReturnPolicy,
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

impl NewProduct {
    fn check(&self) -> Result<(), OperationalError> {
        check_text("name", &self.name)?;
        check_text("category", &self.category)?;
        check_optional_text("brand", self.brand.as_deref())?;
        check_otc_class(self.kind, self.otc_class)?;
        for (field, text) in [("drug_code", &self.drug_code), ("drug_class", &self.drug_class)] {
            check_optional_text(field, text.as_deref())?;
        }
        if self.drug_code.is_some() != self.drug_class.is_some() {
            return Err(OperationalError::invalid("drug_code and drug_class go together"));
        }
        if self.atc_code.as_deref().is_some_and(|code| !is_atc_code(code)) {
            return Err(OperationalError::invalid(
                "atc_code must be a code of the ATC classification, such as C09CA03",
            ));
        }
        if self.variants.len() >= VARIANTS_MAX {
            return Err(OperationalError::invalid("a product has at most 100 variants"));
        }
        self.first_variant().check()?;
        self.variants.iter().try_for_each(NewVariant::check)
    }

    fn first_variant(&self) -> NewVariant {
        NewVariant {
            sku: self.sku.clone(),
            spec: self.spec.clone(),
            unit_price_fen: self.unit_price_fen,
            days_supply_per_unit: self.days_supply_per_unit,
            tracks_stock: self.tracks_stock,
        }
    }

    /// Code and class of the drug: as given, or those of the substance's ATC code, whose class is the
    /// chemical subgroup.
    fn drug(&self) -> (Option<String>, Option<String>) {
        match (&self.drug_code, &self.atc_code) {
            (None, Some(code)) if code.len() == 7 => {
                (Some(code.clone()), Some(code[..5].to_owned()))
            }
            _ => (self.drug_code.clone(), self.drug_class.clone()),
        }
    }
}

fn check_otc_class(kind: ProductKind, class: Option<OtcClass>) -> Result<(), OperationalError> {
    match class {
        Some(_) if kind != ProductKind::Otc => {
            Err(OperationalError::invalid("otc_class goes with kind otc only"))
        }
        _ => Ok(()),
    }
}

/// Whether this is a code of any of the five levels of the ATC classification: `C`, `C09`, `C09C`,
/// `C09CA`, `C09CA03`.
fn is_atc_code(code: &str) -> bool {
    let digit = [false, true, true, false, false, true, true];
    matches!(code.len(), 1 | 3 | 4 | 5 | 7)
        && code.bytes().zip(digit).all(|(byte, digit)| match digit {
            true => byte.is_ascii_digit(),
            false => byte.is_ascii_uppercase(),
        })
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
    let rows = ids.into_iter().zip(new).map(|(product_id, new)| {
        let (drug_code, drug_class) = new.drug();
        Product {
            product_id,
            tenant_id: scope.tenant_id,
            name: new.name.clone(),
            kind: new.kind,
            otc_class: new.otc_class,
            category: new.category.clone(),
            brand: new.brand.clone(),
            atc_code: new.atc_code.clone(),
            drug_code,
            drug_class,
            days_supply_per_unit: new.days_supply_per_unit,
            unit_price_fen: new.unit_price_fen,
            return_policy: new.return_policy,
            active: true,
            version: 1,
            created_at: Micros(scope.now),
            updated_at: Micros(scope.now),
        }
    });
    let rows: Vec<Product> = rows.collect();
    let mut of_id: HashMap<i64, &NewProduct> = HashMap::with_capacity(rows.len());
    for (row, new) in rows.iter().zip(new) {
        of_id.entry(row.product_id).or_insert(new);
    }
    let added = insert_missing(tx, rows).await?;
    let mut variants = Vec::with_capacity(added.len());
    for product in &added {
        let new = of_id[&product.product_id];
        let all = std::iter::once(new.first_variant()).chain(new.variants.iter().cloned());
        variants
            .extend((1..).zip(all).map(|(number, variant)| (product.product_id, number, variant)));
    }
    variants::insert_all(tx, scope, variants).await?;
    Ok(added)
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

/// What a product is from now on. What it is before the law and the drug in it stay: another drug is
/// another product. Its price is its variants'.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProductChange {
    /// The version the change is of.
    #[schema(minimum = 1)]
    pub version: i64,
    /// Its name.
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// Its category, to which a coupon may be limited.
    #[schema(min_length = 1, max_length = 255)]
    pub category: String,
    /// Its brand.
    #[schema(min_length = 1, max_length = 255)]
    pub brand: Option<String>,
    /// For `kind` `otc`: its class.
    pub otc_class: Option<OtcClass>,
    /// When it may be given back, of orders to come.
    pub return_policy: ReturnPolicy,
    /// Whether it can be bought, each variant as far as it can.
    pub active: bool,
}

/// Changes a product. Orders that were placed keep their terms.
///
/// # Errors
/// `NotFound`; `Conflict` when it was changed since that version; `Invalid` when it breaks a rule of its
/// fields.
pub async fn change(
    tx: &mut WriteTransaction,
    scope: Scope,
    product_id: i64,
    change: &ProductChange,
) -> Result<Product, OperationalError> {
    check_positive([("version", Some(change.version))])?;
    check_text("name", &change.name)?;
    check_text("category", &change.category)?;
    check_optional_text("brand", change.brand.as_deref())?;
    let product = find(tx, scope.tenant_id, product_id).await?;
    check_otc_class(product.kind, change.otc_class)?;
    let changed = sql("update product set name = ?3, category = ?4, brand = ?5, otc_class = ?6,
             return_policy = ?7, active = ?8, version = version + 1, updated_at = ?9
         where product_id = ?1 and version = ?2")
    .bind(product_id)
    .bind(change.version)
    .bind(&change.name)
    .bind(&change.category)
    .bind(&change.brand)
    .bind(change.otc_class)
    .bind(change.return_policy)
    .bind(change.active)
    .bind(Micros(scope.now))
    .execute(tx)
    .await?;
    if changed == 0 {
        return Err(OperationalError::changed_meanwhile("product", product_id, change.version));
    }
    find(tx, scope.tenant_id, product_id).await
}

/// A product with its variants.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ProductDetail {
    /// The product.
    #[serde(flatten)]
    pub product: Product,
    /// Its variants, the default first.
    pub variants: Vec<Variant>,
}

/// One product.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    connection: &mut Connection,
    tenant_id: i64,
    product_id: i64,
) -> Result<Product, OperationalError> {
    sql("select * from product where product_id = ?1 and tenant_id = ?2")
        .bind(product_id)
        .bind(tenant_id)
        .first(connection)
        .await?
        .ok_or(OperationalError::not_found("product", product_id))
}

/// Which products.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProductFilter {
    /// Only of this category.
    #[param(min_length = 1, max_length = 255)]
    category: Option<String>,
    /// Only of this kind.
    kind: Option<ProductKind>,
    /// Only those that can be bought, or cannot.
    active: Option<bool>,
    /// Only those whose name has this in it.
    #[param(min_length = 1, max_length = 255)]
    name: Option<String>,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
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
    let Page { after_id, limit } = page;
    let all =
        ProductFilter { category: None, kind: None, active: None, name: None, after_id, limit };
    matching(connection, tenant_id, &all).await
}

async fn matching(
    connection: &mut Connection,
    tenant_id: i64,
    filter: &ProductFilter,
) -> Result<Vec<Product>, OperationalError> {
    sql("select * from product where tenant_id = ?1 and product_id > ?2
             and (?3 is null or category = ?3) and (?4 is null or kind = ?4)
             and (?5 is null or active = ?5) and (?6 is null or instr(name, ?6) > 0)
         order by product_id limit ?7")
    .bind(tenant_id)
    .bind(filter.after_id)
    .bind(&filter.category)
    .bind(filter.kind)
    .bind(filter.active)
    .bind(&filter.name)
    .bind(filter.limit.rows())
    .all(connection)
    .await
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/mall/products", routing::post(post).get(get_all))
        .route("/mall/products/{id}", routing::get(get_one).put(put))
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

/// Change a product, or whether it can be bought.
#[utoipa::path(put, path = "/mall/products/{id}", tag = "mall", request_body = ProductChange,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Product), (status = "default", body = ErrorBody)))]
pub(crate) async fn put(
    State(services): State<Services>,
    Id(product_id): Id,
    command: Command<ProductChange>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::OK, |tx, scope, new| {
            Box::pin(change(tx, scope, product_id, new))
        })
        .await
}

/// List products.
#[utoipa::path(get, path = "/mall/products", tag = "mall", params(ProductFilter),
    responses((status = 200, body = List<Product>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(filter): Params<ProductFilter>,
) -> Result<Json<List<Product>>, Failure> {
    let items = matching(&mut *services.mall().read().await?, scope.tenant_id, &filter).await?;
    Ok(Json(List { items }))
}

/// A product with its variants.
#[utoipa::path(get, path = "/mall/products/{id}", tag = "mall", params(("id" = i64, Path)),
    responses((status = 200, body = ProductDetail), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(product_id): Id,
) -> Result<Json<ProductDetail>, Failure> {
    let mut tx = services.mall().read().await?;
    let product = find(&mut tx, scope.tenant_id, product_id).await?;
    let variants = variants::of_product(&mut tx, product_id).await?;
    Ok(Json(ProductDetail { product, variants }))
}
