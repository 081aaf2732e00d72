//! Debezium's messages on their way into the lake, from a real broker. The limit beside it is a reader
//! of the same topic that throws everything away.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use serde_json::Value;

use super::{
    PATIENCE,
    broker::Broker,
    median,
    platform::{Platform, Ports},
    rounds,
};

const PARTITIONS: u64 = 3;

/// Messages with schemas are so many fewer: each is several times as long.
const FEWER: u64 = 4;

pub(crate) async fn backlog(changes: u64) {
    let broker = Broker::start();
    println!("backlog of messages of Debezium, rows of 15 columns, {PARTITIONS} partitions");
    for (database, changes, schema) in
        [("plain", changes, None), ("typed", changes / FEWER, Some(schema()))]
    {
        let topic = format!("bench.{database}.event");
        broker.topic(&topic, i32::try_from(PARTITIONS).unwrap()).await;
        let bytes = fill(&broker, &topic, changes / 2, schema.as_deref());
        println!(
            "  {} schemas: {changes} messages of {} bytes",
            if schema.is_some() { "with" } else { "without" },
            bytes / changes
        );
        let folder = tempfile::tempdir().unwrap();
        let (mut limits, mut rates, mut costs, mut peak) = (vec![], vec![], vec![], 0);
        for round in 0..rounds() {
            limits.push(read(&broker, &topic, changes));
            let data = folder.path().join(format!("round{round}"));
            let platform = take_in(&broker, &topic, &data, changes, &mut rates).await;
            costs.push(processor_seconds(&platform) * 1e6 / changes as f64);
            peak = peak.max(platform.peak_memory_bytes());
            drop(platform);
            std::fs::remove_dir_all(&data).unwrap();
        }
        println!(
            "    medlake, topic to seen rows {:.0} events/s with the start of the process, {:.1} µs of a \
             processor each, peak memory {} MiB",
            median(&mut rates),
            median(&mut costs),
            peak >> 20
        );
        println!("    a reader that does nothing {:.0} events/s", median(&mut limits));
    }
}

