//! A real Kafka broker with the changes of a database in Debezium's envelopes, schemas included. The
//! database is in memory: what it holds is what the lake must hold.

use std::{collections::BTreeMap, sync::Arc};

use chrono::NaiveDate;
use futures::future::{BoxFuture, FutureExt};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value as Json, json};
use tokio::sync::Mutex;

use super::{
    model::{Action, Alter, Column, Kind, Table, Transaction, Value},
    source::{Failed, Harm, Row, Session, Source},
};
use crate::broker::Broker;

const PARTITIONS: i32 = 3;

const KINDS: [Kind; 11] = [
    Kind::Bool,
    Kind::SmallInt,
    Kind::Int,
    Kind::BigInt,
    Kind::Decimal(10, 2),
    Kind::Double,
    Kind::Text,
    Kind::Blob,
    Kind::Date,
    Kind::DateTime,
    Kind::Json,
];

/// The broker of all seeds.
pub(crate) struct Server {
    broker: Mutex<Broker>,
    address: String,
}

impl Server {
    pub(crate) fn start() -> Self {
        let broker = Broker::start();
        Self { address: broker.address.clone(), broker: Mutex::new(broker) }
    }
}

/// Rows of a table by slot, each with all columns.
type Rows = BTreeMap<i64, Vec<Value>>;

/// One of so many changes has a message beside it that nobody can read, before it or after it.
const GARBLED: i64 = 50;

/// A table has no more of them that count.
const MOST_UNREADABLE: usize = 100;

/// What a writer does to the database is sent before another may do anything: topics have one order.
struct Database {
    tables: BTreeMap<String, Rows>,
    /// How many of each slot's messages cannot be read and were not overtaken, by table.
    unreadable: BTreeMap<String, BTreeMap<i64, u64>>,
    producer: FutureProducer,
    changes: i64,
}

/// One database whose changes are in topics of their own.
pub(crate) struct Kafka {
    server: Arc<Server>,
    /// What its topics begin with.
    prefix: String,
    database: Arc<Mutex<Database>>,
}

impl Kafka {
    pub(crate) async fn create(server: Arc<Server>, seed: u64) -> Self {
        let mut client = server.broker.lock().await.client();
        // Sent for certain and once, however often the broker goes away.
        client.set("enable.idempotence", "true").set("message.timeout.ms", "0");
        let producer = client.set("linger.ms", "2").create().unwrap();
        let (tables, unreadable) = (BTreeMap::new(), BTreeMap::new());
        let database = Database { tables, unreadable, producer, changes: 0 };
        Self { server, prefix: format!("crash{seed}"), database: Arc::new(Mutex::new(database)) }
    }

    fn topic(&self, table: &str) -> String {
        format!("{}.public.{table}", self.prefix)
    }
}

