//! Notifications over HTTP: what was told to whom, and whether it arrived.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, OpenApi, ToSchema};

use super::{Delivery, DeliveryState, NewNotification, Notification};
use crate::{
    Limit, OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, sql},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Nothing, Params},
};

/// A notification with its deliveries.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NotificationDetail {
    #[serde(flatten)]
    notification: Notification,
    /// One for each channel it goes by.
    deliveries: Vec<Delivery>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// Only what this person is told.
    person_id: Option<i64>,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[param(minimum = 0, maximum = 65535)]
    #[serde(default)]
    limit: Limit,
}

pub(super) fn router() -> Router<Services> {
    Router::new()
        .route("/notifications", routing::post(post).get(get_all))
        .route("/notifications/{id}", routing::get(get_one))
        .route("/notifications/deliveries/{id}/retry", routing::post(post_retry))
}

pub(super) fn openapi() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(post, get_all, get_one, post_retry))]
    struct Description;
    Description::openapi()
}

/// Tell something. The same `request_key` again gets what was told before.
#[utoipa::path(post, path = "/notifications", tag = "notifications", request_body = NewNotification,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Notification), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewNotification>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.support(), services.now(), StatusCode::CREATED, |tx, scope, new| {
            Box::pin(async move {
                let trace = tx.traceparent();
                super::write(tx, scope, new, trace.as_deref()).await
            })
        })
        .await
}

/// Notifications, by id; customers see what they are told themselves.
#[utoipa::path(get, path = "/notifications", tag = "notifications", params(Filter),
    responses((status = 200, body = List<Notification>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(filter): Params<Filter>,
) -> Result<Json<List<Notification>>, Failure> {
    let person_id = match (scope.only_person(), filter.person_id) {
        (Some(own), Some(other)) if own != other => {
            scope.check_person(other)?;
            Some(own)
        }
        (own, wanted) => own.or(wanted),
    };
    let items = sql("select * from notification
         where tenant_id = ?1 and notification_id > ?2 and (?3 is null or person_id = ?3)
         order by notification_id limit ?4")
    .bind(scope.tenant_id)
    .bind(filter.after_id)
    .bind(person_id)
    .bind(filter.limit.rows())
    .all(&mut *services.support().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// A notification with its deliveries.
#[utoipa::path(get, path = "/notifications/{id}", tag = "notifications", params(("id" = i64, Path)),
    responses((status = 200, body = NotificationDetail), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(id): Id,
) -> Result<Json<NotificationDetail>, Failure> {
    let mut on = services.support().read().await?;
    let notification: Notification = sql("select * from notification
         where notification_id = ?1 and tenant_id = ?2")
    .bind(id)
    .bind(scope.tenant_id)
    .first(&mut on)
    .await?
    .ok_or(OperationalError::not_found("notification", id))?;
    // What the staff is told is nobody's own.
    scope.check_owner(notification.person_id.unwrap_or_default(), "notification", id)?;
    let deliveries = sql("select * from notification_delivery
         where notification_id = ?1 order by delivery_id")
    .bind(id)
    .all(&mut on)
    .await?;
    Ok(Json(NotificationDetail { notification, deliveries }))
}

/// Try a delivery again that was given up.
#[utoipa::path(post, path = "/notifications/deliveries/{id}/retry", tag = "notifications",
    request_body = Option<Nothing>,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Delivery), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_retry(
    State(services): State<Services>,
    Id(id): Id,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.support(), services.now(), StatusCode::OK, move |tx, scope, _| {
            Box::pin(retry(tx, scope, id))
        })
        .await
}

async fn retry(
    tx: &mut WriteTransaction,
    scope: Scope,
    id: i64,
) -> Result<Delivery, OperationalError> {
    let delivery = find(tx, scope, id).await?;
    if delivery.state != DeliveryState::Failed {
        return Err(OperationalError::conflict(format!("delivery {id} was not given up")));
    }
    sql("update notification_delivery set state = 'pending', attempts = 0, next_at = ?2
         where delivery_id = ?1")
    .bind(id)
    .bind(Micros(scope.now))
    .execute(tx)
    .await?;
    tx.fill_outbox();
    let (state, next_at) = (DeliveryState::Pending, Micros(scope.now));
    Ok(Delivery { state, next_at, attempts: 0, ..delivery })
}

async fn find(on: &mut Connection, scope: Scope, id: i64) -> Result<Delivery, OperationalError> {
    sql("select * from notification_delivery where delivery_id = ?1 and tenant_id = ?2 for update")
        .bind(id)
        .bind(scope.tenant_id)
        .first(on)
        .await?
        .ok_or(OperationalError::not_found("delivery", id))
}
