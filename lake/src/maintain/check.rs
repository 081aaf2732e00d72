//! Verifies a lake against its metadata, from outside: takes no lock and changes nothing, so that it
//! runs beside the writer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use arrow::error::ArrowError;
use futures::TryStreamExt;
use iceberg::spec::{DataContentType, DataFile, DataFileFormat};
use medlake_contract::{Identity, TableName};
use roaring::RoaringBitmap;
use tokio::runtime::Handle;

use crate::{
    catalog::{self, Catalog, CatalogTable, database::Access},
    commit::{
        manifest::{read_manifest, read_manifest_list},
        table::{CommittedTable, Retention},
    },
    config::LakeConfig,
    error::LakeError,
    format::{
        data_file::LakeFile,
        position_deletes::read_deletes,
        schema::{Shape, is_ours},
    },
    maintain::{
        compact::{CompactReport, Limits, Plan},
        manifests::ManifestReport,
    },
    open::open_files,
    read::view::TableView,
    storage::{Storage, blocking},
    table::{
        key::{KeyCodec, Location},
        segment::Segment,
        shards::Seed,
    },
    warehouse::without_scheme,
};

/// How often a table is looked at again that was committed to meanwhile.
const TRIES: usize = 3;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Takes room, nothing else.
    Waste,
    /// Rows may be wrong or cannot be read.
    Damage,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The table.
    pub table: TableName,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table \"{}\": {}; {}", self.table, self.problem, self.remedy)
    }
}

/// What a check looked at and found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// Tables looked at. Those that other programs made are not.
    pub tables: usize,
    /// Their data files.
    pub files: usize,
    /// Living rows.
    pub rows: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// Whether any rows may be wrong or cannot be read.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(|f| f.severity == Severity::Damage)
    }
}

/// What maintenance would do in a table if it were asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outlook {
    /// The table.
    pub table: TableName,
    /// What [`Lake::compact`](crate::Lake::compact) would merge first.
    pub compaction: CompactReport,
    /// How many snapshots are older than need be.
    pub snapshots: usize,
    /// Its manifests, and what [`Lake::rewrite_manifests`](crate::Lake::rewrite_manifests) would make
    /// of them.
    pub manifests: ManifestReport,
    /// The files that nothing names, and their bytes.
    pub orphans: Vec<(String, u64)>,
}

/// Looks at a lake that another process may be writing to.
pub struct Inspector {
    config: LakeConfig,
    catalog: Box<dyn Catalog>,
    storage: Storage,
}

impl Inspector {
    /// Opens the lake that `config` says, to read.
    ///
    /// # Errors
    /// [`LakeError::Catalog`] when there is none.
    pub async fn open(config: LakeConfig) -> Result<Self, LakeError> {
        let catalog = catalog::open(&config, &config.root, Access::Read).await?;
        let storage = Storage::open(&config).await?;
        Ok(Self { config, catalog, storage })
    }

    /// The tables asked for with their metadata; all of them when none is named.
    async fn tables(&self, chosen: &[TableName]) -> Result<Vec<CatalogTable>, LakeError> {
        let mut tables = self.catalog.tables().await?;
        if let Some(unknown) = chosen.iter().find(|c| tables.iter().all(|t| t.name != **c)) {
            return Err(LakeError::UnknownTable { table: unknown.clone() });
        }
        tables.retain(|t| chosen.is_empty() || chosen.contains(&t.name));
        Ok(tables)
    }

