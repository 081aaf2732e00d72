//! Programmes of care: templates, steps and their timers, follow-ups with forms, alerts, readings of devices,
//! slots of medication.

use serde_json::{Value, json};

use crate::{App, DAY, On, SECOND, START, assert_error, run};

on_both! {
    a_programme_goes_from_step_to_step_until_the_patient_is_lost_and_found,
    a_running_programme_keeps_its_version_until_it_is_moved,
    readings_of_devices_are_mended_flagged_and_told_of,
    slots_are_made_ahead_confirmed_once_and_missed,
}

const HOUR: i64 = 3600 * SECOND;
const MINUTE: i64 = 60 * SECOND;

async fn patient(app: &App) -> i64 {
    let made = app
        .made(
            "/chronic-care/patients",
            json!({"person_id": 7, "name": "顾客 00007", "sex": "female", "birth_date": "1971-11-22",
                "condition": "hypertension"}),
        )
        .await;
    made["patient_id"].as_i64().unwrap()
}

async fn consent(app: &App) {
    let text = json!({"purpose": "care", "sensitive_data": true, "text_version": "care-1"});
    app.made("/chronic-care/patients/1/consents", text).await;
}

async fn programme(app: &App, id: i64) -> Value {
    app.get(&format!("/chronic-care/programmes/{id}")).await.1
}

async fn swept(app: &App) {
    app.services.sweep_chronic_care().await.unwrap();
    let before = app.dump(app.services.chronic_care()).await;
    assert_eq!(app.services.sweep_chronic_care().await.unwrap(), 0, "nothing is left to do");
    assert_eq!(app.dump(app.services.chronic_care()).await, before);
}

async fn told(app: &App, what: &str) -> i64 {
    let sql = match what {
        "alerts" => "select count(*) from alert",
        "open" => "select count(*) from alert where status <> 'resolved'",
        _ => "select count(*) from outbox",
    };
    app.scalar(app.services.chronic_care(), sql).await
}

