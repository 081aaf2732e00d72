use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::{FutureExt, select_all};
use medlake_contract::{
    ChangeBatch, ChangeSet, ContractError, Position, Positions, SourceId, TableName, TableSchema,
    with_causes,
};
use tokio::time::Instant;

use crate::{
    IngestError,
    monitor::Monitor,
    source::{Acknowledge, Gauges, Page, QuarantinedRow, Resume, Source},
    system,
};

/// How long a source that failed is left alone: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Where a cut ends.
///
/// Both are reached before they are looked at: a transaction is never cut, so a cut may be larger
/// by its last transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutLimits {
    /// Row changes.
    pub max_rows: usize,
    /// Bytes of row images as the source stores them; columns in memory take about as much.
    pub max_bytes: usize,
}

impl Default for CutLimits {
    fn default() -> Self {
        Self { max_rows: 50_000, max_bytes: 32 << 20 }
    }
}

/// A source of any kind.
#[derive(Debug)]
pub struct AnySource(pub(crate) Box<dyn Source>);

/// Reads several sources, each from its position on, into one sequence of cuts.
///
/// Per source, transactions come whole and in commit order, across its tables. Between sources
/// there is no order. Every source that moved has a share of each cut, so a source that is far
/// behind does not hold up the others; one that cannot be read is tried again by itself, while the
/// others go on.
#[derive(Debug)]
pub struct Ingest {
    sources: Vec<Reading>,
    /// Pages that are read and not handed out yet: what a cancelled call leaves to the next one.
    pages: Vec<(usize, Page)>,
    acknowledger: Acknowledger,
    monitor: Monitor,
    /// Which source is asked first, so that a tight limit is not always the same one's.
    first: usize,
    /// The source whose transaction goes on: nobody else is asked until it ends.
    open: Option<usize>,
}

#[derive(Debug)]
struct Reading {
    source: Box<dyn Source>,
    gauges: Arc<Gauges>,
    delivered: Arc<Mutex<Option<Position>>>,
    pause: Option<Pause>,
}

/// What follows a failure.
#[derive(Debug, Clone, Copy)]
struct Pause {
    until: Instant,
    length: Duration,
}

impl Reading {
    fn is_paused(&self, now: Instant) -> bool {
        self.pause.is_some_and(|pause| pause.until > now)
    }

    fn failed(&mut self, error: &IngestError) {
        let length = self.pause.map_or(FIRST_PAUSE, |p| (2 * p.length).min(LONGEST_PAUSE));
        self.pause = Some(Pause { until: Instant::now() + length, length });
        let reason = with_causes(error);
        let mut news = false;
        self.gauges.update(|health| {
            news = health.failing.as_ref() != Some(&reason);
            health.failing = Some(reason.clone());
        });
        if news {
            tracing::error!(source = %self.source.id(), error = reason, "cannot be read");
        }
    }

    fn succeeded(&mut self) {
        if self.pause.take().is_some() {
            self.gauges.update(|health| health.failing = None);
            tracing::info!(source = %self.source.id(), "can be read again");
        }
    }

    /// Waits until it is worth asking.
    async fn wait(&mut self) {
        match self.pause {
            Some(pause) => tokio::time::sleep_until(pause.until).await,
            None => self.source.wait().await,
        }
    }
}

impl Ingest {
    /// Reads `sources` on from `resume`. A source that has no position in it is met for the first
    /// time: its existing rows are copied.
    ///
    /// # Errors
    /// When two sources have one name; when a position is older than what a source still has, or
    /// newer than what it ever had; when `resume` names a source that is not there.
    pub async fn open(sources: Vec<AnySource>, resume: &Resume) -> Result<Self, IngestError> {
        let wrong = |at: &SourceId, problem| IngestError::Source { at: at.clone(), problem };
        let known = |id: &SourceId| sources.iter().any(|s| s.0.id() == id);
        if let Some(missing) = resume.positions.keys().find(|id| !known(id)) {
            let problem = "is in the lake and not in the settings: name it there again, as it was; what \
                           is not to be taken in of it, its setting `tables` leaves out";
            return Err(wrong(missing, problem));
        }
        let mut targets = BTreeMap::new();
        let mut readings = Vec::with_capacity(sources.len());
        for AnySource(mut source) in sources {
            if source.id().as_str() == system::NAMESPACE {
                return Err(wrong(source.id(), "has a name that is kept for ingest's own tables"));
            }
            source.resume(resume).await?;
            let delivered = Arc::new(Mutex::new(resume.positions.get(source.id()).cloned()));
            let target = Target { at: source.acknowledge(), delivered: Arc::clone(&delivered) };
            if targets.insert(source.id().clone(), target).is_some() {
                return Err(wrong(source.id(), "is opened twice"));
            }
            let gauges = source.gauges();
            readings.push(Reading { source, gauges, delivered, pause: None });
        }
        let gauges = readings.iter().map(|r| (r.source.id().clone(), Arc::clone(&r.gauges)));
        Ok(Self {
            monitor: Monitor::new(gauges.collect(), &resume.states),
            sources: readings,
            pages: Vec::new(),
            acknowledger: Acknowledger { targets: Arc::new(targets) },
            first: 0,
            open: None,
        })
    }

