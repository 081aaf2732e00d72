//! The keys that access tokens are signed with: ECDSA over P-256 (ES256, RFC 7518, 3.4).
//!
//! Two are always published besides those that signed tokens still good: the one in use and the next, so
//! that whoever keeps a copy knows a key before the first token signed with it.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use axum::{Json, Router, extract::State, http::StatusCode, routing};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde::Serialize;
use utoipa::ToSchema;

use super::secrets;
use crate::{
    OperationalError, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, List, Nothing},
    identifiers::master_keys::{open, random_key, seal},
};

/// How long a key signs.
const IN_USE_MICROS: i64 = 30 * 24 * 3600 * 1_000_000;
/// How long one that signs no more is published: longer than any token is good.
const RETIRED_MICROS: i64 = 24 * 3600 * 1_000_000;
/// How long a process goes by the keys it has read.
const KNOWN_MICROS: i64 = 30 * 1_000_000;

words! {
    /// What a key is for.
    pub enum KeyState {
        /// It signs when the one in use retires.
        Next = "next",
        /// It signs.
        Current = "current",
        /// It signed tokens that may still be good.
        Retired = "retired",
    }
}

record! {
    struct KeyRow in "signing_key" {
        signing_key_id: i64,
        key_id: String,
        master_key_id: String,
        wrapped_key: Vec<u8>,
        private_key: Vec<u8>,
        x: String,
        y: String,
        created_at: Micros,
        state: KeyState,
        retired_at: Option<Micros>,
    }
}

/// A key as it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SigningKey {
    /// Its name in the header of tokens.
    key_id: String,
    /// What it is for.
    state: KeyState,
    /// When it was made, in microseconds since 1970 (UTC).
    created_at: Micros,
    /// When it signed last.
    retired_at: Option<Micros>,
}

/// The public half of a key, as RFC 7517 has it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Jwk {
    kty: &'static str,
    crv: &'static str,
    #[serde(rename = "use")]
    used_for: &'static str,
    alg: &'static str,
    kid: String,
    x: String,
    y: String,
}

/// The keys there are.
#[derive(Clone)]
pub(crate) struct Keys {
    /// The name of the one that signs.
    pub(crate) current: String,
    pub(crate) signs: EncodingKey,
    verify: HashMap<String, DecodingKey>,
    pub(crate) published: Vec<Jwk>,
    read_at: i64,
}

impl Keys {
    pub(crate) fn of_id(&self, key_id: &str) -> Option<&DecodingKey> {
        self.verify.get(key_id)
    }
}

/// The keys as they were read last.
#[derive(Default)]
pub(crate) struct KnownKeys(RwLock<Option<Arc<Keys>>>);

impl KnownKeys {
    fn get(&self) -> Option<Arc<Keys>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, keys: &Arc<Keys>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(keys));
    }
}

/// The keys, read again from time to time; made when there are none, and changed when it is time.
///
/// # Errors
/// What the database says; `Key` when the master key is missing.
pub(crate) async fn keys(services: &Services) -> Result<Arc<Keys>, OperationalError> {
    let now = services.now();
    let known = services.known_keys().get();
    if let Some(keys) = known.filter(|keys| (0..KNOWN_MICROS).contains(&(now - keys.read_at))) {
        return Ok(keys);
    }
    read(services, now).await
}

/// The key of this name. One that another process made in the meantime is found too.
///
/// # Errors
/// As [`keys`].
pub(crate) async fn of_id(
    services: &Services,
    key_id: &str,
) -> Result<Option<DecodingKey>, OperationalError> {
    let keys = keys(services).await?;
    if let Some(key) = keys.of_id(key_id) {
        return Ok(Some(key.clone()));
    }
    // Made-up names must not cost more than one look in a while.
    let now = services.now();
    if now - keys.read_at < 1_000_000 {
        return Ok(None);
    }
    Ok(read(services, now).await?.of_id(key_id).cloned())
}

