use std::{
    future::Future,
    path::Path,
    sync::{Arc, OnceLock},
};

use axum::Router;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    Capture, Database, MasterKeys, OnCommit, OperationalError, Storage, chronic_care,
    configuration, distribution,
    files::{FileStore, Files},
    http,
    http::metrics::Requests,
    identifiers,
    identity::{self, PasswordCost, keys::KnownKeys},
    mall, notification, outbox, support, timers,
};

/// How many passwords are tried at a time.
const PASSWORDS_AT_A_TIME: usize = 2;

/// Tells the time, in microseconds since 1970 (UTC).
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The services with their databases. Cheap to clone; all clones are the same services.
#[derive(Clone)]
pub struct Services {
    inner: Arc<Inner>,
}

struct Inner {
    mall: Database,
    distribution: Database,
    chronic_care: Database,
    identity: Database,
    support: Database,
    clock: Clock,
    mall_settings: OnceLock<mall::Settings>,
    options: OnceLock<Options>,
    known_keys: KnownKeys,
    known_settings: configuration::Known,
    /// Passwords are tried one or two at a time: each takes memory, and time of a processor.
    password_turns: Semaphore,
    files: Files,
    requests: Requests,
    measured_elsewhere: OnceLock<Measured>,
}

/// Adds what others measured to the metrics of the services.
pub type Measured = Box<dyn Fn(&mut String) + Send + Sync>;

/// How the services are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Who may ask.
    pub access: Access,
    /// What the services call themselves, in tokens and in what they publish of themselves: where they
    /// are found from outside, without a slash at its end.
    pub issuer: String,
    /// What a password costs to try.
    pub password_cost: PasswordCost,
    /// Whether webhooks may be at addresses of private networks and of this machine, by `http` too.
    pub private_webhooks: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            access: Access::Open,
            issuer: "http://127.0.0.1:8081".to_owned(),
            password_cost: PasswordCost::default(),
            private_webhooks: false,
        }
    }
}

/// Who may ask the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whoever reaches them, for everything: for one machine.
    Open,
    /// Whoever shows a token that grants what they ask.
    Tokens,
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").field("mall", &self.inner.mall).finish_non_exhaustive()
    }
}

