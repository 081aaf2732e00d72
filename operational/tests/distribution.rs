use medlake_operational::{
    OrderPaid, OrderRefunded, PaidLine, RefundedLine,
    distribution::commissions::{self, Commission},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{App, DAY, On, SECOND, START, assert_error, run};

on_both! {
    two_levels_are_paid_and_no_third,
    a_refund_takes_back_what_is_no_longer_earned,
    a_promoter_who_left_ends_the_chain_and_nobody_earns_on_their_own_purchase,
    the_promoter_stamped_on_the_order_earns_whatever_is_bound_later,
    telling_twice_changes_nothing_twice,
    a_message_that_is_refused_is_set_aside_and_the_others_pass,
    a_crash_before_the_outbox_is_emptied_only_means_telling_again,
    the_dispatcher_hears_of_a_payment_and_stops_when_told,
    from_a_link_to_an_order_to_what_is_available,
}

/// Persons 101, 102, 103 as distributors 1, 2, 3; each was brought in by the one before.
async fn tree(app: &App) {
    for (person, parent) in [(101, None), (102, Some(1)), (103, Some(2))] {
        app.made(
            "/distribution/distributors",
            json!({"person_id": person, "parent_id": parent, "kind": "person", "name": format!("推广员 {person}")}),
        )
        .await;
    }
}

async fn rule(app: &App, product: Option<i64>, level: i64, rate: Option<i64>, fixed: Option<i64>) {
    app.made(
        "/distribution/commission-rules",
        json!({"product_id": product, "level": level, "rate_bp": rate, "fixed_fen": fixed}),
    )
    .await;
}

async fn commissions_of(app: &App, order: &Value) -> Vec<(i64, i64, i64, i64, i64)> {
    app.services.deliver_outbox().await.unwrap();
    let (_, list) =
        app.get(&format!("/distribution/commissions?order_id={}", order["order_id"])).await;
    let number = |c: &Value, field: &str| c[field].as_i64().unwrap();
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| {
            (
                number(c, "order_line_id"),
                number(c, "level"),
                number(c, "beneficiary_id"),
                number(c, "booked_fen"),
                number(c, "reversed_fen"),
            )
        })
        .collect()
}

async fn ledger_balance(app: &App) -> (i64, i64) {
    let database = app.services.distribution();
    (
        app.scalar(database, "select coalesce(sum(amount_fen), 0) from commission_entry").await,
        app.scalar(database, "select coalesce(sum(booked_fen - reversed_fen), 0) from commission")
            .await,
    )
}

async fn two_levels_are_paid_and_no_third(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    tree(&app).await;
    rule(&app, None, 1, Some(1_000), None).await;
    rule(&app, None, 2, Some(333), None).await;
    rule(&app, Some(2), 1, Some(1_000), Some(15)).await;
    rule(&app, Some(3), 1, Some(1_000), Some(0)).await;
    assert_error(
        app.post("/distribution/commission-rules", json!({"level": 3, "rate_bp": 1})).await,
        400,
        "invalid",
        "no more than two levels",
    );
    app.made("/distribution/bindings", json!({"person_id": 7, "distributor_id": 3})).await;

    let order = app.order(7, &[(1, 1), (2, 1), (3, 1)], None).await;
    assert_eq!(order["promoter_id"], 3);
    assert!(
        commissions_of(&app, &order).await.is_empty(),
        "an order that is not paid earns nothing"
    );
    app.pay(&order).await;
    // Rate of 200; fixed 15 beats 10 % of 150, and level 2 floors 4.995; fixed 0 means none.
    assert_eq!(
        commissions_of(&app, &order).await,
        [(1, 1, 3, 20, 0), (1, 2, 2, 6, 0), (2, 1, 3, 15, 0), (2, 2, 2, 4, 0), (3, 2, 2, 3, 0)]
    );
    assert_eq!(ledger_balance(&app).await, (48, 48));

    // The schema itself refuses a third level, and a ledger row is for ever.
    let mut tx = app.services.distribution().begin(START).await.unwrap();
    for refused in [
        "update commission set level = 3",
        "update commission_rule set level = 3",
        "update commission_entry set amount_fen = 1",
        "delete from commission_entry",
    ] {
        assert!(!run(&mut tx, refused).await, "{refused}");
    }
}

