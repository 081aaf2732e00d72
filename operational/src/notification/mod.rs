//! Notifications: what people and the staff are told, by which channel, when, and whether it arrived.
//!
//! A notification is written once, however often it is requested. Each channel it goes by has a delivery
//! of its own, which is tried again until it arrives or is given up: at least once, so that whoever
//! receives has to know deliveries by their number.

mod api;
mod channels;
mod delivery;
pub mod preferences;
pub mod templates;
pub mod webhooks;

use std::collections::BTreeMap;

use axum::Router;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) use delivery::{RETRIES, run};

use crate::{
    AlertRaised, NotificationRequested, OperationalError, Scope, Services, WriteTransaction,
    database::{Micros, insert, record, sql, words},
    outbox::{Consumer, Event as _, Message},
    support,
};

words! {
    /// How something is told.
    pub enum ChannelKind {
        /// By a line in the log of the service.
        Log = "log",
        /// By a signed request to an address of the tenant.
        Webhook = "webhook",
    }
}

words! {
    /// How far a delivery is.
    pub enum DeliveryState {
        /// It is tried when its time comes.
        Pending = "pending",
        /// It arrived.
        Delivered = "delivered",
        /// It was tried often enough, or refused for good.
        Failed = "failed",
    }
}

record! {
    /// Something that is told.
    pub struct Notification in "notification" {
        /// Its id.
        pub notification_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// Which request it answers: told once, however often it is requested.
        pub request_key: String,
        /// Who is told; the staff when there is nobody.
        pub person_id: Option<i64>,
        /// The template it was written by.
        pub template: String,
        /// Its heading.
        pub title: String,
        /// Its text.
        pub body: String,
        /// When it was requested, in microseconds since 1970 (UTC).
        pub created_at: Micros,
    }
}

record! {
    /// A notification on its way by one channel.
    pub struct Delivery in "notification_delivery" {
        /// Its id, by which whoever receives knows it again.
        pub delivery_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// What is told.
        pub notification_id: i64,
        /// How.
        pub channel: ChannelKind,
        /// The address, of a webhook.
        pub webhook_id: Option<i64>,
        /// How far it is.
        pub state: DeliveryState,
        /// How often it was tried.
        pub attempts: i64,
        /// When it is tried next, in microseconds since 1970 (UTC).
        pub next_at: Micros,
        /// When it arrived.
        pub delivered_at: Option<Micros>,
        /// Why it did not, the last time.
        pub error: Option<String>,
        /// The trace it belongs to (W3C Trace Context).
        pub traceparent: Option<String>,
    }
}

/// A notification to be written.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewNotification {
    /// Which request this is: told once, however often it is requested.
    #[schema(min_length = 1, max_length = 128)]
    pub request_key: String,
    /// Who is told; the staff when nobody is named.
    pub person_id: Option<i64>,
    /// The name of the template.
    #[schema(min_length = 1, max_length = 64)]
    pub template: String,
    /// What the template may name. No personal identifiers: the text leaves the house.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
}

pub(crate) const CONSUMER: Consumer = Consumer {
    name: "notification",
    listens: &[AlertRaised::TYPE, NotificationRequested::TYPE],
    database: Services::support,
    receive: |tx, message| Box::pin(receive(tx, message)),
};

async fn receive(tx: &mut WriteTransaction, message: &Message) -> Result<(), OperationalError> {
    let trace = message.traceparent.as_deref();
    match message.event_type.as_str() {
        AlertRaised::TYPE => {
            let alert: AlertRaised = message.read()?;
            let scope = Scope::of(alert.tenant_id, tx.began_at());
            let mut parameters = alert.parameters;
            parameters.entry("subject".to_owned()).or_insert(alert.subject);
            let staff = NewNotification {
                request_key: format!("{}:staff", alert.alert_key),
                person_id: None,
                template: alert.kind,
                parameters,
            };
            if let Some(person_id) = alert.person_id {
                let person = NewNotification {
                    request_key: format!("{}:person", alert.alert_key),
                    person_id: Some(person_id),
                    ..staff.clone()
                };
                write(tx, scope, &person, trace).await?;
            }
            write(tx, scope, &staff, trace).await?;
        }
        NotificationRequested::TYPE => {
            let wanted: NotificationRequested = message.read()?;
            let scope = Scope::of(wanted.tenant_id, tx.began_at());
            let new = NewNotification {
                request_key: wanted.request_key,
                person_id: Some(wanted.person_id),
                template: wanted.template,
                parameters: wanted.parameters,
            };
            write(tx, scope, &new, trace).await?;
        }
        _ => {}
    }
    Ok(())
}

