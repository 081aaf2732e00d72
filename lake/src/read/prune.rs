//! What is known of files without reading them: for join order, and to leave files out.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, BooleanArray, UInt64Array, UInt64Builder},
    compute::cast,
    datatypes::{DataType, Field},
};
use datafusion::{
    common::{Column, Statistics, pruning::PruningStatistics, stats::Precision},
    physical_expr::PhysicalExpr,
    physical_optimizer::pruning::PruningPredicateBuilder,
    scalar::ScalarValue,
};

use parquet::{
    arrow::arrow_reader::{ArrowReaderMetadata, statistics::StatisticsConverter},
    file::{metadata::RowGroupMetaData, statistics::Statistics as ChunkStatistics},
};

use crate::{
    format::{
        adapt::{Adapter, Origin},
        bounds::Bounds,
        data_file::LakeFile,
        schema::Shape,
    },
    read::partition,
    table::segment::{FileRows, Segment},
};

/// Which files a predicate leaves; none when it cannot be used.
pub(crate) fn prune_files(
    predicate: &Arc<dyn PhysicalExpr>,
    files: &FileStatistics<'_>,
) -> Option<Vec<bool>> {
    PruningPredicateBuilder::new()
        .with_file_schema(Arc::clone(files.shape.scanned()))
        .build(Arc::clone(predicate))
        // One that fails rules nothing out.
        .and_then(|predicate| predicate.prune(files).ok())
}

/// What is known of all living rows of these files and of those in memory. Row counts are exact.
/// Bounds are of all rows in files, dead ones too, and texts may be shortened: exact are only those
/// of whole numbers and times in files without dead rows, when no rows are in memory. Of columns not
/// in `wanted`, places in the table's, nothing is said: with many files it takes a while to find out.
pub(crate) fn statistics(
    files: &[(&Segment, &FileRows)],
    hot: &[&Segment],
    shape: &Shape,
    wanted: &BTreeSet<usize>,
) -> Statistics {
    let schema = shape.scanned();
    let mut statistics = Statistics::new_unknown(schema);
    let hot_rows: u64 = hot.iter().map(|s| s.live_rows()).sum();
    let rows: u64 = files.iter().map(|(s, _)| s.live_rows()).sum::<u64>() + hot_rows;
    let bytes: u64 = files.iter().map(|(_, f)| f.file.bytes).sum();
    statistics.num_rows = exact(rows);
    statistics.total_byte_size = exact(bytes).to_inexact();
    let partly = hot_rows > 0 || files.iter().any(|(s, _)| !s.dead.is_empty());
    let columns = schema.fields().iter().zip(&mut statistics.column_statistics);
    for (at, (field, known)) in columns.enumerate().filter(|(at, _)| wanted.contains(at)) {
        let bounds: Vec<Bounds> =
            files.iter().map(|(_, f)| bounds_of(&f.file, shape, at)).collect();
        let nulls: Option<u64> = bounds.iter().map(|b| b.nulls).sum();
        if let Some(nulls) = nulls {
            known.null_count = exact(nulls);
            if partly {
                known.null_count = known.null_count.to_inexact();
            }
        }
        let has_values = |b: &&Bounds, rows: u64| b.nulls != Some(rows);
        let with_rows = || {
            bounds
                .iter()
                .zip(files)
                .filter(move |(b, (_, f))| has_values(b, u64::from(f.file.rows)))
                .map(|(b, _)| b)
        };
        let fold = |pick: fn(&Bounds) -> Option<&ScalarValue>, less: bool| {
            let mut best: Option<ScalarValue> = None;
            for bound in with_rows() {
                let value = pick(bound)?;
                if best.as_ref().is_none_or(|b| (value < b) == less) {
                    best = Some(value.clone());
                }
            }
            best
        };
        let ty = field.data_type();
        let tight = !partly && (ty.is_integer() || ty.is_temporal());
        let bound = |value| if tight { Precision::Exact(value) } else { Precision::Inexact(value) };
        if let Some(min) = fold(|b| b.min.as_ref(), true) {
            known.min_value = bound(min);
        }
        if let Some(max) = fold(|b| b.max.as_ref(), false) {
            known.max_value = bound(max);
        }
    }
    statistics
}

