//! Distributors and the tree they form. The tree may be of any depth; only two levels are paid, and
//! nobody pays to be in it: an application names who applies and nothing else.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{ledger, tree_alerts};
use crate::{
    Limit, OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
};

/// The longest name, and the longest reason, in characters.
const TEXT_LENGTH_MAX: usize = 100;

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

words! {
    /// How far a distributor is.
    pub enum DistributorStatus {
        /// Applied, and not yet looked at.
        Applied = "applied",
        /// Admitted: recommends and earns.
        Active = "active",
        /// Not admitted; may apply again.
        Rejected = "rejected",
        /// Earns nothing for a time, and nobody above earns through it.
        Suspended = "suspended",
        /// Left for good.
        Left = "left",
    }
}

words! {
    /// How a distributor's income is taxed when it is paid out.
    pub enum TaxRegime {
        /// Income from an internet platform, withheld cumulatively over the year.
        PlatformCumulative = "platform_cumulative",
        /// Remuneration for labour, withheld from each payment by itself.
        PerPayment = "per_payment",
        /// Nothing is withheld: an enterprise, which invoices.
        None = "none",
    }
}

/// A distributor to be added, or to apply.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDistributor {
    /// Its id, where one is recorded; otherwise the next free one.
    #[serde(skip_deserializing)]
    #[schema(ignore)]
    pub distributor_id: Option<i64>,
    /// The person who is it, or acts for it.
    #[schema(minimum = 1)]
    pub person_id: i64,
    /// Who brought it in.
    #[schema(minimum = 1)]
    pub parent_id: Option<i64>,
    /// What it is.
    pub kind: DistributorKind,
    /// Its name.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    /// How it is taxed, where that differs from its kind: persons as the settings say, others not at all.
    #[serde(default)]
    pub tax_regime: Option<TaxRegime>,
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
        /// Whether it may earn: `status` is `active`.
        pub active: bool,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
        /// How far it is.
        pub status: DistributorStatus,
        /// The top of its tree.
        pub root_id: i64,
        /// How many stand between it and nobody: 0 at the top.
        pub depth: i64,
        /// How it is taxed, where that differs from its kind.
        pub tax_regime: Option<TaxRegime>,
        /// Counts its changes of state.
        pub version: i64,
        /// Microseconds since 1970 (UTC).
        pub updated_at: Micros,
    }
}

record! {
    /// A change of a distributor's state.
    pub struct DistributorChange in "distributor_change" {
        /// Its id.
        pub change_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The distributor.
        pub distributor_id: i64,
        /// What it came to.
        pub status: DistributorStatus,
        /// Why.
        pub reason: String,
        /// Who did it.
        pub changed_by: String,
        /// Microseconds since 1970 (UTC).
        pub changed_at: Micros,
    }
}

/// A distributor with its past.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DistributorDetail {
    /// The distributor.
    #[serde(flatten)]
    pub distributor: Distributor,
    /// What became of it, in order.
    pub changes: Vec<DistributorChange>,
}

/// Adds a distributor that is admitted at once. Its parent must exist already, so the tree has no circle.
///
/// # Errors
/// `NotFound` for an unknown parent; `Conflict` for a parent that is not active, a person who is one
/// already, or an id that exists; `Invalid` for a name that is empty or too long.
pub async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewDistributor,
) -> Result<Distributor, OperationalError> {
    let distributor = enter(tx, scope, new, DistributorStatus::Active).await?;
    tree_alerts::watch(tx, scope, distributor.root_id).await?;
    Ok(distributor)
}

