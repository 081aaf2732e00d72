//! Payment of an order, and what the other services must hear of it.

use axum::{Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::orders::{self, Order, OrderStatus};
use crate::{
    OperationalError, OrderPaid, PaidLine, Scope, Services, WriteTransaction,
    database::{Micros, insert_one, record, sql},
    http::{Answer, Command, ErrorBody, Failure, Id},
    outbox,
};

/// The longest name of a method.
const METHOD_LENGTH_MAX: usize = 32;

record! {
    /// A payment.
    pub struct Payment in "payment" {
        /// Its id.
        pub payment_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The order.
        pub order_id: i64,
        /// What was paid: the order's payable amount.
        pub amount_fen: i64,
        /// How, such as `wechat_pay`.
        pub method: String,
        /// Microseconds since 1970 (UTC).
        pub paid_at: Micros,
    }
}

/// A payment with the order it paid.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PaidOrder {
    /// The payment.
    pub payment: Payment,
    /// The order, now paid.
    pub order: Order,
}

/// Pays an order in full.
///
/// # Errors
/// `NotFound`; `Conflict` when it is paid or closed; `Invalid` for a method that is no name.
pub async fn pay(
    tx: &mut WriteTransaction,
    scope: Scope,
    order_id: i64,
    method: &str,
) -> Result<PaidOrder, OperationalError> {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if method.is_empty() || method.len() > METHOD_LENGTH_MAX || !method.chars().all(word) {
        return Err(OperationalError::invalid(
            "method must be a name of up to 32 lower-case letters, digits and underscores",
        ));
    }
    let order = orders::find_for_update(tx, scope.tenant_id, order_id).await?;
    match order.status {
        OrderStatus::Created => {}
        OrderStatus::Paid => {
            return Err(OperationalError::conflict(format!("order {order_id} is already paid")));
        }
        OrderStatus::Closed => {
            return Err(OperationalError::conflict(format!("order {order_id} is closed")));
        }
    }
    let payment = Payment {
        payment_id: tx.id::<Payment>(None).await?,
        tenant_id: scope.tenant_id,
        order_id,
        amount_fen: order.payable_fen,
        method: method.to_owned(),
        paid_at: Micros(scope.now),
    };
    insert_one(tx, &payment).await?;
    sql("update orders set status = 'paid', paid_at = ?2 where order_id = ?1")
        .bind(order_id)
        .bind(payment.paid_at)
        .execute(tx)
        .await?;
    tell_others(tx, &order, &payment).await?;
    let order = Order { status: OrderStatus::Paid, paid_at: Some(payment.paid_at), ..order };
    Ok(PaidOrder { payment, order })
}

/// Writes an [`OrderPaid`](crate::OrderPaid) message, if another service has something to do: the
/// order has a promoter, or a line is a medicine.
async fn tell_others(
    tx: &mut WriteTransaction,
    order: &Order,
    payment: &Payment,
) -> Result<(), OperationalError> {
    let lines: Vec<PaidLine> = sql(
        "select l.order_line_id, l.product_id, l.product_id as variant_id, l.quantity, l.cash_fen,
             p.drug_code, p.drug_class, p.days_supply_per_unit,
             case p.return_policy when 'seven_day' then 7 else 0 end as return_window_days
         from order_line l join product p on p.product_id = l.product_id
         where l.order_id = ?1 order by l.line_number",
    )
    .bind(order.order_id)
    .all(tx)
    .await?;
    if order.promoter_id.is_none() && lines.iter().all(|line| line.drug_code.is_none()) {
        return Ok(());
    }
    let paid = OrderPaid {
        payment_id: payment.payment_id,
        tenant_id: order.tenant_id,
        order_id: order.order_id,
        person_id: order.person_id,
        promoter_id: order.promoter_id,
        paid_at: payment.paid_at.0,
        lines,
    };
    outbox::put(tx, &paid).await
}

/// How an order is paid.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PayRequest {
    #[schema(example = "wechat_pay")]
    method: String,
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/mall/orders/{id}/pay", routing::post(post))
}

/// Pay an order in full.
#[utoipa::path(post, path = "/mall/orders/{id}/pay", tag = "mall", request_body = PayRequest,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = PaidOrder), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    Id(order_id): Id,
    command: Command<PayRequest>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::CREATED, |tx, scope, request| {
            Box::pin(pay(tx, scope, order_id, &request.method))
        })
        .await
}
