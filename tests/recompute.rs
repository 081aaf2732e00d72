//! The lake against its sources, value by value, and the marts against an independent
//! recomputation: other SQL, in another engine, from the operational databases.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sqlx::SqliteConnection;

use crate::{platform::Platform, sources};

/// Every captured table of every source equals its copy in the lake. Answers the rows compared.
pub(crate) async fn tables_equal_their_sources(platform: &Platform) -> usize {
    let mut compared = 0;
    for source in sources::SOURCES {
        let mut db = sources::open(&platform.data, source).await;
        for (table, key) in sources::tables(&mut db).await {
            let columns: Vec<(String, String)> =
                sqlx::query_as("select name, upper(type) from pragma_table_xinfo(?) order by cid")
                    .bind(&table)
                    .fetch_all(&mut db)
                    .await
                    .unwrap();
            let order = key.join(", ");
            let plain = columns.iter().map(|(c, _)| c.as_str()).collect::<Vec<_>>().join(", ");
            let comparable = columns
                .iter()
                .map(|(c, ty)| match ty.as_str() {
                    "TIMESTAMP" => format!("cast({c} as bigint) as {c}"),
                    "DATE" => format!("cast({c} as varchar) as {c}"),
                    _ => c.clone(),
                })
                .collect::<Vec<_>>()
                .join(", ");
            let theirs =
                sources::rows(&mut db, &format!("select {plain} from {table} order by {order}"))
                    .await;
            // The lake is asked in pages, as an answer over HTTP has a row limit.
            let ours = pages(
                platform,
                &format!("select {comparable} from {source}.{table}"),
                &order,
                theirs.len(),
            )
            .await;
            assert_eq!(ours.len(), theirs.len(), "rows of {source}.{table}\n{}", platform.log());
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert_eq!(ours, theirs, "{source}.{table} ({plain})");
            }
            compared += theirs.len();
        }
    }
    compared
}

const PAGE: usize = 5_000;

async fn pages(platform: &Platform, select: &str, order: &str, expected: usize) -> Vec<Vec<Value>> {
    let mut all = Vec::new();
    loop {
        let page = format!("{select} order by {order} limit {PAGE} offset {}", all.len());
        let rows = platform.rows(&page).await;
        let count = rows.len();
        all.extend(rows);
        if count < PAGE || all.len() > expected {
            return all;
        }
    }
}

/// Every mart equals what the operational databases say.
pub(crate) async fn marts_equal_a_recomputation(platform: &Platform) {
    let mut mall = sources::open(&platform.data, "mall").await;
    let mut distribution = sources::open(&platform.data, "distribution").await;
    let mut care = sources::open(&platform.data, "chronic_care").await;
    mart(platform, "gmv_daily", GMV_DAILY_KEY, GMV_DAILY_VALUES, &mut mall, GMV_DAILY).await;
    mart(platform, "gmv_minute", "tenant_id, minute", GMV_MINUTE_VALUES, &mut mall, GMV_MINUTE)
        .await;
    mart(
        platform,
        "category_daily",
        "tenant_id, business_day, category",
        "units_paid, lines_paid, gmv_paid_fen, cash_paid_fen",
        &mut mall,
        CATEGORY_DAILY,
    )
    .await;
    mart(
        platform,
        "commission_daily",
        "tenant_id, business_day, distributor_id, level",
        "lines, base_fen, accrued_fen, reversed_fen, net_fen",
        &mut distribution,
        COMMISSION_DAILY,
    )
    .await;
    mart(
        platform,
        "control_patient",
        "tenant_id, patient_id",
        "condition, last_follow_up_at, follow_ups, on_target, readings_30d",
        &mut care,
        CONTROL_PATIENT,
    )
    .await;
    doses(platform, &mut care).await;
    adherence(platform, &mut care).await;
}

async fn mart(
    platform: &Platform,
    mart: &str,
    key: &str,
    values: &str,
    db: &mut SqliteConnection,
    recomputation: &str,
) {
    let theirs =
        sources::rows(db, &format!("select * from ({recomputation}) order by {key}")).await;
    let columns = format!("{key}, {values}")
        .replace("business_day", "cast(business_day as varchar) as business_day")
        .replace("minute,", "cast(minute as bigint) as minute,")
        .replace("last_follow_up_at", "cast(last_follow_up_at as bigint) as last_follow_up_at")
        .replace("on_target", "case when on_target then 1 else 0 end as on_target");
    let ours =
        pages(platform, &format!("select {columns} from marts.{mart}"), key, theirs.len()).await;
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs, "marts.{mart} ({key}, {values})");
    }
    assert_eq!(ours.len(), theirs.len(), "rows of marts.{mart}");
}

const GMV_DAILY_KEY: &str = "tenant_id, business_day, pharmacy_id, channel";
const GMV_DAILY_VALUES: &str = "orders_created, gmv_ordered_fen, orders_paid, lines_paid, units_paid, \
    list_amount_fen, gmv_paid_fen, disc_item_fen, disc_merchant_fen, disc_platform_fen, \
    shipping_paid_fen, cash_paid_fen, refund_amount_fen, refund_by_order_cohort_fen, net_sales_fen, \
    orders_refunded";
