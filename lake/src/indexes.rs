//! Key indexes of a whole lake: loading them after opening, and their copies on disk.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt};
use medlake_contract::{Column, TableName};
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::{
    commit::flush::Committer,
    error::LakeError,
    lake::Lake,
    storage::blocking,
    table::{
        TableState,
        index_copy::{self, Meaning},
        load::{BuiltIndex, IndexSource},
    },
};

/// Indexes built at the same time.
const LOADERS: usize = 2;
/// Keys a table must have for a copy to be worth its while: fewer are read quickly.
const WORTH_A_COPY: usize = 50_000;
/// Slices of an index that are written under one hold of the lock: a millisecond or two.
const SLICES: usize = 4;

/// The key index of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexSize {
    /// Rows it finds.
    pub rows: usize,
    /// Bytes of memory it takes.
    pub bytes: usize,
}

impl Lake {
    /// Builds the key indexes that are not there: after opening, those of all tables. Views are there
    /// before, and changes of a table can be staged from the moment its index is; flushes may go on.
    /// An index comes from its copy, as far as that is right, else from the key columns. Costs nothing
    /// when all are there. Several callers at once do the work twice, with the same outcome.
    ///
    /// # Errors
    /// When a file cannot be read, or a key is in two rows. The indexes built until then stay.
    pub async fn load_indexes(&self) -> Result<(), LakeError> {
        if self.state().tables.values().all(|table| table.index().is_some()) {
            return Ok(());
        }
        let missing = self.without_index(&*self.committer().await);
        self.load(missing).await
    }

    /// As [`Self::load_indexes`], for one who has the committed side in hand.
    pub(crate) async fn load_indexes_of(&self, committer: &Committer) -> Result<(), LakeError> {
        self.load(self.without_index(committer)).await
    }

    fn without_index(&self, committer: &Committer) -> Vec<(TableName, Uuid)> {
        let state = self.state();
        let lacks = |name: &TableName| state.tables.get(name).is_some_and(|t| t.index().is_none());
        let tables = committer.tables.iter().filter(|(name, _)| lacks(name));
        tables.map(|(name, table)| (name.clone(), table.metadata.uuid())).collect()
    }

    /// Builds the indexes of these tables, where they are not there.
    pub(crate) async fn load(&self, tables: Vec<(TableName, Uuid)>) -> Result<(), LakeError> {
        futures::stream::iter(tables)
            .map(|(name, id)| self.load_index(name, id))
            .buffer_unordered(LOADERS)
            .try_collect()
            .await
    }

    async fn load_index(&self, name: TableName, id: Uuid) -> Result<(), LakeError> {
        loop {
            let path = self.copy_path(id);
            let source = {
                let state = self.state();
                let Some(table) = state.tables.get(&name) else { return Ok(()) };
                if table.index().is_some() {
                    return Ok(());
                }
                index_source(table, id)
            };
            let shape = Arc::clone(&source.shape);
            let runtime = Handle::current();
            let built = blocking(move || runtime.block_on(source.build(&path))).await?;
            let BuiltIndex { index, copied, read } = built;
            let mut state = self.state();
            let Some(table) = state.tables.get_mut(&name) else { return Ok(()) };
            // Another caller was quicker, and this one's picture of the rows may be old by now.
            if table.index().is_some() {
                return Ok(());
            }
            // Columns that changed meanwhile may change what identifies a row.
            if Arc::ptr_eq(table.shape(), &shape) {
                tracing::debug!(table = %name, copied, read, "key index is there");
                table.set_index(index);
                return Ok(());
            }
        }
    }