impl Source for Kafka {
    fn name(&self) -> &'static str {
        "his"
    }

    fn kinds(&self) -> &'static [Kind] {
        &KINDS
    }

    fn alters(&self) -> bool {
        false
    }

    fn settings(&self) -> Vec<(String, String)> {
        let set = |key: &str, value: String| (format!("MEDLAKE__SOURCES__HIS__{key}"), value);
        vec![
            set("KIND", "kafka".to_owned()),
            set("BROKERS", self.server.address.clone()),
            set("TOPICS", format!("{}.public.*", self.prefix)),
        ]
    }

    fn create<'a>(&'a self, table: &'a Table) -> BoxFuture<'a, ()> {
        async {
            let topic = self.topic(&table.name);
            self.server.broker.lock().await.topic(&topic, PARTITIONS).await;
            self.database.lock().await.tables.insert(table.name.clone(), Rows::new());
        }
        .boxed()
    }

    fn connect(&self) -> BoxFuture<'_, Result<Box<dyn Session>, Failed>> {
        let database = Arc::clone(&self.database);
        let prefix = self.prefix.clone();
        async { Ok(Box::new(Writer { database, prefix }) as Box<dyn Session>) }.boxed()
    }

    fn columns<'a>(&'a self, table: &'a Table) -> BoxFuture<'a, Result<Vec<String>, Failed>> {
        async { Ok(table.columns.iter().map(|c| c.name.clone()).collect()) }.boxed()
    }

    fn rows<'a>(&'a self, table: &'a Table) -> BoxFuture<'a, Vec<Row>> {
        async {
            let database = self.database.lock().await;
            let rows = database.tables[&table.name].values();
            rows.map(|row| row.iter().map(shown).collect()).collect()
        }
        .boxed()
    }

    fn unreadable<'a>(&'a self, table: &'a Table) -> BoxFuture<'a, u64> {
        async {
            let database = self.database.lock().await;
            database.unreadable.get(&table.name).map_or(0, |of_slot| of_slot.values().sum())
        }
        .boxed()
    }

    fn harms(&self) -> &'static [Harm] {
        &[Harm::Kill]
    }

    fn harm(&self, _: Harm) -> BoxFuture<'_, ()> {
        async {
            self.server.broker.lock().await.kill_and_restart();
        }
        .boxed()
    }

    fn heal(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

struct Writer {
    database: Arc<Mutex<Database>>,
    prefix: String,
}

impl Session for Writer {
    fn write<'a>(&'a mut self, transaction: &'a Transaction) -> BoxFuture<'a, Result<(), Failed>> {
        let database = Arc::clone(&self.database);
        let (prefix, transaction) = (self.prefix.clone(), transaction.clone());
        async move {
            if !transaction.commit {
                return Ok(());
            }
            // Once begun it is done, even if the writer loses its patience: a task of its own.
            #[expect(clippy::disallowed_methods, reason = "it goes on when this is dropped")]
            let sending = tokio::spawn(async move {
                let mut database = database.lock_owned().await;
                for step in &transaction.steps {
                    database.apply(&prefix, &step.table, &step.action).await;
                }
            });
            sending.await.map_err(|error| Failed(error.to_string()))
        }
        .boxed()
    }

    fn alter<'a>(
        &'a mut self,
        table: &'a Table,
        change: &'a Alter,
    ) -> BoxFuture<'a, Result<(), Failed>> {
        async move { Err(Failed(format!("{} is not altered: {change:?}", table.name))) }.boxed()
    }
}

impl Database {
    async fn apply(&mut self, prefix: &str, table: &Table, action: &Action) {
        let mut sent = Vec::new();
        let mut rows = self.tables.remove(&table.name).unwrap();
        let unreadable = self.unreadable.entry(table.name.clone()).or_default();
        let mut change = |before: Option<Vec<Value>>, after: Option<Vec<Value>>| {
            self.changes += 1;
            let good = messages(prefix, table, before, after, self.changes);
            let slot = good[0].slot;
            let garble = self.changes % GARBLED == 0 && unreadable.len() < MOST_UNREADABLE;
            let garbled = garble.then(|| good[0].garbled(self.changes));
            if self.changes % (2 * GARBLED) == 0 {
                sent.extend(garbled);
                sent.extend(good);
                unreadable.remove(&slot);
            } else {
                sent.extend(good);
                unreadable.remove(&slot);
                if garble {
                    *unreadable.entry(slot).or_default() += 1;
                }
                sent.extend(garbled);
            }
        };
        match action {
            Action::Insert(new) | Action::Replace(new) => {
                let replace = matches!(action, Action::Replace(_));
                for (slot, payload) in new {
                    let before = rows.get(slot).cloned();
                    if before.is_some() && !replace {
                        continue;
                    }
                    let row = [table.head(*slot), payload.clone()].concat();
                    rows.insert(*slot, row.clone());
                    change(before, Some(row));
                }
            }
            Action::Update(slots, sets) => {
                for row in rows.range_mut(slots.clone()).map(|(_, row)| row) {
                    let before = row.clone();
                    for (column, value) in sets {
                        row[*column] = value.clone();
                    }
                    change(Some(before), Some(row.clone()));
                }
            }
            Action::Rekey(from, to) => {
                if !rows.contains_key(to)
                    && let Some(before) = rows.remove(from)
                {
                    let head = table.head(*to);
                    let row = [head.clone(), before[head.len()..].to_vec()].concat();
                    rows.insert(*to, row.clone());
                    // What Debezium makes of it: a delete and a create.
                    change(Some(before), None);
                    change(None, Some(row));
                }
            }
            Action::Delete(slots) => {
                let gone: Vec<i64> = rows.range(slots.clone()).map(|(slot, _)| *slot).collect();
                for slot in gone {
                    change(rows.remove(&slot), None);
                }
            }
            Action::Truncate => {}
        }
        self.tables.insert(table.name.clone(), rows);
        let topic = format!("{prefix}.public.{}", table.name);
        let mut answers = Vec::new();
        for Message { slot, key, value } in &sent {
            let partition = i32::try_from(slot.rem_euclid(PARTITIONS.into())).unwrap();
            let mut record = FutureRecord::to(&topic).partition(partition).key(key);
            record.payload = value.as_ref();
            let sent = self.producer.send_result(record);
            match sent {
                Ok(answer) => answers.push(answer),
                Err((error, _)) => panic!("could not send to {topic}: {error}"),
            }
        }
        for answer in answers {
            answer.await.unwrap().unwrap();
        }
    }
}

