//! What is done in tasks of its own, so that the stream goes on meanwhile.

use std::{sync::Arc, time::Duration};

use arrow::record_batch::RecordBatch;
use medlake_contract::{Kind, Position, TableName, TableSchema, with_causes};
use tokio::{task::JoinError, time::Instant};

use super::{
    Database, Table,
    copying::{End, Piece, Purpose, Range},
    spool::Spool,
    unseen::Unseen,
};
use crate::{
    IngestError,
    budget::Held,
    log::{Chunk, FoundTables, Log, Rows},
};

/// What a state says while a table's rows cannot be read.
const UNREADABLE: &str = "its rows cannot be read at the moment: ";

/// What a task gives back.
pub(super) enum Job<L: Log, R: Rows<Place = L::Place>> {
    Contact {
        log: L,
        rows: R,
        result: Result<Contact, IngestError>,
    },
    Chunk {
        rows: R,
        ask: Ask<L::Place>,
        result: Result<Chunk<L::Place>, IngestError>,
        took: Duration,
    },
    Split {
        rows: R,
        table: TableName,
        result: Result<Vec<RecordBatch>, IngestError>,
    },
    /// The tables that there are, and where the log ended after that.
    Looked {
        rows: R,
        result: Result<Unseen<L::Place>, IngestError>,
    },
    /// Where the log ended.
    End(Result<L::Place, IngestError>),
    /// The first rows of a table without a key.
    Opened {
        rows: R,
        id: u64,
        result: Result<Chunk<L::Place>, IngestError>,
    },
    /// All others of them.
    Spooled {
        rows: R,
        id: u64,
        result: Result<Spool, IngestError>,
    },
    /// Some of those.
    More {
        id: u64,
        result: Result<(Spool, Option<RecordBatch>), IngestError>,
    },
}

/// What was found at the database.
pub(super) struct Contact {
    pub(super) found: FoundTables,
    /// Whether the log has everything that ever happened.
    pub(super) whole: bool,
    /// Why reading does not go on where it ended.
    pub(super) gap: Option<String>,
}

/// A chunk that is asked for.
pub(super) struct Ask<P> {
    table: TableName,
    range: u64,
    limit: usize,
    to: Option<RecordBatch>,
    /// Where the log ended before, if that was looked at.
    low: Option<P>,
    held: Held,
}

/// Connects; goes to where reading ended, or to the beginning or the end of the log.
pub(super) async fn contact<L: Log, R: Rows<Place = L::Place>>(
    mut log: L,
    mut rows: R,
    position: Option<Position>,
    tables: Vec<Arc<TableSchema>>,
    copy_after_gap: bool,
) -> Job<L, R> {
    let result = find(&mut log, &mut rows, position, tables, copy_after_gap).await;
    Job::Contact { log, rows, result }
}

async fn find<L: Log, R: Rows<Place = L::Place>>(
    log: &mut L,
    rows: &mut R,
    position: Option<Position>,
    mut tables: Vec<Arc<TableSchema>>,
    copy_after_gap: bool,
) -> Result<Contact, IngestError> {
    let Some(position) = position else {
        let whole = log.whole().await?;
        let is_whole = whole.is_some();
        let at = match whole {
            Some(at) => at,
            None => log.end().await?,
        };
        // Asked for afterwards: columns that change in between change in the log too.
        let found = rows.tables(&at).await?;
        add_new(&mut tables, &found);
        log.start(&at, &tables).await?;
        return Ok(Contact { found, whole: is_whole, gap: None });
    };
    let at = log.place_of(&position)?;
    let found = rows.tables(&at).await?;
    add_new(&mut tables, &found);
    let gap = match log.start(&at, &tables).await {
        Ok(()) => return Ok(Contact { found, whole: false, gap: None }),
        Err(error) if error.kind() == Kind::Conflict && copy_after_gap => error,
        Err(error) => return Err(error),
    };
    let at = log.end().await?;
    // What is stored never goes back.
    if log.position(&at, u64::MAX) < position {
        return Err(gap);
    }
    let gap = gap.to_string();
    let found = rows.tables(&at).await?;
    // Whatever became of the tables in between is not in the log.
    log.start(&at, &found.tables).await?;
    Ok(Contact { found, whole: false, gap: Some(gap) })
}

fn add_new(tables: &mut Vec<Arc<TableSchema>>, found: &FoundTables) {
    let known = tables.len();
    for new in &found.tables {
        if !tables[..known].iter().any(|t| t.name() == new.name()) {
            tables.push(Arc::clone(new));
        }
    }
}

impl<L: Log, R: Rows<Place = L::Place>> Database<L, R> {
    /// Takes what tasks gave back.
    pub(super) fn gather(&mut self) {
        for job in std::mem::take(&mut self.finished) {
            self.done(job);
        }
        self.end_sweeps();
        while let Some(done) = self.jobs.try_join_next() {
            self.gather_one(done);
        }
    }

