//! Manifests: lists of files with where each came from.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use iceberg::{
    io::FileIO,
    spec::{
        DataFile, DataFileBuilder, FormatVersion, Literal, ManifestContentType, ManifestFile,
        ManifestList, ManifestWriter, ManifestWriterBuilder, Struct, StructType, TableMetadata,
    },
};
use medlake_contract::TableName;
use uuid::Uuid;

use crate::{
    commit::table::CommittedTable,
    error::LakeError,
    format::{evolve::widened, manifest_names::with_plain_names, schema::metadata_error},
    storage::{Storage, WriteScope},
};

/// A manifest with fewer entries than this is small.
const SMALL_MANIFEST: usize = 1_000;
/// Small manifests of one kind and specification a snapshot has at most.
const SMALL_MANIFESTS: usize = 4;
/// Entries of a manifest when all are written anew: read in some milliseconds.
const FULL_MANIFEST: usize = 4_000;

/// A file to enter into a manifest.
#[derive(Debug, Clone)]
pub(crate) struct NewEntry {
    /// The specification its partition values are of.
    pub(crate) spec_id: i32,
    pub(crate) file: DataFile,
}

/// What tells one delete file from another: several deletion vectors stand in one file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DeleteKey {
    location: String,
    offset: Option<i64>,
}

impl DeleteKey {
    pub(crate) fn of(file: &DataFile) -> Self {
        Self { location: file.file_path().to_owned(), offset: file.content_offset() }
    }
}

/// A file in a manifest, with where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) spec_id: i32,
    pub(crate) file: DataFile,
    pub(crate) snapshot_id: i64,
    pub(crate) sequence: i64,
    pub(crate) file_sequence: i64,
    /// The id of the file's first row, from format v3 on; the others follow.
    pub(crate) first_row_id: Option<i64>,
}

impl Entry {
    /// The id of the partition specification and the values.
    pub(crate) fn partition(&self) -> (i32, Struct) {
        (self.spec_id, self.file.partition().clone())
    }
}

/// A manifest of the current snapshot with the entries that live.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) file: ManifestFile,
    pub(crate) entries: Vec<Arc<Entry>>,
}

/// Writes the manifests of one snapshot.
pub(crate) struct ManifestMaker<'a> {
    pub(crate) table: &'a CommittedTable,
    pub(crate) scope: &'a WriteScope,
    pub(crate) snapshot_id: i64,
    pub(crate) sequence: i64,
}

