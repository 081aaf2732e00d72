//! A database as a source: its log is streamed, and existing rows are copied beside it in key-ordered
//! chunks, without a lock and without a pause of the stream.
//!
//! A chunk is read while the log goes on. It is handed out when the log has come to where the chunk
//! was read, without the rows whose keys changes touched meanwhile: those are newer. Everything that is
//! known of the rows at a place is then in one page: what the changes up to it made of some of them,
//! and the copies of the others. How far a table is copied is part of the same page, so a restart goes
//! on with the next chunk. Why it is done like this: `docs/decisions/0019`.

mod copying;
mod jobs;
pub(crate) mod keys;
mod pages;
mod spool;
mod unseen;
mod whole;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use arrow::compute::concat_batches;
use futures::future::{BoxFuture, FutureExt};
use medlake_contract::{Identity, Kind, Position, SchemaChange, SourceId, TableName, TableSchema};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Budget, CutLimits, IngestError, Phase, Resume, TableState,
    log::{Log, Rows},
    quarantine::Quarantine,
    source::{Acknowledge, Gauges, Page, QuarantinedRow, Source},
};
use copying::{Copying, End, Goal, Purpose, Range, Touched};
use jobs::{Contact, Job};
use keys::Keys;
use unseen::Unseen;
use whole::Whole;

/// The time now, in microseconds since 1970 (UTC).
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// How a database is read.
#[derive(Clone)]
pub struct DatabaseSettings {
    /// Shared with all that read ahead.
    pub budget: Budget,
    /// A chunk of existing rows has no more than this.
    pub chunk_rows: usize,
    /// About what a chunk should take in memory.
    pub chunk_bytes: usize,
    /// About what it should take the database to answer it.
    pub chunk_time: Duration,
    /// How long a table is left alone at first whose rows could not be read.
    pub first_pause: Duration,
    /// Whether all tables are copied again, without a person saying so, when the log no longer goes
    /// back to where reading ended.
    pub copy_after_gap: bool,
    /// A table is stopped that has more changes in quarantine than this.
    pub quarantine_limit: u64,
    /// The rows of a large table without a key are here until all of them are read.
    pub folder: PathBuf,
    /// The clock.
    pub clock: Clock,
}

impl DatabaseSettings {
    /// Chunks of at most 100,000 rows, 16 MiB or a second; nothing is copied again by itself.
    pub fn new(budget: Budget, folder: impl Into<PathBuf>, clock: Clock) -> Self {
        Self {
            budget,
            chunk_rows: 100_000,
            chunk_bytes: 16 << 20,
            chunk_time: Duration::from_secs(1),
            first_pause: Duration::from_millis(200),
            copy_after_gap: false,
            quarantine_limit: 1_000,
            folder: folder.into(),
            clock,
        }
    }
}

impl fmt::Debug for DatabaseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseSettings").field("budget", &self.budget).finish_non_exhaustive()
    }
}

