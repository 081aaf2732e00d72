//! What a page of the log becomes: with the copies of rows that belong at its end, and the states.

use std::sync::Arc;

use arrow::{
    array::BooleanArray, compute::filter_record_batch, error::ArrowError, record_batch::RecordBatch,
};
use medlake_contract::{CopyScope, Position, RowCopy, SchemaChange, TableName};

use super::{
    Database, Table,
    copying::{Copying, Piece, Purpose},
    key_reader,
    keys::key_text,
    unseen::Unseen,
};
use crate::{
    CutLimits, Phase, TableState,
    log::{Log, Rows},
    source::Page,
};

/// More keys than this are not kept in mind for the rows that are being read: they are read again.
const MOST_TOUCHED: usize = 500_000;

impl<L: Log, R: Rows<Place = L::Place>> Database<L, R> {
    /// A page that says nothing but what tables there are now.
    pub(super) fn announce(&mut self) -> Page {
        let mut page = Page { schemas: std::mem::take(&mut self.schemas_due), ..Page::default() };
        self.close(&mut page);
        page
    }

    /// Makes a page of what the log had, if anything. Never fails: the log is past it.
    pub(super) fn take_in(&mut self, page: Option<Page>, limits: CutLimits) -> Option<Page> {
        if page.is_none() && self.open {
            // The transaction goes on, and what is due comes after it.
            return None;
        }
        let had_any = page.is_some();
        let mut page = page.unwrap_or_default();
        if had_any {
            self.pages += 1;
        }
        for change in &page.schemas {
            self.schema_moved(change);
        }
        if page.has_new_tables {
            self.unseen = Some(Unseen::Suspected);
        }
        for TableState { table, phase, reason, remedy, .. } in std::mem::take(&mut page.states) {
            match phase {
                Phase::Snapshotting => self.copy_for(&table, reason),
                _ => {
                    self.stop_table(&table, reason.unwrap_or_default(), remedy.unwrap_or_default());
                }
            }
        }
        self.take_in_batches(&mut page);
        self.quarantine.overtake(&mut page);
        self.open = page.open;
        if page.open {
            self.count_quarantine(&page);
            return had_any.then_some(page);
        }
        self.hand_out_copies(&mut page, limits);
        self.count_quarantine(&page);
        self.whole_after_page();
        self.close(&mut page);
        (page.position.is_some() || !page.is_empty()).then_some(page)
    }

    /// Puts in what stands at the end of a page: where the source is, and what is new of its tables.
    pub(super) fn close(&mut self, page: &mut Page) {
        if let Some(log) = &self.log {
            let now = log.position(log.at(), self.step + 1);
            if self.position.as_ref().is_none_or(|before| is_another(before, &now)) {
                self.step += 1;
                self.position = Some(now.clone());
                page.position = Some(now);
            }
        }
        for name in std::mem::take(&mut self.states_due) {
            let Some(table) = self.tables.get(&name) else {
                page.states.extend(self.refused.get(&name).cloned());
                continue;
            };
            let progress = table.storing().map(Copying::progress);
            page.states.push(TableState { progress, ..table.state.clone() });
        }
    }

    /// States have the numbers, and a table with too many is stopped.
    pub(super) fn count_quarantine(&mut self, page: &Page) {
        for name in self.quarantine.count(page) {
            let Some(table) = self.tables.get_mut(&name) else { continue };
            table.state.quarantined = self.quarantine.len(&name);
            self.states_due.insert(name.clone());
            if self.quarantine.is_over(&name) && table.state.phase != Phase::Stopped {
                let reason = self.quarantine.too_many(&name);
                let remedy = format!(
                    "see system.quarantine for the reasons, mend the rows in the source, then \
                     `medlake ingest resync {name}`"
                );
                self.stop_table(&name, reason, remedy);
            }
        }
    }

    pub(super) fn schema_moved(&mut self, change: &SchemaChange) {
        let name = change.table.name();
        if let Some(table) = self.tables.get_mut(name) {
            table.copies.iter_mut().for_each(|copying| copying.awaits_columns = false);
            if *table.schema == *change.table && change.renamed.is_empty() {
                return;
            }
            table.schema = Arc::clone(&change.table);
            table.moved_at = self.pages;
            table.keys = key_reader(&change.table);
            // Rows may have failed to be read because of the columns they had.
            table.copies.iter_mut().for_each(|copying| copying.failures = 0);
            table.restart(&mut self.next_id);
            self.drop_whole(name);
            return;
        }
        // It may have had rows under another name.
        let state = TableState::new(name.clone(), Phase::Streaming, self.now());
        let table = Table::new(Arc::clone(&change.table), state, true);
        self.tables.insert(name.clone(), Table { moved_at: self.pages, ..table });
        self.refused.remove(name);
        self.copy(name, Purpose::First, None);
    }

