//! Dates as days, and back: the proleptic Gregorian calendar, which the databases use.
//!
//! Counted by eras of 400 years, each year from March on, so that the day a leap year has more is the
//! last of its year (Howard Hinnant, <https://howardhinnant.github.io/date_algorithms.html>).

/// Days of an era.
const ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const TO_1970: i64 = 719_468;

/// Days since 1970-01-01 of a date; none when there is no such day, or it is some hundred thousand
/// years away.
pub(crate) fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    if !(1..=length).contains(&day) || year.abs() > 300_000 {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    Some(era * ERA + of_era * 365 + of_era / 4 - of_era / 100 + of_year - TO_1970)
}

/// Year, month and day of so many days since 1970-01-01.
pub(crate) fn date(days: i64) -> [i64; 3] {
    let shifted = days + TO_1970;
    let (era, of_era) = (shifted.div_euclid(ERA), shifted.rem_euclid(ERA));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    [year + era * 400 + i64::from(month <= 2), month, day]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_and_there_and_back_is_the_same_day() {
        for (date, expected) in [
            ([1970, 1, 1], Some(0)),
            ([1969, 12, 31], Some(-1)),
            ([2000, 3, 1], Some(11_017)),
            ([2024, 2, 29], Some(19_782)),
            ([1, 1, 1], Some(-719_162)),
            ([9999, 12, 31], Some(2_932_896)),
            ([-4712, 1, 1], Some(-2_440_550)),
            ([0, 0, 0], None),
            ([1900, 2, 29], None),
            ([2023, 0, 1], None),
            ([2023, 13, 1], None),
            ([300_001, 1, 1], None),
        ] {
            let [year, month, day] = date;
            let found = days(year, month, day);
            assert_eq!(found, expected, "{date:?}");
            assert!(found.is_none_or(|days| super::date(days) == date), "{date:?}");
        }
    }
}
