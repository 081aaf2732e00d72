//! The committing side of the lake: one flush after the other.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use futures::StreamExt;
use iceberg::spec::Schema;
use medlake_contract::{Positions, SourceId, TableName, TableSchema};
use uuid::Uuid;

use crate::{
    catalog::{Catalog, CatalogKind, CatalogTable, Cause, Change, CommitError, NewTable},
    commit::{
        layout::Layout,
        partial::is_in,
        table::{Cleanup, CommittedTable, Retention},
        write::{TableWork, WrittenTable, is_dirty},
    },
    config::LakeConfig,
    error::LakeError,
    fault::Fault,
    format::{data_file::LakeFile, progress::Progress, schema::Shape},
    options::TableOptions,
    read::{
        holds::Holds,
        view::{ReadView, TableView},
    },
    storage::{Storage, WriteScope},
    table::shards::Seed,
};

/// Tables written at the same time.
const WRITERS: usize = 2;

/// What a flush did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlushReport {
    /// The version of the view that is now durable.
    pub version: u64,
    /// The source positions that are now durable: these may be acknowledged.
    pub positions: Positions,
    /// Tables that got a new snapshot.
    pub tables: usize,
    /// Rows written to data files.
    pub rows: u64,
    /// Rows newly deleted by position.
    pub deletes: u64,
}

/// How far the committed files of all tables are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cut {
    pub(crate) positions: Positions,
    /// The version of the view they hold.
    pub(crate) version: u64,
    pub(crate) committed_at_micros: Option<i64>,
}

impl Cut {
    fn of(view: &ReadView) -> Self {
        Self {
            positions: view.positions.clone(),
            version: view.version,
            committed_at_micros: view.committed_at_micros,
        }
    }
}

/// Everything that is needed once the catalog has accepted a commit, or to take it back.
pub(crate) struct Prepared {
    cut: Cut,
    /// In the order of `tables`.
    changes: Vec<Change>,
    tables: Vec<(CommittedTable, Cleanup)>,
    scopes: Vec<WriteScope>,
    pub(crate) written: Vec<WrittenTable>,
}

impl Prepared {
    fn report(&self) -> FlushReport {
        FlushReport {
            version: self.cut.version,
            positions: self.cut.positions.clone(),
            tables: self.tables.len(),
            rows: self.written.iter().map(|w| w.rows).sum(),
            deletes: self.written.iter().map(|w| w.deletes).sum(),
        }
    }
}

/// The committed side of all tables. Only one flush at a time holds it.
pub(crate) struct Committer {
    pub(crate) catalog: Box<dyn Catalog>,
    /// Of this writer.
    pub(crate) epoch: i64,
    pub(crate) storage: Storage,
    pub(crate) tables: BTreeMap<TableName, CommittedTable>,
    pub(crate) cut: Cut,
    /// The old snapshots that views of this process read.
    pub(crate) holds: Arc<Holds>,
    /// Whether a commit went wrong since a service was asked what is there.
    pub(crate) doubtful: bool,
    /// A commit handed to the catalog whose outcome is not known: its answer was lost, or the caller
    /// went away before it came.
    pending: Option<Prepared>,
}

impl Committer {
    pub(crate) fn new(
        catalog: Box<dyn Catalog>,
        epoch: i64,
        storage: Storage,
        tables: BTreeMap<TableName, CommittedTable>,
        cut: Cut,
        holds: Arc<Holds>,
    ) -> Self {
        Self { catalog, epoch, storage, tables, cut, holds, doubtful: false, pending: None }
    }

    /// Writes what `view` has beyond the committed files and builds the next snapshots. None when
    /// there is nothing to commit. Changes nothing but files that nobody knows yet.
    pub(crate) async fn prepare(
        &self,
        config: &Arc<LakeConfig>,
        view: &Arc<ReadView>,
    ) -> Result<Option<Prepared>, LakeError> {
        let scope = self.storage.begin();
        let prepared = self.prepare_in(config, view, &scope).await;
        if !matches!(prepared, Ok(Some(_))) {
            scope.discard().await;
        }
        prepared
    }

