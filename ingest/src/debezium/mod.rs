//! Messages of Debezium's connectors as changes of tables: the JSON that Kafka Connect's converter
//! writes, with and without schemas, of the connectors for MySQL, MariaDB and PostgreSQL.
//!
//! Pure: bytes in, rows out; where they come from is none of its business. `docs/sources.md` says
//! what becomes of each type.

mod cells;
mod codec;
mod connect;
mod envelope;
mod json;
mod known;
mod placeholder;
mod probe;
mod problem;
mod rows;
mod sql;
mod values;
mod write;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use medlake_contract::{
    ChangeBatch, Column, ColumnType, ContractError, Identity, Op, SchemaChange, SourceId,
    TableName, TableSchema,
};
use serde::{Deserialize, Serialize};

pub(crate) use self::{
    envelope::{Boundary, Change, ChangeOp, Message},
    problem::Problem,
    write::{Cell, Outgoing, Place, Route, RowChange, TableWriter, boundary},
};
pub use self::{
    sql::{DecimalHandling, Modes, TimePrecision},
    values::BinaryHandling,
};
use crate::{
    debezium::{
        codec::Codec,
        connect::{ConnectSchema, Field},
        envelope::{Origin, read_key},
        json::Json,
        placeholder::Placeholder,
        rows::{Layout, RowError, Rows, Sides},
        sql::SqlType,
    },
    snapshot::keys::{self, Keys},
    source::{Phase, TableState},
};

/// So many versions of a table's schema are kept in mind at once: those in flight.
const VERSIONS: usize = 8;

/// What a table is called in the lake.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Naming {
    /// As in the database.
    #[default]
    Table,
    /// The schema (MySQL's database) and the table, with `_` between them.
    SchemaTable,
    /// The topic, `.` and `-` being `_`.
    Topic,
}

/// The columns of a table whose messages carry no schemas, or none that says enough.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredTable {
    /// The key's columns; those of the messages' keys when it is empty.
    #[serde(default)]
    pub key: Vec<String>,
    /// Column names and their types in the database, such as `decimal(12,2)`. A column that is not
    /// here has the type its values look like.
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
}

/// How to read what a connector writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DebeziumConfig {
    /// What tables are called.
    pub naming: Naming,
    /// How values are written that have no schema with them.
    pub modes: Modes,
    /// `unavailable.value.placeholder` of the connector.
    pub unavailable_value_placeholder: String,
    /// Tables by their name in the lake, without the source.
    pub tables: BTreeMap<String, DeclaredTable>,
}

impl Default for DebeziumConfig {
    fn default() -> Self {
        Self {
            naming: Naming::default(),
            modes: Modes::default(),
            unavailable_value_placeholder: placeholder::DEFAULT.to_owned(),
            tables: BTreeMap::new(),
        }
    }
}

/// What a message says of its row's key beside its value.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RowKeys<'a> {
    /// The message's key.
    pub(crate) key: Option<&'a [u8]>,
    /// The header `__debezium.oldkey`: the row was under this key before.
    pub(crate) old: Option<&'a [u8]>,
}

/// What became of a change.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It is among the rows.
    Row,
    /// Its table is not taken in, at the moment.
    LeftOut,
    /// Its table is new, or has other columns from here on. Nothing was taken: after
    /// [`Decoder::adopt`] the change is to be given again. A table that is not new must have no rows
    /// in the decoder then.
    Schema { change: SchemaChange, is_new: bool },
}

/// Changes on their way from messages to batches.
#[derive(Debug)]
pub(crate) struct Decoder {
    source: SourceId,
    config: DebeziumConfig,
    placeholder: Placeholder,
    tables: BTreeMap<TableName, Table>,
    topics: HashMap<String, Topic>,
    learned: BTreeMap<TableName, Learned>,
    scratch: Vec<u8>,
}

