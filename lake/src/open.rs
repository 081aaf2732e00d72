//! Opening a lake: from the catalog to tables with key indexes.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, TryStreamExt};
use iceberg::spec::{DataContentType, DataFile, DataFileFormat};
use medlake_contract::TableName;
use roaring::RoaringBitmap;

use crate::{
    catalog::CatalogTable,
    commit::table::CommittedTable,
    error::LakeError,
    format::{
        data_file::LakeFile,
        deletion_vectors::{is_vector, read_vectors},
        equality_deletes::resolve,
        position_deletes::read_deletes,
        progress::Progress,
        schema::is_ours,
    },
    read::foreign::{ForeignTable, is_foreign},
    storage::Storage,
    table::{TableState, shards::Seed},
};

/// How often the folder's lock is tried before it counts as another's.
const LOCK_TRIES: u32 = 20;
/// The wait between two tries.
const LOCK_WAIT: Duration = Duration::from_millis(20);
/// Tables loaded at the same time.
const LOADERS: usize = 2;
/// Delete files of one table read at the same time.
const READERS: usize = 8;

/// The folder, made when missing and locked until the file is dropped, as an absolute path.
pub(crate) async fn lock_folder(root: &Path) -> Result<(PathBuf, File), LakeError> {
    let failed = |doing, path: &Path| {
        let location = path.display().to_string();
        move |source| LakeError::File { doing, location, source }
    };
    fs::create_dir_all(root).map_err(failed("create", root))?;
    let root = root.canonicalize().map_err(failed("find", root))?;
    let path = root.join("lake.lock");
    let lock = File::create(&path).map_err(failed("create", &path))?;
    let mut tries = 1..LOCK_TRIES;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok((root, lock)),
            // For a moment a process that is just being started has it as well: it lets go of the
            // files of the one that starts it when it runs its own program.
            Err(TryLockError::WouldBlock) if tries.next().is_some() => {
                tokio::time::sleep(LOCK_WAIT).await;
            }
            Err(TryLockError::WouldBlock) => return Err(LakeError::Locked { root }),
            Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
        }
    }
}

/// What the catalog's tables hold.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) committed: BTreeMap<TableName, CommittedTable>,
    pub(crate) tables: BTreeMap<TableName, TableState>,
    /// Written by others.
    pub(crate) foreign: BTreeMap<TableName, ForeignTable>,
    /// Of the newest commit.
    pub(crate) progress: Option<Progress>,
}

/// Loads all tables that are ours, which must have their files in the warehouse.
pub(crate) async fn load(
    catalog: Vec<CatalogTable>,
    storage: &Storage,
) -> Result<Loaded, LakeError> {
    let mut loaded = Loaded::default();
    let tables: Vec<Opened> = futures::stream::iter(catalog)
        .map(|listed| load_table(storage, listed))
        .buffer_unordered(LOADERS)
        .try_collect()
        .await?;
    for opened in tables {
        let (committed, state) = match opened {
            Opened::Own(opened) => *opened,
            Opened::Foreign(name, table) => {
                loaded.foreign.insert(name, table);
                continue;
            }
        };
        check_folder(&committed, storage)?;
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
fn check_folder(table: &CommittedTable, storage: &Storage) -> Result<(), LakeError> {
    let location = table.metadata.location();
    if storage.holds(location) {
        return Ok(());
    }
    let (table, feature) = (table.name.clone(), format!("files in another folder, \"{location}\""));
    Err(LakeError::Unsupported { table, feature })
}

enum Opened {
    Own(Box<(CommittedTable, TableState)>),
    Foreign(TableName, ForeignTable),
}

async fn load_table(storage: &Storage, listed: CatalogTable) -> Result<Opened, LakeError> {
    let (name, location) = (listed.name.clone(), listed.location.clone());
    let committed = match CommittedTable::load(storage, listed).await {
        Ok(committed) if is_ours(&committed.metadata) => committed,
        Err(error) if !is_foreign(storage, &location).await? => return Err(error),
        loaded => {
            let table = ForeignTable::of(storage, &name, location, loaded).await;
            return Ok(Opened::Foreign(name, table));
        }
    };
    let shape = Arc::new(committed.shape()?);
    let files = open_files(storage, &committed).await?;
    let seed = Seed::of(committed.metadata.uuid());
    let mut state = TableState::new(shape, seed)?;
    state.load(files);
    Ok(Opened::Own(Box::new((committed, state))))
}

/// The data files of a table, each with its dead positions. Reads delete files and nothing else.
pub(crate) async fn open_files(
    storage: &Storage,
    committed: &CommittedTable,
) -> Result<Vec<(Arc<LakeFile>, RoaringBitmap)>, LakeError> {
    let table = &committed.name;
    let unsupported = |feature: String| LakeError::Unsupported { table: table.clone(), feature };
    let (vectors, others): (Vec<&DataFile>, Vec<&DataFile>) =
        committed.delete_files().map(|entry| &entry.file).partition(|file| is_vector(file));
    let positions: Vec<&DataFile> = others
        .into_iter()
        .filter(|file| file.content_type() == DataContentType::PositionDeletes)
        .collect();
    for file in &positions {
        if file.file_format() != DataFileFormat::Parquet {
            return Err(unsupported(format!(
                "{:?} in format {:?}",
                file.content_type(),
                file.file_format()
            )));
        }
    }
    let mut vectors = read_vectors(storage, table, &vectors).await?;
    let deletes: Vec<String> =
        positions.into_iter().map(|file| file.file_path().to_owned()).collect();
    let mut parts = futures::stream::iter(deletes)
        .map(|location| async move { read_deletes(storage, table, &location).await })
        .buffer_unordered(READERS);
    let mut dead: HashMap<String, RoaringBitmap> = HashMap::new();
    while let Some(part) = parts.next().await {
        for (data_file, positions) in part? {
            *dead.entry(data_file).or_default() |= positions;
        }
    }
    let mut files = Vec::new();
    for entry in committed.data_files() {
        if entry.file.file_format() != DataFileFormat::Parquet {
            let format = entry.file.file_format();
            return Err(unsupported(format!("data files of format {format:?}")));
        }
        if entry.file.key_metadata().is_some() {
            return Err(unsupported("encrypted data files".to_owned()));
        }
        let mut file = LakeFile::open(storage, table, committed.spec(entry.spec_id)?, &entry.file)?;
        file.constants = committed.constants(entry)?;
        // A vector says all that is dead; position deletes beside it are outdated.
        let dead = vectors.remove(&file.location).or_else(|| dead.remove(&file.location));
        let mut dead = dead.unwrap_or_default();
        dead.remove_range(file.rows..);
        files.push((Arc::new(file), dead));
    }
    resolve(storage, committed, &mut files).await?;
    Ok(files)
}
