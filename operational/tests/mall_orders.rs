//! The states of an order, and its payments and refunds, also when they come twice and at once.

use aws_lc_rs::hmac;
use axum::{body::Body, http::Request};
use futures::future::join_all;
use medlake_operational::identity::Permission;
use serde_json::{Value, json};

use crate::{
    App, CHANNEL_SECRET, DAY, On, SECOND, START, assert_error,
    identity::{customer, guarded, program, with_token},
    mall_stock, of_lines, order_body,
};

on_both! {
    an_order_goes_its_way_and_keeps_its_history,
    a_channel_tells_twice_and_too_late,
    refunds_are_asked_for_decided_and_paid_out,
    crossed_refunds_change_nothing_twice,
    a_buyer_gets_at_what_is_theirs_only,
}

async fn an_order_goes_its_way_and_keeps_its_history(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let tea = json!({"name": "茶", "kind": "supplement", "category": "a", "unit_price_fen": 100,
        "return_policy": "seven_day", "tracks_stock": false});
    app.made("/mall/products", tea).await;
    let order = app.order(7, &[(1, 2), (4, 1)], None).await;
    assert_eq!(order["due_at"], START + 30 * 60 * SECOND);
    assert_eq!(of_lines(&order, "return_window_days"), [0, 7]);
    let path = |step: &str| format!("/mall/orders/{}/{step}", order["order_id"]);
    let step = async |name: &str| app.post_raw(&path(name), "{}", None).await;
    let refund = async |line: usize, cause: &str| {
        let line = &order["lines"][line]["order_line_id"];
        let lines = json!([{"order_line_id": line, "quantity": 1}]);
        let body = json!({"reason": "", "cause": cause, "lines": lines});
        app.post(&path("refund-requests"), body).await
    };
    assert_error(step("ship").await, 409, "conflict", "is not paid");
    assert_error(step("receive").await, 409, "conflict", "is not paid");
    app.move_clock(SECOND);
    app.pay(&order).await;
    // A refund that is not decided holds the shipment up.
    let (_, asked) = refund(1, "no_reason").await;
    assert_error(step("ship").await, 409, "conflict", "refund");
    app.made(&format!("/mall/refunds/{}/reject", asked["refund_id"]), json!({})).await;
    app.move_clock(SECOND);
    let shipped = app.made(&path("ship"), json!({"carrier": "express"})).await;
    assert_eq!(shipped["due_at"], START + 2 * SECOND + 10 * DAY);
    assert_error(step("ship").await, 409, "conflict", "already shipped");
    assert_error(step("close").await, 409, "conflict", "is shipped");
    // Nobody says that it came.
    app.move_clock(10 * DAY);
    let swept = app.services.sweep_mall().await.unwrap();
    assert_eq!((swept.closed, swept.received, swept.completed), (0, 1, 0));
    // A medicine goes back for its quality only, the tea within a week.
    assert_error(refund(0, "no_reason").await, 409, "conflict", "quality only");
    let reject = async |answer: (u16, Value)| {
        assert_eq!(answer.0, 201, "{}", answer.1);
        app.made(&format!("/mall/refunds/{}/reject", answer.1["refund_id"]), json!({})).await;
    };
    reject(refund(0, "quality").await).await;
    reject(refund(1, "no_reason").await).await;
    app.move_clock(7 * DAY);
    reject(refund(1, "no_reason").await).await;
    let swept = app.services.sweep_mall().await.unwrap();
    assert_eq!((swept.received, swept.completed), (0, 1));
    app.move_clock(1);
    assert_error(refund(1, "no_reason").await, 409, "conflict", "has ended");
    assert_eq!(app.services.sweep_mall().await.unwrap().completed, 0);

    let (_, detail) = app.get(&format!("/mall/orders/{}", order["order_id"])).await;
    let steps: Vec<&str> = detail["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["to_status"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["created", "paid", "shipped", "received", "completed"]);
    assert_eq!(detail["history"][2]["from_status"], "paid");
    assert_eq!(detail["history"][2]["changed_at"], START + 2 * SECOND);

    // Orders are found by who bought and how far they are.
    app.order(8, &[(1, 1)], None).await;
    let count = async |query: &str| {
        app.get(&format!("/mall/orders?{query}")).await.1["items"].as_array().unwrap().len()
    };
    assert_eq!(count("person_id=8").await, 1);
    assert_eq!(count("status=completed").await, 1);
    assert_eq!(count("status=created&person_id=7").await, 0);
    assert_eq!(count("limit=1").await, 1);
}

/// A notification as the channel `test_pay` signs it.
async fn notify(app: &App, body: &Value) -> (u16, Value) {
    let at = (app.services.now() / SECOND).to_string();
    notify_as(app, body, CHANNEL_SECRET, &at).await
}

async fn notify_as(app: &App, body: &Value, secret: &str, at: &str) -> (u16, Value) {
    let body = body.to_string();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{at}.{body}").as_bytes());
    let signature: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let request = Request::post("/mall/callbacks/payments")
        .header("content-type", "application/json")
        .header("Payment-Timestamp", at)
        .header("Payment-Signature", signature);
    app.send(request.body(Body::from(body)).unwrap()).await
}

async fn a_channel_tells_twice_and_too_late(on: On) {
    let app = App::start(on).await;
    mall_stock::counted(&app, 10).await;
    let order = app.order(7, &[(1, 2)], None).await;
    let id = order["order_id"].as_i64().unwrap();
    let paid = |order_id: i64, transaction: &str, amount: i64| {
        json!({"channel": "test_pay", "event": "payment_succeeded", "order_id": order_id,
            "transaction_id": transaction, "amount_fen": amount})
    };
    let before = app.dump(app.services.mall()).await;
    let now = (app.services.now() / SECOND).to_string();
    let told = paid(id, "t-1", 2_000);
    let forged = notify_as(&app, &told, "another secret", &now).await;
    assert_error(forged, 403, "denied", "not signed by this channel");
    let stale = (app.services.now() / SECOND - 301).to_string();
    let stale = notify_as(&app, &told, CHANNEL_SECRET, &stale).await;
    assert_error(stale, 403, "denied", "five minutes");
    let unsigned = app.post("/mall/callbacks/payments", told.clone()).await;
    assert_error(unsigned, 403, "denied", "not signed");
    let mut unknown = told.clone();
    unknown["channel"] = json!("other_pay");
    assert_error(notify(&app, &unknown).await, 403, "denied", "not signed by this channel");
    assert_error(
        notify(&app, &paid(id, "t-1", 1_999)).await,
        409,
        "conflict",
        "2000 fen, not to 1999",
    );
    assert_error(notify(&app, &paid(99, "t-1", 1)).await, 404, "not_found", "order 99");
    assert_eq!(app.dump(app.services.mall()).await, before);

    // The same transaction eight times at once pays once.
    let answers = join_all((0..8).map(|_| notify(&app, &told))).await;
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(answers[0].0, 200);
    assert_eq!(answers[0].1["payment"]["status"], "succeeded");
    let (_, detail) = app.get(&format!("/mall/orders/{id}")).await;
    assert_eq!(detail["status"], "paid");
    // Nothing but an empty transaction comes of it.
    let rows = async || {
        let mut rows = app.dump(app.services.mall()).await;
        rows.retain(|row| !row.starts_with("cdc_transaction"));
        rows
    };
    let before = rows().await;
    assert_eq!(notify(&app, &told).await, answers[0]);
    assert_error(
        notify(&app, &paid(id, "t-1", 1)).await,
        409,
        "conflict",
        "another order or amount",
    );
    assert_eq!(rows().await, before);

    // Another transaction for it goes back, and so does one for an order that was given up meanwhile.
    let twice = notify(&app, &paid(id, "t-2", 2_000)).await.1;
    assert_eq!(twice["payment"]["return_reason"], "paid_twice");
    let late = app.order(7, &[(1, 1)], None).await["order_id"].as_i64().unwrap();
    app.move_clock(30 * 60 * SECOND);
    assert_eq!(app.services.sweep_mall().await.unwrap().closed, 1);
    let answer = notify(&app, &paid(late, "t-3", 1_000)).await.1;
    assert_eq!(answer["payment"]["status"], "returning");
    assert_eq!(answer["payment"]["return_reason"], "order_closed");
    let (_, detail) = app.get(&format!("/mall/orders/{late}")).await;
    assert_eq!((&detail["status"], &detail["paid_at"]), (&json!("closed"), &Value::Null));
    assert_eq!(mall_stock::stock(&app).await, (10, 2));
    let (_, returning) = app.get("/mall/payments?status=returning").await;
    assert_eq!(returning["items"].as_array().unwrap().len(), 2);
    let returned = json!({"channel": "test_pay", "event": "payment_returned",
        "transaction_id": "t-3", "channel_refund_id": "r-3"});
    let first = notify(&app, &returned).await;
    assert_eq!(first.1["payment"]["status"], "returned");
    app.move_clock(SECOND);
    assert_eq!(notify(&app, &returned).await, first);
    let mut wrong = returned.clone();
    wrong["transaction_id"] = json!("t-1");
    assert_error(notify(&app, &wrong).await, 409, "conflict", "not to be sent back");

    // The channel pays refunds out, or cannot.
    let whole = json!({"reason": "r", "whole": true});
    let ask = async || {
        let asked = app.made(&format!("/mall/orders/{id}/refund-requests"), whole.clone()).await;
        asked["refund_id"].as_i64().unwrap()
    };
    let refund_id = ask().await;
    let out = |refund: i64, amount: i64| {
        json!({"channel": "test_pay", "event": "refund_succeeded", "refund_id": refund,
            "channel_refund_id": "r-1", "amount_fen": amount})
    };
    assert_error(notify(&app, &out(refund_id, 2_000)).await, 409, "conflict", "not approved");
    app.made(&format!("/mall/refunds/{refund_id}/approve"), json!({})).await;
    assert_error(notify(&app, &out(refund_id, 1)).await, 409, "conflict", "2000 fen, not to 1");
    let failed = json!({"channel": "test_pay", "event": "refund_failed", "refund_id": refund_id,
        "reason": "the account is closed"});
    assert_eq!(notify(&app, &failed).await.1["refund"]["status"], "failed");
    assert_eq!(notify(&app, &failed).await.1["refund"]["status"], "failed");
    let refund_id = ask().await;
    app.made(&format!("/mall/refunds/{refund_id}/approve"), json!({})).await;
    let told = out(refund_id, 2_000);
    let answers = join_all((0..4).map(|_| notify(&app, &told))).await;
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(answers[0].1["refund"]["status"], "succeeded");
    let (_, detail) = app.get(&format!("/mall/orders/{id}")).await;
    assert_eq!(detail["status"], "closed");
    assert_eq!(
        (&detail["refunded_fen"], &detail["close_reason"]),
        (&json!(2_000), &json!("refunded"))
    );
    assert_eq!(mall_stock::stock(&app).await, (10, 0));
}

async fn refunds_are_asked_for_decided_and_paid_out(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let mut body = order_body(7, &[(2, 3), (3, 2)], None);
    body["shipping_fen"] = json!(600);
    let order = app.made("/mall/orders", body).await;
    app.pay(&order).await;
    let path = format!("/mall/orders/{}", order["order_id"]);
    let line = |n: usize| order["lines"][n]["order_line_id"].clone();
    let ask = async |body: Value| app.post(&format!("{path}/refund-requests"), body).await;
    let of_amount = |n: usize, amount: i64| json!({"reason": "r", "lines": [{"order_line_id": line(n), "amount_fen": amount}]});
    let of_units = |n: usize, units: i64| json!({"reason": "r", "lines": [{"order_line_id": line(n), "quantity": units}]});
    // 4.50 for three: an amount, then units worth their shares, the last of what is left.
    let refund = async |body: Value| app.made(&format!("{path}/refunds"), body).await;
    assert_eq!(refund(of_amount(0, 40)).await["amount_fen"], 40);
    assert_eq!(refund(of_units(0, 1)).await["amount_fen"], 150);
    assert_error(ask(of_amount(0, 261)).await, 409, "conflict", "260 fen left to refund");
    assert_error(ask(of_amount(0, 0)).await, 400, "invalid", "at least 1");
    let both = json!({"reason": "r", "lines": [{"order_line_id": line(0), "quantity": 1, "amount_fen": 1}]});
    assert_error(ask(both).await, 400, "invalid", "either a quantity or an amount");
    let mut everything = of_units(0, 1);
    everything["whole"] = json!(true);
    assert_error(ask(everything).await, 400, "invalid", "whole, or");
    // What is asked for is held.
    let (_, held) = ask(of_units(0, 2)).await;
    assert_eq!((&held["amount_fen"], &held["status"]), (&json!(260), &json!("requested")));
    assert_error(ask(of_units(0, 1)).await, 409, "conflict", "0 of 3 units left");
    assert_error(ask(of_amount(0, 1)).await, 409, "conflict", "0 fen left");
    let step = async |refund: &Value, step: &str| {
        let path = format!("/mall/refunds/{}/{step}", refund["refund_id"]);
        app.post_raw(&path, "{}", None).await
    };
    assert_error(step(&held, "succeed").await, 409, "conflict", "is requested, not approved");
    assert_eq!(step(&held, "reject").await.0, 200);
    assert_error(step(&held, "approve").await, 409, "conflict", "is rejected");
    // All that is left, with the shipping; the rest of the threshold does not matter any more.
    let whole = json!({"reason": "r", "whole": true});
    let (_, whole_asked) = ask(whole.clone()).await;
    assert_eq!(
        (&whole_asked["amount_fen"], &whole_asked["shipping_fen"]),
        (&json!(500), &json!(600))
    );
    assert_error(ask(whole).await, 409, "conflict", "nothing left to refund");
    app.move_clock(SECOND);
    step(&whole_asked, "approve").await;
    let before = app.dump(app.services.mall()).await;
    assert_error(step(&whole_asked, "approve").await, 409, "conflict", "is approved");
    assert_error(step(&whole_asked, "reject").await, 409, "conflict", "is approved");
    assert_eq!(app.dump(app.services.mall()).await, before);
    let (status, paid_out) = step(&whole_asked, "succeed").await;
    assert_eq!((status, &paid_out["succeeded_at"]), (200, &json!(START + SECOND)));
    let (_, detail) = app.get(&path).await;
    assert_eq!((&detail["status"], &detail["refunded_fen"]), (&json!("closed"), &json!(690)));
    assert_eq!(detail["refunded_shipping_fen"], 600);
    assert_eq!(of_lines(&detail, "refunded_fen"), of_lines(&detail, "cash_fen"));
    assert_eq!(of_lines(&detail, "refunding_fen"), [0, 0]);
    let (_, refunds) = app.get("/mall/refunds?status=succeeded").await;
    assert_eq!(refunds["items"].as_array().unwrap().len(), 3);
}

/// Clients ask for, decide and pay out refunds of one order at once: what was paid is given back once.
async fn crossed_refunds_change_nothing_twice(on: On) {
    let app = App::start(on).await;
    let variant = mall_stock::counted(&app, 20).await;
    let order = app.order(7, &[(1, 7)], None).await;
    app.pay(&order).await;
    let path = format!("/mall/orders/{}", order["order_id"]);
    let line = &order["lines"][0]["order_line_id"];
    let client = async |number: usize| {
        let body = match number % 4 {
            0 => json!({"reason": "r", "whole": true}),
            1 => json!({"reason": "r", "lines": [{"order_line_id": line, "amount_fen": 300}]}),
            _ => json!({"reason": "r", "lines": [{"order_line_id": line, "quantity": 2}]}),
        };
        let (status, asked) = app.post(&format!("{path}/refund-requests"), body).await;
        if status != 201 {
            assert_eq!(status, 409, "{asked}");
            return;
        }
        let refund = format!("/mall/refunds/{}", asked["refund_id"]);
        // Two decide at once: one of them does.
        let (approve, reject) = (format!("{refund}/approve"), format!("{refund}/reject"));
        let decided = futures::join!(app.post(&approve, json!({})), app.post(&reject, json!({})));
        assert_eq!([decided.0.0, decided.1.0].iter().filter(|status| **status == 200).count(), 1);
        let succeed = format!("{refund}/succeed");
        let paid = futures::join!(app.post(&succeed, json!({})), app.post(&succeed, json!({})));
        assert_eq!(paid.0.0, paid.1.0, "{paid:?}");
    };
    for _ in 0..3 {
        join_all((0..8).map(client)).await;
    }
    app.post(&format!("{path}/refunds"), json!({"reason": "r", "whole": true})).await;
    let (_, detail) = app.get(&path).await;
    assert_eq!(detail["refunded_fen"], 7_000, "{detail}");
    assert_eq!(of_lines(&detail, "refunded_quantity"), [7]);
    assert_eq!(detail["status"], "closed");
    let sums = "select coalesce(sum(r.amount_fen), 0) from refund r where r.status = 'succeeded'";
    assert_eq!(app.scalar(app.services.mall(), sums).await, 7_000);
    assert_eq!(mall_stock::stock(&app).await, (20, 0));
    mall_stock::receive(&app, variant, 1).await;
}

async fn a_buyer_gets_at_what_is_theirs_only(on: On) {
    let (app, _) = guarded(on).await;
    let (_, _, staff) = program(&app, Permission::ALL.to_vec()).await;
    let by = async |token: &str, path: &str, body: Value| {
        with_token(&app, "POST", path, token, Some(body)).await
    };
    by(&staff, "/mall/pharmacies", json!({"name": "店", "region": "浙江"})).await;
    let product = json!({"name": "茶", "kind": "supplement", "category": "a",
        "unit_price_fen": 100, "return_policy": "seven_day", "tracks_stock": false});
    assert_eq!(by(&staff, "/mall/products", product).await.0, 201);
    let (person, token) = customer(&app, "buyer").await;
    let (other, others) = customer(&app, "other").await;
    let (status, order) = by(&token, "/mall/orders", order_body(person, &[(1, 1)], None)).await;
    assert_eq!(status, 201, "{order}");
    let for_other = by(&token, "/mall/orders", order_body(other, &[(1, 1)], None)).await;
    assert_error(for_other, 403, "denied", "may not act for person");
    let mut free = order_body(person, &[(1, 1)], None);
    free["shipping_fen"] = json!(0);
    assert_error(by(&token, "/mall/orders", free).await, 403, "denied", "shipping");
    let path = format!("/mall/orders/{}", order["order_id"]);
    let pay = json!({"method": "wechat_pay"});
    assert_error(by(&token, &format!("{path}/pay"), pay.clone()).await, 403, "denied", "");
    assert_eq!(by(&staff, &format!("{path}/pay"), pay).await.0, 201);
    let whole = json!({"reason": "r", "whole": true});
    assert_error(by(&token, &format!("{path}/refunds"), whole.clone()).await, 403, "denied", "");
    let asks = format!("{path}/refund-requests");
    assert_error(by(&others, &asks, whole.clone()).await, 404, "not_found", "order");
    let (status, asked) = by(&token, &asks, whole).await;
    assert_eq!(status, 201, "{asked}");
    let refund = format!("/mall/refunds/{}", asked["refund_id"]);
    assert_error(by(&token, &format!("{refund}/approve"), json!({})).await, 403, "denied", "");
    for (of, person_id, expected) in [(&token, person, 200), (&others, other, 404)] {
        for path in [&path, &refund] {
            assert_eq!(with_token(&app, "GET", path, of, None).await.0, expected, "{path}");
        }
        let count = usize::from(expected == 200);
        for list in ["/mall/orders", "/mall/payments", "/mall/refunds"] {
            let (_, rows) = with_token(&app, "GET", list, of, None).await;
            assert_eq!(rows["items"].as_array().unwrap().len(), count, "{list}");
        }
        let cart = format!("/mall/carts?person_id={person_id}");
        assert_eq!(with_token(&app, "GET", &cart, of, None).await.0, 200);
        let others_cart = format!("/mall/carts?person_id={}", person + other - person_id);
        assert_eq!(with_token(&app, "GET", &others_cart, of, None).await.0, 403);
    }
}
