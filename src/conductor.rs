//! The pipeline: what the sources committed, staged in the lake, refreshed into the marts, then
//! published as one picture. Nobody sees a cut before the marts built from it are ready, so two
//! numbers on one screen cannot come from two moments.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use futures::future::{BoxFuture, FutureExt};
use medlake_contract::{ChangeSet, Kind, SchemaChange, TableName, with_causes};
use medlake_ingest::{Acknowledger, CutLimits, Ingest, IngestError};
use medlake_lake::{FlushReport, Lake, LakeError, ReadView};
use medlake_transforms::{Outcome, Status, TransformError, Transforms};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    control::Asked,
    pulse::Pulse,
    requests::{self, Comparison},
};

/// How long to wait when a commit that must come first is not possible yet.
const BEFORE_ANOTHER_TRY: Duration = Duration::from_secs(1);
/// How old the copies of the key indexes become. What was written since is read at the next start.
const INDEX_COPY_INTERVAL: Duration = Duration::from_mins(10);

/// When a cut is cut, and when what is in memory goes to files.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    pub(crate) limits: CutLimits,
    pub(crate) flush_interval: Duration,
    pub(crate) flush_rows: u64,
    pub(crate) flush_bytes: u64,
}

/// Owns the only writer of the lake. [`Conductor::run`] ends when it is cancelled, after a last
/// flush, or at the first error that cannot be waited out.
pub(crate) struct Conductor {
    ingest: Ingest,
    lake: Arc<Lake>,
    transforms: Transforms,
    pace: Pace,
    pulse: Arc<Pulse>,
    requests: mpsc::Receiver<Asked>,
    comparisons: Vec<Comparison>,
    /// Ends waiting.
    cancel: CancellationToken,
}

impl Conductor {
    pub(crate) fn new(
        ingest: Ingest,
        lake: Arc<Lake>,
        transforms: Transforms,
        pace: Pace,
        pulse: Arc<Pulse>,
        requests: mpsc::Receiver<Asked>,
    ) -> Self {
        Self {
            ingest,
            lake,
            transforms,
            pace,
            pulse,
            requests,
            comparisons: Vec::new(),
            cancel: CancellationToken::new(),
        }
    }

    /// How it is doing.
    pub(crate) fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// The views as they are published.
    pub(crate) fn views(&self) -> watch::Receiver<Arc<ReadView>> {
        self.lake.watch()
    }

    /// Creates the tables, brings the marts up to the data already there, and publishes the first
    /// picture. After this every query has an answer; the lake's key indexes may be there or not.
    pub(crate) async fn prepare(&mut self) -> anyhow::Result<()> {
        let tables = [self.ingest.tables(), self.transforms.mart_tables()].concat();
        patiently(&self.cancel, || self.lake.create_tables(&tables).boxed())
            .await
            .context("could not create the lake's tables")?;
        self.refresh_marts(&ChangeSet::default()).await?;
        self.lake.publish();
        // A process that follows the catalog must not find a new mart empty.
        let done = commit(Arc::clone(&self.lake), self.ingest.acknowledger()).await;
        self.committed(done).map(drop)
    }

