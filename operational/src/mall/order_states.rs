//! What becomes of an order after it is placed. Each step is checked against the one before, is noted,
//! and is taken by itself when it is due: an order that is not paid is closed, one that was shipped some
//! time ago counts as received, one whose return windows have ended is completed.

use std::collections::BTreeMap;

use axum::{Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Rules, campaigns, coupon_claims,
    limits::check_optional_text,
    orders::{self, Order, OrderLine, OrderStatus, PlacedOrder},
    points, prescriptions, stock,
};
use crate::{
    OperationalError, OrderClosed, OrderReceived, ReceivedLine, Scope, Services, WriteTransaction,
    calendar::DAY_MICROS,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, Nothing},
    outbox,
};

/// Orders looked for at once whose next step is due.
const DUE_ORDERS: i64 = 500;

words! {
    /// Why an order was closed.
    pub enum CloseReason {
        /// The buyer gave it up.
        Cancelled = "cancelled",
        /// It was not paid in time.
        Expired = "expired",
        /// All of it was refunded.
        Refunded = "refunded",
    }
}

record! {
    /// A step of an order.
    pub struct StatusChange in "order_status_change" {
        /// Its id.
        pub order_status_change_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The order.
        pub order_id: i64,
        /// What it was; nothing when it was placed.
        pub from_status: Option<OrderStatus>,
        /// What it became.
        pub to_status: OrderStatus,
        /// Why.
        pub reason: Option<String>,
        /// Microseconds since 1970 (UTC).
        pub changed_at: Micros,
    }
}

impl OrderStatus {
    /// Whether an order may become this from what it is. It is each once at most.
    #[must_use]
    pub const fn may_become(self, to: Self) -> bool {
        matches!(
            (self, to),
            (Self::Created, Self::Paid | Self::Closed)
                | (Self::Paid, Self::Shipped | Self::Closed)
                | (Self::Shipped, Self::Received | Self::Closed)
                | (Self::Received, Self::Completed | Self::Closed)
        )
    }
}

/// Refuses a step that the state of the order does not allow.
pub(super) fn check_step(order: &Order, to: OrderStatus) -> Result<(), OperationalError> {
    if order.status.may_become(to) {
        return Ok(());
    }
    let (id, status) = (order.order_id, order.status);
    Err(OperationalError::conflict(match status {
        status if status == to => format!("order {id} is already {status}"),
        OrderStatus::Created => format!("order {id} is not paid"),
        status => format!("order {id} is {status}"),
    }))
}

/// Notes a step.
pub(super) async fn note(
    tx: &mut WriteTransaction,
    scope: Scope,
    order_id: i64,
    from_status: Option<OrderStatus>,
    to_status: OrderStatus,
    reason: Option<String>,
) -> Result<(), OperationalError> {
    let change = StatusChange {
        order_status_change_id: tx.id::<StatusChange>(None).await?,
        tenant_id: scope.tenant_id,
        order_id,
        from_status,
        to_status,
        reason,
        changed_at: Micros(scope.now),
    };
    insert_one(tx, &change).await
}

/// The steps of an order, in order.
///
/// # Errors
/// When the database fails.
pub async fn history(
    connection: &mut Connection,
    order_id: i64,
) -> Result<Vec<StatusChange>, OperationalError> {
    // Ids of two processes do not tell which was first; the steps do.
    let mut steps: Vec<StatusChange> =
        sql("select * from order_status_change where order_id = ?1 order by changed_at")
            .bind(order_id)
            .all(connection)
            .await?;
    steps.sort_by_key(|step| {
        (step.changed_at, OrderStatus::ALL.iter().position(|status| *status == step.to_status))
    });
    Ok(steps)
}

/// Gives up an order that is not paid. What it took is given back.
///
/// # Errors
/// `NotFound`; `Conflict` when it is paid or closed.
pub async fn close(
    tx: &mut WriteTransaction,
    scope: Scope,
    order_id: i64,
) -> Result<PlacedOrder, OperationalError> {
    let order = orders::find_for_update(tx, scope, order_id).await?;
    if order.paid_at.is_some() && order.status != OrderStatus::Closed {
        return Err(OperationalError::conflict(format!("order {order_id} is {}", order.status)));
    }
    let order = close_as(tx, scope, order, CloseReason::Cancelled).await?;
    Ok(PlacedOrder { order, lines: orders::lines(tx, order_id).await? })
}

