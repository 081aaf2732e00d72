//! Footers of Parquet files, kept within a memory budget.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use parquet::file::metadata::ParquetMetaData;

/// The footers used last, by location. A footer somebody holds lives on when it goes from here.
#[derive(Debug)]
pub(crate) struct FooterCache {
    budget_bytes: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    footers: HashMap<String, Cached>,
    bytes: usize,
    /// Counts uses.
    now: u64,
}

#[derive(Debug)]
struct Cached {
    footer: Arc<ParquetMetaData>,
    bytes: usize,
    used: u64,
}

impl FooterCache {
    pub(super) fn new(budget_bytes: usize) -> Self {
        Self { budget_bytes, held: Mutex::default() }
    }

    pub(crate) fn find(&self, location: &str) -> Option<Arc<ParquetMetaData>> {
        let mut held = self.held();
        held.now += 1;
        let now = held.now;
        let cached = held.footers.get_mut(location)?;
        cached.used = now;
        Some(Arc::clone(&cached.footer))
    }

    pub(crate) fn keep(&self, location: &str, footer: &Arc<ParquetMetaData>) {
        let bytes = footer.memory_size() + location.len();
        let mut held = self.held();
        held.now += 1;
        let used = held.now;
        let cached = Cached { footer: Arc::clone(footer), bytes, used };
        held.bytes += bytes;
        if let Some(before) = held.footers.insert(location.to_owned(), cached) {
            held.bytes -= before.bytes;
        }
        if held.bytes > self.budget_bytes {
            held.shrink(self.budget_bytes / 4 * 3);
        }
    }

    pub(super) fn forget(&self, location: &str) {
        let mut held = self.held();
        if let Some(gone) = held.footers.remove(location) {
            held.bytes -= gone.bytes;
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // What is under the lock is whole after every step.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Lets go of what was not used for longest; by a quarter at once, so that looking for it is
    /// rare.
    fn shrink(&mut self, to_bytes: usize) {
        let mut by_use: Vec<(u64, String)> =
            self.footers.iter().map(|(location, c)| (c.used, location.clone())).collect();
        by_use.sort_unstable();
        for (_, location) in by_use {
            if self.bytes <= to_bytes {
                break;
            }
            if let Some(gone) = self.footers.remove(&location) {
                self.bytes -= gone.bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn footer() -> Arc<ParquetMetaData> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        Arc::new(ArrowWriter::try_new(Vec::new(), schema, None).unwrap().close().unwrap())
    }

    #[test]
    fn stays_within_its_budget_and_keeps_what_is_used() {
        let footer = footer();
        let budget = 10 * (footer.memory_size() + 10);
        let cache = FooterCache::new(budget);
        for n in 0..1_000 {
            cache.keep(&format!("file-{n:05}"), &footer);
            assert!(cache.find("file-00000").is_some(), "in use at {n}");
            assert!(cache.held().bytes <= budget);
        }
        assert!(cache.find("file-00999").is_some());
        assert!(cache.find("file-00500").is_none());
        let before = cache.held().bytes;
        cache.keep("file-00999", &footer);
        assert_eq!(cache.held().bytes, before, "one file is counted once");
        cache.forget("file-00999");
        assert!(cache.held().bytes < before);
        assert!(cache.find("file-00999").is_none());
    }

    #[test]
    fn without_a_budget_keeps_nothing() {
        let cache = FooterCache::new(0);
        cache.keep("file", &footer());
        assert!(cache.find("file").is_none());
        assert_eq!(cache.held().bytes, 0);
    }
}
