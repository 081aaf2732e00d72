//! Shapes of messages that no recording has, and inputs that are wrong.

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;

use super::*;

fn change(op: &str, before: Value, after: Value) -> Value {
    json!({
        "op": op, "before": before, "after": after, "ts_ms": 1_700_000_000_000_i64,
        "source": {"connector": "postgresql", "db": "d", "schema": "s", "table": "t", "ts_ms": 1},
    })
}

#[test]
fn a_key_alone_is_enough_of_the_row_before() {
    let mut reading = Reading::new(DebeziumConfig::default());
    let key = json!({"id": 7});
    reading.take("p.s.t", Some(&key), Some(&change("c", Value::Null, json!({"id": 7, "a": "x"}))));
    reading.take("p.s.t", Some(&key), Some(&change("u", Value::Null, json!({"id": 7, "a": "y"}))));
    reading.take("p.s.t", Some(&key), Some(&change("d", Value::Null, Value::Null)));
    reading.take("p.s.t", Some(&key), None);
    assert_eq!(
        reading.rows(),
        [
            "shop.t Insert [] [a=x id=7]",
            "shop.t Update [a=~ id=7] [a=y id=7]",
            "shop.t Delete [a=~ id=7] []",
        ]
    );
}

#[test]
fn columns_appear_with_their_first_value() {
    let mut reading = Reading::new(DebeziumConfig::default());
    let key = json!({"id": 7});
    for after in
        [json!({"id": 7, "late": null}), json!({"id": 7, "late": 1.5}), json!({"id": 7, "late": 2})]
    {
        reading.take("p.s.t", Some(&key), Some(&change("c", Value::Null, after)));
    }
    let columns = |at: usize| reading.schemas[at].table.columns().len();
    assert_eq!((reading.schemas.len(), columns(0), columns(1)), (2, 1, 2));
    let rows = [
        "shop.t Insert [] [id=7]",
        "shop.t Insert [] [id=7 late=1.5]",
        "shop.t Insert [] [id=7 late=2.0]",
    ];
    assert_eq!(reading.rows(), rows);
}

#[test]
fn a_value_that_does_not_fit_takes_its_row_along_and_nothing_else() {
    let mut reading = Reading::new(DebeziumConfig::default());
    let key = json!({"id": 7});
    for a in [json!([1]), json!(2), json!("x"), json!(3)] {
        let mut row = json!({"id": 7, "n": 1});
        row["n"] = if a.is_number() { a } else { json!(a.to_string().len()) };
        reading.take("p.s.t", Some(&key), Some(&change("c", Value::Null, row)));
    }
    for wrong in
        [json!({"id": 7, "n": "x"}), json!({"id": null, "n": 1}), json!({"n": 1}), json!(7)]
    {
        reading.take("p.s.t", Some(&key), Some(&change("u", json!({"id": 7}), wrong)));
    }
    reading.take("p.s.t", Some(&key), Some(&change("c", Value::Null, json!({"id": 8, "n": 9}))));
    let problems = std::mem::take(&mut reading.problems);
    assert_eq!(problems.len(), 4, "{problems:?}");
    assert_eq!(problems[0], "column \"n\" has a value that is not an integer");
    assert_eq!(problems[1], "column \"id\" has no value");
    let rows = reading.rows();
    assert_eq!(rows.len(), 5);
    assert_eq!(rows[4], "shop.t Insert [] [id=8 n=9]");
}

fn with_schema(fields: &Value, micros: i64, row: &Value) -> Value {
    json!({
        "schema": {"type": "struct", "fields": [{"type": "struct", "field": "after", "fields": fields}]},
        "payload": {
            "op": "c", "after": row,
            "source": {"connector": "mysql", "db": "d", "table": "t", "ts_us": micros},
        },
    })
}

