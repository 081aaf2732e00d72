use std::{fmt, str::FromStr, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::ContractError;

/// `namespace.table`, both in lower-case letters, digits and underscores.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TableName {
    namespace: String,
    table: String,
}

impl TableName {
    /// The part before the dot.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The part after the dot.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }
}

impl FromStr for TableName {
    type Err = ContractError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let word = |w: &str| {
            w.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
                && w.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        match text.split_once('.') {
            Some((namespace, table)) if word(namespace) && word(table) => {
                Ok(Self { namespace: namespace.to_owned(), table: table.to_owned() })
            }
            _ => Err(ContractError::TableName { text: text.to_owned() }),
        }
    }
}

impl TryFrom<String> for TableName {
    type Error = ContractError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TableName> for String {
    fn from(name: TableName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace, self.table)
    }
}

/// The types a column can have on its way from a source to a query.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ColumnType {
    /// True or false.
    Boolean,
    /// 32-bit signed integer.
    Int32,
    /// 64-bit signed integer; money is in fen, the hundredth of a yuan.
    Int64,
    /// IEEE 754 single.
    Float32,
    /// IEEE 754 double.
    Float64,
    /// A decimal number, exact: at most 38 digits, `scale` of them after the point.
    Decimal {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits after the point, at most `precision`.
        scale: u8,
    },
    /// UTF-8 text.
    Utf8,
    /// Days since 1970-01-01.
    Date,
    /// Time of day, in microseconds since midnight.
    Time,
    /// Microseconds since 1970-01-01T00:00:00Z.
    TimestampMicros,
    /// A date and time of day of no particular zone, as microseconds since 1970-01-01T00:00:00.
    LocalTimestampMicros,
    /// The 16 bytes of a UUID, in network order.
    Uuid,
    /// So many bytes.
    Fixed(u32),
    /// Bytes.
    Binary,
    /// A list; the column names its elements.
    List(Box<Column>),
    /// Named fields.
    Struct(Vec<Column>),
    /// Pairs of a required key and a value.
    Map(Box<Column>, Box<Column>),
}

impl ColumnType {
    /// The Arrow type that holds it, everywhere.
    #[must_use]
    pub fn arrow(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Decimal { precision, scale } => {
                DataType::Decimal128(*precision, i8::try_from(*scale).unwrap_or(i8::MAX))
            }
            Self::Utf8 => DataType::Utf8,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::TimestampMicros => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::LocalTimestampMicros => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Uuid => DataType::FixedSizeBinary(16),
            Self::Fixed(length) => {
                DataType::FixedSizeBinary(i32::try_from(*length).unwrap_or(i32::MAX))
            }
            Self::Binary => DataType::Binary,
            Self::List(element) => DataType::List(Arc::new(element.arrow())),
            Self::Struct(fields) => DataType::Struct(fields.iter().map(Column::arrow).collect()),
            Self::Map(key, value) => {
                let entry = DataType::Struct(vec![key.arrow(), value.arrow()].into());
                DataType::Map(Arc::new(Field::new("key_value", entry, false)), false)
            }
        }
    }

    /// Whether it is made of other columns.
    #[must_use]
    pub fn is_nested(&self) -> bool {
        matches!(self, Self::List(_) | Self::Struct(_) | Self::Map(..))
    }
}

/// One column of a table, or one field inside a column.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Column {
    /// Its name, unique in the table.
    pub name: String,
    /// Its type.
    pub ty: ColumnType,
    /// Whether a row may leave it out.
    pub nullable: bool,
}

impl Column {
    /// A column every row has a value for.
    pub fn required(name: impl Into<String>, ty: ColumnType) -> Self {
        Self { name: name.into(), ty, nullable: false }
    }

    /// A column that may be null.
    pub fn nullable(name: impl Into<String>, ty: ColumnType) -> Self {
        Self { name: name.into(), ty, nullable: true }
    }

    /// The Arrow field that holds it.
    #[must_use]
    pub fn arrow(&self) -> Field {
        Field::new(&self.name, self.ty.arrow(), self.nullable)
    }
}

/// What makes a row of a table the same row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The values of its key columns.
    Key,
    /// The values of all its columns: for tables without a key whose changes carry whole rows. Equal
    /// rows may occur more than once; a delete or update takes one of them.
    FullRow,
    /// Nothing: rows are only ever added, or all removed by a truncate.
    Append,
}

/// A table as its readers see it: name, columns in order, and the columns that identify a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSchema {
    name: TableName,
    columns: Vec<Column>,
    identity: Identity,
    key: Vec<usize>,
    arrow: SchemaRef,
    arrow_nullable: SchemaRef,
}