/// A log of changes and connections to ask for rows, as one source.
pub(crate) struct Database<L: Log, R: Rows<Place = L::Place>> {
    id: SourceId,
    settings: DatabaseSettings,
    acknowledge: Arc<dyn Acknowledge>,
    gauges: Arc<Gauges>,
    /// Away while it is being started.
    log: Option<L>,
    /// Whether the log is at the cursor.
    running: bool,
    /// Connections nobody uses now.
    rows: Vec<R>,
    /// Those that still have rows for a range, and are for nothing else.
    sweeps: HashMap<u64, R>,
    /// All there are.
    connections: usize,
    jobs: JoinSet<Job<L, R>>,
    finished: Vec<Job<L, R>>,
    /// What is to be said at the next call.
    failed: Option<IngestError>,
    tables: BTreeMap<TableName, Table<L::Place>>,
    /// Tables that could not be taken in at all.
    refused: BTreeMap<TableName, TableState>,
    /// Where reading ended; none before first contact.
    position: Option<Position>,
    step: u64,
    /// How many pages were read: what happened before what.
    pages: u64,
    /// Whether the last page ended inside a transaction.
    open: bool,
    quarantine: Quarantine,
    schemas_due: Vec<SchemaChange>,
    /// Tables that came while the log is read.
    unseen: Option<Unseen<L::Place>>,
    states_due: BTreeSet<TableName>,
    /// A table without a key that is being copied.
    whole: Option<Whole<L::Place>>,
    /// Whether the database says where its rows were read, as far as that is known.
    exact: Option<bool>,
    /// Where the log ended before what is asked for next, for a database that does not say.
    low: Option<L::Place>,
    /// How often it was asked where the log ends.
    looks: u64,
    /// Whether that is under way, and then whether it is for what is asked for next.
    looking: Option<bool>,
    /// When it was last looked at whether rows can be asked for.
    looked_at: Instant,
    /// A person allows what `copy_after_gap` would, once.
    recopy: bool,
    next_id: u64,
}

/// One table of the source.
#[derive(Debug)]
struct Table<P> {
    schema: Arc<TableSchema>,
    /// With which page it got these columns.
    moved_at: u64,
    /// None for a table without a key.
    keys: Option<Keys>,
    state: TableState,
    /// Whether its state is stored, or on its way.
    is_known: bool,
    copies: Vec<Copying<P>>,
    /// Why rows that were to be compared are not.
    uncompared: Option<String>,
    touched: Touched,
}

impl<P> Table<P> {
    fn new(schema: Arc<TableSchema>, state: TableState, is_known: bool) -> Self {
        Self {
            keys: key_reader(&schema),
            schema,
            moved_at: 0,
            state,
            is_known,
            copies: Vec::new(),
            uncompared: None,
            touched: Touched::default(),
        }
    }

    /// The copying that makes the table what it is in the source.
    fn storing(&self) -> Option<&Copying<P>> {
        self.copies.iter().find(|c| matches!(c.purpose, Purpose::First | Purpose::Again))
    }

    fn compares(&self) -> bool {
        self.copies.iter().any(|c| c.purpose == Purpose::Compare)
    }

    /// Whether rows are being read, or wait to be handed out.
    fn is_reading(&self) -> bool {
        let mut ranges = self.copies.iter().flat_map(|c| &c.ranges);
        ranges.any(|r| r.busy.is_some() || r.sweep.is_some() || !r.waiting.is_empty())
    }

    /// Whether rows are in memory, or may come.
    fn holds_rows(&self) -> bool {
        let mut ranges = self.copies.iter().flat_map(|c| &c.ranges);
        ranges.any(|r| r.busy.is_some() || !r.waiting.is_empty())
    }

    /// Forgets rows that are not handed out: they are of another time, or have other columns.
    fn restart(&mut self, next_id: &mut u64) {
        for copying in &mut self.copies {
            copying.restart(next_id);
        }
        self.touched.clear();
    }
}

fn key_reader(schema: &TableSchema) -> Option<Keys> {
    // Key columns are single values, of which all can be compared.
    (schema.identity() == Identity::Key).then(|| Keys::of(schema).ok()).flatten()
}

impl<L: Log, R: Rows<Place = L::Place>> Database<L, R> {
    /// `rows` are connections, at least one; so many selects run at a time. Tables the log knows
    /// already are there from the beginning.
    pub(crate) fn new(log: L, rows: Vec<R>, settings: DatabaseSettings) -> Self {
        let tables = log.tables().into_iter().map(|schema| {
            let name = schema.name().clone();
            let state = TableState::new(name.clone(), Phase::Streaming, (settings.clock)());
            (name, Table::new(schema, state, false))
        });
        Self {
            id: log.id().clone(),
            acknowledge: log.acknowledge(),
            gauges: log.gauges(),
            tables: tables.collect(),
            refused: BTreeMap::new(),
            log: Some(log),
            running: false,
            connections: rows.len(),
            sweeps: HashMap::new(),
            rows,
            jobs: JoinSet::new(),
            finished: Vec::new(),
            failed: None,
            position: None,
            step: 0,
            pages: 0,
            open: false,
            quarantine: Quarantine::new(settings.quarantine_limit),
            schemas_due: Vec::new(),
            unseen: None,
            states_due: BTreeSet::new(),
            whole: None,
            exact: None,
            low: None,
            looks: 0,
            looking: None,
            looked_at: Instant::now(),
            recopy: false,
            next_id: 0,
            settings,
        }
    }

