//! Master keys: everything comes under a new one, none that holds something can be taken away, and with a
//! file that is not the right one nothing starts and nothing is lost.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use medlake_operational::{Connection, Options, Services};
use serde_json::{Value, json};

use crate::{
    App, On, assert_error,
    notification::{Receiver, is_signed},
    privacy::{ID_CARD, NAME, PHONE, enrol, found},
    rows,
};

on_both! {
    everything_comes_under_a_new_key,
    a_wrong_file_is_refused_and_nothing_is_lost,
}

/// What each key holds: patients, persons, keys of tokens, webhooks.
fn held(uses: &Value) -> Vec<(String, [i64; 4], bool)> {
    let kinds = ["patients", "persons", "signing_keys", "webhooks"];
    uses["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| {
            let id = key["key_id"].as_str().unwrap().to_owned();
            let holds = kinds.map(|kind| key["holds"][kind].as_i64().unwrap());
            assert_eq!(key["removable"], holds == [0; 4] && key["in_use"] == false, "{key}");
            (id, holds, key["in_use"] == true)
        })
        .collect()
}

fn key(id: &str, holds: [i64; 4], in_use: bool) -> (String, [i64; 4], bool) {
    (id.to_owned(), holds, in_use)
}

async fn everything_comes_under_a_new_key(on: On) {
    let mut app = App::start(on).await;
    app.services.use_options(Options { private_webhooks: true, ..Options::default() });
    for person in 1..=3 {
        enrol(&app, person).await;
    }
    app.made("/identity/persons", json!({"name": NAME, "phone": PHONE})).await;
    let (_, signing) = app.get("/identity/signing-keys").await;
    let receiver = Receiver::default();
    let (address, _tasks) = receiver.start().await;
    let hook = app.made("/notifications/webhooks", json!({"url": address})).await;
    let secret = hook["secret"].as_str().unwrap();
    let texts = "select person_id, field, ciphertext from _identifier order by 1, 2";
    let read = |app: &App| {
        let database = app.services.chronic_care().clone();
        async move {
            let mut on: medlake_operational::ReadTransaction = database.read().await.unwrap();
            let on: &mut Connection = &mut on;
            rows::<(i64, String, Vec<u8>)>(on, texts).await
        }
    };
    let before = read(&app).await;
    let keys = "/identity/master-keys";
    assert_eq!(held(&app.get(keys).await.1), [key("k1", [3, 1, 2, 1], true)]);

    // Twice the same request makes one key.
    let rotate = format!("{keys}/rotate");
    let rotated = app.post_raw(&rotate, "{}", Some("rotation")).await;
    assert_eq!(app.post_raw(&rotate, "{}", Some("rotation")).await, rotated);
    assert_eq!(held(&rotated.1), [key("k1", [3, 1, 2, 1], false), key("k2", [0; 4], true)]);
    assert_eq!(found(&app, json!({"phone": PHONE})).await, 3, "by the older key's tokens");
    let said = "3 patients, 1 persons, 2 signing_keys, 1 webhooks";
    assert_error(app.delete(&format!("{keys}/k1")).await, 409, "conflict", said);
    app.services.run_due().await.unwrap();
    let after = app.get(keys).await.1;
    assert_eq!(held(&after), [key("k1", [0; 4], false), key("k2", [3, 1, 2, 1], true)]);

    // A transaction beside that is about to keep something under it stops it, too.
    let keep = "insert into webhook
         (webhook_id, tenant_id, url, state, master_key_id, wrapped_secret, created_at)
         values (77, 1, 'https://example.org', 'disabled', 'k1', '', '2026-01-01')";
    let mut tx = app.services.support().begin(app.services.now()).await.unwrap();
    assert!(crate::run(&mut tx, keep).await);
    tx.commit().await.unwrap();
    let said = "1 webhooks";
    assert_error(app.delete(&format!("{keys}/k1")).await, 409, "conflict", said);
    let mut tx = app.services.support().begin(app.services.now()).await.unwrap();
    assert!(crate::run(&mut tx, "delete from webhook where webhook_id = 77").await);
    tx.commit().await.unwrap();
    let left = app.delete(&format!("{keys}/k1")).await.1;
    assert_eq!(held(&left), [key("k2", [3, 1, 2, 1], true)]);
    let mut tx = app.services.support().begin(app.services.now()).await.unwrap();
    assert!(!crate::run(&mut tx, keep).await, "nothing can be kept under a key that is gone");
    tx.rollback().await.unwrap();
    assert_error(app.delete(&format!("{keys}/k2")).await, 409, "conflict", "in use");
    assert_error(app.delete(&format!("{keys}/k1")).await, 404, "not_found", "\"k1\"");

    // All of it opens as before, in a new process too.
    app.reopen().await;
    app.services.use_options(Options { private_webhooks: true, ..Options::default() });
    assert_eq!(read(&app).await, before);
    assert_eq!(found(&app, json!({"id_card": ID_CARD})).await, 3);
    let (_, clear) = app.get("/chronic-care/patients/3/identifiers?purpose=call").await;
    assert_eq!(clear["name"], NAME);
    assert_eq!(app.get("/identity/persons/1/identifiers").await.1["phone"], PHONE);
    let same = app.post("/identity/persons", json!({"name": NAME, "phone": PHONE})).await;
    assert_eq!(same.0, 409, "{same:?}");
    assert_eq!(app.get("/identity/signing-keys").await.1, signing);
    let new = json!({"request_key": "k", "template": "order_shipped",
        "parameters": {"order_id": "17"}});
    app.made("/notifications", new).await;
    app.services.run_due().await.unwrap();
    let heard = receiver.heard.lock().await;
    assert_eq!(heard.len(), 1);
    is_signed(&heard[0], secret);
}

