//! The services from outside: through their HTTP interface, and through the functions a replay calls.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test says what it measured and what it left out")]

/// A test of each of these functions on SQLite and on MariaDB.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[tokio::test]
            async fn on_sqlite() {
                super::$name($crate::On::Sqlite).await;
            }

            #[tokio::test]
            async fn on_mariadb() {
                super::$name($crate::On::MariaDb).await;
            }
        }
    )*};
}

mod access;
mod care_access;
mod care_clients;
mod chronic_care;
mod configuration;
mod distribution;
mod distribution_ledger;
mod distribution_programme;
mod files;
mod http;
mod identity;
mod mall;
mod mall_catalogue;
mod mall_orders;
mod mall_points;
mod mall_promotions;
mod mall_stock;
mod mall_visits;
mod master_keys;
mod migrations;
mod notification;
mod oracles;
mod outbox;
#[path = "../../lake/tests/ports.rs"]
mod ports;
mod privacy;
mod programmes;
mod qr_reader;
mod replay;
#[path = "../../lake/tests/s3_server.rs"]
mod s3_server;
#[path = "../../lake/tests/servers.rs"]
#[expect(dead_code, reason = "only MariaDB is started here")]
mod servers;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use medlake_operational::{Connection, Database, MasterKeys, Services, Storage, mall::Settings};
use serde_json::{Value, json};
use servers::{DatabaseServer, Kind};
use sqlx::AssertSqlSafe;
use tokio::sync::OnceCell;
use tower::ServiceExt;

/// 2026-11-21T00:00:00Z.
const START: i64 = 1_795_219_200_000_000;
const SECOND: i64 = 1_000_000;
/// What the payment channel `test_pay` signs with.
const CHANNEL_SECRET: &str = "a secret of tests";
const DAY: i64 = 86_400 * SECOND;

/// On which database a test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    Sqlite,
    MariaDb,
}

/// One server for all tests: making one takes longer than most of them.
async fn mariadb() -> &'static DatabaseServer {
    static SHARED: OnceCell<DatabaseServer> = OnceCell::const_new();
    let start = || async {
        let settings = ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M"];
        let server = DatabaseServer::start_with(Kind::MariaDb, &settings).await;
        server.end_with_the_process();
        server
    };
    SHARED.get_or_init(start).await
}

/// The services on databases of their own, with a clock that stands still until it is moved.
struct App {
    services: Services,
    storage: Storage,
    clock: Arc<AtomicI64>,
    commits: Arc<AtomicU64>,
    folder: tempfile::TempDir,
}

impl App {
    async fn start(on: On) -> Self {
        static APPS: AtomicU64 = AtomicU64::new(0);
        let folder = tempfile::tempdir().unwrap();
        let server = match on {
            On::Sqlite => None,
            On::MariaDb => Some(mariadb().await),
        };
        let storage = match &server {
            None => Storage::files(folder.path()),
            Some(server) => Storage::Server {
                url: server.url_of(server.port, "mysql"),
                prefix: format!("test{}_", APPS.fetch_add(1, Ordering::SeqCst)),
            },
        };
        let clock = Arc::new(AtomicI64::new(START));
        let commits = Arc::new(AtomicU64::new(0));
        let services = open(&storage, folder.path(), &clock, &commits).await;
        Self { services, storage, clock, commits, folder }
    }

    /// Opens the services again, as a new process does.
    async fn reopen(&mut self) {
        self.services = open(&self.storage, self.folder.path(), &self.clock, &self.commits).await;
    }

    fn move_clock(&self, micros: i64) {
        self.clock.fetch_add(micros, Ordering::SeqCst);
    }

