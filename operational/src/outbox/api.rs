//! The messages that wait, for those who operate the services.

use axum::{
    Json, Router,
    extract::{FromRequestParts, Path, State},
    http::{StatusCode, request::Parts},
    routing,
};
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use utoipa::{IntoParams, OpenApi, ToSchema};

use crate::{
    Database, Limit, OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, Value, sql, words},
    http::{Answer, Command, ErrorBody, Failure, List, Nothing, Params},
};

words! {
    /// A service with an outbox.
    pub(crate) enum Source {
        /// The mall.
        Mall = "mall",
        /// The distribution programme.
        Distribution = "distribution",
        /// Chronic care.
        ChronicCare = "chronic_care",
        /// The identity service.
        Identity = "identity",
        /// Notifications, files and settings.
        Support = "support",
    }
}

impl Source {
    fn database(self, services: &Services) -> &Database {
        match self {
            Self::Mall => services.mall(),
            Self::Distribution => services.distribution(),
            Self::ChronicCare => services.chronic_care(),
            Self::Identity => services.identity(),
            Self::Support => services.support(),
        }
    }
}

/// A message that is not delivered.
#[derive(Debug, Serialize, FromRow, ToSchema)]
pub(crate) struct Waiting {
    /// Its number in the outbox.
    outbox_id: i64,
    /// The tenant it happened to.
    tenant_id: i64,
    /// Who has not got it.
    consumer: String,
    /// What it tells of.
    event_type: String,
    /// What it happened to.
    aggregate_key: String,
    /// When it was written, in microseconds since 1970 (UTC).
    created_at: Micros,
    /// When it was refused and set aside.
    failed_at: Option<Micros>,
    /// Why it was refused.
    error: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// The service that wrote them.
    #[param(inline)]
    service: Source,
    /// Only those set aside; all that are not delivered otherwise.
    #[serde(default)]
    refused: bool,
    /// Only rows with a higher number.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[param(minimum = 0, maximum = 65535)]
    #[serde(default)]
    limit: Limit,
}

/// A message in a path: the service that wrote it and its number there.
#[derive(Debug)]
pub(crate) struct Place(Source, i64);

impl<S: Send + Sync> FromRequestParts<S> for Place {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Ok(Path((service, id))) = Path::<(Source, i64)>::from_request_parts(parts, state).await
        else {
            return Err(OperationalError::invalid(
                "the path must name a service with an outbox and the number of a message",
            )
            .into());
        };
        Ok(Self(service, id))
    }
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/outbox/messages", routing::get(get_all))
        .route("/outbox/{service}/messages/{id}/retry", routing::post(post_retry))
        .route("/outbox/{service}/messages/{id}/dismiss", routing::post(post_dismiss))
}

pub(crate) fn openapi() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(get_all, post_retry, post_dismiss))]
    struct Description;
    Description::openapi()
}

/// Messages that are not delivered yet, or were refused.
#[utoipa::path(get, path = "/outbox/messages", tag = "service", params(Filter),
    responses((status = 200, body = List<Waiting>), (status = "default", body = ErrorBody)))]
async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(filter): Params<Filter>,
) -> Result<Json<List<Waiting>>, Failure> {
    let items = sql(
        "select outbox_id, tenant_id, consumer, event_type, aggregate_key, created_at, failed_at, error
         from outbox where tenant_id = ?1 and outbox_id > ?2 and (failed_at is not null or ?3 = 0)
         order by outbox_id limit ?4",
    )
    .bind(scope.tenant_id)
    .bind(filter.after_id)
    .bind(Value::Int(i64::from(filter.refused)))
    .bind(filter.limit.rows())
    .all(&mut *filter.service.database(&services).read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// Deliver a refused message again, now that its reason is gone.
#[utoipa::path(post, path = "/outbox/{service}/messages/{id}/retry", tag = "service",
    request_body = Option<Nothing>,
    params(("service" = inline(Source), Path), ("id" = i64, Path),
        ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Waiting), (status = "default", body = ErrorBody)))]
async fn post_retry(
    State(services): State<Services>,
    Place(service, id): Place,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    let database = service.database(&services);
    command
        .carry_out(database, services.now(), StatusCode::OK, move |tx, scope, _| {
            Box::pin(retry(tx, scope, id))
        })
        .await
}

async fn retry(
    tx: &mut WriteTransaction,
    scope: Scope,
    id: i64,
) -> Result<Waiting, OperationalError> {
    let waiting = refused(tx, scope, id).await?;
    sql("update outbox set failed_at = null, error = null where outbox_id = ?1")
        .bind(id)
        .execute(tx)
        .await?;
    tx.fill_outbox();
    Ok(Waiting { failed_at: None, error: None, ..waiting })
}

/// Give a refused message up: its consumer never gets it, and those behind it go on.
#[utoipa::path(post, path = "/outbox/{service}/messages/{id}/dismiss", tag = "service",
    request_body = Option<Nothing>,
    params(("service" = inline(Source), Path), ("id" = i64, Path),
        ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Waiting), (status = "default", body = ErrorBody)))]
async fn post_dismiss(
    State(services): State<Services>,
    Place(service, id): Place,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    let database = service.database(&services);
    command
        .carry_out(database, services.now(), StatusCode::OK, move |tx, scope, _| {
            Box::pin(dismiss(tx, scope, id))
        })
        .await
}

async fn dismiss(
    tx: &mut WriteTransaction,
    scope: Scope,
    id: i64,
) -> Result<Waiting, OperationalError> {
    let waiting = refused(tx, scope, id).await?;
    sql("delete from outbox where outbox_id = ?1").bind(id).execute(tx).await?;
    tx.fill_outbox();
    Ok(waiting)
}

async fn refused(on: &mut Connection, scope: Scope, id: i64) -> Result<Waiting, OperationalError> {
    let waiting: Waiting = sql(
        "select outbox_id, tenant_id, consumer, event_type, aggregate_key, created_at, failed_at, error
         from outbox where outbox_id = ?1 and tenant_id = ?2 for update",
    )
    .bind(id)
    .bind(scope.tenant_id)
    .first(on)
    .await?
    .ok_or(OperationalError::not_found("message", id))?;
    if waiting.failed_at.is_none() {
        return Err(OperationalError::conflict(format!("message {id} was not refused")));
    }
    Ok(waiting)
}
