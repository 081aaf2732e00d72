//! Writing one table's part of a flush: what a view has beyond the committed files.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::error::ArrowError;
use iceberg::spec::DataFile;
use medlake_contract::TableName;
use roaring::RoaringBitmap;
use uuid::Uuid;

use crate::{
    commit::table::TableChange,
    config::LakeConfig,
    error::LakeError,
    format::{
        data_file::{DataFileWriter, LakeFile},
        position_deletes::write_deletes,
    },
    read::view::TableView,
    storage::WriteScope,
    table::{
        key::{KeyCodec, Keys},
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

/// Files that were merged into one.
pub(crate) struct Merge {
    pub(crate) sources: Vec<MergeSource>,
    pub(crate) file: Arc<LakeFile>,
    /// Keys of the merged rows in their order, with the number of rows of each part.
    pub(crate) keys: Vec<(Keys, usize)>,
}

pub(crate) struct MergeSource {
    pub(crate) segment: u32,
    pub(crate) rows: u32,
    /// The positions that were left out.
    pub(crate) dead: Arc<RoaringBitmap>,
}

/// What was written for one table.
pub(crate) struct WrittenTable {
    pub(crate) name: TableName,
    pub(crate) flushed: Vec<Flushed>,
    pub(crate) merge: Option<Merge>,
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
            merge: None,
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
    /// Delete files the table has.
    pub(crate) delete_files: usize,
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
    /// Writes data and delete files. Blocking.
    pub(crate) fn write(&self, config: &LakeConfig) -> Result<WrittenTable, LakeError> {
        let name = self.view.schema.name().clone();
        let mut written = WrittenTable::empty(name);
        for segment in &self.view.segments {
            if let (SegmentData::Hot(hot), 1..) = (&segment.data, segment.rows) {
                self.write_hot(segment, hot, &mut written)?;
            }
        }
        let files: Vec<(&Segment, &FileRows)> =
            self.view.segments.iter().filter_map(|s| Some((s, s.file()?))).collect();
        let (dead_files, living): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|(s, f)| s.dead.len() == u64::from(f.file.rows));
        for (segment, file) in dead_files {
            written.dropped.push(segment.id);
            written.change.removed.insert(file.file.location.clone());
        }
        let chosen = choose_merge(config, &living);
        if !chosen.is_empty() {
            self.merge(
                living.iter().filter(|(s, _)| chosen.contains(&s.id)).copied(),
                &mut written,
            )?;
        }
        let kept: Vec<_> =
            living.iter().filter(|(s, _)| !chosen.contains(&s.id)).copied().collect();
        self.write_deletes(config, &kept, &mut written)?;
        Ok(written)
    }

    fn data_location(&self) -> String {
        format!("{}/data/{}.parquet", self.location, Uuid::new_v4())
    }

    fn write_hot(
        &self,
        segment: &Segment,
        hot: &HotRows,
        written: &mut WrittenTable,
    ) -> Result<(), LakeError> {
        let elided = Arc::clone(&segment.dead);
        let mut file = None;
        if segment.live_rows() > 0 {
            let mut writer = self.writer()?;
            let mut first = 0_u32;
            for batch in &hot.batches {
                let end = first.saturating_add(u32::try_from(batch.num_rows()).unwrap_or(u32::MAX));
                let live = without_dead(batch.as_ref().clone(), &segment.dead, first, end)
                    .map_err(|e| self.arrow_error(e))?;
                writer.write(&live)?;
                first = end;
            }
            let (lake_file, entry) = writer.finish()?;
            written.rows += u64::from(lake_file.rows);
            written.change.added.push(entry);
            file = Some(lake_file);
        }
        written.flushed.push(Flushed { segment: segment.id, file, elided });
        Ok(())
    }

    fn merge<'a>(
        &self,
        sources: impl Iterator<Item = (&'a Segment, &'a FileRows)>,
        written: &mut WrittenTable,
    ) -> Result<(), LakeError> {
        let codec = KeyCodec::new(&self.view.schema).map_err(|e| self.arrow_error(e))?;
        let mut writer = self.writer()?;
        let mut all_keys = Vec::new();
        let mut merged = Vec::new();
        for (segment, rows) in sources {
            for batch in rows.file.read(self.view.schema.arrow())? {
                let (first, batch) = batch?;
                let end = first.saturating_add(u32::try_from(batch.num_rows()).unwrap_or(u32::MAX));
                let live = without_dead(batch, &segment.dead, first, end)
                    .map_err(|e| self.arrow_error(e))?;
                if live.num_rows() > 0 {
                    writer.write(&live)?;
                    let keys = codec.keys(&live).map_err(|e| self.arrow_error(e))?;
                    all_keys.push((keys, live.num_rows()));
                }
            }
            written.change.removed.insert(rows.file.location.clone());
            merged.push(MergeSource {
                segment: segment.id,
                rows: rows.file.rows,
                dead: Arc::clone(&segment.dead),
            });
        }
        let (file, entry): (Arc<LakeFile>, DataFile) = writer.finish()?;
        written.change.added.push(entry);
        written.merge = Some(Merge { sources: merged, file, keys: all_keys });
        Ok(())
    }

    /// Delete files for what died in `kept`, the files that stay. When there are many delete files,
    /// or files they name go, one new file takes the place of all.
    fn write_deletes(
        &self,
        config: &LakeConfig,
        kept: &[(&Segment, &FileRows)],
        written: &mut WrittenTable,
    ) -> Result<(), LakeError> {
        let rewrite = self.delete_files > 0
            && (self.delete_files >= config.delete_file_count
                || !written.change.removed.is_empty());
        let mut dead: BTreeMap<String, RoaringBitmap> = BTreeMap::new();
        for (segment, file) in kept {
            let fresh = segment.dead.len() - file.committed_dead.len();
            written.deletes += fresh;
            if fresh > 0 {
                written.committed_dead.push((segment.id, Arc::clone(&segment.dead)));
            }
            let positions = if rewrite {
                segment.dead.as_ref().clone()
            } else if fresh > 0 {
                &*segment.dead - &*file.committed_dead
            } else {
                continue;
            };
            if !positions.is_empty() {
                dead.insert(file.file.location.clone(), positions);
            }
        }
        written.change.replace_deletes = rewrite;
        if !dead.is_empty() {
            let location = format!("{}/data/{}-deletes.parquet", self.location, Uuid::new_v4());
            let entry = write_deletes(&self.scope, location, self.view.schema.name(), &dead)?;
            written.change.added_deletes.push(entry);
        }
        Ok(())
    }

    fn writer(&self) -> Result<DataFileWriter<'_>, LakeError> {
        DataFileWriter::create(
            &self.scope,
            self.data_location(),
            &self.view.schema,
            &self.field_ids,
        )
    }

    fn arrow_error(&self, source: ArrowError) -> LakeError {
        LakeError::Arrow { doing: "write rows", table: self.view.schema.name().clone(), source }
    }
}

/// The segments to merge: all small files once there are too many, and large ones with many dead
/// rows.
fn choose_merge(config: &LakeConfig, living: &[(&Segment, &FileRows)]) -> BTreeSet<u32> {
    let small = |f: &FileRows| f.file.bytes < config.small_file_bytes;
    let many = living.iter().filter(|(_, f)| small(f)).count() > config.small_file_count;
    let mut chosen = BTreeSet::new();
    let mut bytes = 0;
    for (segment, file) in living {
        let worn = segment.dead.len() * 100 > u64::from(file.file.rows) * config.dead_percent;
        let wanted = if small(file) { many } else { worn };
        if wanted && bytes < MERGE_BYTES {
            bytes += file.file.bytes;
            chosen.insert(segment.id);
        }
    }
    chosen
}