async fn a_programme_goes_from_step_to_step_until_the_patient_is_lost_and_found(on: On) {
    let app = App::start(on).await;
    patient(&app).await;
    let programmes = "/chronic-care/patients/1/programmes";
    let start = json!({"template": "hypertension"});
    assert_error(app.post(programmes, start.clone()).await, 409, "conflict", "consent");
    consent(&app).await;
    assert_error(
        app.post(programmes, json!({"template": "gout"})).await,
        400,
        "invalid",
        "no template \"gout\"",
    );
    let started = app.made(programmes, start.clone()).await;
    assert_eq!(
        (&started["step"], &started["due_at"]),
        (&json!("assessment"), &json!(START + 7 * DAY))
    );
    assert_error(app.post(programmes, start).await, 409, "conflict", "already");

    let answer = |at: Option<i64>, systolic: i64, answers: Value| {
        let body = json!({"patient_id": 1, "method": "visit", "programme_id": 1, "performed_at": at,
            "systolic_mmhg": systolic, "diastolic_mmhg": 84, "answers": answers});
        app.post("/chronic-care/follow-ups", body)
    };
    let unchanged = app.dump(app.services.chronic_care()).await;
    let (status, wrong) = answer(None, 20, json!({"height_cm": "tall", "colour": 1})).await;
    let message = wrong["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(status, 400);
    for said in ["colour", "height_cm: must be a number", "systolic_mmhg: must be from 40 to 400"] {
        assert!(message.contains(said), "{message}");
    }
    assert_error(answer(Some(START + DAY), 150, json!({})).await, 400, "invalid", "future");
    assert_eq!(app.dump(app.services.chronic_care()).await, unchanged);

    // Above the target: within two weeks again. The answers are stored by their types.
    let (status, first) = answer(
        None,
        150,
        json!({"height_cm": 160.5, "family_history": true, "diagnosed_on": "2020-02-29"}),
    )
    .await;
    assert_eq!(
        (status, &first["on_target"], &first["form"]),
        (201, &json!(false), &json!("assessment"))
    );
    let answers = format!("/chronic-care/follow-ups/{}/answers", first["follow_up_id"]);
    let answers = app.get(&answers).await.1;
    let of = |field: &str, column: &str| {
        let items = answers["items"].as_array().unwrap();
        items.iter().find(|item| item["field"] == field).unwrap()[column].clone()
    };
    assert_eq!(of("systolic_mmhg", "integer_value"), 150);
    assert_eq!(of("height_cm", "decimal_value"), 160.5);
    assert_eq!(of("family_history", "boolean_value"), true);
    assert_eq!(of("diagnosed_on", "date_value"), "2020-02-29");
    assert_eq!(programme(&app, 1).await["step"], "two_weeks");

    app.move_clock(12 * DAY);
    swept(&app).await;
    app.move_clock(DAY);
    let (_, second) =
        answer(None, 132, json!({"adherence": "规律", "symptoms": ["头痛头晕", "四肢发麻"]})).await;
    assert_eq!(second["on_target"], true);
    let now = START + 13 * DAY;
    let at = programme(&app, 1).await;
    assert_eq!((&at["step"], &at["due_at"]), (&json!("quarterly"), &json!(now + 90 * DAY)));

    // Nobody comes: overdue, then lost, told of once each.
    app.move_clock(104 * DAY);
    swept(&app).await;
    assert_eq!(told(&app, "alerts").await, 1);
    assert_eq!(programme(&app, 1).await["steps"][2]["overdue_at"], now + 104 * DAY);
    app.move_clock(90 * DAY);
    swept(&app).await;
    assert_eq!((told(&app, "alerts").await, told(&app, "open").await), (2, 2));
    assert_eq!(programme(&app, 1).await["state"], "lost");
    let of_patient = || async { app.get("/chronic-care/patients/1").await.1["status"].clone() };
    assert_eq!(of_patient().await, "lost");

    // Found again, and badly: referral, told of as critical. What was raised for the cause is settled.
    let (_, third) = answer(None, 182, json!({"adherence": "间断"})).await;
    assert_eq!(third["on_target"], false);
    assert_eq!(of_patient().await, "active");
    let at = programme(&app, 1).await;
    assert_eq!(
        (&at["state"], &at["step"], &at["visit"]),
        (&json!("running"), &json!("referral"), &json!(4))
    );
    let outcomes: Vec<&Value> =
        at["steps"].as_array().unwrap().iter().map(|step| &step["outcome"]).collect();
    assert_eq!(outcomes, ["answered", "answered", "answered", "open"]);
    let (_, alerts) = app.get("/chronic-care/alerts?patient_id=1&status=open").await;
    let open = alerts["items"].as_array().unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!((&open[0]["kind"], &open[0]["severity"]), (&json!("step"), &json!("critical")));
    let alert = format!("/chronic-care/alerts/{}", open[0]["alert_id"]);
    let seen = app.made(&format!("{alert}/acknowledgement"), json!({})).await;
    assert_eq!(
        (&seen["status"], &seen["acknowledged_by"]),
        (&json!("acknowledged"), &json!("system"))
    );
    assert_error(
        app.post(&format!("{alert}/acknowledgement"), json!({})).await,
        409,
        "conflict",
        "",
    );
    app.made(&format!("{alert}/resolution"), json!({"resolution": "seen in hospital"})).await;
    assert_error(
        app.post(&format!("{alert}/resolution"), json!({"resolution": "x"})).await,
        409,
        "conflict",
        "resolved already",
    );
    assert_eq!(told(&app, "open").await, 0);

    // A restricted patient's programme stands still.
    app.made("/chronic-care/consents/1/withdrawal", json!({})).await;
    app.move_clock(400 * DAY);
    swept(&app).await;
    assert_eq!(programme(&app, 1).await["visit"], 4);
}

async fn a_running_programme_keeps_its_version_until_it_is_moved(on: On) {
    let app = App::start(on).await;
    patient(&app).await;
    consent(&app).await;
    let (_, known) = app.get("/chronic-care/templates").await;
    assert_eq!(
        (known["items"].as_array().unwrap().len(), known["shipped"].as_array().unwrap().len()),
        (0, 2)
    );
    let source = known["shipped"][0]["source"].as_str().unwrap().to_owned();
    app.made("/chronic-care/patients/1/programmes", json!({"template": "hypertension"})).await;
    let templates = "/chronic-care/templates";
    assert_error(app.post(templates, json!({"source": source})).await, 409, "conflict", "latest");
    let wrong =
        source.replace("go: two_weeks", "go: two_weaks").replace("form: follow_up\n    due", "due");
    let (_, checked) = app.post(&format!("{templates}/check"), json!({"source": wrong})).await;
    assert!(checked["problems"].as_array().unwrap().len() > 4, "{checked}");
    let (status, refused) = app.post(templates, json!({"source": wrong})).await;
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(status == 400 && message.matches("\nline ").count() > 4, "{message}");
    let changed = source
        .replace("due_after_days: 7\n", "due_after_days: 5\n")
        .replace("step: two_weeks", "step: again")
        .replace("go: two_weeks", "go: again");
    let second = app.made(templates, json!({"source": changed})).await;
    assert_eq!((&second["version"], &second["name"]), (&json!(2), &json!("hypertension")));

    let started = programme(&app, 1).await;
    assert_eq!(started["template_id"], 1);
    let body = json!({"patient_id": 1, "method": "phone", "programme_id": 1, "systolic_mmhg": 150, "diastolic_mmhg": 80});
    app.made("/chronic-care/follow-ups", body).await;
    let at = programme(&app, 1).await;
    assert_eq!((&at["step"], &at["template_id"]), (&json!("two_weeks"), &json!(1)));
    let to = |step: Value, version: &Value| {
        let body = json!({"template_id": second["template_id"], "step": step, "reason": "new norm", "version": version});
        app.post("/chronic-care/programmes/1/move", body)
    };
    assert_error(
        to(Value::Null, &at["version"]).await,
        409,
        "conflict",
        "has no step \"two_weeks\"",
    );
    assert_error(to(json!("again"), &json!(1)).await, 409, "conflict", "read it again");
    let (_, moved) = to(json!("again"), &at["version"]).await;
    assert_eq!((&moved["step"], &moved["template_id"]), (&json!("again"), &second["template_id"]));
    assert_eq!(programme(&app, 1).await["steps"][1]["outcome"], "moved");
    let end = json!({"reason": "moved away", "version": moved["version"]});
    let ended = app.made("/chronic-care/programmes/1/cancellation", end.clone()).await;
    assert_eq!((&ended["state"], &ended["timer_at"]), (&json!("cancelled"), &Value::Null));
    let again = json!({"reason": "x", "version": ended["version"]});
    assert_error(
        app.post("/chronic-care/programmes/1/cancellation", again).await,
        409,
        "conflict",
        "is cancelled",
    );
    let restarted =
        app.made("/chronic-care/patients/1/programmes", json!({"template": "hypertension"})).await;
    assert_eq!(restarted["template_id"], second["template_id"]);
    assert_eq!(restarted["due_at"], START + 5 * DAY);
}

async fn readings_of_devices_are_mended_flagged_and_told_of(on: On) {
    let app = App::start(on).await;
    patient(&app).await;
    consent(&app).await;
    app.made("/chronic-care/patients/1/programmes", json!({"template": "hypertension"})).await;
    let device = json!({"kind": "blood_pressure_monitor", "model": "m", "serial": "s-1", "valid_to": "2026-12-31"});
    let devices = "/chronic-care/devices";
    app.made(devices, device.clone()).await;
    assert_error(app.post(devices, device).await, 409, "conflict", "registered already");
    let upload = |body: Value| app.post("/chronic-care/devices/1/readings", body);
    let reading = |at: i64, systolic: i64, diastolic: i64| json!({"measured_at": at, "systolic_mmhg": systolic, "diastolic_mmhg": diastolic});
    let alone = upload(json!({"readings": [reading(START, 120, 80)]})).await.1;
    assert_eq!(alone["refused"][0]["message"], "nobody had the device when it was measured");
    app.made("/chronic-care/devices/1/assignment", json!({"patient_id": 1})).await;
    assert_error(
        app.post("/chronic-care/devices/1/assignment", json!({"patient_id": 1})).await,
        409,
        "conflict",
        "is with patient 1",
    );
    app.move_clock(2 * DAY);
    let now = START + 2 * DAY;

    // Two hours behind: corrected. Again, by another clock of ours: nothing new.
    let batch = json!({"device_now": now - 2 * HOUR, "readings": [
        reading(now - 3 * HOUR, 132, 84), reading(now - 4 * HOUR, 84, 132), reading(now - 5 * HOUR, 320, 90),
        {"measured_at": now - 6 * HOUR, "systolic_kpa": 16.0, "diastolic_kpa": 10.0},
        {"measured_at": now - 7 * HOUR, "systolic_kpa": 16.0, "systolic_mmhg": 120, "diastolic_mmhg": 80},
        {"measured_at": now - 7 * HOUR, "systolic_mmhg": 120}]});
    let (status, done) = upload(batch.clone()).await;
    assert_eq!(
        (
            status,
            &done["recorded"],
            &done["suspect"],
            &done["duplicates"],
            &done["clock_offset_seconds"]
        ),
        (200, &json!(4), &json!(2), &json!(0), &json!(7200))
    );
    let refused: Vec<i64> = done["refused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["position"].as_i64().unwrap())
        .collect();
    assert_eq!(refused, [4, 5]);
    app.move_clock(MINUTE);
    let again = upload(batch).await.1;
    assert_eq!((&again["recorded"], &again["duplicates"]), (&json!(0), &json!(4)));
    let count = |sql| app.scalar(app.services.chronic_care(), sql);
    assert_eq!(count("select count(*) from reading where systolic_mmhg = 120 and diastolic_mmhg = 75 and quality = 'ok' and flags = 'clock_corrected'").await, 1);
    assert_eq!(
        count("select count(*) from reading where flags = 'clock_corrected,reversed'").await,
        1
    );
    assert_eq!(count("select count(*) from alert where kind = 'device'").await, 1, "two hours off");
    let (_, shown) = app.get("/chronic-care/devices/1").await;
    assert_eq!(shown["clock_offset_seconds"], 7260);

    // Without its clock, what is of the future or of nowhere is of now, and suspect.
    let lost =
        upload(json!({"readings": [reading(now + DAY, 130, 80), reading(5, 131, 81)]})).await.1;
    assert_eq!((&lost["recorded"], &lost["suspect"]), (&json!(2), &json!(2)));
    assert_eq!(
        count("select count(*) from reading where flags in ('clock_ahead', 'clock_lost')").await,
        2
    );

    // The same value entered by hand within a minute is one reading, not two.
    let by_hand = |body: Value| app.post("/chronic-care/readings", body);
    let (_, twice) = by_hand(json!({"patient_id": 1, "kind": "blood_pressure", "systolic_mmhg": 132, "diastolic_mmhg": 84, "measured_at": now - HOUR + 30 * SECOND})).await;
    assert_eq!((&twice["flags"], &twice["quality"]), (&json!("duplicate"), &json!("suspect")));
    assert_error(
        by_hand(json!({"patient_id": 1, "kind": "glucose", "glucose_mg_per_dl": 126, "glucose_umol_per_l": 7000})).await,
        400,
        "invalid",
        "one unit",
    );
    assert_error(
        by_hand(json!({"patient_id": 1, "kind": "glucose", "glucose": 7})).await,
        400,
        "invalid",
        "glucose",
    );
    let (_, sugar) = by_hand(
        json!({"patient_id": 1, "kind": "glucose", "glucose_mg_per_dl": 126.0, "meal": "fasting"}),
    )
    .await;
    assert_eq!((&sugar["glucose_umol_per_l"], &sugar["meal"]), (&json!(6_994), &json!("fasting")));

    // 138/88 is above the threshold of the home (by the mean of seven days) and below that of the office.
    let measure = |setting: &str, systolic: i64| {
        let body = json!({"patient_id": 1, "kind": "blood_pressure", "systolic_mmhg": systolic, "diastolic_mmhg": 88, "setting": setting});
        async {
            app.move_clock(10 * MINUTE);
            by_hand(body).await
        }
    };
    for _ in 0..8 {
        measure("office", 138).await;
    }
    let alarms = "select count(*) from alert where kind = 'reading'";
    assert_eq!(count(alarms).await, 0);
    for _ in 0..8 {
        measure("home", 140).await;
    }
    assert_eq!(count(alarms).await, 1);
    assert_eq!(
        count(
            "select count(*) from alert where rule = 'hypertension/home_above' and occurrences > 1"
        )
        .await,
        1
    );
    measure("office", 141).await;
    measure("home", 185).await;
    assert_eq!(count("select count(*) from alert where rule in ('hypertension/office_above', 'hypertension/home_emergency')").await, 2);

    app.move_clock(60 * DAY);
    swept(&app).await;
    assert_eq!(app.get("/chronic-care/devices/1").await.1["status"], "expired");
    assert_eq!(count("select count(*) from alert where cause = 'device:1:expired'").await, 1);
    let late = upload(json!({"readings": [reading(now + 61 * DAY, 130, 80)]})).await.1;
    assert_eq!(late["suspect"], 1);
    app.made("/chronic-care/devices/1/return", json!({})).await;
    app.made("/chronic-care/devices/1/retirement", json!({})).await;
    assert_error(
        upload(json!({"readings": [reading(now, 1, 1)]})).await,
        409,
        "conflict",
        "retired",
    );
}

async fn slots_are_made_ahead_confirmed_once_and_missed(on: On) {
    let app = App::start(on).await;
    patient(&app).await;
    // START is eight in the morning in Shanghai.
    let plan = app
        .made(
            "/chronic-care/medication-plans",
            json!({"patient_id": 1, "drug_code": "C09AA02", "drug_class": "RASA", "doses_per_day": 2,
                "starts_on": "2026-11-01", "clock_times": ["20:00", "08:00"], "dose_amount": 10, "dose_unit": "mg"}),
        )
        .await;
    assert_eq!(plan["clock_times"], "08:00,20:00");
    let count = |sql| app.scalar(app.services.chronic_care(), sql);
    assert_eq!(count("select count(*) from reminder_slot where status = 'due'").await, 14);
    let confirm = |at: Option<i64>| {
        app.post("/chronic-care/medication-plans/1/confirmations", json!({"taken_at": at}))
    };
    let change = |kind: &str, at: Option<i64>, version: i64, more: Value| {
        let mut body = json!({"kind": kind, "effective_at": at, "reason": "r", "version": version});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        app.post("/chronic-care/medication-plans/1/changes", body)
    };
    app.move_clock(30 * MINUTE);
    swept(&app).await;
    assert_eq!(count("select count(*) from reminder_slot where reminded_at is not null").await, 1);
    let (_, taken) = confirm(None).await;
    assert_eq!((&taken["status"], &taken["scheduled_at"]), (&json!("taken"), &json!(START)));
    app.move_clock(MINUTE);
    assert_eq!(confirm(None).await.1, taken, "the second one changes nothing");
    app.move_clock(5 * HOUR);
    assert_error(confirm(Some(START + 5 * HOUR)).await, 409, "conflict", "within four hours");

    // The evening's dose is missed, and turns out the next day to have been taken late.
    app.move_clock(20 * HOUR - 31 * MINUTE - 5 * HOUR);
    swept(&app).await;
    let missed = "select count(*) from dose_event where status = 'missed'";
    assert_eq!(count(missed).await, 1);
    let (_, late) = confirm(Some(START + 14 * HOUR)).await;
    assert_eq!(
        (&late["status"], &late["scheduled_at"]),
        (&json!("late"), &json!(START + 12 * HOUR))
    );
    assert_eq!((count(missed).await, count("select count(*) from dose_event").await), (0, 2));

    // Three days nobody says a word: missed, and told of once.
    app.move_clock(3 * DAY);
    swept(&app).await;
    let before = count(missed).await;
    assert!(before >= 5, "{before}");
    assert_eq!(count("select count(*) from alert where kind = 'doses'").await, 1);
    // The patient was in hospital for the last two: none was due.
    let now = START + 20 * HOUR + 3 * DAY;
    assert_error(change("resumed", None, 1, json!({})).await, 409, "conflict", "cannot be resumed");
    assert_error(
        change("hospital", Some(now - 2 * DAY), 9, json!({})).await,
        409,
        "conflict",
        "read it again",
    );
    assert_error(
        change("hospital", None, 1, json!({"doses_per_day": 1})).await,
        400,
        "invalid",
        "kind changed",
    );
    let (_, away) = change("hospital", Some(now - 2 * DAY), 1, json!({})).await;
    assert_eq!((&away["status"], &away["version"]), (&json!("hospital"), &json!(2)));
    assert_eq!(count(missed).await, before - 4);
    assert_eq!(count("select count(*) from reminder_slot where status = 'due'").await, 0);
    assert_error(confirm(None).await, 409, "conflict", "within four hours");
    app.move_clock(3 * DAY);
    swept(&app).await;
    assert_eq!(count(missed).await, before - 4);
    change("resumed", None, 2, json!({})).await;
    assert_eq!(count("select count(*) from reminder_slot where status = 'due'").await, 14);
    let (_, once) = change(
        "changed",
        None,
        3,
        json!({"doses_per_day": 1, "clock_times": ["08:00"], "dose_amount": 20, "dose_unit": "mg"}),
    )
    .await;
    assert_eq!((&once["doses_per_day"], &once["clock_times"]), (&json!(1), &json!("08:00")));
    assert_eq!(
        count("select count(*) from reminder_slot where status = 'due' and dose_amount = 20").await,
        7
    );
    app.move_clock(2 * DAY);
    swept(&app).await;
    assert_eq!(
        count("select count(*) from reminder_slot where status = 'due' and dose_amount = 20").await,
        7,
        "made ahead"
    );
    change("stopped", None, 4, json!({})).await;
    assert_eq!(count("select count(*) from reminder_slot where status = 'due'").await, 0);
    assert_error(change("resumed", None, 5, json!({})).await, 409, "conflict", "cannot be resumed");
    let (_, history) = app.get("/chronic-care/medication-plans/1/changes").await;
    let kinds: Vec<&Value> =
        history["items"].as_array().unwrap().iter().map(|c| &c["kind"]).collect();
    assert_eq!(kinds, ["started", "hospital", "resumed", "changed", "stopped"]);
    // No slot has two doses, whoever writes it.
    let mut tx = app.services.chronic_care().begin(START).await.unwrap();
    assert!(!run(&mut tx, "insert into dose_event (dose_event_id, tenant_id, plan_id, patient_id, scheduled_at, status, recorded_at)
        select 99, tenant_id, plan_id, patient_id, scheduled_at, 'missed', recorded_at from dose_event limit 1").await);
    let (_, page) =
        app.get(&format!("/chronic-care/medication-plans/1/slots?after={START}&limit=2")).await;
    assert_eq!(page["items"][0]["scheduled_at"], START + 12 * HOUR);
}