/// Closes an order that the transaction holds.
pub(super) async fn close_as(
    tx: &mut WriteTransaction,
    scope: Scope,
    order: Order,
    reason: CloseReason,
) -> Result<Order, OperationalError> {
    check_step(&order, OrderStatus::Closed)?;
    let order_id = order.order_id;
    sql("update orders set status = 'closed', closed_at = ?2, close_reason = ?3, due_at = null
         where order_id = ?1")
    .bind(order_id)
    .bind(Micros(scope.now))
    .bind(reason)
    .execute(tx)
    .await?;
    let told = Some(reason.to_string());
    note(tx, scope, order_id, Some(order.status), OrderStatus::Closed, told).await?;
    coupon_claims::give_back(tx, order_id).await?;
    let lines = orders::lines(tx, order_id).await?;
    if order.paid_at.is_none() {
        give_campaign_units_back(tx, order_id).await?;
        points::give_all_back(tx, scope, &order).await?;
    }
    give_units_back(tx, scope, &order, &lines, None).await?;
    let order = Order {
        status: OrderStatus::Closed,
        closed_at: Some(Micros(scope.now)),
        close_reason: Some(reason),
        due_at: None,
        ..order
    };
    if is_of_interest(tx, order_id).await? {
        let event = OrderClosed {
            tenant_id: order.tenant_id,
            order_id,
            person_id: order.person_id,
            paid: order.paid_at.is_some(),
            closed_at: scope.now,
        };
        outbox::put(tx, &event).await?;
    }
    Ok(order)
}

async fn give_campaign_units_back(
    tx: &mut WriteTransaction,
    order_id: i64,
) -> Result<(), OperationalError> {
    let units: Vec<(i64, i64)> = sql("select d.campaign_id, cast(sum(l.quantity) as signed)
         from order_line l join order_line_discount d on d.order_line_id = l.order_line_id
         join campaign c on c.campaign_id = d.campaign_id
         where l.order_id = ?1 and d.kind = 'item' and l.gift = 0 and c.unit_limit is not null
         group by d.campaign_id order by d.campaign_id")
    .bind(order_id)
    .all(tx)
    .await?;
    for (campaign_id, units) in units {
        campaigns::count_units(tx, campaign_id, -units).await?;
    }
    Ok(())
}

/// Gives back the stock and the prescription of units that will not be shipped: of these lines so many,
/// or all of what is reserved.
pub(super) async fn give_units_back(
    tx: &mut WriteTransaction,
    scope: Scope,
    order: &Order,
    lines: &[OrderLine],
    units: Option<&BTreeMap<i64, i64>>,
) -> Result<(), OperationalError> {
    if order.shipped_at.is_some() {
        return Ok(());
    }
    let of_line = |order_line_id: i64, all: i64| match units {
        Some(units) => units.get(&order_line_id).copied().unwrap_or(0).min(all),
        None => all,
    };
    if let Some(prescription_id) = order.prescription_id {
        let mut prescribed = BTreeMap::new();
        for line in lines.iter().filter(|line| !line.gift) {
            let left = line.quantity - line.refunded_quantity;
            *prescribed.entry(line.product_id).or_insert(0) += of_line(line.order_line_id, left);
        }
        prescriptions::give_back(tx, prescription_id, &prescribed).await?;
    }
    let mut reserved = stock::reserved_for(tx, lines).await?;
    for line in &mut reserved {
        line.units = of_line(line.order_line_id, line.units);
    }
    stock::release(tx, scope, order.pharmacy_id, &reserved).await
}

/// Whether another service was told of the payment of an order: it has a promoter, or a line is a
/// medicine.
pub(super) async fn is_of_interest(
    tx: &mut WriteTransaction,
    order_id: i64,
) -> Result<bool, OperationalError> {
    sql("select o.promoter_id is not null or exists (
             select 1 from order_line l join product p on p.product_id = l.product_id
             where l.order_id = o.order_id and p.drug_code is not null)
         from orders o where o.order_id = ?1")
    .bind(order_id)
    .value(tx)
    .await
}

/// How an order was sent off.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Shipment {
    /// Who carries it.
    #[schema(min_length = 1, max_length = 255)]
    pub carrier: Option<String>,
    /// Under which number.
    #[schema(min_length = 1, max_length = 255)]
    pub tracking_number: Option<String>,
}

/// Sends off a paid order: what is reserved for it leaves the stock. It counts as received after
/// `received_after_micros` if nobody says so before.
///
/// # Errors
/// `NotFound`; `Conflict` when it is not paid, or a refund of it is not decided yet.
pub async fn ship(
    tx: &mut WriteTransaction,
    scope: Scope,
    order_id: i64,
    shipment: &Shipment,
    received_after_micros: i64,
) -> Result<PlacedOrder, OperationalError> {
    check_optional_text("carrier", shipment.carrier.as_deref())?;
    check_optional_text("tracking_number", shipment.tracking_number.as_deref())?;
    let order = orders::find_for_update(tx, scope, order_id).await?;
    check_step(&order, OrderStatus::Shipped)?;
    let lines = orders::lines(tx, order_id).await?;
    let open: bool = sql("select exists (select 1 from refund
         where order_id = ?1 and status in ('requested', 'approved'))")
    .bind(order_id)
    .value(tx)
    .await?;
    if open {
        return Err(OperationalError::conflict(format!(
            "order {order_id} has a refund that is not decided or paid out yet"
        )));
    }
    let due_at = Micros(scope.now.saturating_add(received_after_micros));
    sql("update orders set status = 'shipped', shipped_at = ?2, due_at = ?3, carrier = ?4,
             tracking_number = ?5
         where order_id = ?1")
    .bind(order_id)
    .bind(Micros(scope.now))
    .bind(due_at)
    .bind(&shipment.carrier)
    .bind(&shipment.tracking_number)
    .execute(tx)
    .await?;
    note(tx, scope, order_id, Some(order.status), OrderStatus::Shipped, None).await?;
    let reserved = stock::reserved_for(tx, &lines).await?;
    stock::ship(tx, scope, order.pharmacy_id, &reserved).await?;
    let order = Order {
        status: OrderStatus::Shipped,
        shipped_at: Some(Micros(scope.now)),
        due_at: Some(due_at),
        carrier: shipment.carrier.clone(),
        tracking_number: shipment.tracking_number.clone(),
        ..order
    };
    Ok(PlacedOrder { order, lines })
}

/// Notes that a shipped order is with the buyer: the return windows of its lines begin.
///
/// # Errors
/// `NotFound`; `Conflict` when it is not on its way.
pub async fn receive(
    tx: &mut WriteTransaction,
    scope: Scope,
    order_id: i64,
) -> Result<PlacedOrder, OperationalError> {
    let order = orders::find_for_update(tx, scope, order_id).await?;
    check_step(&order, OrderStatus::Received)?;
    let lines = orders::lines(tx, order_id).await?;
    let ends_at = |line: &OrderLine| {
        scope.now.saturating_add(line.return_window_days.saturating_mul(DAY_MICROS))
    };
    let due_at = Micros(lines.iter().map(ends_at).max().unwrap_or(scope.now));
    sql("update orders set status = 'received', received_at = ?2, due_at = ?3 where order_id = ?1")
        .bind(order_id)
        .bind(Micros(scope.now))
        .bind(due_at)
        .execute(tx)
        .await?;
    note(tx, scope, order_id, Some(order.status), OrderStatus::Received, None).await?;
    if is_of_interest(tx, order_id).await? {
        let event = OrderReceived {
            tenant_id: order.tenant_id,
            order_id,
            person_id: order.person_id,
            promoter_id: order.promoter_id,
            received_at: scope.now,
            lines: lines
                .iter()
                .map(|line| ReceivedLine {
                    order_line_id: line.order_line_id,
                    return_window_ends_at: ends_at(line),
                })
                .collect(),
        };
        outbox::put(tx, &event).await?;
    }
    let order = Order {
        status: OrderStatus::Received,
        received_at: Some(Micros(scope.now)),
        due_at: Some(due_at),
        ..order
    };
    Ok(PlacedOrder { order, lines })
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Swept {
    /// Orders closed because they were not paid in time.
    pub closed: u64,
    /// Orders that count as received.
    pub received: u64,
    /// Orders completed.
    pub completed: u64,
}

/// Takes the next step of every order for which it is due, each in a transaction of its own.
///
/// # Errors
/// When the database fails; what was done before stays done.
pub async fn sweep(services: &Services) -> Result<Swept, OperationalError> {
    let mut swept = Swept::default();
    let mut after = (i64::MIN, 0);
    loop {
        let now = services.now();
        let due: Vec<(i64, i64, Micros)> = sql("select order_id, tenant_id, due_at from orders
             where due_at <= ?1 and (due_at > ?2 or (due_at = ?2 and order_id > ?3))
             order by due_at, order_id limit ?4")
        .bind(Micros(now))
        .bind(Micros(after.0.max(0)))
        .bind(after.1)
        .bind(DUE_ORDERS)
        .all(&mut *services.mall().read().await?)
        .await?;
        let Some(last) = due.last() else { return Ok(swept) };
        after = (last.2.0, last.0);
        for (order_id, tenant_id, _) in due {
            let valid_micros = Rules::of(services, tenant_id).await?.points.valid_micros;
            let mut tx = services.mall().begin(now).await?;
            let scope = Scope::of(tenant_id, now);
            let done = step(&mut tx, scope, order_id, valid_micros, &mut swept).await;
            match tx.end(done).await {
                // Somebody else is at it; the next sweep looks again.
                Err(OperationalError::Contended { .. }) => {}
                done => done?,
            }
        }
    }
}

/// Takes the next step of an order if it is due: one that is not paid is closed, one that was sent off
/// counts as received, one that was received is completed, and earns its points, which may be spent
/// for `points_valid_micros`.
///
/// # Errors
/// `NotFound`; when the database fails.
pub async fn step(
    tx: &mut WriteTransaction,
    scope: Scope,
    order_id: i64,
    points_valid_micros: i64,
    swept: &mut Swept,
) -> Result<(), OperationalError> {
    let order = orders::find_for_update(tx, scope, order_id).await?;
    if order.due_at.is_none_or(|due| due > Micros(scope.now)) {
        return Ok(());
    }
    match order.status {
        OrderStatus::Created => {
            close_as(tx, scope, order, CloseReason::Expired).await?;
            swept.closed += 1;
        }
        OrderStatus::Shipped => {
            receive(tx, scope, order_id).await?;
            swept.received += 1;
        }
        OrderStatus::Received => {
            complete(tx, scope, &order, points_valid_micros).await?;
            swept.completed += 1;
        }
        OrderStatus::Paid | OrderStatus::Completed | OrderStatus::Closed => {}
    }
    Ok(())
}

async fn complete(
    tx: &mut WriteTransaction,
    scope: Scope,
    order: &Order,
    points_valid_micros: i64,
) -> Result<(), OperationalError> {
    if order.reward_points > 0 {
        let lines = orders::lines(tx, order.order_id).await?;
        let kept = |line: &OrderLine| line.kept_points(line.refunded_fen);
        let earned = lines.iter().map(kept).sum();
        points::earn(tx, scope, order, earned, points_valid_micros).await?;
    }
    sql("update orders set status = 'completed', completed_at = ?2, due_at = null
         where order_id = ?1")
    .bind(order.order_id)
    .bind(Micros(scope.now))
    .execute(tx)
    .await?;
    note(tx, scope, order.order_id, Some(order.status), OrderStatus::Completed, None).await
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/mall/orders/{id}/close", routing::post(post_close))
        .route("/mall/orders/{id}/ship", routing::post(post_ship))
        .route("/mall/orders/{id}/receive", routing::post(post_receive))
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

/// Send off a paid order.
#[utoipa::path(post, path = "/mall/orders/{id}/ship", tag = "mall", request_body = Shipment,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = PlacedOrder), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_ship(
    State(services): State<Services>,
    scope: Scope,
    Id(order_id): Id,
    command: Command<Shipment>,
) -> Result<Answer, Failure> {
    let received_after = Rules::of(&services, scope.tenant_id).await?.received_after_micros;
    command
        .carry_out(services.mall(), services.now(), StatusCode::OK, |tx, scope, shipment| {
            Box::pin(ship(tx, scope, order_id, shipment, received_after))
        })
        .await
}

/// Note that a shipped order is with the buyer.
#[utoipa::path(post, path = "/mall/orders/{id}/receive", tag = "mall", request_body = Nothing,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = PlacedOrder), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_receive(
    State(services): State<Services>,
    Id(order_id): Id,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::OK, |tx, scope, _| {
            Box::pin(receive(tx, scope, order_id))
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_goes_forward_only_and_is_each_once() {
        use OrderStatus::{Closed, Completed, Created, Paid, Received, Shipped};
        let steps = [
            (Created, vec![Paid, Closed]),
            (Paid, vec![Shipped, Closed]),
            (Shipped, vec![Received, Closed]),
            (Received, vec![Completed, Closed]),
            (Completed, vec![]),
            (Closed, vec![]),
        ];
        assert_eq!(steps.len(), OrderStatus::ALL.len());
        for (from, to) in steps {
            for status in OrderStatus::ALL {
                assert_eq!(from.may_become(*status), to.contains(status), "{from} to {status}");
            }
        }
    }
}
