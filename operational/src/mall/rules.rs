//! What the mall of a tenant goes by, as its settings say.

use super::points::PointsRules;
use crate::{OperationalError, Services, calendar::DAY_MICROS, configuration};

const MINUTE_MICROS: i64 = 60_000_000;

/// What the mall of a tenant goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
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
    /// What points are worth, and how they are earned.
    pub points: PointsRules,
}

impl Rules {
    /// Those of a tenant. What another process changed is seen within a second.
    ///
    /// They are of another database, so they are read before the transaction that goes by them.
    ///
    /// # Errors
    /// When that database fails.
    pub async fn of(services: &Services, tenant_id: i64) -> Result<Self, OperationalError> {
        let settings = configuration::of_tenant(services, tenant_id).await?;
        let number = |key| settings.integer(key);
        Ok(Self {
            unpaid_closes_after_micros: number("mall.unpaid_closes_after_minutes")? * MINUTE_MICROS,
            received_after_micros: number("mall.received_after_days")? * DAY_MICROS,
            referral_window_micros: number("mall.referral_window_days")? * DAY_MICROS,
            campaign_window_micros: number("mall.campaign_window_days")? * DAY_MICROS,
            visit_idle_micros: number("mall.visit_idle_minutes")? * MINUTE_MICROS,
            points: PointsRules {
                value_fen: number("mall.point_value_fen")?,
                per_order_max: number("mall.points_per_order_max")?,
                share_max_percent: number("mall.points_share_max_percent")?,
                earned_per_yuan: number("mall.points_per_yuan")?,
                valid_micros: number("mall.points_valid_days")? * DAY_MICROS,
            },
        })
    }
}