impl ManifestMaker<'_> {
    /// The manifests of one kind after a change, partition specification by specification: what is
    /// added goes into a new one, with the rest of those that lose files. Once there are many small
    /// ones, all of them go into the new one. With `gather` all are written anew, files of neighbouring
    /// partitions together.
    pub(crate) async fn arrange(
        &mut self,
        content: ManifestContentType,
        old: &[Manifest],
        added: &[NewEntry],
        removed: &(dyn Fn(&Entry) -> bool + Sync),
        gather: bool,
    ) -> Result<Vec<Manifest>, LakeError> {
        let mut specs: BTreeMap<i32, (Vec<&Manifest>, Vec<&NewEntry>)> = BTreeMap::new();
        for manifest in old {
            specs.entry(manifest.file.partition_spec_id).or_default().0.push(manifest);
        }
        for entry in added {
            specs.entry(entry.spec_id).or_default().1.push(entry);
        }
        let mut manifests = Vec::new();
        for (spec_id, (old, added)) in specs {
            // A manifest whose files are all gone said so in its own snapshot; no need to carry it.
            let (mut changed, mut kept): (Vec<&Manifest>, Vec<&Manifest>) = old
                .into_iter()
                .filter(|m| !m.entries.is_empty())
                .partition(|m| gather || m.entries.iter().any(|e| removed(e)));
            let small = |m: &Manifest| m.entries.len() < SMALL_MANIFEST;
            if kept.iter().filter(|m| small(m)).count() >= SMALL_MANIFESTS {
                let (few, many): (Vec<_>, Vec<_>) = kept.into_iter().partition(|m| small(m));
                changed.extend(few);
                kept = many;
            }
            manifests.extend(kept.into_iter().cloned());
            if changed.is_empty() && added.is_empty() {
                continue;
            }
            let mut entries: Vec<&Arc<Entry>> = changed.iter().flat_map(|m| &m.entries).collect();
            let most = if gather { FULL_MANIFEST } else { usize::MAX };
            if gather {
                entries.sort_by(|a, b| by_partition(a.file.partition(), b.file.partition()));
            }
            let mut parts = entries.chunks(most);
            let first = parts.next().unwrap_or_default();
            manifests.push(self.write(content, spec_id, first, &added, removed).await?);
            for part in parts {
                manifests.push(self.write(content, spec_id, part, &[], removed).await?);
            }
        }
        Ok(manifests)
    }

    /// Writes one manifest with the entries of `old` and `added`.
    async fn write(
        &mut self,
        content: ManifestContentType,
        spec_id: i32,
        old: &[&Arc<Entry>],
        added: &[&NewEntry],
        removed: &(dyn Fn(&Entry) -> bool + Sync),
    ) -> Result<Manifest, LakeError> {
        let wrong = |e| metadata_error("write a manifest", &self.table.name)(e);
        let location =
            format!("{}/metadata/{}-m0.avro", self.table.metadata.location(), Uuid::new_v4());
        let memory = FileIO::new_with_memory();
        let damaged = |problem| LakeError::Corrupt { table: self.table.name.clone(), problem };
        let (mut writer, partition_type) = self.writer(&memory, &location, content, spec_id)?;
        let mut entries = Vec::new();
        for entry in old.iter().copied() {
            let file = moved(&entry.file, entry.first_row_id, &partition_type).map_err(damaged)?;
            if removed(entry) {
                writer
                    .add_delete_file(file, entry.sequence, Some(entry.file_sequence))
                    .map_err(wrong)?;
            } else {
                writer
                    .add_existing_file(
                        file,
                        entry.snapshot_id,
                        entry.sequence,
                        Some(entry.file_sequence),
                    )
                    .map_err(wrong)?;
                entries.push(Arc::clone(entry));
            }
        }
        for NewEntry { file, .. } in added {
            let file = moved(file, None, &partition_type).map_err(damaged)?;
            // The sequence number is inherited from the manifest list.
            writer.add_file(file.clone(), -1).map_err(wrong)?;
            entries.push(Arc::new(Entry {
                spec_id,
                file,
                snapshot_id: self.snapshot_id,
                sequence: self.sequence,
                file_sequence: self.sequence,
                first_row_id: None,
            }));
        }
        let mut file = writer.write_manifest_file().await.map_err(wrong)?;
        copy_out(&memory, self.scope, &location, &self.table.name).await?;
        file.sequence_number = self.sequence;
        file.min_sequence_number =
            entries.iter().map(|e| e.sequence).min().unwrap_or(self.sequence);
        Ok(Manifest { file, entries })
    }

    /// A writer, and the types of the partition values it takes.
    fn writer(
        &self,
        memory: &FileIO,
        location: &str,
        content: ManifestContentType,
        spec_id: i32,
    ) -> Result<(ManifestWriter, StructType), LakeError> {
        let metadata = &self.table.metadata;
        let spec = self.table.spec(spec_id)?;
        // An old specification may be by a column that the current schema does not have any more.
        let current = metadata.current_schema();
        let mut schemas: Vec<_> = metadata.schemas_iter().collect();
        schemas.sort_by_key(|schema| std::cmp::Reverse(schema.schema_id()));
        schemas.insert(0, current);
        let (schema, partition_type) = schemas
            .into_iter()
            .find_map(|schema| Some((schema, spec.partition_type(schema).ok()?)))
            .ok_or_else(|| LakeError::Corrupt {
                table: self.table.name.clone(),
                problem: format!("partition specification {spec_id} fits none of its schemas"),
            })?;
        let output = memory
            .new_output(location)
            .map_err(metadata_error("write a manifest", &self.table.name))?;
        let builder = ManifestWriterBuilder::new(
            output,
            Some(self.snapshot_id),
            Arc::clone(schema),
            spec.as_ref().clone(),
        );
        let vectors = metadata.format_version() >= FormatVersion::V3;
        let writer = match (content, vectors) {
            (ManifestContentType::Data, false) => builder.build_v2_data(),
            (ManifestContentType::Deletes, false) => builder.build_v2_deletes(),
            (ManifestContentType::Data, true) => builder.build_v3_data(),
            (ManifestContentType::Deletes, true) => builder.build_v3_deletes(),
        };
        Ok((writer, partition_type))
    }
}

