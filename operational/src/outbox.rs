//! From the mall's outbox to the services that must hear of a payment or a refund.
//!
//! At least once: a message is removed only after both receivers have committed. Each receiver does
//! nothing with a message it already has, so redelivery after a crash is harmless. A message a
//! receiver refuses for good is kept with its error, and the ones behind it go on.

use std::{future::Future, time::Duration};

use serde::Serialize;

use crate::{
    OperationalError, OrderPaid, OrderRefunded, Services, WriteTransaction, chronic_care,
    database::{Micros, sql},
    distribution,
};

/// Messages delivered in one transaction of each receiver.
const BATCH: i64 = 500;
/// How long to wait after a failure that may pass.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Writes a message for the other services, in the transaction of the fact it tells of.
pub(crate) async fn put(
    tx: &mut WriteTransaction,
    event_type: &str,
    created_at: Micros,
    payload: &impl Serialize,
) -> Result<(), OperationalError> {
    let payload = serde_json::to_string(payload)
        .map_err(|source| OperationalError::Stored { what: "outbox message", source })?;
    sql("insert into outbox (event_type, created_at, payload) values (?1, ?2, ?3)")
        .bind(event_type)
        .bind(created_at)
        .bind(payload)
        .execute(tx)
        .await?;
    Ok(())
}

/// What one delivery did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivered {
    /// Messages that both receivers have.
    pub delivered: u64,
    /// Messages set aside because a receiver refuses them for good.
    pub failed: u64,
}

#[derive(Debug)]
struct Message {
    outbox_id: i64,
    event: Event,
}

#[derive(Debug)]
enum Event {
    Paid(OrderPaid),
    Refunded(OrderRefunded),
}

pub(crate) async fn run(services: &Services, stop: impl Future<Output = ()> + Send) {
    let mut stop = std::pin::pin!(stop);
    loop {
        let outcome = tokio::select! {
            () = &mut stop => return,
            outcome = deliver_all(services) => outcome,
        };
        let wait = async {
            match outcome {
                Ok(_) => services.mall_committed().await,
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "could not deliver the outbox"
                    );
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        };
        tokio::select! {
            () = &mut stop => return,
            () = wait => {}
        }
    }
}

pub(crate) async fn deliver_all(services: &Services) -> Result<Delivered, OperationalError> {
    let mut total = Delivered::default();
    loop {
        let rows = pending(services).await?;
        if rows.is_empty() {
            return Ok(total);
        }
        let mut messages = Vec::with_capacity(rows.len());
        for (outbox_id, event_type, payload) in rows {
            match parse(&event_type, &payload) {
                Ok(event) => messages.push(Message { outbox_id, event }),
                Err(error) => {
                    set_aside(services, outbox_id, &error).await?;
                    total.failed += 1;
                }
            }
        }
        match deliver(services, &messages).await {
            Ok(()) => total.delivered += messages.len() as u64,
            Err(error) if error.kind().retryable() => return Err(error),
            // One of them is refused: deliver one by one to find it, and let the others pass.
            Err(_) => {
                for message in &messages {
                    match deliver(services, std::slice::from_ref(message)).await {
                        Ok(()) => total.delivered += 1,
                        Err(error) if error.kind().retryable() => return Err(error),
                        Err(error) => {
                            set_aside(services, message.outbox_id, &error).await?;
                            total.failed += 1;
                        }
                    }
                }
            }
        }
    }
}

async fn pending(services: &Services) -> Result<Vec<(i64, String, String)>, OperationalError> {
    sql("select outbox_id, event_type, payload from outbox where failed_at is null
         order by outbox_id limit ?1")
    .bind(BATCH)
    .all(&mut *services.mall().read().await?)
    .await
}

fn parse(event_type: &str, payload: &str) -> Result<Event, OperationalError> {
    let wrong = |source| OperationalError::Stored { what: "outbox message", source };
    Ok(match event_type {
        "order_paid" => Event::Paid(serde_json::from_str(payload).map_err(wrong)?),
        _ => Event::Refunded(serde_json::from_str(payload).map_err(wrong)?),
    })
}

/// Both receivers, then the outbox: a crash in between means another delivery, never none.
async fn deliver(services: &Services, messages: &[Message]) -> Result<(), OperationalError> {
    if messages.is_empty() {
        return Ok(());
    }
    let now = services.now();
    let mut tx = services.distribution().begin(now).await?;
    for message in messages {
        match &message.event {
            Event::Paid(paid) => distribution::commissions::accrue(&mut tx, paid).await?,
            Event::Refunded(refunded) => {
                distribution::commissions::reverse(&mut tx, refunded).await?;
            }
        }
    }
    tx.commit().await?;
    let mut tx = services.chronic_care().begin(now).await?;
    for message in messages {
        match &message.event {
            Event::Paid(paid) => chronic_care::dispensings::from_paid_order(&mut tx, paid).await?,
            Event::Refunded(refunded) => {
                chronic_care::dispensings::from_refund(&mut tx, refunded).await?;
            }
        }
    }
    tx.commit().await?;
    let ids: Vec<i64> = messages.iter().map(|m| m.outbox_id).collect();
    let mut tx = services.mall().begin_internal().await?;
    remove(&mut tx, &ids).await?;
    tx.commit().await
}

async fn remove(tx: &mut WriteTransaction, ids: &[i64]) -> Result<(), OperationalError> {
    sql("delete from outbox where outbox_id in {list}")
        .list(ids.iter().copied())
        .execute(tx)
        .await?;
    Ok(())
}

async fn set_aside(
    services: &Services,
    outbox_id: i64,
    error: &OperationalError,
) -> Result<(), OperationalError> {
    tracing::error!(
        outbox_id,
        error = error as &dyn std::error::Error,
        "an outbox message is refused and set aside"
    );
    let mut tx = services.mall().begin_internal().await?;
    sql("update outbox set failed_at = ?2, error = ?3 where outbox_id = ?1")
        .bind(outbox_id)
        .bind(Micros(services.now()))
        .bind(error.to_string())
        .execute(&mut tx)
        .await?;
    tx.commit().await
}
