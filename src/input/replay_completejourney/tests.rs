use std::{fs::File, sync::Arc};

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray,
};
use medlake_operational::Storage;
use parquet::arrow::ArrowWriter;

use super::*;
use crate::input::recording::shared_data;

const SECOND_NANOS: i64 = 1_000_000_000;
/// 2017-01-01T11:53:26 on a wall clock.
const FIRST_SECOND: i64 = 1_483_271_606;

/// Basket, household, store, product, quantity, and the four amounts.
type Row = (i64, i64, i64, i64, i64, [f64; 4]);

fn rows(baskets: i64) -> Vec<Row> {
    (0..baskets)
        .flat_map(|n| {
            // As in the data: ids do not rise with time.
            let basket = 31_000_000_000 + (n * 37) % 101;
            let row = move |product, quantity, amounts| {
                (basket, n % 5 + 1, n % 3 + 2, product, quantity, amounts)
            };
            [
                row(25_671, n + 1, [3.99, 0.4, 0.0, 0.0]),
                row(26_081, 1, [0.1, 0.0, 1.0, 0.5]),
                row(30_000, 0, [0.0, 0.0, 0.55, 0.0]),
            ]
        })
        .collect()
}

fn write(folder: &Path, rows: &[Row]) {
    let integers =
        |of: fn(&Row) -> i64| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<Int64Array>()) };
    let amounts = |at: usize| -> ArrayRef {
        Arc::new(rows.iter().map(|r| r.5[at]).collect::<Float64Array>())
    };
    let mut times = Vec::new();
    let mut second = FIRST_SECOND;
    for (at, row) in rows.iter().enumerate() {
        if at > 0 && rows[at - 1].0 != row.0 {
            second += 60;
        }
        times.push(second * SECOND_NANOS);
    }
    let transactions = RecordBatch::try_from_iter([
        ("household_id", integers(|r| r.1)),
        ("store_id", integers(|r| r.2)),
        ("basket_id", integers(|r| r.0)),
        ("product_id", integers(|r| r.3)),
        ("quantity", integers(|r| r.4)),
        ("sales_value", amounts(0)),
        ("retail_disc", amounts(1)),
        ("coupon_disc", amounts(2)),
        ("coupon_match_disc", amounts(3)),
        ("transaction_timestamp", Arc::new(TimestampNanosecondArray::from(times))),
    ])
    .unwrap();
    let text = |value: Option<&str>| -> ArrayRef { Arc::new(StringArray::from(vec![value; 1])) };
    let products = RecordBatch::try_from_iter([
        ("product_id", Arc::new(Int64Array::from(vec![25_671])) as ArrayRef),
        ("department", text(Some("GROCERY"))),
        ("brand", text(Some("National"))),
        ("product_category", text(Some("FRZN ICE"))),
        ("product_type", text(None)),
    ])
    .unwrap();
    for (name, batch) in [("transactions.parquet", transactions), ("products.parquet", products)] {
        let file = File::create(folder.join(name)).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}

async fn services(folder: &Path) -> Services {
    Services::open(&Storage::files(folder), Arc::new(|| 1_795_000_000_000_000), Arc::new(|| ()))
        .await
        .unwrap()
}

async fn integers(services: &Services, sql: &'static str) -> Vec<i64> {
    let mut connection = services.mall().read().await.unwrap();
    let row = sqlx::query(sql).fetch_one(connection.sqlite().unwrap()).await.unwrap();
    (0..sqlx::Row::len(&row)).map(|at| sqlx::Row::get(&row, at)).collect()
}

const TOTALS: &str = "
    select count(*), count(distinct order_id), sum(line_amount_fen - disc_coupon_merchant_fen),
        sum(disc_item_fen), sum(disc_coupon_platform_fen), sum(disc_coupon_merchant_fen),
        sum(list_amount_fen), min(quantity), min(cash_fen)
    from order_line";