    /// Writes copies of the key indexes of large tables, for [`Self::load_indexes`] of the next process
    /// to be quick. At any time; best when everything is flushed, since a file with rows that died
    /// and are not committed as dead is read again. A copy takes the place of the one before only
    /// when it is whole.
    ///
    /// # Errors
    /// When a copy cannot be written. Nothing depends on it.
    pub async fn save_indexes(&self) -> Result<(), LakeError> {
        let tables: Vec<(TableName, Uuid)> = {
            let committer = self.committer().await;
            committer.tables.iter().map(|(n, t)| (n.clone(), t.metadata.uuid())).collect()
        };
        for (name, id) in tables {
            self.save_index(&name, id).await?;
        }
        Ok(())
    }

    async fn save_index(&self, name: &TableName, id: Uuid) -> Result<(), LakeError> {
        let path = self.copy_path(id);
        let mut files = Vec::new();
        let mut numbers = HashMap::new();
        let mut bytes = {
            let state = self.state();
            let Some(table) = state.tables.get(name) else { return Ok(()) };
            if table.index().is_none_or(|index| index.len() < WORTH_A_COPY) {
                return Ok(());
            }
            for (file, segment) in
                (0_u32..).zip(table.segments.values().filter(|s| s.file().is_some()))
            {
                if let Some(rows) = segment.file() {
                    files.push((rows.file.location.clone(), rows.file.rows));
                    numbers.insert(segment.id, file);
                }
            }
            index_copy::start(&index_source(table, id).meaning, &files)
        };
        let partial = path.with_extension("partial");
        let failed = |doing, path: PathBuf| {
            let location = path.display().to_string();
            move |source| LakeError::File { doing, location, source }
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("create", folder.to_owned()))?;
        }
        let mut file = File::create(&partial).map_err(failed("create", partial.clone()))?;
        let mut next = 0;
        loop {
            let last = {
                let state = self.state();
                let Some((table, index)) =
                    state.tables.get(name).and_then(|t| Some((t, t.index()?)))
                else {
                    return Ok(());
                };
                let place = |at| {
                    let at = table.resolve(at)?;
                    let file = numbers.get(&at.segment)?;
                    let rows = table.segments.get(&at.segment)?.file()?;
                    Some((*file, rows.position(at.row)))
                };
                let slices = index.slices();
                for slice in next..slices.min(next + SLICES) {
                    bytes.extend(index_copy::slice(index, slice, &place));
                }
                next += SLICES;
                next >= slices
            };
            if last {
                bytes.extend(index_copy::end());
            }
            let chunk = std::mem::take(&mut bytes);
            let written = tokio::task::spawn_blocking(move || {
                file.write_all(&chunk)?;
                Ok::<_, io::Error>(file)
            });
            let written = written.await.map_err(|source| LakeError::Task { source })?;
            file = written.map_err(failed("write", partial.clone()))?;
            if last {
                break;
            }
        }
        fs::rename(&partial, &path).map_err(failed("rename", partial))
    }

    /// Rows in the key index of each table that has one, and the memory it takes.
    #[must_use]
    pub fn index_sizes(&self) -> BTreeMap<TableName, IndexSize> {
        let state = self.state();
        let size = |table: &TableState| {
            let index = table.index()?;
            Some(IndexSize { rows: index.len(), bytes: index.memory_bytes() })
        };
        state.tables.iter().filter_map(|(n, t)| Some((n.clone(), size(t)?))).collect()
    }

    /// Where the copy of a table's index is.
    pub(crate) fn copy_path(&self, id: Uuid) -> PathBuf {
        self.config().root.join("indexes").join(format!("{id}.index"))
    }
}

pub(crate) fn index_source(table: &TableState, id: Uuid) -> IndexSource {
    let (shape, codec) = (table.shape(), table.codec());
    let columns: Vec<(i32, &Column)> = codec
        .columns()
        .iter()
        .map(|&at| (shape.fields()[at].id, &shape.schema().columns()[at]))
        .collect();
    IndexSource {
        meaning: Meaning::new(id, shape.schema().identity(), &columns),
        shape: Arc::clone(shape),
        codec: Arc::clone(codec),
        segments: table.segments.values().cloned().collect(),
    }
}
