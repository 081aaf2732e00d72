//! To whom a buyer is bound, with its history: a new binding ends the one before it.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    distributors::{self, Distributor},
    settings::{self, BindingMode, Settings},
};
use crate::{
    Limit, OperationalError, Scope, Services, WriteTransaction,
    calendar::DAY_MICROS,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, List, Params},
};

words! {
    /// What somebody did to be bound.
    pub enum BindingCause {
        /// Followed a distributor's link or code.
        Scan = "scan",
        /// Registered by one.
        Registration = "registration",
    }
}

words! {
    /// Why somebody was not bound.
    pub enum NotBound {
        /// The distributor is not active.
        DistributorNotActive = "distributor_not_active",
        /// The distributor is they themselves.
        OwnLink = "own_link",
        /// Bindings are made at registration only.
        OnlyAtRegistration = "only_at_registration",
        /// They are bound already, and that holds.
        AlreadyBound = "already_bound",
        /// They were bound at a later time than this.
        BoundLater = "bound_later",
    }
}

/// A binding to be made.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBinding {
    /// Who buys.
    pub person_id: i64,
    /// To whom they are bound.
    pub distributor_id: i64,
    /// What they did to be bound.
    #[serde(default = "NewBinding::scan")]
    pub cause: BindingCause,
}

impl NewBinding {
    const fn scan() -> BindingCause {
        BindingCause::Scan
    }
}

record! {
    /// A binding.
    pub struct Binding in "binding" {
        /// Its id.
        pub binding_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// Who buys.
        pub person_id: i64,
        /// To whom they are bound.
        pub distributor_id: i64,
        /// From when, in microseconds since 1970 (UTC).
        pub bound_at: Micros,
        /// Until when it was not replaced, exclusive.
        pub unbound_at: Option<Micros>,
        /// Until when it holds at most, exclusive.
        pub expires_at: Option<Micros>,
        /// What they did to be bound.
        pub cause: BindingCause,
        /// The link they came by.
        pub link_id: Option<i64>,
    }
}

/// Why somebody was not bound, and the binding they have.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// Why.
    pub reason: NotBound,
    /// What stands in the way.
    pub present: Option<Binding>,
}

/// Binds a person to a distributor from now on where the settings allow it, and ends the binding they
/// have.
///
/// # Errors
/// `NotFound` for an unknown distributor; `Conflict` when it is not active, or the settings keep the
/// binding there is, or ask for a registration; `Invalid` when it is the person's own.
pub async fn bind(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewBinding,
) -> Result<Binding, OperationalError> {
    if new.person_id <= 0 {
        return Err(OperationalError::invalid("person_id must be positive"));
    }
    scope.check_person(new.person_id)?;
    let refused = match offer(tx, scope, new, None).await? {
        Ok(binding) => return Ok(binding),
        Err(refused) => refused,
    };
    let person_id = new.person_id;
    Err(OperationalError::conflict(match refused.reason {
        NotBound::OwnLink => {
            return Err(OperationalError::invalid("nobody is bound to themselves"));
        }
        NotBound::DistributorNotActive => {
            format!("distributor {} is not active", new.distributor_id)
        }
        NotBound::OnlyAtRegistration => "people are bound at registration only".to_owned(),
        NotBound::BoundLater => format!("person {person_id} was bound at a later time"),
        NotBound::AlreadyBound => {
            let to = refused.present.map_or(new.distributor_id, |binding| binding.distributor_id);
            format!("person {person_id} is bound to distributor {to} already")
        }
    }))
}

