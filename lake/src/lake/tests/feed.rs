//! What changed between two cuts.

use arrow::datatypes::DataType;
use futures::TryStreamExt;
use medlake_contract::{Identity, Kind};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    Alteration, AsOf, ChangeStream, ColumnPath, FormatVersion, PartitionField, Place, SortField,
    TableOptions, Transform, format::progress::Progress, read::feed,
};

/// The rows of a table in one cut, as texts.
#[derive(Debug, Clone)]
struct Content {
    schema: Arc<TableSchema>,
    rows: Vec<Vec<String>>,
}

fn texts(batch: &RecordBatch, row: usize) -> Vec<String> {
    let text = |column: &ArrayRef| match column.is_null(row) {
        true => "null".to_owned(),
        false => array_value_to_string(column, row).unwrap(),
    };
    batch.columns().iter().map(text).collect()
}

impl Content {
    async fn of(view: &ReadView, name: &TableName) -> Self {
        let info = view.tables().into_iter().find(|t| t.schema.name() == name).unwrap();
        let sql = format!("select * from medlake.{name}");
        let batches = session(view).sql(&sql).await.unwrap().collect().await.unwrap();
        let rows = |b: &RecordBatch| (0..b.num_rows()).map(|r| texts(b, r)).collect::<Vec<_>>();
        Self { schema: info.schema, rows: batches.iter().flat_map(rows).collect() }
    }

    /// The same rows with the columns of a later schema, found by name.
    fn with_columns_of(&self, schema: &Arc<TableSchema>) -> Self {
        let places: Vec<Option<usize>> = schema
            .columns()
            .iter()
            .map(|wanted| self.schema.columns().iter().position(|c| c.name == wanted.name))
            .collect();
        let cell = |row: &Vec<String>, at: &Option<usize>| {
            at.map_or_else(|| "null".to_owned(), |at| row[at].clone())
        };
        let row = |row: &Vec<String>| places.iter().map(|at| cell(row, at)).collect();
        Self { schema: Arc::clone(schema), rows: self.rows.iter().map(row).collect() }
    }

    /// Rows by key; for a table without a key by themselves, with how often they are there.
    fn by_key(&self) -> BTreeMap<Vec<String>, (String, usize)> {
        let mut rows = BTreeMap::new();
        for row in &self.rows {
            let key = match self.schema.identity() {
                Identity::Key => {
                    self.schema.key_indices().iter().map(|&k| row[k].clone()).collect()
                }
                _ => row.clone(),
            };
            rows.entry(key).or_insert_with(|| (row.join(","), 0)).1 += 1;
        }
        rows
    }
}

/// The only changes that lead from one content to the other and leave alone what is in both.
fn expected(from: &Content, to: &Content) -> Vec<String> {
    let (from, to) = (from.with_columns_of(&to.schema).by_key(), to.by_key());
    let none = (String::new(), 0);
    let mut changes = Vec::new();
    for key in from.keys().chain(to.keys().filter(|key| !from.contains_key(*key))) {
        let (before, was) = from.get(key).unwrap_or(&none);
        let (after, is) = to.get(key).unwrap_or(&none);
        if *was > 0 && *is > 0 && before != after {
            changes.push(format!("update {before} to {after}"));
        }
        changes.extend((*is..*was).map(|_| format!("delete {before}")));
        changes.extend((*was..*is).map(|_| format!("insert {after}")));
    }
    changes.sort();
    changes
}

async fn said(changes: ChangeStream) -> Vec<String> {
    let batches: Vec<ChangeBatch> = changes.try_collect().await.unwrap();
    let mut said = Vec::new();
    for batch in &batches {
        for (row, op) in batch.ops().iter().enumerate() {
            let before = texts(batch.before(), row).join(",");
            let after = texts(batch.after(), row).join(",");
            said.push(match op {
                Op::Insert => format!("insert {after}"),
                Op::Delete => format!("delete {before}"),
                Op::Update => format!("update {before} to {after}"),
                Op::Truncate => "truncate".to_owned(),
            });
        }
    }
    said.sort();
    said
}

/// The changes of a table, asked as users ask; and again with room for only some of the rows at a
/// time, which must not matter.
async fn changes(from: &ReadView, to: &ReadView, table: &TableName) -> Vec<String> {
    let changes = said(to.changes_since(from, table).unwrap()).await;
    if let (Some(before), Some(after)) = (from.tables.get(table), to.tables.get(table)) {
        let one_lake = Arc::ptr_eq(&from.past.holds, &to.past.holds);
        let (parts, _) =
            feed::compare(Arc::clone(before), Arc::clone(after), one_lake, 2_000).unwrap();
        assert_eq!(said(parts).await, changes, "in parts");
    }
    changes
}

