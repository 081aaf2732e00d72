use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::StatusCode,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

use super::{Answer, Failure};
use crate::{Database, OperationalError, Scope, WriteTransaction};

/// How long a key is remembered.
const KEY_LIFE_MICROS: i64 = 7 * 24 * 3600 * 1_000_000;
const KEY_LENGTH_MAX: usize = 200;

/// A request that changes something: its body and, if the client gave one, its idempotency key.
#[derive(Debug)]
pub(crate) struct Command<T> {
    pub(crate) body: T,
    key: Option<String>,
    /// Method, path and body in one canonical text: what "the same request" means.
    request: String,
}

/// The body of a request that has nothing to say; it may also be left out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Command<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let key = match request.headers().get("idempotency-key") {
            None => None,
            Some(key) => Some(
                key.to_str()
                    .ok()
                    .filter(|k| !k.is_empty() && k.len() <= KEY_LENGTH_MAX)
                    .ok_or_else(|| {
                        OperationalError::invalid(format!(
                            "the Idempotency-Key must be 1 to {KEY_LENGTH_MAX} ASCII characters"
                        ))
                    })?
                    .to_owned(),
            ),
        };
        let target = format!("{} {}", request.method(), request.uri().path());
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                OperationalError::TooLong
            } else {
                OperationalError::invalid("the request body could not be read")
            }
        })?;
        let text = if bytes.is_empty() { b"{}".as_slice() } else { &bytes };
        let wrong = |error: serde_json::Error| {
            OperationalError::invalid(format!("the request body is not valid: {error}"))
        };
        let value: serde_json::Value = serde_json::from_slice(text).map_err(wrong)?;
        // A list of the fields' values would be taken for the fields otherwise.
        if !value.is_object() {
            return Err(OperationalError::invalid("the request body must be a JSON object").into());
        }
        let request = format!("{target}\n{value}");
        // From the text, not from the value: only so the error names line and column, and the
        // field they are in.
        let mut reader = serde_json::Deserializer::from_slice(text);
        let body = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let (field, error) = (error.path().to_string(), error.into_inner());
            match field.as_str() {
                "." => wrong(error),
                _ => OperationalError::invalid(format!("{field}: {error}")),
            }
        })?;
        Ok(Self { body, key, request })
    }
}

/// A command that is being carried out, or was before.
pub(crate) enum Begun {
    New(Pending),
    Before(Answer),
}

/// The open transaction of a command.
pub(crate) struct Pending {
    pub(crate) tx: WriteTransaction,
    pub(crate) scope: Scope,
    key: Option<String>,
    request: String,
}

/// Opens the transaction of `command`, unless its key says it was already carried out.
pub(crate) async fn begin<T>(
    database: &Database,
    now: i64,
    command: Command<T>,
) -> Result<(Begun, T), OperationalError> {
    let Command { body, key, request } = command;
    let scope = Scope::at(now);
    let mut tx = database.begin(now).await?;
    if let Some(key) = &key {
        let before: Option<(String, u16, String)> = sqlx::query_as(
            "select request, http_status, response from idempotency
             where tenant_id = ?1 and idempotency_key = ?2",
        )
        .bind(scope.tenant_id)
        .bind(key)
        .fetch_optional(&mut *tx)
        .await?;
        match before {
            Some((known, status, json)) if known == request => {
                tx.rollback().await?;
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
                return Ok((Begun::Before(Answer { status, json }), body));
            }
            Some(_) => {
                return Err(OperationalError::conflict(format!(
                    "the Idempotency-Key \"{key}\" was used for another request"
                )));
            }
            None => {}
        }
    }
    Ok((Begun::New(Pending { tx, scope, key, request }), body))
}

impl Pending {
    /// Commits what was done together with the answer to it.
    pub(crate) async fn finish(
        mut self,
        status: StatusCode,
        result: &impl Serialize,
    ) -> Result<Answer, OperationalError> {
        let json = serde_json::to_string(result)
            .map_err(|source| OperationalError::Stored { what: "answer", source })?;
        if let Some(key) = &self.key {
            sqlx::query("delete from idempotency where created_at < ?1")
                .bind(self.scope.now - KEY_LIFE_MICROS)
                .execute(&mut *self.tx)
                .await?;
            sqlx::query(
                "insert into idempotency
                 (tenant_id, idempotency_key, request, http_status, response, created_at)
                 values (?1, ?2, ?3, ?4, ?5, ?6)",
            )
            .bind(self.scope.tenant_id)
            .bind(key)
            .bind(&self.request)
            .bind(status.as_u16())
            .bind(&json)
            .bind(self.scope.now)
            .execute(&mut *self.tx)
            .await?;
        }
        self.tx.commit().await?;
        Ok(Answer { status, json })
    }
}
