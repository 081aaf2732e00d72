//! Files: stored once, read back as they were, and gone when nobody has them.

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{
    App, DAY, On, assert_error,
    identity::{customer, guarded, program},
};
use medlake_operational::{files::FileStore, identity::Permission};

on_both! { a_file_is_read_back_as_it_was_and_by_whom_it_belongs_to }

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nbytes of a picture";

async fn upload(app: &App, token: &str, query: &str, of_type: &str, bytes: &[u8]) -> (u16, Value) {
    let request = Request::post(format!("/files?{query}"))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", of_type)
        .body(Body::from(bytes.to_vec()))
        .unwrap();
    app.send(request).await
}

async fn content(app: &App, token: &str, id: &Value) -> (axum::http::response::Parts, Vec<u8>) {
    let request = Request::get(format!("/files/{id}/content"))
        .header("authorization", format!("Bearer {token}"))
        .body(Body::empty())
        .unwrap();
    let (parts, body) = app.services.router().oneshot(request).await.unwrap().into_parts();
    (parts, to_bytes(body, usize::MAX).await.unwrap().to_vec())
}

fn objects(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(objects(&path)) } else { found.push(path) }
    }
    found
}

async fn a_file_is_read_back_as_it_was_and_by_whom_it_belongs_to(on: On) {
    let (app, _) = guarded(on).await;
    let folder = app.folder.path().join("files");
    app.services.use_file_store(&FileStore::Folder(folder.clone())).unwrap();
    let (_, own) = customer(&app, "buyer").await;
    let (other_person, other) = customer(&app, "other").await;
    let (_, _, staff) = program(&app, vec![Permission::FilesRead, Permission::FilesWrite]).await;
    let (status, file) = upload(&app, &own, "name=%E5%A4%84%E6%96%B9.png", "image/png", PNG).await;
    assert_eq!(
        (status, &file["name"], &file["size_bytes"]),
        (201, &json!("处方.png"), &json!(PNG.len()))
    );
    let (answer, bytes) = content(&app, &own, &file["file_id"]).await;
    assert_eq!(bytes, PNG);
    for (name, value) in [
        ("content-type", "image/png"),
        ("content-disposition", "attachment; filename*=UTF-8''%E5%A4%84%E6%96%B9.png"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "default-src 'none'; sandbox"),
    ] {
        assert_eq!(answer.headers[name], value);
    }
    assert_eq!(content(&app, &other, &file["file_id"]).await.0.status, 404);
    assert_eq!(content(&app, &staff, &file["file_id"]).await.0.status, 200);
    let anothers =
        upload(&app, &own, &format!("name=x&person_id={other_person}"), "image/png", PNG).await;
    assert_error(anothers, 403, "denied", "may not act for");

    assert_error(
        upload(&app, &staff, "name=x", "text/html", b"<p>").await,
        400,
        "invalid",
        "content type",
    );
    assert_error(
        upload(&app, &staff, "name=x", "image/png", b"<p>").await,
        400,
        "invalid",
        "not those of",
    );
    assert_error(upload(&app, &staff, "", "image/png", PNG).await, 400, "invalid", "name");
    let long = vec![b'x'; 11 << 20];
    assert_error(
        upload(&app, &staff, "name=x", "text/plain", &long).await,
        400,
        "invalid",
        "at most",
    );

    // The same bytes take no more room, and stay while somebody has them.
    let (_, again) = upload(&app, &staff, "name=copy.png", "image/png", PNG).await;
    assert_eq!((objects(&folder).len(), &again["sha256"]), (1, &file["sha256"]));
    let delete = |id: Value, token: String| {
        let request = Request::post(format!("/files/{id}/delete"))
            .header("authorization", format!("Bearer {token}"))
            .body(Body::empty())
            .unwrap();
        app.send(request)
    };
    assert_eq!(delete(file["file_id"].clone(), other).await.0, 404);
    assert_eq!(delete(file["file_id"].clone(), own.clone()).await.0, 200);
    assert_eq!(content(&app, &own, &file["file_id"]).await.0.status, 404);
    app.services.run_due().await.unwrap();
    assert_eq!(content(&app, &staff, &again["file_id"]).await.1, PNG);

    // What a crash left without a row goes a day later; what was changed on the disk is not given out.
    std::fs::create_dir_all(folder.join("1/aa")).unwrap();
    std::fs::write(folder.join("1/aa/aa00"), "left over").unwrap();
    std::fs::write(objects(&folder).iter().find(|o| !o.ends_with("aa00")).unwrap(), "changed")
        .unwrap();
    app.move_clock(600 * 1_000_000);
    let (_, _, staff) = program(&app, vec![Permission::FilesRead, Permission::FilesWrite]).await;
    assert_eq!(content(&app, &staff, &again["file_id"]).await.0.status, 500);
    assert_eq!(delete(again["file_id"].clone(), staff).await.0, 200);
    app.move_clock(3 * DAY * 365 * 20);
    app.services.run_due().await.unwrap();
    assert_eq!(objects(&folder), Vec::<std::path::PathBuf>::new());
}
