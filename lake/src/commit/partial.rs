//! Commits that are in some of their tables only: a catalog that changes one table at a time has them
//! when a writer dies in the middle of one.

use std::collections::BTreeMap;

use iceberg::{
    TableRequirement, TableUpdate,
    spec::{MAIN_BRANCH, SnapshotReference, SnapshotRetention, TableMetadata},
};
use medlake_contract::TableName;

use crate::{
    catalog::Change,
    commit::table::CommittedTable,
    error::LakeError,
    format::progress::Progress,
    read::as_of::{ancestors, order, progress_of},
};

/// The changes that take back the newest commit of these tables, if it is in some of them only.
///
/// # Errors
/// [`LakeError::HalfCommitted`] when another program built on it.
pub(crate) fn to_take_back(
    tables: &BTreeMap<TableName, CommittedTable>,
) -> Result<Vec<Change>, LakeError> {
    let mut newest: Option<Progress> = None;
    for table in tables.values() {
        let progress = table.progress()?;
        if progress.as_ref().map(order) > newest.as_ref().map(order) {
            newest = progress;
        }
    }
    let Some(newest) = newest.filter(|progress| !progress.tables.is_empty()) else {
        return Ok(Vec::new());
    };
    let (mut back, mut lacking) = (Vec::new(), false);
    for table in newest.tables.iter().filter_map(|name| tables.get(name)) {
        let conflict = || LakeError::HalfCommitted { table: table.name.clone() };
        let own = table.progress()?;
        // Merges after a commit count as it.
        if own.as_ref().is_none_or(|own| order(own) < order(&newest)) {
            // Without a snapshot of ours nobody knows whether it was there and has expired.
            if own.is_none() && table.metadata.current_snapshot().is_some() {
                return Err(conflict());
            }
            lacking = true;
            continue;
        }
        back.push((table, conflict));
    }
    if !lacking {
        return Ok(Vec::new());
    }
    let undo = back.into_iter().map(|(table, conflict)| {
        let made = table.metadata.current_snapshot().ok_or_else(conflict)?;
        let progress = progress_of(&table.name, made)?;
        if progress.is_none_or(|progress| progress.commit_id != newest.commit_id) {
            return Err(conflict());
        }
        let (id, before) = (made.snapshot_id(), made.parent_snapshot_id());
        Ok(taken_back(&table.name, &table.location, id, before))
    });
    undo.collect()
}

/// The change that gives a table the snapshot it had before `made`.
pub(crate) fn taken_back(table: &TableName, from: &str, made: i64, before: Option<i64>) -> Change {
    let ref_name = MAIN_BRANCH.to_owned();
    let update = match before {
        None => TableUpdate::RemoveSnapshotRef { ref_name: ref_name.clone() },
        Some(before) => TableUpdate::SetSnapshotRef {
            ref_name: ref_name.clone(),
            reference: SnapshotReference::new(before, SnapshotRetention::branch(None, None, None)),
        },
    };
    Change {
        table: table.clone(),
        from: from.to_owned(),
        to: String::new(),
        requirements: vec![TableRequirement::RefSnapshotIdMatch {
            r#ref: ref_name,
            snapshot_id: Some(made),
        }],
        updates: vec![update],
    }
}

/// Whether a table is at a snapshot, or went on from it.
pub(crate) fn is_in(snapshot: i64, metadata: &TableMetadata) -> bool {
    ancestors(metadata).any(|ancestor| ancestor.snapshot_id() == snapshot)
}
