use std::io::Write;

use futures::TryStreamExt;
use tempfile::TempDir;

use super::*;
use crate::{S3Credentials, config::Secret};

#[path = "../../tests/ports.rs"]
mod ports;
#[path = "../../tests/s3_server.rs"]
mod s3_server;

async fn storage(folder: &TempDir) -> Storage {
    Storage::open(&LakeConfig::new(folder.path(), Arc::new(|| 0))).await.unwrap()
}

async fn listed(storage: &Storage, prefix: &str) -> Vec<(String, u64)> {
    let found: Vec<Listed> = storage.list(prefix).try_collect().await.unwrap();
    let mut found: Vec<_> = found.into_iter().map(|f| (f.location, f.bytes)).collect();
    found.sort();
    found
}

#[tokio::test]
async fn what_is_persisted_is_read_whole_and_in_parts() {
    let folder = TempDir::new().unwrap();
    let storage = storage(&folder).await;
    let table = storage.table_location(&"mall.orders".parse().unwrap());
    let (data, meta) = (format!("{table}/data/a=1/x.bin"), format!("{table}/metadata/m.json"));
    let scope = storage.begin();
    scope.create(&data).unwrap().write_all(b"0123456789").unwrap();
    scope.write(&meta, "{}");
    assert_eq!(storage.size(&meta).await.unwrap(), None, "not there before it is persisted");
    scope.persist().await.unwrap();
    assert_eq!(storage.size(&data).await.unwrap(), Some(10));
    assert_eq!(storage.read(&meta).await.unwrap(), "{}");
    let parts = storage.read_ranges(&data, vec![7..10, 0..2, 3..3]).await.unwrap();
    assert_eq!(parts, ["789", "01", ""]);
    assert_eq!(listed(&storage, &table).await, [(data.clone(), 10), (meta.clone(), 2)]);
    assert_eq!(listed(&storage, &format!("{table}/nowhere")).await, []);
    let beyond = storage.read_ranges(&data, std::iter::once(5..11).collect()).await.unwrap_err();
    assert!(beyond.to_string().contains(&data), "{beyond}");

    storage.remove(vec![data.clone(), data, format!("{table}/data/never.bin")]).await;
    assert_eq!(listed(&storage, &table).await, [(meta, 2)]);
}

#[tokio::test]
async fn a_scope_never_writes_over_or_removes_a_file_of_another() {
    let folder = TempDir::new().unwrap();
    let storage = storage(&folder).await;
    let at = |name: &str| format!("{}/{name}", storage.0.warehouse);
    let first = storage.begin();
    first.write(&at("v1.json"), "first");
    first.persist().await.unwrap();

    let second = storage.begin();
    second.write(&at("v0.json"), "second");
    second.write(&at("v1.json"), "second");
    second.write(&at("v2.json"), "second");
    let error = second.persist().await.unwrap_err();
    assert!(error.to_string().contains("v1.json"), "{error}");
    second.create(&at("v1.json")).unwrap_err();
    second.discard().await;
    assert_eq!(storage.read(&at("v1.json")).await.unwrap(), "first");
    assert_eq!(listed(&storage, &storage.0.warehouse).await, [(at("v1.json"), 5)]);
}

#[tokio::test]
async fn addresses_of_other_programs_are_understood() {
    let folder = TempDir::new().unwrap();
    let storage = storage(&folder).await;
    let path = folder.path().join("warehouse/übersicht 1%20.txt");
    std::fs::write(&path, "x").unwrap();
    for scheme in ["file://", "file:", ""] {
        let location = format!("{scheme}{}", path.display());
        assert_eq!(storage.read(&location).await.unwrap(), "x", "{location}");
        assert!(storage.holds(&location), "{location}");
    }
    assert!(!storage.holds("file:///elsewhere/x"));
    for strange in ["hdfs://cluster/x", "relative/x", ""] {
        let error = storage.read(strange).await.unwrap_err();
        assert_eq!(error.kind(), medlake_contract::Kind::Unsupported, "{error}");
    }
}

