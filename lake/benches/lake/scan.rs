//! Queries over order lines: without dead rows, with a tenth of them dead all over, and with a tenth
//! dead among the newest, as real changes come. Beside them: DataFusion's own scan of the clean
//! files, DuckDB on the clean files and on the tables.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{ArrayRef, AsArray, Date32Array, Int64Array, new_null_array},
    compute::{cast, concat_batches},
    datatypes::{Date32Type, Int64Type},
    record_batch::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use medlake_contract::{ChangeBatch, ChangeSet, Column, ColumnType, Op, TableName, TableSchema};
use medlake_lake::Lake;

use crate::{
    peer::DuckDb,
    stage::{lake, median, recorded},
};

const ROWS: usize = 6_000_000;
const FILES: usize = 8;
const ROUNDS: usize = 5;
const THREADS: usize = 2;

/// One recorded year, its lines with the text of their category.
const YEAR: &str = "
    select t.household_id, t.store_id, t.basket_id, t.product_id, cast(t.quantity as int) as quantity,
        cast(round(t.sales_value * 100) as bigint) as sales_fen,
        cast(round(t.retail_disc * 100) as bigint) as discount_fen,
        cast(t.transaction_timestamp as date) as business_day,
        cast(p.product_category as varchar) as category
    from transactions t
    left join products p on t.product_id = p.product_id";

/// Name, text; `{t}` is the table.
const QUERIES: &[(&str, &str)] = &[
    ("totals", "select count(*), sum(quantity), sum(sales_fen), max(discount_fen) from {t}"),
    (
        "filter",
        "select store_id, sum(sales_fen) as fen, count(*) as n from {t}
         where quantity >= 3 and discount_fen > 100 group by store_id
         order by fen desc, store_id limit 10",
    ),
    (
        "by day",
        "select business_day, count(*) as n, sum(sales_fen) as fen from {t}
         group by business_day order by fen desc, business_day limit 10",
    ),
    (
        "by category",
        "select category, sum(sales_fen) as fen, sum(quantity) as pieces from {t}
         group by category order by fen desc, category limit 20",
    ),
    (
        "join + group",
        "select p.department, p.brand, sum(t.sales_fen) as fen, count(*) as n
         from {t} t join products p on t.product_id = p.product_id
         group by p.department, p.brand order by fen desc, p.department, p.brand limit 20",
    ),
    (
        "baskets",
        "select count(*) as n, max(fen) as most
         from (select basket_id, sum(sales_fen) as fen from {t} group by basket_id) b
         where fen > 5000",
    ),
    (
        "top-n",
        "select line_id, basket_id, household_id, category, sales_fen from {t}
         order by sales_fen desc, line_id limit 100",
    ),
    (
        "one month",
        "select category, sum(sales_fen) as fen from {t}
         where business_day >= date '2018-06-01' and business_day < date '2018-07-01'
         group by category order by fen desc, category limit 10",
    ),
];

/// A way to run the queries.
struct Contender {
    name: &'static str,
    engine: Engine,
    /// What `{t}` stands for.
    table: &'static str,
    /// The contender whose time this one's is divided by.
    against: Option<&'static str>,
}

#[derive(Clone, Copy)]
enum Engine {
    DataFusion,
    DuckDb,
}

const CONTENDERS: &[Contender] = &[
    Contender { name: "plain", engine: Engine::DataFusion, table: "plain", against: None },
    Contender {
        name: "clean",
        engine: Engine::DataFusion,
        table: "mall.clean",
        against: Some("plain"),
    },
    Contender {
        name: "scattered",
        engine: Engine::DataFusion,
        table: "mall.scattered",
        against: Some("plain"),
    },
    Contender {
        name: "clustered",
        engine: Engine::DataFusion,
        table: "mall.clustered",
        against: Some("plain"),
    },
    Contender { name: "duck plain", engine: Engine::DuckDb, table: "plain", against: None },
    Contender {
        name: "duck scattered",
        engine: Engine::DuckDb,
        table: "lake.scattered",
        against: Some("scattered"),
    },
    Contender {
        name: "duck clustered",
        engine: Engine::DuckDb,
        table: "lake.clustered",
        against: Some("clustered"),
    },
];

pub(crate) fn run(rows: Option<usize>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure(rows.unwrap_or(ROWS)));
}

