//! What changed in a table between two cuts.
//!
//! Segments that both cuts have differ by their bitmaps of dead rows, and nothing of them is read
//! but the rows that went or came. All living rows of a segment that only one cut has are candidates;
//! equal rows that went and came cancel each other, so that neither a flush nor a compaction is a
//! change.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState},
    sync::Arc,
};

use arrow::{
    array::{BooleanArray, UInt32Array, new_null_array},
    compute::{
        BatchCoalescer, concat_batches, filter_record_batch, interleave_record_batch,
        take_record_batch,
    },
    error::ArrowError,
    record_batch::RecordBatch,
    row::{Row, RowConverter, Rows, SortField},
};
use futures::{
    Stream, StreamExt, TryFutureExt, TryStreamExt,
    stream::{BoxStream, iter, try_unfold},
};
use hashbrown::{HashMap, hash_map::Entry};
use medlake_contract::{ChangeBatch, Identity, Op, TableName, TableSchema};
use roaring::RoaringBitmap;
use tokio::task::coop::consume_budget;

use crate::{
    error::LakeError,
    format::{adapt::Adapter, schema::Shape},
    read::view::{ReadView, TableView},
    table::segment::{FileRows, Segment, SegmentData},
};

/// Changes of one table, as they are found.
pub type ChangeStream = BoxStream<'static, Result<ChangeBatch, LakeError>>;

type RowStream = BoxStream<'static, Result<RecordBatch, LakeError>>;

/// Rows that went are held in memory, this many bytes at a time (by estimate); for more of them, rows
/// are first cancelled by digest, and then both sides are read again for each share of what is left.
const HELD_BYTES: u64 = 64 << 20;
/// What a held row costs besides its values.
const ROW_BYTES: u64 = 128;
/// What a row costs of which only a digest and the place are held.
const DIGEST_BYTES: u64 = 56;
/// Rows of a batch that is held, and of a batch of deletes.
const BATCH_ROWS: usize = 8_192;

impl ReadView {
    /// The changes that make the rows `table` had in the cut `from` the rows it has in this one: rows
    /// inserted, deleted, and updated with the row before and after, all with the columns the table
    /// has in this view. Each row that differs occurs once, whatever happened to it in between; for a
    /// table without a key there are no updates, only rows that went and rows that came. A new column
    /// changes no row. In no order.
    ///
    /// Both may be views of the lake, of a follower, or of the past; asked the other way round, the
    /// changes undo themselves, as long as no column was widened in between. Memory is bounded: about
    /// 64 MB are held at a time, and where more was rewritten in between, it is read several times.
    /// Whoever polls the stream decodes files and compares rows. Why so: `docs/decisions/0018`.
    ///
    /// # Errors
    /// [`LakeError::UnknownTable`], or [`LakeError::LeftOut`] with the reason, such as a snapshot that
    /// has expired; what goes wrong in reading is told by the stream.
    pub fn changes_since(&self, from: &Self, table: &TableName) -> Result<ChangeStream, LakeError> {
        let after = self.picture(table)?;
        let before = match from.picture(table) {
            Err(LakeError::UnknownTable { .. }) => {
                Arc::new(TableView::new(Arc::clone(&after.shape), Vec::new()))
            }
            before => Arc::clone(before?),
        };
        // Then rows in memory are known by the ids of their segments.
        let one_lake = Arc::ptr_eq(&self.past.holds, &from.past.holds);
        Ok(compare(before, Arc::clone(after), one_lake, HELD_BYTES)?.0)
    }
}

/// The changes from a picture of the past to another picture of the same table, and about how many
/// bytes of rows are held in memory meanwhile.
pub(crate) fn changes(
    before: Arc<TableView>,
    after: Arc<TableView>,
) -> Result<(ChangeStream, u64), LakeError> {
    compare(before, after, false, HELD_BYTES)
}