#[test]
fn older_changes_fit_into_the_columns_there_are() {
    let int = |ty: &str, name: &str| json!({"type": ty, "field": name, "optional": name != "id"});
    let first = json!([int("int32", "id"), int("int32", "n"), int("string", "gone")]);
    let second = json!([int("int32", "id"), int("int64", "n"), int("string", "new")]);
    let key =
        json!({"schema": {"type": "struct", "fields": [int("int32", "id")]}, "payload": {"id": 1}});
    let mut reading = Reading::new(DebeziumConfig::default());
    for (fields, micros, row) in [
        (&first, 10, json!({"id": 1, "n": 1, "gone": "a"})),
        (&second, 20, json!({"id": 2, "n": 5_000_000_000_i64, "new": "b"})),
        // Of another partition, read late.
        (&first, 15, json!({"id": 3, "n": 3, "gone": "c"})),
        (&second, 30, json!({"id": 4, "n": 4, "new": "d"})),
    ] {
        reading.take("p.d.t", Some(&key), Some(&with_schema(fields, micros, &row)));
    }
    assert_eq!(reading.schemas.len(), 2);
    assert_eq!(
        reading.rows(),
        [
            "shop.t Insert [] [id=1 n=1 gone=a]",
            "shop.t Insert [] [id=2 n=5000000000 new=b]",
            "shop.t Insert [] [id=3 n=3 new=~]",
            "shop.t Insert [] [id=4 n=4 new=d]",
        ]
    );
}

