//! Columns change while rows are in files, in memory and in views.

use super::*;
use crate::{Alteration, ColumnPath, Place};

fn with(columns: &[Column]) -> Arc<TableSchema> {
    table("mall.numbers", columns.to_vec(), &["id"])
}

#[tokio::test]
async fn columns_are_added_at_the_end() {
    let bench = Bench::new();
    let old = numbers();
    let mut columns = old.columns().to_vec();
    columns.push(Column::nullable("note", ColumnType::Utf8));
    let new = with(&columns);
    let noted = |id: i64, note: &str| {
        let mut row = number(id, 0);
        row.push(ScalarValue::Utf8(Some(note.to_owned())));
        (Op::Insert, None, Some(row))
    };
    {
        let lake = bench.open().await;
        lake.create_tables(&[Arc::clone(&old)]).await.unwrap();
        lake.stage(&set(vec![batch(&old, vec![insert(1, 1)])])).unwrap();
        lake.publish();
        lake.flush().await.unwrap();
        lake.stage(&set(vec![batch(&old, vec![insert(2, 2)])])).unwrap();
        lake.publish();
        lake.create_tables(&[Arc::clone(&new)]).await.unwrap();
        lake.create_tables(&[Arc::clone(&new)]).await.unwrap();
        lake.stage(&set(vec![batch(&new, vec![noted(3, "x")])])).unwrap();
        let view = lake.publish();
        assert_eq!(rows(&view, "mall.numbers").await, ["1,1,null", "2,2,null", "3,0,x"]);
        lake.flush().await.unwrap();
        let named = "select id from medlake.mall.numbers where note = 'x'";
        assert_eq!(query(&lake.read_view(), named).await, ["3"]);
        let unnamed = "select id from medlake.mall.numbers where note is null";
        assert_eq!(query(&lake.read_view(), unnamed).await, ["1", "2"]);
    }
    let lake = bench.open().await;
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await, ["1,1,null", "2,2,null", "3,0,x"]);
}

#[tokio::test]
async fn declared_columns_may_come_anywhere_go_and_widen() {
    let bench = Bench::new();
    let old = with(&[
        Column::required("id", ColumnType::Int64),
        Column::required("v", ColumnType::Int32),
        Column::nullable("gone", ColumnType::Utf8),
    ]);
    let new = with(&[
        Column::nullable("first", ColumnType::Utf8),
        Column::nullable("v", ColumnType::Int64),
        Column::required("id", ColumnType::Int64),
    ]);
    let row = |id: i64, v: i32| {
        let gone = ScalarValue::Utf8(Some("gone".to_owned()));
        let row = vec![ScalarValue::Int64(Some(id)), ScalarValue::Int32(Some(v)), gone];
        (Op::Insert, None, Some(row))
    };
    let first = |id: i64, v: Option<i64>| {
        let first = ScalarValue::Utf8(Some("first".to_owned()));
        vec![first, ScalarValue::Int64(v), ScalarValue::Int64(Some(id))]
    };
    let expected = ["first,3000000000,4", "first,null,2", "null,1,1", "null,3,3"];
    {
        let lake = bench.open().await;
        lake.create_tables(&[Arc::clone(&old)]).await.unwrap();
        lake.stage(&set(vec![batch(&old, vec![row(1, 1), row(2, 2)])])).unwrap();
        lake.publish();
        lake.flush().await.unwrap();
        // One row is published, one is not, when the columns change.
        lake.stage(&set(vec![batch(&old, vec![row(3, 3)])])).unwrap();
        lake.publish();
        lake.stage(&set(vec![batch(&old, vec![row(4, 4)])])).unwrap();
        let before = lake.read_view();
        lake.create_tables(&[Arc::clone(&new)]).await.unwrap();
        let changes = vec![
            (Op::Update, Some(first(2, Some(2))), Some(first(2, None))),
            (Op::Update, Some(first(4, Some(4))), Some(first(4, Some(3_000_000_000)))),
        ];
        lake.stage(&set(vec![batch(&new, changes)])).unwrap();
        lake.flush().await.unwrap();
        assert_eq!(rows(&before, "mall.numbers").await, ["1,1,gone", "2,2,gone", "3,3,gone"]);
        assert_eq!(rows(&lake.publish(), "mall.numbers").await, expected);
        lake.flush().await.unwrap();
        assert_eq!(rows(&lake.read_view(), "mall.numbers").await, expected);
        let large = "select id from medlake.mall.numbers where v >= 3";
        assert_eq!(query(&lake.read_view(), large).await, ["3", "4"]);
    }
    let lake = bench.open().await;
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await, expected);
}

