//! Points: earned, spent, given back, taken back and expired; also by many at once.

use futures::future::join_all;
use medlake_operational::{
    Scope, WriteTransaction, identity::Permission, mall::points::reconciliation::reconcile,
};
use serde_json::{Value, json};

use crate::{
    App, DAY, On, assert_error,
    identity::{customer, guarded, program, with_token},
    of_lines, order_body, run,
};

on_both! {
    points_pay_for_an_order_as_published,
    points_are_earned_and_come_and_go_with_refunds,
    sixty_four_clients_spend_the_same_points_once,
    points_that_do_not_agree_are_told,
    a_buyer_sees_and_spends_their_own_points_only,
}

/// A setting of the mall.
pub(crate) async fn set(app: &App, key: &str, value: i64) {
    let path = format!("/configuration/settings/mall.{key}");
    let (_, setting) = app.get(&path).await;
    let body = json!({"version": setting["version"], "value": value});
    let (status, answer) = app.put(&path, body).await;
    assert_eq!(status, 200, "{answer}");
}

async fn grant(app: &App, person_id: i64, points: i64) {
    let body = json!({"person_id": person_id, "points": points, "reason": "welcome",
        "valid_days": 365});
    app.made("/mall/points/adjustments", body).await;
}

fn paid_with(points: i64, person_id: i64, lines: &[(i64, i64)]) -> Value {
    let mut body = order_body(person_id, lines, None);
    body["points"] = json!(points);
    body
}

/// What a person has: available, spent, expired, owed. The ledger, the lots and the orders agree.
async fn has(app: &App, person_id: i64) -> [i64; 4] {
    let (_, report) = app.get("/mall/points/reconciliation").await;
    assert_eq!(report["balanced"], true, "{report}");
    let (_, balance) = app.get(&format!("/mall/points/accounts/{person_id}")).await;
    ["available", "spent", "expired", "owed"]
        .map(|name| balance[format!("{name}_points")].as_i64().unwrap())
}

/// The cases of an open mall (fen): 100 points over 200 and 150 are 57 and 43, and 50, the most there
/// may be, 28 and 22.
async fn points_pay_for_an_order_as_published(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let lines = [(1, 1), (2, 1)];
    let without = app.post("/mall/orders", paid_with(1, 9, &lines)).await;
    assert_error(without, 409, "conflict", "has 0 points to spend, not 1");
    grant(&app, 9, 500).await;
    let before = app.dump(app.services.mall()).await;
    let (_, quote) = app.post("/mall/quotes", paid_with(100, 9, &lines)).await;
    assert_eq!((&quote["usable_points"], &quote["payable_fen"]), (&json!(175), &json!(250)));
    assert_eq!(app.dump(app.services.mall()).await, before);
    let too_many = app.post("/mall/orders", paid_with(176, 9, &lines)).await;
    assert_error(too_many, 409, "conflict", "at most 175 points");
    let below = app.post("/mall/orders", paid_with(-1, 9, &lines)).await;
    assert_error(below, 400, "invalid", "at least 0");

    let order = app.made("/mall/orders", paid_with(100, 9, &lines)).await;
    assert_eq!(of_lines(&order, "points"), [57, 43]);
    assert_eq!(of_lines(&order, "disc_points_fen"), [57, 43]);
    assert_eq!(of_lines(&order, "cash_fen"), [143, 107]);
    assert_eq!((&order["points"], &order["payable_fen"]), (&json!(100), &json!(250)));
    let (_, detail) = app.get(&format!("/mall/orders/{}", order["order_id"])).await;
    for (part, amount) in detail["discounts"].as_array().unwrap().iter().zip([57, 43]) {
        assert_eq!((&part["kind"], &part["funder"]), (&json!("points"), &json!("platform")));
        assert_eq!(part["amount_fen"], amount);
    }
    set(&app, "points_per_order_max", 50).await;
    let (_, quote) = app.post("/mall/quotes", order_body(9, &lines, None)).await;
    assert_eq!(quote["usable_points"], 50);
    let capped = app.made("/mall/orders", paid_with(50, 9, &lines)).await;
    assert_eq!(of_lines(&capped, "disc_points_fen"), [28, 22]);
    assert_eq!(of_lines(&capped, "cash_fen"), [172, 128]);
    assert_eq!(has(&app, 9).await, [350, 150, 0, 0]);

    // A point of 3 fen pays for whole points of each line only, after the coupon.
    set(&app, "point_value_fen", 3).await;
    set(&app, "points_share_max_percent", 100).await;
    set(&app, "points_per_order_max", 1_000).await;
    let (_, quote) = app.post("/mall/quotes", order_body(9, &[(1, 1), (2, 1)], None)).await;
    assert_eq!(quote["usable_points"], 116);
    let order = app.made("/mall/orders", paid_with(116, 9, &lines)).await;
    assert_eq!(of_lines(&order, "cash_fen"), [2, 0]);
    // Not paid, it gives them back, as long as they are good.
    app.made(&format!("/mall/orders/{}/close", order["order_id"]), json!({})).await;
    assert_eq!(has(&app, 9).await, [350, 150, 0, 0]);
    // The cart pays as well.
    let variant = json!({"person_id": 9, "pharmacy_id": 1, "variant_id": 1, "quantity": 1});
    app.made("/mall/carts/lines", variant).await;
    let checkout = json!({"person_id": 9, "pharmacy_id": 1, "channel": "app", "points": 10});
    let order = app.made("/mall/carts/checkout", checkout).await;
    assert_eq!(of_lines(&order, "disc_points_fen"), [30]);
    assert_eq!(has(&app, 9).await, [340, 160, 0, 0]);

    let mut tx: WriteTransaction = app.services.mall().begin(0).await.unwrap();
    assert!(!run(&mut tx, "update points_entry set points = points + 1").await);
    assert!(!run(&mut tx, "delete from points_entry").await);
    tx.rollback().await.unwrap();
}

