//! What the decoder is asked about tables it knows.

use medlake_contract::TableName;

use super::{Decoder, envelope::Change};
use crate::snapshot::keys::Keys;

impl Decoder {
    /// Whether a change's table is known, and this shape of its rows is not.
    pub(crate) fn is_new_shape(&mut self, topic: &str, change: &Change<'_>) -> bool {
        let Ok(name) = self.table_of(topic, &change.origin) else { return false };
        let text = change.schema.unwrap_or_default();
        let known = self.tables.get(&name).filter(|table| table.stopped.is_none());
        known.is_some_and(|table| table.layouts.iter().all(|(seen, _)| seen != text))
    }

    /// Whether rows of a table are on their way into a batch.
    pub(crate) fn has_rows(&self, name: &TableName) -> bool {
        self.tables.get(name).and_then(|t| t.rows.as_ref()).is_some_and(|rows| rows.len() > 0)
    }

    /// Whether a text is the whole key of a row of a table.
    pub(crate) fn is_key(&self, table: &TableName, text: &str) -> bool {
        let keys = self.tables.get(table).and_then(|table| Keys::of(&table.schema).ok());
        let text = serde_json::from_str(text).ok();
        keys.zip(text).is_some_and(|(keys, text)| keys.parse(&text).is_ok())
    }
}
