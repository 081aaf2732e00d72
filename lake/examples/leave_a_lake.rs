//! Leaves a lake in a folder for other engines to read, with updates and deletes, and prints what
//! it holds and how long each step took:
//! `cargo run -p medlake-lake --example leave_a_lake -- /tmp/lake 1000000`

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Float64Array, Int32Array, Int64Array,
        StringArray, TimestampMicrosecondArray,
    },
    record_batch::RecordBatch,
};
use datafusion::prelude::SessionContext;
use medlake_contract::{
    ChangeBatch, ChangeSet, Column, ColumnType, Op, Position, Positions, SourceId, TableSchema,
};
use medlake_lake::{Lake, LakeConfig};

type Failure = Box<dyn std::error::Error>;

/// Rows in one change set.
const SET: usize = 20_000;

fn orders() -> Result<Arc<TableSchema>, Failure> {
    let columns = vec![
        Column::required("order_id", ColumnType::Int64),
        Column::required("channel", ColumnType::Utf8),
        Column::nullable("amount_fen", ColumnType::Int64),
        Column::nullable("ratio", ColumnType::Float64),
        Column::nullable("gift", ColumnType::Boolean),
        Column::nullable("day", ColumnType::Date),
        Column::nullable("paid_at", ColumnType::TimestampMicros),
        Column::nullable("quantity", ColumnType::Int32),
        Column::nullable("digest", ColumnType::Binary),
    ];
    Ok(Arc::new(TableSchema::new("mall.orders".parse()?, columns, &["order_id"])?))
}

fn daily() -> Result<Arc<TableSchema>, Failure> {
    let columns = vec![
        Column::required("business_day", ColumnType::Date),
        Column::required("channel", ColumnType::Utf8),
        Column::required("orders", ColumnType::Int64),
    ];
    let key = ["business_day", "channel"];
    Ok(Arc::new(TableSchema::new("marts.daily".parse()?, columns, &key)?))
}

/// Orders of these ids; `version` changes what they hold.
fn rows(schema: &TableSchema, ids: &[i64], version: i64) -> Result<RecordBatch, Failure> {
    let some = |modulus: i64| ids.iter().map(move |id| (id % modulus != 0).then_some(*id));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.to_vec())),
        Arc::new(StringArray::from_iter_values(ids.iter().map(|id| format!("渠道 {}", id % 4)))),
        Arc::new(some(11).map(|v| v.map(|id| id * 100 + version)).collect::<Int64Array>()),
        Arc::new(some(13).map(|v| v.map(|id| (id % 1000) as f64 / 8.0)).collect::<Float64Array>()),
        Arc::new(some(5).map(|v| v.map(|id| id % 2 == 0)).collect::<BooleanArray>()),
        Arc::new(
            some(17)
                .map(|v| v.and_then(|id| i32::try_from(20_000 + id / 5_000).ok()))
                .collect::<Date32Array>(),
        ),
        Arc::new(
            some(7)
                .map(|v| v.map(|id| 1_700_000_000_000_000 + id * 1_000_003))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
        Arc::new(
            some(3).map(|v| v.and_then(|id| i32::try_from(id % 9).ok())).collect::<Int32Array>(),
        ),
        Arc::new(BinaryArray::from_iter(some(19).map(|v| v.map(|id| id.to_be_bytes())))),
    ];
    Ok(RecordBatch::try_new(Arc::clone(schema.arrow_nullable()), columns)?)
}

fn set(batch: ChangeBatch, position: u64) -> ChangeSet {
    ChangeSet {
        positions: Positions::from([(SourceId::new("mall"), Position::ChangeId(position))]),
        batches: vec![batch],
        ..ChangeSet::default()
    }
}

