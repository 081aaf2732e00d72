use mysql_async::prelude::Queryable as _;

use super::*;
use crate::mysql::connect::Asking;

/// Cuts the lines of all who read the binlog.
async fn cut(server: &Server) {
    let mut conn = server.conn().await;
    let readers = "select id from information_schema.processlist where command = 'Binlog Dump'";
    let ids: Vec<u64> = conn.query(readers).await.unwrap();
    for id in ids {
        // One may have gone by itself.
        let _ = conn.query_drop(format!("kill {id}")).await;
    }
}

#[tokio::test]
async fn changes_come_whole_and_in_order_with_both_images() {
    let server = Server::start(&[]).await;
    let config = server.config();
    let mut log = started(&config).await;
    server
        .run(&[
            "create table a (id int primary key, x varchar(20))",
            "create table b (id int primary key, y bigint unsigned)",
            "begin",
            "insert into a values (1, 'one'), (2, null)",
            "insert into b values (7, 18446744073709551615)",
            "update a set x = 'zwei' where id = 2",
            "commit",
            "delete from b",
            "truncate table a",
            "insert into a values (3, 'drei')",
        ])
        .await;
    let pages = caught_up(&mut log, &config).await;
    assert_eq!(
        changes(&pages, "a"),
        ["+1|one", "+2|null", "2|null->2|zwei", "truncate", "+3|drei"]
    );
    assert_eq!(changes(&pages, "b"), ["+7|18446744073709551615", "-7|18446744073709551615"]);
    let tables: Vec<_> = log.tables().iter().map(|t| t.name().to_string()).collect();
    assert_eq!(tables, ["erp.a", "erp.b"]);
}

#[tokio::test]
async fn a_server_that_dies_is_read_on_where_reading_ended() {
    let mut server = Server::start(&[]).await;
    let config = server.config();
    let mut log = started(&config).await;
    server.run(&["create table a (id int primary key)", "insert into a values (1)"]).await;
    let mut pages = caught_up(&mut log, &config).await;
    server.restart().await;
    let error = loop {
        match next(&mut log, CutLimits::default()).await {
            Ok(page) => pages.push(page),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), medlake_contract::Kind::Unavailable, "{error:?}");
    server.run(&["insert into a values (2)"]).await;
    pages.extend(caught_up(&mut log, &config).await);
    // Another log goes on from the text of a place.
    let text = log.at().to_string();
    let mut again = log_of(&config);
    let at = again.place(&text).unwrap();
    again.start(&at, &log.tables()).await.unwrap();
    server.run(&["insert into a values (3)"]).await;
    pages.extend(caught_up(&mut again, &config).await);
    assert_eq!(changes(&pages, "a"), ["+1", "+2", "+3"]);
}

#[tokio::test]
async fn a_transaction_larger_than_a_page_goes_on_where_it_was_cut_off() {
    let server = Server::start(&[]).await;
    let config = server.config();
    let mut log = started(&config).await;
    let limits = CutLimits { max_rows: 500, max_bytes: 1 << 20 };
    // From here on the reader makes pages of this size.
    assert!(log.read(limits).await.unwrap().is_none());
    server
        .run(&[
            "create table a (id int primary key, x varchar(100))",
            "insert into a select seq, repeat('x', 100) from seq_1_to_5000",
            "insert into a values (0, 'end')",
        ])
        .await;
    let end = log_of(&config).end().await.unwrap();
    let begin = log.at().clone();
    let mut pages = Vec::new();
    while pages.last().is_none_or(|p: &Page| !p.open) {
        pages.push(next(&mut log, limits).await.unwrap());
    }
    assert!(begin.reached(log.at()) || log.at().reached(&begin));
    let before = log.at().to_string();
    cut(&server).await;
    let mut failures = 0;
    while !log.reached(&end) {
        match next(&mut log, limits).await {
            Ok(page) => {
                assert_eq!(page.open, log.at().to_string() == before);
                pages.push(page);
            }
            Err(error) => {
                assert_eq!(error.kind(), medlake_contract::Kind::Unavailable, "{error:?}");
                failures += 1;
            }
        }
    }
    assert!(failures > 0 && pages.iter().filter(|p| p.open).count() > 5);
    let expected: Vec<String> = (1..=5000)
        .map(|i| format!("+{i}|{}", "x".repeat(100)))
        .chain(["+0|end".to_owned()])
        .collect();
    assert!(changes(&pages, "a") == expected);
}

