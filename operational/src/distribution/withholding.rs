//! Tax withheld from what is paid to natural persons. Pure, in integer fen, rounded to the fen.
//!
//! - [`cumulative`]: income from an internet platform, STA announcement 2025 No. 16 (in force since
//!   2025-10-01), by the cumulative method of STA announcement 2018 No. 61.
//! - [`per_payment`]: remuneration for labour (劳务报酬) otherwise, each payment by itself.

/// Up to how many yuan, the rate in per cent, and the quick deduction in yuan.
type Bracket = (i128, i128, i128);

/// Of a year's income.
const YEAR: [Bracket; 7] = [
    (36_000, 3, 0),
    (144_000, 10, 2_520),
    (300_000, 20, 16_920),
    (420_000, 25, 31_920),
    (660_000, 30, 52_920),
    (960_000, 35, 85_920),
    (i128::MAX, 45, 181_920),
];

/// Of one payment.
const PAYMENT: [Bracket; 3] = [(20_000, 20, 0), (50_000, 30, 2_000), (i128::MAX, 40, 7_000)];

/// Fen a yuan.
const YUAN: i128 = 100;
/// What is deducted for each month.
const MONTH_FEN: i128 = 5_000 * YUAN;

/// The tax on what is taxable. That is given in fifths of a fen, so that four fifths of an income are exact.
fn by_bracket(taxable_fifths: i128, brackets: &[Bracket]) -> i64 {
    if taxable_fifths <= 0 {
        return 0;
    }
    let within = |&&(up_to, _, _): &&Bracket| taxable_fifths <= up_to.saturating_mul(YUAN * 5);
    let (_, rate, quick) = *brackets.iter().find(within).expect("the last has no end");
    let hundredths_of_fifths = taxable_fifths * rate - quick * YUAN * 500;
    i64::try_from((hundredths_of_fifths + 250) / 500).expect("a tax is less than its 64-bit income")
}

/// What is withheld from a payment that brings a year's income from the platform to `income_fen`, this
/// payment included, after `months` months in a row with a payment, and `withheld_fen` withheld before.
/// A fifth of the income is taken for its costs. What was withheld too much stays so: it is given back
/// by the tax office after the year.
#[must_use]
pub fn cumulative(income_fen: i64, months: i64, withheld_fen: i64) -> i64 {
    let fifths = i128::from(income_fen) * 4 - i128::from(months) * MONTH_FEN * 5;
    (by_bracket(fifths, &YEAR) - withheld_fen).max(0)
}

/// What is withheld from one payment: up to 4,000 yuan less 800, above that less a fifth.
#[must_use]
pub fn per_payment(amount_fen: i64) -> i64 {
    let amount = i128::from(amount_fen);
    let fifths = if amount <= 4_000 * YUAN { (amount - 800 * YUAN) * 5 } else { amount * 4 };
    by_bracket(fifths, &PAYMENT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fifth_is_for_costs_and_five_thousand_a_month_are_free() {
        assert_eq!(cumulative(1_000_000, 1, 0), 9_000);
        assert_eq!(cumulative(2_000_000, 2, 9_000), 9_000);
        assert_eq!(cumulative(625_000, 1, 0), 0);
        // 0.8 of 6,250.63 is 5,000.504: 1.5 fen of tax, which is 2.
        assert_eq!(cumulative(625_063, 1, 0), 2);
        // Nothing is given back within the year.
        assert_eq!(cumulative(2_000_000, 4, 33_000), 0);
    }

    #[test]
    fn a_payment_of_up_to_eight_hundred_is_free() {
        assert_eq!(per_payment(80_000), 0);
        assert_eq!(per_payment(80_003), 1);
        assert_eq!(per_payment(400_000), 64_000);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is paid, something is left of it, and more is left of more.
        #[test]
        fn more_pay_leaves_more(amount in 1_i64..10_000_000_000, more in 1_i64..100_000_000) {
            let left = |amount: i64| amount - per_payment(amount);
            prop_assert!((0..amount).contains(&per_payment(amount)));
            prop_assert!(left(amount + more) + 1 >= left(amount));
            let left = |amount: i64| amount - cumulative(amount, 1, 0);
            prop_assert!((0..amount).contains(&cumulative(amount, 1, 0)));
            prop_assert!(left(amount + more) + 1 >= left(amount));
        }

        /// A year's income is taxed alike in one payment a month of whatever size, once it only grows.
        #[test]
        fn the_parts_of_a_year_add_up(parts in proptest::collection::vec(625_000_i64..20_000_000, 1..12)) {
            let (mut income, mut withheld, mut months) = (0, 0, 0);
            for part in &parts {
                months += 1;
                income += part;
                withheld += cumulative(income, months, withheld);
            }
            prop_assert_eq!(withheld, cumulative(income, months, 0));
        }
    }
}
