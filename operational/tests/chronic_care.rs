use medlake_operational::chronic_care::dose_events::{DoseStatus, status_of};
use serde_json::{Value, json};

use crate::{App, On, START, assert_error, order_body};

on_both! {
    a_patient_takes_measures_and_is_followed_up,
    medicine_bought_in_the_mall_is_supply_until_it_is_given_back,
}

const HOUR: i64 = 3_600_000_000;

async fn patient(app: &App, person_id: i64, condition: &str) -> Value {
    app.made(
        "/chronic-care/patients",
        json!({"person_id": person_id, "name": "顾客 00007", "sex": "female", "birth_date": "1961-11-22",
            "condition": condition}),
    )
    .await
}

async fn a_patient_takes_measures_and_is_followed_up(on: On) {
    let app = App::start(on).await;
    let enrolled = patient(&app, 7, "hypertension").await;
    assert_eq!(
        (&enrolled["birth_date"], &enrolled["status"]),
        (&json!("1961-11-22"), &json!("active"))
    );
    assert_error(
        app.post(
            "/chronic-care/patients",
            json!({"person_id": 7, "name": "n", "sex": "male", "condition": "other"}),
        )
        .await,
        409,
        "conflict",
        "enrolled already",
    );
    let plan = app
        .made(
            "/chronic-care/medication-plans",
            json!({"patient_id": 1, "drug_code": "C09AA02", "drug_class": "RASA", "doses_per_day": 2, "starts_on": "2026-11-01"}),
        )
        .await;
    assert_eq!((&plan["starts_on"], &plan["ends_on"]), (&json!("2026-11-01"), &Value::Null));

    let dose = |taken: Option<i64>, at: i64| {
        app.post(
            "/chronic-care/dose-events",
            json!({"plan_id": 1, "scheduled_at": at, "taken_at": taken}),
        )
    };
    let (status, taken) = dose(Some(START + HOUR), START).await;
    assert_eq!((status, &taken["status"], &taken["patient_id"]), (201, &json!("taken"), &json!(1)));
    assert_eq!(dose(Some(START + 6 * HOUR), START + 4 * HOUR).await.1["status"], "late");
    assert_eq!(dose(None, START + 8 * HOUR).await.1["status"], "missed");
    assert_error(dose(Some(START), START).await, 409, "conflict", "recorded already");

    let reading = |body: Value| {
        let mut all = json!({"patient_id": 1});
        all.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        app.post("/chronic-care/readings", all)
    };
    let (_, ok) = reading(json!({"kind": "blood_pressure", "systolic_mmhg": 131, "diastolic_mmhg": 84, "pulse_per_min": 70})).await;
    assert_eq!((&ok["quality"], &ok["measured_at"]), (&json!("ok"), &json!(START)));
    let (_, suspect) =
        reading(json!({"kind": "blood_pressure", "systolic_mmhg": 80, "diastolic_mmhg": 120}))
            .await;
    assert_eq!(suspect["quality"], "suspect");
    let (_, glucose) =
        reading(json!({"kind": "glucose", "glucose_umol_per_l": 6_300, "measured_at": 5})).await;
    assert_eq!((&glucose["quality"], &glucose["measured_at"]), (&json!("ok"), &json!(5)));
    assert_eq!(
        reading(json!({"kind": "glucose", "glucose_umol_per_l": 34_000})).await.1["quality"],
        "suspect"
    );

    let follow_up = |body: Value| {
        let mut all = json!({"patient_id": 1, "method": "visit"});
        all.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        app.post("/chronic-care/follow-ups", all)
    };
    // Still 64 on this day: the lower target holds.
    let (_, before) = follow_up(json!({"systolic_mmhg": 145, "diastolic_mmhg": 85})).await;
    assert_eq!(before["on_target"], false);
    let (_, after) = follow_up(
        json!({"systolic_mmhg": 145, "diastolic_mmhg": 85, "performed_at": START + 40 * HOUR}),
    )
    .await;
    assert_eq!(after["on_target"], true);
    assert_eq!(follow_up(json!({})).await.1["on_target"], Value::Null);
    assert_eq!(follow_up(json!({"on_target": false, "note": "失访"})).await.1["on_target"], false);

    let (_, detail) = app.get("/chronic-care/patients/1").await;
    assert_eq!(detail["medication_plans"].as_array().unwrap().len(), 1);
    assert_eq!(detail["follow_ups"].as_array().unwrap().len(), 4);
    assert_eq!(detail["follow_ups"][0]["performed_at"], START + 40 * HOUR);

    let unchanged = app.dump(app.services.chronic_care()).await;
    assert_error(app.get("/chronic-care/patients/9").await, 404, "not_found", "patient 9");
    assert_error(reading(json!({"kind": "glucose"})).await, 400, "invalid", "glucose_umol_per_l");
    assert_error(
        reading(json!({"kind": "blood_pressure", "systolic_mmhg": 120})).await,
        400,
        "invalid",
        "diastolic",
    );
    assert_error(
        reading(json!({"kind": "glucose", "glucose_umol_per_l": -1})).await,
        400,
        "invalid",
        "no device",
    );
    assert_error(follow_up(json!({"systolic_mmhg": 120})).await, 400, "invalid", "go together");
    assert_error(follow_up(json!({"method": "letter"})).await, 400, "invalid", "letter");
    assert_error(
        app.post("/chronic-care/medication-plans", json!({"patient_id": 1, "drug_code": "x", "drug_class": "y", "doses_per_day": 1, "starts_on": "2026-02-30"})).await,
        400,
        "invalid",
        "",
    );
    assert_error(
        app.post("/chronic-care/medication-plans", json!({"patient_id": 4, "drug_code": "x", "drug_class": "y", "doses_per_day": 1, "starts_on": "2026-02-03"})).await,
        404,
        "not_found",
        "patient 4",
    );
    assert_error(
        app.post("/chronic-care/dose-events", json!({"plan_id": 4, "scheduled_at": 1})).await,
        404,
        "not_found",
        "medication_plan 4",
    );
    assert_error(
        app.post("/chronic-care/dispensings", json!({"patient_id": 1, "drug_code": "x", "drug_class": "y", "dispensed_on": "2026-02-03", "days_supply": 0, "source": "hospital"})).await,
        400,
        "invalid",
        "days_supply",
    );
    for at in [-1, i64::MAX] {
        let far = json!({"kind": "glucose", "glucose_umol_per_l": 5_000, "measured_at": at});
        assert_error(reading(far).await, 400, "invalid", "measured_at");
        assert_error(follow_up(json!({"performed_at": at})).await, 400, "invalid", "performed_at");
        assert_error(
            app.post("/chronic-care/dose-events", json!({"plan_id": 1, "scheduled_at": at})).await,
            400,
            "invalid",
            "scheduled_at",
        );
    }
    for day in ["+10000-01-01", "-0001-01-01", "0000-12-31"] {
        let far = json!({"person_id": 9, "name": "n", "sex": "male", "condition": "other", "birth_date": day});
        assert_error(app.post("/chronic-care/patients", far).await, 400, "invalid", "birth_date");
    }
    assert_eq!(app.dump(app.services.chronic_care()).await, unchanged);
}

