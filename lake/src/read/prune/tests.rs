use arrow::{
    array::{Array, Int64Array},
    util::display::array_value_to_string,
};
use datafusion::{
    datasource::empty::EmptyTable, logical_expr::LogicalPlan, prelude::SessionContext,
};
use iceberg::{
    TableCreation,
    spec::{
        DataContentType, DataFileBuilder, DataFileFormat, Literal, NestedField, PartitionSpec,
        PrimitiveType, Schema, Struct, TableMetadataBuilder, Transform, Type,
    },
};
use roaring::RoaringBitmap;

use super::*;
use crate::{config::LakeConfig, format::partition, storage::Storage};

/// A table of which manifests say nothing but what partition each file is of.
struct Files {
    shape: Shape,
    segments: Vec<Segment>,
    partitions: Vec<String>,
    _folder: tempfile::TempDir,
}

impl Files {
    /// A file for each partition that these values of the column have.
    async fn by(column: &str, transform: Transform, values: ArrayRef) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = LakeConfig::new(folder.path(), Arc::new(|| 0));
        let storage = Storage::open(&config).await.unwrap();
        let field =
            |id, name: &str, ty| Arc::new(NestedField::optional(id, name, Type::Primitive(ty)));
        let schema = Schema::builder()
            .with_fields([
                field(1, "id", PrimitiveType::Long),
                field(2, "name", PrimitiveType::String),
                field(3, "at", PrimitiveType::Timestamptz),
                field(4, "day", PrimitiveType::Date),
            ])
            .build()
            .unwrap();
        let creation = TableCreation::builder()
            .name("t".to_owned())
            .location("file:///t".to_owned())
            .schema(schema)
            .build();
        let metadata =
            TableMetadataBuilder::from_table_creation(creation).unwrap().build().unwrap().metadata;
        let table = "a.t".parse().unwrap();
        let shape = Shape::of(&table, &metadata).unwrap();
        let schema = metadata.current_schema();
        let spec = PartitionSpec::builder(Arc::clone(schema))
            .add_partition_field(column, "part", transform)
            .unwrap()
            .build()
            .unwrap();
        let ty = spec.partition_type(schema).unwrap().fields()[0].field_type.clone();
        let parts = partition::transform(&values, transform).unwrap();
        let mut found: Vec<(Option<Literal>, String)> = (0..parts.len())
            .map(|row| {
                let ty = ty.as_primitive_type().unwrap();
                let value = partition::literal(&parts, row, ty).unwrap();
                (value, array_value_to_string(&parts, row).unwrap())
            })
            .collect();
        found.sort_by(|a, b| a.1.cmp(&b.1));
        found.dedup();
        let spec = Arc::new(spec);
        let segments = found.iter().zip(0..).map(|((value, text), id)| {
            let entry = DataFileBuilder::default()
                .content(DataContentType::Data)
                .file_path(format!("file:///t/{text}.parquet"))
                .file_format(DataFileFormat::Parquet)
                .record_count(10)
                .file_size_in_bytes(1)
                .partition(Struct::from_iter([value.clone()]))
                .build()
                .unwrap();
            let file = LakeFile::open(&storage, &table, &spec, &entry).unwrap();
            Segment::of_file(id, Arc::new(file), Arc::new(RoaringBitmap::new()))
        });
        Self {
            shape,
            segments: segments.collect(),
            partitions: found.into_iter().map(|(_, text)| text).collect(),
            _folder: folder,
        }
    }

    fn files(&self) -> Vec<(&Segment, &FileRows)> {
        self.segments.iter().map(|s| (s, s.file().unwrap())).collect()
    }

    /// The partitions of the files that the condition leaves.
    async fn kept(&self, condition: &str) -> Vec<&str> {
        let session = SessionContext::new();
        let table = Arc::new(EmptyTable::new(Arc::clone(self.shape.scanned())));
        session.register_table("t", table).unwrap();
        let query = session.sql(&format!("select * from t where {condition}")).await.unwrap();
        let LogicalPlan::Filter(filter) = query.into_optimized_plan().unwrap() else {
            panic!("{condition}");
        };
        let table = filter.input.schema();
        let condition = session.state().create_physical_expr(filter.predicate, table).unwrap();
        let files = self.files();
        let statistics = FileStatistics::new(&files, &self.shape);
        let kept = prune_files(&condition, &statistics).unwrap_or_else(|| vec![true; files.len()]);
        let names = self.partitions.iter().zip(kept).filter(|(_, kept)| *kept);
        names.map(|(name, _)| name.as_str()).collect()
    }
}

