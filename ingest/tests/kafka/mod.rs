//! [`KafkaSource`] with a real broker.

mod broker;
#[path = "../../../lake/tests/ports.rs"]
mod ports;
mod publish;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use arrow::{
    array::{Array, AsArray},
    datatypes::Int64Type,
};
use medlake_contract::{ChangeSet, Kind, Op};
use medlake_ingest::{
    Budget, CutLimits, DebeziumConfig, DeclaredTable, Ingest, KafkaConfig, KafkaSource, Resume,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use broker::Broker;

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a broker is away that is missed.
const AWAY: Duration = Duration::from_secs(10);

/// A change as PostgreSQL's connector writes it, in transaction `(id, place in it)`.
fn change(
    op: &str,
    table: &str,
    row: Option<(i64, i64)>,
    transaction: Option<(&str, u64)>,
) -> String {
    let row = |side: &str| match row {
        Some((id, n)) if side == "after" => format!(r#"{{"id":{id},"n":{n}}}"#),
        _ => "null".to_owned(),
    };
    let transaction = transaction.map_or_else(
        || "null".to_owned(),
        |(id, at)| format!(r#"{{"id":"{id}","total_order":{at},"data_collection_order":{at}}}"#),
    );
    format!(
        r#"{{"before":null,"after":{},"source":{{"version":"3.6.3.Final","connector":"postgresql","name":"p","ts_ms":1795290307101,"snapshot":"false","db":"shop","schema":"public","table":"{table}"}},"transaction":{transaction},"op":"{op}","ts_ms":1795290307221}}"#,
        row("after"),
    )
}

fn key(id: i64) -> String {
    format!(r#"{{"id":{id}}}"#)
}

/// The tables as a reader of the cuts has them, and what it has stored of how far it is.
#[derive(Debug, Clone, Default)]
struct Kept {
    rows: BTreeMap<String, BTreeMap<i64, i64>>,
    resume: Resume,
    /// How often each value came, of inserts.
    seen: BTreeMap<i64, u32>,
    cuts: u32,
}

impl Kept {
    fn keep(&mut self, cut: &ChangeSet) {
        self.cuts += 1;
        self.resume.positions.extend(cut.positions.clone());
        for change in &cut.schemas {
            self.resume.tables.retain(|t| t.name() != change.table.name());
            self.resume.tables.push(std::sync::Arc::clone(&change.table));
        }
        for batch in &cut.batches {
            if batch.table().name().namespace() == "system" {
                assert_eq!(batch.table().name().table(), "ingest", "{batch:?}");
                self.resume.states.extend(medlake_ingest::states_in(batch.after()));
                continue;
            }
            let table = self.rows.entry(batch.table().name().to_string()).or_default();
            let number = |rows: &arrow::array::RecordBatch, column: &str, row: usize| {
                let column = rows.column_by_name(column).unwrap().as_primitive::<Int64Type>();
                column.is_valid(row).then(|| column.value(row))
            };
            for (row, op) in batch.ops().iter().enumerate() {
                match op {
                    Op::Insert | Op::Update => {
                        let id = number(batch.after(), "id", row).unwrap();
                        let n = number(batch.after(), "n", row).unwrap();
                        *self.seen.entry(n).or_default() += 1;
                        table.insert(id, n);
                    }
                    Op::Delete => drop(table.remove(&number(batch.before(), "id", row).unwrap())),
                    Op::Truncate => table.clear(),
                }
            }
        }
    }
}

fn config(broker: &Broker, topics: &str) -> KafkaConfig {
    let columns = [("n", "bigint"), ("id", "bigint")].map(|(c, t)| (c.to_owned(), t.to_owned()));
    let table = DeclaredTable { key: Vec::new(), columns: columns.into() };
    let tables = ["a", "b"].map(|name| (name.to_owned(), table.clone())).into();
    KafkaConfig {
        debezium: DebeziumConfig { tables, ..DebeziumConfig::default() },
        discovery_s: 1,
        transaction_patience_s: 600,
        ..KafkaConfig::new(&broker.address, topics)
    }
}

async fn open(config: &KafkaConfig, resume: &Resume) -> Ingest {
    let source = KafkaSource::new("his", config.clone(), Budget::new(64 << 20), 1_000).unwrap();
    Ingest::open(vec![source.into()], resume).await.unwrap()
}

async fn next(ingest: &mut Ingest, limits: CutLimits) -> ChangeSet {
    tokio::time::timeout(LIMIT, ingest.next(limits)).await.unwrap().unwrap()
}

/// Reads until the rows are as many or as they should be.
async fn until(ingest: &mut Ingest, kept: &mut Kept, there: impl Fn(&Kept) -> bool) {
    while !there(kept) {
        let cut = next(ingest, CutLimits::default()).await;
        kept.keep(&cut);
        ingest.acknowledge(&cut.positions).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_broker() {
    let mut broker = Broker::start();
    every_change_once_over_restarts(&broker).await;
    behind_a_password(&broker).await;
    transactions_of_the_producer(&broker).await;
    partitions_and_topics_that_come_later(&broker).await;
    transactions_of_the_database(&broker).await;
    members_of_a_group(&broker).await;
    messages_that_are_gone(&broker).await;
    a_broker_that_dies(&mut broker).await;
}

/// Restarted at any cut, kept or not, each change is kept once and the rows are right.
async fn every_change_once_over_restarts(broker: &Broker) {
    broker.topic("one.public.a", 3).await;
    let seed = rand::random::<u64>();
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let writer = broker.producer();
    let mut expected = BTreeMap::new();
    for n in 0..6000_i64 {
        let id = rng.random_range(0..300);
        if rng.random_bool(0.2) && expected.remove(&id).is_some() {
            let gone = change("d", "a", None, None);
            writer.send("one.public.a", None, Some(&key(id)), Some(&gone));
            writer.send("one.public.a", None, Some(&key(id)), None);
        }
        let op = if expected.insert(id, n).is_some() { "u" } else { "c" };
        let there = change(op, "a", Some((id, n)), None);
        writer.send("one.public.a", None, Some(&key(id)), Some(&there));
    }
    writer.flush();
    let config = config(broker, "one.*");
    let mut kept = Kept::default();
    let limits = CutLimits { max_rows: 400, ..CutLimits::default() };
    let mut restarts = 0;
    while kept.seen.len() < 6000 {
        let mut ingest = open(&config, &kept.resume).await;
        restarts += 1;
        for _ in 0..rng.random_range(1..6) {
            let cut = next(&mut ingest, limits).await;
            if rng.random_bool(0.2) {
                // Lost before it was stored.
                break;
            }
            kept.keep(&cut);
            ingest.acknowledge(&cut.positions).await.unwrap();
            if kept.seen.len() == 6000 {
                break;
            }
        }
    }
    assert!(restarts > 2);
    assert!(kept.seen.values().all(|times| *times == 1), "a change came twice");
    assert_eq!(kept.rows["his.a"], expected);
}

/// Over TLS with a password that is not sent (SCRAM); whoever has another is told that.
async fn behind_a_password(broker: &Broker) {
    broker.topic("secured.public.a", 1).await;
    let writer = broker.producer();
    for n in 0..10_i64 {
        let there = change("c", "a", Some((n, n)), None);
        writer.send("secured.public.a", Some(0), Some(&key(n)), Some(&there));
    }
    writer.flush();
    let (address, settings) = broker.secured();
    let mut config = config(broker, "secured.*");
    config.brokers = address.to_owned();
    config.client.0.extend(settings.map(|(name, value)| (name.to_owned(), value)));
    let mut kept = Kept::default();
    let mut ingest = open(&config, &kept.resume).await;
    until(&mut ingest, &mut kept, |kept| kept.seen.len() == 10).await;
    drop(ingest);
    for (setting, wrong, said) in [
        ("sasl.password", "secret", "authentication"),
        ("ssl.ca.location", "/etc/hostname", "ca.location"),
    ] {
        let mut config = config.clone();
        config.client.0.insert(setting.to_owned(), wrong.to_owned());
        let mut ingest = open(&config, &Resume::default()).await;
        let failing = failing(&mut ingest).await.to_lowercase();
        assert!(failing.contains(said) && !failing.contains("secret"), "{setting}: {failing}");
    }
}

/// Why it cannot be read, once that is known.
async fn failing(ingest: &mut Ingest) -> String {
    let found = async {
        loop {
            assert!(ingest.try_next(CutLimits::default()).await.unwrap().is_none());
            let sources = ingest.monitor().sources();
            if let Some(failing) = sources.values().find_map(|health| health.failing.clone()) {
                return failing;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, found).await.unwrap()
}

/// What a producer took back is never seen.
async fn transactions_of_the_producer(broker: &Broker) {
    broker.topic("two.public.a", 1).await;
    let writer = broker.transactional("t");
    let send = |writer: &broker::Writer, n| {
        let there = change("c", "a", Some((n, n)), None);
        writer.send("two.public.a", Some(0), Some(&key(n)), Some(&there));
    };
    let mut expected = BTreeMap::new();
    for n in 0..40 {
        let commit = n % 3 != 0;
        writer.transaction(commit, |writer| send(writer, n));
        if commit {
            expected.insert(n, n);
        }
    }
    let config = config(broker, "two.public.a");
    let mut kept = Kept::default();
    let mut ingest = open(&config, &kept.resume).await;
    until(&mut ingest, &mut kept, |kept| kept.seen.len() == expected.len()).await;
    assert_eq!(kept.rows["his.a"], expected);
    // The group's offsets follow: past the last message that was handed out.
    let there = || match broker.committed("medlake-his", "two.public.a") {
        rdkafka::Offset::Offset(offset) => offset > 40,
        _ => false,
    };
    tokio::time::timeout(LIMIT, async {
        while !there() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    // The markers of transactions are no messages that are missing.
    let sources = ingest.monitor().sources();
    assert!(sources.values().all(|health| health.failing.is_none()), "{sources:?}");
}

async fn partitions_and_topics_that_come_later(broker: &Broker) {
    broker.topic("three.public.a", 1).await;
    let writer = broker.producer();
    let send = |topic: &str, table: &str, partition, n| {
        let there = change("c", table, Some((n, n)), None);
        writer.send(topic, Some(partition), Some(&key(n)), Some(&there));
    };
    send("three.public.a", "a", 0, 1);
    writer.flush();
    let config = config(broker, "three.*");
    let mut kept = Kept::default();
    let mut ingest = open(&config, &kept.resume).await;
    until(&mut ingest, &mut kept, |kept| kept.seen.len() == 1).await;
    broker.grow("three.public.a", 3).await;
    broker.topic("three.public.b", 2).await;
    broker.topic("other.public.b", 1).await;
    let fresh = broker.producer();
    drop(writer);
    for (topic, table, partition, n) in [
        ("three.public.a", "a", 2, 2),
        ("three.public.b", "b", 1, 3),
        ("other.public.b", "b", 0, 4),
    ] {
        let there = change("c", table, Some((n, n)), None);
        fresh.send(topic, Some(partition), Some(&key(n)), Some(&there));
    }
    fresh.flush();
    until(&mut ingest, &mut kept, |kept| kept.seen.len() == 3).await;
    assert_eq!(kept.seen.keys().copied().collect::<BTreeSet<_>>(), [1, 2, 3].into());
    assert_eq!(kept.rows["his.b"], [(3, 3)].into());
}

/// Changes of one transaction of the database come in one cut, whatever topics they are in.
async fn transactions_of_the_database(broker: &Broker) {
    for topic in ["four.public.a", "four.public.b", "four.transaction"] {
        broker.topic(topic, 1).await;
    }
    let writer = broker.producer();
    let boundary = |status: &str, id: &str, counts: &str| {
        let text = format!(
            r#"{{"status":"{status}","id":"{id}","event_count":null,"data_collections":{counts},"ts_ms":1}}"#
        );
        writer.send("four.transaction", Some(0), None, Some(&text));
    };
    let counts = |a: u64, b: u64| {
        format!(
            r#"[{{"data_collection":"public.a","event_count":{a}}},{{"data_collection":"public.b","event_count":{b}}},{{"data_collection":"public.not_read","event_count":5}}]"#
        )
    };
    let config = config(broker, "four.public.*");
    let mut kept = Kept::default();
    let mut ingest = open(&config, &kept.resume).await;
    for transaction in 0..20_i64 {
        let (id, end) = (format!("{transaction}:1"), format!("{transaction}:2"));
        let first = transaction * 10;
        let send = |table: &str, n: i64, place: u64| {
            let there = change("c", table, Some((n, n)), Some((&id, place)));
            writer.send(&format!("four.public.{table}"), Some(0), Some(&key(n)), Some(&there));
        };
        boundary("BEGIN", &id, "null");
        send("a", first, 1);
        send("b", first + 1, 2);
        writer.flush();
        if transaction % 5 == 0 {
            // It is not over: nothing of it is there, though it is read.
            let early =
                tokio::time::timeout(Duration::from_millis(300), ingest.next(CutLimits::default()));
            if let Ok(cut) = early.await {
                let cut = cut.unwrap();
                kept.keep(&cut);
                assert!(!kept.seen.contains_key(&first), "half a transaction");
            }
        }
        send("b", first + 2, 3);
        send("a", first + 3, 4);
        boundary("END", &end, &counts(2, 2));
        writer.flush();
    }
    while kept.seen.len() < 80 {
        kept.keep(&next(&mut ingest, CutLimits { max_rows: 3, ..CutLimits::default() }).await);
        let mut of: BTreeMap<i64, u32> = BTreeMap::new();
        kept.seen.keys().for_each(|n| *of.entry(n / 10).or_default() += 1);
        assert!(of.values().all(|count| *count == 4), "half a transaction: {of:?}");
    }
}

/// Two members share the partitions, and go on when there is one.
async fn members_of_a_group(broker: &Broker) {
    broker.topic("five.public.a", 4).await;
    let writer = broker.producer();
    let send = |n: i64| {
        let there = change("c", "a", Some((n, n)), None);
        let partition = i32::try_from(n % 4).unwrap();
        writer.send("five.public.a", Some(partition), Some(&key(n)), Some(&there));
    };
    (0..400).for_each(send);
    writer.flush();
    let config = KafkaConfig { subscribe: true, ..config(broker, "five.public.a") };
    let (mut first, mut second) = (Kept::default(), Kept::default());
    let mut one = open(&config, &first.resume).await;
    until(&mut one, &mut first, |kept| kept.seen.len() == 400).await;
    let mut two = open(&config, &second.resume).await;
    // Each reads while the other does: a rebalance needs both.
    let mut n = 400;
    while second.seen.is_empty() {
        send(n);
        writer.flush();
        n += 1;
        assert!(n < 2000, "the second member was given nothing");
        for (ingest, kept) in [(&mut one, &mut first), (&mut two, &mut second)] {
            let limits = CutLimits::default();
            if let Ok(cut) =
                tokio::time::timeout(Duration::from_millis(50), ingest.next(limits)).await
            {
                kept.keep(&cut.unwrap());
            }
        }
    }
    drop(two);
    let last = n;
    (last..last + 40).for_each(send);
    writer.flush();
    // The first has everything there is: what it did not read while it was not its own, it reads now.
    let all = usize::try_from(last + 40).unwrap();
    until(&mut one, &mut first, |kept| kept.seen.len() == all).await;
    assert!(first.seen.values().all(|times| *times == 1), "a change came twice");
}

/// Messages deleted before they were read are an error that says so; nothing is left out in silence.
async fn messages_that_are_gone(broker: &Broker) {
    broker.topic("six.public.a", 1).await;
    let writer = broker.producer();
    for n in 0..20_i64 {
        let there = change("c", "a", Some((n, n)), None);
        writer.send("six.public.a", Some(0), Some(&key(n)), Some(&there));
    }
    writer.flush();
    let config = config(broker, "six.public.a");
    let mut kept = Kept::default();
    let mut ingest = open(&config, &kept.resume).await;
    kept.keep(&next(&mut ingest, CutLimits { max_rows: 5, ..CutLimits::default() }).await);
    drop(ingest);
    broker.delete_before("six.public.a", 15).await;
    let mut ingest = open(&config, &kept.resume).await;
    let failing = failing(&mut ingest).await;
    assert!(failing.contains("\"six.public.a\" does not have the next message"), "{failing}");
    assert!(failing.contains("at offset 5"), "{failing}");
    assert!(failing.contains("trigger a snapshot"), "{failing}");
    assert_eq!(Kind::Conflict.http_status(), 409);
}

async fn a_broker_that_dies(broker: &mut Broker) {
    broker.topic("seven.public.a", 2).await;
    let writer = broker.producer();
    let send = |writer: &broker::Writer, n: i64| {
        let there = change("c", "a", Some((n, n)), None);
        let partition = i32::try_from(n % 2).unwrap();
        writer.send("seven.public.a", Some(partition), Some(&key(n)), Some(&there));
    };
    (0..100).for_each(|n| send(&writer, n));
    writer.flush();
    drop(writer);
    let config = config(broker, "seven.public.a");
    let mut kept = Kept::default();
    let mut ingest = open(&config, &kept.resume).await;
    until(&mut ingest, &mut kept, |kept| kept.seen.len() == 100).await;
    broker.kill_and_restart();
    let writer = broker.producer();
    (100..200).for_each(|n| send(&writer, n));
    writer.flush();
    drop(writer);
    until(&mut ingest, &mut kept, |kept| kept.seen.len() == 200).await;
    // One that is away when reading begins.
    broker.kill();
    let mut ingest = open(&config, &kept.resume).await;
    let waited = tokio::time::timeout(AWAY, ingest.next(CutLimits::default())).await;
    assert!(waited.is_err(), "there is a broker: {waited:?}");
    let failing = ingest.monitor().sources().into_values().find_map(|health| health.failing);
    assert!(failing.unwrap().contains("could not reach the brokers"));
    broker.restart();
    let writer = broker.producer();
    (200..300).for_each(|n| send(&writer, n));
    writer.flush();
    until(&mut ingest, &mut kept, |kept| kept.seen.len() == 300).await;
    let failing = ingest.monitor().sources().into_values().find_map(|health| health.failing);
    assert_eq!(failing, None);
    assert!(kept.seen.values().all(|times| *times == 1), "a change came twice");
}
