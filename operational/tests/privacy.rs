//! Who patients are: encrypted, masked, found by token, shown with a reason, restricted, erased.

use medlake_operational::identifiers::Identifiers;
use serde_json::{Value, json};

use crate::{App, DAY, On, assert_error, rows};

on_both! {
    identifiers_are_kept_encrypted_and_found_by_token,
    a_patient_is_restricted_and_erased,
}

pub(crate) const NAME: &str = "段正淳";
pub(crate) const PHONE: &str = "18049531999";
pub(crate) const ID_CARD: &str = "11010519491231002X";
const ADDRESS: &str = "北京市海淀区马连洼街道289号";

pub(crate) async fn enrol(app: &App, person_id: i64) -> Value {
    let body = json!({"person_id": person_id, "name": NAME, "phone": "+86 180-4953-1999",
        "id_card": "11010519491231002x", "address": ADDRESS, "sex": "male",
        "birth_date": "1949-12-31", "condition": "hypertension"});
    let key = format!("enrol-{person_id}");
    let (status, patient) =
        app.post_raw("/chronic-care/patients", &body.to_string(), Some(&key)).await;
    assert_eq!(status, 201, "{patient}");
    // A repeated request is known by its digest.
    let again = app.post_raw("/chronic-care/patients", &body.to_string(), Some(&key)).await;
    assert_eq!(again, (201, patient.clone()));
    patient
}

pub(crate) async fn found(app: &App, body: Value) -> usize {
    let answer = app.made("/chronic-care/patients/lookup", body).await;
    answer["items"].as_array().unwrap().len()
}

/// Whether a text stands anywhere in the database, as it is or in hexadecimal.
async fn stands_in(app: &App, text: &str) -> bool {
    let dump = app.dump(app.services.chronic_care()).await.join("\n").to_lowercase();
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    dump.contains(&text.to_lowercase()) || dump.contains(&hex)
}

async fn identifiers_are_kept_encrypted_and_found_by_token(on: On) {
    let app = App::start(on).await;
    let patient = enrol(&app, 7).await;
    for told in [NAME, PHONE, ID_CARD, ADDRESS] {
        assert!(!stands_in(&app, told).await, "{told}");
        assert!(!patient.to_string().contains(told));
    }
    let (_, detail) = app.get("/chronic-care/patients/1").await;
    assert_eq!(
        detail["identifiers"],
        json!({"name": "段**", "phone": "180****1999", "id_card": "1***************2X",
            "address": "北京市海淀区马********"})
    );
    assert_eq!(detail["conditions"][0]["condition"], "hypertension");

    assert_eq!(found(&app, json!({"phone": "180 4953 1999"})).await, 1);
    assert_eq!(found(&app, json!({"id_card": ID_CARD})).await, 1);
    assert_eq!(found(&app, json!({"phone": "18049531998"})).await, 0);
    let lookup = "/chronic-care/patients/lookup";
    assert_error(app.post(lookup, json!({})).await, 400, "invalid", "either");

    let shown = "/chronic-care/patients/1/identifiers";
    assert_error(app.get(&format!("{shown}?purpose=")).await, 400, "invalid", "purpose");
    let (status, clear) = app.get(&format!("{shown}?purpose=call")).await;
    assert_eq!((status, &clear["phone"], &clear["name"]), (200, &json!(PHONE), &json!(NAME)));
    let (_, accesses) = app.get("/chronic-care/patients/1/accesses").await;
    assert_eq!(accesses["items"].as_array().unwrap().len(), 1);
    assert_eq!(accesses["items"][0]["purpose"], "call");

    let change = |version: i64| {
        let body = json!({"version": version, "identifiers": {"phone": "13800138000"}});
        app.put(shown, body)
    };
    assert_error(change(9).await, 409, "conflict", "read it again");
    assert_eq!(change(1).await.1["version"], 2);
    assert_eq!(found(&app, json!({"phone": PHONE})).await, 0);
    assert_eq!(found(&app, json!({"phone": "13800138000"})).await, 1);
    assert_eq!(app.get(&format!("{shown}?purpose=call")).await.1["name"], NAME);

    // Of another person, or in another column, a ciphertext does not open.
    enrol(&app, 8).await;
    for (moved, what) in [
        (
            "person_id = 8",
            "select ciphertext from _identifier where person_id = 7 and field = 'name'",
        ),
        (
            "person_id = 7",
            "select ciphertext from _identifier where person_id = 7 and field = 'phone'",
        ),
    ] {
        let mut tx = app.services.chronic_care().begin(crate::START).await.unwrap();
        let [(bytes,)] = rows::<(Vec<u8>,)>(&mut tx, what).await.try_into().unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let change = format!(
            "update _identifier set ciphertext = x'{hex}' where {moved} and field = 'name'"
        );
        assert!(crate::run(&mut tx, &change).await);
        tx.commit().await.unwrap();
        let patient = if moved.ends_with('8') { 2 } else { 1 };
        let path = format!("/chronic-care/patients/{patient}/identifiers?purpose=call");
        let (status, body) = app.get(&path).await;
        assert_eq!(status, 500, "{body}");
        assert!(!body.to_string().contains(NAME));
    }
    for wrong in [json!({"phone": "abc"}), json!({"id_card": "110105194912310021"})] {
        let mut body = json!({"person_id": 9, "name": "n", "sex": "male", "condition": "other"});
        body.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        assert_error(app.post("/chronic-care/patients", body).await, 400, "invalid", "digit");
    }
}

