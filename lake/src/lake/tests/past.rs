//! Reading the past, and what is committed.

use super::*;
use crate::{Alteration, AsOf, Inspector};

fn other() -> Arc<TableSchema> {
    table(
        "mall.other",
        vec![Column::required("id", ColumnType::Int64), Column::nullable("v", ColumnType::Int64)],
        &["id"],
    )
}

/// Stages, publishes and flushes.
async fn commit(lake: &Lake, batches: Vec<ChangeBatch>, position: u64) {
    lake.stage(&ChangeSet { positions: at(&[("mall", position)]), ..set(batches) }).unwrap();
    lake.publish();
    lake.flush().await.unwrap();
}

/// One number: what a query answers.
async fn one(view: &ReadView, sql: &str) -> i64 {
    query(view, sql).await[0].parse().unwrap()
}

/// The snapshot of `numbers` that the commit of a position made.
async fn snapshot(view: &ReadView, position: u64) -> i64 {
    let of = "select snapshot_id from medlake.mall.numbers$positions where position";
    one(view, &format!("{of} = 'change:{position}'")).await
}

async fn error_of(view: &ReadView, sql: &str) -> String {
    let planned = session(view).sql(sql).await;
    match planned {
        Err(error) => error.to_string(),
        Ok(frame) => frame.collect().await.unwrap_err().to_string(),
    }
}

/// Two tables that every commit changes alike, and a third that only some do.
async fn three_commits(bench: &Bench, keep: usize) -> Lake {
    let lake = Lake::open(LakeConfig { keep_snapshots: keep, ..bench.config() }).await.unwrap();
    let (a, b) = (numbers(), other());
    lake.create_tables(&[Arc::clone(&a), Arc::clone(&b)]).await.unwrap();
    commit(&lake, vec![batch(&a, vec![insert(1, 10)]), batch(&b, vec![insert(1, 10)])], 1).await;
    commit(&lake, vec![batch(&a, vec![update(1, 10, 11), insert(2, 20)])], 2).await;
    let both = |t: &Arc<TableSchema>| batch(t, vec![insert(3, 30)]);
    commit(&lake, vec![batch(&a, vec![delete(2, 20)]), both(&a), both(&b)], 3).await;
    lake
}

#[tokio::test]
async fn one_time_is_one_cut_of_all_tables() {
    let bench = Bench::new();
    let lake = three_commits(&bench, 20).await;
    let view = lake.read_view();
    let snapshots = query(
        &view,
        "select lpad(cast(to_unixtime(committed_at) as text), 12, '0') || ' ' || snapshot_id
         from medlake.mall.numbers$snapshots",
    )
    .await;
    assert_eq!(snapshots.len(), 3);
    let commits: Vec<(i64, i64)> = snapshots
        .iter()
        .map(|line| {
            let (seconds, id) = line.split_once(' ').unwrap();
            (seconds.parse().unwrap(), id.parse().unwrap())
        })
        .collect();
    let expected = [
        (vec!["1,10"], vec!["1,10"]),
        (vec!["1,11", "2,20"], vec!["1,10"]),
        (vec!["1,11", "3,30"], vec!["1,10", "3,30"]),
    ];
    for (at, ((seconds, id), (a, b))) in commits.iter().zip(&expected).enumerate() {
        // The end of the second it was committed in.
        let time = AsOf::Time(seconds * 1_000_000 + 999_999);
        for as_of in [AsOf::Snapshot(*id), time] {
            let past = lake.view_as_of(as_of).await.unwrap();
            assert_eq!(rows(&past, "mall.numbers").await, *a, "commit {at}, {as_of}");
            assert_eq!(rows(&past, "mall.other").await, *b, "commit {at}, {as_of}");
            assert_eq!(*past.positions(), super::at(&[("mall", at as u64 + 1)]));
        }
        // The same in SQL, a table at a time; `other` has no snapshot of the second commit.
        assert_eq!(rows(&view, &format!("mall.\"numbers@{id}\"")).await, *a);
        assert_eq!(rows(&view, &format!("mall.\"numbers@{time}\"")).await, *a);
        assert_eq!(rows(&view, &format!("mall.\"other@{time}\"")).await, *b);
    }
    assert_eq!(rows(&view, "mall.\"numbers@main\"").await, expected[2].0, "a branch");
    let before = AsOf::Time(commits[0].0 * 1_000_000 - 1_000_000);
    let past = lake.view_as_of(before).await.unwrap();
    assert_eq!(rows(&past, "mall.numbers").await, Vec::<String>::new(), "before the first commit");

    // Rows that were only published then are in no snapshot.
    lake.stage(&set(vec![batch(&numbers(), vec![insert(9, 90)])])).unwrap();
    let now = lake.publish();
    let past = now.as_of(AsOf::Time(i64::MAX)).await.unwrap();
    assert_eq!(rows(&past, "mall.numbers").await, expected[2].0);
    assert_eq!(one(&now, "select count(*) from medlake.mall.numbers").await, 3);

    // A follower reads the same.
    let follower = Follower::open(&bench.config()).await.unwrap();
    let past = follower.watch().borrow().as_of(AsOf::Snapshot(commits[1].1)).await.unwrap();
    assert_eq!(rows(&past, "mall.numbers").await, expected[1].0);
}