/// Takes an application, which somebody has to decide on. Who was rejected may apply again.
///
/// # Errors
/// As [`create`].
pub async fn apply(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewDistributor,
) -> Result<Distributor, OperationalError> {
    scope.check_person(new.person_id)?;
    let rejected: Option<Distributor> = sql("select * from distributor
         where tenant_id = ?1 and person_id = ?2 and status = 'rejected' for update")
    .bind(scope.tenant_id)
    .bind(new.person_id)
    .first(tx)
    .await?;
    match rejected {
        None => enter(tx, scope, new, DistributorStatus::Applied).await,
        Some(before) if before.parent_id == new.parent_id && before.kind == new.kind => {
            check_text("name", &new.name)?;
            sql("update distributor set name = ?2 where distributor_id = ?1")
                .bind(before.distributor_id)
                .bind(&new.name)
                .execute(tx)
                .await?;
            let before = Distributor { name: new.name, ..before };
            move_to(tx, scope, before, DistributorStatus::Applied, "applied again").await
        }
        Some(before) => Err(OperationalError::conflict(format!(
            "person {} applied before as distributor {}; kind and parent cannot be others",
            before.person_id, before.distributor_id
        ))),
    }
}

async fn enter(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewDistributor,
    status: DistributorStatus,
) -> Result<Distributor, OperationalError> {
    if new.person_id <= 0 {
        return Err(OperationalError::invalid("person_id must be positive"));
    }
    check_text("name", &new.name)?;
    let distributor_id = tx.id::<Distributor>(new.distributor_id).await?;
    let (root_id, depth) = match new.parent_id {
        None => (distributor_id, 0),
        Some(parent_id) => {
            let parent = find(tx, scope.tenant_id, parent_id).await?;
            if !parent.active {
                return Err(not_active(parent_id));
            }
            // Before the row that names it: then others who join this tree wait instead of meeting us.
            tree_alerts::hold(tx, parent.root_id).await?;
            (parent.root_id, parent.depth + 1)
        }
    };
    let distributor = Distributor {
        distributor_id,
        tenant_id: scope.tenant_id,
        person_id: new.person_id,
        parent_id: new.parent_id,
        kind: new.kind,
        name: new.name,
        active: status == DistributorStatus::Active,
        created_at: Micros(scope.now),
        status,
        root_id,
        depth,
        tax_regime: new.tax_regime,
        version: 1,
        updated_at: Micros(scope.now),
    };
    insert_one(tx, &distributor).await.map_err(|error| {
        error.or_taken(|| format!("person {} is a distributor already", new.person_id))
    })?;
    ledger::open(tx, scope, distributor_id).await?;
    note(tx, scope, distributor_id, status, "").await?;
    Ok(distributor)
}

fn check_text(field: &str, text: &str) -> Result<(), OperationalError> {
    if text.trim().is_empty() || text.chars().count() > TEXT_LENGTH_MAX {
        return Err(OperationalError::invalid(format!(
            "{field} must be 1 to {TEXT_LENGTH_MAX} characters"
        )));
    }
    Ok(())
}

fn not_active(distributor_id: i64) -> OperationalError {
    OperationalError::conflict(format!("distributor {distributor_id} is not active"))
}

/// What may be decided of a distributor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Admit who applied.
    Approve,
    /// Refuse who applied.
    Reject,
    /// End the earning of an active one for a time.
    Suspend,
    /// End its suspension.
    Reinstate,
    /// End the earning of an active or suspended one for good.
    Deactivate,
}

impl Decision {
    /// From which states, and to which.
    const fn step(self) -> (&'static [DistributorStatus], DistributorStatus) {
        use DistributorStatus::{Active, Applied, Left, Rejected, Suspended};
        match self {
            Self::Approve => (&[Applied], Active),
            Self::Reject => (&[Applied], Rejected),
            Self::Suspend => (&[Active], Suspended),
            Self::Reinstate => (&[Suspended], Active),
            Self::Deactivate => (&[Active, Suspended], Left),
        }
    }
}

