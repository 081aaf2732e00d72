//! How long a refresh takes: a year of orders in files, then small change sets of today.
//!
//! `cargo bench -p medlake-transforms [-- ORDERS]`; prints one line a measurement.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement prints, and stops where it cannot go on"
)]

use std::{sync::Arc, time::Instant};

use arrow::{
    array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray, new_null_array},
    record_batch::RecordBatch,
};
use medlake_contract::{ChangeBatch, ChangeSet, ColumnType, TableSchema};
use medlake_lake::{Lake, LakeConfig};
use medlake_transforms::{Refresh, Status, Transforms};

const DAY: i64 = 24 * 3_600 * 1_000_000;
/// 2026-11-20T16:00:00Z, midnight in Shanghai.
const TODAY: i64 = 1_795_190_400 * 1_000_000;
const DAYS: i64 = 365;
const LINES: i64 = 7;
const STEP: i64 = 20_000;
const ROUNDS: i64 = 30;
const ROUND: i64 = 40;

struct Line {
    lake: Lake,
    transforms: Transforms,
}

impl Line {
    fn table(&self, name: &str) -> Arc<TableSchema> {
        let tables = self.transforms.input_tables();
        Arc::clone(tables.iter().find(|t| t.name().to_string() == name).unwrap())
    }

    /// Rows with the named columns from `value(row)`, and something plain in the others.
    fn rows(
        &self,
        name: &str,
        count: i64,
        value: impl Fn(&str, i64) -> Option<i64>,
    ) -> ChangeBatch {
        let table = self.table(name);
        let columns = table.columns().iter().map(|column| {
            let values = || (0..count).map(|row| value(&column.name, row));
            let array: ArrayRef = match &column.ty {
                ColumnType::Utf8 if column.name == "channel" => Arc::new(
                    (0..count)
                        .map(|row| Some(["app", "h5"][usize::from(row % 3 == 0)]))
                        .collect::<StringArray>(),
                ),
                ColumnType::Utf8 if column.name == "status" => {
                    Arc::new(StringArray::from_iter_values((0..count).map(|_| "paid")))
                }
                ColumnType::Utf8 if !column.nullable => Arc::new(StringArray::from_iter_values(
                    (0..count).map(|row| format!("{}", row % 12)),
                )),
                ColumnType::Int64 if column.nullable => {
                    new_null_array(&column.ty.arrow(), row_count(count))
                }
                ColumnType::Int64 => {
                    Arc::new(values().map(|v| Some(v.unwrap_or(1))).collect::<Int64Array>())
                }
                ColumnType::TimestampMicros => {
                    let micros: TimestampMicrosecondArray = values().collect();
                    Arc::new(micros.with_timezone("UTC"))
                }
                other => new_null_array(&other.arrow(), row_count(count)),
            };
            array
        });
        let rows =
            RecordBatch::try_new(Arc::clone(table.arrow_nullable()), columns.collect()).unwrap();
        ChangeBatch::inserts(table, &rows).unwrap()
    }

    /// Paid orders with ids from `first`, their lines, all paid between `from` and `until`.
    fn orders(&self, first: i64, count: i64, from: i64, until: i64) -> Vec<ChangeBatch> {
        let paid_at = |row: i64| from + (until - from) / count * row;
        let orders = self.rows("mall.orders", count, |column, row| match column {
            "order_id" => Some(first + row),
            "tenant_id" => Some(1),
            "pharmacy_id" => Some(1 + row % 20),
            "goods_amount_fen" => Some(LINES * 100),
            "discount_fen" => Some(LINES * 3),
            "refunded_fen" | "shipping_fen" => Some(0),
            "created_at" | "paid_at" => Some(paid_at(row)),
            _ => None,
        });
        let lines = self.rows("mall.order_line", count * LINES, |column, row| match column {
            "order_line_id" => Some(first * LINES + row),
            "tenant_id" => Some(1),
            "order_id" => Some(first + row / LINES),
            "product_id" => Some(1 + row % 300),
            "list_amount_fen" => Some(110),
            "disc_item_fen" => Some(10),
            "line_amount_fen" => Some(100),
            "cash_fen" => Some(97),
            "disc_coupon_merchant_fen" => Some(0),
            _ => Some(1),
        });
        vec![orders, lines]
    }

