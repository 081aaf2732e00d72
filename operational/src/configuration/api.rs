//! Settings over HTTP. Whoever goes by them asks with what they know already, and may wait for a change.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{FromRequestParts, Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, OpenApi, ToSchema};

use super::{ConfigurationSetting, SettingChange};
use crate::{
    OperationalError, Scope, Services,
    database::sql,
    http::{Answer, Command, ErrorBody, Failure, List, Page, Params},
};

/// The longest anybody waits for a change.
const WAIT_SECONDS_MAX: u64 = 30;
/// How often it is looked whether another process changed something.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A key in a path.
#[derive(Debug)]
pub(crate) struct Key(String);

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(key)) => Ok(Self(key)),
            Err(_) => Err(OperationalError::invalid("the key in the path is not text").into()),
        }
    }
}

/// What the asker knows, and how long they wait for more.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Since {
    /// How many changes the asker knows of; the answer has no settings when there were no more.
    since: Option<i64>,
    /// With `since`: how many seconds to wait for a change, up to 30.
    #[serde(default)]
    #[param(maximum = 30)]
    wait_seconds: u64,
}

/// Settings in force.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConfigurationSettings {
    /// How many changes there were: what to ask `since`.
    changes: i64,
    /// The settings.
    items: Vec<ConfigurationSetting>,
}

/// What a setting becomes.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSettingValue {
    /// The version this was decided on; 0 when it was never set.
    version: i64,
    /// The value, of the setting's kind.
    value: serde_json::Value,
}

/// Back to the default.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SettingReset {
    /// The version this was decided on.
    version: i64,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/configuration/settings", routing::get(get_all))
        .route("/configuration/settings/{key}", routing::get(get_one).put(put))
        .route("/configuration/settings/{key}/reset", routing::post(post_reset))
        .route("/configuration/settings/{key}/history", routing::get(get_history))
}

pub(crate) fn openapi() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(get_all, get_one, put, post_reset, get_history))]
    struct Description;
    Description::openapi()
}

/// All settings, or none when nothing changed since. `If-None-Match` with the `ETag` of before is answered with
/// 304 when nothing did.
#[utoipa::path(get, path = "/configuration/settings", tag = "configuration",
    params(Since, ("If-None-Match" = Option<String>, Header)),
    responses((status = 200, body = ConfigurationSettings), (status = 304, description = "as before"),
        (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(asked): Params<Since>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let changes = match asked.since {
        Some(since) => {
            if asked.wait_seconds > WAIT_SECONDS_MAX {
                let most = format!("wait_seconds must be at most {WAIT_SECONDS_MAX}");
                return Err(OperationalError::invalid(most).into());
            }
            let wait = Duration::from_secs(asked.wait_seconds);
            more_than(&services, scope.tenant_id, since, wait).await?
        }
        None => super::changes(&mut *services.support().read().await?, scope.tenant_id).await?,
    };
    let tag = format!("\"{}-{changes}\"", scope.tenant_id);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    if known.is_some_and(|tags| tags.split(',').any(|known| known.trim() == tag)) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let mut on = services.support().read().await?;
    let mut items = super::all(&mut on, scope.tenant_id).await?;
    if asked.since.is_some_and(|since| since >= changes) {
        items.clear();
    }
    let mut answer = Json(ConfigurationSettings { changes, items }).into_response();
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        answer.headers_mut().insert(header::ETAG, tag);
    }
    Ok(answer)
}

/// How many changes there were, once they are more than this or the wait is over.
async fn more_than(
    services: &Services,
    tenant_id: i64,
    since: i64,
    wait: Duration,
) -> Result<i64, OperationalError> {
    let end = tokio::time::Instant::now() + wait;
    loop {
        let last = super::changes(&mut *services.support().read().await?, tenant_id).await?;
        let now = tokio::time::Instant::now();
        if last > since || now >= end {
            return Ok(last);
        }
        tokio::time::sleep_until(end.min(now + LOOK_EVERY)).await;
    }
}

/// A setting.
#[utoipa::path(get, path = "/configuration/settings/{key}", tag = "configuration",
    params(("key" = String, Path)),
    responses((status = 200, body = ConfigurationSetting), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Key(key): Key,
) -> Result<Json<ConfigurationSetting>, Failure> {
    let mut on = services.support().read().await?;
    Ok(Json(super::find(&mut on, scope.tenant_id, &key).await?))
}

/// Set a value.
#[utoipa::path(put, path = "/configuration/settings/{key}", tag = "configuration",
    request_body = NewSettingValue,
    params(("key" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = ConfigurationSetting), (status = "default", body = ErrorBody)))]
pub(crate) async fn put(
    State(services): State<Services>,
    scope: Scope,
    Key(key): Key,
    command: Command<NewSettingValue>,
) -> Result<Answer, Failure> {
    let answer = command
        .carry_out(services.support(), services.now(), StatusCode::OK, move |tx, scope, new| {
            let key = key.clone();
            Box::pin(
                async move { super::change(tx, scope, &key, new.version, Some(&new.value)).await },
            )
        })
        .await;
    services.known_settings().forget(scope.tenant_id);
    answer
}

/// Go back to the default.
#[utoipa::path(post, path = "/configuration/settings/{key}/reset", tag = "configuration",
    request_body = SettingReset,
    params(("key" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = ConfigurationSetting), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_reset(
    State(services): State<Services>,
    scope: Scope,
    Key(key): Key,
    command: Command<SettingReset>,
) -> Result<Answer, Failure> {
    let answer = command
        .carry_out(services.support(), services.now(), StatusCode::OK, move |tx, scope, reset| {
            let key = key.clone();
            Box::pin(async move { super::change(tx, scope, &key, reset.version, None).await })
        })
        .await;
    services.known_settings().forget(scope.tenant_id);
    answer
}

/// How a setting changed, by version, which is what `after_id` goes by.
#[utoipa::path(get, path = "/configuration/settings/{key}/history", tag = "configuration",
    params(("key" = String, Path), Page),
    responses((status = 200, body = List<SettingChange>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_history(
    State(services): State<Services>,
    scope: Scope,
    Key(key): Key,
    Params(page): Params<Page>,
) -> Result<Json<List<SettingChange>>, Failure> {
    let key = super::declared(&key)?.key;
    let items = sql("select * from setting_change
         where tenant_id = ?1 and setting_key = ?2 and version > ?3 order by version limit ?4")
    .bind(scope.tenant_id)
    .bind(key)
    .bind(page.after_id)
    .bind(page.limit.rows())
    .all(&mut *services.support().read().await?)
    .await?;
    Ok(Json(List { items }))
}
