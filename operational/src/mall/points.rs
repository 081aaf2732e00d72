//! Points: earned by what was bought, spent as money, and paid for by the platform.
//!
//! An account is changed by entries of an append-only ledger only: each moves points from one place to
//! another, so whatever happens `granted = available + spent + expired - owed`. Points are kept in the lots
//! they were granted in, of which those that expire first are spent first; what an order gives back goes
//! into the lots it came from. Whoever changes an account holds it to the end of the transaction.

mod book;
pub mod reconciliation;
pub mod routes;
mod rules;

use std::collections::HashMap;

use serde::Deserialize;
use utoipa::ToSchema;

use super::{limits::check_text, orders::Order};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    calendar::DAY_MICROS,
    database::{Connection, Micros, insert, record, sql, words},
    timers::Timer,
};

use book::{Book, Changes};
pub use rules::{PointsRules, kept};

/// Accounts looked for at once of which something is due to expire.
const DUE_ACCOUNTS: i64 = 500;
/// The most points that a person grants or takes at once.
const ADJUSTED_MAX: u64 = 100_000_000;
/// The longest that points may be spent, in days.
const VALID_DAYS_MAX: i64 = 3_650;

/// Points expire.
pub(crate) const EXPIRY: Timer = Timer {
    name: "points that expire",
    run: |services| Box::pin(async move { expire(services).await.map(|_| ()) }),
};

words! {
    /// What happened to points.
    pub enum PointsEvent {
        /// Earned by an order that is completed.
        Earn = "earn",
        /// Of what was just earned, kept for what is owed.
        Settle = "settle",
        /// Spent on an order.
        Spend = "spend",
        /// Given back with an order, or a part of it.
        GiveBack = "give_back",
        /// Taken back, because what earned them was refunded.
        TakeBack = "take_back",
        /// Not spent in time.
        Expire = "expire",
        /// Granted or taken by a person.
        Adjust = "adjust",
    }
}

words! {
    /// Where points are.
    pub enum PointsPlace {
        /// With the platform: what it granted stands here with the other sign.
        Granted = "granted",
        /// To be spent.
        Available = "available",
        /// Spent on orders.
        Spent = "spent",
        /// Not spent in time.
        Expired = "expired",
        /// Taken back after they were spent; stands here with the other sign.
        Owed = "owed",
    }
}

record! {
    /// What a person has of points.
    pub struct PointsAccount in "points_account" {
        /// Its id.
        pub points_account_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// Whose.
        pub person_id: i64,
        /// To be spent.
        pub available_points: i64,
        /// Spent on orders.
        pub spent_points: i64,
        /// Not spent in time.
        pub expired_points: i64,
        /// Taken back after they were spent: what is earned next pays for them.
        pub owed_points: i64,
        /// Microseconds since 1970 (UTC).
        pub updated_at: Micros,
    }
}

record! {
    /// Points that were granted together.
    pub struct PointsLot in "points_lot" {
        /// Its id.
        pub points_lot_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The account.
        pub points_account_id: i64,
        /// The order that earned them.
        pub order_id: Option<i64>,
        /// How many there were.
        pub granted_points: i64,
        /// How many are left.
        pub available_points: i64,
        /// Until when they may be spent, exclusive: microseconds since 1970 (UTC).
        pub expires_at: Micros,
        /// When those that are left expire: microseconds since 1970 (UTC).
        pub due_at: Option<Micros>,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
    }
}

record! {
    /// A row of the ledger of points.
    pub struct PointsEntry in "points_entry" {
        /// Its id.
        pub points_entry_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The account.
        pub points_account_id: i64,
        /// The lot they are of; none of those that are owed.
        pub points_lot_id: Option<i64>,
        /// The order they were earned by or spent on.
        pub order_id: Option<i64>,
        /// What happened.
        pub event_type: PointsEvent,
        /// How many.
        pub points: i64,
        /// Where from.
        pub from_place: PointsPlace,
        /// Where to.
        pub to_place: PointsPlace,
        /// What caused it, such as `refund:7`. One cause makes one entry of a kind and lot.
        pub cause: Option<String>,
        /// Why, in words.
        pub reason: Option<String>,
        /// Who did it.
        pub actor: String,
        /// Microseconds since 1970 (UTC).
        pub occurred_at: Micros,
    }
}

