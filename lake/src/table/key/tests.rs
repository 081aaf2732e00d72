use std::collections::BTreeSet;

use arrow::array::{
    BinaryArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array, Float64Array,
    Int32Array, ListArray, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use medlake_contract::Column;

use super::*;

const SEED: Seed = Seed { a: 0x1234_5678_9abc_def0, b: 0x0fed_cba9_8765_4321 };

fn codec(columns: &[(&str, ColumnType)], identity: Identity) -> KeyCodec {
    let name = "mall.t".parse().unwrap();
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let column = |(name, ty): &(&str, ColumnType)| Column {
        name: (*name).to_owned(),
        ty: ty.clone(),
        nullable: identity != Identity::Key,
    };
    let columns = columns.iter().map(column).collect();
    let schema = match identity {
        Identity::Key => TableSchema::new(name, columns, &names),
        _ => TableSchema::keyless(name, columns, identity),
    };
    KeyCodec::new(&schema.unwrap(), SEED).unwrap()
}

fn digest(columns: &[(&str, ColumnType)], arrays: &[ArrayRef]) -> Vec<Digest> {
    match codec(columns, Identity::FullRow).keys_of_columns(arrays).unwrap() {
        Keys::Rows(digests) => digests,
        _ => unreachable!(),
    }
}

/// Two values of each type, the second one twice.
fn values() -> Vec<(ColumnType, ArrayRef)> {
    let uuid = |n: u8| [n; 16];
    let fixed = |rows: [[u8; 16]; 3]| {
        let rows = rows.into_iter().map(Vec::from);
        Arc::new(FixedSizeBinaryArray::try_from_iter(rows).unwrap())
    };
    let decimal = Decimal128Array::from(vec![-1, i128::MAX / 4, i128::MAX / 4]);
    vec![
        (ColumnType::Int32, Arc::new(Int32Array::from(vec![-1, 2, 2]))),
        (ColumnType::Int64, Arc::new(Int64Array::from(vec![i64::MIN, i64::MAX, i64::MAX]))),
        (ColumnType::Date, Arc::new(Date32Array::from(vec![-1, 20_000, 20_000]))),
        (ColumnType::Time, Arc::new(Time64MicrosecondArray::from(vec![0, 1, 1]))),
        (
            ColumnType::TimestampMicros,
            Arc::new(TimestampMicrosecondArray::from(vec![0, 1, 1]).with_timezone("UTC")),
        ),
        (
            ColumnType::LocalTimestampMicros,
            Arc::new(TimestampMicrosecondArray::from(vec![0, 1, 1])),
        ),
        (ColumnType::Float32, Arc::new(Float32Array::from(vec![1.5, 0.0, -0.0]))),
        (ColumnType::Float64, Arc::new(Float64Array::from(vec![0.0, f64::NAN, -f64::NAN]))),
        (
            ColumnType::Decimal { precision: 38, scale: 4 },
            Arc::new(decimal.with_precision_and_scale(38, 4).unwrap()),
        ),
        (ColumnType::Utf8, Arc::new(StringArray::from(vec!["", "药店药店药店", "药店药店药店"]))),
        (ColumnType::Binary, Arc::new(BinaryArray::from(vec![b"\0".as_slice(), b"", b""]))),
        (ColumnType::Uuid, fixed([uuid(1), uuid(2), uuid(2)])),
        (ColumnType::Fixed(16), fixed([uuid(0), uuid(9), uuid(9)])),
    ]
}

#[test]
fn a_key_of_any_type_is_found_again() {
    let single = |v: (ColumnType, ArrayRef)| vec![v];
    let all = values();
    let mut keys: Vec<Vec<(ColumnType, ArrayRef)>> = values().into_iter().map(single).collect();
    keys.push(all);
    for key in keys {
        let names: Vec<String> = (0..key.len()).map(|n| format!("c{n}")).collect();
        let columns: Vec<(&str, ColumnType)> =
            names.iter().map(String::as_str).zip(key.iter().map(|(ty, _)| ty.clone())).collect();
        let arrays: Vec<ArrayRef> = key.into_iter().map(|(_, array)| array).collect();
        let codec = codec(&columns, Identity::Key);
        let keys = codec.keys_of_columns(&arrays).unwrap();
        let mut index = codec.index(0);
        let at = |row| Location { segment: 1, row };
        assert_eq!(index.put(&keys, 0, at(0)), None, "{columns:?}");
        assert_eq!(index.put(&keys, 1, at(1)), None, "{columns:?}");
        assert_eq!(index.put(&keys, 2, at(2)), Some(at(1)), "{columns:?}");
        assert!(keys.same(1, &keys, 2) && !keys.same(0, &keys, 1), "{columns:?}");
        index.repoint(&keys, 1, at(1), at(7));
        assert_eq!(index.take(&keys, 1), Some(at(2)), "it was not at the place to change");
        assert_eq!(index.take(&keys, 1), None);
        index.repoint(&keys, 0, at(0), at(9));
        assert_eq!(index.take(&keys, 0), Some(at(9)));
        assert_eq!(index.len(), 0);

        let digests = digest(&columns, &arrays);
        assert!(digests[0] != digests[1] && digests[1] == digests[2], "{columns:?}");
    }
}

#[test]
fn an_integer_is_the_same_key_when_it_is_widened() {
    let narrow: ArrayRef = Arc::new(Int32Array::from(vec![-5]));
    let wide: ArrayRef = Arc::new(Int64Array::from(vec![-5]));
    let narrow = codec(&[("id", ColumnType::Int32)], Identity::Key).keys_of_columns(&[narrow]);
    let wide = codec(&[("id", ColumnType::Int64)], Identity::Key).keys_of_columns(&[wide]);
    assert!(narrow.unwrap().same(0, &wide.unwrap(), 0));
}

#[test]
fn a_digest_is_of_names_and_values_alone() {
    let text = |t: &str| -> ArrayRef { Arc::new(StringArray::from(vec![t])) };
    let none: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>]));
    let int: ArrayRef = Arc::new(Int32Array::from(vec![3]));
    let long: ArrayRef = Arc::new(Int64Array::from(vec![3]));
    let (a, b) = (("a", ColumnType::Utf8), ("b", ColumnType::Utf8));
    let n = ("n", ColumnType::Int32);
    let row = digest(&[a.clone(), n.clone()], &[text("x"), Arc::clone(&int)]);
    let wide = ("n", ColumnType::Int64);
    assert_eq!(digest(&[wide, a.clone()], &[long, text("x")]), row, "moved and widened");
    let added = [b.clone(), a.clone(), n.clone()];
    assert_eq!(digest(&added, &[Arc::clone(&none), text("x"), int]), row, "null added");

    let two = [a.clone(), b.clone()];
    let rows = [["ab", "c"], ["a", "bc"], ["", "abc"], ["abc", ""], ["c", "ab"], ["a\0", "c"]];
    let mut seen: BTreeSet<[u64; 2]> = BTreeSet::new();
    for [a, b] in rows {
        assert!(seen.insert(digest(&two, &[text(a), text(b)])[0].0), "{a:?} {b:?}");
    }
    // A null is neither an empty text nor the same in another column.
    assert!(seen.insert(digest(&two, &[text("abc"), Arc::clone(&none)])[0].0));
    assert!(seen.insert(digest(&two, &[Arc::clone(&none), text("abc")])[0].0));
    assert!(seen.insert(digest(&two, &[Arc::clone(&none), none])[0].0));
}

#[test]
fn nested_values_count() {
    let item = Column::nullable("element", ColumnType::Int32);
    let column = ("tags", ColumnType::List(Box::new(item.clone())));
    let list = |items: Vec<Option<Vec<Option<i32>>>>| -> ArrayRef {
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(items);
        let (_, offsets, values, nulls) = lists.into_parts();
        Arc::new(ListArray::new(Arc::new(item.arrow()), offsets, values, nulls))
    };
    let lists = list(vec![
        Some(vec![Some(1), None]),
        Some(vec![None, Some(1)]),
        Some(vec![]),
        None,
        Some(vec![Some(1), None]),
    ]);
    let digests = digest(&[column], &[lists]);
    let different: BTreeSet<[u64; 2]> = digests[..4].iter().map(|d| d.0).collect();
    assert_eq!(different.len(), 4);
    assert_eq!(digests[0], digests[4]);
}
