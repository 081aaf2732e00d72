//! A model of a database, random writers, and readers that are stopped anywhere and go on from what
//! they stored: in the end the replica is the database.

mod model;
mod progress;

use std::collections::BTreeMap;

use arrow::util::display::array_value_to_string;
use medlake_contract::{ChangeSet, CopyScope, Op, Positions};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::{AnySource, Ingest, states_in};
use model::{Event, Model, Row, order, table};

/// What a reader holds who applies every cut: of a table without a key each row as often as it is
/// there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replica {
    pub(crate) schemas: BTreeMap<TableName, Arc<TableSchema>>,
    pub(crate) keyed: BTreeMap<TableName, BTreeMap<String, Row>>,
    pub(crate) bags: BTreeMap<TableName, BTreeMap<Row, usize>>,
    pub(crate) positions: Positions,
    pub(crate) states: BTreeMap<TableName, TableState>,
    /// Rows that came as copies.
    copied: usize,
}

fn values(rows: &arrow::record_batch::RecordBatch, row: usize) -> Row {
    let value = |c: &arrow::array::ArrayRef| {
        (!c.is_null(row)).then(|| array_value_to_string(c, row).unwrap())
    };
    rows.columns().iter().map(value).collect()
}

impl Replica {
    pub(crate) fn apply(&mut self, cut: &ChangeSet) {
        for change in &cut.schemas {
            let name = change.table.name();
            let width = change.table.columns().len();
            for row in self.keyed.entry(name.clone()).or_default().values_mut() {
                row.resize(width, None);
            }
            let bag = self.bags.entry(name.clone()).or_default();
            let resized = std::mem::take(bag).into_iter().map(|(mut row, n)| {
                row.resize(width, None);
                (row, n)
            });
            bag.extend(resized);
            self.schemas.insert(name.clone(), Arc::clone(&change.table));
        }
        for change in &cut.batches {
            let name = change.table().name().clone();
            if name.namespace() == "system" {
                let states = states_in(change.after());
                self.states.extend(states.into_iter().map(|s| (s.table.clone(), s)));
                continue;
            }
            assert_eq!(&self.schemas[&name], change.table(), "the columns are those told");
            for (row, op) in change.ops().iter().enumerate() {
                let (before, after) = (values(change.before(), row), values(change.after(), row));
                self.change(&name, *op, before, after);
            }
        }
        for copy in &cut.copies {
            let name = copy.table.name();
            assert_eq!(&self.schemas[name], &copy.table);
            let text = |keys: &arrow::record_batch::RecordBatch, row| {
                values(keys, row)[0].clone().unwrap()
            };
            let rows: Vec<Row> = (0..copy.rows.num_rows()).map(|r| values(&copy.rows, r)).collect();
            let table = self.keyed.entry(name.clone()).or_default();
            match &copy.scope {
                CopyScope::Rows | CopyScope::Part { .. } => {}
                CopyScope::Keys(keys) => {
                    (0..keys.num_rows()).for_each(|r| drop(table.remove(&text(keys, r))));
                }
                CopyScope::Range { after, to, except } => {
                    let bound = |key: &Option<arrow::record_batch::RecordBatch>| {
                        key.as_ref().map(|k| order(&copy.table, &vec![Some(text(k, 0))]))
                    };
                    let (after, to) = (bound(after), bound(to));
                    let except: Vec<String> = except
                        .iter()
                        .flat_map(|keys| (0..keys.num_rows()).map(|r| text(keys, r)))
                        .collect();
                    table.retain(|key, row| {
                        let at = order(&copy.table, row);
                        let inside = after.as_ref().is_none_or(|a| at > *a)
                            && to.as_ref().is_none_or(|t| at <= *t);
                        !inside || except.contains(key)
                    });
                }
            }
            self.copied += rows.len();
            table.extend(rows.into_iter().map(|row| (row[0].clone().unwrap(), row)));
        }
        self.positions.extend(cut.positions.clone());
    }

