//! Who there is, and how they show who they are: sign-in, tokens, keys, as the specifications say.

use std::collections::HashMap;

use axum::{
    body::{Body, to_bytes},
    http::{Request, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use medlake_operational::{
    Access, Options,
    identity::{self, NewClient, PasswordCost, Permission},
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{App, DAY, On, SECOND, assert_error};

on_both! {
    a_code_becomes_tokens_once_and_only_for_its_client,
    a_refresh_token_is_good_once_and_used_again_it_ends_its_family,
    what_is_asked_wrongly_is_refused_as_the_specification_says,
    a_program_gets_tokens_by_its_secret,
    wrong_passwords_cost_more_and_more_time,
    tokens_are_signed_by_keys_that_change,
    people_are_known_by_their_numbers,
}

pub(crate) const ISSUER: &str = "https://id.example";
const CALLBACK: &str = "https://shop.example/callback?from=id";
const PASSWORD: &str = "三潭印月 and three pools";
/// RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const CHEAP: PasswordCost = PasswordCost { memory_kib: 64, passes: 1, lanes: 1 };

/// The services behind tokens, with an administrator whose password is still to be changed.
pub(crate) async fn guarded(on: On) -> (App, String) {
    let app = App::start(on).await;
    app.services.use_options(Options {
        access: Access::Tokens,
        issuer: ISSUER.to_owned(),
        password_cost: CHEAP,
        ..Options::default()
    });
    let password = identity::create_administrator(&app.services, "admin").await.unwrap();
    (app, password)
}

/// A client that keeps no secret, as an app.
pub(crate) async fn public_client(app: &App, permissions: Vec<Permission>) -> String {
    let new = NewClient {
        name: "商城 <app>".into(),
        confidential: false,
        redirect_uris: vec![CALLBACK.into()],
        permissions,
    };
    identity::create_client(&app.services, &new).await.unwrap().0.client_key
}

/// A program with a secret, and a token of its own.
pub(crate) async fn program(app: &App, permissions: Vec<Permission>) -> (String, String, String) {
    let new = NewClient {
        name: "program".into(),
        confidential: true,
        redirect_uris: vec![],
        permissions,
    };
    let (client, secret) = identity::create_client(&app.services, &new).await.unwrap();
    let secret = secret.unwrap();
    let asked = [
        ("grant_type", "client_credentials"),
        ("client_id", &client.client_key),
        ("client_secret", &secret),
    ];
    let (status, tokens) = posted(app, "/oauth2/token", &asked).await;
    assert_eq!(status, 200, "{tokens}");
    let token = tokens["access_token"].as_str().unwrap().to_owned();
    (client.client_key, secret, token)
}

fn encoded(pairs: &[(&str, &str)]) -> String {
    let mut url = reqwest::Url::parse("http://x/").unwrap();
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap().to_owned()
}

async fn raw(app: &App, request: Request<Body>) -> (Response<()>, String) {
    let answer = app.services.router().oneshot(request).await.unwrap();
    let (parts, body) = answer.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    (Response::from_parts(parts, ()), String::from_utf8(bytes.to_vec()).unwrap())
}

/// Status and body of the answer to a form.
async fn posted(app: &App, path: &str, form: &[(&str, &str)]) -> (u16, Value) {
    let request = Request::post(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(encoded(form)))
        .unwrap();
    let (answer, body) = raw(app, request).await;
    (answer.status().as_u16(), serde_json::from_str(&body).unwrap_or(Value::Null))
}

/// The answer to a request with a token.
pub(crate) async fn with_token(
    app: &App,
    method: &str,
    path: &str,
    token: &str,
    body: Option<Value>,
) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {token}"))
        .body(body.map_or(Body::empty(), |body| Body::from(body.to_string())))
        .unwrap();
    let (answer, body) = raw(app, request).await;
    (answer.status().as_u16(), serde_json::from_str(&body).unwrap_or(Value::Null))
}

/// A browser that keeps cookies and fills in forms.
#[derive(Default)]
pub(crate) struct Browser {
    cookies: HashMap<String, String>,
}

impl Browser {
    async fn ask(&mut self, app: &App, request: Request<Body>) -> (Response<()>, String) {
        let (mut parts, body) = request.into_parts();
        let cookies: Vec<_> = self.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect();
        parts.headers.insert("cookie", cookies.join("; ").parse().unwrap());
        let (answer, body) = raw(app, Request::from_parts(parts, body)).await;
        for cookie in answer.headers().get_all("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            assert!(cookie.contains("HttpOnly") && cookie.contains("; Secure"), "{cookie}");
            let (name, rest) = cookie.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        (answer, body)
    }

    async fn open(&mut self, app: &App, asked: &[(&str, &str)]) -> (Response<()>, String) {
        let address = format!("/oauth2/authorize?{}", encoded(asked));
        self.ask(app, Request::get(address).body(Body::empty()).unwrap()).await
    }

    /// Sends the form of a page with what is entered.
    async fn submit(
        &mut self,
        app: &App,
        page: &str,
        entered: &[(&str, &str)],
    ) -> (Response<()>, String) {
        let mut form: Vec<(String, String)> = Vec::new();
        for field in page.split("<input type=\"hidden\" name=\"").skip(1) {
            let (name, rest) = field.split_once("\" value=\"").unwrap();
            let value = rest.split('"').next().unwrap().replace("&amp;", "&");
            form.push((name.to_owned(), value));
        }
        form.extend(entered.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        let pairs: Vec<_> = form.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let request = Request::post("/oauth2/login")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("origin", ISSUER)
            .body(Body::from(encoded(&pairs)))
            .unwrap();
        self.ask(app, request).await
    }

    /// Signs in and gives the code.
    async fn code(&mut self, app: &App, client: &str, login: &str, password: &str) -> String {
        let (_, page) = self.open(app, &good(client)).await;
        let entered = [("login", login), ("password", password)];
        let (answer, page) = self.submit(app, &page, &entered).await;
        assert_eq!(answer.status(), 303, "{page}");
        query_of(&answer)["code"].clone()
    }
}

/// What a client asks that asks well.
fn good(client: &str) -> [(&str, &str); 7] {
    [
        ("client_id", client),
        ("redirect_uri", CALLBACK),
        ("response_type", "code"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
        ("state", "a&b=c"),
        ("nonce", "n-1"),
    ]
}

/// What the address says that a browser is sent to.
fn query_of(answer: &Response<()>) -> HashMap<String, String> {
    let to = answer.headers()["location"].to_str().unwrap();
    assert!(to.starts_with("https://shop.example/callback?from=id&"), "{to}");
    let query: HashMap<String, String> =
        reqwest::Url::parse(to).unwrap().query_pairs().into_owned().collect();
    assert_eq!((query["state"].as_str(), query["iss"].as_str()), ("a&b=c", ISSUER));
    query
}

async fn exchange(app: &App, client: &str, code: &str) -> (u16, Value) {
    let asked = [
        ("grant_type", "authorization_code"),
        ("client_id", client),
        ("code", code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
    ];
    posted(app, "/oauth2/token", &asked).await
}

async fn refresh(app: &App, client: &str, token: &str) -> (u16, Value) {
    let asked = [("grant_type", "refresh_token"), ("client_id", client), ("refresh_token", token)];
    posted(app, "/oauth2/token", &asked).await
}

fn text<'a>(answer: &'a Value, field: &str) -> &'a str {
    answer[field].as_str().unwrap_or_else(|| panic!("no {field} in {answer}"))
}

fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// Somebody with an account of their own; gives the token they act with.
pub(crate) async fn customer(app: &App, login: &str) -> (i64, String) {
    let new = json!({"login": login, "password": PASSWORD});
    let (status, account) = app.post("/identity/register", new).await;
    assert_eq!(status, 201, "{account}");
    let client = public_client(app, vec![Permission::Own]).await;
    let code = Browser::default().code(app, &client, login, PASSWORD).await;
    let (_, tokens) = exchange(app, &client, &code).await;
    (account["person_id"].as_i64().unwrap(), text(&tokens, "access_token").to_owned())
}

async fn a_code_becomes_tokens_once_and_only_for_its_client(on: On) {
    let (app, told) = guarded(on).await;
    let may = vec![Permission::IdentityRead, Permission::Own];
    let client = public_client(&app, may).await;
    let mut browser = Browser::default();
    let asked: Vec<_> =
        good(&client).into_iter().chain([("scope", "openid identity.read mall.write")]).collect();
    let (answer, page) = browser.open(&app, &asked).await;
    assert_eq!(answer.status(), 200);
    assert!(page.contains("商城 &lt;app&gt;") && !page.contains("<app>"), "{page}");
    assert!(page.contains("<label for=\"password\">") && page.contains("lang=\"zh-CN\""));
    let policy = answer.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));

    // A form that was not given with this browser's page is refused, whatever it says.
    let entered = [("login", "admin"), ("password", told.as_str())];
    let (answer, _) = Browser::default().submit(&app, &page, &entered).await;
    assert_eq!(answer.status(), 403);
    // The password that was told is good for nothing but to choose another.
    let (answer, page) = browser.submit(&app, &page, &entered).await;
    assert!(answer.status() == 403 && page.contains("name=\"new_password\""), "{page}");
    let weak = [entered[0], entered[1], ("new_password", "1234567890")];
    let (answer, page) = browser.submit(&app, &page, &weak).await;
    assert!(answer.status() == 403 && page.contains("role=\"alert\""), "{page}");
    let chosen = [entered[0], entered[1], ("new_password", PASSWORD)];
    let (answer, page) = browser.submit(&app, &page, &chosen).await;
    assert_eq!(answer.status(), 303, "{page}");
    let code = query_of(&answer)["code"].clone();

    // Not to another client, not to another address, not without what the challenge is the hash of.
    let other = public_client(&app, vec![Permission::Own]).await;
    assert_eq!(exchange(&app, &other, &code).await.1["error"], "invalid_grant");
    for (name, value) in [
        ("redirect_uri", "https://shop.example/callback"),
        ("code_verifier", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXX"),
        ("code", "x"),
    ] {
        let mut asked = vec![
            ("grant_type", "authorization_code"),
            ("client_id", client.as_str()),
            ("code", code.as_str()),
            ("redirect_uri", CALLBACK),
            ("code_verifier", VERIFIER),
        ];
        asked.retain(|(n, _)| *n != name);
        asked.push((name, value));
        let (status, refused) = posted(&app, "/oauth2/token", &asked).await;
        assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")), "{name}");
    }
    let (status, tokens) = exchange(&app, &client, &code).await;
    assert_eq!(status, 200, "{tokens}");
    // Only what the client may and the person may: they asked for more.
    assert_eq!(tokens["scope"], "openid identity.read");
    assert_eq!((&tokens["token_type"], &tokens["expires_in"]), (&json!("Bearer"), &json!(600)));
    let said = claims(text(&tokens, "access_token"));
    assert_eq!((&said["iss"], &said["aud"]), (&json!(ISSUER), &json!("medlake")));
    assert_eq!((&said["tenant_id"], &said["sub"]), (&json!(1), &json!("person:1")));
    let who = claims(text(&tokens, "id_token"));
    assert_eq!((&who["aud"], &who["nonce"]), (&json!(client), &json!("n-1")));
    let access = text(&tokens, "access_token");
    let (status, me) = with_token(&app, "GET", "/identity/me", access, None).await;
    assert_eq!(
        (status, &me["login"], &me["roles"][0]),
        (200, &json!("admin"), &json!("administrator"))
    );

    // Signed in, the browser is not asked again; a code is good for a minute.
    let (answer, _) = browser.open(&app, &good(&client)).await;
    let late = query_of(&answer)["code"].clone();
    app.move_clock(61 * SECOND);
    assert_eq!(exchange(&app, &client, &late).await.1["error"], "invalid_grant");
    // A code that comes twice was stolen: what came of it ends.
    assert_eq!(exchange(&app, &client, &code).await.1["error"], "invalid_grant");
    let renewed = refresh(&app, &client, text(&tokens, "refresh_token")).await;
    assert_eq!(renewed.1["error"], "invalid_grant");

    // Signed out, nobody is.
    let logout = Request::post("/oauth2/logout").body(Body::empty()).unwrap();
    assert_eq!(browser.ask(&app, logout).await.0.status(), 200);
    let asked: Vec<_> = good(&client).into_iter().chain([("prompt", "none")]).collect();
    let (answer, _) = browser.open(&app, &asked).await;
    assert_eq!(query_of(&answer)["error"], "login_required");
}

async fn a_refresh_token_is_good_once_and_used_again_it_ends_its_family(on: On) {
    let (app, _) = guarded(on).await;
    let new = json!({"login": "buyer", "password": PASSWORD, "phone": "138 0013 8000"});
    app.made("/identity/register", new).await;
    let client = public_client(&app, vec![Permission::Own]).await;
    let code = Browser::default().code(&app, &client, "buyer", PASSWORD).await;
    let (_, first) = exchange(&app, &client, &code).await;
    assert_eq!(first["scope"], "own");
    let (status, second) = refresh(&app, &client, text(&first, "refresh_token")).await;
    assert_eq!(status, 200, "{second}");
    let (_, third) = refresh(&app, &client, text(&second, "refresh_token")).await;
    // More than was granted is refused, and the token is still good.
    let more = [
        ("grant_type", "refresh_token"),
        ("client_id", client.as_str()),
        ("refresh_token", text(&third, "refresh_token")),
        ("scope", "own mall.write"),
    ];
    assert_eq!(posted(&app, "/oauth2/token", &more).await.1["error"], "invalid_scope");
    let (status, fourth) = refresh(&app, &client, text(&third, "refresh_token")).await;
    assert_eq!(status, 200);
    // The first again: whoever has the fourth gets nothing more either.
    assert_eq!(
        refresh(&app, &client, text(&first, "refresh_token")).await.1["error"],
        "invalid_grant"
    );
    assert_eq!(
        refresh(&app, &client, text(&fourth, "refresh_token")).await.1["error"],
        "invalid_grant"
    );

    // A family ends a month after the sign-in, however often it was renewed.
    let code = Browser::default().code(&app, &client, "buyer", PASSWORD).await;
    let (_, tokens) = exchange(&app, &client, &code).await;
    app.move_clock(29 * DAY);
    let (status, tokens) = refresh(&app, &client, text(&tokens, "refresh_token")).await;
    assert_eq!(status, 200, "{tokens}");
    app.move_clock(2 * DAY);
    let ended = refresh(&app, &client, text(&tokens, "refresh_token")).await;
    assert_eq!(ended.1["error"], "invalid_grant");
}

async fn what_is_asked_wrongly_is_refused_as_the_specification_says(on: On) {
    let (app, _) = guarded(on).await;
    let client = public_client(&app, vec![Permission::Own]).await;
    // Nobody is sent to an address that is not the client's, letter by letter.
    for (name, value) in [
        ("client_id", "nobody"),
        ("redirect_uri", "https://shop.example/callback"),
        ("redirect_uri", "https://shop.example/callback?from=id&x=1"),
        ("redirect_uri", "https://evil.example/"),
    ] {
        let mut asked = good(&client).to_vec();
        asked.retain(|(n, _)| *n != name);
        asked.push((name, value));
        let (answer, page) = Browser::default().open(&app, &asked).await;
        assert!(answer.status() == 400 && page.contains("<h1>"), "{name} {value}");
        assert!(answer.headers().get("location").is_none());
    }
    // Other mistakes are told to the client.
    for (name, value, error) in [
        ("response_type", "token", "unsupported_response_type"),
        ("code_challenge_method", "plain", "invalid_request"),
        ("code_challenge", "short", "invalid_request"),
        ("scope", "own fly", "invalid_scope"),
    ] {
        let mut asked = good(&client).to_vec();
        asked.retain(|(n, _)| *n != name);
        asked.push((name, value));
        let (answer, _) = Browser::default().open(&app, &asked).await;
        assert_eq!(query_of(&answer)["error"], error, "{name}");
    }
    let twice: Vec<_> = good(&client).into_iter().chain([("state", "again")]).collect();
    assert_eq!(Browser::default().open(&app, &twice).await.0.status(), 400);

    let token = |form: Vec<(&'static str, String)>| {
        let app = &app;
        async move {
            let form: Vec<_> = form.iter().map(|(n, v)| (*n, v.as_str())).collect();
            posted(app, "/oauth2/token", &form).await
        }
    };
    let by = |pairs: &[(&'static str, &str)]| {
        pairs.iter().map(|(n, v)| (*n, (*v).to_owned())).collect::<Vec<_>>()
    };
    for (form, status, error) in [
        (by(&[("client_id", &client)]), 400, "invalid_request"),
        (by(&[("grant_type", "password"), ("client_id", &client)]), 400, "unsupported_grant_type"),
        (by(&[("grant_type", "refresh_token")]), 401, "invalid_client"),
        (by(&[("grant_type", "refresh_token"), ("client_id", "x")]), 401, "invalid_client"),
        (
            by(&[("grant_type", "refresh_token"), ("client_id", &client), ("client_secret", "x")]),
            401,
            "invalid_client",
        ),
        (by(&[("grant_type", "refresh_token"), ("client_id", &client)]), 400, "invalid_request"),
        (
            by(&[("grant_type", "refresh_token"), ("client_id", &client), ("refresh_token", "x")]),
            400,
            "invalid_grant",
        ),
        (
            by(&[("grant_type", "client_credentials"), ("client_id", &client)]),
            400,
            "unauthorized_client",
        ),
        (by(&[("grant_type", "a"), ("grant_type", "b")]), 400, "invalid_request"),
    ] {
        let said = format!("{form:?}");
        let (got, refused) = token(form).await;
        assert_eq!((got, &refused["error"]), (status, &json!(error)), "{said} {refused}");
    }
    let not_text = Request::post("/oauth2/token").body(Body::from(vec![0xff])).unwrap();
    assert_eq!(raw(&app, not_text).await.0.status(), 400);
}

async fn a_program_gets_tokens_by_its_secret(on: On) {
    let (app, _) = guarded(on).await;
    let may = vec![Permission::MallRead, Permission::Operate, Permission::Own];
    let (key, secret, token) = program(&app, may).await;
    // A program buys nothing for itself.
    assert_eq!(claims(&token)["scope"], "mall.read operate");
    assert_eq!(with_token(&app, "GET", "/mall/products", &token, None).await.0, 200);
    assert_eq!(with_token(&app, "GET", "/identity/me", &token, None).await.0, 403);

    let basic = format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(format!("{key}:{secret}"))
    );
    let asked = |scope: &str| {
        let form = encoded(&[("grant_type", "client_credentials"), ("scope", scope)]);
        Request::post("/oauth2/token")
            .header("authorization", &basic)
            .body(Body::from(form))
            .unwrap()
    };
    let (answer, body) = raw(&app, asked("mall.read")).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["cache-control"]),
        (200, &"no-store".parse().unwrap())
    );
    assert!(body.contains("\"scope\":\"mall.read\"") && !body.contains("refresh_token"), "{body}");
    assert!(raw(&app, asked("mall.write")).await.1.contains("invalid_scope"));
    let (answer, _) = raw(
        &app,
        Request::post("/oauth2/token")
            .header("authorization", "Basic eDp5")
            .body(Body::empty())
            .unwrap(),
    )
    .await;
    assert_eq!(
        (answer.status(), &answer.headers()["www-authenticate"]),
        (401.try_into().unwrap(), &"Basic realm=\"medlake\"".parse().unwrap())
    );

    let own = [
        ("client_id", key.as_str()),
        ("client_secret", secret.as_str()),
        ("token", token.as_str()),
    ];
    let (_, worth) = posted(&app, "/oauth2/introspect", &own).await;
    assert_eq!(
        (&worth["active"], &worth["sub"], &worth["client_id"]),
        (&json!(true), &json!("client:1"), &json!(key))
    );
    // Another client's token is not one's own to end.
    let (other, other_secret, _) = program(&app, vec![Permission::MallRead]).await;
    let others = [
        ("client_id", other.as_str()),
        ("client_secret", other_secret.as_str()),
        ("token", token.as_str()),
    ];
    assert_eq!(posted(&app, "/oauth2/revoke", &others).await.0, 200);
    assert_eq!(with_token(&app, "GET", "/mall/products", &token, None).await.0, 200);
    assert_eq!(posted(&app, "/oauth2/revoke", &own).await.0, 200);
    assert_eq!(posted(&app, "/oauth2/introspect", &own).await.1, json!({"active": false}));
    let (status, refused) = with_token(&app, "GET", "/mall/products", &token, None).await;
    assert_eq!((status, &refused["error"]["code"]), (401, &json!("unauthenticated")));
    let public = public_client(&app, vec![Permission::Own]).await;
    let asked = [("client_id", public.as_str()), ("token", token.as_str())];
    assert_eq!(posted(&app, "/oauth2/introspect", &asked).await.1["error"], "invalid_client");
}

async fn wrong_passwords_cost_more_and_more_time(on: On) {
    let (app, _) = guarded(on).await;
    app.made("/identity/register", json!({"login": "buyer", "password": PASSWORD})).await;
    let client = public_client(&app, vec![Permission::Own]).await;
    let attempt = |password: &'static str| {
        let (app, client) = (&app, client.clone());
        async move {
            let mut browser = Browser::default();
            let (_, page) = browser.open(app, &good(&client)).await;
            let entered = [("login", "buyer"), ("password", password)];
            let (answer, _) = browser.submit(app, &page, &entered).await;
            let wait = answer.headers().get("retry-after").map(|w| w.to_str().unwrap().to_owned());
            (answer.status().as_u16(), wait)
        }
    };
    for _ in 0..5 {
        assert_eq!(attempt("not the password").await, (403, None));
    }
    // Also the right one is not tried now.
    assert_eq!(attempt(PASSWORD).await, (429, Some("31".to_owned())));
    app.move_clock(31 * SECOND);
    assert_eq!(attempt("not the password").await.0, 403);
    app.move_clock(31 * SECOND);
    assert_eq!(attempt(PASSWORD).await.0, 429, "the sixth costs twice as much");
    app.move_clock(30 * SECOND);
    assert_eq!(attempt(PASSWORD).await.0, 303);
    assert_eq!(attempt("not the password").await.0, 403, "all is forgotten");

    // Whoever tries many at a time does not get further.
    let many = futures::future::join_all((0..20).map(|_| attempt("not the password"))).await;
    assert!(many.iter().filter(|(status, _)| *status == 403).count() <= 6, "{many:?}");

    // A hash by other parameters is made anew when the password is known.
    app.move_clock(DAY);
    let database = app.services.identity();
    let cheap = "select count(*) from account where password_hash like '%m=64,t=1,p=1%' and login = 'buyer'";
    assert_eq!(app.scalar(database, cheap).await, 1);
    let mut app = app;
    app.reopen().await;
    app.services.use_options(Options {
        access: Access::Tokens,
        issuer: ISSUER.to_owned(),
        password_cost: PasswordCost { memory_kib: 128, ..CHEAP },
        ..Options::default()
    });
    Browser::default().code(&app, &client, "buyer", PASSWORD).await;
    let dear = "select count(*) from account where password_hash like '%m=128,t=1,p=1%' and login = 'buyer'";
    assert_eq!(app.scalar(app.services.identity(), dear).await, 1);
    Browser::default().code(&app, &client, "buyer", PASSWORD).await;
}

