//! Tables without a key: all their rows as of one place of the log, in the place of all that was
//! there, or to be compared with it. Changes from before the place are in the rows; those after it
//! follow. Nothing is handed out before all rows are read: a table is replaced as a whole or not at
//! all, and the database keeps its view of it no longer than reading takes.

use std::sync::Arc;

use arrow::{array::new_null_array, record_batch::RecordBatch};
use medlake_contract::{
    ChangeBatch, ContractError, CopyScope, Op, RowCopy, TableName, TableSchema, with_causes,
};
use tokio::time::Instant;

use super::{
    Database,
    copying::{End, FIRST_ROWS, Purpose},
    jobs::Job,
    spool::{self, Spool},
    unseen::Unseen,
};
use crate::{
    IngestError, Phase,
    log::{Chunk, Log, Order, Rows},
    source::Page,
};

/// One such table that is being copied.
pub(super) struct Whole<P> {
    /// Of this attempt: answers to an earlier one are nobody's.
    id: u64,
    table: TableName,
    purpose: Purpose,
    stage: Stage<P>,
}

enum Stage<P> {
    /// Its first rows are asked for; `low` is where the log ended before.
    Opening { low: Option<P> },
    /// They wait for the log to come to where they were read, and for the others.
    Waiting(Waiting<P>),
    /// The log waits for them to be handed out.
    Sending { batch: Option<RecordBatch>, rest: Option<Spool>, is_first: bool },
}

/// The rows after the first.
enum Rest {
    None,
    Reading,
    There(Spool),
}

struct Waiting<P> {
    first: RecordBatch,
    rest: Rest,
    /// Whether the log is here: then it waits for the others.
    is_here: bool,
    /// Everything before this place is in the rows.
    seen: P,
    /// Nothing after this place is.
    until: End<P>,
    /// Whether the log ends pages at these places.
    stops: bool,
    /// Whether the log was past `seen` before the page that is looked at.
    was_past: bool,
    touched: bool,
}

impl<P: Clone> Whole<P> {
    /// Whether the log is not read on for now: what a table without a key is at one place, it must not
    /// be past.
    pub(super) fn holds_log(&self) -> bool {
        !matches!(self.stage, Stage::Waiting(Waiting { is_here: false, .. }))
    }

    /// Whether the rows of a table are on their way to where they are stored.
    pub(super) fn stores(&self, name: &TableName) -> bool {
        let is_sending = matches!(self.stage, Stage::Sending { is_first: false, .. });
        is_sending && self.table == *name && self.purpose != Purpose::Compare
    }

    pub(super) fn waits_for_end(&self) -> bool {
        matches!(&self.stage, Stage::Waiting(Waiting { until: End::After(_), .. }))
    }

    pub(super) fn ends_at(&mut self, look: u64, end: &P) {
        if let Stage::Waiting(waiting) = &mut self.stage {
            waiting.until.told(look, end);
        }
    }

    /// The page that is looked at has changes of a table.
    pub(super) fn touched_by(&mut self, name: &TableName) {
        if let Stage::Waiting(waiting) = &mut self.stage {
            waiting.touched |= *name == self.table;
        }
    }
}

impl<L: Log, R: Rows<Place = L::Place>> Database<L, R> {
    /// Whether the log waits for rows to be handed out.
    pub(super) fn is_sending(&self) -> bool {
        matches!(self.whole, Some(Whole { stage: Stage::Sending { .. }, .. }))
    }

    /// What is known of the rows of a table is no longer right.
    pub(super) fn drop_whole(&mut self, name: &TableName) {
        if let Some(whole) = self.whole.take_if(|whole| whole.table == *name) {
            if let Stage::Sending { .. } = whole.stage {
                // Ended or not, the transaction it was handed out in is.
                self.open = false;
            }
            if let Some(log) = &mut self.log {
                log.stop_at(None);
            }
        }
    }

    /// Rows that are read at a time: all of them are as many, as one select finds them all.
    fn whole_rows(&self) -> usize {
        self.settings.chunk_rows.min(FIRST_ROWS)
    }

    /// Asks for the rows of the next such table.
    pub(super) fn begin_whole(&mut self) {
        if self.whole.is_some() || (self.exact == Some(false) && self.low.is_none()) {
            return;
        }
        let Some((table, purpose)) = self.next_whole() else { return };
        let Some(schema) = self.tables.get(&table).map(|t| Arc::clone(&t.schema)) else { return };
        let Some(mut rows) = self.rows.pop() else { return };
        let (limit, id) = (self.whole_rows(), self.id());
        self.jobs.spawn(async move {
            let result = rows.chunk(&schema, None, None, limit, Order::Any).await;
            Job::Opened { rows, id, result }
        });
        self.whole =
            Some(Whole { id, table, purpose, stage: Stage::Opening { low: self.low.clone() } });
    }

