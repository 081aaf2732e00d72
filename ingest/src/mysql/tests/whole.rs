use std::{process::Command, sync::Arc};

use mysql_async::prelude::Queryable as _;

use super::*;
use crate::{AnySource, Ingest, Resume, log::Order, mysql::MysqlTls, snapshot::DatabaseSettings};

#[tokio::test]
async fn a_savepoint_and_a_prepared_transaction_count_when_they_are_committed() {
    let server = Server::start(&[]).await;
    let config = server.config();
    let mut log = started(&config).await;
    server
        .run(&[
            "create table a (id int primary key)",
            "create table m (id int) engine=aria",
            "begin",
            "insert into a values (1)",
            "savepoint s",
            "insert into m values (7)",
            "insert into a values (2)",
            "rollback to s",
            "insert into a values (3)",
            "commit",
        ])
        .await;
    // Only the connection that prepared may end it, as long as it is there.
    let mut xa = server.conn().await;
    for sql in ["xa start 'x'", "insert into a values (4)", "xa end 'x'", "xa prepare 'x'"] {
        xa.query_drop(sql).await.unwrap();
    }
    server.run(&["insert into a values (5)"]).await;
    for sql in [
        "xa commit 'x'",
        "xa start 'y'",
        "insert into a values (6)",
        "xa end 'y'",
        "xa prepare 'y'",
        "xa rollback 'y'",
    ] {
        xa.query_drop(sql).await.unwrap();
    }
    let pages = caught_up(&mut log, &config).await;
    assert_eq!(changes(&pages, "a"), ["+1", "+3", "+5", "+4"]);
    assert_eq!(changes(&pages, "m"), ["+7"]);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_put_aside_and_the_others_go_on() {
    let server = Server::start(&[]).await;
    let config = server.config();
    let mut log = started(&config).await;
    server
        .run(&[
            "set sql_mode=''",
            "create table d (day date primary key, x int)",
            "insert into d values ('2024-01-01', 1), ('0000-00-00', 2), ('2024-01-02', 3)",
            "update d set x = x + 1",
        ])
        .await;
    let mut conn = server.conn().await;
    for sql in [
        "set sql_mode=''",
        "insert into d values ('0000-00-00', 9) on duplicate key update x = 9",
        "create table e (id int primary key, x int)",
        "insert into e values (1, 1)",
        "set binlog_row_image=MINIMAL",
        "update e set x = 2",
    ] {
        conn.query_drop(sql).await.unwrap();
    }
    let pages = caught_up(&mut log, &config).await;
    let good = [
        "+2024-01-01|1",
        "+2024-01-02|3",
        "2024-01-01|1->2024-01-01|2",
        "2024-01-02|3->2024-01-02|4",
    ];
    assert_eq!(changes(&pages, "d"), good);
    let aside: Vec<_> = pages.iter().flat_map(|p| &p.quarantined).collect();
    let ops: Vec<&str> = aside.iter().map(|q| q.op.as_str()).collect();
    assert_eq!(ops, ["c", "u", "u"]);
    assert_eq!(aside[0].reason, "column \"day\" is a day that does not exist, in a key");
    assert_eq!(changes(&pages, "e"), ["+1|1"]);
    let stop = pages.iter().flat_map(|p| &p.states).next().unwrap();
    assert_eq!(stop.reason.as_deref(), Some("a change has some of its columns only"));
    assert!(stop.remedy.as_deref().unwrap().contains("binlog_row_image=FULL"));
}

#[tokio::test]
async fn rows_that_were_there_and_changes_since_make_one_source() {
    let server = Server::start(&[]).await;
    server
        .run(&[
            "create table a (id int primary key, x varchar(20) character set latin1)",
            "insert into a select seq, concat('é', seq) from seq_1_to_2500",
            "create table k (v varchar(10), w decimal(5,2))",
            "insert into k values ('one', 1), ('one', 1), (null, 2)",
        ])
        .await;
    let settings =
        DatabaseSettings::new(Budget::new(64 << 20), std::env::temp_dir(), Arc::new(|| 1));
    let source = AnySource::mysql("erp", &server.config(), 2, settings);
    let mut ingest = Ingest::open(vec![source], &Resume::default()).await.unwrap();
    let mut copied = [0, 0];
    let mut later = 0;
    let all = async {
        while copied != [2500, 3] || later < 1 {
            if copied == [2500, 3] && later == 0 {
                server.run(&["insert into a values (0, 'neu')"]).await;
            }
            let set = ingest.next(CutLimits::default()).await.unwrap();
            copied[0] += set.copies.iter().map(|c| c.rows.num_rows()).sum::<usize>();
            for batch in &set.batches {
                let inserts = batch.ops().iter().filter(|op| **op == Op::Insert).count();
                if batch.table().name() == &name("k") {
                    // A table without a key is copied as a whole.
                    copied[1] += inserts;
                } else if batch.table().name() == &name("a") {
                    later += inserts;
                }
            }
        }
    };
    let done = tokio::time::timeout(SOON, all).await;
    assert!(done.is_ok(), "{copied:?} and {later} came: {:?}", ingest.monitor());
}

fn openssl(folder: &std::path::Path, line: &str) {
    let done = Command::new("openssl").current_dir(folder).args(line.split(' ')).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn a_server_proves_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    std::fs::write(path.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for who in ["ca", "other"] {
        openssl(
            &path,
            &format!(
                "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN={who} -keyout {who}.key -out {who}.pem"
            ),
        );
    }
    openssl(&path, "req -newkey rsa:2048 -nodes -subj /CN=db -keyout db.key -out db.csr");
    openssl(
        &path,
        "x509 -req -in db.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile names -out db.pem",
    );
    let option = |name: &str, file: &str| format!("--{name}={}", path.join(file).display());
    let options =
        [option("ssl-ca", "ca.pem"), option("ssl-cert", "db.pem"), option("ssl-key", "db.key")];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let server = Server::start_in(folder, &options).await;
    let mut config = server.config();
    server.run(&["alter user cdc@'127.0.0.1' require ssl"]).await;
    assert!(log_of(&config).end().await.is_err(), "a line that is not encrypted is refused");
    let verify = |ca: &str| MysqlTls::Verify { ca: Some(path.join(ca)), client: None };
    config.tls = verify("other.pem");
    assert!(log_of(&config).end().await.is_err(), "another authority's word does not count");
    for tls in [MysqlTls::Required, verify("ca.pem")] {
        config.tls = tls;
        let mut log = started(&config).await;
        let mut rows = MysqlRows::new(id(), config.clone());
        assert!(rows.tables(log.at()).await.unwrap().refused.is_empty());
        assert!(log.read(CutLimits::default()).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn rows_in_the_order_of_their_bytes_are_sorted_once_and_in_any_not_at_all() {
    let server = Server::start(&[]).await;
    let config = server.config();
    server
        .run(&[
            "create table t (id varchar(20) collate utf8mb4_general_ci primary key, v int)",
            "insert into t values ('b', 1), ('A', 2), ('a1', 3), ('C', 4), ('é', 5)",
        ])
        .await;
    let mut rows = MysqlRows::new(id(), config.clone());
    let end = log_of(&config).end().await.unwrap();
    let schema = Arc::clone(&rows.tables(&end).await.unwrap().tables[0]);
    for (order, expected) in [
        (Order::Keys, ["A|2", "C|4", "a1|3", "b|1", "é|5"]),
        (Order::Any, ["A|2", "a1|3", "b|1", "C|4", "é|5"]),
    ] {
        let (mut all, mut places, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            let chunk = rows.chunk(&schema, after.as_ref(), None, 2, order).await.unwrap();
            all.extend(lines(&chunk.rows));
            places.push(chunk.at.unwrap().to_string());
            let Some(last) = chunk.rows.num_rows().checked_sub(1) else { break };
            // As whoever stored it has it: of a key that is never null.
            let key = chunk.rows.slice(last, 1).project(&[0]).unwrap();
            let field = key.schema().field(0).clone().with_nullable(false);
            let fields = Arc::new(arrow::datatypes::Schema::new(vec![field]));
            after = Some(RecordBatch::try_new(fields, key.columns().to_vec()).unwrap());
            assert_eq!(chunk.goes_on, order == Order::Keys && last == 1);
            server.run(&["update t set v = v + 10 where id in ('C', 'é')"]).await;
            server.run(&["update t set v = v - 10 where id in ('C', 'é')"]).await;
            if chunk.rows.num_rows() < 2 {
                break;
            }
        }
        assert_eq!(all, expected);
        places.dedup();
        assert_eq!(places.len(), if order == Order::Keys { 1 } else { 3 }, "{places:?}");
    }
}
