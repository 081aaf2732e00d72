//! The services' changes go to Kafka and come back, through kills.

use std::time::{Duration, Instant};

use crate::{
    broker::Broker,
    platform::{self, Platform, Ports, Settings},
    sources,
};

const LIMIT: Duration = Duration::from_secs(90);

/// Publishes, and reads what is published as a source of its own.
async fn start(
    data: &std::path::Path,
    ports: Ports,
    arguments: &[&str],
    settings: &Settings,
) -> Platform {
    let mut platform = Platform::launch(data, ports, arguments, settings);
    platform.wait_until_healthy().await;
    platform
}

async fn number(platform: &Platform, sql: &str) -> Option<i64> {
    let answer = platform.ask(sql).await?;
    answer.as_i64().or_else(|| answer.as_str()?.parse().ok())
}

#[tokio::test]
async fn what_the_services_publish_comes_back_as_it_is_in_the_lake() {
    let _alone = platform::alone().await;
    let broker = Broker::start();
    let dir = tempfile::tempdir().unwrap();
    let settings = [
        ("OPERATIONAL__PUBLISH__BROKERS", broker.address.as_str()),
        ("OPERATIONAL__PUBLISH__PREFIX", "med"),
        ("SOURCES__BACK__KIND", "kafka"),
        ("SOURCES__BACK__BROKERS", broker.address.as_str()),
        ("SOURCES__BACK__TOPICS", "med.*"),
        ("SOURCES__BACK__DISCOVERY_S", "1"),
    ];
    let settings = settings.map(|(key, value)| (format!("MEDLAKE__{key}"), value.to_owned()));
    let ports = Ports::free();
    for seed in ["1", "2"] {
        let platform = start(dir.path(), ports, &["--rate", "60", "--seed", seed], &settings).await;
        let end = Instant::now() + LIMIT;
        while number(&platform, "select count(*) from back.payment").await < Some(20) {
            assert!(Instant::now() < end, "nothing comes back:\n{}", platform.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        platform.kill();
    }
    let platform = start(dir.path(), ports, &["--no-simulate"], &settings).await;
    let mut compared = 0;
    for service in sources::SOURCES {
        let mut database = sources::open(dir.path(), service).await;
        for (table, _) in sources::tables(&mut database).await {
            let (here, there) = (format!("{service}.{table}"), format!("back.{table}"));
            let rows = number(&platform, &format!("select count(*) from {here}")).await;
            if rows == Some(0) {
                // Nothing was ever said of it in Kafka.
                continue;
            }
            compared += 1;
            let other = format!(
                "select (select count(*) from (select * from {here} except select * from {there}))
                     + (select count(*) from (select * from {there} except select * from {here}))
                     + abs((select count(*) from {here}) - (select count(*) from {there}))"
            );
            let end = Instant::now() + LIMIT;
            loop {
                let left = number(&platform, &other).await;
                if left == Some(0) {
                    break;
                }
                assert!(Instant::now() < end, "{table}: {left:?} rows differ\n{}", platform.log());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    assert!(compared >= 15, "{compared}");
    let metrics = reqwest::get(format!("{}/metrics", platform.http)).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("medlake_publisher_up{service=\"mall\"} 1"), "{metrics}");
    assert!(platform.stop().success());
}
