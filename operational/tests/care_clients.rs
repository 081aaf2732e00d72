//! Clinicians and devices at one record at the same time: whoever decided on what is no longer so is told,
//! and all that was answered well is there.

use std::collections::BTreeSet;

use futures::future::join_all;
use serde_json::{Value, json};

use crate::{App, On, SECOND, START};

on_both! {
    clinicians_who_change_one_record_see_what_the_others_did,
    what_only_one_can_do_is_done_once,
    devices_of_one_patient_lose_nothing,
}

const CLINICIANS: usize = 6;

/// Patients with a consent to care, numbered from 1.
async fn patients(app: &App, count: i64) {
    for person in 1..=count {
        let new = json!({"person_id": person, "name": "顾客", "sex": "female",
            "birth_date": "1971-11-22", "condition": "hypertension"});
        app.made("/chronic-care/patients", new).await;
        let consent = json!({"purpose": "care", "sensitive_data": true, "text_version": "care-1"});
        app.made(&format!("/chronic-care/patients/{person}/consents"), consent).await;
    }
}

async fn plan(app: &App) {
    let plan = json!({"patient_id": 1, "drug_code": "C08CA01", "drug_class": "C08C",
        "doses_per_day": 1, "starts_on": "2026-11-21", "clock_times": ["08:30"]});
    app.made("/chronic-care/medication-plans", plan).await;
}

/// Of answers to requests that exclude each other: the one that was carried out; the others are conflicts.
fn only_one(answers: Vec<(u16, Value)>) -> Value {
    let count = answers.len();
    let (done, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|(status, _)| (200..300).contains(status));
    assert_eq!((done.len(), refused.len()), (1, count - 1), "{done:?} {refused:?}");
    for (status, said) in refused {
        assert_eq!((status, &said["error"]["code"]), (409, &json!("conflict")), "{said}");
    }
    done.into_iter().next().unwrap().1
}

async fn clinicians_who_change_one_record_see_what_the_others_did(on: On) {
    let app = App::start(on).await;
    patients(&app, 1).await;
    plan(&app).await;
    let detail = async || app.get("/chronic-care/patients/1").await.1;
    let changes = 3;
    let clinician = async |clinician: usize| {
        let mut overtaken = 0;
        for number in 0..changes {
            loop {
                let version = detail().await["medication_plans"][0]["version"].clone();
                let change = json!({"kind": "changed", "dose_amount": 5, "dose_unit": "mg",
                    "reason": format!("{clinician}/{number}"), "version": version});
                let path = "/chronic-care/medication-plans/1/changes";
                let (status, answer) = app.post(path, change).await;
                if status == 200 {
                    break;
                }
                let said = answer["error"]["message"].as_str().unwrap();
                assert!(status == 409 && said.contains("read it again"), "{status} {answer}");
                overtaken += 1;
            }
        }
        overtaken
    };
    let overtaken: usize = join_all((0..CLINICIANS).map(clinician)).await.into_iter().sum();
    assert!(overtaken > 0, "nobody was in anybody's way");
    let (_, history) = app.get("/chronic-care/medication-plans/1/changes").await;
    let history = history["items"].as_array().unwrap();
    let reasons: BTreeSet<&str> = history.iter().map(|c| c["reason"].as_str().unwrap()).collect();
    let all = CLINICIANS * changes;
    assert_eq!(
        (history.len(), reasons.len()),
        (all + 1, all + 1),
        "the start, and each change once"
    );
    assert_eq!(detail().await["medication_plans"][0]["version"], all + 1);
    let slots = "select count(*) - count(distinct scheduled_at) from reminder_slot";
    assert_eq!(app.scalar(app.services.chronic_care(), slots).await, 0);

    // Different things of one patient, all decided on the same version.
    let named = |digit: usize| {
        let new = json!({"version": 1, "identifiers": {"phone": format!("1380013800{digit}")}});
        app.put("/chronic-care/patients/1/identifiers", new)
    };
    let leave = async {
        let left = json!({"version": 1, "status": "left", "reason": "moved away"});
        vec![app.post("/chronic-care/patients/1/status", left).await]
    };
    let (named, left) = tokio::join!(join_all((0..CLINICIANS).map(named)), leave);
    let done = only_one([named, left].concat());
    assert_eq!(done["version"], 2);
    assert_eq!(detail().await["version"], 2);
}

