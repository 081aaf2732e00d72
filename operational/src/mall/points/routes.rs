//! The HTTP interface of points.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    PointsAccount, PointsAdjustment, PointsEntry, PointsLot, adjust,
    reconciliation::{self, PointsReconciliation},
};
use crate::{
    Limit, OperationalError, Page, Scope, Services,
    database::{Connection, Micros, Record, Row, sql},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
    mall::rules::Rules,
};

/// What a person has of points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PointsBalance {
    /// Whose.
    pub person_id: i64,
    /// To be spent now.
    pub available_points: i64,
    /// Spent on orders.
    pub spent_points: i64,
    /// Not spent in time.
    pub expired_points: i64,
    /// Taken back after they were spent: what is earned next pays for them.
    pub owed_points: i64,
    /// When the next of them expire, in microseconds since 1970 (UTC).
    pub next_expires_at: Option<Micros>,
    /// How many expire then.
    pub next_expiring_points: i64,
}

/// What a person has of points at a time; nothing, where nothing was ever earned.
///
/// # Errors
/// When the database fails.
pub async fn balance(
    connection: &mut Connection,
    scope: Scope,
    person_id: i64,
) -> Result<PointsBalance, OperationalError> {
    let account: Option<PointsAccount> =
        sql("select * from points_account where tenant_id = ?1 and person_id = ?2")
            .bind(scope.tenant_id)
            .bind(person_id)
            .first(connection)
            .await?;
    let mut balance = PointsBalance {
        person_id,
        available_points: 0,
        spent_points: 0,
        expired_points: 0,
        owed_points: 0,
        next_expires_at: None,
        next_expiring_points: 0,
    };
    let Some(account) = account else { return Ok(balance) };
    let lots: Vec<PointsLot> = sql("select * from points_lot
         where points_account_id = ?1 and due_at is not null order by expires_at, points_lot_id")
    .bind(account.points_account_id)
    .all(connection)
    .await?;
    balance.spent_points = account.spent_points;
    balance.expired_points = account.expired_points;
    balance.owed_points = account.owed_points;
    for lot in lots {
        if lot.expires_at <= Micros(scope.now) {
            balance.expired_points += lot.available_points;
            continue;
        }
        balance.available_points += lot.available_points;
        let next = *balance.next_expires_at.get_or_insert(lot.expires_at);
        if lot.expires_at == next {
            balance.next_expiring_points += lot.available_points;
        }
    }
    Ok(balance)
}

/// Whose points.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointsFilter {
    /// Of this person.
    #[param(minimum = 1)]
    person_id: i64,
    /// Only rows with a higher id.
    #[serde(default)]
    #[param(minimum = 0)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/mall/points/accounts", routing::get(get_accounts))
        .route("/mall/points/accounts/{id}", routing::get(get_account))
        .route("/mall/points/lots", routing::get(get_lots))
        .route("/mall/points/entries", routing::get(get_entries))
        .route("/mall/points/adjustments", routing::post(post_adjustment))
        .route("/mall/points/reconciliation", routing::get(get_reconciliation))
}

/// List accounts of points.
#[utoipa::path(get, path = "/mall/points/accounts", tag = "mall", params(Page),
    responses((status = 200, body = List<PointsAccount>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_accounts(
    State(services): State<Services>,
    scope: Scope,
    Params(page): Params<Page>,
) -> Result<Json<List<PointsAccount>>, Failure> {
    let items = sql("select * from points_account
         where tenant_id = ?1 and points_account_id > ?2 order by points_account_id limit ?3")
    .bind(scope.tenant_id)
    .bind(page.after_id)
    .bind(page.limit.rows())
    .all(&mut *services.mall().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// What a person, whose id it is, has of points.
#[utoipa::path(get, path = "/mall/points/accounts/{id}", tag = "mall",
    params(("id" = i64, Path)),
    responses((status = 200, body = PointsBalance), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_account(
    State(services): State<Services>,
    scope: Scope,
    Id(person_id): Id,
) -> Result<Json<PointsBalance>, Failure> {
    scope.check_person(person_id)?;
    let mut tx = services.mall().read().await?;
    Ok(Json(balance(&mut tx, scope, person_id).await?))
}

/// List the points that a person was granted together, with how many are left and until when.
#[utoipa::path(get, path = "/mall/points/lots", tag = "mall", params(PointsFilter),
    responses((status = 200, body = List<PointsLot>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_lots(
    State(services): State<Services>,
    scope: Scope,
    Params(filter): Params<PointsFilter>,
) -> Result<Json<List<PointsLot>>, Failure> {
    of_person(&services, scope, filter).await
}

/// List what happened to a person's points.
#[utoipa::path(get, path = "/mall/points/entries", tag = "mall", params(PointsFilter),
    responses((status = 200, body = List<PointsEntry>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_entries(
    State(services): State<Services>,
    scope: Scope,
    Params(filter): Params<PointsFilter>,
) -> Result<Json<List<PointsEntry>>, Failure> {
    of_person(&services, scope, filter).await
}

/// The rows of a person's account.
async fn of_person<R: Record + Row>(
    services: &Services,
    scope: Scope,
    filter: PointsFilter,
) -> Result<Json<List<R>>, Failure> {
    scope.check_person(filter.person_id)?;
    let (table, key) = (R::TABLE, R::COLUMNS[0]);
    let items = sql(format!(
        "select r.* from {table} r
         join points_account a on a.points_account_id = r.points_account_id
         where a.tenant_id = ?1 and a.person_id = ?2 and r.{key} > ?3
         order by r.{key} limit ?4"
    ))
    .bind(scope.tenant_id)
    .bind(filter.person_id)
    .bind(filter.after_id)
    .bind(filter.limit.rows())
    .all(&mut *services.mall().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// Grant somebody points, or take some.
#[utoipa::path(post, path = "/mall/points/adjustments", tag = "mall",
    request_body = PointsAdjustment,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = PointsAccount), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_adjustment(
    State(services): State<Services>,
    scope: Scope,
    command: Command<PointsAdjustment>,
) -> Result<Answer, Failure> {
    let valid_micros = Rules::of(&services, scope.tenant_id).await?.points.valid_micros;
    command
        .carry_out(services.mall(), services.now(), StatusCode::CREATED, |tx, scope, new| {
            Box::pin(adjust(tx, scope, new, valid_micros))
        })
        .await
}

/// Whether the ledger, the accounts, the lots and the orders agree.
#[utoipa::path(get, path = "/mall/points/reconciliation", tag = "mall",
    responses((status = 200, body = PointsReconciliation),
        (status = "default", body = ErrorBody)))]
pub(crate) async fn get_reconciliation(
    State(services): State<Services>,
    scope: Scope,
) -> Result<Json<PointsReconciliation>, Failure> {
    let mut tx = services.mall().read().await?;
    Ok(Json(reconciliation::reconcile(&mut tx, scope).await?))
}
