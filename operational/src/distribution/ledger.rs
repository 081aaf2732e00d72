//! The ledger of the programme: append-only, double entry.
//!
//! An entry moves an amount from one account of a beneficiary to another, so whatever happens, what they
//! hold adds up to what was granted to them: `granted = frozen + available + paid + tax`. The balance of
//! each account is kept beside it, changed in the same transaction; [`reconciliation`](super::reconciliation)
//! adds it all up again.

use std::collections::BTreeMap;

use axum::{Json, Router, extract::State, routing};
use serde::Deserialize;
use utoipa::IntoParams;

use super::distributors;
use crate::{
    Limit, OperationalError, Scope, Services, WriteTransaction,
    database::{Micros, insert, insert_one, record, sql, words},
    http::{ErrorBody, Failure, Id, List, Page, Params},
};

words! {
    /// What happened to an amount.
    pub enum EventType {
        /// Granted when an order was paid, and frozen.
        Accrue = "accrue",
        /// No longer frozen: the line can be returned no more.
        Release = "release",
        /// Taken back, because of a refund.
        Reverse = "reverse",
        /// Paid out, after tax.
        Payout = "payout",
        /// Withheld from a payout.
        Tax = "tax",
        /// Granted or taken back by a person.
        Adjust = "adjust",
    }
}

words! {
    /// Where an amount is.
    pub enum LedgerAccount {
        /// With the programme: what it granted stands here with the other sign.
        Granted = "granted",
        /// Earned, and not to be had yet.
        Frozen = "frozen",
        /// To be paid out by the next settlement. Below zero when more was taken back than was left.
        Available = "available",
        /// Paid out.
        Paid = "paid",
        /// Withheld.
        Tax = "tax",
    }
}

record! {
    /// A row of the ledger. What is of no line has line 0 and level 0.
    pub struct Entry in "commission_entry" {
        /// Its id.
        pub entry_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The commission it changes.
        pub commission_id: Option<i64>,
        /// The line of an order.
        pub order_line_id: i64,
        /// Whose it is.
        pub beneficiary_id: i64,
        /// The level.
        pub level: i64,
        /// What happened.
        pub event_type: EventType,
        /// How much moved; below zero what is taken back.
        pub amount_fen: i64,
        /// What caused it, such as `refund:7`. One cause makes one entry of a kind.
        pub source_event_id: String,
        /// Microseconds since 1970 (UTC).
        pub occurred_at: Micros,
        /// Where from.
        pub from_account: LedgerAccount,
        /// Where to.
        pub to_account: LedgerAccount,
    }
}

record! {
    /// What a beneficiary holds.
    pub struct Balance in "commission_balance" {
        /// Whose.
        pub beneficiary_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// Earned, and not to be had yet.
        pub frozen_fen: i64,
        /// To be paid out. Below zero when more was taken back than was left.
        pub available_fen: i64,
        /// Paid out.
        pub paid_fen: i64,
        /// Withheld.
        pub tax_fen: i64,
        /// Microseconds since 1970 (UTC).
        pub updated_at: Micros,
    }
}

/// Opens the accounts of a distributor, with nothing in them.
pub(crate) async fn open(
    tx: &mut WriteTransaction,
    scope: Scope,
    beneficiary_id: i64,
) -> Result<(), OperationalError> {
    let balance = Balance {
        beneficiary_id,
        tenant_id: scope.tenant_id,
        frozen_fen: 0,
        available_fen: 0,
        paid_fen: 0,
        tax_fen: 0,
        updated_at: Micros(scope.now),
    };
    insert_one(tx, &balance).await
}

/// What a beneficiary holds, which nobody else changes before the end of the transaction.
pub(crate) async fn hold(
    tx: &mut WriteTransaction,
    tenant_id: i64,
    beneficiary_id: i64,
) -> Result<Balance, OperationalError> {
    sql("select * from commission_balance where beneficiary_id = ?1 and tenant_id = ?2 for update")
        .bind(beneficiary_id)
        .bind(tenant_id)
        .first(tx)
        .await?
        .ok_or(OperationalError::not_found("distributor", beneficiary_id))
}

