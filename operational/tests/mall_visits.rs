//! Visits, and which of them an order is put down to.

use serde_json::{Value, json};

use crate::{App, DAY, On, SECOND, START, assert_error};

on_both! {
    an_order_is_put_down_to_the_last_touch_in_its_window,
    a_visit_has_pages_and_ends,
}

async fn visit(app: &App, visitor: &str, person: Option<i64>, from: Value) -> i64 {
    let mut body = json!({"visitor_key": visitor, "person_id": person, "channel": "h5",
        "referrer": "https://example.org/"});
    body.as_object_mut().unwrap().extend(from.as_object().unwrap().clone());
    app.made("/mall/visits", body).await["visit_id"].as_i64().unwrap()
}

async fn an_order_is_put_down_to_the_last_touch_in_its_window(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let touch = async |person: i64| {
        let order = app.order(person, &[(1, 1)], None).await;
        let paid = app.pay(&order).await["order"].clone();
        (paid["touch_visit_id"].as_i64(), paid["touch_kind"].as_str().map(str::to_owned))
    };
    let told = |id: i64, kind: &str| (Some(id), Some(kind.to_owned()));
    assert_eq!(touch(7).await, (None, None));
    visit(&app, "phone", Some(7), json!({})).await;
    assert_eq!(touch(7).await, (None, None), "who came by themselves is put down to nothing");
    let campaign = visit(&app, "phone", Some(7), json!({"campaign_code": "double-11"})).await;
    assert_eq!(touch(7).await, told(campaign, "campaign"));
    // Not yet known who it is, on the same device; another's device does not count.
    app.move_clock(DAY);
    let link = visit(&app, "phone", None, json!({"share_code": "abc"})).await;
    visit(&app, "tablet", Some(8), json!({"share_code": "abc"})).await;
    assert_eq!(touch(7).await, told(link, "referral"));
    // Of two at a time the first counts; one that is both is a referral.
    app.move_clock(SECOND);
    let both = json!({"share_code": "abc", "campaign_code": "double-11"});
    let first = visit(&app, "phone", Some(7), both).await;
    visit(&app, "phone", Some(7), json!({"campaign_code": "x"})).await;
    assert_eq!(touch(7).await, told(first, "referral"));
    // A link counts for 15 days, a campaign for 30; both to the microsecond.
    app.move_clock(15 * DAY);
    assert_eq!(touch(7).await, told(first, "referral"));
    app.move_clock(1);
    assert_eq!(touch(7).await, told(first, "campaign"));
    app.move_clock(15 * DAY - 1);
    assert_eq!(touch(7).await, told(first, "campaign"));
    app.move_clock(1);
    assert_eq!(touch(7).await, (None, None));
    // What is seen after the payment is not what led to it.
    let order = app.order(9, &[(1, 1)], None).await;
    app.pay(&order).await;
    visit(&app, "laptop", Some(9), json!({"share_code": "abc"})).await;
    let (_, order) = app.get(&format!("/mall/orders/{}", order["order_id"])).await;
    assert_eq!(order["touch_visit_id"], Value::Null);
}

async fn a_visit_has_pages_and_ends(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    let id = visit(&app, "phone", None, json!({})).await;
    let view = async |page: Value| app.post(&format!("/mall/visits/{id}/page-views"), page).await;
    assert_eq!(view(json!({"page": "home"})).await.0, 201);
    app.move_clock(29 * 60 * SECOND);
    assert_eq!(view(json!({"page": "product", "product_id": 1})).await.0, 201);
    assert_error(
        view(json!({"page": "product", "product_id": 9})).await,
        404,
        "not_found",
        "product 9",
    );
    assert_error(view(json!({"page": "cellar"})).await, 400, "invalid", "cellar");
    app.move_clock(30 * 60 * SECOND + 1);
    assert_error(view(json!({"page": "cart"})).await, 409, "conflict", "has ended");
    let identify = async |person: i64| {
        app.post(&format!("/mall/visits/{id}/identify"), json!({"person_id": person})).await
    };
    assert_eq!(identify(7).await.1["person_id"], 7);
    assert_eq!(identify(7).await.0, 200);
    assert_error(identify(8).await, 409, "conflict", "another person's");
    let (_, visits) = app.get("/mall/visits?person_id=7").await;
    assert_eq!(visits["items"][0]["last_seen_at"], START + 29 * 60 * SECOND);
    // The visit an order was placed in stands on it.
    let mut body = crate::order_body(7, &[(1, 1)], None);
    body["visit_id"] = json!(id);
    assert_eq!(app.made("/mall/orders", body.clone()).await["visit_id"], id);
    body["visit_id"] = json!(99);
    assert_error(app.post("/mall/orders", body).await, 404, "not_found", "visit 99");
    let wrong = json!({"visitor_key": " ", "channel": "app"});
    assert_error(app.post("/mall/visits", wrong).await, 400, "invalid", "visitor_key");
}
