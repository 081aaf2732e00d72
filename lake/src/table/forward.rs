//! Forwarding addresses: where the rows of segments went that files took the place of.
//!
//! A key index entry names a segment and a row number. When the rows of a segment go to other files,
//! in another order or to several at once, the entries stay as they are and the table keeps an
//! address for the segment that went. So taking over a commit changes a few pointers, however many
//! rows it moved; the entries are rewritten later, all at once, and the addresses dropped.

use std::{collections::BTreeMap, sync::Arc};

use roaring::RoaringBitmap;

use crate::{
    format::data_file::LakeFile,
    table::{key::Location, segment::Segment},
};

/// Data files that take the place of segments. Their rows are numbered through in the order of the
/// files; such a number is a row's place.
#[derive(Debug, Clone)]
pub(crate) struct Replacement {
    pub(crate) sources: Vec<Source>,
    /// Empty when no row of the sources lived.
    pub(crate) files: Vec<Arc<LakeFile>>,
}

/// A segment whose living rows went to other files.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) segment: u32,
    /// How many rows went.
    pub(crate) rows: u32,
    /// As its [`FileRows::elided`](crate::table::segment::FileRows::elided) is; none for rows in memory.
    pub(crate) elided: Option<Arc<RoaringBitmap>>,
    /// What was dead when the files were written, and is not in them.
    pub(crate) left_out: Arc<RoaringBitmap>,
    pub(crate) order: Order,
}

/// The places of the living rows of a source.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// The n-th row is at place `first + n`,
    pub(crate) first: u32,
    /// or, when this is there, at the place it has for `first + n`.
    pub(crate) places: Option<Arc<[u32]>>,
}

impl Order {
    fn place(&self, n: u32) -> Option<u32> {
        let at = self.first.checked_add(n)?;
        match &self.places {
            None => Some(at),
            Some(places) => places.get(at as usize).copied(),
        }
    }
}

impl Source {
    /// Where the row at this position (of a hot segment: of this number) went; none when it was left
    /// out.
    fn place(&self, position: u32) -> Option<u32> {
        if self.left_out.contains(position) {
            return None;
        }
        let before = u32::try_from(self.left_out.rank(position)).ok()?;
        self.order.place(position.checked_sub(before)?)
    }
}

/// The files of a replacement as consecutive segments.
#[derive(Debug, Clone)]
struct Targets {
    /// The id of the first file's segment.
    base: u32,
    /// The place of the first row of each file, ascending.
    starts: Arc<[u32]>,
}

impl Targets {
    fn new(files: &[Arc<LakeFile>], base: u32) -> Self {
        let mut next = 0_u32;
        let starts = files
            .iter()
            .map(|file| {
                let start = next;
                next = next.saturating_add(file.rows);
                start
            })
            .collect();
        Self { base, starts }
    }

    fn location(&self, place: u32) -> Option<Location> {
        let file = self.starts.partition_point(|start| *start <= place).checked_sub(1)?;
        let segment = self.base.checked_add(u32::try_from(file).ok()?)?;
        Some(Location { segment, row: place - self.starts[file] })
    }
}

/// Where the rows of one segment went.
#[derive(Debug, Clone)]
pub(crate) struct Forward {
    source: Source,
    targets: Targets,
}

impl Forward {
    /// How many rows went.
    pub(crate) fn rows(&self) -> usize {
        self.source.rows as usize
    }

    /// Where the row of this number is now, if it was carried over.
    pub(crate) fn location(&self, row: u32) -> Option<Location> {
        let position = match &self.source.elided {
            None => row,
            Some(elided) => row.checked_sub(u32::try_from(elided.rank(row)).ok()?)?,
        };
        self.targets.location(self.source.place(position)?)
    }
}

impl Replacement {
    /// The address of each source, when the files are the segments from `base` on.
    pub(crate) fn forwards(&self, base: u32) -> impl Iterator<Item = (u32, Forward)> {
        let targets = Targets::new(&self.files, base);
        self.sources.iter().map(move |source| {
            (source.segment, Forward { source: source.clone(), targets: targets.clone() })
        })
    }

    /// Puts the files, as the segments from `base` on, in the place of the sources, in any picture of
    /// the table at or after the one they were written from. Rows that died since are dead in them.
    pub(crate) fn relocate(&self, segments: &mut BTreeMap<u32, Segment>, base: u32) {
        let targets = Targets::new(&self.files, base);
        let mut dead = vec![RoaringBitmap::new(); self.files.len()];
        for source in &self.sources {
            let Some(segment) = segments.remove(&source.segment) else { continue };
            let late = &*segment.dead - &*source.left_out;
            for at in late.iter().filter_map(|p| targets.location(source.place(p)?)) {
                dead[(at.segment - base) as usize].insert(at.row);
            }
        }
        for ((id, file), dead) in (base..).zip(&self.files).zip(dead) {
            let mut segment = Segment::of_file(id, Arc::clone(file), Arc::default());
            segment.dead = Arc::new(dead);
            segments.insert(id, segment);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(segment: u32, row: u32) -> Location {
        Location { segment, row }
    }

    #[test]
    fn rows_are_found_where_they_went() {
        let targets = Targets { base: 7, starts: Arc::from([0, 3, 5]) };
        let source = Source {
            segment: 2,
            rows: 5,
            elided: None,
            left_out: Arc::new(RoaringBitmap::from([1, 4])),
            order: Order { first: 0, places: Some(Arc::from([5, 0, 3, 4, 1])) },
        };
        let forward = Forward { source, targets: targets.clone() };
        // Rows 0, 2, 3, 5, 6 were written, to the places 5, 0, 3, 4, 1.
        let found: Vec<_> = (0..8).map(|row| forward.location(row)).collect();
        let expected = [
            Some(location(9, 0)),
            None,
            Some(location(7, 0)),
            Some(location(8, 0)),
            None,
            Some(location(8, 1)),
            Some(location(7, 1)),
            None,
        ];
        assert_eq!(found, expected);

        // A file that was written without its rows 0 and 3, of which positions 2 and 3 died since:
        // its rows 1, 2, 4, 5, 6 are at the positions 0 to 4.
        let source = Source {
            segment: 3,
            rows: 3,
            elided: Some(Arc::new(RoaringBitmap::from([0, 3]))),
            left_out: Arc::new(RoaringBitmap::from([2, 3])),
            order: Order { first: 2, places: None },
        };
        let forward = Forward { source, targets };
        let found = [1, 2, 4, 5, 6].map(|row| forward.location(row));
        let expected =
            [Some(location(7, 2)), Some(location(8, 0)), None, None, Some(location(8, 1))];
        assert_eq!(found, expected);
    }
}
