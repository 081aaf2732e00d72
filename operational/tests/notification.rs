//! Notifications: told once, by each channel until it arrives, and not while people want quiet.

use std::sync::Arc;

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use medlake_operational::{AlertRaised, Options};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{App, On, SECOND, assert_error};

on_both! {
    a_webhook_hears_of_it_until_it_answers_well,
    nobody_is_told_twice_or_while_they_want_quiet,
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
    assert_eq!(time, ((crate::START + 90 * SECOND) / SECOND).to_string());
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
        raised_at: crate::START,
        parameters: parameters.into(),
    };
    // The same alert raised twice is told of once: to the person and to the staff.
    for _ in 0..2 {
        let payload = serde_json::to_string(&alert).unwrap();
        let mut tx = app.services.chronic_care().begin(crate::START).await.unwrap();
        let insert = format!(
            "insert into outbox (consumer, event_type, tenant_id, aggregate_key, payload, created_at)
             values ('notification', 'alert_raised', 1, 'patient:3', '{payload}', {})",
            if on == On::Sqlite { crate::START.to_string() } else { "now(6)".to_owned() }
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
