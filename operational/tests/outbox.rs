//! What one service hears of another, whatever goes wrong in between.

use serde_json::json;

use crate::{App, On, START, assert_error, run};

on_both! {
    what_is_refused_holds_back_its_own_aggregate_and_nothing_else,
    what_is_given_up_lets_the_others_pass,
}

/// Three paid orders of a person who is bound to a distributor, each of two units.
async fn paid_orders(on: On) -> App {
    let app = App::start(on).await;
    app.stock().await;
    app.made(
        "/distribution/distributors",
        json!({"person_id": 101, "parent_id": null, "kind": "person", "name": "推广员"}),
    )
    .await;
    app.made(
        "/distribution/commission-rules",
        json!({"product_id": null, "level": 1, "rate_bp": 1000, "fixed_fen": null}),
    )
    .await;
    app.made("/distribution/bindings", json!({"person_id": 7, "distributor_id": 1})).await;
    for _ in 0..3 {
        let order = app.order(7, &[(1, 2)], None).await;
        app.pay(&order).await;
    }
    app
}

async fn spoil(app: &App, sql: &str) {
    let mut tx = app.services.mall().begin(START).await.unwrap();
    assert!(run(&mut tx, sql).await);
    tx.commit().await.unwrap();
}

const SPOIL: &str = "update outbox set payload = concat('!', payload)
    where consumer = 'distribution' and aggregate_key = 'order:1' and event_type = 'order_paid'";

async fn refund_one_unit(app: &App) {
    app.made(
        "/mall/orders/1/refunds",
        json!({"reason": "r", "lines": [{"order_line_id": 1, "quantity": 1}]}),
    )
    .await;
}

async fn what_is_refused_holds_back_its_own_aggregate_and_nothing_else(on: On) {
    let app = paid_orders(on).await;
    spoil(&app, SPOIL).await;
    refund_one_unit(&app).await;
    let commissions = "select count(*) from commission";
    let delivered = app.services.deliver_outbox().await.unwrap();
    // Chronic care has all four; distribution has those of the other two orders.
    assert_eq!((delivered.delivered, delivered.failed), (6, 1));
    assert_eq!(app.scalar(app.services.distribution(), commissions).await, 2);
    assert_eq!(app.services.deliver_outbox().await.unwrap().delivered, 0);

    let (_, waiting) = app.get("/outbox/messages?service=mall").await;
    let waiting = waiting["items"].as_array().unwrap();
    let told: Vec<_> = waiting.iter().map(|m| (&m["event_type"], &m["aggregate_key"])).collect();
    let order = json!("order:1");
    assert_eq!(told, [(&json!("order_paid"), &order), (&json!("order_refunded"), &order)]);
    assert_eq!(waiting[0]["consumer"], "distribution");
    assert!(waiting[0]["error"].as_str().unwrap().contains("not readable"), "{waiting:?}");
    let (_, refused) = app.get("/outbox/messages?service=mall&refused=true").await;
    assert_eq!(refused["items"].as_array().unwrap().len(), 1);

    let place = |at: usize| format!("/outbox/mall/messages/{}/retry", waiting[at]["outbox_id"]);
    assert_error(app.post(&place(1), json!({})).await, 409, "conflict", "was not refused");
    assert_error(
        app.post("/outbox/mall/messages/999/retry", json!({})).await,
        404,
        "not_found",
        "message 999",
    );
    assert_error(app.post("/outbox/x/messages/9/retry", json!({})).await, 400, "invalid", "");

    // Still refused: it is set aside again, and the refund still waits.
    app.made(&place(0), json!({})).await;
    let again = app.services.deliver_outbox().await.unwrap();
    assert_eq!((again.delivered, again.failed), (0, 1));
    spoil(&app, "update outbox set payload = substr(payload, 2) where failed_at is not null").await;
    let retried = app.made(&place(0), json!({})).await;
    assert_eq!(retried["failed_at"], json!(null));
    assert_eq!(app.services.deliver_outbox().await.unwrap().delivered, 2);
    // The refund came after the payment, so it found something to take back.
    let order = app.get("/distribution/commissions?order_id=1").await.1;
    let line = &order["items"][0];
    assert_eq!((&line["booked_fen"], &line["reversed_fen"]), (&json!(40), &json!(20)));
    assert_eq!(app.get("/outbox/messages?service=mall").await.1, json!({"items": []}));
}

async fn what_is_given_up_lets_the_others_pass(on: On) {
    let app = paid_orders(on).await;
    spoil(&app, SPOIL).await;
    refund_one_unit(&app).await;
    app.services.deliver_outbox().await.unwrap();
    let (_, refused) = app.get("/outbox/messages?service=mall&refused=true").await;
    let id = &refused["items"][0]["outbox_id"];
    app.made(&format!("/outbox/mall/messages/{id}/dismiss"), json!({})).await;
    assert_eq!(app.services.deliver_outbox().await.unwrap().delivered, 1);
    assert_eq!(app.get("/outbox/messages?service=mall").await.1, json!({"items": []}));
    assert_error(
        app.post(&format!("/outbox/mall/messages/{id}/dismiss"), json!({})).await,
        404,
        "not_found",
        "message",
    );
}
