//! What patients see of themselves in chronic care and do for themselves, and that nobody else does.

use medlake_operational::identity::Permission;
use serde_json::{Value, json};

use crate::{
    App, On, SECOND, START,
    identity::{customer, guarded, program, with_token},
};

on_both! {
    patients_get_at_what_is_theirs_and_at_nothing_else,
}

const HOUR: i64 = 3600 * SECOND;

async fn made(app: &App, token: &str, path: &str, body: Value) -> Value {
    let (status, answer) = with_token(app, "POST", path, token, Some(body)).await;
    assert!((200..300).contains(&status), "{path}: {status} {answer}");
    answer
}

/// A patient with one of everything. The addresses have the ids it was given.
async fn cared_for(app: &App, staff: &str, person_id: i64, serial: &str) -> Vec<Door> {
    let enrol = json!({"person_id": person_id, "name": "顾客", "sex": "female",
        "birth_date": "1971-11-22", "condition": "hypertension"});
    let patient = made(app, staff, "/chronic-care/patients", enrol).await["patient_id"].clone();
    let of_patient = |rest: &str| format!("/chronic-care/patients/{patient}{rest}");
    let given = json!({"purpose": "care", "sensitive_data": true, "text_version": "care-1"});
    made(app, staff, &of_patient("/consents"), given).await;
    let start = json!({"template": "hypertension"});
    let programme = made(app, staff, &of_patient("/programmes"), start).await;
    let programme = &programme["programme_id"];
    let plan = json!({"patient_id": patient, "drug_code": "C08CA01", "drug_class": "C08C",
        "doses_per_day": 1, "starts_on": "2026-11-21", "clock_times": ["08:00"]});
    let plan = made(app, staff, "/chronic-care/medication-plans", plan).await["plan_id"].clone();
    let device = json!({"kind": "blood_pressure_monitor", "model": "m", "serial": serial});
    let device = made(app, staff, "/chronic-care/devices", device).await["device_id"].clone();
    let assigned = json!({"patient_id": patient});
    made(app, staff, &format!("/chronic-care/devices/{device}/assignment"), assigned).await;
    let visit = json!({"patient_id": patient, "method": "visit", "systolic_mmhg": 150,
        "diastolic_mmhg": 84, "programme_id": programme});
    let visit = made(app, staff, "/chronic-care/follow-ups", visit).await["follow_up_id"].clone();
    let marketing = json!({"purpose": "marketing", "sensitive_data": false,
        "text_version": "marketing-1"});
    let consent = made(app, staff, &of_patient("/consents"), marketing).await;
    let pressure = |systolic: i64| {
        json!({"patient_id": patient, "kind": "blood_pressure", "systolic_mmhg": systolic,
            "diastolic_mmhg": 121, "measured_at": START - systolic * SECOND})
    };
    // One that raises an alert.
    made(app, staff, "/chronic-care/readings", pressure(190)).await;
    let upload = json!({"readings": [{"measured_at": START, "systolic_mmhg": 121,
        "diastolic_mmhg": 80}]});
    let read = |path: String| Door { method: "GET", path, body: None, listed: false };
    let list = |path: &str| Door { listed: true, ..read(path.to_owned()) };
    let write =
        |path: String, body: Value| Door { method: "POST", path, body: Some(body), listed: false };
    vec![
        list("/chronic-care/patients"),
        list("/chronic-care/devices"),
        list("/chronic-care/alerts"),
        read(of_patient("")),
        read(of_patient("/conditions")),
        read(of_patient("/consents")),
        read(of_patient("/programmes")),
        read(of_patient("/readings")),
        read(of_patient("/identifiers?purpose=mine")),
        read(of_patient("/accesses")),
        read(format!("/chronic-care/alerts?patient_id={patient}")),
        read(format!("/chronic-care/programmes/{programme}")),
        read(format!("/chronic-care/follow-ups/{visit}/answers")),
        read(format!("/chronic-care/medication-plans/{plan}/changes")),
        read(format!("/chronic-care/medication-plans/{plan}/slots")),
        read(format!("/chronic-care/devices/{device}")),
        write(
            of_patient("/consents"),
            json!({"purpose": "analytics", "sensitive_data": true, "text_version": "analytics-1"}),
        ),
        write(format!("/chronic-care/consents/{}/withdrawal", consent["consent_id"]), json!({})),
        write(
            format!("/chronic-care/medication-plans/{plan}/confirmations"),
            json!({"taken_at": START + HOUR / 2}),
        ),
        write("/chronic-care/readings".to_owned(), pressure(131)),
        write(format!("/chronic-care/devices/{device}/readings"), upload),
        // The last one: afterwards nothing is recorded of them.
        write(of_patient("/erasure"), json!({})),
    ]
}

