//! Coupons: 满减 and percentages, who pays for them and what they are limited to.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, SqliteConnection};
use utoipa::ToSchema;

use crate::{
    OperationalError, Page, Scope, Services, WriteTransaction,
    database::rows_json,
    http::{Answer, Begun, Command, ErrorBody, Failure, List, Params, begin},
    scope::check_time,
};

/// How a coupon takes money off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum CouponKind {
    /// A fixed amount, `discount_fen`, from a threshold on (满减).
    FullReduction,
    /// `percent` per cent off, at most `cap_fen`.
    Percent,
}

/// Who pays for a discount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(rename_all = "snake_case")]
pub enum Funder {
    /// The pharmacy.
    Merchant,
    /// The mall.
    Platform,
}

/// A coupon to be added.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCoupon {
    /// Its id, where one is recorded; otherwise the next free one.
    #[serde(skip_deserializing)]
    #[schema(ignore)]
    pub coupon_id: Option<i64>,
    /// Its name.
    pub name: String,
    /// How it takes money off.
    pub kind: CouponKind,
    /// What the lines in its scope must come to.
    #[serde(default)]
    pub threshold_fen: i64,
    /// What a full reduction takes off.
    pub discount_fen: Option<i64>,
    /// What a percentage takes off, 1 to 100.
    pub percent: Option<i64>,
    /// The most a percentage takes off.
    pub cap_fen: Option<i64>,
    /// The only category it is for; all when left out.
    pub category: Option<String>,
    /// Who pays for it.
    pub funder: Funder,
    /// From when it may be used, in microseconds since 1970 (UTC).
    pub starts_at: i64,
    /// Until when, exclusive.
    pub ends_at: i64,
}

/// A coupon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Coupon {
    /// Its id.
    pub coupon_id: i64,
    /// The tenant.
    pub tenant_id: i64,
    /// Its name.
    pub name: String,
    /// How it takes money off.
    pub kind: CouponKind,
    /// What the lines in its scope must come to.
    pub threshold_fen: i64,
    /// What a full reduction takes off.
    pub discount_fen: Option<i64>,
    /// What a percentage takes off.
    pub percent: Option<i64>,
    /// The most a percentage takes off.
    pub cap_fen: Option<i64>,
    /// The only category it is for.
    pub category: Option<String>,
    /// Who pays for it.
    pub funder: Funder,
    /// Microseconds since 1970 (UTC).
    pub starts_at: i64,
    /// Microseconds since 1970 (UTC), exclusive.
    pub ends_at: i64,
    /// Microseconds since 1970 (UTC).
    pub created_at: i64,
}

impl Coupon {
    /// What it takes off lines in its scope that come to `eligible_fen`: nothing below the
    /// threshold, and never more than the lines.
    #[must_use]
    pub fn discount_for(&self, eligible_fen: i64) -> i64 {
        if eligible_fen <= 0 || eligible_fen < self.threshold_fen {
            return 0;
        }
        match self.kind {
            CouponKind::FullReduction => self.discount_fen.unwrap_or(0).min(eligible_fen),
            CouponKind::Percent => {
                let percent = i128::from(self.percent.unwrap_or(0).clamp(0, 100));
                let off = i128::from(eligible_fen) * percent / 100;
                let off = i64::try_from(off).expect("at most 100 per cent of a 64-bit amount");
                off.min(self.cap_fen.unwrap_or(i64::MAX))
            }
        }
    }
}

impl NewCoupon {
    fn check(&self) -> Result<(), OperationalError> {
        let full_reduction = self.kind == CouponKind::FullReduction;
        let problem = if self.name.trim().is_empty() {
            "a coupon needs a name"
        } else if self.threshold_fen < 0 {
            "threshold_fen must not be negative"
        } else if full_reduction != self.discount_fen.is_some() {
            "discount_fen goes with kind full_reduction, and only with it"
        } else if full_reduction == self.percent.is_some() {
            "percent goes with kind percent, and only with it"
        } else if self.discount_fen.is_some_and(|d| d <= 0) || self.cap_fen.is_some_and(|c| c <= 0)
        {
            "discount_fen and cap_fen must be positive"
        } else if self.percent.is_some_and(|p| !(1..=100).contains(&p)) {
            "percent must be between 1 and 100"
        } else if full_reduction && self.cap_fen.is_some() {
            "cap_fen goes with kind percent only"
        } else if self.ends_at <= self.starts_at {
            "ends_at must be after starts_at"
        } else {
            return Ok(());
        };
        Err(OperationalError::invalid(problem))
    }
}

