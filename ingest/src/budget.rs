use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a permit of the semaphore stands for, in bytes.
const UNIT: usize = 1024;

/// Memory that all sources may use together for what is read and not yet staged. Clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    total: u32,
}

impl Budget {
    /// So many bytes, at least 1 MiB.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let total = u32::try_from((bytes / UNIT).max(1024)).unwrap_or(u32::MAX);
        Self { units: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Waits until `bytes` are free. One larger than the whole budget is held back until nothing
    /// else is held, so that a single large row stops nobody for good.
    pub(crate) async fn hold(&self, bytes: usize) -> Held {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.total);
        // The semaphore is never closed.
        Held(Arc::clone(&self.units).acquire_many_owned(units).await.ok())
    }

    /// As [`Self::hold`], but does not wait: none when so much is not free now.
    pub(crate) fn try_hold(&self, bytes: usize) -> Option<Held> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.total);
        Arc::clone(&self.units).try_acquire_many_owned(units).ok().map(|permit| Held(Some(permit)))
    }

    /// Bytes that may be held.
    pub(crate) fn total_bytes(&self) -> usize {
        self.total as usize * UNIT
    }

    /// Bytes held by all.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let free = self.units.available_permits();
        ((self.total as usize).saturating_sub(free) * UNIT) as u64
    }
}

/// A share of the [`Budget`], given back when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held(Option<OwnedSemaphorePermit>);

impl Held {
    /// A part of this share, rounded up, as a share of its own; all of it when it is not larger.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let units = bytes.div_ceil(UNIT);
        let part = self.0.as_mut().and_then(|mine| mine.split(units));
        Self(part.or_else(|| self.0.take()))
    }

    /// Both shares as one.
    pub(crate) fn merge(&mut self, other: Self) {
        match (&mut self.0, other.0) {
            (Some(mine), Some(theirs)) => mine.merge(theirs),
            (mine @ None, theirs) => *mine = theirs,
            (Some(_), None) => {}
        }
    }
}