    /// The tables of all sources, named `source.table`, and ingest's own.
    #[must_use]
    pub fn tables(&self) -> Vec<Arc<TableSchema>> {
        let own = [system::states_table(), system::quarantine_table()];
        self.sources.iter().flat_map(|s| s.source.tables()).chain(own).collect()
    }

    /// How sources and tables are doing, to be looked at from anywhere.
    #[must_use]
    pub fn monitor(&self) -> Monitor {
        self.monitor.clone()
    }

    /// The next cut; waits until there is one.
    ///
    /// Cancel-safe: what a cancelled call has read, the next one hands out.
    ///
    /// # Errors
    /// Only for defects of ours. A source that cannot be read is tried again, and
    /// [`Self::monitor`] has the reason.
    pub async fn next(&mut self, limits: CutLimits) -> Result<ChangeSet, IngestError> {
        loop {
            if let Some(cut) = self.try_next(limits).await? {
                return Ok(cut);
            }
            match self.open {
                Some(index) => self.sources[index].wait().await,
                None if self.sources.is_empty() => std::future::pending().await,
                None => {
                    select_all(self.sources.iter_mut().map(|s| s.wait().boxed())).await;
                }
            }
        }
    }

    /// The next cut if there is one already.
    ///
    /// # Errors
    /// As [`Ingest::next`].
    pub async fn try_next(&mut self, limits: CutLimits) -> Result<Option<ChangeSet>, IngestError> {
        if self.pages.is_empty() {
            self.read(limits).await;
        }
        if self.pages.is_empty() { Ok(None) } else { self.deliver().map(Some) }
    }

    /// Asks all sources that are not left alone, and those that had something again, until they
    /// have nothing more or a limit is reached.
    async fn read(&mut self, limits: CutLimits) {
        let count = self.sources.len();
        let mut asked: Vec<usize> = match self.open {
            Some(index) => vec![index],
            None => (0..count).map(|i| (self.first + i) % count).collect(),
        };
        self.first = (self.first + 1) % count.max(1);
        let now = Instant::now();
        asked.retain(|&index| !self.sources[index].is_paused(now));
        let CutLimits { max_rows: mut rows, max_bytes: mut bytes } = limits;
        while !asked.is_empty() {
            let mut answered = Vec::new();
            for (place, &index) in asked.iter().enumerate() {
                if rows == 0 || bytes == 0 {
                    return;
                }
                // What earlier sources left is shared by those that are still to be asked.
                let share = asked.len() - place;
                let limits =
                    CutLimits { max_rows: rows.div_ceil(share), max_bytes: bytes.div_ceil(share) };
                let reading = &mut self.sources[index];
                match reading.source.read(limits).await {
                    Ok(page) => {
                        reading.succeeded();
                        let Some(page) = page else { continue };
                        rows = rows.saturating_sub(page.row_count);
                        bytes = bytes.saturating_sub(page.byte_count);
                        // Copies are of the place where their page ends: nothing of that source may
                        // follow in the same cut.
                        if page.copies.is_empty() && page.compared.is_empty() {
                            answered.push(index);
                        }
                        let open = page.open;
                        // From here to the next await the page is ours: a call that is cancelled
                        // leaves it to the next one.
                        self.pages.push((index, page));
                        if open {
                            return;
                        }
                    }
                    Err(error) => reading.failed(&error),
                }
            }
            asked = answered;
        }
    }

    /// Takes no changes of a table from now on, as what they go to cannot take them. The next cut
    /// that has anything of its source says so.
    pub fn stop(&mut self, table: &TableName, reason: String, remedy: String) {
        if let Some(reading) = self.of_mut(table) {
            reading.source.stop(table, reason, remedy);
        }
    }

