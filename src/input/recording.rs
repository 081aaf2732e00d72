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

/// The same for those of UCI's customers, countries and stock codes.
pub(super) const UCI_IDS: i64 = 30_000_000;

/// The same for patients of device files and their persons.
pub(super) const DEVICE_IDS: i64 = 40_000_000;
/// The same for Synthea's patients, persons and dispensings.
pub(super) const SYNTHEA_IDS: i64 = 50_000_000;

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
    /// What else there is to say of the recording, a line each.
    pub(crate) notes: Vec<String>,
}

impl ReplayReport {
    /// Nothing yet.
    pub(super) const fn new(recording: &'static str, unit: &'static str) -> Self {
        let notes = Vec::new();
        Self {
            recording,
            unit,
            written: 0,
            skipped: 0,
            detail_rows: 0,
            elapsed: Duration::ZERO,
            notes,
        }
    }
}

impl fmt::Display for ReplayReport {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate for a person to read needs no more than 52 bits"
    )]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { recording, unit, written, skipped, detail_rows, elapsed, notes } = self;
        let seconds = elapsed.as_secs_f64();
        write!(f, "{recording}: {written} {unit} with {detail_rows} rows in {seconds:.1} s")?;
        if *detail_rows > 0 && seconds > 0.0 {
            write!(f, " ({:.0} rows/s)", *detail_rows as f64 / seconds)?;
        }
        if *skipped > 0 {
            write!(f, "; {skipped} {unit} were there already")?;
        }
        for note in notes {
            write!(f, "\n  {note}")?;
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
    fn until(&self, micros: i64) -> Option<Duration> {
        let speed = self.speed?;
        let recorded = Duration::from_micros(u64::try_from(micros - self.first_micros).ok()?);
        let due = recorded.div_f64(speed);
        due.checked_sub(self.started.elapsed()).filter(|wait| !wait.is_zero())
    }

    /// Waits until the first of `rest` is due, and gives those that are due then, at most `most`, and the
    /// rest of them; nothing when there are none.
    pub(super) async fn due<'a, T>(
        &self,
        rest: &'a [T],
        most: usize,
        at_micros: impl Fn(&T) -> i64,
    ) -> Option<(&'a [T], &'a [T])> {
        if let Some(wait) = self.until(at_micros(rest.first()?)) {
            tokio::time::sleep(wait).await;
        }
        let is_due = |next: &&T| self.until(at_micros(next)).is_none();
        let due = rest.iter().take(most).take_while(is_due).count();
        Some(rest.split_at(due))
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Where data of others is, for tests; none where there is none, unless it must be there.
#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "where the shared data is, is the environment's to say"
)]
pub(super) fn shared_data() -> Option<std::path::PathBuf> {
    let root = || std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let shared = std::env::var_os("MEDLAKE_SHARED").map_or_else(root, Into::into);
    let data = shared.join("data");
    if data.is_dir() {
        return Some(data);
    }
    assert!(std::env::var_os("CI").is_none(), "no shared data in {}", data.display());
    println!("skipped: no shared data");
    None
}
