//! How far the rows of one table are copied.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use arrow::{error::ArrowError, record_batch::RecordBatch};
use medlake_contract::{ChangeBatch, Op};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::keys::{Keys, key_text};
use crate::{budget::Held, log::Order, source::Quarantined};

/// How long a table is left alone whose rows could not be read, at most: so many times the first time.
const LONGEST_PAUSE: u32 = 100;
/// So often rows must fail to be read, each time with the log at its end, before a person is asked.
const TRIES: u32 = 3;

/// Rows of the first chunk; the next ones are as many as take the time and memory they should.
pub(super) const FIRST_ROWS: usize = 10_000;
const FEWEST_ROWS: usize = 256;

/// What rows are copied for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be there: nothing of the table is anywhere yet but what its changes brought.
    First,
    /// To be as they are in the source, whatever is there.
    Again,
    /// To be compared with what is there.
    Compare,
    /// To take the place of changes that could not be read.
    Retry,
}

/// One pass over the rows of a table, or over some of them.
#[derive(Debug)]
pub(super) struct Copying<P> {
    pub(super) purpose: Purpose,
    pub(super) ranges: Vec<Range<P>>,
    /// Changes in quarantine that are of no account once all of it is copied.
    pub(super) overtakes: BTreeSet<String>,
    /// Whether the database was asked how to part the table.
    pub(super) parted: bool,
    /// Rows to ask for next.
    pub(super) chunk_rows: usize,
    pause: Option<(Instant, Duration)>,
    /// Rows could not be read, and that may be because the log is behind the table's columns: not
    /// before it is here.
    pub(super) blocked: Option<End<P>>,
    /// The log says that the table has other columns, and not yet which.
    pub(super) awaits_columns: bool,
    pub(super) failures: u32,
}

/// Rows between two keys, copied one chunk after the other.
#[derive(Debug)]
pub(super) struct Range<P> {
    /// Of this pass of this process; what was asked for before a restart of the range is nobody's.
    pub(super) id: u64,
    /// Up to here rows are handed out.
    pub(super) after: Option<RecordBatch>,
    pub(super) to: Option<RecordBatch>,
    /// Only these, with the quarantined changes they would repair.
    pub(super) only: Option<(RecordBatch, Vec<String>)>,
    /// Up to here they were asked for.
    pub(super) asked: Option<RecordBatch>,
    /// When the select under way began, in pages.
    pub(super) busy: Option<u64>,
    /// When the one began whose rows still come, chunk by chunk, and what is in all of them.
    pub(super) sweep: Option<(u64, P)>,
    pub(super) ended: bool,
    pub(super) waiting: VecDeque<Piece<P>>,
}

/// A place where the log ended at some time, or later.
#[derive(Debug)]
pub(super) enum End<P> {
    /// It is where the log ends at a look after this one.
    After(u64),
    At(P),
}

impl<P: Clone> End<P> {
    pub(super) fn place(&self) -> Option<&P> {
        match self {
            Self::After(_) => None,
            Self::At(place) => Some(place),
        }
    }

    /// The log was seen to end there at a look.
    pub(super) fn told(&mut self, look: u64, end: &P) {
        if let Self::After(before) = self
            && *before < look
        {
            *self = Self::At(end.clone());
        }
    }
}

/// A chunk that waits for the log.
#[derive(Debug)]
pub(super) struct Piece<P> {
    pub(super) rows: RecordBatch,
    pub(super) bad: Vec<Quarantined>,
    /// Everything before this place is in the rows.
    pub(super) seen: P,
    /// Nothing after this place is.
    pub(super) until: End<P>,
    /// Keys that changes touched after this page are newer than the rows.
    pub(super) since: u64,
    /// The last key it speaks for; none is no bound.
    pub(super) to: Option<RecordBatch>,
    pub(super) is_last: bool,
    pub(super) held: Held,
}

impl<P> Range<P> {
    pub(super) fn new(id: u64, after: Option<RecordBatch>, to: Option<RecordBatch>) -> Self {
        Self {
            id,
            asked: after.clone(),
            after,
            to,
            only: None,
            busy: None,
            sweep: None,
            ended: false,
            waiting: VecDeque::new(),
        }
    }

    /// Whether another chunk may be asked for.
    pub(super) fn is_due(&self) -> bool {
        self.busy.is_none() && !self.ended && self.waiting.len() < 2
    }
}

impl<P> Copying<P> {
    pub(super) fn new(purpose: Purpose, ranges: Vec<Range<P>>) -> Self {
        Self {
            purpose,
            parted: ranges.len() > 1 || ranges.iter().any(|r| r.after.is_some()),
            ranges,
            overtakes: BTreeSet::new(),
            chunk_rows: FIRST_ROWS,
            pause: None,
            blocked: None,
            awaits_columns: false,
            failures: 0,
        }
    }

    /// In which order its rows are asked for: what is only added to needs none.
    pub(super) fn order(&self) -> Order {
        if self.purpose == Purpose::First { Order::Any } else { Order::Keys }
    }

