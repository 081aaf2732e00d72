//! The HTTP doors, without a socket.

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use medlake_query_server::QueryServerConfig;
use serde_json::{Value, json};

use crate::harness::{House, gmv_rows, ints, orders, rows, texts};

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_answered_with_its_view() {
    let house = House::open().await;
    let (status, answer) =
        house.sql("select region, sum(payable_fen) as fen from mall.orders group by region order by 2 desc").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        answer["columns"],
        json!([{"name": "region", "type": "text"}, {"name": "fen", "type": "int64"}])
    );
    assert_eq!(answer["rows"], json!([["浙江", 350], ["广东", 70]]));
    assert_eq!(answer["row_count"], 2);
    assert_eq!(answer["view"]["positions"], json!({"mall": "change:1"}));
    assert_eq!(answer["view"]["committed_at"], "2026-11-01T02:26:39.750000Z");
    assert!(answer["elapsed_ms"].as_f64().unwrap() > 0.0);
    let (_, big) = house.sql("select 9007199254740993 as big, count(*) from mall.orders").await;
    assert_eq!(big["rows"].to_string(), "[[9007199254740993,3]]");
    assert_eq!(big["columns"][1]["name"], "count");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_formats_are_streamed() {
    let house = House::open().await;
    let send = async |format: &str| {
        let body = json!({"sql": "select order_id, region as \"a,b\" from mall.orders order by 1", "format": format});
        let request = Request::post("/api/v1/sql").body(Body::from(body.to_string())).unwrap();
        let response = tower::ServiceExt::oneshot(house.router(), request).await.unwrap();
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        (kind, axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap())
    };
    let (kind, csv) = send("csv").await;
    assert_eq!(kind, "text/csv; charset=utf-8");
    assert_eq!(csv, "order_id,\"a,b\"\n1,浙江\n2,浙江\n3,广东\n");
    let (kind, bytes) = send("arrow").await;
    assert_eq!(kind, "application/vnd.apache.arrow.stream");
    let reader = arrow::ipc::reader::StreamReader::try_new(&bytes[..], None).unwrap();
    let rows: usize = reader.map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(rows, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_and_what_is_committed_are_tables() {
    let house = House::open().await;
    house.lake.flush().await.unwrap();
    house.publish(vec![rows(&orders(), vec![ints([4]), texts(["广东"]), ints([30])])]);
    let (_, answer) = house.sql("select snapshot_id from mall.\"orders$snapshots\"").await;
    let snapshot = answer["rows"][0][0].to_string();
    let snapshot = snapshot.trim_matches('"');
    for (table, count) in [
        ("orders".to_owned(), 4),
        (format!("orders@{snapshot}"), 3),
        ("orders@2200-01-01T00:00:00Z".to_owned(), 3),
        ("orders@2000-01-01T00:00:00Z".to_owned(), 0),
        ("orders$files".to_owned(), 1),
    ] {
        let (_, answer) = house.sql(&format!("select count(*) from mall.\"{table}\"")).await;
        assert_eq!(answer["rows"], json!([[count]]), "{table}: {answer}");
    }
    for (table, code, part) in [
        ("orders@7", "not_found", "it is not a snapshot of this table, or no longer"),
        ("orders@soon", "invalid", "neither a snapshot id nor a time"),
        ("orders$nothing", "not_found", "does not exist"),
    ] {
        let (_, answer) = house.sql(&format!("select * from mall.\"{table}\"")).await;
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(part), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_clearly() {
    let house = House::open().await;
    let said = async |sql: &str| {
        let (status, answer) = house.sql(sql).await;
        let error = &answer["error"];
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        (
            status.as_u16(),
            text("code"),
            text("sqlstate"),
            text("message"),
            error["position"].as_u64(),
        )
    };
    let is = |status, code: &str, state: &str, message: &str, position: Option<u64>| {
        (status, code.to_owned(), state.to_owned(), message.to_owned(), position)
    };
    assert_eq!(
        said("select from mall.orders where").await,
        is(400, "invalid", "42601", "syntax error at end of input", Some(30))
    );
    assert_eq!(
        said("select *\nfrom mall.nothing").await,
        is(400, "not_found", "42P01", "relation \"mall.nothing\" does not exist", Some(15))
    );
    assert_eq!(
        said("select regio from mall.orders").await,
        is(400, "invalid", "42703", "column \"regio\" does not exist", Some(8))
    );
    assert_eq!(
        said("delete from mall.orders").await,
        is(403, "denied", "25006", "cannot execute DELETE in a read-only transaction", None)
    );
    assert_eq!(said("select 1; select 2").await.2, "42601");
    assert_eq!(said("").await.2, "42601");
    assert_eq!(said("set x to 1").await.1, "unsupported");
    assert_eq!(said("select $1").await.2, "42P02");
    let (_, answer) = house.sql("select regio from mall.orders").await;
    assert!(answer["error"]["hint"].as_str().unwrap().contains("orders.region"), "{answer}");

    for (body, part) in
        [("{\"sql\": ", "EOF"), ("{\"sq\": 1}", "sq"), ("", "EOF"), ("[]", "struct")]
    {
        let (status, answer) = house.post("/api/v1/sql", body).await;
        assert_eq!((status.as_u16(), &answer["error"]["code"]), (400, &json!("invalid")), "{body}");
        assert!(answer["error"]["detail"].as_str().unwrap().contains(part), "{answer}");
    }
    for (request, status) in [
        (Request::get("/api/v1/nothing"), 404),
        (Request::get("/api/v1/sql"), 405),
        (Request::get("/api/v1/dashboards/nothing"), 404),
        (Request::get("/api/v1/dashboards/nothing/data"), 404),
        (Request::get("/api/v1/dashboards/nothing/events"), 404),
    ] {
        let (found, text) = house.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(found.as_u16(), status, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert!(answer["error"]["message"].is_string(), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_rows_and_too_much_time_are_errors_not_half_answers() {
    let config = QueryServerConfig {
        json_row_limit: 1000,
        statement_timeout: std::time::Duration::from_millis(300),
        ..QueryServerConfig::default()
    };
    let house = House::open_with(config).await;
    let (status, answer) = house.sql("select * from generate_series(1, 1000)").await;
    assert_eq!((status, answer["row_count"].as_u64()), (StatusCode::OK, Some(1000)));
    let (status, answer) = house.sql("select * from generate_series(1, 1001)").await;
    assert_eq!((status.as_u16(), &answer["error"]["sqlstate"]), (429, &json!("54000")), "{answer}");
    // A join that asks its inputs once and then makes batches for a minute must be stopped, too.
    let slow = "select count(*) from generate_series(1, 10000000) a, generate_series(1, 1000) b";
    let started = std::time::Instant::now();
    let (status, answer) = house.sql(slow).await;
    assert!(started.elapsed() < std::time::Duration::from_secs(10), "it was stopped late");
    assert_eq!((status.as_u16(), &answer["error"]["sqlstate"]), (429, &json!("57014")), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_answered_by_the_model() {
    let house = House::open().await;
    let (status, text) = house.get("/api/v1/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("gmv_paid"));
    let query = json!({
        "metrics": ["gmv_paid"], "dimensions": ["region"],
        "time": {"last": {"count": 1, "unit": "day"}},
        "order": [{"by": "gmv_paid", "direction": "desc"}],
    });
    let (status, answer) = house.post("/api/v1/metrics/query", &query).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["rows"], json!([["浙江", 350], ["广东", 70]]));
    assert_eq!(answer["columns"][1]["kind"], "metric");
    assert_eq!(answer["columns"][1]["format"], "fen");
    assert!(answer["columns"][0]["label"]["zh"].is_string());
    assert!(answer["sql"].as_str().unwrap().contains("gmv_daily"));
    let (status, answer) =
        house.post("/api/v1/metrics/query", json!({"metrics": ["gmv_payd"]})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(answer["error"]["message"].as_str().unwrap().contains("gmv_payd"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dashboard_is_answered_whole() {
    let house = House::open().await;
    let (_, text) = house.get("/api/v1/dashboards").await;
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list, json!([{"id": "small", "title": {"zh": "小屏", "en": "small"}}]));
    let (_, text) = house.get("/api/v1/dashboards/small").await;
    let definition: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(definition["tiles"][0]["kind"], "number");
    let data = async || -> Value {
        let (status, text) = house.get("/api/v1/dashboards/small/data").await;
        assert_eq!(status, StatusCode::OK);
        serde_json::from_str(&text).unwrap()
    };
    let first = data().await;
    assert_eq!(first["dashboard"], "small");
    assert_eq!(first["tiles"]["gmv"]["rows"], json!([[420]]));
    assert_eq!(first["tiles"]["orders"]["rows"], json!([[1, 100], [2, 250], [3, 70]]));
    assert_eq!(first["view"]["positions"]["mall"], "change:1");
    house.publish(vec![gmv_rows(&[("浙江", "app", 1000)])]);
    let second = data().await;
    assert_eq!(second["tiles"]["gmv"]["rows"], json!([[1070]]));
    assert_eq!(second["view"]["positions"]["mall"], "change:2");
    // Asked again at the same view, nothing is computed.
    let (_, before) = house.get("/metrics").await;
    data().await;
    let (_, after) = house.get("/metrics").await;
    let count = |text: &str| {
        text.lines().find(|l| l.contains("door=\"dashboard\",outcome=\"ok\"")).map(str::to_owned)
    };
    assert_eq!(count(&before), count(&after));
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_health_and_numbers() {
    let house = House::open().await;
    house.sql("select 1").await;
    house.sql("selec 1").await;
    let (status, text) = house.get("/healthz").await;
    let health: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &health["status"]), (StatusCode::OK, &json!("ok")));
    assert_eq!(health["freshness_seconds"], 0.25);
    let (_, text) = house.get("/metrics").await;
    for line in [
        "medlake_queries_total{door=\"sql\",outcome=\"ok\"} 1",
        "medlake_queries_total{door=\"sql\",outcome=\"invalid\"} 1",
        "medlake_query_seconds_count{door=\"sql\"} 2",
        "medlake_view_freshness_seconds 0.25",
        "medlake_view_version ",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let (_, text) = house.get("/openapi.json").await;
    let document: Value = serde_json::from_str(&text).unwrap();
    for path in ["/api/v1/sql", "/api/v1/metrics/query", "/api/v1/dashboards/{id}/events"] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    assert!(document["components"]["schemas"]["MetricQuery"].is_object());
}
