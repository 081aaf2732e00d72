//! Follow-ups: what a doctor or nurse found when they saw or called a patient.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    facts::age_on,
    forms::{Answers, FollowUpAnswer},
    patients::{self, Condition, PatientStatus},
    programmes,
    templates::{self, Form, Template},
};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    calendar::business_day,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List},
    scope::check_time,
};

/// The templates that come with the program; their targets hold where no programme says otherwise.
static SHIPPED: LazyLock<Vec<Template>> = LazyLock::new(|| {
    ["hypertension", "type_2_diabetes"]
        .into_iter()
        .filter_map(|name| Template::read(templates::shipped(name)?).ok())
        .collect()
});

words! {
    /// How a patient was met.
    pub enum Method {
        /// Face to face.
        Visit = "visit",
        /// By phone.
        Phone = "phone",
        /// Online.
        Online = "online",
    }
}

/// A follow-up to be recorded.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewFollowUp {
    /// The patient.
    pub patient_id: i64,
    /// When, in microseconds since 1970 (UTC); now when left out.
    pub performed_at: Option<i64>,
    /// How.
    pub method: Method,
    /// Upper pressure; with `diastolic_mmhg`.
    pub systolic_mmhg: Option<i64>,
    /// Lower pressure; with `systolic_mmhg`.
    pub diastolic_mmhg: Option<i64>,
    /// Fasting glucose, micromol per litre.
    pub fasting_glucose_umol_per_l: Option<i64>,
    /// Whether the patient is at target; worked out from the values when left out.
    pub on_target: Option<bool>,
    /// Anything else.
    #[schema(max_length = 2000)]
    pub note: Option<String>,
    /// The programme whose step it answers.
    pub programme_id: Option<i64>,
    /// Which visit of the programme that is, as it was read: when somebody else answered that one meanwhile,
    /// this is refused instead of counting as the next. The present one when left out.
    #[schema(minimum = 1)]
    pub visit: Option<i64>,
    /// Answers to the form of the step, by field.
    #[serde(default)]
    pub answers: BTreeMap<String, Value>,
}

impl NewFollowUp {
    /// One that found nothing yet.
    #[must_use]
    pub fn new(patient_id: i64, method: Method) -> Self {
        Self {
            patient_id,
            performed_at: None,
            method,
            systolic_mmhg: None,
            diastolic_mmhg: None,
            fasting_glucose_umol_per_l: None,
            on_target: None,
            note: None,
            programme_id: None,
            visit: None,
            answers: BTreeMap::new(),
        }
    }

    /// Answers to a form; a value that is given beside them and that the form asks for is one of them.
    fn answers(&self, form: &Form) -> Result<Answers, OperationalError> {
        let mut given = self.answers.clone();
        let asked = |name: &str| form.fields.iter().any(|field| field.name == name);
        let glucose = self.fasting_glucose_umol_per_l.map(mmol).map(Value::from);
        for (name, value) in [
            ("systolic_mmhg", self.systolic_mmhg.map(Value::from)),
            ("diastolic_mmhg", self.diastolic_mmhg.map(Value::from)),
            ("fasting_glucose_mmol_per_l", glucose),
        ] {
            if let Some(value) = value.filter(|_| asked(name)) {
                given.entry(name.to_owned()).or_insert(value);
            }
        }
        Answers::check(form, &given)
    }
}

/// Millimol of a value in micromol.
fn mmol(micromol: i64) -> f64 {
    super::facts::number(micromol) / 1000.0
}

/// Micromol of an answer in millimol; a form has no answer of more than 50.
#[expect(clippy::cast_possible_truncation, reason = "a checked answer is at most 1e15")]
fn micromol(millimol: f64) -> i64 {
    (millimol * 1000.0).round() as i64
}

