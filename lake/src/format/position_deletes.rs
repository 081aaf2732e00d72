//! Position delete files: rows of data files that are dead, by file and position (format v2).

use std::{
    collections::{BTreeMap, HashMap},
    io::BufWriter,
    sync::Arc,
};

use arrow::{
    array::{AsArray, Int64Array, StringArray},
    datatypes::{DataType, Field, Int64Type, Schema},
    record_batch::RecordBatch,
};
use bytes::Bytes;
use iceberg::spec::{DataContentType, DataFileBuilder, DataFileFormat, Datum, Struct};
use medlake_contract::TableName;
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    errors::ParquetError,
    schema::types::ColumnPath,
};
use roaring::RoaringBitmap;

use crate::{
    commit::manifest::NewEntry,
    error::LakeError,
    format::{
        data_file::{parquet_error, writer_properties},
        schema::with_field_id,
    },
    options::TableOptions,
    storage::{Storage, WriteScope, blocking},
};

/// Reserved field ids of position delete files, given by the format.
const FILE_PATH_ID: i32 = 2_147_483_546;
const POS_ID: i32 = 2_147_483_545;

/// Writes one position delete file: for each data file its dead positions. Sorted by file and
/// position, as the format demands. The data files are of one partition: readers look for deletes
/// in the partition of a data file only.
pub(crate) fn write_deletes(
    scope: &WriteScope,
    location: String,
    table: &TableName,
    dead: &BTreeMap<String, RoaringBitmap>,
    (spec_id, partition): (i32, Struct),
) -> Result<NewEntry, LakeError> {
    let wrong = parquet_error("write", &location);
    let schema = Arc::new(Schema::new(vec![
        with_field_id(&Field::new("file_path", DataType::Utf8, false), FILE_PATH_ID),
        with_field_id(&Field::new("pos", DataType::Int64, false), POS_ID),
    ]));
    let file = BufWriter::new(scope.create(&location)?);
    // No position occurs twice, but for equal ones of different files.
    let properties = writer_properties(&TableOptions::default())
        .into_builder()
        .set_column_dictionary_enabled(ColumnPath::from("pos"), false)
        .build();
    let mut writer =
        ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties)).map_err(&wrong)?;
    let mut count = 0_u64;
    for (data_file, positions) in dead {
        let all: Vec<i64> = positions.iter().map(i64::from).collect();
        for part in all.chunks(65_536) {
            let paths = StringArray::from_iter_values(part.iter().map(|_| data_file));
            let batch = RecordBatch::try_new(
                Arc::clone(&schema),
                vec![Arc::new(paths), Arc::new(Int64Array::from(part.to_vec()))],
            )
            .map_err(|source| LakeError::Arrow {
                doing: "write deletes",
                table: table.clone(),
                source,
            })?;
            writer.write(&batch).map_err(&wrong)?;
        }
        count += positions.len();
    }
    writer.finish().map_err(&wrong)?;
    let bound = |path: Option<&String>| {
        path.map(|p| (FILE_PATH_ID, Datum::string(p))).into_iter().collect::<HashMap<_, _>>()
    };
    let single = if dead.len() == 1 { dead.keys().next().cloned() } else { None };
    let file = DataFileBuilder::default()
        .content(DataContentType::PositionDeletes)
        .file_path(location)
        .file_format(DataFileFormat::Parquet)
        .record_count(count)
        .file_size_in_bytes(writer.bytes_written() as u64)
        .lower_bounds(bound(dead.keys().next()))
        .upper_bounds(bound(dead.keys().next_back()))
        .referenced_data_file(single)
        .partition(partition)
        .build()
        .map_err(|e| wrong(ParquetError::External(Box::new(e))))?;
    Ok(NewEntry { spec_id, file })
}

/// The dead positions a delete file names, by location of the data file.
pub(crate) async fn read_deletes(
    storage: &Storage,
    table: &TableName,
    location: &str,
) -> Result<HashMap<String, RoaringBitmap>, LakeError> {
    let bytes = storage.read(location).await?;
    let (table, location) = (table.clone(), location.to_owned());
    blocking(move || decode_deletes(&table, &location, bytes)).await
}

fn decode_deletes(
    table: &TableName,
    location: &str,
    bytes: Bytes,
) -> Result<HashMap<String, RoaringBitmap>, LakeError> {
    let wrong = parquet_error("read", location);
    let damaged = || LakeError::Corrupt {
        table: table.clone(),
        problem: format!("delete file \"{location}\" does not have file_path and pos"),
    };
    let mut dead: HashMap<String, RoaringBitmap> = HashMap::new();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(&wrong)?;
    for batch in reader {
        let batch = batch.map_err(|e| wrong(ParquetError::External(Box::new(e))))?;
        let paths = batch.column_by_name("file_path").and_then(|c| c.as_string_opt::<i32>());
        let positions = batch.column_by_name("pos").and_then(|c| c.as_primitive_opt::<Int64Type>());
        let (Some(paths), Some(positions)) = (paths, positions) else {
            return Err(damaged());
        };
        let mut row = 0;
        while row < batch.num_rows() {
            let data_file = paths.value(row);
            let bitmap = match dead.get_mut(data_file) {
                Some(bitmap) => bitmap,
                None => dead.entry(data_file.to_owned()).or_default(),
            };
            while row < batch.num_rows() && paths.value(row) == data_file {
                bitmap.insert(u32::try_from(positions.value(row)).map_err(|_| damaged())?);
                row += 1;
            }
        }
    }
    Ok(dead)
}
