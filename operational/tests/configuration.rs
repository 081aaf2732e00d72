//! Settings: declared, versioned, and told to those who wait.

use axum::{body::Body, http::Request};
use serde_json::{Value, json};

use medlake_operational::mall::Rules;

use crate::{App, DAY, On, SECOND, START, assert_error, mall_points::set};

on_both! {
    a_setting_has_a_default_a_version_and_a_history,
    the_mall_of_each_tenant_goes_by_its_settings,
}

const KEY: &str = "identity.self_registration";

async fn put(app: &App, key: &str, body: Value) -> (u16, Value) {
    let path = format!("/configuration/settings/{key}");
    app.send(Request::put(path).body(Body::from(body.to_string())).unwrap()).await
}

async fn a_setting_has_a_default_a_version_and_a_history(on: On) {
    let app = App::start(on).await;
    let path = format!("/configuration/settings/{KEY}");
    let (_, setting) = app.get(&path).await;
    assert_eq!((&setting["value"], &setting["version"]), (&json!(true), &json!(0)));
    assert_error(
        app.get("/configuration/settings/x.y").await,
        404,
        "not_found",
        "setting \"x.y\" does not exist",
    );
    assert_error(
        put(&app, KEY, json!({"version": 0, "value": "yes"})).await,
        400,
        "invalid",
        "true or false",
    );
    assert_error(
        put(&app, KEY, json!({"version": 3, "value": false})).await,
        409,
        "conflict",
        "version 0, not 3",
    );

    let (_, before) = app.get("/configuration/settings").await;
    let changed = async {
        let waits = format!("/configuration/settings?since={}&wait_seconds=20", before["changes"]);
        app.get(&waits).await
    };
    let change = async { put(&app, KEY, json!({"version": 0, "value": false})).await };
    let ((_, told), (status, set)) = tokio::join!(changed, change);
    assert_eq!((status, &set["value"], &set["version"]), (200, &json!(false), &json!(1)));
    assert_eq!(
        (&told["changes"], told["items"].as_array().unwrap().is_empty()),
        (&json!(1), false)
    );
    let (_, none) = app.get("/configuration/settings?since=1").await;
    assert_eq!(none, json!({"changes": 1, "items": []}));

    // It is in force at once.
    let new = json!({"login": "buyer", "password": "correct horse battery"});
    assert_error(
        app.post("/identity/register", new.clone()).await,
        403,
        "denied",
        "do not register",
    );
    // Two who saw the same version: one of them has to look again.
    let first = put(&app, KEY, json!({"version": 1, "value": true})).await;
    let second = put(&app, KEY, json!({"version": 1, "value": false})).await;
    assert_eq!((first.0, second.0), (200, 409));
    app.made(&format!("{path}/reset"), json!({"version": 2})).await;
    let (_, history) = app.get(&format!("{path}/history")).await;
    let values: Vec<&Value> =
        history["items"].as_array().unwrap().iter().map(|change| &change["value"]).collect();
    assert_eq!(values, [&json!("false"), &json!("true"), &json!(null)]);
    assert_eq!(history["items"][0]["changed_by"], "system");
    app.made("/identity/register", new).await;

    let known = Request::get("/configuration/settings").header("if-none-match", "\"1-3\"");
    let router = app.services.router();
    let answer =
        tower::ServiceExt::oneshot(router, known.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 304);
}

async fn the_mall_of_each_tenant_goes_by_its_settings(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let minutes = 60 * SECOND;
    let before = app.order(7, &[(1, 1)], None).await;
    assert_eq!(before["due_at"], START + 30 * minutes);
    set(&app, "unpaid_closes_after_minutes", 5).await;
    set(&app, "received_after_days", 3).await;
    set(&app, "referral_window_days", 2).await;
    set(&app, "visit_idle_minutes", 1).await;
    let order = app.order(7, &[(1, 1)], None).await;
    assert_eq!(order["due_at"], START + 5 * minutes);
    app.pay(&order).await;
    let ship = format!("/mall/orders/{}/ship", order["order_id"]);
    assert_eq!(app.made(&ship, json!({})).await["due_at"], START + 3 * DAY);
    // What was placed before keeps its time.
    app.move_clock(6 * minutes);
    assert_eq!(app.services.sweep_mall().await.unwrap().closed, 0);
    app.move_clock(24 * minutes);
    assert_eq!(app.services.sweep_mall().await.unwrap().closed, 1);
    let of = async |tenant_id| Rules::of(&app.services, tenant_id).await.unwrap();
    let (ours, others) = (of(1).await, of(2).await);
    assert_eq!((ours.visit_idle_micros, others.visit_idle_micros), (minutes, 30 * minutes));
    assert_eq!((ours.referral_window_micros, others.referral_window_micros), (2 * DAY, 15 * DAY));
    assert_eq!(ours.points, others.points);
    app.made("/configuration/settings/mall.visit_idle_minutes/reset", json!({"version": 1})).await;
    assert_eq!(of(1).await.visit_idle_micros, 30 * minutes);
    let path = "/configuration/settings/mall.points_share_max_percent";
    let (status, refused) = app.put(path, json!({"version": 0, "value": 101})).await;
    assert_error((status, refused), 400, "invalid", "between 0 and 100");
}
