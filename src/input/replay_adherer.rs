//! Plays AdhereR's medication events: 1,080 dispensings to 100 patients over some years.
//!
//! `med.events.csv` has a row for each: patient, day (`mm/dd/yyyy`), doses a day, category of the
//! drug, days it lasts. Through the chronic-care service's own functions a patient becomes a patient
//! enrolled on the day of the first event, and an event a dispensing with source `import`, whose
//! drug and drug class are the recorded category. Ids are the recorded ones (for a dispensing, the
//! number of its row) plus 20,000,000, so a replay that was stopped goes on with what is missing.
//! A day is a business day: what happens on it happens at its midnight in Asia/Shanghai.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use chrono::NaiveDate;
use medlake_operational::{
    Scope, Services,
    calendar::midnight,
    chronic_care::{
        dispensings::{self, DispensingSource, NewDispensing},
        patients::{self, Condition, NewPatient, Sex},
    },
};

use super::recording::{ADHERER_IDS, Pace, ReplayReport};

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
    let days: Vec<(NaiveDate, Vec<&Event>)> = days.into_iter().collect();
    let mut report = ReplayReport::new("AdhereR medication events", "dispensings");
    let first = days.first().map_or(0, |(day, _)| midnight(*day));
    let pace = Pace::start(first, speed)?;
    let mut rest = days.as_slice();
    // All days that are due are one transaction, so at full speed all of them are.
    while let Some((now, later)) = pace.due(rest, usize::MAX, |(day, _)| midnight(*day)).await {
        let mut tx = services.chronic_care().begin(services.now()).await?;
        for (day, events) in now {
            let scope = Scope::at(midnight(*day));
            let new: Vec<NewPatient> = events.iter().map(|e| patient(e.patient)).collect();
            patients::create_many(&mut tx, scope, &new).await?;
            let new: Vec<NewDispensing> = events.iter().map(|e| dispensing(e)).collect();
            let added = dispensings::create_many(&mut tx, scope, &new).await?.len();
            report.written += u64::try_from(added)?;
            report.skipped += u64::try_from(new.len() - added)?;
        }
        tx.commit().await?;
        rest = later;
    }
    report.detail_rows = report.written;
    report.elapsed = pace.elapsed();
    Ok(report)
}

fn patient(patient: i64) -> NewPatient {
    let person_id = ADHERER_IDS + patient;
    NewPatient {
        patient_id: Some(person_id),
        ..NewPatient::new(person_id, format!("患者 {patient:05}"), Sex::Unknown, Condition::Other)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use medlake_operational::Storage;

    use super::*;

    const EVENTS: &str = "PATIENT_ID,DATE,PERDAY,CATEGORY,DURATION\n\
        1,04/26/2033,4,medA,50\n1,07/04/2033,4,medB,30\n2,04/26/2033,2,medA,60\n";

    #[tokio::test]
    async fn events_become_dispensings_once() {
        let folder = tempfile::tempdir().unwrap();
        let services =
            Services::open(&Storage::files(folder.path()), Arc::new(|| 1), Arc::new(|| ()))
                .await
                .unwrap();
        std::fs::write(folder.path().join(FILE), EVENTS).unwrap();
        let first = run(&services, folder.path(), None).await.unwrap();
        assert_eq!((first.written, first.skipped), (3, 0));
        let more = format!("{EVENTS}2,01/02/2034,2,medB,10\n");
        std::fs::write(folder.path().join(FILE), more).unwrap();
        let second = run(&services, folder.path(), None).await.unwrap();
        assert_eq!((second.written, second.skipped), (1, 3));
        let mut connection = services.chronic_care().read().await.unwrap();
        let rows: Vec<(i64, i64, String, String, i64, String)> = sqlx::query_as(
            "select d.dispensing_id - 20000000, p.person_id - 20000000, d.drug_class, d.dispensed_on,
                 d.days_supply, datetime(d.created_at / 1000000, 'unixepoch', '8 hours')
             from dispensing d join patient p using (patient_id) order by 1",
        )
        .fetch_all(connection.sqlite().unwrap())
        .await
        .unwrap();
        let rows: Vec<String> = rows.iter().map(|r| format!("{r:?}")).collect();
        assert_eq!(
            rows,
            [
                r#"(1, 1, "medA", "2033-04-26", 50, "2033-04-26 00:00:00")"#,
                r#"(2, 1, "medB", "2033-07-04", 30, "2033-07-04 00:00:00")"#,
                r#"(3, 2, "medA", "2033-04-26", 60, "2033-04-26 00:00:00")"#,
                r#"(4, 2, "medB", "2034-01-02", 10, "2034-01-02 00:00:00")"#,
            ]
        );
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        for (text, expected) in [
            ("A,B\n", "the first line"),
            (&*EVENTS.replace("07/04/2033", "2033-07-04"), "line 3 cannot be read: DATE"),
            (&*EVENTS.replace(",60", ",x"), "line 4 cannot be read: DURATION"),
            (&*EVENTS.replace(",60", ""), "it has 4 fields"),
        ] {
            let error = format!("{:#}", parse(text).err().unwrap());
            assert!(error.contains(expected), "{error}");
        }
    }
}
