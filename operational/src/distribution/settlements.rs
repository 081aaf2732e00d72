//! What beneficiaries are owed for a month: what became available up to its end and is still there. A
//! month is settled once for each of them, however often it is asked for.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use chrono::{Datelike, NaiveDate};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{distributors, ledger, settings};
use crate::{
    Limit, OperationalError, Scope, Services, WriteTransaction,
    calendar::{DAY_MICROS, SHANGHAI_MICROS, midnight},
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
};

/// The most beneficiaries that one request settles.
const SETTLED_AT_ONCE: usize = 1_000;

words! {
    /// Whether a settlement was paid out.
    pub enum SettlementStatus {
        /// Not yet.
        Open = "open",
        /// It was.
        Paid = "paid",
    }
}

record! {
    /// What a beneficiary is owed for a month.
    pub struct Settlement in "settlement" {
        /// Its id.
        pub settlement_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The month, such as `2026-11`.
        pub period: String,
        /// Who is owed.
        pub beneficiary_id: i64,
        /// How much, before tax.
        pub amount_fen: i64,
        /// Whether it was paid out.
        pub status: SettlementStatus,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub paid_at: Option<Micros>,
    }
}

/// Which month is settled.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSettlements {
    /// The month, in Asia/Shanghai.
    #[schema(example = "2026-11", pattern = "^(19[7-9][0-9]|[2-9][0-9]{3})-(0[1-9]|1[0-2])$")]
    pub period: String,
    /// Only beneficiaries with a higher id.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub after_id: i64,
}

/// What was settled.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Settled {
    /// The settlements that were made now.
    pub items: Vec<Settlement>,
    /// Where to go on, when there may be more.
    pub next_after_id: Option<i64>,
}

/// The end of a month in Asia/Shanghai, exclusive, in microseconds since 1970 (UTC).
fn end_of(period: &str) -> Result<i64, OperationalError> {
    let first = (period.len() == 7)
        .then(|| NaiveDate::parse_from_str(&format!("{period}-01"), "%Y-%m-%d").ok())
        .flatten()
        .filter(|day| (1970..=9998).contains(&day.year()) && month_of_day(*day) == period);
    let next = first.and_then(|day| day.checked_add_months(chrono::Months::new(1)));
    let next =
        next.ok_or_else(|| OperationalError::invalid("period must be a month such as 2026-11"))?;
    Ok(midnight(next))
}

fn month_of_day(day: NaiveDate) -> String {
    day.format("%Y-%m").to_string()
}

/// The month of a moment in Asia/Shanghai, such as `2026-11`.
pub(crate) fn month_of(at_micros: i64) -> String {
    let days = (at_micros + SHANGHAI_MICROS).div_euclid(DAY_MICROS);
    let day = NaiveDate::default() + chrono::TimeDelta::days(days);
    month_of_day(day)
}

/// Settles a month for those who have something to be paid and no settlement of it yet. Who is suspended
/// waits, and so does what is less than the settings pay out.
///
/// # Errors
/// `Invalid` for a period that is no month; `Conflict` for one that is not over.
pub async fn settle(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewSettlements,
) -> Result<Settled, OperationalError> {
    let end = end_of(&new.period)?;
    if new.after_id < 0 {
        return Err(OperationalError::invalid("after_id must be at least 0"));
    }
    if scope.now < end {
        return Err(OperationalError::conflict(format!("period {} is not over", new.period)));
    }
    let least_fen = settings::at(tx, scope).await?.payout_min_fen;
    let candidates: Vec<(i64,)> = sql("select b.beneficiary_id from commission_balance b
         join distributor d on d.distributor_id = b.beneficiary_id
         where b.tenant_id = ?1 and b.beneficiary_id > ?2 and b.available_fen >= ?3
           and d.status in ('active', 'left')
           and not exists (select 1 from settlement s where s.tenant_id = b.tenant_id
               and s.period = ?4 and s.beneficiary_id = b.beneficiary_id)
         order by b.beneficiary_id limit ?5")
    .bind(scope.tenant_id)
    .bind(new.after_id)
    .bind(least_fen)
    .bind(&new.period)
    .bind(i64::try_from(SETTLED_AT_ONCE).unwrap_or(i64::MAX))
    .all(tx)
    .await?;
    let next_after_id = (candidates.len() == SETTLED_AT_ONCE)
        .then(|| candidates.last().map(|(last,)| *last))
        .flatten();
    let mut items = Vec::with_capacity(candidates.len());
    for (beneficiary_id,) in candidates {
        // From here on nobody else settles them, so what is found stays so.
        let balance = ledger::hold(tx, scope.tenant_id, beneficiary_id).await?;
        let taken_fen = taken(tx, beneficiary_id, &new.period, end).await?;
        let amount_fen = balance.available_fen - taken_fen.unwrap_or(balance.available_fen);
        if amount_fen < least_fen {
            continue;
        }
        let settlement = Settlement {
            settlement_id: tx.id::<Settlement>(None).await?,
            tenant_id: scope.tenant_id,
            period: new.period.clone(),
            beneficiary_id,
            amount_fen,
            status: SettlementStatus::Open,
            created_at: Micros(scope.now),
            paid_at: None,
        };
        insert_one(tx, &settlement).await?;
        items.push(settlement);
    }
    Ok(Settled { items, next_after_id })
}

/// What of the available is not of this period: settled and not yet paid out, or available only since the
/// period's end. None when the period is settled already.
async fn taken(
    tx: &mut WriteTransaction,
    beneficiary_id: i64,
    period: &str,
    end: i64,
) -> Result<Option<i64>, OperationalError> {
    let settled: bool = sql("select exists (select 1 from settlement
         where beneficiary_id = ?1 and period = ?2)")
    .bind(beneficiary_id)
    .bind(period)
    .value(tx)
    .await?;
    if settled {
        return Ok(None);
    }
    let open: i64 = sql("select cast(coalesce(sum(amount_fen), 0) as signed) from settlement
         where beneficiary_id = ?1 and status = 'open'")
    .bind(beneficiary_id)
    .value(tx)
    .await?;
    // What is left of it: a refund since then has taken its part already.
    let since: i64 = sql("select cast(coalesce((select sum(booked_fen - reversed_fen)
             from commission where beneficiary_id = ?1 and released_at >= ?2), 0)
         + coalesce((select sum(amount_fen) from adjustment
             where beneficiary_id = ?1 and amount_fen > 0 and created_at >= ?2), 0) as signed)")
    .bind(beneficiary_id)
    .bind(Micros(end))
    .value(tx)
    .await?;
    Ok(Some(open + since))
}

