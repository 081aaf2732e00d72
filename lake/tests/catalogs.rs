//! A lake whose catalog is a database server: its whole life, and what goes wrong on the way.

use std::{path::Path, time::Duration};

use arrow::{
    array::{AsArray, RecordBatch, new_null_array},
    datatypes::Int64Type,
};
use datafusion::prelude::SessionContext;
use medlake_contract::{ChangeBatch, ChangeSet, Op};
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
    lake.load_indexes().await.unwrap();
    lake.create_tables(&[orders()]).await.unwrap();
    lake
}

/// What another program does to the table.
fn foreign(url: &str, action: &[&str]) {
    let arguments: Vec<&Path> =
        std::iter::once(url).chain(action.iter().copied()).map(Path::new).collect();
    parts::python("write_sql_catalog.py", &arguments);
}

/// Rows and the sum of their amounts, as our engine reads them.
async fn sums(lake: &Lake) -> (i64, i64) {
    ask(lake, "select count(*), sum(amount_fen) from lake.mall.orders").await.unwrap()
}

/// Two numbers.
async fn ask(lake: &Lake, sql: &str) -> datafusion::error::Result<(i64, i64)> {
    let context = SessionContext::new();
    context.register_catalog("lake", lake.read_view().catalog());
    let batches = context.sql(sql).await?.collect().await?;
    let number = |column: usize| batches[0].column(column).as_primitive::<Int64Type>().value(0);
    Ok((number(0), number(1)))
}

/// How many files there are in a folder.
fn files_under(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files_under(&path) } else { 1 }).sum()
}

#[tokio::test]
async fn a_snapshot_that_was_given_a_name_stays_until_the_name_goes() {
    let folder = tempfile::tempdir().unwrap();
    let config = LakeConfig {
        keep_snapshots: 2,
        keep_snapshots_micros: 0,
        orphan_micros: -3_600_000_000,
        ..LakeConfig::new(folder.path(), clock())
    };
    let url = format!("sqlite:///{}", folder.path().join("catalog.db").display());
    let named = "select count(*), sum(amount_fen) from lake.mall.\"orders@year-end\"";
    let lake = Lake::open(config.clone()).await.unwrap();
    lake.create_tables(&[orders()]).await.unwrap();
    write(&lake, &upserts((0..100).map(|k| (k, 1)), 1)).await;
    foreign(&url, &["tag", "year-end"]);
    for change_id in 2..10 {
        write(&lake, &upserts((0..100).map(|k| (k, 2)), change_id)).await;
        while !lake.maintain().await.unwrap().is_idle() {}
    }
    drop(lake);
    let lake = Lake::open(config).await.unwrap();
    lake.load_indexes().await.unwrap();
    lake.compact(&[], &mut |_, _| {}).await.unwrap();
    lake.expire(&[], 1, 0).await.unwrap();
    lake.remove_orphans(&[]).await.unwrap();
    assert_eq!(sums(&lake).await, (100, 200));
    assert_eq!(ask(&lake, named).await.unwrap(), (100, 100));

    foreign(&url, &["untag", "year-end"]);
    lake.flush().await.unwrap();
    let before = files_under(folder.path());
    lake.expire(&[], 1, 0).await.unwrap();
    assert!(ask(&lake, named).await.is_err());
    assert!(files_under(folder.path()) < before, "its files are gone");
    assert_eq!(sums(&lake).await, (100, 200));
}

#[tokio::test]
async fn what_other_programs_commit_is_taken_in() {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(LakeConfig::new(folder.path(), clock())).await.unwrap();
    lake.create_tables(&[orders()]).await.unwrap();
    let url = format!("sqlite:///{}", folder.path().join("catalog.db").display());
    let (folder, url) = (folder.path(), url.as_str());
    write(&lake, &upserts((0..1_000).map(|k| (k, 1)), 1)).await;
    write(&lake, &upserts((0..100).map(|k| (k, 2)), 2)).await;
    assert_eq!(sums(&lake).await, (1_000, 1_100));

    // New rows, and one of a key that is there: the later one counts.
    foreign(url, &["append", "2000:10,2001:10,500:10"]);
    lake.flush().await.unwrap();
    assert_eq!(sums(&lake).await, (1_002, 1_100 + 20 + 9));
    // They can be changed as any other.
    write(&lake, &upserts([(2_000, 30), (500, 30)], 3)).await;
    assert_eq!(sums(&lake).await, (1_002, 1_100 + 30 + 10 + 29));
    check_outside(folder, &lake).await;

    // Rows move to other files while some of them change here: these stay as changed, the deleted one
    // does not come back.
    lake.stage(&upserts([(5, 50), (3_000, 50)], 4)).unwrap();
    lake.stage(&delete(6, 5)).unwrap();
    lake.publish();
    let before = sums(&lake).await;
    foreign(url, &["rewrite"]);
    lake.flush().await.unwrap();
    assert_eq!(sums(&lake).await, before);
    check_outside(folder, &lake).await;
    write(&lake, &upserts([(7, 70), (6, 60)], 6)).await;
    assert_eq!(sums(&lake).await, (before.0 + 1, before.1 + 68 + 60));
    check_outside(folder, &lake).await;

    // Rows are deleted, one of them changed here meanwhile: it stays.
    lake.stage(&upserts([(150, 99)], 7)).unwrap();
    lake.publish();
    let before = sums(&lake).await;
    foreign(url, &["delete", "100:200"]);
    lake.flush().await.unwrap();
    assert_eq!(sums(&lake).await, (before.0 - 99, before.1 - 99));
    check_outside(folder, &lake).await;

    // What is staged and not published is taken to be newer, too.
    lake.stage(&upserts([(8, 80)], 8)).unwrap();
    let flush = async {
        let flushed = lake.flush().await;
        assert!(flushed.is_ok(), "{flushed:?}");
    };
    let before = sums(&lake).await;
    foreign(url, &["rewrite"]);
    let publish = async {
        tokio::task::yield_now().await;
        lake.publish();
    };
    tokio::join!(flush, publish);
    lake.flush().await.unwrap();
    assert_eq!(sums(&lake).await, (before.0, before.1 + 78));

    // And all of it is there after a restart, the positions included.
    let (now, positions) = (sums(&lake).await, lake.committed_positions());
    foreign(url, &["append", "9000:1"]);
    drop(lake);
    let lake = Lake::open(LakeConfig::new(folder, clock())).await.unwrap();
    lake.load_indexes().await.unwrap();
    assert_eq!(lake.committed_positions(), positions);
    assert_eq!(sums(&lake).await, (now.0 + 1, now.1 + 1));
}

