//! Data files in Parquet.

use std::{
    fmt,
    fs::File,
    io::{self, BufWriter},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, AsArray},
    compute::{partition, sort},
    datatypes::{DataType, Float32Type, Float64Type, SchemaRef},
    record_batch::RecordBatch,
};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, PartitionSpecRef, Struct,
};
use medlake_contract::TableName;
use parquet::{
    arrow::{
        ArrowWriter, ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection},
        arrow_writer::ArrowWriterOptions,
        async_reader::ParquetRecordBatchStreamBuilder,
    },
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader},
        properties::WriterProperties,
    },
    schema::types::ColumnPath,
};
use roaring::RoaringBitmap;

use crate::{
    commit::manifest::NewEntry,
    error::LakeError,
    format::{
        adapt::{Adapter, Constants, file_schema, leaf_count, relabel},
        bounds::{FileBounds, Metrics},
        parquet_schema::parquet_schema,
        schema::Shape,
    },
    options::{self, TableOptions},
    read::reader::LakeFileReader,
    storage::{Storage, WriteScope},
};

/// Small enough that a row group without dead rows is common and two cores share a middling file.
const ROW_GROUP_ROWS: usize = 131_072;
/// As many rows of a file are looked at to tell what its columns are like, fewer tell nothing,
const SAMPLE_ROWS: usize = 8_192;
const FEW_ROWS: usize = 4_096;
/// and a column has many values when so many percent of them are different: numbers, of which the
/// row group then has some eight thousand, and others, of which it has twice as many and more.
const MANY_NUMBERS: usize = 62;
const MANY_OTHERS: usize = 80;
/// One lookup in a hundred reads a row group that does not have the value.
const BLOOM_FILTER_FPP: f64 = 0.01;

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
    pub(crate) spec: PartitionSpecRef,
    /// The values every row of it has under that specification.
    pub(crate) partition: Struct,
    pub(crate) bounds: FileBounds,
    /// Of columns the file may leave out, because it is partitioned by them.
    pub(crate) constants: Constants,
    table: TableName,
    storage: Storage,
    /// Held while the footer is read, so that it is read once.
    reading: tokio::sync::Mutex<()>,
}

