//! Storage that is slower than the source: reading has to wait for it, and memory must not grow.

use std::path::Path;

use crate::{
    line::Line,
    platform::{Platform, Ports},
    s3_server::{self, S3Server},
    until,
};
use serde_json::Value;
use std::time::Instant;

/// What storage takes, in bytes a second.
const RATE: u32 = 1_000_000;
const BUCKET: &str = "slow";

/// A lake in a bucket, at the end of a line.
pub(crate) struct Slow {
    _server: S3Server,
    line: Line,
    pub(crate) settings: Vec<(String, String)>,
}

impl Slow {
    /// With `settings` of its source. Quick at first.
    pub(crate) async fn start(settings: &[(String, String)]) -> Self {
        let server = S3Server::start();
        server.make_bucket(BUCKET).await;
        let line = Line::start(server.port);
        let set = |key: &str, value: &str| (format!("MEDLAKE__LAKE__{key}"), value.to_owned());
        let own = vec![
            set("WAREHOUSE", &format!("s3://{BUCKET}")),
            set("S3__ENDPOINT", &format!("http://127.0.0.1:{}", line.port)),
            set("S3__ACCESS_KEY_ID", s3_server::ACCESS_KEY),
            set("S3__SECRET_ACCESS_KEY", s3_server::SECRET_KEY),
            set("S3__ALLOW_HTTP", "true"),
        ];
        Self { _server: server, line, settings: [own, settings.to_vec()].concat() }
    }

    /// Reads `changes` that the source has beyond the lake in `data`, the last of which makes `last`
    /// answer one.
    pub(crate) async fn measure(&self, data: &Path, changes: u64, last: &str) {
        let mut platform =
            Platform::launch(data, Ports::free(), &["--no-simulate"], &self.settings);
        until(&mut platform, "select 1", &Value::from(1)).await;
        self.line.slow_down(RATE);
        let started = Instant::now();
        until(&mut platform, last, &Value::from(1)).await;
        println!(
            "  into storage that takes {} kB/s: {:.0} changes/s, peak memory {} MiB",
            RATE / 1_000,
            changes as f64 / started.elapsed().as_secs_f64(),
            platform.peak_memory_bytes() >> 20
        );
    }
}
