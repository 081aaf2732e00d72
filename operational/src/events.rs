use serde::{Deserialize, Serialize};

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