#[tokio::test]
async fn a_table_that_changes_is_announced_before_its_rows() {
    let server = Server::start(&[]).await;
    let config = server.config();
    let mut log = started(&config).await;
    server
        .run(&[
            "create table a (id int primary key, x int)",
            "create table b (id int primary key)",
            "insert into a values (1, 1)",
            "alter table a add column y varchar(10), modify x bigint",
            "alter table a rename column x to z",
            "begin",
            "insert into b values (1)",
            "insert into a values (2, 2, 'two')",
            "commit",
            "alter table a change z w bigint, drop column y",
            "insert into a values (3, 3)",
            "create table c (id int)",
            "insert into c values (1), (1)",
            "drop table c",
            "rename table b to d",
            "insert into d values (7)",
            "alter table a drop primary key, add primary key (w)",
            "insert into a values (4, 4)",
        ])
        .await;
    let pages = caught_up(&mut log, &config).await;
    assert_eq!(changes(&pages, "a"), ["+1|1", "+2|2|two", "+3|3"]);
    assert_eq!(changes(&pages, "b"), ["+1"]);
    assert_eq!(changes(&pages, "c"), ["+1", "+1"]);
    assert_eq!(changes(&pages, "d"), ["+7"]);
    let renamed: Vec<_> = pages.iter().flat_map(|p| &p.schemas).flat_map(|s| &s.renamed).collect();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(renamed, [&pair("x", "z"), &pair("z", "w")]);
    // Whatever is on a page fits what was announced before.
    let mut known = std::collections::BTreeMap::new();
    for page in &pages {
        assert!(page.schemas.is_empty() || !page.open);
        for change in &page.schemas {
            known.insert(change.table.name().clone(), Arc::clone(&change.table));
        }
        for batch in &page.batches {
            assert_eq!(known[batch.table().name()], *batch.table());
        }
    }
    let stops: Vec<_> = pages
        .iter()
        .flat_map(|p| &p.states)
        .map(|s| format!("{}: {}", s.table.table(), s.reason.as_deref().unwrap()))
        .collect();
    assert_eq!(
        stops,
        [
            "c: it was dropped in the source; the lake keeps its rows",
            "b: it was renamed to \"d\" in the source; the lake keeps its rows",
            "a: its key is another than before",
        ]
    );
}

#[tokio::test]
async fn each_statement_announces_what_it_changes_once() {
    let server = Server::start(&[]).await;
    let config = server.config();
    let mut log = started(&config).await;
    server
        .run(&[
            "create table a (id int primary key, x int, s varchar(10), d decimal(10,2), f float)",
            "insert into a values (1, 1, 'x', 1, 1)",
        ])
        .await;
    caught_up(&mut log, &config).await;
    for (statement, announced) in [
        ("alter table a rename column x to z", 1),
        ("alter table a add column y int null after id", 1),
        ("alter table a modify column d decimal(20,2) null", 1),
        ("alter table a modify column f double null", 1),
        ("alter table a drop column y", 1),
        // In the lake it is text, however long.
        ("alter table a modify column s varchar(400) null", 0),
        ("alter table a add index of_z (z), comment 'numbers'", 0),
        ("alter table a alter column z set default 5", 0),
        ("analyze table a", 0),
        ("optimize table a", 0),
    ] {
        server.run(&[statement]).await;
        let mut pages = caught_up(&mut log, &config).await;
        server.run(&["insert into a (id) values (7)", "delete from a where id = 7"]).await;
        pages.extend(caught_up(&mut log, &config).await);
        let schemas = pages.iter().map(|page| page.schemas.len()).sum::<usize>();
        assert_eq!(schemas, announced, "{statement}");
    }
}

#[tokio::test]
async fn a_binlog_that_is_gone_is_a_conflict_with_a_remedy() {
    let server = Server::start(&[]).await;
    let config = server.config();
    let mut log = started(&config).await;
    server.run(&["create table a (id int primary key)", "insert into a values (1)"]).await;
    caught_up(&mut log, &config).await;
    let by_gtid = log.at().clone();
    let by_file = Place { gtids: None, ..by_gtid.clone() };
    let foreign = Place { gtids: Some("0-1001-99".parse().unwrap()), ..by_gtid.clone() };
    let other = Place { server: Some("77".to_owned()), ..by_file.clone() };
    let past = Place { offset: 1 << 30, ..by_file.clone() };
    server
        .run(&["insert into a values (2)", "flush binary logs", "insert into a values (3)"])
        .await;
    for place in [&by_gtid, &by_file] {
        log.start(place, &[]).await.unwrap();
        let pages = caught_up(&mut log, &config).await;
        assert_eq!(changes(&pages, "a"), ["+2", "+3"], "{place}");
    }
    for place in [&foreign, &other, &past] {
        let error = log.start(place, &[]).await.err().unwrap_or_else(|| panic!("{place}"));
        assert_eq!(error.kind(), medlake_contract::Kind::Conflict, "{place}: {error:?}");
    }
    // A file that a reader has is not purged; the server learns late that one is gone.
    let mut asking = Asking::connect(&id(), &config).await.unwrap();
    while asking.files().await.unwrap().len() > 1 {
        cut(&server).await;
        asking.run("purge", "purge binary logs to 'mysql-bin.000002'").await.unwrap();
    }
    for place in [&by_gtid, &by_file] {
        let error = log.start(place, &[]).await.unwrap_err();
        assert_eq!(error.kind(), medlake_contract::Kind::Conflict, "{place}: {error:?}");
        assert!(format!("{error:?}").contains("Purged"), "{error:?}");
    }
}
