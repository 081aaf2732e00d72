//! Care programmes: a patient on their way through the steps of a template.
//!
//! A programme keeps the version of the template it was started with. It is moved on by answers to the form
//! of its step and by timers that the sweep fires ([`machine`]); it is moved to another version only by
//! somebody who says so.

pub(crate) mod api;
pub(crate) mod machine;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::machine::Timer;
use super::{
    alerts::{self, AlertKind, Raise},
    consents, facts,
    patients::{self, Patient, PatientStatus},
    templates::{self, CareTemplate, Severity, Template, rule::Fact, rule::Facts},
};
use crate::{
    NotificationRequested, OperationalError, Scope, WriteTransaction,
    calendar::{DAY_MICROS, business_day},
    database::{Connection, Micros, insert_one, record, sql, words},
    outbox,
};

/// Programmes that one run of the sweep moves on.
const SWEEP_BATCH: i64 = 200;
/// Timers of one programme that one run of the sweep fires: one that was left alone for years takes several.
const TIMERS_MAX: usize = 200;

words! {
    /// How a programme is.
    pub enum ProgrammeState {
        /// It runs.
        Running = "running",
        /// The patient is lost; the next follow-up makes it run again.
        Lost = "lost",
        /// It came to its end.
        Completed = "completed",
        /// It was ended.
        Cancelled = "cancelled",
    }
}

words! {
    /// How a step was left.
    pub enum StepOutcome {
        /// It was not.
        Open = "open",
        /// Its form was answered.
        Answered = "answered",
        /// Its time was over.
        Passed = "passed",
        /// It was overdue, and the template says where to go on.
        Overdue = "overdue",
        /// The programme was moved to another step or version.
        Moved = "moved",
        /// The programme ended there.
        Ended = "ended",
    }
}

/// A programme to be started.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProgramme {
    /// The name of the template; its latest version is taken.
    #[schema(example = "hypertension")]
    pub template: String,
}

/// Where a programme is moved to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// Another version of the template; the same one when left out.
    pub template_id: Option<i64>,
    /// The step; the present one when left out.
    pub step: Option<String>,
    /// Why.
    #[schema(min_length = 1, max_length = 500)]
    pub reason: String,
    /// The version of the programme that was read.
    pub version: i64,
}

/// The end of a programme.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Cancellation {
    /// Why.
    #[schema(min_length = 1, max_length = 500)]
    pub reason: String,
    /// The version of the programme that was read.
    pub version: i64,
}

record! {
    /// A programme.
    pub struct CareProgramme in "care_programme" {
        /// Its id.
        pub programme_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The patient.
        pub patient_id: i64,
        /// The version of the template.
        pub template_id: i64,
        /// The name of the template.
        pub template: String,
        /// How it is.
        pub state: ProgrammeState,
        /// The step it is at.
        pub step: String,
        /// Steps entered so far.
        pub visit: i64,
        /// How often in a row it entered this step.
        pub repeats: i64,
        /// When it entered the step, in microseconds since 1970 (UTC).
        pub entered_at: Micros,
        /// When the step is due.
        pub due_at: Option<Micros>,
        /// Timers of the step that have fired.
        pub fired: i64,
        /// When the next one does; null when none is ahead.
        pub timer_at: Option<Micros>,
        /// Microseconds since 1970 (UTC).
        pub started_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub ended_at: Option<Micros>,
        /// Why it was ended or moved, for one that was.
        pub reason: Option<String>,
        /// Grows with each change.
        pub version: i64,
    }
}

record! {
    /// A step that a programme entered.
    pub struct CareStep in "care_step" {
        /// Its id.
        pub care_step_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The programme.
        pub programme_id: i64,
        /// The patient.
        pub patient_id: i64,
        /// Its number in the programme, from 1.
        pub visit: i64,
        /// The version of the template it was entered by.
        pub template_id: i64,
        /// The step.
        pub step: String,
        /// Microseconds since 1970 (UTC).
        pub entered_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub due_at: Option<Micros>,
        /// Since when it was overdue, if it ever was.
        pub overdue_at: Option<Micros>,
        /// Microseconds since 1970 (UTC).
        pub left_at: Option<Micros>,
        /// How it was left.
        pub outcome: StepOutcome,
        /// The follow-up that answered it.
        pub follow_up_id: Option<i64>,
    }
}