/// What is remembered of a topic, so that most of a message need not be read.
#[derive(Debug, Default)]
struct Topic {
    /// The text of the schema seen last.
    schema: String,
    /// The database, schema and table seen last, and the table's name in the lake.
    origin: [String; 3],
    table: Option<TableName>,
}

#[derive(Debug)]
struct Table {
    schema: Arc<TableSchema>,
    progress: Progress,
    stopped: Option<(String, String)>,
    /// Since when it is stopped, or is as it is, in microseconds since 1970.
    since_micros: i64,
    /// Its layouts by the text of their schemas; the text is empty for rows without any.
    layouts: Vec<(String, Arc<Layout>)>,
    rows: Option<Rows>,
}

/// What has to be known of a table beside its columns, stored with its state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    /// Database, schema and table that feed it.
    origin: [String; 3],
    /// When the first change with the present columns was made, in microseconds since 1970. What is
    /// older fits the columns into the present ones.
    since_micros: i64,
    /// What the schema change topic says of it.
    learned: Option<Learned>,
}

/// A table as the schema change topic describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Learned {
    key: Vec<String>,
    /// Column and type in SQL.
    columns: Vec<(String, String)>,
}

impl Decoder {
    pub(crate) fn new(source: SourceId, config: DebeziumConfig) -> Self {
        Self {
            placeholder: Placeholder::new(&config.unavailable_value_placeholder),
            source,
            config,
            tables: BTreeMap::new(),
            topics: HashMap::new(),
            learned: BTreeMap::new(),
            scratch: Vec::new(),
        }
    }

    /// Goes on with the tables as they are in the lake.
    pub(crate) fn resume(&mut self, tables: &[Arc<TableSchema>], states: &[TableState]) {
        for schema in tables.iter().filter(|t| t.name().namespace() == self.source.as_str()) {
            let state = states.iter().find(|s| s.table == *schema.name());
            let progress: Progress = state
                .and_then(|s| serde_json::from_str(s.progress.as_deref()?).ok())
                .unwrap_or_default();
            if let Some(learned) = &progress.learned {
                self.learned.insert(schema.name().clone(), learned.clone());
            }
            let stopped = state.filter(|s| s.phase == Phase::Stopped).map(|s| {
                (s.reason.clone().unwrap_or_default(), s.remedy.clone().unwrap_or_default())
            });
            let table = Table {
                schema: Arc::clone(schema),
                progress,
                stopped,
                since_micros: state.map_or(0, |s| s.since_micros),
                layouts: Vec::new(),
                rows: None,
            };
            self.tables.insert(schema.name().clone(), table);
        }
    }

    /// The tables as they are now.
    pub(crate) fn tables(&self) -> Vec<Arc<TableSchema>> {
        self.tables.values().map(|t| Arc::clone(&t.schema)).collect()
    }

