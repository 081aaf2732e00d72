//! Notifications: told once, by each channel until it arrives, and not while people want quiet.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use medlake_operational::{AlertRaised, Options};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{App, On, SECOND, START, assert_error};

on_both! {
    a_webhook_hears_of_it_until_it_answers_well,
    nobody_is_told_twice_or_while_they_want_quiet,
    what_care_and_the_programme_tell_arrives_in_words,
}

/// An address that takes note of what it is told, and answers as it is told to.
#[derive(Clone, Default)]
pub(crate) struct Receiver {
    pub(crate) heard: Arc<Mutex<Vec<(HeaderMap, String)>>>,
    answers: Arc<Mutex<Vec<u16>>>,
}

impl Receiver {
    pub(crate) async fn start(&self) -> (String, tokio::task::JoinSet<()>) {
        async fn hear(
            State(this): State<Receiver>,
            headers: HeaderMap,
            body: Bytes,
        ) -> axum::http::StatusCode {
            let text = String::from_utf8(body.to_vec()).unwrap();
            this.heard.lock().await.push((headers, text));
            let status = this.answers.lock().await.pop().unwrap_or(200);
            status.try_into().unwrap()
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().route("/hook", post(hear)).with_state(self.clone());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        (address, tasks)
    }
}

/// Checks a request's signature over its time and its body, as a receiver does; gives the time.
pub(crate) fn is_signed((headers, body): &(HeaderMap, String), secret: &str) -> String {
    let signature = headers["medlake-signature"].to_str().unwrap();
    let (time, tag) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let key = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, secret).unwrap();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
    let tag: Vec<u8> =
        (0..64).step_by(2).map(|at| u8::from_str_radix(&tag[at..at + 2], 16).unwrap()).collect();
    aws_lc_rs::hmac::verify(&key, format!("{time}.{body}").as_bytes(), &tag).unwrap();
    time.to_owned()
}

async fn deliveries(app: &App, id: i64) -> Vec<Value> {
    let (_, told) = app.get(&format!("/notifications/{id}")).await;
    told["deliveries"].as_array().unwrap().clone()
}

async fn a_webhook_hears_of_it_until_it_answers_well(on: On) {
    let app = App::start(on).await;
    let wanted = json!({"url": "http://127.0.0.1:9/hook"});
    assert_error(app.post("/notifications/webhooks", wanted).await, 400, "invalid", "https");
    let mut app = app;
    app.reopen().await;
    app.services.use_options(Options { private_webhooks: true, ..Options::default() });
    let receiver = Receiver::default();
    let (address, _tasks) = receiver.start().await;
    let hook = app.made("/notifications/webhooks", json!({"url": address})).await;
    let dump = app.dump(app.services.support()).await.join("\n");
    assert!(!dump.contains(hook["secret"].as_str().unwrap()), "kept in the clear");

    *receiver.answers.lock().await = vec![200, 503, 500];
    let new = json!({"request_key": "k", "person_id": 7, "template": "order_shipped",
        "parameters": {"order_id": "17"}});
    let told = app.made("/notifications", new).await;
    assert_eq!(told["body"], "您的订单 17 已发货。");
    let id = told["notification_id"].as_i64().unwrap();
    app.services.run_due().await.unwrap();
    let after = deliveries(&app, id).await;
    assert_eq!((&after[0]["channel"], &after[0]["state"]), (&json!("log"), &json!("delivered")));
    assert_eq!((&after[1]["state"], &after[1]["attempts"]), (&json!("pending"), &json!(1)));
    assert!(after[1]["error"].as_str().unwrap().contains("500"), "{after:?}");
    // Not before its time, and then twice as long after.
    app.move_clock(29 * SECOND);
    app.services.run_due().await.unwrap();
    assert_eq!(receiver.heard.lock().await.len(), 1);
    app.move_clock(SECOND);
    app.services.run_due().await.unwrap();
    app.move_clock(60 * SECOND);
    app.services.run_due().await.unwrap();
    let after = deliveries(&app, id).await;
    assert_eq!((&after[1]["state"], &after[1]["attempts"]), (&json!("delivered"), &json!(3)));

    let heard = receiver.heard.lock().await;
    assert_eq!(heard.len(), 3);
    let (headers, body) = &heard[2];
    let known = headers["medlake-delivery"].to_str().unwrap();
    assert_eq!(known, after[1]["delivery_id"].to_string());
    let said: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&said["person_id"], &said["template"]), (&json!(7), &json!("order_shipped")));
    let time = is_signed(&heard[2], hook["secret"].as_str().unwrap());
    assert_eq!(time, ((START + 90 * SECOND) / SECOND).to_string());
    drop(heard);

    // What is refused for good is given up, and tried again when somebody says so.
    *receiver.answers.lock().await = vec![200, 410];
    let new = json!({"request_key": "k2", "template": "stock_low", "parameters": {"sku": "x"}});
    let told = app.made("/notifications", new).await;
    assert_eq!((&told["title"], &told["body"]), (&json!("stock_low"), &json!("sku: x")));
    app.services.run_due().await.unwrap();
    let id = told["notification_id"].as_i64().unwrap();
    let after = deliveries(&app, id).await;
    assert_eq!(after[1]["state"], "failed");
    let retry = format!("/notifications/deliveries/{}/retry", after[1]["delivery_id"]);
    app.made(&retry, json!({})).await;
    app.services.run_due().await.unwrap();
    assert_eq!(deliveries(&app, id).await[1]["state"], "delivered");
    assert_error(app.post(&retry, json!({})).await, 409, "conflict", "was not given up");
}

