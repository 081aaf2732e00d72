//! Payment of settlements: tax is withheld, the channel is asked to pay the rest, and what the channel
//! says it did is matched to what it was asked. The ledger knows of a payout only by such a record.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    distributors::{self, Distributor, DistributorKind, TaxRegime},
    ledger::{self, Entry, EventType, LedgerAccount},
    settings::{self, PersonalTax},
    settlements::{self, Settlement, SettlementStatus},
    withholding,
};
use crate::{
    Limit, OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
    names::is_name,
    scope::check_time,
};

const CHANNEL_LENGTH_MAX: usize = 32;
const NUMBER_LENGTH_MAX: usize = 64;

words! {
    /// How far a payout is.
    pub enum PayoutStatus {
        /// The channel was asked.
        Pending = "pending",
        /// The channel paid.
        Paid = "paid",
        /// The channel did not; the settlement may be paid out again.
        Failed = "failed",
    }
}

words! {
    /// What a channel says became of a payout.
    pub enum Outcome {
        /// It was paid.
        Succeeded = "succeeded",
        /// It was not.
        Failed = "failed",
    }
}

record! {
    /// A settlement on its way to the beneficiary.
    pub struct Payout in "payout" {
        /// Its id.
        pub payout_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// What it pays.
        pub settlement_id: i64,
        /// To whom.
        pub beneficiary_id: i64,
        /// What the channel knows it by.
        pub payout_number: String,
        /// Which channel pays it.
        pub channel: String,
        /// By which rule tax was withheld.
        pub tax_regime: TaxRegime,
        /// The month it is taxed in, such as `2026-12`.
        pub taxed_month: String,
        /// Before tax.
        pub amount_fen: i64,
        /// What was withheld.
        pub tax_fen: i64,
        /// What the channel pays.
        pub net_fen: i64,
        /// How far it is.
        pub status: PayoutStatus,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
        /// When the channel paid it, or did not. Microseconds since 1970 (UTC).
        pub finished_at: Option<Micros>,
    }
}

record! {
    /// What a channel says it did.
    pub struct ChannelRecord in "channel_record" {
        /// Its id.
        pub channel_record_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The channel.
        pub channel: String,
        /// The channel's own number of it.
        pub trade_number: String,
        /// The payout it names.
        pub payout_number: String,
        /// How much.
        pub amount_fen: i64,
        /// What became of it.
        pub outcome: Outcome,
        /// When, by the channel's clock. Microseconds since 1970 (UTC).
        pub occurred_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub recorded_at: Micros,
        /// The payout it is matched to.
        pub payout_id: Option<i64>,
        /// Why it is matched to none.
        pub problem: Option<String>,
    }
}

/// How a settlement is paid out.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPayout {
    /// The channel that pays.
    #[schema(
        example = "wechat_transfer",
        min_length = 1,
        max_length = 32,
        pattern = "^[a-z0-9_]+$"
    )]
    pub channel: String,
}

/// What a channel says it did.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewChannelRecord {
    /// The channel.
    #[schema(
        example = "wechat_transfer",
        min_length = 1,
        max_length = 32,
        pattern = "^[a-z0-9_]+$"
    )]
    pub channel: String,
    /// The channel's own number of it.
    #[schema(min_length = 1, max_length = 64, pattern = "^[!-~]+$")]
    pub trade_number: String,
    /// The payout it names.
    #[schema(min_length = 1, max_length = 64, pattern = "^[!-~]+$")]
    pub payout_number: String,
    /// How much.
    #[schema(minimum = 1)]
    pub amount_fen: i64,
    /// What became of it.
    pub outcome: Outcome,
    /// When, by the channel's clock. Microseconds since 1970 (UTC).
    #[schema(minimum = 0, maximum = 253_402_300_799_999_999_i64)]
    pub occurred_at: i64,
}

fn check_channel(channel: &str) -> Result<(), OperationalError> {
    if !is_name(channel, CHANNEL_LENGTH_MAX) {
        return Err(OperationalError::invalid(
            "channel must be a name of up to 32 lower-case letters, digits and underscores",
        ));
    }
    Ok(())
}

