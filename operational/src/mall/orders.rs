//! Orders and their lines: placing and reading them.

use std::ops::RangeInclusive;

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    CatalogueLine, Pricing, Rules, campaigns, coupon_claims,
    coupons::Funder,
    order_states::{self, CloseReason, StatusChange},
    pharmacies::{self, SHIPPING_FEN_MAX},
    points::{self, PointsRules, kept},
    prescriptions,
    pricing::{self, Buyer, Priced},
    promotions::DiscountKind,
    refunds::{self, Refund},
    stock::{self, LineUnits},
    visits::TouchKind,
};
use crate::{
    Limit, OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert, insert_one, record, sql, words},
    distribution::bindings,
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
    scope::check_time,
};

/// The most units of one line.
pub(super) const QUANTITY_MAX: i64 = 100_000;

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
        /// Paid, and to be shipped.
        Paid = "paid",
        /// On its way.
        Shipped = "shipped",
        /// With the buyer.
        Received = "received",
        /// With the buyer for good: the return windows of its lines have ended.
        Completed = "completed",
        /// Given up before it was paid, not paid in time, or refunded whole.
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
    /// The prescription of the medicines that need one.
    pub prescription_id: Option<i64>,
    /// The visit it was placed in.
    pub visit_id: Option<i64>,
    /// What is charged for shipping; what the pharmacy charges when none.
    pub shipping_fen: Option<i64>,
    /// What the buyer was told it comes to: it is refused if it does not.
    pub expected_payable_fen: Option<i64>,
    /// When it is closed if it is not paid, in microseconds since 1970 (UTC); never when none.
    pub closes_unpaid_at: Option<i64>,
    /// With how many points it is paid.
    pub points: i64,
    /// What points are worth, and how many it earns.
    pub points_rules: PointsRules,
    /// The lines and where their prices come from.
    pub pricing: Pricing,
}

impl NewOrder {
    /// The same, placed now under the rules of its tenant.
    pub(super) fn under(self, rules: &Rules, now: i64) -> Self {
        Self {
            closes_unpaid_at: Some(now + rules.unpaid_closes_after_micros),
            points_rules: rules.points,
            ..self
        }
    }

    /// An order with nothing but its lines, of a pharmacy that ships for what it says.
    #[must_use]
    pub fn new(person_id: i64, pharmacy_id: i64, channel: Channel, pricing: Pricing) -> Self {
        Self {
            order_id: None,
            person_id,
            pharmacy_id,
            channel,
            promoter_id: None,
            coupon_id: None,
            prescription_id: None,
            visit_id: None,
            shipping_fen: None,
            expected_payable_fen: None,
            closes_unpaid_at: None,
            points: 0,
            points_rules: PointsRules::default(),
            pricing,
        }
    }
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
        /// The prescription.
        pub prescription_id: Option<i64>,
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
        /// Refunded so far for goods.
        pub refunded_fen: i64,
        /// Refunded so far of the shipping.
        pub refunded_shipping_fen: i64,
        /// How many points it is paid with.
        pub points: i64,
        /// How many points it earns when it is completed, if nothing is refunded.
        pub reward_points: i64,
        /// Who carries it.
        pub carrier: Option<String>,
        /// Under which number.
        pub tracking_number: Option<String>,
        /// Why it was closed.
        pub close_reason: Option<CloseReason>,
        /// The visit it was placed in.
        pub visit_id: Option<i64>,
        /// The visit that brought the buyer, as of the payment.
        pub touch_visit_id: Option<i64>,
        /// How that visit came about.
        pub touch_kind: Option<TouchKind>,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub paid_at: Option<Micros>,
        /// Microseconds since 1970 (UTC).
        pub shipped_at: Option<Micros>,
        /// Microseconds since 1970 (UTC).
        pub received_at: Option<Micros>,
        /// Microseconds since 1970 (UTC).
        pub completed_at: Option<Micros>,
        /// Microseconds since 1970 (UTC).
        pub closed_at: Option<Micros>,
        /// When its next step is taken by itself: closed if it is not paid, received if it is shipped,
        /// completed if it is received. Microseconds since 1970 (UTC).
        pub due_at: Option<Micros>,
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
        /// The variant.
        pub variant_id: i64,
        /// Given away with others.
        pub gift: bool,
        /// For how many days after its receipt it may be given back without a reason.
        pub return_window_days: i64,
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
        /// Units of refunds that are not decided or paid out yet.
        pub refunding_quantity: i64,
        /// What those come to.
        pub refunding_fen: i64,
        /// How many points pay for it.
        pub points: i64,
        /// How many points it earns when the order is completed, if nothing of it is refunded.
        pub reward_points: i64,
        /// Points given back.
        pub refunded_points: i64,
        /// Points of refunds that are not decided or paid out yet.
        pub refunding_points: i64,
    }
}

