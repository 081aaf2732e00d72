//! What is written here is read back as the same rows.

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

use super::*;
use crate::{
    debezium::write::{Cell, Outgoing, Place, Route, RowChange, TableWriter, boundary},
    embedded::columns::Columns,
};

const ROUTE: Route<'_> = Route { prefix: "med", db: "shop", table: "item" };

fn table() -> TableSchema {
    let types = [
        ("item_id", ColumnType::Int64),
        ("分店", ColumnType::Utf8),
        ("n", ColumnType::Int64),
        ("active", ColumnType::Boolean),
        ("rate", ColumnType::Float64),
        ("name", ColumnType::Utf8),
        ("day", ColumnType::Date),
        ("at", ColumnType::TimestampMicros),
        ("bytes", ColumnType::Binary),
    ];
    let columns = types.iter().enumerate().map(|(at, (name, ty))| match at {
        0 | 1 => Column::required(*name, ty.clone()),
        _ => Column::nullable(*name, ty.clone()),
    });
    let name = "shop.item".parse().unwrap();
    TableSchema::new(name, columns.collect(), &["分店", "item_id"]).unwrap()
}

fn writer() -> TableWriter {
    let table = table();
    let cells = table.columns().iter().map(|c| Cell::new(&c.name, &c.ty, c.nullable)).collect();
    TableWriter::new(ROUTE, cells, table.key_indices().to_vec()).unwrap()
}

fn change<'a>(
    op: ChangeOp,
    before: Option<&'a [Value]>,
    after: Option<&'a [Value]>,
) -> RowChange<'a> {
    let place = Some(Place { tx_id: 7, total_order: 3, order: 2 });
    let committed_at = 1_795_000_000_123_456;
    let now_millis = 1_795_000_000_200;
    RowChange { op, before, after, change_id: 41, committed_at, place, now_millis }
}

fn read(reading: &mut Reading, messages: &[Outgoing]) {
    for message in messages {
        reading.old_key = match &message.header {
            Some(("__debezium.oldkey", key)) => Some(key.clone().into_bytes()),
            _ => None,
        };
        let value = message.value.as_ref().map(|v| v.as_bytes());
        reading.take_bytes(&ROUTE.topic(), Some(message.key.as_bytes()), value);
    }
}

fn random_row(rng: &mut StdRng) -> Vec<Value> {
    let texts = ["", "顾客 \"引号\" \\ \u{1F48A}\n\u{0}", "[1]", "null", "\u{2028}'"];
    let integers = [0, 1, -1, i64::MAX, i64::MIN, 253_402_300_800_000_000, -62_135_596_800_000_001];
    let integer = |rng: &mut StdRng| match rng.random_bool(0.5) {
        true => integers[rng.random_range(0..integers.len())],
        false => rng.random::<i64>() >> rng.random_range(0..64),
    };
    let text = |rng: &mut StdRng| texts[rng.random_range(0..texts.len())];
    let mut row = vec![json!(integer(rng)), json!(text(rng)), json!(integer(rng))];
    row.push(json!(rng.random_range(0..2)));
    let floats = [0.0, -0.0, 0.1 + 0.2, 1e50, -1e-50, f64::INFINITY, f64::NEG_INFINITY];
    let float = floats[rng.random_range(0..floats.len())];
    row.push(json!(if float.is_finite() { format!("{float:.17e}") } else { format!("{float}") }));
    row.push(json!(text(rng)));
    let day = calendar_day(rng.random_range(-719_528..=2_932_896));
    row.push(json!(day));
    row.push(json!(integer(rng)));
    let mut bytes = vec![0; rng.random_range(0..5)];
    rng.fill_bytes(&mut bytes);
    row.push(json!(crate::hex::encode(&bytes).to_uppercase()));
    for value in &mut row[2..] {
        if rng.random_bool(0.2) {
            *value = Value::Null;
        }
    }
    // A row from before columns were added.
    if rng.random_bool(0.1) {
        row.truncate(rng.random_range(2..row.len()));
    }
    row
}