struct Message {
    slot: i64,
    key: String,
    value: Option<String>,
}

impl Message {
    /// A message of the same row that cannot be read, in one way or another.
    fn garbled(&self, change: i64) -> Self {
        let value = self.value.clone().unwrap_or_default();
        let value = match change / GARBLED % 3 {
            0 => format!("{value}}}"),
            1 => value.replace(r#""op":""#, r#""op":"no"#),
            // A field that its schema knows nothing of.
            _ => value.replace(r#""slot":"#, r#""slit":1,"slot":"#),
        };
        Self { slot: self.slot, key: self.key.clone(), value: Some(value) }
    }
}

/// The envelope of a change, and the tombstone after a delete.
fn messages(
    prefix: &str,
    table: &Table,
    before: Option<Vec<Value>>,
    after: Option<Vec<Value>>,
    change: i64,
) -> Vec<Message> {
    let row = after.as_ref().or(before.as_ref()).unwrap();
    let slot_at = table.payload() - 1;
    let Value::Int(slot) = row[slot_at] else { panic!("no slot in {row:?}") };
    let slot = i64::try_from(slot).unwrap();
    let name = format!("{prefix}.public.{}", table.name);
    let key = json!({
        "schema": structure(table.key_columns(), &format!("{name}.Key"), false, None),
        "payload": object(table.key_columns(), row),
    })
    .to_string();
    let op = match (&before, &after) {
        (None, _) => "c",
        (_, None) => "d",
        _ => "u",
    };
    let value = |field| structure(&table.columns, &format!("{name}.Value"), true, Some(field));
    let source = json!({
        "version": "3.0.0.Final", "connector": "mysql", "name": prefix, "ts_ms": 1_700_000_000_000_i64,
        "snapshot": "false", "db": "public", "table": table.name, "server_id": 1, "gtid": null,
        "file": "mysql-bin.000001", "pos": change, "row": 0,
    });
    let text = |field: &str| json!({"type": "string", "optional": true, "field": field});
    let number = |field: &str| json!({"type": "int64", "optional": true, "field": field});
    let source_fields = ["version", "connector", "name", "snapshot", "db", "table", "gtid", "file"]
        .map(text)
        .into_iter()
        .chain(["ts_ms", "server_id", "pos", "row"].map(number))
        .collect::<Vec<_>>();
    let envelope = json!({
        "schema": {
            "type": "struct", "optional": false, "name": format!("{name}.Envelope"),
            "fields": [
                value("before"),
                value("after"),
                {"type": "struct", "optional": false, "field": "source", "fields": source_fields,
                 "name": "io.debezium.connector.mysql.Source"},
                {"type": "string", "optional": false, "field": "op"},
                {"type": "int64", "optional": true, "field": "ts_ms"},
            ],
        },
        "payload": {
            "before": before.as_ref().map(|row| object(&table.columns, row)),
            "after": after.as_ref().map(|row| object(&table.columns, row)),
            "source": source, "op": op, "ts_ms": 1_700_000_000_001_i64,
        },
    });
    let mut messages = vec![Message { slot, key: key.clone(), value: Some(envelope.to_string()) }];
    if after.is_none() {
        messages.push(Message { slot, key, value: None });
    }
    messages
}

fn structure(columns: &[Column], name: &str, optional: bool, field: Option<&str>) -> Json {
    let fields: Vec<Json> = columns.iter().map(field_of).collect();
    let mut structure =
        json!({"type": "struct", "fields": fields, "optional": optional, "name": name});
    if let Some(field) = field {
        structure["field"] = field.into();
    }
    structure
}

fn field_of(column: &Column) -> Json {
    let (ty, name) = match column.kind {
        Kind::Bool => ("boolean", None),
        Kind::SmallInt => ("int16", None),
        Kind::Int => ("int32", None),
        Kind::BigInt => ("int64", None),
        Kind::Decimal(..) => ("bytes", Some("org.apache.kafka.connect.data.Decimal")),
        Kind::Double => ("double", None),
        Kind::Varchar(_) | Kind::Text => ("string", None),
        Kind::Blob => ("bytes", None),
        Kind::Date => ("int32", Some("io.debezium.time.Date")),
        Kind::DateTime => ("int64", Some("io.debezium.time.MicroTimestamp")),
        Kind::Json => ("string", Some("io.debezium.data.Json")),
        other => panic!("no type for {other:?}"),
    };
    let mut field = json!({"type": ty, "optional": column.nullable, "field": column.name});
    if let Some(name) = name {
        field["name"] = name.into();
        field["version"] = 1.into();
    }
    if let Kind::Decimal(digits, scale) = column.kind {
        field["parameters"] =
            json!({"scale": scale.to_string(), "connect.decimal.precision": digits.to_string()});
    }
    field
}

fn object(columns: &[Column], row: &[Value]) -> Json {
    columns.iter().zip(row).map(|(c, value)| (c.name.clone(), cell(value))).collect()
}

fn cell(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(bool) => (*bool).into(),
        Value::Int(int) => i64::try_from(*int).unwrap().into(),
        Value::Decimal(digits) => {
            let unscaled: i128 = digits.replace('.', "").parse().unwrap();
            base64(&unscaled.to_be_bytes()).into()
        }
        Value::Double(double) => (*double).into(),
        Value::Text(text) => text.as_str().into(),
        Value::Bytes(bytes) => base64(bytes).into(),
        Value::Days(days) => (*days).into(),
        Value::Micros(micros) | Value::Clock(micros) => (*micros).into(),
    }
}

/// The value as text of the harness.
fn shown(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(bool) => u8::from(*bool).to_string(),
        Value::Int(int) => int.to_string(),
        Value::Decimal(digits) => digits.clone(),
        Value::Double(double) => format!("{double:?}"),
        Value::Text(text) => text.clone(),
        Value::Bytes(bytes) => bytes.iter().map(|byte| format!("{byte:02X}")).collect(),
        Value::Days(days) => {
            (NaiveDate::default() + chrono::TimeDelta::days((*days).into())).to_string()
        }
        Value::Micros(micros) | Value::Clock(micros) => micros.to_string(),
    })
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let byte = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let six = (bits >> (18 - 6 * digit)) & 63;
            let given = digit <= three.len();
            text.push(if given { DIGITS[six as usize] as char } else { '=' });
        }
    }
    text
}
