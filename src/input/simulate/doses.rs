//! Which doses are reported: each reminder of a plan once, and only when its time has come.
//!
//! Reminders are at fixed times of the day, Asia/Shanghai: the first between 7 and 9 in the morning,
//! different for each patient, further ones up to twelve hours later. What became of one is known
//! two hours after it.
//!
//! A reminder that becomes known during the run is reported first; with none of those left, the
//! sixty days before the run are reported, newest first, but only for patients whose history was
//! imported in this run. So a run never reports what an earlier one did, and a long run settles at
//! the pace of the reminders: about four hundred a day.

use super::{DAY_MICROS, HOUR_MICROS, SHANGHAI_MICROS};

/// How long after a reminder it is known what became of it.
pub(super) const KNOWN_AFTER_MICROS: i64 = 2 * HOUR_MICROS;
const BACKLOG_DAYS: i64 = 60;
const MINUTE_MICROS: i64 = HOUR_MICROS / 60;

/// The reminders of one plan that were not reported yet.
#[derive(Debug)]
pub(super) struct Reminders {
    per_day: i64,
    /// From midnight in Asia/Shanghai to the first one of a day.
    first_micros: i64,
    /// Reminders are counted from 1970 on: the next one to become known.
    next: i64,
    /// The backlog: from the oldest to the one before `newest`.
    oldest: i64,
    newest: i64,
}

impl Reminders {
    /// Those that are not known yet at `now` (microseconds since 1970, UTC).
    pub(super) fn new(patient_id: i64, per_day: i64, now: i64) -> Self {
        let first_micros = 7 * HOUR_MICROS + (patient_id * 37).rem_euclid(120) * MINUTE_MICROS;
        let mut reminders =
            Self { per_day: per_day.max(1), first_micros, next: 0, oldest: 0, newest: 0 };
        let day = (now - KNOWN_AFTER_MICROS + SHANGHAI_MICROS).div_euclid(DAY_MICROS);
        reminders.next = day * reminders.per_day;
        while reminders.known(reminders.next, now) {
            reminders.next += 1;
        }
        (reminders.oldest, reminders.newest) = (reminders.next, reminders.next);
        reminders
    }

    /// Adds the days before: nobody reported them.
    pub(super) fn open_backlog(&mut self) {
        self.oldest = self.newest - BACKLOG_DAYS * self.per_day;
    }

    /// The time of a reminder to be reported at `now`, each one once; `None` when none is left.
    pub(super) fn take(&mut self, now: i64) -> Option<i64> {
        if self.known(self.next, now) {
            self.next += 1;
            return Some(self.at(self.next - 1));
        }
        (self.oldest < self.newest).then(|| {
            self.newest -= 1;
            self.at(self.newest)
        })
    }

    fn known(&self, number: i64, now: i64) -> bool {
        self.at(number) + KNOWN_AFTER_MICROS <= now
    }

    fn at(&self, number: i64) -> i64 {
        let spacing = 12 * HOUR_MICROS / (self.per_day - 1).max(1);
        number.div_euclid(self.per_day) * DAY_MICROS - SHANGHAI_MICROS
            + self.first_micros
            + number.rem_euclid(self.per_day) * spacing
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// 2026-11-21, 22:00 in Asia/Shanghai.
    const NOW: i64 = 1_795_269_600_000_000;

    #[test]
    fn each_reminder_comes_once_and_none_before_its_time() {
        for per_day in [1, 2, 3, 24] {
            let mut reminders = Reminders::new(17, per_day, NOW);
            assert_eq!(reminders.take(NOW), None);
            reminders.open_backlog();
            let mut seen = BTreeSet::new();
            let mut now = NOW;
            // Much faster than reminders come up, for ten days.
            for _ in 0..20_000 {
                if let Some(at) = reminders.take(now) {
                    assert!(at + KNOWN_AFTER_MICROS <= now);
                    assert!(seen.insert(at), "{at} came twice");
                }
                now += DAY_MICROS / 2_000;
            }
            assert_eq!(i64::try_from(seen.len()).unwrap(), (60 + 10) * per_day);
        }
    }

    #[test]
    fn a_later_run_leaves_out_what_an_earlier_one_reported() {
        let mut first = Reminders::new(3, 2, NOW);
        first.open_backlog();
        let between = NOW + 5 * DAY_MICROS / 3;
        let mut seen: BTreeSet<i64> = std::iter::from_fn(|| first.take(between)).collect();
        let mut second = Reminders::new(3, 2, between);
        let later = between + 3 * DAY_MICROS;
        let again: Vec<i64> = std::iter::from_fn(|| second.take(later)).collect();
        assert_eq!(again.len(), 6);
        assert!(again.into_iter().all(|at| seen.insert(at)));
    }
}
