//! What master keys hold: data keys of persons, keys of tokens and secrets of webhooks, in three databases.
//!
//! Each of the databases has a row for each master key that its rows may be kept under, and they refer to
//! it: the database itself refuses to let a key go that still holds something, also what a transaction
//! beside is just about to write. The row has the key's fingerprint, so that a file with another key of
//! the same id is told at once, before anything is written under it.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    path::Path,
};

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use futures::future::BoxFuture;
use serde::Serialize;
use utoipa::ToSchema;

use super::master_keys::{LACKS, MasterKey, MasterKeys};
use crate::{
    Database, OperationalError, Services, WriteTransaction,
    database::{ATTEMPTS, Connection, Micros, sql},
    http::{Answer, Command, ErrorBody, Failure, List, Nothing},
    identity, notification,
    timers::Timer,
};

const OTHER: &str = "has another key of an id that the databases know; use the file that they were first \
     opened with, which all machines share";
const GONE: &str = "is not there, and the databases were opened with one; put it back, or set \
     operational.key_file to where it is";

/// Things of one kind that are kept under master keys.
struct Held {
    /// As people are told of it.
    what: &'static str,
    database: fn(&Services) -> &Database,
    /// Ids of master keys, and how many each holds.
    counted: &'static str,
    /// Brings some of them under the key in use; gives how many.
    rewrap: for<'a> fn(&'a mut WriteTransaction) -> BoxFuture<'a, Result<u64, OperationalError>>,
}

/// A person whose phone number is found by a token of an older key is held by it as well.
const PERSONS: &str = "select master_key_id, count(*) from (
         select master_key_id, tenant_id, person_id from _person_key where master_key_id is not null
         union select master_key_id, tenant_id, person_id from _identifier_token) held
     group by master_key_id";

const HELD: &[Held] = &[
    Held {
        what: "patients",
        database: Services::chronic_care,
        counted: PERSONS,
        rewrap: |tx| Box::pin(super::rewrap(tx)),
    },
    Held {
        what: "persons",
        database: Services::identity,
        counted: PERSONS,
        rewrap: |tx| Box::pin(super::rewrap(tx)),
    },
    Held {
        what: "signing_keys",
        database: Services::identity,
        counted: "select master_key_id, count(*) from signing_key group by master_key_id",
        rewrap: |tx| Box::pin(identity::keys::rewrap(tx)),
    },
    Held {
        what: "webhooks",
        database: Services::support,
        counted: "select master_key_id, count(*) from webhook group by master_key_id",
        rewrap: |tx| Box::pin(notification::webhooks::rewrap(tx)),
    },
];

/// The databases that have something to hold.
fn databases(services: &Services) -> [&Database; 3] {
    [services.chronic_care(), services.support(), services.identity()]
}

/// The keys of a file, which is made when there is none and the databases know of none.
pub(crate) async fn open(services: &Services, file: &Path) -> Result<MasterKeys, OperationalError> {
    if !file.exists() {
        for database in databases(services) {
            if !registered(&mut *database.read().await?).await?.is_empty() {
                let (file, problem) = (file.to_path_buf(), GONE);
                return Err(OperationalError::Key { file, problem, source: None });
            }
        }
    }
    MasterKeys::open(file)
}

/// Makes the databases know of the keys of a file.
///
/// # Errors
/// `Key` when it has other keys than they know, or lacks one that holds something.
pub(crate) async fn register(
    services: &Services,
    keys: &MasterKeys,
) -> Result<(), OperationalError> {
    let now = services.now();
    let mut lacking = BTreeSet::new();
    for database in databases(services) {
        let mut known = registered(&mut *database.read().await?).await?;
        let ours = keys.all();
        if ours.iter().any(|key| !known.contains_key(key.id())) {
            let mut tx = database.begin_internal().await?;
            for key in &ours {
                insert(&mut tx, key, now).await?;
            }
            // Another process may have been first with a key of its own.
            known = registered(&mut tx).await?;
            tx.commit().await?;
        }
        for key in &ours {
            if known.remove(key.id()).is_none_or(|fingerprint| fingerprint != key.fingerprint()) {
                return Err(keys.unfit(OTHER));
            }
        }
        lacking.extend(known.into_keys());
    }
    if lacking.is_empty() {
        return Ok(());
    }
    let held = counted(services).await?;
    match held.into_keys().any(|id| lacking.contains(&id)) {
        true => Err(keys.unfit(LACKS)),
        false => Ok(()),
    }
}

