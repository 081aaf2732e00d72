//! Random histories against an oracle in memory: stage, publish, flush (alone, and while staging goes
//! on), columns and layouts that change, merged files, commits, reads and writes that go wrong,
//! crashes, views of old, and the past.

mod oracle;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use self::oracle::{
    Columns, Model, Models, check, model_tables, random_alterations, random_layout,
};
use super::*;
use crate::{AsOf, FormatVersion, Inspector, TableOptions};

struct History {
    seed: u64,
    step: usize,
    rng: StdRng,
    bench: Bench,
    /// None while it is opened again.
    lake: Option<Arc<Lake>>,
    formats: BTreeMap<TableName, FormatVersion>,
    staged: Models,
    published: Models,
    /// What every published view holds, by its version.
    by_version: BTreeMap<u64, Models>,
    /// All columns the tables ever had.
    columns: Vec<Arc<Columns>>,
    fresh: u32,
    held: Vec<(Arc<ReadView>, Models)>,
    position: u64,
}

impl History {
    async fn begin(seed: u64) -> Self {
        // A clock that gets a minute ahead of the machine's own is refused by the metadata library.
        let bench = Bench { tick_micros: 20_000, ..Bench::new() };
        let lake = Some(Arc::new(bench.open().await));
        let models: Models =
            model_tables().iter().map(|s| (s.name().clone(), Model::new(s))).collect();
        let mut history = Self {
            seed,
            step: 0,
            rng: StdRng::seed_from_u64(seed),
            bench,
            lake,
            // Two in four are of format v3 in the end: one table is raised to it when it is reopened.
            formats: models.keys().map(|name| (name.clone(), FormatVersion::V2)).collect(),
            columns: models.values().map(|m| Arc::clone(&m.columns)).collect(),
            staged: models.clone(),
            published: models.clone(),
            by_version: BTreeMap::from([(0, models)]),
            fresh: 0,
            held: Vec::new(),
            position: 0,
        };
        let names: Vec<TableName> = history.formats.keys().cloned().collect();
        for name in names.iter().skip(1) {
            history.formats.insert(name.clone(), history.version());
        }
        let layouts: Vec<_> = names.iter().map(|name| history.layout(name)).collect();
        history.lake().create_tables_with(&layouts).await.unwrap();
        history
    }

    fn version(&self) -> FormatVersion {
        if self.seed % 4 < 2 { FormatVersion::V2 } else { FormatVersion::V3 }
    }

    fn lake(&self) -> Arc<Lake> {
        Arc::clone(self.lake.as_ref().unwrap())
    }

    fn note(&self, what: &str) -> String {
        format!("{what}, seed {} step {}", self.seed, self.step)
    }

    /// Every other history keeps the default layout, which keeps the ids of segments.
    fn layout(&mut self, name: &TableName) -> (Arc<TableSchema>, TableOptions) {
        let schema = Arc::clone(&self.staged[name].columns.schema);
        let options = match self.seed.is_multiple_of(2) {
            true => TableOptions::default(),
            false => random_layout(&mut self.rng, &schema),
        };
        (schema, TableOptions { format_version: self.formats[name], ..options })
    }

    fn any_table(&mut self) -> TableName {
        let at = self.rng.random_range(0..self.staged.len());
        self.staged.keys().nth(at).unwrap().clone()
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_range(0..n) == 0
    }

    fn stage(&mut self) {
        let mut batches = Vec::new();
        for _ in 0..self.rng.random_range(1..4) {
            let table = self.any_table();
            let model = self.staged.get_mut(&table).unwrap();
            batches.push(model.random_changes(&mut self.rng));
        }
        self.position += 1;
        let changes = ChangeSet { positions: at(&[("mall", self.position)]), ..set(batches) };
        self.lake().stage(&changes).unwrap();
        if self.one_in(10) {
            // The marts table is of no source, so only the mall's part may be repeated.
            let batches = changes.batches.iter();
            let repeated = batches.filter(|b| b.table().name().namespace() == "mall");
            let batches = repeated.cloned().collect();
            self.lake().stage(&ChangeSet { batches, ..changes.clone() }).unwrap();
        }
    }

    fn publish(&mut self) -> Arc<ReadView> {
        let view = self.lake().publish();
        self.published.clone_from(&self.staged);
        self.by_version.insert(view.version(), self.published.clone());
        view
    }

    /// Changes come, and are published now and then, while something else goes on.
    async fn busy(&mut self, flushing: bool) {
        for _ in 0..4 {
            tokio::task::yield_now().await;
            self.stage();
            if self.one_in(2) {
                self.publish();
            }
            if flushing && self.one_in(2) {
                self.lake().flush().await.unwrap();
            }
        }
    }

