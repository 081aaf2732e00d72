//! What whoever runs a mall changes of it: pharmacies, products, prices and coupons; orders keep their terms.

use serde_json::{Value, json};

use crate::{App, DAY, On, SECOND, START, assert_error, of_lines, order_body};

on_both! {
    goods_are_changed_by_version_and_orders_keep_their_terms,
    orders_and_products_are_found,
}

async fn goods_are_changed_by_version_and_orders_keep_their_terms(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let order = app.order(7, &[(1, 1)], None).await;

    let (_, detail) = app.get("/mall/products/1").await;
    let variant = format!("/mall/variants/{}", detail["variants"][0]["variant_id"]);
    for (version, price) in [(1, 210), (2, 210), (3, 190)] {
        let change = json!({"version": version, "unit_price_fen": price});
        app.made(&format!("{variant}/change"), change).await;
        app.move_clock(SECOND);
    }
    let (_, changes) = app.get(&format!("{variant}/price-changes")).await;
    let prices: Vec<[i64; 4]> = changes["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| {
            ["version", "old_unit_price_fen", "new_unit_price_fen", "changed_at"]
                .map(|field| change[field].as_i64().unwrap())
        })
        .collect();
    assert_eq!(prices, [[2, 200, 210, START], [4, 210, 190, START + 2 * SECOND]]);
    assert_eq!(app.get("/mall/variants/99/price-changes").await.0, 404);

    // Off sale: nobody buys it, and what was bought stays bought.
    let mut product = json!({"version": 1, "name": "新名", "category": "c", "brand": null,
        "otc_class": "a", "return_policy": "seven_day", "active": false});
    let (status, changed) = app.put("/mall/products/1", product.clone()).await;
    assert_eq!(status, 200, "{changed}");
    assert_eq!((&changed["version"], &changed["otc_class"]), (&json!(2), &json!("a")));
    let stale = app.put("/mall/products/1", product.clone()).await;
    assert_error(stale, 409, "conflict", "not of version 1");
    let off_sale = app.post("/mall/orders", order_body(7, &[(1, 1)], None)).await;
    assert_error(off_sale, 409, "conflict", "is not sold at present");
    let wanted = json!({"person_id": 7, "pharmacy_id": 1, "quantity": 1,
        "variant_id": detail["variants"][0]["variant_id"]});
    let in_cart = app.post("/mall/carts/lines", wanted).await;
    assert_error(in_cart, 409, "conflict", "is not sold at present");
    let (_, kept) = app.get(&format!("/mall/orders/{}", order["order_id"])).await;
    assert_eq!(of_lines(&kept, "unit_price_fen"), [200]);
    assert_eq!(of_lines(&kept, "return_window_days"), [0]);
    product["version"] = json!(2);
    product["active"] = json!(true);
    app.put("/mall/products/1", product.clone()).await;
    let order = app.order(7, &[(1, 1)], None).await;
    assert_eq!(of_lines(&order, "unit_price_fen"), [190]);
    assert_eq!(of_lines(&order, "return_window_days"), [7]);
    product["version"] = json!(3);
    product["name"] = json!(" ");
    assert_error(app.put("/mall/products/1", product).await, 400, "invalid", "name");
    let device = json!({"name": "仪", "kind": "device", "category": "a", "unit_price_fen": 1,
        "return_policy": "seven_day", "tracks_stock": false});
    let device = app.made("/mall/products", device).await;
    let classed = json!({"version": 1, "name": "仪", "category": "a", "otc_class": "a",
        "return_policy": "seven_day", "active": true});
    let path = format!("/mall/products/{}", device["product_id"]);
    assert_error(app.put(&path, classed).await, 400, "invalid", "kind otc");

    let pharmacy = |version: i64, active: bool| {
        json!({"version": version, "name": "东店", "region": "上海", "shipping_fen": 800,
            "free_shipping_from_fen": 100_000, "active": active})
    };
    let (status, changed) = app.put("/mall/pharmacies/1", pharmacy(1, true)).await;
    assert_eq!((status, &changed["version"]), (200, &json!(2)), "{changed}");
    assert_eq!(app.get("/mall/pharmacies/1").await.1, changed);
    let order = app.order(7, &[(2, 1)], None).await;
    assert_eq!((&order["shipping_fen"], &order["payable_fen"]), (&json!(800), &json!(950)));
    let stale = app.put("/mall/pharmacies/1", pharmacy(1, true)).await;
    assert_error(stale, 409, "conflict", "not of version 1");
    assert_eq!(app.put("/mall/pharmacies/2", pharmacy(1, true)).await.0, 404);
    app.put("/mall/pharmacies/1", pharmacy(2, false)).await;
    let closed = app.post("/mall/orders", order_body(7, &[(2, 1)], None)).await;
    assert_error(closed, 409, "conflict", "takes no orders");

    let coupon = |starts_at: i64| {
        json!({"name": "券", "kind": "percent", "percent": 5, "funder": "platform",
            "starts_at": starts_at, "ends_at": START + 9 * DAY})
    };
    for starts_at in [START, START + DAY] {
        let made = app.made("/mall/coupons", coupon(starts_at)).await;
        let path = format!("/mall/coupons/{}", made["coupon_id"]);
        let ended = app.made(&format!("{path}/end"), json!({})).await;
        assert_eq!(ended["ends_at"], starts_at.max(app.services.now()));
        assert_eq!(app.get(&path).await.1, ended);
        if starts_at == START {
            let again = app.post(&format!("{path}/end"), json!({})).await;
            assert_error(again, 409, "conflict", "has ended");
        }
    }
}

async fn orders_and_products_are_found(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let first = app.order(7, &[(1, 1)], None).await;
    app.move_clock(DAY);
    app.order(8, &[(3, 1)], None).await;
    app.pay(&first).await;
    let path = format!("/mall/orders/{}", first["order_id"]);
    app.made(&format!("{path}/ship"), json!({"tracking_number": "SF1"})).await;
    app.made(&format!("{path}/refunds"), json!({"reason": "", "cause": "quality", "whole": true}))
        .await;
    let found = async |list: &str, id: &str| -> Vec<i64> {
        let (status, rows) = app.get(list).await;
        assert_eq!(status, 200, "{list} {rows}");
        let of = |row: &Value| row[id].as_i64().unwrap();
        rows["items"].as_array().unwrap().iter().map(of).collect()
    };
    let later = START + SECOND;
    for (query, expected) in [
        (format!("from={later}"), vec![2]),
        (format!("until={later}"), vec![1]),
        ("tracking_number=SF1".to_owned(), vec![1]),
        ("tracking_number=SF2".to_owned(), vec![]),
    ] {
        assert_eq!(found(&format!("/mall/orders?{query}"), "order_id").await, expected, "{query}");
    }
    assert_error(app.get("/mall/orders?from=-1").await, 400, "invalid", "from");
    for (query, expected) in [
        ("category=a", vec![1, 2]),
        ("category=b&active=true", vec![3]),
        ("active=false", vec![]),
        ("kind=otc&name=50", vec![2]),
        ("kind=device", vec![]),
    ] {
        let list = format!("/mall/products?{query}");
        assert_eq!(found(&list, "product_id").await, expected, "{query}");
    }
    assert_eq!(found("/mall/refunds?order_id=1", "order_id").await, [1]);
    assert_eq!(found("/mall/refunds?order_id=2", "order_id").await, Vec::<i64>::new());
}
