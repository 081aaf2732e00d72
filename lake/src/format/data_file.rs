//! Data files in Parquet.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    commit::manifest::NewEntry,
    error::LakeError,
    format::schema::scalar,
    storage::{Storage, WriteScope},
};
use arrow::{
    array::{AsArray, new_null_array},
    datatypes::{Field, Float64Type, Schema, SchemaRef},
    error::ArrowError,
    record_batch::RecordBatch,
};
use datafusion::scalar::ScalarValue;
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, Struct};
use medlake_contract::{ColumnType, TableSchema};
use parquet::{
    arrow::{
        ArrowWriter, PARQUET_FIELD_ID_META_KEY, ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
    },
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader},
        properties::WriterProperties,
        statistics::Statistics,
    },
};

/// Small enough that a row group without dead rows is common and two cores share a middling file.
const ROW_GROUP_ROWS: usize = 131_072;

/// What is known of a column in a file. `None` is "not known".
#[derive(Debug, Clone, Default)]
pub(crate) struct Bounds {
    pub(crate) min: Option<ScalarValue>,
    pub(crate) max: Option<ScalarValue>,
    pub(crate) nulls: Option<u64>,
}

/// One data file. The file stays on disk while somebody holds it.
#[derive(Debug)]
pub(crate) struct LakeFile {
    pub(crate) location: String,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) rows: u32,
    /// The partition specification the file was written by.
    pub(crate) spec_id: i32,
    /// The values every row of it has under that specification.
    pub(crate) partition: Struct,
    pub(crate) footer: Arc<ParquetMetaData>,
    /// Per column that the file has, by name.
    pub(crate) bounds: HashMap<String, Bounds>,
}

impl LakeFile {
    /// A file named by a table's metadata.
    pub(crate) fn open(
        schema: &TableSchema,
        field_ids: &[i32],
        spec_id: i32,
        entry: &DataFile,
    ) -> Result<Self, LakeError> {
        let location = entry.file_path().to_owned();
        let path = Storage::path(&location);
        let footer = read_footer(&path)?;
        let rows = u32::try_from(entry.record_count())
            .ok()
            .filter(|rows| i64::from(*rows) == footer.file_metadata().num_rows())
            .ok_or_else(|| LakeError::Corrupt {
                table: schema.name().clone(),
                problem: format!("file {path:?} does not have the rows the metadata says"),
            })?;
        let file_columns: Vec<&str> = footer
            .file_metadata()
            .schema_descr()
            .root_schema()
            .get_fields()
            .iter()
            .map(|f| f.name())
            .collect();
        let mut bounds = HashMap::new();
        for (column, id) in schema.columns().iter().zip(field_ids) {
            if !file_columns.contains(&column.name.as_str()) {
                continue;
            }
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
            path,
            rows,
            footer,
            bounds,
        })
    }

    /// Reads the file from its beginning: all columns of `schema`, or only those named, as batches
    /// with the first row's position. Columns the file does not have are null.
    pub(crate) fn read(
        &self,
        columns: &SchemaRef,
    ) -> Result<impl Iterator<Item = Result<(u32, RecordBatch), LakeError>> + use<>, LakeError>
    {
        let wrong = parquet_error("read", &self.path);
        let file = File::open(&self.path).map_err(|source| LakeError::File {
            doing: "open",
            path: self.path.clone(),
            source,
        })?;
        let metadata =
            ArrowReaderMetadata::try_new(Arc::clone(&self.footer), ArrowReaderOptions::new())
                .map_err(&wrong)?;
        let leaves: Vec<usize> = metadata
            .schema()
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, f)| columns.column_with_name(f.name()).is_some())
            .map(|(at, _)| at)
            .collect();
        let mask = ProjectionMask::leaves(metadata.parquet_schema(), leaves);
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
            .with_projection(mask)
            .with_batch_size(8_192)
            .build()
            .map_err(&wrong)?;
        let columns = Arc::clone(columns);
        let mut position = 0_u32;
        Ok(reader.map(move |batch| {
            let batch = batch
                .and_then(|batch| conform(&batch, &columns))
                .map_err(|e| wrong(ParquetError::External(Box::new(e))))?;
            let first = position;
            position += u32::try_from(batch.num_rows()).unwrap_or(u32::MAX);
            Ok((first, batch))
        }))
    }
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
    path: &Path,
) -> impl Fn(ParquetError) -> LakeError + use<> {
    let path = path.to_owned();
    let damaged = {
        let path = path.clone();
        move |source| LakeError::Parquet { doing, path: path.clone(), source: Box::new(source) }
    };
    move |source| match source {
        // A full disk is no damage: it passes.
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(source) => LakeError::File { doing, path: path.clone(), source: *source },
            Err(source) => damaged(ParquetError::External(source)),
        },
        source => damaged(source),
    }
}

