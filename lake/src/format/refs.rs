//! Branches and tags: snapshots that have a name.

use iceberg::spec::TableMetadata;
use medlake_contract::TableName;
use serde_json::{Map, Value};

use crate::error::LakeError;

/// What is said of each branch and tag, by its name, in the words of the format.
pub(crate) fn named_snapshots(
    table: &TableName,
    metadata: &TableMetadata,
) -> Result<Map<String, Value>, LakeError> {
    // The library gives no list of them, but writes them.
    let mut json = serde_json::to_value(metadata).map_err(|e| LakeError::Corrupt {
        table: table.clone(),
        problem: format!("its metadata cannot be written: {e}"),
    })?;
    match json.get_mut("refs").map(Value::take) {
        Some(Value::Object(refs)) => Ok(refs),
        _ => Ok(Map::new()),
    }
}
