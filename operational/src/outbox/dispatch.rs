//! Delivery: for each database and each consumer, what the first has for the second, in order.

use std::{collections::HashSet, future::Future, time::Duration};

use futures::future::join_all;

use super::{CONSUMERS, Consumer, Message};
use crate::{
    Database, OperationalError, Services,
    database::{Micros, sql},
};

/// Messages delivered in one transaction of their consumer.
const BATCH: i64 = 500;
/// How long to wait after a failure that may pass; twice as long after each further one.
const RETRY_AFTER: Duration = Duration::from_millis(500);
const RETRY_AFTER_AT_MOST: Duration = Duration::from_secs(30);

/// What one delivery did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivered {
    /// Messages delivered, each counted once a consumer.
    pub delivered: u64,
    /// Messages set aside because their consumer refuses them for good.
    pub failed: u64,
}

/// Delivers as messages come, until `stop` completes. No consumer waits for another.
pub(crate) async fn run(services: &Services, stop: impl Future<Output = ()> + Send) {
    let routes = services.databases().into_iter().flat_map(|source| {
        CONSUMERS.iter().map(move |consumer| run_route(services, source, consumer))
    });
    tokio::select! {
        () = stop => {}
        _ = join_all(routes) => {}
    }
}

async fn run_route(services: &Services, source: &Database, consumer: &Consumer) {
    // Listens before it looks, so that nothing is written in between.
    let mut filled = source.outbox_filled();
    let mut wait = RETRY_AFTER;
    loop {
        match deliver_route(services, source, consumer, &mut Delivered::default()).await {
            Ok(()) => {
                wait = RETRY_AFTER;
                if filled.changed().await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(
                    source = source.name(),
                    consumer = consumer.name,
                    error = &error as &dyn std::error::Error,
                    "could not deliver the outbox; trying again"
                );
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_AFTER_AT_MOST);
            }
        }
    }
}

/// Delivers what there is, and what comes of it.
pub(crate) async fn deliver_all(services: &Services) -> Result<Delivered, OperationalError> {
    let mut total = Delivered::default();
    loop {
        let before = total;
        for source in services.databases() {
            for consumer in CONSUMERS {
                deliver_route(services, source, consumer, &mut total).await?;
            }
        }
        if total == before {
            return Ok(total);
        }
    }
}

async fn deliver_route(
    services: &Services,
    source: &Database,
    consumer: &Consumer,
    total: &mut Delivered,
) -> Result<(), OperationalError> {
    loop {
        let messages = pending(source, consumer).await?;
        if messages.is_empty() {
            return Ok(());
        }
        match deliver(services, source, consumer, &messages).await {
            Ok(()) => total.delivered += messages.len() as u64,
            Err(error) if error.kind().retryable() => return Err(error),
            // One of them is refused: deliver one by one to find it, and let the others pass.
            Err(_) => {
                let mut held = HashSet::new();
                for message in &messages {
                    if held.contains(&message.aggregate_key) {
                        continue;
                    }
                    match deliver(services, source, consumer, std::slice::from_ref(message)).await {
                        Ok(()) => total.delivered += 1,
                        Err(error) if error.kind().retryable() => return Err(error),
                        Err(error) => {
                            set_aside(source, consumer, message, services.now(), &error).await?;
                            held.insert(&message.aggregate_key);
                            total.failed += 1;
                        }
                    }
                }
            }
        }
    }
}

/// The next messages of a consumer, without those that wait behind one that was set aside.
async fn pending(source: &Database, consumer: &Consumer) -> Result<Vec<Message>, OperationalError> {
    let rows: Vec<(i64, String, String, String, Option<String>)> =
        sql("select outbox_id, event_type, aggregate_key, payload, traceparent from outbox o
             where consumer = ?1 and failed_at is null and not exists (
                 select 1 from outbox earlier
                 where earlier.consumer = ?1 and earlier.aggregate_key = o.aggregate_key
                     and earlier.failed_at is not null and earlier.outbox_id < o.outbox_id)
             order by outbox_id limit ?2")
        .bind(consumer.name)
        .bind(BATCH)
        .all(&mut *source.read().await?)
        .await?;
    let message = |(outbox_id, event_type, aggregate_key, payload, traceparent)| Message {
        id: format!("{}:{outbox_id}", source.name()),
        event_type,
        traceparent,
        outbox_id,
        aggregate_key,
        payload,
    };
    Ok(rows.into_iter().map(message).collect())
}

/// The consumer, then the outbox: a crash in between means another delivery, never none.
async fn deliver(
    services: &Services,
    source: &Database,
    consumer: &Consumer,
    messages: &[Message],
) -> Result<(), OperationalError> {
    let mut tx = (consumer.database)(services).begin(services.now()).await?;
    let mut received = Ok(());
    for message in messages {
        received = (consumer.receive)(&mut tx, message).await;
        if received.is_err() {
            break;
        }
    }
    tx.end(received).await?;
    let mut tx = source.begin_internal().await?;
    sql("delete from outbox where outbox_id in {list}")
        .list(messages.iter().map(|message| message.outbox_id))
        .execute(&mut tx)
        .await?;
    tx.commit().await
}

async fn set_aside(
    source: &Database,
    consumer: &Consumer,
    message: &Message,
    now: i64,
    error: &OperationalError,
) -> Result<(), OperationalError> {
    tracing::error!(
        message = message.id,
        event_type = message.event_type,
        traceparent = message.traceparent,
        consumer = consumer.name,
        error = error as &dyn std::error::Error,
        "a message is refused and set aside"
    );
    let mut tx = source.begin_internal().await?;
    sql("update outbox set failed_at = ?2, error = ?3 where outbox_id = ?1")
        .bind(message.outbox_id)
        .bind(Micros(now))
        .bind(error.to_string())
        .execute(&mut tx)
        .await?;
    tx.commit().await
}
