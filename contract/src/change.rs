use std::sync::Arc;

use arrow::record_batch::RecordBatch;

use crate::{ContractError, Positions, TableSchema};

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// The row came into being: it has an image after, none before.
    Insert,
    /// The row changed, its key perhaps too: it has both images.
    Update,
    /// The row went: it has an image before, none after.
    Delete,
    /// All rows of the table went: it has no image at all.
    Truncate,
}

/// A value after a change that its source did not send, as it did not change with the row: it is the
/// one the row has in the table. An insert with such a value is a row that had another key, which is
/// in its image before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unsent {
    /// Which operation.
    pub row: usize,
    /// Which column of the table; the image after is null there.
    pub column: usize,
}

/// Changes of one table, in the order the source made them.
///
/// Row `i` of `before` and `after` belongs to operation `i`; both have the table's columns, all
/// nullable ([`TableSchema::arrow_nullable`]), and are all null where the row does not exist.
#[derive(Debug, Clone)]
pub struct ChangeBatch {
    table: Arc<TableSchema>,
    ops: Vec<Op>,
    before: RecordBatch,
    after: RecordBatch,
    unsent: Vec<Unsent>,
}

impl ChangeBatch {
    /// Changes of `table`.
    ///
    /// # Errors
    /// When the images are not as long as `ops`, or do not have the table's columns.
    pub fn new(
        table: Arc<TableSchema>,
        ops: Vec<Op>,
        before: RecordBatch,
        after: RecordBatch,
    ) -> Result<Self, ContractError> {
        for (name, image) in [("before", &before), ("after", &after)] {
            let problem = if image.num_rows() != ops.len() {
                format!("{} rows {name} for {} operations", image.num_rows(), ops.len())
            } else if image.schema_ref() != table.arrow_nullable() {
                format!("the image {name} has other columns than the table")
            } else {
                continue;
            };
            return Err(ContractError::Change { table: table.name().clone(), problem });
        }
        Ok(Self { table, ops, before, after, unsent: Vec::new() })
    }

    /// Inserts of whole rows.
    ///
    /// # Errors
    /// When `rows` does not have the table's columns.
    pub fn inserts(table: Arc<TableSchema>, rows: &RecordBatch) -> Result<Self, ContractError> {
        let wrong = |source: arrow::error::ArrowError| ContractError::Change {
            table: table.name().clone(),
            problem: source.to_string(),
        };
        let after =
            RecordBatch::try_new(Arc::clone(table.arrow_nullable()), rows.columns().to_vec())
                .map_err(wrong)?;
        let nulls = table
            .columns()
            .iter()
            .map(|c| arrow::array::new_null_array(&c.ty.arrow(), rows.num_rows()))
            .collect();
        let before =
            RecordBatch::try_new(Arc::clone(table.arrow_nullable()), nulls).map_err(wrong)?;
        Self::new(Arc::clone(&table), vec![Op::Insert; rows.num_rows()], before, after)
    }

    /// The same changes, of which these values after were not sent. Whoever takes the changes puts
    /// the values of the rows as they are there.
    ///
    /// # Errors
    /// When there is no such operation or column, when the operation has no row after, or when the
    /// table has no key to find the row by.
    pub fn with_unsent(self, unsent: Vec<Unsent>) -> Result<Self, ContractError> {
        let is_missing = |cell: &&Unsent| {
            let has_row = matches!(self.ops.get(cell.row), Some(Op::Insert | Op::Update));
            !has_row || cell.column >= self.table.columns().len()
        };
        let problem = if let Some(cell) = unsent.iter().find(is_missing) {
            format!("there is no column {} after operation {}", cell.column, cell.row)
        } else if !unsent.is_empty() && self.table.key_indices().is_empty() {
            "it has no key to find values by that were not sent".to_owned()
        } else {
            return Ok(Self { unsent, ..self });
        };
        Err(ContractError::Change { table: self.table.name().clone(), problem })
    }

    /// The table that changed.
    #[must_use]
    pub fn table(&self) -> &Arc<TableSchema> {
        &self.table
    }

    /// The operations, in source order.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The rows before; all null for an insert.
    #[must_use]
    pub fn before(&self) -> &RecordBatch {
        &self.before
    }

    /// The rows after; all null for a delete.
    #[must_use]
    pub fn after(&self) -> &RecordBatch {
        &self.after
    }

