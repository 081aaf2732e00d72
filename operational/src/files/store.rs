//! Where the bytes of files are: a folder, or a bucket that speaks S3.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
};

use object_store::{
    ObjectStore, aws::AmazonS3Builder, local::LocalFileSystem, prefix::PrefixStore,
};

use crate::OperationalError;

const SWEEP_EVERY_MICROS: i64 = 3600 * 1_000_000;

/// Where files are kept.
#[derive(Clone, PartialEq, Eq)]
pub enum FileStore {
    /// In a folder, which is made when it is missing.
    Folder(PathBuf),
    /// In a bucket.
    Bucket {
        /// `s3://bucket/prefix`.
        url: String,
        /// Where it is, if not at AWS.
        endpoint: Option<String>,
        /// The region.
        region: String,
        /// Key and secret; those of the machine when there are none.
        keys: Option<(String, String)>,
        /// Whether the connection may be without encryption.
        allow_http: bool,
    },
}

impl std::fmt::Debug for FileStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(folder) => f.debug_tuple("Folder").field(folder).finish(),
            Self::Bucket { url, endpoint, region, .. } => f
                .debug_struct("Bucket")
                .field("url", url)
                .field("endpoint", endpoint)
                .field("region", region)
                .finish_non_exhaustive(),
        }
    }
}

impl FileStore {
    fn open(&self) -> Result<Arc<dyn ObjectStore>, OperationalError> {
        match self {
            Self::Folder(folder) => {
                std::fs::create_dir_all(folder).map_err(|source| OperationalError::Folder {
                    folder: folder.clone(),
                    source,
                })?;
                let opened = LocalFileSystem::new_with_prefix(folder);
                let opened = opened.map_err(OperationalError::files)?;
                Ok(Arc::new(opened.with_automatic_cleanup(true)))
            }
            Self::Bucket { url, endpoint, region, keys, allow_http } => {
                let mut builder = AmazonS3Builder::new()
                    .with_url(url)
                    .with_region(region)
                    .with_allow_http(*allow_http);
                if let Some(endpoint) = endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                if let Some((key, secret)) = keys {
                    builder = builder.with_access_key_id(key).with_secret_access_key(secret);
                }
                let bucket = builder.build().map_err(OperationalError::files)?;
                let prefix = url
                    .strip_prefix("s3://")
                    .and_then(|rest| rest.split_once('/'))
                    .map_or("", |(_, prefix)| prefix.trim_matches('/'));
                Ok(Arc::new(PrefixStore::new(bucket, prefix)))
            }
        }
    }
}

/// The files of running services.
#[derive(Default)]
pub(crate) struct Files {
    objects: OnceLock<Arc<dyn ObjectStore>>,
    beside: OnceLock<Arc<dyn ObjectStore>>,
    swept_at: AtomicI64,
}

impl Files {
    /// Where they are, from now on; the first place that is given stays.
    pub(crate) fn keep_in(&self, store: &FileStore) -> Result<(), OperationalError> {
        let _ = self.objects.set(store.open()?);
        Ok(())
    }

    /// Where they are when nothing else is said.
    pub(crate) fn keep_beside(&self, databases: &Path) -> Result<(), OperationalError> {
        let _ = self.beside.set(FileStore::Folder(databases.join("files")).open()?);
        Ok(())
    }

    pub(crate) fn objects(&self) -> Result<&Arc<dyn ObjectStore>, OperationalError> {
        self.objects.get().or(self.beside.get()).ok_or(OperationalError::NoFiles)
    }

    pub(crate) fn is_time_to_sweep(&self, now: i64) -> bool {
        let at = self.swept_at.load(Ordering::Relaxed);
        now.saturating_sub(at) >= SWEEP_EVERY_MICROS
            && self.swept_at.compare_exchange(at, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            && self.objects().is_ok()
    }
}
