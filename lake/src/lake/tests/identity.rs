//! Tables without a key, keys of other kinds, and all rows going at once.

use medlake_contract::Identity;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::{Alteration, IndexSize};

fn events(identity: Identity) -> Arc<TableSchema> {
    let columns = vec![
        Column::required("kind", ColumnType::Utf8),
        Column::nullable("n", ColumnType::Int64),
        Column::nullable("ratio", ColumnType::Float64),
        Column::nullable("day", ColumnType::Date),
    ];
    let name = match identity {
        Identity::Append => "mall.log",
        _ => "mall.events",
    };
    Arc::new(TableSchema::keyless(name.parse().unwrap(), columns, identity).unwrap())
}

fn event(kind: &str, n: Option<i64>, ratio: Option<f64>) -> Row {
    vec![
        ScalarValue::Utf8(Some(kind.to_owned())),
        ScalarValue::Int64(n),
        ScalarValue::Float64(ratio),
        ScalarValue::Date32(None),
    ]
}

#[tokio::test]
async fn of_equal_rows_a_delete_takes_one() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = events(Identity::FullRow);
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    let row = |n| event("a", n, None);
    let insert = |n| (Op::Insert, None, Some(row(n)));
    lake.stage(&set(vec![batch(&t, vec![insert(Some(1)), insert(None), insert(Some(1))])]))
        .unwrap();
    lake.publish();
    lake.flush().await.unwrap();
    // One from the file, while one more is in memory; then what is not there, then a change of one.
    let changes = vec![
        insert(Some(1)),
        (Op::Delete, Some(row(Some(1))), None),
        (Op::Delete, Some(row(Some(2))), None),
        (Op::Update, Some(row(None)), Some(row(Some(3)))),
        (Op::Update, Some(row(Some(1))), Some(row(Some(1)))),
    ];
    lake.stage(&set(vec![batch(&t, changes)])).unwrap();
    let expected = ["a,1,null,null", "a,1,null,null", "a,3,null,null"];
    assert_eq!(rows(&lake.publish(), "mall.events").await, expected);
    lake.flush().await.unwrap();
    drop(lake);
    let lake = bench.open().await;
    assert_eq!(rows(&lake.read_view(), "mall.events").await, expected);
    let again: Vec<Change> = (0..3).map(|_| (Op::Delete, Some(row(Some(1))), None)).collect();
    lake.stage(&set(vec![batch(&t, again)])).unwrap();
    assert_eq!(rows(&lake.publish(), "mall.events").await, ["a,3,null,null"]);
}

#[tokio::test]
async fn a_zero_is_a_zero_and_no_number_is_no_number() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = events(Identity::FullRow);
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    let other_nan = f64::from_bits(f64::NAN.to_bits() ^ 1);
    let insert = |ratio| (Op::Insert, None, Some(event("a", None, Some(ratio))));
    let delete = |ratio| (Op::Delete, Some(event("a", None, Some(ratio))), None);
    let changes = vec![insert(-0.0), insert(f64::NAN), insert(0.5), delete(0.0), delete(other_nan)];
    lake.stage(&set(vec![batch(&t, changes)])).unwrap();
    assert_eq!(rows(&lake.publish(), "mall.events").await, ["a,null,0.5,null"]);
}

#[tokio::test]
async fn an_append_only_table_refuses_what_it_cannot_do() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = events(Identity::Append);
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    let row = event("a", Some(1), None);
    let insert = (Op::Insert, None, Some(row.clone()));
    lake.stage(&set(vec![batch(&t, vec![insert.clone(), insert.clone()])])).unwrap();
    for change in
        [(Op::Delete, Some(row.clone()), None), (Op::Update, Some(row.clone()), Some(row.clone()))]
    {
        let error = lake.stage(&set(vec![batch(&t, vec![insert.clone(), change])])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("\"mall.log\"") && text.contains("declare its key"), "{text}");
        assert!(text.contains("change 1 is a"), "{text}");
    }
    assert_eq!(rows(&lake.publish(), "mall.log").await.len(), 2, "nothing of a refused set");
    let none = IndexSize { rows: 0, bytes: 0 };
    assert_eq!(lake.index_sizes()[t.name()], none, "there is nothing to find");
    let changes = vec![insert.clone(), (Op::Truncate, None, None), insert];
    lake.stage(&set(vec![batch(&t, changes)])).unwrap();
    assert_eq!(rows(&lake.publish(), "mall.log").await.len(), 1);
    lake.flush().await.unwrap();
    drop(lake);
    assert_eq!(rows(&bench.open().await.read_view(), "mall.log").await.len(), 1);
}