    /// Connections are for anything again whose rows nobody waits for any more.
    fn end_sweeps(&mut self) {
        let Self { tables, sweeps, rows, .. } = self;
        let copies = tables.values().flat_map(|t| &t.copies);
        let wants = |id: &u64| {
            copies.clone().flat_map(|c| &c.ranges).any(|r| r.id == *id && r.sweep.is_some())
        };
        rows.extend(sweeps.extract_if(|id, _| !wants(id)).map(|(_, rows)| rows));
    }

    pub(super) fn gather_one(&mut self, done: Result<Job<L, R>, JoinError>) {
        match done {
            Ok(job) => self.done(job),
            Err(error) => {
                tracing::error!(source = %self.id, error = %error, "a task was stopped");
                let problem = "lost a connection in a task that failed; start the process again";
                self.failed = Some(IngestError::Source { at: self.id.clone(), problem });
            }
        }
    }

    fn done(&mut self, job: Job<L, R>) {
        match job {
            Job::Contact { log, rows, result } => {
                self.log = Some(log);
                self.rows.push(rows);
                match result {
                    Ok(contact) => self.contacted(contact),
                    Err(error) => self.failed = Some(error),
                }
            }
            Job::Chunk { rows, ask, result, took } => {
                let (range, goes_on) = (ask.range, result.as_ref().is_ok_and(|c| c.goes_on));
                self.arrived(ask, result, took);
                if goes_on {
                    self.sweeps.insert(range, rows);
                    self.end_sweeps();
                } else {
                    self.rows.push(rows);
                }
            }
            Job::Split { rows, table, result } => {
                self.rows.push(rows);
                self.part(&table, result);
            }
            Job::End(result) => self.ended(result),
            Job::Looked { rows, result } => {
                self.rows.push(rows);
                match result {
                    Ok(found) => self.unseen = Some(found),
                    Err(error) => {
                        let error = with_causes(&error);
                        tracing::warn!(source = %self.id, error, "could not ask for new tables");
                        self.ask_later();
                    }
                }
            }
            Job::Opened { rows, id, result } => {
                self.rows.push(rows);
                self.opened(id, result);
            }
            Job::Spooled { rows, id, result } => {
                self.rows.push(rows);
                self.spooled(id, result);
            }
            Job::More { id, result } => self.more(id, result),
        }
    }

    /// Tables are read on whose rows could not be read while the log was behind.
    pub(super) fn unblock(&mut self) {
        let Some(log) = &self.log else { return };
        for copying in self.tables.values_mut().flat_map(|t| &mut t.copies) {
            let end = copying.blocked.as_ref().and_then(End::place);
            if end.is_some_and(|end| log.reached(end)) {
                copying.blocked = None;
            }
        }
    }

    /// Asks for the next chunks, as far as there are connections and memory.
    pub(super) fn begin_jobs(&mut self) {
        let goal = self.goal();
        let now = self.looked_at;
        let pages = self.pages;
        let low = self.low.take();
        // However little is free, there is always one of a source.
        let mut is_first = !self.tables.values().any(Table::holds_rows);
        let Self { tables, rows: idle, sweeps, jobs, settings, connections, exact, .. } = self;
        if *exact == Some(false) && low.is_none() {
            return;
        }
        for table in tables.values_mut().filter(|t| t.keys.is_some()) {
            for copying in &mut table.copies {
                if copying.is_paused(now) {
                    continue;
                }
                if !copying.parted && *connections > 1 && copying.purpose != Purpose::Retry {
                    let Some(mut rows) = idle.pop() else { return };
                    copying.parted = true;
                    let (schema, parts) = (Arc::clone(&table.schema), *connections);
                    if let Some(range) = copying.ranges.first_mut() {
                        range.busy = Some(pages);
                    }
                    jobs.spawn(async move {
                        let result = rows.split(&schema, parts).await;
                        Job::Split { rows, table: schema.name().clone(), result }
                    });
                    continue;
                }
                let (limit, order) = (copying.chunk_rows, copying.order());
                for range in copying.ranges.iter_mut().filter(|r| r.is_due()) {
                    let held = settings.budget.try_hold_copy(goal.bytes);
                    let held = held.or_else(|| is_first.then(Held::default));
                    let Some(held) = held else { return };
                    let rows = sweeps.remove(&range.id).or_else(|| idle.pop());
                    let Some(mut rows) = rows else { return };
                    is_first = false;
                    range.busy = Some(pages);
                    let schema = Arc::clone(&table.schema);
                    let (after, to) = (range.asked.clone(), range.to.clone());
                    let only = range.only.as_ref().map(|(keys, _)| keys.clone());
                    let ask = Ask {
                        table: schema.name().clone(),
                        range: range.id,
                        limit,
                        to: to.clone(),
                        low: low.clone(),
                        held,
                    };
                    jobs.spawn(async move {
                        let began = Instant::now();
                        let result = match &only {
                            Some(keys) => rows.with_keys(&schema, keys).await,
                            None => {
                                let (after, to) = (after.as_ref(), to.as_ref());
                                rows.chunk(&schema, after, to, limit, order).await
                            }
                        };
                        Job::Chunk { rows, ask, result, took: began.elapsed() }
                    });
                }
            }
        }
    }