async fn read(services: &Services, now: i64) -> Result<Arc<Keys>, OperationalError> {
    let mut rows = all(&mut *services.identity().read().await?).await?;
    if !is_in_order(&rows, now) {
        let mut tx = services.identity().begin(now).await?;
        keep_in_order(&mut tx, now, false).await?;
        rows = all(&mut tx).await?;
        tx.commit().await?;
    }
    let keys = Arc::new(of_rows(services, &rows, now)?);
    services.known_keys().set(&keys);
    Ok(keys)
}

async fn all(on: &mut Connection) -> Result<Vec<KeyRow>, OperationalError> {
    sql("select * from signing_key order by signing_key_id").all(on).await
}

fn is_in_order(rows: &[KeyRow], now: i64) -> bool {
    let of = |state| rows.iter().filter(move |row| row.state == state);
    let gone = |row: &KeyRow| row.retired_at.is_some_and(|at| at.0 + RETIRED_MICROS < now);
    of(KeyState::Next).count() == 1
        && of(KeyState::Current).count() == 1
        && of(KeyState::Current).all(|row| row.created_at.0 + IN_USE_MICROS >= now)
        && !rows.iter().any(gone)
}

/// Makes what is missing, and lets the next key sign when the one in use did for long enough or `change`
/// says so.
async fn keep_in_order(
    tx: &mut WriteTransaction,
    now: i64,
    change: bool,
) -> Result<(), OperationalError> {
    // One process after another.
    sql("select tenant_id from tenant where tenant_id = 1 for update").value::<i64>(tx).await?;
    let rows = all(tx).await?;
    let current = rows.iter().find(|row| row.state == KeyState::Current);
    let next = rows.iter().find(|row| row.state == KeyState::Next);
    // A key is as old as it was published; a month after the one before it began, it is its turn.
    let due = current.is_none_or(|row| change || row.created_at.0 + IN_USE_MICROS < now);
    if due {
        if let Some(current) = current {
            sql("update signing_key set state = 'retired', retired_at = ?2
                 where signing_key_id = ?1")
            .bind(current.signing_key_id)
            .bind(Micros(now))
            .execute(tx)
            .await?;
        }
        match next {
            Some(next) => {
                sql("update signing_key set state = 'current', created_at = ?2
                     where signing_key_id = ?1")
                .bind(next.signing_key_id)
                .bind(Micros(now))
                .execute(tx)
                .await?;
            }
            None => make(tx, now, KeyState::Current).await?,
        }
    }
    if due || next.is_none() {
        make(tx, now, KeyState::Next).await?;
    }
    sql("delete from signing_key where retired_at < ?1")
        .bind(Micros(now - RETIRED_MICROS))
        .execute(tx)
        .await?;
    Ok(())
}

async fn make(
    tx: &mut WriteTransaction,
    now: i64,
    state: KeyState,
) -> Result<(), OperationalError> {
    let failed = |_| OperationalError::Encryption;
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let private = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).map_err(failed)?;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, private.as_ref())
        .map_err(|_| OperationalError::Encryption)?;
    // SEC 1, 2.3.3: a byte that says "not compressed", then both coordinates.
    let point = pair.public_key().as_ref();
    let (x, y) = point
        .split_at_checked(1)
        .and_then(|(_, coordinates)| coordinates.split_at_checked(32))
        .ok_or(OperationalError::Encryption)?;
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let data_key = random_key()?;
    let key_id = secrets::hash(&format!("{x}.{y}"))[..16].to_owned();
    let (master_key_id, wrapped_key) = tx.master_keys()?.wrap(&bound(&key_id), &data_key)?;
    let row = KeyRow {
        signing_key_id: tx.id::<KeyRow>(None).await?,
        private_key: seal(&data_key, &bound(&key_id), private.as_ref())?,
        key_id,
        master_key_id,
        wrapped_key,
        x,
        y,
        created_at: Micros(now),
        state,
        retired_at: None,
    };
    insert_one(tx, &row).await
}

