//! The lake's own commands, beside a running platform and after it.

use std::path::Path;

use crate::platform::{self, Platform};

/// What `medlake lake …` says, and whether it ended well.
fn lake(data: &Path, arguments: &[&str]) -> (bool, String) {
    platform::said(data, &[&["lake"], arguments].concat())
}

#[tokio::test]
async fn the_lake_is_verified_and_looked_after_by_hand() {
    let _alone = platform::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let (well, said) = lake(dir.path(), &["check"]);
    assert!(!well && said.contains("could not find a lake"), "{said}");

    let platform = Platform::quiet(dir.path()).await;
    platform::shop(&platform).await;
    let (well, said) = lake(dir.path(), &["check"]);
    assert!(well && said.contains(" 0 findings"), "beside its writer: {said}");
    let (well, said) = lake(dir.path(), &["compact", "--dry-run", "--table", "mall.orders"]);
    assert!(well && said.contains("mall.orders: would merge"), "{said}");
    let (well, said) = lake(dir.path(), &["compact"]);
    assert!(!well && said.contains("stop it first, or use --dry-run"), "{said}");
    assert!(platform.stop().success());

    for (arguments, expected) in [
        (&["expire", "--keep", "1", "--keep-minutes", "0"][..], "forgot"),
        (&["compact"], "data files became"),
        (&["rewrite-manifests", "--dry-run"], "mall.orders: "),
        (&["rewrite-manifests"], " manifests became 1"),
        (&["orphans"], "removed 0 files"),
        (&["orphans", "--dry-run"], "0 files that nothing names"),
        (&["delta", "--table", "mall.orders"], "mall.orders: Delta version 1 names 1 files"),
        (&["check"], " 0 findings"),
    ] {
        let (well, said) = lake(dir.path(), arguments);
        assert!(well && said.contains(expected), "{arguments:?}: {said}");
    }
    // Nobody reads on: the work is done all the same.
    let mut gone = platform::binary();
    gone.args(["lake", "orphans", "--data"]).arg(dir.path()).stdout(std::process::Stdio::piped());
    let mut gone = gone.spawn().unwrap();
    drop(gone.stdout.take());
    assert!(gone.wait().unwrap().success());

    let (well, said) = lake(dir.path(), &["check", "--table", "mall.nothing"]);
    assert!(!well && said.contains("\"mall.nothing\" is not in the lake"), "{said}");

    let data = dir.path().join("lake/warehouse/mall/orders/data");
    let file = std::fs::read_dir(data).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(&file).unwrap();
    let (well, said) = lake(dir.path(), &["check"]);
    assert!(!well && said.contains("is missing") && said.contains("is damaged"), "{said}");
}
