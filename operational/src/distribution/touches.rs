//! Who followed a distributor's link, and what that makes of their binding.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    bindings::{self, Binding, BindingCause, NewBinding, NotBound},
    share_links::{self, ShareLink},
};
use crate::{
    Limit, OperationalError, Scope, Services, WriteTransaction,
    database::{Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, List, Params},
};

const VISITOR_LENGTH_MAX: usize = 64;

words! {
    /// How somebody came upon a link.
    pub enum Door {
        /// By its address.
        Link = "link",
        /// By its QR code.
        QrCode = "qr_code",
    }
}

record! {
    /// Somebody followed a link.
    pub struct Touch in "touch" {
        /// Its id.
        pub touch_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The link.
        pub link_id: i64,
        /// Whose link.
        pub distributor_id: i64,
        /// How they came upon it.
        pub door: Door,
        /// Who, once they are known.
        pub person_id: Option<i64>,
        /// What the browser is known by.
        pub visitor: Option<String>,
        /// Microseconds since 1970 (UTC).
        pub touched_at: Micros,
    }
}

/// A person who came by a link.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTouch {
    /// What the link's address ends with.
    #[schema(example = "2Vw9Kqd", max_length = 32)]
    pub code: String,
    /// Who.
    #[schema(minimum = 1)]
    pub person_id: i64,
    /// How they came upon it.
    #[serde(default = "NewTouch::door")]
    pub door: Door,
    /// What the browser is known by.
    #[schema(min_length = 1, max_length = 64)]
    pub visitor: Option<String>,
    /// Whether they have just registered. Believed of programs and staff, not of the person.
    #[serde(default)]
    pub registered: bool,
}

impl NewTouch {
    const fn door() -> Door {
        Door::Link
    }
}

/// What came of a touch.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Touched {
    /// The touch.
    pub touch: Touch,
    /// The binding it made.
    pub binding: Option<Binding>,
    /// Why it made none.
    pub not_bound: Option<NotBound>,
}

/// Notes that somebody followed a link.
///
/// # Errors
/// `Invalid` for a visitor that is empty or too long.
pub(crate) async fn note(
    tx: &mut WriteTransaction,
    scope: Scope,
    link: &ShareLink,
    door: Door,
    person_id: Option<i64>,
    visitor: Option<&str>,
) -> Result<Touch, OperationalError> {
    if visitor.is_some_and(|v| v.trim().is_empty() || v.chars().count() > VISITOR_LENGTH_MAX) {
        return Err(OperationalError::invalid("visitor must be 1 to 64 characters"));
    }
    let touch = Touch {
        touch_id: tx.id::<Touch>(None).await?,
        tenant_id: scope.tenant_id,
        link_id: link.link_id,
        distributor_id: link.distributor_id,
        door,
        person_id,
        visitor: visitor.map(str::to_owned),
        touched_at: Micros(scope.now),
    };
    insert_one(tx, &touch).await?;
    Ok(touch)
}

/// Notes that a person followed a link, and binds them to its distributor where the settings allow it.
///
/// # Errors
/// `NotFound` for a code that no link has; `Invalid` for a field out of its range.
pub async fn touch(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewTouch,
) -> Result<Touched, OperationalError> {
    if new.person_id <= 0 {
        return Err(OperationalError::invalid("person_id must be positive"));
    }
    scope.check_person(new.person_id)?;
    let link = share_links::of_code(tx, &new.code).await?;
    if link.tenant_id != scope.tenant_id {
        return Err(OperationalError::unknown("share link", &new.code));
    }
    let visitor = new.visitor.as_deref();
    let touch = note(tx, scope, &link, new.door, Some(new.person_id), visitor).await?;
    // A program that registered them knows; what they say of themselves could be said at any time.
    let registered = new.registered && scope.only_person().is_none();
    let wanted = NewBinding {
        person_id: new.person_id,
        distributor_id: link.distributor_id,
        cause: if registered { BindingCause::Registration } else { BindingCause::Scan },
    };
    let (binding, not_bound) = match bindings::offer(tx, scope, wanted, Some(link.link_id)).await? {
        Ok(binding) => (Some(binding), None),
        Err(refused) => (None, Some(refused.reason)),
    };
    Ok(Touched { touch, binding, not_bound })
}

/// Of which link.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfLink {
    link_id: i64,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/distribution/touches", routing::get(get_all).post(post))
}

/// Touches of a link in the order they came.
#[utoipa::path(get, path = "/distribution/touches", tag = "distribution", params(OfLink),
    responses((status = 200, body = List<Touch>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(of): Params<OfLink>,
) -> Result<Json<List<Touch>>, Failure> {
    let mut connection = services.distribution().read().await?;
    let link = share_links::find(&mut connection, scope, of.link_id).await?;
    let mut items: Vec<Touch> = sql("select * from touch where link_id = ?1 and touch_id > ?2
         order by touch_id limit ?3")
    .bind(link.link_id)
    .bind(of.after_id)
    .bind(of.limit.rows())
    .all(&mut connection)
    .await?;
    // A distributor learns how many came, not who.
    if scope.only_person().is_some() {
        for touch in &mut items {
            touch.person_id = None;
        }
    }
    Ok(Json(List { items }))
}

/// Note that a person followed a link, and bind them where the settings allow it.
#[utoipa::path(post, path = "/distribution/touches", tag = "distribution",
    request_body = NewTouch, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Touched), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewTouch>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.distribution(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(touch(tx, scope, new)),
        )
        .await
}
