//! Random histories against an oracle in memory.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::{FormatVersion, TableOptions};

fn model_tables() -> Vec<Arc<TableSchema>> {
    let values = || {
        vec![
            Column::nullable("text", ColumnType::Utf8),
            Column::nullable("ratio", ColumnType::Float64),
            Column::nullable("flag", ColumnType::Boolean),
            Column::nullable("day", ColumnType::Date),
            Column::nullable("moment", ColumnType::TimestampMicros),
            Column::nullable("bytes", ColumnType::Binary),
            Column::nullable("small", ColumnType::Int32),
        ]
    };
    let with = |key: Vec<Column>| [key, values()].concat();
    vec![
        table("mall.plain", with(vec![Column::required("id", ColumnType::Int64)]), &["id"]),
        table(
            "mall.composite",
            with(vec![
                Column::required("b", ColumnType::Utf8),
                Column::required("a", ColumnType::Date),
            ]),
            &["a", "b"],
        ),
        table("marts.text", with(vec![Column::required("name", ColumnType::Utf8)]), &["name"]),
    ]
}

/// Any way to lay these tables out: by partitions of several kinds, in an order, in files of one batch.
fn random_layout(rng: &mut StdRng) -> TableOptions {
    use crate::{PartitionField, SortField, Transform};
    let partitions = [
        ("text", Transform::Identity),
        ("text", Transform::Truncate(4)),
        ("day", Transform::Year),
        ("moment", Transform::Hour),
        ("small", Transform::Bucket(3)),
        ("flag", Transform::Identity),
    ];
    let mut options = TableOptions::default();
    if rng.random_range(0..2) == 0 {
        for _ in 0..rng.random_range(1..3) {
            let (column, transform) = partitions[rng.random_range(0..partitions.len())];
            if options.partition.iter().all(|p| p.column != column) {
                options.partition.push(PartitionField { column: column.to_owned(), transform });
            }
        }
    }
    if rng.random_range(0..2) == 0 {
        let descending = rng.random_range(0..2) == 0;
        options.sort.push(SortField { descending, ..SortField::ascending("ratio") });
        options.sort.push(SortField::ascending("moment"));
    }
    if rng.random_range(0..2) == 0 {
        options.target_file_bytes = 1;
    }
    options
}

fn random_value(rng: &mut StdRng, column: &Column, key: bool) -> ScalarValue {
    if !key && rng.random_range(0..4) == 0 {
        return ScalarValue::try_from(&column.ty.arrow()).unwrap();
    }
    let number: i64 = if key { rng.random_range(0..60) } else { rng.random_range(-1000..1000) };
    let small = i32::try_from(number).unwrap();
    match column.ty {
        ColumnType::Boolean => ScalarValue::Boolean(Some(number > 0)),
        ColumnType::Int32 => ScalarValue::Int32(Some(small)),
        ColumnType::Int64 => ScalarValue::Int64(Some(number)),
        ColumnType::Float64 if number == 7 => ScalarValue::Float64(Some(f64::NAN)),
        ColumnType::Float64 => ScalarValue::Float64(Some(f64::from(small) / 8.0)),
        ColumnType::Utf8 => ScalarValue::Utf8(Some(format!("顾客 {:03}", number % 10))),
        ColumnType::Date => ScalarValue::Date32(Some(if key { small % 8 } else { small })),
        ColumnType::TimestampMicros => {
            ScalarValue::TimestampMicrosecond(Some(number * 1_000_003), Some("UTC".into()))
        }
        ColumnType::Binary => ScalarValue::Binary(Some(number.to_be_bytes().to_vec())),
        _ => unreachable!(),
    }
}