/// Spends points on an order, those first that expire first.
///
/// # Errors
/// `Conflict` when the person has fewer.
pub(super) async fn spend(
    tx: &mut WriteTransaction,
    scope: Scope,
    order: &Order,
) -> Result<(), OperationalError> {
    let mut book = hold(tx, scope, order.person_id, []).await?;
    book.expire();
    book.spend(order.order_id, order.points)?;
    write(tx, book).await
}

/// Gives back what an order that is not to be paid was to be paid with.
pub(super) async fn give_all_back(
    tx: &mut WriteTransaction,
    scope: Scope,
    order: &Order,
) -> Result<(), OperationalError> {
    if order.points == 0 {
        return Ok(());
    }
    let spent = spent_on(tx, order.order_id).await?;
    let mut book = hold(tx, scope, order.person_id, spent.keys().copied()).await?;
    let cause = format!("order:{}", order.order_id);
    book.give_back(order.order_id, order.points, &spent, &cause)?;
    write(tx, book).await
}

/// Grants what an order earned that is completed.
pub(super) async fn earn(
    tx: &mut WriteTransaction,
    scope: Scope,
    order: &Order,
    points: i64,
    valid_micros: i64,
) -> Result<(), OperationalError> {
    if points == 0 {
        return Ok(());
    }
    let mut book = hold(tx, scope, order.person_id, []).await?;
    let lot_id = tx.id::<PointsLot>(None).await?;
    book.earn(lot_id, order.order_id, points, scope.now.saturating_add(valid_micros));
    write(tx, book).await
}

/// Undoes what a refund undoes: gives back what was spent, takes back what was earned.
pub(super) async fn refund(
    tx: &mut WriteTransaction,
    scope: Scope,
    order: &Order,
    refund_id: i64,
    given_back: i64,
    taken_back: i64,
) -> Result<(), OperationalError> {
    if given_back == 0 && taken_back == 0 {
        return Ok(());
    }
    let spent = spent_on(tx, order.order_id).await?;
    let mut book = hold(tx, scope, order.person_id, spent.keys().copied()).await?;
    let cause = format!("refund:{refund_id}");
    // What is given back first may be what is taken back then.
    book.give_back(order.order_id, given_back, &spent, &cause)?;
    book.take_back(order.order_id, taken_back, &cause);
    write(tx, book).await
}

