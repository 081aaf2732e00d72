use arrow::{
    array::{
        Date32Array, Decimal128Array, Float32Array, Int32Array, Int64Array, StringArray,
        types::Int64Type,
    },
    util::pretty::pretty_format_batches,
};
use bytes::Bytes;
use iceberg::{
    TableCreation,
    spec::{
        FormatVersion, Literal, NestedField, PrimitiveType, Schema as IcebergSchema, TableMetadata,
        TableMetadataBuilder, Type,
    },
};
use parquet::arrow::{
    ArrowWriter, ProjectionMask,
    arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
};

use super::*;

/// A table of these fields, whose ids are kept, and properties.
fn metadata(fields: Vec<NestedField>, properties: &[(&str, &str)]) -> TableMetadata {
    let schema =
        IcebergSchema::builder().with_fields(fields.into_iter().map(Arc::new)).build().unwrap();
    let empty = IcebergSchema::builder().build().unwrap();
    let creation = TableCreation::builder()
        .name("t".to_owned())
        .location("file:///t".to_owned())
        .schema(empty)
        .format_version(FormatVersion::V3)
        .properties(properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
        .build();
    TableMetadataBuilder::from_table_creation(creation)
        .and_then(|builder| builder.add_current_schema(schema))
        .and_then(TableMetadataBuilder::build)
        .unwrap()
        .metadata
}

fn shape(fields: Vec<NestedField>) -> Shape {
    Shape::of(&"a.t".parse().unwrap(), &metadata(fields, &[])).unwrap()
}

fn optional(id: i32, name: &str, ty: PrimitiveType) -> NestedField {
    NestedField::optional(id, name, Type::Primitive(ty))
}

fn with_ids(fields: Vec<(Field, i32)>) -> SchemaRef {
    Arc::new(Schema::new(
        fields.into_iter().map(|(field, id)| with_field_id(&field, id)).collect::<Vec<_>>(),
    ))
}

/// Writes the columns as a Parquet file and reads it as a table of `shape`.
fn through_a_file(
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
    shape: &Shape,
    wanted: &[usize],
) -> Result<(RecordBatch, Adapter), LakeError> {
    let batch = RecordBatch::try_new(Arc::clone(schema), columns).unwrap();
    let mut file = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut file, Arc::clone(schema), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let file = Bytes::from(file);
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let read = ArrowReaderMetadata::load(&file, options).unwrap();
    let columns = file_schema(read.metadata()).unwrap();
    let table = shape.schema().arrow();
    let adapter = Adapter::new(shape, table, wanted, &columns, &Constants::new())?;
    let mask = ProjectionMask::leaves(read.parquet_schema(), adapter.leaves().iter().copied());
    let mut reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, read)
        .with_projection(mask)
        .build()
        .unwrap();
    Ok((adapter.adapt(&reader.next().unwrap().unwrap()).unwrap(), adapter))
}

#[track_caller]
fn check(batch: &RecordBatch, expected: &str) {
    let text = pretty_format_batches(std::slice::from_ref(batch)).unwrap().to_string();
    let rows: Vec<&str> = text.lines().filter(|l| l.starts_with('|')).skip(1).collect();
    let rows = rows.join("\n");
    let words =
        |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
    assert_eq!(words(&rows), words(expected), "{text}");
}

#[test]
fn columns_are_found_by_id_whatever_they_are_called_and_wherever_they_stand() {
    let file = with_ids(vec![
        (Field::new("gone", DataType::Utf8, true), 7),
        (Field::new("n", DataType::Int32, true), 2),
        (Field::new("amount", DataType::Decimal128(9, 2), true), 3),
        (Field::new("ratio", DataType::Float32, true), 4),
        (Field::new("day", DataType::Date32, true), 5),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["x", "y"])),
        Arc::new(Int32Array::from(vec![Some(-1), None])),
        Arc::new(Decimal128Array::from(vec![150, -1]).with_precision_and_scale(9, 2).unwrap()),
        Arc::new(Float32Array::from(vec![0.5, 2.0])),
        Arc::new(Date32Array::from(vec![0, 1])),
    ];
    // "gone" is another column now than the one that was dropped.
    let shape = shape(vec![
        optional(3, "price", PrimitiveType::Decimal { precision: 20, scale: 2 }),
        optional(9, "gone", PrimitiveType::String),
        optional(2, "number", PrimitiveType::Long),
        optional(4, "share", PrimitiveType::Double),
        optional(5, "at", PrimitiveType::Timestamp),
        optional(10, "kind", PrimitiveType::String).with_initial_default(Literal::string("new")),
    ]);
    let (batch, adapter) =
        through_a_file(&file, columns.clone(), &shape, &[0, 1, 2, 3, 4, 5]).unwrap();
    check(
        &batch,
        "| 1.50 | | -1 | 0.5 | 1970-01-01T00:00:00 | new |
         | -0.01 | | | 2.0 | 1970-01-02T00:00:00 | new |",
    );
    assert_eq!(adapter.leaves(), [1, 2, 3, 4]);
    let int = Origin::Leaf { leaf: 1, ty: DataType::Int32, same: false };
    assert_eq!(adapter.origin(2), Some(&int));
    let new = ScalarValue::Utf8(Some("new".to_owned()));
    assert_eq!(adapter.origin(5), Some(&Origin::Constant(new)));

    let (batch, _) = through_a_file(&file, columns.clone(), &shape, &[5, 2]).unwrap();
    check(&batch, "| new | -1 | | new | |");
    let (batch, adapter) = through_a_file(&file, columns, &shape, &[1]).unwrap();
    assert_eq!((batch.num_rows(), adapter.leaves().len()), (2, 0));
}

