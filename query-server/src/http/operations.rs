use std::{fmt::Write as _, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{answer::ViewInfo, server::Shared};

/// That the server is there, and how current it is.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    pub status: &'static str,
    /// The version of the server.
    pub version: &'static str,
    /// The view queries are answered from.
    pub view: ViewInfo,
    /// Seconds since the newest transaction in the view was committed at its source.
    pub freshness_seconds: Option<f64>,
    /// What the other parts of the process say of themselves.
    #[schema(value_type = Object)]
    pub parts: serde_json::Value,
}

/// Whether the server answers.
#[utoipa::path(
    get, path = "/healthz", tag = "operations", responses((status = 200, body = Health))
)]
pub(super) async fn health(State(shared): State<Arc<Shared>>) -> Json<Health> {
    let view = shared.engine.view();
    Json(Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        view: ViewInfo::of(&view),
        freshness_seconds: shared.freshness_seconds(&view),
        parts: shared.status.parts(),
    })
}

/// Numbers for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses((status = 200, content_type = "text/plain", body = String))
)]
pub(super) async fn numbers(State(shared): State<Arc<Shared>>) -> Response {
    let view = shared.engine.view();
    let mut text = shared.telemetry.text();
    let mut gauge = |name: &str, help: &str, value: &dyn std::fmt::Display| {
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
    };
    gauge("medlake_view_version", "The view queries are answered from.", &view.version());
    if let Some(seconds) = shared.freshness_seconds(&view) {
        let help = "Seconds since the newest transaction in the view was committed at its source.";
        gauge("medlake_view_freshness_seconds", help, &seconds);
    }
    let reserved = shared.engine.memory_reserved();
    gauge("medlake_query_memory_bytes", "Memory statements hold.", &reserved);
    let free = shared.engine.free_permits();
    gauge("medlake_query_permits_free", "Statements that could start at once.", &free);
    text.push_str(&shared.status.prometheus());
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