const GMV_DAILY: &str = "
with line as (
  select order_id, count(*) as lines, sum(quantity) as units, sum(list_amount_fen) as list,
         sum(line_amount_fen) as amount, sum(disc_item_fen) as item,
         sum(disc_full_reduction_fen + disc_coupon_merchant_fen) as merchant,
         sum(disc_coupon_platform_fen + disc_points_fen) as platform, sum(cash_fen) as cash
  from order_line group by order_id
), event as (
  select tenant_id, date(created_at / 1000000 + 28800, 'unixepoch') as business_day, pharmacy_id, channel,
         1 as a, goods_amount_fen as b, 0 as c, 0 as d, 0 as e, 0 as f, 0 as g, 0 as h, 0 as i, 0 as j,
         0 as k, 0 as l, 0 as m, 0 as n, null as o
  from orders
  union all
  select tenant_id, date(paid_at / 1000000 + 28800, 'unixepoch'), pharmacy_id, channel,
         0, 0, 1, lines, units, list, amount, item, merchant, platform, shipping_fen, cash, 0, 0, null
  from orders join line using (order_id) where paid_at is not null
  union all
  select r.tenant_id, date(r.succeeded_at / 1000000 + 28800, 'unixepoch'), o.pharmacy_id, o.channel,
         0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, r.amount_fen, 0, o.order_id
  from refund r join orders o using (order_id)
  union all
  select r.tenant_id, date(o.paid_at / 1000000 + 28800, 'unixepoch'), o.pharmacy_id, o.channel,
         0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, r.amount_fen, null
  from refund r join orders o using (order_id)
)
select tenant_id, business_day, pharmacy_id, channel, sum(a), sum(b), sum(c), sum(d), sum(e), sum(f),
       sum(g), sum(h), sum(i), sum(j), sum(k), sum(l), sum(m), sum(n), sum(l) - sum(m), count(distinct o)
from event group by 1, 2, 3, 4";

const GMV_MINUTE_VALUES: &str = "orders_paid, gmv_paid_fen, cash_paid_fen, refund_amount_fen";
const GMV_MINUTE: &str = "
with line as (
  select order_id, sum(line_amount_fen) as amount, sum(cash_fen) as cash from order_line group by order_id
), event as (
  select tenant_id, paid_at / 60000000 * 60000000 as minute, 1 as a, amount as b, cash as c, 0 as d
  from orders join line using (order_id) where paid_at is not null
  union all
  select tenant_id, succeeded_at / 60000000 * 60000000, 0, 0, 0, amount_fen from refund
)
select tenant_id, minute, sum(a), sum(b), sum(c), sum(d) from event group by 1, 2";

const CATEGORY_DAILY: &str = "
select o.tenant_id, date(o.paid_at / 1000000 + 28800, 'unixepoch') as business_day, p.category,
       sum(l.quantity), count(*), sum(l.line_amount_fen), sum(l.cash_fen)
from order_line l join orders o using (order_id) join product p using (product_id)
where o.paid_at is not null group by 1, 2, 3";

const COMMISSION_DAILY: &str = "
with event as (
  select e.tenant_id, date(e.occurred_at / 1000000 + 28800, 'unixepoch') as business_day,
         e.beneficiary_id as distributor_id, e.level,
         case when e.event_type = 'accrue' then 1 else 0 end as a,
         case when e.event_type = 'accrue' then c.base_fen else 0 end as b,
         case when e.event_type = 'accrue' then e.amount_fen else 0 end as c,
         case when e.event_type = 'reverse' then -e.amount_fen else 0 end as d
  from commission_entry e join commission c using (commission_id)
  where e.event_type in ('accrue', 'reverse')
)
select tenant_id, business_day, distributor_id, level, sum(a), sum(b), sum(c), sum(d), sum(c) - sum(d)
from event group by 1, 2, 3, 4";

const CONTROL_PATIENT: &str = "
with last_day as (
  select max(day) as day from (
    select date(max(measured_at) / 1000000 + 28800, 'unixepoch') as day from reading
    union all
    select date(max(performed_at) / 1000000 + 28800, 'unixepoch') from follow_up
  )
)
select p.tenant_id, p.patient_id, p.condition,
       (select max(f.performed_at) from follow_up f where f.patient_id = p.patient_id) as last_follow_up_at,
       (select count(*) from follow_up f where f.patient_id = p.patient_id) as follow_ups,
       coalesce(p.status = 'active' and (
         select f.on_target from follow_up f where f.patient_id = p.patient_id
         order by f.performed_at desc, f.follow_up_id desc limit 1), 0) as on_target,
       (select count(*) from reading r, last_day
        where r.patient_id = p.patient_id and r.quality = 'ok'
          and date(r.measured_at / 1000000 + 28800, 'unixepoch') > date(last_day.day, '-30 days')
       ) as readings_30d
