//! What people measure at home: devices whose clocks go wrong, readings that come late, twice, without
//! a time or cannot be.

use medlake_operational::chronic_care::{
    devices::{DeviceKind, DeviceReading, Upload},
    patients::Condition,
    readings::ReadingKind,
};
use rand::{RngExt, rngs::StdRng};

use super::{
    DAY_MICROS,
    behaviour::{self, Act},
    law,
    people::Patient,
};

/// The chance that a device shows what cannot be.
pub(super) const FAULTS: f64 = 0.01;
/// The chance that a reading is sent twice.
pub(super) const TWICE: f64 = 0.03;
/// The chance that a reading has no time, as after a change of the battery.
pub(super) const NO_TIME: f64 = 0.005;
/// The chance that somebody writes their readings down, and does not let the device send them.
const BY_HAND: f64 = 0.15;
/// The chance that a device says at an upload what time it has.
const TELLS_TIME: f64 = 0.8;
/// By how many seconds a clock goes wrong in a day: its deviation.
pub(super) const DRIFT_SECONDS_A_DAY: f64 = 3.0;
/// How often a clock is set right, with its battery.
const SET_EVERY_DAYS: i64 = 180;
/// From a reading to its upload, in seconds, on average.
pub(super) const SENT_AFTER_SECONDS: f64 = 300.0;

/// How a patient measures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kit {
    /// How many readings a day on average.
    pub(super) readings_per_day: f64,
    /// Whether they enter what they read, instead of the device.
    pub(super) by_hand: bool,
    pub(super) drift_seconds_a_day: f64,
    tells_time: bool,
    /// Days since the clock was set right, at the beginning of 1970.
    set_days: i64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reading {
    pub(super) kind: ReadingKind,
    /// When it was taken.
    pub(super) measured_at: i64,
    pub(super) systolic_mmhg: Option<i64>,
    pub(super) diastolic_mmhg: Option<i64>,
    pub(super) pulse_per_min: Option<i64>,
    pub(super) glucose_umol_per_l: Option<i64>,
    /// How a device sends it; none of one that is written down.
    pub(super) sent: Option<Sent>,
}

/// What a device says of a reading beside its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    /// When it was taken, by its clock.
    pub(super) shown_at: i64,
    /// By how much its clock is ahead, if it says so at the upload.
    pub(super) ahead_micros: Option<i64>,
    /// Whether the upload comes again.
    pub(super) again: bool,
}

impl Kit {
    /// For somebody who measures at home, which 60 of 100 do.
    pub(super) fn draw(random: &mut StdRng) -> Option<Self> {
        let kit = Self {
            readings_per_day: random.random_range(0.2..1.0),
            by_hand: random.random_bool(BY_HAND),
            drift_seconds_a_day: law::normal(0.0, DRIFT_SECONDS_A_DAY, random),
            tells_time: random.random_bool(TELLS_TIME),
            set_days: random.random_range(0..SET_EVERY_DAYS),
        };
        random.random_bool(0.6).then_some(kit)
    }

    /// By how much the clock is ahead at a time.
    fn ahead_micros(&self, at: i64) -> i64 {
        let days = (at.div_euclid(DAY_MICROS) + self.set_days).rem_euclid(SET_EVERY_DAYS);
        let days = f64::from(i32::try_from(days).unwrap_or(0));
        behaviour::micros(self.drift_seconds_a_day * days)
    }
}

/// The devices of a patient who lets them send their readings.
pub(super) fn devices(patient: &Patient) -> &'static [DeviceKind] {
    let sends = patient.kit.is_some_and(|kit| !kit.by_hand);
    match (sends, patient.condition) {
        (false, _) => &[],
        (true, Condition::Diabetes) => {
            &[DeviceKind::BloodPressureMonitor, DeviceKind::GlucoseMeter]
        }
        (true, _) => &[DeviceKind::BloodPressureMonitor],
    }
}

/// What a patient measures at home at a time, and after how long it is known.
pub(super) fn measure(patient: &Patient, at: i64, random: &mut StdRng) -> (i64, Act) {
    let fault = random.random_bool(FAULTS);
    let glucose = patient.condition == Condition::Diabetes && random.random_bool(0.7);
    let after = behaviour::micros(law::exponential(SENT_AFTER_SECONDS, random));
    let (no_time, again) = (random.random_bool(NO_TIME), random.random_bool(TWICE));
    let sent = patient.kit.filter(|kit| !kit.by_hand).map(|kit| {
        let ahead = kit.ahead_micros(at);
        if no_time {
            // As if it had begun a day ago, at the beginning of 1970.
            return Sent { shown_at: at.rem_euclid(DAY_MICROS), ahead_micros: None, again };
        }
        let ahead_micros = kit.tells_time.then_some(ahead);
        Sent { shown_at: at + ahead, ahead_micros, again }
    });
    let nothing = Reading {
        kind: ReadingKind::BloodPressure,
        measured_at: at,
        systolic_mmhg: None,
        diastolic_mmhg: None,
        pulse_per_min: None,
        glucose_umol_per_l: None,
        sent,
    };
    let reading = if glucose {
        // A strip that has gone off shows next to nothing.
        let shown = if fault { 300 } else { patient.glucose(random) };
        Reading { kind: ReadingKind::Glucose, glucose_umol_per_l: Some(shown), ..nothing }
    } else {
        let (systolic, diastolic) = patient.pressure(at, random);
        // A cuff that was put on wrongly gives the pressures the wrong way round.
        let (upper, lower) = if fault { (diastolic, systolic) } else { (systolic, diastolic) };
        Reading {
            systolic_mmhg: Some(upper),
            diastolic_mmhg: Some(lower),
            pulse_per_min: Some(law::whole_normal(74.0, 8.0, 40..=180, random)),
            ..nothing
        }
    };
    (after, Act::Measure(reading))
}

