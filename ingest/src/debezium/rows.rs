use std::sync::Arc;

use arrow::{array::BooleanArray, compute::filter_record_batch, record_batch::RecordBatch};
use medlake_contract::{ChangeBatch, ContractError, Op, TableSchema, Unsent};

use crate::debezium::{
    cells::Cells, connect::Field, json::Json, placeholder::Placeholder, problem::Problem,
};

/// How a version of a table's rows is written, and where each of its fields goes.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) fields: Vec<Field>,
    /// The columns of the table the fields go to; none for a column the table has no more.
    targets: Vec<Option<usize>>,
}

impl Layout {
    pub(crate) fn new(fields: Vec<Field>, table: &TableSchema) -> Self {
        let at = |f: &Field| table.columns().iter().position(|c| c.name == f.name);
        let targets = fields.iter().map(at).collect();
        Self { fields, targets }
    }

    fn find(&self, name: &str, likely: usize) -> Option<usize> {
        let is = |at: usize| self.fields.get(at).is_some_and(|f| f.name == name);
        if is(likely) { Some(likely) } else { (0..self.fields.len()).find(|at| is(*at)) }
    }
}

/// Why a row was not taken.
#[derive(Debug)]
pub(crate) enum RowError {
    Problem(Problem),
    /// It has a field with a value that the layout does not know.
    Unknown,
}

impl From<Problem> for RowError {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Changes of one table on their way into a batch.
#[derive(Debug)]
pub(crate) struct Rows {
    table: Arc<TableSchema>,
    ops: Vec<Op>,
    before: Image,
    after: Image,
    unsent: Vec<Unsent>,
    /// Changes of which a part could not be read.
    bad: Vec<usize>,
}

/// The two sides of a change, as they came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sides<'a> {
    pub(crate) op: Op,
    pub(crate) before: Option<&'a str>,
    pub(crate) after: Option<&'a str>,
    /// Whether the side before is a row, and not its key alone.
    pub(crate) whole: bool,
}

impl Rows {
    pub(crate) fn new(table: Arc<TableSchema>) -> Self {
        Self {
            before: Image::new(&table),
            after: Image::new(&table),
            table,
            ops: Vec::new(),
            unsent: Vec::new(),
            bad: Vec::new(),
        }
    }

    /// Takes a change. After an error it is as if it had not come.
    pub(crate) fn push(
        &mut self,
        sides: Sides<'_>,
        layout: &Layout,
        placeholder: &Placeholder,
        scratch: &mut Vec<u8>,
    ) -> Result<(), RowError> {
        let row = self.ops.len();
        self.ops.push(sides.op);
        let mut unsent = Vec::new();
        let mut taken = Ok(());
        if let Some(text) = sides.before {
            // What a row was is not asked for where it was not sent.
            taken = self.before.push(text, None, layout, placeholder, &mut unsent, scratch);
            unsent.clear();
        }
        if let (Some(text), true) = (sides.after, taken.is_ok()) {
            let fallback = sides.before.filter(|_| sides.whole);
            taken = self.after.push(text, fallback, layout, placeholder, &mut unsent, scratch);
        }
        if !unsent.is_empty() && self.table.key_indices().is_empty() {
            taken = Err(Problem::Unfindable.into());
        }
        self.before.rows = row + 1;
        self.after.rows = row + 1;
        if taken.is_ok() {
            self.unsent.extend(unsent.into_iter().map(|column| Unsent { row, column }));
        } else {
            self.bad.push(row);
        }
        taken
    }

    pub(crate) fn len(&self) -> usize {
        self.ops.len() - self.bad.len()
    }

    pub(crate) fn finish(mut self) -> Result<Option<ChangeBatch>, ContractError> {
        if self.len() == 0 {
            return Ok(None);
        }
        let wrong = |source: arrow::error::ArrowError| ContractError::Change {
            table: self.table.name().clone(),
            problem: source.to_string(),
        };
        let mut before = self.before.finish(&self.table).map_err(wrong)?;
        let mut after = self.after.finish(&self.table).map_err(wrong)?;
        if !self.bad.is_empty() {
            let mut keep = vec![true; self.ops.len()];
            for row in &self.bad {
                keep[*row] = false;
            }
            let mut at = 0;
            let places: Vec<usize> = keep
                .iter()
                .map(|kept| {
                    at += usize::from(*kept);
                    at - usize::from(*kept)
                })
                .collect();
            for cell in &mut self.unsent {
                cell.row = places[cell.row];
            }
            let mut row = 0;
            self.ops.retain(|_| {
                row += 1;
                keep[row - 1]
            });
            let keep = BooleanArray::from(keep);
            before = filter_record_batch(&before, &keep).map_err(wrong)?;
            after = filter_record_batch(&after, &keep).map_err(wrong)?;
        }
        ChangeBatch::new(Arc::clone(&self.table), self.ops, before, after)?
            .with_unsent(self.unsent)
            .map(Some)
    }
}

