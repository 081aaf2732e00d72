//! The lake itself: its tables, staging, publication, flush.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use medlake_contract::{ChangeSet, Positions, SchemaChange, TableName, TableSchema};
use tokio::sync::{oneshot, watch};

use crate::{
    alteration::Alteration,
    catalog::{self, Cause, Change, CommitError, database::Access},
    commit::{
        flush::{Altered, Committer, Cut, FlushReport},
        partial::to_take_back,
        table::CommittedTable,
    },
    config::LakeConfig,
    delta::Published,
    error::LakeError,
    maintain::Upkeep,
    open::{load, lock_folder},
    options::TableOptions,
    read::{
        as_of::{AsOf, Past},
        view::ReadView,
    },
    state::{Absorbing, State},
    storage::Storage,
    table::{TableState, absorb::Foreign},
};

/// How often a flush is tried while other programs commit to its tables.
const TRIES: u32 = 6;
/// The wait before the second try; doubled with each.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// How long what is staged may stay unpublished while a flush waits for it.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(10);

/// A lake: Iceberg tables that take changes row by row and are read as of one cut.
///
/// One writer, any number of readers. All methods take `&self`; `stage` and `publish` are meant for
/// one caller, the one that owns the order of changes.
pub struct Lake {
    pub(crate) config: Arc<LakeConfig>,
    state: Mutex<State>,
    published: watch::Sender<Arc<ReadView>>,
    committed: Mutex<Positions>,
    pub(crate) committer: tokio::sync::Mutex<Committer>,
    pub(crate) storage: Storage,
    /// One at a time, so that what one chose is not gone when it is done.
    pub(crate) maintenance: tokio::sync::Mutex<Upkeep>,
    pub(crate) delta: tokio::sync::Mutex<Published>,
    /// Holds the folder.
    _lock: File,
}

