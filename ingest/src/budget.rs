use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a permit of the semaphore stands for, in bytes.
const UNIT: usize = 1024;

/// Memory that all sources may use together for what is read and not yet staged. Clones share it.
///
/// Copied rows wait for the log to come to where they were read, and the log is read with memory of
/// the same budget: copies never have more than a part of it, so that the log always goes on.
#[derive(Debug, Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    /// What of them copies may hold.
    copies: Arc<Semaphore>,
    total: u32,
}

impl Budget {
    /// So many bytes, at least 1 MiB.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let total = u32::try_from((bytes / UNIT).max(1024)).unwrap_or(u32::MAX);
        let semaphore = |units: u32| Arc::new(Semaphore::new(units as usize));
        Self { units: semaphore(total), copies: semaphore(of_copies(total)), total }
    }

    /// Waits until `bytes` are free. One larger than all that copies leave is held back until nothing
    /// else is held, so that a single large row stops nobody for good.
    pub(crate) async fn hold(&self, bytes: usize) -> Held {
        let units = units(bytes).min(self.total - of_copies(self.total));
        // The semaphore is never closed.
        let units = Arc::clone(&self.units).acquire_many_owned(units).await.ok();
        Held { units, copies: None }
    }

    /// `bytes` for rows that may have to wait for the log, or all that copies may have; none when so
    /// much is not free now.
    pub(crate) fn try_hold_copy(&self, bytes: usize) -> Option<Held> {
        let units = units(bytes).min(of_copies(self.total));
        let of =
            |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_many_owned(units).ok();
        let copies = of(&self.copies)?;
        Some(Held { units: Some(of(&self.units)?), copies: Some(copies) })
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

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// The part that copies may hold.
fn of_copies(total: u32) -> u32 {
    total / 4
}

/// A share of the [`Budget`], given back when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held {
    units: Option<OwnedSemaphorePermit>,
    /// As many of those that copies may hold, if it is of them.
    copies: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// A part of this share, rounded up, as a share of its own; all of it when it is not larger.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let part = |mine: &mut Option<OwnedSemaphorePermit>| {
            let part = mine.as_mut().and_then(|mine| mine.split(bytes.div_ceil(UNIT)));
            part.or_else(|| mine.take())
        };
        Self { units: part(&mut self.units), copies: part(&mut self.copies) }
    }

    /// Both shares as one.
    pub(crate) fn merge(&mut self, other: Self) {
        let merge = |mine: &mut Option<OwnedSemaphorePermit>, theirs| match (&mut *mine, theirs) {
            (Some(mine), Some(theirs)) => mine.merge(theirs),
            (None, theirs) => *mine = theirs,
            (Some(_), None) => {}
        };
        merge(&mut self.units, other.units);
        merge(&mut self.copies, other.copies);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn copies_leave_the_log_what_it_needs_to_go_on() {
        let budget = Budget::new(4 << 20);
        let mut copies = Held::default();
        while let Some(more) = budget.try_hold_copy(300 << 10) {
            copies.merge(more);
        }
        assert_eq!(budget.held_bytes(), 900 << 10);
        let mut log = budget.hold(usize::MAX).now_or_never().expect("the log goes on");
        assert!(budget.hold(200 << 10).now_or_never().is_none(), "the rest is held");
        assert!(budget.try_hold_copy(200 << 10).is_none());
        copies.merge(log.split(1 << 20));
        assert_eq!(budget.held_bytes(), (900 << 10) + (3 << 20));
        drop(copies.split(100 << 10));
        drop(log);
        assert!(budget.try_hold_copy(200 << 10).is_some(), "of what was given back");
        drop(copies);
        assert_eq!(budget.held_bytes(), 0);
    }
}
