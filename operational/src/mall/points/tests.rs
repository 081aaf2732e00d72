use std::collections::HashMap;

use proptest::prelude::*;

use super::{
    book::{Book, Changes},
    *,
};

const NOW: i64 = 1_000;

/// The accounts of one person as the database keeps them between transactions.
#[derive(Debug)]
struct Kept {
    account: PointsAccount,
    lots: Vec<PointsLot>,
    entries: Vec<PointsEntry>,
    now: i64,
}

impl Kept {
    fn new() -> Self {
        let account = PointsAccount {
            points_account_id: 1,
            tenant_id: 1,
            person_id: 7,
            available_points: 0,
            spent_points: 0,
            expired_points: 0,
            owed_points: 0,
            updated_at: Micros(NOW),
        };
        Self { account, lots: Vec::new(), entries: Vec::new(), now: NOW }
    }

    fn book(&self) -> Book {
        let mut lots = self.lots.clone();
        lots.sort_by_key(|lot| (lot.expires_at, lot.points_lot_id));
        Book::new(Scope::at(self.now), self.account.clone(), lots)
    }

    fn write(&mut self, book: Book) {
        let Changes { account, granted, changed, entries } = book.close();
        self.account = account;
        for lot in changed {
            let at = self.lots.iter().position(|old| old.points_lot_id == lot.points_lot_id);
            self.lots[at.unwrap()] = lot;
        }
        self.lots.extend(granted);
        self.entries.extend(entries);
    }

    fn next_lot(&self) -> i64 {
        1 + i64::try_from(self.lots.len()).unwrap()
    }

    fn spent_on(&self, order_id: i64) -> HashMap<i64, i64> {
        let mut spent = HashMap::new();
        for entry in self.entries.iter().filter(|entry| entry.order_id == Some(order_id)) {
            let change = match entry.event_type {
                PointsEvent::Spend => entry.points,
                PointsEvent::GiveBack => -entry.points,
                _ => continue,
            };
            *spent.entry(entry.points_lot_id.unwrap()).or_insert(0) += change;
        }
        spent
    }

    /// What the ledger says is at a place, of all lots or of one.
    fn at(&self, place: PointsPlace, lot: Option<i64>) -> i64 {
        self.entries
            .iter()
            .filter(|entry| lot.is_none() || entry.points_lot_id == lot)
            .map(|entry| {
                let of = |at: PointsPlace| if at == place { entry.points } else { 0 };
                of(entry.to_place) - of(entry.from_place)
            })
            .sum()
    }
}

/// What happens to an account; orders and points are picked by these numbers.
#[derive(Debug, Clone, Copy)]
enum Act {
    Earn { order: i64, points: i64, valid: i64 },
    Spend { order: i64, points: i64 },
    GiveBack { order: i64, points: i64 },
    TakeBack { order: i64, points: i64 },
    Grant(i64),
    Take(i64),
    Wait(i64),
}

fn any_act() -> impl Strategy<Value = Act> {
    let (order, points) = (1_i64..5, 1_i64..200);
    prop_oneof![
        (order.clone(), points.clone(), 1_i64..50).prop_map(|(order, points, valid)| Act::Earn {
            order,
            points,
            valid
        }),
        (order.clone(), points.clone()).prop_map(|(order, points)| Act::Spend { order, points }),
        (order.clone(), points.clone()).prop_map(|(order, points)| Act::GiveBack { order, points }),
        (order, points.clone()).prop_map(|(order, points)| Act::TakeBack { order, points }),
        points.clone().prop_map(Act::Grant),
        points.prop_map(Act::Take),
        (1_i64..30).prop_map(Act::Wait),
    ]
}

