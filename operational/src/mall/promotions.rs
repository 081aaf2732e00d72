//! What a basket comes to: item prices of campaigns, then full reductions (满减), then a coupon, then
//! points.
//! Pure, in integer fen.
//!
//! Each discount is split over the lines it is for by [`allocation::split`], in proportion to what they
//! come to after the discounts before it, so no line comes to less than nothing. Delivery follows, with
//! whoever places the order. Each part says who pays for it.

use std::collections::HashMap;

use super::{
    allocation,
    campaigns::{Campaign, CampaignItem, CampaignKind, CampaignTier},
    coupons::{Coupon, CouponKind, Funder},
    points::PointsRules,
    products::{OtcClass, ProductKind, may_be_given_away},
};
use crate::database::words;

words! {
    /// What kind of discount a part of a line's discounts is.
    pub enum DiscountKind {
        /// A cut in the price of the item.
        Item = "item",
        /// 满减 of a campaign.
        FullReduction = "full_reduction",
        /// A coupon.
        Coupon = "coupon",
        /// Points.
        Points = "points",
    }
}

/// A line of a basket, with what the catalogue says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasketLine {
    /// The product.
    pub product_id: i64,
    /// The variant.
    pub variant_id: i64,
    /// Its category, to which campaigns and coupons may be limited.
    pub category: String,
    /// What it is before the law.
    pub kind: ProductKind,
    /// The class of a medicine without prescription.
    pub otc_class: Option<OtcClass>,
    /// Shelf price of one unit.
    pub unit_price_fen: i64,
    /// How many units.
    pub quantity: i64,
}

/// A campaign that runs, with its tiers by rising threshold and its items.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// The campaign.
    pub campaign: Campaign,
    /// What it takes off from which amount on.
    pub tiers: Vec<CampaignTier>,
    /// What it is for; everything in its category when there are none.
    pub items: Vec<CampaignItem>,
    /// How many units this buyer may still have at its price; any number when none.
    pub units_left: Option<i64>,
}

/// A part of a line's discounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// What kind.
    pub kind: DiscountKind,
    /// Who pays for it.
    pub funder: Funder,
    /// The campaign, if it is one's.
    pub campaign_id: Option<i64>,
    /// The coupon, if it is one's.
    pub coupon_id: Option<i64>,
    /// How much.
    pub amount_fen: i64,
}

/// What a line of the basket comes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinePrice {
    /// Shelf price of all units.
    pub list_amount_fen: i64,
    /// What it comes to after all discounts.
    pub cash_fen: i64,
    /// How many points pay for it.
    pub points: i64,
    /// How many points it earns.
    pub reward_points: i64,
    /// Its discounts.
    pub parts: Vec<Part>,
}

/// Something given away with the basket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gift {
    /// By which campaign.
    pub campaign_id: i64,
    /// Who pays for it.
    pub funder: Funder,
    /// What.
    pub variant_id: i64,
    /// How many units.
    pub quantity: i64,
}

/// What a basket comes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BasketPrice {
    /// One of each line, in order.
    pub lines: Vec<LinePrice>,
    /// What is given away.
    pub gifts: Vec<Gift>,
    /// What the lines in the coupon's scope came to before it.
    pub coupon_eligible_fen: i64,
    /// What the coupon took off.
    pub coupon_discount_fen: i64,
}

impl Offer {
    /// The entry of the campaign that a line falls under: the variant's own before the product's.
    fn item(&self, line: &BasketLine) -> Option<&CampaignItem> {
        let of_product = || self.items.iter().filter(|item| item.product_id == line.product_id);
        of_product()
            .find(|item| item.variant_id == Some(line.variant_id))
            .or_else(|| of_product().find(|item| item.variant_id.is_none()))
    }

    fn is_for(&self, line: &BasketLine) -> bool {
        self.campaign.category.as_ref().is_none_or(|category| *category == line.category)
            && (self.items.is_empty() || self.item(line).is_some())
    }

