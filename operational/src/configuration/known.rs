//! The settings of a tenant as they were read last, for services that go by them with each request.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use serde_json::Value as Json;
use tokio::time::Instant;

use super::all;
use crate::{OperationalError, Services};

/// How long what was read is gone by: then a change by another process is seen.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// The values in force of a tenant's settings, of one moment.
#[derive(Debug)]
pub(crate) struct TenantSettings(HashMap<&'static str, Json>);

impl TenantSettings {
    /// That of a number.
    ///
    /// # Errors
    /// `Unknown` for a key that is not declared.
    pub(crate) fn integer(&self, key: &str) -> Result<i64, OperationalError> {
        let value = self.0.get(key);
        let value = value
            .ok_or_else(|| OperationalError::Unknown { what: "setting", name: key.to_owned() });
        Ok(value?.as_i64().unwrap_or_default())
    }
}

/// What was read, by tenant.
#[derive(Debug, Default)]
pub(crate) struct Known(RwLock<State>);

#[derive(Debug, Default)]
struct State {
    read: HashMap<i64, (Instant, Arc<TenantSettings>)>,
    /// Counts the changes: what was read before one is not kept after it.
    changes: u64,
}

impl Known {
    fn get(&self, tenant_id: i64) -> (Option<Arc<TenantSettings>>, u64) {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let kept = state.read.get(&tenant_id).filter(|(at, _)| at.elapsed() < KEPT_FOR);
        (kept.map(|(_, settings)| Arc::clone(settings)), state.changes)
    }

    fn keep(&self, tenant_id: i64, settings: &Arc<TenantSettings>, changes: u64) {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if state.changes == changes {
            state.read.insert(tenant_id, (Instant::now(), Arc::clone(settings)));
        }
    }

    /// Forgets what was read of a tenant, whose settings were changed.
    pub(super) fn forget(&self, tenant_id: i64) {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        state.read.remove(&tenant_id);
        state.changes += 1;
    }
}

/// The settings in force of a tenant. What was changed by this process is seen at once, what another one
/// changed within a second. They are of a database of their own: to be read before a transaction of
/// another that goes by them, which would hold its rows meanwhile.
///
/// # Errors
/// When the database fails.
pub(crate) async fn of_tenant(
    services: &Services,
    tenant_id: i64,
) -> Result<Arc<TenantSettings>, OperationalError> {
    let (known, changes) = services.known_settings().get(tenant_id);
    if let Some(settings) = known {
        return Ok(settings);
    }
    let rows = all(&mut *services.support().read().await?, tenant_id).await?;
    let values = rows.into_iter().map(|setting| (setting.key, setting.value)).collect();
    let settings = Arc::new(TenantSettings(values));
    services.known_settings().keep(tenant_id, &settings, changes);
    Ok(settings)
}
