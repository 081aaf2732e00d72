//! Maintenance asked for, and what looks at a lake from outside.

use super::*;
use crate::{Inspector, Severity};

const TABLE: &str = "mall.numbers";

async fn commit(lake: &Lake, changes: Vec<Change>) {
    lake.stage(&set(vec![batch(&numbers(), changes)])).unwrap();
    lake.publish();
    lake.flush().await.unwrap();
}

/// Three files, some of their rows deleted or replaced.
async fn some_lake(bench: &Bench) -> Lake {
    let lake = bench.open().await;
    lake.create_tables(&[numbers()]).await.unwrap();
    commit(&lake, (0..10).map(|k| insert(k, k)).collect()).await;
    commit(&lake, (10..20).map(|k| insert(k, k)).collect()).await;
    commit(&lake, vec![delete(3, 3), update(12, 12, 120)]).await;
    lake
}

async fn inspector(bench: &Bench) -> Inspector {
    Inspector::open(bench.config()).await.unwrap()
}

async fn findings(bench: &Bench) -> Vec<(Severity, String)> {
    let report = inspector(bench).await.check(&[], &mut |_, _, _| {}).await.unwrap();
    let findings = report.findings.into_iter();
    findings.map(|f| (f.severity, f.to_string())).collect()
}

fn paths(bench: &Bench, folder: &str, with: &str) -> Vec<std::path::PathBuf> {
    let names = files(bench.folder.path(), folder);
    let root = bench.folder.path().join("warehouse").join(folder);
    names.into_iter().filter(|n| n.contains(with)).map(|n| root.join(n)).collect()
}

#[tokio::test]
async fn a_sound_lake_has_no_findings_also_while_it_is_written_to() {
    let bench = Bench::new();
    let lake = some_lake(&bench).await;
    let mut seen = Vec::new();
    let report = inspector(&bench)
        .await
        .check(&[], &mut |table, at, of| seen.push((table.to_string(), at, of)))
        .await
        .unwrap();
    assert_eq!(report.findings, []);
    assert_eq!((report.tables, report.files, report.rows), (1, 3, 19));
    assert_eq!(seen, [(TABLE.to_owned(), 0, 1)]);
    let unknown = ["mall.none".parse().unwrap()];
    let error = inspector(&bench).await.check(&unknown, &mut |_, _, _| {}).await.unwrap_err();
    assert!(matches!(error, LakeError::UnknownTable { .. }), "{error}");
    while !lake.maintain().await.unwrap().is_idle() {}
    commit(&lake, vec![insert(50, 50)]).await;
    assert_eq!(findings(&bench).await, []);
}

#[tokio::test]
async fn what_is_damaged_is_named() {
    let bench = Bench::new();
    let lake = some_lake(&bench).await;
    drop(lake);
    let data = "mall/numbers/data";
    let deletes = paths(&bench, data, "-deletes").pop().unwrap();
    let file = paths(&bench, data, ".parquet").into_iter().find(|f| *f != deletes).unwrap();
    let name = |path: &std::path::Path| path.file_name().unwrap().to_str().unwrap().to_owned();

    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    let cut = findings(&bench).await;
    assert_eq!(cut.len(), 1, "{cut:?}");
    assert_eq!(cut[0].0, Severity::Damage);
    assert!(cut[0].1.contains(&name(&file)) && cut[0].1.contains("bytes instead of"), "{cut:?}");
    fs::remove_file(&file).unwrap();
    let gone = findings(&bench).await;
    assert!(gone[0].1.contains(&name(&file)) && gone[0].1.contains("missing"), "{gone:?}");
    fs::write(&file, &whole).unwrap();
    assert_eq!(findings(&bench).await, []);

    // Rows of one file in the place of another: the size is right by luck, keys are not.
    let manifest = paths(&bench, "mall/numbers/metadata", "-m0.avro").pop().unwrap();
    let bytes = fs::read(&manifest).unwrap();
    fs::remove_file(&manifest).unwrap();
    let gone = findings(&bench).await;
    assert!(gone.iter().any(|f| f.1.contains(&name(&manifest))), "{gone:?}");
    fs::write(&manifest, bytes).unwrap();
    assert_eq!(findings(&bench).await, []);
}

#[tokio::test]
async fn a_key_in_two_files_is_found() {
    let bench = Bench::new();
    let lake = bench.open().await;
    lake.create_tables(&[numbers()]).await.unwrap();
    commit(&lake, (0..10).map(|k| insert(k, k)).collect()).await;
    commit(&lake, (10..20).map(|k| insert(k, k)).collect()).await;
    drop(lake);
    let files = paths(&bench, "mall/numbers/data", ".parquet");
    fs::copy(&files[0], &files[1]).unwrap();
    let found = findings(&bench).await;
    // Two files of ten numbers of two digits or one need not have the same size.
    assert!(
        found.iter().any(|f| f.1.contains("occurs again") || f.1.contains("bytes instead of")),
        "{found:?}"
    );
}