/// Inserts `rows` rows and updates them all; answers how many bytes that were.
fn fill(broker: &Broker, topic: &str, rows: u64, schema: Option<&str>) -> u64 {
    let producer = broker.producer();
    let mut bytes = 0;
    for (op, id) in (0..rows).map(|id| ("c", id)).chain((0..rows).map(|id| ("u", id))) {
        let payload = envelope(op, id);
        let value = match schema {
            Some(schema) => format!(r#"{{"schema":{schema},"payload":{payload}}}"#),
            None => payload,
        };
        bytes += value.len() as u64;
        let partition = i32::try_from(id % PARTITIONS).unwrap();
        producer.send(topic, Some(partition), Some(&format!(r#"{{"id":{id}}}"#)), Some(&value));
    }
    producer.flush();
    bytes
}

fn row(id: u64, status: &str) -> String {
    let at = 1_704_067_200_000_000 + id * 37_000_000;
    format!(
        r#"{{"id":{id},"person_id":{},"order_no":"NO{id:014}","status":"{status}","amount":"Jw8=","quantity":{},"price_fen":{},"region":"浙江","channel":"app","note":"note of order {id}","flag":{},"ratio":{}.5,"born":{},"placed_at":{at},"changed_at":{at}}}"#,
        id % 100_000,
        id % 50,
        id * 3,
        id % 2,
        id / 3,
        id % 20_000,
    )
}

fn envelope(op: &str, id: u64) -> String {
    let (before, after) = match op {
        "c" => ("null".to_owned(), row(id, "new")),
        _ => (row(id, "new"), row(id, "done")),
    };
    format!(
        r#"{{"before":{before},"after":{after},"source":{{"version":"3.6.3.Final","connector":"mysql","name":"bench","ts_ms":1795288228000,"snapshot":"false","db":"bench","sequence":null,"ts_us":1795288228000000,"ts_ns":1795288228000000000,"table":"event","server_id":1001,"gtid":null,"file":"mysql-bin.000002","pos":{id},"row":0,"thread":null,"query":null}},"transaction":null,"op":"{op}","ts_ms":1795288228669,"ts_us":1795288228669471,"ts_ns":1795288228669471436}}"#
    )
}

/// The schema of [`envelope`], as far as it says something of rows.
fn schema() -> String {
    let decimal = r#","name":"org.apache.kafka.connect.data.Decimal","version":1,"parameters":{"scale":"2","connect.decimal.precision":"12"}"#;
    let moment = r#","name":"io.debezium.time.MicroTimestamp","version":1"#;
    let fields = [
        ("id", "int64", ""),
        ("person_id", "int32", ""),
        ("order_no", "string", ""),
        ("status", "string", ""),
        ("amount", "bytes", decimal),
        ("quantity", "int16", ""),
        ("price_fen", "int64", ""),
        ("region", "string", ""),
        ("channel", "string", ""),
        ("note", "string", ""),
        ("flag", "int16", ""),
        ("ratio", "double", ""),
        ("born", "int32", r#","name":"io.debezium.time.Date","version":1"#),
        ("placed_at", "int64", moment),
        ("changed_at", "int64", moment),
    ]
    .map(|(name, ty, rest)| format!(r#"{{"type":"{ty}","optional":true{rest},"field":"{name}"}}"#))
    .join(",");
    let side = |name: &str| {
        format!(r#"{{"type":"struct","fields":[{fields}],"optional":true,"field":"{name}"}}"#)
    };
    format!(r#"{{"type":"struct","fields":[{},{}]}}"#, side("before"), side("after"))
}

/// Messages a second that a reader gets who does nothing with them.
fn read(broker: &Broker, topic: &str, count: u64) -> f64 {
    let mut client = broker.client();
    let reader: BaseConsumer = client.set("group.id", "nobody").create().unwrap();
    let mut places = TopicPartitionList::new();
    for partition in 0..i32::try_from(PARTITIONS).unwrap() {
        places.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    reader.assign(&places).unwrap();
    let started = Instant::now();
    let mut there = 0;
    while there < count {
        // The client's own events end a poll as well.
        if let Some(message) = reader.poll(Duration::from_secs(1)) {
            message.unwrap();
            there += 1;
        }
        assert!(started.elapsed() < PATIENCE, "{there} messages of {count} have come");
    }
    count as f64 / started.elapsed().as_secs_f64()
}

/// Starts a platform without anything and waits until all rows are seen: events a second.
async fn take_in(
    broker: &Broker,
    topic: &str,
    data: &Path,
    changes: u64,
    rates: &mut Vec<f64>,
) -> Platform {
    let settings = [("KIND", "kafka"), ("BROKERS", &broker.address), ("TOPICS", topic)]
        .map(|(key, value)| (format!("MEDLAKE__SOURCES__HIS__{key}"), value.to_owned()));
    let started = Instant::now();
    let mut platform = Platform::launch(data, Ports::free(), &["--no-simulate"], &settings);
    // The last rows of the partitions.
    let rows = changes / 2;
    let last = format!(
        "select count(*) from his.event where id >= {} and status = 'done'",
        rows - PARTITIONS
    );
    while platform.ask(&last).await != Some(Value::from(PARTITIONS)) {
        assert_eq!(platform.ended(), None, "{}", platform.log());
        assert!(started.elapsed() < PATIENCE, "{}", platform.log());
        // Seldom: whoever asks takes part of the machine.
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    rates.push(changes as f64 / started.elapsed().as_secs_f64());
    let done = platform.ask("select count(*) from his.event where status = 'done'").await;
    assert_eq!(done, Some(Value::from(rows)));
    let bad = platform.ask("select count(*) from system.quarantine where source = 'his'").await;
    assert_eq!(bad, Some(Value::from(0)));
    platform
}

/// Time of processors that its process has used.
fn processor_seconds(platform: &Platform) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", platform.child.id())).unwrap();
    // After the name in parentheses: user and system time, in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}
