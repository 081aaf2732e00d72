use std::sync::Arc;

use arrow::error::ArrowError;
use medlake_contract::{
    ChangeBatch, ContractError, Op, SchemaChange, SourceId, TableName, TableSchema,
};

use super::{
    buffer::Image,
    bytes::{Bytes, Short},
    column::Fault,
    layout::Layout,
};
use crate::{
    IngestError,
    source::{Page, Quarantined, TableState},
};

/// Changes of one table, as they come in.
#[derive(Debug)]
struct Rows {
    schema: Arc<TableSchema>,
    ops: Vec<Op>,
    before: Image,
    after: Image,
}

/// A page that is being filled.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) schemas: Vec<SchemaChange>,
    /// Tables that are stopped, or to be copied again.
    pub(crate) states: Vec<TableState>,
    tables: Vec<Rows>,
    quarantined: Vec<Quarantined>,
    rows: usize,
    pub(crate) bytes: usize,
    pub(crate) transactions: u64,
    pub(crate) committed_at_micros: Option<i64>,
    /// See [`Page::has_new_tables`].
    pub(crate) has_new_tables: bool,
    /// Whether the place is another than that of the page before.
    pub(crate) moved: bool,
}

/// How much was in a draft at some time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mark {
    tables: Vec<usize>,
    quarantined: usize,
    rows: usize,
    bytes: usize,
}

/// What rows of an event have in common.
#[derive(Debug, Clone)]
pub(crate) struct Origin<'a> {
    pub(crate) op: Op,
    /// Names the event, the same whenever it is read.
    pub(crate) id: &'a str,
    pub(crate) at: &'a str,
    pub(crate) committed_at_micros: Option<i64>,
}

impl Draft {
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            tables: self.tables.iter().map(|t| t.ops.len()).collect(),
            quarantined: self.quarantined.len(),
            rows: self.rows,
            bytes: self.bytes,
        }
    }

    /// Takes away what came since.
    pub(crate) fn rewind(&mut self, mark: &Mark) {
        for (i, table) in self.tables.iter_mut().enumerate() {
            let length = mark.tables.get(i).copied().unwrap_or(0);
            table.ops.truncate(length);
            table.before.truncate(length);
            table.after.truncate(length);
        }
        self.quarantined.truncate(mark.quarantined);
        (self.rows, self.bytes) = (mark.rows, mark.bytes);
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether there is anything in it but a place.
    pub(crate) fn has_news(&self) -> bool {
        self.is_due() || !self.schemas.is_empty()
    }

    /// Whether there is anything in it that somebody may wait for. Tables that change, change often,
    /// and one change may be all of theirs.
    pub(crate) fn is_due(&self) -> bool {
        self.rows > 0
            || self.has_new_tables
            || !self.states.is_empty()
            || !self.quarantined.is_empty()
    }

    /// Begins the page with what a table is from here on. That is as good as here when the page has
    /// nothing else of the table; answers whether it is so.
    pub(crate) fn announce(&mut self, change: &SchemaChange) -> bool {
        let name = change.table.name();
        if self.tables.iter().any(|t| t.schema.name() == name && !t.ops.is_empty())
            || self.quarantined.iter().any(|q| q.table == *name)
            || self.states.iter().any(|s| s.table == *name)
        {
            return false;
        }
        if let Some(before) = self.schemas.iter_mut().find(|c| c.table.name() == name) {
            return before.followed_by(change);
        }
        self.schemas.push(change.clone());
        true
    }

    fn table(&mut self, schema: &Arc<TableSchema>) -> &mut Rows {
        let at = self.tables.iter().rposition(|t| Arc::ptr_eq(&t.schema, schema));
        let at = at.unwrap_or_else(|| {
            self.tables.push(Rows {
                schema: Arc::clone(schema),
                ops: Vec::new(),
                before: Image::new(schema),
                after: Image::new(schema),
            });
            self.tables.len() - 1
        });
        &mut self.tables[at]
    }

    pub(crate) fn truncate_table(&mut self, schema: &Arc<TableSchema>) {
        self.table(schema).ops.push(Op::Truncate);
        self.rows += 1;
    }

    /// Reads the rows of an event. One that cannot be read is put aside; what cannot be told apart
    /// after it, with it.
    pub(crate) fn read(&mut self, layout: &Layout, data: &[u8], origin: &Origin<'_>) {
        let table = self.table(&layout.schema);
        let start = table.ops.len();
        let mut put_aside = Vec::new();
        let mut bytes = Bytes::new(data);
        let mut number = 0;
        while !bytes.is_empty() {
            let row_start = bytes.rest();
            let row = table.ops.len();
            let fault = table.read(layout, &mut bytes, origin.op, row);
            match fault {
                Ok(None) => table.ops.push(origin.op),
                Ok(Some(reason)) => {
                    let raw = &row_start[..row_start.len() - bytes.rest().len()];
                    put_aside.push(table.put_aside(layout, origin, row, number, reason, raw));
                }
                Err(Short) => {
                    let reason = "the rows of an event are cut short from here on".to_owned();
                    put_aside.push(table.put_aside(layout, origin, row, number, reason, row_start));
                    break;
                }
            }
            number += 1;
        }
        let read = table.ops.len() - start;
        self.rows += read + put_aside.len();
        self.quarantined.append(&mut put_aside);
    }

    /// The page, and an empty draft in its place. An open one goes on in the next.
    pub(crate) fn finish(&mut self, at: &SourceId, open: bool) -> Result<Page, IngestError> {
        let draft = std::mem::take(self);
        let mut page = Page {
            schemas: draft.schemas,
            states: draft.states,
            has_new_tables: draft.has_new_tables,
            quarantined: draft.quarantined,
            row_count: draft.rows,
            byte_count: draft.bytes,
            transaction_count: draft.transactions,
            committed_at_micros: draft.committed_at_micros,
            open,
            ..Page::default()
        };
        for table in draft.tables.into_iter().filter(|t| !t.ops.is_empty()) {
            let arrow = |source: ArrowError| IngestError::Arrow { at: at.clone(), source };
            let length = table.ops.len();
            let before = table.before.finish(&table.schema, length).map_err(arrow)?;
            let after = table.after.finish(&table.schema, length).map_err(arrow)?;
            let batch = ChangeBatch::new(table.schema, table.ops, before, after);
            let batch = batch
                .map_err(|source: ContractError| IngestError::Batch { at: at.clone(), source })?;
            page.batches.push(batch);
        }
        Ok(page)
    }
}