    /// The columns of a table change.
    async fn alter(&mut self) {
        let name = self.any_table();
        let before = Arc::clone(&self.staged[&name].columns);
        let format = self.formats[&name];
        let (alterations, after) =
            random_alterations(&mut self.rng, &before, format, &mut self.fresh);
        let lake = self.lake();
        match lake.alter(&name, &alterations).await {
            Ok(()) => {}
            Err(LakeError::Schema { problem, .. }) if problem.contains("partitions or sort") => {
                return;
            }
            Err(error) => panic!("{}: {alterations:?}: {error}", self.note("alter")),
        }
        let after = Arc::new(after);
        self.columns.push(Arc::clone(&after));
        let model = self.staged.get_mut(&name).unwrap();
        *model = model.with(&after);
        if !lake.state().ahead {
            self.published.clone_from(&self.staged);
            self.by_version.insert(lake.read_view().version(), self.published.clone());
        }
    }

    /// A flush whose commit, or whose files, go wrong.
    async fn broken_flush(&mut self) {
        let faults = [
            vec![Fault::BeforeSwap],
            vec![Fault::AnswerLost],
            vec![Fault::AnswerLost, Fault::RereadFails],
            vec![Fault::WriteFails],
        ];
        let faults = &faults[self.rng.random_range(0..faults.len())];
        let lake = self.lake();
        self.settle().await;
        if lake.committed_positions() != *lake.read_view().positions() {
            faults.iter().for_each(|f| lake.storage.faults().arm(*f));
            let flushed = lake.flush().await;
            let lost = faults == &[Fault::AnswerLost];
            assert_eq!(flushed.is_ok(), lost, "{}", self.note("a broken flush"));
            assert!(!lake.storage.faults().disarm());
        }
    }

    /// What is staged goes to files before it is published, or cannot.
    async fn spill(&mut self) {
        let lake = self.lake();
        self.stage();
        let broken = self.one_in(4);
        if broken {
            self.settle().await;
            lake.storage.faults().arm(Fault::WriteFails);
        }
        let spilled = lake.spill().await;
        assert_eq!(lake.storage.faults().disarm(), spilled.is_ok() && broken);
        if !broken {
            assert!(spilled.is_ok(), "{}: {spilled:?}", self.note("spill"));
            assert_eq!(lake.hot_rows(), 0, "{}", self.note("spill"));
        }
        check(&lake.read_view(), &self.published, &self.note("published beside a spill")).await;
        check(&lake.staged_view(), &self.staged, &self.note("spilled")).await;
    }

    /// Learns what became of a commit whose answer is still out, so that faults hit the next one.
    async fn settle(&mut self) {
        self.lake().create_tables(&[]).await.unwrap();
    }

    /// Rows come, die and are flushed while files are merged, and the commit, or its files, may fail.
    async fn busy_maintenance(&mut self) {
        let faults = [Fault::BeforeSwap, Fault::WriteFails, Fault::ReadFails];
        let fault = faults.get(self.rng.random_range(0..12)).copied();
        let lake = self.lake();
        if let Some(fault) = fault {
            self.settle().await;
            lake.storage.faults().arm(fault);
        }
        let (maintained, ()) = tokio::join!(lake.maintain(), self.busy(fault.is_none()));
        let note = self.note("maintenance");
        match fault {
            Some(_) => assert_eq!(lake.storage.faults().disarm(), maintained.is_ok(), "{note}"),
            None => drop(maintained.unwrap()),
        }
    }

    async fn maintenance_by_hand(&mut self) {
        let lake = self.lake();
        match self.rng.random_range(0..5) {
            0 => lake.rewrite_manifests(&[], &mut |_, _| {}).await.unwrap(),
            1 => drop(lake.compact(&[], &mut |_, _| {}).await.unwrap()),
            2 => drop(lake.expire(&[], self.rng.random_range(1..4), 0).await.unwrap()),
            3 => drop(lake.remove_orphans(&[]).await.unwrap()),
            _ => while !lake.maintain().await.unwrap().is_idle() {},
        }
    }

    /// A view answers with what it holds, or, when a file cannot be read, with that.
    async fn broken_read(&mut self) {
        let lake = self.lake();
        let name = self.any_table();
        lake.storage.faults().arm(Fault::ReadFails);
        let frame = session(&lake.read_view()).table(format!("medlake.{name}")).await;
        let answer = frame.unwrap().collect().await;
        assert_eq!(
            lake.storage.faults().disarm(),
            answer.is_ok(),
            "{}",
            self.note("a broken read")
        );
        let only = BTreeMap::from([(name.clone(), self.published[&name].clone())]);
        check(&lake.read_view(), &only, &self.note("after a broken read")).await;
    }