    /// Leaves out what is not taken in, and notes the keys of what is, for rows that are being read.
    fn take_in_batches(&mut self, page: &mut Page) {
        let (pages, mut broken) = (self.pages, Vec::new());
        let Self { tables, whole, next_id, .. } = self;
        page.batches.retain(|batch| {
            let Some(table) = tables.get_mut(batch.table().name()) else { return true };
            if table.state.phase == Phase::Stopped {
                return false;
            }
            let Some(keys) = &table.keys else {
                if let Some(whole) = whole {
                    whole.touched_by(batch.table().name());
                }
                // All of it is copied at one place, and what came before is in that.
                return table.storing().is_none_or(|c| c.purpose == Purpose::Again);
            };
            if table.is_reading() {
                match table.touched.note(keys, batch, pages) {
                    Ok(truncated) if truncated || table.touched.len() > MOST_TOUCHED => {
                        table.restart(next_id);
                    }
                    Ok(_) => {}
                    Err(error) => broken.push((batch.table().name().clone(), error)),
                }
            }
            true
        });
        for (name, error) in broken {
            let reason = format!("the keys of its changes could not be read: {error}");
            self.stop_table(&name, reason, format!("`medlake ingest resync {name}`"));
            page.batches.retain(|b| b.table().name() != &name);
        }
        let Some(log) = &self.log else { return };
        for table in self.tables.values_mut() {
            if !table.is_reading() {
                table.touched.clear();
            }
            for piece in
                table.copies.iter_mut().flat_map(|c| &mut c.ranges).flat_map(|r| &mut r.waiting)
            {
                if !log.reached(&piece.seen) {
                    piece.since = pages;
                }
            }
        }
    }

    /// Adds the chunks that belong here, and ends the passes that have none left.
    fn hand_out_copies(&mut self, page: &mut Page, limits: CutLimits) {
        let now = self.now();
        let Self { tables, log: Some(log), states_due, .. } = self else { return };
        let mut broken = Vec::new();
        for (name, table) in tables.iter_mut().filter(|(_, t)| t.keys.is_some()) {
            let mut moved = false;
            let mut copies = std::mem::take(&mut table.copies);
            for copying in &mut copies {
                let purpose = copying.purpose;
                for range in &mut copying.ranges {
                    // At least one: a limit must not stop copying while the stream goes on.
                    let has_room = |page: &Page| {
                        page.copies.is_empty() && page.compared.is_empty()
                            || page.row_count < limits.max_rows
                    };
                    while has_room(page)
                        && let Some(piece) = range.waiting.pop_front_if(|piece| {
                            piece.until.place().is_some_and(|until| log.reached(until))
                        })
                    {
                        moved = true;
                        let after = range.after.clone();
                        range.after.clone_from(&piece.to);
                        let only = range.only.take();
                        let is_last = piece.is_last;
                        for bad in &piece.bad {
                            copying.overtakes.remove(&bad.id);
                        }
                        if let Err(error) = hand_out(table, purpose, piece, after, only, page) {
                            broken.push((name.clone(), error));
                        }
                        if is_last {
                            range.waiting.clear();
                        }
                    }
                }
                let ended = |r: &super::Range<L::Place>| {
                    r.ended && r.busy.is_none() && r.waiting.is_empty()
                };
                copying.ranges.retain(|r| !ended(r));
            }
            copies.retain(|c| {
                let stores = matches!(c.purpose, Purpose::First | Purpose::Again);
                if c.ranges.is_empty() && stores {
                    let overtaken = c.overtakes.iter().map(|id| (name.clone(), id.clone()));
                    page.released.extend(overtaken);
                    table.state.phase = Phase::Streaming;
                    table.state.reason = None;
                    table.state.since_micros = now;
                    tracing::info!(table = %name, rows = table.state.copied_rows, "is copied");
                }
                !c.ranges.is_empty()
            });
            table.copies = copies;
            if moved {
                states_due.insert(name.clone());
            }
        }
        for (name, error) in broken {
            let reason = format!("its rows could not be put together: {error}");
            self.stop_table(&name, reason, format!("`medlake ingest resync {name}`"));
        }
    }
}

/// Whether a source that stood at one position stands at another one, however many steps away.
fn is_another(before: &Position, now: &Position) -> bool {
    match (before, now) {
        (Position::Log { at: before, .. }, Position::Log { at: now, .. }) => before != now,
        (before, now) => before != now,
    }
}