/// The changes from one picture of a table to another. `one_lake` says that both are of one process
/// and one lake; about `held_bytes` of rows are held at a time.
pub(crate) fn compare(
    before: Arc<TableView>,
    after: Arc<TableView>,
    one_lake: bool,
    held_bytes: u64,
) -> Result<(ChangeStream, u64), LakeError> {
    let by_id = one_lake && !after.is_past() && !before.is_past();
    let (gone, came) = candidates(&before.segments, &after.segments, by_id);
    let schema = &after.schema;
    let wrong = arrow_error(schema.name());
    let converter = |columns: &[usize]| {
        let fields = columns.iter().map(|&c| SortField::new(schema.columns()[c].ty.arrow()));
        RowConverter::new(fields.collect()).map(Arc::new).map_err(&wrong)
    };
    let all: Vec<usize> = (0..schema.columns().len()).collect();
    let (key, rows) = match schema.identity() {
        Identity::Key => (schema.key_indices().to_vec(), Some(converter(&all)?)),
        Identity::FullRow | Identity::Append => (all, None),
    };
    let adapter = if Arc::ptr_eq(&before.shape, &after.shape) {
        None
    } else {
        Some(Arc::new(Adapter::between(&before.shape, &after.shape)?))
    };
    let held = bytes(&gone);
    let comparison = Comparison {
        shape: Arc::clone(&after.shape),
        adapter,
        keys: converter(&key)?,
        key,
        rows,
        gone,
        came,
        parts: held.div_ceil(held_bytes).max(1),
        _views: [before, after],
    };
    let changes = async move {
        let mut comparison = Arc::new(comparison);
        if comparison.parts > 1 {
            comparison = comparison.without_moved(held_bytes).await?;
        }
        let parts = iter((0..comparison.parts).map(Ok));
        Ok(parts.and_then(move |part| Arc::clone(&comparison).part(part)).try_flatten())
    };
    Ok((changes.try_flatten_stream().boxed(), held.min(held_bytes)))
}

/// An estimate of what the rows of these pieces take while they are held.
fn bytes(pieces: &[Arc<Piece>]) -> u64 {
    pieces.iter().map(|piece| piece.bytes() + piece.rows.len() * ROW_BYTES).sum()
}

fn arrow_error(table: &TableName) -> impl Fn(ArrowError) -> LakeError + use<> {
    let table = table.clone();
    move |source| LakeError::Arrow { doing: "compare rows", table: table.clone(), source }
}

/// Rows of one segment.
struct Piece {
    segment: Segment,
    /// Row numbers in memory, positions in a file.
    rows: RoaringBitmap,
}

impl Piece {
    fn new(segment: &Segment, rows: RoaringBitmap) -> Option<Arc<Self>> {
        (!rows.is_empty()).then(|| Arc::new(Self { segment: segment.clone(), rows }))
    }

    /// An estimate of what its rows take in memory.
    fn bytes(&self) -> u64 {
        let (bytes, rows) = match &self.segment.data {
            SegmentData::Hot(hot) => (hot.bytes as u64, self.segment.rows),
            // Compressed; four times as much when it is read.
            SegmentData::File(file) => (file.file.bytes.saturating_mul(4), file.file.rows),
        };
        (bytes / u64::from(rows.max(1))).saturating_mul(self.rows.len())
    }
}

/// The living rows of a segment.
fn living(segment: &Segment) -> RoaringBitmap {
    let all = match &segment.data {
        SegmentData::Hot(_) => segment.rows,
        SegmentData::File(file) => file.file.rows,
    };
    let mut rows = RoaringBitmap::new();
    rows.insert_range(0..all);
    rows - &*segment.dead
}

