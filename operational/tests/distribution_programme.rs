//! Who is in the programme, how they share, and who gets bound to them.

use axum::{
    body::{Body, to_bytes},
    http::{Request, Response},
};
use medlake_operational::{Scope, distribution::bindings, identity::Permission};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{
    App, DAY, On, SECOND, START, assert_error,
    identity::{customer, guarded, program, with_token},
    qr_reader, run,
};

on_both! {
    a_distributor_applies_and_is_decided_on,
    a_link_is_followed_and_its_code_reads_back,
    a_buyer_is_bound_as_the_settings_say,
    a_tree_that_grows_too_far_is_told_of_once,
    settings_have_ranges_and_versions,
    distributors_see_what_is_theirs,
}

async fn distributor(app: &App, person: i64, parent: Option<i64>) -> Value {
    let body =
        json!({"person_id": person, "parent_id": parent, "kind": "person", "name": "推广员"});
    app.made("/distribution/distributors", body).await
}

async fn settings(app: &App, based_on: i64, changed: Value) -> Value {
    let mut body = json!({"based_on_version": based_on});
    body.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
    app.made("/distribution/settings", body).await
}

async fn decide(app: &App, id: i64, what: &str) -> (u16, Value) {
    let path = format!("/distribution/distributors/{id}/{what}");
    app.post(&path, json!({"reason": "资料已核对"})).await
}

async fn a_distributor_applies_and_is_decided_on(on: On) {
    let app = App::start(on).await;
    let application = |person: i64, parent: Option<i64>, kind: &str| json!({"person_id": person, "parent_id": parent, "kind": kind, "name": "康复中心"});
    let applied =
        app.made("/distribution/applications", application(101, None, "institution")).await;
    assert_eq!((&applied["status"], &applied["active"]), (&json!("applied"), &json!(false)));
    // Who is not admitted brings nobody in, shares nothing and is bound to nobody.
    let below = application(102, Some(1), "person");
    let refused = app.post("/distribution/applications", below.clone()).await;
    assert_error(refused, 409, "conflict", "distributor 1 is not active");
    let link = json!({"distributor_id": 1, "page": "/"});
    let refused = app.post("/distribution/share-links", link.clone()).await;
    assert_error(refused, 409, "conflict", "distributor 1 is not active");
    let bind = json!({"person_id": 7, "distributor_id": 1});
    let refused = app.post("/distribution/bindings", bind).await;
    assert_error(refused, 409, "conflict", "not active");

    assert_error(decide(&app, 1, "suspend").await, 409, "conflict", "not active");
    assert_error(decide(&app, 9, "approve").await, 404, "not_found", "distributor 9");
    assert_eq!(decide(&app, 1, "reject").await.1["status"], "rejected");
    assert_error(decide(&app, 1, "approve").await, 409, "conflict", "is rejected, not applied");
    let other = app.post("/distribution/applications", application(101, None, "person")).await;
    assert_error(other, 409, "conflict", "cannot be others");
    let again = app.made("/distribution/applications", application(101, None, "institution")).await;
    assert_eq!((&again["distributor_id"], &again["status"]), (&json!(1), &json!("applied")));
    assert_eq!(decide(&app, 1, "approve").await.1["active"], true);
    assert_error(decide(&app, 1, "approve").await, 409, "conflict", "is active, not applied");

    let below = app.made("/distribution/applications", below).await;
    assert_eq!((&below["root_id"], &below["depth"]), (&json!(1), &json!(1)));
    app.made("/distribution/share-links", link).await;
    assert_eq!(decide(&app, 1, "suspend").await.1["status"], "suspended");
    assert_eq!(decide(&app, 1, "reinstate").await.1["status"], "active");
    assert_eq!(decide(&app, 1, "deactivate").await.1["status"], "left");
    assert_error(decide(&app, 1, "reinstate").await, 409, "conflict", "is left, not suspended");

    let (_, found) = app.get("/distribution/distributors/1").await;
    let past: Vec<&str> = found["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["status"].as_str().unwrap())
        .collect();
    let expected = ["applied", "rejected", "applied", "active", "suspended", "active", "left"];
    assert_eq!(past, expected);
    assert_eq!(
        (&found["version"], &found["changes"][6]["changed_by"]),
        (&json!(7), &json!("system"))
    );
    let (_, applied) = app.get("/distribution/distributors?status=applied&limit=5").await;
    assert_eq!(applied["items"].as_array().unwrap().len(), 1);
    let (_, none) = app.get("/distribution/distributors?after_id=9").await;
    assert_eq!(none, json!({"items": []}));

    let fee = json!({"person_id": 103, "kind": "person", "name": "n", "entry_fee_fen": 1});
    let refused = app.post("/distribution/applications", fee).await;
    assert_error(refused, 400, "invalid", "unknown field");
    let unnamed = json!({"person_id": 103, "kind": "person", "name": " "});
    let refused = app.post("/distribution/applications", unnamed).await;
    assert_error(refused, 400, "invalid", "name must be 1 to 100");
    // The schema keeps the two ways to say it together, and a tree's top on top.
    let mut tx = app.services.distribution().begin(START).await.unwrap();
    for refused in [
        "update distributor set active = 1 where distributor_id = 1",
        "update distributor set depth = 1 where distributor_id = 1",
        "update distributor set root_id = 2 where distributor_id = 1",
    ] {
        assert!(!run(&mut tx, refused).await, "{refused}");
    }
}

/// An answer that is not JSON.
async fn raw(app: &App, path: &str) -> (Response<()>, Vec<u8>) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let (parts, body) = app.services.router().oneshot(request).await.unwrap().into_parts();
    (Response::from_parts(parts, ()), to_bytes(body, usize::MAX).await.unwrap().to_vec())
}

