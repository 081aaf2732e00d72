//! Writers on one source: transactions and alterations from a seed, for as long as they are let.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::{RwLock, RwLockWriteGuard},
    task::JoinSet,
};

use super::{
    model::{Action, Alter, Generator, Key, Step, Table, Transaction, Value},
    source::{Failed, Session, Source},
};

const WRITERS: u64 = 3;

/// Rows that come last in a table: at least as many as it has partitions, which go by slot.
pub(crate) const LAST: i64 = 3;

/// How long a statement may take before its writer gives the connection up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A source under load.
pub(crate) struct Load {
    pub(crate) source: Box<dyn Source>,
    /// In the order they are locked; an alteration has its table alone.
    tables: Vec<RwLock<Table>>,
    /// A row every few milliseconds, numbered: what tells how far a copy is.
    pub(crate) beat: Table,
    beaten: AtomicI64,
    /// Slots that no writer uses.
    ends: AtomicI64,
    stop: AtomicBool,
    /// Nobody writes anything but beats.
    held: AtomicBool,
    pub(crate) transactions: AtomicU64,
    pub(crate) alterations: AtomicU64,
}

impl Load {
    /// Makes the tables.
    pub(crate) async fn prepare(source: Box<dyn Source>, keys: &[Key], seed: u64) -> Arc<Self> {
        let mut generator = Generator::new(StdRng::seed_from_u64(seed), source.kinds());
        let tables = generator.tables(keys);
        let beat = Table::new("crash_beat", Key::Int, &[]);
        for table in tables.iter().chain([&beat]) {
            source.create(table).await;
        }
        Arc::new(Self {
            source,
            tables: tables.into_iter().map(RwLock::new).collect(),
            beat,
            beaten: AtomicI64::new(0),
            ends: AtomicI64::new(1_000_000_000),
            stop: AtomicBool::new(false),
            held: AtomicBool::new(false),
            transactions: AtomicU64::new(0),
            alterations: AtomicU64::new(0),
        })
    }

    /// Puts rows into the tables.
    pub(crate) async fn fill(&self, seed: u64) {
        let mut generator = Generator::new(StdRng::seed_from_u64(!seed), self.source.kinds());
        let mut session = self.source.connect().await.unwrap();
        for table in self.tables().await {
            let rows = (0..500).map(|slot| (slot, generator.payload(&table))).collect();
            let step = Step { table, action: Action::Insert(rows) };
            session.write(&Transaction { steps: vec![step], commit: true }).await.unwrap();
        }
    }

