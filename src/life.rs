//! Process life: named parts started in order, stopped in reverse, each waited for.

use std::{future::Future, time::Duration};

use tokio::{signal::unix, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// How long a part may take to stop before it is named and left behind.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// SIGTERM and SIGINT, from when this is made on: until then they end the process as a failure.
pub(crate) struct StopSignals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl StopSignals {
    /// Inside a runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn listen() -> std::io::Result<Self> {
        let terminate = unix::signal(unix::SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: unix::signal(unix::SignalKind::interrupt())? })
    }

    pub(crate) async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

struct Part {
    name: &'static str,
    cancel: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

/// The running parts of this process, in the order they were started.
///
/// Producers are started last and stopped first, so that what they produced is still taken in.
#[derive(Default)]
pub(crate) struct Parts {
    parts: Vec<Part>,
}

impl Parts {
    /// Starts a part; it gets a token and must end soon after the token is cancelled.
    #[expect(clippy::disallowed_methods, reason = "its handle is kept here until it has ended")]
    pub(crate) fn start<F>(&mut self, name: &'static str, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let cancel = CancellationToken::new();
        let task = tokio::task::spawn(run(cancel.clone()));
        self.parts.push(Part { name, cancel, task });
    }

    /// Waits for a signal to stop, or the first part that ends by itself; then stops the others,
    /// newest first.
    ///
    /// # Errors
    /// What the part that ended by itself said, or the first error of a part that was stopped.
    pub(crate) async fn run_until(mut self, mut stop: StopSignals) -> anyhow::Result<()> {
        let mut outcome = tokio::select! {
            () = stop.received() => Ok(()),
            (part, ended) = self.first_to_end() => {
                info!(part, "ended by itself");
                ended.map_err(|e| e.context(format!("{part} stopped")))
            }
        };
        info!("stopping");
        while let Some(part) = self.parts.pop() {
            part.cancel.cancel();
            let stopped = match tokio::time::timeout(STOP_PATIENCE, part.task).await {
                Ok(Ok(stopped)) => stopped,
                Ok(Err(panic)) => Err(anyhow::Error::new(panic)),
                Err(_) => {
                    warn!(part = part.name, "did not stop in time and is left behind");
                    continue;
                }
            };
            if let Err(e) = stopped {
                error!(part = part.name, error = format!("{e:#}"), "ended with an error");
                outcome = outcome.and(Err(e.context(format!("{} failed", part.name))));
            }
        }
        outcome
    }

    /// The part that ends first, taken out of the list, and what it said.
    async fn first_to_end(&mut self) -> (&'static str, anyhow::Result<()>) {
        let (ended, at, _) =
            futures::future::select_all(self.parts.iter_mut().map(|p| &mut p.task)).await;
        let part = self.parts.remove(at);
        (part.name, ended.unwrap_or_else(|panic| Err(anyhow::Error::new(panic))))
    }
}
