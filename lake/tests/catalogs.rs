//! A lake whose catalog is a database server: its whole life, and what goes wrong on the way.

use std::{path::Path, time::Duration};

use medlake_lake::{CatalogConfig, Follower, Lake, LakeConfig, LakeError};

use crate::{
    fixtures::{clock, orders, upserts, write},
    parts,
    servers::{Cut, DatabaseServer, Kind, Proxy},
};

fn config(folder: &Path, url: &str, catalog_name: &str) -> LakeConfig {
    LakeConfig {
        catalog: url.parse::<CatalogConfig>().unwrap(),
        catalog_name: catalog_name.to_owned(),
        ..LakeConfig::new(folder, clock())
    }
}

async fn open(folder: &Path, url: &str, catalog_name: &str) -> Lake {
    let lake = Lake::open(config(folder, url, catalog_name)).await.unwrap();
    lake.create_tables(&[orders()]).await.unwrap();
    lake
}

fn row_count(lake: &Lake) -> u64 {
    lake.read_view().tables()[0].row_count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_lives_in_postgresql() {
    on(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_lives_in_mariadb() {
    on(Kind::MariaDb).await;
}

async fn on(kind: Kind) {
    let mut server = DatabaseServer::start(kind).await;
    its_whole_life(&server).await;
    a_table_of_an_older_jdbc_catalog_is_opened(&server).await;
    a_later_writer_ends_the_earlier_one(&server).await;
    a_deadlock_passes(&server).await;
    a_lost_answer_is_resolved_and_a_lost_commit_is_made_again(&server).await;
    the_server_may_die_and_come_back(&mut server).await;
}

async fn its_whole_life(server: &DatabaseServer) {
    let folder = tempfile::tempdir().unwrap();
    let url = server.url(server.port);
    let config = config(folder.path(), &url, "medlake");
    assert!(!format!("{config:?}").contains("geheim"), "{config:?}");
    let missing = Follower::open(&config).await.err().unwrap();
    assert!(matches!(missing, LakeError::Catalog { .. }), "{missing:?}");
    {
        let lake = open(folder.path(), &url, "medlake").await;
        write(&lake, &upserts((0..1_000).map(|k| (k, k)), 1)).await;
    }
    let lake = open(folder.path(), &url, "medlake").await;
    assert_eq!(row_count(&lake), 1_000);
    let mut follower = Follower::open(&config).await.unwrap();
    assert!(!follower.refresh().await.unwrap());
    write(&lake, &upserts((500..1_500).map(|k| (k, 10 * k)), 2)).await;
    assert!(follower.refresh().await.unwrap());
    assert!(!follower.refresh().await.unwrap(), "nothing was committed since");
    assert_eq!(follower.watch().borrow().tables()[0].row_count, 1_500);
    assert_eq!(follower.watch().borrow().positions(), &lake.committed_positions());

    let read = parts::python("read_sql_catalog.py", &[Path::new(&url)]);
    let amounts: i64 = (0..500).sum::<i64>() + (500..1_500).map(|k| 10 * k).sum::<i64>();
    assert_eq!(read.trim(), format!("mall.orders 1500 {amounts}"));
}

/// Spark and others made the tables before a catalog could hold views.
async fn a_table_of_an_older_jdbc_catalog_is_opened(server: &DatabaseServer) {
    server.execute("alter table iceberg_tables drop column iceberg_type").await;
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), &server.url(server.port), "older").await;
    write(&lake, &upserts([(1, 1)], 1)).await;
    assert_eq!(row_count(&lake), 1);
}

async fn a_later_writer_ends_the_earlier_one(server: &DatabaseServer) {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), &server.url(server.port), "fenced").await;
    lake.stage(&upserts([(1, 1)], 1)).unwrap();
    lake.publish();
    let take = "update medlake_writer set epoch = epoch + 1 where catalog_name = 'fenced'";
    server.execute(take).await;
    let error = lake.flush().await.unwrap_err();
    assert!(matches!(error, LakeError::Fenced { own: 1, current: 2 }), "{error:?}");
}

