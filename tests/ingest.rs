//! `medlake ingest …`, beside a running platform.

use std::{path::Path, time::Duration};

use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

use crate::platform::{self, Platform};

/// What `medlake ingest …` says, and whether it ended well.
fn ingest(data: &Path, arguments: &[&str]) -> (bool, String) {
    platform::said(data, &[&["ingest"], arguments].concat())
}

#[tokio::test]
async fn a_table_is_compared_repaired_and_copied_again_while_it_is_read() {
    let _alone = platform::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let (well, said) = ingest(dir.path(), &["status"]);
    assert!(!well && said.contains("could not reach a running pipeline"), "{said}");

    let platform = Platform::quiet(dir.path()).await;
    platform::shop(&platform).await;
    platform.caught_up(Duration::from_secs(30)).await;
    let (well, said) = ingest(dir.path(), &["status"]);
    assert!(well && said.contains("mall.orders  streaming"), "{said}");
    let (well, said) = ingest(dir.path(), &["verify", "mall.orders"]);
    assert!(well && said.contains("0 missing in the lake, 0 different, 0 that"), "{said}");
    let (well, said) = ingest(dir.path(), &["verify", "mall.nothing"]);
    assert!(!well && said.contains("not one that is taken in"), "{said}");

    // Changes that nobody is told of: one row is another, and one is gone.
    let file = dir.path().join("operational/mall.db");
    let options = SqliteConnectOptions::new().filename(file).foreign_keys(false);
    let mut mall = options.busy_timeout(Duration::from_secs(10)).connect().await.unwrap();
    let mut write = mall.begin_with("begin immediate").await.unwrap();
    let newest = "(select seq from sqlite_sequence where name = 'cdc_change')";
    let before: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select {newest}")))
        .fetch_one(&mut *write)
        .await
        .unwrap();
    sqlx::raw_sql(
        "insert into cdc_transaction (committed_at) values (1);
         update product set name = name || ' (other)'
             where product_id = (select min(product_id) from product);",
    )
    .execute(&mut *write)
    .await
    .unwrap();
    sqlx::query("delete from cdc_change where change_id > ?")
        .bind(before)
        .execute(&mut *write)
        .await
        .unwrap();
    sqlx::query("update sqlite_sequence set seq = ? where name = 'cdc_change'")
        .bind(before)
        .execute(&mut *write)
        .await
        .unwrap();
    write.commit().await.unwrap();
    let (well, said) = ingest(dir.path(), &["verify", "mall.product"]);
    assert!(!well && said.contains("0 missing in the lake, 1 different, 0 that"), "{said}");
    assert!(said.contains("product_id=") && said.contains("(other)"), "{said}");
    let (well, said) = ingest(dir.path(), &["verify", "mall.product", "--repair"]);
    assert!(well && said.contains("is repaired"), "{said}");
    let (well, said) = ingest(dir.path(), &["verify", "mall.product"]);
    assert!(well, "{said}");
    let other = platform.rows("select count(*) from mall.product where name like '%(other)'").await;
    assert_eq!(other[0][0].to_string().trim_matches('"'), "1");

    for arguments in
        [&["resync", "mall.orders"][..], &["resync", "--all"], &["retry", "mall.orders"]]
    {
        let (well, said) = ingest(dir.path(), arguments);
        assert!(well, "{arguments:?}: {said}");
    }
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let (_, said) = ingest(dir.path(), &["status"]);
        if !said.contains("snapshotting") {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "{said}");
    }
    let (well, said) = ingest(dir.path(), &["verify", "mall.orders"]);
    assert!(well, "{said}");
    assert!(platform.stop().success());
}
