//! A hash table in many small pieces, so that its growth stops nobody.
//!
//! Extendible hashing: a directory of `2^depth` entries names the shard of each key by bits of the
//! key's hash; a shard that is full is split in two by the next bit. The work of one insert is
//! bounded by one shard, whatever the size of the whole, and so is the memory that growth takes.

use std::collections::{BTreeSet, HashMap};

use hashbrown::{HashTable, hash_table::Entry};
use uuid::Uuid;

use crate::table::key::Location;

/// Keys of one shard at most: what 8,192 slots hold.
pub(crate) const SHARD_KEYS: usize = 7_168;
/// Key bytes of one shard at most, unless one key alone has more: their places are 32 bits wide.
const SHARD_BYTES: usize = 8 << 20;
/// The bit of a hash the directory begins with. The slots of a shard are chosen by the lowest bits
/// and told apart by the highest seven.
const FIRST_BIT: u32 = 32;
/// Bits the directory uses at most.
const MAX_DEPTH: u32 = 24;

/// What makes hashes differ from table to table, so that keys cannot be chosen to fall together.
/// Comes from the table's own random id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed {
    pub(crate) a: u64,
    pub(crate) b: u64,
}

impl Seed {
    pub(crate) fn of(table: Uuid) -> Self {
        let (a, b) = table.as_u64_pair();
        // A multiplier that is even would lose the key's highest bit.
        Self { a, b: b | 1 }
    }
}

/// The two halves of a product, mixed.
#[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

pub(crate) fn hash_bytes(bytes: &[u8], seed: Seed) -> u64 {
    let word = |part: &[u8]| {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        u64::from_le_bytes(word)
    };
    let mut state = seed.a ^ fold(bytes.len() as u64 ^ seed.b, 0x9e37_79b9_7f4a_7c15);
    let mut chunks = bytes.chunks_exact(16);
    for chunk in &mut chunks {
        let (low, high) = chunk.split_at(8);
        state = fold(word(low) ^ state, word(high) ^ seed.b);
    }
    let (low, high) = chunks.remainder().split_at(chunks.remainder().len().min(8));
    fold(fold(word(low) ^ state, word(high) ^ seed.b), seed.b)
}

/// A key of fixed size, kept in its slot.
pub(crate) trait FixedKey: Copy + Eq {
    fn hash_with(self, seed: Seed) -> u64;
}

impl FixedKey for i64 {
    fn hash_with(self, seed: Seed) -> u64 {
        fold(self.cast_unsigned() ^ seed.a, seed.b)
    }
}

/// One piece of an index.
pub(crate) trait Shard: Default {
    /// Room for this many keys.
    fn with_capacity(keys: usize) -> Self;
    /// Rows it finds.
    fn len(&self) -> usize;
    /// Whether it must be split before another key comes in.
    fn is_full(&self) -> bool;
    /// Takes out the keys in whose hash `bit` is set.
    fn split(&mut self, bit: u64, seed: Seed) -> Self;
    /// Changes every location.
    fn relocate(&mut self, to: &mut dyn FnMut(Location) -> Location);
    /// Bytes of memory on the heap.
    fn memory_bytes(&self) -> usize;
}

/// Shards and the directory that finds them.
#[derive(Debug)]
pub(crate) struct Shards<S> {
    pub(crate) seed: Seed,
    depth: u32,
    /// For each value of the first `depth` bits, the shard.
    directory: Vec<u32>,
    /// Each with the number of bits its keys have in common.
    shards: Vec<(u32, S)>,
}

impl<S: Shard> Shards<S> {
    /// With room for so many keys.
    pub(crate) fn with_capacity(keys: usize, seed: Seed) -> Self {
        let mut depth = 0;
        // Hashes spread keys evenly, not exactly: shards as full as can be would be split at once.
        while depth < MAX_DEPTH && keys >> depth > SHARD_KEYS / 20 * 19 {
            depth += 1;
        }
        let count = 1_u32 << depth;
        let each = keys >> depth;
        Self {
            seed,
            depth,
            directory: (0..count).collect(),
            shards: (0..count).map(|_| (depth, S::with_capacity(each))).collect(),
        }
    }

    fn place(&self, hash: u64) -> usize {
        // Below 2^24, so that it fits.
        usize::try_from((hash >> FIRST_BIT) & ((1 << self.depth) - 1)).unwrap_or(0)
    }