/// A programme with the steps it has entered.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ProgrammeDetail {
    /// The programme.
    #[serde(flatten)]
    pub programme: CareProgramme,
    /// Its steps, the oldest first.
    pub steps: Vec<CareStep>,
}

/// A programme with what moves it.
struct Moving {
    programme: CareProgramme,
    template: Template,
    patient: Patient,
}

/// Starts a programme.
///
/// # Errors
/// `NotFound` for an unknown patient, `Invalid` for an unknown template; `Conflict` without a consent, for a
/// patient who is not cared for, or when a programme of the template runs already.
pub async fn start(
    tx: &mut WriteTransaction,
    scope: Scope,
    patient_id: i64,
    new: &NewProgramme,
) -> Result<CareProgramme, OperationalError> {
    let patient = patients::lock_in_use(tx, scope, patient_id).await?;
    if patient.status == PatientStatus::Left {
        return Err(OperationalError::conflict(format!("patient {patient_id} has left")));
    }
    consents::require_care(tx, patient_id).await?;
    let runs: bool = sql("select exists (select 1 from care_programme
         where patient_id = ?1 and template = ?2 and state in ('running', 'lost'))")
    .bind(patient_id)
    .bind(&new.template)
    .value(tx)
    .await?;
    if runs {
        return Err(OperationalError::conflict(format!(
            "patient {patient_id} is in a programme of \"{}\" already",
            new.template
        )));
    }
    let stored = templates::latest(tx, scope, &new.template).await?;
    let template = stored.read()?;
    let first = template.start.clone();
    let programme = CareProgramme {
        programme_id: tx.id::<CareProgramme>(None).await?,
        tenant_id: scope.tenant_id,
        patient_id,
        template_id: stored.template_id,
        template: stored.name,
        state: ProgrammeState::Running,
        step: String::new(),
        visit: 0,
        repeats: 0,
        entered_at: Micros(scope.now),
        due_at: None,
        fired: 0,
        timer_at: None,
        started_at: Micros(scope.now),
        ended_at: None,
        reason: None,
        version: 1,
    };
    insert_one(tx, &programme).await?;
    let mut moving = Moving { programme, template, patient };
    enter(tx, scope, &mut moving, &first, scope.now).await?;
    save(tx, &mut moving.programme).await?;
    Ok(moving.programme)
}

/// Enters a step at a time; the one before must be left.
async fn enter(
    tx: &mut WriteTransaction,
    scope: Scope,
    moving: &mut Moving,
    to: &str,
    at: i64,
) -> Result<(), OperationalError> {
    let Moving { programme, template, patient } = moving;
    let step = machine::step(template, to)?;
    programme.visit += 1;
    programme.repeats = if programme.step == to { programme.repeats + 1 } else { 1 };
    to.clone_into(&mut programme.step);
    programme.entered_at = Micros(at);
    programme.due_at = machine::due_at(step, at).map(Micros);
    programme.fired = 0;
    programme.timer_at = next_timer(template, programme)?.map(|(at, _)| Micros(at));
    let ends = step.ends();
    if ends {
        programme.state = ProgrammeState::Completed;
        programme.ended_at = Some(Micros(at));
    }
    let entered = CareStep {
        care_step_id: tx.id::<CareStep>(None).await?,
        tenant_id: scope.tenant_id,
        programme_id: programme.programme_id,
        patient_id: programme.patient_id,
        visit: programme.visit,
        template_id: programme.template_id,
        step: programme.step.clone(),
        entered_at: Micros(at),
        due_at: programme.due_at,
        overdue_at: None,
        left_at: ends.then_some(Micros(at)),
        outcome: if ends { StepOutcome::Ended } else { StepOutcome::Open },
        follow_up_id: None,
    };
    insert_one(tx, &entered).await?;
    if let Some(severity) = step.alert {
        let about = About { programme, patient };
        about.raise(tx, scope, AlertKind::Step, severity, &step.title).await?;
    }
    Ok(())
}

