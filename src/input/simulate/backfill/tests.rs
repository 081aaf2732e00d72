#[path = "../../../../lake/tests/ports.rs"]
mod ports;
#[path = "../../../../lake/tests/servers.rs"]
#[expect(dead_code, reason = "only MariaDB is started here")]
mod servers;

use std::path::Path;

use medlake_operational::{Connection, MasterKeys, Storage};
use servers::{DatabaseServer, Kind};

use super::*;

/// 2026-11-21, 22:00 in Asia/Shanghai.
const NOW: i64 = 1_795_269_600_000_000;
const CONFIG: BackfillConfig = BackfillConfig { seed: 7, people: 200, days: 40 };

async fn services(folder: &Path) -> Services {
    Services::open(&Storage::files(folder), Arc::new(|| NOW), Arc::new(|| ())).await.unwrap()
}

/// What is in the tables, but for ids that services give.
async fn content(services: &Services) -> Vec<String> {
    let mut content = Vec::new();
    for (database, sql) in [
        (
            services.mall(),
            "select json_group_array(json_array(order_id, person_id, pharmacy_id, promoter_id,
                 coupon_id, status, payable_fen, refunded_fen, created_at, paid_at)) from orders",
        ),
        (
            services.mall(),
            "select json_array(count(*), sum(cash_fen), sum(refunded_fen)) from order_line",
        ),
        (services.mall(), "select json_array(count(*), sum(amount_fen)) from refund"),
        (
            services.mall(),
            "select json_array(count(*), count(shipped_at), count(received_at)) from orders
             where status = 'completed'",
        ),
        (services.mall(), "select json_array(count(*), sum(person_id)) from visit"),
        (services.mall(), "select json_array(count(*), sum(product_id)) from page_view"),
        (services.mall(), "select json_array(count(*), sum(person_id)) from coupon_claim"),
        (services.identity(), "select json_array(count(*), sum(person_id)) from person"),
        (services.identity(), "select json_array(count(distinct token)) from _identifier_token"),
        (services.mall(), "select json_array(count(*), sum(on_hand), sum(reserved)) from stock"),
        (services.mall(), "select json_array(count(*), sum(on_hand_change)) from stock_movement"),
        (
            services.mall(),
            "select json_array(count(*), sum(starts_at), sum(sold_units)) from campaign",
        ),
        (services.mall(), "select json_array(count(*), sum(quantity)) from cart_line"),
        (
            services.mall(),
            "select json_array(count(*), sum(person_id)) from visit where campaign_code <> ''",
        ),
        (
            services.chronic_care(),
            "select json_array(count(*), sum(entered_at), count(distinct outcome)) from care_step",
        ),
        (
            services.chronic_care(),
            "select json_array(count(*), sum(scheduled_at), sum(status = 'taken'),
                 sum(status = 'late'), sum(status = 'missed')) from reminder_slot",
        ),
        (services.chronic_care(), "select json_array(count(*), sum(given_at)) from consent"),
        (services.chronic_care(), "select json_array(count(*), sum(occurrences)) from alert"),
        (
            services.chronic_care(),
            "select json_array(count(*), sum(measured_at - device_measured_at)) from reading
             where device_id is not null",
        ),
        (services.distribution(), "select json_array(count(*), sum(person_id)) from touch"),
        (
            services.distribution(),
            "select json_array(count(*), sum(person_id), sum(distributor_id), sum(bound_at))
             from binding",
        ),
        (
            services.distribution(),
            "select json_array(count(*), sum(booked_fen), sum(reversed_fen)) from commission",
        ),
        (
            services.chronic_care(),
            "select json_group_array(json_array(person_id, enrolled_at)) from patient",
        ),
        (
            services.chronic_care(),
            "select json_array(count(*), sum(scheduled_at), sum(taken_at)) from dose_event",
        ),
        (
            services.chronic_care(),
            "select json_array(count(*), sum(days_supply), count(distinct source))
             from dispensing",
        ),
        (services.chronic_care(), "select json_array(count(*), sum(systolic_mmhg)) from reading"),
        (services.chronic_care(), "select json_array(count(*), sum(systolic_mmhg)) from follow_up"),
    ] {
        let mut connection = database.read().await.unwrap();
        let text: String =
            sqlx::query_scalar(sql).fetch_one(connection.sqlite().unwrap()).await.unwrap();
        assert!(!text.contains("[0,") && text != "[]", "nothing for {sql}");
        content.push(text);
    }
    content
}

