use std::sync::Arc;

use datafusion::arrow::array::{
    BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float64Array,
    Int64Array, IntervalMonthDayNanoArray, ListArray, StringArray, TimestampMicrosecondArray,
};

use super::*;

fn values(array: ArrayRef) -> Values {
    let ty = of_arrow(array.data_type());
    Values::new(&array, &ty, utc().unwrap()).unwrap()
}

fn text(array: impl Array + 'static) -> Vec<String> {
    let count = array.len();
    let values = values(Arc::new(array));
    (0..count)
        .map(|row| {
            let mut out = BytesMut::new();
            if values.text(row, &mut out).unwrap() {
                String::from_utf8(out.to_vec()).unwrap()
            } else {
                "<null>".into()
            }
        })
        .collect()
}

fn binary(array: impl Array + 'static) -> Vec<u8> {
    let mut out = BytesMut::new();
    assert!(values(Arc::new(array)).binary(0, &mut out).unwrap());
    out.to_vec()
}

#[test]
fn text_is_what_postgres_prints() {
    assert_eq!(text(BooleanArray::from(vec![Some(true), Some(false), None])), ["t", "f", "<null>"]);
    assert_eq!(text(Int64Array::from(vec![i64::MIN])), ["-9223372036854775808"]);
    assert_eq!(
        text(Float64Array::from(vec![
            1.0,
            -0.5,
            0.1,
            1e15,
            1e16,
            123_456.75,
            1e-4,
            1e-5,
            1.5e-7,
            1e300,
            f64::NAN,
            f64::INFINITY,
            0.0
        ])),
        [
            "1",
            "-0.5",
            "0.1",
            "1e+15",
            "1e+16",
            "123456.75",
            "0.0001",
            "1e-05",
            "1.5e-07",
            "1e+300",
            "NaN",
            "Infinity",
            "0"
        ]
    );
    assert_eq!(text(Date32Array::from(vec![0, 20_758])), ["1970-01-01", "2026-11-01"]);
    let decimal = Decimal128Array::from(vec![12_345, -5, 0]).with_precision_and_scale(20, 2);
    assert_eq!(text(decimal.unwrap()), ["123.45", "-0.05", "0.00"]);
    assert_eq!(text(BinaryArray::from(vec![&[0_u8, 255][..]])), ["\\x00ff"]);
    let uuid = FixedSizeBinaryArray::try_from_iter([[1_u8; 16]].into_iter()).unwrap();
    assert_eq!(binary(uuid.clone()), [1; 16]);
    assert_eq!(text(uuid), ["01010101-0101-0101-0101-010101010101"]);
    assert_eq!(
        text(IntervalMonthDayNanoArray::from(vec![
            datafusion::arrow::datatypes::IntervalMonthDayNano::new(14, 3, 3_723_500_000_000)
        ])),
        ["1 year 2 mons 3 days 01:02:03.5"]
    );
}

#[test]
fn a_timestamp_with_time_zone_is_shown_in_the_zone() {
    let micros = 1_793_500_000_120_000;
    let plain = TimestampMicrosecondArray::from(vec![micros]);
    assert_eq!(text(plain.clone()), ["2026-11-01 02:26:40.12"]);
    assert_eq!(text(plain.clone().with_timezone("UTC")), ["2026-11-01 02:26:40.12+00"]);
    let zoned: ArrayRef = Arc::new(plain.with_timezone("UTC"));
    for (zone, expected) in
        [("+08:00", "2026-11-01 10:26:40.12+08"), ("-03:30", "2026-10-31 22:56:40.12-03:30")]
    {
        let values = Values::new(&zoned, &Type::TIMESTAMPTZ, zone.parse().unwrap()).unwrap();
        let mut out = BytesMut::new();
        values.text(0, &mut out).unwrap();
        assert_eq!(&out[..], expected.as_bytes());
    }
}

#[test]
fn arrays_are_quoted_where_they_must() {
    let list =
        ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1), None, Some(3)])]);
    assert_eq!(text(list.clone()), ["{1,NULL,3}"]);
    assert_eq!(
        binary(list),
        [
            0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0,
            0, 0, 1, 255, 255, 255, 255, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 3
        ]
    );
    let mut words =
        datafusion::arrow::array::ListBuilder::new(datafusion::arrow::array::StringBuilder::new());
    words.append_value([Some("a b"), Some(""), Some("null"), Some("q\"\\"), Some("营")]);
    assert_eq!(text(words.finish()), [r#"{"a b","","null","q\"\\",营}"#]);
}

#[test]
fn binary_is_pinned() {
    assert_eq!(binary(BooleanArray::from(vec![true])), [1]);
    assert_eq!(binary(Int64Array::from(vec![258])), [0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(binary(Float64Array::from(vec![1.0])), [0x3f, 0xf0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(binary(StringArray::from(vec!["营"])), "营".as_bytes());
    assert_eq!(binary(Date32Array::from(vec![EPOCH_DAYS + 1])), [0, 0, 0, 1]);
    let at = TimestampMicrosecondArray::from(vec![EPOCH_MICROS + 1]).with_timezone("UTC");
    assert_eq!(binary(at), [0, 0, 0, 0, 0, 0, 0, 1]);
}

#[test]
fn binary_numeric_is_in_groups_of_four_digits() {
    let numeric = |text: &str| {
        let mut out = BytesMut::new();
        put_numeric(text, &mut out);
        out.chunks(2).map(|c| i16::from_be_bytes([c[0], c[1]])).collect::<Vec<_>>()
    };
    assert_eq!(numeric("0"), [0, 0, 0, 0]);
    assert_eq!(numeric("0.00"), [0, 0, 0, 2]);
    assert_eq!(numeric("123.45"), [2, 0, 0, 2, 123, 4500]);
    assert_eq!(numeric("-10000.5"), [3, 1, 0x4000, 1, 1, 0, 5000]);
    assert_eq!(numeric("0.0001"), [1, -1, 0, 4, 1]);
    assert_eq!(numeric("0.00001"), [1, -2, 0, 5, 1000]);
    // Zero groups at the end are left out.
    assert_eq!(numeric("120000"), [1, 1, 0, 0, 12]);
}
