//! Delivers what is due, and tries again what did not arrive.

use std::{future::Future, time::Duration};

use futures::{StreamExt as _, stream};

use super::{
    Delivery, DeliveryState, Notification, bound_to_webhook,
    channels::{Channel, Log, NotArrived, Outgoing, Webhook},
};
use crate::{
    OperationalError, Services,
    database::{Micros, sql},
    timers::Timer,
};

/// How often something is tried before it is given up.
const ATTEMPTS_MAX: i64 = 8;
/// How long after the first attempt the second comes; twice as long after each further one.
const WAIT_MICROS: i64 = 30 * 1_000_000;
const WAIT_MICROS_MAX: i64 = 6 * 3600 * 1_000_000;
/// How long a delivery is left to the process that took it: longer than an address has to answer.
const TAKEN_MICROS: i64 = 30 * 1_000_000;
/// Deliveries on their way at a time, so that an address that is slow does not hold up the others.
const AT_A_TIME: usize = 16;
/// The longest between two looks at what is due, and the shortest.
const LOOK_MICROS: std::ops::RangeInclusive<i64> = 100_000..=60_000_000;
/// Deliveries looked for at a time.
const BATCH: i64 = 100;
/// How long to wait when the database fails.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What is due by the clock alone: after a quiet time, or a failure.
pub(crate) const RETRIES: Timer =
    Timer { name: "notifications", run: |services| Box::pin(deliver_due(services)) };

/// Delivers as notifications are written, until `stop` completes.
pub(crate) async fn run(services: &Services, stop: impl Future<Output = ()> + Send) {
    let mut filled = services.support().outbox_filled();
    let deliver = async {
        loop {
            if let Err(error) = deliver_due(services).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "could not deliver notifications; trying again"
                );
                tokio::time::sleep(RETRY_AFTER).await;
                continue;
            }
            let next = next_at(services).await.unwrap_or(i64::MAX);
            let wait = next.saturating_sub(services.now());
            let wait = wait.clamp(*LOOK_MICROS.start(), *LOOK_MICROS.end()).unsigned_abs();
            tokio::select! {
                changed = filled.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(Duration::from_micros(wait)) => {}
            }
        }
    };
    tokio::select! {
        () = stop => {}
        () = deliver => {}
    }
}

/// When the next one is due.
async fn next_at(services: &Services) -> Result<i64, OperationalError> {
    let next: Option<Micros> =
        sql("select min(next_at) from notification_delivery where state = 'pending'")
            .value(&mut *services.support().read().await?)
            .await?;
    Ok(next.map_or(i64::MAX, |at| at.0))
}

