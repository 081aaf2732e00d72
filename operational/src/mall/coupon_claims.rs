//! Coupons in the hands of buyers: claimed within limits, redeemed by an order, given back when the order
//! is closed.

use std::collections::BTreeMap;

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::coupons::Coupon;
use crate::{
    Limit, OperationalError, Page, Scope, Services, WriteTransaction,
    calendar::DAY_MICROS,
    database::{Connection, Micros, insert_missing, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
};

words! {
    /// How far a claimed coupon is.
    pub enum ClaimStatus {
        /// It can be used until it expires.
        Claimed = "claimed",
        /// An order used it.
        Redeemed = "redeemed",
    }
}

record! {
    /// A coupon that a person claimed.
    pub struct CouponClaim in "coupon_claim" {
        /// Its id.
        pub coupon_claim_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The coupon.
        pub coupon_id: i64,
        /// Who claimed it.
        pub person_id: i64,
        /// How far it is.
        pub status: ClaimStatus,
        /// The order that used it.
        pub order_id: Option<i64>,
        /// Microseconds since 1970 (UTC).
        pub claimed_at: Micros,
        /// Until when it may be used, exclusive.
        pub expires_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub redeemed_at: Option<Micros>,
    }
}

/// Claims a coupon for a person.
///
/// # Errors
/// `NotFound`; `Conflict` when none is left, the person has had all of theirs, it is over, or it need
/// not be claimed.
pub async fn claim(
    tx: &mut WriteTransaction,
    scope: Scope,
    coupon_id: i64,
    person_id: i64,
) -> Result<CouponClaim, OperationalError> {
    scope.check_person(person_id)?;
    if person_id <= 0 {
        return Err(OperationalError::invalid("person_id must be positive"));
    }
    // Whoever claims one holds the coupon, so the counts are right until the claim is written.
    let coupon: Coupon =
        sql("select * from coupon where coupon_id = ?1 and tenant_id = ?2 for update")
            .bind(coupon_id)
            .bind(scope.tenant_id)
            .first(tx)
            .await?
            .ok_or(OperationalError::not_found("coupon", coupon_id))?;
    if !coupon.claim_needed {
        return Err(OperationalError::conflict(format!("coupon {coupon_id} need not be claimed")));
    }
    if !(coupon.starts_at..coupon.ends_at).contains(&Micros(scope.now)) {
        return Err(OperationalError::conflict(format!(
            "coupon {coupon_id} is not valid at this time"
        )));
    }
    let had: i64 = sql("select count(*) from coupon_claim
         where tenant_id = ?1 and person_id = ?2 and coupon_id = ?3")
    .bind(scope.tenant_id)
    .bind(person_id)
    .bind(coupon_id)
    .value(tx)
    .await?;
    if coupon.claim_limit_per_person.is_some_and(|limit| had >= limit) {
        return Err(OperationalError::conflict(format!(
            "person {person_id} has claimed coupon {coupon_id} {had} times, as often as is allowed"
        )));
    }
    let counted = sql("update coupon set claimed_count = claimed_count + 1
         where coupon_id = ?1 and (claim_limit is null or claimed_count < claim_limit)")
    .bind(coupon_id)
    .execute(tx)
    .await?;
    if counted == 0 {
        return Err(OperationalError::conflict(format!("coupon {coupon_id} is all claimed")));
    }
    let lasting = coupon.claim_valid_days.map(|days| scope.now.saturating_add(days * DAY_MICROS));
    let claim = CouponClaim {
        coupon_claim_id: tx.id::<CouponClaim>(None).await?,
        tenant_id: scope.tenant_id,
        coupon_id,
        person_id,
        status: ClaimStatus::Claimed,
        order_id: None,
        claimed_at: Micros(scope.now),
        expires_at: lasting.map_or(coupon.ends_at, |until| coupon.ends_at.min(Micros(until))),
        redeemed_at: None,
    };
    insert_one(tx, &claim).await?;
    Ok(claim)
}

/// A claim that is recorded elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedClaim {
    /// Its id.
    pub coupon_claim_id: i64,
    /// The coupon.
    pub coupon_id: i64,
    /// Who claimed it.
    pub person_id: i64,
    /// When, in microseconds since 1970 (UTC).
    pub claimed_at: i64,
    /// Until when it may be used, exclusive.
    pub expires_at: i64,
}

/// Writes claims as they are recorded, whatever the limits of their coupons, and gives how many were
/// written: one whose id exists already is left as it is.
///
/// # Errors
/// When the database fails, as it does for a coupon that is not there.
pub async fn record_many(
    tx: &mut WriteTransaction,
    scope: Scope,
    claims: &[RecordedClaim],
) -> Result<usize, OperationalError> {
    let ids = tx.ids::<CouponClaim>(claims.iter().map(|claim| Some(claim.coupon_claim_id))).await?;
    let rows = ids.into_iter().zip(claims).map(|(coupon_claim_id, claim)| CouponClaim {
        coupon_claim_id,
        tenant_id: scope.tenant_id,
        coupon_id: claim.coupon_id,
        person_id: claim.person_id,
        status: ClaimStatus::Claimed,
        order_id: None,
        claimed_at: Micros(claim.claimed_at),
        expires_at: Micros(claim.expires_at),
        redeemed_at: None,
    });
    let written = insert_missing(tx, rows.collect()).await?;
    let mut counts: BTreeMap<i64, i64> = BTreeMap::new();
    for claim in &written {
        *counts.entry(claim.coupon_id).or_default() += 1;
    }
    for (coupon_id, count) in counts {
        sql("update coupon set claimed_count = claimed_count + ?2 where coupon_id = ?1")
            .bind(coupon_id)
            .bind(count)
            .execute(tx)
            .await?;
    }
    Ok(written.len())
}

/// Uses the one of a person's claims that expires first, for an order.
///
/// # Errors
/// `Conflict` when the person has none that is valid.
pub async fn redeem(
    tx: &mut WriteTransaction,
    scope: Scope,
    coupon_id: i64,
    person_id: i64,
    order_id: i64,
) -> Result<(), OperationalError> {
    let found: Option<(i64,)> = sql("select coupon_claim_id from coupon_claim
         where tenant_id = ?1 and person_id = ?2 and coupon_id = ?3 and status = 'claimed'
             and expires_at > ?4
         order by expires_at, coupon_claim_id limit 1 for update")
    .bind(scope.tenant_id)
    .bind(person_id)
    .bind(coupon_id)
    .bind(Micros(scope.now))
    .first(tx)
    .await?;
    let Some((coupon_claim_id,)) = found else {
        return Err(OperationalError::conflict(format!(
            "person {person_id} has no coupon {coupon_id} to use"
        )));
    };
    sql("update coupon_claim set status = 'redeemed', order_id = ?2, redeemed_at = ?3
         where coupon_claim_id = ?1")
    .bind(coupon_claim_id)
    .bind(order_id)
    .bind(Micros(scope.now))
    .execute(tx)
    .await?;
    Ok(())
}

/// Gives back what a closed order used. An expired one stays of no use.
pub(super) async fn give_back(
    tx: &mut WriteTransaction,
    order_id: i64,
) -> Result<(), OperationalError> {
    sql("update coupon_claim set status = 'claimed', order_id = null, redeemed_at = null
         where order_id = ?1")
    .bind(order_id)
    .execute(tx)
    .await?;
    Ok(())
}

/// Whose claims.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClaimFilter {
    /// Of this person.
    person_id: i64,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

/// A person's claims by id.
///
/// # Errors
/// When the database fails.
pub async fn of_person(
    connection: &mut Connection,
    tenant_id: i64,
    person_id: i64,
    page: Page,
) -> Result<Vec<CouponClaim>, OperationalError> {
    sql("select * from coupon_claim where tenant_id = ?1 and person_id = ?2
             and coupon_claim_id > ?3 order by coupon_claim_id limit ?4")
    .bind(tenant_id)
    .bind(person_id)
    .bind(page.after_id)
    .bind(page.limit.rows())
    .all(connection)
    .await
}

/// Who claims.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClaimRequest {
    #[schema(minimum = 1)]
    person_id: i64,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/mall/coupons/{id}/claims", routing::post(post))
        .route("/mall/coupon-claims", routing::get(get_all))
}

/// Claim a coupon.
#[utoipa::path(post, path = "/mall/coupons/{id}/claims", tag = "mall", request_body = ClaimRequest,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = CouponClaim), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    Id(coupon_id): Id,
    command: Command<ClaimRequest>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::CREATED, |tx, scope, request| {
            Box::pin(claim(tx, scope, coupon_id, request.person_id))
        })
        .await
}

/// List the coupons that a person claimed.
#[utoipa::path(get, path = "/mall/coupon-claims", tag = "mall", params(ClaimFilter),
    responses((status = 200, body = List<CouponClaim>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(filter): Params<ClaimFilter>,
) -> Result<Json<List<CouponClaim>>, Failure> {
    scope.check_person(filter.person_id)?;
    let mut tx = services.mall().read().await?;
    let page = Page { after_id: filter.after_id, limit: filter.limit };
    Ok(Json(List { items: of_person(&mut tx, scope.tenant_id, filter.person_id, page).await? }))
}
