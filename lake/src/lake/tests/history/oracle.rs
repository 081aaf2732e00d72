//! What the tables hold, kept in memory: rows by key, values by columns that change.

use rand::{RngExt, rngs::StdRng};

use super::super::*;
use crate::{Alteration, FormatVersion, PartitionField, Place, SortField, TableOptions, Transform};

/// The columns of a table from one change of them to the next.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    pub(super) schema: Arc<TableSchema>,
    /// A number for each column, which it keeps whatever it is called and wherever it stands.
    numbers: Vec<u32>,
    /// What rows have that were there before a column came with a default, by its number.
    defaults: BTreeMap<u32, ScalarValue>,
}

/// A row: values by the numbers of their columns, also of columns that are there no more.
type Values = BTreeMap<u32, ScalarValue>;

impl Columns {
    fn value(&self, at: usize, row: &Values) -> ScalarValue {
        let (number, ty) = (self.numbers[at], self.schema.columns()[at].ty.arrow());
        match row.get(&number).or_else(|| self.defaults.get(&number)) {
            None => ScalarValue::try_from(&ty).unwrap(),
            // The column may be wider by now.
            Some(value) => value.cast_to(&ty).unwrap(),
        }
    }

    pub(super) fn row(&self, row: &Values) -> Row {
        (0..self.numbers.len()).map(|at| self.value(at, row)).collect()
    }

    fn key_of(&self, row: &Values) -> String {
        self.schema.key_indices().iter().map(|&k| format!("{:?}|", self.value(k, row))).collect()
    }

    fn is_key(&self, at: usize) -> bool {
        self.schema.key_indices().contains(&at)
    }

    fn random_row(&self, rng: &mut StdRng) -> Values {
        let columns = self.schema.columns().iter().enumerate();
        columns.map(|(at, c)| (self.numbers[at], random_value(rng, c, self.is_key(at)))).collect()
    }
}

/// The rows of a table at one time, and the columns they are shown with.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) columns: Arc<Columns>,
    rows: BTreeMap<String, Values>,
}

impl Model {
    pub(super) fn new(schema: &Arc<TableSchema>) -> Self {
        let numbers = (0..).take(schema.columns().len()).collect();
        let columns =
            Columns { schema: Arc::clone(schema), numbers, defaults: BTreeMap::default() };
        Self { columns: Arc::new(columns), rows: BTreeMap::new() }
    }

    /// One line a row, sorted.
    fn lines(&self) -> Vec<String> {
        let rows = self.rows.values().map(|row| Some(self.columns.row(row))).collect();
        lines(&[image(&self.columns.schema, rows)])
    }

    /// The same rows with other columns.
    pub(super) fn with(&self, columns: &Arc<Columns>) -> Self {
        Self { columns: Arc::clone(columns), rows: self.rows.clone() }
    }

    fn any(&self, rng: &mut StdRng) -> Option<Values> {
        let at = rng.random_range(0..self.rows.len().max(1));
        self.rows.values().nth(at).cloned()
    }

    /// Some changes, applied here as they are made.
    pub(super) fn random_changes(&mut self, rng: &mut StdRng) -> ChangeBatch {
        let columns = Arc::clone(&self.columns);
        let mut changes = Vec::new();
        for _ in 0..rng.random_range(0..25) {
            let mut after = columns.random_row(rng);
            if rng.random_range(0..80) == 0 {
                self.rows.clear();
                changes.push((Op::Truncate, None, None));
            }
            match rng.random_range(0..10) {
                0..4 => {
                    changes.push((Op::Insert, None, Some(columns.row(&after))));
                    self.rows.insert(columns.key_of(&after), after);
                }
                4..8 => {
                    let before = self.any(rng).unwrap_or_else(|| columns.random_row(rng));
                    if rng.random_range(0..5) > 0 {
                        for &k in columns.schema.key_indices() {
                            after.insert(columns.numbers[k], columns.value(k, &before));
                        }
                    }
                    let (old, new) = (columns.row(&before), columns.row(&after));
                    changes.push((Op::Update, Some(old), Some(new)));
                    self.rows.remove(&columns.key_of(&before));
                    self.rows.insert(columns.key_of(&after), after);
                }
                _ => {
                    let before = self.any(rng).unwrap_or_else(|| columns.random_row(rng));
                    changes.push((Op::Delete, Some(columns.row(&before)), None));
                    self.rows.remove(&columns.key_of(&before));
                }
            }
        }
        batch(&columns.schema, changes)
    }
}

