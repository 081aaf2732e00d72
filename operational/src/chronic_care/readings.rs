//! Readings: blood pressure and glucose, at home or at the office, in one unit each, with flags for what is
//! remarkable about them.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    alerts::{self, AlertKind, Raise},
    facts::{self, number},
    measurement::{
        Flag, Values, measured_at, mmhg_of_kpa, umol_per_l_of_mg_per_dl, umol_per_l_of_mmol_per_l,
    },
    patients::{self, Patient},
    programmes,
    templates::{Setting, rule::Fact},
};
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Params},
    scope::check_time,
};

const MINUTE_MICROS: i64 = 60 * 1_000_000;
/// Readings older than this raise no alerts: they are history.
const ALARMING_FOR_MICROS: i64 = 24 * 60 * MINUTE_MICROS;

words! {
    /// What was measured.
    pub enum ReadingKind {
        /// Systolic and diastolic, perhaps with the pulse.
        BloodPressure = "blood_pressure",
        /// Glucose in blood.
        Glucose = "glucose",
    }
}

words! {
    /// Whether a reading can be right.
    pub enum Quality {
        /// It can.
        Ok = "ok",
        /// It is kept, and looks like a fault of the device or of its use.
        Suspect = "suspect",
    }
}

words! {
    /// When glucose was measured.
    pub enum Meal {
        /// Eight hours after the last meal or more.
        Fasting = "fasting",
        /// Two hours after a meal.
        AfterMeal = "after_meal",
        /// At any time.
        Random = "random",
    }
}

/// What was measured, in the unit of the device: each value in one unit only.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Measured {
    pub(crate) systolic_mmhg: Option<i64>,
    pub(crate) diastolic_mmhg: Option<i64>,
    pub(crate) systolic_kpa: Option<f64>,
    pub(crate) diastolic_kpa: Option<f64>,
    pub(crate) pulse_per_min: Option<i64>,
    pub(crate) glucose_umol_per_l: Option<i64>,
    pub(crate) glucose_mmol_per_l: Option<f64>,
    pub(crate) glucose_mg_per_dl: Option<f64>,
    pub(crate) meal: Option<Meal>,
}

/// A reading to be recorded.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReading {
    /// The patient.
    pub patient_id: i64,
    /// What was measured.
    pub kind: ReadingKind,
    /// With kind `blood_pressure`.
    pub systolic_mmhg: Option<i64>,
    /// With kind `blood_pressure`.
    pub diastolic_mmhg: Option<i64>,
    /// With kind `blood_pressure`, instead of `systolic_mmhg`.
    pub systolic_kpa: Option<f64>,
    /// With kind `blood_pressure`, instead of `diastolic_mmhg`.
    pub diastolic_kpa: Option<f64>,
    /// Heart beats a minute, perhaps with kind `blood_pressure`.
    pub pulse_per_min: Option<i64>,
    /// With kind `glucose`: micromol per litre, a thousandth of a mmol/L.
    pub glucose_umol_per_l: Option<i64>,
    /// With kind `glucose`, instead of `glucose_umol_per_l`.
    pub glucose_mmol_per_l: Option<f64>,
    /// With kind `glucose`, instead of `glucose_umol_per_l`; divided by 18.016.
    pub glucose_mg_per_dl: Option<f64>,
    /// Perhaps with kind `glucose`.
    pub meal: Option<Meal>,
    /// When, in microseconds since 1970 (UTC); now when left out.
    pub measured_at: Option<i64>,
    /// Where; at home when left out.
    pub setting: Option<Setting>,
}

impl NewReading {
    /// A reading without values yet.
    #[must_use]
    pub fn new(patient_id: i64, kind: ReadingKind) -> Self {
        Self {
            patient_id,
            kind,
            systolic_mmhg: None,
            diastolic_mmhg: None,
            systolic_kpa: None,
            diastolic_kpa: None,
            pulse_per_min: None,
            glucose_umol_per_l: None,
            glucose_mmol_per_l: None,
            glucose_mg_per_dl: None,
            meal: None,
            measured_at: None,
            setting: None,
        }
    }
}