    /// What maintenance would do in these tables or, when none is named, in all of the lake's own.
    /// `keep_snapshots` and `keep_micros` are as for [`Lake::expire`](crate::Lake::expire).
    ///
    /// # Errors
    /// [`LakeError::UnknownTable`]; what cannot be read.
    pub async fn outlook(
        &self,
        tables: &[TableName],
        keep_snapshots: usize,
        keep_micros: i64,
    ) -> Result<Vec<Outlook>, LakeError> {
        let now = (self.config.clock)();
        let retention = Retention { snapshots: keep_snapshots, micros: keep_micros };
        let mut outlooks = Vec::new();
        for listed in self.tables(tables).await? {
            let name = listed.name.clone();
            let committed = CommittedTable::load(&self.storage, listed).await?;
            if !is_ours(&committed.metadata) {
                continue;
            }
            let shape = Arc::new(committed.shape()?);
            let files = open_files(&self.storage, &committed).await?;
            let segments = (0..)
                .zip(files)
                .map(|(id, (file, dead))| Segment::of_file(id, file, Arc::new(dead)))
                .collect();
            let view = TableView::new(shape, segments);
            let plan = Plan::new(Limits::asked(&self.config), &committed, &view)?;
            let before = now.saturating_sub(self.config.orphan_micros);
            let leftovers = committed.leftovers(&self.storage, before).await?;
            outlooks.push(Outlook {
                table: name,
                compaction: plan.map(|plan| plan.report()).unwrap_or_default(),
                snapshots: committed.old_snapshots(&retention, now),
                manifests: ManifestReport::of(&committed),
                orphans: leftovers.orphans.into_iter().map(|f| (f.location, f.bytes)).collect(),
            });
        }
        Ok(outlooks)
    }

    /// Verifies these tables or, when none is named, all of the lake's own: that every file named is
    /// there with the size and rows said, that manifests and summaries count right, that deletes
    /// name rows that exist, and that no key occurs twice. Calls `progress` before each table with
    /// how many of how many are done.
    ///
    /// # Errors
    /// [`LakeError::UnknownTable`]; a catalog that cannot be read. What is wrong with a table is a
    /// finding, not an error.
    pub async fn check(
        &self,
        tables: &[TableName],
        progress: &mut (dyn FnMut(&TableName, usize, usize) + Send),
    ) -> Result<CheckReport, LakeError> {
        let mut report = CheckReport::default();
        let tables = self.tables(tables).await?;
        let count = tables.len();
        for (at, mut listed) in tables.into_iter().enumerate() {
            let name = listed.name.clone();
            progress(&name, at, count);
            for attempt in 1..=TRIES {
                let location = listed.location.clone();
                let mut looking = Looking::new(&self.storage, name.clone());
                let before = (self.config.clock)().saturating_sub(self.config.orphan_micros);
                if let Err(error) = looking.at(listed, before).await {
                    looking.damage(described(&error), RESTORE);
                }
                // What was committed to meanwhile may rightly miss files by now.
                let now = match looking.is_damaged() && attempt < TRIES {
                    true => self.catalog.tables().await?.into_iter().find(|t| t.name == name),
                    false => None,
                };
                match now {
                    Some(now) if now.location != location => listed = now,
                    _ => {
                        report.tables += usize::from(looking.own);
                        report.files += looking.files;
                        report.rows += looking.rows;
                        report.findings.append(&mut looking.findings);
                        break;
                    }
                }
            }
        }
        Ok(report)
    }
}

const RESTORE: &str = "restore the file from a copy, or go back to an older snapshot";
const REPORT: &str = "a defect of the program that wrote it: keep the folder and report it";
const REBUILD: &str = "remove the table and let its source be read again from the beginning";
const SWEEP: &str = "`medlake lake orphans` removes them";

