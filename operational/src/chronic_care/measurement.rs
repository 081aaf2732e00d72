//! Rules of a measurement, without a database: units, plausibility, clocks of devices.

use crate::{OperationalError, database::words};

/// Millimetres of mercury in a kilopascal.
const MMHG_PER_KPA: f64 = 1.0 / 0.133_322_387_415;
/// What a mmol/L of glucose is in mg/dL: a hundredth of its molar mass of 180.16 g/mol.
const MG_PER_DL_PER_MMOL_PER_L: f64 = 18.016;
const MINUTE_MICROS: i64 = 60 * 1_000_000;
/// How far a device's clock may be off before its times are corrected.
const CLOCK_TOLERANCE_MICROS: i64 = MINUTE_MICROS;
/// 2000-01-01T00:00:00Z: a device that says less has lost its clock.
const CLOCK_LOST_BEFORE: i64 = 946_684_800_000_000;

words! {
    /// What is remarkable about a reading.
    pub enum Flag {
        /// A value that is not seen in living people.
        Implausible = "implausible",
        /// The upper pressure is not above the lower one.
        Reversed = "reversed",
        /// Another source gave the same values within a minute.
        Duplicate = "duplicate",
        /// The clock of the device was off, and the time is corrected by what it was off.
        ClockCorrected = "clock_corrected",
        /// The time was in the future; it is that of the receipt.
        ClockAhead = "clock_ahead",
        /// The device had no time; it is that of the receipt.
        ClockLost = "clock_lost",
        /// The device was past the day to which it is valid.
        DeviceExpired = "device_expired",
    }
}

impl Flag {
    /// Whether a reading with it can be right.
    #[must_use]
    pub const fn is_harmless(self) -> bool {
        matches!(self, Self::ClockCorrected)
    }
}

/// Values of a reading in the units they are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Values {
    /// Upper pressure.
    pub systolic_mmhg: Option<i64>,
    /// Lower pressure.
    pub diastolic_mmhg: Option<i64>,
    /// Heart beats a minute.
    pub pulse_per_min: Option<i64>,
    /// Micromol per litre.
    pub glucose_umol_per_l: Option<i64>,
}

impl Values {
    /// What is remarkable about them.
    #[must_use]
    pub fn flags(&self) -> Vec<Flag> {
        let outside = |value: Option<i64>, low: i64, high: i64| {
            value.is_some_and(|v| !(low..=high).contains(&v))
        };
        let mut flags = Vec::new();
        if outside(self.systolic_mmhg, 60, 260)
            || outside(self.diastolic_mmhg, 30, 160)
            || outside(self.pulse_per_min, 25, 240)
            || outside(self.glucose_umol_per_l, 1_000, 33_300)
        {
            flags.push(Flag::Implausible);
        }
        if self.systolic_mmhg.zip(self.diastolic_mmhg).is_some_and(|(upper, lower)| upper <= lower)
        {
            flags.push(Flag::Reversed);
        }
        flags
    }
}

/// A pressure in mmHg.
///
/// # Errors
/// `Invalid` when it is no number of a device.
pub fn mmhg_of_kpa(kpa: f64) -> Result<i64, OperationalError> {
    rounded(kpa * MMHG_PER_KPA)
}

/// Glucose in micromol per litre, of mmol/L.
///
/// # Errors
/// `Invalid` when it is no number of a device.
pub fn umol_per_l_of_mmol_per_l(mmol_per_l: f64) -> Result<i64, OperationalError> {
    rounded(mmol_per_l * 1000.0)
}

/// Glucose in micromol per litre, of mg/dL.
///
/// # Errors
/// `Invalid` when it is no number of a device.
pub fn umol_per_l_of_mg_per_dl(mg_per_dl: f64) -> Result<i64, OperationalError> {
    rounded(mg_per_dl / MG_PER_DL_PER_MMOL_PER_L * 1000.0)
}