async fn a_refund_takes_back_what_is_no_longer_earned(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    tree(&app).await;
    rule(&app, None, 1, Some(777), None).await;
    rule(&app, None, 2, None, Some(10)).await;
    app.made("/distribution/bindings", json!({"person_id": 7, "distributor_id": 2})).await;
    let order = app.order(7, &[(1, 3)], None).await;
    app.pay(&order).await;
    assert_eq!(commissions_of(&app, &order).await, [(1, 1, 2, 46, 0), (1, 2, 1, 10, 0)]);

    let refund = |quantity: i64| {
        app.made(
            "/mall/orders/1/refunds",
            json!({"reason": "r", "lines": [{"order_line_id": 1, "quantity": quantity}]}),
        )
    };
    app.move_clock(SECOND);
    refund(1).await;
    // 400 of 600 are left: 31.08 of 46, and 6.67 of the fixed 10.
    assert_eq!(commissions_of(&app, &order).await, [(1, 1, 2, 46, 15), (1, 2, 1, 10, 4)]);
    refund(2).await;
    assert_eq!(commissions_of(&app, &order).await, [(1, 1, 2, 46, 46), (1, 2, 1, 10, 10)]);
    assert_eq!(ledger_balance(&app).await, (0, 0));
    assert_eq!(
        app.scalar(
            app.services.distribution(),
            "select count(*) from commission where status = 'reversed'"
        )
        .await,
        2
    );
    assert_eq!(
        app.scalar(app.services.distribution(), "select count(*) from commission_entry").await,
        6
    );
}

async fn a_promoter_who_left_ends_the_chain_and_nobody_earns_on_their_own_purchase(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    tree(&app).await;
    rule(&app, None, 1, Some(1_000), None).await;
    rule(&app, None, 2, Some(1_000), None).await;
    app.made("/distribution/bindings", json!({"person_id": 7, "distributor_id": 3})).await;
    app.made("/distribution/bindings", json!({"person_id": 102, "distributor_id": 3})).await;

    // Person 102 is distributor 2, the level above distributor 3.
    let own = app.order(102, &[(1, 1)], None).await;
    app.pay(&own).await;
    assert_eq!(commissions_of(&app, &own).await, [(1, 1, 3, 20, 0)]);

    let before = app.order(7, &[(1, 1)], None).await;
    app.made("/distribution/distributors/2/deactivate", json!({})).await;
    app.pay(&before).await;
    assert_eq!(commissions_of(&app, &before).await, [(2, 1, 3, 20, 0)]);
    app.made("/distribution/distributors/3/deactivate", json!({})).await;
    let after = app.order(7, &[(1, 1)], None).await;
    app.pay(&after).await;
    assert!(commissions_of(&app, &after).await.is_empty());
    assert_error(
        app.post("/distribution/distributors/3/deactivate", json!({})).await,
        409,
        "conflict",
        "not active",
    );
}

async fn the_promoter_stamped_on_the_order_earns_whatever_is_bound_later(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    tree(&app).await;
    rule(&app, None, 1, Some(1_000), None).await;
    let bind = |distributor: i64| {
        app.post("/distribution/bindings", json!({"person_id": 7, "distributor_id": distributor}))
    };
    assert_eq!(bind(1).await.0, 201);
    let order = app.order(7, &[(1, 1)], None).await;
    app.move_clock(SECOND);
    assert_eq!(bind(2).await.0, 201);
    // A rule made after the payment does not reach back.
    app.pay(&order).await;
    app.move_clock(SECOND);
    rule(&app, None, 1, Some(5_000), None).await;
    assert_eq!(commissions_of(&app, &order).await, [(1, 1, 1, 20, 0)]);
    let later = app.order(7, &[(1, 1)], None).await;
    assert_eq!(later["promoter_id"], 2);

    assert_error(bind(2).await, 409, "conflict", "bound to distributor 2 already");
    assert_error(bind(9).await, 404, "not_found", "distributor 9");
    assert_error(
        app.post("/distribution/bindings", json!({"person_id": 101, "distributor_id": 1})).await,
        400,
        "invalid",
        "themselves",
    );
    assert_error(
        app.post(
            "/distribution/distributors",
            json!({"person_id": 101, "kind": "person", "name": "n"}),
        )
        .await,
        409,
        "conflict",
        "already",
    );
    assert_error(
        app.post(
            "/distribution/distributors",
            json!({"person_id": 104, "parent_id": 44, "kind": "person", "name": "n"}),
        )
        .await,
        404,
        "not_found",
        "distributor 44",
    );
    let open = app
        .scalar(
            app.services.distribution(),
            "select count(*) from binding where unbound_at is null",
        )
        .await;
    assert_eq!(open, 1);
}

