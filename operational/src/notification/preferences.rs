//! What a person wants to be told, by which channel, and when not.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};

use super::ChannelKind;
use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    calendar::SHANGHAI_MICROS,
    database::{Connection, Micros, sql},
    http::{Answer, Command, ErrorBody, Failure, Id},
    names::is_name,
};

const MINUTE_MICROS: i64 = 60 * 1_000_000;
const DAY_MINUTES: i64 = 24 * 60;
const MUTED_MAX: usize = 50;

/// What a person wants to be told.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Preference {
    /// The person.
    pub person_id: i64,
    /// By which channels.
    pub channels: Vec<ChannelKind>,
    /// Templates by which they want to be told nothing.
    pub muted: Vec<String>,
    /// The minute of the day (Asia/Shanghai) from which they want to be left alone.
    pub quiet_from_minute: Option<i64>,
    /// The minute until which they do; before `quiet_from_minute` when the night is between.
    pub quiet_to_minute: Option<i64>,
    /// Counts changes; 0 when they never said anything.
    pub version: i64,
}

/// What it becomes.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPreference {
    /// The version this was decided on; 0 when there was none.
    pub version: i64,
    /// By which channels.
    pub channels: Vec<ChannelKind>,
    /// Templates by which they want to be told nothing.
    #[serde(default)]
    #[schema(max_items = 50)]
    pub muted: Vec<String>,
    /// The minute of the day (Asia/Shanghai) from which they want to be left alone.
    #[schema(minimum = 0, maximum = 1439)]
    pub quiet_from_minute: Option<i64>,
    /// The minute until which they do.
    #[schema(minimum = 0, maximum = 1439)]
    pub quiet_to_minute: Option<i64>,
}

impl Preference {
    /// By which channels they are told something of this template.
    pub(super) fn channels(&self, template: &str) -> Vec<ChannelKind> {
        if self.muted.iter().any(|muted| muted == template) {
            return Vec::new();
        }
        self.channels.clone()
    }

    /// When they may be told what happened at `now`: at once, or when the quiet is over.
    pub(super) fn not_before(&self, now: i64) -> i64 {
        let (Some(from), Some(to)) = (self.quiet_from_minute, self.quiet_to_minute) else {
            return now;
        };
        let minute = (now.div_euclid(MINUTE_MICROS) + SHANGHAI_MICROS / MINUTE_MICROS)
            .rem_euclid(DAY_MINUTES);
        let quiet =
            if from <= to { (from..to).contains(&minute) } else { minute >= from || minute < to };
        if !quiet {
            return now;
        }
        let left = (to - minute).rem_euclid(DAY_MINUTES);
        (now.div_euclid(MINUTE_MICROS) + left) * MINUTE_MICROS
    }
}

type Row = (String, String, Option<i64>, Option<i64>, i64);