/// Decides on a distributor. What it earned stays, whatever is decided.
///
/// # Errors
/// `NotFound`; `Conflict` when its state does not allow it.
pub async fn decide(
    tx: &mut WriteTransaction,
    scope: Scope,
    distributor_id: i64,
    decision: Decision,
    reason: &str,
) -> Result<Distributor, OperationalError> {
    if reason.chars().count() > TEXT_LENGTH_MAX {
        return Err(OperationalError::invalid(format!(
            "reason must be at most {TEXT_LENGTH_MAX} characters"
        )));
    }
    let distributor: Distributor = sql("select * from distributor
         where distributor_id = ?1 and tenant_id = ?2 for update")
    .bind(distributor_id)
    .bind(scope.tenant_id)
    .first(tx)
    .await?
    .ok_or(OperationalError::not_found("distributor", distributor_id))?;
    let (from, to) = decision.step();
    if !from.contains(&distributor.status) {
        return Err(match from {
            [DistributorStatus::Active, ..] => not_active(distributor_id),
            _ => OperationalError::conflict(format!(
                "distributor {distributor_id} is {}, not {}",
                distributor.status, from[0]
            )),
        });
    }
    let distributor = move_to(tx, scope, distributor, to, reason).await?;
    if to == DistributorStatus::Active {
        tree_alerts::watch(tx, scope, distributor.root_id).await?;
    }
    Ok(distributor)
}

async fn move_to(
    tx: &mut WriteTransaction,
    scope: Scope,
    distributor: Distributor,
    status: DistributorStatus,
    reason: &str,
) -> Result<Distributor, OperationalError> {
    let moved = Distributor {
        status,
        active: status == DistributorStatus::Active,
        version: distributor.version + 1,
        updated_at: Micros(scope.now),
        ..distributor
    };
    sql("update distributor set status = ?2, active = ?3, version = ?4, updated_at = ?5
         where distributor_id = ?1")
    .bind(moved.distributor_id)
    .bind(moved.status)
    .bind(moved.active)
    .bind(moved.version)
    .bind(moved.updated_at)
    .execute(tx)
    .await?;
    note(tx, scope, moved.distributor_id, status, reason).await?;
    Ok(moved)
}

async fn note(
    tx: &mut WriteTransaction,
    scope: Scope,
    distributor_id: i64,
    status: DistributorStatus,
    reason: &str,
) -> Result<(), OperationalError> {
    let change = DistributorChange {
        change_id: tx.id::<DistributorChange>(None).await?,
        tenant_id: scope.tenant_id,
        distributor_id,
        status,
        reason: reason.to_owned(),
        changed_by: scope.actor.to_string(),
        changed_at: Micros(scope.now),
    };
    insert_one(tx, &change).await
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

/// The active distributor that a person is.
///
/// # Errors
/// When the database fails.
pub(crate) async fn of_person(
    connection: &mut Connection,
    tenant_id: i64,
    person_id: i64,
) -> Result<Option<Distributor>, OperationalError> {
    sql("select * from distributor
         where tenant_id = ?1 and person_id = ?2 and status = 'active'")
    .bind(tenant_id)
    .bind(person_id)
    .first(connection)
    .await
}

/// Which distributors.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    /// Of this state.
    status: Option<DistributorStatus>,
    /// Brought in by this one.
    parent_id: Option<i64>,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

/// Why a distributor's state is changed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reason {
    /// For whoever looks at it later.
    #[serde(default)]
    #[schema(max_length = 100)]
    reason: String,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/distribution/distributors", routing::get(get_all).post(post))
        .route("/distribution/distributors/{id}", routing::get(get_one))
        .route("/distribution/applications", routing::post(post_application))
        .route("/distribution/distributors/{id}/approve", routing::post(post_approve))
        .route("/distribution/distributors/{id}/reject", routing::post(post_reject))
        .route("/distribution/distributors/{id}/suspend", routing::post(post_suspend))
        .route("/distribution/distributors/{id}/reinstate", routing::post(post_reinstate))
        .route("/distribution/distributors/{id}/deactivate", routing::post(post_deactivate))
}

/// Distributors in the order of their ids.
#[utoipa::path(get, path = "/distribution/distributors", tag = "distribution", params(Which),
    responses((status = 200, body = List<Distributor>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(which): Params<Which>,
) -> Result<Json<List<Distributor>>, Failure> {
    let items = sql("select * from distributor
         where tenant_id = ?1 and distributor_id > ?2 and (?3 is null or status = ?3)
           and (?4 is null or parent_id = ?4) and (?5 is null or person_id = ?5)
         order by distributor_id limit ?6")
    .bind(scope.tenant_id)
    .bind(which.after_id)
    .bind(which.status)
    .bind(which.parent_id)
    .bind(scope.only_person())
    .bind(which.limit.rows())
    .all(&mut *services.distribution().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// A distributor with its past.
#[utoipa::path(get, path = "/distribution/distributors/{id}", tag = "distribution",
    params(("id" = i64, Path)),
    responses((status = 200, body = DistributorDetail), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(distributor_id): Id,
) -> Result<Json<DistributorDetail>, Failure> {
    let mut connection = services.distribution().read().await?;
    let distributor = find(&mut connection, scope.tenant_id, distributor_id).await?;
    scope.check_owner(distributor.person_id, "distributor", distributor_id)?;
    let changes = sql("select * from distributor_change where distributor_id = ?1
         order by change_id limit 1000")
    .bind(distributor_id)
    .all(&mut connection)
    .await?;
    Ok(Json(DistributorDetail { distributor, changes }))
}

/// Add a distributor that is admitted at once.
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

/// Apply to be a distributor. It costs nothing.
#[utoipa::path(post, path = "/distribution/applications", tag = "distribution",
    request_body = NewDistributor, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Distributor), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_application(
    State(services): State<Services>,
    command: Command<NewDistributor>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.distribution(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(apply(tx, scope, new.clone())),
        )
        .await
}

async fn post_decision(
    services: Services,
    distributor_id: i64,
    command: Command<Reason>,
    decision: Decision,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.distribution(), services.now(), StatusCode::OK, |tx, scope, why| {
            Box::pin(decide(tx, scope, distributor_id, decision, &why.reason))
        })
        .await
}

/// Admit a distributor that applied.
#[utoipa::path(post, path = "/distribution/distributors/{id}/approve", tag = "distribution",
    request_body = Reason,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Distributor), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_approve(
    State(services): State<Services>,
    Id(distributor_id): Id,
    command: Command<Reason>,
) -> Result<Answer, Failure> {
    post_decision(services, distributor_id, command, Decision::Approve).await
}

/// Refuse a distributor that applied.
#[utoipa::path(post, path = "/distribution/distributors/{id}/reject", tag = "distribution",
    request_body = Reason,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Distributor), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_reject(
    State(services): State<Services>,
    Id(distributor_id): Id,
    command: Command<Reason>,
) -> Result<Answer, Failure> {
    post_decision(services, distributor_id, command, Decision::Reject).await
}

/// End a distributor's earning for a time; the chain of levels stops at it.
#[utoipa::path(post, path = "/distribution/distributors/{id}/suspend", tag = "distribution",
    request_body = Reason,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Distributor), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_suspend(
    State(services): State<Services>,
    Id(distributor_id): Id,
    command: Command<Reason>,
) -> Result<Answer, Failure> {
    post_decision(services, distributor_id, command, Decision::Suspend).await
}

/// End a distributor's suspension.
#[utoipa::path(post, path = "/distribution/distributors/{id}/reinstate", tag = "distribution",
    request_body = Reason,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Distributor), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_reinstate(
    State(services): State<Services>,
    Id(distributor_id): Id,
    command: Command<Reason>,
) -> Result<Answer, Failure> {
    post_decision(services, distributor_id, command, Decision::Reinstate).await
}

/// End a distributor's earning for good; the chain of levels stops at it.
#[utoipa::path(post, path = "/distribution/distributors/{id}/deactivate", tag = "distribution",
    request_body = Reason,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Distributor), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_deactivate(
    State(services): State<Services>,
    Id(distributor_id): Id,
    command: Command<Reason>,
) -> Result<Answer, Failure> {
    post_decision(services, distributor_id, command, Decision::Deactivate).await
}