/// The rows that only one of two pictures has, by place: those that went and those that came. `by_id`
/// says that rows in memory keep the ids of their segments from one to the other.
fn candidates(
    before: &[Segment],
    after: &[Segment],
    by_id: bool,
) -> (Vec<Arc<Piece>>, Vec<Arc<Piece>>) {
    let places = || after.iter().enumerate();
    let files: HashMap<&str, usize> =
        places().filter_map(|(at, s)| Some((s.file()?.file.location.as_str(), at))).collect();
    let ids: HashMap<u32, usize> =
        places().filter(|_| by_id).map(|(at, segment)| (segment.id, at)).collect();
    let (mut gone, mut came) = (Vec::new(), Vec::new());
    let mut met = vec![false; after.len()];
    for old in before {
        let same_file = old.file().and_then(|f| files.get(f.file.location.as_str()));
        let partner = same_file.or_else(|| ids.get(&old.id)).copied();
        let partner = partner.and_then(|at| Some((at, after.get(at)?)));
        let (old_rows, differing) = (living(old), |new| differing(old, new));
        match partner.and_then(|(at, new)| Some((at, new, differing(new)?))) {
            None => gone.extend(Piece::new(old, old_rows)),
            Some((at, new, (went, arrived))) => {
                met[at] = true;
                gone.extend(Piece::new(old, went));
                came.extend(Piece::new(new, arrived));
            }
        }
    }
    for (new, _) in after.iter().zip(met).filter(|(_, met)| !met) {
        came.extend(Piece::new(new, living(new)));
    }
    (gone, came)
}

/// The living rows that only one of two pictures of a segment has; none when they are different
/// segments.
fn differing(old: &Segment, new: &Segment) -> Option<(RoaringBitmap, RoaringBitmap)> {
    let (old_rows, new_rows) = (living(old), living(new));
    Some(match (&old.data, &new.data) {
        (SegmentData::Hot(_), SegmentData::File(file)) => across(&old_rows, &new_rows, file),
        (SegmentData::File(file), SegmentData::Hot(_)) => {
            let (arrived, went) = across(&new_rows, &old_rows, file);
            (went, arrived)
        }
        (SegmentData::File(a), SegmentData::File(b)) if a.file.location != b.file.location => {
            return None;
        }
        _ => (&old_rows - &new_rows, &new_rows - &old_rows),
    })
}

/// Rows in memory that the file written from them does not have (any more), and positions in the
/// file that are not among the rows.
fn across(
    rows: &RoaringBitmap,
    positions: &RoaringBitmap,
    file: &FileRows,
) -> (RoaringBitmap, RoaringBitmap) {
    let (mut only_rows, mut shared) = (RoaringBitmap::new(), RoaringBitmap::new());
    for row in rows {
        let elided = file.elided.as_ref().is_some_and(|elided| elided.contains(row));
        let position = file.position(row);
        if elided || !positions.contains(position) {
            only_rows.insert(row);
        } else {
            shared.insert(position);
        }
    }
    (only_rows, positions - &shared)
}

/// What is to be compared, and how.
#[derive(Clone)]
struct Comparison {
    /// Of the newer picture.
    shape: Arc<Shape>,
    /// For rows in memory of the older one.
    adapter: Option<Arc<Adapter>>,
    /// The columns that make a row the same row.
    key: Vec<usize>,
    keys: Arc<RowConverter>,
    /// Of all columns, where these are not the key anyway.
    rows: Option<Arc<RowConverter>>,
    gone: Vec<Arc<Piece>>,
    came: Vec<Arc<Piece>>,
    /// Rows are dealt out to this many parts by the hash of their key.
    parts: u64,
    /// Keeps the files.
    _views: [Arc<TableView>; 2],
}

impl Comparison {
    fn schema(&self) -> &Arc<TableSchema> {
        self.shape.schema()
    }

    /// The changes of the rows of one part.
    async fn part(
        self: Arc<Self>,
        part: u64,
    ) -> Result<impl Stream<Item = Result<ChangeBatch, LakeError>>, LakeError> {
        let held = self.hold(part).await?;
        let came = self.read(&self.came, false).fuse().boxed();
        let part = Part { comparison: self, part, held, came };
        Ok(try_unfold(
            part,
            |mut part| async move { Ok(part.next().await?.map(|batch| (batch, part))) },
        ))
    }

