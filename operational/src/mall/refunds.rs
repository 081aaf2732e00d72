//! Refunds: whole, by quantity and by amount; asked for, decided, paid out or not.
//!
//! A unit is worth what was paid for it: its share of the line's cash, fixed when the order was placed,
//! whatever the rest of the order still comes to. What is asked for is held until it is decided, so two
//! refunds at once never come to more than was paid, and all units of a line always come to its cash
//! exactly: the last ones get what is left.

mod decisions;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    allocation,
    limits::check_note,
    order_states::{self, CloseReason, is_of_interest},
    orders::{self, Order, OrderLine, OrderStatus},
    points,
    stock::{self, LineUnits},
};
use crate::{
    OperationalError, OrderRefunded, RefundedLine, Scope, WriteTransaction,
    calendar::DAY_MICROS,
    database::{Connection, Micros, insert, insert_one, record, sql, words},
    outbox,
};

pub use decisions::{Decision, approve, fail, reject, succeed};
pub(super) use decisions::{fail_of_channel, succeed_of_channel};

words! {
    /// Why something is given back.
    pub enum RefundCause {
        /// Without a reason: before it is shipped, or within the return window of the line.
        NoReason = "no_reason",
        /// Its quality is at fault.
        Quality = "quality",
        /// It is not what was ordered.
        WrongItem = "wrong_item",
        /// It did not come.
        NotDelivered = "not_delivered",
    }
}

words! {
    /// How far a refund is.
    pub enum RefundStatus {
        /// Asked for.
        Requested = "requested",
        /// To be paid out.
        Approved = "approved",
        /// Refused.
        Rejected = "rejected",
        /// Paid out.
        Succeeded = "succeeded",
        /// It could not be paid out; what it held may be asked for again.
        Failed = "failed",
    }
}

/// What is to be refunded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRefund {
    /// Why, in words.
    #[schema(max_length = 2_000)]
    pub reason: String,
    /// Why.
    #[serde(default = "no_reason")]
    pub cause: RefundCause,
    /// All that is left of the order; before it is shipped, with the shipping.
    #[serde(default)]
    pub whole: bool,
    /// Otherwise of which lines, each named once.
    #[serde(default)]
    pub lines: Vec<NewRefundLine>,
}

const fn no_reason() -> RefundCause {
    RefundCause::NoReason
}

/// What is to be refunded of a line: units, or an amount while the units stay with the buyer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRefundLine {
    /// The line.
    #[schema(minimum = 1)]
    pub order_line_id: i64,
    /// How many units.
    #[schema(minimum = 1)]
    pub quantity: Option<i64>,
    /// Or how much.
    #[schema(minimum = 1)]
    pub amount_fen: Option<i64>,
}

impl NewRefund {
    /// Of these lines, without a cause.
    #[must_use]
    pub fn new(reason: impl Into<String>, lines: Vec<NewRefundLine>) -> Self {
        Self { reason: reason.into(), cause: RefundCause::NoReason, whole: false, lines }
    }
}

impl NewRefundLine {
    /// So many units of a line.
    #[must_use]
    pub const fn units(order_line_id: i64, quantity: i64) -> Self {
        Self { order_line_id, quantity: Some(quantity), amount_fen: None }
    }
}

/// A refund.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Refund {
    /// The refund.
    #[serde(flatten)]
    pub row: RefundRow,
    /// The refunded lines.
    pub lines: Vec<RefundLine>,
}

record! {
    /// A refund without its lines.
    pub struct RefundRow in "refund" {
        /// Its id.
        pub refund_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The order.
        pub order_id: i64,
        /// What is given back for goods.
        pub amount_fen: i64,
        /// What is given back of the shipping.
        pub shipping_fen: i64,
        /// How many points are given back.
        pub points: i64,
        /// Why.
        pub cause: RefundCause,
        /// Why, in words.
        pub reason: String,
        /// How far it is.
        pub status: RefundStatus,
        /// Whether shipped units that come back can be sold again.
        pub restock: bool,
        /// What was noted when it was decided, or why it failed.
        pub note: Option<String>,
        /// What the payment channel calls it.
        pub channel_refund_id: Option<String>,
        /// Microseconds since 1970 (UTC).
        pub requested_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub decided_at: Option<Micros>,
        /// Microseconds since 1970 (UTC).
        pub succeeded_at: Option<Micros>,
        /// Microseconds since 1970 (UTC).
        pub failed_at: Option<Micros>,
    }
}

