//! What becomes of a refund that was asked for: approved or refused, paid out or not.

use std::collections::HashMap;

use serde::Deserialize;
use utoipa::ToSchema;

use super::{Held, Part, Refund, RefundLine, RefundRow, RefundStatus, find, give_back};
use crate::{
    OperationalError, Scope, WriteTransaction,
    database::{Connection, Micros, sql},
    mall::{
        limits::check_note,
        orders::{self, Order, OrderLine},
    },
};

/// What is decided on a refund.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Whether shipped units that come back can be sold again.
    #[serde(default)]
    pub restock: bool,
    /// In words.
    #[schema(max_length = 2_000)]
    pub note: Option<String>,
}

/// Approves a refund: it is to be paid out.
///
/// # Errors
/// `NotFound`; `Conflict` when it is decided already.
pub async fn approve(
    tx: &mut WriteTransaction,
    scope: Scope,
    refund_id: i64,
    decision: &Decision,
) -> Result<Refund, OperationalError> {
    check_note("note", decision.note.as_deref().unwrap_or_default())?;
    let (_, refund) = held(tx, scope, refund_id, RefundStatus::Requested).await?;
    let row = RefundRow {
        status: RefundStatus::Approved,
        restock: decision.restock,
        note: decision.note.clone(),
        decided_at: Some(Micros(scope.now)),
        ..refund.row
    };
    sql("update refund set status = 'approved', restock = ?2, note = ?3, decided_at = ?4
         where refund_id = ?1")
    .bind(refund_id)
    .bind(row.restock)
    .bind(&row.note)
    .bind(row.decided_at)
    .execute(tx)
    .await?;
    Ok(Refund { row, lines: refund.lines })
}

/// Refuses a refund: what it held may be asked for again.
///
/// # Errors
/// `NotFound`; `Conflict` when it is decided already.
pub async fn reject(
    tx: &mut WriteTransaction,
    scope: Scope,
    refund_id: i64,
    decision: &Decision,
) -> Result<Refund, OperationalError> {
    check_note("note", decision.note.as_deref().unwrap_or_default())?;
    let (_, refund) = held(tx, scope, refund_id, RefundStatus::Requested).await?;
    let row = RefundRow {
        status: RefundStatus::Rejected,
        note: decision.note.clone(),
        decided_at: Some(Micros(scope.now)),
        ..refund.row
    };
    sql("update refund set status = 'rejected', note = ?2, decided_at = ?3 where refund_id = ?1")
        .bind(refund_id)
        .bind(&row.note)
        .bind(row.decided_at)
        .execute(tx)
        .await?;
    let_go(tx, &refund.lines).await?;
    Ok(Refund { row, lines: refund.lines })
}

/// Notes that an approved refund was paid out. Told again of the same, nothing changes.
///
/// # Errors
/// `NotFound`; `Conflict` when it is not approved.
pub async fn succeed(
    tx: &mut WriteTransaction,
    scope: Scope,
    refund_id: i64,
    channel_refund_id: Option<&str>,
) -> Result<Refund, OperationalError> {
    let (order, refund) = lock(tx, scope, refund_id).await?;
    let known = refund.row.channel_refund_id.as_deref();
    if refund.row.status == RefundStatus::Succeeded && known == channel_refund_id {
        return Ok(refund);
    }
    check_status(&refund.row, RefundStatus::Approved)?;
    let row = RefundRow {
        status: RefundStatus::Succeeded,
        channel_refund_id: channel_refund_id.map(str::to_owned),
        succeeded_at: Some(Micros(scope.now)),
        ..refund.row
    };
    sql("update refund set status = 'succeeded', channel_refund_id = ?2, succeeded_at = ?3
         where refund_id = ?1")
    .bind(refund_id)
    .bind(&row.channel_refund_id)
    .bind(row.succeeded_at)
    .execute(tx)
    .await
    .map_err(|error| {
        error.or_taken(|| "the channel_refund_id belongs to another refund".to_owned())
    })?;
    let mut lines: HashMap<i64, OrderLine> = orders::lines(tx, order.order_id)
        .await?
        .into_iter()
        .map(|line| (line.order_line_id, line))
        .collect();
    let parts: Vec<Part> = refund
        .lines
        .iter()
        .filter_map(|part| {
            let line = lines.remove(&part.order_line_id)?;
            let RefundLine { quantity, amount_fen, points, .. } = *part;
            Some(Part { line, quantity, amount_fen, points })
        })
        .collect();
    give_back(tx, scope, order, &row, &parts, Held::Yes).await?;
    Ok(Refund { row, lines: refund.lines })
}

/// Notes that an approved refund could not be paid out. Told again, nothing changes.
///
/// # Errors
/// `NotFound`; `Conflict` when it is not approved.
pub async fn fail(
    tx: &mut WriteTransaction,
    scope: Scope,
    refund_id: i64,
    note: &str,
) -> Result<Refund, OperationalError> {
    check_note("note", note)?;
    let (_, refund) = lock(tx, scope, refund_id).await?;
    if refund.row.status == RefundStatus::Failed {
        return Ok(refund);
    }
    check_status(&refund.row, RefundStatus::Approved)?;
    let row = RefundRow {
        status: RefundStatus::Failed,
        note: Some(note.to_owned()),
        failed_at: Some(Micros(scope.now)),
        ..refund.row
    };
    sql("update refund set status = 'failed', note = ?2, failed_at = ?3 where refund_id = ?1")
        .bind(refund_id)
        .bind(note)
        .bind(row.failed_at)
        .execute(tx)
        .await?;
    let_go(tx, &refund.lines).await?;
    Ok(Refund { row, lines: refund.lines })
}

/// As [`succeed`], told by the channel through which the order was paid, with what it paid out.
pub(in crate::mall) async fn succeed_of_channel(
    tx: &mut WriteTransaction,
    now: i64,
    channel: &str,
    refund_id: i64,
    (channel_refund_id, amount_fen): (&str, i64),
) -> Result<Refund, OperationalError> {
    let row = of_channel(tx, channel, refund_id).await?;
    let expected = row.amount_fen + row.shipping_fen;
    if amount_fen != expected {
        return Err(OperationalError::conflict(format!(
            "refund {refund_id} comes to {expected} fen, not to {amount_fen}"
        )));
    }
    let scope = Scope::of(row.tenant_id, now);
    succeed(tx, scope, refund_id, Some(channel_refund_id)).await
}

/// As [`fail`], told by the channel through which the order was paid.
pub(in crate::mall) async fn fail_of_channel(
    tx: &mut WriteTransaction,
    now: i64,
    channel: &str,
    refund_id: i64,
    reason: &str,
) -> Result<Refund, OperationalError> {
    let row = of_channel(tx, channel, refund_id).await?;
    fail(tx, Scope::of(row.tenant_id, now), refund_id, reason).await
}

/// A refund of an order that was paid through this channel.
async fn of_channel(
    connection: &mut Connection,
    channel: &str,
    refund_id: i64,
) -> Result<RefundRow, OperationalError> {
    sql("select r.* from refund r join payment p on p.order_id = r.order_id
         where r.refund_id = ?1 and p.method = ?2 and p.status = 'succeeded'")
    .bind(refund_id)
    .bind(channel)
    .first(connection)
    .await?
    .ok_or(OperationalError::not_found("refund", refund_id))
}

/// What a refund held may be asked for again.
async fn let_go(tx: &mut WriteTransaction, lines: &[RefundLine]) -> Result<(), OperationalError> {
    for line in lines {
        sql("update order_line set refunding_quantity = refunding_quantity - ?2,
                 refunding_fen = refunding_fen - ?3, refunding_points = refunding_points - ?4
             where order_line_id = ?1")
        .bind(line.order_line_id)
        .bind(line.quantity)
        .bind(line.amount_fen)
        .bind(line.points)
        .execute(tx)
        .await?;
    }
    Ok(())
}

async fn held(
    tx: &mut WriteTransaction,
    scope: Scope,
    refund_id: i64,
    status: RefundStatus,
) -> Result<(Order, Refund), OperationalError> {
    let found = lock(tx, scope, refund_id).await?;
    check_status(&found.1.row, status)?;
    Ok(found)
}

fn check_status(row: &RefundRow, wanted: RefundStatus) -> Result<(), OperationalError> {
    if row.status == wanted {
        return Ok(());
    }
    Err(OperationalError::conflict(format!(
        "refund {} is {}, not {wanted}",
        row.refund_id, row.status
    )))
}

/// A refund with its order. Whoever holds the order decides on its refunds, so they are read after it.
async fn lock(
    tx: &mut WriteTransaction,
    scope: Scope,
    refund_id: i64,
) -> Result<(Order, Refund), OperationalError> {
    let found = find(tx, scope.tenant_id, refund_id).await?;
    let order = orders::find_for_update(tx, scope, found.row.order_id).await?;
    Ok((order, find(tx, scope.tenant_id, refund_id).await?))
}
