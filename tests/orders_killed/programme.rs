//! The programme and the points in the same runs: promoters with a past, months that are settled and paid
//! out while the process is killed, and what of it must agree at the end.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use chrono::{DateTime, Months, TimeDelta, Utc};
use medlake_operational::{
    MasterKeys, Scope, Services, Storage,
    distribution::{
        adjustments::{self, NewAdjustment},
        distributors::{self, DistributorKind, NewDistributor},
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

use super::{ANSWERS, Client, KILLS, all, fen, get};
use crate::platform::Platform;

/// Each second one brought the next in.
pub(super) const PROMOTERS: i64 = 6;
/// Months in which each promoter was granted something, all of them over.
const MONTHS: u32 = 6;
const GRANTED_FEN: i64 = 50_000;
/// In hundredths of a per cent, by level.
pub(super) const RATES_BP: [i64; 2] = [1_000, 500];

/// The time the process goes by that is killed.
#[expect(clippy::disallowed_methods, reason = "the platform under test has the machine's clock")]
fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Distributors with a past: something to be settled in each of the months that are given back.
pub(super) async fn seed(storage: &Storage, key_file: &Path) -> Vec<String> {
    let now = now();
    let services = Services::open_without_keys(
        storage,
        Arc::new(move || now.timestamp_micros()),
        Arc::new(|| ()),
    )
    .await
    .unwrap();
    services.use_master_keys(MasterKeys::open(key_file).unwrap()).await.unwrap();
    let mut periods = Vec::new();
    for back in (1..=MONTHS).rev() {
        // Months are those of Asia/Shanghai.
        let there: DateTime<Utc> = now + TimeDelta::hours(8) - Months::new(back);
        let at = (there - TimeDelta::hours(8)).timestamp_micros();
        let mut tx = services.distribution().begin(at).await.unwrap();
        let scope = Scope::at(at);
        for number in 1..=PROMOTERS {
            if back == MONTHS {
                let new = NewDistributor {
                    distributor_id: None,
                    person_id: 100 + number,
                    parent_id: (number % 2 == 0).then_some(number - 1),
                    kind: DistributorKind::Person,
                    name: format!("推广员 {number}"),
                    tax_regime: None,
                };
                distributors::create(&mut tx, scope, new).await.unwrap();
            }
            let reason = "campaign".to_owned();
            let new = NewAdjustment { beneficiary_id: number, amount_fen: GRANTED_FEN, reason };
            adjustments::adjust(&mut tx, scope, &new).await.unwrap();
        }
        tx.commit().await.unwrap();
        periods.push(there.format("%Y-%m").to_string());
    }
    services.close().await;
    periods
}

/// Rules under which orders earn commission that is free at once where nothing can be returned, and points.
pub(super) async fn set_up(platform: &Platform, buyers: u64) {
    platform.call("/distribution/settings", json!({"freeze_days": 0})).await;
    for (level, rate_bp) in (1..).zip(RATES_BP) {
        let rule = json!({"level": level, "rate_bp": rate_bp});
        platform.call("/distribution/commission-rules", rule).await;
    }
    let url = format!("{}/configuration/settings/mall.points_per_yuan", platform.services);
    let setting = json!({"version": 0, "value": 10});
    let set = reqwest::Client::new().put(url).json(&setting).send().await.unwrap();
    assert_eq!(set.status(), 200);
    for buyer in 0..buyers {
        let grant = json!({"person_id": 1 + buyer, "points": 100_000, "reason": "welcome"});
        platform.call("/mall/points/adjustments", grant).await;
    }
}

/// A buyer follows a link of a promoter's, who has just made it, and is bound to them.
pub(super) async fn follow(buyer: &mut Client, person_id: u64, random: &mut StdRng) {
    let promoter = random.random_range(1..=PROMOTERS);
    let link = json!({"distributor_id": promoter, "page": "/health"});
    let (status, link) = buyer.post("/distribution/share-links", &link).await;
    assert_eq!(status, 201, "{link}");
    let touch = json!({"code": link["code"], "person_id": person_id});
    let (status, touched) = buyer.post("/distribution/touches", &touch).await;
    assert_eq!(status, 201, "{touched}");
}

/// Settles one month after another, spread over the kills, and pays out what it settled: the channel
/// fails at times, and then is asked again.
pub(super) async fn settle_and_pay(mut payer: Client, periods: Vec<String>) {
    let mut random = StdRng::seed_from_u64(payer.number);
    let mut trades = 0;
    for (month, period) in periods.iter().enumerate() {
        while payer.answered.load(Ordering::SeqCst) < (month + 1) * KILLS * ANSWERS / periods.len()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        payer.post("/distribution/commissions/release", &json!({})).await;
        let asked = json!({"period": period});
        let (status, settled) = payer.post("/distribution/settlements", &asked).await;
        assert_eq!(status, 201, "{settled}");
        for settlement in settled["items"].as_array().unwrap() {
            let path = format!("/distribution/settlements/{}/payouts", settlement["settlement_id"]);
            let mut paid = false;
            while !paid {
                paid = random.random_range(0..3) > 0;
                trades += 1;
                let channel = json!({"channel": "wechat_transfer"});
                let (status, payout) = payer.post(&path, &channel).await;
                assert_eq!(status, 201, "{payout}");
                let record = json!({"channel": "wechat_transfer",
                    "trade_number": format!("T{}-{trades}", payer.number),
                    "payout_number": payout["payout_number"], "amount_fen": payout["net_fen"],
                    "outcome": if paid { "succeeded" } else { "failed" },
                    "occurred_at": payout["created_at"]});
                let (status, record) = payer.post("/distribution/channel-records", &record).await;
                assert_eq!(status, 201, "{record}");
                assert!(record["problem"].is_null(), "{record}");
            }
        }
    }
}

/// Waits until what the services tell each other has arrived, and until what is due has happened: after a
/// start, orders that were received are completed.
pub(super) async fn come_to_rest(platform: &Platform) {
    let end = Instant::now() + Duration::from_secs(90);
    loop {
        let waiting = all(platform, "/outbox/messages?service=mall", "outbox_id").await;
        let received = all(platform, "/mall/orders?status=received", "order_id").await;
        let now = now().timestamp_micros();
        let due = received.iter().filter(|order| fen(order, "due_at") <= now).count();
        if waiting.is_empty() && due == 0 {
            return;
        }
        assert!(waiting.iter().all(|message| message["failed_at"].is_null()), "{waiting:?}");
        assert!(Instant::now() < end, "{} wait, {due} are due: {}", waiting.len(), platform.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether the programme and the points say of themselves that they agree, and each month was settled and
/// paid out once.
pub(super) async fn is_reconciled(platform: &Platform, periods: &[String]) {
    let report = get(platform, "/distribution/reconciliation").await;
    assert_eq!(report["balanced"], true, "{report}");
    assert_eq!(report["pending_payouts"], 0, "{report}");
    assert!(fen(&report["totals"], "available_fen") > 0, "something was released: {report}");
    let settlements = all(platform, "/distribution/settlements", "settlement_id").await;
    let promoters = usize::try_from(PROMOTERS).unwrap();
    assert_eq!(settlements.len(), promoters * periods.len(), "each month is settled once for each");
    for settlement in &settlements {
        assert_eq!(settlement["status"], "paid", "{settlement}");
        assert_eq!(fen(settlement, "amount_fen"), GRANTED_FEN, "{settlement}");
    }
    let totals = &report["totals"];
    let paid_out = fen(totals, "paid_fen") + fen(totals, "tax_fen");
    assert_eq!(paid_out, GRANTED_FEN * i64::try_from(settlements.len()).unwrap());

    let report = get(platform, "/mall/points/reconciliation").await;
    assert_eq!(report["balanced"], true, "{report}");
    assert!(fen(&report["totals"], "spent_points") > 0, "{report}");
}
