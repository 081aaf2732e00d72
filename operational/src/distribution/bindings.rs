//! To whom a buyer is bound, with its history: a new binding ends the one before it.

use axum::{Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, SqliteConnection};
use utoipa::ToSchema;

use super::distributors;
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    http::{Answer, Begun, Command, ErrorBody, Failure, begin},
};

/// A binding to be made.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBinding {
    /// Who buys.
    pub person_id: i64,
    /// To whom they are bound.
    pub distributor_id: i64,
}

/// A binding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Binding {
    /// Its id.
    pub binding_id: i64,
    /// The tenant.
    pub tenant_id: i64,
    /// Who buys.
    pub person_id: i64,
    /// To whom they are bound.
    pub distributor_id: i64,
    /// From when, in microseconds since 1970 (UTC).
    pub bound_at: i64,
    /// Until when, exclusive.
    pub unbound_at: Option<i64>,
}

/// Binds a person to a distributor from now on, and ends the binding they have.
///
/// # Errors
/// `NotFound` for an unknown distributor; `Conflict` when it is not active, or the person is bound
/// to it already, or was bound later than now; `Invalid` when it is the person's own.
pub async fn bind(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewBinding,
) -> Result<Binding, OperationalError> {
    if new.person_id <= 0 {
        return Err(OperationalError::invalid("person_id must be positive"));
    }
    let distributor = distributors::find(tx, scope.tenant_id, new.distributor_id).await?;
    if !distributor.active {
        return Err(OperationalError::conflict(format!(
            "distributor {} is not active",
            new.distributor_id
        )));
    }
    if distributor.person_id == new.person_id {
        return Err(OperationalError::invalid("nobody is bound to themselves"));
    }
    let present: Option<Binding> = sqlx::query_as(
        "select * from binding where tenant_id = ?1 and person_id = ?2 and unbound_at is null",
    )
    .bind(scope.tenant_id)
    .bind(new.person_id)
    .fetch_optional(&mut **tx)
    .await?;
    if let Some(present) = present {
        if present.distributor_id == new.distributor_id {
            return Err(OperationalError::conflict(format!(
                "person {} is bound to distributor {} already",
                new.person_id, new.distributor_id
            )));
        }
        if present.bound_at > scope.now {
            return Err(OperationalError::conflict(format!(
                "person {} was bound at a later time",
                new.person_id
            )));
        }
        sqlx::query("update binding set unbound_at = ?2 where binding_id = ?1")
            .bind(present.binding_id)
            .bind(scope.now)
            .execute(&mut **tx)
            .await?;
    }
    Ok(sqlx::query_as(
        "insert into binding (tenant_id, person_id, distributor_id, bound_at)
         values (?1, ?2, ?3, ?4) returning *",
    )
    .bind(scope.tenant_id)
    .bind(new.person_id)
    .bind(new.distributor_id)
    .bind(scope.now)
    .fetch_one(&mut **tx)
    .await?)
}

/// The distributor a person is bound to at the time of `scope`.
///
/// # Errors
/// When the database fails.
pub async fn distributor_of(
    connection: &mut SqliteConnection,
    scope: Scope,
    person_id: i64,
) -> Result<Option<i64>, OperationalError> {
    Ok(sqlx::query_scalar(
        "select distributor_id from binding
         where tenant_id = ?1 and person_id = ?2 and bound_at <= ?3
           and (unbound_at is null or unbound_at > ?3)
         order by bound_at desc, binding_id desc limit 1",
    )
    .bind(scope.tenant_id)
    .bind(person_id)
    .bind(scope.now)
    .fetch_optional(connection)
    .await?)
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/distribution/bindings", routing::post(post))
}

/// Bind a person to a distributor; a later binding ends an earlier one.
#[utoipa::path(post, path = "/distribution/bindings", tag = "distribution",
    request_body = NewBinding, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Binding), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewBinding>,
) -> Result<Answer, Failure> {
    match begin(services.distribution(), services.now(), command).await? {
        (Begun::Before(answer), _) => Ok(answer),
        (Begun::New(mut pending), new) => {
            let binding = bind(&mut pending.tx, pending.scope, new).await?;
            Ok(pending.finish(StatusCode::CREATED, &binding).await?)
        }
    }
}
