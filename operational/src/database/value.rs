//! What stands in a column: values that both databases store and give back alike.

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use serde::{Deserialize, Serialize};
use sqlx::{
    Decode, MySql, Sqlite, Type,
    error::BoxDynError,
    mysql::{MySqlTypeInfo, MySqlValueRef},
    sqlite::{SqliteTypeInfo, SqliteValueRef},
};
use utoipa::ToSchema;

/// A moment, in microseconds since 1970 (UTC): an integer in SQLite, a `datetime(6)` in MySQL.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(transparent)]
#[schema(value_type = i64)]
pub struct Micros(pub i64);

impl From<i64> for Micros {
    fn from(micros: i64) -> Self {
        Self(micros)
    }
}

impl PartialEq<i64> for Micros {
    fn eq(&self, micros: &i64) -> bool {
        self.0 == *micros
    }
}

impl Type<Sqlite> for Micros {
    fn type_info() -> SqliteTypeInfo {
        <i64 as Type<Sqlite>>::type_info()
    }

    fn compatible(_: &SqliteTypeInfo) -> bool {
        // The column is declared TIMESTAMP, and holds integers.
        true
    }
}

impl Decode<'_, Sqlite> for Micros {
    fn decode(value: SqliteValueRef<'_>) -> Result<Self, BoxDynError> {
        <i64 as Decode<Sqlite>>::decode(value).map(Self)
    }
}

impl Type<MySql> for Micros {
    fn type_info() -> MySqlTypeInfo {
        <NaiveDateTime as Type<MySql>>::type_info()
    }

    fn compatible(ty: &MySqlTypeInfo) -> bool {
        <NaiveDateTime as Type<MySql>>::compatible(ty)
    }
}

impl Decode<'_, MySql> for Micros {
    fn decode(value: MySqlValueRef<'_>) -> Result<Self, BoxDynError> {
        let moment = <NaiveDateTime as Decode<MySql>>::decode(value)?;
        Ok(Self(moment.and_utc().timestamp_micros()))
    }
}

/// One value of a statement.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Real(f64),
    Text(String),
    Bytes(Vec<u8>),
    Day(NaiveDate),
    Moment(Micros),
}

impl Value {
    /// A moment as MySQL takes it. One that no calendar has is null, which the column refuses.
    pub(super) fn moment(Micros(micros): Micros) -> Option<NaiveDateTime> {
        DateTime::from_timestamp_micros(micros).map(|moment| moment.naive_utc())
    }
}

macro_rules! from {
    ($($ty:ty => $variant:ident),* $(,)?) => {$(
        impl From<$ty> for Value {
            fn from(value: $ty) -> Self {
                Self::$variant(value)
            }
        }

        impl From<&$ty> for Value {
            fn from(value: &$ty) -> Self {
                Self::$variant(value.clone())
            }
        }
    )*};
}

from! {
    bool => Bool,
    i64 => Int,
    f64 => Real,
    String => Text,
    Vec<u8> => Bytes,
    NaiveDate => Day,
    Micros => Moment,
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<'a, T> From<&'a Option<T>> for Value
where
    &'a T: Into<Self>,
{
    fn from(value: &'a Option<T>) -> Self {
        value.as_ref().map_or(Self::Null, Into::into)
    }
}

/// An enumeration whose values are words: the same in JSON and in both databases.
macro_rules! words {
    (
        $(#[$about:meta])*
        $visibility:vis enum $name:ident { $( $(#[$doc:meta])* $variant:ident = $word:literal, )* }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        $visibility enum $name {
            $( $(#[$doc])* #[serde(rename = $word)] $variant, )*
        }

        impl $name {
            /// All of them.
            $visibility const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word that stands for it.
            #[must_use]
            $visibility const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        // By hand: the derived one does not see the words, which a macro hands on in a group of their own.
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .enum_values(Some(Self::ALL.iter().map(|value| value.word())))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }

        impl From<$name> for $crate::database::Value {
            fn from(value: $name) -> Self {
                value.word().into()
            }
        }

        impl From<&$name> for $crate::database::Value {
            fn from(value: &$name) -> Self {
                value.word().into()
            }
        }

        impl<DB: sqlx::Database> sqlx::Type<DB> for $name where str: sqlx::Type<DB> {
            fn type_info() -> DB::TypeInfo {
                <str as sqlx::Type<DB>>::type_info()
            }

            fn compatible(ty: &DB::TypeInfo) -> bool {
                <str as sqlx::Type<DB>>::compatible(ty)
            }
        }

        impl<'r, DB: sqlx::Database> sqlx::Decode<'r, DB> for $name where &'r str: sqlx::Decode<'r, DB> {
            fn decode(value: DB::ValueRef<'r>) -> Result<Self, sqlx::error::BoxDynError> {
                let word = <&str as sqlx::Decode<DB>>::decode(value)?;
                Self::ALL.iter().copied().find(|value| value.word() == word)
                    .ok_or_else(|| format!("\"{word}\" is not one of {:?}", Self::ALL).into())
            }
        }
    };
}

pub(crate) use words;
