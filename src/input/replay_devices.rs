//! Plays what blood pressure monitors and continuous glucose meters recorded, as published with the
//! packages `bp` and `iglu` for R and with two trials. Of a folder, the files that are there are read:
//!
//! | file | what | patients |
//! |---|---|---|
//! | `bp_jhs.csv` | home blood pressure over months | 1 |
//! | `bp_hypnos.csv` | ambulatory blood pressure of a day and a night | 5, with type 2 diabetes |
//! | `bp_ghana.csv` | means of three visits; without dates: the first is put on 2020-01-01, the others 180 and 365 days later | 757 |
//! | `bp_preg.csv` | blood pressure in the hours of an attendance, put from 08:00 of its day on | 475 pregnant women |
//! | `example_data_5_subject.csv`, `example_data_hall.csv` | glucose every five minutes | 5 with type 2 diabetes, 19 with diabetes or before it |
//!
//! A subject is a patient: their place in the file plus 40,000,000 and 100,000 for each file before
//! it, and the same is their person. A recorded time is the wall clock of Asia/Shanghai. Pressures are
//! rounded to the mmHg; glucose is mg/dL and becomes micromol per litre once (divided by 18.016, the
//! molar mass in g per mol over 10). Whether a value can be right is for the service to say; rows without one are left
//! out and counted. Each file notes how many rows are done, so a replay that was stopped goes on.

use std::{collections::HashMap, path::Path};

use anyhow::Context;
use chrono::{Days, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};
use medlake_operational::{
    Scope, Services,
    calendar::instant,
    chronic_care::{
        measurement::umol_per_l_of_mg_per_dl,
        patients::{self, Condition, NewPatient, Sex},
        readings::{self, NewReading, ReadingKind},
    },
};

use super::{
    delimited::{Delimited, Row},
    recording::{DEVICE_IDS, Pace, ReplayReport},
};

const IDS_PER_FILE: i64 = 100_000;
const ROWS_PER_TRANSACTION: usize = 2_000;

/// How a file is read.
struct File {
    name: &'static str,
    columns: &'static [&'static str],
    read: fn(&Row<'_>) -> anyhow::Result<Option<Measured>>,
}

const FILES: [File; 6] = [
    File {
        name: "bp_jhs.csv",
        columns: &["DateTime", "Sys.mmHg.", "Dias.mmHg.", "Pulse.bpm."],
        read: jhs,
    },
    File {
        name: "bp_hypnos.csv",
        columns: &["ID", "DATE.TIME", "SYST", "DIAST", "HR"],
        read: hypnos,
    },
    File { name: "bp_ghana.csv", columns: &["ID", "Time_Elapsed", "SBP", "DBP"], read: ghana },
    File {
        name: "bp_preg.csv",
        columns: &["ID", "Time_Elapsed", "SBP", "DBP", "D_att_Dryad"],
        read: preg,
    },
    File { name: "example_data_5_subject.csv", columns: &["id", "time", "gl"], read: glucose },
    File {
        name: "example_data_hall.csv",
        columns: &["id", "time", "gl", "diagnosis"],
        read: glucose,
    },
];

/// A row of a file.
struct Measured {
    subject: String,
    condition: Condition,
    sex: Sex,
    birth_date: Option<NaiveDate>,
    /// Wall clock.
    at: NaiveDateTime,
    value: Value,
}

enum Value {
    Pressure { systolic_mmhg: i64, diastolic_mmhg: i64, pulse_per_min: Option<i64> },
    Glucose { umol_per_l: i64 },
}

/// Writes the readings of the files in `folder`, as fast as it goes.
///
/// # Errors
/// When there is none of the files, one cannot be read, or the service refuses a row.
pub(crate) async fn run(
    services: &Services,
    folder: &Path,
    speed: Option<f64>,
) -> anyhow::Result<ReplayReport> {
    anyhow::ensure!(speed.is_none(), "readings of devices are replayed at full speed only");
    let mut report = ReplayReport::new("device files", "readings");
    let pace = Pace::start(0, None)?;
    for (place, file) in (0..).zip(&FILES) {
        if folder.join(file.name).is_file() {
            replay(services, folder, file, DEVICE_IDS + place * IDS_PER_FILE, &mut report).await?;
        }
    }
    anyhow::ensure!(
        !report.notes.is_empty(),
        "there is none of {} in {}",
        FILES.map(|file| file.name).join(", "),
        folder.display()
    );
    report.detail_rows = report.written;
    report.elapsed = pace.elapsed();
    Ok(report)
}

