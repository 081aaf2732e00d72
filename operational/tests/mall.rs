use serde_json::json;

use crate::{App, DAY, On, START, assert_error, of_lines, order_body};

on_both! {
    an_order_is_placed_paid_and_refunded_in_parts,
    what_the_state_forbids_is_refused_and_changes_nothing,
    a_refund_in_two_steps_cannot_exceed_what_was_paid,
    catalogue_rules_are_checked,
    lists_are_read_in_pages,
}

async fn an_order_is_placed_paid_and_refunded_in_parts(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    app.made(
        "/mall/coupons",
        json!({"name": "满 5 减 0.4", "kind": "full_reduction", "threshold_fen": 500, "discount_fen": 40,
            "funder": "merchant", "starts_at": START, "ends_at": START + DAY}),
    )
    .await;
    let mut body = order_body(7, &[(1, 3), (3, 1)], Some(1));
    body["shipping_fen"] = json!(600);
    let order = app.made("/mall/orders", body).await;
    assert_eq!(order["status"], "created");
    // 40 over 600 and 120: 33.3 and 6.7.
    assert_eq!(of_lines(&order, "disc_full_reduction_fen"), [33, 7]);
    assert_eq!(of_lines(&order, "cash_fen"), [567, 113]);
    assert_eq!(order["payable_fen"], 720 - 40 + 600);
    let path = format!("/mall/orders/{}", order["order_id"]);

    app.move_clock(1_000_000);
    let paid = app.pay(&order).await;
    assert_eq!(paid["payment"]["amount_fen"], 1_280);
    assert_eq!(paid["order"]["status"], "paid");
    assert_eq!(paid["order"]["paid_at"], START + 1_000_000);

    let line = &order["lines"][0]["order_line_id"];
    let mut amounts = Vec::new();
    for quantity in [1, 2] {
        app.move_clock(1_000_000);
        let refund = app
            .made(
                &format!("{path}/refunds"),
                json!({"reason": "过期", "lines": [{"order_line_id": line, "quantity": quantity}]}),
            )
            .await;
        amounts.push(refund["amount_fen"].as_i64().unwrap());
    }
    assert_eq!(amounts, [189, 378]);

    let (_, detail) = app.get(&path).await;
    assert_eq!(detail["refunded_fen"], 567);
    assert_eq!(of_lines(&detail, "refunded_fen"), [567, 0]);
    assert_eq!(of_lines(&detail, "refunded_quantity"), [3, 0]);
    assert_eq!(detail["refunds"].as_array().unwrap().len(), 2);
    assert_eq!(detail["refunds"][1]["lines"][0]["amount_fen"], 378);
    assert_eq!(detail["refunds"][1]["succeeded_at"], START + 3_000_000);

    // Every write of a captured table told the readers of the changes.
    assert_eq!(app.commits.load(std::sync::atomic::Ordering::SeqCst), 4 + 1 + 1 + 1 + 2);
}

async fn what_the_state_forbids_is_refused_and_changes_nothing(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let paid = app.order(7, &[(1, 2)], None).await;
    app.pay(&paid).await;
    let line = paid["lines"][0]["order_line_id"].as_i64().unwrap();
    let closed = app.order(7, &[(1, 2)], None).await;
    app.made(&format!("/mall/orders/{}/close", closed["order_id"]), json!({})).await;
    let open = app.order(7, &[(2, 1)], None).await;
    app.made(
        "/mall/coupons",
        json!({"name": "满减", "kind": "full_reduction", "threshold_fen": 500, "discount_fen": 40,
            "funder": "merchant", "category": "a", "starts_at": START, "ends_at": START + DAY}),
    )
    .await;
    let path = |order: &serde_json::Value, action: &str| {
        format!("/mall/orders/{}/{action}", order["order_id"])
    };
    let lines = |lines: &[(i64, i64)]| {
        let lines: Vec<_> =
            lines.iter().map(|(l, q)| json!({"order_line_id": l, "quantity": q})).collect();
        json!({"reason": "r", "lines": lines})
    };
    let before = app.dump(app.services.mall()).await;
    let pay = json!({"method": "wechat_pay"});

    assert_error(app.post(&path(&paid, "pay"), pay.clone()).await, 409, "conflict", "already paid");
    assert_error(app.post(&path(&closed, "pay"), pay.clone()).await, 409, "conflict", "closed");
    assert_error(
        app.post("/mall/orders/99/pay", pay).await,
        404,
        "not_found",
        "order 99 does not exist",
    );
    assert_error(
        app.post(&path(&open, "pay"), json!({"method": "No!"})).await,
        400,
        "invalid",
        "method",
    );
    assert_error(app.post(&path(&paid, "close"), json!({})).await, 409, "conflict", "is paid");
    assert_error(
        app.post(&path(&closed, "close"), json!({})).await,
        409,
        "conflict",
        "already closed",
    );

    let refunds = path(&paid, "refunds");
    assert_error(
        app.post(&refunds, lines(&[(line, 3)])).await,
        409,
        "conflict",
        "2 of 2 units left to refund, not 3",
    );
    assert_error(app.post(&refunds, lines(&[(line, 0)])).await, 400, "invalid", "at least 1");
    assert_error(app.post(&refunds, lines(&[(line, -1)])).await, 400, "invalid", "at least 1");
    assert_error(
        app.post(&refunds, lines(&[(line, 1), (line, 1)])).await,
        400,
        "invalid",
        "named twice",
    );
    assert_error(
        app.post(&refunds, lines(&[(line, 1), (999, 1)])).await,
        404,
        "not_found",
        "order_line 999",
    );
    assert_error(app.post(&refunds, lines(&[])).await, 400, "invalid", "at least one line");
    // A line of another order is not found in this one.
    let other = open["lines"][0]["order_line_id"].as_i64().unwrap();
    assert_error(app.post(&refunds, lines(&[(other, 1)])).await, 404, "not_found", "order_line");
    assert_error(
        app.post(&path(&open, "refunds"), lines(&[(other, 1)])).await,
        409,
        "conflict",
        "not paid",
    );

    let order =
        |lines: &[(i64, i64)], coupon| app.post("/mall/orders", order_body(7, lines, coupon));
    assert_error(
        order(&[(1, 1), (77, 1)], None).await,
        404,
        "not_found",
        "product 77 does not exist",
    );
    assert_error(order(&[(1, 1)], Some(5)).await, 404, "not_found", "coupon 5");
    assert_error(order(&[(1, 0)], None).await, 400, "invalid", "quantity");
    assert_error(order(&[(1, i64::MAX)], None).await, 400, "invalid", "quantity");
    assert_error(order(&[], None).await, 400, "invalid", "lines");
    // 4.00 in scope and 2.40 outside it do not make 5.00.
    assert_error(
        order(&[(1, 2), (3, 2)], Some(1)).await,
        409,
        "conflict",
        "at least 500 fen; these come to 400",
    );
    let mut elsewhere = order_body(7, &[(1, 1)], None);
    elsewhere["pharmacy_id"] = json!(3);
    assert_error(app.post("/mall/orders", elsewhere).await, 404, "not_found", "pharmacy 3");
    app.move_clock(DAY);
    assert_error(order(&[(1, 3)], Some(1)).await, 409, "conflict", "not valid at this time");

    assert_eq!(app.dump(app.services.mall()).await, before);
}

