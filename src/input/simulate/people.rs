//! Who there is: people with traits, the patients among them, and who brought whom in. All of it
//! follows from the seed; a person is the same in the past that is made and in the traffic after it.

use chrono::{Days, NaiveDate};
use medlake_operational::{
    chronic_care::patients::{Condition, Sex},
    distribution::distributors::DistributorKind,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{
    DAY_MICROS, HOUR_MICROS,
    catalogue::PRODUCTS,
    home::Kit,
    law::{self, Weighted},
};

/// Ids of simulated persons begin behind this one.
const PERSON_IDS: i64 = 1_000_000;
/// Of a hundred people, so many are patients, the first of all.
const PATIENTS_PERCENT: usize = 15;
/// Of a hundred people, so many are distributors, the last of all.
const DISTRIBUTORS_PERCENT: usize = 4;
/// Distributors that nobody brought in, of a hundred.
const ROOTS_PERCENT: usize = 6;
/// The chance that a patient is reminded of each dose.
const REMINDED: f64 = 0.7;
/// The chance that somebody was referred by a distributor.
const REFERRED: f64 = 0.4;

/// All people, from one seed.
#[derive(Debug)]
pub(super) struct Population {
    pub(super) people: Vec<Person>,
    pub(super) members: Vec<Member>,
    /// How many of the people, the first, are patients.
    pub(super) patients: usize,
    activity: Weighted,
}

#[derive(Debug)]
pub(super) struct Person {
    pub(super) person_id: i64,
    pub(super) sex: Sex,
    pub(super) birth_date: NaiveDate,
    /// The chance to look for a coupon.
    pub(super) thrift: f64,
    /// The distributor who referred them.
    pub(super) promoter: Option<usize>,
    pub(super) patient: Option<Patient>,
}

/// A distributor.
#[derive(Debug)]
pub(super) struct Member {
    /// The person who is it, or acts for it.
    pub(super) person: usize,
    pub(super) parent: Option<usize>,
    pub(super) kind: DistributorKind,
}

/// What is so of a patient, whatever happens to them.
#[derive(Debug)]
pub(super) struct Patient {
    pub(super) condition: Condition,
    /// The product that holds the drug of their plan.
    pub(super) medicine: usize,
    pub(super) doses_per_day: i64,
    pub(super) habit: Habit,
    /// The chance of a dose on time, with medicine at hand.
    pub(super) diligence: f64,
    /// Whether they are reminded of each dose.
    pub(super) reminded: bool,
    /// How they measure at home, if they do.
    pub(super) kit: Option<Kit>,
    /// What they have consented to beside care.
    pub(super) consents: Consents,
    systolic_mmhg: f64,
    diastolic_mmhg: f64,
    glucose_umol_per_l: f64,
    /// What shifts the waves of their vitals against those of others, in days.
    phase_days: i64,
    /// From midnight in Asia/Shanghai to the first reminder of a day.
    first_reminder_micros: i64,
}

/// Purposes that a patient may agree to or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Consents {
    pub(super) analytics: bool,
    pub(super) marketing: bool,
}

/// How a patient refills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    Steady,
    Early,
    Late,
    Gaps,
    Stops,
}

impl Population {
    /// `people` of them, at least 100.
    pub(super) fn new(seed: u64, people: usize) -> Self {
        let people = people.max(100);
        let (patients, members) =
            (people * PATIENTS_PERCENT / 100, people * DISTRIBUTORS_PERCENT / 100);
        let mut random = StdRng::seed_from_u64(seed ^ 0x5e7_0b0b);
        let parents =
            law::preferential_tree(members, (members * ROOTS_PERCENT / 100).max(1), &mut random);
        // Whoever brought in many distributors brought in many buyers too.
        let mut weights = vec![1.0; members];
        for parent in parents.iter().flatten() {
            weights[*parent] += 1.0;
        }
        let promoters = Weighted::new(weights);
        let members: Vec<Member> = (1..)
            .zip(parents)
            .map(|(from_the_end, parent)| {
                let kind = match random.random_range(0..10) {
                    0 => DistributorKind::Institution,
                    1 | 2 => DistributorKind::Pharmacy,
                    _ => DistributorKind::Person,
                };
                Member { person: people - from_the_end, parent, kind }
            })
            .collect();
        let mut activity = Vec::with_capacity(people);
        let people: Vec<Person> = (0..people)
            .map(|number| {
                let mut random = of_person(seed, number);
                // Log-normal: a few come often, most seldom.
                activity.push(law::normal(0.0, 1.0, &mut random).exp());
                let promoter = random
                    .random_bool(REFERRED)
                    .then(|| promoters.draw(&mut random))
                    .filter(|promoter| members[*promoter].person != number);
                Person {
                    person_id: PERSON_IDS + 1 + i64::try_from(number).unwrap_or(0),
                    sex: if random.random_bool(0.5) { Sex::Female } else { Sex::Male },
                    birth_date: birth_date(number < patients, &mut random),
                    thrift: random.random_range(0.1..0.6),
                    promoter,
                    patient: (number < patients).then(|| Patient::draw(&mut random)),
                }
            })
            .collect();
        Self { people, members, patients, activity: Weighted::new(activity) }
    }

