//! The changes of an embedded database, published to Kafka as a connector of Debezium would.
//!
//! Changes are read from the change table in order, whole transactions, and sent in one transaction of
//! Kafka together with how far that is: the committed offset of a group that nobody else uses, whose
//! number is a change's. Whoever starts again reads it back, so each change is there once for those
//! who read what is committed. The database is told a moment later; only what it knows of as published
//! is trimmed. Why it is done like this: `docs/decisions/0021`.

mod config;
mod cursor;
mod error;
mod outbox;
mod producer;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use medlake_contract::with_causes;
use tokio::time::Instant;

pub(crate) use self::cursor::published_to;
pub use self::{config::PublishConfig, error::PublishError};
use self::{
    cursor::Cursor,
    outbox::{Batch, Outbox},
    producer::Producer,
};
use crate::{Clock, SourceHealth, source::Gauges};

/// How often a change table is looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(20);
/// How old what the database knows of its being published may become.
const TOLD_EVERY: Duration = Duration::from_secs(1);
/// How long to wait after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How long what is being published may take to end when it is to stop.
const LAST_BATCH: Duration = Duration::from_secs(3);

/// Publishes the changes of one service.
pub struct Publisher {
    service: String,
    path: PathBuf,
    config: PublishConfig,
    clock: Clock,
    gauges: Arc<Gauges>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("service", &self.service)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Publisher {
    /// For the service of this name, whose database is the file `path`. Nothing is done before
    /// [`run`](Self::run).
    ///
    /// # Errors
    /// When a setting is wrong.
    pub fn new(
        service: impl Into<String>,
        path: impl Into<PathBuf>,
        config: PublishConfig,
        clock: Clock,
    ) -> Result<Self, PublishError> {
        let service = service.into();
        config.producer(&service)?;
        config.consumer(&service)?;
        Ok(Self { service, path: path.into(), config, clock, gauges: Gauges::new("publisher") })
    }

    /// From now on nothing is kept in the database `path` for the sake of publishing; should it be
    /// published again, its rows are sent again first.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn forget(path: &Path) -> Result<(), PublishError> {
        Cursor::forget(path).await
    }

    /// Where to see how it is doing.
    #[must_use]
    pub fn progress(&self) -> PublishProgress {
        PublishProgress(Arc::clone(&self.gauges))
    }

    /// Publishes until `stop` completes. What goes wrong is shown, and tried again.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) {
        let mut stop = std::pin::pin!(stop);
        let stopping = AtomicBool::new(false);
        loop {
            let mut session = std::pin::pin!(self.session(&stopping));
            let done = tokio::select! {
                () = &mut stop => {
                    // A transaction that is left open would hold up who reads, until it times out.
                    stopping.store(true, Relaxed);
                    if self.gauges.read().failing.is_none() {
                        let _ = tokio::time::timeout(LAST_BATCH, session).await;
                    }
                    return;
                }
                done = &mut session => done,
            };
            let Err(failed) = done else { return };
            let failed = with_causes(&failed);
            let known = self.gauges.read().failing;
            if known.as_ref() != Some(&failed) {
                tracing::error!(
                    service = self.service,
                    error = failed,
                    "changes are not published"
                );
            }
            self.gauges.update(|health| {
                health.failing = Some(failed);
                health.caught_up = false;
            });
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(AFTER_FAILURE) => {}
            }
        }
    }

    /// Publishes from where it ended, until something goes wrong or it is to stop.
    async fn session(&self, stopping: &AtomicBool) -> Result<(), PublishError> {
        let mut cursor = Cursor::open(&self.path, &self.config).await?;
        let mut outbox = Outbox::open(&self.path, &self.service, &self.config.prefix).await?;
        self.measure(&mut outbox, cursor.published_to()).await?;
        let (mut producer, stored) = Producer::connect(&self.config, &self.service).await?;
        cursor.settle(stored, &self.config, &self.service)?;
        outbox.look(cursor.published_to()).await?;
        producer.make(outbox.topics()).await?;
        if !cursor.has_rows() {
            let (at, tables) = (cursor.published_to(), outbox.names());
            let count = outbox.copy(&producer, &cursor, at, &tables, (self.clock)()).await?;
            cursor.copied().await?;
            tracing::info!(
                service = self.service,
                rows = count,
                "the rows there are are published"
            );
        }
        self.gauges.update(|health| {
            if health.failing.take().is_some() {
                tracing::info!(service = self.service, "changes are published again");
            }
        });
        let mut told_at = Instant::now();
        loop {
            let batch = outbox.publish(&mut producer, &cursor, (self.clock)()).await?;
            if let Some(batch) = &batch {
                cursor.advance(batch.change_id);
                self.count(batch);
            }
            let idle = batch.is_none();
            if cursor.is_ahead() && told_at.elapsed() >= TOLD_EVERY {
                cursor.tell().await?;
                told_at = Instant::now();
            }
            self.measure(&mut outbox, cursor.published_to()).await?;
            if stopping.load(Relaxed) {
                return cursor.tell().await;
            }
            if idle {
                tokio::time::sleep(LOOKED_AT_EVERY).await;
            }
        }
    }

    fn count(&self, batch: &Batch) {
        self.gauges.update(|health| {
            health.rows += batch.rows;
            health.bytes += batch.bytes;
            health.transactions += batch.transactions;
            if batch.transactions > 0 {
                health.committed_at_micros = Some(batch.committed_at);
            }
        });
    }

    /// Says how much is not published yet.
    async fn measure(&self, outbox: &mut Outbox, published_to: i64) -> Result<(), PublishError> {
        if let Some(newest) = outbox.newest().await? {
            let behind = u64::try_from(newest - published_to).unwrap_or(0);
            self.gauges.update(|health| {
                health.lag_rows = Some(behind);
                health.caught_up = behind == 0;
            });
        }
        Ok(())
    }
}

/// How a publisher is doing: its failure if it has one, what it has published since it started, and
/// how many changes it has not published yet.
#[derive(Debug, Clone)]
pub struct PublishProgress(Arc<Gauges>);

impl PublishProgress {
    /// As it is now.
    #[must_use]
    pub fn read(&self) -> SourceHealth {
        self.0.read()
    }
}