/// What of each lot was spent on an order and is not given back.
async fn spent_on(
    connection: &mut Connection,
    order_id: i64,
) -> Result<HashMap<i64, i64>, OperationalError> {
    let spent: Vec<(i64, i64)> = sql("select points_lot_id,
             cast(sum(case event_type when 'spend' then points else -points end) as signed)
         from points_entry where order_id = ?1 and event_type in ('spend', 'give_back')
         group by points_lot_id")
    .bind(order_id)
    .all(connection)
    .await?;
    Ok(spent.into_iter().collect())
}

/// Whoever holds a person's account decides on their points. It is opened here.
async fn hold(
    tx: &mut WriteTransaction,
    scope: Scope,
    person_id: i64,
    emptied_lots: impl IntoIterator<Item = i64>,
) -> Result<Book, OperationalError> {
    const FIND: &str =
        "select * from points_account where tenant_id = ?1 and person_id = ?2 for update";
    let find = || sql(FIND).bind(scope.tenant_id).bind(person_id);
    let account: PointsAccount = match find().first(tx).await? {
        Some(account) => account,
        None => {
            let account_id = tx.id::<PointsAccount>(None).await?;
            sql("insert into points_account (points_account_id, tenant_id, person_id,
                     available_points, spent_points, expired_points, owed_points, updated_at)
                 values (?1, ?2, ?3, 0, 0, 0, 0, ?4)
                 on conflict (tenant_id, person_id) do nothing")
            .bind(account_id)
            .bind(scope.tenant_id)
            .bind(person_id)
            .bind(Micros(scope.now))
            .execute(tx)
            .await?;
            find().one(tx).await?
        }
    };
    let lots = sql("select * from points_lot
         where points_account_id = ?1 and (due_at is not null or points_lot_id in {list})
         order by expires_at, points_lot_id")
    .bind(account.points_account_id)
    .list(emptied_lots)
    .all(tx)
    .await?;
    Ok(Book::new(scope, account, lots))
}

/// Writes what was done in an account.
async fn write(tx: &mut WriteTransaction, book: Book) -> Result<(), OperationalError> {
    let Changes { account, granted, changed, mut entries } = book.close();
    if entries.is_empty() {
        return Ok(());
    }
    insert(tx, &granted).await?;
    for lot in changed {
        sql("update points_lot set available_points = ?2, due_at = ?3 where points_lot_id = ?1")
            .bind(lot.points_lot_id)
            .bind(lot.available_points)
            .bind(lot.due_at)
            .execute(tx)
            .await?;
    }
    let ids = tx.ids::<PointsEntry>(entries.iter().map(|_| None)).await?;
    for (entry, id) in entries.iter_mut().zip(ids) {
        entry.points_entry_id = id;
    }
    insert(tx, &entries).await?;
    sql("update points_account set available_points = ?2, spent_points = ?3, expired_points = ?4,
             owed_points = ?5, updated_at = ?6
         where points_account_id = ?1")
    .bind(account.points_account_id)
    .bind(account.available_points)
    .bind(account.spent_points)
    .bind(account.expired_points)
    .bind(account.owed_points)
    .bind(account.updated_at)
    .execute(tx)
    .await?;
    Ok(())
}

/// A change of somebody's points by a person.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PointsAdjustment {
    /// Whose.
    #[schema(minimum = 1)]
    pub person_id: i64,
    /// How many are granted; below zero, how many are taken.
    #[schema(minimum = -100_000_000, maximum = 100_000_000)]
    pub points: i64,
    /// Why.
    #[schema(min_length = 1, max_length = 255)]
    pub reason: String,
    /// For how many days granted points may be spent; as long as earned ones when it is left out.
    #[schema(minimum = 1, maximum = 3_650)]
    pub valid_days: Option<i64>,
}

/// Grants somebody points, or takes some.
///
/// # Errors
/// `Invalid` for a number outside its range; `Conflict` when more are taken than there are.
pub async fn adjust(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &PointsAdjustment,
    valid_micros: i64,
) -> Result<PointsAccount, OperationalError> {
    check_text("reason", &new.reason)?;
    if new.person_id <= 0 || new.points == 0 || new.points.unsigned_abs() > ADJUSTED_MAX {
        return Err(OperationalError::invalid(
            "person_id must be positive, points between -100000000 and 100000000 and not 0",
        ));
    }
    if new.valid_days.is_some_and(|days| !(1..=VALID_DAYS_MAX).contains(&days)) {
        return Err(OperationalError::invalid("valid_days must be between 1 and 3650"));
    }
    let valid_micros = new.valid_days.map_or(valid_micros, |days| days * DAY_MICROS);
    let mut book = hold(tx, scope, new.person_id, []).await?;
    book.expire();
    if new.points > 0 {
        let lot_id = tx.id::<PointsLot>(None).await?;
        book.grant(lot_id, new.points, scope.now.saturating_add(valid_micros), &new.reason);
    } else {
        book.take(-new.points, &new.reason)?;
    }
    let account = book.account().clone();
    write(tx, book).await?;
    Ok(account)
}

/// Lets go what was not spent in time, an account after another. Gives how many accounts that were.
///
/// # Errors
/// When the database fails; what was done before stays done.
pub async fn expire(services: &Services) -> Result<u64, OperationalError> {
    let mut accounts = 0;
    let mut after = 0;
    loop {
        let now = services.now();
        let due: Vec<(i64, i64, i64)> =
            sql("select distinct a.points_account_id, a.tenant_id, a.person_id
             from points_lot l join points_account a on a.points_account_id = l.points_account_id
             where l.due_at <= ?1 and a.points_account_id > ?2
             order by a.points_account_id limit ?3")
            .bind(Micros(now))
            .bind(after)
            .bind(DUE_ACCOUNTS)
            .all(&mut *services.mall().read().await?)
            .await?;
        let Some(last) = due.last() else { return Ok(accounts) };
        after = last.0;
        for (_, tenant_id, person_id) in due {
            let mut tx = services.mall().begin(now).await?;
            let scope = Scope::of(tenant_id, now);
            let done = async {
                let mut book = hold(&mut tx, scope, person_id, []).await?;
                book.expire();
                write(&mut tx, book).await
            };
            let done = done.await;
            match tx.end(done).await {
                // Somebody else is at it; the next time looks again.
                Err(OperationalError::Contended { .. }) => {}
                done => {
                    done?;
                    accounts += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