    /// Somebody, the more likely the more active they are.
    pub(super) fn anybody(&self, random: &mut StdRng) -> usize {
        self.activity.draw(random)
    }

    /// Whether they are neither patient nor distributor, and nobody referred them.
    pub(super) fn is_buyer_alone(&self, place: usize) -> bool {
        let person = &self.people[place];
        let distributor = place >= self.people.len() - self.members.len();
        person.patient.is_none() && person.promoter.is_none() && !distributor
    }

    /// A patient, all as likely.
    pub(super) fn any_patient(&self, random: &mut StdRng) -> usize {
        random.random_range(0..self.patients)
    }

    /// The patients with their places.
    pub(super) fn patients(&self) -> impl Iterator<Item = (usize, &Person, &Patient)> {
        let patients = self.people.iter().enumerate().take(self.patients);
        patients.filter_map(|(place, person)| Some((place, person, person.patient.as_ref()?)))
    }
}

/// What is drawn of one person, the same however many others there are.
fn of_person(seed: u64, number: usize) -> StdRng {
    let number = u64::try_from(number).unwrap_or(0) + 1;
    StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number)
}

fn birth_date(patient: bool, random: &mut StdRng) -> NaiveDate {
    let (mean, bounds) = if patient { (1963.0, 1935..=1995) } else { (1982.0, 1935..=2006) };
    let year = law::whole_normal(mean, 11.0, bounds, random);
    let first = NaiveDate::from_yo_opt(i32::try_from(year).unwrap_or(1980), 1).unwrap_or_default();
    first + Days::new(random.random_range(0..365))
}

impl Person {
    /// A number for the name of somebody who has none.
    pub(super) fn number(&self) -> i64 {
        self.person_id - PERSON_IDS
    }
}

impl Patient {
    fn draw(random: &mut StdRng) -> Self {
        let condition = match random.random_range(0..10) {
            0..6 => Condition::Hypertension,
            6..9 => Condition::Diabetes,
            _ => Condition::Other,
        };
        let class = if condition == Condition::Diabetes { "A10B" } else { "C0" };
        let medicines: Vec<usize> = (0..PRODUCTS.len())
            .filter(|p| PRODUCTS[*p].drug.is_some_and(|(code, ..)| code.starts_with(class)))
            .collect();
        let habit = Habit::draw(random);
        let diligence = match habit {
            Habit::Steady | Habit::Early => 0.75..0.98,
            Habit::Late | Habit::Gaps | Habit::Stops => 0.45..0.75,
        };
        Self {
            condition,
            medicine: medicines.choose(random).copied().unwrap_or(0),
            doses_per_day: if random.random_bool(1.0 / 3.0) { 2 } else { 1 },
            habit,
            diligence: random.random_range(diligence),
            reminded: random.random_bool(REMINDED),
            kit: Kit::draw(random),
            consents: Consents {
                analytics: random.random_bool(0.7),
                marketing: random.random_bool(0.25),
            },
            systolic_mmhg: law::normal(136.0, 9.0, random),
            diastolic_mmhg: law::normal(84.0, 6.0, random),
            glucose_umol_per_l: law::normal(6_800.0, 900.0, random),
            phase_days: random.random_range(0..42),
            first_reminder_micros: 7 * HOUR_MICROS + random.random_range(0..120) * HOUR_MICROS / 60,
        }
    }

    /// What the upper and lower pressure at a time scatter around: their own mean and a wave of six
    /// weeks.
    pub(super) fn mean_pressure(&self, at: i64) -> (f64, f64) {
        let days = (at.div_euclid(DAY_MICROS) + self.phase_days).rem_euclid(42);
        let phase = f64::from(i32::try_from(days).unwrap_or(0)) / 42.0;
        let drift = 4.0 * (phase * std::f64::consts::TAU).sin();
        (self.systolic_mmhg + drift, self.diastolic_mmhg + drift / 2.0)
    }

    /// Upper and lower pressure, mmHg.
    pub(super) fn pressure(&self, at: i64, random: &mut StdRng) -> (i64, i64) {
        let (systolic, diastolic) = self.mean_pressure(at);
        let systolic = law::whole_normal(systolic, 7.0, 80..=240, random);
        let diastolic = law::whole_normal(diastolic, 5.0, 40..=150, random);
        (systolic.max(diastolic + 10), diastolic)
    }

    /// Glucose, micromol per litre.
    pub(super) fn glucose(&self, random: &mut StdRng) -> i64 {
        law::whole_normal(self.glucose_umol_per_l, 700.0, 1_000..=33_000, random)
    }

