//! Digests of whole rows, for tables without a key.
//!
//! A row is written as a sequence of words (the name and the value of each column that is not null),
//! which no other row has, and the words are the coefficients of a polynomial. Its values at two
//! points of the field of 2^61 - 1 elements are the digest. Two different rows of `n` words have the
//! same digest for at most `n^2` of `2^122` pairs of points: with rows of a hundred words and a
//! hundred million rows, some two of them agree with a probability below 10^-16. The points come
//! from the table's random id, which is made before its first row. So equal digests are taken for
//! equal rows, and no row has to be read again to delete it.
//!
//! Columns that are null leave no trace, and numbers are written as their widest type, so that the
//! digest of a row stays when columns are added, moved or widened.

use arrow::{
    array::{Array, ArrayRef, ArrowPrimitiveType, AsArray},
    datatypes::{
        Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type,
        Time64MicrosecondType, TimestampMicrosecondType,
    },
    error::ArrowError,
    row::{RowConverter, SortField},
};
use medlake_contract::{ColumnType, TableSchema};

use crate::table::shards::{FixedKey, Seed};

/// 2^61 - 1, a prime.
const PRIME: u64 = (1 << 61) - 1;

/// What stands for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Digest(pub(crate) [u64; 2]);

impl FixedKey for Digest {
    fn hash_with(self, seed: Seed) -> u64 {
        let [a, b] = self.0;
        // Both are as good as random already; only their highest bits are always zero.
        (a ^ seed.a).wrapping_mul(seed.b).rotate_left(32) ^ b.wrapping_mul(seed.b)
    }
}

/// `a * k + word`, where `a` and `k` are less than the prime and `word` less than 2^56.
#[expect(clippy::cast_possible_truncation, reason = "the part taken fits")]
fn step(a: u64, k: u64, word: u64) -> u64 {
    let sum = u128::from(a) * u128::from(k) + u128::from(word);
    let folded = (sum as u64 & PRIME) + (sum >> 61) as u64;
    if folded >= PRIME { folded - PRIME } else { folded }
}

/// Digests rows of one table.
#[derive(Debug)]
pub(crate) struct RowDigests {
    points: [u64; 2],
    /// Columns in the order of their names.
    columns: Vec<DigestColumn>,
}

#[derive(Debug)]
struct DigestColumn {
    at: usize,
    name: Vec<u64>,
    ty: ColumnType,
    /// For types without an encoding of their own.
    converter: Option<RowConverter>,
}

impl RowDigests {
    pub(crate) fn new(schema: &TableSchema, seed: Seed) -> Result<Self, ArrowError> {
        let mut order: Vec<usize> = (0..schema.columns().len()).collect();
        order.sort_by_key(|&at| &schema.columns()[at].name);
        let columns = order
            .into_iter()
            .map(|at| {
                let column = &schema.columns()[at];
                let converter = if has_encoding(&column.ty) {
                    None
                } else {
                    Some(RowConverter::new(vec![SortField::new(column.ty.arrow())])?)
                };
                let name = words_of(column.name.as_bytes()).collect();
                Ok(DigestColumn { at, name, ty: column.ty.clone(), converter })
            })
            .collect::<Result<_, ArrowError>>()?;
        // The id of a table has six bits that are not random.
        Ok(Self { points: [seed.a, seed.b.rotate_left(8)].map(|p| p % PRIME), columns })
    }

    /// The digest of each row, given the table's columns.
    pub(crate) fn of_columns(&self, columns: &[ArrayRef]) -> Result<Vec<Digest>, ArrowError> {
        let mut rows = vec![[1, 1]; columns.first().map_or(0, |c| c.len())];
        for column in &self.columns {
            let array = columns.get(column.at).ok_or_else(|| {
                ArrowError::SchemaError("a column of the row is missing".to_owned())
            })?;
            self.add(column, array, &mut rows)?;
        }
        Ok(rows.into_iter().map(Digest).collect())
    }

