//! How many orders a second are placed and paid through the HTTP interface, in a file and on a MariaDB
//! server of this machine, and how long one takes.
//!
//! Buyers are sixteen at a time, each with an order of three lines after another: of a hundred products
//! whose stock is counted, with a full reduction and a coupon. Half of the rows that an order makes are
//! those of its stock and its discounts.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::Request,
};
use medlake_operational::{MasterKeys, Services, Storage};
use serde_json::{Value, json};
use tower::ServiceExt as _;

const ORDERS: usize = 4_000;
const BUYERS: i64 = 16;
const PRODUCTS: i64 = 100;
/// 2026-11-21T00:00:00Z.
const START: i64 = 1_795_219_200_000_000;
const DAY: i64 = 86_400_000_000;

/// What a step took, over all orders.
struct Step {
    took: Vec<Duration>,
}

impl Step {
    fn at(&mut self, part: f64) -> f64 {
        self.took.sort_unstable();
        let last = self.took.len() - 1;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a place among thousands"
        )]
        let place = (last as f64 * part) as usize;
        self.took[place].as_secs_f64() * 1e3
    }
}

/// Each request has a key of its own, as an app sends it.
async fn post(router: &Router, path: &str, body: &Value) -> anyhow::Result<Value> {
    static KEYS: AtomicUsize = AtomicUsize::new(0);
    let request = Request::post(path)
        .header("content-type", "application/json")
        .header("idempotency-key", KEYS.fetch_add(1, Ordering::Relaxed).to_string())
        .body(Body::from(body.to_string()))?;
    let answer = router.clone().oneshot(request).await?;
    let status = answer.status();
    let bytes = to_bytes(answer.into_body(), usize::MAX).await?;
    anyhow::ensure!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&bytes));
    Ok(serde_json::from_slice(&bytes)?)
}

async fn set_up(router: &Router) -> anyhow::Result<()> {
    post(router, "/mall/pharmacies", &json!({"name": "药房", "region": "浙江"})).await?;
    for number in 1..=PRODUCTS {
        let product = json!({"name": format!("商品 {number}"), "kind": "device", "category": "a",
            "unit_price_fen": 1_000 + number, "return_policy": "seven_day"});
        let product = post(router, "/mall/products", &product).await?;
        let stock = json!({"pharmacy_id": 1, "kind": "receipt", "on_hand_change": 1_000_000,
            "variant_id": product["product_id"]});
        // Both are numbered alike, as each product has one variant.
        post(router, "/mall/stock/movements", &stock).await?;
    }
    let campaign = json!({"name": "满减", "kind": "full_reduction", "funder": "merchant",
        "tiers": [{"threshold_fen": 3_000, "discount_fen": 300}],
        "starts_at": START, "ends_at": START + DAY});
    post(router, "/mall/campaigns", &campaign).await?;
    let coupon = json!({"name": "券", "kind": "percent", "percent": 5, "funder": "platform",
        "starts_at": START, "ends_at": START + DAY});
    post(router, "/mall/coupons", &coupon).await?;
    Ok(())
}

/// Orders of one buyer, until enough were placed by all.
async fn buy(
    router: Router,
    buyer: i64,
    left: Arc<AtomicUsize>,
) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
    let (mut placed, mut paid) = (Vec::new(), Vec::new());
    let mut number = buyer;
    let one_less = |left: usize| left.checked_sub(1);
    while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
        number += 7;
        let lines: Vec<Value> = (0..3)
            .map(|line| json!({"product_id": 1 + (number * 31 + line * 37) % PRODUCTS, "quantity": 1}))
            .collect();
        let body = json!({"person_id": 1 + buyer, "pharmacy_id": 1, "channel": "app",
            "coupon_id": 1, "lines": lines});
        let started = Instant::now();
        let order = post(&router, "/mall/orders", &body).await?;
        placed.push(started.elapsed());
        let started = Instant::now();
        let path = format!("/mall/orders/{}/pay", order["order_id"]);
        post(&router, &path, &json!({"method": "wechat_pay"})).await?;
        paid.push(started.elapsed());
    }
    Ok((placed, paid))
}

async fn run(name: &str, storage: &Storage, folder: &Path) -> anyhow::Result<()> {
    let clock = Arc::new(AtomicI64::new(START));
    let now = Arc::new(move || clock.fetch_add(1, Ordering::SeqCst));
    let services = Services::open_without_keys(storage, now, Arc::new(|| ())).await?;
    services.use_master_keys(MasterKeys::open(&folder.join("master.keys"))?).await?;
    let router = services.router();
    set_up(&router).await?;
    let left = Arc::new(AtomicUsize::new(ORDERS));
    let started = Instant::now();
    let mut buyers = tokio::task::JoinSet::new();
    for buyer in 0..BUYERS {
        buyers.spawn(buy(router.clone(), buyer, Arc::clone(&left)));
    }
    let (mut placing, mut paying) = (Step { took: Vec::new() }, Step { took: Vec::new() });
    while let Some(buyer) = buyers.join_next().await {
        let (placed, paid) = buyer??;
        placing.took.extend(placed);
        paying.took.extend(paid);
    }
    let seconds = started.elapsed().as_secs_f64();
    anyhow::ensure!(placing.took.len() == ORDERS, "all orders were placed");
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let rate = ORDERS as f64 / seconds;
    println!(
        "| {name} | {rate:.0} | {:.1} | {:.1} | {:.1} | {:.1} |",
        placing.at(0.5),
        placing.at(0.99),
        paying.at(0.5),
        paying.at(0.99)
    );
    services.close().await;
    Ok(())
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A MariaDB server as it comes: each commit is on disk before it is answered.
fn server(folder: &Path) -> anyhow::Result<(Server, String)> {
    let data = format!("--datadir={}", folder.join("data").display());
    let temporary = format!("--tmpdir={}", folder.display());
    let install = Command::new("mariadb-install-db")
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .args(["--user=root", &data, &temporary])
        .output()?;
    anyhow::ensure!(install.status.success(), "no server: {install:?}");
    let init = folder.join("init.sql");
    let users = "create user mall@'127.0.0.1' identified by 'geheim';\n\
                 grant all on *.* to mall@'127.0.0.1';\n";
    std::fs::write(&init, users)?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let child = Command::new("mariadbd")
        .args(["--no-defaults", "--user=root", &data, &temporary])
        .arg(format!("--socket={}", folder.join("s").display()))
        .arg(format!("--pid-file={}", folder.join("p").display()))
        .arg(format!("--init-file={}", init.display()))
        .args([&format!("--port={port}"), "--bind-address=127.0.0.1", "--skip-name-resolve"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok((Server(child), format!("mysql://mall:geheim@127.0.0.1:{port}")))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    println!(
        "| {ORDERS} orders of 3 lines, {BUYERS} buyers | orders/s placed and paid | place p50 ms | p99 ms | pay p50 ms | p99 ms |"
    );
    println!("|---|---|---|---|---|---|");
    let folder = tempfile::tempdir()?;
    run("SQLite", &Storage::files(folder.path()), folder.path()).await?;
    let folder = tempfile::tempdir()?;
    let (_server, url) = server(folder.path())?;
    let end = Instant::now() + Duration::from_secs(60);
    let address = url.rsplit('@').next().unwrap_or_default().to_owned();
    while tokio::net::TcpStream::connect(&address).await.is_err() {
        anyhow::ensure!(Instant::now() < end, "the server is not ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    run("MariaDB", &Storage::Server { url, prefix: "bench_".to_owned() }, folder.path()).await
}
