use std::{io, sync::Arc, time::Duration};

use axum::Router;
use medlake_lake::ReadView;
use medlake_semantic_layer::{Model, Now};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Clock, QueryServerConfig},
    dashboard::{definition::Dashboard, live::Live},
    engine::Engine,
    error::QueryError,
    http,
    http::ingest::IngestStatus,
    postgres::PostgresDoor,
    statement::SqlReader,
    telemetry::Telemetry,
};

/// What the rest of the process adds to `/healthz` and `/metrics`. Both are asked for at each
/// request and must answer at once.
pub trait Status: Send + Sync {
    /// A JSON value for `/healthz`.
    fn parts(&self) -> serde_json::Value {
        serde_json::Value::Object(serde_json::Map::new())
    }

    /// How changes are taken in, when this process does that.
    fn ingest(&self) -> Option<IngestStatus> {
        None
    }

    /// Lines for `/metrics`, in Prometheus' text form, each ended.
    fn prometheus(&self) -> String {
        String::new()
    }
}

/// Nothing to add.
#[derive(Debug, Clone, Copy)]
struct Silent;

impl Status for Silent {}

/// What all HTTP doors share.
pub(crate) struct Shared {
    pub(crate) engine: Arc<Engine>,
    pub(crate) model: Arc<Model>,
    pub(crate) live: Arc<Live>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) status: Arc<dyn Status>,
    pub(crate) clock: Clock,
    pub(crate) json_row_limit: u64,
    pub(crate) heartbeat: Duration,
}

impl Shared {
    /// Seconds since the newest transaction in `view` was committed at its source.
    pub(crate) fn freshness_seconds(&self, view: &ReadView) -> Option<f64> {
        let micros = (self.clock)().saturating_sub(view.committed_at_micros()?);
        Some(Duration::from_micros(u64::try_from(micros).unwrap_or(0)).as_secs_f64())
    }
}

/// The doors: HTTP ([`QueryServer::router`]) and PostgreSQL's protocol
/// ([`QueryServer::serve_postgres`]).
///
/// Every statement and every dashboard refresh reads one view, the newest at its start, to its end.
pub struct QueryServer {
    shared: Arc<Shared>,
    postgres: Arc<PostgresDoor>,
}

impl std::fmt::Debug for QueryServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueryServer").finish_non_exhaustive()
    }
}

impl QueryServer {
    /// Sets up the doors over the views that come through `views`.
    ///
    /// # Errors
    /// [`QueryError::Definitions`] with every problem of the configuration and of the dashboards;
    /// [`QueryError::Engine`] when the spill folder cannot be used.
    pub fn new(
        config: QueryServerConfig,
        views: watch::Receiver<Arc<ReadView>>,
        model: Model,
        dashboards: Vec<Dashboard>,
        clock: Clock,
    ) -> Result<Self, QueryError> {
        let mut problems = config.problems();
        let (reader, now) = (SqlReader::new(), Now::at_micros(clock()));
        for (i, dashboard) in dashboards.iter().enumerate() {
            if dashboards[..i].iter().any(|other| other.id == dashboard.id) {
                problems.push(format!("dashboard \"{}\" is there twice", dashboard.id));
            }
            problems.extend(dashboard.problems(&model, &reader, now));
        }
        if !problems.is_empty() {
            return Err(QueryError::Definitions { problems });
        }
        let engine = Arc::new(Engine::new(&config, views.clone())?);
        let (model, telemetry) = (Arc::new(model), Arc::new(Telemetry::default()));
        let live = Live::new(
            Arc::clone(&engine),
            Arc::clone(&model),
            Arc::clone(&telemetry),
            Arc::clone(&clock),
            views,
            config.dashboard_interval,
            dashboards,
        );
        let postgres = PostgresDoor::new(
            Arc::clone(&engine),
            Arc::clone(&telemetry),
            config.catalog,
            config.postgres_connections,
        );
        let shared = Shared {
            engine,
            model,
            live: Arc::new(live),
            telemetry,
            status: Arc::new(Silent),
            clock,
            json_row_limit: config.json_row_limit,
            heartbeat: config.heartbeat,
        };
        Ok(Self { shared: Arc::new(shared), postgres: Arc::new(postgres) })
    }

    /// Adds what the rest of the process says of itself. Call it before [`Self::router`].
    #[must_use]
    pub fn with_status(mut self, status: Arc<dyn Status>) -> Self {
        let old = &self.shared;
        self.shared = Arc::new(Shared {
            engine: Arc::clone(&old.engine),
            model: Arc::clone(&old.model),
            live: Arc::clone(&old.live),
            telemetry: Arc::clone(&old.telemetry),
            status,
            clock: Arc::clone(&old.clock),
            json_row_limit: old.json_row_limit,
            heartbeat: old.heartbeat,
        });
        self
    }

    /// The HTTP doors: `/api/v1/...`, `/openapi.json`, `/healthz` and `/metrics`. It has no
    /// fallback, so that the caller can serve a screen beside it.
    pub fn router(&self) -> Router {
        http::router(Arc::clone(&self.shared))
    }

    /// Serves PostgreSQL's protocol on `listener` until `cancel`, then cuts all connections.
    ///
    /// There are no accounts yet: any user and password are taken, and only from this machine.
    ///
    /// # Errors
    /// None after the start; a connection that cannot be taken is logged.
    pub async fn serve_postgres(
        &self,
        listener: TcpListener,
        cancel: CancellationToken,
    ) -> io::Result<()> {
        Arc::clone(&self.postgres).serve(listener, cancel).await
    }
}