async fn measure(rows: usize) {
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let lake = lake(folder.path()).await;
    fill(&lake, rows).await;
    println!(
        "scan: {rows} order lines in {FILES} files a table, made in {:.0?}",
        started.elapsed()
    );

    let context =
        SessionContext::new_with_config(SessionConfig::new().with_target_partitions(THREADS));
    let view = lake.read_view();
    let schema = view.catalog().schema("mall").unwrap();
    context.catalog("datafusion").unwrap().register_schema("mall", schema).unwrap();
    let products = recorded().join("products.parquet");
    let files = parquet_files(&folder.path().join("warehouse/mall/clean"));
    let plain: Vec<&str> = files.iter().filter_map(|f| f.to_str()).collect();
    let plain = context.read_parquet(plain, ParquetReadOptions::default()).await.unwrap();
    context.register_table("plain", plain.into_view()).unwrap();
    context
        .register_parquet("products", products.to_str().unwrap(), ParquetReadOptions::default())
        .await
        .unwrap();
    let mut duck = DuckDb::start(
        folder.path(),
        THREADS,
        &[("plain", files), ("products", vec![products.clone()])],
    );

    let heads: Vec<String> = CONTENDERS.iter().map(|c| format!("{:>15}", c.name)).collect();
    println!("  {:<13}{}", "ms", heads.join(""));
    let mut ratios: Vec<Vec<f64>> = vec![Vec::new(); CONTENDERS.len()];
    for (name, sql) in QUERIES {
        let mut times: Vec<Vec<Duration>> = vec![Vec::new(); CONTENDERS.len()];
        for round in 0..=ROUNDS {
            let mut answers = Vec::new();
            for (at, contender) in CONTENDERS.iter().enumerate() {
                let sql = sql.replace("{t}", contender.table);
                let (time, answer) = match contender.engine {
                    Engine::DataFusion => query(&context, &sql).await,
                    Engine::DuckDb => tokio::task::block_in_place(|| duck.query(&sql)),
                };
                answers.push(answer);
                // The first round warms caches and compares answers.
                if round > 0 {
                    times[at].push(time);
                }
            }
            for (contender, answer) in CONTENDERS.iter().zip(&answers) {
                let same = |c: &Contender| c.table.rsplit('.').next();
                let twin = CONTENDERS.iter().position(|c| same(c) == same(contender)).unwrap();
                assert_eq!(*answer, answers[twin], "{} answers {name} otherwise", contender.name);
            }
        }
        let medians: Vec<f64> = times.into_iter().map(|t| median(t).as_secs_f64() * 1e3).collect();
        let cells = medians.iter().zip(CONTENDERS).enumerate().map(|(at, (ms, contender))| {
            let Some(other) = contender.against else { return format!("{ms:>15.0}") };
            let other = CONTENDERS.iter().position(|c| c.name == other).unwrap();
            // Ours by theirs: below one is good.
            let ratio = match contender.engine {
                Engine::DataFusion => ms / medians[other],
                Engine::DuckDb => medians[other] / ms,
            };
            ratios[at].push(ratio);
            format!("{ms:>8.0} ({ratio:.2})")
        });
        println!("  {name:<13}{}", cells.collect::<String>());
    }
    let cells = ratios.iter().map(|r| match r.len() {
        0 => format!("{:>15}", ""),
        _ => {
            let mean = (r.iter().map(|r| r.ln()).sum::<f64>() / r.len() as f64).exp();
            format!("{:>15}", format!("({mean:.2})"))
        }
    });
    println!("  {:<13}{}", "mean ratio", cells.collect::<String>());
    println!("  in brackets: ours by plain DataFusion, and ours by DuckDB over the same table");
}

async fn query(context: &SessionContext, sql: &str) -> (Duration, Vec<Vec<String>>) {
    let started = Instant::now();
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let time = started.elapsed();
    (time, batches.iter().flat_map(text_rows).collect())
}

/// Rows as DuckDB's come: the text of each value, nothing for a null.
fn text_rows(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::default();
    let columns: Vec<ArrayFormatter<'_>> =
        batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    (0..batch.num_rows())
        .map(|row| columns.iter().map(|c| c.value(row).to_string()).collect())
        .collect()
}

fn parquet_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(parquet_files(&path));
        } else if path.extension().is_some_and(|e| e == "parquet") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn table(name: &str) -> Arc<TableSchema> {
    let columns = vec![
        Column::required("line_id", ColumnType::Int64),
        Column::nullable("household_id", ColumnType::Int64),
        Column::nullable("store_id", ColumnType::Int64),
        Column::nullable("basket_id", ColumnType::Int64),
        Column::nullable("product_id", ColumnType::Int64),
        Column::nullable("quantity", ColumnType::Int32),
        Column::nullable("sales_fen", ColumnType::Int64),
        Column::nullable("discount_fen", ColumnType::Int64),
        Column::nullable("business_day", ColumnType::Date),
        Column::nullable("category", ColumnType::Utf8),
    ];
    let name: TableName = format!("mall.{name}").parse().unwrap();
    Arc::new(TableSchema::new(name, columns, &["line_id"]).unwrap())
}

