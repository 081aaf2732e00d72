use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use medlake_contract::Kind;
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::QueryError;

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// What went wrong.
    pub error: ErrorInfo,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ErrorInfo {
    /// `invalid`, `not_found`, `conflict`, `denied`, `unsupported`, `unavailable`, `exhausted`,
    /// `cancelled`, `corrupt` or `internal`.
    pub code: &'static str,
    /// One line for a person.
    pub message: String,
    /// More facts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What may help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The SQLSTATE, for a statement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqlstate: Option<&'static str>,
    /// Where in the statement, in characters from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<usize>,
}

impl ErrorInfo {
    fn of(error: &QueryError) -> Self {
        let about_request = matches!(
            error,
            QueryError::Request { .. } | QueryError::NotFound { .. } | QueryError::Metric { .. }
        );
        Self {
            code: error.kind().code(),
            message: error.to_string(),
            detail: error.detail(),
            hint: error.hint(),
            sqlstate: (!about_request).then(|| error.sqlstate()),
            position: error.position(),
        }
    }
}

/// `{"error":{...}}`.
pub(crate) fn error_json(error: &QueryError) -> String {
    serde_json::to_string(&ErrorBody { error: ErrorInfo::of(error) })
        .unwrap_or_else(|_| r#"{"error":{"code":"internal","message":"no message"}}"#.into())
}

/// An error on its way out of a handler.
#[derive(Debug)]
pub(crate) struct ApiError(pub(crate) QueryError);

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        Self(error)
    }
}

impl ApiError {
    pub(crate) fn body(&self) -> impl IntoResponse + use<> {
        ([(header::CONTENT_TYPE, "application/json")], error_json(&self.0))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let kind = self.0.kind();
        if matches!(kind, Kind::Internal | Kind::Corrupt) {
            tracing::error!(error = %self.0, source = ?std::error::Error::source(&self.0), "a request failed");
        }
        // A statement about a table that is not there is a wrong request to an address that is.
        let status = match (&self.0, kind) {
            (QueryError::Sql(_), Kind::NotFound) => Kind::Invalid.http_status(),
            _ => kind.http_status(),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, self.body()).into_response()
    }
}
