//! Files that are committed together or removed together.

use std::{
    fs::File,
    io::ErrorKind,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{Place, Storage, blocking, failed, local, place};
use crate::{config::Durability, error::LakeError};

/// Files written for one commit. Until [`Self::persist`] none of them can be relied on to be at its
/// location; no file that is there already is ever written over.
#[derive(Debug, Clone)]
pub(crate) struct WriteScope {
    storage: Storage,
    written: Arc<Mutex<Vec<Written>>>,
}

#[derive(Debug)]
struct Written {
    location: String,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Still to be written.
    Pending(Bytes),
    /// At its location, whole or not: ours to remove.
    There,
}

impl WriteScope {
    pub(super) fn new(storage: Storage) -> Self {
        Self { storage, written: Arc::default() }
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Creates a file for its writer to fill, which must have ended before [`Self::persist`].
    /// Blocking.
    pub(crate) fn create(&self, location: &str) -> Result<File, LakeError> {
        let Place::Local(path) = place(location)?;
        let file = local::create(&path).map_err(failed("create", location))?;
        self.written().push(Written { location: location.to_owned(), content: Content::There });
        Ok(file)
    }

    /// Writes a whole file that fits in memory.
    pub(crate) fn write(&self, location: &str, bytes: impl Into<Bytes>) {
        let content = Content::Pending(bytes.into());
        self.written().push(Written { location: location.to_owned(), content });
    }

    /// Brings everything to its location, and to the disk when that is asked for.
    pub(crate) async fn persist(&self) -> Result<(), LakeError> {
        let scope = self.clone();
        blocking(move || scope.persist_local()).await
    }

    fn persist_local(&self) -> Result<(), LakeError> {
        let mut paths = Vec::new();
        let mut pending = Vec::new();
        for (at, written) in self.written().iter().enumerate() {
            let Place::Local(path) = place(&written.location)?;
            if let Content::Pending(bytes) = &written.content {
                pending.push((at, path.clone(), bytes.clone()));
            }
            paths.push(path);
        }
        for (at, path, bytes) in pending {
            let done = local::write(&path, &bytes);
            // A file that was there before is another's, and not ours to remove either.
            if done.as_ref().is_err_and(|e| e.kind() == ErrorKind::AlreadyExists) {
                return done.map_err(failed("create", &path.display().to_string()));
            }
            if let Some(written) = self.written().get_mut(at) {
                written.content = Content::There;
            }
            done.map_err(failed("write", &path.display().to_string()))?;
        }
        match self.storage.0.durability {
            Durability::Process => Ok(()),
            Durability::Disk => local::sync(&paths),
        }
    }

    /// Removes what was written: the commit did not happen.
    pub(crate) async fn discard(&self) {
        let written = std::mem::take(&mut *self.written());
        let ours = written.into_iter().filter(|w| matches!(w.content, Content::There));
        self.storage.remove(ours.map(|w| w.location).collect()).await;
    }

    fn written(&self) -> MutexGuard<'_, Vec<Written>> {
        // Only pushes and takes happen under the lock.
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
