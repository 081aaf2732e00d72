//! Data files in Parquet.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::{self, BufWriter},
    sync::Arc,
};

use crate::{
    commit::manifest::NewEntry,
    error::LakeError,
    format::schema::scalar,
    options::{self, TableOptions},
    read::reader::LakeFileReader,
    storage::{Storage, WriteScope},
};
use arrow::{
    array::{AsArray, new_null_array},
    datatypes::{Field, Float64Type, Schema, SchemaRef},
    error::ArrowError,
    record_batch::RecordBatch,
};
use datafusion::scalar::ScalarValue;
use futures::{
    StreamExt,
    stream::{BoxStream, try_unfold},
};
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, Struct};
use medlake_contract::{ColumnType, TableName, TableSchema};
use parquet::{
    arrow::{
        ArrowWriter, PARQUET_FIELD_ID_META_KEY, ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions},
        async_reader::ParquetRecordBatchStreamBuilder,
    },
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader},
        properties::WriterProperties,
        statistics::Statistics,
    },
    schema::types::ColumnPath,
};

/// Small enough that a row group without dead rows is common and two cores share a middling file.
const ROW_GROUP_ROWS: usize = 131_072;
/// One lookup in a hundred reads a row group that does not have the value.
const BLOOM_FILTER_FPP: f64 = 0.01;

/// What is known of a column in a file. `None` is "not known".
#[derive(Debug, Clone, Default)]
pub(crate) struct Bounds {
    pub(crate) min: Option<ScalarValue>,
    pub(crate) max: Option<ScalarValue>,
    pub(crate) nulls: Option<u64>,
}

/// Rows of a file as they come, each batch with the position of its first row.
pub(crate) type BatchStream = BoxStream<'static, Result<(u32, RecordBatch), LakeError>>;

/// Most bytes that are read from the end of a file in the hope that its footer is in them.
const FOOTER_GUESS_BYTES: usize = 64 << 10;

/// One data file, as the metadata has it: nothing of the file itself is read before it is needed.
/// The file stays where it is while somebody holds this.
pub(crate) struct LakeFile {
    pub(crate) location: String,
    pub(crate) bytes: u64,
    pub(crate) rows: u32,
    /// The partition specification the file was written by.
    pub(crate) spec_id: i32,
    /// The values every row of it has under that specification.
    pub(crate) partition: Struct,
    /// Per column, by name; a column that is not in here is null in all rows.
    pub(crate) bounds: HashMap<String, Bounds>,
    table: TableName,
    storage: Storage,
    /// Held while the footer is read, so that it is read once.
    reading: tokio::sync::Mutex<()>,
}

