//! Bad input is answered with a clear error and its code, and changes nothing.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    platform::{self, Platform},
    sources,
};

async fn whole_mall(platform: &Platform) -> Vec<Vec<Vec<Value>>> {
    let mut db = sources::open(&platform.data, "mall").await;
    let mut all = Vec::new();
    for (table, key) in sources::tables(&mut db).await {
        let sql = format!("select * from {table} order by {}", key.join(", "));
        all.push(sources::rows(&mut db, &sql).await);
    }
    all
}

#[tokio::test]
async fn the_services_refuse_clearly_and_change_nothing() {
    let _alone = platform::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::quiet(dir.path()).await;
    let order = platform::shop(&platform).await;
    let id = &order["order_id"];
    let line = &order["lines"][0]["order_line_id"];
    let before = whole_mall(&platform).await;

    let order_of = |product: i64| {
        json!({"person_id": 1, "pharmacy_id": order["pharmacy_id"], "channel": "app",
               "lines": [{"product_id": product, "quantity": 1}]})
    };
    let refund = |quantity: i64| json!({"reason": "x", "lines": [{"order_line_id": line, "quantity": quantity}]});
    let cases = [
        ("/mall/orders".to_owned(), order_of(999_999), 404, "not_found", "999999"),
        ("/mall/orders".to_owned(), json!({"person_id": "one"}), 400, "invalid", "person_id"),
        (format!("/mall/orders/{id}/pay"), json!({"method": "wechat"}), 409, "conflict", "paid"),
        (format!("/mall/orders/{id}/refunds"), refund(3), 409, "conflict", "2"),
        (format!("/mall/orders/{id}/refunds"), refund(0), 400, "invalid", "quantity"),
        (
            "/mall/orders/424242/pay".to_owned(),
            json!({"method": "wechat"}),
            404,
            "not_found",
            "424242",
        ),
    ];
    for (path, body, status, code, part) in cases {
        let (answered, error) = platform.post(&format!("{}{path}", platform.services), &body).await;
        assert_eq!(answered, status, "{path} {body}: {error}");
        assert_eq!(error["error"]["code"], code, "{path} {body}: {error}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{path} {body}: {message}");
    }
    for url in
        [format!("{}/mall/orders", platform.services), format!("{}/api/v1/sql", platform.http)]
    {
        let answer = reqwest::Client::new()
            .post(&url)
            .header("content-type", "application/json")
            .body("{\"sql\": ")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 400, "{url}");
        let error: Value = answer.json().await.unwrap();
        assert_eq!(error["error"]["code"], "invalid", "{url}: {error}");
    }
    assert_eq!(whole_mall(&platform).await, before, "a refused request changed something");
}

#[tokio::test]
async fn both_sql_doors_refuse_clearly_and_go_on() {
    let _alone = platform::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform::quiet(dir.path()).await;
    platform::shop(&platform).await;
    platform.caught_up(Duration::from_secs(10)).await;
    let cases = [
        ("selec 1", "42601"),
        ("select * from marts.no_such_table", "42P01"),
        ("select no_such_column from mall.orders", "42703"),
        ("delete from mall.orders", "25006"),
        ("insert into mall.orders select * from mall.orders", "25006"),
        ("create table marts.x as select 1", "25006"),
        ("copy (select 1) to '/tmp/x.csv'", "25006"),
        // A chain this long would overflow the stack of whoever walks its tree.
        (&format!("select 1{}", "+1".repeat(3_000)), "54001"),
    ];
    // The longest chain that is taken runs.
    assert_eq!(platform.rows(&format!("select 1{}", "+1".repeat(999))).await, [[json!(1_000)]]);
    for (sql, state) in cases {
        let url = format!("{}/api/v1/sql", platform.http);
        let (status, error) = platform.post(&url, &json!({ "sql": sql })).await;
        assert!((400..500).contains(&status), "{sql}: {status} {error}");
        assert!(!error["error"]["message"].as_str().unwrap().is_empty(), "{sql}: {error}");

        let output = platform.psql_output(sql);
        assert!(!output.status.success(), "{sql} succeeded");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(state), "{sql}: {said}");
    }
    assert_eq!(platform.psql("select count(*) from mall.orders"), ["1"]);
    assert_eq!(platform.rows("select count(*) from mall.orders").await, [[json!(1)]]);
}
