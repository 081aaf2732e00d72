//! Stock of each pharmacy: what is there, what of it is promised, and every movement of it.
//!
//! **Invariant:** `0 <= reserved <= on_hand`, and both are the sums of the movements. Units are reserved
//! when an order is placed, released when it is closed or a unit is refunded before it is shipped, and
//! leave when it is shipped. Each change is one guarded update, so what two orders want at once is sold
//! once, whatever either has read before.

use std::collections::BTreeMap;

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{limits::check_note, orders::OrderLine, pharmacies, variants};
use crate::{
    Limit, OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, List, Params},
};

/// The most units of one movement, and of one stock.
const UNITS_MAX: i64 = 1_000_000_000;

words! {
    /// Why a stock changed.
    pub enum MovementKind {
        /// Goods came in.
        Receipt = "receipt",
        /// They were counted, broken or lost.
        Adjustment = "adjustment",
        /// An order was placed.
        Reserve = "reserve",
        /// It was closed, or units were refunded before they were shipped.
        Release = "release",
        /// It was shipped.
        Shipment = "shipment",
        /// Refunded units came back and can be sold again.
        Return = "return",
    }
}

record! {
    /// What a pharmacy has of a variant.
    pub struct Stock in "stock" {
        /// Its id.
        pub stock_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The pharmacy.
        pub pharmacy_id: i64,
        /// The variant.
        pub variant_id: i64,
        /// Units that are there.
        pub on_hand: i64,
        /// Units of them that orders wait for.
        pub reserved: i64,
        /// Microseconds since 1970 (UTC).
        pub updated_at: Micros,
    }
}

record! {
    /// A change of a stock.
    pub struct Movement in "stock_movement" {
        /// Its id.
        pub stock_movement_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The pharmacy.
        pub pharmacy_id: i64,
        /// The variant.
        pub variant_id: i64,
        /// Why.
        pub kind: MovementKind,
        /// By how many units what is there changed.
        pub on_hand_change: i64,
        /// By how many units what is promised changed.
        pub reserved_change: i64,
        /// For which line of an order.
        pub order_line_id: Option<i64>,
        /// In words.
        pub reason: Option<String>,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
    }
}

/// Goods that came in, or a correction.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMovement {
    /// The pharmacy.
    #[schema(minimum = 1)]
    pub pharmacy_id: i64,
    /// The variant.
    #[schema(minimum = 1)]
    pub variant_id: i64,
    /// By how many units what is there changes. What comes in is `receipt`; anything else, also below
    /// zero, is `adjustment`.
    #[schema(minimum = -1_000_000_000, maximum = 1_000_000_000)]
    pub on_hand_change: i64,
    /// `receipt` or `adjustment`.
    pub kind: MovementKind,
    /// In words.
    #[schema(max_length = 2_000)]
    pub reason: Option<String>,
}

/// Units of a line of an order.
#[derive(Debug, Clone, Copy)]
pub(super) struct LineUnits {
    pub(super) order_line_id: i64,
    pub(super) variant_id: i64,
    pub(super) units: i64,
}

