//! What identifies a row, and the index that finds a row by it.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Int64Array},
    datatypes::{
        DataType, Date32Type, Float32Type, Float64Type, Int32Type, Int64Type,
        Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
    },
    error::ArrowError,
    record_batch::RecordBatch,
    row::{RowConverter, Rows, SortField},
};
use medlake_contract::{ColumnType, Identity, TableSchema};

use crate::table::{
    digest::{Digest, RowDigests, plain_float},
    shards::{BytesShard, FixedKey, FixedShard, MultiShard, Seed, Shards, hash_bytes},
};

/// Where a row is: its segment and its number in it. Never changes while the segment lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Location {
    pub(crate) segment: u32,
    pub(crate) row: u32,
}

/// What identifies the rows of one batch.
pub(crate) enum Keys {
    /// A key of one column that is a whole number inside: integers, days, times.
    Int64(Int64Array),
    /// Any other key, in Arrow's row format.
    Bytes(Rows),
    /// Whole rows.
    Rows(Vec<Digest>),
    /// Rows that are never looked for.
    None,
}

impl Keys {
    /// Whether two rows have the same key. Whole rows count as different: each is there for itself.
    pub(crate) fn same(&self, row: usize, other: &Self, other_row: usize) -> bool {
        match (self, other) {
            (Self::Int64(a), Self::Int64(b)) => a.value(row) == b.value(other_row),
            (Self::Bytes(a), Self::Bytes(b)) => a.row(row).as_ref() == b.row(other_row).as_ref(),
            _ => false,
        }
    }

    /// That of one row; none when rows are never looked for.
    pub(crate) fn key(&self, row: usize) -> Option<Key<'_>> {
        match self {
            Self::Int64(keys) => Some(Key::Int64(keys.value(row))),
            Self::Bytes(keys) => Some(Key::Bytes(keys.row(row).data())),
            Self::Rows(keys) => Some(Key::Row(keys[row])),
            Self::None => None,
        }
    }
}

/// What identifies one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    Int64(i64),
    Bytes(&'a [u8]),
    Row(Digest),
}

/// What became of a row that was entered into an index that is being built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    New,
    /// It was there already.
    Again,
    /// Its key was there, in this row.
    Other(Location),
}

/// Turns rows into what identifies them.
#[derive(Debug)]
pub(crate) struct KeyCodec {
    /// The columns that are looked at, in the order they are.
    columns: Vec<usize>,
    seed: Seed,
    kind: KeyKind,
}

#[derive(Debug)]
enum KeyKind {
    Int64,
    Bytes(RowConverter),
    Rows(RowDigests),
    None,
}

impl KeyCodec {
    pub(crate) fn new(schema: &TableSchema, seed: Seed) -> Result<Self, ArrowError> {
        let columns = match schema.identity() {
            Identity::Key => schema.key_indices().to_vec(),
            Identity::FullRow => (0..schema.columns().len()).collect(),
            Identity::Append => Vec::new(),
        };
        let types: Vec<&ColumnType> = columns.iter().map(|&c| &schema.columns()[c].ty).collect();
        let kind = match (schema.identity(), types.as_slice()) {
            (Identity::Append, _) => KeyKind::None,
            (Identity::FullRow, _) => KeyKind::Rows(RowDigests::new(schema, seed)?),
            (Identity::Key, [one]) if is_whole_number(one) => KeyKind::Int64,
            (Identity::Key, _) => {
                let fields = types.iter().map(|ty| SortField::new(ty.arrow())).collect();
                KeyKind::Bytes(RowConverter::new(fields)?)
            }
        };
        Ok(Self { columns, seed, kind })
    }

    pub(crate) fn seed(&self) -> Seed {
        self.seed
    }

    /// The places in the table of the columns that identify a row, in the order
    /// [`Self::keys_of_columns`] takes them.
    pub(crate) fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// An index of the kind these keys need, with room for so many.
    pub(crate) fn index(&self, rows: usize) -> KeyIndex {
        match self.kind {
            KeyKind::Int64 => KeyIndex::Int64(Shards::with_capacity(rows, self.seed)),
            KeyKind::Bytes(_) => KeyIndex::Bytes(Shards::with_capacity(rows, self.seed)),
            KeyKind::Rows(_) => KeyIndex::Rows(Shards::with_capacity(rows, self.seed)),
            KeyKind::None => KeyIndex::None,
        }
    }

