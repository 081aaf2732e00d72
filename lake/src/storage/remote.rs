//! Objects in stores that speak S3.

use std::{
    collections::HashMap, fs::File, io, io::ErrorKind, ops::Range, sync::Arc, time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream, stream::FuturesUnordered};
use object_store::{
    Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig,
    aws::{AmazonS3Builder, S3ConditionalPut},
    path::Path,
};

use super::{Listed, blocking, failed, local};
use crate::{
    error::LakeError,
    warehouse::{S3Config, S3Credentials},
};

/// From this size on a file is sent in parts, which are sent again one by one when one is lost.
const PART_BYTES: u64 = 16 << 20;
/// A store takes at most this many parts of one file (S3 takes 10,000).
const PARTS: u64 = 9_000;
/// Parts of one file under way at the same time.
const PARTS_AT_ONCE: usize = 4;
/// How long a request is tried again after errors that pass. A flush that failed is tried again as
/// a whole, so there is no need for more.
const PATIENCE: Duration = Duration::from_secs(30);

/// One object, or the prefix of some.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
}

/// Connects to a bucket; asks it nothing yet.
pub(super) fn connect(config: &S3Config, bucket: &str) -> io::Result<Arc<dyn ObjectStore>> {
    let retry = RetryConfig { max_retries: 10, retry_timeout: PATIENCE, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&config.region)
        .with_virtual_hosted_style_request(!config.path_style)
        .with_allow_http(config.allow_http)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(retry);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    builder = match &config.credentials {
        S3Credentials::Machine => builder,
        S3Credentials::Anonymous => builder.with_skip_signature(true),
        S3Credentials::Keys { access_key_id, secret_access_key, session_token } => {
            let builder = builder
                .with_access_key_id(access_key_id)
                .with_secret_access_key(secret_access_key.reveal());
            match session_token {
                Some(token) => builder.with_token(token.reveal()),
                None => builder,
            }
        }
    };
    Ok(Arc::new(builder.build().map_err(io_error)?))
}

/// The same error as the rest of the storage gives it.
fn io_error(error: Error) -> io::Error {
    let kind = match &error {
        Error::NotFound { .. } => ErrorKind::NotFound,
        Error::AlreadyExists { .. } => ErrorKind::AlreadyExists,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            ErrorKind::PermissionDenied
        }
        Error::NotSupported { .. } | Error::NotImplemented { .. } => ErrorKind::Unsupported,
        _ => ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

impl Object {
    pub(super) async fn read(&self) -> io::Result<Bytes> {
        let found = self.store.get(&self.path).await.map_err(io_error)?;
        found.bytes().await.map_err(io_error)
    }

    /// Ranges close together are asked for at once.
    pub(super) async fn read_ranges(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
        // A range of nothing has no first byte to ask for.
        let asked: Vec<Range<u64>> = ranges.iter().filter(|r| r.start < r.end).cloned().collect();
        let mut parts =
            self.store.get_ranges(&self.path, &asked).await.map_err(io_error)?.into_iter();
        let mut all = Vec::with_capacity(ranges.len());
        for range in ranges {
            let part = if range.start < range.end { parts.next() } else { Some(Bytes::new()) };
            let part = part.filter(|p| p.len() as u64 == range.end.saturating_sub(range.start));
            all.push(part.ok_or(ErrorKind::UnexpectedEof)?);
        }
        Ok(all)
    }

    pub(super) async fn size(&self) -> io::Result<Option<u64>> {
        match self.store.head(&self.path).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(io_error(e)),
        }
    }

    /// Writes an object that must not be there yet.
    pub(super) async fn create(&self, bytes: Bytes) -> io::Result<()> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = self.store.put_opts(&self.path, PutPayload::from(bytes.clone()), options);
        match put.await {
            Ok(_) => Ok(()),
            // A request that was sent again after its answer was lost finds what it wrote itself.
            Err(Error::AlreadyExists { .. }) if self.read().await.is_ok_and(|b| b == bytes) => {
                Ok(())
            }
            Err(e) => Err(io_error(e)),
        }
    }

    /// Writes an object from a file of this machine. In parts it cannot be made sure that none was
    /// there before: names of such files are never given twice.
    pub(super) async fn upload(&self, file: Arc<File>) -> Result<(), LakeError> {
        let wrong = failed("write", self.path.as_ref());
        let size = file.metadata().map_err(&wrong)?.len();
        if size <= PART_BYTES {
            let bytes = part(&file, 0..size, &wrong).await?;
            return self.create(bytes).await.map_err(wrong);
        }
        let part_bytes = PART_BYTES.max(size.div_ceil(PARTS));
        let mut upload =
            self.store.put_multipart(&self.path).await.map_err(|e| wrong(io_error(e)))?;
        let sent = async {
            let mut under_way = FuturesUnordered::new();
            let mut start = 0;
            while start < size {
                let end = size.min(start + part_bytes);
                let bytes = part(&file, start..end, &wrong).await?;
                under_way.push(upload.put_part(PutPayload::from(bytes)));
                if under_way.len() >= PARTS_AT_ONCE {
                    under_way.try_next().await.map_err(|e| wrong(io_error(e)))?;
                }
                start = end;
            }
            while under_way.try_next().await.map_err(|e| wrong(io_error(e)))?.is_some() {}
            upload.complete().await.map_err(|e| wrong(io_error(e)))
        };
        let sent = sent.await;
        if let Err(error) = sent {
            // Parts of what was never completed are paid for until they are taken back.
            if let Err(abort) = upload.abort().await {
                tracing::warn!(path = %self.path, error = %abort, "could not take back an upload");
            }
            return Err(error);
        }
        Ok(())
    }

    /// Objects below this prefix; `root` is what the locations of the bucket's objects begin with.
    pub(super) fn list(&self, root: String) -> BoxStream<'static, Result<Listed, LakeError>> {
        let wrong = failed("list", &format!("{root}/{}", self.path));
        let prefix = (!self.path.as_ref().is_empty()).then_some(&self.path);
        self.store
            .list(prefix)
            .map(move |found| {
                let found = found.map_err(|e| wrong(io_error(e)))?;
                Ok(Listed {
                    location: format!("{root}/{}", found.location),
                    bytes: found.size,
                    modified_micros: found.last_modified.timestamp_micros(),
                })
            })
            .boxed()
    }
}

async fn part(
    file: &Arc<File>,
    range: Range<u64>,
    wrong: &(impl Fn(io::Error) -> LakeError + Clone + Send + 'static),
) -> Result<Bytes, LakeError> {
    let (file, wrong) = (Arc::clone(file), wrong.clone());
    blocking(move || {
        let mut parts = local::read_ranges(&file, &[range]).map_err(wrong)?;
        Ok(parts.pop().unwrap_or_default())
    })
    .await
}

/// Removes objects, many with one request.
pub(super) async fn remove(objects: Vec<Object>) {
    let mut by_store: HashMap<String, (Arc<dyn ObjectStore>, Vec<Path>)> = HashMap::new();
    for Object { store, path } in objects {
        let of_store = by_store.entry(store.to_string()).or_insert_with(|| (store, Vec::new()));
        of_store.1.push(path);
    }
    for (store, paths) in by_store.into_values() {
        let paths = futures::stream::iter(paths.into_iter().map(Ok)).boxed();
        let mut removed = store.delete_stream(paths);
        while let Some(gone) = removed.next().await {
            match gone {
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => tracing::warn!(%error, "could not remove a file no longer needed"),
            }
        }
    }
}
