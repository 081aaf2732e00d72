//! What keeps a lake healthy while it is written to: run by itself, round by round, or asked for.

pub(crate) mod check;
pub(crate) mod compact;
pub(crate) mod manifests;

use std::sync::Arc;

use medlake_contract::TableName;

use crate::{
    commit::table::Retention,
    error::LakeError,
    lake::Lake,
    maintain::compact::{CompactReport, Limits},
};

/// Times a table's old snapshots are looked at when they expire while that goes on.
const LOOKS: usize = 5;

/// Files that nothing names are looked for this often, in microseconds, or as often as one can
/// become old enough to remove.
const ORPHANS_EVERY: i64 = 60 * 60 * 1_000_000;

/// What rounds of maintenance remember.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    /// Tables in whose folders to look for files that nothing names.
    unswept: Vec<TableName>,
    /// When that began last, in microseconds.
    swept_at: Option<i64>,
}

/// What one round of maintenance did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaintenanceReport {
    /// The table whose files were merged; none when nothing was due.
    pub compacted: Option<TableName>,
    /// What was merged.
    pub compaction: CompactReport,
    /// The table in whose folder files that nothing names were looked for.
    pub swept: Option<TableName>,
    /// How many were removed.
    pub orphans: usize,
}

impl MaintenanceReport {
    /// Whether nothing was due: the next round can wait.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.compacted.is_none() && self.swept.is_none()
    }
}

impl Lake {
    /// One bounded round of what is due: merges files of at most one table, at most 256 MB of them,
    /// or removes what earlier runs left in the folder of one table. Staging, publishing, reading and
    /// flushing go on meanwhile. A second call waits for the first; dropping the future ends the
    /// round, and what it had written is removed.
    ///
    /// # Errors
    /// As [`Lake::flush`]. Nothing is lost; the next round tries again.
    pub async fn maintain(&self) -> Result<MaintenanceReport, LakeError> {
        let mut upkeep = self.maintenance.lock().await;
        self.refresh_foreign().await?;
        let mut report = MaintenanceReport::default();
        let limits = Limits::due(&self.config);
        let tables = self.table_names();
        for table in &tables {
            if let Some(done) = self.compact_once(limits, table).await? {
                report.compaction = done;
                report.compacted = Some(table.clone());
                return Ok(report);
            }
        }
        let now = (self.config.clock)();
        let every = self.config.orphan_micros.max(ORPHANS_EVERY);
        if upkeep.swept_at.is_none_or(|at| now.saturating_sub(at) >= every) {
            upkeep.unswept = tables;
            upkeep.swept_at = Some(now);
        }
        if let Some(table) = upkeep.unswept.pop() {
            report.orphans = self.remove_orphans_of(&table).await?;
            report.swept = Some(table);
        }
        Ok(report)
    }

    fn table_names(&self) -> Vec<TableName> {
        self.state().tables.keys().cloned().collect()
    }

    /// The tables asked for; when none is named, all that the lake writes.
    ///
    /// # Errors
    /// [`LakeError::UnknownTable`].
    pub fn own_tables(&self, tables: &[TableName]) -> Result<Vec<TableName>, LakeError> {
        let all = self.table_names();
        match tables.iter().find(|t| !all.contains(t)) {
            Some(unknown) => Err(LakeError::UnknownTable { table: unknown.clone() }),
            None if tables.is_empty() => Ok(all),
            None => Ok(tables.to_vec()),
        }
    }

    /// Merges all files that can be merged, of these tables or, when none is named, of all. Calls
    /// `progress` with each table and what was done in it. Staging and flushing go on meanwhile.
    ///
    /// # Errors
    /// [`LakeError::UnknownTable`]; else as [`Lake::flush`].
    pub async fn compact(
        &self,
        tables: &[TableName],
        progress: &mut (dyn FnMut(&TableName, CompactReport) + Send),
    ) -> Result<CompactReport, LakeError> {
        let _alone = self.maintenance.lock().await;
        let limits = Limits::asked(&self.config);
        let mut total = CompactReport::default();
        for table in self.own_tables(tables)? {
            let mut of_table = CompactReport::default();
            // What was merged is not small any more, or is alone.
            while let Some(done) = self.compact_once(limits, &table).await? {
                of_table.add(done);
            }
            progress(&table, of_table);
            total.add(of_table);
        }
        Ok(total)
    }

