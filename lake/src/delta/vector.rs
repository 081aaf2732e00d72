//! Delta's deletion vectors: a file of bitmaps.
//!
//! Format: <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#deletion-vector-format>. A
//! version byte, then for each vector its length (big-endian), its bytes and their CRC-32
//! (big-endian). The bytes are a magic number and a 64-bit roaring bitmap in its portable form.

use deltalake_core::kernel::{DeletionVectorDescriptor, StorageType};
use roaring::{RoaringBitmap, RoaringTreemap};

const VERSION: u8 = 1;
const MAGIC: u32 = 1_681_511_377;

/// A file of deletion vectors in the making.
pub(super) struct VectorFile {
    location: String,
    bytes: Vec<u8>,
}

impl VectorFile {
    pub(super) fn new(location: String) -> Self {
        Self { location, bytes: vec![VERSION] }
    }

    /// Appends a vector; gives what a file action says of it. None when the file would outgrow the
    /// 2 GiB its offsets can name.
    pub(super) fn add(&mut self, dead: &RoaringBitmap) -> Option<DeletionVectorDescriptor> {
        let offset = i32::try_from(self.bytes.len()).ok()?;
        let mut data = MAGIC.to_le_bytes().to_vec();
        RoaringTreemap::from_bitmaps([(0, dead.clone())])
            .serialize_into(&mut data)
            .expect("memory takes any bytes");
        let size = i32::try_from(data.len()).ok()?;
        self.bytes.extend(size.to_be_bytes());
        self.bytes.extend(&data);
        self.bytes.extend(crc32fast::hash(&data).to_be_bytes());
        Some(DeletionVectorDescriptor {
            storage_type: StorageType::AbsolutePath,
            path_or_inline_dv: self.location.clone(),
            offset: Some(offset),
            size_in_bytes: size,
            cardinality: i64::try_from(dead.len()).ok()?,
        })
    }

    /// The location and the bytes; none when there is no vector.
    pub(super) fn finish(self) -> Option<(String, Vec<u8>)> {
        (self.bytes.len() > 1).then_some((self.location, self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        let mut file = VectorFile::new("file:///t/v.bin".to_owned());
        let first = file.add(&RoaringBitmap::from_iter([2, 5])).unwrap();
        let second = file.add(&RoaringBitmap::from_iter([7])).unwrap();
        let (location, bytes) = file.finish().unwrap();
        assert_eq!(first.path_or_inline_dv, location);
        assert_eq!((first.offset, first.cardinality), (Some(1), 2));
        assert_eq!(second.offset, Some(1 + 4 + first.size_in_bytes + 4));
        let expected = [
            1, 0, 0, 0, 36, 209, 211, 57, 100, // version, length, magic
            1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // one bitmap, of the high half 0
            58, 48, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 16, 0, 0, 0, 2, 0, 5, 0,
        ];
        assert_eq!(bytes[..expected.len()], expected);
        let data = &bytes[5..5 + 36];
        assert_eq!(bytes[41..45], crc32fast::hash(data).to_be_bytes());
        assert!(VectorFile::new(String::new()).finish().is_none());
    }
}
