//! What can be ruled out inside a row group before it is read: pages, by the page index, and the
//! whole group, by Bloom filters.

use std::{collections::HashSet, ops::Range, sync::Arc};

use arrow::{
    array::{ArrayRef, BooleanArray, BooleanBufferBuilder, UInt64Array},
    buffer::BooleanBuffer,
    compute::cast,
    datatypes::{Field, SchemaRef},
};
use datafusion::{
    common::{Column, pruning::PruningStatistics},
    datasource::physical_plan::parquet::BloomFilterStatistics,
    physical_expr::{PhysicalExpr, split_conjunction, utils::collect_columns},
    physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder},
    scalar::ScalarValue,
};
use parquet::{
    arrow::{
        arrow_reader::{RowSelection, statistics::StatisticsConverter},
        async_reader::AsyncFileReader,
    },
    bloom_filter::Sbbf,
};

use crate::{
    format::schema::Shape,
    read::scan::work::{Group, ruled_out},
};

/// Rows of a row group, by number within it, in order.
pub(super) type Rows = Vec<Range<usize>>;

/// A condition on one column.
#[derive(Debug)]
pub(super) struct ColumnCondition {
    column: Column,
    pruning: Arc<PruningPredicate>,
}

/// The parts of these filters that are of one column each and can rule out pages.
pub(super) fn column_conditions(
    filters: &[Arc<dyn PhysicalExpr>],
    table: &SchemaRef,
) -> Vec<ColumnCondition> {
    filters
        .iter()
        .flat_map(split_conjunction)
        .filter_map(|part| {
            let columns = collect_columns(part);
            let mut names: Vec<&str> = columns.iter().map(|column| column.name()).collect();
            let column = Column::from_name(names.pop().filter(|_| names.is_empty())?);
            let pruning = PruningPredicateBuilder::new()
                .with_file_schema(Arc::clone(table))
                .build(Arc::clone(part))?;
            (!pruning.always_true()).then_some(ColumnCondition { column, pruning })
        })
        .collect()
}

/// The rows of a group in pages that no condition rules out; none when that is all of them.
pub(super) fn wanted_rows(
    group: &Group,
    conditions: &[ColumnCondition],
    shape: &Shape,
) -> Option<Rows> {
    let mut wanted: Option<Rows> = None;
    for condition in conditions {
        let Some(pages) = pages_kept(group, condition, shape) else { continue };
        wanted = Some(match wanted {
            None => pages,
            Some(wanted) => intersection(&wanted, &pages),
        });
    }
    wanted
}

/// None when no page is ruled out, or nothing is known of them.
fn pages_kept(group: &Group, condition: &ColumnCondition, shape: &Shape) -> Option<Rows> {
    let metadata = group.file.metadata.metadata();
    let (columns, offsets) = (metadata.column_index()?, metadata.offset_index()?);
    let (leaf, ty) = group.statistics(shape).bounded_leaf(&condition.column)?;
    let field = Field::new("", ty, true);
    let parquet = group.file.metadata.parquet_schema();
    let converter = StatisticsConverter::from_column_index(leaf, &field, parquet).ok()?;
    let at = [&group.index];
    columns.get(group.index)?.get(leaf)?;
    let pages = offsets.get(group.index)?.get(leaf)?.page_locations();
    let table = shape.scanned();
    let ty = table.field_with_name(&condition.column.name).ok()?.data_type();
    let of_table = |values: ArrayRef| cast(&values, ty).ok();
    let pages_statistics = PageStatistics {
        pages: pages.len(),
        min: of_table(converter.data_page_mins(columns, offsets, at).ok()?)?,
        max: of_table(converter.data_page_maxes(columns, offsets, at).ok()?)?,
        nulls: converter.data_page_null_counts(columns, offsets, at).ok()?,
        rows: page_rows(&converter, group)?,
    };
    let kept = condition.pruning.prune(&pages_statistics).ok()?;
    if kept.len() != pages.len() || kept.iter().all(|kept| *kept) {
        return None;
    }
    let mut rows: Rows = Vec::new();
    for (at, page) in pages.iter().enumerate().filter(|(at, _)| kept[*at]) {
        let first = usize::try_from(page.first_row_index).ok()?;
        let end = match pages.get(at + 1) {
            Some(next) => usize::try_from(next.first_row_index).ok()?,
            None => group.rows as usize,
        };
        match rows.last_mut() {
            Some(last) if last.end == first => last.end = end,
            _ => rows.push(first..end),
        }
    }
    Some(rows)
}

