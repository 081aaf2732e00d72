//! The scan of one table of a view: data files less their dead rows, and the rows in memory.
//!
//! Not DataFusion's own Parquet scan, because that turns dead rows into lists of runs for each query,
//! gives up dynamic filters and ordering where it has such lists, and finds columns by name. Why and
//! what it costs: `docs/decisions/0014-own-scan.md`.

mod decode;
mod filter;
mod inside;
mod metrics;
mod work;

use std::{
    any::Any,
    cmp::Ordering,
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::{
    common::{
        Statistics,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    config::ConfigOptions,
    datasource::source::{DataSource, OpenArgs},
    error::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::Operator,
    physical_expr::{
        EquivalenceProperties, Partitioning, PhysicalExpr, PhysicalSortExpr, conjunction,
        expressions::{BinaryExpr, Column},
        projection::ProjectionExprs,
        split_conjunction,
        utils::{collect_columns, reassign_expr_columns},
    },
    physical_expr_common::physical_expr::snapshot_generation,
    physical_plan::{
        DisplayFormatType, ExecutionPlan, SortOrderPushdownResult,
        coop::cooperative,
        empty::EmptyExec,
        execution_plan::SchedulingType,
        filter::FilterExec,
        filter_pushdown::{FilterPushdownPropagation, PushedDown},
        metrics::ExecutionPlanMetricsSet,
        statistics::StatisticsArgs,
        stream::RecordBatchStreamAdapter,
    },
    scalar::ScalarValue,
};
use futures::StreamExt;

use crate::{
    read::{
        prune::{FileStatistics, bounds_of, prune_files, statistics},
        scan::{decode::Partition, metrics::ScanMetrics, work::Work},
        view::TableView,
    },
    table::segment::{FileRows, Segment},
};

/// A stream of its own for fewer rows costs more than it saves.
const ROWS_WORTH_A_STREAM: u64 = 16_384;

/// Which rows an operator above wants first. The scan goes there first; it promises no order.
#[derive(Debug, Clone, Copy)]
struct SortHint {
    /// Place in the table's columns.
    column: usize,
    descending: bool,
}

impl SortHint {
    /// Where nothing is known comes first: it may be anything.
    fn compare(self, a: Option<&ScalarValue>, b: Option<&ScalarValue>) -> Ordering {
        let ascending = a.partial_cmp(&b).unwrap_or(Ordering::Equal);
        if self.descending && a.is_some() && b.is_some() { ascending.reverse() } else { ascending }
    }
}

/// A scan of one table of a view. Holds the view, and so the files, until the last stream is dropped.
#[derive(Debug, Clone)]
pub(crate) struct LakeScan {
    view: Arc<TableView>,
    /// Places in the view's segments of the files that the filters do not rule out.
    files: Arc<[usize]>,
    /// Places in the table's columns.
    projection: Arc<[usize]>,
    /// The columns projected.
    schema: SchemaRef,
    /// Over the table's columns. Every row given meets all of them.
    filters: Vec<Arc<dyn PhysicalExpr>>,
    /// Over the table's columns. Operators above refine these while the scan runs, and do not depend
    /// on them.
    refined: Vec<Arc<dyn PhysicalExpr>>,
    order: Option<SortHint>,
    limit: Option<usize>,
    partitions: usize,
    /// Of the columns projected.
    statistics: Arc<Statistics>,
    metrics: ExecutionPlanMetricsSet,
}

impl LakeScan {
    /// A scan of these columns, in up to `partitions` streams.
    pub(crate) fn new(
        view: Arc<TableView>,
        projection: &[usize],
        filters: Vec<Arc<dyn PhysicalExpr>>,
        limit: Option<usize>,
        partitions: usize,
    ) -> Result<Self> {
        let schema = Arc::new(Schema::new(view.shape.scanned().project(projection)?.fields));
        let worth = usize::try_from(view.row_count / ROWS_WORTH_A_STREAM).unwrap_or(usize::MAX);
        let scan = Self {
            view,
            files: Arc::default(),
            projection: projection.into(),
            statistics: Arc::new(Statistics::new_unknown(&schema)),
            schema,
            filters,
            refined: Vec::new(),
            order: None,
            limit,
            // Fixed from here on: the plan above is built for this many.
            partitions: partitions.min(worth).max(1),
            metrics: ExecutionPlanMetricsSet::new(),
        };
        scan.planned()
    }

    fn table(&self) -> &SchemaRef {
        self.view.shape.scanned()
    }

    /// With files and statistics as the filters leave them.
    fn planned(mut self) -> Result<Self> {
        let predicate =
            (!self.filters.is_empty()).then(|| conjunction(self.filters.iter().cloned()));
        let mut files: Vec<(usize, (&Segment, &FileRows))> = self
            .view
            .segments
            .iter()
            .enumerate()
            .filter_map(|(at, s)| Some((at, (s, s.file()?))))
            .filter(|(_, (s, _))| s.live_rows() > 0)
            .collect();
        if let Some(predicate) = &predicate {
            let all: Vec<_> = files.iter().map(|(_, f)| *f).collect();
            let statistics = FileStatistics::new(&all, &self.view.shape);
            if let Some(kept) = prune_files(predicate, &statistics) {
                let mut kept = kept.into_iter();
                files.retain(|_| kept.next().unwrap_or(true));
            }
        }
        let kept: Vec<_> = files.iter().map(|(_, f)| *f).collect();
        let hot: Vec<&Segment> = self.view.segments.iter().filter(|s| s.file().is_none()).collect();
        let mut wanted: BTreeSet<usize> = self.projection.iter().copied().collect();
        wanted.extend(predicate.iter().flat_map(collect_columns).map(|column| column.index()));
        let mut statistics = Arc::new(statistics(&kept, &hot, &self.view.shape, &wanted));
        if let Some(predicate) = predicate {
            // What a filter leaves is estimated as DataFusion does it.
            let input = Arc::new(EmptyExec::new(Arc::clone(self.table())));
            let filter = FilterExec::try_new(predicate, input)?;
            statistics = filter.statistics_from_inputs(&[statistics], &StatisticsArgs::new())?;
        }
        self.files = files.into_iter().map(|(at, _)| at).collect();
        let mut statistics = Arc::unwrap_or_clone(statistics).project(Some(&self.projection));
        if self.limit.is_some() {
            statistics = statistics.to_inexact();
        }
        self.statistics = Arc::new(statistics);
        Ok(self)
    }

    /// Rows in all files and in memory, before filters: is there anything at all?
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
            && !self.view.segments.iter().any(|s| s.file().is_none() && s.live_rows() > 0)
    }

    fn ordered_files(&self) -> Vec<usize> {
        let mut files = self.files.to_vec();
        if let Some(order) = self.order {
            let bound = |at: &usize| {
                let file = &self.view.segments.get(*at)?.file()?.file;
                let bounds = bounds_of(file, &self.view.shape, order.column);
                if order.descending { bounds.max } else { bounds.min }
            };
            files.sort_by(|a, b| order.compare(bound(a).as_ref(), bound(b).as_ref()));
        }
        files
    }

    /// The expression over the table's columns instead of those projected.
    fn over_table(&self, expression: &Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let table = Arc::clone(self.table());
        let places = Arc::clone(&self.projection);
        let over = Arc::clone(expression).transform(|e| {
            let Some(column) = e.downcast_ref::<Column>() else { return Ok(Transformed::no(e)) };
            let Some(&place) = places.get(column.index()) else {
                let problem = format!("a filter names column {column} of a scan without it");
                return Err(DataFusionError::Internal(problem));
            };
            let column = Column::new(table.field(place).name(), place);
            Ok(Transformed::yes(Arc::new(column) as Arc<dyn PhysicalExpr>))
        })?;
        Ok(over.data)
    }
}

/// The runs of a plan: usually one. The partitions started first share the first one's work, those
/// started a second time the second one's.
#[derive(Debug, Default)]
struct Runs {
    runs: Mutex<(Vec<Arc<Work>>, Vec<usize>)>,
}

impl Runs {
    fn join(&self, scan: &LakeScan, partition: usize) -> Arc<Work> {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let (works, started) = &mut *runs;
        if started.len() <= partition {
            started.resize(partition + 1, 0);
        }
        let run = started[partition];
        started[partition] += 1;
        if works.len() <= run {
            works.push(Arc::new(Work::new(scan)));
        }
        Arc::clone(&works[run])
    }
}

impl DataSource for LakeScan {
    fn open(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.open_with_args(OpenArgs::new(partition, context))
    }

    fn open_with_args(&self, args: OpenArgs) -> Result<SendableRecordBatchStream> {
        let metrics = ScanMetrics::new(&self.metrics, args.partition);
        if args.partition == 0 {
            let files = self.view.segments.iter().filter(|s| s.file().is_some()).count();
            metrics.files_pruned.add(files - self.files.len());
        }
        let runs = args.sibling_state.and_then(|state| state.downcast::<Runs>().ok());
        let work = match (runs, args.partition) {
            (Some(runs), partition) => runs.join(self, partition),
            // Partitions that cannot share: the first does all.
            (None, 0) => Arc::new(Work::new(self)),
            (None, _) => {
                let nothing = futures::stream::empty();
                let schema = Arc::clone(&self.schema);
                return Ok(Box::pin(RecordBatchStreamAdapter::new(schema, nothing)));
            }
        };
        let batch_size = args.context.session_config().batch_size();
        let partition = Partition::new(work, metrics, batch_size);
        let stream = futures::stream::try_unfold(partition, Partition::step).boxed();
        let stream = RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream);
        Ok(Box::pin(cooperative(stream)))
    }

    fn create_sibling_state(&self, _: &ConfigOptions) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::new(Runs::default()))
    }

    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |expressions: &[Arc<dyn PhysicalExpr>]| {
            expressions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" AND ")
        };
        let columns: Vec<&str> = self.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let hot: u64 =
            self.view.segments.iter().filter(|s| s.file().is_none()).map(Segment::live_rows).sum();
        write!(f, "table={}, files={}, hot_rows={hot}", self.view.schema.name(), self.files.len())?;
        write!(f, ", projection=[{}]", columns.join(", "))?;
        if !self.filters.is_empty() {
            write!(f, ", filters={}", list(&self.filters))?;
        }
        if !self.refined.is_empty() {
            write!(f, ", dynamic={}", list(&self.refined))?;
        }
        if let Some(order) = self.order {
            let way = if order.descending { "desc" } else { "asc" };
            write!(f, ", first={} {way}", self.table().field(order.column).name())?;
        }
        self.limit.map_or(Ok(()), |limit| write!(f, ", limit={limit}"))
    }

    fn output_partitioning(&self) -> Partitioning {
        Partitioning::UnknownPartitioning(self.partitions)
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        let mut properties = EquivalenceProperties::new(Arc::clone(&self.schema));
        // A column that a filter compares with a constant has one value.
        for filter in &self.filters {
            for part in split_conjunction(filter) {
                let equal = reassign_expr_columns(Arc::clone(part), &self.schema).ok();
                let equal = equal.as_ref().and_then(|e| e.downcast_ref::<BinaryExpr>());
                if let Some(equal) = equal.filter(|e| *e.op() == Operator::Eq) {
                    let (left, right) = (Arc::clone(equal.left()), Arc::clone(equal.right()));
                    // Knowing less is as right.
                    let _ = properties.add_equal_conditions(left, right);
                }
            }
        }
        properties
    }

    fn scheduling_type(&self) -> SchedulingType {
        SchedulingType::Cooperative
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        Ok(match partition {
            // Which partition reads what is decided while it runs.
            Some(_) if self.partitions > 1 => Arc::new(Statistics::new_unknown(&self.schema)),
            _ => Arc::clone(&self.statistics),
        })
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn DataSource>> {
        let statistics = Arc::new(Statistics::clone(&self.statistics).to_inexact());
        Some(Arc::new(Self { limit, statistics, ..self.clone() }))
    }

    fn fetch(&self) -> Option<usize> {
        self.limit
    }

    fn metrics(&self) -> ExecutionPlanMetricsSet {
        self.metrics.clone()
    }

    /// Takes over a projection that only leaves out or reorders columns.
    fn try_swapping_with_projection(
        &self,
        projection: &ProjectionExprs,
    ) -> Result<Option<Arc<dyn DataSource>>> {
        let mut places = Vec::new();
        for wanted in projection.iter() {
            let place = wanted
                .expr
                .downcast_ref::<Column>()
                .filter(|column| column.name() == wanted.alias)
                .and_then(|column| self.projection.get(column.index()));
            match place {
                Some(place) if !places.contains(place) => places.push(*place),
                _ => return Ok(None),
            }
        }
        let schema = Arc::new(Schema::new(self.table().project(&places)?.fields));
        let scan = Self { projection: places.into(), schema, ..self.clone() };
        Ok(Some(Arc::new(scan.planned()?)))
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn DataSource>>> {
        let mut scan = self.clone();
        let mut taken = Vec::with_capacity(filters.len());
        // A limit counts rows before a filter that is still above.
        let below_limit = self.limit.is_some();
        for filter in &filters {
            if below_limit {
                taken.push(PushedDown::No);
                continue;
            }
            let over_table = self.over_table(filter)?;
            if snapshot_generation(filter) == 0 {
                scan.filters.push(over_table);
                taken.push(PushedDown::Yes);
            } else {
                scan.refined.push(over_table);
                taken.push(PushedDown::No);
            }
        }
        let result = FilterPushdownPropagation::with_parent_pushdown_result(taken);
        if below_limit || filters.is_empty() {
            return Ok(result);
        }
        Ok(result.with_updated_node(Arc::new(scan.planned()?)))
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
    ) -> Result<SortOrderPushdownResult<Arc<dyn DataSource>>> {
        let first = order.first().and_then(|first| {
            let column = first.expr.downcast_ref::<Column>()?;
            let column = *self.projection.get(column.index())?;
            Some(SortHint { column, descending: first.options.descending })
        });
        Ok(match first {
            None => SortOrderPushdownResult::Unsupported,
            Some(_) => SortOrderPushdownResult::Inexact {
                inner: Arc::new(Self { order: first, ..self.clone() }),
            },
        })
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let mut recursion = TreeNodeRecursion::Continue;
        for expression in self.filters.iter().chain(&self.refined) {
            recursion = recursion.visit_sibling(|| f(expression))?;
        }
        Ok(recursion)
    }
}
