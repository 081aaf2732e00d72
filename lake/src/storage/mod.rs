//! Where files are: the only place of this crate that reads and writes data and metadata files.
//!
//! A file is named by its location, an absolute address as it stands in a table's metadata. Files
//! are never changed once they are named there: they are written whole, read in parts, and removed.

mod footers;
mod local;
mod reader;
mod scope;

use std::{ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use medlake_contract::TableName;

pub(crate) use footers::FooterCache;
pub(crate) use reader::RangeReader;
pub(crate) use scope::WriteScope;

use crate::{
    config::{Durability, LakeConfig},
    error::LakeError,
};

/// The warehouse, and whatever else locations lead to. Cheap to clone; clones share all caches.
#[derive(Debug, Clone)]
pub(crate) struct Storage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Location of the warehouse, without a slash at the end.
    warehouse: String,
    durability: Durability,
    footers: FooterCache,
}

/// A location, understood.
#[derive(Debug, Clone)]
enum Place {
    Local(PathBuf),
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
    /// The storage of a lake; makes its warehouse when missing.
    pub(crate) async fn open(config: &LakeConfig) -> Result<Self, LakeError> {
        let folder = config.root.join("warehouse");
        let warehouse = blocking(move || local::make_folder(&folder)).await?;
        Ok(Self(Arc::new(Inner {
            warehouse,
            durability: config.durability,
            footers: FooterCache::new(config.footer_cache_bytes),
        })))
    }

    /// Where a new table goes.
    pub(crate) fn table_location(&self, table: &TableName) -> String {
        format!("{}/{}/{}", self.0.warehouse, table.namespace(), table.table())
    }

    /// Whether a location is in the warehouse.
    pub(crate) fn holds(&self, location: &str) -> bool {
        match (place(location), place(&self.0.warehouse)) {
            (Ok(Place::Local(path)), Ok(Place::Local(warehouse))) => {
                path.starts_with(&warehouse)
                    || path.canonicalize().is_ok_and(|path| path.starts_with(warehouse))
            }
            _ => false,
        }
    }

    /// Reads a whole file.
    pub(crate) async fn read(&self, location: &str) -> Result<Bytes, LakeError> {
        match place(location)? {
            Place::Local(path) => {
                let failed = failed("read", location);
                blocking(move || std::fs::read(path).map_err(failed)).await.map(Bytes::from)
            }
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
        RangeReader::new(location.to_owned())
    }

    /// The size of a file in bytes; none when it is not there.
    #[allow(dead_code, reason = "for what checks files against their metadata")]
    pub(crate) async fn size(&self, location: &str) -> Result<Option<u64>, LakeError> {
        match place(location)? {
            Place::Local(path) => {
                let failed = failed("inspect", location);
                blocking(move || local::size(&path).map_err(failed)).await
            }
        }
    }

    /// Removes files. Those gone already are as good; any other failure leaves an orphan that is
    /// swept up later.
    pub(crate) async fn remove(&self, locations: Vec<String>) {
        if locations.is_empty() {
            return;
        }
        let mut paths = Vec::new();
        for location in locations {
            self.0.footers.forget(&location);
            match place(&location) {
                Ok(Place::Local(path)) => paths.push(path),
                Err(error) => tracing::warn!(%error, "could not remove a file no longer needed"),
            }
        }
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
        match place(prefix) {
            Ok(Place::Local(path)) => local::list(prefix.to_owned(), path).boxed(),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    /// A set of files that will be committed together or removed together.
    pub(crate) fn begin(&self) -> WriteScope {
        WriteScope::new(self.clone())
    }

    /// Footers of Parquet files read lately.
    pub(crate) fn footers(&self) -> &FooterCache {
        &self.0.footers
    }
}

fn place(location: &str) -> Result<Place, LakeError> {
    let path = location
        .strip_prefix("file://")
        .or_else(|| location.strip_prefix("file:"))
        .unwrap_or(location);
    if path.starts_with('/') {
        return Ok(Place::Local(PathBuf::from(path)));
    }
    let problem = std::io::Error::new(
        std::io::ErrorKind::Unsupported,
        "only absolute paths and addresses of scheme file are understood",
    );
    Err(failed("find", location)(problem))
}

fn failed(doing: &'static str, location: &str) -> impl Fn(std::io::Error) -> LakeError + use<> {
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
