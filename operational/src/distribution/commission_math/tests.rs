use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

const fn rate(rate_bp: i64) -> Terms {
    Terms { rate_bp: Some(rate_bp), fixed_fen: None }
}

const fn fixed(fixed_fen: i64) -> Terms {
    Terms { rate_bp: Some(1_000), fixed_fen: Some(fixed_fen) }
}

#[test]
fn fixed_beats_rate_and_zero_means_none() {
    assert_eq!(rate(1_000).on(1_000), 100);
    assert_eq!(fixed(88).on(1_000), 88);
    assert_eq!(fixed(0).on(1_000), 0);
    assert_eq!(Terms::default().on(1_000), 0);
}

#[test]
fn it_is_floored_and_never_more_than_what_was_paid() {
    assert_eq!(rate(1_000).on(1_009), 100);
    assert_eq!(rate(333).on(100), 3);
    assert_eq!(fixed(88).on(50), 50);
    assert_eq!(rate(10_000).on(i64::MAX), i64::MAX);
    assert_eq!(rate(1_000).on(0), 0);
    assert_eq!(rate(1_000).on(-5), 0);
}

/// Whatever the parts of a refund, what was taken back only grows, never beyond what was booked,
/// and a full refund takes back all of it.
#[test]
fn reversal_by_what_is_left_has_no_drift() {
    let seed = 42;
    let mut rng = StdRng::seed_from_u64(seed);
    for round in 0..20_000 {
        let base = rng.random_range(1..1_000_000);
        let terms = if rng.random_range(0..2) == 0 {
            rate(rng.random_range(0..=10_000))
        } else {
            fixed(rng.random_range(0..=2 * base))
        };
        let booked = terms.on(base);
        assert!((0..=base).contains(&booked), "seed {seed} round {round}");
        let (mut refunded, mut reversed) = (0, 0);
        while refunded < base {
            refunded += rng.random_range(1..=base - refunded);
            let now = booked - terms.on_rest(base, base - refunded);
            assert!(now >= reversed && now <= booked, "seed {seed} round {round}");
            reversed = now;
        }
        assert_eq!(reversed, booked, "seed {seed} round {round}");
    }
}

/// Whatever the rules of two levels, together they earn no more than the cap, also on what a refund
/// leaves; and a level that fits under it is not touched.
#[test]
fn levels_together_earn_no_more_than_the_cap() {
    let seed = 43;
    let mut rng = StdRng::seed_from_u64(seed);
    for round in 0..20_000 {
        let base = rng.random_range(1..1_000_000);
        let cap_bp = rng.random_range(0..=10_000);
        let whole = cap(base, cap_bp);
        let (mut left, mut all) = (whole, Vec::new());
        for _ in 0..2 {
            let wanted = if rng.random_range(0..2) == 0 {
                rate(rng.random_range(0..=10_000))
            } else {
                fixed(rng.random_range(0..=2 * base))
            };
            let given = wanted.within(base, left);
            assert_eq!(given.on(base), wanted.on(base).min(left), "seed {seed} round {round}");
            left -= given.on(base);
            all.push(given);
        }
        let rest = rng.random_range(0..=base);
        let earned: i64 = all.iter().map(|terms| terms.on_rest(base, rest)).sum();
        assert!(left >= 0 && earned <= whole, "seed {seed} round {round}");
        assert_eq!(all.iter().map(|terms| terms.on_rest(base, 0)).sum::<i64>(), 0);
    }
}
