//! Compaction: small files, and files with many dead rows, become larger ones while changes stream
//! in.
//!
//! Three steps. *Plan*: which files, from what is committed. *Write*: the rows of those files into new
//! ones, with no lock held. *Commit*: one more snapshot with the positions of the last one, for the
//! rows are the same. Rows that a flush deleted since the plan are deleted in the new files by that
//! same commit; rows that died in memory since are dead in the new files when they take their place.
//! So no row comes back, and only the last step holds up a flush, for as long as writing a manifest
//! takes; nothing holds up staging and reading.
//!
//! Left out of the new files is what *committed* delete files name, not what is dead in memory: the
//! row that replaces one that died in memory may be in no file yet, and a reader of the committed
//! tables would find neither.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arrow::error::ArrowError;
use futures::TryStreamExt;
use iceberg::spec::DataContentType;
use medlake_contract::TableName;
use roaring::RoaringBitmap;
use tokio::runtime::Handle;

use crate::{
    commit::{
        flush::{Committer, Prepared},
        layout::{Layout, RowWriter},
        manifest::{DeleteKey, Entry},
        table::{CommittedTable, TableChange},
        vectors::VectorWriter,
        write::{Partition, WrittenTable, partition_of, write_position_deletes},
    },
    config::LakeConfig,
    error::LakeError,
    format::schema::Shape,
    lake::Lake,
    options::FormatVersion,
    read::view::TableView,
    storage::WriteScope,
    table::{
        TableState,
        forward::{Order, Replacement, Source},
        ranks::RankedRows,
        segment::{FileRows, Segment, without_dead},
    },
};

/// At most this many bytes of files are merged at once, unless one file alone has more.
const JOB_BYTES: u64 = 256 << 20;

/// What compaction did, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactReport {
    /// Data files that went.
    pub merged_files: usize,
    /// Their bytes.
    pub merged_bytes: u64,
    /// Data files that took their place; not known beforehand.
    pub written_files: usize,
    /// Their bytes.
    pub written_bytes: u64,
    /// Delete files that went.
    pub merged_delete_files: usize,
}

impl CompactReport {
    pub(crate) fn add(&mut self, other: Self) {
        self.merged_files += other.merged_files;
        self.merged_bytes += other.merged_bytes;
        self.written_files += other.written_files;
        self.written_bytes += other.written_bytes;
        self.merged_delete_files += other.merged_delete_files;
    }
}

/// From when on files are merged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// A file below this size is small.
    small_bytes: u64,
    /// More small files than this in a partition are merged.
    small_files: usize,
    /// A file with more than this share of dead rows is rewritten, in percent.
    dead_percent: u64,
    /// More delete files than this in a partition are merged.
    delete_files: usize,
}

impl Limits {
    /// When nobody asks for it.
    pub(crate) fn due(config: &LakeConfig) -> Self {
        Self {
            small_bytes: config.small_file_bytes,
            small_files: config.small_file_count.max(1),
            dead_percent: config.dead_percent,
            delete_files: config.delete_file_count.max(1),
        }
    }

    /// When somebody asks for it: whatever there is to gain.
    pub(crate) fn asked(config: &LakeConfig) -> Self {
        Self { small_files: 1, delete_files: 1, ..Self::due(config) }
    }
}

/// Tells the thread that writes to stop when nobody waits for it any more.
#[derive(Debug, Default)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What to merge in one table.
pub(crate) struct Plan {
    shape: Arc<Shape>,
    layout: Layout,
    /// `file://.../<namespace>/<table>`
    location: String,
    /// The files to merge, by partition: segment ids and files, with what committed delete files name
    /// of them.
    groups: HashMap<Partition, Vec<(u32, FileRows)>>,
    /// The delete files to merge,
    delete_files: BTreeSet<DeleteKey>,
    /// and what they say of files that stay, by partition and file.
    dead: HashMap<Partition, BTreeMap<String, RoaringBitmap>>,
}

/// What was written after a plan, and the plan.
pub(crate) struct Merged {
    plan: Plan,
    written: WrittenTable,
    scope: WriteScope,
}