/// Wraps the keys of private keys that older master keys wrapped with the one in use; gives how many.
///
/// # Errors
/// `Tampered` for one that does not open; `Key` when its master key is missing.
pub(crate) async fn rewrap(tx: &mut WriteTransaction) -> Result<u64, OperationalError> {
    let keys = tx.master_keys()?;
    let older: Vec<(i64, String, String, Vec<u8>)> =
        sql("select signing_key_id, key_id, master_key_id, wrapped_key from signing_key
             where master_key_id <> ?1 order by signing_key_id for update")
        .bind(keys.current())
        .all(tx)
        .await?;
    let done = older.len() as u64;
    for (signing_key_id, key_id, master_key_id, wrapped) in older {
        let (master_key_id, wrapped) = keys.rewrap(&master_key_id, &bound(&key_id), &wrapped)?;
        sql(
            "update signing_key set master_key_id = ?2, wrapped_key = ?3 where signing_key_id = ?1",
        )
        .bind(signing_key_id)
        .bind(master_key_id)
        .bind(wrapped)
        .execute(tx)
        .await?;
    }
    Ok(done)
}

/// What a private key is bound to.
fn bound(key_id: &str) -> Vec<u8> {
    format!("medlake signing key v1|{key_id}").into_bytes()
}

fn of_rows(services: &Services, rows: &[KeyRow], now: i64) -> Result<Keys, OperationalError> {
    let broken = || OperationalError::Tampered { what: "signing key" };
    let current = rows.iter().find(|row| row.state == KeyState::Current).ok_or_else(broken)?;
    let bound_to = bound(&current.key_id);
    let data_key = services.identity().master_keys()?.unwrap(
        &current.master_key_id,
        &bound_to,
        &current.wrapped_key,
    )?;
    let private = open(&data_key, &bound_to, &current.private_key).ok_or_else(broken)?;
    let mut verify = HashMap::new();
    let mut published = Vec::new();
    for row in rows {
        let key = DecodingKey::from_ec_components(&row.x, &row.y).map_err(|_| broken())?;
        verify.insert(row.key_id.clone(), key);
        published.push(Jwk {
            kty: "EC",
            crv: "P-256",
            used_for: "sig",
            alg: "ES256",
            kid: row.key_id.clone(),
            x: row.x.clone(),
            y: row.y.clone(),
        });
    }
    Ok(Keys {
        current: current.key_id.clone(),
        signs: EncodingKey::from_ec_der(&private),
        verify,
        published,
        read_at: now,
    })
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/identity/signing-keys", routing::get(get_all))
        .route("/identity/signing-keys/rotate", routing::post(post_rotate))
}

async fn shown(on: &mut Connection) -> Result<List<SigningKey>, OperationalError> {
    let show = |row: KeyRow| SigningKey {
        key_id: row.key_id,
        state: row.state,
        created_at: row.created_at,
        retired_at: row.retired_at,
    };
    Ok(List { items: all(on).await?.into_iter().map(show).collect() })
}

/// The keys that access tokens are signed with.
#[utoipa::path(get, path = "/identity/signing-keys", tag = "identity",
    responses((status = 200, body = List<SigningKey>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
) -> Result<Json<List<SigningKey>>, Failure> {
    keys(&services).await?;
    Ok(Json(shown(&mut *services.identity().read().await?).await?))
}

/// Sign with the next key from now on.
#[utoipa::path(post, path = "/identity/signing-keys/rotate", tag = "identity",
    request_body = Option<Nothing>, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = List<SigningKey>), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_rotate(
    State(services): State<Services>,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    let answer = command
        .carry_out(services.identity(), services.now(), StatusCode::OK, |tx, scope, _| {
            Box::pin(async move {
                keep_in_order(tx, scope.now, true).await?;
                shown(tx).await
            })
        })
        .await?;
    read(&services, services.now()).await?;
    Ok(answer)
}
