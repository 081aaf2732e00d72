//! Settings of a tenant: keys that are declared here, each with its type and its default. A value that was
//! set has a version, which a change must name, and a history.

mod api;
mod declared;
mod known;

use serde::Serialize;
use serde_json::Value as Json;
use utoipa::ToSchema;

pub(crate) use api::{openapi, router};
use declared::{Declared, SETTINGS};
pub(crate) use known::{Known, of_tenant};

use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql},
};

record! {
    struct SettingRow in "setting" {
        setting_id: i64,
        tenant_id: i64,
        setting_key: String,
        value: Option<String>,
        version: i64,
        changed_at: Micros,
        changed_by: String,
    }
}

record! {
    /// A change of a setting.
    pub(crate) struct SettingChange in "setting_change" {
        /// Its number.
        pub(crate) change_id: i64,
        /// The tenant.
        pub(crate) tenant_id: i64,
        /// Which setting.
        pub(crate) setting_key: String,
        /// What it became, as JSON; the default when there is none.
        pub(crate) value: Option<String>,
        /// The version it became.
        pub(crate) version: i64,
        /// When, in microseconds since 1970 (UTC).
        pub(crate) changed_at: Micros,
        /// Who did it.
        pub(crate) changed_by: String,
    }
}

/// A setting as it is in force.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct ConfigurationSetting {
    /// Its key.
    key: &'static str,
    /// What it is for.
    about: &'static str,
    /// `flag`, `integer` or `text`.
    kind: &'static str,
    /// The value in force.
    value: Json,
    /// The value when none is set.
    default: Json,
    /// Counts its changes; 0 when there was none.
    version: i64,
    /// When it was changed last, in microseconds since 1970 (UTC).
    changed_at: Option<Micros>,
    /// By whom.
    changed_by: Option<String>,
}

impl ConfigurationSetting {
    fn of(declared: &'static Declared, row: Option<SettingRow>) -> Self {
        let default = declared.default();
        let set = row.as_ref().and_then(|row| row.value.as_deref());
        // What was set under a declaration of before and is no longer good is as if it were not set.
        let set = set.and_then(|text| serde_json::from_str(text).ok());
        let value = set.filter(|value| declared.check(value).is_ok());
        Self {
            key: declared.key,
            about: declared.about,
            kind: declared.kind.name(),
            value: value.unwrap_or_else(|| default.clone()),
            default,
            version: row.as_ref().map_or(0, |row| row.version),
            changed_at: row.as_ref().map(|row| row.changed_at),
            changed_by: row.map(|row| row.changed_by),
        }
    }
}

fn declared(key: &str) -> Result<&'static Declared, OperationalError> {
    let found = SETTINGS.iter().find(|declared| declared.key == key);
    found.ok_or_else(|| OperationalError::Unknown { what: "setting", name: key.to_owned() })
}

async fn row(
    on: &mut Connection,
    tenant_id: i64,
    key: &str,
) -> Result<Option<SettingRow>, OperationalError> {
    sql("select * from setting where tenant_id = ?1 and setting_key = ?2")
        .bind(tenant_id)
        .bind(key)
        .first(on)
        .await
}

/// One setting.
async fn find(
    on: &mut Connection,
    tenant_id: i64,
    key: &str,
) -> Result<ConfigurationSetting, OperationalError> {
    let declared = declared(key)?;
    Ok(ConfigurationSetting::of(declared, row(on, tenant_id, declared.key).await?))
}

/// All settings, in the order of their declaration.
async fn all(
    on: &mut Connection,
    tenant_id: i64,
) -> Result<Vec<ConfigurationSetting>, OperationalError> {
    let mut rows: Vec<SettingRow> =
        sql("select * from setting where tenant_id = ?1").bind(tenant_id).all(on).await?;
    let mut take = |key: &str| {
        let at = rows.iter().position(|row| row.setting_key == key)?;
        Some(rows.swap_remove(at))
    };
    Ok(SETTINGS
        .iter()
        .map(|declared| ConfigurationSetting::of(declared, take(declared.key)))
        .collect())
}