    /// A chunk came, or did not.
    fn arrived(
        &mut self,
        ask: Ask<L::Place>,
        result: Result<Chunk<L::Place>, IngestError>,
        took: Duration,
    ) {
        let Ask { table: name, range: id, limit, to, low, mut held } = ask;
        let (goal, pages, looks) = (self.goal(), self.pages, self.looks);
        let Some(table) = self.tables.get_mut(&name) else { return };
        let find = |c: &&mut super::Copying<L::Place>| c.ranges.iter().any(|r| r.id == id);
        let Some(copying) = table.copies.iter_mut().find(find) else { return };
        let chunk = match result {
            Ok(chunk) => chunk,
            Err(error) => {
                let purpose = copying.purpose;
                if let Some(reason) = self.failed_to_copy(&name, id, &error) {
                    self.give_up(&name, purpose, reason, "see to it, then");
                }
                return;
            }
        };
        if table.state.reason.take_if(|reason| reason.starts_with(UNREADABLE)).is_some() {
            self.states_due.insert(name.clone());
        }
        let (rows, bytes) = (chunk.rows.num_rows(), chunk.rows.get_array_memory_size());
        copying.adapt(rows, bytes, took, &goal);
        let held = held.split(bytes);
        let Some(range) = copying.ranges.iter_mut().find(|r| r.id == id) else { return };
        let since = range.busy.take().unwrap_or(pages);
        let exact = chunk.at.is_some();
        let sweep = range.sweep.take();
        let since = sweep.as_ref().map_or(since, |(since, _)| *since);
        let Some(seen) = chunk.at.clone().or(sweep.map(|(_, seen)| seen)).or(low) else {
            // It is asked for again, once it is known where the log ends before.
            self.exact = Some(false);
            return;
        };
        self.exact.get_or_insert(exact);
        let is_last = range.only.is_some() || rows + chunk.bad.len() < limit;
        let reached = self.log.as_ref().is_some_and(|log| log.reached(&seen));
        let last_key = match (&table.keys, rows) {
            (Some(keys), 1..) => keys.key_of(&chunk.rows, rows - 1).ok(),
            _ => None,
        };
        if !is_last && last_key.is_none() {
            let reason = "no row of a chunk of its rows could be read".to_owned();
            let purpose = copying.purpose;
            self.give_up(&name, purpose, reason, "mend the rows, then");
            return;
        }
        range.ended = is_last;
        range.sweep = (chunk.goes_on && !is_last).then(|| (since, seen.clone()));
        let to = if is_last { to } else { last_key };
        range.asked.clone_from(&to);
        range.waiting.push_back(Piece {
            rows: chunk.rows,
            bad: chunk.bad,
            until: if exact { End::At(seen.clone()) } else { End::After(looks) },
            seen,
            // Everything read up to now is in the rows, or only what was read before they were asked.
            since: if reached { since } else { pages },
            to,
            is_last,
            held,
        });
    }

    /// Notes a failure; gives the reason to stop the table, should it be one that does not pass.
    fn failed_to_copy(
        &mut self,
        name: &TableName,
        range: u64,
        error: &IngestError,
    ) -> Option<String> {
        let table = self.tables.get_mut(name)?;
        let copying = table.copies.iter_mut().find(|c| c.ranges.iter().any(|r| r.id == range))?;
        if let Some(range) = copying.ranges.iter_mut().find(|r| r.id == range) {
            (range.busy, range.sweep) = (None, None);
        }
        copying.pause(Instant::now(), self.settings.first_pause);
        let reason = with_causes(error);
        if error.kind().retryable() {
            let reason = Some(format!("{UNREADABLE}{reason}"));
            if table.state.reason != reason {
                tracing::warn!(table = %name, reason, "could not copy rows; trying again");
                table.state.reason = reason;
                self.states_due.insert(name.clone());
            }
            return None;
        }
        let is_final = copying.refused(self.looks);
        // The log tells of other columns, or does so with the next row only.
        self.unseen = Some(Unseen::Suspected);
        is_final.then(|| format!("its rows could not be read: {reason}"))
    }

    fn part(&mut self, name: &TableName, result: Result<Vec<RecordBatch>, IngestError>) {
        let mut bounds = result.unwrap_or_default();
        let mut id = self.next_id;
        let Some(table) = self.tables.get_mut(name) else { return };
        for copying in &mut table.copies {
            let [range] = copying.ranges.as_slice() else { continue };
            if range.busy.is_none() || !range.waiting.is_empty() || range.asked.is_some() {
                continue;
            }
            let mut ranges = Vec::with_capacity(bounds.len() + 1);
            let mut after = range.after.clone();
            for to in bounds.drain(..) {
                id += 1;
                ranges.push(Range::new(id, after.replace(to.clone()), Some(to)));
            }
            id += 1;
            ranges.push(Range::new(id, after, range.to.clone()));
            copying.ranges = ranges;
            break;
        }
        self.next_id = id;
    }
}