#[tokio::test]
async fn what_is_no_point_of_the_past_is_said() {
    let bench = Bench::new();
    let lake = three_commits(&bench, 20).await;
    let view = lake.read_view();
    let error = lake.view_as_of(AsOf::Snapshot(5)).await.unwrap_err();
    assert!(matches!(error, LakeError::UnknownSnapshot { id: 5 }), "{error}");
    for (name, word) in [
        ("numbers@5", "not a snapshot of this table"),
        ("numbers@soon", "neither a snapshot id nor a time"),
        ("numbers$nothing", "not found"),
        ("nothing@5", "not found"),
        ("nothing$files", "not found"),
    ] {
        let error = error_of(&view, &format!("select * from medlake.mall.\"{name}\"")).await;
        assert!(error.contains(word), "{name}: {error}");
    }
    let other = one(&view, "select max(snapshot_id) from medlake.mall.other$snapshots").await;
    let error = error_of(&view, &format!("select * from medlake.mall.\"numbers@{other}\"")).await;
    assert!(error.contains("not a snapshot of this table"), "{error}");
}

#[tokio::test]
async fn expired_snapshots_are_refused_and_held_ones_stay() {
    let bench = Bench::new();
    let lake = three_commits(&bench, 2).await;
    let first = lake.read_view();
    let oldest = "select min(committed_at) from medlake.mall.numbers$snapshots";
    let text = query(&first, oldest).await.remove(0);
    let AsOf::Time(oldest) = text.parse().unwrap() else { panic!("{text}") };
    let held = lake.view_as_of(AsOf::Time(oldest)).await.unwrap();
    let expected = ["1,11", "2,20"];
    assert_eq!(rows(&held, "mall.numbers").await, expected);

    // The first commit is gone for `numbers`, which had two since, and not for `other`.
    let past = lake.view_as_of(AsOf::Time(oldest - 1)).await.unwrap();
    assert_eq!(rows(&past, "mall.other").await, ["1,10"]);
    let error = error_of(&past, "select * from medlake.mall.numbers").await;
    assert!(error.contains("its oldest snapshot kept is of"), "{error}");
    assert_eq!(past.left_out().len(), 1);

    // Everything is rewritten and expires, time and again; what is held is still read.
    for round in 0..12 {
        let changes = (0..4).map(|i| insert(100 + i, round)).chain([insert(1, round)]);
        let changes = batch(&numbers(), changes.collect());
        commit(&lake, vec![changes], 10 + u64::try_from(round).unwrap()).await;
    }
    assert_eq!(rows(&held, "mall.numbers").await, expected);
    let error = lake.view_as_of(AsOf::Time(oldest)).await.unwrap();
    let error = error_of(&error, "select * from medlake.mall.numbers").await;
    assert!(error.contains("its oldest snapshot kept is of"), "{error}");
    // An old view still knows the snapshot, and may read it for as long as somebody holds it.
    assert_eq!(
        rows(&first.as_of(AsOf::Time(oldest)).await.unwrap(), "mall.numbers").await,
        expected
    );
    let files = || {
        let folder = bench.folder.path().join("warehouse/mall/numbers/data");
        fs::read_dir(folder).unwrap().count()
    };
    let before = files();
    drop((held, first));
    commit(&lake, vec![batch(&numbers(), vec![insert(7, 7)])], 90).await;
    commit(&lake, vec![batch(&numbers(), vec![insert(7, 8)])], 91).await;
    assert!(files() < before, "{} files, {before} before", files());
}

