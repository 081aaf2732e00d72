//! What the subjects share: a lake, its rows, medians.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use medlake_lake::{Lake, LakeConfig};

/// How the code under measurement was compiled.
pub(crate) fn optimisation() -> &'static str {
    if cfg!(debug_assertions) {
        "dev profile: optimisation level 1 with debug assertions, for our code and all libraries"
    } else {
        "an optimised profile"
    }
}

pub(crate) fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values[values.len() / 2]
}

/// Of sorted values, the one that so many of a hundred are not above.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

/// How a lake in this folder is by default.
pub(crate) fn config(folder: &Path) -> LakeConfig {
    #[expect(clippy::disallowed_methods, reason = "a measurement is a program of its own")]
    let clock = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        i64::try_from(now.as_micros()).unwrap()
    };
    LakeConfig::new(folder, Arc::new(clock))
}

/// As it is when nothing is merged by itself.
pub(crate) fn unmerged(folder: &Path) -> LakeConfig {
    let mut config = config(folder);
    config.small_file_count = usize::MAX;
    config.dead_percent = 100;
    config
}

/// The lake of this folder, which keeps what is flushed as it is.
pub(crate) async fn lake(folder: &Path) -> Lake {
    Lake::open(unmerged(folder)).await.unwrap()
}

/// The most memory this process ever had in use, in bytes; zero where the system does not say.
pub(crate) fn peak_resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kilobytes.unwrap_or(0_usize) << 10
}

/// How long this process was on a core so far, all threads together; zero where the system does not
/// say.
pub(crate) fn on_core() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The fourteenth field and the next, in hundredths of a second; the second may hold spaces.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    Duration::from_millis(fields.map(|f| f.parse::<u64>().unwrap_or(0) * 10).sum())
}

/// The recorded order lines that others published; see their README.
#[expect(clippy::disallowed_methods, reason = "a measurement learns where its data is")]
pub(crate) fn recorded() -> PathBuf {
    let shared = std::env::var_os("MEDLAKE_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let folder = shared.join("data/completejourney");
    assert!(folder.exists(), "{folder:?} is not there: set MEDLAKE_SHARED");
    folder
}