    /// The values after that were not sent; most sources send all.
    #[must_use]
    pub fn unsent(&self) -> &[Unsent] {
        &self.unsent
    }

    /// Bytes of memory the two images hold.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.before.get_array_memory_size() + self.after.get_array_memory_size()
    }
}

/// What a table is from here on in its source's log, and what became of columns it had before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaChange {
    /// The table as it is now; a new one, or one that changed.
    pub table: Arc<TableSchema>,
    /// Columns that are the same under another name, as (before, now), in the order they were
    /// renamed. A column that is missing now and is not here was dropped.
    pub renamed: Vec<(String, String)>,
}

impl SchemaChange {
    /// Both changes of one table as one, if that can be told apart from other ones by whoever reads it
    /// again with the table as it is after both: when no name that was given up is a column again.
    /// Answers whether it was done.
    pub fn followed_by(&mut self, later: &Self) -> bool {
        let is_back = |name: &str| later.table.columns().iter().any(|c| c.name == name);
        if self.renamed.iter().chain(&later.renamed).any(|(before, _)| is_back(before)) {
            return false;
        }
        self.renamed.extend(later.renamed.iter().cloned());
        self.table = Arc::clone(&later.table);
        true
    }
}

/// Which rows of a table a copy of them speaks for.
#[derive(Debug, Clone, PartialEq)]
pub enum CopyScope {
    /// Those it has and no others: the rest of the table is not known of.
    Rows,
    /// All rows whose key is after `after` and up to and with `to`, in the order of the key columns'
    /// own values (numbers, dates, bytes; text by its bytes). Each is one row of the key columns;
    /// none is no bound. A row in the range that the copy lacks does not exist.
    Range {
        /// The key right before the range.
        after: Option<RecordBatch>,
        /// The last key of the range.
        to: Option<RecordBatch>,
        /// Keys in the range of which nothing is said: their rows are what the changes made them.
        except: Option<RecordBatch>,
    },
    /// All rows with one of these keys. A key that the copy lacks does not exist.
    Keys(RecordBatch),
    /// Some of the rows of a table without a key, which are too many for one copy: all of them are
    /// those of the copies from one that is the first, each in a set of its own and none of the
    /// table's changes in between. Only of rows that are compared.
    Part {
        /// Whether the parts begin, or begin again.
        first: bool,
    },
}

/// Rows of a table as they are in the source at the end of a [`ChangeSet`]: an answer to what the
/// rows *are*, where changes say what *happened*.
#[derive(Debug, Clone)]
pub struct RowCopy {
    /// The table.
    pub table: Arc<TableSchema>,
    /// Which rows it speaks for.
    pub scope: CopyScope,
    /// The rows, in the table's columns, all nullable ([`TableSchema::arrow_nullable`]).
    pub rows: RecordBatch,
}

/// One cut: whole source transactions, of any number of tables, and how far the sources are read
/// with them. What is in one set becomes visible together and is committed together.
#[derive(Debug, Clone, Default)]
pub struct ChangeSet {
    /// What tables are from here on: applies before the batches. Everything before this set has to be
    /// committed first, so that whoever resumes there finds the tables as they were or as they are
    /// from here on, and never anything else.
    pub schemas: Vec<SchemaChange>,
    /// Where each source stands once the batches are contained. Sources that did not move may be
    /// left out.
    pub positions: Positions,
    /// The changes. A table may occur more than once; its batches are in source order.
    pub batches: Vec<ChangeBatch>,
    /// Rows as they are once the batches are applied.
    pub copies: Vec<RowCopy>,
    /// The same, only to be compared with what is there then: they change nothing by themselves.
    pub compared: Vec<RowCopy>,
    /// When the newest transaction in it was committed, in microseconds since 1970 (UTC).
    pub committed_at_micros: Option<i64>,
    /// How many source transactions end in it.
    pub transaction_count: u64,
    /// Whether its last transaction goes on in the next set, because it is larger than a set should
    /// be. Then it is staged, but neither published nor committed, until a set that ends it; its
    /// positions are those before the transaction.
    pub open: bool,
}

impl ChangeSet {
    /// How many row changes and copied rows it holds.
    #[must_use]
    pub fn row_count(&self) -> usize {
        self.batches.iter().map(|b| b.ops().len()).sum::<usize>()
            + self.copies.iter().map(|c| c.rows.num_rows()).sum::<usize>()
    }
}