#[tokio::test]
async fn what_is_only_moved_is_no_change() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = numbers();
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    let stage = |changes: Vec<Change>| {
        lake.stage(&set(vec![batch(&t, changes)])).unwrap();
        lake.publish()
    };
    let first = stage((0..100).map(|n| insert(n, n)).collect());
    let second = stage(vec![update(1, 1, 10), delete(2, 2), insert(3, 3), insert(100, 0)]);
    let expected = ["delete 2,2", "insert 100,0", "update 1,1 to 1,10"];
    assert_eq!(changes(&first, &second, t.name()).await, expected, "in memory");
    lake.flush().await.unwrap();
    let flushed = lake.read_view();
    assert_eq!(changes(&first, &flushed, t.name()).await, expected, "from memory to a file");
    assert_eq!(changes(&second, &flushed, t.name()).await, [""; 0], "a flush");
    let back = ["delete 100,0", "insert 2,2", "update 1,10 to 1,1"];
    assert_eq!(changes(&flushed, &first, t.name()).await, back, "the other way round");
    for file in 0..5 {
        stage(vec![insert(200 + file, 0), update(file * 2 + 10, 0, -1)]);
        lake.flush().await.unwrap();
    }
    let before = lake.read_view();
    let report = lake.maintain().await.unwrap();
    assert!(report.compaction.written_files > 0);
    let after = lake.read_view();
    assert_eq!(changes(&before, &after, t.name()).await, [""; 0], "a compaction");
    assert_eq!(changes(&first, &after, t.name()).await.len(), 3 + 10);
    // What came and went in between does not occur.
    stage(vec![insert(300, 1), update(5, 5, 6)]);
    let last = stage(vec![delete(300, 1), update(5, 6, 5)]);
    assert_eq!(changes(&after, &last, t.name()).await, [""; 0]);
    let follower = Follower::open(&bench.config()).await.unwrap();
    let committed = Arc::clone(&follower.watch().borrow());
    assert_eq!(changes(&committed, &last, t.name()).await, [""; 0]);
    assert_eq!(changes(&first, &committed, t.name()).await.len(), 3 + 10);
}

#[tokio::test]
async fn all_rows_of_a_new_table_and_none_of_an_emptied_one() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let nothing = lake.read_view();
    let t = numbers();
    let name = t.name();
    assert!(matches!(
        nothing.changes_since(&nothing, name).err().unwrap(),
        LakeError::UnknownTable { .. }
    ));
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    lake.stage(&set(vec![batch(&t, vec![insert(1, 1), insert(2, 2)])])).unwrap();
    let some = lake.publish();
    assert_eq!(changes(&nothing, &some, name).await, ["insert 1,1", "insert 2,2"]);
    lake.flush().await.unwrap();
    let truncate = (Op::Truncate, None, None);
    lake.stage(&set(vec![batch(&t, vec![truncate, insert(2, 2)])])).unwrap();
    let emptied = lake.publish();
    assert_eq!(changes(&some, &emptied, name).await, ["delete 1,1"]);
    assert_eq!(changes(&nothing, &emptied, name).await, ["insert 2,2"]);
}

