//! Plays Synthea's synthetic patients into chronic care. Of its CSV files, `patients`, `conditions`,
//! `medications`, `observations` and `encounters` are read.
//!
//! - a patient is a patient and a person: the row's number plus 50,000,000. They are enrolled, for
//!   hypertension or diabetes if they ever have either, at their first encounter;
//! - a condition that has a code of ICD-10 below becomes a condition; the others, most of which are
//!   circumstances of life, are counted;
//! - a medication is dispensed as often as it says, every 30 days for 30 days, from a hospital; the
//!   drug is its RxNorm code, or its ATC code where it is one of those below, and then there is a plan;
//! - an encounter is a follow-up: a visit, with the pressures and the glucose that were observed in it;
//! - pressures, pulse and glucose are readings, too.
//!
//! What happened before 1970 is left out and counted: the services know no such time. A patient is
//! written in one transaction, so a replay that was stopped goes on with the next one.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use chrono::{DateTime, Days, NaiveDate};
use medlake_operational::{
    OperationalError, Scope, Services, WriteTransaction,
    calendar::{self, midnight},
    chronic_care::{
        conditions::{self, ConditionEnd, NewCondition},
        dispensings::{self, DispensingSource, NewDispensing},
        follow_ups::{self, Method, NewFollowUp},
        medication_plans::{self, NewMedicationPlan},
        patients::{self, Condition, NewPatient, Sex},
        readings::{self, NewReading, ReadingKind},
        templates::Setting,
    },
};

use super::{
    delimited::Delimited,
    recording::{Pace, ReplayReport, SYNTHEA_IDS},
    replay_devices::{umol_per_l, whole},
};

const PROGRESS: &str = "replay synthea";
const DAYS_SUPPLY: i64 = 30;

/// Codes of SNOMED CT with the code of ICD-10 for the same.
const CONDITIONS: [(&str, &str); 14] = [
    ("59621000", "I10"),
    ("44054006", "E11.9"),
    ("15777000", "R73.03"),
    ("271737000", "D64.9"),
    ("55822004", "E78.5"),
    ("53741008", "I25.1"),
    ("22298006", "I21.9"),
    ("399211009", "I25.2"),
    ("40055000", "J32.9"),
    ("444814009", "J01.9"),
    ("195662009", "J02.9"),
    ("10509002", "J20.9"),
    ("185086009", "J44.9"),
    ("233678006", "J45.9"),
];

/// Codes of RxNorm with code and class of ATC for the same.
const DRUGS: [(&str, &str, &str); 11] = [
    ("314076", "C09AA03", "C09A"),
    ("833036", "C09AA01", "C09A"),
    ("310798", "C03AA03", "C03A"),
    ("308136", "C08CA01", "C08C"),
    ("197361", "C08CA01", "C08C"),
    ("314231", "C10AA01", "C10A"),
    ("312961", "C10AA01", "C10A"),
    ("259255", "C10AA05", "C10A"),
    ("309362", "B01AC04", "B01A"),
    ("860975", "A10BA02", "A10BA"),
    ("106892", "A10AD01", "A10A"),
];