impl Plan {
    /// What is over the limits, if anything. `committed` and the files of `view` must be of one
    /// moment.
    pub(crate) fn new(
        limits: Limits,
        committed: &CommittedTable,
        view: &TableView,
    ) -> Result<Option<Self>, LakeError> {
        let mut groups: HashMap<Partition, Vec<(&Segment, &FileRows)>> = HashMap::new();
        for (segment, file) in view.segments.iter().filter_map(|s| Some((s, s.committed_file()?))) {
            groups.entry(partition_of(&file.file)).or_default().push((segment, file));
        }
        let mut deletes: HashMap<Partition, Vec<DeleteKey>> = HashMap::new();
        // A deletion vector is replaced with each change of it: there is never more than one a file.
        let positions = |e: &&Arc<Entry>| {
            e.file.content_type() == DataContentType::PositionDeletes
                && e.file.content_offset().is_none()
        };
        for entry in committed.delete_files().filter(positions) {
            deletes.entry(entry.partition()).or_default().push(DeleteKey::of(&entry.file));
        }
        let layout = Layout::of(&view.shape, &committed.metadata)?;
        // Else what is merged into files of this size would be small again.
        let small_bytes = limits.small_bytes.min(layout.target_file_bytes() / 2);
        let limits = Limits { small_bytes, ..limits };
        let mut plan = Self {
            shape: Arc::clone(&view.shape),
            layout,
            location: committed.metadata.location().to_owned(),
            groups: HashMap::new(),
            delete_files: BTreeSet::new(),
            dead: HashMap::new(),
        };
        let mut bytes = 0;
        let seen: HashSet<Partition> = groups.keys().cloned().collect();
        for (partition, files) in groups {
            let chosen = choose(limits, &files, &mut bytes);
            // What vectors say of a file is replaced by the next flush of its deaths: position deletes
            // that were there before the table was of that format are merged there.
            let merges_deletes = plan.layout.format_version == FormatVersion::V2
                && deletes.get(&partition).is_some_and(|files| files.len() > limits.delete_files);
            for (segment, file) in files {
                if chosen.contains(&segment.id) {
                    let sources = plan.groups.entry(partition.clone()).or_default();
                    sources.push((segment.id, file.clone()));
                } else if merges_deletes && !file.committed_dead.is_empty() {
                    let dead = file.committed_dead.as_ref().clone();
                    let of_partition = plan.dead.entry(partition.clone()).or_default();
                    of_partition.insert(file.file.location.clone(), dead);
                }
            }
            if merges_deletes {
                plan.delete_files.extend(deletes.remove(&partition).unwrap_or_default());
            }
        }
        // Of partitions that have no files any more.
        let gone = deletes.into_iter().filter(|(partition, _)| !seen.contains(partition));
        plan.delete_files.extend(gone.flat_map(|(_, files)| files));
        let nothing = plan.groups.is_empty() && plan.delete_files.is_empty();
        Ok((!nothing).then_some(plan))
    }

    fn sources(&self) -> impl Iterator<Item = &(u32, FileRows)> {
        self.groups.values().flatten()
    }

    /// What it would do.
    pub(crate) fn report(&self) -> CompactReport {
        CompactReport {
            merged_files: self.sources().count(),
            merged_bytes: self.sources().map(|(_, f)| f.file.bytes).sum(),
            merged_delete_files: self.delete_files.len(),
            ..CompactReport::default()
        }
    }

    /// Writes the new files. Blocking, on a thread of the runtime that may; none when told to stop.
    pub(crate) fn write(
        &self,
        scope: &WriteScope,
        stop: &AtomicBool,
    ) -> Result<Option<WrittenTable>, LakeError> {
        let mut written = WrittenTable::empty(self.shape.schema().name().clone());
        written.change = TableChange {
            removed: self.sources().map(|(_, f)| f.file.location.clone()).collect(),
            removed_deletes: self.delete_files.clone(),
            rewrite: true,
            ..TableChange::default()
        };
        for sources in self.groups.values() {
            if !self.merge(sources, scope, stop, &mut written)? {
                return Ok(None);
            }
        }
        for (partition, dead) in &self.dead {
            let name = self.shape.schema().name();
            let entry =
                write_position_deletes(scope, &self.location, name, dead, partition.clone())?;
            written.change.added_deletes.push(entry);
        }
        Ok(Some(written))
    }

    /// Merges the files of one partition. Answers whether it came to the end.
    fn merge(
        &self,
        sources: &[(u32, FileRows)],
        scope: &WriteScope,
        stop: &AtomicBool,
        written: &mut WrittenTable,
    ) -> Result<bool, LakeError> {
        let all: Vec<usize> = (0..self.shape.fields().len()).collect();
        let mut writer = RowWriter::new(&self.layout, scope, &self.shape, &self.location);
        let runtime = Handle::current();
        let mut merged = Vec::with_capacity(sources.len());
        let mut place = 0_u32;
        for (segment, rows) in sources {
            let first_place = place;
            let reading = rows.file.read(&self.shape, &all);
            let mut batches = runtime.block_on(reading)?;
            while let Some((first, batch)) = runtime.block_on(batches.try_next())? {
                if stop.load(Ordering::Acquire) {
                    return Ok(false);
                }
                let end = first.saturating_add(u32::try_from(batch.num_rows()).unwrap_or(u32::MAX));
                let live = without_dead(batch, &rows.committed_dead, first, end)
                    .map_err(|e| self.arrow_error(e))?;
                if live.num_rows() > 0 {
                    place += u32::try_from(live.num_rows()).unwrap_or(u32::MAX);
                    writer.write(live)?;
                }
            }
            merged.push((segment, rows, first_place, place - first_place));
        }
        let out = writer.finish()?;
        written.change.added.extend(out.entries);
        let sources = merged.into_iter().map(|(segment, rows, first, count)| Source {
            segment: *segment,
            rows: count,
            elided: rows.elided.clone(),
            left_out: Arc::new(RankedRows::new(Arc::clone(&rows.committed_dead))),
            order: Order { first, places: out.order.places.clone() },
        });
        written.replacements.push(Replacement {
            sources: sources.collect(),
            files: out.files,
            deleted: Vec::new(),
        });
        Ok(true)
    }