fn same(found: &[String], expected: &[String]) {
    for (found, expected) in found.iter().zip(expected) {
        assert!(found == expected, "{found:.300}\ninstead of\n{expected:.300}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_was_cut_short_goes_on_and_nothing_is_doubled() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let never = CancellationToken::new();
    let services_whole = services(whole.path()).await;
    let (stage, mut past) = watch::channel(Stage::Begun);
    let report = run(&services_whole, CONFIG, &stage, &never).await.unwrap();
    assert_eq!(*past.borrow_and_update(), Stage::Whole);
    assert_eq!((report.days, report.people, report.refused), (40, 200, 0));
    assert!(report.acts > 2_000 && report.orders > 200, "{report}");
    let expected = content(&services_whole).await;

    // Killed after some days, of which one database did not get the last.
    let services_cut = services(cut.path()).await;
    let model = Arc::new(Model::new(CONFIG.seed, CONFIG.people));
    let noted = begin(&services_cut, CONFIG).await.unwrap();
    let mut mall = mall::Mall::open(&services_cut, &model, noted.from).await.unwrap();
    let mut distribution =
        distribution::Distribution::open(&services_cut, &model, &mall.products, noted)
            .await
            .unwrap();
    let mut care = care::Care::open(&model);
    let history = History::new(Arc::clone(&model), noted.from, noted.until);
    for (day, chunk) in history.take(17).enumerate() {
        let note = serde_json::to_string(&Noted { done: chunk.until, ..noted }).unwrap();
        let (s, n) = (&services_cut, &note);
        s.deliver_outbox().await.unwrap();
        let days = |days| (day < days).then_some(noted.from);
        let of_distribution =
            carry_out(s.distribution(), &mut distribution, &chunk, n, days(16), NOW).await.unwrap();
        let of_care =
            carry_out(s.chronic_care(), &mut care, &chunk, n, days(17), NOW).await.unwrap();
        let of_mall = carry_out(s.mall(), &mut mall, &chunk, n, days(15), NOW).await.unwrap();
        for (tx, _) in [of_distribution, of_care, of_mall].into_iter().flatten() {
            tx.commit().await.unwrap();
        }
    }
    drop((mall, distribution, care));
    services_cut.close().await;
    let services_cut = services(cut.path()).await;
    let stopped = CancellationToken::new();
    stopped.cancel();
    let (stage, past) = watch::channel(Stage::Begun);
    assert_eq!(run(&services_cut, CONFIG, &stage, &stopped).await.unwrap().acts, 0);
    assert_eq!(*past.borrow(), Stage::Goods);
    let rest = run(&services_cut, CONFIG, &stage, &never).await.unwrap();
    assert_eq!(rest.refused, 0);
    assert!(rest.acts < report.acts && !rest.there);
    same(&content(&services_cut).await, &expected);

    // Again: nothing to do. Another history: refused, with what to do.
    let again = run(&services_cut, CONFIG, &stage, &never).await.unwrap();
    assert!(again.there && again.acts == 0);
    same(&content(&services_cut).await, &expected);
    let other = BackfillConfig { people: 300, ..CONFIG };
    let error = run(&services_cut, other, &stage, &never).await.unwrap_err().to_string();
    assert!(error.contains("40 days, 200 people and seed 7"), "{error}");
}

/// How many rows, and a sum of what is in them, by the same statement on all kinds of databases.
async fn totals(services: &Services) -> Vec<(&'static str, i64, i64)> {
    let mut totals = Vec::new();
    for (database, table, of_row) in [
        (services.mall(), "orders", "person_id + payable_fen + refunded_fen"),
        (services.mall(), "order_line", "product_id + cash_fen + refunded_quantity"),
        (services.mall(), "payment", "amount_fen"),
        (services.mall(), "visit", "person_id"),
        (services.mall(), "page_view", "coalesce(product_id, 0)"),
        (services.mall(), "stock", "variant_id + on_hand * 7 + reserved"),
        (services.mall(), "stock_movement", "on_hand_change"),
        (services.mall(), "campaign", "sold_units"),
        (services.mall(), "cart_line", "person_id + quantity"),
        (services.distribution(), "distributor", "person_id + coalesce(parent_id, 0)"),
        (services.distribution(), "binding", "person_id * distributor_id"),
        (services.distribution(), "commission", "booked_fen + reversed_fen"),
        (services.chronic_care(), "patient", "person_id"),
        (services.chronic_care(), "care_step", "visit"),
        (services.chronic_care(), "reminder_slot", "patient_id * (status = 'missed')"),
        (services.chronic_care(), "dose_event", "plan_id * (status = 'taken')"),
        (services.chronic_care(), "reading", "coalesce(systolic_mmhg, 0)"),
        (services.chronic_care(), "follow_up", "systolic_mmhg"),
    ] {
        let sql = format!("select count(*), cast(sum({of_row}) as signed) from {table}");
        let sql = sqlx::AssertSqlSafe(sql);
        let mut connection = database.read().await.unwrap();
        let (rows, sum): (i64, i64) = match &mut *connection {
            Connection::Sqlite(on) => sqlx::query_as(sql).fetch_one(&mut **on).await,
            Connection::MySql(on) => sqlx::query_as(sql).fetch_one(&mut **on).await,
        }
        .unwrap();
        assert!(rows > 0, "nothing in {table}");
        totals.push((table, rows, sum));
    }
    totals
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_server_a_history_is_the_same_as_in_files() {
    let config = BackfillConfig { people: 100, days: 14, ..CONFIG };
    let (never, (stage, _past)) = (CancellationToken::new(), watch::channel(Stage::Begun));
    let folder = tempfile::tempdir().unwrap();
    let in_files = services(folder.path()).await;
    let expected = run(&in_files, config, &stage, &never).await.unwrap();

    let server =
        DatabaseServer::start_with(Kind::MariaDb, &["--innodb-flush-log-at-trx-commit=0"]).await;
    let storage =
        Storage::Server { url: server.url_of(server.port, "mysql"), prefix: "history_".to_owned() };
    let on_server = Services::open(&storage, Arc::new(|| NOW), Arc::new(|| ())).await.unwrap();
    let keys = MasterKeys::open(&folder.path().join("server.keys")).unwrap();
    on_server.use_master_keys(keys).await.unwrap();
    let made = run(&on_server, config, &stage, &never).await.unwrap();
    assert_eq!(made, BackfillReport { elapsed: made.elapsed, ..expected });
    assert_eq!(made.refused, 0);
    assert_eq!(totals(&on_server).await, totals(&in_files).await);
    let again = run(&on_server, config, &stage, &never).await.unwrap();
    assert!(again.there && again.acts == 0);
    println!("{made}");
    on_server.close().await;
}
