//! What drives the services: simulated people, and recorded data played again.

pub(crate) mod replay_adherer;
pub(crate) mod replay_completejourney;
pub(crate) mod replay_devices;
pub(crate) mod replay_synthea;
pub(crate) mod replay_uci;
pub(crate) mod simulate;

mod delimited;
mod recording;
