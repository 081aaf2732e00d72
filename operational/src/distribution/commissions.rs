//! Commission: accrued frozen per order line and level when an order is paid, released some days after
//! it was received, and reversed by what a refund leaves of it. All but the days are told by the mall,
//! more than once at times and in any order, and act once: what is known of a line is kept apart
//! (`order_line_state`), and what it makes of a commission follows from that alone.

use std::collections::HashMap;

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    commission_math::{Terms, cap},
    distributors::{self, Distributor},
    ledger::{self, Entry, EventType, LedgerAccount},
    rules,
    settings::{self, Settings},
};
use crate::{
    Limit, OperationalError, OrderPaid, OrderReceived, OrderRefunded, PaidLine, Scope, Services,
    WriteTransaction,
    calendar::DAY_MICROS,
    database::{Connection, Micros, insert, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, List, Nothing, Params},
};

/// The most that one transaction releases.
const RELEASED_AT_ONCE: i64 = 500;

words! {
    /// How far a commission is.
    pub enum CommissionStatus {
        /// Booked, and not yet to be had.
        Frozen = "frozen",
        /// To be paid out by the next settlement, or paid out.
        Released = "released",
        /// All of it taken back.
        Reversed = "reversed",
    }
}

record! {
    /// What a line earned one distributor.
    pub struct Commission in "commission" {
        /// Its id.
        pub commission_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The order.
        pub order_id: i64,
        /// The line.
        pub order_line_id: i64,
        /// Who earned it.
        pub beneficiary_id: i64,
        /// 1 for the promoter, 2 for the one who brought the promoter in.
        pub level: i64,
        /// What was paid for the line.
        pub base_fen: i64,
        /// The rate it was booked at.
        pub rate_bp: Option<i64>,
        /// The fixed amount it was booked at.
        pub fixed_fen: Option<i64>,
        /// What was booked.
        pub booked_fen: i64,
        /// What was taken back of it.
        pub reversed_fen: i64,
        /// How far it is.
        pub status: CommissionStatus,
        /// Microseconds since 1970 (UTC).
        pub accrued_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub updated_at: Micros,
        /// The most that all levels of the line earn together, in hundredths of a per cent of its base.
        pub cap_bp: i64,
        /// For how many days after receipt it is frozen at least.
        pub freeze_days: i64,
        /// From when it is to be had, once the order was received. Microseconds since 1970 (UTC).
        pub release_at: Option<Micros>,
        /// Since when it is to be had. Microseconds since 1970 (UTC).
        pub released_at: Option<Micros>,
    }
}

impl Commission {
    const fn terms(&self) -> Terms {
        Terms { rate_bp: self.rate_bp, fixed_fen: self.fixed_fen }
    }

    /// An entry of the ledger about it; its id is given when it is written.
    fn entry(&self, event: EventType, amount_fen: i64, source: String, at: Micros) -> Entry {
        let held = match self.released_at {
            None => LedgerAccount::Frozen,
            Some(_) => LedgerAccount::Available,
        };
        let (from_account, to_account) = match event {
            EventType::Release => (LedgerAccount::Frozen, LedgerAccount::Available),
            _ => (LedgerAccount::Granted, held),
        };
        Entry {
            entry_id: 0,
            tenant_id: self.tenant_id,
            commission_id: Some(self.commission_id),
            order_line_id: self.order_line_id,
            beneficiary_id: self.beneficiary_id,
            level: self.level,
            event_type: event,
            amount_fen,
            source_event_id: source,
            occurred_at: at,
            from_account,
            to_account,
        }
    }
}

record! {
    /// What the mall told of a line, whichever came first.
    struct LineState in "order_line_state" {
        order_line_id: i64,
        tenant_id: i64,
        order_id: i64,
        refunded_fen: i64,
        refund_id: Option<i64>,
        refunded_at: Option<Micros>,
        received_at: Option<Micros>,
        returnable_until: Option<Micros>,
    }
}