impl Reading {
    pub(super) fn device(&self) -> DeviceKind {
        match self.kind {
            ReadingKind::BloodPressure => DeviceKind::BloodPressureMonitor,
            ReadingKind::Glucose => DeviceKind::GlucoseMeter,
        }
    }

    /// What the device sends at a time.
    pub(super) fn upload(&self, sent: &Sent, now: i64) -> Upload {
        let reading = DeviceReading {
            measured_at: sent.shown_at,
            systolic_mmhg: self.systolic_mmhg,
            diastolic_mmhg: self.diastolic_mmhg,
            pulse_per_min: self.pulse_per_min,
            glucose_umol_per_l: self.glucose_umol_per_l,
            ..DeviceReading::default()
        };
        Upload { device_now: sent.ahead_micros.map(|ahead| now + ahead), readings: vec![reading] }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::input::simulate::{
        law::tests::{fits, follows, standard_normal},
        people::Population,
    };

    /// 2026-11-21, 08:00 in Asia/Shanghai.
    const MORNING: i64 = 1_795_219_200_000_000;

    #[test]
    fn clocks_go_wrong_by_a_normal_rate_and_say_so_as_often_as_is_said() {
        for seed in [1, 5, 42] {
            let population = Population::new(seed, 20_000);
            let kits: Vec<Kit> =
                population.patients().filter_map(|(_, _, patient)| patient.kit).collect();
            let mut drifts: Vec<f64> = kits.iter().map(|kit| kit.drift_seconds_a_day).collect();
            assert!(follows(&mut drifts, |d| standard_normal(d / 3.0)), "seed {seed}");
            assert!(!follows(&mut drifts, |d| standard_normal(d / 4.0)), "seed {seed}");
            let shares = |chance: f64| [chance, 1.0 - chance].map(|c| c * kits.len() as f64);
            let counted = |yes: fn(&Kit) -> bool| {
                let yes = kits.iter().filter(|kit| yes(kit)).count();
                [yes as f64, (kits.len() - yes) as f64]
            };
            assert!(fits(&counted(|kit| kit.by_hand), &shares(0.15)), "seed {seed}");
            assert!(!fits(&counted(|kit| kit.by_hand), &shares(0.22)), "seed {seed}");
            assert!(fits(&counted(|kit| kit.tells_time), &shares(0.8)), "seed {seed}");
            assert!(!fits(&counted(|kit| kit.tells_time), &shares(0.72)), "seed {seed}");
        }
    }

    #[test]
    fn readings_come_late_twice_without_a_time_or_cannot_be_as_often_as_is_said() {
        for seed in [1, 5, 42] {
            let population = Population::new(seed, 4_000);
            let senders: Vec<&Patient> = population
                .patients()
                .map(|(_, _, patient)| patient)
                .filter(|patient| !devices(patient).is_empty())
                .collect();
            let mut random = StdRng::seed_from_u64(seed);
            let (mut delays, mut classes) = (Vec::new(), [0.0; 4]);
            for turn in 0..30_000 {
                let patient = senders[turn % senders.len()];
                let (after, act) = measure(patient, MORNING, &mut random);
                let Act::Measure(reading) = act else { panic!("{act:?}") };
                let sent = reading.sent.unwrap();
                let fault = reading.glucose_umol_per_l == Some(300)
                    || reading.systolic_mmhg < reading.diastolic_mmhg;
                let class = match (fault, sent.again, sent.shown_at < DAY_MICROS) {
                    (true, ..) => 0,
                    (_, true, _) => 1,
                    (_, _, true) => 2,
                    _ => 3,
                };
                classes[class] += 1.0;
                delays.push(after as f64 / 1e6);
                let upload = reading.upload(&sent, MORNING + after);
                // What a clock that says its time is off by is known.
                if let Some(now) = upload.device_now {
                    assert_eq!(sent.shown_at - (now - MORNING - after), MORNING);
                }
            }
            let shares = |fault: f64, twice: f64, no_time: f64| {
                let (fine, once) = (1.0 - fault, (1.0 - fault) * (1.0 - twice));
                [fault, fine * twice, once * no_time, once * (1.0 - no_time)].map(|s| s * 30_000.0)
            };
            assert!(fits(&classes, &shares(0.01, 0.03, 0.005)), "seed {seed}: {classes:?}");
            assert!(!fits(&classes, &shares(0.015, 0.03, 0.005)), "seed {seed}");
            assert!(!fits(&classes, &shares(0.01, 0.038, 0.005)), "seed {seed}");
            assert!(!fits(&classes, &shares(0.01, 0.03, 0.008)), "seed {seed}");
            assert!(follows(&mut delays, |d| 1.0 - (-d / 300.0).exp()), "seed {seed}");
            assert!(!follows(&mut delays, |d| 1.0 - (-d / 315.0).exp()), "seed {seed}");
        }
    }
}
