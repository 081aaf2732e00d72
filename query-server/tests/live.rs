//! Dashboards that stay live.

use std::{sync::atomic::Ordering, time::Duration};

use axum::{
    body::{Body, BodyDataStream},
    http::Request,
};
use medlake_query_server::QueryServerConfig;
use serde_json::{Value, json};

use crate::harness::{House, NOW, gmv_rows, minute_row, rows};

struct Events {
    body: BodyDataStream,
    text: String,
}

impl Events {
    async fn open(house: &House) -> Self {
        let request = Request::get("/api/v1/dashboards/small/events").body(Body::empty()).unwrap();
        let response = tower::ServiceExt::oneshot(house.router(), request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The next block of the stream, an event or a comment.
    async fn block(&mut self) -> String {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = block.to_owned();
                self.text = rest.to_owned();
                return block;
            }
            let next = futures::StreamExt::next(&mut self.body);
            let bytes = tokio::time::timeout(Duration::from_secs(10), next).await;
            let bytes = bytes.expect("an event within ten seconds").unwrap().unwrap();
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    async fn event(&mut self) -> Value {
        let mut block = self.block().await;
        while block.starts_with(':') {
            block = self.block().await;
        }
        assert!(block.contains("event: data"), "{block}");
        let data = block.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        serde_json::from_str(data).unwrap()
    }
}

fn names(event: &Value) -> Vec<&str> {
    event["tiles"].as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tiles_at_first_then_only_those_that_changed() {
    let house = House::open().await;
    let mut events = Events::open(&house).await;
    let first = events.event().await;
    assert_eq!(names(&first), ["gmv", "hour", "orders", "regions"]);
    house.publish(vec![rows(
        &crate::harness::orders(),
        vec![crate::harness::ints([4]), crate::harness::texts(["江苏"]), crate::harness::ints([5])],
    )]);
    let second = events.event().await;
    assert_eq!(names(&second), ["orders"]);
    assert_eq!(second["tiles"]["orders"]["rows"][3], json!([4, 5]));
    assert_eq!(second["view"]["positions"]["mall"], "change:2");
    // Who comes later gets everything first.
    let mut later = Events::open(&house).await;
    assert_eq!(names(&later.event().await).len(), 4);
    house.publish(vec![gmv_rows(&[("浙江", "app", 1)])]);
    for events in [&mut events, &mut later] {
        let event = events.event().await;
        assert_eq!(names(&event), ["gmv", "regions"]);
        assert_eq!(event["tiles"]["gmv"]["rows"], json!([[71]]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_passing_of_a_minute_changes_what_is_recent() {
    let house = House::open().await;
    house.publish(vec![minute_row(59, 8)]);
    // Just before the minute ends, so that the server looks again at once.
    house.clock.store(NOW + 19_900_000, Ordering::SeqCst);
    let mut events = Events::open(&house).await;
    assert_eq!(events.event().await["tiles"]["hour"]["rows"], json!([[8]]));
    house.clock.store(NOW + 20_000_000, Ordering::SeqCst);
    let next = events.event().await;
    assert_eq!(names(&next), ["hour"]);
    assert_eq!(next["tiles"]["hour"]["rows"], json!([[0]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_changes_no_tile_is_told_as_well() {
    let house = House::open().await;
    house.publish(vec![gmv_rows(&[("浙江", "app", 1)])]);
    let mut events = Events::open(&house).await;
    let first = events.event().await;
    house.publish(vec![gmv_rows(&[("浙江", "app", 1)])]);
    let next = events.event().await;
    assert_eq!(next["tiles"], json!({}));
    let version = |event: &serde_json::Value| event["view"]["version"].as_u64().unwrap();
    assert!(version(&next) > version(&first), "{next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_computed_while_nobody_watches() {
    let config = QueryServerConfig {
        dashboard_interval: Duration::from_millis(1),
        heartbeat: Duration::from_millis(20),
        ..QueryServerConfig::default()
    };
    let house = House::open_with(config).await;
    let computed = async || {
        let (_, text) = house.get("/metrics").await;
        let line = "medlake_query_seconds_count{door=\"dashboard\"} ";
        let count = text.lines().find_map(|l| l.strip_prefix(line)).unwrap_or("0");
        count.parse::<u64>().unwrap()
    };
    house.publish(vec![gmv_rows(&[("浙江", "app", 1)])]);
    assert_eq!(computed().await, 0);
    let mut events = Events::open(&house).await;
    events.event().await;
    assert_eq!(computed().await, 4);
    // A silent stream is kept open by comments.
    assert!(events.block().await.starts_with(": still here"));
    drop(events);
    house.publish(vec![gmv_rows(&[("浙江", "app", 2)])]);
    // Whoever comes next finds the state of now, whether the task of before has ended or not.
    let mut events = Events::open(&house).await;
    let mut event = events.event().await;
    if event["tiles"]["gmv"]["rows"] != json!([[72]]) {
        event = events.event().await;
    }
    assert_eq!(event["tiles"]["gmv"]["rows"], json!([[72]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watcher_misses_what_lies_between() {
    let house = House::open().await;
    let mut events = Events::open(&house).await;
    events.event().await;
    let mut fast = Events::open(&house).await;
    fast.event().await;
    for fen in 1..=5 {
        house.publish(vec![gmv_rows(&[("浙江", "app", fen)])]);
        let event = fast.event().await;
        assert_eq!(event["tiles"]["gmv"]["rows"], json!([[70 + fen]]));
    }
    // It was not read meanwhile; what it reads now is old by one event at most, then the newest.
    let mut seen = events.event().await;
    if seen["tiles"]["gmv"]["rows"] != json!([[75]]) {
        seen = events.event().await;
    }
    assert_eq!(seen["tiles"]["gmv"]["rows"], json!([[75]]));
}
