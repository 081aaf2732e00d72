//! The map of the house, held by tests: which room may name which, one query engine, one Arrow.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use serde_json::Value;

/// Who may name whom. `medlake` (the root package) knows every room and is not listed.
const ARROWS: &[(&str, &[&str])] = &[
    ("medlake-contract", &[]),
    ("medlake-ingest", &["medlake-contract"]),
    ("medlake-lake", &["medlake-contract"]),
    ("medlake-operational", &["medlake-contract"]),
    ("medlake-query-server", &["medlake-contract", "medlake-lake", "medlake-semantic-layer"]),
    ("medlake-semantic-layer", &["medlake-contract"]),
    ("medlake-transforms", &["medlake-contract", "medlake-lake"]),
];

/// Crates that only one room may name.
const KEPT_IN: &[(&str, &str)] = &[("iceberg", "medlake-lake"), ("polars", "medlake-transforms")];

fn metadata() -> Value {
    // For this machine alone: crates that only other machines need are not downloaded.
    let rustc = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let said = String::from_utf8(rustc.stdout).unwrap();
    let host = said.lines().find_map(|l| l.strip_prefix("host: ")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The packages that `package` names in its manifest, for its code (not only for its tests).
fn named_by(package: &Value) -> BTreeSet<&str> {
    let dependencies = package["dependencies"].as_array().unwrap();
    dependencies.iter().filter(|d| d["kind"] != "dev").map(|d| text(&d["name"])).collect()
}

#[test]
fn rooms_name_only_the_rooms_they_may() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let rooms: BTreeMap<&str, &Value> = packages
        .iter()
        .map(|p| (text(&p["name"]), p))
        .filter(|(name, _)| name.starts_with("medlake-"))
        .collect();
    let expected: BTreeSet<&str> = ARROWS.iter().map(|(room, _)| *room).collect();
    assert_eq!(rooms.keys().copied().collect::<BTreeSet<_>>(), expected, "the rooms of the house");
    for (room, allowed) in ARROWS {
        for named in named_by(rooms[room]).into_iter().filter(|n| n.starts_with("medlake")) {
            assert!(allowed.contains(&named), "{room} names {named}");
        }
    }
    for (name, home) in KEPT_IN {
        for (room, package) in &rooms {
            let names_it =
                named_by(package).iter().any(|n| n == name || n.starts_with(&format!("{name}-")));
            assert_eq!(names_it, room == home, "{room} and {name}");
        }
    }
}

#[test]
fn there_is_one_query_engine_and_one_arrow_on_our_path() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let versions = |name: &str| -> Vec<&str> {
        packages.iter().filter(|p| p["name"] == name).map(|p| text(&p["version"])).collect()
    };
    for single in ["datafusion", "polars", "tokio", "hyper", "sqlx"] {
        assert_eq!(versions(single).len(), 1, "{single}: {:?}", versions(single));
    }

    // A second Arrow or Parquet may live inside the iceberg crate, and nowhere else.
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let dependencies: BTreeMap<&str, Vec<&str>> = nodes
        .iter()
        .map(|n| (text(&n["id"]), n["dependencies"].as_array().unwrap().iter().map(text).collect()))
        .collect();
    let start = nodes.iter().map(|n| text(&n["id"])).find(|id| id.contains("#medlake@")).unwrap();
    let mut seen = BTreeSet::new();
    let mut open = vec![start];
    while let Some(id) = open.pop() {
        if seen.insert(id) && !id.contains("#iceberg@") {
            open.extend(&dependencies[id]);
        }
    }
    for crate_name in ["arrow", "arrow-array", "arrow-schema", "parquet"] {
        let found: Vec<_> =
            seen.iter().filter(|id| id.contains(&format!("#{crate_name}@"))).collect();
        assert_eq!(found.len(), 1, "outside iceberg: {found:?}");
    }
}

fn sources(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !["target", "node_modules", "dist", ".git", "data"].contains(&name) {
                sources(&path, found);
            }
        } else if [".rs", ".ts", ".vue"].iter().any(|end| name.ends_with(end)) {
            found.push(path);
        }
    }
}

#[test]
fn no_file_is_longer_than_800_lines_and_no_module_has_an_empty_name() {
    let mut found = Vec::new();
    sources(Path::new(env!("CARGO_MANIFEST_DIR")), &mut found);
    assert!(found.len() > 50, "found only {} sources", found.len());
    for path in found {
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 800, "{}: {lines} lines; which two modules is it?", path.display());
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            !["util", "utils", "common", "helper", "helpers", "types", "misc"].contains(&stem),
            "{}: the name says nothing",
            path.display()
        );
    }
}

#[test]
fn the_architecture_page_names_every_room() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    for (room, _) in ARROWS {
        let folder = room.trim_start_matches("medlake-");
        assert!(page.contains(&format!("`{folder}/`")), "ARCHITECTURE.md does not name {folder}/");
    }
    for entry in std::fs::read_dir(root.join("docs/decisions")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(page.contains(&name), "ARCHITECTURE.md does not point to docs/decisions/{name}");
    }
}