/// Adds one chunk to a page.
fn hand_out<P>(
    table: &mut Table<P>,
    purpose: Purpose,
    piece: Piece<P>,
    after: Option<RecordBatch>,
    only: Option<(RecordBatch, Vec<String>)>,
    page: &mut Page,
) -> Result<(), ArrowError> {
    let Some(keys) = &table.keys else { return Ok(()) };
    let Piece { mut rows, bad, since, to, held, .. } = piece;
    let touched = &table.touched;
    let is_touched = |key: &[u8]| touched.contains(key, since);
    if !touched.is_empty_since(since) {
        let encoded = keys.rows(&rows)?;
        let kept: BooleanArray =
            encoded.iter().map(|key| Some(!is_touched(key.as_ref()))).collect();
        rows = filter_record_batch(&rows, &kept)?;
    }
    let scope = match (purpose, only) {
        (_, Some((asked, ids))) => {
            let still: Vec<&str> = bad.iter().filter_map(|bad| bad.key.as_deref()).collect();
            let encoded = keys.keys(&asked)?;
            // A row that cannot be read is not one that does not exist.
            let is_bad = |row| still.contains(&key_text(&asked, row).to_string().as_str());
            let told = encoded.iter().enumerate();
            let told = told.filter(|(row, key)| !is_touched(key.as_ref()) && !is_bad(*row));
            let told = told.map(|(_, key)| key.as_ref().to_vec()).collect::<Vec<_>>();
            for (row, id) in ids.into_iter().enumerate() {
                if !still.contains(&key_text(&asked, row).to_string().as_str()) {
                    page.released.push((table.schema.name().clone(), id));
                }
            }
            CopyScope::Keys(keys.batch(told.iter().map(Vec::as_slice))?)
        }
        (Purpose::First, None) => CopyScope::Rows,
        (_, None) => {
            let bad: Vec<_> = bad
                .iter()
                .filter_map(|bad| serde_json::from_str(bad.key.as_deref()?).ok())
                .collect();
            let bad = keys.keys(&keys.parse_all(&bad)?)?;
            let bound = |key: &Option<RecordBatch>| {
                key.as_ref()
                    .map(|key| keys.keys(key).map(|k| k.row(0).as_ref().to_vec()))
                    .transpose()
            };
            let (low, high) = (bound(&after)?, bound(&to)?);
            let inside = |key: &&[u8]| {
                low.as_deref().is_none_or(|low| *key > low)
                    && high.as_deref().is_none_or(|high| *key <= high)
            };
            // A row that cannot be read is not one that does not exist.
            let bad = bad.iter().map(|key| key.as_ref().to_vec()).collect::<Vec<_>>();
            let except = touched.since(since).filter(inside);
            let except: Vec<&[u8]> = except.chain(bad.iter().map(Vec::as_slice)).collect();
            let except = (!except.is_empty()).then(|| keys.batch(except)).transpose()?;
            CopyScope::Range { after, to, except }
        }
    };
    page.row_count += rows.num_rows();
    page.byte_count += rows.get_array_memory_size();
    page.held.merge(held);
    let is_nothing = rows.num_rows() == 0 && scope == CopyScope::Rows;
    let copy = RowCopy { table: Arc::clone(&table.schema), scope, rows: nullable(table, &rows)? };
    match purpose {
        Purpose::Compare => page.compared.push(copy),
        _ => {
            if purpose != Purpose::Retry {
                page.quarantined.extend(bad);
                table.state.copied_rows += copy.rows.num_rows() as u64;
            }
            if !is_nothing {
                page.copies.push(copy);
            }
        }
    }
    Ok(())
}

/// The rows with the columns of an image.
fn nullable<P>(table: &Table<P>, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_new(Arc::clone(table.schema.arrow_nullable()), rows.columns().to_vec())
}

impl<L: Log, R: Rows<Place = L::Place>> Database<L, R> {
    /// The next table without a key whose rows are wanted, and what for.
    pub(super) fn next_whole(&self) -> Option<(TableName, Purpose)> {
        let now = self.looked_at;
        let wanted = |(name, table): (&TableName, &Table<L::Place>)| {
            // Rows that are still being copied are not compared.
            let copying = table.storing().or_else(|| table.copies.first())?;
            let due = table.keys.is_none() && !copying.is_paused(now);
            due.then(|| (name.clone(), copying.purpose))
        };
        self.tables.iter().find_map(wanted)
    }
}
