use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::table::digest::Digest;

const SEED: Seed = Seed { a: 0x1234_5678_9abc_def0, b: 0x0fed_cba9_8765_4321 };

fn at(row: u32) -> Location {
    Location { segment: 1, row }
}

#[test]
fn a_map_of_integers_is_a_map() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut shards: Shards<FixedShard<i64>> = Shards::with_capacity(0, SEED);
    let mut model = BTreeMap::new();
    for row in 0..300_000 {
        let key = rng.random_range(0..100_000_i64);
        let hash = key.hash_with(SEED);
        if rng.random_range(0..3) == 0 {
            assert_eq!(shards.shard_mut(hash).take(key, hash), model.remove(&key));
        } else {
            let before = shards.room(hash).put(key, hash, at(row), SEED);
            assert_eq!(before, model.insert(key, at(row)));
        }
    }
    assert_eq!(shards.len(), model.len());
    let entries = shards.shards().iter().flat_map(|(_, s)| s.entries());
    assert_eq!(entries.collect::<BTreeMap<_, _>>(), model);
    assert!(shards.shards().len() > 4, "it was split");
    assert!(shards.shards().iter().all(|(_, s)| s.len() <= SHARD_KEYS));
    shards.relocate(0, &mut |_| at(7));
    assert!(shards.shards()[0].1.entries().all(|(_, l)| l == at(7)));
    assert!(shards.shards()[1].1.entries().any(|(_, l)| l != at(7)));
}

#[test]
fn a_map_of_bytes_is_a_map_and_gives_back_what_is_gone() {
    let mut rng = StdRng::seed_from_u64(2);
    let mut shards: Shards<BytesShard> = Shards::with_capacity(0, SEED);
    let mut model = BTreeMap::new();
    let key_of = |number: u32| -> Vec<u8> {
        // Lengths around where the stored length changes its form, and the empty key.
        let length = match number % 7 {
            0 => 254 + number as usize % 3,
            1 => number as usize % 20,
            _ => 12,
        };
        if number == 0 { vec![] } else { number.to_le_bytes().repeat(length.div_ceil(4)) }
    };
    for row in 0..200_000 {
        let key = key_of(rng.random_range(0..30_000));
        let hash = hash_bytes(&key, SEED);
        if rng.random_range(0..3) == 0 {
            assert_eq!(shards.shard_mut(hash).take(&key, hash), model.remove(&key));
        } else {
            let before = shards.room(hash).put(&key, hash, at(row), SEED);
            assert_eq!(before, model.insert(key, at(row)));
        }
    }
    assert_eq!(shards.len(), model.len());
    for (key, at) in &model {
        let hash = hash_bytes(key, SEED);
        assert_eq!(shards.shard_mut(hash).find_mut(key, hash), Some(&mut at.clone()));
    }
    let full = shards.memory_bytes();
    for key in model.into_keys() {
        let hash = hash_bytes(&key, SEED);
        assert!(shards.shard_mut(hash).take(&key, hash).is_some());
    }
    let (slots, empty) = (shards.len(), shards.memory_bytes());
    assert_eq!(slots, 0);
    assert!(empty < full / 2, "{empty} of {full} bytes are still held");
}

#[test]
fn equal_rows_are_counted() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut shards: Shards<MultiShard<Digest>> = Shards::with_capacity(0, SEED);
    let mut model: BTreeMap<u64, BTreeSet<Location>> = BTreeMap::new();
    for row in 0..200_000 {
        // Some contents are frequent, most are rare.
        let number = rng.random_range(0..60_000_u64) % rng.random_range(1..60_000);
        let key = Digest([number.wrapping_mul(0x9e37_79b9) >> 3, number]);
        let hash = key.hash_with(SEED);
        let rows = model.entry(number).or_default();
        match rng.random_range(0..5) {
            0 | 1 => match shards.shard_mut(hash).take(key, hash) {
                Some(taken) => assert!(rows.remove(&taken)),
                None => assert!(rows.is_empty()),
            },
            2 if !rows.is_empty() => {
                let nth = rng.random_range(0..rows.len());
                let from = *rows.iter().nth(nth).unwrap();
                shards.shard_mut(hash).repoint(key, hash, from, at(row));
                rows.remove(&from);
                rows.insert(at(row));
            }
            _ => {
                shards.room(hash).put(key, hash, at(row), SEED);
                rows.insert(at(row));
            }
        }
    }
    assert_eq!(shards.len(), model.values().map(BTreeSet::len).sum::<usize>());
    let mut found: BTreeMap<u64, BTreeSet<Location>> = BTreeMap::new();
    for (key, at) in shards.shards().iter().flat_map(|(_, s)| s.entries()) {
        assert!(found.entry(key.0[1]).or_default().insert(at));
    }
    model.retain(|_, rows| !rows.is_empty());
    assert_eq!(found, model);
}

#[test]
fn an_integer_key_takes_at_most_forty_bytes_at_any_size() {
    let mut shards: Shards<FixedShard<i64>> = Shards::with_capacity(0, SEED);
    let (mut worst, mut most) = (0.0_f64, 0);
    for key in 0..600_000_i64 {
        let hash = key.hash_with(SEED);
        shards.room(hash).put(key, hash, at(0), SEED);
        if key % 1_000 == 999 && key >= 50_000 {
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let each = shards.memory_bytes() as f64 / (key + 1) as f64;
            if each > worst {
                (worst, most) = (each, key);
            }
        }
    }
    assert!(worst <= 40.0, "{worst} bytes a key with {most} keys");
    // Filled at once, as after opening.
    for keys in [100_000, 1_000_000, 7_000_000] {
        let shards: Shards<FixedShard<i64>> = Shards::with_capacity(keys, SEED);
        assert!(shards.memory_bytes() <= keys * 40, "{} of {keys}", shards.memory_bytes());
    }
}

#[test]
fn hashes_use_every_byte_and_the_seed() {
    let mut seen = BTreeSet::new();
    for length in 0..70 {
        let mut bytes = vec![0_u8; length];
        assert!(seen.insert(hash_bytes(&bytes, SEED)), "{length} zeros");
        for at in 0..length {
            bytes[at] = 1;
            assert!(seen.insert(hash_bytes(&bytes, SEED)), "byte {at} of {length}");
            bytes[at] = 0;
        }
    }
    let other = Seed { a: 1, ..SEED };
    assert!(seen.insert(hash_bytes(b"key", other)) && seen.insert(hash_bytes(b"key", SEED)));
}
