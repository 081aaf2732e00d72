use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use arrow::datatypes::{DataType, Int64Type};
use medlake_operational::{
    calendar::{DAY_MICROS, SHANGHAI_MICROS},
    mall::{
        coupon_claims::RecordedClaim,
        coupons::{CouponKind, Funder, NewCoupon},
    },
};

use super::recording::{self, Basket, Line, Recording, read_file, texts, values};
use crate::input::recording::JOURNEY_IDS;

/// A day of the shops ends at five in the morning: coupons of a day were used until then.
const DAY_ENDS_MICROS: i64 = 5 * 3600 * 1_000_000;
/// The data does not say what a coupon takes off: 1.00 is the amount most lines have.
const DISCOUNT_FEN: i64 = 100;

/// A campaign's or a coupon's number in the data.
type Number = i64;

/// What households were sent to come with, and which baskets they came with it to.
#[derive(Debug, Default)]
pub(super) struct Coupons {
    /// In the order in which they begin.
    pub(super) campaigns: Vec<Campaign>,
    /// The coupons that a basket used, by its id.
    pub(super) used: HashMap<i64, Vec<i64>>,
    /// How often a coupon was used, and how often it is known in which basket.
    pub(super) redemptions: usize,
    pub(super) with_basket: usize,
}

/// The coupons of a campaign and who has them.
#[derive(Debug)]
pub(super) struct Campaign {
    /// Microseconds since 1970 (UTC).
    pub(super) starts_at: i64,
    pub(super) coupons: Vec<NewCoupon>,
    pub(super) claims: Vec<RecordedClaim>,
}

/// A campaign as it is described.
struct Described {
    number: Number,
    kind: String,
    starts_at: i64,
    /// Exclusive.
    ends_at: i64,
    households: Vec<i64>,
    /// The products of each coupon.
    coupons: BTreeMap<Number, HashSet<i64>>,
    /// Household and coupon, with the beginning of the day.
    redemptions: Vec<(i64, Number, i64)>,
}

impl Coupons {
    /// Reads the four files of the coupons; there are none where the campaigns are not described.
    pub(super) fn read(folder: &Path, recording: &Recording) -> anyhow::Result<Self> {
        if !folder.join("campaign_descriptions.parquet").is_file() {
            return Ok(Self::default());
        }
        let described = describe(folder)?;
        let mut baskets: HashMap<i64, Vec<&Basket>> = HashMap::new();
        for basket in &recording.baskets {
            baskets.entry(basket.household_id).or_default().push(basket);
        }
        let mut coupons = Self::default();
        let (mut coupon_id, mut claim_id) = (JOURNEY_IDS, JOURNEY_IDS);
        for campaign in described {
            let name = format!("campaign {} ({})", campaign.number, campaign.kind);
            let ids: BTreeMap<Number, i64> =
                campaign.coupons.keys().copied().zip(coupon_id + 1..).collect();
            coupon_id += i64::try_from(ids.len())?;
            let new = ids.iter().map(|(number, id)| NewCoupon {
                coupon_id: Some(*id),
                name: format!("{name}, coupon {number}"),
                kind: CouponKind::FullReduction,
                threshold_fen: 0,
                discount_fen: Some(DISCOUNT_FEN),
                percent: None,
                cap_fen: None,
                category: None,
                funder: Funder::Platform,
                claim_needed: true,
                claim_limit: None,
                claim_limit_per_person: None,
                claim_valid_days: None,
                starts_at: campaign.starts_at,
                ends_at: campaign.ends_at,
            });
            let claims = campaign.claims().into_iter().zip(claim_id + 1..);
            let claims: Vec<RecordedClaim> = claims
                .map(|((household_id, number), coupon_claim_id)| RecordedClaim {
                    coupon_claim_id,
                    coupon_id: ids[&number],
                    person_id: JOURNEY_IDS + household_id,
                    claimed_at: campaign.starts_at,
                    expires_at: campaign.ends_at,
                })
                .collect();
            claim_id += i64::try_from(claims.len())?;
            for (household_id, number, day) in &campaign.redemptions {
                let theirs = baskets.get(household_id).map_or(&[][..], Vec::as_slice);
                let products = &campaign.coupons[number];
                coupons.redemptions += 1;
                if let Some(basket) = basket_of(theirs, &recording.lines, *day, products) {
                    coupons.with_basket += 1;
                    coupons.used.entry(basket.basket_id).or_default().push(ids[number]);
                }
            }
            let (starts_at, coupons_of_it) = (campaign.starts_at, new.collect());
            coupons.campaigns.push(Campaign { starts_at, coupons: coupons_of_it, claims });
        }
        Ok(coupons)
    }

    /// What there is to say of them.
    pub(super) fn notes(&self) -> Vec<String> {
        let count = |of: fn(&Campaign) -> usize| self.campaigns.iter().map(of).sum::<usize>();
        if self.campaigns.is_empty() {
            return Vec::new();
        }
        let coupons = format!(
            "{} campaigns with {} coupons, {} of them in somebody's hands",
            self.campaigns.len(),
            count(|campaign| campaign.coupons.len()),
            count(|campaign| campaign.claims.len())
        );
        let used = format!(
            "{} coupons were used, {} of them in a basket that is known",
            self.redemptions, self.with_basket
        );
        vec![coupons, used]
    }
}