/// Deletes one order.
fn delete(key: i64, change_id: u64) -> ChangeSet {
    let inserted = upserts([(key, 0)], change_id);
    let row = inserted.batches[0].after().clone();
    let none = RecordBatch::try_new(
        row.schema(),
        row.columns().iter().map(|c| new_null_array(c.data_type(), 1)).collect(),
    );
    let batch = ChangeBatch::new(orders(), vec![Op::Delete], row, none.unwrap());
    ChangeSet { batches: vec![batch.unwrap()], ..inserted }
}

/// Whether PyIceberg sees the same.
async fn check_outside(folder: &Path, lake: &Lake) {
    let url = format!("sqlite:///{}", folder.join("catalog.db").display());
    let (rows, amounts) = sums(lake).await;
    let read = parts::python("read_sql_catalog.py", &[Path::new(&url)]);
    assert_eq!(read.trim(), format!("mall.orders {rows} {amounts}"));
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
    a_commit_between_ours_is_committed_on_top_of(&server).await;
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

/// The other program commits after the lake has looked and written its files: while it waits for the
/// writer's row, which the test holds.
async fn a_commit_between_ours_is_committed_on_top_of(server: &DatabaseServer) {
    let folder = tempfile::tempdir().unwrap();
    let url = server.url(server.port);
    server.execute("delete from iceberg_tables where catalog_name = 'medlake'").await;
    let lake = open(folder.path(), &url, "medlake").await;
    write(&lake, &upserts((0..100).map(|k| (k, k)), 1)).await;
    lake.stage(&upserts((90..110).map(|k| (k, 1_000)), 2)).unwrap();
    lake.publish();
    let writer = "update medlake_writer set epoch = epoch where catalog_name = 'medlake'";
    macro_rules! meanwhile {
        ($pool:ty, $waits:literal) => {{
            let pool = <$pool>::connect(&url).await.unwrap();
            let mut held = pool.begin().await.unwrap();
            sqlx::query(writer).execute(&mut *held).await.unwrap();
            let other = async {
                let end = std::time::Instant::now() + Duration::from_secs(20);
                while sqlx::query($waits).fetch_optional(&pool).await.unwrap().is_none() {
                    assert!(std::time::Instant::now() < end, "nobody waits for the row");
                    tokio::time::sleep(Duration::from_millis(150)).await;
                }
                let url = url.clone();
                let append = tokio::task::spawn_blocking(move || {
                    foreign(&url, &["append", "200:7,95:7"]);
                });
                append.await.unwrap();
                held.commit().await.unwrap();
            };
            tokio::join!(lake.flush(), other).0.unwrap()
        }};
    }
    let report = match server.kind {
        Kind::Postgres => meanwhile!(sqlx::PgPool, "select 1 from pg_locks where not granted"),
        Kind::MariaDb => meanwhile!(
            sqlx::MySqlPool,
            "select 1 from information_schema.innodb_trx where trx_state = 'LOCK WAIT'"
        ),
    };
    assert_eq!((report.rows, report.positions), (20, lake.committed_positions()));
    // Of key 95 ours is the later commit; key 200 is new.
    let amounts = (0..90).sum::<i64>() + 20 * 1_000 + 7;
    let read = parts::python("read_sql_catalog.py", &[Path::new(&url)]);
    assert_eq!(read.trim(), format!("mall.orders 111 {amounts}"));
    assert_eq!(sums(&lake).await, (111, amounts));
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
