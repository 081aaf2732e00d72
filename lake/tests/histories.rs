//! Random histories of a lake: what it does in its life, in any order, for other engines to read.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray,
        Float32Array, Float64Array, Int32Array, Int64Array, ListArray, MapArray, RecordBatch,
        StringArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray, UInt64Array,
    },
    buffer::{NullBuffer, OffsetBuffer},
    compute::{cast, concat, concat_batches, take_record_batch},
    datatypes::DataType,
};
use datafusion::{prelude::SessionContext, scalar::ScalarValue};
use medlake_contract::{
    ChangeBatch, ChangeSet, Column, ColumnType, Identity, Op, Position, Positions, SourceId,
    TableName, TableSchema,
};
use medlake_lake::{
    Alteration, Compression, Durability, FormatVersion, Lake, LakeConfig, LakeError,
    PartitionField, Place, SortField, TableOptions, Transform,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::fixtures;

/// What the engines that shall read the tables can take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) version: FormatVersion,
    pub(crate) types: fn() -> Vec<ColumnType>,
}

/// Types all engines read.
pub(crate) fn common_types() -> Vec<ColumnType> {
    vec![
        ColumnType::Boolean,
        ColumnType::Int32,
        ColumnType::Int64,
        ColumnType::Float32,
        ColumnType::Float64,
        ColumnType::Decimal { precision: 9, scale: 2 },
        ColumnType::Decimal { precision: 18, scale: 0 },
        ColumnType::Decimal { precision: 38, scale: 10 },
        ColumnType::Utf8,
        ColumnType::Date,
        ColumnType::TimestampMicros,
        ColumnType::LocalTimestampMicros,
        ColumnType::Fixed(3),
        ColumnType::Binary,
        ColumnType::Uuid,
    ]
}

/// And those some of them do not.
pub(crate) fn all_types() -> Vec<ColumnType> {
    let place = vec![
        Column::nullable("east", ColumnType::Float64),
        Column::required("name", ColumnType::Utf8),
    ];
    let key = Box::new(Column::required("key", ColumnType::Utf8));
    let value = Box::new(Column::nullable("value", ColumnType::Int64));
    let text = Box::new(Column::nullable("element", ColumnType::Utf8));
    let more = [
        ColumnType::Time,
        ColumnType::List(text),
        ColumnType::Struct(place),
        ColumnType::Map(key, value),
    ];
    [common_types(), more.into()].concat()
}

/// One life of a lake.
struct History<'a> {
    rng: StdRng,
    folder: &'a Path,
    lake: Lake,
    limits: Limits,
    position: u64,
    names: u32,
    versions: BTreeMap<TableName, FormatVersion>,
}

/// Leaves a lake in the folder that has lived through `steps` random steps, and everything committed.
pub(crate) async fn live(folder: &Path, seed: u64, steps: usize, limits: Limits) -> Lake {
    let lake = open(folder).await;
    let rng = StdRng::seed_from_u64(seed);
    let mut history =
        History { rng, folder, lake, limits, position: 0, names: 0, versions: BTreeMap::new() };
    let tables = history.tables();
    history.declare(&tables).await;
    for schema in &tables {
        history.change(schema.name(), 200).await;
    }
    history.lake.flush().await.unwrap();
    for _ in 0..steps {
        history = history.step(&tables).await;
    }
    history.lake.publish();
    history.lake.flush().await.unwrap();
    history.lake
}

async fn open(folder: &Path) -> Lake {
    let config = LakeConfig {
        durability: Durability::Process,
        small_file_count: 5,
        delete_file_count: 4,
        keep_snapshots: 3,
        keep_snapshots_micros: 0,
        ..LakeConfig::new(folder, fixtures::clock())
    };
    let lake = Lake::open(config).await.unwrap();
    lake.load_indexes().await.unwrap();
    lake
}