#[test]
fn values_that_were_not_sent_come_from_before_or_are_noted() {
    let forms = [
        json!("__debezium_unavailable_value"),
        json!("X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="),
        json!("5f5f646562657a69756d5f756e617661696c61626c655f76616c7565"),
        json!(["__debezium_unavailable_value"]),
        json!(["X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="]),
        json!(["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]),
        json!({"__debezium_unavailable_value": "__debezium_unavailable_value"}),
        json!("{\"__debezium_unavailable_value\":\"__debezium_unavailable_value\"}"),
        Value::from(placeholder::DEFAULT.bytes().map(i64::from).collect::<Vec<_>>()),
    ];
    let key = json!({"id": 1});
    for form in forms {
        let mut reading = Reading::new(DebeziumConfig::default());
        let row = |big: &Value| json!({"id": 1, "big": big});
        reading.take("t", Some(&key), Some(&change("c", Value::Null, row(&json!("x")))));
        reading.take("t", Some(&key), Some(&change("u", Value::Null, row(&form))));
        reading.take("t", Some(&key), Some(&change("u", row(&json!("y")), row(&form))));
        reading.take("t", Some(&key), Some(&change("u", row(&Value::Null), row(&form))));
        reading.finish();
        let unsent: Vec<_> = reading.unsent.iter().map(|(_, u)| (u.row, u.column)).collect();
        assert_eq!(unsent, [(1, 0), (3, 0)], "{form}");
        let rows = reading.rows();
        assert_eq!(rows[2], "shop.t Update [big=y id=1] [big=y id=1]", "{form}");
    }
}

#[test]
fn a_row_under_a_new_key_says_its_old_one() {
    let big = json!("__debezium_unavailable_value");
    for header in [r#"{"id":1}"#, r#"{"schema":{},"payload":{"id":1}}"#, "Struct{id=1}"] {
        let mut reading = Reading::new(DebeziumConfig::default());
        let row = |id: i64, big: &Value| json!({"id": id, "big": big});
        let first = change("c", Value::Null, row(1, &json!("x")));
        reading.take("t", Some(&json!({"id": 1})), Some(&first));
        reading.old_key = Some(header.as_bytes().to_vec());
        let moved = change("c", Value::Null, row(2, &big));
        reading.take("t", Some(&json!({"id": 2})), Some(&moved));
        assert!(reading.problems.is_empty(), "{:?}", reading.problems);
        let batch = reading.decoder.finish().unwrap().remove(0);
        assert_eq!(batch.unsent(), [Unsent { row: 1, column: 0 }]);
        assert_eq!(row_text(batch.before(), 1), "big=~ id=1", "{header}");
    }
}

#[test]
fn declared_columns_are_exact() {
    let columns = [("amount", "decimal(10,2)"), ("at", "timestamp(3)"), ("tags", "text[]")];
    let columns = columns.map(|(c, t)| (c.to_owned(), t.to_owned()));
    let table = DeclaredTable { key: vec!["id".to_owned()], columns: columns.into() };
    let config =
        DebeziumConfig { tables: [("t".to_owned(), table)].into(), ..DebeziumConfig::default() };
    let mut reading = Reading::new(config);
    let row = json!({"id": 1, "amount": "Jw8=", "at": 1_529_507_596_945_i64, "tags": ["a", null]});
    reading.take("t", None, Some(&change("c", Value::Null, row)));
    let row = "amount=99.99 at=2018-06-20T15:13:16.945 id=1 tags=[a, ]";
    assert_eq!(reading.rows(), [format!("shop.t Insert [] [{row}]")]);
}

#[test]
fn structures_and_texts_of_times() {
    let typed = |name: &str| json!({"type": "struct", "name": format!("io.debezium.time.{name}")});
    let date = json!({"year": 2023, "month": 3, "day": 23});
    let mut stamp = date.clone();
    for (field, value) in [("hour", 14), ("minute", 30), ("second", 5), ("nanos", 123_456_000)] {
        stamp[field] = value.into();
    }
    let mut zoned = stamp.clone();
    zoned["offsetSeconds"] = 3600.into();
    for (name, value, expected) in [
        ("StructuredDate", date, "2023-03-23"),
        ("StructuredTimestamp", stamp.clone(), "2023-03-23T14:30:05.123456"),
        ("StructuredZonedTimestamp", zoned, "2023-03-23T13:30:05.123456Z"),
        ("StructuredTime", stamp, "14:30:05.123456"),
        (
            "StructuredDuration",
            json!({"months": 2, "seconds": 5, "nanos": 500_000_000}),
            "P0Y2M0DT0H0M5.5S",
        ),
        ("IsoDate", json!("2017-09-15Z"), "2017-09-15"),
        ("IsoTime", json!("04:05:11.789Z"), "04:05:11.789"),
        ("IsoTimestamp", json!("2017-09-15T04:05:11Z"), "2017-09-15T04:05:11"),
        ("Date", json!(19439), "2023-03-23"),
        ("Time", json!(1000), "00:00:01"),
        ("NanoTime", json!(1000), "00:00:00.000001"),
        ("NanoTimestamp", json!(1_679_581_805_123_456_000_i64), "2023-03-23T14:30:05.123456"),
        ("ZonedTimestamp", json!("2023-03-23T14:30:05.1+08:00"), "2023-03-23T06:30:05.100Z"),
    ] {
        assert_eq!(recorded::one(typed(name), &value), expected, "{name}");
    }
}

#[test]
fn values_inside_one_another() {
    let string = json!({"type": "string"});
    for (schema, value, expected) in [
        (json!({"type": "array", "items": string}), json!(["a", null]), "[a, ]"),
        (json!({"type": "map", "keys": string, "values": string}), json!({"a": "b"}), "{a: b}"),
        (
            json!({"type": "map", "keys": {"type": "int32"}, "values": string}),
            json!([[1, "b"], [2, null]]),
            "{1: b, 2: }",
        ),
        (
            json!({"type": "struct", "fields": [{"type": "int32", "field": "x"}, {"type": "double", "field": "y"}]}),
            json!({"y": "NaN", "x": 1}),
            "{x: 1, y: NaN}",
        ),
        (
            json!({"type": "struct", "name": "io.debezium.data.geometry.Point"}),
            json!({"x": 1.0, "y": 2.0, "wkb": "AQI=", "srid": 4326}),
            "0102",
        ),
        (
            json!({"type": "bytes", "name": "io.debezium.data.Bits", "parameters": {"length": "11"}}),
            json!("xwc="),
            "1991",
        ),
    ] {
        assert_eq!(recorded::one(schema.clone(), &value), expected, "{schema}");
    }
}

#[test]
fn messages_that_say_nothing_of_rows() {
    let mut reading = Reading::new(DebeziumConfig::default());
    for value in [
        json!({"ts_ms": 1}),
        json!({"schema": {"type": "struct"}, "payload": {"ts_ms": 1}}),
        json!({"schema": null, "payload": null}),
        json!({"op": "m", "ts_ms": 1, "source": {}, "message": {"prefix": "p", "content": "YQ=="}}),
        json!({"status": "BEGIN", "id": "1:2", "ts_ms": 1, "event_count": null, "data_collections": null}),
    ] {
        reading.take("t", None, Some(&value));
    }
    for value in [None, Some(&b""[..]), Some(b"null"), Some(b" null ")] {
        reading.take_bytes("t", None, value);
    }
    assert_eq!(reading.rows(), Vec::<String>::new());
}

#[test]
fn rows_without_columns_are_none() {
    let mut reading = Reading::new(DebeziumConfig::default());
    reading.take("p.a.t", None, Some(&json!({"op": "c", "after": {}})));
    reading.take("p.a.t", Some(&json!({})), Some(&json!({"op": "d", "before": null})));
    reading.finish();
    assert_eq!((reading.rows.len(), reading.schemas.len()), (0, 0));
    assert_eq!(reading.problems.len(), 2, "{:?}", reading.problems);
}

#[test]
fn a_table_is_fed_by_one_table() {
    let mut reading = Reading::new(DebeziumConfig::default());
    let of = |db: &str| {
        json!({
            "op": "c", "after": {"id": 1}, "source": {"connector": "mysql", "db": db, "table": "T"},
        })
    };
    reading.take("p.a.T", None, Some(&of("a")));
    reading.take("p.b.T", None, Some(&of("b")));
    reading.take("p.c.t-1", None, Some(&json!({"op": "c", "after": {"id": 1}})));
    reading.finish();
    assert_eq!(reading.rows, ["shop.t Insert [] [id=1]"]);
    assert!(reading.problems[0].contains("which is fed by \"a.T\""), "{:?}", reading.problems);
    assert!(reading.problems[1].contains("\"shop.t-1\""), "{:?}", reading.problems);
}

/// What a mutation has to start from: messages with and without schemas, of every type.
fn seeds() -> Vec<Vec<u8>> {
    let int = |ty: &str, name: &str| json!({"type": ty, "field": name, "optional": true});
    let fields = json!([
        int("int32", "id"), int("string", "s"), int("bytes", "b"),
        {"type": "map", "keys": {"type": "string"}, "values": {"type": "array", "items": {"type": "string"}}, "field": "m"},
        {"type": "struct", "name": "io.debezium.data.VariableScaleDecimal", "field": "d"},
        {"type": "struct", "fields": [int("int32", "x"), int("string", "y")], "field": "o"},
    ]);
    let row = json!({
        "id": 1, "s": "a\u{1}\"\\é", "b": "AAEC", "m": {"k": ["a", "b"]},
        "d": {"scale": 2, "value": "Jw8="}, "o": {"x": 1, "y": "z"},
    });
    let mut seeds = vec![
        with_schema(&fields, 1, &row),
        change("u", row.clone(), row),
        json!({"status": "END", "id": "1", "event_count": 1, "data_collections": [{"data_collection": "a", "event_count": 1}]}),
    ];
    if let Some(root) = shared() {
        for file in std::fs::read_dir(root.join("debezium-live")).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let messages: Vec<Value> = serde_json::from_str(&text).unwrap();
            seeds.extend(messages.into_iter().map(|mut m| m["value"].take()));
        }
    }
    seeds.iter().map(|s| s.to_string().into_bytes()).collect()
}

/// Bytes that mean something in JSON, put where they do not belong, find no panic, and what is read
/// before and after them is whole.
#[test]
fn any_bytes_are_an_answer_or_a_problem() {
    let seed = rand::rng().random::<u64>();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let seeds = seeds();
    let mut good = change("c", Value::Null, json!({"id": 1, "a": "x"}));
    good["source"]["table"] = "good".into();
    let mut reading = Reading::new(DebeziumConfig::default());
    let mut good_rows = 0;
    for round in 0..4000 {
        let mut bytes = seeds[rng.random_range(0..seeds.len())].clone();
        for _ in 0..rng.random_range(1..4) {
            mutate(&mut bytes, &mut rng);
        }
        let key = rng.random_bool(0.5).then_some(&b"{\"id\":1}"[..]);
        reading.take_bytes("p.d.wild", key, Some(&bytes));
        if round % 50 == 0 {
            reading.take("p.s.good", Some(&json!({"id": 1})), Some(&good));
            reading.finish();
            good_rows +=
                reading.rows.iter().filter(|r| *r == "shop.good Insert [] [a=x id=1]").count();
            reading.rows.clear();
            reading.problems.clear();
            reading.decoder.topics.remove("p.d.wild");
        }
    }
    assert!(good_rows == 80, "{good_rows}");
}

fn mutate(bytes: &mut Vec<u8>, rng: &mut impl Rng) {
    let at = rng.random_range(0..=bytes.len());
    match rng.random_range(0..6) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, rng.random()),
        2 => bytes.insert(at, *b"{}[]\":,\\-0e.nt".get(rng.random_range(0..14)).unwrap()),
        3 if at < bytes.len() => bytes[at] = rng.random(),
        4 if at < bytes.len() => {
            drop(bytes.drain(at..(at + rng.random_range(1..20)).min(bytes.len())))
        }
        _ => {
            let from = rng.random_range(0..=at);
            let copy = bytes[from..at].iter().take(64).copied().collect::<Vec<_>>();
            bytes.splice(at..at, copy);
        }
    }
    if bytes.is_empty() {
        bytes.push(b'{');
    }
}