/// Some changes of one table, applied to the model as they are made.
fn random_changes(rng: &mut StdRng, model: &mut Model) -> Vec<Change> {
    let schema = Arc::clone(&model.schema);
    let random_row = |rng: &mut StdRng| -> Row {
        let column =
            |(at, c): (usize, &Column)| random_value(rng, c, schema.key_indices().contains(&at));
        schema.columns().iter().enumerate().map(column).collect()
    };
    let mut changes = Vec::new();
    for _ in 0..rng.random_range(0..25) {
        let existing = |rng: &mut StdRng, model: &Model| {
            let at = rng.random_range(0..model.rows.len().max(1));
            model.rows.values().nth(at).cloned()
        };
        let mut after = random_row(rng);
        if rng.random_range(0..80) == 0 {
            model.rows.clear();
            changes.push((Op::Truncate, None, None));
        }
        match rng.random_range(0..10) {
            0..4 => {
                model.rows.insert(key_of(&schema, &after), after.clone());
                changes.push((Op::Insert, None, Some(after)));
            }
            4..8 => {
                let before = existing(rng, model).unwrap_or_else(|| random_row(rng));
                if rng.random_range(0..5) > 0 {
                    schema.key_indices().iter().for_each(|&k| after[k] = before[k].clone());
                }
                model.rows.remove(&key_of(&schema, &before));
                model.rows.insert(key_of(&schema, &after), after.clone());
                changes.push((Op::Update, Some(before), Some(after)));
            }
            _ => {
                let before = existing(rng, model).unwrap_or_else(|| random_row(rng));
                model.rows.remove(&key_of(&schema, &before));
                changes.push((Op::Delete, Some(before), None));
            }
        }
    }
    changes
}

