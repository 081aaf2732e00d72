//! Visits: who looks around, what brought them and which pages they see; and which visit an order is put
//! down to.
//!
//! An order is put down to the last touch before its payment: a visit through a referral link within 15
//! days or through a campaign within 30 (both are settings). Of two at the same time the one of the lower
//! id counts.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Rules,
    limits::{check_note, check_optional_text, check_text},
    orders::Channel,
    products,
};
use crate::{
    Limit, OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
};

words! {
    /// How a visit came about that an order is put down to.
    pub enum TouchKind {
        /// Through somebody's link.
        Referral = "referral",
        /// Through a campaign.
        Campaign = "campaign",
    }
}

words! {
    /// What kind of page was seen.
    pub enum PageKind {
        /// The first page.
        Home = "home",
        /// A list or the result of a search.
        List = "list",
        /// A product.
        Product = "product",
        /// The cart.
        Cart = "cart",
        /// Where an order is placed.
        Checkout = "checkout",
        /// Any other.
        Other = "other",
    }
}

record! {
    /// A session of someone who looks around.
    pub struct Visit in "visit" {
        /// Its id.
        pub visit_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// What the device calls itself.
        pub visitor_key: String,
        /// Who it is, once that is known.
        pub person_id: Option<i64>,
        /// Through which door.
        pub channel: Channel,
        /// The page before.
        pub referrer: Option<String>,
        /// The code of the campaign that brought the visitor.
        pub campaign_code: Option<String>,
        /// The code of the link that brought the visitor.
        pub share_code: Option<String>,
        /// Microseconds since 1970 (UTC).
        pub started_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub last_seen_at: Micros,
    }
}

record! {
    /// A page that was seen.
    pub struct PageView in "page_view" {
        /// Its id.
        pub page_view_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The visit.
        pub visit_id: i64,
        /// What kind of page.
        pub page: PageKind,
        /// The product it shows.
        pub product_id: Option<i64>,
        /// Microseconds since 1970 (UTC).
        pub viewed_at: Micros,
    }
}

/// A visit that begins.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewVisit {
    /// What the device calls itself.
    #[schema(min_length = 1, max_length = 255)]
    pub visitor_key: String,
    /// Who it is, if that is known.
    #[schema(minimum = 1)]
    pub person_id: Option<i64>,
    /// Through which door.
    pub channel: Channel,
    /// The page before.
    #[schema(max_length = 2_000)]
    pub referrer: Option<String>,
    /// The code of the campaign that brought the visitor.
    #[schema(min_length = 1, max_length = 255)]
    pub campaign_code: Option<String>,
    /// The code of the link that brought the visitor.
    #[schema(min_length = 1, max_length = 255)]
    pub share_code: Option<String>,
}

/// A page that is seen.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPageView {
    /// What kind of page.
    pub page: PageKind,
    /// The product it shows.
    #[schema(minimum = 1)]
    pub product_id: Option<i64>,
}

/// How far back from a payment a touch counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Through a referral link, in microseconds.
    pub referral_micros: i64,
    /// Through a campaign, in microseconds.
    pub campaign_micros: i64,
}

impl Windows {
    /// Those of the rules.
    #[must_use]
    pub const fn of(rules: &Rules) -> Self {
        Self {
            referral_micros: rules.referral_window_micros,
            campaign_micros: rules.campaign_window_micros,
        }
    }
}

/// A visit that an order is put down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touch {
    /// The visit.
    pub visit_id: i64,
    /// How it came about; a referral before a campaign where it is both.
    pub kind: TouchKind,
}