    fn add(
        &self,
        column: &DigestColumn,
        array: &ArrayRef,
        rows: &mut [[u64; 2]],
    ) -> Result<(), ArrowError> {
        let wrong = || ArrowError::SchemaError(format!("a column is not of type {:?}", column.ty));
        match &column.ty {
            ColumnType::Boolean => {
                let values = array.as_boolean_opt().ok_or_else(wrong)?;
                self.words(column, array, rows, |at| [u64::from(values.value(at))]);
            }
            ColumnType::Int32 => self.integers::<Int32Type>(column, array, rows)?,
            ColumnType::Date => self.integers::<Date32Type>(column, array, rows)?,
            ColumnType::Int64 => self.integers::<Int64Type>(column, array, rows)?,
            ColumnType::Time => self.integers::<Time64MicrosecondType>(column, array, rows)?,
            ColumnType::TimestampMicros | ColumnType::LocalTimestampMicros => {
                self.integers::<TimestampMicrosecondType>(column, array, rows)?;
            }
            ColumnType::Float32 => {
                let values = array.as_primitive_opt::<Float32Type>().ok_or_else(wrong)?;
                self.words(column, array, rows, |at| float(f64::from(values.value(at))));
            }
            ColumnType::Float64 => {
                let values = array.as_primitive_opt::<Float64Type>().ok_or_else(wrong)?;
                self.words(column, array, rows, |at| float(values.value(at)));
            }
            ColumnType::Decimal { .. } => {
                let values = array.as_primitive_opt::<Decimal128Type>().ok_or_else(wrong)?;
                self.words(column, array, rows, |at| {
                    let bytes = values.value(at).to_le_bytes();
                    [0, 4, 8, 12].map(|from| {
                        let part = [bytes[from], bytes[from + 1], bytes[from + 2], bytes[from + 3]];
                        u64::from(u32::from_le_bytes(part))
                    })
                });
            }
            ColumnType::Utf8 => {
                let values = array.as_string_opt::<i32>().ok_or_else(wrong)?;
                self.words(column, array, rows, |at| words_of(values.value(at).as_bytes()));
            }
            ColumnType::Binary => {
                let values = array.as_binary_opt::<i32>().ok_or_else(wrong)?;
                self.words(column, array, rows, |at| words_of(values.value(at)));
            }
            ColumnType::Uuid | ColumnType::Fixed(_) => {
                let values = array.as_fixed_size_binary_opt().ok_or_else(wrong)?;
                self.words(column, array, rows, |at| words_of(values.value(at)));
            }
            _ => {
                let converter = column.converter.as_ref().ok_or_else(wrong)?;
                let values = converter.convert_columns(std::slice::from_ref(array))?;
                for (at, row) in rows.iter_mut().enumerate() {
                    if array.is_valid(at) {
                        let value = values.row(at);
                        self.absorb(row, column.name.iter().copied());
                        self.absorb(row, words_of(value.as_ref()));
                    }
                }
            }
        }
        Ok(())
    }

    fn integers<T: ArrowPrimitiveType<Native: Into<i64>>>(
        &self,
        column: &DigestColumn,
        array: &ArrayRef,
        rows: &mut [[u64; 2]],
    ) -> Result<(), ArrowError> {
        let values = array.as_primitive_opt::<T>().ok_or_else(|| {
            ArrowError::SchemaError(format!("a column is not of type {:?}", column.ty))
        })?;
        self.words(column, array, rows, |at| {
            let value: i64 = values.value(at).into();
            halves(value.cast_unsigned())
        });
        Ok(())
    }

    /// Adds the column's name and value to the rows that have one.
    fn words<W: IntoIterator<Item = u64>>(
        &self,
        column: &DigestColumn,
        array: &ArrayRef,
        rows: &mut [[u64; 2]],
        value: impl Fn(usize) -> W,
    ) {
        for (at, row) in rows.iter_mut().enumerate() {
            if array.is_valid(at) {
                self.absorb(row, column.name.iter().copied());
                self.absorb(row, value(at));
            }
        }
    }

    fn absorb(&self, row: &mut [u64; 2], words: impl IntoIterator<Item = u64>) {
        for word in words {
            row[0] = step(row[0], self.points[0], word);
            row[1] = step(row[1], self.points[1], word);
        }
    }
}

fn has_encoding(ty: &ColumnType) -> bool {
    matches!(
        ty,
        ColumnType::Boolean
            | ColumnType::Int32
            | ColumnType::Int64
            | ColumnType::Float32
            | ColumnType::Float64
            | ColumnType::Decimal { .. }
            | ColumnType::Utf8
            | ColumnType::Date
            | ColumnType::Time
            | ColumnType::TimestampMicros
            | ColumnType::LocalTimestampMicros
            | ColumnType::Uuid
            | ColumnType::Fixed(_)
            | ColumnType::Binary
    )
}

fn halves(value: u64) -> [u64; 2] {
    [value & 0xffff_ffff, value >> 32]
}

/// Zeros of both signs are the same, and so is everything that is not a number.
pub(crate) fn plain_float(value: f64) -> f64 {
    if value == 0.0 {
        0.0
    } else if value.is_nan() {
        f64::NAN
    } else {
        value
    }
}

fn float(value: f64) -> [u64; 2] {
    halves(plain_float(value).to_bits())
}

/// The length of the bytes, then the bytes, seven to a word.
fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let words = bytes.chunks(7).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    std::iter::once(bytes.len() as u64).chain(words)
}