impl TableSchema {
    /// A table of these columns, identified by the columns named in `key`, in that order.
    ///
    /// # Errors
    /// When a column name occurs twice, when the key is empty or names a column that is missing,
    /// nullable or nested.
    pub fn new(name: TableName, columns: Vec<Column>, key: &[&str]) -> Result<Self, ContractError> {
        if key.is_empty() {
            let problem = "it has no key; a row could not be found again to update it".to_owned();
            return Err(ContractError::Schema { table: name, problem });
        }
        Self::of(name, columns, Identity::Key, key)
    }

    /// A table of these columns without a key. [`Identity::FullRow`] and [`Identity::Append`] say
    /// what its changes may be; [`Identity::Key`] is refused.
    ///
    /// # Errors
    /// When a column name occurs twice, or identity is by key.
    pub fn keyless(
        name: TableName,
        columns: Vec<Column>,
        identity: Identity,
    ) -> Result<Self, ContractError> {
        if identity == Identity::Key {
            let problem = "it is declared without a key and as identified by one".to_owned();
            return Err(ContractError::Schema { table: name, problem });
        }
        Self::of(name, columns, identity, &[])
    }

    fn of(
        name: TableName,
        columns: Vec<Column>,
        identity: Identity,
        key: &[&str],
    ) -> Result<Self, ContractError> {
        let wrong = |problem: String| ContractError::Schema { table: name.clone(), problem };
        for (i, column) in columns.iter().enumerate() {
            if columns[..i].iter().any(|c| c.name == column.name) {
                return Err(wrong(format!("column \"{}\" occurs twice", column.name)));
            }
        }
        let key = key
            .iter()
            .map(|k| {
                let at = columns
                    .iter()
                    .position(|c| c.name == *k)
                    .ok_or_else(|| wrong(format!("key column \"{k}\" is missing")))?;
                if columns[at].nullable {
                    return Err(wrong(format!("key column \"{k}\" is nullable")));
                }
                if columns[at].ty.is_nested() {
                    return Err(wrong(format!("key column \"{k}\" is not a single value")));
                }
                Ok(at)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let schema = |forced_nullable: bool| {
            Arc::new(Schema::new(
                columns
                    .iter()
                    .map(|c| Field::new(&c.name, c.ty.arrow(), forced_nullable || c.nullable))
                    .collect::<Vec<_>>(),
            ))
        };
        Ok(Self {
            arrow: schema(false),
            arrow_nullable: schema(true),
            name,
            columns,
            identity,
            key,
        })
    }

    /// The table's name.
    #[must_use]
    pub fn name(&self) -> &TableName {
        &self.name
    }

    /// The columns, in order.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// What makes a row the same row.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The places of the key columns, in key order; empty for a table without a key.
    #[must_use]
    pub fn key_indices(&self) -> &[usize] {
        &self.key
    }

    /// The Arrow schema of a row that exists.
    #[must_use]
    pub fn arrow(&self) -> &SchemaRef {
        &self.arrow
    }

    /// The same columns, all nullable: the schema of the images of a change, where a row that does
    /// not exist (before an insert, after a delete) is all null.
    #[must_use]
    pub fn arrow_nullable(&self) -> &SchemaRef {
        &self.arrow_nullable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_two_words() {
        assert_eq!("mall.order_line".parse::<TableName>().unwrap().table(), "order_line");
        for wrong in ["mall", "mall.", ".x", "a.b.c", "Mall.x", "mall.1x", "m all.x"] {
            assert!(wrong.parse::<TableName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_must_be_there_and_required() {
        let table = |columns: Vec<Column>, key: &[&str]| {
            TableSchema::new("a.b".parse().unwrap(), columns, key).map_err(|e| e.to_string())
        };
        let id = || Column::required("id", ColumnType::Int64);
        assert!(table(vec![id()], &["id"]).is_ok());
        assert!(table(vec![id()], &[]).unwrap_err().contains("no key"));
        assert!(table(vec![id()], &["no"]).unwrap_err().contains("missing"));
        assert!(table(vec![id(), id()], &["id"]).unwrap_err().contains("twice"));
        let nullable = Column::nullable("id", ColumnType::Int64);
        assert!(table(vec![nullable], &["id"]).unwrap_err().contains("nullable"));
        let nested = Column::required("id", ColumnType::Struct(vec![id()]));
        assert!(table(vec![nested], &["id"]).unwrap_err().contains("single value"));
    }

    #[test]
    fn a_table_without_a_key_says_how_rows_are_told_apart() {
        let table = |identity| {
            let id = Column::nullable("id", ColumnType::Int64);
            TableSchema::keyless("a.b".parse().unwrap(), vec![id], identity)
        };
        let log = table(Identity::Append).unwrap();
        assert!(log.key_indices().is_empty());
        assert_eq!(log.identity(), Identity::Append);
        assert!(table(Identity::Key).is_err());
    }
}
