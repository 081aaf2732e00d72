//! Opening a lake: from the catalog to tables with key indexes.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt};
use iceberg::spec::{DataContentType, DataFileFormat};
use medlake_contract::{TableName, TableSchema};
use roaring::RoaringBitmap;

use crate::{
    commit::{manifest::Entry, table::CommittedTable},
    error::LakeError,
    format::{
        data_file::LakeFile,
        position_deletes::read_deletes,
        progress::Progress,
        schema::{field_ids, table_schema},
    },
    storage::Storage,
    table::{TableState, shards::Seed},
};

/// Tables loaded at the same time.
const LOADERS: usize = 2;

/// The folder, made when missing and locked until the file is dropped, as an absolute path.
pub(crate) fn lock_folder(root: &Path) -> Result<(PathBuf, File), LakeError> {
    let failed = |doing| {
        let path = root.to_owned();
        move |source| LakeError::File { doing, path, source }
    };
    fs::create_dir_all(root.join("warehouse")).map_err(failed("create"))?;
    let root = root.canonicalize().map_err(failed("find"))?;
    let path = root.join("lake.lock");
    let lock = File::create(&path).map_err(|source| LakeError::File {
        doing: "create",
        path: path.clone(),
        source,
    })?;
    match lock.try_lock() {
        Ok(()) => Ok((root, lock)),
        Err(TryLockError::WouldBlock) => Err(LakeError::Locked { root }),
        Err(TryLockError::Error(source)) => Err(LakeError::File { doing: "lock", path, source }),
    }
}

/// What the catalog's tables hold.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) committed: BTreeMap<TableName, CommittedTable>,
    pub(crate) tables: BTreeMap<TableName, TableState>,
    /// Of the newest commit.
    pub(crate) progress: Option<Progress>,
}

/// Loads all tables that are ours, which must have their files in `warehouse`.
pub(crate) async fn load(
    catalog: Vec<(TableName, String)>,
    warehouse: &Path,
) -> Result<Loaded, LakeError> {
    let mut loaded = Loaded::default();
    let tables: Vec<(CommittedTable, Option<TableState>)> = futures::stream::iter(catalog)
        .map(|(name, location)| load_table(name, location))
        .buffer_unordered(LOADERS)
        .try_collect()
        .await?;
    for (committed, state) in tables {
        let Some(state) = state else {
            tracing::info!(table = %committed.name, "left alone: made by another program");
            continue;
        };
        check_folder(&committed, warehouse)?;
        if let Some(progress) = committed.progress()?
            && loaded
                .progress
                .as_ref()
                .is_none_or(|p| (p.epoch, p.view_version) < (progress.epoch, progress.view_version))
        {
            loaded.progress = Some(progress);
        }
        loaded.tables.insert(committed.name.clone(), state);
        loaded.committed.insert(committed.name.clone(), committed);
    }
    Ok(loaded)
}

/// Locations are absolute, so the catalog of a copied folder names the files of the original: to
/// write there, or to clean up, would damage it.
fn check_folder(table: &CommittedTable, warehouse: &Path) -> Result<(), LakeError> {
    let path = Storage::path(table.metadata.location());
    let inside = path.starts_with(warehouse)
        || path.canonicalize().is_ok_and(|path| path.starts_with(warehouse));
    if inside {
        return Ok(());
    }
    let (table, feature) = (table.name.clone(), format!("files in another folder, {path:?}"));
    Err(LakeError::Unsupported { table, feature })
}

async fn load_table(
    name: TableName,
    location: String,
) -> Result<(CommittedTable, Option<TableState>), LakeError> {
    let committed = CommittedTable::load(name.clone(), location).await?;
    let Some(schema) = table_schema(&name, &committed.metadata)? else {
        return Ok((committed, None));
    };
    let schema = Arc::new(schema);
    let opening = FilesToOpen::of(&schema, &committed)?;
    let seed = Seed::of(committed.metadata.uuid());
    let state = tokio::task::spawn_blocking(move || {
        let mut state = TableState::new(Arc::clone(&schema), seed)?;
        state.load(opening.open(&schema)?)?;
        Ok::<_, LakeError>(state)
    });
    let state = state.await.map_err(|source| LakeError::Task { source })??;
    Ok((committed, Some(state)))
}

/// What it takes to open the files of a table, apart from the table: opening them blocks.
pub(crate) struct FilesToOpen {
    field_ids: Vec<i32>,
    data: Vec<Arc<Entry>>,
    deletes: Vec<Arc<Entry>>,
}

impl FilesToOpen {
    pub(crate) fn of(schema: &TableSchema, committed: &CommittedTable) -> Result<Self, LakeError> {
        Ok(Self {
            field_ids: field_ids(schema, &committed.metadata)?,
            data: committed.data_files().cloned().collect(),
            deletes: committed.delete_files().cloned().collect(),
        })
    }

    /// The data files, each with its dead positions.
    pub(crate) fn open(
        &self,
        schema: &Arc<TableSchema>,
    ) -> Result<Vec<(Arc<LakeFile>, RoaringBitmap)>, LakeError> {
        open_files(schema, &self.field_ids, &self.data, &self.deletes)
    }
}

fn open_files(
    schema: &Arc<TableSchema>,
    field_ids: &[i32],
    data: &[Arc<Entry>],
    deletes: &[Arc<Entry>],
) -> Result<Vec<(Arc<LakeFile>, RoaringBitmap)>, LakeError> {
    let unsupported =
        |feature: String| LakeError::Unsupported { table: schema.name().clone(), feature };
    let mut dead = HashMap::new();
    for entry in deletes {
        let file = &entry.file;
        if file.content_type() != DataContentType::PositionDeletes
            || file.file_format() != DataFileFormat::Parquet
        {
            return Err(unsupported(format!(
                "{:?} in format {:?}",
                file.content_type(),
                file.file_format()
            )));
        }
        read_deletes(schema.name(), file.file_path(), &mut dead)?;
    }
    let mut files = Vec::with_capacity(data.len());
    for entry in data {
        if entry.file.file_format() != DataFileFormat::Parquet {
            let format = entry.file.file_format();
            return Err(unsupported(format!("data files of format {format:?}")));
        }
        let file = LakeFile::open(schema, field_ids, entry.spec_id, &entry.file)?;
        let mut dead = dead.remove(&file.location).unwrap_or_default();
        dead.remove_range(file.rows..);
        files.push((Arc::new(file), dead));
    }
    Ok(files)
}
