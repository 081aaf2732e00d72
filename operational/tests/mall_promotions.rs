//! Campaigns, coupons and prescriptions, with their limits, as orders use them and give them back.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::{App, DAY, On, SECOND, START, assert_error, of_lines, order_body};

on_both! {
    campaigns_and_coupons_add_up_by_funder,
    a_campaign_sells_its_units_and_no_more,
    coupons_are_claimed_within_limits_and_given_back,
    a_medicine_on_prescription_needs_one,
    a_cart_becomes_an_order,
}

fn campaign(terms: &Value) -> Value {
    let mut body = json!({"name": "活动", "funder": "merchant", "starts_at": START,
        "ends_at": START + 20 * DAY});
    body.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
    body
}

async fn campaigns_and_coupons_add_up_by_funder(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let gift = json!({"name": "口罩", "kind": "device", "category": "g", "unit_price_fen": 50,
        "return_policy": "seven_day"});
    app.made("/mall/products", gift).await;
    let (_, gift) = app.get("/mall/products/4").await;
    let gift = gift["variants"][0]["variant_id"].as_i64().unwrap();
    let wrong = |terms: Value| app.post("/mall/campaigns", campaign(&terms));
    let tiers = json!([{"threshold_fen": 300, "discount_fen": 50}]);
    let rx = json!({"name": "处方药", "kind": "rx", "category": "r", "unit_price_fen": 50,
        "return_policy": "quality_only", "tracks_stock": false});
    app.made("/mall/products", rx).await;
    let (_, rx) = app.get("/mall/products/5").await;
    let rx = &rx["variants"][0]["variant_id"];
    for terms in [
        json!({"kind": "full_reduction"}),
        json!({"kind": "full_reduction", "tiers": tiers, "unit_limit": 5}),
        json!({"kind": "full_reduction", "tiers": [{"threshold_fen": 300, "discount_fen": 301}]}),
        json!({"kind": "full_reduction", "tiers": [{"threshold_fen": 300}]}),
        json!({"kind": "item_price", "tiers": tiers}),
        json!({"kind": "item_price", "items": [{"product_id": 1}]}),
        json!({"kind": "item_price", "items": [{"product_id": 1, "percent_off": 101}]}),
        json!({"kind": "full_reduction",
            "tiers": [{"threshold_fen": 300, "gift_variant_id": rx, "gift_quantity": 1}]}),
    ] {
        assert_error(wrong(terms).await, 400, "invalid", "");
    }
    let unknown = json!({"kind": "item_price", "items": [{"product_id": 99, "percent_off": 1}]});
    assert_error(wrong(unknown).await, 404, "not_found", "product 99");

    // 2.00 at 1.60; 满 2 减 0.5 of the platform, with two masks; a tenth off what is left, the merchant's.
    let cut = json!({"kind": "item_price", "items": [{"product_id": 1, "unit_price_fen": 160}]});
    app.made("/mall/campaigns", campaign(&cut)).await;
    let reduce = json!({"kind": "full_reduction", "funder": "platform", "category": "a",
        "tiers": [{"threshold_fen": 200, "discount_fen": 20},
            {"threshold_fen": 310, "discount_fen": 50, "gift_variant_id": gift, "gift_quantity": 2}]});
    app.made("/mall/campaigns", campaign(&reduce)).await;
    let tenth = json!({"name": "九折", "kind": "percent", "percent": 10, "funder": "merchant",
        "starts_at": START, "ends_at": START + DAY});
    app.made("/mall/coupons", tenth).await;
    let body = order_body(7, &[(1, 1), (2, 1), (3, 1)], Some(1));
    let quote = app.made("/mall/quotes", body.clone()).await;
    // No masks are there: the order is placed without them.
    let order = app.made("/mall/orders", body.clone()).await;
    assert_eq!(of_lines(&order, "disc_item_fen"), [40, 0, 0]);
    // 50 over 160 and 150, then 38 (a tenth of 380) over 135, 125 and 120.
    assert_eq!(of_lines(&order, "disc_coupon_platform_fen"), [25, 25, 0]);
    assert_eq!(of_lines(&order, "disc_coupon_merchant_fen"), [13, 12, 13]);
    assert_eq!(of_lines(&order, "cash_fen"), [122, 113, 107]);
    assert_eq!((&quote["payable_fen"], &order["payable_fen"]), (&json!(342), &json!(342)));
    let (_, detail) = app.get(&format!("/mall/orders/{}", order["order_id"])).await;
    let of_funder = |funder: &str| -> i64 {
        let parts = detail["discounts"].as_array().unwrap().iter();
        parts.filter(|p| p["funder"] == funder).map(|p| p["amount_fen"].as_i64().unwrap()).sum()
    };
    assert_eq!((of_funder("merchant"), of_funder("platform")), (40 + 38, 50));

    crate::mall_stock::receive(&app, gift, 3).await;
    let order = app.made("/mall/orders", body.clone()).await;
    assert_eq!(order["lines"][3]["gift"], true);
    assert_eq!(of_lines(&order, "quantity"), [1, 1, 1, 2]);
    assert_eq!((of_lines(&order, "cash_fen")[3], &order["payable_fen"]), (0, &json!(342)));
    assert_eq!(crate::mall_stock::stock(&app).await, (3, 2));
    // All that was paid for goes back, and the gift is not sent.
    app.pay(&order).await;
    app.made(
        &format!("/mall/orders/{}/refunds", order["order_id"]),
        json!({"reason": "r", "whole": true}),
    )
    .await;
    assert_eq!(crate::mall_stock::stock(&app).await, (3, 0));

    // Whoever was told another price is asked again.
    let mut told = body.clone();
    told["expected_payable_fen"] = json!(341);
    assert_error(app.post("/mall/orders", told).await, 409, "conflict", "342 fen now, not to 341");
    app.made("/mall/campaigns/2/end", json!({})).await;
    assert_error(app.post("/mall/campaigns/2/end", json!({})).await, 409, "conflict", "has ended");
    let order = app.made("/mall/orders", body).await;
    assert_eq!(of_lines(&order, "disc_coupon_platform_fen"), [0, 0, 0]);
}

