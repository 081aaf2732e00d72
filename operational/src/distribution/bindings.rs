//! To whom a buyer is bound, with its history: a new binding ends the one before it.

use axum::{Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::distributors;
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql},
    http::{Answer, Command, ErrorBody, Failure},
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

record! {
    /// A binding.
    pub struct Binding in "binding" {
        /// Its id.
        pub binding_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// Who buys.
        pub person_id: i64,
        /// To whom they are bound.
        pub distributor_id: i64,
        /// From when, in microseconds since 1970 (UTC).
        pub bound_at: Micros,
        /// Until when, exclusive.
        pub unbound_at: Option<Micros>,
    }
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
    let present: Option<Binding> =
        sql("select * from binding where tenant_id = ?1 and person_id = ?2 and unbound_at is null
         for update")
        .bind(scope.tenant_id)
        .bind(new.person_id)
        .first(tx)
        .await?;
    if let Some(present) = present {
        if present.distributor_id == new.distributor_id {
            return Err(OperationalError::conflict(format!(
                "person {} is bound to distributor {} already",
                new.person_id, new.distributor_id
            )));
        }
        if present.bound_at > Micros(scope.now) {
            return Err(OperationalError::conflict(format!(
                "person {} was bound at a later time",
                new.person_id
            )));
        }
        sql("update binding set unbound_at = ?2 where binding_id = ?1")
            .bind(present.binding_id)
            .bind(Micros(scope.now))
            .execute(tx)
            .await?;
    }
    let binding = Binding {
        binding_id: tx.id::<Binding>(None).await?,
        tenant_id: scope.tenant_id,
        person_id: new.person_id,
        distributor_id: new.distributor_id,
        bound_at: Micros(scope.now),
        unbound_at: None,
    };
    insert_one(tx, &binding).await?;
    Ok(binding)
}

/// The distributor a person is bound to at the time of `scope`.
///
/// # Errors
/// When the database fails.
pub async fn distributor_of(
    connection: &mut Connection,
    scope: Scope,
    person_id: i64,
) -> Result<Option<i64>, OperationalError> {
    let bound: Option<(i64,)> = sql("select distributor_id from binding
         where tenant_id = ?1 and person_id = ?2 and bound_at <= ?3
           and (unbound_at is null or unbound_at > ?3)
         order by bound_at desc, binding_id desc limit 1")
    .bind(scope.tenant_id)
    .bind(person_id)
    .bind(Micros(scope.now))
    .first(connection)
    .await?;
    Ok(bound.map(|(distributor_id,)| distributor_id))
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
    command
        .carry_out(
            services.distribution(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(bind(tx, scope, *new)),
        )
        .await
}