impl OrderLine {
    /// What the line keeps of the points it earns, when so much of its cash is refunded.
    #[must_use]
    pub fn kept_points(&self, refunded_fen: i64) -> i64 {
        kept(self.reward_points, self.cash_fen, refunded_fen)
    }
}

record! {
    /// A part of a line's discounts.
    pub struct LineDiscount in "order_line_discount" {
        /// Its id.
        pub order_line_discount_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The order.
        pub order_id: i64,
        /// The line.
        pub order_line_id: i64,
        /// What kind.
        pub kind: DiscountKind,
        /// Who pays for it.
        pub funder: Funder,
        /// The campaign, if it is one's.
        pub campaign_id: Option<i64>,
        /// The coupon, if it is one's.
        pub coupon_id: Option<i64>,
        /// How much.
        pub amount_fen: i64,
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
    /// Where the discounts of its lines come from.
    pub discounts: Vec<LineDiscount>,
    /// Its refunds, in order.
    pub refunds: Vec<Refund>,
    /// What it has been, from its beginning on.
    pub history: Vec<StatusChange>,
}

/// Places an order: prices its lines, takes what is limited (units of campaigns, a claimed coupon, the
/// prescription, the stock), and writes it.
///
/// # Errors
/// `NotFound` for an unknown pharmacy, product or coupon; `Conflict` when the coupon or prescription
/// does not apply, the pharmacy does not have it, it comes to something else than expected, or the
/// order id exists; `Invalid` when a number is out of its range or a prescription is missing.
pub async fn place(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewOrder,
) -> Result<PlacedOrder, OperationalError> {
    scope.check_person(new.person_id)?;
    if new.person_id <= 0 {
        return Err(OperationalError::invalid("person_id must be positive"));
    }
    if new.shipping_fen.is_some() && scope.only_person().is_some() {
        return Err(OperationalError::denied("a buyer may not say what shipping costs"));
    }
    if new.shipping_fen.is_some_and(|fen| !(0..=SHIPPING_FEN_MAX).contains(&fen)) {
        return Err(OperationalError::invalid("shipping_fen must be between 0 and 10000000"));
    }
    let pharmacy = pharmacies::find(tx, scope.tenant_id, new.pharmacy_id).await?;
    if !pharmacy.active {
        return Err(OperationalError::conflict(format!(
            "pharmacy {} takes no orders at present",
            pharmacy.pharmacy_id
        )));
    }
    let buyer = Buyer {
        person_id: new.person_id,
        pharmacy_id: new.pharmacy_id,
        coupon_id: new.coupon_id,
        points: new.points,
        points_rules: new.points_rules,
    };
    let priced = pricing::price(tx, scope, buyer, &new.pricing).await?;
    let order_id = tx.id::<Order>(new.order_id).await?;
    let line_ids =
        tx.ids::<OrderLine>(priced.lines.iter().map(|l| l.amounts.order_line_id)).await?;
    let lines = number_lines(scope, order_id, &line_ids, &priced);
    let sum = |amount: fn(&OrderLine) -> i64| lines.iter().map(amount).sum::<i64>();
    let goods_amount_fen = sum(|l| l.line_amount_fen);
    let discount_fen = sum(|l| l.line_amount_fen - l.cash_fen);
    let shipping_fen =
        new.shipping_fen.unwrap_or_else(|| pharmacy.shipping_for(goods_amount_fen - discount_fen));
    let order = Order {
        order_id,
        tenant_id: scope.tenant_id,
        person_id: new.person_id,
        pharmacy_id: new.pharmacy_id,
        channel: new.channel,
        promoter_id: new.promoter_id,
        coupon_id: new.coupon_id,
        prescription_id: new.prescription_id,
        status: OrderStatus::Created,
        list_amount_fen: sum(|l| l.list_amount_fen),
        goods_amount_fen,
        discount_fen,
        shipping_fen,
        payable_fen: goods_amount_fen - discount_fen + shipping_fen,
        refunded_fen: 0,
        refunded_shipping_fen: 0,
        points: sum(|l| l.points),
        reward_points: sum(|l| l.reward_points),
        carrier: None,
        tracking_number: None,
        close_reason: None,
        visit_id: new.visit_id,
        touch_visit_id: None,
        touch_kind: None,
        created_at: Micros(scope.now),
        paid_at: None,
        shipped_at: None,
        received_at: None,
        completed_at: None,
        closed_at: None,
        due_at: new.closes_unpaid_at.map(Micros),
    };
    if let Some(expected) = new.expected_payable_fen
        && expected != order.payable_fen
    {
        return Err(OperationalError::conflict(format!(
            "the order comes to {} fen now, not to {expected}",
            order.payable_fen
        )));
    }
    if let Some(visit_id) = new.visit_id {
        super::visits::find(tx, scope.tenant_id, visit_id).await?;
    }
    match (order.prescription_id, priced.prescribed.keys().next()) {
        (None, Some(product_id)) => {
            return Err(OperationalError::invalid(format!(
                "product {product_id} is sold on prescription: prescription_id is missing"
            )));
        }
        (Some(id), _) => {
            prescriptions::take(tx, scope, id, order.person_id, &priced.prescribed).await?;
        }
        (None, None) => {}
    }
    insert_one(tx, &order)
        .await
        .map_err(|error| error.or_taken(|| format!("order {order_id} exists already")))?;
    insert(tx, &lines).await?;
    order_states::note(tx, scope, order_id, None, OrderStatus::Created, None).await?;
    take(tx, scope, &order, &lines, &priced).await?;
    Ok(PlacedOrder { order, lines })
}

/// Takes what the lines of an order need, and writes where their discounts come from. The stock comes
/// last, because other orders wait for it.
async fn take(
    tx: &mut WriteTransaction,
    scope: Scope,
    order: &Order,
    lines: &[OrderLine],
    priced: &Priced,
) -> Result<(), OperationalError> {
    let parts = lines
        .iter()
        .zip(&priced.lines)
        .flat_map(|(line, priced)| priced.parts.iter().map(|part| (line.order_line_id, part)));
    let parts: Vec<_> = parts.collect();
    let ids = tx.ids::<LineDiscount>(parts.iter().map(|_| None)).await?;
    let discounts: Vec<LineDiscount> = ids
        .into_iter()
        .zip(parts)
        .map(|(order_line_discount_id, (order_line_id, part))| LineDiscount {
            order_line_discount_id,
            tenant_id: scope.tenant_id,
            order_id: order.order_id,
            order_line_id,
            kind: part.kind,
            funder: part.funder,
            campaign_id: part.campaign_id,
            coupon_id: part.coupon_id,
            amount_fen: part.amount_fen,
        })
        .collect();
    insert(tx, &discounts).await?;
    for (campaign_id, units) in &priced.campaign_units {
        campaigns::count_units(tx, *campaign_id, *units).await?;
    }
    if let Some(coupon_id) = priced.claim_of {
        coupon_claims::redeem(tx, scope, coupon_id, order.person_id, order.order_id).await?;
    }
    if order.points > 0 {
        points::spend(tx, scope, order).await?;
    }
    let units: Vec<LineUnits> = lines
        .iter()
        .zip(&priced.lines)
        .filter(|(_, priced)| priced.tracks_stock)
        .map(|(line, _)| LineUnits {
            order_line_id: line.order_line_id,
            variant_id: line.variant_id,
            units: line.quantity,
        })
        .collect();
    stock::reserve(tx, scope, order.pharmacy_id, &units).await
}

fn number_lines(scope: Scope, order_id: i64, line_ids: &[i64], priced: &Priced) -> Vec<OrderLine> {
    (1..)
        .zip(line_ids.iter().zip(&priced.lines))
        .map(|(line_number, (&order_line_id, priced))| {
            let line = &priced.amounts;
            let line_amount_fen = line.list_amount_fen - line.disc_item_fen;
            OrderLine {
                order_line_id,
                tenant_id: scope.tenant_id,
                order_id,
                line_number,
                product_id: line.product_id,
                variant_id: priced.variant_id,
                gift: priced.gift,
                return_window_days: priced.return_window_days,
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
                refunding_quantity: 0,
                refunding_fen: 0,
                points: priced.points,
                reward_points: priced.reward_points,
                refunded_points: 0,
                refunding_points: 0,
            }
        })
        .collect()
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
    scope: Scope,
    order_id: i64,
) -> Result<Order, OperationalError> {
    let order: Order =
        sql("select * from orders where order_id = ?1 and tenant_id = ?2 for update")
            .bind(order_id)
            .bind(scope.tenant_id)
            .first(tx)
            .await?
            .ok_or(OperationalError::not_found("order", order_id))?;
    scope.check_owner(order.person_id, "order", order_id)?;
    Ok(order)
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

/// Where the discounts of an order's lines come from.
///
/// # Errors
/// When the database fails.
pub async fn discounts(
    connection: &mut Connection,
    order_id: i64,
) -> Result<Vec<LineDiscount>, OperationalError> {
    sql("select d.* from order_line_discount d
         join order_line l on l.order_line_id = d.order_line_id
         where l.order_id = ?1 order by d.order_line_discount_id")
    .bind(order_id)
    .all(connection)
    .await
}

/// An order as a client asks for it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OrderRequest {
    #[schema(minimum = 1)]
    person_id: i64,
    #[schema(minimum = 1)]
    pharmacy_id: i64,
    channel: Channel,
    #[schema(minimum = 1)]
    coupon_id: Option<i64>,
    /// The prescription of the medicines that need one.
    #[schema(minimum = 1)]
    prescription_id: Option<i64>,
    /// The visit it is placed in.
    #[schema(minimum = 1)]
    visit_id: Option<i64>,
    /// What is charged for shipping, at a counter; what the pharmacy charges when it is left out.
    #[schema(minimum = 0, maximum = 10_000_000)]
    shipping_fen: Option<i64>,
    /// What the buyer was told it comes to: it is refused if it does not.
    expected_payable_fen: Option<i64>,
    /// With how many points it is paid; a quote says how many it may be.
    #[serde(default)]
    #[schema(minimum = 0)]
    points: i64,
    #[schema(min_items = 1, max_items = 500)]
    lines: Vec<CatalogueLine>,
}

impl OrderRequest {
    pub(super) fn order(&self) -> NewOrder {
        NewOrder {
            coupon_id: self.coupon_id,
            prescription_id: self.prescription_id,
            visit_id: self.visit_id,
            shipping_fen: self.shipping_fen,
            expected_payable_fen: self.expected_payable_fen,
            points: self.points,
            ..NewOrder::new(
                self.person_id,
                self.pharmacy_id,
                self.channel,
                Pricing::Catalogue(self.lines.clone()),
            )
        }
    }
}

/// Which orders.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct OrderFilter {
    /// Of this person only.
    person_id: Option<i64>,
    /// Of this pharmacy only.
    pharmacy_id: Option<i64>,
    /// Only those so far.
    status: Option<OrderStatus>,
    /// Only those placed from then on: microseconds since 1970 (UTC).
    #[param(minimum = 0)]
    from: Option<i64>,
    /// Only those placed before: microseconds since 1970 (UTC).
    #[param(minimum = 0)]
    until: Option<i64>,
    /// Only the parcel of this number.
    #[param(min_length = 1, max_length = 255)]
    tracking_number: Option<String>,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/mall/orders", routing::post(post).get(get_all))
        .route("/mall/orders/{id}", routing::get(get_one))
}

/// Place an order at catalogue prices. The distributor the buyer is bound to is stamped on it.
#[utoipa::path(post, path = "/mall/orders", tag = "mall", request_body = OrderRequest,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = PlacedOrder), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    scope: Scope,
    command: Command<OrderRequest>,
) -> Result<Answer, Failure> {
    let now = scope.now;
    let promoter_id = promoter(&services, scope, command.body.person_id).await?;
    let rules = Rules::of(&services, scope.tenant_id).await?;
    command
        .carry_out(services.mall(), now, StatusCode::CREATED, |tx, scope, request| {
            let new = NewOrder { promoter_id, ..request.order() }.under(&rules, now);
            Box::pin(place(tx, scope, new))
        })
        .await
}