async fn a_link_is_followed_and_its_code_reads_back(on: On) {
    let app = App::start(on).await;
    distributor(&app, 101, None).await;
    let make = |body: Value| app.post("/distribution/share-links", body);
    let (_, product) =
        make(json!({"distributor_id": 1, "product_id": 5, "campaign": "双十一"})).await;
    let (_, page) = make(json!({"distributor_id": 1, "page": "/a?b=c#d"})).await;
    let code = product["code"].as_str().unwrap();
    assert_eq!(product["address"], format!("http://127.0.0.1:8081/s/{code}"));
    assert_ne!(code, page["code"].as_str().unwrap());
    for (wrong, said) in [
        (json!({"distributor_id": 1}), "product_id or to a page"),
        (json!({"distributor_id": 1, "page": "/", "product_id": 1}), "product_id or to a page"),
        (json!({"distributor_id": 1, "page": "//evil.example.org"}), "one slash"),
        (json!({"distributor_id": 1, "page": "/", "campaign": ""}), "campaign"),
    ] {
        assert_error(make(wrong).await, 400, "invalid", said);
    }

    settings(&app, 0, json!({"link_base": "https://mall.example.org/"})).await;
    for scale in [1, 8] {
        let (answer, picture) =
            raw(&app, &format!("/distribution/share-links/1/qr.png?scale={scale}")).await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-type"]),
            (200, &"image/png".parse().unwrap())
        );
        let said = format!("https://mall.example.org/s/{code}?qr=1");
        assert_eq!(qr_reader::read(&picture), (said, scale));
    }
    let refused = app.get("/distribution/share-links/1/qr.png?scale=33").await;
    assert_error(refused, 400, "invalid", "scale");
    assert_error(app.get("/distribution/share-links/9/qr.png").await, 404, "not_found", "link 9");

    // Followed by nobody known, by its code, and by a person, who gets bound.
    let (answer, _) = raw(&app, &format!("/s/{code}?visitor=v-1")).await;
    assert_eq!(answer.status().as_u16(), 302);
    assert_eq!(answer.headers()["location"], format!("/products/5?share={code}"));
    raw(&app, &format!("/s/{code}?qr=1")).await;
    let (answer, _) = raw(&app, &format!("/s/{}", page["code"].as_str().unwrap())).await;
    let expected = format!("/a?b=c&share={}#d", page["code"].as_str().unwrap());
    assert_eq!(answer.headers()["location"], expected);
    let touched = app.made("/distribution/touches", json!({"code": code, "person_id": 7})).await;
    assert_eq!(touched["binding"]["link_id"], 1);
    let own = app.made("/distribution/touches", json!({"code": code, "person_id": 101})).await;
    assert_eq!((&own["binding"], &own["not_bound"]), (&Value::Null, &json!("own_link")));
    let (_, list) = app.get("/distribution/touches?link_id=1").await;
    let doors: Vec<Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| json!([t["door"], t["visitor"], t["person_id"]]))
        .collect();
    let expected = json!([
        ["link", "v-1", null],
        ["qr_code", null, null],
        ["link", null, 7],
        ["link", null, 101]
    ]);
    assert_eq!(Value::from(doors), expected);

    // An ended link leads nowhere and binds nobody; nor does a code that never was.
    app.made("/distribution/share-links/1/end", json!({})).await;
    assert_error(
        app.post("/distribution/share-links/1/end", json!({})).await,
        409,
        "conflict",
        "ended",
    );
    assert_error(app.get(&format!("/s/{code}")).await, 404, "not_found", code);
    assert_error(app.get("/s/%00'").await, 404, "not_found", "share link");
    assert_error(app.get("/s/%ff").await, 400, "invalid", "not text");
    let refused =
        app.post("/distribution/touches", json!({"code": "1111111", "person_id": 8})).await;
    assert_error(refused, 404, "not_found", "1111111");
    let (_, links) = app.get("/distribution/share-links?distributor_id=1&after_id=1").await;
    assert_eq!(links["items"].as_array().unwrap().len(), 1);
}

