//! Months that have passed, as the acts of each day. The same model, people and days give the same
//! acts, however often and from wherever they are drawn again.

use std::{collections::BTreeMap, sync::Arc};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    DAY_MICROS, HOUR_MICROS,
    behaviour::{self, Act, Model, Pace, Step},
    catalogue::{self, PHARMACIES, PRODUCTS},
    date, home, law,
    promotions::Promotion,
};

/// Visits to the mall of one person on an average day.
const VISITS_PER_DAY: f64 = 0.12;
/// Of a hundred patients, so many are enrolled in the first two weeks; the rest in any.
const ENROLLED_AT_FIRST: u32 = 75;
const FIRST_WEEKS_DAYS: i64 = 14;
/// The chance that a refill is bought in the mall, not got from a hospital.
const REFILLS_IN_THE_MALL: f64 = 0.75;
/// How long after a reminder it is known what became of it.
pub(super) const KNOWN_AFTER_MICROS: i64 = 2 * HOUR_MICROS;
/// The chance that somebody who was referred comes by the link again.
const FOLLOWS_AGAIN: f64 = 0.15;
/// The first follow-up, and each after a value that is out of control, comes within so many days.
const FIRST_FOLLOW_UP_DAYS: i64 = 7;
const FOLLOW_UP_SOON_DAYS: std::ops::RangeInclusive<i64> = 10..=16;
const FOLLOW_UP_EVERY_DAYS: i64 = 90;
const FOLLOW_UP_AGAIN_AFTER_DAYS: i64 = 30;
/// The chance that a dose of which somebody was reminded is confirmed only hours later, when it counts as
/// missed by the clock, and that it is confirmed twice.
const CONFIRMED_LATE: f64 = 0.05;
const CONFIRMED_TWICE: f64 = 0.03;
const CONFIRMED_LATE_MICROS: i64 = 6 * HOUR_MICROS;
/// When what a pharmacy shipped the day before comes in.
const DELIVERED_AT_HOUR: i64 = 6;

/// The products whose stock is counted.
fn counted() -> impl Iterator<Item = usize> {
    (0..PRODUCTS.len()).filter(|product| PRODUCTS[*product].is_counted())
}

/// The acts of a day, in order; ends when the history does.
#[derive(Debug)]
pub(super) struct History {
    model: Arc<Model>,
    from: i64,
    until: i64,
    /// The day that comes next, from 0.
    day: i64,
    /// What later days have from earlier ones.
    pending: BTreeMap<i64, Vec<Step>>,
    courses: Vec<Course>,
    /// When each distributor joins.
    joined_at: Vec<i64>,
    /// Who has been to the mall before, and to whom they are bound since.
    known: Vec<Option<Option<usize>>>,
    orders: i64,
    /// Units that each pharmacy ships of counted products, by the day.
    shipped: BTreeMap<i64, BTreeMap<(usize, usize), i64>>,
}

/// What happens until a time, from where the one before it ended.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) until: i64,
    /// Whether a day of the history ends with it.
    pub(super) ends_day: bool,
    pub(super) steps: Vec<Step>,
}

impl Chunk {
    /// The same in pieces of at most `steps`, or of as many as are at one time.
    pub(super) fn pieces(mut self, steps: usize) -> Vec<Self> {
        let mut pieces = Vec::new();
        while self.steps.len() > steps.max(1) {
            let until = self.steps[steps].at;
            let mut end = self.steps.partition_point(|step| step.at < until);
            if end == 0 {
                end = self.steps.partition_point(|step| step.at <= until);
            }
            let Some(next) = self.steps.get(end) else { break };
            let (until, rest) = (next.at, self.steps.split_off(end));
            let steps = std::mem::replace(&mut self.steps, rest);
            pieces.push(Self { until, ends_day: false, steps });
        }
        pieces.push(self);
        pieces
    }
}

/// How a patient's treatment goes. Days are counted from the first of the history.
#[derive(Debug)]
struct Course {
    person: usize,
    enrolled_on: i64,
    refill_on: Option<i64>,
    /// The first day without medicine.
    supplied_until: i64,
    stops_on: Option<i64>,
    follow_up_on: i64,
    random: StdRng,
}

