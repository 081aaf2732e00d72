//! Commission: accrued per order line and level when an order is paid, reversed by what a refund
//! leaves of it. Both are told by the mall, more than once at times, and act once.

use axum::{Json, Router, extract::State, routing};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, SqliteConnection};
use utoipa::{IntoParams, ToSchema};

use super::{
    commission_math::Terms,
    distributors::{self, Distributor},
    rules,
};
use crate::{
    OperationalError, OrderPaid, OrderRefunded, Scope, Services, WriteTransaction,
    http::{ErrorBody, Failure, List, Params},
};

/// How far a commission is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum CommissionStatus {
    /// Booked, and not yet to be had.
    Frozen,
    /// All of it taken back.
    Reversed,
}

/// What a line earned one distributor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Commission {
    /// Its id.
    pub commission_id: i64,
    /// The tenant.
    pub tenant_id: i64,
    /// The order.
    pub order_id: i64,
    /// The line.
    pub order_line_id: i64,
    /// Who earned it.
    pub beneficiary_id: i64,
    /// 1 for the promoter, 2 for the one who brought the promoter in.
    pub level: i64,
    /// What was paid for the line.
    pub base_fen: i64,
    /// The rate it was booked at.
    pub rate_bp: Option<i64>,
    /// The fixed amount it was booked at.
    pub fixed_fen: Option<i64>,
    /// What was booked.
    pub booked_fen: i64,
    /// What was taken back of it.
    pub reversed_fen: i64,
    /// How far it is.
    pub status: CommissionStatus,
    /// Microseconds since 1970 (UTC).
    pub accrued_at: i64,
    /// Microseconds since 1970 (UTC).
    pub updated_at: i64,
}

/// Books what a paid order earns its promoter and the one above, frozen. A line already booked is
/// left as it is, whoever it went to.
///
/// # Errors
/// `NotFound` for a promoter that does not exist.
pub async fn accrue(tx: &mut WriteTransaction, paid: &OrderPaid) -> Result<(), OperationalError> {
    let Some(promoter_id) = paid.promoter_id else {
        return Ok(());
    };
    let scope = Scope { tenant_id: paid.tenant_id, now: paid.paid_at };
    let beneficiaries = beneficiaries(tx, scope, promoter_id, paid.person_id).await?;
    if beneficiaries.is_empty() {
        return Ok(());
    }
    let product_ids: Vec<i64> = paid.lines.iter().map(|l| l.product_id).collect();
    let rules = rules::for_products(tx, scope, &product_ids).await?;
    for line in &paid.lines {
        for (level, beneficiary) in &beneficiaries {
            let terms = rules::terms_of(&rules, line.product_id, *level);
            let booked_fen = terms.on(line.cash_fen);
            if booked_fen == 0 {
                continue;
            }
            let commission_id: Option<i64> = sqlx::query_scalar(
                "insert into commission (tenant_id, order_id, order_line_id, beneficiary_id, level,
                     base_fen, rate_bp, fixed_fen, booked_fen, reversed_fen, status, accrued_at,
                     updated_at)
                 values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, 'frozen', ?10, ?10)
                 on conflict (order_line_id, level) do nothing returning commission_id",
            )
            .bind(scope.tenant_id)
            .bind(paid.order_id)
            .bind(line.order_line_id)
            .bind(beneficiary.distributor_id)
            .bind(level)
            .bind(line.cash_fen)
            .bind(terms.rate_bp)
            .bind(terms.fixed_fen)
            .bind(booked_fen)
            .bind(scope.now)
            .fetch_optional(&mut **tx)
            .await?;
            if let Some(commission_id) = commission_id {
                let source = format!("payment:{}", paid.payment_id);
                enter(tx, commission_id, "accrue", booked_fen, &source, scope.now).await?;
            }
        }
    }
    Ok(())
}