record! {
    /// A follow-up.
    pub struct FollowUp in "follow_up" {
        /// Its id.
        pub follow_up_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The patient.
        pub patient_id: i64,
        /// When, in microseconds since 1970 (UTC).
        pub performed_at: Micros,
        /// How.
        pub method: Method,
        /// Upper pressure.
        pub systolic_mmhg: Option<i64>,
        /// Lower pressure.
        pub diastolic_mmhg: Option<i64>,
        /// Fasting glucose, micromol per litre.
        pub fasting_glucose_umol_per_l: Option<i64>,
        /// Whether the patient is at target; null when the values do not say.
        pub on_target: Option<bool>,
        /// Anything else.
        pub note: Option<String>,
        /// The programme whose step it answered.
        pub programme_id: Option<i64>,
        /// The form.
        pub form: Option<String>,
    }
}

/// Whether values are at the target of a condition, by the national norm. `None` when the value that the
/// condition asks for is missing.
fn on_target(
    condition: Condition,
    programme: Option<&Template>,
    day: chrono::NaiveDate,
    age_years: Option<i64>,
    found: &FollowUp,
) -> Option<bool> {
    let pressure = found.systolic_mmhg.zip(found.diastolic_mmhg);
    let glucose = found.fasting_glucose_umol_per_l.map(mmol);
    let of_condition = || SHIPPED.iter().find(|template| template.condition == condition);
    // Another programme of the patient has no say in what they are enrolled for.
    let template = programme.filter(|of| of.condition == condition).or_else(of_condition)?;
    template.on_target(day, age_years, pressure, glucose)
}

/// Records a follow-up, and moves the programme on whose step it answers. A lost patient is found.
///
/// # Errors
/// `NotFound` for an unknown patient or programme; `Invalid` for values no device shows, half a pressure or
/// answers that do not fit the form; `Conflict` when the programme has ended, or somebody else answered the
/// visit.
pub async fn record(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewFollowUp,
) -> Result<FollowUp, OperationalError> {
    if new.systolic_mmhg.is_some() != new.diastolic_mmhg.is_some() {
        return Err(OperationalError::invalid("systolic_mmhg and diastolic_mmhg go together"));
    }
    let outside = |value: Option<i64>, most: i64| value.is_some_and(|v| !(1..=most).contains(&v));
    if outside(new.systolic_mmhg, 400)
        || outside(new.diastolic_mmhg, 400)
        || outside(new.fasting_glucose_umol_per_l, 100_000)
    {
        return Err(OperationalError::invalid("no device shows such a value"));
    }
    if new.note.as_ref().is_some_and(|note| note.chars().count() > 2000) {
        return Err(OperationalError::invalid("note must have at most 2000 characters"));
    }
    check_time("performed_at", new.performed_at)?;
    let patient = patients::lock_in_use(tx, scope, new.patient_id).await?;
    let performed_at = new.performed_at.unwrap_or(scope.now);
    let asked = match new.programme_id {
        Some(_) if performed_at > scope.now => {
            return Err(OperationalError::invalid("performed_at must not be in the future"));
        }
        Some(id) => Some(programmes::asked(tx, scope, &patient, id).await?),
        None if new.answers.is_empty() && new.visit.is_none() => None,
        None => return Err(OperationalError::invalid("answers and visit go with a programme_id")),
    };
    if let (Some(visit), Some((programme, _))) = (new.visit, &asked)
        && visit != programme.visit
    {
        return Err(OperationalError::conflict(format!(
            "care_programme {} is at visit {}, not {visit}: read it again",
            programme.programme_id, programme.visit
        )));
    }
    let mut follow_up = FollowUp {
        follow_up_id: tx.id::<FollowUp>(None).await?,
        tenant_id: scope.tenant_id,
        patient_id: new.patient_id,
        performed_at: Micros(performed_at),
        method: new.method,
        systolic_mmhg: new.systolic_mmhg,
        diastolic_mmhg: new.diastolic_mmhg,
        fasting_glucose_umol_per_l: new.fasting_glucose_umol_per_l,
        on_target: new.on_target,
        note: new.note.clone(),
        programme_id: new.programme_id,
        form: None,
    };
    let mut answers = Answers::default();
    if let Some((programme, template)) = &asked {
        let step = programmes::machine::step(template, &programme.step)?;
        let Some(form) = step.form.as_ref().and_then(|form| template.form(form)) else {
            return Err(OperationalError::conflict(format!(
                "step \"{}\" of care_programme {} asks for nothing",
                step.name, programme.programme_id
            )));
        };
        answers = new.answers(form)?;
        follow_up.form = Some(form.name.clone());
        follow_up.systolic_mmhg = answers.whole("systolic_mmhg").or(new.systolic_mmhg);
        follow_up.diastolic_mmhg = answers.whole("diastolic_mmhg").or(new.diastolic_mmhg);
        let glucose = answers.number("fasting_glucose_mmol_per_l").map(micromol);
        follow_up.fasting_glucose_umol_per_l = glucose.or(new.fasting_glucose_umol_per_l);
    }
    let day = business_day(performed_at)?;
    let programme = asked.as_ref().map(|(_, template)| template);
    follow_up.on_target = follow_up.on_target.or_else(|| {
        on_target(patient.condition, programme, day, age_on(&patient, day), &follow_up)
    });
    insert_one(tx, &follow_up).await?;
    answers.store(tx, scope, follow_up.follow_up_id).await?;
    let patient = match patient.status {
        PatientStatus::Lost => {
            patients::change_status(tx, scope, &patient, PatientStatus::Active, "followed up")
                .await?
        }
        _ => patient,
    };
    if let Some(asked) = asked {
        let found = (follow_up.follow_up_id, performed_at);
        programmes::answered(tx, scope, patient, asked, answers.facts(), found).await?;
    }
    Ok(follow_up)
}