    fn goal(&self) -> Goal {
        Goal {
            rows: self.settings.chunk_rows,
            bytes: self.settings.chunk_bytes,
            time: self.settings.chunk_time,
        }
    }

    fn now(&self) -> i64 {
        (self.settings.clock)()
    }

    fn must_have(&mut self, name: &TableName) -> Result<&mut Table<L::Place>, IngestError> {
        let (at, table) = (self.id.clone(), name.table().to_owned());
        let problem = "it is not one that is taken in".to_owned();
        self.tables.get_mut(name).ok_or(IngestError::Schema { at, table, problem })
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Goes to where reading ended, as far as that can be done without asking the database.
    pub(crate) fn resume_at(&mut self, resume: &Resume) -> Result<(), IngestError> {
        let own = |name: &TableName| name.namespace() == self.id.as_str();
        self.position = resume.positions.get(&self.id).cloned();
        let Some(position) = &self.position else { return Ok(()) };
        if let Some(log) = &self.log {
            log.place_of(position)?;
        }
        if let Position::Log { step, .. } = position {
            self.step = *step;
        }
        self.quarantine.resume(&self.id, &resume.quarantined);
        let states: BTreeMap<_, _> =
            resume.states.iter().filter(|s| own(&s.table)).map(|s| (&s.table, s)).collect();
        // A lake from before tables had states: all of it is there.
        let no_states = states.is_empty();
        for schema in resume.tables.iter().filter(|t| own(t.name())) {
            let name = schema.name().clone();
            let state = states.get(&name).map(|s| TableState::clone(s));
            let is_known = no_states || state.is_some();
            let state = state.unwrap_or_else(|| {
                TableState::new(name.clone(), Phase::Streaming, (self.settings.clock)())
            });
            let mut table = Table::new(Arc::clone(schema), state, is_known);
            if table.state.phase == Phase::Snapshotting {
                table.copies.push(Copying::resumed(
                    table.state.progress.as_deref(),
                    table.keys.as_ref(),
                    &mut self.next_id,
                ));
            }
            self.tables.insert(name, table);
        }
        for (name, state) in states {
            if !self.tables.contains_key(name) {
                self.refused.insert(name.clone(), state.clone());
            }
        }
        if no_states {
            for table in self.tables.values_mut() {
                table.is_known = true;
            }
        }
        Ok(())
    }

    /// The log, while no task has it.
    pub(crate) fn log(&mut self) -> Option<&mut L> {
        self.log.as_mut()
    }

    /// The tables are these to begin with, and not those that the log knew at first.
    pub(crate) fn know(&mut self, tables: Vec<Arc<TableSchema>>) {
        let now = self.now();
        let table = |schema: Arc<TableSchema>| {
            let name = schema.name().clone();
            let state = TableState::new(name.clone(), Phase::Streaming, now);
            (name, Table::new(schema, state, false))
        };
        self.tables = tables.into_iter().map(table).collect();
    }

    /// Connects and goes to the cursor, and waits for that: for databases that are never far away.
    pub(crate) async fn start_now(&mut self) -> Result<(), IngestError> {
        self.start();
        if let Some(done) = self.jobs.join_next().await {
            self.gather_one(done);
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Connects in a task: however long it takes, other sources are read.
    fn start(&mut self) {
        if !self.jobs.is_empty() || !self.finished.is_empty() {
            return;
        }
        if let Some(log) = self.log.take_if(|_| !self.rows.is_empty())
            && let Some(rows) = self.rows.pop()
        {
            let tables = self.tables.values().map(|t| Arc::clone(&t.schema)).collect();
            let position = self.position.clone();
            let copy = self.settings.copy_after_gap || self.recopy;
            self.jobs.spawn(jobs::contact(log, rows, position, tables, copy));
        }
    }

    /// The log is at the cursor.
    fn contacted(&mut self, contact: Contact) {
        self.running = true;
        self.recopy = false;
        let Contact { found, whole, gap } = contact;
        let now = self.now();
        let first = self.position.is_none();
        let schemas = found.tables.clone();
        for schema in found.tables {
            let name = schema.name().clone();
            self.refused.remove(&name);
            if !self.tables.contains_key(&name) {
                self.schemas_due
                    .push(SchemaChange { table: Arc::clone(&schema), renamed: Vec::new() });
                let state = TableState::new(name.clone(), Phase::Streaming, now);
                self.tables.insert(name, Table::new(schema, state, false));
            }
        }
        let unknown = self.tables.iter().filter(|(_, t)| !t.is_known).map(|(n, _)| n.clone());
        for name in unknown.collect::<Vec<_>>() {
            if let Some(table) = self.tables.get_mut(&name) {
                table.is_known = true;
            }
            self.states_due.insert(name.clone());
            if !(first && whole) {
                self.copy(&name, Purpose::First, None);
            }
        }
        if let Some(reason) = gap {
            self.adopt(&schemas);
            tracing::warn!(source = %self.id, reason, "all tables are copied again");
            let taken = self.tables.values().filter(|t| t.state.phase != Phase::Stopped);
            for name in taken.map(|t| t.state.table.clone()).collect::<Vec<_>>() {
                self.copy(&name, Purpose::Again, Some(reason.clone()));
            }
        }
        for (name, reason, remedy) in found.refused {
            if self.tables.contains_key(&name) {
                self.stop_table(&name, reason, remedy);
                continue;
            }
            let mut state = TableState::stopped(name.clone(), reason, remedy);
            state.since_micros = now;
            if self.refused.get(&name).is_none_or(|before| before.reason != state.reason) {
                self.states_due.insert(name.clone());
                self.refused.insert(name, state);
            }
        }
        let Some(log) = &mut self.log else { return };
        let stopped = self.tables.iter().filter(|(_, t)| t.state.phase == Phase::Stopped);
        for (name, _) in stopped {
            log.leave_out(name, true);
        }
    }

    /// Whatever became of the columns meanwhile, they are these from now on.
    fn adopt(&mut self, schemas: &[Arc<TableSchema>]) {
        for schema in schemas {
            let Some(table) = self.tables.get_mut(schema.name()) else { continue };
            if table.schema != *schema {
                table.schema = Arc::clone(schema);
                table.keys = key_reader(schema);
                let change = SchemaChange { table: Arc::clone(schema), renamed: Vec::new() };
                self.schemas_due.push(change);
            }
        }
    }

    /// Begins to copy the rows of a table, from the beginning.
    fn copy(&mut self, name: &TableName, purpose: Purpose, reason: Option<String>) {
        let (id, now) = (self.id(), self.now());
        let Some(table) = self.tables.get_mut(name) else { return };
        let mut purpose = purpose;
        if let Some(storing) = table.storing() {
            // Not all of a first copy is there yet, and none of it may be as it is in the source.
            purpose = if storing.purpose == Purpose::First && table.state.copied_rows == 0 {
                purpose
            } else {
                Purpose::Again
            };
        }
        table.copies.retain(|c| matches!(c.purpose, Purpose::Compare));
        let was_stopped = table.state.phase == Phase::Stopped;
        let mut copying = Copying::new(purpose, vec![Range::new(id, None, None)]);
        copying.overtakes = self.quarantine.ids(name);
        table.state = TableState {
            reason,
            quarantined: table.state.quarantined,
            progress: Some(copying.progress()),
            ..TableState::new(name.clone(), Phase::Snapshotting, now)
        };
        table.copies.push(copying);
        self.drop_whole(name);
        if let Some(log) = self.log.as_mut().filter(|_| was_stopped) {
            log.leave_out(name, false);
        }
        self.states_due.insert(name.clone());
    }

    /// As a person wants. Rows that are being handed out are those of now, as the log waits for them.
    fn copy_again(&mut self, name: &TableName) {
        if !self.whole.as_ref().is_some_and(|whole| whole.stores(name)) {
            self.copy(name, Purpose::Again, None);
        }
    }

    /// As the log wants.
    fn copy_for(&mut self, name: &TableName, reason: Option<String>) {
        if self.tables.get(name).is_none_or(|table| table.state.phase == Phase::Stopped) {
            return;
        }
        tracing::warn!(table = %name, reason, "is copied again");
        self.copy(name, Purpose::Again, reason);
        // What the log has, selects see a moment later; and columns it tells of with the next row only.
        self.unseen = Some(Unseen::Suspected);
        let (now, pause) = (Instant::now(), self.settings.first_pause);
        for copying in self.tables.get_mut(name).into_iter().flat_map(|table| &mut table.copies) {
            copying.pause(now, pause);
            copying.awaits_columns = true;
        }
    }

    /// Takes in nothing of a table from now on.
    fn stop_table(&mut self, name: &TableName, reason: String, remedy: String) {
        let now = self.now();
        let Some(table) = self.tables.get_mut(name) else { return };
        tracing::error!(table = %name, reason, remedy, "is stopped");
        if table.compares() {
            table.uncompared = Some(format!("it is stopped: {reason}"));
        }
        table.copies.clear();
        table.touched.clear();
        table.state = TableState {
            copied_rows: table.state.copied_rows,
            quarantined: table.state.quarantined,
            since_micros: now,
            ..TableState::stopped(name.clone(), reason, remedy)
        };
        self.drop_whole(name);
        if let Some(log) = &mut self.log {
            log.leave_out(name, true);
        }
        self.states_due.insert(name.clone());
    }

    /// Reads no more rows of a table for one purpose: a person was told of what they were for, or the
    /// table is not what it should be without them.
    fn give_up(&mut self, name: &TableName, purpose: Purpose, reason: String, remedy: &str) {
        let Some(table) = self.tables.get_mut(name) else { return };
        if matches!(purpose, Purpose::First | Purpose::Again) {
            return self.stop_table(
                name,
                reason,
                format!("{remedy} `medlake ingest resync {name}`"),
            );
        }
        tracing::warn!(table = %name, reason, ?purpose, "rows are not read on");
        table.copies.retain(|c| c.purpose != purpose);
        if purpose == Purpose::Compare {
            table.uncompared = Some(reason);
            self.drop_whole(name);
        }
    }

    /// Whether somebody may be asked for rows, or waits for an answer.
    fn is_copying(&self) -> bool {
        self.tables.values().any(|t| !t.copies.is_empty())
    }

    async fn read_page(&mut self, limits: CutLimits) -> Result<Option<Page>, IngestError> {
        self.looked_at = Instant::now();
        self.gather();
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if !self.running {
            self.start();
            return Ok(None);
        }
        if !self.open && !self.schemas_due.is_empty() {
            return Ok(Some(self.announce()));
        }
        if !self.open && self.see() {
            return Ok(Some(self.announce()));
        }
        if self.is_sending() {
            return Ok(self.send_whole());
        }
        if self.is_copying() {
            self.unblock();
            if self.look_at_end() {
                // What the rows are compared with, the log must not be past.
                return Ok(None);
            }
            self.begin_whole();
            self.begin_jobs();
        }
        self.low = None;
        self.whole_before_page();
        let page = match &mut self.log {
            // What a table without a key is at one place, the log must not be past.
            Some(log) if !self.whole.as_ref().is_some_and(Whole::holds_log) => {
                log.read(limits).await
            }
            _ => Ok(None),
        };
        match page {
            Ok(page) => Ok(self.take_in(page, limits)),
            Err(error) => {
                // It is started again, where that is possible.
                self.running = error.kind() != Kind::Conflict;
                Err(error)
            }
        }
    }

    /// Asks where the log ends now, for those who wait to know; answers whether that is under way. A
    /// task does it: nobody's patience with a page may be shorter than it takes.
    fn look_at_end(&mut self) -> bool {
        if self.looking.is_some() {
            return true;
        }
        let copies = || self.tables.values().flat_map(|t| &t.copies);
        let waits = copies().any(|c| matches!(c.blocked, Some(End::After(_))))
            || copies()
                .flat_map(|c| &c.ranges)
                .flat_map(|r| &r.waiting)
                .any(|piece| piece.until.place().is_none())
            || self.whole.as_ref().is_some_and(Whole::waits_for_end);
        let asks = self.exact == Some(false)
            && self.low.is_none()
            && !self.rows.is_empty()
            && self.tables.values().any(|t| self.is_due(t));
        let Some(log) = self.log.as_ref().filter(|_| waits || asks) else { return false };
        let end = log.end();
        self.jobs.spawn(async move { Job::End(end.await) });
        self.looks += 1;
        self.looking = Some(asks);
        true
    }

    /// Whether rows of a table can be asked for.
    fn is_due(&self, table: &Table<L::Place>) -> bool {
        let is_due = |c: &Copying<L::Place>| {
            !c.is_paused(self.looked_at) && c.ranges.iter().any(Range::is_due)
        };
        (table.keys.is_some() || self.whole.is_none()) && table.copies.iter().any(is_due)
    }

    /// The log ended there after all that came before this look.
    fn ended(&mut self, result: Result<L::Place, IngestError>) {
        let asks = self.looking.take() == Some(true);
        let end = match result {
            Ok(end) => end,
            Err(error) => {
                self.failed = Some(error);
                return;
            }
        };
        let look = self.looks;
        for copying in self.tables.values_mut().flat_map(|t| &mut t.copies) {
            copying.blocked.iter_mut().for_each(|blocked| blocked.told(look, &end));
            let pieces = copying.ranges.iter_mut().flat_map(|r| &mut r.waiting);
            pieces.for_each(|piece| piece.until.told(look, &end));
        }
        if let Some(whole) = &mut self.whole {
            whole.ends_at(look, &end);
        }
        self.low = asks.then_some(end);
    }

    /// When the next pause of a table ends that was not over when rows were last asked for.
    fn next_try(&self) -> Option<Instant> {
        let copies = self.tables.values().flat_map(|t| &t.copies);
        copies.filter_map(Copying::paused_until).filter(|until| *until > self.looked_at).min()
    }
}

impl<L: Log, R: Rows<Place = L::Place>> fmt::Debug for Database<L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("id", &self.id)
            .field("position", &self.position)
            .field("tables", &self.tables.len())
            .finish_non_exhaustive()
    }
}

impl<L: Log, R: Rows<Place = L::Place>> Source for Database<L, R> {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn tables(&self) -> Vec<Arc<TableSchema>> {
        self.tables.values().map(|t| Arc::clone(&t.schema)).collect()
    }