    /// The rows of all pieces, one after the other, with the columns of the newer picture.
    fn read(self: &Arc<Self>, pieces: &[Arc<Piece>], older: bool) -> RowStream {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Arc::clone(piece))).collect();
        let comparison = Arc::clone(self);
        let read = move |piece: Arc<Piece>| {
            let comparison = Arc::clone(&comparison);
            async move {
                let batches = match &piece.segment.data {
                    SegmentData::File(file) => {
                        return file.file.read_rows(&comparison.shape, &piece.rows).await;
                    }
                    SegmentData::Hot(hot) => hot.batches.clone(),
                };
                let mut first = 0_u32;
                let rows = move |batch: Arc<RecordBatch>| {
                    let start = first;
                    first += u32::try_from(batch.num_rows()).unwrap_or(u32::MAX);
                    let wanted = (start..first).map(|row| Some(piece.rows.contains(row))).collect();
                    comparison.pick(&batch, &wanted, older)
                };
                Ok(iter(batches).map(rows).boxed())
            }
        };
        iter(pieces).and_then(read).try_flatten().boxed()
    }

    /// Some rows of a batch in memory.
    fn pick(
        &self,
        batch: &RecordBatch,
        wanted: &BooleanArray,
        older: bool,
    ) -> Result<RecordBatch, LakeError> {
        let rows = filter_record_batch(batch, wanted);
        let adapter = self.adapter.as_ref().filter(|_| older);
        rows.and_then(|rows| adapter.map_or(Ok(rows.clone()), |adapter| adapter.adapt(&rows)))
            .map_err(arrow_error(self.schema().name()))
    }

    /// The keys of a batch's rows, and which of them are of this part.
    fn keys(&self, batch: &RecordBatch, part: u64) -> Result<(Rows, BooleanArray), LakeError> {
        let columns: Vec<_> = self.key.iter().map(|&c| Arc::clone(batch.column(c))).collect();
        let keys =
            self.keys.convert_columns(&columns).map_err(arrow_error(self.schema().name()))?;
        let hasher = BuildHasherDefault::<DefaultHasher>::new();
        let own = |row| self.parts == 1 || hasher.hash_one(keys.row(row)) % self.parts == part;
        let own = (0..batch.num_rows()).map(|row| Some(own(row))).collect();
        Ok((keys, own))
    }

    /// Reads the rows of a part that went.
    async fn hold(self: &Arc<Self>, part: u64) -> Result<Held, LakeError> {
        let wrong = arrow_error(self.schema().name());
        let mut batches = BatchCoalescer::new(Arc::clone(self.schema().arrow()), BATCH_ROWS);
        let mut held = Held::default();
        let mut gone = self.read(&self.gone, true);
        let mut place = 0;
        while let Some(batch) = gone.try_next().await? {
            // There may be many before there is something to give: whoever waits wants to be asked
            // now and then whether he still does.
            consume_budget().await;
            let (keys, own) = self.keys(&batch, part)?;
            for (row, _) in own.values().iter().enumerate().filter(|(_, own)| *own) {
                held.by_key.entry(Box::from(keys.row(row).data())).or_default().push(place);
                place += 1;
            }
            batches.push_batch_with_filter(batch, &own).map_err(&wrong)?;
        }
        batches.finish_buffered_batch().map_err(&wrong)?;
        held.batches.extend(std::iter::from_fn(|| batches.next_completed_batch()));
        Ok(held)
    }

    /// Rows that came: new ones, and those that take the place of one that went.
    fn compare(
        &self,
        held: &mut Held,
        batch: &RecordBatch,
        part: u64,
    ) -> Result<Option<ChangeBatch>, LakeError> {
        let wrong = arrow_error(self.schema().name());
        let (keys, own) = self.keys(batch, part)?;
        let (mut new, mut again, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (row, _) in own.values().iter().enumerate().filter(|(_, own)| *own) {
            let number = u32::try_from(row).unwrap_or(u32::MAX);
            match held.by_key.get_mut(keys.row(row).data()).and_then(Vec::pop) {
                Some(place) => {
                    again.push(number);
                    places.push(place);
                }
                None => new.push(number),
            }
        }
        let take = |rows: &[u32]| {
            take_record_batch(batch, &UInt32Array::from(rows.to_vec())).map_err(&wrong)
        };
        let mut before = None;
        match &self.rows {
            // The same rows.
            None => again.clear(),
            Some(_) if again.is_empty() => {}
            Some(rows) => {
                let (old, after) = (held.pick(&places).map_err(&wrong)?, take(&again)?);
                let a = rows.convert_columns(old.columns()).map_err(&wrong)?;
                let b = rows.convert_columns(after.columns()).map_err(&wrong)?;
                let differs: BooleanArray =
                    a.iter().zip(b.iter()).map(|(a, b)| Some(a != b)).collect();
                let mut differing = differs.values().iter();
                again.retain(|_| differing.next() == Some(true));
                before = Some(filter_record_batch(&old, &differs).map_err(&wrong)?);
            }
        }
        if again.is_empty() && new.is_empty() {
            return Ok(None);
        }
        let mut ops = vec![Op::Update; again.len()];
        ops.resize(again.len() + new.len(), Op::Insert);
        again.append(&mut new);
        let after = take(&again)?;
        self.batch(ops, before, Some(after)).map(Some)
    }

    /// A batch of changes; rows that an image lacks at its end are null.
    fn batch(
        &self,
        ops: Vec<Op>,
        before: Option<RecordBatch>,
        after: Option<RecordBatch>,
    ) -> Result<ChangeBatch, LakeError> {
        let wrong = arrow_error(self.schema().name());
        let nullable = self.schema().arrow_nullable();
        let image = |rows: Option<RecordBatch>| {
            let missing = ops.len() - rows.as_ref().map_or(0, RecordBatch::num_rows);
            let columns = self.schema().columns().iter();
            let nulls = columns.map(|c| new_null_array(&c.ty.arrow(), missing)).collect();
            let nulls = RecordBatch::try_new(Arc::clone(nullable), nulls)?;
            let Some(rows) = rows else { return Ok(nulls) };
            let rows = RecordBatch::try_new(Arc::clone(nullable), rows.columns().to_vec())?;
            if missing == 0 { Ok(rows) } else { concat_batches(nullable, [&rows, &nulls]) }
        };
        let (before, after) = (image(before).map_err(&wrong)?, image(after).map_err(&wrong)?);
        ChangeBatch::new(Arc::clone(self.schema()), ops, before, after).map_err(|error| {
            LakeError::Corrupt { table: self.schema().name().clone(), problem: error.to_string() }
        })
    }
}

