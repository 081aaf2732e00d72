//! What a commit asks the catalog for, and takes over from it.

use iceberg::{TableRequirement, spec::MAIN_BRANCH};

use crate::{
    catalog::{CatalogTable, Change},
    commit::table::CommittedTable,
};

impl CommittedTable {
    /// Whether both were read or written by the same commit.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let current = |table: &Self| table.metadata.current_snapshot_id();
        self.location == other.location && current(self) == current(other)
    }

    /// What the catalog is asked to do to bring the table from `before` to here.
    pub(crate) fn change_from(&self, before: &Self) -> Change {
        let metadata = &before.metadata;
        let requirements = vec![
            TableRequirement::UuidMatch { uuid: metadata.uuid() },
            TableRequirement::RefSnapshotIdMatch {
                r#ref: MAIN_BRANCH.to_owned(),
                snapshot_id: metadata.current_snapshot_id(),
            },
            TableRequirement::CurrentSchemaIdMatch {
                current_schema_id: metadata.current_schema_id(),
            },
            TableRequirement::LastAssignedFieldIdMatch {
                last_assigned_field_id: metadata.last_column_id(),
            },
        ];
        Change {
            table: self.name.clone(),
            from: before.location.clone(),
            to: self.location.clone(),
            requirements,
            updates: self.updates.clone(),
        }
    }

    /// Takes over what the catalog made of it. Should another program have committed on top already,
    /// that is found later, as any other commit of others.
    pub(crate) fn adopt(&mut self, listed: CatalogTable) {
        if let Some(metadata) = listed.metadata
            && metadata.current_snapshot_id() == self.metadata.current_snapshot_id()
        {
            self.metadata = metadata;
            self.location = listed.location;
        }
    }
}