/// A row of which only the key is known.
pub(crate) fn key_row(
    key: &str,
    table: &TableSchema,
    layout: &Layout,
    placeholder: &Placeholder,
) -> Result<RecordBatch, Problem> {
    let mut image = Image::new(table);
    let pushed = image.push(key, None, layout, placeholder, &mut Vec::new(), &mut Vec::new());
    image.rows = 1;
    match pushed {
        Ok(()) => image.finish(table).map_err(|e| Problem::Schema(e.to_string())),
        Err(RowError::Problem(problem)) => Err(problem),
        Err(RowError::Unknown) => Err(Problem::Envelope("its key has columns of no table")),
    }
}

/// One side of the changes.
#[derive(Debug)]
struct Image {
    columns: Vec<Cells>,
    required: Vec<bool>,
    /// How many rows there are; the columns may be behind by rows that do not exist.
    rows: usize,
}

impl Image {
    fn new(table: &TableSchema) -> Self {
        Self {
            columns: table.columns().iter().map(|c| Cells::new(&c.ty)).collect(),
            required: (0..table.columns().len())
                .map(|i| table.key_indices().contains(&i))
                .collect(),
            rows: 0,
        }
    }

    /// Appends the row in `text`. A value that was not sent is taken from `fallback`, the same row
    /// before; when it is not there either, its column is added to `unsent`.
    fn push(
        &mut self,
        text: &str,
        fallback: Option<&str>,
        layout: &Layout,
        placeholder: &Placeholder,
        unsent: &mut Vec<usize>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), RowError> {
        let rows = self.rows;
        let mut json = Json::new(text);
        json.object()?;
        let mut at = 0;
        while let Some(name) = json.key(at == 0)? {
            let found = layout.find(&name, at);
            at += 1;
            let Some(found) = found else {
                if json.null()? {
                    continue;
                }
                return Err(RowError::Unknown);
            };
            let (Some(field), Some(Some(target))) =
                (layout.fields.get(found), layout.targets.get(found))
            else {
                json.raw()?;
                continue;
            };
            let Some(cells) = self.columns.get_mut(*target) else { continue };
            if cells.len() != rows {
                if cells.len() > rows {
                    return Err(Problem::cell("one for each field").of(&field.name).into());
                }
                cells.pad(rows);
            }
            if placeholder.is_in(json.rest()?) {
                json.raw()?;
                match fallback.map_or(Ok(None), |row| value_in(row, &field.name, placeholder))? {
                    Some(value) => cells.push(&field.codec, &mut Json::new(value), scratch),
                    None => {
                        unsent.push(*target);
                        cells.pad(rows + 1);
                        continue;
                    }
                }
            } else if self.required[*target] && json.peek()? == b'n' {
                return Err(Problem::Missing { column: field.name.clone() }.into());
            } else {
                cells.push(&field.codec, &mut json, scratch)
            }
            .map_err(|p| p.of(&field.name))?;
        }
        json.end()?;
        for (target, cells) in self.columns.iter_mut().enumerate() {
            if cells.len() <= rows {
                if self.required[target] {
                    let name = layout.targets.iter().position(|t| *t == Some(target));
                    let name = name.and_then(|f| layout.fields.get(f));
                    let column = name.map(|f| f.name.clone()).unwrap_or_default();
                    return Err(Problem::Missing { column }.into());
                }
                cells.pad(rows + 1);
            }
        }
        Ok(())
    }

    fn finish(&mut self, table: &TableSchema) -> Result<RecordBatch, arrow::error::ArrowError> {
        let rows = self.rows;
        let columns = self.columns.iter_mut().map(|cells| {
            cells.pad(rows);
            cells.finish()
        });
        let columns = columns.collect::<Result<_, _>>()?;
        RecordBatch::try_new(Arc::clone(table.arrow_nullable()), columns)
    }
}

/// The value of a field of a row, if it is there. A null is not: it may be a value that PostgreSQL did
/// not log.
fn value_in<'a>(
    row: &'a str,
    field: &str,
    placeholder: &Placeholder,
) -> Result<Option<&'a str>, Problem> {
    let mut json = Json::new(row);
    json.object()?;
    let mut first = true;
    while let Some(name) = json.key(first)? {
        first = false;
        let value = json.raw()?;
        if name == field {
            return Ok((value != "null" && !placeholder.is_in(value)).then_some(value));
        }
    }
    Ok(None)
}