/// To whom a person is bound now and was at each moment, as the mall asks.
async fn promoter(app: &App, person: i64, at: i64) -> Option<i64> {
    let mut connection = app.services.distribution().read().await.unwrap();
    bindings::distributor_of(&mut connection, Scope::at(at), person).await.unwrap()
}

async fn a_buyer_is_bound_as_the_settings_say(on: On) {
    let app = App::start(on).await;
    for person in [101, 102] {
        distributor(&app, person, None).await;
        let link = json!({"distributor_id": person - 100, "page": "/"});
        app.made("/distribution/share-links", link).await;
    }
    let (_, links) = app.get("/distribution/share-links?distributor_id=1").await;
    let first = links["items"][0]["code"].clone();
    let (_, links) = app.get("/distribution/share-links?distributor_id=2").await;
    let second = links["items"][0]["code"].clone();
    let scan = |code: &Value, person: i64, registered: bool| {
        app.made(
            "/distribution/touches",
            json!({"code": code, "person_id": person, "registered": registered}),
        )
    };
    let now = || app.services.now();

    // Every scan takes the place of the one before; the same again changes nothing.
    assert!(scan(&first, 7, false).await["binding"].is_object());
    app.move_clock(SECOND);
    assert_eq!(scan(&first, 7, false).await["not_bound"], "already_bound");
    assert!(scan(&second, 7, false).await["binding"].is_object());
    assert_eq!(promoter(&app, 7, START).await, Some(1));
    assert_eq!(promoter(&app, 7, now()).await, Some(2));

    // At registration only.
    settings(&app, 0, json!({"binding_mode": "registration"})).await;
    assert_eq!(scan(&first, 8, false).await["not_bound"], "only_at_registration");
    assert_eq!(promoter(&app, 8, now()).await, None);
    assert!(scan(&first, 8, true).await["binding"].is_object());
    assert_eq!(scan(&second, 8, true).await["not_bound"], "already_bound");

    // The first while unbound, for ten days.
    settings(&app, 1, json!({"binding_mode": "first_bind", "binding_days": 10})).await;
    assert!(scan(&first, 9, false).await["binding"].is_object());
    assert_eq!(scan(&second, 9, false).await["not_bound"], "already_bound");
    let bound = now();
    app.move_clock(10 * DAY);
    assert_eq!(promoter(&app, 9, now() - 1).await, Some(1));
    assert_eq!(promoter(&app, 9, now()).await, None);
    app.move_clock(DAY);
    assert!(scan(&second, 9, false).await["binding"].is_object());
    assert_eq!(promoter(&app, 9, now()).await, Some(2));
    let (_, past) = app.get("/distribution/bindings?person_id=9").await;
    let past: Vec<Value> = past["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| json!([b["distributor_id"], b["bound_at"], b["unbound_at"], b["cause"]]))
        .collect();
    // The first ended when it expired, not when the next began.
    let expected =
        json!([[1, bound, bound + 10 * DAY, "scan"], [2, bound + 11 * DAY, null, "scan"]]);
    assert_eq!(Value::from(past), expected);

    // A scan of the same link prolongs a binding that would end.
    settings(&app, 2, json!({"binding_days": 10})).await;
    app.move_clock(5 * DAY);
    assert!(scan(&second, 9, false).await["binding"].is_object());
    app.move_clock(9 * DAY);
    assert_eq!(promoter(&app, 9, now()).await, Some(2));

    // Distributors buy for themselves only where the settings let them earn on it.
    assert_eq!(promoter(&app, 101, now()).await, None);
    settings(&app, 3, json!({"self_purchase_earns": true})).await;
    assert_eq!(promoter(&app, 101, now()).await, Some(1));

    let twice = app
        .scalar(
            app.services.distribution(),
            "select count(*) from (select person_id from binding where unbound_at is null
         group by tenant_id, person_id having count(*) > 1) t",
        )
        .await;
    assert_eq!(twice, 0);
    let elsewhere = "insert into binding (binding_id, tenant_id, person_id, distributor_id, bound_at, cause)
        select 99, tenant_id, person_id, 1, bound_at, cause from binding where unbound_at is null and person_id = 9";
    let mut tx = app.services.distribution().begin(START).await.unwrap();
    assert!(!run(&mut tx, elsewhere).await, "one binding at a time");
}