async fn replay(
    services: &Services,
    folder: &Path,
    file: &File,
    ids: i64,
    report: &mut ReplayReport,
) -> anyhow::Result<()> {
    let path = folder.join(file.name);
    let table = Delimited::read(&path, file.columns).await?;
    let mut subjects: HashMap<String, i64> = HashMap::new();
    let mut rows: Vec<(i64, Measured)> = Vec::new();
    let mut left_out = 0;
    for row in table.rows() {
        let context = || format!("could not read {}", path.display());
        let Some(measured) = (file.read)(&row).with_context(context)? else {
            left_out += 1;
            continue;
        };
        let next = ids + 1 + i64::try_from(subjects.len())?;
        let patient_id = *subjects.entry(measured.subject.clone()).or_insert(next);
        rows.push((patient_id, measured));
    }
    rows.sort_by_key(|(_, measured)| measured.at);
    let import = format!("replay {}", file.name);
    let done = services.chronic_care().read().await?.progress(&import).await?;
    let done: usize =
        done.as_deref().unwrap_or("0").parse().context("the progress is no number")?;
    let mut suspect = 0;
    for (place, rows) in rows.chunks(ROWS_PER_TRANSACTION).enumerate() {
        let end = place * ROWS_PER_TRANSACTION + rows.len();
        if end <= done {
            report.skipped += u64::try_from(rows.len())?;
            continue;
        }
        let begin = done.saturating_sub(place * ROWS_PER_TRANSACTION);
        report.skipped += u64::try_from(begin)?;
        let mut tx = services.chronic_care().begin(services.now()).await?;
        for (patient_id, measured) in &rows[begin..] {
            let at = instant(measured.at);
            let scope = Scope::at(at);
            if let Some(new) = subjects.remove(&measured.subject) {
                let new = NewPatient {
                    patient_id: Some(new),
                    birth_date: measured.birth_date,
                    ..NewPatient::new(
                        new,
                        format!("{} {}", file.name.trim_end_matches(".csv"), measured.subject),
                        measured.sex,
                        measured.condition,
                    )
                };
                patients::create_many(&mut tx, scope, &[new]).await?;
            }
            let new = measured.reading(*patient_id, at);
            let reading = readings::record(&mut tx, scope, new)
                .await
                .with_context(|| format!("could not record {} of {at}", measured.subject))?;
            suspect += usize::from(reading.quality != readings::Quality::Ok);
            report.written += 1;
        }
        tx.set_progress(&import, &end.to_string()).await?;
        tx.commit().await?;
    }
    report.notes.push(format!(
        "{}: {} readings, {suspect} of them suspect; {left_out} rows without a value or a time",
        file.name,
        rows.len()
    ));
    Ok(())
}

impl Measured {
    fn reading(&self, patient_id: i64, at: i64) -> NewReading {
        let empty = NewReading {
            measured_at: Some(at),
            ..NewReading::new(patient_id, ReadingKind::Glucose)
        };
        match self.value {
            Value::Pressure { systolic_mmhg, diastolic_mmhg, pulse_per_min } => NewReading {
                kind: ReadingKind::BloodPressure,
                systolic_mmhg: Some(systolic_mmhg),
                diastolic_mmhg: Some(diastolic_mmhg),
                pulse_per_min,
                ..empty
            },
            Value::Glucose { umol_per_l } => {
                NewReading { glucose_umol_per_l: Some(umol_per_l), ..empty }
            }
        }
    }
}

/// A number with decimals, to the nearest whole one.
#[expect(clippy::cast_possible_truncation, reason = "bounded")]
pub(super) fn whole(text: &str) -> Option<i64> {
    let number: f64 = text.parse().ok()?;
    (number.is_finite() && number.abs() < 1e6).then(|| number.round() as i64)
}

