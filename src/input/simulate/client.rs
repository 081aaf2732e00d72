use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Context;
use reqwest::{StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    sync::{Mutex, Semaphore},
    time::Instant,
};

use crate::config::ClientCredentials;

/// Requests at once.
const REQUESTS_MAX: usize = 64;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const BACK_OFF_FIRST: Duration = Duration::from_millis(50);
const BACK_OFF_MOST: Duration = Duration::from_secs(5);

/// Speaks to the services. A request that finds them away or busy is repeated until they answer.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    permits: Semaphore,
    /// Of services that want tokens.
    access: Option<Access>,
    /// Whether the last attempt found nobody, so that it is logged once.
    away: AtomicBool,
}

/// An answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
}

impl Refused {
    /// The state of things forbids it: somebody else was faster, or it was done before.
    pub(super) fn is_conflict(&self) -> bool {
        self.status == StatusCode::CONFLICT.as_u16()
    }

    /// A pharmacy has too little of something that is counted.
    pub(super) fn is_out_of_stock(&self) -> bool {
        self.is_conflict() && self.message.contains("units left of variant")
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND.as_u16()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.code, self.message)
    }
}

impl std::error::Error for Refused {}

#[derive(Debug, Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Debug, Deserialize)]
struct ErrorDetail {
    code: String,
    message: String,
}

impl Client {
    pub(super) fn new(base: &str, access: Option<ClientCredentials>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            // The services are named by the configuration; a proxy of the machine is not asked.
            .no_proxy()
            .timeout(REQUEST_TIMEOUT)
            .build()
            .context("could not make an HTTP client")?;
        let base = base.trim_end_matches('/').to_owned();
        reqwest::Url::parse(&base).with_context(|| format!("\"{base}\" is not an address"))?;
        let permits = Semaphore::new(REQUESTS_MAX);
        let access = access.map(|credentials| Access { credentials, token: Mutex::default() });
        Ok(Self { http, base, permits, access, away: AtomicBool::new(false) })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, Refused> {
        self.send(|| self.http.get(format!("{}{path}", self.base))).await
    }

    /// `key` makes a repeated request harmless: the same key must always go with the same body.
    pub(super) async fn post(&self, path: &str, key: &str, body: &Value) -> Result<Value, Refused> {
        self.send(|| {
            self.http.post(format!("{}{path}", self.base)).header("idempotency-key", key).json(body)
        })
        .await
    }

    /// A payment channel's notification, sent at `sent` (seconds since 1970, UTC).
    pub(super) async fn notify(
        &self,
        path: &str,
        sent: i64,
        signature: &str,
        body: &str,
    ) -> Result<Value, Refused> {
        self.send(|| {
            self.http
                .post(format!("{}{path}", self.base))
                .header("payment-timestamp", sent)
                .header("payment-signature", signature)
                .header("content-type", "application/json")
                .body(body.to_owned())
        })
        .await
    }

    async fn send(&self, request: impl Fn() -> reqwest::RequestBuilder) -> Result<Value, Refused> {
        let mut back_off = BACK_OFF_FIRST;
        let mut renewed = false;
        loop {
            match self.attempt(request()).await {
                Ok((status, body)) if status.is_success() => {
                    self.note(false);
                    return serde_json::from_slice(&body).map_err(|error| Refused {
                        status: status.as_u16(),
                        code: "unreadable".to_owned(),
                        message: error.to_string(),
                    });
                }
                // The token was revoked, or the clock of the services is another.
                Ok((StatusCode::UNAUTHORIZED, _)) if !renewed && self.forget_token().await => {
                    renewed = true;
                    continue;
                }
                Ok((StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS, _)) => {}
                Ok((status, body)) => {
                    let detail = serde_json::from_slice::<ErrorBody>(&body).map(|b| b.error);
                    let (code, message) = detail.map_or_else(
                        |_| ("unreadable".to_owned(), String::from_utf8_lossy(&body).into_owned()),
                        |detail| (detail.code, detail.message),
                    );
                    return Err(Refused { status: status.as_u16(), code, message });
                }
                Err(error) => {
                    if self.note(true) {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "the services do not answer; trying again"
                        );
                    }
                }
            }
            tokio::time::sleep(back_off).await;
            back_off = (back_off * 2).min(BACK_OFF_MOST);
        }
    }

    async fn attempt(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<(StatusCode, Vec<u8>), reqwest::Error> {
        let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
        let request = match &self.access {
            None => request,
            Some(access) => match access.token(&self.http, &self.base).await? {
                Ok(token) => request.bearer_auth(token),
                Err(refused) => return Ok(refused),
            },
        };
        let answer = request.send().await?;
        Ok((answer.status(), answer.bytes().await?.to_vec()))
    }

    /// Whether there was a token to forget.
    async fn forget_token(&self) -> bool {
        match &self.access {
            Some(access) => access.token.lock().await.take().is_some(),
            None => false,
        }
    }

    /// Notes whether the services are away; whether that is news.
    fn note(&self, away: bool) -> bool {
        // Relaxed: it only keeps a log short.
        let news = self.away.swap(away, Ordering::Relaxed) != away;
        if news && !away {
            tracing::info!("the services answer again");
        }
        news
    }
}

/// A program's access by its secret (OAuth 2, RFC 6749, 4.4).
#[derive(Debug)]
struct Access {
    credentials: ClientCredentials,
    token: Mutex<Option<Token>>,
}

struct Token {
    text: String,
    renew_at: Instant,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

impl Access {
    /// A token that is good for a while yet, or the answer that there is none.
    async fn token(
        &self,
        http: &reqwest::Client,
        base: &str,
    ) -> Result<Result<String, (StatusCode, Vec<u8>)>, reqwest::Error> {
        // Held over the request: those who come meanwhile want the same token.
        let mut token = self.token.lock().await;
        if let Some(known) = token.as_ref().filter(|token| token.renew_at > Instant::now()) {
            return Ok(Ok(known.text.clone()));
        }
        let ClientCredentials { client_id, client_secret } = &self.credentials;
        let asked = Instant::now();
        let answer = http
            .post(format!("{base}/oauth2/token"))
            .basic_auth(client_id, Some(client_secret.reveal()))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body("grant_type=client_credentials")
            .send()
            .await?;
        let (status, body) = (answer.status(), answer.bytes().await?.to_vec());
        match serde_json::from_slice::<Granted>(&body) {
            Ok(granted) if status.is_success() => {
                let good_for = Duration::from_secs(granted.expires_in) * 3 / 4;
                let text = granted.access_token;
                *token = Some(Token { text: text.clone(), renew_at: asked + good_for });
                Ok(Ok(text))
            }
            _ => Ok(Err((status, body))),
        }
    }
}
