use std::{future::Future, path::Path, sync::Arc};

use axum::Router;
use tokio::sync::Notify;

use crate::{
    Database, Durability, OnCommit, OperationalError, chronic_care, distribution, http, mall,
    outbox,
};

/// Tells the time, in microseconds since 1970 (UTC).
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The three services with their databases. Cheap to clone; all clones are the same services.
#[derive(Clone)]
pub struct Services {
    inner: Arc<Inner>,
}

struct Inner {
    mall: Database,
    distribution: Database,
    chronic_care: Database,
    clock: Clock,
    mall_committed: Arc<Notify>,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").field("mall", &self.inner.mall).finish_non_exhaustive()
    }
}

impl Services {
    /// Opens or creates the databases `mall.db`, `distribution.db` and `chronic_care.db` in `folder`,
    /// which survive a kill of the process ([`Durability::ProcessKill`]).
    ///
    /// `on_commit` is called after each commit that may have changed captured rows.
    ///
    /// # Errors
    /// When the folder or a database cannot be opened, or an applied migration differs from ours.
    pub async fn open(
        folder: &Path,
        clock: Clock,
        on_commit: OnCommit,
    ) -> Result<Self, OperationalError> {
        Self::open_with(folder, Durability::default(), clock, on_commit).await
    }

    /// [`open`](Self::open), choosing what a commit survives.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_with(
        folder: &Path,
        durability: Durability,
        clock: Clock,
        on_commit: OnCommit,
    ) -> Result<Self, OperationalError> {
        std::fs::create_dir_all(folder)
            .map_err(|source| OperationalError::Folder { folder: folder.to_path_buf(), source })?;
        let mall_committed = Arc::new(Notify::new());
        let on_mall_commit: OnCommit = {
            let (committed, told) = (Arc::clone(&mall_committed), Arc::clone(&on_commit));
            Arc::new(move || {
                committed.notify_one();
                told();
            })
        };
        let open =
            |name, migrations, told| Database::open(folder, name, migrations, durability, told);
        Ok(Self {
            inner: Arc::new(Inner {
                mall: open(mall::NAME, mall::MIGRATIONS, on_mall_commit).await?,
                distribution: open(
                    distribution::NAME,
                    distribution::MIGRATIONS,
                    Arc::clone(&on_commit),
                )
                .await?,
                chronic_care: open(chronic_care::NAME, chronic_care::MIGRATIONS, on_commit).await?,
                clock,
                mall_committed,
            }),
        })
    }

    /// The mall's database.
    #[must_use]
    pub fn mall(&self) -> &Database {
        &self.inner.mall
    }

    /// The distribution programme's database.
    #[must_use]
    pub fn distribution(&self) -> &Database {
        &self.inner.distribution
    }

    /// The chronic-care service's database.
    #[must_use]
    pub fn chronic_care(&self) -> &Database {
        &self.inner.chronic_care
    }

    /// The time the services go by, in microseconds since 1970 (UTC).
    #[must_use]
    pub fn now(&self) -> i64 {
        (self.inner.clock)()
    }

    /// The HTTP interface of all three services, with `/openapi.json` and `/healthz`.
    pub fn router(&self) -> Router {
        http::router(self)
    }

    /// Delivers what is in the mall's outbox now to the other two services; for a replay, which has
    /// no dispatcher running, and for tests.
    ///
    /// # Errors
    /// When a database fails. What was not delivered stays in the outbox.
    pub async fn deliver_outbox(&self) -> Result<outbox::Delivered, OperationalError> {
        outbox::deliver_all(self).await
    }

    /// Delivers the outbox as it fills, until `stop` completes. Delivery is at least once; the
    /// receivers do nothing the second time.
    pub async fn run_dispatcher(&self, stop: impl Future<Output = ()> + Send) {
        outbox::run(self, stop).await;
    }

    /// Completes when the mall has committed since the last call.
    pub(crate) async fn mall_committed(&self) {
        self.inner.mall_committed.notified().await;
    }

    /// Closes the databases, after which every call fails.
    pub async fn close(&self) {
        self.inner.mall.close().await;
        self.inner.distribution.close().await;
        self.inner.chronic_care.close().await;
    }
}