async fn a_campaign_sells_its_units_and_no_more(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let terms = json!({"kind": "item_price", "unit_limit": 10, "unit_limit_per_person": 3,
        "starts_at": START + SECOND, "ends_at": START + DAY,
        "items": [{"product_id": 1, "percent_off": 50}]});
    app.made("/mall/campaigns", campaign(&terms)).await;
    let cash = async |person: i64, units: i64| {
        of_lines(&app.order(person, &[(1, units)], None).await, "cash_fen")[0]
    };
    assert_eq!(cash(7, 1).await, 200, "it has not begun");
    app.move_clock(SECOND);
    // Three a person; what does not fit costs what it costs.
    assert_eq!(cash(7, 2).await, 200);
    assert_eq!(cash(7, 2).await, 400);
    assert_eq!(cash(7, 1).await, 100);
    // The seven that are left are sold once, however many want them.
    let wanted = (100..130).map(|person| app.order(person, &[(1, 1)], None));
    let orders = join_all(wanted).await;
    let cheap: Vec<&Value> = orders.iter().filter(|order| order["payable_fen"] == 100).collect();
    assert_eq!(cheap.len(), 7);
    let sold = async || app.get("/mall/campaigns/1").await.1["sold_units"].clone();
    assert_eq!(sold().await, 10);
    // One that is given up is there for others; one that is paid for is gone.
    app.made(&format!("/mall/orders/{}/close", cheap[0]["order_id"]), json!({})).await;
    app.pay(cheap[1]).await;
    let whole = json!({"reason": "r", "whole": true});
    app.made(&format!("/mall/orders/{}/refunds", cheap[1]["order_id"]), whole).await;
    assert_eq!(sold().await, 9);
    assert_eq!(cash(200, 1).await, 100);
    assert_eq!(cash(201, 1).await, 200);
    app.move_clock(DAY);
    assert_eq!(app.get("/mall/campaigns").await.1["items"].as_array().unwrap().len(), 1);
}

