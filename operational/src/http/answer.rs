use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use medlake_contract::Kind;
use serde::Serialize;
use utoipa::ToSchema;

use crate::OperationalError;

/// The body of every answer that is not a success.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Debug, Serialize, ToSchema)]
struct ErrorDetail {
    /// Stable: `invalid`, `not_found`, `conflict`, `unavailable`, `internal` and so on.
    #[schema(example = "not_found")]
    code: String,
    /// For a person.
    #[schema(example = "product 9 does not exist")]
    message: String,
}

/// A JSON answer that is already text, so that the same bytes can be given again.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) json: String,
    /// Whether it was given before, to the same request.
    pub(crate) repeated: bool,
}

impl Answer {
    pub(crate) fn error(status: StatusCode, code: &str, message: &str) -> Self {
        let body =
            ErrorBody { error: ErrorDetail { code: code.to_owned(), message: message.to_owned() } };
        Self {
            status,
            json: serde_json::to_string(&body).expect("two strings are always valid JSON"),
            repeated: false,
        }
    }

    /// With what is told only the first time, and kept nowhere.
    ///
    /// # Errors
    /// `Stored` when the answer is not an object.
    pub(crate) fn telling(self, field: &str, secret: &str) -> Result<Self, OperationalError> {
        if self.repeated {
            return Ok(self);
        }
        let wrong = |source| OperationalError::Stored { what: "answer", source };
        let mut told: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&self.json).map_err(wrong)?;
        told.insert(field.to_owned(), secret.into());
        Ok(Self { json: serde_json::to_string(&told).map_err(wrong)?, ..self })
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        (self.status, [(header::CONTENT_TYPE, "application/json")], self.json).into_response()
    }
}

/// An error on its way to a client. What is ours to mend is logged here and not told.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) OperationalError);

impl From<OperationalError> for Failure {
    fn from(error: OperationalError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let kind = self.0.kind();
        let status = match self.0 {
            OperationalError::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            OperationalError::Unauthenticated { .. } => StatusCode::UNAUTHORIZED,
            _ => StatusCode::from_u16(kind.http_status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        };
        let message = match kind {
            Kind::Internal | Kind::Corrupt => {
                tracing::error!(
                    error = &self.0 as &dyn std::error::Error,
                    "a request failed for a reason of ours"
                );
                "the service failed; the reason is in its log".to_owned()
            }
            _ => self.0.to_string(),
        };
        Answer::error(status, kind.code(), &message).into_response()
    }
}
