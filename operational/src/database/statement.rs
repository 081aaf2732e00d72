//! Statements, written once for SQLite and for MySQL or MariaDB.
//!
//! They are SQL as SQLite has it, with values by number: `?1`, `?2`. What the other says differently
//! is translated here, and only this:
//!
//! | written | MySQL and MariaDB | SQLite |
//! |---|---|---|
//! | `?1` | `?`, its value given again wherever it stands | the same |
//! | `for update` | the same | nothing: the writer holds the whole database |
//! | `on conflict (a, b) do nothing` | `on duplicate key update a = a` | the same |
//! | `{rows}` | `(?, ?), (?, ?)`: many rows, one statement | the same |
//! | `{list}` | `(?, ?)`: what `in` looks through | the same |

use std::{borrow::Cow, fmt::Write as _};

use sqlx::{
    AssertSqlSafe, Encode, FromRow, MySql, Sqlite, Type, mysql::MySqlRow, query::Query,
    sqlite::SqliteRow,
};

use super::{Connection, Value};
use crate::OperationalError;

/// What a row of either database becomes.
pub(crate) trait Row:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, MySqlRow> + Send + Unpin
{
}

impl<T> Row for T where
    T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, MySqlRow> + Send + Unpin
{
}

/// A statement with its values.
#[derive(Debug)]
#[must_use = "a statement does nothing before it is run"]
pub(crate) struct Statement {
    text: Cow<'static, str>,
    values: Vec<Value>,
}

/// A statement of this program: values are only ever bound.
pub(crate) fn sql(text: impl Into<Cow<'static, str>>) -> Statement {
    Statement { text: text.into(), values: Vec::new() }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Sqlite,
    MySql,
}

impl Statement {
    /// Binds the next number.
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Puts rows in the place of `{rows}`. There must be one at least, and what SQLite takes at most
    /// is 32,766 values.
    pub(crate) fn rows(self, rows: impl IntoIterator<Item = Vec<Value>>) -> Self {
        self.many("{rows}", rows)
    }

    /// Puts values in the place of `{list}`; nothing is in a list of none.
    pub(crate) fn list(self, values: impl IntoIterator<Item = impl Into<Value>>) -> Self {
        let mut values: Vec<Value> = values.into_iter().map(Into::into).collect();
        if values.is_empty() {
            values.push(Value::Null);
        }
        self.many("{list}", [values])
    }

    fn many(mut self, place: &str, rows: impl IntoIterator<Item = Vec<Value>>) -> Self {
        let mut text = String::new();
        for row in rows {
            text.push_str(if text.is_empty() { "(" } else { ", (" });
            for (at, value) in row.into_iter().enumerate() {
                self.values.push(value);
                let comma = if at == 0 { "" } else { ", " };
                write!(text, "{comma}?{}", self.values.len()).expect("a string takes all text");
            }
            text.push(')');
        }
        self.text = self.text.replacen(place, &text, 1).into();
        self
    }

    /// Runs it; gives the number of rows it changed, or found to change.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) async fn execute(self, on: &mut Connection) -> Result<u64, OperationalError> {
        Ok(match on {
            Connection::Sqlite(on) => self.sqlite().execute(&mut **on).await?.rows_affected(),
            Connection::MySql(on) => self.mysql().execute(&mut **on).await?.rows_affected(),
        })
    }

    /// All rows.
    ///
    /// # Errors
    /// What the database says; a row that is not what it must be.
    pub(crate) async fn all<T: Row>(self, on: &mut Connection) -> Result<Vec<T>, OperationalError> {
        Ok(match on {
            Connection::Sqlite(on) => {
                let rows = self.sqlite().fetch_all(&mut **on).await?;
                rows.iter().map(T::from_row).collect::<Result<_, _>>()?
            }
            Connection::MySql(on) => {
                let rows = self.mysql().fetch_all(&mut **on).await?;
                rows.iter().map(T::from_row).collect::<Result<_, _>>()?
            }
        })
    }

    /// The first row, if there is one.
    ///
    /// # Errors
    /// As [`all`](Self::all).
    pub(crate) async fn first<T: Row>(
        self,
        on: &mut Connection,
    ) -> Result<Option<T>, OperationalError> {
        Ok(match on {
            Connection::Sqlite(on) => {
                let row = self.sqlite().fetch_optional(&mut **on).await?;
                row.as_ref().map(T::from_row).transpose()?
            }
            Connection::MySql(on) => {
                let row = self.mysql().fetch_optional(&mut **on).await?;
                row.as_ref().map(T::from_row).transpose()?
            }
        })
    }

    /// The row that must be there.
    ///
    /// # Errors
    /// As [`all`](Self::all).
    pub(crate) async fn one<T: Row>(self, on: &mut Connection) -> Result<T, OperationalError> {
        self.first(on).await?.ok_or_else(|| sqlx::Error::RowNotFound.into())
    }

    /// The one value of the row that must be there.
    ///
    /// # Errors
    /// As [`all`](Self::all).
    pub(crate) async fn value<T>(self, on: &mut Connection) -> Result<T, OperationalError>
    where
        (T,): Row,
    {
        Ok(self.one::<(T,)>(on).await?.0)
    }

    fn sqlite<'q>(self) -> Query<'q, Sqlite, <Sqlite as sqlx::Database>::Arguments> {
        let (text, order) = written(&self.text, Dialect::Sqlite);
        debug_assert!(order.iter().all(|&at| at < self.values.len()), "{text}");
        let query = sqlx::query(AssertSqlSafe(text));
        self.values.into_iter().fold(query, |query, value| match value {
            Value::Moment(moment) => query.bind(moment.0),
            value => plain(query, value),
        })
    }

    fn mysql<'q>(self) -> Query<'q, MySql, <MySql as sqlx::Database>::Arguments> {
        let (text, order) = written(&self.text, Dialect::MySql);
        let query = sqlx::query(AssertSqlSafe(text));
        order.into_iter().fold(query, |query, at| match self.values[at].clone() {
            Value::Moment(moment) => query.bind(Value::moment(moment)),
            value => plain(query, value),
        })
    }
}

