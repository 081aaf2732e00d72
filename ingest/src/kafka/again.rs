//! Messages in quarantine that are read once more, from the bytes that are kept of them.

use std::collections::{BTreeMap, BTreeSet};

use medlake_contract::TableName;

use super::{KafkaSource, record::Record};
use crate::{
    IngestError,
    source::{Page, QuarantinedRow},
};

/// All messages of one row that are in quarantine, in their order.
#[derive(Debug)]
pub(super) struct Again {
    table: TableName,
    key: String,
    records: Vec<Record>,
}

impl KafkaSource {
    /// Remembers messages to be read again, row by row. Answers how many of them have a row that is
    /// known: of others nobody can tell whether a later message overtook them.
    pub(super) fn read_later(&mut self, table: &TableName, changes: &[QuarantinedRow]) -> usize {
        let mut rows: BTreeMap<&str, Vec<Record>> = BTreeMap::new();
        for change in changes {
            let key = change.key.as_deref().filter(|key| self.decoder.is_key(table, key));
            if let Some((key, record)) = key.zip(Record::kept(&change.id, &change.raw)) {
                rows.entry(key).or_default().push(record);
            }
        }
        let count = rows.values().map(Vec::len).sum();
        for (key, mut records) in rows {
            records.sort_by(|a, b| {
                (&a.topic, a.partition, a.offset).cmp(&(&b.topic, b.partition, b.offset))
            });
            self.again.push_back(Again { table: table.clone(), key: key.to_owned(), records });
        }
        count
    }

    /// Takes the next row's messages into a page of their own, if all of them can be read now: a row of
    /// which the last message is missing would be one that never was. Answers whether the page is that.
    pub(super) fn read_again(&mut self, page: &mut Page) -> Result<bool, IngestError> {
        while let Some(Again { table, key, records }) = self.again.pop_front() {
            // Others may have come to be, and all may be overtaken.
            let held = self.quarantine.of_key(&table, &key);
            if records.iter().map(Record::place).collect::<BTreeSet<_>>() != held {
                continue;
            }
            let mut trial = Page::default();
            let taken = records.iter().all(|record| self.take(record, &mut trial));
            let batches = self.finish_batches()?;
            // What was not sent with them is of a time that is over.
            let whole = batches.iter().all(|batch| batch.unsent().is_empty());
            let good = taken && whole && trial.row_count == records.len();
            let is_new = !trial.schemas.is_empty();
            page.schemas = trial.schemas;
            page.states.extend(trial.states);
            if good {
                page.batches = batches;
                page.row_count = trial.row_count;
                page.transaction_count = trial.transaction_count;
            }
            if good || is_new {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