impl History {
    /// The history of `[from, until)`; `from` is a midnight in Asia/Shanghai.
    pub(super) fn new(model: Arc<Model>, from: i64, until: i64) -> Self {
        let days = ((until - from) / DAY_MICROS).max(1);
        let mut random = StdRng::seed_from_u64(model.seed ^ 0x0b1a_57ed);
        let courses = model
            .population
            .patients()
            .map(|(person, _, patient)| {
                let mut random = StdRng::seed_from_u64(random.random());
                let at_first = random.random_range(0..100) < ENROLLED_AT_FIRST;
                let within = if at_first { days.min(FIRST_WEEKS_DAYS) } else { days };
                let enrolled_on = random.random_range(0..within);
                Course {
                    person,
                    enrolled_on,
                    refill_on: Some(enrolled_on),
                    supplied_until: enrolled_on,
                    stops_on: patient.habit.stops_after_days(&mut random).map(|d| enrolled_on + d),
                    follow_up_on: enrolled_on + random.random_range(1..=FIRST_FOLLOW_UP_DAYS),
                    random,
                }
            })
            .collect();
        // Half of the distributors are there at once; the rest come in any order of time.
        let members = model.population.members.len();
        let mut joined_at: Vec<i64> = (0..members)
            .map(|member| match member < members / 2 {
                true => from + i64::try_from(member).unwrap_or(0),
                false => random.random_range(from + HOUR_MICROS..until.max(from + 2 * HOUR_MICROS)),
            })
            .collect();
        joined_at.sort_unstable();
        let known = vec![None; model.population.people.len()];
        let pending = BTreeMap::new();
        // A pharmacy opens with a stock, which is as if it had shipped that much the day before.
        let units = catalogue::stock_units(model.population.people.len());
        let opening = (0..PHARMACIES as usize)
            .flat_map(|pharmacy| counted().map(move |product| ((pharmacy, product), units)));
        let shipped = BTreeMap::from([(-1, opening.collect())]);
        Self { model, from, until, day: 0, pending, courses, joined_at, known, orders: 0, shipped }
    }

    fn midnight(&self, day: i64) -> i64 {
        self.from + day * DAY_MICROS
    }

    fn put(&mut self, person: usize, order: i64, at: i64, act: Act) {
        let day = self.day_of(at);
        self.pending.entry(day).or_default().push(Step { at, person, order, act });
    }

    fn day_of(&self, at: i64) -> i64 {
        ((at - self.from) / DAY_MICROS).max(self.day)
    }

    /// Notes what the order among these acts takes from a counted stock, and when.
    fn note_shipped(&mut self, acts: &[(i64, Act)]) {
        let placed = acts.iter().find_map(|(_, act)| match act {
            Act::Place(basket) => Some(basket),
            _ => None,
        });
        let shipped = acts.iter().find(|(_, act)| matches!(act, Act::Ship));
        let Some((basket, (at, _))) = placed.zip(shipped) else { return };
        let day = self.day_of(*at);
        let of_day = self.shipped.entry(day).or_default();
        for (product, quantity) in &basket.lines {
            if PRODUCTS[*product].is_counted() {
                *of_day.entry((basket.pharmacy, *product)).or_default() += quantity;
            }
        }
    }

    /// What pharmacies shipped the day before comes in again in the morning.
    fn goods_come(&mut self) {
        let hour = if self.day == 0 { 0 } else { DELIVERED_AT_HOUR };
        let at = self.midnight(self.day) + hour * HOUR_MICROS;
        for ((pharmacy, product), units) in self.shipped.remove(&(self.day - 1)).unwrap_or_default()
        {
            self.put(0, 0, at, Act::Deliver { pharmacy, product, units });
        }
    }

    fn mall_promotes(&mut self) {
        let midnight = self.midnight(self.day);
        if let Some(promotion) = Promotion::of_day(midnight)
            && (self.day == 0 || promotion.starts_at >= midnight)
        {
            self.put(0, 0, promotion.starts_at.max(midnight), Act::Promote(promotion));
        }
    }

    /// Puts the acts of a visit or an order, which gets the next number if there is one.
    fn put_all(&mut self, person: usize, acts: Vec<(i64, Act)>) {
        self.note_shipped(&acts);
        if acts.iter().any(|(_, act)| matches!(act, Act::Place(_))) {
            self.orders += 1;
        }
        for (at, mut act) in acts {
            let of_none = matches!(act, Act::Visit(_) | Act::Claim { .. } | Act::Leave { .. });
            let order = if of_none { 0 } else { self.orders };
            if let Act::Place(basket) = &mut act {
                basket.promoter = self.known[person].flatten();
            }
            self.put(person, order, at, act);
        }
    }

    fn distributors_join(&mut self) {
        let (from, until) = (self.midnight(self.day), self.midnight(self.day + 1));
        let first = self.joined_at.partition_point(|at| *at < from);
        let last = self.joined_at.partition_point(|at| *at < until);
        for member in first..last {
            let person = self.model.population.members[member].person;
            self.put(person, 0, self.joined_at[member], Act::Join { member });
        }
    }

    fn people_visit(&mut self) {
        let mut random = StdRng::seed_from_u64(
            self.model.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ self.day.unsigned_abs(),
        );
        let model = Arc::clone(&self.model);
        let people = u32::try_from(model.population.people.len()).unwrap_or(u32::MAX);
        let per_day = VISITS_PER_DAY * f64::from(people);
        let (from, until) = (self.midnight(self.day), self.midnight(self.day + 1));
        for at in law::arrivals(per_day, from, until, &mut random) {
            let person = model.population.anybody(&mut random);
            self.meet(person, at, &mut random);
            self.put_all(person, model.visit(person, at, Pace::REAL, &mut random));
        }
    }