impl Services {
    /// Opens or creates the databases `mall`, `distribution` and `chronic_care`, which are captured, and
    /// `identity` and `support`, which are not. Identifiers are encrypted under the master keys of a file
    /// `master.keys` in the folder; services on a server need keys given.
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
        let services = Self::open_without_keys(storage, clock, on_commit).await?;
        if let Storage::Folder { folder, .. } = storage {
            services.use_key_file(&folder.join("master.keys")).await?;
        }
        Ok(services)
    }

    /// As [`open`](Self::open), with master keys to be given by
    /// [`use_master_keys`](Self::use_master_keys) instead of those of a file `master.keys` in the folder.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_without_keys(
        storage: &Storage,
        clock: Clock,
        on_commit: OnCommit,
    ) -> Result<Self, OperationalError> {
        let open = |name, migrations, capture| {
            Database::open(storage, name, migrations, capture, Arc::clone(&on_commit))
        };
        let services = Self {
            inner: Arc::new(Inner {
                mall: open(mall::NAME, mall::MIGRATIONS, Capture::On).await?,
                distribution: open(distribution::NAME, distribution::MIGRATIONS, Capture::On)
                    .await?,
                chronic_care: open(chronic_care::NAME, chronic_care::MIGRATIONS, Capture::On)
                    .await?,
                identity: open(identity::NAME, identity::MIGRATIONS, Capture::Off).await?,
                support: open(support::NAME, support::MIGRATIONS, Capture::Off).await?,
                clock,
                mall_settings: OnceLock::new(),
                options: OnceLock::new(),
                known_keys: KnownKeys::default(),
                known_settings: configuration::Known::default(),
                password_turns: Semaphore::new(PASSWORDS_AT_A_TIME),
                files: Files::default(),
                requests: Requests::default(),
                measured_elsewhere: OnceLock::new(),
            }),
        };
        if let Storage::Folder { folder, .. } = storage {
            services.files().keep_beside(folder)?;
        }
        identity::prepare(&services).await?;
        Ok(services)
    }

    /// Keeps files there, from now on; the first place that is given stays. Without, it is a folder beside
    /// the databases, if they are files.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub fn use_file_store(&self, store: &FileStore) -> Result<(), OperationalError> {
        self.inner.files.keep_in(store)
    }

    pub(crate) fn files(&self) -> &Files {
        &self.inner.files
    }

    /// Shows what others measured among the metrics of the services.
    pub fn show_measured(&self, measured: Measured) {
        let _ = self.inner.measured_elsewhere.set(measured);
    }

    pub(crate) fn measured_elsewhere(&self, out: &mut String) {
        if let Some(measured) = self.inner.measured_elsewhere.get() {
            measured(out);
        }
    }

    pub(crate) fn requests(&self) -> &Requests {
        &self.inner.requests
    }

    /// How they are run, from now on; the first options that are given stay. Without, it is by the default
    /// ones.
    pub fn use_options(&self, options: Options) {
        let _ = self.inner.options.set(options);
    }

    /// How they are run.
    #[must_use]
    pub fn options(&self) -> &Options {
        self.inner.options.get_or_init(Options::default)
    }

    pub(crate) fn known_keys(&self) -> &KnownKeys {
        &self.inner.known_keys
    }

    pub(crate) fn known_settings(&self) -> &configuration::Known {
        &self.inner.known_settings
    }

    pub(crate) async fn password_turn(&self) -> Option<SemaphorePermit<'_>> {
        self.inner.password_turns.acquire().await.ok()
    }

    /// As [`use_master_keys`](Self::use_master_keys), with those of a file, which is made if there is
    /// none and the databases were never opened with one.
    ///
    /// # Errors
    /// `Key` when the file is missing, or cannot be used, or is not the one of these databases.
    pub async fn use_key_file(&self, file: &Path) -> Result<(), OperationalError> {
        self.use_master_keys(identifiers::rotation::open(self, file).await?).await
    }

    /// What identifiers of persons, keys of tokens and secrets of webhooks are encrypted with, from now
    /// on.
    ///
    /// # Errors
    /// `Key` when the file lacks a key that something is kept under, or has another of the same id: then
    /// it is another file.
    pub async fn use_master_keys(&self, keys: MasterKeys) -> Result<(), OperationalError> {
        identifiers::rotation::register(self, &keys).await?;
        for database in self.databases() {
            database.use_master_keys(keys.clone());
        }
        Ok(())
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

    /// The identity service's database.
    #[must_use]
    pub fn identity(&self) -> &Database {
        &self.inner.identity
    }

    /// The database of notifications, files and settings.
    #[must_use]
    pub fn support(&self) -> &Database {
        &self.inner.support
    }

    /// What the mall of this process knows.
    #[must_use]
    pub fn mall_settings(&self) -> &mall::Settings {
        self.inner.mall_settings.get_or_init(mall::Settings::default)
    }

    /// Sets what the mall of this process knows. Only the first call counts, and none after the first request.
    pub fn use_mall_settings(&self, settings: mall::Settings) {
        self.inner.mall_settings.get_or_init(|| settings);
    }

    /// Takes the next step of every order of the mall for which it is due.
    ///
    /// # Errors
    /// When the database fails. What was done before stays done.
    pub async fn sweep_mall(&self) -> Result<mall::order_states::Swept, OperationalError> {
        mall::order_states::sweep(self).await
    }

    /// All of them.
    pub(crate) fn databases(&self) -> [&Database; 5] {
        let Inner { mall, distribution, chronic_care, identity, support, .. } = &*self.inner;
        [mall, distribution, chronic_care, identity, support]
    }

    /// The time the services go by, in microseconds since 1970 (UTC).
    #[must_use]
    pub fn now(&self) -> i64 {
        (self.inner.clock)()
    }

    /// The HTTP interface of all services, with `/openapi.json` and `/healthz`.
    pub fn router(&self) -> Router {
        http::router(self)
    }

    /// Delivers what is in the outboxes now, and what comes of it; for a replay, which has no dispatcher
    /// running, and for tests.
    ///
    /// # Errors
    /// When a database fails. What was not delivered stays in the outbox.
    pub async fn deliver_outbox(&self) -> Result<outbox::Delivered, OperationalError> {
        outbox::deliver_all(self).await
    }

    /// Delivers the outboxes as they fill, until `stop` completes. Delivery is at least once; the
    /// receivers do nothing the second time.
    pub async fn run_dispatcher(&self, stop: impl Future<Output = ()> + Send) {
        tokio::select! {
            () = stop => {}
            () = outbox::run(self, std::future::pending()) => {}
            () = notification::run(self, std::future::pending()) => {}
        }
    }

    /// Does what is due in chronic care by now: what time brings about by itself. Gives how much that was.
    ///
    /// # Errors
    /// When the database fails. What was done before stays done.
    pub async fn sweep_chronic_care(&self) -> Result<u64, OperationalError> {
        chronic_care::sweeps::run(self).await
    }

    /// Does what is due by the clock: frozen commission whose time has come is released, and so on. For a
    /// replay, which has no timers running, and for tests.
    ///
    /// # Errors
    /// The first there was; the rest was done all the same.
    pub async fn run_due(&self) -> Result<(), OperationalError> {
        timers::run_due(self).await
    }

    /// Does what is due by the clock, every minute, until `stop` completes.
    pub async fn run_timers(&self, stop: impl Future<Output = ()> + Send) {
        timers::run(self, stop).await;
    }

    /// Closes the databases, after which every call fails.
    pub async fn close(&self) {
        for database in self.databases() {
            database.close().await;
        }
    }
}
