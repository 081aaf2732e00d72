//! What real connectors wrote, and what others published that it means.

use super::*;

/// Files and folders without changes of rows as a connector of a relational database writes them to
/// Kafka, each with what it is instead.
const NOT_CHANGES: &[(&str, &str)] = &[
    ("debezium-repo/json__sample", "any JSON"),
    ("debezium-repo/json__serde-unwrapped", "a row without its envelope"),
    ("debezium-server-iceberg/serde-unnested-delete-key", "a key"),
    ("debezium-server-iceberg/serde-unnested-order-key", "a key"),
    ("debezium-server-iceberg/serde-with-array.", "a row without its envelope"),
    ("debezium-server-iceberg/serde-with-array2", "a change of schemas without columns"),
    ("debezium-server-iceberg/serde-with-schema2", "a schema alone"),
    ("debezium-server-iceberg/serde-with-schema_geom", "a row without its envelope"),
    ("debezium-server-iceberg/unwrap", "a row without its envelope"),
    ("flink-cdc/expectedEvents__mysqlToKafka__canal", "the format of Canal"),
    ("flink-cdc/file__debezium-data-schema-include", "a schema that is not that of its payload"),
    ("paimon/kafka__debezium-bson", "the connector of MongoDB, whose rows are documents"),
    ("debezium-docs/cloudevents", "the CloudEvents envelope"),
    ("debezium-docs/event-flattening", "a row without its envelope"),
    ("debezium-docs/mysql__", "a signal"),
    ("debezium-docs/notification", "a notification"),
    ("debezium-docs/signalling", "a signal"),
    ("debezium-docs/postgresql__12", "a connector's configuration"),
    ("debezium-docs/shared-mariadb-mysql__12", "a connector's configuration"),
    ("debezium-docs/shared-mariadb-mysql__01", "a key"),
    ("debezium-docs/shared-mariadb-mysql__02", "a change of schemas"),
    ("debezium-docs/shared-mariadb-mysql__06", "a key"),
    ("debezium-docs/INDEX", "a list of files"),
    // What can be parsed of these is in NORMALISED.jsonl.
    (".raw.txt", "text with parts left out"),
];

/// The documents in NORMALISED.jsonl that are changes of rows, by the pages they are from; of the
/// others the schema, the rows or the envelope is left out.
const ILLUSTRATED: &[&str] = &[
    "event-changes__01",
    "postgresql__02",
    "postgresql__06",
    "postgresql__07",
    "postgresql__08",
    "postgresql__09",
    "serdes__01",
    "serdes__02",
    "postgresql__05",
    "shared-mariadb-mysql__04",
    "shared-mariadb-mysql__07",
    "shared-mariadb-mysql__08",
    "shared-mariadb-mysql__09",
    "shared-mariadb-mysql__10",
];

/// The texts of the documents of a file, as they are written.
fn documents(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    match serde_json::from_str::<Value>(&text) {
        Ok(Value::Object(fields)) if fields.keys().any(|k| k.starts_with("expected_")) => {
            fields.into_iter().map(|(_, v)| v.to_string()).collect()
        }
        Ok(_) => vec![text],
        Err(_) => text
            .lines()
            .filter(|line| serde_json::from_str::<serde::de::IgnoredAny>(line).is_ok())
            .map(str::to_owned)
            .collect(),
    }
}

/// The pages' documents that are changes, without what stands for parts that were left out.
fn illustrated(path: &Path) -> Vec<String> {
    let mut docs: Vec<Value> =
        documents(path).iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    docs.retain(|d| {
        let origin = d["origin"].as_str().unwrap();
        ILLUSTRATED.iter().any(|page| origin.starts_with(page))
    });
    assert_eq!(docs.len(), ILLUSTRATED.len());
    docs.into_iter()
        .map(|mut doc| {
            let mut doc = doc["doc"].take();
            if doc["schema"].get("__elided_in_docs__").is_some() {
                doc = doc["payload"].take();
            }
            if doc["source"].get("__elided_in_docs__").is_some() {
                doc["source"].take();
            }
            doc.to_string()
        })
        .collect()
}

fn live(file: &str, config: DebeziumConfig) -> Option<Reading> {
    let path = shared()?.join("debezium-live").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let messages: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut reading = Reading::new(config);
    for message in &messages {
        reading.take(message["topic"].as_str().unwrap(), message.get("key"), message.get("value"));
    }
    Some(reading)
}