async fn coupons_are_claimed_within_limits_and_given_back(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let coupon = |terms: Value| {
        let mut body = json!({"name": "券", "kind": "full_reduction", "threshold_fen": 100,
            "discount_fen": 50, "funder": "platform", "claim_needed": true, "claim_limit": 5,
            "claim_limit_per_person": 2, "claim_valid_days": 2, "starts_at": START,
            "ends_at": START + 10 * DAY});
        body.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
        app.post("/mall/coupons", body)
    };
    assert_error(coupon(json!({"claim_needed": false})).await, 400, "invalid", "claim_needed");
    assert_error(coupon(json!({"claim_limit": 0})).await, 400, "invalid", "limits of claims");
    assert_eq!(coupon(json!({})).await.0, 201);
    let claim = |person: i64| app.post("/mall/coupons/1/claims", json!({"person_id": person}));
    let order = |person: i64| app.post("/mall/orders", order_body(person, &[(1, 1)], Some(1)));
    assert_error(order(7).await, 409, "conflict", "has no coupon 1 to use");
    assert_eq!(claim(7).await.0, 201);
    assert_eq!(claim(7).await.0, 201);
    assert_error(claim(7).await, 409, "conflict", "2 times, as often as is allowed");
    // Ten persons claim the three that are left.
    let claims = join_all((20..30).map(claim)).await;
    assert_eq!(claims.iter().filter(|(status, _)| *status == 201).count(), 3);
    assert_error(claim(40).await, 409, "conflict", "all claimed");

    let (_, first) = order(7).await;
    assert_eq!(first["payable_fen"], 150);
    assert_eq!(order(7).await.0, 201);
    assert_error(order(7).await, 409, "conflict", "has no coupon 1 to use");
    let claims = async || app.get("/mall/coupon-claims?person_id=7").await.1["items"].clone();
    assert_eq!(claims().await[0]["order_id"], first["order_id"]);
    // A closed order gives it back, and it is used again once, by two who try at a time.
    app.made(&format!("/mall/orders/{}/close", first["order_id"]), json!({})).await;
    assert_eq!(claims().await[0]["status"], "claimed");
    let (one, other) = futures::join!(order(7), order(7));
    let mut statuses = [one.0, other.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409]);
    app.move_clock(2 * DAY);
    app.services.sweep_mall().await.unwrap();
    assert_eq!(claims().await[0]["status"], "claimed");
    assert_error(order(7).await, 409, "conflict", "has no coupon 1 to use");
}