impl History<'_> {
    fn chance(&mut self, of: u32) -> bool {
        self.rng.random_range(0..of) == 0
    }

    /// Tables of every kind of identity, with columns of any types.
    fn tables(&mut self) -> Vec<Arc<TableSchema>> {
        let keyed = |name: &str, key: Vec<Column>, values: Vec<Column>| {
            let names: Vec<String> = key.iter().map(|c| c.name.clone()).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            TableSchema::new(name.parse().unwrap(), [key, values].concat(), &names)
        };
        let keyless = |name: &str, columns: Vec<Column>, identity| {
            TableSchema::keyless(name.parse().unwrap(), columns, identity)
        };
        let tables = [
            keyed("mall.plain", vec![Column::required("id", ColumnType::Int64)], self.columns()),
            keyed(
                "mall.composite",
                vec![
                    Column::required("name", ColumnType::Utf8),
                    Column::required("day", ColumnType::Date),
                ],
                self.columns(),
            ),
            keyless("mall.whole", self.columns(), Identity::FullRow),
            keyless("mall.log", self.columns(), Identity::Append),
        ];
        tables.map(|table| Arc::new(table.unwrap())).into()
    }

    fn columns(&mut self) -> Vec<Column> {
        let mut columns = vec![
            Column::nullable("amount", ColumnType::Int32),
            Column::nullable("渠道", ColumnType::Utf8),
        ];
        for _ in 0..self.rng.random_range(4..10) {
            let column = self.column();
            let required = self.chance(4);
            columns.push(Column { nullable: !required, ..column });
        }
        columns
    }

    fn column(&mut self) -> Column {
        let types = (self.limits.types)();
        let ty = types[self.rng.random_range(0..types.len())].clone();
        self.names += 1;
        Column::nullable(format!("c{}", self.names), ty)
    }

    /// Any layout these columns can have.
    fn layout(&mut self, schema: &TableSchema) -> TableOptions {
        let mut options = TableOptions::default();
        for column in schema.columns() {
            if options.partition.len() < 2 && self.chance(8) {
                let transforms: &[Transform] = match column.ty {
                    ColumnType::Int32 | ColumnType::Int64 => {
                        &[Transform::Bucket(3), Transform::Truncate(500)]
                    }
                    ColumnType::Utf8 => {
                        &[Transform::Identity, Transform::Truncate(4), Transform::Bucket(2)]
                    }
                    ColumnType::Date => &[Transform::Year, Transform::Bucket(3)],
                    ColumnType::TimestampMicros => &[Transform::Year],
                    ColumnType::Boolean => &[Transform::Identity],
                    ColumnType::Decimal { precision: 9, .. } => &[Transform::Bucket(2)],
                    _ => &[],
                };
                if !transforms.is_empty() {
                    let transform = transforms[self.rng.random_range(0..transforms.len())];
                    let column = column.name.clone();
                    options.partition.push(PartitionField { column, transform });
                }
            }
            if !column.ty.is_nested() && self.chance(8) {
                let (descending, nulls_last) = (self.chance(2), self.chance(2));
                let column = column.name.clone();
                options.sort.push(SortField { column, descending, nulls_last });
            }
        }
        if self.chance(2) {
            options.target_file_bytes = 1;
        }
        options.compression = [Compression::Zstd(3), Compression::Snappy, Compression::None]
            [self.rng.random_range(0..3)];
        if self.chance(2) {
            let key = schema.key_indices().iter().map(|&k| schema.columns()[k].name.clone());
            options.bloom_filters.extend(key);
        }
        options
    }

    /// Makes tables or lays them out anew. Of a lake of format v3, each is raised to it sooner or later.
    async fn declare(&mut self, tables: &[Arc<TableSchema>]) {
        let mut declared = Vec::new();
        for schema in tables {
            let stored = self.versions.get(schema.name()).copied();
            let now = if self.chance(2) { self.limits.version } else { FormatVersion::V2 };
            let format_version = stored.map_or(now, |stored| stored.max(now));
            self.versions.insert(schema.name().clone(), format_version);
            declared
                .push((Arc::clone(schema), TableOptions { format_version, ..self.layout(schema) }));
        }
        self.lake.create_tables_with(&declared).await.unwrap();
    }

    fn schema(&self, table: &TableName) -> Arc<TableSchema> {
        let tables = self.lake.read_view().tables();
        tables.into_iter().find(|t| t.schema.name() == table).unwrap().schema
    }

    async fn step(mut self, tables: &[Arc<TableSchema>]) -> Self {
        let table = tables[self.rng.random_range(0..tables.len())].name().clone();
        match self.rng.random_range(0..20) {
            0..8 => self.change(&table, 80).await,
            8..12 => {
                self.lake.flush().await.unwrap();
            }
            12..14 => while !self.lake.maintain().await.unwrap().is_idle() {},
            14..16 => self.alter(&table).await,
            16 => {
                let schema = self.schema(&table);
                self.declare(&[schema]).await;
            }
            17 if self.chance(3) => self.truncate(&table),
            18 => {
                self.lake.expire(&[], 1, 0).await.unwrap();
            }
            19 => {
                self.lake.flush().await.unwrap();
                drop(self.lake);
                self.lake = open(self.folder).await;
            }
            _ => self.change(&table, 5).await,
        }
        self
    }

    /// Inserts, updates (of the key, too) and deletes, published.
    async fn change(&mut self, table: &TableName, most: usize) {
        let schema = self.schema(table);
        let there = self.rows(&schema).await;
        let new = self.rng.random_range(0..=most);
        let picked = match schema.identity() {
            Identity::Append => Vec::new(),
            Identity::Key | Identity::FullRow => {
                let most = most.min(there.num_rows());
                let count = self.rng.random_range(0..=most);
                rand::seq::index::sample(&mut self.rng, there.num_rows(), count).into_vec()
            }
        };
        let fresh = self.batch(&schema, new + picked.len());
        let (mut ops, mut before, mut after) = (Vec::new(), Vec::new(), Vec::new());
        let mut keeps_key = Vec::new();
        for row in 0..new {
            ops.push(Op::Insert);
            before.push(None);
            after.push(Some(row as u64));
            keeps_key.push(None);
        }
        for (at, row) in picked.into_iter().enumerate() {
            let goes = self.chance(3);
            ops.push(if goes { Op::Delete } else { Op::Update });
            before.push(Some(row as u64));
            after.push((!goes).then_some((new + at) as u64));
            keeps_key.push(if !goes && !self.chance(5) { Some(row) } else { None });
        }
        let image = |rows: &RecordBatch, picked: Vec<Option<u64>>| {
            let columns = rows.columns().to_vec();
            let rows = RecordBatch::try_new(Arc::clone(schema.arrow_nullable()), columns).unwrap();
            take_record_batch(&rows, &UInt64Array::from(picked)).unwrap()
        };
        let fresh = with_keys(&schema, &fresh, &there, &keeps_key);
        let batch =
            ChangeBatch::new(Arc::clone(&schema), ops, image(&there, before), image(&fresh, after));
        self.stage(batch.unwrap());
    }

    fn truncate(&mut self, table: &TableName) {
        let schema = self.schema(table);
        let none = RecordBatch::new_empty(Arc::clone(schema.arrow_nullable()));
        let none = take_record_batch(&none, &UInt64Array::from(vec![None])).unwrap();
        let batch = ChangeBatch::new(schema, vec![Op::Truncate], none.clone(), none);
        self.stage(batch.unwrap());
    }

    fn stage(&mut self, batch: ChangeBatch) {
        self.position += 1;
        let position = Position::ChangeId(self.position);
        let changes = ChangeSet {
            batches: vec![batch],
            positions: Positions::from([(SourceId::new("mall"), position)]),
            ..ChangeSet::default()
        };
        self.lake.stage(&changes).unwrap();
        self.lake.publish();
    }

    /// The rows there are.
    async fn rows(&self, schema: &TableSchema) -> RecordBatch {
        let context = SessionContext::new();
        context.register_catalog("medlake", self.lake.read_view().catalog());
        let sql = format!("select * from medlake.{}", schema.name());
        let rows = context.sql(&sql).await.unwrap().collect().await.unwrap();
        // A query may hold texts in another way.
        let rows = rows.iter().map(|batch| {
            let columns = batch.columns().iter().zip(schema.columns());
            let columns = columns.map(|(c, column)| cast(c, &column.ty.arrow()).unwrap());
            RecordBatch::try_new(Arc::clone(schema.arrow()), columns.collect()).unwrap()
        });
        concat_batches(schema.arrow(), &rows.collect::<Vec<_>>()).unwrap()
    }

    /// Adds, drops, renames, moves and widens columns.
    async fn alter(&mut self, table: &TableName) {
        let schema = self.schema(table);
        let options = self.free_columns(&schema);
        let mut alterations = Vec::new();
        if self.chance(2) {
            let mut column = self.column();
            let place = if self.chance(2) { Place::First } else { Place::Last };
            let mut default = None;
            // Spark cannot read the default of a decimal where the file has the column.
            let decimal = matches!(column.ty, ColumnType::Decimal { .. });
            if self.versions[table] == FormatVersion::V3 && !column.ty.is_nested() && !decimal {
                let value =
                    array(&mut self.rng, &Column { nullable: false, ..column.clone() }, 1, false);
                default = ScalarValue::try_from_array(&value, 0).ok();
                column.nullable = self.chance(2);
            }
            alterations.push(Alteration::Add { inside: None, column, default, place });
        }
        if let Some(column) = self.one_of(&options) {
            let path = column.name.as_str().into();
            let wider = match column.ty {
                ColumnType::Int32 => Some(ColumnType::Int64),
                ColumnType::Float32 => Some(ColumnType::Float64),
                ColumnType::Decimal { precision: 9, scale } => {
                    Some(ColumnType::Decimal { precision: 15, scale })
                }
                _ => None,
            };
            alterations.push(match (self.rng.random_range(0..4), wider) {
                (0, _) => Alteration::Drop(path),
                (1, _) => {
                    self.names += 1;
                    Alteration::Rename { column: path, to: format!("r{}", self.names) }
                }
                (2, _) => Alteration::Move { column: path, to: Place::First },
                (_, Some(to)) => Alteration::Widen { column: path, to },
                (_, None) => Alteration::MakeNullable(path),
            });
        }
        // Some columns may not go or change their name: those that tell whole rows apart, or that the
        // table is laid out by.
        let altered = self.lake.alter(table, &alterations).await;
        assert!(matches!(altered, Ok(()) | Err(LakeError::Schema { .. })), "{altered:?}");
    }

    /// The columns that may go: not of the key.
    fn free_columns(&self, schema: &TableSchema) -> Vec<Column> {
        let columns = schema.columns().iter().enumerate();
        columns
            .filter(|(at, c)| !schema.key_indices().contains(at) && c.name.starts_with(['c', 'r']))
            .map(|(_, column)| column.clone())
            .collect()
    }

    fn one_of(&mut self, columns: &[Column]) -> Option<Column> {
        (!columns.is_empty()).then(|| columns[self.rng.random_range(0..columns.len())].clone())
    }

    fn batch(&mut self, schema: &TableSchema, rows: usize) -> RecordBatch {
        let arrays = schema.columns().iter().enumerate().map(|(at, column)| {
            let key = schema.key_indices().contains(&at);
            array(&mut self.rng, column, rows, key)
        });
        RecordBatch::try_new(Arc::clone(schema.arrow()), arrays.collect()).unwrap()
    }
}