/// Begins visits, each at its time (microseconds since 1970, UTC), in one statement.
///
/// # Errors
/// `Invalid` when a field is outside its range.
pub async fn start_many(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &[(i64, NewVisit)],
) -> Result<Vec<Visit>, OperationalError> {
    for (_, visit) in new {
        visit.person_id.map_or(Ok(()), |person_id| scope.check_person(person_id))?;
        check_text("visitor_key", &visit.visitor_key)?;
        check_optional_text("campaign_code", visit.campaign_code.as_deref())?;
        check_optional_text("share_code", visit.share_code.as_deref())?;
        check_note("referrer", visit.referrer.as_deref().unwrap_or_default())?;
        if visit.person_id.is_some_and(|id| id <= 0) {
            return Err(OperationalError::invalid("person_id must be positive"));
        }
    }
    let ids = tx.ids::<Visit>(new.iter().map(|_| None)).await?;
    let visits: Vec<Visit> = ids
        .into_iter()
        .zip(new)
        .map(|(visit_id, (at, new))| Visit {
            visit_id,
            tenant_id: scope.tenant_id,
            visitor_key: new.visitor_key.clone(),
            person_id: new.person_id,
            channel: new.channel,
            referrer: new.referrer.clone(),
            campaign_code: new.campaign_code.clone(),
            share_code: new.share_code.clone(),
            started_at: Micros(*at),
            last_seen_at: Micros(*at),
        })
        .collect();
    insert(tx, &visits).await?;
    Ok(visits)
}

/// Begins a visit.
///
/// # Errors
/// `Invalid` when a field is outside its range.
pub async fn start(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewVisit,
) -> Result<Visit, OperationalError> {
    Ok(start_many(tx, scope, &[(scope.now, new.clone())]).await?.remove(0))
}

/// Notes that a page is seen.
///
/// # Errors
/// `NotFound` for an unknown visit or product; `Conflict` when nothing was seen for longer than
/// `idle_micros`, so that another visit begins.
pub async fn view(
    tx: &mut WriteTransaction,
    scope: Scope,
    visit_id: i64,
    new: NewPageView,
    idle_micros: i64,
) -> Result<PageView, OperationalError> {
    let visit = find(tx, scope.tenant_id, visit_id).await?;
    visit.person_id.map_or(Ok(()), |person_id| scope.check_owner(person_id, "visit", visit_id))?;
    if let Some(product_id) = new.product_id {
        products::find(tx, scope.tenant_id, product_id).await?;
    }
    if scope.now - visit.last_seen_at.0 > idle_micros {
        return Err(OperationalError::conflict(format!(
            "visit {visit_id} has ended: nothing was seen for too long"
        )));
    }
    let view = PageView {
        page_view_id: tx.id::<PageView>(None).await?,
        tenant_id: scope.tenant_id,
        visit_id,
        page: new.page,
        product_id: new.product_id,
        viewed_at: Micros(scope.now),
    };
    insert_one(tx, &view).await?;
    sql("update visit set last_seen_at = ?2 where visit_id = ?1 and last_seen_at < ?2")
        .bind(visit_id)
        .bind(Micros(scope.now))
        .execute(tx)
        .await?;
    Ok(view)
}

/// Notes pages that were seen at their times, in one statement; the visits are not looked at.
///
/// # Errors
/// When a visit or product is unknown.
pub async fn view_many(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &[(i64, i64, NewPageView)],
) -> Result<(), OperationalError> {
    let ids = tx.ids::<PageView>(new.iter().map(|_| None)).await?;
    let views: Vec<PageView> = ids
        .into_iter()
        .zip(new)
        .map(|(page_view_id, (visit_id, at, new))| PageView {
            page_view_id,
            tenant_id: scope.tenant_id,
            visit_id: *visit_id,
            page: new.page,
            product_id: new.product_id,
            viewed_at: Micros(*at),
        })
        .collect();
    insert(tx, &views).await
}

/// Notes who a visitor is. Who it is does not change any more.
///
/// # Errors
/// `NotFound`; `Conflict` when it is somebody else.
pub async fn identify(
    tx: &mut WriteTransaction,
    scope: Scope,
    visit_id: i64,
    person_id: i64,
) -> Result<Visit, OperationalError> {
    scope.check_person(person_id)?;
    if person_id <= 0 {
        return Err(OperationalError::invalid("person_id must be positive"));
    }
    let visit = find(tx, scope.tenant_id, visit_id).await?;
    visit.person_id.map_or(Ok(()), |person_id| scope.check_owner(person_id, "visit", visit_id))?;
    let known = sql("update visit set person_id = ?2
         where visit_id = ?1 and (person_id is null or person_id = ?2)")
    .bind(visit_id)
    .bind(person_id)
    .execute(tx)
    .await?;
    if known == 0 {
        return Err(OperationalError::conflict(format!("visit {visit_id} is another person's")));
    }
    Ok(Visit { person_id: Some(person_id), ..visit })
}

/// One visit.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    connection: &mut Connection,
    tenant_id: i64,
    visit_id: i64,
) -> Result<Visit, OperationalError> {
    sql("select * from visit where visit_id = ?1 and tenant_id = ?2")
        .bind(visit_id)
        .bind(tenant_id)
        .first(connection)
        .await?
        .ok_or(OperationalError::not_found("visit", visit_id))
}

