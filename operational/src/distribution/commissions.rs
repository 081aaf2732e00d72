//! Commission: accrued per order line and level when an order is paid, reversed by what a refund
//! leaves of it. Both are told by the mall, more than once at times, and act once.

use axum::{Json, Router, extract::State, routing};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    commission_math::Terms,
    distributors::{self, Distributor},
    rules,
};
use crate::{
    OperationalError, OrderPaid, OrderRefunded, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{ErrorBody, Failure, List, Params},
};

words! {
    /// How far a commission is.
    pub enum CommissionStatus {
        /// Booked, and not yet to be had.
        Frozen = "frozen",
        /// All of it taken back.
        Reversed = "reversed",
    }
}

record! {
    /// What a line earned one distributor.
    pub struct Commission in "commission" {
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
        pub accrued_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub updated_at: Micros,
    }
}

record! {
    /// A row of the ledger.
    struct Entry in "commission_entry" {
        entry_id: i64,
        tenant_id: i64,
        commission_id: i64,
        order_line_id: i64,
        beneficiary_id: i64,
        level: i64,
        event_type: String,
        amount_fen: i64,
        source_event_id: String,
        occurred_at: Micros,
    }
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
    let scope = Scope::of(paid.tenant_id, paid.paid_at);
    let beneficiaries = beneficiaries(tx, scope, promoter_id, paid.person_id).await?;
    if beneficiaries.is_empty() {
        return Ok(());
    }
    let product_ids: Vec<i64> = paid.lines.iter().map(|l| l.product_id).collect();
    let rules = rules::for_products(tx, scope, &product_ids).await?;
    let booked: Vec<(i64, i64)> =
        sql("select order_line_id, level from commission where order_id = ?1")
            .bind(paid.order_id)
            .all(tx)
            .await?;
    for line in &paid.lines {
        for (level, beneficiary) in &beneficiaries {
            let terms = rules::terms_of(&rules, line.product_id, *level);
            let booked_fen = terms.on(line.cash_fen);
            if booked_fen == 0 || booked.contains(&(line.order_line_id, *level)) {
                continue;
            }
            let commission = Commission {
                commission_id: tx.id::<Commission>(None).await?,
                tenant_id: scope.tenant_id,
                order_id: paid.order_id,
                order_line_id: line.order_line_id,
                beneficiary_id: beneficiary.distributor_id,
                level: *level,
                base_fen: line.cash_fen,
                rate_bp: terms.rate_bp,
                fixed_fen: terms.fixed_fen,
                booked_fen,
                reversed_fen: 0,
                status: CommissionStatus::Frozen,
                accrued_at: Micros(scope.now),
                updated_at: Micros(scope.now),
            };
            insert_one(tx, &commission).await?;
            let source = format!("payment:{}", paid.payment_id);
            enter(tx, &commission, "accrue", booked_fen, source, scope.now).await?;
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
        let commissions: Vec<Commission> = sql(
            "select * from commission where order_line_id = ?1 and tenant_id = ?2 order by level
             for update",
        )
        .bind(line.order_line_id)
        .bind(refunded.tenant_id)
        .all(tx)
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
            enter(tx, &commission, "reverse", -more_fen, source, at).await?;
            sql("update commission set reversed_fen = ?2, updated_at = ?3,
                     status = case when booked_fen = ?2 then 'reversed' else 'frozen' end
                 where commission_id = ?1")
            .bind(commission.commission_id)
            .bind(reversed_fen)
            .bind(Micros(at))
            .execute(tx)
            .await?;
        }
    }
    Ok(())
}

/// Adds a row to the ledger.
async fn enter(
    tx: &mut WriteTransaction,
    commission: &Commission,
    event_type: &str,
    amount_fen: i64,
    source_event_id: String,
    occurred_at: i64,
) -> Result<(), OperationalError> {
    let entry = Entry {
        entry_id: tx.id::<Entry>(None).await?,
        tenant_id: commission.tenant_id,
        commission_id: commission.commission_id,
        order_line_id: commission.order_line_id,
        beneficiary_id: commission.beneficiary_id,
        level: commission.level,
        event_type: event_type.to_owned(),
        amount_fen,
        source_event_id,
        occurred_at: Micros(occurred_at),
    };
    insert_one(tx, &entry).await
}

/// What an order earned, by line and level.
///
/// # Errors
/// When the database fails.
pub async fn of_order(
    connection: &mut Connection,
    tenant_id: i64,
    order_id: i64,
) -> Result<Vec<Commission>, OperationalError> {
    sql("select * from commission where order_id = ?1 and tenant_id = ?2
         order by order_line_id, level")
    .bind(order_id)
    .bind(tenant_id)
    .all(connection)
    .await
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
    scope: Scope,
    Params(OfOrder { order_id }): Params<OfOrder>,
) -> Result<Json<List<Commission>>, Failure> {
    let mut connection = services.distribution().read().await?;
    let items = of_order(&mut connection, scope.tenant_id, order_id).await?;
    Ok(Json(List { items }))
}
