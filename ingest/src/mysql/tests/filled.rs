//! Columns whose rows have values from the moment they are there, which no change tells.

use super::*;
use crate::{AnySource, DatabaseSettings, Ingest, snapshot::tests::Replica};

#[tokio::test]
async fn a_column_that_is_added_with_values_has_them_in_the_rows_there_were() {
    let server = Server::start(&[]).await;
    server
        .run(&[
            "create table k (id int primary key, x int)",
            "create table b (id int, x int)",
            "insert into k values (1, 1), (2, 2)",
            "insert into b values (1, 1), (1, 1)",
        ])
        .await;
    let settings =
        DatabaseSettings::new(Budget::new(64 << 20), std::env::temp_dir(), Arc::new(|| 1));
    let source = AnySource::mysql("erp", &server.config(), 2, settings);
    let mut ingest = Ingest::open(vec![source], &crate::Resume::default()).await.unwrap();
    let mut replica = Replica::default();
    let mut altering = tokio::task::JoinSet::new();
    let mut server = Some(server);
    let all = async {
        loop {
            replica.apply(&ingest.next(CutLimits::default()).await.unwrap());
            let row = |cells: &[&str]| -> Vec<Option<String>> {
                cells.iter().map(|cell| Some((*cell).to_owned())).collect()
            };
            let keyed = replica.keyed.get(&name("k")).into_iter().flat_map(|rows| rows.values());
            let keyed: Vec<_> = keyed.cloned().collect();
            let bag = replica.bags.get(&name("b")).cloned().unwrap_or_default();
            if !replica.is_streaming() || keyed.is_empty() || bag.is_empty() {
                continue;
            }
            if let Some(server) = server.take() {
                // The statements may have to wait for a select that goes on.
                altering.spawn(async move {
                    server
                        .run(&[
                            "alter table k add column y varchar(9) not null default 'wert'",
                            "alter table b add column y int as (id + 6) stored",
                            "insert into k values (3, 3, 'drei')",
                            "insert into b (id, x) values (2, 2)",
                        ])
                        .await;
                    server
                });
            } else if keyed
                == [row(&["1", "1", "wert"]), row(&["2", "2", "wert"]), row(&["3", "3", "drei"])]
                && bag == [(row(&["1", "1", "7"]), 2), (row(&["2", "2", "8"]), 1)].into()
            {
                break;
            }
        }
    };
    tokio::time::timeout(SOON, all).await.expect("they come");
}