    /// The first rows came, or did not.
    pub(super) fn opened(&mut self, of: u64, result: Result<Chunk<L::Place>, IngestError>) {
        let Some(Whole { table, stage: Stage::Opening { low }, .. }) =
            self.whole.as_ref().filter(|whole| whole.id == of)
        else {
            return;
        };
        let (table, low) = (table.clone(), low.clone());
        let chunk = match result {
            Ok(chunk) => chunk,
            Err(error) => return self.whole_failed(&error),
        };
        self.exact.get_or_insert(chunk.at.is_some());
        let Some(seen) = chunk.at.clone().or(low) else {
            self.exact = Some(false);
            self.whole = None;
            return;
        };
        let until = chunk.at.map_or(End::After(self.looks), End::At);
        let stops = self.log.as_mut().is_some_and(|log| log.stop_at(Some(&seen)));
        let has_more = chunk.rows.num_rows() >= self.whole_rows();
        let waiting = Waiting {
            first: chunk.rows,
            rest: if has_more { Rest::Reading } else { Rest::None },
            is_here: false,
            seen,
            until,
            stops,
            was_past: false,
            touched: false,
        };
        if let Some(whole) = &mut self.whole {
            whole.stage = Stage::Waiting(waiting);
        }
        // The connection that has just come back has the others.
        if let Some(schema) = self.tables.get(&table).map(|t| Arc::clone(&t.schema))
            && let Some(mut rows) = has_more.then(|| self.rows.pop()).flatten()
        {
            let place = self.spool(of);
            self.jobs.spawn(async move {
                let result = place.fill(&mut rows, schema).await;
                Job::Spooled { rows, id: of, result }
            });
        }
        self.whole_after_page();
    }

    fn spool(&self, id: u64) -> spool::Place {
        let name = format!("{}-{id}.rows", self.id);
        let (at, folder) = (self.id.clone(), self.settings.folder.clone());
        spool::Place { at, folder, name, memory: self.settings.chunk_bytes }
    }

    /// The other rows are there, or did not come.
    pub(super) fn spooled(&mut self, of: u64, result: Result<Spool, IngestError>) {
        let Some(Whole { stage: Stage::Waiting(waiting), .. }) =
            self.whole.as_mut().filter(|whole| whole.id == of)
        else {
            return;
        };
        match result {
            Ok(spool) => {
                waiting.rest = Rest::There(spool);
                self.whole_after_page();
            }
            Err(error) => self.whole_failed(&error),
        }
    }

    fn whole_failed(&mut self, error: &IngestError) {
        let Some(Whole { table: name, purpose, .. }) = &self.whole else { return };
        let (name, purpose) = (name.clone(), *purpose);
        self.drop_whole(&name);
        self.states_due.insert(name.clone());
        let (reason, passes, looks) = (with_causes(error), error.kind().retryable(), self.looks);
        if passes {
            tracing::warn!(table = %name, error = reason, "could not copy rows; trying again");
        } else {
            self.unseen = Some(Unseen::Suspected);
        }
        let copies = self.tables.get_mut(&name).map(|t| &mut t.copies);
        let mut is_final = false;
        for copying in copies.into_iter().flatten().filter(|c| c.purpose == purpose) {
            copying.pause(Instant::now(), self.settings.first_pause);
            is_final |= !passes && copying.refused(looks);
        }
        if is_final {
            let reason = format!("its rows could not be read: {reason}");
            self.give_up(&name, purpose, reason, "see to it, then");
        }
    }

    /// Before the log is read on.
    pub(super) fn whole_before_page(&mut self) {
        if self.open {
            // What its first pages touched counts until the transaction ends.
            return;
        }
        let Some(Whole { stage: Stage::Waiting(waiting), .. }) = &mut self.whole else { return };
        waiting.was_past = self.log.as_ref().is_some_and(|log| log.reached(&waiting.seen));
        waiting.touched = false;
    }

    /// Whether the log has come to where the rows were read, and nothing in between made them other
    /// ones.
    pub(super) fn whole_after_page(&mut self) {
        let Some(Whole { stage: Stage::Waiting(waiting), .. }) = &mut self.whole else { return };
        let Some(log) = &mut self.log else { return };
        if !waiting.is_here {
            if !log.reached(&waiting.seen) {
                return;
            }
            // A page that the log did not end at the place may have changes of both sides of it.
            let unclear = waiting.touched && (waiting.was_past || !waiting.stops);
            let Some(until) = waiting.until.place() else { return };
            if !unclear && !log.reached(until) {
                log.stop_at(Some(until));
                return;
            }
            log.stop_at(None);
            if unclear {
                self.whole = None;
                return;
            }
            waiting.is_here = true;
        }
        if let Rest::Reading = waiting.rest {
            return;
        }
        if let Some(Whole { id, table, purpose, stage: Stage::Waiting(waiting) }) =
            self.whole.take()
        {
            let rest = match waiting.rest {
                Rest::There(spool) => Some(spool),
                Rest::None | Rest::Reading => None,
            };
            let stage = Stage::Sending { batch: Some(waiting.first), rest, is_first: true };
            self.whole = Some(Whole { id, table, purpose, stage });
        }
    }

