//! Transactions of many pages right after statements that change tables.

use std::collections::BTreeMap;

use super::*;

const LIMITS: CutLimits = CutLimits { max_rows: 100, max_bytes: 1 << 20 };

/// All pages until the log has what the server has now. It is checked that what is on a page fits
/// what was announced before, and that nothing is announced, or stopped, inside a transaction.
async fn checked(
    log: &mut MysqlLog,
    config: &MysqlConfig,
    known: &mut BTreeMap<TableName, Arc<TableSchema>>,
) -> Vec<Page> {
    let end = log_of(config).end().await.unwrap();
    let mut pages: Vec<Page> = Vec::new();
    while !log.reached(&end) || pages.last().is_some_and(|p| p.open) {
        let page = next(log, LIMITS).await.unwrap();
        let within = pages.last().is_some_and(|p| p.open);
        assert!(!within || page.schemas.is_empty(), "{:?}", page.schemas);
        assert!(page.states.is_empty(), "{:?}", page.states);
        for change in &page.schemas {
            known.insert(change.table.name().clone(), Arc::clone(&change.table));
        }
        for batch in &page.batches {
            assert_eq!(known[batch.table().name()], *batch.table());
        }
        pages.push(page);
    }
    pages
}

#[tokio::test]
async fn columns_that_change_before_a_large_transaction_are_announced_before_it() {
    // Few rows are in an event, so that a page ends within a statement.
    let server = Server::start(&["--binlog-row-event-max-size=1024"]).await;
    let config = server.config();
    let mut log = started(&config).await;
    let mut known = BTreeMap::new();
    assert!(log.read(LIMITS).await.unwrap().is_none());
    let large = "x".repeat(20_000);
    server
        .run(&[
            "create table a (id int primary key, x int)",
            "create table b (id int primary key, y varchar(20), z int)",
            "insert into a values (0, 0)",
            "insert into b values (0, 'nought', 0)",
            // Reading waits for neither: each transaction is much larger than a page.
            "alter table a add column n varchar(20)",
            "alter table b modify z bigint, drop column y",
            "create table c (id int primary key, t longtext)",
            "begin",
            "insert into a select seq, seq, 'n' from seq_1_to_700",
            "insert into b select seq, seq from seq_1_to_700",
            "savepoint s",
            "insert into b select seq, seq from seq_701_to_900",
            "rollback to s",
            "insert into c values (1, 'one')",
            "commit",
            "alter table b change z w bigint not null",
            "alter table a rename column n to m, add column o int",
            // Too large to be held.
            "begin",
            "insert into b select seq, seq from seq_1001_to_1300",
            &format!("insert into c select seq, '{large}' from seq_1001_to_1600"),
            "insert into a select seq, seq, 'm', 7 from seq_1001_to_1010",
            "commit",
            "insert into a values (2000, 1, 'end', 8)",
        ])
        .await;
    let pages = checked(&mut log, &config, &mut known).await;
    assert!(pages.iter().filter(|page| page.open).count() > 20);
    let lines = |range: std::ops::RangeInclusive<i32>, line: &dyn Fn(i32) -> String| {
        range.map(line).collect::<Vec<_>>()
    };
    let mut a = vec!["+0|0".to_owned()];
    a.extend(lines(1..=700, &|i| format!("+{i}|{i}|n")));
    a.extend(lines(1001..=1010, &|i| format!("+{i}|{i}|m|7")));
    a.push("+2000|1|end|8".to_owned());
    assert!(changes(&pages, "a") == a, "{:?}", changes(&pages, "a").len());
    let mut b = vec!["+0|nought|0".to_owned()];
    b.extend(lines(1..=700, &|i| format!("+{i}|{i}")));
    b.extend(lines(1001..=1300, &|i| format!("+{i}|{i}")));
    assert!(changes(&pages, "b") == b, "{:?}", changes(&pages, "b").len());
    let mut c = vec!["+1|one".to_owned()];
    c.extend(lines(1001..=1600, &|i| format!("+{i}|{large}")));
    assert!(changes(&pages, "c") == c, "{:?}", changes(&pages, "c").len());
}

#[tokio::test]
async fn a_table_is_announced_once_for_a_new_name_of_a_column() {
    let server = Server::start(&[]).await;
    let config = server.config();
    let mut log = started(&config).await;
    server
        .run(&[
            "create table a (id int primary key, x decimal(10,2), y varchar(20) not null)",
            "insert into a values (1, 1, 'one')",
            "alter table a rename column y to z",
            "insert into a values (2, 2, 'two')",
            "alter table a change x w decimal(10,2)",
            "insert into a values (3, 3, 'three')",
        ])
        .await;
    let pages = caught_up(&mut log, &config).await;
    assert_eq!(changes(&pages, "a"), ["+1|1.00|one", "+2|2.00|two", "+3|3.00|three"]);
    assert_eq!(pages.iter().map(|page| page.schemas.len()).sum::<usize>(), 3);
}

#[tokio::test]
async fn a_table_that_is_taken_in_again_has_all_its_changes_from_there_on() {
    let server = Server::start(&[]).await;
    let config = server.config();
    let mut log = started(&config).await;
    server.run(&["create table a (id int primary key)", "insert into a values (1)"]).await;
    let mut pages = caught_up(&mut log, &config).await;
    log.leave_out(&name("a"), true);
    server.run(&["insert into a values (2)"]).await;
    pages.extend(caught_up(&mut log, &config).await);
    server
        .run(&["alter table a drop primary key, add x int primary key auto_increment first"])
        .await;
    server.run(&["insert into a values (3, 3)"]).await;
    // What is read ahead by now lacks it.
    log.wait().await;
    log.leave_out(&name("a"), false);
    pages.extend(caught_up(&mut log, &config).await);
    server.run(&["insert into a values (4, 4)"]).await;
    pages.extend(caught_up(&mut log, &config).await);
    assert_eq!(changes(&pages, "a"), ["+1", "+3|3", "+4|4"]);
    assert_eq!(pages.iter().map(|page| page.schemas.len()).sum::<usize>(), 2);
    // The new column has values that no change tells.
    let mut states = pages.iter().flat_map(|page| &page.states);
    assert!(states.all(|state| state.phase == crate::Phase::Snapshotting));
}
