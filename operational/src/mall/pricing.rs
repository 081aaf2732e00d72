//! Where the prices of an order's lines come from: the catalogue with its campaigns and coupons, or a
//! recording.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    campaigns,
    coupons::{self, Coupon},
    orders::QUANTITY_MAX,
    points::PointsRules,
    products::{OtcClass, ProductKind, ReturnPolicy},
    promotions::{self, BasketLine, BasketPrice, DiscountColumn, DiscountKind, Gift, Part},
};
use crate::database::{Connection, Micros, sql};
use crate::{OperationalError, Scope};

/// The most lines of one order.
pub(crate) const LINES_MAX: usize = 500;

/// Where the prices of an order come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pricing {
    /// The variants' prices now, less what campaigns and the order's coupon take off.
    Catalogue(Vec<CatalogueLine>),
    /// What a till recorded, taken as it is.
    Recorded(Vec<RecordedLine>),
}

/// A line whose price is the catalogue's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CatalogueLine {
    /// The product.
    #[schema(minimum = 1)]
    pub product_id: i64,
    /// The variant; the product's default when it is left out.
    #[schema(minimum = 1)]
    pub variant_id: Option<i64>,
    /// How many units.
    #[schema(minimum = 1, maximum = 100_000)]
    pub quantity: i64,
}

/// A line with the amounts that were recorded for it. `line_amount = list - disc_item`, and
/// `cash = line_amount` less the other discounts, which may be below zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordedLine {
    /// Its id, where one is recorded; otherwise the next free one.
    pub order_line_id: Option<i64>,
    /// The product.
    pub product_id: i64,
    /// How many units; 0 is recorded at times.
    pub quantity: i64,
    /// Shelf price of all units.
    pub list_amount_fen: i64,
    /// The cut in the price of the item itself.
    pub disc_item_fen: i64,
    /// Its share of 满减.
    pub disc_full_reduction_fen: i64,
    /// Its share of coupons paid for by the merchant.
    pub disc_coupon_merchant_fen: i64,
    /// Its share of coupons paid for by the platform.
    pub disc_coupon_platform_fen: i64,
    /// Its share of points.
    pub disc_points_fen: i64,
}

/// A line with its price, before it has an id.
#[derive(Debug, Clone)]
pub(super) struct PricedLine {
    pub(super) amounts: RecordedLine,
    pub(super) variant_id: i64,
    /// Given away with others.
    pub(super) gift: bool,
    pub(super) return_window_days: i64,
    /// How many points pay for it.
    pub(super) points: i64,
    /// How many points it earns.
    pub(super) reward_points: i64,
    /// Whether units of it are to be reserved.
    pub(super) tracks_stock: bool,
    /// Where its discounts come from; nothing is known of recorded ones.
    pub(super) parts: Vec<Part>,
}

/// The lines of an order with their prices, and what must be taken for them.
#[derive(Debug, Clone, Default)]
pub(super) struct Priced {
    pub(super) lines: Vec<PricedLine>,
    /// Units of campaigns that have a limited number.
    pub(super) campaign_units: BTreeMap<i64, i64>,
    /// Units of medicines that need a prescription, by product.
    pub(super) prescribed: BTreeMap<i64, i64>,
    /// A coupon that the buyer must have claimed.
    pub(super) claim_of: Option<i64>,
}

/// For whom, where and with what an order is priced.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buyer {
    pub(super) person_id: i64,
    pub(super) pharmacy_id: i64,
    pub(super) coupon_id: Option<i64>,
    /// How many points they want to pay with.
    pub(super) points: i64,
    pub(super) points_rules: PointsRules,
}

pub(super) async fn price(
    connection: &mut Connection,
    scope: Scope,
    buyer: Buyer,
    pricing: &Pricing,
) -> Result<Priced, OperationalError> {
    let (count, quantities_fit) = match pricing {
        Pricing::Catalogue(lines) => {
            (lines.len(), lines.iter().all(|l| (1..=QUANTITY_MAX).contains(&l.quantity)))
        }
        Pricing::Recorded(lines) => {
            (lines.len(), lines.iter().all(|l| (0..=QUANTITY_MAX).contains(&l.quantity)))
        }
    };
    if !(1..=LINES_MAX).contains(&count) {
        return Err(OperationalError::invalid("an order has 1 to 500 lines"));
    }
    if !quantities_fit {
        return Err(OperationalError::invalid("the quantity of a line is between 1 and 100000"));
    }
    match pricing {
        _ if buyer.points < 0 => Err(OperationalError::invalid("points must be at least 0")),
        Pricing::Recorded(_) if buyer.points != 0 => {
            Err(OperationalError::invalid("recorded prices are not paid with points"))
        }
        Pricing::Recorded(lines) => recorded(connection, scope, lines).await,
        Pricing::Catalogue(lines) => from_catalogue(connection, scope, buyer, lines).await,
    }
}