/// As [`bind`], where it is no error that the settings keep things as they are.
///
/// # Errors
/// `NotFound` for an unknown distributor; `Conflict` when the person is bound by another at this moment.
pub(crate) async fn offer(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewBinding,
    link_id: Option<i64>,
) -> Result<Result<Binding, Refused>, OperationalError> {
    let distributor = distributors::find(tx, scope.tenant_id, new.distributor_id).await?;
    let settings = settings::at(tx, scope).await?;
    let present: Option<Binding> =
        sql("select * from binding where tenant_id = ?1 and person_id = ?2 and unbound_at is null
         for update")
        .bind(scope.tenant_id)
        .bind(new.person_id)
        .first(tx)
        .await?;
    if let Some(reason) = refusal(scope, &settings, &distributor, new, present.as_ref()) {
        return Ok(Err(Refused { reason, present }));
    }
    if let Some(present) = present {
        let ended_at = present.expires_at.map_or(scope.now, |expires| expires.0.min(scope.now));
        sql("update binding set unbound_at = ?2 where binding_id = ?1")
            .bind(present.binding_id)
            .bind(Micros(ended_at))
            .execute(tx)
            .await?;
    }
    let binding = Binding {
        binding_id: tx.id::<Binding>(None).await?,
        tenant_id: scope.tenant_id,
        person_id: new.person_id,
        distributor_id: new.distributor_id,
        bound_at: Micros(scope.now),
        unbound_at: None,
        expires_at: settings.binding_days.map(|days| Micros(scope.now + days * DAY_MICROS)),
        cause: new.cause,
        link_id,
    };
    insert_one(tx, &binding).await.map_err(|error| {
        error.or_taken(|| format!("person {} is being bound already", new.person_id))
    })?;
    Ok(Ok(binding))
}

/// Why the settings keep things as they are, if they do.
fn refusal(
    scope: Scope,
    settings: &Settings,
    distributor: &Distributor,
    new: NewBinding,
    present: Option<&Binding>,
) -> Option<NotBound> {
    let holds = present.filter(|binding| binding.expires_at.is_none_or(|at| at.0 > scope.now));
    if !distributor.active {
        Some(NotBound::DistributorNotActive)
    } else if distributor.person_id == new.person_id {
        Some(NotBound::OwnLink)
    } else if settings.binding_mode == BindingMode::Registration
        && new.cause != BindingCause::Registration
    {
        Some(NotBound::OnlyAtRegistration)
    } else if present.is_some_and(|binding| binding.bound_at.0 > scope.now) {
        Some(NotBound::BoundLater)
    } else {
        let kept = holds.is_some_and(|binding| {
            // A scan of the same link again only prolongs what would end.
            let prolongs = settings.binding_days.is_some();
            settings.binding_mode != BindingMode::EveryScan
                || (binding.distributor_id == new.distributor_id && !prolongs)
        });
        kept.then_some(NotBound::AlreadyBound)
    }
}

/// The distributor that earns on what a person buys at the time of `scope`: whom they are bound to, or
/// they themselves where the settings let distributors earn on their own purchases.
///
/// # Errors
/// When the database fails.
pub async fn distributor_of(
    connection: &mut Connection,
    scope: Scope,
    person_id: i64,
) -> Result<Option<i64>, OperationalError> {
    if settings::at(connection, scope).await?.self_purchase_earns
        && let Some(own) = distributors::of_person(connection, scope.tenant_id, person_id).await?
    {
        return Ok(Some(own.distributor_id));
    }
    let bound: Option<(i64,)> = sql("select distributor_id from binding
         where tenant_id = ?1 and person_id = ?2 and bound_at <= ?3
           and (unbound_at is null or unbound_at > ?3)
           and (expires_at is null or expires_at > ?3)
         order by bound_at desc, binding_id desc limit 1")
    .bind(scope.tenant_id)
    .bind(person_id)
    .bind(Micros(scope.now))
    .first(connection)
    .await?;
    Ok(bound.map(|(distributor_id,)| distributor_id))
}

/// Whose bindings.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    /// Of this buyer.
    person_id: Option<i64>,
    /// To this distributor.
    distributor_id: Option<i64>,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/distribution/bindings", routing::get(get_all).post(post))
}

/// Bindings, present and past, in the order they were made.
#[utoipa::path(get, path = "/distribution/bindings", tag = "distribution", params(Which),
    responses((status = 200, body = List<Binding>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(which): Params<Which>,
) -> Result<Json<List<Binding>>, Failure> {
    let items = sql("select * from binding
         where tenant_id = ?1 and binding_id > ?2 and (?3 is null or person_id = ?3)
           and (?4 is null or distributor_id = ?4)
         order by binding_id limit ?5")
    .bind(scope.tenant_id)
    .bind(which.after_id)
    .bind(scope.only_person().or(which.person_id))
    .bind(which.distributor_id)
    .bind(which.limit.rows())
    .all(&mut *services.distribution().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// Bind a person to a distributor, where the settings allow it.
#[utoipa::path(post, path = "/distribution/bindings", tag = "distribution",
    request_body = NewBinding, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Binding), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewBinding>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.distribution(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(bind(tx, scope, *new)),
        )
        .await
}
