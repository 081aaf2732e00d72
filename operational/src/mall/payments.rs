//! Payment of an order, and what the other services must hear of it.

use axum::{Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use sqlx::FromRow;
use utoipa::ToSchema;

use super::orders::{self, Order, OrderStatus};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    http::{Answer, Begun, Command, ErrorBody, Failure, Id, begin},
};

/// The longest name of a method.
const METHOD_LENGTH_MAX: usize = 32;

/// A payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Payment {
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
    pub paid_at: i64,
}

/// A payment with the order it paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
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
    let order = orders::find(tx, scope.tenant_id, order_id).await?;
    match order.status {
        OrderStatus::Created => {}
        OrderStatus::Paid => {
            return Err(OperationalError::conflict(format!("order {order_id} is already paid")));
        }
        OrderStatus::Closed => {
            return Err(OperationalError::conflict(format!("order {order_id} is closed")));
        }
    }
    let payment_id: i64 = sqlx::query_scalar(
        "insert into payment (tenant_id, order_id, amount_fen, method, paid_at)
         values (?1, ?2, ?3, ?4, ?5) returning payment_id",
    )
    .bind(scope.tenant_id)
    .bind(order_id)
    .bind(order.payable_fen)
    .bind(method)
    .bind(scope.now)
    .fetch_one(&mut **tx)
    .await?;
    sqlx::query("update orders set status = 'paid', paid_at = ?2 where order_id = ?1")
        .bind(order_id)
        .bind(scope.now)
        .execute(&mut **tx)
        .await?;
    tell_others(tx, payment_id).await?;
    let payment = Payment {
        payment_id,
        tenant_id: scope.tenant_id,
        order_id,
        amount_fen: order.payable_fen,
        method: method.to_owned(),
        paid_at: scope.now,
    };
    let order = Order { status: OrderStatus::Paid, paid_at: Some(scope.now), ..order };
    Ok(PaidOrder { payment, order })
}

/// Writes an [`OrderPaid`](crate::OrderPaid) message, if another service has something to do: the
/// order has a promoter, or a line is a medicine.
async fn tell_others(tx: &mut WriteTransaction, payment_id: i64) -> Result<(), OperationalError> {
    sqlx::query(
        "insert into outbox (event_type, created_at, payload)
         select 'order_paid', m.paid_at, json_object(
             'payment_id', m.payment_id, 'tenant_id', o.tenant_id, 'order_id', o.order_id,
             'person_id', o.person_id, 'promoter_id', o.promoter_id, 'paid_at', m.paid_at,
             'lines', json((
                 select json_group_array(json_object(
                     'order_line_id', l.order_line_id, 'product_id', l.product_id,
                     'quantity', l.quantity, 'cash_fen', l.cash_fen, 'drug_code', p.drug_code,
                     'drug_class', p.drug_class, 'days_supply_per_unit', p.days_supply_per_unit
                 ) order by l.line_number)
                 from order_line l join product p on p.product_id = l.product_id
                 where l.order_id = o.order_id)))
         from payment m join orders o on o.order_id = m.order_id
         where m.payment_id = ?1
           and (o.promoter_id is not null or exists (
               select 1 from order_line l join product p on p.product_id = l.product_id
               where l.order_id = o.order_id and p.drug_code is not null))",
    )
    .bind(payment_id)
    .execute(&mut **tx)
    .await?;
    Ok(())
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
    match begin(services.mall(), services.now(), command).await? {
        (Begun::Before(answer), _) => Ok(answer),
        (Begun::New(mut pending), request) => {
            let paid = pay(&mut pending.tx, pending.scope, order_id, &request.method).await?;
            Ok(pending.finish(StatusCode::CREATED, &paid).await?)
        }
    }
}
