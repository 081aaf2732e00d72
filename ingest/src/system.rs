//! What ingest keeps of itself, as tables beside the ones it fills: stored in the same cut as the
//! rows it speaks of, so that the two never disagree, and readable by whoever reads those.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, StringArray,
        TimestampMicrosecondArray, new_null_array,
    },
    datatypes::{Int64Type, TimestampMicrosecondType},
    error::ArrowError,
};
use medlake_contract::{
    ChangeBatch, Column, ColumnType, ContractError, Op, TableName, TableSchema,
};

use crate::source::{Phase, Quarantined, QuarantinedRow, TableState};

/// The namespace of these tables; no source may have this name.
pub(crate) const NAMESPACE: &str = "system";

/// `system.ingest`: how each table is taken in.
///
/// # Panics
/// Never: the table is a constant.
#[must_use]
pub fn states_table() -> Arc<TableSchema> {
    table(
        "ingest",
        vec![
            Column::required("source", ColumnType::Utf8),
            Column::required("table_name", ColumnType::Utf8),
            Column::required("state", ColumnType::Utf8),
            Column::nullable("reason", ColumnType::Utf8),
            Column::nullable("remedy", ColumnType::Utf8),
            Column::required("since", ColumnType::TimestampMicros),
            Column::required("copied_rows", ColumnType::Int64),
            Column::required("quarantined", ColumnType::Int64),
            Column::nullable("progress", ColumnType::Utf8),
        ],
        &["source", "table_name"],
    )
}

/// `system.quarantine`: the changes that could not be read, with their bytes.
///
/// # Panics
/// Never: the table is a constant.
#[must_use]
pub fn quarantine_table() -> Arc<TableSchema> {
    table(
        "quarantine",
        vec![
            Column::required("source", ColumnType::Utf8),
            Column::required("table_name", ColumnType::Utf8),
            Column::required("id", ColumnType::Utf8),
            Column::required("position", ColumnType::Utf8),
            Column::required("op", ColumnType::Utf8),
            Column::nullable("row_key", ColumnType::Utf8),
            Column::required("reason", ColumnType::Utf8),
            Column::required("raw", ColumnType::Binary),
            Column::nullable("committed_at", ColumnType::TimestampMicros),
        ],
        &["source", "table_name", "id"],
    )
}

#[expect(clippy::expect_used, reason = "the tables are constants, and a test makes them")]
fn table(name: &str, columns: Vec<Column>, key: &[&str]) -> Arc<TableSchema> {
    let name = format!("{NAMESPACE}.{name}").parse().expect("a table name");
    Arc::new(TableSchema::new(name, columns, key).expect("a table"))
}

/// States, to be stored.
pub(crate) fn states_batch(states: &[TableState]) -> Result<ChangeBatch, ContractError> {
    let text = |of: fn(&TableState) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(states.iter().map(of)))
    };
    let maybe = |of: fn(&TableState) -> Option<&str>| -> ArrayRef {
        Arc::new(states.iter().map(of).collect::<StringArray>())
    };
    let number = |of: fn(&TableState) -> u64| -> ArrayRef {
        let values = states.iter().map(|s| i64::try_from(of(s)).unwrap_or(i64::MAX));
        Arc::new(Int64Array::from_iter_values(values))
    };
    let since = states.iter().map(|s| s.since_micros);
    upserts(
        states_table(),
        vec![
            text(|s| s.table.namespace()),
            text(|s| s.table.table()),
            text(|s| s.phase.as_str()),
            maybe(|s| s.reason.as_deref()),
            maybe(|s| s.remedy.as_deref()),
            Arc::new(TimestampMicrosecondArray::from_iter_values(since).with_timezone("UTC")),
            number(|s| s.copied_rows),
            number(|s| s.quarantined),
            maybe(|s| s.progress.as_deref()),
        ],
    )
}

/// Quarantined changes, to be stored.
pub(crate) fn quarantine_batch(rows: &[Quarantined]) -> Result<ChangeBatch, ContractError> {
    let text = |of: fn(&Quarantined) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(of)))
    };
    let committed = rows.iter().map(|r| r.committed_at_micros);
    upserts(
        quarantine_table(),
        vec![
            text(|r| r.table.namespace()),
            text(|r| r.table.table()),
            text(|r| &r.id),
            text(|r| &r.at),
            text(|r| &r.op),
            Arc::new(rows.iter().map(|r| r.key.as_deref()).collect::<StringArray>()),
            text(|r| &r.reason),
            Arc::new(BinaryArray::from_iter_values(rows.iter().map(|r| &r.raw))),
            Arc::new(committed.collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
        ],
    )
}

