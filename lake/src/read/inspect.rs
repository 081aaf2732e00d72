//! What is committed, as tables: snapshots, files, manifests and so on. Names and columns are those
//! Iceberg gives its metadata tables, with two exceptions: a partition is one text (`day=2026-11-20`),
//! and `positions` is ours.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, BinaryBuilder, BooleanBuilder, Int32Array, Int32Builder, Int64Array,
        Int64Builder, ListBuilder, MapBuilder, StringArray, StringBuilder, StructArray,
        StructBuilder, TimestampMicrosecondArray, new_empty_array,
    },
    datatypes::{DataType, Field, Fields, Schema},
    error::ArrowError,
    record_batch::RecordBatch,
};
use datafusion::{
    catalog::{MemTable, TableProvider},
    error::DataFusionError,
    scalar::ScalarValue,
};
use iceberg::spec::{
    DataContentType, DataFile, Datum, ManifestContentType, ManifestFile, TableMetadata,
};
use medlake_contract::{Column, TableName};

use crate::{
    commit::table::CommittedTable,
    error::LakeError,
    format::{bounds::scalar_of, progress::Progress, refs::named_snapshots},
    read::as_of::ancestors,
};

/// What can be asked of a table's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inspection {
    Snapshots,
    History,
    Files,
    Manifests,
    Partitions,
    Refs,
    Positions,
}

impl Inspection {
    /// By the word after the `$`.
    pub(crate) fn named(word: &str) -> Option<Self> {
        Some(match word {
            "snapshots" => Self::Snapshots,
            "history" => Self::History,
            "files" => Self::Files,
            "manifests" => Self::Manifests,
            "partitions" => Self::Partitions,
            "refs" => Self::Refs,
            "positions" => Self::Positions,
            _ => return None,
        })
    }
}

/// What `table` has to say, as a table.
pub(crate) fn inspect(
    table: &CommittedTable,
    what: Inspection,
) -> Result<Arc<dyn TableProvider>, LakeError> {
    let columns = match what {
        Inspection::Snapshots => snapshots(&table.metadata),
        Inspection::History => history(&table.metadata),
        Inspection::Files => files(table)?,
        Inspection::Manifests => manifests(table),
        Inspection::Partitions => partitions(table),
        Inspection::Refs => refs(table)?,
        Inspection::Positions => positions(&table.name, &table.metadata)?,
    };
    let wrong = |source| LakeError::Arrow {
        doing: "describe the metadata",
        table: table.name.clone(),
        source,
    };
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, values)| Field::new(*name, values.data_type().clone(), true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let values = columns.into_iter().map(|(_, values)| values).collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), values).map_err(wrong)?;
    let provider = MemTable::try_new(schema, vec![vec![batch]]).map_err(|error| match error {
        DataFusionError::ArrowError(source, _) => wrong(*source),
        error => wrong(ArrowError::ExternalError(Box::new(error))),
    })?;
    Ok(Arc::new(provider))
}

type Columns = Vec<(&'static str, ArrayRef)>;

fn longs(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int64Array>())
}

fn ints(values: impl IntoIterator<Item = Option<i32>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int32Array>())
}

fn texts<T: AsRef<str>>(values: impl IntoIterator<Item = Option<T>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<StringArray>())
}

