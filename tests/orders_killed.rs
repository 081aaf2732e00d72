//! `kill -9` while orders are placed, paid with money and points, refunded, shipped, received and given up,
//! while their promoters earn, and while months are settled and paid out: afterwards stock, payments,
//! refunds, orders and both ledgers balance, and each request that was sent again was done once.

mod ledgers;
mod programme;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use medlake_operational::Storage;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    platform::{self, Platform, Ports},
    servers::{DatabaseServer, Kind},
};

const BUYERS: u64 = 6;
const KILLS: usize = 3;
/// Requests answered between two kills.
const ANSWERS: usize = 120;
const UNITS: i64 = 100_000;

/// Sends each request again, under its key, until it is answered.
struct Client {
    services: String,
    client: reqwest::Client,
    number: u64,
    sent: u64,
    answered: Arc<AtomicUsize>,
}

impl Client {
    async fn post(&mut self, path: &str, body: &Value) -> (u16, Value) {
        self.sent += 1;
        let key = format!("{}-{}", self.number, self.sent);
        loop {
            let request = self.client.post(format!("{}{path}", self.services));
            let request = request.header("Idempotency-Key", &key).json(body);
            if let Ok(answer) = request.send().await {
                let status = answer.status().as_u16();
                if let Ok(body) = answer.json::<Value>().await
                    && status != 503
                {
                    self.answered.fetch_add(1, Ordering::SeqCst);
                    return (status, body);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Buys until it is enough. Gives how many orders were placed.
async fn buy(mut buyer: Client, done: Arc<AtomicBool>) -> usize {
    let mut random = StdRng::seed_from_u64(buyer.number);
    let person_id = 1 + buyer.number;
    let mut placed = 0;
    let mut kept = Vec::new();
    while !done.load(Ordering::SeqCst) {
        if placed == 0 || random.random_range(0..4) == 0 {
            programme::follow(&mut buyer, person_id, &mut random).await;
        }
        // The second product cannot be given back without a reason: what it earns is free on receipt.
        let mut lines = vec![json!({"product_id": 2, "quantity": random.random_range(1..4)})];
        if random.random_range(0..2) == 0 {
            lines.push(json!({"product_id": 1, "quantity": random.random_range(1..4)}));
        }
        let body = json!({"person_id": person_id, "pharmacy_id": 1, "channel": "app",
            "points": random.random_range(0..100), "lines": lines});
        let (status, order) = buyer.post("/mall/orders", &body).await;
        assert_eq!(status, 201, "{order}");
        placed += 1;
        let path = format!("/mall/orders/{}", order["order_id"]);
        if random.random_range(0..6) == 0 {
            let (status, answer) = buyer.post(&format!("{path}/close"), &json!({})).await;
            assert_eq!(status, 200, "{answer}");
            continue;
        }
        let method = json!({"method": "wechat_pay"});
        let (status, answer) = buyer.post(&format!("{path}/pay"), &method).await;
        assert_eq!(status, 201, "{answer}");
        let sent = random.random_range(0..2) == 0;
        for step in ["ship", "receive"].iter().filter(|_| sent) {
            let (status, answer) = buyer.post(&format!("{path}/{step}"), &json!({})).await;
            assert_eq!(status, 200, "{answer}");
        }
        match random.random_range(0..4) {
            0 if sent => kept.push(order),
            0 => {}
            _ => give_back(&mut buyer, &order, &mut random).await,
        }
        // Long after: what it earned may be free, and its points spent.
        if !kept.is_empty() && random.random_range(0..4) == 0 {
            let order = kept.swap_remove(random.random_range(0..kept.len()));
            give_back(&mut buyer, &order, &mut random).await;
        }
    }
    placed
}

/// Asks for all of an order back, for a unit or for an amount; it is granted or not.
async fn give_back(buyer: &mut Client, order: &Value, random: &mut StdRng) {
    let path = format!("/mall/orders/{}", order["order_id"]);
    let lines = order["lines"].as_array().unwrap();
    let line = &lines[random.random_range(0..lines.len())]["order_line_id"];
    let mut refund = match random.random_range(0..3) {
        0 => json!({"reason": "r", "whole": true}),
        1 => json!({"reason": "r", "lines": [{"order_line_id": line, "quantity": 1}]}),
        _ => json!({"reason": "r", "lines": [{"order_line_id": line, "amount_fen": 7}]}),
    };
    refund["cause"] = json!("quality");
    let (status, asked) = buyer.post(&format!("{path}/refund-requests"), &refund).await;
    assert_eq!(status, 201, "{asked}");
    let refund = format!("/mall/refunds/{}", asked["refund_id"]);
    let step = if random.random_range(0..3) == 0 { "reject" } else { "approve" };
    buyer.post(&format!("{refund}/{step}"), &json!({"restock": true})).await;
    buyer.post(&format!("{refund}/succeed"), &json!({})).await;
}

/// All rows of a list.
async fn all(platform: &Platform, path: &str, id: &str) -> Vec<Value> {
    let mut rows: Vec<Value> = Vec::new();
    loop {
        let after = rows.last().map_or(0, |row| row[id].as_i64().unwrap());
        let mark = if path.contains('?') { '&' } else { '?' };
        let page = get(platform, &format!("{path}{mark}after_id={after}&limit=1000")).await;
        let page = page["items"].as_array().unwrap().clone();
        let last = page.len() < 1_000;
        rows.extend(page);
        if last {
            return rows;
        }
    }
}

async fn get(platform: &Platform, path: &str) -> Value {
    let url = format!("{}{path}", platform.services);
    reqwest::get(url).await.unwrap().json().await.unwrap()
}

fn fen(row: &Value, field: &str) -> i64 {
    row[field].as_i64().unwrap_or_else(|| panic!("{field} of {row}"))
}

/// Adds up, by the value of a field, what another field has.
fn sums(rows: &[Value], by: &str, of: &str) -> BTreeMap<i64, i64> {
    let mut sums = BTreeMap::new();
    for row in rows {
        *sums.entry(fen(row, by)).or_insert(0) += fen(row, of);
    }
    sums
}

/// All orders, each with its lines and its history.
async fn orders(platform: &Platform) -> Vec<Value> {
    let mut orders = all(platform, "/mall/orders", "order_id").await;
    for order in &mut orders {
        *order = get(platform, &format!("/mall/orders/{}", order["order_id"])).await;
    }
    orders
}

/// Whether all that was written of orders, payments, refunds and stock is of one piece.
async fn is_balanced(platform: &Platform, orders: &[Value]) {
    let payments = all(platform, "/mall/payments", "payment_id").await;
    let refunds = all(platform, "/mall/refunds?status=succeeded", "refund_id").await;
    let stocks = all(platform, "/mall/stock?pharmacy_id=1", "stock_id").await;
    let movements = all(platform, "/mall/stock/movements?pharmacy_id=1", "stock_movement_id").await;

    let paid = sums(&payments, "order_id", "amount_fen");
    let refunded = sums(&refunds, "order_id", "amount_fen");
    let (mut waiting, mut sent) = (BTreeMap::new(), BTreeMap::new());
    for order in orders {
        let id = fen(order, "order_id");
        let expected = (!order["paid_at"].is_null()).then(|| fen(order, "payable_fen"));
        assert_eq!(paid.get(&id).copied(), expected, "{order}");
        assert_eq!(refunded.get(&id).copied().unwrap_or(0), fen(order, "refunded_fen"), "{order}");
        let lines = order["lines"].as_array().unwrap();
        let sum = |field: &str| -> i64 { lines.iter().map(|line| fen(line, field)).sum() };
        assert_eq!(sum("cash_fen"), fen(order, "payable_fen"), "{order}");
        assert_eq!(sum("refunded_fen"), fen(order, "refunded_fen"), "{order}");
        let steps = order["history"].as_array().unwrap();
        assert_eq!(steps.last().unwrap()["to_status"], order["status"], "{order}");
        for line in lines {
            let (variant, left) =
                (fen(line, "variant_id"), fen(line, "quantity") - fen(line, "refunded_quantity"));
            match order["status"].as_str().unwrap() {
                "created" | "paid" => *waiting.entry(variant).or_insert(0) += left,
                "shipped" | "received" | "completed" => *sent.entry(variant).or_insert(0) += left,
                _ => {}
            }
        }
    }
    let on_hand = sums(&movements, "variant_id", "on_hand_change");
    let reserved = sums(&movements, "variant_id", "reserved_change");
    for stock in &stocks {
        let id = fen(stock, "variant_id");
        let of = |sums: &BTreeMap<i64, i64>| sums.get(&id).copied().unwrap_or(0);
        assert_eq!(of(&on_hand), fen(stock, "on_hand"), "{stock}");
        assert_eq!(of(&reserved), fen(stock, "reserved"), "{stock}");
        assert_eq!(of(&waiting), fen(stock, "reserved"), "{stock}");
        assert_eq!(UNITS - of(&sent), fen(stock, "on_hand"), "{stock}");
    }
}

async fn killed(server: Option<&str>) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("operational");
    let (storage, keys, settings) = match server {
        None => (Storage::files(&folder), folder.join("master.keys"), vec![]),
        Some(url) => (
            Storage::Server { url: url.to_owned(), prefix: "medlake_".to_owned() },
            dir.path().join("master.keys"),
            platform::on_server(url.to_owned(), dir.path()).to_vec(),
        ),
    };
    std::fs::create_dir_all(keys.parent().unwrap()).unwrap();
    let periods = programme::seed(&storage, &keys).await;
    let ports = Ports::free();
    let start = async || {
        let mut platform = Platform::launch(dir.path(), ports, &["--no-simulate"], &settings);
        platform.wait_until_healthy().await;
        platform
    };
    let mut platform = start().await;
    platform.call("/mall/pharmacies", json!({"name": "药房", "region": "浙江"})).await;
    for (price, policy) in [(333, "seven_day"), (1_250, "quality_only")] {
        let product = json!({"name": "血压计", "kind": "device", "category": "a",
            "unit_price_fen": price, "return_policy": policy});
        let product = platform.call("/mall/products", product).await;
        let detail = get(&platform, &format!("/mall/products/{}", product["product_id"])).await;
        let receipt = json!({"pharmacy_id": 1, "kind": "receipt", "on_hand_change": UNITS,
            "variant_id": detail["variants"][0]["variant_id"]});
        platform.call("/mall/stock/movements", receipt).await;
    }
    programme::set_up(&platform, BUYERS).await;
    let (answered, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let client = |number| Client {
        services: platform.services.clone(),
        client: reqwest::Client::new(),
        number,
        sent: 0,
        answered: Arc::clone(&answered),
    };
    let mut buyers = tokio::task::JoinSet::new();
    for number in 0..BUYERS {
        buyers.spawn(buy(client(number), Arc::clone(&done)));
    }
    let mut payers = tokio::task::JoinSet::new();
    for number in [100, 101] {
        payers.spawn(programme::settle_and_pay(client(number), periods.clone()));
    }
    for kill in 1..=KILLS {
        while answered.load(Ordering::SeqCst) < kill * ANSWERS {
            assert_eq!(platform.ended(), None, "{}", platform.log());
            assert!(buyers.try_join_next().is_none(), "no buyer ends by itself");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        platform.kill();
        platform = start().await;
    }
    while let Some(payer) = payers.join_next().await {
        payer.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    let mut placed = 0;
    while let Some(buyer) = buyers.join_next().await {
        placed += buyer.unwrap();
    }
    // What was received since the last start is due at the next.
    platform.kill();
    let platform = start().await;
    programme::come_to_rest(&platform).await;
    let orders = orders(&platform).await;
    assert_eq!(orders.len(), placed, "each order was placed once");
    is_balanced(&platform, &orders).await;
    programme::is_reconciled(&platform, &periods).await;
    ledgers::commissions_are_those_of(&orders, &platform).await;
    ledgers::points_are_those_of(&orders, &platform).await;
    assert!(platform.stop().success());
}

#[tokio::test]
async fn orders_in_files_survive_a_kill() {
    let _alone = platform::alone().await;
    killed(None).await;
}

#[tokio::test]
async fn orders_on_a_server_survive_a_kill() {
    let _alone = platform::alone().await;
    let binlog = ["--log-bin=bin", "--server-id=1", "--binlog-format=row"];
    let more = [&binlog[..], &["--binlog-row-metadata=full"]].concat();
    let server = DatabaseServer::start_with(Kind::MariaDb, &more).await;
    let url = server.url_of(server.port, "").trim_end_matches('/').to_owned();
    killed(Some(&url)).await;
}
