//! Tenants: who uses the platform. The first looks after the others.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    accounts::{self, Account, NewAccount},
    permissions::ADMINISTRATOR,
    persons, roles, secrets, sign_in,
};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Micros, insert_one, record, sql},
    http::{Answer, Command, ErrorBody, Failure, List, Page, Params},
};

record! {
    /// A tenant.
    pub struct Tenant in "tenant" {
        /// Its id.
        pub tenant_id: i64,
        /// Its name.
        pub name: String,
        /// When it was made, in microseconds since 1970 (UTC).
        pub created_at: Micros,
    }
}

/// A tenant to be made, with the first who administers it.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// Its name.
    #[schema(max_length = 200)]
    pub name: String,
    /// What its first administrator signs in with.
    #[schema(max_length = 64)]
    pub administrator_login: String,
}

/// A tenant with the password of its first administrator, which is told only now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MadeTenant {
    /// The tenant.
    pub tenant: Tenant,
    /// Who administers it.
    pub administrator: Account,
    /// Good for one sign-in, at which it has to be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_time_password: Option<String>,
}

/// Makes a tenant with its roles and an administrator.
async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewTenant,
    password_hash: &str,
) -> Result<MadeTenant, OperationalError> {
    check_first(scope)?;
    if new.name.trim().is_empty() || new.name.chars().count() > 200 {
        return Err(OperationalError::invalid("name must have 1 to 200 characters"));
    }
    let tenant = Tenant {
        tenant_id: tx.id::<Tenant>(None).await?,
        name: new.name.clone(),
        created_at: Micros(scope.now),
    };
    insert_one(tx, &tenant).await?;
    let scope = Scope { tenant_id: tenant.tenant_id, ..scope };
    let administrator =
        create_administrator(tx, scope, &new.administrator_login, password_hash).await?;
    Ok(MadeTenant { tenant, administrator, one_time_password: None })
}

/// Makes a person with an account that may do everything of the tenant, and a password that is to be
/// changed.
pub(crate) async fn create_administrator(
    tx: &mut WriteTransaction,
    scope: Scope,
    login: &str,
    password_hash: &str,
) -> Result<Account, OperationalError> {
    roles::create_first(tx, scope).await?;
    let person = persons::create(tx, scope, persons::NewPerson::default()).await?;
    let account = NewAccount {
        person_id: person.person_id,
        login: login.to_owned(),
        roles: vec![ADMINISTRATOR.to_owned()],
    };
    accounts::create(tx, scope, &account, password_hash, true).await
}

fn check_first(scope: Scope) -> Result<(), OperationalError> {
    if scope.tenant_id == Scope::DEFAULT_TENANT {
        return Ok(());
    }
    Err(OperationalError::denied("only the first tenant looks after tenants"))
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/identity/tenants", routing::post(post).get(get_all))
}

/// Make a tenant, with an administrator whose password is told once.
#[utoipa::path(post, path = "/identity/tenants", tag = "identity", request_body = NewTenant,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = MadeTenant), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewTenant>,
) -> Result<Answer, Failure> {
    let password = secrets::one_time_password()?;
    let hash = sign_in::hash(&services, password.clone()).await?;
    let answer = command
        .carry_out(
            services.identity(),
            services.now(),
            StatusCode::CREATED,
            move |tx, scope, new| {
                let hash = hash.clone();
                Box::pin(async move { create(tx, scope, new, &hash).await })
            },
        )
        .await?;
    Ok(answer.telling("one_time_password", &password)?)
}

/// Tenants, by id.
#[utoipa::path(get, path = "/identity/tenants", tag = "identity", params(Page),
    responses((status = 200, body = List<Tenant>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(page): Params<Page>,
) -> Result<Json<List<Tenant>>, Failure> {
    check_first(scope)?;
    let items = sql("select * from tenant where tenant_id > ?1 order by tenant_id limit ?2")
        .bind(page.after_id)
        .bind(page.limit.rows())
        .all(&mut *services.identity().read().await?)
        .await?;
    Ok(Json(List { items }))
}
