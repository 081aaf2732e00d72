//! Coupons: 满减 and percentages, who pays for them and what they are limited to.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::limits::{check_optional_text, check_text};
use crate::{
    OperationalError, Page, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_missing, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Nothing, Params},
    scope::check_time,
};

words! {
    /// How a coupon takes money off.
    pub enum CouponKind {
        /// A fixed amount, `discount_fen`, from a threshold on (满减).
        FullReduction = "full_reduction",
        /// `percent` per cent off, at most `cap_fen`.
        Percent = "percent",
    }
}

words! {
    /// Who pays for a discount.
    pub enum Funder {
        /// The pharmacy.
        Merchant = "merchant",
        /// The mall.
        Platform = "platform",
    }
}

/// The most that are claimed of one coupon.
const CLAIMS_MAX: i64 = 1_000_000_000;

/// A coupon to be added.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCoupon {
    /// Its id, where one is recorded; otherwise the next free one.
    #[serde(skip_deserializing)]
    #[schema(ignore)]
    pub coupon_id: Option<i64>,
    /// Its name.
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// How it takes money off.
    pub kind: CouponKind,
    /// What the lines in its scope must come to.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub threshold_fen: i64,
    /// What a full reduction takes off.
    #[schema(minimum = 1)]
    pub discount_fen: Option<i64>,
    /// What a percentage takes off, 1 to 100.
    #[schema(minimum = 1, maximum = 100)]
    pub percent: Option<i64>,
    /// The most a percentage takes off.
    #[schema(minimum = 1)]
    pub cap_fen: Option<i64>,
    /// The only category it is for; all when left out.
    #[schema(min_length = 1, max_length = 255)]
    pub category: Option<String>,
    /// Who pays for it.
    pub funder: Funder,
    /// Whether a buyer must have claimed it before; otherwise anyone may use it, any number of times.
    #[serde(default)]
    pub claim_needed: bool,
    /// How many may be claimed.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    pub claim_limit: Option<i64>,
    /// How many one person may claim.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    pub claim_limit_per_person: Option<i64>,
    /// For how many days a claimed one may be used, at most until `ends_at`.
    #[schema(minimum = 1, maximum = 3_660)]
    pub claim_valid_days: Option<i64>,
    /// From when it may be used, in microseconds since 1970 (UTC).
    #[schema(minimum = 0, maximum = 253_402_300_799_999_999_i64)]
    pub starts_at: i64,
    /// Until when, exclusive.
    #[schema(minimum = 0, maximum = 253_402_300_799_999_999_i64)]
    pub ends_at: i64,
}

