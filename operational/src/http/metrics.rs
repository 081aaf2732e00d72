//! What Prometheus reads: requests by route and status, how long they took, what waits in the outboxes,
//! connections in use.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::Failure;
use crate::{Services, outbox};

/// Upper bounds of the buckets, in milliseconds.
const BOUNDS_MS: [u64; 10] = [1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000];

#[derive(Debug, Default, Clone)]
struct Taken {
    /// How many took no longer than each bound; the last has no bound.
    buckets: [u64; BOUNDS_MS.len() + 1],
    seconds: f64,
    count: u64,
}

#[derive(Debug, Default)]
struct Counted {
    requests: BTreeMap<(String, String, u16), u64>,
    taken: BTreeMap<(String, String), Taken>,
}

/// Requests since the services were opened.
#[derive(Debug, Default)]
pub(crate) struct Requests(Mutex<Counted>);

impl Requests {
    /// Counts one. `route` is the path as it is described: there are only so many of them.
    pub(crate) fn count(&self, method: &str, route: &str, status: u16, took: Duration) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (method, route) = (method.to_owned(), route.to_owned());
        *counted.requests.entry((method.clone(), route.clone(), status)).or_default() += 1;
        let taken = counted.taken.entry((method, route)).or_default();
        let fits = |bound: &u64| took <= Duration::from_millis(*bound);
        let bucket = BOUNDS_MS.iter().position(fits).unwrap_or(BOUNDS_MS.len());
        taken.buckets[bucket] += 1;
        taken.seconds += took.as_secs_f64();
        taken.count += 1;
    }

    fn write(&self, out: &mut String) {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        out.push_str(
            "# HELP medlake_http_requests_total Requests answered.\n\
             # TYPE medlake_http_requests_total counter\n",
        );
        for ((method, route, status), count) in &counted.requests {
            let _ = writeln!(
                out,
                "medlake_http_requests_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}} {count}"
            );
        }
        out.push_str(
            "# HELP medlake_http_request_seconds How long answers took.\n\
             # TYPE medlake_http_request_seconds histogram\n",
        );
        for ((method, route), taken) in &counted.taken {
            let labels = format!("method=\"{method}\",route=\"{route}\"");
            let mut so_far = 0;
            for (at, in_bucket) in taken.buckets.iter().enumerate() {
                so_far += in_bucket;
                let bound = BOUNDS_MS
                    .get(at)
                    .map_or("+Inf".to_owned(), |ms| format!("{}.{:03}", ms / 1_000, ms % 1_000));
                let _ = writeln!(
                    out,
                    "medlake_http_request_seconds_bucket{{{labels},le=\"{bound}\"}} {so_far}"
                );
            }
            let _ = writeln!(out, "medlake_http_request_seconds_sum{{{labels}}} {}", taken.seconds);
            let _ = writeln!(out, "medlake_http_request_seconds_count{{{labels}}} {}", taken.count);
        }
    }
}

/// The services' metrics.
#[utoipa::path(get, path = "/metrics", tag = "service",
    responses((status = 200, body = String, content_type = "text/plain"),
        (status = "default", body = super::ErrorBody)))]
pub(crate) async fn get(State(services): State<Services>) -> Result<Response, Failure> {
    let mut out = String::new();
    services.requests().write(&mut out);
    out.push_str(
        "# HELP medlake_outbox_messages Messages not delivered, by who wrote them and who has not got them.\n\
         # TYPE medlake_outbox_messages gauge\n\
         # HELP medlake_outbox_lag_seconds How long the oldest of them waits.\n\
         # TYPE medlake_outbox_lag_seconds gauge\n\
         # HELP medlake_database_connections Connections that are open, and those in use.\n\
         # TYPE medlake_database_connections gauge\n",
    );
    for waiting in outbox::waiting(&services).await? {
        let labels = format!("service=\"{}\",consumer=\"{}\"", waiting.service, waiting.consumer);
        for (state, count) in [("pending", waiting.pending), ("refused", waiting.refused)] {
            let _ = writeln!(out, "medlake_outbox_messages{{{labels},state=\"{state}\"}} {count}");
        }
        let lag = waiting.oldest_at.map_or(0, |at| (services.now() - at).max(0) / 1_000_000);
        let _ = writeln!(out, "medlake_outbox_lag_seconds{{{labels}}} {lag}");
    }
    for database in services.databases() {
        let name = database.name();
        let (open, idle) = database.connections();
        for (state, count) in [("open", open), ("in_use", open.saturating_sub(idle))] {
            let _ = writeln!(
                out,
                "medlake_database_connections{{database=\"{name}\",state=\"{state}\"}} {count}"
            );
        }
    }
    services.measured_elsewhere(&mut out);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], out).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_in_every_bucket_that_is_long_enough() {
        let requests = Requests::default();
        requests.count("GET", "/x/{id}", 200, Duration::from_millis(5));
        requests.count("GET", "/x/{id}", 404, Duration::from_secs(60));
        let mut out = String::new();
        requests.write(&mut out);
        for line in [
            "medlake_http_requests_total{method=\"GET\",route=\"/x/{id}\",status=\"404\"} 1",
            "medlake_http_request_seconds_bucket{method=\"GET\",route=\"/x/{id}\",le=\"0.003\"} 0",
            "medlake_http_request_seconds_bucket{method=\"GET\",route=\"/x/{id}\",le=\"0.010\"} 1",
            "medlake_http_request_seconds_bucket{method=\"GET\",route=\"/x/{id}\",le=\"+Inf\"} 2",
            "medlake_http_request_seconds_count{method=\"GET\",route=\"/x/{id}\"} 2",
        ] {
            assert!(out.contains(line), "{line}\n{out}");
        }
    }
}
