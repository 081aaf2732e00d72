//! MariaDB's `uuid`, `inet6` and `inet4`, which the binlog has no word for.

use medlake_contract::ColumnType;

use super::*;
use crate::source::Phase;

const V1: &str = "01020304-0506-1708-890a-0b0c0d0e0f00";

fn types(table: &TableSchema) -> Vec<(&str, &ColumnType)> {
    table.columns().iter().map(|column| (column.name.as_str(), &column.ty)).collect()
}

/// A log that goes on where another is, and knows what that knows.
async fn again(log: &MysqlLog, config: &MysqlConfig) -> MysqlLog {
    let mut again = log_of(config);
    again.start(log.at(), &log.tables()).await.unwrap();
    again
}

#[tokio::test]
async fn they_are_what_the_server_says_from_the_first_row_of_a_table_on() {
    let server = Server::start(&[]).await;
    let config = server.config();
    let mut log = started(&config).await;
    server
        .run(&[
            "create table a (U uuid primary key, b binary(16), x inet6, y inet4)",
            "create table b like a",
            "rename table b to c",
            &format!("insert into a values ('{V1}', x'01', '::1', '1.2.0.0')"),
            &format!("insert into c values ('{V1}', null, '2001:db8::', null)"),
        ])
        .await;
    let pages = caught_up(&mut log, &config).await;
    let mut rows = MysqlRows::new(id(), config.clone());
    let found = rows.tables(log.at()).await.unwrap();
    for table in ["a", "c"] {
        let schema = schema_of(&pages, table);
        assert_eq!(
            types(&schema),
            [
                ("u", &ColumnType::Uuid),
                ("b", &ColumnType::Binary),
                ("x", &ColumnType::Utf8),
                ("y", &ColumnType::Utf8)
            ]
        );
        assert!(found.tables.contains(&schema), "{found:?}");
    }
    let uuid = "0102030405061708890a0b0c0d0e0f00";
    let bytes = "01000000000000000000000000000000";
    assert_eq!(changes(&pages, "a"), [format!("+{uuid}|{bytes}|::1|1.2.0.0")]);
    assert_eq!(changes(&pages, "c"), [format!("+{uuid}|null|2001:db8::|null")]);
}

#[tokio::test]
async fn statements_that_define_them_are_followed_through_any_restart() {
    let server = Server::start(&[]).await;
    let config = server.config();
    let mut log = started(&config).await;
    server
        .run(&["create table t (id int primary key, s text)", "insert into t values (1, 'x')"])
        .await;
    caught_up(&mut log, &config).await;
    let steps = [
        (
            "alter table t add column U uuid default uuid() after id, add (x inet6), add b binary(16)",
            "insert into t values (2, '01020304-0506-1708-890a-0b0c0d0e0f00', null, '::1', x'02')",
            "+2|0102030405061708890a0b0c0d0e0f00|null|::1|02000000000000000000000000000000",
        ),
        (
            "alter table t change u v uuid not null, modify x varchar(40)",
            "insert into t values (3, '01020304-0506-7708-0000-000000000000', 'y', '::2', null)",
            "+3|01020304050677080000000000000000|y|::2|null",
        ),
        (
            "set statement lock_wait_timeout=9 for alter table t rename column v to w, modify x inet6",
            "insert into t values (4, '00000000-0000-0000-0000-000000000000', 'z', '::3', null)",
            "+4|00000000000000000000000000000000|z|::3|null",
        ),
    ];
    for (alter, change, expected) in steps {
        server.run(&[alter]).await;
        caught_up(&mut log, &config).await;
        log = again(&log, &config).await;
        server.run(&[change]).await;
        let pages = caught_up(&mut log, &config).await;
        assert_eq!(changes(&pages, "t"), [expected], "{alter}");
    }
    server.run(&["alter table t drop column b, add column b inet4 first"]).await;
    let pages = caught_up(&mut log, &config).await;
    // Another type under the same name is told before there is any row of it.
    let schema = schema_of(&pages, "t");
    assert!(types(&schema).contains(&("b", &ColumnType::Utf8)), "{schema:?}");
}

#[tokio::test]
async fn what_a_table_became_while_it_was_left_out_is_asked_for() {
    let server = Server::start(&[]).await;
    let config = server.config();
    let mut log = started(&config).await;
    server
        .run(&[
            "create table t (id int primary key, x varchar(20))",
            "insert into t values (1, 'x')",
        ])
        .await;
    caught_up(&mut log, &config).await;
    log.leave_out(&name("t"), true);
    server
        .run(&[
            "alter table t add u uuid, modify x binary(16), add a inet4",
            "insert into t values (2, x'02', null, null)",
        ])
        .await;
    caught_up(&mut log, &config).await;
    log.leave_out(&name("t"), false);
    server.run(&[&format!("insert into t values (3, x'03', '{V1}', '1.2.3.4')")]).await;
    let pages = caught_up(&mut log, &config).await;
    let schema = schema_of(&pages, "t");
    assert_eq!(
        types(&schema),
        [
            ("id", &ColumnType::Int32),
            ("x", &ColumnType::Binary),
            ("u", &ColumnType::Uuid),
            ("a", &ColumnType::Utf8)
        ]
    );
}

#[tokio::test]
async fn a_column_that_becomes_bytes_or_ceases_to_be_is_told_at_once() {
    let server = Server::start(&[]).await;
    let config = server.config();
    let mut log = started(&config).await;
    server
        .run(&[
            "create table t (id int primary key, u uuid, x varchar(16), b binary(16), c char(16))",
            "insert into t values (1, uuid(), 'x', x'00', 'c')",
        ])
        .await;
    caught_up(&mut log, &config).await;
    for (alter, column, ty) in [
        ("modify u binary(16)", "u", ColumnType::Binary),
        ("modify x char(16) character set binary", "x", ColumnType::Binary),
        ("modify column b uuid", "b", ColumnType::Uuid),
    ] {
        server.run(&[&format!("alter table t {alter}")]).await;
        let pages = caught_up(&mut log, &config).await;
        assert!(types(&schema_of(&pages, "t")).contains(&(column, &ty)), "{alter}");
    }
    server.run(&["alter table t convert to character set binary"]).await;
    let pages = caught_up(&mut log, &config).await;
    let stops: Vec<_> = pages.iter().flat_map(|p| &p.states).collect();
    assert_eq!(stops.len(), 1, "{stops:?}");
    assert_eq!(stops[0].phase, Phase::Stopped);
    assert_eq!(stops[0].reason.as_deref(), Some("its texts became bytes"));
}