/// Three tables with the same rows; then a tenth of the rows of two of them dies.
async fn fill(lake: &Lake, rows: usize) {
    let tables = ["clean", "scattered", "clustered"].map(table);
    lake.create_tables(&tables).await.unwrap();
    let year = recorded_year().await;
    let mut next = 0_i64;
    let flush_rows = rows.div_ceil(FILES);
    let mut unflushed = 0;
    while usize::try_from(next).unwrap() < rows {
        let in_year = usize::try_from(next).unwrap() % year.num_rows();
        let count = 65_536
            .min(rows - usize::try_from(next).unwrap())
            .min(year.num_rows() - in_year)
            .min(flush_rows - unflushed);
        let years = usize::try_from(next).unwrap() / year.num_rows();
        let lines = order_lines(&year.slice(in_year, count), next, i32::try_from(years).unwrap());
        let batches = tables.iter().map(|t| ChangeBatch::inserts(Arc::clone(t), &lines).unwrap());
        lake.stage(&ChangeSet { batches: batches.collect(), ..ChangeSet::default() }).unwrap();
        next += i64::try_from(count).unwrap();
        unflushed += count;
        if unflushed == flush_rows {
            lake.publish();
            lake.flush().await.unwrap();
            unflushed = 0;
        }
    }
    let all = i64::try_from(rows).unwrap();
    // A number without a pattern for each row, the same in every run.
    let chance = |id: i64| id.unsigned_abs().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let dead = |id: &i64| chance(*id) % 10 == 0;
    delete(lake, &tables[1], (0..all).filter(dead).collect()).await;
    let newest = |id: &i64| chance(*id) % 2 == 0;
    delete(lake, &tables[2], (all / 5 * 4..all).filter(newest).collect()).await;
}

async fn delete(lake: &Lake, table: &Arc<TableSchema>, ids: Vec<i64>) {
    for ids in ids.chunks(65_536) {
        let schema = table.arrow_nullable();
        let mut columns: Vec<ArrayRef> =
            schema.fields().iter().map(|f| new_null_array(f.data_type(), ids.len())).collect();
        let after = RecordBatch::try_new(Arc::clone(schema), columns.clone()).unwrap();
        columns[0] = Arc::new(Int64Array::from(ids.to_vec()));
        let before = RecordBatch::try_new(Arc::clone(schema), columns).unwrap();
        let ops = vec![Op::Delete; ids.len()];
        let batch = ChangeBatch::new(Arc::clone(table), ops, before, after).unwrap();
        lake.stage(&ChangeSet { batches: vec![batch], ..ChangeSet::default() }).unwrap();
    }
    lake.publish();
    lake.flush().await.unwrap();
}

async fn recorded_year() -> RecordBatch {
    // One partition keeps the recorded order, which is that of time.
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    for name in ["transactions", "products"] {
        let path = recorded().join(format!("{name}.parquet"));
        let path = path.to_str().unwrap();
        context.register_parquet(name, path, ParquetReadOptions::default()).await.unwrap();
    }
    let batches = context.sql(YEAR).await.unwrap().collect().await.unwrap();
    concat_batches(batches[0].schema_ref(), &batches).unwrap()
}

/// Recorded lines, so many years later, with ids from `first` on.
fn order_lines(recorded: &RecordBatch, first: i64, years: i32) -> RecordBatch {
    let count = i64::try_from(recorded.num_rows()).unwrap();
    let schema = Arc::clone(table("clean").arrow());
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(first..first + count));
    let columns = schema.fields().iter().map(|field| {
        let Some(values) = recorded.column_by_name(field.name()) else { return Arc::clone(&ids) };
        let values = cast(values, field.data_type()).unwrap();
        match field.name().as_str() {
            "business_day" => {
                let days = values.as_primitive::<Date32Type>();
                let days: Date32Array = days.unary(|day| day + 365 * years);
                Arc::new(days) as ArrayRef
            }
            "basket_id" => {
                let baskets = values.as_primitive::<Int64Type>();
                let baskets: Int64Array =
                    baskets.unary(|id| id + 100_000_000_000 * i64::from(years));
                Arc::new(baskets) as ArrayRef
            }
            _ => values,
        }
    });
    RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap()
}
