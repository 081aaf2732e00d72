//! Any bytes as messages of Debezium: an answer or a problem, and never a panic. Lines are messages of
//! one topic, so that what one leaves behind meets the next.

#![no_main]

use libfuzzer_sys::fuzz_target;
use medlake_ingest::{DebeziumConfig, testing::Debezium};

fuzz_target!(|bytes: &[u8]| {
    let mut decoder = Debezium::new(DebeziumConfig::default());
    for line in bytes.split(|byte| *byte == b'\n') {
        let (key, value) = match line.iter().position(|byte| *byte == b'\t') {
            Some(tab) => (Some(&line[..tab]), &line[tab + 1..]),
            None => (None, line),
        };
        let _ = decoder.take("p.db.t", key, Some(value));
    }
    decoder.finish().expect("what was taken makes batches");
});
