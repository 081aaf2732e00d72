//! What a line earns its promoter. Pure, in integer fen, always rounded down.

/// One hundred per cent, in basis points.
const WHOLE_BP: i128 = 10_000;

/// What a rule gives: a fixed amount beats a rate, a fixed 0 means none, and neither means none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// Share of the base, in hundredths of a per cent.
    pub rate_bp: Option<i64>,
    /// Fixed amount a line.
    pub fixed_fen: Option<i64>,
}

impl Terms {
    /// The commission on a line for which `base_fen` was paid, never more than that.
    #[must_use]
    pub fn on(self, base_fen: i64) -> i64 {
        self.on_rest(base_fen, base_fen)
    }

    /// These terms, or a fixed amount of what is left when they would give more on `base_fen`.
    #[must_use]
    pub fn within(self, base_fen: i64, left_fen: i64) -> Self {
        if self.on(base_fen) <= left_fen {
            self
        } else {
            Self { fixed_fen: Some(left_fen.max(0)), ..self }
        }
    }

    /// The commission that remains when `rest_fen` of the `base_fen` paid was not refunded: the rate
    /// of the rest, or the same part of the fixed amount. Recomputed from what is left, so that
    /// several refunds add up to the same as one.
    #[must_use]
    pub fn on_rest(self, base_fen: i64, rest_fen: i64) -> i64 {
        if base_fen <= 0 || rest_fen <= 0 {
            return 0;
        }
        let (base, rest) = (i128::from(base_fen), i128::from(rest_fen.min(base_fen)));
        let earned = match (self.fixed_fen, self.rate_bp) {
            (Some(fixed), _) => i128::from(fixed).clamp(0, base) * rest / base,
            (None, Some(rate)) => rest * i128::from(rate).clamp(0, WHOLE_BP) / WHOLE_BP,
            (None, None) => 0,
        };
        i64::try_from(earned).expect("a commission is at most its 64-bit base")
    }
}

/// The most that all levels of a line earn together, rounded down.
#[must_use]
pub fn cap(base_fen: i64, cap_bp: i64) -> i64 {
    Terms { rate_bp: Some(cap_bp), fixed_fen: None }.on(base_fen)
}

#[cfg(test)]
mod tests;
