//! What fuzzing drives: any messages through the order they are handed out in.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use medlake_contract::SourceId;
use tokio::time::Instant;

use super::{order::Order, place::Place, record::Record};
use crate::debezium::{DebeziumConfig, Decoder, Message};

const TOPICS: [&str; 3] = ["p.db.t", "p.db.u", "p.transaction"];

/// Messages, a line each: a digit for topic and partition, a tab, the value.
pub(crate) fn order(bytes: &[u8]) {
    let topics = TOPICS.map(Arc::<str>::from);
    let decoder = Decoder::new(SourceId::new("his"), DebeziumConfig::default());
    let mut order = Order::new(Duration::from_secs(600), 1 << 20);
    let now = Instant::now();
    let mut expected: BTreeMap<(Arc<str>, i32), Vec<i64>> = BTreeMap::new();
    let mut found = expected.clone();
    let mut offset = 0;
    for line in bytes.split(|byte| *byte == b'\n') {
        let [digit, b'\t', value @ ..] = line else { continue };
        let topic = &topics[usize::from(digit / 2) % topics.len()];
        let partition = i32::from(digit % 2);
        offset += 1;
        let record = Record::new(Arc::clone(topic), (partition, offset), 0, None, Some(value));
        // A beginning is not handed out: the end stands for it.
        let begins = matches!(
            Message::read(Some(value), ""),
            Ok(Message::Boundary(boundary)) if boundary.counts.is_none()
        );
        if !begins || topic.as_ref() != TOPICS[2] {
            expected.entry((Arc::clone(topic), partition)).or_default().push(offset);
        }
        order.push(record, &decoder, true, |topic| TOPICS.contains(&topic), now);
        while let Some(unit) = order.pop(false, now) {
            note(&mut found, &unit.records);
        }
    }
    while let Some(unit) = order.pop(true, now) {
        note(&mut found, &unit.records);
    }
    assert_eq!((order.len(), order.bytes()), (0, 0), "something is held back for ever");
    assert_eq!(found, expected, "each message once, in the order of its partition");
}

fn note(found: &mut BTreeMap<(Arc<str>, i32), Vec<i64>>, records: &[Record]) {
    for record in records {
        let partition = (Arc::clone(&record.topic), record.partition);
        found.entry(partition).or_default().push(record.offset);
    }
}

/// Inputs for [`order`].
pub(crate) fn order_seeds() -> Vec<Vec<u8>> {
    let change = |transaction: &str, place: u32| {
        format!(
            r#"{{"op":"c","after":{{"id":1}},"transaction":{{"id":"{transaction}","total_order":{place}}}}}"#
        )
    };
    let end = |id: &str, counts: &str| {
        format!(r#"{{"status":"END","id":"{id}","data_collections":[{counts}]}}"#)
    };
    let count =
        |table: &str, n: u32| format!(r#"{{"data_collection":"db.{table}","event_count":{n}}}"#);
    let lines = [
        format!("4\t{}", r#"{"status":"BEGIN","id":"1:1"}"#),
        format!("0\t{}", change("1:1", 1)),
        format!("2\t{}", change("1:1", 2)),
        "0\t".to_owned(),
        format!("1\t{}", change("1:2", 1)),
        format!("4\t{}", end("1:9", &[count("t", 1), count("u", 1)].join(","))),
        format!("0\t{}", change("1:2", 2)),
        format!("0\t{}", r#"{"op":"c","after":{"id":1}}"#),
        format!("4\t{}", end("1:2", &count("t", 2))),
    ];
    vec![lines.join("\n").into_bytes(), lines[..3].join("\n").into_bytes()]
}

/// A place.
pub(crate) fn place(text: &str) {
    if let Ok(place) = text.parse::<Place>() {
        let written = place.to_string();
        assert_eq!(written.parse::<Place>().ok().as_ref(), Some(&place), "{text:?} is {written:?}");
    }
}
