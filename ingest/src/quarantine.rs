//! Which changes are in quarantine, and when they leave it.

use std::collections::{BTreeMap, BTreeSet};

use medlake_contract::{ChangeBatch, Identity, Op, SourceId, TableName};

use crate::{
    snapshot::keys::{Keys, key_text},
    source::{Page, QuarantinedRow},
};

/// The changes in quarantine of one source.
#[derive(Debug)]
pub(crate) struct Quarantine {
    limit: u64,
    /// The key of each, where it could be read, by table and id.
    held: BTreeMap<TableName, BTreeMap<String, Option<String>>>,
}

impl Quarantine {
    /// A table may have so many.
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, held: BTreeMap::new() }
    }

    /// What is stored of a source.
    pub(crate) fn resume(&mut self, source: &SourceId, stored: &[QuarantinedRow]) {
        for row in stored.iter().filter(|row| row.table.namespace() == source.as_str()) {
            let table = self.held.entry(row.table.clone()).or_default();
            table.insert(row.id.clone(), row.key.clone());
        }
    }

    pub(crate) fn len(&self, table: &TableName) -> u64 {
        self.held.get(table).map_or(0, |held| held.len() as u64)
    }

    pub(crate) fn is_over(&self, table: &TableName) -> bool {
        self.len(table) > self.limit
    }

    pub(crate) fn ids(&self, table: &TableName) -> BTreeSet<String> {
        self.held.get(table).map(|held| held.keys().cloned().collect()).unwrap_or_default()
    }

    /// Releases what the changes of a page overtake: they say all there is to say of their rows. What
    /// the page itself puts into quarantine may be newer, and stays.
    pub(crate) fn overtake(&self, page: &mut Page) {
        let Page { batches, released, .. } = page;
        for batch in batches {
            let name = batch.table().name();
            if let Some(held) = self.held.get(name).filter(|held| !held.is_empty()) {
                let gone = overtaken(batch, held);
                released.extend(gone.into_iter().map(|id| (name.clone(), id)));
            }
        }
    }

    /// Notes what a page puts in and releases; answers which tables have another number now.
    pub(crate) fn count(&mut self, page: &Page) -> BTreeSet<TableName> {
        let mut changed = BTreeSet::new();
        for (table, id) in &page.released {
            let held = self.held.get_mut(table);
            if held.is_some_and(|held| held.remove(id).is_some()) {
                changed.insert(table.clone());
            }
        }
        for row in &page.quarantined {
            let held = self.held.entry(row.table.clone()).or_default();
            if held.insert(row.id.clone(), row.key.clone()).is_none() {
                changed.insert(row.table.clone());
            }
        }
        changed
    }
}

/// The ids of those whose row a change of the batch makes anew, or takes away.
fn overtaken(batch: &ChangeBatch, held: &BTreeMap<String, Option<String>>) -> Vec<String> {
    if batch.ops().contains(&Op::Truncate) {
        return held.keys().cloned().collect();
    }
    let mut by_key: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for (id, key) in held {
        if let Some(key) = key {
            by_key.entry(key).or_default().push(id);
        }
    }
    let table = batch.table();
    if by_key.is_empty() || table.identity() != Identity::Key {
        return Vec::new();
    }
    // Key columns are single values, of which all can be read.
    let Ok(keys) = Keys::of(table) else { return Vec::new() };
    let mut gone = Vec::new();
    for (row, op) in batch.ops().iter().enumerate() {
        let image = if *op == Op::Delete { batch.before() } else { batch.after() };
        let key = keys.key_of(image, row).map(|key| key_text(&key, 0).to_string());
        let ids = key.ok().and_then(|key| by_key.remove(key.as_str()));
        gone.extend(ids.into_iter().flatten().cloned());
    }
    gone
}