#[tokio::test]
async fn columns_of_the_newer_cut() {
    let bench = Bench::new();
    let lake = Lake::open(LakeConfig { keep_snapshots: 50, ..bench.config() }).await.unwrap();
    let list = ColumnType::List(Box::new(Column::nullable("element", ColumnType::Int32)));
    let t = table(
        "mall.things",
        vec![
            Column::required("id", ColumnType::Int64),
            Column::nullable("small", ColumnType::Int32),
            Column::nullable("gone", ColumnType::Utf8),
            Column::nullable("list", list.clone()),
        ],
        &["id"],
    );
    let v3 = TableOptions { format_version: FormatVersion::V3, ..TableOptions::default() };
    lake.create_tables_with(&[(Arc::clone(&t), v3)]).await.unwrap();
    let row = |id: i64, small: i32, list: Option<i32>| {
        let list_of = |value| ScalarValue::new_list_nullable(&[value], &DataType::Int32);
        let list = list.map(|n| ScalarValue::List(list_of(ScalarValue::Int32(Some(n)))));
        let null = ScalarValue::try_from(&t.columns()[3].ty.arrow()).unwrap();
        vec![
            ScalarValue::Int64(Some(id)),
            ScalarValue::Int32(Some(small)),
            ScalarValue::Utf8(Some(format!("gone {id}"))),
            list.map_or(null, |list| list.cast_to(&t.columns()[3].ty.arrow()).unwrap()),
        ]
    };
    let stage = |changes: Vec<Change>| {
        lake.stage(&set(vec![batch(&t, changes)])).unwrap();
        lake.publish()
    };
    let insert = |row: Row| (Op::Insert, None, Some(row));
    stage(vec![insert(row(1, 1, Some(1))), insert(row(2, 2, None))]);
    lake.flush().await.unwrap();
    let old = stage(vec![insert(row(3, 3, Some(3))), insert(row(4, 4, Some(4)))]);
    let next = stage(vec![insert(row(1, 1, Some(1))), insert(row(3, 3, Some(30)))]);
    assert_eq!(changes(&old, &next, t.name()).await, ["update 3,3,gone 3,[3] to 3,3,gone 3,[30]"]);
    let path = |name: &str| ColumnPath::from(name);
    let alterations = [
        Alteration::Drop(path("gone")),
        Alteration::Rename { column: path("id"), to: "number".to_owned() },
        Alteration::Widen { column: path("small"), to: ColumnType::Int64 },
        Alteration::Add {
            inside: None,
            column: Column::required("extra", ColumnType::Int64),
            default: Some(ScalarValue::Int64(Some(7))),
            place: Place::First,
        },
    ];
    lake.alter(t.name(), &alterations).await.unwrap();
    let altered = lake.read_view();
    assert_eq!(changes(&next, &altered, t.name()).await, [""; 0], "new columns change no row");
    lake.flush().await.unwrap();
    let flushed = lake.read_view();
    let wide = ["update 7,3,3,[3] to 7,3,3,[30]"];
    assert_eq!(changes(&old, &flushed, t.name()).await, wide);
    lake.compact(&[], &mut |_, _| {}).await.unwrap();
    let compacted = lake.read_view();
    for from in [&next, &altered, &flushed] {
        assert_eq!(changes(from, &compacted, t.name()).await, [""; 0], "rewritten");
    }
    assert_eq!(changes(&old, &compacted, t.name()).await, wide);
}

#[tokio::test]
async fn a_snapshot_that_has_expired_is_said() {
    let bench = Bench::new();
    let lake = Lake::open(LakeConfig { keep_snapshots: 20, ..bench.config() }).await.unwrap();
    let t = numbers();
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    let mut snapshots = Vec::new();
    for n in 0..4 {
        lake.stage(&set(vec![batch(&t, vec![insert(n, n)])])).unwrap();
        lake.publish();
        lake.flush().await.unwrap();
        snapshots.push(snapshot(&lake).unwrap());
    }
    let past = lake.view_as_of(AsOf::Snapshot(snapshots[0])).await.unwrap();
    let now = lake.read_view();
    let came = ["insert 1,1", "insert 2,2", "insert 3,3"];
    assert_eq!(changes(&past, &now, t.name()).await, came);
    assert!(lake.expire(&[], 1, 0).await.unwrap() > 0);
    assert_eq!(changes(&past, &now, t.name()).await, came, "a view keeps its files");
    drop(past);
    lake.remove_orphans(&[]).await.unwrap();
    let error = lake.view_as_of(AsOf::Snapshot(snapshots[0])).await.unwrap_err();
    assert!(matches!(error, LakeError::UnknownSnapshot { .. }), "{error}");
    // A time that only the snapshots that are gone were near.
    let at = AsOf::Time(bench.clock.load(Ordering::SeqCst) - 3_600_000_000);
    let past = lake.view_as_of(at).await.unwrap();
    let error = now.changes_since(&past, t.name()).err().unwrap();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("its oldest snapshot kept is of"), "{why}");
}

/// A snapshot of the last commit.
fn snapshot(lake: &Lake) -> Option<i64> {
    let commit = |table: &Arc<CommittedTable>| {
        let snapshot = table.metadata.current_snapshot()?;
        let summary = &snapshot.summary().additional_properties;
        let progress = Progress::read(&table.name, summary).unwrap().unwrap();
        Some(((progress.epoch, progress.view_version), snapshot.snapshot_id()))
    };
    lake.read_view().past.tables.values().filter_map(commit).max().map(|(_, id)| id)
}