fn exact(count: u64) -> Precision<usize> {
    usize::try_from(count).map_or(Precision::Absent, Precision::Exact)
}

/// What is known of the column in this place of the table: what the manifest says, or else what the
/// file's partition does.
pub(crate) fn bounds_of(file: &LakeFile, shape: &Shape, at: usize) -> Bounds {
    let (Some(field), Some(column)) = (shape.fields().get(at), shape.schema().columns().get(at))
    else {
        return Bounds::default();
    };
    let of_file = file.bounds.of_column(field, &column.ty);
    of_file.or(|| partition::values(file, field.id, &column.ty)).map(scanned)
}

/// As [`bounds_of`], but the least and the greatest value need not occur.
fn limits_of(file: &LakeFile, shape: &Shape, at: usize) -> Bounds {
    let column = || Some((shape.fields().get(at)?.id, &shape.schema().columns().get(at)?.ty));
    let limits =
        || column().map_or_else(Bounds::default, |(id, ty)| partition::limits(file, id, ty));
    bounds_of(file, shape, at).or(|| limits().map(scanned))
}

/// A value in the type queries get it in.
fn scanned(value: ScalarValue) -> ScalarValue {
    match value {
        ScalarValue::Utf8(text) => ScalarValue::Utf8View(text),
        ScalarValue::Binary(bytes) => ScalarValue::BinaryView(bytes),
        value => value,
    }
}

fn place_of(shape: &Shape, column: &Column) -> Option<usize> {
    shape.scanned().column_with_name(&column.name).map(|(at, _)| at)
}

/// Bounds of whole files, for pruning.
pub(crate) struct FileStatistics<'a> {
    files: &'a [(&'a Segment, &'a FileRows)],
    shape: &'a Shape,
    /// By place in the table's columns, as they were asked for: with many files the work is in this.
    known: RefCell<BTreeMap<usize, ColumnBounds>>,
}

/// Bounds of one column, a value for each file.
#[derive(Clone)]
struct ColumnBounds {
    min: Option<ArrayRef>,
    max: Option<ArrayRef>,
    nulls: ArrayRef,
}

impl<'a> FileStatistics<'a> {
    pub(crate) fn new(files: &'a [(&'a Segment, &'a FileRows)], shape: &'a Shape) -> Self {
        Self { files, shape, known: RefCell::default() }
    }

    fn bounds(&self, column: &Column) -> Option<ColumnBounds> {
        let at = place_of(self.shape, column)?;
        if let Some(known) = self.known.borrow().get(&at) {
            return Some(known.clone());
        }
        let null = ScalarValue::try_from(self.shape.scanned().field(at).data_type()).ok()?;
        let (mut min, mut max) = (Vec::new(), Vec::new());
        let mut nulls = UInt64Builder::new();
        for (_, file) in self.files {
            let bounds = limits_of(&file.file, self.shape, at);
            min.push(bounds.min.unwrap_or_else(|| null.clone()));
            max.push(bounds.max.unwrap_or_else(|| null.clone()));
            nulls.append_option(bounds.nulls);
        }
        let values = |values| ScalarValue::iter_to_array(values).ok();
        let (min, max) = (values(min), values(max));
        let known = ColumnBounds { min, max, nulls: Arc::new(nulls.finish()) };
        self.known.borrow_mut().insert(at, known.clone());
        Some(known)
    }
}

impl PruningStatistics for FileStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column)?.min
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column)?.max
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        Some(self.bounds(column)?.nulls)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let counts = self.files.iter().map(|(_, f)| Some(u64::from(f.file.rows)));
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn contained(&self, column: &Column, values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        let at = place_of(self.shape, column)?;
        let (field, column) =
            (self.shape.fields().get(at)?, self.shape.schema().columns().get(at)?);
        let files = self.files.iter().map(|(_, f)| &*f.file);
        partition::ruled_out(files, field.id, &column.ty, values)
    }
}

/// Bounds of one row group, for pruning.
pub(crate) struct GroupStatistics<'a> {
    pub(crate) file: &'a LakeFile,
    pub(crate) metadata: &'a ArrowReaderMetadata,
    pub(crate) group: &'a RowGroupMetaData,
    pub(crate) shape: &'a Shape,
}