impl Described {
    /// Household and coupon of each that was sent. All households of a campaign of type B or C were sent
    /// all of its coupons; of type A those alone are known that were used.
    fn claims(&self) -> Vec<(i64, Number)> {
        let mut used: BTreeMap<(i64, Number), usize> = BTreeMap::new();
        for (household_id, number, _) in &self.redemptions {
            *used.entry((*household_id, *number)).or_default() += 1;
        }
        if self.kind != "Type A" {
            for household_id in &self.households {
                for number in self.coupons.keys() {
                    used.entry((*household_id, *number)).or_insert(1);
                }
            }
        }
        used.into_iter().flat_map(|(claim, times)| std::iter::repeat_n(claim, times)).collect()
    }
}

/// The basket in which a household used a coupon on a day: the first with one of its products that a
/// coupon took something off, or else the first with one of its products.
fn basket_of<'a>(
    baskets: &[&'a Basket],
    lines: &[Line],
    day: i64,
    products: &HashSet<i64>,
) -> Option<&'a Basket> {
    let hours = day + DAY_ENDS_MICROS..day + DAY_MICROS + DAY_ENDS_MICROS;
    let of_coupon = |basket: &Basket| {
        let lines = lines[basket.lines.clone()].iter();
        let of_coupon = lines.filter(|line| products.contains(&line.product_id));
        of_coupon.map(|line| line.coupon_disc_fen == 0).min()
    };
    let baskets = baskets.iter().filter(|basket| hours.contains(&basket.at_micros));
    let baskets = baskets.filter_map(|basket| Some((of_coupon(basket)?, *basket)));
    baskets.min_by_key(|(nothing_off, _)| *nothing_off).map(|(_, basket)| basket)
}

/// The campaigns in the order in which they begin.
fn describe(folder: &Path) -> anyhow::Result<Vec<Described>> {
    let file = |name: &str| folder.join(format!("{name}.parquet"));
    let mut campaigns: BTreeMap<Number, Described> = BTreeMap::new();
    let columns = ["campaign_id", "campaign_type", "start_date", "end_date"];
    read_file(&file("campaign_descriptions"), &columns, |batch| {
        let numbers = values::<Int64Type>(batch, "campaign_id", &DataType::Int64)?;
        let dates = recording::times(batch, "start_date")?
            .into_iter()
            .zip(recording::times(batch, "end_date")?);
        let described = numbers.into_iter().zip(texts(batch, "campaign_type")?).zip(dates);
        campaigns.extend(described.map(|((number, kind), (first_day, last_day))| {
            let campaign = Described {
                number,
                kind: kind.unwrap_or_default(),
                starts_at: first_day - SHANGHAI_MICROS,
                ends_at: last_day - SHANGHAI_MICROS + DAY_MICROS + DAY_ENDS_MICROS,
                households: Vec::new(),
                coupons: BTreeMap::new(),
                redemptions: Vec::new(),
            };
            (number, campaign)
        }));
        Ok(())
    })?;
    let of = |campaigns: &mut BTreeMap<Number, Described>, number, add: &dyn Fn(&mut Described)| {
        let campaign = campaigns.get_mut(&number);
        campaign.map(add).ok_or_else(|| anyhow::anyhow!("campaign {number} is not described"))
    };
    read_file(&file("campaigns"), &["campaign_id", "household_id"], |batch| {
        let numbers = values::<Int64Type>(batch, "campaign_id", &DataType::Int64)?;
        let households = values::<Int64Type>(batch, "household_id", &DataType::Int64)?;
        numbers.into_iter().zip(households).try_for_each(|(number, household)| {
            of(&mut campaigns, number, &|campaign| campaign.households.push(household))
        })
    })?;
    let columns = ["coupon_upc", "product_id", "campaign_id"];
    read_file(&file("coupons"), &columns, |batch| {
        let [upcs, products, numbers] =
            columns.map(|c| values::<Int64Type>(batch, c, &DataType::Int64));
        let rows = upcs?.into_iter().zip(products?).zip(numbers?);
        rows.into_iter().try_for_each(|((upc, product), number)| {
            of(&mut campaigns, number, &|campaign| {
                campaign.coupons.entry(upc).or_default().insert(product);
            })
        })
    })?;
    let columns = ["household_id", "coupon_upc", "campaign_id", "redemption_date"];
    read_file(&file("coupon_redemptions"), &columns, |batch| {
        let integers = |name| values::<Int64Type>(batch, name, &DataType::Int64);
        let households = integers("household_id")?.into_iter().zip(integers("coupon_upc")?);
        let days = recording::times(batch, "redemption_date")?;
        let rows = households.zip(integers("campaign_id")?.into_iter().zip(days));
        rows.into_iter().try_for_each(|((household, upc), (number, day))| {
            of(&mut campaigns, number, &|campaign| {
                campaign.redemptions.push((household, upc, day - SHANGHAI_MICROS));
            })
        })
    })?;
    for campaign in campaigns.values() {
        let unknown =
            campaign.redemptions.iter().find(|(_, upc, _)| !campaign.coupons.contains_key(upc));
        if let Some((_, upc, _)) = unknown {
            anyhow::bail!("campaign {} has no coupon {upc}", campaign.number);
        }
    }
    let mut campaigns: Vec<Described> = campaigns.into_values().collect();
    campaigns.sort_by_key(|campaign| campaign.starts_at);
    Ok(campaigns)
}