async fn points_are_earned_and_come_and_go_with_refunds(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let tea = json!({"name": "茶", "kind": "supplement", "category": "a", "unit_price_fen": 1_000,
        "return_policy": "seven_day", "tracks_stock": false});
    app.made("/mall/products", tea).await;
    let medicine = json!({"name": "药", "kind": "otc", "otc_class": "a", "category": "a",
        "unit_price_fen": 1_000, "return_policy": "quality_only", "tracks_stock": false});
    app.made("/mall/products", medicine).await;
    set(&app, "points_per_yuan", 10).await;
    set(&app, "points_valid_days", 30).await;
    grant(&app, 7, 100).await;
    let step = async |order: &Value, name: &str| {
        app.made(&format!("/mall/orders/{}/{name}", order["order_id"]), json!({})).await
    };
    let refund = async |order: &Value, line: usize, quantity: i64| {
        let line = &order["lines"][line]["order_line_id"];
        let body = json!({"reason": "", "cause": "quality",
            "lines": [{"order_line_id": line, "quantity": quantity}]});
        app.made(&format!("/mall/orders/{}/refunds", order["order_id"]), body).await
    };
    // Three units of 10 yuan less 1 yuan, and a medicine that earns nothing.
    let order = app.made("/mall/orders", paid_with(100, 7, &[(4, 3), (5, 1)])).await;
    assert_eq!(of_lines(&order, "points"), [75, 25]);
    assert_eq!(of_lines(&order, "reward_points"), [292, 0]);
    app.pay(&order).await;
    // Units give back their shares of the points: 25 each.
    let back = refund(&order, 0, 1).await;
    assert_eq!((&back["amount_fen"], &back["points"]), (&json!(975), &json!(25)));
    assert_eq!(has(&app, 7).await, [25, 75, 0, 0]);
    // What is asked for is held, and let go when it is refused.
    let line = &order["lines"][0]["order_line_id"];
    let asks = format!("/mall/orders/{}/refund-requests", order["order_id"]);
    let body = json!({"reason": "", "lines": [{"order_line_id": line, "quantity": 1}]});
    let asked = app.made(&asks, body.clone()).await;
    assert_eq!(has(&app, 7).await, [25, 75, 0, 0]);
    app.made(&format!("/mall/refunds/{}/reject", asked["refund_id"]), json!({})).await;
    let asked = app.made(&asks, body).await;
    app.made(&format!("/mall/refunds/{}/approve", asked["refund_id"]), json!({})).await;
    app.made(&format!("/mall/refunds/{}/succeed", asked["refund_id"]), json!({})).await;
    assert_eq!(has(&app, 7).await, [50, 50, 0, 0]);
    step(&order, "ship").await;
    step(&order, "receive").await;
    app.services.run_due().await.unwrap();
    assert_eq!(has(&app, 7).await, [50, 50, 0, 0], "it may be returned still");
    app.move_clock(7 * DAY);
    app.services.run_due().await.unwrap();
    // A third of 292: two units were refunded.
    assert_eq!(has(&app, 7).await, [147, 50, 0, 0]);
    // All of it goes back, spent meanwhile: what it earned is owed.
    let later = app.made("/mall/orders", paid_with(140, 7, &[(4, 1)])).await;
    let whole = json!({"reason": "", "cause": "quality", "whole": true});
    app.made(&format!("/mall/orders/{}/refunds", order["order_id"]), whole.clone()).await;
    assert_eq!(has(&app, 7).await, [0, 140, 0, 40]);
    // What is earned next pays for it; and then it is owed no more.
    app.pay(&later).await;
    step(&later, "ship").await;
    step(&later, "receive").await;
    app.move_clock(7 * DAY);
    app.services.run_due().await.unwrap();
    assert_eq!(has(&app, 7).await, [46, 140, 0, 0]);
    // Nothing is spent that has expired, whether that was noted or not; what comes back goes with it.
    app.move_clock(30 * DAY);
    let (_, balance) = app.get("/mall/points/accounts/7").await;
    assert_eq!((&balance["available_points"], &balance["expired_points"]), (&json!(0), &json!(46)));
    let late = app.post("/mall/orders", paid_with(1, 7, &[(4, 1)])).await;
    assert_error(late, 409, "conflict", "has 0 points");
    app.services.run_due().await.unwrap();
    assert_eq!(has(&app, 7).await, [0, 140, 46, 0]);
    app.made(&format!("/mall/orders/{}/refunds", later["order_id"]), whole).await;
    app.services.run_due().await.unwrap();
    let [available, spent, _, owed] = has(&app, 7).await;
    assert_eq!((spent, available), (0, 43), "of what was granted for a year 43 came back");
    assert_eq!(owed, 0);
    let take = json!({"person_id": 7, "points": -44, "reason": "mistake"});
    let taken = app.post("/mall/points/adjustments", take).await;
    assert_error(taken, 409, "conflict", "has 43 points");
    let (_, entries) = app.get("/mall/points/entries?person_id=7&limit=1000").await;
    let kinds: std::collections::BTreeSet<&str> = entries["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["event_type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds.len(), 7, "{kinds:?}");
}

