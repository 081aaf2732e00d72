use std::path::{Path, PathBuf};

use arrow::{array::RecordBatch, util::display::array_value_to_string};
use medlake_contract::Unsent;
use serde_json::Value;

use super::*;

mod recorded;
mod shapes;
mod written;

/// Where data by others lies; none when it is absent, which is an error where everything must be.
fn shared() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let root = option_env!("MEDLAKE_SHARED").map_or(beside, PathBuf::from).join("data");
    if root.is_dir() {
        return Some(root);
    }
    assert!(option_env!("CI").is_none(), "no shared data at {}", root.display());
    eprintln!("skipped: no shared data");
    None
}

/// A decoder with what came out of it.
struct Reading {
    decoder: Decoder,
    /// One for each change: table, operation, rows before and after as text.
    rows: Vec<String>,
    schemas: Vec<SchemaChange>,
    problems: Vec<String>,
    unsent: Vec<(TableName, Unsent)>,
    /// The header of the messages that come.
    old_key: Option<Vec<u8>>,
}

impl Reading {
    fn new(config: DebeziumConfig) -> Self {
        Self {
            decoder: Decoder::new(SourceId::new("shop"), config),
            rows: Vec::new(),
            schemas: Vec::new(),
            problems: Vec::new(),
            unsent: Vec::new(),
            old_key: None,
        }
    }

    fn take(&mut self, topic: &str, key: Option<&Value>, value: Option<&Value>) {
        let bytes = |v: Option<&Value>| v.filter(|v| !v.is_null()).map(|v| v.to_string());
        let (key, value) = (bytes(key), bytes(value));
        self.take_bytes(
            topic,
            key.as_ref().map(String::as_bytes),
            value.as_ref().map(String::as_bytes),
        );
    }

    fn take_bytes(&mut self, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>) {
        let taken = match self.decoder.read(topic, value) {
            Ok(Message::Change(change)) => self.take_change(topic, key, &change),
            Ok(Message::Tables(tables)) => self.decoder.learn(topic, tables),
            Ok(Message::Nothing | Message::Boundary(_)) => Ok(()),
            Err(problem) => Err(problem),
        };
        if let Err(problem) = taken {
            self.problems.push(problem.to_string());
        }
    }

    fn take_change(
        &mut self,
        topic: &str,
        key: Option<&[u8]>,
        change: &Change<'_>,
    ) -> Result<(), Problem> {
        loop {
            match self.decoder.take(topic, RowKeys { key, old: self.old_key.as_deref() }, change)? {
                Taken::Row => return Ok(()),
                Taken::LeftOut => panic!("{topic} is left out"),
                Taken::Schema { change: schema, .. } => {
                    self.finish();
                    self.decoder.adopt(&schema, &change.origin, change.micros, 0);
                    self.schemas.push(schema);
                }
            }
        }
    }

    fn finish(&mut self) {
        for batch in self.decoder.finish().unwrap() {
            let table = batch.table().name();
            for (row, op) in batch.ops().iter().enumerate() {
                let before = (*op != Op::Insert && *op != Op::Truncate)
                    .then(|| row_text(batch.before(), row));
                let after =
                    matches!(op, Op::Insert | Op::Update).then(|| row_text(batch.after(), row));
                let [before, after] = [before, after].map(Option::unwrap_or_default);
                self.rows.push(format!("{table} {op:?} [{before}] [{after}]"));
            }
            self.unsent.extend(batch.unsent().iter().map(|u| (table.clone(), *u)));
        }
    }

    /// The rows, when nothing went wrong.
    fn rows(mut self) -> Vec<String> {
        self.finish();
        assert_eq!(self.problems, Vec::<String>::new());
        self.rows
    }
}

fn row_text(rows: &RecordBatch, row: usize) -> String {
    let cell = |(field, column): (_, &arrow::array::ArrayRef)| {
        let field: &Arc<arrow::datatypes::Field> = field;
        let value = if column.is_null(row) {
            "~".to_owned()
        } else {
            array_value_to_string(column, row).unwrap()
        };
        format!("{}={value}", field.name())
    };
    let fields = rows.schema_ref().fields().iter();
    fields.zip(rows.columns()).map(cell).collect::<Vec<_>>().join(" ")
}