    /// The shard that has the key of this hash if any has.
    pub(crate) fn shard_mut(&mut self, hash: u64) -> &mut S {
        let at = self.directory[self.place(hash)] as usize;
        &mut self.shards[at].1
    }

    /// The same, to look only.
    pub(crate) fn shard(&self, hash: u64) -> &S {
        &self.shards[self.directory[self.place(hash)] as usize].1
    }

    /// The shard for a key of this hash, with room for one more.
    pub(crate) fn room(&mut self, hash: u64) -> &mut S {
        let mut at = self.directory[self.place(hash)] as usize;
        while self.shards[at].1.is_full() && self.shards[at].0 < MAX_DEPTH {
            self.split(at, hash);
            at = self.directory[self.place(hash)] as usize;
        }
        &mut self.shards[at].1
    }

    /// Splits the shard `at`, which is the one of `hash`.
    fn split(&mut self, at: usize, hash: u64) {
        let (depth, shard) = &mut self.shards[at];
        let bit = *depth;
        let new = shard.split(1 << (FIRST_BIT + bit), self.seed);
        *depth += 1;
        let new = (*depth, new);
        let id = u32::try_from(self.shards.len()).unwrap_or(u32::MAX);
        self.shards.push(new);
        if bit == self.depth {
            self.directory.extend_from_within(..);
            self.depth += 1;
        }
        let common = usize::try_from((hash >> FIRST_BIT) & ((1 << bit) - 1)).unwrap_or(0);
        for place in (common | 1 << bit..self.directory.len()).step_by(2 << bit) {
            self.directory[place] = id;
        }
    }