/// One settlement, of whoever asks if they are not staff.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    connection: &mut Connection,
    scope: Scope,
    settlement_id: i64,
) -> Result<Settlement, OperationalError> {
    let settlement: Settlement =
        sql("select * from settlement where settlement_id = ?1 and tenant_id = ?2")
            .bind(settlement_id)
            .bind(scope.tenant_id)
            .first(connection)
            .await?
            .ok_or(OperationalError::not_found("settlement", settlement_id))?;
    let owner = distributors::find(connection, scope.tenant_id, settlement.beneficiary_id).await?;
    scope.check_owner(owner.person_id, "settlement", settlement_id)?;
    Ok(settlement)
}

/// Which settlements.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    /// Of this month.
    period: Option<String>,
    /// Of this beneficiary.
    beneficiary_id: Option<i64>,
    /// Of this state.
    status: Option<SettlementStatus>,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/distribution/settlements", routing::get(get_all).post(post))
        .route("/distribution/settlements/{id}", routing::get(get_one))
}

/// Settlements in the order of their ids.
#[utoipa::path(get, path = "/distribution/settlements", tag = "distribution", params(Which),
    responses((status = 200, body = List<Settlement>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(which): Params<Which>,
) -> Result<Json<List<Settlement>>, Failure> {
    let items = sql("select s.* from settlement s
         join distributor d on d.distributor_id = s.beneficiary_id
         where s.tenant_id = ?1 and s.settlement_id > ?2 and (?3 is null or s.period = ?3)
           and (?4 is null or s.beneficiary_id = ?4) and (?5 is null or s.status = ?5)
           and (?6 is null or d.person_id = ?6)
         order by s.settlement_id limit ?7")
    .bind(scope.tenant_id)
    .bind(which.after_id)
    .bind(which.period)
    .bind(which.beneficiary_id)
    .bind(which.status)
    .bind(scope.only_person())
    .bind(which.limit.rows())
    .all(&mut *services.distribution().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// A settlement.
#[utoipa::path(get, path = "/distribution/settlements/{id}", tag = "distribution",
    params(("id" = i64, Path)),
    responses((status = 200, body = Settlement), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(settlement_id): Id,
) -> Result<Json<Settlement>, Failure> {
    let mut connection = services.distribution().read().await?;
    Ok(Json(find(&mut connection, scope, settlement_id).await?))
}

/// Settle a month that is over, once for each beneficiary.
#[utoipa::path(post, path = "/distribution/settlements", tag = "distribution",
    request_body = NewSettlements, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Settled), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewSettlements>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.distribution(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(settle(tx, scope, new)),
        )
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_ends_at_midnight_in_shanghai() {
        // 2026-11-30T16:00:00Z.
        assert_eq!(end_of("2026-11").unwrap(), 1_796_054_400_000_000);
        assert_eq!(month_of(1_796_054_400_000_000 - 1), "2026-11");
        assert_eq!(month_of(1_796_054_400_000_000), "2026-12");
        for wrong in
            ["", "2026-13", "2026-1", "2026-1-", "26-11-01", "+2026-1", "9999-12", "2026-11-01"]
        {
            assert!(end_of(wrong).is_err(), "{wrong}");
        }
    }
}
