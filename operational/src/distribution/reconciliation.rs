//! The ledger added up again, and held against everything else that knows of the same money.

use axum::{Json, Router, extract::State, routing};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    OperationalError, Scope, Services,
    database::{Connection, Micros, sql, words},
    http::{ErrorBody, Failure},
};

/// The most problems of one kind that a report lists.
const LISTED_MAX: usize = 100;

words! {
    /// What does not agree.
    pub enum DiscrepancyKind {
        /// The frozen amount of a beneficiary, with the ledger.
        FrozenBalance = "frozen_balance",
        /// The available amount of a beneficiary, with the ledger.
        AvailableBalance = "available_balance",
        /// The paid amount of a beneficiary, with the ledger.
        PaidBalance = "paid_balance",
        /// The withheld amount of a beneficiary, with the ledger.
        TaxBalance = "tax_balance",
        /// What was granted to a beneficiary, with what they hold in all accounts.
        GrantedSum = "granted_sum",
        /// What the commissions of a beneficiary come to, with the ledger.
        Commissions = "commissions",
        /// What of the commissions of a beneficiary is frozen, with the ledger.
        FrozenCommissions = "frozen_commissions",
        /// What was granted for the lines of orders or by hand, with the sum of adjustments.
        Adjustments = "adjustments",
        /// The commission of a line, with the most it may be.
        LineCap = "line_cap",
        /// What was paid out to a beneficiary, with the ledger.
        Payouts = "payouts",
        /// What was withheld from a beneficiary's payouts, with the ledger.
        Withheld = "withheld",
        /// A payout that is paid, with the channel's record of it.
        UnmatchedPayout = "unmatched_payout",
        /// A channel's record, with the payouts there are.
        UnmatchedRecord = "unmatched_record",
    }
}

/// Two amounts that should be the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Discrepancy {
    /// What does not agree.
    pub kind: DiscrepancyKind,
    /// The beneficiary; for `line_cap` the line of the order, for `unmatched_payout` the payout, for
    /// `unmatched_record` the record.
    pub id: i64,
    /// What it should be; for `line_cap` the most it may be.
    pub expected_fen: i64,
    /// What it is.
    pub found_fen: i64,
}

/// What the accounts of all beneficiaries come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
pub struct Totals {
    /// How many beneficiaries there are.
    pub beneficiaries: i64,
    /// What was granted to them, less what was taken back.
    pub granted_fen: i64,
    /// Of that, frozen.
    pub frozen_fen: i64,
    /// Of that, available.
    pub available_fen: i64,
    /// Of that, paid out.
    pub paid_fen: i64,
    /// Of that, withheld.
    pub tax_fen: i64,
}

/// Whether all that knows of the programme's money agrees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reconciliation {
    /// Microseconds since 1970 (UTC).
    pub checked_at: Micros,
    /// Whether there is no problem.
    pub balanced: bool,
    /// What the accounts come to.
    pub totals: Totals,
    /// Payouts that no channel has spoken of yet. No problem in themselves.
    pub pending_payouts: i64,
    /// What does not agree, at most a hundred of a kind.
    pub problems: Vec<Discrepancy>,
}

/// The balance of an account by the ledger.
fn of_ledger(account: &str) -> String {
    format!(
        "cast(coalesce(sum(case when e.to_account = '{account}' then e.amount_fen
             when e.from_account = '{account}' then -e.amount_fen else 0 end), 0) as signed)"
    )
}

