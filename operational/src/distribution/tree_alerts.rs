//! Trees that grow towards what the law calls pyramid selling (传销): three levels, or thirty people,
//! below an organiser. A tree is told of once for each reason; whoever looks after it resolves it.
//!
//! The organiser and the organiser's own level are not counted, as in the criminal threshold
//! (立案追诉标准(二) §78, which wants both at once; here either is enough to look).

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::{
    AlertRaised, Limit, OperationalError, Scope, Services, WriteTransaction,
    database::{Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
    outbox,
};

/// Levels below the organiser at which a tree is told of.
pub const DEPTH_LIMIT: i64 = 3;
/// People below the organiser at which a tree is told of.
pub const PEOPLE_LIMIT: i64 = 30;

const NOTE_LENGTH_MAX: usize = 200;

words! {
    /// Why a tree is told of.
    pub enum AlertReason {
        /// It has three levels or more below the organiser.
        Depth = "depth",
        /// It has thirty people or more below the organiser.
        People = "people",
    }
}

words! {
    /// Whether somebody has looked at it.
    pub enum TreeAlertStatus {
        /// Nobody has.
        Open = "open",
        /// Somebody has.
        Resolved = "resolved",
    }
}

record! {
    /// A tree that was told of.
    pub struct TreeAlert in "tree_alert" {
        /// Its id.
        pub alert_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The organiser: the top of the tree.
        pub root_id: i64,
        /// Why.
        pub reason: AlertReason,
        /// Levels below the organiser when it was raised.
        pub depth: i64,
        /// People below the organiser when it was raised.
        pub people: i64,
        /// Whether somebody has looked at it.
        pub status: TreeAlertStatus,
        /// What whoever looked at it says.
        pub note: String,
        /// Who looked at it.
        pub resolved_by: Option<String>,
        /// Microseconds since 1970 (UTC).
        pub raised_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub resolved_at: Option<Micros>,
    }
}

/// Keeps others from joining a tree before the end of the transaction: two that join at once come after
/// each other, so the later one counts both.
pub(crate) async fn hold(tx: &mut WriteTransaction, root_id: i64) -> Result<(), OperationalError> {
    let _: Option<(i64,)> =
        sql("select distributor_id from distributor where distributor_id = ?1 for update")
            .bind(root_id)
            .first(tx)
            .await?;
    Ok(())
}

/// Looks at a tree that grew, and raises what it has not been told of for.
///
/// # Errors
/// When the database fails.
pub(crate) async fn watch(
    tx: &mut WriteTransaction,
    scope: Scope,
    root_id: i64,
) -> Result<(), OperationalError> {
    hold(tx, root_id).await?;
    // Whoever is admitted belongs to it, also while suspended: the people are still recruited.
    let (depth, people): (Option<i64>, i64) = sql("select max(depth), count(*) from distributor
         where root_id = ?1 and depth > 0 and status in ('active', 'suspended')")
    .bind(root_id)
    .one(tx)
    .await?;
    let depth = depth.unwrap_or(0);
    for (reason, reached) in
        [(AlertReason::Depth, depth >= DEPTH_LIMIT), (AlertReason::People, people >= PEOPLE_LIMIT)]
    {
        if reached {
            raise(tx, scope, root_id, reason, (depth, people)).await?;
        }
    }
    Ok(())
}

async fn raise(
    tx: &mut WriteTransaction,
    scope: Scope,
    root_id: i64,
    reason: AlertReason,
    (depth, people): (i64, i64),
) -> Result<(), OperationalError> {
    let raised: bool =
        sql("select exists (select 1 from tree_alert where root_id = ?1 and reason = ?2)")
            .bind(root_id)
            .bind(reason)
            .value(tx)
            .await?;
    if raised {
        return Ok(());
    }
    let alert = TreeAlert {
        alert_id: tx.id::<TreeAlert>(None).await?,
        tenant_id: scope.tenant_id,
        root_id,
        reason,
        depth,
        people,
        status: TreeAlertStatus::Open,
        note: String::new(),
        resolved_by: None,
        raised_at: Micros(scope.now),
        resolved_at: None,
    };
    insert_one(tx, &alert).await?;
    let parameters = [("root_id", root_id), ("depth", depth), ("people", people)];
    let raised = AlertRaised {
        tenant_id: scope.tenant_id,
        alert_key: format!("tree_alert:{}", alert.alert_id),
        kind: format!("tree_{reason}"),
        subject: format!("distributor:{root_id}"),
        person_id: None,
        raised_at: scope.now,
        parameters: parameters.map(|(name, value)| (name.to_owned(), value.to_string())).into(),
    };
    outbox::put(tx, &raised).await
}

/// Notes that somebody looked at a tree. It is not raised for that reason again.
///
/// # Errors
/// `NotFound`; `Conflict` when it is resolved; `Invalid` for a note that is empty or too long.
pub async fn resolve(
    tx: &mut WriteTransaction,
    scope: Scope,
    alert_id: i64,
    note: &str,
) -> Result<TreeAlert, OperationalError> {
    if note.trim().is_empty() || note.chars().count() > NOTE_LENGTH_MAX {
        return Err(OperationalError::invalid(format!(
            "note must be 1 to {NOTE_LENGTH_MAX} characters"
        )));
    }
    let resolved = sql("update tree_alert set status = 'resolved', note = ?3, resolved_at = ?4,
             resolved_by = ?5
         where alert_id = ?1 and tenant_id = ?2 and status = 'open'")
    .bind(alert_id)
    .bind(scope.tenant_id)
    .bind(note)
    .bind(Micros(scope.now))
    .bind(scope.actor.to_string())
    .execute(tx)
    .await?;
    let alert = sql("select * from tree_alert where alert_id = ?1 and tenant_id = ?2")
        .bind(alert_id)
        .bind(scope.tenant_id)
        .first(tx)
        .await?
        .ok_or(OperationalError::not_found("alert", alert_id))?;
    if resolved == 0 {
        return Err(OperationalError::conflict(format!("alert {alert_id} is resolved")));
    }
    Ok(alert)
}

/// Which alerts.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    /// Of this state.
    status: Option<TreeAlertStatus>,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

/// What whoever looked at a tree says.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TreeAlertResolution {
    #[schema(min_length = 1, max_length = 200)]
    note: String,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/distribution/tree-alerts", routing::get(get_all))
        .route("/distribution/tree-alerts/{id}/resolve", routing::post(post_resolve))
}

/// Trees that were told of, in the order they were raised.
#[utoipa::path(get, path = "/distribution/tree-alerts", tag = "distribution", params(Which),
    responses((status = 200, body = List<TreeAlert>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(which): Params<Which>,
) -> Result<Json<List<TreeAlert>>, Failure> {
    let items = sql("select * from tree_alert
         where tenant_id = ?1 and alert_id > ?2 and (?3 is null or status = ?3)
         order by alert_id limit ?4")
    .bind(scope.tenant_id)
    .bind(which.after_id)
    .bind(which.status)
    .bind(which.limit.rows())
    .all(&mut *services.distribution().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// Note that somebody looked at a tree.
#[utoipa::path(post, path = "/distribution/tree-alerts/{id}/resolve", tag = "distribution",
    request_body = TreeAlertResolution,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = TreeAlert), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_resolve(
    State(services): State<Services>,
    Id(alert_id): Id,
    command: Command<TreeAlertResolution>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.distribution(), services.now(), StatusCode::OK, |tx, scope, said| {
            Box::pin(resolve(tx, scope, alert_id, &said.note))
        })
        .await
}
