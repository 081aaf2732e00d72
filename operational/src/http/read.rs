use axum::{
    extract::{FromRequestParts, Path, Query},
    http::request::Parts,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::{IntoParams, ToSchema};

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
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// Only rows with a higher id.
    #[serde(default)]
    pub after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default = "Page::default_limit")]
    pub limit: u16,
}

impl Page {
    pub(crate) fn default_limit() -> u16 {
        100
    }

    /// The part that a list with filters of its own is asked for.
    pub(crate) fn of(after_id: i64, limit: Option<u16>) -> Self {
        Self { after_id, limit: limit.unwrap_or_else(Self::default_limit) }
    }

    /// The limit as it is applied.
    #[must_use]
    pub fn rows(self) -> i64 {
        i64::from(self.limit.clamp(1, 1000))
    }
}

impl Default for Page {
    fn default() -> Self {
        Self { after_id: 0, limit: Self::default_limit() }
    }
}

/// Rows of one kind.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    pub(crate) items: Vec<T>,
}