/// What was measured, of a structure that has its fields.
macro_rules! measured {
    ($of:expr) => {
        $crate::chronic_care::readings::Measured {
            systolic_mmhg: $of.systolic_mmhg,
            diastolic_mmhg: $of.diastolic_mmhg,
            systolic_kpa: $of.systolic_kpa,
            diastolic_kpa: $of.diastolic_kpa,
            pulse_per_min: $of.pulse_per_min,
            glucose_umol_per_l: $of.glucose_umol_per_l,
            glucose_mmol_per_l: $of.glucose_mmol_per_l,
            glucose_mg_per_dl: $of.glucose_mg_per_dl,
            meal: $of.meal,
        }
    };
}

pub(crate) use measured;

record! {
    /// A reading.
    pub struct Reading in "reading" {
        /// Its id.
        pub reading_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The patient.
        pub patient_id: i64,
        /// What was measured.
        pub kind: ReadingKind,
        /// Upper pressure.
        pub systolic_mmhg: Option<i64>,
        /// Lower pressure.
        pub diastolic_mmhg: Option<i64>,
        /// Heart beats a minute.
        pub pulse_per_min: Option<i64>,
        /// Micromol per litre.
        pub glucose_umol_per_l: Option<i64>,
        /// Whether it can be right.
        pub quality: Quality,
        /// Microseconds since 1970 (UTC).
        pub measured_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub recorded_at: Micros,
        /// Where it was measured.
        pub setting: Setting,
        /// When glucose was measured.
        pub meal: Option<Meal>,
        /// The device, if one sent it.
        pub device_id: Option<i64>,
        /// What its clock said.
        pub device_measured_at: Option<Micros>,
        /// What is remarkable about it, with commas between.
        pub flags: String,
    }
}

impl Measured {
    /// The values in the units they are kept in.
    ///
    /// # Errors
    /// `Invalid` for values that do not go with the kind, are given twice, or that no device shows.
    pub(crate) fn values(&self, kind: ReadingKind) -> Result<Values, OperationalError> {
        let units = [
            [self.systolic_mmhg.is_some(), self.systolic_kpa.is_some(), false],
            [self.diastolic_mmhg.is_some(), self.diastolic_kpa.is_some(), false],
            [
                self.glucose_umol_per_l.is_some(),
                self.glucose_mmol_per_l.is_some(),
                self.glucose_mg_per_dl.is_some(),
            ],
        ];
        if units.iter().any(|given| given.iter().filter(|given| **given).count() > 1) {
            return Err(OperationalError::invalid(
                "each value is given in one unit, not in several",
            ));
        }
        let systolic = self.systolic_kpa.map(mmhg_of_kpa);
        let diastolic = self.diastolic_kpa.map(mmhg_of_kpa);
        let millimol = self.glucose_mmol_per_l.map(umol_per_l_of_mmol_per_l);
        let milligram = self.glucose_mg_per_dl.map(umol_per_l_of_mg_per_dl);
        let values = Values {
            systolic_mmhg: self.systolic_mmhg.or(systolic.transpose()?),
            diastolic_mmhg: self.diastolic_mmhg.or(diastolic.transpose()?),
            pulse_per_min: self.pulse_per_min,
            glucose_umol_per_l: self
                .glucose_umol_per_l
                .or(millimol.transpose()?)
                .or(milligram.transpose()?),
        };
        let pressure = values.systolic_mmhg.is_some() && values.diastolic_mmhg.is_some();
        let any_pressure = values.systolic_mmhg.is_some()
            || values.diastolic_mmhg.is_some()
            || values.pulse_per_min.is_some();
        let glucose = values.glucose_umol_per_l.is_some();
        let fits = match kind {
            ReadingKind::BloodPressure => pressure && !glucose && self.meal.is_none(),
            ReadingKind::Glucose => glucose && !any_pressure,
        };
        if !fits {
            return Err(OperationalError::invalid(
                "blood_pressure goes with systolic_mmhg and diastolic_mmhg, glucose with \
                 glucose_umol_per_l, and with nothing else",
            ));
        }
        let outside =
            |value: Option<i64>, most: i64| value.is_some_and(|v| !(1..=most).contains(&v));
        if outside(values.systolic_mmhg, 400)
            || outside(values.diastolic_mmhg, 400)
            || outside(values.pulse_per_min, 400)
            || outside(values.glucose_umol_per_l, 100_000)
        {
            return Err(OperationalError::invalid("no device shows such a value"));
        }
        Ok(values)
    }
}

