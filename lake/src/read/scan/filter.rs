//! Which rows a scan leaves out, and whether finding out is worth its time.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arrow::{
    array::{Array, AsArray, BooleanArray, BooleanBufferBuilder},
    compute::{and, filter_record_batch, prep_null_mask_filter},
    datatypes::SchemaRef,
    record_batch::RecordBatch,
};
use datafusion::{
    error::Result,
    physical_expr::{
        PhysicalExpr, conjunction, expressions::Literal, utils::collect_columns,
        utils::reassign_expr_columns,
    },
    physical_expr_common::physical_expr::{snapshot_generation, snapshot_physical_expr},
    physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder},
    scalar::ScalarValue,
};

/// Rows looked at before a share is believed.
const SAMPLE: u64 = 16_384;

/// A filter that nobody depends on is skipped when more of the rows pass.
const USELESS: f64 = 0.9;

/// How many of the rows that were looked at passed. Shared by all partitions of a scan; a figure
/// that is a little old does no harm, so the counters are not ordered.
#[derive(Debug, Default)]
struct Share {
    seen: AtomicU64,
    passed: AtomicU64,
}

impl Share {
    fn add(&self, seen: usize, passed: usize) {
        self.seen.fetch_add(seen as u64, Ordering::Relaxed);
        self.passed.fetch_add(passed as u64, Ordering::Relaxed);
    }

    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn get(&self) -> Option<f64> {
        let seen = self.seen.load(Ordering::Relaxed);
        (seen >= SAMPLE).then(|| self.passed.load(Ordering::Relaxed) as f64 / seen as f64)
    }

    fn forget(&self) {
        self.seen.store(0, Ordering::Relaxed);
        self.passed.store(0, Ordering::Relaxed);
    }
}

/// A condition over the table's columns.
#[derive(Debug)]
pub(super) struct Condition {
    expression: Arc<dyn PhysicalExpr>,
    share: Share,
    /// Of a condition that another operator refines while the scan runs: what it was when `share`
    /// was last forgotten.
    generation: Option<AtomicU64>,
}

impl Condition {
    /// Places in the table's columns that it needs.
    pub(super) fn columns(&self) -> impl Iterator<Item = usize> {
        collect_columns(&self.expression).into_iter().map(|column| column.index())
    }

    /// Whether looking at each row is worth it. Rows must not be left unseen by a condition that is
    /// not refined: nobody looks at them again.
    fn is_useful(&self) -> bool {
        let Some(generation) = &self.generation else { return true };
        let now = snapshot_generation(&self.expression);
        if generation.swap(now, Ordering::Relaxed) != now {
            self.share.forget();
        }
        let always = snapshot_physical_expr(Arc::clone(&self.expression)).is_ok_and(|e| {
            e.downcast_ref::<Literal>()
                .is_some_and(|l| *l.value() == ScalarValue::Boolean(Some(true)))
        });
        !always && self.share.get().is_none_or(|share| share < USELESS)
    }

    /// The same condition over other columns, which have the same names.
    pub(super) fn over(self: &Arc<Self>, columns: &SchemaRef) -> Result<Bound> {
        let expression = reassign_expr_columns(Arc::clone(&self.expression), columns)?;
        Ok(Bound { condition: Arc::clone(self), expression })
    }
}

/// A condition bound to the columns of certain batches.
#[derive(Debug)]
pub(super) struct Bound {
    condition: Arc<Condition>,
    expression: Arc<dyn PhysicalExpr>,
}

impl Bound {
    /// Which rows meet it: true or false for each.
    fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let answer = self.expression.evaluate(batch)?.into_array(batch.num_rows())?;
        let answer = answer.as_boolean();
        let answer =
            if answer.null_count() > 0 { prep_null_mask_filter(answer) } else { answer.clone() };
        self.condition.share.add(answer.len(), answer.true_count());
        Ok(answer)
    }
}

/// Which rows meet all of them and are in `rows`; none when all do.
pub(super) fn meet(
    conditions: &[Bound],
    batch: &RecordBatch,
    rows: Option<BooleanArray>,
) -> Result<Option<BooleanArray>> {
    let mut rows = rows;
    for condition in conditions {
        if rows.as_ref().is_some_and(|rows| !rows.has_true()) {
            break;
        }
        let met = match (condition.evaluate(batch), &rows) {
            (Ok(met), _) => met,
            (Err(error), None) => return Err(error),
            // A row that is dead, or left out already, must not fail the query.
            (Err(_), Some(rows)) => {
                spread(&condition.evaluate(&filter_record_batch(batch, rows)?)?, rows)
            }
        };
        rows = Some(match rows {
            None => met,
            Some(rows) => and(&rows, &met)?,
        });
    }
    Ok(rows.filter(|rows| rows.has_false()))
}

/// Answers for the rows in `rows` as answers for all, false for the others.
fn spread(answers: &BooleanArray, rows: &BooleanArray) -> BooleanArray {
    let mut all = BooleanBufferBuilder::new(rows.len());
    all.append_n(rows.len(), false);
    for (answer, row) in rows.values().set_indices().enumerate() {
        all.set_bit(row, answers.value(answer));
    }
    BooleanArray::new(all.finish(), None)
}

/// All conditions of a scan.
#[derive(Debug, Default)]
pub(super) struct Filters {
    conditions: Vec<Arc<Condition>>,
    /// Made from the conditions as they stood at this generation.
    pruning: std::sync::Mutex<Option<(u64, Option<Arc<PruningPredicate>>)>>,
}

impl Filters {
    /// `fixed` must hold for every row the scan gives; `refined` may be used.
    pub(super) fn new(fixed: &[Arc<dyn PhysicalExpr>], refined: &[Arc<dyn PhysicalExpr>]) -> Self {
        let condition = |expression: &Arc<dyn PhysicalExpr>, generation| {
            let expression = Arc::clone(expression);
            Arc::new(Condition { expression, share: Share::default(), generation })
        };
        let fixed = fixed.iter().map(|e| condition(e, None));
        let refined = refined.iter().map(|e| condition(e, Some(AtomicU64::new(0))));
        Self { conditions: fixed.chain(refined).collect(), pruning: Default::default() }
    }

    /// The conditions worth looking at now.
    pub(super) fn useful(&self) -> Vec<Arc<Condition>> {
        self.conditions.iter().filter(|c| c.is_useful()).map(Arc::clone).collect()
    }

    /// What rules out files and row groups as things stand; none when nothing can.
    pub(super) fn pruning(&self, table: &SchemaRef) -> Option<Arc<PruningPredicate>> {
        let generation = self
            .conditions
            .iter()
            .fold(1_u64, |sum, c| sum.wrapping_add(snapshot_generation(&c.expression)));
        let mut pruning = self.pruning.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*pruning {
            Some((made, predicate)) if *made == generation => predicate.clone(),
            _ => {
                let all = self.conditions.iter().map(|c| Arc::clone(&c.expression));
                let predicate = PruningPredicateBuilder::new()
                    .with_file_schema(Arc::clone(table))
                    .build(conjunction(all));
                *pruning = Some((generation, predicate.clone()));
                predicate
            }
        }
    }
}

/// The share of rows expected to meet all of them; one when not known.
pub(super) fn expected_share(conditions: &[Arc<Condition>]) -> f64 {
    conditions.iter().filter_map(|c| c.share.get()).product()
}
