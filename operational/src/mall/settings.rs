use std::{collections::BTreeMap, fmt};

const MINUTE_MICROS: i64 = 60_000_000;
const DAY_MICROS: i64 = 86_400_000_000;

/// What the mall goes by. The defaults are those of a small hospital.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long an order may stay unpaid before it is closed, in microseconds.
    pub unpaid_closes_after_micros: i64,
    /// How long after its shipping an order counts as received if nobody says so, in microseconds.
    pub received_after_micros: i64,
    /// How long a visit through a referral link counts towards an order, in microseconds.
    pub referral_window_micros: i64,
    /// How long a visit through a campaign counts towards an order, in microseconds.
    pub campaign_window_micros: i64,
    /// How long a visit goes on without a page being viewed, in microseconds.
    pub visit_idle_micros: i64,
    /// The secret that a payment channel signs its notifications with, by the channel's name.
    pub payment_channels: BTreeMap<String, ChannelSecret>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            unpaid_closes_after_micros: 30 * MINUTE_MICROS,
            received_after_micros: 10 * DAY_MICROS,
            referral_window_micros: 15 * DAY_MICROS,
            campaign_window_micros: 30 * DAY_MICROS,
            visit_idle_micros: 30 * MINUTE_MICROS,
            payment_channels: BTreeMap::new(),
        }
    }
}

/// The secret of a payment channel; it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ChannelSecret(String);

impl ChannelSecret {
    /// Takes a secret.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for ChannelSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
