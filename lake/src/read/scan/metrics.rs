//! What a scan counts, for `explain analyze`.

use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder,
};

/// Of one partition.
#[derive(Debug, Clone)]
pub(super) struct ScanMetrics {
    pub(super) baseline: BaselineMetrics,
    /// Before they were opened.
    pub(super) files_pruned: Count,
    pub(super) files_opened: Count,
    pub(super) groups_pruned: Count,
    pub(super) groups_read: Count,
    /// Row groups of which only the rows that meet the filters were decoded in full.
    pub(super) groups_late: Count,
    pub(super) bytes_scanned: Count,
}

impl ScanMetrics {
    pub(super) fn new(metrics: &ExecutionPlanMetricsSet, partition: usize) -> Self {
        let counter = |name: &'static str| MetricBuilder::new(metrics).counter(name, partition);
        Self {
            baseline: BaselineMetrics::new(metrics, partition),
            files_pruned: counter("files_pruned"),
            files_opened: counter("files_opened"),
            groups_pruned: counter("row_groups_pruned"),
            groups_read: counter("row_groups_read"),
            groups_late: counter("row_groups_late"),
            bytes_scanned: counter("bytes_scanned"),
        }
    }
}
