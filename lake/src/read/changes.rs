//! What changed in a table between two points of its past, as a table that DataFusion reads.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, StringArray},
    compute::{cast, interleave_record_batch},
    datatypes::{DataType, Field, Fields, Schema, SchemaRef},
    error::ArrowError,
    record_batch::RecordBatch,
};
use datafusion::{
    catalog::{TableProvider, streaming::StreamingTable},
    error::{DataFusionError, Result as DataFusionResult},
    execution::{SendableRecordBatchStream, TaskContext, memory_pool::MemoryConsumer},
    physical_plan::{stream::RecordBatchStreamAdapter, streaming::PartitionStream},
};
use futures::{TryFutureExt, TryStreamExt, future::ready};
use medlake_contract::{ChangeBatch, Op, TableName};

use crate::{
    error::LakeError,
    format::schema::Shape,
    read::{
        as_of::{Past, Point},
        feed::{ChangeStream, changes},
        view::{ReadView, TableView},
    },
};

/// The column that says what happened to a row, as Iceberg's change views call it.
const CHANGE_TYPE: &str = "_change_type";

impl ReadView {
    /// The changes of a table from one point of its past to another, or to this view, as a table: the
    /// column `_change_type`, then the columns the table has at the end. A row for each row that
    /// differs, as in [`Self::changes_since`]: `INSERT`, `DELETE`, or, one after the other,
    /// `UPDATE_BEFORE` and `UPDATE_AFTER`. The points are texts: a snapshot id, a time as in [`AsOf`],
    /// a branch or a tag of the table. Files are looked at when the table is scanned, and stay until
    /// the scan has ended.
    ///
    /// # Errors
    /// [`LakeError::UnknownTable`], [`LakeError::LeftOut`], [`LakeError::AsOfText`], and
    /// [`LakeError::AsOf`] for a point that is not in the table's past, or no longer.
    ///
    /// [`AsOf`]: crate::AsOf
    pub fn changes(
        &self,
        table: &TableName,
        from: &str,
        to: Option<&str>,
    ) -> Result<Arc<dyn TableProvider>, LakeError> {
        let now = self.picture(table)?;
        let from = self.past.point(table, from)?;
        let (to, shape) = match to {
            None => (To::Now(Arc::clone(now)), Arc::clone(&now.shape)),
            Some(to) => {
                let to = self.past.point(table, to)?;
                let shape = Arc::new(to.shape()?);
                (To::Then(to), shape)
            }
        };
        let changes = Changes { past: Arc::clone(&self.past), from, to, schema: columns(&shape)? };
        let schema = Arc::clone(&changes.schema);
        let table = StreamingTable::try_new(schema, vec![Arc::new(changes)]);
        Ok(Arc::new(table.map_err(|error| unreadable(shape.schema().name())(error.into()))?))
    }
}

fn columns(shape: &Shape) -> Result<SchemaRef, LakeError> {
    let fields = shape.scanned().fields();
    if fields.iter().any(|field| field.name() == CHANGE_TYPE) {
        return Err(LakeError::Unsupported {
            table: shape.schema().name().clone(),
            feature: format!("a column \"{CHANGE_TYPE}\" of its own beside that of its changes"),
        });
    }
    let change_type = Arc::new(Field::new(CHANGE_TYPE, DataType::Utf8, false));
    let fields: Fields = [change_type].into_iter().chain(fields.iter().cloned()).collect();
    Ok(Arc::new(Schema::new(fields)))
}

fn unreadable(table: &TableName) -> impl Fn(ArrowError) -> LakeError + use<> {
    let table = table.clone();
    move |source| LakeError::Arrow { doing: "list the changes", table: table.clone(), source }
}

#[derive(Debug)]
enum To {
    Now(Arc<TableView>),
    Then(Point),
}

#[derive(Debug)]
struct Changes {
    past: Arc<Past>,
    from: Point,
    to: To,
    schema: SchemaRef,
}

impl Changes {
    async fn open(
        past: Arc<Past>,
        from: Point,
        to: Result<Arc<TableView>, Point>,
    ) -> Result<(ChangeStream, u64), LakeError> {
        let (_, before) = past.open(&from).await?;
        let after = match to {
            Ok(now) => now,
            Err(then) => past.open(&then).await?.1,
        };
        changes(before, after)
    }
}

impl PartitionStream for Changes {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let to = match &self.to {
            To::Now(view) => Ok(Arc::clone(view)),
            To::Then(point) => Err(point.clone()),
        };
        let opened = Self::open(Arc::clone(&self.past), self.from.clone(), to);
        let schema = Arc::clone(&self.schema);
        let batches = async move {
            let (changes, held_bytes) = opened.await.map_err(external)?;
            // What is held counts as memory of the query, to its end.
            let held = MemoryConsumer::new(CHANGE_TYPE).register(context.memory_pool());
            held.try_grow(usize::try_from(held_bytes).unwrap_or(usize::MAX))?;
            let rows = move |batch: ChangeBatch| {
                let _held = &held;
                ready(as_rows(&schema, &batch))
            };
            Ok(changes.map_err(external).and_then(rows))
        };
        let batches = batches.try_flatten_stream();
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches))
    }
}

fn external(error: LakeError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Each change as a row, an update as two.
fn as_rows(schema: &SchemaRef, changes: &ChangeBatch) -> DataFusionResult<RecordBatch> {
    let (mut types, mut places) = (Vec::new(), Vec::new());
    for (row, op) in changes.ops().iter().enumerate() {
        let images: &[(&str, usize)] = match op {
            Op::Insert => &[("INSERT", 1)],
            Op::Delete => &[("DELETE", 0)],
            Op::Update => &[("UPDATE_BEFORE", 0), ("UPDATE_AFTER", 1)],
            Op::Truncate => &[],
        };
        for (ty, image) in images {
            types.push(*ty);
            places.push((*image, row));
        }
    }
    let rows = interleave_record_batch(&[changes.before(), changes.after()], &places)?;
    let types: ArrayRef = Arc::new(StringArray::from(types));
    let values = rows.columns().iter().zip(schema.fields().iter().skip(1));
    let values = values.map(|(values, field)| cast(values, field.data_type()));
    let columns = std::iter::once(Ok(types)).chain(values).collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}
