//! What the replays share: ids that cannot meet other ids, pace, and the report at the end.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// Added to recorded ids of persons and pharmacies, which are small numbers, so that they are never
/// those of simulated traffic in the same databases.
pub(super) const JOURNEY_IDS: i64 = 10_000_000;
/// The same for the ids of AdhereR's patients, persons and dispensings.
pub(super) const ADHERER_IDS: i64 = 20_000_000;

/// Microseconds from midnight in Asia/Shanghai to the same wall-clock time in UTC.
pub(super) const SHANGHAI_MICROS: i64 = 8 * 3600 * 1_000_000;

/// The provinces of the mainland, as the screen's map knows them.
pub(super) const PROVINCES: [&str; 31] = [
    "北京",
    "天津",
    "河北",
    "山西",
    "内蒙古",
    "辽宁",
    "吉林",
    "黑龙江",
    "上海",
    "江苏",
    "浙江",
    "安徽",
    "福建",
    "江西",
    "山东",
    "河南",
    "湖北",
    "湖南",
    "广东",
    "广西",
    "海南",
    "重庆",
    "四川",
    "贵州",
    "云南",
    "西藏",
    "陕西",
    "甘肃",
    "青海",
    "宁夏",
    "新疆",
];

/// What a replay did.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReplayReport {
    /// What was played.
    pub(crate) recording: &'static str,
    /// What one event is, in the plural, such as `orders`.
    pub(crate) unit: &'static str,
    /// Events that were written.
    pub(crate) written: u64,
    /// Events that were there already, from a replay that was stopped.
    pub(crate) skipped: u64,
    /// Rows of detail that were written with them, such as order lines.
    pub(crate) detail_rows: u64,
    /// How long the writing took.
    pub(crate) elapsed: Duration,
}

impl fmt::Display for ReplayReport {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate for a person to read needs no more than 52 bits"
    )]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { recording, unit, written, skipped, detail_rows, elapsed } = self;
        let seconds = elapsed.as_secs_f64();
        write!(f, "{recording}: {written} {unit} with {detail_rows} rows in {seconds:.1} s")?;
        if *detail_rows > 0 && seconds > 0.0 {
            write!(f, " ({:.0} rows/s)", *detail_rows as f64 / seconds)?;
        }
        if *skipped > 0 {
            write!(f, "; {skipped} {unit} were there already")?;
        }
        Ok(())
    }
}

/// When a recorded time is due.
pub(super) struct Pace {
    started: Instant,
    /// The recorded time that is due at `started`, in microseconds.
    first_micros: i64,
    /// Recorded seconds a second; none for as fast as it goes.
    speed: Option<f64>,
}

impl Pace {
    /// Starts now, with what was recorded at `first_micros`.
    pub(super) fn start(first_micros: i64, speed: Option<f64>) -> anyhow::Result<Self> {
        if let Some(speed) = speed
            && !(speed.is_finite() && speed > 0.0)
        {
            anyhow::bail!("the speed must be a positive number, not {speed}");
        }
        Ok(Self { started: Instant::now(), first_micros, speed })
    }

    /// How long until what was recorded at `micros` is due; nothing when it is.
    pub(super) fn until(&self, micros: i64) -> Option<Duration> {
        let speed = self.speed?;
        let recorded = Duration::from_micros(u64::try_from(micros - self.first_micros).ok()?);
        let due = recorded.div_f64(speed);
        due.checked_sub(self.started.elapsed()).filter(|wait| !wait.is_zero())
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