    /// Reads a message of a topic.
    pub(crate) fn read<'a>(
        &self,
        topic: &str,
        value: Option<&'a [u8]>,
    ) -> Result<Message<'a>, Problem> {
        let known = self.topics.get(topic).map_or("", |t| t.schema.as_str());
        Message::read(value, known)
    }

    /// The table a message is of, as far as that can be told.
    pub(crate) fn table_of(
        &mut self,
        topic: &str,
        origin: &Origin<'_>,
    ) -> Result<TableName, Problem> {
        let Origin { db, schema, table, .. } = origin;
        let cached = self.topics.get(topic);
        if let Some(Topic { origin: [a, b, c], table: Some(name), .. }) = cached
            && a == db
            && b == schema
            && c == table
        {
            return Ok(name.clone());
        }
        let name = self.name_of(topic, [db, schema, table])?;
        let cached = self.topics.entry(topic.to_owned()).or_default();
        cached.origin = [db, schema, table].map(|t| t.to_string());
        cached.table = Some(name.clone());
        Ok(name)
    }

    /// The table a message of a topic is of that says nothing about itself.
    pub(crate) fn table_of_topic(&self, topic: &str) -> Option<TableName> {
        self.name_of(topic, [""; 3]).ok()
    }

    fn name_of(&self, topic: &str, [db, schema, table]: [&str; 3]) -> Result<TableName, Problem> {
        // A topic is `prefix.schema.table`.
        let mut parts = topic.rsplit('.');
        let (last, before) = (parts.next().unwrap_or(topic), parts.next().unwrap_or_default());
        let table = if table.is_empty() { last } else { table };
        let schema = [schema, db, before].into_iter().find(|s| !s.is_empty()).unwrap_or_default();
        let word = match self.config.naming {
            Naming::Table => table.to_owned(),
            Naming::SchemaTable => format!("{schema}_{table}"),
            Naming::Topic => topic.replace(['.', '-'], "_"),
        };
        let name = format!("{}.{}", self.source, word.to_ascii_lowercase());
        name.parse().map_err(|_| Problem::Name { name })
    }

    /// Takes a change.
    pub(crate) fn take(
        &mut self,
        topic: &str,
        keys: RowKeys<'_>,
        change: &Change<'_>,
    ) -> Result<Taken, Problem> {
        let key = keys.key;
        let name = self.table_of(topic, &change.origin)?;
        let text = change.schema.unwrap_or_default();
        let micros = change.micros.unwrap_or(0);
        let known = self.tables.get(&name);
        if known.is_some_and(|table| table.stopped.is_some()) {
            return Ok(Taken::LeftOut);
        }
        self.check_origin(topic, &name, known, &change.origin)?;
        let layout = known.and_then(|t| t.layouts.iter().find(|(seen, _)| seen == text));
        let layout = match layout {
            Some((_, layout)) => Arc::clone(layout),
            None if known.is_none() && change.op == ChangeOp::Truncate => return Ok(Taken::Row),
            None => {
                let fields = self.fields(&name, key, change)?;
                let keys = self.keys(&name, key, change)?;
                let schema = self.schema(&name, &fields, &keys)?;
                if let Some(taken) = self.compare(schema, micros) {
                    return Ok(taken);
                }
                self.add_layout(&name, topic, text, fields)?
            }
        };
        let key = read_key(key)?.0;
        let mut sides = sides(change, key)?;
        let old = keys.old.and_then(|old| old_key(old, &layout.fields));
        if sides.op == Op::Insert {
            // Values that were not sent are those of the row under its key before.
            sides.before = old.as_deref();
        }
        let Some(table) = self.tables.get_mut(&name) else {
            return Err(Problem::Envelope("its table is not known"));
        };
        if table.schema.identity() != Identity::Key && sides.op == Op::Update && !sides.whole {
            return Err(Problem::Image { op: change.op.as_str(), image: "before" });
        }
        let rows = table.rows.get_or_insert_with(|| Rows::new(Arc::clone(&table.schema)));
        match rows.push(sides, &layout, &self.placeholder, &mut self.scratch) {
            Ok(()) => Ok(Taken::Row),
            Err(RowError::Problem(problem)) => Err(problem),
            // A field that rows without schemas did not have so far.
            Err(RowError::Unknown) => {
                let fields = self.fields(&name, None, change)?;
                let keys = self.keys(&name, None, change)?;
                let schema = self.schema(&name, &fields, &keys)?;
                match self.compare(schema, micros) {
                    Some(taken) => Ok(taken),
                    None => {
                        self.forget_layout(&name, text);
                        Err(Problem::Envelope("it has fields that its schema does not have"))
                    }
                }
            }
        }
    }

    /// The key of a message's row as text, in the form stored keys have, as far as it can be read.
    pub(crate) fn key_text(&self, table: Option<&TableName>, key: Option<&[u8]>) -> Option<String> {
        let known = table.and_then(|name| self.tables.get(name));
        known.and_then(|table| table.key_text(key?, &self.placeholder)).or_else(|| key_text(key))
    }

    /// Two tables of a source must not go into one of the lake.
    fn check_origin(
        &self,
        topic: &str,
        name: &TableName,
        known: Option<&Table>,
        origin: &Origin<'_>,
    ) -> Result<(), Problem> {
        let Some(table) = known else { return Ok(()) };
        let [db, schema, own] = &table.progress.origin;
        let same = (*db == origin.db && *schema == origin.schema && *own == origin.table)
            || own.is_empty()
            || origin.table.is_empty();
        if same || self.config.naming == Naming::Topic {
            return Ok(());
        }
        let path = |parts: [&str; 3]| {
            parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(".")
        };
        Err(Problem::Origin {
            origin: format!(
                "{} (topic {topic})",
                path([&origin.db, &origin.schema, &origin.table])
            ),
            name: name.to_string(),
            other: path([db, schema, own]),
        })
    }

    /// The fields of the change's rows: from its schema, from what is declared or learned, and from
    /// how the values look.
    fn fields(
        &self,
        name: &TableName,
        key: Option<&[u8]>,
        change: &Change<'_>,
    ) -> Result<Vec<Field>, Problem> {
        let mysql = matches!(&*change.origin.connector, "mysql" | "mariadb");
        let declared = self.config.tables.get(name.table());
        let declared = |column: &str| -> Result<Option<(ColumnType, Codec)>, Problem> {
            let Some(sql) = declared.and_then(|t| t.columns.get(column)) else { return Ok(None) };
            SqlType::parse(sql)?.resolve(mysql, &self.config.modes).map(Some)
        };
        if let Some(text) = change.schema
            && let Some(schema) = ConnectSchema::parse(text)?
        {
            let row = schema.row().ok_or_else(|| {
                Problem::Schema("it has neither a field before nor a field after".to_owned())
            })?;
            let mut fields = row.columns(mysql)?;
            for field in &mut fields {
                if let Some((ty, codec)) = declared(&field.name)? {
                    (field.ty, field.codec) = (ty, codec);
                }
            }
            return Ok(fields);
        }
        let mut fields: Vec<Field> = Vec::new();
        let mut add = |name: &str, ty, codec| {
            if !fields.iter().any(|f| f.name == name) {
                fields.push(Field { name: name.to_owned(), ty, nullable: true, codec });
            }
        };
        let learned = self.learned.get(name);
        for (column, sql) in learned.iter().flat_map(|l| &l.columns) {
            let (ty, codec) = match declared(column)? {
                Some(found) => found,
                None => SqlType::parse(sql)?.resolve(mysql, &self.config.modes)?,
            };
            add(column, ty, codec);
        }
        if let (Some(table), None) = (self.tables.get(name), learned) {
            for column in table.schema.columns() {
                let (ty, codec) = declared(&column.name)?
                    .unwrap_or_else(|| (column.ty.clone(), Codec::of_type(&column.ty)));
                add(&column.name, ty, codec);
            }
        }
        let key = read_key(key)?.0;
        for row in [change.after, change.before, key].into_iter().flatten() {
            let mut json = Json::new(row);
            json.object()?;
            let mut first = true;
            while let Some(column) = json.key(first)? {
                first = false;
                let value = json.raw()?;
                let found = match declared(&column)? {
                    Some(found) => Some(found),
                    None if self.placeholder.is_in(value) => None,
                    None => look(value),
                };
                if let Some((ty, codec)) = found {
                    add(&column, ty, codec);
                }
            }
        }
        Ok(fields)
    }

    /// The key's columns.
    fn keys(
        &self,
        name: &TableName,
        key: Option<&[u8]>,
        change: &Change<'_>,
    ) -> Result<Vec<String>, Problem> {
        if let Some(declared) = self.config.tables.get(name.table()).filter(|t| !t.key.is_empty()) {
            return Ok(declared.key.clone());
        }
        if let (Some(table), None) = (self.tables.get(name), key) {
            let columns = table.schema.columns();
            return Ok(table
                .schema
                .key_indices()
                .iter()
                .map(|i| columns[*i].name.clone())
                .collect());
        }
        let (payload, _) = read_key(key)?;
        let Some(payload) = payload else {
            let learned = self.learned.get(name).filter(|_| change.schema.is_none());
            return Ok(learned.map(|l| l.key.clone()).unwrap_or_default());
        };
        let mut json = Json::new(payload);
        let mut keys = Vec::new();
        json.object()?;
        while let Some(column) = json.key(keys.is_empty())? {
            keys.push(column.into_owned());
            json.raw()?;
        }
        Ok(keys)
    }

    fn schema(
        &self,
        name: &TableName,
        fields: &[Field],
        keys: &[String],
    ) -> Result<TableSchema, Problem> {
        if fields.is_empty() {
            return Err(Problem::Envelope("its rows have no columns"));
        }
        let known = self.tables.get(name).map(|t| t.schema.columns());
        let column = |field: &Field| {
            let known = known.and_then(|c| c.iter().find(|c| c.name == field.name));
            let ty = match known {
                // What was wide once stays wide, so that changes of several versions fit.
                Some(known) if holds(&known.ty, &field.ty) => known.ty.clone(),
                _ => field.ty.clone(),
            };
            // Only keys are required: a value may be missing for many reasons, and the row counts.
            Column { name: field.name.clone(), ty, nullable: !keys.contains(&field.name) }
        };
        let columns = fields.iter().map(column).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let table = if keys.is_empty() {
            TableSchema::keyless(name.clone(), columns, Identity::FullRow)
        } else {
            TableSchema::new(name.clone(), columns, &keys)
        };
        table.map_err(Problem::Contract)
    }

    /// Whether a table has to change before rows of this schema can be taken.
    fn compare(&self, schema: TableSchema, micros: i64) -> Option<Taken> {
        let known = self.tables.get(schema.name());
        let is_new = known.is_none();
        let changes = known
            .is_none_or(|table| *table.schema != schema && micros >= table.progress.since_micros);
        changes.then(|| {
            let change = SchemaChange { table: Arc::new(schema), renamed: Vec::new() };
            Taken::Schema { change, is_new }
        })
    }

    fn add_layout(
        &mut self,
        name: &TableName,
        topic: &str,
        text: &str,
        fields: Vec<Field>,
    ) -> Result<Arc<Layout>, Problem> {
        let Some(table) = self.tables.get_mut(name) else {
            return Err(Problem::Envelope("its table is not known"));
        };
        let layout = Arc::new(Layout::new(fields, &table.schema));
        table.layouts.truncate(VERSIONS - 1);
        table.layouts.insert(0, (text.to_owned(), Arc::clone(&layout)));
        text.clone_into(&mut self.topics.entry(topic.to_owned()).or_default().schema);
        Ok(layout)
    }

    fn forget_layout(&mut self, name: &TableName, text: &str) {
        if let Some(table) = self.tables.get_mut(name) {
            table.layouts.retain(|(seen, _)| seen != text);
        }
    }

    /// Goes on with a table as it is from here on, and answers its state.
    pub(crate) fn adopt(
        &mut self,
        change: &SchemaChange,
        origin: &Origin<'_>,
        micros: Option<i64>,
        now_micros: i64,
    ) -> TableState {
        let name = change.table.name();
        let progress = Progress {
            origin: [&origin.db, &origin.schema, &origin.table].map(|t| t.to_string()),
            since_micros: micros.unwrap_or(0),
            learned: self.learned.get(name).cloned(),
        };
        let table = Table {
            schema: Arc::clone(&change.table),
            progress,
            stopped: None,
            since_micros: now_micros,
            layouts: Vec::new(),
            rows: None,
        };
        let state = table.state();
        self.tables.insert(name.clone(), table);
        state
    }

    /// Learns the columns of tables from the schema change topic.
    pub(crate) fn learn(&mut self, topic: &str, tables: &str) -> Result<(), Problem> {
        let changes: Vec<TableChange> =
            serde_json::from_str(tables).map_err(|e| Problem::Schema(e.to_string()))?;
        for change in changes {
            // `"db"."table"` or `"db"."schema"."table"`.
            let mut parts: Vec<&str> = change.id.trim_matches('"').split("\".\"").collect();
            let table = parts.pop().unwrap_or_default();
            let schema = parts.pop().unwrap_or_default();
            let Ok(name) = self.name_of(&format!("{topic}.{schema}.{table}"), ["", schema, table])
            else {
                continue;
            };
            let Some(described) = change.table.filter(|_| change.kind != "DROP") else {
                self.learned.remove(&name);
                continue;
            };
            let learned = Learned {
                key: described.primary_key_column_names,
                columns: described.columns.into_iter().map(|c| (c.name.clone(), c.sql())).collect(),
            };
            self.forget_layout(&name, "");
            self.learned.insert(name, learned);
        }
        Ok(())
    }

    /// The rows taken since the last time.
    pub(crate) fn finish(&mut self) -> Result<Vec<ChangeBatch>, ContractError> {
        let rows = self.tables.values_mut().filter_map(|t| t.rows.take());
        rows.filter_map(|rows| rows.finish().transpose()).collect()
    }

    /// Takes no more changes of a table.
    pub(crate) fn stop(
        &mut self,
        name: &TableName,
        reason: String,
        remedy: String,
        now_micros: i64,
    ) -> Option<TableState> {
        let table = self.tables.get_mut(name)?;
        table.stopped = Some((reason, remedy));
        table.since_micros = now_micros;
        table.rows = None;
        Some(table.state())
    }

    /// How a table stands, if there is such a table.
    pub(crate) fn state(&self, name: &TableName) -> Option<TableState> {
        self.tables.get(name).map(Table::state)
    }

    pub(crate) fn is_stopped(&self, name: &TableName) -> bool {
        self.tables.get(name).is_some_and(|t| t.stopped.is_some())
    }

    /// Takes changes of a table again; its columns are looked at anew.
    pub(crate) fn start(&mut self, name: &TableName) -> bool {
        let stopped = self.is_stopped(name);
        if stopped {
            self.tables.remove(name);
        }
        stopped
    }
}