    /// Whether all that was merged is there still, unchanged but for rows that died.
    fn holds(&self, committer: &Committer, now: &TableView) -> bool {
        let Some(committed) = committer.tables.get(self.shape.schema().name()) else {
            return false;
        };
        let files: BTreeSet<&str> = committed.data_files().map(|e| e.file.file_path()).collect();
        let segments: BTreeSet<u32> = now.segments.iter().map(|s| s.id).collect();
        now.schema == *self.shape.schema()
            && FormatVersion::of(&committed.metadata) == self.layout.format_version
            && self.sources().all(|(segment, rows)| {
                segments.contains(segment) && files.contains(rows.file.location.as_str())
            })
    }

    /// Deletes in the new files what flushes deleted in the old ones since. Blocks for a little.
    async fn delete_late(
        &self,
        scope: &WriteScope,
        now: &TableView,
        written: &mut WrittenTable,
    ) -> Result<(), LakeError> {
        let committed: HashMap<u32, &RoaringBitmap> = now
            .segments
            .iter()
            .filter_map(|s| Some((s.id, s.file()?.committed_dead.as_ref())))
            .collect();
        for replacement in &mut written.replacements {
            let late = replacement.places(|source| committed.get(&source.segment).copied());
            if self.layout.format_version == FormatVersion::V3 {
                let vectors = VectorWriter {
                    scope,
                    table: self.shape.schema().name(),
                    location: &self.location,
                };
                let files = replacement.files.iter().map(AsRef::as_ref).zip(&late).collect();
                written.change.added_deletes.extend(vectors.write(files).await?);
                replacement.deleted.extend(late.into_iter().map(Arc::new));
                continue;
            }
            for (file, late) in replacement.files.iter().zip(late) {
                if !late.is_empty() {
                    let dead = BTreeMap::from([(file.location.clone(), late.clone())]);
                    let entry = write_position_deletes(
                        scope,
                        &self.location,
                        self.shape.schema().name(),
                        &dead,
                        partition_of(file),
                    )?;
                    written.change.added_deletes.push(entry);
                }
                replacement.deleted.push(Arc::new(late));
            }
        }
        Ok(())
    }

    fn arrow_error(&self, source: ArrowError) -> LakeError {
        LakeError::Arrow { doing: "merge files", table: self.shape.schema().name().clone(), source }
    }
}

/// The segments of a partition to merge: small files once there are too many, and large ones with
/// many dead rows.
///
/// Of the small ones the smallest go first, and one that is more than all before it together waits
/// for its like: else the largest would be written again with every merge. `bytes` is what the whole
/// job takes so far.
fn choose(limits: Limits, files: &[(&Segment, &FileRows)], bytes: &mut u64) -> BTreeSet<u32> {
    let (mut small, large): (Vec<_>, Vec<_>) =
        files.iter().partition(|(_, f)| f.file.bytes < limits.small_bytes);
    let mut chosen = BTreeSet::new();
    if small.len() > limits.small_files {
        small.sort_by_key(|(s, f)| (f.file.bytes, s.id));
        let mut taken = 0;
        for (at, (segment, file)) in small.iter().enumerate() {
            let waits = at > limits.small_files / 2 && at > 1 && file.file.bytes > taken;
            if waits || (at > 1 && *bytes + file.file.bytes > JOB_BYTES) {
                break;
            }
            taken += file.file.bytes;
            *bytes += file.file.bytes;
            chosen.insert(segment.id);
        }
    }
    for (segment, file) in large {
        let dead = file.committed_dead.len() * 100;
        let worn = dead > u64::from(file.file.rows) * limits.dead_percent;
        if worn && (*bytes == 0 || *bytes + file.file.bytes <= JOB_BYTES) {
            *bytes += file.file.bytes;
            chosen.insert(segment.id);
        }
    }
    chosen
}