/// Writes entries, whose ids are given here, and changes the balances with them.
///
/// # Errors
/// `Taken` when one is there already: whoever calls this looks first.
pub(crate) async fn post(
    tx: &mut WriteTransaction,
    scope: Scope,
    mut entries: Vec<Entry>,
) -> Result<(), OperationalError> {
    if entries.is_empty() {
        return Ok(());
    }
    let ids = tx.ids::<Entry>(entries.iter().map(|_| None)).await?;
    // By beneficiary, in the order of their ids: two transactions never wait for each other crosswise.
    let mut moved: BTreeMap<i64, [i64; 4]> = BTreeMap::new();
    for (entry, entry_id) in entries.iter_mut().zip(ids) {
        entry.entry_id = entry_id;
        let of = moved.entry(entry.beneficiary_id).or_default();
        for (account, change) in
            [(entry.from_account, -entry.amount_fen), (entry.to_account, entry.amount_fen)]
        {
            match account {
                LedgerAccount::Granted => {}
                LedgerAccount::Frozen => of[0] += change,
                LedgerAccount::Available => of[1] += change,
                LedgerAccount::Paid => of[2] += change,
                LedgerAccount::Tax => of[3] += change,
            }
        }
    }
    insert(tx, &entries).await?;
    for (beneficiary_id, [frozen, available, paid, tax]) in moved {
        sql("update commission_balance set frozen_fen = frozen_fen + ?2,
                 available_fen = available_fen + ?3, paid_fen = paid_fen + ?4,
                 tax_fen = tax_fen + ?5, updated_at = ?6
             where beneficiary_id = ?1")
        .bind(beneficiary_id)
        .bind(frozen)
        .bind(available)
        .bind(paid)
        .bind(tax)
        .bind(Micros(scope.now))
        .execute(tx)
        .await?;
    }
    Ok(())
}

/// Which part of whose ledger.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfBeneficiary {
    beneficiary_id: i64,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/distribution/balances", routing::get(get_balances))
        .route("/distribution/distributors/{id}/balance", routing::get(get_balance))
        .route("/distribution/entries", routing::get(get_entries))
}

/// What each beneficiary holds, in the order of their ids.
#[utoipa::path(get, path = "/distribution/balances", tag = "distribution", params(Page),
    responses((status = 200, body = List<Balance>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_balances(
    State(services): State<Services>,
    scope: Scope,
    Params(page): Params<Page>,
) -> Result<Json<List<Balance>>, Failure> {
    let items = sql("select b.* from commission_balance b
         join distributor d on d.distributor_id = b.beneficiary_id
         where b.tenant_id = ?1 and b.beneficiary_id > ?2 and (?3 is null or d.person_id = ?3)
         order by b.beneficiary_id limit ?4")
    .bind(scope.tenant_id)
    .bind(page.after_id)
    .bind(scope.only_person())
    .bind(page.limit.rows())
    .all(&mut *services.distribution().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// What a distributor holds.
#[utoipa::path(get, path = "/distribution/distributors/{id}/balance", tag = "distribution",
    params(("id" = i64, Path)),
    responses((status = 200, body = Balance), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_balance(
    State(services): State<Services>,
    scope: Scope,
    Id(distributor_id): Id,
) -> Result<Json<Balance>, Failure> {
    let mut connection = services.distribution().read().await?;
    let owner = distributors::find(&mut connection, scope.tenant_id, distributor_id).await?;
    scope.check_owner(owner.person_id, "distributor", distributor_id)?;
    let balance = sql("select * from commission_balance where beneficiary_id = ?1")
        .bind(distributor_id)
        .one(&mut connection)
        .await?;
    Ok(Json(balance))
}

/// The ledger of a beneficiary, in the order it was written.
#[utoipa::path(get, path = "/distribution/entries", tag = "distribution", params(OfBeneficiary),
    responses((status = 200, body = List<Entry>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_entries(
    State(services): State<Services>,
    scope: Scope,
    Params(of): Params<OfBeneficiary>,
) -> Result<Json<List<Entry>>, Failure> {
    let mut connection = services.distribution().read().await?;
    let owner = distributors::find(&mut connection, scope.tenant_id, of.beneficiary_id).await?;
    scope.check_owner(owner.person_id, "distributor", of.beneficiary_id)?;
    let items = sql("select * from commission_entry where beneficiary_id = ?1 and entry_id > ?2
         order by entry_id limit ?3")
    .bind(of.beneficiary_id)
    .bind(of.after_id)
    .bind(of.limit.rows())
    .all(&mut connection)
    .await?;
    Ok(Json(List { items }))
}
