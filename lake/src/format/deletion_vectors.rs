//! Deletion vectors: rows of one data file that are dead, as a bitmap in a Puffin file (format v3).
//!
//! Several vectors stand in one file; a manifest entry says where its own begins and how long it is.
//! A vector, as the Iceberg specification has it ("deletion-vector-v1" of the Puffin specification):
//! its length and a magic number, a 64-bit Roaring bitmap in the portable format, a CRC-32 of the
//! magic number and the bitmap. Length and checksum are big-endian, all else is little-endian.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use futures::StreamExt;
use iceberg::{
    io::FileIO,
    puffin::{Blob, CREATED_BY_PROPERTY, CompressionCodec, DELETION_VECTOR_V1, PuffinWriter},
    spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, Struct},
};
use medlake_contract::TableName;
use roaring::RoaringBitmap;

use crate::{
    commit::manifest::{NewEntry, copy_out},
    error::LakeError,
    format::schema::metadata_error,
    storage::{Storage, WriteScope},
};

const MAGIC: [u8; 4] = [0xd1, 0xd3, 0x39, 0x64];
/// Reserved field id of a row's position, given by the format.
const ROW_POSITION_ID: i32 = 2_147_483_645;
/// Files read at the same time.
const READERS: usize = 8;
/// The magic number a Puffin file begins with.
const PUFFIN_HEADER: u64 = 4;
const FRAME: &str = "its length, magic number or checksum is wrong";

/// The dead rows of one data file.
pub(crate) struct Vector {
    pub(crate) spec_id: i32,
    /// The partition of the data file.
    pub(crate) partition: Struct,
    pub(crate) dead: RoaringBitmap,
}

/// Writes the vectors of these data files, by location, into one file; gives an entry for each.
pub(crate) async fn write_vectors(
    scope: &WriteScope,
    location: String,
    table: &TableName,
    vectors: BTreeMap<String, Vector>,
) -> Result<Vec<NewEntry>, LakeError> {
    let wrong = |e| metadata_error("write deletion vectors", table)(e);
    let memory = FileIO::new_with_memory();
    let output = memory.new_output(&location).map_err(wrong)?;
    let created_by = concat!("medlake ", env!("CARGO_PKG_VERSION")).to_owned();
    let properties = HashMap::from([(CREATED_BY_PROPERTY.to_owned(), created_by)]);
    let mut writer = PuffinWriter::new(&output, properties, false).await.map_err(wrong)?;
    let mut offset = PUFFIN_HEADER;
    let mut placed = Vec::with_capacity(vectors.len());
    for (data_file, vector) in vectors {
        let bytes = encode(&vector.dead);
        let length = bytes.len() as u64;
        let properties = HashMap::from([
            ("referenced-data-file".to_owned(), data_file.clone()),
            ("cardinality".to_owned(), vector.dead.len().to_string()),
        ]);
        let blob = Blob::builder()
            .r#type(DELETION_VECTOR_V1.to_owned())
            .fields(vec![ROW_POSITION_ID])
            // Of the snapshot that names it first.
            .snapshot_id(-1)
            .sequence_number(-1)
            .data(bytes)
            .properties(properties)
            .build();
        writer.add(blob, CompressionCodec::None).await.map_err(wrong)?;
        placed.push((data_file, vector, offset, length));
        offset += length;
    }
    writer.close().await.map_err(wrong)?;
    let size = copy_out(&memory, scope, &location, table).await?;
    let entry = |(data_file, vector, offset, length): (String, Vector, u64, u64)| {
        let file = DataFileBuilder::default()
            .content(DataContentType::PositionDeletes)
            .file_path(location.clone())
            .file_format(DataFileFormat::Puffin)
            .partition(vector.partition)
            .record_count(vector.dead.len())
            .file_size_in_bytes(size)
            .referenced_data_file(Some(data_file))
            .content_offset(i64::try_from(offset).ok())
            .content_size_in_bytes(i64::try_from(length).ok())
            .build()
            .map_err(|e| LakeError::Corrupt { table: table.clone(), problem: e.to_string() })?;
        Ok(NewEntry { spec_id: vector.spec_id, file })
    };
    placed.into_iter().map(entry).collect()
}

/// Whether a delete file is a deletion vector.
pub(crate) fn is_vector(file: &DataFile) -> bool {
    file.content_type() == DataContentType::PositionDeletes
        && file.file_format() == DataFileFormat::Puffin
}

/// The dead rows of data files, by location, that these deletion vectors name.
pub(crate) async fn read_vectors(
    storage: &Storage,
    table: &TableName,
    entries: &[&DataFile],
) -> Result<HashMap<String, RoaringBitmap>, LakeError> {
    let mut files: BTreeMap<String, Vec<DataFile>> = BTreeMap::new();
    for entry in entries {
        files.entry(entry.file_path().to_owned()).or_default().push((*entry).clone());
    }
    let mut parts = futures::stream::iter(files)
        .map(|(location, entries)| async move {
            let ranges: Result<Vec<_>, LakeError> =
                entries.iter().map(|entry| range(table, entry)).collect();
            let bytes = storage.read_ranges(&location, ranges?).await?;
            entries
                .iter()
                .zip(bytes)
                .map(|(entry, bytes)| read_vector(table, entry, &bytes))
                .collect::<Result<Vec<_>, _>>()
        })
        .buffer_unordered(READERS);
    let mut dead: HashMap<String, RoaringBitmap> = HashMap::new();
    while let Some(part) = parts.next().await {
        for (data_file, positions) in part? {
            if dead.insert(data_file.clone(), positions).is_some() {
                let problem = format!("file \"{data_file}\" has two deletion vectors");
                return Err(LakeError::Corrupt { table: table.clone(), problem });
            }
        }
    }
    Ok(dead)
}

