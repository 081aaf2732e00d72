//! Row numbers that were left out of a file, and how many are before a row: what the position of every
//! row that dies later is worked out with.

use std::sync::Arc;

use roaring::RoaringBitmap;

const WORD: u32 = u64::BITS;

/// An immutable set of row numbers that answers how many of it are below one in constant time. Takes
/// a bit and a half for each number up to the highest, besides the bitmap.
#[derive(Debug, Default)]
pub(crate) struct RankedRows {
    rows: Arc<RoaringBitmap>,
    /// A bit for each number.
    words: Box<[u64]>,
    /// How many are below the first number of each word.
    before: Box<[u32]>,
}

impl RankedRows {
    pub(crate) fn new(rows: Arc<RoaringBitmap>) -> Self {
        let count = rows.max().map_or(0, |max| max / WORD + 1);
        let mut words = vec![0_u64; count as usize];
        for row in &*rows {
            words[(row / WORD) as usize] |= 1 << (row % WORD);
        }
        let mut sum = 0;
        let counts = words.iter().map(|word| {
            let before = sum;
            sum += word.count_ones();
            before
        });
        Self { before: counts.collect(), words: words.into(), rows }
    }

    /// The set itself.
    pub(crate) fn rows(&self) -> &Arc<RoaringBitmap> {
        &self.rows
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    pub(crate) fn contains(&self, row: u32) -> bool {
        let word = self.words.get((row / WORD) as usize);
        word.is_some_and(|word| word >> (row % WORD) & 1 == 1)
    }

    /// How many are below the row of this number.
    pub(crate) fn below(&self, row: u32) -> u32 {
        let at = (row / WORD) as usize;
        match (self.words.get(at), self.before.get(at)) {
            (Some(word), Some(before)) => before + (word & ((1 << (row % WORD)) - 1)).count_ones(),
            // A set of 32-bit numbers that does not have all of them has fewer than 2^32.
            _ => u32::try_from(self.rows.len()).unwrap_or(u32::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_bitmap() {
        let rows = [0, 1, 62, 63, 64, 65, 127, 128, 300, 65_535, 65_536, 200_000];
        for rows in [RoaringBitmap::new(), rows.into(), (500..90_000).step_by(3).collect()] {
            let ranked = RankedRows::new(Arc::new(rows.clone()));
            assert_eq!(ranked.is_empty(), rows.is_empty());
            for row in (0..700).chain(65_000..66_000).chain(199_990..200_100).chain([u32::MAX]) {
                assert_eq!(ranked.contains(row), rows.contains(row), "{row}");
                let below = rows.rank(row) - u64::from(rows.contains(row));
                assert_eq!(u64::from(ranked.below(row)), below, "{row}");
            }
        }
    }
}