    async fn prepare_in(
        &self,
        config: &Arc<LakeConfig>,
        view: &Arc<ReadView>,
        scope: &WriteScope,
    ) -> Result<Option<Prepared>, LakeError> {
        let mut work = Vec::new();
        for (name, table) in &view.tables {
            if is_dirty(table) {
                work.extend(self.work(name, table, scope)?);
            }
        }
        let written: Vec<Result<WrittenTable, LakeError>> = futures::stream::iter(work)
            .map(|table| async move {
                tokio::task::spawn_blocking(move || table.write())
                    .await
                    .map_err(|source| LakeError::Task { source })?
            })
            .buffer_unordered(WRITERS)
            .collect()
            .await;
        // All have ended before one that failed is told: none writes on when files are taken back.
        let mut written: Vec<WrittenTable> = written.into_iter().collect::<Result<_, _>>()?;
        // Two writers that lock the same tables in the same order never wait for each other.
        written.sort_by(|a, b| a.name.cmp(&b.name));
        if written.is_empty() {
            match self.carrier(&view.positions) {
                Some(name) => written.push(WrittenTable::empty(name)),
                None => return Ok(None),
            }
        }
        let held = |table: &TableName| files_of(view, table);
        self.seal(config, Cut::of(view), written, vec![scope.clone()], held).await.map(Some)
    }

    /// One table to write; none when it is not committed here.
    pub(crate) fn work(
        &self,
        name: &TableName,
        view: &Arc<TableView>,
        scope: &WriteScope,
    ) -> Result<Option<TableWork>, LakeError> {
        let Some(committed) = self.tables.get(name) else { return Ok(None) };
        Ok(Some(TableWork {
            layout: Layout::of(&view.shape, &committed.metadata)?,
            location: committed.metadata.location().to_owned(),
            delete_files: committed.delete_files().cloned().collect(),
            scope: scope.clone(),
            view: Arc::clone(view),
        }))
    }

    /// Builds the next snapshots around what was written, into the last of `scopes`, and persists
    /// that. `held` gives the data files of a table that somebody may be reading.
    pub(crate) async fn seal(
        &self,
        config: &LakeConfig,
        cut: Cut,
        mut written: Vec<WrittenTable>,
        scopes: Vec<WriteScope>,
        held: impl Fn(&TableName) -> HashMap<String, Arc<LakeFile>>,
    ) -> Result<Prepared, LakeError> {
        let progress = Progress {
            positions: cut.positions.clone(),
            epoch: self.epoch,
            commit_id: Uuid::new_v4().to_string(),
            view_version: cut.version,
            committed_at_micros: cut.committed_at_micros,
            tables: match self.catalog.commits_together() || written.len() < 2 {
                true => Vec::new(),
                false => written.iter().map(|table| table.name.clone()).collect(),
            },
        };
        // What may have to be taken back leads to the snapshot before it.
        let least = if progress.tables.is_empty() { 0 } else { 2 };
        let snapshots = config.keep_snapshots.max(least);
        let retention = Retention { snapshots, micros: config.keep_snapshots_micros };
        let now = (config.clock)();
        let scope = scopes.last().cloned().unwrap_or_else(|| self.storage.begin());
        let mut changes = Vec::with_capacity(written.len());
        let mut tables = Vec::with_capacity(written.len());
        for table in &mut written {
            let Some(committed) = self.tables.get(&table.name) else { continue };
            let held = held(&table.name);
            let change = std::mem::take(&mut table.change);
            let (next, cleanup) =
                committed.next(&scope, change, &progress, now, &retention, &held).await?;
            changes.push(next.change_from(committed));
            tables.push((next, cleanup));
        }
        scope.persist().await?;
        Ok(Prepared { cut, changes, tables, scopes, written })
    }

    /// Tells a service of this writer, by an empty snapshot in each table: what an earlier writer hands
    /// in from now on was made from another snapshot, and is refused.
    pub(crate) async fn mark(&mut self, config: &LakeConfig) -> Result<(), LakeError> {
        if self.catalog.kind() == CatalogKind::Pointers || self.tables.is_empty() {
            return Ok(());
        }
        let written = self.tables.keys().cloned().map(WrittenTable::empty).collect();
        let scopes = vec![self.storage.begin()];
        let cut = self.cut.clone();
        let prepared = self.seal(config, cut, written, scopes, |_| HashMap::new()).await?;
        self.commit(prepared).await.map(drop)
    }

    /// A table to carry positions that moved without any row being left to write, preferably one of
    /// the source that moved. None when the positions did not move, or there is no table.
    fn carrier(&self, positions: &Positions) -> Option<TableName> {
        let moved: Vec<&SourceId> = positions
            .iter()
            .filter(|(source, at)| self.cut.positions.get(*source) != Some(*at))
            .map(|(source, _)| source)
            .collect();
        if moved.is_empty() {
            return None;
        }
        let own = |n: &&TableName| moved.iter().any(|s| s.as_str() == n.namespace());
        self.tables.keys().find(own).or_else(|| self.tables.keys().next()).cloned()
    }