#[tokio::test]
async fn the_same_name_with_another_identity_is_refused() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = events(Identity::FullRow);
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    let append =
        TableSchema::keyless(t.name().clone(), t.columns().to_vec(), Identity::Append).unwrap();
    let error = lake.create_tables(&[Arc::new(append.clone())]).await.unwrap_err();
    assert!(matches!(error, LakeError::Schema { .. }), "{error}");
    let row = batch(&Arc::new(append), vec![(Op::Insert, None, Some(event("a", None, None)))]);
    let error = lake.stage(&set(vec![row])).unwrap_err();
    assert!(matches!(error, LakeError::Rows { .. }), "{error}");
}

#[tokio::test]
async fn a_truncate_is_one_change_among_others() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = numbers();
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    lake.stage(&set(vec![batch(&t, (0..10).map(|n| insert(n, n)).collect())])).unwrap();
    lake.publish();
    lake.flush().await.unwrap();
    lake.stage(&set(vec![batch(&t, (10..20).map(|n| insert(n, n)).collect())])).unwrap();
    let before = lake.publish();
    let truncate = || (Op::Truncate, None, None);
    let changes = vec![
        insert(3, 30),
        truncate(),
        insert(4, 40),
        update(5, 5, 50),
        delete(4, 40),
        truncate(),
        delete(3, 3),
        insert(6, 60),
        update(6, 60, 61),
    ];
    lake.stage(&set(vec![batch(&t, changes)])).unwrap();
    assert_eq!(rows(&lake.publish(), "mall.numbers").await, ["6,61"]);
    assert_eq!(rows(&before, "mall.numbers").await.len(), 20, "who looks keeps the rows");
    lake.flush().await.unwrap();
    drop(lake);
    let lake = bench.open().await;
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await, ["6,61"]);
    lake.stage(&set(vec![batch(&t, vec![truncate()])])).unwrap();
    lake.publish();
    lake.flush().await.unwrap();
    drop(lake);
    assert!(rows(&bench.open().await.read_view(), "mall.numbers").await.is_empty());
}

/// Insert and update of one key in one batch, as sources send them: however large the batch, one row
/// is left. (Others wrote an equality delete of the same commit as the row, which deletes nothing.)
#[tokio::test]
async fn many_changes_of_one_key_leave_one_row_at_any_batch_size() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = numbers();
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    let count = 30_000;
    let mut changes: Vec<Change> = (0..count).map(|n| insert(n, 0)).collect();
    changes.extend((0..count).map(|n| update(n, 0, 1)));
    changes.extend((0..count).map(|n| update(n, 1, 2)));
    changes.extend((0..count).filter(|n| n % 3 == 0).map(|n| delete(n, 2)));
    lake.stage(&set(vec![batch(&t, changes)])).unwrap();
    let view = lake.publish();
    let counts = async |view: &ReadView| {
        query(view, "select count(*), count(distinct id), sum(v) from medlake.mall.numbers").await
    };
    assert_eq!(counts(&view).await, ["20000,20000,40000"]);
    lake.flush().await.unwrap();
    drop(lake);
    let lake = bench.open().await;
    assert_eq!(counts(&lake.read_view()).await, ["20000,20000,40000"]);
    assert_eq!(lake.index_sizes()[t.name()].rows, 20_000);
}