/// Recorded amounts are taken as they are, for the default variants.
async fn recorded(
    connection: &mut Connection,
    scope: Scope,
    lines: &[RecordedLine],
) -> Result<Priced, OperationalError> {
    let known: Vec<(i64, i64, ReturnPolicy)> =
        sql("select p.product_id, v.variant_id, p.return_policy
             from product p join product_variant v on v.product_id = p.product_id
             where p.tenant_id = ?1 and v.variant_number = 1 and p.product_id in {list}")
        .bind(scope.tenant_id)
        .list(lines.iter().map(|line| line.product_id))
        .all(connection)
        .await?;
    let known: HashMap<i64, (i64, ReturnPolicy)> =
        known.into_iter().map(|(id, variant, policy)| (id, (variant, policy))).collect();
    let mut priced = Priced::default();
    for line in lines {
        let (variant_id, policy) = known
            .get(&line.product_id)
            .ok_or(OperationalError::not_found("product", line.product_id))?;
        priced.lines.push(PricedLine {
            amounts: *line,
            variant_id: *variant_id,
            gift: false,
            return_window_days: policy.window_days(),
            points: 0,
            reward_points: 0,
            tracks_stock: false,
            parts: Vec::new(),
        });
    }
    Ok(priced)
}

/// A variant with what its product says of it.
#[derive(Debug, Clone, sqlx::FromRow)]
struct Sold {
    variant_id: i64,
    product_id: i64,
    variant_number: i64,
    unit_price_fen: i64,
    tracks_stock: bool,
    active: bool,
    category: String,
    kind: ProductKind,
    otc_class: Option<OtcClass>,
    return_policy: ReturnPolicy,
}

/// The default variants of products, and further variants.
async fn sold(
    connection: &mut Connection,
    scope: Scope,
    product_ids: impl IntoIterator<Item = i64>,
    variant_ids: impl IntoIterator<Item = i64>,
) -> Result<Vec<Sold>, OperationalError> {
    sql("select v.variant_id, v.product_id, v.variant_number, v.unit_price_fen, v.tracks_stock,
             v.active and p.active as active, p.category, p.kind, p.otc_class, p.return_policy
         from product_variant v join product p on p.product_id = v.product_id
         where v.tenant_id = ?1
             and ((v.product_id in {list} and v.variant_number = 1) or v.variant_id in {list})")
    .bind(scope.tenant_id)
    .list(product_ids)
    .list(variant_ids)
    .all(connection)
    .await
}

async fn from_catalogue(
    connection: &mut Connection,
    scope: Scope,
    buyer: Buyer,
    lines: &[CatalogueLine],
) -> Result<Priced, OperationalError> {
    let named = lines.iter().filter_map(|line| line.variant_id);
    let rows = sold(connection, scope, lines.iter().map(|line| line.product_id), named).await?;
    let mut chosen = Vec::with_capacity(lines.len());
    for line in lines {
        chosen.push(choose(&rows, line)?);
    }
    let basket: Vec<BasketLine> = lines
        .iter()
        .zip(&chosen)
        .map(|(line, sold)| BasketLine {
            product_id: sold.product_id,
            variant_id: sold.variant_id,
            category: sold.category.clone(),
            kind: sold.kind,
            otc_class: sold.otc_class,
            unit_price_fen: sold.unit_price_fen,
            quantity: line.quantity,
        })
        .collect();
    let offers = campaigns::running(connection, scope, buyer.pharmacy_id, buyer.person_id).await?;
    let coupon = match buyer.coupon_id {
        Some(coupon_id) => Some(usable(connection, scope, coupon_id).await?),
        None => None,
    };
    let mut price = promotions::price(&basket, &offers, coupon.as_ref());
    if let Some(coupon) = &coupon {
        check_threshold(coupon, &price)?;
    }
    let usable = buyer.points_rules.usable(&price.cash());
    if buyer.points > usable {
        return Err(OperationalError::conflict(format!(
            "such an order may be paid with at most {usable} points, not {}",
            buyer.points
        )));
    }
    price.pay_with_points(buyer.points, &buyer.points_rules);
    price.reward(&basket, &buyer.points_rules);
    let limited = |id: i64| {
        offers.iter().any(|o| o.campaign.campaign_id == id && o.campaign.unit_limit.is_some())
    };
    let mut priced = Priced {
        claim_of: coupon.as_ref().filter(|c| c.claim_needed).map(|c| c.coupon_id),
        ..Priced::default()
    };
    for ((line, sold), line_price) in basket.iter().zip(&chosen).zip(price.lines) {
        if let Some(campaign_id) = line_price.item_campaign().filter(|id| limited(*id)) {
            *priced.campaign_units.entry(campaign_id).or_insert(0) += line.quantity;
        }
        if sold.kind == ProductKind::Rx {
            *priced.prescribed.entry(sold.product_id).or_insert(0) += line.quantity;
        }
        let kind = coupon.as_ref().map(|coupon| coupon.kind);
        let amounts = RecordedLine {
            order_line_id: None,
            product_id: sold.product_id,
            quantity: line.quantity,
            list_amount_fen: line_price.list_amount_fen,
            disc_item_fen: line_price.disc_item_fen(),
            disc_full_reduction_fen: line_price.of_column(DiscountColumn::FullReduction, kind),
            disc_coupon_merchant_fen: line_price.of_column(DiscountColumn::CouponMerchant, kind),
            disc_coupon_platform_fen: line_price.of_column(DiscountColumn::Platform, kind),
            disc_points_fen: line_price.disc_points_fen(),
        };
        priced.lines.push(PricedLine {
            points: line_price.points,
            reward_points: line_price.reward_points,
            ..sold.line(amounts, line_price.parts)
        });
    }
    add_gifts(connection, scope, buyer, &price.gifts, &mut priced).await?;
    Ok(priced)
}

fn choose<'a>(rows: &'a [Sold], line: &CatalogueLine) -> Result<&'a Sold, OperationalError> {
    let of_product = |sold: &&Sold| sold.product_id == line.product_id;
    let found = match line.variant_id {
        None => rows.iter().filter(of_product).find(|sold| sold.variant_number == 1),
        Some(id) => rows.iter().filter(of_product).find(|sold| sold.variant_id == id),
    };
    let sold = found.ok_or(match line.variant_id {
        Some(id) if rows.iter().any(|sold| of_product(&sold)) => {
            OperationalError::not_found("variant", id)
        }
        _ => OperationalError::not_found("product", line.product_id),
    })?;
    if !sold.active {
        return Err(OperationalError::conflict(format!(
            "variant {} of product {} is not sold at present",
            sold.variant_id, sold.product_id
        )));
    }
    Ok(sold)
}