#[tokio::test]
async fn columns_that_cannot_become_what_is_declared_are_refused_before_anything_changes() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let old = numbers();
    lake.create_tables(&[Arc::clone(&old)]).await.unwrap();
    let id = || Column::required("id", ColumnType::Int64);
    let other = table("mall.others", vec![id()], &["id"]);
    for (wrong, why) in [
        (with(&[id(), Column::nullable("v", ColumnType::Utf8)]), "cannot become"),
        (with(&[id(), Column::nullable("v", ColumnType::Int32)]), "cannot become"),
        (with(&[id(), Column::required("v", ColumnType::Int64)]), "may have nulls"),
        (with(&[id(), Column::required("must", ColumnType::Int64)]), "must be nullable"),
        (with(&[Column::required("id", ColumnType::Utf8)]), "cannot become"),
        (
            table(
                "mall.numbers",
                vec![id(), Column::required("v", ColumnType::Int64)],
                &["id", "v"],
            ),
            "key",
        ),
    ] {
        let error = lake.create_tables(&[Arc::clone(&other), wrong]).await.unwrap_err();
        assert!(matches!(error, LakeError::Schema { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!(lake.read_view().tables().len(), 1);
    assert_eq!(lake.read_view().tables()[0].schema, old);
}

/// A value of each type a column can have, and none.
fn all_types() -> (Arc<TableSchema>, Vec<Row>) {
    use arrow::datatypes::{DataType, Int32Type};
    let utf8 = |v: &str| ScalarValue::Utf8(Some(v.to_owned()));
    let list_ty = ColumnType::List(Box::new(Column::nullable("element", ColumnType::Int32)));
    let inner =
        vec![Column::nullable("a", ColumnType::Float64), Column::nullable("b", ColumnType::Utf8)];
    let struct_ty = ColumnType::Struct(inner);
    let map_ty = ColumnType::Map(
        Box::new(Column::required("key", ColumnType::Utf8)),
        Box::new(Column::nullable("value", ColumnType::Int64)),
    );
    let single: Vec<(ColumnType, ScalarValue)> = vec![
        (ColumnType::Boolean, ScalarValue::Boolean(Some(true))),
        (ColumnType::Int32, ScalarValue::Int32(Some(-7))),
        (ColumnType::Int64, ScalarValue::Int64(Some(i64::MIN))),
        (ColumnType::Float32, ScalarValue::Float32(Some(1.5))),
        (ColumnType::Float64, ScalarValue::Float64(Some(-2.25))),
        (
            ColumnType::Decimal { precision: 9, scale: 2 },
            ScalarValue::Decimal128(Some(-12345), 9, 2),
        ),
        (
            ColumnType::Decimal { precision: 18, scale: 0 },
            ScalarValue::Decimal128(Some(123_456_789_012), 18, 0),
        ),
        (
            ColumnType::Decimal { precision: 38, scale: 10 },
            ScalarValue::Decimal128(Some(i128::from(i64::MAX) * 1000), 38, 10),
        ),
        (ColumnType::Utf8, utf8("数")),
        (ColumnType::Date, ScalarValue::Date32(Some(-1))),
        (ColumnType::Time, ScalarValue::Time64Microsecond(Some(86_399_999_999))),
        (
            ColumnType::TimestampMicros,
            ScalarValue::TimestampMicrosecond(Some(-1), Some("UTC".into())),
        ),
        (ColumnType::LocalTimestampMicros, ScalarValue::TimestampMicrosecond(Some(1), None)),
        (ColumnType::Uuid, ScalarValue::FixedSizeBinary(16, Some((0..16).collect()))),
        (ColumnType::Fixed(3), ScalarValue::FixedSizeBinary(3, Some(vec![1, 2, 255]))),
        (ColumnType::Binary, ScalarValue::Binary(Some(vec![0, 255]))),
        (list_ty.clone(), {
            let list =
                arrow::array::ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![
                    Some(1),
                    None,
                ])]);
            let DataType::List(element) = list_ty.arrow() else { panic!("a list") };
            let (_, offsets, values, nulls) = list.into_parts();
            let list = arrow::array::ListArray::new(element, offsets, values, nulls);
            ScalarValue::List(Arc::new(list))
        }),
        (struct_ty.clone(), {
            let DataType::Struct(fields) = struct_ty.arrow() else { panic!("a struct") };
            let columns: Vec<ArrayRef> = vec![
                ScalarValue::Float64(Some(0.5)).to_array().unwrap(),
                ScalarValue::Utf8(None).to_array().unwrap(),
            ];
            ScalarValue::Struct(Arc::new(arrow::array::StructArray::new(fields, columns, None)))
        }),
        (map_ty.clone(), {
            let DataType::Map(entries, _) = map_ty.arrow() else { panic!("a map") };
            let DataType::Struct(fields) = entries.data_type() else { panic!("entries") };
            let columns: Vec<ArrayRef> = vec![
                utf8("k").to_array().unwrap(),
                ScalarValue::Int64(Some(5)).to_array().unwrap(),
            ];
            let pairs = arrow::array::StructArray::new(fields.clone(), columns, None);
            let offsets = arrow::buffer::OffsetBuffer::from_lengths([1]);
            let map =
                arrow::array::MapArray::new(Arc::clone(&entries), offsets, pairs, None, false);
            ScalarValue::Map(Arc::new(map))
        }),
    ];
    let mut columns = vec![Column::required("id", ColumnType::Int64)];
    let mut full = vec![ScalarValue::Int64(Some(1))];
    let mut empty = vec![ScalarValue::Int64(Some(2))];
    for (at, (ty, value)) in single.into_iter().enumerate() {
        empty.push(ScalarValue::try_from(&ty.arrow()).unwrap());
        columns.push(Column::nullable(format!("c{at}"), ty));
        full.push(value);
    }
    (table("mall.types", columns, &["id"]), vec![full, empty])
}