/// What a bucket must do for us, on a real one: write only where nothing is, read parts, list, remove.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_is_as_good_as_a_folder() {
    let server = s3_server::S3Server::start();
    let folder = TempDir::new().unwrap();
    let config = LakeConfig {
        warehouse: "s3://bucket/some/where".parse().unwrap(),
        s3: S3Config {
            endpoint: Some(server.endpoint()),
            credentials: S3Credentials::Keys {
                access_key_id: s3_server::ACCESS_KEY.to_owned(),
                secret_access_key: Secret::new(s3_server::SECRET_KEY),
                session_token: None,
            },
            allow_http: true,
            ..S3Config::default()
        },
        ..LakeConfig::new(folder.path(), Arc::new(|| 0))
    };
    let missing = Storage::open(&config).await.unwrap_err();
    assert!(missing.to_string().contains("s3://bucket/some/where"), "{missing}");
    server.make_bucket("bucket").await;
    let storage = Storage::open(&config).await.unwrap();
    let table = storage.table_location(&"mall.orders".parse().unwrap());
    assert_eq!(table, "s3://bucket/some/where/mall/orders");
    let at = |name: &str| format!("{table}/{name}");
    let scope = storage.begin();
    scope.create(&at("data/dt=2026-01-01%2000/x y.bin")).unwrap().write_all(b"0123456789").unwrap();
    scope.write(&at("metadata/v1.json"), "first");
    scope.persist().await.unwrap();
    let odd = at("data/dt=2026-01-01%2000/x y.bin");
    let parts = storage.read_ranges(&odd, vec![7..10, 0..2, 3..3]).await.unwrap();
    assert_eq!(parts, ["789", "01", ""]);
    storage.read_ranges(&odd, std::iter::once(5..11).collect()).await.unwrap_err();
    let both = [(odd.clone(), 10), (at("metadata/v1.json"), 5)];
    assert_eq!(listed(&storage, &table).await, both);
    let hadoop = table.replace("s3://", "s3a://");
    assert!(listed(&storage, &hadoop).await.iter().all(|(l, _)| l.starts_with("s3a://bucket/")));
    assert_eq!(storage.read(&format!("{hadoop}/metadata/v1.json")).await.unwrap(), "first");
    assert!(storage.holds(&table) && storage.holds(&hadoop));
    assert!(
        !storage.holds("s3://bucket/some/where-else/x") && !storage.holds("s3://other/some/where")
    );

    // Two writers of one name: the second is told, and what the first wrote stays.
    let second = storage.begin();
    second.write(&at("metadata/v0.json"), "second");
    second.write(&at("metadata/v1.json"), "second");
    second.create(&odd).unwrap().write_all(b"second").unwrap();
    let error = second.persist().await.unwrap_err();
    let LakeError::File { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.kind(), ErrorKind::AlreadyExists, "{error:?}");
    second.discard().await;
    assert_eq!(listed(&storage, &table).await, both);
    assert_eq!(storage.read(&at("metadata/v1.json")).await.unwrap(), "first");
    assert_eq!(storage.size(&odd).await.unwrap(), Some(10));

    // More than one request removes.
    let many = storage.begin();
    (0..1_100).for_each(|n| many.write(&at(&format!("data/{n}.bin")), vec![0; n]));
    many.persist().await.unwrap();
    assert_eq!(listed(&storage, &table).await.len(), 1_102);
    many.discard().await;
    assert_eq!(listed(&storage, &table).await, both);
    storage.remove(vec![odd.clone(), odd.clone(), at("never")]).await;
    assert_eq!(storage.size(&odd).await.unwrap(), None);
    let error = storage.read(&odd).await.unwrap_err();
    assert!(error.to_string().contains("x y.bin"), "{error}");
}
