//! Stock cannot be sold twice, and follows what becomes of an order.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::{App, DAY, On, SECOND, assert_error, order_body};

on_both! {
    sixty_four_clients_sell_the_last_hundred_units_once,
    stock_follows_an_order_to_its_end,
    variants_are_priced_and_stocked_apart,
}

/// A pharmacy and a product whose stock is counted, with so many units there.
pub(crate) async fn counted(app: &App, units: i64) -> i64 {
    app.made("/mall/pharmacies", json!({"name": "西湖店", "region": "浙江"})).await;
    let product = json!({"name": "血压计", "kind": "device", "category": "a",
        "unit_price_fen": 1_000, "return_policy": "seven_day"});
    let product = app.made("/mall/products", product).await;
    let (_, detail) = app.get(&format!("/mall/products/{}", product["product_id"])).await;
    let variant_id = detail["variants"][0]["variant_id"].as_i64().unwrap();
    receive(app, variant_id, units).await;
    variant_id
}

pub(crate) async fn receive(app: &App, variant_id: i64, units: i64) -> Value {
    app.made(
        "/mall/stock/movements",
        json!({"pharmacy_id": 1, "variant_id": variant_id, "kind": "receipt",
            "on_hand_change": units, "reason": "delivery"}),
    )
    .await
}

/// What is there and what is reserved of the first stock; and whether all stocks are the sums of their
/// movements, and are reserved for just the orders that wait for them.
pub(crate) async fn stock(app: &App) -> (i64, i64) {
    let mall = app.services.mall();
    let off = "select count(*) from stock s where on_hand <> (select coalesce(sum(m.on_hand_change), 0)
            from stock_movement m where m.pharmacy_id = s.pharmacy_id and m.variant_id = s.variant_id)
        or reserved <> (select coalesce(sum(m.reserved_change), 0) from stock_movement m
            where m.pharmacy_id = s.pharmacy_id and m.variant_id = s.variant_id)
        or reserved <> (select coalesce(sum(l.quantity - l.refunded_quantity), 0)
            from order_line l join orders o on o.order_id = l.order_id
            join product_variant v on v.variant_id = l.variant_id
            where o.pharmacy_id = s.pharmacy_id and l.variant_id = s.variant_id and v.tracks_stock
            and o.status in ('created', 'paid'))";
    assert_eq!(app.scalar(mall, off).await, 0);
    (
        app.scalar(mall, "select on_hand from stock where stock_id = 1").await,
        app.scalar(mall, "select reserved from stock where stock_id = 1").await,
    )
}

async fn sixty_four_clients_sell_the_last_hundred_units_once(on: On) {
    let app = App::start(on).await;
    counted(&app, 100).await;
    // Each buys one, two or three at a time until it is refused; then one by one.
    let client = async |number: i64| {
        let (mut bought, mut ids) = (0, Vec::new());
        let mut units = 1 + number % 3;
        loop {
            let (status, answer) =
                app.post("/mall/orders", order_body(number, &[(1, units)], None)).await;
            match status {
                201 => {
                    bought += units;
                    ids.push(answer["order_id"].as_i64().unwrap());
                }
                409 if units > 1 => units = 1,
                409 => {
                    let said = answer["error"]["message"].as_str().unwrap();
                    assert!(said.contains("0 units left"), "{said}");
                    return (bought, ids);
                }
                _ => panic!("{status} {answer}"),
            }
        }
    };
    let clients = join_all((1..=64).map(client)).await;
    let sold: i64 = clients.iter().map(|(bought, _)| bought).sum();
    assert_eq!(sold, 100);
    assert_eq!(stock(&app).await, (100, 100));

    // Half of the orders are closed and half are paid at once, and others buy what becomes free.
    let ids: Vec<i64> = clients.into_iter().flat_map(|(_, ids)| ids).collect();
    let act = async |(place, id): (usize, i64)| {
        let (path, body) = match place % 2 {
            0 => ("close", json!({})),
            _ => ("pay", json!({"method": "wechat_pay"})),
        };
        app.made(&format!("/mall/orders/{id}/{path}"), body).await;
    };
    join_all(ids.iter().copied().enumerate().map(act)).await;
    let paid = "select coalesce(sum(l.quantity), 0) from order_line l
        join orders o on o.order_id = l.order_id where o.status = 'paid'";
    let paid = app.scalar(app.services.mall(), paid).await;
    assert_eq!(stock(&app).await, (100, paid));
    let more = join_all((1..=64).map(client)).await;
    assert_eq!(more.iter().map(|(bought, _)| bought).sum::<i64>(), 100 - paid);
    assert_eq!(stock(&app).await, (100, 100));
}

