use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;

#[test]
fn the_remainder_goes_to_the_last_line_that_can_take_it() {
    assert_eq!(split(50, &[200, 150]), [28, 22]);
    assert_eq!(split(70, &[200, 150]), [40, 30]);
    assert_eq!(split(100, &[200, 150]), [57, 43]);
    // Each floor is 0, and the last line is only worth 1: the rest falls to the lines before it.
    assert_eq!(split(3, &[1, 1, 1, 1]), [0, 1, 1, 1]);
    // A line out of scope has amount 0, also where it is the last one.
    assert_eq!(split(50, &[200, 150, 0]), [28, 22, 0]);
    assert_eq!(split(0, &[200, 150]), [0, 0]);
    assert_eq!(split(9, &[]), Vec::<i64>::new());
    assert_eq!(split(9, &[0, 0]), [0, 0]);
}

#[test]
fn large_amounts_do_not_overflow() {
    let most = 500 * 100_000 * 1_000_000_000;
    assert_eq!(split(most, &[most, most]), [most / 2, most / 2]);
    assert_eq!(unit_shares(most, 100_000, 0, 100_000), most);
}

#[test]
fn units_differ_by_a_fen_and_the_later_ones_are_dearer() {
    let units: Vec<i64> = (0..3).map(|k| unit_shares(4, 3, k, 1)).collect();
    assert_eq!(units, [1, 1, 2]);
    assert_eq!(unit_shares(4, 0, 0, 0), 0);
}

/// Sum of shares = discount; 0 <= share <= line amount; lines of amount 0 get nothing and change
/// nothing wherever they stand.
#[test]
fn shares_add_up_and_stay_within_their_lines() {
    let seed = 20_261_121;
    let mut rng = StdRng::seed_from_u64(seed);
    for round in 0..20_000 {
        let lines = rng.random_range(1..12);
        let scale = [3, 100, 1_000_000, 100_000_000_000_000][rng.random_range(0..4)];
        let amounts: Vec<i64> = (0..lines)
            .map(|_| if rng.random_range(0..4) == 0 { 0 } else { rng.random_range(0..=scale) })
            .collect();
        let total: i64 = amounts.iter().sum();
        let discount = rng.random_range(0..=total);
        let shares = split(discount, &amounts);
        let told = format!("seed {seed} round {round}: {discount} over {amounts:?} = {shares:?}");
        assert_eq!(shares.iter().sum::<i64>(), discount, "{told}");
        assert!(shares.iter().zip(&amounts).all(|(s, a)| (0..=*a).contains(s)), "{told}");

        let without: Vec<i64> = amounts.iter().copied().filter(|a| *a > 0).collect();
        let kept: Vec<i64> =
            shares.iter().zip(&amounts).filter(|(_, a)| **a > 0).map(|(s, _)| *s).collect();
        assert_eq!(split(discount, &without), kept, "{told}");
    }
}

/// However a line is given back in parts, the parts come to what was paid for it.
#[test]
fn refunds_in_parts_come_to_the_whole() {
    let seed = 7;
    let mut rng = StdRng::seed_from_u64(seed);
    for round in 0..20_000 {
        let quantity = rng.random_range(1..50);
        let cash = rng.random_range(0..10_000);
        let (mut given, mut units) = (0, 0);
        while units < quantity {
            let more = rng.random_range(1..=quantity - units);
            let part = unit_shares(cash, quantity, units, more);
            assert!(part >= 0, "seed {seed} round {round}");
            units += more;
            given += part;
            assert!(given <= cash, "seed {seed} round {round}");
        }
        assert_eq!(given, cash, "seed {seed} round {round}");
    }
}
