//! Writing one table's part of a flush: what a view has beyond the committed files.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use arrow::error::ArrowError;
use futures::TryStreamExt;
use iceberg::spec::Struct;
use medlake_contract::TableName;
use roaring::RoaringBitmap;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::{
    commit::{
        layout::{Layout, RowWriter},
        manifest::{DeleteKey, Entry},
        table::TableChange,
    },
    config::LakeConfig,
    error::LakeError,
    format::{data_file::LakeFile, position_deletes::write_deletes},
    read::view::TableView,
    storage::WriteScope,
    table::{
        forward::{Order, Replacement, Source},
        segment::{FileRows, HotRows, Segment, SegmentData, without_dead},
    },
};

/// At most this much is merged into one file at once.
const MERGE_BYTES: u64 = 256 << 20;

/// A hot segment that was written.
#[derive(Debug)]
pub(crate) struct Flushed {
    pub(crate) segment: u32,
    /// None when all its rows were dead.
    pub(crate) file: Option<Arc<LakeFile>>,
    /// The dead rows that were left out.
    pub(crate) elided: Arc<RoaringBitmap>,
}

/// A partition: the id of the specification and the values.
type Partition = (i32, Struct);

fn partition_of(file: &LakeFile) -> Partition {
    (file.spec_id, file.partition.clone())
}

/// What was written for one table.
pub(crate) struct WrittenTable {
    pub(crate) name: TableName,
    pub(crate) flushed: Vec<Flushed>,
    /// Files that take the place of segments with other ids.
    pub(crate) replacements: Vec<Replacement>,
    /// Data files that were merged into larger ones.
    pub(crate) merged_files: usize,
    /// Segments without a living row.
    pub(crate) dropped: Vec<u32>,
    /// File segments and the dead positions that are committed with this.
    pub(crate) committed_dead: Vec<(u32, Arc<RoaringBitmap>)>,
    pub(crate) change: TableChange,
    pub(crate) rows: u64,
    pub(crate) deletes: u64,
}

impl WrittenTable {
    /// Nothing but a new snapshot.
    pub(crate) fn empty(name: TableName) -> Self {
        Self {
            name,
            flushed: Vec::new(),
            replacements: Vec::new(),
            merged_files: 0,
            dropped: Vec::new(),
            committed_dead: Vec::new(),
            change: TableChange::default(),
            rows: 0,
            deletes: 0,
        }
    }
}

/// One table to write.
pub(crate) struct TableWork {
    pub(crate) view: Arc<TableView>,
    pub(crate) field_ids: Vec<i32>,
    /// `file://.../<namespace>/<table>`
    pub(crate) location: String,
    pub(crate) layout: Layout,
    /// The delete files the table has.
    pub(crate) delete_files: Vec<Arc<Entry>>,
    pub(crate) scope: WriteScope,
}

/// Whether a table has anything that is not in committed files.
pub(crate) fn is_dirty(view: &TableView) -> bool {
    view.segments.iter().any(|segment| match &segment.data {
        SegmentData::Hot(_) => segment.rows > 0,
        SegmentData::File(file) => segment.dead.len() != file.committed_dead.len(),
    })
}

