//! What is known of files without reading them: for join order, and to leave files out.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanArray, UInt64Array},
    compute::cast,
    datatypes::SchemaRef,
};
use datafusion::{
    common::{Column, Statistics, pruning::PruningStatistics, stats::Precision},
    physical_expr::PhysicalExpr,
    physical_optimizer::pruning::PruningPredicateBuilder,
    scalar::ScalarValue,
};

use parquet::{
    arrow::{
        arrow_reader::{ArrowReaderMetadata, statistics::StatisticsConverter},
        parquet_column,
    },
    file::metadata::RowGroupMetaData,
};

use crate::{
    format::data_file::{Bounds, LakeFile},
    table::segment::{FileRows, Segment},
};

/// Which files a predicate leaves; none when it cannot be used.
pub(crate) fn prune_files(
    predicate: &Arc<dyn PhysicalExpr>,
    files: &FileStatistics<'_>,
) -> Option<Vec<bool>> {
    PruningPredicateBuilder::new()
        .with_file_schema(Arc::clone(files.schema))
        .build(Arc::clone(predicate))
        // One that fails rules nothing out.
        .and_then(|predicate| predicate.prune(files).ok())
}

/// What is known of all living rows of these files and of those in memory. Row counts are exact.
/// Bounds are of all rows in files, dead ones too, and texts may be shortened: exact are only those
/// of whole numbers and times in files without dead rows, when no rows are in memory.
pub(crate) fn statistics(
    files: &[(&Segment, &FileRows)],
    hot: &[&Segment],
    schema: &SchemaRef,
) -> Statistics {
    let mut statistics = Statistics::new_unknown(schema);
    let hot_rows: u64 = hot.iter().map(|s| s.live_rows()).sum();
    let rows: u64 = files.iter().map(|(s, _)| s.live_rows()).sum::<u64>() + hot_rows;
    let bytes: u64 = files.iter().map(|(_, f)| f.file.bytes).sum();
    statistics.num_rows = exact(rows);
    statistics.total_byte_size = exact(bytes).to_inexact();
    let partly = hot_rows > 0 || files.iter().any(|(s, _)| !s.dead.is_empty());
    for (field, known) in schema.fields().iter().zip(&mut statistics.column_statistics) {
        let bounds: Vec<Bounds> =
            files.iter().map(|(_, f)| bounds_of(&f.file, field.name())).collect();
        let nulls: Option<u64> = bounds.iter().map(|b| b.nulls).sum();
        if let Some(nulls) = nulls {
            known.null_count = exact(nulls);
            if partly {
                known.null_count = known.null_count.to_inexact();
            }
        }
        let wanted = |b: &&Bounds, rows: u64| b.nulls != Some(rows);
        let with_rows = || {
            bounds
                .iter()
                .zip(files)
                .filter(move |(b, (_, f))| wanted(b, u64::from(f.file.rows)))
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

/// What is known of a column; one the file does not have is null in every row.
fn bounds_of(file: &LakeFile, column: &str) -> Bounds {
    file.bounds
        .get(column)
        .cloned()
        .unwrap_or_else(|| Bounds { nulls: Some(u64::from(file.rows)), ..Bounds::default() })
}

/// Bounds of whole files, for pruning.
pub(crate) struct FileStatistics<'a> {
    pub(crate) files: &'a [(&'a Segment, &'a FileRows)],
    pub(crate) schema: &'a SchemaRef,
}

impl FileStatistics<'_> {
    fn values(&self, column: &Column, pick: fn(Bounds) -> Option<ScalarValue>) -> Option<ArrayRef> {
        let field = self.schema.field_with_name(&column.name).ok()?;
        let null = ScalarValue::try_from(field.data_type()).ok()?;
        let values = self
            .files
            .iter()
            .map(|(_, f)| pick(bounds_of(&f.file, &column.name)).unwrap_or_else(|| null.clone()));
        ScalarValue::iter_to_array(values).ok()
    }
}

impl PruningStatistics for FileStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(column, |b| b.min)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(column, |b| b.max)
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let counts = self.files.iter().map(|(_, f)| bounds_of(&f.file, &column.name).nulls);
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let counts = self.files.iter().map(|(_, f)| Some(u64::from(f.file.rows)));
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn contained(
        &self,
        _column: &Column,
        _values: &std::collections::HashSet<ScalarValue>,
    ) -> Option<BooleanArray> {
        None
    }
}

/// Bounds of one row group, for pruning.
pub(crate) struct GroupStatistics<'a> {
    pub(crate) file: &'a LakeFile,
    pub(crate) metadata: &'a ArrowReaderMetadata,
    pub(crate) group: &'a RowGroupMetaData,
    pub(crate) table: &'a SchemaRef,
}

impl GroupStatistics<'_> {
    fn rows(&self) -> u64 {
        self.group.num_rows().unsigned_abs()
    }

    fn has(&self, column: &str) -> bool {
        self.metadata.schema().column_with_name(column).is_some()
    }

    /// Bounds do not speak of NaN, so they count only where the file as a whole is known to have
    /// none: then it has bounds of its own.
    fn converter(&self, column: &str) -> Option<StatisticsConverter<'_>> {
        let (file, parquet) = (self.metadata.schema(), self.metadata.parquet_schema());
        let field = file.field_with_name(column).ok()?;
        if field.data_type().is_floating() && bounds_of(self.file, column).min.is_none() {
            return None;
        }
        let (leaf, _) = parquet_column(parquet, file, column)?;
        StatisticsConverter::from_column_index(leaf, field, parquet).ok()
    }

    fn values(
        &self,
        column: &str,
        pick: fn(&StatisticsConverter<'_>, &RowGroupMetaData) -> Option<ArrayRef>,
    ) -> Option<ArrayRef> {
        let ty = self.table.field_with_name(column).ok()?.data_type();
        let values = pick(&self.converter(column)?, self.group)?;
        if values.data_type() == ty { Some(values) } else { cast(&values, ty).ok() }
    }

    fn min(&self, column: &str) -> Option<ArrayRef> {
        self.values(column, |c, group| c.row_group_mins([group]).ok())
    }

    fn max(&self, column: &str) -> Option<ArrayRef> {
        self.values(column, |c, group| c.row_group_maxes([group]).ok())
    }

    /// The least and the greatest value of the table's column in this place, where known.
    pub(crate) fn bounds(&self, column: usize) -> (Option<ScalarValue>, Option<ScalarValue>) {
        let name = self.table.field(column).name();
        let first = |values: Option<ArrayRef>| {
            ScalarValue::try_from_array(&values?, 0).ok().filter(|value| !value.is_null())
        };
        (first(self.min(name)), first(self.max(name)))
    }
}

impl PruningStatistics for GroupStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.min(&column.name)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.max(&column.name)
    }

    fn num_containers(&self) -> usize {
        1
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        if !self.has(&column.name) {
            return Some(Arc::new(UInt64Array::from(vec![self.rows()])));
        }
        let converter = self.converter(&column.name)?.with_missing_null_counts_as_zero(false);
        Some(Arc::new(converter.row_group_null_counts([self.group]).ok()?))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(UInt64Array::from(vec![self.rows()])))
    }

    fn contained(
        &self,
        _column: &Column,
        _values: &std::collections::HashSet<ScalarValue>,
    ) -> Option<BooleanArray> {
        None
    }
}