impl LakeFile {
    /// A file named by a table's metadata.
    pub(crate) fn open(
        storage: &Storage,
        schema: &TableSchema,
        field_ids: &[i32],
        spec_id: i32,
        entry: &DataFile,
    ) -> Result<Self, LakeError> {
        let location = entry.file_path().to_owned();
        let rows = u32::try_from(entry.record_count()).map_err(|_| LakeError::Unsupported {
            table: schema.name().clone(),
            feature: format!("file \"{location}\" of more than {} rows", u32::MAX),
        })?;
        let mut bounds = HashMap::new();
        for (column, id) in schema.columns().iter().zip(field_ids) {
            // A column that no number is given of may be missing in the file, or not counted.
            let known = Bounds {
                min: entry.lower_bounds().get(id).and_then(|d| scalar(d, &column.ty)),
                max: entry.upper_bounds().get(id).and_then(|d| scalar(d, &column.ty)),
                nulls: entry.null_value_counts().get(id).copied(),
            };
            bounds.insert(column.name.clone(), known);
        }
        Ok(Self {
            bytes: entry.file_size_in_bytes(),
            spec_id,
            partition: entry.partition().clone(),
            location,
            rows,
            bounds,
            table: schema.name().clone(),
            storage: storage.clone(),
            reading: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The footer with the page index: from memory when it was used lately, else from the file.
    /// Who keeps it longer than a scan takes it out of the memory budget.
    pub(crate) async fn footer(&self) -> Result<Arc<ParquetMetaData>, LakeError> {
        let cache = self.storage.footers();
        if let Some(footer) = cache.find(&self.location) {
            return Ok(footer);
        }
        let _reading = self.reading.lock().await;
        if let Some(footer) = cache.find(&self.location) {
            return Ok(footer);
        }
        let mut reader = self.storage.reader(&self.location);
        let footer = ParquetMetaDataReader::new()
            .with_page_index_policy(PageIndexPolicy::Optional)
            .with_prefetch_hint(Some(FOOTER_GUESS_BYTES))
            .load_and_finish(&mut reader, self.bytes)
            .await
            .map_err(parquet_error("read the footer of", &self.location))?;
        if footer.file_metadata().num_rows() != i64::from(self.rows) {
            return Err(LakeError::Corrupt {
                table: self.table.clone(),
                problem: format!(
                    "file \"{}\" does not have the {} rows the metadata says",
                    self.location, self.rows
                ),
            });
        }
        let footer = Arc::new(footer);
        cache.keep(&self.location, &footer);
        Ok(footer)
    }

    /// For Parquet's own readers.
    pub(crate) fn reader(self: &Arc<Self>) -> LakeFileReader {
        LakeFileReader::new(Arc::clone(self))
    }

    /// Reads the file from its beginning: these columns, found by their field ids, as batches with
    /// the position of the first row. Columns the file does not have are null. Whoever polls the
    /// stream decodes.
    pub(crate) async fn read(
        self: &Arc<Self>,
        columns: &SchemaRef,
        field_ids: &[i32],
    ) -> Result<BatchStream, LakeError> {
        let wrong = parquet_error("read", &self.location);
        let footer = self.footer().await?;
        let metadata =
            ArrowReaderMetadata::try_new(footer, ArrowReaderOptions::new()).map_err(&wrong)?;
        let places = self.places(&metadata, field_ids)?;
        let roots: Vec<usize> = places.iter().flatten().copied().collect();
        let mask = ProjectionMask::roots(metadata.parquet_schema(), roots.iter().copied());
        let rows = ParquetRecordBatchStreamBuilder::new_with_metadata(self.reader(), metadata)
            .with_projection(mask)
            .with_batch_size(8_192)
            .build()
            .map_err(&wrong)?;
        // The columns read come in the order of the file.
        let picks: Vec<Option<usize>> = places
            .iter()
            .map(|place| place.map(|root| roots.iter().filter(|other| **other < root).count()))
            .collect();
        let columns = Arc::clone(columns);
        let stream = try_unfold((rows, 0_u32), move |(mut rows, first)| {
            let (columns, picks) = (Arc::clone(&columns), picks.clone());
            let wrong = wrong.clone();
            async move {
                let Some(batch) = rows.next().await.transpose().map_err(&wrong)? else {
                    return Ok(None);
                };
                let next =
                    first.saturating_add(u32::try_from(batch.num_rows()).unwrap_or(u32::MAX));
                let batch = pick(&batch, &columns, &picks)
                    .map_err(|e| wrong(ParquetError::ArrowError(e.to_string())))?;
                Ok(Some(((first, batch), (rows, next))))
            }
        });
        Ok(stream.boxed())
    }

    /// Where the columns of these ids are among the file's; none for one it does not have.
    fn places(
        &self,
        metadata: &ArrowReaderMetadata,
        field_ids: &[i32],
    ) -> Result<Vec<Option<usize>>, LakeError> {
        let fields = metadata.parquet_schema().root_schema().get_fields();
        let mut by_id = HashMap::with_capacity(fields.len());
        for (at, field) in fields.iter().enumerate() {
            let info = field.get_basic_info();
            if !info.has_id() {
                return Err(LakeError::Unsupported {
                    table: self.table.clone(),
                    feature: format!("file \"{}\" whose columns have no field ids", self.location),
                });
            }
            by_id.insert(info.id(), at);
        }
        Ok(field_ids.iter().map(|id| by_id.get(id).copied()).collect())
    }
}

impl fmt::Debug for LakeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LakeFile")
            .field("location", &self.location)
            .field("bytes", &self.bytes)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// The columns of a batch in another order; those that are nowhere are null.
fn pick(
    batch: &RecordBatch,
    columns: &SchemaRef,
    picks: &[Option<usize>],
) -> Result<RecordBatch, ArrowError> {
    let arrays = columns
        .fields()
        .iter()
        .zip(picks)
        .map(|(field, pick)| match pick {
            Some(at) => Arc::clone(batch.column(*at)),
            None => new_null_array(field.data_type(), batch.num_rows()),
        })
        .collect();
    let rows =
        arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(columns), arrays, &rows)
}

/// The batch with exactly these columns, in this order; missing ones are null.
pub(crate) fn conform(batch: &RecordBatch, columns: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let arrays = columns
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(array) => Arc::clone(array),
            None => new_null_array(field.data_type(), batch.num_rows()),
        })
        .collect();
    let rows =
        arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(columns), arrays, &rows)
}