    /// Copies the rows of a table again, beside its changes.
    ///
    /// # Errors
    /// When there is no such table, or its source has no rows to ask for.
    pub fn resync(&mut self, table: &TableName) -> Result<(), IngestError> {
        self.must_have(table)?.source.resync(table)
    }

    /// Copies the rows of all tables again, of all sources that have rows to ask for; answers which
    /// those are. This is also what goes on with a source whose log was cut off.
    pub fn resync_all(&mut self) -> Vec<SourceId> {
        let again = |r: &mut Reading| {
            r.pause = None;
            r.source.resync_all().is_ok().then(|| r.source.id().clone())
        };
        self.sources.iter_mut().filter_map(again).collect()
    }

    /// Reads the rows of a table to be compared with what is there: the next cuts have them in
    /// [`ChangeSet::compared`], until [`Self::is_comparing`] is over.
    ///
    /// # Errors
    /// When there is no such table, or its source has no rows to ask for.
    pub fn compare(&mut self, table: &TableName) -> Result<(), IngestError> {
        self.must_have(table)?.source.compare(table)
    }

    /// Whether there is more to come of rows to be compared.
    ///
    /// # Errors
    /// With the reason when not all of them could be read.
    pub fn is_comparing(&self, table: &TableName) -> Result<bool, String> {
        if self.pages.iter().any(|(_, p)| p.compared.iter().any(|c| c.table.name() == table)) {
            return Ok(true);
        }
        let of = |r: &&Reading| r.source.id().as_str() == table.namespace();
        self.sources.iter().find(of).map_or(Ok(false), |r| r.source.is_comparing(table))
    }

    /// Reads changes again that are in quarantine; the next cuts release those that are good now.
    /// Answers of how many that can be tried.
    ///
    /// # Errors
    /// When there is no such table, or its source has no way to read them again.
    pub fn retry(
        &mut self,
        table: &TableName,
        changes: &[QuarantinedRow],
    ) -> Result<usize, IngestError> {
        self.must_have(table)?.source.retry(table, changes)
    }

    fn must_have(&mut self, table: &TableName) -> Result<&mut Reading, IngestError> {
        let at = SourceId::new(table.namespace());
        let problem = "is not one that is read";
        self.of_mut(table).ok_or(IngestError::Source { at, problem })
    }

    /// As [`Acknowledger::acknowledge`].
    ///
    /// # Errors
    /// As [`Acknowledger::acknowledge`].
    pub async fn acknowledge(&self, positions: &Positions) -> Result<u64, IngestError> {
        self.acknowledger.acknowledge(positions).await
    }

    /// A handle to acknowledge with while another task waits for the next cut.
    #[must_use]
    pub fn acknowledger(&self) -> Acknowledger {
        self.acknowledger.clone()
    }

    fn of_mut(&mut self, table: &TableName) -> Option<&mut Reading> {
        self.sources.iter_mut().find(|r| r.source.id().as_str() == table.namespace())
    }

    fn deliver(&mut self) -> Result<ChangeSet, IngestError> {
        let mut cut = ChangeSet::default();
        let end = end_of_cut(&self.pages, self.open.is_some());
        if let (0, Some((index, _))) = (end, self.pages.first()) {
            // Nothing is committed of the transaction so far: whoever starts again has all of it.
            let (at, problem) =
                (self.sources[*index].source.id(), "tells of columns inside a transaction");
            return Err(IngestError::Source { at: at.clone(), problem });
        }
        self.open = None;
        for (index, mut page) in self.pages.drain(..end) {
            let reading = &mut self.sources[index];
            reading.gauges.count(&page);
            let at = reading.source.id();
            if let Some(position) = page.position.take() {
                *reading.delivered.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(position.clone());
                cut.positions.insert(at.clone(), position);
            }
            if page.open {
                self.open = Some(index);
            }
            let own = own_batches(&page)
                .map_err(|source| IngestError::Batch { at: at.clone(), source })?;
            self.monitor.note(&page.states);
            cut.schemas.append(&mut page.schemas);
            cut.batches.append(&mut page.batches);
            cut.batches.extend(own);
            cut.copies.append(&mut page.copies);
            cut.compared.append(&mut page.compared);
            cut.committed_at_micros = cut.committed_at_micros.max(page.committed_at_micros);
            cut.transaction_count += page.transaction_count;
            cut.open |= page.open;
        }
        Ok(cut)
    }
}

