//! The services behind tokens, from the outside: the real binary, its subcommands, a browser that signs in,
//! programs, customers, and signatures that another program checks.

use std::{
    collections::HashMap,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Router, http::HeaderMap, routing::post};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, RequestBuilder, StatusCode, header, redirect};
use serde_json::{Value, json};

use crate::platform::{self, Platform, Ports};

const CALLBACK: &str = "http://127.0.0.1:9/callback";
const PASSWORD: &str = "three pools and a moon";
/// RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// What the app may do for whoever signs in with it, as far as they may.
const MAY: &str = "own operate identity.read mall.read mall.write care.read care.write \
     notifications.write";

/// Somebody who asks the services over HTTP, and keeps cookies.
struct Browser {
    services: String,
    client: reqwest::Client,
    cookies: HashMap<String, String>,
}

fn form(pairs: &[(&str, &str)]) -> String {
    let mut url = reqwest::Url::parse("http://x/").unwrap();
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap().to_owned()
}

impl Browser {
    fn new(services: &str) -> Self {
        let client = reqwest::Client::builder().redirect(redirect::Policy::none());
        let client = client.build().unwrap();
        Self { services: services.to_owned(), client, cookies: HashMap::new() }
    }

    async fn ask(&mut self, request: RequestBuilder) -> (StatusCode, Option<String>, String) {
        let cookies: Vec<_> = self.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let answer = request.header(header::COOKIE, cookies.join("; ")).send().await.unwrap();
        for cookie in answer.headers().get_all(header::SET_COOKIE) {
            let (name, rest) = cookie.to_str().unwrap().split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        let to = answer.headers().get(header::LOCATION).map(|to| to.to_str().unwrap().to_owned());
        (answer.status(), to, answer.text().await.unwrap())
    }

    /// Follows the pages of a sign-in, choosing a password where one has to be chosen. Gives tokens.
    async fn sign_in(&mut self, client_id: &str, login: &str, password: &str) -> Value {
        let scope = format!("openid {MAY}");
        let asked = [
            ("client_id", client_id),
            ("redirect_uri", CALLBACK),
            ("response_type", "code"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
            ("state", "s"),
            ("scope", &scope),
        ];
        let address = format!("{}/oauth2/authorize?{}", self.services, form(&asked));
        let (status, _, mut page) = self.ask(self.client.get(address)).await;
        assert_eq!(status, 200, "{page}");
        let mut entered = vec![("login", login), ("password", password)];
        let to = loop {
            let hidden: Vec<(String, String)> = page
                .split("<input type=\"hidden\" name=\"")
                .skip(1)
                .map(|field| {
                    let (name, rest) = field.split_once("\" value=\"").unwrap();
                    (name.to_owned(), rest.split('"').next().unwrap().replace("&amp;", "&"))
                })
                .collect();
            let mut all: Vec<_> = hidden.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            all.extend(&entered);
            let request = self
                .client
                .post(format!("{}/oauth2/login", self.services))
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .header(header::ORIGIN, &self.services)
                .body(form(&all));
            let (status, to, next) = self.ask(request).await;
            if let Some(to) = to {
                break to;
            }
            assert!(status == 403 && next.contains("name=\"new_password\""), "{status} {next}");
            assert_eq!(entered.len(), 2, "the password that was chosen is refused: {next}");
            entered.push(("new_password", PASSWORD));
            page = next;
        };
        assert!(to.starts_with(CALLBACK), "{to}");
        let to = reqwest::Url::parse(&to).unwrap();
        let back: HashMap<_, _> = to.query_pairs().into_owned().collect();
        assert_eq!((back["state"].as_str(), &back["iss"]), ("s", &self.services));
        let exchanged = [
            ("grant_type", "authorization_code"),
            ("client_id", client_id),
            ("code", back["code"].as_str()),
            ("redirect_uri", CALLBACK),
            ("code_verifier", VERIFIER),
        ];
        let (status, tokens) = self.token(&exchanged).await;
        assert_eq!(status, 200, "{tokens}");
        tokens
    }

    async fn token(&self, asked: &[(&str, &str)]) -> (StatusCode, Value) {
        let request = self
            .client
            .post(format!("{}/oauth2/token", self.services))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form(asked));
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    /// The answer to a request with a token.
    async fn with(&self, token: &Value, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.services))
            .bearer_auth(token.as_str().unwrap());
        if !body.is_null() {
            let trace = format!("00-{TRACE}-b7ad6b7169203331-01");
            request = request.header("traceparent", trace).json(body);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn get(&self, token: &Value, path: &str) -> (u16, Value) {
        self.with(token, Method::GET, path, &Value::Null).await
    }

    async fn made(&self, token: &Value, path: &str, body: Value) -> Value {
        let (status, answer) = self.with(token, Method::POST, path, &body).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }
}

/// Whether OpenSSL says that a JWT is signed by a key of a published set: nothing of ours looks at it.
fn is_signed(jwks: &Value, token: &str) -> bool {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let decoded = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let head: Value = serde_json::from_slice(&decoded(signed.split('.').next().unwrap())).unwrap();
    assert_eq!(head["alg"], "ES256", "{head}");
    let keys = jwks["keys"].as_array().unwrap();
    let key = keys.iter().find(|key| key["kid"] == head["kid"]).expect("the key is published");
    assert_eq!((&key["kty"], &key["crv"]), (&json!("EC"), &json!("P-256")));
    // SubjectPublicKeyInfo of a point of P-256 (RFC 5480), and ECDSA-Sig-Value of r and s (RFC 3279).
    let mut public = vec![
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
        0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
    ];
    public.extend(decoded(key["x"].as_str().unwrap()));
    public.extend(decoded(key["y"].as_str().unwrap()));
    let integer = |bytes: &[u8]| {
        let bytes: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
        let positive = bytes.first().is_none_or(|first| first & 0x80 != 0);
        let mut out = vec![0x02, (bytes.len() + usize::from(positive)).try_into().unwrap()];
        out.extend(positive.then_some(0));
        out.extend(bytes);
        out
    };
    let raw = decoded(signature);
    let (r, s) = raw.split_at(32);
    let both = [integer(r), integer(s)].concat();
    let der = [&[0x30, u8::try_from(both.len()).unwrap()], both.as_slice()].concat();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    Command::new("openssl")
        .args(["dgst", "-sha256", "-keyform", "DER", "-verify"])
        .arg(file("key.der", &public))
        .arg("-signature")
        .arg(file("signature.der", &der))
        .arg(file("signed", signed.as_bytes()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("openssl is installed (make parts)")
        .success()
}

fn claims(token: &Value) -> Value {
    let part = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// The word after a word in what a command says.
fn after<'a>(said: &'a str, word: &str) -> &'a str {
    let rest = said.split_once(word).unwrap_or_else(|| panic!("no {word} in {said}")).1;
    rest.split_whitespace().next().unwrap()
}

async fn wait_for<T>(what: &str, platform: &Platform, check: impl AsyncFn() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(90);
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < end, "{what}:\n{}", platform.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn behind_tokens_everybody_gets_at_what_is_theirs() {
    let _alone = platform::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let own = |key: &str, value: &str| (format!("MEDLAKE__{key}"), value.to_owned());
    let settings = [
        own("OPERATIONAL__ACCESS", "tokens"),
        own("OPERATIONAL__PRIVATE_WEBHOOKS", "true"),
        own("SIMULATE__HISTORY_DAYS", "0"),
        own("SIMULATE__PEOPLE", "100"),
    ];
    let mut platform = Platform::launch(dir.path(), ports, &["--rate", "20"], &settings);
    platform.wait_until_healthy().await;
    let services = platform.services.clone();
    let mut browser = Browser::new(&services);

    // How it is, is for whoever watches; what it has is not.
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json"] {
        let answer = reqwest::get(format!("{services}{path}")).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
    assert_eq!(reqwest::get(format!("{services}/mall/orders")).await.unwrap().status(), 401);
    let discovered = reqwest::get(format!("{services}/.well-known/openid-configuration")).await;
    let discovered: Value = discovered.unwrap().json().await.unwrap();
    assert_eq!(discovered["token_endpoint"], format!("{services}/oauth2/token"));

    // Beside the running process: another administrator, an app and a program.
    let command = |arguments: &[&str]| {
        let (well, said) = platform::said(dir.path(), arguments);
        assert!(well, "{said}");
        said
    };
    let admin = command(&["identity", "create-admin", "--login", "head-of-pharmacy"]);
    let (well, said) =
        platform::said(dir.path(), &["identity", "create-admin", "--login", "admin"]);
    assert!(!well && said.contains("the login is taken"), "{said}");
    let app = command(&[
        "identity",
        "create-client",
        "--name",
        "app",
        "--public",
        "--redirect-uri",
        CALLBACK,
        "--permissions",
        MAY,
    ]);
    let reports =
        command(&["identity", "create-client", "--name", "reports", "--permissions", "mall.read"]);
    let (well, said) = platform::said(
        dir.path(),
        &["identity", "create-client", "--name", "x", "--permissions", "mall.fly"],
    );
    assert!(!well && said.contains("mall.fly"), "{said}");
    let app = after(&app, "client_id");

    // The administrator whom the first start told of, and the one made by hand: each chooses a password.
    let log = platform.log();
    let told = after(&log, "with the one-time password");
    let admin =
        browser_for(&services, app, "head-of-pharmacy", after(&admin, "one-time password")).await;
    let tokens = browser.sign_in(app, "admin", told).await;
    let staff = &tokens["access_token"];
    assert_eq!(browser.get(staff, "/identity/me").await.1["login"], "admin");
    assert_eq!(
        browser.get(&admin["access_token"], "/identity/me").await.1["login"],
        "head-of-pharmacy"
    );
    assert_eq!(claims(staff)["iss"], services);

    // Signatures as another program checks them; and what was changed is seen by it and by us.
    let jwks = reqwest::get(discovered["jwks_uri"].as_str().unwrap()).await.unwrap();
    let jwks: Value = jwks.json().await.unwrap();
    for token in [staff, &tokens["id_token"]] {
        let token = token.as_str().unwrap();
        assert!(is_signed(&jwks, token));
        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        let mut said = claims(&json!(token));
        said["tenant_id"] = json!(2);
        parts[1] = URL_SAFE_NO_PAD.encode(said.to_string());
        let forged = parts.join(".");
        assert!(!is_signed(&jwks, &forged));
        assert_eq!(browser.get(&json!(forged), "/identity/me").await.0, 401);
    }

    // Tokens are renewed once; a renewal that comes twice ends all that came of the sign-in.
    let renew = async |token: &Value| {
        let token = token.as_str().unwrap();
        let asked = [("grant_type", "refresh_token"), ("client_id", app), ("refresh_token", token)];
        browser.token(&asked).await
    };
    let (status, renewed) = renew(&admin["refresh_token"]).await;
    assert_eq!(status, 200, "{renewed}");
    assert!(is_signed(&jwks, renewed["access_token"].as_str().unwrap()));
    assert_eq!(renew(&admin["refresh_token"]).await.1["error"], "invalid_grant");
    assert_eq!(renew(&renewed["refresh_token"]).await.1["error"], "invalid_grant");

    // A program sees what it may, and what the simulated people do, who have tokens of their own.
    let secret = after(&reports, "client_secret");
    let asked = [
        ("grant_type", "client_credentials"),
        ("client_id", after(&reports, "client_id")),
        ("client_secret", secret),
    ];
    let reports = browser.token(&asked).await.1["access_token"].clone();
    wait_for("no order of simulated people", &platform, async || {
        let (status, orders) = browser.get(&reports, "/mall/orders").await;
        assert_eq!(status, 200, "{orders}");
        (orders["items"].as_array().unwrap().len() > 20).then_some(())
    })
    .await;
    let ordered = browser.get(&reports, "/mall/orders").await.1;
    let somebody = format!("/identity/persons/{}", ordered["items"][0]["person_id"]);
    wait_for("a simulated person is not known", &platform, async || {
        let (status, known) = browser.get(staff, &somebody).await;
        (status == 200 && known["name"].as_str()?.starts_with("顾*")).then_some(())
    })
    .await;
    wait_for("the lake has no order", &platform, async || {
        platform.ask("select count(*) from mall.orders").await.filter(|n| n.as_i64() > Some(20))
    })
    .await;
    let (status, refused) = browser
        .with(&reports, Method::POST, "/mall/pharmacies", &json!({"name": "n", "region": "r"}))
        .await;
    assert_eq!((status, &refused["error"]["code"]), (403, &json!("denied")));

    // Customers see their own and nothing else.
    let mut customers = Vec::new();
    for login in ["buyer", "other"] {
        let new = json!({"login": login, "password": PASSWORD});
        let (status, made) = platform.post(&format!("{services}/identity/register"), &new).await;
        assert_eq!(status, 201, "{made}");
        let tokens = browser_for(&services, app, login, PASSWORD).await;
        customers.push((made["person_id"].clone(), tokens["access_token"].clone()));
    }
    let pharmacy = json!({"name": "西湖店", "region": "浙江"});
    let pharmacy = browser.made(staff, "/mall/pharmacies", pharmacy).await["pharmacy_id"].clone();
    let product = json!({"name": "血压计", "kind": "device", "category": "a",
        "unit_price_fen": 1_000, "return_policy": "seven_day", "tracks_stock": false});
    let product = browser.made(staff, "/mall/products", product).await["product_id"].clone();
    let order = |person: &Value| {
        json!({"person_id": person, "pharmacy_id": pharmacy, "channel": "app",
            "lines": [{"product_id": product, "quantity": 1}]})
    };
    let [(person, buyer), (other_person, other)] = &customers[..] else { unreachable!() };
    let placed = browser.made(buyer, "/mall/orders", order(person)).await;
    browser.made(other, "/mall/orders", order(other_person)).await;
    let for_another = order(other_person);
    let (status, _) = browser.with(buyer, Method::POST, "/mall/orders", &for_another).await;
    assert_eq!(status, 403);
    for (token, theirs) in [(buyer, person), (other, other_person)] {
        let listed = browser.get(token, "/mall/orders").await.1;
        let listed = listed["items"].as_array().unwrap();
        assert!(listed.len() == 1 && &listed[0]["person_id"] == theirs, "{listed:?}");
    }
    let path = format!("/mall/orders/{}", placed["order_id"]);
    assert_eq!(browser.get(buyer, &path).await.0, 200);
    assert_eq!(browser.get(other, &path).await.0, 404);
    assert_eq!(browser.get(buyer, "/identity/clients").await.0, 403);

    // One trace, from a request in chronic care over its outbox to a webhook of the notifications.
    let (traces, hook, _tasks) = listener().await;
    browser.made(staff, "/notifications/webhooks", json!({"url": hook})).await;
    let patient = json!({"person_id": person, "name": "顾客", "sex": "female",
        "birth_date": "1971-11-22", "condition": "hypertension"});
    let patient = browser.made(staff, "/chronic-care/patients", patient).await;
    let of_patient =
        |rest: &str| format!("/chronic-care/patients/{}/{rest}", patient["patient_id"]);
    let consent = json!({"purpose": "care", "sensitive_data": true, "text_version": "care-1"});
    browser.made(buyer, &of_patient("consents"), consent).await;
    let programme = json!({"template": "hypertension"});
    browser.made(staff, &of_patient("programmes"), programme).await;
    let reading = json!({"patient_id": patient["patient_id"], "kind": "blood_pressure",
        "systolic_mmhg": 191, "diastolic_mmhg": 121});
    browser.made(buyer, "/chronic-care/readings", reading).await;
    wait_for("the alert is not told with its trace", &platform, async || {
        let traces = traces.lock().unwrap();
        traces.iter().any(|trace| trace.contains(TRACE)).then_some(())
    })
    .await;
    assert!(platform.log().contains(TRACE));
    let metrics = reqwest::get(format!("{services}/metrics")).await.unwrap().text().await.unwrap();
    assert!(metrics.contains("route=\"/mall/orders\",status=\"403\""), "{metrics}");

    // Started again, it knows everybody, and tells no password.
    assert!(platform.stop().success());
    let mut platform = Platform::launch(dir.path(), ports, &["--rate", "5"], &settings);
    platform.wait_until_healthy().await;
    assert_eq!(platform.log().matches("one-time password").count(), 1);
    assert_eq!(browser.get(buyer, &path).await.0, 200);
    let clients = browser.get(staff, "/identity/clients").await.1;
    let names: Vec<&Value> =
        clients["items"].as_array().unwrap().iter().map(|client| &client["name"]).collect();
    assert_eq!(names, ["medlake simulate", "app", "reports"]);
    assert!(platform.stop().success());
}

/// The tokens of somebody who signs in with a browser of their own.
async fn browser_for(services: &str, app: &str, login: &str, password: &str) -> Value {
    Browser::new(services).sign_in(app, login, password).await
}

/// An address that takes note of the traces it hears of.
async fn listener() -> (Arc<Mutex<Vec<String>>>, String, tokio::task::JoinSet<()>) {
    let traces: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&traces);
    let hear = async move |headers: HeaderMap| {
        let trace = headers.get("traceparent").and_then(|value| value.to_str().ok());
        heard.lock().unwrap().extend(trace.map(str::to_owned));
    };
    let router = Router::new().route("/hook", post(hear));
    let listening = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/hook", listening.local_addr().unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { axum::serve(listening, router).await.unwrap() });
    (traces, address, tasks)
}