    fn resume<'a>(&'a mut self, resume: &'a Resume) -> BoxFuture<'a, Result<(), IngestError>> {
        std::future::ready(self.resume_at(resume)).boxed()
    }

    fn read(&mut self, limits: CutLimits) -> BoxFuture<'_, Result<Option<Page>, IngestError>> {
        self.read_page(limits).boxed()
    }

    fn wait(&mut self) -> BoxFuture<'_, ()> {
        async move {
            if !self.finished.is_empty() {
                return;
            }
            let later = self.next_try();
            let Self { log, jobs, finished, running, whole, looking, .. } = self;
            let held = whole.as_ref().is_some_and(Whole::holds_log) || looking.is_some();
            let log = log.as_mut().filter(|_| *running && !held);
            let moved = async {
                match log {
                    Some(log) => log.wait().await,
                    None => std::future::pending().await,
                }
            };
            let paused = async {
                match later {
                    Some(later) => tokio::time::sleep_until(later).await,
                    None => std::future::pending().await,
                }
            };
            if jobs.is_empty() && !*running {
                // Nothing is under way yet.
                return;
            }
            tokio::select! {
                () = moved => {}
                () = paused => {}
                Some(done) = jobs.join_next() => match done {
                    Ok(job) => finished.push(job),
                    Err(error) => tracing::error!(error = %error, "a task of a source was stopped"),
                },
            }
        }
        .boxed()
    }

    fn acknowledge(&self) -> Arc<dyn Acknowledge> {
        Arc::clone(&self.acknowledge)
    }

    fn stop(&mut self, table: &TableName, reason: String, remedy: String) {
        self.stop_table(table, reason, remedy);
    }

    fn resync(&mut self, table: &TableName) -> Result<(), IngestError> {
        self.must_have(table)?;
        self.copy_again(table);
        Ok(())
    }

    fn resync_all(&mut self) -> Result<(), IngestError> {
        self.recopy = !self.running;
        for name in self.tables.keys().cloned().collect::<Vec<_>>() {
            self.copy_again(&name);
        }
        Ok(())
    }

    fn compare(&mut self, table: &TableName) -> Result<(), IngestError> {
        let id = self.id();
        let at = self.id.clone();
        let table = self.must_have(table)?;
        let cannot = |problem: &str| {
            let table = table.schema.name().table().to_owned();
            Err(IngestError::Schema { at, table, problem: problem.to_owned() })
        };
        if table.state.phase != Phase::Streaming {
            return cannot("it is compared when it is streaming");
        }
        table.uncompared = None;
        table.copies.retain(|c| c.purpose != Purpose::Compare);
        table.copies.push(Copying::new(Purpose::Compare, vec![Range::new(id, None, None)]));
        Ok(())
    }

    fn is_comparing(&self, table: &TableName) -> Result<bool, String> {
        let Some(table) = self.tables.get(table) else { return Ok(false) };
        table.uncompared.clone().map_or(Ok(table.compares()), Err)
    }

    fn retry(
        &mut self,
        table: &TableName,
        changes: &[QuarantinedRow],
    ) -> Result<usize, IngestError> {
        let id = self.id();
        let at = self.id.clone();
        let table = self.must_have(table)?;
        let Some(keys) = &table.keys else { return Ok(0) };
        let (mut asked, mut ids) = (Vec::new(), Vec::new());
        for change in changes {
            let key = change.key.as_deref().and_then(|key| serde_json::from_str(key).ok());
            if let Some(key) = key.and_then(|key| keys.parse(&key).ok()) {
                asked.push(key);
                ids.push(change.id.clone());
            }
        }
        let Some(first) = asked.first() else { return Ok(0) };
        let asked = concat_batches(&first.schema(), &asked)
            .map_err(|source| IngestError::Arrow { at, source })?;
        let count = ids.len();
        let mut range = Range::new(id, None, None);
        range.only = Some((asked, ids));
        table.copies.push(Copying::new(Purpose::Retry, vec![range]));
        Ok(count)
    }

    fn gauges(&self) -> Arc<Gauges> {
        Arc::clone(&self.gauges)
    }
}