/// How many of the pages make a cut; `goes_on` when it goes on with a transaction. None when they do so
/// wrongly.
///
/// Schemas apply before everything in a cut, and all that came before it is committed by then: as many
/// as can go into one, but none of a table that the cut has something of already, nor behind a
/// transaction that began before it, which cannot be committed in part.
fn end_of_cut(pages: &[(usize, Page)], goes_on: bool) -> usize {
    let begins = |at: &usize| {
        let (before, page) = (&pages[..*at], &pages[*at].1);
        page.schemas.iter().any(|change| {
            goes_on || before.iter().any(|(_, page)| page.speaks_of(change.table.name()))
        })
    };
    (usize::from(!goes_on)..pages.len()).find(begins).unwrap_or(pages.len())
}

/// What a page has to say about itself, as rows of ingest's own tables.
fn own_batches(page: &Page) -> Result<Vec<ChangeBatch>, ContractError> {
    let mut batches = Vec::new();
    if !page.states.is_empty() {
        batches.push(system::states_batch(&page.states)?);
    }
    if !page.quarantined.is_empty() {
        batches.push(system::quarantine_batch(&page.quarantined)?);
    }
    if !page.released.is_empty() {
        batches.push(system::released_batch(&page.released)?);
    }
    Ok(batches)
}

/// Tells sources what they may forget. Clones are the same handle.
#[derive(Debug, Clone)]
pub struct Acknowledger {
    targets: Arc<BTreeMap<SourceId, Target>>,
}

#[derive(Debug)]
struct Target {
    at: Arc<dyn Acknowledge>,
    delivered: Arc<Mutex<Option<Position>>>,
}

impl Acknowledger {
    /// Lets the sources forget what is at or before `positions`, which must be durable at the
    /// reader's, and answers how many changes they forgot. Stopping in between is fine.
    ///
    /// # Errors
    /// When a position was never handed out (nothing is forgotten then), or a source cannot be
    /// told. Doing it again is always right.
    pub async fn acknowledge(&self, positions: &Positions) -> Result<u64, IngestError> {
        let mut accepted = Vec::with_capacity(positions.len());
        for (at, position) in positions {
            let target = self.targets.get(at).ok_or_else(|| IngestError::Source {
                at: at.clone(),
                problem: "is acknowledged but is not opened",
            })?;
            let delivered = target.delivered.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if delivered.as_ref().is_none_or(|delivered| {
                mem::discriminant(position) != mem::discriminant(delivered) || position > delivered
            }) {
                return Err(IngestError::NotDelivered {
                    at: at.clone(),
                    position: position.clone(),
                    delivered,
                });
            }
            accepted.push((target, position));
        }
        let mut forgotten = 0;
        for (target, position) in accepted {
            forgotten += target.at.acknowledge(position).await?;
        }
        Ok(forgotten)
    }
}

#[cfg(test)]
mod tests {
    use medlake_contract::{Column, ColumnType, SchemaChange};

    use super::*;

    fn page(schemas: &[&str], rows: &[&str]) -> (usize, Page) {
        let table = |name: &&str| {
            let columns = vec![Column::required("id", ColumnType::Int64)];
            Arc::new(TableSchema::new(name.parse().unwrap(), columns, &["id"]).unwrap())
        };
        let batch = |name: &&str| {
            let table = table(name);
            let none =
                arrow::record_batch::RecordBatch::new_empty(Arc::clone(table.arrow_nullable()));
            ChangeBatch::new(table, vec![], none.clone(), none).unwrap()
        };
        let change = |name: &&str| SchemaChange { table: table(name), renamed: vec![] };
        let page = Page {
            schemas: schemas.iter().map(change).collect(),
            batches: rows.iter().map(batch).collect(),
            ..Page::default()
        };
        (0, page)
    }

    #[test]
    fn a_cut_begins_with_all_that_its_tables_are_from_there_on() {
        let (a, b) = (page(&["s.a"], &["s.a"]), page(&["s.b"], &["s.a", "s.b"]));
        let (c, again) = (page(&[], &["s.c"]), page(&["s.c", "s.a"], &[]));
        for (pages, goes_on, end) in [
            (vec![a, b, c, again], false, 3),
            // What came before is not whole: it cannot be committed.
            (vec![page(&[], &[]), page(&["s.a"], &["s.a"])], true, 1),
            (vec![page(&[], &[]), page(&["s.a"], &["s.a"])], false, 2),
            (vec![page(&[], &[]), page(&[], &["s.a"])], true, 2),
            (vec![page(&["s.a"], &[])], true, 0),
            (vec![page(&["s.a"], &[])], false, 1),
        ] {
            assert_eq!(end_of_cut(&pages, goes_on), end);
        }
    }
}
