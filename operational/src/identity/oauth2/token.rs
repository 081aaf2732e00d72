//! Tokens for codes, for secrets and for tokens of before; what a token is worth; and its end.

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing,
};
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use utoipa::ToSchema;

use super::{OAuthError, Refusal, client_of, form};
use crate::{
    Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql},
    http::ErrorBody,
    identity::{
        accounts,
        clients::ClientRow,
        permissions::Permissions,
        secrets,
        tokens::{self, LIFE_SECONDS, Subject},
    },
};

/// How long somebody who signed in once gets further tokens, whether they come back or not.
const FAMILY_MICROS: i64 = 30 * 24 * 3600 * 1_000_000;
/// How long a verifier may be (RFC 7636, 4.1).
const VERIFIER_LENGTH: std::ops::RangeInclusive<usize> = 43..=128;

record! {
    struct RefreshToken in "refresh_token" {
        refresh_token_id: i64,
        tenant_id: i64,
        family_id: String,
        token_hash: String,
        client_id: i64,
        session_id: i64,
        scope: String,
        created_at: Micros,
        expires_at: Micros,
        used_at: Option<Micros>,
        revoked_at: Option<Micros>,
    }
}

#[derive(Debug, FromRow)]
struct Code {
    client_id: i64,
    session_id: i64,
    redirect_uri: String,
    scope: String,
    code_challenge: String,
    nonce: Option<String>,
    expires_at: Micros,
    family_id: String,
    used_at: Option<Micros>,
}

/// Somebody whose session is still open.
#[derive(Debug, FromRow)]
struct SignedIn {
    tenant_id: i64,
    account_id: i64,
    person_id: i64,
    authenticated_at: Micros,
}

/// What a client sends for tokens.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct TokenRequest {
    /// `authorization_code`, `client_credentials` or `refresh_token`.
    grant_type: Option<String>,
    /// The code the client got.
    code: Option<String>,
    /// Where it got it.
    redirect_uri: Option<String>,
    /// What the code's challenge is the hash of.
    code_verifier: Option<String>,
    /// The token of before.
    refresh_token: Option<String>,
    /// What the token shall grant: no more than can be.
    scope: Option<String>,
    /// The client's name for itself, unless it is in the header.
    client_id: Option<String>,
    /// Its secret, if it keeps one and it is not in the header.
    client_secret: Option<String>,
}

/// Tokens (RFC 6749, 5.1).
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenAnswer {
    access_token: String,
    /// `Bearer`.
    token_type: &'static str,
    /// Seconds for which the token is good.
    expires_in: i64,
    /// What it grants.
    scope: String,
    /// Good once, for the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    /// Who signed in, for the client itself (OpenID Connect).
    #[serde(skip_serializing_if = "Option::is_none")]
    id_token: Option<String>,
}

/// A token in question.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct TokenForm {
    token: Option<String>,
    /// `access_token` or `refresh_token`; it is found without.
    #[serde(rename = "token_type_hint")]
    _hint: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
}

/// What a token is worth (RFC 7662).
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Introspection {
    /// Whether it is good.
    active: bool,
    /// What it grants.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    /// The client it was given to.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    /// Who acts.
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    /// Seconds since 1970 at which it is no longer good.
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<i64>,
    /// `Bearer`, for an access token.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'static str>,
}

/// Who signed in, for the client.
#[derive(Serialize)]
struct IdClaims<'a> {
    iss: &'a str,
    sub: String,
    aud: &'a str,
    exp: i64,
    iat: i64,
    auth_time: i64,
    tenant_id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/oauth2/token", routing::post(post))
        .route("/oauth2/revoke", routing::post(post_revoke))
        .route("/oauth2/introspect", routing::post(post_introspect))
}