/// How a distributor is taxed: by its own regime, or else persons as the settings say and others not.
fn regime(distributor: &Distributor, of_persons: PersonalTax) -> TaxRegime {
    distributor.tax_regime.unwrap_or(match (distributor.kind, of_persons) {
        (DistributorKind::Person, PersonalTax::PlatformCumulative) => TaxRegime::PlatformCumulative,
        (DistributorKind::Person, PersonalTax::PerPayment) => TaxRegime::PerPayment,
        (DistributorKind::Pharmacy | DistributorKind::Institution, _) => TaxRegime::None,
    })
}

/// Begins the payout of an open settlement: withholds tax, and gives the number that the channel pays by.
///
/// # Errors
/// `NotFound`; `Conflict` when it is paid, or a payout of it is on its way; `Invalid` for a channel that
/// is no name.
pub async fn begin(
    tx: &mut WriteTransaction,
    scope: Scope,
    settlement_id: i64,
    new: &NewPayout,
) -> Result<Payout, OperationalError> {
    check_channel(&new.channel)?;
    let settlement = settlements::find(tx, scope, settlement_id).await?;
    // One at a time for each beneficiary: the tax of one is counted on by the next.
    ledger::hold(tx, scope.tenant_id, settlement.beneficiary_id).await?;
    let on_its_way: bool = sql("select exists (select 1 from payout
         where settlement_id = ?1 and status <> 'failed')")
    .bind(settlement_id)
    .value(tx)
    .await?;
    if on_its_way || settlement.status == SettlementStatus::Paid {
        return Err(OperationalError::conflict(format!(
            "settlement {settlement_id} is paid out, or on its way"
        )));
    }
    let distributor = distributors::find(tx, scope.tenant_id, settlement.beneficiary_id).await?;
    let tax_regime = regime(&distributor, settings::at(tx, scope).await?.tax_regime);
    let taxed_month = settlements::month_of(scope.now);
    let tax_fen = match tax_regime {
        TaxRegime::None => 0,
        TaxRegime::PerPayment => withholding::per_payment(settlement.amount_fen),
        TaxRegime::PlatformCumulative => cumulative_tax(tx, &settlement, &taxed_month).await?,
    };
    let payout_id = tx.id::<Payout>(None).await?;
    let payout = Payout {
        payout_id,
        tenant_id: scope.tenant_id,
        settlement_id,
        beneficiary_id: settlement.beneficiary_id,
        payout_number: format!("PO{}-{payout_id}", scope.tenant_id),
        channel: new.channel.clone(),
        tax_regime,
        taxed_month,
        amount_fen: settlement.amount_fen,
        tax_fen,
        net_fen: settlement.amount_fen - tax_fen,
        status: PayoutStatus::Pending,
        created_at: Micros(scope.now),
        finished_at: None,
    };
    insert_one(tx, &payout).await?;
    Ok(payout)
}

