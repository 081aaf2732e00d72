//! How a tenant runs its programme. Settings are never edited: a newer version takes their place from
//! then on, and what happened before is judged by what held then.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    OperationalError, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure},
};

words! {
    /// When a buyer gets bound to a distributor.
    pub enum BindingMode {
        /// At any time, while they are bound to nobody.
        FirstBind = "first_bind",
        /// Only when they register.
        Registration = "registration",
        /// Every scan of another distributor's link takes the place of the binding before it.
        EveryScan = "every_scan",
    }
}

words! {
    /// How the income of a natural person is taxed when it is paid out.
    pub enum PersonalTax {
        /// Income from an internet platform, withheld cumulatively over the year.
        PlatformCumulative = "platform_cumulative",
        /// Remuneration for labour, withheld from each payment by itself.
        PerPayment = "per_payment",
    }
}

/// Settings to take effect. What is left out has its default, not the value of before.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NewSettings {
    /// The version they are based on; 0 when there are none yet.
    #[schema(minimum = 0)]
    pub based_on_version: i64,
    /// When a buyer gets bound.
    pub binding_mode: BindingMode,
    /// How long a binding holds; for ever when left out.
    #[schema(minimum = 1, maximum = 3650)]
    pub binding_days: Option<i64>,
    /// How many levels are paid.
    #[schema(minimum = 1, maximum = 2)]
    pub levels: i64,
    /// The most that all levels of a line earn together, in hundredths of a per cent of its base.
    #[schema(minimum = 0, maximum = 10_000)]
    pub cap_bp: i64,
    /// Days after receipt for which a commission stays frozen; longer where a line may be returned longer.
    #[schema(minimum = 0, maximum = 180)]
    pub freeze_days: i64,
    /// Whether lines at the price of a campaign earn commission.
    pub campaign_lines_earn: bool,
    /// Whether distributors earn on what they buy themselves.
    pub self_purchase_earns: bool,
    /// How natural persons are taxed, unless a distributor has a regime of its own.
    pub tax_regime: PersonalTax,
    /// What is available below this waits for the next settlement.
    #[schema(minimum = 1)]
    pub payout_min_fen: i64,
    /// What the addresses of share links begin with.
    #[schema(
        example = "https://mall.example.org",
        max_length = 200,
        pattern = r"^https?://[!\x22$->@-~]+$"
    )]
    pub link_base: String,
}

impl Default for NewSettings {
    fn default() -> Self {
        Self {
            based_on_version: 0,
            binding_mode: BindingMode::EveryScan,
            binding_days: None,
            levels: 2,
            cap_bp: 10_000,
            freeze_days: 7,
            campaign_lines_earn: false,
            self_purchase_earns: false,
            tax_regime: PersonalTax::PlatformCumulative,
            payout_min_fen: 1,
            link_base: "http://127.0.0.1:8081".to_owned(),
        }
    }
}

record! {
    /// The settings of a tenant.
    pub struct Settings in "programme_setting" {
        /// Their id; 0 of those that hold before any are made.
        pub setting_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// Which they are, from 1; 0 of those that hold before any are made.
        pub version: i64,
        /// When a buyer gets bound.
        pub binding_mode: BindingMode,
        /// How long a binding holds.
        pub binding_days: Option<i64>,
        /// How many levels are paid.
        pub levels: i64,
        /// The most that all levels of a line earn together, in hundredths of a per cent of its base.
        pub cap_bp: i64,
        /// Days after receipt for which a commission stays frozen at least.
        pub freeze_days: i64,
        /// Whether lines at the price of a campaign earn commission.
        pub campaign_lines_earn: bool,
        /// Whether distributors earn on what they buy themselves.
        pub self_purchase_earns: bool,
        /// How natural persons are taxed.
        pub tax_regime: PersonalTax,
        /// What is available below this waits for the next settlement.
        pub payout_min_fen: i64,
        /// What the addresses of share links begin with.
        pub link_base: String,
        /// Who made them.
        pub created_by: String,
        /// From when they hold, in microseconds since 1970 (UTC).
        pub created_at: Micros,
    }
}

