//! `kill -9` while notifications are delivered: each request for one arrives at the tenant's address, signed,
//! and what comes more than once comes under the same number.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    platform::{self, Platform, Ports},
    servers::{DatabaseServer, Kind},
};

const KILLS: usize = 3;
/// Deliveries that a process has on their way at a time.
const AT_A_TIME: usize = 16;
/// Deliveries heard of between two kills.
const HEARD: usize = 40;
/// Patients whose readings raise alarms.
const PATIENTS: u64 = 30;
/// What a delivery is left to a process that was killed, and the first wait after a failure: half a minute
/// each. Everything is there soon after.
const PATIENCE: Duration = Duration::from_secs(120);

/// A request as it was heard.
struct Heard {
    delivery: String,
    signature: String,
    body: String,
    /// Whether it was answered well.
    taken: bool,
}

/// An address that hears, and now and then fails the first time.
async fn receiver() -> (Arc<Mutex<Vec<Heard>>>, String, tokio::task::JoinSet<()>) {
    let all: Arc<Mutex<Vec<Heard>>> = Arc::default();
    let heard = Arc::clone(&all);
    let hear = async move |headers: HeaderMap, body: Bytes| {
        // As slow as some are, so that a kill finds requests on their way.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        let delivery = text("medlake-delivery");
        let mut heard = heard.lock().unwrap();
        let first = !heard.iter().any(|heard| heard.delivery == delivery);
        let taken = !(first && heard.len() % 10 == 7);
        let signature = text("medlake-signature");
        let body = String::from_utf8(body.to_vec()).unwrap();
        heard.push(Heard { delivery, signature, body, taken });
        if taken { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    };
    let router = Router::new().route("/hook", post(hear));
    let listening = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/hook", listening.local_addr().unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { axum::serve(listening, router).await.unwrap() });
    (all, address, tasks)
}

/// HMAC-SHA-256 of the time and the body, as OpenSSL has it.
fn tag(secret: &[u8], time: &str, body: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let signed = folder.path().join("signed");
    std::fs::write(&signed, format!("{time}.{body}")).unwrap();
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let output = Command::new("openssl")
        .args(["dgst", "-sha256", "-mac", "HMAC", "-macopt", &format!("hexkey:{hex}"), "-r"])
        .arg(signed)
        .output()
        .expect("openssl is installed (make parts)");
    let said = String::from_utf8(output.stdout).unwrap();
    said.split_whitespace().next().unwrap().to_owned()
}

/// Asks for notifications and measures patients until it is enough, each request again under its key until
/// it is answered. Gives how many of both were answered.
async fn ask(services: String, done: Arc<AtomicBool>) -> (u64, u64) {
    let client = reqwest::Client::new();
    let post = async |path: String, key: String, body: Value| loop {
        let request = client.post(format!("{services}{path}"));
        let request = request.header("Idempotency-Key", &key).json(&body);
        if let Ok(answer) = request.send().await {
            let status = answer.status();
            assert!(status.is_success() || status == 503, "{path}: {status}");
            if let Ok(answer) = answer.json::<Value>().await
                && status.is_success()
            {
                return answer;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let (mut asked, mut alarms) = (0, 0);
    while !done.load(Ordering::SeqCst) {
        asked += 1;
        let new = json!({"request_key": format!("request:{asked}"), "template": "order_shipped",
            "parameters": {"order_id": asked.to_string()}});
        post("/notifications".to_owned(), format!("n{asked}"), new).await;
        if asked % 4 == 0 && alarms < PATIENTS {
            alarms += 1;
            let patient = json!({"person_id": alarms, "name": "顾客", "sex": "female",
                "birth_date": "1971-11-22", "condition": "hypertension"});
            let path = "/chronic-care/patients".to_owned();
            let patient = post(path, format!("p{alarms}"), patient).await;
            let of_patient =
                |rest: &str| format!("/chronic-care/patients/{}/{rest}", patient["patient_id"]);
            let consent =
                json!({"purpose": "care", "sensitive_data": true, "text_version": "care-1"});
            post(of_patient("consents"), format!("c{alarms}"), consent).await;
            let programme = json!({"template": "hypertension"});
            post(of_patient("programmes"), format!("t{alarms}"), programme).await;
            let reading = json!({"patient_id": patient["patient_id"], "kind": "blood_pressure",
                "systolic_mmhg": 191, "diastolic_mmhg": 121});
            post("/chronic-care/readings".to_owned(), format!("r{alarms}"), reading).await;
        }
    }
    (asked, alarms)
}

async fn killed(settings: &[(String, String)]) {
    let dir = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let private = ("MEDLAKE__OPERATIONAL__PRIVATE_WEBHOOKS".to_owned(), "true".to_owned());
    let settings: Vec<_> = settings.iter().cloned().chain([private]).collect();
    let start = async || {
        let mut platform = Platform::launch(dir.path(), ports, &["--no-simulate"], &settings);
        platform.wait_until_healthy().await;
        platform
    };
    let mut platform = start().await;
    let (heard, address, _tasks) = receiver().await;
    let hook = platform.call("/notifications/webhooks", json!({"url": address})).await;
    let secret = STANDARD.decode(hook["secret"].as_str().unwrap()).unwrap();

    let done = Arc::new(AtomicBool::new(false));
    let mut asking = tokio::task::JoinSet::new();
    asking.spawn(ask(platform.services.clone(), Arc::clone(&done)));
    for kill in 1..=KILLS {
        while heard.lock().unwrap().len() < kill * HEARD {
            assert_eq!(platform.ended(), None, "{}", platform.log());
            assert!(asking.try_join_next().is_none(), "nobody stops asking by itself");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        platform.kill();
        platform = start().await;
    }
    done.store(true, Ordering::SeqCst);
    let (asked, alarms) = asking.join_next().await.unwrap().unwrap();

    // All of it arrives, what was on its way when the process was killed and what failed at first too.
    let wanted = usize::try_from(asked + alarms).unwrap();
    let arrived = || {
        let heard = heard.lock().unwrap();
        heard
            .iter()
            .filter(|one| one.taken)
            .map(|one| one.delivery.clone())
            .collect::<BTreeSet<_>>()
    };
    let end = Instant::now() + PATIENCE;
    while arrived().len() < wanted {
        let so_far = arrived().len();
        assert!(Instant::now() < end, "{so_far} of {wanted} arrived:\n{}", platform.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let readiness = reqwest::get(format!("{}/readyz", platform.services)).await.unwrap();
    let readiness: Value = readiness.json().await.unwrap();
    let waits = readiness["outbox"].as_array().unwrap();
    assert!(waits.iter().all(|w| w["pending"] == 0 && w["refused"] == 0), "{readiness}");
    assert!(platform.stop().success());

    let heard = heard.lock().unwrap();
    let mut numbers: BTreeMap<i64, BTreeSet<&str>> = BTreeMap::new();
    let mut of_templates: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for (at, one) in heard.iter().enumerate() {
        let said: Value = serde_json::from_str(&one.body).unwrap();
        assert_eq!(said["delivery_id"].to_string(), one.delivery);
        let notification = said["notification_id"].as_i64().unwrap();
        numbers.entry(notification).or_default().insert(&one.delivery);
        let template = said["template"].as_str().unwrap().to_owned();
        of_templates.entry(template).or_default().insert(notification);
        // A process a tag: some are enough.
        if at % 20 == 0 {
            let (time, signed) =
                one.signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
            assert_eq!(tag(&secret, time, &one.body), signed);
            assert_ne!(tag(&[0; 32], time, &one.body), signed);
        }
    }
    assert!(numbers.values().all(|ids| ids.len() == 1), "told again under another number");
    let counts: Vec<(&str, usize)> =
        of_templates.iter().map(|(name, ids)| (name.as_str(), ids.len())).collect();
    let [asked, alarms] = [asked, alarms].map(|count| usize::try_from(count).unwrap());
    assert_eq!(counts, [("care_reading", alarms), ("order_shipped", asked)]);
    assert!(heard.iter().any(|one| !one.taken), "nothing had to be told again");
    // What was answered well comes again only when a kill was faster than the note of it.
    let mut taken: Vec<&str> =
        heard.iter().filter(|one| one.taken).map(|one| one.delivery.as_str()).collect();
    let count = taken.len();
    taken.sort_unstable();
    taken.dedup();
    assert!(count - taken.len() <= KILLS * AT_A_TIME, "{count} times for {}", taken.len());
}

#[tokio::test]
async fn notifications_in_files_survive_a_kill() {
    let _alone = platform::alone().await;
    killed(&[]).await;
}

#[tokio::test]
async fn notifications_on_a_server_survive_a_kill() {
    let _alone = platform::alone().await;
    let binlog = ["--log-bin=bin", "--server-id=1", "--binlog-format=row"];
    let more = [&binlog[..], &["--binlog-row-metadata=full"]].concat();
    let server = DatabaseServer::start_with(Kind::MariaDb, &more).await;
    let url = server.url_of(server.port, "").trim_end_matches('/').to_owned();
    let keys = tempfile::tempdir().unwrap();
    killed(&platform::on_server(url, keys.path())).await;
}