/// How many manifests hold the same files when all are written anew.
pub(crate) fn gathered(manifests: &[Manifest]) -> usize {
    let mut entries: BTreeMap<(bool, i32), usize> = BTreeMap::new();
    for Manifest { file, entries: own } in manifests {
        let kind = (file.content == ManifestContentType::Data, file.partition_spec_id);
        *entries.entry(kind).or_default() += own.len();
    }
    entries.values().map(|count| count.div_ceil(FULL_MANIFEST)).sum()
}

/// An order in which files of one partition, and of neighbouring ones, are together.
fn by_partition(a: &Struct, b: &Struct) -> Ordering {
    let primitive = |value: Option<&Literal>| value.and_then(Literal::as_primitive_literal);
    let values = a.iter().zip(b.iter());
    let orders =
        values.map(|(a, b)| primitive(a).partial_cmp(&primitive(b)).unwrap_or(Ordering::Equal));
    orders.fold(Ordering::Equal, Ordering::then)
}

/// Writes to files what the library wrote to memory: all bytes pass one place. Answers how many.
pub(crate) async fn copy_out(
    memory: &FileIO,
    scope: &WriteScope,
    location: &str,
    table: &TableName,
) -> Result<u64, LakeError> {
    let input =
        memory.new_input(location).map_err(metadata_error("read back a manifest", table))?;
    let bytes = input.read().await.map_err(metadata_error("read back a manifest", table))?;
    let size = bytes.len() as u64;
    scope.write(location, bytes);
    Ok(size)
}

pub(crate) async fn read_manifest_list(
    storage: &Storage,
    table: &TableName,
    metadata: &TableMetadata,
    location: &str,
) -> Result<Vec<ManifestFile>, LakeError> {
    let bytes = storage.read(location).await?;
    let list = ManifestList::parse_with_version(&bytes, metadata.format_version())
        .map_err(metadata_error("read the manifest list", table))?;
    Ok(list.consume_entries().into_iter().collect())
}

pub(crate) async fn read_manifest(
    storage: &Storage,
    table: &TableName,
    file: ManifestFile,
) -> Result<Manifest, LakeError> {
    let wrong = |e| metadata_error("read a manifest", table)(e);
    // The library takes what a manifest inherits from its list into account only when it reads the
    // file itself.
    let memory = FileIO::new_with_memory();
    let bytes = with_plain_names(storage.read(&file.manifest_path).await?);
    let output = memory.new_output(&file.manifest_path).map_err(wrong)?;
    output.write(bytes).await.map_err(wrong)?;
    let manifest = file.load_manifest(&memory).await.map_err(wrong)?;
    let (all, _) = manifest.into_parts();
    let spec_id = file.partition_spec_id;
    let mut entries = Vec::new();
    let mut ids = RowIds::of(&file);
    for entry in all.into_iter().filter(|e| e.is_alive()) {
        let (Some(snapshot_id), Some(sequence), Some(file_sequence)) =
            (entry.snapshot_id, entry.sequence_number, entry.file_sequence_number)
        else {
            return Err(LakeError::Corrupt {
                table: table.clone(),
                problem: format!("\"{}\" has no sequence number", entry.file_path()),
            });
        };
        let file = entry.data_file().clone();
        let first_row_id = file.first_row_id().or_else(|| ids.next(file.record_count()));
        entries.push(Arc::new(Entry {
            spec_id,
            file,
            snapshot_id,
            sequence,
            file_sequence,
            first_row_id,
        }));
    }
    Ok(Manifest { file, entries })
}

