//! Requests to a REST catalog: addresses, tokens, and what an answer means.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Url};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::config::{RestAuth, RestConfig, Secret};

/// How long a request may take. A server that writes large metadata to slow storage needs its time.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// Why a request was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestError {
    /// The server said no.
    #[error("the server answered {status}, {kind}: {message}")]
    Status { status: u16, kind: String, message: String },
    /// No answer, or none that could be read.
    #[error("no usable answer of the server")]
    Transport(#[source] reqwest::Error),
    /// An answer that is not what the protocol says.
    #[error("the server's answer is not what the protocol says: {problem}")]
    Protocol { problem: &'static str },
    /// The address cannot be used.
    #[error("the address cannot be used: {problem}")]
    Address { problem: String },
}

impl RestError {
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether what was asked for may have been done, or may still be.
    pub(crate) fn may_have_happened(&self) -> bool {
        match self {
            Self::Status { status, .. } => *status >= 500,
            Self::Transport(error) => !error.is_connect() && !error.is_builder(),
            Self::Protocol { .. } => true,
            Self::Address { .. } => false,
        }
    }

    /// Whether the same would be answered again.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Status { status, .. } => {
                (400..500).contains(status) && !matches!(status, 408 | 419 | 429)
            }
            Self::Address { .. } => true,
            Self::Transport(_) | Self::Protocol { .. } => false,
        }
    }
}

/// An address may hold a password; what failed is said without it.
fn transport(error: reqwest::Error) -> RestError {
    RestError::Transport(error.without_url())
}

pub(crate) struct Client {
    http: reqwest::Client,
    /// Ends with a slash.
    base: Url,
    auth: RestAuth,
    /// The token in use; fetched when there is none, or the server does not take it any more.
    token: Mutex<Option<Secret>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("host", &self.base.host_str()).finish_non_exhaustive()
    }
}

fn address(text: &str) -> Result<Url, RestError> {
    let text = format!("{}/", text.trim_end_matches('/'));
    Url::parse(&text).map_err(|e| RestError::Address { problem: e.to_string() })
}

impl Client {
    pub(crate) fn new(config: &RestConfig) -> Result<Self, RestError> {
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .connect_timeout(CONNECT_PATIENCE)
            // A redirected commit might be sent twice.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(transport)?;
        let base = address(config.uri.reveal())?;
        Ok(Self { http, base, auth: config.auth.clone(), token: Mutex::new(None) })
    }

    /// From now on another address is asked: the server said so.
    pub(crate) fn move_to(&mut self, uri: &str) -> Result<(), RestError> {
        self.base = address(uri)?;
        Ok(())
    }

    pub(crate) async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, RestError> {
        let mut url = self.url(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.answer(|| self.http.get(url.clone())).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Value, RestError> {
        let url = self.url(path)?;
        self.answer(|| self.http.request(method.clone(), url.clone()).json(body)).await
    }

    fn url(&self, path: &str) -> Result<Url, RestError> {
        self.base.join(path).map_err(|e| RestError::Address { problem: e.to_string() })
    }

    /// Sends a request; once more with another token when the first is not taken any more: then the
    /// server has done nothing yet.
    async fn answer(&self, request: impl Fn() -> RequestBuilder) -> Result<Value, RestError> {
        let token = self.token(None).await?;
        match read(authorized(request(), token.as_ref())).await {
            Err(error)
                if matches!(error.status(), Some(401 | 419))
                    && matches!(self.auth, RestAuth::OAuth2 { .. }) =>
            {
                let token = self.token(token.as_ref()).await?;
                read(authorized(request(), token.as_ref())).await
            }
            answer => answer,
        }
    }

    /// The token to send, if any is. Not `spent`: that one was refused.
    async fn token(&self, spent: Option<&Secret>) -> Result<Option<Secret>, RestError> {
        let RestAuth::OAuth2 { client_id, client_secret, server, scope } = &self.auth else {
            return Ok(match &self.auth {
                RestAuth::Token(token) => Some(token.clone()),
                RestAuth::None | RestAuth::OAuth2 { .. } => None,
            });
        };
        let mut token = self.token.lock().await;
        if let Some(token) = token.as_ref().filter(|t| Some(*t) != spent) {
            return Ok(Some(token.clone()));
        }
        let url = match server {
            Some(server) => {
                Url::parse(server).map_err(|e| RestError::Address { problem: e.to_string() })?
            }
            None => self.url("v1/oauth/tokens")?,
        };
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", client_id.as_str()),
            ("client_secret", client_secret.reveal()),
            ("scope", scope.as_str()),
        ];
        let told = read(self.http.post(url).form(&form)).await?;
        let fresh = told.get("access_token").and_then(Value::as_str);
        let fresh = fresh.ok_or(RestError::Protocol { problem: "a token without access_token" })?;
        *token = Some(Secret::new(fresh));
        Ok(token.clone())
    }
}

fn authorized(request: RequestBuilder, token: Option<&Secret>) -> RequestBuilder {
    match token {
        Some(token) => request.bearer_auth(token.reveal()),
        None => request,
    }
}

/// The body of a good answer, null when it is empty.
async fn read(request: RequestBuilder) -> Result<Value, RestError> {
    let answer = request.send().await.map_err(transport)?;
    let status = answer.status();
    let bytes = answer.bytes().await.map_err(transport)?;
    if status.is_success() {
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        return serde_json::from_slice(&bytes)
            .map_err(|_| RestError::Protocol { problem: "a body that is not JSON" });
    }
    let told: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let text = |keys: [&str; 2]| {
        let error = told.get("error").filter(|e| e.is_object()).unwrap_or(&told);
        let found = keys.iter().find_map(|key| error.get(key)?.as_str());
        found.unwrap_or_default().to_owned()
    };
    Err(RestError::Status {
        status: status.as_u16(),
        kind: text(["type", "error"]),
        message: text(["message", "error_description"]),
    })
}
