//! Recorded data through the whole line: the totals of the data set come out of every door.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    platform::{self, Platform, binary, shared_data},
    recompute, sources,
};

#[tokio::test]
async fn the_complete_journey_comes_out_with_its_totals() {
    let Some(shared) = shared_data() else { return };
    let _alone = platform::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::quiet(dir.path()).await;
    let started = Instant::now();
    let mut replay: Command = binary();
    replay.args(["replay", "completejourney", "--data"]).arg(dir.path());
    replay.arg("--from").arg(shared.join("completejourney"));
    let output = replay.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let replayed = started.elapsed();
    platform.caught_up(Duration::from_secs(600)).await;
    let visible = started.elapsed();

    let oracle: Value =
        serde_json::from_slice(&std::fs::read(shared.join("oracles/dataset_totals.json")).unwrap())
            .unwrap();
    let totals = &oracle["completejourney_transactions"];
    let fen = |name: &str| -> i64 {
        totals[name].as_str().unwrap().replace('.', "").parse::<i64>().unwrap()
    };
    let expected = [
        totals["rows"].as_i64().unwrap(),
        totals["households"].as_i64().unwrap(),
        totals["baskets"].as_i64().unwrap(),
        fen("sales_value"),
        fen("retail_disc"),
        fen("coupon_disc"),
        fen("coupon_match_disc"),
        totals["rows_with_coupon"].as_i64().unwrap(),
    ];
    let sql = "select count(*), count(distinct o.person_id), count(distinct o.order_id), \
               sum(l.line_amount_fen - l.disc_coupon_merchant_fen), sum(l.disc_item_fen), \
               sum(l.disc_coupon_platform_fen), sum(l.disc_coupon_merchant_fen), \
               sum(case when l.disc_coupon_platform_fen > 0 then 1 else 0 end) \
               from mall.order_line l join mall.orders o on o.order_id = l.order_id";
    let over_http = platform.rows(sql).await;
    assert_eq!(over_http, vec![expected.iter().map(|n| json!(n)).collect::<Vec<_>>()]);
    let text: Vec<String> = expected.iter().map(ToString::to_string).collect();
    assert_eq!(platform.psql(sql), [text.join("|")]);

    // Coupons of campaigns, with those that were used, and their orders.
    let coupons = "select count(*), count(distinct coupon_id), count(order_id), \
                   count(distinct order_id) from mall.coupon_claim";
    assert_eq!(platform.psql(coupons), ["51963|787|1836|1020"]);
    let noted = "select count(*) from mall.orders where coupon_id is not null";
    assert_eq!(platform.psql(noted), ["1020"]);

    let mart = "select sum(lines_paid), sum(orders_paid), sum(gmv_paid_fen - disc_merchant_fen), \
                sum(disc_item_fen), sum(disc_platform_fen), sum(disc_merchant_fen) from marts.gmv_daily";
    let text = [0, 2, 3, 4, 5, 6].map(|i: usize| expected[i].to_string());
    assert_eq!(platform.psql(mart), [text.join("|")]);
    recompute::marts_equal_a_recomputation(&platform).await;
    println!(
        "replayed in {replayed:?}, visible in {visible:?}, peak memory {} MiB",
        platform.peak_memory_bytes() >> 20
    );
}

#[tokio::test]
async fn the_adherer_patients_come_out_whole() {
    let Some(shared) = shared_data() else { return };
    let _alone = platform::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::quiet(dir.path()).await;
    let mut replay: Command = binary();
    replay.args(["replay", "adherer", "--data"]).arg(dir.path());
    replay.arg("--from").arg(shared.join("adherer"));
    for _ in 0..2 {
        // A second run finds everything there and adds nothing.
        let output = replay.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        platform.caught_up(Duration::from_secs(60)).await;
        let sql = "select (select count(*) from chronic_care.patient) as patients, \
                   count(*) as fills, sum(days_supply) as days from chronic_care.dispensing";
        let mut care = sources::open(dir.path(), "chronic_care").await;
        let theirs = sources::rows(&mut care, &sql.replace("chronic_care.", "")).await;
        assert_eq!(platform.rows(sql).await, theirs);
        assert_eq!(theirs[0][..2], [json!(100), json!(1_080)]);
    }
    recompute::marts_equal_a_recomputation(&platform).await;
}

#[tokio::test]
async fn a_simulated_history_comes_out_as_the_services_have_it() {
    let _alone = platform::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::quiet(dir.path()).await;
    let mut simulate: Command = binary();
    simulate.args(["simulate", "--backfill", "100d", "--people", "150", "--seed", "7"]);
    simulate.args(["--only-backfill", "--data"]).arg(dir.path());
    let sql = "select count(*) as orders, sum(refunded_fen) as refunded, count(promoter_id) as referred \
               from mall.orders";
    let mut said = Vec::new();
    for _ in 0..2 {
        // A second run finds everything there and adds nothing.
        let output = simulate.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        platform.caught_up(Duration::from_secs(60)).await;
        let mut mall = sources::open(dir.path(), "mall").await;
        let theirs = sources::rows(&mut mall, &sql.replace("mall.", "")).await;
        assert_eq!(platform.rows(sql).await, theirs);
        assert!(theirs[0].iter().all(|count| count.as_i64() > Some(0)), "{theirs:?}");
        said.push((String::from_utf8(output.stdout).unwrap(), theirs));
    }
    assert_eq!(said[1].0, "100 days of 150 people are there already\n");
    assert_eq!(said[0].1, said[1].1);
    assert!(recompute::tables_equal_their_sources(&platform).await > 2_000);
    recompute::marts_equal_a_recomputation(&platform).await;
}
