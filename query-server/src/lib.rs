//! The query server: every door through which somebody asks.
//!
//! SQL, metric queries and live dashboards over HTTP, and PostgreSQL's protocol for psql, drivers
//! and BI tools. Every statement reads one [`ReadView`](medlake_lake::ReadView) to its end, and so
//! do all tiles of a dashboard refresh; nothing here can write. Each statement gets a planning
//! session of its own, so no connection can change anything for another.
//!
//! This crate does not know where rows come from, how marts are built, how tables are stored, or
//! what the screen looks like. It reads no clock and no environment: both are passed in.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use medlake_lake::{Lake, LakeConfig};
//! use medlake_query_server::{QueryServer, QueryServerConfig};
//! use medlake_semantic_layer::Model;
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let lake = Lake::open(LakeConfig::new("/tmp/lake", Arc::new(|| 0))).await?;
//! let model = Model::embedded().map_err(|problems| problems[0].clone())?;
//! let config = QueryServerConfig::default();
//! let server = QueryServer::new(config, lake.watch(), model, vec![], Arc::new(|| 0))?;
//! let http: axum::Router = server.router();
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:5433").await?;
//! server.serve_postgres(listener, CancellationToken::new()).await?;
//! # Ok(())
//! # }
//! ```

mod answer;
mod catalog;
mod changes;
mod config;
mod dashboard;
mod engine;
mod engine_error;
mod error;
mod functions;
mod http;
mod json;
mod naming;
mod postgres;
mod server;
mod statement;
mod stream;
mod telemetry;
mod uuids;
mod versions;
mod yielding;

pub use answer::{AnswerColumn, SqlAnswer, ViewInfo};
pub use config::{Clock, QueryServerConfig};
pub use dashboard::definition::{Dashboard, Layout, Refresh, Tile, TileKind};
pub use error::{QueryError, SqlCode, SqlProblem};
pub use http::ingest::{IngestStatus, MemoryStatus, SourceStatus};
pub use server::{QueryServer, Status};
