use axum::{
    extract::FromRequestParts,
    http::{Extensions, request::Parts},
    response::{IntoResponse, Response},
};

use super::{Failure, trace::Trace};
use crate::{Actor, OperationalError, Scope, Services};

/// Who asks, and for which tenant. Put on each request before its handler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) tenant_id: i64,
    pub(crate) actor: Actor,
    /// The trace of the request.
    pub(crate) trace: Option<Trace>,
}

impl Caller {
    /// Whoever asks where access is open.
    pub(crate) const ANYONE: Self =
        Self { tenant_id: Scope::DEFAULT_TENANT, actor: Actor::System, trace: None };

    /// Who made this request.
    ///
    /// # Errors
    /// `Denied` when nobody looked: a route outside of the door is a defect, and stays shut.
    pub(crate) fn of(extensions: &Extensions) -> Result<Self, OperationalError> {
        extensions
            .get::<Self>()
            .copied()
            .ok_or_else(|| OperationalError::denied("nobody looked who asks"))
    }

    /// An idempotency key as it is stored: nobody gets the answer to another's request.
    pub(crate) fn own(self, key: &str) -> String {
        match self.actor {
            Actor::System => key.to_owned(),
            actor => format!("{actor} {key}"),
        }
    }

    /// What they ask is done in this scope, at `now` (microseconds since 1970, UTC).
    pub(crate) const fn scope(self, now: i64) -> Scope {
        Scope { tenant_id: self.tenant_id, now, actor: self.actor }
    }
}

/// A handler that reads names the scope it does so in.
impl FromRequestParts<Services> for Scope {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, services: &Services) -> Result<Self, Response> {
        let caller =
            Caller::of(&parts.extensions).map_err(|error| Failure(error).into_response())?;
        Ok(caller.scope(services.now()))
    }
}
