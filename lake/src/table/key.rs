//! Keys of rows and the index that finds a row by its key.

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array},
    datatypes::Int64Type,
    error::ArrowError,
    record_batch::RecordBatch,
    row::{RowConverter, Rows, SortField},
};
use hashbrown::HashMap;
use medlake_contract::{ColumnType, TableSchema};

/// Where a row is: its segment and its number in it. Never changes while the segment lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) segment: u32,
    pub(crate) row: u32,
}

/// The keys of the rows of one batch.
pub(crate) enum Keys {
    Int64(Int64Array),
    Bytes(Rows),
}

impl Keys {
    /// Whether two rows have the same key.
    pub(crate) fn same(&self, row: usize, other: &Self, other_row: usize) -> bool {
        match (self, other) {
            (Self::Int64(a), Self::Int64(b)) => a.value(row) == b.value(other_row),
            (Self::Bytes(a), Self::Bytes(b)) => a.row(row).as_ref() == b.row(other_row).as_ref(),
            _ => false,
        }
    }
}

/// Turns key columns into keys: a single Int64 stays as it is, anything else becomes Arrow's row
/// format.
#[derive(Debug)]
pub(crate) struct KeyCodec {
    columns: Vec<usize>,
    converter: Option<RowConverter>,
}

impl KeyCodec {
    pub(crate) fn new(schema: &TableSchema) -> Result<Self, ArrowError> {
        let columns = schema.key_indices().to_vec();
        let types: Vec<&ColumnType> = columns.iter().map(|&c| &schema.columns()[c].ty).collect();
        let converter = if types == [&ColumnType::Int64] {
            None
        } else {
            let fields = types.iter().map(|ty| SortField::new(ty.arrow())).collect();
            Some(RowConverter::new(fields)?)
        };
        Ok(Self { columns, converter })
    }

    /// The places of the key columns in the table, in key order.
    pub(crate) fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// An index of the kind these keys need.
    pub(crate) fn empty_index(&self) -> KeyIndex {
        match self.converter {
            None => KeyIndex::Int64(HashMap::new()),
            Some(_) => KeyIndex::Bytes { map: HashMap::new(), key_bytes: 0 },
        }
    }

    /// Keys of all rows of a batch with the table's columns.
    pub(crate) fn keys(&self, batch: &RecordBatch) -> Result<Keys, ArrowError> {
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|&c| ArrayRef::clone(batch.column(c))).collect();
        self.keys_of_columns(&columns)
    }

    /// Keys of rows given by their key columns alone, in key order.
    pub(crate) fn keys_of_columns(&self, columns: &[ArrayRef]) -> Result<Keys, ArrowError> {
        match &self.converter {
            None => columns
                .first()
                .and_then(|c| c.as_primitive_opt::<Int64Type>())
                .map(|array| Keys::Int64(array.clone()))
                .ok_or_else(|| {
                    ArrowError::SchemaError("a key column is not of type Int64".to_owned())
                }),
            Some(converter) => converter.convert_columns(columns).map(Keys::Bytes),
        }
    }

    /// Whether every key column of a row has a value.
    pub(crate) fn is_complete(&self, batch: &RecordBatch, row: usize) -> bool {
        self.columns.iter().all(|&c| batch.column(c).is_valid(row))
    }
}

/// The primary-key index of one table: which location holds the living row of a key. A cache: it
/// can be rebuilt from the key columns at any time.
#[derive(Debug)]
pub(crate) enum KeyIndex {
    Int64(HashMap<i64, Location>),
    Bytes { map: HashMap<Box<[u8]>, Location>, key_bytes: usize },
}

impl KeyIndex {
    /// Makes `to` the location of the key; gives the location it had.
    pub(crate) fn put(&mut self, keys: &Keys, row: usize, to: Location) -> Option<Location> {
        match (self, keys) {
            (Self::Int64(map), Keys::Int64(keys)) => map.insert(keys.value(row), to),
            (Self::Bytes { map, key_bytes }, Keys::Bytes(keys)) => {
                let key = keys.row(row);
                let key: &[u8] = key.as_ref();
                if let Some(at) = map.get_mut(key) {
                    return Some(std::mem::replace(at, to));
                }
                *key_bytes += key.len();
                map.insert(key.into(), to);
                None
            }
            _ => None,
        }
    }

    /// Forgets the key; gives the location it had.
    pub(crate) fn take(&mut self, keys: &Keys, row: usize) -> Option<Location> {
        match (self, keys) {
            (Self::Int64(map), Keys::Int64(keys)) => map.remove(&keys.value(row)),
            (Self::Bytes { map, key_bytes }, Keys::Bytes(keys)) => {
                let key = keys.row(row);
                let key: &[u8] = key.as_ref();
                let gone = map.remove(key);
                if gone.is_some() {
                    *key_bytes -= key.len();
                }
                gone
            }
            _ => None,
        }
    }

    /// Moves every entry to where `to` says its row is.
    pub(crate) fn relocate(&mut self, to: impl Fn(Location) -> Location) {
        match self {
            Self::Int64(map) => map.values_mut().for_each(|at| *at = to(*at)),
            Self::Bytes { map, .. } => map.values_mut().for_each(|at| *at = to(*at)),
        }
    }

    /// Forgets all keys.
    pub(crate) fn clear(&mut self) {
        match self {
            Self::Int64(map) => map.clear(),
            Self::Bytes { map, key_bytes } => {
                map.clear();
                *key_bytes = 0;
            }
        }
    }

    /// Makes room for more keys.
    pub(crate) fn reserve(&mut self, more: usize) {
        match self {
            Self::Int64(map) => map.reserve(more),
            Self::Bytes { map, .. } => map.reserve(more),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Int64(map) => map.len(),
            Self::Bytes { map, .. } => map.len(),
        }
    }

    /// Bytes of memory it takes; for keys of bytes, 16 are counted for each allocation's overhead.
    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Self::Int64(map) => map.allocation_size(),
            Self::Bytes { map, key_bytes } => map.allocation_size() + key_bytes + map.len() * 16,
        }
    }
}