impl Table {
    /// A key as values of the table's own columns.
    fn key_text(&self, key: &[u8], placeholder: &Placeholder) -> Option<String> {
        let (_, layout) = self.layouts.first()?;
        let payload = read_key(Some(key)).ok()?.0?;
        let row = rows::key_row(payload, &self.schema, layout, placeholder).ok()?;
        let key = Keys::of(&self.schema).ok()?.key_of(&row, 0).ok()?;
        (key.num_columns() > 0).then(|| keys::key_text(&key, 0).to_string())
    }

    fn state(&self) -> TableState {
        let (reason, remedy) = self.stopped.clone().unzip();
        TableState {
            table: self.schema.name().clone(),
            phase: if self.stopped.is_some() { Phase::Stopped } else { Phase::Streaming },
            reason,
            remedy,
            copied_rows: 0,
            quarantined: 0,
            progress: serde_json::to_string(&self.progress).ok(),
            since_micros: self.since_micros,
        }
    }
}

/// The sides of a change as the lake needs them: a key is enough of the row before.
fn sides<'a>(change: &Change<'a>, key: Option<&'a str>) -> Result<Sides<'a>, Problem> {
    let missing = |image| Problem::Image { op: change.op.as_str(), image };
    let whole = change.before.is_some();
    let after = || change.after.ok_or_else(|| missing("after"));
    let before = || change.before.or(key).ok_or_else(|| missing("before"));
    Ok(match change.op {
        ChangeOp::Read | ChangeOp::Create => {
            Sides { op: Op::Insert, before: None, after: Some(after()?), whole: false }
        }
        ChangeOp::Update => {
            Sides { op: Op::Update, before: Some(before()?), after: Some(after()?), whole }
        }
        ChangeOp::Delete => Sides { op: Op::Delete, before: Some(before()?), after: None, whole },
        ChangeOp::Truncate => Sides { op: Op::Truncate, before: None, after: None, whole },
    })
}

