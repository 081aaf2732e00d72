use std::path::Path;

use medlake_operational::{Services, Storage, mall::Settings};
use sqlx::AssertSqlSafe;
use tokio::net::TcpListener;

use super::*;
use crate::input::simulate::backfill::{self, BackfillConfig};

const SECRET: &str = "of the tests alone";

/// The services on a port of their own, until it is dropped.
struct Served {
    services: Services,
    address: String,
    tasks: JoinSet<()>,
}

async fn serve(folder: &Path, address: &str) -> Served {
    serve_at(folder, address, clock::machine()).await
}

async fn serve_at(folder: &Path, address: &str, clock: Clock) -> Served {
    let services = Services::open(&Storage::files(folder), clock, Arc::new(|| ())).await.unwrap();
    services.use_mall_settings(Settings {
        payment_channels: format!("wechat_pay={SECRET}").parse().unwrap(),
    });
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut tasks = JoinSet::new();
    let router = services.router();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let dispatching = services.clone();
    tasks.spawn(async move { dispatching.run_dispatcher(std::future::pending()).await });
    Served { services, address, tasks }
}

impl Served {
    async fn count(&self, database: &str, sql: &str) -> i64 {
        let database = match database {
            "mall" => self.services.mall(),
            "distribution" => self.services.distribution(),
            _ => self.services.chronic_care(),
        };
        let mut connection = database.read().await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(connection.sqlite().unwrap())
            .await
            .unwrap()
    }

