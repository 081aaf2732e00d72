//! Plans and runs statements. Each statement has a session of its own over one view, so nothing
//! one connection sets can reach another, and no statement sees two states of the lake.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use datafusion::{
    catalog::SchemaProvider,
    common::ParamValues,
    error::DataFusionError,
    execution::{
        SessionState, SessionStateBuilder,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::{FairSpillPool, TrackConsumersPool},
        runtime_env::RuntimeEnvBuilder,
    },
    logical_expr::LogicalPlan,
    prelude::{SQLOptions, SessionConfig, SessionContext},
    scalar::ScalarValue,
    sql::parser::Statement as EngineStatement,
};
use datafusion_pg_catalog::{pg_catalog::context::EmptyContextProvider, setup_pg_catalog};
use medlake_contract::Kind;
use medlake_lake::{AsOf, ReadView};
use tokio::sync::{Semaphore, watch};

use crate::{
    catalog::{NewestCatalog, StatementCatalog},
    changes::{CHANGES, Changes},
    config::QueryServerConfig,
    engine_error::explain,
    error::{QueryError, SqlCode, SqlProblem},
    functions,
    statement::{Command, ParsedQuery, SqlReader},
    stream::{Limits, QueryStream, within},
    uuids,
    yielding::YieldAboveJoins,
};

/// What a statement's session decides about its plan.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// Where table names without a schema are looked up.
    pub(crate) schema: String,
    /// The time zone of timestamps in text, an IANA name or an offset.
    pub(crate) time_zone: String,
    /// Who asks.
    pub(crate) user: String,
    /// What `current_setting` answers.
    pub(crate) settings: Arc<BTreeMap<String, String>>,
    /// The cut of the past that tables are read at; the view's own when absent.
    pub(crate) as_of: Option<AsOf>,
    /// Partitions a plan is split into; the server's own number when absent.
    pub(crate) partitions: Option<usize>,
}

/// A planned statement over one view.
pub(crate) struct Planned {
    ctx: SessionContext,
    pub(crate) plan: LogicalPlan,
    view: Arc<ReadView>,
    sql: Arc<str>,
}

impl fmt::Debug for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Planned").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl Planned {
    /// Puts values in the place of `$1`, `$2` and so on.
    pub(crate) fn bind(mut self, values: Vec<ScalarValue>) -> Result<Self, QueryError> {
        if !values.is_empty() {
            self.plan = self
                .plan
                .with_param_values(ParamValues::from(values))
                .map_err(|error| explain(error, &self.sql))?;
        }
        Ok(self)
    }
}

/// Runs statements, all of them read-only.
pub(crate) struct Engine {
    template: SessionState,
    views: watch::Receiver<Arc<ReadView>>,
    pg_catalog: Arc<dyn SchemaProvider>,
    reader: SqlReader,
    permits: Arc<Semaphore>,
    permit_count: usize,
    queue_timeout: Duration,
    statement_timeout: Duration,
    catalog: String,
    default_schema: String,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("catalog", &self.catalog).finish_non_exhaustive()
    }
}

