use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;
use crate::{error::QueryError, server::Shared};

/// How changes are taken in, by the process that answers.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct IngestStatus {
    /// The sources, by name.
    pub sources: Vec<SourceStatus>,
    /// What is read and not in files yet.
    pub memory: MemoryStatus,
    /// Cuts published since the process started.
    pub cuts: u64,
    /// From a cut handed out by the sources to its publication, the last one, in milliseconds.
    pub last_cut_ms: u64,
    /// Why the last commit to the lake was not made, if it was not.
    pub uncommitted: Option<String>,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SourceStatus {
    /// Its name; the namespace of its tables.
    pub name: String,
    /// `embedded`, `mysql` or `kafka`.
    pub kind: String,
    /// Why it cannot be read at the moment, if it cannot, and what to do.
    pub failing: Option<String>,
    /// Whether everything it had when it was last looked at is taken in.
    pub caught_up: bool,
    /// Row changes and copied rows taken in since the process started.
    pub rows: u64,
    /// Bytes taken in since the process started, as the source sent them.
    pub bytes: u64,
    /// Transactions taken in since the process started.
    pub transactions: u64,
    /// Row changes and copied rows a second, lately.
    pub rows_per_second: f64,
    /// Bytes a second, lately.
    pub bytes_per_second: f64,
    /// Changes or messages not taken in yet, where the source can tell.
    pub lag_rows: Option<u64>,
    /// Bytes of its log not taken in yet, where the source can tell.
    pub lag_bytes: Option<u64>,
    /// How long ago the newest transaction taken in was committed; 0 when everything is taken in.
    pub lag_seconds: Option<f64>,
}

/// Memory of what is on its way to files, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct MemoryStatus {
    /// What all of it together may take.
    pub limit_bytes: u64,
    /// Read ahead by the sources.
    pub read_ahead_bytes: u64,
    /// Staged, and not in files yet.
    pub staged_bytes: u64,
    /// Rows of it.
    pub staged_rows: u64,
}

/// How changes are taken in. The states of tables and what is in quarantine are tables of the lake:
/// `system.ingest` and `system.quarantine`.
#[utoipa::path(
    get, path = "/api/v1/ingest", tag = "operations",
    responses(
        (status = 200, body = IngestStatus),
        (status = 404, description = "this process takes in nothing: ask the one of the pipeline")
    )
)]
pub(super) async fn status(
    State(shared): State<Arc<Shared>>,
) -> Result<Json<IngestStatus>, ApiError> {
    let elsewhere =
        || ApiError(QueryError::NotFound { what: "pipeline", name: "in this process".into() });
    shared.status.ingest().map(Json).ok_or_else(elsewhere)
}
