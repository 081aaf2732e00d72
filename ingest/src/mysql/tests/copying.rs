//! Tables of a real server are copied while writers change them, and the reader is stopped and goes on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use medlake_contract::TableName;
use mysql_async::prelude::Queryable as _;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;

use super::server::Server;
use crate::{
    AnySource, Budget, CutLimits, DatabaseSettings, Ingest, snapshot::tests::Replica, source::Phase,
};

type Row = Vec<Option<String>>;

async fn rows(server: &Server, table: &str) -> Vec<Row> {
    let mut conn = server.conn().await;
    let sql = format!("select cast(id as char), cast(v as char), note from {table}");
    let rows: Vec<(Option<String>, Option<String>, Option<String>)> =
        conn.query(sql).await.unwrap();
    rows.into_iter().map(|(id, v, note)| vec![id, v, note]).collect()
}

/// Writes random changes; some transactions take several tables.
async fn write(server: Arc<Server>, seed: u64, transactions: u32) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut conn = server.conn().await;
    for number in 0..transactions {
        let xa = random.random_ratio(1, 10).then(|| format!("'{seed}-{number}'"));
        let mut sql = match &xa {
            Some(name) => format!("xa start {name}"),
            None => "start transaction".to_owned(),
        };
        for _ in 0..random.random_range(1..6) {
            let (id, v) = (random.random_range(0..4_000_i64), random.random_range(0..9));
            let other = random.random_range(0..4_000_i64);
            let change = match random.random_range(0..6) {
                0 => format!("delete from keyed where id = {id}"),
                1 => format!("update ignore keyed set id = {other}, v = {v} where id = {id}"),
                2 => format!(
                    "insert into keyed values ({id}, {v}, 'é') on duplicate key update v = {v}"
                ),
                3 => format!(
                    "replace into named values ('N{id}', {v}, null), ('n{other}', {v}, 'x')"
                ),
                4 => format!("delete from named where id = 'n{id}'"),
                _ => format!(
                    "insert into bag values ({v}, {v}, null); delete from bag where v = {v} limit 1"
                ),
            };
            sql.push_str("; ");
            sql.push_str(&change);
        }
        match xa {
            Some(name) => {
                let end = if random.random_ratio(1, 4) { "rollback" } else { "commit" };
                // The last one is for what a lock spoilt.
                sql.push_str(&format!(
                    "; xa end {name}; xa prepare {name}; xa {end} {name}; xa rollback {name}"
                ));
            }
            None => sql.push_str("; commit"),
        }
        for statement in sql.split("; ") {
            // Writers lock each other out now and then; then the rest of theirs goes on by itself.
            let _ = conn.query_drop(statement).await;
        }
    }
    let _ = conn.query_drop("commit").await;
    conn.disconnect().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_change_are_copied_by_a_reader_that_is_stopped_anywhere() {
    let server = Arc::new(Server::start(&[]).await);
    server
        .run(&[
            "create table keyed (id bigint primary key, v int, note varchar(20))",
            "create table named (id varchar(20) primary key, v int, note varchar(20))",
            "create table bag (id int, v int, note varchar(20))",
            "insert into keyed select seq, seq % 7, 'old' from seq_1_to_3000",
            "insert into named select concat('n', seq), seq % 7, null from seq_1_to_2000",
            "insert into bag select seq % 5, seq % 3, null from seq_1_to_500",
        ])
        .await;
    let mut writers = JoinSet::new();
    for (seed, transactions) in [(0, 500), (1, 1_000), (2, 1_500)] {
        writers.spawn(write(Arc::clone(&server), seed, transactions));
    }
    let mut random = StdRng::seed_from_u64(9);
    let mut stored = Replica::default();
    let mut settings =
        DatabaseSettings::new(Budget::new(64 << 20), std::env::temp_dir(), Arc::new(|| 1));
    settings.chunk_rows = 300;
    let mut wanted: Option<BTreeMap<TableName, Vec<Row>>> = None;
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut starts = 0;
    'lives: loop {
        starts += 1;
        let mut replica = stored.clone();
        let source = AnySource::mysql("shop", &server.config(), 2, settings.clone());
        let mut ingest = Ingest::open(vec![source], &replica.resume()).await.unwrap();
        for _ in 0..random.random_range(5..60) {
            assert!(tokio::time::Instant::now() < end, "{}", missing(&replica, wanted.as_ref()));
            // What is lost, no later copy is to bring back: so only while there is much to come.
            let early = writers.len() == 3;
            if early && random.random_ratio(1, 40) {
                let _ = ingest.resync(&"shop.named".parse().unwrap());
            }
            let some = ["keyed", "named", "bag"][random.random_range(0..3)];
            let some: TableName = format!("shop.{some}").parse().unwrap();
            if early && random.random_ratio(1, 5) {
                ingest.stop(&some, "a person wants so".to_owned(), "resync".to_owned());
            }
            let stopped = replica.states.values().filter(|state| state.phase == Phase::Stopped);
            for state in stopped {
                let _ = ingest.resync(&state.table);
            }
            if wanted.is_none() && writers.is_empty() {
                let mut truth = BTreeMap::new();
                for table in ["keyed", "named", "bag"] {
                    let mut rows = rows(&server, table).await;
                    rows.sort();
                    truth.insert(format!("shop.{table}").parse().unwrap(), rows);
                }
                wanted = Some(truth);
            }
            while writers.try_join_next().is_some() {}
            let limits = CutLimits { max_rows: random.random_range(50..2_000), max_bytes: 1 << 20 };
            // Now and then it is long enough for a connection on a busy machine.
            let most = if random.random_ratio(1, 8) { 3_000 } else { 200 };
            let patience = Duration::from_millis(random.random_range(20..most));
            if let Ok(cut) = tokio::time::timeout(patience, ingest.next(limits)).await {
                let cut = cut.unwrap();
                replica.apply(&cut);
                if !cut.open && random.random_bool(0.5) {
                    stored = replica.clone();
                }
            }
            if let Some(wanted) = &wanted
                && replica.schemas.len() == 3
                && replica.is_streaming()
                && wanted.iter().all(|(name, rows)| held(&replica, name) == *rows)
            {
                break 'lives;
            }
        }
    }
    assert!(starts > 1, "it was stopped and went on");
}

/// What keeps the replica from being what is wanted.
fn missing(replica: &Replica, wanted: Option<&BTreeMap<TableName, Vec<Row>>>) -> String {
    let mut text = format!("{:?} {:?}", replica.states.values(), replica.positions);
    for (name, rows) in wanted.into_iter().flatten() {
        let held = held(replica, name);
        let of = |some: &[Row], others: &[Row]| -> Vec<Row> {
            some.iter().filter(|row| !others.contains(row)).cloned().collect()
        };
        text.push_str(&format!("\n{name} lacks {:?} of {}", of(rows, &held), rows.len()));
        text.push_str(&format!(" and has {:?} of {}", of(&held, rows), held.len()));
    }
    text
}

fn held(replica: &Replica, name: &TableName) -> Vec<Row> {
    let mut rows: Vec<Row> = match name.table() {
        "bag" => {
            let bag = replica.bags.get(name).into_iter().flatten();
            bag.flat_map(|(row, count)| std::iter::repeat_n(row.clone(), *count)).collect()
        }
        _ => replica.keyed.get(name).into_iter().flat_map(BTreeMap::values).cloned().collect(),
    };
    rows.sort();
    rows
}
