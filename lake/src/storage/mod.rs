//! Where files are: the only place of this crate that reads and writes data and metadata files.
//!
//! A file is named by its location, an absolute address as it stands in a table's metadata. Files
//! are never changed once they are named there: they are written whole, read in parts, and removed.

mod footers;
mod local;
mod reader;
mod remote;
mod scope;

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use medlake_contract::TableName;
use object_store::{ObjectStore, local::LocalFileSystem, path::Path};

pub(crate) use footers::FooterCache;
pub(crate) use reader::RangeReader;
pub(crate) use scope::WriteScope;

use crate::{
    config::{Durability, LakeConfig},
    error::LakeError,
    fault::{Fault, Faults},
    warehouse::{S3Config, Warehouse, split_s3},
};
use remote::Object;

/// The warehouse, and whatever else locations lead to. Cheap to clone; clones share all caches.
#[derive(Debug, Clone)]
pub(crate) struct Storage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Location of the warehouse, without a slash at the end.
    warehouse: String,
    durability: Durability,
    footers: FooterCache,
    s3: S3Config,
    /// Connections, by bucket.
    buckets: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
    /// Where files are written on their way to a bucket.
    spool: PathBuf,
    faults: Faults,
}

/// A location, understood.
#[derive(Debug, Clone)]
enum Place {
    Local(PathBuf),
    Remote(Object),
}

/// A file that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) location: String,
    pub(crate) bytes: u64,
    /// When it was written last, in microseconds since 1970.
    pub(crate) modified_micros: i64,
}

impl Storage {
    /// The storage of a lake. A folder is made when it is missing; a bucket must be there.
    pub(crate) async fn open(config: &LakeConfig) -> Result<Self, LakeError> {
        let warehouse = match &config.warehouse {
            Warehouse::Local => make_folder(config.root.join("warehouse")).await?,
            Warehouse::Folder(folder) => make_folder(folder.clone()).await?,
            s3 @ Warehouse::S3 { .. } => s3.to_string(),
        };
        let storage = Self(Arc::new(Inner {
            warehouse,
            durability: config.durability,
            footers: FooterCache::new(config.footer_cache_bytes),
            s3: config.s3.clone(),
            buckets: Mutex::default(),
            spool: config.root.join("spool"),
            faults: Faults::default(),
        }));
        if let Place::Remote(_) = storage.place(&storage.0.warehouse)? {
            // Asked at once, so that what is wrong is said here and not by the first flush: whether it
            // lets us in (a listing does not tell that apart from other failures), and is there.
            storage.size(&format!("{}/lake", storage.0.warehouse)).await?;
            storage.list(&storage.0.warehouse).next().await.transpose()?;
        }
        Ok(storage)
    }

    /// Where a new table goes.
    pub(crate) fn table_location(&self, table: &TableName) -> String {
        format!("{}/{}/{}", self.0.warehouse, table.namespace(), table.table())
    }

    /// Whether a location is in the warehouse.
    pub(crate) fn holds(&self, location: &str) -> bool {
        match (self.place(location), self.place(&self.0.warehouse)) {
            (Ok(Place::Local(path)), Ok(Place::Local(warehouse))) => {
                path.starts_with(&warehouse)
                    || path.canonicalize().is_ok_and(|path| path.starts_with(warehouse))
            }
            (Ok(Place::Remote(object)), Ok(Place::Remote(warehouse))) => {
                split_s3(location).map(|s| s.0) == split_s3(&self.0.warehouse).map(|s| s.0)
                    && object.path.prefix_matches(&warehouse.path)
            }
            _ => false,
        }
    }

    /// Reads a whole file.
    pub(crate) async fn read(&self, location: &str) -> Result<Bytes, LakeError> {
        self.0.faults.io(Fault::ReadFails).map_err(failed("read", location))?;
        match self.place(location)? {
            Place::Local(path) => {
                let failed = failed("read", location);
                blocking(move || std::fs::read(path).map_err(failed)).await.map(Bytes::from)
            }
            Place::Remote(object) => object.read().await.map_err(failed("read", location)),
        }
    }

    /// Reads parts of a file.
    pub(crate) async fn read_ranges(
        &self,
        location: &str,
        ranges: Vec<Range<u64>>,
    ) -> Result<Vec<Bytes>, LakeError> {
        self.reader(location).read(ranges).await
    }

    /// For reading parts of one file one after the other.
    pub(crate) fn reader(&self, location: &str) -> RangeReader {
        RangeReader::new(self.clone(), location.to_owned())
    }

