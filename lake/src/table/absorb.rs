//! Taking in what another program committed to a table of ours: rows it added, rows it moved to other
//! files, rows it took away.
//!
//! What was changed here and is in no file yet is newer than anything that was committed: it wins over
//! what the other program did to the same key. Between two committed rows of one key, the one that was
//! committed later wins.
//!
//! Rows of files that went and are in other files now are found beforehand, while nobody waits: their
//! files are taken over as those of a compaction are, and their index entries get a forwarding
//! address. Only what the other program added or took away goes through the index under the lock.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use roaring::RoaringBitmap;

use crate::{
    format::data_file::LakeFile,
    read::view::TableView,
    table::{
        TableState,
        forward::{Carried, Order, Replacement, Source},
        key::{KeyCodec, Keys, Location},
        ranks::RankedRows,
        segment::{Segment, SegmentData},
    },
};

/// Keys of rows of one file, in their order: the position of the first, the keys, how many.
pub(crate) type KeysAt = Vec<(u32, Keys, u32)>;

/// A data file that another program added.
pub(crate) struct Arrived {
    pub(crate) file: Arc<LakeFile>,
    /// Deleted by position already.
    pub(crate) dead: Arc<RoaringBitmap>,
    /// Of all its rows; empty for a table without a key.
    pub(crate) keys: KeysAt,
}

/// A data file of ours that another program took away, or deleted rows of.
pub(crate) struct Left {
    pub(crate) segment: u32,
    /// The dead positions that are committed now; none when the whole file went.
    pub(crate) dead: Option<Arc<RoaringBitmap>>,
    /// The positions that lived when we last committed, and do not any more.
    pub(crate) lost: RoaringBitmap,
    /// Of the lost rows, and maybe others; empty for a table without a key.
    pub(crate) keys: KeysAt,
}

/// What another program did to a table since our last commit.
#[derive(Default)]
pub(crate) struct Foreign {
    /// Files that are there still without some of their rows, and rows of files that went which are
    /// nowhere now.
    left: Vec<Left>,
    /// The files that came, in the place of those that went.
    moved: Option<(Replacement, Carried)>,
    /// Rows of these files that were nowhere before, and the keys of the files.
    fresh: Vec<(RoaringBitmap, KeysAt)>,
    /// Places in these files of rows whose key is there again at a later place.
    outdone: Vec<(usize, u32)>,
}

/// Where in the files that came the rows of a file that went are, by position.
struct Places {
    places: Vec<Option<u32>>,
    left: Left,
}

impl Foreign {
    /// What it comes to that these files went, or lost rows, and those came. `view` is the table as it
    /// was looked at.
    pub(crate) fn new(
        view: &TableView,
        codec: &KeyCodec,
        left: Vec<Left>,
        arrived: Vec<Arrived>,
    ) -> Self {
        let (gone, mut left): (Vec<Left>, Vec<Left>) =
            left.into_iter().partition(|l| l.dead.is_none());
        let segments: HashMap<u32, &Segment> = view.segments.iter().map(|s| (s.id, s)).collect();
        let rows = |segment: u32| {
            segments.get(&segment).and_then(|s| s.file()).map_or(0, |f| f.file.rows as usize)
        };
        let lost = gone.iter().map(|l| usize::try_from(l.lost.len()).unwrap_or(0)).sum();
        let mut by_key = codec.index(lost);
        let mut places: HashMap<u32, Places> = HashMap::with_capacity(gone.len());
        for left in gone {
            for (keys, at, position) in rows_at(&left.keys, &left.lost) {
                by_key.put(keys, at, Location { segment: left.segment, row: position });
            }
            let of_left = Places { places: vec![None; rows(left.segment)], left };
            places.insert(of_left.left.segment, of_left);
        }

        let mut foreign = Self::default();
        let (mut files, mut deleted) = (Vec::new(), Vec::new());
        let mut starts = Vec::new();
        let mut first_place = 0_u32;
        for Arrived { file, dead, keys } in arrived {
            starts.push(first_place);
            let mut fresh = RoaringBitmap::new();
            let mut living = RoaringBitmap::new();
            living.insert_range(0..file.rows);
            living -= &*dead;
            for (keys, at, row) in rows_at(&keys, &living) {
                let from = by_key.take(keys, at);
                let of_left = from.and_then(|from| places.get_mut(&from.segment));
                let (Some(from), Some(of_left)) = (from, of_left) else {
                    fresh.insert(row);
                    continue;
                };
                // There may be more rows of the key.
                by_key.put(keys, at, from);
                let place = &mut of_left.places[from.row as usize];
                if let Some(before) = place.replace(first_place.saturating_add(row)) {
                    let file = starts.partition_point(|start| *start <= before) - 1;
                    foreign.outdone.push((file, before - starts[file]));
                }
            }
            foreign.fresh.push((fresh, keys));
            first_place = first_place.saturating_add(file.rows);
            files.push(file);
            deleted.push(dead);
        }

        let mut sources = Vec::with_capacity(places.len());
        for (segment, Places { places, left: mut of_left }) in places {
            let nowhere: RoaringBitmap = (0..)
                .zip(&places)
                .filter(|(_, place)| place.is_none())
                .map(|(position, _)| position)
                .collect();
            let places: Vec<u32> = places.into_iter().flatten().collect();
            of_left.lost &= &nowhere;
            sources.push(Source {
                segment,
                rows: u32::try_from(places.len()).unwrap_or(u32::MAX),
                elided: segments.get(&segment).and_then(|s| s.file()?.elided.clone()),
                left_out: Arc::new(RankedRows::new(Arc::new(nowhere))),
                order: Order { first: 0, places: Some(places.into()) },
            });
            left.push(of_left);
        }
        if !(sources.is_empty() && files.is_empty()) {
            let replacement = Replacement { sources, files, deleted };
            let carried = Carried::up_to(&replacement, &view.segments);
            foreign.moved = Some((replacement, carried));
        }
        foreign.left = left;
        foreign
    }
}

