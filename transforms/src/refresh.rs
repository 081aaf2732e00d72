//! One mart brought up to one picture of the lake.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use datafusion::{
    arrow::record_batch::RecordBatch,
    catalog::{CatalogProvider, TableProvider},
    common::ScalarValue,
    datasource::MemTable,
};
use medlake_contract::{ChangeBatch, Op, TableName};

use crate::{
    data_test,
    difference::{changes, conform},
    engine::{Engine, Session},
    error::MartError,
    frame,
    model::{Body, DataTest, Mart},
    touched::{Partitions, Scope},
};

/// What changed in the raw tables.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// The changed rows, both images of each, for the pseudo table `changed`.
    rows: BTreeMap<TableName, Vec<RecordBatch>>,
    /// Tables that were truncated: nobody names the rows they lost.
    truncated: BTreeSet<TableName>,
}

/// Both images of every change, without the sides that do not exist.
pub(crate) fn changed_rows(batches: &[ChangeBatch]) -> Result<Changed, MartError> {
    let mut changed = Changed::default();
    for batch in batches {
        let name = batch.table().name();
        if batch.ops().contains(&Op::Truncate) {
            changed.truncated.insert(name.clone());
        }
        let rows = changed.rows.entry(name.clone()).or_default();
        for (image, absent) in [(batch.before(), Op::Insert), (batch.after(), Op::Delete)] {
            let exists = batch.ops().iter();
            let exists = exists.map(|op| Some(*op != absent && *op != Op::Truncate)).collect();
            rows.push(datafusion::arrow::compute::filter_record_batch(image, &exists)?);
        }
    }
    Ok(changed)
}

/// What is remembered about a mart between two refreshes.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    /// What is still to do: everything at first, later what a failure left.
    pub(crate) pending: Scope,
    /// The value of the mart's `as_of` query it was built with.
    pub(crate) as_of: Option<ScalarValue>,
}

/// How one refresh of one mart went.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) scope: Scope,
    pub(crate) rows: usize,
    pub(crate) changes: Option<ChangeBatch>,
    pub(crate) failure: Option<MartError>,
    pub(crate) memory: Memory,
}

/// Everything a refresh of a mart reads.
#[derive(Clone)]
pub(crate) struct Inputs {
    pub(crate) engine: Arc<Engine>,
    pub(crate) lake: Arc<dyn CatalogProvider>,
    pub(crate) changed: Arc<Changed>,
}

impl Inputs {
    fn has(&self, table: &TableName) -> bool {
        self.lake.schema(table.namespace()).is_some_and(|schema| schema.table_exist(table.table()))
    }
}

/// Rebuilds what the changes touch. `None` when they touch nothing of this mart.
pub(crate) async fn refresh(mart: Arc<Mart>, inputs: Inputs, memory: Memory) -> Option<Done> {
    let concerned = mart.touched.keys().chain(&mart.tested_against).collect::<BTreeSet<_>>();
    let everything = memory.pending == Scope::Everything;
    if !everything && !concerned.iter().any(|table| inputs.changed.rows.contains_key(*table)) {
        return None;
    }
    let before = memory.clone();
    if let Some(table) = mart.touched.keys().find(|table| !inputs.has(table)) {
        return Some(Done {
            scope: Scope::Everything,
            rows: 0,
            changes: None,
            failure: Some(MartError::Missing(table.clone())),
            memory: Memory { pending: Scope::Everything, as_of: before.as_of },
        });
    }
    let (scope, as_of) = match scope_of(&mart, &inputs, memory).await {
        Ok(found) => found,
        Err(failure) => {
            // What was touched is not known, so nothing less than everything may be left to do.
            return Some(Done {
                scope: Scope::Everything,
                rows: 0,
                changes: None,
                failure: Some(failure),
                memory: Memory { pending: Scope::Everything, as_of: before.as_of },
            });
        }
    };
    if scope.is_empty() {
        return None;
    }
    let built = rebuild(&mart, &inputs, &scope, as_of.as_ref()).await;
    Some(match built {
        Ok((rows, changes)) => Done {
            scope,
            rows,
            changes,
            failure: None,
            memory: Memory { pending: Scope::nothing(), as_of },
        },
        Err(failure) => Done {
            rows: 0,
            changes: None,
            failure: Some(failure),
            memory: Memory { pending: scope.clone(), as_of: before.as_of },
            scope,
        },
    })
}