#[tokio::test]
async fn every_type_is_stored_read_and_merged() {
    let (schema, values) = all_types();
    let bench = Bench::new();
    let mut config = bench.config();
    config.small_file_count = 0;
    let hot;
    {
        let lake = Lake::open(config.clone()).await.unwrap();
        lake.load_indexes().await.unwrap();
        lake.create_tables(&[Arc::clone(&schema)]).await.unwrap();
        let changes = values.iter().map(|r| (Op::Insert, None, Some(r.clone()))).collect();
        lake.stage(&set(vec![batch(&schema, changes)])).unwrap();
        hot = rows(&lake.publish(), "mall.types").await;
        assert!(hot[0].starts_with("1,true,-7,"), "{hot:?}");
        lake.flush().await.unwrap();
        assert_eq!(rows(&lake.read_view(), "mall.types").await, hot);
    }
    let lake = Lake::open(config).await.unwrap();
    lake.load_indexes().await.unwrap();
    assert_eq!(lake.read_view().tables()[0].schema, schema);
    // The same row once more: the file is read, adapted and written again.
    lake.stage(&set(vec![batch(&schema, vec![(Op::Insert, None, Some(values[1].clone()))])]))
        .unwrap();
    lake.publish();
    lake.flush().await.unwrap();
    lake.flush().await.unwrap();
    assert_eq!(rows(&lake.read_view(), "mall.types").await, hot);
    for (at, column) in schema.columns().iter().enumerate().skip(1) {
        if column.ty.is_nested() || column.ty == ColumnType::Boolean {
            continue;
        }
        // Bounds of the manifest rule the row out or in, and are of the right type.
        let sql = format!(
            "select count(*) from medlake.mall.types where c{} >= (select min(c{}) from \
             medlake.mall.types)",
            at - 1,
            at - 1
        );
        assert_eq!(query(&lake.read_view(), &sql).await, ["1"], "{sql}");
    }
}

fn rename(column: impl Into<ColumnPath>, to: &str) -> Alteration {
    Alteration::Rename { column: column.into(), to: to.to_owned() }
}

fn add(name: &str, ty: ColumnType) -> Alteration {
    let column = Column::nullable(name, ty);
    Alteration::Add { inside: None, column, default: None, place: Place::Last }
}