fn times(micros: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(micros.into_iter().collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn micros(millis: i64) -> Option<i64> {
    millis.checked_mul(1_000)
}

fn long(count: u64) -> Option<i64> {
    i64::try_from(count).ok()
}

fn snapshots(metadata: &TableMetadata) -> Columns {
    let mut all: Vec<_> = metadata.snapshots().collect();
    all.sort_by_key(|s| (s.sequence_number(), s.timestamp_ms()));
    let mut summary = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for snapshot in &all {
        let mut entries: Vec<_> = snapshot.summary().additional_properties.iter().collect();
        entries.sort();
        for (key, value) in entries {
            summary.keys().append_value(key);
            summary.values().append_value(value);
        }
        // Fails only when keys and values differ in number.
        let _ = summary.append(true);
    }
    vec![
        ("committed_at", times(all.iter().map(|s| micros(s.timestamp_ms())))),
        ("snapshot_id", longs(all.iter().map(|s| Some(s.snapshot_id())))),
        ("parent_id", longs(all.iter().map(|s| s.parent_snapshot_id()))),
        ("operation", texts(all.iter().map(|s| Some(s.summary().operation.as_str())))),
        ("manifest_list", texts(all.iter().map(|s| Some(s.manifest_list())))),
        ("summary", Arc::new(summary.finish())),
    ]
}

fn history(metadata: &TableMetadata) -> Columns {
    let log = metadata.history();
    let parent =
        |id| metadata.snapshot_by_id(id).and_then(|snapshot| snapshot.parent_snapshot_id());
    let current: Vec<i64> = ancestors(metadata).map(|s| s.snapshot_id()).collect();
    let mut is_ancestor = BooleanBuilder::new();
    log.iter().for_each(|l| is_ancestor.append_value(current.contains(&l.snapshot_id)));
    vec![
        ("made_current_at", times(log.iter().map(|l| micros(l.timestamp_ms)))),
        ("snapshot_id", longs(log.iter().map(|l| Some(l.snapshot_id)))),
        ("parent_id", longs(log.iter().map(|l| parent(l.snapshot_id)))),
        ("is_current_ancestor", Arc::new(is_ancestor.finish())),
    ]
}

fn refs(table: &CommittedTable) -> Result<Columns, LakeError> {
    let refs = named_snapshots(&table.name, &table.metadata)?;
    let number =
        |key: &'static str| longs(refs.iter().map(move |(_, value)| value.get(key)?.as_i64()));
    let kind = |value: &serde_json::Value| Some(value.get("type")?.as_str()?.to_uppercase());
    let at_least = refs.iter().map(|(_, value)| {
        value.get("min-snapshots-to-keep")?.as_i64().and_then(|count| i32::try_from(count).ok())
    });
    Ok(vec![
        ("name", texts(refs.iter().map(|(name, _)| Some(name)))),
        ("type", texts(refs.iter().map(|(_, value)| kind(value)))),
        ("snapshot_id", number("snapshot-id")),
        ("max_reference_age_in_ms", number("max-ref-age-ms")),
        ("min_snapshots_to_keep", ints(at_least)),
        ("max_snapshot_age_in_ms", number("max-snapshot-age-ms")),
    ])
}

/// For each snapshot of ours and each source: how far the source is contained.
fn positions(name: &TableName, metadata: &TableMetadata) -> Result<Columns, LakeError> {
    let mut all: Vec<_> = metadata.snapshots().collect();
    all.sort_by_key(|s| (s.sequence_number(), s.timestamp_ms()));
    let mut rows = Vec::new();
    for snapshot in all {
        let properties = &snapshot.summary().additional_properties;
        let Some(progress) = Progress::read(name, properties)? else { continue };
        let progress = Arc::new(progress);
        for (source, position) in &progress.positions {
            let (source, position) = (source.to_string(), position.to_string());
            rows.push((snapshot, Arc::clone(&progress), source, position));
        }
    }
    Ok(vec![
        ("committed_at", times(rows.iter().map(|r| micros(r.0.timestamp_ms())))),
        ("snapshot_id", longs(rows.iter().map(|r| Some(r.0.snapshot_id())))),
        ("source", texts(rows.iter().map(|r| Some(&r.2)))),
        ("position", texts(rows.iter().map(|r| Some(&r.3)))),
        ("commit_id", texts(rows.iter().map(|r| Some(&r.1.commit_id)))),
        ("epoch", longs(rows.iter().map(|r| Some(r.1.epoch)))),
        ("view_version", longs(rows.iter().map(|r| long(r.1.view_version)))),
        ("source_committed_at", times(rows.iter().map(|r| r.1.committed_at_micros))),
    ])
}

fn manifests(table: &CommittedTable) -> Columns {
    let all: Vec<&ManifestFile> = table.manifests().iter().map(|m| &m.file).collect();
    let counts = |content: ManifestContentType, count: fn(&ManifestFile) -> Option<u32>| {
        ints(all.iter().map(move |m| {
            let count = if m.content == content { count(m).unwrap_or(0) } else { 0 };
            i32::try_from(count).ok()
        }))
    };
    let (data, deletes) = (ManifestContentType::Data, ManifestContentType::Deletes);
    vec![
        ("content", ints(all.iter().map(|m| Some(i32::from(m.content == deletes))))),
        ("path", texts(all.iter().map(|m| Some(&m.manifest_path)))),
        ("length", longs(all.iter().map(|m| Some(m.manifest_length)))),
        ("partition_spec_id", ints(all.iter().map(|m| Some(m.partition_spec_id)))),
        ("added_snapshot_id", longs(all.iter().map(|m| Some(m.added_snapshot_id)))),
        ("added_data_files_count", counts(data, |m| m.added_files_count)),
        ("existing_data_files_count", counts(data, |m| m.existing_files_count)),
        ("deleted_data_files_count", counts(data, |m| m.deleted_files_count)),
        ("added_delete_files_count", counts(deletes, |m| m.added_files_count)),
        ("existing_delete_files_count", counts(deletes, |m| m.existing_files_count)),
        ("deleted_delete_files_count", counts(deletes, |m| m.deleted_files_count)),
        ("partition_summaries", partition_summaries(&table.metadata, &all)),
    ]
}

fn partition_summaries(metadata: &TableMetadata, all: &[&ManifestFile]) -> ArrayRef {
    let fields = Fields::from(vec![
        Field::new("contains_null", DataType::Boolean, true),
        Field::new("contains_nan", DataType::Boolean, true),
        Field::new("lower_bound", DataType::Utf8, true),
        Field::new("upper_bound", DataType::Utf8, true),
    ]);
    let mut lists = ListBuilder::new(StructBuilder::from_fields(fields, 0));
    for manifest in all {
        let types = metadata
            .partition_spec_by_id(manifest.partition_spec_id)
            .and_then(|spec| spec.partition_type(metadata.current_schema()).ok());
        for (at, summary) in manifest.partitions.iter().flatten().enumerate() {
            let ty =
                types.as_ref().and_then(|t| t.fields().get(at)?.field_type.as_primitive_type());
            let bound = |bytes: Option<&[u8]>| {
                Some(Datum::try_from_bytes(bytes?, ty?.clone()).ok()?.to_human_string())
            };
            let values = lists.values();
            if let Some(b) = values.field_builder::<BooleanBuilder>(0) {
                b.append_value(summary.contains_null);
            }
            if let Some(b) = values.field_builder::<BooleanBuilder>(1) {
                b.append_option(summary.contains_nan);
            }
            if let Some(b) = values.field_builder::<StringBuilder>(2) {
                b.append_option(bound(summary.lower_bound.as_ref().map(|b| b.as_slice())));
            }
            if let Some(b) = values.field_builder::<StringBuilder>(3) {
                b.append_option(bound(summary.upper_bound.as_ref().map(|b| b.as_slice())));
            }
            values.append(true);
        }
        lists.append(true);
    }
    Arc::new(lists.finish())
}

/// The living files with the partition spec of their manifest and the snapshot that added them.
struct LivingFile<'a> {
    file: &'a DataFile,
    spec_id: i32,
    snapshot_id: i64,
}

fn living(table: &CommittedTable) -> impl Iterator<Item = LivingFile<'_>> {
    table.manifests().iter().flat_map(|manifest| {
        manifest.entries.iter().map(|entry| LivingFile {
            file: &entry.file,
            spec_id: manifest.file.partition_spec_id,
            snapshot_id: entry.snapshot_id,
        })
    })
}

