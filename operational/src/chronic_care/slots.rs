//! Reminder slots: when a dose of a plan is due, made some days ahead from its times of the day in
//! Asia/Shanghai, and what became of each.
//!
//! A slot has one dose at most: a confirmation belongs to the nearest slot within four hours, and a second
//! one for it changes nothing. Within an hour of its time a dose is taken, within four it is late, and then
//! it was missed; a confirmation that arrives after that still counts by when the dose was taken. Slots of a
//! pause, a stay in hospital or after a change are cancelled: no dose was due, and none was missed.

use std::collections::BTreeMap;

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use chrono::{DateTime, Days, NaiveTime};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    alerts::{self, AlertKind, Raise},
    dose_events::{self, DoseEvent, DoseStatus},
    medication_plans::{self, ChangeKind, MedicationPlan, PlanStatus},
    patients,
    templates::Severity,
};
use crate::{
    NotificationRequested, OperationalError, Scope, Services, WriteTransaction,
    calendar::{DAY_MICROS, business_day, instant, midnight, shanghai},
    database::{Connection, Micros, insert, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
    outbox,
    scope::check_time,
};

const HOUR_MICROS: i64 = 3600 * 1_000_000;
/// How far from a slot a dose can be and still be its.
const WINDOW_MICROS: i64 = 4 * HOUR_MICROS;
/// How far ahead slots are made.
const AHEAD_MICROS: i64 = 7 * DAY_MICROS;
/// Plans and slots that one run of a sweep looks at.
const SWEEP_BATCH: i64 = 500;
/// Doses missed one after the other that somebody is told of.
const MISSED_ALERT: usize = 3;

words! {
    /// What became of a slot.
    pub enum SlotStatus {
        /// Its time has not come, or its dose can still be taken.
        Due = "due",
        /// Taken within an hour of its time.
        Taken = "taken",
        /// Taken within four hours of its time.
        Late = "late",
        /// Not taken.
        Missed = "missed",
        /// No dose was due.
        Cancelled = "cancelled",
    }
}

record! {
    /// A slot.
    pub struct ReminderSlot in "reminder_slot" {
        /// Its id.
        pub slot_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The plan.
        pub plan_id: i64,
        /// The patient.
        pub patient_id: i64,
        /// When the dose is due, in microseconds since 1970 (UTC).
        pub scheduled_at: Micros,
        /// How much of it.
        pub dose_amount: Option<f64>,
        /// In what.
        pub dose_unit: Option<String>,
        /// What became of it.
        pub status: SlotStatus,
        /// Why no dose was due.
        pub cancelled_for: Option<ChangeKind>,
        /// When the patient was reminded.
        pub reminded_at: Option<Micros>,
        /// Microseconds since 1970 (UTC).
        pub updated_at: Micros,
    }
}

/// Times of the day as they are kept: in order, with commas between.
pub(super) fn check_times(
    times: &[String],
    doses_per_day: i64,
) -> Result<String, OperationalError> {
    let mut parsed: Vec<NaiveTime> = Vec::new();
    for text in times {
        let time = NaiveTime::parse_from_str(text, "%H:%M").ok().filter(|_| text.len() == 5);
        parsed.push(time.ok_or_else(|| OperationalError::invalid("clock_times must be as hh:mm"))?);
    }
    parsed.sort_unstable();
    parsed.dedup();
    if parsed.len() != times.len() || i64::try_from(times.len()) != Ok(doses_per_day) {
        return Err(OperationalError::invalid(
            "clock_times must be as many different times as doses_per_day",
        ));
    }
    let texts: Vec<String> = parsed.iter().map(|time| time.format("%H:%M").to_string()).collect();
    Ok(texts.join(","))
}

/// The times of doses from a time on and before another, by times of the day with commas between.
///
/// # Errors
/// `Invalid` for times outside the calendar.
pub fn times_between(
    clock_times: &str,
    from: i64,
    before: i64,
) -> Result<Vec<i64>, OperationalError> {
    let times: Vec<NaiveTime> =
        clock_times.split(',').filter_map(|t| NaiveTime::parse_from_str(t, "%H:%M").ok()).collect();
    let mut found = Vec::new();
    if from >= before {
        return Ok(found);
    }
    let (mut day, last) = (business_day(from)?, business_day(before)?);
    while day <= last {
        found.extend(times.iter().map(|time| instant(day.and_time(*time))));
        let Some(next) = day.checked_add_days(Days::new(1)) else { break };
        day = next;
    }
    found.retain(|at| (from..before).contains(at));
    Ok(found)
}

/// Makes the slots of a plan up to a week from now, from where they end or from now on.
pub(super) async fn generate(
    tx: &mut WriteTransaction,
    scope: Scope,
    plan: &MedicationPlan,
) -> Result<u64, OperationalError> {
    let (Some(times), PlanStatus::Active) = (&plan.clock_times, plan.status) else { return Ok(0) };
    let from = plan.slots_to.map_or(scope.now, |to| to.0).max(midnight(plan.starts_on));
    let end = plan.ends_on.and_then(|day| day.checked_add_days(Days::new(1))).map(midnight);
    let to = (scope.now + AHEAD_MICROS).min(end.unwrap_or(i64::MAX));
    let wanted = times_between(times, from, to)?;
    sql("update medication_plan set slots_to = ?2 where plan_id = ?1")
        .bind(plan.plan_id)
        .bind(Micros((scope.now + AHEAD_MICROS).max(from)))
        .execute(tx)
        .await?;
    if wanted.is_empty() {
        return Ok(0);
    }
    // A slot that a change cancelled comes back by the next one.
    let present: Vec<(Micros, SlotStatus)> = sql("select scheduled_at, status from reminder_slot
             where plan_id = ?1 and scheduled_at >= ?2 and scheduled_at < ?3")
    .bind(plan.plan_id)
    .bind(Micros(from))
    .bind(Micros(to))
    .all(tx)
    .await?;
    for (at, status) in &present {
        if *status == SlotStatus::Cancelled && wanted.contains(&at.0) {
            sql("update reminder_slot set status = 'due', cancelled_for = null, dose_amount = ?3,
                     dose_unit = ?4, updated_at = ?5 where plan_id = ?1 and scheduled_at = ?2")
            .bind(plan.plan_id)
            .bind(*at)
            .bind(plan.dose_amount)
            .bind(&plan.dose_unit)
            .bind(Micros(scope.now))
            .execute(tx)
            .await?;
        }
    }
    let new: Vec<i64> =
        wanted.into_iter().filter(|at| !present.iter().any(|(there, _)| there == at)).collect();
    let ids = tx.ids::<ReminderSlot>(new.iter().map(|_| None)).await?;
    let rows: Vec<ReminderSlot> = ids
        .into_iter()
        .zip(&new)
        .map(|(slot_id, at)| ReminderSlot {
            slot_id,
            tenant_id: plan.tenant_id,
            plan_id: plan.plan_id,
            patient_id: plan.patient_id,
            scheduled_at: Micros(*at),
            dose_amount: plan.dose_amount,
            dose_unit: plan.dose_unit.clone(),
            status: SlotStatus::Due,
            cancelled_for: None,
            reminded_at: None,
            updated_at: Micros(scope.now),
        })
        .collect();
    insert(tx, &rows).await?;
    Ok(rows.len() as u64)
}

/// Cancels the slots of a plan from a time on that nobody answered; doses in them count as missed no more.
pub(super) async fn cancel(
    tx: &mut WriteTransaction,
    scope: Scope,
    plan: &MedicationPlan,
    why: ChangeKind,
    from: i64,
) -> Result<(), OperationalError> {
    if matches!(why, ChangeKind::Started | ChangeKind::Resumed) {
        return Ok(());
    }
    sql("delete from dose_event where plan_id = ?1 and scheduled_at >= ?2 and status = 'missed'
             and exists (select 1 from reminder_slot s
                 where s.plan_id = dose_event.plan_id and s.scheduled_at = dose_event.scheduled_at)")
    .bind(plan.plan_id)
    .bind(Micros(from))
    .execute(tx)
    .await?;
    sql("update reminder_slot set status = 'cancelled', cancelled_for = ?3, updated_at = ?4
         where plan_id = ?1 and scheduled_at >= ?2 and status in ('due', 'missed')")
    .bind(plan.plan_id)
    .bind(Micros(from))
    .bind(why)
    .bind(Micros(scope.now))
    .execute(tx)
    .await?;
    Ok(())
}

/// Keeps what became of the slot of a dose, if there is one.
pub(super) async fn settle(
    on: &mut Connection,
    plan_id: i64,
    scheduled_at: i64,
    status: DoseStatus,
    now: i64,
) -> Result<(), OperationalError> {
    sql("update reminder_slot set status = ?3, updated_at = ?4
         where plan_id = ?1 and scheduled_at = ?2 and status <> 'cancelled'")
    .bind(plan_id)
    .bind(Micros(scheduled_at))
    .bind(status.word())
    .bind(Micros(now))
    .execute(on)
    .await?;
    Ok(())
}

/// That a dose was taken.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// When, in microseconds since 1970 (UTC); now when left out.
    pub taken_at: Option<i64>,
}

/// Records that a dose of a plan was taken: for the slot nearest to it, once.
///
/// # Errors
/// `NotFound` for an unknown plan; `Conflict` when no dose was due within four hours.
pub async fn confirm(
    tx: &mut WriteTransaction,
    scope: Scope,
    plan_id: i64,
    confirmation: Confirmation,
) -> Result<DoseEvent, OperationalError> {
    check_time("taken_at", confirmation.taken_at)?;
    let taken_at = confirmation.taken_at.unwrap_or(scope.now);
    if taken_at > scope.now + HOUR_MICROS {
        return Err(OperationalError::invalid("taken_at must not be in the future"));
    }
    let plan = medication_plans::find(tx, scope.tenant_id, plan_id).await?;
    patients::lock_in_use(tx, scope, plan.patient_id)
        .await
        .map_err(|error| error.of("medication_plan", plan_id))?;
    let near: Vec<ReminderSlot> = sql("select * from reminder_slot
         where plan_id = ?1 and scheduled_at between ?2 and ?3 and status <> 'cancelled'
         order by scheduled_at")
    .bind(plan_id)
    .bind(Micros(taken_at - WINDOW_MICROS))
    .bind(Micros(taken_at + WINDOW_MICROS))
    .all(tx)
    .await?;
    let Some(slot) = near.into_iter().min_by_key(|slot| slot.scheduled_at.0.abs_diff(taken_at))
    else {
        return Err(OperationalError::conflict(format!(
            "no dose of medication_plan {plan_id} was due within four hours"
        )));
    };
    dose_events::settle(tx, scope, &plan, slot.scheduled_at.0, Some(taken_at)).await
}

/// Makes the slots of the days to come; gives how many plans it looked at.
///
/// # Errors
/// When the database fails.
pub(crate) async fn extend(tx: &mut WriteTransaction, now: i64) -> Result<u64, OperationalError> {
    let today = business_day(now)?;
    let plans: Vec<MedicationPlan> = sql("select m.* from medication_plan m
         join patient p on p.patient_id = m.patient_id
         where m.status = 'active' and m.clock_times is not null and m.slots_to < ?1
             and (m.ends_on is null or m.ends_on >= ?2) and p.status in ('active', 'lost')
         order by m.plan_id limit ?3")
    .bind(Micros(now + AHEAD_MICROS - DAY_MICROS))
    .bind(today)
    .bind(SWEEP_BATCH)
    .all(tx)
    .await?;
    let count = plans.len() as u64;
    for plan in plans {
        let scope = Scope::of(plan.tenant_id, now);
        patients::lock(tx, scope, plan.patient_id).await?;
        let plan = medication_plans::find(tx, plan.tenant_id, plan.plan_id).await?;
        generate(tx, scope, &plan).await?;
    }
    Ok(count)
}

/// Slots of patients who are cared for, before and after a time, in a state, the oldest first.
async fn some(
    tx: &mut WriteTransaction,
    after: i64,
    to: i64,
    more: &str,
) -> Result<Vec<(ReminderSlot, i64)>, OperationalError> {
    let slots: Vec<ReminderSlot> = sql(format!(
        "select s.* from reminder_slot s join patient p on p.patient_id = s.patient_id
         where s.status = 'due' and s.scheduled_at > ?1 and s.scheduled_at <= ?2
             and p.status in ('active', 'lost') {more}
         order by s.scheduled_at, s.slot_id limit ?3"
    ))
    .bind(Micros(after))
    .bind(Micros(to))
    .bind(SWEEP_BATCH)
    .all(tx)
    .await?;
    let mut found = Vec::new();
    for slot in slots {
        let scope = Scope::of(slot.tenant_id, 0);
        let patient = patients::lock(tx, scope, slot.patient_id).await?;
        // As it is now that nobody else can change it.
        let slot: ReminderSlot = sql("select * from reminder_slot where slot_id = ?1 for update")
            .bind(slot.slot_id)
            .one(tx)
            .await?;
        if slot.status == SlotStatus::Due {
            found.push((slot, patient.person_id));
        }
    }
    Ok(found)
}

/// Reminds patients of doses whose time has come; gives how many.
///
/// # Errors
/// When the database fails.
pub(crate) async fn remind(tx: &mut WriteTransaction, now: i64) -> Result<u64, OperationalError> {
    let due = some(tx, now - HOUR_MICROS, now, "and s.reminded_at is null").await?;
    for (slot, person_id) in &due {
        sql("update reminder_slot set reminded_at = ?2 where slot_id = ?1")
            .bind(slot.slot_id)
            .bind(Micros(now))
            .execute(tx)
            .await?;
        let told = NotificationRequested {
            tenant_id: slot.tenant_id,
            request_key: format!("care:slot:{}", slot.slot_id),
            template: "medication_reminder".to_owned(),
            person_id: *person_id,
            requested_at: now,
            parameters: BTreeMap::from([(
                "scheduled_at".to_owned(),
                DateTime::from_timestamp_micros(slot.scheduled_at.0)
                    .map(|at| at.with_timezone(&shanghai()).format("%H:%M").to_string())
                    .unwrap_or_default(),
            )]),
        };
        outbox::put(tx, &told).await?;
    }
    Ok(due.len() as u64)
}

/// Doses that were not taken within four hours were missed; gives how many.
///
/// # Errors
/// When the database fails.
pub(crate) async fn miss(tx: &mut WriteTransaction, now: i64) -> Result<u64, OperationalError> {
    let due = some(tx, 0, now - WINDOW_MICROS - 1, "").await?;
    for (slot, _) in &due {
        let scope = Scope::of(slot.tenant_id, now);
        let plan = medication_plans::find(tx, slot.tenant_id, slot.plan_id).await?;
        let dose = dose_events::settle(tx, scope, &plan, slot.scheduled_at.0, None).await?;
        if dose.status == DoseStatus::Missed {
            alarm(tx, scope, slot).await?;
        }
    }
    Ok(due.len() as u64)
}

/// Tells of a patient who missed the last doses of a plan one after the other.
async fn alarm(
    tx: &mut WriteTransaction,
    scope: Scope,
    slot: &ReminderSlot,
) -> Result<(), OperationalError> {
    let last: Vec<(SlotStatus,)> = sql("select status from reminder_slot
         where plan_id = ?1 and scheduled_at <= ?2 and status <> 'cancelled'
         order by scheduled_at desc limit ?3")
    .bind(slot.plan_id)
    .bind(slot.scheduled_at)
    .bind(3_i64)
    .all(tx)
    .await?;
    if last.len() < MISSED_ALERT || last.iter().any(|(status,)| *status != SlotStatus::Missed) {
        return Ok(());
    }
    let patient = patients::lock(tx, scope, slot.patient_id).await?;
    let raise = Raise {
        kind: AlertKind::Doses,
        severity: Severity::Warning,
        rule: format!("doses/{}", slot.plan_id),
        cause: format!("slot:{}:missed", slot.slot_id),
        title: "doses missed one after the other",
    };
    alerts::raise(tx, scope, Some(&patient), raise).await
}

/// Which slots are listed.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// Only slots later than this, in microseconds since 1970 (UTC): the last one of the page before.
    #[serde(default)]
    after: i64,
    /// At most this many, up to 1000.
    #[serde(default)]
    limit: crate::Limit,
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/chronic-care/medication-plans/{id}/slots", routing::get(get_all)).route(
        "/chronic-care/medication-plans/{id}/confirmations",
        routing::post(post_confirmation),
    )
}

/// The slots of a plan, the earliest first.
#[utoipa::path(get, path = "/chronic-care/medication-plans/{id}/slots", tag = "chronic-care",
    params(("id" = i64, Path), Filter),
    responses((status = 200, body = List<ReminderSlot>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Id(plan_id): Id,
    Params(filter): Params<Filter>,
) -> Result<Json<List<ReminderSlot>>, Failure> {
    check_time("after", Some(filter.after))?;
    let mut tx = services.chronic_care().read().await?;
    let plan = medication_plans::find(&mut tx, scope.tenant_id, plan_id).await?;
    patients::find(&mut tx, scope, plan.patient_id)
        .await
        .map_err(|error| error.of("medication_plan", plan_id))?;
    let items = sql("select * from reminder_slot where plan_id = ?1 and scheduled_at > ?2
         order by scheduled_at limit ?3")
    .bind(plan_id)
    .bind(Micros(filter.after))
    .bind(filter.limit.rows())
    .all(&mut tx)
    .await?;
    Ok(Json(List { items }))
}

/// Record that a dose was taken. The same dose again is answered with the first.
#[utoipa::path(post, path = "/chronic-care/medication-plans/{id}/confirmations", tag = "chronic-care",
    request_body = Confirmation,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = DoseEvent), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_confirmation(
    State(services): State<Services>,
    Id(plan_id): Id,
    command: Command<Confirmation>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.chronic_care(), services.now(), StatusCode::OK, |tx, scope, body| {
            Box::pin(confirm(tx, scope, plan_id, *body))
        })
        .await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-21T00:00:00Z, eight in the morning in Shanghai.
    const NOW: i64 = 1_795_219_200_000_000;

    #[test]
    fn times_of_the_day_are_those_of_shanghai() {
        let found = times_between("08:00,20:00", NOW, NOW + 2 * DAY_MICROS).unwrap();
        let hours: Vec<i64> = found.iter().map(|at| (at - NOW) / HOUR_MICROS).collect();
        assert_eq!(hours, [0, 12, 24, 36]);
        assert!(times_between("08:00", NOW, NOW).unwrap().is_empty());
    }

    #[test]
    fn times_are_as_many_as_doses() {
        let check = |times: &[&str], doses| {
            let times: Vec<String> = times.iter().map(|time| (*time).to_owned()).collect();
            check_times(&times, doses)
        };
        assert_eq!(check(&["20:00", "08:00"], 2).unwrap(), "08:00,20:00");
        for (times, doses) in [
            (&["08:00"][..], 2),
            (&["08:00", "08:00"], 2),
            (&["8:00"], 1),
            (&["24:00"], 1),
            (&["08:00:00"], 1),
            (&[], 0),
        ] {
            assert!(check(times, doses).is_err() || doses == 0, "{times:?}");
        }
    }

    proptest! {
        #[test]
        fn a_range_in_parts_has_the_same_slots(
            minutes in prop::collection::btree_set(0_u32..1440, 1..6),
            length in 0_i64..20 * DAY_MICROS,
            cut in 0.0_f64..1.0,
            start in 0_i64..400 * DAY_MICROS,
        ) {
            let times: Vec<String> =
                minutes.iter().map(|m| format!("{:02}:{:02}", m / 60, m % 60)).collect();
            let times = times.join(",");
            let (from, to) = (NOW + start, NOW + start + length);
            #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a place in the range")]
            let middle = from + (length as f64 * cut) as i64;
            let mut parts = times_between(&times, from, middle).unwrap();
            parts.extend(times_between(&times, middle, to).unwrap());
            let whole = times_between(&times, from, to).unwrap();
            prop_assert_eq!(&whole, &parts);
            prop_assert!(whole.is_sorted_by(|a, b| a < b));
        }
    }
}
