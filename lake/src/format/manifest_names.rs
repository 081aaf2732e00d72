//! Names of partitions in manifests. A manifest is an Avro file, and Avro takes few letters in a name;
//! other programs write more, and the metadata library does not read those back. Values stand in a
//! fixed order, so the names in the file's head can be exchanged for plain ones before it reads them.

use std::{borrow::Cow, collections::HashSet};

use bytes::Bytes;
use serde_json::Value;

const MAGIC: &[u8] = b"Obj\x01";
/// What the fields of a specification are numbered from, where it does not say (Iceberg specification,
/// "Partition Evolution").
const FIRST_FIELD_ID: i64 = 1_000;

/// The same manifest with partition names the metadata library reads. What is no manifest stays as it
/// is.
pub(crate) fn with_plain_names(manifest: Bytes) -> Bytes {
    rewritten(&manifest).map_or(manifest, Bytes::from)
}

/// None when nothing needs to change.
fn rewritten(manifest: &[u8]) -> Option<Vec<u8>> {
    let mut rest = manifest.strip_prefix(MAGIC)?;
    let mut head: Vec<(&[u8], Cow<'_, [u8]>)> = Vec::new();
    loop {
        let count = take_long(&mut rest)?;
        if count == 0 {
            break;
        }
        if count < 0 {
            // Followed by the size of the block.
            take_long(&mut rest)?;
        }
        for _ in 0..count.unsigned_abs() {
            head.push((take_bytes(&mut rest)?, Cow::Borrowed(take_bytes(&mut rest)?)));
        }
    }
    let json = |key: &[u8]| -> Option<Value> {
        let (_, value) = head.iter().find(|(k, _)| *k == key)?;
        serde_json::from_slice(value).ok()
    };
    let mut spec = json(b"partition-spec")?;
    let fields = spec.as_array_mut()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_plain = |name: &str| name.chars().all(plain) && !name.starts_with(char::is_numeric);
    if fields.iter().all(|field| field["name"].as_str().is_none_or(is_plain)) {
        return None;
    }
    let mut ids = HashSet::new();
    for (counted, field) in (FIRST_FIELD_ID..).zip(fields) {
        let id = field["field-id"].as_i64().unwrap_or(counted);
        ids.insert(id);
        field["name"] = plain_name(id);
    }
    let mut schema = json(b"avro.schema")?;
    rename(&mut schema, &ids);
    for (key, value) in &mut head {
        match *key {
            b"partition-spec" => *value = Cow::Owned(spec.to_string().into_bytes()),
            b"avro.schema" => *value = Cow::Owned(schema.to_string().into_bytes()),
            _ => {}
        }
    }
    let mut written = MAGIC.to_vec();
    put_long(&mut written, head.len());
    for (key, value) in head {
        for part in [key, &value] {
            put_long(&mut written, part.len());
            written.extend(part);
        }
    }
    put_long(&mut written, 0);
    written.extend(rest);
    Some(written)
}

fn plain_name(id: i64) -> Value {
    format!("p{id}").into()
}

/// Gives the fields of these ids their plain names, wherever they stand.
fn rename(schema: &mut Value, ids: &HashSet<i64>) {
    match schema {
        Value::Object(object) => {
            let id = object.get("field-id").and_then(Value::as_i64).filter(|id| ids.contains(id));
            if let Some(id) = id {
                object.insert("name".to_owned(), plain_name(id));
            }
            object.values_mut().for_each(|value| rename(value, ids));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| rename(value, ids)),
        _ => {}
    }
}

/// Avro's numbers: seven bits a byte, the lowest first, the sign in the lowest bit.
fn take_long(from: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}

fn take_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_long(from)?).ok()?;
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

fn put_long(to: &mut Vec<u8>, value: usize) {
    let mut value = (value as u64) << 1;
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return to.push(low & 0x7f);
        }
        to.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_avros() {
        for value in [0, 1, 63, 64, 300, 70_000, 1 << 40] {
            let mut bytes = Vec::new();
            put_long(&mut bytes, value);
            assert_eq!(take_long(&mut bytes.as_slice()), i64::try_from(value).ok());
        }
        assert_eq!(take_long(&mut [0x7f].as_slice()), Some(-64));
        assert_eq!(take_long(&mut [0xff; 11].as_slice()), None);
        assert_eq!(take_long(&mut [0x80].as_slice()), None);
    }

    fn manifest(spec: &str, schema: &str) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        put_long(&mut bytes, 2);
        for part in ["partition-spec", spec, "avro.schema", schema] {
            put_long(&mut bytes, part.len());
            bytes.extend(part.as_bytes());
        }
        bytes.push(0);
        bytes.extend(b"the rest");
        bytes
    }

    #[test]
    fn names_change_by_field_id_and_nothing_else() {
        let of = |spec_name: &str, avro_name: &str| {
            manifest(
                &format!(r#"[{{"field-id":1000,"name":"{spec_name}"}}]"#),
                &format!(
                    r#"{{"fields":[{{"field-id":1000,"name":"{avro_name}"}},{{"field-id":2,"name":"b"}}]}}"#
                ),
            )
        };
        let plain = Bytes::from(of("shop_1", "shop_1"));
        assert_eq!(with_plain_names(plain.clone()), plain);
        let other = Bytes::from(of("渠道 1", "渠道_x201"));
        assert_eq!(with_plain_names(other), of("p1000", "p1000"));
        for damaged in ["", "Obj", "Obj\x01\x02", "something else"] {
            assert_eq!(with_plain_names(Bytes::from(damaged)), damaged);
        }
    }
}
