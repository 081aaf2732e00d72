//! For benchmarks and fuzzing: decoders without the servers whose bytes they read.

use medlake_contract::{ChangeBatch, ContractError, Position, SourceId};

use crate::{
    debezium::{DebeziumConfig, DeclaredTable, Decoder, Message, RowKeys, Taken},
    embedded, kafka, mysql,
};

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
        self.take_keyed(topic, RowKeys { key, old: None }, value)
    }

    fn take_keyed(
        &mut self,
        topic: &str,
        keys: RowKeys<'_>,
        value: Option<&[u8]>,
    ) -> Result<(), String> {
        let words = |problem: crate::debezium::Problem| problem.to_string();
        match self.0.read(topic, value).map_err(words)? {
            Message::Nothing | Message::Boundary(_) => Ok(()),
            Message::Tables(tables) => self.0.learn(topic, tables).map_err(words),
            Message::Change(change) => loop {
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

/// Something of ours that reads bytes of others, for fuzzing.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// What it is called.
    pub name: &'static str,
    /// Reads any bytes: whatever they are, it does not panic.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "debezium", run: debezium, seeds: debezium_seeds },
    Target { name: "order", run: kafka::targets::order, seeds: kafka::targets::order_seeds },
    Target { name: "binlog", run: mysql::targets::binlog, seeds: mysql::targets::binlog_seeds },
    Target { name: "json", run: mysql::targets::json, seeds: mysql::targets::json_seeds },
    Target { name: "sql", run: mysql::targets::sql, seeds: mysql::targets::sql_seeds },
    Target { name: "embedded", run: embedded::targets::changes, seeds: embedded::targets::seeds },
    Target { name: "place", run: place, seeds: place_seeds },
];

/// Messages of one topic, a line each: the key, a tab, the header with the key before, a tab, the
/// value. What one leaves behind meets the next.
fn debezium(bytes: &[u8]) {
    let columns = [
        ("amount", "decimal(12,2)"),
        ("day", "date"),
        ("at", "datetime(6)"),
        ("clock", "time"),
        ("bits", "bit(7)"),
        ("big", "bigint unsigned"),
        ("raw", "varbinary(20)"),
        ("doc", "json"),
    ];
    let columns = columns.map(|(name, ty)| (name.to_owned(), ty.to_owned()));
    let table = DeclaredTable { key: Vec::new(), columns: columns.into() };
    let config =
        DebeziumConfig { tables: [("t".to_owned(), table)].into(), ..DebeziumConfig::default() };
    let mut decoder = Debezium::new(config);
    for line in bytes.split(|byte| *byte == b'\n') {
        let mut parts = line.rsplitn(3, |byte| *byte == b'\t');
        let (value, old, key) = (parts.next(), parts.next(), parts.next());
        let _ = decoder.0.key_text(None, key);
        // Why it was not taken is of no interest here.
        let _ = decoder.take_keyed("p.db.t", RowKeys { key, old }, value);
    }
    // What was taken makes batches.
    assert_eq!(decoder.finish().err().map(|error| error.to_string()), None);
}

fn debezium_seeds() -> Vec<Vec<u8>> {
    let row = r#"{"id":1,"s":"a\u0001\"é","amount":"Jw8=","day":20455,"at":1767323045123456,"clock":5000000,"bits":"fw==","big":9,"raw":"AAEC","doc":"{\"a\":[1.5e3,null]}","m":{"k":["a"]},"ok":true,"f":1.5}"#;
    let source = r#"{"connector":"mysql","db":"db","table":"t","ts_ms":1795288228000,"ts_us":1795288228000000}"#;
    let schema = r#"{"type":"struct","fields":[{"type":"struct","field":"after","optional":true,"fields":[{"type":"int32","field":"id"},{"type":"bytes","field":"amount","name":"org.apache.kafka.connect.data.Decimal","version":1,"parameters":{"scale":"2","connect.decimal.precision":"12"}},{"type":"int64","field":"at","name":"io.debezium.time.MicroTimestamp"},{"type":"map","keys":{"type":"string"},"values":{"type":"array","items":{"type":"string"}},"field":"m"},{"type":"struct","name":"io.debezium.data.VariableScaleDecimal","field":"d"},{"type":"struct","fields":[{"type":"int32","field":"x"}],"field":"o"},{"type":"struct","name":"io.debezium.data.geometry.Geometry","field":"g"},{"type":"string","name":"io.debezium.time.ZonedTimestamp","field":"z"}]}]}"#;
    let typed = r#"{"id":1,"amount":"Jw8=","at":1767323045123456,"m":{"k":["a","b"]},"d":{"scale":2,"value":"Jw8="},"o":{"x":1},"g":{"wkb":"AQE=","srid":null},"z":"2018-06-20T06:37:03.5-07:00"}"#;
    let change = |op: &str, before: &str, after: &str| {
        format!(
            r#"{{"before":{before},"after":{after},"source":{source},"transaction":{{"id":"1:2","total_order":1}},"op":"{op}","ts_ms":1}}"#
        )
    };
    let key = r#"{"id":1}"#;
    let tables = r#"{"source":{},"ddl":"x","tableChanges":[{"type":"ALTER","id":"\"db\".\"t\"","table":{"primaryKeyColumnNames":["id"],"columns":[{"name":"id","typeName":"INT UNSIGNED"},{"name":"n","typeName":"DECIMAL","length":12,"scale":2},{"name":"e","typeName":"ENUM('a','b')"}]}}]}"#;
    [
        [
            format!("{key}\t\t{}", change("c", "null", row)),
            format!("{key}\tStruct{{id=2}}\t{}", change("u", row, row)),
            format!("{key}\t\t{}", change("d", row, "null")),
            format!("{key}\t\t"),
        ]
        .join("\n"),
        format!("{key}\t\t{{\"schema\":{schema},\"payload\":{}}}", change("r", "null", typed)),
        format!("\t\t{tables}\n{key}\t\t{}", change("c", "null", r#"{"id":1,"n":"1.50","e":"a"}"#)),
        r#"{"status":"END","id":"1","event_count":1,"data_collections":[{"data_collection":"a","event_count":1}]}"#.to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// The texts of places.
fn place(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(position) = text.parse::<Position>() {
        assert_eq!(position.to_string().parse().ok(), Some(position));
    }
    mysql::targets::place(text);
    kafka::targets::place(text);
}

fn place_seeds() -> Vec<Vec<u8>> {
    let uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    [
        "log:7:mysql-bin.000003:4711 0-1001-12,3-7-9 @1001".to_owned(),
        "mysql-bin.000003:4711 0-1001-12,3-7-9 @1001".to_owned(),
        format!("binlog.000003:4711 {uuid}:1-5:7,{uuid}:tag:1 @{uuid}"),
        "his.db.orders/0=17,1=4,10=0;his.transaction/0=9".to_owned(),
        "change:42".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    /// The targets with few inputs, the same in every run; `make fuzz` looks for more.
    #[test]
    fn no_bytes_end_a_reader() {
        for target in TARGETS {
            let mut rng = StdRng::seed_from_u64(20_261_122);
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{}", target.name);
            for seed in &seeds {
                (target.run)(seed);
            }
            for _ in 0..2_000 {
                let mut bytes = seeds[rng.random_range(0..seeds.len())].clone();
                for _ in 0..rng.random_range(1..5) {
                    mutate(&mut bytes, &mut rng);
                }
                (target.run)(&bytes);
            }
        }
    }

    fn mutate(bytes: &mut Vec<u8>, rng: &mut StdRng) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.random()),
            2 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            3 if at < bytes.len() => {
                bytes[at] = *b"\0\x01\xff{}[]\",:".get(rng.random_range(0..10)).unwrap()
            }
            4 => drop(bytes.drain(at..(at + rng.random_range(1..20)).min(bytes.len()))),
            _ => {
                let from = rng.random_range(0..=at);
                let copy = bytes[from..at].iter().take(64).copied().collect::<Vec<_>>();
                bytes.splice(at..at, copy);
            }
        }
    }
}