fn tables(seed: u64, rng: &mut StdRng) -> Vec<(Arc<TableSchema>, TableOptions)> {
    let columns = || {
        vec![
            Column::required("id", ColumnType::Int64),
            Column::nullable("text", ColumnType::Utf8),
            Column::nullable("small", ColumnType::Int32),
            Column::nullable("ratio", ColumnType::Float64),
        ]
    };
    let keyless = |name: &str, identity| {
        let name = name.parse().unwrap();
        Arc::new(TableSchema::keyless(name, columns(), identity).unwrap())
    };
    let schemas = [
        table("mall.keyed", columns(), &["id"]),
        keyless("mall.whole", Identity::FullRow),
        keyless("mall.log", Identity::Append),
    ];
    let format_version = if seed % 4 < 2 { FormatVersion::V2 } else { FormatVersion::V3 };
    let mut layout = |schema| {
        let mut options = TableOptions { format_version, ..TableOptions::default() };
        if rng.random_range(0..2) == 0 {
            let transform = Transform::Bucket(3);
            options.partition = vec![PartitionField { column: "text".to_owned(), transform }];
        }
        if rng.random_range(0..2) == 0 {
            options.sort = vec![SortField::ascending("ratio")];
        }
        (schema, options)
    };
    schemas.into_iter().map(&mut layout).collect()
}

fn random_row(rng: &mut StdRng, schema: &TableSchema) -> Row {
    let mut value = |column: &Column| {
        let number: i32 = rng.random_range(0..12);
        match &column.ty {
            _ if column.nullable && number == 0 => {
                ScalarValue::try_from(&column.ty.arrow()).unwrap()
            }
            ColumnType::Int64 if column.name == "id" => {
                ScalarValue::Int64(Some(rng.random_range(0..60)))
            }
            ColumnType::Int64 => ScalarValue::Int64(Some(i64::from(number % 3))),
            ColumnType::Int32 => ScalarValue::Int32(Some(number % 3)),
            ColumnType::Float64 if number == 7 => ScalarValue::Float64(Some(f64::NAN)),
            ColumnType::Float64 => ScalarValue::Float64(Some(f64::from(number % 4) / 8.0)),
            _ => ScalarValue::Utf8(Some(format!("顾客 {}", number % 4))),
        }
    };
    schema.columns().iter().map(&mut value).collect()
}

fn random_changes(rng: &mut StdRng, schema: &Arc<TableSchema>) -> ChangeBatch {
    let mut changes: Vec<Change> = Vec::new();
    for _ in 0..rng.random_range(1..20) {
        let (mut before, after) = (random_row(rng, schema), random_row(rng, schema));
        let op = if rng.random_range(0..60) == 0 { 9 } else { rng.random_range(0..6) };
        if op < 5 && schema.identity() == Identity::Key && rng.random_range(0..3) > 0 {
            before[0] = after[0].clone();
        }
        changes.push(match op {
            9 => (Op::Truncate, None, None),
            0..3 => (Op::Insert, None, Some(after)),
            _ if schema.identity() == Identity::Append => (Op::Insert, None, Some(after)),
            3..5 => (Op::Update, Some(before), Some(after)),
            _ => (Op::Delete, Some(before), None),
        });
    }
    batch(schema, changes)
}

/// A change of columns that leaves the names of those that stay alone.
fn random_alteration(rng: &mut StdRng, schema: &TableSchema, step: usize) -> Alteration {
    let added = schema.columns().iter().find(|c| c.name.starts_with("added"));
    match (added, schema.columns().iter().find(|c| c.name == "small")) {
        (Some(added), _) if schema.identity() == Identity::Key && rng.random_range(0..2) == 0 => {
            Alteration::Drop(ColumnPath::from(added.name.as_str()))
        }
        (_, Some(small)) if small.ty == ColumnType::Int32 && rng.random_range(0..3) == 0 => {
            Alteration::Widen { column: ColumnPath::from("small"), to: ColumnType::Int64 }
        }
        _ => Alteration::Add {
            inside: None,
            column: Column::nullable(format!("added {step}"), ColumnType::Int64),
            default: None,
            place: if rng.random_range(0..2) == 0 { Place::First } else { Place::Last },
        },
    }
}

type Contents = BTreeMap<TableName, Content>;

/// A cut of the past: a view that is kept, or a commit.
enum Kept {
    View(Arc<ReadView>),
    Snapshot(i64),
}

