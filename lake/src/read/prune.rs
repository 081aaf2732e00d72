//! What is known of files without reading them: for join order, and to leave files out.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanArray, UInt64Array},
    datatypes::SchemaRef,
};
use datafusion::{
    common::{Column, Statistics, pruning::PruningStatistics, stats::Precision},
    scalar::ScalarValue,
};

use crate::{
    format::data_file::{Bounds, LakeFile},
    table::segment::{FileRows, Segment},
};

/// What is known of all living rows of these files together. Row counts are exact; bounds are of
/// all rows, dead ones too, and may be shortened, so they are never exact.
pub(crate) fn statistics(files: &[(&Segment, &FileRows)], schema: &SchemaRef) -> Statistics {
    let mut statistics = Statistics::new_unknown(schema);
    let rows: u64 = files.iter().map(|(s, _)| s.live_rows()).sum();
    let bytes: u64 = files.iter().map(|(_, f)| f.file.bytes).sum();
    statistics.num_rows = exact(rows);
    statistics.total_byte_size = exact(bytes).to_inexact();
    let any_dead = files.iter().any(|(s, _)| !s.dead.is_empty());
    for (field, known) in schema.fields().iter().zip(&mut statistics.column_statistics) {
        let bounds: Vec<Bounds> =
            files.iter().map(|(_, f)| bounds_of(&f.file, field.name())).collect();
        let nulls: Option<u64> = bounds.iter().map(|b| b.nulls).sum();
        if let Some(nulls) = nulls {
            known.null_count = exact(nulls);
            if any_dead {
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
        if let Some(min) = fold(|b| b.min.as_ref(), true) {
            known.min_value = Precision::Inexact(min);
        }
        if let Some(max) = fold(|b| b.max.as_ref(), false) {
            known.max_value = Precision::Inexact(max);
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
