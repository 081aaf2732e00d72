//! Carts: what a person means to buy, per pharmacy; and what it would come to.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    CatalogueLine, Pricing, Rules,
    limits::check_positive,
    orders::{self, Channel, NewOrder, OrderLine, OrderRequest, PlacedOrder, QUANTITY_MAX},
    pharmacies, points, products, variants,
};
use crate::{
    Limit, OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql},
    http::{Answer, Command, ErrorBody, Failure, List, Params},
};

/// The most lines of a cart.
const LINES_MAX: i64 = 200;

record! {
    /// A line of a cart.
    pub struct CartLine in "cart_line" {
        /// Its id.
        pub cart_line_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// Whose cart.
        pub person_id: i64,
        /// Of which pharmacy.
        pub pharmacy_id: i64,
        /// What.
        pub variant_id: i64,
        /// How many units.
        pub quantity: i64,
        /// Whether it is bought with the next order.
        pub selected: bool,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub updated_at: Micros,
    }
}

/// What a cart is to have of a variant.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetCartLine {
    /// Whose cart.
    #[schema(minimum = 1)]
    pub person_id: i64,
    /// Of which pharmacy.
    #[schema(minimum = 1)]
    pub pharmacy_id: i64,
    /// What.
    #[schema(minimum = 1)]
    pub variant_id: i64,
    /// How many units; 0 takes it out.
    #[schema(minimum = 0, maximum = 100_000)]
    pub quantity: i64,
    /// Whether it is bought with the next order.
    #[serde(default = "selected")]
    pub selected: bool,
}

const fn selected() -> bool {
    true
}