async fn tokens_are_signed_by_keys_that_change(on: On) {
    let (app, _) = guarded(on).await;
    let (_, _, token) = program(&app, vec![Permission::MallRead, Permission::Operate]).await;
    let published = |keys: &Value| -> Vec<String> {
        let keys = keys["keys"].as_array().unwrap();
        keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    };
    let (_, before) = app.get("/.well-known/jwks.json").await;
    assert_eq!(published(&before).len(), 2, "the one in use and the next");
    assert!(before["keys"][0].get("d").is_none() && before["keys"][0]["crv"] == "P-256");
    let kid = |token: &str| {
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        assert_eq!((&header["alg"], &header["typ"]), (&json!("ES256"), &json!("at+jwt")));
        header["kid"].as_str().unwrap().to_owned()
    };
    let first = kid(&token);
    let (status, _) =
        with_token(&app, "POST", "/identity/signing-keys/rotate", &token, Some(json!({}))).await;
    assert_eq!(status, 200);
    let (_, after) = app.get("/.well-known/jwks.json").await;
    assert_eq!(published(&after).len(), 3);
    let (_, _, newer) = program(&app, vec![Permission::MallRead]).await;
    let second = kid(&newer);
    assert!(first != second && published(&before).contains(&second), "it was published before");
    for good in [&token, &newer] {
        assert_eq!(with_token(&app, "GET", "/mall/products", good, None).await.0, 200);
    }

    // What was changed, is not signed, or by another's key, is no token.
    let parts: Vec<&str> = token.split('.').collect();
    let told = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let mut more = claims(&token);
    more["scope"] = json!("identity.write");
    let none = json!({"alg": "none", "typ": "at+jwt", "kid": first});
    let secret = json!({"alg": "HS256", "typ": "at+jwt", "kid": first});
    let unknown = json!({"alg": "ES256", "typ": "at+jwt", "kid": "unknown"});
    let other_type = json!({"alg": "ES256", "typ": "JWT", "kid": first});
    for forged in [
        format!("{}.{}.{}", parts[0], told(more.clone()), parts[2]),
        format!("{}.{}.", told(none), told(more.clone())),
        format!("{}.{}.{}", told(secret), told(more), parts[2]),
        format!("{}.{}.{}", told(unknown), parts[1], parts[2]),
        format!("{}.{}.{}", told(other_type), parts[1], parts[2]),
        "x.y.z".to_owned(),
        String::from("nothing"),
    ] {
        assert_eq!(
            with_token(&app, "GET", "/mall/products", &forged, None).await.0,
            401,
            "{forged}"
        );
    }
    // Good for ten minutes; the key of before is forgotten a day later, and changes by itself each month.
    app.move_clock(601 * SECOND);
    assert_eq!(with_token(&app, "GET", "/mall/products", &newer, None).await.0, 401);
    app.move_clock(2 * DAY);
    let (_, later) = app.get("/.well-known/jwks.json").await;
    assert!(published(&later).len() == 2 && !published(&later).contains(&first));
    app.move_clock(31 * DAY);
    let (_, next) = app.get("/.well-known/jwks.json").await;
    assert_eq!(published(&next).len(), 3);
    let (_, told) = app.get("/.well-known/openid-configuration").await;
    assert_eq!(told["jwks_uri"], format!("{ISSUER}/.well-known/jwks.json"));
    assert_eq!(told["code_challenge_methods_supported"], json!(["S256"]));
}

