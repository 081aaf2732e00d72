//! People: each one `person_id`, the same in all services. Known by a phone number, which only one person
//! of a tenant has; names and numbers are kept encrypted.

use std::collections::HashSet;

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    accounts::{self, Account, NewAccount},
    passwords,
    permissions::CUSTOMER,
    sign_in,
};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_missing, record, sql},
    http::{Answer, Caller, Command, ErrorBody, Failure, Id, List, Page, Params},
    identifiers::{self, Field, Identifiers},
};

record! {
    /// A person. Their name and phone number are asked for apart.
    pub struct Person in "person" {
        /// Their id, in all services.
        pub person_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// When they became known, in microseconds since 1970 (UTC).
        pub created_at: Micros,
    }
}

/// A person to become known.
#[derive(Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPerson {
    /// Their id, where one is recorded; otherwise the next free one.
    #[serde(skip_deserializing)]
    #[schema(ignore)]
    pub person_id: Option<i64>,
    /// Their name.
    #[schema(max_length = 200)]
    pub name: Option<String>,
    /// Their phone number, which nobody else of the tenant has.
    #[schema(max_length = 40)]
    pub phone: Option<String>,
}

impl std::fmt::Debug for NewPerson {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewPerson(***)")
    }
}

/// A person with what they are called.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct KnownPerson {
    /// Their id, in all services.
    pub person_id: i64,
    /// The tenant.
    pub tenant_id: i64,
    /// Their name, masked for those who need not know.
    pub name: Option<String>,
    /// Their phone number, masked for those who need not know.
    pub phone: Option<String>,
    /// When they became known, in microseconds since 1970 (UTC).
    pub created_at: Micros,
}

/// Makes people known, and returns those that were not: one whose id is known is left as it is.
///
/// # Errors
/// `Invalid` for what is no name or number; `Conflict` when somebody has one of the numbers already.
pub async fn create_many(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &[NewPerson],
) -> Result<Vec<Person>, OperationalError> {
    // Two with one number must not both find that nobody has it: they come one after another.
    let tenant: Option<(i64,)> =
        sql("select tenant_id from tenant where tenant_id = ?1 for update")
            .bind(scope.tenant_id)
            .first(tx)
            .await?;
    tenant.ok_or(OperationalError::not_found("tenant", scope.tenant_id))?;
    let ids = tx.ids::<Person>(new.iter().map(|new| new.person_id)).await?;
    let person =
        |person_id| Person { person_id, tenant_id: scope.tenant_id, created_at: Micros(scope.now) };
    let made = insert_missing(tx, ids.iter().copied().map(person).collect()).await?;
    let made_ids: HashSet<i64> = made.iter().map(|person| person.person_id).collect();
    let named: Vec<(i64, Identifiers)> = ids
        .into_iter()
        .zip(new)
        .filter(|(id, new)| made_ids.contains(id) && (new.name.is_some() || new.phone.is_some()))
        .map(|(id, new)| {
            let (name, phone) = (new.name.clone(), new.phone.clone());
            (id, Identifiers { name, phone, ..Identifiers::default() })
        })
        .collect();
    let of: Vec<(i64, &Identifiers)> = named.iter().map(|(id, named)| (*id, named)).collect();
    identifiers::keep(tx, scope, &of).await?;
    let keys = tx.master_keys()?;
    for phone in new.iter().filter_map(|new| new.phone.as_ref()) {
        let have = identifiers::find(tx, &keys, scope.tenant_id, Field::Phone, phone).await?;
        if have.len() > 1 {
            return Err(OperationalError::conflict("somebody has this phone number already"));
        }
    }
    Ok(made)
}

/// Makes one person known.
///
/// # Errors
/// As [`create_many`].
pub async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewPerson,
) -> Result<Person, OperationalError> {
    let mut made = create_many(tx, scope, &[new]).await?;
    Ok(made.pop().expect("one was made of one"))
}

/// That there is such a person.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn check(
    on: &mut Connection,
    scope: Scope,
    person_id: i64,
) -> Result<Person, OperationalError> {
    sql("select * from person where person_id = ?1 and tenant_id = ?2")
        .bind(person_id)
        .bind(scope.tenant_id)
        .first(on)
        .await?
        .ok_or(OperationalError::not_found("person", person_id))
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/identity/persons", routing::post(post).get(get_all))
        .route("/identity/persons/{id}", routing::get(get_one))
        .route("/identity/persons/{id}/identifiers", routing::get(get_identifiers))
        .route("/identity/persons/find", routing::post(post_find))
        .route("/identity/register", routing::post(post_register))
}

/// Make a person known.
#[utoipa::path(post, path = "/identity/persons", tag = "identity", request_body = NewPerson,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Person), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewPerson>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.identity(), services.now(), StatusCode::CREATED, |tx, scope, new| {
            Box::pin(create(tx, scope, new.clone()))
        })
        .await
}