    /// Forgets snapshots of these tables or, when none is named, of all: those that are not among the
    /// newest `keep_snapshots` and were replaced more than `keep_micros` microseconds ago. The files
    /// only they name go when nobody reads them any more. Gives how many snapshots went.
    ///
    /// # Errors
    /// [`LakeError::UnknownTable`]; else as [`Lake::flush`].
    pub async fn expire(
        &self,
        tables: &[TableName],
        keep_snapshots: usize,
        keep_micros: i64,
    ) -> Result<usize, LakeError> {
        let _alone = self.maintenance.lock().await;
        let names = self.own_tables(tables)?;
        for table in &names {
            // So that it is known which files go with the snapshots.
            self.remove_orphans_of(table).await?;
        }
        let mut committer = self.committer.lock().await;
        self.resolve(&mut committer).await?;
        let retention = Retention { snapshots: keep_snapshots, micros: keep_micros };
        let expired = committer.expire(&names, &retention, (self.config.clock)()).await?;
        self.show_committed(&committer);
        Ok(expired)
    }

    /// Removes files in the folders of these tables or, when none is named, of all, that nothing names
    /// and that are older than [`LakeConfig::orphan_micros`](crate::LakeConfig::orphan_micros). Gives
    /// how many.
    ///
    /// # Errors
    /// [`LakeError::UnknownTable`]; [`LakeError::Fenced`], for to a writer that was replaced the files
    /// of the one after it would be orphans; what could not be read: then nothing is removed.
    pub async fn remove_orphans(&self, tables: &[TableName]) -> Result<usize, LakeError> {
        let _alone = self.maintenance.lock().await;
        let mut removed = 0;
        for table in self.own_tables(tables)? {
            removed += self.remove_orphans_of(&table).await?;
        }
        Ok(removed)
    }

    /// Looks with nothing held: a file that is old enough and that nothing names now is named by
    /// nothing later either.
    async fn remove_orphans_of(&self, name: &TableName) -> Result<usize, LakeError> {
        let mut attempts = 0;
        let (location, mut leftovers) = loop {
            let committer = self.committer.lock().await;
            let Some(table) = committer.tables.get(name).cloned() else { return Ok(0) };
            // What another program committed meanwhile is not known here, and no orphan.
            if !committer.is_current(&table).await? {
                tracing::info!(table = %name, "another program committed: looks for orphans later");
                return Ok(0);
            }
            drop(committer);
            let before = (self.config.clock)().saturating_sub(self.config.orphan_micros);
            attempts += 1;
            match table.leftovers(&self.storage, before).await {
                Ok(leftovers) => break (table.metadata.location().to_owned(), leftovers),
                // Snapshots went with their lists while they were read: there is another commit now.
                Err(error) if attempts < LOOKS && error.is_missing() => {
                    let committer = self.committer.lock().await;
                    if committer.tables.get(name).is_some_and(|t| t.location == table.location) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        };
        if leftovers.has_delta_log {
            leftovers.spare(&self.hold_delta_files(name, &location).await?);
        }
        let mut committer = self.committer.lock().await;
        // To a writer that was replaced, the files of the one after it would be orphans.
        committer.check_epoch(name).await?;
        let holds = Arc::clone(&committer.holds);
        let Some(table) = committer.tables.get_mut(name) else { return Ok(0) };
        let orphans = table.retire(leftovers, &holds);
        drop(committer);
        let removed = orphans.len();
        if removed > 0 {
            tracing::info!(table = %name, removed, "removed orphan files");
        }
        self.storage.remove(orphans).await;
        Ok(removed)
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
