//! What others have to know to use the service: OpenID Connect Discovery 1.0, RFC 8414.

use axum::{Json, Router, extract::State, http::header, response::IntoResponse, routing};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    Services,
    http::{ErrorBody, Failure},
    identity::{
        keys::{self, Jwk},
        permissions::Permission,
    },
};

/// Where what is, and what is understood.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Configuration {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    revocation_endpoint: String,
    introspection_endpoint: String,
    jwks_uri: String,
    scopes_supported: Vec<&'static str>,
    response_types_supported: [&'static str; 1],
    response_modes_supported: [&'static str; 1],
    grant_types_supported: [&'static str; 3],
    subject_types_supported: [&'static str; 1],
    id_token_signing_alg_values_supported: [&'static str; 1],
    token_endpoint_auth_methods_supported: [&'static str; 3],
    revocation_endpoint_auth_methods_supported: [&'static str; 3],
    introspection_endpoint_auth_methods_supported: [&'static str; 2],
    code_challenge_methods_supported: [&'static str; 1],
    claims_supported: [&'static str; 9],
    authorization_response_iss_parameter_supported: bool,
    ui_locales_supported: [&'static str; 2],
}

/// The public halves of the keys that tokens are signed with (RFC 7517).
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JwkSet {
    keys: Vec<Jwk>,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/.well-known/openid-configuration", routing::get(get_configuration))
        .route("/.well-known/oauth-authorization-server", routing::get(get_authorization_server))
        .route("/.well-known/jwks.json", routing::get(get_jwks))
}

fn configuration(services: &Services) -> Configuration {
    let issuer = &services.options().issuer;
    let at = |path: &str| format!("{issuer}{path}");
    Configuration {
        issuer: issuer.clone(),
        authorization_endpoint: at("/oauth2/authorize"),
        token_endpoint: at("/oauth2/token"),
        revocation_endpoint: at("/oauth2/revoke"),
        introspection_endpoint: at("/oauth2/introspect"),
        jwks_uri: at("/.well-known/jwks.json"),
        scopes_supported: std::iter::once("openid")
            .chain(Permission::ALL.iter().map(|permission| permission.word()))
            .collect(),
        response_types_supported: ["code"],
        response_modes_supported: ["query"],
        grant_types_supported: ["authorization_code", "client_credentials", "refresh_token"],
        subject_types_supported: ["public"],
        id_token_signing_alg_values_supported: ["ES256"],
        token_endpoint_auth_methods_supported: [
            "client_secret_basic",
            "client_secret_post",
            "none",
        ],
        revocation_endpoint_auth_methods_supported: [
            "client_secret_basic",
            "client_secret_post",
            "none",
        ],
        introspection_endpoint_auth_methods_supported: [
            "client_secret_basic",
            "client_secret_post",
        ],
        code_challenge_methods_supported: ["S256"],
        claims_supported: [
            "iss",
            "sub",
            "aud",
            "exp",
            "iat",
            "jti",
            "client_id",
            "tenant_id",
            "scope",
        ],
        authorization_response_iss_parameter_supported: true,
        ui_locales_supported: ["zh-CN", "en"],
    }
}

/// What an OpenID Connect client has to know.
#[utoipa::path(get, path = "/.well-known/openid-configuration", tag = "oauth2",
    responses((status = 200, body = Configuration)))]
pub(crate) async fn get_configuration(State(services): State<Services>) -> Json<Configuration> {
    Json(configuration(&services))
}

/// What an OAuth 2 client has to know.
#[utoipa::path(get, path = "/.well-known/oauth-authorization-server", tag = "oauth2",
    responses((status = 200, body = Configuration)))]
pub(crate) async fn get_authorization_server(
    State(services): State<Services>,
) -> Json<Configuration> {
    Json(configuration(&services))
}

/// The keys that tokens are signed with: the one in use, the next and those of before.
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "oauth2",
    responses((status = 200, body = JwkSet), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_jwks(
    State(services): State<Services>,
) -> Result<impl IntoResponse, Failure> {
    let keys = keys::keys(&services).await?.published.clone();
    Ok(([(header::CACHE_CONTROL, "public, max-age=60")], Json(JwkSet { keys })))
}