    /// Waits until a count is above `floor`.
    async fn until(&self, database: &str, sql: &str, floor: i64) {
        let waiting = async {
            while self.count(database, sql).await <= floor {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let within = Duration::from_secs(60);
        tokio::time::timeout(within, waiting).await.unwrap_or_else(|_| panic!("never: {sql}"));
    }

    async fn stop(mut self) {
        self.tasks.shutdown().await;
        self.services.close().await;
    }
}

/// A past that nobody makes.
fn whole() -> watch::Receiver<Stage> {
    watch::channel(Stage::Whole).1
}

fn config(address: &str) -> LiveConfig {
    let services = format!("http://{address}");
    let channels = BTreeMap::from([("wechat_pay".to_owned(), SECRET.to_owned())]);
    let (orders_per_second, seed, people) = (60.0, 5, 2_000);
    LiveConfig { services, orders_per_second, seed, people, access: None, channels }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_flow_happens_and_a_restart_of_the_services_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path(), "127.0.0.1:0").await;
    let address = served.address.clone();
    let cancel = CancellationToken::new();
    let mut traffic = JoinSet::new();
    traffic.spawn(run(config(&address), whole(), cancel.clone()));
    for (database, sql) in [
        ("mall", "select count(*) from orders where status = 'paid'"),
        ("mall", "select count(*) from orders where status = 'closed'"),
        ("mall", "select count(*) from orders where coupon_id is not null"),
        ("mall", "select count(*) from refund"),
        ("distribution", "select count(*) from binding"),
        ("distribution", "select count(*) from commission where level = 2"),
        ("mall", "select count(*) from payment where channel_transaction_id is not null"),
        ("mall", "select count(*) from stock_movement where kind = 'shipment'"),
        ("mall", "select count(*) from cart_line"),
        ("mall", "select count(*) from visit where share_code is not null"),
        ("chronic_care", "select count(*) from dispensing"),
        ("chronic_care", "select count(*) from care_step where outcome = 'answered'"),
        ("chronic_care", "select count(*) from reminder_slot where status = 'due'"),
        ("chronic_care", "select count(*) from reading where device_id is not null"),
        ("chronic_care", "select count(distinct status) - 2 from dose_event"),
        ("chronic_care", "select count(distinct kind) - 1 from reading"),
        ("chronic_care", "select count(*) from reading where quality = 'suspect'"),
        ("chronic_care", "select count(*) from follow_up where on_target is not null"),
    ] {
        served.until(database, sql, 0).await;
    }
    let orders = "select count(*) from orders";
    let before = served.count("mall", orders).await;
    served.stop().await;
    let served = serve(folder.path(), &address).await;
    served.until("mall", orders, before + 20).await;
    // No dose was reported before it was known what became of it.
    let reports = "select count(*) from dose_event where recorded_at < scheduled_at + 7200000000";
    assert_eq!(served.count("chronic_care", reports).await, 0);
    cancel.cancel();
    traffic.join_next().await.unwrap().unwrap().unwrap();
    // A distributor that brought in many: the tree is heavy-tailed.
    let largest = "
        select max(n) from (select count(*) as n from distributor where parent_id is not null
            group by parent_id)";
    assert!(served.count("distribution", largest).await >= 8);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_traffic_needs_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path(), "127.0.0.1:0").await;
    let client = Client::new(&format!("http://{}", served.address), None).unwrap();
    let client = Arc::new(client);
    let now = clock::machine()();
    let model = |seed| Arc::new(Model::new(seed, 2_000));
    let set_up = async |seed| {
        let shops = people::Shops::set_up(&client, model(seed)).await.unwrap();
        World::set_up(&client, shops, now).await.unwrap()
    };
    let first = set_up(1).await;
    assert_eq!((first.enrolled.len(), first.codes.len()), (300, 80));
    let counts = async || {
        let mut counts = Vec::new();
        for (database, sql) in [
            ("mall", "select count(*) from pharmacy"),
            ("mall", "select count(*) from product"),
            ("mall", "select count(*) from coupon"),
            ("distribution", "select count(*) from distributor"),
            ("chronic_care", "select count(*) from patient"),
            ("chronic_care", "select count(*) from medication_plan"),
            ("chronic_care", "select count(*) from care_programme"),
            ("chronic_care", "select count(*) from consent"),
            ("chronic_care", "select count(*) from device_assignment"),
        ] {
            counts.push(served.count(database, sql).await);
        }
        counts
    };
    let made = counts().await;
    // What became of a day's doses is reported, each once; those of whom somebody is reminded have slots
    // from now on only.
    let of = |reminded: bool| {
        let mut patients = first.population().patients();
        let (place, _, patient) = patients.find(|(.., p)| p.reminded == reminded).unwrap();
        let reminders = || first.enrolled[place].take_reminder(patient, now);
        (patient, std::iter::from_fn(reminders).collect::<Vec<i64>>())
    };
    assert!(of(true).1.is_empty());
    let (patient, day) = of(false);
    assert_eq!(day.len(), usize::try_from(patient.doses_per_day).unwrap());
    let known = now - crate::input::simulate::history::KNOWN_AFTER_MICROS;
    assert!(day.is_sorted() && day.iter().all(|at| (known - 86_400_000_000..=known).contains(at)));
    // Answers that the services no longer remember; then another seed, whose patients measure otherwise.
    for (database, sql) in [
        (served.services.mall(), "delete from idempotency"),
        (served.services.distribution(), "delete from idempotency"),
        (served.services.chronic_care(), "delete from idempotency"),
    ] {
        let mut tx = database.begin(1).await.unwrap();
        sqlx::query(sql).execute(tx.sqlite().unwrap()).await.unwrap();
        tx.commit().await.unwrap();
    }
    set_up(1).await;
    assert_eq!(counts().await, made);
    let second = set_up(2).await;
    assert_eq!(counts().await[..6], made[..6]);
    let ids = |world: &World| {
        let enrolled: Vec<_> = world.enrolled.iter().map(|e| (e.patient_id, e.plan_id)).collect();
        let people::Shops { pharmacies, products, coupons, .. } = world.shops.clone();
        let places = (pharmacies, products, coupons);
        (places, world.codes.clone(), enrolled)
    };
    assert_eq!(ids(&second), ids(&first));
    served.stop().await;
}