impl Engine {
    /// # Errors
    /// When the spill folder or the catalog's own tables cannot be set up.
    pub(crate) fn new(
        config: &QueryServerConfig,
        views: watch::Receiver<Arc<ReadView>>,
    ) -> Result<Self, QueryError> {
        let failed = |source: DataFusionError| QueryError::Engine {
            message: crate::engine_error::clean(&source.to_string()),
            kind: Kind::Internal,
            source,
        };
        let spill = match &config.spill_folder {
            Some(folder) => DiskManagerMode::Directories(vec![folder.clone()]),
            None => DiskManagerMode::OsTmpDirectory,
        };
        let consumers = std::num::NonZeroUsize::MIN.saturating_add(4);
        let pool = FairSpillPool::new(config.memory_limit_bytes);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(TrackConsumersPool::new(pool, consumers)))
            .with_disk_manager_builder(
                DiskManagerBuilder::default()
                    .with_mode(spill)
                    .with_max_temp_directory_size(config.spill_limit_bytes),
            )
            .build_arc()
            .map_err(failed)?;
        let mut settings = SessionConfig::new()
            .with_default_catalog_and_schema(&config.catalog, &config.default_schema)
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(true)
            .with_target_partitions(config.target_partitions);
        let options = settings.options_mut();
        options.sql_parser.collect_spans = true;
        options.sql_parser.dialect = datafusion::config::Dialect::PostgreSQL;
        options.execution.time_zone = Some("UTC".into());
        let newest = NewestCatalog::new(views.clone());
        let state = SessionStateBuilder::new_with_default_features()
            .with_config(settings)
            .with_runtime_env(runtime)
            .with_catalog_list(newest.list(&config.catalog))
            .with_physical_optimizer_rule(Arc::new(YieldAboveJoins))
            .build();
        let ctx = SessionContext::new_with_state(state);
        setup_pg_catalog(&ctx, &config.catalog, EmptyContextProvider).map_err(|e| failed(*e))?;
        functions::register_fixed(&ctx);
        let pg_catalog = newest.pg_catalog().ok_or_else(|| {
            failed(DataFusionError::Internal("pg_catalog was not registered".into()))
        })?;
        Ok(Self {
            template: uuids::with_uuids(ctx.state()).map_err(failed)?,
            views,
            pg_catalog,
            reader: SqlReader::new(),
            permits: Arc::new(Semaphore::new(config.permits)),
            permit_count: config.permits,
            queue_timeout: config.queue_timeout,
            statement_timeout: config.statement_timeout,
            catalog: config.catalog.clone(),
            default_schema: config.default_schema.clone(),
        })
    }

    /// The newest view.
    pub(crate) fn view(&self) -> Arc<ReadView> {
        Arc::clone(&self.views.borrow())
    }

    /// Bytes of memory statements hold.
    pub(crate) fn memory_reserved(&self) -> usize {
        self.template.runtime_env().memory_pool.reserved()
    }

    /// How many statements could start at once.
    pub(crate) fn free_permits(&self) -> usize {
        self.permits.available_permits()
    }

    /// The session of a door that has none.
    pub(crate) fn default_session(&self) -> Session {
        Session {
            schema: self.default_schema.clone(),
            time_zone: "UTC".into(),
            user: "medlake".into(),
            settings: Arc::new(BTreeMap::new()),
            as_of: None,
            partitions: None,
        }
    }

    /// The session of a tile. The tiles of a dashboard run side by side, so that splitting each of
    /// them, too, would only add exchanges between partitions.
    pub(crate) fn tile_session(&self) -> Session {
        Session { partitions: Some(1), ..self.default_session() }
    }

    /// How long a statement may run unless somebody says otherwise.
    pub(crate) fn statement_timeout(&self) -> Duration {
        self.statement_timeout
    }

    /// The statements of a text.
    pub(crate) fn read(&self, sql: &str) -> Result<Vec<Command>, QueryError> {
        self.reader.read(sql)
    }

    /// Plans a statement over `view`, or over the past of it that the session asks for.
    pub(crate) async fn plan(
        &self,
        view: &Arc<ReadView>,
        session: &Session,
        query: &ParsedQuery,
    ) -> Result<Planned, QueryError> {
        let sql: Arc<str> = Arc::from(query.sql.as_str());
        let view = match session.as_of {
            None => Arc::clone(view),
            Some(as_of) => Box::pin(view.as_of(as_of))
                .await
                .map_err(|error| explain(DataFusionError::External(Box::new(error)), &sql))?,
        };
        let ctx = self.context(&view, session);
        let statement = EngineStatement::Statement(Box::new(query.statement.clone()));
        let plan = Box::pin(ctx.state().statement_to_plan(statement))
            .await
            .map_err(|error| explain(error, &sql))?;
        // What the words of a statement did not give away, its plan does.
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(|_refused| QueryError::ReadOnly { command: "this statement".into() })?;
        Ok(Planned { ctx, plan, view, sql })
    }

    /// Starts a planned statement once there is a permit.
    pub(crate) async fn run(
        &self,
        planned: Planned,
        limits: &Limits,
    ) -> Result<QueryStream, QueryError> {
        let unbound = planned.plan.get_parameter_names();
        if let Some(name) = unbound.ok().and_then(|names| names.into_iter().min()) {
            let message = format!("there is no parameter {name}");
            return Err(SqlProblem::new(SqlCode::UndefinedParameter, message).into());
        }
        let deadline = limits.deadline();
        let start = async {
            let waiting = Arc::clone(&self.permits).acquire_owned();
            let permit = match tokio::time::timeout(self.queue_timeout, waiting).await {
                Ok(Ok(permit)) => permit,
                _ => return Err(QueryError::Busy { permits: self.permit_count }),
            };
            let Planned { ctx, plan, view, sql } = planned;
            let rows = async { ctx.execute_logical_plan(plan).await?.execute_stream().await };
            let rows = Box::pin(rows).await.map_err(|error| explain(error, &sql))?;
            Ok(QueryStream::new(rows, view, sql, limits, deadline, permit))
        };
        within(deadline, &limits.cancel, start).await
    }

    /// Plans and starts a query at `view`, for a door without sessions and parameters.
    pub(crate) async fn query(
        &self,
        view: &Arc<ReadView>,
        session: &Session,
        query: ParsedQuery,
        limits: &Limits,
    ) -> Result<QueryStream, QueryError> {
        let planned = self.plan(view, session, &query).await?;
        self.run(planned, limits).await
    }

    fn context(&self, view: &Arc<ReadView>, session: &Session) -> SessionContext {
        let mut state = self.template.clone();
        let pg_catalog = Arc::clone(&self.pg_catalog);
        state.register_catalog_list(StatementCatalog::list(&self.catalog, view, pg_catalog));
        let options = state.config_mut().options_mut();
        options.catalog.default_schema.clone_from(&session.schema);
        if let Some(partitions) = session.partitions {
            options.execution.target_partitions = partitions;
        }
        let zoned = options.execution.time_zone.as_deref() != Some(session.time_zone.as_str());
        if zoned {
            options.execution.time_zone = Some(session.time_zone.clone());
        }
        let ctx = SessionContext::new_with_state(state);
        if zoned {
            // Functions such as now() carry the time zone they were made with.
            let state = ctx.state();
            for function in state.scalar_functions().values() {
                let options = state.config_options();
                if let Some(updated) = function.inner().with_updated_config(options) {
                    ctx.register_udf(updated);
                }
            }
        }
        ctx.register_udtf(CHANGES, Changes::new(view, &session.schema));
        functions::register_session(&ctx, &session.schema, &session.user, &session.settings);
        ctx
    }
}