    /// The size of a file in bytes; none when it is not there.
    pub(crate) async fn size(&self, location: &str) -> Result<Option<u64>, LakeError> {
        match self.place(location)? {
            Place::Local(path) => {
                let failed = failed("inspect", location);
                blocking(move || local::size(&path).map_err(failed)).await
            }
            Place::Remote(object) => object.size().await.map_err(failed("inspect", location)),
        }
    }

    /// Removes files. Those gone already are as good; any other failure leaves an orphan that is
    /// swept up later.
    pub(crate) async fn remove(&self, locations: Vec<String>) {
        if locations.is_empty() {
            return;
        }
        let (mut paths, mut objects) = (Vec::new(), Vec::new());
        for location in locations {
            self.0.footers.forget(&location);
            match self.place(&location) {
                Ok(Place::Local(path)) => paths.push(path),
                Ok(Place::Remote(object)) => objects.push(object),
                Err(error) => tracing::warn!(%error, "could not remove a file no longer needed"),
            }
        }
        remote::remove(objects).await;
        let removed = blocking(move || {
            paths.iter().for_each(|path| local::remove(path));
            Ok(())
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "could not remove files no longer needed");
        }
    }

    /// The files below a prefix, which is a folder without a slash at its end. Their locations begin
    /// with the prefix as it is given. A folder that is not there is empty.
    pub(crate) fn list(&self, prefix: &str) -> BoxStream<'static, Result<Listed, LakeError>> {
        match self.place(prefix) {
            Ok(Place::Local(path)) => local::list(prefix.to_owned(), path).boxed(),
            Ok(Place::Remote(object)) => {
                // Scheme and bucket as they are given.
                let key = split_s3(prefix).map_or("", |(_, key)| key);
                let root = prefix[..prefix.len() - key.len()].trim_end_matches('/');
                object.list(root.to_owned())
            }
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    /// A set of files that will be committed together or removed together.
    pub(crate) fn begin(&self) -> WriteScope {
        WriteScope::new(self.clone())
    }

    /// The object store a location is in, whose root is the root of the location's scheme or bucket,
    /// and where it is in there, for libraries that bring their own way of reading.
    pub(crate) fn object_store(
        &self,
        location: &str,
    ) -> Result<(Arc<dyn ObjectStore>, Path), LakeError> {
        match self.place(location)? {
            Place::Local(path) => {
                let wrong = |e| failed("find", location)(io::Error::other(e));
                let path = Path::from_absolute_path(path).map_err(wrong)?;
                Ok((Arc::new(LocalFileSystem::new()), path))
            }
            Place::Remote(object) => Ok((object.store, object.path)),
        }
    }

    /// What a test makes go wrong, here and in commits.
    pub(crate) fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// Footers of Parquet files read lately.
    pub(crate) fn footers(&self) -> &FooterCache {
        &self.0.footers
    }

    fn place(&self, location: &str) -> Result<Place, LakeError> {
        let wrong = failed("find", location);
        if let Some((bucket, key)) = split_s3(location) {
            let path = Path::parse(key).map_err(|e| wrong(io::Error::other(e)))?;
            return Ok(Place::Remote(Object { store: self.bucket(bucket).map_err(wrong)?, path }));
        }
        let path = location
            .strip_prefix("file://")
            .or_else(|| location.strip_prefix("file:"))
            .unwrap_or(location);
        if path.starts_with('/') {
            return Ok(Place::Local(PathBuf::from(path)));
        }
        Err(wrong(io::Error::new(
            ErrorKind::Unsupported,
            "only absolute paths and addresses of scheme file and s3 are understood",
        )))
    }

    fn bucket(&self, bucket: &str) -> io::Result<Arc<dyn ObjectStore>> {
        let mut buckets = self.0.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = buckets.get(bucket) {
            return Ok(Arc::clone(store));
        }
        let store = remote::connect(&self.0.s3, bucket)?;
        buckets.insert(bucket.to_owned(), Arc::clone(&store));
        Ok(store)
    }
}

async fn make_folder(folder: PathBuf) -> Result<String, LakeError> {
    blocking(move || local::make_folder(&folder)).await
}

fn failed(
    doing: &'static str,
    location: &str,
) -> impl Fn(io::Error) -> LakeError + Clone + Send + Sync + use<> {
    let location = location.to_owned();
    move |source| LakeError::File { doing, location: location.clone(), source }
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LakeError> + Send + 'static,
) -> Result<T, LakeError> {
    tokio::task::spawn_blocking(work).await.map_err(|source| LakeError::Task { source })?
}

#[cfg(test)]
mod tests;
