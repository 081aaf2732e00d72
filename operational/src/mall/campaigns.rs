//! Campaigns: full reductions over a basket (满减, with gifts if wanted) and cuts in the price of items,
//! for a time and, if wanted, for a number of units.

use axum::{Json, Router, extract::State, http::StatusCode, routing};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    coupons::Funder,
    limits::{check_optional_text, check_text},
    pharmacies,
    products::{self, may_be_given_away},
    promotions::Offer,
    variants,
};
use crate::{
    OperationalError, Page, Scope, Services, WriteTransaction,
    database::{Connection, Micros, insert, insert_one, record, sql, words},
    http::{Answer, Command, ErrorBody, Failure, Id, List, Nothing, Params},
    scope::check_time,
};

/// The most tiers of a campaign.
const TIERS_MAX: usize = 20;
/// The most products of a campaign.
const ITEMS_MAX: usize = 1_000;
/// The highest threshold, discount and number of units.
const AMOUNT_MAX: i64 = 1_000_000_000;

words! {
    /// What a campaign does.
    pub enum CampaignKind {
        /// Cuts the price of items.
        ItemPrice = "item_price",
        /// Takes off an amount from a threshold on (满减).
        FullReduction = "full_reduction",
    }
}

record! {
    /// A campaign.
    pub struct Campaign in "campaign" {
        /// Its id.
        pub campaign_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// Its name.
        pub name: String,
        /// What it does.
        pub kind: CampaignKind,
        /// Who pays for it.
        pub funder: Funder,
        /// The only pharmacy it is for.
        pub pharmacy_id: Option<i64>,
        /// The only category it is for.
        pub category: Option<String>,
        /// How many units there are at its prices.
        pub unit_limit: Option<i64>,
        /// How many of them one person may have.
        pub unit_limit_per_person: Option<i64>,
        /// How many were sold, in orders that are not closed unpaid.
        pub sold_units: i64,
        /// Microseconds since 1970 (UTC).
        pub starts_at: Micros,
        /// Microseconds since 1970 (UTC), exclusive.
        pub ends_at: Micros,
        /// Microseconds since 1970 (UTC).
        pub created_at: Micros,
    }
}

record! {
    /// What a full reduction takes off, and gives away, from an amount on.
    pub struct CampaignTier in "campaign_tier" {
        /// Its id.
        pub campaign_tier_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The campaign.
        pub campaign_id: i64,
        /// What the lines it is for must come to.
        pub threshold_fen: i64,
        /// What it takes off.
        pub discount_fen: i64,
        /// What it gives away.
        pub gift_variant_id: Option<i64>,
        /// How many units of it.
        pub gift_quantity: Option<i64>,
    }
}

record! {
    /// A product, or one variant, that a campaign is for.
    pub struct CampaignItem in "campaign_item" {
        /// Its id.
        pub campaign_item_id: i64,
        /// The tenant.
        pub tenant_id: i64,
        /// The campaign.
        pub campaign_id: i64,
        /// The product.
        pub product_id: i64,
        /// The only variant it is for.
        pub variant_id: Option<i64>,
        /// The price of one unit.
        pub unit_price_fen: Option<i64>,
        /// Or what is taken off it, in per cent.
        pub percent_off: Option<i64>,
    }
}

/// A campaign with its tiers and items.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CampaignDetail {
    /// The campaign.
    #[serde(flatten)]
    pub campaign: Campaign,
    /// Its tiers, by rising threshold.
    pub tiers: Vec<CampaignTier>,
    /// What it is for.
    pub items: Vec<CampaignItem>,
}