async fn a_medicine_on_prescription_needs_one(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let rx = json!({"name": "缬沙坦", "kind": "rx", "category": "r", "atc_code": "C09CA03",
        "days_supply_per_unit": 28, "unit_price_fen": 3_000, "return_policy": "quality_only",
        "tracks_stock": false});
    let made = app.made("/mall/products", rx.clone()).await;
    assert_eq!((&made["drug_code"], &made["drug_class"]), (&json!("C09CA03"), &json!("C09CA")));
    for wrong in [json!({"atc_code": "C9"}), json!({"otc_class": "a"})] {
        let mut body = rx.clone();
        body.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        assert_error(app.post("/mall/products", body).await, 400, "invalid", "");
    }
    let order = |person: i64, units: i64, prescription: Option<i64>| {
        let mut body = order_body(person, &[(4, units), (1, 1)], None);
        body["prescription_id"] = json!(prescription);
        app.post("/mall/orders", body)
    };
    assert_error(order(7, 1, None).await, 400, "invalid", "sold on prescription");
    assert_error(order(7, 1, Some(9)).await, 404, "not_found", "prescription 9");
    let issue = |signature: &str, items: Value| {
        let body = json!({"person_id": 7, "doctor_reference": "doctor", "items": items,
            "signature_reference": signature, "valid_until": START + 30 * DAY});
        app.post("/mall/prescriptions", body)
    };
    let three = json!([{"product_id": 4, "quantity": 3, "directions": "一日一次"}]);
    assert_error(issue("s", json!([])).await, 400, "invalid", "1 to 20 items");
    let otc = json!([{"product_id": 1, "quantity": 3}]);
    assert_error(issue("s", otc).await, 400, "invalid", "no medicine on prescription");
    let twice = json!([{"product_id": 4, "quantity": 1}, {"product_id": 4, "quantity": 1}]);
    assert_error(issue("s", twice).await, 409, "conflict", "prescribed twice");
    let (status, issued) = issue("s", three.clone()).await;
    assert_eq!(status, 201);
    let id = issued["prescription_id"].as_i64().unwrap();
    assert_error(issue("s", three).await, 409, "conflict", "another prescription");
    assert_error(order(7, 1, Some(id)).await, 409, "conflict", "is issued, not approved");
    let review = json!({"reviewed_by": "pharmacist", "approve": true, "note": "ok"});
    app.made(&format!("/mall/prescriptions/{id}/review"), review.clone()).await;
    assert_error(
        app.post(&format!("/mall/prescriptions/{id}/review"), review).await,
        409,
        "conflict",
        "approved already",
    );
    assert_error(order(8, 1, Some(id)).await, 409, "conflict", "another person's");
    assert_error(order(7, 4, Some(id)).await, 409, "conflict", "not for 4 more units");
    let used = async || {
        let (_, detail) = app.get(&format!("/mall/prescriptions/{id}")).await;
        (detail["items"][0]["used_quantity"].as_i64().unwrap(), detail["status"].clone())
    };
    // Its three units are ordered once, whoever is quicker.
    let orders = join_all((0..4).map(|_| order(7, 2, Some(id)))).await;
    let placed: Vec<&Value> =
        orders.iter().filter(|(status, _)| *status == 201).map(|(_, order)| order).collect();
    assert_eq!(placed.len(), 1);
    assert_eq!(order(7, 1, Some(id)).await.0, 201);
    assert_eq!(used().await, (3, json!("used")));
    assert_error(order(7, 1, Some(id)).await, 409, "conflict", "is used, not approved");
    // What is not sent may be ordered again: a unit refunded, then the rest closed.
    app.pay(placed[0]).await;
    let line = &placed[0]["lines"][0]["order_line_id"];
    let unit = json!({"reason": "r", "lines": [{"order_line_id": line, "quantity": 1}]});
    let path = format!("/mall/orders/{}", placed[0]["order_id"]);
    app.made(&format!("{path}/refunds"), unit).await;
    assert_eq!(used().await, (2, json!("approved")));
    app.made(&format!("{path}/refunds"), json!({"reason": "r", "whole": true})).await;
    assert_eq!(used().await, (1, json!("approved")));
    app.move_clock(DAY);
    app.services.sweep_mall().await.unwrap();
    assert_eq!(used().await, (0, json!("approved")));
    app.move_clock(30 * DAY);
    assert_error(order(7, 1, Some(id)).await, 409, "conflict", "no longer valid");
    let (_, list) = app.get("/mall/prescriptions?person_id=7&status=approved").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

async fn a_cart_becomes_an_order(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let variant = async |product: i64| {
        let (_, detail) = app.get(&format!("/mall/products/{product}")).await;
        detail["variants"][0]["variant_id"].as_i64().unwrap()
    };
    let set = |variant: i64, quantity: i64, selected: bool| {
        let body = json!({"person_id": 7, "pharmacy_id": 1, "variant_id": variant,
            "quantity": quantity, "selected": selected});
        app.post("/mall/carts/lines", body)
    };
    let (first, second) = (variant(1).await, variant(2).await);
    assert_eq!(set(first, 1, true).await.0, 200);
    assert_eq!(set(second, 5, false).await.0, 200);
    let (_, lines) = set(first, 2, true).await;
    assert_eq!(lines.as_array().unwrap().len(), 2);
    assert_eq!(lines[0]["quantity"], 2);
    assert_error(set(999, 1, true).await, 404, "not_found", "variant 999");
    assert_error(set(first, -1, true).await, 400, "invalid", "quantity");
    let checkout = json!({"person_id": 7, "pharmacy_id": 1, "channel": "app"});
    let order = app.made("/mall/carts/checkout", checkout.clone()).await;
    assert_eq!((&order["payable_fen"], of_lines(&order, "quantity")), (&json!(400), vec![2]));
    assert_error(
        app.post("/mall/carts/checkout", checkout).await,
        409,
        "conflict",
        "nothing of pharmacy 1 is selected",
    );
    let (_, cart) = app.get("/mall/carts?person_id=7").await;
    assert_eq!(cart["items"].as_array().unwrap().len(), 1);
    assert_eq!(set(second, 0, false).await.1, json!([]));
}
