//! Another program rewrites files, adds rows and takes rows away while changes are staged here: seeded
//! random histories against a map.

use std::collections::{BTreeSet, HashMap};

use arrow::{array::AsArray, array::Int64Array, datatypes::Int64Type};
use futures::TryStreamExt;
use iceberg::spec::Struct;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use roaring::RoaringBitmap;

use super::*;
use crate::{
    commit::{
        table::{Retention, TableChange},
        write::{partition_of, write_position_deletes},
    },
    format::data_file::{DataFileWriter, FileKind, LakeFile, writer_properties},
    table::segment::Segment,
};

/// Keys that are changed here; the other program adds larger ones.
const KEYS: i64 = 300;

struct History {
    lake: Lake,
    table: Arc<TableSchema>,
    rng: StdRng,
    rows: BTreeMap<i64, i64>,
    /// Changed since the last flush.
    changed: BTreeSet<i64>,
    /// Keys the other program added a row of, without taking one away: to delete them here, before that
    /// is known, deletes nothing of it.
    added: BTreeSet<i64>,
    /// Gives each row another value, and each row the other program adds another key.
    next: i64,
}

/// The living rows of a committed file, with their positions.
type FileContent = (Arc<LakeFile>, Vec<(u32, i64, i64)>);

impl History {
    /// Stages upserts and deletes of some keys.
    fn stage(&mut self, count: usize) {
        let changes = self.changes(count);
        self.lake.stage(&changes).unwrap();
    }

    fn changes(&mut self, count: usize) -> ChangeSet {
        let mut changes = Vec::new();
        for _ in 0..count {
            let known: Vec<i64> = self.rows.keys().copied().collect();
            let key = match self.rng.random_range(0..3) {
                0 if !known.is_empty() => known[self.rng.random_range(0..known.len())],
                _ => self.rng.random_range(0..KEYS),
            };
            self.changed.insert(key);
            if self.rng.random_range(0..3) == 0 && !self.added.contains(&key) {
                self.rows.remove(&key);
                changes.push(super::delete(key, 0));
            } else {
                self.next += 1;
                self.rows.insert(key, self.next);
                changes.push(insert(key, self.next));
            }
        }
        set(vec![batch(&self.table, changes)])
    }

    async fn flush(&mut self) {
        self.lake.flush().await.unwrap();
        self.changed.clear();
    }

    /// The committed files and what lives in them.
    async fn files(&self) -> Vec<FileContent> {
        let view = self.lake.read_view();
        let view = &view.tables[self.table.name()];
        let mut files = Vec::new();
        for rows in view.segments.iter().filter_map(Segment::file) {
            let mut content = Vec::new();
            let mut batches = rows.file.read(&view.shape, &[0, 1]).await.unwrap();
            while let Some((first, batch)) = batches.try_next().await.unwrap() {
                let column = |at: usize| batch.column(at).as_primitive::<Int64Type>().values();
                let both = column(0).iter().zip(column(1));
                let living =
                    (first..).zip(both).filter(|(at, _)| !rows.committed_dead.contains(*at));
                content.extend(living.map(|(at, (key, value))| (at, *key, *value)));
            }
            files.push((Arc::clone(&rows.file), content));
        }
        files
    }