async fn nobody_is_told_twice_or_while_they_want_quiet(on: On) {
    let app = App::start(on).await;
    let path = "/notifications/preferences/7";
    // It is eight in the morning in Shanghai.
    let quiet = json!({"version": 0, "channels": ["log"], "muted": ["order_shipped"],
        "quiet_from_minute": 1320, "quiet_to_minute": 540});
    assert_eq!(app.put(path, quiet.clone()).await.0, 200);
    assert_error(app.put(path, quiet).await, 409, "conflict", "at version 1, not 0");
    let alone = json!({"version": 1, "channels": [], "quiet_from_minute": 5});
    assert_error(app.put(path, alone).await, 400, "invalid", "go together");

    let written =
        json!({"version": 0, "title": "血压 {{value}}", "body": "{{subject}}: {{value}}"});
    assert_eq!(app.put("/notifications/templates/reading_high", written).await.0, 200);
    let parameters = [("value".to_owned(), "182/101".to_owned())];
    let alert = AlertRaised {
        tenant_id: 1,
        alert_key: "alert:1".into(),
        kind: "reading_high".into(),
        subject: "patient:3".into(),
        person_id: Some(7),
        raised_at: START,
        parameters: parameters.into(),
    };
    // The same alert raised twice is told of once: to the person and to the staff.
    for _ in 0..2 {
        let payload = serde_json::to_string(&alert).unwrap();
        let mut tx = app.services.chronic_care().begin(START).await.unwrap();
        let insert = format!(
            "insert into outbox (consumer, event_type, tenant_id, aggregate_key, payload, created_at)
             values ('notification', 'alert_raised', 1, 'patient:3', '{payload}', {})",
            if on == On::Sqlite { START.to_string() } else { "now(6)".to_owned() }
        );
        assert!(crate::run(&mut tx, &insert).await);
        tx.commit().await.unwrap();
        app.services.deliver_outbox().await.unwrap();
    }
    let (_, told) = app.get("/notifications").await;
    let told = told["items"].as_array().unwrap();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!((&told[0]["person_id"], &told[0]["title"]), (&json!(7), &json!("血压 182/101")));
    assert_eq!(
        (&told[1]["person_id"], &told[1]["body"]),
        (&json!(null), &json!("patient:3: 182/101"))
    );
    app.services.run_due().await.unwrap();
    assert_eq!(deliveries(&app, 1).await[0]["state"], "pending", "they want quiet until nine");
    assert_eq!(deliveries(&app, 2).await[0]["state"], "delivered");
    app.move_clock(3600 * SECOND);
    app.services.run_due().await.unwrap();
    assert_eq!(deliveries(&app, 1).await[0]["state"], "delivered");

    let shipped = json!({"request_key": "s", "person_id": 7, "template": "order_shipped",
        "parameters": {"order_id": "1"}});
    let muted = app.made("/notifications", shipped.clone()).await;
    assert_eq!(app.made("/notifications", shipped).await, muted);
    assert!(deliveries(&app, muted["notification_id"].as_i64().unwrap()).await.is_empty());
    let missing = json!({"request_key": "m", "template": "reading_high"});
    assert_error(app.post("/notifications", missing).await, 400, "invalid", "\"value\"");
}