async fn alerts(app: &App, query: &str) -> Vec<Value> {
    let (_, list) = app.get(&format!("/distribution/tree-alerts{query}")).await;
    list["items"].as_array().unwrap().clone()
}

async fn resolve(app: &App, id: i64, note: &str) -> (u16, Value) {
    app.post(&format!("/distribution/tree-alerts/{id}/resolve"), json!({"note": note})).await
}

async fn a_tree_that_grows_too_far_is_told_of_once(on: On) {
    let app = App::start(on).await;
    distributor(&app, 1_000, None).await;
    // Two levels below the organiser, and 29 people: nothing yet.
    for person in 1..=28 {
        distributor(&app, 1_000 + person, Some(1)).await;
    }
    distributor(&app, 1_029, Some(2)).await;
    let application = json!({"person_id": 1_030, "parent_id": 1, "kind": "person", "name": "n"});
    let applied = app.made("/distribution/applications", application).await;
    assert!(alerts(&app, "").await.is_empty(), "who applied is not counted");
    let approve = format!("/distribution/distributors/{}/approve", applied["distributor_id"]);
    app.made(&approve, json!({})).await;
    let raised = alerts(&app, "").await;
    assert_eq!(raised.len(), 1);
    assert_eq!(
        (&raised[0]["reason"], &raised[0]["people"], &raised[0]["depth"]),
        (&json!("people"), &json!(30), &json!(2))
    );
    // A third level, and then more of everything: each reason is told of once.
    distributor(&app, 1_031, Some(30)).await;
    distributor(&app, 1_032, Some(32)).await;
    let raised = alerts(&app, "?status=open").await;
    assert_eq!(raised.len(), 2);
    assert_eq!(
        (&raised[1]["reason"], &raised[1]["root_id"], &raised[1]["depth"]),
        (&json!("depth"), &json!(1), &json!(3))
    );
    assert_error(resolve(&app, 1, "").await, 400, "invalid", "note");
    assert_error(resolve(&app, 9, "n").await, 404, "not_found", "alert 9");
    assert_eq!(resolve(&app, 1, "已核实").await.1["status"], "resolved");
    assert_error(resolve(&app, 1, "n").await, 409, "conflict", "resolved");
    distributor(&app, 1_033, Some(1)).await;
    assert_eq!((alerts(&app, "").await.len(), alerts(&app, "?status=open").await.len()), (2, 1));
    // Others are told: as often as it was raised.
    let told = "select count(*) from outbox where event_type = 'alert_raised'";
    let told = app.scalar(app.services.distribution(), told).await;
    assert!(told == 0 || told == 2, "{told}: nobody listens, or each is told of once");
}

async fn settings_have_ranges_and_versions(on: On) {
    let app = App::start(on).await;
    let (_, before) = app.get("/distribution/settings").await;
    assert_eq!(
        (&before["version"], &before["freeze_days"], &before["levels"]),
        (&json!(0), &json!(7), &json!(2))
    );
    for (wrong, said) in [
        (json!({"levels": 3}), "no more than two levels"),
        (json!({"binding_days": 0}), "binding_days"),
        (json!({"cap_bp": 10_001}), "cap_bp"),
        (json!({"freeze_days": 181}), "freeze_days"),
        (json!({"payout_min_fen": 0}), "payout_min_fen"),
        (json!({"link_base": "ftp://x"}), "link_base"),
        (json!({"link_base": "https://"}), "link_base"),
        (json!({"binding_mode": "never"}), "never"),
    ] {
        assert_error(app.post("/distribution/settings", wrong).await, 400, "invalid", said);
    }
    let made = settings(&app, 0, json!({"levels": 1})).await;
    assert_eq!((&made["version"], &made["levels"]), (&json!(1), &json!(1)));
    let late = app.post("/distribution/settings", json!({"based_on_version": 0})).await;
    assert_error(late, 409, "conflict", "no longer those of version 0");
    let mut tx = app.services.distribution().begin(START).await.unwrap();
    for refused in
        ["update programme_setting set levels = 3", "update programme_setting set levels = 0"]
    {
        assert!(!run(&mut tx, refused).await, "{refused}");
    }
}