/// What stands for a whole row: two hashes with keys of their own. Two different rows out of a billion
/// have the same by a chance of one in 10^20.
type Digest = [u64; 2];

/// Which piece a row is of, and its number or position in it.
type Place = (usize, u32);

/// The places of all rows of some pieces, in the order they are read in.
fn places(pieces: &[Arc<Piece>]) -> impl Iterator<Item = Place> {
    let pieces = pieces.iter().enumerate();
    pieces.flat_map(|(at, piece)| piece.rows.iter().map(move |row| (at, row)))
}

impl Comparison {
    /// The same without the rows that are on both sides. Where much was rewritten, that is nearly all
    /// of them, and a digest of a row takes much less room than its values.
    async fn without_moved(self: Arc<Self>, held_bytes: u64) -> Result<Arc<Self>, LakeError> {
        let count: u64 = self.gone.iter().map(|piece| piece.rows.len()).sum();
        let passes = (count * DIGEST_BYTES).div_ceil(held_bytes).max(1);
        let hashers = [RandomState::new(), RandomState::new()];
        let mut gone_left = vec![RoaringBitmap::new(); self.gone.len()];
        let mut came_left = vec![RoaringBitmap::new(); self.came.len()];
        for pass in 0..passes {
            let digests = |batch: &RecordBatch| self.digests(batch, &hashers, passes, pass);
            let mut gone: HashMap<Digest, Place> = HashMap::new();
            // Equal rows beyond the first.
            let mut more: HashMap<Digest, Vec<Place>> = HashMap::new();
            let mut rows = self.read(&self.gone, true);
            let mut place = places(&self.gone);
            while let Some(batch) = rows.try_next().await? {
                consume_budget().await;
                for (digest, place) in digests(&batch)?.into_iter().zip(&mut place) {
                    match digest.map(|digest| gone.entry(digest)) {
                        None => {}
                        Some(Entry::Vacant(entry)) => {
                            entry.insert(place);
                        }
                        Some(Entry::Occupied(entry)) => {
                            more.entry(*entry.key()).or_default().push(place);
                        }
                    }
                }
            }
            let mut rows = self.read(&self.came, false);
            let mut place = places(&self.came);
            while let Some(batch) = rows.try_next().await? {
                consume_budget().await;
                for (digest, (at, row)) in digests(&batch)?.into_iter().zip(&mut place) {
                    let Some(digest) = digest else { continue };
                    let another = more.get_mut(&digest).and_then(Vec::pop);
                    if another.or_else(|| gone.remove(&digest)).is_none() {
                        came_left[at].insert(row);
                    }
                }
            }
            for (at, row) in gone.into_values().chain(more.into_values().flatten()) {
                gone_left[at].insert(row);
            }
        }
        let left = |pieces: &[Arc<Piece>], left: Vec<RoaringBitmap>| {
            let left = pieces.iter().zip(left);
            left.filter_map(|(piece, rows)| Piece::new(&piece.segment, rows)).collect::<Vec<_>>()
        };
        let (gone, came) = (left(&self.gone, gone_left), left(&self.came, came_left));
        let parts = bytes(&gone).div_ceil(held_bytes).max(1);
        Ok(Arc::new(Self { gone, came, parts, ..Self::clone(&self) }))
    }