/// The promoter and the one who brought it in. One that is not active ends the chain, and nobody
/// earns on their own purchase.
async fn beneficiaries(
    tx: &mut WriteTransaction,
    scope: Scope,
    promoter_id: i64,
    buyer_id: i64,
) -> Result<Vec<(i64, Distributor)>, OperationalError> {
    let mut found = Vec::with_capacity(2);
    let mut next = Some(promoter_id);
    for level in 1..=2 {
        let Some(id) = next else { break };
        let distributor = distributors::find(tx, scope.tenant_id, id).await?;
        if !distributor.active {
            break;
        }
        next = distributor.parent_id;
        if distributor.person_id != buyer_id {
            found.push((level, distributor));
        }
    }
    Ok(found)
}

/// Takes back what the refunded lines no longer earn: the difference between what was booked and
/// what is earned on the rest, less what was taken back before.
///
/// # Errors
/// When the database fails.
pub async fn reverse(
    tx: &mut WriteTransaction,
    refunded: &OrderRefunded,
) -> Result<(), OperationalError> {
    for line in &refunded.lines {
        let commissions: Vec<Commission> = sqlx::query_as(
            "select * from commission where order_line_id = ?1 and tenant_id = ?2 order by level",
        )
        .bind(line.order_line_id)
        .bind(refunded.tenant_id)
        .fetch_all(&mut **tx)
        .await?;
        for commission in commissions {
            let terms = Terms { rate_bp: commission.rate_bp, fixed_fen: commission.fixed_fen };
            let rest_fen = commission.base_fen - line.refunded_fen;
            let reversed_fen = commission.booked_fen - terms.on_rest(commission.base_fen, rest_fen);
            let more_fen = reversed_fen - commission.reversed_fen;
            // Nothing more to take: a repeated message, or an older one behind a newer.
            if more_fen <= 0 {
                continue;
            }
            let source = format!("refund:{}", refunded.refund_id);
            let at = refunded.refunded_at;
            enter(tx, commission.commission_id, "reverse", -more_fen, &source, at).await?;
            sqlx::query(
                "update commission set reversed_fen = ?2, updated_at = ?3,
                     status = iif(?2 = booked_fen, 'reversed', 'frozen')
                 where commission_id = ?1",
            )
            .bind(commission.commission_id)
            .bind(reversed_fen)
            .bind(at)
            .execute(&mut **tx)
            .await?;
        }
    }
    Ok(())
}

/// Adds a row to the ledger.
async fn enter(
    tx: &mut WriteTransaction,
    commission_id: i64,
    event_type: &str,
    amount_fen: i64,
    source_event_id: &str,
    occurred_at: i64,
) -> Result<(), OperationalError> {
    sqlx::query(
        "insert into commission_entry (tenant_id, commission_id, order_line_id, beneficiary_id,
             level, event_type, amount_fen, source_event_id, occurred_at)
         select tenant_id, commission_id, order_line_id, beneficiary_id, level, ?2, ?3, ?4, ?5
         from commission where commission_id = ?1",
    )
    .bind(commission_id)
    .bind(event_type)
    .bind(amount_fen)
    .bind(source_event_id)
    .bind(occurred_at)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// What an order earned, by line and level.
///
/// # Errors
/// When the database fails.
pub async fn of_order(
    connection: &mut SqliteConnection,
    tenant_id: i64,
    order_id: i64,
) -> Result<Vec<Commission>, OperationalError> {
    Ok(sqlx::query_as(
        "select * from commission where order_id = ?1 and tenant_id = ?2
         order by order_line_id, level",
    )
    .bind(order_id)
    .bind(tenant_id)
    .fetch_all(connection)
    .await?)
}

/// Of which order.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfOrder {
    order_id: i64,
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/distribution/commissions", routing::get(get_of_order))
}

/// What an order earned.
#[utoipa::path(get, path = "/distribution/commissions", tag = "distribution", params(OfOrder),
    responses((status = 200, body = List<Commission>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_of_order(
    State(services): State<Services>,
    Params(OfOrder { order_id }): Params<OfOrder>,
) -> Result<Json<List<Commission>>, Failure> {
    let mut connection = services.distribution().read().await?;
    let items = of_order(&mut connection, Scope::DEFAULT_TENANT, order_id).await?;
    Ok(Json(List { items }))
}
