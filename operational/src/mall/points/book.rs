//! A person's account as it is held open: what happens is written down here, and into the database at its
//! end. Pure.

use std::collections::HashMap;

use super::{PointsAccount, PointsEntry, PointsEvent, PointsLot, PointsPlace};
use crate::{OperationalError, Scope, database::Micros};

use PointsPlace::{Available, Expired, Granted, Owed, Spent};

/// An account with its lots, by when they expire.
#[derive(Debug, Clone)]
pub(super) struct Book {
    scope: Scope,
    account: PointsAccount,
    lots: Vec<Held>,
    entries: Vec<PointsEntry>,
}

#[derive(Debug, Clone)]
struct Held {
    lot: PointsLot,
    is_new: bool,
    had: i64,
}

/// What is to be written.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) account: PointsAccount,
    /// Lots that are new.
    pub(super) granted: Vec<PointsLot>,
    /// Lots that have other points left than before.
    pub(super) changed: Vec<PointsLot>,
    /// Without their ids.
    pub(super) entries: Vec<PointsEntry>,
}

/// What an entry says beside its points.
#[derive(Debug, Clone, Copy)]
struct Told<'a> {
    event: PointsEvent,
    order_id: Option<i64>,
    cause: Option<&'a str>,
    reason: Option<&'a str>,
}

impl<'a> Told<'a> {
    const fn of_order(event: PointsEvent, order_id: i64, cause: &'a str) -> Self {
        Self { event, order_id: Some(order_id), cause: Some(cause), reason: None }
    }
}

impl Book {
    /// `lots` are those with points left, and those that some are given back to, by when they expire.
    pub(super) fn new(scope: Scope, account: PointsAccount, lots: Vec<PointsLot>) -> Self {
        let held = |lot: PointsLot| Held { is_new: false, had: lot.available_points, lot };
        Self { scope, account, lots: lots.into_iter().map(held).collect(), entries: Vec::new() }
    }

    pub(super) const fn account(&self) -> &PointsAccount {
        &self.account
    }

    pub(super) fn close(self) -> Changes {
        let (granted, kept): (Vec<Held>, Vec<Held>) =
            self.lots.into_iter().partition(|held| held.is_new);
        let changed = kept.into_iter().filter(|held| held.lot.available_points != held.had);
        Changes {
            account: self.account,
            granted: granted.into_iter().map(|held| held.lot).collect(),
            changed: changed.map(|held| held.lot).collect(),
            entries: self.entries,
        }
    }

    /// Lets go what was not spent in time.
    pub(super) fn expire(&mut self) {
        let told = Told { event: PointsEvent::Expire, order_id: None, cause: None, reason: None };
        for at in 0..self.lots.len() {
            let lot = &self.lots[at].lot;
            if lot.expires_at <= Micros(self.scope.now) {
                self.move_of(at, lot.available_points, (Available, Expired), told);
            }
        }
    }

    /// Spends points on an order, those first that expire first.
    ///
    /// # Errors
    /// `Conflict` when there are fewer.
    pub(super) fn spend(&mut self, order_id: i64, points: i64) -> Result<(), OperationalError> {
        self.check_available(points)?;
        let cause = format!("order:{order_id}");
        let told = Told::of_order(PointsEvent::Spend, order_id, &cause);
        self.out_of_lots(points, Spent, told, None);
        Ok(())
    }

    /// Gives back what was spent on an order, into the lots it came from: those first that expire last.
    /// `spent` is what of each lot was spent and is not given back. What would have expired meanwhile
    /// does so when it is next looked at.
    ///
    /// # Errors
    /// `Conflict` when less was spent.
    pub(super) fn give_back(
        &mut self,
        order_id: i64,
        points: i64,
        spent: &HashMap<i64, i64>,
        cause: &str,
    ) -> Result<(), OperationalError> {
        let told = Told::of_order(PointsEvent::GiveBack, order_id, cause);
        let mut left = points;
        for at in (0..self.lots.len()).rev() {
            let of_lot = spent.get(&self.lots[at].lot.points_lot_id).copied().unwrap_or(0);
            let now = of_lot.min(left);
            left -= now;
            self.move_of(at, now, (Spent, Available), told);
        }
        match left {
            0 => Ok(()),
            _ => Err(OperationalError::conflict(format!(
                "order {order_id} was not paid with {points} points that are not given back"
            ))),
        }
    }

    /// Grants what an order earned, of which what is owed is kept.
    pub(super) fn earn(&mut self, lot_id: i64, order_id: i64, points: i64, expires_at: i64) {
        let cause = format!("order:{order_id}");
        let at = self.new_lot(lot_id, Some(order_id), points, expires_at);
        let told = Told::of_order(PointsEvent::Earn, order_id, &cause);
        self.move_of(at, points, (Granted, Available), told);
        let settled = points.min(self.account.owed_points);
        let told = Told::of_order(PointsEvent::Settle, order_id, &cause);
        self.move_of(at, settled, (Available, Owed), told);
    }

