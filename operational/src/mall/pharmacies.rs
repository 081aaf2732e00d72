//! Pharmacies: who sells.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, SqliteConnection};
use utoipa::ToSchema;

use crate::{
    OperationalError, Page, Scope, Services, WriteTransaction,
    database::rows_json,
    http::{Answer, Begun, Command, ErrorBody, Failure, List, Params, begin},
};

/// A pharmacy to be added.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPharmacy {
    /// Its id, where one is recorded; otherwise the next free one.
    #[serde(skip_deserializing)]
    #[schema(ignore)]
    pub pharmacy_id: Option<i64>,
    /// Its name.
    pub name: String,
    /// The province, such as 浙江.
    pub region: String,
}

/// A pharmacy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Pharmacy {
    /// Its id.
    pub pharmacy_id: i64,
    /// The tenant.
    pub tenant_id: i64,
    /// Its name.
    pub name: String,
    /// The province.
    pub region: String,
    /// Microseconds since 1970 (UTC).
    pub created_at: i64,
}

/// Adds pharmacies in one statement and returns those that were added: one whose id exists already
/// is left as it is.
///
/// # Errors
/// `Invalid` when a name or region is empty.
pub async fn create_many(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &[NewPharmacy],
) -> Result<Vec<Pharmacy>, OperationalError> {
    if new.iter().any(|p| p.name.trim().is_empty() || p.region.trim().is_empty()) {
        return Err(OperationalError::invalid("a pharmacy needs a name and a region"));
    }
    Ok(sqlx::query_as(
        "insert into pharmacy (pharmacy_id, tenant_id, name, region, created_at)
         select value ->> 'pharmacy_id', ?2, value ->> 'name', value ->> 'region', ?3
         from json_each(?1) where true order by key
         on conflict (pharmacy_id) do nothing
         returning *",
    )
    .bind(rows_json(new)?)
    .bind(scope.tenant_id)
    .bind(scope.now)
    .fetch_all(&mut **tx)
    .await?)
}

/// Adds one pharmacy.
///
/// # Errors
/// `Invalid` when a name or region is empty, `Conflict` when its id exists.
pub async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewPharmacy,
) -> Result<Pharmacy, OperationalError> {
    create_many(tx, scope, &[new])
        .await?
        .pop()
        .ok_or_else(|| OperationalError::conflict("the pharmacy exists already"))
}

/// Pharmacies by id.
///
/// # Errors
/// When the database fails.
pub async fn list(
    connection: &mut SqliteConnection,
    tenant_id: i64,
    page: Page,
) -> Result<Vec<Pharmacy>, OperationalError> {
    Ok(sqlx::query_as(
        "select * from pharmacy where tenant_id = ?1 and pharmacy_id > ?2 order by pharmacy_id limit ?3",
    )
    .bind(tenant_id)
    .bind(page.after_id)
    .bind(page.rows())
    .fetch_all(connection)
    .await?)
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/mall/pharmacies", routing::post(post).get(get_all))
}

/// Add a pharmacy.
#[utoipa::path(post, path = "/mall/pharmacies", tag = "mall", request_body = NewPharmacy,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Pharmacy), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewPharmacy>,
) -> Result<Answer, Failure> {
    match begin(services.mall(), services.now(), command).await? {
        (Begun::Before(answer), _) => Ok(answer),
        (Begun::New(mut pending), new) => {
            let pharmacy = create(&mut pending.tx, pending.scope, new).await?;
            Ok(pending.finish(StatusCode::CREATED, &pharmacy).await?)
        }
    }
}

/// List pharmacies.
#[utoipa::path(get, path = "/mall/pharmacies", tag = "mall", params(Page),
    responses((status = 200, body = List<Pharmacy>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    Params(page): Params<Page>,
) -> Result<Json<List<Pharmacy>>, Failure> {
    let items = list(&mut *services.mall().read().await?, Scope::DEFAULT_TENANT, page).await?;
    Ok(Json(List { items }))
}
