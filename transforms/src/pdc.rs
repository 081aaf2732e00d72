//! Days covered by medicine on hand, from fills.
//!
//! The rule is that of the Pharmacy Quality Alliance: a fill of a drug that is still on hand starts
//! when the earlier supply of the *same drug* ends; different drugs of a class are not moved; a day
//! counts once however many drugs cover it; the treatment period runs from the first fill to the end
//! of the period, and supply beyond that end is cut. Work is on intervals: its cost is that of
//! sorting the fills, whatever the length of the period.
//!
//! Days are whole numbers since any epoch. Windows are half open: the end day is not in them.

use std::collections::HashMap;

/// PDC from which a patient counts as adherent, in percent.
const ADHERENT_PERCENT: i64 = 80;
/// Shortest treatment period that is measured, in days.
const SHORTEST_PERIOD_DAYS: i64 = 91;

/// One fill: a drug handed out on a day for a number of days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill<'a> {
    /// The drug. Fills of one drug are the same generic ingredient.
    pub drug: &'a str,
    /// The day it was handed out.
    pub on: i64,
    /// Days it lasts when taken as prescribed. Not above zero: the fill covers nothing.
    pub days: i64,
}

/// What a fill does with supply that is still on hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carry {
    /// It starts after supply of the same drug: the PQA rule.
    SameDrug,
    /// It starts after supply of any drug.
    AllDrugs,
    /// It starts on its own day.
    None,
}

/// Days from `start` up to, not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First day in it.
    pub start: i64,
    /// First day after it.
    pub end: i64,
}

impl Window {
    /// How many days it has.
    #[must_use]
    pub fn days(self) -> i64 {
        (self.end - self.start).max(0)
    }
}

/// One patient's adherence to one class of drugs in one period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measurement {
    /// First fill in the period.
    pub index_on: i64,
    /// Days from the index day to the end of the period.
    pub period_days: i64,
    /// Of them, days with at least one drug on hand.
    pub covered_days: i64,
    /// Different days with a fill.
    pub fill_dates: i64,
}

impl Measurement {
    /// `covered_days` over `period_days`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "days of a period are far below 2^53")]
    pub fn pdc(&self) -> f64 {
        self.covered_days as f64 / self.period_days as f64
    }

    /// Two fill dates or more, and a treatment period of 91 days or more.
    #[must_use]
    pub fn eligible(&self) -> bool {
        self.fill_dates >= 2 && self.period_days >= SHORTEST_PERIOD_DAYS
    }

    /// Whether the PDC is 80 % or more, decided on whole days; `None` when not eligible.
    #[must_use]
    pub fn adherent(&self) -> Option<bool> {
        self.eligible().then(|| self.covered_days * 100 >= self.period_days * ADHERENT_PERCENT)
    }
}

/// Measures `fills` over `period`. Fills outside of it do not count; `None` when none is left.
#[must_use]
pub fn measure(fills: &[Fill<'_>], carry: Carry, period: Window) -> Option<Measurement> {
    let mut within: Vec<_> =
        fills.iter().copied().filter(|f| (period.start..period.end).contains(&f.on)).collect();
    within.sort_by_key(|f| f.on);
    let index_on = within.first()?.on;
    let treatment = Window { start: index_on, end: period.end };
    let mut fill_dates = 0;
    let mut last = None;
    for fill in &within {
        if last != Some(fill.on) {
            fill_dates += 1;
            last = Some(fill.on);
        }
    }
    Some(Measurement {
        index_on,
        period_days: treatment.days(),
        covered_days: covered_days(&within, carry, treatment),
        fill_dates,
    })
}

/// Days of `window` on which at least one drug is on hand. Fills before the window count with what
/// is left of them.
#[must_use]
pub fn covered_days(fills: &[Fill<'_>], carry: Carry, window: Window) -> i64 {
    let mut fills: Vec<_> = fills.iter().filter(|f| f.days > 0).collect();
    fills.sort_by_key(|f| f.on);
    let mut supplied_until: HashMap<&str, i64> = HashMap::new();
    let supply = fills
        .into_iter()
        .map(|fill| {
            let drug = match carry {
                Carry::SameDrug => fill.drug,
                Carry::AllDrugs => "",
                Carry::None => return Window { start: fill.on, end: fill.on + fill.days },
            };
            let until = supplied_until.entry(drug).or_insert(fill.on);
            let start = fill.on.max(*until);
            *until = start + fill.days;
            Window { start, end: *until }
        })
        .collect();
    days_in_union(supply, window)
}

/// Covered days of `observed` as AdhereR counts them for CMA7, which is not the PQA rule: a fill
/// covers at most the time to the next fill of *any* drug, and what is left then is carried over to
/// that fill, or lost when the drug changes and `carry` is [`Carry::SameDrug`] (and always with
/// [`Carry::None`]). `follow_up` bounds the fills looked at.
#[must_use]
pub fn cma7_covered_days(
    fills: &[Fill<'_>],
    carry: Carry,
    follow_up: Window,
    observed: Window,
) -> i64 {
    let mut fills: Vec<_> =
        fills.iter().filter(|f| (follow_up.start..follow_up.end).contains(&f.on)).collect();
    fills.sort_by_key(|f| f.on);
    let mut carried = 0;
    let mut supply = Vec::with_capacity(fills.len());
    for (i, fill) in fills.iter().enumerate() {
        let next = fills.get(i + 1);
        let until_next = next.map_or(follow_up.end, |n| n.on) - fill.on;
        let on_hand = fill.days.max(0) + carried;
        supply.push(Window { start: fill.on, end: fill.on + on_hand.min(until_next) });
        let keeps = match carry {
            Carry::AllDrugs => true,
            Carry::SameDrug => next.is_some_and(|n| n.drug == fill.drug),
            Carry::None => false,
        };
        carried = if keeps { (on_hand - until_next).max(0) } else { 0 };
    }
    days_in_union(supply, observed)
}

fn days_in_union(mut supply: Vec<Window>, window: Window) -> i64 {
    supply.sort_by_key(|s| s.start);
    let mut counted_to = window.start;
    let mut days = 0;
    for s in supply {
        let end = s.end.min(window.end);
        let start = s.start.max(counted_to);
        if end > start {
            days += end - start;
            counted_to = end;
        }
    }
    days
}

#[cfg(test)]
mod tests;