/// Somebody holds a table's row and then wants the writer's: one of the two is told to begin again.
async fn a_deadlock_passes(server: &DatabaseServer) {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), &server.url(server.port), "deadlock").await;
    lake.stage(&upserts([(1, 1)], 1)).unwrap();
    lake.publish();
    let table = "update iceberg_tables set iceberg_type = 'TABLE' where catalog_name = 'deadlock'";
    let writer = "update medlake_writer set epoch = epoch where catalog_name = 'deadlock'";
    macro_rules! against {
        ($pool:ty, $waits:literal) => {{
            let pool = <$pool>::connect(&server.url(server.port)).await.unwrap();
            let mut other = pool.begin().await.unwrap();
            sqlx::query(table).execute(&mut *other).await.unwrap();
            let other = async {
                let end = std::time::Instant::now() + Duration::from_secs(20);
                while sqlx::query($waits).fetch_optional(&pool).await.unwrap().is_none() {
                    assert!(std::time::Instant::now() < end, "nobody waits for the row");
                    // MariaDB shows this list as it was until nobody asked for 100 ms.
                    tokio::time::sleep(Duration::from_millis(150)).await;
                }
                // Fails where the server chose this one to begin again.
                let held = sqlx::query(writer).execute(&mut *other).await;
                drop(other);
                held
            };
            let (flushed, _) = tokio::join!(lake.flush(), other);
            assert_eq!(flushed.unwrap().rows, 1);
        }};
    }
    match server.kind {
        Kind::Postgres => against!(sqlx::PgPool, "select 1 from pg_locks where not granted"),
        Kind::MariaDb => against!(
            sqlx::MySqlPool,
            "select 1 from information_schema.innodb_trx where trx_state = 'LOCK WAIT'"
        ),
    }
}

async fn a_lost_answer_is_resolved_and_a_lost_commit_is_made_again(server: &DatabaseServer) {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(server.port, b"COMMIT");
    let lake = open(folder.path(), &server.url(proxy.port), "cut").await;
    for (change_id, cut) in [(1, Cut::Answer), (2, Cut::Commit), (3, Cut::Nothing)] {
        let keys = i64::try_from(change_id).unwrap() * 100;
        lake.stage(&upserts((keys..keys + 100).map(|k| (k, k)), change_id)).unwrap();
        lake.publish();
        proxy.arm(cut);
        match lake.flush().await {
            Ok(report) => assert_eq!((report.rows, report.tables), (100, 1), "{cut:?}"),
            Err(error) => {
                assert_eq!(cut, Cut::Commit, "{error:?}");
                assert!(matches!(error, LakeError::Catalog { .. }), "{error:?}");
                assert_eq!(lake.flush().await.unwrap().rows, 100, "nothing is lost");
            }
        }
        assert!(proxy.has_cut());
        assert_eq!(row_count(&lake), 100 * change_id);
    }
    drop(lake);
    let lake = open(folder.path(), &server.url(server.port), "cut").await;
    assert_eq!(row_count(&lake), 300);
}

async fn the_server_may_die_and_come_back(server: &mut DatabaseServer) {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(folder.path(), &server.url(server.port), "killed").await;
    write(&lake, &upserts((0..10).map(|k| (k, k)), 1)).await;
    server.server.kill();
    lake.stage(&upserts((5..15).map(|k| (k, 2 * k)), 2)).unwrap();
    lake.publish();
    let error = lake.flush().await.unwrap_err();
    assert!(error.kind().retryable(), "{error:?}");
    assert_eq!(row_count(&lake), 15, "what is published does not depend on the catalog");
    server.restart().await;
    assert_eq!(lake.flush().await.unwrap().rows, 10);
    drop(lake);
    assert_eq!(row_count(&open(folder.path(), &server.url(server.port), "killed").await), 15);
}