record! {
    /// A coupon.
    pub struct Coupon in "coupon" {
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
        /// Whether a buyer must have claimed it before.
        pub claim_needed: bool,
        /// How many may be claimed.
        pub claim_limit: Option<i64>,
        /// How many one person may claim.
        pub claim_limit_per_person: Option<i64>,
        /// For how many days a claimed one may be used.
        pub claim_valid_days: Option<i64>,
        /// How many were claimed.
        pub claimed_count: i64,
        /// Microseconds since 1970 (UTC).
        pub starts_at: Micros,
        /// Microseconds since 1970 (UTC), exclusive.
        pub ends_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
    }
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
        check_text("name", &self.name)?;
        check_optional_text("category", self.category.as_deref())?;
        let claims = [self.claim_limit, self.claim_limit_per_person, self.claim_valid_days];
        let problem = if self.threshold_fen < 0 {
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
        } else if !self.claim_needed && claims.iter().any(Option::is_some) {
            "limits of claims go with claim_needed only"
        } else if claims.iter().flatten().any(|limit| !(1..=CLAIMS_MAX).contains(limit)) {
            "limits of claims must be between 1 and 1000000000"
        } else if self.claim_valid_days.is_some_and(|days| days > 3_660) {
            "claim_valid_days must be at most 3660"
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
    let ids = tx.ids::<Coupon>(new.iter().map(|c| c.coupon_id)).await?;
    let rows = ids.into_iter().zip(new).map(|(coupon_id, new)| Coupon {
        coupon_id,
        tenant_id: scope.tenant_id,
        name: new.name.clone(),
        kind: new.kind,
        threshold_fen: new.threshold_fen,
        discount_fen: new.discount_fen,
        percent: new.percent,
        cap_fen: new.cap_fen,
        category: new.category.clone(),
        funder: new.funder,
        claim_needed: new.claim_needed,
        claim_limit: new.claim_limit,
        claim_limit_per_person: new.claim_limit_per_person,
        claim_valid_days: new.claim_valid_days,
        claimed_count: 0,
        starts_at: Micros(new.starts_at),
        ends_at: Micros(new.ends_at),
        created_at: Micros(scope.now),
    });
    insert_missing(tx, rows.collect()).await
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
    connection: &mut Connection,
    tenant_id: i64,
    coupon_id: i64,
) -> Result<Coupon, OperationalError> {
    sql("select * from coupon where coupon_id = ?1 and tenant_id = ?2")
        .bind(coupon_id)
        .bind(tenant_id)
        .first(connection)
        .await?
        .ok_or(OperationalError::not_found("coupon", coupon_id))
}

/// Coupons by id.
///
/// # Errors
/// When the database fails.
pub async fn list(
    connection: &mut Connection,
    tenant_id: i64,
    page: Page,
) -> Result<Vec<Coupon>, OperationalError> {
    sql("select * from coupon where tenant_id = ?1 and coupon_id > ?2 order by coupon_id limit ?3")
        .bind(tenant_id)
        .bind(page.after_id)
        .bind(page.limit.rows())
        .all(connection)
        .await
}

/// Ends a coupon now: it can neither be claimed nor used from here on. What orders used stays used.
///
/// # Errors
/// `NotFound`; `Conflict` when it has ended already.
pub async fn end(
    tx: &mut WriteTransaction,
    scope: Scope,
    coupon_id: i64,
) -> Result<Coupon, OperationalError> {
    find(tx, scope.tenant_id, coupon_id).await?;
    let ended =
        sql("update coupon set ends_at = case when starts_at > ?2 then starts_at else ?2 end
         where coupon_id = ?1 and ends_at > ?2")
        .bind(coupon_id)
        .bind(Micros(scope.now))
        .execute(tx)
        .await?;
    if ended == 0 {
        return Err(OperationalError::conflict(format!("coupon {coupon_id} has ended")));
    }
    find(tx, scope.tenant_id, coupon_id).await
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/mall/coupons", routing::post(post).get(get_all))
        .route("/mall/coupons/{id}", routing::get(get_one))
        .route("/mall/coupons/{id}/end", routing::post(post_end))
}

/// Add a coupon.
#[utoipa::path(post, path = "/mall/coupons", tag = "mall", request_body = NewCoupon,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Coupon), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewCoupon>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::CREATED, |tx, scope, new| {
            Box::pin(create(tx, scope, new.clone()))
        })
        .await
}

/// List coupons.
#[utoipa::path(get, path = "/mall/coupons", tag = "mall", params(Page),
    responses((status = 200, body = List<Coupon>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(page): Params<Page>,
) -> Result<Json<List<Coupon>>, Failure> {
    let items = list(&mut *services.mall().read().await?, scope.tenant_id, page).await?;
    Ok(Json(List { items }))
}

/// A coupon.
#[utoipa::path(get, path = "/mall/coupons/{id}", tag = "mall", params(("id" = i64, Path)),
    responses((status = 200, body = Coupon), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(coupon_id): Id,
) -> Result<Json<Coupon>, Failure> {
    let mut tx = services.mall().read().await?;
    Ok(Json(find(&mut tx, scope.tenant_id, coupon_id).await?))
}

/// End a coupon now.
#[utoipa::path(post, path = "/mall/coupons/{id}/end", tag = "mall", request_body = Nothing,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Coupon), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_end(
    State(services): State<Services>,
    Id(coupon_id): Id,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::OK, |tx, scope, _| {
            Box::pin(end(tx, scope, coupon_id))
        })
        .await
}