    /// Hands a prepared flush to the catalog. On `Ok`, what it wrote must be installed.
    pub(crate) async fn commit(&mut self, prepared: Prepared) -> Result<Settled, LakeError> {
        let changes = prepared.changes.clone();
        // Set before the call: should the caller go away in the middle of it, the next flush asks.
        self.pending = Some(prepared);
        let answer = if self.storage.faults().hits(Fault::BeforeSwap) {
            Err(CommitError::Refused(LakeError::Catalog { doing: "commit", source: armed() }))
        } else {
            self.hand_in(&changes).await
        };
        let answer = match answer {
            Ok(_) if self.storage.faults().hits(Fault::AnswerLost) => {
                Err(CommitError::Unknown(armed()))
            }
            answer => answer,
        };
        match answer {
            Ok(listed) => self.settle(listed).ok_or_else(lost),
            Err(CommitError::Refused(error)) => {
                self.take_back().await;
                Err(error)
            }
            Err(CommitError::Unknown(source)) => match self.resolve().await? {
                Some(settled) => Ok(settled),
                None => Err(LakeError::Catalog { doing: "commit", source }),
            },
        }
    }

    async fn hand_in(&mut self, changes: &[Change]) -> Result<Vec<CatalogTable>, CommitError> {
        let answer = self.catalog.commit(self.epoch, changes).await;
        self.doubtful |= answer.is_err();
        answer
    }

    /// Finds out what became of a flush whose answer was lost: by reading the tables again, and
    /// looking for the snapshots it would have made. Some when it was committed, also when another
    /// program committed on top of it. A service is handed it once more when it is not there: should
    /// the first one arrive after all, only one of the two is made.
    pub(crate) async fn resolve(&mut self) -> Result<Option<Settled>, LakeError> {
        let Some(pending) = &self.pending else { return Ok(None) };
        let names: Vec<TableName> = pending.changes.iter().map(|c| c.table.clone()).collect();
        self.doubtful = true;
        if self.storage.faults().hits(Fault::RereadFails) {
            return Err(LakeError::CommitUnknown { source: armed() });
        }
        let mut again = self.catalog.kind() == CatalogKind::Service;
        loop {
            let listed = match self.catalog.settled(self.epoch, &names).await {
                Ok(listed) => listed,
                Err(LakeError::Catalog { source, .. }) => {
                    return Err(LakeError::CommitUnknown { source });
                }
                Err(error) => return Err(error),
            };
            let mut listed: BTreeMap<TableName, CatalogTable> =
                listed.into_iter().map(|l| (l.name.clone(), l)).collect();
            let found: Vec<CatalogTable> = names.iter().filter_map(|n| listed.remove(n)).collect();
            if self.is_made(&found).await? {
                return Ok(self.settle(found));
            }
            if !again {
                break;
            }
            again = false;
            let Some(pending) = &self.pending else { return Ok(None) };
            match self.catalog.commit(self.epoch, &pending.changes).await {
                Ok(listed) => return Ok(self.settle(listed)),
                // By the first one, or by another program.
                Err(CommitError::Refused(LakeError::CommitConflict { .. })) => {}
                Err(CommitError::Refused(LakeError::Catalog { source, .. }))
                | Err(CommitError::Unknown(source)) => {
                    return Err(LakeError::CommitUnknown { source });
                }
                Err(CommitError::Refused(error)) => return Err(error),
            }
        }
        match self.catalog.kind() {
            CatalogKind::Pointers => self.take_back().await,
            // Should it arrive after all, its files must be there: they are left to be found.
            CatalogKind::Service => self.pending = None,
        }
        Ok(None)
    }

    /// Whether the pending flush is in these tables: all of it, if any, unless the catalog changes one
    /// table at a time.
    async fn is_made(&self, found: &[CatalogTable]) -> Result<bool, LakeError> {
        let Some(pending) = &self.pending else { return Ok(false) };
        let needed = if self.catalog.commits_together() { 1 } else { pending.changes.len() };
        let mut there = 0;
        for listed in found {
            let at =
                pending.changes.iter().zip(&pending.tables).find(|(c, _)| c.table == listed.name);
            let Some((change, (table, _))) = at else { continue };
            if listed.location == change.from {
                continue;
            }
            let Some(id) = table.metadata.current_snapshot_id() else { continue };
            let made = match &listed.metadata {
                Some(metadata) => is_in(id, metadata),
                None if listed.location == change.to => true,
                None => {
                    let (name, location) = (listed.name.clone(), listed.location.clone());
                    let there = CatalogTable { name, location, metadata: None };
                    CommittedTable::load(&self.storage, there)
                        .await?
                        .metadata
                        .snapshot_by_id(id)
                        .is_some()
                }
            };
            there += usize::from(made);
        }
        Ok(there >= needed)
    }

