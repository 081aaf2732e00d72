//! Accounts: how people sign in, and the roles that say what they may do.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    passwords,
    permissions::{ADMINISTRATOR, Permissions},
    persons, secrets, sign_in,
};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Nothing, Page, Params},
};

const LOGIN_LENGTH_MAX: usize = 64;
const ROLES_MAX: usize = 20;

words! {
    /// Whether an account may be used.
    pub enum AccountState {
        /// It may.
        Active = "active",
        /// It may not: nobody signs in with it, and no token is renewed.
        Disabled = "disabled",
    }
}

record! {
    /// An account as it is stored.
    pub(crate) struct AccountRow in "account" {
        pub(crate) account_id: i64,
        pub(crate) tenant_id: i64,
        pub(crate) person_id: i64,
        pub(crate) login: String,
        pub(crate) state: AccountState,
        pub(crate) password_hash: String,
        pub(crate) must_change_password: bool,
        pub(crate) password_changed_at: Micros,
        pub(crate) failed_count: i64,
        pub(crate) locked_until: Option<Micros>,
        pub(crate) created_at: Micros,
        pub(crate) version: i64,
    }
}

/// An account.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Account {
    /// Its id.
    pub account_id: i64,
    /// The tenant.
    pub tenant_id: i64,
    /// Whose it is.
    pub person_id: i64,
    /// What they sign in with, besides the password.
    pub login: String,
    /// Whether it may be used.
    pub state: AccountState,
    /// Whether the password is one that was told, and is to be changed at the next sign-in.
    pub must_change_password: bool,
    /// No password is tried before, in microseconds since 1970 (UTC): too many were wrong.
    pub locked_until: Option<Micros>,
    /// When it was made, in microseconds since 1970 (UTC).
    pub created_at: Micros,
    /// Counts changes; a change names the one it was decided on.
    pub version: i64,
    /// The names of its roles.
    pub roles: Vec<String>,
}

/// An account to be made. It gets a password that is told once and has to be changed.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    /// Whose it is: someone without one.
    pub person_id: i64,
    /// 3 to 64 lower-case letters, digits, dots, dashes, underscores and `@`.
    #[schema(max_length = 64)]
    pub login: String,
    /// The names of its roles.
    #[schema(max_items = 20)]
    pub roles: Vec<String>,
}

/// An account with a password that is told only now: not again when the request is repeated.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ToldAccount {
    /// The account.
    #[serde(flatten)]
    pub account: Account,
    /// Good for one sign-in, at which it has to be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_time_password: Option<String>,
}

/// Makes an account.
///
/// # Errors
/// `Invalid` for what is no login or no role; `NotFound` for an unknown person; `Conflict` when the
/// person has an account or the login is taken.
pub(crate) async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewAccount,
    password_hash: &str,
    must_change_password: bool,
) -> Result<Account, OperationalError> {
    let fits = |c: char| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_' | '@' | '+')
    };
    if !(3..=LOGIN_LENGTH_MAX).contains(&new.login.len()) || !new.login.chars().all(fits) {
        return Err(OperationalError::invalid(
            "login must be 3 to 64 lower-case letters, digits and . - _ @ +",
        ));
    }
    persons::check(tx, scope, new.person_id).await?;
    let row = AccountRow {
        account_id: tx.id::<AccountRow>(None).await?,
        tenant_id: scope.tenant_id,
        person_id: new.person_id,
        login: new.login.clone(),
        state: AccountState::Active,
        password_hash: password_hash.to_owned(),
        must_change_password,
        password_changed_at: Micros(scope.now),
        failed_count: 0,
        locked_until: None,
        created_at: Micros(scope.now),
        version: 1,
    };
    insert_one(tx, &row).await.map_err(|error| {
        error.or_taken(|| format!("person {} has an account, or the login is taken", new.person_id))
    })?;
    give_roles(tx, scope.tenant_id, row.account_id, &new.roles).await?;
    shown(tx, row).await
}