/// Adds coupons in one statement and returns those that were added: one whose id exists already is
/// left as it is.
///
/// # Errors
/// `Invalid` when one of them breaks a rule of its fields.
pub async fn create_many(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &[NewCoupon],
) -> Result<Vec<Coupon>, OperationalError> {
    new.iter().try_for_each(NewCoupon::check)?;
    for coupon in new {
        check_time("starts_at", Some(coupon.starts_at))?;
        check_time("ends_at", Some(coupon.ends_at))?;
    }
    Ok(sqlx::query_as(
        "insert into coupon (coupon_id, tenant_id, name, kind, threshold_fen, discount_fen, percent,
             cap_fen, category, funder, starts_at, ends_at, created_at)
         select value ->> 'coupon_id', ?2, value ->> 'name', value ->> 'kind',
             value ->> 'threshold_fen', value ->> 'discount_fen', value ->> 'percent',
             value ->> 'cap_fen', value ->> 'category', value ->> 'funder', value ->> 'starts_at',
             value ->> 'ends_at', ?3
         from json_each(?1) where true order by key
         on conflict (coupon_id) do nothing
         returning *",
    )
    .bind(rows_json(new)?)
    .bind(scope.tenant_id)
    .bind(scope.now)
    .fetch_all(&mut **tx)
    .await?)
}

/// Adds one coupon.
///
/// # Errors
/// `Invalid` when it breaks a rule of its fields, `Conflict` when its id exists.
pub async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewCoupon,
) -> Result<Coupon, OperationalError> {
    create_many(tx, scope, &[new])
        .await?
        .pop()
        .ok_or_else(|| OperationalError::conflict("the coupon exists already"))
}

/// One coupon.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    connection: &mut SqliteConnection,
    tenant_id: i64,
    coupon_id: i64,
) -> Result<Coupon, OperationalError> {
    sqlx::query_as("select * from coupon where coupon_id = ?1 and tenant_id = ?2")
        .bind(coupon_id)
        .bind(tenant_id)
        .fetch_optional(connection)
        .await?
        .ok_or(OperationalError::not_found("coupon", coupon_id))
}

/// Coupons by id.
///
/// # Errors
/// When the database fails.
pub async fn list(
    connection: &mut SqliteConnection,
    tenant_id: i64,
    page: Page,
) -> Result<Vec<Coupon>, OperationalError> {
    Ok(sqlx::query_as(
        "select * from coupon where tenant_id = ?1 and coupon_id > ?2 order by coupon_id limit ?3",
    )
    .bind(tenant_id)
    .bind(page.after_id)
    .bind(page.rows())
    .fetch_all(connection)
    .await?)
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/mall/coupons", routing::post(post).get(get_all))
}

/// Add a coupon.
#[utoipa::path(post, path = "/mall/coupons", tag = "mall", request_body = NewCoupon,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Coupon), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewCoupon>,
) -> Result<Answer, Failure> {
    match begin(services.mall(), services.now(), command).await? {
        (Begun::Before(answer), _) => Ok(answer),
        (Begun::New(mut pending), new) => {
            let coupon = create(&mut pending.tx, pending.scope, new).await?;
            Ok(pending.finish(StatusCode::CREATED, &coupon).await?)
        }
    }
}

/// List coupons.
#[utoipa::path(get, path = "/mall/coupons", tag = "mall", params(Page),
    responses((status = 200, body = List<Coupon>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    Params(page): Params<Page>,
) -> Result<Json<List<Coupon>>, Failure> {
    let items = list(&mut *services.mall().read().await?, Scope::DEFAULT_TENANT, page).await?;
    Ok(Json(List { items }))
}