async fn medicine_bought_in_the_mall_is_supply_until_it_is_given_back(on: On) {
    let app = App::start(on).await;
    app.stock().await;
    app.made(
        "/mall/products",
        json!({"name": "赖诺普利片", "kind": "rx", "category": "高血压", "drug_code": "C09AA03", "drug_class": "RASA",
            "days_supply_per_unit": 28, "unit_price_fen": 3_000, "return_policy": "quality_only", "tracks_stock": false}),
    )
    .await;
    patient(&app, 7, "hypertension").await;
    app.move_clock(20 * HOUR); // 2026-11-21T20:00Z is already the 22nd in Shanghai.
    for person in [7, 8] {
        let mut order = order_body(person, &[(4, 3), (1, 1)], None);
        order["prescription_id"] = json!(app.prescribe(person, 4, 3).await);
        let order = app.made("/mall/orders", order).await;
        app.pay(&order).await;
    }
    app.services.deliver_outbox().await.unwrap();
    let chronic_care = app.services.chronic_care();
    let supply = "select coalesce(sum(days_supply), -1) from dispensing
                  where dispensed_on = '2026-11-22' and source = 'mall' and drug_class = 'RASA'";
    assert_eq!(app.scalar(chronic_care, supply).await, 84);
    assert_eq!(app.scalar(chronic_care, "select count(*) from dispensing").await, 1);

    let refund = |quantity: i64| {
        app.made(
            "/mall/orders/1/refunds",
            json!({"reason": "r", "lines": [{"order_line_id": 1, "quantity": quantity}]}),
        )
    };
    refund(1).await;
    app.services.deliver_outbox().await.unwrap();
    assert_eq!(app.scalar(chronic_care, supply).await, 56);
    refund(2).await;
    app.services.deliver_outbox().await.unwrap();
    assert_eq!(app.scalar(chronic_care, "select count(*) from dispensing").await, 0);
    if on == On::Sqlite {
        let ops = "select count(*) from cdc_change where table_name = 'dispensing'";
        assert_eq!(app.scalar(chronic_care, ops).await, 3, "created, updated, deleted");
    }
}

#[test]
fn a_dose_counts_by_how_far_from_its_time_it_was_taken() {
    for (minutes, expected) in [
        (0, DoseStatus::Taken),
        (60, DoseStatus::Taken),
        (-60, DoseStatus::Taken),
        (61, DoseStatus::Late),
        (240, DoseStatus::Late),
        (241, DoseStatus::Missed),
    ] {
        assert_eq!(status_of(START, Some(START + minutes * HOUR / 60)), expected, "{minutes}");
    }
    assert_eq!(status_of(START, None), DoseStatus::Missed);
    assert_eq!(status_of(i64::MIN, Some(i64::MAX)), DoseStatus::Missed);
}