/// A change of the key goes by the image before: the old row goes, also from a file.
#[tokio::test]
async fn a_changed_key_takes_its_old_row_along() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = table(
        "mall.stock",
        vec![
            Column::required("shop", ColumnType::Utf8),
            Column::required("product", ColumnType::Int32),
            Column::nullable("n", ColumnType::Int64),
        ],
        &["product", "shop"],
    );
    let row = |shop: &str, product, n| -> Row {
        vec![
            ScalarValue::Utf8(Some(shop.to_owned())),
            ScalarValue::Int32(Some(product)),
            ScalarValue::Int64(Some(n)),
        ]
    };
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    let inserts = (0..4).map(|p| (Op::Insert, None, Some(row("a", p, 0)))).collect();
    lake.stage(&set(vec![batch(&t, inserts)])).unwrap();
    lake.publish();
    lake.flush().await.unwrap();
    let changes = vec![
        (Op::Update, Some(row("a", 0, 0)), Some(row("b", 0, 1))),
        (Op::Update, Some(row("b", 0, 1)), Some(row("c", 0, 2))),
        // Two rows change places.
        (Op::Update, Some(row("a", 1, 0)), Some(row("x", 9, 0))),
        (Op::Update, Some(row("a", 2, 0)), Some(row("a", 1, 7))),
        (Op::Update, Some(row("x", 9, 0)), Some(row("a", 2, 8))),
        // Onto a row that is there: it is replaced.
        (Op::Update, Some(row("a", 3, 0)), Some(row("a", 2, 9))),
    ];
    lake.stage(&set(vec![batch(&t, changes)])).unwrap();
    let expected = ["a,1,7", "a,2,9", "c,0,2"];
    assert_eq!(rows(&lake.publish(), "mall.stock").await, expected);
    lake.flush().await.unwrap();
    drop(lake);
    assert_eq!(rows(&bench.open().await.read_view(), "mall.stock").await, expected);
}

/// A table without a key in the oracle: rows with their text, any number of equal ones.
#[derive(Clone, Default)]
struct Rows(BTreeMap<String, (Row, usize)>);

impl Rows {
    fn add(&mut self, row: &Row) {
        self.0.entry(format!("{row:?}")).or_insert_with(|| (row.clone(), 0)).1 += 1;
    }

    fn remove(&mut self, row: &Row) {
        let key = format!("{row:?}");
        if let Some((_, count)) = self.0.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&key);
            }
        }
    }

    fn some(&self, rng: &mut StdRng) -> Option<Row> {
        let nth = rng.random_range(0..self.0.len().max(1));
        self.0.values().nth(nth).map(|(row, _)| row.clone())
    }

    fn lines(&self, schema: &TableSchema) -> Vec<String> {
        let rows = self.0.values().flat_map(|(row, count)| vec![Some(row.clone()); *count]);
        lines(&[image(schema, rows.collect())])
    }
}

async fn keyless_history(seed: u64, steps: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let bench = Bench::new();
    let mut lake = bench.open().await;
    let tables = [events(Identity::FullRow), events(Identity::Append)];
    lake.create_tables(&tables).await.unwrap();
    let names = ["mall.events", "mall.log"];
    let mut staged = [Rows::default(), Rows::default()];
    let mut published = staged.clone();
    let mut durable = staged.clone();
    let check = async |view: &ReadView, models: &[Rows; 2], note: &str| {
        for ((name, model), schema) in names.iter().zip(models).zip(&tables) {
            assert_eq!(rows(view, name).await, model.lines(schema), "{name}, {note}");
        }
    };
    for step in 0..steps {
        let note = format!("seed {seed} step {step}");
        match rng.random_range(0..10) {
            0..4 => {
                let mut batches = Vec::new();
                for (at, schema) in tables.iter().enumerate() {
                    let model = &mut staged[at];
                    let mut changes: Vec<Change> = Vec::new();
                    for _ in 0..rng.random_range(0..20) {
                        let new = event(
                            ["a", "b", ""][rng.random_range(0..3)],
                            (rng.random_range(0..4) > 0).then(|| rng.random_range(-3..3)),
                            (rng.random_range(0..4) == 0).then_some(0.25),
                        );
                        let old = model.some(&mut rng).unwrap_or_else(|| new.clone());
                        match rng.random_range(0..40) {
                            0 => {
                                model.0.clear();
                                changes.push((Op::Truncate, None, None));
                            }
                            1..12 if at == 0 => {
                                model.remove(&old);
                                changes.push((Op::Delete, Some(old), None));
                            }
                            12..24 if at == 0 => {
                                model.remove(&old);
                                model.add(&new);
                                changes.push((Op::Update, Some(old), Some(new)));
                            }
                            _ => {
                                model.add(&new);
                                changes.push((Op::Insert, None, Some(new)));
                            }
                        }
                    }
                    batches.push(batch(schema, changes));
                }
                lake.stage(&set(batches)).unwrap();
            }
            4..6 => {
                check(&lake.publish(), &staged, &note).await;
                published.clone_from(&staged);
            }
            6..9 => {
                // Rows staged after the publication move to a segment of their own.
                lake.flush().await.unwrap();
                durable.clone_from(&published);
            }
            _ => {
                drop(lake);
                lake = bench.open().await;
                check(&lake.read_view(), &durable, &format!("reopened, {note}")).await;
                staged.clone_from(&durable);
                published.clone_from(&durable);
            }
        }
    }
    check(&lake.publish(), &staged, &format!("at the end, seed {seed}")).await;
}

