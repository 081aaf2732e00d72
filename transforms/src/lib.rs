//! Models: raw tables of the lake into marts, checked and kept up to date with every cut.
//!
//! A model is a query in a `.sql` file with a `.yaml` beside it. Staging and intermediate models are
//! views: they are put in the place of their names. Marts are keyed tables. [`Transforms::refresh`]
//! rebuilds the partitions of the marts that a set of changes touches, compares them with what is
//! there, runs the data tests, and hands out only the differences; who calls it stages them beside
//! the raw changes, so that both become visible at once.
//!
//! This crate does not know where changes come from, when they are published or who reads the marts.
//! It writes nothing and reads no clock.
//!
//! ```
//! use medlake_transforms::Transforms;
//!
//! let transforms = Transforms::load()?;
//! let marts = transforms.mart_tables();
//! assert!(marts.iter().any(|table| table.name().to_string() == "marts.gmv_daily"));
//! # Ok::<(), medlake_transforms::TransformError>(())
//! ```

pub mod pdc;

mod data_test;
mod definition;
mod difference;
mod engine;
mod error;
mod frame;
mod functions;
mod graph;
mod load;
mod model;
mod refresh;
mod state;
mod touched;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use datafusion::catalog::CatalogProvider;
use medlake_contract::{ChangeBatch, TableName, TableSchema};
use medlake_lake::ReadView;
use tokio::task::JoinSet;

use crate::{
    definition::Files,
    engine::Engine,
    error::MartError,
    graph::parse,
    model::Mart,
    refresh::{Done, Inputs, Memory, changed_rows},
    state::StateRow,
    touched::Scope,
};
pub use crate::{
    error::{Problem, TransformError},
    model::ModelInfo,
    state::Status,
};

/// The models, and how far each mart is.
pub struct Transforms {
    engine: Arc<Engine>,
    marts: Vec<Arc<Mart>>,
    sources: Vec<Arc<TableSchema>>,
    models: Vec<ModelInfo>,
    state_table: Arc<TableSchema>,
    /// Empty until the first refresh has read the stored states.
    memory: BTreeMap<TableName, (Memory, Option<StateRow>)>,
}

/// What a refresh gives.
#[derive(Debug, Default)]
pub struct Refresh {
    /// Changes of marts and of their states: to be staged with the raw changes, all of them.
    pub batches: Vec<ChangeBatch>,
    /// One for each mart that was looked at, in the order of names.
    pub outcomes: Vec<Outcome>,
}

/// How the refresh of one mart went.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The mart.
    pub mart: TableName,
    /// Whether it is up to date now.
    pub status: Status,
    /// Why not.
    pub reason: Option<String>,
    /// Values of the widest partition column that were rebuilt; `None` for a whole rebuild.
    pub partitions: Option<usize>,
    /// Rows that were computed.
    pub rows: usize,
    /// Rows among them that were new, other or gone.
    pub changes: usize,
}

impl Transforms {
    /// The models this crate was built with.
    ///
    /// # Errors
    /// [`TransformError::Models`] with every problem in them.
    pub fn load() -> Result<Self, TransformError> {
        Self::from_files(&definition::embedded())
    }

    /// The models in a folder: `sources.yaml`, `staging/`, `intermediate/`, `marts/`.
    ///
    /// # Errors
    /// [`TransformError::Models`] with every problem in them, [`TransformError::File`].
    pub fn load_folder(folder: &Path) -> Result<Self, TransformError> {
        Self::from_files(&definition::in_folder(folder)?)
    }

    fn from_files(files: &Files) -> Result<Self, TransformError> {
        let engine = Arc::new(Engine::new());
        let loaded = load::load(files, &engine)?;
        Ok(Self {
            engine,
            marts: loaded.marts,
            sources: loaded.sources,
            models: loaded.models,
            state_table: Arc::new(state::schema()?),
            memory: BTreeMap::new(),
        })
    }

    /// The tables refreshes write: the marts and `system.model_state`. The lake must have them.
    #[must_use]
    pub fn mart_tables(&self) -> Vec<Arc<TableSchema>> {
        let marts = self.marts.iter().map(|mart| Arc::clone(&mart.schema));
        marts.chain([Arc::clone(&self.state_table)]).collect()
    }

    /// The raw tables the models read, with the columns they rely on.
    #[must_use]
    pub fn input_tables(&self) -> &[Arc<TableSchema>] {
        &self.sources
    }

    /// All models, for documentation.
    #[must_use]
    pub fn models(&self) -> &[ModelInfo] {
        &self.models
    }