/// The key a row had before, as the text of an object: from JSON, or from how Connect's simple
/// converter of headers writes a struct, `Struct{id=1}`.
fn old_key(header: &[u8], fields: &[Field]) -> Option<String> {
    if let (Some(payload), _) = read_key(Some(header)).ok()? {
        return Some(payload.to_owned());
    }
    let text = std::str::from_utf8(header).ok()?.strip_prefix("Struct{")?.strip_suffix('}')?;
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let field = fields.iter().find(|f| f.name == name)?;
        let value = match field.codec {
            Codec::Integer | Codec::Boolean | Codec::Float => value.to_owned(),
            _ => serde_json::Value::from(value).to_string(),
        };
        Some(format!("{}:{value}", serde_json::Value::from(name)))
    };
    let pairs: Option<Vec<String>> = text.split(',').map(pair).collect();
    Some(format!("{{{}}}", pairs?.join(",")))
}

/// A message's key as the array of its values as texts, as far as it can be read.
fn key_text(key: Option<&[u8]>) -> Option<String> {
    let mut json = Json::new(read_key(key).ok()?.0?);
    let mut values = Vec::new();
    json.object().ok()?;
    while json.key(values.is_empty()).ok()?.is_some() {
        values.push(match json.peek().ok()? {
            b'"' => json.string().ok()?.into_owned(),
            _ => json.raw().ok()?.to_owned(),
        });
    }
    serde_json::to_string(&values).ok()
}