/// Tries everything once that is due now.
pub(crate) async fn deliver_due(services: &Services) -> Result<(), OperationalError> {
    let failed = |_| OperationalError::Encryption;
    let webhook = Webhook::new(services.options().private_webhooks).map_err(failed)?;
    let channels: [&dyn Channel; 2] = [&Log, &webhook];
    let now = services.now();
    let mut after = 0;
    loop {
        let due: Vec<Delivery> = sql("select * from notification_delivery
             where state = 'pending' and next_at <= ?1 and delivery_id > ?2
             order by delivery_id limit ?3")
        .bind(Micros(now))
        .bind(after)
        .bind(BATCH)
        .all(&mut *services.support().read().await?)
        .await?;
        let Some(last) = due.last() else { return Ok(()) };
        after = last.delivery_id;
        let channels = &channels;
        let tried: Vec<Result<(), OperationalError>> = stream::iter(due)
            .map(|delivery| async move { deliver(services, channels, &delivery).await })
            .buffer_unordered(AT_A_TIME)
            .collect()
            .await;
        tried.into_iter().collect::<Result<(), _>>()?;
    }
}

/// Tries one, unless another process does.
async fn deliver(
    services: &Services,
    channels: &[&dyn Channel],
    delivery: &Delivery,
) -> Result<(), OperationalError> {
    let now = services.now();
    if !take(services, delivery, now).await? {
        return Ok(());
    }
    let told = match outgoing(services, delivery, now).await? {
        Ok(what) => match channels.iter().find(|by| by.kind() == delivery.channel) {
            Some(channel) => channel.tell(&what).await,
            None => Err(for_good("there is no such channel")),
        },
        Err(problem) => Err(for_good(problem)),
    };
    note(services, delivery, told).await
}

fn for_good(problem: &str) -> NotArrived {
    NotArrived { problem: problem.to_owned(), passing: false }
}

/// Takes a delivery, unless another process did.
async fn take(
    services: &Services,
    delivery: &Delivery,
    now: i64,
) -> Result<bool, OperationalError> {
    let mut tx = services.support().begin_internal().await?;
    let taken = sql("update notification_delivery set attempts = attempts + 1, next_at = ?3
         where delivery_id = ?1 and attempts = ?2 and state = 'pending'")
    .bind(delivery.delivery_id)
    .bind(delivery.attempts)
    .bind(Micros(now + TAKEN_MICROS))
    .execute(&mut tx)
    .await?;
    tx.commit().await?;
    Ok(taken == 1)
}

async fn outgoing(
    services: &Services,
    delivery: &Delivery,
    now: i64,
) -> Result<Result<Outgoing, &'static str>, OperationalError> {
    let mut on = services.support().read().await?;
    let what: Notification = sql("select * from notification where notification_id = ?1")
        .bind(delivery.notification_id)
        .one(&mut on)
        .await?;
    let target = match delivery.webhook_id {
        None => None,
        Some(webhook_id) => {
            let webhook: Option<(String, String, Vec<u8>)> =
                sql("select url, master_key_id, wrapped_secret from webhook
                     where webhook_id = ?1 and state = 'active'")
                .bind(webhook_id)
                .first(&mut on)
                .await?;
            let Some((url, key, wrapped)) = webhook else { return Ok(Err("webhook disabled")) };
            let keys = services.support().master_keys()?;
            Some((url, keys.unwrap(&key, &bound_to_webhook(webhook_id), &wrapped)?))
        }
    };
    Ok(Ok(Outgoing {
        delivery_id: delivery.delivery_id,
        notification_id: what.notification_id,
        tenant_id: what.tenant_id,
        person_id: what.person_id,
        template: what.template,
        title: what.title,
        body: what.body,
        created_at: what.created_at.0,
        traceparent: delivery.traceparent.clone(),
        target,
        now: now / 1_000_000,
    }))
}

async fn note(
    services: &Services,
    delivery: &Delivery,
    told: Result<(), NotArrived>,
) -> Result<(), OperationalError> {
    let now = services.now();
    let attempts = delivery.attempts + 1;
    let (state, next_at, error) = match told {
        Ok(()) => (DeliveryState::Delivered, now, None),
        Err(NotArrived { problem, passing }) if !passing || attempts >= ATTEMPTS_MAX => {
            tracing::warn!(
                delivery_id = delivery.delivery_id,
                channel = %delivery.channel,
                problem,
                "a notification is given up"
            );
            (DeliveryState::Failed, now, Some(problem))
        }
        Err(NotArrived { problem, .. }) => {
            (DeliveryState::Pending, now + wait(attempts), Some(problem))
        }
    };
    let mut tx = services.support().begin_internal().await?;
    sql("update notification_delivery set state = ?2, next_at = ?3, delivered_at = ?4, error = ?5
         where delivery_id = ?1 and state = 'pending'")
    .bind(delivery.delivery_id)
    .bind(state)
    .bind(Micros(next_at))
    .bind((state == DeliveryState::Delivered).then_some(Micros(now)))
    .bind(error)
    .execute(&mut tx)
    .await?;
    tx.commit().await
}

/// How long to wait after so many attempts.
fn wait(attempts: i64) -> i64 {
    (WAIT_MICROS << (attempts - 1).clamp(0, 20)).min(WAIT_MICROS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attempt_waits_twice_as_long() {
        let seconds = |attempts| wait(attempts) / 1_000_000;
        assert_eq!([1, 2, 3, 7].map(seconds), [30, 60, 120, 1_920]);
        assert_eq!(seconds(30), 6 * 3600);
    }
}
