//! Webhooks: addresses of a tenant that are told of its notifications by signed requests.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};

use super::bound_to_webhook;
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Nothing, Page, Params},
    identifiers::master_keys::random_key,
};

/// Webhooks whose secrets are wrapped anew in one transaction.
const REWRAP_BATCH: i64 = 200;

words! {
    /// Whether a webhook is used.
    pub enum WebhookState {
        /// It is.
        Active = "active",
        /// It is not.
        Disabled = "disabled",
    }
}

record! {
    pub(super) struct WebhookRow in "webhook" {
        pub(super) webhook_id: i64,
        pub(super) tenant_id: i64,
        pub(super) url: String,
        pub(super) state: WebhookState,
        pub(super) master_key_id: String,
        pub(super) wrapped_secret: Vec<u8>,
        pub(super) created_at: Micros,
    }
}

/// A webhook.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Webhook {
    /// Its id.
    pub webhook_id: i64,
    /// The tenant.
    pub tenant_id: i64,
    /// Where requests go.
    pub url: String,
    /// Whether it is used.
    pub state: WebhookState,
    /// When it was made, in microseconds since 1970 (UTC).
    pub created_at: Micros,
}

impl From<WebhookRow> for Webhook {
    fn from(row: WebhookRow) -> Self {
        Self {
            webhook_id: row.webhook_id,
            tenant_id: row.tenant_id,
            url: row.url,
            state: row.state,
            created_at: row.created_at,
        }
    }
}

/// A webhook to be made.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// Where requests go: `https`, or `http` where private addresses are allowed.
    #[schema(max_length = 2000)]
    pub url: String,
}

/// A webhook with its secret, which is told only now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ToldWebhook {
    /// The webhook.
    #[serde(flatten)]
    pub webhook: Webhook,
    /// What requests are signed with, 32 bytes in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// The webhooks of a tenant that are used.
pub(super) async fn active(
    on: &mut Connection,
    tenant_id: i64,
) -> Result<Vec<i64>, OperationalError> {
    let ids: Vec<(i64,)> = sql("select webhook_id from webhook
         where tenant_id = ?1 and state = 'active' order by webhook_id")
    .bind(tenant_id)
    .all(on)
    .await?;
    Ok(ids.into_iter().map(|(id,)| id).collect())
}

async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewWebhook,
    secret: &[u8; 32],
    private: bool,
) -> Result<Webhook, OperationalError> {
    let url = Url::parse(&new.url).ok().filter(|_| new.url.len() <= 2_000);
    let fits = url.as_ref().is_some_and(|url| {
        let scheme = url.scheme() == "https" || (private && url.scheme() == "http");
        scheme && url.host().is_some() && url.username().is_empty() && url.password().is_none()
    });
    if !fits {
        return Err(OperationalError::invalid(
            "url must be an https address without a user, of at most 2000 characters",
        ));
    }
    let webhook_id = tx.id::<WebhookRow>(None).await?;
    let (master_key_id, wrapped_secret) =
        tx.master_keys()?.wrap(&bound_to_webhook(webhook_id), secret)?;
    let row = WebhookRow {
        webhook_id,
        tenant_id: scope.tenant_id,
        url: new.url.clone(),
        state: WebhookState::Active,
        master_key_id,
        wrapped_secret,
        created_at: Micros(scope.now),
    };
    insert_one(tx, &row).await?;
    Ok(row.into())
}

/// Wraps the secrets that older master keys wrapped with the one in use; gives how many. They stay the
/// same.
///
/// # Errors
/// `Tampered` for one that does not open; `Key` when its master key is missing.
pub(crate) async fn rewrap(tx: &mut WriteTransaction) -> Result<u64, OperationalError> {
    let keys = tx.master_keys()?;
    let older: Vec<(i64, String, Vec<u8>)> =
        sql("select webhook_id, master_key_id, wrapped_secret from webhook
             where master_key_id <> ?1 order by webhook_id limit ?2 for update")
        .bind(keys.current())
        .bind(REWRAP_BATCH)
        .all(tx)
        .await?;
    let done = older.len() as u64;
    for (webhook_id, master_key_id, wrapped) in older {
        let (master_key_id, wrapped) =
            keys.rewrap(&master_key_id, &bound_to_webhook(webhook_id), &wrapped)?;
        sql("update webhook set master_key_id = ?2, wrapped_secret = ?3 where webhook_id = ?1")
            .bind(webhook_id)
            .bind(master_key_id)
            .bind(wrapped)
            .execute(tx)
            .await?;
    }
    Ok(done)
}

pub(super) fn router() -> Router<Services> {
    Router::new()
        .route("/notifications/webhooks", routing::post(post).get(get_all))
        .route("/notifications/webhooks/{id}/disable", routing::post(post_disable))
}

pub(super) fn openapi() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(post, get_all, post_disable))]
    struct Description;
    Description::openapi()
}

/// Make a webhook, with a secret that is told once.
#[utoipa::path(post, path = "/notifications/webhooks", tag = "notifications",
    request_body = NewWebhook, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = ToldWebhook), (status = "default", body = ErrorBody)))]
async fn post(
    State(services): State<Services>,
    command: Command<NewWebhook>,
) -> Result<Answer, Failure> {
    let secret = random_key()?;
    let private = services.options().private_webhooks;
    let answer = command
        .carry_out(
            services.support(),
            services.now(),
            StatusCode::CREATED,
            move |tx, scope, new| {
                Box::pin(async move { create(tx, scope, new, &secret, private).await })
            },
        )
        .await?;
    Ok(answer.telling("secret", &STANDARD.encode(secret))?)
}

/// Webhooks, by id.
#[utoipa::path(get, path = "/notifications/webhooks", tag = "notifications", params(Page),
    responses((status = 200, body = List<Webhook>), (status = "default", body = ErrorBody)))]
async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(page): Params<Page>,
) -> Result<Json<List<Webhook>>, Failure> {
    let rows: Vec<WebhookRow> = sql("select * from webhook
         where tenant_id = ?1 and webhook_id > ?2 order by webhook_id limit ?3")
    .bind(scope.tenant_id)
    .bind(page.after_id)
    .bind(page.limit.rows())
    .all(&mut *services.support().read().await?)
    .await?;
    Ok(Json(List { items: rows.into_iter().map(Webhook::from).collect() }))
}

/// Use a webhook no more; what is on its way there is given up.
#[utoipa::path(post, path = "/notifications/webhooks/{id}/disable", tag = "notifications",
    request_body = Option<Nothing>,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Webhook), (status = "default", body = ErrorBody)))]
async fn post_disable(
    State(services): State<Services>,
    Id(id): Id,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.support(), services.now(), StatusCode::OK, move |tx, scope, _| {
            Box::pin(async move {
                let row: WebhookRow = sql("select * from webhook
                     where webhook_id = ?1 and tenant_id = ?2 for update")
                .bind(id)
                .bind(scope.tenant_id)
                .first(tx)
                .await?
                .ok_or(OperationalError::not_found("webhook", id))?;
                sql("update webhook set state = 'disabled' where webhook_id = ?1")
                    .bind(id)
                    .execute(tx)
                    .await?;
                sql("update notification_delivery set state = 'failed', error = 'webhook disabled'
                     where webhook_id = ?1 and state = 'pending'")
                .bind(id)
                .execute(tx)
                .await?;
                Ok(Webhook::from(WebhookRow { state: WebhookState::Disabled, ..row }))
            })
        })
        .await
}
