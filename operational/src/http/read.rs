use axum::{
    extract::{FromRequestParts, Path, Query},
    http::request::Parts,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::{
    IntoParams, PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

use super::Failure;
use crate::OperationalError;

/// The id at the end of a path.
#[derive(Debug)]
pub(crate) struct Id(pub(crate) i64);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Path::<i64>::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Self(id)),
            Err(_) => Err(OperationalError::invalid("the id in the path is not a number").into()),
        }
    }
}

/// What follows the question mark.
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(OperationalError::invalid(rejection.body_text()).into()),
        }
    }
}

/// Which part of a list.
#[derive(Debug, Default, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// Only rows with a higher id.
    #[serde(default)]
    pub after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    pub limit: Limit,
}

/// How many rows of a list are asked for at most: 1 to 1000, and 100 when nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u16")]
pub struct Limit(u16);

impl Limit {
    pub const MAX: Self = Self(1000);

    /// As a statement takes it.
    #[must_use]
    pub fn rows(self) -> i64 {
        i64::from(self.0)
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(100)
    }
}

impl PartialSchema for Limit {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .maximum(Some(1000))
            .default(Some(100.into()))
            .into()
    }
}

impl ToSchema for Limit {}

impl TryFrom<u16> for Limit {
    type Error = &'static str;

    fn try_from(rows: u16) -> Result<Self, Self::Error> {
        match rows {
            1..=1000 => Ok(Self(rows)),
            _ => Err("limit must be between 1 and 1000"),
        }
    }
}

/// Rows of one kind.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    pub(crate) items: Vec<T>,
}