/// A request that patients may make.
struct Door {
    method: &'static str,
    path: String,
    body: Option<Value>,
    /// Whether everybody may ask, and sees their own.
    listed: bool,
}

async fn patients_get_at_what_is_theirs_and_at_nothing_else(on: On) {
    let (app, _) = guarded(on).await;
    let (_, _, staff) = program(&app, Permission::ALL.to_vec()).await;
    let (_, _, pharmacist) = program(&app, vec![Permission::MallRead, Permission::MallWrite]).await;
    let (person, own) = customer(&app, "patient").await;
    let (other_person, other) = customer(&app, "other").await;
    let (_, stranger) = customer(&app, "stranger").await;
    let doors = cared_for(&app, &staff, person, "a").await;
    // What the other one has is of another number in each table.
    cared_for(&app, &staff, other_person, "b").await;

    for Door { method, path, body, listed } in &doors {
        let before = app.dump(app.services.chronic_care()).await;
        let refused = with_token(&app, method, path, &pharmacist, body.clone()).await;
        assert_eq!(refused.0, 403, "{method} {path}: {}", refused.1);
        for token in [&other, &stranger] {
            let (status, answer) = with_token(&app, method, path, token, body.clone()).await;
            if *listed {
                let items = answer["items"].as_array().unwrap();
                assert_eq!(items.len(), usize::from(*token == other), "{path}: {answer}");
                continue;
            }
            assert_eq!(status, 404, "{method} {path}: {answer}");
            // Nothing is said but that what was asked for is not there.
            let said = answer["error"]["message"].as_str().unwrap();
            let asked = path.split(['/', '?', '=']).filter_map(|part| part.parse::<i64>().ok());
            let asked = asked.chain(body.as_ref().and_then(|body| body["patient_id"].as_i64()));
            let numbers: Vec<_> = said.split(' ').filter_map(|w| w.parse::<i64>().ok()).collect();
            assert_eq!(numbers, asked.collect::<Vec<_>>(), "{path}: {said}");
        }
        let kept = app.dump(app.services.chronic_care()).await == before;
        assert!(kept, "{method} {path} changed something for another");

        let (status, answer) = with_token(&app, method, path, &own, body.clone()).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        if *listed {
            assert_eq!(answer["items"].as_array().unwrap().len(), 1, "{path}: {answer}");
        }
        if path.ends_with("/accesses") {
            assert_eq!(answer["items"][0]["actor"], format!("customer:{person}"), "{answer}");
        }
    }
    // What is the work of the staff is not theirs to do, not even for themselves.
    for (method, path) in [
        ("POST", "/chronic-care/patients"),
        ("POST", "/chronic-care/patients/lookup"),
        ("POST", "/chronic-care/patients/1/status"),
        ("POST", "/chronic-care/patients/1/conditions"),
        ("PUT", "/chronic-care/patients/1/identifiers"),
        ("POST", "/chronic-care/patients/1/programmes"),
        ("POST", "/chronic-care/medication-plans"),
        ("POST", "/chronic-care/dispensings"),
        ("POST", "/chronic-care/dose-events"),
        ("POST", "/chronic-care/follow-ups"),
        ("POST", "/chronic-care/devices"),
        ("POST", "/chronic-care/devices/1/assignment"),
        ("POST", "/chronic-care/templates"),
        ("POST", "/chronic-care/alerts/1/acknowledgement"),
        ("POST", "/chronic-care/alerts/1/resolution"),
        ("GET", "/identity/master-keys"),
    ] {
        let (status, answer) = with_token(&app, method, path, &own, Some(json!({}))).await;
        assert_eq!(status, 403, "{method} {path}: {answer}");
    }
}
