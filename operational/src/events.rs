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