#[tokio::test]
async fn what_was_recorded_can_be_had_back_and_a_stopped_replay_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let all = rows(20);
    write(folder.path(), &all[..7 * 3]);
    let services = services(&folder.path().join("operational")).await;
    let first = run(&services, folder.path(), None).await.unwrap();
    assert_eq!((first.written, first.skipped, first.detail_rows), (7, 0, 21));

    write(folder.path(), &all);
    let second = run(&services, folder.path(), None).await.unwrap();
    assert_eq!((second.written, second.skipped, second.detail_rows), (13, 7, 39));
    let third = run(&services, folder.path(), None).await.unwrap();
    assert_eq!((third.written, third.skipped), (0, 20));

    assert_eq!(
        integers(&services, TOTALS).await,
        [60, 20, 20 * 409, 20 * 40, 20 * 155, 20 * 50, 20 * (399 + 40 + 10 + 50), 0, -90]
    );
    let paid = "
        select count(*), count(*) filter (where status = 'paid'), sum(payable_fen), min(created_at),
            min(paid_at - created_at), (select sum(amount_fen) from payment),
            (select count(distinct pharmacy_id) from orders)
        from orders";
    let cash = 20 * (409 - 155);
    // A recorded 11:53:26 is that time in Shanghai, eight hours before the same in UTC.
    let at = (FIRST_SECOND - 8 * 3600) * 1_000_000;
    assert_eq!(integers(&services, paid).await, [20, 20, cash, at, 0, cash, 3]);
    let product = "
        select unit_price_fen, (select count(*) from product) from product
        where product_id = 25671 and category = 'FRZN ICE' and name = 'product 25671'";
    assert_eq!(integers(&services, product).await, [439, 3]);
}

#[tokio::test]
async fn a_recording_that_cannot_be_used_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let services = services(&folder.path().join("operational")).await;
    let error = |result: anyhow::Result<ReplayReport>| format!("{:#}", result.unwrap_err());
    let missing = error(run(&services, folder.path(), None).await);
    assert!(missing.contains("no transactions.parquet"), "{missing}");
    let mut broken = rows(2);
    broken[1].5[0] = 0.123;
    write(folder.path(), &broken);
    let odd = error(run(&services, folder.path(), None).await);
    assert!(odd.contains("\"sales_value\" is not an amount of money"), "{odd}");
    let mut apart = rows(3);
    apart.swap(0, 8);
    write(folder.path(), &apart);
    let apart = error(run(&services, folder.path(), None).await);
    assert!(apart.contains("are not together"), "{apart}");
    write(folder.path(), &rows(1));
    let speed = error(run(&services, folder.path(), Some(0.0)).await);
    assert!(speed.contains("positive"), "{speed}");
}

