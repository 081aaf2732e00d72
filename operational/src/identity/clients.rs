//! Clients: programs that ask for tokens, for themselves or for somebody who signs in.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    permissions::{Permission, Permissions},
    secrets,
};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Nothing, Page, Params},
};

const REDIRECT_URIS_MAX: usize = 20;
const REDIRECT_URI_LENGTH_MAX: usize = 2_000;

words! {
    /// Whether a client may ask for tokens.
    pub enum ClientState {
        /// It may.
        Active = "active",
        /// It may not.
        Disabled = "disabled",
    }
}

record! {
    /// A client as it is stored.
    pub(crate) struct ClientRow in "client" {
        pub(crate) client_id: i64,
        pub(crate) tenant_id: i64,
        pub(crate) client_key: String,
        pub(crate) name: String,
        pub(crate) secret_hash: Option<String>,
        pub(crate) redirect_uris: String,
        pub(crate) permissions: String,
        pub(crate) state: ClientState,
        pub(crate) created_at: Micros,
        pub(crate) version: i64,
    }
}

impl ClientRow {
    /// The addresses it may be answered at, one a line.
    pub(crate) fn redirects(&self) -> impl Iterator<Item = &str> {
        self.redirect_uris.lines()
    }

    pub(crate) fn may(&self) -> Permissions {
        Permissions::known(&self.permissions)
    }
}

/// A client.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Client {
    /// Its number.
    pub client_id: i64,
    /// The tenant.
    pub tenant_id: i64,
    /// What it calls itself when it asks for tokens: the `client_id` of OAuth 2.
    pub client_key: String,
    /// Its name, which those who sign in see.
    pub name: String,
    /// Whether it keeps a secret, and may ask for tokens of its own.
    pub confidential: bool,
    /// Where those who signed in are sent; compared letter by letter.
    pub redirect_uris: Vec<String>,
    /// What its tokens may grant at most.
    pub permissions: Vec<Permission>,
    /// Whether it may ask for tokens.
    pub state: ClientState,
    /// When it was made, in microseconds since 1970 (UTC).
    pub created_at: Micros,
    /// Counts changes.
    pub version: i64,
}

impl From<ClientRow> for Client {
    fn from(row: ClientRow) -> Self {
        let may = row.may();
        Self {
            redirect_uris: row.redirects().map(str::to_owned).collect(),
            permissions: Permission::ALL.iter().copied().filter(|p| may.contains(*p)).collect(),
            client_id: row.client_id,
            tenant_id: row.tenant_id,
            client_key: row.client_key,
            name: row.name,
            confidential: row.secret_hash.is_some(),
            state: row.state,
            created_at: row.created_at,
            version: row.version,
        }
    }
}

/// A client to be made.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewClient {
    /// Its name, which those who sign in see.
    #[schema(max_length = 200)]
    pub name: String,
    /// Whether it can keep a secret: a server can, an app or a page cannot.
    pub confidential: bool,
    /// Where those who signed in are sent: `https`, `http` of the same machine, or an app's own scheme.
    #[serde(default)]
    #[schema(max_items = 20)]
    pub redirect_uris: Vec<String>,
    /// What its tokens may grant at most.
    pub permissions: Vec<Permission>,
}

/// A client with its secret, which is told only now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ToldClient {
    /// The client.
    #[serde(flatten)]
    pub client: Client,
    /// Its secret, if it keeps one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<String>,
}

/// Makes a client, with the hash of its secret if it is to keep one.
///
/// # Errors
/// `Invalid` for a name or an address that is none.
pub(crate) async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewClient,
    secret: &str,
) -> Result<Client, OperationalError> {
    if new.name.trim().is_empty() || new.name.chars().count() > 200 {
        return Err(OperationalError::invalid("name must have 1 to 200 characters"));
    }
    if new.redirect_uris.len() > REDIRECT_URIS_MAX {
        return Err(OperationalError::invalid("a client has at most 20 redirect_uris"));
    }
    for uri in &new.redirect_uris {
        check_redirect(uri)?;
    }
    if !new.confidential && new.redirect_uris.is_empty() {
        return Err(OperationalError::invalid("a client without a secret needs a redirect_uri"));
    }
    let row = ClientRow {
        client_id: tx.id::<ClientRow>(None).await?,
        tenant_id: scope.tenant_id,
        client_key: secrets::token()?,
        name: new.name.clone(),
        secret_hash: new.confidential.then(|| secrets::hash(secret)),
        redirect_uris: new.redirect_uris.join("\n"),
        permissions: new.permissions.iter().copied().collect::<Permissions>().to_string(),
        state: ClientState::Active,
        created_at: Micros(scope.now),
        version: 1,
    };
    insert_one(tx, &row).await?;
    Ok(row.into())
}

