//! Refunds by quantity. A unit is worth what was paid for it: its share of the line's cash, fixed
//! when the order was placed, whatever the rest of the order still comes to.

use std::collections::HashMap;

use axum::{Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    allocation,
    orders::{self, OrderLine, OrderStatus},
};
use crate::{
    OperationalError, OrderRefunded, RefundedLine, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert, insert_one, record, sql},
    http::{Answer, Command, ErrorBody, Failure, Id},
    outbox,
};

/// Units to be refunded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRefund {
    /// Why.
    pub reason: String,
    /// Of which lines, each named once.
    pub lines: Vec<NewRefundLine>,
}

/// Units of a line to be refunded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRefundLine {
    /// The line.
    pub order_line_id: i64,
    /// How many units.
    #[schema(minimum = 1)]
    pub quantity: i64,
}

/// A refund.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Refund {
    /// Its id.
    pub refund_id: i64,
    /// The tenant.
    pub tenant_id: i64,
    /// The order.
    pub order_id: i64,
    /// What was given back.
    pub amount_fen: i64,
    /// Why.
    pub reason: String,
    /// `succeeded`.
    pub status: String,
    /// Microseconds since 1970 (UTC).
    pub requested_at: Micros,
    /// Microseconds since 1970 (UTC).
    pub succeeded_at: Micros,
    /// The refunded lines.
    pub lines: Vec<RefundLine>,
}

record! {
    /// A refund without its lines.
    struct RefundRow in "refund" {
        refund_id: i64,
        tenant_id: i64,
        order_id: i64,
        amount_fen: i64,
        reason: String,
        status: String,
        requested_at: Micros,
        succeeded_at: Micros,
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
        /// How many units.
        pub quantity: i64,
        /// What was given back for them.
        pub amount_fen: i64,
    }
}

/// Refunds units of a paid order.
///
/// # Errors
/// `NotFound` for an unknown order, or a line that is not of this order; `Conflict` when the order
/// is not paid or fewer units are left; `Invalid` for a line named twice or a quantity below 1.
pub async fn refund(
    tx: &mut WriteTransaction,
    scope: Scope,
    order_id: i64,
    new: &NewRefund,
) -> Result<Refund, OperationalError> {
    if new.lines.is_empty() {
        return Err(OperationalError::invalid("a refund has at least one line"));
    }
    let order = orders::find_for_update(tx, scope.tenant_id, order_id).await?;
    if order.status != OrderStatus::Paid {
        return Err(OperationalError::conflict(format!("order {order_id} is not paid")));
    }
    let mut lines: HashMap<i64, OrderLine> = orders::lines(tx, order_id)
        .await?
        .into_iter()
        .map(|line| (line.order_line_id, line))
        .collect();
    let mut refunded = Vec::with_capacity(new.lines.len());
    for wanted in &new.lines {
        // Taken out, so that a line named twice is not found again.
        let Some(line) = lines.remove(&wanted.order_line_id) else {
            return Err(
                if refunded.iter().any(|(l, _, _): &(OrderLine, i64, i64)| {
                    l.order_line_id == wanted.order_line_id
                }) {
                    OperationalError::invalid(format!(
                        "order_line {} is named twice",
                        wanted.order_line_id
                    ))
                } else {
                    OperationalError::not_found("order_line", wanted.order_line_id)
                },
            );
        };
        let left = line.quantity - line.refunded_quantity;
        if wanted.quantity < 1 {
            return Err(OperationalError::invalid("the quantity of a refund is at least 1"));
        }
        if wanted.quantity > left {
            return Err(OperationalError::conflict(format!(
                "order_line {} has {left} of {} units left to refund, not {}",
                line.order_line_id, line.quantity, wanted.quantity
            )));
        }
        let amount_fen = allocation::unit_shares(
            line.cash_fen.max(0),
            line.quantity,
            line.refunded_quantity,
            wanted.quantity,
        );
        refunded.push((line, wanted.quantity, amount_fen));
    }
    record(tx, scope, order_id, &new.reason, &refunded).await
}