    /// The price of one unit of a line.
    fn unit_price(&self, line: &BasketLine) -> Option<i64> {
        let item = self.item(line).filter(|_| self.is_for(line))?;
        let cut = match (item.unit_price_fen, item.percent_off) {
            (Some(price), _) => price,
            (None, Some(percent)) => line.unit_price_fen - line.unit_price_fen * percent / 100,
            (None, None) => return None,
        };
        Some(cut.clamp(0, line.unit_price_fen))
    }
}

/// Prices a basket. `offers` are by rising id; of two that would cut a price alike the first counts, and
/// a line takes part in one full reduction only, the first that it helps to reach.
#[must_use]
pub fn price(lines: &[BasketLine], offers: &[Offer], coupon: Option<&Coupon>) -> BasketPrice {
    let mut basket = BasketPrice {
        lines: lines
            .iter()
            .map(|line| {
                let list_amount_fen = line.unit_price_fen * line.quantity;
                LinePrice { list_amount_fen, cash_fen: list_amount_fen, ..LinePrice::default() }
            })
            .collect(),
        ..BasketPrice::default()
    };
    cut_item_prices(lines, offers, &mut basket);
    reduce(lines, offers, &mut basket);
    if let Some(coupon) = coupon {
        redeem(lines, coupon, &mut basket);
    }
    basket
}

fn cut_item_prices(lines: &[BasketLine], offers: &[Offer], basket: &mut BasketPrice) {
    let mut left: HashMap<i64, i64> = offers
        .iter()
        .filter_map(|offer| Some((offer.campaign.campaign_id, offer.units_left?)))
        .collect();
    for (line, priced) in lines.iter().zip(&mut basket.lines) {
        let best = offers
            .iter()
            .filter(|offer| offer.campaign.kind == CampaignKind::ItemPrice)
            .filter(|offer| {
                left.get(&offer.campaign.campaign_id).is_none_or(|left| *left >= line.quantity)
            })
            .filter_map(|offer| Some((offer.unit_price(line)?, &offer.campaign)))
            .min_by_key(|(price, campaign)| (*price, campaign.campaign_id));
        let Some((unit_price_fen, campaign)) = best else { continue };
        if let Some(left) = left.get_mut(&campaign.campaign_id) {
            *left -= line.quantity;
        }
        priced.take(Part {
            kind: DiscountKind::Item,
            funder: campaign.funder,
            campaign_id: Some(campaign.campaign_id),
            coupon_id: None,
            amount_fen: (line.unit_price_fen - unit_price_fen) * line.quantity,
        });
    }
}

fn reduce(lines: &[BasketLine], offers: &[Offer], basket: &mut BasketPrice) {
    let mut taken = vec![false; lines.len()];
    for offer in offers.iter().filter(|offer| offer.campaign.kind == CampaignKind::FullReduction) {
        let campaign = &offer.campaign;
        let amounts: Vec<i64> = lines
            .iter()
            .zip(&basket.lines)
            .zip(&taken)
            .map(|((line, priced), taken)| match !taken && offer.is_for(line) {
                true => priced.cash_fen,
                false => 0,
            })
            .collect();
        let reached = |amount: i64| offer.tiers.iter().rfind(|t| t.threshold_fen <= amount);
        let Some(tier) = reached(amounts.iter().sum()) else { continue };
        let shares = allocation::split(tier.discount_fen, &amounts);
        for (at, (amount_fen, amount)) in shares.into_iter().zip(&amounts).enumerate() {
            taken[at] |= *amount > 0;
            basket.lines[at].take(Part {
                kind: DiscountKind::FullReduction,
                funder: campaign.funder,
                campaign_id: Some(campaign.campaign_id),
                coupon_id: None,
                amount_fen,
            });
        }
        // Medicines that may not be given away do not earn a gift either.
        let earning = lines
            .iter()
            .zip(&amounts)
            .filter(|(line, _)| may_be_given_away(line.kind, line.otc_class))
            .map(|(_, amount)| amount)
            .sum();
        let gift = reached(earning).and_then(|t| t.gift_variant_id.zip(t.gift_quantity));
        basket.gifts.extend(gift.map(|(variant_id, quantity)| Gift {
            campaign_id: campaign.campaign_id,
            funder: campaign.funder,
            variant_id,
            quantity,
        }));
    }
}