/// Quarantined changes that are no longer there, by table and id.
pub(crate) fn released_batch(ids: &[(TableName, String)]) -> Result<ChangeBatch, ContractError> {
    let table = quarantine_table();
    let key: [ArrayRef; 3] = [
        Arc::new(StringArray::from_iter_values(ids.iter().map(|(t, _)| t.namespace()))),
        Arc::new(StringArray::from_iter_values(ids.iter().map(|(t, _)| t.table()))),
        Arc::new(StringArray::from_iter_values(ids.iter().map(|(_, id)| id))),
    ];
    let rest = table.arrow().fields().iter().skip(key.len());
    let before = key
        .iter()
        .cloned()
        .chain(rest.map(|field| new_null_array(field.data_type(), ids.len())))
        .collect();
    let wrong = |source: ArrowError| ContractError::Change {
        table: table.name().clone(),
        problem: source.to_string(),
    };
    let schema = table.arrow_nullable();
    let before = RecordBatch::try_new(Arc::clone(schema), before).map_err(wrong)?;
    let none = schema.fields().iter().map(|f| new_null_array(f.data_type(), ids.len())).collect();
    let after = RecordBatch::try_new(Arc::clone(schema), none).map_err(wrong)?;
    ChangeBatch::new(Arc::clone(&table), vec![Op::Delete; ids.len()], before, after)
}

/// The states in rows of [`states_table`]. Rows that say nothing we know are left out.
#[must_use]
pub fn states_in(rows: &RecordBatch) -> Vec<TableState> {
    let text = |name| rows.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
    let number = |name| rows.column_by_name(name).and_then(|c| c.as_primitive_opt::<Int64Type>());
    let since =
        rows.column_by_name("since").and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
    let state = |row: usize| {
        let required = |name| text(name).filter(|c| c.is_valid(row)).map(|c| c.value(row));
        let maybe = |name| required(name).map(str::to_owned);
        let count = |name| number(name).map_or(0, |c| u64::try_from(c.value(row)).unwrap_or(0));
        let phase = [Phase::Snapshotting, Phase::Streaming, Phase::Stopped]
            .into_iter()
            .find(|phase| Some(phase.as_str()) == required("state"))?;
        Some(TableState {
            table: format!("{}.{}", required("source")?, required("table_name")?).parse().ok()?,
            phase,
            reason: maybe("reason"),
            remedy: maybe("remedy"),
            copied_rows: count("copied_rows"),
            quarantined: count("quarantined"),
            progress: maybe("progress"),
            since_micros: since?.value(row),
        })
    };
    (0..rows.num_rows()).filter_map(state).collect()
}

/// The changes in rows of [`quarantine_table`]. Rows that say nothing we know are left out.
#[must_use]
pub fn quarantined_in(rows: &RecordBatch) -> Vec<QuarantinedRow> {
    let text = |name: &str, row: usize| {
        let column = rows.column_by_name(name)?.as_string_opt::<i32>()?;
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    let raw = rows.column_by_name("raw").and_then(|c| c.as_binary_opt::<i32>());
    let change = |row: usize| {
        Some(QuarantinedRow {
            table: format!("{}.{}", text("source", row)?, text("table_name", row)?).parse().ok()?,
            id: text("id", row)?,
            op: text("op", row)?,
            key: text("row_key", row),
            raw: raw?.value(row).to_vec(),
        })
    };
    (0..rows.num_rows()).filter_map(change).collect()
}

fn upserts(table: Arc<TableSchema>, columns: Vec<ArrayRef>) -> Result<ChangeBatch, ContractError> {
    let rows = RecordBatch::try_new(Arc::clone(table.arrow()), columns).map_err(|source| {
        ContractError::Change { table: table.name().clone(), problem: source.to_string() }
    })?;
    ChangeBatch::inserts(table, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_come_back_as_they_were_stored() {
        let state = |table: &str, phase, note: Option<&str>| TableState {
            table: table.parse().unwrap(),
            phase,
            reason: note.map(str::to_owned),
            remedy: note.map(str::to_owned),
            copied_rows: 7,
            quarantined: 2,
            progress: note.map(str::to_owned),
            since_micros: 1_700_000_000_000_000,
        };
        let states = [
            state("mall.orders", Phase::Snapshotting, Some("{\"after\":12}")),
            state("mall.item", Phase::Streaming, None),
            state("erp.人员".replace("人员", "staff").as_str(), Phase::Stopped, Some("应")),
        ];
        let stored = states_batch(&states).unwrap();
        assert_eq!(states_in(stored.after()), states);
    }

    #[test]
    fn what_is_quarantined_can_be_released_by_its_key() {
        let change = Quarantined {
            table: "mall.orders".parse().unwrap(),
            id: "mysql-bin.000001:4711:3".to_owned(),
            at: "mysql-bin.000001:4711".to_owned(),
            op: "u".to_owned(),
            key: Some("[7]".to_owned()),
            reason: "column \"x\" is cut short".to_owned(),
            raw: vec![0, 255],
            committed_at_micros: None,
        };
        let stored = quarantine_batch(std::slice::from_ref(&change)).unwrap();
        let released = released_batch(&[(change.table, change.id)]).unwrap();
        for column in released.table().key_indices() {
            assert_eq!(stored.after().column(*column), released.before().column(*column));
        }
    }
}
