//! Links that distributors share, for a product or a page, and the QR codes of them. Who follows one is
//! a touch; whether that binds them is for the settings to say.

use axum::{
    Json, Router,
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{distributors, qr_code, settings, touches};
use crate::{
    Limit, OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Nothing, Params},
};

const PAGE_LENGTH_MAX: usize = 200;
const CAMPAIGN_LENGTH_MAX: usize = 64;

/// A link to be made: to a product, or to a page.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewShareLink {
    /// Whose it is.
    #[schema(minimum = 1)]
    pub distributor_id: i64,
    /// The product it leads to.
    #[schema(minimum = 1)]
    pub product_id: Option<i64>,
    /// The page it leads to.
    #[schema(
        example = "/health/diabetes",
        min_length = 1,
        max_length = 200,
        pattern = r"^/([!-.0-\[\]-~][!-~]*)?$"
    )]
    pub page: Option<String>,
    /// What the campaign is called that it is made for.
    #[schema(example = "autumn-checkup", min_length = 1, max_length = 64)]
    pub campaign: Option<String>,
}

record! {
    /// A link.
    pub struct ShareLink in "share_link" {
        /// Its id.
        pub link_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// Whose it is.
        pub distributor_id: i64,
        /// What its address ends with.
        pub code: String,
        /// The product it leads to.
        pub product_id: Option<i64>,
        /// The page it leads to.
        pub page: Option<String>,
        /// What the campaign is called that it is made for.
        pub campaign: Option<String>,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
        /// When it was ended, in microseconds since 1970 (UTC).
        pub ended_at: Option<Micros>,
    }
}

/// A link with its address.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SharedLink {
    /// The link.
    #[serde(flatten)]
    pub link: ShareLink,
    /// Where it is followed.
    #[schema(example = "https://mall.example.org/s/2Vw9Kqd")]
    pub address: String,
}

impl ShareLink {
    fn address(&self, base: &str) -> String {
        format!("{base}/s/{}", self.code)
    }

    /// Where who follows it goes on.
    fn target(&self) -> String {
        let page = match (&self.page, self.product_id) {
            (Some(page), _) => page.clone(),
            (None, product_id) => format!("/products/{}", product_id.unwrap_or_default()),
        };
        let (page, fragment) = page.split_once('#').unwrap_or((&page, ""));
        let sign = if page.contains('?') { '&' } else { '?' };
        let hash = if fragment.is_empty() { "" } else { "#" };
        format!("{page}{sign}share={}{hash}{fragment}", self.code)
    }
}

/// The letters of a code: none looks like another (no 0, O, I, l).
const LETTERS: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const CODE_LENGTH: u32 = 7;
const CODES: i128 = 58_i128.pow(CODE_LENGTH);
/// Shares no factor with [`CODES`], so that each link has another code; about its golden section, so that
/// one after another look nothing alike.
const STEP: i128 = 1_364_573_279_317;

/// The code of a link: no two links have the same, and it is not read off it how many there are.
fn code(link_id: i64) -> String {
    let mut rest = (i128::from(link_id) * STEP).rem_euclid(CODES);
    let mut letters = Vec::with_capacity(CODE_LENGTH as usize);
    for _ in 0..CODE_LENGTH {
        let letter = usize::try_from(rest % 58).expect("a rest of 58 fits any integer");
        letters.push(char::from(LETTERS[letter]));
        rest /= 58;
    }
    letters.into_iter().collect()
}

/// Makes a link of an active distributor.
///
/// # Errors
/// `NotFound` for an unknown distributor; `Conflict` for one that is not active; `Invalid` for a page
/// that is no path, or when not one of product and page is named.
pub async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewShareLink,
) -> Result<SharedLink, OperationalError> {
    if new.product_id.is_some() == new.page.is_some() {
        return Err(OperationalError::invalid("a link leads to a product_id or to a page"));
    }
    if new.product_id.is_some_and(|id| id < 1) {
        return Err(OperationalError::invalid("product_id must be at least 1"));
    }
    if new.page.as_deref().is_some_and(|page| !is_path(page)) {
        return Err(OperationalError::invalid(
            "page must be a path of up to 200 ASCII characters that begins with one slash",
        ));
    }
    let named =
        |text: &String| !text.trim().is_empty() && text.chars().count() <= CAMPAIGN_LENGTH_MAX;
    if !new.campaign.as_ref().is_none_or(named) {
        return Err(OperationalError::invalid("campaign must be 1 to 64 characters"));
    }
    let distributor = distributors::find(tx, scope.tenant_id, new.distributor_id).await?;
    scope.check_owner(distributor.person_id, "distributor", new.distributor_id)?;
    if !distributor.active {
        return Err(OperationalError::conflict(format!(
            "distributor {} is not active",
            new.distributor_id
        )));
    }
    let link_id = tx.id::<ShareLink>(None).await?;
    let link = ShareLink {
        link_id,
        tenant_id: scope.tenant_id,
        distributor_id: new.distributor_id,
        code: code(link_id),
        product_id: new.product_id,
        page: new.page,
        campaign: new.campaign,
        created_at: Micros(scope.now),
        ended_at: None,
    };
    insert_one(tx, &link).await?;
    let base = settings::at(tx, scope).await?.link_base;
    Ok(SharedLink { address: link.address(&base), link })
}