impl Lake {
    /// Opens the lake in `config.root`, or makes one. Takes the folder for itself, fences off an
    /// earlier writer and loads all tables: their rows can be read. Before changes of tables with rows
    /// can be staged, their key indexes must be there: await [`Self::load_indexes`]. Needs a Tokio
    /// runtime with timers.
    ///
    /// # Errors
    /// [`LakeError::Locked`] when another process has it; what is damaged or not understood.
    pub async fn open(config: LakeConfig) -> Result<Self, LakeError> {
        let (root, lock) = lock_folder(&config.root).await?;
        let mut wait = FIRST_WAIT;
        let mut tries = 1..TRIES;
        let (committer, mut state) = loop {
            match take_over(&config, &root).await {
                // An earlier writer, or another program, committed while we looked.
                Err(LakeError::CommitConflict { .. }) if tries.next().is_some() => {
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                opened => break opened?,
            }
        };
        let version = state.version;
        let first = Arc::new(state.view(version));
        Ok(Self {
            config: Arc::new(config),
            published: watch::Sender::new(first),
            committed: Mutex::new(state.positions.clone()),
            state: Mutex::new(state),
            storage: committer.storage.clone(),
            committer: tokio::sync::Mutex::new(committer),
            maintenance: tokio::sync::Mutex::default(),
            delta: tokio::sync::Mutex::default(),
            _lock: lock,
        })
    }

    /// Makes the tables that are not there, and gives those that are the declared columns. Columns are
    /// matched by name. A new one may stand anywhere, must be nullable, and is null in the rows there
    /// are; one that is no longer declared is dropped, and its values do not come back with a later
    /// column of its name; a type may become wider (`Int32` to `Int64`, `Float32` to `Float64`, a
    /// decimal to more digits), a required column nullable; all of this inside nested columns too.
    /// Doing it again changes nothing. New tables are in the views from the next publication on, and
    /// at once when nothing is staged. New tables are laid out by the default [`TableOptions`]; those
    /// that are there keep their layout.
    ///
    /// # Errors
    /// [`LakeError::Schema`] for any other difference; then no table is changed.
    pub async fn create_tables(&self, tables: &[Arc<TableSchema>]) -> Result<(), LakeError> {
        let declared = |schema| Declared { schema, renamed: &[], options: None };
        self.declare(tables.iter().map(declared).collect()).await
    }

    /// As [`Self::create_tables`], and lays the tables out by these options: new files of a table that
    /// is there are written by them, its old files stay as they are.
    ///
    /// # Errors
    /// As [`Self::create_tables`]; [`LakeError::Options`].
    pub async fn create_tables_with(
        &self,
        tables: &[(Arc<TableSchema>, TableOptions)],
    ) -> Result<(), LakeError> {
        let declared = tables.iter().map(|(schema, options)| Declared {
            schema,
            renamed: &[],
            options: Some(options),
        });
        self.declare(declared.collect()).await
    }

    /// As [`Self::create_tables`], after columns got other names, and all of it in one commit. Names
    /// that are those of now are left as they are: doing it again changes nothing.
    ///
    /// # Errors
    /// As [`Self::create_tables`].
    pub async fn evolve(&self, changes: &[SchemaChange]) -> Result<(), LakeError> {
        let declared = changes.iter().map(|change| Declared {
            schema: &change.table,
            renamed: &change.renamed,
            options: None,
        });
        self.declare(declared.collect()).await
    }

    /// Whether the tables are as these changes make them.
    #[must_use]
    pub fn is_evolved(&self, changes: &[SchemaChange]) -> bool {
        let state = self.state();
        let is_now = |table: &Arc<TableSchema>| {
            state.tables.get(table.name()).is_some_and(|held| held.schema() == table)
        };
        changes.iter().all(|change| is_now(&change.table))
    }

    async fn declare(&self, tables: Vec<Declared<'_>>) -> Result<(), LakeError> {
        let mut committer = self.committer.lock().await;
        self.resolve(&mut committer).await?;
        let mut new = Vec::new();
        let mut altered = Vec::new();
        {
            let state = self.state();
            for Declared { schema, renamed, options } in tables {
                if state.foreign.contains_key(schema.name()) {
                    return Err(foreign_table(schema.name()));
                }
                match state.tables.get(schema.name()) {
                    None => new.push((Arc::clone(schema), options.cloned().unwrap_or_default())),
                    Some(table) if table.schema() == schema && options.is_none() => {}
                    Some(table) => {
                        let renamed = to_do(renamed, table.schema());
                        if table.schema() != schema {
                            check_key(table.schema(), schema, &renamed)?;
                        }
                        altered.push(Altered {
                            table: schema.name().clone(),
                            columns: committer.table(schema.name())?.declared(schema, &renamed)?,
                            options: options.cloned(),
                        });
                    }
                }
            }
        }
        if !new.is_empty() {
            committer.create(&new).await?;
            let mut state = self.state();
            for (schema, _) in new {
                let seed = committer.seed(schema.name())?;
                let table = TableState::new(committer.shape(schema.name())?, seed)?;
                state.tables.insert(schema.name().clone(), table);
            }
            state.past = state.past.next(committer.tables.values());
            self.refresh(&mut state);
        }
        self.alter_all(&mut committer, &altered).await
    }

    /// Changes the columns of a table: all changes, in their order, or on an error none. Nothing is
    /// rewritten; rows in files and in memory are read as the columns are from now on. Changes are
    /// staged with the new columns at once; the views have them from the next publication on, and at
    /// once when nothing is staged.
    ///
    /// # Errors
    /// [`LakeError::UnknownTable`]; [`LakeError::Schema`] for a change that cannot be made.
    pub async fn alter(
        &self,
        table: &TableName,
        alterations: &[Alteration],
    ) -> Result<(), LakeError> {
        let mut committer = self.committer.lock().await;
        self.resolve(&mut committer).await?;
        let columns = committer.table(table)?.altered(alterations)?;
        let altered = Altered { table: table.clone(), columns, options: None };
        self.alter_all(&mut committer, &[altered]).await
    }

    /// Gives tables other columns or another layout.
    async fn alter_all(
        &self,
        committer: &mut Committer,
        altered: &[Altered],
    ) -> Result<(), LakeError> {
        if altered.is_empty() {
            return Ok(());
        }
        committer.alter(altered).await?;
        let mut without_index = Vec::new();
        {
            let mut state = self.state();
            for Altered { table: name, .. } in altered {
                let shape = committer.shape(name)?;
                if let Some(table) = state.tables.get_mut(name)
                    && table.schema() != shape.schema()
                    && table.evolve(shape)?
                {
                    without_index.push((name.clone(), committer.table(name)?.metadata.uuid()));
                }
            }
            state.past = state.past.next(committer.tables.values());
            self.refresh(&mut state);
        }
        self.load(without_index).await
    }

    /// How far each source is contained in committed files: what may be acknowledged to it, and
    /// where reading it goes on after a restart.
    #[must_use]
    pub fn committed_positions(&self) -> Positions {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_committed_positions(&self, positions: &Positions) {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).clone_from(positions);
    }

    /// How far each source is staged.
    #[must_use]
    pub fn staged_positions(&self) -> Positions {
        self.state().positions.clone()
    }

    /// Applies changes, to be seen with the next [`Self::publish`]. All of them, or on an error none.
    ///
    /// Insert of a key that is there replaces the row; update of one that is not inserts it; delete
    /// of one that is not does nothing. When `changes.positions` has a source at or before the
    /// position already staged, the batches of that source (the namespace of their tables) are
    /// dropped: a source may repeat whole change sets, and each is applied once.
    ///
    /// # Errors
    /// [`LakeError::UnknownTable`], [`LakeError::Rows`], and [`LakeError::IndexNotLoaded`] for a table
    /// whose rows are there but not yet its index.
    pub fn stage(&self, changes: &ChangeSet) -> Result<(), LakeError> {
        let mut state = self.state();
        let seen: Vec<&str> = changes
            .positions
            .iter()
            .filter(|(source, position)| {
                state.positions.get(*source).is_some_and(|staged| *position <= staged)
            })
            .map(|(source, _)| source.as_str())
            .collect();
        let mut checked = Vec::with_capacity(changes.batches.len());
        for batch in &changes.batches {
            let name = batch.table().name();
            if seen.contains(&name.namespace()) {
                continue;
            }
            let table =
                state.tables.get(name).ok_or_else(|| match state.foreign.contains_key(name) {
                    true => foreign_table(name),
                    false => LakeError::UnknownTable { table: name.clone() },
                })?;
            checked.push((name, table.check(batch)?));
        }
        for (name, batch) in checked {
            if let Some(table) = state.tables.get_mut(name) {
                table.apply(batch);
            }
        }
        for (source, position) in &changes.positions {
            if !seen.contains(&source.as_str()) {
                state.positions.insert(source.clone(), position.clone());
            }
        }
        state.committed_at_micros = state.committed_at_micros.max(changes.committed_at_micros);
        state.ahead = true;
        Ok(())
    }

    /// What is staged, as a view that nobody else sees: what a transform reads before publication.
    #[must_use]
    pub fn staged_view(&self) -> Arc<ReadView> {
        let mut state = self.state();
        let version = if state.ahead { state.version + 1 } else { state.version };
        Arc::new(state.view(version))
    }

    /// Makes everything staged visible at once, and wakes the watchers.
    pub fn publish(&self) -> Arc<ReadView> {
        let mut state = self.state();
        if !state.ahead {
            return self.read_view();
        }
        state.absorb();
        self.publish_state(&mut state)
    }

    fn publish_state(&self, state: &mut State) -> Arc<ReadView> {
        state.version += 1;
        state.ahead = false;
        let version = state.version;
        let view = Arc::new(state.view(version));
        self.published.send_replace(Arc::clone(&view));
        view
    }

    /// Another form of the published view, with the same rows: nobody is woken.
    pub(crate) fn replace(&self, view: ReadView) {
        self.published.send_if_modified(|published| {
            *published = Arc::new(view);
            false
        });
    }

    /// The view published last.
    #[must_use]
    pub fn read_view(&self) -> Arc<ReadView> {
        Arc::clone(&self.published.borrow())
    }

    /// All tables as they were at one commit of the past; see [`ReadView::as_of`].
    ///
    /// # Errors
    /// As there.
    pub async fn view_as_of(&self, as_of: AsOf) -> Result<Arc<ReadView>, LakeError> {
        self.read_view().as_of(as_of).await
    }

    /// The published views as they come. A slow watcher sees the newest, not each.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<ReadView>> {
        self.published.subscribe()
    }