/// The keys that a database knows, with their fingerprints.
async fn registered(on: &mut Connection) -> Result<BTreeMap<String, String>, OperationalError> {
    let rows: Vec<(String, String)> =
        sql("select key_id, fingerprint from _master_key").all(on).await?;
    Ok(rows.into_iter().collect())
}

async fn insert(on: &mut Connection, key: &MasterKey, now: i64) -> Result<(), OperationalError> {
    sql("insert into _master_key (key_id, fingerprint, created_at) values (?1, ?2, ?3)
         on conflict (key_id) do nothing")
    .bind(key.id())
    .bind(key.fingerprint())
    .bind(Micros(now))
    .execute(on)
    .await?;
    Ok(())
}

/// How much of each kind each key holds; no key that holds nothing.
async fn counted(
    services: &Services,
) -> Result<BTreeMap<String, BTreeMap<&'static str, i64>>, OperationalError> {
    let mut all: BTreeMap<String, BTreeMap<&'static str, i64>> = BTreeMap::new();
    for held in HELD {
        let mut on = (held.database)(services).read().await?;
        let rows: Vec<(String, i64)> = sql(held.counted).all(&mut on).await?;
        for (key_id, count) in rows {
            all.entry(key_id).or_default().insert(held.what, count);
        }
    }
    Ok(all)
}

/// Keeps everything under the master key in use, a minute after there is another.
pub(crate) const REWRAP: Timer =
    Timer { name: "master keys", run: |services| Box::pin(rewrap_all(services)) };

/// Wraps anew whatever an older master key wrapped. What fails holds up nothing else.
async fn rewrap_all(services: &Services) -> Result<(), OperationalError> {
    let keys = services.identity().master_keys()?;
    keys.refresh()?;
    register(services, &keys).await?;
    let mut all = Ok(());
    for held in HELD {
        let done = rewrap_some(services, held).await;
        if let Err(error) = &done {
            let error = error as &dyn Error;
            tracing::error!(what = held.what, error, "could not wrap anew; the older key stays");
        }
        all = all.and(done);
    }
    all
}

