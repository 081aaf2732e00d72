//! The Postgres door: sessions, statements and rows for psql, drivers and BI tools.
//!
//! Handlers of our own over pgwire; why, says `docs/decisions/0010-own-postgres-handlers.md`.

mod connection;
mod extended;
mod parameters;
mod rows;
mod settings;
mod simple;
mod startup;
mod value;

use std::{io, sync::Arc, time::Instant};

use pgwire::{
    api::{
        ErrorHandler, PgWireServerHandlers,
        cancel::CancelHandler,
        copy::CopyHandler,
        query::{ExtendedQueryHandler, SimpleQueryHandler},
    },
    messages::response::TransactionStatus,
    tokio::process_socket,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::connection::Connections;
use crate::{
    engine::Engine,
    error::QueryError,
    telemetry::{Door, Telemetry},
};

/// What all connections share.
#[derive(Debug)]
pub(crate) struct PostgresDoor {
    engine: Arc<Engine>,
    telemetry: Arc<Telemetry>,
    connections: Arc<Connections>,
    preparer: Arc<extended::Preparer>,
    catalog: String,
    seats: Arc<Semaphore>,
    pids: pgwire::api::RandomPidSecretKeyGenerator,
}

impl PostgresDoor {
    pub(crate) fn new(
        engine: Arc<Engine>,
        telemetry: Arc<Telemetry>,
        catalog: String,
        connections: usize,
    ) -> Self {
        let preparer =
            extended::Preparer { engine: Arc::clone(&engine), telemetry: Arc::clone(&telemetry) };
        Self {
            preparer: Arc::new(preparer),
            engine,
            telemetry,
            connections: Arc::default(),
            catalog,
            seats: Arc::new(Semaphore::new(connections)),
            pids: pgwire::api::RandomPidSecretKeyGenerator::default(),
        }
    }

    /// Takes connections until `cancel`; then stops all of them and returns.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        cancel: CancellationToken,
    ) -> io::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = cancel.cancelled() => break,
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "a connection of the Postgres door broke");
                    }
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file handles, most likely: the next accept would fail at once, too.
                    tracing::warn!(%error, "could not accept a connection to the Postgres door");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(seat) = Arc::clone(&self.seats).try_acquire_owned() else {
                tracing::warn!(%peer, "turned a connection away: all seats are taken");
                continue;
            };
            let handlers = Handlers { door: Arc::clone(&self) };
            connections.spawn(async move {
                if let Err(error) = process_socket(socket, None, handlers).await {
                    tracing::debug!(%peer, %error, "a connection of the Postgres door ended");
                }
                drop(seat);
            });
        }
        connections.shutdown().await;
        Ok(())
    }

    fn count(&self, started: Instant, error: Option<&QueryError>) {
        self.telemetry.count(Door::Postgres, error, started.elapsed());
    }
}

/// Whether a statement may run in a transaction that has failed: only its end may.
fn check_transaction(
    status: TransactionStatus,
    command: &crate::statement::Command,
) -> Result<(), QueryError> {
    use crate::statement::Command;
    match (status, command) {
        (TransactionStatus::Error, Command::Commit | Command::Rollback) => Ok(()),
        (TransactionStatus::Error, _) => Err(QueryError::TransactionAborted),
        _ => Ok(()),
    }
}

struct Handlers {
    door: Arc<PostgresDoor>,
}

impl PgWireServerHandlers for Handlers {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        Arc::clone(&self.door)
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        Arc::clone(&self.door)
    }

    fn startup_handler(&self) -> Arc<impl pgwire::api::auth::StartupHandler> {
        Arc::clone(&self.door)
    }

    fn copy_handler(&self) -> Arc<impl CopyHandler> {
        Arc::new(pgwire::api::NoopHandler)
    }

    fn error_handler(&self) -> Arc<impl ErrorHandler> {
        Arc::new(pgwire::api::NoopHandler)
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        Arc::clone(&self.door)
    }
}