/// Sets what a cart has of a variant, and returns the lines of that pharmacy.
///
/// # Errors
/// `NotFound` for an unknown pharmacy or variant; `Invalid` for a quantity outside its range;
/// `Conflict` when the variant is not sold or the cart is full.
pub async fn set(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &SetCartLine,
) -> Result<Vec<CartLine>, OperationalError> {
    scope.check_person(new.person_id)?;
    if new.person_id <= 0 || !(0..=QUANTITY_MAX).contains(&new.quantity) {
        return Err(OperationalError::invalid(
            "person_id must be positive, quantity between 0 and 100000",
        ));
    }
    pharmacies::find(tx, scope.tenant_id, new.pharmacy_id).await?;
    let variant = variants::find(tx, scope.tenant_id, new.variant_id).await?;
    if new.quantity == 0 {
        sql("delete from cart_line where tenant_id = ?1 and person_id = ?2 and pharmacy_id = ?3
                 and variant_id = ?4")
        .bind(scope.tenant_id)
        .bind(new.person_id)
        .bind(new.pharmacy_id)
        .bind(new.variant_id)
        .execute(tx)
        .await?;
        return of_pharmacy(tx, scope.tenant_id, new.person_id, new.pharmacy_id).await;
    }
    let product = products::find(tx, scope.tenant_id, variant.product_id).await?;
    if !(variant.active && product.active) {
        return Err(OperationalError::conflict(format!(
            "variant {} is not sold at present",
            new.variant_id
        )));
    }
    let changed = sql("update cart_line set quantity = ?5, selected = ?6, updated_at = ?7
         where tenant_id = ?1 and person_id = ?2 and pharmacy_id = ?3 and variant_id = ?4")
    .bind(scope.tenant_id)
    .bind(new.person_id)
    .bind(new.pharmacy_id)
    .bind(new.variant_id)
    .bind(new.quantity)
    .bind(new.selected)
    .bind(Micros(scope.now))
    .execute(tx)
    .await?;
    if changed == 0 {
        let line = CartLine {
            cart_line_id: tx.id::<CartLine>(None).await?,
            tenant_id: scope.tenant_id,
            person_id: new.person_id,
            pharmacy_id: new.pharmacy_id,
            variant_id: new.variant_id,
            quantity: new.quantity,
            selected: new.selected,
            created_at: Micros(scope.now),
            updated_at: Micros(scope.now),
        };
        insert_one(tx, &line).await.map_err(|error| {
            error.or_taken(|| "the cart was changed meanwhile: try again".to_owned())
        })?;
        let lines: i64 =
            sql("select count(*) from cart_line where tenant_id = ?1 and person_id = ?2")
                .bind(scope.tenant_id)
                .bind(new.person_id)
                .value(tx)
                .await?;
        if lines > LINES_MAX {
            return Err(OperationalError::conflict("a cart has at most 200 lines"));
        }
    }
    of_pharmacy(tx, scope.tenant_id, new.person_id, new.pharmacy_id).await
}

/// What a person's cart has of a pharmacy.
async fn of_pharmacy(
    connection: &mut Connection,
    tenant_id: i64,
    person_id: i64,
    pharmacy_id: i64,
) -> Result<Vec<CartLine>, OperationalError> {
    sql("select * from cart_line where tenant_id = ?1 and person_id = ?2 and pharmacy_id = ?3
         order by cart_line_id")
    .bind(tenant_id)
    .bind(person_id)
    .bind(pharmacy_id)
    .all(connection)
    .await
}

/// How a cart is turned into an order.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Checkout {
    /// Whose cart.
    #[schema(minimum = 1)]
    pub person_id: i64,
    /// Of which pharmacy.
    #[schema(minimum = 1)]
    pub pharmacy_id: i64,
    /// Through which door.
    pub channel: Channel,
    /// The coupon to be used.
    #[schema(minimum = 1)]
    pub coupon_id: Option<i64>,
    /// The prescription of the medicines that need one.
    #[schema(minimum = 1)]
    pub prescription_id: Option<i64>,
    /// The visit it is placed in.
    #[schema(minimum = 1)]
    pub visit_id: Option<i64>,
    /// What the buyer was told it comes to: it is refused if it does not.
    pub expected_payable_fen: Option<i64>,
    /// With how many points it is paid; a quote says how many it may be.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub points: i64,
}

/// Places an order of the selected lines of a cart and takes them out of it.
///
/// # Errors
/// `Conflict` when nothing is selected, and what [`orders::place`] says.
pub async fn check_out(
    tx: &mut WriteTransaction,
    scope: Scope,
    checkout: &Checkout,
    promoter_id: Option<i64>,
    rules: Rules,
) -> Result<PlacedOrder, OperationalError> {
    scope.check_person(checkout.person_id)?;
    check_positive([
        ("person_id", Some(checkout.person_id)),
        ("pharmacy_id", Some(checkout.pharmacy_id)),
        ("coupon_id", checkout.coupon_id),
        ("prescription_id", checkout.prescription_id),
        ("visit_id", checkout.visit_id),
    ])?;
    if checkout.points < 0 {
        return Err(OperationalError::invalid("points must be at least 0"));
    }
    let lines: Vec<(i64, i64, i64, i64)> =
        sql("select c.cart_line_id, v.product_id, c.variant_id, c.quantity
         from cart_line c join product_variant v on v.variant_id = c.variant_id
         where c.tenant_id = ?1 and c.person_id = ?2 and c.pharmacy_id = ?3 and c.selected = ?4
         order by c.cart_line_id for update")
        .bind(scope.tenant_id)
        .bind(checkout.person_id)
        .bind(checkout.pharmacy_id)
        .bind(true)
        .all(tx)
        .await?;
    if lines.is_empty() {
        return Err(OperationalError::conflict(format!(
            "nothing of pharmacy {} is selected in the cart of person {}",
            checkout.pharmacy_id, checkout.person_id
        )));
    }
    let order_lines = lines
        .iter()
        .map(|&(_, product_id, variant_id, quantity)| CatalogueLine {
            product_id,
            variant_id: Some(variant_id),
            quantity,
        })
        .collect();
    let new = NewOrder {
        promoter_id,
        coupon_id: checkout.coupon_id,
        prescription_id: checkout.prescription_id,
        visit_id: checkout.visit_id,
        expected_payable_fen: checkout.expected_payable_fen,
        points: checkout.points,
        ..NewOrder::new(
            checkout.person_id,
            checkout.pharmacy_id,
            checkout.channel,
            Pricing::Catalogue(order_lines),
        )
    };
    let placed = orders::place(tx, scope, new.under(&rules, scope.now)).await?;
    sql("delete from cart_line where cart_line_id in {list}")
        .list(lines.iter().map(|(id, ..)| *id))
        .execute(tx)
        .await?;
    Ok(placed)
}

/// What an order would come to now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Quote {
    /// Shelf price of all lines.
    pub list_amount_fen: i64,
    /// After cuts of item prices, before the other discounts.
    pub goods_amount_fen: i64,
    /// The other discounts.
    pub discount_fen: i64,
    /// Shipping.
    pub shipping_fen: i64,
    /// What is to be paid.
    pub payable_fen: i64,
    /// How many points pay for it.
    pub points: i64,
    /// With how many points the buyer may pay for it, by the rules and by what they have.
    pub usable_points: i64,
    /// How many points it earns.
    pub reward_points: i64,
    /// Its lines, with those that are given away.
    pub lines: Vec<QuoteLine>,
}

/// A line of an order that is not placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct QuoteLine {
    /// The product.
    pub product_id: i64,
    /// The variant.
    pub variant_id: i64,
    /// How many units.
    pub quantity: i64,
    /// Given away with others.
    pub gift: bool,
    /// Shelf price of all units.
    pub list_amount_fen: i64,
    /// After the cut of the item's price.
    pub line_amount_fen: i64,
    /// After all discounts.
    pub cash_fen: i64,
}

impl From<PlacedOrder> for Quote {
    fn from(PlacedOrder { order, lines }: PlacedOrder) -> Self {
        let line = |line: OrderLine| QuoteLine {
            product_id: line.product_id,
            variant_id: line.variant_id,
            quantity: line.quantity,
            gift: line.gift,
            list_amount_fen: line.list_amount_fen,
            line_amount_fen: line.line_amount_fen,
            cash_fen: line.cash_fen,
        };
        Self {
            list_amount_fen: order.list_amount_fen,
            goods_amount_fen: order.goods_amount_fen,
            discount_fen: order.discount_fen,
            shipping_fen: order.shipping_fen,
            payable_fen: order.payable_fen,
            points: order.points,
            usable_points: 0,
            reward_points: order.reward_points,
            lines: lines.into_iter().map(line).collect(),
        }
    }
}

/// Places an order in a transaction that is to be undone, and tells what it comes to.
async fn quote(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewOrder,
    rules: &Rules,
) -> Result<Quote, OperationalError> {
    let person_id = new.person_id;
    let placed = orders::place(tx, scope, new).await?;
    let before_points: Vec<i64> =
        placed.lines.iter().map(|line| line.cash_fen + line.disc_points_fen).collect();
    let left = points::routes::balance(tx, scope, person_id).await?.available_points;
    let has = left + placed.order.points;
    let usable_points = rules.points.usable(&before_points).min(has);
    Ok(Quote { usable_points, ..placed.into() })
}

/// Whose cart.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct CartFilter {
    /// Of this person.
    person_id: i64,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/mall/carts", routing::get(get))
        .route("/mall/carts/lines", routing::post(post_line))
        .route("/mall/carts/checkout", routing::post(post_checkout))
        .route("/mall/quotes", routing::post(post_quote))
}

