use std::{sync::Arc, time::Instant};

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::header,
    response::{IntoResponse, Response},
};
use medlake_semantic_layer::{MetricQuery, ModelDescription, Now, compile};
use tokio_util::sync::CancellationToken;

use super::{error::ApiError, read_json};
use crate::{
    answer::{columns, write_answer},
    error::QueryError,
    server::Shared,
    statement::single_query,
    stream::Limits,
    telemetry::Door,
};

/// The metrics and dimensions there are.
#[utoipa::path(
    get, path = "/api/v1/metrics", tag = "metrics",
    responses((status = 200, body = ModelDescription))
)]
pub(super) async fn describe(State(shared): State<Arc<Shared>>) -> Json<ModelDescription> {
    Json(shared.model.describe())
}

/// Answers metrics by dimensions and time.
#[utoipa::path(
    post, path = "/api/v1/metrics/query", tag = "metrics", request_body = MetricQuery,
    responses(
        (status = 200, body = crate::answer::SqlAnswer),
        (status = 400, description = "the query does not fit the model", body = super::error::ErrorBody),
    )
)]
pub(super) async fn query(
    State(shared): State<Arc<Shared>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let result = Box::pin(answer(&shared, body, started)).await;
    shared.telemetry.count(Door::Metrics, result.as_ref().err(), started.elapsed());
    Ok(([(header::CONTENT_TYPE, "application/json")], result?).into_response())
}

async fn answer(
    shared: &Shared,
    body: Result<Bytes, BytesRejection>,
    started: Instant,
) -> Result<String, QueryError> {
    let query: MetricQuery = read_json(body)?;
    let now = Now::at_micros((shared.clock)());
    let compiled = compile(&shared.model, &query, &now).map_err(|all| QueryError::Metric {
        problems: all.iter().map(ToString::to_string).collect(),
    })?;
    let statement = single_query(shared.engine.read(&compiled.sql)?)?;
    let limits = Limits {
        timeout: Some(shared.engine.statement_timeout()),
        rows: Some(shared.json_row_limit),
        cancel: CancellationToken::new(),
    };
    let view = shared.engine.view();
    let session = shared.engine.default_session();
    let rows = shared.engine.query(&view, &session, statement, &limits).await?;
    let columns = columns(rows.schema(), None, &compiled.columns);
    write_answer(&columns, &rows.collect_rows().await?, &view, started, Some(&compiled.sql))
}