/// Books what a paid order earns its promoter and the one above, frozen. An order already booked is
/// left as it is, whoever it went to.
///
/// # Errors
/// `NotFound` for a promoter that does not exist.
pub async fn accrue(tx: &mut WriteTransaction, paid: &OrderPaid) -> Result<(), OperationalError> {
    let Some(promoter_id) = paid.promoter_id else {
        return Ok(());
    };
    let scope = Scope::of(paid.tenant_id, paid.paid_at);
    let settings = settings::at(tx, scope).await?;
    let beneficiaries = beneficiaries(tx, scope, &settings, promoter_id, paid.person_id).await?;
    if beneficiaries.is_empty() {
        return Ok(());
    }
    let product_ids: Vec<i64> = paid.lines.iter().map(|l| l.product_id).collect();
    let rules = rules::for_products(tx, scope, &product_ids).await?;
    let booked: Vec<(i64, i64)> =
        sql("select order_line_id, level from commission where order_id = ?1")
            .bind(paid.order_id)
            .all(tx)
            .await?;
    let mut commissions = Vec::new();
    for line in &paid.lines {
        if line.campaign_id.is_some() && !settings.campaign_lines_earn {
            continue;
        }
        let mut left_fen = cap(line.cash_fen, settings.cap_bp);
        for (level, beneficiary) in &beneficiaries {
            let terms = rules::terms_of(&rules, line.product_id, *level);
            let terms = terms.within(line.cash_fen, left_fen);
            let booked_fen = terms.on(line.cash_fen);
            left_fen -= booked_fen;
            if booked_fen == 0 || booked.contains(&(line.order_line_id, *level)) {
                continue;
            }
            let of = (paid, line, &settings);
            commissions.push(frozen(of, beneficiary.distributor_id, *level, terms, booked_fen));
        }
    }
    let ids = tx.ids::<Commission>(commissions.iter().map(|_| None)).await?;
    for (commission, commission_id) in commissions.iter_mut().zip(ids) {
        commission.commission_id = commission_id;
    }
    if commissions.is_empty() {
        return Ok(());
    }
    insert(tx, &commissions).await?;
    let source = format!("payment:{}", paid.payment_id);
    let at = Micros(paid.paid_at);
    let entry = |c: &Commission| c.entry(EventType::Accrue, c.booked_fen, source.clone(), at);
    ledger::post(tx, scope, commissions.iter().map(entry).collect()).await?;
    // A refund or the receipt may have been told of before.
    follow(tx, scope, commissions.iter().map(|c| c.order_line_id)).await
}

/// A commission as it is booked; its id is given when it is written.
fn frozen(
    (paid, line, settings): (&OrderPaid, &PaidLine, &Settings),
    beneficiary_id: i64,
    level: i64,
    terms: Terms,
    booked_fen: i64,
) -> Commission {
    Commission {
        commission_id: 0,
        tenant_id: paid.tenant_id,
        order_id: paid.order_id,
        order_line_id: line.order_line_id,
        beneficiary_id,
        level,
        base_fen: line.cash_fen,
        rate_bp: terms.rate_bp,
        fixed_fen: terms.fixed_fen,
        booked_fen,
        reversed_fen: 0,
        status: CommissionStatus::Frozen,
        accrued_at: Micros(paid.paid_at),
        updated_at: Micros(paid.paid_at),
        cap_bp: settings.cap_bp,
        freeze_days: settings.freeze_days,
        release_at: None,
        released_at: None,
    }
}

/// The promoter and the one who brought it in, as far as the settings pay levels. One that is not active
/// ends the chain, and nobody earns on their own purchase unless the settings let them.
async fn beneficiaries(
    tx: &mut WriteTransaction,
    scope: Scope,
    settings: &Settings,
    promoter_id: i64,
    buyer_id: i64,
) -> Result<Vec<(i64, Distributor)>, OperationalError> {
    let mut found = Vec::with_capacity(2);
    let mut next = Some(promoter_id);
    for level in 1..=settings.levels {
        let Some(id) = next else { break };
        let distributor = distributors::find(tx, scope.tenant_id, id).await?;
        if !distributor.active {
            break;
        }
        next = distributor.parent_id;
        if distributor.person_id != buyer_id || settings.self_purchase_earns {
            found.push((level, distributor));
        }
    }
    Ok(found)
}

