//! Roles: names for what may be done, each tenant's own.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::permissions::{ADMINISTRATOR, CUSTOMER, Permission, Permissions, ROLES};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Micros, insert, insert_one, record, sql},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Page, Params},
    names::is_name,
};

record! {
    struct RoleRow in "role" {
        role_id: i64,
        tenant_id: i64,
        name: String,
        permissions: String,
        created_at: Micros,
        version: i64,
    }
}

/// A role.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Role {
    /// Its id.
    pub role_id: i64,
    /// The tenant.
    pub tenant_id: i64,
    /// Its name.
    pub name: String,
    /// What those may do who have it.
    pub permissions: Vec<Permission>,
    /// When it was made, in microseconds since 1970 (UTC).
    pub created_at: Micros,
    /// Counts changes; a change names the one it was decided on.
    pub version: i64,
}

impl From<RoleRow> for Role {
    fn from(row: RoleRow) -> Self {
        let has = Permissions::known(&row.permissions);
        Self {
            role_id: row.role_id,
            tenant_id: row.tenant_id,
            name: row.name,
            permissions: Permission::ALL.iter().copied().filter(|p| has.contains(*p)).collect(),
            created_at: row.created_at,
            version: row.version,
        }
    }
}

/// A role to be made.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRole {
    /// 1 to 64 lower-case letters, digits and underscores.
    #[schema(max_length = 64)]
    pub name: String,
    /// What those may do who have it.
    pub permissions: Vec<Permission>,
}

/// What a role becomes.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleChange {
    /// The version this was decided on.
    pub version: i64,
    /// What those may do who have it.
    pub permissions: Vec<Permission>,
}

/// Gives a tenant the roles that every one has, if it has none.
pub(crate) async fn create_first(
    tx: &mut WriteTransaction,
    scope: Scope,
) -> Result<(), OperationalError> {
    let there: i64 = sql("select count(*) from role where tenant_id = ?1")
        .bind(scope.tenant_id)
        .value(tx)
        .await?;
    if there > 0 {
        return Ok(());
    }
    let all = (ADMINISTRATOR, Permissions::of_staff());
    let roles: Vec<_> = std::iter::once(all)
        .chain(ROLES.iter().map(|(name, may)| (*name, may.iter().copied().collect())))
        .collect();
    let ids = tx.ids::<RoleRow>(roles.iter().map(|_| None)).await?;
    let row = |(role_id, (name, permissions)): (i64, (&str, Permissions))| RoleRow {
        role_id,
        tenant_id: scope.tenant_id,
        name: name.to_owned(),
        permissions: permissions.to_string(),
        created_at: Micros(scope.now),
        version: 1,
    };
    let rows: Vec<RoleRow> = ids.into_iter().zip(roles).map(row).collect();
    insert(tx, &rows).await
}

async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewRole,
) -> Result<Role, OperationalError> {
    if !is_name(&new.name, 64) {
        return Err(OperationalError::invalid(
            "name must be 1 to 64 lower-case letters, digits and underscores",
        ));
    }
    let row = RoleRow {
        role_id: tx.id::<RoleRow>(None).await?,
        tenant_id: scope.tenant_id,
        name: new.name.clone(),
        permissions: new.permissions.iter().copied().collect::<Permissions>().to_string(),
        created_at: Micros(scope.now),
        version: 1,
    };
    insert_one(tx, &row)
        .await
        .map_err(|error| error.or_taken(|| format!("there is a role \"{}\"", new.name)))?;
    Ok(row.into())
}

async fn change(
    tx: &mut WriteTransaction,
    scope: Scope,
    role_id: i64,
    wanted: &RoleChange,
) -> Result<Role, OperationalError> {
    let row: RoleRow = sql("select * from role where role_id = ?1 and tenant_id = ?2 for update")
        .bind(role_id)
        .bind(scope.tenant_id)
        .first(tx)
        .await?
        .ok_or(OperationalError::not_found("role", role_id))?;
    if [ADMINISTRATOR, CUSTOMER].contains(&row.name.as_str()) {
        return Err(OperationalError::conflict(format!(
            "what the role \"{}\" may do is not changed; make another",
            row.name
        )));
    }
    if row.version != wanted.version {
        return Err(OperationalError::conflict(format!(
            "role {role_id} is at version {}, not {}",
            row.version, wanted.version
        )));
    }
    let row = RoleRow {
        permissions: wanted.permissions.iter().copied().collect::<Permissions>().to_string(),
        version: row.version + 1,
        ..row
    };
    sql("update role set permissions = ?2, version = ?3 where role_id = ?1")
        .bind(role_id)
        .bind(&row.permissions)
        .bind(row.version)
        .execute(tx)
        .await?;
    Ok(row.into())
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/identity/roles", routing::post(post).get(get_all))
        .route("/identity/roles/{id}", routing::put(put))
}

/// Make a role.
#[utoipa::path(post, path = "/identity/roles", tag = "identity", request_body = NewRole,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Role), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewRole>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.identity(), services.now(), StatusCode::CREATED, |tx, scope, new| {
            Box::pin(create(tx, scope, new))
        })
        .await
}

/// Roles, by id.
#[utoipa::path(get, path = "/identity/roles", tag = "identity", params(Page),
    responses((status = 200, body = List<Role>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(page): Params<Page>,
) -> Result<Json<List<Role>>, Failure> {
    let rows: Vec<RoleRow> = sql("select * from role where tenant_id = ?1 and role_id > ?2
         order by role_id limit ?3")
    .bind(scope.tenant_id)
    .bind(page.after_id)
    .bind(page.limit.rows())
    .all(&mut *services.identity().read().await?)
    .await?;
    Ok(Json(List { items: rows.into_iter().map(Role::from).collect() }))
}

/// Change what a role may do, from the next token on.
#[utoipa::path(put, path = "/identity/roles/{id}", tag = "identity", request_body = RoleChange,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Role), (status = "default", body = ErrorBody)))]
pub(crate) async fn put(
    State(services): State<Services>,
    Id(id): Id,
    command: Command<RoleChange>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.identity(), services.now(), StatusCode::OK, move |tx, scope, wanted| {
            Box::pin(change(tx, scope, id, wanted))
        })
        .await
}
