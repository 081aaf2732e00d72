//! Files over HTTP: bytes in, bytes out, and nothing a browser would run.

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing,
};
use serde::Deserialize;
use utoipa::{IntoParams, OpenApi};

use super::{BYTES_MAX, NewFile, StoredFile};
use crate::{
    Limit, Scope, Services,
    database::{Micros, sql},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Nothing, Params, Raw},
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    /// What the file is called.
    #[param(min_length = 1, max_length = 200)]
    name: String,
    /// Whose it is; a customer's are always their own.
    person_id: Option<i64>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// Only those of this person.
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
        .route(
            "/files",
            routing::post(post).layer(DefaultBodyLimit::max(BYTES_MAX + 1)).get(get_all),
        )
        .route("/files/{id}", routing::get(get_one))
        .route("/files/{id}/content", routing::get(get_content))
        .route("/files/{id}/delete", routing::post(post_delete))
}

pub(super) fn openapi() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(post, get_all, get_one, get_content, post_delete))]
    struct Description;
    Description::openapi()
}

/// Store a file: the body is its bytes, the content type what they are. The same bytes again make another
/// file that takes no more room.
#[utoipa::path(post, path = "/files", tag = "files",
    params(Named, ("Idempotency-Key" = Option<String>, Header)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = StoredFile), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    scope: Scope,
    Params(named): Params<Named>,
    headers: HeaderMap,
    Raw(command): Raw,
) -> Result<Answer, Failure> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    // Of `text/plain; charset=utf-8` the first part: all text is that.
    let content_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    let new = NewFile {
        person_id: named.person_id,
        name: named.name,
        content_type: content_type.trim().to_ascii_lowercase(),
    };
    super::store(&services, scope, new, command).await
}

/// Files, by id; customers see their own.
#[utoipa::path(get, path = "/files", tag = "files", params(Filter),
    responses((status = 200, body = List<StoredFile>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(filter): Params<Filter>,
) -> Result<Json<List<StoredFile>>, Failure> {
    if let Some(person_id) = filter.person_id {
        scope.check_person(person_id)?;
    }
    let items = sql("select * from stored_file
         where tenant_id = ?1 and file_id > ?2 and deleted_at is null
             and (?3 is null or person_id = ?3)
         order by file_id limit ?4")
    .bind(scope.tenant_id)
    .bind(filter.after_id)
    .bind(scope.only_person().or(filter.person_id))
    .bind(filter.limit.rows())
    .all(&mut *services.support().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// What a file is.
#[utoipa::path(get, path = "/files/{id}", tag = "files", params(("id" = i64, Path)),
    responses((status = 200, body = StoredFile), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(id): Id,
) -> Result<Json<StoredFile>, Failure> {
    Ok(Json(super::find(&mut *services.support().read().await?, scope, id).await?))
}

/// The bytes of a file, to be saved and not shown.
#[utoipa::path(get, path = "/files/{id}/content", tag = "files",
    params(("id" = i64, Path), ("If-None-Match" = Option<String>, Header)),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "as before"), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_content(
    State(services): State<Services>,
    scope: Scope,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let file = super::find(&mut *services.support().read().await?, scope, id).await?;
    let tag = format!("\"{}\"", file.sha256);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    if known.is_some_and(|tags| tags.split(',').any(|known| known.trim() == tag)) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let bytes = super::bytes_of(&services, &file).await?;
    // RFC 8187: everything but the plainest letters is written by its bytes.
    let name: String = file
        .name
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect();
    let mut answer = bytes.into_response();
    let set = answer.headers_mut();
    for (header, value) in [
        (header::CONTENT_TYPE, file.content_type.as_str()),
        (header::CONTENT_DISPOSITION, &format!("attachment; filename*=UTF-8''{name}")),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
        (header::CACHE_CONTROL, "private, max-age=0, must-revalidate"),
        (header::ETAG, &tag),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            set.insert(header, value);
        }
    }
    Ok(answer)
}

/// Delete a file. Its bytes go within the hour, unless another file has the same.
#[utoipa::path(post, path = "/files/{id}/delete", tag = "files", request_body = Option<Nothing>,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = StoredFile), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_delete(
    State(services): State<Services>,
    Id(id): Id,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.support(), services.now(), StatusCode::OK, move |tx, scope, _| {
            Box::pin(async move {
                let file = super::find(tx, scope, id).await?;
                let deleted_at = Some(Micros(scope.now));
                sql("update stored_file set deleted_at = ?2 where file_id = ?1")
                    .bind(id)
                    .bind(deleted_at)
                    .execute(tx)
                    .await?;
                Ok(StoredFile { deleted_at, ..file })
            })
        })
        .await
}