    /// The pending flush is committed; `listed` is what the catalog made of it, if it says.
    fn settle(&mut self, listed: Vec<CatalogTable>) -> Option<Settled> {
        let mut prepared = self.pending.take()?;
        for made in listed {
            if let Some((table, _)) = prepared.tables.iter_mut().find(|(t, _)| t.name == made.name)
            {
                table.adopt(made);
            }
        }
        let report = prepared.report();
        let mut cleanups = Vec::with_capacity(prepared.tables.len());
        for (table, cleanup) in prepared.tables {
            self.tables.insert(table.name.clone(), table);
            cleanups.push(cleanup);
        }
        self.cut = prepared.cut;
        Some(Settled { report, written: prepared.written, cleanups })
    }

    /// The pending flush did not happen.
    async fn take_back(&mut self) {
        if let Some(prepared) = self.pending.take() {
            for scope in prepared.scopes {
                scope.discard().await;
            }
        }
    }

    /// Other programs committed to these tables, and what they did was taken in.
    pub(crate) fn rebased(&mut self, tables: Vec<CommittedTable>) {
        self.doubtful = false;
        for table in tables {
            // Files that went with their commits are found by looking.
            self.tables.insert(table.name.clone(), table);
        }
    }

    /// Removes files nobody needs any more.
    pub(crate) async fn clean(&mut self) {
        let holds = &self.holds;
        let released = self.tables.values_mut().flat_map(|table| table.release(holds)).collect();
        self.storage.remove(released).await;
    }

    /// Fails when another writer took the lake over, as far as this table tells.
    pub(crate) async fn check_epoch(&self, table: &TableName) -> Result<(), LakeError> {
        self.catalog.check_epoch(self.epoch, table).await
    }

    /// Whether the catalog has the table as it is known here.
    pub(crate) async fn is_current(&self, table: &CommittedTable) -> Result<bool, LakeError> {
        let listed = self.catalog.settled(self.epoch, std::slice::from_ref(&table.name)).await?;
        Ok(listed.iter().any(|l| l.name == table.name && l.location == table.location))
    }

    /// Forgets old snapshots of these tables, in one catalog transaction. Gives how many.
    pub(crate) async fn expire(
        &mut self,
        names: &[TableName],
        retention: &Retention,
        now_micros: i64,
    ) -> Result<usize, LakeError> {
        let scope = self.storage.begin();
        let expire = |table: &CommittedTable| {
            let next = table.without_old_snapshots(&scope, retention, now_micros);
            next.map(|next| next.map(|next| (next.0.change_from(table), next)))
        };
        let tables = names.iter().filter_map(|name| self.tables.get(name));
        let written: Result<Vec<_>, LakeError> =
            tables.filter_map(|table| expire(table).transpose()).collect();
        let tables = persisted(&scope, written).await?;
        if tables.is_empty() {
            return Ok(0);
        }
        let changes: Vec<Change> = tables.iter().map(|(change, ..)| change.clone()).collect();
        let made = known(&scope, self.hand_in(&changes).await).await?;
        let mut made: BTreeMap<TableName, CatalogTable> =
            made.into_iter().map(|l| (l.name.clone(), l)).collect();
        let mut expired = 0;
        for (_, (mut table, cleanup, snapshots)) in tables {
            expired += snapshots;
            if let Some(listed) = made.remove(&table.name) {
                table.adopt(listed);
            }
            self.tables.insert(table.name.clone(), table);
            cleanup.run(&self.storage).await;
        }
        self.clean().await;
        Ok(expired)
    }

    /// Enters new tables into the catalog.
    pub(crate) async fn create(
        &mut self,
        new: &[(Arc<TableSchema>, TableOptions)],
    ) -> Result<(), LakeError> {
        let scope = self.storage.begin();
        let kind = self.catalog.kind();
        let create = |(schema, options): &(Arc<TableSchema>, TableOptions)| {
            CommittedTable::create(&self.storage, &scope, schema, options, kind)
        };
        let written: Result<Vec<CommittedTable>, LakeError> = new.iter().map(create).collect();
        let mut tables = persisted(&scope, written).await?;
        let entries: Vec<NewTable<'_>> = tables
            .iter()
            .map(|t| NewTable { name: &t.name, location: &t.location, metadata: &t.metadata })
            .collect();
        let made = known(&scope, self.catalog.create(self.epoch, &entries).await).await?;
        for listed in made {
            if let Some(table) = tables.iter_mut().find(|t| t.name == listed.name) {
                table.adopt(listed);
            }
        }
        self.tables.extend(tables.into_iter().map(|t| (t.name.clone(), t)));
        Ok(())
    }