pub(crate) fn parquet_error(
    doing: &'static str,
    location: &str,
) -> impl Fn(ParquetError) -> LakeError + Clone + use<> {
    let location = location.to_owned();
    move |source| {
        let damaged = |source| {
            let location = location.clone();
            LakeError::Parquet { doing, location, source: Box::new(source) }
        };
        let ParquetError::External(source) = source else { return damaged(source) };
        // What the storage could not do is no damage, nor is a full disk: both pass.
        let source = match source.downcast::<LakeError>() {
            Ok(error) => return *error,
            Err(source) => source,
        };
        match source.downcast::<io::Error>() {
            Ok(source) => LakeError::File { doing, location: location.clone(), source: *source },
            Err(source) => damaged(ParquetError::External(source)),
        }
    }
}

pub(crate) fn with_field_id(field: &Field, id: i32) -> Field {
    let id = (PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string());
    field.clone().with_metadata(HashMap::from([id]))
}

/// How the files of a table with these options are written.
pub(crate) fn writer_properties(options: &TableOptions) -> WriterProperties {
    let compression = match options.compression {
        options::Compression::Zstd(level) => {
            Compression::ZSTD(ZstdLevel::try_new(i32::from(level)).unwrap_or_default())
        }
        options::Compression::Snappy => Compression::SNAPPY,
        options::Compression::None => Compression::UNCOMPRESSED,
    };
    let mut properties = WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_created_by(concat!("medlake ", env!("CARGO_PKG_VERSION")).to_owned());
    for column in &options.bloom_filters {
        // Made for a full row group and folded to what its values need.
        let path = ColumnPath::from(column.as_str());
        properties = properties
            .set_column_bloom_filter_enabled(path.clone(), true)
            .set_column_bloom_filter_fpp(path.clone(), BLOOM_FILTER_FPP)
            .set_column_bloom_filter_max_ndv(path, ROW_GROUP_ROWS as u64);
    }
    properties.build()
}

/// What a data file is, beside its rows.
#[derive(Debug, Clone)]
pub(crate) struct FileKind {
    pub(crate) spec_id: i32,
    pub(crate) partition: Struct,
    /// The order its rows are in; none when they are in none.
    pub(crate) sort_order_id: Option<i32>,
}

/// Writes one data file row batch by row batch.
pub(crate) struct DataFileWriter<'a> {
    schema: &'a TableSchema,
    field_ids: &'a [i32],
    storage: Storage,
    kind: FileKind,
    location: String,
    arrow: SchemaRef,
    writer: ArrowWriter<BufWriter<File>>,
    nans: Vec<u64>,
    rows: u32,
}