/// Where in its file a vector stands: first byte and the one behind the last.
fn range(table: &TableName, entry: &DataFile) -> Result<Range<u64>, LakeError> {
    let place = || {
        let start = u64::try_from(entry.content_offset()?).ok()?;
        let length = u64::try_from(entry.content_size_in_bytes()?).ok()?;
        let end = start.checked_add(length)?;
        (end <= entry.file_size_in_bytes()).then_some(start..end)
    };
    place().ok_or_else(|| damaged(table, entry, "the manifest does not say where it stands"))
}

/// The data file a vector is of, and the dead positions in the vector's bytes.
fn read_vector(
    table: &TableName,
    entry: &DataFile,
    bytes: &[u8],
) -> Result<(String, RoaringBitmap), LakeError> {
    let wrong = |problem| damaged(table, entry, problem);
    let dead = decode(bytes).map_err(wrong)?;
    if dead.len() != entry.record_count() {
        return Err(wrong("it does not have the rows the metadata says"));
    }
    let data_file = entry.referenced_data_file();
    Ok((data_file.ok_or_else(|| wrong("the manifest does not say of which file it is"))?, dead))
}

fn damaged(table: &TableName, entry: &DataFile, problem: &str) -> LakeError {
    let location = entry.file_path();
    let offset = entry.content_offset().unwrap_or_default();
    LakeError::Corrupt {
        table: table.clone(),
        problem: format!("deletion vector at {offset} of \"{location}\": {problem}"),
    }
}

fn encode(dead: &RoaringBitmap) -> Vec<u8> {
    let mut dead = dead.clone();
    dead.optimize();
    let mut content = Vec::with_capacity(dead.serialized_size() + 28);
    content.extend(MAGIC);
    // One bitmap, of the positions whose upper 32 bits are zero: a data file has no others here.
    content.extend(1_u64.to_le_bytes());
    content.extend(0_u32.to_le_bytes());
    // Writing to memory does not fail.
    let _ = dead.serialize_into(&mut content);
    let checksum = crc32fast::hash(&content);
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(content.len() + 8);
    bytes.extend(length.to_be_bytes());
    bytes.extend(content);
    bytes.extend(checksum.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<RoaringBitmap, &'static str> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(FRAME)?;
    let (content, checksum) = rest.split_last_chunk::<4>().ok_or(FRAME)?;
    if u32::from_be_bytes(*length) as usize != content.len()
        || u32::from_be_bytes(*checksum) != crc32fast::hash(content)
    {
        return Err(FRAME);
    }
    let rest = content.strip_prefix(&MAGIC).ok_or(FRAME)?;
    let (count, mut rest) = rest.split_first_chunk::<8>().ok_or(FRAME)?;
    let mut dead = RoaringBitmap::new();
    for _ in 0..u64::from_le_bytes(*count) {
        let (upper, bitmap) = rest.split_first_chunk::<4>().ok_or(FRAME)?;
        rest = bitmap;
        let positions =
            RoaringBitmap::deserialize_from(&mut rest).map_err(|_| "its bitmap cannot be read")?;
        if u32::from_le_bytes(*upper) == 0 {
            dead |= positions;
        } else if !positions.is_empty() {
            return Err("it names rows beyond the 4,294,967,296 a file can have here");
        }
    }
    Ok(dead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_pinned_and_read_back() {
        let dead = RoaringBitmap::from([1, 3, 70_000]);
        let bytes = encode(&dead);
        #[rustfmt::skip]
        let pinned = [
            0, 0, 0, 46, 0xd1, 0xd3, 0x39, 0x64, // length, magic
            1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // one bitmap, upper bits 0
            0x3a, 0x30, 0, 0, 2, 0, 0, 0, // Roaring without runs, two containers
            0, 0, 1, 0, 1, 0, 0, 0, // keys and cardinalities less one
            24, 0, 0, 0, 28, 0, 0, 0, // where they begin
            1, 0, 3, 0, 0x70, 0x11, // the rows
        ];
        assert_eq!(&bytes[..bytes.len() - 4], pinned);
        assert_eq!(decode(&bytes).unwrap(), dead);
        let all = RoaringBitmap::from_iter(0..1_000_000);
        assert!(encode(&all).len() < 1_000, "runs are kept as runs");
        assert_eq!(decode(&encode(&all)).unwrap(), all);
        assert_eq!(decode(&encode(&RoaringBitmap::new())).unwrap(), RoaringBitmap::new());
    }

    #[test]
    fn damage_is_found() {
        let bytes = encode(&RoaringBitmap::from_iter((0..5_000).map(|n| n * 7)));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            assert!(decode(&damaged).is_err(), "byte {at}");
        }
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length} bytes");
        }
    }
}