#[tokio::test]
async fn random_histories_without_keys_equal_the_oracle() {
    for seed in 0..6 {
        keyless_history(seed, 120).await;
    }
}

#[tokio::test]
async fn a_table_of_whole_rows_takes_a_new_column_and_loses_none() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = events(Identity::FullRow);
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    let old = event("a", Some(1), None);
    lake.stage(&set(vec![batch(&t, vec![(Op::Insert, None, Some(old.clone())); 2])])).unwrap();
    lake.publish();
    lake.flush().await.unwrap();
    let keyless = |columns| {
        let name = t.name().clone();
        Arc::new(TableSchema::keyless(name, columns, Identity::FullRow).unwrap())
    };
    let added = Column::nullable("extra", ColumnType::Utf8);
    let wider = keyless([&[added], t.columns()].concat());
    lake.create_tables(&[Arc::clone(&wider)]).await.unwrap();
    let row = |extra: Option<&str>| -> Row {
        [vec![ScalarValue::Utf8(extra.map(ToOwned::to_owned))], old.clone()].concat()
    };
    let changes = vec![
        (Op::Insert, None, Some(row(Some("x")))),
        (Op::Delete, Some(row(None)), None),
        (Op::Delete, Some(row(Some("y"))), None),
    ];
    lake.stage(&set(vec![batch(&wider, changes)])).unwrap();
    let expected = ["null,a,1,null,null", "x,a,1,null,null"];
    assert_eq!(rows(&lake.publish(), "mall.events").await, expected);
    lake.flush().await.unwrap();
    drop(lake);
    let lake = bench.open().await;
    lake.stage(&set(vec![batch(&wider, vec![(Op::Delete, Some(row(None)), None)])])).unwrap();
    assert_eq!(rows(&lake.publish(), "mall.events").await, expected[1..]);
}

#[tokio::test]
async fn whole_rows_are_found_again_after_columns_went_or_changed_their_names() {
    let bench = Bench::new();
    let lake = bench.open().await;
    let t = events(Identity::FullRow);
    lake.create_tables(&[Arc::clone(&t)]).await.unwrap();
    let inserts = |rows: &[Row]| {
        let changes = rows.iter().map(|row| (Op::Insert, None, Some(row.clone())));
        set(vec![batch(&t, changes.collect())])
    };
    // Some in a file, some in memory; one died.
    lake.stage(&inserts(&[event("a", Some(1), None), event("a", Some(2), None)])).unwrap();
    lake.publish();
    lake.flush().await.unwrap();
    lake.stage(&inserts(&[event("b", Some(1), None), event("b", Some(3), None)])).unwrap();
    let gone = vec![(Op::Delete, Some(event("b", Some(3), None)), None)];
    lake.stage(&set(vec![batch(&t, gone)])).unwrap();

    let second = t.columns()[1].name.clone();
    let first = t.columns()[0].name.clone();
    let name = t.name().clone();
    let rename = Alteration::Rename { column: first.as_str().into(), to: "word".to_owned() };
    lake.alter(&name, &[Alteration::Drop(second.as_str().into()), rename]).await.unwrap();
    let now = lake.staged_view().tables().into_iter().find(|i| i.schema.name() == &name);
    let now = now.unwrap().schema;
    assert_eq!(now.columns().len(), t.columns().len() - 1);
    let row = |word: &str| {
        let mut row = event(word, None, None);
        row.remove(1);
        row
    };
    // Two rows became equal: one of them goes.
    let deletes = vec![(Op::Delete, Some(row("a")), None), (Op::Delete, Some(row("b")), None)];
    lake.stage(&set(vec![batch(&now, deletes)])).unwrap();
    assert_eq!(rows(&lake.publish(), "mall.events").await.len(), 1);
    lake.flush().await.unwrap();
    lake.save_indexes().await.unwrap();
    drop(lake);
    let lake = bench.open().await;
    lake.stage(&set(vec![batch(&now, vec![(Op::Delete, Some(row("a")), None)])])).unwrap();
    assert!(rows(&lake.publish(), "mall.events").await.is_empty());
}