    /// Status and body of the answer to a raw request.
    async fn send(&self, request: Request<Body>) -> (u16, Value) {
        let answer = self.services.router().oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        assert_eq!(answer.headers()["content-type"], "application/json", "status {status}");
        let bytes = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    async fn post_raw(&self, path: &str, body: &str, key: Option<&str>) -> (u16, Value) {
        let mut request = Request::post(path).header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.post_raw(path, &body.to_string(), None).await
    }

    /// A POST that must succeed.
    async fn made(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.post(path, body).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        let request = Request::put(path).header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    async fn delete(&self, path: &str) -> (u16, Value) {
        self.send(Request::delete(path).body(Body::empty()).unwrap()).await
    }

    /// Where the files of a service in files are, and the file of master keys.
    fn folder(&self) -> &Path {
        self.folder.path()
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// A pharmacy and three products: 2.00 and 1.50 yuan of category a, 1.20 yuan of category b.
    async fn stock(&self) {
        self.made("/mall/pharmacies", json!({"name": "西湖店", "region": "浙江"})).await;
        for (price, category) in [(200, "a"), (150, "a"), (120, "b")] {
            self.made(
                "/mall/products",
                json!({"name": format!("商品 {price}"), "kind": "otc", "otc_class": "b",
                    "category": category,
                    "unit_price_fen": price, "return_policy": "quality_only",
                    "tracks_stock": false}),
            )
            .await;
        }
    }

    /// Places an order of `(product_id, quantity)` lines for a person.
    async fn order(&self, person_id: i64, lines: &[(i64, i64)], coupon_id: Option<i64>) -> Value {
        self.made("/mall/orders", order_body(person_id, lines, coupon_id)).await
    }

    /// A prescription of units of a product that a pharmacist approved.
    async fn prescribe(&self, person_id: i64, product_id: i64, quantity: i64) -> i64 {
        static SIGNATURES: AtomicU64 = AtomicU64::new(0);
        let body = json!({"person_id": person_id, "doctor_reference": "doctor",
            "signature_reference": SIGNATURES.fetch_add(1, Ordering::SeqCst).to_string(),
            "valid_until": self.services.now() + 30 * DAY,
            "items": [{"product_id": product_id, "quantity": quantity}]});
        let made = self.made("/mall/prescriptions", body).await;
        let review = format!("/mall/prescriptions/{}/review", made["prescription_id"]);
        self.made(&review, json!({"reviewed_by": "pharmacist", "approve": true})).await;
        made["prescription_id"].as_i64().unwrap()
    }

    async fn pay(&self, order: &Value) -> Value {
        self.made(
            &format!("/mall/orders/{}/pay", order["order_id"]),
            json!({"method": "wechat_pay"}),
        )
        .await
    }

    async fn scalar(&self, database: &Database, sql: &'static str) -> i64 {
        match &mut *database.read().await.unwrap() {
            Connection::Sqlite(on) => sqlx::query_scalar(sql).fetch_one(&mut **on).await.unwrap(),
            // A sum is a decimal there.
            Connection::MySql(on) => {
                let sql = AssertSqlSafe(format!("select cast(({sql}) as signed)"));
                sqlx::query_scalar(sql).fetch_one(&mut **on).await.unwrap()
            }
        }
    }

    /// Every captured and internal row of a database, as text: equal before and after means that
    /// nothing was changed.
    async fn dump(&self, database: &Database) -> Vec<String> {
        let mut connection = database.read().await.unwrap();
        let tables = match &*connection {
            Connection::Sqlite(_) => {
                "select m.name, group_concat(iif(c.type = 'BLOB', 'hex(' || quote(c.name) || ')',
                     quote(c.name)), ', ') from sqlite_schema m
                 join pragma_table_xinfo(m.name) c
                 where m.type = 'table' and m.name not like 'sqlite%' group by m.name"
            }
            // Numbers that were taken and not used are gone.
            Connection::MySql(_) => {
                "select table_name, group_concat(if(data_type = 'longblob', 'hex', ''), '(`',
                     column_name, '`)' separator ', ')
                 from information_schema.columns
                 where table_schema = database() and table_name <> '_sequence' group by table_name"
            }
        };
        let tables: Vec<(String, String)> = rows(&mut connection, tables).await;
        let mut dumped = Vec::new();
        for (table, columns) in tables {
            let columns = columns.replace('\'', "`");
            let row =
                format!("select '{table}', cast(json_array({columns}) as char) from `{table}`");
            dumped.extend(rows::<(String, String)>(&mut connection, &row).await);
        }
        let mut dumped: Vec<String> = dumped.into_iter().map(|(t, row)| t + &row).collect();
        dumped.sort();
        dumped
    }
}

async fn open(
    storage: &Storage,
    folder: &Path,
    clock: &Arc<AtomicI64>,
    commits: &Arc<AtomicU64>,
) -> Services {
    let (now, told) = (Arc::clone(clock), Arc::clone(commits));
    let now = Arc::new(move || now.load(Ordering::SeqCst));
    let told = Arc::new(move || {
        told.fetch_add(1, Ordering::SeqCst);
    });
    let services = Services::open(storage, now, told).await.unwrap();
    services.use_mall_settings(Settings {
        payment_channels: format!("test_pay={CHANNEL_SECRET}").parse().unwrap(),
    });
    if let Storage::Server { .. } = storage {
        let keys = MasterKeys::open(&folder.join("master.keys")).unwrap();
        services.use_master_keys(keys).await.unwrap();
    }
    services
}

async fn rows<T>(on: &mut Connection, sql: &str) -> Vec<T>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::sqlite::SqliteRow>
        + for<'r> sqlx::FromRow<'r, sqlx::mysql::MySqlRow>
        + Send
        + Unpin,
{
    let sql = AssertSqlSafe(sql.to_owned());
    match on {
        Connection::Sqlite(on) => sqlx::query_as(sql).fetch_all(&mut **on).await.unwrap(),
        Connection::MySql(on) => sqlx::query_as(sql).fetch_all(&mut **on).await.unwrap(),
    }
}

/// Runs a statement of a test's own; tells whether it was done.
async fn run(on: &mut Connection, sql: &str) -> bool {
    let sql = AssertSqlSafe(sql.to_owned());
    match on {
        Connection::Sqlite(on) => sqlx::raw_sql(sql).execute(&mut **on).await.is_ok(),
        Connection::MySql(on) => sqlx::raw_sql(sql).execute(&mut **on).await.is_ok(),
    }
}

fn order_body(person_id: i64, lines: &[(i64, i64)], coupon_id: Option<i64>) -> Value {
    let lines: Vec<Value> = lines
        .iter()
        .map(|(product_id, quantity)| json!({"product_id": product_id, "quantity": quantity}))
        .collect();
    json!({"person_id": person_id, "pharmacy_id": 1, "channel": "app", "coupon_id": coupon_id,
        "lines": lines})
}

/// One field of each line of an order.
fn of_lines(order: &Value, field: &str) -> Vec<i64> {
    order["lines"].as_array().unwrap().iter().map(|l| l[field].as_i64().unwrap()).collect()
}

fn assert_error(answer: (u16, Value), status: u16, code: &str, said: &str) {
    let (got, body) = answer;
    let message = body["error"]["message"].as_str().unwrap_or_default();
    assert!(
        got == status && body["error"]["code"] == code && message.contains(said),
        "{got} {body}"
    );
}