impl Rows {
    /// Reads the images of one row, as row number `row`. Answers what is wrong with a value.
    fn read(
        &mut self,
        layout: &Layout,
        bytes: &mut Bytes<'_>,
        op: Op,
        row: usize,
    ) -> Result<Option<String>, Short> {
        let mut fault = None;
        if op != Op::Insert {
            read_image(layout, bytes, &mut self.before, row, &mut fault)?;
        }
        if op != Op::Delete {
            read_image(layout, bytes, &mut self.after, row, &mut fault)?;
        }
        Ok(fault)
    }

    fn put_aside(
        &mut self,
        layout: &Layout,
        origin: &Origin<'_>,
        row: usize,
        number: usize,
        reason: String,
        raw: &[u8],
    ) -> Quarantined {
        let image = if origin.op == Op::Insert { &self.after } else { &self.before };
        let key = |at: &usize| image.columns.get(*at)?.json(row);
        let key: Option<Vec<_>> = self.schema.key_indices().iter().map(key).collect();
        let key =
            key.filter(|key| !key.is_empty()).map(|key| serde_json::Value::from(key).to_string());
        self.before.truncate(row);
        self.after.truncate(row);
        Quarantined {
            table: table_of(layout),
            id: format!("{}/{number}", origin.id),
            at: origin.at.to_owned(),
            op: match origin.op {
                Op::Insert => "c",
                Op::Update => "u",
                Op::Delete => "d",
                Op::Truncate => "t",
            }
            .to_owned(),
            key,
            reason,
            raw: raw.to_vec(),
            committed_at_micros: origin.committed_at_micros,
        }
    }
}

fn table_of(layout: &Layout) -> TableName {
    layout.schema.name().clone()
}

#[inline]
fn read_image(
    layout: &Layout,
    bytes: &mut Bytes<'_>,
    image: &mut Image,
    row: usize,
    fault: &mut Option<String>,
) -> Result<(), Short> {
    image.pad(row);
    let nulls = bytes.take(layout.decoders.len().div_ceil(8))?;
    for (i, (decoder, buffer)) in layout.decoders.iter().zip(&mut image.columns).enumerate() {
        if nulls[i / 8] >> (i % 8) & 1 == 1 {
            buffer.push_null();
            continue;
        }
        match decoder.read(bytes, buffer) {
            Ok(()) => {}
            Err(Fault::Short) => return Err(Short),
            Err(Fault::Value(reason)) => {
                buffer.push_null();
                let name = &layout.schema.columns()[i].name;
                fault.get_or_insert_with(|| format!("column \"{name}\" {reason}"));
            }
        }
    }
    Ok(())
}
