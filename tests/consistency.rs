//! Two numbers never contradict each other: under load, every view shows the marts of its own cut,
//! and all tiles of a screen are from one view.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::platform::{self, Platform, Ports};

#[tokio::test]
async fn at_every_view_under_load_the_marts_say_what_the_rows_say() {
    let _alone = platform::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::start(dir.path(), Ports::free(), &["--rate", "100"]).await;
    let sql = "select \
        (select coalesce(sum(goods_amount_fen), 0) from mall.orders where paid_at is not null) as rows, \
        (select coalesce(sum(gmv_paid_fen), 0) from marts.gmv_daily) as days, \
        (select coalesce(sum(gmv_paid_fen), 0) from marts.gmv_minute) as minutes, \
        (select coalesce(sum(gmv_paid_fen), 0) from marts.category_daily) as categories, \
        (select coalesce(sum(amount_fen), 0) from distribution.commission_entry \
            where event_type in ('accrue', 'reverse')) as entries, \
        (select coalesce(sum(net_fen), 0) from marts.commission_daily) as commissions";
    let mut views = std::collections::BTreeSet::new();
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        let answer = platform.query(sql).await;
        let row: Vec<i64> = serde_json::from_value(answer["rows"][0].clone()).unwrap();
        assert_eq!(row[1..4], [row[0]; 3], "at {}", answer["view"]);
        assert_eq!(row[4], row[5], "at {}", answer["view"]);
        views.insert(answer["view"]["version"].as_u64().unwrap());

        let url = format!("{}/api/v1/dashboards/executive/data", platform.http);
        let screen: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        let first = |tile: &str, column: usize| screen["tiles"][tile]["rows"][0][column].clone();
        let sum = |tile: &str, column: usize| -> i64 {
            let rows = screen["tiles"][tile]["rows"].as_array().unwrap();
            rows.iter().filter_map(|row| row[column].as_i64()).sum()
        };
        // The headline is by the minute, the channels by the day: other marts, one moment.
        let gmv = first("gmv_today", 0).as_i64().unwrap_or(0);
        assert_eq!(sum("channels", 1), gmv, "{screen}");
        assert_eq!(sum("channels", 2), first("orders_today", 0).as_i64().unwrap_or(0), "{screen}");
    }
    assert!(views.len() > 5, "only {} views in ten seconds", views.len());
}
