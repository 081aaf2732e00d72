//! What the browser loads, and what it draws: both compiled into the binary.

use axum::{
    Router,
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use rust_embed::{Embed, EmbeddedFile};

/// The screen as `npm run build` leaves it.
#[derive(Embed)]
#[folder = "dashboards/screen/dist"]
struct Screen;

/// Dashboard definitions, one YAML file each.
#[derive(Embed)]
#[folder = "dashboards/definitions"]
#[include = "*.yaml"]
struct Definitions;

/// Serves the screen at `/`, and the page of the operator at `/operator`.
pub(crate) fn router() -> Router {
    Router::new()
        .route("/", get(|| async { file("index.html") }))
        .route("/operator", get(|| async { file("operator.html") }))
        .route("/{*path}", get(|Path(path): Path<String>| async move { file(&path) }))
}

fn file(path: &str) -> Response {
    match Screen::get(path) {
        Some(EmbeddedFile { data, metadata }) => {
            // Built assets carry a hash of their content in their name; the page itself does not.
            let cache = if path.starts_with("assets/") {
                "public, max-age=31536000, immutable"
            } else {
                "no-cache"
            };
            let kind = metadata.mimetype().to_owned();
            ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, cache.to_owned())], data)
                .into_response()
        }
        None => (
            StatusCode::NOT_FOUND,
            "there is nothing here; the screen is at /, the operator's page at /operator",
        )
            .into_response(),
    }
}

/// The dashboard definitions, as (file name, YAML).
pub(crate) fn definitions() -> impl Iterator<Item = (String, String)> {
    Definitions::iter().filter_map(|name| {
        let file = Definitions::get(&name)?;
        Some((name.into_owned(), String::from_utf8_lossy(&file.data).into_owned()))
    })
}