/// Random orders and refunds, told in order but any number of times: the outcome is that of telling
/// each once, the ledger always agrees with the commissions, and a full refund leaves nothing.
async fn telling_twice_changes_nothing_twice(on: On) {
    let seed = 11;
    let mut rng = StdRng::seed_from_u64(seed);
    let app = App::start(on).await;
    tree(&app).await;
    rule(&app, None, 1, Some(1_234), None).await;
    rule(&app, None, 2, None, Some(7)).await;
    let database = app.services.distribution();
    for order_id in 1..60_i64 {
        let lines: Vec<PaidLine> = (0..rng.random_range(1..4))
            .map(|n| PaidLine {
                order_line_id: order_id * 10 + n,
                product_id: n,
                variant_id: n,
                quantity: rng.random_range(1..6),
                cash_fen: rng.random_range(-20..3_000),
                drug_code: None,
                drug_class: None,
                days_supply_per_unit: None,
                return_window_days: 0,
                campaign_id: None,
            })
            .collect();
        let paid = OrderPaid {
            payment_id: order_id,
            tenant_id: 1,
            order_id,
            person_id: 7,
            promoter_id: Some(rng.random_range(1..=3)),
            paid_at: START + order_id,
            lines: lines.clone(),
        };
        let full = order_id % 2 == 0;
        let mut refunds = Vec::new();
        for line in &lines {
            let mut refunded_fen = 0;
            while refunded_fen < line.cash_fen && (full || rng.random_range(0..3) > 0) {
                refunded_fen += rng.random_range(1..=line.cash_fen - refunded_fen);
                refunds.push(OrderRefunded {
                    refund_id: order_id * 1_000 + i64::try_from(refunds.len()).unwrap(),
                    tenant_id: 1,
                    order_id,
                    promoter_id: paid.promoter_id,
                    refunded_at: START + order_id,
                    lines: vec![RefundedLine {
                        order_line_id: line.order_line_id,
                        quantity_left: 0,
                        refunded_fen,
                    }],
                });
            }
        }
        let mut tx = database.begin(START).await.unwrap();
        for _ in 0..rng.random_range(1..3) {
            commissions::accrue(&mut tx, &paid).await.unwrap();
        }
        for told in 0..refunds.len() {
            commissions::reverse(&mut tx, &refunds[told]).await.unwrap();
            if rng.random_range(0..2) == 0 {
                commissions::accrue(&mut tx, &paid).await.unwrap();
                commissions::reverse(&mut tx, &refunds[rng.random_range(0..=told)]).await.unwrap();
            }
        }
        tx.commit().await.unwrap();
        let found: Vec<Commission> =
            commissions::of_order(&mut database.read().await.unwrap(), 1, order_id).await.unwrap();
        for commission in &found {
            assert!(commission.booked_fen <= commission.base_fen, "seed {seed} {commission:?}");
            assert!(
                !full || commission.reversed_fen == commission.booked_fen,
                "seed {seed} {commission:?}"
            );
        }
        let (entries, left) = ledger_balance(&app).await;
        assert_eq!(entries, left, "seed {seed} order {order_id}");
    }
}

async fn a_message_that_is_refused_is_set_aside_and_the_others_pass(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    tree(&app).await;
    rule(&app, None, 1, Some(1_000), None).await;
    app.made("/distribution/bindings", json!({"person_id": 7, "distributor_id": 3})).await;
    for _ in 0..3 {
        let order = app.order(7, &[(1, 1)], None).await;
        app.pay(&order).await;
    }
    let mut tx = app.services.mall().begin(START).await.unwrap();
    for spoilt in [
        "update outbox set payload = json_set(payload, '$.promoter_id', 99)
         where consumer = 'distribution' and aggregate_key = 'order:1'",
        "update outbox set payload = 'no json'
         where consumer = 'distribution' and aggregate_key = 'order:2'",
    ] {
        assert!(run(&mut tx, spoilt).await);
    }
    tx.commit().await.unwrap();
    let delivered = app.services.deliver_outbox().await.unwrap();
    assert_eq!((delivered.delivered, delivered.failed), (4, 2));
    let (_, health) = app.get("/healthz").await;
    assert_eq!(health, json!({"status": "ok", "outbox_pending": 0, "outbox_failed": 2}));
    assert_eq!(app.scalar(app.services.distribution(), "select count(*) from commission").await, 1);
}