    /// The columns of a table, as they are stored.
    pub(crate) fn shape(&self, table: &TableName) -> Result<Arc<Shape>, LakeError> {
        self.table(table)?.shape().map(Arc::new)
    }

    /// What a table's index is seeded with.
    pub(crate) fn seed(&self, table: &TableName) -> Result<Seed, LakeError> {
        Ok(Seed::of(self.table(table)?.metadata.uuid()))
    }

    pub(crate) fn table(&self, name: &TableName) -> Result<&CommittedTable, LakeError> {
        self.tables.get(name).ok_or_else(|| LakeError::UnknownTable { table: name.clone() })
    }

    /// Gives tables other columns and lays them out anew, in one catalog transaction. Tables that are
    /// as asked for stay as they are.
    pub(crate) async fn alter(&mut self, altered: &[Altered]) -> Result<(), LakeError> {
        let scope = self.storage.begin();
        let alter = |altered: &Altered| {
            let before = self.table(&altered.table)?;
            let columns = altered.columns.clone();
            let Some((next, cleanup)) = before.alter(&scope, columns, altered.options.as_ref())?
            else {
                return Ok(None);
            };
            Ok(Some((next.change_from(before), next, cleanup)))
        };
        let written: Result<Vec<_>, LakeError> =
            altered.iter().filter_map(|a| alter(a).transpose()).collect();
        let tables = persisted(&scope, written).await?;
        if tables.is_empty() {
            return Ok(());
        }
        let changes: Vec<Change> = tables.iter().map(|(change, ..)| change.clone()).collect();
        let made = known(&scope, self.hand_in(&changes).await).await?;
        let mut made: BTreeMap<TableName, CatalogTable> =
            made.into_iter().map(|l| (l.name.clone(), l)).collect();
        for (_, mut table, cleanup) in tables {
            if let Some(listed) = made.remove(&table.name) {
                table.adopt(listed);
            }
            self.tables.insert(table.name.clone(), table);
            cleanup.run(&self.storage).await;
        }
        Ok(())
    }
}

/// Brings what was written to the storage; takes it back when it was not all written.
async fn persisted<T>(scope: &WriteScope, written: Result<T, LakeError>) -> Result<T, LakeError> {
    let persisted = match written {
        Ok(written) => scope.persist().await.map(|()| written),
        Err(error) => Err(error),
    };
    if persisted.is_err() {
        scope.discard().await;
    }
    persisted
}

/// What becomes of a table that is there.
pub(crate) struct Altered {
    pub(crate) table: TableName,
    pub(crate) columns: Schema,
    /// None when its layout stays.
    pub(crate) options: Option<TableOptions>,
}

/// Takes files back when the catalog is known not to name them. When that is not known they stay:
/// an orphan is found later, a missing file is not.
async fn known<T>(scope: &WriteScope, answer: Result<T, CommitError>) -> Result<T, LakeError> {
    match answer {
        Ok(made) => Ok(made),
        Err(CommitError::Refused(error)) => {
            scope.discard().await;
            Err(error)
        }
        Err(CommitError::Unknown(source)) => Err(LakeError::CommitUnknown { source }),
    }
}

/// What an armed fault says.
fn armed() -> Cause {
    Cause::from("a test made it fail")
}

/// A flush that is in the catalog.
pub(crate) struct Settled {
    pub(crate) report: FlushReport,
    pub(crate) written: Vec<WrittenTable>,
    pub(crate) cleanups: Vec<Cleanup>,
}

fn lost() -> LakeError {
    LakeError::CommitUnknown { source: Cause::from("the commit was handed in by nobody") }
}

/// The data files of one table in a view, by location.
fn files_of(view: &ReadView, table: &TableName) -> HashMap<String, Arc<LakeFile>> {
    let Some(table) = view.tables.get(table) else { return HashMap::new() };
    table
        .segments
        .iter()
        .filter_map(|s| s.file())
        .map(|f| (f.file.location.clone(), Arc::clone(&f.file)))
        .collect()
}