    /// Commits as another program: some files go, of others some rows, and new files come.
    async fn rewrite(&mut self) {
        let mut change = TableChange::default();
        let mut deleted: BTreeMap<String, RoaringBitmap> = BTreeMap::new();
        let mut came: Vec<(i64, i64)> = Vec::new();
        let mut partition = (0, Struct::empty());
        for (file, rows) in self.files().await {
            partition = partition_of(&file);
            let goes = self.rng.random_range(0..3) > 0;
            if goes {
                change.removed.insert(file.location.clone());
            }
            for (position, key, value) in rows {
                let lost = goes || self.rng.random_range(0..8) == 0;
                if lost && !goes {
                    deleted.entry(file.location.clone()).or_default().insert(position);
                }
                let wins = !self.changed.contains(&key);
                let value = match self.rng.random_range(0..10) {
                    0 | 1 if lost => {
                        if wins {
                            self.rows.remove(&key);
                        }
                        continue;
                    }
                    // Of a row that stays there is another one besides: the later one counts.
                    2 if lost || wins => {
                        self.next += 1;
                        self.next
                    }
                    _ if lost => value,
                    _ => continue,
                };
                if !lost {
                    self.added.insert(key);
                }
                came.push((key, value));
                if self.rng.random_range(0..20) == 0 {
                    came.push((key, value));
                }
                if wins {
                    self.rows.insert(key, value);
                }
            }
        }
        for _ in 0..self.rng.random_range(0..20) {
            self.next += 1;
            came.push((KEYS + self.next, self.next));
            self.rows.insert(KEYS + self.next, self.next);
            self.added.insert(KEYS + self.next);
        }
        // A key that was made here and is in no file yet.
        if let Some(key) = self.changed.iter().find(|key| self.rows.contains_key(key)) {
            came.push((*key, -1));
            self.added.insert(*key);
        }
        came.shuffle(&mut self.rng);
        let size = self.rng.random_range(20..200);

        let committer = self.lake.committer().await;
        let own = committer.tables[self.table.name()].clone();
        let (scope, shape) = (self.lake.storage.begin(), own.shape().unwrap());
        let folder = own.metadata.location();
        for (n, rows) in came.chunks(size).enumerate() {
            let location = format!("{folder}/data/other-{}-{n}.parquet", self.next);
            let spec = Arc::clone(own.metadata.default_partition_spec());
            let kind = FileKind { spec, partition: Struct::empty(), sort_order_id: None };
            let properties = writer_properties(&TableOptions::default());
            let mut writer =
                DataFileWriter::create(&scope, location, &shape, kind, properties).unwrap();
            let (keys, values): (Vec<i64>, Vec<i64>) = rows.iter().copied().unzip();
            let columns: Vec<ArrayRef> =
                vec![Arc::new(Int64Array::from(keys)), Arc::new(Int64Array::from(values))];
            let arrow = Arc::clone(self.table.arrow());
            writer.write(&RecordBatch::try_new(arrow, columns).unwrap()).unwrap();
            change.added.push(writer.finish().unwrap().1);
        }
        if !deleted.is_empty() {
            let name = self.table.name();
            let entry = write_position_deletes(&scope, folder, name, &deleted, partition).unwrap();
            change.added_deletes.push(entry);
        }
        let progress = own.progress().unwrap().unwrap();
        let (retention, now) = (Retention { snapshots: 10, micros: 0 }, (self.lake.config.clock)());
        let next = own.next(&scope, change, &progress, now, &retention, &HashMap::new()).await;
        let next = next.unwrap().0;
        scope.persist().await.unwrap();
        committer.catalog.commit(committer.epoch, &[next.change_from(&own)]).await.unwrap();
    }

    async fn check(&self, note: &str) {
        let mut expected: Vec<String> =
            self.rows.iter().map(|(key, value)| format!("{key},{value}")).collect();
        expected.sort();
        assert_eq!(rows(&self.lake.read_view(), "mall.numbers").await, expected, "{note}");
    }
}

#[tokio::test]
async fn rows_that_another_program_moves_stay_one_row_a_key() {
    for seed in 0..12 {
        let bench = Bench::new();
        let lake = bench.open().await;
        let table = numbers();
        lake.create_tables(&[Arc::clone(&table)]).await.unwrap();
        let (rows, changed, added) = Default::default();
        let rng = StdRng::seed_from_u64(seed);
        let mut history = History { lake, table, rng, rows, changed, added, next: 0 };
        for round in 0..6 {
            let note = format!("seed {seed}, round {round}");
            for _ in 0..3 {
                history.stage(80);
                history.lake.publish();
                history.flush().await;
            }
            if round % 2 == 1 {
                history.lake.maintain().await.unwrap();
            }
            history.stage(60);
            history.lake.publish();
            history.rewrite().await;
            // Staged, but not published, when the other program's commit is looked at; and after it.
            history.stage(20);
            let late = history.changes(20);
            let meanwhile = async {
                while history.lake.state().absorbing.is_none() {
                    tokio::task::yield_now().await;
                }
                history.lake.stage(&late).unwrap();
                history.lake.publish();
            };
            tokio::join!(async { history.lake.flush().await.unwrap() }, meanwhile);
            history.changed.clear();
            history.added.clear();
            history.check(&note).await;
        }
        // What is committed has each key once, or loading the index fails.
        history.flush().await;
        let History { lake, rows, .. } = history;
        drop(lake);
        let lake = bench.open().await;
        assert_eq!(lake.read_view().tables()[0].row_count, rows.len() as u64, "seed {seed}");
    }
}