#[derive(Debug)]
struct Patient {
    birth_date: Option<NaiveDate>,
    sex: Sex,
    conditions: Vec<(NaiveDate, Option<NaiveDate>, &'static str)>,
    medications: Vec<Medication>,
    encounters: Vec<Encounter>,
}

#[derive(Debug)]
struct Medication {
    from: NaiveDate,
    until: Option<NaiveDate>,
    drug_code: String,
    drug_class: String,
    dispenses: u64,
    has_atc: bool,
}

#[derive(Debug, Default)]
struct Encounter {
    id: String,
    at: i64,
    about: String,
    systolic_mmhg: Option<i64>,
    diastolic_mmhg: Option<i64>,
    pulse_per_min: Option<i64>,
    glucose_umol_per_l: Option<i64>,
}

#[derive(Debug, Default)]
struct Recording {
    /// In the order of the file, with the id each has in it.
    patients: Vec<(String, Patient)>,
    /// Conditions without a code of ICD-10 here.
    other_conditions: usize,
    /// What happened before 1970.
    too_early: usize,
}

/// Writes what `folder` has recorded, as fast as it goes.
///
/// # Errors
/// When a file cannot be read, with the line that is wrong, or the service refuses a row.
pub(crate) async fn run(
    services: &Services,
    folder: &Path,
    speed: Option<f64>,
) -> anyhow::Result<ReplayReport> {
    anyhow::ensure!(speed.is_none(), "Synthea's patients are replayed at full speed only");
    let recording = Recording::read(folder).await?;
    let done = services.chronic_care().read().await?.progress(PROGRESS).await?;
    let done: usize =
        done.as_deref().unwrap_or("0").parse().context("the progress is no number")?;
    let mut report = ReplayReport::new("Synthea", "patients");
    let pace = Pace::start(0, None)?;
    let mut dispensing_id = SYNTHEA_IDS;
    for (place, (id, patient)) in recording.patients.iter().enumerate() {
        let first = dispensing_id + 1;
        dispensing_id += patient
            .medications
            .iter()
            .map(|m| i64::try_from(m.dispenses).unwrap_or(0))
            .sum::<i64>();
        if place < done {
            report.skipped += 1;
            continue;
        }
        let patient_id = SYNTHEA_IDS + 1 + i64::try_from(place)?;
        let mut tx = services.chronic_care().begin(services.now()).await?;
        let rows = write(&mut tx, patient_id, patient, first)
            .await
            .with_context(|| format!("could not write patient {id}"))?;
        tx.set_progress(PROGRESS, &(place + 1).to_string()).await?;
        tx.commit().await?;
        report.written += 1;
        report.detail_rows += rows;
    }
    report.elapsed = pace.elapsed();
    report.notes.push(format!(
        "left out: {} conditions without a code of ICD-10 here, {} rows of before 1970",
        recording.other_conditions, recording.too_early
    ));
    Ok(report)
}

impl Patient {
    /// What they are enrolled for.
    fn condition(&self) -> Condition {
        let groups: Vec<Condition> =
            self.conditions.iter().map(|(_, _, icd10)| conditions::group(icd10)).collect();
        [Condition::Hypertension, Condition::Diabetes]
            .into_iter()
            .find(|condition| groups.contains(condition))
            .unwrap_or(Condition::Other)
    }

