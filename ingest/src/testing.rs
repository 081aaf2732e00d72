//! For benchmarks and fuzzing: decoders without the servers whose bytes they read.

use medlake_contract::{ChangeBatch, ContractError, SourceId};

use crate::debezium::{DebeziumConfig, Decoder, Message, RowKeys, Taken};

/// Reads messages of Debezium from bytes.
#[derive(Debug)]
pub struct Debezium(Decoder);

impl Debezium {
    /// With nothing known of any table.
    #[must_use]
    pub fn new(config: DebeziumConfig) -> Self {
        Self(Decoder::new(SourceId::new("test"), config))
    }

    /// Takes a message, and says why not in words.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn take(
        &mut self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<(), String> {
        let words = |problem: crate::debezium::Problem| problem.to_string();
        match self.0.read(topic, value).map_err(words)? {
            Message::Nothing | Message::Boundary(_) => Ok(()),
            Message::Tables(tables) => self.0.learn(topic, tables).map_err(words),
            Message::Change(change) => loop {
                let keys = RowKeys { key, old: None };
                match self.0.take(topic, keys, &change).map_err(words)? {
                    Taken::Row | Taken::LeftOut => break Ok(()),
                    Taken::Schema { change: schema, .. } => {
                        // Rows before it are of no interest here.
                        self.0.adopt(&schema, &change.origin, change.micros, 0);
                    }
                }
            },
        }
    }

    /// The rows taken since the last time.
    ///
    /// # Errors
    /// Only for defects.
    pub fn finish(&mut self) -> Result<Vec<ChangeBatch>, ContractError> {
        self.0.finish()
    }
}
