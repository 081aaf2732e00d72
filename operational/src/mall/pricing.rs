use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    allocation,
    coupons::{self, CouponKind, Funder},
};
use crate::database::{Connection, Micros, sql};
use crate::{OperationalError, Scope};

/// The most units of one line.
pub(crate) const QUANTITY_MAX: i64 = 100_000;
/// The most lines of one order.
pub(crate) const LINES_MAX: usize = 500;

/// Where the prices of an order come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pricing {
    /// The product's price now, and the order's coupon split over the lines in its scope.
    Catalogue(Vec<CatalogueLine>),
    /// What a till recorded, taken as it is.
    Recorded(Vec<RecordedLine>),
}

/// A line whose price is the catalogue's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CatalogueLine {
    /// The product.
    pub product_id: i64,
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

/// A line with its price, before it has an id. Recorded lines and catalogue lines end up the same.
pub(crate) async fn price(
    connection: &mut Connection,
    scope: Scope,
    coupon_id: Option<i64>,
    pricing: &Pricing,
) -> Result<Vec<RecordedLine>, OperationalError> {
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
        Pricing::Recorded(lines) => Ok(lines.clone()),
        Pricing::Catalogue(lines) => from_catalogue(connection, scope, coupon_id, lines).await,
    }
}

async fn from_catalogue(
    connection: &mut Connection,
    scope: Scope,
    coupon_id: Option<i64>,
    lines: &[CatalogueLine],
) -> Result<Vec<RecordedLine>, OperationalError> {
    let products: Vec<(i64, i64, String)> =
        sql("select product_id, unit_price_fen, category from product
         where tenant_id = ?1 and product_id in {list}")
        .bind(scope.tenant_id)
        .list(lines.iter().map(|line| line.product_id))
        .all(connection)
        .await?;
    let products: HashMap<i64, (i64, String)> =
        products.into_iter().map(|(id, price, category)| (id, (price, category))).collect();
    let mut priced = Vec::with_capacity(lines.len());
    for line in lines {
        let (unit_price_fen, _) = products
            .get(&line.product_id)
            .ok_or(OperationalError::not_found("product", line.product_id))?;
        priced.push(RecordedLine {
            product_id: line.product_id,
            quantity: line.quantity,
            list_amount_fen: unit_price_fen * line.quantity,
            ..RecordedLine::default()
        });
    }
    let Some(coupon_id) = coupon_id else {
        return Ok(priced);
    };
    let coupon = coupons::find(connection, scope.tenant_id, coupon_id).await?;
    if !(coupon.starts_at..coupon.ends_at).contains(&Micros(scope.now)) {
        return Err(OperationalError::conflict(format!(
            "coupon {coupon_id} is not valid at this time"
        )));
    }
    let amounts: Vec<i64> = priced
        .iter()
        .map(|line| match &coupon.category {
            Some(category) if products[&line.product_id].1 != *category => 0,
            _ => line.list_amount_fen,
        })
        .collect();
    let eligible: i64 = amounts.iter().sum();
    let discount = coupon.discount_for(eligible);
    if eligible < coupon.threshold_fen || eligible == 0 {
        return Err(OperationalError::conflict(format!(
            "coupon {coupon_id} needs lines in its scope of at least {} fen; these come to {eligible}",
            coupon.threshold_fen.max(1)
        )));
    }
    for (line, share) in priced.iter_mut().zip(allocation::split(discount, &amounts)) {
        // The column says who pays: a full reduction that the platform funds is a platform discount.
        *match (coupon.funder, coupon.kind) {
            (Funder::Merchant, CouponKind::FullReduction) => &mut line.disc_full_reduction_fen,
            (Funder::Merchant, CouponKind::Percent) => &mut line.disc_coupon_merchant_fen,
            (Funder::Platform, _) => &mut line.disc_coupon_platform_fen,
        } = share;
    }
    Ok(priced)
}