    /// Lets somebody come by the link of who referred them: the first time, and at times again.
    fn meet(&mut self, person: usize, at: i64, random: &mut StdRng) {
        let again = random.random_bool(FOLLOWS_AGAIN);
        let promoter = match self.known[person] {
            Some(promoter) => promoter.filter(|_| again),
            None => {
                let promoter = self.model.population.people[person].promoter;
                let promoter = promoter.filter(|member| self.joined_at[*member] < at);
                self.known[person] = Some(promoter);
                promoter
            }
        };
        if let Some(member) = promoter {
            self.put(person, 0, at, Act::Follow { member });
        }
    }

    fn patients_live(&mut self) {
        let (mut courses, day) = (std::mem::take(&mut self.courses), self.day);
        for course in courses.iter_mut().filter(|course| course.enrolled_on <= day) {
            self.patient_lives(course);
        }
        self.courses = courses;
    }

    fn patient_lives(&mut self, course: &mut Course) {
        let model = Arc::clone(&self.model);
        let Some(patient) = &model.population.people[course.person].patient else { return };
        let (day, person, midnight) = (self.day, course.person, self.midnight(self.day));
        let random = &mut course.random;
        let mut enrolled_at = midnight;
        if course.enrolled_on == day {
            enrolled_at += random.random_range(8 * HOUR_MICROS..17 * HOUR_MICROS);
            let starts_on = date(midnight);
            self.put(person, 0, enrolled_at, Act::Enrol { starts_on });
        }
        if course.refill_on == Some(day) {
            let at = (midnight + random.random_range(8 * HOUR_MICROS..22 * HOUR_MICROS))
                .max(enrolled_at + HOUR_MICROS);
            let (_, supply_days) = patient.supply();
            if random.random_bool(REFILLS_IN_THE_MALL) {
                self.meet(person, at, random);
                self.put_all(person, model.refill(person, at, Pace::REAL, random));
            } else {
                let act = Act::Dispense { on: date(midnight), days_supply: supply_days };
                self.put(person, 0, at, act);
            }
            course.supplied_until = course.supplied_until.max(day) + supply_days;
            let next = (course.supplied_until + patient.habit.delay_days(random)).max(day + 1);
            course.refill_on =
                Some(next).filter(|next| course.stops_on.is_none_or(|stops| *next < stops));
        }
        let at_hand =
            day < course.supplied_until && course.stops_on.is_none_or(|stops| day < stops);
        for scheduled_at in patient.reminders(midnight) {
            let dose = behaviour::dose(patient, scheduled_at, at_hand, random);
            let (late, twice) =
                (random.random_bool(CONFIRMED_LATE), random.random_bool(CONFIRMED_TWICE));
            if scheduled_at <= enrolled_at {
                continue;
            }
            let confirmed = patient.reminded && matches!(dose, Act::Dose { taken_at: Some(_), .. });
            let after = match confirmed && late {
                true => CONFIRMED_LATE_MICROS,
                false => KNOWN_AFTER_MICROS,
            };
            if confirmed && twice {
                self.put(person, 0, scheduled_at + after + HOUR_MICROS / 60, dose.clone());
            }
            self.put(person, 0, scheduled_at + after, dose);
        }
        let per_day = patient.kit.map_or(0.0, |kit| kit.readings_per_day);
        for _ in 0..law::poisson(per_day, random) {
            // In the morning or in the evening.
            let hour = if random.random_bool(0.6) { 7 } else { 19 };
            let at = midnight + hour * HOUR_MICROS + random.random_range(0..2 * HOUR_MICROS);
            let (after, reading) = home::measure(patient, at, random);
            if at > enrolled_at {
                self.put(person, 0, at + after, reading);
            }
        }
        if course.follow_up_on == day {
            let kept = random.random_bool(if patient.diligence >= 0.75 { 0.92 } else { 0.65 });
            let again = if kept { FOLLOW_UP_EVERY_DAYS } else { FOLLOW_UP_AGAIN_AFTER_DAYS };
            let mut next = again + random.random_range(-7..=7);
            if kept {
                let at = midnight + random.random_range(8 * HOUR_MICROS..17 * HOUR_MICROS);
                let found = behaviour::follow_up(patient, at, random);
                if found.is_out_of_control(patient.condition) {
                    next = random.random_range(FOLLOW_UP_SOON_DAYS);
                }
                self.put(person, 0, at, Act::FollowUp(found));
            }
            course.follow_up_on = day + next;
        }
    }
}

impl Iterator for History {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        if self.midnight(self.day) >= self.until {
            return None;
        }
        self.goods_come();
        self.mall_promotes();
        self.distributors_join();
        self.people_visit();
        self.patients_live();
        let mut steps = self.pending.remove(&self.day).unwrap_or_default();
        steps.retain(|step| step.at < self.until);
        // Stable: what is drawn first comes first where times are the same.
        steps.sort_by_key(|step| step.at);
        self.day += 1;
        let until = self.midnight(self.day).min(self.until);
        Some(Chunk { until, ends_day: true, steps })
    }
}

#[cfg(test)]
mod tests;