/// The rows of the MariaDB recordings: they differ in their ids, in how precise times are, and in
/// the unsigned number, which a Connect schema does not call so.
fn mariadb_rows(ids: [u32; 2], micros: [&str; 2], unsigned: &str) -> Vec<String> {
    let row = |id: u32, amount: &str, doc: &str| {
        format!(
            "id={id} customer=cat amount={amount} created=2026-03-04T05:06:07.{} \
             upd=2026-03-04T05:06:07.890Z doc={doc} status=new flags=b bin=dead u=7 b1=false ty=0 \
             d=2026-03-04 t=18367500000 y=2025 f=2.25 note=~",
            micros[1]
        )
    };
    let [id, moved] = ids;
    let first = format!(
        "id=1 customer=ann amount=99.99 created=2026-01-02T03:04:05.{} \
         upd=2026-01-02T03:04:05.123Z doc={{\"a\":1}} status=paid flags=a,b bin=00ff u={unsigned} \
         b1=true ty=1 d=2026-01-02 t=11045678000 y=2026 f=1.5 note=~",
        micros[0]
    );
    let (old, new) = (row(id, "1234.50", r#"{"k":[1,2]}"#), row(id, "0.05", r#"{"k":2}"#));
    let moved = row(moved, "0.05", r#"{"k":2}"#);
    vec![
        format!("shop.orders Insert [] [{first}]"),
        format!("shop.orders Insert [] [{old}]"),
        format!("shop.orders Update [{old}] [{new}]"),
        format!("shop.orders Delete [{new}] []"),
        format!("shop.orders Insert [] [{moved}]"),
        format!("shop.orders Delete [{moved}] []"),
    ]
}

#[test]
fn mariadb_with_schemas() {
    let Some(reading) = live("mariadb_schemas_on.json", DebeziumConfig::default()) else { return };
    let table = Arc::clone(&reading.schemas[0].table);
    assert_eq!(reading.rows(), mariadb_rows([3, 1003], ["123456", "890123"], "-1"));
    assert_eq!(table.columns()[2].ty, ColumnType::Decimal { precision: 12, scale: 2 });
    assert_eq!(table.key_indices(), [0]);
}

#[test]
fn mariadb_without_schemas_but_with_the_topic_of_schema_changes() {
    let modes = Modes {
        decimal: DecimalHandling::String,
        time: Some(TimePrecision::Connect),
        ..Modes::default()
    };
    let config = DebeziumConfig { modes, ..DebeziumConfig::default() };
    let Some(reading) = live("mariadb_schemas_off_string_connect.json", config) else { return };
    let rows = mariadb_rows([1004, 2004], ["123", "890"], "18446744073709551615");
    assert_eq!(reading.rows(), rows);
}

#[test]
fn postgres_with_schemas() {
    let Some(reading) = live("postgres_schemas_on.json", DebeziumConfig::default()) else { return };
    let row = |id: u32, amount: &str, doc: &str| {
        format!(
            "id={id} customer=cat amount={amount} n=3.14159 created=2026-03-04T05:06:07.890123 \
             upd=2026-03-04T05:06:07.890Z doc={doc} d=2026-03-04 t=05:06:07 tags=[p, q] \
             uid=000000000000000000000000000000aa bin=dead ok=false f=2.25 iv=~"
        )
    };
    let first = "id=1 customer=ann amount=99.99 n=1.5 created=2026-01-02T03:04:05.123456 \
                 upd=2026-01-02T01:04:05.123Z doc={\"a\": 1} d=2026-01-02 t=03:04:05 tags=[x, y] \
                 uid=00000000000000000000000000000001 bin=00ff ok=true f=1.5 iv=~";
    let (old, new) = (row(4, "1234.50", r#"{"k": [1, 2]}"#), row(4, "0.05", r#"{"k": 2}"#));
    let moved = row(1004, "0.05", r#"{"k": 2}"#);
    assert_eq!(
        reading.rows(),
        [
            format!("shop.orders Insert [] [{first}]"),
            format!("shop.orders Insert [] [{old}]"),
            format!("shop.orders Update [{old}] [{new}]"),
            format!("shop.orders Delete [{new}] []"),
            format!("shop.orders Insert [] [{moved}]"),
            format!("shop.orders Delete [{moved}] []"),
        ]
    );
}

#[test]
fn postgres_without_schemas_keys_and_large_values() {
    let file = "postgres_default_identity_toast_truncate_nokey.json";
    let Some(mut reading) = live(file, DebeziumConfig::default()) else { return };
    reading.finish();
    let unsent: Vec<_> = reading.unsent.iter().map(|(t, u)| (t.table(), u.row, u.column)).collect();
    // The update, and the insert that is the update's row under its new key.
    assert_eq!(unsent, [("toasty", 0, 0), ("toasty", 2, 0)]);
    let rows = reading.rows();
    let first = rows[0].strip_prefix("shop.toasty Insert [] [big=").unwrap();
    assert_eq!(first.trim_start_matches('x'), " id=1 small=a]");
    assert_eq!(
        rows[1..],
        [
            "shop.nokey Insert [] [a=1 b=q]",
            "shop.nokey Insert [] [a=2 b=w]",
            "shop.nokey Update [a=2 b=w] [a=2 b=z]",
            "shop.nokey Delete [a=1 b=q] []",
            "shop.toasty Update [big=~ id=1 small=~] [big=~ id=1 small=b]",
            "shop.toasty Delete [big=~ id=1 small=~] []",
            "shop.toasty Insert [] [big=~ id=2 small=b]",
            "shop.toasty Delete [big=~ id=2 small=~] []",
            "shop.nokey Truncate [] []",
            "shop.toasty Insert [] [big=y id=3 small=c extra=7]",
        ]
    );
}

#[test]
fn every_recorded_change_is_read() {
    let Some(root) = shared() else { return };
    let root = root.join("debezium");
    let mut used = vec![false; NOT_CHANGES.len()];
    let mut changes = 0;
    for folder in std::fs::read_dir(&root).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
            let readings: Vec<Vec<String>> = if name.ends_with("NORMALISED.jsonl") {
                illustrated(&path).into_iter().map(|doc| vec![doc]).collect()
            } else {
                vec![documents(&path)]
            };
            let mut reasons = NOT_CHANGES.iter();
            let excluded =
                reasons.position(|(part, _)| name.starts_with(part) || name.ends_with(part));
            for docs in readings {
                let mut reading = Reading::new(DebeziumConfig::default());
                docs.iter()
                    .for_each(|d| reading.take_bytes("server.db.t", None, Some(d.as_bytes())));
                reading.finish();
                if let Some(at) = excluded {
                    used[at] = true;
                    assert_eq!(reading.rows, Vec::<String>::new(), "{name}");
                } else {
                    assert_eq!(reading.problems, Vec::<String>::new(), "{name}");
                    // A message of the application's own, and the end of rows that never were.
                    let none = [r#""op":"m""#, r#""op":"t""#].iter().any(|op| docs[0].contains(op));
                    assert_eq!(reading.rows.is_empty(), none, "{name}");
                    changes += reading.rows.len();
                }
            }
        }
    }
    let unused = NOT_CHANGES.iter().zip(used).find(|(_, used)| !used);
    assert_eq!(unused, None);
    assert!(changes >= 100, "{changes}");
}

fn oracle() -> Option<Value> {
    let text = std::fs::read_to_string(shared()?.join("oracles/debezium_decode.json")).unwrap();
    Some(serde_json::from_str(&text).unwrap())
}

#[test]
fn all_types_of_mysql_have_the_published_values() {
    let (Some(root), Some(oracle)) = (shared(), oracle()) else { return };
    let expected = &oracle["paimon_alltype"];
    let mut reading = Reading::new(DebeziumConfig::default());
    for doc in documents(&root.join(expected["file"].as_str().unwrap())) {
        reading.take_bytes("t", None, Some(doc.as_bytes()));
    }
    let row = reading.rows().remove(0);
    let field = |name: &str| {
        let (_, rest) =
            row.split_once(&format!(" {name}=")).unwrap_or_else(|| panic!("{name}: {row}"));
        // Up to the next field.
        let end = rest.match_indices(' ').map(|(at, _)| at).find(|at| {
            rest[at + 1..].starts_with('_')
                && rest[at + 1..].split(' ').next().unwrap().contains('=')
        });
        rest[..end.unwrap_or(rest.len())].trim_end_matches(']').to_owned()
    };
    for (name, value) in [
        ("_date", &expected["_date"][1]),
        ("_datetime", &expected["_datetime"][1]),
        ("_datetime3", &expected["_datetime3"][1]),
        ("_datetime6", &expected["_datetime6"][1]),
        ("_datetime_p2", &expected["_datetime_p2"][1]),
        ("_timestamp", &expected["_timestamp"]),
        ("_set", &expected["_set"]),
        ("_enum", &expected["_enum"]),
        ("_json", &expected["_json"]),
        ("_bigint_unsigned", &expected["_bigint_unsigned"]),
        ("_fixed", &expected["_fixed"]),
        ("_big_decimal", &expected["_big_decimal"]),
    ] {
        // Its type has a digit more after the point.
        let found = if name == "_fixed" { field(name).replace(".110", ".11") } else { field(name) };
        assert_eq!(found, value.as_str().unwrap(), "{name}");
    }
    assert_eq!(field("_year"), expected["_year"].to_string());
    assert_eq!(field("_time"), expected["_time"][0].to_string());
    let bits = expected["_bit"]["little_endian_value"].as_i64().unwrap();
    assert_eq!(field("_bit").trim_start_matches('0'), format!("{bits:x}"));
}

/// A row of one column with this schema, as text.
pub(super) fn one(schema: Value, value: &Value) -> String {
    let mut field = schema;
    field["field"] = "v".into();
    field["optional"] = true.into();
    let row = serde_json::json!({"type": "struct", "field": "after", "fields": [field]});
    let message = serde_json::json!({
        "schema": {"type": "struct", "fields": [row]},
        "payload": {"op": "c", "after": {"v": value}, "source": {"connector": "postgresql", "table": "t"}},
    });
    let mut reading = Reading::new(DebeziumConfig::default());
    reading.take("t", None, Some(&message));
    let row = reading.rows().remove(0);
    let value = row.strip_prefix("shop.t Insert [] [v=").and_then(|v| v.strip_suffix(']'));
    value.unwrap().to_owned()
}

#[test]
fn decimals_have_the_published_values() {
    let Some(oracle) = oracle() else { return };
    for case in oracle["artie"].as_array().unwrap() {
        let [name, bytes, scale, expected] = [0, 1, 2, 3].map(|i| &case[i]);
        let expected = expected.as_str().unwrap();
        if name == "numeric_39_6" {
            // Its published text is one character too long to be base64.
            assert_eq!(bytes.as_str().unwrap().len() % 4, 1);
            continue;
        }
        let struct_value = serde_json::json!({"scale": scale, "value": bytes});
        let variable =
            serde_json::json!({"type": "struct", "name": "io.debezium.data.VariableScaleDecimal"});
        assert_eq!(one(variable, &struct_value), expected, "{name}");
        for precision in ["38", "40"] {
            let scale = scale.to_string();
            let fixed = serde_json::json!({
                "type": "bytes",
                "name": "org.apache.kafka.connect.data.Decimal",
                "parameters": {"scale": scale, "connect.decimal.precision": precision},
            });
            if precision == "40" || expected.len() < 39 {
                assert_eq!(one(fixed, bytes), expected, "{name} with precision {precision}");
            }
        }
    }
}

#[test]
fn times_have_the_published_values() {
    let Some(oracle) = oracle() else { return };
    let typed = |ty: &str, name: &str| serde_json::json!({"type": ty, "name": name});
    let forms = [
        ("int64", "io.debezium.time.Timestamp", "2018-06-20T06:37:03"),
        ("string", "io.debezium.time.ZonedTimestamp", "2018-06-20T13:37:03Z"),
        ("int64", "io.debezium.time.MicroTimestamp", "2018-06-20T15:13:16.945104"),
    ];
    for (case, (ty, name, expected)) in oracle["docs"].as_array().unwrap().iter().zip(forms) {
        assert_eq!(one(typed(ty, name), &case[2]), expected, "{case}");
    }
    let infinities = &oracle["docs"].as_array().unwrap()[3..];
    for (case, (name, expected)) in infinities.iter().zip([
        ("io.debezium.time.MicroTimestamp", values::INFINITY),
        ("io.debezium.time.MicroTimestamp", values::NEGATIVE_INFINITY),
        ("io.debezium.time.NanoTimestamp", values::INFINITY),
    ]) {
        let unit = if name.contains("Nano") { values::Unit::Nanos } else { values::Unit::Micros };
        assert_eq!(unit.micros(case[2].as_i64().unwrap()).unwrap(), expected, "{case}");
    }
}