async fn usable(
    connection: &mut Connection,
    scope: Scope,
    coupon_id: i64,
) -> Result<Coupon, OperationalError> {
    let coupon = coupons::find(connection, scope.tenant_id, coupon_id).await?;
    if (coupon.starts_at..coupon.ends_at).contains(&Micros(scope.now)) {
        return Ok(coupon);
    }
    Err(OperationalError::conflict(format!("coupon {coupon_id} is not valid at this time")))
}

fn check_threshold(coupon: &Coupon, price: &BasketPrice) -> Result<(), OperationalError> {
    let eligible = price.coupon_eligible_fen;
    if eligible < coupon.threshold_fen || eligible == 0 {
        return Err(OperationalError::conflict(format!(
            "coupon {} needs lines in its scope of at least {} fen; these come to {eligible}",
            coupon.coupon_id,
            coupon.threshold_fen.max(1)
        )));
    }
    Ok(())
}

impl Sold {
    fn line(&self, amounts: RecordedLine, parts: Vec<Part>) -> PricedLine {
        PricedLine {
            amounts,
            variant_id: self.variant_id,
            gift: false,
            return_window_days: self.return_policy.window_days(),
            points: 0,
            reward_points: 0,
            tracks_stock: self.tracks_stock,
            parts,
        }
    }
}

/// Adds what is given away as lines of their own that cost nothing. What the pharmacy does not have is
/// left out: the order is placed all the same.
async fn add_gifts(
    connection: &mut Connection,
    scope: Scope,
    buyer: Buyer,
    gifts: &[Gift],
    priced: &mut Priced,
) -> Result<(), OperationalError> {
    if gifts.is_empty() {
        return Ok(());
    }
    let rows = sold(connection, scope, [], gifts.iter().map(|gift| gift.variant_id)).await?;
    let stock: Vec<(i64, i64)> = sql("select variant_id, on_hand - reserved from stock
         where pharmacy_id = ?1 and variant_id in {list}")
    .bind(buyer.pharmacy_id)
    .list(gifts.iter().map(|gift| gift.variant_id))
    .all(connection)
    .await?;
    let mut left: HashMap<i64, i64> = stock.into_iter().collect();
    for line in &priced.lines {
        if let Entry::Occupied(mut left) = left.entry(line.variant_id) {
            *left.get_mut() -= line.amounts.quantity;
        }
    }
    for gift in gifts {
        let Some(sold) = rows.iter().find(|sold| sold.variant_id == gift.variant_id) else {
            continue;
        };
        let left = left.entry(gift.variant_id).or_insert(0);
        if !sold.active || (sold.tracks_stock && *left < gift.quantity) {
            continue;
        }
        *left -= gift.quantity;
        let list_amount_fen = sold.unit_price_fen * gift.quantity;
        let amounts = RecordedLine {
            product_id: sold.product_id,
            quantity: gift.quantity,
            list_amount_fen,
            disc_item_fen: list_amount_fen,
            ..RecordedLine::default()
        };
        let part = Part {
            kind: DiscountKind::Item,
            funder: gift.funder,
            campaign_id: Some(gift.campaign_id),
            coupon_id: None,
            amount_fen: list_amount_fen,
        };
        priced.lines.push(PricedLine { gift: true, ..sold.line(amounts, vec![part]) });
    }
    Ok(())
}
