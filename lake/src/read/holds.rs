//! Which part of a table's past somebody is reading, so that it is not removed meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use medlake_contract::TableName;

/// The old snapshots that are being read in this process. Shared by the lake, which removes files,
/// and by its views, which read them.
#[derive(Debug, Default)]
pub(crate) struct Holds(Mutex<HashMap<TableName, Held>>);

#[derive(Debug, Default)]
struct Held {
    /// Files that only snapshots before this sequence number name may be gone already.
    floor: i64,
    /// The sequence numbers that were left when files nothing names were removed last: of others up
    /// to the last of them, files may be gone already.
    left: BTreeSet<i64>,
    /// How many readers each sequence number has.
    readers: BTreeMap<i64, usize>,
}

/// Keeps the files of one snapshot until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    holds: Arc<Holds>,
    table: TableName,
    sequence: i64,
}

impl Holds {
    /// Holds the snapshot of `table` with this sequence number; none when it is too late.
    pub(crate) fn hold(self: &Arc<Self>, table: &TableName, sequence: i64) -> Option<Hold> {
        let mut all = self.lock();
        let held = all.entry(table.clone()).or_default();
        let swept = held.left.last().is_some_and(|last| sequence < *last);
        if sequence < held.floor || (swept && !held.left.contains(&sequence)) {
            return None;
        }
        *held.readers.entry(sequence).or_default() += 1;
        Some(Hold { holds: Arc::clone(self), table: table.clone(), sequence })
    }

    /// The oldest sequence number whose files must stay, when `oldest_kept` is the oldest that the
    /// metadata of the table has. From now on nothing older than the answer can be held.
    pub(crate) fn floor(&self, table: &TableName, oldest_kept: i64) -> i64 {
        let mut all = self.lock();
        let held = all.entry(table.clone()).or_default();
        let oldest = held.readers.keys().next().map_or(oldest_kept, |held| *held.min(&oldest_kept));
        held.floor = held.floor.max(oldest);
        oldest
    }

    /// Whether nobody reads anything but the `kept` snapshots, all that the metadata of the table has.
    /// If so, nothing older can be held from now on but these.
    pub(crate) fn let_go(&self, table: &TableName, kept: BTreeSet<i64>) -> bool {
        let mut all = self.lock();
        let held = all.entry(table.clone()).or_default();
        if !held.readers.keys().all(|sequence| kept.contains(sequence)) {
            return false;
        }
        held.left = kept;
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TableName, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut all = self.holds.lock();
        let Some(held) = all.get_mut(&self.table) else { return };
        if let Some(readers) = held.readers.get_mut(&self.sequence) {
            *readers -= 1;
            if *readers == 0 {
                held.readers.remove(&self.sequence);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_stays_and_what_is_gone_cannot_be_held() {
        let holds = Arc::new(Holds::default());
        let table: TableName = "mall.orders".parse().unwrap();
        assert_eq!(holds.floor(&table, 3), 3);
        assert!(holds.hold(&table, 2).is_none(), "its files may be gone");
        let first = holds.hold(&table, 3).unwrap();
        let second = holds.hold(&table, 3).unwrap();
        assert_eq!(holds.floor(&table, 9), 3);
        drop(first);
        assert_eq!(holds.floor(&table, 9), 3);
        drop(second);
        assert_eq!(holds.floor(&table, 9), 9);
        assert!(holds.hold(&table, 8).is_none());
        assert_eq!(holds.floor(&"mall.lines".parse().unwrap(), 1), 1, "tables do not share");
    }

    #[test]
    fn what_nothing_names_stays_while_a_forgotten_snapshot_is_read() {
        let holds = Arc::new(Holds::default());
        let table: TableName = "mall.orders".parse().unwrap();
        let read = holds.hold(&table, 5).unwrap();
        // A tag keeps the first one.
        assert!(!holds.let_go(&table, BTreeSet::from([1, 7])));
        assert!(holds.hold(&table, 6).is_some(), "nothing was removed");
        drop(read);
        assert!(holds.let_go(&table, BTreeSet::from([1, 7])));
        let can_be_held = [1, 5, 6, 7, 8].map(|at| holds.hold(&table, at).is_some());
        assert_eq!(can_be_held, [true, false, false, true, true]);
    }
}