async fn stock_follows_an_order_to_its_end(on: On) {
    let app = App::start(on).await;
    let variant_id = counted(&app, 10).await;
    assert_eq!(stock(&app).await, (10, 0));
    let order = app.order(7, &[(1, 4)], None).await;
    let path = format!("/mall/orders/{}", order["order_id"]);
    assert_eq!(stock(&app).await, (10, 4));
    let adjust = |change: i64| {
        let body = json!({"pharmacy_id": 1, "variant_id": variant_id, "kind": "adjustment",
            "on_hand_change": change});
        app.post("/mall/stock/movements", body)
    };
    // What is promised cannot be written off.
    assert_error(adjust(-7).await, 409, "conflict", "reserved");
    assert_eq!(adjust(-6).await.0, 201);
    assert_error(
        app.post("/mall/orders", order_body(8, &[(1, 1)], None)).await,
        409,
        "conflict",
        "pharmacy 1 has 0 units left of variant",
    );
    assert_error(adjust(0).await, 400, "invalid", "on_hand_change");
    app.pay(&order).await;
    let line = &order["lines"][0]["order_line_id"];
    let refund = |quantity: i64, cause: &str| {
        let lines = json!([{"order_line_id": line, "quantity": quantity}]);
        json!({"reason": "r", "cause": cause, "lines": lines})
    };
    // A unit refunded before the shipment is free again.
    app.made(&format!("{path}/refunds"), refund(1, "no_reason")).await;
    assert_eq!(stock(&app).await, (4, 3));
    app.made(&format!("{path}/ship"), json!({"carrier": "express", "tracking_number": "1"})).await;
    assert_eq!(stock(&app).await, (1, 0));
    // One that was shipped is sold again only if somebody finds it can be.
    for (restock, there) in [(false, 1), (true, 2)] {
        let asked = app.made(&format!("{path}/refund-requests"), refund(1, "quality")).await;
        let refund = format!("/mall/refunds/{}", asked["refund_id"]);
        app.made(&format!("{refund}/approve"), json!({"restock": restock})).await;
        app.made(&format!("{refund}/succeed"), json!({})).await;
        assert_eq!(stock(&app).await, (there, 0));
    }
    let kinds = "select count(distinct kind) from stock_movement";
    assert_eq!(app.scalar(app.services.mall(), kinds).await, 6);

    // What is not paid in time is given up by itself, once.
    let order = app.order(7, &[(1, 2)], None).await;
    assert_eq!(stock(&app).await, (2, 2));
    app.move_clock(30 * 60 * SECOND - 1);
    assert_eq!(app.services.sweep_mall().await.unwrap().closed, 0);
    app.move_clock(1);
    assert_eq!(app.services.sweep_mall().await.unwrap().closed, 1);
    assert_eq!(app.services.sweep_mall().await.unwrap().closed, 0);
    assert_eq!(stock(&app).await, (2, 0));
    let (_, order) = app.get(&format!("/mall/orders/{}", order["order_id"])).await;
    assert_eq!((&order["status"], &order["close_reason"]), (&json!("closed"), &json!("expired")));
    let (_, movements) = app.get("/mall/stock/movements?pharmacy_id=1&limit=1000").await;
    let last = movements["items"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["kind"], &last["reserved_change"]), (&json!("release"), &json!(-2)));
}

async fn variants_are_priced_and_stocked_apart(on: On) {
    let app = App::start(on).await;
    let small = counted(&app, 5).await;
    let new = json!({"spec": "大号", "sku": "BP-L", "unit_price_fen": 1_500});
    let large = app.made("/mall/products/1/variants", new.clone()).await;
    assert_eq!((&large["variant_number"], &large["version"]), (&json!(2), &json!(1)));
    assert_error(app.post("/mall/products/1/variants", new).await, 409, "conflict", "sku");
    let large = large["variant_id"].as_i64().unwrap();
    receive(&app, large, 3).await;
    let body =
        |lines: Value| json!({"person_id": 7, "pharmacy_id": 1, "channel": "app", "lines": lines});
    let both = json!([{"product_id": 1, "variant_id": large, "quantity": 3},
        {"product_id": 1, "quantity": 1}]);
    let order = app.made("/mall/orders", body(both)).await;
    assert_eq!(crate::of_lines(&order, "variant_id"), [large, small]);
    assert_eq!(order["payable_fen"], 5_500);
    let one = body(json!([{"product_id": 1, "variant_id": large, "quantity": 1}]));
    assert_error(app.post("/mall/orders", one.clone()).await, 409, "conflict", "0 units left");
    let other = body(json!([{"product_id": 1, "variant_id": 9_999, "quantity": 1}]));
    assert_error(app.post("/mall/orders", other).await, 404, "not_found", "variant 9999");

    // Two people change it at once: the second is told.
    let change = format!("/mall/variants/{small}/change");
    let dearer = json!({"version": 1, "unit_price_fen": 1_100});
    assert_eq!(app.made(&change, dearer.clone()).await["version"], 2);
    assert_error(app.post(&change, dearer).await, 409, "conflict", "not of version 1");
    let (_, product) = app.get("/mall/products/1").await;
    assert_eq!(product["unit_price_fen"], 1_100);
    app.made(&change, json!({"version": 2, "active": false})).await;
    assert_error(
        app.post("/mall/orders", order_body(7, &[(1, 1)], None)).await,
        409,
        "conflict",
        "not sold",
    );
    // An order that was placed keeps its price.
    let (_, order) = app.get(&format!("/mall/orders/{}", order["order_id"])).await;
    assert_eq!(order["payable_fen"], 5_500);
    app.move_clock(DAY);
    app.services.sweep_mall().await.unwrap();
    stock(&app).await;
}
