use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

/// How often a source is looked at when nobody says that it moved, under [`Wake::Notified`].
///
/// A second process may write the same database (an import, say); its commits notify nobody here.
const UNNOTIFIED: Duration = Duration::from_millis(500);

/// How [`Ingest::next`](crate::Ingest::next) learns that a source may have moved.
///
/// Either way a source is only asked for its `data_version`, a counter SQLite keeps of commits of
/// other connections; rows are read when that moved.
#[derive(Debug, Clone)]
pub enum Wake {
    /// The writer is in this process and calls `notify_one` after each commit.
    Notified(Arc<Notify>),
    /// The writer is another process: look this often. 20 ms costs about a hundredth of a core.
    Polled(Duration),
}

impl Wake {
    /// Waits for the next reason to look.
    pub(crate) async fn wait(&self) {
        match self {
            // `notify_one` leaves a permit when nobody waits, so a commit between the last look
            // and this call is not missed.
            Self::Notified(notify) => {
                let _ = tokio::time::timeout(UNNOTIFIED, notify.notified()).await;
            }
            Self::Polled(every) => tokio::time::sleep(*every).await,
        }
    }
}