/// The type a value looks like; nothing can be said of a null.
fn look(value: &str) -> Option<(ColumnType, Codec)> {
    Some(match value.as_bytes().first()? {
        b'n' => return None,
        b't' | b'f' => (ColumnType::Boolean, Codec::Boolean),
        b'"' => (ColumnType::Utf8, Codec::Document),
        b'{' | b'[' => (ColumnType::Utf8, Codec::Document),
        _ if value.parse::<i64>().is_ok() => (ColumnType::Int64, Codec::Integer),
        _ if value.bytes().all(|b| b.is_ascii_digit() || b == b'-') => (
            ColumnType::Decimal { precision: 38, scale: 0 },
            Codec::Decimal { scale: 0, unscaled: false },
        ),
        _ => (ColumnType::Float64, Codec::Float),
    })
}

/// Whether every value of `narrow` is one of `wide` too, as the same number.
fn holds(wide: &ColumnType, narrow: &ColumnType) -> bool {
    match (wide, narrow) {
        (ColumnType::Int64, ColumnType::Int32) | (ColumnType::Float64, ColumnType::Float32) => true,
        (
            ColumnType::Decimal { precision: wide, scale: a },
            ColumnType::Decimal { precision: narrow, scale: b },
        ) => a == b && wide >= narrow,
        _ => false,
    }
}

#[derive(Debug, Deserialize)]
struct TableChange {
    #[serde(rename = "type")]
    kind: String,
    id: String,
    table: Option<DescribedTable>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescribedTable {
    #[serde(default)]
    primary_key_column_names: Vec<String>,
    #[serde(default)]
    columns: Vec<DescribedColumn>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescribedColumn {
    name: String,
    type_name: String,
    length: Option<i32>,
    scale: Option<i32>,
}

impl DescribedColumn {
    fn sql(&self) -> String {
        match (self.length, self.scale) {
            (Some(length), Some(scale)) => format!("{}({length},{scale})", self.type_name),
            (Some(length), None) => format!("{}({length})", self.type_name),
            _ => self.type_name.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
