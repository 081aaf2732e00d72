//! What time brings about by itself: steps of programmes are due and overdue, slots of medication come and
//! are missed, devices expire, identifiers whose time is over are destroyed.
//!
//! Each sweep does some of what is due in a transaction and says how much; it is run again until nothing
//! is due. One that was stopped in the middle, or runs in two processes, does nothing twice.

use futures::future::BoxFuture;

use super::{devices, privacy, programmes, slots};
use crate::{
    OperationalError, Services, WriteTransaction, calendar::DAY_MICROS, database::ATTEMPTS,
};

/// Does some of what is due at a time (microseconds since 1970, UTC), and says how much.
type Sweep =
    for<'a> fn(&'a mut WriteTransaction, i64) -> BoxFuture<'a, Result<u64, OperationalError>>;

const SWEEPS: &[(&str, Sweep)] = &[
    ("steps", |tx, now| Box::pin(programmes::sweep(tx, now, now - DAY_MICROS))),
    ("slots ahead", |tx, now| Box::pin(slots::extend(tx, now))),
    ("reminders", |tx, now| Box::pin(slots::remind(tx, now))),
    ("missed doses", |tx, now| Box::pin(slots::miss(tx, now))),
    ("devices", |tx, now| Box::pin(devices::sweep(tx, now))),
    ("erasures", |tx, now| Box::pin(privacy::sweep(tx, now))),
];

/// Does in the caller's transaction what was due by a time in the past (microseconds since 1970, UTC), so
/// that a past can be recorded. Patients are not reminded of it; alerts are raised.
///
/// # Errors
/// When the database fails.
pub async fn of_past(tx: &mut WriteTransaction, at: i64) -> Result<(), OperationalError> {
    while programmes::sweep(tx, at, i64::MAX).await? > 0 {}
    while slots::extend(tx, at).await? > 0 {}
    while slots::miss(tx, at).await? > 0 {}
    while devices::sweep(tx, at).await? > 0 {}
    Ok(())
}

/// Does all that is due now; gives how much that was. A sweep that fails holds up no other.
///
/// # Errors
/// The first one there was. What was done before stays done.
pub(crate) async fn run(services: &Services) -> Result<u64, OperationalError> {
    let mut total = Ok(0);
    for (name, sweep) in SWEEPS {
        let done = one(services, name, *sweep).await;
        if let Err(error) = &done {
            tracing::error!(
                sweep = name,
                error = error as &dyn std::error::Error,
                "what was due could not be done"
            );
        }
        total = total.and_then(|total| done.map(|done| total + done));
    }
    total
}

async fn one(services: &Services, name: &str, sweep: Sweep) -> Result<u64, OperationalError> {
    let (mut total, mut attempt) = (0, 1);
    loop {
        let now = services.now();
        let mut tx = services.chronic_care().begin(now).await?;
        let done = match sweep(&mut tx, now).await {
            // Nothing was due, and nothing is to be read by others.
            Ok(0) => tx.rollback().await.map(|()| 0),
            done => tx.end(done).await,
        };
        match done {
            Ok(0) => return Ok(total),
            Ok(done) => {
                tracing::info!(sweep = name, done, "swept");
                (total, attempt) = (total + done, 1);
            }
            Err(OperationalError::Contended { .. }) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}
