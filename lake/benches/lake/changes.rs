//! What changes cost. `changes`: staged, published, flushed and committed, half of them updates of
//! rows anywhere in the table; beside it the same rows written by Parquet's Arrow writer alone.
//! `latency`: from the call that stages a small transaction until a reader's new view has it, at
//! 50,000 changes a second with flushes going on.

use std::{
    fs::File,
    io::BufWriter,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{
        ArrayRef, BooleanArray, Date32Array, Float64Array, Int32Array, Int64Array, StringArray,
        TimestampMicrosecondArray, new_null_array,
    },
    record_batch::RecordBatch,
};
use medlake_contract::{ChangeBatch, ChangeSet, Column, ColumnType, Op, TableSchema};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;

use crate::stage::{lake, median, percentile};

const CHANGES: usize = 2_000_000;
/// Changes in one source transaction of the throughput run.
const SET: usize = 10_000;
/// Changes between two flushes.
const FLUSH: usize = 500_000;
const ROUNDS: usize = 3;

/// Ten columns, as an order line has them.
fn lines() -> Arc<TableSchema> {
    let columns = vec![
        Column::required("line_id", ColumnType::Int64),
        Column::required("order_id", ColumnType::Int64),
        Column::required("product_id", ColumnType::Int64),
        Column::required("quantity", ColumnType::Int32),
        Column::required("amount_fen", ColumnType::Int64),
        Column::nullable("ratio", ColumnType::Float64),
        Column::nullable("gift", ColumnType::Boolean),
        Column::nullable("category", ColumnType::Utf8),
        Column::nullable("business_day", ColumnType::Date),
        Column::nullable("paid_at", ColumnType::TimestampMicros),
    ];
    Arc::new(TableSchema::new("mall.line".parse().unwrap(), columns, &["line_id"]).unwrap())
}

/// Rows with these keys; their other values follow from `version`.
fn rows(schema: &TableSchema, keys: &[i64], version: i64) -> RecordBatch {
    let of = |f: &dyn Fn(i64) -> i64| -> ArrayRef {
        Arc::new(
            keys.iter()
                .map(|k| f(k.wrapping_mul(31).wrapping_add(version)))
                .collect::<Int64Array>(),
        )
    };
    let small = |n: i64| i32::try_from(n.rem_euclid(1_000)).unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(keys.to_vec())),
        Arc::new(keys.iter().map(|k| k / 3).collect::<Int64Array>()),
        of(&|n| n.rem_euclid(5_000)),
        Arc::new(keys.iter().map(|k| small(k + version) % 9 + 1).collect::<Int32Array>()),
        of(&|n| n.rem_euclid(100_000)),
        Arc::new(keys.iter().map(|k| f64::from(small(*k)) / 7.0).collect::<Float64Array>()),
        Arc::new(keys.iter().map(|k| Some(k % 5 == 0)).collect::<BooleanArray>()),
        Arc::new(keys.iter().map(|k| Some(format!("类目 {}", k % 97))).collect::<StringArray>()),
        Arc::new(
            keys.iter().map(|k| Some(20_000 + small(k / 1_000) % 365)).collect::<Date32Array>(),
        ),
        Arc::new(
            keys.iter()
                .map(|k| Some(1_700_000_000_000_000 + k * 1_000))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
    ];
    RecordBatch::try_new(Arc::clone(schema.arrow_nullable()), columns).unwrap()
}

/// One transaction: inserts of the next keys and as many updates of random earlier ones.
fn changes(schema: &Arc<TableSchema>, rng: &mut StdRng, next: &mut i64, count: usize) -> ChangeSet {
    let half = count / 2;
    let (mut ops, mut keys) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..half {
        ops.push(Op::Insert);
        keys.push(*next);
        *next += 1;
    }
    for _ in half..count {
        ops.push(Op::Update);
        keys.push(rng.random_range(0..*next));
    }
    let after = rows(schema, &keys, *next);
    // A source's old image; an insert has none, and nobody looks at its columns.
    let mut before = after.columns().to_vec();
    for (column, at) in before.iter_mut().zip(0..) {
        if at > 0 {
            *column = new_null_array(column.data_type(), count);
        }
    }
    let before = RecordBatch::try_new(Arc::clone(schema.arrow_nullable()), before).unwrap();
    let batch = ChangeBatch::new(Arc::clone(schema), ops, before, after).unwrap();
    ChangeSet { batches: vec![batch], ..ChangeSet::default() }
}

