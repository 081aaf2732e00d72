//! The ledgers of commissions and of points added up from their rows, value by value, against the orders
//! and against what the services say that everybody has. Nothing of the services' own adding up is used.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    BUYERS, all, fen, get,
    programme::{PROMOTERS, RATES_BP},
};
use crate::platform::Platform;

/// What went to each place less what went away from it.
fn at_places(entries: &[Value], ends: [&str; 2], amount: &str) -> BTreeMap<String, i64> {
    let mut at = BTreeMap::new();
    for entry in entries {
        let [from, to] = ends.map(|end| entry[end].as_str().unwrap().to_owned());
        assert_ne!(from, to, "{entry}");
        *at.entry(from).or_insert(0) -= fen(entry, amount);
        *at.entry(to).or_insert(0) += fen(entry, amount);
    }
    at
}

/// Each line of an order that is paid has earned its part of what is left of it, on each level, in entries
/// of which none is there twice; and everybody has what their entries come to.
pub(super) async fn commissions_are_those_of(orders: &[Value], platform: &Platform) {
    let mut entered: BTreeMap<(i64, i64, i64), i64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut moves = BTreeSet::new();
    for promoter in 1..=PROMOTERS {
        let path = format!("/distribution/entries?beneficiary_id={promoter}");
        let entries = all(platform, &path, "entry_id").await;
        let has = get(platform, &format!("/distribution/distributors/{promoter}/balance")).await;
        let at = at_places(&entries, ["from_account", "to_account"], "amount_fen");
        for account in ["frozen", "available", "paid", "tax"] {
            let expected = at.get(account).copied().unwrap_or(0);
            assert_eq!(fen(&has, &format!("{account}_fen")), expected, "{account}: {has}");
        }
        for entry in &entries {
            let what = (fen(entry, "order_line_id"), promoter, fen(entry, "level"));
            let cause = ["event_type", "source_event_id"].map(|field| entry[field].to_string());
            assert!(seen.insert((what, cause)), "twice: {entry}");
            moves.insert(
                ["event_type", "to_account"].map(|field| entry[field].as_str().unwrap().to_owned()),
            );
            if ["accrue", "reverse"].contains(&entry["event_type"].as_str().unwrap()) {
                *entered.entry(what).or_insert(0) += fen(entry, "amount_fen");
            }
        }
    }
    let mut earned: BTreeMap<(i64, i64, i64), i64> = BTreeMap::new();
    for order in orders.iter().filter(|order| !order["paid_at"].is_null()) {
        let Some(promoter) = order["promoter_id"].as_i64() else { continue };
        let upwards = (promoter % 2 == 0).then_some(promoter - 1);
        for line in order["lines"].as_array().unwrap() {
            let left = fen(line, "cash_fen") - fen(line, "refunded_fen");
            for (level, who) in (1..).zip([Some(promoter), upwards].into_iter().flatten()) {
                let rate_bp = if level == 1 { RATES_BP[0] } else { RATES_BP[1] };
                let what = (fen(line, "order_line_id"), who, level);
                earned.insert(what, left * rate_bp / 10_000);
            }
        }
    }
    // What came to nothing has entries that cancel out, or none.
    for all in [&mut entered, &mut earned] {
        all.retain(|_, amount| *amount != 0);
    }
    for (event, account) in [("accrue", "frozen"), ("reverse", "frozen"), ("reverse", "available")]
    {
        assert!(moves.contains(&[event.to_owned(), account.to_owned()]), "{event}: {moves:?}");
    }
    assert_eq!(entered, earned, "by line, beneficiary and level");
}

/// Each order has spent what it is paid with and is not given back, and earned what is not refunded, once it
/// is completed; and each buyer has what their entries come to.
pub(super) async fn points_are_those_of(orders: &[Value], platform: &Platform) {
    let (mut spent, mut earned): (BTreeMap<i64, i64>, BTreeMap<i64, i64>) = Default::default();
    let mut seen = BTreeSet::new();
    let mut events = BTreeSet::new();
    for buyer in 1..=BUYERS {
        let path = format!("/mall/points/entries?person_id={buyer}");
        let entries = all(platform, &path, "points_entry_id").await;
        let has = get(platform, &format!("/mall/points/accounts/{buyer}")).await;
        let at = at_places(&entries, ["from_place", "to_place"], "points");
        for (place, sign) in [("available", 1), ("spent", 1), ("expired", 1), ("owed", -1)] {
            let expected = sign * at.get(place).copied().unwrap_or(0);
            assert_eq!(fen(&has, &format!("{place}_points")), expected, "{place}: {has}");
        }
        for entry in &entries {
            let event = entry["event_type"].as_str().unwrap();
            let fields = ["event_type", "cause", "reason", "points_lot_id", "points_account_id"];
            assert!(seen.insert(fields.map(|field| entry[field].to_string())), "twice: {entry}");
            events.insert(event.to_owned());
            let points = fen(entry, "points");
            let (of, change) = match event {
                "spend" => (&mut spent, points),
                "give_back" => (&mut spent, -points),
                "earn" => (&mut earned, points),
                "take_back" => (&mut earned, -points),
                _ => continue,
            };
            *of.entry(fen(entry, "order_id")).or_insert(0) += change;
        }
    }
    for order in orders {
        let id = fen(order, "order_id");
        let lines = order["lines"].as_array().unwrap();
        let is_given_up = order["status"] == "closed" && order["paid_at"].is_null();
        let given_back: i64 = lines.iter().map(|line| fen(line, "refunded_points")).sum();
        let left = if is_given_up { 0 } else { fen(order, "points") - given_back };
        assert_eq!(spent.remove(&id).unwrap_or(0), left, "{order}");
        let kept = |line: &Value| {
            let cash = fen(line, "cash_fen").max(1);
            fen(line, "reward_points") * (cash - fen(line, "refunded_fen")) / cash
        };
        let is_done = !order["completed_at"].is_null();
        let rewarded = if is_done { lines.iter().map(kept).sum() } else { 0 };
        assert_eq!(earned.remove(&id).unwrap_or(0), rewarded, "{order}");
    }
    assert!(spent.is_empty() && earned.is_empty(), "of no order: {spent:?} {earned:?}");
    for event in ["adjust", "spend", "give_back", "earn", "take_back"] {
        assert!(events.contains(event), "{event}: {events:?}");
    }
}
