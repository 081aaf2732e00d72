//! Merging files while rows die, come back and are flushed.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::maintain::compact::{Limits, Merged};

const TABLE: &str = "mall.numbers";

fn data_files(bench: &Bench) -> usize {
    files(bench.folder.path(), "mall/numbers/data").len()
}

async fn commit(lake: &Lake, changes: Vec<Change>) {
    stage(lake, changes);
    lake.flush().await.unwrap();
}

fn stage(lake: &Lake, changes: Vec<Change>) -> Arc<ReadView> {
    lake.stage(&set(vec![batch(&numbers(), changes)])).unwrap();
    lake.publish()
}

/// A lake with `files` files of ten rows each: key k has value k.
async fn with_files(bench: &Bench, files: i64) -> Lake {
    let lake = bench.open().await;
    lake.create_tables(&[numbers()]).await.unwrap();
    for file in 0..files {
        commit(&lake, (file * 10..file * 10 + 10).map(|k| insert(k, k)).collect()).await;
    }
    lake
}

/// Up to the commit: what it decides on now may be overtaken.
async fn written(lake: &Lake) -> Merged {
    let limits = Limits::due(&lake.config);
    let plan = lake.plan_compaction(limits, &TABLE.parse().unwrap()).await.unwrap().unwrap();
    lake.write_compaction(plan).await.unwrap().unwrap()
}

fn segments(lake: &Lake) -> usize {
    lake.read_view().tables[&TABLE.parse().unwrap()].segments.len()
}

fn expected(rows: impl IntoIterator<Item = (i64, i64)>) -> Vec<String> {
    let mut rows: Vec<String> = rows.into_iter().map(|(k, v)| format!("{k},{v}")).collect();
    rows.sort();
    rows
}

#[tokio::test]
async fn files_are_merged_and_nothing_else_changes() {
    let bench = Bench::new();
    let lake = with_files(&bench, 6).await;
    let held = lake.read_view();
    let (before, watch) = (rows(&held, TABLE).await, lake.watch());
    let report = lake.maintain().await.unwrap();
    assert_eq!(report.compaction.merged_files, 6);
    assert_eq!(report.compaction.written_files, 1);
    assert_eq!(segments(&lake), 1);
    assert!(!watch.has_changed().unwrap(), "no reader is woken");
    assert_eq!(lake.read_view().version(), held.version());
    assert_eq!(rows(&lake.read_view(), TABLE).await, before);
    assert_eq!(rows(&held, TABLE).await, before, "a view held reads the files that went");
    assert_eq!(lake.maintain().await.unwrap().compacted, None);
    {
        let committer = lake.committer.lock().await;
        let metadata = &committer.tables[&TABLE.parse().unwrap()].metadata;
        let summary = metadata.current_snapshot().unwrap().summary();
        assert_eq!(summary.operation, iceberg::spec::Operation::Replace);
        assert_eq!(summary.additional_properties["total-records"], "60");
        assert_eq!(summary.additional_properties["total-data-files"], "1");
    }
    // The index finds the rows at their new place.
    commit(&lake, vec![update(7, 7, 700), delete(59, 59), insert(3, 300)]).await;
    let changed = expected((0..59).map(|k| (k, if [3, 7].contains(&k) { k * 100 } else { k })));
    assert_eq!(rows(&lake.read_view(), TABLE).await, changed);
    drop((lake, held));
    assert_eq!(rows(&bench.open().await.read_view(), TABLE).await, changed);
}

/// The worst that can happen between planning and committing: rows of the files being merged die,
/// are replaced, come back, and some of that is flushed while some is not even published.
#[tokio::test]
async fn rows_that_die_meanwhile_stay_dead_and_rows_reborn_live_once() {
    let bench = Bench::new();
    let lake = with_files(&bench, 6).await;
    commit(&lake, vec![delete(50, 50), update(51, 51, 5100)]).await; // dead before the plan
    let merged = written(&lake).await;
    // Flushed before the commit of the merge: a flush in between is fine.
    commit(&lake, vec![delete(1, 1), update(2, 2, 200), delete(3, 3), insert(3, 300)]).await;
    let flushed = rows(&lake.read_view(), TABLE).await;
    // Published, not flushed.
    let view = stage(&lake, vec![delete(11, 11), update(12, 12, 1200), update(2, 200, 201)]);
    let published = rows(&view, TABLE).await;
    // Only staged.
    lake.stage(&set(vec![batch(&numbers(), vec![delete(21, 21), insert(11, 1100)])])).unwrap();

    let report = lake.commit_compaction(merged).await.unwrap().unwrap();
    assert!(report.merged_files >= 6, "{report:?}");
    assert_eq!(rows(&lake.read_view(), TABLE).await, published);
    let committed = Follower::open(&bench.config()).await.unwrap();
    let committed = Arc::clone(&committed.watch().borrow());
    assert_eq!(rows(&committed, TABLE).await, flushed, "from outside nothing changed");
    // Again of the same rows, after the merge.
    let staged = lake.publish();
    let values = |k: i64| match k {
        1 | 21 | 50 => None,
        2 => Some(201),
        3 => Some(300),
        11 => Some(1100),
        12 => Some(1200),
        51 => Some(5100),
        k => Some(k),
    };
    let now = expected((0..60).filter_map(|k| Some((k, values(k)?))));
    assert_eq!(rows(&staged, TABLE).await, now);
    lake.flush().await.unwrap();
    assert_eq!(rows(&lake.read_view(), TABLE).await, now);
    commit(&lake, (0..60).map(|k| update(k, k, k + 1)).collect()).await;
    let all = expected((0..60).map(|k| (k, k + 1)));
    assert_eq!(rows(&lake.read_view(), TABLE).await, all);
    drop((lake, staged, view, committed));
    assert_eq!(rows(&bench.open().await.read_view(), TABLE).await, all);
}

