//! Tables without rows are there as soon as they are.

use std::{collections::BTreeMap, sync::Arc};

use medlake_contract::{ChangeSet, Op};

use super::{SOON, name, server::Server};
use crate::{AnySource, Budget, CutLimits, DatabaseSettings, Ingest, Phase, Resume, states_in};

/// What a reader was told of tables.
#[derive(Default)]
struct Told {
    columns: BTreeMap<String, Vec<String>>,
    phases: BTreeMap<String, Phase>,
    rows: usize,
}

impl Told {
    fn keep(&mut self, cut: &ChangeSet) {
        for change in &cut.schemas {
            let columns = change.table.columns().iter().map(|c| c.name.clone());
            self.columns.insert(change.table.name().table().to_owned(), columns.collect());
        }
        for batch in &cut.batches {
            if batch.table().name().namespace() == "system" {
                let states = states_in(batch.after()).into_iter();
                self.phases.extend(states.map(|s| (s.table.table().to_owned(), s.phase)));
            } else {
                // A table without a key begins with none.
                self.rows += batch.ops().iter().filter(|op| **op != Op::Truncate).count();
            }
        }
        self.rows += cut.copies.iter().map(|copy| copy.rows.num_rows()).sum::<usize>();
    }

    async fn until(&mut self, ingest: &mut Ingest, what: &str, there: impl Fn(&Self) -> bool) {
        let read = async {
            while !there(self) {
                let cut = ingest.next(CutLimits::default()).await.unwrap();
                self.keep(&cut);
            }
        };
        let done = tokio::time::timeout(SOON, read).await;
        assert!(done.is_ok(), "not {what}: {} {:?} {:?}", self.rows, self.columns, self.phases);
    }

    fn streams(&self, table: &str, columns: &[&str]) -> bool {
        self.columns.get(table).is_some_and(|have| have == columns)
            && self.phases.get(table) == Some(&Phase::Streaming)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_there_before_its_first_row() {
    let server = Server::start(&[]).await;
    server
        .run(&["create table early (id int primary key, v int)", "create table other (id int)"])
        .await;
    let mut config = server.config();
    config.tables = vec!["*".to_owned(), "!hidden*".to_owned()];
    let settings =
        DatabaseSettings::new(Budget::new(64 << 20), std::env::temp_dir(), Arc::new(|| 1));
    let source = AnySource::mysql("erp", &config, 1, settings);
    let mut ingest = Ingest::open(vec![source], &Resume::default()).await.unwrap();
    let mut told = Told::default();
    told.until(&mut ingest, "there at first contact", |told| {
        told.streams("early", &["id", "v"]) && told.streams("other", &["id"])
    })
    .await;

    server
        .run(&[
            "create table late (id int primary key, v int)",
            "alter table late add column w varchar(20)",
            "create temporary table nobodys (id int)",
            "create table hidden_one (id int)",
            "create table if not exists like_it like early",
        ])
        .await;
    told.until(&mut ingest, "there when they are made", |told| {
        told.streams("late", &["id", "v", "w"]) && told.streams("like_it", &["id", "v"])
    })
    .await;
    server.run(&["rename table hidden_one to seen", "insert into late values (1, 2, 'x')"]).await;
    told.until(&mut ingest, "there under their new names", |told| {
        told.streams("seen", &["id"]) && told.rows == 1
    })
    .await;
    assert!(!told.columns.contains_key("nobodys") && !told.columns.contains_key("hidden_one"));
    let tables = ingest.tables();
    assert!(tables.iter().any(|t| t.name() == &name("late")));

    // Made, changed and filled before anybody could ask: it is what the log says, once.
    server
        .run(&[
            "create table quick (id int primary key, v int)",
            "insert into quick values (1, 1)",
            "alter table quick drop column v, add column w int",
            "insert into quick values (2, 2)",
        ])
        .await;
    told.until(&mut ingest, "as it is in the end", |told| told.streams("quick", &["id", "w"]))
        .await;
}