fn rounded(value: f64) -> Result<i64, OperationalError> {
    if !(0.0..=1e6).contains(&value) {
        return Err(OperationalError::invalid("no device shows such a value"));
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is between 0 and a million")]
    let whole = value.round() as i64;
    Ok(whole)
}

/// By how much a device's clock is behind ours, when it says what time it has at the upload. Small
/// differences are the time of the upload itself.
#[must_use]
pub fn clock_offset(device_now: Option<i64>, received_at: i64) -> Option<i64> {
    let offset = received_at.saturating_sub(device_now?);
    Some(if offset.abs() <= CLOCK_TOLERANCE_MICROS { 0 } else { offset })
}

/// When a reading was measured, by a device's time and by how much its clock is off, if that is known.
#[must_use]
pub fn measured_at(device_time: i64, offset: Option<i64>, received_at: i64) -> (i64, Option<Flag>) {
    let (at, flag) = match offset {
        Some(0) => (device_time, None),
        Some(offset) => (device_time.saturating_add(offset), Some(Flag::ClockCorrected)),
        None if device_time < CLOCK_LOST_BEFORE => return (received_at, Some(Flag::ClockLost)),
        None => (device_time, None),
    };
    if at > received_at.saturating_add(CLOCK_TOLERANCE_MICROS) {
        return (received_at, Some(Flag::ClockAhead));
    }
    if at < 0 {
        return (received_at, Some(Flag::ClockLost));
    }
    (at, flag)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_are_converted_once() {
        // 16 kPa is 120 mmHg; 126 mg/dL is 7.0 mmol/L, 70 and 180 are 3.9 and 10.0.
        assert_eq!(mmhg_of_kpa(16.0).unwrap(), 120);
        assert_eq!(umol_per_l_of_mg_per_dl(126.0).unwrap(), 6_994);
        assert_eq!(umol_per_l_of_mg_per_dl(70.0).unwrap(), 3_885);
        assert_eq!(umol_per_l_of_mg_per_dl(180.0).unwrap(), 9_991);
        assert_eq!(umol_per_l_of_mmol_per_l(6.3).unwrap(), 6_300);
        for wrong in [-1.0, f64::NAN, f64::INFINITY, 1e12] {
            assert!(umol_per_l_of_mg_per_dl(wrong).is_err());
        }
    }

    #[test]
    fn a_clock_that_is_off_is_corrected_or_told_of() {
        let now = 1_795_219_200_000_000;
        let hour = 60 * MINUTE_MICROS;
        let off = |device_now| clock_offset(Some(device_now), now);
        assert_eq!((off(now - MINUTE_MICROS), off(now - hour)), (Some(0), Some(hour)));
        for (time, offset, expected) in [
            (now - hour, None, (now - hour, None)),
            (now - hour, Some(0), (now - hour, None)),
            // Two hours behind: what it measured an hour ago says three.
            (now - 3 * hour, Some(2 * hour), (now - hour, Some(Flag::ClockCorrected))),
            (now + hour, Some(-2 * hour), (now - hour, Some(Flag::ClockCorrected))),
            (now + hour, None, (now, Some(Flag::ClockAhead))),
            (now + hour, Some(2 * hour), (now, Some(Flag::ClockAhead))),
            (5, None, (now, Some(Flag::ClockLost))),
            // Reset to 1970, and it says so.
            (5 + hour, Some(now - 5 - 2 * hour), (now - hour, Some(Flag::ClockCorrected))),
            (i64::MIN, Some(i64::MAX), (now, Some(Flag::ClockLost))),
            (i64::MAX, Some(i64::MAX), (now, Some(Flag::ClockAhead))),
        ] {
            assert_eq!(measured_at(time, offset, now), expected, "{time} {offset:?}");
        }
    }

    proptest! {
        #[test]
        fn no_reading_is_of_the_future(time in any::<i64>(), device_now in any::<Option<i64>>()) {
            let now = 1_795_219_200_000_000;
            let (at, _) = measured_at(time, clock_offset(device_now, now), now);
            prop_assert!((0..=now + MINUTE_MICROS).contains(&at));
        }
    }
}
