//! Payment of an order, and what the other services must hear of it. Money that comes for an order that
//! is closed, or paid already, is on its way back at once.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Rules,
    order_states::{self, check_step},
    orders::{self, Order, OrderStatus},
    visits::{self, Windows},
};
use crate::{
    Limit, OperationalError, OrderPaid, PaidLine, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
    names::is_name,
    outbox,
};

/// The longest name of a method.
const METHOD_LENGTH_MAX: usize = 32;

words! {
    /// How far a payment is.
    pub enum PaymentStatus {
        /// It paid its order.
        Succeeded = "succeeded",
        /// It is to be sent back.
        Returning = "returning",
        /// It was sent back.
        Returned = "returned",
    }
}

words! {
    /// Why a payment is sent back.
    pub enum ReturnReason {
        /// Its order was closed before it came.
        OrderClosed = "order_closed",
        /// Its order was paid already.
        PaidTwice = "paid_twice",
    }
}

record! {
    /// A payment.
    pub struct Payment in "payment" {
        /// Its id.
        pub payment_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The order.
        pub order_id: i64,
        /// The order again, if it paid it: one payment does.
        pub paid_order_id: Option<i64>,
        /// What was paid: the order's payable amount, unless it is sent back.
        pub amount_fen: i64,
        /// How, such as `wechat_pay`.
        pub method: String,
        /// How far it is.
        pub status: PaymentStatus,
        /// What the channel calls it.
        pub channel_transaction_id: Option<String>,
        /// Why it is sent back.
        pub return_reason: Option<ReturnReason>,
        /// What the channel calls its return.
        pub channel_refund_id: Option<String>,
        /// Microseconds since 1970 (UTC).
        pub paid_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub returned_at: Option<Micros>,
    }
}

/// A payment with the order it paid.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PaidOrder {
    /// The payment.
    pub payment: Payment,
    /// The order.
    pub order: Order,
}

/// What a payment channel tells of a payment.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChannelPayment<'a> {
    pub(super) channel: &'a str,
    pub(super) order_id: i64,
    pub(super) transaction_id: &'a str,
    pub(super) amount_fen: i64,
}

/// Pays an order in full, as confirmed by whoever asks.
///
/// # Errors
/// `NotFound`; `Conflict` when it is paid or closed; `Invalid` for a method that is no name.
pub async fn pay(
    tx: &mut WriteTransaction,
    scope: Scope,
    order_id: i64,
    method: &str,
) -> Result<PaidOrder, OperationalError> {
    settle(tx, scope, order_id, method, None).await
}

/// As [`pay`]; `windows` say which visits count as what brought the buyer.
pub(super) async fn settle(
    tx: &mut WriteTransaction,
    scope: Scope,
    order_id: i64,
    method: &str,
    windows: Option<Windows>,
) -> Result<PaidOrder, OperationalError> {
    if !is_name(method, METHOD_LENGTH_MAX) {
        return Err(OperationalError::invalid(
            "method must be a name of up to 32 lower-case letters, digits and underscores",
        ));
    }
    let order = orders::find_for_update(tx, scope, order_id).await?;
    check_step(&order, OrderStatus::Paid)?;
    let payment = Payment {
        payment_id: tx.id::<Payment>(None).await?,
        tenant_id: scope.tenant_id,
        order_id,
        paid_order_id: Some(order_id),
        amount_fen: order.payable_fen,
        method: method.to_owned(),
        status: PaymentStatus::Succeeded,
        channel_transaction_id: None,
        return_reason: None,
        channel_refund_id: None,
        paid_at: Micros(scope.now),
        returned_at: None,
    };
    let order = paid(tx, scope, order, &payment, windows).await?;
    Ok(PaidOrder { payment, order })
}