/// The distributor a buyer is bound to.
pub(super) async fn promoter(
    services: &Services,
    scope: Scope,
    person_id: i64,
) -> Result<Option<i64>, OperationalError> {
    let mut connection = services.distribution().read().await?;
    bindings::distributor_of(&mut connection, scope, person_id).await
}

/// List orders.
#[utoipa::path(get, path = "/mall/orders", tag = "mall", params(OrderFilter),
    responses((status = 200, body = List<Order>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(filter): Params<OrderFilter>,
) -> Result<Json<List<Order>>, Failure> {
    check_time("from", filter.from)?;
    check_time("until", filter.until)?;
    let items = sql("select * from orders where tenant_id = ?1
             and (?2 is null or person_id = ?2) and (?3 is null or pharmacy_id = ?3)
             and (?4 is null or status = ?4) and (?7 is null or created_at >= ?7)
             and (?8 is null or created_at < ?8) and (?9 is null or tracking_number = ?9)
             and order_id > ?5 order by order_id limit ?6")
    .bind(scope.tenant_id)
    .bind(scope.only_person().or(filter.person_id))
    .bind(filter.pharmacy_id)
    .bind(filter.status)
    .bind(filter.after_id)
    .bind(filter.limit.rows())
    .bind(filter.from.map(Micros))
    .bind(filter.until.map(Micros))
    .bind(&filter.tracking_number)
    .all(&mut *services.mall().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// An order with all that happened to it.
#[utoipa::path(get, path = "/mall/orders/{id}", tag = "mall", params(("id" = i64, Path)),
    responses((status = 200, body = OrderDetail), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(order_id): Id,
) -> Result<Json<OrderDetail>, Failure> {
    let mut tx = services.mall().read().await?;
    let order = find(&mut tx, scope.tenant_id, order_id).await?;
    scope.check_owner(order.person_id, "order", order_id)?;
    Ok(Json(OrderDetail {
        order,
        lines: lines(&mut tx, order_id).await?,
        discounts: discounts(&mut tx, order_id).await?,
        refunds: refunds::of_order(&mut tx, order_id).await?,
        history: order_states::history(&mut tx, order_id).await?,
    }))
}