/// Takes goods in, or corrects what is there.
///
/// # Errors
/// `NotFound` for an unknown pharmacy or variant; `Invalid` for a kind that orders cause, or a number
/// outside its range; `Conflict` when fewer units would be there than are reserved.
pub async fn move_by_hand(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewMovement,
) -> Result<Stock, OperationalError> {
    let fits = match new.kind {
        MovementKind::Receipt => (1..=UNITS_MAX).contains(&new.on_hand_change),
        MovementKind::Adjustment => {
            new.on_hand_change != 0 && (-UNITS_MAX..=UNITS_MAX).contains(&new.on_hand_change)
        }
        _ => false,
    };
    if !fits {
        return Err(OperationalError::invalid(
            "on_hand_change must be 1 to 1000000000 of kind receipt, or not 0 of kind adjustment",
        ));
    }
    check_note("reason", new.reason.as_deref().unwrap_or_default())?;
    pharmacies::find(tx, scope.tenant_id, new.pharmacy_id).await?;
    variants::find(tx, scope.tenant_id, new.variant_id).await?;
    let stock = Stock {
        stock_id: tx.id::<Stock>(None).await?,
        tenant_id: scope.tenant_id,
        pharmacy_id: new.pharmacy_id,
        variant_id: new.variant_id,
        on_hand: 0,
        reserved: 0,
        updated_at: Micros(scope.now),
    };
    sql("insert into stock
             (stock_id, tenant_id, pharmacy_id, variant_id, on_hand, reserved, updated_at)
         values (?1, ?2, ?3, ?4, 0, 0, ?5) on conflict (pharmacy_id, variant_id) do nothing")
    .bind(stock.stock_id)
    .bind(stock.tenant_id)
    .bind(stock.pharmacy_id)
    .bind(stock.variant_id)
    .bind(stock.updated_at)
    .execute(tx)
    .await?;
    let change = Change { on_hand: new.on_hand_change, reserved: 0 };
    if !change_stock(tx, scope, new.pharmacy_id, new.variant_id, change).await? {
        return Err(OperationalError::conflict(format!(
            "the stock of variant {} cannot change by {}: units of it are reserved, or it would be \
             more than {UNITS_MAX}",
            new.variant_id, new.on_hand_change
        )));
    }
    let movement = Movement {
        stock_movement_id: tx.id::<Movement>(None).await?,
        tenant_id: scope.tenant_id,
        pharmacy_id: new.pharmacy_id,
        variant_id: new.variant_id,
        kind: new.kind,
        on_hand_change: new.on_hand_change,
        reserved_change: 0,
        order_line_id: None,
        reason: new.reason.clone(),
        created_at: Micros(scope.now),
    };
    insert_one(tx, &movement).await?;
    sql("select * from stock where pharmacy_id = ?1 and variant_id = ?2")
        .bind(new.pharmacy_id)
        .bind(new.variant_id)
        .one(tx)
        .await
}

/// Reserves units for lines of an order.
///
/// # Errors
/// `Conflict` when the pharmacy has fewer of one of them.
pub(super) async fn reserve(
    tx: &mut WriteTransaction,
    scope: Scope,
    pharmacy_id: i64,
    lines: &[LineUnits],
) -> Result<(), OperationalError> {
    move_for_lines(tx, scope, pharmacy_id, MovementKind::Reserve, lines).await
}

/// How many units are reserved for lines of an order now; none of a variant that is not counted.
pub(super) async fn reserved_for(
    connection: &mut Connection,
    lines: &[OrderLine],
) -> Result<Vec<LineUnits>, OperationalError> {
    of_lines(
        connection,
        lines,
        "select order_line_id, variant_id, cast(sum(reserved_change) as signed)
         from stock_movement where order_line_id in {list}
         group by order_line_id, variant_id order by order_line_id",
    )
    .await
}

/// How many units of lines of an order are with the buyer; none of a variant that is not counted.
pub(super) async fn shipped_for(
    connection: &mut Connection,
    lines: &[OrderLine],
) -> Result<Vec<LineUnits>, OperationalError> {
    of_lines(
        connection,
        lines,
        "select order_line_id, variant_id, cast(-sum(on_hand_change) as signed)
         from stock_movement where order_line_id in {list}
         group by order_line_id, variant_id order by order_line_id",
    )
    .await
}

async fn of_lines(
    connection: &mut Connection,
    lines: &[OrderLine],
    text: &'static str,
) -> Result<Vec<LineUnits>, OperationalError> {
    let rows: Vec<(i64, i64, i64)> =
        sql(text).list(lines.iter().map(|line| line.order_line_id)).all(connection).await?;
    Ok(rows
        .into_iter()
        .filter(|(_, _, units)| *units > 0)
        .map(|(order_line_id, variant_id, units)| LineUnits { order_line_id, variant_id, units })
        .collect())
}

/// Gives up what is reserved for these units.
pub(super) async fn release(
    tx: &mut WriteTransaction,
    scope: Scope,
    pharmacy_id: i64,
    lines: &[LineUnits],
) -> Result<(), OperationalError> {
    move_for_lines(tx, scope, pharmacy_id, MovementKind::Release, lines).await
}

/// Sends off what is reserved for these units.
pub(super) async fn ship(
    tx: &mut WriteTransaction,
    scope: Scope,
    pharmacy_id: i64,
    lines: &[LineUnits],
) -> Result<(), OperationalError> {
    move_for_lines(tx, scope, pharmacy_id, MovementKind::Shipment, lines).await
}

/// Puts shipped units back that can be sold again.
pub(super) async fn put_back(
    tx: &mut WriteTransaction,
    scope: Scope,
    pharmacy_id: i64,
    lines: &[LineUnits],
) -> Result<(), OperationalError> {
    move_for_lines(tx, scope, pharmacy_id, MovementKind::Return, lines).await
}

#[derive(Debug, Clone, Copy)]
struct Change {
    on_hand: i64,
    reserved: i64,
}

impl MovementKind {
    /// What one unit of a line changes.
    const fn of_unit(self) -> Change {
        match self {
            Self::Reserve => Change { on_hand: 0, reserved: 1 },
            Self::Release => Change { on_hand: 0, reserved: -1 },
            Self::Shipment => Change { on_hand: -1, reserved: -1 },
            Self::Receipt | Self::Adjustment | Self::Return => Change { on_hand: 1, reserved: 0 },
        }
    }
}

async fn move_for_lines(
    tx: &mut WriteTransaction,
    scope: Scope,
    pharmacy_id: i64,
    kind: MovementKind,
    lines: &[LineUnits],
) -> Result<(), OperationalError> {
    // In one order for all, so that two orders of the same variants never wait for each other.
    let mut of_variant = BTreeMap::new();
    for line in lines.iter().filter(|line| line.units > 0) {
        *of_variant.entry(line.variant_id).or_insert(0) += line.units;
    }
    let unit = kind.of_unit();
    for (variant_id, units) in of_variant {
        let change = Change { on_hand: unit.on_hand * units, reserved: unit.reserved * units };
        if !change_stock(tx, scope, pharmacy_id, variant_id, change).await? {
            let left: Option<(i64,)> = sql(
                "select on_hand - reserved from stock where pharmacy_id = ?1 and variant_id = ?2",
            )
            .bind(pharmacy_id)
            .bind(variant_id)
            .first(tx)
            .await?;
            let left = left.map_or(0, |(left,)| left);
            return Err(OperationalError::conflict(format!(
                "pharmacy {pharmacy_id} has {left} units left of variant {variant_id}, not {units}"
            )));
        }
    }
    let moved: Vec<&LineUnits> = lines.iter().filter(|line| line.units > 0).collect();
    let ids = tx.ids::<Movement>(moved.iter().map(|_| None)).await?;
    let movements: Vec<Movement> = ids
        .into_iter()
        .zip(moved)
        .map(|(stock_movement_id, line)| Movement {
            stock_movement_id,
            tenant_id: scope.tenant_id,
            pharmacy_id,
            variant_id: line.variant_id,
            kind,
            on_hand_change: unit.on_hand * line.units,
            reserved_change: unit.reserved * line.units,
            order_line_id: Some(line.order_line_id),
            reason: None,
            created_at: Micros(scope.now),
        })
        .collect();
    insert(tx, &movements).await
}

/// Changes a stock if it can: tells whether it did.
async fn change_stock(
    tx: &mut WriteTransaction,
    scope: Scope,
    pharmacy_id: i64,
    variant_id: i64,
    change: Change,
) -> Result<bool, OperationalError> {
    let changed = sql("update stock set on_hand = on_hand + ?3, reserved = reserved + ?4,
             updated_at = ?5
         where pharmacy_id = ?1 and variant_id = ?2 and tenant_id = ?6
             and reserved + ?4 between 0 and on_hand + ?3 and on_hand + ?3 <= ?7")
    .bind(pharmacy_id)
    .bind(variant_id)
    .bind(change.on_hand)
    .bind(change.reserved)
    .bind(Micros(scope.now))
    .bind(scope.tenant_id)
    .bind(UNITS_MAX)
    .execute(tx)
    .await?;
    Ok(changed > 0)
}

/// Which stocks, or movements of one.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct StockFilter {
    /// Of this pharmacy.
    pharmacy_id: i64,
    /// Of this variant only.
    variant_id: Option<i64>,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/mall/stock", routing::get(get_all))
        .route("/mall/stock/movements", routing::post(post).get(get_movements))
}

/// Take goods in, or correct what is there.
#[utoipa::path(post, path = "/mall/stock/movements", tag = "mall", request_body = NewMovement,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Stock), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewMovement>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::CREATED, |tx, scope, new| {
            Box::pin(move_by_hand(tx, scope, new))
        })
        .await
}

