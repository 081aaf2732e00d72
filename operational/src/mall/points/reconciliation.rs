//! The ledger of points added up again, and held against the accounts, the lots and the orders.

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    OperationalError, Scope,
    database::{Connection, Micros, sql, words},
};

/// The most discrepancies of one kind that a report lists.
const LISTED_MAX: i64 = 100;

words! {
    /// What does not agree.
    pub enum PointsDiscrepancyKind {
        /// The available points of an account, with the ledger.
        Available = "available",
        /// The spent points of an account, with the ledger.
        Spent = "spent",
        /// The expired points of an account, with the ledger.
        Expired = "expired",
        /// The owed points of an account, with the ledger.
        Owed = "owed",
        /// What was granted to an account, with what became of it.
        Granted = "granted",
        /// The available points of an account, with those of its lots.
        Lots = "lots",
        /// What is left of a lot, with the ledger.
        Lot = "lot",
        /// What an order is paid with, with the ledger.
        OrderSpent = "order_spent",
        /// What an order earned, with the ledger.
        OrderEarned = "order_earned",
    }
}

/// Two numbers of points that should be the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PointsDiscrepancy {
    /// What does not agree.
    pub kind: PointsDiscrepancyKind,
    /// The account; for `lot` the lot, for `order_spent` and `order_earned` the order.
    pub id: i64,
    /// How many it should be.
    pub expected_points: i64,
    /// How many it is.
    pub found_points: i64,
}

/// What all accounts come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
pub struct PointsTotals {
    /// How many accounts there are.
    pub accounts: i64,
    /// To be spent.
    pub available_points: i64,
    /// Spent on orders.
    pub spent_points: i64,
    /// Not spent in time.
    pub expired_points: i64,
    /// Taken back after they were spent.
    pub owed_points: i64,
}

/// Whether all that knows of points agrees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PointsReconciliation {
    /// Microseconds since 1970 (UTC).
    pub checked_at: Micros,
    /// Whether there is no discrepancy.
    pub balanced: bool,
    /// What the accounts come to.
    pub totals: PointsTotals,
    /// What does not agree, at most a hundred of a kind.
    pub discrepancies: Vec<PointsDiscrepancy>,
}

/// What went to a place less what went away from it.
fn at(place: &str) -> String {
    format!(
        "cast(coalesce(sum(case when e.to_place = '{place}' then e.points
             when e.from_place = '{place}' then -e.points else 0 end), 0) as signed)"
    )
}

/// Statements that give a thing's id, how many points it should be and how many it is.
fn checks() -> [(PointsDiscrepancyKind, String); 9] {
    let of_account = |kind, expected: String, found: &str| {
        let text = format!(
            "select a.points_account_id, {expected}, {found}
             from points_account a
             left join points_entry e on e.points_account_id = a.points_account_id
             where a.tenant_id = ?1
             group by a.points_account_id, a.available_points, a.spent_points, a.expired_points,
                 a.owed_points"
        );
        (kind, text)
    };
    [
        of_account(PointsDiscrepancyKind::Available, at("available"), "a.available_points"),
        of_account(PointsDiscrepancyKind::Spent, at("spent"), "a.spent_points"),
        of_account(PointsDiscrepancyKind::Expired, at("expired"), "a.expired_points"),
        of_account(PointsDiscrepancyKind::Owed, at("owed"), "-a.owed_points"),
        of_account(
            PointsDiscrepancyKind::Granted,
            at("granted"),
            "a.owed_points - a.available_points - a.spent_points - a.expired_points",
        ),
        (
            PointsDiscrepancyKind::Lots,
            "select a.points_account_id, a.available_points,
                 cast(coalesce((select sum(l.available_points) from points_lot l
                     where l.points_account_id = a.points_account_id), 0) as signed)
             from points_account a where a.tenant_id = ?1"
                .to_owned(),
        ),
        (
            PointsDiscrepancyKind::Lot,
            format!(
                "select l.points_lot_id, {}, l.available_points
                 from points_lot l left join points_entry e on e.points_lot_id = l.points_lot_id
                 where l.tenant_id = ?1 group by l.points_lot_id, l.available_points",
                at("available")
            ),
        ),
        (
            PointsDiscrepancyKind::OrderSpent,
            "select o.order_id,
                 case when o.status = 'closed' and o.paid_at is null then 0 else o.points -
                     cast(coalesce((select sum(l.refunded_points) from order_line l
                         where l.order_id = o.order_id), 0) as signed) end,
                 cast(coalesce((select sum(case e.event_type when 'spend' then e.points
                         else -e.points end) from points_entry e
                     where e.order_id = o.order_id and e.event_type in ('spend', 'give_back')), 0)
                     as signed)
             from orders o where o.tenant_id = ?1 and o.points > 0"
                .to_owned(),
        ),
        // Of each line that part of its reward, rounded down, that is not refunded.
        (
            PointsDiscrepancyKind::OrderEarned,
            "select o.order_id,
                 case when o.completed_at is null then 0 else
                     cast(coalesce((select sum(
                         (l.reward_points * (l.cash_fen - l.refunded_fen)
                             - (l.reward_points * (l.cash_fen - l.refunded_fen)) % l.cash_fen)
                             / l.cash_fen) from order_line l
                         where l.order_id = o.order_id and l.cash_fen > 0), 0) as signed) end,
                 cast(coalesce((select sum(case e.event_type when 'earn' then e.points
                         else -e.points end) from points_entry e
                     where e.order_id = o.order_id and e.event_type in ('earn', 'take_back')), 0)
                     as signed)
             from orders o where o.tenant_id = ?1 and o.reward_points > 0"
                .to_owned(),
        ),
    ]
}

/// Adds everything up at one moment, and tells what does not agree.
///
/// # Errors
/// When the database fails.
pub async fn reconcile(
    connection: &mut Connection,
    scope: Scope,
) -> Result<PointsReconciliation, OperationalError> {
    let mut discrepancies = Vec::new();
    for (kind, text) in checks() {
        let rows: Vec<(i64, i64, i64)> = sql(format!(
            "select id, expected, found from (select 0 as id, 0 as expected, 0 as found
                 union all {text}) compared where expected <> found order by id limit ?2"
        ))
        .bind(scope.tenant_id)
        .bind(LISTED_MAX)
        .all(connection)
        .await?;
        discrepancies.extend(rows.into_iter().map(|(id, expected_points, found_points)| {
            PointsDiscrepancy { kind, id, expected_points, found_points }
        }));
    }
    let totals = sql("select count(*) as accounts,
             cast(coalesce(sum(available_points), 0) as signed) as available_points,
             cast(coalesce(sum(spent_points), 0) as signed) as spent_points,
             cast(coalesce(sum(expired_points), 0) as signed) as expired_points,
             cast(coalesce(sum(owed_points), 0) as signed) as owed_points
         from points_account where tenant_id = ?1")
    .bind(scope.tenant_id)
    .one(connection)
    .await?;
    Ok(PointsReconciliation {
        checked_at: Micros(scope.now),
        balanced: discrepancies.is_empty(),
        totals,
        discrepancies,
    })
}