/// What to rebuild, and the value of the mart's `as_of` query.
async fn scope_of(
    mart: &Mart,
    inputs: &Inputs,
    memory: Memory,
) -> Result<(Scope, Option<ScalarValue>), MartError> {
    let session = inputs.engine.session(Arc::clone(&inputs.lake), Vec::new())?;
    let mut scope = memory.pending;
    let as_of = match &mart.as_of {
        None => None,
        Some(query) => Some(value_of(&session.rows(query, &Scope::Everything).await?)?),
    };
    let truncated = mart.touched.keys().any(|table| inputs.changed.truncated.contains(table));
    if as_of != memory.as_of || truncated {
        scope = Scope::Everything;
    }
    for (table, query) in &mart.touched {
        if scope == Scope::Everything {
            break;
        }
        let Some(changed) = inputs.changed.rows.get(table) else { continue };
        let session = session_with(inputs, "changed", changed.clone())?;
        let rows = session.rows(query, &Scope::Everything).await?;
        let mut partitions = Partitions::default();
        partitions.add(&mart.partition, &rows)?;
        scope.add(partitions);
    }
    Ok((scope, as_of))
}

/// The rows that should be there against those that are.
async fn rebuild(
    mart: &Mart,
    inputs: &Inputs,
    scope: &Scope,
    as_of: Option<&ScalarValue>,
) -> Result<(usize, Option<ChangeBatch>), MartError> {
    let session = inputs.engine.session(Arc::clone(&inputs.lake), Vec::new())?;
    let new = match &mart.body {
        Body::Query(query) => conform(&mart.schema, &session.rows(query, scope).await?)?,
        Body::Frame { function, inputs } => {
            let mut frames = Vec::with_capacity(inputs.len());
            for (schema, query) in inputs {
                frames.push(frame::to_frame(schema, &session.rows(query, scope).await?)?);
            }
            let as_of_day = match as_of {
                Some(ScalarValue::Date32(day)) => *day,
                _ => None,
            };
            let (function, schema) = (*function, Arc::clone(&mart.schema));
            let context = frame::FrameContext { as_of_day };
            tokio::task::spawn_blocking(move || {
                frame::from_frame(&function(&frames, context)?, &schema)
            })
            .await??
        }
    };
    let old = conform(&mart.schema, &session.rows(&mart.present, scope).await?)?;
    let asks = |test: &DataTest| {
        matches!(test, DataTest::Relationship { .. } | DataTest::Reconciliation { .. })
    };
    let session = if mart.tests.iter().any(asks) {
        session_with(inputs, "new_rows", vec![new.clone()])?
    } else {
        session
    };
    data_test::check(mart, &session, &new, scope).await?;
    Ok((new.num_rows(), changes(&mart.schema, &old, &new)?))
}

fn session_with(inputs: &Inputs, name: &str, rows: Vec<RecordBatch>) -> Result<Session, MartError> {
    let Some(first) = rows.first() else {
        return Ok(inputs.engine.session(Arc::clone(&inputs.lake), Vec::new())?);
    };
    let table: Arc<dyn TableProvider> = Arc::new(MemTable::try_new(first.schema(), vec![rows])?);
    Ok(inputs.engine.session(Arc::clone(&inputs.lake), vec![(name, table)])?)
}

/// The value of a query of one row and one column.
fn value_of(rows: &[RecordBatch]) -> Result<ScalarValue, MartError> {
    match rows.iter().find(|batch| batch.num_rows() > 0) {
        Some(batch) => Ok(ScalarValue::try_from_array(batch.column(0), 0)?),
        None => Ok(ScalarValue::Null),
    }
}
