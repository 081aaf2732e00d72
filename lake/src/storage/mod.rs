//! Where files are. The only place of this crate that touches the file system for data and
//! metadata; another kind of storage would take its place.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use medlake_contract::TableName;

use crate::{config::Durability, error::LakeError};

const SCHEME: &str = "file://";

/// The warehouse folder. Locations are absolute `file://` addresses, as they stand in the metadata.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    warehouse: PathBuf,
    durability: Durability,
}

impl Storage {
    /// `warehouse` must be absolute.
    pub(crate) fn new(warehouse: PathBuf, durability: Durability) -> Self {
        Self { warehouse, durability }
    }

    pub(crate) fn table_location(&self, table: &TableName) -> String {
        let folder = self.warehouse.join(table.namespace()).join(table.table());
        format!("{SCHEME}{}", folder.display())
    }

    /// The path of a location.
    pub(crate) fn path(location: &str) -> PathBuf {
        let path = location
            .strip_prefix(SCHEME)
            .or_else(|| location.strip_prefix("file:"))
            .unwrap_or(location);
        PathBuf::from(path)
    }

    pub(crate) fn read(location: &str) -> Result<Vec<u8>, LakeError> {
        let path = Self::path(location);
        fs::read(&path).map_err(|source| LakeError::File { doing: "read", path, source })
    }

    /// Removes a file. One that is gone already is as good; any other failure leaves an orphan that
    /// a later opening removes.
    pub(crate) fn remove(location: &str) {
        let path = Self::path(location);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => tracing::warn!(?path, error = %e, "could not remove a file no longer needed"),
        }
    }

    /// Locations and modification times (microseconds since 1970) of the files in a table's folders.
    pub(crate) fn list(table_location: &str) -> Vec<(String, i64)> {
        let mut found = Vec::new();
        for folder in ["data", "metadata"] {
            let Ok(entries) = fs::read_dir(Self::path(table_location).join(folder)) else {
                continue;
            };
            for entry in entries.flatten() {
                let modified = entry
                    .metadata()
                    .and_then(|m| m.modified())
                    .ok()
                    .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok())
                    .and_then(|age| i64::try_from(age.as_micros()).ok());
                if let (Some(name), Some(modified)) = (entry.file_name().to_str(), modified) {
                    found.push((format!("{table_location}/{folder}/{name}"), modified));
                }
            }
        }
        found
    }

    /// A set of files that will be committed together or removed together.
    pub(crate) fn begin(&self) -> WriteScope {
        WriteScope { durability: self.durability, written: Arc::default() }
    }
}

/// Files written for one commit.
#[derive(Debug, Clone)]
pub(crate) struct WriteScope {
    durability: Durability,
    written: Arc<Mutex<Vec<String>>>,
}

impl WriteScope {
    /// Creates a file, with its folder.
    pub(crate) fn create(&self, location: &str) -> Result<File, LakeError> {
        let path = Storage::path(location);
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push(location.to_owned());
        let created =
            path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| File::create_new(&path));
        created.map_err(|source| LakeError::File { doing: "create", path, source })
    }

    /// Writes a whole file.
    pub(crate) fn write(&self, location: &str, bytes: &[u8]) -> Result<(), LakeError> {
        let mut file = self.create(location)?;
        file.write_all(bytes).map_err(|source| LakeError::File {
            doing: "write",
            path: Storage::path(location),
            source,
        })
    }

    /// Brings what was written to the disk, when that is asked for.
    pub(crate) fn persist(&self) -> Result<(), LakeError> {
        if self.durability == Durability::Process {
            return Ok(());
        }
        let mut folders = BTreeSet::new();
        for location in self.written.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let path = Storage::path(location);
            sync(&path)?;
            for folder in path.ancestors().skip(1).take(4) {
                folders.insert(folder.to_owned());
            }
        }
        folders.iter().try_for_each(|folder| sync(folder))
    }

    /// Removes what was written: the commit did not happen.
    pub(crate) fn discard(&self) {
        for location in self.written.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            Storage::remove(&location);
        }
    }
}

fn sync(path: &Path) -> Result<(), LakeError> {
    File::open(path).and_then(|f| f.sync_all()).map_err(|source| LakeError::File {
        doing: "flush to disk",
        path: path.to_owned(),
        source,
    })
}
