//! How fast messages of Debezium become batches, on one core:
//! `cargo bench --profile dev -p medlake-ingest --features testing --bench debezium`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark measures time and prints it"
)]

use std::time::Instant;

use medlake_ingest::{DebeziumConfig, testing::Debezium};

const MESSAGES: usize = 100_000;
/// Rows of one batch, as a cut has them.
const BATCH: usize = 50_000;

/// An update of a row of 15 columns, with its row before.
fn update(id: usize) -> String {
    let row = |n: usize| {
        format!(
            r#"{{"id":{id},"customer":"customer {n}","amount":"Jw8=","created":1767323045123456,"updated":"2026-01-02T03:04:05.123Z","doc":"{{\"a\":{n}}}","status":"paid","flags":"a,b","bin":"AP8=","quantity":{n},"open":true,"priority":1,"day":20455,"rate":1.5,"note":"a note of some words, as they are"}}"#
        )
    };
    format!(
        r#"{{"before":{},"after":{},"source":{{"version":"3.6.3.Final","connector":"mysql","name":"shopsrv","ts_ms":1795288228000,"snapshot":"false","db":"shop","sequence":null,"ts_us":1795288228000000,"ts_ns":1795288228000000000,"table":"orders","server_id":1001,"gtid":null,"file":"mysql-bin.000002","pos":3546,"row":0,"thread":null,"query":null}},"transaction":null,"op":"u","ts_ms":1795288228669,"ts_us":1795288228669471,"ts_ns":1795288228669471436}}"#,
        row(id),
        row(id + 1)
    )
}

fn schema() -> String {
    let field = |name: &str, ty: &str, rest: &str| {
        format!(r#"{{"type":"{ty}","optional":true{rest},"field":"{name}"}}"#)
    };
    let decimal = r#","name":"org.apache.kafka.connect.data.Decimal","version":1,"parameters":{"scale":"2","connect.decimal.precision":"12"}"#;
    let named = |name: &str| format!(r#","name":"io.debezium.time.{name}","version":1"#);
    let fields = [
        field("id", "int64", ""),
        field("customer", "string", ""),
        field("amount", "bytes", decimal),
        field("created", "int64", &named("MicroTimestamp")),
        field("updated", "string", &named("ZonedTimestamp")),
        field("doc", "string", ""),
        field("status", "string", ""),
        field("flags", "string", ""),
        field("bin", "bytes", ""),
        field("quantity", "int64", ""),
        field("open", "boolean", ""),
        field("priority", "int16", ""),
        field("day", "int32", &named("Date")),
        field("rate", "double", ""),
        field("note", "string", ""),
    ]
    .join(",");
    let side = |name: &str| {
        format!(r#"{{"type":"struct","fields":[{fields}],"optional":true,"field":"{name}"}}"#)
    };
    format!(r#"{{"type":"struct","fields":[{},{}]}}"#, side("before"), side("after"))
}

fn main() {
    let schema = schema();
    for (what, wrap) in [("without schemas", false), ("with schemas", true)] {
        let messages: Vec<(String, String)> = (0..MESSAGES)
            .map(|id| {
                let update = update(id);
                let value = if wrap {
                    format!(r#"{{"schema":{schema},"payload":{update}}}"#)
                } else {
                    update
                };
                (format!(r#"{{"id":{id}}}"#), value)
            })
            .collect();
        let bytes: usize = messages.iter().map(|(_, value)| value.len()).sum();
        let mut decoder = Debezium::new(DebeziumConfig::default());
        let began = Instant::now();
        let mut rows = 0;
        for chunk in messages.chunks(BATCH) {
            for (key, value) in chunk {
                let taken =
                    decoder.take("p.shop.orders", Some(key.as_bytes()), Some(value.as_bytes()));
                taken.unwrap();
            }
            rows += decoder.finish().unwrap().iter().map(|batch| batch.ops().len()).sum::<usize>();
        }
        let seconds = began.elapsed().as_secs_f64();
        assert_eq!(rows, MESSAGES);
        println!(
            "{what}: {:.0} events/s, {:.0} MB/s, {} bytes each",
            f64::from(u32::try_from(rows).unwrap()) / seconds,
            f64::from(u32::try_from(bytes >> 10).unwrap()) / 1024.0 / seconds,
            bytes / MESSAGES
        );
    }
}