    /// Brings the marts up to `view`, of which `changes` are the raw changes since the last refresh
    /// (more of them do no harm, fewer leave marts behind). A mart that is new, or whose definition
    /// changed, is rebuilt whole, whatever the changes.
    ///
    /// A mart that fails stays as it is; the outcome and its state row say why, what is left to do
    /// is remembered, and the other marts go on. When the result is not staged, load again: what is
    /// remembered here is ahead of the lake then.
    ///
    /// # Errors
    /// When the stored states cannot be read.
    pub async fn refresh(
        &mut self,
        view: &Arc<ReadView>,
        changes: &[ChangeBatch],
    ) -> Result<Refresh, TransformError> {
        let lake = view.catalog();
        if self.memory.is_empty() {
            self.remember(Arc::clone(&lake)).await?;
        }
        let changed = changed_rows(changes).map_err(|e| query_error("read the changes", e))?;
        let inputs = Inputs { engine: Arc::clone(&self.engine), lake, changed: Arc::new(changed) };
        let mut running = JoinSet::new();
        for (at, mart) in self.marts.iter().enumerate() {
            let Some((memory, _)) = self.memory.get(mart.name()) else { continue };
            let (mart, inputs, memory) = (Arc::clone(mart), inputs.clone(), memory.clone());
            running.spawn(async move { (at, refresh::refresh(mart, inputs, memory).await) });
        }
        let mut done: Vec<(usize, Done)> = Vec::new();
        while let Some(joined) = running.join_next().await {
            let (at, finished) = joined.map_err(|e| query_error("refresh a mart", e.into()))?;
            done.extend(finished.map(|finished| (at, finished)));
        }
        done.sort_by_key(|(at, _)| *at);
        self.take_over(view, done)
    }

    /// Reads the stored states: what they say was built by the same definition is taken as built.
    async fn remember(&mut self, lake: Arc<dyn CatalogProvider>) -> Result<(), TransformError> {
        let attempted = "read the states of the marts";
        let failed = |e: MartError| query_error(attempted, e);
        let session = self.engine.session(lake, Vec::new()).map_err(|e| failed(e.into()))?;
        let sql = format!("select * from {}", self.state_table.name());
        let query = parse(&sql).map_err(|(_, message)| {
            query_error(attempted, datafusion::error::DataFusionError::Plan(message).into())
        })?;
        let rows = session.rows(&query, &Scope::Everything).await.map_err(|e| failed(e.into()))?;
        let mut stored = state::read(&self.state_table, &rows).map_err(failed)?;
        for mart in &self.marts {
            let row = stored.remove(&mart.name().to_string());
            let current = row.as_ref().is_some_and(|row| {
                row.definition_hash == mart.definition_hash && row.status == Status::Built
            });
            let pending = if current { Scope::nothing() } else { Scope::Everything };
            self.memory.insert(mart.name().clone(), (Memory { pending, as_of: None }, row));
        }
        Ok(())
    }

    fn take_over(
        &mut self,
        view: &Arc<ReadView>,
        done: Vec<(usize, Done)>,
    ) -> Result<Refresh, TransformError> {
        let mut refresh = Refresh::default();
        let mut states = Vec::new();
        for (at, done) in done {
            let mart = &self.marts[at];
            let Some((memory, stored)) = self.memory.get_mut(mart.name()) else { continue };
            *memory = done.memory;
            let reason = done.failure.as_ref().map(MartError::reason);
            let status = match done.failure {
                None => Status::Built,
                Some(MartError::Missing(_)) => Status::Waiting,
                Some(_) => Status::Failed,
            };
            let whole = status == Status::Built && done.scope == Scope::Everything;
            let known = stored.as_ref().is_some_and(|row| {
                row.status == status
                    && row.reason == reason
                    && row.definition_hash == mart.definition_hash
            });
            if whole || !known {
                let built = |row: &StateRow| (row.built_rows, row.built_at);
                let (built_rows, built_at) = if whole {
                    (i64::try_from(done.rows).unwrap_or(i64::MAX), view.committed_at_micros())
                } else {
                    stored.as_ref().map_or((0, None), built)
                };
                let row = StateRow {
                    definition_hash: mart.definition_hash.clone(),
                    status,
                    reason: reason.clone(),
                    built_rows,
                    built_at,
                };
                states.push((mart.name().clone(), row.clone()));
                *stored = Some(row);
            }
            refresh.outcomes.push(Outcome {
                mart: mart.name().clone(),
                status,
                reason,
                partitions: done.scope.width(),
                rows: done.rows,
                changes: done.changes.as_ref().map_or(0, |batch| batch.ops().len()),
            });
            refresh.batches.extend(done.changes);
        }
        if !states.is_empty() {
            refresh.batches.push(state::changes(&self.state_table, &states)?);
        }
        Ok(refresh)
    }
}

fn query_error(attempted: &str, error: MartError) -> TransformError {
    TransformError::Query {
        attempted: attempted.to_owned(),
        source: datafusion::error::DataFusionError::External(Box::new(error)),
    }
}