/// Campaign 1 of type A and 2 of type B: three coupons, households 1, 2 and 9, six redemptions.
fn write_campaigns(folder: &Path) {
    const DAY_NANOS: i64 = 86_400 * SECOND_NANOS;
    let midnight = FIRST_SECOND * SECOND_NANOS / DAY_NANOS * DAY_NANOS;
    let integers = |values: &[i64]| -> ArrayRef { Arc::new(Int64Array::from(values.to_vec())) };
    let days = |days: &[i64]| -> ArrayRef {
        let days = days.iter().map(|day| midnight + day * DAY_NANOS);
        Arc::new(TimestampNanosecondArray::from_iter_values(days))
    };
    let kinds: ArrayRef = Arc::new(StringArray::from(vec!["Type A", "Type B"]));
    for (name, columns) in [
        (
            "campaign_descriptions",
            vec![
                ("campaign_id", integers(&[1, 2])),
                ("campaign_type", kinds),
                ("start_date", days(&[-40, 0])),
                ("end_date", days(&[0, 30])),
            ],
        ),
        (
            "campaigns",
            vec![
                ("campaign_id", integers(&[1, 1, 2, 2])),
                ("household_id", integers(&[1, 2, 1, 9])),
            ],
        ),
        (
            "coupons",
            vec![
                ("coupon_upc", integers(&[501, 501, 502, 601])),
                ("product_id", integers(&[26_081, 30_000, 4, 25_671])),
                ("campaign_id", integers(&[1, 1, 1, 2])),
            ],
        ),
        (
            // Of these, that of household 9 and that of coupon 502 have no basket, and one day has none.
            "coupon_redemptions",
            vec![
                ("household_id", integers(&[1, 2, 1, 1, 2, 9])),
                ("coupon_upc", integers(&[501, 501, 501, 601, 502, 601])),
                ("campaign_id", integers(&[1, 1, 1, 2, 1, 2])),
                ("redemption_date", days(&[0, 0, -3, 0, 0, 0])),
            ],
        ),
    ] {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let file = File::create(folder.join(format!("{name}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}

#[tokio::test]
async fn coupons_are_with_whom_they_were_sent_to_and_used_where_it_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let all = rows(20);
    write_campaigns(folder.path());
    let services = services(&folder.path().join("operational")).await;
    // Stopped after the first basket and taken up again: no claim is written twice.
    write(folder.path(), &all[..3]);
    run(&services, folder.path(), None).await.unwrap();
    write(folder.path(), &all);
    let report = run(&services, folder.path(), None).await.unwrap();
    assert_eq!(
        report.notes,
        [
            "2 campaigns with 3 coupons, 6 of them in somebody's hands",
            "6 coupons were used, 3 of them in a basket that is known"
        ]
    );
    let claims = "
        select count(*), count(distinct coupon_id), count(order_id),
            count(distinct person_id), min(expires_at - claimed_at),
            (select sum(claimed_count) from coupon), (select count(*) from coupon),
            (select count(*) from orders where coupon_id is not null)
        from coupon_claim";
    let days = |days: i64| (days * 24 + 5) * 3600 * 1_000_000;
    assert_eq!(integers(&services, claims).await, [6, 3, 3, 3, days(31), 6, 3, 2]);
    // Household 1 came first: its basket used a coupon of each campaign.
    let first = "
        select count(*), min(c.redeemed_at - o.created_at), min(o.person_id), max(o.coupon_id)
        from coupon_claim c join orders o using (order_id) where o.order_id = 31000000000";
    assert_eq!(integers(&services, first).await, [2, 0, JOURNEY_IDS + 1, JOURNEY_IDS + 1]);
}

/// The real recording, against totals that others computed from the same file.
#[test]
fn the_real_recording_has_its_published_totals() {
    let Some(data) = shared_data() else { return };
    let folder = data.join("completejourney");
    let recording = Recording::read(&folder).unwrap();
    // The totals of coupons are those that the data's authors give; in how many baskets they were used
    // was counted by another program.
    let sent = Coupons::read(&folder, &recording).unwrap();
    let count = |of: fn(&Campaign) -> usize| sent.campaigns.iter().map(of).sum::<usize>();
    assert_eq!((sent.campaigns.len(), sent.redemptions), (27, 2_102));
    let (coupons, claims) = (count(|of| of.coupons.len()), count(|of| of.claims.len()));
    assert_eq!((coupons, claims), (1_197, 51_963));
    assert_eq!((sent.with_basket, sent.used.len()), (1_836, 1_020));
    let oracle = std::fs::read(data.join("oracles/dataset_totals.json")).unwrap();
    let oracle: serde_json::Value = serde_json::from_slice(&oracle).unwrap();
    let oracle = &oracle["completejourney_transactions"];
    let lines: Vec<RecordedLine> = recording.lines.iter().map(Line::recorded).collect();
    let yuan = |of: fn(&RecordedLine) -> i64| {
        let fen: i64 = lines.iter().map(of).sum();
        serde_json::json!(format!("{}.{:02}", fen / 100, fen % 100))
    };
    let sold = |l: &RecordedLine| l.list_amount_fen - l.disc_item_fen - l.disc_coupon_merchant_fen;
    assert_eq!(yuan(sold), oracle["sales_value"]);
    assert_eq!(yuan(|l| l.disc_item_fen), oracle["retail_disc"]);
    assert_eq!(yuan(|l| l.disc_coupon_platform_fen), oracle["coupon_disc"]);
    assert_eq!(yuan(|l| l.disc_coupon_merchant_fen), oracle["coupon_match_disc"]);
    assert_eq!(lines.len(), oracle["rows"]);
    assert_eq!(recording.baskets.len(), oracle["baskets"]);
    let mut households: Vec<i64> = recording.baskets.iter().map(|b| b.household_id).collect();
    households.sort_unstable();
    households.dedup();
    assert_eq!(households.len(), oracle["households"]);
    let with_coupon = lines.iter().filter(|l| l.disc_coupon_platform_fen > 0).count();
    assert_eq!(with_coupon, oracle["rows_with_coupon"]);
    assert_eq!(lines.iter().filter(|l| l.quantity == 0).count(), 8_869, "as documented above");
}
