use std::sync::Arc;

use medlake_contract::{Column, ColumnType, Identity, SourceId, TableName, TableSchema};

use super::{
    column::{self, Decoder},
    config::Datetimes,
    table_map::{FixedBytes, TableMap, WireColumn, wire},
};

/// How rows of a table are read, until the next table map that is another.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) schema: Arc<TableSchema>,
    pub(crate) decoders: Vec<Decoder>,
}

/// Why a table cannot be taken in as it is, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: String,
    pub(crate) remedy: String,
}

/// The name of a table in the lake.
pub(crate) fn table_name(source: &SourceId, table: &str) -> Result<TableName, Refused> {
    format!("{source}.{}", table.to_ascii_lowercase()).parse().map_err(|_| Refused {
        reason: format!("the name \"{table}\" is not one a table of the lake can have"),
        remedy: "rename it to letters, digits and underscores, or leave it out by the source's \
                 setting `tables`"
            .to_owned(),
    })
}

impl Layout {
    /// What a table map says.
    ///
    /// A map without names, as a server writes without `binlog_row_metadata=FULL`, is read with those
    /// of `known`, the table as it was before, if they fit.
    pub(crate) fn of(
        source: &SourceId,
        map: &TableMap,
        known: Option<&Arc<TableSchema>>,
        datetimes: Datetimes,
    ) -> Result<Self, Refused> {
        let name = table_name(source, &map.table)?;
        let refused = |reason: String| Refused {
            reason,
            remedy: format!(
                "change the column in the source, or leave the table out by the source's setting \
                 `tables`, then `medlake ingest resync {name}`"
            ),
        };
        let mut map = map.clone();
        if !map.named {
            borrow(&mut map, known.map(AsRef::as_ref), datetimes).map_err(|reason| Refused {
                reason: format!("the binlog does not name its columns, and {reason}"),
                remedy: format!(
                    "`SET GLOBAL binlog_row_metadata=FULL`, then `medlake ingest resync {name}`"
                ),
            })?;
        }
        let mut columns = Vec::with_capacity(map.columns.len());
        let mut decoders = Vec::with_capacity(map.columns.len());
        for (i, wire) in map.columns.iter().enumerate() {
            let in_key = map.key.contains(&i);
            let (column, decoder) = column_of(wire, in_key, datetimes).map_err(refused)?;
            columns.push(column);
            decoders.push(decoder);
        }
        let key: Vec<String> =
            map.key.iter().filter_map(|&at| Some(columns.get(at)?.name.clone())).collect();
        let key: Vec<&str> = key.iter().map(String::as_str).collect();
        let schema = if key.is_empty() {
            TableSchema::keyless(name.clone(), columns, Identity::FullRow)
        } else {
            TableSchema::new(name.clone(), columns, &key)
        };
        let schema = schema.map_err(|error| refused(error.to_string()))?;
        Ok(Self { schema: Arc::new(schema), decoders })
    }
}

/// The column of a name in the source.
pub(crate) fn column_named<'a>(table: &'a TableSchema, name: &str) -> Option<&'a Column> {
    table.columns().iter().find(|column| column.name.eq_ignore_ascii_case(name))
}

/// What a column is here.
fn column_of(
    wire: &WireColumn,
    in_key: bool,
    datetimes: Datetimes,
) -> Result<(Column, Decoder), String> {
    let (mut column, decoder) = column::of(wire, in_key)?;
    // The same number of microseconds, whatever they are counted from.
    if datetimes == Datetimes::Utc && column.ty == ColumnType::LocalTimestampMicros {
        column.ty = ColumnType::TimestampMicros;
    }
    Ok((column, decoder))
}

/// Gives a map without names those of the table as it was known, if all types agree.
fn borrow(
    map: &mut TableMap,
    known: Option<&TableSchema>,
    datetimes: Datetimes,
) -> Result<(), &'static str> {
    let known = known.ok_or("nothing is known of it from before")?;
    if known.columns().len() != map.columns.len() {
        return Err("it has another number of columns than before");
    }
    if map.columns.iter().any(|c| matches!(c.ty, wire::ENUM | wire::SET)) {
        return Err("the words of an enum or set are not told");
    }
    if !map.typed && map.columns.iter().any(|c| c.ty != wire::JSON) {
        return Err("signs and character sets are not told");
    }
    map.key = known.key_indices().to_vec();
    for (i, (column, known)) in map.columns.iter_mut().zip(known.columns()).enumerate() {
        column.name.clone_from(&known.name);
        if column.may_be_more_than_bytes() {
            column.bytes = FixedBytes::of(&known.ty);
        }
        let column = column_of(column, map.key.contains(&i), datetimes);
        if !column.is_ok_and(|(column, _)| column.ty == known.ty) {
            return Err("its columns have other types than before");
        }
    }
    Ok(())
}

/// Whether rows of the two are told apart by the same columns.
pub(crate) fn same_identity(before: &TableSchema, now: &TableSchema) -> bool {
    before.identity() == now.identity() && key_names(before).eq(key_names(now))
}

/// The names of the columns of the key, in its order.
pub(crate) fn key_names(table: &TableSchema) -> impl Iterator<Item = &str> {
    let columns = table.key_indices().iter().filter_map(|&at| table.columns().get(at));
    columns.map(|column| column.name.as_str())
}
