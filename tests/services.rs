//! The services on a MariaDB server instead of files: the same tables in the lake, the same marts.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    platform::{self, Platform, Ports},
    servers::{DatabaseServer, Kind},
};

/// What the shop's order makes of the marts, and of the lake's tables.
const QUESTIONS: [&str; 5] = [
    "select table_schema, table_name, column_name, data_type from information_schema.columns
     where table_schema = 'mall' and table_name in ('pharmacy', 'product', 'orders',
         'order_line', 'payment') order by 1, 2, 3",
    "select channel, status, list_amount_fen, payable_fen, paid_at is not null from mall.orders",
    "select line_number, quantity, disc_full_reduction_fen, cash_fen from mall.order_line order by 1",
    "select gmv_paid_fen, cash_paid_fen, orders_paid from marts.gmv_daily",
    "select person_id, cause, bound_at is not null, unbound_at is not null from distribution.binding
     order by binding_id",
];

/// A customer who is bound to one distributor and then to another.
async fn bind(platform: &Platform) {
    for person in [101, 102] {
        let new = json!({"person_id": person, "kind": "person", "name": "推广员"});
        let made = platform.call("/distribution/distributors", new).await;
        let bound = json!({"person_id": 1, "distributor_id": made["distributor_id"]});
        platform.call("/distribution/bindings", bound).await;
    }
}

#[tokio::test]
async fn on_a_server_they_have_the_same_marts_as_in_files() {
    let _alone = platform::alone().await;
    let binlog = ["--log-bin=bin", "--server-id=1", "--binlog-format=row"];
    let more = [&binlog[..], &["--binlog-row-metadata=full"]].concat();
    let server = DatabaseServer::start_with(Kind::MariaDb, &more).await;
    let url = server.url_of(server.port, "").trim_end_matches('/').to_owned();
    let mut answers = Vec::new();
    let keys = tempfile::tempdir().unwrap();
    let on_server = platform::on_server(url, keys.path()).to_vec();

    // Keys that each machine makes for itself are asked for instead.
    let dir = tempfile::tempdir().unwrap();
    let mut keyless =
        Platform::launch(dir.path(), Ports::free(), &["--no-simulate"], &on_server[..1]);
    assert!(!keyless.child.wait().unwrap().success());
    assert!(keyless.log().contains("operational.key_file is not set"), "{}", keyless.log());
    assert!(!dir.path().join("master.keys").exists());

    for settings in [vec![], on_server] {
        let dir = tempfile::tempdir().unwrap();
        let mut platform =
            Platform::launch(dir.path(), Ports::free(), &["--no-simulate"], &settings);
        platform.wait_until_healthy().await;
        platform::shop(&platform).await;
        bind(&platform).await;
        let end = Instant::now() + Duration::from_secs(60);
        for (question, wanted) in [
            ("select sum(orders_paid) from marts.gmv_daily", 1),
            ("select count(*) + count(unbound_at) from distribution.binding", 3),
        ] {
            while platform.ask(question).await != Some(json!(wanted)) {
                assert!(Instant::now() < end, "{question}: {}", platform.log());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        if !settings.is_empty() {
            // A column that the server works out comes with each change as those that are stored.
            let bound = "select current_person_id from distribution.binding order by binding_id";
            assert_eq!(platform.psql(bound), ["", "1"]);
        }
        answers.push(QUESTIONS.map(|question| platform.psql(question)));
        assert_eq!(dir.path().join("operational").exists(), settings.is_empty());
        assert!(platform.stop().success());
    }
    assert_eq!(answers[0], answers[1]);
    assert!(answers[0].iter().all(|rows| !rows.is_empty()), "{answers:?}");
}
