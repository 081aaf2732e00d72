use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::outbox::Event;

/// An order of which another service has something to do was paid. Written by the mall, in the
/// transaction of the payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderPaid {
    /// The payment, the cause of whatever follows.
    pub payment_id: i64,
    /// The tenant.
    pub tenant_id: i64,
    /// The order.
    pub order_id: i64,
    /// Who bought.
    pub person_id: i64,
    /// The distributor stamped on the order when it was placed.
    pub promoter_id: Option<i64>,
    /// When, in microseconds since 1970 (UTC).
    pub paid_at: i64,
    /// All lines of the order, in order.
    pub lines: Vec<PaidLine>,
}

/// A line of a paid order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow)]
pub struct PaidLine {
    /// The line.
    pub order_line_id: i64,
    /// What was bought.
    pub product_id: i64,
    /// Which variant of it.
    pub variant_id: i64,
    /// How many units.
    pub quantity: i64,
    /// What was paid for the line, after all discounts.
    pub cash_fen: i64,
    /// The drug, for a medicine.
    pub drug_code: Option<String>,
    /// Its class.
    pub drug_class: Option<String>,
    /// How many days one unit lasts.
    pub days_supply_per_unit: Option<i64>,
    /// For how many days after its receipt it may be given back without a reason.
    pub return_window_days: i64,
    /// The campaign whose price it was sold at.
    #[serde(default)]
    pub campaign_id: Option<i64>,
}

/// What was bought is with the buyer. Written by the mall, in the transaction that says so; only for
/// orders that were told of when they were paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderReceived {
    /// The tenant.
    pub tenant_id: i64,
    /// The order.
    pub order_id: i64,
    /// Who bought.
    pub person_id: i64,
    /// The distributor stamped on the order when it was placed.
    #[serde(default)]
    pub promoter_id: Option<i64>,
    /// When, in microseconds since 1970 (UTC).
    pub received_at: i64,
    /// All lines of the order, in order.
    pub lines: Vec<ReceivedLine>,
}

/// A line of a received order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedLine {
    /// The line.
    pub order_line_id: i64,
    /// Until when it may be given back without a reason, in microseconds since 1970 (UTC).
    pub return_window_ends_at: i64,
}

/// An order came to its end before it was received: it was not paid in time, was given up, or all of
/// it was refunded. Written by the mall, in the transaction that closes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderClosed {
    /// The tenant.
    pub tenant_id: i64,
    /// The order.
    pub order_id: i64,
    /// Who bought.
    pub person_id: i64,
    /// Whether it had been paid: then refunds tell of the rest.
    pub paid: bool,
    /// When, in microseconds since 1970 (UTC).
    pub closed_at: i64,
}

/// Units of a paid order were refunded. Written by the mall, in the transaction of the refund.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRefunded {
    /// The refund, the cause of whatever follows.
    pub refund_id: i64,
    /// The tenant.
    pub tenant_id: i64,
    /// The order.
    pub order_id: i64,
    /// The distributor stamped on the order when it was placed.
    #[serde(default)]
    pub promoter_id: Option<i64>,
    /// When, in microseconds since 1970 (UTC).
    pub refunded_at: i64,
    /// The refunded lines.
    pub lines: Vec<RefundedLine>,
}

/// A line after a refund. The totals make a late or repeated delivery harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundedLine {
    /// The line.
    pub order_line_id: i64,
    /// Units that remain with the buyer.
    pub quantity_left: i64,
    /// Refunded so far, this refund included.
    pub refunded_fen: i64,
}

/// Something that a person has to look at, such as a reading out of its bounds or a tree of distributors
/// that grew too deep. The notification service tells the tenant's staff and, if one is named, the
/// person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertRaised {
    /// The tenant.
    pub tenant_id: i64,
    /// Which alert it is, such as `reading:17`: told of once, however often it is raised.
    pub alert_key: String,
    /// What kind of alert, which is the name of the template it is told by, such as `reading_high`.
    pub kind: String,
    /// What it is about, such as `patient:7`.
    pub subject: String,
    /// The person it is about, who is told too.
    pub person_id: Option<i64>,
    /// When, in microseconds since 1970 (UTC).
    pub raised_at: i64,
    /// What the template may name. No personal identifiers: the text leaves the house.
    pub parameters: BTreeMap<String, String>,
}

/// A person is to be told something: a reminder, a result, a step of a care programme. Sent by the
/// notification service, by the person's channels and outside of their quiet hours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationRequested {
    /// The tenant.
    pub tenant_id: i64,
    /// Which notification it is, such as `reminder_slot:17`: sent once, however often it is requested.
    pub request_key: String,
    /// The name of the template.
    pub template: String,
    /// Who is told.
    pub person_id: i64,
    /// When, in microseconds since 1970 (UTC).
    pub requested_at: i64,
    /// What the template may name.
    pub parameters: BTreeMap<String, String>,
}

/// What an event is called, and what it happened to.
macro_rules! events {
    ($($event:ident = $name:literal of $about:expr;)*) => {$(
        impl Event for $event {
            const TYPE: &'static str = $name;

            fn tenant_id(&self) -> i64 {
                self.tenant_id
            }

            fn aggregate(&self) -> String {
                let about: fn(&Self) -> String = $about;
                about(self)
            }
        }
    )*};
}

events! {
    OrderPaid = "order_paid" of |event| format!("order:{}", event.order_id);
    OrderRefunded = "order_refunded" of |event| format!("order:{}", event.order_id);
    OrderReceived = "order_received" of |event| format!("order:{}", event.order_id);
    OrderClosed = "order_closed" of |event| format!("order:{}", event.order_id);
    AlertRaised = "alert_raised" of |event| event.subject.clone();
    NotificationRequested = "notification_requested" of |event| format!("person:{}", event.person_id);
}