record! {
    /// A line of a refund.
    pub struct RefundLine in "refund_line" {
        /// Its id.
        pub refund_line_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The refund.
        pub refund_id: i64,
        /// The line of the order.
        pub order_line_id: i64,
        /// How many units; none of a refund by amount.
        pub quantity: i64,
        /// What is given back for them.
        pub amount_fen: i64,
        /// How many points are given back for them.
        pub points: i64,
    }
}

/// What is refunded of a line.
#[derive(Debug, Clone)]
struct Part {
    line: OrderLine,
    quantity: i64,
    amount_fen: i64,
    points: i64,
}

impl Part {
    /// Units of a line: their shares of its cash and of its points; the last units get what is left of
    /// both.
    fn of_units(line: OrderLine, quantity: i64) -> Self {
        let gone = line.refunded_quantity + line.refunding_quantity;
        let left_fen = left_fen(&line);
        let share = allocation::unit_shares(line.cash_fen.max(0), line.quantity, gone, quantity);
        let last = gone + quantity == line.quantity;
        let amount_fen = if last { left_fen } else { share.min(left_fen) };
        let left_points = left_points(&line);
        let share = allocation::unit_shares(line.points, line.quantity, gone, quantity);
        let points = if last { left_points } else { share.min(left_points) };
        Self { line, quantity, amount_fen, points }
    }

    /// How many of the points that the line earned go with it.
    fn points_lost(&self) -> i64 {
        let (line, before) = (&self.line, self.line.refunded_fen);
        line.kept_points(before) - line.kept_points(before + self.amount_fen)
    }
}

/// What may still be given back of a line.
fn left_fen(line: &OrderLine) -> i64 {
    line.cash_fen.max(0) - line.refunded_fen - line.refunding_fen
}

fn left_points(line: &OrderLine) -> i64 {
    line.points - line.refunded_points - line.refunding_points
}

fn left_units(line: &OrderLine) -> i64 {
    line.quantity - line.refunded_quantity - line.refunding_quantity
}