    /// The digest of each row that is of this pass.
    fn digests(
        &self,
        batch: &RecordBatch,
        [first, second]: &[RandomState; 2],
        passes: u64,
        pass: u64,
    ) -> Result<Vec<Option<Digest>>, LakeError> {
        let converter = self.rows.as_ref().unwrap_or(&self.keys);
        let rows = converter.convert_columns(batch.columns());
        let rows = rows.map_err(arrow_error(self.schema().name()))?;
        let digest = |row: Row<'_>| {
            let hash = first.hash_one(row.data());
            (hash % passes == pass).then(|| [hash, second.hash_one(row.data())])
        };
        Ok(rows.iter().map(digest).collect())
    }
}

/// Rows that went, by key.
#[derive(Default)]
struct Held {
    /// Each of [`BATCH_ROWS`], but for the last one.
    batches: Vec<RecordBatch>,
    /// Where rows are, counted through all batches.
    by_key: HashMap<Box<[u8]>, Vec<usize>>,
    /// The rows that did not come back, once all that came are known.
    left: Option<Vec<usize>>,
}

impl Held {
    fn pick(&self, places: &[usize]) -> Result<RecordBatch, ArrowError> {
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        let places: Vec<_> = places.iter().map(|p| (p / BATCH_ROWS, p % BATCH_ROWS)).collect();
        interleave_record_batch(&batches, &places)
    }

    /// Some of the rows that did not come back; empty when there are no more.
    fn rest(&mut self) -> Vec<usize> {
        let by_key = &mut self.by_key;
        let left = self.left.get_or_insert_with(|| {
            let mut left: Vec<usize> = by_key.drain().flat_map(|(_, places)| places).collect();
            left.sort_unstable_by(|a, b| b.cmp(a));
            left
        });
        let mut some = left.split_off(left.len().saturating_sub(BATCH_ROWS));
        some.reverse();
        some
    }
}

/// A part that is being compared.
struct Part {
    comparison: Arc<Comparison>,
    part: u64,
    held: Held,
    came: RowStream,
}

impl Part {
    async fn next(&mut self) -> Result<Option<ChangeBatch>, LakeError> {
        let comparison = &self.comparison;
        while let Some(batch) = self.came.try_next().await? {
            consume_budget().await;
            if let Some(found) = comparison.compare(&mut self.held, &batch, self.part)? {
                return Ok(Some(found));
            }
        }
        let rest = self.held.rest();
        if rest.is_empty() {
            return Ok(None);
        }
        let before = self.held.pick(&rest).map_err(arrow_error(comparison.schema().name()))?;
        comparison.batch(vec![Op::Delete; rest.len()], Some(before), None).map(Some)
    }
}
