//! Tables that come while the log is read: they are there before their first row is.

use futures::future::BoxFuture;
use medlake_contract::SchemaChange;

use super::{Database, jobs::Job};
use crate::{
    IngestError,
    log::{FoundTables, Log, Rows},
};

/// Tables that the log has not met so far.
#[derive(Debug)]
pub(super) enum Unseen<P> {
    /// There may be some.
    Suspected,
    /// These were there right before this place.
    Found(FoundTables, P),
}

/// Asks for the tables, and then for the end of the log.
async fn look<L: Log, R: Rows<Place = L::Place>>(
    mut rows: R,
    at: L::Place,
    end: BoxFuture<'static, Result<L::Place, IngestError>>,
) -> Job<L, R> {
    let found = rows.tables(&at).await;
    let result = match found {
        Ok(found) => end.await.map(|end| (found, end)),
        Err(error) => Err(error),
    };
    Job::Looked { rows, result }
}

impl<L: Log, R: Rows<Place = L::Place>> Database<L, R> {
    /// Asks for tables that came, and answers whether there are any to be told of: when the log is past
    /// where they are like that. Those it met before are known by then.
    pub(super) fn see(&mut self) -> bool {
        match self.unseen.take() {
            Some(Unseen::Suspected) => match (self.rows.pop(), &self.log) {
                (Some(rows), Some(log)) => {
                    self.jobs.spawn(look(rows, log.at().clone(), log.end()));
                }
                // All connections are busy: later.
                (rows, _) => {
                    self.rows.extend(rows);
                    self.unseen = Some(Unseen::Suspected);
                }
            },
            Some(Unseen::Found(found, end)) => {
                if !self.log.as_ref().is_some_and(|log| log.reached(&end)) {
                    self.unseen = Some(Unseen::Found(found, end));
                    return false;
                }
                for table in found.tables {
                    let name = table.name().clone();
                    if !self.tables.contains_key(&name) && !self.refused.contains_key(&name) {
                        let change = SchemaChange { table, renamed: Vec::new() };
                        self.schema_moved(&change);
                        self.schemas_due.push(change);
                    }
                }
            }
            None => {}
        }
        !self.schemas_due.is_empty()
    }
}