pub(crate) fn throughput(count: Option<usize>) {
    let count = count.unwrap_or(CHANGES);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    let mut index = 0.0;
    for _ in 0..ROUNDS {
        let folder = tempfile::tempdir().unwrap();
        let (took, peer, bytes) = runtime.block_on(round(folder.path(), count));
        ours.push(took);
        plain.push(peer);
        index = bytes;
    }
    let (ours, plain) = (median(ours), median(plain));
    #[expect(clippy::cast_precision_loss, reason = "a figure to read")]
    let per_second = |took: Duration| count as f64 / took.as_secs_f64();
    println!(
        "changes: {count}, half updates, 10 columns, flushed every {FLUSH}, medians of {ROUNDS}"
    );
    println!("  staged, published, flushed, committed: {:>9.0} changes/s", per_second(ours));
    println!("  the same rows as plain Parquet:        {:>9.0} rows/s", per_second(plain));
    println!("  ratio {:.2}; index {index:.1} bytes a row", per_second(ours) / per_second(plain));
}

/// Both ways over the same rows, turn by turn, so that a busy machine slows both down.
async fn round(folder: &Path, count: usize) -> (Duration, Duration, f64) {
    let schema = lines();
    let lake = lake(folder).await;
    lake.create_tables(&[Arc::clone(&schema)]).await.unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    let (mut ours, mut plain) = (Duration::ZERO, Duration::ZERO);
    let (mut next, mut done) = (0, 0);
    while done < count {
        let sets: Vec<ChangeSet> =
            (0..FLUSH / SET).map(|_| changes(&schema, &mut rng, &mut next, SET)).collect();
        done += FLUSH;
        let started = Instant::now();
        for set in &sets {
            lake.stage(set).unwrap();
            lake.publish();
        }
        lake.flush().await.unwrap();
        ours += started.elapsed();
        let started = Instant::now();
        write_plain(&folder.join(format!("plain-{done}.parquet")), &sets);
        plain += started.elapsed();
    }
    let size = lake.index_sizes()[schema.name()];
    #[expect(clippy::cast_precision_loss, reason = "a figure to read")]
    let per_row = size.bytes as f64 / size.rows as f64;
    (ours, plain, per_row)
}

/// The rows after, as the lake compresses them.
fn write_plain(path: &Path, sets: &[ChangeSet]) {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let file = BufWriter::new(File::create_new(path).unwrap());
    let schema = sets[0].batches[0].after().schema();
    let mut writer = ArrowWriter::try_new(file, schema, Some(properties)).unwrap();
    for batch in sets.iter().flat_map(|set| &set.batches) {
        writer.write(batch.after()).unwrap();
    }
    writer.close().unwrap();
}

/// Transactions a second, and changes in each: 50,000 changes a second.
const TRANSACTIONS: u32 = 500;
const SMALL: usize = 100;
const SECONDS: u32 = 15;

pub(crate) fn latency(_: Option<usize>) {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut seen = runtime.block_on(stream(folder.path()));
    seen.sort();
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    println!(
        "latency: {TRANSACTIONS} transactions of {SMALL} changes a second, flushing all the time"
    );
    println!(
        "  staged until a reader's view has it: p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms",
        ms(percentile(&seen, 50)),
        ms(percentile(&seen, 99)),
        ms(*seen.last().unwrap()),
    );
}

async fn stream(folder: &Path) -> Vec<Duration> {
    let schema = lines();
    let lake = Arc::new(lake(folder).await);
    lake.create_tables(&[Arc::clone(&schema)]).await.unwrap();
    let mut rng = StdRng::seed_from_u64(2);
    let mut next = 0;
    // A table that is there already, in files.
    for _ in 0..50 {
        lake.stage(&changes(&schema, &mut rng, &mut next, SET)).unwrap();
    }
    lake.publish();
    lake.flush().await.unwrap();

    let mut views = lake.watch();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel::<(u64, Instant)>();
    let mut reader = JoinSet::new();
    reader.spawn(async move {
        let mut seen = Vec::new();
        while let Some((version, staged)) = heard.recv().await {
            views.wait_for(|view| view.version() >= version).await.unwrap();
            seen.push(staged.elapsed());
        }
        seen
    });
    let flushed = Arc::clone(&lake);
    // Ends with this function.
    let mut flusher = JoinSet::<()>::new();
    flusher.spawn(async move {
        loop {
            flushed.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let start = tokio::time::Instant::now();
    let mut version = lake.read_view().version();
    for turn in 0..TRANSACTIONS * SECONDS {
        let set = changes(&schema, &mut rng, &mut next, SMALL);
        tokio::time::sleep_until(start + Duration::from_secs(1) * turn / TRANSACTIONS).await;
        version += 1;
        told.send((version, Instant::now())).unwrap();
        lake.stage(&set).unwrap();
        assert_eq!(lake.publish().version(), version);
    }
    drop(told);
    reader.join_next().await.unwrap().unwrap()
}
