//! A lake with known rows, a server over it, and ways to ask.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Float64Array, Int32Array, Int64Array,
        StringArray, TimestampMicrosecondArray,
    },
    record_batch::RecordBatch,
};
use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use medlake_contract::{
    ChangeBatch, ChangeSet, Column, ColumnType, Position, SourceId, TableSchema,
};
use medlake_lake::{Lake, LakeConfig};
use medlake_query_server::{Dashboard, QueryServer, QueryServerConfig};
use medlake_semantic_layer::Model;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// 2026-11-01T02:26:40Z, 10:26:40 in Shanghai.
pub(crate) const NOW: i64 = 1_793_500_000_000_000;
/// 2026-11-01 in days.
pub(crate) const TODAY: i32 = 20_758;

pub(crate) struct House {
    pub(crate) lake: Lake,
    pub(crate) server: Arc<QueryServer>,
    pub(crate) clock: Arc<AtomicI64>,
    pub(crate) postgres: SocketAddr,
    change: AtomicI64,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl House {
    pub(crate) async fn open() -> Self {
        Self::open_with(QueryServerConfig::default()).await
    }

    pub(crate) async fn open_with(config: QueryServerConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open(LakeConfig::new(folder.path(), Arc::new(|| NOW))).await.unwrap();
        lake.create_tables(&[orders(), gmv_daily(), gmv_minute(), everything()]).await.unwrap();
        let clock = Arc::new(AtomicI64::new(NOW));
        let ticking = Arc::clone(&clock);
        let server = QueryServer::new(
            config,
            lake.watch(),
            Model::embedded().unwrap(),
            vec![Dashboard::from_yaml(DASHBOARD).unwrap()],
            Arc::new(move || ticking.load(Ordering::SeqCst)),
        )
        .unwrap();
        let server = Arc::new(server);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let postgres = listener.local_addr().unwrap();
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let (serving, cancel) = (Arc::clone(&server), stop.clone());
        tasks.spawn(async move { serving.serve_postgres(listener, cancel).await.unwrap() });
        let house = Self {
            lake,
            server,
            clock,
            postgres,
            change: AtomicI64::new(0),
            stop,
            _folder: folder,
            _tasks: tasks,
        };
        house.publish(vec![
            rows(
                &orders(),
                vec![ints([1, 2, 3]), texts(["浙江", "浙江", "广东"]), ints([100, 250, 70])],
            ),
            gmv_rows(&[("浙江", "app", 350), ("广东", "h5", 70)]),
            everything_rows(),
        ]);
        house
    }

    /// Makes rows visible, as one transaction of the mall.
    pub(crate) fn publish(&self, batches: Vec<ChangeBatch>) {
        let change = self.change.fetch_add(1, Ordering::SeqCst) + 1;
        let position = Position::ChangeId(u64::try_from(change).unwrap());
        self.lake
            .stage(&ChangeSet {
                positions: [(SourceId::new("mall"), position)].into(),
                batches,
                committed_at_micros: Some(NOW - 250_000),
                transaction_count: 1,
                ..ChangeSet::default()
            })
            .unwrap();
        self.lake.publish();
    }

    pub(crate) fn router(&self) -> Router {
        self.server.router()
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> (StatusCode, String) {
        let response = self.router().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, String) {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: impl ToString) -> (StatusCode, Value) {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        let (status, text) = self.send(request).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}")))
    }

    pub(crate) async fn sql(&self, sql: &str) -> (StatusCode, Value) {
        self.post("/api/v1/sql", serde_json::json!({ "sql": sql })).await
    }
}

pub(crate) fn orders() -> Arc<TableSchema> {
    let columns = vec![
        Column::required("order_id", ColumnType::Int64),
        Column::required("region", ColumnType::Utf8),
        Column::required("payable_fen", ColumnType::Int64),
    ];
    Arc::new(TableSchema::new("mall.orders".parse().unwrap(), columns, &["order_id"]).unwrap())
}

pub(crate) fn gmv_daily() -> Arc<TableSchema> {
    let mut columns = vec![
        Column::required("tenant_id", ColumnType::Int64),
        Column::required("business_day", ColumnType::Date),
        Column::required("pharmacy_id", ColumnType::Int64),
        Column::required("channel", ColumnType::Utf8),
        Column::nullable("region", ColumnType::Utf8),
        Column::nullable("pharmacy_name", ColumnType::Utf8),
    ];
    columns.extend(GMV_MEASURES.map(|name| Column::nullable(name, ColumnType::Int64)));
    let key = ["tenant_id", "business_day", "pharmacy_id", "channel"];
    Arc::new(TableSchema::new("marts.gmv_daily".parse().unwrap(), columns, &key).unwrap())
}

const GMV_MEASURES: [&str; 17] = [
    "orders_created",
    "gmv_ordered_fen",
    "orders_paid",
    "lines_paid",
    "units_paid",
    "list_amount_fen",
    "gmv_paid_fen",
    "disc_item_fen",
    "disc_merchant_fen",
    "disc_platform_fen",
    "shipping_paid_fen",
    "cash_paid_fen",
    "refund_amount_fen",
    "refund_by_order_cohort_fen",
    "net_sales_fen",
    "orders_refunded",
    "orders_closed",
];

/// Rows of today's GMV: region, channel, paid amount; the pharmacy is the row's number.
pub(crate) fn gmv_rows(values: &[(&str, &str, i64)]) -> ChangeBatch {
    let count = values.len();
    let mut columns: Vec<ArrayRef> = vec![
        ints(std::iter::repeat_n(1, count)),
        Arc::new(Date32Array::from(vec![TODAY; count])),
        ints((1..).take(count)),
        texts(values.iter().map(|v| v.1)),
        texts(values.iter().map(|v| v.0)),
        texts(std::iter::repeat_n("药房", count)),
    ];
    for name in GMV_MEASURES {
        columns.push(match name {
            "gmv_paid_fen" | "cash_paid_fen" => ints(values.iter().map(|v| v.2)),
            "orders_paid" => ints(std::iter::repeat_n(1, count)),
            _ => ints(std::iter::repeat_n(0, count)),
        });
    }
    rows(&gmv_daily(), columns)
}

pub(crate) fn gmv_minute() -> Arc<TableSchema> {
    let mut columns = vec![
        Column::required("tenant_id", ColumnType::Int64),
        Column::required("minute", ColumnType::TimestampMicros),
    ];
    for name in ["orders_paid", "gmv_paid_fen", "cash_paid_fen", "refund_amount_fen"] {
        columns.push(Column::nullable(name, ColumnType::Int64));
    }
    let key = ["tenant_id", "minute"];
    Arc::new(TableSchema::new("marts.gmv_minute".parse().unwrap(), columns, &key).unwrap())
}

/// A row of the minute `ago` minutes before now.
pub(crate) fn minute_row(ago: i64, gmv_fen: i64) -> ChangeBatch {
    let minute = (NOW / 60_000_000 - ago) * 60_000_000;
    let at = TimestampMicrosecondArray::from(vec![minute]).with_timezone("UTC");
    let one = |value| ints([value]);
    let columns = vec![one(1), Arc::new(at), one(1), one(gmv_fen), one(gmv_fen), one(0)];
    rows(&gmv_minute(), columns)
}

fn everything() -> Arc<TableSchema> {
    let columns = vec![
        Column::required("id", ColumnType::Int64),
        Column::nullable("flag", ColumnType::Boolean),
        Column::nullable("small", ColumnType::Int32),
        Column::nullable("ratio", ColumnType::Float64),
        Column::nullable("name", ColumnType::Utf8),
        Column::nullable("day", ColumnType::Date),
        Column::nullable("at", ColumnType::TimestampMicros),
        Column::nullable("raw", ColumnType::Binary),
    ];
    Arc::new(TableSchema::new("mall.everything".parse().unwrap(), columns, &["id"]).unwrap())
}

fn everything_rows() -> ChangeBatch {
    let at = TimestampMicrosecondArray::from(vec![Some(NOW + 120_000), None]);
    rows(
        &everything(),
        vec![
            ints([1, 2]),
            Arc::new(BooleanArray::from(vec![Some(true), None])),
            Arc::new(Int32Array::from(vec![Some(-7), None])),
            Arc::new(Float64Array::from(vec![Some(0.1), None])),
            Arc::new(StringArray::from(vec![Some("布洛芬 'x'"), None])),
            Arc::new(Date32Array::from(vec![Some(TODAY), None])),
            Arc::new(at.with_timezone("UTC")),
            Arc::new(BinaryArray::from(vec![Some(&[0_u8, 255][..]), None])),
        ],
    )
}

pub(crate) fn rows(table: &Arc<TableSchema>, columns: Vec<ArrayRef>) -> ChangeBatch {
    let batch = RecordBatch::try_new(Arc::clone(table.arrow_nullable()), columns).unwrap();
    ChangeBatch::inserts(Arc::clone(table), &batch).unwrap()
}

pub(crate) fn ints(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

pub(crate) fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

const DASHBOARD: &str = "
id: small
title: {zh: 小屏, en: small}
tiles:
  - id: gmv
    title: {zh: 成交额, en: GMV}
    kind: number
    query: {metrics: [gmv_paid], time: {last: {count: 1, unit: day}}}
    layout: {x: 0, y: 0, w: 6, h: 4}
  - id: regions
    title: {zh: 省份, en: regions}
    kind: rank
    query: {metrics: [gmv_paid], dimensions: [region], order: [{by: gmv_paid, direction: desc}]}
    layout: {x: 6, y: 0, w: 6, h: 4}
  - id: orders
    title: {zh: 订单, en: orders}
    kind: table
    sql: select order_id, payable_fen from mall.orders order by order_id
    layout: {x: 0, y: 4, w: 6, h: 4}
  - id: hour
    title: {zh: 近一小时, en: last hour}
    kind: number
    query: {metrics: [gmv_paid_minute], time: {last: {count: 60, unit: minute}}}
    layout: {x: 0, y: 8, w: 6, h: 4}
";