#[tokio::test]
async fn a_merge_whose_files_went_meanwhile_is_given_up() {
    let bench = Bench::new();
    let lake = with_files(&bench, 6).await;
    let merged = written(&lake).await;
    let with_merged = data_files(&bench);
    // A whole file dies, and goes.
    commit(&lake, (20..30).map(|k| delete(k, k)).collect()).await;
    assert_eq!(lake.commit_compaction(merged).await.unwrap(), None);
    assert!(data_files(&bench) < with_merged, "what was written is removed");
    let left = expected((0..20).chain(30..60).map(|k| (k, k)));
    assert_eq!(rows(&lake.read_view(), TABLE).await, left);
    assert_eq!(lake.maintain().await.unwrap().compaction.merged_files, 5);
    assert_eq!(rows(&lake.read_view(), TABLE).await, left);
}

#[tokio::test]
async fn a_merge_is_taken_back_or_found_done_when_its_commit_fails() {
    let bench = Bench::new();
    let lake = with_files(&bench, 6).await;
    let content = rows(&lake.read_view(), TABLE).await;
    let before = data_files(&bench);
    lake.storage.faults().arm(Fault::BeforeSwap);
    lake.maintain().await.unwrap_err();
    assert_eq!(data_files(&bench), before, "taken back");

    lake.storage.faults().arm(Fault::AnswerLost);
    lake.storage.faults().arm(Fault::RereadFails);
    let error = lake.maintain().await.unwrap_err();
    assert!(matches!(error, LakeError::CommitUnknown { .. }), "{error}");
    assert_eq!(rows(&lake.read_view(), TABLE).await, content);
    // The next flush learns that it was made.
    commit(&lake, vec![update(5, 5, 50)]).await;
    assert_eq!(segments(&lake), 2);
    commit(&lake, vec![update(5, 50, 5)]).await;
    assert_eq!(rows(&lake.read_view(), TABLE).await, content);
    drop(lake);
    assert_eq!(rows(&bench.open().await.read_view(), TABLE).await, content);
}

#[tokio::test]
async fn a_truncate_during_a_merge_empties_the_table() {
    let bench = Bench::new();
    let lake = with_files(&bench, 6).await;
    let merged = written(&lake).await;
    let view = stage(&lake, vec![(Op::Truncate, None, None), insert(1, 100)]);
    assert_eq!(rows(&view, TABLE).await, ["1,100"]);
    lake.commit_compaction(merged).await.unwrap().unwrap();
    assert_eq!(rows(&lake.read_view(), TABLE).await, ["1,100"]);
    commit(&lake, vec![insert(2, 200)]).await;
    assert_eq!(rows(&lake.read_view(), TABLE).await, ["1,100", "2,200"]);
    drop(lake);
    assert_eq!(rows(&bench.open().await.read_view(), TABLE).await, ["1,100", "2,200"]);
}

#[tokio::test]
async fn delete_files_are_merged_when_they_are_many() {
    let bench = Bench::new();
    let lake = with_files(&bench, 3).await;
    for key in 0..5 {
        commit(&lake, vec![delete(key * 3, key * 3)]).await;
    }
    let content = rows(&lake.read_view(), TABLE).await;
    let report = lake.maintain().await.unwrap();
    assert_eq!(report.compaction.merged_delete_files, 5);
    {
        let committer = lake.committer.lock().await;
        assert_eq!(committer.tables[&TABLE.parse().unwrap()].delete_files().count(), 1);
    }
    assert_eq!(rows(&lake.read_view(), TABLE).await, content);
    drop(lake);
    assert_eq!(rows(&bench.open().await.read_view(), TABLE).await, content);
}

#[tokio::test]
async fn a_merge_that_nobody_waits_for_stops_and_leaves_nothing() {
    let bench = Bench::new();
    let lake = with_files(&bench, 6).await;
    let before = data_files(&bench);
    let name = TABLE.parse().unwrap();
    let plan = lake.plan_compaction(Limits::due(&lake.config), &name).await.unwrap().unwrap();
    let scope = lake.storage.begin();
    let files = scope.clone();
    let writing =
        tokio::task::spawn_blocking(move || plan.write(&files, &AtomicBool::new(true)).unwrap());
    assert!(writing.await.unwrap().is_none());
    scope.discard().await;
    assert_eq!(data_files(&bench), before);
    assert_eq!(lake.maintain().await.unwrap().compaction.merged_files, 6);
}
