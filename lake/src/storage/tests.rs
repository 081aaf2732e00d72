use std::io::Write;

use futures::TryStreamExt;
use tempfile::TempDir;

use super::*;

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
