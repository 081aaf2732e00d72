//! Writing the manifests of a table anew: few, and by partition.

use std::collections::HashMap;

use medlake_contract::TableName;

use crate::{
    commit::{table::CommittedTable, write::WrittenTable},
    error::LakeError,
    lake::Lake,
};

/// How many manifests a table had, and has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManifestReport {
    /// Before.
    pub before: usize,
    /// After; the same when there is nothing to gain.
    pub after: usize,
}

impl ManifestReport {
    pub(crate) fn of(table: &CommittedTable) -> Self {
        let (before, gathered) = table.manifest_counts();
        Self { before, after: gathered.min(before) }
    }
}

impl Lake {
    /// Writes the manifests of these tables or, when none is named, of all anew, where fewer hold the
    /// same: files of neighbouring partitions together, so that a query of some partitions reads few of
    /// them. A flush keeps their number low by itself, in the order files come. Calls `progress` with
    /// each table and what was done in it. Staging and publishing go on meanwhile.
    ///
    /// # Errors
    /// [`LakeError::UnknownTable`]; else as [`Lake::flush`].
    pub async fn rewrite_manifests(
        &self,
        tables: &[TableName],
        progress: &mut (dyn FnMut(&TableName, ManifestReport) + Send),
    ) -> Result<(), LakeError> {
        let _alone = self.maintenance.lock().await;
        for table in self.own_tables(tables)? {
            progress(&table, self.rewrite_manifests_of(&table).await?);
        }
        Ok(())
    }

    async fn rewrite_manifests_of(&self, table: &TableName) -> Result<ManifestReport, LakeError> {
        let mut committer = self.committer.lock().await;
        self.resolve(&mut committer).await?;
        let report = ManifestReport::of(committer.table(table)?);
        if report.after == report.before {
            return Ok(report);
        }
        let mut written = WrittenTable::empty(table.clone());
        (written.change.rewrite, written.change.gather) = (true, true);
        let cut = committer.cut.clone();
        let scope = self.storage.begin();
        let scopes = vec![scope.clone()];
        let sealed = committer.seal(&self.config, cut, vec![written], scopes, |_| HashMap::new());
        let prepared = match sealed.await {
            Ok(prepared) => prepared,
            Err(error) => {
                scope.discard().await;
                return Err(error);
            }
        };
        let settled = committer.commit(prepared).await?;
        self.install(&mut committer, settled).await;
        Ok(report)
    }
}
