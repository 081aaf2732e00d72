//! Tables that come, or get columns, while the log is read: they are there before their next row is.

use futures::future::BoxFuture;
use medlake_contract::SchemaChange;

use super::{Database, jobs::Job};
use crate::{
    IngestError,
    log::{FoundTables, Log, Rows},
};

/// Tables that the log has not met so far, or not as they are.
#[derive(Debug)]
pub(super) enum Unseen<P> {
    /// There may be some.
    Suspected,
    /// These were there at some time after this page and before this place.
    Found { found: FoundTables, after: u64, before: P },
}

/// Asks for the tables, and then for the end of the log.
async fn look<L: Log, R: Rows<Place = L::Place>>(
    mut rows: R,
    (at, after): (L::Place, u64),
    end: BoxFuture<'static, Result<L::Place, IngestError>>,
) -> Job<L, R> {
    let found = rows.tables(&at).await;
    let result = match found {
        Ok(found) => end.await.map(|before| Unseen::Found { found, after, before }),
        Err(error) => Err(error),
    };
    Job::Looked { rows, result }
}

impl<L: Log, R: Rows<Place = L::Place>> Database<L, R> {
    /// Asks for tables that came, and answers whether there are any to be told of: when the log is past
    /// where they are like that. Those it met before are known by then; one whose rows are copied is
    /// asked for its rows by the columns it has.
    pub(super) fn see(&mut self) -> bool {
        match self.unseen.take() {
            Some(Unseen::Suspected) if self.must_wait() => self.unseen = Some(Unseen::Suspected),
            Some(Unseen::Suspected) => match (self.rows.pop(), &self.log) {
                (Some(rows), Some(log)) => {
                    self.jobs.spawn(look(rows, (log.at().clone(), self.pages), log.end()));
                }
                // All connections are busy: later.
                (rows, _) => {
                    self.rows.extend(rows);
                    self.unseen = Some(Unseen::Suspected);
                }
            },
            Some(Unseen::Found { found, after, before }) => {
                if !self.log.as_ref().is_some_and(|log| log.reached(&before)) {
                    self.unseen = Some(Unseen::Found { found, after, before });
                    return false;
                }
                for table in found.tables {
                    let name = table.name().clone();
                    let is_told = match self.tables.get(&name) {
                        Some(known) if known.copies.is_empty() || *known.schema == *table => true,
                        // What the log told meanwhile may be newer.
                        Some(known) if known.moved_at > after => {
                            self.unseen = Some(Unseen::Suspected);
                            true
                        }
                        Some(_) => false,
                        None => self.refused.contains_key(&name),
                    };
                    if !is_told {
                        let change = SchemaChange { table, renamed: Vec::new() };
                        self.schema_moved(&change);
                        self.schemas_due.push(change);
                    }
                }
                for copying in self.tables.values_mut().flat_map(|table| &mut table.copies) {
                    copying.awaits_columns = false;
                }
            }
            None => {}
        }
        !self.schemas_due.is_empty()
    }

    /// Whether rows are to be copied whose columns could not be asked for a moment ago.
    fn must_wait(&self) -> bool {
        let copies = self.tables.values().flat_map(|table| &table.copies);
        let mut waits = copies.filter(|copying| copying.awaits_columns);
        waits.any(|c| c.paused_until().is_some_and(|until| until > self.looked_at))
    }

    /// The tables could not be asked for. New ones come with their first row; rows that wait for their
    /// columns are not read before those are known.
    pub(super) fn ask_later(&mut self) {
        let (now, pause) = (self.looked_at, self.settings.first_pause);
        let copies = self.tables.values_mut().flat_map(|table| &mut table.copies);
        for copying in copies.filter(|copying| copying.awaits_columns) {
            copying.pause(now, pause);
            self.unseen = Some(Unseen::Suspected);
        }
    }
}