    /// Hands out the rows there are, and asks for more.
    pub(super) fn send_whole(&mut self) -> Option<Page> {
        let Some(Whole {
            id,
            table: name,
            purpose,
            stage: Stage::Sending { batch, rest, is_first },
        }) = &mut self.whole
        else {
            return None;
        };
        let batch = batch.take()?;
        let table = self.tables.get_mut(name)?;
        let mut page = Page::default();
        let was_first = std::mem::take(is_first);
        let is_whole = batch.num_rows() == 0 || rest.is_none();
        let compares = *purpose == Purpose::Compare;
        let built = if compares {
            let scope = match was_first && is_whole {
                true => CopyScope::Range { after: None, to: None, except: None },
                false => CopyScope::Part { first: was_first },
            };
            let table = Arc::clone(&table.schema);
            page.compared.push(RowCopy { table, scope, rows: batch.clone() });
            Ok(())
        } else if was_first {
            truncate(&table.schema).map(|truncate| page.batches.push(truncate))
        } else {
            Ok(())
        };
        let built = built.and_then(|()| {
            if batch.num_rows() > 0 && !compares {
                page.batches.push(ChangeBatch::inserts(Arc::clone(&table.schema), &batch)?);
            }
            Ok(())
        });
        let (id, name, rest) = (*id, name.clone(), rest.take());
        if let Err(error) = built {
            let reason = format!("its rows could not be put together: {error}");
            self.stop_table(&name, reason, format!("`medlake ingest resync {name}`"));
        } else {
            if !compares {
                table.state.copied_rows += batch.num_rows() as u64;
            }
            page.row_count = batch.num_rows();
            page.byte_count = batch.get_array_memory_size();
        }
        if let Some(spool) = rest.filter(|_| !is_whole && self.is_sending()) {
            let place = self.spool(id);
            self.jobs.spawn(async move { Job::More { id, result: place.next(spool).await } });
            page.open = !compares;
            self.open = !compares;
            return Some(page);
        }
        if compares {
            self.drop_whole(&name);
            let copies = self.tables.get_mut(&name).map(|table| &mut table.copies);
            copies.into_iter().for_each(|c| c.retain(|c| c.purpose != Purpose::Compare));
            self.close(&mut page);
        } else {
            self.whole_ended(&name, &mut page);
        }
        Some(page)
    }

    fn whole_ended(&mut self, name: &TableName, page: &mut Page) {
        self.drop_whole(name);
        let now = self.now();
        if let Some(table) = self.tables.get_mut(name)
            && table.state.phase == Phase::Snapshotting
        {
            let overtaken = table.copies.iter().flat_map(|c| c.overtakes.iter().cloned());
            page.released.extend(overtaken.map(|id| (name.clone(), id)));
            table.copies.retain(|c| c.purpose == Purpose::Compare);
            table.state.phase = Phase::Streaming;
            table.state.reason = None;
            table.state.since_micros = now;
            tracing::info!(table = %name, rows = table.state.copied_rows, "is copied");
        }
        self.states_due.insert(name.clone());
        self.count_quarantine(page);
        self.close(page);
    }

    /// More rows came, or there are none, or they did not come.
    pub(super) fn more(
        &mut self,
        of: u64,
        result: Result<(Spool, Option<RecordBatch>), IngestError>,
    ) {
        let Some(Whole { table, stage: Stage::Sending { rest, batch, .. }, .. }) =
            self.whole.as_mut().filter(|whole| whole.id == of)
        else {
            return;
        };
        match result {
            Ok((spool, more)) => {
                *rest = Some(spool);
                let schema = self.tables.get(table).map(|t| Arc::clone(t.schema.arrow_nullable()));
                *batch = more.or_else(|| schema.map(RecordBatch::new_empty));
            }
            Err(error) => self.whole_failed(&error),
        }
    }
}

/// All rows of a table go.
fn truncate(table: &Arc<TableSchema>) -> Result<ChangeBatch, ContractError> {
    let schema = table.arrow_nullable();
    let none = schema.fields().iter().map(|f| new_null_array(f.data_type(), 1)).collect();
    let none = RecordBatch::try_new(Arc::clone(schema), none).map_err(|source| {
        ContractError::Change { table: table.name().clone(), problem: source.to_string() }
    })?;
    ChangeBatch::new(Arc::clone(table), vec![Op::Truncate], none.clone(), none)
}