#[tokio::test]
async fn columns_are_renamed_moved_dropped_and_come_back_empty() {
    let bench = Bench::new();
    let name: TableName = "mall.numbers".parse().unwrap();
    let expected = ["7,2,null", "null,1,null", "null,3,null"];
    {
        let lake = bench.open().await;
        lake.create_tables(&[numbers()]).await.unwrap();
        lake.stage(&set(vec![batch(&numbers(), vec![insert(1, 1), insert(2, 2)])])).unwrap();
        lake.publish();
        lake.flush().await.unwrap();
        lake.stage(&set(vec![batch(&numbers(), vec![insert(3, 3)])])).unwrap();
        lake.publish();
        lake.alter(&name, &[rename("id", "number"), rename("v", "id")]).await.unwrap();
        assert_eq!(rows(&lake.read_view(), "mall.numbers").await, ["1,1", "2,2", "3,3"]);
        let named = "select number from medlake.mall.numbers where id >= 2 order by number";
        assert_eq!(query(&lake.read_view(), named).await, ["2", "3"]);
        // A name that comes back is another column; nothing of the old one shows.
        lake.alter(
            &name,
            &[
                Alteration::Drop("id".into()),
                add("v", ColumnType::Utf8),
                add("id", ColumnType::Int64),
                Alteration::Move { column: "id".into(), to: Place::Before("number".to_owned()) },
            ],
        )
        .await
        .unwrap();
        let schema = Arc::clone(&lake.read_view().tables()[0].schema);
        assert_eq!(schema.key_indices(), [1]);
        let row = |id: Option<i64>, number: i64| {
            let number = ScalarValue::Int64(Some(number));
            Some(vec![ScalarValue::Int64(id), number, ScalarValue::Utf8(None)])
        };
        let change = (Op::Update, row(None, 2), row(Some(7), 2));
        lake.stage(&set(vec![batch(&schema, vec![change])])).unwrap();
        assert_eq!(rows(&lake.publish(), "mall.numbers").await, expected);
        lake.flush().await.unwrap();
        assert_eq!(rows(&lake.read_view(), "mall.numbers").await, expected);
    }
    let lake = bench.open().await;
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await, expected);
    let none = "select number from medlake.mall.numbers where id < 5 or v is not null";
    assert_eq!(query(&lake.read_view(), none).await, Vec::<String>::new());
}

#[tokio::test]
async fn tables_evolve_in_one_commit() {
    let bench = Bench::new();
    let nullable = |name: &str| Column::nullable(name, ColumnType::Int64);
    let key = |name: &str| Column::required(name, ColumnType::Int64);
    let two = table("mall.two", vec![key("a"), nullable("b"), nullable("c")], &["a"]);
    let lake = bench.open().await;
    lake.create_tables(&[numbers(), Arc::clone(&two)]).await.unwrap();
    let row = |values: [i64; 3]| Some(values.map(|v| ScalarValue::Int64(Some(v))).to_vec());
    lake.stage(&set(vec![batch(&two, vec![(Op::Insert, None, row([1, 2, 3]))])])).unwrap();
    lake.stage(&set(vec![batch(&numbers(), vec![insert(1, 1)])])).unwrap();
    lake.publish();
    lake.flush().await.unwrap();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let changes = [
        SchemaChange {
            table: table("mall.numbers", vec![key("id"), nullable("v"), nullable("w")], &["id"]),
            renamed: vec![],
        },
        SchemaChange {
            // The key has another name, a column two after each other, one went, one came.
            table: table("mall.two", vec![nullable("e"), key("k"), nullable("new")], &["k"]),
            renamed: vec![pair("a", "k"), pair("b", "d"), pair("d", "e")],
        },
    ];
    let metadata = || {
        let all = ["mall/numbers", "mall/two"]
            .map(|t| files(bench.folder.path(), &format!("{t}/metadata")));
        all.iter().flatten().filter(|name| name.ends_with(".json")).count()
    };
    let before = metadata();
    assert!(before >= 4, "{before}");
    assert!(!lake.is_evolved(&changes));
    for _ in 0..2 {
        lake.evolve(&changes).await.unwrap();
        assert!(lake.is_evolved(&changes));
        assert_eq!(metadata(), before + 2, "one more of each table");
        assert_eq!(rows(&lake.read_view(), "mall.two").await, ["2,1,null"]);
        assert_eq!(rows(&lake.read_view(), "mall.numbers").await, ["1,1,null"]);
    }
    // One of several that cannot be: none is made.
    let wrong = SchemaChange {
        table: table("mall.two", vec![key("e"), nullable("k")], &["e"]),
        renamed: vec![],
    };
    let [mut fits, _] = changes;
    fits.table = numbers();
    lake.evolve(&[fits, wrong]).await.unwrap_err();
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await, ["1,1,null"]);
}

#[tokio::test]
async fn a_single_integer_key_widens_with_its_table() {
    let bench = Bench::new();
    let schema = |ty| with(&[Column::required("id", ty), Column::nullable("v", ColumnType::Utf8)]);
    let (narrow, wide) = (schema(ColumnType::Int32), schema(ColumnType::Int64));
    let text = |v: &str| ScalarValue::Utf8(Some(v.to_owned()));
    let name = narrow.name().clone();
    {
        let lake = bench.open().await;
        lake.create_tables(&[Arc::clone(&narrow)]).await.unwrap();
        for id in 1..=2 {
            let row = Some(vec![ScalarValue::Int32(Some(id)), text("old")]);
            lake.stage(&set(vec![batch(&narrow, vec![(Op::Insert, None, row)])])).unwrap();
            lake.publish();
            if id == 1 {
                lake.flush().await.unwrap();
            }
        }
        let widen = Alteration::Widen { column: "id".into(), to: ColumnType::Int64 };
        lake.alter(&name, &[widen]).await.unwrap();
        let row = |id: i64, v: &str| Some(vec![ScalarValue::Int64(Some(id)), text(v)]);
        let changes = [1, 2, 1 << 40].map(|id| (Op::Insert, None, row(id, "new"))).to_vec();
        lake.stage(&set(vec![batch(&wide, changes)])).unwrap();
        lake.publish();
        lake.flush().await.unwrap();
    }
    let lake = bench.open().await;
    let expected = ["1,new", "1099511627776,new", "2,new"];
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await, expected);
}