impl NewSettings {
    fn problem(&self) -> Option<&'static str> {
        let host = self.link_base.strip_prefix("https://");
        let host = host.or_else(|| self.link_base.strip_prefix("http://")).unwrap_or_default();
        if self.based_on_version < 0 {
            Some("based_on_version must be at least 0")
        } else if self.binding_days.is_some_and(|days| !(1..=3650).contains(&days)) {
            Some("binding_days must be between 1 and 3650")
        } else if !(1..=2).contains(&self.levels) {
            Some("levels must be 1 or 2: no more than two levels are ever paid")
        } else if !(0..=10_000).contains(&self.cap_bp) {
            Some("cap_bp must be between 0 and 10000")
        } else if !(0..=180).contains(&self.freeze_days) {
            Some("freeze_days must be between 0 and 180")
        } else if self.payout_min_fen < 1 {
            Some("payout_min_fen must be at least 1")
        } else if host.is_empty()
            || self.link_base.len() > 200
            || !host.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b))
        {
            Some("link_base must be an http or https address of up to 200 ASCII characters")
        } else {
            None
        }
    }

    fn at(self, setting_id: i64, scope: Scope, version: i64) -> Settings {
        Settings {
            setting_id,
            tenant_id: scope.tenant_id,
            version,
            binding_mode: self.binding_mode,
            binding_days: self.binding_days,
            levels: self.levels,
            cap_bp: self.cap_bp,
            freeze_days: self.freeze_days,
            campaign_lines_earn: self.campaign_lines_earn,
            self_purchase_earns: self.self_purchase_earns,
            tax_regime: self.tax_regime,
            payout_min_fen: self.payout_min_fen,
            link_base: self.link_base.trim_end_matches('/').to_owned(),
            created_by: scope.actor.to_string(),
            created_at: Micros(scope.now),
        }
    }
}

/// Makes settings that hold from now on.
///
/// # Errors
/// `Invalid` when one is out of its range; `Conflict` when there is a newer version than the one they
/// are based on.
pub async fn change(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: NewSettings,
) -> Result<Settings, OperationalError> {
    if let Some(problem) = new.problem() {
        return Err(OperationalError::invalid(problem));
    }
    let present: Option<i64> =
        sql("select max(version) from programme_setting where tenant_id = ?1")
            .bind(scope.tenant_id)
            .value(tx)
            .await?;
    let (present, based_on) = (present.unwrap_or(0), new.based_on_version);
    let changed = || {
        OperationalError::conflict(format!(
            "the settings are no longer those of version {based_on}; read them again"
        ))
    };
    if present != based_on {
        return Err(changed());
    }
    let settings = new.at(tx.id::<Settings>(None).await?, scope, present + 1);
    insert_one(tx, &settings).await.map_err(|error| match error {
        OperationalError::Taken { .. } => changed(),
        other => other,
    })?;
    Ok(settings)
}

/// The settings that hold at the time of `scope`.
///
/// # Errors
/// When the database fails.
pub async fn at(connection: &mut Connection, scope: Scope) -> Result<Settings, OperationalError> {
    let settings = sql("select * from programme_setting where tenant_id = ?1 and created_at <= ?2
         order by version desc limit 1")
    .bind(scope.tenant_id)
    .bind(Micros(scope.now))
    .first(connection)
    .await?;
    Ok(settings.unwrap_or_else(|| NewSettings::default().at(0, scope, 0)))
}

pub(crate) fn router() -> Router<Services> {
    Router::new().route("/distribution/settings", routing::get(get).post(post))
}

/// The settings that hold now.
#[utoipa::path(get, path = "/distribution/settings", tag = "distribution",
    responses((status = 200, body = Settings), (status = "default", body = ErrorBody)))]
pub(crate) async fn get(
    State(services): State<Services>,
    scope: Scope,
) -> Result<Json<Settings>, Failure> {
    let mut connection = services.distribution().read().await?;
    Ok(Json(at(&mut connection, scope).await?))
}

/// Change the settings from now on. The version they are based on is refused when there is a newer one.
#[utoipa::path(post, path = "/distribution/settings", tag = "distribution",
    request_body = NewSettings, params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = Settings), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewSettings>,
) -> Result<Answer, Failure> {
    command
        .carry_out(
            services.distribution(),
            services.now(),
            StatusCode::CREATED,
            |tx, scope, new| Box::pin(change(tx, scope, new.clone())),
        )
        .await
}