/// The follow-ups of a patient, the newest first.
///
/// # Errors
/// When the database fails.
pub async fn of_patient(
    connection: &mut Connection,
    patient_id: i64,
) -> Result<Vec<FollowUp>, OperationalError> {
    sql(
        "select * from follow_up where patient_id = ?1 order by performed_at desc, follow_up_id desc",
    )
    .bind(patient_id)
    .all(connection)
    .await
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/chronic-care/follow-ups", routing::post(post))
        .route("/chronic-care/follow-ups/{id}/answers", routing::get(get_answers))
}

/// The answers of a follow-up.
#[utoipa::path(get, path = "/chronic-care/follow-ups/{id}/answers", tag = "chronic-care",
    params(("id" = i64, Path)),
    responses((status = 200, body = List<FollowUpAnswer>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_answers(
    State(services): State<Services>,
    scope: Scope,
    Id(follow_up_id): Id,
) -> Result<Json<List<FollowUpAnswer>>, Failure> {
    let mut tx = services.chronic_care().read().await?;
    let found: Option<FollowUp> =
        sql("select * from follow_up where follow_up_id = ?1 and tenant_id = ?2")
            .bind(follow_up_id)
            .bind(scope.tenant_id)
            .first(&mut tx)
            .await?;
    let found = found.ok_or(OperationalError::not_found("follow_up", follow_up_id))?;
    patients::find(&mut tx, scope, found.patient_id)
        .await
        .map_err(|error| error.of("follow_up", follow_up_id))?;
    let items = sql("select * from follow_up_answer where follow_up_id = ?1
         order by answer_id limit 10000")
    .bind(follow_up_id)
    .all(&mut tx)
    .await?;
    Ok(Json(List { items }))
}

/// Record a follow-up.
#[utoipa::path(post, path = "/chronic-care/follow-ups", tag = "chronic-care",
    request_body = NewFollowUp, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = FollowUp), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewFollowUp>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.chronic_care(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(record(tx, scope, new.clone())),
        )
        .await
}
