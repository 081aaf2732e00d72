//! The programme's money: frozen, released, taken back, settled, taxed, paid out, and added up again.

use std::collections::BTreeMap;

use medlake_operational::{
    OperationalError, OrderPaid, OrderReceived, OrderRefunded, PaidLine, ReceivedLine,
    RefundedLine, Scope,
    distribution::{
        commission_math::Terms,
        commissions::{self, Commission, CommissionStatus},
        reconciliation::{self, Reconciliation},
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::{Value, json};

use crate::{App, DAY, On, START, assert_error, run};

on_both! {
    commission_is_had_when_a_line_can_no_longer_be_returned,
    settings_say_who_earns_and_how_much_at_most,
    a_month_is_settled_paid_out_and_taxed_once,
    what_is_taken_back_after_a_payout_is_netted_in_the_next,
    those_who_settle_at_the_same_time_settle_once,
    deliveries_in_any_order_come_to_the_same,
    all_at_once_still_adds_up,
    what_does_not_agree_is_told,
}

/// Persons 101 and 102 as distributors 1 and 2, 1 above 2; 10 % for level 1, 3.33 % for level 2.
async fn programme(app: &App) {
    for (person, parent) in [(101, None), (102, Some(1))] {
        let body =
            json!({"person_id": person, "parent_id": parent, "kind": "person", "name": "推广员"});
        app.made("/distribution/distributors", body).await;
    }
    for (level, rate) in [(1, 1_000), (2, 333)] {
        app.made("/distribution/commission-rules", json!({"level": level, "rate_bp": rate})).await;
    }
}

/// An order with lines of these amounts, whose lines are ten times its id and on.
fn paid(order_id: i64, promoter_id: i64, cash: &[i64], at: i64) -> OrderPaid {
    let line = |(number, &cash_fen): (i64, &i64)| PaidLine {
        order_line_id: order_id * 10 + number,
        product_id: number + 1,
        variant_id: number + 1,
        quantity: 1,
        cash_fen,
        drug_code: None,
        drug_class: None,
        days_supply_per_unit: None,
        return_window_days: 7,
        campaign_id: None,
    };
    OrderPaid {
        payment_id: order_id,
        tenant_id: 1,
        order_id,
        person_id: 7,
        promoter_id: Some(promoter_id),
        paid_at: at,
        lines: (0..).zip(cash).map(line).collect(),
    }
}

fn received(order_id: i64, lines: usize, at: i64, returnable_days: i64) -> OrderReceived {
    let line = |number| ReceivedLine {
        order_line_id: order_id * 10 + number,
        return_window_ends_at: at + returnable_days * DAY,
    };
    OrderReceived {
        tenant_id: 1,
        order_id,
        person_id: 7,
        promoter_id: Some(1),
        received_at: at,
        lines: (0..).take(lines).map(line).collect(),
    }
}

fn refunded(refund_id: i64, order_line_id: i64, refunded_fen: i64, at: i64) -> OrderRefunded {
    OrderRefunded {
        refund_id,
        tenant_id: 1,
        order_id: order_line_id / 10,
        promoter_id: Some(1),
        refunded_at: at,
        lines: vec![RefundedLine { order_line_id, quantity_left: 0, refunded_fen }],
    }
}

async fn tell(app: &App, event: &Event) {
    let mut tx = app.services.distribution().begin(app.services.now()).await.unwrap();
    match event {
        Event::Paid(paid) => commissions::accrue(&mut tx, paid).await.unwrap(),
        Event::Received(received) => commissions::receive(&mut tx, received).await.unwrap(),
        Event::Refunded(refunded) => commissions::reverse(&mut tx, refunded).await.unwrap(),
    }
    tx.commit().await.unwrap();
}

#[derive(Debug, Clone)]
enum Event {
    Paid(OrderPaid),
    Received(OrderReceived),
    Refunded(OrderRefunded),
}

async fn of_order(app: &App, order_id: i64) -> Vec<Commission> {
    let mut connection = app.services.distribution().read().await.unwrap();
    commissions::of_order(&mut connection, 1, order_id).await.unwrap()
}

async fn reconciled(app: &App) -> Reconciliation {
    let mut connection = app.services.distribution().read().await.unwrap();
    let scope = Scope::at(app.services.now());
    reconciliation::reconcile(&mut connection, scope).await.unwrap()
}

/// Frozen, available, paid and withheld of a distributor.
async fn balance(app: &App, distributor: i64) -> [i64; 4] {
    let (_, found) = app.get(&format!("/distribution/distributors/{distributor}/balance")).await;
    ["frozen_fen", "available_fen", "paid_fen", "tax_fen"]
        .map(|field| found[field].as_i64().unwrap())
}

async fn commission_is_had_when_a_line_can_no_longer_be_returned(on: On) {
    let app = App::start(on).await;
    programme(&app).await;
    let body = json!({"freeze_days": 10});
    tell(&app, &Event::Paid(paid(1, 2, &[1_000, 500], START))).await;
    // Orders are judged by the settings of when they were paid.
    app.move_clock(1);
    app.made("/distribution/settings", body).await;
    tell(&app, &Event::Paid(paid(2, 2, &[1_000], START + 1))).await;
    assert_eq!(balance(&app, 2).await, [250, 0, 0, 0]);

    // However long ago it was paid, it is not had before it was received.
    app.move_clock(100 * DAY);
    app.services.run_due().await.unwrap();
    assert_eq!(balance(&app, 2).await, [250, 0, 0, 0]);
    let at = app.services.now();
    let mut first = received(1, 2, at, 0);
    first.lines[1].return_window_ends_at = at + 15 * DAY;
    tell(&app, &Event::Received(first)).await;
    tell(&app, &Event::Received(received(2, 1, at, 7))).await;

    app.move_clock(7 * DAY - 1);
    app.services.run_due().await.unwrap();
    assert_eq!(balance(&app, 2).await, [250, 0, 0, 0]);
    app.move_clock(1);
    let released = app.made("/distribution/commissions/release", json!({})).await;
    assert_eq!(released, json!({"released": 2}), "of both levels of the first line");
    assert_eq!(balance(&app, 2).await, [150, 100, 0, 0]);
    // Ten days of the second order, fifteen of the line that may be returned so long.
    app.move_clock(3 * DAY);
    app.services.run_due().await.unwrap();
    assert_eq!(balance(&app, 2).await, [50, 200, 0, 0]);
    // A refund while frozen leaves less to be released; one later takes from what is to be had.
    tell(&app, &Event::Refunded(refunded(1, 11, 250, at))).await;
    tell(&app, &Event::Refunded(refunded(2, 10, 1_000, at))).await;
    assert_eq!(balance(&app, 2).await, [25, 100, 0, 0]);
    app.move_clock(5 * DAY);
    app.services.run_due().await.unwrap();
    assert_eq!(balance(&app, 2).await, [0, 125, 0, 0]);
    app.services.run_due().await.unwrap();
    let states: Vec<_> = of_order(&app, 1).await.iter().map(|c| (c.level, c.status)).collect();
    let (released, reversed) = (CommissionStatus::Released, CommissionStatus::Reversed);
    assert_eq!(states, [(1, reversed), (2, reversed), (1, released), (2, released)]);
    let report = reconciled(&app).await;
    assert!(report.balanced, "{report:?}");
    // 3.33 % of 250 and of 1,000, each rounded down.
    assert_eq!(balance(&app, 1).await, [0, 8 + 33, 0, 0]);
    let (_, entries) = app.get("/distribution/entries?beneficiary_id=2&limit=1000").await;
    let of_kind = |kind: &str| {
        entries["items"].as_array().unwrap().iter().filter(|e| e["event_type"] == kind).count()
    };
    assert_eq!(["accrue", "release", "reverse"].map(of_kind), [3, 3, 2]);
}

async fn settings_say_who_earns_and_how_much_at_most(on: On) {
    let app = App::start(on).await;
    programme(&app).await;
    let booked = async |order_id: i64| -> Vec<(i64, i64, i64)> {
        let all = of_order(&app, order_id).await;
        all.iter().map(|c| (c.level, c.beneficiary_id, c.booked_fen)).collect()
    };
    // No more than 11 % of a line: level 2 gets what level 1 leaves.
    app.made("/distribution/settings", json!({"cap_bp": 1_100})).await;
    tell(&app, &Event::Paid(paid(1, 2, &[1_000, 90], START))).await;
    assert_eq!(booked(1).await, [(1, 2, 100), (2, 1, 10), (1, 2, 9)]);
    // A refund of half leaves half of what was capped, too.
    tell(&app, &Event::Refunded(refunded(1, 10, 500, START))).await;
    let left: Vec<i64> =
        of_order(&app, 1).await.iter().map(|c| c.booked_fen - c.reversed_fen).collect();
    assert_eq!(left, [50, 5, 9]);

    app.move_clock(1);
    app.made("/distribution/settings", json!({"based_on_version": 1, "levels": 1})).await;
    tell(&app, &Event::Paid(paid(2, 2, &[1_000], START + 1))).await;
    assert_eq!(booked(2).await, [(1, 2, 100)]);

    // On their own purchase only where the settings say so.
    let own = |order_id, at| OrderPaid { person_id: 102, ..paid(order_id, 2, &[1_000], at) };
    app.move_clock(1);
    app.made("/distribution/settings", json!({"based_on_version": 2})).await;
    tell(&app, &Event::Paid(own(3, START + 2))).await;
    assert_eq!(booked(3).await, [(2, 1, 33)]);
    app.move_clock(1);
    let body = json!({"based_on_version": 3, "self_purchase_earns": true});
    app.made("/distribution/settings", body).await;
    tell(&app, &Event::Paid(own(4, START + 3))).await;
    assert_eq!(booked(4).await, [(1, 2, 100), (2, 1, 33)]);

    // A line at the price of a campaign earns nothing, unless the settings say so.
    let campaign = |order_id, at| {
        let mut paid = paid(order_id, 2, &[1_000, 500], at);
        paid.lines[0].campaign_id = Some(1);
        paid
    };
    tell(&app, &Event::Paid(campaign(7, START + 3))).await;
    assert_eq!(booked(7).await, [(1, 2, 50), (2, 1, 16)]);
    app.move_clock(1);
    let body = json!({"based_on_version": 4, "campaign_lines_earn": true});
    app.made("/distribution/settings", body).await;
    tell(&app, &Event::Paid(campaign(8, START + 4))).await;
    assert_eq!(booked(8).await, [(1, 2, 100), (2, 1, 33), (1, 2, 50), (2, 1, 16)]);

    // One above who is suspended earns nothing.
    app.made("/distribution/distributors/1/suspend", json!({})).await;
    tell(&app, &Event::Paid(paid(5, 2, &[1_000], START + 3))).await;
    assert_eq!(booked(5).await, [(1, 2, 100)]);
    app.made("/distribution/distributors/1/reinstate", json!({})).await;
    app.made("/distribution/distributors/2/suspend", json!({})).await;
    tell(&app, &Event::Paid(paid(6, 2, &[1_000], START + 3))).await;
    assert_eq!(booked(6).await, []);
    assert!(reconciled(&app).await.balanced);
}

/// A distributor with something available since now.
async fn grant(app: &App, beneficiary: i64, amount_fen: i64) {
    let body = json!({"beneficiary_id": beneficiary, "amount_fen": amount_fen, "reason": "补发"});
    app.made("/distribution/adjustments", body).await;
}

async fn settle(app: &App, period: &str) -> Vec<(i64, i64)> {
    let settled = app.made("/distribution/settlements", json!({"period": period})).await;
    assert_eq!(settled["next_after_id"], Value::Null);
    let of = |s: &Value| (s["beneficiary_id"].as_i64().unwrap(), s["amount_fen"].as_i64().unwrap());
    settled["items"].as_array().unwrap().iter().map(of).collect()
}

/// Asks the channel to pay a settlement.
async fn pay_out(app: &App, settlement: i64) -> Value {
    let path = format!("/distribution/settlements/{settlement}/payouts");
    app.made(&path, json!({"channel": "wechat_transfer"})).await
}

fn record_of(app: &App, payout: &Value, trade_number: &str, outcome: &str) -> Value {
    json!({"channel": "wechat_transfer", "trade_number": trade_number,
        "payout_number": payout["payout_number"], "amount_fen": payout["net_fen"],
        "outcome": outcome, "occurred_at": app.services.now()})
}

async fn a_month_is_settled_paid_out_and_taxed_once(on: On) {
    let app = App::start(on).await;
    programme(&app).await;
    let body = json!({"person_id": 103, "kind": "pharmacy", "name": "西湖店"});
    app.made("/distribution/distributors", body).await;
    let body =
        json!({"person_id": 104, "kind": "person", "name": "n", "tax_regime": "per_payment"});
    app.made("/distribution/distributors", body).await;
    for beneficiary in 1..=4 {
        grant(&app, beneficiary, 1_000_000).await;
    }
    app.made("/distribution/distributors/2/suspend", json!({})).await;
    // 2026-11-21 in Shanghai; the month ends with the 30th.
    let early = app.post("/distribution/settlements", json!({"period": "2026-11"})).await;
    assert_error(early, 409, "conflict", "not over");
    for wrong in ["2026", "2026-13", "november"] {
        let refused = app.post("/distribution/settlements", json!({"period": wrong})).await;
        assert_error(refused, 400, "invalid", "month");
    }
    app.move_clock(12 * DAY);
    // What came only in December waits, and so does who is suspended.
    grant(&app, 1, 500).await;
    let expected = [(1, 1_000_000), (3, 1_000_000), (4, 1_000_000)];
    assert_eq!(settle(&app, "2026-11").await, expected);
    assert_eq!(settle(&app, "2026-11").await, []);
    app.made("/distribution/distributors/2/reinstate", json!({})).await;
    assert_eq!(settle(&app, "2026-11").await, [(2, 1_000_000)]);
    assert_eq!(balance(&app, 1).await, [0, 1_000_500, 0, 0], "settled is not yet paid");

    // By the platform's rule, none, and by the payment: 10,000 yuan.
    let mut payouts = Vec::new();
    for (settlement, tax_fen) in [(1, 9_000), (2, 0), (3, 160_000)] {
        let payout = pay_out(&app, settlement).await;
        assert_eq!(
            (&payout["tax_fen"], &payout["taxed_month"]),
            (&json!(tax_fen), &json!("2026-12"))
        );
        payouts.push(payout);
    }
    let again = app.post("/distribution/settlements/1/payouts", json!({"channel": "c"})).await;
    assert_error(again, 409, "conflict", "on its way");
    let nowhere = app.post("/distribution/settlements/9/payouts", json!({"channel": "c"})).await;
    assert_error(nowhere, 404, "not_found", "settlement 9");
    assert_eq!(reconciled(&app).await.pending_payouts, 3);

    // What the channel says is taken once; what does not fit is kept aside.
    let first = record_of(&app, &payouts[0], "t-1", "succeeded");
    let took = app.made("/distribution/channel-records", first.clone()).await;
    assert_eq!((&took["payout_id"], &took["problem"]), (&payouts[0]["payout_id"], &Value::Null));
    assert_eq!(app.made("/distribution/channel-records", first.clone()).await, took);
    let mut other = first.clone();
    other["amount_fen"] = json!(1);
    let refused = app.post("/distribution/channel-records", other.clone()).await;
    assert_error(refused, 409, "conflict", "something else of t-1");
    assert_eq!(balance(&app, 1).await, [0, 500, 991_000, 9_000]);
    other["trade_number"] = json!("t-2");
    other["payout_number"] = payouts[1]["payout_number"].clone();
    let aside = app.made("/distribution/channel-records", other).await;
    assert_eq!(aside["problem"], "the amount is not that of the payout");
    assert_eq!(balance(&app, 3).await, [0, 1_000_000, 0, 0]);

    // One that failed is paid out again, under another number.
    app.made("/distribution/channel-records", record_of(&app, &payouts[2], "t-3", "failed")).await;
    let second = pay_out(&app, 3).await;
    assert_ne!(second["payout_number"], payouts[2]["payout_number"]);
    app.made("/distribution/channel-records", record_of(&app, &second, "t-4", "succeeded")).await;
    let late = record_of(&app, &payouts[2], "t-5", "succeeded");
    let late = app.made("/distribution/channel-records", late).await;
    assert_eq!(late["problem"], "the payout is finished already");
    assert_eq!(balance(&app, 4).await, [0, 0, 840_000, 160_000]);

    let (_, unmatched) = app.get("/distribution/channel-records?matched=false").await;
    assert_eq!(unmatched["items"].as_array().unwrap().len(), 2);
    let (_, paid) = app.get("/distribution/settlements?status=paid").await;
    assert_eq!(paid["items"].as_array().unwrap().len(), 2);

    // The tax of a year is counted up: the month after next is no month in a row.
    let mut withheld = Vec::new();
    for (month, period) in [(31, "2026-12"), (31, "2027-01"), (31, "2027-02"), (62, "2027-04")] {
        grant(&app, 1, 2_000_000).await;
        app.move_clock(month * DAY);
        let settled = settle(&app, period).await;
        let amount = settled.iter().find(|(beneficiary, _)| *beneficiary == 1).unwrap().1;
        let count = "select max(settlement_id) from settlement where beneficiary_id = 1";
        let id = app.scalar(app.services.distribution(), count).await;
        let payout = pay_out(&app, id).await;
        let number = format!("year-{period}");
        app.made("/distribution/channel-records", record_of(&app, &payout, &number, "succeeded"))
            .await;
        withheld.push((
            payout["taxed_month"].as_str().unwrap().to_owned(),
            amount,
            payout["tax_fen"].as_i64().unwrap(),
        ));
    }
    let expected = [
        // A new year: 0.8 of 20,005 less 5,000, at 3 %.
        ("2027-01".to_owned(), 2_000_500, 33_012),
        ("2027-02".to_owned(), 2_000_000, 33_000),
        // 60,005 in the third month in a row: 33,004 taxable, 3 %.
        ("2027-03".to_owned(), 2_000_000, 33_000),
        // 80,005 with two months between: 64,004 less one month's 5,000, at 10 % less 2,520.
        ("2027-05".to_owned(), 2_000_000, 338_040 - 99_012),
    ];
    assert_eq!(withheld, expected);
    let report = reconciled(&app).await;
    let unmatched: Vec<i64> = report.problems.iter().map(|p| p.found_fen).collect();
    assert_eq!(unmatched, [1, 840_000], "only what the channel said too much: {report:?}");
}

async fn what_is_taken_back_after_a_payout_is_netted_in_the_next(on: On) {
    let app = App::start(on).await;
    programme(&app).await;
    tell(&app, &Event::Paid(paid(1, 1, &[100_000], START))).await;
    tell(&app, &Event::Received(received(1, 1, START, 0))).await;
    app.move_clock(8 * DAY);
    app.services.run_due().await.unwrap();
    app.move_clock(5 * DAY);
    // Taken back after the month's end and before it is settled: that is not paid first.
    tell(&app, &Event::Refunded(refunded(1, 10, 20_000, app.services.now()))).await;
    // And what came and went since the month's end has no part in it.
    tell(&app, &Event::Paid(paid(2, 1, &[10_000], START))).await;
    tell(&app, &Event::Received(received(2, 1, START, 0))).await;
    app.services.run_due().await.unwrap();
    tell(&app, &Event::Refunded(refunded(3, 20, 10_000, app.services.now()))).await;
    assert_eq!(settle(&app, "2026-11").await, [(1, 8_000)]);
    let payout = pay_out(&app, 1).await;
    app.made("/distribution/channel-records", record_of(&app, &payout, "t-1", "succeeded")).await;
    // Taken back after it was paid out.
    tell(&app, &Event::Refunded(refunded(2, 10, 100_000, app.services.now()))).await;
    assert_eq!(balance(&app, 1).await, [0, -8_000, 8_000, 0]);
    grant(&app, 1, 5_000).await;
    app.move_clock(31 * DAY);
    assert_eq!(settle(&app, "2026-12").await, [], "3,000 are still owed");
    grant(&app, 1, 7_000).await;
    app.move_clock(31 * DAY);
    assert_eq!(settle(&app, "2027-01").await, [(1, 4_000)]);
    let report = reconciled(&app).await;
    assert!(report.balanced, "{report:?}");
    assert_eq!((report.totals.granted_fen, report.totals.available_fen), (12_000, 4_000));
}

async fn those_who_settle_at_the_same_time_settle_once(on: On) {
    let app = App::start(on).await;
    programme(&app).await;
    grant(&app, 1, 1_000).await;
    grant(&app, 2, 2_000).await;
    app.move_clock(12 * DAY);
    let settle = || app.post("/distribution/settlements", json!({"period": "2026-11"}));
    let answers = tokio::join!(settle(), settle(), settle(), settle());
    let made: usize = [answers.0, answers.1, answers.2, answers.3]
        .iter()
        .map(|(status, answer)| {
            assert_eq!(*status, 201, "{answer}");
            answer["items"].as_array().unwrap().len()
        })
        .sum();
    assert_eq!(made, 2);
    let pay = || app.post("/distribution/settlements/1/payouts", json!({"channel": "c"}));
    let answers = tokio::join!(pay(), pay(), pay());
    let mut statuses = [answers.0.0, answers.1.0, answers.2.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409]);
    let (_, payouts) = app.get("/distribution/payouts").await;
    let record = record_of(&app, &payouts["items"][0], "t", "succeeded");
    let mut record = record;
    record["channel"] = json!("c");
    let say = || app.post("/distribution/channel-records", record.clone());
    let answers = tokio::join!(say(), say(), say());
    assert_eq!([answers.0.0, answers.1.0, answers.2.0], [201; 3], "{answers:?}");
    assert_eq!(balance(&app, 1).await, [0, 0, 1_000, 0]);
    assert!(reconciled(&app).await.balanced);
}

/// What the mall knows of an order in the end.
struct Story {
    paid: OrderPaid,
    events: Vec<Event>,
    refunded: BTreeMap<i64, i64>,
    received: bool,
}

fn story(order_id: i64, rng: &mut StdRng) -> Story {
    let cash: Vec<i64> = (0..rng.random_range(1..4)).map(|_| rng.random_range(0..5_000)).collect();
    let paid = paid(order_id, rng.random_range(1..=2), &cash, START + order_id);
    let mut events = vec![Event::Paid(paid.clone())];
    let received_at = START + rng.random_range(0..3) * DAY;
    let is_received = rng.random_range(0..4) > 0;
    if is_received {
        events.push(Event::Received(received(order_id, cash.len(), received_at, 7)));
    }
    let (mut refunds, mut refunded_of) = (0, BTreeMap::new());
    for line in &paid.lines {
        let mut so_far = 0;
        let whole = rng.random_range(0..3) == 0;
        while so_far < line.cash_fen && (whole || rng.random_range(0..3) == 0) {
            so_far += rng.random_range(1..=line.cash_fen - so_far);
            refunds += 1;
            let at = received_at + rng.random_range(0..20) * DAY;
            let refund = refunded(order_id * 1_000 + refunds, line.order_line_id, so_far, at);
            events.push(Event::Refunded(refund));
        }
        refunded_of.insert(line.order_line_id, so_far);
    }
    Story { paid, events, refunded: refunded_of, received: is_received }
}

/// Whatever order the messages come in, however often, and whenever commission is released in between:
/// what it comes to is what the facts say, and everything adds up.
async fn deliveries_in_any_order_come_to_the_same(on: On) {
    let seed = 29;
    let mut rng = StdRng::seed_from_u64(seed);
    let app = App::start(on).await;
    programme(&app).await;
    let stories: Vec<Story> = (1..=40).map(|order_id| story(order_id, &mut rng)).collect();
    let mut events: Vec<Event> = stories.iter().flat_map(|story| story.events.clone()).collect();
    let repeated: Vec<Event> =
        events.iter().filter(|_| rng.random_range(0..3) == 0).cloned().collect();
    events.extend(repeated);
    events.shuffle(&mut rng);
    for (number, event) in events.iter().enumerate() {
        tell(&app, event).await;
        if number % 20 == 0 {
            app.move_clock(DAY);
            app.services.run_due().await.unwrap();
        }
    }
    app.move_clock(30 * DAY);
    app.services.run_due().await.unwrap();
    let report = reconciled(&app).await;
    assert!(report.balanced, "seed {seed}: {:?}", report.problems);

    let (mut frozen, mut available) = (0, 0);
    for story in &stories {
        let found = of_order(&app, story.paid.order_id).await;
        let mut expected = Vec::new();
        for line in &story.paid.lines {
            let levels = if story.paid.promoter_id == Some(2) { 1..=2 } else { 1..=1 };
            for level in levels {
                let rate_bp = Some(if level == 1 { 1_000 } else { 333 });
                let terms = Terms { rate_bp, fixed_fen: None };
                let booked = terms.on(line.cash_fen);
                let rest = line.cash_fen - story.refunded[&line.order_line_id];
                let left = terms.on_rest(line.cash_fen, rest);
                if booked == 0 {
                    continue;
                }
                expected.push((line.order_line_id, level, booked, booked - left));
                *(if story.received { &mut available } else { &mut frozen }) += left;
            }
        }
        let found_rows: Vec<(i64, i64, i64, i64)> = found
            .iter()
            .map(|c| (c.order_line_id, c.level, c.booked_fen, c.reversed_fen))
            .collect();
        assert_eq!(found_rows, expected, "seed {seed}: {:?}", story.events);
        for commission in &found {
            let status = match (commission.booked_fen == commission.reversed_fen, story.received) {
                (true, _) => CommissionStatus::Reversed,
                (false, true) => CommissionStatus::Released,
                (false, false) => CommissionStatus::Frozen,
            };
            assert_eq!(commission.status, status, "seed {seed}: {commission:?}");
        }
    }
    assert_eq!((report.totals.frozen_fen, report.totals.available_fen), (frozen, available));

    // And all of it once more changes nothing.
    let database = app.services.distribution();
    let unchanged = |mut rows: Vec<String>| {
        rows.retain(|row| !row.starts_with("cdc_transaction"));
        rows
    };
    let before = unchanged(app.dump(database).await);
    for event in &events {
        tell(&app, event).await;
    }
    assert_eq!(unchanged(app.dump(database).await), before);
}

/// Deliveries, releases, adjustments, joining and settling at the same time: on a server they meet.
async fn all_at_once_still_adds_up(on: On) {
    let app = App::start(on).await;
    programme(&app).await;
    let (at, orders) = (START, 24);
    for order_id in 1..=orders {
        tell(&app, &Event::Paid(paid(order_id, 2, &[1_000, 2_000], at))).await;
    }
    grant(&app, 1, 5_000).await;
    grant(&app, 2, 5_000).await;
    app.move_clock(12 * DAY);
    let deliveries = async {
        for order_id in 1..=orders {
            // As the dispatcher does: what met another is begun again.
            loop {
                let mut tx = app.services.distribution().begin(START).await.unwrap();
                let refund = refunded(order_id, order_id * 10 + 1, 500, at + DAY);
                let done = async {
                    commissions::receive(&mut tx, &received(order_id, 2, at, 7)).await?;
                    commissions::reverse(&mut tx, &refund).await
                };
                match done.await {
                    Ok(()) => break tx.commit().await.unwrap(),
                    Err(OperationalError::Contended { .. }) => tx.rollback().await.unwrap(),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    let releases = async {
        for _ in 0..orders {
            app.services.run_due().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let adjustments = async {
        for n in 1..=orders {
            grant(&app, 1 + n % 2, n).await;
        }
    };
    let joining = |from: i64| {
        let app = &app;
        async move {
            for person in from..from + 16 {
                let body =
                    json!({"person_id": person, "parent_id": 2, "kind": "person", "name": "n"});
                app.made("/distribution/distributors", body).await;
            }
        }
    };
    let settling = async {
        for _ in 0..4 {
            app.made("/distribution/settlements", json!({"period": "2026-11"})).await;
        }
    };
    tokio::join!(deliveries, releases, adjustments, joining(200), joining(300), settling);
    app.services.run_due().await.unwrap();
    let report = reconciled(&app).await;
    assert!(report.balanced, "{report:?}");
    // Of each order 100 and 33 for the first line, 150 and 49 for what is left of the second.
    let granted = 10_000 + orders * (100 + 33 + 150 + 49) + orders * (orders + 1) / 2;
    assert_eq!((report.totals.granted_fen, report.totals.frozen_fen), (granted, 0));
    let (_, settled) = app.get("/distribution/settlements").await;
    let amounts: Vec<&Value> =
        settled["items"].as_array().unwrap().iter().map(|s| &s["amount_fen"]).collect();
    assert_eq!(amounts, [5_000, 5_000]);
    let (_, alerts) = app.get("/distribution/tree-alerts").await;
    let reasons: Vec<&Value> =
        alerts["items"].as_array().unwrap().iter().map(|alert| &alert["reason"]).collect();
    assert_eq!(reasons, ["people"], "33 people at two levels below, told of once");
}

async fn what_does_not_agree_is_told(on: On) {
    let app = App::start(on).await;
    programme(&app).await;
    tell(&app, &Event::Paid(paid(1, 2, &[1_000], START))).await;
    grant(&app, 1, 700).await;
    let kinds = async || -> Vec<String> {
        reconciled(&app)
            .await
            .problems
            .iter()
            .map(|p| format!("{} {} {} {}", p.kind, p.id, p.expected_fen, p.found_fen))
            .collect()
    };
    assert!(kinds().await.is_empty());
    for (spoilt, mended, said) in [
        (
            "update commission_balance set available_fen = 701 where beneficiary_id = 1",
            "update commission_balance set available_fen = 700 where beneficiary_id = 1",
            ["available_balance 1 700 701", "granted_sum 1 733 734"].as_slice(),
        ),
        (
            "update commission set reversed_fen = 1 where order_line_id = 10 and level = 1",
            "update commission set reversed_fen = 0 where order_line_id = 10 and level = 1",
            &["commissions 2 100 99", "frozen_commissions 2 100 99"],
        ),
        (
            "update commission set cap_bp = 1329",
            "update commission set cap_bp = 1330",
            &["line_cap 10 132 133"],
        ),
        (
            "update adjustment set amount_fen = 1",
            "update adjustment set amount_fen = 700",
            &["adjustments 1 700 1"],
        ),
    ] {
        for (statement, expected) in [(spoilt, said), (mended, &[])] {
            let mut tx = app.services.distribution().begin(START).await.unwrap();
            assert!(run(&mut tx, statement).await, "{statement}");
            tx.commit().await.unwrap();
            assert_eq!(kinds().await, expected, "{statement}");
        }
    }
    let stray = json!({"channel": "c", "trade_number": "t", "payout_number": "PO1-9",
        "amount_fen": 5, "outcome": "succeeded", "occurred_at": START});
    app.made("/distribution/channel-records", stray).await;
    assert_eq!(kinds().await, ["unmatched_record 1 0 5"]);
    // An entry that does not balance, or of a third level, has no place.
    let mut tx = app.services.distribution().begin(START).await.unwrap();
    for (level, line, event, amount, from, to) in [
        (3, 10, "accrue", 1, "granted", "frozen"),
        (1, 10, "accrue", 1, "granted", "available"),
        (1, 10, "accrue", -1, "granted", "frozen"),
        (1, 10, "release", 1, "granted", "available"),
        (1, 10, "gift", 1, "granted", "frozen"),
        (0, 0, "payout", 1, "available", "frozen"),
        (0, 10, "payout", 1, "available", "paid"),
        (1, 0, "payout", 1, "available", "paid"),
    ] {
        let commission = if level == 0 { "null" } else { "1" };
        let entry = format!(
            "insert into commission_entry (entry_id, tenant_id, commission_id, order_line_id,
                 beneficiary_id, level, event_type, amount_fen, source_event_id, occurred_at,
                 from_account, to_account)
             select 99, 1, {commission}, {line}, 1, {level}, '{event}', {amount}, 's', occurred_at,
                 '{from}', '{to}' from commission_entry where entry_id = 1"
        );
        assert!(!run(&mut tx, &entry).await, "{entry}");
    }
}