async fn people_are_known_by_their_numbers(on: On) {
    let app = App::start(on).await;
    let new = json!({"name": "顾客甲", "phone": "+86 138-0013-8000"});
    let person = app.made("/identity/persons", new).await;
    let known = app.get(&format!("/identity/persons/{}", person["person_id"])).await.1;
    assert_eq!((&known["name"], &known["phone"]), (&json!("顾**"), &json!("138****8000")));
    let clear = app.get(&format!("/identity/persons/{}/identifiers", person["person_id"])).await.1;
    assert_eq!(clear["phone"], "13800138000");
    let found = app.post("/identity/persons/find", json!({"phone": "13800138000"})).await.1;
    assert_eq!(found["items"][0]["person_id"], person["person_id"]);
    assert_eq!(
        app.post("/identity/persons/find", json!({"phone": "13900139000"})).await.1["items"],
        json!([])
    );
    // Written differently it is the same number, and nobody else gets at this person by it.
    for path in ["/identity/persons", "/identity/register"] {
        let mut again = json!({"phone": "138 0013 8000"});
        if path.ends_with("register") {
            again["login"] = json!("other");
            again["password"] = json!(PASSWORD);
        }
        assert_error(app.post(path, again).await, 409, "conflict", "phone number");
    }
    assert_error(
        app.post("/identity/persons", json!({"phone": "12"})).await,
        400,
        "invalid",
        "phone",
    );
    let dump = app.dump(app.services.identity()).await.join("\n");
    assert!(!dump.contains("13800138000") && !dump.contains("顾客"), "kept in the clear");

    let nowhere = json!({"login": "other", "password": PASSWORD, "tenant_id": 99});
    assert_error(app.post("/identity/register", nowhere).await, 404, "not_found", "tenant 99");

    // An account, its roles, and that somebody is left to administer.
    let account =
        json!({"person_id": person["person_id"], "login": "pharmacist", "roles": ["pharmacist"]});
    let made = app.made("/identity/accounts", account.clone()).await;
    assert!(made["one_time_password"].as_str().unwrap().len() > 20);
    assert_error(app.post("/identity/accounts", account).await, 409, "conflict", "");
    let unknown = json!({"person_id": 99, "login": "nobody", "roles": []});
    assert_error(app.post("/identity/accounts", unknown).await, 404, "not_found", "person 99");
    identity::create_administrator(&app.services, "root").await.unwrap();
    let root = app.get("/identity/accounts").await.1["items"][1].clone();
    let put = |change: Value| {
        let path = format!("/identity/accounts/{}", root["account_id"]);
        let request = Request::put(path).body(Body::from(change.to_string())).unwrap();
        app.send(request)
    };
    let gone = put(json!({"version": 1, "state": "disabled"})).await;
    assert_error(gone, 409, "conflict", "nobody would be left");
    let old = put(json!({"version": 7, "roles": ["administrator"]})).await;
    assert_error(old, 409, "conflict", "at version 1, not 7");
    assert_eq!(put(json!({"version": 1, "roles": ["administrator", "auditor"]})).await.0, 200);

    // What is told once is told once, also when the request is repeated.
    let client =
        json!({"name": "c", "confidential": true, "permissions": ["mall.read"]}).to_string();
    let (_, first) = app.post_raw("/identity/clients", &client, Some("once")).await;
    let (_, again) = app.post_raw("/identity/clients", &client, Some("once")).await;
    assert!(first.get("client_secret").is_some() && again.get("client_secret").is_none());
    assert_eq!(first["client_key"], again["client_key"]);
}