fn calendar_day(days: i64) -> String {
    let [year, month, day] = crate::calendar::date(days);
    format!("{year:04}-{month:02}-{day:02}")
}

#[test]
fn every_value_comes_back_as_it_stands_in_the_change_table() {
    let seed = rand::random::<u64>();
    let mut rng = StdRng::seed_from_u64(seed);
    let (table, writer) = (table(), writer());
    let mut reading = Reading::new(DebeziumConfig::default());
    let mut expected = Columns::new(&table);
    let count = 2_000;
    for _ in 0..count {
        let row = random_row(&mut rng);
        expected.push_row(Value::from(row.clone()).to_string().as_bytes()).ok().unwrap();
        let messages = writer.messages(&change(ChangeOp::Create, None, Some(&row))).unwrap();
        read(&mut reading, &messages);
    }
    let expected = expected.finish(&table).unwrap();
    let found = reading.rows();
    assert_eq!(found.len(), count);
    for (row, found) in found.iter().enumerate() {
        let expected = row_text(&expected, row);
        assert_eq!(found, &format!("shop.item Insert [] [{expected}]"), "seed {seed}");
    }
}

#[test]
fn its_columns_are_those_of_the_table() {
    let mut reading = Reading::new(DebeziumConfig::default());
    let row = [json!(1), json!("a")];
    let messages = writer().messages(&change(ChangeOp::Read, None, Some(&row))).unwrap();
    read(&mut reading, &messages);
    let [found] = reading.schemas.as_slice() else { panic!("{:?}", reading.schemas) };
    let of = |table: &TableSchema| {
        let columns = table.columns().iter();
        columns.map(|c| (c.name.clone(), c.ty.clone())).collect::<Vec<_>>()
    };
    assert_eq!(of(&found.table), of(&table()));
    assert_eq!(found.table.key_indices(), table().key_indices());
}

#[test]
fn a_row_with_a_new_key_is_deleted_and_made() {
    let (old, new) = ([json!(1), json!("a"), json!(5)], [json!(2), json!("a"), json!(5)]);
    let messages = writer().messages(&change(ChangeOp::Update, Some(&old), Some(&new))).unwrap();
    let headers: Vec<_> =
        messages.iter().map(|m| m.header.as_ref().map(|(name, key)| (*name, key))).collect();
    let (old_key, new_key) = (&messages[0].key, &messages[2].key);
    let expected =
        [Some(("__debezium.newkey", new_key)), None, Some(("__debezium.oldkey", old_key))];
    assert_eq!(headers, expected);
    assert_eq!((&messages[1].key, &messages[1].value), (old_key, &None));
    let order = |message: &Outgoing| {
        let value: Value = serde_json::from_str(message.value.as_ref().unwrap()).unwrap();
        let payload = &value["payload"];
        let place = &payload["transaction"];
        (
            payload["op"].clone(),
            place["total_order"].clone(),
            place["data_collection_order"].clone(),
        )
    };
    assert_eq!(order(&messages[0]), (json!("d"), json!(3), json!(2)));
    assert_eq!(order(&messages[2]), (json!("c"), json!(4), json!(3)));
    let mut reading = Reading::new(DebeziumConfig::default());
    read(&mut reading, &messages);
    let rest = "active=~ rate=~ name=~ day=~ at=~ bytes=~";
    assert_eq!(
        reading.rows(),
        [
            format!("shop.item Delete [item_id=1 分店=a n=5 {rest}] []"),
            format!("shop.item Insert [] [item_id=2 分店=a n=5 {rest}]"),
        ]
    );
}