/// Milligrams per decilitre of glucose as micromol per litre.
pub(super) fn umol_per_l(mg_per_dl: &str) -> Option<i64> {
    umol_per_l_of_mg_per_dl(mg_per_dl.parse().ok()?).ok()
}

fn time(text: &str) -> Option<NaiveDateTime> {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").ok()
}

fn pressure(
    row: &Row<'_>,
    systolic: &str,
    diastolic: &str,
    pulse: &str,
) -> anyhow::Result<Option<Value>> {
    let both = row.value(systolic, whole)?.zip(row.value(diastolic, whole)?);
    let pulse_per_min = row.value(pulse, whole)?;
    Ok(both.map(|(systolic_mmhg, diastolic_mmhg)| Value::Pressure {
        systolic_mmhg,
        diastolic_mmhg,
        pulse_per_min,
    }))
}

fn jhs(row: &Row<'_>) -> anyhow::Result<Option<Measured>> {
    let at = row.required("DateTime", time)?;
    let value = pressure(row, "Sys.mmHg.", "Dias.mmHg.", "Pulse.bpm.")?;
    Ok(value.map(|value| Measured {
        subject: "1".to_owned(),
        condition: Condition::Hypertension,
        sex: Sex::Unknown,
        birth_date: None,
        at,
        value,
    }))
}

fn hypnos(row: &Row<'_>) -> anyhow::Result<Option<Measured>> {
    let at = row.required("DATE.TIME", time)?;
    let value = pressure(row, "SYST", "DIAST", "HR")?;
    Ok(value.map(|value| Measured {
        subject: row.text("ID").trim_end_matches(".0").to_owned(),
        condition: Condition::Diabetes,
        sex: Sex::Unknown,
        birth_date: None,
        at,
        value,
    }))
}

fn ghana(row: &Row<'_>) -> anyhow::Result<Option<Measured>> {
    let days = row.required("Time_Elapsed", |text| match text {
        "Baseline" => Some(0),
        "6Months" => Some(180),
        "12Months" => Some(365),
        _ => None,
    })?;
    let first = NaiveDate::from_yo_opt(2020, 1).context("2020 has a first day")?;
    let at = (first + Days::new(days)).and_time(NaiveTime::MIN);
    let value = pressure(row, "SBP", "DBP", "")?;
    Ok(value.map(|value| Measured {
        subject: row.text("ID").to_owned(),
        condition: Condition::Hypertension,
        sex: Sex::Unknown,
        birth_date: None,
        at,
        value,
    }))
}

fn preg(row: &Row<'_>) -> anyhow::Result<Option<Measured>> {
    let day = |text: &str| NaiveDate::parse_from_str(text, "%d-%b-%y").ok();
    let Some(attended_on) = row.value("D_att_Dryad", day)? else { return Ok(None) };
    // The pressure at booking, months before, has no time.
    if row.text("Time_Elapsed") == "Booking" {
        return Ok(None);
    }
    let minutes = row.required("Time_Elapsed", whole)?;
    let eight = attended_on.and_hms_opt(8, 0, 0).context("a day has an eight o'clock")?;
    let value = pressure(row, "SBP", "DBP", "")?;
    let birth_date = row.value("DOB_Dryad", day)?.filter(|born| *born < attended_on);
    Ok(value.map(|value| Measured {
        subject: row.text("ID").to_owned(),
        condition: Condition::Other,
        sex: Sex::Female,
        birth_date,
        at: eight + TimeDelta::minutes(minutes),
        value,
    }))
}

fn glucose(row: &Row<'_>) -> anyhow::Result<Option<Measured>> {
    let at = row.required("time", time)?;
    // The five have type 2 diabetes, all of them; the others' file says of each.
    let condition = match row.text("diagnosis") {
        "" | "diabetic" => Condition::Diabetes,
        _ => Condition::Other,
    };
    Ok(row.value("gl", umol_per_l)?.map(|umol_per_l| Measured {
        subject: row.text("id").to_owned(),
        condition,
        sex: Sex::Unknown,
        birth_date: None,
        at,
        value: Value::Glucose { umol_per_l },
    }))
}

#[cfg(test)]
mod tests;