/// Asks for a refund: it is held until it is decided.
///
/// # Errors
/// As [`refund`].
pub async fn request(
    tx: &mut WriteTransaction,
    scope: Scope,
    order_id: i64,
    new: &NewRefund,
) -> Result<Refund, OperationalError> {
    let (order, parts, shipping_fen) = worked_out(tx, scope, order_id, new).await?;
    let row = RefundRow {
        status: RefundStatus::Requested,
        ..row(tx, scope, order.order_id, new, &parts, shipping_fen).await?
    };
    insert_one(tx, &row).await?;
    let lines = write_lines(tx, scope, row.refund_id, &parts).await?;
    for part in &parts {
        sql("update order_line set refunding_quantity = refunding_quantity + ?2,
                 refunding_fen = refunding_fen + ?3, refunding_points = refunding_points + ?4
             where order_line_id = ?1")
        .bind(part.line.order_line_id)
        .bind(part.quantity)
        .bind(part.amount_fen)
        .bind(part.points)
        .execute(tx)
        .await?;
    }
    Ok(Refund { row, lines })
}

/// Refunds at once what somebody decides and pays out by themselves.
///
/// # Errors
/// `NotFound` for an unknown order, or a line that is not of this order; `Conflict` when the order is
/// not paid, less is left, or the line's return policy forbids it; `Invalid` for a line named twice or
/// a quantity or amount below 1.
pub async fn refund(
    tx: &mut WriteTransaction,
    scope: Scope,
    order_id: i64,
    new: &NewRefund,
) -> Result<Refund, OperationalError> {
    let (order, parts, shipping_fen) = worked_out(tx, scope, order_id, new).await?;
    let row = RefundRow {
        decided_at: Some(Micros(scope.now)),
        succeeded_at: Some(Micros(scope.now)),
        ..row(tx, scope, order.order_id, new, &parts, shipping_fen).await?
    };
    insert_one(tx, &row).await?;
    let lines = write_lines(tx, scope, row.refund_id, &parts).await?;
    give_back(tx, scope, order, &row, &parts, Held::No).await?;
    Ok(Refund { row, lines })
}

async fn row(
    tx: &mut WriteTransaction,
    scope: Scope,
    order_id: i64,
    new: &NewRefund,
    parts: &[Part],
    shipping_fen: i64,
) -> Result<RefundRow, OperationalError> {
    Ok(RefundRow {
        refund_id: tx.id::<RefundRow>(None).await?,
        tenant_id: scope.tenant_id,
        order_id,
        amount_fen: parts.iter().map(|part| part.amount_fen).sum(),
        shipping_fen,
        points: parts.iter().map(|part| part.points).sum(),
        cause: new.cause,
        reason: new.reason.clone(),
        status: RefundStatus::Succeeded,
        restock: false,
        note: None,
        channel_refund_id: None,
        requested_at: Micros(scope.now),
        decided_at: None,
        succeeded_at: None,
        failed_at: None,
    })
}

/// The order, which is held from now on, with the parts of it that are to be refunded and the shipping.
async fn worked_out(
    tx: &mut WriteTransaction,
    scope: Scope,
    order_id: i64,
    new: &NewRefund,
) -> Result<(Order, Vec<Part>, i64), OperationalError> {
    check_note("reason", &new.reason)?;
    if new.whole != new.lines.is_empty() {
        return Err(OperationalError::invalid("a refund is whole, or has at least one line"));
    }
    let order = orders::find_for_update(tx, scope, order_id).await?;
    if order.paid_at.is_none() {
        return Err(OperationalError::conflict(format!("order {order_id} is not paid")));
    }
    let lines = orders::lines(tx, order_id).await?;
    let parts = match new.whole {
        true => all_that_is_left(order_id, lines)?,
        false => named(&new.lines, lines)?,
    };
    for part in &parts {
        check_policy(scope, &order, &part.line, new.cause)?;
    }
    let shipping_fen = match new.whole && order.shipped_at.is_none() {
        true => order.shipping_fen - held_shipping(tx, &order).await?,
        false => 0,
    };
    Ok((order, parts, shipping_fen))
}

fn all_that_is_left(order_id: i64, lines: Vec<OrderLine>) -> Result<Vec<Part>, OperationalError> {
    let parts: Vec<Part> = lines
        .into_iter()
        .filter(|line| left_units(line) > 0 || left_fen(line) > 0)
        .map(|line| {
            let units = left_units(&line);
            let mut part = Part::of_units(line, units);
            part.amount_fen = left_fen(&part.line);
            part.points = left_points(&part.line);
            part
        })
        .collect();
    if parts.is_empty() {
        return Err(OperationalError::conflict(format!(
            "order {order_id} has nothing left to refund"
        )));
    }
    Ok(parts)
}

fn named(wanted: &[NewRefundLine], lines: Vec<OrderLine>) -> Result<Vec<Part>, OperationalError> {
    let mut lines: HashMap<i64, OrderLine> =
        lines.into_iter().map(|line| (line.order_line_id, line)).collect();
    let mut parts: Vec<Part> = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        let id = wanted.order_line_id;
        // Taken out, so that a line named twice is not found again.
        let Some(line) = lines.remove(&id) else {
            return Err(match parts.iter().any(|part| part.line.order_line_id == id) {
                true => OperationalError::invalid(format!("order_line {id} is named twice")),
                false => OperationalError::not_found("order_line", id),
            });
        };
        parts.push(match (wanted.quantity, wanted.amount_fen) {
            (Some(quantity), None) => {
                let left = left_units(&line);
                if quantity < 1 {
                    return Err(OperationalError::invalid(
                        "the quantity of a refund is at least 1",
                    ));
                }
                if quantity > left {
                    return Err(OperationalError::conflict(format!(
                        "order_line {id} has {left} of {} units left to refund, not {quantity}",
                        line.quantity
                    )));
                }
                Part::of_units(line, quantity)
            }
            (None, Some(amount_fen)) => {
                let left = left_fen(&line);
                if amount_fen < 1 {
                    return Err(OperationalError::invalid("the amount of a refund is at least 1"));
                }
                if amount_fen > left {
                    return Err(OperationalError::conflict(format!(
                        "order_line {id} has {left} fen left to refund, not {amount_fen}"
                    )));
                }
                Part { line, quantity: 0, amount_fen, points: 0 }
            }
            _ => {
                return Err(OperationalError::invalid(
                    "a line of a refund has either a quantity or an amount_fen",
                ));
            }
        });
    }
    Ok(parts)
}

