//! What the pipeline does when it is asked: answers how it is doing, copies tables again, compares them
//! with their source.

use std::fmt::Write as _;

use arrow::util::display::array_value_to_string;
use medlake_contract::{ChangeBatch, CopyScope, Op, RowCopy, TableName, with_causes};
use medlake_ingest::{Ingest, Monitor, Phase, quarantine_table, quarantined_in};
use medlake_lake::{Lake, LakeError, Tally};
use tokio::sync::mpsc;
use tracing::warn;

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
    /// Rows that are not compared: changes touched them meanwhile, or they could not be read.
    left_out: u64,
    /// Why not all was compared.
    failed: Option<String>,
    /// The rows, of a table without a key that has many.
    tally: Option<Tally>,
    /// Whether a new copy is what repairs it.
    by_copy: bool,
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
                return Some(Comparison::new(table, repair, answer));
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
                    "{left} have no key to ask for them by and stay: of a database, `medlake ingest \
                     resync {table}` reads all its rows; of Kafka, they have to be sent again"
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
    fn new(table: TableName, repair: bool, answer: mpsc::Sender<Answer>) -> Self {
        Self {
            table,
            repair,
            answer,
            rows: 0,
            missing: 0,
            different: 0,
            extra: 0,
            left_out: 0,
            failed: None,
            tally: None,
            by_copy: false,
        }
    }

    /// Whether a copy is of its table.
    pub(crate) fn is_of(&self, copy: &RowCopy) -> bool {
        copy.table.name() == &self.table
    }

    /// Counts what differs in one chunk, and shows the first of it.
    pub(crate) fn note(&mut self, copy: &RowCopy, differences: Option<&ChangeBatch>) {
        self.rows += copy.rows.num_rows() as u64;
        if let CopyScope::Range { except: Some(except), .. } = &copy.scope {
            self.left_out += except.num_rows() as u64;
        }
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

    /// Adds the rows of a copy that is only a part of what is to be compared; answers whether it is
    /// one.
    pub(crate) fn add(&mut self, copy: &RowCopy) -> bool {
        let CopyScope::Part { first } = copy.scope else { return false };
        let tally = match self.tally.take().filter(|_| !first) {
            Some(tally) => Ok(tally),
            None => Tally::new(&copy.table),
        };
        let added = tally.and_then(|mut tally| tally.add(&copy.rows).map(|()| tally));
        match added {
            Ok(tally) => {
                self.rows = tally.rows();
                self.tally = Some(tally);
            }
            Err(error) => self.fail(&error),
        }
        true
    }

    /// Something of it could not be compared.
    pub(crate) fn fail(&mut self, error: &LakeError) {
        let reason = with_causes(error);
        warn!(table = %self.table, error = reason, "could not compare rows");
        self.failed = Some(reason);
    }

    /// Whether no more chunks come; notes why, if not all came.
    pub(crate) fn is_over(&mut self, ingest: &Ingest) -> bool {
        match ingest.is_comparing(&self.table) {
            Ok(going_on) => !going_on,
            Err(reason) => {
                self.failed = Some(reason);
                true
            }
        }
    }

    /// The rows of all parts, once they are there.
    pub(crate) fn tally(&mut self) -> Option<Tally> {
        self.tally.take().filter(|_| self.failed.is_none())
    }

    /// Notes what came of the comparison of all parts.
    pub(crate) fn note_all(&mut self, (missing, extra): (u64, u64)) {
        (self.missing, self.extra) = (missing, extra);
        if missing + extra > 0 {
            let least = "it has no key and many rows: so many differ at least";
            let _ = self.answer.try_send(Answer::Line(format!("{}: {least}", self.table)));
            self.by_copy = true;
        }
    }

    /// Says what was found, once all is compared.
    pub(crate) fn end(self, ingest: &mut Ingest) {
        let Self { table, repair, rows, missing, different, extra, left_out, answer, .. } = self;
        let mut count = format!(
            "{table}: {rows} rows of the source compared, {missing} missing in the lake, {different} \
             different, {extra} that the source does not have"
        );
        if left_out > 0 {
            let _ = write!(
                count,
                "; {left_out} left out, as they changed meanwhile or could not be read"
            );
        }
        let _ = answer.try_send(Answer::Line(count));
        let differs = missing + different + extra > 0;
        let end = match self.failed {
            Some(reason) => Answer::Failed(format!("{table} could not be compared: {reason}")),
            None if !differs => Answer::Done,
            None if !repair => Answer::Failed(format!("{table} differs from its source")),
            None => {
                let (done, how) = match self.by_copy {
                    true => (ingest.resync(&table), "copied again"),
                    false => (Ok(()), "repaired"),
                };
                if done.is_ok() {
                    let _ = answer.try_send(Answer::Line(format!("{table} is {how}")));
                }
                done.map_or_else(|error| Answer::Failed(error.to_string()), |()| Answer::Done)
            }
        };
        let _ = answer.try_send(end);
    }
}