fn redeem(lines: &[BasketLine], coupon: &Coupon, basket: &mut BasketPrice) {
    let amounts: Vec<i64> = lines
        .iter()
        .zip(&basket.lines)
        .map(|(line, priced)| match &coupon.category {
            Some(category) if *category != line.category => 0,
            _ => priced.cash_fen,
        })
        .collect();
    basket.coupon_eligible_fen = amounts.iter().sum();
    basket.coupon_discount_fen = coupon.discount_for(basket.coupon_eligible_fen);
    let shares = allocation::split(basket.coupon_discount_fen, &amounts);
    for (priced, amount_fen) in basket.lines.iter_mut().zip(shares) {
        priced.take(Part {
            kind: DiscountKind::Coupon,
            funder: coupon.funder,
            campaign_id: None,
            coupon_id: Some(coupon.coupon_id),
            amount_fen,
        });
    }
}

impl BasketPrice {
    /// What each line comes to after all discounts so far.
    #[must_use]
    pub fn cash(&self) -> Vec<i64> {
        self.lines.iter().map(|line| line.cash_fen).collect()
    }

    /// Pays with points, of which no more than are usable.
    pub fn pay_with_points(&mut self, points: i64, rules: &PointsRules) {
        let cash = self.cash();
        let shares = rules.split(points.clamp(0, rules.usable(&cash)), &cash);
        for (line, points) in self.lines.iter_mut().zip(shares) {
            line.points = points;
            line.take(Part {
                kind: DiscountKind::Points,
                funder: Funder::Platform,
                campaign_id: None,
                coupon_id: None,
                amount_fen: points * rules.value_fen,
            });
        }
    }

    /// Says how many points each line earns by what is paid for it. Medicines that may not be given away
    /// earn none.
    pub fn reward(&mut self, lines: &[BasketLine], rules: &PointsRules) {
        let paid: Vec<i64> = lines
            .iter()
            .zip(&self.lines)
            .map(|(line, priced)| match may_be_given_away(line.kind, line.otc_class) {
                true => priced.cash_fen,
                false => 0,
            })
            .collect();
        for (line, points) in self.lines.iter_mut().zip(rules.reward(&paid)) {
            line.reward_points = points;
        }
    }
}

impl LinePrice {
    fn take(&mut self, part: Part) {
        if part.amount_fen > 0 {
            self.cash_fen -= part.amount_fen;
            self.parts.push(part);
        }
    }

    /// What cuts of the item's price took off.
    #[must_use]
    pub fn disc_item_fen(&self) -> i64 {
        self.parts.iter().filter(|p| p.kind == DiscountKind::Item).map(|p| p.amount_fen).sum()
    }

    /// What points pay.
    #[must_use]
    pub fn disc_points_fen(&self) -> i64 {
        self.parts.iter().filter(|p| p.kind == DiscountKind::Points).map(|p| p.amount_fen).sum()
    }

    /// The campaign that cut the item's price.
    #[must_use]
    pub fn item_campaign(&self) -> Option<i64> {
        self.parts.iter().find(|p| p.kind == DiscountKind::Item)?.campaign_id
    }

    /// What was taken off behind the item's price, by the column of a line that says who pays for it: a
    /// full reduction is the merchant's, whether of a campaign or of a coupon, and what the platform pays
    /// for is in its own.
    pub(super) fn of_column(&self, column: DiscountColumn, coupon: Option<CouponKind>) -> i64 {
        let of = |part: &Part| match (part.funder, part.kind) {
            (Funder::Platform, _) => DiscountColumn::Platform,
            (Funder::Merchant, DiscountKind::Coupon) if coupon == Some(CouponKind::Percent) => {
                DiscountColumn::CouponMerchant
            }
            (Funder::Merchant, _) => DiscountColumn::FullReduction,
        };
        self.parts
            .iter()
            .filter(|part| !matches!(part.kind, DiscountKind::Item | DiscountKind::Points))
            .filter(|part| of(part) == column)
            .map(|part| part.amount_fen)
            .sum()
    }
}

/// A column of an order's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiscountColumn {
    FullReduction,
    CouponMerchant,
    Platform,
}

#[cfg(test)]
mod tests;