/// What was shipped goes back without a reason only within the return window of its line, which a
/// medicine does not have.
fn check_policy(
    scope: Scope,
    order: &Order,
    line: &OrderLine,
    cause: RefundCause,
) -> Result<(), OperationalError> {
    if cause != RefundCause::NoReason || order.shipped_at.is_none() {
        return Ok(());
    }
    let id = line.order_line_id;
    if line.return_window_days == 0 {
        return Err(OperationalError::conflict(format!(
            "order_line {id} goes back for its quality only"
        )));
    }
    let ends_at = |received: Micros| received.0 + line.return_window_days * DAY_MICROS;
    if order.received_at.is_some_and(|received| scope.now > ends_at(received)) {
        return Err(OperationalError::conflict(format!(
            "the return window of order_line {id} has ended"
        )));
    }
    Ok(())
}

/// The shipping that was refunded, or is asked for.
async fn held_shipping(tx: &mut WriteTransaction, order: &Order) -> Result<i64, OperationalError> {
    sql("select cast(coalesce(sum(shipping_fen), 0) as signed) from refund
         where order_id = ?1 and status in ('requested', 'approved', 'succeeded')")
    .bind(order.order_id)
    .value(tx)
    .await
}

async fn write_lines(
    tx: &mut WriteTransaction,
    scope: Scope,
    refund_id: i64,
    parts: &[Part],
) -> Result<Vec<RefundLine>, OperationalError> {
    let ids = tx.ids::<RefundLine>(parts.iter().map(|_| None)).await?;
    let lines: Vec<RefundLine> = ids
        .into_iter()
        .zip(parts)
        .map(|(refund_line_id, part)| RefundLine {
            refund_line_id,
            tenant_id: scope.tenant_id,
            refund_id,
            order_line_id: part.line.order_line_id,
            quantity: part.quantity,
            amount_fen: part.amount_fen,
            points: part.points,
        })
        .collect();
    insert(tx, &lines).await?;
    Ok(lines)
}

/// Whether what is refunded was held since it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    No,
    Yes,
}