#[test]
fn other_values_are_refused() {
    let file = with_ids(vec![(Field::new("n", DataType::Int64, true), 1)]);
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![1]))];
    for ty in [PrimitiveType::Int, PrimitiveType::String, PrimitiveType::Timestamptz] {
        let shape = shape(vec![optional(1, "n", ty)]);
        let error = through_a_file(&file, columns.clone(), &shape, &[0]).unwrap_err().to_string();
        assert!(error.contains("column \"n\" is of type Int64"), "{error}");
    }
    let shape = shape(vec![NestedField::required(2, "m", Type::Primitive(PrimitiveType::Long))]);
    let error = through_a_file(&file, columns, &shape, &[0]).unwrap_err().to_string();
    assert!(error.contains("required column \"m\" is missing"), "{error}");
}

#[test]
fn a_file_without_field_ids_takes_them_from_the_names_the_table_says() {
    let file = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("other", DataType::Int64, true),
    ]));
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![1])), Arc::new(Int64Array::from(vec![2]))];
    let fields =
        || vec![optional(1, "key", PrimitiveType::Long), optional(2, "id", PrimitiveType::Long)];
    let error = through_a_file(&file, columns.clone(), &shape(fields()), &[0]).unwrap_err();
    assert!(error.to_string().contains("without field ids"), "{error}");
    let names = r#"[{"field-id": 1, "names": ["id", "key"]}]"#;
    let metadata = metadata(fields(), &[("schema.name-mapping.default", names)]);
    let named = Shape::of(&"a.t".parse().unwrap(), &metadata).unwrap();
    let (batch, _) = through_a_file(&file, columns, &named, &[0, 1]).unwrap();
    check(&batch, "| 1 | |");
}

#[test]
fn fields_inside_columns_are_found_by_id_too() {
    use iceberg::spec::{ListType, MapType, StructType};
    let long = |id, name: &str| Arc::new(optional(id, name, PrimitiveType::Long));
    let before = shape(vec![
        NestedField::optional(
            1,
            "place",
            Type::Struct(StructType::new(vec![long(4, "x"), long(5, "y")])),
        ),
        NestedField::optional(
            2,
            "tags",
            Type::List(ListType::new(Arc::new(NestedField::list_element(
                6,
                Type::Struct(StructType::new(vec![Arc::new(optional(7, "n", PrimitiveType::Int))])),
                false,
            )))),
        ),
        NestedField::optional(
            3,
            "by_name",
            Type::Map(MapType::new(
                Arc::new(NestedField::map_key_element(8, Type::Primitive(PrimitiveType::String))),
                Arc::new(NestedField::map_value_element(
                    9,
                    Type::Primitive(PrimitiveType::Int),
                    false,
                )),
            )),
        ),
    ]);
    let place =
        |name: &str, fields| NestedField::optional(1, name, Type::Struct(StructType::new(fields)));
    let after = shape(vec![
        NestedField::optional(
            3,
            "by_name",
            Type::Map(MapType::new(
                Arc::new(NestedField::map_key_element(8, Type::Primitive(PrimitiveType::String))),
                Arc::new(NestedField::map_value_element(
                    9,
                    Type::Primitive(PrimitiveType::Long),
                    false,
                )),
            )),
        ),
        NestedField::optional(
            2,
            "tags",
            Type::List(ListType::new(Arc::new(NestedField::list_element(
                6,
                Type::Struct(StructType::new(vec![long(10, "new"), long(7, "number")])),
                false,
            )))),
        ),
        place("where", vec![long(5, "north"), long(11, "up"), long(4, "east")]),
    ]);
    let rows = rows_of_nested(&before);
    let expected =
        "| {a: 1, b: } | [{new: , number: 3}, {new: , number: }] | {north: 2, up: , east: 1} |
                    | {} | [] | |
                    | | | {north: , up: , east: 5} |";
    let file = Arc::clone(before.file_arrow());
    let columns = rows
        .columns()
        .iter()
        .zip(file.fields())
        .map(|(column, field)| relabel(column, field.data_type()).unwrap())
        .collect::<Vec<_>>();
    let (batch, adapter) = through_a_file(&file, columns.clone(), &after, &[0, 1, 2]).unwrap();
    check(&batch, expected);
    assert_eq!(adapter.origin(2), Some(&Origin::Nested));
    let between = Adapter::between(&before, &after).unwrap();
    check(&between.adapt(&rows).unwrap(), expected);

    // Nothing of a struct is left but whether it is there.
    let empty = shape(vec![place("place", vec![long(12, "z")])]);
    let (batch, adapter) = through_a_file(&file, columns, &empty, &[0]).unwrap();
    assert_eq!(adapter.leaves(), [0]);
    check(&batch, "| {z: } | | | | {z: } |");
}