impl TableWork {
    /// Writes data and delete files. Blocking, on a thread of the runtime that may.
    pub(crate) fn write(&self, config: &LakeConfig) -> Result<WrittenTable, LakeError> {
        let name = self.view.schema.name().clone();
        let mut written = WrittenTable::empty(name);
        for segment in &self.view.segments {
            if let (SegmentData::Hot(hot), 1..) = (&segment.data, segment.rows) {
                self.write_hot(segment, hot, &mut written)?;
            }
        }
        let files: Vec<FileSegment<'_>> =
            self.view.segments.iter().filter_map(|s| Some((s, s.file()?))).collect();
        let (dead_files, living): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|(s, f)| s.dead.len() == u64::from(f.file.rows));
        for (segment, file) in dead_files {
            written.dropped.push(segment.id);
            written.change.removed.insert(file.file.location.clone());
        }
        let (chosen, kept) = choose_merge(config, living);
        for sources in chosen.values() {
            self.merge(sources, &mut written)?;
        }
        self.write_deletes(config, &kept, &mut written)?;
        Ok(written)
    }

    /// Writes the living rows of a hot segment. When they are all in one file and in their order, the
    /// segment keeps its id; else the files are segments of their own.
    fn write_hot(
        &self,
        segment: &Segment,
        hot: &HotRows,
        written: &mut WrittenTable,
    ) -> Result<(), LakeError> {
        let mut writer = self.writer();
        let mut first = 0_u32;
        for batch in &hot.batches {
            let end = first.saturating_add(u32::try_from(batch.num_rows()).unwrap_or(u32::MAX));
            let live = without_dead(batch.as_ref().clone(), &segment.dead, first, end)
                .map_err(|e| self.arrow_error(e))?;
            if live.num_rows() > 0 {
                writer.write(live)?;
            }
            first = end;
        }
        let rows = writer.finish()?;
        written.rows += rows.files.iter().map(|f| u64::from(f.rows)).sum::<u64>();
        written.change.added.extend(rows.entries);
        let left_out = Arc::clone(&segment.dead);
        if rows.files.len() <= 1 && rows.order.places.is_none() {
            let file = rows.files.into_iter().next();
            written.flushed.push(Flushed { segment: segment.id, file, elided: left_out });
        } else {
            let source = Source {
                segment: segment.id,
                rows: u32::try_from(segment.live_rows()).unwrap_or(u32::MAX),
                elided: None,
                left_out,
                order: rows.order,
            };
            written.replacements.push(Replacement { sources: vec![source], files: rows.files });
        }
        Ok(())
    }

    fn merge(
        &self,
        sources: &[FileSegment<'_>],
        written: &mut WrittenTable,
    ) -> Result<(), LakeError> {
        let runtime = Handle::current();
        let mut writer = self.writer();
        let mut merged = Vec::with_capacity(sources.len());
        let mut place = 0_u32;
        for (segment, rows) in sources {
            let reading = rows.file.read(self.view.schema.arrow(), &self.field_ids);
            let mut batches = runtime.block_on(reading)?;
            while let Some((first, batch)) = runtime.block_on(batches.try_next())? {
                let end = first.saturating_add(u32::try_from(batch.num_rows()).unwrap_or(u32::MAX));
                let live = without_dead(batch, &segment.dead, first, end)
                    .map_err(|e| self.arrow_error(e))?;
                if live.num_rows() > 0 {
                    writer.write(live)?;
                }
            }
            let live_rows = u32::try_from(segment.live_rows()).unwrap_or(u32::MAX);
            written.change.removed.insert(rows.file.location.clone());
            merged.push((segment, rows, place, live_rows));
            place = place.saturating_add(live_rows);
        }
        let rows = writer.finish()?;
        written.change.added.extend(rows.entries);
        written.merged_files += merged.len();
        let sources = merged.into_iter().map(|(segment, file, first, live_rows)| Source {
            segment: segment.id,
            rows: live_rows,
            elided: file.elided.clone(),
            left_out: Arc::clone(&segment.dead),
            order: Order { first, places: rows.order.places.clone() },
        });
        written.replacements.push(Replacement { sources: sources.collect(), files: rows.files });
        Ok(())
    }

    /// Delete files for what died in `kept`, the files that stay: one a partition. When a partition
    /// has many, or data files of it go, one new file takes the place of all.
    fn write_deletes(
        &self,
        config: &LakeConfig,
        kept: &[FileSegment<'_>],
        written: &mut WrittenTable,
    ) -> Result<(), LakeError> {
        let mut counts: HashMap<Partition, usize> = HashMap::new();
        for entry in &self.delete_files {
            *counts.entry(entry.partition()).or_default() += 1;
        }
        let thinned: HashSet<Partition> = self
            .view
            .segments
            .iter()
            .filter_map(|s| s.file())
            .filter(|f| written.change.removed.contains(&f.file.location))
            .map(|f| partition_of(&f.file))
            .collect();
        let rewrites = |partition: &Partition| {
            counts
                .get(partition)
                .is_some_and(|n| *n >= config.delete_file_count || thinned.contains(partition))
        };
        let mut dead: HashMap<Partition, BTreeMap<String, RoaringBitmap>> = HashMap::new();
        for (segment, file) in kept {
            let fresh = segment.dead.len() - file.committed_dead.len();
            written.deletes += fresh;
            if fresh > 0 {
                written.committed_dead.push((segment.id, Arc::clone(&segment.dead)));
            }
            let partition = partition_of(&file.file);
            let positions = if rewrites(&partition) {
                segment.dead.as_ref().clone()
            } else if fresh > 0 {
                &*segment.dead - &*file.committed_dead
            } else {
                continue;
            };
            if !positions.is_empty() {
                dead.entry(partition).or_default().insert(file.file.location.clone(), positions);
            }
        }
        let replaced = self.delete_files.iter().filter(|e| rewrites(&e.partition()));
        written.change.removed_deletes.extend(replaced.map(|e| DeleteKey::of(&e.file)));
        for (partition, dead) in dead {
            let location = format!("{}/data/{}-deletes.parquet", self.location, Uuid::new_v4());
            let name = self.view.schema.name();
            let entry = write_deletes(&self.scope, location, name, &dead, partition)?;
            written.change.added_deletes.push(entry);
        }
        Ok(())
    }

    fn writer(&self) -> RowWriter<'_> {
        RowWriter::new(
            &self.layout,
            &self.scope,
            &self.view.schema,
            &self.field_ids,
            &self.location,
        )
    }

    fn arrow_error(&self, source: ArrowError) -> LakeError {
        LakeError::Arrow { doing: "write rows", table: self.view.schema.name().clone(), source }
    }
}

type FileSegment<'a> = (&'a Segment, &'a FileRows);

/// The segments to merge, by partition, and those that stay: all small files go once there are too
/// many, and large ones with many dead rows.
fn choose_merge<'a>(
    config: &LakeConfig,
    living: Vec<FileSegment<'a>>,
) -> (HashMap<Partition, Vec<FileSegment<'a>>>, Vec<FileSegment<'a>>) {
    let small = |f: &FileRows| f.file.bytes < config.small_file_bytes;
    let mut counts: HashMap<Partition, usize> = HashMap::new();
    for (_, file) in living.iter().filter(|(_, f)| small(f)) {
        *counts.entry(partition_of(&file.file)).or_default() += 1;
    }
    let mut chosen: HashMap<Partition, Vec<FileSegment<'a>>> = HashMap::new();
    let mut kept = Vec::new();
    let mut bytes = 0;
    for (segment, file) in living {
        let worn = segment.dead.len() * 100 > u64::from(file.file.rows) * config.dead_percent;
        let partition = partition_of(&file.file);
        let many = counts.get(&partition).is_some_and(|n| *n > config.small_file_count);
        let wanted = if small(file) { many } else { worn };
        if wanted && bytes < MERGE_BYTES {
            bytes += file.file.bytes;
            chosen.entry(partition).or_default().push((segment, file));
        } else {
            kept.push((segment, file));
        }
    }
    (chosen, kept)
}