/// Writes what a refund that is paid out changes: the lines, the order, the stock, and what others hear
/// of it. An order of which no unit is left is closed.
async fn give_back(
    tx: &mut WriteTransaction,
    scope: Scope,
    order: Order,
    refund: &RefundRow,
    parts: &[Part],
    held: Held,
) -> Result<(), OperationalError> {
    let order_id = order.order_id;
    let held = i64::from(held == Held::Yes);
    for part in parts {
        sql("update order_line set refunded_quantity = refunded_quantity + ?2,
                 refunded_fen = refunded_fen + ?3,
                 refunded_points = refunded_points + ?5,
                 refunding_quantity = refunding_quantity - ?2 * ?4,
                 refunding_fen = refunding_fen - ?3 * ?4,
                 refunding_points = refunding_points - ?5 * ?4
             where order_line_id = ?1")
        .bind(part.line.order_line_id)
        .bind(part.quantity)
        .bind(part.amount_fen)
        .bind(held)
        .bind(part.points)
        .execute(tx)
        .await?;
    }
    sql("update orders set refunded_fen = refunded_fen + ?2,
             refunded_shipping_fen = refunded_shipping_fen + ?3
         where order_id = ?1")
    .bind(order_id)
    .bind(refund.amount_fen)
    .bind(refund.shipping_fen)
    .execute(tx)
    .await?;
    let taken_back = match order.completed_at {
        Some(_) => parts.iter().map(Part::points_lost).sum(),
        None => 0,
    };
    points::refund(tx, scope, &order, refund.refund_id, refund.points, taken_back).await?;
    let units: BTreeMap<i64, i64> =
        parts.iter().map(|part| (part.line.order_line_id, part.quantity)).collect();
    let before: Vec<OrderLine> = parts.iter().map(|part| part.line.clone()).collect();
    if order.shipped_at.is_none() {
        order_states::give_units_back(tx, scope, &order, &before, Some(&units)).await?;
    } else if refund.restock {
        let mut back: Vec<LineUnits> = stock::shipped_for(tx, &before).await?;
        for line in &mut back {
            line.units = line.units.min(units.get(&line.order_line_id).copied().unwrap_or(0));
        }
        stock::put_back(tx, scope, order.pharmacy_id, &back).await?;
    }
    if is_of_interest(tx, order_id).await? {
        let event = OrderRefunded {
            refund_id: refund.refund_id,
            tenant_id: scope.tenant_id,
            order_id,
            promoter_id: order.promoter_id,
            refunded_at: scope.now,
            lines: parts
                .iter()
                .map(|part| RefundedLine {
                    order_line_id: part.line.order_line_id,
                    quantity_left: part.line.quantity - part.line.refunded_quantity - part.quantity,
                    refunded_fen: part.line.refunded_fen + part.amount_fen,
                })
                .collect(),
        };
        outbox::put(tx, &event).await?;
    }
    let left: i64 = sql("select cast(coalesce(sum(quantity - refunded_quantity), 0) as signed)
         from order_line where order_id = ?1 and gift = 0")
    .bind(order_id)
    .value(tx)
    .await?;
    if left == 0 && order.status.may_become(OrderStatus::Closed) {
        order_states::close_as(tx, scope, order, CloseReason::Refunded).await?;
    }
    Ok(())
}

/// One refund.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    connection: &mut Connection,
    tenant_id: i64,
    refund_id: i64,
) -> Result<Refund, OperationalError> {
    let row: RefundRow = sql("select * from refund where refund_id = ?1 and tenant_id = ?2")
        .bind(refund_id)
        .bind(tenant_id)
        .first(connection)
        .await?
        .ok_or(OperationalError::not_found("refund", refund_id))?;
    with_lines(connection, row).await
}

async fn with_lines(
    connection: &mut Connection,
    row: RefundRow,
) -> Result<Refund, OperationalError> {
    let lines = sql("select * from refund_line where refund_id = ?1 order by refund_line_id")
        .bind(row.refund_id)
        .all(connection)
        .await?;
    Ok(Refund { row, lines })
}

/// The refunds of an order, in order.
///
/// # Errors
/// When the database fails.
pub async fn of_order(
    connection: &mut Connection,
    order_id: i64,
) -> Result<Vec<Refund>, OperationalError> {
    let rows: Vec<RefundRow> = sql("select * from refund where order_id = ?1 order by refund_id")
        .bind(order_id)
        .all(connection)
        .await?;
    let mut refunds = Vec::with_capacity(rows.len());
    for row in rows {
        refunds.push(with_lines(connection, row).await?);
    }
    Ok(refunds)
}

#[cfg(test)]
mod tests;