    async fn take(&mut self, batches: Vec<ChangeBatch>) -> (Refresh, f64, f64, f64) {
        let raw = ChangeSet { batches, committed_at_micros: Some(TODAY), ..ChangeSet::default() };
        let start = Instant::now();
        self.lake.stage(&raw).unwrap();
        let staged = start.elapsed();
        let view = self.lake.staged_view();
        let mut refresh = self.transforms.refresh(&view, &raw.batches).await.unwrap();
        let refreshed = start.elapsed();
        let batches = std::mem::take(&mut refresh.batches);
        self.lake.stage(&ChangeSet { batches, ..ChangeSet::default() }).unwrap();
        self.lake.publish();
        for outcome in &refresh.outcomes {
            assert_eq!(outcome.status, Status::Built, "{outcome:?}");
        }
        let ms = |d: std::time::Duration| d.as_secs_f64() * 1000.0;
        (refresh, ms(staged), ms(refreshed - staged), ms(start.elapsed() - refreshed))
    }
}

fn row_count(count: i64) -> usize {
    usize::try_from(count).unwrap()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let orders = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(200_000_i64);
    let folder = tempfile::tempdir().unwrap();
    let transforms = Transforms::load().unwrap();
    let lake = Lake::open(LakeConfig::new(folder.path(), Arc::new(|| TODAY))).await.unwrap();
    lake.create_tables(transforms.input_tables()).await.unwrap();
    lake.create_tables(&transforms.mart_tables()).await.unwrap();
    let mut line = Line { lake, transforms };

    let plain = |column: &str, row: i64| Some(if column == "tenant_id" { 1 } else { row + 1 });
    let mut batches =
        vec![line.rows("mall.pharmacy", 20, plain), line.rows("mall.product", 300, plain)];
    let start = Instant::now();
    for first in (0..orders).step_by(row_count(STEP)) {
        let at = |order: i64| TODAY - DAYS * DAY + DAYS * DAY / orders * order;
        let count = STEP.min(orders - first);
        batches.extend(line.orders(first + 1, count, at(first), at(first + count)));
        line.lake
            .stage(&ChangeSet { batches: std::mem::take(&mut batches), ..ChangeSet::default() })
            .unwrap();
        line.lake.publish();
        line.lake.flush().await.unwrap();
    }
    println!(
        "loaded {orders} orders, {} lines in {:.1} s",
        orders * LINES,
        start.elapsed().as_secs_f64()
    );

    let (refresh, _, ms, _) = line.take(Vec::new()).await;
    println!("first build of {} marts: {ms:.0} ms", refresh.outcomes.len());
    line.lake.flush().await.unwrap();

    for hot in [false, true] {
        let mut times = Vec::new();
        for round in 0..ROUNDS {
            let first = orders + 1 + (i64::from(hot) * ROUNDS + round) * ROUND;
            let from = TODAY + (i64::from(hot) * ROUNDS + round) * 100_000;
            let batches = line.orders(first, ROUND, from, from + 100_000);
            let (_, stage, refresh, rest) = line.take(batches).await;
            times.push((refresh, stage, rest));
            if !hot {
                line.lake.flush().await.unwrap();
            }
        }
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (half, most) = (times[times.len() / 2], times[times.len() - 2]);
        println!(
            "refresh of {ROUND} orders of today, {}: median {:.1} ms, worst but one {:.1} ms \
             (staging {:.1} ms, staging marts and publishing {:.1} ms)",
            if hot { "hot rows kept" } else { "flushed each time" },
            half.0,
            most.0,
            half.1,
            half.2
        );
    }
}