#[tokio::test]
async fn what_is_committed_is_described() {
    let bench = Bench::new();
    let lake = three_commits(&bench, 20).await;
    let view = lake.read_view();
    let of = |columns: &str, what: &str| {
        let sql = format!("select {columns} from medlake.mall.{what}");
        let view = Arc::clone(&view);
        async move { query(&view, &sql).await }
    };
    assert_eq!(of("operation", "numbers$snapshots").await, ["append", "overwrite", "overwrite"]);
    let current = "count(*), sum(case when is_current_ancestor then 1 else 0 end)";
    assert_eq!(of(current, "numbers$history").await, ["3,3"]);
    let metrics = "max(readable_metrics['id']['upper_bound']),
        sum(readable_metrics['v']['value_count']) = sum(record_count)";
    assert_eq!(of(metrics, "numbers$files where content = 0").await, ["3,true"]);
    // Files, the manifests they are in and the sums over partitions say the same as the table.
    let living = "sum(case content when 0 then record_count else -record_count end)";
    assert_eq!(of(living, "numbers$files").await, ["2"]);
    let files = "count(*) filter (where content = 0), count(*) filter (where content = 1),
        sum(case content when 0 then record_count else 0 end)";
    let listed = "sum(added_data_files_count + existing_data_files_count),
        sum(added_delete_files_count + existing_delete_files_count)";
    let files = of(files, "numbers$files").await;
    let counted = "file_count, position_delete_file_count, record_count";
    assert_eq!(of(counted, "numbers$partitions").await, files);
    assert!(files[0].starts_with(&of(listed, "numbers$manifests").await[0]), "{files:?}");
    let paths = of("file_path", "numbers$files").await;
    let exists = |path: &String| Path::new(path.strip_prefix("file://").unwrap()).exists();
    assert!(paths.iter().all(exists), "{paths:?}");
    assert_eq!(of("name, type", "numbers$refs").await, ["main,BRANCH"]);
    assert_eq!(
        of("source, position", "numbers$positions").await,
        ["mall,change:1", "mall,change:2", "mall,change:3"]
    );
    let first = of("snapshot_id", "numbers$positions where position = 'change:1'").await.remove(0);
    assert_eq!(
        of("content, record_count", &format!("\"numbers@{first}$files\"")).await,
        ["0,1"],
        "of the past"
    );
    // What only describes is not listed among the tables.
    let listed = view.catalog().schema("mall").unwrap().table_names();
    assert_eq!(listed, ["numbers", "other"]);
}

#[tokio::test]
async fn a_table_of_the_past_has_its_columns_of_then() {
    let bench = Bench::new();
    let lake = Lake::open(LakeConfig { keep_snapshots: 20, ..bench.config() }).await.unwrap();
    let (id, v) = (Column::required("id", ColumnType::Int64), "v");
    let old = [
        id.clone(),
        Column::nullable(v, ColumnType::Int32),
        Column::nullable("gone", ColumnType::Int64),
    ];
    let new =
        [Column::nullable("new", ColumnType::Int64), id, Column::nullable(v, ColumnType::Int64)];
    let [old, new] = [old, new].map(|columns| table("mall.numbers", columns.to_vec(), &["id"]));
    let long = |value| ScalarValue::Int64(Some(value));
    let row = vec![long(1), ScalarValue::Int32(Some(10)), long(100)];
    lake.create_tables(&[Arc::clone(&old)]).await.unwrap();
    commit(&lake, vec![batch(&old, vec![(Op::Insert, None, Some(row))])], 1).await;
    lake.create_tables(&[Arc::clone(&new)]).await.unwrap();
    let row = vec![long(7), long(2), long(3_000_000_000)];
    commit(&lake, vec![batch(&new, vec![(Op::Insert, None, Some(row))])], 2).await;

    let view = lake.read_view();
    let (first, second) = (snapshot(&view, 1).await, snapshot(&view, 2).await);
    let now = ["7,2,3000000000", "null,1,10"];
    assert_eq!(rows(&view, "mall.numbers").await, now);
    assert_eq!(rows(&view, &format!("mall.\"numbers@{second}\"")).await, now);
    let then = lake.view_as_of(AsOf::Snapshot(first)).await.unwrap();
    assert_eq!(rows(&then, "mall.numbers").await, ["1,10,100"]);
    assert_eq!(rows(&view, &format!("mall.\"numbers@{first}\"")).await, ["1,10,100"]);
    let gone = format!("select sum(gone) from medlake.mall.\"numbers@{first}\" where v = 10");
    assert_eq!(one(&view, &gone).await, 100);
    let types = "select arrow_typeof(v) from medlake.mall.numbers";
    assert_eq!(query(&then, types).await, ["Int32"]);

    let rename = Alteration::Rename { column: "id".into(), to: "number".to_owned() };
    lake.alter(numbers().name(), &[rename]).await.unwrap();
    let view = lake.read_view();
    assert_eq!(one(&view, "select max(number) from medlake.mall.numbers").await, 2);
    let then = format!("select max(id) from medlake.mall.\"numbers@{first}\"");
    assert_eq!(one(&view, &then).await, 1, "the key had another name");
}

