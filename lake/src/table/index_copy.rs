//! The copy of a key index on disk.
//!
//! The keys of a data file never change, and neither does a row's position in it. So the copy says,
//! for each file, which key is at which position, and is of use to any later state of the table:
//! what died since is passed over, files that went are passed over, and a file is complete exactly
//! when as many keys came in as it has living rows now. Files that are not complete are read again.
//! A copy can be old, then, or made while rows went in and out, and never leads to a wrong answer.
//!
//! The bytes, all numbers little-endian: [`MAGIC`]; the version, 4 bytes; a block with the header, as
//! JSON; blocks of entries; a block of no bytes. A block is its length, 4 bytes, its CRC-32, 4 bytes,
//! and its bytes. An entry is the file's number in the header, 4 bytes, the position in it, 4 bytes,
//! and the key: an integer of 8 bytes, or two of them for a whole row, or a length of 4 bytes and the
//! bytes.

use std::io::{self, ErrorKind, Read};

use medlake_contract::{Column, Identity};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::table::{
    digest::Digest,
    key::{Key, KeyIndex, Location},
};

const MAGIC: &[u8; 8] = b"MEDLAKEX";
const VERSION: u32 = 1;
/// No block is longer: a length above it is damage.
const MAX_BLOCK: u32 = 1 << 30;

/// What the keys of a copy mean; it is of use to a table that says exactly the same.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Meaning(Value);

impl Meaning {
    /// Of the index of a table whose rows are identified by these columns, given with field ids.
    pub(crate) fn new(table: Uuid, identity: Identity, columns: &[(i32, &Column)]) -> Self {
        Self(json!({ "table": table.to_string(), "identity": identity, "columns": columns }))
    }
}

/// The beginning of a copy: files are given by location and number of rows.
pub(crate) fn start(meaning: &Meaning, files: &[(String, u32)]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    let header = json!({ "of": meaning.0, "files": files });
    block(&mut bytes, header.to_string().as_bytes());
    bytes
}

/// The end of a copy.
pub(crate) fn end() -> Vec<u8> {
    let mut bytes = Vec::new();
    block(&mut bytes, &[]);
    bytes
}

/// The entries of one slice of an index as a block; `place` gives the number of the file and the
/// position in it, of rows that are in one of the files.
pub(crate) fn slice(
    index: &KeyIndex,
    slice: usize,
    place: &dyn Fn(Location) -> Option<(u32, u32)>,
) -> Vec<u8> {
    let mut entries = Vec::new();
    index.each(slice, &mut |key, at| {
        let Some((file, position)) = place(at) else { return };
        entries.extend(file.to_le_bytes());
        entries.extend(position.to_le_bytes());
        match key {
            Key::Int64(key) => entries.extend(key.to_le_bytes()),
            Key::Row(Digest(halves)) => entries.extend(halves.map(u64::to_le_bytes).as_flattened()),
            Key::Bytes(key) => {
                entries.extend(u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
                entries.extend(key);
            }
        }
    });
    let mut bytes = Vec::with_capacity(entries.len() + 8);
    if !entries.is_empty() {
        block(&mut bytes, &entries);
    }
    bytes
}

fn block(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    to.extend(crc32fast::hash(bytes).to_le_bytes());
    to.extend(bytes);
}

/// A copy that is being read.
pub(crate) struct Copy<R> {
    from: R,
    /// The files the entries name, with their numbers of rows.
    pub(crate) files: Vec<(String, u32)>,
}

impl<R: Read> Copy<R> {
    /// Reads the beginning. None when it is of another version or means something else.
    ///
    /// # Errors
    /// Of kind `InvalidData` or `UnexpectedEof` when it is damaged.
    pub(crate) fn open(mut from: R, meaning: &Meaning) -> io::Result<Option<Self>> {
        let mut magic = [0; 8];
        from.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(damaged("it does not begin as one"));
        }
        if read_u32(&mut from)? != VERSION {
            return Ok(None);
        }
        let header: Value = serde_json::from_slice(&read_block(&mut from)?)?;
        if header["of"] != meaning.0 {
            return Ok(None);
        }
        let files = serde_json::from_value(header["files"].clone())?;
        Ok(Some(Self { from, files }))
    }

    /// Reads all entries: the number of the file, the position in it, the key.
    pub(crate) fn entries(
        mut self,
        kind: &KeyIndex,
        mut each: impl FnMut(usize, u32, Key<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            let block = read_block(&mut self.from)?;
            if block.is_empty() {
                return Ok(());
            }
            let mut rest = block.as_slice();
            while !rest.is_empty() {
                let file = u32::from_le_bytes(take(&mut rest)?) as usize;
                let position = u32::from_le_bytes(take(&mut rest)?);
                let rows = self.files.get(file).map_or(0, |(_, rows)| *rows);
                if position >= rows {
                    return Err(damaged("an entry names a row that no file has"));
                }
                let key = match kind {
                    KeyIndex::Int64(_) => Key::Int64(i64::from_le_bytes(take(&mut rest)?)),
                    KeyIndex::Rows(_) => Key::Row(Digest([
                        u64::from_le_bytes(take(&mut rest)?),
                        u64::from_le_bytes(take(&mut rest)?),
                    ])),
                    KeyIndex::Bytes(_) => {
                        let length = u32::from_le_bytes(take(&mut rest)?) as usize;
                        let (key, after) = rest
                            .split_at_checked(length)
                            .ok_or_else(|| damaged("a key ends too early"))?;
                        rest = after;
                        Key::Bytes(key)
                    }
                    KeyIndex::None => return Err(damaged("there are no keys")),
                };
                each(file, position, key)?;
            }
        }
    }
}

pub(crate) fn damaged(problem: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, problem)
}

fn take<const N: usize>(from: &mut &[u8]) -> io::Result<[u8; N]> {
    let (head, rest) =
        from.split_first_chunk::<N>().ok_or_else(|| damaged("an entry ends too early"))?;
    *from = rest;
    Ok(*head)
}

fn read_u32(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn read_block(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let length = read_u32(from)?;
    let checksum = read_u32(from)?;
    if length > MAX_BLOCK {
        return Err(damaged("a block is too long"));
    }
    let mut bytes = Vec::new();
    let read = from.take(u64::from(length)).read_to_end(&mut bytes)?;
    if read < length as usize {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    if crc32fast::hash(&bytes) != checksum {
        return Err(damaged("a block does not have its checksum"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
