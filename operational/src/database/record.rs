//! Rows of a table as a type: its columns are named once.

use super::{Connection, Value, sql};
use crate::OperationalError;

/// A row of a table. The first column is its key.
pub(crate) trait Record: Sized {
    /// The table.
    const TABLE: &'static str;
    /// Its columns, in the order of the values.
    const COLUMNS: &'static [&'static str];

    /// The value of the first column.
    fn key(&self) -> i64;

    /// One value a column.
    fn values(&self) -> Vec<Value>;
}

/// A struct that is a row of a table, is read from one and written as JSON. The first field is the key.
macro_rules! record {
    (
        $(#[$about:meta])*
        $visibility:vis struct $name:ident in $table:literal {
            $(#[$key_doc:meta])* $key_visibility:vis $key:ident: i64,
            $( $(#[$doc:meta])* $field_visibility:vis $field:ident: $ty:ty, )*
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, sqlx::FromRow, utoipa::ToSchema)]
        $visibility struct $name {
            $(#[$key_doc])* $key_visibility $key: i64,
            $( $(#[$doc])* $field_visibility $field: $ty, )*
        }

        impl $crate::database::Record for $name {
            const TABLE: &'static str = $table;
            const COLUMNS: &'static [&'static str] = &[stringify!($key), $(stringify!($field)),*];

            fn key(&self) -> i64 {
                self.$key
            }

            fn values(&self) -> Vec<$crate::database::Value> {
                vec![self.$key.into(), $((&self.$field).into()),*]
            }
        }
    };
}

pub(crate) use record;

/// The most values of one statement. SQLite takes 32,766, but what it takes to bind them grows with the
/// square of their number: 32,000 take a second, 2,000 a few milliseconds.
const VALUES_MAX: usize = 2_000;

/// Inserts rows, many a statement.
///
/// # Errors
/// What the database says, such as [`OperationalError::Taken`] when a row is there already.
pub(crate) async fn insert<R: Record>(
    on: &mut Connection,
    rows: &[R],
) -> Result<(), OperationalError> {
    for rows in rows.chunks(VALUES_MAX / R::COLUMNS.len()) {
        // Some are words of the language; both take these quotes.
        let columns = R::COLUMNS.join("`, `");
        sql(format!("insert into {} (`{columns}`) values {{rows}}", R::TABLE))
            .rows(rows.iter().map(R::values))
            .execute(on)
            .await?;
    }
    Ok(())
}

/// Inserts one row.
///
/// # Errors
/// As [`insert`].
pub(crate) async fn insert_one<R: Record>(
    on: &mut Connection,
    row: &R,
) -> Result<(), OperationalError> {
    insert(on, std::slice::from_ref(row)).await
}

/// Inserts those rows whose keys are not there yet, and gives them back. A key that is there twice is
/// the first one's.
///
/// # Errors
/// What the database says.
pub(crate) async fn insert_missing<R: Record>(
    on: &mut Connection,
    rows: Vec<R>,
) -> Result<Vec<R>, OperationalError> {
    let mut present = std::collections::HashSet::new();
    for rows in rows.chunks(VALUES_MAX) {
        let key = R::COLUMNS[0];
        let found: Vec<(i64,)> =
            sql(format!("select {key} from {} where {key} in {{list}}", R::TABLE))
                .list(rows.iter().map(R::key))
                .all(on)
                .await?;
        present.extend(found.into_iter().map(|(key,)| key));
    }
    let missing: Vec<R> = rows.into_iter().filter(|row| present.insert(row.key())).collect();
    insert(on, &missing).await?;
    Ok(missing)
}