#[tokio::test]
async fn a_file_has_one_value_of_what_it_is_partitioned_by() {
    let names = arrow::array::StringArray::from(vec![Some("a"), Some("b"), None, Some("c")]);
    let files = Files::by("name", Transform::Identity, Arc::new(names)).await;
    assert_eq!(files.kept("name = 'b'").await, ["b"]);
    assert_eq!(files.kept("name >= 'b'").await, ["b", "c"]);
    assert_eq!(files.kept("name is null").await, [""]);
    assert_eq!(files.kept("name is not null").await, ["a", "b", "c"]);
    assert_eq!(files.kept("name <> 'a'").await, ["b", "c"]);
    assert_eq!(files.kept("id = 1").await, ["", "a", "b", "c"]);

    // A quarter of the rows has no name, and whole numbers are known exactly.
    let known = statistics(&files.files(), &[], &files.shape, &(0..4).collect());
    assert_eq!(known.column_statistics[1].null_count, Precision::Exact(10));
    assert_eq!(known.column_statistics[0].null_count, Precision::Absent);
    let ids = Arc::new(Int64Array::from(vec![7, -2]));
    let files = Files::by("id", Transform::Identity, ids).await;
    let known = statistics(&files.files(), &[], &files.shape, &(0..4).collect());
    let id = &known.column_statistics[0];
    assert_eq!(id.min_value, Precision::Exact(ScalarValue::from(-2_i64)));
    assert_eq!(id.max_value, Precision::Exact(ScalarValue::from(7_i64)));
}

#[tokio::test]
async fn a_file_has_values_of_its_bucket_alone() {
    let ids: ArrayRef = Arc::new((0..256).collect::<Int64Array>());
    let files = Files::by("id", Transform::Bucket(16), Arc::clone(&ids)).await;
    assert_eq!(files.partitions.len(), 16);
    let buckets = partition::transform(&ids, Transform::Bucket(16)).unwrap();
    let bucket = |id: usize| array_value_to_string(&buckets, id).unwrap();
    assert_eq!(files.kept("id = 5").await, [bucket(5)]);
    let mut two = vec![bucket(5), bucket(40)];
    two.sort();
    two.dedup();
    assert_eq!(files.kept("id in (5, 40)").await, two);
    let list: Vec<String> = (0..30).map(|_| "5".to_owned()).chain(["40".to_owned()]).collect();
    assert_eq!(files.kept(&format!("id in ({})", list.join(", "))).await, two);
    assert_eq!(files.kept("id = 5 and name = 'x'").await, [bucket(5)]);
    assert_eq!(files.kept("id > 5").await.len(), 16, "a bucket says nothing of order");
    assert_eq!(files.kept("id <> 5").await.len(), 16);
    assert_eq!(files.kept("id = 5 or name = 'x'").await.len(), 16);
    // Rows without an id are in no bucket.
    let ids = Arc::new(Int64Array::from(vec![Some(5), None]));
    let files = Files::by("id", Transform::Bucket(16), ids).await;
    assert_eq!(files.kept("id = 5").await, [bucket(5)]);
    assert_eq!(files.kept("id is null").await, [""]);

    let names: ArrayRef = Arc::new(arrow::array::StringArray::from(vec!["a", "b", "普药", "d"]));
    let files = Files::by("name", Transform::Bucket(1_000), Arc::clone(&names)).await;
    let buckets = partition::transform(&names, Transform::Bucket(1_000)).unwrap();
    assert_eq!(files.kept("name = '普药'").await, [array_value_to_string(&buckets, 2).unwrap()]);
}

#[tokio::test]
async fn a_file_has_values_of_its_day_or_prefix_alone() {
    let days = arrow::array::Date32Array::from(vec![-40, 0, 31, 60, 61]);
    let files = Files::by("day", Transform::Month, Arc::new(days)).await;
    assert_eq!(files.partitions, ["-2", "0", "1", "2"]);
    assert_eq!(files.kept("day >= date '1970-02-01'").await, ["1", "2"]);
    assert_eq!(files.kept("day = date '1970-03-31'").await, ["2"]);
    assert_eq!(files.kept("day < date '1969-12-01'").await, ["-2"]);

    let times = arrow::array::TimestampMicrosecondArray::from(vec![
        0,
        86_400_000_000,
        3 * 86_400_000_000 - 1,
        5 * 86_400_000_000,
    ]);
    let times = Arc::new(times.with_timezone("UTC"));
    let files = Files::by("at", Transform::Day, times).await;
    assert_eq!(
        files.kept("at >= timestamp '1970-01-03T00:00:00Z'").await,
        ["1970-01-03", "1970-01-06"]
    );
    assert_eq!(
        files.kept("at < timestamp '1970-01-02T12:00:00Z'").await,
        ["1970-01-01", "1970-01-02"]
    );
    let known = statistics(&files.files(), &[], &files.shape, &(0..4).collect());
    assert_eq!(known.column_statistics[2].min_value, Precision::Absent, "no value is known");

    let names = arrow::array::StringArray::from(vec!["a", "abc", "abd", "b", "ba"]);
    let files = Files::by("name", Transform::Truncate(2), Arc::new(names)).await;
    assert_eq!(files.partitions, ["a", "ab", "b", "ba"]);
    assert_eq!(files.kept("name = 'abd'").await, ["ab"]);
    assert_eq!(files.kept("name > 'ac'").await, ["b", "ba"]);
    assert_eq!(files.kept("name like 'b%'").await, ["b", "ba"]);
    assert_eq!(files.kept("name = 'a'").await, ["a"]);

    let ids = Files::by("id", Transform::Truncate(100), Arc::new(Int64Array::from(vec![5, 199])));
    let files = ids.await;
    assert_eq!(files.kept("id = 99").await, ["0"]);
    assert_eq!(files.kept("id >= 100").await, ["100"]);
}