async fn a_refund_in_two_steps_cannot_exceed_what_was_paid(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let order = app.order(7, &[(1, 2)], None).await;
    app.pay(&order).await;
    let refunds = format!("/mall/orders/{}/refunds", order["order_id"]);
    let body = json!({"reason": "r", "lines": [{"order_line_id": order["lines"][0]["order_line_id"], "quantity": 2}]});
    app.made(&refunds, body.clone()).await;
    assert_error(app.post(&refunds, body).await, 409, "conflict", "0 of 2 units left");
}

async fn catalogue_rules_are_checked(on: On) {
    let app = App::start(on).await;
    let product = |change: serde_json::Value| {
        let mut body = json!({"name": "n", "kind": "rx", "category": "c", "drug_code": "C09", "drug_class": "RASA",
            "days_supply_per_unit": 28, "unit_price_fen": 100, "return_policy": "seven_day"});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        app.post("/mall/products", body)
    };
    assert_eq!(product(json!({})).await.0, 201);
    for wrong in [
        json!({"name": " "}),
        json!({"unit_price_fen": -1}),
        json!({"unit_price_fen": 1_000_000_001}),
        json!({"unit_price_fen": 1.5}),
        json!({"drug_class": null}),
        json!({"days_supply_per_unit": 0}),
        json!({"kind": "food"}),
        json!({"product_id": 5}),
        json!({"surprise": 1}),
    ] {
        assert_error(product(wrong).await, 400, "invalid", "");
    }
    let (_, list) = app.get("/mall/products").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert_eq!(list["items"][0]["drug_class"], "RASA");

    let coupon = |terms: serde_json::Value| {
        let mut body = json!({"name": "n", "funder": "platform", "starts_at": 1, "ends_at": 2});
        body.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
        app.post("/mall/coupons", body)
    };
    for wrong in [
        json!({"kind": "percent", "percent": 0}),
        json!({"kind": "percent", "percent": 101}),
        json!({"kind": "percent", "discount_fen": 5}),
        json!({"kind": "full_reduction", "percent": 5, "discount_fen": 5}),
        json!({"kind": "full_reduction", "discount_fen": 0}),
        json!({"kind": "full_reduction", "discount_fen": 5, "cap_fen": 5}),
        json!({"kind": "percent", "percent": 10, "ends_at": 1}),
    ] {
        assert_error(coupon(wrong).await, 400, "invalid", "");
    }
    assert_error(
        app.post("/mall/pharmacies", json!({"name": "", "region": "浙江"})).await,
        400,
        "invalid",
        "name",
    );
}

async fn lists_are_read_in_pages(on: On) {
    let app = App::start(on).await;
    for number in 0..7 {
        app.made("/mall/pharmacies", json!({"name": format!("店 {number}"), "region": "浙江"}))
            .await;
    }
    let (_, page) = app.get("/mall/pharmacies?after_id=2&limit=3").await;
    let ids: Vec<_> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["pharmacy_id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids, [3, 4, 5]);
    assert_error(app.get("/mall/pharmacies?limit=x").await, 400, "invalid", "");
    assert_error(app.get("/mall/pharmacies?page=1").await, 400, "invalid", "");
}