async fn contents(view: &ReadView) -> Contents {
    let mut contents = Contents::new();
    for table in view.tables() {
        let name = table.schema.name().clone();
        contents.insert(name.clone(), Content::of(view, &name).await);
    }
    contents
}

/// Random histories: between any two cuts, the feed says exactly what differs.
async fn history(seed: u64, steps: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let bench = Bench { tick_micros: 20_000, ..Bench::new() };
    let config = LakeConfig { keep_snapshots: 1_000, ..bench.config() };
    let open = async || {
        let lake = Lake::open(config.clone()).await.unwrap();
        lake.load_indexes().await.unwrap();
        lake
    };
    let mut lake = open().await;
    let tables = tables(seed, &mut rng);
    lake.create_tables_with(&tables).await.unwrap();
    let names: Vec<TableName> = tables.iter().map(|(schema, _)| schema.name().clone()).collect();
    let stage = |rng: &mut StdRng, lake: &Lake| {
        for name in &names {
            // What is staged has the newest columns, published or not.
            let schema = Arc::clone(lake.staged_view().tables[name].shape.schema());
            if rng.random_range(0..3) > 0 {
                lake.stage(&set(vec![random_changes(rng, &schema)])).unwrap();
            }
        }
    };
    let mut kept: Vec<(Kept, Contents)> = Vec::new();
    for step in 0..steps {
        let note = format!("seed {seed} step {step}");
        match rng.random_range(0..20) {
            0..6 => stage(&mut rng, &lake),
            6..9 => {
                let view = lake.publish();
                kept.push((Kept::View(Arc::clone(&view)), contents(&view).await));
            }
            9 => {
                let view = lake.staged_view();
                kept.push((Kept::View(Arc::clone(&view)), contents(&view).await));
            }
            10..13 => {
                lake.flush().await.unwrap();
                let all = contents(&lake.read_view()).await;
                if let Some(id) = snapshot(&lake) {
                    kept.retain(|(kept, _)| !matches!(kept, Kept::Snapshot(same) if *same == id));
                    kept.push((Kept::Snapshot(id), all));
                }
            }
            13 => {
                let busy = async {
                    for _ in 0..3 {
                        tokio::task::yield_now().await;
                        stage(&mut rng, &lake);
                        lake.publish();
                    }
                };
                let (flushed, ()) = tokio::join!(lake.flush(), busy);
                flushed.unwrap();
            }
            14 | 15 => while !lake.maintain().await.unwrap().is_idle() {},
            16 => {
                let name = &names[rng.random_range(0..names.len())];
                let schema = Arc::clone(lake.staged_view().tables[name].shape.schema());
                let alteration = random_alteration(&mut rng, &schema, step);
                lake.alter(name, &[alteration]).await.unwrap();
            }
            17 => {
                kept.retain(|(kept, _)| matches!(kept, Kept::Snapshot(_)));
                drop(lake);
                lake = open().await;
            }
            _ => {
                let to =
                    if rng.random_range(0..2) == 0 { lake.staged_view() } else { lake.publish() };
                let all = contents(&to).await;
                for (from, before) in &kept {
                    if rng.random_range(0..3) > 0 {
                        continue;
                    }
                    let from = match from {
                        Kept::View(view) => Arc::clone(view),
                        Kept::Snapshot(id) => lake.view_as_of(AsOf::Snapshot(*id)).await.unwrap(),
                    };
                    for name in &names {
                        let (before, after) = (&before[name], &all[name]);
                        let note = format!("{name} since {from:?}, {note}");
                        let forth = changes(&from, &to, name).await;
                        assert_eq!(forth, expected(before, after), "{note}");
                        // A snapshot may have other columns than the view had: those of its own time.
                        let columns = [&before.schema, &from.tables[name].schema];
                        if columns.iter().all(|schema| **schema == after.schema) {
                            let back = changes(&to, &from, name).await;
                            assert_eq!(back, expected(after, before), "back, {note}");
                        }
                    }
                }
                if kept.len() > 12 {
                    kept.drain(..6);
                }
            }
        }
    }
}

/// `make soak` for a longer run; a failure names its seed.
#[tokio::test]
async fn random_histories_have_exactly_the_changes_between_their_cuts() {
    #[expect(clippy::disallowed_methods, reason = "the length of a test run")]
    let seeds = std::env::var("MEDLAKE_LAKE_SEEDS").ok().and_then(|n| n.parse().ok());
    for seed in 0..seeds.unwrap_or(8) {
        history(seed, 100).await;
    }
}