fn read_footer(path: &Path) -> Result<Arc<ParquetMetaData>, LakeError> {
    let file = File::open(path).map_err(|source| LakeError::File {
        doing: "open",
        path: path.to_owned(),
        source,
    })?;
    ParquetMetaDataReader::new()
        .with_page_index_policy(PageIndexPolicy::Optional)
        .parse_and_finish(&file)
        .map(Arc::new)
        .map_err(parquet_error("read the footer of", path))
}

pub(crate) fn with_field_id(field: &Field, id: i32) -> Field {
    let id = (PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string());
    field.clone().with_metadata(HashMap::from([id]))
}

pub(crate) fn writer_properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_created_by(concat!("medlake ", env!("CARGO_PKG_VERSION")).to_owned())
        .build()
}

/// Writes one data file row batch by row batch.
pub(crate) struct DataFileWriter<'a> {
    schema: &'a TableSchema,
    field_ids: &'a [i32],
    location: String,
    path: PathBuf,
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
    ) -> Result<Self, LakeError> {
        let fields: Vec<Field> = schema
            .arrow()
            .fields()
            .iter()
            .zip(field_ids)
            .map(|(field, id)| with_field_id(field, *id))
            .collect();
        let arrow = Arc::new(Schema::new(fields));
        let path = Storage::path(&location);
        let file = BufWriter::new(scope.create(&location)?);
        let writer = ArrowWriter::try_new(file, Arc::clone(&arrow), Some(writer_properties()))
            .map_err(parquet_error("write", &path))?;
        let nans = vec![0; field_ids.len()];
        Ok(Self { schema, field_ids, location, path, arrow, writer, nans, rows: 0 })
    }

    /// Appends rows with the table's columns; gives the position of the first.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<u32, LakeError> {
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
        self.writer.write(&batch).map_err(parquet_error("write", &self.path))?;
        let first = self.rows;
        self.rows += u32::try_from(batch.num_rows()).unwrap_or(u32::MAX);
        Ok(first)
    }

    /// Ends the file; gives it and its entry for the manifest.
    pub(crate) fn finish(self, spec_id: i32) -> Result<(Arc<LakeFile>, NewEntry), LakeError> {
        let wrong = parquet_error("write", &self.path);
        self.writer.close().map_err(&wrong)?;
        let bytes = file_bytes(&self.path)?;
        let footer = read_footer(&self.path)?;
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
        let file = DataFileBuilder::default()
            .content(DataContentType::Data)
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
        let opened = LakeFile::open(self.schema, self.field_ids, spec_id, &file)?;
        Ok((Arc::new(opened), NewEntry { spec_id, file }))
    }
}

pub(crate) fn file_bytes(path: &Path) -> Result<u64, LakeError> {
    std::fs::metadata(path).map(|m| m.len()).map_err(|source| LakeError::File {
        doing: "inspect",
        path: path.to_owned(),
        source,
    })
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
        let path = Path::new("/dev/full");
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