/// 2026-11-21, 22:00 in Asia/Shanghai.
const NOW: i64 = 1_795_269_600_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_past_is_the_same_with_traffic_beside_it_and_its_people_come_when_it_is_whole() {
    let history = BackfillConfig { seed: 5, people: 2_000, days: 8 };
    // Bindings, patients and what of the orders and visits is before the time it is now.
    let of_past = [
        (
            "mall",
            "select count(*) * 1000003 + sum(person_id + payable_fen + refunded_fen + created_at)
                 + coalesce(sum(closed_at + paid_at), 0) from orders where created_at < 1795269600000000",
        ),
        ("mall", "select sum(visit_id > 0) from visit where started_at < 1795269600000000"),
        ("mall", "select sum(person_id) from coupon_claim where claimed_at < 1795269600000000"),
        ("mall", "select sum(on_hand * 7 + reserved) from stock"),
        ("mall", "select sum(person_id * 7 + quantity) from cart_line"),
        ("distribution", "select sum(person_id * 7 + bound_at) from binding"),
        ("distribution", "select sum(person_id * distributor_id + created_at) from distributor"),
        ("distribution", "select sum(booked_fen * 7 + reversed_fen) from commission"),
        ("chronic_care", "select sum(person_id * 7 + enrolled_at) from patient"),
        ("chronic_care", "select count(*) * 1000003 + sum(days_supply) from dispensing"),
        ("chronic_care", "select sum(scheduled_at % 1000003 + plan_id) from dose_event"),
        ("chronic_care", "select count(*) * 1000003 + sum(visit) from care_step"),
        ("chronic_care", "select sum(measured_at % 1000003 + patient_id) from reading"),
    ];
    let content = async |served: &Served| {
        let mut content = Vec::new();
        for (database, sql) in of_past {
            content.push(served.count(database, sql).await);
        }
        content
    };
    let never = CancellationToken::new();
    let alone = tempfile::tempdir().unwrap();
    let served = serve_at(alone.path(), "127.0.0.1:0", Arc::new(|| NOW)).await;
    let (stage, _past) = watch::channel(Stage::Begun);
    backfill::run(&served.services, history, &stage, &never).await.unwrap();
    let expected = content(&served).await;
    served.stop().await;

    let beside = tempfile::tempdir().unwrap();
    let served = serve_at(beside.path(), "127.0.0.1:0", Arc::new(|| NOW)).await;
    let mut traffic = JoinSet::new();
    // The traffic hears later that it is whole, so that there is some before.
    let (heard, hears) = watch::channel(Stage::Begun);
    let cancel = CancellationToken::new();
    let config = LiveConfig { people: history.people, ..config(&served.address) };
    traffic.spawn(run(config, hears, cancel.clone()));
    let (stage, mut past) = watch::channel(Stage::Begun);
    let of_now = "select count(*) from orders where created_at >= 1795269600000000";
    let beside = async {
        past.wait_for(|stage| *stage >= Stage::Goods).await.unwrap();
        heard.send_replace(Stage::Goods);
        served.until("mall", of_now, 20).await;
    };
    let made = backfill::run(&served.services, history, &stage, &never);
    let (made, ()) = tokio::join!(made, beside);
    assert_eq!(made.unwrap().refused, 0);
    assert_eq!(content(&served).await, expected);
    assert_eq!(served.count("mall", "select count(*) from product").await, 40);
    heard.send_replace(Stage::Whole);
    let of_now = "select count(*) from touch where touched_at >= 1795269600000000";
    served.until("distribution", of_now, 0).await;
    let of_now = "select count(*) from reading where recorded_at >= 1795269600000000";
    served.until("chronic_care", of_now, 0).await;
    cancel.cancel();
    traffic.join_next().await.unwrap().unwrap().unwrap();
    let people = "select count(*) * 1000 + count(distinct person_id) from";
    assert_eq!(served.count("distribution", &format!("{people} distributor")).await, 80_080);
    assert_eq!(served.count("chronic_care", &format!("{people} patient")).await, 300_300);
    served.stop().await;
}

#[tokio::test]
async fn a_rate_that_is_no_rate_is_refused() {
    for orders_per_second in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let config = LiveConfig { orders_per_second, ..config("127.0.0.1:1") };
        let error = run(config, whole(), CancellationToken::new()).await.unwrap_err();
        assert!(error.to_string().contains("positive"), "{error}");
    }
}