async fn sixty_four_clients_spend_the_same_points_once(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    grant(&app, 7, 60).await;
    grant(&app, 7, 40).await;
    let spend = async |_| app.post("/mall/orders", paid_with(10, 7, &[(1, 1)])).await;
    let answers = join_all((0..64).map(spend)).await;
    let placed: Vec<&Value> =
        answers.iter().filter(|(status, _)| *status == 201).map(|(_, order)| order).collect();
    for (status, answer) in &answers {
        assert!(matches!(status, 201 | 409), "{status} {answer}");
    }
    assert_eq!(placed.len(), 10);
    assert_eq!(has(&app, 7).await, [0, 100, 0, 0]);
    // Each order is paid, closed or refunded twice at once: what it was paid with comes back once.
    let close = async |order: &Value| {
        let path = format!("/mall/orders/{}", order["order_id"]);
        let (close, pay) = (format!("{path}/close"), format!("{path}/pay"));
        let paid = json!({"method": "wechat_pay"});
        futures::join!(
            app.post(&close, json!({})),
            app.post(&pay, paid),
            app.post(&close, json!({}))
        );
        let (whole, refunds) = (json!({"reason": "", "whole": true}), format!("{path}/refunds"));
        futures::join!(app.post(&refunds, whole.clone()), app.post(&refunds, whole));
    };
    join_all(placed.into_iter().map(close)).await;
    assert_eq!(has(&app, 7).await, [100, 0, 0, 0]);
}