/// Expiry and the removal of orphans, also by a process that does not know what an earlier one
/// left, spare what a view of the past reads.
#[tokio::test]
async fn a_table_that_was_empty_for_a_while_has_a_past_from_its_first_row_on() {
    let bench = Bench::new();
    let lake = bench.open().await;
    lake.create_tables(&[numbers()]).await.unwrap();
    // Nothing to commit, but the lake looks for files that can go.
    lake.flush().await.unwrap();
    commit(&lake, vec![batch(&numbers(), vec![insert(1, 10)])], 1).await;
    lake.maintain().await.unwrap();
    commit(&lake, vec![batch(&numbers(), vec![insert(2, 20)])], 2).await;
    let view = lake.read_view();
    let first = AsOf::Snapshot(snapshot(&view, 1).await);
    let past = lake.view_as_of(first).await.unwrap();
    assert_eq!(rows(&past, "mall.numbers").await, ["1,10"]);
}

#[tokio::test]
async fn maintenance_spares_what_a_view_of_the_past_reads() {
    let bench = Bench::new();
    drop(three_commits(&bench, 20).await);
    let config = LakeConfig {
        keep_snapshots: 2,
        // Every file is old enough to be an orphan.
        orphan_micros: -3_600_000_000,
        ..bench.config()
    };
    let lake = Lake::open(config.clone()).await.unwrap();
    lake.load_indexes().await.unwrap();
    let now = lake.read_view();
    let first = AsOf::Snapshot(snapshot(&now, 1).await);
    let held = lake.view_as_of(first).await.unwrap();
    let expected = ["1,10"];
    let changes = (1..9).map(|id| insert(id, -id)).collect();
    commit(&lake, vec![batch(&numbers(), changes)], 4).await;
    lake.remove_orphans(&[]).await.unwrap();
    assert_eq!(rows(&held, "mall.numbers").await, expected);

    lake.compact(&[], &mut |_, _| {}).await.unwrap();
    assert!(lake.expire(&[], 1, 0).await.unwrap() > 0);
    let known = lake.read_view().past.tables[numbers().name()].metadata.snapshots().len();
    assert_eq!(known, 1, "views know what has expired");
    assert_eq!(lake.remove_orphans(&[]).await.unwrap(), 0, "all of it is read");
    assert_eq!(rows(&held, "mall.numbers").await, expected);
    // Who asks an old view may read what is held already.
    let again = now.as_of(first).await.unwrap();
    assert_eq!(rows(&again, "mall.numbers").await, expected);

    drop((held, again));
    assert!(lake.remove_orphans(&[]).await.unwrap() > 0);
    let past = now.as_of(first).await.unwrap();
    let error = error_of(&past, "select * from medlake.mall.numbers").await;
    assert!(error.contains("the snapshot has expired"), "{error}");
    drop((past, now));
    commit(&lake, vec![batch(&numbers(), vec![insert(1, 1)])], 5).await;
    lake.expire(&[], 1, 0).await.unwrap();
    assert_eq!(rows(&lake.read_view(), "mall.numbers").await.len(), 8);
    let outlook = Inspector::open(config).await.unwrap().outlook(&[], 20, 0).await.unwrap();
    assert!(outlook.iter().all(|table| table.orphans.is_empty()), "{outlook:?}");
}