/// Gives the active client that is just like a new one another secret, if there is one.
pub(crate) async fn with_new_secret(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewClient,
    secret: &str,
) -> Result<Option<Client>, OperationalError> {
    let permissions: Permissions = new.permissions.iter().copied().collect();
    let row: Option<ClientRow> = sql("select * from client where tenant_id = ?1 and name = ?2
             and permissions = ?3 and redirect_uris = ?4 and state = 'active'
             and secret_hash is not null order by client_id limit 1 for update")
    .bind(scope.tenant_id)
    .bind(&new.name)
    .bind(permissions.to_string())
    .bind(new.redirect_uris.join("\n"))
    .first(tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(change_secret(tx, row, &secrets::hash(secret)).await?))
}

async fn change_secret(
    tx: &mut WriteTransaction,
    row: ClientRow,
    hash: &str,
) -> Result<Client, OperationalError> {
    sql("update client set secret_hash = ?2, version = version + 1 where client_id = ?1")
        .bind(row.client_id)
        .bind(hash)
        .execute(tx)
        .await?;
    Ok(ClientRow { version: row.version + 1, ..row }.into())
}

fn check_redirect(uri: &str) -> Result<(), OperationalError> {
    let wrong =
        |problem: &str| Err(OperationalError::invalid(format!("redirect_uri \"{uri}\" {problem}")));
    // Spaces and line ends would be taken away by a parser, and then it is another address.
    if uri.len() > REDIRECT_URI_LENGTH_MAX || uri.chars().any(|c| !c.is_ascii_graphic()) {
        return wrong("must be at most 2000 visible ASCII characters");
    }
    let Ok(url) = Url::parse(uri) else { return wrong("is not an absolute address") };
    if url.fragment().is_some() {
        return wrong("must not have a fragment");
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) => Ok(()),
        "http" => wrong("must be https, but for this machine"),
        // RFC 8252, 7.1: an app's own scheme is a domain name in reverse.
        scheme if scheme.contains('.') => Ok(()),
        _ => wrong("must be https, or a scheme with a dot"),
    }
}

/// The active client that calls itself so.
pub(crate) async fn by_key(
    on: &mut Connection,
    client_key: &str,
) -> Result<Option<ClientRow>, OperationalError> {
    sql("select * from client where client_key = ?1 and state = 'active'")
        .bind(client_key)
        .first(on)
        .await
}

async fn find(
    on: &mut Connection,
    scope: Scope,
    client_id: i64,
) -> Result<ClientRow, OperationalError> {
    sql("select * from client where client_id = ?1 and tenant_id = ?2 for update")
        .bind(client_id)
        .bind(scope.tenant_id)
        .first(on)
        .await?
        .ok_or(OperationalError::not_found("client", client_id))
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/identity/clients", routing::post(post).get(get_all))
        .route("/identity/clients/{id}/rotate-secret", routing::post(post_rotate))
        .route("/identity/clients/{id}/disable", routing::post(post_disable))
}

/// Make a client, with a secret that is told once.
#[utoipa::path(post, path = "/identity/clients", tag = "identity", request_body = NewClient,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = ToldClient), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewClient>,
) -> Result<Answer, Failure> {
    let secret = secrets::token()?;
    let confidential = command.body.confidential;
    let given = secret.clone();
    let answer = command
        .carry_out(
            services.identity(),
            services.now(),
            StatusCode::CREATED,
            move |tx, scope, new| {
                let secret = given.clone();
                Box::pin(async move { create(tx, scope, new, &secret).await })
            },
        )
        .await?;
    if !confidential {
        return Ok(answer);
    }
    Ok(answer.telling("client_secret", &secret)?)
}

/// Clients, by number.
#[utoipa::path(get, path = "/identity/clients", tag = "identity", params(Page),
    responses((status = 200, body = List<Client>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(page): Params<Page>,
) -> Result<Json<List<Client>>, Failure> {
    let rows: Vec<ClientRow> = sql("select * from client where tenant_id = ?1 and client_id > ?2
         order by client_id limit ?3")
    .bind(scope.tenant_id)
    .bind(page.after_id)
    .bind(page.limit.rows())
    .all(&mut *services.identity().read().await?)
    .await?;
    Ok(Json(List { items: rows.into_iter().map(Client::from).collect() }))
}

/// Give a client another secret; the one there was is good no more.
#[utoipa::path(post, path = "/identity/clients/{id}/rotate-secret", tag = "identity",
    request_body = Option<Nothing>,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = ToldClient), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_rotate(
    State(services): State<Services>,
    Id(id): Id,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    let secret = secrets::token()?;
    let hash = secrets::hash(&secret);
    let answer = command
        .carry_out(services.identity(), services.now(), StatusCode::OK, move |tx, scope, _| {
            let hash = hash.clone();
            Box::pin(async move {
                let row = find(tx, scope, id).await?;
                if row.secret_hash.is_none() {
                    return Err(OperationalError::conflict(format!("client {id} keeps no secret")));
                }
                change_secret(tx, row, &hash).await
            })
        })
        .await?;
    Ok(answer.telling("client_secret", &secret)?)
}

/// Let a client ask for no more tokens; those it has are renewed no more.
#[utoipa::path(post, path = "/identity/clients/{id}/disable", tag = "identity",
    request_body = Option<Nothing>,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Client), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_disable(
    State(services): State<Services>,
    Id(id): Id,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.identity(), services.now(), StatusCode::OK, move |tx, scope, _| {
            Box::pin(async move {
                let row = find(tx, scope, id).await?;
                sql("update client set state = 'disabled', version = version + 1
                     where client_id = ?1")
                .bind(id)
                .execute(tx)
                .await?;
                sql("update refresh_token set revoked_at = ?2
                     where client_id = ?1 and revoked_at is null")
                .bind(id)
                .bind(Micros(scope.now))
                .execute(tx)
                .await?;
                let (state, version) = (ClientState::Disabled, row.version + 1);
                Ok(Client::from(ClientRow { state, version, ..row }))
            })
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_absolute_encrypted_and_without_fragment() {
        for uri in [
            "https://shop.example/callback?a=b",
            "http://127.0.0.1:4000/callback",
            "http://localhost/",
            "com.example.app:/callback",
        ] {
            check_redirect(uri).unwrap();
        }
        for uri in [
            "/callback",
            "http://shop.example/",
            "https://shop.example/#x",
            "javascript:alert(1)",
            "data:text/html,x",
            "https://shop.example/\n",
            "https://shop.example/ x",
            "",
        ] {
            assert!(check_redirect(uri).is_err(), "{uri}");
        }
    }
}