/// Get tokens.
#[utoipa::path(post, path = "/oauth2/token", tag = "oauth2",
    request_body(content = TokenRequest, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = TokenAnswer), (status = 400, body = Refusal),
        (status = 401, body = Refusal), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, OAuthError> {
    let request: TokenRequest = form(&body)?;
    let mut on = services.identity().read().await?;
    let (id, secret) = (request.client_id.as_deref(), request.client_secret.as_deref());
    let client = client_of(&mut on, &headers, id, secret).await?;
    drop(on);
    let answer = match request.grant_type.as_deref() {
        Some("authorization_code") => by_code(&services, &client, &request).await?,
        Some("refresh_token") => by_refresh(&services, &client, &request).await?,
        Some("client_credentials") => by_credentials(&services, &client, &request).await?,
        None => return Err(OAuthError::new("invalid_request", "grant_type is missing")),
        Some(_) => {
            return Err(OAuthError::new("unsupported_grant_type", "there is no such grant_type"));
        }
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

async fn by_credentials(
    services: &Services,
    client: &ClientRow,
    request: &TokenRequest,
) -> Result<TokenAnswer, OAuthError> {
    if client.secret_hash.is_none() {
        let problem = "a client without a secret gets no tokens of its own";
        return Err(OAuthError::new("unauthorized_client", problem));
    }
    // A program buys nothing for itself.
    let may = client.may().and(Permissions::of_staff());
    let may = match request.scope.as_deref() {
        None => may,
        Some(words) => narrowed(words, may)?,
    };
    let subject = Subject::Client(client.client_id);
    let access_token =
        tokens::make(services, subject, &client.client_key, client.tenant_id, may).await?;
    Ok(TokenAnswer {
        access_token,
        token_type: "Bearer",
        expires_in: LIFE_SECONDS,
        scope: may.to_string(),
        refresh_token: None,
        id_token: None,
    })
}

/// What is asked for, which must not be more than can be.
fn narrowed(words: &str, may: Permissions) -> Result<Permissions, OAuthError> {
    let wrong = || OAuthError::new("invalid_scope", "scope asks for more than may be granted");
    let asked: Vec<&str> = words.split_ascii_whitespace().filter(|w| *w != "openid").collect();
    let asked = Permissions::parse(&asked.join(" ")).map_err(|_| wrong())?;
    if asked.and(may) == asked { Ok(asked) } else { Err(wrong()) }
}

async fn by_code(
    services: &Services,
    client: &ClientRow,
    request: &TokenRequest,
) -> Result<TokenAnswer, OAuthError> {
    let missing = |what: &str| OAuthError::new("invalid_request", format!("{what} is missing"));
    let code = request.code.as_deref().ok_or_else(|| missing("code"))?;
    let redirect_uri = request.redirect_uri.as_deref().ok_or_else(|| missing("redirect_uri"))?;
    let verifier = request.code_verifier.as_deref().ok_or_else(|| missing("code_verifier"))?;
    if !VERIFIER_LENGTH.contains(&verifier.len()) {
        return Err(OAuthError::new(
            "invalid_request",
            "code_verifier must have 43 to 128 characters",
        ));
    }
    let (now, code_hash) = (services.now(), secrets::hash(code));
    let mut tx = services.identity().begin(now).await?;
    let found: Option<Code> =
        sql("select client_id, session_id, redirect_uri, scope, code_challenge,
             nonce, expires_at, family_id, used_at
         from authorization_code where code_hash = ?1 for update")
        .bind(&code_hash)
        .first(&mut tx)
        .await?;
    let refused = || OAuthError::invalid_grant("the code is not good");
    let found = found.filter(|code| code.client_id == client.client_id).ok_or_else(refused)?;
    if found.used_at.is_some() {
        // Whoever comes second is not who came first, and nobody knows which of them stole it.
        revoke_family(&mut tx, now, &found.family_id).await?;
        tx.commit().await?;
        return Err(refused());
    }
    let challenge = secrets::hash(verifier);
    if found.expires_at.0 <= now
        || found.redirect_uri != redirect_uri
        || !secrets::are_equal(&challenge, &found.code_challenge)
    {
        return Err(refused());
    }
    let who = signed_in(&mut tx, found.session_id).await?.ok_or_else(refused)?;
    sql("update authorization_code set used_at = ?2 where code_hash = ?1")
        .bind(&code_hash)
        .bind(Micros(now))
        .execute(&mut tx)
        .await?;
    let refresh = RefreshToken {
        refresh_token_id: 0,
        tenant_id: who.tenant_id,
        family_id: found.family_id,
        token_hash: String::new(),
        client_id: client.client_id,
        session_id: found.session_id,
        scope: found.scope,
        created_at: Micros(now),
        expires_at: Micros(now + FAMILY_MICROS),
        used_at: None,
        revoked_at: None,
    };
    give(services, tx, client, &who, refresh, None, found.nonce.as_deref()).await
}

async fn by_refresh(
    services: &Services,
    client: &ClientRow,
    request: &TokenRequest,
) -> Result<TokenAnswer, OAuthError> {
    let Some(token) = request.refresh_token.as_deref() else {
        return Err(OAuthError::new("invalid_request", "refresh_token is missing"));
    };
    let now = services.now();
    let mut tx = services.identity().begin(now).await?;
    let refused = || OAuthError::invalid_grant("the refresh_token is not good");
    let found = refresh_token(&mut tx, token).await?;
    let found = found.filter(|found| found.client_id == client.client_id).ok_or_else(refused)?;
    if found.used_at.is_some() {
        revoke_family(&mut tx, now, &found.family_id).await?;
        tx.commit().await?;
        tracing::warn!(
            client = client.client_key,
            "a refresh token was used again; its family ends"
        );
        return Err(refused());
    }
    if found.revoked_at.is_some() || found.expires_at.0 <= now {
        return Err(refused());
    }
    let who = signed_in(&mut tx, found.session_id).await?.ok_or_else(refused)?;
    sql("update refresh_token set used_at = ?2 where refresh_token_id = ?1")
        .bind(found.refresh_token_id)
        .bind(Micros(now))
        .execute(&mut tx)
        .await?;
    let next = RefreshToken { created_at: Micros(now), ..found };
    give(services, tx, client, &who, next, request.scope.as_deref(), None).await
}

/// Gives tokens, and keeps what is to be known of the next refresh token.
async fn give(
    services: &Services,
    mut tx: WriteTransaction,
    client: &ClientRow,
    who: &SignedIn,
    refresh: RefreshToken,
    asked: Option<&str>,
    nonce: Option<&str>,
) -> Result<TokenAnswer, OAuthError> {
    let roles = accounts::permissions(&mut tx, who.account_id).await?;
    let may = Permissions::known(&refresh.scope).and(client.may()).and(roles);
    let may = match asked {
        None => may,
        Some(words) => narrowed(words, may)?,
    };
    let openid = refresh.scope.split_ascii_whitespace().any(|word| word == "openid");
    let now = refresh.created_at.0;
    let token = secrets::token()?;
    let refresh = RefreshToken {
        refresh_token_id: tx.id::<RefreshToken>(None).await?,
        token_hash: secrets::hash(&token),
        ..refresh
    };
    insert_one(&mut tx, &refresh).await?;
    sql("delete from refresh_token where expires_at < ?1")
        .bind(Micros(now - FAMILY_MICROS))
        .execute(&mut tx)
        .await?;
    tx.commit().await?;
    let subject = Subject::Person(who.person_id);
    let access_token =
        tokens::make(services, subject, &client.client_key, who.tenant_id, may).await?;
    let id_token = if openid {
        let claims = IdClaims {
            iss: &services.options().issuer,
            sub: subject.to_string(),
            aud: &client.client_key,
            exp: now / 1_000_000 + LIFE_SECONDS,
            iat: now / 1_000_000,
            auth_time: who.authenticated_at.0 / 1_000_000,
            tenant_id: who.tenant_id,
            nonce,
        };
        Some(tokens::sign(services, "JWT", &claims).await?)
    } else {
        None
    };
    Ok(TokenAnswer {
        access_token,
        token_type: "Bearer",
        expires_in: LIFE_SECONDS,
        scope: if openid { format!("openid {may}") } else { may.to_string() },
        refresh_token: Some(token),
        id_token,
    })
}

/// Who signed in with a session, if they have not signed out and the account may be used.
async fn signed_in(on: &mut Connection, session_id: i64) -> Result<Option<SignedIn>, OAuthError> {
    Ok(sql("select s.tenant_id, s.account_id, a.person_id, s.authenticated_at
         from session s join account a on a.account_id = s.account_id
         where s.session_id = ?1 and s.ended_at is null and a.state = 'active'")
    .bind(session_id)
    .first(on)
    .await?)
}

async fn refresh_token(
    on: &mut Connection,
    token: &str,
) -> Result<Option<RefreshToken>, OAuthError> {
    Ok(sql("select * from refresh_token where token_hash = ?1 for update")
        .bind(secrets::hash(token))
        .first(on)
        .await?)
}

async fn revoke_family(on: &mut Connection, now: i64, family_id: &str) -> Result<(), OAuthError> {
    sql("update refresh_token set revoked_at = ?2 where family_id = ?1 and revoked_at is null")
        .bind(family_id)
        .bind(Micros(now))
        .execute(on)
        .await?;
    Ok(())
}

/// End a token: an access token at once, a refresh token with all that came of the same sign-in.
#[utoipa::path(post, path = "/oauth2/revoke", tag = "oauth2",
    request_body(content = TokenForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, description = "it is good no more, if it was"),
        (status = 400, body = Refusal), (status = 401, body = Refusal),
        (status = "default", body = ErrorBody)))]
pub(crate) async fn post_revoke(
    State(services): State<Services>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, OAuthError> {
    let (client, token) = token_of(&services, &headers, &body).await?;
    let now = services.now();
    if let Some(claims) = tokens::read(&services, &token).await? {
        if claims.client_id == client.client_key {
            let mut tx = services.identity().begin(now).await?;
            tokens::revoke(&mut tx, now, &claims).await?;
            tx.commit().await?;
        }
        return Ok(StatusCode::OK);
    }
    let mut tx = services.identity().begin(now).await?;
    if let Some(found) = refresh_token(&mut tx, &token).await?
        && found.client_id == client.client_id
    {
        revoke_family(&mut tx, now, &found.family_id).await?;
    }
    tx.commit().await?;
    Ok(StatusCode::OK)
}

/// What a token is worth, for a client that keeps a secret.
#[utoipa::path(post, path = "/oauth2/introspect", tag = "oauth2",
    request_body(content = TokenForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = Introspection), (status = 400, body = Refusal),
        (status = 401, body = Refusal), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_introspect(
    State(services): State<Services>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Introspection>, OAuthError> {
    let (client, token) = token_of(&services, &headers, &body).await?;
    if client.secret_hash.is_none() {
        return Err(OAuthError::new("invalid_client", "only clients with a secret may ask"));
    }
    if let Some(claims) = tokens::read(&services, &token).await? {
        // Another tenant's token is nobody's here.
        if claims.tenant_id != client.tenant_id {
            return Ok(Json(Introspection::default()));
        }
        return Ok(Json(Introspection {
            active: true,
            scope: Some(claims.scope),
            client_id: Some(claims.client_id),
            sub: Some(claims.sub),
            aud: Some(claims.aud),
            iss: Some(claims.iss),
            exp: Some(claims.exp),
            iat: Some(claims.iat),
            tenant_id: Some(claims.tenant_id),
            token_type: Some("Bearer"),
        }));
    }
    let mut on = services.identity().read().await?;
    let found = refresh_token_now(&mut on, &token).await?;
    let good = found.filter(|found| {
        found.tenant_id == client.tenant_id
            && found.used_at.is_none()
            && found.revoked_at.is_none()
            && found.expires_at.0 > services.now()
    });
    let Some(found) = good else { return Ok(Json(Introspection::default())) };
    let Some(who) = signed_in(&mut on, found.session_id).await? else {
        return Ok(Json(Introspection::default()));
    };
    Ok(Json(Introspection {
        active: true,
        scope: Some(found.scope),
        sub: Some(Subject::Person(who.person_id).to_string()),
        iss: Some(services.options().issuer.clone()),
        exp: Some(found.expires_at.0 / 1_000_000),
        iat: Some(found.created_at.0 / 1_000_000),
        tenant_id: Some(found.tenant_id),
        ..Introspection::default()
    }))
}

async fn refresh_token_now(
    on: &mut Connection,
    token: &str,
) -> Result<Option<RefreshToken>, OAuthError> {
    Ok(sql("select * from refresh_token where token_hash = ?1")
        .bind(secrets::hash(token))
        .first(on)
        .await?)
}

async fn token_of(
    services: &Services,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<(ClientRow, String), OAuthError> {
    let form: TokenForm = form(body)?;
    let mut on = services.identity().read().await?;
    let (id, secret) = (form.client_id.as_deref(), form.client_secret.as_deref());
    let client = client_of(&mut on, headers, id, secret).await?;
    let token = form.token.ok_or_else(|| OAuthError::new("invalid_request", "token is missing"))?;
    Ok((client, token))
}