/// Opens the services of an app with a file of keys, as another process does.
async fn opened(app: &App, file: &Path) -> Result<Services, String> {
    let now = app.services.now();
    let clock = Arc::new(move || now);
    let services = Services::open_without_keys(&app.storage, clock, Arc::new(|| ())).await.unwrap();
    let used = services.use_key_file(file).await;
    used.map(|()| services).map_err(|error| error.to_string())
}

async fn a_wrong_file_is_refused_and_nothing_is_lost(on: On) {
    let app = App::start(on).await;
    let file = app.folder().join("master.keys");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    enrol(&app, 1).await;
    let first = fs::read(&file).unwrap();
    app.made("/identity/master-keys/rotate", json!({})).await;
    app.services.run_due().await.unwrap();
    let both = fs::read(&file).unwrap();
    let elsewhere = app.folder().join("elsewhere/master.keys");

    let refused = async |said: &str| {
        let error = opened(&app, &file).await.map(drop).unwrap_err();
        assert!(error.contains(said), "{error}");
        assert!(error.contains(file.to_str().unwrap()), "{error}");
    };
    fs::remove_file(&file).unwrap();
    refused("is not there").await;
    assert!(!file.exists(), "no other is made in its place");
    // What runs goes on by what it has read, and says so when it looks.
    let (_, clear) = app.get("/chronic-care/patients/1/identifiers?purpose=call").await;
    assert_eq!(clear["name"], NAME);
    let before = app.dump(app.services.chronic_care()).await;
    assert!(app.services.run_due().await.unwrap_err().to_string().contains("cannot be read"));
    let put = |bytes: &[u8], mode| {
        fs::write(&file, bytes).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    };
    put(&both, 0o640);
    refused("chmod 600").await;
    put(&both[..both.len() - 3], 0o600);
    refused("not a whole one").await;
    // As it was before the rotation, and as another machine would make it.
    put(&first, 0o600);
    refused("lacks a master key").await;
    let other = Services::open(
        &medlake_operational::Storage::files(&app.folder().join("other")),
        Arc::new(|| crate::START),
        Arc::new(|| ()),
    )
    .await
    .unwrap();
    drop(other);
    put(&fs::read(app.folder().join("other/master.keys")).unwrap(), 0o600);
    refused("has another key").await;
    assert!(opened(&app, &elsewhere).await.unwrap_err().contains("is not there"));
    assert!(!elsewhere.exists());

    // Nothing was written under any of them; with the right one all is as it was.
    put(&both, 0o600);
    let again = opened(&app, &file).await.unwrap();
    let again = App { services: again, ..app };
    assert!(again.dump(again.services.chronic_care()).await == before);
    let (_, clear) = again.get("/chronic-care/patients/1/identifiers?purpose=call").await;
    assert_eq!(clear["name"], NAME);
}
