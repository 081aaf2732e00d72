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
    table::{key::Location, ranks::RankedRows, segment::Segment},
};

/// Data files that take the place of segments. Their rows are numbered through in the order of the
/// files; such a number is a row's place.
#[derive(Debug, Clone)]
pub(crate) struct Replacement {
    pub(crate) sources: Vec<Source>,
    /// Empty when no row of the sources lived.
    pub(crate) files: Vec<Arc<LakeFile>>,
    /// Positions of each file that delete files committed with it name; nothing when there are none.
    pub(crate) deleted: Vec<Arc<RoaringBitmap>>,
}

/// A segment whose living rows went to other files.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) segment: u32,
    /// How many rows went.
    pub(crate) rows: u32,
    /// As its [`FileRows::elided`](crate::table::segment::FileRows::elided) is; none for rows in memory.
    pub(crate) elided: Option<Arc<RankedRows>>,
    /// What was dead when the files were written, and is not in them.
    pub(crate) left_out: Arc<RankedRows>,
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
        self.order.place(position.checked_sub(self.left_out.below(position))?)
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

    /// Marks the rows at places `first..first + rows` dead, however many.
    fn kill_all(&self, first: u32, rows: u32, dead: &mut [RoaringBitmap]) {
        let end = first.saturating_add(rows);
        let ends = self.starts.iter().skip(1).copied().chain([u32::MAX]);
        for ((start, next), dead) in self.starts.iter().zip(ends).zip(dead) {
            let (from, to) = (first.max(*start), end.min(next));
            if from < to {
                dead.insert_range(from - start..to - start);
            }
        }
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
            Some(elided) => row.checked_sub(elided.below(row))?,
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

    /// The places in the files, by file, of dead rows of the sources that were not left out.
    pub(crate) fn places<'a>(
        &self,
        dead: impl Fn(&Source) -> Option<&'a RoaringBitmap>,
    ) -> Vec<RoaringBitmap> {
        let mut carried = Carried::new(self);
        for source in &self.sources {
            if let Some(dead) = dead(source) {
                carried.add(source, &(dead - &**source.left_out.rows()));
            }
        }
        carried.dead
    }

    /// Puts the files, as the segments from `base` on, in the place of the sources, in any picture of
    /// the table at or after the one they were written from. Rows that died since are dead in them.
    /// `carried` is what was worked out of that before; the less is left, the quicker this is.
    pub(crate) fn relocate(
        &self,
        segments: &mut BTreeMap<u32, Segment>,
        base: u32,
        mut carried: Carried,
    ) {
        for source in &self.sources {
            if let Some(segment) = segments.remove(&source.segment) {
                carried.catch_up(source, &segment);
            }
        }
        let none = Arc::default();
        let deleted = self.deleted.iter().chain(std::iter::repeat(&none));
        for (((id, file), dead), deleted) in
            (base..).zip(&self.files).zip(carried.dead).zip(deleted)
        {
            let mut segment = Segment::of_file(id, Arc::clone(file), Arc::clone(deleted));
            segment.dead = Arc::new(dead);
            segments.insert(id, segment);
        }
    }
}

/// The rows of a replacement's files that died since the files were written, up to some picture of
/// the table. Worked out before the table is locked, so that only what died since is left to do under
/// the lock.
#[derive(Debug, Clone)]
pub(crate) struct Carried {
    targets: Targets,
    /// By source segment, what is in `dead` already or was left out.
    seen: BTreeMap<u32, Arc<RoaringBitmap>>,
    /// By file.
    dead: Vec<RoaringBitmap>,
}

impl Carried {
    /// Up to the picture the files were written from.
    fn new(replacement: &Replacement) -> Self {
        let left_out = |s: &Source| (s.segment, Arc::clone(s.left_out.rows()));
        let deleted = |file: usize| Some(replacement.deleted.get(file)?.as_ref().clone());
        Self {
            targets: Targets::new(&replacement.files, 0),
            seen: replacement.sources.iter().map(left_out).collect(),
            dead: (0..replacement.files.len()).map(|f| deleted(f).unwrap_or_default()).collect(),
        }
    }

    /// Up to a picture with these segments.
    pub(crate) fn up_to(replacement: &Replacement, segments: &[Segment]) -> Self {
        let segments: BTreeMap<u32, &Segment> = segments.iter().map(|s| (s.id, s)).collect();
        let mut carried = Self::new(replacement);
        for source in &replacement.sources {
            if let Some(segment) = segments.get(&source.segment) {
                carried.catch_up(source, segment);
            }
        }
        carried
    }

    /// Up to the picture this is the source's segment in.
    fn catch_up(&mut self, source: &Source, segment: &Segment) {
        let seen = self.seen.insert(source.segment, Arc::clone(&segment.dead));
        let seen = seen.unwrap_or_default();
        if !Arc::ptr_eq(&seen, &segment.dead) {
            self.add(source, &(&*segment.dead - &*seen));
        }
    }

    fn add(&mut self, source: &Source, dead: &RoaringBitmap) {
        if dead.len() == u64::from(source.rows) && source.order.places.is_none() {
            self.targets.kill_all(source.order.first, source.rows, &mut self.dead);
            return;
        }
        for at in dead.iter().filter_map(|p| self.targets.location(source.place(p)?)) {
            self.dead[at.segment as usize].insert(at.row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(segment: u32, row: u32) -> Location {
        Location { segment, row }
    }

    fn ranked(rows: [u32; 2]) -> Arc<RankedRows> {
        Arc::new(RankedRows::new(Arc::new(RoaringBitmap::from(rows))))
    }

    #[test]
    fn rows_are_found_where_they_went() {
        let targets = Targets { base: 7, starts: Arc::from([0, 3, 5]) };
        let source = Source {
            segment: 2,
            rows: 5,
            elided: None,
            left_out: ranked([1, 4]),
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
            elided: Some(ranked([0, 3])),
            left_out: ranked([2, 3]),
            order: Order { first: 2, places: None },
        };
        let forward = Forward { source, targets };
        let found = [1, 2, 4, 5, 6].map(|row| forward.location(row));
        let expected =
            [Some(location(7, 2)), Some(location(8, 0)), None, None, Some(location(8, 1))];
        assert_eq!(found, expected);
    }
}