    /// Rows that are in no file yet.
    #[must_use]
    pub fn hot_rows(&self) -> u64 {
        self.state().tables.values().map(|t| t.hot().0).sum()
    }

    /// Bytes of memory those rows take.
    #[must_use]
    pub fn hot_bytes(&self) -> u64 {
        self.state().tables.values().map(|t| t.hot().1).sum()
    }

    /// Whether enough is in memory that a flush should not wait for its time.
    #[must_use]
    pub fn flush_due(&self) -> bool {
        self.hot_rows() >= self.config.flush_rows || self.hot_bytes() >= self.config.flush_bytes
    }

    /// Writes everything published so far into files and commits all touched tables in one catalog
    /// transaction. Staging and publishing go on meanwhile; a second flush waits for the first.
    ///
    /// What other programs committed to the tables meanwhile (rows added, files compacted) is taken
    /// in first, with the next publication, and what was changed here is committed on top of it.
    /// Marts do not hear of it.
    ///
    /// # Errors
    /// [`LakeError::Fenced`] and [`LakeError::CommitConflict`] are final: the process must stop.
    /// After any other error nothing is lost and the next flush tries again.
    pub async fn flush(&self) -> Result<FlushReport, LakeError> {
        let mut committer = self.committer.lock().await;
        self.resolve(&mut committer).await?;
        if committer.is_behind().await? {
            self.take_in(&mut committer).await?;
        }
        let mut wait = FIRST_WAIT;
        for _ in 1..TRIES {
            match self.flush_once(&mut committer).await {
                Err(LakeError::CommitConflict { table }) => {
                    tracing::info!(%table, "another program committed; doing it again on top");
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                    self.take_in(&mut committer).await?;
                }
                ended => return ended,
            }
        }
        self.flush_once(&mut committer).await
    }