async fn rewrap_some(services: &Services, held: &Held) -> Result<(), OperationalError> {
    let mut attempt = 1;
    loop {
        let mut tx = (held.database)(services).begin_internal().await?;
        let done = match (held.rewrap)(&mut tx).await {
            Ok(0) => return tx.rollback().await,
            done => tx.end(done).await,
        };
        match done {
            Ok(count) => {
                tracing::info!(what = held.what, count, "wrapped by the master key in use");
                attempt = 1;
            }
            Err(OperationalError::Contended { .. }) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// A master key and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct MasterKeyUse {
    /// Its id.
    key_id: String,
    /// Whether it is the one under which everything new is kept.
    in_use: bool,
    /// How many things it holds, by their kind: `patients`, `persons`, `signing_keys`, `webhooks`.
    #[schema(value_type = BTreeMap<String, i64>)]
    holds: BTreeMap<&'static str, i64>,
    /// Whether nothing needs it any more, so that it can be taken away.
    removable: bool,
}

async fn uses(services: &Services) -> Result<Vec<MasterKeyUse>, OperationalError> {
    let keys = services.identity().master_keys()?;
    let held = counted(services).await?;
    let current = keys.current();
    let of = |key_id: String| {
        let none = HELD.iter().map(|held| (held.what, 0));
        let mut holds: BTreeMap<_, _> = none.collect();
        holds.extend(held.get(&key_id).into_iter().flatten());
        let in_use = key_id == current;
        let removable = !in_use && holds.values().all(|&count| count == 0);
        MasterKeyUse { key_id, in_use, holds, removable }
    };
    Ok(keys.ids().into_iter().map(of).collect())
}

/// Adds a key to the file, which is the one in use from then on.
async fn rotate(
    services: &Services,
    tx: &mut WriteTransaction,
) -> Result<List<MasterKeyUse>, OperationalError> {
    let keys = services.identity().master_keys()?;
    let now = services.now();
    // Not the id of one that was begun with and never came into the file.
    let mut ids = keys.ids();
    for database in databases(services) {
        ids.extend(registered(&mut *database.read().await?).await?.into_keys());
    }
    let numbers = ids.iter().filter_map(|id| id.strip_prefix('k')?.parse::<u64>().ok());
    let key = MasterKey::random(format!("k{}", numbers.max().unwrap_or(0) + 1))?;
    // Each database knows of it before anybody can use it.
    for database in databases(services) {
        if database.name() == identity::NAME {
            insert(tx, &key, now).await?;
            continue;
        }
        let mut tx = database.begin_internal().await?;
        insert(&mut tx, &key, now).await?;
        let known = registered(&mut tx).await?;
        if known.get(key.id()).is_none_or(|other| *other != key.fingerprint()) {
            return Err(OperationalError::conflict("another master key is just being made"));
        }
        tx.commit().await?;
    }
    keys.add(&key)?;
    Ok(List { items: uses(services).await? })
}

/// Takes a key away that holds nothing.
async fn remove(services: &Services, key_id: &str) -> Result<(), OperationalError> {
    let keys = services.identity().master_keys()?;
    let known = uses(services).await?;
    let key = known
        .iter()
        .find(|key| key.key_id == key_id)
        .ok_or_else(|| OperationalError::unknown("master key", key_id))?;
    let holds = || OperationalError::conflict(format!("master key {key_id} still holds something"));
    if key.in_use {
        return Err(OperationalError::conflict(format!("master key {key_id} is in use")));
    }
    let held: Vec<String> = key
        .holds
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    if !held.is_empty() {
        return Err(OperationalError::conflict(format!(
            "master key {key_id} still holds {}; they are wrapped anew within minutes",
            held.join(", ")
        )));
    }
    for database in databases(services) {
        let mut tx = database.begin_internal().await?;
        let gone =
            sql("delete from _master_key where key_id = ?1").bind(key_id).execute(&mut tx).await;
        match tx.end(gone).await {
            Ok(_) => {}
            // Something came under it since it was counted. The databases that let it go know it again.
            Err(OperationalError::Constraint { .. }) => {
                register(services, &keys).await?;
                return Err(holds());
            }
            Err(error) => return Err(error),
        }
    }
    keys.remove(key_id)
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/identity/master-keys", routing::get(get_all))
        .route("/identity/master-keys/rotate", routing::post(post_rotate))
        .route("/identity/master-keys/{key_id}", routing::delete(delete))
}

/// The master keys, without their bytes, and what each holds.
#[utoipa::path(get, path = "/identity/master-keys", tag = "identity",
    responses((status = 200, body = List<MasterKeyUse>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
) -> Result<Json<List<MasterKeyUse>>, Failure> {
    Ok(Json(List { items: uses(&services).await? }))
}

/// Put a new master key in use. What older ones hold comes under it by and by.
#[utoipa::path(post, path = "/identity/master-keys/rotate", tag = "identity",
    request_body = Option<Nothing>, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = List<MasterKeyUse>), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_rotate(
    State(services): State<Services>,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    let done = services.clone();
    command
        .carry_out(services.identity(), services.now(), StatusCode::OK, move |tx, _, _| {
            let services = done.clone();
            Box::pin(async move { rotate(&services, tx).await })
        })
        .await
}

/// Take a master key away that holds nothing any more.
#[utoipa::path(delete, path = "/identity/master-keys/{key_id}", tag = "identity",
    params(("key_id" = String, Path)),
    responses((status = 200, body = List<MasterKeyUse>), (status = "default", body = ErrorBody)))]
pub(crate) async fn delete(
    State(services): State<Services>,
    axum::extract::Path(key_id): axum::extract::Path<String>,
) -> Result<Json<List<MasterKeyUse>>, Failure> {
    remove(&services, &key_id).await?;
    Ok(Json(List { items: uses(&services).await? }))
}