/// Takes back what the refunded lines no longer earn: the difference between what was booked and
/// what is earned on the rest, less what was taken back before.
///
/// # Errors
/// When the database fails.
pub async fn reverse(
    tx: &mut WriteTransaction,
    refunded: &OrderRefunded,
) -> Result<(), OperationalError> {
    // Nobody earned on it, and nobody will.
    if refunded.promoter_id.is_none() {
        return Ok(());
    }
    let scope = Scope::of(refunded.tenant_id, refunded.refunded_at);
    for line in &refunded.lines {
        note(tx, scope, refunded.order_id, line.order_line_id).await?;
        // An older message behind a newer says nothing more.
        sql("update order_line_state set refunded_fen = ?2, refund_id = ?3, refunded_at = ?4
             where order_line_id = ?1 and refunded_fen < ?2")
        .bind(line.order_line_id)
        .bind(line.refunded_fen)
        .bind(refunded.refund_id)
        .bind(Micros(refunded.refunded_at))
        .execute(tx)
        .await?;
    }
    follow(tx, scope, refunded.lines.iter().map(|line| line.order_line_id)).await
}

/// Notes that the buyer has an order: from then on the days run until its commissions are released, and
/// never before a line can no longer be returned.
///
/// # Errors
/// When the database fails.
pub async fn receive(
    tx: &mut WriteTransaction,
    received: &OrderReceived,
) -> Result<(), OperationalError> {
    if received.promoter_id.is_none() {
        return Ok(());
    }
    let scope = Scope::of(received.tenant_id, received.received_at);
    for line in &received.lines {
        note(tx, scope, received.order_id, line.order_line_id).await?;
        sql("update order_line_state set received_at = ?2, returnable_until = ?3
             where order_line_id = ?1 and received_at is null")
        .bind(line.order_line_id)
        .bind(Micros(received.received_at))
        .bind(Micros(line.return_window_ends_at))
        .execute(tx)
        .await?;
    }
    follow(tx, scope, received.lines.iter().map(|line| line.order_line_id)).await
}

/// Makes the place for what is known of a line.
async fn note(
    tx: &mut WriteTransaction,
    scope: Scope,
    order_id: i64,
    order_line_id: i64,
) -> Result<(), OperationalError> {
    sql("insert into order_line_state (order_line_id, tenant_id, order_id, refunded_fen)
         values (?1, ?2, ?3, 0) on conflict (order_line_id) do nothing")
    .bind(order_line_id)
    .bind(scope.tenant_id)
    .bind(order_id)
    .execute(tx)
    .await?;
    Ok(())
}

/// Brings the commissions of lines to what is known of them.
async fn follow(
    tx: &mut WriteTransaction,
    scope: Scope,
    order_line_ids: impl Iterator<Item = i64>,
) -> Result<(), OperationalError> {
    let states: Vec<LineState> =
        sql("select * from order_line_state where order_line_id in {list}")
            .list(order_line_ids)
            .all(tx)
            .await?;
    let states: HashMap<i64, LineState> =
        states.into_iter().map(|state| (state.order_line_id, state)).collect();
    // All commissions and then all balances, as a release does: so the two never wait for each other
    // crosswise.
    let commissions: Vec<Commission> = sql("select * from commission where order_line_id in {list}
         order by order_line_id, level for update")
    .list(states.keys().copied())
    .all(tx)
    .await?;
    let mut entries = Vec::new();
    for commission in commissions {
        let Some(state) = states.get(&commission.order_line_id) else { continue };
        let rest_fen = commission.base_fen - state.refunded_fen;
        let earned_fen = commission.terms().on_rest(commission.base_fen, rest_fen);
        let reversed_fen = commission.booked_fen - earned_fen;
        let more_fen = reversed_fen - commission.reversed_fen;
        let release_at = commission.release_at.or_else(|| {
            let frozen_to = state.received_at?.0 + commission.freeze_days * DAY_MICROS;
            Some(Micros(state.returnable_until.map_or(frozen_to, |until| until.0.max(frozen_to))))
        });
        // Nothing new: a repeated message.
        if more_fen <= 0 && release_at == commission.release_at {
            continue;
        }
        if more_fen > 0 {
            let source = format!("refund:{}", state.refund_id.unwrap_or_default());
            let at = state.refunded_at.unwrap_or(Micros(scope.now));
            entries.push(commission.entry(EventType::Reverse, -more_fen, source, at));
        }
        let reversed_fen = reversed_fen.max(commission.reversed_fen);
        let status = if reversed_fen == commission.booked_fen {
            CommissionStatus::Reversed
        } else {
            commission.status
        };
        sql(
            "update commission set reversed_fen = ?2, status = ?3, release_at = ?4, updated_at = ?5
             where commission_id = ?1",
        )
        .bind(commission.commission_id)
        .bind(reversed_fen)
        .bind(status)
        .bind(release_at)
        .bind(Micros(commission.updated_at.0.max(scope.now)))
        .execute(tx)
        .await?;
    }
    ledger::post(tx, scope, entries).await
}

/// Releases commissions whose time has come, what is left of them: no more than a number at once. Tells
/// how many; none means that no others are due.
///
/// # Errors
/// When the database fails.
pub async fn release_due(
    tx: &mut WriteTransaction,
    scope: Scope,
) -> Result<usize, OperationalError> {
    let due: Vec<Commission> = sql("select * from commission
         where status = 'frozen' and release_at <= ?1
         order by release_at, commission_id limit ?2 for update")
    .bind(Micros(scope.now))
    .bind(RELEASED_AT_ONCE)
    .all(tx)
    .await?;
    let entries = due.iter().map(|commission| {
        let left_fen = commission.booked_fen - commission.reversed_fen;
        let source = format!("commission:{}", commission.commission_id);
        commission.entry(EventType::Release, left_fen, source, Micros(scope.now))
    });
    ledger::post(tx, scope, entries.collect()).await?;
    if !due.is_empty() {
        sql("update commission set status = 'released', released_at = ?1, updated_at = ?1
             where commission_id in {list}")
        .bind(Micros(scope.now))
        .list(due.iter().map(|commission| commission.commission_id))
        .execute(tx)
        .await?;
    }
    Ok(due.len())
}

/// What an order earned, by line and level.
///
/// # Errors
/// When the database fails.
pub async fn of_order(
    connection: &mut Connection,
    tenant_id: i64,
    order_id: i64,
) -> Result<Vec<Commission>, OperationalError> {
    sql("select * from commission where order_id = ?1 and tenant_id = ?2
         order by order_line_id, level")
    .bind(order_id)
    .bind(tenant_id)
    .all(connection)
    .await
}

/// Releases all commissions whose time has come, some in each transaction.
pub(super) async fn release_all(services: &Services) -> Result<(), OperationalError> {
    let (database, now) = (services.distribution(), services.now());
    loop {
        let due: bool = sql("select exists (select 1 from commission
             where status = 'frozen' and release_at <= ?1)")
        .bind(Micros(now))
        .value(&mut *database.read().await?)
        .await?;
        if !due {
            return Ok(());
        }
        let mut tx = database.begin(now).await?;
        let done = release_due(&mut tx, Scope::at(now)).await;
        match tx.end(done).await {
            // What stood in the way is done by the next time.
            Err(OperationalError::Contended { .. }) => return Ok(()),
            done => done?,
        };
    }
}

/// Which commissions: of an order, or of a beneficiary.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    /// Of this order.
    order_id: Option<i64>,
    /// Of this beneficiary.
    beneficiary_id: Option<i64>,
    /// Of this state.
    status: Option<CommissionStatus>,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: Limit,
}

/// What was released.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Released {
    /// How many commissions; there may be more.
    released: usize,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/distribution/commissions", routing::get(get_all))
        .route("/distribution/commissions/release", routing::post(post_release))
}

/// What an order earned, or what a beneficiary did, in the order of their ids.
#[utoipa::path(get, path = "/distribution/commissions", tag = "distribution", params(Which),
    responses((status = 200, body = List<Commission>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(which): Params<Which>,
) -> Result<Json<List<Commission>>, Failure> {
    if which.order_id.is_none() && which.beneficiary_id.is_none() {
        let problem = "an order_id or a beneficiary_id must be given";
        return Err(OperationalError::invalid(problem).into());
    }
    let items = sql("select c.* from commission c
         join distributor d on d.distributor_id = c.beneficiary_id
         where c.tenant_id = ?1 and c.commission_id > ?2 and (?3 is null or c.order_id = ?3)
           and (?4 is null or c.beneficiary_id = ?4) and (?5 is null or c.status = ?5)
           and (?6 is null or d.person_id = ?6)
         order by c.commission_id limit ?7")
    .bind(scope.tenant_id)
    .bind(which.after_id)
    .bind(which.order_id)
    .bind(which.beneficiary_id)
    .bind(which.status)
    .bind(scope.only_person())
    .bind(which.limit.rows())
    .all(&mut *services.distribution().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// Release commissions that are due now. The service does so by itself; this is for a clock of one's own.
#[utoipa::path(post, path = "/distribution/commissions/release", tag = "distribution",
    request_body = Nothing, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Released), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_release(
    State(services): State<Services>,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.distribution(), services.now(), StatusCode::OK, |tx, scope, _| {
            Box::pin(async move { Ok(Released { released: release_due(tx, scope).await? }) })
        })
        .await
}