    /// All tables as they were at some commit that is still there.
    async fn look_back(&mut self) {
        let view = self.lake().read_view();
        let name = self.any_table();
        let ids = format!(
            "select snapshot_id from medlake.\"{}\".\"{}$snapshots\"",
            name.namespace(),
            name.table()
        );
        let ids = query(&view, &ids).await;
        let Some(id) = ids.get(self.rng.random_range(0..ids.len().max(1))) else { return };
        let past = view.as_of(AsOf::Snapshot(id.parse().unwrap())).await.unwrap();
        let mut models = self.by_version[&past.version()].clone();
        for (other, why) in past.left_out() {
            // Its snapshots reach less far back.
            assert!(other != name && matches!(*why, LakeError::AsOf { .. }), "{why}");
            models.remove(&other);
        }
        for info in past.tables() {
            // Each table is shown with the columns of its snapshot.
            let columns = self.columns.iter().find(|c| c.schema == info.schema).unwrap();
            let model = models.get_mut(info.schema.name()).unwrap();
            *model = model.with(columns);
        }
        check(&past, &models, &self.note("as of a snapshot")).await;
    }

    /// The process dies, and another one opens the lake.
    async fn crash(&mut self) {
        for (view, models) in std::mem::take(&mut self.held) {
            check(&view, &models, &self.note("held view")).await;
        }
        self.lake = None;
        let lake = Arc::new(self.bench.open().await);
        self.lake = Some(Arc::clone(&lake));
        let view = lake.read_view();
        let durable = &self.by_version[&view.version()];
        self.published = self
            .staged
            .iter()
            .map(|(n, newest)| (n.clone(), durable[n].with(&newest.columns)))
            .collect();
        self.staged.clone_from(&self.published);
        self.by_version.retain(|version, _| *version < view.version());
        self.by_version.insert(view.version(), self.published.clone());
        check(&view, &self.published, &self.note("reopened")).await;
        self.position = match lake.committed_positions().get(&SourceId::new("mall")) {
            Some(Position::ChangeId(at)) => *at,
            _ => 0,
        };
        let name = self.any_table();
        self.formats.insert(name.clone(), self.version());
        let layout = self.layout(&name);
        lake.create_tables_with(&[layout]).await.unwrap();
    }

    async fn step(&mut self) {
        let lake = self.lake();
        match self.rng.random_range(0..29) {
            0..8 => self.stage(),
            8..12 => {
                let view = self.publish();
                if self.one_in(4) {
                    self.held.push((view, self.published.clone()));
                }
            }
            12..14 => drop(lake.flush().await.unwrap()),
            14..16 => {
                let (flushed, ()) = tokio::join!(lake.flush(), self.busy(false));
                flushed.unwrap();
            }
            16 => self.broken_flush().await,
            17 => {
                if let Some((view, models)) = self.held.pop() {
                    check(&view, &models, &self.note("held view")).await;
                }
            }
            18 => {
                check(&lake.staged_view(), &self.staged, &self.note("staged")).await;
                check(&lake.read_view(), &self.published, &self.note("published")).await;
            }
            19 => self.maintenance_by_hand().await,
            20..22 => self.busy_maintenance().await,
            22..24 => self.alter().await,
            24 => self.broken_read().await,
            25 => self.look_back().await,
            26..28 => self.spill().await,
            _ => {
                drop(lake);
                self.crash().await;
            }
        }
    }

    /// Everything is there, also for the next process, and nothing is wrong with the files.
    async fn end(mut self) {
        check(&self.lake().staged_view(), &self.staged, &self.note("at the end")).await;
        self.publish();
        self.lake().flush().await.unwrap();
        self.crash().await;
        let inspector = Inspector::open(self.bench.config()).await.unwrap();
        let report = inspector.check(&[], &mut |_, _, _| {}).await.unwrap();
        assert!(!report.is_damaged(), "{}: {:?}", self.note("checked"), report.findings);
    }
}

async fn history(seed: u64, steps: usize) {
    let mut history = History::begin(seed).await;
    for step in 0..steps {
        history.step = step;
        history.step().await;
    }
    history.end().await;
}

/// `make soak` for a longer run; a failure names its seed.
#[tokio::test]
async fn random_histories_equal_the_oracle() {
    #[expect(clippy::disallowed_methods, reason = "the length of a test run")]
    let seeds = std::env::var("MEDLAKE_LAKE_SEEDS").ok().and_then(|n| n.parse().ok());
    for seed in 0..seeds.unwrap_or(25) {
        history(seed, 120).await;
    }
}
