//! Where the bytes of files are: a folder, or a bucket that speaks S3.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use object_store::{
    ObjectStore, RetryConfig, aws::AmazonS3Builder, local::LocalFileSystem, prefix::PrefixStore,
};

use crate::OperationalError;

/// How long a bucket that fails is asked again before whoever waits is told.
const PATIENCE: Duration = Duration::from_secs(10);
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
        /// Who asks.
        access: BucketAccess,
        /// Whether the bucket stands in the path instead of the host name.
        path_style: bool,
        /// Whether the connection may be without encryption.
        allow_http: bool,
    },
}

/// Who asks a bucket.
#[derive(Clone, PartialEq, Eq)]
pub enum BucketAccess {
    /// The machine, by the role it was given where it runs.
    Machine,
    /// Nobody in particular: requests are not signed.
    Anonymous,
    /// Whoever has these keys.
    Keys {
        /// Name of the key.
        access_key_id: String,
        /// The key.
        secret_access_key: String,
        /// With keys that were lent for a while.
        session_token: Option<String>,
    },
}

impl std::fmt::Debug for BucketAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Machine => "Machine",
            Self::Anonymous => "Anonymous",
            Self::Keys { .. } => "Keys(***)",
        })
    }
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
            Self::Bucket { url, endpoint, region, access, path_style, allow_http } => {
                // Somebody waits for the answer.
                let retry = RetryConfig {
                    max_retries: 3,
                    retry_timeout: PATIENCE,
                    ..RetryConfig::default()
                };
                let mut builder = AmazonS3Builder::new()
                    .with_url(url)
                    .with_region(region)
                    .with_virtual_hosted_style_request(!path_style)
                    .with_allow_http(*allow_http)
                    .with_retry(retry);
                if let Some(endpoint) = endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                builder = match access {
                    BucketAccess::Machine => builder,
                    BucketAccess::Anonymous => builder.with_skip_signature(true),
                    BucketAccess::Keys { access_key_id, secret_access_key, session_token } => {
                        let builder = builder
                            .with_access_key_id(access_key_id)
                            .with_secret_access_key(secret_access_key);
                        match session_token {
                            Some(token) => builder.with_token(token),
                            None => builder,
                        }
                    }
                };
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