/// Random histories against an oracle in memory: stage, publish, flush (alone, and while staging
/// goes on), commits that go wrong, crashes, old views.
async fn history(seed: u64, steps: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    // A clock that gets a minute ahead of the machine's own is refused by the metadata library.
    let bench = Bench { tick_micros: 20_000, ..Bench::new() };
    let mut lake = bench.open().await;
    let schemas = model_tables();
    // Every other history in the default layout, which keeps the ids of segments. Two in four are of
    // format v3 in the end: one table is raised to it at the first reopening.
    let layout = |rng: &mut StdRng, schema: &Arc<TableSchema>, format_version| {
        let options =
            if seed.is_multiple_of(2) { TableOptions::default() } else { random_layout(rng) };
        (Arc::clone(schema), TableOptions { format_version, ..options })
    };
    let version = if seed % 4 < 2 { FormatVersion::V2 } else { FormatVersion::V3 };
    let versions = [FormatVersion::V2, version, version];
    let tables: Vec<_> =
        schemas.iter().zip(versions).map(|(schema, v)| layout(&mut rng, schema, v)).collect();
    lake.create_tables_with(&tables).await.unwrap();
    let empty: BTreeMap<String, Model> =
        schemas.iter().map(|s| (s.name().to_string(), Model::new(s))).collect();
    let (mut staged, mut published, mut durable) = (empty.clone(), empty.clone(), empty);
    let mut position = 0;
    let mut held: Vec<(Arc<ReadView>, BTreeMap<String, Model>)> = Vec::new();
    for step in 0..steps {
        let note = format!("seed {seed} step {step}");
        let mut stage = |rng: &mut StdRng, lake: &Lake, staged: &mut BTreeMap<String, Model>| {
            let mut batches = Vec::new();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..schemas.len());
                let model = staged.get_mut(&schemas[at].name().to_string()).unwrap();
                let changes = random_changes(rng, model);
                batches.push(batch(&schemas[at], changes));
            }
            position += 1;
            let changes = ChangeSet { positions: at(&[("mall", position)]), ..set(batches) };
            lake.stage(&changes).unwrap();
            if rng.random_range(0..10) == 0 {
                // The marts table is of no source, so only the mall's part may be repeated.
                let repeated =
                    changes.batches.iter().filter(|b| b.table().name().namespace() == "mall");
                let batches = repeated.cloned().collect();
                lake.stage(&ChangeSet { batches, ..changes.clone() }).unwrap();
            }
        };
        match rng.random_range(0..22) {
            0..8 => stage(&mut rng, &lake, &mut staged),
            8..12 => {
                let view = lake.publish();
                published.clone_from(&staged);
                if rng.random_range(0..4) == 0 {
                    held.push((view, published.clone()));
                }
            }
            12..14 => {
                lake.flush().await.unwrap();
                durable.clone_from(&published);
            }
            14..16 => {
                let mut by_version =
                    BTreeMap::from([(lake.read_view().version(), published.clone())]);
                let busy = async {
                    for _ in 0..4 {
                        tokio::task::yield_now().await;
                        stage(&mut rng, &lake, &mut staged);
                        if rng.random_range(0..2) == 0 {
                            let version = lake.publish().version();
                            published.clone_from(&staged);
                            by_version.insert(version, published.clone());
                        }
                    }
                };
                let (flushed, ()) = tokio::join!(lake.flush(), busy);
                durable.clone_from(&by_version[&flushed.unwrap().version]);
            }
            16 => {
                let faults = [
                    vec![Fault::BeforeSwap],
                    vec![Fault::AnswerLost],
                    vec![Fault::AnswerLost, Fault::RereadFails],
                ];
                let faults = &faults[rng.random_range(0..faults.len())];
                // Settles a commit whose answer is still out, so that the faults hit the next one.
                lake.create_tables(&schemas).await.unwrap();
                let has_work = lake.committed_positions() != *lake.read_view().positions();
                if has_work {
                    faults.iter().for_each(|f| lake.faults.arm(*f));
                    let result = lake.flush().await;
                    assert_eq!(result.is_ok(), faults == &[Fault::AnswerLost], "{note}");
                    if faults[0] == Fault::AnswerLost {
                        durable.clone_from(&published);
                    }
                }
            }
            20 => while !lake.maintain().await.unwrap().is_idle() {},
            21 => {
                // Rows come, die and are flushed while files are merged, and the commit may fail.
                let mut by_version =
                    BTreeMap::from([(lake.read_view().version(), published.clone())]);
                let broken = rng.random_range(0..4) == 0;
                let busy = async {
                    for _ in 0..4 {
                        tokio::task::yield_now().await;
                        stage(&mut rng, &lake, &mut staged);
                        if rng.random_range(0..2) == 0 {
                            let version = lake.publish().version();
                            published.clone_from(&staged);
                            by_version.insert(version, published.clone());
                        }
                        if !broken && rng.random_range(0..2) == 0 {
                            let flushed = lake.flush().await.unwrap();
                            durable.clone_from(&by_version[&flushed.version]);
                        }
                    }
                };
                if broken {
                    // Settles a commit whose answer is still out, so that the fault hits this one.
                    lake.create_tables(&schemas).await.unwrap();
                    lake.faults.arm(Fault::BeforeSwap);
                }
                let (maintained, ()) = tokio::join!(lake.maintain(), busy);
                if broken {
                    assert_eq!(lake.faults.disarm(), maintained.is_ok(), "{note}");
                } else {
                    maintained.unwrap();
                }
            }
            17 => {
                if let Some((view, models)) = held.pop() {
                    check(&view, &models, &format!("held view, {note}")).await;
                }
            }
            18 => {
                check(&lake.staged_view(), &staged, &format!("staged, {note}")).await;
                check(&lake.read_view(), &published, &format!("published, {note}")).await;
            }
            _ => {
                for (view, models) in held.drain(..) {
                    check(&view, &models, &format!("held view, {note}")).await;
                }
                drop(lake);
                lake = bench.open().await;
                check(&lake.read_view(), &durable, &format!("reopened, {note}")).await;
                let other = layout(&mut rng, &schemas[0], version);
                lake.create_tables_with(&[other]).await.unwrap();
                staged.clone_from(&durable);
                published.clone_from(&durable);
                position = match lake.committed_positions().get(&SourceId::new("mall")) {
                    Some(Position::ChangeId(at)) => *at,
                    _ => 0,
                };
            }
        }
    }
    check(&lake.staged_view(), &staged, &format!("at the end, seed {seed}")).await;
    lake.publish();
    lake.flush().await.unwrap();
    drop(lake);
    check(&bench.open().await.read_view(), &staged, &format!("reopened at the end, seed {seed}"))
        .await;
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
