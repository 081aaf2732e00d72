use medlake_contract::{Column, ColumnType, TableSchema};

use super::*;
use crate::table::{
    key::KeyCodec,
    shards::{SHARD_KEYS, Seed},
};

fn meaning() -> Meaning {
    let column = Column::required("id", ColumnType::Int64);
    Meaning::new(Uuid::from_u128(0x1234), Identity::Key, &[(1, &column)])
}

fn index(identity: Identity, ty: ColumnType) -> KeyIndex {
    let columns = vec![Column::required("id", ty)];
    let name = "mall.t".parse().unwrap();
    let schema = match identity {
        Identity::Key => TableSchema::new(name, columns, &["id"]),
        _ => TableSchema::keyless(name, columns, identity),
    };
    KeyCodec::new(&schema.unwrap(), Seed { a: 1, b: 3 }).unwrap().index(0)
}

fn written(index: &KeyIndex, files: &[(String, u32)]) -> Vec<u8> {
    let mut bytes = start(&meaning(), files);
    for at in 0..index.slices() {
        bytes.extend(slice(index, at, &|l| (l.segment < 9).then_some((l.segment, l.row))));
    }
    bytes.extend(end());
    bytes
}

fn read(bytes: &[u8], kind: &KeyIndex) -> io::Result<Option<Vec<String>>> {
    let Some(copy) = Copy::open(bytes, &meaning())? else { return Ok(None) };
    let mut found = Vec::new();
    copy.entries(kind, |file, position, key| {
        found.push(format!("{file} {position} {key:?}"));
        Ok(())
    })?;
    found.sort();
    Ok(Some(found))
}

fn at(segment: u32, row: u32) -> Location {
    Location { segment, row }
}

fn small() -> (KeyIndex, Vec<(String, u32)>) {
    let mut index = index(Identity::Key, ColumnType::Int64);
    index.fill(&Key::Int64(-2), at(0, 7));
    index.fill(&Key::Int64(5), at(9, 1));
    (index, vec![("file:///a".to_owned(), 8)])
}

#[test]
fn the_bytes_are_these() {
    let (index, files) = small();
    let header = concat!(
        r#"{"files":[["file:///a",8]],"of":{"columns":[[1,{"name":"id","nullable":false,"#,
        r#""ty":"int64"}]],"identity":"key","table":"00000000-0000-0000-0000-000000001234"}}"#
    );
    let mut expected = b"MEDLAKEX\x01\0\0\0".to_vec();
    expected.extend([u8::try_from(header.len()).unwrap(), 0, 0, 0]);
    expected.extend([0xad, 0x61, 0x94, 0x7f]);
    expected.extend(header.as_bytes());
    // One entry of 16 bytes: file 0, position 7, key -2. The row in no file is left out.
    expected.extend([16, 0, 0, 0, 0x31, 0xa2, 0xef, 0x10]);
    expected.extend([0, 0, 0, 0, 7, 0, 0, 0, 0xfe, 255, 255, 255, 255, 255, 255, 255]);
    expected.extend([0; 8]);
    assert_eq!(written(&index, &files), expected);
}

#[test]
fn what_was_written_is_read() {
    let keys: Vec<Vec<u8>> = (0..20_000_u32).map(|n| vec![7; n as usize % 300]).collect();
    for (identity, ty) in [
        (Identity::Key, ColumnType::Date),
        (Identity::Key, ColumnType::Utf8),
        (Identity::FullRow, ColumnType::Utf8),
    ] {
        let mut index = index(identity, ty);
        for (row, bytes) in (0_u32..).zip(&keys) {
            let key = match &index {
                KeyIndex::Int64(_) => Key::Int64(i64::from(row)),
                KeyIndex::Rows(_) => Key::Row(Digest([u64::from(row % 9_000), 5])),
                _ => Key::Bytes(bytes),
            };
            index.fill(&key, at(row % 3, row));
        }
        let mut expected = Vec::new();
        for slice in 0..index.slices() {
            index.each(slice, &mut |key, at| {
                expected.push(format!("{} {} {key:?}", at.segment, at.row));
            });
        }
        expected.sort();
        assert!(index.len() < SHARD_KEYS || index.slices() > 1);
        let files: Vec<_> = ["a", "b", "c"].map(|f| (f.to_owned(), 20_000)).into();
        let bytes = written(&index, &files);
        assert_eq!(read(&bytes, &index).unwrap().unwrap(), expected);
    }
}

#[test]
fn no_damaged_byte_is_believed() {
    let (index, files) = small();
    let bytes = written(&index, &files);
    let whole = read(&bytes, &index).unwrap().unwrap();
    assert_eq!(whole, ["0 7 Int64(-2)"]);
    for at in 0..bytes.len() {
        assert!(read(&bytes[..at], &index).is_err(), "cut off at {at}");
        for bit in 0..8 {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << bit;
            let read = read(&bytes, &index);
            // Another version is none of our business.
            let version = (8..12).contains(&at);
            assert_eq!(matches!(read, Ok(None)), version, "bit {bit} of byte {at}: {read:?}");
            assert!(version || read.is_err(), "bit {bit} of byte {at}: {read:?}");
        }
    }
}

#[test]
fn a_copy_of_another_key_is_not_used() {
    let (index, files) = small();
    let bytes = written(&index, &files);
    let column = Column::required("id", ColumnType::Int64);
    let other = |meaning: Meaning| Copy::open(bytes.as_slice(), &meaning).unwrap().is_none();
    assert!(other(Meaning::new(Uuid::from_u128(1), Identity::Key, &[(1, &column)])));
    assert!(other(Meaning::new(Uuid::from_u128(0x1234), Identity::FullRow, &[(1, &column)])));
    assert!(other(Meaning::new(Uuid::from_u128(0x1234), Identity::Key, &[(2, &column)])));
    assert!(!other(meaning()));
}
