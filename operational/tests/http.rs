use axum::{body::Body, http::Request};
use serde_json::{Value, json};

use crate::{App, DAY, On, assert_error, order_body};

on_both! {
    a_body_that_is_not_what_it_must_be_is_refused_in_json,
    a_wrong_address_or_method_is_answered_in_json,
    a_key_makes_a_repeated_request_harmless,
    the_same_key_at_the_same_time_is_carried_out_once,
    the_description_is_of_what_is_there,
}

async fn a_body_that_is_not_what_it_must_be_is_refused_in_json(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let before = app.dump(app.services.mall()).await;
    let orders = |body: &'static str| app.post_raw("/mall/orders", body, None);
    assert_error(orders("{\"person_id\": 1,").await, 400, "invalid", "EOF");
    assert_error(orders("not json").await, 400, "invalid", "line 1 column");
    assert_error(orders("[]").await, 400, "invalid", "must be a JSON object");
    assert_error(orders("[7, 1, \"app\", null, 0, []]").await, 400, "invalid", "JSON object");
    assert_error(orders("").await, 400, "invalid", "missing field");
    assert_error(orders("{\"person_id\": \"x\"}").await, 400, "invalid", "expected i64");
    assert_error(
        orders("{\"person_id\": 1, \"pharmacy_id\": 1, \"channel\": \"fax\", \"lines\": []}").await,
        400,
        "invalid",
        "fax",
    );
    assert_error(
        orders("{\"person_id\": 99999999999999999999, \"pharmacy_id\": 1, \"channel\": \"app\", \"lines\": []}").await,
        400,
        "invalid",
        "",
    );
    let not_utf8 = Request::post("/mall/orders").body(Body::from(vec![b'"', 0xff, b'"'])).unwrap();
    assert_error(app.send(not_utf8).await, 400, "invalid", "");
    let deep = "[".repeat(100_000);
    assert_error(app.post_raw("/mall/orders", &deep, None).await, 400, "invalid", "recursion");
    let long = format!("\"{}\"", "x".repeat(3_000_000));
    assert_error(app.post_raw("/mall/orders", &long, None).await, 413, "invalid", "too long");
    assert_eq!(app.dump(app.services.mall()).await, before);
}

async fn a_wrong_address_or_method_is_answered_in_json(on: On) {
    let app = App::start(on).await;
    assert_error(app.get("/nowhere").await, 404, "not_found", "");
    assert_error(app.get("/mall/orders/x").await, 400, "invalid", "not a number");
    assert_error(app.get("/mall/orders/5").await, 404, "not_found", "order 5 does not exist");
    assert_error(app.post("/healthz", json!({})).await, 405, "invalid", "");
    assert_error(app.get("/distribution/commissions").await, 400, "invalid", "order_id");
    assert_error(
        app.post("/mall/orders/x/pay", json!({"method": "m"})).await,
        400,
        "invalid",
        "not a number",
    );
}

