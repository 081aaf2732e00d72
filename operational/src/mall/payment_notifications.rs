//! What payment channels tell: a payment came, money was sent back, or could not be. Each notification is
//! signed with the channel's secret, comes any number of times, and acts once.

use std::str;

use aws_lc_rs::hmac;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    routing,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Rules,
    limits::check_text,
    payments::{self, ChannelPayment, Payment},
    refunds::{self, Refund},
    visits::Windows,
};
use crate::{
    OperationalError, Services, WriteTransaction,
    database::ATTEMPTS,
    http::{ErrorBody, Failure},
};

/// How far the time of a notification may be from ours, in seconds.
const CLOCK_DIFFERENCE_SECONDS_MAX: u64 = 300;

/// A notification of a payment channel. The header `Payment-Timestamp` is the time it was sent, in
/// seconds since 1970 (UTC), and `Payment-Signature` the HMAC-SHA256, in hexadecimal, of that text, a
/// full stop and the body, with the channel's secret.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct ChannelNotification {
    /// The channel's name, such as `wechat_pay`.
    channel: String,
    /// What happened.
    #[serde(flatten)]
    event: ChannelEvent,
}

/// What happened at a payment channel.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum ChannelEvent {
    /// Money came for an order.
    PaymentSucceeded {
        /// The order.
        #[schema(minimum = 1)]
        order_id: i64,
        /// What the channel calls the payment.
        #[schema(min_length = 1, max_length = 255)]
        transaction_id: String,
        /// How much.
        amount_fen: i64,
    },
    /// A payment that came too late, or twice, was sent back.
    PaymentReturned {
        /// What the channel calls the payment.
        #[schema(min_length = 1, max_length = 255)]
        transaction_id: String,
        /// What the channel calls its return.
        #[schema(min_length = 1, max_length = 255)]
        channel_refund_id: String,
    },
    /// An approved refund was paid out.
    RefundSucceeded {
        /// The refund.
        #[schema(minimum = 1)]
        refund_id: i64,
        /// What the channel calls it.
        #[schema(min_length = 1, max_length = 255)]
        channel_refund_id: String,
        /// How much, with the shipping.
        amount_fen: i64,
    },
    /// An approved refund could not be paid out.
    RefundFailed {
        /// The refund.
        #[schema(minimum = 1)]
        refund_id: i64,
        /// Why.
        #[schema(max_length = 2_000)]
        reason: String,
    },
}

/// What a notification led to.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Acknowledged {
    /// The payment, as it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    payment: Option<Payment>,
    /// The refund, as it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    refund: Option<Refund>,
}

impl Acknowledged {
    const fn of_payment(payment: Payment) -> Self {
        Self { payment: Some(payment), refund: None }
    }

    const fn of_refund(refund: Refund) -> Self {
        Self { payment: None, refund: Some(refund) }
    }
}

/// What a channel signs a notification with that is sent at a time (seconds since 1970, UTC): the header
/// `Payment-Signature`.
#[must_use]
pub fn signature(secret: &str, sent: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hex::encode(hmac::sign(&key, format!("{sent}.{body}").as_bytes()))
}

/// Reads a notification and checks who sent it and when.
fn read(
    services: &Services,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<ChannelNotification, OperationalError> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(sent), Some(signature)) = (header("payment-timestamp"), header("payment-signature"))
    else {
        return Err(OperationalError::denied("the notification is not signed"));
    };
    let notification: ChannelNotification = serde_json::from_slice(body).map_err(|error| {
        OperationalError::invalid(format!("the request body is not valid: {error}"))
    })?;
    let settings = services.mall_settings();
    let signed = settings.payment_channels.secret(&notification.channel).is_some_and(|secret| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let message = [sent.as_bytes(), b".", body].concat();
        hex::decode(signature).is_ok_and(|tag| hmac::verify(&key, &message, &tag).is_ok())
    });
    // An unknown channel is told as a wrong signature is: who asks learns nothing of either.
    if !signed {
        return Err(OperationalError::denied("the notification is not signed by this channel"));
    }
    let now_seconds = services.now() / 1_000_000;
    match sent.parse::<i64>() {
        Ok(sent) if sent.abs_diff(now_seconds) <= CLOCK_DIFFERENCE_SECONDS_MAX => Ok(notification),
        _ => Err(OperationalError::denied(
            "the notification was sent more than five minutes from now",
        )),
    }
}

async fn act(
    tx: &mut WriteTransaction,
    now: i64,
    windows: Option<Windows>,
    notification: &ChannelNotification,
) -> Result<Acknowledged, OperationalError> {
    let channel = notification.channel.as_str();
    Ok(match &notification.event {
        ChannelEvent::PaymentSucceeded { order_id, transaction_id, amount_fen } => {
            check_text("transaction_id", transaction_id)?;
            let told = ChannelPayment {
                channel,
                order_id: *order_id,
                transaction_id,
                amount_fen: *amount_fen,
            };
            Acknowledged::of_payment(payments::take_in(tx, now, told, windows).await?.payment)
        }
        ChannelEvent::PaymentReturned { transaction_id, channel_refund_id } => {
            check_text("channel_refund_id", channel_refund_id)?;
            let returned =
                payments::returned(tx, now, channel, transaction_id, channel_refund_id).await?;
            Acknowledged::of_payment(returned)
        }
        ChannelEvent::RefundSucceeded { refund_id, channel_refund_id, amount_fen } => {
            check_text("channel_refund_id", channel_refund_id)?;
            let paid_out = (channel_refund_id.as_str(), *amount_fen);
            Acknowledged::of_refund(
                refunds::succeed_of_channel(tx, now, channel, *refund_id, paid_out).await?,
            )
        }
        ChannelEvent::RefundFailed { refund_id, reason } => Acknowledged::of_refund(
            refunds::fail_of_channel(tx, now, channel, *refund_id, reason).await?,
        ),
    })
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/mall/callbacks/payments", routing::post(post))
}

/// Take a payment channel's notification.
#[utoipa::path(post, path = "/mall/callbacks/payments", tag = "mall",
    request_body = ChannelNotification,
    params(("Payment-Timestamp" = String, Header), ("Payment-Signature" = String, Header)),
    responses((status = 200, body = Acknowledged), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Acknowledged>, Failure> {
    let body = body.map_err(|_| OperationalError::invalid("the request body could not be read"))?;
    let notification = read(&services, &headers, &body)?;
    // The channel knows no tenants; the order tells.
    let tenant_id = match &notification.event {
        ChannelEvent::PaymentSucceeded { order_id, .. } => {
            payments::tenant_of(&mut *services.mall().read().await?, *order_id).await?
        }
        _ => None,
    };
    let windows = match tenant_id {
        Some(tenant_id) => Some(Windows::of(&Rules::of(&services, tenant_id).await?)),
        None => None,
    };
    for attempt in 1.. {
        let now = services.now();
        let mut tx = services.mall().begin(now).await?;
        let done = act(&mut tx, now, windows, &notification).await;
        match tx.end(done).await {
            Err(OperationalError::Contended { .. }) if attempt < ATTEMPTS => {}
            done => return Ok(Json(done?)),
        }
    }
    unreachable!("the last attempt returns")
}
