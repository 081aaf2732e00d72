//! Which changes are in quarantine, and when they leave it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow::error::ArrowError;
use medlake_contract::{ChangeBatch, Identity, Op, SourceId, TableName};

use crate::{
    snapshot::keys::Keys,
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

    /// Why a table is stopped that has more than it may have.
    pub(crate) fn too_many(&self, table: &TableName) -> String {
        format!(
            "{} of its changes could not be read, more than `quarantine_limit` allows",
            self.len(table)
        )
    }

    pub(crate) fn ids(&self, table: &TableName) -> BTreeSet<String> {
        self.held.get(table).map(|held| held.keys().cloned().collect()).unwrap_or_default()
    }

    /// The ids of those of one row.
    pub(crate) fn of_key(&self, table: &TableName, key: &str) -> BTreeSet<String> {
        let held = self.held.get(table).into_iter().flatten();
        held.filter(|(_, of)| of.as_deref() == Some(key)).map(|(id, _)| id.clone()).collect()
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
    let table = batch.table();
    let is_held = held.values().any(Option::is_some);
    if !is_held || table.identity() != Identity::Key {
        return Vec::new();
    }
    // Key columns are single values, of which all can be read.
    Keys::of(table).and_then(|keys| overtaken_by_key(batch, held, &keys)).unwrap_or_default()
}

fn overtaken_by_key(
    batch: &ChangeBatch,
    held: &BTreeMap<String, Option<String>>,
    keys: &Keys,
) -> Result<Vec<String>, ArrowError> {
    let mut by_key: HashMap<Box<[u8]>, Vec<&String>> = HashMap::new();
    for (id, key) in held {
        // What is not the whole key of a row is nobody's.
        let key = key.as_deref().and_then(|key| keys.parse(&serde_json::from_str(key).ok()?).ok());
        if let Some(key) = key {
            let bytes = keys.keys(&key)?.row(0).as_ref().into();
            by_key.entry(bytes).or_default().push(id);
        }
    }
    let mut gone = Vec::new();
    if by_key.is_empty() {
        return Ok(gone);
    }
    let (before, after) = (keys.rows(batch.before())?, keys.rows(batch.after())?);
    for (row, op) in batch.ops().iter().enumerate() {
        let key = if *op == Op::Delete { before.row(row) } else { after.row(row) };
        let ids = by_key.remove(key.as_ref());
        gone.extend(ids.into_iter().flatten().cloned());
    }
    Ok(gone)
}
