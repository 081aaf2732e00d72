//! Files: stored once, read back as they were, and gone when nobody has them.

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use futures::TryStreamExt as _;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{
    App, DAY, On, assert_error,
    identity::{customer, guarded, program},
    s3_server::{self, S3Server},
};
use medlake_operational::{
    files::{BucketAccess, FileStore},
    identity::Permission,
};
use object_store::{ObjectStore, ObjectStoreExt, aws::AmazonS3Builder, path::Path};

on_both! {
    a_file_is_read_back_as_it_was_and_by_whom_it_belongs_to,
    a_file_that_is_sent_again_is_one,
}

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

async fn a_file_that_is_sent_again_is_one(on: On) {
    let app = App::start(on).await;
    let folder = app.folder.path().join("store");
    app.services.use_file_store(&FileStore::Folder(folder.clone())).unwrap();
    let send = async |name: &str, key: &str| {
        let request = Request::post(format!("/files?name={name}"))
            .header("content-type", "text/plain")
            .header("idempotency-key", key)
            .body(Body::from("all is well"))
            .unwrap();
        app.send(request).await
    };
    let (first, second) = tokio::join!(send("report.txt", "a"), send("report.txt", "a"));
    assert_eq!((first.0, &first), (201, &second));
    assert!(first.1.get("object").is_none(), "{}", first.1);
    assert_error(send("other.txt", "a").await, 409, "conflict", "another request");
    assert_eq!(send("other.txt", "b").await.0, 201);
    let listed = app.get("/files").await.1;
    assert_eq!(listed["items"].as_array().unwrap().len(), 2, "{listed}");
    assert_eq!(objects(&folder).len(), 1);
}

/// What is in the bucket below a prefix. The server shows folders, too, for a while after they are empty.
async fn in_bucket(bucket: &dyn ObjectStore, prefix: &str) -> Vec<Path> {
    let listed: Vec<_> = bucket.list(Some(&Path::from(prefix))).try_collect().await.unwrap();
    let found = listed.into_iter().map(|object| object.location);
    found.filter(|path| path.parts().count() == Path::from(prefix).parts().count() + 3).collect()
}

/// A real bucket, for services on either database.
#[tokio::test]
async fn a_bucket_keeps_files_as_a_folder_does() {
    let mut server = S3Server::start();
    server.make_bucket("hospital").await;
    let bucket = AmazonS3Builder::new()
        .with_bucket_name("hospital")
        .with_region("us-east-1")
        .with_endpoint(server.endpoint())
        .with_access_key_id(s3_server::ACCESS_KEY)
        .with_secret_access_key(s3_server::SECRET_KEY)
        .with_allow_http(true)
        .build()
        .unwrap();
    for on in [On::Sqlite, On::MariaDb] {
        let app = App::start(on).await;
        let prefix = format!("files/{on:?}");
        let store = |secret: &str| FileStore::Bucket {
            url: format!("s3://hospital/{prefix}"),
            endpoint: Some(server.endpoint()),
            region: "us-east-1".to_owned(),
            access: BucketAccess::Keys {
                access_key_id: s3_server::ACCESS_KEY.to_owned(),
                secret_access_key: secret.to_owned(),
                session_token: None,
            },
            path_style: true,
            allow_http: true,
        };
        assert!(!format!("{:?}", store("geheim")).contains("geheim"));
        app.services.use_file_store(&store(s3_server::SECRET_KEY)).unwrap();
        let (status, file) = upload(&app, "", "name=a.png", "image/png", PNG).await;
        assert_eq!(status, 201, "{file}");
        let (_, same) = upload(&app, "", "name=b.png", "image/png", PNG).await;
        let (answer, bytes) = content(&app, "", &file["file_id"]).await;
        assert_eq!((answer.status.as_u16(), bytes.as_slice()), (200, PNG));
        let there = in_bucket(&bucket, &prefix).await;
        assert_eq!(there.len(), 1, "{there:?}");
        assert!(there[0].as_ref().starts_with(&format!("{prefix}/1/")), "{there:?}");

        // Deleted is what nobody has any more; left over is what no row was ever written of.
        let delete = async |file: &Value| {
            app.post(&format!("/files/{}/delete", file["file_id"]), json!({})).await
        };
        assert_eq!(delete(&file).await.0, 200);
        app.services.run_due().await.unwrap();
        assert_eq!(content(&app, "", &same["file_id"]).await.1, PNG);
        bucket.put(&there[0], "changed".into()).await.unwrap();
        assert_eq!(content(&app, "", &same["file_id"]).await.0.status, 500);
        let left_over = Path::from(format!("{prefix}/1/aa/aa00"));
        bucket.put(&left_over, "left over".into()).await.unwrap();
        let others = Path::from(format!("{prefix}-of-others/1/aa/aa00"));
        bucket.put(&others, "of others".into()).await.unwrap();
        assert_eq!(delete(&same).await.0, 200);
        // Who stores the same bytes just then has an object of their own, which no sweep mistakes for the other.
        let (_, own) = upload(&app, "", "name=c.png", "image/png", PNG).await;
        assert_eq!(in_bucket(&bucket, &prefix).await.len(), 3);
        app.move_clock(DAY * 365 * 20);
        app.services.run_due().await.unwrap();
        assert_eq!(content(&app, "", &own["file_id"]).await.1, PNG);
        let there = in_bucket(&bucket, &prefix).await;
        assert_eq!(there.len(), 1, "{there:?}");
        assert_eq!(delete(&own).await.0, 200);
        app.move_clock(DAY);
        app.services.run_due().await.unwrap();
        assert_eq!(in_bucket(&bucket, &prefix).await, Vec::<Path>::new());
        assert_eq!(in_bucket(&bucket, &format!("{prefix}-of-others")).await, [others]);

        // With a wrong secret it is the place that failed, not who asks.
        let stranger = App::start(on).await;
        stranger.services.use_file_store(&store("wrong")).unwrap();
        let (status, refused) = upload(&stranger, "", "name=a.png", "image/png", PNG).await;
        assert_eq!((status, &refused["error"]["code"]), (503, &json!("unavailable")), "{refused}");
        let (_, listed) = stranger.get("/files").await;
        assert_eq!(listed["items"], json!([]), "no row without its bytes");
    }
    // A bucket that is away says so, and nothing else stands still for it.
    let app = App::start(On::Sqlite).await;
    app.services
        .use_file_store(&FileStore::Bucket {
            url: "s3://hospital/away".to_owned(),
            endpoint: Some(server.endpoint()),
            region: "us-east-1".to_owned(),
            access: BucketAccess::Anonymous,
            path_style: true,
            allow_http: true,
        })
        .unwrap();
    server.kill();
    let upload = upload(&app, "", "name=a.png", "image/png", PNG);
    let (refused, health) = tokio::join!(upload, app.get("/healthz"));
    assert_error(refused, 503, "unavailable", "the place where files are kept failed");
    assert_eq!(health.0, 200);
}