async fn give_roles(
    tx: &mut WriteTransaction,
    tenant_id: i64,
    account_id: i64,
    names: &[String],
) -> Result<(), OperationalError> {
    if names.len() > ROLES_MAX {
        return Err(OperationalError::invalid("an account has at most 20 roles"));
    }
    for name in names {
        let role: Option<(i64,)> =
            sql("select role_id from role where tenant_id = ?1 and name = ?2")
                .bind(tenant_id)
                .bind(name)
                .first(tx)
                .await?;
        let Some((role_id,)) = role else {
            return Err(OperationalError::invalid(format!("there is no role \"{name}\"")));
        };
        sql("insert into account_role (account_id, role_id) values (?1, ?2)
             on conflict (account_id, role_id) do nothing")
        .bind(account_id)
        .bind(role_id)
        .execute(tx)
        .await?;
    }
    Ok(())
}

async fn shown(on: &mut Connection, row: AccountRow) -> Result<Account, OperationalError> {
    let roles: Vec<(String,)> =
        sql("select name from role r join account_role a on a.role_id = r.role_id
             where a.account_id = ?1 order by name")
        .bind(row.account_id)
        .all(on)
        .await?;
    Ok(Account {
        account_id: row.account_id,
        tenant_id: row.tenant_id,
        person_id: row.person_id,
        login: row.login,
        state: row.state,
        must_change_password: row.must_change_password,
        locked_until: row.locked_until,
        created_at: row.created_at,
        version: row.version,
        roles: roles.into_iter().map(|(name,)| name).collect(),
    })
}

/// What those may do who sign in with an account: all that its roles say.
pub(crate) async fn permissions(
    on: &mut Connection,
    account_id: i64,
) -> Result<Permissions, OperationalError> {
    let roles: Vec<(String,)> =
        sql("select permissions from role r join account_role a on a.role_id = r.role_id
             where a.account_id = ?1")
        .bind(account_id)
        .all(on)
        .await?;
    Ok(roles.iter().map(|(words,)| Permissions::known(words)).collect())
}

pub(crate) async fn find(
    on: &mut Connection,
    tenant_id: i64,
    account_id: i64,
) -> Result<AccountRow, OperationalError> {
    sql("select * from account where account_id = ?1 and tenant_id = ?2 for update")
        .bind(account_id)
        .bind(tenant_id)
        .first(on)
        .await?
        .ok_or(OperationalError::not_found("account", account_id))
}

/// One account, as it is shown.
async fn shown_one(
    on: &mut Connection,
    tenant_id: i64,
    account_id: i64,
) -> Result<Account, OperationalError> {
    let row = sql("select * from account where account_id = ?1 and tenant_id = ?2")
        .bind(account_id)
        .bind(tenant_id)
        .first(on)
        .await?
        .ok_or(OperationalError::not_found("account", account_id))?;
    shown(on, row).await
}

/// What an account becomes.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountChange {
    /// The version this was decided on.
    pub version: i64,
    /// Whether it may be used; as it is when left out.
    pub state: Option<AccountState>,
    /// The names of all its roles; as they are when left out.
    #[schema(max_items = 20)]
    pub roles: Option<Vec<String>>,
}

/// Changes an account. One that is disabled is signed out everywhere.
///
/// # Errors
/// `NotFound`; `Conflict` for another version, or when nobody would be left to administer the tenant.
pub(crate) async fn change(
    tx: &mut WriteTransaction,
    scope: Scope,
    account_id: i64,
    change: &AccountChange,
) -> Result<Account, OperationalError> {
    // Two who take the role from each other at once must not both find one more.
    sql("select tenant_id from tenant where tenant_id = ?1 for update")
        .bind(scope.tenant_id)
        .value::<i64>(tx)
        .await?;
    let row = find(tx, scope.tenant_id, account_id).await?;
    if row.version != change.version {
        return Err(OperationalError::conflict(format!(
            "account {account_id} is at version {}, not {}",
            row.version, change.version
        )));
    }
    let state = change.state.unwrap_or(row.state);
    sql("update account set state = ?2, version = version + 1 where account_id = ?1")
        .bind(account_id)
        .bind(state)
        .execute(tx)
        .await?;
    if let Some(roles) = &change.roles {
        sql("delete from account_role where account_id = ?1").bind(account_id).execute(tx).await?;
        give_roles(tx, scope.tenant_id, account_id, roles).await?;
    }
    if administrators(tx, scope.tenant_id).await? == 0 {
        return Err(OperationalError::conflict(
            "nobody would be left to administer the tenant; give the role to another first",
        ));
    }
    if state == AccountState::Disabled {
        sign_in::end_all(tx, scope.now, account_id).await?;
    }
    shown_one(tx, scope.tenant_id, account_id).await
}

/// How many active accounts may administer a tenant.
pub(crate) async fn administrators(
    on: &mut Connection,
    tenant_id: i64,
) -> Result<i64, OperationalError> {
    sql("select count(*) from account a join account_role ar on ar.account_id = a.account_id
         join role r on r.role_id = ar.role_id
         where a.tenant_id = ?1 and a.state = 'active' and r.name = ?2")
    .bind(tenant_id)
    .bind(ADMINISTRATOR)
    .value(on)
    .await
}

/// Gives an account another password, forgets failed attempts and signs it out everywhere.
pub(crate) async fn set_password(
    tx: &mut WriteTransaction,
    now: i64,
    account_id: i64,
    password_hash: &str,
    must_change: bool,
) -> Result<(), OperationalError> {
    sql("update account set password_hash = ?2, must_change_password = ?3, password_changed_at = ?4,
             failed_count = 0, locked_until = null, version = version + 1
         where account_id = ?1")
    .bind(account_id)
    .bind(password_hash)
    .bind(must_change)
    .bind(Micros(now))
    .execute(tx)
    .await?;
    sign_in::end_all(tx, now, account_id).await
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/identity/accounts", routing::post(post).get(get_all))
        .route("/identity/accounts/{id}", routing::get(get_one).put(put))
        .route("/identity/accounts/{id}/reset-password", routing::post(post_reset))
        .route("/identity/me", routing::get(get_me))
        .route("/identity/me/password", routing::post(post_my_password))
}

/// Make an account, with a password that is told once.
#[utoipa::path(post, path = "/identity/accounts", tag = "identity", request_body = NewAccount,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = ToldAccount), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewAccount>,
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
                Box::pin(async move { create(tx, scope, new, &hash, true).await })
            },
        )
        .await?;
    Ok(answer.telling("one_time_password", &password)?)
}

/// Accounts, by id.
#[utoipa::path(get, path = "/identity/accounts", tag = "identity", params(Page),
    responses((status = 200, body = List<Account>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(page): Params<Page>,
) -> Result<Json<List<Account>>, Failure> {
    let mut on = services.identity().read().await?;
    let rows: Vec<AccountRow> =
        sql("select * from account where tenant_id = ?1 and account_id > ?2
         order by account_id limit ?3")
        .bind(scope.tenant_id)
        .bind(page.after_id)
        .bind(page.limit.rows())
        .all(&mut on)
        .await?;
    let mut items = Vec::with_capacity(rows.len());
    for row in rows {
        items.push(shown(&mut on, row).await?);
    }
    Ok(Json(List { items }))
}

/// An account.
#[utoipa::path(get, path = "/identity/accounts/{id}", tag = "identity", params(("id" = i64, Path)),
    responses((status = 200, body = Account), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(id): Id,
) -> Result<Json<Account>, Failure> {
    let mut on = services.identity().read().await?;
    Ok(Json(shown_one(&mut on, scope.tenant_id, id).await?))
}

/// Disable or enable an account, or change its roles.
#[utoipa::path(put, path = "/identity/accounts/{id}", tag = "identity",
    request_body = AccountChange,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Account), (status = "default", body = ErrorBody)))]