async fn points_that_do_not_agree_are_told(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    set(&app, "points_per_yuan", 10).await;
    grant(&app, 7, 100).await;
    let order = app.made("/mall/orders", paid_with(40, 7, &[(3, 1)])).await;
    app.pay(&order).await;
    for step in ["ship", "receive"] {
        app.made(&format!("/mall/orders/{}/{step}", order["order_id"]), json!({})).await;
    }
    app.move_clock(7 * DAY);
    app.services.run_due().await.unwrap();
    let [available, ..] = has(&app, 7).await;
    assert!(available > 60, "it has earned something");

    let mut tx: WriteTransaction = app.services.mall().begin(0).await.unwrap();
    for (column, kinds) in [
        ("available_points", ["available", "granted", "lots"].as_slice()),
        ("spent_points", &["spent", "granted"]),
        ("expired_points", &["expired", "granted"]),
        ("owed_points", &["owed", "granted"]),
    ] {
        let by = |change: &str| format!("update points_account set {column} = {column} {change}");
        told(&app, &mut tx, (&by("+ 1"), &by("- 1")), kinds).await;
    }
    for (table, change, back, kinds) in [
        (
            "points_lot",
            "available_points = available_points - 1",
            "available_points = available_points + 1",
            ["lots", "lot", "lot"].as_slice(),
        ),
        ("order_line", "refunded_points = 1", "refunded_points = 0", &["order_spent"]),
        ("order_line", "refunded_fen = cash_fen", "refunded_fen = 0", &["order_earned"]),
    ] {
        let [change, back] = [change, back].map(|set| format!("update {table} set {set}"));
        told(&app, &mut tx, (&change, &back), kinds).await;
    }
    // An event moves points between its own places only.
    for (event, from, to, lot, cause, fits) in [
        ("earn", "granted", "available", "1", "'order:9'", true),
        ("earn", "spent", "available", "1", "'order:8'", false),
        ("spend", "available", "owed", "1", "'order:9'", false),
        ("take_back", "owed", "spent", "null", "'order:9'", false),
        ("expire", "owed", "granted", "null", "null", false),
    ] {
        let entry = format!(
            "insert into points_entry (points_entry_id, tenant_id, points_account_id, points_lot_id,
                 event_type, points, from_place, to_place, cause, actor, occurred_at)
             select 900, tenant_id, points_account_id, {lot}, '{event}', 1, '{from}', '{to}',
                 {cause}, actor, occurred_at from points_entry where points_entry_id = 1"
        );
        assert_eq!(run(&mut tx, &entry).await, fits, "{entry}");
        if fits {
            tx.rollback().await.unwrap();
            tx = app.services.mall().begin(0).await.unwrap();
        }
    }
    tx.rollback().await.unwrap();
}

/// Spoils something, reads what is said of it, and mends it.
async fn told(app: &App, tx: &mut WriteTransaction, (spoil, mend): (&str, &str), kinds: &[&str]) {
    assert!(run(tx, spoil).await, "{spoil}");
    let report = reconcile(tx, Scope::at(app.services.now())).await.unwrap();
    let found: Vec<String> = report.discrepancies.iter().map(|d| d.kind.to_string()).collect();
    assert_eq!(found, kinds, "{spoil}");
    assert!(run(tx, mend).await, "{mend}");
    let report = reconcile(tx, Scope::at(app.services.now())).await.unwrap();
    assert!(report.balanced, "{mend}: {report:?}");
}

async fn a_buyer_sees_and_spends_their_own_points_only(on: On) {
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
    let gift = json!({"person_id": person, "points": 50, "reason": "welcome"});
    assert_error(by(&token, "/mall/points/adjustments", gift.clone()).await, 403, "denied", "");
    assert_eq!(by(&staff, "/mall/points/adjustments", gift).await.0, 201);
    for (path, mine) in [
        (format!("/mall/points/accounts/{person}"), "available_points"),
        (format!("/mall/points/lots?person_id={person}"), "items"),
        (format!("/mall/points/entries?person_id={person}"), "items"),
    ] {
        let (status, seen) = with_token(&app, "GET", &path, &token, None).await;
        assert_eq!(status, 200, "{seen}");
        assert!(
            seen[mine] == 50
                || seen[mine][0]["points"] == 50
                || seen[mine][0]["granted_points"] == 50
        );
        let hidden = with_token(&app, "GET", &path, &others, None).await;
        assert_error(hidden, 403, "denied", "may not act for person");
    }
    for path in ["/mall/points/accounts", "/mall/points/reconciliation"] {
        assert_eq!(with_token(&app, "GET", path, &token, None).await.0, 403, "{path}");
        assert_eq!(with_token(&app, "GET", path, &staff, None).await.0, 200, "{path}");
    }
    let (status, _) = by(&token, "/mall/orders", paid_with(50, person, &[(1, 1)])).await;
    assert_eq!(status, 201);
    let none = by(&others, "/mall/orders", paid_with(1, other, &[(1, 1)])).await;
    assert_error(none, 409, "conflict", "has 0 points");
}