/// A campaign to be added.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCampaign {
    /// Its name.
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// What it does.
    pub kind: CampaignKind,
    /// Who pays for it.
    pub funder: Funder,
    /// The only pharmacy it is for; all when left out.
    #[schema(minimum = 1)]
    pub pharmacy_id: Option<i64>,
    /// The only category it is for; all when left out.
    #[schema(min_length = 1, max_length = 255)]
    pub category: Option<String>,
    /// How many units there are at its prices, of kind `item_price`.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    pub unit_limit: Option<i64>,
    /// How many of them one person may have.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    pub unit_limit_per_person: Option<i64>,
    /// From when, in microseconds since 1970 (UTC).
    #[schema(minimum = 0, maximum = 253_402_300_799_999_999_i64)]
    pub starts_at: i64,
    /// Until when, exclusive.
    #[schema(minimum = 0, maximum = 253_402_300_799_999_999_i64)]
    pub ends_at: i64,
    /// For `full_reduction`: what it takes off from which amount on.
    #[serde(default)]
    #[schema(max_items = 20)]
    pub tiers: Vec<NewTier>,
    /// What it is for. For `item_price` each with its price or percentage; for `full_reduction` all
    /// when left out.
    #[serde(default)]
    #[schema(max_items = 1_000)]
    pub items: Vec<NewItem>,
}

/// A tier of a campaign to be added.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTier {
    /// What the lines it is for must come to.
    #[schema(minimum = 1, maximum = 1_000_000_000)]
    pub threshold_fen: i64,
    /// What it takes off.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    pub discount_fen: i64,
    /// What it gives away: no medicine on prescription, and none of class A.
    #[schema(minimum = 1)]
    pub gift_variant_id: Option<i64>,
    /// How many units of it.
    #[schema(minimum = 1, maximum = 1_000)]
    pub gift_quantity: Option<i64>,
}

/// What a campaign to be added is for.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewItem {
    /// The product.
    #[schema(minimum = 1)]
    pub product_id: i64,
    /// The only variant it is for; all when left out.
    #[schema(minimum = 1)]
    pub variant_id: Option<i64>,
    /// The price of one unit.
    #[schema(minimum = 0, maximum = 1_000_000_000)]
    pub unit_price_fen: Option<i64>,
    /// Or what is taken off it, in per cent.
    #[schema(minimum = 1, maximum = 100)]
    pub percent_off: Option<i64>,
}

impl NewCampaign {
    fn check(&self) -> Result<(), OperationalError> {
        check_text("name", &self.name)?;
        check_optional_text("category", self.category.as_deref())?;
        check_time("starts_at", Some(self.starts_at))?;
        check_time("ends_at", Some(self.ends_at))?;
        let cuts = self.kind == CampaignKind::ItemPrice;
        let counts = 1..=AMOUNT_MAX;
        let limits = [self.unit_limit, self.unit_limit_per_person];
        let problem = if self.ends_at <= self.starts_at {
            "ends_at must be after starts_at"
        } else if !cuts && self.tiers.is_empty() {
            "a full_reduction has tiers"
        } else if cuts && (!self.tiers.is_empty() || self.items.is_empty()) {
            "an item_price has items, and no tiers"
        } else if self.tiers.len() > TIERS_MAX || self.items.len() > ITEMS_MAX {
            "a campaign has at most 20 tiers and 1000 items"
        } else if !cuts && limits.iter().any(Option::is_some) {
            "unit limits go with kind item_price only"
        } else if limits.iter().flatten().any(|limit| !counts.contains(limit)) {
            "unit limits must be between 1 and 1000000000"
        } else if self.items.iter().any(|item| !item.fits(self.kind)) {
            "an item of item_price has either unit_price_fen or percent_off (1 to 100), others none"
        } else if self.tiers.iter().any(|tier| !tier.fits()) {
            "a tier takes off at most its threshold, or gives something away"
        } else {
            return Ok(());
        };
        Err(OperationalError::invalid(problem))
    }
}

impl NewItem {
    fn fits(&self, kind: CampaignKind) -> bool {
        match kind {
            CampaignKind::FullReduction => {
                self.unit_price_fen.is_none() && self.percent_off.is_none()
            }
            CampaignKind::ItemPrice => {
                self.unit_price_fen.is_some() != self.percent_off.is_some()
                    && self.unit_price_fen.is_none_or(|p| (0..=AMOUNT_MAX).contains(&p))
                    && self.percent_off.is_none_or(|percent| (1..=100).contains(&percent))
            }
        }
    }
}