async fn what_only_one_can_do_is_done_once(on: On) {
    let app = App::start(on).await;
    patients(&app, 2).await;
    let all = async |path: &str, body: Value| {
        join_all((0..CLINICIANS).map(|_| app.post(path, body.clone()))).await
    };
    let start = json!({"template": "hypertension"});
    only_one(all("/chronic-care/patients/1/programmes", start).await);

    // An answer to a visit that somebody else has answered is not one to the next visit.
    let answer = json!({"patient_id": 1, "method": "visit", "programme_id": 1, "visit": 1,
        "systolic_mmhg": 150, "diastolic_mmhg": 84});
    only_one(all("/chronic-care/follow-ups", answer.clone()).await);
    let (_, programme) = app.get("/chronic-care/programmes/1").await;
    assert_eq!((&programme["visit"], programme["steps"].as_array().unwrap().len()), (&json!(2), 2));
    let (status, said) = app.post("/chronic-care/follow-ups", answer).await;
    assert_eq!(status, 409);
    assert!(said.to_string().contains("is at visit 2, not 1: read it again"), "{said}");
    let homeless = json!({"patient_id": 1, "method": "phone", "visit": 1});
    assert_eq!(app.post("/chronic-care/follow-ups", homeless).await.0, 400);
    let count = "select count(*) from follow_up";
    assert_eq!(app.scalar(app.services.chronic_care(), count).await, 1);
    let to = json!({"step": "assessment", "reason": "again", "version": programme["version"]});
    only_one(all("/chronic-care/programmes/1/move", to).await);

    // The office's reading raises an alert; one of the staff takes care of it, and one ends it.
    let reading = json!({"patient_id": 1, "kind": "blood_pressure", "systolic_mmhg": 191,
        "diastolic_mmhg": 121, "measured_at": START});
    let readings = all("/chronic-care/readings", reading).await;
    assert!(readings.iter().all(|(status, r)| *status == 201 && *r == readings[0].1));
    let alerts = app.get("/chronic-care/alerts").await.1["items"].as_array().unwrap().clone();
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    only_one(all("/chronic-care/alerts/1/acknowledgement", json!({})).await);
    only_one(all("/chronic-care/alerts/1/resolution", json!({"resolution": "called"})).await);

    // Both patients want the one device.
    let device = json!({"kind": "blood_pressure_monitor", "model": "m", "serial": "1"});
    only_one(all("/chronic-care/devices", device).await);
    let lend = async |patient: usize| {
        let to = json!({"patient_id": patient});
        app.post("/chronic-care/devices/1/assignment", to).await
    };
    only_one(join_all([1, 2, 1, 2].map(lend)).await);

    // One request that is sent several times at once is one.
    let condition = json!({"icd10": "E11.9"}).to_string();
    let again = async |_| {
        app.post_raw("/chronic-care/patients/1/conditions", &condition, Some("diabetes")).await
    };
    let answers = join_all((0..CLINICIANS).map(again)).await;
    assert!(answers.iter().all(|answer| answer.0 == 201 && *answer == answers[0]), "{answers:?}");
    let without_key = json!({"icd10": "I15.2"});
    only_one(all("/chronic-care/patients/1/conditions", without_key).await);
}

async fn devices_of_one_patient_lose_nothing(on: On) {
    let app = App::start(on).await;
    patients(&app, 1).await;
    plan(&app).await;
    for device in 1..=2 {
        let new = json!({"kind": "blood_pressure_monitor", "model": "m",
            "serial": device.to_string()});
        app.made("/chronic-care/devices", new).await;
        let to = json!({"patient_id": 1});
        app.made(&format!("/chronic-care/devices/{device}/assignment"), to).await;
    }
    app.move_clock(3_600 * SECOND);
    // Each phone passes on what it has heard of a device, and they have heard much of the same.
    let upload = async |(device, first): (i64, i64)| {
        let reading = |minute: i64| {
            json!({"measured_at": START + minute * 60 * SECOND, "systolic_mmhg": 120 + minute,
                "diastolic_mmhg": 80})
        };
        let readings: Vec<Value> = (first..first + 20).map(reading).collect();
        let path = format!("/chronic-care/devices/{device}/readings");
        app.made(&path, json!({"readings": readings})).await
    };
    let phones = [(1, 0), (1, 10), (1, 20), (2, 5), (2, 15), (1, 0)];
    let taken = async || {
        let plan = "/chronic-care/medication-plans/1/confirmations";
        app.made(plan, json!({"taken_at": START + 1_800 * SECOND})).await
    };
    let (uploads, doses) =
        tokio::join!(join_all(phones.map(upload)), join_all((0..CLINICIANS).map(|_| taken())));
    let sum = |field: &str| -> i64 { uploads.iter().map(|u| u[field].as_i64().unwrap()).sum() };
    // Minutes 0 to 39 of the one device, 5 to 34 of the other.
    assert_eq!((sum("recorded"), sum("duplicates")), (40 + 30, 120 - 70), "{uploads:?}");
    assert!(uploads.iter().all(|upload| upload["refused"] == json!([])), "{uploads:?}");
    let care = app.services.chronic_care();
    let of_device = "select count(distinct measured_at) from reading where device_id = 1";
    assert_eq!(app.scalar(care, of_device).await, 40);
    let listed = async |query: &str| {
        let (status, page) = app.get(&format!("/chronic-care/patients/1/readings?{query}")).await;
        assert_eq!(status, 200, "{page}");
        page["items"].as_array().unwrap().clone()
    };
    let all = listed("limit=1000").await;
    assert_eq!(all.len(), 70);
    assert_eq!(listed(&format!("after_id={}", all[59]["reading_id"])).await, all[60..]);
    // Of both devices, from minute 8 on and before minute 10.
    let (from, until) = (START + 480 * SECOND, START + 600 * SECOND);
    let some = listed(&format!("from={from}&until={until}&kind=blood_pressure")).await;
    assert_eq!(some.len(), 4, "{some:?}");
    assert_eq!(listed("kind=glucose").await, Vec::<Value>::new());
    assert_eq!(app.get("/chronic-care/patients/1/readings?from=-1").await.0, 400);
    // What both say is kept twice, and marked by whichever came second.
    let marked = "select count(*) from reading where flags like '%duplicate%'";
    assert_eq!(app.scalar(care, marked).await, 30);
    assert!(doses.iter().all(|dose| *dose == doses[0] && dose["status"] == "taken"), "{doses:?}");
    assert_eq!(app.scalar(care, "select count(*) from dose_event").await, 1);
}