/// Leaves the present step.
async fn leave(
    tx: &mut Connection,
    programme: &CareProgramme,
    at: i64,
    outcome: StepOutcome,
    follow_up_id: Option<i64>,
) -> Result<(), OperationalError> {
    sql("update care_step set left_at = ?3, outcome = ?4, follow_up_id = ?5
         where programme_id = ?1 and visit = ?2")
    .bind(programme.programme_id)
    .bind(programme.visit)
    .bind(Micros(at))
    .bind(outcome)
    .bind(follow_up_id)
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes what became of a programme.
async fn save(tx: &mut Connection, programme: &mut CareProgramme) -> Result<(), OperationalError> {
    programme.version += 1;
    sql("update care_programme set template_id = ?2, state = ?3, step = ?4, visit = ?5, repeats = ?6,
             entered_at = ?7, due_at = ?8, fired = ?9, timer_at = ?10, ended_at = ?11, reason = ?12,
             version = ?13
         where programme_id = ?1")
    .bind(programme.programme_id)
    .bind(programme.template_id)
    .bind(programme.state)
    .bind(&programme.step)
    .bind(programme.visit)
    .bind(programme.repeats)
    .bind(programme.entered_at)
    .bind(programme.due_at)
    .bind(programme.fired)
    .bind(programme.timer_at)
    .bind(programme.ended_at)
    .bind(&programme.reason)
    .bind(programme.version)
    .execute(tx)
    .await?;
    Ok(())
}

fn next_timer(
    template: &Template,
    programme: &CareProgramme,
) -> Result<Option<(i64, Timer)>, OperationalError> {
    let step = machine::step(template, &programme.step)?;
    let ahead = machine::timers(template, step, programme.entered_at.0);
    Ok(usize::try_from(programme.fired).ok().and_then(|fired| ahead.get(fired).copied()))
}

/// Whom an alert or a reminder is about.
struct About<'a> {
    programme: &'a CareProgramme,
    patient: &'a Patient,
}

impl About<'_> {
    fn cause(&self, kind: AlertKind) -> String {
        format!("{kind}:programme:{}:{}", self.programme.programme_id, self.programme.visit)
    }

    async fn raise(
        &self,
        tx: &mut WriteTransaction,
        scope: Scope,
        kind: AlertKind,
        severity: Severity,
        title: &str,
    ) -> Result<(), OperationalError> {
        let rule = format!("{}/{}/{kind}", self.programme.template, self.programme.step);
        let raise = Raise { kind, severity, rule, cause: self.cause(kind), title };
        alerts::raise(tx, scope, Some(self.patient), raise).await
    }

    /// Tells the patient of the step; each timer tells once.
    async fn tell(
        &self,
        tx: &mut WriteTransaction,
        scope: Scope,
        template: &str,
        title: &str,
    ) -> Result<(), OperationalError> {
        let CareProgramme { programme_id, visit, fired, due_at, .. } = self.programme;
        let due_on = due_at.map(|at| business_day(at.0)).transpose()?;
        let told = NotificationRequested {
            tenant_id: scope.tenant_id,
            request_key: format!("care:programme:{programme_id}:{visit}:{fired}"),
            template: template.to_owned(),
            person_id: self.patient.person_id,
            requested_at: scope.now,
            parameters: BTreeMap::from([
                ("step".to_owned(), title.to_owned()),
                ("due_on".to_owned(), due_on.map(|day| day.to_string()).unwrap_or_default()),
            ]),
        };
        outbox::put(tx, &told).await
    }
}

/// Fires a timer of the present step, which is due.
async fn fire(
    tx: &mut WriteTransaction,
    scope: Scope,
    moving: &mut Moving,
    (at, timer): (i64, Timer),
    told_from: i64,
) -> Result<(), OperationalError> {
    moving.programme.fired += 1;
    let tells = at >= told_from;
    let step = machine::step(&moving.template, &moving.programme.step)?.clone();
    let about = About { programme: &moving.programme, patient: &moving.patient };
    match timer {
        Timer::Remind { .. } => {
            if tells {
                about.tell(tx, scope, "care_reminder", &step.title).await?;
            }
        }
        Timer::Passed => {
            let known = known_of(tx, moving, at).await?;
            leave(tx, &moving.programme, at, StepOutcome::Passed, None).await?;
            let to = step.leads_to(&known).unwrap_or(&moving.template.start).to_owned();
            return enter(tx, scope, moving, &to, at).await;
        }
        Timer::Overdue => {
            sql("update care_step set overdue_at = ?3 where programme_id = ?1 and visit = ?2")
                .bind(moving.programme.programme_id)
                .bind(moving.programme.visit)
                .bind(Micros(at))
                .execute(tx)
                .await?;
            about.raise(tx, scope, AlertKind::Overdue, Severity::Warning, &step.title).await?;
            if tells {
                about.tell(tx, scope, "care_overdue_reminder", &step.title).await?;
            }
            if let Some(to) = &step.on_overdue {
                leave(tx, &moving.programme, at, StepOutcome::Overdue, None).await?;
                return enter(tx, scope, moving, to, at).await;
            }
        }
        Timer::Lost => {
            about.raise(tx, scope, AlertKind::Lost, Severity::Warning, &step.title).await?;
            moving.programme.state = ProgrammeState::Lost;
            let others: bool = sql("select exists (select 1 from care_programme
                 where patient_id = ?1 and programme_id <> ?2 and state = 'running')")
            .bind(moving.patient.patient_id)
            .bind(moving.programme.programme_id)
            .value(tx)
            .await?;
            if moving.patient.status == PatientStatus::Active && !others {
                let reason = format!("no follow-up for \"{}\"", step.title);
                moving.patient = patients::change_status(
                    tx,
                    scope,
                    &moving.patient,
                    PatientStatus::Lost,
                    &reason,
                )
                .await?;
            }
        }
    }
    let next = match moving.programme.state {
        ProgrammeState::Running => next_timer(&moving.template, &moving.programme)?,
        _ => None,
    };
    moving.programme.timer_at = next.map(|(at, _)| Micros(at));
    Ok(())
}

/// What rules know of a programme at a time.
async fn known_of(
    tx: &mut Connection,
    moving: &Moving,
    at: i64,
) -> Result<Facts, OperationalError> {
    let mut known = facts::of_patient(tx, &moving.patient, at).await?;
    let mut know = |name: &str, value: i64| {
        known.insert(name.to_owned(), Fact::Number(facts::number(value)));
    };
    know("visits", moving.programme.repeats);
    know("days_in_programme", (at - moving.programme.started_at.0).div_euclid(DAY_MICROS));
    Ok(known)
}

/// Fires the timers that are due; gives how many. Patients are told of those from `told_from` on: a
/// reminder of long ago helps nobody.
///
/// # Errors
/// When the database fails.
pub(crate) async fn sweep(
    tx: &mut WriteTransaction,
    now: i64,
    told_from: i64,
) -> Result<u64, OperationalError> {
    let due: Vec<(i64, i64, i64)> = sql("select p.tenant_id, p.patient_id, p.programme_id
         from care_programme p join patient using (patient_id)
         where p.timer_at <= ?1 and p.state = 'running' and status in ('active', 'lost')
         order by p.timer_at, p.programme_id limit ?2")
    .bind(Micros(now))
    .bind(SWEEP_BATCH)
    .all(tx)
    .await?;
    let mut read: HashMap<i64, Template> = HashMap::new();
    let mut fired = 0;
    for (tenant_id, patient_id, programme_id) in due {
        let scope = Scope::of(tenant_id, now);
        // Always the patient first, then the programme: no two transactions wait for each other.
        let patient = patients::lock(tx, scope, patient_id).await?;
        let programme = lock(tx, scope, programme_id).await?;
        let template = match read.get(&programme.template_id) {
            Some(template) => template.clone(),
            None => match templates::find(tx, tenant_id, programme.template_id).await?.read() {
                Ok(template) => {
                    read.insert(programme.template_id, template.clone());
                    template
                }
                Err(error) => {
                    postpone(tx, &programme, now, &error).await?;
                    fired += 1;
                    continue;
                }
            },
        };
        if machine::step(&template, &programme.step).is_err() {
            let error = OperationalError::conflict("the template lacks the step");
            postpone(tx, &programme, now, &error).await?;
            fired += 1;
            continue;
        }
        let mut moving = Moving { programme, template, patient };
        for _ in 0..TIMERS_MAX {
            let due = match moving.programme.state {
                ProgrammeState::Running => next_timer(&moving.template, &moving.programme)?,
                _ => None,
            };
            let Some(timer) = due.filter(|(at, _)| *at <= now) else { break };
            fire(tx, scope, &mut moving, timer, told_from).await?;
            fired += 1;
        }
        save(tx, &mut moving.programme).await?;
    }
    Ok(fired)
}

/// Leaves a programme alone for an hour whose template this program cannot use: the others go on.
async fn postpone(
    tx: &mut Connection,
    programme: &CareProgramme,
    now: i64,
    error: &OperationalError,
) -> Result<(), OperationalError> {
    tracing::error!(
        programme_id = programme.programme_id,
        error = error as &dyn std::error::Error,
        "a programme cannot go on; move it to another version of its template"
    );
    sql("update care_programme set timer_at = ?2 where programme_id = ?1")
        .bind(programme.programme_id)
        .bind(Micros(now + 3600 * 1_000_000))
        .execute(tx)
        .await?;
    Ok(())
}

async fn lock(
    tx: &mut WriteTransaction,
    scope: Scope,
    programme_id: i64,
) -> Result<CareProgramme, OperationalError> {
    sql("select * from care_programme where programme_id = ?1 and tenant_id = ?2 for update")
        .bind(programme_id)
        .bind(scope.tenant_id)
        .first(tx)
        .await?
        .ok_or(OperationalError::not_found("care_programme", programme_id))
}

/// A programme and its template, for an answer to its step. The patient's row is held.
pub(crate) async fn asked(
    tx: &mut WriteTransaction,
    scope: Scope,
    patient: &Patient,
    programme_id: i64,
) -> Result<(CareProgramme, Template), OperationalError> {
    let programme = lock(tx, scope, programme_id).await?;
    if programme.patient_id != patient.patient_id {
        return Err(OperationalError::not_found("care_programme", programme_id));
    }
    if !matches!(programme.state, ProgrammeState::Running | ProgrammeState::Lost) {
        return Err(OperationalError::conflict(format!(
            "care_programme {programme_id} is {}",
            programme.state
        )));
    }
    let stored: CareTemplate = templates::find(tx, scope.tenant_id, programme.template_id).await?;
    Ok((programme, stored.read()?))
}

/// Moves a programme on by the answers to its step.
pub(crate) async fn answered(
    tx: &mut WriteTransaction,
    scope: Scope,
    patient: Patient,
    (programme, template): (CareProgramme, Template),
    answers: Facts,
    (follow_up_id, performed_at): (i64, i64),
) -> Result<(), OperationalError> {
    let mut moving = Moving { programme, template, patient };
    let at = performed_at.max(moving.programme.entered_at.0);
    let about = About { programme: &moving.programme, patient: &moving.patient };
    for kind in [AlertKind::Overdue, AlertKind::Lost] {
        alerts::settle(tx, scope, &about.cause(kind)).await?;
    }
    let mut known = known_of(tx, &moving, at).await?;
    known.extend(answers);
    let step = machine::step(&moving.template, &moving.programme.step)?;
    let to = step.leads_to(&known).unwrap_or(&moving.template.start).to_owned();
    moving.programme.state = ProgrammeState::Running;
    leave(tx, &moving.programme, at, StepOutcome::Answered, Some(follow_up_id)).await?;
    enter(tx, scope, &mut moving, &to, at).await?;
    save(tx, &mut moving.programme).await
}

/// The templates of the programmes a patient is in, for their rules over readings.
pub(crate) async fn templates_of(
    on: &mut Connection,
    patient: &Patient,
) -> Result<Vec<Template>, OperationalError> {
    let stored: Vec<CareTemplate> = sql("select t.* from care_template t
         join care_programme p on p.template_id = t.template_id
         where p.patient_id = ?1 and p.state in ('running', 'lost') order by p.programme_id")
    .bind(patient.patient_id)
    .all(on)
    .await?;
    stored.iter().map(CareTemplate::read).collect()
}

/// Programme, patient and template for a change by a person.
async fn to_change(
    tx: &mut WriteTransaction,
    scope: Scope,
    programme_id: i64,
    version: i64,
    reason: &str,
) -> Result<(CareProgramme, Patient), OperationalError> {
    if reason.trim().is_empty() || reason.chars().count() > 500 {
        return Err(OperationalError::invalid("reason must have 1 to 500 characters"));
    }
    let found: Option<(i64,)> =
        sql("select patient_id from care_programme where programme_id = ?1 and tenant_id = ?2")
            .bind(programme_id)
            .bind(scope.tenant_id)
            .first(tx)
            .await?;
    let (patient_id,) = found.ok_or(OperationalError::not_found("care_programme", programme_id))?;
    let patient = patients::lock_in_use(tx, scope, patient_id).await?;
    let programme = lock(tx, scope, programme_id).await?;
    if programme.version != version {
        return Err(OperationalError::conflict(format!(
            "care_programme {programme_id} is of version {}, not {version}: read it again",
            programme.version
        )));
    }
    if !matches!(programme.state, ProgrammeState::Running | ProgrammeState::Lost) {
        return Err(OperationalError::conflict(format!(
            "care_programme {programme_id} is {}",
            programme.state
        )));
    }
    Ok((programme, patient))
}

/// Moves a programme to another version of its template, to another step, or both.
///
/// # Errors
/// `NotFound`; `Invalid` for a version of another template; `Conflict` when the version has no such step, or
/// somebody else changed the programme.
pub async fn move_to(
    tx: &mut WriteTransaction,
    scope: Scope,
    programme_id: i64,
    to: &Move,
) -> Result<CareProgramme, OperationalError> {
    let (mut programme, patient) =
        to_change(tx, scope, programme_id, to.version, &to.reason).await?;
    let template_id = to.template_id.unwrap_or(programme.template_id);
    let stored = templates::find(tx, scope.tenant_id, template_id).await?;
    if stored.name != programme.template {
        return Err(OperationalError::invalid(format!(
            "template {template_id} is a version of \"{}\", not of \"{}\"",
            stored.name, programme.template
        )));
    }
    let template = stored.read()?;
    let step = to.step.clone().unwrap_or_else(|| programme.step.clone());
    machine::step(&template, &step)?;
    leave(tx, &programme, scope.now, StepOutcome::Moved, None).await?;
    programme.template_id = template_id;
    programme.state = ProgrammeState::Running;
    programme.reason = Some(to.reason.trim().to_owned());
    let mut moving = Moving { programme, template, patient };
    enter(tx, scope, &mut moving, &step, scope.now).await?;
    save(tx, &mut moving.programme).await?;
    Ok(moving.programme)
}

/// Ends a programme.
///
/// # Errors
/// `NotFound`; `Conflict` when it has ended, or somebody else changed it.
pub async fn cancel(
    tx: &mut WriteTransaction,
    scope: Scope,
    programme_id: i64,
    end: &Cancellation,
) -> Result<CareProgramme, OperationalError> {
    let (mut programme, _) = to_change(tx, scope, programme_id, end.version, &end.reason).await?;
    leave(tx, &programme, scope.now, StepOutcome::Ended, None).await?;
    programme.state = ProgrammeState::Cancelled;
    programme.ended_at = Some(Micros(scope.now));
    programme.timer_at = None;
    programme.reason = Some(end.reason.trim().to_owned());
    save(tx, &mut programme).await?;
    Ok(programme)
}

/// A programme.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    on: &mut Connection,
    scope: Scope,
    programme_id: i64,
) -> Result<CareProgramme, OperationalError> {
    sql("select * from care_programme where programme_id = ?1 and tenant_id = ?2")
        .bind(programme_id)
        .bind(scope.tenant_id)
        .first(on)
        .await?
        .ok_or(OperationalError::not_found("care_programme", programme_id))
}

/// The programmes of a patient, the oldest first.
///
/// # Errors
/// When the database fails.
pub async fn of_patient(
    on: &mut Connection,
    patient_id: i64,
) -> Result<Vec<CareProgramme>, OperationalError> {
    sql("select * from care_programme where patient_id = ?1 order by programme_id limit 1000")
        .bind(patient_id)
        .all(on)
        .await
}
