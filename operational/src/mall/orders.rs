//! Orders and their lines: placing, reading and closing them.

use std::ops::RangeInclusive;

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    CatalogueLine, Pricing, RecordedLine, pricing,
    refunds::{self, Refund},
};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert, insert_one, record, sql, words},
    distribution::bindings,
    http::{Answer, Command, ErrorBody, Failure, Id, Nothing},
};

/// The most that is charged for shipping.
const SHIPPING_FEN_MAX: i64 = 10_000_000;

words! {
    /// Through which door an order came.
    pub enum Channel {
        /// The app.
        App = "app",
        /// The mini program.
        MiniProgram = "mini_program",
        /// A web page.
        H5 = "h5",
        /// The counter of the pharmacy.
        Pharmacy = "pharmacy",
    }
}

words! {
    /// How far an order is.
    pub enum OrderStatus {
        /// Placed, not paid.
        Created = "created",
        /// Paid; refunds may follow.
        Paid = "paid",
        /// Given up before it was paid.
        Closed = "closed",
    }
}

/// An order to be placed.
#[derive(Debug, Clone)]
pub struct NewOrder {
    /// Its id, where one is recorded; otherwise the next free one.
    pub order_id: Option<i64>,
    /// Who buys.
    pub person_id: i64,
    /// Who sells.
    pub pharmacy_id: i64,
    /// Through which door.
    pub channel: Channel,
    /// The distributor the buyer is bound to now; stamped, so that a later binding changes nothing.
    pub promoter_id: Option<i64>,
    /// The coupon to be used; with recorded prices it is only noted.
    pub coupon_id: Option<i64>,
    /// What is charged for shipping.
    pub shipping_fen: i64,
    /// The lines and where their prices come from.
    pub pricing: Pricing,
}

record! {
    /// An order.
    pub struct Order in "orders" {
        /// Its id.
        pub order_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// Who bought.
        pub person_id: i64,
        /// Who sold.
        pub pharmacy_id: i64,
        /// Through which door.
        pub channel: Channel,
        /// The distributor the buyer was bound to.
        pub promoter_id: Option<i64>,
        /// The coupon.
        pub coupon_id: Option<i64>,
        /// How far it is.
        pub status: OrderStatus,
        /// Shelf price of all lines.
        pub list_amount_fen: i64,
        /// Sum of the line amounts: after cuts of item prices, before coupons.
        pub goods_amount_fen: i64,
        /// Sum of the other discounts.
        pub discount_fen: i64,
        /// Shipping.
        pub shipping_fen: i64,
        /// `goods_amount - discount + shipping`.
        pub payable_fen: i64,
        /// Refunded so far.
        pub refunded_fen: i64,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub paid_at: Option<Micros>,
        /// Microseconds since 1970 (UTC).
        pub closed_at: Option<Micros>,
    }
}

record! {
    /// A line of an order.
    pub struct OrderLine in "order_line" {
        /// Its id.
        pub order_line_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The order.
        pub order_id: i64,
        /// Its place in the order, from 1.
        pub line_number: i64,
        /// The product.
        pub product_id: i64,
        /// How many units.
        pub quantity: i64,
        /// Shelf price of one unit.
        pub unit_price_fen: i64,
        /// Shelf price of all units.
        pub list_amount_fen: i64,
        /// The cut in the price of the item itself.
        pub disc_item_fen: i64,
        /// `list_amount - disc_item`.
        pub line_amount_fen: i64,
        /// Its share of 满减.
        pub disc_full_reduction_fen: i64,
        /// Its share of coupons paid for by the merchant.
        pub disc_coupon_merchant_fen: i64,
        /// Its share of coupons paid for by the platform.
        pub disc_coupon_platform_fen: i64,
        /// Its share of points.
        pub disc_points_fen: i64,
        /// What is paid for it: `line_amount` less the discounts.
        pub cash_fen: i64,
        /// Units given back.
        pub refunded_quantity: i64,
        /// Refunded so far.
        pub refunded_fen: i64,
    }
}

/// An order with its lines.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PlacedOrder {
    /// The order.
    #[serde(flatten)]
    pub order: Order,
    /// Its lines, in order.
    pub lines: Vec<OrderLine>,
}

/// An order with all that happened to it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct OrderDetail {
    /// The order.
    #[serde(flatten)]
    pub order: Order,
    /// Its lines, in order.
    pub lines: Vec<OrderLine>,
    /// Its refunds, in order.
    pub refunds: Vec<Refund>,
}