/// These rows of a file: their keys, where among them, and the row.
fn rows_at<'a>(
    keys: &'a KeysAt,
    rows: &'a RoaringBitmap,
) -> impl Iterator<Item = (&'a Keys, usize, u32)> {
    keys.iter().flat_map(|(first, keys, count)| {
        let rows = rows.range(*first..first.saturating_add(*count));
        rows.map(move |row| (keys, (row - first) as usize, row))
    })
}

impl TableState {
    /// Takes in what another program committed. Doing it again changes nothing.
    ///
    /// Everything staged must be published: afterwards the present state is the next view.
    pub(crate) fn absorb(&mut self, foreign: &Foreign) {
        let files = foreign.moved.iter().flat_map(|(moved, _)| &moved.files);
        let came: BTreeSet<&str> = files.map(|f| f.location.as_str()).collect();
        let mut there = self.segments.values().filter_map(Segment::file);
        if there.any(|known| came.contains(known.file.location.as_str())) {
            return;
        }
        self.view = None;
        let nowhere = Location { segment: 0, row: 0 };
        // Keys changed here whose old row the other program moved or deleted.
        let mut changed = self.codec.index(0);
        // Without an index there is nothing to keep right: one that is built later reads the files.
        let loaded = self.index.is_some();
        let mut index = self.index.take().unwrap_or_else(|| self.codec.index(0));
        for left in &foreign.left {
            let Some(segment) = self.segments.get_mut(&left.segment) else { continue };
            for (keys, at, position) in rows_at(&left.keys, &left.lost) {
                // A row that lives is the one its key leads to.
                if segment.dead.contains(position) {
                    changed.put(keys, at, nowhere);
                } else {
                    index.take(keys, at);
                }
            }
            if let (Some(dead), SegmentData::File(file)) = (&left.dead, &mut segment.data) {
                *Arc::make_mut(&mut segment.dead) |= &**dead;
                file.committed_dead = Arc::clone(dead);
            }
        }
        let base = self.next_segment;
        if let Some((moved, carried)) = &foreign.moved {
            self.next_segment += u32::try_from(moved.files.len()).unwrap_or(u32::MAX);
            self.forwards.extend(moved.forwards(base));
            moved.relocate(&mut self.segments, base, carried.clone());
        }
        for (file, row) in &foreign.outdone {
            self.kill(Location { segment: base + u32::try_from(*file).unwrap_or(0), row: *row });
        }
        for (segment, (rows, keys)) in (base..).zip(&foreign.fresh) {
            for (keys, at, row) in rows_at(keys, rows) {
                if changed.take(keys, at).is_some() {
                    // There may be more rows of the key.
                    changed.put(keys, at, nowhere);
                    self.kill(Location { segment, row });
                    continue;
                }
                let Some(before) = index.put(keys, at, Location { segment, row }) else {
                    continue;
                };
                if self.is_hot(before) {
                    index.put(keys, at, before);
                    self.kill(Location { segment, row });
                } else {
                    self.kill(before);
                }
            }
        }
        if loaded {
            self.index = Some(index);
        }
    }

    fn is_hot(&self, at: Location) -> bool {
        self.resolve(at)
            .and_then(|at| self.segments.get(&at.segment))
            .is_some_and(|segment| matches!(segment.data, SegmentData::Hot(_)))
    }
}