/// Binds a value that both databases take as it is.
fn plain<'q, DB>(query: Query<'q, DB, DB::Arguments>, value: Value) -> Query<'q, DB, DB::Arguments>
where
    DB: sqlx::Database,
    Option<i64>: Encode<'q, DB> + Type<DB>,
    bool: Encode<'q, DB> + Type<DB>,
    i64: Encode<'q, DB> + Type<DB>,
    f64: Encode<'q, DB> + Type<DB>,
    String: Encode<'q, DB> + Type<DB>,
    Vec<u8>: Encode<'q, DB> + Type<DB>,
    chrono::NaiveDate: Encode<'q, DB> + Type<DB>,
{
    match value {
        Value::Null => query.bind(None::<i64>),
        Value::Bool(value) => query.bind(value),
        Value::Int(value) | Value::Moment(super::Micros(value)) => query.bind(value),
        Value::Real(value) => query.bind(value),
        Value::Text(value) => query.bind(value),
        Value::Bytes(value) => query.bind(value),
        Value::Day(value) => query.bind(value),
    }
}

/// The text as a database has it, and which values it wants, in the order it wants them.
fn written(text: &str, dialect: Dialect) -> (String, Vec<usize>) {
    let mut out = String::with_capacity(text.len());
    let mut order = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['?', '\'', 'f', 'o']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let skipped = match rest.as_bytes()[0] {
            b'\'' => {
                let end = rest[1..].find('\'').map_or(rest.len(), |end| end + 2);
                out.push_str(&rest[..end]);
                end
            }
            b'?' => {
                let digits = rest[1..].bytes().take_while(u8::is_ascii_digit).count();
                let number: usize = rest[1..=digits].parse().unwrap_or(0);
                order.push(number.saturating_sub(1));
                out.push_str(if dialect == Dialect::MySql { "?" } else { &rest[..=digits] });
                digits + 1
            }
            _ => clause(rest, dialect, &mut out),
        };
        rest = &rest[skipped..];
    }
    out.push_str(rest);
    (out, order)
}

/// One of the clauses that are translated, or else one letter. Gives what was read.
fn clause(rest: &str, dialect: Dialect, out: &mut String) -> usize {
    const FOR_UPDATE: &str = "for update";
    const ON_CONFLICT: &str = "on conflict (";
    const DO_NOTHING: &str = ") do nothing";
    if dialect == Dialect::Sqlite && rest.starts_with(FOR_UPDATE) {
        return FOR_UPDATE.len();
    }
    if dialect == Dialect::MySql
        && let Some(columns) = rest.strip_prefix(ON_CONFLICT)
        && let Some((columns, _)) = columns.split_once(DO_NOTHING)
    {
        let first = columns.split(',').next().unwrap_or(columns).trim();
        write!(out, "on duplicate key update {first} = {first}").expect("a string takes all text");
        return ON_CONFLICT.len() + columns.len() + DO_NOTHING.len();
    }
    out.push_str(&rest[..1]);
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &'static str) -> [(String, Vec<usize>); 2] {
        [Dialect::Sqlite, Dialect::MySql].map(|dialect| written(text, dialect))
    }

    #[test]
    fn values_are_numbered_for_one_and_given_again_to_the_other() {
        let text = "update t set a = ?2, b = ?2 where c = ?1 and d = '?3 of'";
        let [sqlite, mysql] = of(text);
        assert_eq!(sqlite, (text.to_owned(), vec![1, 1, 0]));
        assert_eq!(
            mysql,
            ("update t set a = ?, b = ? where c = ? and d = '?3 of'".to_owned(), vec![1, 1, 0])
        );
    }

    #[test]
    fn locks_and_conflicts_are_each_ones_own() {
        let [sqlite, mysql] = of("select a from office where a = ?1 for update");
        assert_eq!(sqlite.0, "select a from office where a = ?1 ");
        assert_eq!(mysql.0, "select a from office where a = ? for update");
        let [sqlite, mysql] =
            of("insert into t (a, b) values (?1, ?2) on conflict (a, b) do nothing");
        assert!(sqlite.0.ends_with("on conflict (a, b) do nothing"));
        assert_eq!(mysql.0, "insert into t (a, b) values (?, ?) on duplicate key update a = a");
    }

    #[test]
    fn rows_and_lists_are_written_out() {
        let rows = sql("insert into t (a, b) values {rows}")
            .rows([vec![1.into(), "x".into()], vec![2.into(), Value::Null]]);
        assert_eq!(rows.text, "insert into t (a, b) values (?1, ?2), (?3, ?4)");
        assert_eq!(rows.values.len(), 4);
        let list = sql("select a from t where b = ?1 and a in {list}").bind("x").list([7, 8]);
        assert_eq!(list.text, "select a from t where b = ?1 and a in (?2, ?3)");
        let none = sql("select a from t where a in {list}").list(Vec::<i64>::new());
        assert_eq!(
            (none.text.as_ref(), none.values),
            ("select a from t where a in (?1)", vec![Value::Null])
        );
    }
}