/// A reading as it is taken in.
pub(crate) struct Taken {
    pub(crate) kind: ReadingKind,
    pub(crate) values: Values,
    pub(crate) meal: Option<Meal>,
    pub(crate) setting: Setting,
    pub(crate) measured_at: i64,
    /// The device, what its clock said, and what is remarkable about that.
    pub(crate) device: Option<(i64, i64)>,
    pub(crate) flags: Vec<Flag>,
}

/// Records a reading that somebody entered; its quality follows from its values. The same one again changes
/// nothing and is answered with the first.
///
/// # Errors
/// `NotFound` for an unknown patient, `Invalid` for values that do not go with the kind.
pub async fn record(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewReading,
) -> Result<Reading, OperationalError> {
    let values = measured!(new).values(new.kind)?;
    check_time("measured_at", new.measured_at)?;
    let patient = patients::lock_in_use(tx, scope, new.patient_id).await?;
    // What a person enters is of the day they say, however long ago.
    let (at, flag) = measured_at(new.measured_at.unwrap_or(scope.now), Some(0), scope.now);
    let taken = Taken {
        kind: new.kind,
        values,
        meal: new.meal,
        setting: new.setting.unwrap_or(Setting::Home),
        measured_at: at,
        device: None,
        flags: flag.into_iter().collect(),
    };
    Ok(take(tx, scope, &patient, taken).await?.0)
}

