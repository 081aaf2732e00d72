//! What all three services' HTTP interfaces share: how a request is read, how an answer or an error
//! is written, and how an idempotency key makes a repeated request harmless.

mod access;
mod answer;
mod caller;
mod command;
pub(crate) mod metrics;
mod read;
mod trace;

use axum::{Router, extract::State, http::StatusCode, middleware, routing::get};
use utoipa::OpenApi;

pub(crate) use answer::{Answer, ErrorBody, Failure};
pub(crate) use caller::Caller;
pub(crate) use command::{Command, Nothing, Raw};
pub(crate) use read::{Id, List, Params};
pub use read::{Limit, Page};

use crate::database::sql;
use crate::{
    Services, chronic_care, configuration, distribution, files, identity, mall, notification,
    outbox,
};

/// The description of every route of [`Services::router`](crate::Services::router).
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(
        info(
            title = "Medlake operational services",
            description = "The mall, the distribution programme and chronic care. Money is integer fen; \
                `_at` is microseconds since 1970 (UTC). A POST may carry an `Idempotency-Key`: the same \
                key and body get the same answer, another body is refused with 409."
        ),
        paths(health, ready, metrics::get),
        components(schemas(ErrorBody, Health, Limit, Readiness))
    )]
    struct Description;

    let mut description = Description::openapi();
    description.merge(mall::openapi());
    description.merge(distribution::openapi());
    description.merge(chronic_care::openapi());
    description.merge(identity::openapi());
    description.merge(configuration::openapi());
    description.merge(notification::openapi());
    description.merge(files::openapi());
    description.merge(outbox::api::openapi());
    description
}

pub(crate) fn router(services: &Services) -> Router {
    Router::new()
        .merge(mall::router())
        .merge(distribution::router())
        .merge(chronic_care::router())
        .merge(identity::router())
        .merge(configuration::router())
        .merge(notification::router())
        .merge(files::router())
        .merge(outbox::api::router())
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::get))
        .route("/openapi.json", get(|| async { axum::Json(openapi()) }))
        .fallback(|| async {
            Answer::error(StatusCode::NOT_FOUND, "not_found", "there is nothing at this address")
        })
        .method_not_allowed_fallback(|| async {
            Answer::error(
                StatusCode::METHOD_NOT_ALLOWED,
                "invalid",
                "this address does not answer this method",
            )
        })
        .layer(middleware::from_fn_with_state(services.clone(), access::guard))
        .with_state(services.clone())
}

/// How the services are.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
struct Health {
    /// `ok` when all databases answer.
    status: &'static str,
    /// Messages not yet delivered to the other services.
    outbox_pending: i64,
    /// Messages refused for good, waiting for a person.
    outbox_failed: i64,
}

#[utoipa::path(get, path = "/healthz", tag = "service",
    responses((status = 200, body = Health), (status = "default", body = ErrorBody)))]
async fn health(State(services): State<Services>) -> Result<axum::Json<Health>, Failure> {
    let (mut outbox_pending, mut outbox_failed) = (0, 0);
    for database in services.databases() {
        let (pending, failed): (i64, i64) =
            sql("select count(*) - count(failed_at), count(failed_at) from outbox")
                .one(&mut *database.read().await?)
                .await?;
        outbox_pending += pending;
        outbox_failed += failed;
    }
    Ok(axum::Json(Health { status: "ok", outbox_pending, outbox_failed }))
}

/// Whether the services can do their work.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
struct Readiness {
    /// `ready`, or `not_ready` when a database does not answer.
    status: &'static str,
    /// Each database.
    databases: Vec<DatabaseHealth>,
    /// What each consumer has not got.
    outbox: Vec<OutboxHealth>,
}

#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
struct DatabaseHealth {
    /// Its name.
    database: &'static str,
    /// Whether it answers.
    answers: bool,
}

#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
struct OutboxHealth {
    /// The service that wrote the messages.
    service: &'static str,
    /// Who has not got them.
    consumer: String,
    /// Messages on their way.
    pending: i64,
    /// Messages that were refused.
    refused: i64,
    /// How long the oldest waits, in seconds.
    lag_seconds: i64,
}

/// Whether each database answers, and how far the outboxes are behind.
#[utoipa::path(get, path = "/readyz", tag = "service",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness),
        (status = "default", body = ErrorBody)))]
async fn ready(State(services): State<Services>) -> (StatusCode, axum::Json<Readiness>) {
    let mut databases = Vec::new();
    for database in services.databases() {
        let asked = async { sql("select 1").value::<i64>(&mut *database.read().await?).await };
        databases.push(DatabaseHealth { database: database.name(), answers: asked.await.is_ok() });
    }
    let waiting = outbox::waiting(&services).await.unwrap_or_default();
    let outbox = waiting.into_iter().map(|waiting| OutboxHealth {
        service: waiting.service,
        consumer: waiting.consumer,
        pending: waiting.pending,
        refused: waiting.refused,
        lag_seconds: waiting.oldest_at.map_or(0, |at| (services.now() - at).max(0) / 1_000_000),
    });
    let good = databases.iter().all(|database| database.answers);
    let (status, word) = if good {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    };
    (status, axum::Json(Readiness { status: word, databases, outbox: outbox.collect() }))
}