/// Places an order: prices its lines, and inserts the order and all lines in two statements.
///
/// # Errors
/// `NotFound` for an unknown pharmacy, product or coupon; `Conflict` when the coupon does not apply
/// or the order id exists; `Invalid` when a number is out of its range.
pub async fn place(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewOrder,
) -> Result<PlacedOrder, OperationalError> {
    if new.person_id <= 0 {
        return Err(OperationalError::invalid("person_id must be positive"));
    }
    if !(0..=SHIPPING_FEN_MAX).contains(&new.shipping_fen) {
        return Err(OperationalError::invalid("shipping_fen must be between 0 and 10000000"));
    }
    let known: bool =
        sql("select exists (select 1 from pharmacy where pharmacy_id = ?1 and tenant_id = ?2)")
            .bind(new.pharmacy_id)
            .bind(scope.tenant_id)
            .value(tx)
            .await?;
    if !known {
        return Err(OperationalError::not_found("pharmacy", new.pharmacy_id));
    }
    let order_id = tx.id::<Order>(new.order_id).await?;
    let priced = pricing::price(tx, scope, new.coupon_id, &new.pricing).await?;
    let line_ids = tx.ids::<OrderLine>(priced.iter().map(|l| l.order_line_id)).await?;
    let lines = number_lines(scope, order_id, &line_ids, &priced);
    let sum = |amount: fn(&OrderLine) -> i64| lines.iter().map(amount).sum::<i64>();
    let goods_amount_fen = sum(|l| l.line_amount_fen);
    let discount_fen = sum(|l| l.line_amount_fen - l.cash_fen);
    let order = Order {
        order_id,
        tenant_id: scope.tenant_id,
        person_id: new.person_id,
        pharmacy_id: new.pharmacy_id,
        channel: new.channel,
        promoter_id: new.promoter_id,
        coupon_id: new.coupon_id,
        status: OrderStatus::Created,
        list_amount_fen: sum(|l| l.list_amount_fen),
        goods_amount_fen,
        discount_fen,
        shipping_fen: new.shipping_fen,
        payable_fen: goods_amount_fen - discount_fen + new.shipping_fen,
        refunded_fen: 0,
        created_at: Micros(scope.now),
        paid_at: None,
        closed_at: None,
    };
    insert_one(tx, &order)
        .await
        .map_err(|error| error.or_taken(|| format!("order {order_id} exists already")))?;
    insert(tx, &lines).await?;
    Ok(PlacedOrder { order, lines })
}

fn number_lines(
    scope: Scope,
    order_id: i64,
    line_ids: &[i64],
    priced: &[RecordedLine],
) -> Vec<OrderLine> {
    (1..)
        .zip(line_ids.iter().zip(priced))
        .map(|(line_number, (&order_line_id, line))| {
            let line_amount_fen = line.list_amount_fen - line.disc_item_fen;
            OrderLine {
                order_line_id,
                tenant_id: scope.tenant_id,
                order_id,
                line_number,
                product_id: line.product_id,
                quantity: line.quantity,
                unit_price_fen: line.list_amount_fen.checked_div(line.quantity).unwrap_or(0),
                list_amount_fen: line.list_amount_fen,
                disc_item_fen: line.disc_item_fen,
                line_amount_fen,
                disc_full_reduction_fen: line.disc_full_reduction_fen,
                disc_coupon_merchant_fen: line.disc_coupon_merchant_fen,
                disc_coupon_platform_fen: line.disc_coupon_platform_fen,
                disc_points_fen: line.disc_points_fen,
                cash_fen: line_amount_fen
                    - line.disc_full_reduction_fen
                    - line.disc_coupon_merchant_fen
                    - line.disc_coupon_platform_fen
                    - line.disc_points_fen,
                refunded_quantity: 0,
                refunded_fen: 0,
            }
        })
        .collect()
}

/// Gives up an order that is not paid.
///
/// # Errors
/// `NotFound`; `Conflict` when it is paid or closed.
pub async fn close(
    tx: &mut WriteTransaction,
    scope: Scope,
    order_id: i64,
) -> Result<PlacedOrder, OperationalError> {
    let order = find_for_update(tx, scope.tenant_id, order_id).await?;
    match order.status {
        OrderStatus::Created => {}
        OrderStatus::Paid => {
            return Err(OperationalError::conflict(format!("order {order_id} is paid")));
        }
        OrderStatus::Closed => {
            return Err(OperationalError::conflict(format!("order {order_id} is already closed")));
        }
    }
    sql("update orders set status = 'closed', closed_at = ?2 where order_id = ?1")
        .bind(order_id)
        .bind(Micros(scope.now))
        .execute(tx)
        .await?;
    let order = Order { status: OrderStatus::Closed, closed_at: Some(Micros(scope.now)), ..order };
    Ok(PlacedOrder { order, lines: lines(tx, order_id).await? })
}