impl NewTier {
    fn fits(&self) -> bool {
        (1..=AMOUNT_MAX).contains(&self.threshold_fen)
            && (0..=self.threshold_fen).contains(&self.discount_fen)
            && (self.discount_fen > 0 || self.gift_variant_id.is_some())
            && self.gift_variant_id.is_some() == self.gift_quantity.is_some()
            && self.gift_quantity.is_none_or(|quantity| (1..=1_000).contains(&quantity))
    }
}

/// Adds a campaign.
///
/// # Errors
/// `Invalid` when it breaks a rule of its fields, or would give away what may not be; `NotFound` for
/// an unknown pharmacy, product or variant; `Conflict` for a tier or an item named twice.
pub async fn create(
    tx: &mut WriteTransaction,
    scope: Scope,
    new: &NewCampaign,
) -> Result<CampaignDetail, OperationalError> {
    new.check()?;
    if let Some(pharmacy_id) = new.pharmacy_id {
        pharmacies::find(tx, scope.tenant_id, pharmacy_id).await?;
    }
    for variant_id in new.tiers.iter().filter_map(|tier| tier.gift_variant_id) {
        let variant = variants::find(tx, scope.tenant_id, variant_id).await?;
        let product = products::find(tx, scope.tenant_id, variant.product_id).await?;
        if !may_be_given_away(product.kind, product.otc_class) {
            return Err(OperationalError::invalid(format!(
                "variant {variant_id} is a medicine that may not be given away"
            )));
        }
    }
    for item in &new.items {
        products::find(tx, scope.tenant_id, item.product_id).await?;
        if let Some(variant_id) = item.variant_id {
            let variant = variants::find(tx, scope.tenant_id, variant_id).await?;
            if variant.product_id != item.product_id {
                return Err(OperationalError::not_found("variant", variant_id));
            }
        }
    }
    let campaign = Campaign {
        campaign_id: tx.id::<Campaign>(None).await?,
        tenant_id: scope.tenant_id,
        name: new.name.clone(),
        kind: new.kind,
        funder: new.funder,
        pharmacy_id: new.pharmacy_id,
        category: new.category.clone(),
        unit_limit: new.unit_limit,
        unit_limit_per_person: new.unit_limit_per_person,
        sold_units: 0,
        starts_at: Micros(new.starts_at),
        ends_at: Micros(new.ends_at),
        created_at: Micros(scope.now),
    };
    insert_one(tx, &campaign).await?;
    let ids = tx.ids::<CampaignTier>(new.tiers.iter().map(|_| None)).await?;
    let mut tiers: Vec<CampaignTier> = ids
        .into_iter()
        .zip(&new.tiers)
        .map(|(campaign_tier_id, tier)| CampaignTier {
            campaign_tier_id,
            tenant_id: scope.tenant_id,
            campaign_id: campaign.campaign_id,
            threshold_fen: tier.threshold_fen,
            discount_fen: tier.discount_fen,
            gift_variant_id: tier.gift_variant_id,
            gift_quantity: tier.gift_quantity,
        })
        .collect();
    tiers.sort_by_key(|tier| tier.threshold_fen);
    let twice = |error: OperationalError| {
        error.or_taken(|| "a threshold or an item is named twice".to_owned())
    };
    insert(tx, &tiers).await.map_err(twice)?;
    let ids = tx.ids::<CampaignItem>(new.items.iter().map(|_| None)).await?;
    let items: Vec<CampaignItem> = ids
        .into_iter()
        .zip(&new.items)
        .map(|(campaign_item_id, item)| CampaignItem {
            campaign_item_id,
            tenant_id: scope.tenant_id,
            campaign_id: campaign.campaign_id,
            product_id: item.product_id,
            variant_id: item.variant_id,
            unit_price_fen: item.unit_price_fen,
            percent_off: item.percent_off,
        })
        .collect();
    insert(tx, &items).await.map_err(twice)?;
    Ok(CampaignDetail { campaign, tiers, items })
}