/// `fresh` with the key of a row of `there` where one is named.
fn with_keys(
    schema: &TableSchema,
    fresh: &RecordBatch,
    there: &RecordBatch,
    named: &[Option<usize>],
) -> RecordBatch {
    let columns = fresh.columns().iter().enumerate().map(|(at, column)| {
        if !schema.key_indices().contains(&at) {
            return Arc::clone(column);
        }
        let both = concat(&[column.as_ref(), there.column(at).as_ref()]).unwrap();
        let place = |(row, named): (usize, &Option<usize>)| {
            Some(named.map_or(row, |there| fresh.num_rows() + there) as u64)
        };
        let places = UInt64Array::from_iter(named.iter().enumerate().map(place));
        arrow::compute::take(&both, &places, None).unwrap()
    });
    RecordBatch::try_new(fresh.schema(), columns.collect()).unwrap()
}

/// Values of a column: seldom the extremes, often the same, one in four missing where it may be.
fn array(rng: &mut StdRng, column: &Column, rows: usize, key: bool) -> ArrayRef {
    let missing: Vec<bool> =
        (0..rows).map(|_| column.nullable && rng.random_range(0..4) == 0).collect();
    macro_rules! values {
        ($array:ty, $value:expr) => {{
            let values = missing.iter().map(|missing| {
                let value = $value;
                (!missing).then_some(value)
            });
            Arc::new(values.collect::<$array>())
        }};
    }
    let present = || Some(NullBuffer::from_iter(missing.iter().map(|missing| !missing)));
    let number = |rng: &mut StdRng| -> i64 {
        if key { rng.random_range(0..300) } else { rng.random_range(-2_000..2_000) }
    };
    let small = |rng: &mut StdRng| i32::try_from(number(rng)).unwrap();
    let rare = |rng: &mut StdRng| !key && rng.random_range(0..40) == 0;
    let micros = |rng: &mut StdRng| number(rng) * 1_000_000_007_003;
    match &column.ty {
        ColumnType::Boolean => values!(BooleanArray, rng.random_range(0..2) == 0),
        ColumnType::Int32 => values!(Int32Array, {
            if rare(rng) { [i32::MIN, i32::MAX][rng.random_range(0..2)] } else { small(rng) }
        }),
        ColumnType::Int64 => values!(Int64Array, {
            if rare(rng) { [i64::MIN, i64::MAX][rng.random_range(0..2)] } else { number(rng) }
        }),
        ColumnType::Float32 => values!(Float32Array, {
            let rare = [f32::NAN, f32::INFINITY, f32::MIN, -0.0, f32::EPSILON];
            #[expect(clippy::cast_precision_loss, reason = "of a small number, none")]
            let usual = small(rng) as f32 / 8.0;
            if rng.random_range(0..20) == 0 { rare[rng.random_range(0..5)] } else { usual }
        }),
        ColumnType::Float64 => values!(Float64Array, {
            let rare = [f64::NAN, f64::NEG_INFINITY, 1e300, -0.0, 0.1];
            let usual = f64::from(small(rng)) / 8.0;
            if rng.random_range(0..20) == 0 { rare[rng.random_range(0..5)] } else { usual }
        }),
        ColumnType::Decimal { precision, scale } => {
            let most = 10_i128.pow((*precision).into());
            let values: Decimal128Array = missing
                .iter()
                .map(|missing| {
                    let value = if rare(rng) { most - 1 } else { number(rng).into() };
                    (!missing).then_some(value)
                })
                .collect();
            let scale = i8::try_from(*scale).unwrap();
            Arc::new(values.with_precision_and_scale(*precision, scale).unwrap())
        }
        ColumnType::Utf8 => values!(StringArray, {
            let number = number(rng) % 50;
            match rng.random_range(0..12) {
                0 if !key => String::new(),
                1 => format!("{}-{number}", "商城 ".repeat(30)),
                2 => format!("it's \"{number}\" 🛒\\"),
                _ => format!("顾客 {number:03}"),
            }
        }),
        ColumnType::Date => values!(Date32Array, if key { small(rng) % 9 } else { 9 * small(rng) }),
        ColumnType::Time => {
            values!(Time64MicrosecondArray, micros(rng).rem_euclid(86_400_000_000))
        }
        ColumnType::TimestampMicros => {
            let values: TimestampMicrosecondArray =
                missing.iter().map(|missing| (!missing).then(|| micros(rng))).collect();
            Arc::new(values.with_timezone("UTC"))
        }
        ColumnType::LocalTimestampMicros => values!(TimestampMicrosecondArray, micros(rng)),
        ColumnType::Uuid | ColumnType::Fixed(_) => {
            let DataType::FixedSizeBinary(width) = column.ty.arrow() else { panic!("fixed") };
            let bytes = missing.iter().map(|missing| {
                let bytes: Vec<u8> = (0..width).map(|_| rng.random_range(0..=255)).collect();
                (!missing).then_some(bytes)
            });
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(bytes, width).unwrap())
        }
        ColumnType::Binary => values!(BinaryArray, {
            let length = rng.random_range(0..6);
            (0..length).map(|_| rng.random_range(0..=255)).collect::<Vec<u8>>()
        }),
        ColumnType::List(element) => {
            let lengths = lengths(rng, &missing);
            let values = array(rng, element, lengths.iter().sum(), false);
            let offsets = OffsetBuffer::from_lengths(lengths);
            Arc::new(ListArray::new(Arc::new(element.arrow()), offsets, values, present()))
        }
        ColumnType::Struct(fields) => {
            let columns = fields.iter().map(|field| array(rng, field, rows, false)).collect();
            let fields = fields.iter().map(Column::arrow).collect();
            Arc::new(StructArray::new(fields, columns, present()))
        }
        ColumnType::Map(_, value) => {
            let DataType::Map(entries, _) = column.ty.arrow() else { panic!("a map") };
            let DataType::Struct(fields) = entries.data_type() else { panic!("entries") };
            let lengths = lengths(rng, &missing);
            let keys = lengths.iter().flat_map(|length| (0..*length).map(|n| format!("k{n}")));
            let keys: ArrayRef = Arc::new(StringArray::from(keys.collect::<Vec<String>>()));
            let values = array(rng, value, lengths.iter().sum(), false);
            let pairs = StructArray::new(fields.clone(), vec![keys, values], None);
            let offsets = OffsetBuffer::from_lengths(lengths);
            Arc::new(MapArray::new(entries, offsets, pairs, present(), false))
        }
        ty => panic!("a column of type {ty:?}"),
    }
}

/// How many parts each nested value has.
fn lengths(rng: &mut StdRng, missing: &[bool]) -> Vec<usize> {
    missing.iter().map(|missing| if *missing { 0 } else { rng.random_range(0..4) }).collect()
}