async fn distributors_see_what_is_theirs(on: On) {
    let (app, _) = guarded(on).await;
    let (_, _, staff) = program(&app, Permission::ALL.to_vec()).await;
    let (first, own) = customer(&app, "first").await;
    let (second, _) = customer(&app, "second").await;
    let ask = async |token: &str, method: &str, path: &str, body: Option<Value>| {
        with_token(&app, method, &format!("/distribution/{path}"), token, body).await
    };
    for person in [&first, &second] {
        let body = json!({"person_id": person, "kind": "person", "name": "n"});
        let added = ask(&staff, "POST", "distributors", Some(body.clone())).await;
        assert_eq!(added.0, 201, "{added:?}");
        let refused = ask(&own, "POST", "distributors", Some(body)).await;
        assert_eq!(refused.0, 403, "only staff admits");
    }
    let (_, all) = ask(&staff, "GET", "distributors", None).await;
    let id = |at: usize| all["items"][at]["distributor_id"].as_i64().unwrap();
    let (mine, others) = (id(0), id(1));
    let (_, seen) = ask(&own, "GET", "distributors", None).await;
    assert_eq!(seen["items"], json!([all["items"][0]]));
    let (_, balances) = ask(&own, "GET", "balances", None).await;
    assert_eq!(balances["items"].as_array().unwrap().len(), 1);
    for path in [
        "distributors/{id}",
        "distributors/{id}/balance",
        "share-links?distributor_id={id}",
        "entries?beneficiary_id={id}",
    ] {
        let of = |id: i64| path.replace("{id}", &id.to_string());
        assert_eq!(ask(&own, "GET", &of(mine), None).await.0, 200, "{path}");
        assert_eq!(ask(&own, "GET", &of(others), None).await.0, 404, "{path}");
    }
    for (path, body) in [
        ("settings", json!({})),
        ("bindings", json!({"person_id": first, "distributor_id": others})),
        ("adjustments", json!({"beneficiary_id": mine, "amount_fen": 1, "reason": "r"})),
        ("settlements", json!({"period": "2026-10"})),
        ("applications", json!({"person_id": 999, "kind": "person", "name": "n"})),
        ("touches", json!({"person_id": second, "code": "1111111"})),
    ] {
        assert_eq!(ask(&own, "POST", path, Some(body)).await.0, 403, "{path}");
    }

    let link = |distributor: i64| Some(json!({"distributor_id": distributor, "page": "/"}));
    assert_eq!(ask(&own, "POST", "share-links", link(others)).await.0, 404);
    let (status, shared) = ask(&own, "POST", "share-links", link(mine)).await;
    assert_eq!(status, 201, "{shared}");
    let (_, theirs) = ask(&staff, "POST", "share-links", link(others)).await;
    // Whoever has the address may follow it; that they have just registered is not taken from them.
    let (followed, _) = raw(&app, &format!("/s/{}", shared["code"].as_str().unwrap())).await;
    assert_eq!(followed.status().as_u16(), 302);
    let mode = json!({"binding_mode": "registration"});
    assert_eq!(ask(&staff, "POST", "settings", Some(mode)).await.0, 201);
    let touch = json!({"person_id": first, "code": theirs["code"], "registered": true});
    let (_, touched) = ask(&own, "POST", "touches", Some(touch.clone())).await;
    assert_eq!(touched["not_bound"], "only_at_registration", "{touched}");
    let (_, touched) = ask(&staff, "POST", "touches", Some(touch)).await;
    assert!(touched["binding"].is_object(), "{touched}");
    // They learn how many came by their link, not who.
    let touch = json!({"person_id": second, "code": shared["code"]});
    ask(&staff, "POST", "touches", Some(touch)).await;
    let touches = format!("touches?link_id={}", shared["link_id"]);
    let (_, seen) = ask(&own, "GET", &touches, None).await;
    let who: Vec<&Value> =
        seen["items"].as_array().unwrap().iter().map(|t| &t["person_id"]).collect();
    assert_eq!(who, [&Value::Null, &Value::Null]);
    let touches = format!("touches?link_id={}", theirs["link_id"]);
    assert_eq!(ask(&own, "GET", &touches, None).await.0, 404);
}