/// Ends a campaign now, or before it begins. Orders that were placed keep what it took off.
///
/// # Errors
/// `NotFound`; `Conflict` when it has ended.
pub async fn end(
    tx: &mut WriteTransaction,
    scope: Scope,
    campaign_id: i64,
) -> Result<CampaignDetail, OperationalError> {
    let mut found = find(tx, scope.tenant_id, campaign_id).await?;
    let ended =
        sql("update campaign set ends_at = case when starts_at > ?2 then starts_at else ?2 end
         where campaign_id = ?1 and ends_at > ?2")
        .bind(campaign_id)
        .bind(Micros(scope.now))
        .execute(tx)
        .await?;
    if ended == 0 {
        return Err(OperationalError::conflict(format!("campaign {campaign_id} has ended")));
    }
    found.campaign.ends_at = found.campaign.starts_at.max(Micros(scope.now));
    Ok(found)
}

/// A campaign with its tiers and items.
///
/// # Errors
/// `NotFound`.
pub async fn find(
    connection: &mut Connection,
    tenant_id: i64,
    campaign_id: i64,
) -> Result<CampaignDetail, OperationalError> {
    let campaign: Campaign =
        sql("select * from campaign where campaign_id = ?1 and tenant_id = ?2")
            .bind(campaign_id)
            .bind(tenant_id)
            .first(connection)
            .await?
            .ok_or(OperationalError::not_found("campaign", campaign_id))?;
    let tiers = sql("select * from campaign_tier where campaign_id = ?1 order by threshold_fen")
        .bind(campaign_id)
        .all(connection)
        .await?;
    let items = sql("select * from campaign_item where campaign_id = ?1 order by campaign_item_id")
        .bind(campaign_id)
        .all(connection)
        .await?;
    Ok(CampaignDetail { campaign, tiers, items })
}

/// The campaigns that run in a pharmacy now, by rising id, for one buyer. Those of a limited number of
/// units are held to the end of the transaction, so that what is left is so.
pub(super) async fn running(
    connection: &mut Connection,
    scope: Scope,
    pharmacy_id: i64,
    person_id: i64,
) -> Result<Vec<Offer>, OperationalError> {
    let campaigns: Vec<Campaign> = sql("select * from campaign where tenant_id = ?1
             and starts_at <= ?2 and ends_at > ?2 and (pharmacy_id is null or pharmacy_id = ?3)
         order by campaign_id")
    .bind(scope.tenant_id)
    .bind(Micros(scope.now))
    .bind(pharmacy_id)
    .all(connection)
    .await?;
    if campaigns.is_empty() {
        return Ok(Vec::new());
    }
    let ids = || campaigns.iter().map(|campaign| campaign.campaign_id);
    let tiers: Vec<CampaignTier> =
        sql("select * from campaign_tier where campaign_id in {list} order by threshold_fen")
            .list(ids())
            .all(connection)
            .await?;
    let items: Vec<CampaignItem> =
        sql("select * from campaign_item where campaign_id in {list} order by campaign_item_id")
            .list(ids())
            .all(connection)
            .await?;
    let mut offers = Vec::with_capacity(campaigns.len());
    for campaign in campaigns {
        let id = campaign.campaign_id;
        offers.push(Offer {
            units_left: units_left(connection, &campaign, person_id).await?,
            tiers: tiers.iter().filter(|tier| tier.campaign_id == id).cloned().collect(),
            items: items.iter().filter(|item| item.campaign_id == id).cloned().collect(),
            campaign,
        });
    }
    Ok(offers)
}

async fn units_left(
    connection: &mut Connection,
    campaign: &Campaign,
    person_id: i64,
) -> Result<Option<i64>, OperationalError> {
    if campaign.unit_limit.is_none() && campaign.unit_limit_per_person.is_none() {
        return Ok(None);
    }
    let sold: i64 = sql("select sold_units from campaign where campaign_id = ?1 for update")
        .bind(campaign.campaign_id)
        .value(connection)
        .await?;
    let of_all = campaign.unit_limit.map(|limit| limit - sold);
    let Some(limit) = campaign.unit_limit_per_person else { return Ok(of_all) };
    let bought: i64 =
        sql("select cast(coalesce(sum(l.quantity), 0) as signed) from order_line_discount d
         join order_line l on l.order_line_id = d.order_line_id
         join orders o on o.order_id = l.order_id
         where d.campaign_id = ?1 and d.kind = 'item' and not l.gift and o.person_id = ?2
             and (o.status <> 'closed' or o.paid_at is not null)")
        .bind(campaign.campaign_id)
        .bind(person_id)
        .value(connection)
        .await?;
    let of_person = limit - bought;
    Ok(Some(of_all.map_or(of_person, |of_all| of_all.min(of_person)).max(0)))
}

/// Counts units sold at a campaign's price, or given up again.
pub(super) async fn count_units(
    tx: &mut WriteTransaction,
    campaign_id: i64,
    units: i64,
) -> Result<(), OperationalError> {
    sql("update campaign set sold_units = sold_units + ?2 where campaign_id = ?1")
        .bind(campaign_id)
        .bind(units)
        .execute(tx)
        .await?;
    Ok(())
}

pub(crate) fn router() -> Router<Services> {
    Router::new()
        .route("/mall/campaigns", routing::post(post).get(get_all))
        .route("/mall/campaigns/{id}", routing::get(get_one))
        .route("/mall/campaigns/{id}/end", routing::post(post_end))
}

/// Add a campaign.
#[utoipa::path(post, path = "/mall/campaigns", tag = "mall", request_body = NewCampaign,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = CampaignDetail), (status = "default", body = ErrorBody)))]
pub(crate) async fn post(
    State(services): State<Services>,
    command: Command<NewCampaign>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::CREATED, |tx, scope, new| {
            Box::pin(create(tx, scope, new))
        })
        .await
}

/// List campaigns.
#[utoipa::path(get, path = "/mall/campaigns", tag = "mall", params(Page),
    responses((status = 200, body = List<Campaign>), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_all(
    State(services): State<Services>,
    scope: Scope,
    Params(page): Params<Page>,
) -> Result<Json<List<Campaign>>, Failure> {
    let items = sql("select * from campaign where tenant_id = ?1 and campaign_id > ?2
         order by campaign_id limit ?3")
    .bind(scope.tenant_id)
    .bind(page.after_id)
    .bind(page.limit.rows())
    .all(&mut *services.mall().read().await?)
    .await?;
    Ok(Json(List { items }))
}

/// A campaign with its tiers and items.
#[utoipa::path(get, path = "/mall/campaigns/{id}", tag = "mall", params(("id" = i64, Path)),
    responses((status = 200, body = CampaignDetail), (status = "default", body = ErrorBody)))]
pub(crate) async fn get_one(
    State(services): State<Services>,
    scope: Scope,
    Id(campaign_id): Id,
) -> Result<Json<CampaignDetail>, Failure> {
    let mut tx = services.mall().read().await?;
    Ok(Json(find(&mut tx, scope.tenant_id, campaign_id).await?))
}

/// End a campaign before its time.
#[utoipa::path(post, path = "/mall/campaigns/{id}/end", tag = "mall", request_body = Nothing,
    params(("id" = i64, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = CampaignDetail), (status = "default", body = ErrorBody)))]
pub(crate) async fn post_end(
    State(services): State<Services>,
    Id(campaign_id): Id,
    command: Command<Nothing>,
) -> Result<Answer, Failure> {
    command
        .carry_out(services.mall(), services.now(), StatusCode::OK, |tx, scope, _| {
            Box::pin(end(tx, scope, campaign_id))
        })
        .await
}