/// Statements that give a thing's id, what its amount should be and what it is.
fn checks() -> Vec<(DiscrepancyKind, String)> {
    let balance = |kind, account: &str| {
        let expected = of_ledger(account);
        let text = format!(
            "select b.beneficiary_id, {expected}, b.{account}_fen
             from commission_balance b
             left join commission_entry e on e.beneficiary_id = b.beneficiary_id
             where b.tenant_id = ?1 group by b.beneficiary_id, b.{account}_fen"
        );
        (kind, text)
    };
    // Amounts of two tables by beneficiary: what the ledger says, and what the other one does.
    let by_beneficiary = |kind, ledger: &str, other: &str, of: &str| {
        let text = format!(
            "select b.beneficiary_id,
                 cast(coalesce((select sum(e.amount_fen) from commission_entry e
                     where e.beneficiary_id = b.beneficiary_id and {ledger}), 0) as signed),
                 cast(coalesce((select sum({other}) from {of}), 0) as signed)
             from commission_balance b where b.tenant_id = ?1"
        );
        (kind, text)
    };
    vec![
        balance(DiscrepancyKind::FrozenBalance, "frozen"),
        balance(DiscrepancyKind::AvailableBalance, "available"),
        balance(DiscrepancyKind::PaidBalance, "paid"),
        balance(DiscrepancyKind::TaxBalance, "tax"),
        by_beneficiary(
            DiscrepancyKind::GrantedSum,
            "e.from_account = 'granted'",
            "t.frozen_fen + t.available_fen + t.paid_fen + t.tax_fen",
            "commission_balance t where t.beneficiary_id = b.beneficiary_id",
        ),
        by_beneficiary(
            DiscrepancyKind::Commissions,
            "e.event_type in ('accrue', 'reverse')",
            "c.booked_fen - c.reversed_fen",
            "commission c where c.beneficiary_id = b.beneficiary_id",
        ),
        by_beneficiary(
            DiscrepancyKind::FrozenCommissions,
            "e.event_type in ('accrue', 'reverse') and e.commission_id in
                 (select f.commission_id from commission f where f.released_at is null)",
            "c.booked_fen - c.reversed_fen",
            "commission c where c.beneficiary_id = b.beneficiary_id and c.status = 'frozen'",
        ),
        by_beneficiary(
            DiscrepancyKind::Adjustments,
            "e.event_type = 'adjust'",
            "a.amount_fen",
            "adjustment a where a.beneficiary_id = b.beneficiary_id",
        ),
        by_beneficiary(
            DiscrepancyKind::Payouts,
            "e.event_type = 'payout'",
            "p.net_fen",
            "payout p where p.beneficiary_id = b.beneficiary_id and p.status = 'paid'",
        ),
        by_beneficiary(
            DiscrepancyKind::Withheld,
            "e.event_type = 'tax'",
            "p.tax_fen",
            "payout p where p.beneficiary_id = b.beneficiary_id and p.status = 'paid'",
        ),
        (
            DiscrepancyKind::UnmatchedPayout,
            "select p.payout_id, p.net_fen,
                 cast(coalesce((select sum(r.amount_fen) from channel_record r
                     where r.payout_id = p.payout_id and r.outcome = 'succeeded'), 0) as signed)
             from payout p where p.tenant_id = ?1 and p.status = 'paid'"
                .to_owned(),
        ),
        (
            DiscrepancyKind::UnmatchedRecord,
            "select r.channel_record_id, 0, r.amount_fen from channel_record r
             where r.tenant_id = ?1 and r.payout_id is null and r.outcome = 'succeeded'"
                .to_owned(),
        ),
    ]
}

/// Lines whose levels together earn more than the cap they were booked under.
const OVER_CAP: &str = "select order_line_id,
         cast(max(base_fen * cap_bp - (base_fen * cap_bp) % 10000) / 10000 as signed),
         cast(sum(booked_fen) as signed)
     from commission where tenant_id = ?1 group by order_line_id
     having sum(booked_fen) * 10000 > max(base_fen * cap_bp)";

/// Adds everything up at one moment, and tells what does not agree.
///
/// # Errors
/// When the database fails.
pub async fn reconcile(
    connection: &mut Connection,
    scope: Scope,
) -> Result<Reconciliation, OperationalError> {
    let mut problems = Vec::new();
    let mut checks = checks();
    checks.push((DiscrepancyKind::LineCap, OVER_CAP.to_owned()));
    for (kind, text) in checks {
        let rows: Vec<(i64, i64, i64)> = sql(format!(
            "select id, expected, found from (select 0 as id, 0 as expected, 0 as found
                 union all {text}) compared where expected <> found order by id limit ?2"
        ))
        .bind(scope.tenant_id)
        .bind(i64::try_from(LISTED_MAX).unwrap_or(i64::MAX))
        .all(connection)
        .await?;
        problems.extend(rows.into_iter().map(|(id, expected_fen, found_fen)| Discrepancy {
            kind,
            id,
            expected_fen,
            found_fen,
        }));
    }
    let totals = sql("select count(*) as beneficiaries,
             cast(coalesce(sum(frozen_fen + available_fen + paid_fen + tax_fen), 0) as signed)
                 as granted_fen,
             cast(coalesce(sum(frozen_fen), 0) as signed) as frozen_fen,
             cast(coalesce(sum(available_fen), 0) as signed) as available_fen,
             cast(coalesce(sum(paid_fen), 0) as signed) as paid_fen,
             cast(coalesce(sum(tax_fen), 0) as signed) as tax_fen
         from commission_balance where tenant_id = ?1")
    .bind(scope.tenant_id)
    .one(connection)
    .await?;
    let pending_payouts =
        sql("select count(*) from payout where tenant_id = ?1 and status = 'pending'")
            .bind(scope.tenant_id)
            .value(connection)
            .await?;
    Ok(Reconciliation {
        checked_at: Micros(scope.now),
        balanced: problems.is_empty(),
        totals,
        pending_payouts,
        problems,
    })
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/distribution/reconciliation", routing::get(get))
}

/// Whether the ledger, the balances, the commissions, the payouts and the channels' records agree.
#[utoipa::path(get, path = "/distribution/reconciliation", tag = "distribution",
    responses((status = 200, body = Reconciliation), (status = "default", body = ErrorBody)))]
pub(crate) async fn get(
    State(services): State<Services>,
    scope: Scope,
) -> Result<Json<Reconciliation>, Failure> {
    Ok(Json(reconcile(&mut *services.distribution().read().await?, scope).await?))
}
