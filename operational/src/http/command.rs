use aws_lc_rs::digest;
use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::StatusCode,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

use super::{Answer, Caller, Failure};
use crate::{
    Database, OperationalError, Scope, WriteTransaction,
    database::{ATTEMPTS, Micros, sql},
};

/// How long a key is remembered.
const KEY_LIFE_MICROS: i64 = 7 * 24 * 3600 * 1_000_000;
const KEY_LENGTH_MAX: usize = 200;

/// A request that changes something: its body and, if the client gave one, its idempotency key.
#[derive(Debug)]
pub(crate) struct Command<T> {
    pub(crate) body: T,
    caller: Caller,
    key: Option<String>,
    /// Method, path and body: what "the same request" means. Their digest, because a body may say who a
    /// person is.
    request: String,
}

/// The body of a request that has nothing to say; it may also be left out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// A request whose body is bytes of whatever kind its headers say.
#[derive(Debug)]
pub(crate) struct Raw(pub(crate) Command<Bytes>);

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let caller = Caller::of(request.extensions())?;
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
                    })
                    .map(|key| caller.own(key))?,
            ),
        };
        let target = format!("{} {}", request.method(), request.uri());
        let body = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                OperationalError::TooLong
            } else {
                OperationalError::invalid("the request body could not be read")
            }
        })?;
        let request = digest_of(&target, &body);
        Ok(Self(Command { body, caller, key, request }))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Command<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let target = format!("{} {}", request.method(), request.uri().path());
        let Raw(Command { body: bytes, caller, key, .. }) =
            Raw::from_request(request, state).await?;
        let text = if bytes.is_empty() { b"{}".as_slice() } else { &bytes };
        let wrong = |error: serde_json::Error| {
            OperationalError::invalid(format!("the request body is not valid: {error}"))
        };
        let value: serde_json::Value = serde_json::from_slice(text).map_err(wrong)?;
        // A list of the fields' values would be taken for the fields otherwise.
        if !value.is_object() {
            return Err(OperationalError::invalid("the request body must be a JSON object").into());
        }
        let request = digest_of(&target, value.to_string().as_bytes());
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
        Ok(Self { body, caller, key, request })
    }
}

/// What a request is known by.
fn digest_of(target: &str, body: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(target.as_bytes());
    context.update(b"\n");
    context.update(body);
    BASE64.encode(context.finish())
}

impl<T> Command<T> {
    /// Without its key: for one whose body nothing may be kept of.
    pub(crate) fn without_key(self) -> Self {
        Self { key: None, ..self }
    }

    /// As if somebody else asked.
    pub(crate) fn on_behalf_of(self, caller: Caller) -> Self {
        Self { caller, ..self }
    }

    /// Does `act` in one transaction, together with the key and the answer that a repeated request gets.
    /// One that met another's rows, so that neither could go on, is undone and begun again: `act` must do
    /// nothing but through its transaction.
    ///
    /// # Errors
    /// Those of `act`; `Conflict` when the key was used for another request.
    pub(crate) async fn carry_out<R: Serialize + Send>(
        self,
        database: &Database,
        now: i64,
        status: StatusCode,
        act: impl for<'a> Fn(
            &'a mut WriteTransaction,
            Scope,
            &'a T,
        ) -> BoxFuture<'a, Result<R, OperationalError>>
        + Send
        + Sync,
    ) -> Result<Answer, Failure>
    where
        T: Sync,
    {
        let scope = self.caller.scope(now);
        for attempt in 1.. {
            let mut tx = database.begin(now).await?;
            if let Some(trace) = self.caller.trace {
                tx.set_traceparent(trace.to_string());
            }
            // The answer, and whether anything was done for it.
            let answer = async {
                if let Some(answer) = self.answered(&mut tx, scope).await? {
                    return Ok((answer, false));
                }
                let result = act(&mut tx, scope, &self.body).await?;
                let json = serde_json::to_string(&result)
                    .map_err(|source| OperationalError::Stored { what: "answer", source })?;
                let answer = Answer { status, json, repeated: false };
                self.remember(&mut tx, scope, &answer).await?;
                Ok((answer, true))
            };
            let done = match answer.await {
                Ok((answer, false)) => tx.rollback().await.map(|()| answer),
                answer => tx.end(answer.map(|(answer, _)| answer)).await,
            };
            match done {
                Err(OperationalError::Contended { .. }) if attempt < ATTEMPTS => {}
                done => return Ok(done?),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// What the same request was answered before. A transaction that carries it out just now is waited
    /// for.
    async fn answered(
        &self,
        tx: &mut WriteTransaction,
        scope: Scope,
    ) -> Result<Option<Answer>, OperationalError> {
        let Some(key) = &self.key else { return Ok(None) };
        // Whoever makes the row first keeps it to the end of its transaction.
        sql("insert into idempotency
                 (tenant_id, idempotency_key, request, http_status, response, created_at)
             values (?1, ?2, ?3, 0, '', ?4) on conflict (tenant_id, idempotency_key) do nothing")
        .bind(scope.tenant_id)
        .bind(key)
        .bind(&self.request)
        .bind(Micros(scope.now))
        .execute(tx)
        .await?;
        let (request, status, json): (String, i64, String) =
            sql("select request, http_status, response from idempotency
             where tenant_id = ?1 and idempotency_key = ?2")
            .bind(scope.tenant_id)
            .bind(key)
            .one(tx)
            .await?;
        if request != self.request {
            return Err(OperationalError::conflict(format!(
                "the Idempotency-Key \"{key}\" was used for another request"
            )));
        }
        // Only of this transaction: others end with an answer, or without the row.
        if status == 0 {
            return Ok(None);
        }
        let status =
            u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        Ok(Some(Answer { status: status.unwrap_or(StatusCode::OK), json, repeated: true }))
    }

    async fn remember(
        &self,
        tx: &mut WriteTransaction,
        scope: Scope,
        answer: &Answer,
    ) -> Result<(), OperationalError> {
        let Some(key) = &self.key else { return Ok(()) };
        if tx.is_time_to_forget(scope.now) {
            sql("delete from idempotency where created_at < ?1")
                .bind(Micros(scope.now - KEY_LIFE_MICROS))
                .execute(tx)
                .await?;
        }
        sql("update idempotency set http_status = ?3, response = ?4
             where tenant_id = ?1 and idempotency_key = ?2")
        .bind(scope.tenant_id)
        .bind(key)
        .bind(i64::from(answer.status.as_u16()))
        .bind(&answer.json)
        .execute(tx)
        .await?;
        Ok(())
    }
}
