//! Distributors and the tree they form. The tree may be of any depth; only two levels are paid.

use axum::{Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, SqliteConnection};
use utoipa::ToSchema;

use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    http::{Answer, Begun, Command, ErrorBody, Failure, Id, Nothing, begin},
};

/// Who a distributor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum DistributorKind {
    /// A person.
    Person,
    /// A pharmacy.
    Pharmacy,
    /// An institution.
    Institution,
}

/// A distributor to be added.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDistributor {
    /// Its id, where one is recorded; otherwise the next free one.
    #[serde(skip_deserializing)]
    #[schema(ignore)]
    pub distributor_id: Option<i64>,
    /// The person who is it, or acts for it.
    pub person_id: i64,
    /// Who brought it in.
    pub parent_id: Option<i64>,
    /// What it is.
    pub kind: DistributorKind,
    /// Its name.
    pub name: String,
}

/// A distributor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Distributor {
    /// Its id.
    pub distributor_id: i64,
    /// The tenant.
    pub tenant_id: i64,
    /// The person.
    pub person_id: i64,
    /// Who brought it in.
    pub parent_id: Option<i64>,
    /// What it is.
    pub kind: DistributorKind,
    /// Its name.
    pub name: String,
    /// Whether it may earn.
    pub active: bool,
    /// Microseconds since 1970 (UTC).
    pub created_at: i64,
}

/// Adds a distributor. Its parent must exist already, so the tree has no circle.
///
/// # Errors
/// `NotFound` for an unknown parent; `Conflict` for a parent that is not active, a person who is one
/// already, or an id that exists; `Invalid` for an empty name.
pub async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewDistributor,
) -> Result<Distributor, OperationalError> {
    if new.person_id <= 0 || new.name.trim().is_empty() {
        return Err(OperationalError::invalid("a distributor needs a person_id and a name"));
    }
    if let Some(parent_id) = new.parent_id
        && !find(tx, scope.tenant_id, parent_id).await?.active
    {
        return Err(OperationalError::conflict(format!("distributor {parent_id} is not active")));
    }
    sqlx::query_as(
        "insert into distributor
             (distributor_id, tenant_id, person_id, parent_id, kind, name, active, created_at)
         values (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7)
         on conflict do nothing returning *",
    )
    .bind(new.distributor_id)
    .bind(scope.tenant_id)
    .bind(new.person_id)
    .bind(new.parent_id)
    .bind(new.kind)
    .bind(&new.name)
    .bind(scope.now)
    .fetch_optional(&mut **tx)
    .await?
    .ok_or_else(|| {
        OperationalError::conflict(format!("person {} is a distributor already", new.person_id))
    })
}

/// Ends a distributor's earning: the chain of levels stops at it. What it earned stays.
///
/// # Errors
/// `NotFound`; `Conflict` when it is not active.
pub async fn deactivate(
    tx: &mut WriteTransaction,
    scope: Scope,
    distributor_id: i64,
) -> Result<Distributor, OperationalError> {
    if !find(tx, scope.tenant_id, distributor_id).await?.active {
        return Err(OperationalError::conflict(format!(
            "distributor {distributor_id} is not active"
        )));
    }
    Ok(sqlx::query_as("update distributor set active = 0 where distributor_id = ?1 returning *")
        .bind(distributor_id)
        .fetch_one(&mut **tx)
        .await?)
}

/// One distributor.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    connection: &mut SqliteConnection,
    tenant_id: i64,
    distributor_id: i64,
) -> Result<Distributor, OperationalError> {
    sqlx::query_as("select * from distributor where distributor_id = ?1 and tenant_id = ?2")
        .bind(distributor_id)
        .bind(tenant_id)
        .fetch_optional(connection)
        .await?
        .ok_or(OperationalError::not_found("distributor", distributor_id))
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/distribution/distributors", routing::post(post))
        .route("/distribution/distributors/{id}/deactivate", routing::post(post_deactivate))
}

/// Add a distributor.
#[utoipa::path(post, path = "/distribution/distributors", tag = "distribution",
    request_body = NewDistributor, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Distributor), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewDistributor>,
) -> Result<Answer, Failure> {
    match begin(services.distribution(), services.now(), command).await? {
        (Begun::Before(answer), _) => Ok(answer),
        (Begun::New(mut pending), new) => {
            let distributor = create(&mut pending.tx, pending.scope, new).await?;
            Ok(pending.finish(StatusCode::CREATED, &distributor).await?)
        }
    }
}

/// End a distributor's earning.
#[utoipa::path(post, path = "/distribution/distributors/{id}/deactivate", tag = "distribution",
    request_body = Nothing,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Distributor), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_deactivate(
    State(services): State<Services>,
    Id(distributor_id): Id,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    match begin(services.distribution(), services.now(), command).await? {
        (Begun::Before(answer), _) => Ok(answer),
        (Begun::New(mut pending), Nothing {}) => {
            let distributor = deactivate(&mut pending.tx, pending.scope, distributor_id).await?;
            Ok(pending.finish(StatusCode::OK, &distributor).await?)
        }
    }
}