    /// Takes in what other programs committed.
    async fn take_in(&self, committer: &mut Committer) -> Result<(), LakeError> {
        // Which row of a key is the newer one, only an index can tell.
        self.load_indexes_of(committer).await?;
        let staged = {
            let mut state = self.state();
            let tables = state.tables.iter_mut();
            tables.map(|(n, t)| (n.clone(), (t.view(), Arc::clone(t.codec())))).collect()
        };
        let rebased = committer.rebase(&staged).await?;
        drop(staged);
        let (tables, committed): (BTreeMap<TableName, Foreign>, Vec<CommittedTable>) = rebased
            .into_iter()
            .map(|r| ((r.committed.name.clone(), r.foreign), r.committed))
            .unzip();
        let names: Vec<TableName> = tables.keys().cloned().collect();
        // Kept to the end, so that nobody waits while it is freed.
        let tables = Arc::new(tables);
        let (done, absorbed) = oneshot::channel();
        {
            let mut state = self.state();
            state.absorbing = Some(Absorbing { tables: Arc::clone(&tables), done });
            if !state.ahead {
                state.absorb();
                self.publish_state(&mut state);
            }
        }
        match tokio::time::timeout(PUBLISHED_WITHIN, absorbed).await {
            Ok(Ok(())) => {
                committer.rebased(committed);
                self.show_committed(committer);
                for table in &names {
                    self.repoint(table).await;
                }
            }
            _ => {
                let source = Cause::from("what is staged was not published in time");
                return Err(LakeError::Catalog {
                    doing: "take in another program's commit",
                    source,
                });
            }
        }
        Ok(())
    }

    async fn flush_once(&self, committer: &mut Committer) -> Result<FlushReport, LakeError> {
        let view = {
            let mut state = self.state();
            let view = self.read_view();
            for (name, table) in &view.tables {
                if let Some(own) = state.tables.get_mut(name) {
                    own.seal(table)?;
                }
            }
            view
        };
        let Some(prepared) = committer.prepare(&self.config, &view).await? else {
            committer.clean().await;
            return Ok(FlushReport {
                version: view.version,
                positions: view.positions.clone(),
                ..FlushReport::default()
            });
        };
        drop(view);
        let settled = committer.commit(prepared).await?;
        Ok(self.install(committer, settled).await)
    }

    /// Learns what became of an earlier flush whose answer was lost.
    pub(crate) async fn resolve(&self, committer: &mut Committer) -> Result<(), LakeError> {
        if let Some(settled) = committer.resolve().await? {
            self.install(committer, settled).await;
        }
        Ok(())
    }