#[test]
fn a_column_that_the_file_left_out_has_the_value_of_its_partition() {
    let shape = shape(vec![
        optional(1, "n", PrimitiveType::Int),
        optional(2, "shop", PrimitiveType::String),
    ]);
    let file = with_ids(vec![(Field::new("n", DataType::Int32, true), 1)]);
    let shop = ScalarValue::Utf8(Some("店1".to_owned()));
    let constants = Constants::from([(2, shop.clone())]);
    let n: ArrayRef = Arc::new(Int32Array::from(vec![7, 8]));
    let rows = RecordBatch::try_new(Arc::clone(&file), vec![n]).unwrap();
    for (columns, text) in
        [(shape.schema().arrow(), DataType::Utf8), (shape.scanned(), DataType::Utf8View)]
    {
        let adapter = Adapter::new(&shape, columns, &[0, 1], &file, &constants).unwrap();
        let adapted = adapter.adapt(&rows).unwrap();
        assert_eq!(*adapted.column(1).data_type(), text);
        check(&adapted, "| 7 | 店1 | | 8 | 店1 |");
        let Some(Origin::Constant(value)) = adapter.origin(1) else { panic!("a constant") };
        assert_eq!(*value, shop.cast_to(&text).unwrap());
        let alone = Adapter::new(&shape, columns, &[1], &file, &constants).unwrap();
        assert!(alone.leaves().is_empty(), "nothing of the file is read");
    }
}

/// Three rows of the nested table: full, empty, missing.
fn rows_of_nested(shape: &Shape) -> RecordBatch {
    use arrow::array::{Int32Builder, MapBuilder, MapFieldNames, StringBuilder};
    use arrow::buffer::{NullBuffer, OffsetBuffer};
    let target = shape.schema().arrow();
    let DataType::Struct(place) = target.field(0).data_type() else { panic!("a struct") };
    let longs = |values: Vec<Option<i64>>| -> ArrayRef {
        Arc::new(arrow::array::PrimitiveArray::<Int64Type>::from(values))
    };
    let places = StructArray::new(
        place.clone(),
        vec![longs(vec![Some(1), None, Some(5)]), longs(vec![Some(2), None, None])],
        Some(NullBuffer::from(vec![true, false, true])),
    );
    let DataType::List(element) = target.field(1).data_type() else { panic!("a list") };
    let DataType::Struct(inner) = element.data_type() else { panic!("a struct") };
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(3), None]));
    let tags = ListArray::new(
        Arc::clone(element),
        OffsetBuffer::from_lengths([2, 0, 0]),
        Arc::new(StructArray::new(inner.clone(), vec![numbers], None)),
        Some(NullBuffer::from(vec![true, true, false])),
    );
    let names = MapFieldNames {
        entry: "key_value".to_owned(),
        key: "key".to_owned(),
        value: "value".to_owned(),
    };
    let mut map = MapBuilder::new(Some(names), StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("a");
    map.values().append_value(1);
    map.keys().append_value("b");
    map.values().append_null();
    map.append(true).unwrap();
    map.append(true).unwrap();
    map.append(false).unwrap();
    let columns: Vec<ArrayRef> = vec![Arc::new(places), Arc::new(tags), Arc::new(map.finish())];
    RecordBatch::try_new(Arc::clone(target), columns).unwrap()
}
