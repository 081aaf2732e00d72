//! The HTTP doors.

mod dashboards;
pub(crate) mod error;
pub(crate) mod ingest;
mod metrics;
mod openapi;
mod operations;
mod sql;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::rejection::BytesRejection,
    response::IntoResponse,
    routing::{any, get, post},
};
use serde::de::DeserializeOwned;
use tower_http::compression::{CompressionLayer, Predicate as _, predicate::DefaultPredicate};

use self::error::ApiError;
use crate::{error::QueryError, server::Shared};

/// All addresses of the HTTP doors.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/api/v1/sql", post(sql::run))
        .route("/api/v1/metrics", get(metrics::describe))
        .route("/api/v1/metrics/query", post(metrics::query))
        .route("/api/v1/ingest", get(ingest::status))
        .route("/api/v1/dashboards", get(dashboards::list))
        .route("/api/v1/dashboards/{id}", get(dashboards::definition))
        .route("/api/v1/dashboards/{id}/data", get(dashboards::data))
        .route("/api/v1/dashboards/{id}/events", get(dashboards::events))
        .route("/api/{*rest}", any(nothing_here))
        .route("/openapi.json", get(|| async { Json(openapi::document()) }))
        .route("/healthz", get(operations::health))
        .route("/metrics", get(operations::numbers))
        .method_not_allowed_fallback(wrong_method)
        // An event must reach the screen when it is sent, not when a block is full.
        .layer(CompressionLayer::new().compress_when(DefaultPredicate::new().and(not_events)))
        .with_state(shared)
}

fn not_events(
    _status: axum::http::StatusCode,
    _version: axum::http::Version,
    headers: &axum::http::HeaderMap,
    _extensions: &axum::http::Extensions,
) -> bool {
    headers
        .get(axum::http::header::CONTENT_TYPE)
        .is_none_or(|kind| !kind.as_bytes().starts_with(b"text/event-stream"))
}

async fn nothing_here(uri: axum::http::Uri) -> impl IntoResponse {
    ApiError(QueryError::NotFound { what: "address", name: uri.path().to_owned() })
}

async fn wrong_method(method: axum::http::Method, uri: axum::http::Uri) -> impl IntoResponse {
    let problem = format!("{method} is not possible on \"{}\"", uri.path());
    let error = ApiError(QueryError::Request { problem, detail: None });
    (axum::http::StatusCode::METHOD_NOT_ALLOWED, error.body())
}

/// Reads a JSON body; what is wrong with it is said in our own error form.
fn read_json<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, QueryError> {
    let body = body.map_err(|rejection| QueryError::Request {
        problem: "the body could not be read".into(),
        detail: Some(rejection.body_text().to_lowercase()),
    })?;
    serde_json::from_slice(&body).map_err(|error| QueryError::Request {
        problem: match error.classify() {
            serde_json::error::Category::Data => "the body is not of the form asked for".into(),
            _ => "the body is not JSON".into(),
        },
        detail: Some(error.to_string()),
    })
}
