//! What changes cost. `changes`: staged, published, flushed and committed, half of them updates of
//! rows anywhere in the table; beside it the same rows written by Parquet's Arrow writer alone, and by
//! two of them at once. The lake uses both cores: one task stages, another flushes what was staged.
//! `latency`: from the call that stages a small transaction until a reader's new view has it, at
//! 50,000 changes a second with flushes going on.

use std::{
    io::BufWriter,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use medlake_contract::ChangeSet;
use medlake_lake::Lake;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use rand::{SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;

use crate::{
    lines::{changes, lines},
    stage::{self, lake, percentile},
};

const CHANGES: usize = 10_000_000;
/// Changes that are made, then written by each of the ways.
const BLOCK: usize = 5_000_000;
/// Changes in one source transaction of the throughput run.
const SET: usize = 10_000;
/// Changes from which on they are flushed; twice as many are never in memory.
const FLUSH: usize = 500_000;
/// Limits: changes a second, and how much of plain Parquet's rows a second that is.
const PER_SECOND: f64 = 400_000.0;
const RATIO: f64 = 0.5;

/// What writing some changes took.
#[derive(Default, Clone, Copy)]
struct Took {
    /// From the first call to the last answer.
    ours: Duration,
    /// Of that, in `stage` and `publish`.
    staging: Duration,
    /// Of that, in `flush`, most of it while others were staged.
    flushing: Duration,
    /// By one writer.
    plain: Duration,
    /// By two at once.
    plain_two: Duration,
    /// On a core, all threads together: ours, and the one writer.
    ours_on_core: Duration,
    plain_on_core: Duration,
}

pub(crate) fn throughput(count: Option<usize>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(blocks(count.unwrap_or(CHANGES)));
}

/// All ways over the same rows, turn by turn, so that a busy machine slows all down.
async fn blocks(count: usize) {
    println!(
        "changes: {count}, half updates, 10 columns, flushed every {FLUSH} while others are staged"
    );
    let folder = tempfile::tempdir().unwrap();
    let schema = lines("mall.line");
    let lake = Arc::new(lake(folder.path()).await);
    lake.create_tables(&[Arc::clone(&schema)]).await.unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    let (mut next, mut done) = (0, 0);
    let mut total = Took::default();
    let (mut hot, mut given) = (0, 0);
    while done < count {
        let block = BLOCK.min(count - done);
        let sets: Vec<ChangeSet> =
            (0..block / SET).map(|_| changes(&schema, &mut rng, &mut next, SET)).collect();
        given = given.max(bytes(&sets));
        let mut took = Took::default();
        let before = stage::on_core();
        hot = hot.max(write(&lake, &sets, &mut took).await);
        let between = stage::on_core();
        let started = Instant::now();
        write_plain(folder.path(), &sets);
        took.plain = started.elapsed();
        took.ours_on_core = between.saturating_sub(before);
        took.plain_on_core = stage::on_core().saturating_sub(between);
        let started = Instant::now();
        let (a, b) = sets.split_at(sets.len() / 2);
        std::thread::scope(|scope| {
            scope.spawn(|| write_plain(folder.path(), a));
            write_plain(folder.path(), b);
        });
        took.plain_two = started.elapsed();
        done += block;
        print!("  to {done:>9}: ");
        took.print(block);
        total.ours += took.ours;
        total.staging += took.staging;
        total.flushing += took.flushing;
        total.plain += took.plain;
        total.plain_two += took.plain_two;
        total.ours_on_core += took.ours_on_core;
        total.plain_on_core += took.plain_on_core;
    }
    print!("  all:          ");
    total.print(count);
    let (per_second, ratio) = (rate(count, total.ours), share(total.plain, total.ours));
    let verdict = if per_second >= PER_SECOND && ratio >= RATIO { "within" } else { "BELOW" };
    println!("  {verdict} the limits: {PER_SECOND:.0} changes/s and {RATIO} of one plain writer");
    let index = lake.index_sizes()[schema.name()];
    let mb = |bytes: usize| bytes >> 20;
    println!(
        "  memory: at most {} MB resident; the index {} MB ({} bytes a row), rows in no file {} MB \
         at most, the changes handed in {} MB",
        mb(stage::peak_resident()),
        mb(index.bytes),
        index.bytes / index.rows,
        mb(hot),
        mb(given)
    );
}

#[expect(clippy::cast_precision_loss, reason = "a figure to read")]
fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn share(of: Duration, by: Duration) -> f64 {
    of.as_secs_f64() / by.as_secs_f64()
}

impl Took {
    fn print(&self, count: usize) {
        println!(
            "{:>7.0} changes/s (staging alone {:>7.0}, flushing alone {:>7.0}); plain Parquet, one \
             writer {:>7.0} rows/s, ratio {:.2}, of time on a core {:.2}; two {:>7.0}, {:.2}",
            rate(count, self.ours),
            rate(count, self.staging),
            rate(count, self.flushing),
            rate(count, self.plain),
            share(self.plain, self.ours),
            share(self.plain_on_core, self.ours_on_core),
            rate(count, self.plain_two),
            share(self.plain_two, self.ours),
        );
    }
}

/// Writes changes as the pipeline does: one task stages and publishes, another flushes. Ends when all
/// of them are committed; gives the bytes of rows that were in no file, at most.
async fn write(lake: &Arc<Lake>, sets: &[ChangeSet], took: &mut Took) -> usize {
    let started = Instant::now();
    let mut flushes: JoinSet<Duration> = JoinSet::new();
    let (mut waiting, mut hot) = (0, 0);
    for set in sets {
        let staging = Instant::now();
        lake.stage(set).unwrap();
        lake.publish();
        took.staging += staging.elapsed();
        waiting += SET;
        while let Some(done) = flushes.try_join_next() {
            took.flushing += done.unwrap();
        }
        if waiting >= FLUSH {
            while let Some(done) = flushes.join_next().await {
                took.flushing += done.unwrap();
            }
            hot = hot.max(lake.hot_bytes());
            flushes.spawn(flush(Arc::clone(lake)));
            // It begins before more is staged.
            tokio::task::yield_now().await;
            waiting = 0;
        }
    }
    while let Some(done) = flushes.join_next().await {
        took.flushing += done.unwrap();
    }
    took.flushing += flush(Arc::clone(lake)).await;
    took.ours = started.elapsed();
    usize::try_from(hot).unwrap()
}

async fn flush(lake: Arc<Lake>) -> Duration {
    let started = Instant::now();
    lake.flush().await.unwrap();
    started.elapsed()
}

/// The rows after, as the lake compresses them, in files as large as a flush makes them.
fn write_plain(folder: &Path, sets: &[ChangeSet]) {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap()))
        .build();
    for sets in sets.chunks(FLUSH / SET) {
        let file = tempfile::tempfile_in(folder).unwrap();
        let schema = sets[0].batches[0].after().schema();
        let properties = Some(properties.clone());
        let mut writer = ArrowWriter::try_new(BufWriter::new(file), schema, properties).unwrap();
        for batch in sets.iter().flat_map(|set| &set.batches) {
            writer.write(batch.after()).unwrap();
        }
        writer.close().unwrap();
    }
}

fn bytes(sets: &[ChangeSet]) -> usize {
    let batches = sets.iter().flat_map(|set| &set.batches);
    batches.map(|b| b.before().get_array_memory_size() + b.after().get_array_memory_size()).sum()
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
    let schema = lines("mall.line");
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