/// One difference: the key (or all of a row without one), and the columns that differ with both
/// values.
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
    for (at, column) in table.columns().iter().enumerate() {
        if table.key_indices().contains(&at) || table.key_indices().is_empty() {
            let comma = if line.is_empty() { "" } else { ", " };
            let _ = write!(line, "{comma}{}={}", column.name, value(image, at));
        }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch};
    use medlake_contract::{Column, ColumnType, Identity, TableSchema};
    use medlake_ingest::Resume;

    use super::*;

    fn comparison(repair: bool) -> (Comparison, mpsc::Receiver<Answer>) {
        let (answer, answers) = mpsc::channel(8);
        let comparison = Comparison::new("m.t".parse().unwrap(), repair, answer);
        (comparison, answers)
    }

    fn said(mut answers: mpsc::Receiver<Answer>) -> Vec<String> {
        std::iter::from_fn(|| answers.try_recv().ok()).map(|answer| format!("{answer:?}")).collect()
    }

    #[tokio::test]
    async fn a_comparison_is_good_only_if_all_of_it_was_compared() {
        let mut ingest = Ingest::open(Vec::new(), &Resume::default()).await.unwrap();
        let columns = vec![Column::nullable("v", ColumnType::Int64)];
        let table =
            TableSchema::keyless("m.t".parse().unwrap(), columns, Identity::FullRow).unwrap();
        let rows = RecordBatch::try_new(
            Arc::clone(table.arrow_nullable()),
            vec![Arc::new(Int64Array::from(vec![1, 2]))],
        );
        let copy = |scope| RowCopy {
            table: Arc::new(table.clone()),
            scope,
            rows: rows.as_ref().unwrap().clone(),
        };
        let except = rows.as_ref().unwrap().clone();
        let range = CopyScope::Range { after: None, to: None, except: Some(except) };

        let (mut good, answers) = comparison(false);
        assert!(!good.add(&copy(range.clone())));
        good.note(&copy(range), None);
        assert!(good.is_over(&ingest));
        good.end(&mut ingest);
        let said_of_good = said(answers);
        assert!(said_of_good[0].contains("2 rows of the source compared"), "{said_of_good:?}");
        assert!(said_of_good[0].contains("2 left out"), "{said_of_good:?}");
        assert_eq!(said_of_good[1], "Done");

        let rows = rows.as_ref().unwrap();
        let more = ChangeBatch::inserts(Arc::new(table.clone()), rows).unwrap();
        assert_eq!(line(&more, 1), "v=2: missing in the lake", "there is no key to know it by");

        let (mut bad, answers) = comparison(true);
        bad.fail(&LakeError::UnknownTable { table: "m.t".parse().unwrap() });
        bad.end(&mut ingest);
        let said_of_bad = said(answers);
        assert!(
            said_of_bad[1].starts_with("Failed(\"m.t could not be compared"),
            "{said_of_bad:?}"
        );

        let (mut parts, answers) = comparison(false);
        for first in [true, false, true, false] {
            assert!(parts.add(&copy(CopyScope::Part { first })));
        }
        assert_eq!(parts.tally().unwrap().rows(), 4, "what came before they began again is gone");
        parts.note_all((0, 1));
        parts.end(&mut ingest);
        let said_of_parts = said(answers);
        assert!(said_of_parts[1].contains("4 rows") && said_of_parts[1].contains("1 that"));
        assert_eq!(said_of_parts[2], "Failed(\"m.t differs from its source\")");
    }
}