impl Lake {
    /// What is over the limits in a table.
    pub(crate) async fn plan_compaction(
        &self,
        limits: Limits,
        table: &TableName,
    ) -> Result<Option<Plan>, LakeError> {
        // Held so that nothing is committed between looking at the one and at the other.
        let mut committer = self.committer.lock().await;
        self.resolve(&mut committer).await?;
        let Some(committed) = committer.tables.get(table) else { return Ok(None) };
        match self.settled_table(table) {
            Some(view) => Plan::new(limits, committed, &view),
            None => Ok(None),
        }
    }

    /// A table as it is staged, unless its columns are not published yet: what is merged then would
    /// lack a column that readers still have.
    fn settled_table(&self, table: &TableName) -> Option<Arc<TableView>> {
        let view = self.state().tables.get_mut(table).map(TableState::view)?;
        let published = self.read_view();
        (published.tables.get(table)?.schema == view.schema).then_some(view)
    }

    /// Writes the files of a plan, with nothing held.
    pub(crate) async fn write_compaction(&self, plan: Plan) -> Result<Option<Merged>, LakeError> {
        let stop = Stop::default();
        let stopped = Arc::clone(&stop.0);
        let scope = self.storage.begin();
        let files = scope.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let written = plan.write(&files, &stopped)?;
            if written.is_none() {
                Handle::current().block_on(files.discard());
            }
            Ok::<_, LakeError>(written.map(|written| (plan, written)))
        });
        let written = writing.await.map_err(|source| LakeError::Task { source }).flatten();
        drop(stop);
        let persisted = match written {
            Ok(Some((plan, written))) => {
                scope.persist().await.map(|()| Some(Merged { plan, written, scope: scope.clone() }))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        if !matches!(persisted, Ok(Some(_))) {
            scope.discard().await;
        }
        persisted
    }

    /// Commits what was written. None when the files it was made from changed meanwhile: then
    /// nothing is done.
    pub(crate) async fn commit_compaction(
        &self,
        merged: Merged,
    ) -> Result<Option<CompactReport>, LakeError> {
        let files = merged.scope.clone();
        let mut committer = self.committer.lock().await;
        let scope = self.storage.begin();
        let name = merged.plan.shape.schema().name().clone();
        let prepared = match self.resolve(&mut committer).await {
            Ok(()) => self.prepare_compaction(&committer, merged, &scope).await,
            Err(error) => Err(error),
        };
        let (prepared, report) = match prepared {
            Ok(Some(prepared)) => prepared,
            given_up => {
                scope.discard().await;
                files.discard().await;
                return given_up.map(|_| None);
            }
        };
        let settled = committer.commit(prepared).await?;
        self.install(&mut committer, settled).await;
        drop(committer);
        self.repoint(&name).await;
        Ok(Some(report))
    }

    /// Everything but the commit itself. Writes into `scope`, and nothing that anybody knows of.
    async fn prepare_compaction(
        &self,
        committer: &Committer,
        merged: Merged,
        scope: &WriteScope,
    ) -> Result<Option<(Prepared, CompactReport)>, LakeError> {
        let Merged { plan, mut written, scope: files } = merged;
        let now = self.settled_table(plan.shape.schema().name());
        let Some(now) = now.filter(|now| plan.holds(committer, now)) else { return Ok(None) };
        let mut report = plan.report();
        for file in written.replacements.iter().flat_map(|r| &r.files) {
            report.written_files += 1;
            report.written_bytes += file.bytes;
        }
        plan.delete_late(scope, &now, &mut written).await?;
        let held = |_: &TableName| {
            let file = |(_, f): &(u32, FileRows)| (f.file.location.clone(), Arc::clone(&f.file));
            plan.sources().map(file).collect()
        };
        let cut = committer.cut.clone();
        let scopes = vec![files, scope.clone()];
        let prepared = committer.seal(&self.config, cut, vec![written], scopes, held).await?;
        Ok(Some((prepared, report)))
    }

    /// Lets the index of a table learn the new places of rows, a little at a time, once that pays.
    pub(crate) async fn repoint(&self, table: &TableName) {
        let with = |act: &mut dyn FnMut(&mut TableState) -> bool| {
            self.state().tables.get_mut(table).is_some_and(act)
        };
        let mut forwarded = Vec::new();
        with(&mut |t| {
            forwarded = t.forwarded();
            true
        });
        if forwarded.is_empty() {
            return;
        }
        let mut slice = 0;
        while with(&mut |t| t.repoint(slice)) {
            slice += 1;
            tokio::task::yield_now().await;
        }
        with(&mut |t| {
            t.forget(&forwarded);
            true
        });
    }
}