    /// Takes back what an order earned: of its own lot, then of the others; what was spent is owed.
    pub(super) fn take_back(&mut self, order_id: i64, points: i64, cause: &str) {
        let told = Told::of_order(PointsEvent::TakeBack, order_id, cause);
        let owed = self.out_of_lots(points, Granted, told, Some(order_id));
        self.move_of_none(owed, (Owed, Granted), told);
    }

    /// Grants points for a reason of a person's.
    pub(super) fn grant(&mut self, lot_id: i64, points: i64, expires_at: i64, reason: &str) {
        let told =
            Told { event: PointsEvent::Adjust, order_id: None, cause: None, reason: Some(reason) };
        let at = self.new_lot(lot_id, None, points, expires_at);
        self.move_of(at, points, (Granted, Available), told);
    }

    /// Takes points for a reason of a person's.
    ///
    /// # Errors
    /// `Conflict` when there are fewer.
    pub(super) fn take(&mut self, points: i64, reason: &str) -> Result<(), OperationalError> {
        self.check_available(points)?;
        let told =
            Told { event: PointsEvent::Adjust, order_id: None, cause: None, reason: Some(reason) };
        self.out_of_lots(points, Granted, told, None);
        Ok(())
    }

    fn check_available(&self, points: i64) -> Result<(), OperationalError> {
        let available = self.account.available_points;
        if points <= available {
            return Ok(());
        }
        Err(OperationalError::conflict(format!(
            "person {} has {available} points to spend, not {points}",
            self.account.person_id
        )))
    }

    fn new_lot(
        &mut self,
        points_lot_id: i64,
        order_id: Option<i64>,
        granted_points: i64,
        expires_at: i64,
    ) -> usize {
        let lot = PointsLot {
            points_lot_id,
            tenant_id: self.scope.tenant_id,
            points_account_id: self.account.points_account_id,
            order_id,
            granted_points,
            available_points: 0,
            expires_at: Micros(expires_at),
            due_at: None,
            created_at: Micros(self.scope.now),
        };
        self.lots.push(Held { lot, is_new: true, had: 0 });
        self.lots.len() - 1
    }

    /// Moves points out of the lots, of `first`'s before the others. Gives what was not there.
    fn out_of_lots(
        &mut self,
        points: i64,
        to: PointsPlace,
        told: Told<'_>,
        first: Option<i64>,
    ) -> i64 {
        let is_first = |held: &Held| first.is_some() && held.lot.order_id == first;
        let mut order: Vec<usize> = (0..self.lots.len()).collect();
        order.sort_by_key(|&at| !is_first(&self.lots[at]));
        let mut left = points;
        for at in order {
            let now = self.lots[at].lot.available_points.min(left);
            left -= now;
            self.move_of(at, now, (Available, to), told);
        }
        left
    }

    /// Moves points of a lot.
    fn move_of(
        &mut self,
        at: usize,
        points: i64,
        (from, to): (PointsPlace, PointsPlace),
        told: Told<'_>,
    ) {
        let lot = &mut self.lots[at].lot;
        match (from, to) {
            (Available, _) => lot.available_points -= points,
            (_, Available) => lot.available_points += points,
            _ => {}
        }
        lot.due_at = (lot.available_points > 0).then_some(lot.expires_at);
        let lot_id = lot.points_lot_id;
        self.note(Some(lot_id), points, (from, to), told);
    }

    /// Moves points of no lot.
    fn move_of_none(&mut self, points: i64, between: (PointsPlace, PointsPlace), told: Told<'_>) {
        self.note(None, points, between, told);
    }

    fn note(
        &mut self,
        points_lot_id: Option<i64>,
        points: i64,
        (from_place, to_place): (PointsPlace, PointsPlace),
        told: Told<'_>,
    ) {
        if points == 0 {
            return;
        }
        for (place, change) in [(from_place, -points), (to_place, points)] {
            match place {
                Granted => {}
                Available => self.account.available_points += change,
                Spent => self.account.spent_points += change,
                Expired => self.account.expired_points += change,
                Owed => self.account.owed_points -= change,
            }
        }
        self.account.updated_at = Micros(self.scope.now);
        self.entries.push(PointsEntry {
            points_entry_id: 0,
            tenant_id: self.scope.tenant_id,
            points_account_id: self.account.points_account_id,
            points_lot_id,
            order_id: told.order_id,
            event_type: told.event,
            points,
            from_place,
            to_place,
            cause: told.cause.map(str::to_owned),
            reason: told.reason.map(str::to_owned),
            actor: self.scope.actor.to_string(),
            occurred_at: Micros(self.scope.now),
        });
    }
}