/// Sets a value, or goes back to the default.
async fn change(
    tx: &mut WriteTransaction,
    scope: Scope,
    key: &str,
    version: i64,
    value: Option<&Json>,
) -> Result<ConfigurationSetting, OperationalError> {
    let declared = declared(key)?;
    if let Some(value) = value {
        declared.check(value)?;
    }
    // Whoever makes the row first keeps it to the end of its transaction.
    let new = SettingRow {
        setting_id: tx.id::<SettingRow>(None).await?,
        tenant_id: scope.tenant_id,
        setting_key: declared.key.to_owned(),
        value: None,
        version: 0,
        changed_at: Micros(scope.now),
        changed_by: String::new(),
    };
    sql("insert into setting (setting_id, tenant_id, setting_key, version, changed_at, changed_by)
         values (?1, ?2, ?3, 0, ?4, '') on conflict (tenant_id, setting_key) do nothing")
    .bind(new.setting_id)
    .bind(new.tenant_id)
    .bind(&new.setting_key)
    .bind(new.changed_at)
    .execute(tx)
    .await?;
    let present: i64 = sql("select version from setting
         where tenant_id = ?1 and setting_key = ?2 for update")
    .bind(scope.tenant_id)
    .bind(declared.key)
    .value(tx)
    .await?;
    if present != version {
        return Err(OperationalError::conflict(format!(
            "setting \"{key}\" is at version {present}, not {version}"
        )));
    }
    let change = SettingChange {
        change_id: tx.id::<SettingChange>(None).await?,
        tenant_id: scope.tenant_id,
        setting_key: declared.key.to_owned(),
        value: value.map(Json::to_string),
        version: version + 1,
        changed_at: Micros(scope.now),
        changed_by: scope.actor.to_string(),
    };
    insert_one(tx, &change).await?;
    sql("update setting set value = ?3, version = ?4, changed_at = ?5, changed_by = ?6
         where tenant_id = ?1 and setting_key = ?2")
    .bind(scope.tenant_id)
    .bind(declared.key)
    .bind(&change.value)
    .bind(change.version)
    .bind(change.changed_at)
    .bind(&change.changed_by)
    .execute(tx)
    .await?;
    find(tx, scope.tenant_id, key).await
}

/// How many changes of a tenant's settings there were: one more each, whoever commits first.
async fn changes(on: &mut Connection, tenant_id: i64) -> Result<i64, OperationalError> {
    let versions: Vec<(i64,)> =
        sql("select version from setting where tenant_id = ?1").bind(tenant_id).all(on).await?;
    Ok(versions.into_iter().map(|(version,)| version).sum())
}

/// The value in force of a setting, for any service.
///
/// # Errors
/// `Unknown` for a key that is not declared.
pub async fn value(
    services: &Services,
    tenant_id: i64,
    key: &str,
) -> Result<Json, OperationalError> {
    let mut on = services.support().read().await?;
    Ok(find(&mut on, tenant_id, key).await?.value)
}

/// That of a flag.
///
/// # Errors
/// As [`value`].
pub async fn flag(
    services: &Services,
    tenant_id: i64,
    key: &str,
) -> Result<bool, OperationalError> {
    Ok(value(services, tenant_id, key).await?.as_bool().unwrap_or_default())
}

/// That of a number.
///
/// # Errors
/// As [`value`].
pub async fn integer(
    services: &Services,
    tenant_id: i64,
    key: &str,
) -> Result<i64, OperationalError> {
    Ok(value(services, tenant_id, key).await?.as_i64().unwrap_or_default())
}

/// That of a text.
///
/// # Errors
/// As [`value`].
pub async fn text(
    services: &Services,
    tenant_id: i64,
    key: &str,
) -> Result<String, OperationalError> {
    Ok(value(services, tenant_id, key).await?.as_str().unwrap_or_default().to_owned())
}