/// The tax by the cumulative method: on the year's payouts so far with this one. Months count as far back
/// from this one as each has a payout.
async fn cumulative_tax(
    connection: &mut Connection,
    settlement: &Settlement,
    month: &str,
) -> Result<i64, OperationalError> {
    let year = month.split('-').next().unwrap_or(month);
    let before: Vec<(String, i64, i64)> =
        sql("select taxed_month, cast(sum(amount_fen) as signed), cast(sum(tax_fen) as signed)
         from payout
         where beneficiary_id = ?1 and status <> 'failed' and taxed_month like ?2
         group by taxed_month order by taxed_month desc")
        .bind(settlement.beneficiary_id)
        .bind(format!("{year}-%"))
        .all(connection)
        .await?;
    let number = |month: &str| month.rsplit('-').next().and_then(|m| m.parse::<i64>().ok());
    let this = number(month).unwrap_or(1);
    let in_a_row = before
        .iter()
        .filter_map(|(month, _, _)| number(month))
        .filter(|&m| m < this)
        .zip(1..)
        .take_while(|&(m, back)| m == this - back)
        .count();
    let income_fen =
        settlement.amount_fen + before.iter().map(|(_, income, _)| income).sum::<i64>();
    let withheld_fen = before.iter().map(|(_, _, tax)| tax).sum();
    let months = 1 + i64::try_from(in_a_row).unwrap_or(11);
    Ok(withholding::cumulative(income_fen, months, withheld_fen))
}

/// Takes what a channel says it did, once for each of its numbers, and matches it to the payout it names:
/// that is paid then, and the ledger has it, or the settlement can be paid out again. A record that fits
/// none is kept with the reason.
///
/// # Errors
/// `Conflict` when the channel said something else under this number; `Invalid` for a field out of its
/// range.
pub async fn record(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewChannelRecord,
) -> Result<ChannelRecord, OperationalError> {
    check_channel(&new.channel)?;
    check_time("occurred_at", Some(new.occurred_at))?;
    let number = |text: &str| {
        (1..=NUMBER_LENGTH_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
    };
    if !number(&new.trade_number) || !number(&new.payout_number) || new.amount_fen < 1 {
        return Err(OperationalError::invalid(
            "trade_number and payout_number must be 1 to 64 ASCII characters, amount_fen at least 1",
        ));
    }
    let payout: Option<Payout> = sql("select * from payout
         where payout_number = ?1 and tenant_id = ?2 for update")
    .bind(&new.payout_number)
    .bind(scope.tenant_id)
    .first(tx)
    .await?;
    let known: Option<ChannelRecord> = sql("select * from channel_record
         where tenant_id = ?1 and channel = ?2 and trade_number = ?3")
    .bind(scope.tenant_id)
    .bind(&new.channel)
    .bind(&new.trade_number)
    .first(tx)
    .await?;
    if let Some(known) = known {
        let same = (&known.payout_number, known.amount_fen, known.outcome, known.occurred_at.0)
            == (&new.payout_number, new.amount_fen, new.outcome, new.occurred_at);
        return if same {
            Ok(known)
        } else {
            Err(OperationalError::conflict(format!(
                "channel {} said something else of {}",
                new.channel, new.trade_number
            )))
        };
    }
    let matched = fitting(payout, new);
    let record = ChannelRecord {
        channel_record_id: tx.id::<ChannelRecord>(None).await?,
        tenant_id: scope.tenant_id,
        channel: new.channel.clone(),
        trade_number: new.trade_number.clone(),
        payout_number: new.payout_number.clone(),
        amount_fen: new.amount_fen,
        outcome: new.outcome,
        occurred_at: Micros(new.occurred_at),
        recorded_at: Micros(scope.now),
        payout_id: matched.as_ref().ok().map(|payout| payout.payout_id),
        problem: matched.as_ref().err().map(|&problem| problem.to_owned()),
    };
    insert_one(tx, &record).await.map_err(|error| {
        error.or_taken(|| format!("channel record {} is being taken already", new.trade_number))
    })?;
    if let Ok(payout) = matched {
        finish(tx, scope, &payout, new).await?;
    }
    Ok(record)
}

/// The payout that a record is of, or why it is of none.
fn fitting(payout: Option<Payout>, new: &NewChannelRecord) -> Result<Payout, &'static str> {
    let payout = payout.ok_or("there is no payout of this number")?;
    if payout.channel != new.channel {
        Err("the payout is another channel's")
    } else if payout.net_fen != new.amount_fen {
        Err("the amount is not that of the payout")
    } else if payout.status != PayoutStatus::Pending {
        Err("the payout is finished already")
    } else {
        Ok(payout)
    }
}

/// Brings a payout to what its channel says.
async fn finish(
    tx: &mut WriteTransaction,
    scope: Scope,
    payout: &Payout,
    new: &NewChannelRecord,
) -> Result<(), OperationalError> {
    let status = match new.outcome {
        Outcome::Succeeded => PayoutStatus::Paid,
        Outcome::Failed => PayoutStatus::Failed,
    };
    let at = Micros(new.occurred_at);
    sql("update payout set status = ?2, finished_at = ?3 where payout_id = ?1")
        .bind(payout.payout_id)
        .bind(status)
        .bind(at)
        .execute(tx)
        .await?;
    if status == PayoutStatus::Failed {
        return Ok(());
    }
    sql("update settlement set status = 'paid', paid_at = ?2 where settlement_id = ?1")
        .bind(payout.settlement_id)
        .bind(at)
        .execute(tx)
        .await?;
    let entry = |event_type, to_account, amount_fen| Entry {
        entry_id: 0,
        tenant_id: payout.tenant_id,
        commission_id: None,
        order_line_id: 0,
        beneficiary_id: payout.beneficiary_id,
        level: 0,
        event_type,
        amount_fen,
        source_event_id: format!("payout:{}", payout.payout_id),
        occurred_at: at,
        from_account: LedgerAccount::Available,
        to_account,
    };
    let mut entries = vec![entry(EventType::Payout, LedgerAccount::Paid, payout.net_fen)];
    if payout.tax_fen > 0 {
        entries.push(entry(EventType::Tax, LedgerAccount::Tax, payout.tax_fen));
    }
    ledger::post(tx, scope, entries).await
}

/// Which payouts.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    /// Of this beneficiary.
    beneficiary_id: Option<i64>,
    /// Of this state.
    status: Option<PayoutStatus>,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

/// Which records.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct WhichRecords {
    /// Whether they are matched to a payout.
    matched: Option<bool>,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/distribution/payouts", routing::get(get_all))
        .route("/distribution/settlements/{id}/payouts", routing::post(post))
        .route("/distribution/channel-records", routing::get(get_records).post(post_record))
}

/// Payouts in the order of their ids.
#[utoipa::path(get, path = "/distribution/payouts", tag = "distribution", params(Which),
    responses((status = 200, body = List<Payout>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(which): Params<Which>,
) -> Result<Json<List<Payout>>, Failure> {
    let items = sql("select p.* from payout p
         join distributor d on d.distributor_id = p.beneficiary_id
         where p.tenant_id = ?1 and p.payout_id > ?2 and (?3 is null or p.beneficiary_id = ?3)
           and (?4 is null or p.status = ?4) and (?5 is null or d.person_id = ?5)
         order by p.payout_id limit ?6")
    .bind(scope.tenant_id)
    .bind(which.after_id)
    .bind(which.beneficiary_id)
    .bind(which.status)
    .bind(scope.only_person())
    .bind(which.limit.rows())
    .all(&mut *services.distribution().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// Begin the payout of a settlement.
#[utoipa::path(post, path = "/distribution/settlements/{id}/payouts", tag = "distribution",
    request_body = NewPayout,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Payout), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    Id(settlement_id): Id,
    command: Command<NewPayout>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.distribution(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(begin(tx, scope, settlement_id, new)),
        )
        .await
}

/// What channels said, in the order it was taken.
#[utoipa::path(get, path = "/distribution/channel-records", tag = "distribution", params(WhichRecords),
    responses((status = 200, body = List<ChannelRecord>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_records(
    State(services): State<Services>,
    scope: Scope,
    Params(which): Params<WhichRecords>,
) -> Result<Json<List<ChannelRecord>>, Failure> {
    let items = sql("select * from channel_record
         where tenant_id = ?1 and channel_record_id > ?2
           and (?3 is null or (payout_id is not null) = ?3)
         order by channel_record_id limit ?4")
    .bind(scope.tenant_id)
    .bind(which.after_id)
    .bind(which.matched)
    .bind(which.limit.rows())
    .all(&mut *services.distribution().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// Take what a payment channel says it did, in a call-back or a statement.
#[utoipa::path(post, path = "/distribution/channel-records", tag = "distribution",
    request_body = NewChannelRecord, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = ChannelRecord), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_record(
    State(services): State<Services>,
    command: Command<NewChannelRecord>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.distribution(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(record(tx, scope, new)),
        )
        .await
}
