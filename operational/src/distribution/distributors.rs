//! Distributors and the tree they form. The tree may be of any depth; only two levels are paid.

use axum::{Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, Nothing},
};

words! {
    /// Who a distributor is.
    pub enum DistributorKind {
        /// A person.
        Person = "person",
        /// A pharmacy.
        Pharmacy = "pharmacy",
        /// An institution.
        Institution = "institution",
    }
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

record! {
    /// A distributor.
    pub struct Distributor in "distributor" {
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
        pub created_at: Micros,
    }
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
    let distributor = Distributor {
        distributor_id: tx.id::<Distributor>(new.distributor_id).await?,
        tenant_id: scope.tenant_id,
        person_id: new.person_id,
        parent_id: new.parent_id,
        kind: new.kind,
        name: new.name,
        active: true,
        created_at: Micros(scope.now),
    };
    insert_one(tx, &distributor).await.map_err(|error| {
        error.or_taken(|| format!("person {} is a distributor already", new.person_id))
    })?;
    Ok(distributor)
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
    let distributor = find(tx, scope.tenant_id, distributor_id).await?;
    let ended = sql("update distributor set active = ?2 where distributor_id = ?1 and active = ?3")
        .bind(distributor_id)
        .bind(false)
        .bind(true)
        .execute(tx)
        .await?;
    if ended == 0 {
        return Err(OperationalError::conflict(format!(
            "distributor {distributor_id} is not active"
        )));
    }
    Ok(Distributor { active: false, ..distributor })
}

/// One distributor.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    connection: &mut Connection,
    tenant_id: i64,
    distributor_id: i64,
) -> Result<Distributor, OperationalError> {
    sql("select * from distributor where distributor_id = ?1 and tenant_id = ?2")
        .bind(distributor_id)
        .bind(tenant_id)
        .first(connection)
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
    command
        .carry_out(
            services.distribution(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(create(tx, scope, new.clone())),
        )
        .await
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
    command
        .carry_out(services.distribution(), services.now(), StatusCode::OK, |tx, scope, _| {
            Box::pin(deactivate(tx, scope, distributor_id))
        })
        .await
}