/// Writes a refund that was checked: each line with the units and the amount given back.
async fn record(
    tx: &mut WriteTransaction,
    scope: Scope,
    order_id: i64,
    reason: &str,
    refunded: &[(OrderLine, i64, i64)],
) -> Result<Refund, OperationalError> {
    let amount_fen = refunded.iter().map(|(_, _, amount)| amount).sum::<i64>();
    let row = RefundRow {
        refund_id: tx.id::<RefundRow>(None).await?,
        tenant_id: scope.tenant_id,
        order_id,
        amount_fen,
        reason: reason.to_owned(),
        status: "succeeded".to_owned(),
        requested_at: Micros(scope.now),
        succeeded_at: Micros(scope.now),
    };
    insert_one(tx, &row).await?;
    let line_ids = tx.ids::<RefundLine>(refunded.iter().map(|_| None)).await?;
    let lines: Vec<RefundLine> = line_ids
        .into_iter()
        .zip(refunded)
        .map(|(refund_line_id, (line, quantity, amount_fen))| RefundLine {
            refund_line_id,
            tenant_id: scope.tenant_id,
            refund_id: row.refund_id,
            order_line_id: line.order_line_id,
            quantity: *quantity,
            amount_fen: *amount_fen,
        })
        .collect();
    insert(tx, &lines).await?;
    for (line, quantity, amount) in refunded {
        sql("update order_line set refunded_quantity = refunded_quantity + ?2,
                 refunded_fen = refunded_fen + ?3
             where order_line_id = ?1")
        .bind(line.order_line_id)
        .bind(*quantity)
        .bind(*amount)
        .execute(tx)
        .await?;
    }
    sql("update orders set refunded_fen = refunded_fen + ?2 where order_id = ?1")
        .bind(order_id)
        .bind(amount_fen)
        .execute(tx)
        .await?;
    tell_others(
        tx,
        &OrderRefunded {
            refund_id: row.refund_id,
            tenant_id: scope.tenant_id,
            order_id,
            refunded_at: scope.now,
            lines: refunded
                .iter()
                .map(|(line, quantity, amount)| RefundedLine {
                    order_line_id: line.order_line_id,
                    quantity_left: line.quantity - line.refunded_quantity - quantity,
                    refunded_fen: line.refunded_fen + amount,
                })
                .collect(),
        },
    )
    .await?;
    Ok(with_lines(row, lines))
}

fn with_lines(row: RefundRow, lines: Vec<RefundLine>) -> Refund {
    Refund {
        refund_id: row.refund_id,
        tenant_id: row.tenant_id,
        order_id: row.order_id,
        amount_fen: row.amount_fen,
        reason: row.reason,
        status: row.status,
        requested_at: row.requested_at,
        succeeded_at: row.succeeded_at,
        lines,
    }
}

/// Writes the message, if the order's payment was told of for the same reasons.
async fn tell_others(
    tx: &mut WriteTransaction,
    event: &OrderRefunded,
) -> Result<(), OperationalError> {
    let of_interest: bool = sql("select o.promoter_id is not null or exists (
             select 1 from order_line l join product p on p.product_id = l.product_id
             where l.order_id = o.order_id and p.drug_code is not null)
         from orders o where o.order_id = ?1")
    .bind(event.order_id)
    .value(tx)
    .await?;
    if of_interest {
        outbox::put(tx, event).await?;
    }
    Ok(())
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
        let lines = sql("select * from refund_line where refund_id = ?1 order by refund_line_id")
            .bind(row.refund_id)
            .all(connection)
            .await?;
        refunds.push(with_lines(row, lines));
    }
    Ok(refunds)
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/mall/orders/{id}/refunds", routing::post(post))
}

/// Refund units of a paid order.
#[utoipa::path(post, path = "/mall/orders/{id}/refunds", tag = "mall", request_body = NewRefund,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Refund), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    Id(order_id): Id,
    command: Command<NewRefund>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::CREATED, |tx, scope, new| {
            Box::pin(refund(tx, scope, order_id, new))
        })
        .await
}