/// The last touch of a person up to now: of their own visits, and of those of before they were known on
/// the same devices.
///
/// # Errors
/// When the database fails.
pub async fn last_touch(
    connection: &mut Connection,
    scope: Scope,
    person_id: i64,
    windows: Windows,
) -> Result<Option<Touch>, OperationalError> {
    let devices: Vec<(String,)> =
        sql("select distinct visitor_key from visit where tenant_id = ?1 and person_id = ?2")
            .bind(scope.tenant_id)
            .bind(person_id)
            .all(connection)
            .await?;
    if devices.is_empty() {
        return Ok(None);
    }
    let found: Option<(i64, bool)> =
        sql("select visit_id, share_code is not null and started_at >= ?4 from visit
         where tenant_id = ?1 and visitor_key in {list}
             and (person_id is null or person_id = ?2) and started_at <= ?3
             and ((share_code is not null and started_at >= ?4)
                 or (campaign_code is not null and started_at >= ?5))
         order by started_at desc, visit_id limit 1")
        .bind(scope.tenant_id)
        .bind(person_id)
        .bind(Micros(scope.now))
        .bind(Micros((scope.now - windows.referral_micros).max(0)))
        .bind(Micros((scope.now - windows.campaign_micros).max(0)))
        .list(devices.into_iter().map(|(key,)| key))
        .first(connection)
        .await?;
    Ok(found.map(|(visit_id, referred)| Touch {
        visit_id,
        kind: if referred { TouchKind::Referral } else { TouchKind::Campaign },
    }))
}

/// Who a visitor is.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdentifyRequest {
    #[schema(minimum = 1)]
    person_id: i64,
}

/// Whose visits.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct VisitFilter {
    /// Of this person only.
    person_id: Option<i64>,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/mall/visits", routing::post(post).get(get_all))
        .route("/mall/visits/{id}/page-views", routing::post(post_view))
        .route("/mall/visits/{id}/identify", routing::post(post_identify))
}

/// Begin a visit.
#[utoipa::path(post, path = "/mall/visits", tag = "mall", request_body = NewVisit,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Visit), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewVisit>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::CREATED, |tx, scope, new| {
            Box::pin(start(tx, scope, new))
        })
        .await
}

/// List visits.
#[utoipa::path(get, path = "/mall/visits", tag = "mall", params(VisitFilter),
    responses((status = 200, body = List<Visit>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(filter): Params<VisitFilter>,
) -> Result<Json<List<Visit>>, Failure> {
    let items = sql("select * from visit where tenant_id = ?1 and (?2 is null or person_id = ?2)
             and visit_id > ?3 order by visit_id limit ?4")
    .bind(scope.tenant_id)
    .bind(scope.only_person().or(filter.person_id))
    .bind(filter.after_id)
    .bind(filter.limit.rows())
    .all(&mut *services.mall().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// Note a page that is seen.
#[utoipa::path(post, path = "/mall/visits/{id}/page-views", tag = "mall",
    request_body = NewPageView,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = PageView), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_view(
    State(services): State<Services>,
    scope: Scope,
    Id(visit_id): Id,
    command: Command<NewPageView>,
) -> Result<Answer, Failure> {
    let idle = Rules::of(&services, scope.tenant_id).await?.visit_idle_micros;
    command
        .carry_out(services.mall(), services.now(), StatusCode::CREATED, |tx, scope, new| {
            Box::pin(view(tx, scope, visit_id, *new, idle))
        })
        .await
}

/// Note who a visitor is.
#[utoipa::path(post, path = "/mall/visits/{id}/identify", tag = "mall",
    request_body = IdentifyRequest,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Visit), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_identify(
    State(services): State<Services>,
    Id(visit_id): Id,
    command: Command<IdentifyRequest>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::OK, |tx, scope, request| {
            Box::pin(identify(tx, scope, visit_id, request.person_id))
        })
        .await
}
