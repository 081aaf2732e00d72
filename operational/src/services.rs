use std::{future::Future, sync::Arc};

use axum::Router;
use tokio::sync::Notify;

use crate::{
    Database, OnCommit, OperationalError, Storage, chronic_care, distribution, http, mall, outbox,
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
    /// Opens or creates the databases `mall`, `distribution` and `chronic_care`.
    ///
    /// `on_commit` is called after each commit that may have changed captured rows.
    ///
    /// # Errors
    /// When the folder, the server or a database cannot be opened, or an applied migration differs
    /// from ours.
    pub async fn open(
        storage: &Storage,
        clock: Clock,
        on_commit: OnCommit,
    ) -> Result<Self, OperationalError> {
        let mall_committed = Arc::new(Notify::new());
        let on_mall_commit: OnCommit = {
            let (committed, told) = (Arc::clone(&mall_committed), Arc::clone(&on_commit));
            Arc::new(move || {
                committed.notify_one();
                told();
            })
        };
        let open = |name, migrations, told| Database::open(storage, name, migrations, told);
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