pub(super) type Models = BTreeMap<TableName, Model>;

/// What a view holds is what the models say.
pub(super) async fn check(view: &ReadView, models: &Models, note: &str) {
    for (name, model) in models {
        let expected = model.lines();
        let info = view.tables().into_iter().find(|t| t.schema.name() == name);
        let info = info.unwrap_or_else(|| panic!("no {name}, {note}: {:?}", view.left_out()));
        assert_eq!(info.schema, model.columns.schema, "columns of {name} {note}");
        assert_eq!(info.row_count, expected.len() as u64, "row count of {name} {note}");
        assert_eq!(rows(view, &name.to_string()).await, expected, "{name} {note}");
        let count = query(view, &format!("select count(*) from medlake.{name}")).await;
        assert_eq!(count, [expected.len().to_string()], "count of {name} {note}");
    }
}

pub(super) fn model_tables() -> Vec<Arc<TableSchema>> {
    let values = || {
        vec![
            Column::nullable("text", ColumnType::Utf8),
            Column::nullable("ratio", ColumnType::Float64),
            Column::nullable("flag", ColumnType::Boolean),
            Column::nullable("day", ColumnType::Date),
            Column::nullable("moment", ColumnType::TimestampMicros),
            Column::nullable("bytes", ColumnType::Binary),
            Column::nullable("small", ColumnType::Int32),
        ]
    };
    let with = |key: Vec<Column>| [key, values()].concat();
    vec![
        table("mall.plain", with(vec![Column::required("id", ColumnType::Int64)]), &["id"]),
        table(
            "mall.composite",
            with(vec![
                Column::required("b", ColumnType::Utf8),
                Column::required("a", ColumnType::Date),
            ]),
            &["a", "b"],
        ),
        table("marts.text", with(vec![Column::required("name", ColumnType::Utf8)]), &["name"]),
    ]
}

/// Any way to lay a table out: by partitions of several kinds, in an order, in files of one batch.
pub(super) fn random_layout(rng: &mut StdRng, schema: &TableSchema) -> TableOptions {
    let mut options = TableOptions::default();
    let of_types = |rng: &mut StdRng, types: &[ColumnType]| {
        let columns = schema.columns().iter().filter(|c| types.contains(&c.ty));
        let columns: Vec<&Column> = columns.collect();
        columns.get(rng.random_range(0..columns.len().max(1))).map(|c| (*c).clone())
    };
    if rng.random_range(0..2) == 0 {
        for _ in 0..rng.random_range(1..3) {
            let partitioned = [
                ColumnType::Utf8,
                ColumnType::Date,
                ColumnType::TimestampMicros,
                ColumnType::Int32,
                ColumnType::Boolean,
            ];
            let Some(Column { name: column, ty, .. }) = of_types(rng, &partitioned) else {
                continue;
            };
            let transform = match ty {
                ColumnType::Utf8 if rng.random_range(0..2) == 0 => Transform::Truncate(4),
                ColumnType::Date => Transform::Year,
                ColumnType::TimestampMicros => Transform::Hour,
                ColumnType::Int32 => Transform::Bucket(3),
                _ => Transform::Identity,
            };
            if options.partition.iter().all(|p| p.column != column) {
                options.partition.push(PartitionField { column, transform });
            }
        }
    }
    if rng.random_range(0..2) == 0 {
        let descending = rng.random_range(0..2) == 0;
        for ty in [ColumnType::Float64, ColumnType::TimestampMicros] {
            if let Some(column) = of_types(rng, &[ty]) {
                options.sort.push(SortField { descending, ..SortField::ascending(&column.name) });
            }
        }
    }
    if rng.random_range(0..2) == 0 {
        options.target_file_bytes = 1;
    }
    options
}