async fn a_key_makes_a_repeated_request_harmless(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let body = order_body(7, &[(1, 1)], None).to_string();
    let first = app.post_raw("/mall/orders", &body, Some("k-1")).await;
    assert_eq!(first.0, 201);
    let before = app.dump(app.services.mall()).await;
    app.move_clock(5);
    // The same text, and the same meaning in another order of fields.
    assert_eq!(app.post_raw("/mall/orders", &body, Some("k-1")).await, first);
    let reordered = "{ \"lines\": [{\"quantity\": 1, \"product_id\": 1}], \"coupon_id\": null, \"channel\": \"app\",
        \"pharmacy_id\": 1, \"person_id\": 7 }";
    assert_eq!(app.post_raw("/mall/orders", reordered, Some("k-1")).await, first);
    let other = order_body(7, &[(1, 2)], None).to_string();
    assert_error(
        app.post_raw("/mall/orders", &other, Some("k-1")).await,
        409,
        "conflict",
        "another request",
    );
    assert_error(
        app.post_raw("/mall/pharmacies", "{\"name\":\"a\",\"region\":\"b\"}", Some("k-1")).await,
        409,
        "conflict",
        "another request",
    );
    assert_eq!(app.dump(app.services.mall()).await, before);

    // A payment repeated with its key is answered as it was; without, it is a second payment.
    let pay = "{\"method\":\"wechat_pay\"}";
    let paid = app.post_raw("/mall/orders/1/pay", pay, Some("pay-1")).await;
    assert_eq!(paid.0, 201);
    assert_eq!(app.post_raw("/mall/orders/1/pay", pay, Some("pay-1")).await, paid);
    assert_error(
        app.post_raw("/mall/orders/1/pay", pay, Some("pay-2")).await,
        409,
        "conflict",
        "already paid",
    );
    assert_eq!(app.scalar(app.services.mall(), "select count(*) from payment").await, 1);

    // A refused request leaves no key behind: once the reason is gone, the same key works.
    let unknown = order_body(7, &[(4, 1)], None).to_string();
    assert_eq!(app.post_raw("/mall/orders", &unknown, Some("k-2")).await.0, 404);
    app.made("/mall/products", json!({"name": "n", "kind": "otc", "category": "a", "unit_price_fen": 1, "return_policy": "seven_day", "tracks_stock": false})).await;
    assert_eq!(app.post_raw("/mall/orders", &unknown, Some("k-2")).await.0, 201);

    // Keys are forgotten after a week.
    app.move_clock(8 * DAY);
    assert_eq!(app.post_raw("/mall/orders", &body, Some("k-3")).await.0, 201);
    assert_eq!(app.post_raw("/mall/orders", &other, Some("k-1")).await.0, 201);

    let long = "x".repeat(201);
    assert_error(
        app.post_raw("/mall/orders", &body, Some(&long)).await,
        400,
        "invalid",
        "Idempotency-Key",
    );
}

async fn the_same_key_at_the_same_time_is_carried_out_once(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let body = order_body(7, &[(1, 1)], None).to_string();
    let send = || app.post_raw("/mall/orders", &body, Some("same"));
    let answers = tokio::join!(send(), send(), send(), send());
    assert_eq!(answers.0.0, 201);
    assert!(answers.0 == answers.1 && answers.1 == answers.2 && answers.2 == answers.3);
    assert_eq!(app.scalar(app.services.mall(), "select count(*) from orders").await, 1);
}

/// Each described operation is routed, and each schema it names is there.
async fn the_description_is_of_what_is_there(on: On) {
    let app = App::start(on).await;
    let (status, description) = app.get("/openapi.json").await;
    assert_eq!(status, 200);
    let paths = description["paths"].as_object().unwrap();
    let mut operations = 0;
    // Those of OAuth 2 answer browsers with pages, and have tests of their own.
    let in_json = |path: &str| !path.starts_with("/oauth2/") && path != "/metrics";
    for (path, methods) in paths.iter().filter(|(path, _)| in_json(path)) {
        for method in methods.as_object().unwrap().keys() {
            operations += 1;
            let address = path.replace("{id}", "1").replace("{service}", "mall");
            let address = address.replace("{key_id}", "k9");
            let (status, answer) = match method.as_str() {
                "get" => app.get(&address).await,
                "post" => app.post_raw(&address, "]", None).await,
                "put" => app.put(&address, Value::Null).await,
                "delete" => app.delete(&address).await,
                other => panic!("{other} {path}"),
            };
            assert_ne!(status, 405, "{method} {path}");
            assert_ne!(
                answer["error"]["message"], "there is nothing at this address",
                "{method} {path}"
            );
        }
    }
    assert!(operations > 24, "{operations}");
    let text = description.to_string();
    for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(description["components"]["schemas"].get(name).is_some(), "{name}");
    }
    let fields = &description["components"]["schemas"]["NewPharmacy"]["properties"];
    assert!(fields.get("name").is_some() && fields.get("pharmacy_id").is_none(), "{fields}");
    assert_eq!(Value::Null, description["paths"]["/mall/orders"]["post"]["nothing"]);
}
