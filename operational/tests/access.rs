//! The door: who may ask for what.

use axum::{body::Body, http::Request};
use medlake_operational::identity::Permission;
use serde_json::{Value, json};

use crate::{
    On,
    identity::{customer, guarded, program, with_token},
};

on_both! {
    no_door_opens_without_a_token_that_grants_it,
    a_tenant_sees_nothing_of_another,
}

/// Each described operation that is not for whoever reaches it.
fn doors(description: &Value) -> Vec<(String, String)> {
    let open = ["/healthz", "/readyz", "/openapi.json", "/metrics", "/identity/register"];
    let mut doors = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        let beside = ["/.well-known/", "/oauth2/", "/s/"].iter().any(|open| path.starts_with(open));
        if beside || open.contains(&path.as_str()) || path.contains("/callbacks/") {
            continue;
        }
        for method in methods.as_object().unwrap().keys() {
            doors.push((method.to_uppercase(), path.clone()));
        }
    }
    doors
}

fn address(path: &str) -> String {
    path.split('/')
        .map(|part| match part {
            "{service}" => "mall",
            part if part.starts_with('{') => "1",
            part => part,
        })
        .collect::<Vec<_>>()
        .join("/")
}

async fn no_door_opens_without_a_token_that_grants_it(on: On) {
    let (app, _) = guarded(on).await;
    let (_, description) = app.get("/openapi.json").await;
    let doors = doors(&description);
    assert!(doors.len() > 50, "{doors:?}");
    let (_, _, powerless) = program(&app, vec![]).await;
    let all = Permission::ALL.to_vec();
    let (_, _, mighty) = program(&app, all).await;
    for (method, path) in &doors {
        let request = || Request::builder().method(method.as_str()).uri(address(path));
        let bare = app.send(request().body(Body::empty()).unwrap()).await;
        assert_eq!(
            (bare.0, &bare.1["error"]["code"]),
            (401, &json!("unauthenticated")),
            "{method} {path}"
        );
        let wrong = request().header("authorization", "Basic eDp5").body(Body::empty()).unwrap();
        assert_eq!(app.send(wrong).await.0, 401, "{method} {path}");
        let refused = with_token(&app, method, &address(path), &powerless, None).await;
        assert_eq!(
            (refused.0, &refused.1["error"]["code"]),
            (403, &json!("denied")),
            "{method} {path}"
        );
        let let_in = with_token(&app, method, &address(path), &mighty, None).await;
        let about_a_person = path.starts_with("/identity/me");
        let may = (let_in.0 == 403) == about_a_person && let_in.0 != 401 && let_in.0 < 500;
        assert!(may, "{method} {path}: {let_in:?}");
    }
    // What is at no door says so to anybody.
    assert_eq!(app.get("/nowhere").await.0, 404);
    assert_eq!(app.get("/healthz").await.0, 200);

    // A customer gets at what is theirs, and learns nothing of others.
    let (person, token) = customer(&app, "buyer").await;
    let (other, _) = customer(&app, "other").await;
    assert_ne!(person, other);
    let own = format!("/identity/persons/{person}");
    assert_eq!(with_token(&app, "GET", &own, &token, None).await.0, 200);
    let others = with_token(&app, "GET", &format!("/identity/persons/{other}"), &token, None).await;
    let nobodys = with_token(&app, "GET", "/identity/persons/999", &token, None).await;
    assert_eq!((others.0, nobodys.0), (404, 404));
    let me = with_token(&app, "GET", "/identity/me", &token, None).await;
    assert_eq!(me.1["person_id"], person);
    assert_eq!(with_token(&app, "GET", "/identity/persons", &token, None).await.0, 403);
    let change = json!({"current": "x", "new": "another long password"});
    let wrong = with_token(&app, "POST", "/identity/me/password", &token, Some(change)).await;
    assert_eq!(wrong.0, 403, "{wrong:?}");
}

async fn a_tenant_sees_nothing_of_another(on: On) {
    let (app, _) = guarded(on).await;
    let (_, _, first) = program(&app, Permission::ALL.to_vec()).await;
    let new = json!({"name": "第二家医院", "administrator_login": "admin"});
    let (status, made) = with_token(&app, "POST", "/identity/tenants", &first, Some(new)).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(
        (&made["tenant"]["tenant_id"], &made["administrator"]["tenant_id"]),
        (&json!(2), &json!(2))
    );
    let pharmacy = json!({"name": "西湖店", "region": "浙江"});
    with_token(&app, "POST", "/mall/pharmacies", &first, Some(pharmacy)).await;
    let seen = with_token(&app, "GET", "/identity/accounts", &first, None).await.1;
    assert_eq!(seen["items"].as_array().unwrap().len(), 1, "{seen}");
    let of_second = format!("/identity/accounts/{}", made["administrator"]["account_id"]);
    assert_eq!(with_token(&app, "GET", &of_second, &first, None).await.0, 404);
    let of_second = format!("/identity/persons/{}", made["administrator"]["person_id"]);
    assert_eq!(with_token(&app, "GET", &of_second, &first, None).await.0, 404);
}
