//! Each law against its statement, with fixed seeds: Kolmogorov-Smirnov for continuous ones,
//! chi-square for counts, both at the level of one in a thousand. Each test of a law also refuses a
//! neighbouring law, so it can tell them apart.

use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::input::simulate::DAY_MICROS;

const SEEDS: [u64; 3] = [1, 5, 42];
/// 2026-05-25, a Monday, 00:00 in Asia/Shanghai.
const MONDAY: i64 = 1_779_638_400_000_000;

/// Whether samples come from a distribution, by the greatest distance between theirs and its own.
pub(in crate::input::simulate) fn follows(
    samples: &mut [f64],
    distribution: impl Fn(f64) -> f64,
) -> bool {
    samples.sort_by(f64::total_cmp);
    let count = samples.len() as f64;
    let distance = samples.iter().zip(0..).fold(0.0_f64, |most, (sample, place)| {
        let expected = distribution(*sample);
        let (below, above) = (f64::from(place) / count, f64::from(place + 1) / count);
        most.max(expected - below).max(above - expected)
    });
    distance < 1.95 / count.sqrt()
}

/// Whether counts fit what was expected of them. The bound is Wilson and Hilferty's approximation.
pub(in crate::input::simulate) fn fits(observed: &[f64], expected: &[f64]) -> bool {
    assert_eq!(observed.len(), expected.len());
    assert!(expected.iter().all(|e| *e >= 5.0), "classes too small: {expected:?}");
    let statistic: f64 = observed.iter().zip(expected).map(|(o, e)| (o - e).powi(2) / e).sum();
    let freedom = (expected.len() - 1) as f64;
    let ninth = 2.0 / (9.0 * freedom);
    statistic < freedom * (1.0 - ninth + 3.09 * ninth.sqrt()).powi(3)
}

/// Counts of 0, 1... and of all from the last class on.
fn classes(samples: &[u64], classes: usize) -> Vec<f64> {
    let mut counts = vec![0.0; classes];
    for sample in samples {
        counts[usize::try_from(*sample).unwrap().min(classes - 1)] += 1.0;
    }
    counts
}

/// Expected counts in the same classes, from the chance of each number.
fn expected(samples: usize, classes: usize, chance: impl Fn(i32) -> f64) -> Vec<f64> {
    let mut chances: Vec<f64> = (0..i32::try_from(classes).unwrap() - 1).map(chance).collect();
    chances.push(1.0 - chances.iter().sum::<f64>());
    chances.iter().map(|chance| chance * samples as f64).collect()
}