#[tokio::test]
async fn files_that_nothing_names_are_waste_and_go_when_asked() {
    let bench = Bench::new();
    let lake = some_lake(&bench).await;
    let stray = bench.folder.path().join("warehouse/mall/numbers/data/stray.parquet");
    fs::write(&stray, "x").unwrap();
    assert_eq!(findings(&bench).await, [], "too young to speak of");
    assert_eq!(lake.remove_orphans(&[]).await.unwrap(), 0);
    drop(lake);
    let config = || LakeConfig { orphan_micros: -3_600_000_000, ..bench.config() };
    let inspector = Inspector::open(config()).await.unwrap();
    let report = inspector.check(&[], &mut |_, _, _| {}).await.unwrap();
    assert!(!report.is_damaged());
    assert_eq!(report.findings[0].severity, Severity::Waste);
    let outlook = inspector.outlook(&[], 20, 0).await.unwrap();
    assert_eq!(outlook[0].orphans.len(), 1, "{outlook:?}");
    assert!(outlook[0].orphans[0].0.ends_with("stray.parquet"));
    let lake = Lake::open(config()).await.unwrap();
    assert_eq!(lake.remove_orphans(&[TABLE.parse().unwrap()]).await.unwrap(), 1);
    assert!(!stray.exists());
}

#[tokio::test]
async fn what_is_asked_for_is_what_was_foretold() {
    let bench = Bench::new();
    let lake = some_lake(&bench).await;
    let content = rows(&lake.read_view(), TABLE).await;
    let outlook = inspector(&bench).await.outlook(&[], 1, 0).await.unwrap();
    assert_eq!(outlook.len(), 1);
    assert_eq!(outlook[0].compaction.merged_files, 3, "{outlook:?}");
    assert_eq!(outlook[0].snapshots, 2, "{outlook:?}");

    assert_eq!(lake.expire(&[], 1, 0).await.unwrap(), 2);
    assert_eq!(inspector(&bench).await.outlook(&[], 1, 0).await.unwrap()[0].snapshots, 0);
    assert_eq!(lake.expire(&[], 1, 0).await.unwrap(), 0);

    let mut told = Vec::new();
    let report = lake.compact(&[], &mut |table, done| told.push((table.clone(), done))).await;
    let report = report.unwrap();
    assert_eq!((report.merged_files, report.written_files), (3, 1));
    assert_eq!(told, [(TABLE.parse().unwrap(), report)]);
    assert_eq!(lake.compact(&[], &mut |_, _| {}).await.unwrap(), Default::default());
    assert_eq!(rows(&lake.read_view(), TABLE).await, content);
    assert_eq!(findings(&bench).await, []);

    // The files that were merged go with the last snapshot that names them.
    let before = files(bench.folder.path(), "mall/numbers/data").len();
    lake.expire(&[], 1, 0).await.unwrap();
    let after = files(bench.folder.path(), "mall/numbers/data").len();
    assert!(after < before, "{before} to {after}");
    commit(&lake, vec![insert(60, 60)]).await;
    drop(lake);
    let lake = bench.open().await;
    assert_eq!(rows(&lake.read_view(), TABLE).await.len(), 20);
}

#[tokio::test]
async fn a_view_held_outlives_the_expiry_of_its_snapshot() {
    let bench = Bench::new();
    let lake = some_lake(&bench).await;
    let view = lake.read_view();
    let content = rows(&view, TABLE).await;
    commit(&lake, (0..20).map(|k| delete(k, k)).collect()).await;
    lake.expire(&[], 1, 0).await.unwrap();
    assert_eq!(rows(&view, TABLE).await, content);
    drop(view);
    lake.expire(&[], 1, 0).await.unwrap();
    commit(&lake, vec![insert(1, 1)]).await;
    lake.expire(&[], 1, 0).await.unwrap();
    let data = files(bench.folder.path(), "mall/numbers/data");
    // A delete file that names only files that went waits to be merged with others.
    let data: Vec<&String> = data.iter().filter(|f| !f.contains("-deletes")).collect();
    assert_eq!(data.len(), 1, "the rest is gone: {data:?}");
}

#[tokio::test]
async fn manifests_are_written_anew_where_fewer_hold_the_same() {
    let bench = Bench::new();
    let lake = some_lake(&bench).await;
    let manifests = "select count(*) from medlake.mall.numbers$manifests where content";
    let counts = async |lake: &Lake| {
        let view = lake.read_view();
        let data = query(&view, &format!("{manifests} = 0")).await;
        [data, query(&view, &format!("{manifests} = 1")).await].concat()
    };
    assert_eq!(counts(&lake).await, ["3", "1"]);
    let outlook = inspector(&bench).await.outlook(&[], 0, 0).await.unwrap();
    let mut expected = rows(&lake.read_view(), TABLE).await;
    let mut told = Vec::new();
    let mut tell = |_: &TableName, report: crate::ManifestReport| told.push(report);
    lake.rewrite_manifests(&[], &mut tell).await.unwrap();
    lake.rewrite_manifests(&[], &mut tell).await.unwrap();
    assert_eq!(told[0], outlook[0].manifests, "as was said beforehand");
    assert_eq!(told.iter().map(|t| (t.before, t.after)).collect::<Vec<_>>(), [(4, 2), (2, 2)]);
    assert_eq!(counts(&lake).await, ["1", "1"]);
    commit(&lake, vec![insert(50, 50)]).await;
    drop(lake);
    assert_eq!(findings(&bench).await, []);
    expected.push("50,50".to_owned());
    expected.sort();
    assert_eq!(rows(&bench.open().await.read_view(), TABLE).await, expected);
}