    /// Starts the writers, each with a seed of its own.
    pub(crate) fn start(self: &Arc<Self>, seed: u64, tasks: &mut JoinSet<()>) {
        for writer in 0..WRITERS {
            let random = StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(writer + 1));
            let load = Arc::clone(self);
            tasks.spawn(async move { load.write(random).await });
        }
        let load = Arc::clone(self);
        tasks.spawn(async move { load.keep_beating().await });
        if self.source.alters() {
            let random = StdRng::seed_from_u64(seed.wrapping_mul(1_000));
            let load = Arc::clone(self);
            tasks.spawn(async move { load.alter(random).await });
        }
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Lets the writers write no more for a while, or go on.
    pub(crate) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    /// Waits until writers may write.
    async fn may_write(&self) {
        while self.held.load(Ordering::SeqCst) && !self.stopped() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// The tables as they are now; with the writers stopped, as they stay.
    pub(crate) async fn tables(&self) -> Vec<Table> {
        let mut tables = Vec::new();
        for table in &self.tables {
            tables.push(table.read().await.clone());
        }
        tables
    }

    /// The last beat that is known to be committed.
    pub(crate) fn beaten(&self) -> i64 {
        self.beaten.load(Ordering::SeqCst)
    }

    /// Writes to every table what comes last there, wherever rows of it may go. Answers a slot that
    /// has [`LAST`] rows at or after it in each once all that was committed is seen.
    pub(crate) async fn last(&self) -> i64 {
        let slot = self.ends.fetch_add(LAST, Ordering::SeqCst);
        let mut session = self.source.connect().await.unwrap();
        for table in self.tables().await.into_iter().chain([self.beat.clone()]) {
            let nulls = vec![Value::Null; table.columns.len() - table.payload()];
            let rows = (slot..slot + LAST).map(|slot| (slot, nulls.clone())).collect();
            let steps = vec![Step { table, action: Action::Insert(rows) }];
            session.write(&Transaction { steps, commit: true }).await.unwrap();
        }
        slot
    }

    fn beat_of(&self, beat: i64) -> Transaction {
        let action = Action::Insert(vec![(beat, vec![])]);
        Transaction { steps: vec![Step { table: self.beat.clone(), action }], commit: true }
    }

    async fn session(&self) -> Option<Box<dyn Session>> {
        while !self.stopped() {
            match tokio::time::timeout(PATIENCE, self.source.connect()).await {
                Ok(Ok(session)) => return Some(session),
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(_) => {}
            }
        }
        None
    }

    async fn write(&self, random: StdRng) {
        let mut generator = Generator::new(random, self.source.kinds());
        while let Some(mut session) = self.session().await {
            while !self.stopped() {
                self.may_write().await;
                let mut held = Vec::new();
                for table in &self.tables {
                    held.push(table.read().await);
                }
                let tables: Vec<Table> = held.iter().map(|table| (**table).clone()).collect();
                let transaction = generator.transaction(&tables, self.source.alters());
                if !went_through(session.write(&transaction)).await {
                    break;
                }
                drop(held);
                self.transactions.fetch_add(1, Ordering::Relaxed);
                let pause = generator.random.random_range(20..100);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    }

    async fn keep_beating(&self) {
        let mut beat = 0;
        while let Some(mut session) = self.session().await {
            while !self.stopped() {
                beat += 1;
                if !went_through(session.write(&self.beat_of(beat))).await {
                    break;
                }
                self.beaten.store(beat, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    async fn alter(&self, random: StdRng) {
        let mut generator = Generator::new(random, self.source.kinds());
        while let Some(mut session) = self.session().await {
            while !self.stopped() {
                let pause = generator.random.random_range(400..2_000);
                tokio::time::sleep(Duration::from_millis(pause)).await;
                self.may_write().await;
                let index = generator.random.random_range(0..self.tables.len());
                let mut table = self.tables[index].write().await;
                let Some(change) = generator.alteration(&table) else { continue };
                let done = went_through(session.alter(&table, &change)).await;
                if done || self.has_happened(&table, &change).await {
                    table.alter(&change);
                    self.alterations.fetch_add(1, Ordering::Relaxed);
                }
                if !done {
                    break;
                }
            }
        }
    }

    /// Changes a table as a migration of a service does: nobody writes while it is made, nor until
    /// what is answered is dropped.
    pub(crate) async fn migrate(&self, random: &mut StdRng) -> RwLockWriteGuard<'_, Table> {
        let index = random.random_range(0..self.tables.len());
        let random = StdRng::seed_from_u64(random.random());
        let mut generator = Generator::new(random, self.source.kinds());
        let mut table = self.tables[index].write().await;
        let change = generator.addition(&table);
        self.source.connect().await.unwrap().alter(&table, &change).await.unwrap();
        table.alter(&change);
        self.alterations.fetch_add(1, Ordering::Relaxed);
        table
    }

    /// Whether an alteration whose answer was lost came about. A widened column whose answer was
    /// lost is taken for a narrow one, whose values fit either.
    async fn has_happened(&self, table: &Table, change: &Alter) -> bool {
        let mut after = table.clone();
        after.alter(change);
        let names: Vec<&str> = after.columns.iter().map(|c| c.name.as_str()).collect();
        loop {
            match self.source.columns(table).await {
                Ok(columns) => return columns == names && !matches!(change, Alter::Widen { .. }),
                Err(Failed(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// Whether a statement went through. Failing with the server is part of the game; a statement that
/// the server does not understand is the harness's own mistake.
async fn went_through(done: impl Future<Output = Result<(), Failed>>) -> bool {
    const EXPECTED: [&str; 6] =
        ["1213 (40001)", "1205 (HY000)", "(08S01)", "(70100)", "(code: 5)", "1180 (HY000)"];
    match tokio::time::timeout(PATIENCE, done).await {
        Ok(Ok(())) => true,
        Err(_) => false,
        Ok(Err(Failed(error))) => {
            let refused = error.contains("error returned from database")
                && !EXPECTED.iter().any(|expected| error.contains(expected));
            assert!(!refused, "{error}");
            false
        }
    }
}