/// The standard normal distribution: Abramowitz and Stegun, 7.1.26, to seven digits.
pub(in crate::input::simulate) fn standard_normal(at: f64) -> f64 {
    let x = at.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let series = t
        * (0.254_829_592
            + t * (-0.284_496_736
                + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let tail = series * (-x * x).exp() / 2.0;
    if at < 0.0 { tail } else { 1.0 - tail }
}

#[test]
fn arrivals_are_a_poisson_process_with_the_rhythm_of_days_and_weeks() {
    for seed in SEEDS {
        let mut random = StdRng::seed_from_u64(seed);
        let times = arrivals(400.0, MONDAY, MONDAY + 28 * DAY_MICROS, &mut random);
        assert!(times.is_sorted());
        // Measured by the rate itself, the times between are exponential with mean 1.
        let rate = |at: i64| 400.0 * intensity(at) / DAY_MICROS as f64;
        let between = |from: i64, to: i64| {
            let (mut sum, mut at) = (0.0, from);
            while at < to {
                let end = (at - at.rem_euclid(HOUR_MICROS) + HOUR_MICROS).min(to);
                sum += rate(at) * (end - at) as f64;
                at = end;
            }
            sum
        };
        let mut gaps: Vec<f64> = times.windows(2).map(|pair| between(pair[0], pair[1])).collect();
        assert!(follows(&mut gaps, |gap| 1.0 - (-gap).exp()), "seed {seed}");
        // Without the rhythm they are not.
        let mut plain: Vec<f64> = times
            .windows(2)
            .map(|pair| 400.0 * (pair[1] - pair[0]) as f64 / DAY_MICROS as f64)
            .collect();
        assert!(!follows(&mut plain, |gap| 1.0 - (-gap).exp()), "seed {seed}");

        // How many come in an hour of each day and hour of the week.
        let mut counts = vec![0.0; 168];
        for at in &times {
            counts[usize::try_from((at - MONDAY) / HOUR_MICROS % 168).unwrap()] += 1.0;
        }
        let means: Vec<f64> = (0..168)
            .map(|hour| 4.0 * 400.0 / 24.0 * intensity(MONDAY + hour * HOUR_MICROS))
            .collect();
        assert!(fits(&counts, &means), "seed {seed}");
    }
    let week: f64 = (0..168).map(|hour| intensity(MONDAY + hour * HOUR_MICROS)).sum();
    assert!((week / 168.0 - 1.0).abs() < 0.002, "an average hour is {}", week / 168.0);
}

#[test]
fn steps_are_geometric() {
    for seed in SEEDS {
        let mut random = StdRng::seed_from_u64(seed);
        let steps: Vec<u64> = (0..20_000).map(|_| geometric(0.4, &mut random)).collect();
        let chances =
            |chance: f64| expected(steps.len(), 12, move |n| chance * (1.0 - chance).powi(n));
        assert!(fits(&classes(&steps, 12), &chances(0.4)), "seed {seed}");
        assert!(!fits(&classes(&steps, 12), &chances(0.42)), "seed {seed}");
    }
}

#[test]
fn counts_are_poisson_and_times_exponential() {
    for seed in SEEDS {
        let mut random = StdRng::seed_from_u64(seed);
        let counts: Vec<u64> = (0..20_000).map(|_| poisson(2.0, &mut random)).collect();
        let law = |mean: f64| {
            expected(counts.len(), 9, move |n| {
                let factorial: f64 = (1..=n).map(f64::from).product();
                (-mean).exp() * mean.powi(n) / factorial
            })
        };
        assert!(fits(&classes(&counts, 9), &law(2.0)), "seed {seed}");
        assert!(!fits(&classes(&counts, 9), &law(2.1)), "seed {seed}");
        let mut times: Vec<f64> = (0..20_000).map(|_| exponential(90.0, &mut random)).collect();
        assert!(follows(&mut times, |time| 1.0 - (-time / 90.0).exp()), "seed {seed}");
        assert!(!follows(&mut times, |time| 1.0 - (-time / 95.0).exp()), "seed {seed}");
    }
}

#[test]
fn scatter_is_normal() {
    for seed in SEEDS {
        let mut random = StdRng::seed_from_u64(seed);
        let mut values: Vec<f64> = (0..20_000).map(|_| normal(136.0, 9.0, &mut random)).collect();
        assert!(follows(&mut values, |v| standard_normal((v - 136.0) / 9.0)), "seed {seed}");
        assert!(!follows(&mut values, |v| standard_normal((v - 136.5) / 9.0)), "seed {seed}");
        assert!(!follows(&mut values, |v| standard_normal((v - 136.0) / 9.6)), "seed {seed}");
    }
    let mut random = StdRng::seed_from_u64(1);
    assert!((0..1_000).all(|_| (80..=90).contains(&whole_normal(85.0, 9.0, 80..=90, &mut random))));
}

#[test]
fn the_tree_has_the_tail_of_preferential_attachment() {
    for seed in SEEDS {
        let mut random = StdRng::seed_from_u64(seed);
        let parents = preferential_tree(30_000, 12, &mut random);
        assert_eq!(parents.iter().filter(|parent| parent.is_none()).count(), 12);
        assert!((0..).zip(&parents).all(|(n, parent)| parent.is_none_or(|parent| parent < n)));
        let mut brought_in = vec![0_u64; parents.len()];
        for parent in parents.iter().flatten() {
            brought_in[*parent] += 1;
        }
        let share = |k: i32| {
            let k = f64::from(k);
            4.0 / ((k + 1.0) * (k + 2.0) * (k + 3.0))
        };
        let classed = classes(&brought_in, 12);
        assert!(fits(&classed, &expected(brought_in.len(), 12, share)), "seed {seed}");
        // Were each as likely as any other to be the one, half would bring in none.
        let uniform = expected(brought_in.len(), 12, |k| 0.5_f64.powi(k + 1));
        assert!(!fits(&classed, &uniform), "seed {seed}");
        // The tail: the chance of k or more falls as k^-2 (Hill's estimate over the largest).
        brought_in.sort_unstable_by(|a, b| b.cmp(a));
        let (largest, above) = (&brought_in[..300], brought_in[300]);
        let logs: f64 =
            largest.iter().map(|k| ((*k as f64 + 1.5) / (above as f64 + 1.0)).ln()).sum();
        let exponent = largest.len() as f64 / logs;
        assert!((1.6..=2.4).contains(&exponent), "seed {seed}: {exponent}");
    }
}

#[test]
fn places_are_drawn_by_their_weights() {
    for seed in SEEDS {
        let mut random = StdRng::seed_from_u64(seed);
        let law = Weighted::new((1..=40).map(|rank| zipf(rank, 0.8)));
        let mut counts = vec![0.0; 40];
        for _ in 0..20_000 {
            counts[law.draw(&mut random)] += 1.0;
        }
        let expected = |exponent: f64| -> Vec<f64> {
            let weights: Vec<f64> = (1..=40).map(|n| f64::from(n).powf(-exponent)).collect();
            let sum: f64 = weights.iter().sum();
            weights.iter().map(|w| 20_000.0 * w / sum).collect()
        };
        assert!(fits(&counts, &expected(0.8)), "seed {seed}");
        assert!(!fits(&counts, &expected(0.84)), "seed {seed}");
    }
    let never = Weighted::new([0.0, 3.0, 0.0]);
    assert!((0..100).all(|_| never.draw(&mut StdRng::seed_from_u64(1)) == 1));
}
