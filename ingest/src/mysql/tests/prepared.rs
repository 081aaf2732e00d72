//! Transactions that are prepared (XA), and a reader that begins anew before they are committed.

use mysql_async::{Conn, prelude::Queryable as _};

use super::*;
use crate::{AnySource, DatabaseSettings, Ingest, Phase, snapshot::tests::Replica};

async fn prepare(server: &Server, name: &str, statements: &[&str]) -> Conn {
    let mut conn = server.conn().await;
    let (start, end, prepare) =
        (format!("xa start '{name}'"), format!("xa end '{name}'"), format!("xa prepare '{name}'"));
    let all = [&[start.as_str()], statements, &[end.as_str(), prepare.as_str()]].concat();
    for sql in all {
        conn.query_drop(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    conn
}

/// A reader that goes on where another one ended, as its place was stored.
async fn again(log: &MysqlLog, config: &MysqlConfig) -> MysqlLog {
    let place = log.place(&log.at().to_string()).unwrap();
    let mut next = log_of(config);
    next.start(&place, &log.tables()).await.unwrap();
    next
}

#[tokio::test]
async fn what_was_prepared_counts_when_it_is_committed_whoever_reads_then() {
    let server = Server::start(&[]).await;
    let config = server.config();
    let mut log = started(&config).await;
    server.run(&["create table a (id int primary key, x varchar(20))"]).await;
    server.run(&["insert into a values (1, 'one')"]).await;
    let mut first = prepare(&server, "first", &["insert into a values (2, 'two')"]).await;
    let mut second = prepare(&server, "second", &["insert into a values (3, 'three')"]).await;
    let mut third = prepare(&server, "third", &["insert into a values (4, 'four')"]).await;
    server.run(&["flush binary logs", "insert into a values (5, 'five')"]).await;
    let pages = caught_up(&mut log, &config).await;
    assert_eq!(changes(&pages, "a"), ["+1|one", "+5|five"]);
    assert!(log.at().to_string().contains(" ^mysql-bin.000001:"), "{}", log.at());

    // What is only read again is not handed out again.
    let mut log = again(&log, &config).await;
    second.query_drop("xa rollback 'second'").await.unwrap();
    third.query_drop("xa commit 'third'").await.unwrap();
    server.run(&["insert into a values (6, 'six')"]).await;
    let pages = caught_up(&mut log, &config).await;
    assert_eq!(changes(&pages, "a"), ["+4|four", "+6|six"]);
    assert!(pages.iter().all(|p| p.states.is_empty() && p.schemas.is_empty()));

    let mut log = again(&log, &config).await;
    first.query_drop("xa commit 'first'").await.unwrap();
    let pages = caught_up(&mut log, &config).await;
    assert_eq!(changes(&pages, "a"), ["+2|two"]);
    assert_eq!(log.at().since, None, "nothing is prepared any more");
}

#[tokio::test]
async fn tables_are_copied_again_when_it_is_not_known_what_was_prepared() {
    let server = Server::start(&[]).await;
    let config = server.config();
    server.run(&["create table a (id int primary key)", "insert into a values (1)"]).await;
    let mut early = prepare(&server, "early", &["insert into a values (2)"]).await;
    let mut log = started(&config).await;
    server.run(&["insert into a values (3)"]).await;
    let mut late = prepare(&server, "late", &["insert into a values (4)"]).await;
    caught_up(&mut log, &config).await;

    early.query_drop("xa commit 'early'").await.unwrap();
    server.run(&["insert into a values (5)"]).await;
    let pages = caught_up(&mut log, &config).await;
    assert_eq!(changes(&pages, "a"), ["+5"], "its table goes on");
    let states: Vec<_> = pages.iter().flat_map(|p| &p.states).collect();
    assert_eq!((states.len(), states[0].phase), (1, Phase::Snapshotting));
    assert!(states[0].reason.as_deref().unwrap().contains("not known"), "{states:?}");

    // The log no longer goes back to where the other one was prepared.
    server.run(&["flush binary logs", "insert into a values (6)"]).await;
    caught_up(&mut log, &config).await;
    let mut conn = server.conn().await;
    let to = format!("purge binary logs to '{}'", log.at().file);
    let purged = async {
        // The server keeps a file until its tables need it no more to recover.
        while conn.query::<mysql_async::Row, _>("show binary logs").await.unwrap().len() > 1 {
            conn.query_drop(&to).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, purged).await.expect("it is purged");
    let mut log = again(&log, &config).await;
    late.query_drop("xa commit 'late'").await.unwrap();
    let pages = caught_up(&mut log, &config).await;
    assert_eq!(changes(&pages, "a"), Vec::<String>::new());
    assert_eq!(pages.iter().flat_map(|p| &p.states).count(), 1);
}

#[tokio::test]
async fn rows_that_were_prepared_before_anybody_read_come_with_a_copy() {
    let server = Server::start(&[]).await;
    server
        .run(&[
            "create table k (id int primary key, x int)",
            "create table b (id int, x int)",
            "insert into k values (1, 1)",
            "insert into b values (1, 1)",
        ])
        .await;
    let both = ["insert into k values (2, 2)", "insert into b values (2, 2)"];
    let mut conn = prepare(&server, "early", &both).await;
    let settings =
        DatabaseSettings::new(Budget::new(64 << 20), std::env::temp_dir(), Arc::new(|| 1));
    let source = AnySource::mysql("erp", &server.config(), 2, settings);
    let mut ingest = Ingest::open(vec![source], &crate::Resume::default()).await.unwrap();
    let mut replica = Replica::default();
    let mut is_committed = false;
    let all = async {
        loop {
            replica.apply(&ingest.next(CutLimits::default()).await.unwrap());
            let rows = |table| replica.keyed.get(table).map_or(0, |rows| rows.len());
            let count = rows(&name("k")) + replica.bags.get(&name("b")).map_or(0, |bag| bag.len());
            if !replica.is_streaming() || replica.states.len() < 2 {
                continue;
            }
            if !is_committed && count == 2 {
                conn.query_drop("xa commit 'early'").await.unwrap();
                is_committed = true;
            } else if is_committed && count == 4 {
                break;
            }
        }
    };
    tokio::time::timeout(SOON, all).await.expect("they come");
}