#[tokio::test]
async fn fields_inside_columns_change_too() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let place = |fields: Vec<Column>| {
        with(&[
            Column::required("id", ColumnType::Int64),
            Column::nullable("place", ColumnType::Struct(fields)),
        ])
    };
    let before = place(vec![
        Column::nullable("x", ColumnType::Int32),
        Column::nullable("y", ColumnType::Int32),
    ]);
    lake.create_tables(&[Arc::clone(&before)]).await.unwrap();
    for id in [1, 2] {
        let ColumnType::Struct(fields) = &before.columns()[1].ty else { panic!("a struct") };
        let values: Vec<ArrayRef> =
            [id, 10 * id].map(|v| ScalarValue::Int32(Some(v)).to_array().unwrap()).to_vec();
        let fields = fields.iter().map(Column::arrow).collect::<Vec<_>>();
        let value = arrow::array::StructArray::new(fields.into(), values, None);
        let row = vec![ScalarValue::Int64(Some(id.into())), ScalarValue::Struct(Arc::new(value))];
        lake.stage(&set(vec![batch(&before, vec![(Op::Insert, None, Some(row))])])).unwrap();
        lake.publish();
        if id == 1 {
            lake.flush().await.unwrap();
        }
    }
    lake.alter(
        before.name(),
        &[
            rename(["place", "x"], "east"),
            Alteration::Widen { column: ["place", "y"].into(), to: ColumnType::Int64 },
            Alteration::Move { column: ["place", "y"].into(), to: Place::First },
            Alteration::Add {
                inside: Some("place".into()),
                column: Column::nullable("up", ColumnType::Utf8),
                default: None,
                place: Place::After("y".to_owned()),
            },
        ],
    )
    .await
    .unwrap();
    let expected = ["1,{y: 10, up: , east: 1}", "2,{y: 20, up: , east: 2}"];
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await, expected);
    lake.flush().await.unwrap();
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await, expected);
}

#[tokio::test]
async fn alterations_that_cannot_be_made_change_nothing() {
    let bench = Bench::new();
    let lake = bench.open().await;
    lake.create_tables(&[numbers()]).await.unwrap();
    let name = numbers().name().clone();
    let early = Alteration::Add {
        inside: None,
        column: Column::nullable("early", ColumnType::TimestampMicros),
        default: Some(ScalarValue::TimestampMicrosecond(Some(-1), Some("UTC".into()))),
        place: Place::Last,
    };
    let required = |default| Alteration::Add {
        inside: None,
        column: Column::required("must", ColumnType::Int64),
        default,
        place: Place::Last,
    };
    for (wrong, why) in [
        (Alteration::Drop("id".into()), "part of the key"),
        (Alteration::MakeNullable("id".into()), "part of the key"),
        (Alteration::Drop("no".into()), "no column \"no\""),
        (rename("v", "id"), "already"),
        (rename(["v", "x"], "y"), "part of no struct"),
        (add("v", ColumnType::Int64), "already"),
        (required(None), "needs a default"),
        (early.clone(), "on a full second"),
        (required(Some(ScalarValue::Int64(Some(1)))), "format version 3"),
        (Alteration::Widen { column: "v".into(), to: ColumnType::Int32 }, "cannot become"),
        (Alteration::Move { column: "v".into(), to: Place::After("x".into()) }, "no column \"x\""),
    ] {
        let error = lake.alter(&name, &[add("kept_out", ColumnType::Int64), wrong.clone()]).await;
        let error = error.unwrap_err();
        assert!(matches!(error, LakeError::Schema { .. }), "{error}");
        assert!(error.to_string().contains(why), "{wrong:?}: {error}");
    }
    assert_eq!(lake.read_view().tables()[0].schema, numbers());
    let missing = lake.alter(&"mall.none".parse().unwrap(), &[]).await.unwrap_err();
    assert!(matches!(missing, LakeError::UnknownTable { .. }), "{missing}");
}