fn random_value(rng: &mut StdRng, column: &Column, key: bool) -> ScalarValue {
    if !key && column.nullable && rng.random_range(0..4) == 0 {
        return ScalarValue::try_from(&column.ty.arrow()).unwrap();
    }
    let number: i64 = if key { rng.random_range(0..60) } else { rng.random_range(-1000..1000) };
    let small = i32::try_from(number).unwrap();
    match column.ty {
        ColumnType::Boolean => ScalarValue::Boolean(Some(number > 0)),
        ColumnType::Int32 => ScalarValue::Int32(Some(small)),
        ColumnType::Int64 => ScalarValue::Int64(Some(number)),
        ColumnType::Float64 if number == 7 => ScalarValue::Float64(Some(f64::NAN)),
        ColumnType::Float64 => ScalarValue::Float64(Some(f64::from(small) / 8.0)),
        ColumnType::Float32 => {
            ScalarValue::Float32(Some(f32::from(i16::try_from(small).unwrap()) / 4.0))
        }
        ColumnType::Decimal { precision, scale } => {
            ScalarValue::Decimal128(Some(number.into()), precision, scale.try_into().unwrap())
        }
        ColumnType::Utf8 => ScalarValue::Utf8(Some(format!("顾客 {:03}", number % 10))),
        ColumnType::Date => ScalarValue::Date32(Some(if key { small % 8 } else { small })),
        ColumnType::TimestampMicros => {
            ScalarValue::TimestampMicrosecond(Some(number * 1_000_003), Some("UTC".into()))
        }
        ColumnType::Binary => ScalarValue::Binary(Some(number.to_be_bytes().to_vec())),
        _ => unreachable!(),
    }
}

/// Some changes of the columns, and the columns after them. `fresh` counts the columns there ever
/// were; new names are made of it.
pub(super) fn random_alterations(
    rng: &mut StdRng,
    columns: &Columns,
    format: FormatVersion,
    fresh: &mut u32,
) -> (Vec<Alteration>, Columns) {
    let mut fields = columns.schema.columns().to_vec();
    let mut numbers = columns.numbers.clone();
    let mut defaults = columns.defaults.clone();
    let key: Vec<u32> = columns.schema.key_indices().iter().map(|&k| numbers[k]).collect();
    let mut alterations = Vec::new();
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..fields.len());
        let name = fields[at].name.clone();
        let of_key = key.contains(&numbers[at]);
        match rng.random_range(0..6) {
            0 | 1 => {
                *fresh += 1;
                let types = [
                    ColumnType::Utf8,
                    ColumnType::Int32,
                    ColumnType::Float32,
                    ColumnType::Date,
                    ColumnType::Decimal { precision: 7, scale: 2 },
                ];
                let ty = types[rng.random_range(0..types.len())].clone();
                let mut column = Column::nullable(format!("added_{fresh}"), ty);
                let mut default = None;
                if format == FormatVersion::V3 && rng.random_range(0..2) == 0 {
                    // Never null, which a required column cannot be.
                    default = Some(random_value(rng, &column, true));
                    column.nullable = rng.random_range(0..2) == 0;
                }
                let number = 1_000 + *fresh;
                if let Some(default) = &default {
                    defaults.insert(number, default.clone());
                }
                let (at, place) = match rng.random_range(0..4) {
                    0 => (0, Place::First),
                    1 => (at, Place::Before(name)),
                    2 => (at + 1, Place::After(name)),
                    _ => (fields.len(), Place::Last),
                };
                fields.insert(at, column.clone());
                numbers.insert(at, number);
                alterations.push(Alteration::Add { inside: None, column, default, place });
            }
            2 if !of_key => {
                fields.remove(at);
                numbers.remove(at);
                alterations.push(Alteration::Drop(name.as_str().into()));
            }
            3 => {
                *fresh += 1;
                fields[at].name = format!("renamed_{fresh}");
                let (column, to) = (name.as_str().into(), fields[at].name.clone());
                alterations.push(Alteration::Rename { column, to });
            }
            4 => {
                let (field, number) = (fields.remove(at), numbers.remove(at));
                let to = rng.random_range(0..fields.len());
                let place = Place::Before(fields[to].name.clone());
                fields.insert(to, field);
                numbers.insert(to, number);
                let column = name.as_str().into();
                alterations.push(Alteration::Move { column, to: place });
            }
            5 if !of_key => {
                let wider = match fields[at].ty {
                    ColumnType::Int32 => ColumnType::Int64,
                    ColumnType::Float32 => ColumnType::Float64,
                    ColumnType::Decimal { precision, scale } => {
                        ColumnType::Decimal { precision: precision + 5, scale }
                    }
                    _ => continue,
                };
                fields[at].ty = wider.clone();
                alterations.push(Alteration::Widen { column: name.as_str().into(), to: wider });
            }
            _ => {}
        }
    }
    let names: Vec<String> = key
        .iter()
        .map(|k| fields[numbers.iter().position(|n| n == k).unwrap()].name.clone())
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let schema = table(&columns.schema.name().to_string(), fields, &names);
    (alterations, Columns { schema, numbers, defaults })
}