    fn change(&mut self, name: &TableName, op: Op, before: Row, after: Row) {
        let (gone, came) = (
            matches!(op, Op::Update | Op::Delete).then_some(before),
            matches!(op, Op::Update | Op::Insert).then_some(after),
        );
        if self.schemas[name].key_indices().is_empty() {
            let bag = self.bags.entry(name.clone()).or_default();
            if op == Op::Truncate {
                bag.clear();
            }
            if let Some(count) = gone.and_then(|row| bag.get_mut(&row)) {
                *count -= 1;
            }
            bag.retain(|_, count| *count > 0);
            came.into_iter().for_each(|row| *bag.entry(row).or_default() += 1);
            return;
        }
        let table = self.keyed.entry(name.clone()).or_default();
        if op == Op::Truncate {
            table.clear();
        }
        gone.into_iter().for_each(|row| drop(table.remove(row[0].as_ref().unwrap())));
        came.into_iter().for_each(|row| drop(table.insert(row[0].clone().unwrap(), row)));
    }

    fn assert_is(&self, model: &Model, what: &str) {
        let state = model.state();
        for (name, table) in &state.tables {
            if table.schema.key_indices().is_empty() {
                let mut rows: BTreeMap<Row, usize> = BTreeMap::new();
                table.rows.iter().for_each(|row| *rows.entry(row.clone()).or_default() += 1);
                assert_eq!(self.bags.get(name).cloned().unwrap_or_default(), rows, "{what} {name}");
            } else {
                let rows = table.rows.iter().map(|r| (r[0].clone().unwrap(), r.clone())).collect();
                assert_eq!(
                    self.keyed.get(name).cloned().unwrap_or_default(),
                    rows,
                    "{what} {name}"
                );
            }
        }
    }

    pub(crate) fn resume(&self) -> Resume {
        Resume {
            positions: self.positions.clone(),
            tables: self.schemas.values().cloned().collect(),
            states: self.states.values().cloned().collect(),
            quarantined: Vec::new(),
        }
    }

    pub(crate) fn is_streaming(&self) -> bool {
        self.states.values().all(|s| s.phase == Phase::Streaming)
    }
}

fn settings(chunk_rows: usize) -> DatabaseSettings {
    DatabaseSettings {
        budget: Budget::new(64 << 20),
        chunk_rows,
        chunk_bytes: 1 << 20,
        chunk_time: Duration::from_secs(1),
        first_pause: Duration::from_micros(100),
        copy_after_gap: true,
        quarantine_limit: 3,
        folder: std::env::temp_dir(),
        clock: Arc::new(|| 1),
    }
}

fn source(model: &Model, connections: usize, exact: bool, chunk_rows: usize) -> AnySource {
    let rows = (0..connections).map(|i| model.rows(exact, 1 + 2 * i)).collect();
    AnySource(Box::new(Database::new(model.log(), rows, settings(chunk_rows))))
}

async fn open(model: &Model, replica: &mut Replica, source: AnySource) -> Ingest {
    let ingest = Ingest::open(vec![source], &replica.resume()).await.unwrap();
    let known = ingest.tables().into_iter().filter(|t| t.name().namespace() == "m");
    replica.schemas.extend(known.map(|t| (t.name().clone(), t)));
    let _ = model;
    ingest
}

fn filled() -> Model {
    let model = Model::default();
    let text = |n: i64| Some(n.to_string());
    for (name, key) in [("m.keyed", &["id"][..]), ("m.named", &["id"]), ("m.bag", &[])] {
        let named = |n: i64| if name == "m.named" { format!("k{n}é") } else { n.to_string() };
        let rows = (0..120).map(|n| {
            let id = if key.is_empty() { n % 7 } else { n };
            vec![Some(named(id)), text(n % 5), None]
        });
        model.create(table(name, key, 0), rows.collect());
    }
    model
}

