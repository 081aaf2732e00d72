//! Building a key index: from its copy on disk, and from the key columns.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader},
    path::Path,
    sync::Arc,
};

use arrow::error::ArrowError;
use futures::TryStreamExt;

use crate::{
    error::LakeError,
    format::schema::Shape,
    table::{
        index_copy::{Copy, Meaning, damaged},
        key::{Filled, KeyCodec, KeyIndex, Keys, Location},
        segment::{Segment, SegmentData},
    },
};

/// What an index is built of: a picture of the table, taken at one moment.
pub(crate) struct IndexSource {
    pub(crate) shape: Arc<Shape>,
    pub(crate) codec: Arc<KeyCodec>,
    pub(crate) segments: Vec<Segment>,
    /// What a copy must say to be of use.
    pub(crate) meaning: Meaning,
}

/// An index and how it came to be.
pub(crate) struct BuiltIndex {
    pub(crate) index: KeyIndex,
    /// Rows that were taken from the copy.
    pub(crate) copied: usize,
    /// Rows whose key columns were read.
    pub(crate) read: usize,
}

impl IndexSource {
    /// Builds the index, with the help of the copy at `path` if there is one. Takes a core for a while.
    pub(crate) async fn build(&self, path: &Path) -> Result<BuiltIndex, LakeError> {
        let rows: u64 = self.segments.iter().map(Segment::live_rows).sum();
        let rows = usize::try_from(rows).unwrap_or(0);
        let mut index = self.codec.index(rows);
        let mut complete = match self.copied(path, &mut index) {
            Ok(complete) => complete,
            Err(error) => {
                let path = path.display();
                tracing::warn!(
                    table = %self.shape.schema().name(), %path, %error,
                    "the copy of the key index cannot be used; reading the key columns instead"
                );
                index = self.codec.index(rows);
                vec![false; self.segments.len()]
            }
        };
        let copied = index.len();
        if copied == 0 {
            complete.fill(false);
        }
        let mut read = 0;
        for (segment, complete) in self.segments.iter().zip(complete) {
            if !complete {
                read += self.read(segment, &mut index).await?;
            }
        }
        Ok(BuiltIndex { index, copied, read })
    }

    /// Fills the index from the copy; says of each segment whether all its living rows are in it.
    fn copied(&self, path: &Path, index: &mut KeyIndex) -> io::Result<Vec<bool>> {
        let mut came = vec![0_u64; self.segments.len()];
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(vec![false; self.segments.len()]);
            }
            Err(error) => return Err(error),
        };
        let Some(copy) = Copy::open(BufReader::with_capacity(1 << 20, file), &self.meaning)? else {
            return Ok(vec![false; self.segments.len()]);
        };
        let by_location: HashMap<&str, usize> = self
            .segments
            .iter()
            .enumerate()
            // A file that was flushed with rows left out counts rows and positions apart; such ones
            // are only there when the index was there.
            .filter_map(|(at, s)| {
                let file = s.file().filter(|f| f.elided.is_none())?;
                Some((file.file.location.as_str(), at))
            })
            .collect();
        let files: Vec<Option<usize>> = copy
            .files
            .iter()
            .map(|(location, rows)| {
                let at = *by_location.get(location.as_str())?;
                (self.segments[at].rows == *rows).then_some(at)
            })
            .collect();
        let kind = self.codec.index(0);
        copy.entries(&kind, |file, position, key| {
            let Some(at) = files[file] else { return Ok(()) };
            let segment = &self.segments[at];
            if segment.dead.contains(position) {
                return Ok(());
            }
            match index.fill(&key, Location { segment: segment.id, row: position }) {
                Filled::New => came[at] += 1,
                Filled::Again => {}
                Filled::Other(_) => return Err(damaged("a key is in two living rows")),
            }
            Ok(())
        })?;
        Ok(self.segments.iter().zip(came).map(|(s, came)| s.live_rows() == came).collect())
    }

    /// Fills the index from the key columns of one segment; gives the number of rows.
    async fn read(&self, segment: &Segment, index: &mut KeyIndex) -> Result<usize, LakeError> {
        match &segment.data {
            SegmentData::Hot(hot) => {
                let mut first = 0_u32;
                for batch in &hot.batches {
                    let keys = self.codec.keys(batch).map_err(|e| self.arrow_error(e))?;
                    let end = first + u32::try_from(batch.num_rows()).unwrap_or(u32::MAX);
                    self.fill(segment, index, &keys, (first..end).map(|row| (row, row)))?;
                    first = end;
                }
            }
            SegmentData::File(rows) => {
                let elided = rows.elided.clone().unwrap_or_default();
                // The numbers of the rows that are in the file, in order.
                let mut numbers = (0_u32..).filter(|row| !elided.contains(*row));
                let mut batches = rows.file.read(&self.shape, self.codec.columns()).await?;
                while let Some((first, batch)) = batches.try_next().await? {
                    let keys = self.codec.keys_of_columns(batch.columns());
                    let keys = keys.map_err(|e| self.arrow_error(e))?;
                    let end = first + u32::try_from(batch.num_rows()).unwrap_or(u32::MAX);
                    let numbers = numbers.by_ref().take(batch.num_rows());
                    self.fill(segment, index, &keys, (first..end).zip(numbers))?;
                }
            }
        }
        Ok(segment.rows as usize)
    }

    /// Enters living rows, given by what the segment's bitmap calls them and by number.
    fn fill(
        &self,
        segment: &Segment,
        index: &mut KeyIndex,
        keys: &Keys,
        rows: impl Iterator<Item = (u32, u32)>,
    ) -> Result<(), LakeError> {
        for (at, (position, row)) in rows.enumerate() {
            if segment.dead.contains(position) {
                continue;
            }
            let Some(key) = keys.key(at) else { continue };
            if let Filled::Other(other) = index.fill(&key, Location { segment: segment.id, row }) {
                let place = |id: u32| {
                    let segment = self.segments.iter().find(|s| s.id == id);
                    let file = segment.and_then(Segment::file);
                    file.map_or_else(
                        || "rows in memory".to_owned(),
                        |f| format!("file \"{}\"", f.file.location),
                    )
                };
                return Err(LakeError::Corrupt {
                    table: self.shape.schema().name().clone(),
                    problem: format!(
                        "a key is in two rows: row {} of {} and row {row} of {}",
                        other.row,
                        place(other.segment),
                        place(segment.id)
                    ),
                });
            }
        }
        Ok(())
    }

    fn arrow_error(&self, source: ArrowError) -> LakeError {
        let table = self.shape.schema().name().clone();
        LakeError::Arrow { doing: "rebuild the key index", table, source }
    }
}