/// One order without its lines.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    connection: &mut Connection,
    tenant_id: i64,
    order_id: i64,
) -> Result<Order, OperationalError> {
    sql("select * from orders where order_id = ?1 and tenant_id = ?2")
        .bind(order_id)
        .bind(tenant_id)
        .first(connection)
        .await?
        .ok_or(OperationalError::not_found("order", order_id))
}

/// One order without its lines, which nobody else changes before the end of the transaction.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn find_for_update(
    tx: &mut WriteTransaction,
    tenant_id: i64,
    order_id: i64,
) -> Result<Order, OperationalError> {
    sql("select * from orders where order_id = ?1 and tenant_id = ?2 for update")
        .bind(order_id)
        .bind(tenant_id)
        .first(tx)
        .await?
        .ok_or(OperationalError::not_found("order", order_id))
}

/// The lines of an order, in order.
///
/// # Errors
/// When the database fails.
pub async fn lines(
    connection: &mut Connection,
    order_id: i64,
) -> Result<Vec<OrderLine>, OperationalError> {
    sql("select * from order_line where order_id = ?1 order by line_number")
        .bind(order_id)
        .all(connection)
        .await
}

/// The highest id of an order in `range`, which tells a replay that gives its orders ids from that
/// range where it was.
///
/// # Errors
/// When the database fails.
pub async fn highest_id(
    connection: &mut Connection,
    range: RangeInclusive<i64>,
) -> Result<Option<i64>, OperationalError> {
    sql("select max(order_id) from orders where order_id between ?1 and ?2")
        .bind(*range.start())
        .bind(*range.end())
        .value(connection)
        .await
}

/// An order as a client asks for it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OrderRequest {
    person_id: i64,
    pharmacy_id: i64,
    channel: Channel,
    coupon_id: Option<i64>,
    #[serde(default)]
    shipping_fen: i64,
    lines: Vec<CatalogueLine>,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/mall/orders", routing::post(post))
        .route("/mall/orders/{id}", routing::get(get_one))
        .route("/mall/orders/{id}/close", routing::post(post_close))
}

/// Place an order at catalogue prices. The distributor the buyer is bound to is stamped on it.
#[utoipa::path(post, path = "/mall/orders", tag = "mall", request_body = OrderRequest,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = PlacedOrder), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<OrderRequest>,
) -> Result<Answer, Failure> {
    let now = services.now();
    let promoter_id = {
        let mut connection = services.distribution().read().await?;
        bindings::distributor_of(&mut connection, Scope::at(now), command.body.person_id).await?
    };
    command
        .carry_out(services.mall(), now, StatusCode::CREATED, |tx, scope, request| {
            let new = NewOrder {
                order_id: None,
                person_id: request.person_id,
                pharmacy_id: request.pharmacy_id,
                channel: request.channel,
                promoter_id,
                coupon_id: request.coupon_id,
                shipping_fen: request.shipping_fen,
                pricing: Pricing::Catalogue(request.lines.clone()),
            };
            Box::pin(place(tx, scope, new))
        })
        .await
}

/// An order with its lines and refunds.
#[utoipa::path(get, path = "/mall/orders/{id}", tag = "mall", params(("id" = i64, Path)),
    responses((status = 200, body = OrderDetail), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(order_id): Id,
) -> Result<Json<OrderDetail>, Failure> {
    let mut tx = services.mall().read().await?;
    let order = find(&mut tx, scope.tenant_id, order_id).await?;
    let lines = lines(&mut tx, order_id).await?;
    let refunds = refunds::of_order(&mut tx, order_id).await?;
    Ok(Json(OrderDetail { order, lines, refunds }))
}

/// Give up an order that is not paid.
#[utoipa::path(post, path = "/mall/orders/{id}/close", tag = "mall", request_body = Nothing,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = PlacedOrder), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_close(
    State(services): State<Services>,
    Id(order_id): Id,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::OK, |tx, scope, _| {
            Box::pin(close(tx, scope, order_id))
        })
        .await
}
