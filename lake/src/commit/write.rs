//! Writing one table's part of a flush: what a view has beyond the committed files.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use arrow::error::ArrowError;
use iceberg::spec::Struct;
use medlake_contract::TableName;
use roaring::RoaringBitmap;
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::{
    commit::{
        layout::{Layout, RowWriter},
        manifest::{Entry, NewEntry},
        table::TableChange,
        vectors::VectorWriter,
    },
    error::LakeError,
    format::{data_file::LakeFile, position_deletes::write_deletes},
    options::FormatVersion,
    read::view::TableView,
    storage::WriteScope,
    table::{
        forward::{Replacement, Source},
        ranks::RankedRows,
        segment::{FileRows, HotRows, Segment, SegmentData, without_dead},
    },
};

/// A hot segment that was written.
#[derive(Debug)]
pub(crate) struct Flushed {
    pub(crate) segment: u32,
    /// None when all its rows were dead.
    pub(crate) file: Option<Arc<LakeFile>>,
    /// The dead rows that were left out.
    pub(crate) elided: Arc<RankedRows>,
}

/// A partition: the id of the specification and the values.
pub(crate) type Partition = (i32, Struct);

pub(crate) fn partition_of(file: &LakeFile) -> Partition {
    (file.spec.spec_id(), file.partition.clone())
}

/// What was written for one table.
pub(crate) struct WrittenTable {
    pub(crate) name: TableName,
    pub(crate) flushed: Vec<Flushed>,
    /// Files that take the place of segments with other ids.
    pub(crate) replacements: Vec<Replacement>,
    /// Segments without a living row.
    pub(crate) dropped: Vec<u32>,
    /// Segments whose files were there already and are committed with this.
    pub(crate) named: Vec<u32>,
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
            dropped: Vec::new(),
            named: Vec::new(),
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
        SegmentData::File(file) => {
            file.spilled.is_some() || segment.dead.len() != file.committed_dead.len()
        }
    })
}

impl TableWork {
    /// Writes data and delete files. Blocking, on a thread of the runtime that may.
    pub(crate) fn write(&self) -> Result<WrittenTable, LakeError> {
        let name = self.view.schema.name().clone();
        let mut written = WrittenTable::empty(name);
        for segment in &self.view.segments {
            match &segment.data {
                SegmentData::Hot(hot) if segment.rows > 0 => {
                    self.write_hot(segment, hot, &mut written)?;
                }
                SegmentData::File(FileRows { file, spilled: Some(entry), .. })
                    if segment.dead.len() < u64::from(file.rows) =>
                {
                    written.rows += u64::from(file.rows);
                    written.change.added.push(NewEntry::clone(entry));
                    written.named.push(segment.id);
                }
                _ => {}
            }
        }
        let files: Vec<(&Segment, &FileRows)> =
            self.view.segments.iter().filter_map(|s| Some((s, s.file()?))).collect();
        let (dead_files, living): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|(s, f)| s.dead.len() == u64::from(f.file.rows));
        for (segment, file) in dead_files {
            written.dropped.push(segment.id);
            if file.spilled.is_none() {
                written.change.removed.insert(file.file.location.clone());
            }
        }
        if self.layout.format_version >= FormatVersion::V3 {
            let vectors = VectorWriter {
                scope: &self.scope,
                table: self.view.schema.name(),
                location: &self.location,
            };
            let writing = vectors.write_fresh(&living, &self.delete_files, &mut written);
            Handle::current().block_on(writing)?;
        } else {
            self.write_deletes(&living, &mut written)?;
        }
        Ok(written)
    }

    /// Writes the rows in memory of these segments, and nothing else. Blocking.
    pub(crate) fn spill(&self, segments: &BTreeSet<u32>) -> Result<WrittenTable, LakeError> {
        let mut written = WrittenTable::empty(self.view.schema.name().clone());
        for segment in self.view.segments.iter().filter(|s| segments.contains(&s.id)) {
            if let SegmentData::Hot(hot) = &segment.data {
                self.write_hot(segment, hot, &mut written)?;
            }
        }
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
        let left_out = Arc::new(RankedRows::new(Arc::clone(&segment.dead)));
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
            written.replacements.push(Replacement {
                sources: vec![source],
                files: rows.files,
                deleted: Vec::new(),
            });
        }
        Ok(())
    }

    /// Delete files for what died in `living`, the files that stay: one a partition. Of files that
    /// go there is nothing to say.
    fn write_deletes(
        &self,
        living: &[(&Segment, &FileRows)],
        written: &mut WrittenTable,
    ) -> Result<(), LakeError> {
        let mut dead: HashMap<Partition, BTreeMap<String, RoaringBitmap>> = HashMap::new();
        for (segment, file) in living {
            let fresh = segment.dead.len() - file.committed_dead.len();
            if fresh == 0 {
                continue;
            }
            written.deletes += fresh;
            written.committed_dead.push((segment.id, Arc::clone(&segment.dead)));
            let positions = &*segment.dead - &*file.committed_dead;
            let location = file.file.location.clone();
            dead.entry(partition_of(&file.file)).or_default().insert(location, positions);
        }
        for (partition, dead) in dead {
            let name = self.view.schema.name();
            let entry =
                write_position_deletes(&self.scope, &self.location, name, &dead, partition)?;
            written.change.added_deletes.push(entry);
        }
        Ok(())
    }

    fn writer(&self) -> RowWriter<'_> {
        RowWriter::new(&self.layout, &self.scope, &self.view.shape, &self.location)
    }

    fn arrow_error(&self, source: ArrowError) -> LakeError {
        LakeError::Arrow { doing: "write rows", table: self.view.schema.name().clone(), source }
    }
}

/// A segment of rows in a file.
pub(crate) type FileSegment<'a> = (&'a Segment, &'a FileRows);

/// Writes a delete file for data files of one partition into the folder of a table.
pub(crate) fn write_position_deletes(
    scope: &WriteScope,
    table_location: &str,
    table: &TableName,
    dead: &BTreeMap<String, RoaringBitmap>,
    partition: Partition,
) -> Result<NewEntry, LakeError> {
    let location = format!("{table_location}/data/{}-deletes.parquet", Uuid::new_v4());
    write_deletes(scope, location, table, dead, partition)
}
