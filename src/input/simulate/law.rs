//! The laws of chance that people follow. Each is a pure function of its parameters and a seeded
//! source of randomness; `docs/simulator.md` states them, and the tests hold them to it.

use rand::{Rng, RngExt};
use rand_distr::{Distribution, Exp1, Geometric, Poisson, StandardNormal};

use super::{HOUR_MICROS, day_of, midnight, weekday};

/// How busy an hour of the day is, from midnight in Asia/Shanghai; on average 1.
const HOURS: [f64; 24] = [
    0.35, 0.20, 0.12, 0.10, 0.12, 0.25, 0.55, 0.95, 1.20, 1.45, 1.50, 1.35, 1.15, 1.15, 1.25, 1.30,
    1.25, 1.15, 1.20, 1.50, 1.75, 1.75, 1.45, 0.96,
];
/// How busy a day of the week is, from Monday; on average 1.
const WEEKDAYS: [f64; 7] = [1.05, 1.00, 0.97, 0.96, 0.98, 1.00, 1.04];

/// How busy the hour is that holds this time, as a multiple of an average hour.
pub(super) fn intensity(at: i64) -> f64 {
    let day = day_of(at);
    let hour = (at - midnight(day)) / HOUR_MICROS;
    let place = |at: i64| usize::try_from(at).unwrap_or(0);
    HOURS[place(hour)] * WEEKDAYS[place(weekday(day))]
}

/// Times of arrivals in `[from, until)`, in order: a Poisson process whose rate is `per_day` times
/// the rhythm of days and weeks.
pub(super) fn arrivals(per_day: f64, from: i64, until: i64, random: &mut impl Rng) -> Vec<i64> {
    let mut times = Vec::new();
    let mut hour = from - from.rem_euclid(HOUR_MICROS);
    while hour < until {
        // The rate is constant within an hour: so many arrivals, each at any time of it.
        let mean = per_day / 24.0 * intensity(hour);
        for _ in 0..poisson(mean, random) {
            let at = hour + random.random_range(0..HOUR_MICROS);
            if (from..until).contains(&at) {
                times.push(at);
            }
        }
        hour += HOUR_MICROS;
    }
    times.sort_unstable();
    times
}

/// How often something happens that happens `mean` times on average.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a small count, never negative"
)]
pub(super) fn poisson(mean: f64, random: &mut impl Rng) -> u64 {
    Poisson::new(mean).map_or(0, |law| law.sample(random) as u64)
}

/// How many go before the first success of chance `chance`: 0, 1, 2...
pub(super) fn geometric(chance: f64, random: &mut impl Rng) -> u64 {
    Geometric::new(chance).map_or(0, |law| law.sample(random))
}

/// An exponential time of this mean.
pub(super) fn exponential(mean: f64, random: &mut impl Rng) -> f64 {
    let drawn: f64 = Exp1.sample(random);
    drawn * mean
}

pub(super) fn normal(mean: f64, deviation: f64, random: &mut impl Rng) -> f64 {
    let scatter: f64 = StandardNormal.sample(random);
    mean + deviation * scatter
}

/// The same, to the nearest whole number, kept within bounds.
#[expect(clippy::cast_possible_truncation, reason = "kept within bounds of small numbers")]
pub(super) fn whole_normal(
    mean: f64,
    deviation: f64,
    bounds: std::ops::RangeInclusive<i32>,
    random: &mut impl Rng,
) -> i64 {
    let drawn = normal(mean, deviation, random);
    drawn.round().clamp(f64::from(*bounds.start()), f64::from(*bounds.end())) as i64
}

/// Who brought whom in, of `members` who come one after another: each of the first `roots` by
/// nobody, each later one by an earlier one, with a chance in proportion to 1 + how many that one
/// brought in before. Of many, a share of `4 / ((k + 1)(k + 2)(k + 3))` then brings in `k`.
///
/// Barabási and Albert, Emergence of scaling in random networks, Science 286 (1999), with one link
/// a member; the exact shares: Dorogovtsev, Mendes and Samukhin, Phys. Rev. Lett. 85 (2000).
pub(super) fn preferential_tree(
    members: usize,
    roots: usize,
    random: &mut impl Rng,
) -> Vec<Option<usize>> {
    let mut parents: Vec<Option<usize>> = Vec::with_capacity(members);
    // Each member once, and once more for each one it brought in.
    let mut tickets: Vec<usize> = Vec::with_capacity(2 * members);
    for member in 0..members {
        let parent =
            (member >= roots.max(1)).then(|| tickets[random.random_range(0..tickets.len())]);
        tickets.push(member);
        tickets.extend(parent);
        parents.push(parent);
    }
    parents
}

/// The weight of a rank, from 1, by Zipf's law.
pub(super) fn zipf(rank: u32, exponent: f64) -> f64 {
    f64::from(rank).powf(-exponent)
}

/// Places drawn with chances in proportion to weights.
#[derive(Debug)]
pub(super) struct Weighted {
    /// Sums of the weights up to and with each place.
    sums: Vec<f64>,
}

impl Weighted {
    pub(super) fn new(weights: impl IntoIterator<Item = f64>) -> Self {
        let mut sum = 0.0;
        let add = |weight: f64| {
            sum += weight.max(0.0);
            sum
        };
        Self { sums: weights.into_iter().map(add).collect() }
    }

    /// A place, from 0; there must be one.
    pub(super) fn draw(&self, random: &mut impl Rng) -> usize {
        let sum = self.sums.last().copied().unwrap_or(0.0);
        let at = random.random_range(0.0..1.0) * sum;
        self.sums.partition_point(|up_to| *up_to <= at).min(self.sums.len().saturating_sub(1))
    }
}

#[cfg(test)]
pub(super) mod tests;