    /// Rows it finds.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|(_, s)| s.len()).sum()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.shards.iter().map(|(_, s)| s.memory_bytes()).sum::<usize>()
            + self.shards.capacity() * size_of::<(u32, S)>()
            + self.directory.capacity() * size_of::<u32>()
    }

    /// The shards. A split puts the new one at the end, so that an entry of a shard that was not
    /// visited yet never comes into one that was.
    pub(crate) fn shards(&self) -> &[(u32, S)] {
        &self.shards
    }

    /// Changes every location of one shard.
    pub(crate) fn relocate(&mut self, shard: usize, to: &mut dyn FnMut(Location) -> Location) {
        if let Some((_, shard)) = self.shards.get_mut(shard) {
            shard.relocate(to);
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot<K> {
    key: K,
    at: Location,
}

/// Unique keys of fixed size.
#[derive(Debug)]
pub(crate) struct FixedShard<K>(HashTable<Slot<K>>);

impl<K> Default for FixedShard<K> {
    fn default() -> Self {
        Self(HashTable::new())
    }
}

impl<K: FixedKey> FixedShard<K> {
    /// Makes `to` the location of the key; gives the one it had.
    pub(crate) fn put(&mut self, key: K, hash: u64, to: Location, seed: Seed) -> Option<Location> {
        match self.0.entry(hash, |s| s.key == key, |s| s.key.hash_with(seed)) {
            Entry::Occupied(mut slot) => Some(std::mem::replace(&mut slot.get_mut().at, to)),
            Entry::Vacant(slot) => {
                slot.insert(Slot { key, at: to });
                None
            }
        }
    }

    pub(crate) fn take(&mut self, key: K, hash: u64) -> Option<Location> {
        let entry = self.0.find_entry(hash, |s| s.key == key).ok()?;
        Some(entry.remove().0.at)
    }

    pub(crate) fn find(&self, key: K, hash: u64) -> Option<Location> {
        self.0.find(hash, |s| s.key == key).map(|s| s.at)
    }

    pub(crate) fn find_mut(&mut self, key: K, hash: u64) -> Option<&mut Location> {
        self.0.find_mut(hash, |s| s.key == key).map(|s| &mut s.at)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (K, Location)> {
        self.0.iter().map(|s| (s.key, s.at))
    }
}

impl<K: FixedKey> Shard for FixedShard<K> {
    fn with_capacity(keys: usize) -> Self {
        Self(HashTable::with_capacity(keys))
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_full(&self) -> bool {
        self.0.len() >= SHARD_KEYS
    }

    fn split(&mut self, bit: u64, seed: Seed) -> Self {
        let hash = |s: &Slot<K>| s.key.hash_with(seed);
        // Half and a little: shards are of the smaller size only while they hold less than that.
        let mut parts = [(); 2].map(|()| HashTable::with_capacity(SHARD_KEYS / 2));
        for slot in self.0.drain() {
            let hash_of_slot = hash(&slot);
            parts[usize::from(hash_of_slot & bit != 0)].insert_unique(hash_of_slot, slot, hash);
        }
        let [stay, go] = parts;
        self.0 = stay;
        Self(go)
    }

    fn relocate(&mut self, to: &mut dyn FnMut(Location) -> Location) {
        self.0.iter_mut().for_each(|s| s.at = to(s.at));
    }

    fn memory_bytes(&self) -> usize {
        self.0.allocation_size()
    }
}

#[derive(Debug, Clone, Copy)]
struct BytesSlot {
    /// Where the key is among the bytes of the shard.
    key: u32,
    at: Location,
}

/// Unique keys of any length. Their bytes lie one after the other, each behind its length: one byte,
/// or 255 and four bytes.
#[derive(Debug, Default)]
pub(crate) struct BytesShard {
    table: HashTable<BytesSlot>,
    bytes: Vec<u8>,
    /// Bytes of keys that are no longer there.
    garbage: usize,
}

fn stored_key(bytes: &[u8], at: u32) -> &[u8] {
    let rest = &bytes[at as usize..];
    match rest {
        [255, a, b, c, d, rest @ ..] => &rest[..u32::from_le_bytes([*a, *b, *c, *d]) as usize],
        [length, rest @ ..] => &rest[..usize::from(*length)],
        [] => &[],
    }
}

fn stored_len(key: &[u8]) -> usize {
    key.len() + if key.len() < 255 { 1 } else { 5 }
}

/// Appends a key; gives its place.
fn store_key(bytes: &mut Vec<u8>, key: &[u8]) -> u32 {
    let need = stored_len(key);
    if bytes.capacity() - bytes.len() < need {
        // Doubling would leave half of it unused.
        bytes.reserve_exact(need.max(bytes.len() / 4));
    }
    let at = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    match u8::try_from(key.len()) {
        Ok(length) if length < 255 => bytes.push(length),
        _ => {
            bytes.push(255);
            // Arrow's own offsets are 32 bits wide.
            bytes.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
    }
    bytes.extend_from_slice(key);
    at
}

impl BytesShard {
    pub(crate) fn put(
        &mut self,
        key: &[u8],
        hash: u64,
        to: Location,
        seed: Seed,
    ) -> Option<Location> {
        if let Some(at) = self.find_mut(key, hash) {
            return Some(std::mem::replace(at, to));
        }
        let slot = BytesSlot { key: store_key(&mut self.bytes, key), at: to };
        let bytes = &self.bytes;
        self.table.insert_unique(hash, slot, |s| hash_bytes(stored_key(bytes, s.key), seed));
        None
    }

    pub(crate) fn take(&mut self, key: &[u8], hash: u64) -> Option<Location> {
        let bytes = &self.bytes;
        let entry = self.table.find_entry(hash, |s| stored_key(bytes, s.key) == key).ok()?;
        let at = entry.remove().0.at;
        self.garbage += stored_len(key);
        if self.garbage > 4_096 && self.garbage > self.bytes.len() / 2 {
            self.compact();
        }
        Some(at)
    }

    pub(crate) fn find(&self, key: &[u8], hash: u64) -> Option<Location> {
        self.table.find(hash, |s| stored_key(&self.bytes, s.key) == key).map(|s| s.at)
    }

    pub(crate) fn find_mut(&mut self, key: &[u8], hash: u64) -> Option<&mut Location> {
        let bytes = &self.bytes;
        self.table.find_mut(hash, |s| stored_key(bytes, s.key) == key).map(|s| &mut s.at)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&[u8], Location)> {
        self.table.iter().map(|s| (stored_key(&self.bytes, s.key), s.at))
    }

    fn compact(&mut self) {
        let mut bytes = Vec::with_capacity(self.bytes.len() - self.garbage);
        for slot in self.table.iter_mut() {
            slot.key = store_key(&mut bytes, stored_key(&self.bytes, slot.key));
        }
        self.bytes = bytes;
        self.garbage = 0;
    }
}

impl Shard for BytesShard {
    fn with_capacity(keys: usize) -> Self {
        Self { table: HashTable::with_capacity(keys), ..Self::default() }
    }

    fn len(&self) -> usize {
        self.table.len()
    }

    fn is_full(&self) -> bool {
        self.table.len() >= SHARD_KEYS || (self.bytes.len() > SHARD_BYTES && self.table.len() > 1)
    }

    fn split(&mut self, bit: u64, seed: Seed) -> Self {
        let mut parts = [(); 2].map(|()| Self::with_capacity(self.table.len() / 2));
        for (key, at) in self.entries() {
            let hash = hash_bytes(key, seed);
            parts[usize::from(hash & bit != 0)].put(key, hash, at, seed);
        }
        let [stay, go] = parts;
        *self = stay;
        go
    }

    fn relocate(&mut self, to: &mut dyn FnMut(Location) -> Location) {
        self.table.iter_mut().for_each(|s| s.at = to(s.at));
    }

    fn memory_bytes(&self) -> usize {
        self.table.allocation_size() + self.bytes.capacity()
    }
}

/// Keys of fixed size that may occur more than once.
#[derive(Debug)]
pub(crate) struct MultiShard<K> {
    /// The newest location of each key.
    newest: FixedShard<K>,
    /// The others of keys that have several.
    older: HashMap<K, BTreeSet<Location>>,
    older_rows: usize,
}

impl<K> Default for MultiShard<K> {
    fn default() -> Self {
        Self { newest: FixedShard::default(), older: HashMap::new(), older_rows: 0 }
    }
}

impl<K: FixedKey + std::hash::Hash> MultiShard<K> {
    /// Adds a location of the key; answers whether it was not there.
    pub(crate) fn put(&mut self, key: K, hash: u64, to: Location, seed: Seed) -> bool {
        match self.newest.put(key, hash, to, seed) {
            None => true,
            Some(before) if before == to => false,
            Some(before) => {
                let older = self.older.entry(key).or_default();
                let was_there = older.remove(&to);
                self.older_rows += usize::from(older.insert(before)) - usize::from(was_there);
                !was_there
            }
        }
    }

    /// Takes away one location of the key, the newest.
    pub(crate) fn take(&mut self, key: K, hash: u64) -> Option<Location> {
        let newest = self.newest.find_mut(key, hash)?;
        let taken = *newest;
        let next = self.older.get_mut(&key).and_then(BTreeSet::pop_last);
        if let Some(next) = next {
            *newest = next;
            self.older_rows -= 1;
            if self.older.get(&key).is_some_and(BTreeSet::is_empty) {
                self.older.remove(&key);
            }
        } else {
            self.newest.take(key, hash);
        }
        Some(taken)
    }

    /// Makes `to` of the location `from` of the key.
    pub(crate) fn repoint(&mut self, key: K, hash: u64, from: Location, to: Location) {
        match self.newest.find_mut(key, hash) {
            Some(newest) if *newest == from => *newest = to,
            Some(_) => {
                if let Some(older) = self.older.get_mut(&key)
                    && older.remove(&from)
                {
                    older.insert(to);
                }
            }
            None => {}
        }
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (K, Location)> {
        let older = self.older.iter().flat_map(|(k, at)| at.iter().map(|at| (*k, *at)));
        self.newest.entries().chain(older)
    }
}

impl<K: FixedKey + std::hash::Hash> Shard for MultiShard<K> {
    fn with_capacity(keys: usize) -> Self {
        Self { newest: FixedShard::with_capacity(keys), ..Self::default() }
    }

    fn len(&self) -> usize {
        self.newest.len() + self.older_rows
    }

    fn is_full(&self) -> bool {
        self.newest.is_full()
    }

    fn split(&mut self, bit: u64, seed: Seed) -> Self {
        let mut go = Self { newest: self.newest.split(bit, seed), ..Self::default() };
        go.older = self.older.extract_if(|key, _| key.hash_with(seed) & bit != 0).collect();
        go.older_rows = go.older.values().map(BTreeSet::len).sum();
        self.older_rows -= go.older_rows;
        go
    }

    fn relocate(&mut self, to: &mut dyn FnMut(Location) -> Location) {
        self.newest.relocate(to);
        for older in self.older.values_mut() {
            *older = std::mem::take(older).into_iter().map(&mut *to).collect();
        }
    }

    fn memory_bytes(&self) -> usize {
        // A leaf of a B-tree has room for eleven entries and is at least half full.
        let set = size_of::<Location>() * 2;
        let entry = size_of::<(K, BTreeSet<Location>)>() * 2;
        self.newest.memory_bytes() + self.older_rows * set + self.older.len() * (entry + 100)
    }
}

#[cfg(test)]
mod tests;
