use proptest::prelude::*;

use super::*;

fn line(quantity: i64, cash_fen: i64) -> OrderLine {
    OrderLine {
        order_line_id: 1,
        tenant_id: 1,
        order_id: 1,
        line_number: 1,
        product_id: 1,
        variant_id: 1,
        gift: false,
        return_window_days: 7,
        quantity,
        unit_price_fen: 0,
        list_amount_fen: cash_fen,
        disc_item_fen: 0,
        line_amount_fen: cash_fen,
        disc_full_reduction_fen: 0,
        disc_coupon_merchant_fen: 0,
        disc_coupon_platform_fen: 0,
        disc_points_fen: 0,
        cash_fen,
        refunded_quantity: 0,
        refunded_fen: 0,
        refunding_quantity: 0,
        refunding_fen: 0,
        points: 0,
        reward_points: 0,
        refunded_points: 0,
        refunding_points: 0,
    }
}

/// What one who asks for refunds, and one who decides on them, do in turn.
#[derive(Debug, Clone, Copy)]
enum Act {
    Units(i64),
    Amount(i64),
    /// Decides on the oldest that is asked for.
    PayOut,
    Reject,
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (1_i64..6).prop_map(Act::Units),
        (1_i64..50).prop_map(Act::Amount),
        Just(Act::PayOut),
        Just(Act::Reject),
    ]
}

fn hold(line: &mut OrderLine, part: &Part, open: &mut Vec<(i64, i64)>) {
    line.refunding_quantity += part.quantity;
    line.refunding_fen += part.amount_fen;
    open.push((part.quantity, part.amount_fen));
}

fn decide(line: &mut OrderLine, open: &mut Vec<(i64, i64)>, pay_out: bool) {
    if open.is_empty() {
        return;
    }
    let (quantity, amount_fen) = open.remove(0);
    line.refunding_quantity -= quantity;
    line.refunding_fen -= amount_fen;
    if pay_out {
        line.refunded_quantity += quantity;
        line.refunded_fen += amount_fen;
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever is asked for, refused and paid out in whatever order: never more than was paid; and where
    /// only units are asked for, all of them come to what was paid, exactly.
    #[test]
    fn all_units_come_to_what_was_paid(
        quantity in 1_i64..12,
        cash_fen in 0_i64..2_000,
        acts in prop::collection::vec(any_act(), 0..30),
    ) {
        let mut line = line(quantity, cash_fen);
        let mut open = Vec::new();
        let amounts = acts.iter().any(|act| matches!(act, Act::Amount(_)));
        for act in acts {
            match act {
                Act::Units(units) => {
                    let units = units.min(left_units(&line));
                    if units > 0 {
                        let part = Part::of_units(line.clone(), units);
                        hold(&mut line, &part, &mut open);
                    }
                }
                Act::Amount(amount) => {
                    let amount_fen = amount.min(left_fen(&line));
                    let part = Part { line: line.clone(), quantity: 0, amount_fen, points: 0 };
                    hold(&mut line, &part, &mut open);
                }
                Act::PayOut => decide(&mut line, &mut open, true),
                Act::Reject => decide(&mut line, &mut open, false),
            }
            prop_assert!(line.refunded_fen >= 0 && line.refunding_fen >= 0);
            prop_assert!(line.refunded_fen + line.refunding_fen <= cash_fen);
            prop_assert!(line.refunded_quantity + line.refunding_quantity <= quantity);
        }
        while !open.is_empty() {
            decide(&mut line, &mut open, false);
        }
        while left_units(&line) > 0 {
            let part = Part::of_units(line.clone(), 1);
            hold(&mut line, &part, &mut open);
            decide(&mut line, &mut open, true);
        }
        // An amount that was held while the last unit went, and refused then, may be asked for again.
        prop_assert!(amounts || line.refunded_fen == cash_fen);
        prop_assert_eq!(line.refunded_fen + left_fen(&line), cash_fen);
    }
}

/// Units that are given back one after another are worth their cumulative shares.
#[test]
fn units_in_turn_are_worth_their_shares() {
    let mut line = line(3, 4);
    let mut open = Vec::new();
    let mut worth = Vec::new();
    for _ in 0..3 {
        let part = Part::of_units(line.clone(), 1);
        worth.push(part.amount_fen);
        hold(&mut line, &part, &mut open);
        decide(&mut line, &mut open, true);
    }
    assert_eq!(worth, [1, 1, 2]);
}
