//! Commission rules: a rate or a fixed amount for a level, for one product or for all others. A rule
//! is never edited: a newer one takes its place for orders paid from then on.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::commission_math::Terms;
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql},
    http::{Answer, Command, ErrorBody, Failure, List, Page, Params},
};

/// A rule to be added.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRule {
    /// The product it is for; all that have none of their own when left out.
    #[schema(minimum = 1)]
    pub product_id: Option<i64>,
    /// 1 for the buyer's distributor, 2 for the one who brought that one in.
    #[schema(minimum = 1, maximum = 2)]
    pub level: i64,
    /// Share of what was paid, in hundredths of a per cent.
    #[schema(minimum = 0, maximum = 10_000)]
    pub rate_bp: Option<i64>,
    /// Fixed amount a line, which beats the rate; 0 means none.
    #[schema(minimum = 0)]
    pub fixed_fen: Option<i64>,
}

record! {
    /// A rule.
    pub struct Rule in "commission_rule" {
        /// Its id.
        pub rule_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The product it is for.
        pub product_id: Option<i64>,
        /// The level.
        pub level: i64,
        /// Share of what was paid, in hundredths of a per cent.
        pub rate_bp: Option<i64>,
        /// Fixed amount a line.
        pub fixed_fen: Option<i64>,
        /// From when it holds, in microseconds since 1970 (UTC).
        pub created_at: Micros,
    }
}

impl Rule {
    /// What it gives.
    #[must_use]
    pub const fn terms(&self) -> Terms {
        Terms { rate_bp: self.rate_bp, fixed_fen: self.fixed_fen }
    }
}

/// Adds a rule, which holds for orders paid from now on.
///
/// # Errors
/// `Invalid` for a level above 2, or a rate or amount outside its range.
pub async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewRule,
) -> Result<Rule, OperationalError> {
    let problem = if !(1..=2).contains(&new.level) {
        Some("level must be 1 or 2: no more than two levels are ever paid")
    } else if new.product_id.is_some_and(|id| id < 1) {
        Some("product_id must be at least 1")
    } else if new.rate_bp.is_some_and(|rate| !(0..=10_000).contains(&rate)) {
        Some("rate_bp must be between 0 and 10000")
    } else if new.fixed_fen.is_some_and(|fixed| fixed < 0) {
        Some("fixed_fen must not be negative")
    } else {
        None
    };
    if let Some(problem) = problem {
        return Err(OperationalError::invalid(problem));
    }
    let rule = Rule {
        rule_id: tx.id::<Rule>(None).await?,
        tenant_id: scope.tenant_id,
        product_id: new.product_id,
        level: new.level,
        rate_bp: new.rate_bp,
        fixed_fen: new.fixed_fen,
        created_at: Micros(scope.now),
    };
    insert_one(tx, &rule).await?;
    Ok(rule)
}

/// The rules that may apply to these products at the time of `scope`, the newest last.
pub(crate) async fn for_products(
    connection: &mut Connection,
    scope: Scope,
    product_ids: &[i64],
) -> Result<Vec<Rule>, OperationalError> {
    sql("select * from commission_rule
         where tenant_id = ?1 and created_at <= ?2
           and (product_id is null or product_id in {list})
         order by created_at, rule_id")
    .bind(scope.tenant_id)
    .bind(Micros(scope.now))
    .list(product_ids.iter().copied())
    .all(connection)
    .await
}

/// The terms of a product's newest rule of that level, or else of the newest one for all products.
pub(crate) fn terms_of(rules: &[Rule], product_id: i64, level: i64) -> Terms {
    let newest = |product: Option<i64>| {
        rules.iter().rev().find(|r| r.level == level && r.product_id == product)
    };
    newest(Some(product_id)).or_else(|| newest(None)).map_or_else(Terms::default, Rule::terms)
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/distribution/commission-rules", routing::get(get_all).post(post))
}

/// Commission rules in the order of their ids; of those for one product or for all others the newest holds.
#[utoipa::path(get, path = "/distribution/commission-rules", tag = "distribution", params(Page),
    responses((status = 200, body = List<Rule>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(page): Params<Page>,
) -> Result<Json<List<Rule>>, Failure> {
    let items = sql("select * from commission_rule where tenant_id = ?1 and rule_id > ?2
         order by rule_id limit ?3")
    .bind(scope.tenant_id)
    .bind(page.after_id)
    .bind(page.limit.rows())
    .all(&mut *services.distribution().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// Add a commission rule.
#[utoipa::path(post, path = "/distribution/commission-rules", tag = "distribution",
    request_body = NewRule, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Rule), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewRule>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.distribution(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(create(tx, scope, *new)),
        )
        .await
}