impl GroupStatistics<'_> {
    fn rows(&self) -> u64 {
        self.group.num_rows().unsigned_abs()
    }

    /// Where the file has the column; none when it cannot be read at all.
    fn origin(&self, at: usize) -> Option<Origin> {
        let file = self.metadata.schema();
        let adapter =
            Adapter::new(self.shape, self.shape.scanned(), &[at], file, &self.file.constants)
                .ok()?;
        adapter.origin(0).cloned()
    }

    /// Bounds do not speak of NaN, so they count only where the file as a whole is known to have
    /// none: then it has bounds of its own.
    fn converted(
        &self,
        at: usize,
        pick: impl Fn(&StatisticsConverter<'_>) -> Option<ArrayRef>,
    ) -> Option<ArrayRef> {
        match self.origin(at)? {
            Origin::Nested => None,
            Origin::Constant(value) => value.to_array().ok(),
            Origin::Leaf { ty, .. }
                if ty.is_floating() && bounds_of(self.file, self.shape, at).min.is_none() =>
            {
                None
            }
            Origin::Leaf { leaf, ty, .. } => {
                let field = Field::new("", ty, true);
                let parquet = self.metadata.parquet_schema();
                pick(&StatisticsConverter::from_column_index(leaf, &field, parquet).ok()?)
            }
        }
    }

    /// Which of the file's leaves speaks of the column, and in which type: the table's when `same`.
    pub(crate) fn leaf(&self, column: &Column) -> Option<(usize, DataType, bool)> {
        let at = place_of(self.shape, column)?;
        let Origin::Leaf { leaf, ty, same } = self.origin(at)? else { return None };
        Some((leaf, ty, same))
    }

    /// As [`Self::leaf`], when its bounds speak of all values.
    pub(crate) fn bounded_leaf(&self, column: &Column) -> Option<(usize, DataType)> {
        let (leaf, ty, _) = self.leaf(column)?;
        let at = place_of(self.shape, column)?;
        let whole = !ty.is_floating() || bounds_of(self.file, self.shape, at).min.is_some();
        whole.then_some((leaf, ty))
    }

    fn values(
        &self,
        at: usize,
        pick: impl Fn(&StatisticsConverter<'_>) -> Option<ArrayRef>,
    ) -> Option<ArrayRef> {
        let ty = self.shape.scanned().field(at).data_type();
        let values = self.converted(at, pick)?;
        if values.data_type() == ty { Some(values) } else { cast(&values, ty).ok() }
    }

    fn min(&self, at: usize) -> Option<ArrayRef> {
        self.values(at, |c| c.row_group_mins([self.group]).ok())
    }

    fn max(&self, at: usize) -> Option<ArrayRef> {
        self.values(at, |c| c.row_group_maxes([self.group]).ok())
    }

    /// The least and the greatest value of the table's column in this place, where known.
    pub(crate) fn bounds(&self, column: usize) -> (Option<ScalarValue>, Option<ScalarValue>) {
        let first = |values: Option<ArrayRef>| {
            ScalarValue::try_from_array(&values?, 0).ok().filter(|value| !value.is_null())
        };
        (first(self.min(column)), first(self.max(column)))
    }
}

impl PruningStatistics for GroupStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.min(place_of(self.shape, column)?)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.max(place_of(self.shape, column)?)
    }

    fn num_containers(&self) -> usize {
        1
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let at = place_of(self.shape, column)?;
        match self.origin(at)? {
            Origin::Nested => None,
            Origin::Constant(value) => {
                let nulls = if value.is_null() { self.rows() } else { 0 };
                Some(Arc::new(UInt64Array::from(vec![nulls])))
            }
            Origin::Leaf { leaf, .. } => {
                let statistics = self.group.column(leaf).statistics();
                let nulls = statistics.and_then(ChunkStatistics::null_count_opt);
                Some(Arc::new(UInt64Array::from(vec![nulls])))
            }
        }
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(UInt64Array::from(vec![self.rows()])))
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

#[cfg(test)]
mod tests;
