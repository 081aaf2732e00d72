//! The tables of a source and their copies in the lake, cell by cell, whatever types and text forms
//! either has for the same value.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use chrono::{DateTime, NaiveDateTime};
use serde_json::json;

use super::{
    model::{Kind, Table},
    source::{Failed, Row, Source},
};
use crate::platform::{self, Platform};

/// Between cells, rows and answers; no value has them.
const CELL: char = '\u{1f}';
const ROW: char = '\u{1e}';
const ANSWER: char = '\u{1c}';
const NULL: &str = "\u{1d}";

/// Compares every value of tables with what the doors say; answers how many there are.
///
/// # Errors
/// The first differences, as text.
pub(crate) async fn tables(
    platform: &Platform,
    tables: &[(&dyn Source, Table)],
) -> Result<usize, String> {
    let mut statements = Vec::new();
    for (source, table) in tables {
        let name = format!("{}.{}", source.name(), table.name);
        statements.push(format!("select {} from {name}", known(table).join(", ")));
        columns(platform, *source, table).await?;
    }
    let mut values = 0;
    for ((source, table), ours) in tables.iter().zip(read(platform, &statements)) {
        let name = format!("{}.{}", source.name(), table.name);
        values += rows(table, &name, source.rows(table).await, ours)?;
        quarantine(platform, *source, table).await?;
    }
    Ok(values)
}

fn known(table: &Table) -> Vec<&str> {
    table.columns.iter().map(|c| c.name.as_str()).collect()
}

async fn columns(platform: &Platform, source: &dyn Source, table: &Table) -> Result<(), String> {
    let name = format!("{}.{}", source.name(), table.name);
    let mut held: Vec<String> = serde_json::from_value(
        platform.query(&format!("select * from {name} limit 0")).await["columns"].clone(),
    )
    .map(|columns: Vec<serde_json::Value>| {
        let name = |c: &serde_json::Value| c["name"].as_str().unwrap_or_default().to_owned();
        columns.iter().map(name).collect()
    })
    .map_err(|error| error.to_string())?;
    let mut wanted = source.columns(table).await.map_err(|Failed(error)| error)?;
    let known = known(table);
    if wanted != known {
        return Err(format!("{name}: the harness lost track: {wanted:?}, thought {known:?}"));
    }
    held.sort();
    wanted.sort();
    if held != wanted {
        return Err(format!("{name} has columns {held:?}, the source {wanted:?}"));
    }
    Ok(())
}

/// Compares how many changes of `table` nobody can read with what is said to be in quarantine.
///
/// # Errors
/// The difference, as text.
async fn quarantine(platform: &Platform, source: &dyn Source, table: &Table) -> Result<(), String> {
    let (wanted, own) = (source.unreadable(table).await, source.name());
    let of = format!("where source = '{own}' and table_name = '{}'", table.name);
    for count in [
        format!("select count(*) from system.quarantine {of}"),
        format!("select coalesce(sum(quarantined), 0) from system.ingest {of}"),
    ] {
        let held = platform.ask(&count).await.and_then(|count| count.as_u64());
        if held != Some(wanted) {
            return Err(format!("{count}: {held:?}, the source made {wanted} that cannot be read"));
        }
    }
    Ok(())
}

