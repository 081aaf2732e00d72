//! What points are worth and how they are shared between the lines of an order. Pure, in whole points and
//! integer fen.

use super::super::allocation;
use crate::calendar::DAY_MICROS;

/// What points are worth, how many an order may be paid with, and how they are earned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PointsRules {
    /// What a point is worth, in fen.
    pub value_fen: i64,
    /// The most points of one order.
    pub per_order_max: i64,
    /// The most that points may pay of what the goods come to after all other discounts, in percent.
    pub share_max_percent: i64,
    /// How many points a yuan earns that is paid for goods; at most 100.
    pub earned_per_yuan: i64,
    /// How long points may be spent after they were earned, in microseconds.
    pub valid_micros: i64,
}

impl Default for PointsRules {
    fn default() -> Self {
        Self {
            value_fen: 1,
            per_order_max: 100_000,
            share_max_percent: 50,
            earned_per_yuan: 0,
            valid_micros: 365 * DAY_MICROS,
        }
    }
}

impl PointsRules {
    /// The most points that lines of these amounts may be paid with.
    #[must_use]
    pub fn usable(&self, amounts: &[i64]) -> i64 {
        let total: i128 = amounts.iter().map(|amount| i128::from((*amount).max(0))).sum();
        let share = total * i128::from(self.share_max_percent.clamp(0, 100)) / 100;
        let share = i64::try_from(share).unwrap_or(i64::MAX) / self.value_fen.max(1);
        let whole: i64 = self.in_points(amounts).iter().sum();
        share.min(whole).min(self.per_order_max).max(0)
    }

    /// Shares points between lines of these amounts; as many as are [`usable`](Self::usable) fit.
    #[must_use]
    pub fn split(&self, points: i64, amounts: &[i64]) -> Vec<i64> {
        allocation::split(points, &self.in_points(amounts))
    }

    /// How many points the lines earn for which this is paid.
    #[must_use]
    pub fn reward(&self, paid: &[i64]) -> Vec<i64> {
        let total: i128 = paid.iter().map(|paid| i128::from((*paid).max(0))).sum();
        let reward = total * i128::from(self.earned_per_yuan.clamp(0, 100)) / 100;
        allocation::split(i64::try_from(reward).unwrap_or(i64::MAX), paid)
    }

    /// The whole points in each amount.
    fn in_points(&self, amounts: &[i64]) -> Vec<i64> {
        amounts.iter().map(|amount| (*amount).max(0) / self.value_fen.max(1)).collect()
    }
}

/// What a line keeps of the points it earns, when so much of what was paid for it is refunded.
#[must_use]
pub fn kept(reward: i64, paid_fen: i64, refunded_fen: i64) -> i64 {
    if paid_fen <= 0 {
        return 0;
    }
    let left = i128::from((paid_fen - refunded_fen).clamp(0, paid_fen));
    i64::try_from(i128::from(reward) * left / i128::from(paid_fen)).unwrap_or(0)
}