impl LivingFile<'_> {
    /// `name=value` for each partition field, joined by `/`; none without partitions.
    fn partition(&self, metadata: &TableMetadata) -> Option<String> {
        let spec = metadata.partition_spec_by_id(self.spec_id)?;
        let schema = Arc::clone(metadata.current_schema());
        // A source column that is gone leaves the transform without a type to print.
        spec.partition_type(&schema).ok()?;
        (!spec.fields().is_empty()).then(|| spec.partition_to_path(self.file.partition(), schema))
    }
}

fn content(file: &DataFile) -> i32 {
    match file.content_type() {
        DataContentType::Data => 0,
        DataContentType::PositionDeletes => 1,
        DataContentType::EqualityDeletes => 2,
    }
}

fn files(table: &CommittedTable) -> Result<Columns, LakeError> {
    let metadata = &table.metadata;
    let all: Vec<LivingFile<'_>> = living(table).collect();
    let counts = |of: fn(&DataFile) -> &HashMap<i32, u64>| {
        let mut maps = MapBuilder::new(None, Int32Builder::new(), Int64Builder::new());
        for file in &all {
            let mut entries: Vec<_> = of(file.file).iter().collect();
            entries.sort();
            for (id, count) in entries {
                maps.keys().append_value(*id);
                maps.values().append_option(long(*count));
            }
            let _ = maps.append(true);
        }
        Arc::new(maps.finish()) as ArrayRef
    };
    let bounds = |of: fn(&DataFile) -> &HashMap<i32, Datum>| {
        let mut maps = MapBuilder::new(None, Int32Builder::new(), BinaryBuilder::new());
        for file in &all {
            let mut entries: Vec<_> = of(file.file).iter().collect();
            entries.sort_by_key(|(id, _)| **id);
            for (id, bound) in entries {
                maps.keys().append_value(*id);
                maps.values().append_option(bound.to_bytes().ok());
            }
            let _ = maps.append(true);
        }
        Arc::new(maps.finish()) as ArrayRef
    };
    let mut offsets = ListBuilder::new(Int64Builder::new());
    let mut equality = ListBuilder::new(Int32Builder::new());
    for file in &all {
        offsets.append_option(file.file.split_offsets().map(|o| o.iter().map(|o| Some(*o))));
        equality.append_option(file.file.equality_ids().map(|ids| ids.into_iter().map(Some)));
    }
    let of = |each: fn(&DataFile) -> Option<i64>| longs(all.iter().map(move |f| each(f.file)));
    Ok(vec![
        ("content", ints(all.iter().map(|f| Some(content(f.file))))),
        ("file_path", texts(all.iter().map(|f| Some(f.file.file_path())))),
        (
            "file_format",
            texts(all.iter().map(|f| Some(f.file.file_format().to_string().to_uppercase()))),
        ),
        ("spec_id", ints(all.iter().map(|f| Some(f.spec_id)))),
        ("partition", texts(all.iter().map(|f| f.partition(metadata)))),
        ("record_count", of(|f| long(f.record_count()))),
        ("file_size_in_bytes", of(|f| long(f.file_size_in_bytes()))),
        ("column_sizes", counts(DataFile::column_sizes)),
        ("value_counts", counts(DataFile::value_counts)),
        ("null_value_counts", counts(DataFile::null_value_counts)),
        ("nan_value_counts", counts(DataFile::nan_value_counts)),
        ("lower_bounds", bounds(DataFile::lower_bounds)),
        ("upper_bounds", bounds(DataFile::upper_bounds)),
        ("split_offsets", Arc::new(offsets.finish())),
        ("equality_ids", Arc::new(equality.finish())),
        ("sort_order_id", ints(all.iter().map(|f| f.file.sort_order_id()))),
        ("first_row_id", of(DataFile::first_row_id)),
        ("referenced_data_file", texts(all.iter().map(|f| f.file.referenced_data_file()))),
        ("content_offset", of(DataFile::content_offset)),
        ("content_size_in_bytes", of(DataFile::content_size_in_bytes)),
        ("readable_metrics", readable_metrics(table, &all)?),
    ])
}