/// One random transaction.
fn write(model: &Model, random: &mut StdRng) {
    let mut events = Vec::new();
    let mut tables = model.state().tables.clone();
    let names: Vec<TableName> = tables.keys().cloned().collect();
    if random.random_ratio(1, 60) {
        let name = &names[random.random_range(0..names.len())];
        let schema = &tables[name].schema;
        let key: &[&str] = if schema.key_indices().is_empty() { &[] } else { &["id"] };
        let extra = schema.columns().len() - 2;
        return model.commit(vec![Event::Columns(table(&name.to_string(), key, extra))]);
    }
    let count = if random.random_ratio(1, 20) { 30 } else { random.random_range(1..5) };
    for _ in 0..count {
        let name = &names[random.random_range(0..names.len())];
        let held = tables.get_mut(name).unwrap();
        let width = held.schema.columns().len();
        let keyed = !held.schema.key_indices().is_empty();
        let text = name.table() == "named";
        let fresh = |random: &mut StdRng| -> Row {
            let id = random.random_range(-20..150_i64);
            let id = if text { format!("k{id}é") } else { id.to_string() };
            let mut row = vec![Some(id), Some(random.random_range(0..9_i64).to_string())];
            row.resize(width, random.random_bool(0.5).then(|| "note".to_owned()));
            row
        };
        let none = vec![None; width];
        let some = (!held.rows.is_empty()).then(|| random.random_range(0..held.rows.len()));
        let event = match (random.random_range(0..100), some) {
            (0, _) => {
                held.rows.clear();
                (Op::Truncate, none.clone(), none)
            }
            (1..30, Some(at)) => (Op::Delete, held.rows.swap_remove(at), none),
            (30..70, Some(at)) => {
                let before = held.rows.swap_remove(at);
                let mut after = fresh(random);
                if random.random_bool(0.7) {
                    after[0].clone_from(&before[0]);
                }
                if keyed && held.rows.iter().any(|r| r[0] == after[0]) {
                    held.rows.push(before);
                    continue;
                }
                held.rows.push(after.clone());
                (Op::Update, before, after)
            }
            _ => {
                let after = fresh(random);
                if keyed && held.rows.iter().any(|r| r[0] == after[0]) {
                    continue;
                }
                held.rows.push(after.clone());
                (Op::Insert, none, after)
            }
        };
        events.push(Event::Change(name.clone(), event.0, event.1, event.2));
    }
    if !events.is_empty() {
        model.commit(events);
    }
}

async fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let model = filled();
    model.state().end_yields = random.random_range(0..60);
    let exact = random.random_bool(0.5);
    let connections = random.random_range(1..4);
    let chunk_rows = random.random_range(3..60);
    let mut stored = Replica::default();
    let mut writes = random.random_range(20..200);
    loop {
        let mut replica = stored.clone();
        let source = source(&model, connections, exact, chunk_rows);
        let mut ingest = open(&model, &mut replica, source).await;
        // So many cuts until the process is stopped.
        let life = random.random_range(1..60);
        for _ in 0..life {
            for _ in 0..random.random_range(0..3_u32) {
                if writes > 0 {
                    writes -= 1;
                    write(&model, &mut random);
                }
            }
            if random.random_ratio(1, 15) && writes > 0 {
                let names: Vec<_> = replica.schemas.keys().cloned().collect();
                if !names.is_empty() {
                    let name = &names[random.random_range(0..names.len())];
                    // Known to the replica, so known to the source once it is connected.
                    let _ = ingest.resync(name);
                }
            }
            if random.random_ratio(1, 20) {
                model.state().failures = random.random_range(1..3);
            }
            let limits = CutLimits { max_rows: random.random_range(1..40), max_bytes: usize::MAX };
            let end = model.state().log.len();
            let there = stored_at(&replica) == Some(end) && replica.is_streaming();
            if writes == 0 && there {
                break;
            }
            // A call is dropped now and then, wherever it is.
            let patience = random.random_range(1..30);
            let cut = tokio::select! {
                biased;
                cut = ingest.next(limits) => cut.unwrap(),
                () = yields(patience) => continue,
            };
            let open = cut.open;
            replica.apply(&cut);
            if !open && random.random_bool(0.4) {
                stored = replica.clone();
            }
        }
        let end = model.state().log.len();
        if writes == 0 && stored_at(&replica) == Some(end) && replica.is_streaming() {
            replica.assert_is(&model, &format!("seed {seed}"));
            return;
        }
        if random.random_ratio(1, 30) {
            // What is stored is from before what the log has.
            let mut state = model.state();
            state.purged = state.log.len();
        }
    }
}

fn stored_at(replica: &Replica) -> Option<usize> {
    match replica.positions.values().next()? {
        Position::Log { at, .. } => at[1..].parse().ok(),
        _ => None,
    }
}

async fn yields(count: usize) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

/// Writers, copies by one or several connections that say or do not say where they read, columns that
/// are added, tables that are copied again, logs that are purged, selects that fail, calls that are
/// dropped and processes that are stopped anywhere.
#[tokio::test]
async fn the_replica_is_the_database_in_the_end() {
    for seed in 0..300 {
        let run = tokio::time::timeout(Duration::from_secs(10), run(seed)).await;
        assert!(run.is_ok(), "seed {seed} does not come to an end");
    }
}