pub(crate) async fn put(
    State(services): State<Services>,
    Id(id): Id,
    command: Command<AccountChange>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.identity(), services.now(), StatusCode::OK, move |tx, scope, wanted| {
            Box::pin(change(tx, scope, id, wanted))
        })
        .await
}

/// Give an account a password that is told once; whoever was signed in with it no longer is.
#[utoipa::path(post, path = "/identity/accounts/{id}/reset-password", tag = "identity",
    request_body = Option<Nothing>,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = ToldAccount), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_reset(
    State(services): State<Services>,
    Id(id): Id,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    let password = secrets::one_time_password()?;
    let hash = sign_in::hash(&services, password.clone()).await?;
    let answer = command
        .carry_out(services.identity(), services.now(), StatusCode::OK, move |tx, scope, _| {
            let hash = hash.clone();
            Box::pin(async move {
                find(tx, scope.tenant_id, id).await?;
                set_password(tx, scope.now, id, &hash, true).await?;
                shown_one(tx, scope.tenant_id, id).await
            })
        })
        .await?;
    Ok(answer.telling("one_time_password", &password)?)
}

/// Who asks.
#[utoipa::path(get, path = "/identity/me", tag = "identity",
    responses((status = 200, body = Account), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_me(
    State(services): State<Services>,
    scope: Scope,
) -> Result<Json<Account>, Failure> {
    let mut on = services.identity().read().await?;
    let row = mine(&mut on, scope).await?;
    Ok(Json(shown(&mut on, row).await?))
}

async fn mine(on: &mut Connection, scope: Scope) -> Result<AccountRow, OperationalError> {
    let person_id = scope.actor.person_id().ok_or_else(|| {
        OperationalError::invalid("no person asks, so there is no account of theirs")
    })?;
    sql("select * from account where person_id = ?1 and tenant_id = ?2")
        .bind(person_id)
        .bind(scope.tenant_id)
        .first(on)
        .await?
        .ok_or_else(|| OperationalError::not_found("account of person", person_id))
}

/// A change of one's own password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasswordChange {
    /// The one there is.
    #[schema(max_length = 128)]
    current: String,
    /// 10 to 128 characters that are not the first to be guessed.
    #[schema(min_length = 10, max_length = 128)]
    new: String,
}

/// Change one's own password; whoever else was signed in with the account no longer is.
#[utoipa::path(post, path = "/identity/me/password", tag = "identity",
    request_body = PasswordChange,
    responses((status = 200, body = Account), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_my_password(
    State(services): State<Services>,
    scope: Scope,
    command: Command<PasswordChange>,
) -> Result<Json<Account>, Failure> {
    let account = mine(&mut *services.identity().read().await?, scope).await?;
    let PasswordChange { current, new } = command.body;
    let changed = sign_in::change_password(&services, &account, current, new).await?;
    if !changed {
        return Err(OperationalError::denied("the current password is another").into());
    }
    let mut on = services.identity().read().await?;
    Ok(Json(shown_one(&mut on, scope.tenant_id, account.account_id).await?))
}

/// Refuses what is no password of an account.
pub(crate) fn check_password(account: &AccountRow, new: &str) -> Result<(), OperationalError> {
    passwords::check(new, &account.login)
}
