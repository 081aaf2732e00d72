//! The files of the models as they are written: YAML words, and the SQL beside them.

use std::{collections::BTreeMap, path::Path};

use medlake_contract::{Column, ColumnType, TableName, TableSchema};
use serde::Deserialize;

use crate::error::{Problem, TransformError};

/// All files, by path relative to the folder of the models.
pub(crate) type Files = BTreeMap<String, String>;

#[derive(rust_embed::RustEmbed)]
#[folder = "models/"]
struct Embedded;

/// The models this crate was built with.
pub(crate) fn embedded() -> Files {
    Embedded::iter()
        .filter_map(|path| {
            let file = Embedded::get(&path)?;
            Some((path.into_owned(), String::from_utf8_lossy(&file.data).into_owned()))
        })
        .collect()
}

/// The models in a folder.
pub(crate) fn in_folder(folder: &Path) -> Result<Files, TransformError> {
    let mut files = Files::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(current) = folders.pop() {
        let failed = |source| TransformError::File { file: current.display().to_string(), source };
        for entry in std::fs::read_dir(&current).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).map_err(|source| TransformError::File {
                file: path.display().to_string(),
                source,
            })?;
            let name = path.strip_prefix(folder).unwrap_or(&path);
            files.insert(name.to_string_lossy().replace('\\', "/"), text);
        }
    }
    Ok(files)
}

/// `sources.yaml`: one raw table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceDefinition {
    pub(crate) table: TableName,
    pub(crate) key: Vec<String>,
    /// Each `name type`, with a question mark when it may be null.
    pub(crate) columns: Vec<String>,
}

impl SourceDefinition {
    pub(crate) fn schema(&self) -> Result<TableSchema, String> {
        let columns = self
            .columns
            .iter()
            .map(|text| {
                let (name, ty) = text
                    .split_once(' ')
                    .ok_or_else(|| format!("column \"{text}\" is not of the form \"name type\""))?;
                let (ty, nullable) = ty.strip_suffix('?').map_or((ty, false), |ty| (ty, true));
                let ty: ColumnType = serde_norway::from_str(ty)
                    .map_err(|_| format!("column \"{name}\" has unknown type \"{ty}\""))?;
                Ok(Column { name: name.to_owned(), ty, nullable })
            })
            .collect::<Result<Vec<_>, String>>()?;
        let key: Vec<&str> = self.key.iter().map(String::as_str).collect();
        TableSchema::new(self.table.clone(), columns, &key).map_err(|e| e.to_string())
    }
}

/// The `.yaml` of a model.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelDefinition {
    pub(crate) description: String,
    pub(crate) grain: String,
    pub(crate) owner: String,
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    #[serde(default)]
    pub(crate) key: Vec<String>,
    #[serde(default)]
    pub(crate) columns: Vec<ColumnDefinition>,
    pub(crate) frame: Option<FrameDefinition>,
    pub(crate) incremental: Option<IncrementalDefinition>,
    #[serde(default)]
    pub(crate) tests: Vec<TestDefinition>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ColumnDefinition {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) ty: ColumnType,
    #[serde(default)]
    pub(crate) nullable: bool,
    pub(crate) description: String,
}

/// A model that is a function over frames instead of a query.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FrameDefinition {
    pub(crate) function: String,
    pub(crate) inputs: Vec<String>,
}

/// Which part of a mart a changed input row touches.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IncrementalDefinition {
    /// Columns of the mart by which it is rebuilt.
    pub(crate) partition: Vec<String>,
    /// A query of one value; when it moves, everything is rebuilt.
    pub(crate) as_of: Option<String>,
    /// For each raw table, a query over `changed` that yields the partition columns.
    pub(crate) touched: BTreeMap<TableName, String>,
}

/// One data test: exactly one of these is given.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TestDefinition {
    pub(crate) not_null: Option<Vec<String>>,
    pub(crate) unique: Option<Vec<String>>,
    pub(crate) accepted_values: Option<AcceptedValues>,
    pub(crate) relationships: Option<Relationship>,
    pub(crate) expression: Option<String>,
    pub(crate) reconciliation: Option<Reconciliation>,
}

impl TestDefinition {
    /// The one test that is given; `None` when there are none or several.
    pub(crate) fn only(&self) -> Option<Test<'_>> {
        let mut given = [
            self.not_null.as_deref().map(Test::NotNull),
            self.unique.as_deref().map(Test::Unique),
            self.accepted_values.as_ref().map(Test::AcceptedValues),
            self.relationships.as_ref().map(Test::Relationship),
            self.expression.as_deref().map(Test::Expression),
            self.reconciliation.as_ref().map(Test::Reconciliation),
        ]
        .into_iter()
        .flatten();
        match (given.next(), given.next()) {
            (Some(test), None) => Some(test),
            _ => None,
        }
    }
}

/// The test that a [`TestDefinition`] gives.
pub(crate) enum Test<'a> {
    NotNull(&'a [String]),
    Unique(&'a [String]),
    AcceptedValues(&'a AcceptedValues),
    Relationship(&'a Relationship),
    Expression(&'a str),
    Reconciliation(&'a Reconciliation),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AcceptedValues {
    pub(crate) column: String,
    pub(crate) values: Vec<AcceptedValue>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum AcceptedValue {
    Whole(i64),
    Text(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Relationship {
    pub(crate) column: String,
    pub(crate) to: TableName,
    pub(crate) field: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reconciliation {
    pub(crate) name: String,
    /// A query over `new_rows`.
    pub(crate) left: String,
    /// A query over the inputs that must give the same rows.
    pub(crate) right: String,
}

/// Reads YAML, or says where it is wrong.
pub(crate) fn parse_yaml<T: for<'de> Deserialize<'de>>(
    file: &str,
    text: &str,
) -> Result<T, Problem> {
    serde_norway::from_str(text).map_err(|error| Problem {
        file: file.to_owned(),
        line: error.location().map_or(1, |l| l.line() as u64),
        message: error.to_string(),
    })
}

/// The first line that contains `word`, from 1.
pub(crate) fn line_of(text: &str, word: &str) -> u64 {
    (1..).zip(text.lines()).find(|(_, line)| line.contains(word)).map_or(1, |(number, _)| number)
}