/// Two other engines in a process of their own, which reads lakes until this is dropped.
pub(crate) struct Engines {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Engines {
    pub(crate) fn start() -> Self {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/readers");
        let mut child = Command::new(platform::parts().join("readers/bin/python"))
            .args([scripts.join("run.py"), scripts.join("read_rows.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the Python readers are installed (make parts)");
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, answers }
    }

    /// Compares every value of tables with what the engines read from the files of a lake, which
    /// nobody writes.
    ///
    /// # Errors
    /// The first differences, as text.
    pub(crate) async fn compare(
        &mut self,
        lake: &Path,
        tables: &[(&dyn Source, Table)],
    ) -> Result<usize, String> {
        let name =
            |(source, table): &(&dyn Source, Table)| format!("{}.{}", source.name(), table.name);
        let wanted: BTreeMap<String, Vec<&str>> =
            tables.iter().map(|of| (name(of), known(&of.1))).collect();
        let request = json!({ "lake": lake, "tables": wanted });
        writeln!(self.child.stdin.as_mut().unwrap(), "{request}").map_err(|e| e.to_string())?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).map_err(|e| e.to_string())?;
        let read: BTreeMap<String, BTreeMap<String, Vec<Row>>> =
            serde_json::from_str(&answer).map_err(|error| format!("{error}: {answer}"))?;
        let mut values = 0;
        for of in tables {
            for (engine, ours) in &read[&name(of)] {
                let (source, table) = of;
                let name = format!("{engine}: {}", name(of));
                values += rows(table, &name, source.rows(table).await, ours.clone())?;
            }
        }
        Ok(values)
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rows(table: &Table, name: &str, theirs: Vec<Row>, ours: Vec<Row>) -> Result<usize, String> {
    let known = known(table);
    let (mut theirs, mut ours) = (in_order(table, theirs), in_order(table, ours));
    let values = theirs.len() * known.len();
    if ours == theirs {
        return Ok(values);
    }
    let counts = (ours.len(), theirs.len());
    let both = theirs.clone();
    theirs.retain(|row| ours.binary_search(row).is_err());
    ours.retain(|row| both.binary_search(row).is_err());
    let some = |rows: &[Row]| {
        let shown = rows.iter().take(3).map(|row| format!("{row:?}")).collect::<Vec<_>>();
        format!("{} such as {}", rows.len(), shown.join("\n    "))
    };
    Err(format!(
        "{name} {known:?}: {} rows, the source has {}\n  only in the lake: {}\n  only in the source: {}",
        counts.0,
        counts.1,
        some(&ours),
        some(&theirs)
    ))
}

/// All rows of each statement as psql shows them: one statement, one view.
fn read(platform: &Platform, statements: &[String]) -> Vec<Vec<Row>> {
    let null = format!("null={NULL}");
    let [cell, row] = [CELL, ROW].map(|c| c.to_string());
    let end = format!("\\echo -n {ANSWER}");
    let all: Vec<&str> = statements.iter().flat_map(|sql| [sql.as_str(), &end]).collect();
    let output = platform.psql_with(&all, &["-F", &cell, "-R", &row, "-P", &null]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let cells = |row: &str| row.split(CELL).map(|c| (c != NULL).then(|| c.to_owned())).collect();
    let rows = |text: &str| -> Vec<Row> {
        // psql ends an answer with a line feed of its own.
        let text = text.strip_suffix('\n').unwrap_or(text);
        if text.is_empty() { vec![] } else { text.split(ROW).map(cells).collect() }
    };
    let mut answers: Vec<&str> = text.split(ANSWER).collect();
    assert_eq!(answers.pop(), Some(""), "all statements are answered");
    answers.into_iter().map(rows).collect()
}

fn in_order(table: &Table, mut rows: Vec<Row>) -> Vec<Row> {
    for row in &mut rows {
        for (cell, column) in row.iter_mut().zip(&table.columns) {
            *cell = cell.take().map(|text| normal(column.kind, &text));
        }
    }
    rows.sort_unstable();
    rows
}

/// One text for one value: what is equal is written alike, what differs is not.
pub(crate) fn normal(kind: Kind, text: &str) -> String {
    match kind {
        Kind::Bool => match text {
            "t" | "true" | "1" => "1".to_owned(),
            "f" | "false" | "0" => "0".to_owned(),
            other => format!("no boolean: {other}"),
        },
        Kind::Decimal(..) => {
            let negative = text.starts_with('-');
            let mut digits = text.trim_start_matches('-').trim_start_matches('0');
            if digits.contains('.') {
                digits = digits.trim_end_matches('0').trim_end_matches('.');
            }
            format!("{}{digits}", if negative && !digits.is_empty() { "-" } else { "" })
        }
        Kind::Float | Kind::Double => {
            text.parse::<f64>().map_or_else(|_| format!("no number: {text}"), |x| format!("{x:?}"))
        }
        Kind::Uuid => text.replace('-', "").to_lowercase(),
        Kind::Blob => text.trim_start_matches("\\x").to_uppercase(),
        Kind::DateTime | Kind::Timestamp => moment(text),
        Kind::Time => clock(text).to_string(),
        Kind::Json => serde_json::from_str::<serde_json::Value>(text)
            .map_or_else(|_| format!("no JSON: {text}"), |json| json.to_string()),
        // bytea and bit strings of the Postgres wire, numbers of the databases
        Kind::Bits => match text.strip_prefix("\\x") {
            Some(hex) => i64::from_str_radix(hex, 16).unwrap_or(-1).to_string(),
            None => text.to_owned(),
        },
        _ => text.to_owned(),
    }
}

/// A day and a time in UTC, from text or from microseconds since 1970.
fn moment(text: &str) -> String {
    if let Ok(micros) = text.parse::<i64>() {
        let at = DateTime::from_timestamp_micros(micros);
        return at.map_or_else(|| text.to_owned(), |at| at.naive_utc().to_string());
    }
    let plain = text.trim_end_matches('Z').trim_end_matches("+00:00").trim_end_matches("+00");
    let at = NaiveDateTime::parse_from_str(&plain.replace('T', " "), "%Y-%m-%d %H:%M:%S%.f");
    at.map_or_else(|_| format!("no moment: {text}"), |at| at.to_string())
}

/// Microseconds from `[-]h:m:s.f`, or as they are.
fn clock(text: &str) -> i64 {
    if let Ok(micros) = text.parse::<i64>() {
        return micros;
    }
    let negative = text.starts_with('-');
    let mut seconds = 0.0;
    for part in text.trim_start_matches('-').split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>().unwrap_or(f64::NAN);
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most 839 hours")]
    let micros = (seconds * 1e6).round() as i64;
    if negative { -micros } else { micros }
}

#[test]
fn one_value_has_one_text() {
    for (kind, a, b) in [
        (Kind::Decimal(10, 2), "-0.00", "0"),
        (Kind::Decimal(10, 2), "007.50", "7.5"),
        (Kind::Decimal(10, 2), "100.00", "100"),
        (Kind::DateTime, "1000-01-01 00:00:00.500000", "1000-01-01T00:00:00.5Z"),
        (Kind::Timestamp, "1970-01-01 00:00:01+00", "1000000"),
        (Kind::Time, "-838:59:59.000000", "-3020399000000"),
        (Kind::Blob, "\\x00ff", "00FF"),
        (Kind::Uuid, "00AB", "00-ab"),
        (Kind::Double, "1e3", "1000"),
    ] {
        assert_eq!(normal(kind, a), normal(kind, b), "{kind:?}");
    }
    assert_ne!(normal(Kind::Decimal(10, 2), "10"), normal(Kind::Decimal(10, 2), "1"));
    assert_ne!(normal(Kind::Decimal(10, 2), "-1"), normal(Kind::Decimal(10, 2), "1"));
}