    /// The reminders of a day, which begins at `midnight` in Asia/Shanghai: the first between 7 and
    /// 9 in the morning, further ones up to twelve hours later.
    pub(super) fn reminders(&self, midnight: i64) -> impl Iterator<Item = i64> {
        let first = midnight + self.first_reminder_micros;
        let spacing = 12 * HOUR_MICROS / (self.doses_per_day - 1).max(1);
        (0..self.doses_per_day).map(move |dose| first + dose * spacing)
    }

    /// The times of the day of the reminders, as `hh:mm`.
    pub(super) fn clock_times(&self) -> Vec<String> {
        let minutes = self.reminders(0).map(|at| at / (HOUR_MICROS / 60));
        minutes.map(|minute| format!("{:02}:{:02}", minute / 60, minute % 60)).collect()
    }

    /// The programme of care for their condition, if there is one.
    pub(super) fn programme(&self) -> Option<&'static str> {
        match self.condition {
            Condition::Hypertension => Some("hypertension"),
            Condition::Diabetes => Some("type_2_diabetes"),
            Condition::Other => None,
        }
    }

    /// The smallest number of packs for four weeks, and how many days they last.
    pub(super) fn supply(&self) -> (i64, i64) {
        let days = PRODUCTS[self.medicine].drug.map_or(30, |(_, _, days)| days).max(1);
        let packs = (28 + days - 1) / days;
        (packs, packs * days)
    }
}

impl Habit {
    fn draw(random: &mut StdRng) -> Self {
        match random.random_range(0..100) {
            0..58 => Self::Steady,
            58..68 => Self::Early,
            68..80 => Self::Late,
            80..90 => Self::Gaps,
            _ => Self::Stops,
        }
    }

    /// From the end of a supply to the next refill, in days; negative when it comes early.
    pub(super) fn delay_days(self, random: &mut StdRng) -> i64 {
        match self {
            Self::Early => random.random_range(-8..=-3),
            Self::Late => random.random_range(8..=16),
            Self::Gaps if random.random_bool(0.3) => random.random_range(20..=60),
            Self::Steady | Self::Gaps | Self::Stops => law::whole_normal(0.0, 2.0, -5..=5, random),
        }
    }

    /// After how many days of treatment the patient takes no more drugs, if ever.
    pub(super) fn stops_after_days(self, random: &mut StdRng) -> Option<i64> {
        (self == Self::Stops).then(|| random.random_range(40..=160))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::simulate::law::tests::{follows, standard_normal};

    /// 2026-11-21, 08:00 in Asia/Shanghai.
    const MORNING: i64 = 1_795_219_200_000_000;

    #[test]
    fn vitals_are_normal_around_means_that_are_normal() {
        for seed in [1, 5, 42] {
            let population = Population::new(seed, 10_000);
            let patients: Vec<&Patient> = population.patients().map(|(_, _, p)| p).collect();
            assert_eq!(patients.len(), 1_500);
            let mut means: Vec<f64> = patients.iter().map(|p| p.systolic_mmhg).collect();
            assert!(follows(&mut means, |v| standard_normal((v - 136.0) / 9.0)), "seed {seed}");
            assert!(!follows(&mut means, |v| standard_normal((v - 138.0) / 9.0)), "seed {seed}");
            // A reading is a whole number: half a unit of noise makes it continuous again.
            let mut random = StdRng::seed_from_u64(seed);
            let scatter = |wave: f64, random: &mut StdRng| -> Vec<f64> {
                let mut scatter = Vec::new();
                for (day, patient) in (0..).zip(&patients) {
                    let at = MORNING + day * DAY_MICROS;
                    let (mean, _) = patient.mean_pressure(at);
                    let mean = patient.systolic_mmhg + wave * (mean - patient.systolic_mmhg);
                    let (shown, _) = patient.pressure(at, random);
                    let shown = i32::try_from(shown).map(f64::from).unwrap();
                    scatter.push(shown + random.random_range(-0.5..0.5) - mean);
                }
                scatter
            };
            let normal = |v: f64| standard_normal(v / (49.0_f64 + 1.0 / 12.0).sqrt());
            assert!(follows(&mut scatter(1.0, &mut random), normal), "seed {seed}");
            // The wave of six weeks counted twice is told from one.
            assert!(!follows(&mut scatter(-1.0, &mut random), normal), "seed {seed}");
        }
    }

    #[test]
    fn somebody_is_the_same_however_many_others_there_are() {
        let (few, many) = (Population::new(3, 200), Population::new(3, 2_000));
        for (one, other) in few.people.iter().zip(&many.people).take(30) {
            assert_eq!(
                (one.person_id, one.sex, one.birth_date),
                (other.person_id, other.sex, other.birth_date)
            );
        }
    }
}
