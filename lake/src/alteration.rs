//! What can be changed about the columns of a table.

use datafusion::scalar::ScalarValue;
use medlake_contract::{Column, ColumnType};

/// A column, or a field inside one: its name, after the names of what it is inside. The element of a
/// list is called `element`, the parts of a map `key` and `value`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ColumnPath(Vec<String>);

impl ColumnPath {
    /// The names, outermost first.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

impl From<&str> for ColumnPath {
    /// A column of the table; its name may have dots.
    fn from(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }
}

impl<S: Into<String>, const N: usize> From<[S; N]> for ColumnPath {
    fn from(names: [S; N]) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }
}

/// Where a column stands among its neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Before all others.
    First,
    /// After all others.
    Last,
    /// Right before the one of this name.
    Before(String),
    /// Right after the one of this name.
    After(String),
}

/// One change of the columns of a table, for [`Lake::alter`](crate::Lake::alter). Rows in files stay
/// as they are: they are read through their field ids.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Alteration {
    /// A new column, null in the rows there are, or with a default in them.
    Add {
        /// The struct it goes into; none for a column of the table.
        inside: Option<ColumnPath>,
        /// The column; required only with a default.
        column: Column,
        /// Its value in the rows there are, of the column's type. Takes format version 3.
        default: Option<ScalarValue>,
        /// Where it stands.
        place: Place,
    },
    /// No longer a column. Its values stay in old files, unread; a later column of its name does not
    /// bring them back.
    Drop(ColumnPath),
    /// The same column under another name.
    Rename {
        /// The column.
        column: ColumnPath,
        /// Its name from now on.
        to: String,
    },
    /// The same column in another place among its neighbours.
    Move {
        /// The column.
        column: ColumnPath,
        /// Its place from now on.
        to: Place,
    },
    /// The same values in a type that holds more: `Int32` to `Int64`, `Float32` to `Float64`, a
    /// decimal to more digits, and, in format version 3, a date to a local timestamp.
    Widen {
        /// The column.
        column: ColumnPath,
        /// Its type from now on.
        to: ColumnType,
    },
    /// Rows may leave it out from now on.
    MakeNullable(ColumnPath),
    /// What the column says, for people.
    Describe {
        /// The column.
        column: ColumnPath,
        /// The text; none takes it away.
        doc: Option<String>,
    },
}
