use utoipa::OpenApi;

use super::{dashboards, ingest, metrics, operations, sql};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Medlake query server",
        description = "SQL, metrics and dashboards over the lake. Every answer is from one view; every answer that is not a success has a body {\"error\": {...}}."
    ),
    paths(
        sql::run,
        metrics::describe,
        metrics::query,
        dashboards::list,
        dashboards::definition,
        dashboards::data,
        dashboards::events,
        ingest::status,
        operations::health,
        operations::numbers,
    )
)]
struct Document;

/// The description of the HTTP doors.
pub(super) fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}