/// Takes in what a channel tells. The same transaction told again changes nothing.
///
/// # Errors
/// `NotFound`; `Conflict` when the amount is not what the order comes to, or the transaction was told of
/// with other facts.
pub(super) async fn take_in(
    tx: &mut WriteTransaction,
    now: i64,
    told: ChannelPayment<'_>,
    windows: Option<Windows>,
) -> Result<PaidOrder, OperationalError> {
    let ChannelPayment { channel, order_id, transaction_id, amount_fen } = told;
    // The channel knows no tenants; the order tells. Whoever holds it tells of its payments.
    let order: Order = sql("select * from orders where order_id = ?1 for update")
        .bind(order_id)
        .first(tx)
        .await?
        .ok_or(OperationalError::not_found("order", order_id))?;
    let scope = Scope::of(order.tenant_id, now);
    let known: Option<Payment> = sql("select * from payment
         where tenant_id = ?1 and method = ?2 and channel_transaction_id = ?3")
    .bind(scope.tenant_id)
    .bind(channel)
    .bind(transaction_id)
    .first(tx)
    .await?;
    if let Some(payment) = known {
        if payment.order_id != order_id || payment.amount_fen != amount_fen {
            return Err(OperationalError::conflict(format!(
                "transaction \"{transaction_id}\" of {channel} is known with another order or amount"
            )));
        }
        return Ok(PaidOrder { payment, order });
    }
    let return_reason = match order.status {
        OrderStatus::Created if amount_fen != order.payable_fen => {
            return Err(OperationalError::conflict(format!(
                "order {order_id} comes to {} fen, not to {amount_fen}",
                order.payable_fen
            )));
        }
        OrderStatus::Created => None,
        _ if order.paid_at.is_some() => Some(ReturnReason::PaidTwice),
        _ => Some(ReturnReason::OrderClosed),
    };
    let payment = Payment {
        payment_id: tx.id::<Payment>(None).await?,
        tenant_id: scope.tenant_id,
        order_id,
        paid_order_id: return_reason.is_none().then_some(order_id),
        amount_fen,
        method: channel.to_owned(),
        status: match return_reason {
            None => PaymentStatus::Succeeded,
            Some(_) => PaymentStatus::Returning,
        },
        channel_transaction_id: Some(transaction_id.to_owned()),
        return_reason,
        channel_refund_id: None,
        paid_at: Micros(now),
        returned_at: None,
    };
    let order = match return_reason {
        None => paid(tx, scope, order, &payment, windows).await?,
        Some(_) => {
            insert_one(tx, &payment).await?;
            order
        }
    };
    Ok(PaidOrder { payment, order })
}

/// Whose an order is, for a channel, which knows no tenants.
pub(super) async fn tenant_of(
    connection: &mut Connection,
    order_id: i64,
) -> Result<Option<i64>, OperationalError> {
    let found: Option<(i64,)> = sql("select tenant_id from orders where order_id = ?1")
        .bind(order_id)
        .first(connection)
        .await?;
    Ok(found.map(|(tenant_id,)| tenant_id))
}

/// Writes a payment and what becomes of its order, which the transaction holds.
async fn paid(
    tx: &mut WriteTransaction,
    scope: Scope,
    order: Order,
    payment: &Payment,
    windows: Option<Windows>,
) -> Result<Order, OperationalError> {
    let touch = match windows {
        Some(windows) => visits::last_touch(tx, scope, order.person_id, windows).await?,
        None => None,
    };
    insert_one(tx, payment).await?;
    let order = Order {
        status: OrderStatus::Paid,
        paid_at: Some(payment.paid_at),
        due_at: None,
        touch_visit_id: touch.map(|touch| touch.visit_id),
        touch_kind: touch.map(|touch| touch.kind),
        ..order
    };
    sql("update orders set status = 'paid', paid_at = ?2, due_at = null, touch_visit_id = ?3,
             touch_kind = ?4
         where order_id = ?1")
    .bind(order.order_id)
    .bind(payment.paid_at)
    .bind(order.touch_visit_id)
    .bind(order.touch_kind)
    .execute(tx)
    .await?;
    let from = Some(OrderStatus::Created);
    order_states::note(tx, scope, order.order_id, from, OrderStatus::Paid, None).await?;
    tell_others(tx, &order, payment).await?;
    Ok(order)
}

/// Notes that a payment was sent back. Told again, nothing changes.
///
/// # Errors
/// `NotFound`; `Conflict` when it is not to be sent back.
pub(super) async fn returned(
    tx: &mut WriteTransaction,
    now: i64,
    channel: &str,
    transaction_id: &str,
    channel_refund_id: &str,
) -> Result<Payment, OperationalError> {
    let payment: Option<Payment> = sql("select * from payment
         where method = ?1 and channel_transaction_id = ?2 for update")
    .bind(channel)
    .bind(transaction_id)
    .first(tx)
    .await?;
    let payment = payment.ok_or_else(|| {
        OperationalError::conflict(format!(
            "transaction \"{transaction_id}\" of {channel} is not known"
        ))
    })?;
    match payment.status {
        PaymentStatus::Returned => return Ok(payment),
        PaymentStatus::Succeeded => {
            return Err(OperationalError::conflict(format!(
                "payment {} paid its order and is not to be sent back",
                payment.payment_id
            )));
        }
        PaymentStatus::Returning => {}
    }
    sql("update payment set status = 'returned', channel_refund_id = ?2, returned_at = ?3
         where payment_id = ?1")
    .bind(payment.payment_id)
    .bind(channel_refund_id)
    .bind(Micros(now))
    .execute(tx)
    .await?;
    Ok(Payment {
        status: PaymentStatus::Returned,
        channel_refund_id: Some(channel_refund_id.to_owned()),
        returned_at: Some(Micros(now)),
        ..payment
    })
}

/// Writes an [`OrderPaid`](crate::OrderPaid) message, if another service has something to do: the
/// order has a promoter, or a line is a medicine.
async fn tell_others(
    tx: &mut WriteTransaction,
    order: &Order,
    payment: &Payment,
) -> Result<(), OperationalError> {
    let lines: Vec<PaidLine> = sql(
        "select l.order_line_id, l.product_id, l.variant_id, l.quantity, l.cash_fen, p.drug_code,
             p.drug_class, v.days_supply_per_unit, l.return_window_days,
             (select min(d.campaign_id) from order_line_discount d
              where d.order_line_id = l.order_line_id and d.kind = 'item') as campaign_id
         from order_line l join product p on p.product_id = l.product_id
         join product_variant v on v.variant_id = l.variant_id
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
    #[schema(example = "wechat_pay", min_length = 1, max_length = 32, pattern = "^[a-z0-9_]+$")]
    method: String,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/mall/orders/{id}/pay", routing::post(post))
        .route("/mall/payments", routing::get(get_all))
}

/// Pay an order in full.
#[utoipa::path(post, path = "/mall/orders/{id}/pay", tag = "mall", request_body = PayRequest,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = PaidOrder), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    scope: Scope,
    Id(order_id): Id,
    command: Command<PayRequest>,
) -> Result<Answer, Failure> {
    let windows = Windows::of(&Rules::of(&services, scope.tenant_id).await?);
    command
        .carry_out(services.mall(), services.now(), StatusCode::CREATED, |tx, scope, request| {
            Box::pin(settle(tx, scope, order_id, &request.method, Some(windows)))
        })
        .await
}

/// Which payments.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct PaymentFilter {
    /// Of this order only.
    order_id: Option<i64>,
    /// Only those so far; `returning` are to be sent back through their channel.
    status: Option<PaymentStatus>,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

/// Payments by id.
async fn list(
    connection: &mut Connection,
    scope: Scope,
    filter: PaymentFilter,
) -> Result<Vec<Payment>, OperationalError> {
    sql("select p.* from payment p join orders o on o.order_id = p.order_id
         where p.tenant_id = ?1 and (?2 is null or p.order_id = ?2)
             and (?3 is null or p.status = ?3) and p.payment_id > ?4
             and (?6 is null or o.person_id = ?6)
         order by p.payment_id limit ?5")
    .bind(scope.tenant_id)
    .bind(filter.order_id)
    .bind(filter.status)
    .bind(filter.after_id)
    .bind(filter.limit.rows())
    .bind(scope.only_person())
    .all(connection)
    .await
}

/// List payments.
#[utoipa::path(get, path = "/mall/payments", tag = "mall", params(PaymentFilter),
    responses((status = 200, body = List<Payment>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(filter): Params<PaymentFilter>,
) -> Result<Json<List<Payment>>, Failure> {
    let mut tx = services.mall().read().await?;
    Ok(Json(List { items: list(&mut tx, scope, filter).await? }))
}
