//! Files that are committed together or removed together.

use std::{
    fs::File,
    io::{self, ErrorKind},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{Place, Storage, blocking, failed, local, remote::Object};
use crate::{config::Durability, error::LakeError, fault::Fault};

/// Files sent at the same time.
const UPLOADS: usize = 8;

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
    /// Still to be sent: its writer wrote it to a file of this machine that has no name any more.
    Spooled(Arc<File>),
    /// At its location, whole or not: ours to remove.
    There,
}

/// What is to be done on this machine.
#[derive(Default)]
struct Local {
    /// What is still to be written, with its place in the scope.
    pending: Vec<(usize, PathBuf, Bytes)>,
    /// All files, those written already too.
    paths: Vec<PathBuf>,
}

/// What is to be sent.
enum Source {
    Memory(Bytes),
    File(Arc<File>),
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
        let wrong = failed("create", location);
        let (file, content) = match self.storage.place(location)? {
            Place::Local(path) => (local::create(&path).map_err(wrong)?, Content::There),
            Place::Remote(_) => {
                let file = local::create_nameless(&self.storage.0.spool).map_err(&wrong)?;
                let same = Arc::new(file.try_clone().map_err(&wrong)?);
                (file, Content::Spooled(same))
            }
        };
        self.written().push(Written { location: location.to_owned(), content });
        Ok(file)
    }

    /// Writes a whole file that fits in memory.
    pub(crate) fn write(&self, location: &str, bytes: impl Into<Bytes>) {
        let content = Content::Pending(bytes.into());
        self.written().push(Written { location: location.to_owned(), content });
    }

    /// Brings everything to its location, and to the disk when that is asked for.
    pub(crate) async fn persist(&self) -> Result<(), LakeError> {
        let mut local = Local::default();
        let mut remote = Vec::new();
        for (at, written) in self.written().iter().enumerate() {
            match (self.storage.place(&written.location)?, &written.content) {
                (Place::Local(path), Content::Pending(bytes)) => {
                    local.pending.push((at, path.clone(), bytes.clone()));
                    local.paths.push(path);
                }
                (Place::Local(path), _) => local.paths.push(path),
                (Place::Remote(object), Content::Pending(bytes)) => {
                    remote.push((at, object, Source::Memory(bytes.clone())));
                }
                (Place::Remote(object), Content::Spooled(file)) => {
                    remote.push((at, object, Source::File(Arc::clone(file))));
                }
                (Place::Remote(_), Content::There) => {}
            }
        }
        let scope = self.clone();
        let durability = self.storage.0.durability;
        blocking(move || scope.write_local(local, durability)).await?;
        self.storage.faults().io(Fault::WriteFails).map_err(failed("write", "files"))?;
        let sending = remote.into_iter().map(|(at, object, source)| self.send(at, object, source));
        let sent: Vec<Result<(), LakeError>> =
            stream::iter(sending).buffer_unordered(UPLOADS).collect().await;
        // All have ended before one that failed is told: none is sent on when files are taken back.
        sent.into_iter().collect()
    }

    fn write_local(&self, local: Local, durability: Durability) -> Result<(), LakeError> {
        for (at, path, bytes) in local.pending {
            let done = local::write(&path, &bytes);
            self.settle(at, &done);
            done.map_err(failed("write", &path.display().to_string()))?;
        }
        match durability {
            Durability::Process => Ok(()),
            Durability::Disk => local::sync(&local.paths),
        }
    }

    async fn send(&self, at: usize, object: Object, source: Source) -> Result<(), LakeError> {
        match source {
            Source::Memory(bytes) => {
                let done = object.create(bytes).await;
                self.settle(at, &done);
                done.map_err(failed("write", object.path.as_ref()))
            }
            Source::File(file) => {
                let done = object.upload(file).await;
                match &done {
                    Err(LakeError::File { source, .. })
                        if source.kind() == ErrorKind::AlreadyExists => {}
                    _ => self.settle(at, &Ok(())),
                }
                done
            }
        }
    }

    /// Notes that a file is there, or may be in part, and ours to remove: unless it was there before,
    /// as another's.
    fn settle(&self, at: usize, done: &io::Result<()>) {
        if done.as_ref().is_err_and(|e| e.kind() == ErrorKind::AlreadyExists) {
            return;
        }
        if let Some(written) = self.written().get_mut(at) {
            written.content = Content::There;
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
