//! Whether two tables without a key have the same rows, however many, in memory of one size.

use std::hash::{BuildHasher, RandomState};

use arrow::{
    error::ArrowError,
    record_batch::RecordBatch,
    row::{RowConverter, SortField},
};
use datafusion::error::DataFusionError;
use futures::TryStreamExt;
use medlake_contract::TableSchema;

use crate::{
    error::LakeError,
    lake::Lake,
    read::{
        differences::{all, unreadable},
        rows::as_declared,
    },
};

/// So many sums are kept: the more, the fewer differences fall into one.
const SUMS: usize = 1 << 18;

/// Rows, each as often as it was added. What is kept of them is their number and the sum of their
/// digests, in parts.
pub struct Tally {
    table: TableSchema,
    converter: RowConverter,
    hashers: [RandomState; 2],
    sums: Vec<Sum>,
    rows: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    rows: i64,
    digests: u128,
}

impl std::fmt::Debug for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tally")
            .field("table", self.table.name())
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl Tally {
    /// No rows of a table.
    ///
    /// # Errors
    /// [`LakeError::Arrow`] when rows of its columns cannot be compared.
    pub fn new(table: &TableSchema) -> Result<Self, LakeError> {
        let fields = table.columns().iter().map(|c| SortField::new(c.ty.arrow()));
        let converter = RowConverter::new(fields.collect());
        Ok(Self {
            converter: converter.map_err(|source| unreadable(table, source))?,
            table: table.clone(),
            hashers: [RandomState::new(), RandomState::new()],
            sums: vec![Sum::default(); SUMS],
            rows: 0,
        })
    }

    /// Rows added.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds rows, in the table's columns.
    ///
    /// # Errors
    /// [`LakeError::Arrow`] when they have others.
    pub fn add(&mut self, rows: &RecordBatch) -> Result<(), LakeError> {
        self.rows += rows.num_rows() as u64;
        let mut sums = std::mem::take(&mut self.sums);
        let done = self.sum(&mut sums, rows, true);
        self.sums = sums;
        done.map_err(|source| unreadable(&self.table, source))
    }

    fn sum(&self, sums: &mut [Sum], rows: &RecordBatch, add: bool) -> Result<(), ArrowError> {
        let [first, second] = &self.hashers;
        for row in &self.converter.convert_columns(rows.columns())? {
            let (high, low) = (first.hash_one(row.data()), second.hash_one(row.data()));
            let digest = u128::from(high) << 64 | u128::from(low);
            let at = usize::try_from(high % SUMS as u64).unwrap_or(0);
            let Some(sum) = sums.get_mut(at) else { continue };
            let digest = if add { digest } else { digest.wrapping_neg() };
            sum.rows += if add { 1 } else { -1 };
            sum.digests = sum.digests.wrapping_add(digest);
        }
        Ok(())
    }
}

/// Rows that are in one and not in the other, at least, by what is left of the sums.
fn left(sums: &[Sum]) -> (u64, u64) {
    let none = Sum::default();
    sums.iter().filter(|sum| **sum != none).fold((0, 0), |(more, less), sum| match sum.rows {
        // As many others.
        0 => (more + 1, less + 1),
        1.. => (more + sum.rows.unsigned_abs(), less),
        _ => (more, less + sum.rows.unsigned_abs()),
    })
}

impl Lake {
    /// Compares the rows of a tally with those of its table as it is staged: how many the table lacks,
    /// and how many it has too much. Both are 0 when they are the same (but for one chance in 2^128);
    /// else they may be more than that, as only numbers and sums are compared.
    ///
    /// # Errors
    /// [`LakeError::UnknownTable`], and what goes wrong in reading.
    pub async fn against(&self, tally: &Tally) -> Result<(u64, u64), LakeError> {
        let name = tally.table.name().clone();
        let view = {
            let mut state = self.state();
            let table = state.tables.get_mut(&name);
            table.ok_or(LakeError::UnknownTable { table: name })?.view()
        };
        let mut sums = tally.sums.clone();
        let scan = async {
            let mut rows = all(&view)?.execute_stream().await?;
            while let Some(rows) = rows.try_next().await? {
                tally.sum(&mut sums, &as_declared(&rows, view.schema.arrow())?, false)?;
            }
            Ok::<_, DataFusionError>(())
        };
        scan.await.map_err(|error| unreadable(&tally.table, error.into()))?;
        Ok(left(&sums))
    }
}