fn page_rows(converter: &StatisticsConverter<'_>, group: &Group) -> Option<UInt64Array> {
    let metadata = group.file.metadata.metadata();
    let offsets = metadata.offset_index()?;
    converter.data_page_row_counts(offsets, metadata.row_groups(), [&group.index]).ok()?
}

/// Ranges that are in both.
fn intersection(a: &Rows, b: &Rows) -> Rows {
    let (mut at, mut bt) = (0, 0);
    let mut both = Vec::new();
    while let (Some(x), Some(y)) = (a.get(at), b.get(bt)) {
        let common = x.start.max(y.start)..x.end.min(y.end);
        if !common.is_empty() {
            both.push(common);
        }
        if x.end < y.end { at += 1 } else { bt += 1 }
    }
    both
}

/// The wanted rows that live, for the reader to leave out the others.
pub(super) fn selection(rows: &Rows, live: Option<&BooleanBuffer>, count: usize) -> RowSelection {
    let Some(live) = live else {
        return RowSelection::from_consecutive_ranges(rows.iter().cloned(), count);
    };
    let mut mask = BooleanBufferBuilder::new(count);
    for range in rows {
        mask.append_n(range.start - mask.len(), false);
        mask.append_buffer(&live.slice(range.start, range.len()));
    }
    mask.append_n(count - mask.len(), false);
    RowSelection::from_boolean_buffer(mask.finish())
}

/// What is known of the pages of one column.
struct PageStatistics {
    pages: usize,
    min: ArrayRef,
    max: ArrayRef,
    nulls: UInt64Array,
    rows: UInt64Array,
}

impl PruningStatistics for PageStatistics {
    fn min_values(&self, _: &Column) -> Option<ArrayRef> {
        Some(Arc::clone(&self.min))
    }

    fn max_values(&self, _: &Column) -> Option<ArrayRef> {
        Some(Arc::clone(&self.max))
    }

    fn num_containers(&self) -> usize {
        self.pages
    }

    fn null_counts(&self, _: &Column) -> Option<ArrayRef> {
        Some(Arc::new(self.nulls.clone()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(self.rows.clone()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

/// Whether Bloom filters say that no row of the group can meet the predicate. A filter that cannot be
/// read rules nothing out: the rows are looked at anyway.
pub(super) async fn bloom_rules_out(
    group: &Group,
    pruning: &PruningPredicate,
    shape: &Shape,
    reader: &mut impl AsyncFileReader,
) -> bool {
    let metadata = &group.file.metadata;
    let mut filters = BloomFilterStatistics::new();
    let mut any = false;
    for name in pruning.literal_columns() {
        let leaf = group.statistics(shape).leaf(&Column::from_name(&name));
        // A Bloom filter is of the bytes of a value, which are others in another type.
        let Some((leaf, _, true)) = leaf else { continue };
        let chunk = metadata.metadata().row_group(group.index).column(leaf);
        let range =
            chunk.bloom_filter_offset().zip(chunk.bloom_filter_length()).and_then(|(o, l)| {
                let (offset, length) = (u64::try_from(o).ok()?, u64::try_from(l).ok()?);
                Some(offset..offset.checked_add(length)?)
            });
        let Some(range) = range else { continue };
        let filter = match reader.get_bytes(range).await {
            Ok(bytes) => Sbbf::from_bytes(&bytes),
            Err(error) => Err(error),
        };
        match filter {
            Ok(filter) => {
                let column = metadata.parquet_schema().column(leaf);
                filters.insert(name, filter, column.physical_type(), column.type_length());
                any = true;
            }
            Err(error) => {
                tracing::debug!(file = group.file.file.location, %error, "bloom filter passed over");
            }
        }
    }
    any && ruled_out(pruning, &filters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_intersect() {
        let a = vec![0..10, 20..30, 40..50];
        assert_eq!(intersection(&a, &vec![5..25, 29..41]), [5..10, 20..25, 29..30, 40..41]);
        assert_eq!(intersection(&a, &vec![10..20, 30..31]), Rows::new());
        assert_eq!(intersection(&a, &a), a);
    }

    #[test]
    fn a_selection_leaves_out_dead_rows_and_pages() {
        let live = BooleanBuffer::from_iter((0..10).map(|row| row != 4));
        let chosen = selection(&vec![2..6, 8..9], Some(&live), 10);
        assert_eq!((chosen.row_count(), chosen.skipped_row_count()), (4, 6));
        let chosen = selection(&vec![2..6, 8..9], None, 10);
        assert_eq!((chosen.row_count(), chosen.skipped_row_count()), (5, 5));
    }
}
