//! Small lakes to test with.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use arrow::{
    array::{ArrayRef, Int64Array, StringArray},
    record_batch::RecordBatch,
};
use datafusion::physical_plan::ExecutionPlan;
use medlake_contract::{
    ChangeBatch, ChangeSet, Column, ColumnType, Position, Positions, SourceId, TableSchema,
};
use medlake_lake::{Lake, LakeConfig};

/// A clock that starts now and ticks a second with every look.
pub(crate) fn clock() -> medlake_lake::Clock {
    #[expect(clippy::disallowed_methods, reason = "the metadata library reads the clock too")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let micros = AtomicI64::new(i64::try_from(now.as_micros()).unwrap());
    Arc::new(move || micros.fetch_add(1_000_000, Ordering::SeqCst))
}

pub(crate) async fn lake(folder: &Path) -> Lake {
    let lake = Lake::open(LakeConfig::new(folder, clock())).await.unwrap();
    lake.load_indexes().await.unwrap();
    lake
}

/// `mall.orders`: a key, a text, an amount.
pub(crate) fn orders() -> Arc<TableSchema> {
    let columns = vec![
        Column::required("order_id", ColumnType::Int64),
        Column::nullable("channel", ColumnType::Utf8),
        Column::nullable("amount_fen", ColumnType::Int64),
    ];
    Arc::new(TableSchema::new("mall.orders".parse().unwrap(), columns, &["order_id"]).unwrap())
}

/// Rows of [`orders`] with these keys and amounts, to insert or to put in the place of rows there.
pub(crate) fn upserts(rows: impl IntoIterator<Item = (i64, i64)>, change_id: u64) -> ChangeSet {
    let (keys, amounts): (Vec<i64>, Vec<i64>) = rows.into_iter().unzip();
    let channels: StringArray = keys.iter().map(|k| (k % 3 > 0).then_some("应用")).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(keys)),
        Arc::new(channels),
        Arc::new(Int64Array::from(amounts)),
    ];
    let rows = RecordBatch::try_new(Arc::clone(orders().arrow()), columns).unwrap();
    ChangeSet {
        batches: vec![ChangeBatch::inserts(orders(), &rows).unwrap()],
        positions: Positions::from([(SourceId::new("mall"), Position::ChangeId(change_id))]),
        committed_at_micros: Some(1),
        transaction_count: 1,
        ..ChangeSet::default()
    }
}

/// Stages, publishes and flushes.
pub(crate) async fn write(lake: &Lake, changes: &ChangeSet) {
    lake.stage(changes).unwrap();
    lake.publish();
    lake.flush().await.unwrap();
}

/// What a plan counted, by the metric's name.
pub(crate) fn counted(plan: &Arc<dyn ExecutionPlan>, name: &str) -> usize {
    let own = plan.metrics().and_then(|m| m.sum_by_name(name)).map_or(0, |m| m.as_usize());
    own + plan.children().into_iter().map(|child| counted(child, name)).sum::<usize>()
}