pub(super) async fn of_person(
    on: &mut Connection,
    scope: Scope,
    person_id: i64,
) -> Result<Preference, OperationalError> {
    let row: Option<Row> =
        sql("select channels, muted, quiet_from_minute, quiet_to_minute, version
         from notification_preference where tenant_id = ?1 and person_id = ?2")
        .bind(scope.tenant_id)
        .bind(person_id)
        .first(on)
        .await?;
    let Some((channels, muted, quiet_from_minute, quiet_to_minute, version)) = row else {
        return Ok(Preference {
            person_id,
            channels: ChannelKind::ALL.to_vec(),
            muted: Vec::new(),
            quiet_from_minute: None,
            quiet_to_minute: None,
            version: 0,
        });
    };
    let channel = |word: &str| ChannelKind::ALL.iter().copied().find(|c| c.word() == word);
    Ok(Preference {
        person_id,
        channels: channels.split_ascii_whitespace().filter_map(channel).collect(),
        muted: muted.split_ascii_whitespace().map(str::to_owned).collect(),
        quiet_from_minute,
        quiet_to_minute,
        version,
    })
}

async fn change(
    tx: &mut WriteTransaction,
    scope: Scope,
    person_id: i64,
    new: &NewPreference,
) -> Result<Preference, OperationalError> {
    scope.check_person(person_id)?;
    let minutes = [new.quiet_from_minute, new.quiet_to_minute];
    if minutes.iter().flatten().any(|minute| !(0..DAY_MINUTES).contains(minute))
        || minutes[0].is_some() != minutes[1].is_some()
    {
        return Err(OperationalError::invalid(
            "quiet_from_minute and quiet_to_minute go together, each 0 to 1439",
        ));
    }
    if new.muted.len() > MUTED_MAX || !new.muted.iter().all(|name| is_name(name, 64)) {
        return Err(OperationalError::invalid("muted must be at most 50 names of templates"));
    }
    // Whoever makes the row first keeps it to the end of its transaction.
    sql("insert into notification_preference (tenant_id, person_id, channels, muted, version, updated_at)
         values (?1, ?2, '', '', 0, ?3) on conflict (tenant_id, person_id) do nothing")
    .bind(scope.tenant_id)
    .bind(person_id)
    .bind(Micros(scope.now))
    .execute(tx)
    .await?;
    let version: i64 = sql("select version from notification_preference
         where tenant_id = ?1 and person_id = ?2 for update")
    .bind(scope.tenant_id)
    .bind(person_id)
    .value(tx)
    .await?;
    if version != new.version {
        return Err(OperationalError::conflict(format!(
            "the preferences of person {person_id} are at version {version}, not {}",
            new.version
        )));
    }
    let channels: Vec<&str> = new.channels.iter().map(|channel| channel.word()).collect();
    sql("update notification_preference set channels = ?3, muted = ?4, quiet_from_minute = ?5,
             quiet_to_minute = ?6, version = ?7, updated_at = ?8
         where tenant_id = ?1 and person_id = ?2")
    .bind(scope.tenant_id)
    .bind(person_id)
    .bind(channels.join(" "))
    .bind(new.muted.join(" "))
    .bind(new.quiet_from_minute)
    .bind(new.quiet_to_minute)
    .bind(version + 1)
    .bind(Micros(scope.now))
    .execute(tx)
    .await?;
    of_person(tx, scope, person_id).await
}

pub(super) fn router() -> Router<Services> {
    Router::new().route("/notifications/preferences/{id}", routing::get(get_one).put(put))
}

pub(super) fn openapi() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(paths(get_one, put))]
    struct Description;
    Description::openapi()
}

/// What a person wants to be told; customers ask for themselves.
#[utoipa::path(get, path = "/notifications/preferences/{id}", tag = "notifications",
    params(("id" = i64, Path, description = "the person")),
    responses((status = 200, body = Preference), (status = "default", body = ErrorBody)))]
async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(person_id): Id,
) -> Result<Json<Preference>, Failure> {
    scope.check_person(person_id)?;
    Ok(Json(of_person(&mut *services.support().read().await?, scope, person_id).await?))
}

/// Say what a person wants to be told; customers say it for themselves.
#[utoipa::path(put, path = "/notifications/preferences/{id}", tag = "notifications",
    request_body = NewPreference,
    params(("id" = i64, Path, description = "the person"),
        ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = Preference), (status = "default", body = ErrorBody)))]
async fn put(
    State(services): State<Services>,
    Id(person_id): Id,
    command: Command<NewPreference>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.support(), services.now(), StatusCode::OK, move |tx, scope, new| {
            Box::pin(change(tx, scope, person_id, new))
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_anything_while_they_want_quiet() {
        let quiet = |from, to| Preference {
            person_id: 1,
            channels: vec![],
            muted: vec![],
            quiet_from_minute: Some(from),
            quiet_to_minute: Some(to),
            version: 1,
        };
        // The hour and minute in Shanghai, on some day.
        let at = |hour: i64, minute: i64| {
            ((hour - 8) * 60 + minute + 20_000 * DAY_MINUTES) * MINUTE_MICROS
        };
        let night = quiet(22 * 60, 7 * 60);
        assert_eq!(night.not_before(at(21, 59)), at(21, 59));
        assert_eq!(night.not_before(at(22, 0) + 5), at(31, 0));
        assert_eq!(night.not_before(at(3, 30)), at(7, 0));
        assert_eq!(night.not_before(at(7, 0)), at(7, 0));
        let noon = quiet(12 * 60, 14 * 60);
        assert_eq!(noon.not_before(at(13, 59) + 59), at(14, 0));
        assert_eq!(noon.not_before(at(14, 0)), at(14, 0));
        assert_eq!(quiet(60, 60).not_before(at(1, 0)), at(1, 0));
    }
}