/// Set what a cart has of a variant.
#[utoipa::path(post, path = "/mall/carts/lines", tag = "mall", request_body = SetCartLine,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = [CartLine]), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_line(
    State(services): State<Services>,
    command: Command<SetCartLine>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::OK, |tx, scope, new| {
            Box::pin(set(tx, scope, new))
        })
        .await
}

/// A person's cart.
#[utoipa::path(get, path = "/mall/carts", tag = "mall", params(CartFilter),
    responses((status = 200, body = List<CartLine>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get(
    State(services): State<Services>,
    scope: Scope,
    Params(filter): Params<CartFilter>,
) -> Result<Json<List<CartLine>>, Failure> {
    scope.check_person(filter.person_id)?;
    let items = sql("select * from cart_line where tenant_id = ?1 and person_id = ?2
             and cart_line_id > ?3 order by cart_line_id limit ?4")
    .bind(scope.tenant_id)
    .bind(filter.person_id)
    .bind(filter.after_id)
    .bind(filter.limit.rows())
    .all(&mut *services.mall().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// Place an order of the selected lines of a cart.
#[utoipa::path(post, path = "/mall/carts/checkout", tag = "mall", request_body = Checkout,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = PlacedOrder), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_checkout(
    State(services): State<Services>,
    scope: Scope,
    command: Command<Checkout>,
) -> Result<Answer, Failure> {
    let now = scope.now;
    let promoter_id = orders::promoter(&services, scope, command.body.person_id).await?;
    let rules = Rules::of(&services, scope.tenant_id).await?;
    command
        .carry_out(services.mall(), now, StatusCode::CREATED, |tx, scope, request| {
            Box::pin(check_out(tx, scope, request, promoter_id, rules))
        })
        .await
}

/// What an order would come to: it is placed, and undone.
#[utoipa::path(post, path = "/mall/quotes", tag = "mall", request_body = OrderRequest,
    responses((status = 200, body = Quote), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_quote(
    State(services): State<Services>,
    scope: Scope,
    command: Command<OrderRequest>,
) -> Result<Json<Quote>, Failure> {
    let rules = Rules::of(&services, scope.tenant_id).await?;
    let mut tx = services.mall().begin(services.now()).await?;
    let new = command.body.order().under(&rules, scope.now);
    let quote = quote(&mut tx, scope, new, &rules).await;
    tx.rollback().await?;
    Ok(Json(quote?))
}