/// People, by id.
#[utoipa::path(get, path = "/identity/persons", tag = "identity", params(Page),
    responses((status = 200, body = List<Person>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(page): Params<Page>,
) -> Result<Json<List<Person>>, Failure> {
    let items = sql("select * from person where tenant_id = ?1 and person_id > ?2
         order by person_id limit ?3")
    .bind(scope.tenant_id)
    .bind(page.after_id)
    .bind(page.limit.rows())
    .all(&mut *services.identity().read().await?)
    .await?;
    Ok(Json(List { items }))
}

async fn known(
    services: &Services,
    scope: Scope,
    person_id: i64,
    masked: bool,
) -> Result<KnownPerson, OperationalError> {
    scope.check_owner(person_id, "person", person_id)?;
    let mut on = services.identity().read().await?;
    let person = check(&mut on, scope, person_id).await?;
    let keys = services.identity().master_keys()?;
    let named = identifiers::reveal(&mut on, &keys, scope.tenant_id, person_id).await?;
    let named = if masked { named.masked() } else { named };
    Ok(KnownPerson {
        person_id,
        tenant_id: person.tenant_id,
        name: named.name,
        phone: named.phone,
        created_at: person.created_at,
    })
}

/// A person, with name and phone number masked; customers ask for themselves.
#[utoipa::path(get, path = "/identity/persons/{id}", tag = "identity", params(("id" = i64, Path)),
    responses((status = 200, body = KnownPerson), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(id): Id,
) -> Result<Json<KnownPerson>, Failure> {
    Ok(Json(known(&services, scope, id, true).await?))
}

/// A person, with name and phone number in the clear; customers ask for themselves.
#[utoipa::path(get, path = "/identity/persons/{id}/identifiers", tag = "identity",
    params(("id" = i64, Path)),
    responses((status = 200, body = KnownPerson), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_identifiers(
    State(services): State<Services>,
    scope: Scope,
    Id(id): Id,
) -> Result<Json<KnownPerson>, Failure> {
    let person = known(&services, scope, id, false).await?;
    tracing::info!(person_id = id, by = %scope.actor, "identifiers were shown");
    Ok(Json(person))
}

/// A number somebody may have. In a body, so that it stands in no log of addresses.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// The phone number.
    #[schema(max_length = 40)]
    phone: String,
}

/// Who has a phone number: nobody, or one.
#[utoipa::path(post, path = "/identity/persons/find", tag = "identity", request_body = Wanted,
    responses((status = 200, body = List<KnownPerson>), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_find(
    State(services): State<Services>,
    scope: Scope,
    command: Command<Wanted>,
) -> Result<Json<List<KnownPerson>>, Failure> {
    let keys = services.identity().master_keys()?;
    let phone = &command.body.phone;
    let mut on = services.identity().read().await?;
    let found = identifiers::find(&mut on, &keys, scope.tenant_id, Field::Phone, phone).await?;
    drop(on);
    let mut items = Vec::with_capacity(found.len());
    for person_id in found {
        items.push(known(&services, scope, person_id, true).await?);
    }
    Ok(Json(List { items }))
}

/// Somebody who makes an account for themselves.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registration {
    /// Of which tenant; the first when left out.
    tenant_id: Option<i64>,
    /// What they sign in with from now on.
    #[schema(max_length = 64)]
    login: String,
    /// 10 to 128 characters that are not the first to be guessed.
    #[schema(min_length = 10, max_length = 128)]
    password: String,
    /// Their name.
    #[schema(max_length = 200)]
    name: Option<String>,
    /// Their phone number. It is taken on trust; one that is known already is refused, so that nobody gets
    /// at what is another's by naming their number.
    #[schema(max_length = 40)]
    phone: Option<String>,
}

/// Make an account for oneself, as a customer.
#[utoipa::path(post, path = "/identity/register", tag = "identity", request_body = Registration,
    responses((status = 201, body = Account), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_register(
    State(services): State<Services>,
    mut command: Command<Registration>,
) -> Result<Answer, Failure> {
    passwords::check(&command.body.password, &command.body.login)?;
    let tenant_id = command.body.tenant_id.unwrap_or(Scope::DEFAULT_TENANT);
    if !crate::configuration::flag(&services, tenant_id, "identity.self_registration").await? {
        return Err(OperationalError::denied("people do not register themselves here").into());
    }
    let hash = sign_in::hash(&services, std::mem::take(&mut command.body.password)).await?;
    // Without its key: what is kept of a request must not tell the password. A login is taken once anyway.
    command
        .without_key()
        .on_behalf_of(Caller { tenant_id, ..Caller::ANYONE })
        .carry_out(
            services.identity(),
            services.now(),
            StatusCode::CREATED,
            move |tx, scope, new| {
                let hash = hash.clone();
                Box::pin(async move {
                    let (name, phone) = (new.name.clone(), new.phone.clone());
                    let person = NewPerson { name, phone, ..NewPerson::default() };
                    let person_id = create(tx, scope, person).await?.person_id;
                    let account = NewAccount {
                        person_id,
                        login: new.login.clone(),
                        roles: vec![CUSTOMER.to_owned()],
                    };
                    accounts::create(tx, scope, &account, &hash, false).await
                })
            },
        )
        .await
}
