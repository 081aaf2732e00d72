//! The services from outside: through their HTTP interface, and through the functions a replay calls.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must stop where it is")]
#![expect(clippy::print_stdout, reason = "a test says what it measured and what it left out")]

mod chronic_care;
mod distribution;
mod http;
mod mall;
mod oracles;
mod replay;

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use medlake_operational::{Database, Services};
use serde_json::{Value, json};
use tower::ServiceExt;

/// 2026-11-21T00:00:00Z.
const START: i64 = 1_795_219_200_000_000;
const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// The services on a folder of their own, with a clock that stands still until it is moved.
struct App {
    services: Services,
    clock: Arc<AtomicI64>,
    commits: Arc<AtomicU64>,
    _folder: tempfile::TempDir,
}

impl App {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(AtomicI64::new(START));
        let commits = Arc::new(AtomicU64::new(0));
        let (now, told) = (Arc::clone(&clock), Arc::clone(&commits));
        let services = Services::open(
            folder.path(),
            Arc::new(move || now.load(Ordering::SeqCst)),
            Arc::new(move || {
                told.fetch_add(1, Ordering::SeqCst);
            }),
        )
        .await
        .unwrap();
        Self { services, clock, commits, _folder: folder }
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

    async fn get(&self, path: &str) -> (u16, Value) {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// A pharmacy and three products: 2.00 and 1.50 yuan of category a, 1.20 yuan of category b.
    async fn stock(&self) {
        self.made("/mall/pharmacies", json!({"name": "西湖店", "region": "浙江"})).await;
        for (price, category) in [(200, "a"), (150, "a"), (120, "b")] {
            self.made(
                "/mall/products",
                json!({"name": format!("商品 {price}"), "kind": "otc", "category": category,
                    "unit_price_fen": price, "return_policy": "quality_only"}),
            )
            .await;
        }
    }

    /// Places an order of `(product_id, quantity)` lines for a person.
    async fn order(&self, person_id: i64, lines: &[(i64, i64)], coupon_id: Option<i64>) -> Value {
        self.made("/mall/orders", order_body(person_id, lines, coupon_id)).await
    }

    async fn pay(&self, order: &Value) -> Value {
        self.made(
            &format!("/mall/orders/{}/pay", order["order_id"]),
            json!({"method": "wechat_pay"}),
        )
        .await
    }

    async fn scalar(&self, database: &Database, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut *database.read().await.unwrap()).await.unwrap()
    }

    /// Every captured and internal row of a database, as text: equal before and after means that
    /// nothing was changed.
    async fn dump(&self, database: &Database) -> Vec<String> {
        let mut connection = database.read().await.unwrap();
        let tables: Vec<String> = sqlx::query_scalar(
            "select name from sqlite_schema where type = 'table' and name not like 'sqlite%' order by name",
        )
        .fetch_all(&mut *connection)
        .await
        .unwrap();
        let mut rows = Vec::new();
        for table in tables {
            let columns: Vec<String> =
                sqlx::query_scalar("select name from pragma_table_xinfo(?1)")
                    .bind(&table)
                    .fetch_all(&mut *connection)
                    .await
                    .unwrap();
            let sql =
                format!("select '{table}' || json_array({}) from {table}", columns.join(", "));
            let found: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
                .fetch_all(&mut *connection)
                .await
                .unwrap();
            rows.extend(found);
        }
        rows.sort();
        rows
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
