//! How a discount is shared between lines, and a line between its units. Pure, in integer fen.
//!
//! The rule is the one open malls agree on: shares are floored in proportion to the line amounts
//! and the remainder goes to the last line; inside a line the units differ by at most one fen, the
//! later ones being dearer. Shares are fixed when the order is placed.

/// Shares `discount` between lines in proportion to `amounts`; the remainder goes to the last line.
///
/// The shares add up to `discount`, and each is between 0 and its line's amount: what the last line
/// cannot take falls to the lines before it. A line of amount 0 gets nothing. `discount` is between
/// 0 and the sum of `amounts`, none of which is negative; beyond that it is cut to these bounds.
#[must_use]
pub fn split(discount: i64, amounts: &[i64]) -> Vec<i64> {
    let total: i128 = amounts.iter().map(|a| i128::from((*a).max(0))).sum();
    let discount = i128::from(discount).clamp(0, total);
    let mut rest = discount;
    let mut shares: Vec<i64> = amounts
        .iter()
        .map(|amount| {
            let share =
                if total == 0 { 0 } else { discount * i128::from((*amount).max(0)) / total };
            rest -= share;
            narrow(share)
        })
        .collect();
    for (share, amount) in shares.iter_mut().zip(amounts).rev() {
        let more = rest.min(i128::from((*amount).max(0) - *share));
        *share += narrow(more);
        rest -= more;
    }
    shares
}

/// What the units `from + 1 ..= from + count` of a line of `quantity` units have of `total`:
/// the difference of two cumulative floors. All units together have exactly `total`.
#[must_use]
pub fn unit_shares(total: i64, quantity: i64, from: i64, count: i64) -> i64 {
    if quantity <= 0 {
        return 0;
    }
    let upto =
        |units: i64| (i128::from(total) * i128::from(units)).div_euclid(i128::from(quantity));
    narrow(upto(from + count) - upto(from))
}

/// `part` is at most the 64-bit value it is a part of.
fn narrow(part: i128) -> i64 {
    i64::try_from(part).expect("a share of a 64-bit amount fits 64 bits")
}

#[cfg(test)]
mod tests;