fn act(kept: &mut Kept, act: Act) {
    let mut book = kept.book();
    let lot = kept.next_lot();
    // What is refused changes nothing: the transaction is undone.
    let done = match act {
        Act::Earn { order, points, valid } => {
            book.earn(lot, order, points, kept.now + valid);
            Ok(())
        }
        Act::Spend { order, points } => {
            book.expire();
            book.spend(order, points)
        }
        Act::GiveBack { order, points } => {
            book.give_back(order, points, &kept.spent_on(order), "refund:1")
        }
        Act::TakeBack { order, points } => {
            book.take_back(order, points, "refund:1");
            Ok(())
        }
        Act::Grant(points) => {
            book.grant(lot, points, kept.now + 20, "grant");
            Ok(())
        }
        Act::Take(points) => {
            book.expire();
            book.take(points, "take")
        }
        Act::Wait(micros) => {
            kept.now += micros;
            Ok(())
        }
    };
    if done.is_ok() {
        kept.write(book);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever happens in whatever order: nothing is below zero, the accounts are what the ledger adds
    /// up to, what is available is in the lots, and nothing is spent that had expired.
    #[test]
    fn accounts_are_what_the_ledger_says(acts in prop::collection::vec(any_act(), 0..40)) {
        let mut kept = Kept::new();
        for this in acts {
            act(&mut kept, this);
            let account = &kept.account;
            for (place, has) in [
                (PointsPlace::Available, account.available_points),
                (PointsPlace::Spent, account.spent_points),
                (PointsPlace::Expired, account.expired_points),
                (PointsPlace::Owed, -account.owed_points),
            ] {
                prop_assert_eq!(kept.at(place, None), has, "{:?}", place);
            }
            prop_assert!(account.available_points >= 0 && account.spent_points >= 0);
            prop_assert!(account.expired_points >= 0 && account.owed_points >= 0);
            let of_lots: i64 = kept.lots.iter().map(|lot| lot.available_points).sum();
            prop_assert_eq!(of_lots, account.available_points);
            for lot in &kept.lots {
                let said = kept.at(PointsPlace::Available, Some(lot.points_lot_id));
                prop_assert_eq!(said, lot.available_points);
                prop_assert!((0..=lot.granted_points).contains(&lot.available_points));
                prop_assert_eq!(lot.due_at.is_some(), lot.available_points > 0);
            }
        }
        let spent_late = kept.entries.iter().any(|entry| {
            let lot = |id| kept.lots.iter().find(|lot| lot.points_lot_id == id).unwrap();
            entry.event_type == PointsEvent::Spend
                && entry.points_lot_id.is_some_and(|id| lot(id).expires_at <= entry.occurred_at)
        });
        prop_assert!(!spent_late);
    }

    /// Points are shared as amounts are: they sum up, no line is paid with more than it comes to, lines
    /// that come to nothing get none and change nothing wherever they stand.
    #[test]
    fn points_sum_and_stay_within_their_lines(
        amounts in prop::collection::vec(prop_oneof![Just(0_i64), 0_i64..100_000], 0..8),
        value_fen in 1_i64..=100,
        share_max_percent in 0_i64..=100,
        earned_per_yuan in 0_i64..=100,
        wanted in 0_i64..200_000,
    ) {
        let rules = PointsRules {
            value_fen, share_max_percent, earned_per_yuan, ..PointsRules::default()
        };
        let total: i64 = amounts.iter().sum();
        let usable = rules.usable(&amounts);
        prop_assert!(usable * value_fen * 100 <= total * share_max_percent);
        prop_assert!(usable <= rules.per_order_max);
        let points = wanted.min(usable);
        let shares = rules.split(points, &amounts);
        prop_assert_eq!(shares.iter().sum::<i64>(), points);
        prop_assert!(shares.iter().zip(&amounts).all(|(s, a)| *s >= 0 && s * value_fen <= *a));
        let reward = rules.reward(&amounts);
        prop_assert_eq!(reward.iter().sum::<i64>(), total * earned_per_yuan / 100);
        prop_assert!(reward.iter().zip(&amounts).all(|(r, a)| *r >= 0 && (*a > 0 || *r == 0)));
        let without: Vec<i64> = amounts.iter().copied().filter(|amount| *amount > 0).collect();
        let of_some = |shares: &[i64]| -> Vec<i64> {
            shares.iter().zip(&amounts).filter(|(_, a)| **a > 0).map(|(s, _)| *s).collect()
        };
        prop_assert_eq!(rules.split(points, &without), of_some(&shares));
        prop_assert_eq!(rules.reward(&without), of_some(&reward));
    }

    /// However a line is refunded in parts, what is taken back of its reward is never more than it was,
    /// and all of it in the end.
    #[test]
    fn a_full_refund_takes_the_whole_reward(
        reward in 0_i64..10_000,
        paid in 1_i64..1_000_000,
        parts in prop::collection::vec(0_i64..200_000, 0..8),
    ) {
        let (mut refunded, mut taken) = (0, 0);
        for part in parts.into_iter().chain([i64::MAX]) {
            let part = part.min(paid - refunded);
            let back = kept(reward, paid, refunded) - kept(reward, paid, refunded + part);
            prop_assert!(back >= 0);
            refunded += part;
            taken += back;
            prop_assert!(taken <= reward);
        }
        prop_assert_eq!(taken, reward);
    }
}

#[test]
fn points_that_expire_first_are_spent_first_and_come_back_where_they_were() {
    let mut kept = Kept::new();
    let mut book = kept.book();
    book.grant(1, 30, NOW + 20, "late");
    book.grant(2, 30, NOW + 10, "early");
    kept.write(book);
    let mut book = kept.book();
    book.spend(5, 40).unwrap();
    kept.write(book);
    let left: Vec<i64> = kept.lots.iter().map(|lot| lot.available_points).collect();
    assert_eq!(left, [20, 0]);
    let mut book = kept.book();
    book.give_back(5, 15, &kept.spent_on(5), "refund:1").unwrap();
    kept.write(book);
    let left: Vec<i64> = kept.lots.iter().map(|lot| lot.available_points).collect();
    assert_eq!(left, [30, 5]);
    kept.now = NOW + 10;
    let mut book = kept.book();
    book.expire();
    assert!(book.spend(6, 31).is_err());
    kept.write(book);
    assert_eq!((kept.account.available_points, kept.account.expired_points), (30, 5));
}

#[test]
fn what_was_spent_and_is_taken_back_is_owed_and_paid_by_what_is_earned_next() {
    let mut kept = Kept::new();
    let mut book = kept.book();
    book.earn(1, 5, 100, NOW + 10);
    book.spend(6, 80).unwrap();
    kept.write(book);
    let mut book = kept.book();
    book.take_back(5, 100, "refund:1");
    kept.write(book);
    assert_eq!((kept.account.available_points, kept.account.owed_points), (0, 80));
    let mut book = kept.book();
    book.earn(2, 7, 100, NOW + 10);
    kept.write(book);
    assert_eq!((kept.account.available_points, kept.account.owed_points), (20, 0));
}
