//! OAuth 2: how programs get tokens (RFC 6749, with 7636, 7662, 7009, 8414, 9068, 9207 and what RFC 9700
//! makes of them).

mod authorize;
mod discovery;
mod page;
mod token;

use axum::{
    Json, Router,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Serialize, de::DeserializeOwned};
use utoipa::{OpenApi, ToSchema};

use super::{
    clients::{self, ClientRow},
    secrets,
};
use crate::{OperationalError, Services, database::Connection, http::Failure};

pub(crate) fn router() -> Router<Services> {
    Router::new().merge(authorize::router()).merge(token::router()).merge(discovery::router())
}

pub(crate) fn openapi() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(
        authorize::get,
        authorize::post_login,
        authorize::post_logout,
        token::post,
        token::post_revoke,
        token::post_introspect,
        discovery::get_configuration,
        discovery::get_authorization_server,
        discovery::get_jwks
    ))]
    struct Description;
    Description::openapi()
}

/// An error as RFC 6749, 5.2 has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Refusal {
    /// `invalid_request`, `invalid_client`, `invalid_grant`, `unauthorized_client`,
    /// `unsupported_grant_type` or `invalid_scope`.
    error: &'static str,
    /// For the one who writes the client.
    error_description: String,
}

#[derive(Debug)]
pub(crate) enum OAuthError {
    Refused(Refusal),
    Failed(OperationalError),
}

impl OAuthError {
    fn new(error: &'static str, description: impl Into<String>) -> Self {
        Self::Refused(Refusal { error, error_description: description.into() })
    }

    fn invalid_grant(description: &str) -> Self {
        Self::new("invalid_grant", description)
    }
}

impl From<OperationalError> for OAuthError {
    fn from(error: OperationalError) -> Self {
        Self::Failed(error)
    }
}

impl IntoResponse for OAuthError {
    fn into_response(self) -> Response {
        let refusal = match self {
            Self::Failed(error) => return Failure(error).into_response(),
            Self::Refused(refusal) => refusal,
        };
        let never_kept = [(header::CACHE_CONTROL, "no-store")];
        if refusal.error == "invalid_client" {
            let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"medlake\"")];
            return (StatusCode::UNAUTHORIZED, challenge, never_kept, Json(refusal))
                .into_response();
        }
        (StatusCode::BAD_REQUEST, never_kept, Json(refusal)).into_response()
    }
}

/// What a form says. A parameter that is there twice is refused (RFC 6749, 3.2).
fn form<T: DeserializeOwned>(body: &[u8]) -> Result<T, OAuthError> {
    let wrong = |what: String| OAuthError::new("invalid_request", what);
    let text = std::str::from_utf8(body).map_err(|_| wrong("the form is not text".to_owned()))?;
    // A form is written as what follows the question mark of an address.
    let address: Uri = format!("/?{text}")
        .parse()
        .map_err(|_| wrong("the form is not application/x-www-form-urlencoded".to_owned()))?;
    axum::extract::Query::<T>::try_from_uri(&address)
        .map(|form| form.0)
        .map_err(|rejection| wrong(rejection.body_text()))
}

/// The client that asks, by its secret in the header or in the form; a public one by its name alone.
async fn client_of(
    on: &mut Connection,
    headers: &HeaderMap,
    client_id: Option<&str>,
    client_secret: Option<&str>,
) -> Result<ClientRow, OAuthError> {
    let wrong =
        || OAuthError::new("invalid_client", "the client is not known, or not by this secret");
    let (client_key, secret) = match headers.get(header::AUTHORIZATION) {
        None => (client_id.ok_or_else(wrong)?.to_owned(), client_secret.map(str::to_owned)),
        Some(_) if client_secret.is_some() => {
            return Err(OAuthError::new("invalid_request", "two ways to show who asks"));
        }
        Some(value) => {
            basic(value.as_bytes()).map(|(key, secret)| (key, Some(secret))).ok_or_else(wrong)?
        }
    };
    if client_id.is_some_and(|named| named != client_key) {
        return Err(OAuthError::new("invalid_request", "client_id is not the one of the header"));
    }
    let client = clients::by_key(on, &client_key).await?.ok_or_else(wrong)?;
    let good = match (&client.secret_hash, &secret) {
        (Some(hash), Some(secret)) => secrets::are_equal(hash, &secrets::hash(secret)),
        (None, None) => true,
        _ => false,
    };
    if good { Ok(client) } else { Err(wrong()) }
}

/// Name and secret of a `Basic` header. Ours have no characters that a form would write otherwise.
fn basic(value: &[u8]) -> Option<(String, String)> {
    let (scheme, credentials) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(credentials.trim_ascii()).ok()?).ok()?;
    let (name, secret) = decoded.split_once(':')?;
    Some((name.to_owned(), secret.to_owned()))
}