/// Gives ids to the rows of manifests that have none yet, from `next` on (format v3, "Row Lineage");
/// answers the first id not given. Rows that were there before the table was of that format get
/// theirs with its first snapshot.
pub(crate) fn assign_row_ids(manifests: &mut [Manifest], next: u64) -> u64 {
    let mut next = next;
    for manifest in manifests.iter_mut().filter(|m| m.file.content == ManifestContentType::Data) {
        if manifest.file.first_row_id.is_none() {
            manifest.file.first_row_id = Some(next);
            let counts = [manifest.file.existing_rows_count, manifest.file.added_rows_count];
            next = counts.into_iter().flatten().fold(next, u64::saturating_add);
        }
        let mut ids = RowIds::of(&manifest.file);
        for entry in &mut manifest.entries {
            if entry.first_row_id.is_none() {
                let entry = Arc::make_mut(entry);
                entry.first_row_id = ids.next(entry.file.record_count());
            }
        }
    }
    next
}

/// The ids that files without their own inherit from their manifest, in the order of its entries.
struct RowIds(Option<i64>);

impl RowIds {
    fn of(manifest: &ManifestFile) -> Self {
        Self(manifest.first_row_id.and_then(|id| i64::try_from(id).ok()))
    }

    fn next(&mut self, rows: u64) -> Option<i64> {
        let first = self.0?;
        self.0 = i64::try_from(rows).ok().and_then(|rows| first.checked_add(rows));
        Some(first)
    }
}

/// The values in the types their specification gives them now; none when they are so already. Only
/// a column that was widened since has others.
fn all_widened(values: &Struct, ty: &StructType) -> Option<Struct> {
    let mut changed = false;
    let values = values.fields().iter().zip(ty.fields()).map(|(value, field)| {
        let known = value.as_ref().zip(field.field_type.as_primitive_type());
        let wider = known.and_then(|(value, ty)| widened(value, ty));
        changed |= wider.is_some();
        wider.or_else(|| value.clone())
    });
    let values: Struct = values.collect();
    changed.then_some(values)
}

/// The same entry for another manifest: with the id of its first row written out, for it inherits
/// none there, and the partition values in the types they have now.
fn moved(file: &DataFile, first_row_id: Option<i64>, ty: &StructType) -> Result<DataFile, String> {
    let partition = all_widened(file.partition(), ty);
    let first_row_id = first_row_id.or(file.first_row_id());
    if partition.is_none() && file.first_row_id() == first_row_id {
        return Ok(file.clone());
    }
    let mut builder = DataFileBuilder::default();
    if let Some(id) = file.sort_order_id() {
        builder.sort_order_id(id);
    }
    builder
        .content(file.content_type())
        .file_path(file.file_path().to_owned())
        .file_format(file.file_format())
        .partition(partition.unwrap_or_else(|| file.partition().clone()))
        .record_count(file.record_count())
        .file_size_in_bytes(file.file_size_in_bytes())
        .column_sizes(file.column_sizes().clone())
        .value_counts(file.value_counts().clone())
        .null_value_counts(file.null_value_counts().clone())
        .nan_value_counts(file.nan_value_counts().clone())
        .lower_bounds(file.lower_bounds().clone())
        .upper_bounds(file.upper_bounds().clone())
        .key_metadata(file.key_metadata().map(<[u8]>::to_vec))
        .split_offsets(file.split_offsets().map(<[i64]>::to_vec))
        .equality_ids(file.equality_ids())
        .first_row_id(first_row_id)
        .referenced_data_file(file.referenced_data_file())
        .content_offset(file.content_offset())
        .content_size_in_bytes(file.content_size_in_bytes())
        .build()
        .map_err(|e| e.to_string())
}
