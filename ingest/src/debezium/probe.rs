//! What a change would make of its table, before it is taken.

use medlake_contract::SchemaChange;

use super::{Change, ChangeOp, Decoder, Problem, RowKeys, Taken};

impl Decoder {
    /// Whether a message has the schema that was seen last in its topic; of one without a schema only
    /// its rows can tell.
    pub(crate) fn has_usual_schema(&self, topic: &str, value: Option<&[u8]>) -> bool {
        let Some(rest) = value.and_then(|v| v.strip_prefix(br#"{"schema":"#)) else { return true };
        let known = self.topics.get(topic).map_or("", |t| t.schema.as_str());
        !known.is_empty() && rest.starts_with(known.as_bytes())
    }

    /// What its table is from this change on, and whether the table is new, if it says so by its
    /// schema: then [`Self::take`] would answer just that.
    pub(crate) fn probe(
        &mut self,
        topic: &str,
        keys: RowKeys<'_>,
        change: &Change<'_>,
    ) -> Result<Option<(SchemaChange, bool)>, Problem> {
        let name = self.table_of(topic, &change.origin)?;
        let known = self.tables.get(&name);
        let text = change.schema.unwrap_or_default();
        let is_settled = known.is_some_and(|table| {
            table.stopped.is_some() || table.layouts.iter().any(|(seen, _)| seen == text)
        });
        if is_settled || (known.is_none() && change.op == ChangeOp::Truncate) {
            return Ok(None);
        }
        self.check_origin(topic, &name, known, &change.origin)?;
        let fields = self.fields(&name, keys.key, change)?;
        let keys = self.keys(&name, keys.key, change)?;
        let schema = self.schema(&name, &fields, &keys)?;
        Ok(match self.compare(schema, change.micros.unwrap_or(0)) {
            Some(Taken::Schema { change, is_new }) => Some((change, is_new)),
            _ => None,
        })
    }
}