impl<'a> DataFileWriter<'a> {
    pub(crate) fn create(
        scope: &WriteScope,
        location: String,
        schema: &'a TableSchema,
        field_ids: &'a [i32],
        kind: FileKind,
        properties: WriterProperties,
    ) -> Result<Self, LakeError> {
        let fields: Vec<Field> = schema
            .arrow()
            .fields()
            .iter()
            .zip(field_ids)
            .map(|(field, id)| with_field_id(field, *id))
            .collect();
        let arrow = Arc::new(Schema::new(fields));
        let file = BufWriter::new(scope.create(&location)?);
        let writer = ArrowWriter::try_new(file, Arc::clone(&arrow), Some(properties))
            .map_err(parquet_error("write", &location))?;
        let storage = scope.storage().clone();
        let nans = vec![0; field_ids.len()];
        Ok(Self { schema, field_ids, storage, kind, location, arrow, writer, nans, rows: 0 })
    }

    /// About how large the file would be, should it end here.
    pub(crate) fn bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    /// Appends rows with the table's columns.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), LakeError> {
        for (at, column) in batch.columns().iter().enumerate() {
            if let Some(values) = column.as_primitive_opt::<Float64Type>() {
                let nans = values.iter().flatten().filter(|v| v.is_nan()).count();
                self.nans[at] += nans as u64;
            }
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.arrow), batch.columns().to_vec())
            .map_err(|source| LakeError::Arrow {
                doing: "write rows",
                table: self.schema.name().clone(),
                source,
            })?;
        self.writer.write(&batch).map_err(parquet_error("write", &self.location))?;
        self.rows += u32::try_from(batch.num_rows()).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Ends the file; gives it and its entry for the manifest.
    pub(crate) fn finish(mut self) -> Result<(Arc<LakeFile>, NewEntry), LakeError> {
        let wrong = parquet_error("write", &self.location);
        let footer = Arc::new(self.writer.finish().map_err(&wrong)?);
        let bytes = self.writer.bytes_written() as u64;
        let mut column_sizes = HashMap::new();
        let mut value_counts = HashMap::new();
        let mut null_counts = HashMap::new();
        let mut nan_counts = HashMap::new();
        let mut lower = HashMap::new();
        let mut upper = HashMap::new();
        for (at, (column, &id)) in self.schema.columns().iter().zip(self.field_ids).enumerate() {
            let chunks = || footer.row_groups().iter().map(move |g| g.column(at));
            column_sizes.insert(id, chunks().map(|c| c.compressed_size().unsigned_abs()).sum());
            value_counts.insert(id, u64::from(self.rows));
            let nulls: Option<u64> =
                chunks().map(|c| c.statistics().and_then(Statistics::null_count_opt)).sum();
            if let Some(nulls) = nulls {
                null_counts.insert(id, nulls);
            }
            if column.ty == ColumnType::Float64 {
                nan_counts.insert(id, self.nans[at]);
                // Parquet's bounds leave NaN out, but a comparison may let NaN through.
                if self.nans[at] > 0 {
                    continue;
                }
            }
            if let Some((min, max)) = file_bounds(&footer, at, &column.ty) {
                lower.insert(id, min);
                upper.insert(id, max);
            }
        }
        let offsets = footer
            .row_groups()
            .iter()
            .filter_map(|g| g.columns().first())
            .map(|c| c.dictionary_page_offset().unwrap_or_else(|| c.data_page_offset()))
            .collect();
        let mut builder = DataFileBuilder::default();
        if let Some(id) = self.kind.sort_order_id {
            builder.sort_order_id(id);
        }
        let file = builder
            .content(DataContentType::Data)
            .partition(self.kind.partition)
            .file_path(self.location.clone())
            .file_format(DataFileFormat::Parquet)
            .record_count(u64::from(self.rows))
            .file_size_in_bytes(bytes)
            .column_sizes(column_sizes)
            .value_counts(value_counts)
            .null_value_counts(null_counts)
            .nan_value_counts(nan_counts)
            .lower_bounds(lower)
            .upper_bounds(upper)
            .split_offsets(Some(offsets))
            .build()
            .map_err(|e| wrong(ParquetError::External(Box::new(e))))?;
        let spec_id = self.kind.spec_id;
        let opened = LakeFile::open(&self.storage, self.schema, self.field_ids, spec_id, &file)?;
        self.storage.footers().keep(&self.location, &footer);
        Ok((Arc::new(opened), NewEntry { spec_id, file }))
    }
}