impl LakeFile {
    /// A file named by a table's metadata.
    pub(crate) fn open(
        storage: &Storage,
        table: &TableName,
        spec: &PartitionSpecRef,
        entry: &DataFile,
    ) -> Result<Self, LakeError> {
        let location = entry.file_path().to_owned();
        let rows = u32::try_from(entry.record_count()).map_err(|_| LakeError::Unsupported {
            table: table.clone(),
            feature: format!("file \"{location}\" of more than {} rows", u32::MAX),
        })?;
        Ok(Self {
            bytes: entry.file_size_in_bytes(),
            spec: Arc::clone(spec),
            partition: entry.partition().clone(),
            location,
            rows,
            bounds: FileBounds::of(entry),
            constants: Constants::new(),
            table: table.clone(),
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

    /// Reads the file from its beginning: the columns of `shape` in these places, in this order, as
    /// batches with the position of the first row. Whoever polls the stream decodes.
    pub(crate) async fn read(
        self: &Arc<Self>,
        shape: &Shape,
        wanted: &[usize],
    ) -> Result<BatchStream, LakeError> {
        let mut next = 0_u32;
        let positioned = move |batch: RecordBatch| {
            let first = next;
            next = next.saturating_add(u32::try_from(batch.num_rows()).unwrap_or(u32::MAX));
            (first, batch)
        };
        Ok(self.decode(shape, wanted, None).await?.map_ok(positioned).boxed())
    }

    /// Reads the rows at these positions, in order, with all columns of `shape`. Whoever polls the
    /// stream decodes.
    pub(crate) async fn read_rows(
        self: &Arc<Self>,
        shape: &Shape,
        positions: &RoaringBitmap,
    ) -> Result<BoxStream<'static, Result<RecordBatch, LakeError>>, LakeError> {
        let all: Vec<usize> = (0..shape.fields().len()).collect();
        let some = (positions.len() < u64::from(self.rows)).then(|| {
            let mut iter = positions.iter();
            let ranges = std::iter::from_fn(move || iter.next_range());
            let ranges = ranges.map(|r| *r.start() as usize..*r.end() as usize + 1);
            RowSelection::from_consecutive_ranges(ranges, self.rows as usize)
        });
        self.decode(shape, &all, some).await
    }

    async fn decode(
        self: &Arc<Self>,
        shape: &Shape,
        wanted: &[usize],
        rows: Option<RowSelection>,
    ) -> Result<BoxStream<'static, Result<RecordBatch, LakeError>>, LakeError> {
        let wrong = parquet_error("read", &self.location);
        let footer = self.footer().await?;
        let columns = file_schema(&footer).map_err(&wrong)?;
        let adapter =
            Adapter::new(shape, shape.schema().arrow(), wanted, &columns, &self.constants)?;
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::try_new(footer, options).map_err(&wrong)?;
        let leaves = adapter.leaves().iter().copied();
        let mask = ProjectionMask::leaves(metadata.parquet_schema(), leaves);
        let mut builder =
            ParquetRecordBatchStreamBuilder::new_with_metadata(self.reader(), metadata)
                .with_projection(mask)
                .with_batch_size(8_192);
        if let Some(rows) = rows {
            builder = builder.with_row_selection(rows);
        }
        let batches = builder.build().map_err(&wrong)?;
        let adapted = move |batch: Result<RecordBatch, ParquetError>| {
            let batch = batch.map_err(&wrong)?;
            adapter.adapt(&batch).map_err(|e| wrong(ParquetError::ArrowError(e.to_string())))
        };
        Ok(batches.map(adapted).boxed())
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

/// The same, without a dictionary for the columns that have hardly a value twice in `sample`, the first
/// rows of a file: to look each value up costs the most of all that is done to write it, and the
/// dictionary would be given up, or be as large as the values.
pub(crate) fn fitted(
    properties: &WriterProperties,
    schema: &SchemaRef,
    sample: &RecordBatch,
) -> WriterProperties {
    let mut fitted = properties.clone().into_builder();
    let rows = sample.num_rows().min(SAMPLE_ROWS);
    if rows < FEW_ROWS {
        return fitted.build();
    }
    for (column, field) in sample.columns().iter().zip(schema.fields()) {
        if column.data_type().is_nested() || *column.data_type() == DataType::Boolean {
            continue;
        }
        let sorted = sort(&column.slice(0, rows), None);
        let values = sorted.and_then(|sorted| partition(&[sorted]));
        // What cannot be sorted keeps its dictionary.
        let many = if column.data_type().is_primitive() { MANY_NUMBERS } else { MANY_OTHERS };
        if values.is_ok_and(|values| values.len() * 100 > rows * many) {
            let path = ColumnPath::from(field.name().as_str());
            fitted = fitted.set_column_dictionary_enabled(path, false);
        }
    }
    fitted.build()
}

/// What a data file is, beside its rows.
#[derive(Debug, Clone)]
pub(crate) struct FileKind {
    pub(crate) spec: PartitionSpecRef,
    pub(crate) partition: Struct,
    /// The order its rows are in; none when they are in none.
    pub(crate) sort_order_id: Option<i32>,
}

/// Writes one data file row batch by row batch.
pub(crate) struct DataFileWriter<'a> {
    shape: &'a Shape,
    storage: Storage,
    kind: FileKind,
    location: String,
    writer: ArrowWriter<BufWriter<File>>,
    /// Per leaf.
    nans: Vec<u64>,
    rows: u32,
}

impl<'a> DataFileWriter<'a> {
    pub(crate) fn create(
        scope: &WriteScope,
        location: String,
        shape: &'a Shape,
        kind: FileKind,
        properties: WriterProperties,
    ) -> Result<Self, LakeError> {
        let wrong = parquet_error("write", &location);
        let arrow = Arc::clone(shape.file_arrow());
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            .with_parquet_schema(parquet_schema(&arrow, shape.leaves()).map_err(&wrong)?);
        let file = BufWriter::new(scope.create(&location)?);
        let writer = ArrowWriter::try_new_with_options(file, arrow, options).map_err(&wrong)?;
        let storage = scope.storage().clone();
        let nans = vec![0; shape.leaves().len()];
        Ok(Self { shape, storage, kind, location, writer, nans, rows: 0 })
    }

    /// About how large the file would be, should it end here.
    pub(crate) fn bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    /// Appends rows with the table's columns.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), LakeError> {
        let mut leaf = 0;
        for column in batch.columns() {
            count_nans(column, &mut leaf, &mut self.nans);
        }
        let arrow = self.shape.file_arrow();
        let columns = batch
            .columns()
            .iter()
            .zip(arrow.fields())
            .map(|(column, field)| relabel(column, field.data_type()))
            .collect::<Result<Vec<_>, _>>();
        let batch = columns
            .and_then(|columns| RecordBatch::try_new(Arc::clone(arrow), columns))
            .map_err(|source| LakeError::Arrow {
                doing: "write rows",
                table: self.shape.schema().name().clone(),
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
        let metrics = Metrics::of(&footer, self.shape.leaves(), &self.nans);
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
            .column_sizes(metrics.column_sizes)
            .value_counts(metrics.value_counts)
            .null_value_counts(metrics.null_value_counts)
            .nan_value_counts(metrics.nan_value_counts)
            .lower_bounds(metrics.lower_bounds)
            .upper_bounds(metrics.upper_bounds)
            .split_offsets(Some(offsets))
            .build()
            .map_err(|e| wrong(ParquetError::External(Box::new(e))))?;
        let spec = &self.kind.spec;
        let opened = LakeFile::open(&self.storage, self.shape.schema().name(), spec, &file)?;
        self.storage.footers().keep(&self.location, &footer);
        Ok((Arc::new(opened), NewEntry { spec_id: spec.spec_id(), file }))
    }
}

/// Counts NaN in each leaf of an array, from `leaf` on.
fn count_nans(array: &ArrayRef, leaf: &mut usize, nans: &mut [u64]) {
    if let Some(array) = array.as_struct_opt() {
        array.columns().iter().for_each(|column| count_nans(column, leaf, nans));
        return;
    }
    let count = if let Some(values) = array.as_primitive_opt::<Float64Type>() {
        values.iter().flatten().filter(|v| v.is_nan()).count()
    } else if let Some(values) = array.as_primitive_opt::<Float32Type>() {
        values.iter().flatten().filter(|v| v.is_nan()).count()
    } else {
        0
    };
    if let Some(known) = nans.get_mut(*leaf) {
        *known += count as u64;
    }
    *leaf += leaf_count(array.data_type());
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::Int64Array,
        datatypes::{DataType, Field, Schema},
    };
    use medlake_contract::Kind;

    use super::*;

    #[test]
    fn only_columns_whose_values_recur_have_a_dictionary() {
        let fields = ["unique", "few", "none"].map(|n| Field::new(n, DataType::Int64, true));
        let schema = Arc::new(Schema::new(fields.to_vec()));
        let column = |n: i64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values((0..8_192).map(|v| v % n)))
        };
        let rows = [column(10_000), column(5_000), Arc::new(Int64Array::new_null(8_192))];
        let rows = RecordBatch::try_new(Arc::clone(&schema), rows.to_vec()).unwrap();
        let plain = writer_properties(&TableOptions::default());
        let has = |properties: &WriterProperties| {
            ["unique", "few", "none"].map(|n| properties.dictionary_enabled(&ColumnPath::from(n)))
        };
        assert_eq!(has(&fitted(&plain, &schema, &rows)), [false, true, true]);
        // Too few to tell.
        assert_eq!(has(&fitted(&plain, &schema, &rows.slice(0, 4_000))), [true; 3]);
    }

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