#[expect(clippy::print_stdout, reason = "that is what it is for")]
fn say(what: &str, rows: i64, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    println!("{what}: {rows} rows in {seconds:.2} s, {:.0} rows/s", rows as f64 / seconds);
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "that is what it is for")]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let root = PathBuf::from(arguments.next().ok_or("which folder?")?);
    let count: i64 = arguments.next().map_or(Ok(200_000), |n| n.parse())?;
    #[expect(clippy::disallowed_methods, reason = "an example is a program of its own")]
    let clock = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|d| i64::try_from(d.as_micros()).ok())
            .unwrap_or(0)
    };
    let lake = Lake::open(LakeConfig::new(&root, Arc::new(clock))).await?;
    let (orders, daily) = (orders()?, daily()?);
    lake.create_tables(&[Arc::clone(&orders), Arc::clone(&daily)]).await?;
    let mut position = 0;

    let mut made = Vec::new();
    let all: Vec<i64> = (0..count).collect();
    for ids in all.chunks(SET) {
        let after = rows(&orders, ids, 0)?;
        made.push(ChangeBatch::inserts(Arc::clone(&orders), &after)?);
    }
    let start = Instant::now();
    for batch in made {
        position += 1;
        lake.stage(&set(batch, position))?;
    }
    lake.publish();
    say("stage inserts", count, start);
    let index = lake.index_sizes()[orders.name()];
    let (keys, bytes) = (index.rows, index.bytes);
    println!("index: {keys} keys, {:.1} bytes a key", bytes as f64 / keys as f64);
    let start = Instant::now();
    lake.flush().await?;
    say("flush inserts", count, start);

    // Every third order changes, every tenth goes; several small flushes.
    let changed: Vec<i64> = (0..count).step_by(3).collect();
    let gone: Vec<i64> = (0..count).step_by(10).collect();
    let mut made = Vec::new();
    for ids in changed.chunks(SET) {
        let (before, after) = (rows(&orders, ids, 0)?, rows(&orders, ids, 1)?);
        let ops = vec![Op::Update; ids.len()];
        made.push(ChangeBatch::new(Arc::clone(&orders), ops, before, after)?);
    }
    for ids in gone.chunks(SET) {
        let before = rows(&orders, ids, 1)?;
        let after = RecordBatch::try_new(
            Arc::clone(orders.arrow_nullable()),
            before
                .columns()
                .iter()
                .map(|c| arrow::array::new_null_array(c.data_type(), ids.len()))
                .collect(),
        )?;
        made.push(ChangeBatch::new(
            Arc::clone(&orders),
            vec![Op::Delete; ids.len()],
            before,
            after,
        )?);
    }
    let changes = i64::try_from(changed.len() + gone.len())?;
    let start = Instant::now();
    for batch in made {
        position += 1;
        lake.stage(&set(batch, position))?;
        lake.publish();
    }
    say("stage and publish updates and deletes", changes, start);
    let start = Instant::now();
    let report = lake.flush().await?;
    say("flush updates and deletes", changes, start);
    println!("{report:?}");

    // A long tail of small flushes, so that files and delete files get merged.
    let start = Instant::now();
    let (rounds, mut merged) = (60, 0);
    for round in 0..rounds {
        let ids: Vec<i64> = (1..400).map(|i| (i * 7919 + round * 31) % (count + 1000)).collect();
        let after = rows(&orders, &ids, 2 + round)?;
        position += 1;
        lake.stage(&set(ChangeBatch::inserts(Arc::clone(&orders), &after)?, position))?;
        lake.publish();
        lake.flush().await?;
        merged += lake.maintain().await?.compaction.merged_files;
    }
    say("small flushes", rounds, start);
    println!("{merged} files merged");
    for day in 0..40_i32 {
        let after = RecordBatch::try_new(
            Arc::clone(daily.arrow_nullable()),
            vec![
                Arc::new(Date32Array::from(vec![20_000 + day % 30; 2])),
                Arc::new(StringArray::from(vec!["app", "h5"])),
                Arc::new(Int64Array::from(vec![i64::from(day), i64::from(day) * 7])),
            ],
        )?;
        let batches = vec![ChangeBatch::inserts(Arc::clone(&daily), &after)?];
        lake.stage(&ChangeSet { batches, ..ChangeSet::default() })?;
        lake.publish();
        lake.flush().await?;
    }
    let context = SessionContext::new();
    context.register_catalog("lake", lake.read_view().catalog());
    for sql in [
        "select count(*) as n, sum(order_id) as ids, sum(amount_fen) as amount, sum(ratio) as ratio,
             count(gift) as gifts, count(day) as days, max(paid_at) as last, sum(quantity) as quantity,
             count(digest) as digests
         from lake.mall.orders",
        "select channel, count(*) as n, sum(orders) as orders from lake.marts.daily
         group by channel order by channel",
    ] {
        let start = Instant::now();
        let batches = context.sql(sql).await?.collect().await?;
        println!("{}", arrow::util::pretty::pretty_format_batches(&batches)?);
        println!("in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    }
    drop(lake);
    let start = Instant::now();
    let lake = Lake::open(LakeConfig::new(&root, Arc::new(clock))).await?;
    let rows = lake.read_view().tables().iter().map(|t| t.row_count).sum::<u64>();
    say("open again to read", i64::try_from(rows)?, start);
    lake.load_indexes().await?;
    say("open again to write", i64::try_from(rows)?, start);
    let start = Instant::now();
    lake.save_indexes().await?;
    say("save the key indexes", i64::try_from(rows)?, start);
    drop(lake);
    let start = Instant::now();
    let lake = Lake::open(LakeConfig::new(&root, Arc::new(clock))).await?;
    lake.load_indexes().await?;
    say("open again to write, with saved key indexes", i64::try_from(rows)?, start);
    Ok(())
}
