//! What statements make of the tables.

use std::{mem, sync::Arc};

use medlake_contract::{Column, ColumnType, SchemaChange, TableSchema};

use super::Assembler;
use crate::{
    IngestError,
    mysql::{
        ddl::{self, Ddl},
        layout::{self, Refused, column_named},
        table_map::FixedBytes,
    },
    source::{Phase, TableState},
};

impl Assembler {
    pub(super) fn define(&mut self, database: &str, ddl: Ddl) -> Result<(), IngestError> {
        match ddl {
            Ddl::Columns(name, renamed) => {
                let Some((_, known)) = self.known(database, &name) else { return Ok(()) };
                let has = |c: &str| column_named(&known, c).is_some();
                let renamed: Vec<(String, String)> = renamed
                    .iter()
                    .filter(|(before, _)| has(before))
                    .map(|(b, n)| (b.to_ascii_lowercase(), n.to_ascii_lowercase()))
                    .collect();
                if renamed.iter().any(|(_, now)| has(now)) {
                    self.refuse(
                        &name.table,
                        Refused {
                            reason: "its columns took each other's names".to_owned(),
                            remedy: format!("`medlake ingest resync {}`", known.name()),
                        },
                    );
                } else if let Some(table) = with_names(&known, &renamed) {
                    self.redefine(table, renamed)?;
                }
            }
            Ddl::Fixed(name, columns) => {
                let Some((false, known)) = self.known(database, &name) else { return Ok(()) };
                let is_known = |(column, _): &(String, _)| column_named(&known, column).is_some();
                let columns = columns.into_iter().filter(is_known);
                if let Some(table) = with_fixed(&known, columns) {
                    self.redefine(table, Vec::new())?;
                }
            }
            Ddl::Added(name, columns) => {
                let Some((false, known)) = self.known(database, &name) else { return Ok(()) };
                let has = |c: &str| column_named(&known, c).is_some();
                let fixed = columns
                    .iter()
                    .filter(|column| !column.if_not_exists || !has(&column.name))
                    .filter_map(|column| Some((column.name.clone(), column.bytes?)));
                let table = with_fixed(&known, fixed);
                // One that is known went before, and the new one has nothing of it.
                let differs = |column: &&ddl::Added| match has(&column.name) {
                    true => !column.if_not_exists,
                    false => column.filled,
                };
                let columns = columns.iter().filter(differs).map(|column| column.name.as_str());
                let columns = columns.collect::<Vec<_>>().join(", ");
                if let Some(table) = table {
                    self.redefine(table, Vec::new())?;
                }
                if !columns.is_empty() {
                    self.draft.states.push(TableState {
                        reason: Some(format!("it got columns that may have values ({columns})")),
                        ..TableState::new(known.name().clone(), Phase::Snapshotting, 0)
                    });
                }
            }
            Ddl::Bytes(name) => {
                if let Some((false, known)) = self.known(database, &name)
                    && known.columns().iter().any(|column| column.ty == ColumnType::Utf8)
                {
                    self.refuse(
                        &name.table,
                        Refused {
                            reason: "its texts became bytes".to_owned(),
                            remedy: format!(
                                "drop it from the lake, then `medlake ingest resync {}`",
                                known.name()
                            ),
                        },
                    );
                }
            }
            Ddl::Truncate(name) => {
                if let Some((left_out, known)) = self.known(database, &name)
                    && !left_out
                {
                    self.draft.truncate_table(&known);
                }
            }
            Ddl::Partition(name) => {
                if let Some((_, known)) = self.known(database, &name) {
                    self.refuse(
                        &name.table,
                        Refused {
                            reason:
                                "rows went or came with a partition, which the binlog does not have"
                                    .to_owned(),
                            remedy: format!("`medlake ingest resync {}`", known.name()),
                        },
                    );
                }
            }
            Ddl::Made(name) => self.made(database, &name),
            Ddl::Gone(name, now) => {
                if let Some(now) = &now {
                    self.made(database, now);
                }
                if let Some((_, known)) = self.known(database, &name) {
                    let now = now.map_or_else(
                        || "dropped".to_owned(),
                        |now| format!("renamed to \"{}\"", now.table),
                    );
                    self.gone(&name.table, &known, &now);
                }
            }
            Ddl::Database(gone) if self.filter.is_database(&gone) => {
                let all: Vec<_> = self
                    .tables
                    .iter()
                    .filter_map(|(name, table)| Some((name.clone(), table.schema.clone()?)))
                    .collect();
                for (name, known) in all {
                    self.gone(&name, &known, "dropped with its database");
                }
            }
            Ddl::Database(_) => {}
            Ddl::Rows(words) => {
                for word in words {
                    let name = ddl::Name { database: None, table: word };
                    if let Some((false, known)) = self.known(database, &name) {
                        self.refuse(
                            &name.table,
                            Refused {
                                reason: "its rows were changed by a statement that the binlog has \
                                     instead of them"
                                    .to_owned(),
                                remedy: format!(
                                    "`binlog_format=ROW` for all its writers, then `medlake ingest \
                                 resync {}`",
                                    known.name()
                                ),
                            },
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// Says what a table is from here on, whatever maps of it said.
    fn redefine(
        &mut self,
        table: TableSchema,
        renamed: Vec<(String, String)>,
    ) -> Result<(), IngestError> {
        self.forget_maps(table.name().table());
        if let Some(current) = &mut self.current {
            current.events.clear();
        }
        self.announce(SchemaChange { table: Arc::new(table), renamed })
    }

    /// A table that is not known is asked for: what it is, the binlog says with its first row only.
    fn made(&mut self, database: &str, name: &ddl::Name) {
        let of = name.database.as_deref().unwrap_or(database);
        if self.filter.takes(of, &name.table) && self.known(database, name).is_none() {
            self.draft.has_new_tables = true;
        }
    }

    fn gone(&mut self, table: &str, known: &Arc<TableSchema>, how: &str) {
        self.refuse(
            table,
            Refused {
                reason: format!("it was {how} in the source; the lake keeps its rows"),
                remedy: format!(
                    "drop it from the lake; or, when it is there again, `medlake ingest resync {}`",
                    known.name()
                ),
            },
        );
        self.forget_maps(table);
    }

    fn forget_maps(&mut self, table: &str) {
        let key = table.to_ascii_lowercase();
        self.maps.retain(|_, map| map.key != key);
    }

    /// What is known of a table a statement names, and whether it is left out.
    fn known(&self, database: &str, name: &ddl::Name) -> Option<(bool, Arc<TableSchema>)> {
        let database = name.database.as_deref().unwrap_or(database);
        if !self.filter.takes(database, &name.table) {
            return None;
        }
        let table = self.tables.get(&name.table.to_ascii_lowercase())?;
        Some((table.left_out, Arc::clone(table.schema.as_ref()?)))
    }

    /// Takes no more changes of a table.
    pub(super) fn refuse(&mut self, table: &str, refused: Refused) {
        let key = table.to_ascii_lowercase();
        let known = self.tables.entry(key.clone()).or_default();
        if mem::replace(&mut known.left_out, true) {
            return;
        }
        for map in self.maps.values_mut().filter(|map| map.key == key) {
            map.layout = None;
        }
        match layout::table_name(&self.source, table) {
            Ok(table) => {
                let Refused { reason, remedy } = refused;
                self.draft.states.push(TableState::stopped(table, reason, remedy));
            }
            // It has no name a state could have.
            Err(name) => {
                tracing::warn!(source = %self.source, table, reason = name.reason, "is left out");
            }
        }
    }

    pub(super) fn stop_all(&mut self, reason: &str) {
        let all: Vec<_> = self.tables.iter().filter(|(_, t)| t.schema.is_some()).collect();
        let all: Vec<String> = all.into_iter().map(|(name, _)| name.clone()).collect();
        for table in all {
            let remedy = format!("`medlake ingest resync {}.{table}`", self.source);
            self.refuse(&table, Refused { reason: reason.to_owned(), remedy });
        }
    }
}

/// The table with columns that have fixed bytes from here on, where a table map would not tell what they
/// are; none when that is what they were, or cannot be.
fn with_fixed(
    table: &TableSchema,
    fixed: impl Iterator<Item = (String, FixedBytes)>,
) -> Option<TableSchema> {
    let mut columns = table.columns().to_vec();
    for (name, bytes) in fixed {
        let ty = bytes.ty();
        match columns.iter_mut().find(|column| column.name.eq_ignore_ascii_case(&name)) {
            Some(column) => column.ty = ty,
            None if bytes == FixedBytes::Plain => {}
            // Whether it may be null, and where it stands, the next map tells.
            None => {
                let name = name.to_ascii_lowercase();
                columns.push(Column { name, ty, nullable: true });
            }
        }
    }
    if columns == table.columns() {
        return None;
    }
    let key: Vec<String> = layout::key_names(table).map(str::to_owned).collect();
    with_columns(table, columns, &key)
}

/// The table with other names of columns; none when they cannot be.
fn with_names(table: &TableSchema, renamed: &[(String, String)]) -> Option<TableSchema> {
    if renamed.is_empty() {
        return None;
    }
    let now = |name: &str| {
        let found = renamed.iter().find(|(before, _)| before == name);
        found.map_or_else(|| name.to_owned(), |(_, now)| now.clone())
    };
    let mut columns = table.columns().to_vec();
    let key: Vec<String> = layout::key_names(table).map(now).collect();
    for column in &mut columns {
        column.name = now(&column.name);
    }
    with_columns(table, columns, &key)
}

fn with_columns(table: &TableSchema, columns: Vec<Column>, key: &[String]) -> Option<TableSchema> {
    let key: Vec<&str> = key.iter().map(String::as_str).collect();
    if key.is_empty() {
        TableSchema::keyless(table.name().clone(), columns, table.identity()).ok()
    } else {
        TableSchema::new(table.name().clone(), columns, &key).ok()
    }
}
