//! Plays AdhereR's medication events: 1,080 dispensings to 100 patients over some years.
//!
//! `med.events.csv` has a row for each: patient, day (`mm/dd/yyyy`), doses a day, category of the
//! drug, days it lasts. Through the chronic-care service's own functions a patient becomes a patient
//! enrolled on the day of the first event, and an event a dispensing with source `import`, whose
//! drug and drug class are the recorded category. Ids are the recorded ones (for a dispensing, the
//! number of its row) plus 20,000,000, so a replay that was stopped goes on with what is missing.
//! A day is a business day: what happens on it happens at its midnight in Asia/Shanghai.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::Context;
use chrono::NaiveDate;
use medlake_operational::{
    Scope, Services,
    chronic_care::{
        dispensings::{self, DispensingSource, NewDispensing},
        patients::{self, Condition, NewPatient, Sex},
    },
};

use super::recording::{ADHERER_IDS, Pace, ReplayReport, SHANGHAI_MICROS};

const FILE: &str = "med.events.csv";
const HEADER: [&str; 5] = ["PATIENT_ID", "DATE", "PERDAY", "CATEGORY", "DURATION"];

struct Event {
    row: i64,
    patient: i64,
    day: NaiveDate,
    category: String,
    days: i64,
}

/// Writes what `folder` has recorded, as fast as it goes or at `speed` recorded seconds a second.
///
/// # Errors
/// When the file cannot be read, with the line that is wrong, or the service refuses a row.
pub(crate) async fn run(
    services: &Services,
    folder: &Path,
    speed: Option<f64>,
) -> anyhow::Result<ReplayReport> {
    let path = folder.join(FILE);
    let text = tokio::fs::read_to_string(&path)
        .await
        .with_context(|| format!("could not read {}", path.display()))?;
    let events = parse(&text).with_context(|| format!("could not read {}", path.display()))?;
    let mut days: BTreeMap<NaiveDate, Vec<&Event>> = BTreeMap::new();
    for event in &events {
        days.entry(event.day).or_default().push(event);
    }
    let mut report = ReplayReport {
        recording: "AdhereR medication events",
        unit: "dispensings",
        written: 0,
        skipped: 0,
        detail_rows: 0,
        elapsed: Duration::ZERO,
    };
    let first = days.keys().next().map_or(0, |day| midnight(*day));
    let pace = Pace::start(first, speed)?;
    let mut days = days.into_iter().peekable();
    // All days that are due are one transaction, so at full speed all of them are.
    while let Some((day, _)) = days.peek() {
        if let Some(wait) = pace.until(midnight(*day)) {
            tokio::time::sleep(wait).await;
        }
        let mut tx = services.chronic_care().begin(services.now()).await?;
        while let Some((day, events)) =
            days.next_if(|(day, _)| pace.until(midnight(*day)).is_none())
        {
            let scope = Scope::at(midnight(day));
            let new: Vec<NewPatient> = events.iter().map(|e| patient(e.patient)).collect();
            patients::create_many(&mut tx, scope, &new).await?;
            let new: Vec<NewDispensing> = events.iter().map(|e| dispensing(e)).collect();
            let added = dispensings::create_many(&mut tx, scope, &new).await?.len();
            report.written += u64::try_from(added)?;
            report.skipped += u64::try_from(new.len() - added)?;
        }
        tx.commit().await?;
    }
    report.detail_rows = report.written;
    report.elapsed = pace.elapsed();
    Ok(report)
}

fn midnight(day: NaiveDate) -> i64 {
    day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros() - SHANGHAI_MICROS
}

fn patient(patient: i64) -> NewPatient {
    NewPatient {
        patient_id: Some(ADHERER_IDS + patient),
        person_id: ADHERER_IDS + patient,
        name: format!("患者 {patient:05}"),
        sex: Sex::Unknown,
        birth_date: None,
        condition: Condition::Other,
    }
}

fn dispensing(event: &Event) -> NewDispensing {
    NewDispensing {
        dispensing_id: Some(ADHERER_IDS + event.row),
        patient_id: ADHERER_IDS + event.patient,
        drug_code: event.category.clone(),
        drug_class: event.category.clone(),
        dispensed_on: event.day,
        days_supply: event.days,
        source: DispensingSource::Import,
    }
}

fn parse(text: &str) -> anyhow::Result<Vec<Event>> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    anyhow::ensure!(split(header) == HEADER, "the first line is not {}", HEADER.join(","));
    (1..)
        .zip(lines)
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(row, line)| {
            event(row, line).with_context(|| format!("line {} cannot be read", row + 1))
        })
        .collect()
}

fn event(row: i64, line: &str) -> anyhow::Result<Event> {
    let fields = split(line);
    let [patient, day, _, category, days] = fields[..] else {
        anyhow::bail!("it has {} fields, not 5", fields.len());
    };
    Ok(Event {
        row,
        patient: patient.parse().context("PATIENT_ID")?,
        day: NaiveDate::parse_from_str(day, "%m/%d/%Y").context("DATE")?,
        category: category.to_owned(),
        days: days.parse().context("DURATION")?,
    })
}

/// The fields of a line; the file has no commas inside quotes.
fn split(line: &str) -> Vec<&str> {
    line.split(',').map(|field| field.trim().trim_matches('"')).collect()
}