async fn a_crash_before_the_outbox_is_emptied_only_means_telling_again(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    tree(&app).await;
    rule(&app, None, 1, Some(1_000), None).await;
    app.made("/distribution/bindings", json!({"person_id": 7, "distributor_id": 3})).await;
    let order = app.order(7, &[(1, 2)], None).await;
    app.pay(&order).await;
    app.made(
        "/mall/orders/1/refunds",
        json!({"reason": "r", "lines": [{"order_line_id": 1, "quantity": 1}]}),
    )
    .await;

    let mut tx = app.services.mall().begin(START).await.unwrap();
    assert!(run(&mut tx, "create table _kept as select * from outbox").await);
    tx.commit().await.unwrap();
    app.services.deliver_outbox().await.unwrap();
    let before = written(&app).await;

    let mut tx = app.services.mall().begin(START).await.unwrap();
    assert!(run(&mut tx, "insert into outbox select * from _kept").await);
    tx.commit().await.unwrap();
    let again = app.services.deliver_outbox().await.unwrap();
    assert_eq!(again.delivered, 4);
    assert_eq!(written(&app).await, before);
}

/// What stands in the tables that messages change.
async fn written(app: &App) -> Vec<String> {
    let mut rows = app.dump(app.services.distribution()).await;
    // A transaction that finds nothing to do is counted all the same.
    rows.retain(|row| !row.starts_with("cdc_transaction"));
    rows
}

async fn the_dispatcher_hears_of_a_payment_and_stops_when_told(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    tree(&app).await;
    rule(&app, None, 1, Some(1_000), None).await;
    app.made("/distribution/bindings", json!({"person_id": 7, "distributor_id": 3})).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let services = app.services.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { services.run_dispatcher(async { drop(stopped.await) }).await });
    let order = app.order(7, &[(1, 1)], None).await;
    app.pay(&order).await;
    let delivered = async {
        while app.scalar(app.services.distribution(), "select count(*) from commission").await == 0
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), delivered).await.unwrap();
    stop.send(()).unwrap();
    tasks.join_next().await.unwrap().unwrap();
}

/// Through the doors of both services, with nothing told but by the outbox.
async fn from_a_link_to_an_order_to_what_is_available(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    tree(&app).await;
    rule(&app, None, 1, Some(1_000), None).await;
    let link = json!({"distributor_id": 1, "product_id": 1});
    let link = app.made("/distribution/share-links", link).await;
    app.made("/distribution/touches", json!({"code": link["code"], "person_id": 7})).await;
    let order = app.order(7, &[(1, 2), (2, 1)], None).await;
    assert_eq!(order["promoter_id"], 1);
    app.pay(&order).await;
    let path = format!("/mall/orders/{}", order["order_id"]);
    app.made(&format!("{path}/ship"), json!({"carrier": "express", "tracking_number": "1"})).await;
    app.move_clock(3 * DAY);
    app.made(&format!("{path}/receive"), json!({})).await;
    app.services.deliver_outbox().await.unwrap();
    app.move_clock(7 * DAY - 1);
    app.services.run_due().await.unwrap();
    let status = async |status: &str| {
        let path = format!("/distribution/commissions?beneficiary_id=1&status={status}");
        app.get(&path).await.1["items"].as_array().unwrap().len()
    };
    assert_eq!((status("frozen").await, status("released").await), (2, 0));
    app.move_clock(1);
    app.services.run_due().await.unwrap();
    assert_eq!((status("frozen").await, status("released").await), (0, 2));
    let (_, balance) = app.get("/distribution/distributors/1/balance").await;
    assert_eq!((&balance["frozen_fen"], &balance["available_fen"]), (&json!(0), &json!(55)));
}
