//! What keeps a lake healthy while it is written to: run by itself, round by round, or asked for.

pub(crate) mod compact;

use medlake_contract::TableName;

use crate::{
    error::LakeError,
    lake::Lake,
    maintain::compact::{CompactReport, Limits},
};

/// What one round of maintenance did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaintenanceReport {
    /// The table whose files were merged; none when nothing was due.
    pub compacted: Option<TableName>,
    /// What was merged.
    pub compaction: CompactReport,
}

impl MaintenanceReport {
    /// Whether nothing was due: the next round can wait.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.compacted.is_none()
    }
}

impl Lake {
    /// One bounded round of what is due: merges files of at most one table, at most 256 MB of them.
    /// Staging, publishing, reading and flushing go on meanwhile. A second call waits for the first;
    /// dropping the future ends the round, and what it had written is removed.
    ///
    /// # Errors
    /// As [`Lake::flush`]. Nothing is lost; the next round tries again.
    pub async fn maintain(&self) -> Result<MaintenanceReport, LakeError> {
        let _alone = self.maintenance.lock().await;
        let mut report = MaintenanceReport::default();
        let tables: Vec<TableName> = self.state().tables.keys().cloned().collect();
        for table in tables {
            let limits = Limits::due(&self.config);
            if let Some(done) = self.compact_once(limits, &table).await? {
                report.compaction.add(done);
                report.compacted = Some(table);
                break;
            }
        }
        Ok(report)
    }

    /// Merges once what is over the limits in a table.
    async fn compact_once(
        &self,
        limits: Limits,
        table: &TableName,
    ) -> Result<Option<CompactReport>, LakeError> {
        let Some(plan) = self.plan_compaction(limits, table).await? else { return Ok(None) };
        let Some(merged) = self.write_compaction(plan).await? else { return Ok(None) };
        self.commit_compaction(merged).await
    }
}