/// Writes a notification with its deliveries; gives the one there is when it was requested before.
///
/// # Errors
/// `Invalid` when the template names a parameter that is not given, or something is too long.
pub(crate) async fn write(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewNotification,
    traceparent: Option<&str>,
) -> Result<Notification, OperationalError> {
    let fits = |text: &str, most: usize| !text.is_empty() && text.chars().count() <= most;
    if !fits(&new.request_key, 128) || !fits(&new.template, 64) {
        return Err(OperationalError::invalid(
            "request_key must have 1 to 128 characters, template 1 to 64",
        ));
    }
    let (title, body) =
        templates::rendered(tx, scope.tenant_id, &new.template, &new.parameters).await?;
    let notification = Notification {
        notification_id: tx.id::<Notification>(None).await?,
        tenant_id: scope.tenant_id,
        request_key: new.request_key.clone(),
        person_id: new.person_id,
        template: new.template.clone(),
        title,
        body,
        created_at: Micros(scope.now),
    };
    // Whoever makes the row first keeps it to the end of its transaction.
    sql("insert into notification (notification_id, tenant_id, request_key, person_id, template, title,
             body, created_at)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) on conflict (tenant_id, request_key) do nothing")
    .bind(notification.notification_id)
    .bind(notification.tenant_id)
    .bind(&notification.request_key)
    .bind(notification.person_id)
    .bind(&notification.template)
    .bind(&notification.title)
    .bind(&notification.body)
    .bind(notification.created_at)
    .execute(tx)
    .await?;
    let there: Notification =
        sql("select * from notification where tenant_id = ?1 and request_key = ?2")
            .bind(scope.tenant_id)
            .bind(&new.request_key)
            .one(tx)
            .await?;
    if there.notification_id != notification.notification_id {
        return Ok(there);
    }
    let (wanted, not_before) = match new.person_id {
        None => (ChannelKind::ALL.to_vec(), scope.now),
        Some(person_id) => {
            let preference = preferences::of_person(tx, scope, person_id).await?;
            (preference.channels(&new.template), preference.not_before(scope.now))
        }
    };
    let hooks = webhooks::active(tx, scope.tenant_id).await?;
    let routes = wanted.into_iter().flat_map(|channel| match channel {
        ChannelKind::Log => vec![(channel, None)],
        ChannelKind::Webhook => hooks.iter().map(|id| (channel, Some(*id))).collect(),
    });
    let routes: Vec<(ChannelKind, Option<i64>)> = routes.collect();
    let ids = tx.ids::<Delivery>(routes.iter().map(|_| None)).await?;
    let delivery = |(delivery_id, (channel, webhook_id))| Delivery {
        delivery_id,
        tenant_id: scope.tenant_id,
        notification_id: there.notification_id,
        channel,
        webhook_id,
        state: DeliveryState::Pending,
        attempts: 0,
        next_at: Micros(not_before),
        delivered_at: None,
        error: None,
        traceparent: traceparent.map(str::to_owned),
    };
    let deliveries: Vec<Delivery> = ids.into_iter().zip(routes).map(delivery).collect();
    insert(tx, &deliveries).await?;
    // Whoever delivers is told when this commits.
    tx.fill_outbox();
    Ok(there)
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .merge(api::router())
        .merge(preferences::router())
        .merge(templates::router())
        .merge(webhooks::router())
}

pub(crate) fn openapi() -> utoipa::openapi::OpenApi {
    let mut description = api::openapi();
    description.merge(preferences::openapi());
    description.merge(templates::openapi());
    description.merge(webhooks::openapi());
    description
}

/// The master key's wrapping of a webhook's secret is bound to this.
fn bound_to_webhook(webhook_id: i64) -> Vec<u8> {
    format!("medlake webhook v1|{}|{webhook_id}", support::NAME).into_bytes()
}