/// Stores a reading of a patient whose row is held, and raises the alerts that their programmes ask for.
/// Tells whether it is new.
///
/// # Errors
/// When the database fails.
pub(crate) async fn take(
    tx: &mut WriteTransaction,
    scope: Scope,
    patient: &Patient,
    taken: Taken,
) -> Result<(Reading, bool), OperationalError> {
    let Taken { kind, values, meal, setting, measured_at, device, mut flags } = taken;
    let near: Vec<Reading> = sql("select * from reading
         where patient_id = ?1 and measured_at between ?2 and ?3 and kind = ?4
         order by reading_id limit 100")
    .bind(patient.patient_id)
    .bind(Micros(measured_at - MINUTE_MICROS))
    .bind(Micros(measured_at + MINUTE_MICROS))
    .bind(kind)
    .all(tx)
    .await?;
    let device_id = device.map(|(device_id, _)| device_id);
    let device_time = device.map(|(_, at)| Micros(at));
    for other in near.iter().filter(|other| other.values() == values) {
        let same_moment = match device_time {
            // Its own clock tells whether it is the same one: by ours it may have moved.
            Some(_) => other.device_measured_at == device_time,
            None => other.measured_at == measured_at,
        };
        if other.device_id == device_id && same_moment {
            return Ok((other.clone(), false));
        }
        if other.device_id != device_id && !flags.contains(&Flag::Duplicate) {
            flags.push(Flag::Duplicate);
        }
    }
    flags.extend(values.flags());
    let quality =
        if flags.iter().all(|flag| flag.is_harmless()) { Quality::Ok } else { Quality::Suspect };
    let words: Vec<&str> = flags.iter().map(|flag| flag.word()).collect();
    let reading = Reading {
        reading_id: tx.id::<Reading>(None).await?,
        tenant_id: scope.tenant_id,
        patient_id: patient.patient_id,
        kind,
        systolic_mmhg: values.systolic_mmhg,
        diastolic_mmhg: values.diastolic_mmhg,
        pulse_per_min: values.pulse_per_min,
        glucose_umol_per_l: values.glucose_umol_per_l,
        quality,
        measured_at: Micros(measured_at),
        recorded_at: Micros(scope.now),
        setting,
        meal,
        device_id,
        device_measured_at: device_time,
        flags: words.join(","),
    };
    insert_one(tx, &reading).await?;
    if quality == Quality::Ok && scope.now - measured_at <= ALARMING_FOR_MICROS {
        alarm(tx, scope, patient, &reading).await?;
    }
    Ok((reading, true))
}

impl Reading {
    fn values(&self) -> Values {
        Values {
            systolic_mmhg: self.systolic_mmhg,
            diastolic_mmhg: self.diastolic_mmhg,
            pulse_per_min: self.pulse_per_min,
            glucose_umol_per_l: self.glucose_umol_per_l,
        }
    }
}

/// Raises what the templates of the patient's programmes find alarming about a reading.
async fn alarm(
    tx: &mut WriteTransaction,
    scope: Scope,
    patient: &Patient,
    reading: &Reading,
) -> Result<(), OperationalError> {
    let templates = programmes::templates_of(tx, patient).await?;
    if templates.is_empty() {
        return Ok(());
    }
    let mut known = facts::of_patient(tx, patient, reading.measured_at.0).await?;
    for (name, value) in [
        ("systolic_mmhg", reading.systolic_mmhg.map(number)),
        ("diastolic_mmhg", reading.diastolic_mmhg.map(number)),
        ("pulse_per_min", reading.pulse_per_min.map(number)),
        ("glucose_mmol_per_l", reading.glucose_umol_per_l.map(|umol| number(umol) / 1000.0)),
    ] {
        known.extend(value.map(|value| (name.to_owned(), Fact::Number(value))));
    }
    known.extend(reading.meal.map(|meal| ("meal".to_owned(), Fact::Text(meal.to_string()))));
    for template in templates {
        let rules = template.alerts.iter().filter(|rule| rule.setting == reading.setting);
        for rule in rules.filter(|rule| rule.when.holds(&known)) {
            let raise = Raise {
                kind: AlertKind::Reading,
                severity: rule.severity,
                rule: format!("{}/{}", template.name, rule.name),
                cause: format!("reading:{}:{}/{}", reading.reading_id, template.name, rule.name),
                title: &rule.title,
            };
            alerts::raise(tx, scope, Some(patient), raise).await?;
        }
    }
    Ok(())
}

/// Which readings are listed.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// Only those of this kind.
    kind: Option<ReadingKind>,
    /// Only those measured at this time or later, in microseconds since 1970 (UTC).
    from: Option<i64>,
    /// Only those measured before this time, in microseconds since 1970 (UTC).
    until: Option<i64>,
    /// Only rows with a higher id.
    #[serde(default)]
    after_id: i64,
    /// At most this many rows, up to 1000.
    #[serde(default)]
    limit: crate::Limit,
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/chronic-care/readings", routing::post(post))
        .route("/chronic-care/patients/{id}/readings", routing::get(get_all))
}

/// The readings of a patient, in the order they came in.
#[utoipa::path(get, path = "/chronic-care/patients/{id}/readings", tag = "chronic-care",
    params(("id" = i64, Path), Filter),
    responses((status = 200, body = List<Reading>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Id(patient_id): Id,
    Params(filter): Params<Filter>,
) -> Result<Json<List<Reading>>, Failure> {
    check_time("from", filter.from)?;
    check_time("until", filter.until)?;
    let mut tx = services.chronic_care().read().await?;
    patients::find(&mut tx, scope, patient_id).await?;
    let items = sql("select * from reading where patient_id = ?1 and reading_id > ?2
             and (?3 is null or kind = ?3) and (?4 is null or measured_at >= ?4)
             and (?5 is null or measured_at < ?5)
         order by reading_id limit ?6")
    .bind(patient_id)
    .bind(filter.after_id)
    .bind(filter.kind)
    .bind(filter.from.map(Micros))
    .bind(filter.until.map(Micros))
    .bind(filter.limit.rows())
    .all(&mut tx)
    .await?;
    Ok(Json(List { items }))
}

/// Record a reading.
#[utoipa::path(post, path = "/chronic-care/readings", tag = "chronic-care",
    request_body = NewReading, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Reading), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewReading>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.chronic_care(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(record(tx, scope, *new)),
        )
        .await
}