    /// Keys of all rows of a batch with the table's columns.
    pub(crate) fn keys(&self, batch: &RecordBatch) -> Result<Keys, ArrowError> {
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|&c| ArrayRef::clone(batch.column(c))).collect();
        self.keys_of_columns(&columns)
    }

    /// Keys of rows given by the columns that identify them alone.
    pub(crate) fn keys_of_columns(&self, columns: &[ArrayRef]) -> Result<Keys, ArrowError> {
        match &self.kind {
            KeyKind::Int64 => {
                columns.first().and_then(whole_numbers).map(Keys::Int64).ok_or_else(|| {
                    ArrowError::SchemaError("a key column is not a whole number".to_owned())
                })
            }
            KeyKind::Bytes(converter) => {
                let columns: Vec<ArrayRef> = columns.iter().map(plain_floats).collect();
                converter.convert_columns(&columns).map(Keys::Bytes)
            }
            KeyKind::Rows(digests) => digests.of_columns(columns).map(Keys::Rows),
            KeyKind::None => Ok(Keys::None),
        }
    }

    /// Whether every key column of a row has a value. Whole rows may have nulls.
    pub(crate) fn is_complete(&self, batch: &RecordBatch, row: usize) -> bool {
        matches!(self.kind, KeyKind::Rows(_))
            || self.columns.iter().all(|&c| batch.column(c).is_valid(row))
    }
}

fn is_whole_number(ty: &ColumnType) -> bool {
    matches!(
        ty,
        ColumnType::Int32
            | ColumnType::Int64
            | ColumnType::Date
            | ColumnType::Time
            | ColumnType::TimestampMicros
            | ColumnType::LocalTimestampMicros
    )
}

/// The values as 64-bit integers.
fn whole_numbers(array: &ArrayRef) -> Option<Int64Array> {
    fn wide<T: ArrowPrimitiveType<Native: Into<i64>>>(array: &ArrayRef) -> Option<Int64Array> {
        array.as_primitive_opt::<T>().map(|a| a.unary(Into::into))
    }
    fn as_it_is<T: ArrowPrimitiveType<Native = i64>>(array: &ArrayRef) -> Option<Int64Array> {
        array.as_primitive_opt::<T>().map(|a| a.reinterpret_cast())
    }
    match array.data_type() {
        DataType::Int32 => wide::<Int32Type>(array),
        DataType::Date32 => wide::<Date32Type>(array),
        DataType::Int64 => as_it_is::<Int64Type>(array),
        DataType::Time64(TimeUnit::Microsecond) => as_it_is::<Time64MicrosecondType>(array),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            as_it_is::<TimestampMicrosecondType>(array)
        }
        _ => None,
    }
}

/// Floating point with one zero and one value that is not a number; other columns as they are.
fn plain_floats(array: &ArrayRef) -> ArrayRef {
    #[expect(clippy::cast_possible_truncation, reason = "it was of this size before")]
    let single = |v: f32| plain_float(f64::from(v)) as f32;
    if let Some(values) = array.as_primitive_opt::<Float64Type>() {
        Arc::new(values.unary::<_, Float64Type>(plain_float))
    } else if let Some(values) = array.as_primitive_opt::<Float32Type>() {
        Arc::new(values.unary::<_, Float32Type>(single))
    } else {
        Arc::clone(array)
    }
}

/// The index of one table: where the living rows are that a key, or a row's content, stands for. A
/// cache: it can be rebuilt from the data files at any time.
#[derive(Debug)]
pub(crate) enum KeyIndex {
    /// One row a key.
    Int64(Shards<FixedShard<i64>>),
    /// One row a key.
    Bytes(Shards<BytesShard>),
    /// Any number of equal rows.
    Rows(Shards<MultiShard<Digest>>),
    /// Rows are only added: nothing to find.
    None,
}

impl KeyIndex {
    /// Makes `to` the location of the key; gives the location it had. Of whole rows there may be
    /// many: `to` is added to them.
    pub(crate) fn put(&mut self, keys: &Keys, row: usize, to: Location) -> Option<Location> {
        match self.fill(&keys.key(row)?, to) {
            Filled::Other(before) => Some(before),
            Filled::New | Filled::Again => None,
        }
    }

    /// Makes `to` the location of the key, or one of those of equal rows.
    pub(crate) fn fill(&mut self, key: &Key<'_>, to: Location) -> Filled {
        let before = match (self, *key) {
            (Self::Int64(shards), Key::Int64(key)) => {
                let seed = shards.seed;
                let hash = key.hash_with(seed);
                shards.room(hash).put(key, hash, to, seed)
            }
            (Self::Bytes(shards), Key::Bytes(key)) => {
                let seed = shards.seed;
                let hash = hash_bytes(key, seed);
                shards.room(hash).put(key, hash, to, seed)
            }
            (Self::Rows(shards), Key::Row(key)) => {
                let seed = shards.seed;
                let hash = key.hash_with(seed);
                (!shards.room(hash).put(key, hash, to, seed)).then_some(to)
            }
            _ => None,
        };
        match before {
            None => Filled::New,
            Some(before) if before == to => Filled::Again,
            Some(before) => Filled::Other(before),
        }
    }