from patient p";

const DOSES: &str = "
select e.tenant_id, e.patient_id, m.drug_class,
       cast(strftime('%Y', e.scheduled_at / 1000000 + 28800, 'unixepoch') as integer) as period_year,
       count(*), sum(e.status = 'taken'), sum(e.status = 'late'), sum(e.status = 'missed')
from dose_event e join medication_plan m using (plan_id)
group by 1, 2, 3, 4 order by 1, 2, 3, 4";

async fn doses(platform: &Platform, care: &mut SqliteConnection) {
    let theirs = sources::rows(care, DOSES).await;
    let select = "select tenant_id, patient_id, drug_class, period_year, doses_due, doses_taken, \
                  doses_late, doses_missed from marts.adherence_patient where doses_due > 0";
    let key = "tenant_id, patient_id, drug_class, period_year";
    let ours = pages(platform, select, key, theirs.len()).await;
    assert_eq!(ours, theirs, "doses of marts.adherence_patient ({key})");
}

/// Drug, first day and days of supply.
type Fill = (String, i64, i64);

/// PDC once more, by laying out every single day: slow, and too simple to share a mistake.
async fn adherence(platform: &Platform, care: &mut SqliteConnection) {
    let ours = platform
        .rows(
            "select patient_id, drug_class, period_year, cast(as_of_day as varchar), period_days, \
             covered_days, fill_dates, eligible, adherent, pdc \
             from marts.adherence_patient where index_on is not null",
        )
        .await;
    let mut fills: BTreeMap<(i64, String), Vec<Fill>> = BTreeMap::new();
    let supply = "select patient_id, drug_class, drug_code, \
                  cast(julianday(dispensed_on) - 2440587.5 as integer), days_supply from dispensing \
                  order by dispensed_on, dispensing_id";
    for row in sources::rows(care, supply).await {
        let number = |i: usize| row[i].as_i64().unwrap();
        let word = |i: usize| row[i].as_str().unwrap().to_owned();
        fills.entry((number(0), word(1))).or_default().push((word(2), number(3), number(4)));
    }
    let mut expected = BTreeSet::new();
    // A past year ends with its last day, the running one with the latest day that is known of.
    let Some(as_of) = ours.iter().map(|row| day_number(row[3].as_str().unwrap())).max() else {
        assert!(fills.is_empty(), "there were dispensings and no adherence");
        return;
    };
    for ((patient, class), fills) in &fills {
        let years: BTreeSet<i32> = fills.iter().map(|(_, day, _)| year(*day)).collect();
        for year_number in years {
            let start = day_number(&format!("{year_number}-01-01"));
            let end = (day_number(&format!("{}-01-01", year_number + 1)) - 1).min(as_of);
            let in_year = fills.iter().filter(|(_, day, _)| (start..=end).contains(day));
            let in_year: Vec<_> = in_year.collect();
            let Some(index) = in_year.iter().map(|(_, day, _)| *day).min() else { continue };
            let mut next_free: BTreeMap<&str, i64> = BTreeMap::new();
            let mut covered = BTreeSet::new();
            for (drug, day, days) in &in_year {
                let free = next_free.entry(drug).or_insert(i64::MIN);
                let first = *day.max(free);
                *free = first + days;
                covered.extend((first..first + days).filter(|d| *d <= end));
            }
            let dates: BTreeSet<i64> = in_year.iter().map(|(_, day, _)| *day).collect();
            let (days, covered) = (end - index + 1, i64::try_from(covered.len()).unwrap());
            let eligible = dates.len() >= 2 && days >= 91;
            expected.insert((
                *patient,
                class.clone(),
                i64::from(year_number),
                (days, covered, i64::try_from(dates.len()).unwrap()),
                (eligible, eligible.then_some(covered * 100 >= days * 80)),
            ));
        }
    }
    let ours: BTreeSet<_> = ours
        .iter()
        .map(|row| {
            let number = |i: usize| row[i].as_i64().unwrap();
            let class = row[1].as_str().unwrap().to_owned();
            let pdc = row[9].as_f64().unwrap();
            let (days, covered) =
                (i32::try_from(number(4)).unwrap(), i32::try_from(number(5)).unwrap());
            assert!((pdc - f64::from(covered) / f64::from(days)).abs() < 1e-12, "pdc of {row:?}");
            let verdict = (row[7].as_bool().unwrap(), row[8].as_bool());
            (number(0), class, number(2), (number(4), number(5), number(6)), verdict)
        })
        .collect();
    assert_eq!(
        ours, expected,
        "patient, class, year, (period days, covered, fill dates), (eligible, adherent)"
    );
}

fn day_number(day: &str) -> i64 {
    let day: chrono::NaiveDate = day.parse().unwrap();
    (day - chrono::NaiveDate::default()).num_days()
}

fn year(day: i64) -> i32 {
    chrono::Datelike::year(&(chrono::NaiveDate::default() + chrono::Duration::days(day)))
}