async fn a_patient_is_restricted_and_erased(on: On) {
    let app = App::start(on).await;
    enrol(&app, 7).await;
    enrol(&app, 8).await;
    let consent =
        json!({"purpose": "care", "sensitive_data": true, "text_version": "care-2026-03"});
    let consents = "/chronic-care/patients/1/consents";
    let given = app.made(consents, consent.clone()).await;
    assert_error(app.post(consents, consent.clone()).await, 409, "conflict", "already");
    app.move_clock(DAY);
    let withdrawal = format!("/chronic-care/consents/{}/withdrawal", given["consent_id"]);
    let withdrawn = app.made(&withdrawal, json!({})).await;
    assert_eq!(withdrawn["withdrawn_at"], crate::START + DAY);
    assert_error(app.post(&withdrawal, json!({})).await, 409, "conflict", "already");

    // Kept, and used for nothing: neither recorded of nor found nor shown.
    let visit =
        json!({"patient_id": 1, "method": "visit", "systolic_mmhg": 131, "diastolic_mmhg": 80});
    let follow_ups = "/chronic-care/follow-ups";
    assert_error(app.post(follow_ups, visit.clone()).await, 409, "conflict", "restricted");
    assert_eq!(found(&app, json!({"phone": PHONE})).await, 1, "only the other one");
    let (_, detail) = app.get("/chronic-care/patients/1").await;
    assert_eq!(
        (&detail["status"], &detail["identifiers"]["name"]),
        (&json!("restricted"), &Value::Null)
    );
    app.made(consents, consent).await;
    app.made(follow_ups, visit).await;

    // A record of today has to be kept for fifteen years; a person without one goes at once.
    let kept = app.made("/chronic-care/patients/1/erasure", json!({})).await;
    assert_eq!((&kept["status"], &kept["erase_on"]), (&json!("restricted"), &json!("2041-11-22")));
    let back = json!({"status": "active", "reason": "r", "version": kept["version"]});
    let status = app.post("/chronic-care/patients/1/status", back).await;
    assert_error(status, 409, "conflict", "asked to be erased");
    let gone = app.made("/chronic-care/patients/2/erasure", json!({})).await;
    assert_eq!(
        (&gone["status"], &gone["sex"], &gone["birth_date"]),
        (&json!("erased"), &json!("unknown"), &Value::Null)
    );
    assert_eq!(found(&app, json!({"phone": PHONE})).await, 0);
    let app = &app;
    let clear = |patient: i64| {
        let path = format!("/chronic-care/patients/{patient}/identifiers?purpose=court");
        async move { app.get(&path).await.1["name"].clone() }
    };
    assert_eq!((clear(1).await, clear(2).await), (json!(NAME), Value::Null));
    let keys = "select count(wrapped_key) from _person_key";
    assert_eq!(app.scalar(app.services.chronic_care(), keys).await, 1);

    app.move_clock(15 * 365 * DAY);
    assert_eq!(app.services.sweep_chronic_care().await.unwrap(), 0);
    app.move_clock(10 * DAY);
    assert_eq!(app.services.sweep_chronic_care().await.unwrap(), 1);
    assert_eq!(app.services.sweep_chronic_care().await.unwrap(), 0);
    assert_eq!(clear(1).await, Value::Null);
    assert_eq!(app.scalar(app.services.chronic_care(), keys).await, 0);
    let again = app.post("/chronic-care/patients/1/erasure", json!({})).await;
    assert_error(again, 409, "conflict", "erased");

    let (_, listed) = app.get("/chronic-care/patients?status=erased&limit=1").await;
    assert_eq!(listed["items"][0]["patient_id"], 1);
    let (_, listed) = app.get("/chronic-care/patients?status=erased&after_id=1").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
}

#[test]
fn masks_are_the_published_ones() {
    let Some(cases) = crate::oracles::oracle("masking_hutool.json") else { return };
    let mut checked = 0;
    for case in cases["cases"].as_array().unwrap() {
        let text = |at: usize| case[at].as_str().map(str::to_owned);
        let mut given = Identifiers::default();
        let mut expected = Identifiers::default();
        let (one, other) = match case[0].as_str().unwrap() {
            "name" => (&mut given.name, &mut expected.name),
            "mobile" | "landline" => (&mut given.phone, &mut expected.phone),
            "id_card(1,2)" => (&mut given.id_card, &mut expected.id_card),
            "address(8)" => (&mut given.address, &mut expected.address),
            _ => continue,
        };
        (*one, *other) = (text(1), text(2));
        assert_eq!(
            serde_json::to_value(given.masked()).unwrap(),
            serde_json::to_value(&expected).unwrap()
        );
        checked += 1;
    }
    assert_eq!(checked, 5);
}
