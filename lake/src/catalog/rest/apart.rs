//! Commits to a server that changes one table at a time.
//!
//! The changes of a commit are handed in one after the other. When one cannot be made, those before it
//! are taken back: their tables get the snapshot they had. So a commit is made whole or not at all
//! here too, but for a moment others see some of its tables without the rest.

use iceberg::{TableRequirement, TableUpdate};

use super::RestCatalog;
use crate::{
    catalog::{CatalogTable, Cause, Change, CommitError},
    commit::partial::{is_in, taken_back},
    error::LakeError,
};

impl RestCatalog {
    /// Makes all changes, some of which may have been made by an earlier try.
    pub(super) async fn commit_apart(
        &self,
        changes: &[Change],
    ) -> Result<Vec<CatalogTable>, CommitError> {
        let mut made = Vec::with_capacity(changes.len());
        for (at, change) in changes.iter().enumerate() {
            match self.commit_again(change).await {
                Ok(table) => made.push(table),
                Err(CommitError::Refused(error)) => {
                    for done in &changes[..at] {
                        self.take_back(done).await?;
                    }
                    return Err(CommitError::Refused(error));
                }
                unknown => return unknown.map(|_| Vec::new()),
            }
        }
        Ok(made)
    }

    /// Makes a change that may have been made already.
    async fn commit_again(&self, change: &Change) -> Result<CatalogTable, CommitError> {
        let answer = self.commit_one(change).await;
        let (Err(CommitError::Refused(LakeError::CommitConflict { .. })), Some(made)) =
            (&answer, snapshot_made(change))
        else {
            return answer;
        };
        let there = self.load(&change.table).await;
        match there.map_err(|e| CommitError::Unknown(Cause::from(e)))? {
            Some(CatalogTable { metadata: Some(metadata), name, location })
                if is_in(made, &metadata) =>
            {
                Ok(CatalogTable { metadata: Some(metadata), name, location })
            }
            _ => answer,
        }
    }

    /// Gives a table the snapshot it had before a change that was made. A change that made none, of
    /// columns or of the past, stays.
    async fn take_back(&self, change: &Change) -> Result<(), CommitError> {
        let Some(made) = snapshot_made(change) else { return Ok(()) };
        let before = change.requirements.iter().find_map(|required| match required {
            TableRequirement::RefSnapshotIdMatch { snapshot_id, .. } => Some(*snapshot_id),
            _ => None,
        });
        let back = taken_back(&change.table, &change.from, made, before.flatten());
        match self.commit_one(&back).await {
            Err(CommitError::Refused(LakeError::CommitConflict { .. })) => {}
            answer => return answer.map(drop),
        }
        // By an earlier try, or by a later writer; or another program built on it.
        let there = self.load(&change.table).await;
        let there = there.map_err(|e| CommitError::Unknown(Cause::from(e)))?;
        match there.and_then(|table| table.metadata) {
            Some(metadata) if is_in(made, &metadata) => {
                Err(CommitError::Refused(LakeError::HalfCommitted { table: change.table.clone() }))
            }
            _ => Ok(()),
        }
    }
}

/// The snapshot a change adds.
fn snapshot_made(change: &Change) -> Option<i64> {
    change.updates.iter().find_map(|update| match update {
        TableUpdate::AddSnapshot { snapshot } => Some(snapshot.snapshot_id()),
        _ => None,
    })
}