/// A patient under care who takes medicine, and whom nobody visits; another one who is badly off; and a tree
/// of distributors that grows too far.
async fn something_of_everything(app: &App) {
    let patient = |person: i64| {
        json!({"person_id": person, "name": "顾客", "sex": "female", "birth_date": "1971-11-22",
            "condition": "hypertension"})
    };
    for (person, id) in [(7, 1), (8, 2)] {
        app.made("/chronic-care/patients", patient(person)).await;
        let of = |rest: &str| format!("/chronic-care/patients/{id}/{rest}");
        let text = json!({"purpose": "care", "sensitive_data": true, "text_version": "care-1"});
        app.made(&of("consents"), text).await;
        app.made(&of("programmes"), json!({"template": "hypertension"})).await;
    }
    let plan = json!({"patient_id": 1, "drug_code": "C08CA01", "drug_class": "C08C",
        "doses_per_day": 1, "starts_on": "2026-11-21", "clock_times": ["08:30"]});
    app.made("/chronic-care/medication-plans", plan).await;
    let device = json!({"kind": "blood_pressure_monitor", "model": "m", "serial": "1",
        "valid_to": "2026-11-25"});
    app.made("/chronic-care/devices", device).await;
    let visit = json!({"patient_id": 2, "method": "visit", "programme_id": 2,
        "systolic_mmhg": 185, "diastolic_mmhg": 84, "answers": {}});
    app.made("/chronic-care/follow-ups", visit).await;
    let reading = json!({"patient_id": 2, "kind": "blood_pressure", "systolic_mmhg": 191,
        "diastolic_mmhg": 121});
    app.made("/chronic-care/readings", reading).await;
    let mut parent = None;
    for person in 1..=31 {
        let application = json!({"person_id": 1_000 + person, "parent_id": parent, "kind": "person", "name": "n"});
        let made = app.made("/distribution/applications", application).await;
        let id = made["distributor_id"].as_i64().unwrap();
        app.made(&format!("/distribution/distributors/{id}/approve"), json!({})).await;
        // A chain of four, and then many below the first.
        parent = Some(if id < 4 { id } else { 1 });
    }
}

async fn what_care_and_the_programme_tell_arrives_in_words(on: On) {
    let app = App::start(on).await;
    app.services.use_options(Options { private_webhooks: true, ..Options::default() });
    let receiver = Receiver::default();
    let (address, _tasks) = receiver.start().await;
    let hook = app.made("/notifications/webhooks", json!({"url": address})).await;
    something_of_everything(&app).await;
    // Half an hour before noon each time, so that each dose is told of and then missed.
    for hours in std::iter::once(1).chain([12; 34]).chain([24 * 10; 9]) {
        app.move_clock(hours * 3600 * SECOND);
        app.services.run_due().await.unwrap();
        app.services.deliver_outbox().await.unwrap();
    }
    app.services.run_due().await.unwrap();

    let (_, refused) = app.get("/outbox/messages?service=chronic_care&refused=true").await;
    assert_eq!(refused["items"], json!([]), "a template wants what is not given");
    let mut said: BTreeMap<String, (String, String)> = BTreeMap::new();
    let mut told = Vec::new();
    loop {
        let after = told.last().map_or(0, |n: &Value| n["notification_id"].as_i64().unwrap());
        let path = format!("/notifications?after_id={after}&limit=100");
        let items = app.get(&path).await.1["items"].as_array().unwrap().clone();
        if items.is_empty() {
            break;
        }
        told.extend(items);
    }
    for one in &told {
        let text = |field: &str| one[field].as_str().unwrap().to_owned();
        said.insert(text("template"), (text("title"), text("body")));
    }
    let names: Vec<&str> = said.keys().map(String::as_str).collect();
    let expected = [
        "care_device",
        "care_doses",
        "care_lost",
        "care_overdue",
        "care_overdue_reminder",
        "care_reading",
        "care_reminder",
        "care_step",
        "medication_reminder",
        "tree_depth",
        "tree_people",
    ];
    assert_eq!(names, expected, "{said:#?}");
    let body = |name: &str| said[name].1.as_str();
    assert_eq!(body("medication_reminder"), "现在是 08:30 的服药时间，服药后请确认。");
    assert_eq!(body("tree_depth"), "distributor:1 的分销关系已达 3 层，共 3 人，请核查。");
    assert!(body("care_lost").starts_with("patient:2：转诊后两周随访"), "{said:?}");
    for (title, body) in said.values() {
        assert!(!title.contains("{{") && !body.contains("{{"), "{title}: {body}");
    }

    // Each went by each channel, and the staff's are for nobody in particular.
    let undelivered = "select count(*) from notification_delivery where state <> 'delivered'";
    assert_eq!(app.scalar(app.services.support(), undelivered).await, 0);
    let heard = receiver.heard.lock().await;
    assert_eq!(heard.len(), told.len());
    for request in heard.iter() {
        is_signed(request, hook["secret"].as_str().unwrap());
        let sent: Value = serde_json::from_str(&request.1).unwrap();
        let same = told.iter().find(|t| t["notification_id"] == sent["notification_id"]).unwrap();
        assert_eq!((&sent["title"], &sent["body"]), (&same["title"], &same["body"]));
        let to_patient = sent["template"].as_str().unwrap().ends_with("reminder");
        assert_eq!(sent["person_id"].is_i64(), to_patient, "{sent}");
    }
    drop(heard);

    // A tenant's own words may only name what is given.
    let path = "/notifications/templates/medication_reminder";
    let wrong = json!({"version": 0, "title": "用药", "body": "{{drug}}"});
    assert_error(app.put(path, wrong).await, 400, "invalid", "scheduled_at");
    let own = json!({"version": 0, "title": "用药", "body": "{{ scheduled_at }}"});
    assert_eq!(app.put(path, own).await.0, 200);
}