    /// When the first of all happened.
    fn begin(&self) -> i64 {
        let encounters = self.encounters.iter().map(|encounter| encounter.at);
        let medications = self.medications.iter().map(|medication| midnight(medication.from));
        let conditions = self.conditions.iter().map(|(from, ..)| midnight(*from));
        encounters.chain(medications).chain(conditions).min().unwrap_or(0)
    }
}

/// One patient with all that happened; how many rows that were.
async fn write(
    tx: &mut WriteTransaction,
    patient_id: i64,
    patient: &Patient,
    first_dispensing_id: i64,
) -> Result<u64, OperationalError> {
    let scope = Scope::at(patient.begin());
    let name = format!("Synthea {:03}", patient_id - SYNTHEA_IDS);
    let new = NewPatient {
        patient_id: Some(patient_id),
        birth_date: patient.birth_date,
        ..NewPatient::new(patient_id, name, patient.sex, patient.condition())
    };
    patients::create_many(tx, scope, &[new]).await?;
    let mut rows = 1;
    for (from, until, icd10) in &patient.conditions {
        let new = NewCondition { icd10: (*icd10).to_owned(), diagnosed_on: Some(*from) };
        match conditions::create(tx, Scope::at(midnight(*from)), patient_id, &new).await {
            Ok(made) => {
                rows += 1;
                if let Some(until) = until {
                    let scope = Scope::at(midnight(*until));
                    let id = made.patient_condition_id;
                    conditions::resolve(tx, scope, id, ConditionEnd { resolved_on: *until })
                        .await?;
                }
            }
            // Diagnosed again while it lasted.
            Err(OperationalError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    rows += plans(tx, patient_id, patient).await?;
    let mut dispensed = Vec::new();
    for medication in &patient.medications {
        for number in 0..medication.dispenses {
            let on = medication.from + Days::new(number * DAYS_SUPPLY.unsigned_abs());
            dispensed.push(NewDispensing {
                dispensing_id: Some(
                    first_dispensing_id + i64::try_from(dispensed.len()).unwrap_or(0),
                ),
                patient_id,
                drug_code: medication.drug_code.clone(),
                drug_class: medication.drug_class.clone(),
                dispensed_on: on,
                days_supply: DAYS_SUPPLY,
                source: DispensingSource::Hospital,
            });
        }
    }
    rows += dispensed.len() as u64;
    dispensings::create_many(tx, scope, &dispensed).await?;
    for encounter in &patient.encounters {
        rows += meet(tx, patient_id, encounter).await?;
    }
    Ok(rows)
}

/// A plan for each drug with a code of ATC, from its first day to its last.
async fn plans(
    tx: &mut WriteTransaction,
    patient_id: i64,
    patient: &Patient,
) -> Result<u64, OperationalError> {
    let mut plans: BTreeMap<&str, (&Medication, Option<NaiveDate>)> = BTreeMap::new();
    for medication in patient.medications.iter().filter(|medication| medication.has_atc) {
        let (first, until) =
            plans.entry(&medication.drug_code).or_insert((medication, medication.until));
        *until = until.zip(medication.until).map(|(one, other)| one.max(other));
        if medication.from < first.from {
            *first = medication;
        }
    }
    let count = plans.len() as u64;
    for (medication, until) in plans.into_values() {
        let (code, class) = (medication.drug_code.clone(), medication.drug_class.clone());
        let new = NewMedicationPlan {
            ends_on: until,
            ..NewMedicationPlan::new(patient_id, code, class, 1, medication.from)
        };
        medication_plans::create(tx, Scope::at(midnight(medication.from)), new).await?;
    }
    Ok(count)
}

async fn meet(
    tx: &mut WriteTransaction,
    patient_id: i64,
    encounter: &Encounter,
) -> Result<u64, OperationalError> {
    let scope = Scope::at(encounter.at);
    let pressure = encounter.systolic_mmhg.zip(encounter.diastolic_mmhg);
    let new = NewFollowUp {
        systolic_mmhg: pressure.map(|(systolic, _)| systolic),
        diastolic_mmhg: pressure.map(|(_, diastolic)| diastolic),
        fasting_glucose_umol_per_l: encounter.glucose_umol_per_l,
        note: Some(encounter.about.clone()),
        ..NewFollowUp::new(patient_id, Method::Visit)
    };
    follow_ups::record(tx, scope, new).await?;
    let mut rows = 1;
    // What an encounter finds is of the office.
    let empty = NewReading {
        setting: Some(Setting::Office),
        ..NewReading::new(patient_id, ReadingKind::BloodPressure)
    };
    if let Some((systolic, diastolic)) = pressure {
        let new = NewReading {
            systolic_mmhg: Some(systolic),
            diastolic_mmhg: Some(diastolic),
            pulse_per_min: encounter.pulse_per_min,
            ..empty
        };
        readings::record(tx, scope, new).await?;
        rows += 1;
    }
    if encounter.glucose_umol_per_l.is_some() {
        let new = NewReading {
            kind: ReadingKind::Glucose,
            glucose_umol_per_l: encounter.glucose_umol_per_l,
            ..empty
        };
        readings::record(tx, scope, new).await?;
        rows += 1;
    }
    Ok(rows)
}

impl Recording {
    async fn read(folder: &Path) -> anyhow::Result<Self> {
        let table = async |name: &str, columns: &[&str]| {
            Delimited::read(&folder.join(format!("{name}.csv")), columns).await
        };
        let mut recording = Self::default();
        recording.patients(&table("patients", &["Id", "BIRTHDATE", "GENDER"]).await?)?;
        recording.conditions(&table("conditions", &["START", "STOP", "PATIENT", "CODE"]).await?)?;
        let columns = ["START", "STOP", "PATIENT", "CODE", "DISPENSES"];
        recording.medications(&table("medications", &columns).await?)?;
        let columns = ["Id", "START", "PATIENT", "ENCOUNTERCLASS", "DESCRIPTION"];
        recording.encounters(&table("encounters", &columns).await?)?;
        let columns = ["PATIENT", "ENCOUNTER", "CODE", "VALUE"];
        recording.observations(&table("observations", &columns).await?)?;
        for (_, patient) in &mut recording.patients {
            patient.encounters.sort_by_key(|encounter| encounter.at);
            patient.conditions.sort_unstable();
        }
        Ok(recording)
    }

    fn patients(&mut self, table: &Delimited) -> anyhow::Result<()> {
        for row in table.rows() {
            let patient = Patient {
                birth_date: row.value("BIRTHDATE", day)?,
                sex: match row.text("GENDER") {
                    "M" => Sex::Male,
                    "F" => Sex::Female,
                    _ => Sex::Unknown,
                },
                conditions: Vec::new(),
                medications: Vec::new(),
                encounters: Vec::new(),
            };
            self.patients.push((row.text("Id").to_owned(), patient));
        }
        Ok(())
    }

    fn patient(&mut self, id: &str, line: usize) -> anyhow::Result<&mut Patient> {
        let found = self.patients.iter_mut().find(|(known, _)| known == id);
        let (_, patient) =
            found.with_context(|| format!("line {line}: patient {id} is not in patients.csv"))?;
        Ok(patient)
    }

    fn conditions(&mut self, table: &Delimited) -> anyhow::Result<()> {
        for row in table.rows() {
            let code = row.text("CODE");
            let Some((_, icd10)) = CONDITIONS.iter().find(|(snomed, _)| *snomed == code) else {
                self.other_conditions += 1;
                continue;
            };
            let (from, until) = (row.required("START", day)?, row.value("STOP", day)?);
            if self.is_too_early(midnight(from)) {
                continue;
            }
            self.patient(row.text("PATIENT"), row.line)?.conditions.push((from, until, *icd10));
        }
        Ok(())
    }

    fn medications(&mut self, table: &Delimited) -> anyhow::Result<()> {
        for row in table.rows() {
            let code = row.text("CODE");
            let atc = DRUGS.iter().find(|(rxnorm, ..)| *rxnorm == code);
            let (drug_code, drug_class) =
                atc.map_or((code, "RxNorm"), |(_, code, class)| (code, class));
            let from = row.required("START", date_of)?;
            if self.is_too_early(midnight(from)) {
                continue;
            }
            let medication = Medication {
                from,
                until: row.value("STOP", date_of)?,
                drug_code: drug_code.to_owned(),
                drug_class: drug_class.to_owned(),
                dispenses: row.required("DISPENSES", |text| text.parse().ok())?,
                has_atc: atc.is_some(),
            };
            self.patient(row.text("PATIENT"), row.line)?.medications.push(medication);
        }
        Ok(())
    }

    fn encounters(&mut self, table: &Delimited) -> anyhow::Result<()> {
        for row in table.rows() {
            let at = row.required("START", instant)?;
            if self.is_too_early(at) {
                continue;
            }
            let encounter = Encounter {
                id: row.text("Id").to_owned(),
                at,
                about: format!("{}: {}", row.text("ENCOUNTERCLASS"), row.text("DESCRIPTION")),
                ..Encounter::default()
            };
            self.patient(row.text("PATIENT"), row.line)?.encounters.push(encounter);
        }
        Ok(())
    }

    /// By codes of LOINC.
    fn observations(&mut self, table: &Delimited) -> anyhow::Result<()> {
        for row in table.rows() {
            let (id, line) = (row.text("ENCOUNTER"), row.line);
            let code = row.text("CODE");
            if !matches!(code, "8480-6" | "8462-4" | "8867-4" | "2339-0" | "2345-7") {
                continue;
            }
            let patient = self.patient(row.text("PATIENT"), line)?;
            let Some(encounter) = patient.encounters.iter_mut().find(|e| e.id == id) else {
                continue;
            };
            match code {
                "8480-6" => encounter.systolic_mmhg = row.value("VALUE", whole)?,
                "8462-4" => encounter.diastolic_mmhg = row.value("VALUE", whole)?,
                "8867-4" => encounter.pulse_per_min = row.value("VALUE", whole)?,
                _ => encounter.glucose_umol_per_l = row.value("VALUE", umol_per_l)?,
            }
        }
        Ok(())
    }

    fn is_too_early(&mut self, at: i64) -> bool {
        let early = at < 0;
        self.too_early += usize::from(early);
        early
    }
}

fn day(text: &str) -> Option<NaiveDate> {
    NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()
}

/// A moment such as `2009-09-27T14:12:44Z`, in microseconds since 1970.
fn instant(text: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(text).ok().map(|at| at.timestamp_micros())
}

/// The business day of a moment.
fn date_of(text: &str) -> Option<NaiveDate> {
    calendar::business_day(instant(text)?).ok()
}

#[cfg(test)]
mod tests;