    pub(crate) fn config(&self) -> &LakeConfig {
        &self.config
    }

    /// The committed side; waits for a flush that goes on.
    pub(crate) async fn committer(&self) -> tokio::sync::MutexGuard<'_, Committer> {
        self.committer.lock().await
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held is a defect that already ended its caller; the state is
        // changed only after all checks, so what is there is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn foreign_table(table: &TableName) -> LakeError {
    let feature = "another program as its writer, so it is read and never written here".to_owned();
    LakeError::Unsupported { table: table.clone(), feature }
}

/// Becomes the writer of the lake and reads what is there.
async fn take_over(config: &LakeConfig, root: &Path) -> Result<(Committer, State), LakeError> {
    let catalog = catalog::open(config, root, Access::Write).await?;
    let mut epoch = catalog.take_over(0).await?;
    let storage = Storage::open(config).await?;
    let loaded = load(catalog.tables().await?, &storage).await?;
    let undo = to_take_back(&loaded.committed)?;
    if let Some(Change { table, .. }) = undo.first() {
        tracing::warn!(%table, tables = undo.len(), "taking back half a commit of an earlier writer");
        catalog.commit(epoch, &undo).await.map_err(CommitError::into_error)?;
        // All is read again.
        return Err(LakeError::CommitConflict { table: table.clone() });
    }
    if let Some(newest) = loaded.progress.as_ref().map(|p| p.epoch).filter(|e| *e >= epoch) {
        // The catalog knows no writers, or forgot them, or the tables came from another one.
        epoch = catalog.take_over(newest).await?;
    }
    let past = Past::new(storage.clone()).next(loaded.committed.values());
    let holds = Arc::clone(&past.holds);
    let mut state = State {
        tables: loaded.tables,
        foreign: loaded.foreign,
        positions: Positions::new(),
        committed_at_micros: None,
        version: 0,
        ahead: false,
        past,
        absorbing: None,
    };
    if let Some(progress) = loaded.progress {
        state.positions = progress.positions;
        state.committed_at_micros = progress.committed_at_micros;
        state.version = progress.view_version;
    }
    let cut = Cut {
        positions: state.positions.clone(),
        version: state.version,
        committed_at_micros: state.committed_at_micros,
    };
    let committed = loaded.committed;
    let mut committer = Committer::new(catalog, epoch, storage, committed, cut, holds);
    committer.mark(config).await?;
    state.past = state.past.next(committer.tables.values());
    Ok((committer, state))
}

/// A table as it is to be.
struct Declared<'a> {
    schema: &'a Arc<TableSchema>,
    /// Columns that are there under another name, as (before, now), one after the other.
    renamed: &'a [(String, String)],
    /// None when its layout stays.
    options: Option<&'a TableOptions>,
}

/// Those of the renames that are not made in the table yet.
fn to_do(renamed: &[(String, String)], stored: &TableSchema) -> Vec<(String, String)> {
    let mut names: BTreeSet<&str> = stored.columns().iter().map(|c| c.name.as_str()).collect();
    let mut to_do = Vec::new();
    for (before, now) in renamed {
        if names.contains(before.as_str()) && !names.contains(now.as_str()) {
            names.remove(before.as_str());
            names.insert(now);
            to_do.push((before.clone(), now.clone()));
        }
    }
    to_do
}

/// A declared table must have the key of the stored one: rows are known by it.
fn check_key(
    stored: &TableSchema,
    declared: &TableSchema,
    renamed: &[(String, String)],
) -> Result<(), LakeError> {
    let wrong = |problem: String| Err(LakeError::Schema { table: stored.name().clone(), problem });
    if stored.identity() != declared.identity() {
        return wrong("its rows are identified in another way".to_owned());
    }
    let key = |schema: &TableSchema| -> Vec<String> {
        schema.key_indices().iter().map(|&k| schema.columns()[k].name.clone()).collect()
    };
    let mut stored_key = key(stored);
    for (before, now) in renamed {
        stored_key.iter_mut().filter(|name| *name == before).for_each(|name| name.clone_from(now));
    }
    if stored_key != key(declared) {
        return wrong("the key is another one".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
