//! Dashboards: what they are, and how they stay live.

pub(crate) mod definition;
pub(crate) mod live;