    /// Looks at every row of one piece.
    pub(crate) fn each(&self, slice: usize, look: &mut dyn FnMut(Key<'_>, Location)) {
        match self {
            Self::Int64(shards) => {
                let shard = shards.shards().get(slice).into_iter();
                shard.flat_map(|(_, s)| s.entries()).for_each(|(k, at)| look(Key::Int64(k), at));
            }
            Self::Bytes(shards) => {
                let shard = shards.shards().get(slice).into_iter();
                shard.flat_map(|(_, s)| s.entries()).for_each(|(k, at)| look(Key::Bytes(k), at));
            }
            Self::Rows(shards) => {
                let shard = shards.shards().get(slice).into_iter();
                shard.flat_map(|(_, s)| s.entries()).for_each(|(k, at)| look(Key::Row(k), at));
            }
            Self::None => {}
        }
    }

    /// Where the row with this key is; whole rows are not looked for.
    pub(crate) fn find(&self, keys: &Keys, row: usize) -> Option<Location> {
        match (self, keys.key(row)?) {
            (Self::Int64(shards), Key::Int64(key)) => {
                let hash = key.hash_with(shards.seed);
                shards.shard(hash).find(key, hash)
            }
            (Self::Bytes(shards), Key::Bytes(key)) => {
                let hash = hash_bytes(key, shards.seed);
                shards.shard(hash).find(key, hash)
            }
            _ => None,
        }
    }

    /// Forgets the key, or one of equal rows; gives its location.
    pub(crate) fn take(&mut self, keys: &Keys, row: usize) -> Option<Location> {
        match (self, keys.key(row)?) {
            (Self::Int64(shards), Key::Int64(key)) => {
                let hash = key.hash_with(shards.seed);
                shards.shard_mut(hash).take(key, hash)
            }
            (Self::Bytes(shards), Key::Bytes(key)) => {
                let hash = hash_bytes(key, shards.seed);
                shards.shard_mut(hash).take(key, hash)
            }
            (Self::Rows(shards), Key::Row(key)) => {
                let hash = key.hash_with(shards.seed);
                shards.shard_mut(hash).take(key, hash)
            }
            _ => None,
        }
    }

    /// Makes `to` of the location `from` of the key, if it has that one.
    pub(crate) fn repoint(&mut self, keys: &Keys, row: usize, from: Location, to: Location) {
        let at = match (self, keys.key(row)) {
            (Self::Int64(shards), Some(Key::Int64(key))) => {
                let hash = key.hash_with(shards.seed);
                shards.shard_mut(hash).find_mut(key, hash)
            }
            (Self::Bytes(shards), Some(Key::Bytes(key))) => {
                let hash = hash_bytes(key, shards.seed);
                shards.shard_mut(hash).find_mut(key, hash)
            }
            (Self::Rows(shards), Some(Key::Row(key))) => {
                let hash = key.hash_with(shards.seed);
                shards.shard_mut(hash).repoint(key, hash, from, to);
                None
            }
            _ => None,
        };
        if let Some(at) = at
            && *at == from
        {
            *at = to;
        }
    }

    /// How many pieces of bounded size the index has, for a pass over it piece by piece. Changes
    /// between two pieces may add pieces at the end; an entry never moves to a piece before.
    pub(crate) fn slices(&self) -> usize {
        match self {
            Self::Int64(shards) => shards.shards().len(),
            Self::Bytes(shards) => shards.shards().len(),
            Self::Rows(shards) => shards.shards().len(),
            Self::None => 0,
        }
    }

    /// Changes every location in one piece: at most [`SHARD_KEYS`](crate::table::shards::SHARD_KEYS)
    /// keys, of whole rows any number of equal ones besides.
    pub(crate) fn relocate_slice(
        &mut self,
        slice: usize,
        to: &mut dyn FnMut(Location) -> Location,
    ) {
        match self {
            Self::Int64(shards) => shards.relocate(slice, to),
            Self::Bytes(shards) => shards.relocate(slice, to),
            Self::Rows(shards) => shards.relocate(slice, to),
            Self::None => {}
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        match self {
            Self::Int64(shards) => *shards = Shards::with_capacity(0, shards.seed),
            Self::Bytes(shards) => *shards = Shards::with_capacity(0, shards.seed),
            Self::Rows(shards) => *shards = Shards::with_capacity(0, shards.seed),
            Self::None => {}
        }
    }

    /// Rows it finds.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Int64(shards) => shards.len(),
            Self::Bytes(shards) => shards.len(),
            Self::Rows(shards) => shards.len(),
            Self::None => 0,
        }
    }

    /// Bytes of memory it takes on the heap.
    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Self::Int64(shards) => shards.memory_bytes(),
            Self::Bytes(shards) => shards.memory_bytes(),
            Self::Rows(shards) => shards.memory_bytes(),
            Self::None => 0,
        }
    }
}

#[cfg(test)]
mod tests;