/// Whether it leads to a page of the mall, and not elsewhere as `//host` does.
fn is_path(page: &str) -> bool {
    let mut bytes = page.bytes();
    bytes.next() == Some(b'/')
        && !page[1..].starts_with(['/', '\\'])
        && page.len() <= PAGE_LENGTH_MAX
        && page.bytes().all(|b| b.is_ascii_graphic())
}

/// Ends a link: nobody follows it from then on.
///
/// # Errors
/// `NotFound`; `Conflict` when it is ended.
pub async fn end(
    tx: &mut WriteTransaction,
    scope: Scope,
    link_id: i64,
) -> Result<ShareLink, OperationalError> {
    let link = find(tx, scope, link_id).await?;
    let ended = sql("update share_link set ended_at = ?2 where link_id = ?1 and ended_at is null")
        .bind(link_id)
        .bind(Micros(scope.now))
        .execute(tx)
        .await?;
    if ended == 0 {
        return Err(OperationalError::conflict(format!("share link {link_id} is ended")));
    }
    Ok(ShareLink { ended_at: Some(Micros(scope.now)), ..link })
}

/// One link, of whoever asks if they are not staff.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    connection: &mut Connection,
    scope: Scope,
    link_id: i64,
) -> Result<ShareLink, OperationalError> {
    let missing = OperationalError::not_found("share link", link_id);
    let link: ShareLink = sql("select * from share_link where link_id = ?1 and tenant_id = ?2")
        .bind(link_id)
        .bind(scope.tenant_id)
        .first(connection)
        .await?
        .ok_or(missing)?;
    let owner = distributors::find(connection, scope.tenant_id, link.distributor_id).await?;
    scope.check_owner(owner.person_id, "share link", link_id)?;
    Ok(link)
}

/// The link of a code that can be followed now.
///
/// # Errors
/// `Invalid` for a code that no link has, or whose link is ended.
pub async fn of_code(
    connection: &mut Connection,
    code: &str,
) -> Result<ShareLink, OperationalError> {
    sql("select * from share_link where code = ?1 and ended_at is null")
        .bind(code)
        .first(connection)
        .await?
        .ok_or_else(|| OperationalError::unknown("share link", code))
}

/// The links of a distributor that can be followed now, the oldest first.
///
/// # Errors
/// When the database fails.
pub async fn of_distributor(
    connection: &mut Connection,
    tenant_id: i64,
    distributor_id: i64,
) -> Result<Vec<ShareLink>, OperationalError> {
    sql("select * from share_link
         where tenant_id = ?1 and distributor_id = ?2 and ended_at is null order by link_id")
    .bind(tenant_id)
    .bind(distributor_id)
    .all(connection)
    .await
}

/// Whose links.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfDistributor {
    distributor_id: i64,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

/// How large a picture.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Picture {
    /// Pixels a module, from 1 to 32; 8 when left out.
    scale: Option<u8>,
}

/// What a redirection carries along.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Followed {
    /// What the browser is known by, to tell visitors apart.
    visitor: Option<String>,
    /// 1 when it came from a QR code.
    qr: Option<u8>,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/distribution/share-links", routing::get(get_all).post(post))
        .route("/distribution/share-links/{id}", routing::get(get_one))
        .route("/distribution/share-links/{id}/end", routing::post(post_end))
        .route("/distribution/share-links/{id}/qr.png", routing::get(get_qr))
        .route("/s/{code}", routing::get(follow))
}