/// An error with its causes.
fn described(error: &LakeError) -> String {
    let first: &dyn std::error::Error = error;
    let causes = std::iter::successors(Some(first), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// One table being looked at.
struct Looking<'a> {
    storage: &'a Storage,
    name: TableName,
    /// Whether the table is one of the lake's.
    own: bool,
    files: usize,
    rows: u64,
    findings: Vec<Finding>,
    /// Sizes of the files that are there, by location without its scheme.
    sizes: HashMap<String, u64>,
}

impl<'a> Looking<'a> {
    fn new(storage: &'a Storage, name: TableName) -> Self {
        let (findings, sizes) = (Vec::new(), HashMap::new());
        Self { storage, name, own: false, files: 0, rows: 0, findings, sizes }
    }

    fn damage(&mut self, problem: String, remedy: &'static str) {
        let (table, severity) = (self.name.clone(), Severity::Damage);
        self.findings.push(Finding { table, severity, problem, remedy });
    }

    fn is_damaged(&self) -> bool {
        self.findings.iter().any(|f| f.severity == Severity::Damage)
    }

    async fn at(&mut self, listed: CatalogTable, before_micros: i64) -> Result<(), LakeError> {
        let committed = CommittedTable::load(self.storage, listed).await?;
        if !is_ours(&committed.metadata) {
            return Ok(());
        }
        self.own = true;
        let mut listed = self.storage.list(committed.metadata.location());
        while let Some(file) = listed.try_next().await? {
            self.sizes.insert(without_scheme(&file.location).to_owned(), file.bytes);
        }
        self.snapshots(&committed).await?;
        self.totals(&committed);
        if self.is_damaged() {
            // What is not there cannot be read either.
            return Ok(());
        }
        self.deletes(&committed).await?;
        self.data(&committed).await?;
        let orphans = committed.leftovers(self.storage, before_micros).await?.orphans;
        if !orphans.is_empty() {
            let bytes: u64 = orphans.iter().map(|f| f.bytes).sum();
            self.findings.push(Finding {
                table: self.name.clone(),
                severity: Severity::Waste,
                problem: format!("{} files of {bytes} bytes that nothing names", orphans.len()),
                remedy: SWEEP,
            });
        }
        Ok(())
    }

    /// Manifests of every snapshot, and the files they name.
    async fn snapshots(&mut self, committed: &CommittedTable) -> Result<(), LakeError> {
        let mut seen = BTreeSet::new();
        for snapshot in committed.metadata.snapshots() {
            let (id, list) = (snapshot.snapshot_id(), snapshot.manifest_list());
            for file in
                read_manifest_list(self.storage, &self.name, &committed.metadata, list).await?
            {
                if file.sequence_number > snapshot.sequence_number() {
                    self.damage(format!("snapshot {id} has a manifest of a later one"), REPORT);
                }
                let path = file.manifest_path.clone();
                if !seen.insert(path.clone()) {
                    continue;
                }
                self.file(&path, u64::try_from(file.manifest_length).unwrap_or(0)).await?;
                let said = u64::from(file.added_files_count.unwrap_or(0))
                    + u64::from(file.existing_files_count.unwrap_or(0));
                let manifest = read_manifest(self.storage, &self.name, file).await?;
                let found = manifest.entries.len() as u64;
                if said != found {
                    self.damage(
                        format!("manifest \"{path}\" names {found} files where {said} are said"),
                        REPORT,
                    );
                }
                for entry in &manifest.entries {
                    if entry.sequence > manifest.file.sequence_number {
                        let file = entry.file.file_path();
                        self.damage(format!("file \"{file}\" is later than its manifest"), REPORT);
                    }
                    let bytes = entry.file.file_size_in_bytes();
                    self.file(entry.file.file_path(), bytes).await?;
                }
            }
        }
        Ok(())
    }

    /// A file that must be there with this size.
    async fn file(&mut self, location: &str, bytes: u64) -> Result<(), LakeError> {
        let found = match self.sizes.get(without_scheme(location)) {
            Some(found) => Some(*found),
            None => self.storage.size(location).await?,
        };
        match found {
            None => self.damage(format!("file \"{location}\" is missing"), RESTORE),
            Some(found) if found != bytes => {
                let problem = format!("file \"{location}\" has {found} bytes instead of {bytes}");
                self.damage(problem, RESTORE);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// What the summary of the current snapshot counts.
    fn totals(&mut self, committed: &CommittedTable) {
        let Some(snapshot) = committed.metadata.current_snapshot() else { return };
        let rows = |files: &[&DataFile]| files.iter().map(|f| f.record_count()).sum::<u64>();
        let data: Vec<&DataFile> = committed.data_files().map(|e| &e.file).collect();
        let deletes: Vec<&DataFile> = committed.delete_files().map(|e| &e.file).collect();
        let summary = &snapshot.summary().additional_properties;
        for (property, counted) in [
            ("total-data-files", data.len() as u64),
            ("total-records", rows(&data)),
            ("total-delete-files", deletes.len() as u64),
            ("total-position-deletes", rows(&deletes)),
        ] {
            let Some(said) = summary.get(property) else { continue };
            if said.parse() != Ok(counted) {
                let id = snapshot.snapshot_id();
                let problem = format!("snapshot {id} says {property} {said}; there are {counted}");
                self.damage(problem, REPORT);
            }
        }
    }

    /// Whether deletes name rows that exist. Files that were merged since may still be named.
    async fn deletes(&mut self, committed: &CommittedTable) -> Result<(), LakeError> {
        let rows: BTreeMap<String, u64> = committed
            .data_files()
            .map(|e| (e.file.file_path().to_owned(), e.file.record_count()))
            .collect();
        for entry in committed.delete_files() {
            let positions = entry.file.content_type() == DataContentType::PositionDeletes
                && entry.file.file_format() == DataFileFormat::Parquet;
            if !positions {
                continue;
            }
            let location = entry.file.file_path();
            for (file, dead) in read_deletes(self.storage, &self.name, location).await? {
                let last = dead.max().map(u64::from);
                if let (Some(rows), Some(last)) = (rows.get(&file), last)
                    && last >= *rows
                {
                    let problem = format!(
                        "\"{location}\" deletes row {last} of \"{file}\", which has {rows}"
                    );
                    self.damage(problem, REPORT);
                }
            }
        }
        Ok(())
    }

    /// Rows of the data files, and their keys.
    async fn data(&mut self, committed: &CommittedTable) -> Result<(), LakeError> {
        let files = open_files(self.storage, committed).await?;
        self.files = files.len();
        for (file, dead) in &files {
            self.rows += u64::from(file.rows) - dead.len();
            let said = file.footer().await?.file_metadata().num_rows();
            if said != i64::from(file.rows) {
                let (location, rows) = (&file.location, file.rows);
                let problem = format!("file \"{location}\" has {said} rows instead of {rows}");
                self.damage(problem, RESTORE);
            }
        }
        let shape = committed.shape()?;
        if shape.schema().identity() != Identity::Key {
            return Ok(());
        }
        let seed = Seed::of(committed.metadata.uuid());
        let runtime = Handle::current();
        // Key columns are decoded: that takes a core for a while.
        let keys = move || runtime.block_on(twice(&shape, seed, &files));
        if let Some(problem) = blocking(keys).await? {
            self.damage(problem, REBUILD);
        }
        Ok(())
    }
}

/// Says where a key occurs twice among the living rows, if one does.
async fn twice(
    shape: &Shape,
    seed: Seed,
    files: &[(Arc<LakeFile>, RoaringBitmap)],
) -> Result<Option<String>, LakeError> {
    let arrow = |source: ArrowError| LakeError::Arrow {
        doing: "read the keys",
        table: shape.schema().name().clone(),
        source,
    };
    let codec = KeyCodec::new(shape.schema(), seed).map_err(arrow)?;
    let mut index = codec.index(0);
    for (number, (file, dead)) in (0_u32..).zip(files) {
        let mut batches = file.read(shape, codec.columns()).await?;
        while let Some((first, batch)) = batches.try_next().await? {
            let keys = codec.keys_of_columns(batch.columns()).map_err(arrow)?;
            for (at, row) in (first..).take(batch.num_rows()).enumerate() {
                if dead.contains(row) {
                    continue;
                }
                let here = Location { segment: number, row };
                if let Some(before) = index.put(&keys, at, here) {
                    let other = files.get(before.segment as usize);
                    let other = other.map_or("", |(file, _)| file.location.as_str());
                    return Ok(Some(format!(
                        "the key of row {row} of \"{}\" occurs again in row {} of \"{other}\"",
                        file.location, before.row
                    )));
                }
            }
        }
    }
    Ok(None)
}