/// The least and greatest value of a column over all row groups; none when not known.
fn file_bounds(footer: &ParquetMetaData, at: usize, ty: &ColumnType) -> Option<(Datum, Datum)> {
    let mut bounds: Option<(Datum, Datum)> = None;
    for group in footer.row_groups() {
        let statistics = group.column(at).statistics()?;
        let rows = u64::try_from(group.num_rows()).ok()?;
        if statistics.null_count_opt() == Some(rows) {
            continue;
        }
        let (min, max) = group_bounds(statistics, ty)?;
        bounds = Some(match bounds {
            None => (min, max),
            Some((low, high)) => {
                (if min < low { min } else { low }, if max > high { max } else { high })
            }
        });
    }
    bounds
}

fn group_bounds(statistics: &Statistics, ty: &ColumnType) -> Option<(Datum, Datum)> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(Datum::string);
    Some(match (statistics, ty) {
        (Statistics::Boolean(s), ColumnType::Boolean) => {
            (Datum::bool(*s.min_opt()?), Datum::bool(*s.max_opt()?))
        }
        (Statistics::Int32(s), ColumnType::Int32) => {
            (Datum::int(*s.min_opt()?), Datum::int(*s.max_opt()?))
        }
        (Statistics::Int32(s), ColumnType::Date) => {
            (Datum::date(*s.min_opt()?), Datum::date(*s.max_opt()?))
        }
        (Statistics::Int64(s), ColumnType::Int64) => {
            (Datum::long(*s.min_opt()?), Datum::long(*s.max_opt()?))
        }
        (Statistics::Int64(s), ColumnType::TimestampMicros) => {
            (Datum::timestamptz_micros(*s.min_opt()?), Datum::timestamptz_micros(*s.max_opt()?))
        }
        (Statistics::Double(s), ColumnType::Float64) => {
            (Datum::double(*s.min_opt()?), Datum::double(*s.max_opt()?))
        }
        (Statistics::ByteArray(s), ColumnType::Utf8) => {
            (text(s.min_opt()?.data())?, text(s.max_opt()?.data())?)
        }
        (Statistics::ByteArray(s), ColumnType::Binary) => (
            Datum::binary(s.min_opt()?.data().iter().copied()),
            Datum::binary(s.max_opt()?.data().iter().copied()),
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use arrow::{array::Int64Array, datatypes::DataType};
    use medlake_contract::Kind;

    use super::*;

    #[test]
    fn a_full_disk_is_not_damage() {
        let path = "/dev/full";
        let Ok(file) = File::options().write(true).open(path) else { return };
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let mut writer =
            ArrowWriter::try_new(BufWriter::new(file), Arc::clone(&schema), None).unwrap();
        let numbers = Arc::new(Int64Array::from_iter_values(0..10_000));
        writer.write(&RecordBatch::try_new(schema, vec![numbers]).unwrap()).unwrap();
        let error = parquet_error("write", path)(writer.close().unwrap_err());
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        let damaged = parquet_error("read", path)(ParquetError::EOF("short".to_owned()));
        assert_eq!(damaged.kind(), Kind::Corrupt, "{damaged}");
    }
}