    /// Runs until cancelled.
    pub(crate) async fn run(mut self, cancel: CancellationToken) -> anyhow::Result<()> {
        self.cancel = cancel.clone();
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            loaded = self.lake.load_indexes() => loaded.context("could not load the key indexes")?,
        }
        let mut flushes = JoinSet::new();
        let mut upkeep = JoinSet::new();
        let mut flush_at = Instant::now() + self.pace.flush_interval;
        let mut copy_at = Instant::now() + INDEX_COPY_INTERVAL;
        let mut failing = false;
        loop {
            // A flush that failed waits for its time, however much is in memory.
            if !failing && self.holds(1) {
                flush_at = Instant::now();
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                Some(done) = flushes.join_next() => {
                    failing = !self.committed(done.context("the flush task was stopped")?)?;
                    if upkeep.is_empty() {
                        let copy = Instant::now() >= copy_at;
                        if copy {
                            copy_at = Instant::now() + INDEX_COPY_INTERVAL;
                        }
                        upkeep.spawn(look_after(Arc::clone(&self.lake), copy));
                    }
                }
                Some(done) = upkeep.join_next() => done.context("the upkeep task was stopped")?,
                () = tokio::time::sleep_until(flush_at), if flushes.is_empty() => {
                    flushes.spawn(commit(Arc::clone(&self.lake), self.ingest.acknowledger()));
                    flush_at = Instant::now() + self.pace.flush_interval;
                }
                Some(asked) = self.requests.recv() => {
                    let Self { ingest, lake, comparisons, .. } = &mut self;
                    let more = requests::obey(asked, ingest, lake, comparisons).await;
                    comparisons.extend(more);
                }
                // Memory is bounded: while a flush runs or waits, at most as much again comes in.
                cut = self.ingest.next(self.pace.limits), if !self.holds(2) => {
                    let cut = cut.context("could not go on reading the sources")?;
                    match self.take(cut).await {
                        Ok(()) => {}
                        // Nobody has seen any of it, and the next start reads it again.
                        Err(error) if cancel.is_cancelled() && passes(&error) => {
                            warn!(error = format!("{error:#}"), "stopped in the middle of a cut");
                            break;
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        // What it has written and not committed, it removes.
        upkeep.shutdown().await;
        while let Some(done) = flushes.join_next().await {
            self.committed(done.context("the flush task was stopped")?)?;
        }
        let last = commit(Arc::clone(&self.lake), self.ingest.acknowledger()).await;
        self.committed(last)?;
        copy_indexes(&self.lake).await;
        Ok(())
    }

    /// Whether this many times what a flush is for is in memory.
    fn holds(&self, times: u64) -> bool {
        self.lake.hot_rows() >= self.pace.flush_rows.saturating_mul(times)
            || self.lake.hot_bytes() >= self.pace.flush_bytes.saturating_mul(times)
    }

    async fn take(&mut self, mut cut: ChangeSet) -> anyhow::Result<()> {
        let handed_out = Instant::now();
        self.evolve(&mut cut).await?;
        self.complete(&mut cut).await?;
        self.lake.stage(&cut).context("could not stage a cut")?;
        self.compare(&mut cut).await;
        self.copy(&mut cut).await?;
        self.refresh_marts(&cut).await?;
        // Nobody sees a transaction before its end, and it may be larger than memory.
        if !cut.open {
            self.lake.publish();
        } else if self.holds(1) {
            patiently(&self.cancel, || self.lake.spill().boxed())
                .await
                .context("could not write a large transaction")?;
        }
        self.pulse.published(cut.row_count(), cut.transaction_count, handed_out.elapsed());
        Ok(())
    }

    /// Says to those who asked what differs; what is to be repaired is a copy like others.
    async fn compare(&mut self, cut: &mut ChangeSet) {
        for copy in std::mem::take(&mut cut.compared) {
            let Some(comparison) = self.comparisons.iter_mut().find(|c| c.is_of(&copy)) else {
                continue;
            };
            if comparison.add(&copy) {
                continue;
            }
            match patiently(&self.cancel, || self.lake.differences(&copy).boxed()).await {
                Ok(found) => comparison.note(&copy, found.as_ref()),
                Err(error) => comparison.fail(&error),
            }
            if comparison.repair {
                cut.copies.push(copy);
            }
        }
        for mut comparison in std::mem::take(&mut self.comparisons) {
            if !comparison.is_over(&self.ingest) {
                self.comparisons.push(comparison);
                continue;
            }
            if let Some(tally) = comparison.tally() {
                match patiently(&self.cancel, || self.lake.against(&tally).boxed()).await {
                    Ok(left) => comparison.note_all(left),
                    Err(error) => comparison.fail(&error),
                }
            }
            comparison.end(&mut self.ingest);
        }
    }

    /// Puts in what sources did not send. A table that has a change of a row it lacks is stopped.
    async fn complete(&mut self, cut: &mut ChangeSet) -> anyhow::Result<()> {
        let (lake, cancel) = (Arc::clone(&self.lake), self.cancel.clone());
        loop {
            let mut passing = None;
            for (name, error) in lake.complete(cut).await {
                if error.kind().retryable() {
                    passing = Some(error);
                    continue;
                }
                self.stop(&name, &error);
            }
            let Some(error) = passing else { return Ok(()) };
            again(&cancel, error).await.context("could not complete a cut")?;
        }
    }

    /// Makes the rows that copies speak for what these have. From here on that is what changed, for the
    /// marts too. A table whose copies do not fit is stopped, and the others go on.
    async fn copy(&mut self, cut: &mut ChangeSet) -> anyhow::Result<()> {
        let (lake, cancel) = (Arc::clone(&self.lake), self.cancel.clone());
        for copy in std::mem::take(&mut cut.copies) {
            let name = copy.table.name();
            match patiently(&cancel, || lake.differences(&copy).boxed()).await {
                Ok(None) => {}
                Ok(Some(batch)) => {
                    let set = ChangeSet { batches: vec![batch], ..ChangeSet::default() };
                    self.lake.stage(&set).context("could not stage copied rows")?;
                    cut.batches.extend(set.batches);
                }
                Err(error) if error.kind().retryable() => {
                    return Err(error).context("could not compare copied rows");
                }
                Err(error) => self.stop(name, &error),
            }
        }
        Ok(())
    }

    /// Takes no changes of a table from now on that cannot be taken in as they are.
    fn stop(&mut self, table: &TableName, error: &LakeError) {
        let remedy = format!("see to it, then `medlake ingest resync {table}`");
        self.ingest.stop(table, with_causes(error), remedy);
    }

    /// Gives the lake's tables the columns they have from this cut on. What came before is committed
    /// first: whoever starts again finds each table as it was right before or right after.
    ///
    /// A table that cannot be changed like that is stopped, and the others go on.
    async fn evolve(&mut self, cut: &mut ChangeSet) -> anyhow::Result<()> {
        let changes = std::mem::take(&mut cut.schemas);
        if self.lake.is_evolved(&changes) {
            return Ok(());
        }
        loop {
            let done = commit(Arc::clone(&self.lake), self.ingest.acknowledger()).await;
            if self.committed(done)? {
                break;
            }
            if !another_try(&self.cancel).await {
                return Err(Stopped.into());
            }
        }
        let (lake, cancel) = (Arc::clone(&self.lake), self.cancel.clone());
        let evolve = async |changes: &[SchemaChange]| {
            patiently(&cancel, || lake.evolve(changes).boxed()).await?;
            // Columns that went may have been what told rows apart.
            patiently(&cancel, || lake.load_indexes().boxed()).await
        };
        // All at once; when that cannot be, each by itself, to know which.
        let mut ended = vec![(&changes[..], evolve(&changes).await)];
        if matches!(&ended[0].1, Err(error) if !error.kind().retryable()) && changes.len() > 1 {
            ended.clear();
            for change in changes.chunks(1) {
                ended.push((change, evolve(change).await));
            }
        }
        for (changes, ended) in ended {
            let names = changes.iter().map(|change| change.table.name());
            match ended {
                Ok(()) => {
                    for table in names {
                        info!(%table, "has the columns it has in its source");
                    }
                }
                Err(error) if error.kind().retryable() => {
                    return Err(error).context("could not change a table's columns");
                }
                Err(error) => {
                    let reason = with_causes(&error);
                    for name in names {
                        error!(table = %name, reason, "is stopped");
                        cut.batches.retain(|b| b.table().name() != name);
                        cut.copies.retain(|c| c.table.name() != name);
                        let remedy = format!(
                            "undo the change in the source, or drop the table from the lake, then \
                             `medlake ingest resync {name}`"
                        );
                        self.ingest.stop(name, reason.clone(), remedy);
                    }
                }
            }
        }
        Ok(())
    }

    async fn refresh_marts(&mut self, cut: &ChangeSet) -> anyhow::Result<()> {
        let view = self.lake.staged_view();
        let refresh = loop {
            match self.transforms.refresh(&view, &cut.batches).await {
                // Nothing was done: it has not even read what it had done before.
                Err(error) if error.kind().retryable() => {
                    again(&self.cancel, error).await.context("could not refresh the marts")?;
                }
                done => break done.context("could not refresh the marts")?,
            }
        };
        for outcome in &refresh.outcomes {
            self.note(outcome);
        }
        if !refresh.batches.is_empty() {
            patiently(&self.cancel, || self.lake.load_indexes().boxed())
                .await
                .context("could not load the key indexes")?;
        }
        let marts = ChangeSet { batches: refresh.batches, ..ChangeSet::default() };
        self.lake.stage(&marts).context("could not stage the marts")
    }

    /// Says so once when a mart stops or starts being up to date, not with every cut.
    fn note(&self, outcome: &Outcome) {
        let mart = &outcome.mart;
        match outcome.status {
            Status::Built => {
                if self.pulse.mart(mart, None) {
                    info!(%mart, "is up to date again");
                }
            }
            // Nothing is wrong with a service that is not taken in, or was not heard of yet.
            Status::Waiting => debug!(%mart, reason = outcome.reason, "is not built yet"),
            Status::Failed => {
                let reason = outcome.reason.as_deref().unwrap_or("no reason given");
                if self.pulse.mart(mart, Some(reason)) {
                    error!(%mart, reason, "kept the old mart");
                }
            }
        }
    }

    /// After a commit. One that failed for a passing reason (a full disk, a busy catalog) is tried
    /// again at its next time: until then the rows stay in memory and the sources forget nothing.
    /// Answers whether they are in files.
    fn committed(&self, done: Result<FlushReport, CommitError>) -> anyhow::Result<bool> {
        let report = match done {
            Ok(report) => report,
            Err(error) if error.kind().retryable() => {
                let reason = with_causes(&error);
                warn!(error = reason, "could not commit; trying again");
                let in_files = matches!(error, CommitError::Source(_));
                self.pulse.uncommitted((!in_files).then_some(reason));
                return Ok(in_files);
            }
            Err(error) => return Err(error.into()),
        };
        self.pulse.uncommitted(None);
        if report.tables > 0 {
            self.pulse.committed();
            debug!(
                version = report.version,
                tables = report.tables,
                rows = report.rows,
                deletes = report.deletes,
                "committed"
            );
        }
        Ok(true)
    }
}

/// Why a commit was not made, or not told to the sources.
#[derive(Debug, thiserror::Error)]
enum CommitError {
    #[error("could not commit to the lake")]
    Lake(#[source] LakeError),
    #[error("could not trim the sources' change tables")]
    Source(#[source] IngestError),
}

impl CommitError {
    fn kind(&self) -> Kind {
        match self {
            Self::Lake(error) => error.kind(),
            // Trimming again is always right, and the next commit does.
            Self::Source(_) => Kind::Unavailable,
        }
    }
}

/// A stop while a commit that must come first was not possible.
#[derive(Debug, thiserror::Error)]
#[error("stopped while waiting for a commit")]
struct Stopped;

/// Whether this is for a reason that passes, so that a stop need not be a failure because of it.
fn passes(error: &anyhow::Error) -> bool {
    error.is::<Stopped>()
        || error.downcast_ref::<LakeError>().is_some_and(|error| error.kind().retryable())
        || error.downcast_ref::<TransformError>().is_some_and(|error| error.kind().retryable())
}

/// Puts what was published into files. Only then may the sources forget: what they forget is in
/// committed files.
async fn commit(lake: Arc<Lake>, sources: Acknowledger) -> Result<FlushReport, CommitError> {
    let report = lake.flush().await.map_err(CommitError::Lake)?;
    sources.acknowledge(&report.positions).await.map_err(CommitError::Source)?;
    Ok(report)
}

/// Waits for a reason that passes to pass: a disk that was full, a catalog that was away. Meanwhile
/// nothing is taken in, and nothing is lost. Ends with the error when there is to be no other try.
async fn again<E>(cancel: &CancellationToken, error: E) -> Result<(), E>
where
    E: std::error::Error + 'static,
{
    warn!(error = with_causes(&error), "the lake cannot be read or written; trying again");
    if another_try(cancel).await { Ok(()) } else { Err(error) }
}

/// Waits until it is time for one; answers whether there is to be one.
async fn another_try(cancel: &CancellationToken) -> bool {
    cancel.run_until_cancelled(tokio::time::sleep(BEFORE_ANOTHER_TRY)).await.is_some()
}

/// What `attempt` answers once no reason that passes is in its way.
async fn patiently<'a, T>(
    cancel: &CancellationToken,
    attempt: impl Fn() -> BoxFuture<'a, Result<T, LakeError>>,
) -> Result<T, LakeError> {
    loop {
        match attempt().await {
            Err(error) if error.kind().retryable() => again(cancel, error).await?,
            done => return done,
        }
    }
}

async fn look_after(lake: Arc<Lake>, copy: bool) {
    maintain(&lake).await;
    if copy {
        copy_indexes(&lake).await;
    }
}

/// For the next start to be quick, also after a crash: what is older than the copy need not be read.
async fn copy_indexes(lake: &Lake) {
    if let Err(error) = lake.save_indexes().await {
        warn!(error = with_causes(&error), "the next start reads the key columns instead");
    }
}

/// Keeps the lake's files few, until nothing is due. Should it fail, nothing is lost but the attempt;
/// a reason that lasts stops the next commit.
async fn maintain(lake: &Lake) {
    loop {
        match lake.maintain().await {
            Ok(report) if report.is_idle() => return,
            Ok(report) => {
                if let Some(table) = &report.compacted {
                    let done = report.compaction;
                    debug!(%table, from = done.merged_files, to = done.written_files, "merged files");
                }
            }
            Err(error) => {
                warn!(error = with_causes(&error), "could not maintain the lake; trying again");
                return;
            }
        }
    }
}
