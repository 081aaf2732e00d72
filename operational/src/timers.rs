//! What the services do by the clock, without being asked.

use std::{future::Future, time::Duration};

use futures::future::BoxFuture;

use crate::{
    OperationalError, Services, chronic_care, distribution, files, identifiers::rotation, mall,
    notification,
};

/// How often it is looked whether something is due.
const EVERY: Duration = Duration::from_secs(60);

/// Something that is due at times.
pub(crate) struct Timer {
    /// For the log.
    pub(crate) name: &'static str,
    /// Does what is due, in transactions of its own, each of which may be done again.
    pub(crate) run: for<'a> fn(&'a Services) -> BoxFuture<'a, Result<(), OperationalError>>,
}

/// All of them. They come one after another, and one that fails holds up no other.
const TIMERS: &[Timer] = &[
    mall::SWEEP,
    mall::points::EXPIRY,
    distribution::RELEASE,
    chronic_care::SWEEP,
    notification::RETRIES,
    files::SWEEP,
    rotation::REWRAP,
];

/// Does what is due now. The error is the first of those there were.
pub(crate) async fn run_due(services: &Services) -> Result<(), OperationalError> {
    let mut done = Ok(());
    for timer in TIMERS {
        let this = (timer.run)(services).await;
        if let Err(error) = &this {
            tracing::error!(
                timer = timer.name,
                error = error as &dyn std::error::Error,
                "what was due could not be done; trying again in a minute"
            );
        }
        done = done.and(this);
    }
    done
}

pub(crate) async fn run(services: &Services, stop: impl Future<Output = ()> + Send) {
    let due = async {
        loop {
            // Logged where it happens.
            let _ = run_due(services).await;
            tokio::time::sleep(EVERY).await;
        }
    };
    tokio::select! {
        () = stop => {}
        () = due => {}
    }
}
