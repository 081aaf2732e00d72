//! Which part of a mart a set of changes touches.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashSet},
};

use datafusion::{
    arrow::record_batch::RecordBatch,
    common::{Column, ScalarValue},
    error::DataFusionError,
    logical_expr::{Expr, LogicalPlan, and, lit, or},
};

/// From this many values of one partition column on, a full rebuild costs less than finding them.
const FULL_REBUILD_VALUES: usize = 4_000;
/// From this many separate stretches on, one range over all of them and a list is used instead.
const SEPARATE_STRETCHES: usize = 48;
const MINUTE_MICROS: i64 = 60_000_000;

/// How much of a mart is to be rebuilt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scope {
    /// All of it.
    Everything,
    /// The rows whose partition columns all have one of these values. With several columns this is
    /// more than the touched partitions, never less: rebuilding an untouched one changes nothing.
    Partitions(Partitions),
}

impl Scope {
    pub(crate) fn nothing() -> Self {
        Self::Partitions(Partitions::default())
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Partitions(p) if p.values.is_empty())
    }

    /// How many values the widest partition column has; `None` for everything.
    pub(crate) fn width(&self) -> Option<usize> {
        match self {
            Self::Everything => None,
            Self::Partitions(p) => Some(p.values.values().map(HashSet::len).max().unwrap_or(0)),
        }
    }

    /// Both scopes together.
    pub(crate) fn add(&mut self, partitions: Partitions) {
        if let Self::Partitions(mine) = self {
            for (column, values) in partitions.values {
                mine.values.entry(column).or_default().extend(values);
            }
            if mine.values.values().any(|values| values.len() > FULL_REBUILD_VALUES) {
                *self = Self::Everything;
            }
        }
    }

    /// The condition on the output of a plan, or `None` when every row counts.
    pub(crate) fn condition(&self, plan: &LogicalPlan) -> Option<Expr> {
        let Self::Partitions(partitions) = self else { return None };
        partitions
            .values
            .iter()
            .filter_map(|(name, values)| {
                let at = plan.schema().index_of_column_by_name(None, name)?;
                let column = Expr::Column(Column::from(plan.schema().qualified_field(at)));
                let mut values: Vec<&ScalarValue> = values.iter().collect();
                values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
                among(&column, &values)
            })
            .reduce(and)
    }
}

/// `column` has one of the sorted `values`. Days and minutes are written as stretches, for ranges
/// leave out files where long lists do not; between two minutes of a stretch there is no other.
fn among(column: &Expr, values: &[&ScalarValue]) -> Option<Expr> {
    let (first, last) = (*values.first()?, *values.last()?);
    let between = |from: &ScalarValue, to: &ScalarValue| {
        if from == to {
            return column.clone().eq(lit(from.clone()));
        }
        column.clone().gt_eq(lit(from.clone())).and(column.clone().lt_eq(lit(to.clone())))
    };
    let mut stretches: Vec<(&ScalarValue, &ScalarValue)> = Vec::new();
    for value in values {
        match stretches.last_mut() {
            Some((_, to)) if follows(to, value) => *to = value,
            _ => stretches.push((value, value)),
        }
    }
    if stretches.len() <= SEPARATE_STRETCHES {
        return stretches.into_iter().map(|(from, to)| between(from, to)).reduce(or);
    }
    let list = values.iter().map(|value| lit((*value).clone())).collect();
    Some(between(first, last).and(column.clone().in_list(list, false)))
}

fn follows(before: &ScalarValue, value: &ScalarValue) -> bool {
    match (before, value) {
        (ScalarValue::Date32(Some(a)), ScalarValue::Date32(Some(b))) => *b == a + 1,
        (ScalarValue::Int64(Some(a)), ScalarValue::Int64(Some(b))) => *b == a + 1,
        (
            ScalarValue::TimestampMicrosecond(Some(a), _),
            ScalarValue::TimestampMicrosecond(Some(b), _),
        ) => b - a <= MINUTE_MICROS,
        _ => false,
    }
}

/// Values of each partition column. All columns are there, or none.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Partitions {
    values: BTreeMap<String, HashSet<ScalarValue>>,
}

impl Partitions {
    #[cfg(test)]
    pub(crate) fn insert(&mut self, column: &str, value: ScalarValue) {
        self.values.entry(column.to_owned()).or_default().insert(value);
    }

    /// Takes over the rows of a query that yields the partition columns. A row with a null belongs
    /// to no partition.
    pub(crate) fn add(
        &mut self,
        columns: &[String],
        rows: &[RecordBatch],
    ) -> Result<(), DataFusionError> {
        for batch in rows {
            for row in 0..batch.num_rows() {
                if batch.columns().iter().any(|column| column.is_null(row)) {
                    continue;
                }
                for (name, column) in columns.iter().zip(batch.columns()) {
                    let value = ScalarValue::try_from_array(column, row)?;
                    self.values.entry(name.clone()).or_default().insert(value);
                }
            }
        }
        Ok(())
    }
}
