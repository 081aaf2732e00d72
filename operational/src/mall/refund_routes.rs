//! The HTTP interface of refunds.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    limits::check_optional_text,
    orders,
    refunds::{self, Decision, NewRefund, Refund, RefundRow, RefundStatus},
};
use crate::{
    Limit, Scope, Services,
    database::sql,
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
};

/// How a refund was paid out.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PaidOut {
    /// What the payment channel calls it, if it was one.
    #[schema(min_length = 1, max_length = 255)]
    channel_refund_id: Option<String>,
}

/// Why a refund could not be paid out.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NotPaidOut {
    /// In words.
    #[schema(max_length = 2_000)]
    note: String,
}

/// Which refunds.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefundFilter {
    /// Of this order only.
    order_id: Option<i64>,
    /// Only those so far.
    status: Option<RefundStatus>,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/mall/orders/{id}/refunds", routing::post(post))
        .route("/mall/orders/{id}/refund-requests", routing::post(post_request))
        .route("/mall/refunds", routing::get(get_all))
        .route("/mall/refunds/{id}", routing::get(get_one))
        .route("/mall/refunds/{id}/approve", routing::post(post_approve))
        .route("/mall/refunds/{id}/reject", routing::post(post_reject))
        .route("/mall/refunds/{id}/succeed", routing::post(post_succeed))
        .route("/mall/refunds/{id}/fail", routing::post(post_fail))
}

/// Refund part of a paid order, or all of it, at once.
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
            Box::pin(refunds::refund(tx, scope, order_id, new))
        })
        .await
}

/// Ask for a refund, which is then to be decided.
#[utoipa::path(post, path = "/mall/orders/{id}/refund-requests", tag = "mall",
    request_body = NewRefund,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Refund), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_request(
    State(services): State<Services>,
    Id(order_id): Id,
    command: Command<NewRefund>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::CREATED, |tx, scope, new| {
            Box::pin(refunds::request(tx, scope, order_id, new))
        })
        .await
}

/// List refunds, without their lines.
#[utoipa::path(get, path = "/mall/refunds", tag = "mall", params(RefundFilter),
    responses((status = 200, body = List<RefundRow>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(filter): Params<RefundFilter>,
) -> Result<Json<List<RefundRow>>, Failure> {
    let items = sql("select r.* from refund r join orders o on o.order_id = r.order_id
         where r.tenant_id = ?1 and (?2 is null or r.status = ?2) and r.refund_id > ?3
             and (?5 is null or o.person_id = ?5) and (?6 is null or r.order_id = ?6)
         order by r.refund_id limit ?4")
    .bind(scope.tenant_id)
    .bind(filter.status)
    .bind(filter.after_id)
    .bind(filter.limit.rows())
    .bind(scope.only_person())
    .bind(filter.order_id)
    .all(&mut *services.mall().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// A refund.
#[utoipa::path(get, path = "/mall/refunds/{id}", tag = "mall", params(("id" = i64, Path)),
    responses((status = 200, body = Refund), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(refund_id): Id,
) -> Result<Json<Refund>, Failure> {
    let mut tx = services.mall().read().await?;
    let refund = refunds::find(&mut tx, scope.tenant_id, refund_id).await?;
    let order = orders::find(&mut tx, scope.tenant_id, refund.row.order_id).await?;
    scope.check_owner(order.person_id, "refund", refund_id)?;
    Ok(Json(refund))
}

/// Approve a refund: it is to be paid out.
#[utoipa::path(post, path = "/mall/refunds/{id}/approve", tag = "mall", request_body = Decision,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Refund), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_approve(
    State(services): State<Services>,
    Id(refund_id): Id,
    command: Command<Decision>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::OK, |tx, scope, decision| {
            Box::pin(refunds::approve(tx, scope, refund_id, decision))
        })
        .await
}

/// Refuse a refund.
#[utoipa::path(post, path = "/mall/refunds/{id}/reject", tag = "mall", request_body = Decision,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Refund), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_reject(
    State(services): State<Services>,
    Id(refund_id): Id,
    command: Command<Decision>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::OK, |tx, scope, decision| {
            Box::pin(refunds::reject(tx, scope, refund_id, decision))
        })
        .await
}

/// Note that an approved refund was paid out.
#[utoipa::path(post, path = "/mall/refunds/{id}/succeed", tag = "mall", request_body = PaidOut,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Refund), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_succeed(
    State(services): State<Services>,
    Id(refund_id): Id,
    command: Command<PaidOut>,
) -> Result<Answer, Failure> {
    check_optional_text("channel_refund_id", command.body.channel_refund_id.as_deref())?;
    command
        .carry_out(services.mall(), services.now(), StatusCode::OK, |tx, scope, paid_out| {
            let channel_refund_id = paid_out.channel_refund_id.as_deref();
            Box::pin(refunds::succeed(tx, scope, refund_id, channel_refund_id))
        })
        .await
}

/// Note that an approved refund could not be paid out.
#[utoipa::path(post, path = "/mall/refunds/{id}/fail", tag = "mall", request_body = NotPaidOut,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Refund), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_fail(
    State(services): State<Services>,
    Id(refund_id): Id,
    command: Command<NotPaidOut>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::OK, |tx, scope, failed| {
            Box::pin(refunds::fail(tx, scope, refund_id, &failed.note))
        })
        .await
}