    /// Forgets what was asked for and not handed out.
    pub(super) fn restart(&mut self, next_id: &mut u64) {
        for range in &mut self.ranges {
            *next_id += 1;
            let only = range.only.take();
            *range = Range { only, ..Range::new(*next_id, range.after.take(), range.to.take()) };
        }
    }

    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.blocked.is_some()
            || self.awaits_columns
            || self.pause.is_some_and(|(until, _)| until > now)
    }

    pub(super) fn paused_until(&self) -> Option<Instant> {
        self.pause.map(|(until, _)| until)
    }

    pub(super) fn pause(&mut self, now: Instant, first: Duration) {
        let length = self.pause.map_or(first, |(_, p)| (2 * p).min(LONGEST_PAUSE * first));
        self.pause = Some((now + length, length));
    }

    /// Rows could not be read, for a reason that does not pass by itself: tells whether that happened too
    /// often. The log may still be before a change of the columns that the rows have already.
    pub(super) fn refused(&mut self, looks: u64) -> bool {
        self.failures += 1;
        self.blocked = Some(End::After(looks));
        self.failures >= TRIES
    }

    /// A chunk of so many rows and bytes took so long: what to ask for next, up to twice as many.
    pub(super) fn adapt(&mut self, rows: usize, bytes: usize, took: Duration, goal: &Goal) {
        self.pause = None;
        self.failures = 0;
        if rows == 0 {
            return;
        }
        let by_bytes = goal.bytes as f64 / bytes.max(1) as f64;
        let by_time = goal.time.as_secs_f64() / took.as_secs_f64().max(1e-6);
        let factor = by_bytes.min(by_time).clamp(0.1, 2.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and bounded right after"
        )]
        let next = (rows as f64 * factor) as usize;
        self.chunk_rows = next.clamp(FEWEST_ROWS.min(goal.rows), goal.rows);
    }

    /// What has to be known to go on after a restart.
    pub(super) fn progress(&self) -> String {
        let key = |key: &Option<RecordBatch>| key.as_ref().map(|key| key_text(key, 0));
        let ranges = self.ranges.iter().map(|r| json!({"after": key(&r.after), "to": key(&r.to)}));
        json!({
            "again": self.purpose == Purpose::Again,
            "order": if self.order() == Order::Any { "any" } else { "keys" },
            "ranges": ranges.collect::<Vec<_>>(),
        })
        .to_string()
    }

    /// Goes on from what [`Self::progress`] said; from the beginning where that is not understood.
    pub(super) fn resumed(progress: Option<&str>, keys: Option<&Keys>, next_id: &mut u64) -> Self {
        let stored: Value =
            progress.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let again = stored["again"].as_bool().unwrap_or(true);
        let purpose = if again { Purpose::Again } else { Purpose::First };
        // Up to which key rows are there, means something in one order only.
        let order = if again { "keys" } else { "any" };
        let key = |text: &Value| match text {
            Value::Null => Some(None),
            text => keys.and_then(|keys| keys.parse(text).ok()).map(Some),
        };
        let mut id = || {
            *next_id += 1;
            *next_id
        };
        let ranges = stored["ranges"].as_array().filter(|_| stored["order"] == order);
        let ranges = ranges.and_then(|ranges| {
            let mut range = |r: &Value| Some(Range::new(id(), key(&r["after"])?, key(&r["to"])?));
            ranges.iter().map(&mut range).collect::<Option<Vec<_>>>()
        });
        let ranges = ranges.filter(|ranges| !ranges.is_empty());
        Self::new(purpose, ranges.unwrap_or_else(|| vec![Range::new(id(), None, None)]))
    }
}

/// What a chunk should be.
#[derive(Debug, Clone)]
pub(super) struct Goal {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    pub(super) time: Duration,
}

/// Keys that changes touched while rows were being read, each with the last page that did.
#[derive(Debug, Default)]
pub(super) struct Touched {
    keys: HashMap<Box<[u8]>, u64>,
}

impl Touched {
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn clear(&mut self) {
        if !self.keys.is_empty() {
            self.keys = HashMap::new();
        }
    }

    /// Notes the keys of changes; answers whether all rows of the table went with one.
    pub(super) fn note(
        &mut self,
        keys: &Keys,
        batch: &ChangeBatch,
        page: u64,
    ) -> Result<bool, ArrowError> {
        let before = keys.rows(batch.before())?;
        let after = keys.rows(batch.after())?;
        let mut truncated = false;
        for (row, op) in batch.ops().iter().enumerate() {
            truncated |= *op == Op::Truncate;
            if matches!(op, Op::Update | Op::Delete) {
                self.keys.insert(before.row(row).as_ref().into(), page);
            }
            if matches!(op, Op::Update | Op::Insert) {
                self.keys.insert(after.row(row).as_ref().into(), page);
            }
        }
        Ok(truncated)
    }

    /// Whether a key was touched after the page `since`.
    pub(super) fn contains(&self, key: &[u8], since: u64) -> bool {
        self.keys.get(key).is_some_and(|page| *page > since)
    }

    pub(super) fn is_empty_since(&self, since: u64) -> bool {
        self.keys.values().all(|page| *page <= since)
    }

    /// The keys touched after the page `since`.
    pub(super) fn since(&self, since: u64) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().filter(move |(_, page)| **page > since).map(|(key, _)| key.as_ref())
    }
}
