use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
    http::header,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures::StreamExt;
use medlake_semantic_layer::Label;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;
use crate::{
    answer::{AnswerColumn, ViewInfo},
    dashboard::definition::Dashboard,
    server::Shared,
};

/// A dashboard in the list of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct DashboardEntry {
    /// Its name in addresses.
    pub id: String,
    /// Its title.
    pub title: Label,
}

/// All tiles of a dashboard, or those that changed. All of them are from the one view named.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct DashboardData {
    /// Which dashboard.
    pub dashboard: String,
    /// The cut all tiles are from.
    pub view: ViewInfo,
    /// What each tile shows, by its name: `columns` and `rows`, or `error`.
    pub tiles: BTreeMap<String, TileData>,
}

/// What one tile shows.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct TileData {
    /// The columns, in order.
    pub columns: Option<Vec<AnswerColumn>>,
    /// The rows; a value for each column.
    #[schema(value_type = Option<Vec<Vec<Object>>>)]
    pub rows: Option<Vec<Vec<serde_json::Value>>>,
    /// Why there are none.
    pub error: Option<super::error::ErrorInfo>,
}

/// All dashboards.
#[utoipa::path(
    get, path = "/api/v1/dashboards", tag = "dashboards",
    responses((status = 200, body = Vec<DashboardEntry>))
)]
pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Json<Vec<DashboardEntry>> {
    let entries = shared.live.definitions();
    Json(entries.map(|d| DashboardEntry { id: d.id.clone(), title: d.title.clone() }).collect())
}

/// A dashboard's definition.
#[utoipa::path(
    get, path = "/api/v1/dashboards/{id}", tag = "dashboards",
    params(("id" = String, Path, description = "its name")),
    responses(
        (status = 200, body = Dashboard),
        (status = 404, description = "there is none", body = super::error::ErrorBody),
    )
)]
pub(super) async fn definition(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Json<Dashboard>, ApiError> {
    Ok(Json(shared.live.definition(&id)?.clone()))
}

/// What all tiles of a dashboard show now.
#[utoipa::path(
    get, path = "/api/v1/dashboards/{id}/data", tag = "dashboards",
    params(("id" = String, Path, description = "its name")),
    responses(
        (status = 200, body = DashboardData),
        (status = 404, description = "there is none", body = super::error::ErrorBody),
    )
)]
pub(super) async fn data(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let json = Box::pin(shared.live.data(&id)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// What the tiles of a dashboard show, all of them first and then those that change, as
/// server-sent events named `data`, each a `DashboardData`. A comment keeps a silent stream open.
#[utoipa::path(
    get, path = "/api/v1/dashboards/{id}/events", tag = "dashboards",
    params(("id" = String, Path, description = "its name")),
    responses(
        (status = 200, content_type = "text/event-stream", body = DashboardData),
        (status = 404, description = "there is none", body = super::error::ErrorBody),
    )
)]
pub(super) async fn events(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    let events = shared.live.watch(&id)?.map(|(version, json)| {
        Ok::<_, Infallible>(Event::default().event("data").id(version.to_string()).data(json))
    });
    let alive = KeepAlive::new().interval(shared.heartbeat).text("still here");
    // Proxies hold streams back unless told.
    Ok(([("x-accel-buffering", "no")], Sse::new(events).keep_alive(alive)))
}