/// List what a pharmacy has.
#[utoipa::path(get, path = "/mall/stock", tag = "mall", params(StockFilter),
    responses((status = 200, body = List<Stock>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(filter): Params<StockFilter>,
) -> Result<Json<List<Stock>>, Failure> {
    let items = sql("select * from stock where tenant_id = ?1 and pharmacy_id = ?2
             and (?3 is null or variant_id = ?3) and stock_id > ?4 order by stock_id limit ?5")
    .bind(scope.tenant_id)
    .bind(filter.pharmacy_id)
    .bind(filter.variant_id)
    .bind(filter.after_id)
    .bind(filter.limit.rows())
    .all(&mut *services.mall().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// List the movements of a pharmacy's stock.
#[utoipa::path(get, path = "/mall/stock/movements", tag = "mall", params(StockFilter),
    responses((status = 200, body = List<Movement>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_movements(
    State(services): State<Services>,
    scope: Scope,
    Params(filter): Params<StockFilter>,
) -> Result<Json<List<Movement>>, Failure> {
    let items = sql("select * from stock_movement where tenant_id = ?1 and pharmacy_id = ?2
             and (?3 is null or variant_id = ?3) and stock_movement_id > ?4
         order by stock_movement_id limit ?5")
    .bind(scope.tenant_id)
    .bind(filter.pharmacy_id)
    .bind(filter.variant_id)
    .bind(filter.after_id)
    .bind(filter.limit.rows())
    .all(&mut *services.mall().read().await?)
    .await?;
    Ok(Json(List { items }))
}
