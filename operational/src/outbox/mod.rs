//! What one service must hear of another: written in the transaction of the fact itself, delivered
//! afterwards.
//!
//! Guarantees. **At least once**: a message goes from the outbox only after its consumer has committed;
//! whatever fails in between, it is delivered again, so a consumer does nothing with a message it already
//! has, also when newer ones came before. **In order per aggregate**: of one aggregate of one service, a
//! consumer first hears what was written first. It holds because a service keeps the aggregate's row to
//! itself from before it writes the message to its commit. **Apart**: each consumer has its own row of a
//! message. What one refuses for good is set aside with its error; later messages of the same aggregate
//! wait behind it, all others go on, and so do the other consumers.

pub(crate) mod api;
mod dispatch;

use futures::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};

pub use dispatch::Delivered;
pub(crate) use dispatch::{deliver_all, run};

use crate::{
    Database, OperationalError, Services, WriteTransaction, chronic_care,
    database::{Micros, Value, sql},
    distribution, notification,
};

/// Something that happened in one service and that others may have to do something about.
pub(crate) trait Event: Serialize + DeserializeOwned {
    /// Its name, the same for ever: stored messages have it.
    const TYPE: &'static str;

    /// The tenant it happened to.
    fn tenant_id(&self) -> i64;

    /// What it happened to, such as `order:7`: messages of one aggregate keep their order.
    fn aggregate(&self) -> String;
}

/// A service that listens to others.
pub(crate) struct Consumer {
    /// Its name, the same for ever: stored messages have it.
    pub(crate) name: &'static str,
    /// What it listens to.
    pub(crate) listens: &'static [&'static str],
    /// Where it writes.
    pub(crate) database: fn(&Services) -> &Database,
    /// Does what is to be done about a message, at least once: see the module.
    pub(crate) receive: for<'a> fn(
        &'a mut WriteTransaction,
        &'a Message,
    ) -> BoxFuture<'a, Result<(), OperationalError>>,
}

/// Everyone who listens.
const CONSUMERS: &[&Consumer] =
    &[&distribution::CONSUMER, &chronic_care::CONSUMER, &notification::CONSUMER];

/// A message as its consumer gets it.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// The service that wrote it and the message's number there, such as `mall:17`: the same each time it
    /// is delivered, and no other message's.
    pub(crate) id: String,
    /// The name of its [`Event`].
    pub(crate) event_type: String,
    /// The trace it belongs to (W3C Trace Context).
    pub(crate) traceparent: Option<String>,
    outbox_id: i64,
    aggregate_key: String,
    payload: String,
}

impl Message {
    /// What happened.
    ///
    /// # Errors
    /// `Stored` when the text is not that event.
    pub(crate) fn read<E: Event>(&self) -> Result<E, OperationalError> {
        serde_json::from_str(&self.payload)
            .map_err(|source| OperationalError::Stored { what: "outbox message", source })
    }
}

/// Writes a message to whoever listens, in the transaction of the fact it tells of.
///
/// # Errors
/// What the database says.
pub(crate) async fn put<E: Event>(
    tx: &mut WriteTransaction,
    event: &E,
) -> Result<(), OperationalError> {
    let payload = serde_json::to_string(event)
        .map_err(|source| OperationalError::Stored { what: "outbox message", source })?;
    let aggregate = event.aggregate();
    let created_at = Micros(tx.began_at());
    let rows: Vec<Vec<Value>> = CONSUMERS
        .iter()
        .filter(|consumer| consumer.listens.contains(&E::TYPE))
        .map(|consumer| {
            vec![
                consumer.name.into(),
                E::TYPE.into(),
                event.tenant_id().into(),
                (&aggregate).into(),
                (&payload).into(),
                created_at.into(),
                tx.traceparent().into(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    sql("insert into outbox (consumer, event_type, tenant_id, aggregate_key, payload, created_at,
             traceparent)
         values {rows}")
    .rows(rows)
    .execute(tx)
    .await?;
    tx.fill_outbox();
    Ok(())
}

/// What a consumer has not got of a service.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) service: &'static str,
    pub(crate) consumer: String,
    /// Messages on their way.
    pub(crate) pending: i64,
    /// Messages it refused.
    pub(crate) refused: i64,
    /// When the oldest was written, in microseconds since 1970 (UTC).
    pub(crate) oldest_at: Option<i64>,
}

/// What is not delivered: of each service, for each consumer, also where it is nothing.
///
/// # Errors
/// What the database says.
pub(crate) async fn waiting(services: &Services) -> Result<Vec<Waiting>, OperationalError> {
    let mut waiting = Vec::new();
    for database in services.databases() {
        let rows: Vec<(String, i64, i64, Option<Micros>)> =
            sql("select consumer, count(*) - count(failed_at), count(failed_at), min(created_at)
                 from outbox group by consumer")
            .all(&mut *database.read().await?)
            .await?;
        for consumer in CONSUMERS {
            let row = rows.iter().find(|(name, ..)| name == consumer.name);
            waiting.push(Waiting {
                service: database.name(),
                consumer: consumer.name.to_owned(),
                pending: row.map_or(0, |row| row.1),
                refused: row.map_or(0, |row| row.2),
                oldest_at: row.and_then(|row| row.3).map(|at| at.0),
            });
        }
    }
    Ok(waiting)
}