/// What is known of each column of each file, under the column's name and in its type.
fn readable_metrics(table: &CommittedTable, all: &[LivingFile<'_>]) -> Result<ArrayRef, LakeError> {
    let shape = table.shape()?;
    let mut columns: Vec<(Field, ArrayRef)> = Vec::new();
    for (column, field) in shape.schema().columns().iter().zip(shape.fields()) {
        if column.ty.is_nested() {
            continue;
        }
        let id = field.id;
        let counts = |of: fn(&DataFile) -> &HashMap<i32, u64>| {
            longs(all.iter().map(move |f| of(f.file).get(&id).copied().and_then(long)))
        };
        let parts: Vec<(&str, ArrayRef)> = vec![
            ("column_size", counts(DataFile::column_sizes)),
            ("value_count", counts(DataFile::value_counts)),
            ("null_value_count", counts(DataFile::null_value_counts)),
            ("nan_value_count", counts(DataFile::nan_value_counts)),
            ("lower_bound", readable_bounds(table, all, column, id, DataFile::lower_bounds)?),
            ("upper_bound", readable_bounds(table, all, column, id, DataFile::upper_bounds)?),
        ];
        let parts: Vec<(Arc<Field>, ArrayRef)> = parts
            .into_iter()
            .map(|(n, v)| (Arc::new(Field::new(n, v.data_type().clone(), true)), v))
            .collect();
        let metrics = StructArray::from(parts);
        let field = Field::new(&column.name, metrics.data_type().clone(), true);
        columns.push((field, Arc::new(metrics)));
    }
    if columns.is_empty() {
        return Ok(Arc::new(arrow::array::NullArray::new(all.len())));
    }
    let columns: Vec<(Arc<Field>, ArrayRef)> =
        columns.into_iter().map(|(field, values)| (Arc::new(field), values)).collect();
    Ok(Arc::new(StructArray::from(columns)))
}

fn readable_bounds(
    table: &CommittedTable,
    all: &[LivingFile<'_>],
    column: &Column,
    id: i32,
    of: fn(&DataFile) -> &HashMap<i32, Datum>,
) -> Result<ArrayRef, LakeError> {
    let wrong = |error: DataFusionError| LakeError::Arrow {
        doing: "describe the bounds",
        table: table.name.clone(),
        source: ArrowError::ExternalError(Box::new(error)),
    };
    if all.is_empty() {
        return Ok(new_empty_array(&column.ty.arrow()));
    }
    let null = ScalarValue::try_from(&column.ty.arrow()).map_err(wrong)?;
    let values = all.iter().map(|file| {
        let bound = of(file.file).get(&id).and_then(|bound| scalar_of(bound.literal(), &column.ty));
        bound.unwrap_or_else(|| null.clone())
    });
    ScalarValue::iter_to_array(values).map_err(wrong)
}

/// What the files of one partition have together.
#[derive(Default)]
struct Partition {
    records: u64,
    files: i32,
    bytes: u64,
    position_deletes: u64,
    position_delete_files: i32,
    equality_deletes: u64,
    equality_delete_files: i32,
    /// When it was changed last, and by which snapshot; unknown when that has expired.
    updated: Option<(i64, i64)>,
}

fn partitions(table: &CommittedTable) -> Columns {
    let metadata = &table.metadata;
    let mut found: std::collections::BTreeMap<(i32, Option<String>), Partition> =
        std::collections::BTreeMap::new();
    for file in living(table) {
        let partition = found.entry((file.spec_id, file.partition(metadata))).or_default();
        let count = file.file.record_count();
        match file.file.content_type() {
            DataContentType::Data => {
                partition.records += count;
                partition.files += 1;
                partition.bytes += file.file.file_size_in_bytes();
            }
            DataContentType::PositionDeletes => {
                partition.position_deletes += count;
                partition.position_delete_files += 1;
            }
            DataContentType::EqualityDeletes => {
                partition.equality_deletes += count;
                partition.equality_delete_files += 1;
            }
        }
        let added = metadata.snapshot_by_id(file.snapshot_id);
        partition.updated =
            partition.updated.max(added.map(|s| (s.timestamp_ms(), s.snapshot_id())));
    }
    let all: Vec<_> = found.into_iter().collect();
    let of = |each: fn(&Partition) -> u64| longs(all.iter().map(move |(_, p)| long(each(p))));
    let files = |each: fn(&Partition) -> i32| ints(all.iter().map(move |(_, p)| Some(each(p))));
    vec![
        ("partition", texts(all.iter().map(|((_, name), _)| name.as_ref()))),
        ("spec_id", ints(all.iter().map(|((spec, _), _)| Some(*spec)))),
        ("record_count", of(|p| p.records)),
        ("file_count", files(|p| p.files)),
        ("total_data_file_size_in_bytes", of(|p| p.bytes)),
        ("position_delete_record_count", of(|p| p.position_deletes)),
        ("position_delete_file_count", files(|p| p.position_delete_files)),
        ("equality_delete_record_count", of(|p| p.equality_deletes)),
        ("equality_delete_file_count", files(|p| p.equality_delete_files)),
        ("last_updated_at", times(all.iter().map(|(_, p)| micros(p.updated?.0)))),
        ("last_updated_snapshot_id", longs(all.iter().map(|(_, p)| Some(p.updated?.1)))),
    ]
}
