//! What a snapshot says about the sources, in its summary.

use std::collections::HashMap;

use iceberg::spec::TableMetadata;
use medlake_contract::{Positions, TableName};

use crate::error::LakeError;

/// Snapshot summary: the source positions contained, a JSON object from source to position.
pub(crate) const POSITIONS: &str = "medlake.positions";
/// Snapshot summary: the epoch of the writer.
pub(crate) const EPOCH: &str = "medlake.epoch";
/// Snapshot summary: the same for all snapshots of one commit, in all tables.
pub(crate) const COMMIT_ID: &str = "medlake.commit-id";
/// Snapshot summary: the version of the view this commit holds.
pub(crate) const VIEW_VERSION: &str = "medlake.view-version";
/// Snapshot summary: the tables of this commit, a JSON list of names, where the catalog cannot change
/// them together.
pub(crate) const TABLES: &str = "medlake.tables";
/// Snapshot summary: when the newest source transaction contained was committed, microseconds.
pub(crate) const COMMITTED_AT: &str = "medlake.committed-at-micros";

/// What a snapshot's summary says about the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) positions: Positions,
    pub(crate) epoch: i64,
    pub(crate) commit_id: String,
    pub(crate) view_version: u64,
    pub(crate) committed_at_micros: Option<i64>,
    /// All tables of the commit, where the catalog cannot change them together; else empty.
    pub(crate) tables: Vec<TableName>,
}

impl Progress {
    /// As summary properties.
    pub(crate) fn properties(&self) -> HashMap<String, String> {
        let positions: serde_json::Map<String, serde_json::Value> = self
            .positions
            .iter()
            .map(|(source, at)| (source.to_string(), at.to_string().into()))
            .collect();
        let mut properties = HashMap::from([
            (POSITIONS.to_owned(), serde_json::Value::Object(positions).to_string()),
            (EPOCH.to_owned(), self.epoch.to_string()),
            (COMMIT_ID.to_owned(), self.commit_id.clone()),
            (VIEW_VERSION.to_owned(), self.view_version.to_string()),
        ]);
        if let Some(at) = self.committed_at_micros {
            properties.insert(COMMITTED_AT.to_owned(), at.to_string());
        }
        if !self.tables.is_empty() {
            let names: Vec<String> = self.tables.iter().map(TableName::to_string).collect();
            properties.insert(TABLES.to_owned(), serde_json::Value::from(names).to_string());
        }
        properties
    }

    /// Of the newest snapshot of ours in the history of the current one; another program's says
    /// nothing.
    pub(crate) fn newest(
        table: &TableName,
        metadata: &TableMetadata,
    ) -> Result<Option<Self>, LakeError> {
        let mut snapshot = metadata.current_snapshot();
        while let Some(current) = snapshot {
            if let Some(found) = Self::read(table, &current.summary().additional_properties)? {
                return Ok(Some(found));
            }
            let parent = current.parent_snapshot_id();
            snapshot = parent.and_then(|id| metadata.snapshot_by_id(id));
        }
        Ok(None)
    }

    /// Fails when a later writer than `own` committed to the table.
    pub(crate) fn check_epoch(
        table: &TableName,
        metadata: &TableMetadata,
        own: i64,
    ) -> Result<(), LakeError> {
        match Self::newest(table, metadata)? {
            Some(Self { epoch: current, .. }) if current > own => {
                Err(LakeError::Fenced { own, current })
            }
            _ => Ok(()),
        }
    }

    /// From a summary; none when the snapshot was made by another program.
    pub(crate) fn read(
        table: &TableName,
        properties: &HashMap<String, String>,
    ) -> Result<Option<Self>, LakeError> {
        let Some(positions) = properties.get(POSITIONS) else {
            return Ok(None);
        };
        let damaged = |property: &str| LakeError::Corrupt {
            table: table.clone(),
            problem: format!("snapshot summary property \"{property}\" cannot be read"),
        };
        let number = |property: &str| -> Result<i64, LakeError> {
            properties
                .get(property)
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| damaged(property))
        };
        let texts: std::collections::BTreeMap<String, String> =
            serde_json::from_str(positions).map_err(|_| damaged(POSITIONS))?;
        let mut positions = Positions::new();
        for (source, at) in texts {
            let at = at.parse().map_err(|_| damaged(POSITIONS))?;
            positions.insert(medlake_contract::SourceId::new(source), at);
        }
        Ok(Some(Self {
            positions,
            epoch: number(EPOCH)?,
            commit_id: properties.get(COMMIT_ID).cloned().ok_or_else(|| damaged(COMMIT_ID))?,
            view_version: u64::try_from(number(VIEW_VERSION)?)
                .map_err(|_| damaged(VIEW_VERSION))?,
            committed_at_micros: match properties.contains_key(COMMITTED_AT) {
                true => Some(number(COMMITTED_AT)?),
                false => None,
            },
            tables: match properties.get(TABLES) {
                None => Vec::new(),
                Some(text) => {
                    let names = serde_json::from_str::<Vec<String>>(text).ok();
                    let names = names.and_then(|n| n.iter().map(|n| n.parse().ok()).collect());
                    names.ok_or_else(|| damaged(TABLES))?
                }
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use medlake_contract::{Position, SourceId};

    use super::*;

    #[test]
    fn summary_properties_are_pinned_and_read_back() {
        let progress = Progress {
            positions: [("mall", 41), ("distribution", 7)]
                .map(|(s, p)| (SourceId::new(s), Position::ChangeId(p)))
                .into(),
            epoch: 3,
            commit_id: "f3b8".to_owned(),
            view_version: 12,
            committed_at_micros: Some(1_700_000_000_000_000),
            tables: vec!["mall.orders".parse().unwrap(), "mall.refunds".parse().unwrap()],
        };
        let properties = progress.properties();
        let mut lines: Vec<String> = properties.iter().map(|(k, v)| format!("{k}={v}")).collect();
        lines.sort();
        assert_eq!(
            lines,
            [
                "medlake.commit-id=f3b8",
                "medlake.committed-at-micros=1700000000000000",
                "medlake.epoch=3",
                r#"medlake.positions={"distribution":"change:7","mall":"change:41"}"#,
                r#"medlake.tables=["mall.orders","mall.refunds"]"#,
                "medlake.view-version=12",
            ]
        );
        let table = "a.b".parse().unwrap();
        assert_eq!(Progress::read(&table, &properties).unwrap(), Some(progress));
        assert_eq!(Progress::read(&table, &HashMap::new()).unwrap(), None);
        let mut damaged = properties;
        damaged.insert(POSITIONS.to_owned(), r#"{"mall":"x"}"#.to_owned());
        assert!(Progress::read(&table, &damaged).unwrap_err().to_string().contains("damaged"));
    }
}