/// Links of a distributor in the order of their ids.
#[utoipa::path(get, path = "/distribution/share-links", tag = "distribution", params(OfDistributor),
    responses((status = 200, body = List<SharedLink>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(of): Params<OfDistributor>,
) -> Result<Json<List<SharedLink>>, Failure> {
    let mut connection = services.distribution().read().await?;
    let owner = distributors::find(&mut connection, scope.tenant_id, of.distributor_id).await?;
    scope.check_owner(owner.person_id, "distributor", of.distributor_id)?;
    let base = settings::at(&mut connection, scope).await?.link_base;
    let links: Vec<ShareLink> = sql("select * from share_link
         where distributor_id = ?1 and link_id > ?2 order by link_id limit ?3")
    .bind(of.distributor_id)
    .bind(of.after_id)
    .bind(of.limit.rows())
    .all(&mut connection)
    .await?;
    let shared = |link: ShareLink| SharedLink { address: link.address(&base), link };
    Ok(Json(List { items: links.into_iter().map(shared).collect() }))
}

/// A link.
#[utoipa::path(get, path = "/distribution/share-links/{id}", tag = "distribution",
    params(("id" = i64, Path)),
    responses((status = 200, body = SharedLink), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(link_id): Id,
) -> Result<Json<SharedLink>, Failure> {
    let mut connection = services.distribution().read().await?;
    let link = find(&mut connection, scope, link_id).await?;
    let base = settings::at(&mut connection, scope).await?.link_base;
    Ok(Json(SharedLink { address: link.address(&base), link }))
}

/// Make a link to a product or a page.
#[utoipa::path(post, path = "/distribution/share-links", tag = "distribution",
    request_body = NewShareLink, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = SharedLink), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewShareLink>,
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

/// End a link.
#[utoipa::path(post, path = "/distribution/share-links/{id}/end", tag = "distribution",
    request_body = Nothing,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = ShareLink), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_end(
    State(services): State<Services>,
    Id(link_id): Id,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.distribution(), services.now(), StatusCode::OK, |tx, scope, _| {
            Box::pin(end(tx, scope, link_id))
        })
        .await
}

/// The QR code of a link.
#[utoipa::path(get, path = "/distribution/share-links/{id}/qr.png", tag = "distribution",
    params(("id" = i64, Path), Picture),
    responses((status = 200, content_type = "image/png", body = Vec<u8>),
        (status = "default", body = ErrorBody)))]
pub(crate) async fn get_qr(
    State(services): State<Services>,
    scope: Scope,
    Id(link_id): Id,
    Params(Picture { scale }): Params<Picture>,
) -> Result<Response, Failure> {
    let scale = usize::from(scale.unwrap_or(8));
    if !(1..=32).contains(&scale) {
        return Err(OperationalError::invalid("scale must be between 1 and 32").into());
    }
    let mut connection = services.distribution().read().await?;
    let link = find(&mut connection, scope, link_id).await?;
    let base = settings::at(&mut connection, scope).await?.link_base;
    let picture = qr_code::png(&format!("{}?qr=1", link.address(&base)), scale)?;
    Ok(([(header::CONTENT_TYPE, "image/png")], picture).into_response())
}

/// Follow a link: notes the touch and leads on to its product or page.
#[utoipa::path(get, path = "/s/{code}", tag = "distribution",
    params(("code" = String, Path), Followed),
    responses((status = 302), (status = "default", body = ErrorBody)))]
pub(crate) async fn follow(
    State(services): State<Services>,
    code: Result<Path<String>, PathRejection>,
    Params(followed): Params<Followed>,
) -> Result<Response, Failure> {
    let Path(code) = code.map_err(|_| OperationalError::invalid("the code is not text"))?;
    let now = services.now();
    let mut tx = services.distribution().begin(now).await?;
    let link = of_code(&mut tx, &code).await?;
    let scope = Scope::of(link.tenant_id, now);
    let door = if followed.qr == Some(1) { touches::Door::QrCode } else { touches::Door::Link };
    touches::note(&mut tx, scope, &link, door, None, followed.visitor.as_deref()).await?;
    tx.commit().await?;
    Ok((StatusCode::FOUND, [(header::LOCATION, link.target())]).into_response())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_link_has_another_code_of_seven_letters() {
        let codes: HashSet<String> = (1..=100_000).map(code).collect();
        assert_eq!(codes.len(), 100_000);
        assert!(codes.iter().all(|code| code.len() == 7));
        // Of any two ids below the number of codes: the step has neither factor of 58.
        const { assert!(STEP % 2 != 0 && STEP % 29 != 0) };
        assert_eq!(code(1), "Uvjf1rc");
    }

    #[test]
    fn a_page_is_of_the_mall() {
        for page in ["/", "/a/b?c=d#e"] {
            assert!(is_path(page), "{page}");
        }
        for page in ["", "a", "//evil.example.org", "/\\evil.example.org", "/a b", "/\r\nx", "/汉"]
        {
            assert!(!is_path(page), "{page}");
        }
    }
}
