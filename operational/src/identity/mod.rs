//! Who there is, and what they may do: tenants, people, their roles and how they show who they are.

pub mod accounts;
pub mod clients;
pub mod keys;
mod oauth2;
pub(crate) mod passwords;
pub(crate) mod permissions;
pub mod persons;
pub mod roles;
pub(crate) mod secrets;
mod sign_in;
pub mod tenants;
pub(crate) mod tokens;

use axum::Router;
use utoipa::OpenApi;

pub use clients::{Client, NewClient};
pub use passwords::PasswordCost;
pub use permissions::{Permission, Permissions};

use crate::{Migration, Migrations, OperationalError, Scope, Services, identifiers::rotation};

pub(crate) const NAME: &str = "identity";

pub(crate) const MIGRATIONS: Migrations = Migrations {
    sqlite: &[Migration {
        version: 1,
        sql: include_str!("../../../migrations/identity/sqlite/0001_initial.sql"),
    }],
    mysql: &[Migration {
        version: 1,
        sql: include_str!("../../../migrations/identity/mysql/0001_initial.sql"),
    }],
};

/// Gives the first tenant its roles.
pub(crate) async fn prepare(services: &Services) -> Result<(), OperationalError> {
    let mut tx = services.identity().begin(services.now()).await?;
    roles::create_first(&mut tx, Scope::at(services.now())).await?;
    tx.commit().await
}

/// Makes an account that may do everything of the first tenant. Gives its password, which is good for one
/// sign-in and kept nowhere.
///
/// # Errors
/// `Invalid` for what is no login, `Conflict` when it is taken.
pub async fn create_administrator(
    services: &Services,
    login: &str,
) -> Result<String, OperationalError> {
    let password = secrets::one_time_password()?;
    let hash = sign_in::hash(services, password.clone()).await?;
    let mut tx = services.identity().begin(services.now()).await?;
    let scope = Scope::at(services.now());
    tenants::create_administrator(&mut tx, scope, login, &hash).await?;
    tx.commit().await?;
    Ok(password)
}

/// Whether somebody may administer the first tenant.
///
/// # Errors
/// What the database says.
pub async fn has_administrator(services: &Services) -> Result<bool, OperationalError> {
    let mut on = services.identity().read().await?;
    Ok(accounts::administrators(&mut on, Scope::DEFAULT_TENANT).await? > 0)
}

/// Makes a client of the first tenant. Gives it with its secret, which is kept nowhere.
///
/// # Errors
/// `Invalid` for a name or an address that is none.
pub async fn create_client(
    services: &Services,
    new: &NewClient,
) -> Result<(Client, Option<String>), OperationalError> {
    let secret = secrets::token()?;
    let mut tx = services.identity().begin(services.now()).await?;
    let client = clients::create(&mut tx, Scope::at(services.now()), new, &secret).await?;
    tx.commit().await?;
    let secret = client.confidential.then_some(secret);
    Ok((client, secret))
}

/// A client of the first tenant for a program that this process runs itself, by its name: made when there
/// is none, and with a new secret each time, so that none has to be kept.
///
/// # Errors
/// `Invalid` for a name that is none.
pub async fn client_of_this_process(
    services: &Services,
    new: &NewClient,
) -> Result<(Client, String), OperationalError> {
    let secret = secrets::token()?;
    let mut tx = services.identity().begin(services.now()).await?;
    let scope = Scope::at(services.now());
    let known = clients::with_new_secret(&mut tx, scope, new, &secret).await;
    let client = match known {
        Ok(None) => clients::create(&mut tx, scope, new, &secret).await,
        Ok(Some(client)) => Ok(client),
        Err(error) => Err(error),
    };
    Ok((tx.end(client).await?, secret))
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .merge(tenants::router())
        .merge(persons::router())
        .merge(accounts::router())
        .merge(roles::router())
        .merge(clients::router())
        .merge(keys::router())
        .merge(rotation::router())
        .merge(oauth2::router())
}

pub(crate) fn openapi() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(
        tenants::post,
        tenants::get_all,
        persons::post,
        persons::get_all,
        persons::get_one,
        persons::get_identifiers,
        persons::post_find,
        persons::post_register,
        accounts::post,
        accounts::get_all,
        accounts::get_one,
        accounts::put,
        accounts::post_reset,
        accounts::get_me,
        accounts::post_my_password,
        roles::post,
        roles::get_all,
        roles::put,
        clients::post,
        clients::get_all,
        clients::post_rotate,
        clients::post_disable,
        keys::get_all,
        keys::post_rotate,
        rotation::get_all,
        rotation::post_rotate,
        rotation::delete
    ))]
    struct Description;
    let mut description = Description::openapi();
    description.merge(oauth2::openapi());
    description
}
