//! Transactions larger than memory: what is staged of them goes to files before it is published.

use std::collections::BTreeSet;

use crate::{
    commit::write::{TableWork, WrittenTable},
    error::LakeError,
    lake::Lake,
    storage::WriteScope,
    table::forward::Carried,
};

impl Lake {
    /// Moves rows that are staged and not published from memory into files, so that a transaction may
    /// be larger than memory. Nobody sees them before, and no commit names the files until the
    /// [`flush`](Self::flush) after the publication. Should the process end before that, they are
    /// orphans. What is published already is flushed first. Gives the rows written.
    ///
    /// Not to be called while somebody else stages or publishes.
    ///
    /// # Errors
    /// As [`Self::flush`]; when the files cannot be written. Nothing is lost then, and the rows stay
    /// in memory.
    pub async fn spill(&self) -> Result<u64, LakeError> {
        self.flush().await?;
        let committer = self.committer().await;
        let scope = self.storage.begin();
        let mut work = Vec::new();
        {
            let mut state = self.state();
            let published = self.read_view();
            let version = state.version + 1;
            let staged = state.view(version);
            for (name, table) in &staged.tables {
                let seen = published.tables.get(name).map_or(&[][..], |t| &t.segments[..]);
                // The open segment may be there, with no row yet.
                let seen: BTreeSet<u32> =
                    seen.iter().filter(|s| s.rows > 0).map(|s| s.id).collect();
                let unseen = table.segments.iter().filter(|s| s.file().is_none() && s.rows > 0);
                let segments: BTreeSet<u32> =
                    unseen.map(|s| s.id).filter(|id| !seen.contains(id)).collect();
                let Some(own) = state.tables.get_mut(name).filter(|_| !segments.is_empty()) else {
                    continue;
                };
                own.seal(table)?;
                work.extend(committer.work(name, table, &scope)?.map(|work| (work, segments)));
            }
        }
        match spill(work, &scope).await {
            Ok(written) => {
                let mut state = self.state();
                for (written, carried) in &written {
                    if let Some(table) = state.tables.get_mut(&written.name) {
                        table.spilled(written, carried);
                    }
                }
                Ok(written.iter().map(|(w, _)| w.rows).sum())
            }
            Err(error) => {
                scope.discard().await;
                Err(error)
            }
        }
    }
}

async fn spill(
    work: Vec<(TableWork, BTreeSet<u32>)>,
    scope: &WriteScope,
) -> Result<Vec<(WrittenTable, Vec<Carried>)>, LakeError> {
    let written = tokio::task::spawn_blocking(move || {
        let spill = |(work, segments): &(TableWork, BTreeSet<u32>)| {
            let written = work.spill(segments)?;
            let carried = written.replacements.iter();
            let carried = carried.map(|r| Carried::up_to(r, &work.view.segments)).collect();
            Ok((written, carried))
        };
        work.iter().map(spill).collect::<Result<Vec<_>, LakeError>>()
    });
    let written = written.await.map_err(|source| LakeError::Task { source })??;
    scope.persist().await?;
    Ok(written)
}