#[test]
fn an_update_has_both_rows_and_a_delete_leaves_a_tombstone() {
    let (before, after) = ([json!(1), json!("a"), json!(5)], [json!(1), json!("a"), json!(6)]);
    let writer = writer();
    let updated = writer.messages(&change(ChangeOp::Update, Some(&before), Some(&after))).unwrap();
    let value: Value = serde_json::from_str(updated[0].value.as_ref().unwrap()).unwrap();
    let source = &value["payload"]["source"];
    assert_eq!(
        source,
        &json!({
            "version": env!("CARGO_PKG_VERSION"), "connector": "medlake", "name": "med",
            "db": "shop", "table": "item", "ts_ms": 1_795_000_000_123_i64,
            "ts_us": 1_795_000_000_123_456_i64, "snapshot": "false", "change_id": 41, "tx_id": 7
        })
    );
    assert_eq!(value["payload"]["before"]["n"], json!(5));
    assert_eq!(value["payload"]["after"]["n"], json!(6));
    let transaction = &value["payload"]["transaction"];
    assert_eq!(transaction["id"], json!("shop:7"));
    // Every field of the payload is in the schema, and none else is.
    let names = |schema: &Value| -> Vec<String> {
        let fields = schema["fields"].as_array().unwrap();
        fields.iter().map(|f| f["field"].as_str().unwrap().to_owned()).collect()
    };
    let keys = |value: &Value| -> BTreeMap<String, ()> {
        value.as_object().unwrap().keys().map(|k| (k.clone(), ())).collect()
    };
    let schema = &value["schema"];
    let sorted = |names: Vec<String>| names.into_iter().map(|n| (n, ())).collect();
    assert_eq!(keys(&value["payload"]), sorted(names(schema)));
    assert_eq!(keys(source), sorted(names(&schema["fields"][2])));
    assert_eq!(keys(transaction), sorted(names(&schema["fields"][3])));
    assert_eq!(keys(&value["payload"]["before"]), sorted(names(&schema["fields"][0])));

    let gone = writer.messages(&change(ChangeOp::Delete, Some(&before), None)).unwrap();
    assert_eq!(gone.len(), 2);
    assert_eq!((&gone[1].key, &gone[1].value), (&gone[0].key, &None));
}

#[test]
fn the_ends_of_a_transaction_are_read() {
    let counts = [("item".to_owned(), 2), ("pair".to_owned(), 1)];
    for counts in [None, Some(&counts[..])] {
        let written = boundary("shop", 7, 1_000, counts);
        let value: Value = serde_json::from_str(written.value.as_ref().unwrap()).unwrap();
        assert_eq!(value["schema"]["fields"].as_array().unwrap().len(), 5);
        assert_eq!(value["payload"].as_object().unwrap().len(), 5);
        let bytes = written.value.as_ref().map(|v| v.as_bytes());
        let Ok(Message::Boundary(read)) = Message::read(bytes, "") else { panic!("{written:?}") };
        assert_eq!(read.id, "shop:7");
        let expected = counts.map(|counts| {
            counts.iter().map(|(table, n)| (format!("shop.{table}"), *n)).collect::<Vec<_>>()
        });
        assert_eq!(read.counts, expected);
    }
}

#[test]
fn a_value_that_is_not_of_its_column_is_refused_and_not_shown() {
    let writer = writer();
    for (column, value) in [
        (2, json!("secret")),
        (2, json!(0.5)),
        (3, json!(2)),
        (4, json!("secret")),
        (5, json!(1)),
        (6, json!("2026-02-30")),
        (6, json!("02026-02-03")),
        (7, json!("secret")),
        (8, json!("0g")),
    ] {
        let mut row = vec![json!(1), json!("a")];
        row.resize(9, Value::Null);
        row[column] = value;
        let refused = writer.messages(&change(ChangeOp::Create, None, Some(&row))).unwrap_err();
        let name = table().columns()[column].name.clone();
        let said = refused.to_string();
        assert!(said.contains(name.as_str()) && !said.contains("secret"), "{said}");
    }
    let longer = vec![json!(1); 10];
    assert!(writer.messages(&change(ChangeOp::Create, None, Some(&longer))).is_err());
}
