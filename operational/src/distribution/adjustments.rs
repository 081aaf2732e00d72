//! What a person grants a beneficiary, or takes back, outside of any order: a mistake set right, say.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ledger::{self, Entry, EventType, LedgerAccount};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Micros, insert_one, record, sql},
    http::{Answer, Command, ErrorBody, Failure, List, Page, Params},
};

/// The most that one adjustment grants or takes back.
const AMOUNT_FEN_MAX: i64 = 100_000_000;
const REASON_LENGTH_MAX: usize = 200;

/// An adjustment to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAdjustment {
    /// Whose balance.
    #[schema(minimum = 1)]
    pub beneficiary_id: i64,
    /// What is granted; below zero what is taken back.
    #[schema(minimum = -100_000_000, maximum = 100_000_000)]
    pub amount_fen: i64,
    /// Why.
    #[schema(min_length = 1, max_length = 200)]
    pub reason: String,
}

record! {
    /// An adjustment.
    pub struct Adjustment in "adjustment" {
        /// Its id.
        pub adjustment_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// Whose balance.
        pub beneficiary_id: i64,
        /// What was granted; below zero what was taken back.
        pub amount_fen: i64,
        /// Why.
        pub reason: String,
        /// Who made it.
        pub made_by: String,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
    }
}

/// Grants a beneficiary an amount, or takes one back. It is available at once.
///
/// # Errors
/// `NotFound` for an unknown distributor; `Invalid` for an amount or a reason out of its range.
pub async fn adjust(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewAdjustment,
) -> Result<Adjustment, OperationalError> {
    let reason = new.reason.trim();
    if !(1..=AMOUNT_FEN_MAX).contains(&new.amount_fen.saturating_abs()) {
        return Err(OperationalError::invalid(
            "amount_fen must be at most 100000000 either way, and not 0",
        ));
    }
    if reason.is_empty() || reason.chars().count() > REASON_LENGTH_MAX {
        return Err(OperationalError::invalid("reason must be 1 to 200 characters"));
    }
    ledger::hold(tx, scope.tenant_id, new.beneficiary_id).await?;
    let adjustment = Adjustment {
        adjustment_id: tx.id::<Adjustment>(None).await?,
        tenant_id: scope.tenant_id,
        beneficiary_id: new.beneficiary_id,
        amount_fen: new.amount_fen,
        reason: reason.to_owned(),
        made_by: scope.actor.to_string(),
        created_at: Micros(scope.now),
    };
    insert_one(tx, &adjustment).await?;
    let entry = Entry {
        entry_id: 0,
        tenant_id: scope.tenant_id,
        commission_id: None,
        order_line_id: 0,
        beneficiary_id: new.beneficiary_id,
        level: 0,
        event_type: EventType::Adjust,
        amount_fen: new.amount_fen,
        source_event_id: format!("adjustment:{}", adjustment.adjustment_id),
        occurred_at: Micros(scope.now),
        from_account: LedgerAccount::Granted,
        to_account: LedgerAccount::Available,
    };
    ledger::post(tx, scope, vec![entry]).await?;
    Ok(adjustment)
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/distribution/adjustments", routing::get(get_all).post(post))
}

/// Adjustments in the order of their ids.
#[utoipa::path(get, path = "/distribution/adjustments", tag = "distribution", params(Page),
    responses((status = 200, body = List<Adjustment>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(page): Params<Page>,
) -> Result<Json<List<Adjustment>>, Failure> {
    let items = sql("select a.* from adjustment a
         join distributor d on d.distributor_id = a.beneficiary_id
         where a.tenant_id = ?1 and a.adjustment_id > ?2 and (?3 is null or d.person_id = ?3)
         order by a.adjustment_id limit ?4")
    .bind(scope.tenant_id)
    .bind(page.after_id)
    .bind(scope.only_person())
    .bind(page.limit.rows())
    .all(&mut *services.distribution().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// Grant a beneficiary an amount, or take one back, outside of any order.
#[utoipa::path(post, path = "/distribution/adjustments", tag = "distribution",
    request_body = NewAdjustment, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Adjustment), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewAdjustment>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.distribution(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(adjust(tx, scope, new)),
        )
        .await
}
