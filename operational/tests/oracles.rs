//! Numbers that others published, for the coupon split and the commission.

use std::path::PathBuf;

use medlake_operational::{
    distribution::{commission_math::Terms, withholding},
    mall::allocation,
};
use serde_json::{Value, json};

use crate::{App, DAY, On, START, of_lines};

on_both! {
    an_order_with_a_coupon_comes_to_the_published_amounts,
}

/// A file of the shared data; none where there is none, unless it must be there.
pub(crate) fn oracle(name: &str) -> Option<Value> {
    #[expect(
        clippy::disallowed_methods,
        reason = "tests are told by the environment where data is"
    )]
    let variable = |name: &str| std::env::var(name).ok();
    let shared = variable("MEDLAKE_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
        PathBuf::from,
    );
    let path = shared.join("data/oracles").join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(serde_json::from_str(&text).unwrap()),
        Err(error) => {
            assert!(variable("CI").is_none(), "{} is needed here: {error}", path.display());
            println!("skipped: no shared data");
            None
        }
    }
}

fn numbers(value: &Value) -> Vec<i64> {
    value
        .as_array()
        .map(|list| list.iter().map(|n| n.as_i64().unwrap()).collect())
        .unwrap_or_default()
}

fn fen(value: &Value) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "published yuan of two digits")]
    let fen = (value.as_f64().unwrap() * 100.0).round() as i64;
    fen
}

#[test]
fn the_split_is_the_published_one() {
    let Some(cases) = oracle("coupon_allocation.json") else { return };
    let mut checked = 0;
    for case in cases["yudao"].as_array().unwrap() {
        let lines = numbers(&case["lines"]);
        let discount = case["discount"].as_i64().unwrap_or(100);
        if !case["alloc"].is_array() {
            assert_eq!(discount, 0, "{case}");
            continue;
        }
        // Lines outside the scope take part with amount 0.
        let outside = numbers(&case["outside"]);
        let amounts: Vec<i64> = lines.iter().copied().chain(outside.iter().map(|_| 0)).collect();
        let shares = allocation::split(discount, &amounts);
        assert_eq!(shares[..lines.len()], numbers(&case["alloc"]), "{case}");
        if case["pay"].is_array() {
            let pay: Vec<i64> = lines
                .iter()
                .chain(&outside)
                .zip(&shares)
                .map(|(amount, share)| amount - share)
                .collect();
            assert_eq!(pay, numbers(&case["pay"]), "{case}");
            if let Some(order_pay) = case["order_pay"].as_i64() {
                assert_eq!(pay.iter().sum::<i64>(), order_pay, "{case}");
            }
        }
        checked += 1;
    }
    assert_eq!(checked, 5);

    for case in cases["salesforce"].as_array().unwrap() {
        let lines: Vec<i64> = case["lines"].as_array().unwrap().iter().map(fen).collect();
        let excluded: Vec<i64> =
            case["excluded"].as_array().map(|l| l.iter().map(fen).collect()).unwrap_or_default();
        let amounts: Vec<i64> = lines.iter().copied().chain(excluded.iter().map(|_| 0)).collect();
        let discount = lines.iter().sum::<i64>() * case["pct"].as_i64().unwrap() / 100;
        let shares = allocation::split(discount, &amounts);
        let expected: Vec<i64> = case["alloc"].as_array().unwrap().iter().map(fen).collect();
        assert_eq!(shares, expected, "{case}");
        let total = lines.iter().chain(&excluded).sum::<i64>() - discount;
        assert_eq!(total, fen(&case["total"]), "{case}");
    }

    let shopify = &cases["shopify"];
    let (quantity, discount) =
        (shopify["qty"].as_i64().unwrap(), shopify["discount_cents"].as_i64().unwrap());
    let units: Vec<i64> =
        (0..quantity).map(|k| allocation::unit_shares(discount, quantity, k, 1)).collect();
    assert_eq!(units, numbers(&shopify["per_unit"]));
}

#[test]
fn the_commission_is_the_published_one() {
    let Some(cases) = oracle("commission.json") else { return };
    for case in cases["cases"].as_array().unwrap() {
        let terms = Terms {
            rate_bp: case["percent"].as_i64().map(|percent| percent * 100),
            fixed_fen: case["fixed"].as_i64(),
        };
        let expected = case["expect"].as_i64().unwrap();
        assert_eq!(terms.on(case["base"].as_i64().unwrap_or(0)), expected, "{case}");
    }
}

#[test]
fn the_tax_is_that_of_the_formula() {
    let Some(cases) = oracle("tax_withholding_formula.json") else { return };
    let mut checked = 0;
    for case in cases["platform_cumulative"]["examples"].as_array().unwrap() {
        let (mut income, mut before) = (0, 0);
        let months = case["monthly"].as_array().unwrap().iter().map(fen);
        for ((month, paid), expected) in (1..).zip(months).zip(case["withheld"].as_array().unwrap())
        {
            income += paid;
            let withheld = withholding::cumulative(income, month, before);
            assert_eq!(withheld, fen(expected), "{case}");
            before += withheld;
            checked += 1;
        }
    }
    for case in cases["per_payment"]["examples"].as_array().unwrap() {
        assert_eq!(withholding::per_payment(fen(&case[0])), fen(&case[1]), "{case}");
        checked += 1;
    }
    assert_eq!(checked, 11);
    // Each bracket of the table, at its end and one fen of tax later.
    for bracket in cases["platform_cumulative"]["rates"].as_array().unwrap() {
        let (rate, quick) = (bracket[1].as_f64().unwrap(), bracket[2].as_f64().unwrap());
        let taxable = bracket[0].as_f64().unwrap_or(2_000_000.0);
        let income = fen(&json!((taxable + 5_000.0) / 0.8));
        assert_eq!(
            withholding::cumulative(income, 1, 0),
            fen(&json!(taxable * rate - quick)),
            "{bracket}"
        );
    }
}

/// The published cases again, as orders.
async fn an_order_with_a_coupon_comes_to_the_published_amounts(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let coupon = |terms: Value| {
        let mut body = json!({"name": "券", "funder": "merchant", "category": "a",
            "starts_at": START, "ends_at": START + DAY});
        body.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
        body
    };
    for terms in [
        json!({"kind": "full_reduction", "threshold_fen": 200, "discount_fen": 50}),
        json!({"kind": "percent", "threshold_fen": 350, "percent": 50, "cap_fen": 70}),
        json!({"kind": "percent", "threshold_fen": 350, "percent": 50, "cap_fen": 70,
            "funder": "platform"}),
    ] {
        app.made("/mall/coupons", coupon(terms)).await;
    }
    let lines = [(1, 1), (2, 1), (3, 1)];
    let full_reduction = app.order(9, &lines, Some(1)).await;
    assert_eq!(of_lines(&full_reduction, "disc_full_reduction_fen"), [28, 22, 0]);
    assert_eq!(of_lines(&full_reduction, "cash_fen"), [172, 128, 120]);
    assert_eq!(full_reduction["payable_fen"], 420);
    assert_eq!(full_reduction["goods_amount_fen"], 470);
    assert_eq!(full_reduction["discount_fen"], 50);

    for (coupon, column) in [(2, "disc_coupon_merchant_fen"), (3, "disc_coupon_platform_fen")] {
        let percent = app.order(9, &lines, Some(coupon)).await;
        assert_eq!(of_lines(&percent, column), [40, 30, 0]);
        assert_eq!(of_lines(&percent, "cash_fen"), [160, 120, 120]);
        assert_eq!(percent["payable_fen"], 400);
    }
}
