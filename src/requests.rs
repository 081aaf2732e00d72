//! What the pipeline does when it is asked: answers how it is doing, copies tables again, compares them
//! with their source.

use std::fmt::Write as _;

use arrow::util::display::array_value_to_string;
use medlake_contract::{ChangeBatch, Op, RowCopy, TableName};
use medlake_ingest::{Ingest, Monitor, Phase, quarantine_table, quarantined_in};
use medlake_lake::Lake;
use tokio::sync::mpsc;

use crate::control::{Answer, Asked, Request};

/// Differences that are shown; all are counted.
const SHOWN: u64 = 20;

/// A table that is being compared.
pub(crate) struct Comparison {
    table: TableName,
    pub(crate) repair: bool,
    answer: mpsc::Sender<Answer>,
    rows: u64,
    missing: u64,
    different: u64,
    extra: u64,
}

/// Does what was asked; gives what is not done at once.
pub(crate) async fn obey(
    asked: Asked,
    ingest: &mut Ingest,
    lake: &Lake,
    going_on: &[Comparison],
) -> Option<Comparison> {
    let Asked { request, answer } = asked;
    let mut lines = Vec::new();
    let end = match request {
        Request::Status => {
            lines = status(&ingest.monitor());
            Answer::Done
        }
        Request::Resync { table: Some(table), .. } => match ingest.resync(&table) {
            Ok(()) => {
                lines.push(format!(
                    "{table} is copied again; `medlake ingest status` shows how far"
                ));
                Answer::Done
            }
            Err(error) => Answer::Failed(error.to_string()),
        },
        Request::Resync { table: None, .. } => {
            let sources = ingest.resync_all();
            lines.extend(sources.iter().map(|source| format!("{source} is copied again")));
            Answer::Done
        }
        Request::Verify { table, .. } if going_on.iter().any(|c| c.table == table) => {
            Answer::Failed(format!("{table} is being compared already"))
        }
        Request::Verify { table, repair } => match ingest.compare(&table) {
            Ok(()) => {
                return Some(Comparison {
                    table,
                    repair,
                    answer,
                    rows: 0,
                    missing: 0,
                    different: 0,
                    extra: 0,
                });
            }
            Err(error) => Answer::Failed(error.to_string()),
        },
        Request::Retry { table } => retry(&table, ingest, lake, &mut lines).await,
    };
    // Who goes away wants no answer, and nobody waits for a slow reader: an answer is a few lines.
    if !lines.is_empty() {
        let _ = answer.try_send(Answer::Line(lines.join("\n")));
    }
    let _ = answer.try_send(end);
    None
}

async fn retry(
    table: &TableName,
    ingest: &mut Ingest,
    lake: &Lake,
    lines: &mut Vec<String>,
) -> Answer {
    let quarantine = quarantine_table();
    let rows = match lake.staged_view().rows(quarantine.name()).await {
        Ok(rows) => rows,
        Err(error) => return Answer::Failed(error.to_string()),
    };
    let mut changes = quarantined_in(&rows);
    changes.retain(|change| change.table == *table);
    match ingest.retry(table, &changes) {
        Ok(tried) => {
            let left = changes.len() - tried;
            lines.push(format!("{tried} of {} changes are read again", changes.len()));
            if left > 0 {
                lines.push(format!(
                    "{left} have no key to ask for them by; `medlake ingest resync {table}` reads all"
                ));
            }
            Answer::Done
        }
        Err(error) => Answer::Failed(error.to_string()),
    }
}

fn status(monitor: &Monitor) -> Vec<String> {
    let mut lines = Vec::new();
    for (source, health) in monitor.sources() {
        let failing = health.failing.map_or_else(String::new, |why| format!(": {why}"));
        let caught_up = if health.caught_up { "caught up" } else { "behind" };
        lines.push(format!(
            "{source} ({}), {caught_up}, {} rows{failing}",
            health.kind, health.rows
        ));
    }
    for table in monitor.tables() {
        let mut line = format!("{}  {}", table.table, table.phase.as_str());
        if table.phase == Phase::Snapshotting {
            let _ = write!(line, ", {} rows copied", table.copied_rows);
        }
        if table.quarantined > 0 {
            let _ = write!(line, ", {} in quarantine", table.quarantined);
        }
        for more in [table.reason, table.remedy].into_iter().flatten() {
            let _ = write!(line, "; {more}");
        }
        lines.push(line);
    }
    lines
}

impl Comparison {
    /// Whether a copy is of its table.
    pub(crate) fn is_of(&self, copy: &RowCopy) -> bool {
        copy.table.name() == &self.table
    }

    /// Counts what differs in one chunk, and shows the first of it.
    pub(crate) fn note(&mut self, copy: &RowCopy, differences: Option<&ChangeBatch>) {
        self.rows += copy.rows.num_rows() as u64;
        let Some(differences) = differences else { return };
        for (row, op) in differences.ops().iter().enumerate() {
            let shown = self.missing + self.different + self.extra < SHOWN;
            match op {
                Op::Insert => self.missing += 1,
                Op::Update => self.different += 1,
                Op::Delete | Op::Truncate => self.extra += 1,
            }
            if shown {
                let _ = self.answer.try_send(Answer::Line(line(differences, row)));
            }
        }
    }

    /// When no more chunks come: says what was found.
    pub(crate) fn end(self, ingest: &Ingest) -> Option<Self> {
        if ingest.is_comparing(&self.table) {
            return Some(self);
        }
        let Self { table, repair, rows, missing, different, extra, answer, .. } = self;
        let count = format!(
            "{table}: {rows} rows of the source compared, {missing} missing in the lake, {different} \
             different, {extra} that the source does not have"
        );
        let same = missing + different + extra == 0;
        let end = match (same, repair) {
            (true, _) => Answer::Done,
            (false, true) => Answer::Line(format!("{table} is repaired")),
            (false, false) => Answer::Failed(format!("{table} differs from its source")),
        };
        let _ = answer.try_send(Answer::Line(count));
        let repaired = matches!(end, Answer::Line(_));
        let _ = answer.try_send(end);
        if repaired {
            let _ = answer.try_send(Answer::Done);
        }
        None
    }
}

/// One difference: the key, and the columns that differ with both values.
fn line(differences: &ChangeBatch, row: usize) -> String {
    let table = differences.table();
    let (op, before, after) = (differences.ops()[row], differences.before(), differences.after());
    let value = |image: &arrow::record_batch::RecordBatch, column: usize| {
        let column = image.column(column);
        if column.is_null(row) {
            return "null".to_owned();
        }
        array_value_to_string(column, row).unwrap_or_default()
    };
    let image = if op == Op::Insert { after } else { before };
    let mut line = String::new();
    for (at, key) in table.key_indices().iter().enumerate() {
        let name = &table.columns()[*key].name;
        let comma = if at == 0 { "" } else { ", " };
        let _ = write!(line, "{comma}{name}={}", value(image, *key));
    }
    match op {
        Op::Insert => line.push_str(": missing in the lake"),
        Op::Delete | Op::Truncate => line.push_str(": not in the source"),
        Op::Update => {
            for (at, column) in table.columns().iter().enumerate() {
                let (lake, source) = (value(before, at), value(after, at));
                if before.column(at).slice(row, 1).to_data()
                    != after.column(at).slice(row, 1).to_data()
                {
                    let _ = write!(line, "; {}: lake {lake}, source {source}", column.name);
                }
            }
        }
    }
    line
}
